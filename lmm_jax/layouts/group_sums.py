"""Sums over the rows of every group, their factors, and what no group explains.

For every group the thin QR ``Z_i = Q_i T_i`` of its random-effects design and
``c_i = Q_i' [X_i y_i]`` come out of cross-products by a Cholesky elimination.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from ..numerics.linalg import back_substitute, eliminate
from ..numerics.namespace import NUMPY, namespace
from .group_index import GroupIndex, Table, stream_pairs
from .level_bases import in_rows, level_bases, poor_share


def rank_tol(dtype: Any) -> float:
    """Relative pivot below which a column of Z_i counts as a combination of the others.

    Cross-products carry a few eps of their diagonal; columns of data are never that close.
    """
    return max(1e-12, 16.0 * float(np.finfo(dtype).eps))


def _rounding_of_rows(dtype: Any) -> float:
    """Share of the sum of squares of a column below which it is its own rounding."""
    return max(1e-24, (64.0 * float(np.finfo(dtype).eps)) ** 2)


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
    apart = without_inner(streams, grams, index, tol)
    if apart is not None:
        streams, grams = apart.streams, apart.grams
    crosses = cross_arrays(streams, XY, index)
    factors = [eliminate(a, b, tol=tol) for a, b in zip(grams, crosses, strict=True)]
    T, c = [f.U for f in factors], [f.X for f in factors]
    coefficients = [back_substitute(t, v) for t, v in zip(T, c, strict=True)]
    residual = XY - group_fit(streams, coefficients, index)
    # c of the residual rows: what rounding of the cross-products left out
    for b, rest in enumerate(cross_arrays(streams, residual, index)):
        c[b] = c[b] + eliminate(grams[b], rest, tol=tol).X
    if apart is not None:
        T = [in_rows(t, u) for t, u in zip(T, apart.factors, strict=True)]
    if bases.factors is not None:
        T = [in_rows(t, u) for t, u in zip(T, _on_diagonal(bases.factors, index), strict=True)]
    return T, c, residual


class Apart(NamedTuple):
    """Streams less what those of levels inside theirs explain, their cross-products, the way back.

    Of columns that are nearly constant in every level within their own, cross-products of both
    keep the square of what the rows have, as of columns of one level.
    """

    streams: tuple[Array, ...]  # (n, k) a stream
    grams: list[Array]  # (q, q, G) a bucket
    factors: list[Array]  # (q, q, G), unit upper triangular, times which columns are what they were


def without_inner(
    streams: Sequence[Array], grams: Sequence[Array], index: GroupIndex, tol: float
) -> Apart | None:
    """Every stream apart from those within its levels, where cross-products are too little.

    None where no level is inside of another, and, in NumPy, where no column needs it. The
    coefficients are constants of a derivative.
    """
    xp = namespace(streams)
    pairs = zip(stream_pairs(len(streams)), index.pairs, strict=True)
    alone = [index.streams.count(t) == 1 for t in index.streams]  # a level is columns of one stream
    inner = {
        (a, b): table
        for (a, b), table in pairs
        if a != b and table.nested and alone[a] and alone[b]
    }
    if not inner:
        return None
    needed = xp.any(xp.stack([_is_poor(gram, tol) for gram in grams]))
    if xp is NUMPY and not needed:
        return None
    units = [xp.broadcast_to(xp.eye(len(g), dtype=g.dtype)[:, :, None], g.shape) for g in grams]

    def turn() -> Apart:
        out: list[Array] = list(streams)
        cells: dict[tuple[int, int], Array] = {}
        for b, whole in enumerate(streams):
            mine = {a: table for (a, of), table in inner.items() if of == b}
            for a, table in (*mine.items(), *mine.items()):  # twice: what the first pass rounds
                more = _explained_by(out[a], out[b], table, tol)
                out[b] = out[b] - xp.row_products(out[a], more[table.cell])
                cells[a, b] = cells[a, b] + more if (a, b) in cells else more
            if mine:
                out[b] = out[b] * _told(whole, out[b], index.levels[b])
        factors = list(units)
        for (a, b), table in inner.items():
            factors = [_add_cells(u, cells[a, b], table, i) for i, u in enumerate(factors)]
        return Apart(tuple(out), place_cells(_cells(out, index), index), factors)

    found: Apart = xp.cond(needed, turn, lambda: Apart(tuple(streams), list(grams), units))
    return found


def _is_poor(gram: Array, tol: float) -> Array:
    """Whether a column of a group has little left beside those before it, ()."""
    xp = namespace(gram)
    left = xp.diagonal(eliminate(gram, gram[:, :0], tol=tol).U) ** 2
    return xp.any((left > 0) & (left < poor_share(gram.dtype) * xp.diagonal(gram)))


def _explained_by(inner: Array, outer: Array, table: Table, tol: float) -> Array:
    """Coefficients of the outer columns on those of every inner level, (L, a, b)."""
    xp = namespace(inner, outer)
    gram, cross = (
        xp.moveaxis(xp.stop_gradient(_products(inner, rows, table)), 0, -1)
        for rows in (inner, outer)
    )
    found = eliminate(gram, cross, tol=tol)
    return xp.moveaxis(back_substitute(found.U, found.X), -1, 0)


def _told(whole: Array, left: Array, table: Table) -> Array:
    """0 for columns of a level of which only rounding is left, otherwise 1, (n, k)."""
    xp = namespace(whole, left)
    sizes = (xp.diagonal(_products(rows, rows, table), axis1=1, axis2=2) for rows in (whole, left))
    before, after = sizes
    return (after > _rounding_of_rows(whole.dtype) * before).astype(whole.dtype)[table.cell]


def _cells(streams: Sequence[Array], index: GroupIndex) -> list[Array]:
    """``Z' Z`` of the cells of every pair of streams, (L, ka, kb) each."""
    pairs = zip(stream_pairs(len(streams)), index.pairs, strict=True)
    return [_products(streams[a], streams[b], table) for (a, b), table in pairs]


def _on_diagonal(factors: Sequence[Array], index: GroupIndex) -> list[Array]:
    """Factors of all levels, (L, k, k) a stream, as one (q, q, G) array a bucket."""
    xp, cells, terms = namespace(factors), [], index.streams
    for (a, b), table in zip(stream_pairs(len(factors)), index.pairs, strict=True):
        shape = (table.n_cells, factors[a].shape[1], factors[b].shape[1])
        once = a == b and terms.index(terms[a]) == a  # streams of one term have its levels alike
        cells.append(factors[a] if once else xp.zeros(shape, factors[a].dtype))
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
