"""Triangular systems in NumPy, which has no solver for them."""

from __future__ import annotations

import numpy as np

# Rows of a triangular matrix beyond which it is solved with by blocks of half as many.
_WIDE = 64


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
    if L.shape[-1] > _WIDE:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return _solve_blocks(L, _inverse_blocks(L), B)
    X = np.empty(np.broadcast_shapes(L.shape[:-2], B.shape[:-2]) + B.shape[-2:], B.dtype)
    for j in range(L.shape[-1]):
        rest = B[..., j, :] - (L[..., j, None, :j] @ X[..., :j, :])[..., 0, :]
        X[..., j, :] = rest / L[..., j, j, None]
    return X


def _inverse_blocks(L: np.ndarray) -> np.ndarray:
    """Inverses of the blocks on the diagonal, (..., n, w, w); ones stand below the last row."""
    w, r = _WIDE // 2, L.shape[-1]
    n = -(-r // w)
    blocks = np.zeros((*L.shape[:-2], n, w, w), L.dtype)
    blocks[...] = np.eye(w)
    for i in range(n):
        own = L[..., i * w : (i + 1) * w, i * w : (i + 1) * w]
        blocks[..., i, : own.shape[-1], : own.shape[-1]] = own
    return triangular_solve(blocks, np.broadcast_to(np.eye(w), blocks.shape), lower=True)


def _solve_blocks(L: np.ndarray, inverses: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Solve by halves, of which products are most; a zero pivot gives no number.

    SciPy's BLAS would solve at once, but its threads and those of NumPy's BLAS, which multiplies
    before and after, take the cores from each other: 8 ms a turn on two cores, a hundred where
    others compute as well.
    """
    n = inverses.shape[-3]
    if n == 1:
        return inverses[..., 0, : L.shape[-1], : L.shape[-1]] @ B
    half = n // 2
    h = half * inverses.shape[-1]
    top = _solve_blocks(L[..., :h, :h], inverses[..., :half, :, :], B[..., :h, :])
    rest = B[..., h:, :] - L[..., h:, :h] @ top
    low = _solve_blocks(L[..., h:, h:], inverses[..., half:, :, :], rest)
    return np.concatenate([top, low], axis=-2)
