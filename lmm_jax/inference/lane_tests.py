"""Tests of fixed effects in many fits of one design at once (NumPy)."""

from __future__ import annotations

import numpy as np
from scipy import special

from .estimates import Estimates
from .hypotheses import Restriction
from .satterthwaite import satterthwaite_df
from .wald import f_denominator, joint_test


def lane_pvalues(
    restriction: Restriction, gaps: np.ndarray, at: Estimates, *, normal: bool
) -> np.ndarray:
    """P values of ``R beta = q`` in every fit, for several true values of ``R beta - q``.

    Parameters
    ----------
    restriction : Restriction
        r rows over the fixed effects.
    gaps : ndarray, shape (E, r)
        True values of ``R beta - q``; the fits serve all of them, since an estimate
        moves along with its true value and nothing else of the fit does.
    at : Estimates
        Of R fits to responses that were drawn with beta = 0.
    normal : bool
        z and chi-square tests; otherwise t and F tests with Satterthwaite's df.

    Returns
    -------
    ndarray, shape (E, R)
    """
    if len(restriction.R) > 1:
        values = [_joint(restriction, gap, at, normal) for gap in gaps]
        return np.array(values).reshape(len(gaps), at.scale.size)
    (contrast,) = restriction.R
    variance = at.scale * (at.cov_beta @ contrast @ contrast)
    statistic = (gaps + (at.beta @ contrast)[None]) / np.sqrt(variance)[None]
    df = np.full((at.scale.size, 1), np.inf)
    if not normal:
        df = satterthwaite_df(restriction.R, at.cov_beta, at.dcov_beta, at.joint_cov)
    return 2.0 * special.stdtr(df.T, -np.abs(statistic))


def _joint(restriction: Restriction, gap: np.ndarray, at: Estimates, normal: bool) -> list[float]:
    """One joint test a fit: chi-square, or F with lmerTest's denominator."""
    R, out = restriction.R, []
    for i in range(at.scale.size):
        # the estimate may stand anywhere that gives R b - q its value
        b, *_ = np.linalg.lstsq(R, gap + restriction.q, rcond=None)
        cov = at.scale[i] * R @ at.cov_beta[i] @ R.T
        test = joint_test(restriction, b + at.beta[i], cov)
        if normal:
            out.append(float(special.chdtrc(test.rank, test.chi2)))
            continue
        df = satterthwaite_df(test.contrasts, at.cov_beta[i], at.dcov_beta[i], at.joint_cov[i])
        out.append(float(special.fdtrc(test.rank, f_denominator(df), test.chi2 / test.rank)))
    return out
