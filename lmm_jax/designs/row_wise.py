"""Whether columns are computed row by row: tested on rows alone and in other company."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..errors import DataError

# Rounding of a column that is computed twice, as a share of its largest value: the same
# operations on the same numbers, but for the last digits of vectorized functions.
_ROUNDING = 1e-9
# Rows that are read again: of batches until that many were, in pieces and some one by one.
_ENOUGH, _ALONE = 1 << 15, 7
# Rows of each batch, and of all batches, that later ones are joined with.
_KEPT, _MOST = 16, 96

_REMEDY = (
    "looks at all rows (it changes with the rows beside it) and cannot be computed batch by batch: "
    "make it a column first"
)

Read = Callable[[pd.DataFrame], Mapping[str, np.ndarray]]


class Company(NamedTuple):
    """Rows of batches that are gone, with what was read from them there."""

    rows: pd.DataFrame
    values: Mapping[str, np.ndarray]
    n_seen: int  # rows of all batches so far


def check_row_wise(
    read: Read, frame: pd.DataFrame, whole: Mapping[str, np.ndarray], before: Company | None
) -> Company:
    """Raise if what is read from a row depends on the rows beside it.

    The first rows are read again in pieces (halves, every other row, single
    rows), and a sample of every later batch together with rows of the batches
    before it: a batch in which a column is constant tells nothing by itself.

    Parameters
    ----------
    read : callable
        Values by name, one a row, of any frame of rows.
    frame : DataFrame
        Rows of a batch.
    whole : mapping of str to ndarray, shape (n,)
        What was read from the batch.
    before : Company or None
        Rows of earlier batches; None for the first.

    Returns
    -------
    Company
        Rows for the next call.

    Raises
    ------
    DataError
        With the name of a column that has to see all rows.
    """
    n_seen = 0 if before is None else before.n_seen
    if n_seen < _ENOUGH:
        for piece in _pieces(len(frame)):
            _compare(read, frame.iloc[piece], _taken(whole, piece))
    few = _spread(len(frame), _KEPT)
    own = Company(frame.iloc[few], _taken(whole, few), n_seen + len(frame))
    if before is None:
        return own
    joined = _joined(before, own)
    _compare(read, joined.rows, joined.values)
    return joined if len(joined.rows) <= _MOST else before._replace(n_seen=own.n_seen)


def _pieces(n: int) -> Iterator[np.ndarray]:
    """Rows of a batch in other company than all of it."""
    if n < 2:
        return
    rows = _spread(n, _ENOUGH)
    yield from (rows[: len(rows) // 2], rows[len(rows) // 2 :], rows[::2])
    yield from _spread(n, _ALONE)[:, None]


def _taken(values: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: v[rows] for name, v in values.items()}


def _spread(n: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, n - 1, min(n, count)).astype(np.int64))


def _joined(a: Company, b: Company) -> Company:
    rows = pd.concat([a.rows, b.rows], ignore_index=True)
    values = {name: np.concatenate([v, b.values[name]]) for name, v in a.values.items()}
    return Company(rows, values, b.n_seen)


def _compare(read: Read, rows: pd.DataFrame, expected: Mapping[str, np.ndarray]) -> None:
    try:
        found = read(rows)
    except DataError as error:  # NaN of a lag, intervals that depend on the range
        raise DataError(f"{error}; {_REMEDY}") from error
    for name, values in expected.items():
        if not _agree(found[name], values):
            raise DataError(f"`{name}` {_REMEDY}")


def _agree(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal up to rounding."""
    if a.dtype.kind != "f":
        return bool((a == b).all())
    size = max(float(np.abs(a).max(initial=0.0)), float(np.abs(b).max(initial=0.0)))
    return bool((np.abs(a - b) <= _ROUNDING * size).all())
