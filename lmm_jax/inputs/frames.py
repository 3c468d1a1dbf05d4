"""Data frames of every kind: what is read of them, as columns for pandas.

Nothing is imported for a kind of frame that nobody has passed: a frame is known by its type, and
what narwhals reads is read by narwhals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from ..errors import DataError
from .series import arrow_column, package, series_column

# Kinds of frames that tables come in.
OUTPUTS = ("pandas", "polars", "pyarrow")


def read_frame(data: Any, wanted: Callable[[Any], bool]) -> pd.DataFrame | None:
    """A frame that is not one of pandas, as one: columns in use, rows numbered.

    Of a lazy frame and of a relation of a database only these columns are computed; one of them,
    the first, where none is in use, for the number of rows.

    Parameters
    ----------
    data : frame
        Of pyarrow, or of any kind that narwhals reads, or one of narwhals.
    wanted : callable
        Whether a column is in use, by its name.

    Returns
    -------
    DataFrame, or None
        None: this is no frame. A frame like pandas' (modin's, cuDF's) keeps its index.

    Raises
    ------
    DataError
        A lazy frame that cannot be computed; two columns in use of one name.
    ImportError
        A package that its columns come through, pyarrow for DuckDB, is not installed.
    """
    if isinstance(data, np.ndarray):  # a third of what is read from arrays is to find that out
        return None
    native = nw.to_native(data, pass_through=True)
    if not _is_arrow(native):  # which may have several columns of one name; narwhals raises
        native = _collected(native, wanted)
    if isinstance(native, pd.DataFrame):
        return native
    if _is_arrow(native):
        return _arrow_columns(native, wanted)
    frame = nw.from_native(native, eager_only=True, pass_through=True)
    if not isinstance(frame, nw.DataFrame):
        return None
    used = [name for name in frame.columns if wanted(name)]
    if frame.implementation.is_pandas_like() and used:
        return frame.select(used).to_pandas()
    columns = {name: series_column(frame[name]) for name in used}
    return pd.DataFrame(columns, index=pd.RangeIndex(len(frame)))


def in_memory(data: Any) -> bool:
    """Whether this is a frame whose rows are in memory, of any kind but a mapping of columns."""
    native = nw.to_native(data, pass_through=True)
    if _is_arrow(native):
        return True
    return isinstance(nw.from_native(native, eager_only=True, pass_through=True), nw.DataFrame)


def streamed(data: Any, wanted: Callable[[Any], bool], batch_size: int) -> Iterator[Any] | None:
    """Frames of a source that holds its rows elsewhere, one after the other; None: this is none.

    Datasets of pyarrow, lazy frames of polars and relations of DuckDB: only the columns in use are
    computed, and no more than a few batches are held.
    """
    native = nw.to_native(data, pass_through=True)
    kind = type(native).__name__
    if package(native) == "pyarrow" and hasattr(native, "to_batches"):
        used = [name for name in native.schema.names if wanted(name)]
        return iter(native.to_batches(columns=used, batch_size=batch_size))
    if package(native) == "polars" and kind == "LazyFrame":
        used = [name for name in native.collect_schema().names() if wanted(name)]
        return iter(native.select(used).collect_batches(chunk_size=batch_size))
    if package(native).strip("_") == "duckdb" and kind == "DuckDBPyRelation":
        quoted = ['"' + name.replace('"', '""') + '"' for name in native.columns if wanted(name)]
        chosen = native.project(", ".join(quoted))
        if hasattr(chosen, "to_arrow_reader"):
            return iter(chosen.to_arrow_reader(batch_size))
        return iter(chosen.fetch_record_batch(batch_size))  # before DuckDB 1.4
    return None


def _is_arrow(native: Any) -> bool:
    """Whether this is a table or a record batch of pyarrow."""
    return package(native) == "pyarrow" and hasattr(native, "num_rows")


def kind_of(data: Any) -> str:
    """The kind of frame that tables about some data come in: theirs, or pandas'."""
    kind = package(nw.to_native(data, pass_through=True))
    return kind if kind in OUTPUTS else "pandas"


def _collected(native: Any, wanted: Callable[[Any], bool]) -> Any:
    """What a lazy frame computes of the columns in use; anything else as it is."""
    frame = nw.from_native(native, pass_through=True)
    if not isinstance(frame, nw.LazyFrame):
        return native
    try:
        names = frame.collect_schema().names()
        used = [name for name in names if wanted(name)] or names[:1]
        return frame.select(used).collect().to_native()
    except ImportError as error:  # of a package that carries the columns over
        raise ImportError(
            f"{error}: frames of {package(native).strip('_')} need it, pip install "
            f"{error.name or 'pyarrow'}"
        ) from error
    except Exception as error:  # whatever the engine and its query raise
        raise DataError(
            f"the {type(native).__name__} of {package(native).strip('_')} cannot be computed: "
            f"{str(error).strip() or type(error).__name__}"
        ) from error


def _arrow_columns(table: Any, wanted: Callable[[Any], bool]) -> pd.DataFrame:
    """Columns of a pyarrow table or record batch; dictionaries keep their order of levels."""
    columns: dict[str, Any] = {}
    for at, name in enumerate(table.schema.names):
        if not wanted(name):
            continue
        if name in columns:
            raise DataError(f"the data has several columns named `{name}`: rename them")
        columns[name] = arrow_column(table.column(at), table.schema.field(at).metadata)
    return pd.DataFrame(columns, index=pd.RangeIndex(table.num_rows))
