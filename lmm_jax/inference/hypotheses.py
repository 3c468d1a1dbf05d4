"""Reading a linear hypothesis: a matrix, a matrix with values, or equations of names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise, permutations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from formulaic.errors import FormulaicError
from formulaic.utils.constraints import LinearConstraints

from ..errors import DataError
from ..inputs.arguments import numbers, shown

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
# Characters of an equation that names its row.
_LONGEST = 60


class Restriction(NamedTuple):
    """A linear hypothesis ``R params = q``."""

    R: np.ndarray  # (r, K)  over all parameters
    q: np.ndarray  # (r,)
    labels: tuple[str, ...] = ()  # (r,)  the equations as they were asked for


def read_restriction(
    hypothesis: Any, fixed_names: Sequence[str], variance_names: Sequence[str] = ()
) -> Restriction:
    """A hypothesis as ``R params = q`` over fixed effects and variance parameters.

    Parameters
    ----------
    hypothesis : array, tuple or str
        ``R`` over the fixed effects or over all parameters, with ``q = 0``; the
        pair ``(R, q)``; or equations such as ``"x1 = x2, x3 = 0"``, also as a list.
    fixed_names, variance_names : sequence of str
        Names of the parameters; without ``variance_names`` only fixed effects
        can be restricted.

    Returns
    -------
    Restriction
        Over all K parameters.

    Examples
    --------
    >>> at = read_restriction("A[T.b] = 2 * A[T.c], A[T.b]:x = 1",
    ...                       ["x", "A[T.b]", "A[T.c]", "x:A[T.b]"])
    >>> at.R.tolist(), at.q.tolist()
    ([[0.0, 1.0, -2.0, 0.0], [0.0, 0.0, 0.0, 1.0]], [0.0, 1.0])
    >>> at.labels
    ('A[T.b] = 2 * A[T.c]', 'A[T.b]:x = 1')
    """
    names = [*fixed_names, *variance_names]
    values: Any = 0.0
    labels: tuple[str, ...] = ()
    if isinstance(hypothesis, str) or (
        isinstance(hypothesis, list) and hypothesis and isinstance(hypothesis[0], str)
    ):
        parts = [hypothesis] if isinstance(hypothesis, str) else hypothesis
        if not all(isinstance(part, str) for part in parts):
            raise DataError(f"r_matrix={shown(hypothesis)}: equations only, or numbers only")
        text = ", ".join(parts)
        matrix, values, labels = _parse(text, names)
    else:
        if isinstance(hypothesis, tuple) and len(hypothesis) == 2:
            hypothesis, values = hypothesis
        matrix = _matrix(_by_label(hypothesis, names), len(fixed_names), len(names))
    q = numbers(values, "q", finite=False).reshape(-1)
    if q.size not in (1, len(matrix)) or not np.isfinite(q).all():
        raise DataError(f"q has {q.size} values for {len(matrix)} restrictions, all finite")
    if not np.isfinite(matrix).all() or not np.abs(matrix).max(axis=1, initial=0.0).all():
        raise DataError("every row of the restrictions needs finite entries that are not all zero")
    q = np.broadcast_to(q, len(matrix)).copy()
    return Restriction(matrix, q, labels or _combinations(matrix, q, names))


def _by_label(given: Any, names: Sequence[str]) -> Any:
    """Rows in the order of the parameters, where they come with labels; what is left out is 0."""
    if isinstance(given, Mapping):
        given = pd.Series(given)
    if not isinstance(given, pd.Series | pd.DataFrame):
        return given
    labels = given.index if isinstance(given, pd.Series) else given.columns
    if isinstance(labels, pd.RangeIndex):
        return given.to_numpy()
    unknown = [label for label in labels if label not in names]
    if unknown or not labels.is_unique:
        what = f"no parameter {shown(unknown[0])}" if unknown else "a label twice"
        raise DataError(f"r_matrix has {what}: the parameters are {', '.join(names[:12])}")
    table = given.to_frame().T if isinstance(given, pd.Series) else given
    return table.reindex(columns=list(names), fill_value=0.0).to_numpy()


def _matrix(given: Any, n_fixed: int, n_all: int) -> np.ndarray:
    """R with a column a parameter, from one that may leave the variances out."""
    R = np.atleast_2d(numbers(given, "r_matrix", finite=False))
    if R.ndim != 2 or R.shape[0] == 0 or R.shape[1] not in (n_fixed, n_all):
        raise DataError(
            f"r_matrix has the shape {R.shape}: one column for each of the {n_fixed} fixed effects"
            + (f" (or of all {n_all} parameters)" if n_all > n_fixed else "")
            + " is needed"
        )
    return np.hstack([R, np.zeros((len(R), n_all - R.shape[1]))])


class _Equation(NamedTuple):
    """One equation, as formulaic's reader gets it and as it was asked for."""

    plain: str
    asked: str


def _parse(text: str, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Equations by formulaic's reader, which sees plain identifiers for the names.

    Names such as ``x:A[T.b]`` or ``C(a, Treatment("b"))[T.c]`` hold its operators. The parts of
    an interaction may stand in any order.
    """
    spellings = _spellings(names)
    longest = sorted(spellings, key=len, reverse=True)
    known = "|".join(f"`{re.escape(n)}`|(?<![\\w.`]){re.escape(n)}(?![\\w.`])" for n in longest)
    found: list[str] = []

    def replaced(match: re.Match[str]) -> str:
        found.append(match[0])
        return f"_v{spellings[match[0].strip('`')]}_"

    plain = re.sub(known, replaced, text) if names else text
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
        asked = [_PLACE.sub(lambda _: next(names).strip("`"), side).strip() for side in sides]
        sides = [_EXPONENT.sub(lambda m: np.format_float_positional(float(m[0])), s) for s in sides]
        if len(sides) == 1:
            out.append(_Equation(part if part == sides[0] else sides[0], asked[0]))
        pairs = zip(pairwise(sides), pairwise(asked), strict=True)
        out += [_Equation(f"{a} = {b}", f"{x} = {y}") for (a, b), (x, y) in pairs]
    return out


def _spellings(names: Sequence[str]) -> dict[str, int]:
    """Number of the parameter by its name and, for interactions, by the name in another order."""
    out = {name: i for i, name in enumerate(names)}
    for i, name in enumerate(names):
        parts = _COLON.split(name)
        if 1 < len(parts) <= _MOST_PARTS:
            for order in permutations(parts):
                out.setdefault(":".join(order), i)
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


def _combinations(R: np.ndarray, q: np.ndarray, names: Sequence[str]) -> tuple[str, ...]:
    """The rows of a restriction written as equations."""
    out = []
    for i, (row, value) in enumerate(zip(R, q, strict=True)):
        terms = [(f"{abs(row[j]):g} * " if abs(row[j]) != 1 else "") + names[int(j)]
                 for j in np.flatnonzero(row)]  # fmt: skip
        signs = np.where(row[row != 0] < 0, "-", "+")
        text = " ".join(f"{sign} {term}" for sign, term in zip(signs, terms, strict=True))
        text = text.removeprefix("+ ") + (f" = {value:g}" if value else "")
        out.append(text if len(text) <= _LONGEST else f"c{i}")
    return tuple(out)
