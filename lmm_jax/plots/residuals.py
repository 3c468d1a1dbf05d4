"""Plots of residuals: against fitted values, by group, their size, their quantiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..inputs.arguments import flag, hinted, probability
from ..inputs.names import unquoted
from . import canvas
from .levels import effects_of
from .smooth import lowess, normal_quantiles
from .sources import LevelRows, factor_of, fitted, level_name, residuals_of, rows_by_level


@hinted
@canvas.finished
def residuals_fitted(
    res: Any, *, kind: str | None = None, smoother: bool = True, ax: Any = None
) -> Any:
    """Residuals against fitted values.

    Parameters
    ----------
    res : LMMResults
    kind : str, optional
        As in ``res.resid(kind)``, Pearson's if not given; "whitened" for a fit with a residual
        covariance. The fitted values have the random effects.
    smoother : bool
        Draw a robust local regression (lowess).
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> lmm.plots.residuals_fitted(res).get_ylabel()
    'Pearson residuals'
    """
    found = residuals_of(res, kind, "pearson")
    ax = canvas.axes(ax)
    _cloud(ax, res.fittedvalues.to_numpy(), found.values, smoother)
    canvas.reference(ax, y=0.0)
    ax.set(xlabel=f"Fitted {unquoted(res.endog_name)}", ylabel=found.title)
    return ax


@hinted
@canvas.finished
def scale_location(
    res: Any, *, kind: str | None = None, smoother: bool = True, ax: Any = None
) -> Any:
    """Roots of absolute residuals against fitted values: whether the variance is one.

    Parameters
    ----------
    res : LMMResults
    kind : str, optional
        As in ``res.resid(kind)``: "standardized" if not given, "whitened" for a fit with a residual
        covariance.
    smoother : bool
        Draw a robust local regression (lowess), level if the variance does not change.
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> ax = lmm.plots.scale_location(res)
    """
    found = residuals_of(res, kind, "standardized")
    ax = canvas.axes(ax)
    _cloud(ax, res.fittedvalues.to_numpy(), np.sqrt(np.abs(found.values)), smoother)
    ax.set_ylim(bottom=0.0)
    ax.set(xlabel=f"Fitted {unquoted(res.endog_name)}", ylabel=f"Root of |{found.label}|")
    return ax


def _cloud(ax: Any, x: np.ndarray, y: np.ndarray, smoother: bool) -> None:
    canvas.points(ax, x, y)
    if flag(smoother, "smoother"):
        ax.plot(*lowess(x, y), color=canvas.SECOND, linewidth=1.8)


@hinted
@canvas.finished
def residuals_by_group(
    res: Any, factor: str | None = None, *, kind: str | None = None, ax: Any = None
) -> Any:
    """Residuals of every level of a factor, as boxes in the order of their medians.

    Parameters
    ----------
    res : LMMResults
    factor : str, optional
        Grouping factor, the first if not given; without random effects the subjects.
    kind : str, optional
        As in ``res.resid(kind)``: "pearson" if not given, "whitened" for a fit with a residual
        covariance.
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
    >>> ax = lmm.plots.residuals_by_group(res)
    """
    found, at = residuals_of(res, kind, "pearson"), rows_by_level(fitted(res), factor)
    boxes = boxes_of(found.values, at)
    ax = canvas.axes(ax, (5.8, canvas.height(len(boxes))))
    y = np.arange(len(boxes))
    canvas.reference(ax, x=0.0)
    ax.hlines(y, boxes["low"], boxes["high"], color=canvas.ACCENT, linewidth=1.0)
    ax.barh(
        y, boxes["upper"] - boxes["lower"], left=boxes["lower"], height=0.6,
        facecolor=canvas.FAINT, edgecolor=canvas.ACCENT,
    )  # fmt: skip
    ax.vlines(boxes["median"], y - 0.3, y + 0.3, color=canvas.SECOND, linewidth=2.2)
    beyond = [(x, i) for i, outside in enumerate(boxes["outside"]) for x in outside]
    canvas.points(ax, *np.array(beyond).reshape(-1, 2).T, s=14)
    canvas.name_levels(ax, list(boxes["level"]), at.factor)
    ax.set_xlabel(found.title)
    return ax


def boxes_of(values: np.ndarray, at: LevelRows) -> pd.DataFrame:
    """Tukey's boxes of the values of every level, in the order of their medians.

    Whiskers end at the last value within 1.5 times the distance of the quartiles.
    """
    out = []
    for name, rows in zip(at.names, at.rows, strict=True):
        own = np.sort(values[rows][np.isfinite(values[rows])])
        if not own.size:
            continue
        lower, median, upper = np.quantile(own, [0.25, 0.5, 0.75])
        reach = 1.5 * (upper - lower)
        within = own[(own >= lower - reach) & (own <= upper + reach)]
        outside = own[(own < lower - reach) | (own > upper + reach)]
        out.append((name, within[0], lower, median, upper, within[-1], outside))
    columns = ["level", "low", "lower", "median", "upper", "high", "outside"]
    table = pd.DataFrame(out, columns=columns)
    return table.sort_values("median", kind="stable", ignore_index=True)


@hinted
@canvas.finished
def qq_residuals(res: Any, *, kind: str | None = None, level: float = 0.95, ax: Any = None) -> Any:
    """Normal quantile plot of the residuals.

    The line goes through the quartiles; the band has pointwise limits of the order statistics of
    an independent normal sample, which residuals are nearly.

    Parameters
    ----------
    res : LMMResults
    kind : str, optional
        As in ``res.resid(kind)``: "standardized" if not given, "whitened" for a fit with a residual
        covariance.
    level : float
        Coverage of the band.
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> ax = lmm.plots.qq_residuals(res)
    """
    found = residuals_of(res, kind, "standardized")
    ax = canvas.axes(ax, (5.0, 4.6))
    _quantile_plot(ax, found.values, level)
    ax.set_ylabel(found.title)
    return ax


@hinted
@canvas.finished
def qq_random_effects(
    res: Any,
    factor: str | None = None,
    *,
    coefficient: str | None = None,
    level: float = 0.95,
    ax: Any = None,
) -> Any:
    """Normal quantile plots of the random effects, with their intervals (lme4's ``qqmath``).

    Parameters
    ----------
    res : LMMResults
    factor : str, optional
        Grouping factor or component, the first if not given.
    coefficient : str, optional
        One coefficient; if not given every coefficient has a panel.
    level : float
        Coverage of the intervals and of the band.
    ax : Axes or sequence of Axes, optional
        One a coefficient.

    Returns
    -------
    Axes or ndarray of Axes
        The Axes if one coefficient is drawn, otherwise an array with one a coefficient.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> [ax.get_ylabel() for ax in lmm.plots.qq_random_effects(res)]
    ['Intercept of Subject', 'Days of Subject']
    """
    table = effects_of(fitted(res), factor, coefficient, level)
    factor, names = factor_of(res, factor), list(dict.fromkeys(table["term"]))
    size = (4.0, 3.8) if len(names) > 1 else (5.0, 4.6)
    drawn = canvas.panels(ax, len(names), columns=min(len(names), 3), size=size)
    for one, name in zip(drawn, names, strict=True):
        own = table[table["term"] == name].reset_index(drop=True)
        _quantile_plot(one, own["estimate"].to_numpy(), level, own)
        one.set_ylabel(f"{name} of {factor}")
        if not own["estimate"].to_numpy().any():
            canvas.only_zero(one, "y")
    return canvas.one_or_all(drawn)


def _quantile_plot(
    ax: Any, values: np.ndarray, level: float, limits: pd.DataFrame | None = None
) -> None:
    """Points, line and band; bars where every point has limits."""
    q = normal_quantiles(values, probability(level, "level"))
    ax.fill_between(q.theory, q.low, q.high, color=canvas.FAINT, linewidth=0, alpha=0.8)
    ax.plot(q.theory, q.line, color=canvas.SECOND, linewidth=1.4)
    if limits is not None:
        sorted_limits = limits.iloc[q.order]
        ends = sorted_limits["conf_low"], sorted_limits["conf_high"]
        ax.vlines(q.theory, *ends, color=canvas.SOFT, linewidth=1.2)
        if len(limits) <= 12:
            look = {"textcoords": "offset points", "fontsize": 8}
            for x, y, name in zip(q.theory, q.sample, sorted_limits["level"], strict=True):
                ax.annotate(level_name(name), (x, y), (5, -3), **look)
    canvas.points(ax, q.theory, q.sample)
    ax.set_xlabel("Normal quantiles")
