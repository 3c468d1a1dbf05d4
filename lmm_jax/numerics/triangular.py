"""Triangular systems in NumPy, which has no solver for them."""

from __future__ import annotations

import numpy as np

from .blas_threads import one_thread_of_lapack

# Rows of a triangular matrix beyond which BLAS solves with it alone.
_WIDE = 48


def triangular_solve(
    L: np.ndarray, B: np.ndarray, *, left_side: bool = True, lower: bool = False
) -> np.ndarray:
    """Solve with triangular matrices, (..., r, r): row by row, small ones side by side."""
    assert left_side
    if not lower:
        flipped = triangular_solve(
            L[..., ::-1, ::-1], B[..., ::-1, :], left_side=left_side, lower=True
        )
        return flipped[..., ::-1, :]
    if L.shape[-1] > _WIDE and L.shape[:-2] == B.shape[:-2]:
        out = np.empty(B.shape, B.dtype)
        for at in np.ndindex(B.shape[:-2]):
            out[at] = _solve_wide(L[at], B[at])
        return out
    X = np.empty(np.broadcast_shapes(L.shape[:-2], B.shape[:-2]) + B.shape[-2:], B.dtype)
    for j in range(L.shape[-1]):
        rest = B[..., j, :] - (L[..., j, None, :j] @ X[..., :j, :])[..., 0, :]
        X[..., j, :] = rest / L[..., j, j, None]
    return X


def _solve_wide(L: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Solve with one lower triangular matrix by BLAS; a zero pivot gives no number."""
    from scipy.linalg import get_blas_funcs  # small models need none of it

    trsm = get_blas_funcs("trsm", (L, B))
    with one_thread_of_lapack(len(L)):
        out: np.ndarray = trsm(1.0, L.T, B, lower=0, trans_a=1)  # L by columns
    return out
