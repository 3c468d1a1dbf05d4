"""A design from sums over rows that are gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ..errors import ConvergenceWarning, DataError, RankWarning, warn_user
from ..inputs.matching import label_shown
from ..layouts.cells import CellSums, grouped_sums
from ..layouts.crossed.from_cells import crossed_layout
from ..layouts.crossed.index import CrossedIndex
from ..layouts.group_index import GroupIndex, stream_pairs
from ..layouts.sparse.from_cells import sparse_layout_of_cells
from ..layouts.stream_compress import Digits, Units
from ..layouts.stream_pass import finish
from ..numerics.namespace import NUMPY as xp
from ..numerics.processes import float64
from .checks import EXACT_TOL, check_identified, check_levels, check_rank, confounded
from .column_moments import ColumnMoments, of_sums
from .compressed import Compressed, few_groups
from .design import Design
from .fixed_source import FixedSource, named
from .from_formula import outer_group
from .identification import LevelProducts, Moments, summed_moments
from .row_sums import RowSums
from .sum_arrays import distinct_rows, link_blocks
from .terms import RandomTerm, independent_groups, most_levels_first


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class BatchDesign(Design):
    """A design whose rows were compressed batch by batch and are gone."""

    n_rows: int
    response_norms: tuple[float, float]  # largest |y| or its size, norm of y around its mean
    summed: Compressed
    moments: ColumnMoments | None = None  # None: weighted, or without a constant column

    @property
    def nobs(self) -> int:
        """Number of rows used."""
        return self.n_rows

    @cached_property
    def compressed(self) -> Compressed:
        """See :meth:`Design.compressed`."""
        return self.summed

    @property
    def is_compressed(self) -> bool:
        """See :meth:`Design.is_compressed`."""
        return True

    def response_bound(self) -> float:
        """See :meth:`Design.response_bound`."""
        return max(self.response_norms[1], self.response_norms[0] * self.n_rows**0.5)

    def response_size(self) -> tuple[float, float, float]:
        """See :meth:`Design.response_size`."""
        largest, norm = self.response_norms
        return largest, norm / largest, float(self.n_rows)

    def column_moments(self) -> ColumnMoments | None:
        """See :meth:`Design.column_moments`."""
        return self.moments

    @property
    def has_rows(self) -> bool:
        """See :meth:`Design.has_rows`."""
        return False


class _Terms:
    """Sums by term, terms with most levels first, cells in the place of rows."""

    def __init__(self, sums: RowSums, kept: Sequence[int]) -> None:
        self.sums = sums
        schema = sums.schema
        self.columns = [*kept, len(sums.gram) - 1]  # of [X y]
        labels = [sums.level_labels(f) for f in range(len(schema.factors))]
        found = [
            _of_cells(term, labels[f], sums.levels[f].of_cells)
            for term in schema.terms
            for f in [schema.factors.index(term.source.group)]
        ]
        self.terms = most_levels_first(found)
        self.order = [found.index(term) for term in self.terms]
        self.factors = [schema.factors.index(term.source.group) for term in self.terms]
        self.places = [schema.place(t)[1] for t in self.order]
        self.gram = sums.gram[np.ix_(self.columns, self.columns)]

    def units(self) -> Units:
        """Units of the columns of X that are kept."""
        few, units = np.array(self.columns[:-1], dtype=int), self.sums.schema.units
        return units._replace(
            x_shift=np.asarray(units.x_shift)[few],
            x_unit=np.asarray(units.x_unit)[few],
            constant=np.asarray(units.constant)[few],
        )

    def level(self, t: int) -> np.ndarray:
        """``z' W [z X y]`` of every level of a term, (L, k, k + p + 1)."""
        products, at = self.sums.products[self.factors[t]], self.places[t]
        of_xy = products.shape[1] + np.asarray(self.columns)
        columns = np.concatenate([np.arange(at.start, at.stop), of_xy])
        return products[:, at][:, :, columns]

    def pair(self, a: int, b: int) -> tuple[np.ndarray, bool]:
        """``z_a' W z_b``, of every cell or, of one factor, of every level; and which."""
        f, g = self.factors[a], self.factors[b]
        if f == g:
            return self.sums.products[f][:, self.places[a], self.places[b]], False
        blocks = link_blocks(self.sums.links, self.sums.schema.widths())
        if f < g:
            return blocks[f, g][:, self.places[a], self.places[b]], True
        return blocks[g, f].transpose(0, 2, 1)[:, self.places[a], self.places[b]], True

    def at_cells(self) -> CellSums:
        """Everything by cell; the numbers of a level stand at the first of its cells."""
        off = [pair for pair in stream_pairs(len(self.terms)) if pair[0] != pair[1]]
        pairs: list[Any] = []
        for a, b in off:
            values, by_cell = self.pair(a, b)
            pairs.append(values if by_cell else self._first_cells(values, self.factors[a]))
        return CellSums(
            gram=xp.asarray(self.gram),
            levels=tuple(self._first_cells(self.level(t), f) for t, f in enumerate(self.factors)),
            pairs=tuple(pairs),
            n_obs=xp.asarray(float(self.sums.n_rows)),
            log_weights=xp.asarray(self.sums.log_weights),
        )

    def _first_cells(self, values: np.ndarray, f: int) -> Any:
        level = self.sums.levels[f].of_cells
        if len(values) == len(level):
            return values if bool((level == np.arange(len(level))).all()) else values[level]
        out = np.zeros((len(level), *values.shape[1:]))
        first = np.unique(level, return_index=True)[1]
        out[first] = values
        return out

    def moments(self) -> Moments:
        """What the identification of the variances needs."""
        pairs = {}
        for a, b in stream_pairs(len(self.terms)):
            if a == b:
                continue
            values, by_cell = self.pair(a, b)
            left, right = (self.sums.levels[self.factors[t]].of_cells for t in (a, b))
            if not by_cell:
                left = right = np.arange(len(values))
            pairs[a, b] = _level_pairs(left, right, values)
        levels = [self.level(t)[:, :, :-1] for t in range(len(self.terms))]
        structures = [term.structure for term in self.terms]
        return summed_moments(levels, self.gram[:-1, :-1], pairs, structures, self.sums.n_rows)


def _of_cells(term: RandomTerm, labels: pd.Index[Any], level: np.ndarray) -> RandomTerm:
    """A term whose rows are the cells."""
    return replace(
        term,
        levels=labels,
        codes=level[:, None],
        values=np.zeros((len(level), 1, len(term.names))),
    )


def _level_pairs(left: np.ndarray, right: np.ndarray, values: np.ndarray) -> LevelProducts:
    """Sums over the cells of every pair of levels."""
    codes = np.stack([left, right], axis=1)
    found, place = distinct_rows(codes, [int(left.max()) + 1, int(right.max()) + 1])
    if len(found) == len(values):
        return LevelProducts(left, right, values)
    out = np.zeros((len(found), *values.shape[1:]))
    np.add.at(out, place, values)
    return LevelProducts(found[:, 0], found[:, 1], out)


def design_of_sums(sums: RowSums) -> Design:
    """The design of all rows that were summed up.

    Raises
    ------
    DataError
        The rows cannot carry the model, or nothing is left of the response.

    Warns
    -----
    ConvergenceWarning
        The sums lose digits: how many.
    """
    if sums.n_rows == 0:
        raise DataError("the batches have no complete row")
    _check_categories(sums)
    with float64():
        return _assemble(sums)


def _check_categories(sums: RowSums) -> None:
    """Raise if a category that was declared has never occurred."""
    for name, seen in sums.seen.items():
        if not seen.all():
            absent = sums.schema.declared[name][~seen]
            raise DataError(
                f"`{name}` declares {', '.join(map(label_shown, absent))}, which no row of the "
                "batches has: declare the categories that occur"
            )


def _assemble(sums: RowSums) -> Design:
    """Terms, checks, layout."""
    names = sums.schema.names
    kept = tuple(sums.independent_columns())
    if len(kept) < len(names):
        gone = ", ".join(name for j, name in enumerate(names) if j not in kept)
        warn_user(
            f"the fixed-effects design is rank deficient: dropped {gone} (sums keep half of the "
            "digits, and rows in memory tell apart columns that agree to more than five)",
            RankWarning,
        )
    check_rank(sums.n_rows, len(kept))
    made = _Terms(sums, kept)
    check_levels(made.terms)
    find = lambda: confounded(made.terms, sums.n_rows, made.moments)  # noqa: E731
    check_identified(made.terms, sums.n_rows, len(kept), find)
    shell = _shell(sums, made.terms, kept)
    found, digits = _compressed(shell, made)
    spare = sums.n_rows - float(found.reach[0]) - len(kept) > 0
    if _unexplained(sums.gram) < EXACT_TOL or (spare and float(found.reach[1]) < EXACT_TOL):
        raise DataError(
            f"the model explains {sums.schema.columns.response!r} to the rounding of sums over "
            "batches: there is no residual variance, or the rows have to be in memory"
        )
    if not digits.are_kept:
        warn_user(
            "the model explains nearly all of y, or columns nearly agree: sums over batches lose "
            f"digits there, about {digits.lost:.0f} of 16. Centre the covariates, take origins "
            "near the data (lmm.schema with a sample), or fit the rows in memory",
            ConvergenceWarning,
        )
    return replace(shell, summed=found, moments=_moments(sums, made))


def _compressed(shell: BatchDesign, made: _Terms) -> tuple[Compressed, Digits]:
    """The layout."""
    index, cells = shell.plan.index, made.at_cells()
    units = made.units()
    layout: Any
    if isinstance(index, GroupIndex):
        layout, reach, digits = finish(grouped_sums(cells, index), units, index)
    else:
        if isinstance(index, CrossedIndex):
            layout, digits = crossed_layout(cells, units, index)
        else:
            layout, digits = sparse_layout_of_cells(cells, units, index)
        reach = layout.ranks(), layout.within_rss()
    return Compressed(layout=layout, reach=reach, few_groups=few_groups(shell.plan)), digits


def _moments(sums: RowSums, made: _Terms) -> ColumnMoments | None:
    """Moments of the columns; weighted sums have others."""
    if sums.schema.columns.weights is not None or not made.gram[:-1].size:
        return None
    squares = [sums.mean_squares(t) for t in made.order]
    return of_sums(made.gram[:-1, :-1], made.units(), sums.n_rows, squares)


def _unexplained(gram: np.ndarray) -> float:
    """Share of the squares of y around its shift that X leaves."""
    X, y = gram[:-1, :-1], gram[:-1, -1]
    fit = np.linalg.lstsq(X, y, rcond=None)[0] @ y
    return float(1.0 - fit / gram[-1, -1]) if gram[-1, -1] > 0 else 0.0


def _shell(sums: RowSums, terms: Sequence[RandomTerm], kept: tuple[int, ...]) -> BatchDesign:
    """The design but for its layout."""
    schema, columns = sums.schema, sums.schema.columns
    names, units = schema.names, schema.units
    source = FixedSource(
        response=columns.response,
        spec=schema.spec,
        kept=kept,
        offsets=columns.offsets,
        offset_array=False,
        context=schema.context,
        formula=schema.formula,
        weights=columns.weights,
        beside=named({"Weights": columns.weights}),
    )
    group, n_groups = independent_groups(terms, *outer_group(terms))
    norm = float(units.y_unit) * float(np.sqrt(sums.gram[-1, -1]))
    return BatchDesign(
        endog=np.zeros(0),
        exog=np.zeros((0, len(kept))),
        exog_names=tuple(names[j] for j in kept),
        endog_name=columns.response,
        terms=tuple(terms),
        group_codes=group,
        n_groups=n_groups,
        weights=None,
        offset=None,
        index=pd.RangeIndex(0),
        dropped=tuple(name for j, name in enumerate(names) if j not in kept),
        n_missing=sums.n_missing,
        gaps=tuple(sums.gaps.items()),
        source=source,
        n_rows=sums.n_rows,
        response_norms=(max(abs(float(units.y_shift)), norm / np.sqrt(sums.n_rows)), norm),
        summed=None,  # type: ignore[arg-type]  # filled in by _assemble
    )
