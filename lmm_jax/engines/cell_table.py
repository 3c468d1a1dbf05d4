"""Sums over the rows of cells, as a database gives them, made to sums of a schema."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..designs.batch_reader import BatchReader, seen_categories
from ..designs.row_sums import RowSums, no_sums
from ..designs.schema import Schema
from ..designs.sum_arrays import distinct_rows, link_columns
from ..errors import DataError
from ..inputs.matching import distinct

# Numbers by their place that are multiplied; () is 1.
Monomial = tuple[int, ...]
# Cells whose products are made at once.
_CHUNK = 1 << 15


class Number(NamedTuple):
    """A column, or the response less its offsets, as the query measured it."""

    columns: tuple[str, ...]
    origin: float
    unit: float


class CellTable(NamedTuple):
    """What a query has answered; C cells."""

    keys: pd.DataFrame  # (C, ...)  labels of grouping factors and categorical predictors
    n_rows: np.ndarray  # (C,)
    sums: np.ndarray  # (C, ...)  of the weighted products of numbers
    log_weights: float
    lightest: float | None  # smallest weight
    numbers: tuple[Number, ...]  # the response is the last
    products: tuple[Monomial, ...]
    n_missing: int
    gaps: dict[str, int]


class _Numbered(NamedTuple):
    """Different rows of labels, and which of them every cell has."""

    n: int
    of: np.ndarray  # (C,)


class _Products(NamedTuple):
    """Products of the columns of Z, X and y, as :class:`RowSums` has them."""

    products: tuple[np.ndarray, ...]  # (L, K, K + p + 1) a factor
    links: np.ndarray  # (cells, ...)
    gram: np.ndarray  # (p + 1, p + 1)


def sums_of_cells(table: CellTable, schema: Schema) -> RowSums:
    """Sums over the rows of all cells."""
    if table.gaps and schema.missing != "drop":
        raise DataError(
            f"missing values in {', '.join(map(repr, table.gaps))}: remove them or pass "
            "missing='drop'"
        )
    if not len(table.keys):
        return no_sums(schema, table.n_missing, table.gaps)
    _check(table)
    reader = BatchReader(schema)
    codes, labels = zip(*(reader.labels(e, table.keys) for e in schema.groups), strict=True)
    sizes = [len(found) for found in labels]
    cells, number = distinct_rows(np.stack(codes, axis=1), sizes)
    levels = []
    for key in schema.factors:
        at = [schema.groups.index(e) for e in key]
        rows, level = distinct_rows(cells[:, at], [sizes[i] for i in at])
        levels.append(_Numbered(len(rows), level[number]))
    return RowSums(
        schema=schema,
        labels=labels,
        cells=cells,
        **_products(table, schema, reader, _Numbered(len(cells), number), levels)._asdict(),
        n_rows=int(table.n_rows.sum()),
        log_weights=table.log_weights,
        n_missing=table.n_missing,
        gaps=table.gaps,
        seen=seen_categories(table.keys, schema),
    )


def _products(
    table: CellTable,
    schema: Schema,
    reader: BatchReader,
    cells: _Numbered,
    levels: Sequence[_Numbered],
) -> _Products:
    """Products of the columns, added up by cell of the sums and by level of every factor."""
    widths, p = schema.widths(), len(schema.names)
    ends = np.cumsum([0, *widths])
    products = tuple(
        np.zeros((level.n, K, K + p + 1)) for level, K in zip(levels, widths, strict=True)
    )
    links = np.zeros((cells.n, link_columns(widths)))
    gram = np.zeros((p + 1, p + 1))
    combos, combo = _combinations(table, schema)
    parts, maps = _maps(table, schema, reader, combos)
    places = np.array([[table.products.index(tuple(sorted(a + b))) for b in parts] for a in parts])
    for start in range(0, len(cells.of), _CHUNK):
        some = slice(start, start + _CHUNK)
        A = maps[0] if len(maps) == 1 else maps[combo[some]]
        found = A @ table.sums[some][:, places] @ np.swapaxes(A, -1, -2)
        gram += found[:, ends[-1] :, ends[-1] :].sum(axis=0)
        for f, level in enumerate(levels):
            own = slice(ends[f], ends[f + 1])
            block = np.concatenate([found[:, own, own], found[:, own, ends[-1] :]], axis=2)
            _add_rows(products[f], level.of[some], block)
        if links.size:
            _add_rows(links, cells.of[some], _linked(found, ends))
    return _Products(products, links, gram)


def _check(table: CellTable) -> None:
    """Finite numbers, positive weights."""
    if table.lightest is not None and not table.lightest > 0:
        raise DataError(f"weights must be positive; a row has {table.lightest:g}: drop that row")
    finite = np.isfinite(table.sums).all(axis=0)
    if not finite.all():
        product = table.products[int(np.argmin(finite))]
        names = [name for i in dict.fromkeys(product) for name in table.numbers[i].columns]
        raise DataError(f"{', '.join(f'`{name}`' for name in names)}: an infinite value, or one "
                        "whose square is")  # fmt: skip


def _combinations(table: CellTable, schema: Schema) -> tuple[pd.DataFrame, np.ndarray]:
    """Different combinations of categorical predictors, and that of every cell."""
    names = [name for name in table.keys.columns if name in schema.columns.factors]
    coded = [distinct(table.keys[name], name) for name in names]
    if not names:
        return table.keys.iloc[:1], np.zeros(len(table.keys), np.int64)
    codes = np.stack([code for code, _ in coded], axis=1)
    rows, combo = distinct_rows(codes, [len(found) for _, found in coded])
    first = np.unique(combo, return_index=True)[1]
    assert len(first) == len(rows)  # every combination is some cell's
    return table.keys.iloc[first].reset_index(drop=True), combo


def _maps(
    table: CellTable, schema: Schema, reader: BatchReader, combos: pd.DataFrame
) -> tuple[list[Monomial], np.ndarray]:
    """Monomials, and the columns of Z, X and y in terms of them by combination.

    A column that is c times x z, of numbers measured as ``x = a + u x~``, is
    ``c (a + u x~) (b + v z~)``.
    """
    names = [number.columns[0] for number in table.numbers[:-1]]
    frame = combos.assign(**{name: 1.0 for name in names if name not in combos})
    matrices = reader.matrices(frame)
    whole = {rhs: _column_monomials(spec, names) for rhs, spec in schema.specs.items()}
    columns: list[tuple[np.ndarray, Monomial]] = []
    for key in schema.factors:
        for t in schema.members(key):
            rhs = schema.sides[t]
            columns += [
                (matrices[rhs].values[:, j], whole[rhs][j]) for j in schema.terms[t].source.columns
            ]
    rhs, start = schema.columns.fixed, len(columns)
    columns += [(matrices[rhs].values[:, j], m) for j, m in enumerate(whole[rhs])]
    parts = list(dict.fromkeys(part for _, m in columns for part in _parts(m)))
    parts = list(dict.fromkeys([(), *parts, (len(names),)]))
    out = np.zeros((len(combos), len(columns) + 1, len(parts)))
    for i, (coefficient, monomial) in enumerate(columns):
        for part in _parts(monomial):
            inside = [table.numbers[v].unit for v in part]
            outside = [table.numbers[v].origin for v in monomial if v not in part]
            out[:, i, parts.index(part)] = coefficient * np.prod([*inside, *outside])
    out[:, start:-1, 0] -= schema.units.x_shift
    out[:, start:-1] /= np.asarray(schema.units.x_unit)[:, None]
    out[:, -1, parts.index((len(names),))] = 1.0
    return parts, out


def _parts(monomial: Monomial) -> list[Monomial]:
    return [part for size in range(len(monomial) + 1) for part in combinations(monomial, size)]


def _column_monomials(spec: Any, names: Sequence[str]) -> list[Monomial]:
    """What the columns of a right-hand side are multiples of."""
    out: list[Monomial] = [()] * len(spec.column_names)
    for term, at in spec.term_slices.items():
        found = tuple(sorted(names.index(f.expr) for f in term.factors if f.expr in names))
        out[at] = [found] * (at.stop - at.start)
    return out


def _linked(found: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Products of the columns of different factors, in the order of :func:`link_blocks`."""
    blocks = [
        found[:, ends[f] : ends[f + 1], ends[g] : ends[g + 1]].reshape(len(found), -1)
        for f in range(len(ends) - 1)
        for g in range(f + 1, len(ends) - 1)
    ]
    return np.concatenate(blocks, axis=1)


def _add_rows(out: np.ndarray, place: np.ndarray, values: np.ndarray) -> None:
    """``out[place] += values`` where places may be equal."""
    order = np.argsort(place, kind="stable")
    ranked = place[order]
    starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
    out[ranked[starts]] += np.add.reduceat(values[order], starts)
