"""Residual variances of many fits, each drawn towards what all of them have in common."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special

# Newton's steps for the inverse of the trigamma function; they converge from below.
_STEPS = 50


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
