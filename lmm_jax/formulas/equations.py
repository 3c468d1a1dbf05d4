"""Equations of parameters, ``x1 = x2, x3 = 0``, as a matrix and values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise, permutations
from typing import NamedTuple

import numpy as np
from formulaic.errors import FormulaicError
from formulaic.utils.constraints import LinearConstraints

from ..errors import DataError

# Formulaic's reader takes 1e-3 for a name and a subtraction.
_EXPONENT = re.compile(r"(?<![\w.])(\d+\.?\d*|\.\d+)[eE][+-]?\d+(?![\w.])")

# Placeholders for names, colons that join the parts of an interaction, and words between
# operators; what stands in brackets or backticks belongs to its word.
_PLACE = re.compile(r"_v\d+_")
_COLON = re.compile(r":(?![^\[(]*[\])])")
_WORD = re.compile(r"(?:\[[^\]]*\]|`[^`]*`|[^\s+\-*/=,()\[`])+")
_NUMBER = re.compile(r"\d+\.?\d*|\.\d+")
# What formulaic's names have and R's lack.
_DECORATION = re.compile(r"\[T\.|[\[\]`]")
# Parts of an interaction that are tried in every order.
_MOST_PARTS = 5


class _Equation(NamedTuple):
    """One equation, as formulaic's reader gets it and as it was asked for."""

    plain: str
    asked: str


def read_equations(
    text: str, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Equations by formulaic's reader, which sees plain identifiers for the names.

    Names such as ``x:A[T.b]`` or ``C(a, Treatment("b"))[T.c]`` hold its operators. The parts of
    an interaction may stand in any order, and names between backticks or quotes.
    """
    spellings = _spellings(names)
    known = "|".join(map(re.escape, sorted(spellings, key=len, reverse=True)))
    found: list[str] = []

    def replaced(match: re.Match[str]) -> str:
        found.append(match[1] or match[3])
        return f"_v{spellings[found[-1]]}_"

    pattern = rf"(?<![\w.`])({known})(?![\w.`])|([`'\"])({known})\2"
    plain = re.sub(pattern, replaced, text) if names else text
    equations = _equations(plain, found)
    unknown = _unknown(equations)
    try:
        if unknown:
            raise ValueError(unknown)
        read = LinearConstraints.from_spec(
            [equation.plain for equation in equations],
            variable_names=[f"_v{i}_" for i in range(len(names))],
        )
    except (
        *(FormulaicError, KeyError, RuntimeError, ValueError, TypeError, SyntaxError),
        *(ArithmeticError, IndexError, AttributeError),
    ) as error:
        near = _suggestion([unknown, text.split("=")[0]], spellings, names)
        hint = f"there is no {unknown!r}{near}; " if unknown else ""
        listed = f"they are {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"
        raise DataError(
            f"cannot read the hypothesis {text!r}: {hint}write equations of parameters, separated "
            f"by commas; {listed if names else 'the model has none'}"
        ) from error
    return (
        np.asarray(read.constraint_matrix, dtype=np.float64),
        np.asarray(read.constraint_values, dtype=np.float64),
        tuple(equation.asked for equation in equations),
    )


def _equations(plain: str, found: Sequence[str]) -> list[_Equation]:
    """Equations between commas; ``a = b = c`` are two. ``found`` has the names as they stood."""
    names = iter(found)
    out = []
    for part in plain.split(",") if plain.strip() else ("=",):
        sides = part.split("=")
        asked = [_PLACE.sub(lambda _: next(names), side).strip() for side in sides]
        sides = [_EXPONENT.sub(lambda m: np.format_float_positional(float(m[0])), s) for s in sides]
        if len(sides) == 1:
            out.append(_Equation(part if part == sides[0] else sides[0], asked[0]))
        pairs = zip(pairwise(sides), pairwise(asked), strict=True)
        out += [_Equation(f"{a} = {b}", f"{x} = {y}") for (a, b), (x, y) in pairs]
    return out


def _spellings(names: Sequence[str]) -> dict[str, int]:
    """Number of the parameter by its name, and by what else it may be called.

    The parts of an interaction have any order; powers are R's, and blanks are left out of calls:
    ``I(x^2)`` and ``I(x**2)`` for ``I(x ** 2)``.
    """
    out = {name: i for i, name in enumerate(names)}
    for i, name in enumerate(names):
        parts = _COLON.split(name)
        orders = permutations(parts) if 1 < len(parts) <= _MOST_PARTS else [parts]
        for order in map(":".join, orders):
            out.setdefault(order, i)
            if "(" in name:
                for text in (order.replace(" ** ", "^"), order.replace(" ", "")):
                    out.setdefault(text, i)
                    out.setdefault(text.replace("**", "^"), i)
    return out


def _unknown(equations: Sequence[_Equation]) -> str:
    """The first word of the equations that is neither a parameter nor a number, as it stood."""
    for equation in equations:
        for word in _WORD.findall(_PLACE.sub(" ", equation.plain)):
            if not _NUMBER.fullmatch(word):
                whole = [w for w in _WORD.findall(equation.asked) if word in w]
                return str(whole[0] if whole else word)
    return ""


def _suggestion(words: Sequence[str], spellings: Mapping[str, int], names: Sequence[str]) -> str:
    """Parameters that resemble a word: R's ``SexFemale`` is ``Sex[T.Female]`` here."""
    bare = {_DECORATION.sub("", spelling).lower(): i for spelling, i in spellings.items()}
    for word in words:
        near = get_close_matches(_DECORATION.sub("", word).lower(), list(bare), 3)
        if near:
            hits = dict.fromkeys(names[bare[key]] for key in near)
            return f" (did you mean {' or '.join(hits)}?)"
    return ""


def parameter_number(name: str, names: Sequence[str], what: str) -> int:
    """Number of a parameter by its name, the parts of an interaction in any order."""
    spellings = _spellings(names)
    if not isinstance(name, str) or name not in spellings:
        near = _suggestion([str(name)], spellings, names)
        listed = f"there are {', '.join(names)}" if names else "the model has none"
        raise DataError(f"no {what} {name!r}{near}: {listed}")
    return spellings[name]
