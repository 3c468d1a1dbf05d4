"""Grouped layout: independent groups, compressed to a few small matrices each.

With ``M_i = I + T_i Psi T_i'`` the waist of the model is

    logdet = sum_i log|M_i|          gram = S0 + sum_i c_i' M_i^-1 c_i

Rows and groups of zeros add nothing, so padding is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ..covariance import basis, factor_blocks, gather, spread
from ..linalg import eliminate, group_product, symmetrize, total_product


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bucket:
    """Groups of similar width, padded to one shape."""

    T: Array  # (q, q, G)      triangular factor of each group's random-effects design
    c: Array  # (q, p + 1, G)  Q_i' [X_i y_i]
    widths: tuple[int, ...] = field(metadata={"static": True})  # levels of each term in a group


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GroupedLayout:
    """Sufficient statistics of a mixed model with independent groups.

    Columns of X are orthonormal, those of every term whitened and y a unit OLS
    residual; ``whiteners``, ``beta_map`` and its companions lead back.
    """

    buckets: tuple[Bucket, ...]
    S0: Array  # (p + 1, p + 1)  cross-products of [X y] that no random effect reaches
    whiteners: tuple[Array, ...]  # (k, k) a term: Lambda_user = A Lambda
    beta_map: Array  # (p, p)
    beta_origin: Array  # (p,)    beta_user = beta_shift + beta_origin + y_scale * beta_map @ beta
    beta_shift: Array  # (p,)    the mean of y on a constant column, apart to keep its digits
    y_scale: Array  # ()
    n_obs: Array  # ()
    log_weights: Array  # ()  sum of the logarithms of the prior weights
    sizes: tuple[int, ...] = field(metadata={"static": True})  # coefficients per level of each term
    n_components: int = field(metadata={"static": True})  # trailing terms: variance components


class Waist(NamedTuple):
    """All that the likelihood needs to know of the data at one covariance."""

    logdet: Array  # ()              log|V| relative to sigma^2
    gram: Array  # (p + 1, p + 1)  [X y]' V^-1 [X y]


class WaistJet(NamedTuple):
    """The waist with its first derivatives in theta and what the second ones need."""

    waist: Waist
    dlogdet: Array  # (m,)
    dgram: Array  # (m, p + 1, p + 1)
    groups: tuple[GroupTerms, ...]  # one a bucket


class GroupTerms(NamedTuple):
    """Per-group matrices that all derivatives in Psi are made of."""

    P: Array  # (q, q, G)      T' M^-1 T
    u: Array  # (q, p + 1, G)  T' M^-1 c


class Curvature(NamedTuple):
    """Second derivative of ``logdet + <W, gram>`` at fixed W."""

    hessian: Array  # (m, m)     in theta
    psi_gradients: tuple[Array, ...]  # (k, k) a term: first derivative in its Psi


def waist(blocks: Sequence[Array], layout: GroupedLayout) -> Waist:
    """``(log|V|, [X y]' V^-1 [X y])`` at relative covariances of the whitened terms.

    Parameters
    ----------
    blocks : sequence of Array, shape (k, k)
        ``Psi`` of every term in the layout's coordinates; may be singular.
    layout : GroupedLayout

    Returns
    -------
    Waist
        Differentiable to any order in ``blocks`` and in the layout's arrays.
    """
    logdet, gram = jnp.zeros((), layout.S0.dtype), layout.S0
    for bucket in layout.buckets:
        Psi = spread(blocks, bucket.widths)
        M = _marginal(Psi, bucket.T)
        part = _integrate(M, bucket.c)
        logdet, gram = logdet + part.logdet, gram + part.gram
    return Waist(logdet=logdet, gram=gram)


def _marginal(Psi: Array, T: Array) -> Array:
    """``M = I + T Psi T'`` of every group, (q, q, G)."""
    q = T.shape[0]
    TP = jnp.einsum("rag,ab->rbg", T, Psi)
    TPT = group_product(jnp.swapaxes(TP, 0, 1), jnp.swapaxes(T, 0, 1))
    return jnp.eye(q, dtype=T.dtype)[:, :, None] + TPT


@jax.custom_jvp
def _integrate(M: Array, c: Array) -> Waist:
    """``sum_i log|M_i|`` and ``sum_i c_i' M_i^-1 c_i``."""
    U, w = eliminate(M, c)
    return Waist(logdet=_logdet(U), gram=total_product(w, w))


@_integrate.defjvp
def _integrate_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Waist, Waist]:
    # d log|M| = tr(N dM), d(c' N c) = -w' dM w + dc' w + w' dc with N = M^-1, w = N c:
    # products of small matrices instead of a derivative through the Cholesky factor
    (M, c), (dM, dc) = primals, tangents
    N = _inverse(M)
    w = group_product(N, c)
    cross = total_product(dc, w)
    dgram = cross + cross.T - total_product(w, group_product(jnp.swapaxes(dM, 0, 1), w))
    return _integrate(M, c), Waist(logdet=jnp.sum(N * dM), gram=dgram)


@jax.custom_jvp
def _inverse(M: Array) -> Array:
    """``M_i^-1`` of every group, (q, q, G)."""
    r = M.shape[0]
    identity = jnp.broadcast_to(jnp.eye(r, dtype=M.dtype)[:, :, None], M.shape)
    half = eliminate(M, identity).X
    return group_product(half, half)


@_inverse.defjvp
def _inverse_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (M,), (dM,) = primals, tangents
    N = _inverse(M)
    return N, -group_product(N, group_product(jnp.swapaxes(dM, 0, 1), N))


def _logdet(U: Array) -> Array:
    return 2.0 * jnp.sum(jnp.log(jnp.diagonal(U)))


def waist_jet(theta: Array, layout: GroupedLayout) -> WaistJet:
    """Waist and its theta derivatives from one elimination (closed forms).

    With ``P = T' M^-1 T`` and ``u = T' M^-1 c``

        d logdet = tr(P dPsi)    d gram = -u' dPsi u    dP = -P dPsi P    du = -P dPsi u
    """
    C = layout.S0.shape[0]
    logdet, gram = jnp.zeros((), theta.dtype), layout.S0
    dlogdet, dgram = jnp.zeros_like(theta), jnp.zeros((theta.size, C, C), theta.dtype)
    groups = []
    for bucket in layout.buckets:
        Lambda = spread(factor_blocks(theta, layout.sizes), bucket.widths)
        part, terms = _eliminate_bucket(Lambda, bucket)
        D = _psi_tangents(Lambda, _basis(layout, bucket))
        logdet, gram = logdet + part.logdet, gram + part.gram
        dlogdet = dlogdet + jnp.einsum("ab,kab->k", jnp.sum(terms.P, axis=-1), D)
        dgram = dgram - _quadratic_tangents(terms.u, D)
        groups.append(terms)
    return WaistJet(Waist(logdet, gram), dlogdet, dgram, tuple(groups))


def _eliminate_bucket(Lambda: Array, bucket: Bucket) -> tuple[Waist, GroupTerms]:
    q = Lambda.shape[0]
    M = _marginal(Lambda @ Lambda.T, bucket.T)
    U, X = eliminate(M, jnp.concatenate([bucket.T, bucket.c], axis=1))
    K, w = X[:, :q], X[:, q:]
    part = Waist(logdet=_logdet(U), gram=total_product(w, w))
    return part, GroupTerms(P=group_product(K, K), u=group_product(K, w))


def _psi_tangents(Lambda: Array, E: Array) -> Array:
    """``dPsi / dtheta_k = E_k Lambda' + Lambda E_k'``, (m, q, q)."""
    EL = jnp.einsum("kab,cb->kac", E, Lambda)
    return EL + jnp.swapaxes(EL, 1, 2)


def _basis(layout: GroupedLayout, bucket: Bucket) -> Array:
    """Matrices ``E_k`` of one bucket in the dtype of the layout, (m, q, q)."""
    return jnp.asarray(basis(layout.sizes, bucket.widths), layout.S0.dtype)


def _quadratic_tangents(u: Array, D: Array) -> Array:
    """``sum_i u_i' D_k u_i`` for every k, (m, p + 1, p + 1)."""
    if u.shape[0] <= D.shape[0]:
        outer = jnp.einsum("acg,bdg->acbd", u, u)
        return jnp.einsum("acbd,kab->kcd", outer, D)
    Du = jnp.einsum("kab,bdg->akdg", D, u)
    return jnp.einsum("acg,akdg->kcd", u, Du)


def curvature(theta: Array, W: Array, jet: WaistJet, layout: GroupedLayout) -> Curvature:
    """Second derivatives of ``logdet + <W, gram>`` in theta, W held fixed.

    With ``R = u W u'`` and ``D_k = dPsi / dtheta_k``

        sum_i <P - R, D_kl> + tr((2 R - P) D_k P D_l)
    """
    hessian = jnp.zeros((theta.size, theta.size), theta.dtype)
    psi = [jnp.zeros((k, k), theta.dtype) for k in layout.sizes]
    for bucket, (P, u) in zip(layout.buckets, jet.groups, strict=True):
        E = _basis(layout, bucket)
        D = _psi_tangents(spread(factor_blocks(theta, layout.sizes), bucket.widths), E)
        uW = jnp.einsum("acg,cd->adg", u, W)
        R = group_product(jnp.swapaxes(uW, 0, 1), jnp.swapaxes(u, 0, 1))
        hessian = hessian + _double_traces(2.0 * R - P, P, D)
        slope = jnp.sum(P - R, axis=-1)
        SE = jnp.einsum("ab,kbc->kac", slope, E)
        hessian = hessian + 2.0 * jnp.einsum("kab,lab->kl", SE, E)
        for t, block in enumerate(gather(slope, layout.sizes, bucket.widths)):
            psi[t] = psi[t] + block
    return Curvature(hessian=symmetrize(hessian), psi_gradients=tuple(psi))


def _double_traces(A: Array, P: Array, D: Array) -> Array:
    """``sum_i tr(A_i D_k P_i D_l)`` for every k and l, (m, m)."""
    q, _, groups = P.shape
    if q**2 <= 4 * D.shape[0]:
        # sum over the groups first: one product of (q^2, G) matrices
        moments = A.reshape(q * q, groups) @ P.reshape(q * q, groups).T
        return jnp.einsum("abcd,kbc,lda->kl", moments.reshape(q, q, q, q), D, D)
    AD = jnp.einsum("abg,kbc->kacg", A, D)
    PD = jnp.einsum("abg,kbc->kacg", P, D)
    return jnp.einsum("kacg,lcag->kl", AD, PD)


class BlupTerms(NamedTuple):
    """Conditional moments of the random effects of one bucket."""

    b: Array  # (q, G)     conditional means, whitened coordinates, y in the layout's units
    cov: Array  # (q, q, G)  conditional covariance in units of sigma^2


def blups(theta: Array, beta: Array, bucket: Bucket, sizes: tuple[int, ...]) -> BlupTerms:
    """Conditional mean ``Psi u (y - X beta)`` and covariance of each group's random effects.

    The covariance ``Lambda (I + Lambda' T'T Lambda)^-1 Lambda'`` is that of
    ``b`` given y at known theta and beta.
    """
    Lambda = spread(factor_blocks(theta, sizes), bucket.widths)
    q = Lambda.shape[0]
    _, terms = _eliminate_bucket(Lambda, bucket)
    residual = jnp.einsum("acg,c->ag", terms.u, jnp.append(-beta, 1.0))
    b = jnp.einsum("ab,bg->ag", Lambda @ Lambda.T, residual)
    TL = jnp.einsum("rag,ab->rbg", bucket.T, Lambda)
    inner = jnp.eye(q, dtype=theta.dtype)[:, :, None] + group_product(TL, TL)
    right = jnp.broadcast_to(Lambda.T[:, :, None], inner.shape)
    half = eliminate(inner, right).X
    return BlupTerms(b=b, cov=group_product(half, half))
