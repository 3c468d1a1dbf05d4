"""The one way out of pandas: a table as the kind of frame that a user works with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd

from ..inputs.arguments import choice
from ..inputs.frames import OUTPUTS
from ..inputs.names import unique

# What pandas calls columns of objects that other packages hold as they are.
_HELD = {"string", "empty", "boolean", "integer", "floating", "date", "datetime", "datetime64"}

# The largest integers of 64 bits.
_SIGNED, _UNSIGNED = 2**63 - 1, 2**64 - 1


def as_frame(table: pd.DataFrame, output: Any, own: str, labels: str | None = None) -> Any:
    """A table as the kind of frame that is asked for.

    Parameters
    ----------
    table : DataFrame
    output : {"pandas", "polars", "pyarrow"} or None
        None: ``own``.
    own : str
        Kind of the data that the table says something of.
    labels : str, optional
        Name of the column that the labels of the rows become in a frame without an index. Not
        given: they are mere numbers and are left out.

    Returns
    -------
    pandas.DataFrame, polars.DataFrame or pyarrow.Table
        Outside pandas what is missing, NaN too, is null, and labels of several types are text.

    Raises
    ------
    DataError
        Another ``output``.
    ImportError
        The package is not installed.
    """
    kind = _kind(output, own)
    if kind == "pandas":
        return table
    columns = [table[name] for name in table.columns]
    names = [str(name) for name in table.columns]
    if labels is not None:
        index = table.index
        parts = [index.get_level_values(i).to_series() for i in range(index.nlevels)]
        columns = [*parts, *columns]
        names = [*_label_names(index, labels), *names]
    values = [_values(column) for column in columns]
    return _MAKERS[kind](_module(kind), dict(zip(unique(names), values, strict=True)))


def as_column(values: pd.Series[Any], output: Any, own: str) -> Any:
    """One column as :func:`as_frame` gives a table: a Series of polars, an Array of pyarrow."""
    kind = _kind(output, own)
    if kind == "pandas":
        return values
    return _COLUMNS[kind](_module(kind), str(values.name), _values(values))


def _kind(output: Any, own: str) -> str:
    return own if output is None else choice(output, "output", OUTPUTS)


def _module(kind: str) -> Any:
    try:
        return import_module(kind)
    except ImportError as error:
        raise ImportError(
            f"{kind} is not installed, and the table is to be one of it: pass output='pandas'"
        ) from error


def _label_names(index: pd.Index[Any], labels: str) -> Sequence[str]:
    """Names of the columns that labels of rows become."""
    if index.nlevels == 1:
        return [labels if index.name is None else str(index.name)]
    return [f"{labels}{i + 1}" if name is None else str(name) for i, name in enumerate(index.names)]


def _values(column: pd.Series[Any]) -> np.ndarray | list[Any]:
    """Numbers as an array; anything else as a list, None where missing."""
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "fiub":
        return column.to_numpy()
    values: list[Any] = [None if gap else v for v, gap in zip(column, column.isna(), strict=True)]
    kind = pd.api.types.infer_dtype(values, skipna=True)
    if kind in _HELD and not (kind == "integer" and _is_too_wide(values)):
        return values
    return [None if value is None else str(value) for value in values]


def _is_too_wide(values: list[Any]) -> bool:
    """Whether no type of 64 bits holds all of some integers."""
    known = [v for v in values if v is not None]
    return max(known) > (_UNSIGNED if min(known) >= 0 else _SIGNED) or min(known) < -_SIGNED - 1


def _is_unsigned(values: Any) -> bool:
    """Whether a list has integers that only an unsigned type holds."""
    return isinstance(values, list) and any(isinstance(v, int) and v > _SIGNED for v in values)


def _is_empty(values: Any) -> bool:
    """Whether there is nothing that would tell the type of a column of labels."""
    return isinstance(values, list) and all(value is None for value in values)


def _polars_series(pl: Any, name: str, values: Any) -> Any:
    if isinstance(values, list):
        kind = pl.String if _is_empty(values) else pl.UInt64 if _is_unsigned(values) else None
        return pl.Series(name, values, dtype=kind)
    return pl.Series(name, values, nan_to_null=True)


def _arrow_array(pa: Any, name: str, values: Any) -> Any:
    del name  # an array has none
    kind = pa.string() if _is_empty(values) else pa.uint64() if _is_unsigned(values) else None
    return pa.array(values, type=kind, from_pandas=True)


def _polars_frame(pl: Any, columns: dict[str, Any]) -> Any:
    return pl.DataFrame([_polars_series(pl, name, values) for name, values in columns.items()])


def _arrow_table(pa: Any, columns: dict[str, Any]) -> Any:
    return pa.table({name: _arrow_array(pa, name, values) for name, values in columns.items()})


_COLUMNS: dict[str, Callable[[Any, str, Any], Any]] = {
    "polars": _polars_series,
    "pyarrow": _arrow_array,
}
_MAKERS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "polars": _polars_frame,
    "pyarrow": _arrow_table,
}
