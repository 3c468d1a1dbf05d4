"""Reference grids: rows of the fixed effects' matrix at chosen values, and averages of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from itertools import product
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ...designs.variables import Variables, as_numbers
from ...errors import DataError
from ...inputs.arguments import shown
from ...inputs.matching import find, first_shown, label_shown
from .nested_factors import Parents, joined, nesting, nesting_by_terms, shares

# Rows of a reference grid beyond which it is refused.
_MOST = 100_000
# Sums of weights that are zero but for rounding, in units of the sum of their sizes.
_NOTHING = 1e-12

Weights = str | np.ndarray


class Grid(NamedTuple):
    """Combinations of the values of variables, the first variable fastest."""

    values: Mapping[str, list[Any]]  # of every variable, in the order of the grid
    places: np.ndarray  # (N, V)  which of its values each row has
    counts: np.ndarray  # (N,)  rows of the data in the cell of factors
    there: np.ndarray  # (N,) of bool: False for levels of a nested factor outside of their own
    parents: Parents  # the factors that every factor is nested in
    predicted: Mapping[str, np.ndarray] = MappingProxyType({})  # (N,) each: covariates of a model


class Average(NamedTuple):
    """Rows that are averages of those of a grid, each of which is part of one of them at most."""

    labels: dict[str, list[Any]]  # column of values for every variable that is left
    counts: np.ndarray  # (r,)  rows of the data
    owner: np.ndarray  # (N,)  the average that a row of the grid is part of; -1: of none
    weights: np.ndarray  # (N,)  zero in an average without any weight
    partial: np.ndarray  # (r,) of bool: without weight, or a cell of crossing factors is not there

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Averages of rows (N, ...); a row of no weight may be anything."""
        out = np.zeros((len(self.counts), *rows.shape[1:]))
        used = (self.owner >= 0) & (self.weights != 0)
        weights = self.weights[used].reshape(-1, *[1] * (rows.ndim - 1))
        np.add.at(out, self.owner[used], weights * rows[used])
        return out


def grid_values(
    known: Variables,
    at: Mapping[str, Sequence[Any]],
    reduce: Callable[[np.ndarray], Any] | str,
    rows: pd.DataFrame | None,
) -> dict[str, list[Any]]:
    """Values of every variable: levels of factors, means of covariates, or those of ``at``.

    Parameters
    ----------
    known : Variables
    at : mapping
        Variable to its values.
    reduce : {"mean", "range"} or callable
        What a covariate is reduced to.
    rows : DataFrame, optional
        Of the fit, for a function; None: not kept.
    """
    return {name: _values_of(name, known, at, reduce, rows) for name in known.names}


def _values_of(
    name: str,
    known: Variables,
    at: Mapping[str, Sequence[Any]],
    reduce: Callable[[np.ndarray], Any] | str,
    rows: pd.DataFrame | None,
) -> list[Any]:
    if name in known.factors:
        levels = known.factors[name]
        return _chosen(name, levels, at[name]) if name in at else list(levels)
    covariate = known.covariates[name]
    if name in at:
        return [float(v) for v in at[name]]
    if covariate.few is not None:
        return list(covariate.few)
    if reduce == "mean":
        return [covariate.mean]
    if reduce == "range":
        return [covariate.low, covariate.high]
    return _reduced(name, reduce, rows)


def _chosen(name: str, levels: pd.Index[Any], wanted: Sequence[Any]) -> list[Any]:
    places = find(levels, pd.Index(list(wanted)), name)
    if (places < 0).any():
        missing = list(wanted)[int(np.argmax(places < 0))]
        raise DataError(
            f"at has {label_shown(missing)} for {name!r}, whose levels are "
            f"{first_shown(levels, 12)}"
        )
    return [levels[p] for p in places]


def _reduced(name: str, reduce: Any, rows: pd.DataFrame | None) -> list[float]:
    if rows is None:
        raise DataError("cov_reduce is a function of the rows, which this result has not kept")
    try:
        found = np.atleast_1d(np.asarray(reduce(as_numbers(rows[name])), dtype=float))
    except Exception as error:  # whatever the caller's function may raise
        raise DataError(
            f"cov_reduce fails for {name!r}: {type(error).__name__}: {error}"
        ) from error
    if found.ndim != 1 or not np.isfinite(found).all() or not found.size:
        raise DataError(f"cov_reduce gives {shown(found)} for {name!r}: numbers are needed")
    return [float(v) for v in found]


def make_grid(
    values: Mapping[str, list[Any]],
    order: Sequence[str],
    known: Variables,
    held: Collection[str] = (),
) -> Grid:
    """All combinations of values, variables in the given order, then the others.

    ``held`` are variables whose value is nothing to what is asked for: no level of another one
    is outside of it.
    """
    names = [*order, *(name for name in values if name not in order)]
    sizes = [len(values[name]) for name in names]
    total = int(np.prod(sizes, dtype=float))
    if total > _MOST:
        worst = max(names, key=lambda name: len(values[name]))
        raise DataError(
            f"the reference grid has {total:,} rows ({worst!r} has {len(values[worst])} values): "
            f"{_MOST:,} are the most; choose fewer by at="
        )
    places = np.array([row[::-1] for row in product(*[range(s) for s in sizes[::-1]])], dtype=int)
    places = places.reshape(total, len(names))
    ordered = {name: values[name] for name in names}
    parents, by_labels = parents_of(values, known, held)
    there = _nested_there(ordered, places, known, by_labels)
    there &= _filled(ordered, places, known, parents, by_labels)
    return Grid(ordered, places, _cell_counts(ordered, places, known), there, parents)


def parents_of(
    values: Mapping[str, list[Any]], known: Variables, held: Collection[str] = ()
) -> tuple[Parents, Parents]:
    """What every variable is nested in: by labels or by the formula, and by labels alone."""
    by_labels = {inner: outer - {*held} for inner, outer in nesting_of(known).items()}
    by_labels |= {name: frozenset() for name in held if name in by_labels}
    several = [name for name in values if len(values[name]) > 1 and name not in held]
    return joined(by_labels, nesting_by_terms(known.terms, several)), by_labels


@lru_cache(maxsize=16)  # a grid, its checks and what is asked for ask in turn
def nesting_of(known: Variables) -> Parents:
    """The factors that every factor of the fixed effects is nested in by its labels."""
    cells = known.cells[:, : len(known.factors)]
    return nesting(pd.DataFrame(cells, columns=list(known.factors)))


def _nested_there(
    values: Mapping[str, list[Any]], places: np.ndarray, known: Variables, parents: Parents
) -> np.ndarray:
    """Which rows of a grid have the levels of nested factors inside the level they belong to."""
    out = np.ones(len(places), dtype=bool)
    for inner, outer in ((i, o) for i in parents for o in parents[i] if {i, o} <= values.keys()):
        parent = _parents_of(inner, outer, known)
        own, other = _codes_of_rows((inner, outer), values, places, known).T
        out &= parent[own] == other
    return out


def _filled(
    values: Mapping[str, list[Any]],
    places: np.ndarray,
    known: Variables,
    parents: Parents,
    by_labels: Parents,
) -> np.ndarray:
    """Which rows of a grid have factors that nest by the formula where there are rows of data."""
    names, out, none = list(values), np.ones(len(places), dtype=bool), frozenset[str]()
    for inner in (name for name in names if name in known.factors):
        outer = parents.get(inner, none) - by_labels.get(inner, none)
        block = [name for name in names if name in {inner, *outer} and name in known.factors]
        if len(block) < 2:
            continue
        cells = known.cells[:, [known.counted.index(name) for name in block]]
        codes = _codes_of_rows(block, values, places, known)
        seen = {tuple(cell) for cell in cells.tolist()}
        out &= np.array([tuple(cell) in seen for cell in codes.tolist()])
    return out


def _parents_of(inner: str, outer: str, known: Variables) -> np.ndarray:
    """The level of ``outer`` that every level of ``inner`` belongs to, by their codes."""
    cells = known.cells[:, [known.counted.index(inner), known.counted.index(outer)]]
    parent = np.zeros(len(known.factors[inner]), dtype=int)
    parent[cells[:, 0]] = cells[:, 1]
    return parent


def check_nested(
    values: Mapping[str, list[Any]], chosen: Collection[str], known: Variables
) -> None:
    """Raise for a level that was chosen outside of those of a factor that it is nested in."""
    parents = nesting_of(known) if chosen else {}
    for inner, outer in ((i, o) for i in parents if i in chosen for o in parents[i]):
        parent = _parents_of(inner, outer, known)[_codes(inner, values[inner], known)]
        outside = np.flatnonzero(~np.isin(parent, _codes(outer, values[outer], known)))
        if outside.size:
            level, above = values[inner][outside[0]], known.factors[outer][parent[outside[0]]]
            raise DataError(
                f"at has {label_shown(level)} for {inner!r}, which is a level of {outer!r} "
                f"{label_shown(above)}: the grid has "
                f"{', '.join(map(label_shown, values[outer][:12]))}"
            )


def _codes_of_rows(
    names: Sequence[str], values: Mapping[str, list[Any]], places: np.ndarray, known: Variables
) -> np.ndarray:
    """Codes of some variables in the rows of a grid, (N, v)."""
    column = {name: v for v, name in enumerate(values)}
    codes = [_codes(name, values[name], known)[places[:, column[name]]] for name in names]
    return np.column_stack(codes)


def _cell_counts(
    values: Mapping[str, list[Any]], places: np.ndarray, known: Variables
) -> np.ndarray:
    """Rows of the data with the factors of every row of the grid; covariates do not count."""
    counted = [name for name in known.counted if name in values and _occurs(name, values, known)]
    if not counted:
        return np.full(len(places), known.counts.sum())
    table: dict[tuple[int, ...], int] = {}
    at = [known.counted.index(name) for name in counted]
    for cell, count in zip(known.cells[:, at], known.counts, strict=True):
        table[tuple(cell)] = table.get(tuple(cell), 0) + int(count)
    codes = _codes_of_rows(counted, values, places, known)
    return np.array([table.get(tuple(row), 0) for row in codes])


def _occurs(name: str, values: Mapping[str, list[Any]], known: Variables) -> bool:
    """Whether rows of the data have one of a variable's values; a mean of two they have not."""
    return bool((_codes(name, values[name], known) >= 0).any())


def rows_of(grid: Grid, chosen: np.ndarray) -> Grid:
    """Some rows of a grid."""
    return grid._replace(
        places=grid.places[chosen],
        counts=grid.counts[chosen],
        there=grid.there[chosen],
        predicted={name: values[chosen] for name, values in grid.predicted.items()},
    )


def _codes(name: str, values: list[Any], known: Variables) -> np.ndarray:
    """Codes in the data of the values of a variable; -1 for a value that no row has."""
    if name in known.factors:
        return known.factors[name].get_indexer(pd.Index(values))
    few = known.covariates[name].few
    assert few is not None  # only those are counted
    return np.array([few.index(v) if v in few else -1 for v in values])


def average(grid: Grid, keep: Sequence[str], how: Weights) -> Average:
    """Average over all variables that are not kept.

    Parameters
    ----------
    grid : Grid
    keep : sequence of str
        Variables that stay, the first fastest; they come first in the grid.
    how : {"equal", "proportional", "outer", "cells", "flat"} or ndarray
        Weights of the combinations that are averaged: equal; by their rows in the data; by the
        product of each variable's rows; by the rows of the cell; equal for cells with rows;
        or a weight each. But for those of "cells" and the last ones nested factors go first,
        within the levels of what they are nested in.
    """
    names = list(grid.values)
    inner = [names.index(name) for name in keep]
    outer = [v for v in range(len(names)) if v not in inner]
    row = _numbered(grid.places[:, inner], [len(grid.values[names[v]]) for v in inner])
    column = _numbered(grid.places[:, outer], [len(grid.values[names[v]]) for v in outer])
    r, c = int(row.max(initial=0)) + 1, int(column.max(initial=0)) + 1
    if isinstance(how, np.ndarray):
        if how.shape != (c,):
            raise DataError(f"weights has the shape {how.shape}: {c} numbers are averaged over")
        weights = how[column] * grid.there
    else:
        none: frozenset[str] = frozenset()
        known = none.union(*(grid.parents.get(name, none) for name in keep))  # one value beside it
        several = [names[v] for v in outer if len(grid.values[names[v]]) > 1]
        averaged = [name for name in several if name not in known]
        weights = grid.there.astype(float)
        if averaged:
            weights = _cell_weights(how, grid, [*keep, *known], averaged)
    total, size = (np.bincount(row, w, minlength=r) for w in (weights, np.abs(weights)))
    total[np.abs(total) <= _NOTHING * size] = np.nan
    lost = np.isnan(total)
    weights = np.where(lost[row], 0.0, weights / np.where(lost, 1.0, total)[row])
    kept = np.bincount(row, grid.there, minlength=r) > 0  # combinations that nesting leaves
    if not kept.any():
        raise DataError("at leaves no combination of levels: some factors are nested")
    if isinstance(how, np.ndarray) and lost[kept].all():
        raise DataError(f"weights={shown(how.tolist())}: they add up to nothing")
    owner = np.where(kept, np.cumsum(kept) - 1, -1)[row]
    first = np.unique(row, return_index=True)[1][kept]
    labels = {names[v]: [grid.values[names[v]][p] for p in grid.places[first, v]] for v in inner}
    partial = lost
    if isinstance(how, str) and how in ("equal", "proportional", "outer"):
        partial = partial | _lack_cells(grid, keep, row)
    counts = np.bincount(row, grid.counts, minlength=r)[kept]
    return Average(labels, counts, owner, weights, partial[kept])


def _lack_cells(grid: Grid, keep: Sequence[str], row: np.ndarray) -> np.ndarray:
    """Averages with a combination of the other factors in which a nested one has no level, (r,)."""
    names = list(grid.values)
    known = {parent for name in keep for parent in grid.parents.get(name, ())}
    crossed = [n for n in names if n not in keep and n not in known and not grid.parents.get(n)]
    sizes = [len(grid.values[n]) for n in crossed]
    cell = _numbered(grid.places[:, [names.index(n) for n in crossed]], sizes)
    found = np.zeros((int(row.max(initial=0)) + 1, int(np.prod(sizes, dtype=int))), dtype=bool)
    found[row[grid.there], cell[grid.there]] = True
    return np.asarray(~found.all(axis=1))


def _numbered(places: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Number of every combination, the first column fastest."""
    factor = np.concatenate([[1], np.cumprod(sizes)])[: len(sizes)].astype(int)
    return places @ factor if len(sizes) else np.zeros(len(places), dtype=int)


def _cell_weights(how: str, grid: Grid, keep: Sequence[str], averaged: Sequence[str]) -> np.ndarray:
    """Weights of the rows of the grid in the averages that keep some variables, (N,)."""
    if how == "cells":
        return grid.counts * grid.there
    out = np.zeros(len(grid.places))
    if how in ("equal", "flat"):
        there = grid.there & (grid.counts > 0) if how == "flat" else grid.there
        cells = pd.DataFrame(grid.places[there], columns=list(grid.values))
        factors = [name for name in averaged if name in grid.parents]
        out[there] = shares(cells, grid.parents, factors, keep)
        return out
    none: frozenset[str] = frozenset()
    parents = {name: grid.parents.get(name, none) for name in averaged}
    if how == "outer":
        blocks = [([name], above) for name, above in parents.items()]
    else:  # all together, but for those that are nested in others of them
        inside = {n: above if above.intersection(averaged) else none
                  for n, above in parents.items()}  # fmt: skip
        blocks = []
        for above in dict.fromkeys(inside.values()):
            own = [n for n in averaged if inside[n] == above]
            blocks.append((own, none.union(above, *(parents[n] for n in own)) - {*own}))
    return np.prod([_share(grid, own, above) for own, above in blocks], axis=0) * grid.there


def _share(grid: Grid, own: Sequence[str], within: Collection[str]) -> np.ndarray:
    """Share of the rows of the data in the values of some variables, within those of others, (N,).

    In the values alone of all that are not named.
    """
    axes = list(grid.values)[::-1]  # of the block: the first variable fastest
    block = grid.counts.reshape([len(grid.values[name]) for name in axes])
    others = tuple(a for a, name in enumerate(axes) if name not in {*own, *within})
    joint = block.sum(axis=others, keepdims=True)
    whole = joint.sum(axis=tuple(axes.index(name) for name in own), keepdims=True)
    share = np.divide(joint, whole, out=np.zeros(joint.shape), where=whole > 0)
    return np.broadcast_to(share, block.shape).reshape(-1)
