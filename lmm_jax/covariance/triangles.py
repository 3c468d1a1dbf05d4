"""Lower triangles of matrices as vectors, and triangular factors of singular covariances."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ..numerics.namespace import NUMPY, namespace
from ..numerics.read_only import read_only

# Whitened pivots below this are zero for all purposes (they move the deviance by less than
# its square).
ZERO_PIVOT = 1e-5


def canonical_factor(L: Any) -> Any:
    """The factor with exact zeros where a pivot is negligible, same covariance, (..., k, k).

    A triangular factor of a singular covariance is not unique: the Cholesky
    factor of the covariance, with a zero column for a zero pivot, is taken.
    """
    xp = namespace(L)
    negligible = (xp.abs(xp.diagonal(L, axis1=-2, axis2=-1)) < ZERO_PIVOT).any(axis=-1)
    if xp is not NUMPY:
        return xp.where(negligible[..., None, None], _without_negligible(L), L)
    if not negligible.any():
        return L
    out = L.copy()
    out[negligible] = _without_negligible(L[negligible])
    return out


def _without_negligible(L: Any) -> Any:
    """By rows of L: squares would cost large variances their digits."""
    xp, columns = namespace(L), []
    for j in range(L.shape[-1]):
        norm = xp.sqrt(xp.sum(L[..., j, :] ** 2, axis=-1))
        usable = norm > ZERO_PIVOT
        size = xp.where(usable, 1.0 / xp.where(usable, norm, 1.0), 0.0)
        unit = (L[..., j, :] * size[..., None])[..., None, :]
        below = np.arange(L.shape[-1]) >= j
        columns.append(xp.where(below[(None,) * norm.ndim], xp.sum(L * unit, axis=-1), 0.0))
        L = L - columns[-1][..., None] * unit
    return xp.stack(columns, axis=-1)


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
