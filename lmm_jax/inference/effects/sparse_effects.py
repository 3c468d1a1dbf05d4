"""Conditional covariances of effects that one sparse system holds together (NumPy)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from ...layouts.sparse.derivatives import Shrinkage
from ...layouts.sparse.index import first_columns

# Columns that are solved for at once.
_COLUMNS = 64


class Cells(NamedTuple):
    """Effects by term, level and coefficient: arrays of one shape."""

    term: np.ndarray
    level: np.ndarray
    coefficient: np.ndarray


class SolvedCovariance:
    """``H``, whose columns are solved for.

    Parameters
    ----------
    H : Shrinkage
        Conditional covariance of all effects, in units of sigma^2.
    widths, sizes : sequence of int
        Levels and coefficients of every term.
    """

    def __init__(self, H: Any, widths: Sequence[int], sizes: Sequence[int]) -> None:
        self.H = H
        self.first = first_columns(widths, sizes)
        self.sizes, self.widths = np.array(sizes), widths

    def covariance(self, cells: Any) -> np.ndarray:
        """Covariance of K effects, (K, K)."""
        K = cells[0].size
        flat = Cells(*(np.asarray(v).ravel() for v in cells))
        left = Cells(*(np.repeat(v, K) for v in flat))
        right = Cells(*(np.tile(v, K) for v in flat))
        values, known = self._entries(left, right)
        if known.all():
            return values.reshape(K, K)
        column = self._columns(flat)
        unit = scipy.sparse.csc_array((np.ones(K), (column, np.arange(K))), (self.first[-1], K))
        return self._times(unit)[column]

    def variances(self, cells: Any, a: np.ndarray) -> np.ndarray:
        """Variance of ``a' b`` for rows of K effects each, (n, K) to (n,)."""
        n, K = a.shape
        total, known = np.zeros(n), np.ones(n, bool)
        for j in range(K):
            for k in range(j, K):
                left, right = (Cells(*(v[:, i] for v in cells)) for i in (j, k))
                values, found = self._entries(left, right)
                weight = a[:, j] * a[:, k] * (1.0 if j == k else 2.0)
                total += np.where(found, values, 0.0) * weight
                known &= found | (weight == 0.0)
        rest = np.flatnonzero(~known)
        for start in range(0, rest.size, _COLUMNS):
            at = rest[start : start + _COLUMNS]
            column = self._columns(Cells(*(v[at] for v in cells)))
            place = np.repeat(np.arange(at.size), K)
            rows = scipy.sparse.csc_array(
                (a[at].ravel(), (column.ravel(), place)), (self.first[-1], at.size)
            )
            total[at] = np.asarray(rows.multiply(self._times(rows)).sum(axis=0)).ravel()
        return total

    def _times(self, columns: scipy.sparse.csc_array) -> np.ndarray:
        return np.asarray(self.H.times(columns.toarray()[:, :, None]))[:, :, 0]

    def _columns(self, cells: Cells) -> np.ndarray:
        first, size = self.first[cells.term], self.sizes[cells.term]
        return np.asarray(first + cells.level * size + cells.coefficient)

    def _entries(self, left: Cells, right: Cells) -> tuple[np.ndarray, np.ndarray]:
        """Entries of H, and whether they are at hand, (n,) each."""
        del right
        return np.zeros(left.term.size), np.zeros(left.term.size, bool)


class SparseCovariance(SolvedCovariance):
    """``H`` of a sparse layout: entries where levels meet are at hand, others take a solve.

    Parameters
    ----------
    H : Shrinkage
    """

    def __init__(self, H: Shrinkage) -> None:
        gram = H.system.gram
        super().__init__(H, gram.widths, gram.sizes)
        blocks, L = H.system.inverse, H.system.factors
        self.own = [A @ Z @ A.T for A, Z in zip(L, blocks.own, strict=True)]
        self.across = {}
        for Z, m in zip(blocks.across, gram.meetings, strict=True):
            t, s = m.terms
            key = m.left.astype(np.int64) * gram.widths[s] + m.right
            order = np.argsort(key)
            self.across[t, s] = key[order], order, L[t] @ Z @ L[s].T

    def _entries(self, left: Cells, right: Cells) -> tuple[np.ndarray, np.ndarray]:
        """Entries of H, and whether they are at hand, (n,) each."""
        values, known = np.zeros(left.term.size), np.zeros(left.term.size, bool)
        same = (left.term == right.term) & (left.level == right.level)
        for t, block in enumerate(self.own):
            at = np.flatnonzero(same & (left.term == t))
            values[at] = block[left.level[at], left.coefficient[at], right.coefficient[at]]
            known[at] = True
        for (t, s), (keys, order, block) in self.across.items():
            for a, b in ((left, right), (right, left)):
                at = np.flatnonzero((a.term == t) & (b.term == s) & ~known)
                if not keys.size:
                    continue
                key = a.level[at].astype(np.int64) * self.widths[s] + b.level[at]
                place = np.minimum(np.searchsorted(keys, key), keys.size - 1)
                met = keys[place] == key
                at, place = at[met], order[place[met]]
                values[at] = block[place, a.coefficient[at], b.coefficient[at]]
                known[at] = True
        return values, known
