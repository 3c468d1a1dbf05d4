"""Likelihood ratio tests of variances, which lie on the boundary where the hypothesis is true."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special


def boundary_p_value(statistic: float, new: Sequence[tuple[int, int]], fixed: int = 0) -> float:
    """P value of a likelihood ratio that adds random coefficients, from a mixture of chi-squares.

    One coefficient added to a term of k makes a variance, which is zero or more, and k
    covariances, which are free: the statistic is distributed as

        (chi2_k + chi2_{k+1}) / 2

    and with ``fixed`` more fixed effects as that with so many more degrees of freedom. The
    usual chi-square test gives up to twice this p value.

    Parameters
    ----------
    statistic : float
        Twice the difference of the log-likelihoods.
    new : sequence of (int, int)
        For every term that grows: coefficients added, and those that it had.
    fixed : int
        Fixed effects added.

    Returns
    -------
    float
        NaN where more than one coefficient is added: weights then depend on the data, and the
        bootstrap gives the distribution.

    References
    ----------
    Self & Liang (1987), doi:10.1080/01621459.1987.10478472; Stram & Lee (1994),
    doi:10.2307/2533455.

    Examples
    --------
    >>> round(boundary_p_value(2.7055, [(1, 0)]), 4)
    0.05
    """
    if len(new) != 1 or new[0][0] != 1:
        return float("nan")
    k = new[0][1] + fixed
    return 0.5 * (chi2_tail(statistic, k) + chi2_tail(statistic, k + 1))


def chi2_tail(statistic: float, df: int) -> float:
    """Upper tail; with no degrees of freedom all of the mass is at zero."""
    if df == 0:
        return float(statistic <= 0)
    return float(special.chdtrc(df, np.maximum(statistic, 0.0)))
