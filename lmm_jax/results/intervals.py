"""Predictions with standard errors and limits, as a frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse

from ..errors import DataError
from ..inference.effects.prediction import (
    BlupErrors,
    conditional_variance,
    gone_on,
    half_width,
    level_variance,
    population_variance,
    row_df,
)
from ..inference.effects.random_effects import random_part
from ..inference.means.transformations import Transformation
from ..inference.record import FitRecord
from ..inference.residuals.rows import carried, residual_thetas, row_noise, variances
from ..inputs.arguments import choice, flag, probability
from .predict import Rows

# What else levels that no fit has seen are said to get.
_NEW_LEVELS = {
    **dict.fromkeys(("zero", "allow", "population"), "population"),
    **dict.fromkeys(("missing", "na"), "nan"),
    "raise": "error",
}


class Noise(NamedTuple):
    """Residuals of the rows that are predicted."""

    own: np.ndarray | float  # (n,)  variance of a new observation's own, relative to sigma^2
    through: scipy.sparse.csr_array | None  # (n, rows of the fit)  see residuals.rows; None: zero
    unseen: np.ndarray | None = None  # (n,)  rows of subjects that the fit has not seen


class Request(NamedTuple):
    """What is asked for beside the means."""

    interval: str  # "confidence" or "prediction"
    level: float
    conditional: bool
    new_levels: str


def read_request(
    se: Any,
    interval: Any,
    level: Any,
    conditional: bool,
    new_levels: Any,
    weights: Any,
    *,
    carries: bool,
) -> Request | None:
    """The request; None if only means are wanted."""
    se = flag(se, "se")
    choice(new_levels, "new_levels", ("error", "population", "nan"), elsewhere=_NEW_LEVELS)
    if isinstance(level, int) and level in (0, 1):
        raise DataError(
            f"level={level}: level is the coverage of intervals; predictions without random "
            "effects and with them are conditional=False and conditional=True"
        )
    level = probability(level, "level")
    if interval is not None:
        choice(interval, "interval", ("confidence", "prediction"))
    if weights is not None and interval != "prediction" and not (conditional and carries):
        raise DataError(
            "weights= are those of new observations, whose residual variance is scale / w: pass "
            "interval='prediction' with them"
        )
    if not se and interval is None:
        return None
    return Request(interval or "confidence", level, conditional, new_levels)


def row_noise_of(
    fit: FitRecord, rows: Rows, effects: Sequence[np.ndarray] | None, *, conditional: bool
) -> Noise:
    """What is known of the residuals of the rows, as far as these have been read for it."""
    new, design = rows.residual, fit.design
    if new is not None and fit.residual is not None and fit.residual.follows_means:
        new = replace(new, covariate=_fixed_and_random(fit, rows, effects))
    if rows.own and design is not None:
        return Noise(row_noise(design, fit.estimates), None)
    if new is None or fit.residual is None:
        return Noise(1.0 / rows.weights, None)
    if conditional and design is not None and fit.residual.correlates:
        found = carried(design, fit.estimates, new, rows.weights)
        return Noise(found.own, found.through, new.subject < 0)
    thetas = residual_thetas(fit.estimates.theta_layout, fit.residual.theta_structures)
    return Noise(variances(new, thetas) / rows.weights, None)


def row_means(
    fit: FitRecord,
    rows: Rows,
    effects: Sequence[np.ndarray] | None,
    new_levels: str,
    noise: Noise,
    resid: Callable[[], np.ndarray],
) -> np.ndarray:
    """``X beta + offset + Z b + A e`` of the complete rows, (n,); NaN for unseen if so asked.

    ``resid`` gives the residuals e of the fit, (rows of the fit,).
    """
    mean = _fixed_and_random(fit, rows, effects)
    if effects is None:
        return mean
    if noise.through is not None:
        mean = mean + noise.through @ resid()
    if new_levels == "nan":
        unseen = [term.unseen for term in rows.terms]
        unseen += [] if noise.unseen is None else [noise.unseen]
        mean = np.where(np.any(unseen, axis=0), np.nan, mean) if unseen else mean
    return mean


def _fixed_and_random(
    fit: FitRecord, rows: Rows, effects: Sequence[np.ndarray] | None
) -> np.ndarray:
    """``X beta + offset``, and ``Z b`` where there are effects, of the complete rows, (n,)."""
    mean = rows.X @ fit.estimates.beta + rows.offset
    if effects is None or not rows.terms:
        return mean
    return mean + random_part(rows.terms, effects, len(mean))


def prediction_table(
    fit: FitRecord,
    rows: Rows,
    effects: Sequence[np.ndarray] | None,
    errors: Callable[[], BlupErrors],
    resid: Callable[[], np.ndarray],
    request: Request,
) -> pd.DataFrame:
    """Predictions with standard errors and limits, a row each."""
    noise = row_noise_of(fit, rows, effects, conditional=request.conditional)
    means = row_means(fit, rows, effects, request.new_levels, noise, resid)
    variance = _variance(fit, rows, errors, request, noise)
    total = variance
    if request.interval == "prediction":
        total = variance + fit.scale * noise.own
        if rows.outside:
            total = total + level_variance(rows.outside, fit.estimates.covariances, unseen=False)
    half = half_width(total, _df(fit, rows, request), request.level)
    gone = np.isnan(means)
    columns = {
        "fit": means,
        "std_error": np.where(gone, np.nan, np.sqrt(variance)),
        "lower": means - half,
        "upper": means + half,
    }
    return pd.DataFrame({k: rows.column(v) for k, v in columns.items()}, index=rows.labels)


def carried_table(back: Transformation, table: pd.DataFrame) -> pd.DataFrame:
    """Predictions of a transformed response as those of the response."""
    found = back.carried(*table.to_numpy().T)
    return pd.DataFrame(np.column_stack(found), index=table.index, columns=table.columns)


def _variance(
    fit: FitRecord,
    rows: Rows,
    errors: Callable[[], BlupErrors],
    request: Request,
    noise: Noise,
) -> np.ndarray:
    """Variance of the predicted means, (n,)."""
    cov_beta, X, terms = fit.tests.cov_beta, rows.X, rows.terms
    if noise.through is not None:
        assert fit.design is not None  # there are rows that others go on from
        X, terms = gone_on(X, terms, fit.design, noise.through)
    if not request.conditional or not rows.terms:
        return fit.scale * population_variance(X, cov_beta)
    known = conditional_variance(errors(), X, terms, cov_beta)
    unseen = level_variance(rows.terms, fit.estimates.covariances, unseen=True)
    return fit.scale * known + unseen


def _df(fit: FitRecord, rows: Rows, request: Request) -> np.ndarray:
    """Degrees of freedom of every row's interval, (n,)."""
    if request.interval == "confidence" and not request.conditional:
        return row_df(fit.tests, rows.X)
    return np.full(len(rows.X), fit.df_resid if fit.tests.uses_t else np.inf)
