"""The sum of the squares of X exactly, where sparse products can be afforded; on the host.

Most of the variance of a trace that probes estimate is that of ``tr X^2 = |X|^2``.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from ...numerics.sparse_rows import matrix
from .arrays import MatrixFreeArrays
from .reduced import Reduced

# Products of entries worked off at a time: 16 bytes each, and 4 for where they stand.
_MOST_PRODUCTS = 1 << 25


class Squares(NamedTuple):
    """Sums over the pairs of levels of the one term that is left, ``X = -Lambda^2 Y / (L L')``."""

    total: Any  # ()    |X|^2
    rows: Any  # (N,)   the same row by row
    half: tuple[Any, ...]  # (1, 1) a term: a quarter of the derivative of |X|^2 at fixed D


def products(layout: MatrixFreeArrays) -> int:
    """Products of entries in one evaluation: pairs of levels that an eliminated level joins."""
    e = layout.first
    link = layout.linked[0]
    starts = np.asarray((link.at if link.pair[0] == e else link.back).starts)
    return int(np.sum(np.diff(starts).astype(np.int64) ** 2))


def fits(layout: MatrixFreeArrays) -> bool:
    """Whether there are two terms with one coefficient each."""
    return len(layout.blocks) == 2 and all(size == 1 for size in layout.sizes)


def squares(at: Reduced, layout: MatrixFreeArrays) -> Squares:
    """Sums of squares of ``Y = C h C'`` off the diagonal, and its derivative, by NumPy alone.

    Y is linear in ``h = Lambda^2 / B``, so that complex values ``h + i dh`` give both by one
    sparse product.
    """
    e, (t,) = layout.first, layout.rest
    link = layout.linked[0]
    own = link.pair[0] == t
    C = matrix(link.values[0, 0], link.at) if own else matrix(link.values_back[0, 0], link.back)
    Ct = matrix(link.values_back[0, 0], link.back) if own else matrix(link.values[0, 0], link.at)
    Ct = Ct.astype(complex)
    h = at.H[0, 0] + 1j * at.inverse[0, 0] ** 2
    scale = at.Li[0][0, 0] ** 2  # 1 / D
    rows, slopes = np.zeros(C.shape[0]), np.zeros(C.shape[0])
    widths = np.diff(Ct.indptr)
    work = np.concatenate([[0], np.cumsum(_row_sums(C, widths))])
    edges = np.searchsorted(work, np.arange(0, work[-1], _MOST_PRODUCTS))
    edges = np.unique(np.append(edges, C.shape[0]))
    for first, last in pairwise(edges):
        part = C[first:last].astype(complex)
        part.data *= h[part.indices]
        Y = part @ Ct
        weight = Y.data.real * scale[Y.indices]
        rows[first:last] = _sums(Y.data.real * weight, Y.indptr)
        slopes[first:last] = _sums(Y.data.imag * weight, Y.indptr)
    own_Y = (layout.blocks[t] - at.A[0])[0, 0]  # the diagonal
    squared = C.copy()
    squared.data **= 2
    rows -= own_Y**2 * scale
    slopes -= own_Y * (squared @ h.imag) * scale
    L_e, L_t = at.factors[e][0, 0], at.factors[t][0, 0]
    m0, m1 = scale @ rows, scale @ slopes
    half = {e: L_t**4 * m1 * L_e, t: L_t**3 * m0}
    return Squares(
        total=L_t**4 * m0,
        rows=L_t**4 * rows * scale,
        half=tuple(np.reshape(half[s], (1, 1)) for s in range(2)),
    )


def _row_sums(C: scipy.sparse.csr_array, widths: np.ndarray) -> np.ndarray:
    return _sums(widths[C.indices], C.indptr)


def _sums(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Sums of the entries of each row; empty rows give zero."""
    there = starts[1:] > starts[:-1]
    out = np.zeros(there.size, values.dtype)
    out[there] = np.add.reduceat(values, starts[:-1][there])
    return out
