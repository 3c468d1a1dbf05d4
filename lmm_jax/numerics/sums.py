"""Sums over rows and of products in NumPy, as :mod:`.namespace` gives them out."""

from __future__ import annotations

from math import prod

import numpy as np
import scipy.sparse

# Numbers from which a sparse product beats one pass of bincount a column: 20 us against 4 each.
MANY_SUMS = 1 << 12
# Numbers of an array from which an order of products is worth the 50 microseconds of finding one.
_PLANNED = 1 << 12


def segment_sum(values: np.ndarray, segments: np.ndarray, count: int) -> np.ndarray:
    """Sums of rows with one label, (count, ...); labels past the end are dropped."""
    columns = values.reshape(len(values), prod(values.shape[1:]))
    kept = segments < count
    if not kept.all():
        columns, segments = columns[kept], segments[kept]
    if not columns.shape[1]:
        return np.zeros((count, *values.shape[1:]), values.dtype)
    if columns.shape[1] == 1 or columns.size < MANY_SUMS:
        sums = [np.bincount(segments, weights=column, minlength=count) for column in columns.T]
        out = np.stack(sums, axis=1)
    else:  # one pass for all columns; ones in float64, so that sums are
        out = _picking(np.ones(len(segments)), segments, count) @ columns
    return out.reshape(count, *values.shape[1:]).astype(values.dtype, copy=False)


def _picking(values: np.ndarray, segments: np.ndarray, count: int) -> scipy.sparse.csc_array:
    """Sparse matrix (count, n) with one entry a column, at the row that its label says."""
    entries = values, segments, np.arange(len(segments) + 1, dtype=segments.dtype)
    return scipy.sparse.csc_array(entries, shape=(count, len(segments)))


def segment_products(
    left: np.ndarray, right: np.ndarray, segments: np.ndarray, count: int
) -> np.ndarray:
    """Sums of ``left' right`` over the rows with one label, (count, a, b)."""
    if right.size < MANY_SUMS or (segments >= count).any():
        return segment_sum(left[:, :, None] * right[:, None], segments, count)
    sums = [_picking(column, segments, count) @ right for column in left.T]
    return np.stack(sums, axis=1).astype(right.dtype, copy=False)


def einsum(subscripts: str, *operands: np.ndarray) -> np.ndarray:
    """Sums of products; of three arrays and more, NumPy has one loop over all of their indices."""
    large = len(operands) > 2 and max(a.size for a in operands) > _PLANNED
    found: np.ndarray = np.einsum(subscripts, *operands, optimize=large)
    return found
