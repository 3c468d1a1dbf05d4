"""Residuals of the rows: marginal and conditional, raw and scaled."""

from __future__ import annotations

import numpy as np

from ...designs.design import Design
from ..estimates import Estimates


def marginal_residuals(design: Design, estimates: Estimates) -> np.ndarray:
    """``y - X beta - offset`` without losing digits to a large mean of y, (n,)."""
    y = design.endog_less_offset
    return np.asarray((y - design.exog @ estimates.beta_shift) - design.exog @ estimates.beta_low)


def pearson(raw: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """``e / sqrt(v)``: residuals of variance sigma^2, in the units of y, (n,).

    Parameters
    ----------
    raw : ndarray, shape (n,)
    noise : ndarray, shape (n,)
        Residual variance of every row relative to sigma^2, ``1 / w``.
    """
    return np.asarray(raw / np.sqrt(noise))


def standardized(scaled: np.ndarray, leverage: np.ndarray, sigma: float) -> np.ndarray:
    """Pearson residuals over ``sigma sqrt(1 - h)``, (n,); NaN for a row that is fitted exactly."""
    left = 1.0 - leverage
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(left > 1e-10, scaled / (sigma * np.sqrt(left)), np.nan)
