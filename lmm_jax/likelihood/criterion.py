"""The end of every criterion: -2 log L from the sums over the groups, with two derivatives.

    -2 log L = log|V| + [log|X' V^-1 X|] + nu (1 + log(2 pi r^2 / nu)) - sum log w

with the bracket and ``nu = n - p`` for REML, without it and ``nu = n`` for ML;
``r^2`` is the generalized residual sum of squares at the profiled beta. Where sigma is known
``nu log(2 pi sigma^2) + r^2 / sigma^2`` is in the place of what has nu.

For one model the arrays have the shapes given here and ``einsum`` is that of ``jax.numpy``.
Of many models side by side (*lanes*) every array has one more axis, the last, and ``einsum``
goes lane by lane.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from ..layouts.contract import Curvature, Maps
from ..numerics.linalg import log_diagonal
from ..numerics.namespace import namespace

Einsum = Callable[..., Array]


class Profile(NamedTuple):
    """beta, and sigma unless it is known, profiled out of the gram matrix."""

    deviance: Array  # ()      -2 log-likelihood (REML criterion where asked)
    beta: Array  # (p,)
    scale: Array  # ()      sigma^2 in units of y_scale^2: r^2 / nu, or as it is known
    cov_beta: Array  # (p, p)  (X' V^-1 X)^-1 relative to sigma^2


class Jet(NamedTuple):
    """The criterion with two derivatives, and what standard errors are made of."""

    value: Array  # ()
    gradient: Array  # (m,)
    hessian: Array  # (m, m)
    psi_gradients: tuple[Array, ...]  # (k, k) a term: derivative of the criterion in Psi
    psi_halves: tuple[Array, ...]  # (k, k) a term: the same times Lambda
    noise: Array  # ()  rounding of the value where digits are lost
    profile: Profile
    dlog_scale: Array  # (m,)       d log sigma^2 / d theta, that of r^2; zero where it is known
    dbeta: Array  # (m, p)     d beta / d theta
    dcov_beta: Array  # (m, p, p)  d (X' V^-1 X)^-1 / d theta


def empty_jet(xp: Any, m: int, p: int, sizes: tuple[int, ...], dtype: Any) -> Jet:
    """A jet of zeros.

    Parameters
    ----------
    xp : namespace
    m, p : int
        Covariance parameters and fixed effects.
    sizes : tuple of int
        Coefficients of every term.
    dtype : dtype
    """

    def of(*shape: int) -> Array:
        zeros: Array = xp.zeros(shape, dtype)
        return zeros

    blocks = tuple(of(k, k) for k in sizes)
    at = Profile(of(), of(p), of(), of(p, p))
    return Jet(of(), of(m), of(m, m), blocks, blocks, of(), at, of(m), of(m, p), of(m, p, p))


class Factored(NamedTuple):
    """The gram matrix ``[X y]' V^-1 [X y]`` by its Cholesky factor ``[Lx 0; z' r]``."""

    inverse: Array  # (p, p)  Lx^-1, lower triangular
    z: Array  # (p,)
    rss: Array  # ()  r^2
    logdet: Array  # ()  log|X' V^-1 X|


class Slopes(NamedTuple):
    """Derivatives in theta of the sums over the groups; the residual is at the profiled beta."""

    dlogdet: Array  # (m,)
    drss: Array  # (m,)     d (y - X beta)' V^-1 (y - X beta) at fixed beta
    B: Array  # (m, p)     d X' V^-1 (y - X beta) at fixed beta
    A: Array  # (m, p, p)  d X' V^-1 X


class Lost(NamedTuple):
    """What was rounded, in units of eps."""

    logdet: Array  # ()
    xx: Array  # (p,)  diagonal of X' V^-1 X
    yy: Array  # ()


def residual_df(maps: Maps, *, reml: bool) -> Array:
    """``nu``: n - p for REML, n for ML."""
    return maps.n_obs - (maps.beta_origin.shape[0] if reml else 0)


def free_df(maps: Maps, *, reml: bool) -> Array | None:
    """``nu`` where sigma^2 is profiled out; None where it is known."""
    return residual_df(maps, reml=reml) if maps.sigma2 is None else None


def scale_of(rss: Array, maps: Maps, *, reml: bool) -> Array:
    """sigma^2 in units of ``y_scale^2``: ``r^2 / nu``, or as it is known."""
    if maps.sigma2 is None:
        return rss / residual_df(maps, reml=reml)
    return maps.sigma2 / maps.y_scale**2


def factor_gram(gram: Array) -> Factored:
    """Cholesky factorization of one gram matrix, or of many along leading axes."""
    xp = namespace(gram)
    p = gram.shape[-1] - 1
    L = xp.linalg.cholesky(gram)
    Lx = L[..., :p, :p]
    identity = xp.broadcast_to(xp.eye(p, dtype=L.dtype), Lx.shape)
    inverse = xp.solve_triangular(Lx, identity, lower=True)
    return Factored(inverse, L[..., p, :p], L[..., p, p] ** 2, 2.0 * log_diagonal(Lx))


def varying(logdet: Array, logdet_x: Array, log_rss: Array, nu: Array, *, reml: bool) -> Array:
    """What of -2 log L depends on theta."""
    value = logdet + nu * log_rss
    return value + logdet_x if reml else value


def deviance(logdet: Array, logdet_x: Array, rss: Array, maps: Maps, *, reml: bool) -> Array:
    """-2 log-likelihood at the profiled or known scale, all constants included."""
    xp = namespace(logdet, logdet_x, rss, maps.n_obs)
    nu = residual_df(maps, reml=reml)
    if maps.sigma2 is None:
        # logarithms apart: the product would leave the range of floats for extreme units of y
        log_rss = xp.log(rss) + 2.0 * xp.log(maps.y_scale)
        value = varying(logdet, logdet_x, log_rss, nu, reml=reml)
        value = value + nu * (1.0 + xp.log(2.0 * np.pi / nu))
    else:
        value = varying(logdet, logdet_x, xp.log(maps.sigma2), nu, reml=reml)
        value = value + nu * np.log(2.0 * np.pi) + rss / scale_of(rss, maps, reml=reml)
    value = value - maps.log_weights
    return value - 2.0 * maps.log_det_map if reml else value


def _along_first(spec: str, *operands: Array) -> Array:
    """Einstein sum of matrices and vectors that may have leading axes in common."""
    names = spec.replace(",", ",...").replace("->", "->...")
    out: Array = namespace(operands).einsum("..." + names, *operands)
    return out


def finish_profile(
    logdet: Array, at: Factored, maps: Maps, *, reml: bool, einsum: Einsum | None = None
) -> Profile:
    """Profile beta and sigma^2 out of a gram matrix that is factored, or many on leading axes."""
    einsum = einsum or _along_first
    return Profile(
        deviance=deviance(logdet, at.logdet, at.rss, maps, reml=reml),
        beta=einsum("ab,a->b", at.inverse, at.z),
        scale=scale_of(at.rss, maps, reml=reml),
        cov_beta=einsum("ca,cb->ab", at.inverse, at.inverse),
    )


def finish_jet(
    at: Profile,
    inverse: Array,
    first: Slopes,
    bent: Curvature,
    lost: Lost,
    nu: Array | None,
    *,
    reml: bool,
    exact: bool = True,
    einsum: Einsum | None = None,
) -> Jet:
    """The criterion's derivatives in theta from those of the sums.

    Parameters
    ----------
    at : Profile
    inverse : Array, shape (p, p)
        See :class:`Factored`.
    first : Slopes
    bent : Curvature
        Second derivatives at fixed ``W = d criterion / d gram``.
    lost : Lost
    nu : Array, shape (), or None
        None: sigma^2 is not profiled out, but stays at ``at.scale``.
    reml : bool
    exact : bool
        Whether ``bent`` holds second derivatives; the average information in their place
        has half of what beta takes and no traces of products.
    einsum : callable
        The same as ``einsum`` for every lane.
    """
    xp = namespace(inverse, at.scale)
    einsum = einsum or xp.einsum
    weight = 1.0 / at.scale  # of r^2 in the criterion
    # C A C' with C the inverse factor: cov_beta itself would cost A its digits
    A = einsum("kac,bc->kab", einsum("ac,kcb->kab", inverse, first.A), inverse)
    dbeta = einsum("ka,ab->kb", first.B, at.cov_beta)
    gradient = first.dlogdet + weight[None] * first.drss
    share = (2.0 if exact else 1.0) * weight
    hessian = bent.hessian - share[None, None] * einsum("kb,lb->kl", dbeta, first.B)
    if nu is None:
        rho = xp.zeros_like(first.drss)
    else:
        rho = first.drss * (weight / nu)[None]
        hessian = hessian - (nu[None] * rho)[:, None] * rho[None]
    if reml:
        p = len(inverse)
        identity = xp.eye(p, dtype=A.dtype).reshape(p, p, *(1,) * (A.ndim - 3))
        gradient = gradient + einsum("kab,ab->k", A, identity)
    if reml and exact:
        hessian = hessian - einsum("kab,lab->kl", A, A)
    return Jet(
        value=at.deviance,
        gradient=gradient,
        hessian=hessian,
        psi_gradients=bent.psi_gradients,
        psi_halves=bent.psi_halves,
        noise=_noise(lost, at, inverse, reml=reml),
        profile=at,
        dlog_scale=rho,
        dbeta=dbeta,
        dcov_beta=-einsum("ca,kcb->kab", inverse, einsum("kab,bc->kac", A, inverse)),
    )


def _noise(lost: Lost, at: Profile, inverse: Array, *, reml: bool) -> Array:
    """Rounding of the criterion, to first order: sums of magnitudes over what is left of them.

    A pivot of the gram matrix keeps the rounding of its diagonal entry, ``r^2`` among them.
    """
    xp = namespace(inverse, at.scale)
    logs = lost.logdet * (1 + len(inverse) if reml else 1)
    noise = logs + (lost.yy + xp.sum(at.beta**2 * lost.xx, axis=0)) / at.scale
    if reml:  # the diagonal of cov_beta
        noise = noise + xp.sum(lost.xx * xp.sum(inverse**2, axis=0), axis=0)
    return np.finfo(noise.dtype).eps * noise
