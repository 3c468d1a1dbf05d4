"""Labels of levels and rows, matched one by one, whatever the type of the column they come from."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from datetime import date, datetime, time
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError
from .series import check_told_apart

# Integers up to this are the same number as a float.
_EXACT = 2.0**53


def label_shown(label: Any) -> str:
    """A label as a message shows it: ``33``, ``'a'``, ``2026-01-31``; not NumPy's repr."""
    if isinstance(label, tuple):
        return f"({', '.join(map(label_shown, label))})"
    if isinstance(label, str | bytes):
        return repr(str(label) if isinstance(label, str) else label)
    return spelling(label)


def first_shown(labels: Iterable[Any], most: int = 8) -> str:
    """The first few of some labels, as a message lists them."""
    few = [label_shown(label) for label in islice(labels, most + 1)]
    return ", ".join([*few[:most], "..."] if len(few) > most else few)


def row_shown(at: int, index: pd.Index[Any] | None) -> str:
    """A row as a message names it: by its label in the index of the data that was passed.

    After rows are left out a place among the others leads to a wrong one.
    """
    return f"row {at}" if index is None else f"row {label_shown(index[at])} of the index"


def spelling(label: Any) -> str:
    """The text of a label that does not depend on its type: ``350`` for 350 and for 350.0."""
    return _spellings(label)[-1]


def spelled(labels: pd.Index[Any]) -> pd.Index[Any]:
    """:func:`spelling` of every label."""
    if labels.dtype.kind in "iu":
        return labels.astype(str)
    return pd.Index([spelling(label) for label in _values(labels)])


def _spellings(label: Any) -> tuple[str, ...]:
    """Texts that a label is matched by, its own first, the one without a type last."""
    if isinstance(label, str):
        return (str(label),)
    text = str(label)
    if isinstance(label, bool | np.bool_) or label is pd.NaT:  # a datetime without a time
        return (text,)
    if isinstance(label, int | np.integer):
        return (f"{text}.0", text)
    if isinstance(label, float | np.floating) and float(label).is_integer():
        return (text, str(int(label)))
    midnight = isinstance(label, datetime) and label.time() == time() and label.tzinfo is None
    if midnight and not getattr(label, "nanosecond", 0):  # which no time of Python has
        return (text, label.date().isoformat())
    if isinstance(label, date) and not isinstance(label, datetime):
        return (f"{text} 00:00:00", text)
    return (text,)


def distinct(labels: Any, what: str) -> tuple[np.ndarray, pd.Index[Any]]:
    """Number of every row's label (-1: missing) among those that occur, as they come.

    Raises
    ------
    DataError
        Labels that cannot be compared, such as lists.
    """
    check_told_apart(labels, what)
    try:
        codes, found = pd.factorize(labels)
    except TypeError as error:
        raise DataError(f"{what!r} holds labels that cannot be compared: {error}") from error
    if isinstance(found, pd.Categorical | pd.CategoricalIndex):
        found = found.astype(found.categories.dtype)
    if not isinstance(found, pd.MultiIndex):
        found = pd.Index(found, tupleize_cols=False)
        check_spellings(found, what)
    return codes.astype(np.int64, copy=False), found


def check_spellings(labels: pd.Index[Any], what: str) -> None:
    """Refuse a number beside its own text, of which one was surely meant to be the other."""
    if labels.dtype != object or len(set(map(type, labels))) < 2:
        return
    texts = spelled(labels)
    twice = texts.duplicated(keep=False)
    if twice.any():
        one = labels[texts == texts[twice][0]]
        raise DataError(
            f"{what!r} holds {' and '.join(map(repr, _values(one)))}, which look alike and would "
            "be different levels: make them all text, .astype(str), or all numbers"
        )


def find(levels: pd.Index[Any], labels: Any, what: str) -> np.ndarray:
    """Place of every label among the levels, -1 where it is none of them.

    Equal labels match whatever their types (``350`` is ``350.0``, ``True`` is 1),
    and a number or a date matches its spelling (``350`` is ``"350"``); what one
    row holds does not change what another row finds.

    Parameters
    ----------
    levels : pandas.Index, shape (L,)
    labels : Series, Index or array, shape (n,)
    what : str
        Name of the factor, for messages.

    Returns
    -------
    ndarray of int64, shape (n,)

    Examples
    --------
    >>> find(pd.Index(["308", "309"]), pd.Series([309, 1, 308.0]), "Subject")
    array([ 1, -1,  0])
    """
    if getattr(labels, "dtype", None) == levels.dtype != object and levels.is_unique:
        places = levels.get_indexer(pd.Index(labels))
        if (places >= 0).all():  # as it nearly always is
            return places.astype(np.int64, copy=False)
    codes, found = distinct(labels, what)
    places = np.append(_places(levels, found, what), -1)  # the last: missing labels
    return places[codes]


def _places(levels: pd.Index[Any], labels: pd.Index[Any], what: str) -> np.ndarray:
    """The same for labels that are all different."""
    if not levels.is_unique:
        twice = label_shown(levels[levels.duplicated()][0])
        raise DataError(
            f"{what!r} has the label {twice} for two levels: rename one of them, so that rows can "
            "be told apart"
        )
    out = np.full(len(labels), -1, dtype=np.int64)
    zone = getattr(levels, "tz", None)
    if zone is not None and getattr(labels, "tz", None) is not None:
        labels = labels.tz_convert(zone)  # type: ignore[attr-defined]  # the hour that comes twice
    if _same_kind(levels, labels):
        out[:] = levels.get_indexer(labels)
        if _are_plain(levels) and _are_plain(labels):
            return out  # no spelling matches what equality does not
    left = np.flatnonzero(out < 0)
    if not left.size:
        return out
    equal: dict[Hashable, int] = {}
    spellings: dict[str, int] = {}
    for place, level in enumerate(_values(levels)):
        equal.setdefault(level, place)
        for text in _spellings(level):
            spellings.setdefault(text, place)
    for i, label in zip(left, _values(labels[left]), strict=True):
        at = equal.get(label)
        if at is None:
            at = next((spellings[t] for t in _spellings(label)[::-1] if t in spellings), -1)
        out[i] = at
    return out


def _same_kind(levels: pd.Index[Any], labels: pd.Index[Any]) -> bool:
    """Whether pandas compares two indexes label by label without rounding any."""
    if isinstance(levels, pd.MultiIndex) or isinstance(labels, pd.MultiIndex):
        return False
    if levels.dtype == labels.dtype:
        return True
    return all(
        isinstance(index.dtype, np.dtype)
        and index.dtype.kind in "iuf"
        and (not len(index) or float(np.abs(index.to_numpy(np.float64)).max()) < _EXACT)
        for index in (levels, labels)
    )


def _are_plain(labels: pd.Index[Any]) -> bool:
    """Whether all are numbers in full precision, or all are text."""
    if labels.dtype == object:
        return pd.api.types.infer_dtype(labels, skipna=False) == "string"
    full = labels.dtype.kind in "iu" or labels.dtype == np.float64
    return isinstance(labels.dtype, pd.StringDtype) or full


def _values(labels: pd.Index[Any]) -> list[Any]:
    """Labels as Python's own objects; narrow floats keep their type, and with it their spelling."""
    narrow = labels.dtype in (np.dtype(np.float32), np.dtype(np.float16))
    return list(labels.to_numpy()) if narrow else labels.tolist()


def merged(levels: pd.Index[Any], more: pd.Index[Any]) -> pd.Index[Any]:
    """Levels followed by others, in a type that holds every label as it is."""
    kinds = levels.dtype.kind, more.dtype.kind
    if levels.dtype == more.dtype or kinds in (("i", "i"), ("u", "u")):
        return levels.append(more)
    if kinds == ("i", "f"):
        values = more.to_numpy()
        if (np.abs(values) < _EXACT).all() and (values == np.round(values)).all():
            return merged(levels, pd.Index(values.astype(np.int64)))
    return pd.Index([*_values(levels), *_values(more)], dtype=object)
