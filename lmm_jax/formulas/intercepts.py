"""The intercept of a sum: in R the last `0`, `1` or `- 1` decides, inside of brackets as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .tokens import Item


class Number(NamedTuple):
    """A `0` or `1` among terms."""

    there: bool  # an intercept, by its sign and those of the brackets around it
    inside: bool  # of brackets, where formulaic does not look


def numbers_among(items: Sequence[Item], sign: str = "") -> list[Number]:
    """The intercepts of a term, or of a sum, that has a sign before it."""
    if not any(item.kind == "value" for item in items):
        return []
    found: list[Number] = []
    outer, minus, before = [sign == "-"], False, ""
    for item in items:
        if item.text == "(":
            outer.append(outer[-1] != minus)
            minus = False
        elif item.text == ")":
            outer.pop()
        elif item.text in ("+", "-"):
            again = before in ("+", "-")
            minus = (minus and again) != (item.text == "-")
        elif item.kind == "value" and before not in ("^", "**"):
            found.append(Number((item.text == "1") != (outer[-1] != minus), len(outer) > 1))
        before = item.text
    return found


def decided(numbers: Sequence[Number]) -> str:
    """What a sum ends with that has numbers in brackets: ` + 1` or ` - 1`; otherwise nothing."""
    if not any(number.inside for number in numbers):
        return ""
    return " + 1" if numbers[-1].there else " - 1"
