"""Sums into arrays that nobody else holds: NumPy changes them, JAX updates what it gives up."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from jax import Array, lax

from .blas_threads import one_thread_of_lapack
from .namespace import JAX, NUMPY, namespace

_T = TypeVar("_T")
# Sums a value up to which one pass over a stretch of them costs less than to visit entries.
_SPARSE = 4
# Rows of a matrix that are mirrored at once.
_STRIP = 512


def accumulate(total: Array, at: Array, values: Array) -> Array:
    """``total[at] += values`` of flat arrays; an entry may be named more than once."""
    xp = namespace(total, values)
    if xp is not NUMPY:
        return xp.at(total)[at].add(values, mode="promise_in_bounds")
    sums: Any = total
    places = np.asarray(at)
    first, stop = (int(places.min()), int(places.max()) + 1) if places.size else (0, 0)
    if stop - first <= _SPARSE * values.size:  # sorted entries, or many
        sums[first:stop] += np.bincount(places - first, values, stop - first)
    else:
        np.add.at(sums, places, values)
    return sums


def add_block(total: Array, part: Array, row: int, column: int) -> Array:
    """A matrix with a block added at its place, (N, M) and (a, b)."""
    a, b = part.shape
    xp = namespace(total, part)
    if xp is JAX:
        total, there = settled((total, total[row : row + a, column : column + b] + part))
        return lax.dynamic_update_slice(total, there, (row, column))
    if xp is not NUMPY:
        return xp.at(total)[row : row + a, column : column + b].add(part)
    sums: Any = total
    sums[row : row + a, column : column + b] += part
    return sums


def plus_identity(M: Array) -> Array:
    """``M + I`` of every block, (N, N, ...): a matrix with ones added on its diagonal."""
    xp = namespace(M)
    if xp is not NUMPY:
        return M + xp.eye(M.shape[0], dtype=M.dtype).reshape(M.shape[:2] + (1,) * (M.ndim - 2))
    own: Any = M
    at = np.arange(len(own))
    own[at, at] += 1.0
    return own


def settled(arrays: _T) -> _T:
    """Arrays that are there before anything uses them: none is made twice, or copied to be kept."""
    leaves = arrays if isinstance(arrays, tuple) else (arrays,)
    return lax.optimization_barrier(arrays) if namespace(*leaves) is JAX else arrays


def lapack_inverse(M: np.ndarray) -> tuple[np.ndarray, float]:
    """Inverse of a positive definite matrix in its own place, and its log-determinant; or NaN."""
    from scipy.linalg import lapack  # small models need none of it

    single = M.dtype == np.float32
    factor, invert = (lapack.spotrf, lapack.spotri) if single else (lapack.dpotrf, lapack.dpotri)
    A = M.T  # by columns, as LAPACK has it; symmetric
    with one_thread_of_lapack(len(M)):
        L, info = factor(A, lower=1, clean=0, overwrite_a=1)
        logdet = 2.0 * float(np.sum(np.log(np.diagonal(L), dtype=float))) if info == 0 else np.nan
        inverse, info = invert(L, lower=1, overwrite_c=1) if info == 0 else (L, info)
    if info:
        inverse[:] = np.nan
    out = inverse.T  # its upper triangle
    for start in range(0, len(out), _STRIP):
        stop = start + _STRIP
        out[stop:, start:stop] = out[start:stop, stop:].T
        block = out[start:stop, start:stop]
        out[start:stop, start:stop] = np.triu(block) + np.triu(block, 1).T
    return out, logdet
