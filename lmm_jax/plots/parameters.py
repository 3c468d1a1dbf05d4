"""Plots of parameters: profiles, bootstrap distributions, variances."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import interpolate, special

from ..errors import DataError
from ..inputs.arguments import choice, flag, hinted, items, probability, shown
from ..inputs.names import chosen_name
from . import canvas
from .smooth import density
from .sources import expect, fitted, is_a

# Levels of the intervals that a profile shows, as lme4's.
_LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
# Places of a profile's curve between two of its points.
_BETWEEN = 12


class ZetaCurve(NamedTuple):
    """The profile of one parameter."""

    name: str
    value: np.ndarray  # (G,)   points that were computed
    zeta: np.ndarray  # (G,)
    line: tuple[np.ndarray, np.ndarray]  # a monotone cubic through them
    limits: np.ndarray  # (levels, 2)
    quantiles: np.ndarray  # (levels,)  zeta at the limits, without sign


def zeta_curves(profile: Any, levels: Any) -> tuple[ZetaCurve, ...]:
    """Points, curves and limits of every profiled parameter."""
    wanted = [probability(level, "levels") for level in items(levels, "levels")]
    limits = [profile.conf_int(level=level) for level in wanted]
    q = special.ndtri(0.5 + 0.5 * np.array(wanted))
    out = []
    for n, (name, table) in enumerate(
        profile.to_frame(output="pandas").groupby("parameter", sort=False)
    ):
        value, zeta = table["value"].to_numpy(), table["zeta"].to_numpy()
        steps = np.arange(len(value) - 1)[:, None] + np.linspace(0, 1, _BETWEEN, endpoint=False)
        fine = np.append(np.interp(steps.ravel(), np.arange(len(value)), value), value[-1])
        curve = interpolate.PchipInterpolator(value, zeta)(fine) if len(value) > 1 else zeta
        ends = np.array([frame.to_numpy()[n] for frame in limits]).reshape(-1, 2)
        out.append(ZetaCurve(str(name), value, zeta, (fine, curve), ends, q))
    return tuple(out)


@hinted
@canvas.finished
def profile(profile: Any, *, absolute: bool = False, levels: Any = _LEVELS, ax: Any = None) -> Any:
    """Zeta, the signed root of the rise of the deviance, along every profiled parameter.

    A straight line is a parameter whose Wald interval is exact. Vertical lines stand at the limits
    of profile intervals, from zeta = 0 to the curve; where the parameter ends before, at its end.

    Parameters
    ----------
    profile : ProfileResults
    absolute : bool
        Draw ``|zeta|``.
    levels : sequence of float
        Coverage of the intervals drawn, at most 0.999.
    ax : sequence of Axes, optional
        One a parameter.

    Returns
    -------
    ndarray of Axes
        One a parameter, also where there is one.

    References
    ----------
    Bates & Watts (1988), Nonlinear Regression Analysis, section 6.1,
    doi:10.1002/9780470316757.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
    >>> [ax.get_xlabel() for ax in lmm.plots.profile(lmm.profile(res))]
    ['Intercept', 'sd(Intercept|Batch)', 'sigma']
    """
    found = zeta_curves(expect(profile, "profile", "ProfileResults"), levels)
    size = np.abs if flag(absolute, "absolute") else np.asarray
    drawn = canvas.panels(ax, len(found), columns=3 if len(found) > 4 else None, sharey=True)
    for one, curve in zip(drawn, found, strict=True):
        x, zeta = curve.line
        one.plot(x, size(zeta), color=canvas.ACCENT, linewidth=1.6)
        one.plot(curve.value, size(curve.zeta), "o", color=canvas.ACCENT, markersize=3)
        canvas.reference(one, y=0.0)
        ends = curve.limits.ravel()
        at = size(np.interp(ends, x, zeta))
        one.vlines(ends, 0.0, at, color=canvas.SECOND, linewidth=0.9)
        if flag(absolute, "absolute"):
            one.hlines(curve.quantiles, *curve.limits.T, color=canvas.SECOND, linewidth=0.9)
        one.set_xlabel(curve.name)
        if ax is not None or canvas.starts_row(one):
            one.set_ylabel("|zeta|" if absolute else "zeta")
    return drawn


class Draws(NamedTuple):
    """The distribution of one statistic of a bootstrap."""

    name: str
    values: np.ndarray  # (R,)  finite ones
    estimate: float
    lower: float
    upper: float


def draws_of(boot: Any, names: Any, kind: str, level: float) -> tuple[Draws, ...]:
    """Replicates, estimate and interval of some statistics."""
    at = boot.statistics("sdcor") if is_a(boot, "BootstrapResults") else boot
    limits = at.conf_int(kind=kind, alpha=1 - probability(level, "level"))
    known = list(at.names)
    wanted = known if names is None else names
    chosen = [wanted] if isinstance(wanted, str) else items(wanted, "names")
    if not chosen:
        raise DataError(f"names={shown(names)}: choose from {', '.join(known)}")
    out = []
    for name in chosen:
        j = known.index(chosen_name(name, "names", known))
        values = at.values[:, j][np.isfinite(at.values[:, j])]
        out.append(Draws(name, values, float(at.estimate[j]), *map(float, limits.iloc[j])))
    return tuple(out)


def _range(name: str) -> tuple[float, float]:
    """Least and greatest value of a parameter, by its name."""
    if name.startswith("cor("):
        return -1.0, 1.0
    return (0.0 if name.startswith("sd(") or name == "sigma" else -np.inf), np.inf


@hinted
@canvas.finished
def bootstrap(
    boot: Any,
    names: Any = None,
    *,
    kind: str = "percentile",
    level: float = 0.95,
    ax: Any = None,
) -> Any:
    """Histogram and density of the replicates of every parameter, with estimate and interval.

    Standard deviations and correlations are drawn, not variances. Replicates on the boundary stand
    in one bar of the histogram, which the density smooths out.

    Parameters
    ----------
    boot : BootstrapResults or BootstrapStatistics
    names : str or sequence of str, optional
        Parameters to draw, as ``boot.tidy()`` names them; all if not given.
    kind : {"percentile", "basic", "normal"}
        Of the intervals.
    level : float
        Coverage.
    ax : sequence of Axes, optional
        One a parameter.

    Returns
    -------
    ndarray of Axes
        One a parameter, also where there is one.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
    >>> boot = lmm.bootstrap(res, n_boot=200, seed=1)
    >>> [ax.get_xlabel() for ax in lmm.plots.bootstrap(boot, ["sigma"])]
    ['sigma']
    """
    found = draws_of(expect(boot, "boot", "BootstrapResults", "BootstrapStatistics"),
                     names, kind, level)  # fmt: skip
    drawn = canvas.panels(ax, len(found), columns=3 if len(found) > 4 else None)
    for one, draws in zip(drawn, found, strict=True):
        bins = min(40, max(10, int(np.sqrt(draws.values.size))))
        one.hist(draws.values, bins=bins, density=True, color=canvas.FAINT)
        one.plot(*density(draws.values, *_range(draws.name)), color=canvas.ACCENT, linewidth=1.6)
        one.axvline(draws.estimate, color=canvas.SECOND, linewidth=1.8)
        for end in (draws.lower, draws.upper):
            one.axvline(end, color=canvas.SECOND, linewidth=1.2, linestyle=(0, (4, 2)))
        one.set_xlabel(draws.name)
        if ax is not None or canvas.starts_row(one):
            one.set_ylabel("Density")
        one.set_ylim(bottom=0.0)
    return drawn


def variances_of(res: Any, scale: str, method: str, level: float) -> pd.DataFrame:
    """Standard deviations or variances: label, estimate, lower, upper; the residual's last."""
    column = choice(scale, "scale", ("sdcor", "vcov"))
    choice(method, "method", ("wald", "profile"))
    level = probability(level, "level")
    limits = res.conf_int(method=method, level=level, scale=scale, parm="theta")
    start = ("sd(", "sigma") if scale == "sdcor" else ("var(", "scale")
    own = limits[[str(name).startswith(start) for name in limits.index]]
    table = res.varcorr
    table = table[table["var2"].isna()]
    labels = [
        group if pd.isna(name) else f"{name} | {group}"
        for group, name in zip(table["grp"], table["var1"], strict=True)
    ]
    limits = own[["lower", "upper"]].to_numpy()
    out = pd.DataFrame({"label": labels, "estimate": table[column].to_numpy()})
    out[["lower", "upper"]] = limits
    several = _residual_deviations(res, level)
    if several.empty:
        return out
    numbers = several.columns[1:]
    several[numbers] = several[numbers] ** (1 if scale == "sdcor" else 2)
    return pd.concat([out.iloc[:-1], several], ignore_index=True)


def _residual_deviations(res: Any, level: float) -> pd.DataFrame:
    """Standard deviations of the levels of a residual covariance, if there are several."""
    table = res.residual_intervals(level) if res.residual is not None else pd.DataFrame()
    names = [str(name) for name in table.index]
    own = table[[name.startswith("sd[") for name in names]]
    out = own.reindex(columns=["estimate", "lower", "upper"]).reset_index(drop=True)
    labels = [f"{name[3:-1]} | Residual" for name in names if name.startswith("sd[")]
    out.insert(0, "label", labels)
    return out


@hinted
@canvas.finished
def variance_components(
    res: Any,
    *,
    scale: str = "sdcor",
    method: str = "wald",
    level: float = 0.95,
    ax: Any = None,
) -> Any:
    """Standard deviations of the random effects and of the residual as bars with intervals.

    Parameters
    ----------
    res : LMMResults
    scale : {"sdcor", "vcov"}
        Standard deviations or variances.
    method : {"wald", "profile"}
        Of the intervals, as in ``res.conf_int``; the standard deviations of a residual covariance,
        ``res.residual_intervals()``, have Wald's.
    level : float
        Coverage.
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("strength ~ 1 + (1 | batch/cask)", lmm.load_dataset("pastes"))
    >>> ax = lmm.plots.variance_components(res)
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['Residual', 'Intercept | batch', 'Intercept | cask:batch']
    """
    table = variances_of(fitted(res), scale, method, level)
    if table["estimate"].isna().all():
        raise DataError("this fit has no variance to be drawn")
    ax = canvas.axes(ax, (6.0, 1.4 + 0.5 * len(table)))
    y = np.arange(len(table))[::-1]
    ax.barh(y, table["estimate"], height=0.6, color=canvas.SOFT)
    ax.hlines(y, table["lower"], table["upper"], color=canvas.INK, linewidth=1.6)
    ax.scatter(table["estimate"], y, s=22, color=canvas.ACCENT, zorder=3)
    canvas.name_levels(ax, list(table["label"])[::-1], "")
    ax.set_xlim(left=0.0)
    what = "Standard deviation" if scale == "sdcor" else "Variance"
    ax.set_xlabel(f"{what}, {100 * level:g}% interval")
    return ax
