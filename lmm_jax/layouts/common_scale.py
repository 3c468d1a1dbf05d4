"""The common frame of a layout: fixed effects and terms on one scale, y as an OLS residual.

The likelihood is the same in every basis; a good one keeps the digits. All maps
are constants to the differentiation and stay in the layout.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jax import Array

from ..covariance.structures import Structure
from ..numerics.linalg import log_diagonal
from ..numerics.namespace import namespace

# Squares of a column whitened to one, below which they are the rounding of the rows; where the
# columns are merely close, the first whitening misses one by less than a digit or two.
_ROUNDING = 1e-6
# Correlation of two columns that is none: they stay as they are.
_SLIGHT = 0.05


class RowWeights(NamedTuple):
    """What the prior weights say of every row; a row of weight zero is absent."""

    weights: Array  # (n,)
    present: Array  # (n,)  bool
    root: Array  # (n,)  square root
    n_obs: Array  # ()
    logs: Array  # ()  sum of the logarithms


def read_weights(weights: Any) -> RowWeights:
    """Roots and logarithms of the weights whose derivatives are zero at an absent row."""
    xp = namespace(weights)
    present = weights > 0
    there = xp.where(present, weights, 1.0)  # inside: no derivative 0 / 0
    return RowWeights(
        weights=weights,
        present=present,
        root=xp.where(present, xp.sqrt(there), 0.0),
        n_obs=xp.sum(present.astype(weights.dtype)),
        logs=xp.sum(xp.where(present, xp.log(there), 0.0)),
    )


class Frame(NamedTuple):
    """Fixed effects and responses on one scale, and the way back."""

    X: Array  # (n, p)  orthonormal columns (in the weighted inner product)
    Y: Array  # (n, R)  OLS residuals of unit norm
    beta_map: Array  # (p, p)
    log_det_map: Array  # ()
    beta_origin: Array  # (p, R)
    beta_shift: Array  # (p, R)
    y_scale: Array  # (R,)


def fixed_frame(X: Array, Y: Array, rows: RowWeights) -> Frame:
    """Orthonormal columns for X, and for every response its OLS residual in units of its norm."""
    xp = namespace(X, Y, rows.weights)
    weights, mask = rows.weights[:, None], rows.present.astype(Y.dtype)[:, None]
    X, Y = xp.by_columns(X), xp.by_columns(Y)  # all that follows goes column by column
    columns = xp.stop_gradient((X * mask, Y * mask))
    units, unit = powers_of_two(columns[0]), powers_of_two(columns[1])
    X, Y = X / units[None], Y / unit[None]
    centring, shift = centring_of(X, Y, rows)
    Y = (Y - X @ shift) * mask
    X = (centring.T @ X.T).T * mask
    if X.shape[1] == 0:
        orthogonal = centring
    else:
        orthogonal, _ = orthonormal_map(xp.stop_gradient(X.T @ (X * weights)))
    X = (orthogonal.T @ X.T).T
    origin, heavy = xp.zeros((X.shape[1], Y.shape[1]), X.dtype), X * weights
    for _ in range(2):  # the second round removes what rounding left of a huge first one
        step = xp.stop_gradient(heavy.T @ Y)
        Y = Y - X @ step
        origin = origin + step
    norm = xp.stop_gradient(xp.sqrt(rows.weights @ (Y * Y)))
    norm = xp.where(norm > 0, norm, 1.0)
    inner_map = centring @ orthogonal
    rescale = unit[None] / units[:, None]
    return Frame(
        X=X,
        Y=Y / norm[None],
        beta_map=inner_map / units[:, None],
        log_det_map=log_det_of_map(orthogonal, units),
        beta_origin=rescale * (inner_map @ origin),
        beta_shift=rescale * shift,
        y_scale=norm * unit,
    )


def log_det_of_map(orthogonal: Array, units: Array) -> Array:
    """``log|det|`` of the map of beta: to centre columns leaves it, the rest is triangular."""
    xp = namespace(orthogonal, units)
    return log_diagonal(orthogonal) - xp.sum(xp.log(units))


def orthonormal_map(gram: Array) -> tuple[Array, Array]:
    """R such that ``R' gram R = I``, and the smallest pivot of the scaled gram matrix."""
    xp = namespace(gram)
    if gram.shape[0] == 0:
        return gram, xp.ones((), gram.dtype)
    scale = xp.rsqrt(xp.diagonal(gram))
    L = xp.linalg.cholesky(gram * scale[:, None] * scale[None, :])
    identity = xp.eye(len(gram), dtype=gram.dtype)
    inverse = xp.solve_triangular(L, identity, lower=True).T
    return scale[:, None] * inverse, xp.min(xp.diagonal(L)) ** 2


def powers_of_two(columns: Any) -> Any:
    """Exact units that bring the largest entry of every column near one."""
    xp = namespace(columns)
    largest = xp.max(xp.abs(columns), axis=0, initial=0.0)
    return xp.exp2(xp.floor(xp.log2(xp.where(largest > 0, largest, 1.0))))


def centring_of(X: Array, Y: Array, rows: RowWeights) -> tuple[Array, Array]:
    """Map that centres the columns of X by a constant column, and the same shift of Y, (p, R).

    Subtracting a mean is exact in floating point where a projection is not:
    raw calendar years and y near 1e9 keep their digits.
    """
    xp = namespace(X, Y, rows.weights)
    p, present = X.shape[1], rows.present[:, None]
    identity, none = xp.eye(p, dtype=X.dtype), xp.zeros(p, X.dtype)
    if p == 0:
        return identity, xp.zeros((0, Y.shape[1]), X.dtype)
    X, Y = xp.stop_gradient((X, Y))
    low = xp.min(xp.where(present, X, np.inf), axis=0)
    high = xp.max(xp.where(present, X, -np.inf), axis=0)
    constant = (low == high) & (low != 0)
    first = constant & (xp.arange(p) == xp.argmax(constant))
    unit = xp.where(first, 1.0, none)
    value = xp.where(xp.any(constant), xp.sum(xp.where(first, low, 0.0)), 1.0)
    means = xp.sum(xp.where(present, X, 0.0), axis=0) / rows.n_obs
    means = xp.where(constant, 0.0, means)
    y_means = xp.sum(xp.where(present, Y, 0.0), axis=0) / rows.n_obs
    return identity - unit[:, None] * (means / value)[None], unit[:, None] * (y_means / value)[None]


def whitener(z: Array, weights: Array, structure: Structure) -> Array:
    """Lower triangular A such that the columns of ``Z A`` are orthonormal per row, (k, k).

    ``Lambda_user = A Lambda`` stays lower triangular. Where the columns are
    dependent only their scale is taken out, and of a term with a structure the scale that
    all of them have in common: ``A Psi A'`` must keep it.
    """
    xp = namespace(z, weights)
    k = z.shape[2]
    rows = xp.stop_gradient(z)
    squares = _second_moments(rows, weights)
    if not structure.unrestricted:
        return common_whitener(squares)
    first, worst = lower_whitener(squares)
    if k == 1:
        return first
    size = xp.diagonal(squares)

    def again(A: Array) -> Array:
        # nearly dependent columns, a covariate far from zero: cross-products of the columns
        # as first whitened restore the digits that the squares of the raw ones have lost
        squares = _second_moments(rows @ A, weights)
        # of a column that depends on others only the rounding of the rows is left, by its squares
        left = xp.where(size > 0, xp.diagonal(squares), 1.0)
        scale = xp.where(size > 0, xp.rsqrt(xp.where(size > 0, size, 1.0)), 1.0)
        apart = xp.min(left) > _ROUNDING
        return xp.where(apart, A @ lower_whitener(squares)[0], xp.diag(scale))

    return xp.cond(worst < 1e-2, again, lambda A: A, first)


def _second_moments(rows: Array, weights: Array) -> Array:
    """Cross-products of the columns per row, (k, k)."""
    xp = namespace(rows, weights)
    total = xp.maximum(xp.sum((weights > 0).astype(rows.dtype)), 1.0)
    return xp.einsum("nsa,nsb,n->ab", rows, rows, weights) / total


def common_whitener(gram: Array) -> Array:
    """Multiple of the identity that makes the mean square of all columns one."""
    xp = namespace(gram)
    mean = xp.mean(xp.diagonal(gram))
    scale = xp.where(mean > 0, xp.rsqrt(xp.where(mean > 0, mean, 1.0)), 1.0)
    return scale * xp.eye(gram.shape[0], dtype=gram.dtype)


def lower_whitener(gram: Array) -> tuple[Array, Array]:
    """Whitener from the cross-products of the columns, and its smallest pivot."""
    xp = namespace(gram)
    k = gram.shape[0]
    diagonal = xp.diagonal(gram)
    scale = xp.where(diagonal > 0, xp.rsqrt(xp.where(diagonal > 0, diagonal, 1.0)), 1.0)
    if k == 1:
        return scale[:, None], xp.ones((), gram.dtype)
    correlation = gram * scale[:, None] * scale[None, :]
    identity = xp.eye(k, dtype=gram.dtype)
    L, worst = _reversed_root(correlation)
    # a trace of a covariate in the intercept would leave it nearly, not quite, what the levels
    # of a factor within the group add up to, of which cross-products keep no digits
    told = xp.where(xp.abs(correlation) < _SLIGHT, identity, correlation)
    plain, last = _reversed_root(told)
    L = xp.where(last > 0.5 * worst, plain, L)
    B = xp.where(worst > 1e-7, xp.where(xp.isfinite(L), L, 0.0), identity)
    return scale[:, None] * xp.solve_triangular(B, identity, lower=True), worst


def _reversed_root(correlation: Array) -> tuple[Array, Array]:
    """Lower triangular B with ``B' B = correlation``, and its smallest pivot.

    A Cholesky factor with rows and columns reversed.
    """
    xp = namespace(correlation)
    L = xp.linalg.cholesky(correlation[::-1, ::-1])[::-1, ::-1].T
    return L, xp.min(xp.where(xp.isfinite(xp.diagonal(L)), xp.diagonal(L), 0.0))
