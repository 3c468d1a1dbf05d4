"""Plots of marginal means: interactions, p values of all pairs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import DataError
from ..inputs.arguments import choice, flag, hinted, probability
from ..inputs.matching import spelling
from . import canvas
from .places import drawn_places, is_of_time, name_axis, places_of, said
from .sources import adjustments, intervals, labels_of, marginal_means, row_names, what_of

# P values that have a mark on the axis of pwpp.
_P_MARKS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
# Places of a number up to which each has a tick.
_MOST_TICKS = 12
# Points that a character of a date below the axis takes, with its share of the gap to the next.
_LETTER = 6.5
# Distance below which two segments of pwpp would hide each other, on its axis from 0 to 1.
_APART = 0.012
# By how much of that axis a segment is moved at most.
_MOVED = 0.03


class Traces(NamedTuple):
    """Lines of an interaction plot."""

    x: str
    ticks: list[Any]  # (T,)  values of x
    numeric: bool
    by: list[str]
    lines: dict[str, pd.DataFrame]  # place, estimate, conf_low, conf_high
    level: float  # of the limits
    dtype: Any = None  # of dates and spans, which stand at their days

    @property
    def places(self) -> np.ndarray:
        """Where the values of x stand, in order."""
        return np.unique([p for line in self.lines.values() for p in line["place"]])


def traces_of(means: Any, x: str | None, level: float | None, scale: str) -> Traces:
    """The rows of a table of means as lines over one of their factors."""
    labels = labels_of(means)
    x = labels[0] if x is None else choice(x, "x", labels)
    by = [name for name in labels if name != x]
    table = means.to_frame(level=level, type=scale, output="pandas")
    ticks = list(dict.fromkeys(table[x]))
    numeric = all(isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in ticks)
    column, dtype = table[x].infer_objects(), None
    if is_of_time(column.dtype):
        table["place"], numeric, dtype = places_of(column, x).values, True, column.dtype
    else:
        table["place"] = column.astype(float) if numeric else column.map(ticks.index)
    names = np.array(row_names(table, by) if by else [""] * len(table))
    advice = f"put it on the axis, x={by[-1]!r}, or choose levels, " if by else ""
    canvas.check_lines(len(set(names)), ", ".join(by), f"{advice}lmm.emmeans(..., at={{...}})")
    columns = ["place", "estimate", "conf_low", "conf_high"]
    lines = {
        str(name): table.loc[names == name, columns].astype(float).sort_values("place")
        for name in dict.fromkeys(names)
    }
    return Traces(x, ticks, numeric, by, lines, means.level if level is None else level, dtype)


@hinted
@canvas.finished
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
        The column on the horizontal axis, the first if not given; numbers and dates keep their
        distances.
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
    found, own = traces_of(marginal_means(means), x, level, type), ax is None
    if flag(letters, "letters") and means.kind == "contrast":
        raise DataError("letters compare means: pass those, not their contrasts")
    written = means.cld()["group"].to_numpy() if flag(letters, "letters") else None
    ax = canvas.axes(ax)
    step = _step(ax, found, written)
    for i, (name, line) in enumerate(found.lines.items()):
        shift = step * (i - (len(found.lines) - 1) / 2)
        look = canvas.series(i)
        places, high = drawn_places(line["place"] + shift, found.dtype), line["conf_high"]
        ax.plot(places, line["estimate"], label=name, **look, linewidth=1.5, ms=5)
        ax.vlines(places, line["conf_low"], high, color=look["color"], linewidth=1.2)
        if written is not None:
            for letter, *top in zip(written[line.index], places, high, strict=True):
                ax.annotate(
                    letter, top, (0, 3), textcoords="offset points", ha="center",
                    fontsize="small", color=look["color"], **canvas.over_lines(ax),
                )  # fmt: skip
    _name_places(ax, found)
    ax.set_ylabel(f"{what_of(means, type)}, {intervals(found.level)}")
    if found.by:
        canvas.legend(ax, ", ".join(found.by), beside=own)
    return ax


def _name_places(ax: Any, found: Traces) -> None:
    """The horizontal axis, with a tick for every value of it unless numbers are many."""
    name_axis(ax, found.x, found.dtype)
    if not found.numeric:
        ax.set_xticks(range(len(found.ticks)), [spelling(tick) for tick in found.ticks])
    elif getattr(found.dtype, "kind", "") == "M":
        names = said(found.places.tolist(), found.dtype)
        gap = np.diff(found.places).min(initial=np.inf) / (np.ptp(found.places) or 1.0)
        if gap * ax.get_window_extent().width * 72 / ax.figure.dpi > _LETTER * max(map(len, names)):
            ax.set_xticks(drawn_places(found.places, found.dtype), names)
    elif len(found.places) <= _MOST_TICKS:
        ax.set_xticks(found.places, [f"{place:.6g}" for place in found.places])


def _step(ax: Any, found: Traces, letters: Any) -> float:
    """Distance of two lines at one x: limits stand beside each other, and letters of all of them.

    At most what keeps the lines of one x apart from those of the next.
    """
    reach = float(np.ptp(found.places)) or 1.0
    room = 0.8 * float(np.diff(found.places).min(initial=reach)) / max(len(found.lines), 1)
    if letters is None:
        return min(0.015 * reach, room)
    points = ax.get_window_extent().width * 72.0 / ax.figure.dpi
    widest = 5.5 * max(map(len, map(str, letters))) + 4.0
    return min(max(0.015 * reach, 1.1 * reach * widest / points), room)


class PairPlaces(NamedTuple):
    """What :func:`pwpp` draws: a segment a pair."""

    names: list[str]  # (k,)  from the least mean to the greatest
    estimate: np.ndarray  # (k,)
    ends: np.ndarray  # (P, 2)  places of the two means among the names
    p_value: np.ndarray  # (P,)
    place: np.ndarray  # (P,)  cube root of the p value, moved where segments would lie on another


def pair_places(means: Any, adjust: str | None, alpha: float) -> PairPlaces:
    """The pairs of a table of means, by their p values; none is moved across alpha."""
    names = row_names(means.to_frame("none", output="pandas"), labels_of(means))
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
    place = _apart(np.cbrt(p), pairs, float(np.cbrt(alpha)))
    return PairPlaces([names[i] for i in order], estimate[order], pairs, p, place)


def _apart(place: np.ndarray, ends: np.ndarray, line: float) -> np.ndarray:
    """Move segments to the right, off others that have rows in common with them.

    Segments that push each other share the little room that there is, and stay where they are of
    the line and below one.
    """
    out, run = place.copy(), np.arange(len(place))
    done: list[int] = []
    for s in np.argsort(place, kind="stable"):
        if not np.isfinite(place[s]):
            continue
        for t in done:
            meet = ends[s, 0] <= ends[t, 1] and ends[t, 0] <= ends[s, 1]
            if meet and out[s] - out[t] < _APART:
                out[s], run[s] = out[t] + _APART, run[t]
        done.append(int(s))
        done.sort(key=lambda t: out[t])
    moved = out - place
    for one in np.unique(run):
        farthest = moved[run == one].max()
        if farthest > _MOVED:
            moved[run == one] *= _MOVED / farthest
    room = np.where(place < line, 0.5 * (line - place), 1.0 - place)
    return place + np.minimum(moved, np.maximum(room, 0.0))


@hinted
@canvas.finished
def pwpp(means: Any, *, adjust: str | None = None, alpha: float = 0.05, ax: Any = None) -> Any:
    """P values of all pairs of means: a segment joins two means at the p value of their difference.

    Means stand below each other by their size. The axis is the cube root of p; segments that would
    lie on another are moved to the right, by 3% of the axis at most and not across the line.

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
    found = pair_places(marginal_means(means), adjust, alpha)
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
    canvas.name_levels(ax, names, ", ".join(labels_of(means)))
    ax.set_xticks(np.cbrt([0.0, *_P_MARKS]), ["0", *(f"{p:g}" for p in _P_MARKS)])
    ax.tick_params("x", labelsize="small")
    ax.set_xlim(-0.03, 1.03)
    how = adjustments(means.pairs(adjust=adjust))
    ax.set_xlabel("P value" + (f", adjusted by {how}" if how else ""))
    return ax
