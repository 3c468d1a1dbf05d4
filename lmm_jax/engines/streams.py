"""Rows that are read batch by batch in this process: Parquet, pyarrow, polars, DuckDB."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

from ..designs.from_batches import frames_of, sum_stream
from ..designs.row_sums import RowSums
from ..designs.schema import Schema
from ..inputs.parquet import parquet_dataset, same_types
from .push_down import Database, pushed_down
from .source import Source, in_words


@dataclass(frozen=True)
class Stream(Source):
    """Anything that gives frames one after the other, as often as it is asked."""

    data: Any
    batch_size: int

    def heads(self, names: Sequence[str]) -> Iterator[Any]:
        """See :class:`Source`."""
        return self._frames(names)

    def _frames(self, names: Sequence[str]) -> Iterator[Any]:
        with in_words(type(self.data).__name__):
            yield from frames_of(self.data, names, self.batch_size)

    def sums(self, schema: Schema) -> RowSums:
        """See :class:`Source`."""
        stream, columns = self._frames(self.used(schema.columns)), schema.columns
        found = sum_stream(stream, columns, schema.context, schema.missing, schema.formula, schema)
        assert found is not None  # there is a schema
        return found


@dataclass(frozen=True)
class LazyFrame(Stream):
    """A lazy frame of polars."""

    def columns(self) -> Sequence[str]:
        """See :class:`Source`."""
        return list(self.data.collect_schema().names())

    def distinct(self, name: str) -> Any:
        """See :class:`Source`."""
        with in_words("LazyFrame"):
            return self.data.select(name).unique().collect()


@dataclass(frozen=True)
class Dataset(Stream):
    """A dataset of pyarrow."""

    def columns(self) -> Sequence[str]:
        """See :class:`Source`."""
        return list(self.data.schema.names)

    def distinct(self, name: str) -> Any:
        """See :class:`Source`."""
        batches = self._frames([name])
        labels = {label for batch in batches for label in batch.column(0).unique().to_pylist()}
        return list(labels)


@dataclass(frozen=True)
class ParquetFiles(Stream):
    """Parquet files by name or pattern; DuckDB adds them up where it is installed."""

    @cached_property
    def _dataset(self) -> Dataset:
        return Dataset(parquet_dataset(self.data), self.batch_size)

    def columns(self) -> Sequence[str]:
        """See :class:`Source`."""
        return self._dataset.columns()

    def heads(self, names: Sequence[str]) -> Iterator[Any]:
        """See :class:`Source`."""
        same_types(self._dataset.data, names)
        return self._dataset.heads(names)

    def distinct(self, name: str) -> Any:
        """See :class:`Source`."""
        return self._dataset.distinct(name)

    def sums(self, schema: Schema) -> RowSums:
        """See :class:`Source`."""
        files = self._dataset.data.files
        # DuckDB gives all rows the types of the first file
        alike = same_types(self._dataset.data, self.used(schema.columns))
        if alike and find_spec("duckdb") is not None and all(map(os.path.isfile, files)):
            import duckdb

            with duckdb.connect() as connection:
                found = pushed_down(schema, database(connection.read_parquet(files)))
            if found is not None:
                return found
        return self._dataset.sums(schema)


@dataclass(frozen=True)
class Relation(Stream):
    """A relation of DuckDB."""

    def columns(self) -> Sequence[str]:
        """See :class:`Source`."""
        return list(self.data.columns)

    def distinct(self, name: str) -> Any:
        """See :class:`Source`."""
        with in_words("DuckDB"):
            return self.data.project(_quoted(name)).distinct().to_arrow_table()

    def sums(self, schema: Schema) -> RowSums:
        """See :class:`Source`."""
        found = pushed_down(schema, database(self.data))
        return super().sums(schema) if found is None else found


def database(relation: Any) -> Database:
    """DuckDB, to be asked about the rows of a relation."""

    def answer(query: str) -> Any:
        with in_words("DuckDB"):
            return relation.query("lmm_rows", query).to_arrow_table()

    types = {n: str(t) for n, t in zip(relation.columns, relation.types, strict=True)}
    return Database(rows="lmm_rows", quoted=_quoted, types=types, answer=answer)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
