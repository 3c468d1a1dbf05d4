"""Residual variances of many fits, each drawn towards what all of them have in common."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import special

# Newton's steps for the inverse of the trigamma function; they converge from below.
_STEPS = 50
# Eigenvalues of a covariance at unit diagonal that are zero: of fixed effects that are held.
_RANK_TOL = 1e-12


class Moderation(NamedTuple):
    """Variances with the prior that they were moderated by."""

    variance: np.ndarray  # (R,)
    df_prior: float  # infinite if the variances differ no more than by chance
    variance_prior: float


def moderate(variance: np.ndarray, df: np.ndarray) -> Moderation:
    """Empirical Bayes estimates of variances.

    With ``s^2 ~ sigma^2 chi2_d / d`` and ``1 / sigma^2 ~ chi2_{d0} / (d0 s0^2)``,

        s~^2 = (d0 s0^2 + d s^2) / (d0 + d)

    and d0, s0 from the mean and the variance of ``log s^2``. Statistics with s~ in the place of
    s have d + d0 degrees of freedom.

    Parameters
    ----------
    variance : ndarray, shape (R,)
        NaN where there is none.
    df : ndarray, shape (R,)
        Degrees of freedom of each.

    References
    ----------
    Smyth (2004), doi:10.2202/1544-6115.1027.
    """
    known = np.isfinite(variance) & (variance > 0) & (df > 0)
    if known.sum() < 2:
        return Moderation(variance, 0.0, float("nan"))
    half = df[known] / 2.0
    e = np.log(variance[known]) - special.digamma(half) + np.log(half)
    mean = e.mean()
    spread = np.sum((e - mean) ** 2) / (e.size - 1) - special.polygamma(1, half).mean()
    if spread <= 0:  # all alike: one variance for all
        prior = float(np.exp(mean))
        return Moderation(np.where(known, prior, variance), float("inf"), prior)
    d0 = 2.0 * trigamma_inverse(float(spread))
    prior = float(np.exp(mean + special.digamma(d0 / 2.0) - np.log(d0 / 2.0)))
    with np.errstate(invalid="ignore"):
        moderated = (d0 * prior + df * variance) / (d0 + df)
    return Moderation(np.where(known, moderated, variance), d0, prior)


class ModeratedEstimates(NamedTuple):
    """What tests of fixed effects need of many fits whose residual variances are moderated."""

    fe_params: np.ndarray  # (R, p)
    scale: np.ndarray  # (R,)
    cov_beta: np.ndarray  # (R, p, p)  relative to scale
    dcov_beta: np.ndarray  # (R, m, p, p)
    joint_cov: np.ndarray  # (R, m + 1, m + 1)


def residual_df(joint_cov: np.ndarray) -> np.ndarray:
    """``2 / var(log s^2)`` of every fit, (R,): its residual variance is ``sigma^2 chi2_d / d``.

    Where random effects take none of the rows' dimensions it is n - p.

    Parameters
    ----------
    joint_cov : ndarray, shape (R, m + 1, m + 1)
        Covariance of theta and log sigma^2.
    """
    variance = joint_cov[:, -1, -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 0, 2.0 / variance, np.nan)


@np.errstate(divide="ignore", invalid="ignore")
def moderated_estimates(at: Any, found: Moderation) -> ModeratedEstimates:
    """The fits with moderated residual variances.

    The prior is d0 / 2 of information on log sigma^2 alone. With A the covariance of
    ``psi = (theta, log sigma^2)`` and a its last column,

        A~ = A - a a' / (2 / d0 + A_ss)          psi~ - psi = a log(s~^2 / s^2) / A_ss

    and the logarithm of the covariance of the fixed effects is followed along that step. What a
    contrast shares of the residual variance is moderated: within groups all of it, between
    groups, whose variance their own means tell, nothing.

    Parameters
    ----------
    at : ManyEstimates
        Or what else has its fields.
    found : Moderation
    """
    a, own = at.joint_cov[:, :, -1], at.joint_cov[:, -1, -1]
    step = np.log(found.variance / at.scale)
    known = np.isfinite(step) & (own > 0)
    step = np.where(known, step, 0.0)[:, None] * np.where(known, 1.0 / own, 0.0)[:, None] * a
    step = np.where(np.isfinite(step), step, 0.0)
    prior = 2.0 / found.df_prior if found.df_prior > 0 else np.inf
    shares = a[:, :, None] * (a / (prior + own)[:, None])[:, None, :]
    W = _along(at.cov_beta, np.einsum("rk,rkab->rab", step[:, :-1], at.dcov_beta))
    Wt = np.swapaxes(W, 1, 2)
    return ModeratedEstimates(
        fe_params=at.fe_params,
        scale=found.variance,
        cov_beta=Wt @ at.cov_beta @ W,
        dcov_beta=Wt[:, None] @ at.dcov_beta @ W[:, None],
        joint_cov=at.joint_cov - shares,
    )


def _along(C: np.ndarray, D: np.ndarray) -> np.ndarray:
    """W with ``W' C W = C exp(C^-1 D)``, fit by fit: C followed along D, positive throughout."""
    unit = np.sqrt(np.diagonal(C, axis1=1, axis2=2))
    unit = np.where(unit > 0, unit, 1.0)  # of NaN as well: such a fit has no tests
    square = unit[:, :, None] * unit[:, None, :]
    whole = np.isfinite(C).all(axis=(1, 2)) & np.isfinite(D).all(axis=(1, 2))
    one = np.eye(C.shape[1])
    C, D = (np.where(whole[:, None, None], A / square, B) for A, B in ((C, one), (D, 0.0 * one)))
    d, V = np.linalg.eigh(C)
    usable = d > _RANK_TOL
    root = np.sqrt(np.where(usable, d, 1.0))
    F = V * np.where(usable, root, 0.0)[:, None, :]
    back = np.swapaxes(V * np.where(usable, 1.0 / root, 0.0)[:, None, :], 1, 2)  # F^-1
    e, Q = np.linalg.eigh(back @ D @ np.swapaxes(back, 1, 2))
    half = (Q * np.exp(0.5 * e)[:, None, :]) @ np.swapaxes(Q, 1, 2)
    W = np.swapaxes(back, 1, 2) @ half @ np.swapaxes(F, 1, 2)
    return np.asarray(W * (unit[:, None, :] / unit[:, :, None]))


def trigamma_inverse(x: float) -> float:
    """The y with ``trigamma(y) = x > 0``: Newton's method on its reciprocal, which is convex.

    Examples
    --------
    >>> round(float(special.polygamma(1, trigamma_inverse(0.3))), 12)
    0.3
    """
    y = 0.5 + 1.0 / x
    for _ in range(_STEPS):
        value = float(special.polygamma(1, y))
        step = value * (1.0 - value / x) / float(special.polygamma(2, y))
        y += step
        if abs(step) < 1e-14 * y:
            break
    return y
