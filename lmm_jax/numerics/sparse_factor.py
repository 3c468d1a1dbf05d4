"""``L D L'`` of a sparse symmetric matrix, its inverse where the factor has entries, and solves.

NumPy, on the host. Storage and rounds are those of :mod:`.elimination`. All operations are
analytic: a matrix with an infinitesimal imaginary part carries a derivative along.

References
----------
Takahashi, Fagan & Chin (1973); Squire & Trapp (1998), doi:10.1137/S003614459631241X (derivatives
by an imaginary step).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from .elimination import Elimination, Round
from .inverses import spd_inverse


class SparseFactor(NamedTuple):
    """A factorized matrix."""

    plan: Elimination
    d: np.ndarray  # (n - t,) pivots
    lower: np.ndarray  # (E,) entries of the unit lower triangular L
    tail: np.ndarray  # (t, t) inverse of what remains at the tail
    logdet: float

    def solve(self, x: np.ndarray) -> np.ndarray:
        """``A^-1 x`` for columns in the order of the matrix, (n, C)."""
        plan, m = self.plan, self.plan.n_pivots
        out = np.empty_like(x)
        out[plan.position] = x
        parts = [(r, self._below(r)) for r in plan.rounds]
        for r, below in parts:
            out[r.columns.stop :] -= below @ out[r.columns]
        out[:m] /= self.d[:, None]
        out[m:] = self.tail @ out[m:]
        for r, below in reversed(parts):
            out[r.columns] -= below.T @ out[r.columns.stop :]
        return np.asarray(out[plan.position])

    def _below(self, r: Round) -> scipy.sparse.csc_array:
        """L below the columns of a round."""
        plan = self.plan
        n = plan.position.size
        starts = plan.starts[r.columns.start : r.columns.stop + 1] - r.entries.start
        rows = plan.rows[r.entries] - np.int32(r.columns.stop)
        shape = (n - r.columns.stop, r.columns.stop - r.columns.start)
        return scipy.sparse.csc_array((self.lower[r.entries], rows, starts), shape=shape)


def factor_sparse(values: np.ndarray, plan: Elimination) -> SparseFactor:
    """Factorize a positive definite matrix given in its storage, real or with a derivative."""
    v, m, E, t = values.copy(), plan.n_pivots, plan.rows.size, plan.n_tail
    lower = np.empty(E, v.dtype)
    for r in plan.rounds:
        own = v[m + r.entries.start : m + r.entries.stop]
        entry = own / v[plan.columns[r.entries]]
        lower[r.entries] = entry
        v[r.target] -= _sums(r.cell, entry[r.left] * own[r.right], r.target.size)
    rest = v[m + E :].reshape(t, t)
    rest = np.tril(rest) + np.tril(rest, -1).T
    inverse, logdet = _dense_inverse(rest)
    return SparseFactor(plan, v[:m], lower, inverse, float(np.log(v[:m].real).sum()) + logdet)


def inverse_entries(at: SparseFactor) -> np.ndarray:
    """``A^-1`` at the places of the storage."""
    plan, m, E = at.plan, at.plan.n_pivots, at.plan.rows.size
    z = np.empty(plan.size, at.lower.dtype)
    z[m + E :] = at.tail.ravel()
    for r in reversed(plan.rounds):
        entry = at.lower[r.entries]
        known = z[r.target][r.cell]  # A^-1 at the rows of both entries of a pair
        size = entry.size
        sums = _sums(r.left, known * entry[r.right], size)
        apart = np.flatnonzero(r.left != r.right)
        right = r.right[apart]
        sums += _sums(right, known[apart] * entry[r.left[apart]], size)
        z[m + r.entries.start : m + r.entries.stop] = -sums
        columns = plan.columns[r.entries] - r.columns.start
        own = _sums(columns, entry * sums, r.columns.stop - r.columns.start)
        z[r.columns] = 1.0 / at.d[r.columns] + own
    return z


def _dense_inverse(A: np.ndarray) -> tuple[np.ndarray, float]:
    """Inverse and log-determinant of the tail; the derivative of the inverse is ``-Z dA Z``."""
    if not A.size:
        return A, 0.0
    real: Any = np.ascontiguousarray(A.real)[:, :, None]
    inverse, logdet = spd_inverse(real)
    Z = np.asarray(inverse[:, :, 0])
    if np.iscomplexobj(A):
        return Z - 1j * (Z @ A.imag @ Z), float(logdet)
    return Z, float(logdet)


def _sums(index: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """Sums of the values with one index."""
    if np.iscomplexobj(values):
        real, imag = (np.bincount(index, part, size) for part in (values.real, values.imag))
        return real + 1j * imag
    return np.bincount(index, values, size)
