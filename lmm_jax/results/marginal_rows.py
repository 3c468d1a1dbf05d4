"""Marginal means from a design: what is asked for, the reference grid, its rows and averages."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..designs.fixed_source import FixedSource
from ..designs.schema import factor_columns
from ..designs.variables import Variables, dates_of
from ..errors import DataError
from ..formulas import matrices as mat
from ..formulas.expressions import names_in, to_python
from ..formulas.times import TYPES
from ..inference.contrasts.linear_functions import linear_functions
from ..inference.means.grid import (
    Grid,
    average,
    make_grid,
    rows_of,
)
from ..inference.means.transformations import is_name, transformation_of
from ..inputs.arguments import choice, probability, shown, whole_number
from ..inputs.matching import spelling
from ..inputs.names import unquoted
from ..reprs import plain_number
from .marginal import MarginalMeans
from .marginal_basis import Basis, at_mean, mean_offset, parted, replayed
from .marginal_covariates import (
    check_no_mediator,
    grid_frame,
    numbers_at,
    read_mediators,
    unpredictable,
    with_predictions,
)
from .marginal_labels import Labels, weights_of
from .marginal_specs import (
    Asked,
    check_variables,
    read_specs,
    read_values,
    with_parents,
)

WEIGHTS = ("equal", "proportional", "outer", "cells", "flat")
# Rows of grids from which on the next ones are read apart.
_TOGETHER = 4096
# Step of the difference quotient of a trend, in units of the covariate's range (emmeans').
_STEP = 1e-3
# Rounding of an entry of X, in units of the largest of its column.
_ROUNDING = 4.0 * np.finfo(np.float64).eps
# The variable that tells trends of several degrees, and its levels (emmeans').
_DEGREE = "degree"
_DEGREES = ("linear", "quadratic", "cubic", "quartic", "quintic")


class MeansAndContrasts(NamedTuple):
    """What ``specs="pairwise ~ A"`` asks for."""

    emmeans: MarginalMeans
    contrasts: MarginalMeans

    def __repr__(self) -> str:
        return f"{self.emmeans}\n\n{self.contrasts}"

    def _repr_html_(self) -> str:
        return f"{self.emmeans.to_html()}{self.contrasts.to_html()}"


def marginal_means(
    fit: Basis,
    specs: Any,
    *,
    by: Any,
    at: Any,
    weights: Any,
    cov_reduce: Any,
    level: float,
    var: Any = None,
    max_degree: Any = 1,
) -> Any:
    """Means of :func:`lmm_jax.emmeans`, or with ``var`` the slopes of :func:`lmm_jax.emtrends`."""
    known = fit.reference.variables
    asked = read_specs(specs, by, known)
    slope = None if var is None else _slope_of(var, known, max_degree)
    reduced, mediators = read_mediators(cov_reduce, known, at)
    check_no_mediator((*asked.specs, *asked.by), mediators)
    values = read_values(known, at, reduced, fit.rows)
    values |= {one.covariate: [known.covariates[one.covariate].mean] for one in mediators}
    asked = with_parents(asked, values, known)._replace(at=tuple(at or ()))
    if slope is not None and slope.degrees > 1:
        asked, values = _of_degrees(slope, asked, values)
    grid = _grid(known, values, asked)
    grid = with_predictions(grid, mediators, known, fit.rows, fit.source.context)
    means = means_on(fit, grid, asked, weights, level, slope)
    models = tuple(f"Predicted: {one.formula}" for one in mediators)
    means = replace(means, notes=(*means.notes, *models))
    if asked.method is None:
        return means
    return MeansAndContrasts(means, means.contrast(asked.method))


class _Slope(NamedTuple):
    """What slopes are of."""

    text: str  # as it is asked for
    covariate: str
    step: float  # of the covariate
    code: str | None  # expression of the covariate that slopes are per unit of
    degrees: int  # trends of degrees 1 to this


def _slope_of(var: Any, known: Variables, max_degree: Any) -> _Slope:
    """A covariate, or an expression of one: ``log(dose)``."""
    degrees = whole_number(max_degree, "max_degree", least=1, most=len(_DEGREES))
    name, code = unquoted(var), None
    if isinstance(name, str) and name.strip() and name not in known.covariates:
        code = to_python(name)
        used = [one for one in names_in(code)[0] if one in known]
        name = used[0] if len(used) == 1 else name
    if not isinstance(name, str) or name not in known.covariates:
        there = ", ".join(known.covariates)
        what = f"the covariates are {there}, an expression reads one of them"
        raise DataError(f"var={shown(var)}: {what if there else 'the model has no covariate'}")
    covariate = known.covariates[name]
    return _Slope(unquoted(var), name, _STEP * (covariate.high - covariate.low), code, degrees)


def _of_degrees(
    slope: _Slope, asked: Asked, values: dict[str, list[Any]]
) -> tuple[Asked, dict[str, list[Any]]]:
    """A variable of the degrees, in whose groups trends are compared unless it is asked for."""
    if _DEGREE in values:
        raise DataError(
            f"max_degree={slope.degrees}: the column of degrees is called {_DEGREE!r}, as a "
            "variable of the model is: give that another name"
        )
    if _DEGREE not in (*asked.specs, *asked.by):
        asked = asked._replace(by=(_DEGREE, *asked.by))
    return asked, values | {_DEGREE: list(_DEGREES[: slope.degrees])}


def _grid(known: Variables, values: dict[str, list[Any]], asked: Asked) -> Grid:
    check_variables((*asked.specs, *asked.by), values, known)
    return make_grid(values, [*asked.specs, *asked.by], known)


# ------------------------------------------------------------ means


def means_on(
    fit: Basis,
    grid: Grid,
    asked: Asked,
    weights: Any,
    level: float,
    slope: _Slope | None,
    rows: _Rows | None = None,
) -> MarginalMeans:
    """Averages of the grid's rows, which may be there, or of their difference quotients."""
    how, known = weights, fit.reference.variables
    if isinstance(weights, str):
        choice(weights, "weights", WEIGHTS)
    else:
        how = weights_of(weights, grid, [*asked.specs, *asked.by], frozenset(known.covariates))
    averaged = average(grid, [*asked.specs, *asked.by], how)
    L, gap, shift = map(averaged.of, rows or _rows(fit, asked, grid, slope))
    open_rows = averaged.partial | (averaged.of(unpredictable(grid)) != 0)
    gap = np.hstack([gap, np.eye(len(gap))[:, open_rows]])  # no function of the rows
    at = linear_functions(L, gap, shift, fit.beta, fit.tests, fit.scale)
    labels = averaged.labels or {"1": ["overall"]}
    transformation = None if slope else transformation_of(fit.source.response)
    changed = not is_name(fit.source.response)
    return MarginalMeans(
        at=at,
        labels=Labels(
            table=_dated(labels, known),
            factors=tuple(labels),
            covariates=frozenset(known.covariates),
            parents=grid.parents,
        ),
        by=asked.by,
        kind="emmean" if slope is None else f"{slope.text}.trend",
        level=probability(level, "level"),
        df_method=fit.df_method,
        tests=fit.tests,
        beta=fit.beta,
        scale=fit.scale,
        transformation=transformation,
        changed=fit.source.response if transformation is None and not slope and changed else "",
        response=fit.source.response,
        notes=_notes(fit, grid, labels, asked, weights, slope),
        output=fit.output,
    )


def _dated(labels: Mapping[str, list[Any]], known: Variables) -> pd.DataFrame:
    """A table of labels, whose days since 1970 are dates where the variable has dates."""
    table = pd.DataFrame(labels)
    for name in table.columns.intersection(list(known.covariates)):
        dtype = known.covariates[name].dtype
        if dtype is not None and dtype.kind == "M":
            table[name] = dates_of(labels[name], dtype)
    return table


def _notes(
    fit: Basis, grid: Grid, labels: Any, asked: Asked, weights: Any, slope: _Slope | None
) -> tuple[str, ...]:
    """What the means are averages over, and where everything else is."""
    notes = _averaged(grid, labels, fit, weights) + _held(grid, labels, fit, slope, asked.at)
    return notes if slope is not None else notes + _of_offset(fit, _moved(asked, grid))


def _averaged(grid: Grid, labels: Any, fit: Basis, weights: Any) -> tuple[str, ...]:
    """What the means are averages over, and how."""
    over = [n for n, v in grid.values.items() if n not in labels and len(v) > 1]
    if not over:
        return ()
    notes: tuple[str, ...] = (f"Averaged over the levels of {', '.join(over)}",)
    if not isinstance(weights, str) or weights != "equal":
        notes += (f"Weights: {weights if isinstance(weights, str) else 'given'}",)
    mixed = _interacting(fit.source, set(labels), set(over))
    if mixed:
        what = f"interaction{'s' * (len(mixed) > 1)} {', '.join(mixed)}"
        notes += (f"Averaged over the {what}: the means may mislead",)
    return notes


def _held(
    grid: Grid, labels: Any, fit: Basis, slope: _Slope | None, at: Sequence[str]
) -> tuple[str, ...]:
    """Where covariates are that the means are not of: at one value."""
    known, moved = fit.reference.variables, set(labels)
    if slope and slope.code is None and _is_linear(fit.source, slope.covariate):
        moved.add(slope.covariate)  # its slope is one everywhere
    moved |= grid.predicted.keys()
    if fit.reference.offsets:  # a covariate of the offset alone, which counts with its mean
        own = set[str]().union(*map(used_by, fit.source.spec.formula), map(unquoted, at))
        moved |= known.covariates.keys() - own
    held = {n: v[0] for n, v in grid.values.items() if n in known.covariates and n not in moved}
    held = {n: v for n, v in held.items() if len(grid.values[n]) == 1}
    if not held:
        return ()
    dated = _dated({name: [value] for name, value in held.items()}, known)
    where = [f"{name} = {_text(dated[name].iloc[0])}" for name in held]
    mixed = _interacting(fit.source, set(labels), set(held))
    what = f"interaction{'s' * (len(mixed) > 1)} {', '.join(mixed)}"
    told = (f"With the {what} differences depend on where that is",) if mixed else ()
    return (f"Covariates held at {', '.join(where)}", *told)


def _text(value: Any) -> str:
    return spelling(value) if isinstance(value, pd.Timestamp) else plain_number(float(value))


def _of_offset(fit: Basis, moved: Set[str]) -> tuple[str, ...]:
    """What counts as the offset, where the rows have one."""
    source, known = fit.source, len(fit.reference.offsets) == len(fit.source.offsets)
    if not known or not (source.offset_array or any(at_mean(fit, moved))):
        return ()
    return (f"The offset counts with its mean, {plain_number(mean_offset(fit, moved))}",)


def _is_linear(source: FixedSource, covariate: str) -> bool:
    """Whether a covariate is in the model as it is, and in no function of it."""
    terms = source.spec.formula if source.spec is not None else ()
    factors = [one for term in terms for one in term.factors if covariate in factor_columns(one)]
    return all(one.expr == covariate for one in factors)


def _interacting(source: FixedSource, shown: set[str], over: set[str]) -> list[str]:
    """Terms of the model that have a variable which is shown, and one averaged over."""
    terms = source.spec.formula if source.spec is not None else ()
    used = ((term, used_by(term)) for term in terms)
    return [str(term) for term, names in used if names & shown and names & over]


def used_by(term: Any) -> set[str]:
    """Variables of a term of a formula."""
    return {name for factor in term.factors for name in factor_columns(factor)}


class _Rows(NamedTuple):
    """The rows of a grid."""

    L: np.ndarray  # (N, p)
    gap: np.ndarray  # (N, d)  what estimable functions miss
    offset: np.ndarray  # (N,)


def _rows(fit: Basis, asked: Asked, grid: Grid, slope: _Slope | None) -> _Rows:
    known = fit.reference.variables
    if slope is None:
        matrix, offset = replayed(fit, grid_frame(known, grid), _moved(asked, grid))
    else:
        matrix, offset = _trends(fit, known, grid, slope)
    return _Rows(*parted(matrix, fit), offset)


def rows_of_grids(fit: Basis, grids: Sequence[Grid]) -> Iterator[_Rows]:
    """The rows of several grids, read together: all columns are made anew at every reading."""
    frames = [grid_frame(fit.reference.variables, grid) for grid in grids]
    ends = np.cumsum([0, *map(len, frames)])
    batch = ends[:-1] // _TOGETHER
    for b in np.unique(batch):
        own = [frame for frame, i in zip(frames, batch, strict=True) if i == b]
        matrix, offset = replayed(fit, pd.concat(own, ignore_index=True))
        whole = _Rows(*parted(matrix, fit), offset)
        for stop, frame in zip(np.cumsum([len(frame) for frame in own]), own, strict=True):
            yield _Rows(*(part[stop - len(frame) : stop] for part in whole))


def _trends(
    fit: Basis, known: Variables, grid: Grid, slope: _Slope
) -> tuple[np.ndarray, np.ndarray]:
    """Difference quotients of X and of the offset at the grid, of the degree of every row.

        f[u_0] = f(u_0)        f[u_0..u_d] = (f[u_1..u_d] - f[u_0..u_{d-1}]) / (u_d - u_0)

    which is the d-th derivative by u over d!, but for the step: u are values of the covariate a
    step apart, around that of the grid, or the expression at these. Of lower degrees the
    quotients in the middle, those of emmeans.
    """
    base, degree = grid, np.ones(len(grid.places), dtype=int)
    if slope.degrees > 1:
        degree = 1 + grid.places[:, list(grid.values).index(_DEGREE)]
        base = rows_of(grid, degree == 1)
    shifts = slope.step * (np.arange(slope.degrees + 1.0) - slope.degrees // 2)
    frames = [grid_frame(known, base, slope.covariate, shift) for shift in shifts]
    parts = np.array([np.column_stack(replayed(fit, frame)) for frame in frames])
    at = np.array([numbers_at(base, slope.covariate) + shift for shift in shifts])
    if slope.code is not None:
        at = np.array(list(_evaluated(fit, slope.code, tuple(frames))))
    rounding = _ROUNDING * np.abs(parts).max(axis=(0, 1))
    out = np.empty((len(degree), parts.shape[2]))
    for d in range(1, slope.degrees + 1):
        rise = (at[d:] - at[:-d])[:, :, None]
        if not rise.all():
            raise DataError(f"var={slope.text!r} does not change with {slope.covariate} here")
        parts, rounding = np.diff(parts, axis=0) / rise, 2.0 * rounding / np.abs(rise).min()
        own = parts[(len(parts) - 1) // 2]
        out[degree == d] = np.where(np.abs(own) > rounding, own, 0.0)
    return out[:, :-1], out[:, -1]


def _evaluated(fit: Basis, code: str, frames: tuple[pd.DataFrame, ...]) -> Iterator[np.ndarray]:
    """An expression with what is remembered of the data of the fit: `scale(x)`, `x / mean(x)`."""
    source = fit.source
    state = copy.deepcopy(dict(source.spec.transform_state))
    if fit.rows is not None:
        mat.evaluate(code, fit.rows, context=source.context, state=state)
    known = set(state)
    for frame in frames:
        yield mat.evaluate(code, frame, context=source.context, state=state)
    if any(not name.startswith(TYPES) for name in state.keys() - known):
        raise DataError(f"var={code!r} looks at all rows of the fit, which are not kept here")


def _moved(asked: Asked, grid: Grid) -> set[str]:
    """Variables that stand where they were put, and not where the rows have them."""
    return {*map(unquoted, asked.at), *grid.predicted}
