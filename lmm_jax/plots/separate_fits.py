"""Shrinkage: the levels of a factor by themselves, and in the mixed model."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..capabilities import require
from ..designs.labels import factor_names
from ..errors import DataError
from ..inputs.arguments import flag, hinted, items, shown
from ..inputs.names import chosen_name
from . import canvas
from .sources import factor_of, fitted, level_name, rows_by_level


class Shrinkage(NamedTuple):
    """Coefficients of every level, without pooling and in the mixed model, around the same place.

    Where one of them is no fixed effect they are deviations, and the place is zero.
    """

    factor: str
    separate: pd.DataFrame  # (L, k)  NaN where the rows of a level do not determine them
    mixed: pd.DataFrame  # (L, k)
    fixed: pd.Series[float]  # (k,)
    deviations: bool


def shrinkage_of(res: Any, factor: str | None = None) -> Shrinkage:
    """The deviations of every level by least squares, beside those of the mixed model.

    ``b_i`` minimizes ``|W^1/2 (y_i - X_i beta - offset - a_i - Z_i b_i)|`` with ``a_i`` what levels
    of other factors give to the mean that are not of this level alone, of the block around a plot
    but not of plots in a block: their conditional means. Where the columns of Z are columns of X,
    ``beta + b_i`` is the regression of the level's rows on these columns, what the other fixed
    effects and ``a_i`` give to the mean taken off the response.
    """
    factor = factor_of(res, factor)
    if _is_component(res, factor):
        raise DataError(
            f"factor={factor!r} is a variance component, whose levels have no regression"
        )
    at, design = rows_by_level(res, factor), require(res, "resid").design
    named = zip(factor_names(design.terms), design.terms, strict=True)
    Z = np.column_stack([term.values[:, 0] for name, term in named if name == factor])
    mixed = res.random_effects[factor]
    y = res.resid("marginal").to_numpy() - _of_others(res, factor, at.codes)
    w = np.sqrt(design.row_weights)
    found = [_least_squares(Z[rows] * w[rows, None], y[rows] * w[rows]) for rows in at.rows]
    names = list(mixed.columns)
    deviations = not set(names) <= set(res.fe_params.index)
    fixed = pd.Series(0.0, names) if deviations else res.fe_params[names]
    separate = pd.DataFrame(np.array(found), index=mixed.index, columns=names)
    return Shrinkage(factor, separate + fixed, mixed + fixed, fixed, deviations)


def _of_others(res: Any, factor: str, codes: np.ndarray) -> np.ndarray:
    """What levels of other factors give to the rows, those left out that one level has alone, (n,).

    ``codes``: the level of every row.
    """
    design, total = require(res, "resid").design, np.zeros(len(codes))
    before: dict[str, int] = {}  # columns of earlier terms of a factor
    for name, term in zip(factor_names(design.terms), design.terms, strict=True):
        start = before.get(name, 0)
        before[name] = start + len(term.names)
        if name == factor:
            continue
        effects = res.random_effects[name].to_numpy()[:, start : before[name]]
        there = term.values.any(axis=2)
        first, last = np.full(len(effects), len(codes)), np.full(len(effects), -1)
        own = np.broadcast_to(codes[:, None], term.codes.shape)[there]
        np.minimum.at(first, term.codes[there], own)
        np.maximum.at(last, term.codes[there], own)
        shared = (first != last)[term.codes]
        total += np.einsum("nsk,nsk,ns->n", term.values, effects[term.codes], shared)
    return total


def _is_component(res: Any, factor: str) -> bool:
    return all(label.is_component for label in res.term_labels if label.factor == factor)


def _least_squares(Z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coefficients, NaN where they are not determined."""
    beta, _, rank, _ = np.linalg.lstsq(Z, y, rcond=None)
    return beta if rank == Z.shape[1] else np.full(Z.shape[1], np.nan)


@hinted
@canvas.finished
def shrinkage(
    res: Any,
    factor: str | None = None,
    *,
    coefficients: tuple[str, str] | None = None,
    label: bool = False,
    ax: Any = None,
) -> Any:
    """From the separate least-squares fit of every level to the mixed model's: an arrow each.

        b_i = argmin |W^1/2 (y_i - X_i beta - offset - a_i - Z_i b)|    to the BLUP of b_i

    Both are drawn around the fixed effects, so that open circles are regressions of the rows of one
    level by themselves (nlme's ``lmList``) and arrows end at ``res.coef()``; the diamond is the
    population. What other factors give to these rows, ``a_i``, is taken off: of ``Block/Variety``
    the effect of its block (the conditional mean) from a variety's rows, so that both ends are
    deviations within the block. Effects of levels that lie within level i, of the varieties of a
    block, are left in its rows.

    Where a random coefficient is no fixed effect, ``poly(Time, 2) + (Time | Chick)``, all are drawn
    as deviations from the population, at zero. A level whose rows do not determine its coefficients
    has no arrow. With a random intercept alone, or one coefficient, levels stand below each other.

    Parameters
    ----------
    res : LMMResults
    factor : str, optional
        Grouping factor, the first if not given.
    coefficients : pair of str, optional
        The two coefficients drawn, horizontally and vertically; the first two if not given.
    label : bool
        Write the level beside the end of each arrow; where levels stand below each other, of more
        than 60 as well, in a figure that is as tall as they need.
    ax : Axes, optional

    Returns
    -------
    Axes

    Raises
    ------
    DataError
        A variance component, an unknown factor or coefficient.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> ax = lmm.plots.shrinkage(res)
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('Intercept', 'Days')
    """
    found, flagged = shrinkage_of(fitted(res), factor), flag(label, "label")
    names = list(found.mixed.columns)
    if coefficients is not None:
        pair = items(coefficients, "coefficients", "two names are needed")
        if len(pair) != 2:
            raise DataError(f"coefficients={shown(coefficients)}: two names are needed")
        names = [chosen_name(name, "coefficients", names) for name in pair]
    if len(names) < 2:
        return _shrunk_means(found, names[0], flagged or None, ax)
    x, y = names[:2]
    ax = canvas.axes(ax, (6.0, 5.0))
    start, end = found.separate[[x, y]].to_numpy(), found.mixed[[x, y]].to_numpy()
    canvas.points(ax, *start.T, label="separate fits")
    ax.scatter(*end.T, s=16, color=canvas.ACCENT, zorder=3, label="mixed model")
    centre = found.fixed[[x, y]].to_numpy()
    ax.scatter(*centre, s=70, marker="D", color=canvas.SECOND, zorder=4, label="population")
    _arrows(ax, start, end)
    if flagged:
        for level, place in zip(found.mixed.index, end, strict=True):
            ax.annotate(level_name(level), place, (4, 3), textcoords="offset points", fontsize=7)
    ax.set(xlabel=_axis(found, x), ylabel=_axis(found, y), title=f"Shrinkage of {found.factor}")
    canvas.legend(ax)
    return ax


def _axis(found: Shrinkage, name: str) -> str:
    return f"{name}, deviation from the population" if found.deviations else name


def _shrunk_means(found: Shrinkage, name: str, every: bool | None, ax: Any) -> Any:
    """One coefficient: levels below each other, in the order of the separate fits."""
    order = np.argsort(found.separate[name].to_numpy(), kind="stable")
    start, end = found.separate[name].to_numpy()[order], found.mixed[name].to_numpy()[order]
    y = np.arange(len(order))
    ax = canvas.axes(ax, (5.4, canvas.height(len(order), every=every)))
    canvas.reference(ax, x=float(found.fixed[name]))
    canvas.points(ax, start, y, label="separate fits")
    ax.scatter(end, y, s=16, color=canvas.ACCENT, zorder=3, label="mixed model")
    _arrows(ax, np.column_stack([start, y]), np.column_stack([end, y]))
    labels = [level_name(level) for level in found.mixed.index[order]]
    canvas.name_levels(ax, labels, found.factor, every=every)
    ax.set(xlabel=_axis(found, name), title=f"Shrinkage of {found.factor}")
    canvas.legend(ax)
    return ax


def _arrows(ax: Any, start: np.ndarray, end: np.ndarray) -> None:
    """From where separate fits are to where the model is, in one piece: thousands are drawn."""
    known = np.isfinite(start).all(axis=1)
    a, b = start[known], end[known]
    if len(a):
        # a line of 1.1 points, and a head that stands out behind a point of the model
        look = {"units": "inches", "width": 1.1 / 72.0, "headwidth": 5.5, "headlength": 6.5}
        ax.quiver(
            *a.T, *(b - a).T, angles="xy", scale_units="xy", scale=1.0, color=canvas.SOFT,
            minlength=0.0, zorder=1, **look,
        )  # fmt: skip
