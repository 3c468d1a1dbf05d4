"""Single columns of every kind: labels keep their digits and their declared order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, time
from decimal import InvalidOperation
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from ..errors import DataError

# Types of pandas for columns of integers and booleans with gaps, by pyarrow's names.
_NULLABLE = {
    **{f"int{bits}": f"Int{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"UInt{bits}" for bits in (8, 16, 32, 64)},
    "bool": "boolean",
}
# How polars marks a dictionary whose order of levels nobody has declared.
_UNORDERED = b"_PL_CATEGORICAL"
# Types of pyarrow that pandas neither sorts nor groups by.
_ODD = ("list", "large_list", "fixed_size_list", "struct", "map", "string_view", "binary_view")
# Integers up to this are the same number as a float.
_EXACT = 2**53


def package(data: Any) -> str:
    """The package that an object is from."""
    return type(data).__module__.split(".")[0]


def foreign_column(values: Any) -> Any:
    """A series of polars or an array of pyarrow as an array for pandas; None: it is neither."""
    native = nw.to_native(values, pass_through=True)
    kind = package(native)
    if kind == "pyarrow" and hasattr(native, "null_count") and hasattr(native, "to_pandas"):
        return arrow_column(native)
    if kind == "polars" and hasattr(native, "to_physical") and not native.dtype.is_nested():
        return series_column(nw.from_native(native, series_only=True))
    return None


# ------------------------------------------------------------ pyarrow


def arrow_column(column: Any, marks: Mapping[bytes, bytes] | None = None) -> Any:
    """A column of pyarrow; dictionaries keep their order of levels, ``marks`` are of its field."""
    kind = str(column.type)
    if column.null_count and kind in _NULLABLE:  # pandas would make them floats
        return pd.array(column.to_pylist(), dtype=_NULLABLE[kind])
    if any(mark.startswith(_UNORDERED) for mark in marks or {}):
        return pd.Series(column.to_pylist(), dtype=object).array
    if kind.startswith("dictionary"):
        return _of_dictionary(column)
    if kind == "time64[ns]":
        return _times(column.cast("int64").to_pandas(integer_object_nulls=True))
    return column.to_pandas().array


def _of_dictionary(column: Any) -> Any:
    """A categorical; equal entries of the dictionary are one level, an empty one is missing."""
    parts = [part.dictionary for part in getattr(column, "chunks", [column])]
    if all(not part.null_count and len(part.unique()) == len(part) for part in parts):
        return column.to_pandas().array
    entries = dict.fromkeys(entry for part in parts for entry in part.to_pylist())
    entries.pop(None, None)
    labels = column.to_pylist()
    return pd.Categorical(labels, categories=list(entries), ordered=column.type.ordered)


# ------------------------------------------------------------ polars and others


def series_column(series: nw.Series[Any]) -> Any:
    """A column of any frame; integers stay integers beside gaps."""
    dtype, gaps = series.dtype, series.null_count()
    wide = dtype in (nw.Int128, nw.UInt128)
    if dtype.is_float() or (dtype.is_integer() and not gaps and not wide):
        return series.to_numpy()
    native = series.to_native()
    if dtype.is_temporal() and package(native) == "polars":
        return _of_polars_times(native, series.to_list())
    values = series.to_list()
    if dtype.is_integer():
        return integers(values)
    if dtype == nw.Boolean and gaps:
        return pd.array(values, dtype="boolean")
    out = pd.Series(values)
    if isinstance(dtype, nw.Enum):  # an order that its user has chosen
        out = out.astype(pd.CategoricalDtype(list(dtype.categories)))
    return out.array


def _of_polars_times(native: Any, values: list[Any]) -> Any:
    """Dates and times; those in nanoseconds, which Python's own objects cut, stay what they are."""
    kind = str(native.dtype)
    if kind == "Time":
        return _times(pd.Series(native.to_physical().to_list(), dtype=object))
    if getattr(native.dtype, "time_unit", "") != "ns":
        return pd.Series(values).array
    gap = np.iinfo(np.int64).min  # what NaT is
    number = native.to_physical().fill_null(gap).to_numpy()
    if kind.startswith("Duration"):
        return pd.array(number.astype("m8[ns]"))
    found = pd.DatetimeIndex(number.astype("M8[ns]"))
    zone = native.dtype.time_zone
    return (found if zone is None else found.tz_localize("UTC").tz_convert(zone)).array


def _times(nanoseconds: pd.Series[Any]) -> Any:
    """Times of day; as text where some are between microseconds, which Python's own are not."""
    number = [None if pd.isna(ns) else int(ns) for ns in nanoseconds]
    found: list[Any] = [None if ns is None else _time_of(ns // 1000) for ns in number]
    if any(ns is not None and ns % 1000 for ns in number):
        for i, ns in enumerate(number):
            if ns is not None and ns % 1000:
                found[i] = f"{_time_of(ns // 1000).isoformat('microseconds')}{ns % 1000:03d}"
            elif ns is not None:
                found[i] = str(found[i])
    return pd.Series(found, dtype=object).array


def _time_of(microseconds: int) -> time:
    seconds, microsecond = divmod(microseconds, 10**6)
    minutes, second = divmod(seconds, 60)
    return time(*divmod(minutes, 60), second, microsecond)


# ------------------------------------------------------------ lists


def whole_numbers(values: list[Any]) -> Any:
    """A list of integers that NumPy and pandas would round to floats; None: any other list.

    Integers beside gaps, beyond 64 bits with a sign, or too long for a float that is beside them.
    """
    try:
        kind = pd.api.types.infer_dtype(values, skipna=True)
    except InvalidOperation:  # a signaling NaN, which is refused where gaps are looked for
        return None
    if kind == "integer":
        return integers(values)
    if kind != "mixed-integer-float":
        return None
    long = any(isinstance(v, int | np.integer) and abs(int(v)) > _EXACT for v in values)
    return pd.Series(values, dtype=object).array if long else None


def integers(values: list[Any]) -> Any:
    """Integers and gaps in 64 bits, or as Python's own where these are too few."""
    gaps = np.fromiter((v is None or v is pd.NA or v != v for v in values), bool, len(values))
    whole = [0 if gap else int(v) for v, gap in zip(values, gaps.tolist(), strict=True)]
    low, high = min(whole, default=0), max(whole, default=0)
    for kind in (np.int64, np.uint64):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return pd.arrays.IntegerArray(np.array(whole, dtype=kind), gaps)
    return pd.Series(values, dtype=object).array


def since(values: Any, first: Any) -> np.ndarray:
    """How far numbers are from one of them, float64; of integers to the last digit."""
    kind = values.dtype.kind
    whole = pd.api.types.is_integer_dtype(values.dtype) and not np.any(pd.isna(values))
    if not whole or int(first) != first or (kind == "u" and first < 0):
        return np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan) - float(first))
    long = values.to_numpy(dtype=np.uint64 if kind == "u" else np.int64)
    apart = long.view(np.uint64) - np.uint64(int(first) % 2**64)  # modulo 2^64
    return np.where(long < int(first), -(-apart).astype(np.float64), apart.astype(np.float64))


# ------------------------------------------------------------ what pandas cannot work with


def settled(values: Any) -> Any:
    """A series or array of pandas or NumPy in a type that can be sorted and grouped by.

    Bytes in another order than this machine's are turned. Floats of 16 bits become such of 32, of
    more than 64 bits such of 64 if that tells as many numbers apart; Python's times with a zone
    pandas' own; dictionaries of Arrow categoricals; Arrow's lists, structs and views objects.
    """
    dtype = getattr(values, "dtype", None)
    if isinstance(dtype, np.dtype):
        if dtype.kind == "O" and _are_zoned(values):
            return _in_one_zone(values)
        if not _is_odd(dtype):
            return values
        if not dtype.isnative:
            return settled(values.astype(dtype.newbyteorder("=")))
        return values.astype(np.float32) if dtype.itemsize == 2 else _narrowed(values)
    if not isinstance(dtype, pd.ArrowDtype):
        return values
    kind = str(dtype.pyarrow_dtype).split("<")[0]
    if kind not in (*_ODD, "dictionary"):
        return values
    held: Any = values.array if isinstance(values, pd.Series) else values
    held = held.__arrow_array__()
    if kind == "dictionary":
        found = _of_dictionary(held)
    else:
        found = pd.Series(held.to_pylist(), dtype=object).to_numpy()
    if isinstance(values, pd.Series):
        return pd.Series(found, index=values.index, name=values.name)
    return found


def _is_odd(dtype: Any) -> bool:
    """Whether pandas has no index or no sorting of numbers of this type."""
    if not isinstance(dtype, np.dtype):
        return False
    return not dtype.isnative or (dtype.kind == "f" and dtype.itemsize not in (4, 8))


def _is_object(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and dtype.kind == "O"


def _are_zoned(values: Any) -> bool:
    """Whether objects are times with a zone, gaps aside."""
    found = False
    for value in np.ravel(values):
        if value is None or value is pd.NaT or value is pd.NA or _is_nan(value):
            continue
        if not isinstance(value, datetime) or value.tzinfo is None:
            return False
        found = True
    return found


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value


def _in_one_zone(values: Any) -> Any:
    """Times in their zone, those of several zones in UTC; as they are where pandas has no room.

    By Python's rules the hour that comes twice at the end of summer time is equal to itself within
    its zone, and to nothing in others.
    """
    for utc in (False, True):
        with suppress(ValueError, TypeError, OverflowError):  # several zones; the year 1
            found = pd.to_datetime(pd.Series(values), utc=utc, cache=False)  # goes by equality
            if isinstance(found.dtype, pd.DatetimeTZDtype):
                return found if isinstance(values, pd.Series) else found.array
    return values


def settled_columns(frame: pd.DataFrame, wanted: Callable[[Any], bool]) -> pd.DataFrame:
    """:func:`settled` of the columns in use, whose names are all different."""
    odd = {
        name: frame[name]
        for name, kind in frame.dtypes.items()
        if wanted(name) and (isinstance(kind, pd.ArrowDtype) or _is_odd(kind) or _is_object(kind))
    }
    found = {name: settled(column) for name, column in odd.items()}
    changed = {name: column for name, column in found.items() if column is not odd[name]}
    if not changed:
        return frame
    out = frame.copy(deep=False)
    for name, column in changed.items():
        out[name] = column
    return out


def check_told_apart(labels: Any, what: str) -> None:
    """Refuse labels that are numbers which float64 makes, or may have made, equal."""
    dtype = getattr(labels, "dtype", None)
    if isinstance(dtype, pd.CategoricalDtype):
        labels, dtype = dtype.categories, dtype.categories.dtype
    if not isinstance(dtype, np.dtype) or dtype.kind != "f":
        return
    if dtype.itemsize > 8:
        raise DataError(
            f"{what!r} has labels of the type {dtype} that float64 does not tell apart: make them "
            "text, .astype(str)"
        )
    values = np.abs(np.asarray(labels))
    if (values[np.isfinite(values)] >= _EXACT).any():
        raise DataError(
            f"{what!r} has labels above 2^53 as floats, which integers become beside a gap and "
            "where some of them are one number: read the column as Int64 or as text"
        )


def _narrowed(values: Any) -> Any:
    """Long floats in 64 bits, unless this makes numbers equal that are not."""
    narrow = values.astype(np.float64)
    count = np.unique(np.asarray(values)).size
    return narrow if np.unique(np.asarray(narrow)).size == count else values
