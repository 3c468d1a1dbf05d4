"""The pass over many rows: batches of one size go through one compiled program."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from .layouts.grouped import GroupedLayout
from .layouts.index import GroupIndex, round_up_rows, stream_pairs
from .layouts.sums import Rows, Sums, Units, add_rows, layout_from_sums, no_rows
from .programs import compiled

# Rows of a batch: products of that many stay in the cache of a core.
BATCH = 1 << 15
# Rows that are looked at for shifts and scales.
_SAMPLE = 4096


@partial(compiled, static="index_streams", donate="sums")
def _add_rows(sums: Sums, rows: Rows, units: Units, index_streams: tuple[int, ...]) -> Sums:
    return add_rows(sums, rows, units, index_streams)


@compiled
def _finish(sums: Sums, units: Units, index: GroupIndex) -> Any:
    layout, precise = layout_from_sums(sums, units, index)
    return layout, (layout.ranks(), layout.within_rss()), precise


def sum_rows(
    y: np.ndarray,
    X: np.ndarray,
    Z: Sequence[np.ndarray],
    weights: np.ndarray | None,
    index: GroupIndex,
) -> tuple[GroupedLayout, tuple[Any, Any]] | None:
    """Layout, ranks and residual sum of squares by one pass over the rows.

    Parameters
    ----------
    y, X, Z, weights
        As in :func:`lmm_jax.layouts.compress.compress`, of any length.
    index : GroupIndex

    Returns
    -------
    tuple or None
        None where sums of products would cost digits: :func:`compress` keeps them.
    """
    units = column_units(y, X)
    sums = no_rows(index, X.shape[1])
    pairs = [
        table.cell
        for (a, b), table in zip(stream_pairs(len(index.streams)), index.pairs, strict=True)
        if a != b
    ]
    levels = [table.cell for table in index.levels]
    for start in range(0, y.size, BATCH):
        at = slice(start, start + BATCH)
        n = min(BATCH, y.size - start)
        length = BATCH if y.size > BATCH else round_up_rows(y.size)
        w = np.ones(n) if weights is None else weights[at]
        rows = Rows(
            y=pad(y[at], length),
            X=pad(X[at], length),
            Z=tuple(pad(z[at], length) for z in Z),
            weights=pad(w, length),
            levels=tuple(pad(cell[start : start + n], length) for cell in levels),
            pairs=tuple(pad(cell[start : start + n], length) for cell in pairs),
        )
        sums = _add_rows(sums, rows, units, index.streams)
    layout, reach, precise = _finish(sums, units, index)
    return (layout, reach) if bool(precise) else None


def column_units(y: np.ndarray, X: np.ndarray) -> Units:
    """Shifts and scales from a sample of the rows.

    Columns are shifted only where X has a column that is constant over all rows.
    """
    some = slice(None, None, max(1, -(-y.size // _SAMPLE)))
    few, few_y = X[some], y[some]
    constant = np.zeros(X.shape[1])
    for j in np.flatnonzero((few == few[:1]).all(axis=0) & (few[0] != 0)):
        if (X[:, j] == X[0, j]).all():
            constant[j] = 1.0 / X[0, j]
            break
    centred = bool(constant.any())
    x_shift = np.where(constant != 0, 0.0, few.mean(axis=0) * centred)
    y_shift = float(few_y.mean()) * centred
    return Units(
        x_shift=x_shift,
        x_unit=_powers_of_two(few - x_shift),
        y_shift=np.asarray(y_shift),
        y_unit=_powers_of_two(few_y[:, None] - y_shift)[0],
        constant=constant,
    )


def _powers_of_two(columns: np.ndarray) -> np.ndarray:
    largest = np.abs(columns).max(axis=0, initial=0.0)
    return np.exp2(np.floor(np.log2(np.where(largest > 0, largest, 1.0))))


def pad(values: np.ndarray, length: int) -> np.ndarray:
    """Zero rows at the end: they weigh nothing."""
    if values.shape[0] == length:
        return values
    out = np.zeros((length, *values.shape[1:]), values.dtype)
    out[: values.shape[0]] = values
    return out
