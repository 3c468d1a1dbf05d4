"""Reading a linear hypothesis: a matrix, a matrix with values, or equations of names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from formulaic.errors import FormulaicError
from formulaic.utils.constraints import LinearConstraints

from ..arguments import numbers
from ..errors import DataError

# Formulaic's reader takes 1e-3 for a name and a subtraction.
_EXPONENT = re.compile(r"(?<![\w.])(\d+\.?\d*|\.\d+)[eE][+-]?\d+(?![\w.])")


class Restriction(NamedTuple):
    """A linear hypothesis ``R params = q``."""

    R: np.ndarray  # (r, K)  over all parameters
    q: np.ndarray  # (r,)


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
    >>> read_restriction("A[T.b] = 2 * A[T.c], x:A[T.b] = 1",
    ...                  ["x", "A[T.b]", "A[T.c]", "x:A[T.b]"])
    Restriction(R=array([[ 0.,  1., -2.,  0.],
           [ 0.,  0.,  0.,  1.]]), q=array([0., 1.]))
    """
    names = [*fixed_names, *variance_names]
    values: Any = 0.0
    if isinstance(hypothesis, str) or (
        isinstance(hypothesis, list) and hypothesis and isinstance(hypothesis[0], str)
    ):
        text = hypothesis if isinstance(hypothesis, str) else ", ".join(hypothesis)
        matrix, values = _parse(text, names)
    else:
        if isinstance(hypothesis, tuple) and len(hypothesis) == 2:
            hypothesis, values = hypothesis
        matrix = _matrix(hypothesis, len(fixed_names), len(names))
    q = numbers(values, "q", finite=False).reshape(-1)
    if q.size not in (1, len(matrix)) or not np.isfinite(q).all():
        raise DataError(f"q has {q.size} values for {len(matrix)} restrictions, all finite")
    if not np.isfinite(matrix).all() or not np.abs(matrix).max(axis=1, initial=0.0).all():
        raise DataError("every row of the restrictions needs finite entries that are not all zero")
    return Restriction(matrix, np.broadcast_to(q, len(matrix)).copy())


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


def _parse(text: str, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Equations by formulaic's reader, which sees plain identifiers for the names.

    Names such as ``x:A[T.b]`` or ``C(a, Treatment("b"))[T.c]`` hold its operators.
    """
    place = {name: f"_v{i}_" for i, name in enumerate(names)}
    longest = sorted(names, key=len, reverse=True)
    known = "|".join(f"`{re.escape(n)}`|(?<![\\w.`]){re.escape(n)}(?![\\w.`])" for n in longest)
    plain = re.sub(known, lambda found: place[found[0].strip("`")], text) if names else text
    plain = _EXPONENT.sub(lambda found: np.format_float_positional(float(found[0])), plain)
    equations = []
    for part in plain.split(",") if plain.strip() else ("=",):
        sides = part.split("=")
        if len(sides) == 1:
            equations.append(part)
        equations += [f"{a} = {b}" for a, b in pairwise(sides)]  # a = b = c
    try:
        read = LinearConstraints.from_spec(equations, variable_names=list(place.values()))
    except (
        FormulaicError,
        KeyError,
        RuntimeError,
        ValueError,
        TypeError,
        SyntaxError,
        ArithmeticError,
        IndexError,
        AttributeError,
    ) as error:
        raise DataError(
            f"cannot read the hypothesis {text!r}: write equations of parameters, separated by "
            f"commas; they are {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"
        ) from error
    return (
        np.asarray(read.constraint_matrix, dtype=np.float64),
        np.asarray(read.constraint_values, dtype=np.float64),
    )
