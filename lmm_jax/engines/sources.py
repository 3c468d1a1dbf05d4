"""Which engine holds the rows that a caller has passed: known by type, nothing is imported."""

from __future__ import annotations

from os import PathLike
from typing import Any

import narwhals as nw

from ..inputs.parquet import is_pattern
from ..inputs.series import package
from .dask_frames import DaskFrame
from .ray_datasets import RayDataset
from .source import BATCH, Source
from .spark_frames import SparkFrame
from .streams import Dataset, LazyFrame, ParquetFiles, Relation


def source_of(data: Any, batch_size: int) -> Source | None:
    """Rows that are not in memory, whatever holds them; None: this is no such thing."""
    found = summed_source(data, batch_size)
    if found is not None:
        return found
    if isinstance(data, str | PathLike):
        return ParquetFiles(data, batch_size)
    native = nw.to_native(data, pass_through=True)
    name, kind = package(native).strip("_"), type(native).__name__
    if name == "polars" and kind == "LazyFrame":
        return LazyFrame(native, batch_size)
    if name == "duckdb" and kind == "DuckDBPyRelation":
        return Relation(native, batch_size)
    return None


def summed_source(data: Any, batch_size: int = BATCH) -> Source | None:
    """Rows of which a fit takes sums alone: they may be more than memory has room for."""
    if is_pattern(data):
        return ParquetFiles(data, batch_size)
    native = nw.to_native(data, pass_through=True)
    name = package(native)
    if name == "pyarrow" and hasattr(native, "to_batches") and hasattr(native, "scanner"):
        return Dataset(native, batch_size)
    if name in ("dask", "dask_expr") and hasattr(native, "to_delayed"):
        return DaskFrame(native)
    if name == "pyspark" and hasattr(native, "mapInArrow"):
        return SparkFrame(native)
    if name == "ray" and hasattr(native, "map_batches"):
        return RayDataset(native)
    return None
