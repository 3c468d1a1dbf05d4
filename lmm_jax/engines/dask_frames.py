"""Data frames of Dask: a task a partition, and a tree of additions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

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
        chosen = self.data[list(names)]
        types = {n: pd.CategoricalDtype(self._labels(n)) for n in _unknown_categories(chosen)}
        for i in range(self.data.npartitions):
            yield chosen.get_partition(i).compute().astype(types)

    def distinct(self, name: str) -> Any:
        """See :class:`Source`."""
        return _plain(self.data[name].drop_duplicates().compute())

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


def _unknown_categories(frame: Any) -> list[str]:
    """Columns of which every partition has categories of its own."""
    categorical = [n for n, t in frame.dtypes.items() if isinstance(t, pd.CategoricalDtype)]
    return [name for name in categorical if not frame[name].cat.known]


def _plain(labels: Any) -> Any:
    """Labels by themselves, without the order of categories."""
    if isinstance(labels.dtype, pd.CategoricalDtype):
        return labels.astype(labels.cat.categories.dtype)
    return labels
