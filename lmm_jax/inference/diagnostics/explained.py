"""What of the variance of y a fit explains: its parts, their shares, and the errors of these.

    total = f + sum_t r_t + s    f = var(X beta)    r_t = mean diag(Z_t S_t Z_t')    s = sigma^2

(Nakagawa & Schielzeth 2013; Johnson 2014 for random slopes.) The parts are known functions of
the parameters, with the derivatives ``df / dbeta = 2 C beta``, C the covariance of the columns
of X, and ``dr_t / dS_t = M_t``, the mean of ``z z'``. The rows are taken as they are. Where
residual variances differ between rows, s is their mean over the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from ...designs.design import Design
from ..contrasts.delta import joint_relative_covariance
from ..record import FitRecord
from ..residuals.rows import residual_thetas, row_slopes


class Moments(NamedTuple):
    """What the parts need to know of the rows."""

    root: np.ndarray  # (r, p)  root' root is the covariance of the columns of X
    products: tuple[np.ndarray, ...]  # (k, k) a term: mean of z z'
    spreads: tuple[Spreads, ...] = ()  # of every residual covariance, one an arm


class Spreads(NamedTuple):
    """Kinds of rows whose residuals have one variance, ``exp(2 A' phi)``."""

    slopes: np.ndarray  # (m_s, D)  A
    shares: np.ndarray  # (D,)  of all rows


class Parts(NamedTuple):
    """Shares of X beta, of every random term and of the residual, all relative to the total.

    The total is taken for a unit: its own error is in the covariance.
    """

    total: float
    values: np.ndarray  # (T + 2,)
    cov: np.ndarray  # (T + 2, T + 2)
    known: np.ndarray  # (T + 2,)  False where a variance at zero has a share in it
    J: np.ndarray  # (T + 2, K)  derivatives in all parameters, in their units
    relative: np.ndarray  # (K, K)  covariance of these in their units


class Estimate(NamedTuple):
    """A number with its standard error and limits."""

    estimate: float
    std_error: float
    conf_low: float
    conf_high: float


def moments_of(design: Design) -> Moments | None:
    """Moments of the rows of a design, not weighted: a share is one of the variance of y."""
    at = design.column_moments()
    return at and Moments(at.centred_root, at.mean_squares, _spreads(design))


def _spreads(design: Design) -> tuple[Spreads, ...]:
    rows, out = None if design.residual is None else design.residual.rows, []
    for a in range(0 if rows is None else len(rows.structures)):
        slopes = row_slopes(rows, a, np.flatnonzero(rows.arm == a))  # type: ignore[arg-type,union-attr]
        distinct, counts = np.unique(slopes, axis=1, return_counts=True)
        out.append(Spreads(distinct, counts / design.nobs))
    return tuple(out)


def _mean_noise(fit: FitRecord, moments: Moments) -> tuple[float, np.ndarray]:
    """Mean residual variance, and the derivative of its log in theta and log sigma^2, (m + 1,)."""
    e = fit.estimates
    slope = np.append(np.zeros(e.theta_layout.size), 1.0)
    if fit.residual is None:
        return float(e.scale), slope
    at, total = np.arange(e.theta_layout.size), 0.0
    places = residual_thetas(at, fit.residual.theta_structures)
    for spread, place in zip(moments.spreads, places, strict=True):
        own = place[: len(spread.slopes)]
        part = spread.shares * np.exp(2.0 * e.theta_layout[own] @ spread.slopes)
        total += part.sum()
        slope[own] += 2.0 * spread.slopes @ part
    slope[:-1] /= total
    return float(e.scale * total), slope


def part_values(fit: FitRecord, moments: Moments) -> np.ndarray:
    """Variances of X beta, of every random term and of the residual, (T + 2,)."""
    e = fit.estimates
    mean = moments.root @ e.beta
    pairs = zip(e.covariances, moments.products, strict=True)
    noise = _mean_noise(fit, moments)[0]
    return np.array([mean @ mean, *(np.sum(M * S) for S, M in pairs), noise])


def _joint_covariance(fit: FitRecord, moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """:func:`joint_relative_covariance` with the mean residual variance in the last place."""
    unit, relative = joint_relative_covariance(fit)
    if fit.residual is None:
        return unit, relative
    e, p = fit.estimates, fit.estimates.beta.size
    unit[-1], slope = _mean_noise(fit, moments)
    relative[-1, p:] = relative[p:, -1] = slope @ e.cross_variance
    relative[-1, -1] = slope @ e.joint_cov @ slope
    return unit, relative


def parts_of(fit: FitRecord, moments: Moments) -> Parts:
    """Parts of the variance at the estimates."""
    e, p = fit.estimates, fit.estimates.beta.size
    unit, relative = _joint_covariance(fit, moments)
    J, at = np.zeros((len(e.covariances) + 2, unit.size)), p
    J[0, :p] = 2.0 * moments.root.T @ (moments.root @ e.beta)
    for t, (S, M) in enumerate(zip(e.covariances, moments.products, strict=True)):
        rows, columns = np.tril_indices(len(S))
        J[t + 1, at : at + rows.size] = np.where(rows == columns, 1.0, 2.0) * M[rows, columns]
        at += rows.size
    J[-1, -1] = 1.0
    known = (J[:, np.isnan(unit)] == 0).all(axis=1)
    values = part_values(fit, moments)
    J = J * np.nan_to_num(unit) / values.sum()  # squares of variances may be no floats
    return Parts(values.sum(), values / values.sum(), J @ relative @ J.T, known, J, relative)


def named_shares(count: int) -> dict[str, tuple[list[int], list[int]]]:
    """Which of ``count`` parts stand over the line of each share, and which beside them below."""
    fixed, random, noise = [0], list(range(1, count - 1)), [count - 1]
    return {
        "r2_marginal": (fixed, [*random, *noise]),
        "r2_conditional": ([*fixed, *random], noise),
        "icc": (random, noise),
        "icc_unadjusted": (random, [*fixed, *noise]),
    }


def share(parts: Parts, inside: Sequence[int], outside: Sequence[int], level: float) -> Estimate:
    """``a / (a + b)`` of sums of parts, with an interval on the scale of the arcsine of its root.

    A share of nothing, no fixed effects or no random ones, is zero without an error.
    """
    size = len(parts.values)
    a, b = (np.isin(np.arange(size), list(which)).astype(float) for which in (inside, outside))
    up, down = a @ parts.values, b @ parts.values
    moves = bool(np.any(parts.J[a > 0]) or not parts.known[a > 0].all())
    if up == 0 and not moves:
        return Estimate(0.0, 0.0, 0.0, 0.0)
    value = float(up / (up + down))
    if not parts.known[(a + b) > 0].all() or up == 0:
        return Estimate(value, np.nan, np.nan, np.nan)
    slope = a / up - b / down
    rest = float(down / (up + down))
    error = value * rest * _root(slope @ parts.cov @ slope)
    of_squares = not np.any(a[1:])  # X beta alone
    return Estimate(value, error, *_limits(value, rest, error, level, of_squares=of_squares))


def _root(variance: float) -> float:
    """Its square root; what does not vary has a variance of rounding, of either sign."""
    return float(np.sqrt(np.maximum(variance, 0.0)))


def semi_partial(
    fit: FitRecord, moments: Moments, parts: Parts, columns: Sequence[int], level: float
) -> Estimate:
    """``var(R_j beta_j) / total``, R_j the columns j less what all others predict of them.

    By so much ``var(X beta)`` falls when X beta is projected on the other columns. The interval
    is made as that of :func:`share`.
    """
    p, own = fit.estimates.beta.size, list(columns)
    others = np.delete(moments.root, own, axis=1)
    alone = moments.root[:, own]
    alone = alone - others @ np.linalg.lstsq(others, alone, rcond=None)[0]
    mean = alone @ fit.estimates.beta[own]
    value = float(mean @ mean / parts.total)
    if not parts.known.all() or value == 0:
        return Estimate(value, np.nan, np.nan, np.nan)
    unit = joint_relative_covariance(fit)[0][:p]
    J = -value * parts.J.sum(axis=0)
    J[own] += 2.0 * alone.T @ mean * unit[own] / parts.total
    error = _root(J @ parts.relative @ J)
    limits = _limits(value, 1.0 - value, error, level, of_squares=True)
    return Estimate(value, error, *limits)


def _limits(
    value: float, rest: float, error: float, level: float, *, of_squares: bool
) -> tuple[float, float]:
    """Limits of a share with this standard error, ``rest = 1 - value``: ``sin(t +- z s)^2``.

    On the scale of ``t = asin(sqrt(share))``, with the error ``s = error / (2 sqrt(v (1 - v)))``,
    a share of squares, whose error falls with its root, is nearly normal down to zero. The error
    of a variance does not fall with it: where it is larger than the share, or than what the share
    lacks, limits are ``v +- z error`` within 0 and 1. Limits on the scale of the logit end at 0
    and 1 there: of 200 simulated fits one had a marginal R2 of zero within them, and now 92 %; of
    an intraclass correlation of 0.05 they held 91 %, now 93 to 97 %, at half the length.
    """
    z = float(special.ndtri(0.5 + 0.5 * level))
    if not of_squares and error > min(value, rest):
        return max(value - z * error, 0.0), min(value + z * error, 1.0)
    at, own = np.arctan2(np.sqrt(value), np.sqrt(rest)), error / (2.0 * np.sqrt(value * rest))
    low, high = (
        float(np.sin(np.clip(at + side * z * own, 0.0, 0.5 * np.pi)) ** 2) for side in (-1.0, 1.0)
    )
    return min(low, value), max(high, value)  # of no error: the estimate, to the last digit
