"""Datasets of Ray: a task a block, tasks that add a few sums each, and the rest here."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..designs.row_sums import RowSums
from ..designs.schema import Schema
from .source import FAN_IN, HEAD, Source, Work, added_pickles, of_workers, owned


@dataclass(frozen=True)
class RayDataset(Source):
    """A dataset of Ray."""

    data: Any

    def columns(self) -> Sequence[str]:
        """See :class:`Source`."""
        return list(self.data.columns())

    def heads(self, names: Sequence[str]) -> Iterator[Any]:
        """See :class:`Source`."""
        chosen = self.data.select_columns(list(names))
        return iter(chosen.iter_batches(batch_size=HEAD, batch_format="pyarrow"))

    def distinct(self, name: str) -> Any:
        """See :class:`Source`."""
        return self.data.unique(name)

    def sums(self, schema: Schema) -> RowSums:
        """See :class:`Source`."""
        rows = self.data.select_columns(self.used(schema.columns))
        parts = rows.map_batches(_summing(Work.of(schema)), batch_size=None, batch_format="pyarrow")
        shares = parts.map_batches(_add_share, batch_size=FAN_IN, batch_format="pyarrow")
        with of_workers():
            return owned(added_pickles(row["sums"] for row in shares.iter_rows()), schema)


def _summing(work: Work) -> Any:
    """The task of a block."""

    def task(rows: Any) -> Any:
        return _packed(work.packed([rows]))

    return task


def _add_share(parts: Any) -> Any:
    return _packed(pickle.dumps(added_pickles(parts.column("sums").to_pylist())))


def _packed(sums: bytes) -> Any:
    import pyarrow as pa

    return pa.table({"sums": pa.array([sums], pa.large_binary())})
