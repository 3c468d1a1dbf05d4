"""The pass over many rows: batches of one size go through one compiled program."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from ..numerics.devices import ByDevice
from ..numerics.programs import compiled
from ..numerics.shapes import round_up_rows
from .common_scale import powers_of_two
from .group_index import GroupIndex, stream_pairs
from .grouped import GroupedLayout
from .stream_compress import Rows, Sums, Units, add_rows, layout_from_sums, no_rows

# Rows of a batch: products of that many stay in the cache of a core; another device wants more
# work for each of its starts.
_BATCH = ByDevice(1 << 15, 1 << 20)
# Rows from which sums are faster than residual rows.
MANY_ROWS = 1 << 13
# Rows that are looked at for shifts and scales.
_SAMPLE = 4096
# Seconds that NumPy takes for a number in the sums, about.
_PER_NUMBER = 2e-7


@partial(compiled, static="index_streams", donate="sums")
def _add_rows(sums: Sums, rows: Rows, units: Units, index_streams: tuple[int, ...]) -> Sums:
    return add_rows(sums, rows, units, index_streams)


def _finish(sums: Sums, units: Units, index: GroupIndex) -> Any:
    """Layout, its ranks and residual sum of squares, and what its digits hang on."""
    layout, digits = layout_from_sums(sums, units, index)
    return layout, (layout.ranks(), layout.within_rss()), digits


finish = compiled(_finish, host=_PER_NUMBER)


@compiled
def _sum_batch(rows: Rows, units: Units, index: GroupIndex) -> Any:
    """What :func:`finish` makes of a single batch."""
    sums = add_rows(no_rows(index, rows.X.shape[1]), rows, units, index.streams)
    return _finish(sums, units, index)


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
    pairs = zip(stream_pairs(len(index.streams)), index.pairs, strict=True)
    units = column_units(y, X, constant_column(X))
    rows = Rows(
        y=y,
        X=X,
        Z=tuple(Z),
        weights=weights,
        levels=tuple(table.cell[: y.size] for table in index.levels),
        pairs=tuple(table.cell[: y.size] for (a, b), table in pairs if a != b),
    )
    if y.size <= batch_rows():
        layout, reach, digits = _sum_batch(_batch(rows, index.n_rows), units, index)
    else:
        sums = add_batches(no_rows(index, X.shape[1]), rows, units, index.streams)
        layout, reach, digits = finish(sums, units, index)
    return (layout, reach) if digits.are_kept else None


def add_batches(sums: Sums, rows: Rows, units: Units, streams: tuple[int, ...]) -> Sums:
    """Sums with many rows more, a batch at a time; weights may be None."""
    n, most = len(rows.y), batch_rows()
    length = most if n > most else round_up_rows(n)
    for start in range(0, n, most):
        part: Rows = jax.tree.map(lambda a: a[start : start + most], rows)  # noqa: B023
        sums = _add_rows(sums, _batch(part, length), units, streams)
    return sums


def batch_rows() -> int:
    """Rows of a batch on the device that JAX computes on."""
    return _BATCH.here()


def _batch(rows: Rows, length: int) -> Rows:
    """Rows of one length, all with weights."""
    if rows.weights is None:
        rows = rows._replace(weights=np.ones(len(rows.y)))
    return jax.tree.map(lambda a: pad(a, length), rows)


def column_units(y: np.ndarray, X: np.ndarray, constant: int | None) -> Units:
    """Shifts and scales from a sample of the rows.

    Columns are shifted only where X has a column, number ``constant``, that is
    the same in all rows.
    """
    few, few_y = _sample(X), _sample(y)
    x_shift, y_shift = np.zeros(X.shape[1]), 0.0
    ones = np.zeros(X.shape[1])
    if constant is not None:
        x_shift, y_shift = few.mean(axis=0), float(few_y.mean())
        x_shift[constant] = 0.0
        ones[constant] = 1.0 / few[0, constant]
    return Units(
        x_shift=x_shift,
        x_unit=powers_of_two(few - x_shift),
        y_shift=np.asarray(y_shift),
        y_unit=powers_of_two(few_y[:, None] - y_shift)[0],
        constant=ones,
    )


def constant_column(X: np.ndarray) -> int | None:
    """A column of X that is the same in all rows and not zero."""
    few = _sample(X)
    for j in np.flatnonzero((few == few[:1]).all(axis=0) & (few[0] != 0)):
        if (X[:, j] == X[0, j]).all():
            return int(j)
    return None


def _sample(rows: np.ndarray) -> np.ndarray:
    return rows[:: max(1, -(-len(rows) // _SAMPLE))]


def pad(values: np.ndarray, length: int) -> np.ndarray:
    """Zero rows at the end: they weigh nothing."""
    if values.shape[0] == length:
        return values
    out = np.zeros((length, *values.shape[1:]), values.dtype)
    out[: values.shape[0]] = values
    return out
