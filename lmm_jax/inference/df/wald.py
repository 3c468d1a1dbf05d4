"""The Wald statistic of several restrictions, and the degrees of freedom of its F test."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...errors import DataError
from ..hypotheses import Restriction

# Eigenvalues of the covariance of R params below this, relative to the largest, are zero:
# the square root of the precision, lmerTest's rule.
RANK_TOL = float(np.sqrt(np.finfo(float).eps))
# Degrees of freedom this close together are equal (lmerTest's rule); the formula divides by
# their excess over 2 and would lose digits.
_SAME_DF = 1e-8


class JointTest(NamedTuple):
    """A Wald statistic of several restrictions together."""

    chi2: float  # (R b - q)' (R cov R')^-1 (R b - q)
    rank: int  # of R cov R'
    contrasts: np.ndarray  # (rank, K)  uncorrelated combinations of the rows of R


def joint_test(at: Restriction, params: np.ndarray, V: np.ndarray) -> JointTest:
    """Wald statistic of all rows together; dependent rows count once.

        chi2 = sum_m (p_m' (R b - q))^2 / d_m

    with ``(d_m, p_m)`` the eigenpairs of V.

    Parameters
    ----------
    at : Restriction
    params : ndarray, shape (K,)
    V : ndarray, shape (r, r)
        Covariance ``R cov R'`` of ``R b``.

    Returns
    -------
    JointTest
        NaN if a row has no variance or an unknown one.

    Raises
    ------
    DataError
        If dependent rows contradict each other.
    """
    sd = np.sqrt(np.diagonal(V))
    if not np.isfinite(V).all() or not (sd > 0).all():
        return JointTest(chi2=float("nan"), rank=len(at.R), contrasts=np.full_like(at.R, np.nan))
    gap = at.R @ params - at.q
    d, P = _positive_pairs(V)
    scaled, W = _positive_pairs(correlation(V))
    # The statistic from rows of unit variance: their units do not matter to it.
    z = W.T @ (gap / sd)
    rest = gap / sd - W @ z
    if np.abs(rest).max() > 1e-6 * max(1.0, float(np.abs(gap / sd).max())):
        raise DataError("the restrictions contradict each other: no parameters satisfy them all")
    # Where the spread of the rows' units alone makes V look singular, lmerTest's would be short.
    contrasts = P.T @ at.R if len(d) == len(scaled) else W.T @ (at.R / sd[:, None])
    return JointTest(chi2=float(np.sum(z**2 / scaled)), rank=len(scaled), contrasts=contrasts)


def correlation(V: np.ndarray) -> np.ndarray:
    """Correlation of a covariance, ones on its diagonal; NaN beside what has no variance."""
    sd = np.sqrt(np.maximum(np.diagonal(V), 0.0))  # rounding may leave less than nothing
    sd = np.where(sd > 0, sd, np.nan)
    out = V / sd / sd[:, None]
    np.fill_diagonal(out, 1.0)
    return out


def rank(V: np.ndarray) -> int:
    """Rank of a covariance, whatever the units of its rows; 0 if one has no variance."""
    return len(_positive_pairs(correlation(V))[0]) if (np.diagonal(V) > 0).all() else 0


def _positive_pairs(V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, largest first, and eigenvectors that are not zero for all purposes."""
    d, P = np.linalg.eigh(V)
    d, P = d[::-1], P[:, ::-1]
    keep = d > RANK_TOL * d[0]
    return d[keep], P[:, keep]


def f_denominators(nu: np.ndarray, used: np.ndarray) -> np.ndarray:
    """:func:`f_denominator` of many tests, of which each has its own number of statistics.

    Parameters
    ----------
    nu : ndarray, shape (R, q)
    used : ndarray of bool, shape (R, q)
        Which of them a test has.

    Returns
    -------
    ndarray, shape (R,)
    """
    count = used.sum(axis=1)
    low, high = (f(np.where(used, nu, fill), axis=1) for f, fill in ((np.min, np.inf), (np.max, 0)))
    mean = np.where(used, nu, 0.0).sum(axis=1) / np.maximum(count, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.where(used, 2.0 / (nu - 2.0), 0.0).sum(axis=1)  # E - q, nothing cancels
        df = np.where(excess > 0, 2.0 * (excess + count) / excess, np.inf)
        df = np.where(low <= 2, 2.0, df)
        df = np.where(high - low < _SAME_DF, mean, df)
    return np.where(np.isnan(np.where(used, nu, 0.0)).any(axis=1) | (count == 0), np.nan, df)


def f_denominator(nu: np.ndarray) -> float:
    """Denominator degrees of freedom of the mean of q squared t statistics.

        df = 2 E / (E - q)      E = sum_m nu_m / (nu_m - 2)

    the df at which F(q, df) has the mean of ``sum t_m^2 / q``.

    Parameters
    ----------
    nu : ndarray, shape (q,)
        Degrees of freedom of the t statistics. If they are all equal the answer
        is their mean; if one is 2 or less the mean does not exist and it is 2.

    References
    ----------
    Fai & Cornelius (1996), doi:10.1080/00949659608811740; Kuznetsova, Brockhoff &
    Christensen (2017), doi:10.18637/jss.v082.i13.

    Examples
    --------
    >>> round(f_denominator(np.array([5.0, 10.0])), 4)
    6.3636
    """
    return float(f_denominators(nu[None], np.ones((1, nu.size), dtype=bool))[0])
