"""Grouped layout: independent groups, compressed to a few small matrices each.

With ``M_i = I + T_i Psi T_i'`` the waist of the model is

    logdet = sum_i log|M_i|          gram = S0 + sum_i c_i' M_i^-1 c_i

Rows and groups of zeros add nothing, so padding is exact. An entry may stand for
several groups with the same T (:mod:`lmm_jax.layouts.merged`): log-determinants and
traces then count it ``copies`` times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..covariance import basis, factor_blocks, gather, spread, stack_theta
from ..linalg import eliminate, group_product, symmetrize, total_product
from .waist import (
    BlupTerms,
    Curvature,
    Layout,
    Waist,
    WaistJet,
    double_traces,
    integrate,
    logdet_of,
    marginal,
    psi_curvatures,
    psi_tangents,
    quadratic_tangents,
    weighted,
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bucket:
    """Groups of similar width, padded to one shape."""

    T: Array  # (q, q, G)      triangular factor of each group's random-effects design
    c: Array  # (q, p + 1, G)  Q_i' [X_i y_i]
    copies: Array  # (G,)         groups that an entry stands for; 1 unless groups are merged
    widths: tuple[int, ...] = field(metadata={"static": True})  # levels of each term in a group


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GroupedLayout(Layout):
    """Sufficient statistics of a mixed model with independent groups."""

    buckets: tuple[Bucket, ...]

    def waist(self, blocks: Sequence[Array]) -> Waist:
        """See :meth:`Layout.waist`."""
        return waist(blocks, self)

    def jet(self, theta: Array) -> WaistJet:
        """See :meth:`Layout.jet`."""
        return waist_jet(theta, self)

    def curvature(self, theta: Array, W: Array, jet: WaistJet) -> Curvature:
        """See :meth:`Layout.curvature`."""
        return curvature(theta, W, jet, self)

    def average_information(self, theta: Array, v: Array, jet: WaistJet) -> Array:
        """See :meth:`Layout.average_information`."""
        return average_information(theta, v, jet, self)

    def psi_slopes(self, theta: Array, W: Array, jet: WaistJet) -> tuple[Array, ...]:
        """See :meth:`Layout.psi_slopes`."""
        return psi_slopes(W, jet, self)

    def blups(self, theta: Array, beta: Array) -> tuple[BlupTerms, ...]:
        """See :meth:`Layout.blups`: one entry a bucket."""
        return tuple(blups(theta, beta, bucket, self.sizes) for bucket in self.buckets)

    def start_moments(self) -> Array:
        """See :meth:`Layout.start_moments`."""
        return moment_theta(self)

    def ranks(self) -> Array:
        """See :meth:`Layout.ranks`."""
        return bucket_ranks(self.buckets)

    def size(self) -> int:
        """See :meth:`Layout.size`."""
        return sum(b.T.size + b.c.size for b in self.buckets)

    def rotate(self, t: int, Q: np.ndarray) -> GroupedLayout:
        """See :meth:`Layout.rotate`."""
        return replace(
            self, buckets=tuple(rotate_bucket(b, Q, t, self.sizes) for b in self.buckets)
        )


class GroupTerms(NamedTuple):
    """Per-group matrices that all derivatives in Psi are made of."""

    P: Array  # (q, q, G)      T' M^-1 T
    u: Array  # (q, p + 1, G)  T' M^-1 c


def waist(blocks: Sequence[Array], layout: GroupedLayout) -> Waist:
    """``logdet`` and ``gram`` at relative covariances of the whitened terms."""
    logdet, gram = jnp.zeros((), layout.S0.dtype), layout.S0
    for bucket in layout.buckets:
        Psi = spread(blocks, bucket.widths)
        M = marginal(Psi, bucket.T)
        part = integrate(M, bucket.c, bucket.copies)
        logdet, gram = logdet + part.logdet, gram + part.gram
    return Waist(logdet=logdet, gram=gram)


def waist_jet(theta: Array, layout: GroupedLayout) -> WaistJet:
    """Waist and its theta derivatives from one elimination (closed forms).

    With ``P = T' M^-1 T`` and ``u = T' M^-1 c``, P counted ``copies`` times,

        d logdet = tr(P dPsi)    d gram = -u' dPsi u    dP = -P dPsi P    du = -P dPsi u
    """
    C = layout.S0.shape[0]
    logdet, gram = jnp.zeros((), theta.dtype), layout.S0
    dlogdet, dgram = jnp.zeros_like(theta), jnp.zeros((theta.size, C, C), theta.dtype)
    groups = []
    for bucket in layout.buckets:
        Lambda = spread(factor_blocks(theta, layout.sizes), bucket.widths)
        part, terms = _eliminate_bucket(Lambda, bucket)
        D = psi_tangents(Lambda, _basis(layout, bucket))
        logdet, gram = logdet + part.logdet, gram + part.gram
        dlogdet = dlogdet + jnp.einsum(
            "ab,kab->k", jnp.sum(weighted(terms.P, bucket.copies), axis=-1), D
        )
        dgram = dgram - quadratic_tangents(terms.u, D)
        groups.append(terms)
    return WaistJet(Waist(logdet, gram), dlogdet, dgram, tuple(groups))


def _eliminate_bucket(Lambda: Array, bucket: Bucket) -> tuple[Waist, GroupTerms]:
    q = Lambda.shape[0]
    M = marginal(Lambda @ Lambda.T, bucket.T)
    U, X = eliminate(M, jnp.concatenate([bucket.T, bucket.c], axis=1))
    K, w = X[:, :q], X[:, q:]
    part = Waist(logdet=logdet_of(U, bucket.copies), gram=total_product(w, w))
    return part, GroupTerms(P=group_product(K, K), u=group_product(K, w))


def _basis(layout: GroupedLayout, bucket: Bucket) -> Array:
    """Matrices ``E_k`` of one bucket in the dtype of the layout, (m, q, q)."""
    return jnp.asarray(basis(layout.sizes, bucket.widths), layout.S0.dtype)


def curvature(theta: Array, W: Array, jet: WaistJet, layout: GroupedLayout) -> Curvature:
    """Second derivatives of ``logdet + <W, gram>`` in theta, W held fixed.

    With ``R = u W u'`` and ``D_k = dPsi / dtheta_k``

        sum_i <P - R, D_kl> + tr((2 R - P) D_k P D_l)
    """
    hessian = jnp.zeros((theta.size, theta.size), theta.dtype)
    for bucket, (P, u) in zip(layout.buckets, jet.rest, strict=True):
        Lambda = spread(factor_blocks(theta, layout.sizes), bucket.widths)
        D = psi_tangents(Lambda, _basis(layout, bucket))
        hessian = hessian + double_traces(2.0 * _shares(u, W) - weighted(P, bucket.copies), P, D)
    slopes = psi_slopes(W, jet, layout)
    return Curvature(symmetrize(hessian + psi_curvatures(slopes)), slopes)


def _shares(u: Array, W: Array) -> Array:
    """``R = u W u'`` of every group, (q, q, G)."""
    uW = jnp.einsum("acg,cd->adg", u, W)
    return group_product(jnp.swapaxes(uW, 0, 1), jnp.swapaxes(u, 0, 1))


def psi_slopes(W: Array, jet: WaistJet, layout: GroupedLayout) -> tuple[Array, ...]:
    """``sum_i P_i - R_i``, summed over the levels of each term, (k, k)."""
    psi = [jnp.zeros((k, k), W.dtype) for k in layout.sizes]
    for bucket, (P, u) in zip(layout.buckets, jet.rest, strict=True):
        slope = jnp.sum(weighted(P, bucket.copies) - _shares(u, W), axis=-1)
        for t, block in enumerate(gather(slope, layout.sizes, bucket.widths)):
            psi[t] = psi[t] + block
    return tuple(psi)


def average_information(theta: Array, v: Array, jet: WaistJet, layout: GroupedLayout) -> Array:
    """``sum_i (D_k u_i v)' P_i (D_l u_i v)``, (m, m)."""
    out = jnp.zeros((theta.size, theta.size), theta.dtype)
    for bucket, (P, u) in zip(layout.buckets, jet.rest, strict=True):
        Lambda = spread(factor_blocks(theta, layout.sizes), bucket.widths)
        D = psi_tangents(Lambda, _basis(layout, bucket))
        g = jnp.einsum("kab,bg->akg", D, jnp.einsum("acg,c->ag", u, v))
        out = out + total_product(g, group_product(P, g))
    return symmetrize(out)


def blups(theta: Array, beta: Array, bucket: Bucket, sizes: tuple[int, ...]) -> BlupTerms:
    """Conditional mean ``Psi u (y - X beta)`` and covariance of each group's random effects.

    The covariance ``Lambda (I + Lambda' T'T Lambda)^-1 Lambda'`` is that of
    ``b`` given y at known theta and beta.
    """
    Lambda = spread(factor_blocks(theta, sizes), bucket.widths)
    _, terms = _eliminate_bucket(Lambda, bucket)
    residual = jnp.einsum("acg,c->ag", terms.u, jnp.append(-beta, 1.0))
    b = jnp.einsum("ab,bg->ag", Lambda @ Lambda.T, residual)
    return BlupTerms(b=b, cov=group_cov(Lambda, bucket.T))


def group_cov(Lambda: Array, T: Array) -> Array:
    """``Lambda (I + Lambda' T'T Lambda)^-1 Lambda'`` of every group, (q, q, G)."""
    q = Lambda.shape[0]
    TL = jnp.einsum("rag,ab->rbg", T, Lambda)
    inner = jnp.eye(q, dtype=Lambda.dtype)[:, :, None] + group_product(TL, TL)
    right = jnp.broadcast_to(Lambda.T[:, :, None], inner.shape)
    half = eliminate(inner, right).X
    return group_product(half, half)


def moment_theta(layout: GroupedLayout) -> Array:
    """Moment estimate of one relative standard deviation a coefficient, as theta.

    ``E |T_a' c|^2 = sigma^2 (sum |T_a|^2 + psi sum |T_a|^4)`` for every column a of T,
    with sigma^2 from the rows that the random effects do not reach.
    """
    p = layout.beta_origin.size
    free = jnp.maximum(layout.n_obs - layout.ranks() - p, 1.0)
    sigma2 = layout.S0[p, p] / free
    observed, first, second = [], [], []
    for b in layout.buckets:
        norms = jnp.sum(b.T**2, axis=0)  # (q, G)
        observed.append(jnp.sum(jnp.sum(b.T * b.c[:, None, p], axis=0) ** 2, axis=1))
        first.append(jnp.sum(norms * b.copies[None], axis=1))
        second.append(jnp.sum(norms**2 * b.copies[None], axis=1))
    blocks, start = [], [0] * len(layout.buckets)
    for t, k in enumerate(layout.sizes):
        sums = []
        for part in (observed, first, second):
            total = jnp.zeros(k, layout.S0.dtype)
            for i, b in enumerate(layout.buckets):
                stop = start[i] + k * b.widths[t]
                total = total + part[i][start[i] : stop].reshape(-1, k).sum(axis=0)
            sums.append(total)
        start = [s + k * b.widths[t] for s, b in zip(start, layout.buckets, strict=True)]
        psi = (sums[0] / jnp.maximum(sigma2, 1e-300) - sums[1]) / jnp.maximum(sums[2], 1e-300)
        psi = jnp.where(jnp.isfinite(psi), jnp.clip(psi, 1e-4, 1e8), 1.0)
        blocks.append(jnp.diag(jnp.sqrt(psi)))
    return stack_theta(blocks)


def bucket_ranks(buckets: Sequence[Bucket]) -> Array:
    """Pivots that are not zero, ()."""
    counts = [jnp.sum(jnp.where(jnp.diagonal(b.T) != 0, b.copies[:, None], 0.0)) for b in buckets]
    return jnp.sum(jnp.stack(counts))


def rotate_bucket(bucket: Bucket, Q: np.ndarray, t: int, sizes: Sequence[int]) -> Bucket:
    """The bucket with the columns of term t multiplied by Q, level by level."""
    start = sum(k * w for k, w in zip(sizes[:t], bucket.widths[:t], strict=True))
    k, w = sizes[t], bucket.widths[t]
    T = np.array(bucket.T)
    part = T[:, start : start + k * w].reshape(T.shape[0], w, k, -1)
    turned = np.einsum("rwag,ab->rwbg", part, Q)
    T[:, start : start + k * w] = turned.reshape(T.shape[0], w * k, -1)
    return replace(bucket, T=jnp.asarray(T))
