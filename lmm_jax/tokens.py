"""Formulas as tokens, and what brackets and operators make of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from formulaic.errors import FormulaicError
from formulaic.parser.algos.tokenize import tokenize

from .errors import FormulaError
from .expressions import to_python


class Item(NamedTuple):
    """One token of a formula."""

    text: str  # as written
    kind: str  # name, python, value, operator or context, as formulaic has them
    start: int


_OPERATOR = re.compile(r"\|\||\*\*|%[^%]*%|\S")
_CLOSES = {")": "(", "]": "[", "}": "{"}


def _check_balance(text: str) -> None:
    """Raise at the first bracket or quote that has no partner."""
    opened: list[tuple[str, int]] = []
    skip = False
    for i, char in enumerate(text):
        inside = opened[-1][0] if opened and opened[-1][0] in "\"'`" else ""
        if skip or (inside and char == "\\"):
            skip = not skip
        elif inside:
            if char == inside:
                opened.pop()
        elif char in "\"'`([{":
            opened.append((char, i))
        elif char in _CLOSES:
            if not opened or opened[-1][0] != _CLOSES[char]:
                raise FormulaError(f"`{char}` closes nothing: remove it", text, i)
            opened.pop()
    if opened:
        raise FormulaError(f"`{opened[-1][0]}` is never closed", text, opened[-1][1])


def lex(text: str) -> list[Item]:
    """Tokens of a formula, with every operator a token of its own."""
    if not text.strip():
        raise FormulaError("empty formula: write `response ~ terms`", text, 0)
    if "``" in text:
        raise FormulaError("no name between the backticks", text, text.index("``"))
    _check_balance(text)
    try:
        tokens = list(tokenize(text))
    except FormulaicError as error:
        raise syntax_error(error, text) from error
    starts = [int(token.source_start or 0) for token in tokens]
    items: list[Item] = []
    for token, start, stop in zip(tokens, starts, [*starts[1:], len(text)], strict=True):
        raw, kind = text[start:stop].rstrip(), str(token.kind.value)
        if kind == "operator":
            items += [Item(m.group(), kind, start + m.start()) for m in _OPERATOR.finditer(raw)]
        else:
            items.append(Item(raw, kind, start))
    for item in items:
        if item.text == ".":
            raise FormulaError("`.` is not supported: name the columns", text, item.start)
    return items


def syntax_error(error: Exception, text: str) -> FormulaError:
    """Formulaic's error as ours; it marks the place with a bracket in the formula."""
    if isinstance(error, SyntaxError):
        return FormulaError(f"a term cannot be read as an expression ({error.msg})", text)
    message, _, shown = str(error).partition("\n\n")
    position = shown.find("⧛")
    return FormulaError(message, text, position if position >= 0 else None)


def render(items: Sequence[Item], text: str) -> str:
    """Translated text of consecutive tokens, with the blanks that were between them."""
    out, stop = "", items[0].start
    for item in items:
        code = item.kind in ("name", "python")
        out += text[stop : item.start] + (to_python(item.text) if code else item.text)
        stop = item.start + len(item.text)
    return out


def depths(items: Sequence[Item]) -> Iterator[tuple[Item, int]]:
    """Each token with the number of brackets around it; a bracket counts as outside itself."""
    depth = 0
    for item in items:
        closing = item.kind == "context" and item.text in ")]"
        depth -= closing
        yield item, depth
        depth += item.kind == "context" and not closing


def split(items: Sequence[Item], signs: str, text: str) -> list[tuple[str, list[Item]]]:
    """Operands at the outermost level, each with the operator before it ("" for the first)."""
    out: list[tuple[str, list[Item]]] = [("", [])]
    last: Item | None = None
    for item, depth in depths(items):
        if depth or item.kind != "operator" or item.text not in signs:
            out[-1][1].append(item)
            continue
        last = item
        if out[-1][1]:
            out.append((item.text, []))
        elif signs == "+-":  # a sign before a term, or two in a row
            out[-1] = ("-" if (out[-1][0] == "-") != (item.text == "-") else "+", [])
        else:
            raise FormulaError(f"nothing stands before `{item.text}`", text, item.start)
    if last is not None and not out[-1][1]:
        raise FormulaError(f"nothing follows `{last.text}`", text, last.start)
    return out


def is_wrapped(items: Sequence[Item]) -> bool:
    """Whether one pair of round brackets holds everything."""
    inside = [depth for _, depth in depths(items)][1:-1]
    return items[0].text == "(" and items[-1].text == ")" and min(inside, default=1) > 0
