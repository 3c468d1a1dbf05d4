"""Predicted curves with confidence and prediction bands, and partial residuals."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..capabilities import require
from ..designs.design import Design
from ..designs.new_rows import expressions
from ..designs.variables import Variables, column_of
from ..errors import DataError, RankWarning
from ..formulas.right_side import variables
from ..inference.means.transformations import untransformed, way_back
from ..inputs.arguments import choice, flag, hinted, mapping, numbers, probability, shown
from ..inputs.matching import find, spelled
from ..inputs.names import unquoted
from . import canvas
from .places import drawn_places, given_places, name_axis, places_of, said
from .sources import fitted

# Places of a curve.
_PLACES = 101


class Curves(NamedTuple):
    """What :func:`predictions` draws, all on one scale."""

    lines: pd.DataFrame  # x, by, fit, low, high (of the mean), new_low, new_high
    residuals: pd.DataFrame  # x, by, y: a row of the fit each; empty if not wanted
    held: dict[str, Any]  # values of all other variables
    dtypes: dict[str, Any]  # of dates and spans, whose values are days everywhere else


def curves_of(
    res: Any,
    x: str,
    by: str | None,
    at: Mapping[str, Any] | None,
    level: float,
    residuals: bool,
    scale: str = "link",
) -> Curves:
    """Predictions of the population along x, for some values of ``by``, all else held."""
    known: Variables = require(res, "emmeans").basis.reference.variables
    x, by = unquoted(x), unquoted(by)
    if isinstance(x, str) and x in known.factors:
        raise DataError(f"x={x!r} is a factor: draw its means, plots.interaction(lmm.emmeans(..))")
    choice(x, "x", list(known.covariates))
    dtypes = {n: covariate.dtype for n, covariate in known.covariates.items()}
    held = _given(at, dtypes)
    lines = _values_of(known, require(res, "resid").design.source.rows, by, held)
    canvas.check_lines(len(lines), by or "", f"choose some, at={{{by!r}: [...]}}")
    where = known.covariates[x]
    low, high = (where.low, where.high) if x not in held else _ends(held.pop(x))
    _check_held(held, known, require(res, "resid").design)
    held = _all_held(known, (x, by), held)
    values = np.linspace(low, high, _PLACES)
    own = None if by is None else lines
    grid = pd.DataFrame(
        {"x": np.tile(values, len(lines)), "by": np.repeat(np.array(lines, object), _PLACES)}
    )
    data, more = _rows(res, known, grid, x, by if own else None, held)
    how = {"level": probability(level, "level"), "type": scale, **more}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankWarning)  # such rows are left out
        mean = res.predict(data, interval="confidence", **how).to_numpy()
        new = _new_limits(
            res, data, how, told=bool(held.keys() - {*known.factors, *known.covariates})
        )
    there = res.basis.estimable(data)[:, None]
    mean, new = np.where(there, mean, np.nan), np.where(there, new, np.nan)
    names = ["fit", "std_error", "low", "high"]
    table = pd.concat([grid, pd.DataFrame(mean, columns=names)], axis=1).drop(columns="std_error")
    table[["new_low", "new_high"]] = new
    if not residuals:
        return Curves(table, table.iloc[:0], held, dtypes)
    return Curves(table, _partial(res, known, x, by, lines, held, scale), held, dtypes)


def _given(at: Mapping[str, Any] | None, dtypes: Mapping[str, Any]) -> dict[str, Any]:
    """Values that are asked for, those of covariates as places."""
    held = {} if at is None else {unquoted(k): v for k, v in mapping(at, "at").items()}
    return held | {n: given_places(held[n], dtypes[n], f"at[{n!r}]") for n in dtypes if n in held}


def _all_held(
    known: Variables, moving: tuple[str | None, ...], held: Mapping[str, Any]
) -> dict[str, Any]:
    """Covariates at their means and factors at their first level, unless told otherwise."""
    first = {name: levels[0] for name, levels in known.factors.items()}
    means = {name: covariate.mean for name, covariate in known.covariates.items()}
    return {n: v for n, v in {**first, **means, **held}.items() if n not in moving}


def _check_held(held: Mapping[str, Any], known: Variables, design: Design) -> None:
    """Refuse values of what neither the mean nor the variance of a new row reads."""
    texts = expressions(design, (False,) * len(design.terms), noise=True)
    read = [*known.factors, *known.covariates, *(n for text in texts for n in variables(text))]
    for name, value in held.items():
        if name not in read:
            names = ", ".join(dict.fromkeys(read))
            raise DataError(f"at has {shown(name)}, which new rows do not have: they have {names}")
        if name in known.covariates and np.iterable(value):
            raise DataError(f"at: one value of {name} is needed, not {shown(value)}")
        if name in known.factors:
            levels = pd.Index(known.factors[name])
            if find(levels, pd.Index([value], dtype=object, tupleize_cols=False), "at")[0] < 0:
                there = ", ".join(spelled(levels))
                raise DataError(f"at: {shown(value)} is no level of {name}: there are {there}")


def _new_limits(res: Any, data: pd.DataFrame, how: Mapping[str, Any], *, told: bool) -> np.ndarray:
    """Limits of new observations, (n, 2); NaN where their variance has no value along the curve.

    It may be one of visits, or a function of columns that have no part in the mean; where the
    caller has ``told`` a value of such a column it has to be one that there is.
    """
    weights = None if res.design.weights is None else np.ones(len(data))
    try:
        found = res.predict(data, interval="prediction", weights=weights, **how)
        return found.to_numpy()[:, 2:]
    except DataError:  # the mean of these rows is there: what is missing is of the variance
        if told:
            raise
        return np.full((len(data), 2), np.nan)


def _values_of(
    known: Variables, rows: pd.DataFrame, by: str | None, held: dict[str, Any]
) -> list[Any]:
    """Values that get a curve: all levels of a factor, the quartiles of a covariate."""
    if by is None:
        return [None]
    if not isinstance(by, str) or by not in known:
        names = ", ".join([*known.factors, *known.covariates])
        one = "" if isinstance(by, str) else "one name is needed, "
        raise DataError(f"by={shown(by)}: {one}the variables are {names}")
    if by in held:
        found = held.pop(by)
        values = [found] if isinstance(found, str) or not np.iterable(found) else list(found)
        if not values:
            raise DataError(f"at has no values for {shown(by)}")
        return values
    if by in known.factors:
        return list(known.factors[by])
    few = known.covariates[by].few
    if few is not None:
        return list(few)
    return np.quantile(places_of(rows[by], by).values, [0.25, 0.5, 0.75]).tolist()


def _ends(given: Any) -> tuple[float, float]:
    values = numbers(given, "at", finite=False).ravel()
    if values.size < 2 or not np.isfinite(values).all():
        raise DataError(f"at: the two ends of x are needed, not {shown(given)}")
    return float(values.min()), float(values.max())


def _rows(
    res: Any,
    known: Variables,
    grid: pd.DataFrame,
    x: str,
    by: str | None,
    held: Mapping[str, Any],
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """New rows along x for values of ``by``, all else held."""
    columns: dict[str, Any] = {}
    for name in (*known.factors, *known.covariates):
        if name == x:
            own = list(grid["x"])
        elif name == by:
            own = list(grid["by"])
        else:
            own = [held[name]] * len(grid)
        columns[name] = column_of(name, own, known)
    columns |= {k: [v] * len(grid) for k, v in held.items() if k not in columns}
    data = pd.DataFrame(columns, index=range(len(grid)))
    if not res.basis.source.offset_array:
        return data, {}
    return data, {"offset": np.full(len(grid), res.basis.reference.offset)}


def _partial(
    res: Any,
    known: Variables,
    x: str,
    by: str | None,
    lines: list[Any],
    held: Mapping[str, Any],
    scale: str,
) -> pd.DataFrame:
    """The curve at the place of every row, plus the marginal residual of the row."""
    rows = require(res, "resid").design.source.rows
    own = pd.DataFrame({"x": places_of(rows[x], x).values, "by": None})
    if by is not None and by in known.factors:
        own["by"] = rows[by].to_numpy()
        kept = own["by"].isin(lines).to_numpy()
    elif by is not None:
        values = np.array(lines, float)
        near = np.abs(places_of(rows[by], by).values[:, None] - values).argmin(axis=1)
        own["by"] = values[near]
        kept = np.ones(len(own), bool)
    else:
        kept = np.ones(len(own), bool)
    own = own[kept].reset_index(drop=True)
    data, more = _rows(res, known, own, x, by, held)
    y = res.predict(data, **more).to_numpy() + res.resid("marginal").to_numpy()[kept]
    back = way_back(res.endog_name) if scale == "response" else None
    own["y"] = y if back is None else back.back(y)
    return own


@hinted
@canvas.finished
def predictions(
    res: Any,
    x: str,
    *,
    by: str | None = None,
    at: Mapping[str, Any] | None = None,
    level: float = 0.95,
    new: bool = True,
    residuals: bool = True,
    type: str = "link",
    ax: Any = None,
) -> Any:
    """The population's mean along a covariate with its bands, and partial residuals.

    The dark band is the confidence band of the mean, pointwise; between the thin lines lies a new
    observation of a new group. Partial residuals are the curve at a row's x plus the row's
    marginal residual ``y - X beta - offset``. A line below the axis says at what all other
    variables are held.

    Parameters
    ----------
    res : LMMResults
    x : str
        A covariate of the fixed effects: numbers, dates, or spans of time, which are drawn in days.
    by : str, optional
        A variable of whose values each has a curve: the levels of a factor; of a covariate its
        quartiles.
    at : mapping, optional
        Values at which other variables are held, in the place of the mean of a covariate and the
        first level of a factor; the values of ``by``; the two ends of ``x``. Dates, spans of time,
        or numbers of days where variables are of these.
    level : float
        Coverage of both bands.
    new : bool
        Draw the limits of new observations. Where their variance is a function of a column that
        has no part in the mean, ``power(w)`` or ``(z | g)``, its value has to be in ``at``; else,
        and where it is one of visits, ``us(visit | id)``, that are not in ``at``, there are none.
    residuals : bool
        Draw partial residuals.
    type : {"link", "response"}
        "response": the curve, its bands and the partial residuals of a transformed response,
        ``log(y)``, carried back, as in ``res.predict``.
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> ax = lmm.plots.predictions(res, "Days")
    >>> ax.get_ylabel()
    'Reaction'
    """
    found = curves_of(fitted(res), x, by, at, level, flag(residuals, "residuals"), type)
    draw_new = flag(new, "new")
    own, ax = ax is None, canvas.axes(ax)
    groups = list(dict.fromkeys(found.lines["by"]))
    labels = [None] if by is None else said(groups, found.dtypes.get(by))
    for i, (value, label) in enumerate(zip(groups, labels, strict=True)):
        look = canvas.series(i)
        of = found.lines["by"].isna() if value is None else found.lines["by"] == value
        line, rows = found.lines[of], found.residuals
        if line["fit"].isna().all():
            continue  # the data do not determine it
        rows = rows if value is None else rows[rows["by"] == value]
        _draw_curve(ax, line, rows, found.dtypes.get(x), look, new=draw_new, label=label)
    on_response = type == "response"
    name_axis(ax, x, found.dtypes.get(x))
    ax.set_ylabel((untransformed if on_response else unquoted)(res.endog_name))
    at_values = [
        f"{name} = {said([v], found.dtypes.get(name))[0]}" for name, v in found.held.items()
    ]
    notes = [f"At {', '.join(at_values)}"] * bool(at_values)
    notes += ["New observations have weight one"] * (draw_new and res.design.weights is not None)
    if notes:
        canvas.note(ax, "; ".join(notes))
    if by is not None:
        canvas.legend(ax, by, own=own)
    return ax


def _draw_curve(
    ax: Any,
    line: pd.DataFrame,
    rows: pd.DataFrame,
    dtype: Any,
    look: dict[str, Any],
    *,
    new: bool,
    label: str | None,
) -> None:
    """A curve with its bands and the partial residuals of its rows."""
    colour, x = look["color"], drawn_places(line["x"], dtype)
    if len(rows):
        mark = {"marker": look["marker"], "s": 14, "alpha": 0.55}
        y = rows["y"].to_numpy(float)
        canvas.points(ax, drawn_places(rows["x"], dtype), y, color=colour, **mark)
    ax.fill_between(x, line["low"], line["high"], color=colour, alpha=0.22, linewidth=0)
    if new:
        for end in ("new_low", "new_high"):
            ax.plot(x, line[end], color=colour, linewidth=0.8, linestyle=(0, (1, 1.5)))
    ax.plot(x, line["fit"], color=colour, linestyle=look["linestyle"], linewidth=2, label=label)
