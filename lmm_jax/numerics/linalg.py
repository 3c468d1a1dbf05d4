"""Small dense linear algebra over many groups at once.

Arrays carry the group axis LAST, ``(rows, columns, groups)``: every operation
is then elementwise over long contiguous vectors, which XLA fuses, while
batched LAPACK calls on 2 x 2 matrices cost orders of magnitude more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .in_place import lapack_inverse, settled
from .namespace import JAX, NUMPY, namespace

# Unrolled code compiles slowly and loops run slowly on large blocks: three regimes.
UNROLL_LIMIT = 3
_LOOP_LIMIT = 32
# Products of entries of a group from which NumPy, which keeps all of them before it adds them up,
# is faster with one BLAS call a group.
_FEW_PRODUCTS = 256
# Rows of a wide matrix that are eliminated one by one before the others see them.
_PANEL = 8
# Matrices of more rows than this are inverted in their own place, so many rows at a time.
_SWEEP_ABOVE, _SWEEP = 8192, 2048
# What a log-determinant may lose to single precision.
LOST_ROUGHLY = 1e-3
# Large triangular matrices are inverted by halves down to this size: products of matrices run
# on all cores, a triangular solve with the identity wastes two thirds of its work.
_HALVE_ABOVE = 480


_F = TypeVar("_F", bound=Callable[..., Any])


def exact(fun: _F) -> _F:
    """Let no product of float32 matrices inside a function be rounded to fewer bits.

    Recent NVIDIA GPUs multiply in TF32, ten bits, unless they are told not to. The request
    is part of what is traced, so it holds under a caller's ``jit`` too; rules of
    differentiation are traced later and need a request of their own.
    """

    @wraps(fun)
    def call(*args: Any, **kwargs: Any) -> Any:
        if namespace(*args) is not JAX:
            return fun(*args, **kwargs)
        with jax.default_matmul_precision("highest"):
            return fun(*args, **kwargs)

    return cast(_F, call)


class Elimination(NamedTuple):
    """What a Cholesky elimination leaves."""

    U: Array  # (r, r, G)  L', upper triangular
    X: Array  # (r, k, G)  L^-1 B


def eliminate(
    M: Array, B: Array, *, tol: float | None = None, unroll: int = UNROLL_LIMIT
) -> Elimination:
    """Cholesky factor of every group's matrix and what it makes of the columns beside it.

    With ``M = L L'`` symmetric positive (semi)definite: ``L'`` and ``L^-1 B``.

    Parameters
    ----------
    M : Array, shape (r, r, G)
    B : Array, shape (r, k, G)
    tol : float, optional
        With it ``M`` may be singular: a pivot that has fallen below ``tol`` times
        its diagonal entry gives a row of zeros. Without it a matrix that is not
        positive definite gives NaN.
    unroll : int
        Rows up to which the loop is written out: fast code that compiles slowly.

    Returns
    -------
    Elimination
    """
    r = M.shape[0]
    if r == 0:
        return Elimination(M, B)
    if r <= unroll:
        return _eliminate_unrolled(M, B, tol)
    if r <= _LOOP_LIMIT:
        return _eliminate_loop(M, B, tol)
    if tol is None:
        return _eliminate_lapack(M, B)
    return _eliminate_blocks(M, B, tol)


def _pivot_scale(pivot: Array, diagonal: Array, tol: float | None) -> Array:
    """``1 / sqrt(pivot)``, zero where the pivot is negligible (safe to differentiate)."""
    xp = namespace(pivot, diagonal)
    if tol is None:
        return xp.rsqrt(pivot)
    usable = pivot > tol * diagonal
    return xp.where(usable, xp.rsqrt(xp.where(usable, pivot, xp.ones_like(pivot))), 0.0)


def _eliminate_unrolled(M: Array, B: Array, tol: float | None) -> Elimination:
    # scalars over groups, no slices put together again: XLA then fuses it into few loops
    xp = namespace(M, B)
    r = M.shape[0]
    zero = xp.zeros_like(M[0, 0])
    U = [[zero] * r for _ in range(r)]
    X: list[Array] = []
    for j in range(r):
        pivot = M[j, j] - sum((U[i][j] * U[i][j] for i in range(j)), zero)
        scale = _pivot_scale(pivot, M[j, j], tol)
        U[j][j] = pivot * scale
        for k in range(j + 1, r):
            U[j][k] = (M[j, k] - sum((U[i][j] * U[i][k] for i in range(j)), zero)) * scale
        rest = B[j]
        for i in range(j):
            rest = rest - U[i][j][None] * X[i]
        X.append(rest * scale[None])
    return Elimination(xp.stack([xp.stack(row) for row in U]), xp.stack(X))


def _eliminate_loop(M: Array, B: Array, tol: float | None) -> Elimination:
    xp = namespace(M, B)
    r = M.shape[0]
    start = xp.concatenate([M, B], axis=1)
    below = xp.arange(r)
    columns = xp.arange(start.shape[1])

    def step(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        work, done = carry
        scaled = work[j] * _pivot_scale(work[j, j], start[j, j], tol)[None]
        scaled = xp.where((columns >= j)[:, None], scaled, 0.0)
        factor = xp.where((below > j)[:, None], scaled[:r], 0.0)
        return work - factor[:, None] * scaled[None], xp.at(done)[j].set(scaled)

    rows = xp.fori_loop(0, r, step, (start, xp.zeros_like(start)))[1]
    return Elimination(rows[:, :r], rows[:, r:])


def _eliminate_lapack(M: Array, B: Array) -> Elimination:
    xp = namespace(M, B)
    L = xp.linalg.cholesky(xp.moveaxis(M, -1, 0))
    X = xp.triangular_solve(L, xp.moveaxis(B, -1, 0), left_side=True, lower=True)
    return Elimination(xp.moveaxis(L, 0, -1).swapaxes(0, 1), xp.moveaxis(X, 0, -1))


def _eliminate_blocks(M: Array, B: Array, tol: float) -> Elimination:
    """As :func:`_eliminate_loop`, a few rows at a time: the rest is products of matrices."""
    xp = namespace(M, B)
    r = M.shape[0]
    padding = -r % _PANEL
    work = xp.concatenate([xp.pad(M, ((0, 0), (0, padding), (0, 0))), B], axis=1)
    work = xp.moveaxis(xp.pad(work, ((0, padding), (0, 0), (0, 0))), -1, 0)
    diagonal = xp.diagonal(work, axis1=1, axis2=2)
    columns = xp.arange(work.shape[2])

    def block(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        work, done = carry
        first = i * _PANEL
        rows = xp.dynamic_slice_in_dim(work, first, _PANEL, 1)
        limits = xp.dynamic_slice_in_dim(diagonal, first, _PANEL, 1)

        def step(j: Array, rows: Array) -> Array:
            at = first + j
            pivot = xp.dynamic_index_in_dim(rows[:, j], at, 1, keepdims=False)
            scaled = rows[:, j] * _pivot_scale(pivot, limits[:, j], tol)[:, None]
            scaled = xp.where(columns[None] >= at, scaled, 0.0)
            factor = xp.dynamic_slice_in_dim(scaled, first, _PANEL, 1)
            factor = xp.where(xp.arange(_PANEL)[None] > j, factor, 0.0)
            return xp.at(rows - factor[:, :, None] * scaled[:, None])[:, j].set(scaled)

        rows = xp.fori_loop(0, _PANEL, step, rows)
        left = xp.swapaxes(rows[:, :, : r + padding], 1, 2)
        return work - left @ rows, xp.dynamic_update_slice_in_dim(done, rows, first, 1)

    start = work, xp.zeros_like(work)
    rows = xp.fori_loop(0, work.shape[1] // _PANEL, block, start)[1]
    rows = xp.moveaxis(rows[:, :r], 0, -1)
    return Elimination(rows[:, :r], rows[:, r + padding :])


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
    if r <= _LOOP_LIMIT:
        U, half = eliminate(M, xp.broadcast_to(identity[:, :, None], M.shape))
        return group_product(half, half), 2.0 * xp.sum(xp.log(xp.diagonal(U)))
    if xp is NUMPY:
        each: Any = [lapack_inverse(np.array(M[:, :, g], order="C")) for g in range(M.shape[2])]
        whole = each[0][0][:, :, None] if len(each) == 1 else xp.stack([A for A, _ in each], -1)
        return whole, sum(logdet for _, logdet in each)
    if r > _SWEEP_ABOVE and M.shape[2] == 1:
        swept, logdet = _swept(M[:, :, 0])
        return swept[:, :, None], logdet
    L = xp.linalg.cholesky(xp.moveaxis(M, -1, 0))
    logdet = 2.0 * xp.sum(xp.log(xp.diagonal(L, axis1=1, axis2=2)))
    return xp.moveaxis(_lower_gram(_lower_inverse(L)), 0, -1), logdet


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
    if namespace(M) is not NUMPY or M.shape[0] <= _LOOP_LIMIT:
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
    xp = namespace(U, B)
    r = U.shape[0]
    if r == 0:
        return B
    if r > _LOOP_LIMIT:  # with a row of the identity in the place of one whose pivot is zero
        usable = (xp.diagonal(U).T != 0)[:, None]
        whole = xp.where(usable, U, xp.eye(r, dtype=U.dtype)[:, :, None])
        left, right = (xp.moveaxis(a, -1, 0) for a in (whole, xp.where(usable, B, 0.0)))
        X = xp.triangular_solve(left, right, left_side=True, lower=False)
        return xp.moveaxis(X, 0, -1)

    def step(i: Array | int, x: Array) -> Array:
        j = r - 1 - i
        # rows below j are solved, rows above are still zero
        rest = B[j] - xp.sum(U[j][:, None] * x, axis=0)
        pivot = U[j, j]
        usable = pivot != 0
        inverse = xp.where(usable, 1.0 / xp.where(usable, pivot, xp.ones_like(pivot)), 0.0)
        return xp.at(x)[j].set(rest * inverse[None])

    x = xp.zeros_like(B)
    if r <= UNROLL_LIMIT:
        for i in range(r):
            x = step(i, x)
        return x
    return xp.fori_loop(0, r, step, x)


def group_product(A: Array, B: Array) -> Array:
    """``A_i' B_i`` for every group: ``(r, a, G), (r, b, G) -> (a, b, G)``."""
    xp, pairs = namespace(A, B), A.shape[0] * A.shape[1]
    if pairs <= 4 * _LOOP_LIMIT and (xp is not NUMPY or pairs * B.shape[1] <= _FEW_PRODUCTS):
        return xp.sum(A[:, :, None] * B[:, None], axis=0)
    each = xp.moveaxis(A, -1, 0).swapaxes(1, 2) @ xp.moveaxis(B, -1, 0)
    return xp.moveaxis(each, 0, -1)


def total_product(A: Array, B: Array) -> Array:
    """``sum_i A_i' B_i``: ``(r, a, G), (r, b, G) -> (a, b)``."""
    xp = namespace(A, B)
    if A.shape[0] <= UNROLL_LIMIT:
        return sum((A[r] @ B[r].T for r in range(A.shape[0])), xp.zeros((), A.dtype))
    return xp.einsum("rag,rbg->ab", A, B)


def psd_cholesky(S: Array, *, tol: float = 1e-14) -> Array:
    """Lower Cholesky factor of a positive semidefinite matrix, shape (k, k).

    Columns of negligible pivots are zero, so a singular matrix has a factor too.
    """
    xp = namespace(S)
    return eliminate(S[:, :, None], xp.zeros((S.shape[0], 0, 1), S.dtype), tol=tol).U[:, :, 0].T


def lower_factor(F: Array) -> Array:
    """Lower triangular ``L`` with ``L L' = F F'``, by Gram and Schmidt on the rows, (k, k).

    A row that depends on the rows before it gets a zero pivot.
    """
    xp = namespace(F)
    k = F.shape[0]
    rows = [F[i] for i in range(k)]
    L = [[xp.zeros_like(F[0, 0])] * k for _ in range(k)]
    for j in range(k):
        norm = xp.sqrt(xp.sum(rows[j] ** 2))
        some = norm > 0
        unit = xp.where(some, rows[j] / xp.where(some, norm, 1.0), 0.0)
        L[j][j] = norm
        for i in range(j + 1, k):
            L[i][j] = xp.sum(rows[i] * unit)
            rows[i] = rows[i] - L[i][j] * unit
    return xp.stack([xp.stack(row) for row in L])


def log_diagonal(L: Array) -> Array:
    """Sum of the logarithms of a triangular factor's diagonal, along the last two axes."""
    xp = namespace(L)
    return xp.sum(xp.log(xp.diagonal(L, axis1=-2, axis2=-1)), axis=-1)


def symmetrize(A: Array) -> Array:
    """``(A + A') / 2`` over the last two axes."""
    xp = namespace(A)
    return 0.5 * (A + xp.swapaxes(A, -1, -2))
