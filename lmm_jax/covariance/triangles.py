"""Lower triangles of matrices as vectors, and triangular factors of singular covariances."""

from __future__ import annotations

from functools import cache

import numpy as np

from ..numerics.read_only import read_only

# Whitened pivots below this are zero for all purposes (they move the deviance by less than
# its square).
ZERO_PIVOT = 1e-5


def canonical_factor(L: np.ndarray) -> np.ndarray:
    """The factor with exact zeros where a pivot is negligible, same covariance, (..., k, k).

    A triangular factor of a singular covariance is not unique: the Cholesky
    factor of the covariance, with a zero column for a zero pivot, is taken.
    """
    negligible = (np.abs(np.diagonal(L, axis1=-2, axis2=-1)) < ZERO_PIVOT).any(axis=-1)
    if not negligible.any():
        return L
    rows = L[negligible]
    found = np.zeros_like(rows)
    for j in range(L.shape[-1]):  # by rows of L: squares would cost large variances their digits
        norm = np.linalg.norm(rows[:, j], axis=-1)
        usable = norm > ZERO_PIVOT
        unit = rows[:, j] * np.where(usable, 1.0 / np.where(usable, norm, 1.0), 0.0)[:, None]
        found[:, j:, j] = np.sum(rows[:, j:] * unit[:, None], axis=-1)
        rows[:, j:] -= found[:, j:, j, None] * unit[:, None]
    out = L.copy()
    out[negligible] = found
    return out


@cache  # a small fit takes less time than to make these a dozen times
def lower_indices(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every entry of a lower triangle, column by column."""
    columns, rows = np.triu_indices(k)
    return _frozen(rows), _frozen(columns)


@cache
def lower_rows(k: int) -> tuple[np.ndarray, np.ndarray]:
    """The same row by row."""
    rows, columns = np.tril_indices(k)
    return _frozen(rows), _frozen(columns)


@cache
def diagonal_places(k: int) -> np.ndarray:
    """Places of the diagonal in a lower triangle, column by column."""
    return _frozen(np.flatnonzero(np.equal(*lower_indices(k))))


@cache
def lower_units(k: int) -> np.ndarray:
    """One at each entry of a lower triangle, column by column, (m, k, k)."""
    rows, columns = lower_indices(k)
    out = np.zeros((rows.size, k, k))
    out[np.arange(rows.size), rows, columns] = 1.0
    return read_only(out)


def _frozen(index: np.ndarray) -> np.ndarray:
    """Of a type that does not depend on JAX's mode; everybody gets the same arrays."""
    return read_only(index.astype(np.int32))
