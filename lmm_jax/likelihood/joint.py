"""The criterion with sigma^2 as a coordinate, and a fixed effect as another where it is held.

    D(theta, tau) = log|V| + [log|X' V^-1 X|] + nu (log 2 pi + tau) + r^2 / sigma^2 - sum log w

with ``tau = log sigma^2``, beta profiled out; at ``sigma^2 = r^2 / nu`` it is the profiled
criterion (:mod:`lmm_jax.likelihood.criterion`). With ``l' beta = b`` held, ``C`` for
``(X' V^-1 X)^-1``,

    r_b^2 = r^2 + (b - l' beta)^2 / l' C l         beta_b = beta + C l (b - l' beta) / l' C l
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jax import Array

from ..layouts.contract import Curvature, Layout
from ..numerics.linalg import exact
from ..numerics.namespace import namespace
from .criterion import Lost, Profile, Slopes, factor_gram, finish_jet, residual_df


class JointJet(NamedTuple):
    """The criterion in ``(theta, tau)``, or ``(theta, tau, b)``, with two derivatives."""

    value: Array  # ()
    gradient: Array  # (M,)
    hessian: Array  # (M, M)
    noise: Array  # ()    rounding of the value where digits are lost
    beta: Array  # (p,)  fixed effects that minimize it, in the layout's coordinates


class _Solved(NamedTuple):
    """Fixed effects with or without a constraint."""

    beta: Array  # (p,)
    rss: Array  # ()
    cov: Array  # (p, p)  inverse of X' V^-1 X along what is free
    along: Array  # (p,)    d beta / d b
    q: Array  # ()      l' C l
    gap: Array  # ()      b - l' beta before the constraint


@exact
def joint_jet(
    at: Array, layout: Layout, direction: Array, *, reml: bool, with_effect: bool = False
) -> JointJet:
    """Criterion, gradient and Hessian, closed forms throughout.

    Parameters
    ----------
    at : Array, shape (m + 1,) or (m + 2,)
        The layout's theta, then ``log sigma^2`` in units of ``y_scale^2``, then b if a fixed
        effect is held.
    layout : Layout
    direction : Array, shape (p,)
        ``l`` in the layout's coordinates; not looked at without ``with_effect``.
    reml : bool
        Only without ``with_effect``: the restricted likelihood knows no fixed effects.
    with_effect : bool
        Whether ``l' beta = b`` is held.

    Returns
    -------
    JointJet
    """
    xp = namespace(at, layout.S0)
    m, p, nu = at.shape[0] - 1 - with_effect, direction.shape[0], residual_df(layout, reml=reml)
    theta, tau = at[:m], at[m]
    jet = layout.jet(theta)
    gram = factor_gram(jet.waist.gram)
    by = _solve(gram.inverse, gram.z, gram.rss, direction, at[-1] if with_effect else None)
    v = xp.append(-by.beta, 1.0)
    dgram_v = jet.dgram @ v
    first = Slopes(jet.dlogdet, dgram_v @ v, dgram_v[:, :p], jet.dgram[:, :p, :p])
    root = xp.exp(-0.5 * tau) * v[:, None]  # W = root root' is the derivative in gram
    if reml:
        root = xp.concatenate([root, xp.pad(gram.inverse.T, ((0, 1), (0, 0)))], axis=1)
    bent: Curvature = layout.curvature(theta, root, jet)
    rounding = jet.rounding[1:] + xp.diagonal(jet.waist.gram)
    lost = Lost(jet.rounding[0], rounding[:p], rounding[p])
    value = _value(jet.waist.logdet, gram.logdet, by.rss, tau, layout, reml=reml)
    profile = Profile(value, by.beta, xp.exp(tau), by.cov)
    inner = finish_jet(profile, gram.inverse, first, bent, lost, None, reml=reml)
    share = by.rss * xp.exp(-tau)
    borders = [(-xp.exp(-tau) * first.drss, nu - share, share)]
    if with_effect:
        pull = 2.0 * xp.exp(-tau) / by.q
        slope = pull * by.gap
        cross = -2.0 * xp.exp(-tau) * (first.B @ by.along)
        borders.append((xp.append(cross, -slope), slope, pull))
    gradient, hessian = inner.gradient, inner.hessian
    for cross, slope, bend in borders:
        gradient, hessian = xp.append(gradient, slope), _bordered(hessian, cross, bend)
    return JointJet(value, gradient, hessian, inner.noise, by.beta)


def _solve(inverse: Array, z: Array, rss: Array, direction: Array, value: Array | None) -> _Solved:
    """GLS from the inverse Cholesky factor, without or with ``l' beta = b``."""
    xp = namespace(inverse)
    beta, cov = z @ inverse, inverse.T @ inverse
    zero = xp.zeros_like(rss)
    if value is None:
        return _Solved(beta, rss, cov, xp.zeros_like(beta), zero, zero)
    root = inverse @ direction
    along, q = inverse.T @ root, root @ root
    gap = value - direction @ beta
    along = along / q
    rss, cov = rss + gap * gap / q, cov - q * along[:, None] * along[None]
    return _Solved(beta + along * gap, rss, cov, along, q, gap)


def _value(
    logdet: Array, logdet_x: Array, rss: Array, tau: Array, layout: Layout, *, reml: bool
) -> Array:
    xp = namespace(logdet, layout.S0)
    nu = residual_df(layout, reml=reml)
    value = logdet + nu * (np.log(2.0 * np.pi) + tau + 2.0 * xp.log(layout.y_scale))
    value = value + rss * xp.exp(-tau) - layout.log_weights
    return value + logdet_x - 2.0 * layout.log_det_map if reml else value


def _bordered(A: Array, column: Array, corner: Array) -> Array:
    """``[A c; c' d]``."""
    xp = namespace(A)
    top = xp.concatenate([A, column[:, None]], axis=1)
    return xp.concatenate([top, xp.append(column, corner)[None]], axis=0)
