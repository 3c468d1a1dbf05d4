"""Reading a linear hypothesis: a matrix, a matrix with values, or equations of names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from ..formulas.equations import read_equations
from ..inputs.arguments import numbers, shown
from ..inputs.by_label import in_order, row_names

# Characters of an equation that names its row.
_LONGEST = 60


class Restriction(NamedTuple):
    """A linear hypothesis ``R params = q``."""

    R: np.ndarray  # (r, K)  over all parameters
    q: np.ndarray  # (r,)
    labels: tuple[str, ...] = ()  # (r,)  the equations as they were asked for


def read_restriction(
    hypothesis: Any,
    fixed_names: Sequence[str],
    variance_names: Sequence[str] = (),
    *,
    terms: Mapping[str, Sequence[str]],
) -> Restriction:
    """A hypothesis as ``R params = q`` over fixed effects and variance parameters.

    Parameters
    ----------
    hypothesis : array, tuple or str
        ``R`` over the fixed effects or over all parameters, with ``q = 0``; equations such as
        ``"x1 = x2, x3 = 0"``, also as a list; or a pair of either and q, ``("x1, x2", [1, 2])``.
    fixed_names, variance_names : sequence of str
        Names of the parameters; without ``variance_names`` only fixed effects
        can be restricted.
    terms : mapping of str to sequence of str
        Fixed effects of terms, which equations may name in their place.

    Returns
    -------
    Restriction
        Over all K parameters.

    Examples
    --------
    >>> at = read_restriction("A[T.b] = 2 * A[T.c], A[T.b]:x = 1",
    ...                       ["x", "A[T.b]", "A[T.c]", "x:A[T.b]"], terms={})
    >>> at.R.tolist(), at.q.tolist()
    ([[0.0, 1.0, -2.0, 0.0], [0.0, 0.0, 0.0, 1.0]], [0.0, 1.0])
    >>> at.labels
    ('A[T.b] = 2 * A[T.c]', 'A[T.b]:x = 1')
    """
    names = [*fixed_names, *variance_names]
    values: Any = 0.0
    labels: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    given = isinstance(hypothesis, tuple) and len(hypothesis) == 2
    if given:
        hypothesis, values = hypothesis
    if isinstance(hypothesis, str) or (
        isinstance(hypothesis, list) and hypothesis and isinstance(hypothesis[0], str)
    ):
        parts = [hypothesis] if isinstance(hypothesis, str) else hypothesis
        if not all(isinstance(part, str) for part in parts):
            raise DataError(f"r_matrix={shown(hypothesis)}: equations only, or numbers only")
        matrix, own, labels = read_equations(", ".join(parts), names, terms)
        rows = labels
        if not given:
            values = own
        elif own.any():
            raise DataError(f"r_matrix={shown(hypothesis)} has values: pass these, or q")
        else:
            labels = ()
    else:
        matrix = in_order(hypothesis, names, "r_matrix")
        matrix = _matrix(matrix, len(fixed_names), len(names))
        rows = row_names(hypothesis)
    rows = rows or tuple(map(str, range(len(matrix))))
    values = in_order(values, rows, "q", whole=True)
    q = numbers(values, "q", finite=False).reshape(-1)
    if q.size not in (1, len(matrix)) or not np.isfinite(q).all():
        raise DataError(f"q has {q.size} values for {len(matrix)} restrictions, all finite")
    if not np.isfinite(matrix).all() or not np.abs(matrix).max(axis=1, initial=0.0).all():
        raise DataError("every row of the restrictions needs finite entries that are not all zero")
    q = np.broadcast_to(q, len(matrix)).copy()
    return Restriction(matrix, q, labels or _combinations(matrix, q, names))


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
