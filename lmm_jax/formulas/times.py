"""Columns of dates and spans of time that an expression reads: new rows hold what the fit's did."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from ..errors import DataError
from .text import is_text

# How what is remembered of the type of a column is called.
TYPES = "type of "
# What has numbers of several kinds, and how other columns become it.
_TIMES = {
    "dates": "pd.to_datetime(…)",
    "spans of time": "pd.to_timedelta(…)",
    "periods": ".dt.to_period(…)",
}


def as_in_fit(
    values: pd.Series[Any], name: str, state: MutableMapping[str, Any], *, always: bool
) -> pd.Series[Any]:
    """A column, dates in the time zone that they had in the first data.

    Parameters
    ----------
    values, name : Series, str
    state : mutable mapping
        What is remembered of the first data.
    always : bool
        Remember what holds no times as well: there they would become numbers.

    Raises
    ------
    DataError
        Times where the first data had something else, or the other way round; a time zone where
        they had none.
    """
    if not len(values):
        return values
    now, zone = _held(values), getattr(values.dtype, "tz", None)
    before = state.get(TYPES + name)
    if before is None:
        if always or now in _TIMES:
            state[TYPES + name] = {"holds": now, "zone": zone}
        return values
    was, zone_before = before["holds"], before["zone"]
    if now != was and (now in _TIMES or was in _TIMES):
        how = _TIMES.get(was, "to the type that it had there")
        raise DataError(
            f"`{name}` holds {now}, {was} in the data of the fit: convert the column, {how}"
        )
    if (zone is None) != (zone_before is None):
        has, had = ("no time zone", "one") if zone is None else ("a time zone", "none")
        how = ".dt.tz_convert(…).dt.tz_localize(None), in the zone that these were in"
        if zone is None:
            how = f".dt.tz_localize({str(zone_before)!r})"
        raise DataError(
            f"`{name}` has {has}, {had} in the data of the fit: convert the column, {how}"
        )
    return values.dt.tz_convert(zone_before) if zone != zone_before else values


def _held(values: pd.Series[Any]) -> str:
    """What a column holds, in words."""
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return "categories"
    if isinstance(dtype, pd.PeriodDtype):
        return "periods"
    if dtype.kind in "mM":
        return "dates" if dtype.kind == "M" else "spans of time"
    if is_bool_dtype(dtype):
        return "logicals"
    if is_numeric_dtype(dtype):
        return "numbers"
    return "text" if is_text(values) else f"values of the type {dtype}"
