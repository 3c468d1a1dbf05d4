"""Inverses of positive definite matrices, with their log-determinants.

Arrays carry the axis of the matrices last, as in :mod:`.linalg`; large matrices are few.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .in_place import lapack_inverse, settled
from .linalg import LOOP_LIMIT, eliminate, group_product
from .namespace import JAX, NUMPY, namespace

# Matrices of more rows than this are inverted in their own place, so many rows at a time.
_SWEEP_ABOVE, _SWEEP = 8192, 2048
# What a log-determinant may lose to single precision.
LOST_ROUGHLY = 1e-3
# Large triangular matrices are inverted by halves down to this size: products of matrices run
# on all cores, a triangular solve with the identity wastes two thirds of its work.
_HALVE_ABOVE = 480


def spd_inverse(M: Array) -> tuple[Array, Array]:
    """Inverse of every group's positive definite matrix, and the sum of their log-determinants.

    Parameters
    ----------
    M : Array, shape (r, r, G)

    Returns
    -------
    inverse : Array, shape (r, r, G)
    logdet : Array, shape ()
    """
    xp = namespace(M)
    r = M.shape[0]
    identity = xp.eye(r, dtype=M.dtype)
    if r <= LOOP_LIMIT:
        U, half = eliminate(M, xp.broadcast_to(identity[:, :, None], M.shape))
        return group_product(half, half), 2.0 * xp.sum(xp.log(xp.diagonal(U)))
    if xp is not JAX:
        found: tuple[Array, Array] = xp.with_lanes(_inverses, M)
        return found
    if r > _SWEEP_ABOVE and M.shape[2] == 1:
        swept, logdet = _swept(M[:, :, 0])
        return swept[:, :, None], logdet
    L = xp.linalg.cholesky(xp.moveaxis(M, -1, 0))
    logdet = 2.0 * xp.sum(xp.log(xp.diagonal(L, axis1=1, axis2=2)))
    return xp.moveaxis(_lower_gram(_lower_inverse(L)), 0, -1), logdet


def _inverses(M: np.ndarray) -> tuple[np.ndarray, Any]:
    """:func:`spd_inverse` by LAPACK, (r, r, G); lanes may be last."""
    r, count = len(M), M.size // len(M) ** 2
    if count == 1:
        inverse, logdet = lapack_inverse(np.array(M.reshape(r, r), order="C"))
        return inverse.reshape(M.shape), np.full(M.shape[3:], logdet)
    matrices = np.array(np.moveaxis(M.reshape(r, r, count), -1, 0), order="C")
    logdets = np.empty(count)
    for i, A in enumerate(matrices):
        matrices[i], logdets[i] = lapack_inverse(A)
    inverses = np.ascontiguousarray(np.moveaxis(matrices, 0, -1))
    return inverses.reshape(M.shape), np.add.reduce(logdets.reshape(M.shape[2:]), axis=0)


class RoughInverse(NamedTuple):
    """What :func:`rough_inverse` finds."""

    inverse: Array  # (r, r, G)
    logdet: Array  # ()
    single: bool  # whether single precision did


def rough_inverse(M: Array) -> RoughInverse:
    """:func:`spd_inverse` by single precision in half the time where six digits are left, in NumPy.

    What the diagonals of ``M X`` of the inverse X that is found are off one by, added up, bounds
    what the log-determinant has lost, about; where it is more than ``LOST_ROUGHLY`` double
    precision has the word.
    """
    if namespace(M) is not NUMPY or M.shape[0] <= LOOP_LIMIT:
        return RoughInverse(*spd_inverse(M), False)
    matrices: Any = M
    inverses: Any = np.empty(M.shape)
    total, lost = 0.0, 0.0
    for g in range(M.shape[2]):
        with np.errstate(over="ignore"):
            X, logdet = lapack_inverse(matrices[:, :, g].astype(np.float32, order="C"))
        inverses[:, :, g] = X
        diagonal = np.einsum("ij,ij->i", matrices[:, :, g], inverses[:, :, g])
        lost += float(np.sum(np.abs(diagonal - 1.0)))
        if not lost < LOST_ROUGHLY:
            return RoughInverse(*spd_inverse(M), False)
        total += logdet
    return RoughInverse(inverses, cast(Array, total), True)


def _swept(M: Array) -> tuple[Array, Array]:
    """Inverse of one large matrix, (r, r), and its log-determinant, in the matrix's own place.

    Gauss and Jordan's elimination of blocks: with the pivot D = A_kk every other block A_ij
    gives up ``A_ik D^-1 A_kj``, and at the end -A is the inverse. Pivots are those of the blocked
    Cholesky factorization, so nothing is lost to it but what symmetry would save.
    """
    r = M.shape[0]

    def pivot(state: tuple[Array, Array], first: Any, size: int) -> tuple[Array, Array]:
        A, logdet = state
        column = lax.dynamic_slice(A, (0, first), (r, size))
        L = jnp.linalg.cholesky(lax.dynamic_slice(column, (first, 0), (size, size)))
        half = lax.linalg.triangular_solve(
            L, jnp.eye(size, dtype=A.dtype), left_side=True, lower=True
        )
        inverse = half.T @ half
        row = inverse @ column.T

        def less(A: Array, at: Any, rows: int) -> Array:
            there = lax.dynamic_slice(A, (at, 0), (rows, r))
            own = lax.dynamic_slice(column, (at, 0), (rows, size))
            return lax.dynamic_update_slice(A, there - own @ row, (at, 0))

        A = by_strips(less, A, r, _SWEEP)
        A = lax.dynamic_update_slice(A, row, (first, 0))
        A = lax.dynamic_update_slice(A, row.T, (0, first))
        A = lax.dynamic_update_slice(A, -inverse, (first, first))
        return A, logdet + 2.0 * jnp.sum(jnp.log(jnp.diagonal(L)))

    A, logdet = settled(by_strips(pivot, (M, jnp.zeros((), M.dtype)), r, _SWEEP))
    return -A, logdet


def by_strips(step: Callable[[Any, Any, int], Any], state: Any, r: int, size: int) -> Any:
    """``step(state, first, rows)`` for strips of r rows, the last of them shorter."""
    xp, whole = namespace(state), r // size
    state = xp.fori_loop(0, whole, lambda i, s: step(s, i * size, size), state)
    return step(state, whole * size, r - whole * size) if r % size else state


def _lower_inverse(L: Array) -> Array:
    """Inverse of lower triangular matrices (..., r, r), by halves: a third of a full solve."""
    xp = namespace(L)
    r = L.shape[-1]
    if r <= _HALVE_ABOVE:
        identity = xp.broadcast_to(xp.eye(r, dtype=L.dtype), L.shape)
        return xp.triangular_solve(L, identity, left_side=True, lower=True)
    h = r // 2
    top, low = _lower_inverse(L[..., :h, :h]), _lower_inverse(L[..., h:, h:])
    corner = -low @ (L[..., h:, :h] @ top)
    return _blocks(top, xp.zeros_like(xp.swapaxes(corner, -1, -2)), corner, low)


def _lower_gram(X: Array) -> Array:
    """``X' X`` of lower triangular matrices (..., r, r), by halves."""
    xp = namespace(X)
    r = X.shape[-1]
    if r <= _HALVE_ABOVE:
        return xp.swapaxes(X, -1, -2) @ X
    h = r // 2
    corner = X[..., h:, :h]
    across = xp.swapaxes(X[..., h:, h:], -1, -2) @ corner
    top = _lower_gram(X[..., :h, :h]) + xp.swapaxes(corner, -1, -2) @ corner
    return _blocks(top, xp.swapaxes(across, -1, -2), across, _lower_gram(X[..., h:, h:]))


def _blocks(a: Array, b: Array, c: Array, d: Array) -> Array:
    xp = namespace(a, b, c, d)
    upper = xp.concatenate([a, b], axis=-1)
    return xp.concatenate([upper, xp.concatenate([c, d], axis=-1)], axis=-2)
