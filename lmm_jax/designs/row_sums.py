"""What the fit needs of some rows, as an object with ``+``."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from ..errors import DataError
from ..inputs.arguments import instance
from ..layouts.stream_compress import Digits, fixed_digits, whiteners_of
from ..reprs import folded, public
from .arrow_sums import from_arrow, to_arrow
from .batch_reader import Batch, no_batch
from .checks import DEPENDENT_TOL
from .schema import Schema
from .sum_arrays import SumArrays, add_up, distinct_rows, independent


@public
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RowSums(SumArrays):
    """What the fit needs of some rows, as sums: ``+`` gives those of all of them.

    Made by :func:`summarize`. Two parts may have rows of the same groups. The object is a few
    arrays of NumPy, of the size of the groups and, where there are several grouping factors, of
    the combinations of their levels that rows have (*cells*).
    """

    def __repr__(self) -> str:
        groups = [f"{':'.join(key)} {len(p):,} levels"
                  for key, p in zip(self.schema.factors, self.products, strict=True)]  # fmt: skip
        return folded(
            f"<RowSums: {self.schema.formula}; {self.n_rows:,} rows, {', '.join(groups)}>"
        )

    def __add__(self, other: Any) -> RowSums:
        if not isinstance(other, RowSums):
            return NotImplemented
        return add_up([self, other])

    def __radd__(self, other: Any) -> RowSums:
        if other == 0:  # where sum() begins
            return self
        return NotImplemented

    @property
    def lost_digits(self) -> float:
        """Digits of sixteen that the sums have lost to differences, about.

        Of y where X explains nearly all of it, and of X and of a term where columns nearly agree,
        as 1 and a covariate do whose mean is large. The fit says what the groups take besides.
        """
        at = [*self.independent_columns(), len(self.gram) - 1]
        lost = fixed_digits(self.gram[np.ix_(at, at)]).lost
        squares: list[Any] = [self.mean_squares(t) for t in range(len(self.schema.terms))]
        _, pivot = whiteners_of(squares, [term.structure for term in self.schema.terms])
        return max(lost, Digits(left=pivot, pivot=pivot).lost)

    def independent_columns(self) -> list[int]:
        """Columns of X that do not depend on columns before them, as far as sums tell.

        One whose spread is 1e-7 of its size does, as by rows; so do those that agree to some
        five digits.
        """
        gram, units = self.gram[:-1, :-1].copy(), self.schema.units
        with np.errstate(all="ignore"):
            total = units.constant @ gram
            weight = total @ units.constant
            spread = np.diagonal(gram) / weight - np.square(total / weight)
            least = DEPENDENT_TOL * np.abs(np.asarray(units.x_shift) / units.x_unit)
            rounding = spread < np.square(least)
        gram[rounding] = gram[:, rounding] = 0.0
        return independent(gram)

    def mean_squares(self, t: int) -> np.ndarray:
        """Cross-products of the columns of a term of the schema, a row, (k, k)."""
        factor, at = self.schema.place(t)
        return self.products[factor][:, at, at].sum(axis=0) / max(self.n_rows, 1)

    def occurring(self) -> dict[str, pd.Index[Any]]:
        """By predictor the categories that rows have; empty where they have all of them."""
        if all(seen.all() for seen in self.seen.values()):
            return {}
        return {name: self.schema.declared[name][seen] for name, seen in self.seen.items()}

    def with_missing(self, missed: Iterable[tuple[int, dict[str, int]]]) -> RowSums:
        """The sums with more rows that were left out."""
        gaps, more = Counter(self.gaps), self.n_missing
        for count, by_name in missed:
            more += count
            gaps.update(by_name)
        return replace(self, n_missing=more, gaps=dict(gaps))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the sums to a file, a pickle, that :meth:`load` reads."""
        Path(path).write_bytes(pickle.dumps(self))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read a file that :meth:`save` wrote; a pickle can run any code."""
        try:
            found = pickle.loads(Path(path).read_bytes())
        except OSError:
            raise
        except Exception as error:  # whatever a damaged pickle raises
            raise DataError(f"{path} holds no sums over rows: {error}") from error
        if not isinstance(found, cls):
            raise DataError(f"{path} holds a {type(found).__name__}, no sums over rows")
        return found

    def to_arrow(self) -> Any:
        """The sums as a table of pyarrow, one row a group.

        A row has the labels of its group, and one for each pair of factors besides; the row
        without a label has the sums over all rows. Tables of several parts may be concatenated.
        """
        return to_arrow(self)

    @classmethod
    def from_arrow(cls, table: Any, schema: Schema) -> Self:
        """Sums from one table of :meth:`to_arrow`, or from those of several parts, concatenated."""
        instance(schema, "schema", Schema, "what lmm.schema made")
        return from_arrow(table, schema, cls)


def sums_of(batch: Batch, schema: Schema) -> RowSums:
    """Sums over the rows of a batch."""
    units = schema.units
    n, p = batch.X.shape
    XY = np.empty((n, p + 1), order="F")  # columns are what follows reads
    XY[:, :p] = batch.X
    XY[:, p] = batch.y
    XY -= np.append(units.x_shift, units.y_shift)
    XY /= np.append(units.x_unit, units.y_unit)
    Z = [
        np.asfortranarray(np.concatenate([batch.Z[t] for t in schema.members(key)], axis=1))
        for key in schema.factors
    ]
    if batch.weights is not None:
        root = np.sqrt(batch.weights)[:, None]
        XY, Z = XY * root, [z * root for z in Z]
    sizes = [len(labels) for labels in batch.labels]
    codes = np.stack(batch.codes, axis=1)
    cells, number = distinct_rows(codes, sizes)
    products = []
    for key, z in zip(schema.factors, Z, strict=True):
        at = [schema.groups.index(e) for e in key]
        rows, level = distinct_rows(cells[:, at], [sizes[i] for i in at])
        products.append(_level_products(level[number], len(rows), z, XY))
    return RowSums(
        schema=schema,
        labels=batch.labels,
        cells=cells,
        links=_links(number, len(cells), Z),
        products=tuple(products),
        gram=XY.T @ XY,
        n_rows=len(batch.y),
        log_weights=0.0 if batch.weights is None else float(np.log(batch.weights).sum()),
        n_missing=batch.n_missing,
        gaps=batch.gaps,
        seen=batch.seen,
    )


def no_sums(schema: Schema, n_missing: int, gaps: dict[str, int]) -> RowSums:
    """Sums of no rows, but for those that were left out."""
    return sums_of(no_batch(schema, n_missing, gaps), schema)


def _level_products(level: np.ndarray, count: int, z: np.ndarray, XY: np.ndarray) -> np.ndarray:
    """``z' [z X y]`` of every level, (count, K, K + p + 1)."""
    K, columns = z.shape[1], [*z.T, *XY.T]
    constant = [_constant(column) for column in columns]

    @cache
    def alone(j: int | None) -> np.ndarray:
        return np.bincount(level, None if j is None else columns[j], minlength=count)

    def product(i: int, j: int) -> np.ndarray:
        a, b = constant[i], constant[j]
        if a is not None:
            return a * (alone(j) if b is None else b * alone(None))
        return _summed(level, count, columns[i] * columns[j]) if b is None else b * alone(i)

    out = np.empty((count, K, len(columns)))
    for i in range(K):
        for j in range(i, len(columns)):
            out[:, i, j] = product(i, j)
    for i in range(K):
        out[:, i, :i] = out[:, :i, i]
    return out


def _constant(column: np.ndarray) -> float | None:
    """The number that a column is in all rows; None if they differ."""
    if not column.size or column[0] != column[-1] or not (column == column[0]).all():
        return None
    return float(column[0])


def _links(cell: np.ndarray, count: int, Z: Sequence[np.ndarray]) -> np.ndarray:
    """Products of the columns of different factors, in the order of :func:`link_blocks`."""
    columns = [
        _summed(cell, count, left[:, a] * right[:, b])
        for i, left in enumerate(Z)
        for right in Z[i + 1 :]
        for a in range(left.shape[1])
        for b in range(right.shape[1])
    ]
    return np.stack(columns, axis=1) if columns else np.zeros((count, 0))


def _summed(place: np.ndarray, count: int, values: np.ndarray) -> np.ndarray:
    return np.bincount(place, weights=values, minlength=count)
