"""Sums over the rows of every group, their factors, and what no group explains.

For every group the thin QR ``Z_i = Q_i T_i`` of its random-effects design and
``c_i = Q_i' [X_i y_i]`` come out of cross-products by a Cholesky elimination.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from jax import Array

from ..numerics.linalg import back_substitute, eliminate
from ..numerics.namespace import namespace
from .group_index import GroupIndex, Table, stream_pairs
from .level_bases import in_rows, level_bases


def rank_tol(dtype: Any) -> float:
    """Relative pivot below which a column of Z_i counts as a combination of the others.

    Cross-products carry a few eps of their diagonal; columns of data are never that close.
    """
    return max(1e-12, 16.0 * float(np.finfo(dtype).eps))


def explain(
    streams: Sequence[Array], XY: Array, index: GroupIndex
) -> tuple[list[Array], list[Array], Array]:
    """T and c of the groups of every bucket, and the rows of XY that no group explains.

    Parameters
    ----------
    streams : sequence of Array, shape (n, k)
        Whitened covariates of every stream, times the root weights.
    XY : Array, shape (n, C)
        Any columns, times the root weights.
    index : GroupIndex
    """
    tol = rank_tol(XY.dtype)
    bases = level_bases(streams, partial(_cells, index=index), index, tol)
    streams, grams = bases.streams, place_cells(bases.cells, index)
    crosses = cross_arrays(streams, XY, index)
    factors = [eliminate(a, b, tol=tol) for a, b in zip(grams, crosses, strict=True)]
    T, c = [f.U for f in factors], [f.X for f in factors]
    coefficients = [back_substitute(t, v) for t, v in zip(T, c, strict=True)]
    residual = XY - group_fit(streams, coefficients, index)
    # c of the residual rows: what rounding of the cross-products left out
    for b, rest in enumerate(cross_arrays(streams, residual, index)):
        c[b] = c[b] + eliminate(grams[b], rest, tol=tol).X
    if bases.factors is not None:
        T = [in_rows(t, u) for t, u in zip(T, _on_diagonal(bases.factors, index), strict=True)]
    return T, c, residual


def _cells(streams: Sequence[Array], index: GroupIndex) -> list[Array]:
    """``Z' Z`` of the cells of every pair of streams, (L, ka, kb) each."""
    pairs = zip(stream_pairs(len(streams)), index.pairs, strict=True)
    return [_products(streams[a], streams[b], table) for (a, b), table in pairs]


def _on_diagonal(factors: Sequence[Array], index: GroupIndex) -> list[Array]:
    """Factors of all levels, (L, k, k) a stream, as one (q, q, G) array a bucket."""
    xp, cells = namespace(factors), []
    for (a, b), table in zip(stream_pairs(len(factors)), index.pairs, strict=True):
        shape = (table.n_cells, factors[a].shape[1], factors[b].shape[1])
        cells.append(factors[a] if a == b else xp.zeros(shape, factors[a].dtype))
    return place_cells(cells, index)


def _products(left: Array, right: Array, table: Table) -> Array:
    """``left' right`` over the rows of every cell, (L, a, b)."""
    xp = namespace(left, right)
    sums: Array = xp.segment_products(left, right, table.cell, table.n_cells)
    return sums


def place_cells(cells: Sequence[Array], index: GroupIndex) -> list[Array]:
    """``Z_i' Z_i`` from the blocks of every pair of streams, (L, ka, kb) each."""
    xp = namespace(cells)
    out = [xp.zeros((q, q, g), cells[0].dtype) for q, g in _shapes(index)]
    pairs = stream_pairs(len(index.streams))
    for (a, b), block, table in zip(pairs, cells, index.pairs, strict=True):
        for bucket in range(len(out)):
            out[bucket] = _add_cells(out[bucket], block, table, bucket)
            if a != b:
                out[bucket] = _add_cells(out[bucket], block, table, bucket, transpose=True)
    return out


def _add_cells(
    out: Array, cells: Array, table: Table, bucket: int, *, transpose: bool = False
) -> Array:
    """Add cell blocks (L, ka, kb) at their rows and columns of (q, q, G)."""
    xp = namespace(out, cells)
    if transpose:
        cells = xp.swapaxes(cells, 1, 2)
    _, ka, kb = cells.shape
    if not table.placements:
        i, j = (table.column, table.row) if transpose else (table.row, table.column)
        return xp.at(out)[i : i + ka, j : j + kb].add(xp.moveaxis(cells, 0, -1))
    place = table.placements[bucket]
    row, column = (place.column, place.row) if transpose else (place.row, place.column)
    rows = row[:, None, None] + xp.arange(ka, dtype=np.int32)[None, :, None]
    columns = column[:, None, None] + xp.arange(kb, dtype=np.int32)[None, None, :]
    groups = place.group[:, None, None]
    return xp.at(out)[rows, columns, groups].add(cells[place.source], mode="drop")


def cross_arrays(streams: Sequence[Array], XY: Array, index: GroupIndex) -> list[Array]:
    """``Z_i' [X_i y_i]`` of every group, one (q, p + 1, G) array a bucket."""
    levels = [_products(z, XY, table) for z, table in zip(streams, index.levels, strict=True)]
    return place_levels(levels, index)


def place_levels(levels: Sequence[Array], index: GroupIndex) -> list[Array]:
    """``Z_i' [X_i y_i]`` from the blocks of every stream, (L, k, p + 1) each."""
    xp = namespace(levels)
    C = levels[0].shape[2]
    out = [xp.zeros((q, C, g), levels[0].dtype) for q, g in _shapes(index)]
    for block, table in zip(levels, index.levels, strict=True):
        for bucket in range(len(out)):
            out[bucket] = _add_levels(out[bucket], block, table, bucket)
    return out


def _add_levels(out: Array, levels: Array, table: Table, bucket: int) -> Array:
    xp = namespace(out, levels)
    k = levels.shape[1]
    if not table.placements:
        return xp.at(out)[table.row : table.row + k].add(xp.moveaxis(levels, 0, -1))
    place = table.placements[bucket]
    rows = place.row[:, None] + xp.arange(k, dtype=np.int32)[None]
    return xp.at(out)[rows, :, place.group[:, None]].add(levels[place.source], mode="drop")


def group_fit(streams: Sequence[Array], coefficients: Sequence[Array], index: GroupIndex) -> Array:
    """Rows of ``Z_i coefficients_i``, shape (n, p + 1)."""
    xp = namespace(streams, coefficients)
    fit = None
    for stream, table in zip(streams, index.levels, strict=True):
        k = stream.shape[1]
        levels = _take_levels(coefficients, table, k)
        part = xp.row_products(stream, levels[table.cell])
        fit = part if fit is None else fit + part
    assert fit is not None  # a mixed model has a random term
    return fit


def _take_levels(arrays: Sequence[Array], table: Table, k: int) -> Array:
    """Rows of each level out of (q, C, G) arrays, shape (L, k, C)."""
    xp = namespace(arrays)
    if not table.placements:
        return xp.moveaxis(arrays[0][table.row : table.row + k], -1, 0)
    out = xp.zeros((table.n_cells, k, arrays[0].shape[1]), arrays[0].dtype)
    for array, place in zip(arrays, table.placements, strict=True):
        n_groups = array.shape[2]
        rows = place.row[:, None] + np.arange(k, dtype=np.int32)[None]
        levels = array[rows, :, xp.minimum(place.group, n_groups - 1)[:, None]]
        # entries past the end are sent out of range
        cells = xp.where(place.group < n_groups, place.source, table.n_cells)
        out = xp.at(out)[cells].set(levels, mode="drop")
    return out


def _shapes(index: GroupIndex) -> list[tuple[int, int]]:
    return [
        (sum(k * w for k, w in zip(index.sizes, widths, strict=True)), groups)
        for widths, groups in zip(index.widths, index.n_groups, strict=True)
    ]
