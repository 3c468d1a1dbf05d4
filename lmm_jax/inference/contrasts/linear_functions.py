"""Linear functions of the fixed effects with their errors, in families of comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...numerics.read_only import read_only
from ..df.methods import DfMethod
from ..df.wald import correlation
from .multiplicity import (
    Family,
    adjusted_p_values,
    critical_values,
    effective,
    needs_correlation,
)

# What of a row over dropped columns is left by those that are kept, relative to the row.
ESTIMABLE = 1e-8
# Standard deviations below this share of the largest are none.
_NO_SPREAD = 1e-12
# Rows whose part beside others is below this, relative to the largest, are combinations of them:
# covariates far from zero, such as years, leave small parts that are none.
_RANK_TOL = 1e-11
# Roundings of a sum of products, in units of the sum of their sizes.
_ROUNDING = 16 * np.finfo(float).eps


class LinearFunctions(NamedTuple):
    """Some functions ``L beta + shift``."""

    L: np.ndarray  # (r, p)  derivatives in the fixed effects
    gap: np.ndarray  # (r, d)  what of the row estimable functions miss, a column a dropped column
    shift: np.ndarray  # (r,)
    estimate: np.ndarray  # (r,)  NaN where the data do not determine it
    std_error: np.ndarray  # (r,)  NaN where there is no estimate
    df: np.ndarray  # (r,)
    cov_beta: np.ndarray  # (p, p)

    def covariance(self, rows: np.ndarray) -> np.ndarray:
        """Covariance of the estimates of some rows that have one, (k, k)."""
        L = self.L[rows]
        return np.asarray(L @ self.cov_beta @ L.T)


def linear_functions(
    L: np.ndarray,
    gap: np.ndarray,
    shift: np.ndarray,
    beta: np.ndarray,
    tests: DfMethod,
    scale: float,
) -> LinearFunctions:
    """Estimates, errors and degrees of freedom of some functions.

    Parameters
    ----------
    L : ndarray, shape (r, p)
    gap : ndarray, shape (r, d)
        Zero rows can be estimated.
    shift : ndarray, shape (r,)
        Known parts: an offset.
    beta : ndarray, shape (p,)
    tests : DfMethod
    scale : float
        Residual variance.
    """
    known = is_estimable(L, gap)
    rows = np.where(known[:, None], L, 0.0)
    cov_beta = scale * tests.cov_beta
    variance = np.maximum(np.sum((rows @ cov_beta) * rows, axis=1), 0.0)
    moves = np.abs(rows).max(axis=1, initial=0.0) > 0
    df = np.full(len(L), np.nan)
    if moves.any():
        df[moves] = tests.of_contrasts(rows[moves])
    estimate, error = np.where(known, (rows @ beta + shift, np.sqrt(variance)), np.nan)
    return read_only(LinearFunctions(L, gap, shift, estimate, error, df, cov_beta))


class Comparison(NamedTuple):
    """Tests and intervals of some functions, adjusted for their number."""

    statistic: np.ndarray  # (r,)
    p_value: np.ndarray  # (r,)
    low: np.ndarray  # (r,)
    high: np.ndarray  # (r,)
    adjust: tuple[str, ...]  # what was done in every family


def compare(
    at: LinearFunctions,
    families: Sequence[np.ndarray],
    adjust: str,
    level: float,
    *,
    means: int = 0,
    pairwise: bool = False,
    side: int = 0,
    null: float | np.ndarray = 0.0,
    delta: float = 0.0,
) -> Comparison:
    """Test every function against a value, and give its interval, on one side as the test.

        t = (estimate - null) / se        |t| - delta / se  for equivalence

    Parameters
    ----------
    at : LinearFunctions
    families : sequence of ndarray of int
        Rows that are adjusted together.
    adjust : str
        See :data:`lmm_jax.inference.contrasts.multiplicity.ADJUSTMENTS`.
    level : float
        Of the intervals.
    means : int
        Means that are compared in every family.
    pairwise : bool
        Whether a family holds all differences of its means.
    side : {0, -1, 1}
        Two sided, less, greater.
    null : float or ndarray, shape (r,)
    delta : float
        With ``delta > 0`` two-sided tests are of equivalence (the difference is less than
        delta), one-sided ones of non-superiority and non-inferiority.

    References
    ----------
    Schuirmann (1987), doi:10.1007/BF01068419: equivalence by two one-sided tests.
    """
    se = at.std_error
    se = np.where(se > _NO_SPREAD * np.nanmax(se, initial=0.0), se, np.nan)
    gap = at.estimate - null
    with np.errstate(invalid="ignore", divide="ignore"):
        statistic = gap / se
        if delta > 0:
            margin = delta / se
            statistic = np.abs(statistic) - margin if side == 0 else statistic + side * margin
    shape = len(at.estimate)
    p_value, half = np.full(shape, np.nan), np.full(shape, np.nan)
    tail = -1 if delta > 0 and side == 0 else side
    done = []
    for rows in families:
        family = _family(at, rows, means, pairwise, adjust)
        known = rows[~np.isnan(statistic[rows])]
        done.append(effective(adjust, family, tail))
        if len(known):
            how = done[-1]
            if needs_correlation(how, len(known)):  # it knows only what can be estimated
                R = correlation(at.covariance(known))
                family = family._replace(correlation=R, contrasts=len(known))
            p_value[known] = adjusted_p_values(
                statistic[known], at.df[known], how, family=family, side=tail
            )
            how = effective(adjust, family, side)
            half[known] = se[known] * critical_values(at.df[known], how, level, family, side)
    low, high = at.estimate - half, at.estimate + half
    if side < 0:
        low = np.where(np.isnan(low), low, -np.inf)
    elif side > 0:
        high = np.where(np.isnan(high), high, np.inf)
    return Comparison(statistic, p_value, low, high, tuple(done))


def _family(
    at: LinearFunctions, rows: np.ndarray, means: int, pairwise: bool, adjust: str
) -> Family:
    """Rows that cannot be estimated count, as in emmeans."""
    rank = None
    if adjust == "scheffe":
        R = np.linalg.qr(at.L[rows], mode="r")
        rank = int(np.linalg.matrix_rank(R, tol=1e-8 * max(np.abs(R).max(initial=0.0), 1e-300)))
    return Family(contrasts=len(rows), means=means, rank=rank, pairwise=pairwise)


def without_rounding(C: np.ndarray, A: np.ndarray) -> np.ndarray:
    """``C A``, exactly zero where it is what rounding leaves of products that cancel."""
    found, size = C @ A, np.abs(C) @ np.abs(A)
    return np.where(np.abs(found) > _ROUNDING * size, found, 0.0)


def is_estimable(L: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Which rows the data determine, (r,) of bool."""
    size = np.maximum(np.abs(L).max(axis=1, initial=0.0), 1.0)
    known: np.ndarray = np.abs(gap).max(axis=1, initial=0.0) <= ESTIMABLE * size
    return known


def estimable_rows(L: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Basis of the combinations of rows that can be estimated, (q, r)."""
    size = max(float(np.abs(L).max(initial=0.0)), 1.0)
    if np.abs(gap).max(initial=0.0) <= ESTIMABLE * size:
        return np.eye(len(L))
    U, d, _ = np.linalg.svd(gap, full_matrices=False)
    kept = U[:, d > ESTIMABLE * size]
    # by reflections, as in R: on the basis depend the degrees of freedom of joint tests
    return np.linalg.qr(kept, mode="complete")[0][:, kept.shape[1] :].T


def independent_rows(L: np.ndarray, size: float = 1.0) -> np.ndarray:
    """Rows made orthonormal one after the other; combinations of those before are left out.

    Parameters
    ----------
    L : ndarray, shape (r, p)
    size : float
        Of the rows: what is much less is nothing.
    """
    Q = np.zeros((0, L.shape[1]))
    for row in L:
        rest = row
        for _ in range(2):  # the second time for the digits that the first one lost
            rest = rest - Q.T @ (Q @ rest)
        length = float(np.linalg.norm(rest))
        if length > _RANK_TOL * max(size, float(np.linalg.norm(row))):
            Q = np.vstack([Q, rest / length])
    return Q
