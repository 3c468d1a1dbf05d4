"""Which rows a model uses: a subset of the data, without the rows that miss something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import DataError
from ..formulas.right_side import variables
from ..inputs.arguments import choice
from ..inputs.arrays import missing as missing_entries
from ..inputs.arrays import vector
from ..inputs.matching import distinct, find, label_shown
from .data_frames import MISSING


def row_arrays(data: pd.DataFrame, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments beside the data as arrays with an entry a row; names of columns become None."""
    return {
        name: None
        if values is None or isinstance(values, str)
        else vector(values, name, n=len(data), index=data.index)
        for name, values in given.items()
    }


def select_rows(
    data: pd.DataFrame, arrays: Mapping[str, Any], subset: Any
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows of a subset, of the data and of the arrays beside it.

    Parameters
    ----------
    data : DataFrame
    arrays : mapping
        Arrays of the data's length, or None.
    subset : array of bool, array of index labels, str for ``DataFrame.query``, or None
        A series of booleans selects by its labels.

    Raises
    ------
    DataError
        A mask of another length, with other labels or with gaps; labels that no
        row has; an expression that is no condition.
    """
    if subset is None:
        return data, dict(arrays)
    mask = _query(data, subset) if isinstance(subset, str) else _mask(data, subset)
    if len(data) and not mask.any():
        raise DataError(f"subset leaves none of the {len(data)} rows")
    return data.loc[mask], {name: v if v is None else v[mask] for name, v in arrays.items()}


def _query(data: pd.DataFrame, subset: str) -> np.ndarray:
    """Rows where an expression is true; as in ``DataFrame.query``, a missing value is not."""
    try:
        found = data.eval(subset, local_dict={}, global_dict={})  # nobody's variables
    except Exception as error:  # pandas, its engine and the expression raise anything
        raise DataError(f"subset={subset!r} cannot be evaluated: {error}") from error
    if not isinstance(found, pd.Series) or not pd.api.types.is_bool_dtype(found.dtype):
        raise DataError(f"subset={subset!r} is no condition: it has to be true or false for a row")
    return np.asarray(found.fillna(False), dtype=bool)


def _mask(data: pd.DataFrame, subset: Any) -> np.ndarray:
    """Rows that a mask or a list of labels selects."""
    if isinstance(subset, pd.MultiIndex) or _are_tuples(subset):
        return _labelled(data, pd.Index(subset))
    values = vector(subset, "subset")
    if values.dtype.kind == "O" and pd.api.types.infer_dtype(values, skipna=True) == "boolean":
        values = pd.array(values, dtype="boolean")
    if values.dtype.kind != "b":
        if 2 < len(values) == len(data) and pd.Index(values).isin([0, 1]).all():
            raise DataError("subset is 0 and 1 in every row: write subset == 1 for a mask")
        return _labelled(data, values)
    if np.any(pd.isna(values)):
        raise DataError("subset is neither true nor false in some rows: fill its missing values")
    mask = np.asarray(values, dtype=bool)
    if isinstance(subset, pd.Series) and not subset.index.equals(data.index):
        return _aligned(mask, subset.index, data.index)
    if mask.shape != (len(data),):
        raise DataError(f"subset has the shape {mask.shape}: one entry for {len(data)} rows")
    return mask


def _are_tuples(subset: Any) -> bool:
    """A list of labels of rows of several levels."""
    return isinstance(subset, list) and bool(subset) and all(isinstance(v, tuple) for v in subset)


def _aligned(mask: np.ndarray, labels: pd.Index[Any], rows: pd.Index[Any]) -> np.ndarray:
    """A mask in the order of the rows, where its labels are theirs in another order."""
    if len(labels) == len(rows) and labels.is_unique and rows.is_unique:
        places = labels.get_indexer(rows)
        if (places >= 0).all():
            return mask[places]
    raise DataError(
        "subset has another index than the data: align it, or pass subset.to_numpy() for a mask "
        "in the order of the rows"
    )


def _labelled(data: pd.DataFrame, labels: Any) -> np.ndarray:
    """Rows with one of the labels."""
    codes, rows = distinct(data.index, "the index of the data")
    places = find(rows, labels, "subset")
    if (places < 0).any():
        unknown = label_shown(labels[int(np.argmin(places))])
        raise DataError(
            f"subset names rows that are not in the index of the data, such as {unknown}: pass "
            "labels of the index, or a mask"
        )
    chosen = np.zeros(len(rows) + 1, dtype=bool)  # the last: rows without a label
    chosen[places] = True
    return chosen[codes]


class Complete(NamedTuple):
    """Rows in which nothing is missing, and what is missing in the others."""

    data: pd.DataFrame
    arrays: dict[str, Any]  # the same rows of the arrays
    keep: np.ndarray  # (n,)  bool
    gaps: tuple[tuple[str, int], ...]  # variables with missing values, and how many


def complete_rows(
    data: pd.DataFrame,
    arrays: Mapping[str, Any],
    expressions: Sequence[str],
    missing: str,
    gaps: Mapping[str, np.ndarray] | None = None,
) -> Complete:
    """One mask over all columns and arrays in use.

    Parameters
    ----------
    data : DataFrame
    arrays : mapping
        Arrays of the data's length, or None.
    expressions : sequence of str
        What the model reads of the data.
    missing : {"drop", "raise", "none"}
    gaps : mapping of str to ndarray of bool, shape (n,), optional
        Missing entries of other columns that are in use.

    Returns
    -------
    Complete

    Raises
    ------
    DataError
        No row left; ``missing="raise"`` or ``"none"`` with a missing value.
    """
    choice(missing, "missing", MISSING)
    if len(data) == 0:
        raise DataError("the data has no rows")
    names = list(dict.fromkeys(name for e in expressions for name in variables(e)))
    used = [name for name in names if name in data.columns]
    full = dict(gaps or {}) | {name: missing_entries(data[name], f"`{name}`") for name in used}
    full |= {name: missing_entries(v, name) for name, v in arrays.items() if v is not None}
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
        return Complete(data, dict(arrays), keep, ())
    kept = {name: None if v is None else v[keep] for name, v in arrays.items()}
    counts = tuple((name, int(full[name].sum())) for name in found)
    return Complete(data.loc[keep, used], kept, keep, counts)


def are_complete(data: pd.DataFrame, expressions: Sequence[str], *arrays: Any) -> np.ndarray:
    """Rows in which nothing that the expressions and arrays hold is missing, (n,)."""
    names = dict.fromkeys(name for e in expressions for name in variables(e))
    used = [name for name in names if name in data.columns]
    missing = [missing_entries(data[name], f"`{name}`") for name in used]
    missing += [missing_entries(a, "an array") for a in arrays if a is not None]
    return ~np.any(missing, axis=0) if missing else np.ones(len(data), dtype=bool)
