"""Tests of fixed effects in many fits of one design at once (NumPy)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import special

from .hypotheses import Restriction
from .satterthwaite import satterthwaite_df
from .variance import inverse_curvature, joint_covariance
from .wald import f_denominator, joint_test


class LaneBeta(NamedTuple):
    """Fixed effects of R fits with what their tests need, in the units of the data."""

    error: np.ndarray  # (R, p)  estimate less the value that was drawn from
    cov: np.ndarray  # (R, p, p)  (X' V^-1 X)^-1, relative to sigma^2
    dcov: np.ndarray  # (R, m, p, p)  its derivative in theta
    scale: np.ndarray  # (R,)  sigma^2
    cov_theta: np.ndarray  # (R, m, m)
    rho: np.ndarray  # (R, m)  d log r^2 / d theta
    nu: float


def lane_beta(solution: Any, layout: Any, *, reml: bool) -> LaneBeta:
    """What tests need of the solutions of many lanes, drawn with beta = 0.

    Parameters
    ----------
    solution : Solution
        With a leading axis of R.
    layout : Layout
        Its ``y_scale`` is the unit of the responses.
    reml : bool
    """
    jet, at = solution.jet, solution.jet.profile
    A, unit = np.asarray(layout.beta_map), float(layout.y_scale)
    nu = float(layout.n_obs) - (A.shape[0] if reml else 0)
    return LaneBeta(
        error=unit * np.asarray(at.beta) @ A.T,
        cov=A @ np.asarray(at.cov_beta) @ A.T,
        dcov=A @ np.asarray(jet.dcov_beta) @ A.T,
        scale=unit**2 * np.asarray(at.rss) / nu,
        cov_theta=inverse_curvature(np.asarray(jet.hessian)),
        rho=np.asarray(jet.dlog_rss),
        nu=nu,
    )


def lane_df(contrast: np.ndarray, at: LaneBeta) -> np.ndarray:
    """Satterthwaite's degrees of freedom of one contrast in every fit, (R,).

        df = 2 q^2 / (h' C h + 2 q^2 / nu)          q = l' F l,  h = dq + q rho

    the formula of :func:`satterthwaite_df` with the residual variance divided out:
    F is ``(X' V^-1 X)^-1``, C the covariance of theta and rho that of log r^2 with it.
    """
    q = np.einsum("a,rab,b->r", contrast, at.cov, contrast)
    h = np.einsum("a,rkab,b->rk", contrast, at.dcov, contrast) + q[:, None] * at.rho
    spread = np.einsum("rk,rkl,rl->r", h, at.cov_theta, h)
    return 2.0 * q**2 / (spread + 2.0 * q**2 / at.nu)


def lane_pvalues(
    restriction: Restriction, gaps: np.ndarray, at: LaneBeta, *, normal: bool
) -> np.ndarray:
    """P values of ``R beta = q`` in every fit, for several true values of ``R beta - q``.

    Parameters
    ----------
    restriction : Restriction
        r rows over the fixed effects.
    gaps : ndarray, shape (E, r)
        True values of ``R beta - q``; the fits serve all of them, since an estimate
        moves along with its true value and nothing else of the fit does.
    at : LaneBeta
    normal : bool
        z and chi-square tests; otherwise t and F tests with Satterthwaite's df.

    Returns
    -------
    ndarray, shape (E, R)
    """
    if len(restriction.R) > 1:
        values = [_joint(restriction, gap, at, normal) for gap in gaps]
        return np.array(values).reshape(len(gaps), at.scale.size)
    contrast = restriction.R[0]
    variance = at.scale * np.einsum("a,rab,b->r", contrast, at.cov, contrast)
    statistic = (gaps + (at.error @ contrast)[None]) / np.sqrt(variance)[None]
    df = np.full(at.scale.size, np.inf) if normal else lane_df(contrast, at)
    return 2.0 * special.stdtr(df[None], -np.abs(statistic))


def _joint(restriction: Restriction, gap: np.ndarray, at: LaneBeta, normal: bool) -> list[float]:
    """One joint test a fit: chi-square, or F with lmerTest's denominator."""
    R, out = restriction.R, []
    for i in range(at.scale.size):
        # the estimate may stand anywhere that gives R b - q its value
        b, *_ = np.linalg.lstsq(R, gap + restriction.q, rcond=None)
        test = joint_test(restriction, b + at.error[i], at.scale[i] * R @ at.cov[i] @ R.T)
        if normal:
            out.append(float(special.chdtrc(test.rank, test.chi2)))
            continue
        joint = joint_covariance(at.cov_theta[i], at.rho[i], at.nu)
        df = satterthwaite_df(test.contrasts, at.cov[i], at.dcov[i], joint)
        out.append(float(special.fdtrc(test.rank, f_denominator(df), test.chi2 / test.rank)))
    return out
