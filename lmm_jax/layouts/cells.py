"""Cross-products of cells, the combinations of levels that rows have.

Cells stand in for rows in every index: what a level or a pair of levels adds up to is the
sum over its cells.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jax import Array

from .group_index import GroupIndex, Table, stream_pairs
from .stream_compress import Sums


class CellSums(NamedTuple):
    """Sums over all rows, by term and cell; C cells."""

    gram: Array  # (p + 1, p + 1)      [X y]' W [X y] of shifted, scaled columns
    levels: tuple[Array, ...]  # (C, k, k + p + 1) a term: z' W [z X y] of every level
    pairs: tuple[Array, ...]  # (C, ka, kb) a pair of different terms, as stream_pairs has them
    n_obs: Array  # ()
    log_weights: Array  # ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Coefficients of every term."""
        return tuple(level.shape[1] for level in self.levels)

    def pair(self, a: int, b: int) -> Array:
        """``z_a' W z_b`` at every cell, (C, ka, kb)."""
        if a == b:
            return self.levels[a][:, :, : self.sizes[a]]
        if a > b:
            return self.pair(b, a).transpose(0, 2, 1)
        off = [pair for pair in stream_pairs(len(self.levels)) if pair[0] != pair[1]]
        return self.pairs[off.index((a, b))]


def grouped_sums(cells: CellSums, index: GroupIndex) -> Sums:
    """Sums in the order of a grouped index, padded as it is."""
    off = [
        (pair, table)
        for pair, table in zip(stream_pairs(len(cells.levels)), index.pairs, strict=True)
        if pair[0] != pair[1]
    ]
    return Sums(
        gram=cells.gram,
        levels=tuple(
            add_cells(level, table) for level, table in zip(cells.levels, index.levels, strict=True)
        ),
        pairs=tuple(add_cells(cells.pair(*pair), table) for pair, table in off),
        n_obs=cells.n_obs,
        log_weights=cells.log_weights,
    )


def add_cells(values: Any, table: Table) -> Array:
    """Sums over the cells of every entry of a table, (n_cells, ...)."""
    count = len(values)
    place = table.cell[:count]
    out: Any = np.zeros((table.n_cells, *values.shape[1:]))
    if bool((place == np.arange(count)).all()):
        out[:count] = values
        return out
    order = np.argsort(place, kind="stable")
    ranked = place[order]
    starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
    out[ranked[starts]] = np.add.reduceat(values[order], starts)
    return out
