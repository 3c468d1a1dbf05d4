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

from ..covariance.theta import factor_blocks, spread
from ..layouts.buckets import Bucket
from ..layouts.group_algebra import group_cov, marginal
from ..layouts.grouped import GroupedLayout
from ..likelihood.criterion import factor_gram, residual_df, varying
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


class _Fixed(NamedTuple):
    whole: Whole
    Phi: Array  # (p, p)
    v: Array  # (p + 1,)
    logdet: Array  # ()  log|X' V^-1 X|


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
    others = jnp.sum(logdet) - logdet
    criterion = varying(others, rest.criterion, rest.log_rss, nu - n_obs, reml=reml)
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
    log_c = jnp.log(own)
    logdet, log_x = layout.waist_at(theta).logdet + log_c, total.logdet + jnp.log(d) - log_c
    beta = total.whole.beta[None] - Phi_x * (e / d)[:, None]
    return total.whole, Without(varying(logdet, log_x, log_rss, nu, reml=reml), beta, log_rss)


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


def _profile(gram: Array) -> _Fixed:
    """Fixed effects and residual sum of squares of one gram matrix."""
    p = gram.shape[0] - 1
    at = factor_gram(gram)
    beta = at.inverse.T @ at.z
    whole = Whole(beta, jnp.log(at.rss), gram[:p, :p])
    return _Fixed(whole, at.inverse.T @ at.inverse, jnp.append(-beta, 1.0), at.logdet)


def _rest_of_gram(gram: Array) -> Without:
    """Log-determinant of the information, beta and rss of many gram matrices (K, p + 1, p + 1).

    NaN where a column of X has nothing left.
    """
    at = factor_gram(gram)
    kept = jnp.diagonal(at.inverse, axis1=1, axis2=2) ** 2 < 1.0 / _RANK_TOL
    determined = jnp.where(jnp.all(kept, axis=1), 1.0, jnp.nan)
    beta = jnp.einsum("gab,ga->gb", at.inverse, at.z)
    return Without(at.logdet * determined, beta * determined[:, None], jnp.log(at.rss))
