"""Comparisons: means with arrows, and contrasts and other tests with intervals."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import DataError
from ..inference.tails.student import two_sided_quantile
from ..inputs.arguments import hinted, probability, shown
from ..tables.paper import method_name
from . import canvas
from .arrows import Arrows, comparison_arrows
from .forest import Forest, draw_forest, forest_axes
from .sources import adjustments, expect, heading, intervals, is_a, labels_of, row_names, what_of


class Compared(NamedTuple):
    """Means with their limits and arrows, and the tests of all pairs of every family."""

    names: list[str]  # (k,)
    table: pd.DataFrame  # (k, ...)  estimate, conf_low, conf_high
    left: np.ndarray  # (k,)  ends of the arrows
    right: np.ndarray  # (k,)
    families: list[np.ndarray]  # rows of each
    pairs: pd.DataFrame  # first, second (rows), p_value
    wrong: int


def compared(means: Any, alpha: float, adjust: str | None, scale: str = "link") -> Compared:
    """All pairs of means in each family, and the arrows that show what they say.

    On the scale of the response arrows are those of the fit's scale carried back.
    """
    alpha = probability(alpha, "alpha")
    table, families = means.to_frame(type=scale, output="pandas"), means.labels.families(means.by)
    centre, back = means.at.estimate, means.transformation if scale == "response" else None
    found = means.pairs(adjust=adjust).to_frame(adjust, level=1 - alpha, output="pandas")
    p = found["p_value"].to_numpy()
    half = 0.5 * (found["conf_high"] - found["conf_low"]).to_numpy()
    left, right, wrong, start, ends = np.zeros(len(table)), np.zeros(len(table)), 0, 0, []
    for rows in families:
        i, j = np.triu_indices(len(rows), 1)
        own = slice(start, start + len(i))
        arrows: Arrows = comparison_arrows(centre[rows], half[own], p[own] < alpha)
        left[rows], right[rows] = centre[rows] - arrows.left, centre[rows] + arrows.right
        wrong, start = wrong + arrows.wrong, start + len(i)
        ends.append(np.column_stack([rows[i], rows[j]]))
    pairs = pd.DataFrame(np.vstack(ends), columns=["first", "second"]).assign(p_value=p)
    names = row_names(table, labels_of(means))
    if back is not None:
        none = np.zeros(len(table))
        left, right = back.carried(centre, none, left, right)[2:]
    return Compared(names, table, left, right, families, pairs, wrong)


@hinted
@canvas.finished
def comparisons(
    means: Any,
    *,
    alpha: float = 0.05,
    adjust: str | None = None,
    type: str = "link",
    ax: Any = None,
) -> Any:
    """Marginal means with their intervals and comparison arrows, or tests with intervals.

    Two means of one family differ at the level alpha where their arrows do not overlap. Bars are
    confidence intervals of the means, which say nothing of differences. Contrasts
    (``means.pairs()``), t tests and functions of the parameters have no arrows; those whose
    interval does not reach the line at zero, or at the value that is tested, are dark.

    Parameters
    ----------
    means : MarginalMeans, ContrastResults or DeltaResults
        Means, contrasts of them, or what ``res.t_test``, :func:`lmm_jax.hypotheses` and
        :func:`lmm_jax.delta_method` give.
    alpha : float
        Level of the comparisons; one less the coverage of intervals of tests.
    adjust : str, optional
        Of the comparisons, as in ``means.pairs``; Tukey's by default. T tests have that which they
        were made with.
    type : {"link", "response"}
        Of marginal means, as in ``means.to_frame``: those of a transformed response and the ends of
        their arrows carried back, contrasts of logarithms as ratios beside one. Tests are those of
        the scale of the fit.
    ax : Axes, optional

    Returns
    -------
    Axes
        Its title says if arrows cannot show all comparisons, and of how many pairs.

    Raises
    ------
    DataError
        A joint test, which has no estimates; ``adjust`` or ``type`` of what is no marginal mean.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("yld ~ Variety + Nf + (1 | Block/Variety)", lmm.load_dataset("oats"))
    >>> ax = lmm.plots.comparisons(lmm.emmeans(res, "Nf"))
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['n60', 'n40', 'n20', 'n00']
    """
    expect(means, "means", "MarginalMeans", "ContrastResults", "DeltaResults")
    if not is_a(means, "MarginalMeans") or means.kind == "contrast":
        return _draw_intervals(means, alpha, adjust, type, ax)
    found = compared(means, alpha, adjust, type)
    k = len(found.names)
    ax = canvas.axes(ax, (5.8, canvas.height(k + 4)))
    y = np.arange(k)[::-1]  # the first row on top
    x = found.table["estimate"].to_numpy()
    limits = found.table["conf_low"], found.table["conf_high"]
    ax.hlines(y, *limits, color=canvas.SOFT, linewidth=7, alpha=0.6)
    for ends in (found.left, found.right):
        for place, end, row in zip(x, ends, y, strict=True):
            if end != place and np.isfinite(end):
                look = {"arrowstyle": "-|>", "color": canvas.SECOND, "lw": 1.6}
                look |= {"shrinkA": 0, "shrinkB": 0}
                ax.annotate("", xy=(end, row), xytext=(place, row), arrowprops=look)
    ax.scatter(x, y, s=28, color=canvas.ACCENT, zorder=3)
    for rows in found.families[:-1]:
        ax.axhline(y[rows[-1]] - 0.5, color=canvas.FAINT, linewidth=0.8)
    canvas.name_levels(ax, found.names[::-1], heading(means))
    level = found.table.attrs.get("level", means.level)
    ax.set_xlabel(f"{what_of(means, type)}\n{intervals(level)} and comparison arrows")
    if found.wrong:
        ax.set_title(f"{found.wrong} pairs are not as their arrows say", fontsize="small")
    return ax


class Intervals(NamedTuple):
    """Estimates with limits of some table of tests, and what its axes are called."""

    forest: Forest
    rows: str
    values: str
    adjusted: str


def intervals_of(tests: Any, alpha: float, adjust: str | None, scale: str = "link") -> Intervals:
    """Contrasts, t tests or functions of the parameters, with limits of level ``1 - alpha``."""
    level = 1.0 - probability(alpha, "alpha")
    if is_a(tests, "MarginalMeans"):
        table = tests.to_frame(adjust, level=level, type=scale, output="pandas")
        names = row_names(table, labels_of(tests))
        rows, values = heading(tests), what_of(tests, scale)
        how = adjustments(tests, adjust, level)
        table["null_value"] = float(values == "Ratio")
    elif scale != "link":
        raise DataError(f"type={shown(scale)}: that is of marginal means, tests have one scale")
    elif adjust is not None:
        raise DataError(
            f"adjust={shown(adjust)}: tests have the adjustment that they were made with, "
            "lmm.hypotheses(res, ..., adjust=)"
        )
    else:
        table, how = _of_hypotheses(tests, level)
        table = table if "null_value" in table else table.assign(null_value=0.0)
        names, rows, values = [str(name) for name in table.index], "", "Estimate"
    null = table["null_value"].to_numpy()
    forest = Forest(names, {"": table[["estimate", "conf_low", "conf_high"]]}, null)
    return Intervals(forest, rows, values, how)


def _of_hypotheses(tests: Any, level: float) -> tuple[pd.DataFrame, str]:
    """The table of t tests or of functions of the parameters, and how it is adjusted."""
    if is_a(tests, "ContrastResults"):
        how = "" if tests.adjust == "none" else method_name(tests.adjust)
        return tests.summary_frame(alpha=1.0 - level), how
    table = tests.to_frame(output="pandas")
    half = two_sided_quantile(level, table["df"].to_numpy()) * table["std_error"]
    table["conf_low"], table["conf_high"] = table["estimate"] - half, table["estimate"] + half
    return table, ""


def _draw_intervals(tests: Any, alpha: float, adjust: str | None, scale: str, ax: Any) -> Any:
    found = intervals_of(tests, alpha, adjust, scale)
    own, ax = ax is None, forest_axes(found.forest, ax)
    draw_forest(found.forest, found.rows, ax, own=own)
    adjusted = f", adjusted by {found.adjusted}" if found.adjusted else ""
    ax.set_xlabel(f"{found.values}, {intervals(1 - alpha)}{adjusted}")
    return ax
