"""Levels of factors: those of a column, and which of them a label means."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError
from ..inputs.arguments import is_whole
from ..inputs.matching import find, first_shown, spelling


def levels_of(x: Any, state: MutableMapping[str, Any]) -> list[Any]:
    """Levels that occurred in the first data, in their order."""
    if "levels" not in state:
        values = pd.Series(getattr(x, "__wrapped__", x)).astype("category")
        state["levels"] = values.cat.remove_unused_categories().cat.categories.tolist()
    return list(state["levels"])


def place_of(levels: Sequence[Any], label: Any) -> int:
    """Place of the level that a label means, whatever its type: '2' is 2; -1 if it is none."""
    if isinstance(label, str) and levels and all(isinstance(known, bool) for known in levels):
        label = {"TRUE": True, "FALSE": False}.get(label, label)
    known, wanted = (pd.Index(some, tupleize_cols=False) for some in (list(levels), [label]))
    return int(find(known, wanted, "a factor")[0])


def in_type_of(found: Sequence[Any], levels: Sequence[Any]) -> list[Any]:
    """Levels as the column has them, where they are written otherwise: '2' for 2."""
    if all(label in levels for label in found):
        return list(levels)
    places = [place_of(found, level) for level in levels]
    own = [found[at] if at >= 0 else level for at, level in zip(places, levels, strict=True)]
    return own if len(set(own)) == len(own) else list(levels)


def one_level(x: Any, label: Any, what: str) -> Any:
    """The level of a column that a label means, by its text as in R."""
    if isinstance(label, list | tuple | np.ndarray):
        raise DataError(f"{what} takes one level at a time, `dummy(f, 'a') + dummy(f, 'b')`")
    values = pd.Series(getattr(x, "__wrapped__", x))
    levels = values.astype("category").cat.categories.tolist()
    if isinstance(label, bool):
        raise DataError(f"{what} takes a level by its text: write '{str(label).upper()}'")
    at = place_of(levels, label)
    if at < 0:
        raise DataError(f"{what} of {label!r}, which is none of {first_shown(levels)}")
    check_place(levels, label, at, what)
    return levels[at]


def check_place(levels: Sequence[Any], label: Any, at: int, what: str) -> None:
    """Raise for a number that is the label of a level, and the place of another one in R."""
    if is_whole(label) and 1 <= label <= len(levels) and at != label - 1:
        other = spelling(levels[label - 1])
        raise DataError(
            f"{what} of {label!r}: in R the level at this place, {other!r}, by its label another "
            f"one: write '{label}' or {other!r}"
        )
