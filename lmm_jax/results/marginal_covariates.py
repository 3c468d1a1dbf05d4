"""Covariates at the rows of a reference grid: held, moved by a step, or predicted by a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..designs.variables import Variables, column_of
from ..errors import DataError
from ..formulas import matrices as mat
from ..formulas.expressions import masked, quoted
from ..formulas.parse import parse_rhs
from ..formulas.right_side import variables
from ..inference.contrasts.linear_functions import ESTIMABLE
from ..inference.means.grid import Grid
from ..inputs.arguments import shown
from ..inputs.names import unquoted
from .marginal_specs import listed

# Singular values of columns of unit length below which they are combinations of each other.
_RANK_TOL = 1e-10


class Mediator(NamedTuple):
    """A covariate that other variables predict: what a treatment does goes through it as well."""

    covariate: str
    formula: str  # as it was written
    right: str  # what predicts it, for `matrices.build`
    needs: tuple[str, ...]  # variables of it


def read_mediators(
    cov_reduce: Any, known: Variables, given: Any
) -> tuple[Any, tuple[Mediator, ...]]:
    """What covariates are reduced to, and the formulas that predict some of them.

    Parameters
    ----------
    cov_reduce : str, callable or list
        A word or a function for all covariates, a formula ``"x ~ A"``, or a list of formulas and
        at most one word or function for the others.
    known : Variables
    given : mapping or None
        Values of variables, which go first.
    """
    one = not isinstance(cov_reduce, list | tuple)
    found = [cov_reduce] if one else list(cov_reduce)
    written = [isinstance(each, str) and "~" in masked(each) for each in found]
    formulas = [each for each, is_one in zip(found, written, strict=True) if is_one]
    others = [each for each, is_one in zip(found, written, strict=True) if not is_one]
    if len(others) > 1 or not found:
        raise DataError(
            f"cov_reduce={shown(cov_reduce)}: formulas such as 'x ~ A', and one word or function "
            "for all other covariates, are needed"
        )
    mediators = [_read(text, known) for text in formulas]
    names = [one.covariate for one in mediators]
    if len(set(names)) < len(names):
        raise DataError(f"cov_reduce={shown(cov_reduce)}: a covariate is predicted by one formula")
    held = {unquoted(name) for name in given} if isinstance(given, Mapping) else set()
    left = tuple(one for one in mediators if one.covariate not in held)
    return (others[0] if others else "mean"), left


def _read(text: str, known: Variables) -> Mediator:
    tilde = masked(text).index("~")
    name, rest = unquoted(text[:tilde].strip()), text[tilde + 1 :]
    what = f"cov_reduce={text!r}"
    if not name or not rest.strip():
        raise DataError(
            f"{what}: the covariate that is predicted stands on the left, what predicts it on the "
            "right, 'x ~ A'"
        )
    if name not in known.covariates:
        there = ", ".join(known.covariates) or "none"
        raise DataError(f"{what}: {name} is no covariate of the model, there are {there}")
    right = parse_rhs(rest)
    needs = variables(right)
    for other in needs:
        if other not in known:
            raise DataError(
                f"{what}: {other!r} is no variable of the fixed effects: there are {listed(known)}"
            )
    if name in needs:
        raise DataError(f"{what}: {name} does not predict itself")
    return Mediator(name, text.strip(), right, needs)


def check_no_mediator(names: Sequence[str], mediators: Sequence[Mediator]) -> None:
    """Refuse means at values of a covariate that has none of its own."""
    for one in mediators:
        if one.covariate in names:
            raise DataError(
                f"{one.covariate!r} has no values of its own with cov_reduce={one.formula!r}: "
                "leave it out of specs and by, or say where it is by at="
            )


def with_predictions(
    grid: Grid,
    mediators: Sequence[Mediator],
    known: Variables,
    rows: pd.DataFrame | None,
    context: Mapping[str, Any],
) -> Grid:
    """The grid with predicted covariates, one after another: later ones may read earlier ones.

    Parameters
    ----------
    grid : Grid
    mediators : sequence of Mediator
    known : Variables
    rows : DataFrame, optional
        Of the fit; None: not kept.
    context : mapping
        Functions and variables of the caller.
    """
    if mediators and rows is None:
        raise DataError("cov_reduce is a model of the rows, which this result has not kept")
    for one in mediators:
        assert rows is not None
        found = _predicted(one, grid, known, rows, context)
        grid = grid._replace(predicted={**grid.predicted, one.covariate: found})
    return grid


def _predicted(
    one: Mediator, grid: Grid, known: Variables, rows: pd.DataFrame, context: Mapping[str, Any]
) -> np.ndarray:
    """Least squares of the covariate in the rows of the fit, at the grid, (N,).

    NaN where the rows do not determine it.
    """
    x = mat.evaluate(f"as_numeric({quoted(one.covariate)})", rows, context=context)  # of dates days
    fit = mat.build(one.right, rows, context=context)
    new = mat.replay(fit.spec, grid_frame(known, grid), context=context)
    length = np.linalg.norm(fit.values, axis=0)
    length[length == 0] = 1.0
    R = np.linalg.qr(np.column_stack([fit.values / length, x])).R
    k = len(length)
    U, d, Vt = np.linalg.svd(R[:, :k])
    rank = int(np.sum(d > _RANK_TOL * d.max(initial=0.0)))
    new = new / length
    value = new @ (Vt[:rank].T @ ((U[:, :rank].T @ R[:, k]) / d[:rank]))
    gap = np.abs(new @ Vt[rank:].T).max(axis=1, initial=0.0)
    unknown = gap > ESTIMABLE * np.abs(new).max(axis=1, initial=0.0)
    for name in one.needs:
        unknown |= np.isnan(grid.predicted.get(name, 0.0))
    return np.where(unknown, np.nan, value)


def unpredictable(grid: Grid) -> np.ndarray:
    """Rows with a covariate that the data do not predict there, (N,) of bool."""
    out = np.zeros(len(grid.places), dtype=bool)
    for values in grid.predicted.values():
        out |= np.isnan(values)
    return out


def numbers_at(grid: Grid, covariate: str) -> np.ndarray:
    """Values of a covariate at the grid, (N,); its first one where it cannot be predicted."""
    values = np.asarray(grid.values[covariate], dtype=np.float64)
    if covariate in grid.predicted:
        found = grid.predicted[covariate]
        return np.where(np.isnan(found), values[0], found)
    return values[grid.places[:, list(grid.values).index(covariate)]]


def grid_frame(
    known: Variables, grid: Grid, moved: str | None = None, shift: float = 0.0
) -> pd.DataFrame:
    """The variables at the grid, or one of them further on."""
    columns = {}
    for v, (name, values) in enumerate(grid.values.items()):
        if name in known.covariates:
            own = list(numbers_at(grid, name) + (shift if name == moved else 0.0))
        elif name in known:
            own = [values[p] for p in grid.places[:, v]]
        else:
            continue
        columns[name] = column_of(name, own, known)
    return pd.DataFrame(columns, index=range(len(grid.places)))
