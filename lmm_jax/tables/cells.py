"""From the values of a frame to the strings of a table, the same ones in every spelling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from ..inputs.matching import spelling
from ..reprs import number, p_value

# What a column holds: labels and words stand left; what is counted or measured stands right.
Kind = Literal[
    "label", "text", "number", "share", "statistic", "p value", "df", "correlation", "count"
]
_LEFT = ("label", "text")
# Limits that stand beside the one before.
_UPPER = ("conf_high", "upper", "tolerance_high")
# Numbers from which, and below which, decimals say nothing of an estimate.
_MOST_BEFORE, _NOTHING = 1e15, 1e-6
# Columns whose decimals are those that standard errors need, where there are such.
_WITH_ERRORS = ("estimate", "std_error", "conf_low", "conf_high", "lower", "upper", "bias")
# Decimals of numbers, sizes that they hide, digits that the smallest of these has in its column,
# and sizes that are too large for decimals.
_DECIMALS, _SMALL, _DIGITS, _LARGE = 4, 1e-3, 3, 1e7
# Decimals beyond which a row is written with exponents; and what rows may differ by in what they
# ask for to have the same.
_MOST_DECIMALS, _ALIKE = 8, 2
# Digits of a float behind the first.
_DOUBLE = 15
# Degrees of freedom this near to a whole number are one.
_ROUNDING = 1e-4
# Kinds of columns that are known by their name, whatever table they stand in.
_KNOWN: dict[str, Kind] = {
    **dict.fromkeys(("p_value", "p_boundary", "p_bootstrap", "q_value"), "p value"),
    **dict.fromkeys(("df", "df_num", "df_denom"), "df"),
    **dict.fromkeys(("aic", "bic", "caic", "llf", "loglik"), "statistic"),
    **dict.fromkeys(("deviance", "reml_crit", "chisq"), "statistic"),
}


def of_users(frame: pd.DataFrame) -> dict[str, Any]:
    """Headings and kinds of a frame of numbers whose columns and rows have names of the user's."""
    own = list(map(str, frame.columns))
    called = [*own, *(str(name) for name in frame.index.names if name is not None)]
    return {"headings": {name: name for name in called}, "kinds": dict.fromkeys(own, "number")}


class Cells(NamedTuple):
    """A table of strings with what a renderer has to know of them."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[bool, ...]  # a column: numbers, which stand right
    labels: int  # leading columns that say what a row is
    glued: tuple[bool, ...]  # a column: never parted from the one before
    more: int = 0  # rows that were left out
    names: tuple[str, ...] = ()  # a column: its name in the frame

    @property
    def has_header(self) -> bool:
        """Whether a column has a name to show."""
        return any(self.header)


class Column(NamedTuple):
    """A column of values before they are written."""

    name: str
    type: str  # letter of NumPy's kind of type: "f" of floats, "i" and "u" of counts
    values: list[Any]


class Columns(NamedTuple):
    """What a table shows: labels of its rows, where they say something, then its columns."""

    labels: tuple[Column, ...]
    values: tuple[Column, ...]
    more: int = 0  # rows that were left out


def columns_of(frame: pd.DataFrame, most: int | None = None) -> Columns:
    """The columns of a frame, of no more rows than ``most``."""
    more = 0 if most is None else max(len(frame) - most, 0)
    part = frame.iloc[: len(frame) - more] if more else frame
    labels = tuple(
        Column(str(level.name if level.name is not None else ""), "O", list(level))
        for level in _levels(part.index)
    )
    values = part.to_numpy(dtype=object).T.tolist()  # a column at a time takes pandas ten times
    columns = zip(
        map(str, part.columns), (dtype.kind for dtype in part.dtypes), values, strict=True
    )
    return Columns(labels, tuple(map(Column._make, columns)), more)


def cells(
    columns: Columns,
    caption: str,
    headings: Mapping[str, str],
    kinds: Mapping[str, Kind],
    digits: int | None = None,
) -> Cells:
    """Strings of the columns of a table.

    Parameters
    ----------
    columns : Columns
    caption : str
    headings : mapping of str to str
        What stands above a column where that is not its name.
    kinds : mapping of str to Kind
        Of columns; by default what the name or the values of a column say.
    digits : int, optional
        Decimals of numbers, statistics and correlations; by default what their size asks for.
    """
    n_index = len(columns.labels)
    names = [""] * n_index + [column.name for column in columns.values]
    all_columns = (*columns.labels, *columns.values)
    found: list[Kind] = ["label"] * n_index
    found += [kinds.get(name, _kind(name, type)) for name, type, _ in columns.values]
    labels = next((j for j, kind in enumerate(found) if kind != "label"), len(found))
    errors = next((c.values for c in columns.values if c.name == "std_error"), None)
    places = None if errors is None else _places_of(errors)
    strings = [
        _strings(column.values, kind, digits, places if name in _WITH_ERRORS else None)
        for name, column, kind in zip(names, all_columns, found, strict=True)
    ]
    return Cells(
        caption=caption,
        header=tuple(headings.get(column.name, column.name) for column in all_columns),
        rows=tuple(zip(*strings, strict=True)),
        right=tuple(kind not in _LEFT for kind in found),
        glued=tuple(name in _UPPER for name in names),
        labels=max(labels, n_index, int(found[:1] == ["text"])),
        more=columns.more,
        names=tuple(names),
    )


def _levels(index: pd.Index[Any]) -> list[pd.Index[Any]]:
    """Levels of an index that names its rows; none of one that only counts them."""
    if isinstance(index, pd.RangeIndex) and index.name is None:
        return []
    return [index.get_level_values(i) for i in range(index.nlevels)]


def _kind(name: str, type: str) -> Kind:
    if name in _KNOWN:
        return _KNOWN[name]
    if type in "iu":
        return "count"
    return "number" if type == "f" else "text"


def _strings(
    values: Sequence[Any], kind: Kind, digits: int | None, places: Sequence[_Places] | None
) -> list[str]:
    """One string a value; nothing where there is none."""
    whole = kind == "df" and all(_is_whole(v) for v in values)
    if kind != "number" or digits is not None:
        return [_string(v, kind, whole, digits) for v in values]
    if places is not None:
        return [_in_row(v, at) for v, at in zip(values, places, strict=True)]
    own = _own_digits(values)
    return [_string(v, kind, whole, own if _has_decimals(v) else None) for v in values]


def _own_digits(values: Sequence[Any]) -> int:
    """Decimals of all numbers of a column, more than usual where these would hide one."""
    smallest = min((abs(v) for v in values if _has_decimals(v) and v != 0), default=_SMALL)
    return digits_for(smallest, _DIGITS) if smallest < _SMALL else _DECIMALS


def digits_for(size: float, significant: int) -> int:
    """Decimals that show so many significant digits of a number.

    >>> digits_for(0.00271, 2)
    4
    """
    return significant - 1 - int(np.floor(np.log10(size)))


class _Places(NamedTuple):
    """Decimals of a row, and whether a standard error says how many."""

    decimals: int
    by_error: bool


def _places_of(errors: Sequence[Any]) -> list[_Places]:
    """Decimals of the rows of a table, by their standard errors.

    The same ones for rows that ask for nearly as many; the others have their own.
    """
    known = [isinstance(e, float) and np.isfinite(e) and e > 0 for e in errors]
    asked = [
        digits_for(e, _DIGITS) if own and e < _SMALL else _DECIMALS
        for e, own in zip(errors, known, strict=True)
    ]
    usual = [d for d in asked if d <= _MOST_DECIMALS]
    if usual and max(usual) - min(usual) <= _ALIKE:
        asked = [d if d > _MOST_DECIMALS else max(usual) for d in asked]
    return list(map(_Places, asked, known))


def _in_row(value: Any, places: _Places) -> str:
    """A number, or what stands in its place, to the decimals of its row."""
    many = places.decimals > _MOST_DECIMALS
    real = isinstance(value, float | int | np.number) and not isinstance(value, bool)
    if not (real and np.isfinite(value) and (abs(value) < _LARGE or many)):
        return _string(value, "number", False, None)
    return (beside_error if places.by_error else decimals)(float(value), places.decimals)


def beside_error(value: float, places: int) -> str:
    """A number to the decimals of its row, a small one with an exponent where these are many."""
    if places <= _MOST_DECIMALS or value == 0 or not np.isfinite(value):
        return rounded(value, min(places, _MOST_DECIMALS))
    before = int(np.floor(np.log10(abs(value))))
    shown = min(places + before, _DOUBLE)  # decimals before an exponent
    if before >= -_DIGITS:
        return decimals(value, max(shown - before, 0))
    return f"{value:.{max(shown, _DIGITS - 1)}e}"


def _has_decimals(value: Any) -> bool:
    """Whether a number is of a size that decimals show."""
    real = isinstance(value, float | int | np.number) and not isinstance(value, bool)
    return real and (value == 0 or _NOTHING <= abs(value) < _LARGE)


def decimals(value: float, places: int) -> str:
    """A number with so many decimals; in another way where these would show nothing of it."""
    hidden = 0.0 < abs(value) < _NOTHING and float(f"{value:.{places}f}") == 0.0
    return f"{value:.{max(places, 1)}e}" if hidden else rounded(value, places)


def rounded(value: float, places: int) -> str:
    """A number with so many decimals, zero where they show nothing of it.

    >>> rounded(-6.06e-8, 6), decimals(-6.06e-8, 6)
    ('0.000000', '-6.060000e-08')
    """
    text = f"{value:.{places}f}"
    if not np.isfinite(value) or value == 0.0:
        return text
    if abs(value) >= _MOST_BEFORE:
        return f"{value:.{max(places, 1)}e}"
    return text.removeprefix("-") if float(text) == 0.0 else text


def _is_whole(value: Any) -> bool:
    if isinstance(value, str):
        return False
    return bool(pd.isna(value) or np.isinf(value) or abs(value - round(value)) < _ROUNDING)


def _string(value: Any, kind: Kind, whole: bool, digits: int | None) -> str:
    if isinstance(value, str):
        return value
    if value is None or (np.ndim(value) == 0 and pd.isna(value)):
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, date):  # a day without its hours
        return spelling(value)
    if not isinstance(value, float | int | np.number):
        return str(value)
    if kind in _LEFT:
        return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)
    if kind == "p value":
        return p_value(float(value))
    if kind == "count" or (kind == "df" and whole):
        return f"{value:.0f}"
    if kind == "df":
        return f"{value:.2f}"
    if digits is not None:
        return decimals(float(value), digits)
    if kind == "share":
        return f"{value:.{_DECIMALS}f}"
    return number(float(value)) if kind == "number" else f"{value:.3f}"
