"""Plots of how residuals of one group depend on each other: by lag, by distance."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from ..capabilities import require
from ..errors import DataError
from ..inputs.arguments import flag, hinted, probability, whole_number
from ..inputs.names import unquoted
from . import canvas
from .places import Places, has_places, places_of
from .smooth import lowess
from .sources import covariate_of, fitted, residuals_of, rows_by_level

# Pairs of rows that are looked at, at most.
_MOST_PAIRS = 20_000_000
# Distances that have a point each; more are put together by their quantiles.
_FEW = 30
_BINS = 20


class Ordered(NamedTuple):
    """Residuals, group and time of the rows, group by group in the order of time."""

    label: str
    values: np.ndarray  # (n,)
    codes: np.ndarray  # (n,)
    when: np.ndarray  # (n,)
    unit: str  # of the time


def ordered(res: Any, kind: str | None, factor: str | None, time: Any) -> Ordered:
    """The rows whose residuals are numbers; without a time their visits count, or their order."""
    label, values = residuals_of(res, kind, "pearson")
    at, n = rows_by_level(res, factor, subjects_first=True), len(values)
    at_time = visits_of(res, time)
    if at_time is None and time is None:
        at_time = Places("", np.arange(n, dtype=float))
    elif at_time is None:
        at_time = covariate_of(res, time, "time")
    order = np.lexsort((np.arange(n), at_time.values, at.codes))
    order = order[np.isfinite(values[order])]
    when = at_time.values[order]
    return Ordered(label, values[order], at.codes[order], when, at_time.unit)


def visits_of(res: Any, time: Any) -> Places | None:
    """Places of the rows in the residual covariance, where no time is asked for or words are."""
    residual = require(res, "resid").design.residual
    if residual is None or residual.term.in_space or len(residual.rows.places) != 1:
        return None
    places, visits = np.asarray(residual.rows.places[0], float), residual.visits
    if time is None:
        return Places("", places)
    called = isinstance(time, str) and [unquoted(time)] == [*map(unquoted, residual.term.places)]
    if not called or visits is None:
        return None
    if not has_places(visits.dtype):
        return Places(time, places)
    order = np.argsort(residual.visit_places)  # a variable of the covariance alone
    at = order[np.searchsorted(residual.visit_places[order], places)]
    of_visits = places_of(visits.to_series(name=time), "time")
    return of_visits._replace(values=of_visits.values[at])


def autocorrelations(
    values: np.ndarray, codes: np.ndarray, lags: int, level: float
) -> pd.DataFrame:
    """Autocorrelation within groups, whose rows are in order: lag, pairs, correlation, bound.

        rho(l) = [sum r_t r_(t+l) / N(l)] / [sum r_t^2 / N(0)]

    over the N(l) pairs of one group; the bound of independence is ``z / sqrt(N(l))``.
    """
    variance = np.mean(values**2)
    out = []
    for lag in range(lags + 1):
        same = codes[lag:] == codes[: len(codes) - lag]
        if not same.any():
            break
        mean = np.mean((values[lag:] * values[: len(values) - lag])[same])
        out.append((lag, int(same.sum()), mean / variance))
    table = pd.DataFrame(out, columns=["lag", "pairs", "correlation"])
    return table.assign(bound=special.ndtri(0.5 + 0.5 * level) / np.sqrt(table["pairs"]))


@hinted
@canvas.finished
def autocorrelation(
    res: Any,
    *,
    factor: str | None = None,
    time: Any = None,
    kind: str | None = None,
    lags: int | None = None,
    level: float = 0.95,
    ax: Any = None,
) -> Any:
    """Correlation of the residuals of a group by lag (nlme's ``ACF``).

    Residuals of a fit with random effects are slightly negatively correlated even if the model is
    right; ``kind="whitened"`` are not, and say what a residual covariance has left over.

    Parameters
    ----------
    res : LMMResults
    factor : str, optional
        Grouping factor; if not given the subjects of the residual covariance, as nlme's, or the
        first one.
    time : str, array or Series, optional
        By what the rows of a group are ordered; by default the visits of the residual covariance,
        or they are in order. A lag is a number of rows, not a difference of times.
    kind : str, optional
        As in ``res.resid(kind)``: "pearson" if not given, "whitened" for a fit with a residual
        covariance.
    lags : int, optional
        The largest; by default at most 10 log10(n), as in R.
    level : float
        Of the bounds of independence.
    ax : Axes, optional

    Returns
    -------
    Axes

    References
    ----------
    Pinheiro & Bates (2000), Mixed-Effects Models in S and S-PLUS, equation 5.36,
    doi:10.1007/b98882.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> ax = lmm.plots.autocorrelation(res, time="Days", lags=5)
    """
    label, values, codes, _, _ = ordered(res, kind, factor, time)
    most = int(10 * np.log10(len(values))) if lags is None else whole_number(lags, "lags", least=1)
    table = autocorrelations(values, codes, most, probability(level, "level"))
    if len(table) < 2:
        raise DataError("no group has two rows: there is no correlation within groups")
    ax = canvas.axes(ax)
    table = table.iloc[1:]
    lag, bound = table["lag"].to_numpy(), table["bound"].to_numpy()
    ax.fill_between(lag, -bound, bound, color=canvas.FAINT, linewidth=0)
    canvas.reference(ax, y=0.0)
    ax.vlines(lag, 0.0, table["correlation"], color=canvas.ACCENT, linewidth=2.2)
    ax.scatter(lag, table["correlation"], s=24, color=canvas.ACCENT, zorder=3)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="Lag", ylabel=f"Autocorrelation, {label}")
    return ax


def semivariances(values: np.ndarray, codes: np.ndarray, when: np.ndarray) -> pd.DataFrame:
    """Semivariogram within groups: distance, pairs, semivariance.

        gamma(d) = mean of (r_s - r_t)^2 / 2 over the pairs with |s - t| = d

    Up to 30 distances have a row each; more are put together into 20 bins of equal size, at the
    mean distance.
    """
    counts = np.bincount(codes)
    if np.sum(counts.astype(float) * (counts - 1)) / 2 > _MOST_PAIRS:
        raise DataError(
            f"the groups have more than {_MOST_PAIRS:,} pairs of rows: pass factor=, one with "
            "smaller groups"
        )
    distances, halves = [np.zeros(0)], [np.zeros(0)]
    for lag in range(1, int(counts.max(initial=0))):
        same = codes[lag:] == codes[: len(codes) - lag]
        distances.append(np.abs(when[lag:] - when[: len(when) - lag])[same])
        halves.append(0.5 * ((values[lag:] - values[: len(values) - lag]) ** 2)[same])
    d, gamma = np.concatenate(distances), np.concatenate(halves)
    places = np.unique(d)
    if places.size > _FEW:
        edges = np.unique(np.quantile(d, np.linspace(0, 1, _BINS + 1)))
        which = np.clip(np.searchsorted(edges, d, side="right") - 1, 0, len(edges) - 2)
    else:
        which = np.searchsorted(places, d)
    pairs = np.bincount(which)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(which, x) / pairs for x in (d, gamma)]
    table = pd.DataFrame({"distance": means[0], "pairs": pairs, "semivariance": means[1]})
    return table[table["pairs"] > 0].reset_index(drop=True)


@hinted
@canvas.finished
def variogram(
    res: Any,
    time: Any = None,
    *,
    factor: str | None = None,
    kind: str | None = None,
    smoother: bool = True,
    ax: Any = None,
) -> Any:
    """Semivariogram of the residuals of a group over the distance in time (nlme's ``Variogram``).

    It is level at the variance of the residuals where these are independent, and rises where
    neighbours are alike. The area of a point is in proportion to its pairs.

    Parameters
    ----------
    res : LMMResults
    time : str, array or Series, optional
        The first covariate of the formula if not given.
    factor : str, optional
        Grouping factor; if not given the subjects of the residual covariance, as nlme's, or the
        first one.
    kind : str, optional
        As in ``res.resid(kind)``: "pearson" if not given, "whitened" for a fit with a residual
        covariance.
    smoother : bool
        Draw a local regression (lowess), from four distances on.
    ax : Axes, optional

    Returns
    -------
    Axes

    References
    ----------
    Diggle, Heagerty, Liang & Zeger (2002), Analysis of Longitudinal Data, section 3.4.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> lmm.plots.variogram(res, "Days").get_xlabel()
    'Distance in Days'
    """
    if time is None:
        time = covariate_of(fitted(res), None, "time").name
    found = ordered(res, kind, factor, time)
    table = semivariances(found.values, found.codes, found.when)
    if table.empty:
        raise DataError("no group has two rows: there is no variogram within groups")
    ax = canvas.axes(ax)
    area = 12 + 90 * table["pairs"] / table["pairs"].max()
    ax.scatter(
        table["distance"], table["semivariance"], s=area, facecolor=canvas.SOFT,
        edgecolor=canvas.ACCENT,
    )  # fmt: skip
    if flag(smoother, "smoother") and len(table) > 3:
        d, gamma = table["distance"].to_numpy(), table["semivariance"].to_numpy()
        ax.plot(*lowess(d, gamma, share=0.8, robust=0), color=canvas.SECOND, linewidth=1.8)
    canvas.reference(ax, y=float(np.var(found.values)))
    ax.margins(y=0.1)
    ax.set_ylim(bottom=0.0)
    ax.set(xlabel=f"Distance in {found.unit}", ylabel=f"Semivariance, {found.label}")
    return ax
