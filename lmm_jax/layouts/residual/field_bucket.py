"""Plots of whole fields, whose residuals correlate along rows and columns: grids, not vectors.

The covariance of all plots of a grid, ``V = s A (x) B + q I`` with a nugget q and ``s = 1 - q``,
has the eigenvectors of ``A (x) B``, so that products with its inverse are small products along
either axis:

    V^-1 X = U_a [(U_a' X U_b) / d] U_b'        d_ij = s a_i b_j + q        log|V| = sum log d

Plots that were lost are rows of no use: with h the columns of an identity at these,

    P = V^-1 - E' E        E = L^-1 h' V^-1        L L' = h' V^-1 h

is the inverse of the covariance of the others, zero at the lost ones, and ``log|V| + log|L L'|``
its log-determinant. With ``F = P A`` of the rows ``A = [Z X y]``

    G = A' P A        dG_k = -F' V_k F        d2 G_kl = F' (V_k P V_l + V_l P V_k - V_kl) F

where ``V_k X`` are products along the axes as well; see :mod:`lmm_jax.layouts.residual.integrated`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jax import Array

from ...covariance.separable import OnGrid
from ...covariance.structures import Structure
from ...numerics.namespace import custom_jvp, namespace
from ...reprs import brief
from .integrated import WhitenedRows
from .starts import residual_of


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FieldBucket:
    """Groups of one arm with as many fields each, N = G M in all, on grids of one size."""

    c: Array  # (N, w, R, C)  [Z X y] of every plot, zeros where there is none; w = q + p + 1
    present: Array  # (N, R, C)  1 where there is a plot, otherwise 0
    lost: Array  # (N, h, R, C)  a one where there is none, in columns of their own; or nothing
    widths: tuple[int, ...] = field(metadata={"static": True})  # levels of each term in a group
    arm: int = field(metadata={"static": True})
    n_groups: int = field(metadata={"static": True})  # G
    _array: ClassVar[str] = "c"

    __repr__ = brief


class _Covariance(NamedTuple):
    """Of the plots of a grid, ``s A (x) B + q I``."""

    A: Array  # (R, R)
    B: Array  # (C, C)
    s: Any  # ()
    q: Any  # ()


class _Eigen(NamedTuple):
    """Eigenvectors and eigenvalues of the correlation along one axis."""

    vectors: Array  # (r, r)
    values: Array  # (r,)
    rounding: Array  # (r,)  of these, relative to themselves, in units of eps


class _Basis(NamedTuple):
    """Eigenvectors and eigenvalues of all plots."""

    rows: _Eigen
    columns: _Eigen
    d: Array  # (R, C)
    rounding: Array  # (R, C)  of d, relative to itself, in units of eps


class FieldRows(NamedTuple):
    """The plots of a bucket at one theta."""

    grid: OnGrid
    basis: _Basis
    F: Array  # (N, w, R, C)  P A
    E: Array  # (N, h, R, C)

    @property
    def n_params(self) -> int:
        """Parameters of the correlation."""
        return 2 + (self.grid.share is not None)


def grid_of(theta: Array, structures: tuple[Structure, ...], at: FieldBucket) -> OnGrid:
    """The correlation of the plots of a grid."""
    residual, own = residual_of(structures, at.arm)
    shape = at.c.shape[2], at.c.shape[3]
    found: OnGrid = residual.correlation.on_grid(theta[own], shape)  # type: ignore[attr-defined]
    return found


def basis_of(grid: OnGrid) -> _Basis:
    """Eigenvectors and eigenvalues, constants to differentiation: they have none where two meet."""
    A, B, s, q = namespace(grid.rows.f).stop_gradient(_covariance(grid))
    rows, columns = _eigen(A), _eigen(B)
    smooth = s * rows.values[:, None] * columns.values[None]
    d = smooth + q
    rounding = smooth * (rows.rounding[:, None] + columns.rounding[None])
    return _Basis(rows, columns, d, 1.0 + rounding / d)


def _eigen(A: Array) -> _Eigen:
    """Those of ``rho^|i - j|``, of which ``(1 - rho^2) A^-1`` is tridiagonal.

    The eigenvalues of this stay apart as rho goes to 1 or -1, and its largest ones keep the digits
    of those of A that are small. What rho itself rounds moves theta, which is no loss where the
    criterion is at rest.
    """
    xp, r = namespace(A), len(A)
    one = xp.ones(r, A.dtype)
    if r == 1:
        return _Eigen(xp.ones((1, 1), A.dtype), one, one)
    rho = A[0, 1]
    inner = xp.asarray(np.pad(np.ones(r - 2), 1), A.dtype)
    near = xp.asarray(np.eye(r, k=1) + np.eye(r, k=-1), A.dtype)
    T = xp.diag(one + rho**2 * inner) - rho * near
    t, U = xp.linalg.eigh(T)
    left = (1.0 - rho) * (1.0 + rho)
    of_A, of_T = xp.sum(U * (A @ U), axis=0), left / t
    lost_A, lost_T = xp.max(of_A) / xp.abs(of_A), t[-1] / xp.abs(t)
    better = lost_T < lost_A
    values = xp.where(better, of_T, of_A)
    return _Eigen(U, values, xp.where(better, lost_T, lost_A))


def _covariance(grid: OnGrid) -> _Covariance:
    one = namespace(grid.rows.f).ones((), grid.rows.f.dtype)
    s = one if grid.share is None else grid.share.value
    return _Covariance(grid.rows.f, grid.columns.f, s, grid.nugget)


# ------------------------------------------------------------ products along the axes


def turned(X: Array, basis: _Basis) -> Array:
    """Rows in the coordinates of the eigenvectors, (..., R, C)."""
    return basis.rows.vectors.T @ X @ basis.columns.vectors


def back(X: Array, basis: _Basis) -> Array:
    """The way back."""
    return basis.rows.vectors @ X @ basis.columns.vectors.T


def _solved(V: _Covariance, basis: _Basis, X: Array) -> Array:
    """``V^-1 X``, (..., R, C); V for the derivatives."""

    def times(Y: Array) -> Array:
        return V.s * (V.A @ Y @ V.B) + V.q * Y

    found: Array = namespace(X).linear_solve(times, lambda Y: _divided(Y, basis), X)
    return found


def _divided(X: Array, basis: _Basis) -> Array:
    """The same of no derivatives."""
    return back(turned(X, basis) / _beside(basis.d, X), basis)


def _beside(plots: Array, X: Array) -> Array:
    """One number a plot, with as many axes as X."""
    return plots.reshape(*(1,) * (X.ndim - 2), *plots.shape)


@custom_jvp
def _log_of(V: _Covariance, basis: _Basis) -> Array:
    """``log|V|``, (); V for the derivatives."""
    xp = namespace(basis.d)
    return xp.sum(xp.log(basis.d))


@_log_of.defjvp  # type: ignore[attr-defined]
def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    (V, basis), (dV, _) = primals, tangents
    xp, (R, C) = namespace(basis.d), basis.d.shape
    every = xp.eye(R * C, dtype=basis.d.dtype)
    slope = _solved(V, basis, _moved(V, dV, every.reshape(-1, R, C)))  # to any order
    return _log_of(V, basis), xp.sum(xp.diagonal(slope.reshape(-1, R * C)))


def _moved(V: _Covariance, dV: _Covariance, X: Array) -> Array:
    """``dV X``, (..., R, C)."""
    half = V.A @ X
    changed = (dV.A @ X) @ V.B + half @ dV.B
    return V.s * changed + dV.s * (half @ V.B) + dV.q * X


def _first(grid: OnGrid, X: Array) -> list[Array]:
    """``V_k X`` of every parameter, (..., R, C)."""
    half, B = grid.rows.f @ X, grid.columns.f
    return grid.first(half @ B - X, grid.rows.slope @ X @ B, half @ grid.columns.slope)


class _Forms(NamedTuple):
    """``sum X' D Y`` for the derivatives D of V."""

    first: list[Array]  # of every parameter
    second: list[list[Array]]  # of every two


def _forms(grid: OnGrid, X: Array, Y: Array) -> _Forms:
    """Those of all columns of all fields, (N, k, R, C): no product along both axes is made."""
    sum_ = namespace(X).sum
    left, right = [A @ X for A in grid.rows], [Y @ B for B in grid.columns]
    pairs = ((0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (0, 2))
    whole, *rest = (sum_(left[i] * right[j]) for i, j in pairs)
    return _of_parameters(grid, whole - sum_(X * Y), *rest)


def _of_parameters(grid: OnGrid, off: Array, rows: Array, columns: Array, *bent: Array) -> _Forms:
    return _Forms(grid.first(off, rows, columns), grid.second(off, rows, columns, *bent))


def _without_lost(own: FieldRows, X: Array) -> Array:
    """``P X``, (N, k, R, C)."""
    xp = namespace(X)
    found = _divided(X, own.basis)
    if not own.E.shape[1]:
        return found
    N, k, R, C = X.shape
    flat = xp.swapaxes(_inner(own.E, X), 1, 2) @ own.E.reshape(N, -1, R * C)
    return found - flat.reshape(N, k, R, C)


def _inner(X: Array, Y: Array) -> Array:
    """``X' Y`` of every field, (N, a, R, C), (N, b, R, C) to (N, a, b)."""
    xp, (N, a, R, C), b = namespace(X, Y), X.shape, Y.shape[1]
    return X.reshape(N, a, R * C) @ xp.swapaxes(Y.reshape(N, b, R * C), 1, 2)


def _by_group(each: Array, at: FieldBucket) -> Array:
    """Sums over the fields of every group, (G, ...)."""
    xp, G = namespace(each), at.n_groups
    return xp.sum(each.reshape(G, each.shape[0] // G, *each.shape[1:]), axis=1)


# ------------------------------------------------------------ what the layout asks for


def whitened(
    theta: Array, structures: tuple[Structure, ...], at: FieldBucket, q: int
) -> WhitenedRows:
    """The cross-products of the plots, behind q columns of random effects."""
    xp, (N, w, _, _) = namespace(theta, at.c), at.c.shape
    grid = grid_of(theta, structures, at)
    basis, V = basis_of(grid), _covariance(grid)
    solved = _solved(V, basis, xp.concatenate([at.c, at.lost], axis=1))
    F, E = solved[:, :w], solved[:, w:]
    G, log_R = _inner(at.c, F), N * _log_of(V, basis)
    whole, rounding = G, N * xp.sum(basis.rounding)
    if at.lost.shape[1]:
        used = xp.sum(xp.sum(at.lost, axis=3), axis=2)  # (N, h)
        eye = xp.eye(used.shape[1], dtype=F.dtype)[None]
        L = xp.linalg.cholesky(_inner(at.lost, E) + eye * (1.0 - used)[:, None])
        both = xp.concatenate([_inner(at.lost, F), _flat(E)], axis=2)
        both = xp.triangular_solve(L, both, left_side=True, lower=True)
        out, E = both[..., :w], both[..., w:].reshape(E.shape)
        G = G - xp.swapaxes(out, 1, 2) @ out
        F = F - (xp.swapaxes(out, 1, 2) @ _flat(E)).reshape(F.shape)
        pivots = xp.diagonal(L, axis1=-2, axis2=-1)
        log_R = log_R + 2.0 * xp.sum(xp.log(pivots))
        rounding = rounding + xp.sum(used)
    fixed = xp.sum(xp.diagonal(whole, axis1=1, axis2=2)[:, q:], axis=0)
    return WhitenedRows(
        own=FieldRows(grid, basis, F, E),
        G=_by_group(G, at),
        log_R=log_R,
        lost=rounding,
        squares=fixed + _rounding(at.c[:, q:], basis),
    )


def _flat(X: Array) -> Array:
    """One column a plot, (N, k, R C)."""
    return X.reshape(*X.shape[:2], X.shape[2] * X.shape[3])


def _rounding(X: Array, basis: _Basis) -> Array:
    """Of the diagonal of ``X' V^-1 X`` before plots are lost, (k,): of d, and of turned columns."""
    xp, k = namespace(X), X.shape[1]
    each = xp.swapaxes(X, 0, 1).reshape(k, X.shape[0] * basis.d.size)
    turned_X = xp.swapaxes(turned(X, basis), 0, 1)
    size = xp.sqrt(xp.max(each**2, axis=1))[:, None, None, None]
    share = turned_X**2 * basis.rounding[None, None] + xp.abs(turned_X) * size
    share = share / basis.d[None, None]
    return xp.sum(share.reshape(each.shape), axis=1)


def slopes_of_gram(at: FieldBucket, own: FieldRows) -> Array:
    """``dG``, (m, G, w, w)."""
    xp = namespace(own.F)
    return -xp.stack([_by_group(_inner(own.F, X), at) for X in _first(own.grid, own.F)])


def slopes_of_log(at: FieldBucket, own: FieldRows) -> Array:
    """Derivatives of ``log|R|``, (m,)."""
    xp, n = namespace(own.F), at.c.shape[0]
    whole, lost = _diagonals(own), _forms(own.grid, own.E, own.E)
    pairs = zip(whole.first, lost.first, strict=True)
    return xp.stack([n * xp.sum(D / own.basis.d) - form for D, form in pairs])


def _diagonals(own: FieldRows) -> _Forms:
    """Diagonals of the derivatives of V in the coordinates of the eigenvectors, (R, C) each."""
    grid, basis = own.grid, own.basis
    U, W = basis.rows.vectors, basis.columns.vectors
    a, b = basis.rows.values[:, None], basis.columns.values[None]
    rows, bent_rows = (_along(D, U)[:, None] for D in (grid.rows.slope, grid.rows.bend))
    columns, bent_columns = (_along(D, W)[None] for D in (grid.columns.slope, grid.columns.bend))
    return _of_parameters(
        grid, a * b - 1.0, rows * b, a * columns, rows * columns, bent_rows * b, a * bent_columns
    )


def _along(D: Array, U: Array) -> Array:
    """Diagonal of ``U' D U``."""
    return namespace(D, U).sum(U * (D @ U), axis=0)


def row_traces(at: FieldBucket, own: FieldRows) -> Array:
    """``tr(P V_k P V_l)`` of all fields, (m, m)."""
    xp, N, basis = namespace(own.F), at.c.shape[0], own.basis
    r, s = 1.0 / basis.d, _covariance(own.grid).s
    U, W = basis.rows.vectors, basis.columns.vectors
    diagonals = xp.stack([(D * r).reshape(-1) for D in _diagonals(own).first])
    out = diagonals @ diagonals.T
    beside = [  # what couples eigenvectors of one axis
        xp.sum((_coupled(own.grid.rows.slope, U) @ r) * r * basis.columns.values[None] ** 2),
        xp.sum((r @ _coupled(own.grid.columns.slope, W)) * r * basis.rows.values[:, None] ** 2),
    ]
    more = xp.stack([*beside, *[xp.zeros_like(s)] * (own.n_params - 2)])
    out = N * (out + s * s * xp.eye(own.n_params, dtype=r.dtype) * more[None])
    if not own.E.shape[1]:
        return out
    moved = _first(own.grid, own.E)
    solved = [_divided(X, basis) for X in moved]
    H = [_inner(own.E, X) for X in moved]
    lost = [
        [xp.sum(H[k] * H[j]) - 2.0 * xp.sum(moved[k] * solved[j]) for j in range(own.n_params)]
        for k in range(own.n_params)
    ]
    return out + xp.stack([xp.stack(row) for row in lost])


def _coupled(D: Array, U: Array) -> Array:
    """Squares of ``U' D U`` off its diagonal."""
    xp = namespace(D, U)
    return (U.T @ D @ U) ** 2 * (1.0 - xp.eye(len(U), dtype=U.dtype))


def bend(Q: Array, at: FieldBucket, own: FieldRows) -> Array:
    """``sum <Q_i, d2 G_i> + d2 log|R_i|``, (m, m); Q is symmetric, (G, w, w)."""
    xp, m = namespace(Q, own.F), own.n_params
    moved = _first(own.grid, own.F)
    solved = [_without_lost(own, X) for X in moved]
    mixed, mixed_F = [_mixed(Q, X, at) for X in moved], _mixed(Q, own.F, at)
    S = xp.stack([xp.stack([xp.sum(mixed[k] * solved[j]) for j in range(m)]) for k in range(m)])
    whole = _diagonals(own).second
    forms = [_forms(own.grid, *pair).second for pair in ((own.E, own.E), (mixed_F, own.F))]
    N, d = at.c.shape[0], own.basis.d
    bent = [
        [N * xp.sum(whole[k][j] / d) - sum(form[k][j] for form in forms) for j in range(m)]
        for k in range(m)
    ]
    return S + S.T + xp.stack([xp.stack(row) for row in bent]) - row_traces(at, own)


def _mixed(Q: Array, X: Array, at: FieldBucket) -> Array:
    """Columns of every field combined by the Q of its group, (N, w, R, C)."""
    (N, w, R, C), G = X.shape, at.n_groups
    return (Q[:, None] @ X.reshape(G, N // G, w, R * C)).reshape(N, w, R, C)


def halves(at: FieldBucket, own: FieldRows) -> Array:
    """Of ``A' P V_k P V_l P A = g_k g_l'``, g of every group, (m, G, w, M R C)."""
    xp, (N, w, R, C), G = namespace(own.F), at.c.shape, at.n_groups
    root = xp.sqrt(own.basis.d)
    unit = _flat(turned(own.E, own.basis) * root[None, None])  # rows of a projection
    out = []
    for X in _first(own.grid, own.F):
        half = _flat(turned(X, own.basis) / root[None, None])
        half = half - (half @ xp.swapaxes(unit, 1, 2)) @ unit
        out.append(xp.swapaxes(half.reshape(G, N // G, w, R * C), 1, 2).reshape(G, w, -1))
    return xp.stack(out)


def bent_rows(at: FieldBucket, own: FieldRows, W: Array, z: Array) -> Array:
    """``F' (sum_kl W_kl V_kl - sum_k z_k V_k) F`` of every group, (G, w, w)."""
    grid, F, m = own.grid, own.F, own.n_params
    (A, dA, ddA), (B, dB, ddB) = grid.rows, grid.columns
    half, along = A @ F, dA @ F
    off, rows, columns = half @ B - F, along @ B, half @ dB
    second = grid.second(off, rows, columns, along @ dB, ddA @ F @ B, half @ ddB)
    total = -sum(z[k] * X for k, X in enumerate(grid.first(off, rows, columns)))
    total = total + sum(W[k, j] * second[k][j] for k in range(m) for j in range(m))
    return _by_group(_inner(F, total), at)
