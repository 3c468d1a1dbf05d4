"""Plots of the levels of a factor: random effects, the fit of every level."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..inputs.arguments import flag, hinted, probability, whole_number
from ..inputs.matching import spelling
from ..inputs.names import chosen_name, unquoted
from . import canvas
from .places import Places, drawn_places, name_axis
from .sources import (
    covariate_of,
    expect,
    factor_of,
    fitted,
    how_many,
    level_name,
    levels_asked,
    levels_named,
    other_effects,
    other_variables,
    rows_by_level,
    without_variance,
)

# Panels of a page of fits unless levels are asked for.
_MOST_PANELS = 36
# Combinations of factors within a level that have a line each.
_MOST_CELLS = 10
_LIMITS = ["conf_low", "conf_high"]


def effects_of(
    res: Any, factor: str | None, coefficient: str | None, level: float, levels: Any = None
) -> pd.DataFrame:
    """Random effects of one factor with limits, long; levels in the order of the first column.

    ``levels``: which of them, or how many, those farthest from zero in the first column. Those of a
    variance of zero are zero.
    """
    factor = factor_of(res, factor)
    table = res.random_effects_frame(probability(level, "level"), output="pandas")
    table = table[table["factor"] == factor].copy()
    names = list(dict.fromkeys(table["term"]))
    first = names[0] if coefficient is None else chosen_name(coefficient, "coefficient", names)
    by = table[table["term"] == first]
    estimate, count = by["estimate"].to_numpy(), how_many(levels)
    order = np.argsort(estimate, kind="stable")
    if count is not None:
        farthest = np.argsort(-np.abs(estimate), kind="stable")[:count]
        order = order[np.isin(order, farthest)]
    elif levels is not None:
        known = res.random_effects[factor].index
        order = order[np.isin(order, levels_named(known, levels, factor))]
    wanted, numbers = names if coefficient is None else [first], ["estimate", *_LIMITS]
    zero = without_variance(res)
    for name in wanted:
        if (factor, name) in zero:  # by rounding they are 1e-30
            table.loc[table["term"] == name, numbers] = 0.0
    return pd.concat(
        [table[table["term"] == name].iloc[order] for name in wanted], ignore_index=True
    )


@hinted
@canvas.finished
def caterpillar(
    res: Any,
    factor: str | None = None,
    *,
    coefficient: str | None = None,
    levels: Any = None,
    labels: bool | None = None,
    level: float = 0.95,
    ax: Any = None,
) -> Any:
    """Random effects of every level, sorted, with intervals.

    Points are the conditional means given y (BLUPs), bars the estimate and normal quantiles times
    the conditional standard deviations of ``res.random_effects_cov``.

    Parameters
    ----------
    res : LMMResults
    factor : str, optional
        Grouping factor or component, as in ``res.random_effects``; the first if not given.
    coefficient : str, optional
        One coefficient; if not given every coefficient has a panel, all in the order of the first.
    levels : list or int, optional
        The levels to draw, or how many: those farthest from zero in the first panel. All if not
        given.
    labels : bool, optional
        Write the names of the levels, in a figure that is as tall as they need; up to 60 levels if
        not given.
    level : float
        Coverage of the intervals.
    ax : Axes or sequence of Axes, optional
        One a coefficient.

    Returns
    -------
    Axes or ndarray of Axes
        The Axes if one coefficient is drawn, otherwise an array with one a coefficient. The label
        of the vertical axis says how many levels are drawn of how many, where these are not all.

    Raises
    ------
    DataError
        An unknown factor, coefficient or level.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
    >>> ax = lmm.plots.caterpillar(res)
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['F', 'D', 'A', 'B', 'C', 'E']
    >>> lmm.plots.caterpillar(res, levels=2).get_ylabel()
    'Batch (2 of 6)'
    """
    table = effects_of(fitted(res), factor, coefficient, level, levels)
    every = None if labels is None else flag(labels, "labels")
    names, factor = list(dict.fromkeys(table["term"])), str(table["factor"].iloc[0])
    count, there = len(table) // len(names), len(res.random_effects[factor])
    shape = (3.9 if len(names) > 1 else 5.4, canvas.height(count, every=every))
    what = factor if count == there else f"{factor} ({count} of {there})"
    drawn = canvas.panels(ax, len(names), columns=len(names), size=shape)
    for one, name in zip(drawn, names, strict=True):
        own, y = table[table["term"] == name], np.arange(count)
        canvas.reference(one, x=0.0)
        one.hlines(y, own["conf_low"], own["conf_high"], color=canvas.SOFT, linewidth=1.8)
        one.scatter(own["estimate"], y, s=18, color=canvas.ACCENT, zorder=3)
        first = one is drawn[0]
        called = [level_name(x) for x in own["level"]]
        shown = (called, what) if first else ([""] * count, "")
        canvas.name_levels(one, *shown, every=every)
        one.set_xlabel(f"{name}, {100 * level:g}% interval" if first else name)
        if not own[["estimate", *_LIMITS]].to_numpy().any():
            canvas.only_zero(one, "x")
    return canvas.one_or_all(drawn)


class FittedLine(NamedTuple):
    """Fitted values of rows that the other factors have in common, over x."""

    cell: int  # of the other factors
    places: np.ndarray  # (m,)  distinct ones
    fitted: np.ndarray  # (m,)  with the random effects, means over rows of the same place
    fixed: np.ndarray  # (m,)  without them
    is_line: bool  # whether they are a function of x


class LevelFit(NamedTuple):
    """Rows of one level in the order of x, and its fitted values."""

    name: str
    x: np.ndarray  # (n_i,)
    y: np.ndarray  # (n_i,)
    cell: np.ndarray  # (n_i,)
    lines: tuple[FittedLine, ...]


class Fits(NamedTuple):
    """What :func:`fits` draws; cells are combinations of the factors that vary within a level."""

    levels: tuple[LevelFit, ...]
    cells: tuple[str, ...]
    by: str  # the factors
    left_out: str  # how many of how many levels, where the others have not been left out by name
    x: Places


def fits_of(res: Any, x: Any, factor: str | None, levels: Any) -> Fits:
    """Data and lines of some levels: a line for each combination of factors within a level."""
    at, places = rows_by_level(res, factor), covariate_of(res, x)
    values = places.values
    y, mean, fixed = (res.augment(output="pandas").iloc[:, j].to_numpy() for j in (0, 1, 3))
    names, rows, out = at.names, at.rows, []
    factors, covariates = other_variables(res, places.name)
    cell, cells, by = _cells_within(factors, at.codes)
    effects = other_effects(res, at.factor, places.name)
    moving = np.column_stack([covariates.to_numpy(float), effects])
    several = len(cells) > _MOST_CELLS
    if several:
        cell, cells, by = np.zeros(len(y), int), ("",), ""
    drawn, there = levels_asked(at, levels, _MOST_PANELS), len(np.unique(at.codes))
    named = levels is not None and how_many(levels) is None
    left_out = "" if named or len(drawn) == there else f"{at.factor}: {len(drawn)} of {there}"
    for i in drawn:
        own = rows[i][np.argsort(values[rows[i]], kind="stable")]
        lines = []
        for c in np.unique(cell[own]):
            these = own[cell[own] == c]
            at_x, which, counts = np.unique(values[these], return_inverse=True, return_counts=True)
            own_mean, own_fixed = (
                np.bincount(which, v[these], len(at_x)) / counts for v in (mean, fixed)
            )
            still = not several and not np.ptp(moving[these], axis=0).any() and len(at_x) > 1
            lines.append(FittedLine(int(c), at_x, own_mean, own_fixed, still))
        out.append(LevelFit(names[i], values[own], y[own], cell[own], tuple(lines)))
    return Fits(tuple(out), cells, by, left_out, places)


def _cells_within(
    factors: pd.DataFrame, level: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...], str]:
    """Cell of every row among the factors that vary within a level, their names and what of."""
    varying = [str(n) for n in factors if factors[n].groupby(level).nunique().max() > 1]
    if not varying:
        return np.zeros(len(factors), int), ("",), ""
    found = factors[varying].apply(lambda column: column.map(spelling)).agg(", ".join, axis=1)
    order = factors[varying].drop_duplicates().sort_values(varying).index
    cells = list(dict.fromkeys(found.loc[order]))
    return found.map(cells.index).to_numpy(), tuple(cells), ", ".join(varying)


@hinted
@canvas.finished
def fits(
    res: Any,
    x: Any = None,
    *,
    factor: str | None = None,
    levels: Any = None,
    columns: int | None = None,
    ax: Any = None,
) -> Any:
    """Data and fitted lines of every level, a panel each (lattice's ``xyplot(y ~ x | g)``).

    A new figure says how many levels are drawn of how many, unless they are named or all.

    Circles are the rows of the level, the solid line its fitted values (with all random effects),
    the dashed one the population's. Lines join the places of x that the level has. Where other
    factors vary within a level there is a line for each of their combinations, ten at most; where
    another covariate or random effect does, fitted values are no function of x and stand as dots.

    Parameters
    ----------
    res : LMMResults
    x : str, array or Series, optional
        The variable on the horizontal axis, by its name in the fixed part of the formula or as
        values; the first covariate if not given.
    factor : str, optional
        Grouping factor, the first if not given; without random effects the subjects.
    levels : list or int, optional
        The levels to draw, or how many, the first ones; the first 36 if not given.
    columns : int, optional
        Panels in a row.
    ax : sequence of Axes, optional
        One a level.

    Returns
    -------
    ndarray of Axes
        One a level.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> drawn = lmm.plots.fits(res, "Days", levels=["308", "309"])
    >>> [ax.get_title() for ax in drawn]
    ['308', '309']
    """
    expect(res, "res", "LMMResults")
    found = fits_of(res, x, factor, levels)
    wide = None if columns is None else whole_number(columns, "columns", least=1)
    panels = len(found.levels)
    drawn = canvas.panels(ax, panels, columns=wide, size=(1.75, 1.75), sharex=True, sharey=True)
    alone = len(found.cells) == 1
    for one, level in zip(drawn, found.levels, strict=True):
        _draw_level(one, level, found.x.dtype, alone=alone)
    if not alone:
        _name_cells(drawn, found, own=ax is None)
    _label_page(drawn, found.x, unquoted(res.endog_name), own=ax is None)
    if found.left_out and ax is None:
        drawn[0].figure.suptitle(found.left_out, fontsize="medium")
    return drawn


def _draw_level(ax: Any, level: LevelFit, dtype: Any, *, alone: bool) -> None:
    """Rows and lines of a level; ``alone``: there is one line in every panel."""
    for line in level.lines:
        colour = canvas.series(line.cell)["color"]
        dashed = canvas.INK if alone else colour
        rows, x = level.cell == line.cell, drawn_places(line.places, dtype)
        if line.is_line:
            ax.plot(x, line.fixed, color=dashed, lw=1.0, ls=(0, (4, 2)))
            ax.plot(x, line.fitted, color=colour, lw=1.6)
        else:
            ax.scatter(x, line.fitted, s=7, color=colour, zorder=3)
        canvas.points(ax, drawn_places(level.x[rows], dtype), level.y[rows], s=12, color=dashed)
    ax.set_title(level.name, fontsize="small")


def _name_cells(drawn: np.ndarray, found: Fits, *, own: bool) -> None:
    """The colours of the lines: beside a new figure, in the first of given Axes."""
    handles = [
        drawn[0].plot([], [], color=canvas.series(i)["color"], lw=1.6, label=name)[0]
        for i, name in enumerate(found.cells)
    ]
    where = {"loc": "outside right upper"} if own else {}
    holder = drawn[0].figure if own else drawn[0]
    drawn_legend = holder.legend(
        handles=handles, title=found.by, frameon=False, fontsize="small",
        title_fontsize="small", **where,
    )  # fmt: skip
    canvas.fold_legend(drawn_legend)


def _label_page(drawn: np.ndarray, x: Places, y: str, *, own: bool) -> None:
    """Labels of a new figure once; of given Axes, on each."""
    for one in drawn:
        name_axis(one, x.name, x.dtype)
        one.set_ylabel(y)
    if own:
        drawn[0].figure.supxlabel(drawn[0].get_xlabel(), fontsize="medium")
        drawn[0].figure.supylabel(y, fontsize="medium")
        for one in drawn:
            one.set(xlabel="", ylabel="")
