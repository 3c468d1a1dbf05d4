"""Forest plots: estimates below each other, with intervals and the value they are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import DataError
from ..inputs.arguments import flag, hinted, items, probability
from ..inputs.names import merged_terms
from ..tables.paper import Paper, read_rename
from . import canvas
from .sources import fitted, intervals, is_a

# What part of a row the series of a forest share.
_SHARE = 0.6


class Forest(NamedTuple):
    """Rows with an estimate of each series; NaN where a series has none."""

    names: list[str]  # (k,)  the first on top
    series: dict[str, pd.DataFrame]  # (k, ..)  estimate, conf_low, conf_high
    null: np.ndarray  # (k,)  what the estimates are compared with


def draw_forest(found: Forest, what: str, ax: Any, *, own: bool) -> None:
    """Draw it; one series is dark where its interval does not reach the value, several differ."""
    y, several = np.arange(len(found.names))[::-1], len(found.series) > 1
    if len(np.unique(found.null)) == 1:
        canvas.reference(ax, x=float(found.null[0]))
    else:
        ax.vlines(found.null, y - 0.4, y + 0.4, color=canvas.INK, linewidth=0.8, zorder=0.5)
    for i, (name, table) in enumerate(found.series.items()):
        at = y - _SHARE * ((i + 0.5) / len(found.series) - 0.5)
        apart = ((table["conf_low"] > found.null) | (table["conf_high"] < found.null)).to_numpy()
        look = canvas.series(i)
        there = table["estimate"].notna().to_numpy()
        parts = [(there & apart, canvas.ACCENT), (there & ~apart, canvas.SOFT)]
        for rows, colour in [(there, look["color"])] if several else parts:
            own_rows = table[rows]
            ends = own_rows["conf_low"], own_rows["conf_high"]
            ax.hlines(at[rows], *ends, color=colour, linewidth=1.8)
            mark = {"marker": look["marker"], "label": name} if several else {}
            ax.scatter(own_rows["estimate"], at[rows], s=28, color=colour, zorder=3, **mark)
    canvas.name_levels(ax, found.names[::-1], what)
    if several:
        canvas.legend(ax, beside=own)


def forest_axes(found: Forest, ax: Any) -> Any:
    """The given Axes, or those of a figure with room for all rows."""
    rows = len(found.names) * (1 + len(found.series)) // 2
    return canvas.axes(ax, (5.8, canvas.height(rows + 4)))


def coefficients_of(
    fits: Any, level: float, *, intercept: bool, rename: Mapping[str, str] | None
) -> Forest:
    """Fixed effects of one fit or several with limits, rows in the order of the formulas."""
    level = probability(level, "level")
    by_name = _named(fits)
    tables = {
        name: res.tidy("fixed", conf_level=level, output="pandas").set_index("term")
        for name, res in by_name.items()
    }
    names, spelled = merged_terms([list(table.index) for table in tables.values()])
    for table, own in zip(tables.values(), spelled, strict=True):
        table.index = pd.Index(own)
    names = [name for name in names if intercept or name != "Intercept"]
    if not names:
        how = "no fixed effect" if intercept else "none but the intercept: pass intercept=True"
        raise DataError(f"there is nothing to draw, {how}")
    columns, words = ["estimate", "conf_low", "conf_high"], Paper(rename=read_rename(rename, names))
    series = {name: table.reindex(names)[columns] for name, table in tables.items()}
    return Forest([words.name(name) for name in names], series, np.zeros(len(names)))


def _named(fits: Any) -> dict[str, Any]:
    """Fits by what they are called: the keys of a mapping, otherwise (1), (2) and so on."""
    if is_a(fits, "LMMResults"):
        return {"": fits}
    if isinstance(fits, Mapping):
        found = {str(name): fitted(res) for name, res in fits.items()}
    else:
        found = {f"({i + 1})": fitted(res) for i, res in enumerate(items(fits, "fits"))}
    if not found:
        raise DataError("fits has no fits: a result of lmm.fit, or several, are needed")
    return found


@hinted
@canvas.finished
def coefficients(
    fits: Any,
    *,
    level: float = 0.95,
    intercept: bool = False,
    rename: Mapping[str, str] | None = None,
    ax: Any = None,
) -> Any:
    """Fixed effects of a fit, or of several beside each other, with their intervals and zero.

        estimate +- t(df, 1/2 + level/2) * std_error

    Standard errors and degrees of freedom are those of each fit (its ``df_method``, or its robust
    covariance). Of one fit the estimates whose interval does not reach zero are dark; several
    differ in colour and mark, and a coefficient that a fit has not is left out.

    Parameters
    ----------
    fits : LMMResults, list or mapping of LMMResults
        One fit or several; the keys of a mapping stand in the legend, otherwise (1), (2) and so on.
    level : float
        Coverage of the intervals.
    intercept : bool
        Draw the intercept, too.
    rename : mapping of str to str, optional
        Other names of coefficients, or of what they are made of, as in ``to_latex``: with
        ``{"age": "Age"}`` the row ``age:Sex[T.Female]`` is ``Age:Sex[T.Female]``.
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    DataError
        What is no fit; fits that have an intercept alone.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> data = lmm.load_dataset("orthodont")
    >>> one = lmm.fit("distance ~ age + Sex + (1 | Subject)", data)
    >>> two = lmm.fit("distance ~ age * Sex + (age | Subject)", data)
    >>> ax = lmm.plots.coefficients({"Additive": one, "Slopes": two}, rename={"age": "Age"})
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['Age:Sex[T.Female]', 'Sex[T.Female]', 'Age']
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['Additive', 'Slopes']
    """
    found = coefficients_of(fits, level, intercept=flag(intercept, "intercept"), rename=rename)
    own, ax = ax is None, forest_axes(found, ax)
    draw_forest(found, "", ax, own=own)
    ax.set_xlabel(f"Coefficient, {intervals(level)}")
    return ax
