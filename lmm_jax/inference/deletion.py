"""What remains of a model when one group or one row is left out, at given theta.

Everything is a function of theta, so that its derivative gives the step that the
optimum takes. With ``B = V^-1 [X y]`` (rows ``b_j``), ``v = (-beta, 1)`` and
``Phi = (X' V^-1 X)^-1``:

- without group g, the waist loses the group's own ``log|V_g|`` and ``[X y]_g' B_g``;
- without row j, ``log|V|`` gains ``log c``, ``c = (V^-1)_jj``, and the gram matrix loses
  ``b_j b_j' / c``, whence ``r^2 - e^2 / d`` and ``beta - Phi x e / d`` with ``x = b_j[:p]``,
  ``e = b_j' v``, ``d = c - x' Phi x`` (Christensen, Pearson & Johnson 1992).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import solve_triangular

from ..covariance.theta import factor_blocks, spread
from ..layouts.contract import marginal
from ..layouts.grouped import Bucket, GroupedLayout, group_cov
from ..likelihood.profile import residual_df
from ..numerics.linalg import eliminate, symmetrize

# Share of its own cross-product that a column of X must keep without the unit.
_RANK_TOL = 1e-10


class BucketRows(NamedTuple):
    """Rows of one bucket in the layout's coordinates, multiplied by root weights."""

    XY: Array  # (n, p + 1)
    Z: tuple[Array, ...]  # (n, k) a stream
    slots: tuple[Array, ...]  # (n,) a stream: first column within the group
    group: Array  # (n,)  group within the bucket


class Whole(NamedTuple):
    """The model with all rows."""

    beta: Array  # (p,)
    log_rss: Array  # ()
    information: Array  # (p, p)  X' V^-1 X


class Without(NamedTuple):
    """The model without unit i, one after the other."""

    criterion: Array  # (K,)  what of -2 log-likelihood depends on theta
    beta: Array  # (K, p)
    log_rss: Array  # (K,)


class Weighted(NamedTuple):
    """Derivatives in the weight of every group's likelihood, theta held."""

    criterion: Array  # (K,)
    beta: Array  # (K, p)
    log_scale: Array  # (K,)


class _Profile(NamedTuple):
    whole: Whole
    Phi: Array  # (p, p)
    v: Array  # (p + 1,)


def without_groups(
    theta: Array, layout: GroupedLayout, rows: Sequence[BucketRows], n_obs: Array, *, reml: bool
) -> tuple[Whole, Without, Weighted]:
    """The model without each group, and its derivatives in the groups' weights.

    Parameters
    ----------
    theta : Array, shape (m,)
    layout : GroupedLayout
    rows : sequence of BucketRows
        One a bucket.
    n_obs : Array, shape (K,)
        Rows of every group, bucket after bucket.
    reml : bool
    """
    logdets, grams = [], []
    for bucket, part in zip(layout.buckets, rows, strict=True):
        Lambda = spread(factor_blocks(theta, layout.structures), bucket.widths)
        M = marginal(Lambda @ Lambda.T, bucket.T)
        U = eliminate(M, jnp.zeros((M.shape[0], 0, M.shape[2]), M.dtype)).U
        logdets.append(2.0 * jnp.sum(jnp.log(jnp.diagonal(U)), axis=1))
        B = _solved(Lambda, bucket, part)
        products = part.XY[:, :, None] * B[:, None, :]
        grams.append(jax.ops.segment_sum(products, part.group, bucket.T.shape[2]))
    logdet, gram = jnp.concatenate(logdets), symmetrize(jnp.concatenate(grams))
    total = _profile(jnp.sum(gram, axis=0))
    nu = residual_df(layout, reml=reml)
    rest = _rest_of_gram(jnp.sum(gram, axis=0)[None] - gram)
    criterion = jnp.sum(logdet) - logdet + (nu - n_obs) * rest.log_rss
    if reml:
        criterion = criterion + rest.criterion
    residual = gram @ total.v  # (K, p + 1)
    share = (residual @ total.v) / jnp.exp(total.whole.log_rss)
    p = total.whole.beta.size
    slope = logdet + n_obs * total.whole.log_rss + nu * share
    if reml:
        slope = slope + jnp.einsum("ab,gab->g", total.Phi, gram[:, :p, :p])
    weighted = Weighted(slope, residual[:, :p] @ total.Phi, share - n_obs / nu)
    return total.whole, rest._replace(criterion=criterion), weighted


def without_rows(
    theta: Array, layout: GroupedLayout, rows: Sequence[BucketRows], *, reml: bool
) -> tuple[Whole, Without]:
    """The model without each row, bucket after bucket; see :func:`without_groups`."""
    B, c, gram = [], [], jnp.zeros_like(layout.S0)
    for bucket, part in zip(layout.buckets, rows, strict=True):
        Lambda = spread(factor_blocks(theta, layout.structures), bucket.widths)
        B.append(_solved(Lambda, bucket, part))
        c.append(1.0 - _leverage(group_cov(Lambda, bucket.T), part))
        gram = gram + part.XY.T @ B[-1]
    total = _profile(symmetrize(gram))
    b, own = jnp.concatenate(B), jnp.concatenate(c)
    p = total.whole.beta.size
    x, e = b[:, :p], b @ total.v
    Phi_x = x @ total.Phi
    d = own - jnp.sum(x * Phi_x, axis=1)
    d = jnp.where(d > _RANK_TOL * own, d, jnp.nan)
    log_rss = jnp.log(jnp.exp(total.whole.log_rss) - e**2 / d)
    nu = residual_df(layout, reml=reml) - 1.0
    # log|V| and, by REML, log|X' V^-1 X|: together log d in the place of log c
    criterion = _logdet(theta, layout, total, reml=reml) + jnp.log(d if reml else own)
    beta = total.whole.beta[None] - Phi_x * (e / d)[:, None]
    return total.whole, Without(criterion + nu * log_rss, beta, log_rss)


def _logdet(theta: Array, layout: GroupedLayout, total: _Profile, *, reml: bool) -> Array:
    logdet = layout.waist_at(theta).logdet
    return logdet + jnp.linalg.slogdet(total.whole.information)[1] if reml else logdet


def _solved(Lambda: Array, bucket: Bucket, rows: BucketRows) -> Array:
    """Rows of ``V^-1 [X y] = [X y] - Z H Z' [X y]``, H the conditional covariance."""
    H = group_cov(Lambda, bucket.T)
    effects = jnp.einsum("abg,rbg,rcg->acg", H, bucket.T, bucket.c)
    B = rows.XY
    for z, slot in zip(rows.Z, rows.slots, strict=True):
        columns = slot[:, None] + jnp.arange(z.shape[1], dtype=slot.dtype)[None]
        B = B - jnp.einsum("nk,nkc->nc", z, effects[columns, :, rows.group[:, None]])
    return B


def _leverage(H: Array, rows: BucketRows) -> Array:
    """``z' H z`` of every row, (n,)."""
    total = jnp.zeros_like(rows.XY[:, 0])
    at = [
        slot[:, None] + jnp.arange(z.shape[1], dtype=slot.dtype)[None]
        for z, slot in zip(rows.Z, rows.slots, strict=True)
    ]
    for z, i in zip(rows.Z, at, strict=True):
        for other, j in zip(rows.Z, at, strict=True):
            block = H[i[:, :, None], j[:, None, :], rows.group[:, None, None]]
            total = total + jnp.einsum("nk,nkl,nl->n", z, block, other)
    return total


def _profile(gram: Array) -> _Profile:
    """Fixed effects and residual sum of squares of one gram matrix."""
    p = gram.shape[0] - 1
    L = jnp.linalg.cholesky(gram)
    inverse = solve_triangular(L[:p, :p], jnp.eye(p, dtype=L.dtype), lower=True)
    beta = inverse.T @ L[p, :p]
    whole = Whole(beta, 2.0 * jnp.log(L[p, p]), gram[:p, :p])
    return _Profile(whole, inverse.T @ inverse, jnp.append(-beta, 1.0))


def _rest_of_gram(gram: Array) -> Without:
    """Log-determinant of the information, beta and rss of many gram matrices (K, p + 1, p + 1).

    NaN where a column of X has nothing left.
    """
    p = gram.shape[1] - 1
    L = jnp.linalg.cholesky(gram)
    pivots = jnp.diagonal(L, axis1=1, axis2=2)
    kept = pivots[:, :p] ** 2 > _RANK_TOL
    z = jnp.where(kept, L[:, p, :p], jnp.nan)
    beta = solve_triangular(L[:, :p, :p], z[:, :, None], lower=True, trans=1)[:, :, 0]
    logdet = 2.0 * jnp.sum(jnp.log(jnp.where(kept, pivots[:, :p], jnp.nan)), axis=1)
    return Without(logdet, beta, 2.0 * jnp.log(pivots[:, p]))
