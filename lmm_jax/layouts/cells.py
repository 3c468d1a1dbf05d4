"""Cross-products of cells, the combinations of levels that rows have.

Cells stand in for rows in every index: what a level or a pair of levels adds up to is the
sum over its cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from ..covariance.structures import Structure
from ..numerics.namespace import NUMPY as xp
from .group_index import GroupIndex, Table, stream_pairs
from .stream_compress import (
    Digits,
    Scale,
    Sums,
    Units,
    fixed_maps,
    scale_of_gram,
    whiteners_of,
)


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


class WhitenedCells(NamedTuple):
    """Cells on a common scale: whitened covariates, orthonormal X, y an OLS residual."""

    cells: CellSums
    scale: Scale
    whiteners: tuple[Array, ...]
    crosses: list[Array]  # (C, k, p + 1) a term: z' W [X y]
    pivot: Array  # the smallest of all factorizations

    def pair(self, a: int, b: int) -> Array:
        """``z_a' W z_b`` at every cell, (C, ka, kb)."""
        return self.whiteners[a].T @ self.cells.pair(a, b) @ self.whiteners[b]

    def gram(self) -> Array:
        """``[X y]' W [X y]``."""
        return self.scale.R.T @ self.cells.gram @ self.scale.R

    def maps(self, step: Array, units: Units, index: Any) -> dict[str, Any]:
        """What leads from a layout back to the data, y being measured from X step."""
        return dict(
            whiteners=self.whiteners,
            **fixed_maps(self.scale, step, units),
            n_obs=self.cells.n_obs,
            log_weights=self.cells.log_weights,
            structures=index.structures,
            n_components=index.n_components,
        )

    def digits(self, layout: Any, full: Any) -> Digits:
        """What the digits of a layout hang on; ``full``: whether effects reach every row."""
        full = full | (layout.ranks() >= self.cells.n_obs)
        share = xp.minimum(self.scale.share, xp.where(full, 1.0, layout.S0[-1, -1]))
        return Digits(left=share, pivot=self.pivot)


def whitened_cells(cells: CellSums, structures: Sequence[Structure]) -> WhitenedCells:
    """Cells on a common scale."""
    scale = scale_of_gram(cells.gram)
    squares = [cells.pair(t, t).sum(axis=0) / cells.n_obs for t in range(len(cells.levels))]
    whiteners, pivot = whiteners_of(squares, structures)
    crosses = [
        A.T @ level[:, :, k:] @ scale.R
        for A, level, k in zip(whiteners, cells.levels, cells.sizes, strict=True)
    ]
    return WhitenedCells(cells, scale, whiteners, crosses, xp.minimum(scale.pivot, pivot))


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
