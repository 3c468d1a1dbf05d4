"""Equations of parameters, ``x1 = x2, x3 = 0``, as a matrix and values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
from formulaic.errors import FormulaicError
from formulaic.utils.constraints import LinearConstraints

from ..errors import DataError
from ..inputs.names import as_named, meant, spellings

# Formulaic's reader takes 1e-3 for a name and a subtraction.
_EXPONENT = re.compile(r"(?<![\w.])(\d+\.?\d*|\.\d+)[eE][+-]?\d+(?![\w.])")

# Placeholders for names, and words between operators; what stands in brackets or backticks
# belongs to its word.
_PLACE = re.compile(r"_v\d+_")
_WORD = re.compile(r"(?:\[[^\]]*\]|`[^`]*`|[^\s+\-*/=,()\[`])+")
_NUMBER = re.compile(r"\d+\.?\d*|\.\d+")
# What formulaic's names have and R's lack.
_DECORATION = re.compile(r"\[T\.|[\[\]`]")


class _Equation(NamedTuple):
    """One equation, as formulaic's reader gets it and as it was asked for."""

    plain: str
    asked: str


def read_equations(
    text: str, names: Sequence[str], terms: Mapping[str, Sequence[str]]
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Equations by formulaic's reader, which sees plain identifiers for the names.

    Names such as ``x:A[T.b]`` or ``C(a, Treatment("b"))[T.c]`` hold its operators. The parts of
    an interaction may stand in any order, and names between backticks or quotes; functions have
    R's names or ours. A term of ``terms`` stands for an equation of each of its coefficients.
    """
    known, places = spellings(names), {name: i for i, name in enumerate(names)}
    if all(as_named(name) == name for name in names):  # or a column is called `factor(a)`
        text = as_named(text)
    text = _of_coefficients(text, known, terms)
    spelled, found = _one_of(known), []

    def replaced(match: re.Match[str]) -> str:
        found.append(match[1] or match[3])
        return f"_v{places[known[found[-1]]]}_"

    pattern = rf"(?<![\w.`])({spelled})(?![\w.`])|([`'\"])({spelled})\2"
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
        raise _unreadable(text, unknown, names, known, tuple(terms)) from error
    return (
        np.asarray(read.constraint_matrix, dtype=np.float64),
        np.asarray(read.constraint_values, dtype=np.float64),
        tuple(equation.asked for equation in equations),
    )


def _unreadable(
    text: str,
    unknown: str,
    names: Sequence[str],
    known: Mapping[str, str],
    terms: Sequence[str],
) -> DataError:
    """What to say of a hypothesis that is no set of linear equations."""
    near = _suggestion([unknown, text.split("=")[0]], known)
    hint = f"there is no {unknown!r}{near}; " if unknown else ""
    listed = f"they are {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"
    if terms:
        listed += f"; terms are {', '.join(terms[:12])}{', ...' if len(terms) > 12 else ''}"
    return DataError(
        f"cannot read the hypothesis {text!r}: {hint}write linear equations of parameters, "
        "separated by commas (anything else as a function, lmm.hypotheses(res, lambda p: …)); "
        f"{listed if names else 'the model has none'}"
    )


def _one_of(spelled: Iterable[str]) -> str:
    """Pattern of any of some names, a longer one before one that it begins with."""
    return "|".join(map(re.escape, sorted(spelled, key=len, reverse=True)))


def _of_coefficients(
    text: str, known: Mapping[str, str], terms: Mapping[str, Sequence[str]]
) -> str:
    """Equations in which terms give way to their coefficients, where no coefficient is meant."""
    spelled = spellings(terms, chain.from_iterable(terms.values()))
    own = {key: name for key, name in spelled.items() if key not in known}
    if not own:
        return text

    def replaced(match: re.Match[str]) -> str:
        before, _, term, value = match.groups()
        return before + ", ".join(f"{name}{value}" for name in terms[own[term]])

    return re.sub(rf"(^|,\s*)\s*([`'\"]?)({_one_of(own)})\2\s*(=[^=,]*|)(?=,|$)", replaced, text)


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


def _unknown(equations: Sequence[_Equation]) -> str:
    """The first word of the equations that is neither a parameter nor a number, as it stood."""
    for equation in equations:
        for word in _WORD.findall(_PLACE.sub(" ", equation.plain)):
            if not _NUMBER.fullmatch(word):
                whole = [w for w in _WORD.findall(equation.asked) if word in w]
                return str(whole[0] if whole else word)
    return ""


def _suggestion(words: Sequence[str], known: Mapping[str, str]) -> str:
    """Parameters that resemble a word: R's ``SexFemale`` is ``Sex[T.Female]`` here."""
    bare = {_DECORATION.sub("", spelling).lower(): name for spelling, name in known.items()}
    for word in words:
        near = get_close_matches(_DECORATION.sub("", word).lower(), list(bare), 3)
        if near:
            return f" (did you mean {' or '.join(dict.fromkeys(bare[key] for key in near))}?)"
    return ""


def parameter_number(name: str, names: Sequence[str], what: str) -> int:
    """Number of a parameter by its name, as equations may have it."""
    found = meant(name, names)
    if found is None:
        near = _suggestion([as_named(str(name))], spellings(names))
        listed = f"there are {', '.join(names)}" if names else "the model has none"
        raise DataError(f"no {what} {name!r}{near}: {listed}")
    return list(names).index(found)
