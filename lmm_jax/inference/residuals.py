"""Residuals of the rows: marginal and conditional, raw and scaled."""

from __future__ import annotations

import numpy as np

from ..designs.design import Design
from .estimates import Estimates


def marginal_residuals(design: Design, estimates: Estimates) -> np.ndarray:
    """``y - X beta - offset`` without losing digits to a large mean of y, (n,)."""
    y = design.endog if design.offset is None else design.endog - design.offset
    return np.asarray((y - design.exog @ estimates.beta_shift) - design.exog @ estimates.beta_low)


def pearson(raw: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """``sqrt(w) e``: residuals of one variance, in the units of y, (n,)."""
    return raw if weights is None else np.sqrt(weights) * raw


def standardized(scaled: np.ndarray, leverage: np.ndarray, sigma: float) -> np.ndarray:
    """Pearson residuals over ``sigma sqrt(1 - h)``, (n,); NaN for a row that is fitted exactly."""
    left = 1.0 - leverage
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(left > 1e-10, scaled / (sigma * np.sqrt(left)), np.nan)
