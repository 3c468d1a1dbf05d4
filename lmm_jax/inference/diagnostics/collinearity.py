"""Variance inflation of the terms of the fixed effects, from the correlation of the estimates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from ..df.wald import correlation


class Inflation(NamedTuple):
    """Generalized variance inflation of terms, with limits."""

    vif: np.ndarray  # (T,)
    low: np.ndarray  # (T,)
    high: np.ndarray  # (T,)


def inflation(
    cov: np.ndarray, terms: Sequence[Sequence[int]], n_rows: int, level: float
) -> Inflation:
    """``det R_jj det R_rest / det R`` of every term, R the correlation of the estimates.

    Limits are those of ``1 - 1 / vif``, a squared multiple correlation, on the scale of the
    logit.

    Parameters
    ----------
    cov : ndarray, shape (p, p)
        Covariance of all fixed effects, in any unit.
    terms : sequence of sequences of int
        Columns of each term; those of the intercept are in none.
    n_rows : int
    level : float
    """
    used = np.array([j for columns in terms for j in columns], dtype=int)
    R = correlation(cov[np.ix_(used, used)])
    ends = np.cumsum([len(columns) for columns in terms])
    own = [np.arange(end - len(columns), end) for end, columns in zip(ends, terms, strict=True)]
    rest = [np.setdiff1d(np.arange(used.size), at) for at in own]
    whole = _logdet(R)
    log = [_logdet(R[np.ix_(at, at)]) - whole for at in own]
    log = [one + _logdet(R[np.ix_(at, at)]) for one, at in zip(log, rest, strict=True)]
    vif = np.exp(np.maximum(log, 0.0))  # rounding alone takes it below one
    return Inflation(vif, *_limits(vif, n_rows, len(cov), level))


def _logdet(R: np.ndarray) -> float:
    return float(np.linalg.slogdet(R)[1]) if R.size else 0.0


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def _limits(vif: np.ndarray, n: int, p: int, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Limits of vif; NaN at one, where the logit has no value, and without residual rows."""
    r2 = 1.0 - 1.0 / vif
    error = np.sqrt((1.0 - r2**2) ** 2 * max(n - p - 1, 0) ** 2 / ((n**2 - 1.0) * (n + 3.0)))
    half = special.ndtri(0.5 + 0.5 * level) * error / (r2 * (1.0 - r2))
    centre = special.logit(r2)
    # 1 / (1 - expit(x)) = 1 + exp(x)
    return 1.0 + np.exp(centre - half), 1.0 + np.exp(centre + half)
