"""DataFrames of Spark: one GROUP BY where that does, else a task a partition and additions."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..designs.row_sums import RowSums
from ..designs.schema import Schema
from .push_down import Database, pushed_down
from .source import BATCH, FAN_IN, HEAD, Source, Work, added_pickles, of_workers, owned

_PACKED = "part int, sums binary"


@dataclass(frozen=True)
class SparkFrame(Source):
    """A DataFrame of Spark, classic or Connect."""

    data: Any

    def columns(self) -> Sequence[str]:
        """See :class:`Source`."""
        return list(self.data.columns)

    def heads(self, names: Sequence[str]) -> Iterator[Any]:
        """See :class:`Source`."""
        chosen = self._select(names)
        yield _fetched(chosen.limit(HEAD))
        yield _fetched(chosen.na.drop().limit(HEAD))

    def distinct(self, name: str) -> Any:
        """See :class:`Source`."""
        return _fetched(self._select([name]).distinct())

    def sums(self, schema: Schema) -> RowSums:
        """See :class:`Source`."""
        found = pushed_down(schema, self._database())
        return self.by_partition(schema) if found is None else found

    def by_partition(self, schema: Schema) -> RowSums:
        """Sums of each partition, of which a few tasks add up a share each.

        A share is chosen by the number of the partition, which is the same when a task is
        repeated.
        """
        rows = self._select(self.used(schema.columns))
        parts = rows.mapInArrow(_Summing(Work.of(schema)), _PACKED)
        shares = parts.repartition(FAN_IN, "part").mapInArrow(_add_share, _PACKED)
        with of_workers():
            return owned(added_pickles(row["sums"] for row in shares.collect()), schema)

    def _database(self) -> Database:
        return Database(
            rows="{lmm_rows}",
            # braces are what Spark fills in
            quoted=lambda name: _quoted(name).replace("{", "{{").replace("}", "}}"),
            types=dict(self.data.dtypes),
            answer=lambda query: _fetched(self.data.sparkSession.sql(query, lmm_rows=self.data)),
        )

    def _select(self, names: Iterable[str]) -> Any:
        return self.data.select(*map(_quoted, names))


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


@dataclass(frozen=True)
class _Summing:
    """The task of a partition."""

    work: Work

    def __call__(self, batches: Iterator[Any]) -> Iterator[Any]:
        from pyspark import TaskContext

        context = TaskContext.get()
        assert context is not None  # this is a task
        yield _packed(context.partitionId(), self.work.packed(_larger(batches)))


def _add_share(batches: Iterator[Any]) -> Iterator[Any]:
    found = added_pickles(sums for batch in batches for sums in batch.column("sums").to_pylist())
    if found is not None:
        yield _packed(0, pickle.dumps(found))


def _packed(part: int, sums: bytes) -> Any:
    import pyarrow as pa

    return pa.record_batch(
        {"part": pa.array([part], pa.int32()), "sums": pa.array([sums], pa.binary())}
    )


def _larger(batches: Iterable[Any]) -> Iterator[Any]:
    """Tables of several batches: Spark hands over 10,000 rows at a time."""
    import pyarrow as pa

    held: list[Any] = []
    for batch in batches:
        held.append(batch)
        if sum(part.num_rows for part in held) >= BATCH:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


def _fetched(frame: Any) -> Any:
    """Rows of a DataFrame of Spark in this process; tables of arrow came with Spark 4."""
    return frame.toArrow() if hasattr(frame, "toArrow") else frame.toPandas()
