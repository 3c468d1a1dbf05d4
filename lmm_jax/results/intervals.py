"""Predictions with standard errors and limits, as a frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import DataError
from ..inference.prediction import (
    BlupErrors,
    conditional_variance,
    half_width,
    known_covariance,
    level_variance,
    population_variance,
    row_df,
)
from ..inference.random_effects import random_part
from ..inference.record import FitRecord
from ..inputs.arguments import choice, flag, probability
from .predict import Rows


class Request(NamedTuple):
    """What is asked for beside the means."""

    interval: str  # "confidence" or "prediction"
    level: float
    conditional: bool
    new_levels: str

    @property
    def part(self) -> str:
        """What :func:`lmm_jax.results.predict.new_rows` has to read of the rows."""
        if self.conditional:
            return "levels"
        return "covariates" if self.interval == "prediction" else "fixed"


def read_request(
    se: Any, interval: Any, level: Any, conditional: bool, new_levels: Any, weights: Any
) -> Request | None:
    """The request; None if only means are wanted."""
    se = flag(se, "se")
    level = probability(level, "level")
    if interval is not None:
        choice(interval, "interval", ("confidence", "prediction"))
    if weights is not None and interval != "prediction":
        raise DataError(
            "weights= are those of new observations, whose residual variance is scale / w: pass "
            "interval='prediction' with them"
        )
    if not se and interval is None:
        return None
    return Request(interval or "confidence", level, conditional, new_levels)


def row_means(
    fit: FitRecord, rows: Rows, effects: Sequence[np.ndarray] | None, new_levels: str
) -> np.ndarray:
    """``X beta + offset + Z b`` of the complete rows, (n,); NaN for unseen levels if so asked."""
    mean = rows.X @ fit.estimates.beta + rows.offset
    if effects is None or not rows.terms:
        return mean
    mean = mean + random_part(rows.terms, effects, len(mean))
    if new_levels == "nan":
        mean = np.where(np.any([term.unseen for term in rows.terms], axis=0), np.nan, mean)
    return mean


def prediction_table(
    fit: FitRecord,
    rows: Rows,
    effects: Sequence[np.ndarray] | None,
    errors: Callable[[], BlupErrors],
    request: Request,
) -> pd.DataFrame:
    """Predictions with standard errors and limits, a row each."""
    means = row_means(fit, rows, effects, request.new_levels)
    variance = _variance(fit, rows, errors, request)
    total = variance
    if request.interval == "prediction":
        total = variance + fit.scale / rows.weights
        if not request.conditional and rows.terms:
            total = total + level_variance(rows.terms, fit.estimates.covariances, unseen=False)
    half = half_width(total, _df(fit, rows, request), request.level)
    gone = np.isnan(means)
    columns = {
        "fit": means,
        "std_error": np.where(gone, np.nan, np.sqrt(variance)),
        "lower": means - half,
        "upper": means + half,
    }
    return pd.DataFrame({k: rows.column(v) for k, v in columns.items()}, index=rows.labels)


def _variance(
    fit: FitRecord, rows: Rows, errors: Callable[[], BlupErrors], request: Request
) -> np.ndarray:
    """Variance of the predicted means, (n,)."""
    cov_beta = known_covariance(fit.tests.cov_beta)
    if not request.conditional or not rows.terms:
        return fit.scale * population_variance(rows.X, cov_beta)
    known = conditional_variance(errors(), rows.X, rows.terms, cov_beta)
    unseen = level_variance(rows.terms, fit.estimates.covariances, unseen=True)
    return fit.scale * known + unseen


def _df(fit: FitRecord, rows: Rows, request: Request) -> np.ndarray:
    """Degrees of freedom of every row's interval, (n,)."""
    if request.interval == "confidence" and not request.conditional:
        return row_df(fit.tests, rows.X)
    return np.full(len(rows.X), fit.df_resid if fit.tests.uses_t else np.inf)
