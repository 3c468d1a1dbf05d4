"""Records whose arrays nobody changes."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


def read_only(record: T) -> T:
    """The record itself, its arrays and those of the records inside of it set read-only.

    Parameters
    ----------
    record : ndarray, tuple, list or dataclass
        Whatever else it holds is left as it is.

    Examples
    --------
    >>> pair = read_only((np.zeros(2), "name"))
    >>> pair[0].flags.writeable
    False
    """
    parts: Any = ()
    if isinstance(record, np.ndarray):
        record.flags.writeable = False
    elif isinstance(record, tuple | list):
        parts = record
    elif is_dataclass(record):
        parts = [getattr(record, f.name) for f in fields(record)]
    for part in parts:
        read_only(part)
    return record
