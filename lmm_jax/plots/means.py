"""Plots of marginal means: interactions, comparison arrows, p values of all pairs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import DataError
from ..inputs.arguments import choice, flag, hinted, probability
from ..inputs.matching import spelling
from . import canvas
from .arrows import Arrows, comparison_arrows
from .sources import expect

# P values that have a mark on the axis of pwpp.
_P_MARKS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
# Distance below which two segments of pwpp would hide each other, on its axis from 0 to 1.
_APART = 0.012


def _means(means: Any) -> Any:
    return expect(means, "means", "MarginalMeans")


def _labels(means: Any) -> list[str]:
    """Columns of the table that are labels."""
    columns = list(means.to_frame("none", output="pandas").columns)
    return [str(name) for name in columns[: columns.index("estimate")]]


def _row_names(table: pd.DataFrame, columns: list[str]) -> list[str]:
    rows = table[columns].itertuples(index=False)
    return [
        ", ".join(f"{v:g}" if isinstance(v, float) else spelling(v) for v in row) for row in rows
    ]


def _what(means: Any) -> str:
    """Label of the axis of the estimates."""
    if means.kind == "contrast":
        return "Contrast"
    if means.kind.endswith(".trend"):
        return f"Slope of {means.kind.removesuffix('.trend')}"
    return "Estimated marginal mean"


class Traces(NamedTuple):
    """Lines of an interaction plot."""

    x: str
    ticks: list[Any]  # (T,)  values of x
    numeric: bool
    by: list[str]
    lines: dict[str, pd.DataFrame]  # place, estimate, conf_low, conf_high


def traces_of(means: Any, x: str | None, level: float | None, scale: str) -> Traces:
    """The rows of a table of means as lines over one of their factors."""
    labels = _labels(means)
    x = labels[0] if x is None else choice(x, "x", labels)
    by = [name for name in labels if name != x]
    table = means.to_frame(level=level, type=scale, output="pandas")
    ticks = list(dict.fromkeys(table[x]))
    numeric = all(isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in ticks)
    table["place"] = table[x].astype(float) if numeric else table[x].map(ticks.index)
    names = np.array(_row_names(table, by) if by else [""] * len(table))
    columns = ["place", "estimate", "conf_low", "conf_high"]
    lines = {
        str(name): table.loc[names == name, columns].astype(float).sort_values("place")
        for name in dict.fromkeys(names)
    }
    return Traces(x, ticks, numeric, by, lines)


@hinted
@canvas.literal
def interaction(
    means: Any,
    x: str | None = None,
    *,
    level: float | None = None,
    type: str = "link",
    letters: bool = False,
    ax: Any = None,
) -> Any:
    """Marginal means over one factor, a line for every combination of the others (``emmip``).

    Parameters
    ----------
    means : MarginalMeans
        Of :func:`lmm_jax.emmeans` or :func:`lmm_jax.emtrends`.
    x : str, optional
        The column on the horizontal axis, the first if not given; numbers keep their distances.
    level : float, optional
        Coverage of the limits, that of the means if not given.
    type : {"link", "response"}
        As in ``means.to_frame``.
    letters : bool
        Write the letters of ``means.cld()`` above the limits: two means of one family that share
        one do not differ at the level 0.05.
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("yld ~ Variety * Nf + (1 | Block/Variety)", lmm.load_dataset("oats"))
    >>> ax = lmm.plots.interaction(lmm.emmeans(res, ["Nf", "Variety"]))
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['Golden Rain', 'Marvellous', 'Victory']
    """
    found, own = traces_of(_means(means), x, level, type), ax is None
    if flag(letters, "letters") and means.kind == "contrast":
        raise DataError("letters compare means: pass those, not their contrasts")
    written = means.cld()["group"].to_numpy() if flag(letters, "letters") else None
    ax = canvas.axes(ax)
    reach = np.ptp([p for line in found.lines.values() for p in line["place"]]) or 1.0
    for i, (name, line) in enumerate(found.lines.items()):
        shift = 0.015 * reach * (i - (len(found.lines) - 1) / 2)  # limits beside each other
        look = canvas.series(i)
        ax.plot(line["place"] + shift, line["estimate"], label=name, **look, linewidth=1.5, ms=5)
        ends = line["conf_low"], line["conf_high"]
        ax.vlines(line["place"] + shift, *ends, color=look["color"], linewidth=1.2)
        if written is not None:
            for row, at in line.iterrows():
                ax.annotate(
                    written[row], (at["place"] + shift, at["conf_high"]), (0, 3),
                    textcoords="offset points", ha="center", fontsize="small",
                    color=look["color"],
                )  # fmt: skip
    if not found.numeric:
        ax.set_xticks(range(len(found.ticks)), [spelling(tick) for tick in found.ticks])
    ax.set(xlabel=found.x, ylabel=_what(means))
    if found.by:
        canvas.legend(ax, ", ".join(found.by), beside=own)
    return ax


class Compared(NamedTuple):
    """Means with their limits and arrows, and the tests of all pairs of every family."""

    names: list[str]  # (k,)
    table: pd.DataFrame  # (k, ...)  estimate, conf_low, conf_high
    left: np.ndarray  # (k,)
    right: np.ndarray  # (k,)
    families: list[np.ndarray]  # rows of each
    pairs: pd.DataFrame  # first, second (rows), p_value
    wrong: int


def compared(means: Any, alpha: float, adjust: str | None) -> Compared:
    """All pairs of means in each family, and the arrows that show what they say."""
    alpha = probability(alpha, "alpha")
    table, families = means.confint(), means.labels.families(means.by)
    found = means.pairs(adjust=adjust).to_frame(adjust, level=1 - alpha, output="pandas")
    p = found["p_value"].to_numpy()
    half = 0.5 * (found["conf_high"] - found["conf_low"]).to_numpy()
    left, right, wrong, start, ends = np.zeros(len(table)), np.zeros(len(table)), 0, 0, []
    for rows in families:
        i, j = np.triu_indices(len(rows), 1)
        own = slice(start, start + len(i))
        estimate = table["estimate"].to_numpy()[rows]
        arrows: Arrows = comparison_arrows(estimate, half[own], p[own] < alpha)
        left[rows], right[rows] = arrows.left, arrows.right
        wrong, start = wrong + arrows.wrong, start + len(i)
        ends.append(np.column_stack([rows[i], rows[j]]))
    pairs = pd.DataFrame(np.vstack(ends), columns=["first", "second"]).assign(p_value=p)
    names = _row_names(table, _labels(means))
    return Compared(names, table, left, right, families, pairs, wrong)


@hinted
@canvas.literal
def comparisons(
    means: Any, *, alpha: float = 0.05, adjust: str | None = None, ax: Any = None
) -> Any:
    """Marginal means with their intervals and comparison arrows, or contrasts with intervals.

    Two means of one family differ at the level alpha where their arrows do not overlap. Bars are
    confidence intervals of the means, which say nothing of differences. Contrasts
    (``means.pairs()``) have no arrows; those whose interval does not reach the line at zero are
    dark.

    Parameters
    ----------
    means : MarginalMeans
    alpha : float
        Level of the comparisons.
    adjust : str, optional
        Of the comparisons, as in ``means.pairs``; Tukey's by default.
    ax : Axes, optional

    Returns
    -------
    Axes
        Its title says if arrows cannot show all comparisons, and of how many pairs.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("yld ~ Variety + Nf + (1 | Block/Variety)", lmm.load_dataset("oats"))
    >>> ax = lmm.plots.comparisons(lmm.emmeans(res, "Nf"))
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['n60', 'n40', 'n20', 'n00']
    """
    if _means(means).kind == "contrast":
        return _differences(means, alpha, adjust, ax)
    found = compared(means, alpha, adjust)
    k = len(found.names)
    ax = canvas.axes(ax, (5.8, canvas.height(k + 4)))
    y = np.arange(k)[::-1]  # the first row on top
    x = found.table["estimate"].to_numpy()
    limits = found.table["conf_low"], found.table["conf_high"]
    ax.hlines(y, *limits, color=canvas.SOFT, linewidth=7, alpha=0.6)
    for length, side in ((found.left, -1), (found.right, 1)):
        for place, end, row in zip(x, x + side * length, y, strict=True):
            if end != place and np.isfinite(end):
                look = {"arrowstyle": "-|>", "color": canvas.SECOND, "lw": 1.6}
                look |= {"shrinkA": 0, "shrinkB": 0}
                ax.annotate("", xy=(end, row), xytext=(place, row), arrowprops=look)
    ax.scatter(x, y, s=28, color=canvas.ACCENT, zorder=3)
    for rows in found.families[:-1]:
        ax.axhline(y[rows[-1]] - 0.5, color=canvas.FAINT, linewidth=0.8)
    canvas.name_levels(ax, found.names[::-1], ", ".join(_labels(means)))
    level = found.table.attrs.get("level", means.level)
    ax.set_xlabel(f"{_what(means)}\n{100 * level:g}% intervals and comparison arrows")
    if found.wrong:
        ax.set_title(f"{found.wrong} pairs are not as their arrows say", fontsize="small")
    return ax


def _differences(contrasts: Any, alpha: float, adjust: str | None, ax: Any) -> Any:
    """Contrasts below each other, with adjusted intervals and zero."""
    level = 1.0 - probability(alpha, "alpha")
    table = contrasts.to_frame(adjust, level=level, output="pandas")
    names, labels = _row_names(table, _labels(contrasts)), _labels(contrasts)
    ax = canvas.axes(ax, (5.8, canvas.height(len(names) + 4)))
    y = np.arange(len(names))[::-1]
    apart = ((table["conf_low"] > 0) | (table["conf_high"] < 0)).to_numpy()
    canvas.reference(ax, x=0.0)
    for which, colour in ((apart, canvas.ACCENT), (~apart, canvas.SOFT)):
        rows = table[which]
        ax.hlines(y[which], rows["conf_low"], rows["conf_high"], color=colour, linewidth=1.8)
        ax.scatter(rows["estimate"], y[which], s=28, color=colour, zorder=3)
    canvas.name_levels(ax, names[::-1], ", ".join(labels))
    how = sorted(set(contrasts._compared(adjust, level).adjust) - {"none"})
    adjusted = f", adjusted ({', '.join(how)})" if how else ""
    ax.set_xlabel(f"Difference, {100 * level:g}% intervals{adjusted}")
    return ax


class PairPlaces(NamedTuple):
    """What :func:`pwpp` draws: a segment a pair."""

    names: list[str]  # (k,)  from the least mean to the greatest
    estimate: np.ndarray  # (k,)
    ends: np.ndarray  # (P, 2)  places of the two means among the names
    p_value: np.ndarray  # (P,)
    place: np.ndarray  # (P,)  cube root of the p value, moved where segments would lie on another


def pair_places(means: Any, adjust: str | None) -> PairPlaces:
    """The pairs of a table of means, by their p values."""
    names = _row_names(means.to_frame("none", output="pandas"), _labels(means))
    estimate, found = (
        means.at.estimate,
        means.pairs(adjust=adjust).to_frame(adjust, output="pandas"),
    )
    order = np.argsort(estimate, kind="stable")
    rank = np.argsort(order, kind="stable")
    ends = []
    for rows in means.labels.families(means.by):
        i, j = np.triu_indices(len(rows), 1)
        ends.append(np.column_stack([rank[rows[i]], rank[rows[j]]]))
    pairs = np.sort(np.vstack(ends), axis=1)
    p = found["p_value"].to_numpy()
    return PairPlaces(
        [names[i] for i in order], estimate[order], pairs, p, _apart(np.cbrt(p), pairs)
    )


def _apart(place: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Move segments to the right until none lies on another that has rows in common with it."""
    out = place.copy()
    done: list[int] = []
    for s in np.argsort(place, kind="stable"):
        if not np.isfinite(place[s]):
            continue
        for t in done:
            meet = ends[s, 0] <= ends[t, 1] and ends[t, 0] <= ends[s, 1]
            if meet and out[s] - out[t] < _APART:
                out[s] = out[t] + _APART
        done.append(int(s))
        done.sort(key=lambda t: out[t])
    return out


@hinted
@canvas.literal
def pwpp(means: Any, *, adjust: str | None = None, alpha: float = 0.05, ax: Any = None) -> Any:
    """P values of all pairs of means: a segment joins two means at the p value of their difference.

    Means stand below each other by their size. The axis is the cube root of p; segments that would
    lie on another are moved a little to the right.

    Parameters
    ----------
    means : MarginalMeans
    adjust : str, optional
        Of the p values, as in ``means.pairs``; Tukey's by default.
    alpha : float
        Where the line is drawn; segments left of it are dark.
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("yld ~ Variety + Nf + (1 | Block/Variety)", lmm.load_dataset("oats"))
    >>> ax = lmm.plots.pwpp(lmm.emmeans(res, "Nf"))
    """
    alpha = probability(alpha, "alpha")
    found = pair_places(_means(means), adjust)
    if not np.isfinite(found.p_value).any():
        raise DataError("there is no pair of means whose difference can be tested")
    k = len(found.names)
    ax = canvas.axes(ax, (5.8 if k < 7 else 8.0, canvas.height(k + 4)))
    canvas.reference(ax, x=np.cbrt(alpha))
    for below, colour, mark in ((True, canvas.ACCENT, "o"), (False, canvas.SOFT, "s")):
        own = (found.p_value < alpha) == below
        x, ends = found.place[own], found.ends[own]
        ax.vlines(x, *ends.T, color=colour, linewidth=1.6)
        ax.scatter(np.repeat(x, 2), ends.ravel(), s=22, color=colour, marker=mark, zorder=3)
    names = [
        f"{name}   {value:.4g}" for name, value in zip(found.names, found.estimate, strict=True)
    ]
    canvas.name_levels(ax, names, ", ".join(_labels(means)))
    ax.set_xticks(np.cbrt([0.0, *_P_MARKS]), ["0", *(f"{p:g}" for p in _P_MARKS)])
    ax.tick_params("x", labelsize="small")
    ax.set_xlim(-0.03, 0.03 + np.nanmax(found.place, initial=1.0))
    how = means.pairs(adjust=adjust).adjust if adjust is None else adjust
    ax.set_xlabel("P value" + ("" if how == "none" else f" ({how})"))
    return ax
