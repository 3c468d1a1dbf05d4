"""Whole numbers of more digits than float64 has, where they are to be numbers, not labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError

# The largest range of integers that float64 holds.
_EXACT = 2**53
# Rounding that is refused, in units of the range of a column: half of the digits of float64.
_LOST = 2.0**-26


def check_digits(values: Any, what: str) -> None:
    """Raise for integers that float64 rounds by more than half of the digits of their range.

    Parameters
    ----------
    values : Series, array or extension array
        Anything but integers of 64 bits and objects is not looked at.
    what : str
        Name of the column or argument, for messages.

    Raises
    ------
    DataError
        Such integers, ``2**60 + 1`` and ``2**60 + 300``. Nanoseconds since 1970 over a day are
        rounded by less than 1e-11 of it.
    """
    dtype = values.dtype
    if getattr(dtype, "kind", "") not in "iuO" or dtype.itemsize != 8 or not np.ndim(values):
        return
    if getattr(values, "ndim", 1) == 2:
        for column in np.asarray(values).T:
            check_digits(column, what)
        return
    known = values
    if not isinstance(dtype, np.dtype) or dtype.kind == "O":  # which may have gaps
        known = pd.Series(values).dropna()
    if not len(known):
        return
    low, high = int(known.min()), int(known.max())
    largest = max(high, -low)
    if largest <= _EXACT or low == high:
        return
    rounding = int(np.spacing(float(largest))) // 2
    lost = rounding > _LOST * (high - low)
    if lost and any(int(float(value)) != int(value) for value in known):
        raise DataError(
            f"{what} has integers above 2^53, which float64 rounds by up to {rounding}, and they "
            f"are no more than {high - low} apart: subtract a constant before they become "
            "numbers, x - x.min() in the data"
        )
