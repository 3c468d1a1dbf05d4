"""Small dense linear algebra over many groups at once.

Arrays carry the group axis LAST, ``(rows, columns, groups)``: every operation
is then elementwise over long contiguous vectors, which XLA fuses, while
batched LAPACK calls on 2 x 2 matrices cost orders of magnitude more.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

# Unrolled code compiles slowly and loops run slowly on large blocks: three regimes.
_UNROLL_LIMIT = 3
_LOOP_LIMIT = 32


def eliminate(A: Array, *, tol: float | None = None) -> Array:
    """Apply the Cholesky elimination of the leading blocks to what stands beside them.

    For each group ``A = [M | B]`` with ``M = L L'`` symmetric positive
    (semi)definite the result is ``L^-1 A = [L' | L^-1 B]``.

    Parameters
    ----------
    A : Array, shape (r, r + k, G)
        Symmetric ``M`` and the columns ``B`` next to it.
    tol : float, optional
        With it ``M`` may be singular: a pivot that has fallen below ``tol`` times
        its diagonal entry gives a row of zeros. Without it a matrix that is not
        positive definite gives NaN.

    Returns
    -------
    Array, shape (r, r + k, G)
        Rows of ``[L' | L^-1 B]``; the strict lower triangle is zero.
    """
    r = A.shape[0]
    if r == 0:
        return A
    if r <= _UNROLL_LIMIT:
        return _eliminate_unrolled(A, tol)
    if r <= _LOOP_LIMIT or tol is not None:
        return _eliminate_loop(A, tol)
    return _eliminate_lapack(A)


def _pivot_scale(pivot: Array, diagonal: Array, tol: float | None) -> Array:
    """``1 / sqrt(pivot)``, zero where the pivot is negligible (safe to differentiate)."""
    if tol is None:
        return lax.rsqrt(pivot)
    usable = pivot > tol * diagonal
    return jnp.where(usable, lax.rsqrt(jnp.where(usable, pivot, jnp.ones_like(pivot))), 0.0)


def _eliminate_unrolled(A: Array, tol: float | None) -> Array:
    r = A.shape[0]
    rows = [A[i] for i in range(r)]
    done = []
    for j in range(r):
        scaled = rows[j] * _pivot_scale(rows[j][j], A[j, j], tol)[None]
        scaled = jnp.concatenate([jnp.zeros_like(scaled[:j]), scaled[j:]])
        done.append(scaled)
        for i in range(j + 1, r):
            rows[i] = rows[i] - scaled[i][None] * scaled
    return jnp.stack(done)


def _eliminate_loop(A: Array, tol: float | None) -> Array:
    r, width, _ = A.shape
    below = jnp.arange(r)
    columns = jnp.arange(width)

    def step(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        work, done = carry
        scaled = work[j] * _pivot_scale(work[j, j], A[j, j], tol)[None]
        scaled = jnp.where((columns >= j)[:, None], scaled, 0.0)
        factor = jnp.where((below > j)[:, None], scaled[:r], 0.0)
        return work - factor[:, None] * scaled[None], done.at[j].set(scaled)

    return lax.fori_loop(0, r, step, (A, jnp.zeros_like(A)))[1]


def _eliminate_lapack(A: Array) -> Array:
    r = A.shape[0]
    batch = jnp.moveaxis(A, -1, 0)
    L = jnp.linalg.cholesky(batch[:, :, :r])
    B = lax.linalg.triangular_solve(L, batch[:, :, r:], left_side=True, lower=True)
    return jnp.moveaxis(jnp.concatenate([jnp.swapaxes(L, 1, 2), B], axis=2), 0, -1)


def back_substitute(U: Array, B: Array) -> Array:
    """Solve ``U x = B`` for upper triangular ``U``; a zero pivot gives a zero row of ``x``.

    Parameters
    ----------
    U : Array, shape (r, r, G)
    B : Array, shape (r, k, G)

    Returns
    -------
    Array, shape (r, k, G)
    """
    r = U.shape[0]
    if r == 0:
        return B

    def step(i: Array | int, x: Array) -> Array:
        j = r - 1 - i
        # rows below j are solved, rows above are still zero
        rest = B[j] - jnp.sum(U[j][:, None] * x, axis=0)
        pivot = U[j, j]
        usable = pivot != 0
        inverse = jnp.where(usable, 1.0 / jnp.where(usable, pivot, jnp.ones_like(pivot)), 0.0)
        return x.at[j].set(rest * inverse[None])

    x = jnp.zeros_like(B)
    if r <= _UNROLL_LIMIT:
        for i in range(r):
            x = step(i, x)
        return x
    return lax.fori_loop(0, r, step, x)


def group_product(A: Array, B: Array) -> Array:
    """``A_i' B_i`` for every group: ``(r, a, G), (r, b, G) -> (a, b, G)``."""
    if A.shape[0] * A.shape[1] <= 4 * _LOOP_LIMIT:
        return jnp.sum(A[:, :, None] * B[:, None], axis=0)
    return jnp.moveaxis(jnp.einsum("rag,rbg->gab", A, B), 0, -1)


def total_product(A: Array, B: Array) -> Array:
    """``sum_i A_i' B_i``: ``(r, a, G), (r, b, G) -> (a, b)``."""
    return jnp.einsum("rag,rbg->ab", A, B)


def psd_cholesky(S: Array, *, tol: float = 1e-14) -> Array:
    """Lower Cholesky factor of a positive semidefinite matrix, shape (k, k).

    Columns of negligible pivots are zero, so a singular matrix has a factor too.
    """
    rows = eliminate(S[:, :, None], tol=tol)
    return rows[:, :, 0].T


def log_diagonal(L: Array) -> Array:
    """Sum of the logarithms of a triangular factor's diagonal."""
    return jnp.sum(jnp.log(jnp.diagonal(L)))


def symmetrize(A: Array) -> Array:
    """``(A + A') / 2`` over the last two axes."""
    return 0.5 * (A + jnp.swapaxes(A, -1, -2))


def solve_spd(L: Array, B: Array) -> Array:
    """``(L L')^-1 B`` from the lower factor ``L``."""
    return jax.scipy.linalg.cho_solve((L, True), B)
