"""What is asked of an engine that holds rows, and the work that it is given."""

from __future__ import annotations

import pickle
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from ..designs.batch_reader import complete, label_order
from ..designs.data_frames import as_pandas
from ..designs.from_batches import sum_stream
from ..designs.make_schema import schema_of
from ..designs.row_sums import RowSums, no_sums
from ..designs.schema import Columns, Schema, factor_columns, factor_kind
from ..designs.sum_arrays import total
from ..errors import DataError, FormulaError, RankWarning
from ..inputs.frames import read_frame

# Rows that are looked at for the types, origins and units of columns.
HEAD = 4096
# Rows of a frame that is summed up at once, and sums that are added in one task.
BATCH, FAN_IN = 1 << 18, 8


# An error of this package in a traceback, to the next line of the traceback.
_OURS = re.compile(r"^\s*lmm_jax[\w.]*\.(?:Data|Formula)Error: (.+)$", re.MULTILINE)


class Source(ABC):
    """Rows that an engine holds; they can be read more than once."""

    @abstractmethod
    def columns(self) -> Sequence[str]:
        """Names of the columns."""

    @abstractmethod
    def heads(self, names: Sequence[str]) -> Iterator[Any]:
        """Frames of some of the rows, from the first rows on."""

    @abstractmethod
    def distinct(self, name: str) -> Any:
        """A frame whose one column has every label of a column, or an array of them."""

    @abstractmethod
    def sums(self, schema: Schema) -> RowSums:
        """Sums over all rows."""

    def used(self, schema_columns: Columns) -> list[str]:
        """Columns in use that the source has; the first one where it has none of them."""
        there = list(self.columns())
        return [name for name in schema_columns.names if name in there] or there[:1]

    def fitting_schema(
        self,
        columns: Columns,
        context: Mapping[str, Any],
        missing: str,
        formula: str,
        levels: Mapping[str, pd.Index[Any]],
    ) -> Schema:
        """A schema by the first rows, and by all labels of predictors without levels."""
        rows = self._some_rows(columns, missing)
        with warnings.catch_warnings():  # levels are not complete yet
            warnings.simplefilter("ignore", RankWarning)
            first = schema_of(rows, columns, context, missing, formula, levels, whole="refuse")
        found = {name: self._labels(name) for name in _open_categories(first)}
        if not found:
            return first
        return schema_of(
            rows, columns, context, missing, formula, {**found, **levels}, whole="refuse"
        )

    def fitting_sums(
        self, columns: Columns, context: Mapping[str, Any], missing: str, formula: str
    ) -> RowSums:
        """Sums by a schema that fits the rows: levels are those of complete rows."""
        schema = self.fitting_schema(columns, context, missing, formula, {})
        sums = self.sums(schema)
        levels = sums.occurring()
        if sums.n_rows == 0 or not levels:
            return sums
        return self.sums(self.fitting_schema(columns, context, missing, formula, levels))

    def _some_rows(self, columns: Columns, missing: str) -> pd.DataFrame:
        """Complete rows near the first ones."""
        for head in self.heads(self.used(columns)):
            rows, *_ = complete(as_pandas(head, columns.expressions), columns, missing)
            if len(rows):
                return rows
        raise DataError("the data has no complete row")

    def _labels(self, name: str) -> pd.Index[Any]:
        found = self.distinct(name)
        if not isinstance(found, pd.Series):
            frame = read_frame(found, lambda _: True)
            found = pd.Series(found) if frame is None else frame.iloc[:, 0]
        labels = pd.Index(found.dropna().unique(), tupleize_cols=False)
        return labels[label_order(labels)]


def _open_categories(schema: Schema) -> list[str]:
    """Columns that only categories are made of, and whose labels nobody has declared."""
    labels: dict[str, None] = {}
    numbers: set[str] = set()
    for spec in schema.specs.values():
        for factor in (factor for term in spec.formula for factor in term.factors):
            names = factor_columns(factor)
            if factor_kind(spec, factor) == "categorical":
                labels.update(dict.fromkeys(names))
            else:
                numbers.update(names)
    known = schema.declared.keys() | numbers
    return [name for name in labels if name in schema.columns.names and name not in known]


@dataclass(frozen=True)
class Work:
    """What a worker does with rows: plain functions of plain data, so that any may be repeated.

    The context travels beside the schema: engines send functions of a script by value.
    """

    schema: Schema
    context: Mapping[str, Any]

    @classmethod
    def of(cls, schema: Schema) -> Work:
        """By a schema."""
        return cls(replace(schema, context={}), schema.context)

    def sums(self, frames: Iterable[Any]) -> RowSums:
        """Sums over the rows of frames."""
        schema = replace(self.schema, context=self.context)
        found = sum_stream(
            frames, schema.columns, self.context, schema.missing, schema.formula, schema
        )
        assert found is not None  # there is a schema
        return replace(found, schema=self.schema)

    def packed(self, frames: Iterable[Any]) -> bytes:
        """A pickle of :meth:`sums`."""
        return pickle.dumps(self.sums(frames))


@contextmanager
def in_words(engine: str) -> Iterator[None]:
    """Around what an engine is asked: its errors name it, ours come through whatever carried them.

    Raises
    ------
    DataError
    """
    try:
        yield
    except (DataError, FormulaError, ImportError, MemoryError):
        raise
    except Exception as error:  # whatever an engine and its query raise
        said = str(error).strip() or type(error).__name__
        raise DataError(our_words(said) or f"{engine} cannot read the rows: {said}") from error


@contextmanager
def of_workers() -> Iterator[None]:
    """Around work elsewhere: an error of ours is raised here, others are the engine's.

    Raises
    ------
    DataError
    """
    try:
        yield
    except (DataError, FormulaError):
        raise
    except Exception as error:  # which carries the text of a traceback
        found = our_words(str(error))
        if found is None:
            raise
        raise DataError(found) from error


def our_words(text: str) -> str | None:
    """The message of an error of this package in the text of a traceback."""
    found = _OURS.findall(text)
    return found[-1].strip() if found else None


def added_pickles(parts: Iterable[bytes]) -> RowSums | None:
    """Sums over the rows of all parts, from their pickles; None of none."""
    return total(map(pickle.loads, parts))


def owned(found: RowSums | None, schema: Schema) -> RowSums:
    """Sums that workers made, with the schema of the caller."""
    return no_sums(schema, 0, {}) if found is None else replace(found, schema=schema)
