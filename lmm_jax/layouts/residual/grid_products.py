"""Products along the axes of a grid of plots: covariance, eigenvectors, derivatives.

The covariance of all plots, ``V = s A (x) B + q I`` with a nugget q and ``s = 1 - q``, has the
eigenvectors of ``A (x) B``, so that products with its inverse are small products along either
axis:

    V^-1 X = U_a [(U_a' X U_b) / d] U_b'        d_ij = s a_i b_j + q        log|V| = sum log d
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jax import Array

from ...covariance.separable import OnGrid
from ...numerics.namespace import custom_jvp, namespace


class Covariance(NamedTuple):
    """Of the plots of a grid, ``s A (x) B + q I``."""

    A: Array  # (R, R)
    B: Array  # (C, C)
    s: Any  # ()
    q: Any  # ()


class Eigen(NamedTuple):
    """Eigenvectors and eigenvalues of the correlation along one axis."""

    vectors: Array  # (r, r)
    values: Array  # (r,)
    rounding: Array  # (r,)  of these, relative to themselves, in units of eps


class Basis(NamedTuple):
    """Eigenvectors and eigenvalues of all plots."""

    rows: Eigen
    columns: Eigen
    d: Array  # (R, C)
    rounding: Array  # (R, C)  of d, relative to itself, in units of eps


def basis_of(grid: OnGrid) -> Basis:
    """Eigenvectors and eigenvalues, constants to differentiation: they have none where two meet."""
    A, B, s, q = namespace(grid.rows.f).stop_gradient(covariance_of(grid))
    rows, columns = _eigen(A), _eigen(B)
    smooth = s * rows.values[:, None] * columns.values[None]
    d = smooth + q
    rounding = smooth * (rows.rounding[:, None] + columns.rounding[None])
    return Basis(rows, columns, d, 1.0 + rounding / d)


def _eigen(A: Array) -> Eigen:
    """Those of ``rho^|i - j|``, of which ``(1 - rho^2) A^-1`` is tridiagonal.

    The eigenvalues of this stay apart as rho goes to 1 or -1, and its largest ones keep the digits
    of those of A that are small. What rho itself rounds moves theta, which is no loss where the
    criterion is at rest.
    """
    xp, r = namespace(A), len(A)
    one = xp.ones(r, A.dtype)
    if r == 1:
        return Eigen(xp.ones((1, 1), A.dtype), one, one)
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
    return Eigen(U, values, xp.where(better, lost_T, lost_A))


def covariance_of(grid: OnGrid) -> Covariance:
    """The covariance of the plots at their correlations, its scale and its nugget."""
    one = namespace(grid.rows.f).ones((), grid.rows.f.dtype)
    s = one if grid.share is None else grid.share.value
    return Covariance(grid.rows.f, grid.columns.f, s, grid.nugget)


def turned(X: Array, basis: Basis) -> Array:
    """Rows in the coordinates of the eigenvectors, (..., R, C)."""
    return basis.rows.vectors.T @ X @ basis.columns.vectors


def back(X: Array, basis: Basis) -> Array:
    """The way back."""
    return basis.rows.vectors @ X @ basis.columns.vectors.T


def solved_by(V: Covariance, basis: Basis, X: Array) -> Array:
    """``V^-1 X``, (..., R, C); V for the derivatives."""

    def times(Y: Array) -> Array:
        return V.s * (V.A @ Y @ V.B) + V.q * Y

    found: Array = namespace(X).linear_solve(times, lambda Y: divided(Y, basis), X)
    return found


def divided(X: Array, basis: Basis) -> Array:
    """The same of no derivatives."""
    return back(turned(X, basis) / _beside(basis.d, X), basis)


def _beside(plots: Array, X: Array) -> Array:
    """One number a plot, with as many axes as X."""
    return plots.reshape(*(1,) * (X.ndim - 2), *plots.shape)


@custom_jvp
def log_of(V: Covariance, basis: Basis) -> Array:
    """``log|V|``, (); V for the derivatives."""
    xp = namespace(basis.d)
    return xp.sum(xp.log(basis.d))


@log_of.defjvp  # type: ignore[attr-defined]
def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    (V, basis), (dV, _) = primals, tangents
    xp, (R, C) = namespace(basis.d), basis.d.shape
    every = xp.eye(R * C, dtype=basis.d.dtype)
    slope = solved_by(V, basis, _moved(V, dV, every.reshape(-1, R, C)))  # to any order
    return log_of(V, basis), xp.sum(xp.diagonal(slope.reshape(-1, R * C)))


def _moved(V: Covariance, dV: Covariance, X: Array) -> Array:
    """``dV X``, (..., R, C)."""
    half = V.A @ X
    changed = (dV.A @ X) @ V.B + half @ dV.B
    return V.s * changed + dV.s * (half @ V.B) + dV.q * X


def moved_by_each(grid: OnGrid, X: Array) -> list[Array]:
    """``V_k X`` of every parameter, (..., R, C)."""
    half, B = grid.rows.f @ X, grid.columns.f
    return grid.first(half @ B - X, grid.rows.slope @ X @ B, half @ grid.columns.slope)


class Forms(NamedTuple):
    """``sum X' D Y`` for the derivatives D of V."""

    first: list[Array]  # of every parameter
    second: list[list[Array]]  # of every two


def forms(grid: OnGrid, X: Array, Y: Array) -> Forms:
    """Those of all columns of all fields, (N, k, R, C): no product along both axes is made."""
    sum_ = namespace(X).sum
    left, right = [A @ X for A in grid.rows], [Y @ B for B in grid.columns]
    pairs = ((0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (0, 2))
    whole, *rest = (sum_(left[i] * right[j]) for i, j in pairs)
    return of_parameters(grid, whole - sum_(X * Y), *rest)


def of_parameters(grid: OnGrid, off: Array, rows: Array, columns: Array, *bent: Array) -> Forms:
    """First and second derivatives from those along each axis."""
    return Forms(grid.first(off, rows, columns), grid.second(off, rows, columns, *bent))
