"""Where values of a covariate stand along an axis: numbers, of dates and spans their days."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from ..designs.variables import as_numbers, dates_of, days_given
from ..errors import DataError
from ..inputs.arguments import numbers, shown
from ..inputs.matching import spelling
from ..reprs import plain_number

# Microseconds of a day.
_DAY = 86400e6
# Inches that the label of a date needs beside the next, and how many ticks there are.
_DATE_WIDTH, _FEWEST, _MOST = 0.55, 4, 9
# Steps (of matplotlib's AutoDateLocator, in units of MONTHLY, DAILY, ...) beside its own, so that
# there is one for every range that is to have three ticks.
_LONGER_STEPS = {1: 12, 3: 31, 4: 24, 5: 60, 6: 60}


class Places(NamedTuple):
    """A covariate in the rows that were used."""

    name: str
    values: np.ndarray  # (n,)  of dates and spans the days (R's numbers)
    dtype: Any = None  # of dates and spans

    @property
    def unit(self) -> str:
        """The name, and what differences are counted in where they are those of time."""
        return self.name if self.dtype is None else _in_days(self.name)


def has_places(dtype: Any) -> bool:
    """Whether values of a type stand at places: numbers, dates and spans, no labels or logicals."""
    return bool(is_numeric_dtype(dtype) and not is_bool_dtype(dtype)) or is_of_time(dtype)


def is_of_time(dtype: Any) -> bool:
    """Whether values of a type are dates or spans of time."""
    return getattr(dtype, "kind", "") in ("m", "M")


def places_of(column: pd.Series[Any], what: str) -> Places:
    """The places of a column."""
    dtype = column.dtype if is_of_time(column.dtype) else None
    values = column if dtype is None else as_numbers(column)
    return Places(str(column.name), numbers(values, what), dtype)


def given_places(given: Any, dtype: Any, what: str) -> Any:
    """What a caller says of a variable as places: a number, or a list of them.

    Dates and spans, where ``dtype`` is of these, become days; numbers are days.
    """
    one = isinstance(given, str) or not np.iterable(given)
    values = pd.Series([given] if one else list(given), dtype=None if dtype else object)
    if dtype is None or values.empty or is_numeric_dtype(values.dtype):
        found = numbers(given if one else list(given), what)
        if found.ndim > 1 - one:
            raise DataError(f"{what}={shown(given)}: one list of numbers is needed")
        return float(found) if one else found.tolist()
    dates, zone = dtype.kind == "M", getattr(dtype, "tz", None)
    called = "dates" if dates else "spans of time"
    if dates and zone is not None:
        called += f" in a time zone, as of {zone},"
    try:
        days = numbers(days_given(list(values), dtype), what)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{what}={shown(given)}: {called} or numbers of days are needed") from error
    return float(days[0]) if one else days.tolist()


def drawn_places(values: Any, dtype: Any) -> np.ndarray:
    """Places as matplotlib takes them: days of dates become dates, whatever its epoch is."""
    found = np.asarray(values, dtype=np.float64)
    if getattr(dtype, "kind", "") != "M":
        return found
    known = np.isfinite(found)
    dates = np.round(np.where(known, found, 0.0) * _DAY).astype("datetime64[us]")
    return np.where(known, dates, np.datetime64("NaT"))


def said(values: Sequence[Any], dtype: Any = None) -> list[str]:
    """Values of a variable in words, which tell them apart; of dates and spans from their days."""
    if dtype is None:
        return [plain_number(v) if isinstance(v, float) else spelling(v) for v in values]
    if dtype.kind == "m":
        return [f"{plain_number(v)} days" for v in values]
    return [spelling(when) for when in dates_of(values, dtype).dt.tz_localize(None)]


def name_axis(ax: Any, name: str, dtype: Any = None) -> None:
    """The horizontal axis of a variable: its name, with dates at the ticks where it is of dates."""
    kind = getattr(dtype, "kind", "")
    ax.set_xlabel(_in_days(name) if kind == "m" else name)
    if kind == "M":
        date_ticks(ax, getattr(dtype, "tz", None))


def _in_days(name: str) -> str:
    return f"{name} (days)"


def date_ticks(ax: Any, zone: Any) -> None:
    """Ticks at dates, no more of them than labels have room for."""
    from matplotlib import dates

    width = ax.get_window_extent().width / ax.figure.dpi
    most = int(np.clip(width / _DATE_WIDTH, _FEWEST, _MOST))
    ticks = dates.AutoDateLocator(tz=zone, minticks=3, maxticks=most)
    for unit, step in _LONGER_STEPS.items():
        ticks.intervald[unit] = [*ticks.intervald[unit], step]
    # the zone is told to them alone: as a unit of the axis it would make limits anew, of lines only
    ax.xaxis.set_major_locator(ticks)
    ax.xaxis.set_major_formatter(dates.ConciseDateFormatter(ticks, tz=zone))
