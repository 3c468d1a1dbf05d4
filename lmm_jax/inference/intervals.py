"""Wald intervals, each parameter on the scale on which its estimate is closest to normal.

Fixed effects and covariances stay as they are; standard deviations and variances go by the
logarithm, correlations by Fisher's z. With se the standard error by the delta method,

    v exp(-+ q se / v)      tanh(atanh(r) -+ q se / (1 - r^2))

as in ``nlme::intervals``, so that no variance is negative and no correlation beyond one. The
interval of a variance is the square of that of the standard deviation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from ..inputs.arguments import choice
from .parameters import SCALES, Parameter, chosen, parameter_values, parameters_of
from .record import FitRecord
from .tails.student import two_sided_quantile
from .variance import covariance_slices, sdcor_jacobian, touches_zero


def wald_intervals(fit: FitRecord, level: float, scale: str | None, parm: Any) -> pd.DataFrame:
    """Intervals of the parameters, with columns lower and upper.

    Parameters
    ----------
    fit : FitRecord
    level : float
        Coverage.
    scale : {"vcov", "sdcor"} or None
        None: the rows of ``params``, the residual variance not among them.
    parm : str, sequence of str or None
        As in :func:`lmm_jax.inference.parameters.chosen`.
    """
    parameters = parameters_of(fit.fixed_names, fit.term_labels, _scale(scale))
    if scale is None:
        parameters = parameters[:-1]
    places = chosen(parameters, parm)
    limits = _limits(fit, parameters, level, roots=scale == "sdcor")[places]
    index = [parameters[n].name for n in places]
    return pd.DataFrame(limits, columns=["lower", "upper"], index=index)


def fixed_limits(fit: FitRecord, level: float) -> np.ndarray:
    """Limits of the fixed effects alone, (p, 2)."""
    half = np.where(fit._bse_fe == 0, 0.0, two_sided_quantile(level, fit._df) * fit._bse_fe)
    return fit.estimates.beta[:, None] + half[:, None] * np.array([-1.0, 1.0])


def _scale(scale: str | None) -> str:
    return "vcov" if scale is None else choice(scale, "scale", SCALES)


def _limits(
    fit: FitRecord, parameters: tuple[Parameter, ...], level: float, *, roots: bool
) -> np.ndarray:
    """Lower and upper limits, (K, 2)."""
    e, p = fit.estimates, len(fit.fixed_names)
    estimate = parameter_values(parameters, e.beta, e.covariances, fit.sigma, roots=roots)
    half = relative_errors(fit, roots=roots)[: len(parameters) - p]
    half = special.ndtri(0.5 + 0.5 * level) * half  # zero of what is held fixed: it is known
    out = np.empty((len(parameters), 2))
    out[:p] = fixed_limits(fit, level)
    for n, at in enumerate(parameters[p:], start=p):
        ends = half[n - p] * np.array([-1.0, 1.0])
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if at.kind in ("sd", "sigma"):
                out[n] = estimate[n] * np.exp(ends)
            elif at.kind == "cor":
                out[n] = np.tanh(np.arctanh(estimate[n]) + ends)
            else:
                out[n] = estimate[n] + ends
    return out


def relative_errors(fit: FitRecord, *, roots: bool) -> np.ndarray:
    """Standard errors on the scales of the intervals: terms row by row, then the residual.

    Of logarithms of standard deviations (``roots``) or variances, of atanh of correlations,
    of covariances as they are. NaN on the boundary, zero for what is held fixed.
    """
    e = fit.estimates
    variance, out = np.sqrt(np.diagonal(e.cov_variance)) * e.variance_unit, []
    half = 0.5 if roots else 1.0
    for S, at in zip(e.covariances, covariance_slices(e.covariances), strict=True):
        rows, columns = np.tril_indices(len(S))
        with np.errstate(invalid="ignore", divide="ignore"):
            errors = np.where(rows == columns, half * variance[at] / S[rows, columns], variance[at])
            if roots:
                J = sdcor_jacobian(S) * e.variance_unit[at]
                cor = np.sqrt(np.diagonal(J @ e.cov_variance[at, at] @ J.T))
                sd = np.sqrt(np.diagonal(S))
                r = S[rows, columns] / (sd[rows] * sd[columns])
                errors = np.where(rows == columns, errors, cor / ((1.0 - r) * (1.0 + r)))
        out.append(np.where(touches_zero(S), np.nan, errors))
    errors = np.concatenate([np.zeros(0), *out])
    if fit.free is not None:
        errors = np.where(fit.free[e.beta.size :], errors, 0.0)
    return np.append(errors, half * variance[-1] / fit.scale)
