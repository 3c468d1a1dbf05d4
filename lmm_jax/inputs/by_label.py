"""Numbers whose entries have labels: put in the order of what they are of, or refused in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError
from .frames import read_frame
from .matching import first_shown, label_shown, spelling

# What polars calls the columns of an array that nobody has named.
_UNNAMED = "column_"


def in_order(
    given: Any,
    names: Sequence[str],
    what: str,
    *,
    called: Sequence[Sequence[str]] = (),
    whole: bool = False,
) -> Any:
    """Numbers by place: those that come by label are put in the order of some names.

    Parameters
    ----------
    given : Any
        A series or a mapping, whose entries have labels; a frame of any kind, whose columns have.
        Anything else, and what has the numbers 0, 1, ... for labels, is given back by place.
    names : sequence of str, length k
        What the entries are of.
    what : str
        Name of the argument, for messages.
    called : sequence of sequences of str, length k each
        What else these may be called.
    whole : bool
        Refuse numbers that leave some names out; otherwise these have 0.

    Raises
    ------
    DataError
        A label that is none of the names, or that stands there twice.

    Examples
    --------
    >>> in_order(pd.Series([-1, 1], index=["b", "a"]), ["a", "b", "c"], "weights")
    array([ 1., -1.,  0.])
    """
    labels, values = _parted(given)
    lists = [list(names), *map(list, called)]
    if labels is None or any([spelling(label) for label in labels] == some for some in lists):
        return values
    places = [_place(label, lists) for label in labels]
    known = first_shown(names, 12)
    if -1 in places:
        label = label_shown(labels[places.index(-1)])
        raise DataError(f"{what} has the label {label}: there are {known or 'none'}")
    if len(set(places)) < len(places):
        twice = next(p for p in places if places.count(p) > 1)
        raise DataError(f"{what} has the label {label_shown(names[twice])} twice")
    left = [name for place, name in enumerate(names) if place not in places]
    if whole and left:
        raise DataError(
            f"{what} has no {label_shown(left[0])}: a number for each of {known} is needed"
        )
    out = np.zeros((*values.shape[:-1], len(names)), dtype=np.result_type(values, np.float64))
    out[..., places] = values
    return out


def row_names(given: Any) -> tuple[str, ...]:
    """Names of the rows of a frame of pandas, as text; nothing where nobody has named them."""
    if not isinstance(given, pd.DataFrame) or _is_counted(given.index):
        return ()
    return tuple(_texts(label)[-1] for label in given.index)


def _is_counted(index: pd.Index[Any]) -> bool:
    """Whether labels are the numbers 0, 1, ... that nobody has chosen."""
    return isinstance(index, pd.RangeIndex) and index.equals(pd.RangeIndex(len(index)))


def _parted(given: Any) -> tuple[list[Any] | None, Any]:
    """Labels of the last axis and an array; None and what was given where nobody has named any."""
    if isinstance(given, Mapping):
        given = pd.Series(given)
    elif not isinstance(given, pd.Series | pd.DataFrame):
        frame = None if given is None or np.isscalar(given) else read_frame(given, lambda _: True)
        if frame is None:
            return None, given
        given = frame
    index = given.index if isinstance(given, pd.Series) else given.columns
    labels = index.tolist()
    if _is_counted(index) or labels == [f"{_UNNAMED}{i}" for i in range(len(index))]:
        return None, given.to_numpy()
    return labels, given.to_numpy()


def _place(label: Any, lists: Sequence[list[str]]) -> int:
    """Place of a label in the first of some lists of names that has it, -1 where none has."""
    for text in _texts(label):
        for names in lists:
            if text in names:
                return names.index(text)
    return -1


def _texts(label: Any) -> tuple[str, ...]:
    """How a label may be written: the parts of several beside each other."""
    if isinstance(label, tuple):
        return (" ".join(_texts(part)[-1] for part in label),)
    text = spelling(label)
    return (text, f"{label:.15g}") if isinstance(label, float) else (text,)
