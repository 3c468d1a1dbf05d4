"""Columns of data frames as formulas read them: numbers in float64, logicals, labels."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from datetime import date, timedelta
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from ..errors import DataError
from ..inputs.digits import check_digits
from .text import is_text, needs_numbers

_NUMBERS = {"integer", "floating", "mixed-integer-float", "decimal"}
# Objects that are dates or spans of time, by what pandas makes columns of them.
_TIMES: dict[str, Any] = {
    **dict.fromkeys(("date", "datetime", "datetime64"), pd.to_datetime),
    **dict.fromkeys(("timedelta", "timedelta64"), pd.to_timedelta),
}
_COMPARISONS = {
    "Eq": operator.eq, "NotEq": operator.ne, "Lt": operator.lt,
    "LtE": operator.le, "Gt": operator.gt, "GtE": operator.ge,
}  # fmt: skip
_EXACT = 2**53  # the largest range of integers that float64 holds


def plain(values: pd.Series[Any], name: str) -> pd.Series[Any]:
    """A column in a type of NumPy's, a categorical, a date, or text; numbers stay what they are.

    A column of dtype object is read by what it holds: all numbers, all logicals, all text.

    Raises
    ------
    DataError
        For a column of numbers and text.
    """
    dtype = values.dtype
    if isinstance(dtype, np.dtype):
        return _of_objects(values, name) if dtype.kind == "O" else values
    if isinstance(dtype, pd.CategoricalDtype | pd.StringDtype):
        return values
    if isinstance(dtype, pd.ArrowDtype) and not is_numeric_dtype(dtype):
        return _of_objects(values.astype(object), name)
    if isinstance(dtype, pd.SparseDtype):
        return plain(pd.Series(np.asarray(values), index=values.index), name)
    if is_bool_dtype(dtype):
        return values.astype(object if values.isna().any() else bool)
    if is_numeric_dtype(dtype):
        whole = pd.api.types.is_integer_dtype(dtype) and not values.isna().any()
        kind = np.dtype(str(dtype).split("[")[0].lower()) if whole else np.dtype(np.float64)
        found = values.to_numpy(kind, na_value=np.nan)
        return pd.Series(found, index=values.index, name=values.name)
    return values


def _of_objects(values: pd.Series[Any], name: str) -> pd.Series[Any]:
    kind = pd.api.types.infer_dtype(values, skipna=True)
    if kind in _NUMBERS:
        found = values.infer_objects() if kind == "integer" else values
        if found.dtype != object:
            return found
        return values if _are_long(values) else _floats(values, name)
    if kind == "boolean" and not values.isna().any():
        return values.astype(bool)
    if kind in _TIMES:
        with suppress(ValueError, TypeError, OverflowError):  # several time zones, the year 1
            times: pd.Series[Any] = _TIMES[kind](values)
            return times
    if kind.startswith("mixed"):
        found = values.dropna()
        if all(isinstance(v, Real | Decimal) and not isinstance(v, bool) for v in found):
            return _floats(values, name)
        kinds = list(dict.fromkeys(type(v).__name__ for v in values.dropna()))
        if all(pd.api.types.is_list_like(v) for v in found):
            raise DataError(
                f"`{name}` holds values of the type {', '.join(kinds[:4])}, several in a row: make "
                "columns of one number or label a row"
            )
        raise DataError(
            f"`{name}` holds values of the types {', '.join(kinds[:4])}: make them all numbers, "
            "pd.to_numeric(…, errors='coerce'), or all text, .astype(str)"
        )
    return values


def _are_long(values: pd.Series[Any]) -> bool:
    """Whether objects are numbers some of which may have more digits than floats: as labels all."""
    if len(values) and isinstance(values.iloc[0], str):
        return False  # without a look at all
    held = values.to_numpy()[values.notna().to_numpy()]
    if not held.size or not isinstance(held[0], int | float | np.number | Decimal):
        return False
    return bool(np.any(np.abs(held) > _EXACT))


def _floats(values: pd.Series[Any], name: str) -> pd.Series[Any]:
    """Objects that are numbers, of several types such as decimals and fractions, in float64."""
    try:
        found = [np.nan if gap else float(v) for v, gap in zip(values, values.isna(), strict=True)]
    except OverflowError as error:
        raise DataError(
            f"`{name}` has numbers beyond 1e308, which floats have no room for: give it in "
            "another unit"
        ) from error
    except (ArithmeticError, ValueError) as error:
        raise DataError(f"`{name}` holds a number that float64 does not have: {error}") from error
    return pd.Series(found, index=values.index)


def is_logical(values: Any) -> bool:
    """Whether values are TRUE and FALSE."""
    return _holds(values) == "logicals"


def place(values: Any, at: Any) -> Any:
    """R's `values[2]`, whose positions count from 1; a logical for every row chooses rows."""
    inner = getattr(values, "__wrapped__", values)
    if getattr(getattr(at, "dtype", None), "kind", "") == "b":
        return inner[at]
    wanted = np.asarray(at)
    if wanted.dtype.kind not in "iuf" or (wanted != np.trunc(wanted)).any() or (wanted < 1).any():
        raise DataError(
            f"[{at!r:.40}]: places in brackets count from 1, as in R: `x[1]` is the first value"
        )
    found = pd.Series(inner).to_numpy()
    if (wanted > len(found)).any():
        raise DataError(f"[{at!r:.40}]: there are {len(found)} values")
    return found[wanted.astype(np.int64) - 1]


def number(values: Any) -> Any:
    """Numbers in float64; float64 itself, logicals and labels as they are."""
    if not isinstance(values, pd.Series | np.ndarray | np.generic | pd.Index):
        return values
    dtype = values.dtype
    if dtype == np.float64 or isinstance(dtype, pd.CategoricalDtype):
        return values
    if isinstance(dtype, np.dtype):
        if dtype.kind in "iuf":
            check_digits(values, f"`{getattr(values, 'name', None) or 'a column'}`")
            return values.astype(np.float64)
        if dtype.kind != "O":
            return values
    if isinstance(values, pd.Series):
        name = str(values.name)
        read = plain(values, name)
        if read.dtype.kind == "O" and _are_long(read):
            if pd.api.types.infer_dtype(read, skipna=True) == "integer":
                check_digits(read, f"`{name}`")
            return _floats(read, name)
        return read if read is values else number(read)
    if isinstance(values, np.ndarray) and dtype.kind == "O" and values.ndim == 1:
        return number(plain(pd.Series(values), "an array").to_numpy())
    return values


def real(values: Any) -> Any:
    """The same with 0 and 1 for logicals, since in R TRUE + TRUE is 2."""
    values = number(values)
    logicals = getattr(getattr(values, "dtype", None), "kind", "") == "b"
    return values.astype(np.float64) if logicals else values


def operand(values: Any) -> Any:
    """An operand of arithmetic, which is that of doubles for single numbers as well."""
    if isinstance(values, list | tuple):  # c(1, 2, 3) / 4
        return np.asarray(values, dtype=np.float64)
    if isinstance(values, bool | int):
        return float(values)
    found = real(values)
    if isinstance(found, pd.Series) and is_text(found):  # `+` would join it
        raise DataError(needs_numbers(found, f"`{found.name}`"))
    return found


def exact(values: Any) -> Any:
    """The same for labels, which must not lose digits."""
    return real(_exact(values))


def exact_number(values: Any) -> Any:
    """Labels that must not lose digits; logicals stay what they are."""
    return number(_exact(values))


def _exact(values: Any) -> Any:
    dtype = getattr(values, "dtype", None)
    wide = isinstance(dtype, np.dtype) and dtype.kind in "iu" and dtype.itemsize == 8
    long = wide and values.size and max(int(values.max()), -int(values.min())) > _EXACT
    if isinstance(values, pd.Series) and getattr(dtype, "kind", "") == "O":
        long = _are_long(values)
    if long:
        raise DataError(
            f"`{getattr(values, 'name', None) or 'a column'}` has integers above 2^53, which "
            "arithmetic would round: use the column itself as labels, or make the labels first"
        )
    return values


def label(values: Any) -> Any:
    """Labels that were computed: whole numbers are 1, 2, not 1.0, 2.0."""
    dtype = getattr(values, "dtype", None)
    if dtype != np.float64 or getattr(values, "ndim", 0) != 1:
        return values
    found = np.asarray(values)
    if not (np.isfinite(found).all() and (np.abs(found) < _EXACT).all()):
        return values
    return values.astype(np.int64) if (found == np.trunc(found)).all() else values


def logical(values: Any) -> Any:
    """An operand of `&`, `|`, `!` or `~`."""
    if isinstance(values, bool | np.bool_):
        return values
    if isinstance(values, pd.Series):
        values = plain(values, str(values.name))
    dtype = getattr(values, "dtype", None)
    if dtype is None or not is_bool_dtype(dtype):
        raise DataError(
            f"`&`, `|`, `!` and `~` take logicals, not {dtype or type(values).__name__}: "
            "compare first, each comparison in parentheses; `!b + 1` is `!(b + 1)`"
        )
    return values


def own(values: Any) -> Any:
    """An argument of the caller's function: it may change what it gets."""
    read = number(values)
    return read.copy() if isinstance(read, pd.Series | np.ndarray) and read is values else read


def guarded(values: pd.Series[Any]) -> pd.Series[Any]:
    """A column that nothing can write into: functions of NumPy and pandas have many ways to."""
    if not isinstance(values.dtype, np.dtype):
        return values
    locked = values.to_numpy().view()
    locked.flags.writeable = False
    return pd.Series(locked, index=values.index, name=values.name, copy=False)


def category(values: Any) -> Any:
    """A categorical of a column, as R's factor() makes it: sorted levels."""
    if isinstance(getattr(values, "dtype", None), pd.CategoricalDtype):
        return values
    return pd.Series(values).astype("category")


def compare(sign: str, left: Any, right: Any) -> Any:
    """A comparison; raise where text meets numbers, which are never equal in Python.

    What is compared with NaN is missing in R, and FALSE in Python.
    """
    left, right = _one(left), _one(right)
    kinds = {_holds(left), _holds(right)}
    if kinds == {"text", "numbers"}:
        _check_alike(left, right)
    if kinds == {"text", "logicals"}:
        left, right = _in_words(left), _in_words(right)
    for side in (left, right):
        check_complete(side, "a comparison")
    return _COMPARISONS[sign](left, right)


def _one(values: Any) -> Any:
    """What a column is compared with: `c('a')` is 'a'."""
    if not isinstance(values, list | tuple):
        return values
    if len(values) != 1:
        raise DataError(
            f"a comparison with {len(values)} values: write `f %in% c(…)` for any of them"
        )
    return values[0]


def _in_words(values: Any) -> Any:
    """Logicals as R spells them, beside text."""
    if _holds(values) != "logicals":
        return values
    return np.where(values, "TRUE", "FALSE") if np.ndim(values) else str(bool(values)).upper()


def check_complete(values: Any, what: str) -> None:
    """Raise for NaN that a transformation has made, where it would become an answer."""
    missing: np.ndarray = np.asarray(pd.isna(getattr(values, "__wrapped__", values)))
    if not missing.any():
        return
    where = ""
    if missing.ndim:
        rows = missing.reshape(missing.shape[0], -1).any(axis=1)
        where = (
            f" in {int(rows.sum())} of {rows.size} rows (first in row {int(rows.argmax())}, "
            "counted from 0)"
        )
    raise DataError(
        f"{what} of NaN{where}, which R calls missing: leave these rows out, subset=, or change "
        "the transformation"
    )


def _check_alike(left: Any, right: Any) -> None:
    if {_holds(left), _holds(right)} == {"text", "numbers"}:
        raise DataError(
            "a comparison of text with numbers: write the number in quotes, `f == '10'`, or make "
            "the column numbers first, pd.to_numeric"
        )


def _holds(values: Any) -> str:
    """Whether values are text, numbers, or something else."""
    dtype = getattr(values, "dtype", None)
    if isinstance(dtype, pd.CategoricalDtype):
        return _holds(dtype.categories)
    if isinstance(values, str) or isinstance(dtype, pd.StringDtype):
        return "text"
    if dtype is None:
        if isinstance(values, bool):
            return "logicals"
        return "numbers" if isinstance(values, int | float) else ""
    if isinstance(dtype, np.dtype) and dtype.kind in "OU":
        kind = pd.api.types.infer_dtype(values, skipna=True) if dtype.kind == "O" else "string"
        return {"string": "text"}.get(kind, "numbers" if kind in _NUMBERS else "")
    if is_bool_dtype(dtype):
        return "logicals"
    return "numbers" if is_numeric_dtype(dtype) else ""


def column(values: Any, place: int) -> Any:
    """R's `values[, 1]`, place 0 here, of one column or of several."""
    inner = getattr(values, "__wrapped__", values)
    parts = list(inner.values()) if isinstance(inner, Mapping) else np.asarray(inner).T
    parts = parts if np.ndim(parts) > 1 else [parts]
    if place >= len(parts):
        raise DataError(f"`[, {place + 1}]` of {len(parts)} columns")
    return np.asarray(parts[place])


def is_in(values: Any, table: Any) -> Any:
    """R's `values %in% table`, row by row."""
    for entry in table if isinstance(table, list | tuple) else [table]:
        _check_alike(values, entry)
    found = pd.Series(values).isin(list(np.atleast_1d(np.asarray(table, dtype=object))))
    return found if isinstance(values, pd.Series) else found.to_numpy()


def beside(values: Any, *columns: Any) -> pd.Series[Any]:
    """Values in a series on the index of the first column that has one: pandas aligns by it."""
    index = next((c.index for c in columns if isinstance(c, pd.Series)), None)
    return pd.Series(values, index=index)


def as_before(values: pd.Series[Any], state: MutableMapping[str, Any]) -> pd.Series[Any]:
    """A column with the categories that it had in the first data, which codes and order are of."""
    if "levels" not in state:
        if isinstance(values.dtype, pd.CategoricalDtype):
            state["levels"] = list(values.cat.categories)
            state["ordered"] = bool(values.cat.ordered)
        return values
    known = pd.Index(state["levels"])
    new = next((level for level in pd.unique(values.dropna()) if level not in known), None)
    if new is not None:
        raise DataError(
            f"`{values.name}` has {new!r}, which is no category of the data that was fitted: "
            f"there are {', '.join(map(repr, state['levels'][:8]))}"
        )
    found = pd.Categorical(values, state["levels"], ordered=state["ordered"])
    return pd.Series(found, index=values.index, name=values.name)


def _is_plain(value: Any) -> bool:
    """Whether a value without dimensions is a number, a text or a time."""
    return isinstance(value, Real | str | Decimal | date | timedelta) or hasattr(value, "dtype")


def kept(find: Callable[[], Any], state: MutableMapping[str, Any], several: bool = False) -> Any:
    """A number of a column, which new data take over from the first data; others as they are.

    ``several`` says that what is no number are a few of them, not one a row.
    """
    if "value" in state:
        return state["value"]
    value = find()
    if several or (np.ndim(value) == 0 and _is_plain(value)):
        state["value"] = value
    return value
