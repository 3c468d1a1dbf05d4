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
from jax import Array

from .namespace import JAX, NUMPY, STACKED, namespace
from .stacked import Stacked, filled

# Unrolled code compiles slowly and loops run slowly on large blocks: three regimes.
UNROLL_LIMIT = 3
LOOP_LIMIT = 32
# Products of entries of a group from which NumPy, which keeps all of them before it adds them up,
# is faster with one BLAS call a group.
_FEW_PRODUCTS = 256
# Pivots of a covariance, of its diagonal, below which it is singular.
_SINGULAR = 1e-14
# Rows of a wide matrix that are eliminated one by one before the others see them.
_PANEL = 8


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
    if namespace(M, B) is STACKED:
        return _eliminate_lanes(M, B, tol)
    if r <= LOOP_LIMIT:
        return _eliminate_loop(M, B, tol)
    if tol is None:
        return _eliminate_lapack(M, B)
    return _eliminate_blocks(M, B, tol)


def _eliminate_lanes(M: Any, B: Any, tol: float | None) -> Elimination:
    """Lanes of one matrix are columns beside it, lanes of their own are groups."""
    r, k, groups = B.shape
    R = (B if type(B) is Stacked else M).lanes.shape[-1]
    if type(M) is not Stacked:
        columns = B.lanes.transpose(0, 1, 3, 2).reshape(r, k * R, groups)
        found: Any = eliminate(M, columns, tol=tol, unroll=0)
        own = found.X.reshape(r, k, R, groups).transpose(0, 1, 3, 2)
        return found._replace(X=Stacked(own))
    many: Any = [filled(A, R).reshape(*A.shape[:2], groups * R) for A in (M, B)]
    found = eliminate(*many, tol=tol, unroll=0)
    lanes: Any = [Stacked(A.reshape(*A.shape[:2], groups, R)) for A in found]
    return Elimination(*lanes)


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
    if r > LOOP_LIMIT:  # with a row of the identity in the place of one whose pivot is zero
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
    if pairs <= 4 * LOOP_LIMIT and (xp is not NUMPY or pairs * B.shape[1] <= _FEW_PRODUCTS):
        return xp.sum(A[:, :, None] * B[:, None], axis=0)
    each = xp.moveaxis(A, -1, 0).swapaxes(1, 2) @ xp.moveaxis(B, -1, 0)
    return xp.moveaxis(each, 0, -1)


def total_product(A: Array, B: Array) -> Array:
    """``sum_i A_i' B_i``: ``(r, a, G), (r, b, G) -> (a, b)``."""
    xp = namespace(A, B)
    if A.shape[0] <= UNROLL_LIMIT:
        return sum((A[r] @ B[r].T for r in range(A.shape[0])), xp.zeros((), A.dtype))
    return xp.einsum("rag,rbg->ab", A, B)


def psd_cholesky(S: Array) -> Array:
    """Lower Cholesky factor of a positive semidefinite matrix, shape (k, k).

    Columns of negligible pivots are zero, so a singular matrix has a factor too.
    """
    xp = namespace(S)
    beside = xp.zeros((S.shape[0], 0, 1), S.dtype)
    return eliminate(S[:, :, None], beside, tol=_SINGULAR).U[:, :, 0].T


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


def symmetric_blocks(ss: Array, sc: Array, cc: Array) -> Array:
    """``[[ss, sc], [sc', cc]]``, (s + c, s + c)."""
    xp = namespace(ss, sc, cc)
    return xp.concatenate([xp.concatenate([ss, sc], axis=1), xp.concatenate([sc.T, cc], axis=1)])
