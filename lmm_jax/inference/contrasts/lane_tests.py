"""Tests of fixed effects in many fits of one design at once (NumPy)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..df.kenward_roger import KenwardRoger, contrast_df, f_correction
from ..df.satterthwaite import satterthwaite_df
from ..df.wald import RANK_TOL, f_denominator, f_denominators, joint_test
from ..estimates import Estimates
from ..hypotheses import Restriction
from ..many_estimates import ManyEstimates
from ..tails.student import f_tail, student_tail
from .moderation import ModeratedEstimates


class LaneTests(NamedTuple):
    """Some hypotheses, each tested in every fit."""

    estimate: np.ndarray  # (R, r)
    std_error: np.ndarray  # (R, r)
    df: np.ndarray  # (R, r)


class LaneJoint(NamedTuple):
    """One hypothesis of several rows, tested in every fit."""

    chi2: np.ndarray  # (R,)
    df_num: np.ndarray  # (R,)  of int: rank
    df_denom: np.ndarray  # (R,)


def lane_contrasts(L: np.ndarray, at: ManyEstimates | ModeratedEstimates) -> LaneTests:
    """Contrasts ``L beta`` with their standard errors and Satterthwaite's degrees of freedom.

    Parameters
    ----------
    L : ndarray, shape (r, p)
    at : ManyEstimates or ModeratedEstimates
    """
    with np.errstate(invalid="ignore"):
        variance = np.sum((L @ at.cov_beta) * L, axis=-1)
        df = satterthwaite_df(L, at.cov_beta, at.dcov_beta, at.joint_cov)
        return LaneTests(at.fe_params @ L.T, np.sqrt(at.scale[:, None] * variance), df)


def lane_joint(L: np.ndarray, q: np.ndarray, at: ManyEstimates | ModeratedEstimates) -> LaneJoint:
    """Wald statistics of ``L beta = q`` and lmerTest's denominators, all fits at once.

    Dependent rows count once, fit by fit; a fit without estimates is NaN.

    Parameters
    ----------
    L : ndarray, shape (r, p)
    q : ndarray, shape (r,)
    at : ManyEstimates or ModeratedEstimates
    """
    void = ~np.isfinite(at.scale)
    cov = np.where(void[:, None, None], np.eye(L.shape[1]), at.cov_beta)
    V = L @ cov @ L.T
    sd = np.sqrt(np.diagonal(V, axis1=1, axis2=2))
    sd = np.where(sd > 0, sd, 1.0)
    # the statistic from rows of unit variance: their units do not matter to it
    d, W = np.linalg.eigh(V / (sd[:, :, None] * sd[:, None, :]))
    used = d > RANK_TOL * d[:, -1:]
    z = np.einsum("rab,ra->rb", W, (at.fe_params @ L.T - q) / sd)
    chi2 = np.where(used, z**2 / np.where(used, d, 1.0), 0.0).sum(axis=1)
    chi2 = chi2 / np.where(void, 1.0, at.scale)
    own, P = np.linalg.eigh(V)
    plain = own > RANK_TOL * own[:, -1:]
    # where the units alone make V look singular, lmerTest's rows would be too few
    whole = plain.sum(axis=1) == used.sum(axis=1)
    rows = np.where(whole[:, None, None], np.swapaxes(P, 1, 2) @ L,
                    np.swapaxes(W, 1, 2) @ (L / sd[:, :, None]))  # fmt: skip
    nu = satterthwaite_df(rows, at.cov_beta, at.dcov_beta, at.joint_cov)
    df = f_denominators(nu, np.where(whole[:, None], plain, used))
    return LaneJoint(np.where(void, np.nan, chi2), used.sum(axis=1), np.where(void, np.nan, df))


def adjusted_contrasts(L: np.ndarray, many: ManyEstimates, at: KenwardRoger) -> LaneTests:
    """:func:`lane_contrasts` with Kenward and Roger's covariances and degrees of freedom.

    Parameters
    ----------
    L : ndarray, shape (r, p)
    many : ManyEstimates
    at : KenwardRoger
        With a first axis R.
    """
    with np.errstate(invalid="ignore"):
        variance = np.sum((L @ at.cov_beta) * L, axis=-1)
        se = np.sqrt(many.scale[:, None] * variance)
        return LaneTests(many.fe_params @ L.T, se, contrast_df(at, L))


def adjusted_joint(rows: Restriction, many: ManyEstimates, at: KenwardRoger) -> LaneJoint:
    """:func:`lane_joint` by Kenward and Roger's F test, fit by fit: chi2 has its scale."""
    R = len(many.scale)
    chi2, rank, df = np.full(R, np.nan), np.zeros(R, int), np.full(R, np.nan)
    for i in np.flatnonzero(np.isfinite(at.cov_beta).all(axis=(1, 2))):
        V = many.scale[i] * rows.R @ at.cov_beta[i] @ rows.R.T
        test = joint_test(rows, many.fe_params[i], V)
        rank[i] = test.rank
        if np.isfinite(test.chi2):
            own = KenwardRoger(*(values[i] for values in at))
            df[i], scale = f_correction(own, test.contrasts)
            chi2[i] = scale * test.chi2
    return LaneJoint(chi2, rank, df)


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
    return student_tail(statistic, df.T, two_sided=True)


def _joint(restriction: Restriction, gap: np.ndarray, at: Estimates, normal: bool) -> list[float]:
    """One joint test a fit: chi-square, or F with lmerTest's denominator."""
    R, out = restriction.R, []
    for i in range(at.scale.size):
        # the estimate may stand anywhere that gives R b - q its value
        b, *_ = np.linalg.lstsq(R, gap + restriction.q, rcond=None)
        cov = at.scale[i] * R @ at.cov_beta[i] @ R.T
        test = joint_test(restriction, b + at.beta[i], cov)
        denominator = np.inf
        if not normal:
            df = satterthwaite_df(test.contrasts, at.cov_beta[i], at.dcov_beta[i], at.joint_cov[i])
            denominator = f_denominator(df)
        out.append(float(f_tail(test.chi2 / test.rank, test.rank, denominator)))
    return out
