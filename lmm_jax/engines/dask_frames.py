"""Data frames of Dask: a task a partition, and a tree of additions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..designs.row_sums import RowSums
from ..designs.schema import Schema
from ..designs.sum_arrays import total
from .source import FAN_IN, Source, Work, of_workers, owned


@dataclass(frozen=True)
class DaskFrame(Source):
    """A data frame of Dask, on whatever scheduler is in use."""

    data: Any

    def columns(self) -> Sequence[str]:
        """See :class:`Source`."""
        return list(self.data.columns)

    def heads(self, names: Sequence[str]) -> Iterator[Any]:
        """See :class:`Source`."""
        for i in range(self.data.npartitions):
            yield self.data[list(names)].get_partition(i).compute()

    def distinct(self, name: str) -> Any:
        """See :class:`Source`."""
        return self.data[name].drop_duplicates().compute()

    def sums(self, schema: Schema) -> RowSums:
        """See :class:`Source`."""
        from dask import delayed

        work = delayed(Work.of(schema))
        frames = self.data[self.used(schema.columns)].to_delayed()
        parts = [work.sums([frame]) for frame in frames]
        while len(parts) > 1:
            parts = [delayed(total)(parts[i : i + FAN_IN]) for i in range(0, len(parts), FAN_IN)]
        with of_workers():
            return owned(parts[0].compute() if parts else None, schema)
