"""Plots of many fits of one design: volcano, p values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError
from ..inference.tails.student import log_student_tail
from ..inputs.arguments import hinted, probability, whole_number
from ..inputs.names import chosen_name
from . import canvas
from .sources import expect, is_a


def tests_of(many: Any, term: str | None) -> pd.DataFrame:
    """One hypothesis in every response: response, estimate, p_value, q_value."""
    expect(many, "many", "ManyResults", "ManyTests")
    known = list(many.fixed_names if is_a(many, "ManyResults") else many.names)
    if term is None:
        if len(known) > 1:
            raise DataError(f"term=None: choose from {', '.join(known)}")
        term = known[0]
    term = chosen_name(term, "term", known)
    if is_a(many, "ManyTests"):
        table = many.to_frame(output="pandas")
        return table[table["hypothesis"] == term].reset_index(drop=True)
    weights = np.eye(len(known))[[known.index(term)]]  # a name may hold what an equation reads
    return many.t_test(weights).to_frame(output="pandas").assign(hypothesis=term)  # type: ignore[no-any-return]


def _heights(table: pd.DataFrame) -> np.ndarray:
    """``-log10 p`` of t and z tests, also of p below the smallest double."""
    t, df = (table[name].to_numpy(dtype=float) for name in ("statistic", "df"))
    return np.asarray(-log_student_tail(t, df) / np.log(10.0))


@hinted
@canvas.finished
def volcano(
    many: Any, term: str | None = None, *, fdr: float = 0.05, label: int = 5, ax: Any = None
) -> Any:
    """Estimates of many responses against minus the logarithm of their p values.

    Parameters
    ----------
    many : ManyResults or ManyTests
        The fits, or t tests of them (moderated ones, for example).
    term : str, optional
        The fixed effect, or the hypothesis; needed where there are several.
    fdr : float
        Responses whose p value, adjusted by Benjamini and Hochberg, is below are filled; the line
        is the largest p value among these.
    label : int
        How many of the smallest p values among these are called by their response.
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> import numpy as np, lmm_jax as lmm
    >>> data = lmm.load_dataset("machines")
    >>> Y = data["score"].to_numpy()[:, None] + np.random.default_rng(1).normal(size=(54, 4))
    >>> many = lmm.fit_many("~ Machine + (1 | Worker)", data, Y, progress=False)
    >>> lmm.plots.volcano(many, "Machine[T.B]").get_xlabel()
    'Machine[T.B]'
    """
    table, fdr = tests_of(many, term), probability(fdr, "fdr")
    if "estimate" not in table:
        raise DataError("an F test has no estimate: a volcano plot is one of t tests")
    p = table["p_value"].to_numpy()
    height = _heights(table)
    found = table["q_value"].to_numpy() < fdr
    ax = canvas.axes(ax)
    x = table["estimate"].to_numpy()
    canvas.points(ax, x[~found], height[~found], s=10, color=canvas.SOFT)
    look = {"color": canvas.ACCENT, "rasterized": found.sum() > canvas.MANY}
    ax.scatter(x[found], height[found], s=18, **look)
    canvas.reference(ax, x=0.0)
    if found.any():
        canvas.reference(ax, y=float(height[found].min()))
    best = np.flatnonzero(found)
    best = best[np.argsort(-height[best], kind="stable")][: whole_number(label, "label")]
    ax.margins(x=0.1)
    names = [str(name) for name in table["response"][best]]
    there = np.column_stack([x, height])
    canvas.label_points(ax, x[best], height[best], names, there[np.isfinite(there).all(axis=1)])
    ax.set(xlabel=str(table["hypothesis"].iloc[0]), ylabel="-log10 p")
    tested = int(np.isfinite(p).sum())
    ax.set_title(f"{int(found.sum())} of {tested} at FDR {fdr:g}", fontsize="medium")
    return ax


@hinted
@canvas.finished
def pvalue_histogram(many: Any, term: str | None = None, *, bins: int = 20, ax: Any = None) -> Any:
    """Histogram of the p values of many responses; the line is where none has an effect.

    Parameters
    ----------
    many : ManyResults or ManyTests
    term : str, optional
        The fixed effect, or the hypothesis; needed where there are several.
    bins : int
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> import numpy as np, lmm_jax as lmm
    >>> data = lmm.load_dataset("machines")
    >>> Y = data["score"].to_numpy()[:, None] + np.random.default_rng(1).normal(size=(54, 4))
    >>> many = lmm.fit_many("~ Machine + (1 | Worker)", data, Y, progress=False)
    >>> ax = lmm.plots.pvalue_histogram(many, "Machine[T.B]", bins=10)
    >>> len(ax.patches)
    10
    """
    table, bins = tests_of(many, term), whole_number(bins, "bins", least=1)
    p = table["p_value"].dropna().to_numpy()
    ax = canvas.axes(ax)
    ax.hist(p, bins=bins, range=(0.0, 1.0), color=canvas.SOFT, edgecolor=canvas.ACCENT)
    canvas.reference(ax, y=len(p) / bins, above=True)
    ax.set_xlim(0.0, 1.0)
    ax.set(xlabel=f"P value of {table['hypothesis'].iloc[0]}", ylabel="Responses")
    return ax
