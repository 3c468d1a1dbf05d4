"""The common frame of a layout: fixed effects and terms on one scale, y as an OLS residual.

The likelihood is the same in every basis; a good one keeps the digits. All maps
are constants to the differentiation and stay in the layout.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..covariance.structures import Structure
from ..numerics.linalg import log_diagonal

# Squares of a column whitened to one, below which they are the rounding of the rows; where the
# columns are merely close, the first whitening misses one by less than a digit or two.
_ROUNDING = 1e-6


class RowWeights(NamedTuple):
    """What the prior weights say of every row; a row of weight zero is absent."""

    weights: Array  # (n,)
    present: Array  # (n,)  bool
    root: Array  # (n,)  square root
    n_obs: Array  # ()
    logs: Array  # ()  sum of the logarithms


def read_weights(weights: Any) -> RowWeights:
    """Roots and logarithms of the weights whose derivatives are zero at an absent row."""
    present = weights > 0
    there = jnp.where(present, weights, 1.0)  # inside: no derivative 0 / 0
    return RowWeights(
        weights=weights,
        present=present,
        root=jnp.where(present, jnp.sqrt(there), 0.0),
        n_obs=jnp.sum(present.astype(weights.dtype)),
        logs=jnp.sum(jnp.where(present, jnp.log(there), 0.0)),
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
    weights, mask = rows.weights[:, None], rows.present.astype(Y.dtype)[:, None]
    columns = lax.stop_gradient((X * mask, Y * mask))
    units, unit = powers_of_two(columns[0]), powers_of_two(columns[1])
    X, Y = X / units[None], Y / unit[None]
    centring, shift = _centring(X, Y, rows)
    Y = (Y - X @ shift) * mask
    X = (X @ centring) * mask
    if X.shape[1] == 0:
        orthogonal = centring
    else:
        orthogonal, _ = orthonormal_map(lax.stop_gradient(X.T @ (X * weights)))
    X = X @ orthogonal
    origin, heavy = jnp.zeros((X.shape[1], Y.shape[1]), X.dtype), X * weights
    for _ in range(2):  # the second round removes what rounding left of a huge first one
        step = lax.stop_gradient(heavy.T @ Y)
        Y = Y - X @ step
        origin = origin + step
    norm = lax.stop_gradient(jnp.sqrt(rows.weights @ (Y * Y)))
    norm = jnp.where(norm > 0, norm, 1.0)
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
    return log_diagonal(orthogonal) - jnp.sum(jnp.log(units))


def orthonormal_map(gram: Array) -> tuple[Array, Array]:
    """R such that ``R' gram R = I``, and the smallest pivot of the scaled gram matrix."""
    if gram.shape[0] == 0:
        return gram, jnp.ones((), gram.dtype)
    scale = lax.rsqrt(jnp.diagonal(gram))
    L = jnp.linalg.cholesky(gram * scale[:, None] * scale[None, :])
    identity = jnp.eye(len(gram), dtype=gram.dtype)
    inverse = jax.scipy.linalg.solve_triangular(L, identity, lower=True).T
    return scale[:, None] * inverse, jnp.min(jnp.diagonal(L)) ** 2


def powers_of_two(columns: Any, xp: Any = jnp) -> Any:
    """Exact units that bring the largest entry of every column near one (host: ``xp=numpy``)."""
    largest = xp.max(xp.abs(columns), axis=0, initial=0.0)
    return xp.exp2(xp.floor(xp.log2(xp.where(largest > 0, largest, 1.0))))


def _centring(X: Array, Y: Array, rows: RowWeights) -> tuple[Array, Array]:
    """Map that centres the columns of X by a constant column, and the same shift of Y, (p, R).

    Subtracting a mean is exact in floating point where a projection is not:
    raw calendar years and y near 1e9 keep their digits.
    """
    p, present = X.shape[1], rows.present[:, None]
    identity, none = jnp.eye(p, dtype=X.dtype), jnp.zeros(p, X.dtype)
    if p == 0:
        return identity, jnp.zeros((0, Y.shape[1]), X.dtype)
    X, Y = lax.stop_gradient((X, Y))
    low = jnp.min(jnp.where(present, X, jnp.inf), axis=0)
    high = jnp.max(jnp.where(present, X, -jnp.inf), axis=0)
    constant = (low == high) & (low != 0)
    pick = jnp.argmax(constant)
    unit = jnp.where(jnp.any(constant), jnp.zeros(p, X.dtype).at[pick].set(1.0), none)
    value = jnp.where(jnp.any(constant), low[pick], 1.0)
    means = jnp.sum(jnp.where(present, X, 0.0), axis=0) / rows.n_obs
    means = jnp.where(constant, 0.0, means)
    y_means = jnp.sum(jnp.where(present, Y, 0.0), axis=0) / rows.n_obs
    return identity - unit[:, None] * (means / value)[None], unit[:, None] * (y_means / value)[None]


def whitener(z: Array, weights: Array, structure: Structure) -> Array:
    """Lower triangular A such that the columns of ``Z A`` are orthonormal per row, (k, k).

    ``Lambda_user = A Lambda`` stays lower triangular. Where the columns are
    dependent only their scale is taken out, and of a term with a structure the scale that
    all of them have in common: ``A Psi A'`` must keep it.
    """
    k = z.shape[2]
    rows = lax.stop_gradient(z)
    squares = _second_moments(rows, weights)
    if not structure.unrestricted:
        return common_whitener(squares)
    first, worst = lower_whitener(squares)
    if k == 1:
        return first
    size = jnp.diagonal(squares)

    def again(A: Array) -> Array:
        # nearly dependent columns, a covariate far from zero: cross-products of the columns
        # as first whitened restore the digits that the squares of the raw ones have lost
        squares = _second_moments(rows @ A, weights)
        # of a column that depends on others only the rounding of the rows is left, by its squares
        left = jnp.where(size > 0, jnp.diagonal(squares), 1.0)
        scale = jnp.where(size > 0, lax.rsqrt(jnp.where(size > 0, size, 1.0)), 1.0)
        apart = jnp.min(left) > _ROUNDING
        return jnp.where(apart, A @ lower_whitener(squares)[0], jnp.diag(scale))

    return lax.cond(worst < 1e-2, again, lambda A: A, first)


def _second_moments(rows: Array, weights: Array) -> Array:
    """Cross-products of the columns per row, (k, k)."""
    total = jnp.maximum(jnp.sum((weights > 0).astype(rows.dtype)), 1.0)
    return jnp.einsum("nsa,nsb,n->ab", rows, rows, weights) / total


def common_whitener(gram: Array) -> Array:
    """Multiple of the identity that makes the mean square of all columns one."""
    mean = jnp.mean(jnp.diagonal(gram))
    scale = jnp.where(mean > 0, lax.rsqrt(jnp.where(mean > 0, mean, 1.0)), 1.0)
    return scale * jnp.eye(gram.shape[0], dtype=gram.dtype)


def lower_whitener(gram: Array) -> tuple[Array, Array]:
    """Whitener from the cross-products of the columns, and its smallest pivot."""
    k = gram.shape[0]
    diagonal = jnp.diagonal(gram)
    scale = jnp.where(diagonal > 0, lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1.0)), 1.0)
    if k == 1:
        return scale[:, None], jnp.ones((), gram.dtype)
    correlation = gram * scale[:, None] * scale[None, :]
    # B' B = correlation with B lower triangular: a Cholesky with rows and columns reversed
    L = jnp.linalg.cholesky(correlation[::-1, ::-1])[::-1, ::-1].T
    worst = jnp.min(jnp.where(jnp.isfinite(jnp.diagonal(L)), jnp.diagonal(L), 0.0))
    identity = jnp.eye(k, dtype=gram.dtype)
    B = jnp.where(worst > 1e-7, jnp.where(jnp.isfinite(L), L, 0.0), identity)
    return scale[:, None] * jax.scipy.linalg.solve_triangular(B, identity, lower=True), worst
