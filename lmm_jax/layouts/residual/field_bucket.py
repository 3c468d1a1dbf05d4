"""Plots of whole fields, whose residuals correlate along rows and columns: grids, not vectors.

With V the covariance of all plots of a grid (:mod:`lmm_jax.layouts.residual.grid_products`),
those that were lost are rows of no use: with h the columns of an identity at these,

    P = V^-1 - E' E        E = L^-1 h' V^-1        L L' = h' V^-1 h

is the inverse of the covariance of the others, zero at the lost ones, and ``log|V| + log|L L'|``
its log-determinant. With ``F = P A`` of the rows ``A = [Z X y]``

    G = A' P A        dG_k = -F' V_k F        d2 G_kl = F' (V_k P V_l + V_l P V_k - V_kl) F

where ``V_k X`` are products along the axes as well; see :mod:`lmm_jax.layouts.residual.integrated`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import jax
from jax import Array

from ...covariance.residuals import residual_of
from ...covariance.separable import OnGrid
from ...covariance.structures import Structure
from ...numerics.namespace import namespace
from ...reprs import brief
from ..response import OfResponse
from .grid_products import (
    Basis,
    Forms,
    basis_of,
    covariance_of,
    divided,
    forms,
    log_of,
    moved_by_each,
    of_parameters,
    solved_by,
    turned,
)
from .integrated import WhitenedRows


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FieldBucket(OfResponse):
    """Groups of one arm with as many fields each, N = G M in all, on grids of one size."""

    c: Array  # (N, w, R, C)  [Z X y] of every plot, zeros where there is none; w = q + p + 1
    present: Array  # (N, R, C)  1 where there is a plot, otherwise 0
    lost: Array  # (N, h, R, C)  a one where there is none, in columns of their own; or nothing
    widths: tuple[int, ...] = field(metadata={"static": True})  # levels of each term in a group
    arm: int = field(metadata={"static": True})
    n_groups: int = field(metadata={"static": True})  # G
    _array: ClassVar[str] = "c"

    __repr__ = brief


class FieldRows(NamedTuple):
    """The plots of a bucket at one theta."""

    grid: OnGrid
    basis: Basis
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


def _without_lost(own: FieldRows, X: Array) -> Array:
    """``P X``, (N, k, R, C)."""
    xp = namespace(X)
    found = divided(X, own.basis)
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
    basis, V = basis_of(grid), covariance_of(grid)
    solved = solved_by(V, basis, xp.concatenate([at.c, at.lost], axis=1))
    F, E = solved[:, :w], solved[:, w:]
    G, log_R = _inner(at.c, F), N * log_of(V, basis)
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


def _rounding(X: Array, basis: Basis) -> Array:
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
    return -xp.stack([_by_group(_inner(own.F, X), at) for X in moved_by_each(own.grid, own.F)])


def slopes_of_log(at: FieldBucket, own: FieldRows) -> Array:
    """Derivatives of ``log|R|``, (m,)."""
    xp, n = namespace(own.F), at.c.shape[0]
    whole, lost = _diagonals(own), forms(own.grid, own.E, own.E)
    pairs = zip(whole.first, lost.first, strict=True)
    return xp.stack([n * xp.sum(D / own.basis.d) - form for D, form in pairs])


def _diagonals(own: FieldRows) -> Forms:
    """Diagonals of the derivatives of V in the coordinates of the eigenvectors, (R, C) each."""
    grid, basis = own.grid, own.basis
    U, W = basis.rows.vectors, basis.columns.vectors
    a, b = basis.rows.values[:, None], basis.columns.values[None]
    rows, bent_rows = (_along(D, U)[:, None] for D in (grid.rows.slope, grid.rows.bend))
    columns, bent_columns = (_along(D, W)[None] for D in (grid.columns.slope, grid.columns.bend))
    return of_parameters(
        grid, a * b - 1.0, rows * b, a * columns, rows * columns, bent_rows * b, a * bent_columns
    )


def _along(D: Array, U: Array) -> Array:
    """Diagonal of ``U' D U``."""
    return namespace(D, U).sum(U * (D @ U), axis=0)


def row_traces(at: FieldBucket, own: FieldRows) -> Array:
    """``tr(P V_k P V_l)`` of all fields, (m, m)."""
    xp, N, basis = namespace(own.F), at.c.shape[0], own.basis
    r, s = 1.0 / basis.d, covariance_of(own.grid).s
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
    moved = moved_by_each(own.grid, own.E)
    solved = [divided(X, basis) for X in moved]
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
    moved = moved_by_each(own.grid, own.F)
    solved = [_without_lost(own, X) for X in moved]
    mixed, mixed_F = [_mixed(Q, X, at) for X in moved], _mixed(Q, own.F, at)
    S = xp.stack([xp.stack([xp.sum(mixed[k] * solved[j]) for j in range(m)]) for k in range(m)])
    whole = _diagonals(own).second
    moves = [forms(own.grid, *pair).second for pair in ((own.E, own.E), (mixed_F, own.F))]
    N, d = at.c.shape[0], own.basis.d
    bent = [
        [N * xp.sum(whole[k][j] / d) - sum(form[k][j] for form in moves) for j in range(m)]
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
    for X in moved_by_each(own.grid, own.F):
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
