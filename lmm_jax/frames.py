"""Data frames at the door: any frame to pandas, complete rows, the caller's functions."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from . import formula as fml
from .arguments import choice
from .errors import DataError

# What can be done with missing values.
MISSING = ("drop", "raise", "none")


def as_pandas(data: Any, expressions: Sequence[str]) -> pd.DataFrame:
    """A pandas frame with the columns that the expressions read.

    pandas frames and mappings of columns are taken as they are; other eager
    frames are read by narwhals, only the columns in use.
    """
    if isinstance(data, pd.DataFrame):
        return data
    if isinstance(data, Mapping):
        return pd.DataFrame(data)
    try:
        frame = nw.from_native(data, eager_only=True)
    except TypeError as error:
        raise DataError(
            f"data is a {type(data).__name__}: pass a pandas or polars DataFrame or a mapping "
            "of columns"
        ) from error
    wanted = {name for e in expressions for name in fml.variables(e)}
    columns = {}
    for name in frame.columns:
        if name in wanted:
            series = frame[name]
            values = pd.Series(series.to_list())
            if isinstance(series.dtype, nw.Enum):  # an order that its user has chosen
                values = values.astype(pd.CategoricalDtype(list(series.dtype.categories)))
            columns[name] = values
    return pd.DataFrame(columns, index=pd.RangeIndex(len(frame)))


def callables(text: str) -> dict[str, Any]:
    """Functions in the caller's scope that a formula names.

    The caller is the first frame outside this package.
    """
    package = __name__.split(".")[0]
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(package):
        frame = frame.f_back
    scope = {**frame.f_globals, **frame.f_locals}
    words = set(re.findall(r"[^\W\d]\w*(?=\s*[(.])", text))
    return {word: scope[word] for word in words if word in scope and callable(scope[word])}


def select_rows(
    data: pd.DataFrame, arrays: Mapping[str, Any], subset: Any
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows of a subset, of the data and of the arrays given beside it.

    Parameters
    ----------
    data : DataFrame
    arrays : mapping
        Arrays of the data's length, names of columns, or None.
    subset : array of bool, array of index labels, str for ``DataFrame.query``, or None
    """
    if subset is None:
        return data, dict(arrays)
    columns = {
        name: given if given is None or isinstance(given, str) else _column(given, data, name)
        for name, given in arrays.items()
    }
    try:
        mask = np.asarray(data.eval(subset) if isinstance(subset, str) else subset)
    except Exception as error:
        raise DataError(f"subset={subset!r} cannot be evaluated: {error}") from error
    if mask.dtype != bool:
        if mask.ndim != 1 or not np.isin(mask, data.index).all():
            raise DataError("subset names rows that are not in the index of the data")
        mask = np.asarray(data.index.isin(mask))
    if mask.shape != (len(data),):
        raise DataError(f"subset has the shape {mask.shape}: one entry for {len(data)} rows")
    taken = {name: v if v is None or isinstance(v, str) else v[mask] for name, v in columns.items()}
    return data.loc[mask], taken


def complete_rows(
    data: pd.DataFrame,
    arrays: Mapping[str, Any],
    expressions: Sequence[str],
    missing: str,
    gaps: Mapping[str, np.ndarray] | None = None,
) -> tuple[pd.DataFrame, dict[str, Any], np.ndarray]:
    """One mask over all columns and arrays in use.

    Parameters
    ----------
    data : DataFrame
    arrays : mapping
        Arrays of the data's length, names of columns, or None.
    expressions : sequence of str
        What the model reads of the data.
    missing : {"drop", "raise", "none"}
    gaps : mapping of str to ndarray of bool, shape (n,), optional
        Missing entries of other columns that are in use.

    Returns
    -------
    data : DataFrame
        Rows in which nothing is missing.
    arrays : dict
        The same rows of the arrays; names of columns become None.
    keep : ndarray of bool, shape (n,)

    Raises
    ------
    DataError
        An array of the wrong length; no row left; ``missing="raise"`` or
        ``"none"`` with a missing value.
    """
    choice(missing, "missing", MISSING)
    if len(data) == 0:
        raise DataError("the data has no rows")
    names = list(dict.fromkeys(name for e in expressions for name in fml.variables(e)))
    used = [name for name in names if name in data.columns]
    for name in used:
        if list(data.columns).count(name) > 1:
            raise DataError(f"the data has several columns named `{name}`: rename them")
    full = dict(gaps or {}) | {name: data[name].isna().to_numpy() for name in used}
    values: dict[str, Any] = {}
    for name, given in arrays.items():
        values[name] = (
            None if given is None or isinstance(given, str) else _column(given, data, name)
        )
        if values[name] is not None:
            full[name] = np.asarray(pd.isna(values[name]))
    found = [name for name, gap in full.items() if gap.any()]
    if found and missing != "drop":
        raise DataError(
            f"missing values in {', '.join(map(repr, found))}: remove them or pass missing='drop'"
        )
    keep = np.ones(len(data), bool)
    for name in found:
        keep &= ~full[name]
    if not keep.any():
        raise DataError(f"no complete row: every row misses one of {', '.join(map(repr, found))}")
    if not found:
        return data, values, keep
    kept = {name: None if v is None else v[keep] for name, v in values.items()}
    rest = data.loc[keep, used]
    loose = [name for name in used if rest[name].dtype == object]
    return rest.assign(**{name: rest[name].infer_objects() for name in loose}), kept, keep


def _column(values: Any, data: pd.DataFrame, what: str) -> Any:
    """An array argument as a one-dimensional array of the data's length."""
    if isinstance(values, pd.Series):
        if not values.index.equals(data.index):
            raise DataError(
                f"{what} has another index than the data: align it, or pass {what}.to_numpy()"
            )
        values = values.array
    elif not isinstance(values, pd.api.extensions.ExtensionArray):
        values = np.asarray(values)
        if values.ndim != 1:
            raise DataError(f"{what} has the shape {values.shape}: one dimension is needed")
    if len(values) != len(data):
        raise DataError(
            f"{what} has {len(values)} entries but y has {len(data)}: pass one entry per row"
        )
    return values
