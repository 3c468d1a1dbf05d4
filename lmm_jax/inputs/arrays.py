"""Array arguments at the door: one vector or matrix, on the rows of the data, gaps marked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from decimal import InvalidOperation
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse

from ..errors import DataError
from .digits import check_digits
from .frames import read_frame
from .series import foreign_column, package, settled, whole_numbers

# What pandas calls objects that are real numbers.
_REAL = {"floating", "integer", "mixed-integer-float", "decimal", "boolean", "empty"}

# What JAX raises where the values of an array are asked for while a program is traced.
_TRACED = "TracerArrayConversionError"
# What packages call a computation of columns that has not been made, and these packages.
_EXPRESSIONS = ("Expr", "Expression", "Column")
_LAZY = ("polars", "narwhals", "pyarrow", "duckdb", "_duckdb", "pyspark", "ibis")


def vector(
    values: Any, what: str, *, n: int | None = None, index: pd.Index[Any] | None = None
) -> Any:
    """An argument with an entry a row, as a NumPy or extension array; what is missing is NA.

    Parameters
    ----------
    values : array, list, Series, masked array, frame of one column
    what : str
        Name of the argument, for messages.
    n : int, optional
        Rows of the data.
    index : pandas.Index, optional
        Labels of the rows: those of a series must be the same.

    Raises
    ------
    DataError
        Anything else, another index or another length.
    """
    if isinstance(values, pd.DataFrame) and values.shape[1] == 1:
        values = values.iloc[:, 0]
    if isinstance(values, pd.MultiIndex):  # its labels are tuples
        values = values.to_flat_index()
    _check_index(values, what, index)
    out = plain(values, what)
    if out.ndim != 1:
        raise DataError(f"{what} has the shape {out.shape}: one dimension is needed")
    if n is not None and len(out) != n:
        raise DataError(f"{what} has {len(out)} entries but y has {n}: pass one entry per row")
    return out


def matrix(
    values: Any,
    what: str,
    *,
    index: pd.Index[Any] | None = None,
    keep_floats: bool = False,
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """An argument with a column a covariate or response: real numbers, NaN where missing.

    Parameters
    ----------
    values : array, nested list, masked array, Series, or frame
        One dimension is one column.
    what, index
        As in :func:`vector`.
    keep_floats : bool
        Leave floats of another precision than 64 bits as they are.

    Returns
    -------
    values : ndarray, shape (n, k)
    names : tuple of str, or None
        Columns of a frame, name of a series.
    """
    _check_index(values, what, index)
    names: tuple[str, ...] | None = None
    if isinstance(values, pd.Series):
        names = None if values.name is None else (str(values.name),)
        values = values.to_frame()
    elif not isinstance(values, pd.DataFrame):
        frame = read_frame(values, lambda name: True)
        values = values if frame is None else frame
    if isinstance(values, pd.DataFrame):
        names = names or tuple(str(c) for c in values.columns)
        values = _frame_values(values, what)
    out = numbers(plain(values, what), what, keep_floats=keep_floats)
    if out.ndim not in (1, 2):
        raise DataError(f"{what} has the shape {out.shape}: rows and columns are needed")
    return (out[:, None] if out.ndim == 1 else out), names


def numbers(values: Any, what: str, *, keep_floats: bool = False) -> np.ndarray:
    """Real numbers as float64, NaN where something is missing.

    Raises
    ------
    DataError
        Complex numbers, dates, text (also text that spells numbers), categories.
    """
    dtype = values.dtype
    if dtype.kind in "iu":
        check_digits(values, what)
    if not isinstance(dtype, np.dtype):
        decimal = isinstance(dtype, pd.ArrowDtype) and str(dtype).startswith("decimal")
        if isinstance(dtype, pd.CategoricalDtype) or not (decimal or dtype.kind in "fiub"):
            raise DataError(f"{what} has the type {dtype}: it must be numeric, in real numbers")
        return np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan))
    if dtype.kind == "f":
        return values if keep_floats else np.asarray(values, dtype=np.float64)
    if dtype.kind == "O":
        gaps = missing(values, what)
        found = pd.api.types.infer_dtype(values.ravel(), skipna=True)
        if found not in _REAL:
            raise DataError(f"{what} must be numeric: it holds values of the kind {found!r}")
        values = np.where(gaps, np.nan, values)
    elif dtype.kind not in "iub":
        raise DataError(f"{what} has the type {dtype}: it must be numeric, in real numbers")
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{what} must be numeric: {error}") from error


def missing(values: Any, what: str) -> np.ndarray:
    """Which entries of a column or array are missing.

    Raises
    ------
    DataError
        Decimals that signal when they are looked at.
    """
    try:
        return np.asarray(pd.isna(values))
    except InvalidOperation as error:
        raise DataError(
            f"{what} holds Decimal('sNaN'), which nothing can be done with: make it None"
        ) from error


def plain(values: Any, what: str) -> Any:
    """What was passed as a NumPy or extension array of any shape; masked entries are missing."""
    if type(values).__name__ in _EXPRESSIONS and package(values) in _LAZY:
        raise DataError(
            f"{what} is an expression of {package(values)}, which frames know: make a column of it "
            "there, or filter the frame"
        )
    if isinstance(values, pd.Series | pd.Index):
        values = values.array
    elif not isinstance(values, np.ndarray | list | tuple):
        column = foreign_column(values)
        values = values if column is None else column
    if isinstance(values, pd.arrays.NumpyExtensionArray):
        return settled(values.to_numpy())
    if isinstance(values, pd.api.extensions.ExtensionArray):
        return settled(values)
    if isinstance(values, np.ma.MaskedArray) and values.dtype.kind != "V":
        return _unmasked(values)
    if isinstance(values, str | bytes):
        raise DataError(f"{what}={values!r} names a column, and there is no frame: pass an array")
    if isinstance(values, Mapping | Set | Iterator) or scipy.sparse.issparse(values):
        raise DataError(f"{what} is a {type(values).__name__}: pass an array")
    try:
        out = np.asarray(values)
    except (TypeError, ValueError) as error:
        if type(error).__name__ == _TRACED:
            raise DataError(
                f"{what} is traced by JAX, and a design is made of values: call lmm.row_index "
                "outside of the program, and lmm.compress and lmm.fit_params inside"
            ) from None
        raise DataError(f"{what} cannot be read as an array: {error}") from error
    if out.dtype.kind == "V":
        raise DataError(f"{what} has the type {out.dtype}: pass one array of numbers or labels")
    if out.dtype.kind in "fO" and out.ndim == 1 and isinstance(values, list | tuple):
        kept = whole_numbers(list(values))
        out = out if kept is None else kept
    if out.dtype.kind in "US" and out.ndim and not isinstance(values, np.ndarray):
        out = np.asarray(values, dtype=object)  # NaN among strings is a gap, not the text "nan"
    return settled(out) if out.ndim == 1 else out


def first_index(*given: Any) -> pd.Index[Any] | None:
    """Labels of the rows: those of the first argument that has any."""
    return next((v.index for v in given if isinstance(v, pd.Series | pd.DataFrame)), None)


def _check_index(values: Any, what: str, index: pd.Index[Any] | None) -> None:
    if index is None or not isinstance(values, pd.Series | pd.DataFrame):
        return
    if values.index is not index and not values.index.equals(index):
        raise DataError(
            f"{what} has another index than the data: align it, or pass {what}.to_numpy()"
        )


def _unmasked(values: np.ma.MaskedArray[Any, Any]) -> Any:
    """The array under the mask, with what is masked marked as missing."""
    gaps, data = np.ma.getmaskarray(values), np.asarray(values.data)
    kind = data.dtype.kind
    if not np.any(gaps):
        return data
    if kind == "i" and data.ndim == 1:
        return pd.arrays.IntegerArray(data.astype(np.int64), gaps.copy())
    if kind == "u" and data.ndim == 1:
        return pd.arrays.IntegerArray(data.astype(np.uint64), gaps.copy())
    if kind == "b" and data.ndim == 1:
        return pd.arrays.BooleanArray(data.copy(), gaps.copy())
    out = data.astype(np.float64 if kind in "iub" else data.dtype if kind in "fc" else object)
    out[gaps] = np.nan if kind in "iubfc" else None
    return out


def _frame_values(frame: pd.DataFrame, what: str) -> np.ndarray:
    """Columns side by side; one that holds no real numbers is named."""
    kinds = {getattr(t, "kind", "O") for t in set(frame.dtypes) if isinstance(t, np.dtype)}
    if kinds <= set("f") and all(isinstance(t, np.dtype) for t in set(frame.dtypes)):
        return frame.to_numpy()
    columns = [
        numbers(plain(frame.iloc[:, j], what), f"{what}, column {name!r},")
        for j, name in enumerate(map(str, frame.columns))
    ]
    return np.column_stack(columns) if columns else np.zeros((len(frame), 0))
