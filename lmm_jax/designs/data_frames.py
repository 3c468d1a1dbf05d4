"""Data at the door: any frame or file to pandas, and the caller's functions."""

from __future__ import annotations

import builtins
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError, FormulaError
from ..formulas.right_side import variables
from ..inputs.arrays import first_index, vector
from ..inputs.frames import read_frame
from ..inputs.names import FUNCTIONS_OF_R
from ..inputs.paths import is_path, read_file
from ..inputs.series import settled_columns, whole_numbers

# The name of contrasts: behind a factor, `C(f, M)`, or `contrasts=M` anywhere in a call.
_FACTOR, _NAME = r"(?:[^(),]|\([^()]*\))+", r"([^\W\d]\w*)\s*[,)]"
_CONTRASTS = re.compile(rf"\b(?:C|factor)\({_FACTOR},\s*{_NAME}|\bcontrasts\s*=\s*{_NAME}")

# What functions of R's formulas are called once a formula is read.
_OWN_NAMES = frozenset(FUNCTIONS_OF_R.values())
# What can be done with missing values.
MISSING = ("drop", "raise", "none")


def as_pandas(data: Any, expressions: Sequence[str] | None, text: str = "") -> pd.DataFrame:
    """A pandas frame with the columns that the expressions read.

    pandas frames are taken as they are, a mapping column by column (scalars fill
    their column; nothing but scalars is one row); of other frames, lazy frames, relations
    of a database and Parquet files only the columns in use are read.

    Parameters
    ----------
    data : frame, mapping of columns, or path of a file
    expressions : sequence of str, or None
        What the model reads; None for all columns.
    text : str
        Code of another language that may name columns, such as a query.

    Raises
    ------
    DataError
        No frame; a file that is not there or cannot be read; columns of different lengths; a
        column in use that is no column, or whose name another one has.
    """
    names = {name for e in expressions or () for name in variables(e)}

    def wanted(name: Any) -> bool:
        return expressions is None or name in names or (bool(text) and str(name) in text)

    if is_path(data):
        data = read_file(data, wanted)
    if isinstance(data, pd.DataFrame):
        frame = data
    elif isinstance(data, Mapping):
        frame = _mapping_frame(data, wanted)
    else:
        found = read_frame(data, wanted)
        if found is None:
            raise DataError(
                f"data is a {type(data).__name__}: pass a data frame, a mapping of columns, or "
                "the path of a Parquet or CSV file; frames in parts go to lmm.summarize"
            )
        frame = found
    if frame.columns.nlevels > 1:
        raise DataError(
            "the columns have names of several levels: flatten them, "
            "data.columns = data.columns.map('_'.join)"
        )
    _check_columns(frame, names)
    return settled_columns(frame, wanted) if frame.columns.is_unique else frame


def _mapping_frame(data: Mapping[Any, Any], wanted: Callable[[Any], bool]) -> pd.DataFrame:
    """A frame of columns and scalars; columns that nothing reads may be anything."""
    columns: dict[Any, Any] = {}
    for name, values in data.items():
        try:
            columns[name] = _mapping_column(values, f"the column `{name}`")
        except DataError:
            if wanted(name):
                raise
    used = [name for name in columns if wanted(name)]
    lengths = {name: len(v) for name, v in columns.items() if not _is_scalar(v)}
    asked = {lengths[name] for name in used if name in lengths} or set(lengths.values()) or {1}
    if len(asked) > 1:
        each = ", ".join(f"`{name}` {lengths[name]}" for name in used if name in lengths)
        raise DataError(f"the columns have different lengths ({each}): one entry a row is needed")
    n = asked.pop()
    index = first_index(*(v for name in used if isinstance(v := data[name], pd.Series)))
    for name in used:
        if isinstance(data[name], pd.Series) and not data[name].index.equals(index):
            raise DataError(f"the column `{name}` has another index than the others: align them")
    fitting = {name: v for name, v in columns.items() if lengths.get(name, n) == n}
    return pd.DataFrame(fitting, index=pd.RangeIndex(n) if index is None else index)


def _mapping_column(values: Any, what: str) -> Any:
    if _is_scalar(values):
        return values
    if isinstance(values, list | tuple | range):
        return _listed(list(values))
    return vector(values, what)


def _listed(values: list[Any]) -> Any:
    """A list in the type that pandas gives it; integers beside gaps stay integers."""
    found = pd.Series(values)
    kept = whole_numbers(values) if found.dtype.kind in "fO" else None
    return found.array if kept is None else kept


def _is_scalar(value: Any) -> bool:
    return bool(pd.api.types.is_scalar(value)) or (isinstance(value, np.ndarray) and not value.ndim)


def _check_columns(frame: pd.DataFrame, names: Iterable[str]) -> None:
    """Raise for a name in use that several columns have."""
    if frame.columns.is_unique and frame.columns.nlevels == 1:
        return
    for name in names:
        if name not in frame.columns:
            continue
        if frame.columns.nlevels > 1:
            raise DataError(f"`{name}` has columns of its own in the data: flatten their names")
        if list(frame.columns).count(name) > 1:
            raise DataError(f"the data has several columns named `{name}`: rename them")


def names_for(written: Iterable[Any], context: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a formula may call by name: of a context, or without one of the caller's scope.

    ``factor()`` is C() here, and nobody's C() unless the formula calls it by that name.

    Parameters
    ----------
    written : iterable
        Formulas as they were written; what is no text does not count.
    context : mapping or None
    """
    text = " ".join(part for part in written if isinstance(part, str))
    found = callables(text) if context is None else held(context)
    called = set(re.findall(r"[^\W\d]\w*(?=\s*\()", text))
    for theirs, own in FUNCTIONS_OF_R.items():
        if (
            own in found
            and own in called
            and re.search(rf"(?<![\w.]){re.escape(theirs)}\s*\(", text)
        ):
            raise FormulaError(
                f"`{theirs}()` is called {own}() here, and the formula calls a function of yours "
                "by that name as well: give yours another",
                text,
            )
    return {k: v for k, v in found.items() if k in called or k not in _OWN_NAMES}


def callables(text: str) -> dict[str, Any]:
    """Functions and matrices of contrasts of the caller's scope that a formula names.

    Python's own functions are left out. Contrasts are what stands behind the factor, ``C(f, M)``;
    no other value is looked for.

    The caller is the first frame outside this package.
    """
    package = __name__.split(".")[0]
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == package:
        frame = frame.f_back
    scope = {**frame.f_globals, **frame.f_locals}
    words = set(re.findall(r"[^\W\d]\w*(?=\s*[(.])", text)) - vars(builtins).keys()
    found = {word: scope[word] for word in words if word in scope and callable(scope[word])}
    for word in filter(None, itertools.chain(*_CONTRASTS.findall(text))):
        value = scope.get(word)
        if isinstance(value, pd.DataFrame):
            found[word] = value.copy()  # as it is now, also for rows to come
        elif isinstance(value, np.ndarray | list):
            found |= {word: np.array(value)} if np.ndim(value) == 2 else {}
        elif (frame_of := read_frame(value, lambda _: True)) is not None:
            found[word] = frame_of
    # math's functions take single numbers: formulas have their own of the same names
    return {word: f for word, f in found.items() if getattr(f, "__module__", "") != "math"}


def held(context: Mapping[str, Any]) -> dict[str, Any]:
    """What a caller hands to a formula, with arrays as they are now."""
    kinds = np.ndarray | pd.DataFrame
    return {k: v.copy() if isinstance(v, kinds) else v for k, v in context.items()}
