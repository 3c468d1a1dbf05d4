"""From rows to a layout: one pass over the data, then a residual pass.

For every group the thin QR ``Z_i = Q_i T_i`` of its random-effects design and
``c_i = Q_i' [X_i y_i]`` come out of cross-products by a Cholesky elimination;
what the groups cannot explain is summed from residual rows, so that no digits
are lost by subtraction. All of it is traceable in X, y, Z and the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..covariance.params import real_array
from ..errors import DataError
from ..inputs.arguments import hinted, instance, items
from ..numerics.linalg import back_substitute, eliminate, exact
from ..numerics.processes import check_process
from .common_scale import fixed_frame, whitener
from .crossed.compress import core_rows, fit_rows, link_rows, two_way_fit, within_step
from .crossed.core import Core
from .crossed.index import CrossedIndex
from .crossed.layout import CrossedLayout
from .crossed.links import Links, from_core, to_groups
from .group_index import GroupIndex, Placement, Table, stream_pairs
from .grouped import Bucket, GroupedLayout


def rank_tol(dtype: Any) -> float:
    """Relative pivot below which a column of Z_i counts as a combination of the others.

    Cross-products carry a few eps of their diagonal; columns of data are never that close.
    """
    return max(1e-12, 16.0 * float(jnp.finfo(dtype).eps))


@hinted
@exact
def compress(
    y: Array, X: Array, Z: Sequence[Array], weights: Array, index: GroupIndex | CrossedIndex
) -> GroupedLayout | CrossedLayout:
    """Compress the rows of a mixed model into its sufficient statistics.

    Parameters
    ----------
    y : Array, shape (n,)
        Response, offset already subtracted.
    X : Array, shape (n, p)
        Fixed-effects design of full column rank.
    Z : sequence of Array, shape (n, S, k)
        Random-effects covariates of each term, for each of its S memberships.
    weights : Array, shape (n,)
        Prior weights (residual variance ``sigma^2 / w``). A row of weight zero
        counts as absent.
    index : GroupIndex or CrossedIndex
        Integer bookkeeping; rows past the data point anywhere and weigh nothing.

    Returns
    -------
    GroupedLayout or CrossedLayout

    Notes
    -----
    Columns of X, the columns of each term of Z and y are first brought to a
    common scale by fixed linear maps, which the layout keeps. The maps are
    constants to the differentiation: any value of them describes the same model.
    """
    check_process()
    y, X, Z, weights = _read_rows(y, X, Z, weights, index)
    present = weights > 0
    # the inner where keeps the derivative at an absent row at zero instead of 0 / 0
    root = jnp.where(present, jnp.sqrt(jnp.where(present, weights, 1.0)), 0.0)
    frame = fixed_frame(X, y, weights, present)
    XY = jnp.concatenate([frame.X, frame.y[:, None]], axis=1) * root[:, None]
    whiteners = tuple(whitener(z, weights, s) for z, s in zip(Z, index.structures, strict=True))
    streams = weighted_streams(Z, whiteners, root, index)
    if isinstance(index, CrossedIndex):
        inner, groups = _of_terms(streams, index, index.eliminated), index.groups
    else:
        inner, groups = streams, index
    buckets, residual, step = _factor(inner, XY, groups)
    crossed: dict[str, Any] = {}
    if isinstance(index, CrossedIndex):
        outer = _of_terms(streams, index, index.crossed)
        y_groups = cross_arrays(inner, XY[:, -1:], groups)
        links, core, moments = link_rows(
            inner, outer, XY[:, -1], y_groups, residual, buckets, index
        )
        rows = _Rows(buckets, residual, core)
        rows, more = _measure_from_effects(rows, links, inner, outer, index)
        buckets, residual, step = rows.buckets, rows.residual, step + more
        crossed = dict(
            links=links,
            core=rows.core,
            moments=moments,
            eliminated=index.eliminated,
            crossed=index.crossed,
        )
    log_weights = jnp.sum(jnp.where(present, jnp.log(jnp.where(present, weights, 1.0)), 0.0))
    kind = CrossedLayout if crossed else GroupedLayout
    return kind(
        buckets=buckets,
        S0=residual.T @ residual,
        whiteners=whiteners,
        beta_map=frame.beta_map,
        log_det_map=frame.log_det_map,
        beta_origin=frame.beta_origin + frame.y_scale * (frame.beta_map @ step),
        beta_shift=frame.beta_shift,
        y_scale=frame.y_scale,
        n_obs=jnp.sum(present.astype(y.dtype)),
        log_weights=log_weights,
        structures=index.structures,
        n_components=index.n_components,
        **crossed,
    )


def _read_rows(
    y: Any, X: Any, Z: Any, weights: Any, index: Any
) -> tuple[Array, Array, tuple[Array, ...], Array]:
    """The rows as arrays of floats whose shapes fit each other and the index."""
    needed = "an index of the rows (lmm.row_index)"
    instance(index, "index", (GroupIndex, CrossedIndex), needed)
    y, X, weights = (real_array(v, n) for v, n in ((y, "y"), (X, "X"), (weights, "weights")))
    blocks = [real_array(z, f"Z[{t}]") for t, z in enumerate(items(Z, "Z"))]
    sizes = tuple(z.shape[-1] if z.ndim == 3 else -1 for z in blocks)
    n = y.shape[0] if y.ndim == 1 else -1
    lengths = {len(v) if v.ndim else -1 for v in (X, weights, *blocks)}
    if X.ndim != 2 or weights.ndim != 1 or sizes != index.sizes or lengths != {n}:
        got = ", ".join(str(tuple(v.shape)) for v in (y, X, *blocks, weights))
        raise DataError(
            f"y, X, Z and weights have the shapes {got}: (n,), (n, p), (n, S, k) for terms of "
            f"{index.sizes} coefficients, and (n,) are needed"
        )
    return y, X, tuple(blocks), weights


class _Rows(NamedTuple):
    """What depends on where y is measured from."""

    buckets: tuple[Bucket, ...]
    residual: Array  # (n, p + 1)
    core: Core


def _measure_from_effects(
    rows: _Rows,
    links: Sequence[Links],
    inner: Sequence[Array],
    outer: Sequence[Array],
    index: CrossedIndex,
) -> tuple[_Rows, Array]:
    """Measure y from fixed effects of the core's levels; and the step taken in beta."""
    residual, core = rows.residual, rows.core
    origin, step = two_way_fit(core, residual.T @ residual)
    buckets, coefficients = [], []
    for bucket, link in zip(rows.buckets, links, strict=True):
        moved = to_groups(link.d, from_core(origin, link), link, bucket.T.shape[2])
        y = bucket.c[:, -1] - jnp.einsum("rpg,p->rg", bucket.c[:, :-1], step) - moved[:, 0]
        buckets.append(replace(bucket, c=bucket.c.at[:, -1].set(y)))
        coefficients.append(back_substitute(bucket.T, moved))
    left = fit_rows(outer, origin, index) - _group_fit(inner, coefficients, index.groups)
    residual = residual.at[:, -1].add(-(residual[:, :-1] @ step) - left[:, 0])
    s = core.s.at[:, -1:].set(core_rows(outer, residual[:, -1:], index))
    return _Rows(tuple(buckets), residual, replace(core, s=s, origin=origin)), step


def _of_terms(streams: Sequence[Array], index: CrossedIndex, terms: Sequence[int]) -> list[Array]:
    return [stream for stream, t in zip(streams, index.streams, strict=True) if t in terms]


def weighted_streams(
    Z: Sequence[Array], whiteners: Sequence[Array], root: Array, index: GroupIndex | CrossedIndex
) -> list[Array]:
    """Whitened covariates of every stream, (n, k) each, multiplied by root weights."""
    streams = []
    member = 0
    for i, t in enumerate(index.streams):
        member = member + 1 if i > 0 and index.streams[i - 1] == t else 0
        streams.append((Z[t][:, member] @ whiteners[t]) * root[:, None])
    return streams


def _factor(
    streams: Sequence[Array], XY: Array, index: GroupIndex
) -> tuple[tuple[Bucket, ...], Array, Array]:
    """Buckets, rows of [X y] that no group explains, and the step taken in beta."""
    T, c, residual = explain(streams, XY, index)
    step = within_step(lax.stop_gradient(residual.T @ residual))
    residual = residual.at[:, -1].add(-(residual[:, :-1] @ step))
    c = [v.at[:, -1].add(-jnp.einsum("rpg,p->rg", v[:, :-1], step)) for v in c]
    buckets = tuple(
        Bucket(T=t, c=v, copies=jnp.ones(t.shape[2], t.dtype), widths=w)
        for t, v, w in zip(T, c, index.widths, strict=True)
    )
    return buckets, residual, step


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
    grams = _gram_arrays(streams, index)
    crosses = cross_arrays(streams, XY, index)
    tol = rank_tol(XY.dtype)
    factors = [eliminate(a, b, tol=tol) for a, b in zip(grams, crosses, strict=True)]
    T, c = [f.U for f in factors], [f.X for f in factors]
    coefficients = [back_substitute(t, v) for t, v in zip(T, c, strict=True)]
    residual = XY - _group_fit(streams, coefficients, index)
    # c of the residual rows: what rounding of the cross-products left out
    for b, rest in enumerate(cross_arrays(streams, residual, index)):
        c[b] = c[b] + eliminate(grams[b], rest, tol=tol).X
    return T, c, residual


def _gram_arrays(streams: Sequence[Array], index: GroupIndex) -> list[Array]:
    """``Z_i' Z_i`` of every group, one (q, q, G) array a bucket."""
    cells = []
    for (a, b), table in zip(stream_pairs(len(streams)), index.pairs, strict=True):
        left, right = streams[a], streams[b]
        ka, kb = left.shape[1], right.shape[1]
        products = (left[:, :, None] * right[:, None, :]).reshape(-1, ka * kb)
        sums = jax.ops.segment_sum(products, table.cell, table.n_cells)
        cells.append(sums.reshape(-1, ka, kb))
    return place_cells(cells, index)


def place_cells(cells: Sequence[Array], index: GroupIndex) -> list[Array]:
    """``Z_i' Z_i`` from the blocks of every pair of streams, (L, ka, kb) each."""
    out = [jnp.zeros((q, q, g), cells[0].dtype) for q, g in _shapes(index)]
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
    if transpose:
        cells = jnp.swapaxes(cells, 1, 2)
    _, ka, kb = cells.shape
    if not table.placements:
        i, j = (table.column, table.row) if transpose else (table.row, table.column)
        return out.at[i : i + ka, j : j + kb].add(jnp.moveaxis(cells, 0, -1))
    place = table.placements[bucket]
    row, column = (place.column, place.row) if transpose else (place.row, place.column)
    rows = row[:, None, None] + jnp.arange(ka, dtype=jnp.int32)[None, :, None]
    columns = column[:, None, None] + jnp.arange(kb, dtype=jnp.int32)[None, None, :]
    groups = place.group[:, None, None]
    return out.at[rows, columns, groups].add(cells[place.source], mode="drop")


def cross_arrays(streams: Sequence[Array], XY: Array, index: GroupIndex) -> list[Array]:
    """``Z_i' [X_i y_i]`` of every group, one (q, p + 1, G) array a bucket."""
    C = XY.shape[1]
    levels = []
    for stream, table in zip(streams, index.levels, strict=True):
        k = stream.shape[1]
        products = (stream[:, :, None] * XY[:, None, :]).reshape(-1, k * C)
        sums = jax.ops.segment_sum(products, table.cell, table.n_cells)
        levels.append(sums.reshape(-1, k, C))
    return place_levels(levels, index)


def place_levels(levels: Sequence[Array], index: GroupIndex) -> list[Array]:
    """``Z_i' [X_i y_i]`` from the blocks of every stream, (L, k, p + 1) each."""
    C = levels[0].shape[2]
    out = [jnp.zeros((q, C, g), levels[0].dtype) for q, g in _shapes(index)]
    for block, table in zip(levels, index.levels, strict=True):
        for bucket in range(len(out)):
            out[bucket] = _add_levels(out[bucket], block, table, bucket)
    return out


def _add_levels(out: Array, levels: Array, table: Table, bucket: int) -> Array:
    k = levels.shape[1]
    if not table.placements:
        return out.at[table.row : table.row + k].add(jnp.moveaxis(levels, 0, -1))
    place = table.placements[bucket]
    rows = place.row[:, None] + jnp.arange(k, dtype=jnp.int32)[None]
    return out.at[rows, :, place.group[:, None]].add(levels[place.source], mode="drop")


def _group_fit(streams: Sequence[Array], coefficients: Sequence[Array], index: GroupIndex) -> Array:
    """Rows of ``Z_i coefficients_i``, shape (n, p + 1)."""
    fit = None
    for stream, table in zip(streams, index.levels, strict=True):
        k = stream.shape[1]
        levels = _take_levels(coefficients, table, k)
        part = jnp.sum(stream[:, :, None] * levels[table.cell], axis=1)
        fit = part if fit is None else fit + part
    assert fit is not None  # a mixed model has a random term
    return fit


def _take_levels(arrays: Sequence[Array], table: Table, k: int) -> Array:
    """Rows of each level out of (q, C, G) arrays, shape (L, k, C)."""
    if not table.placements:
        return jnp.moveaxis(arrays[0][table.row : table.row + k], -1, 0)
    out = jnp.zeros((table.n_cells, k, arrays[0].shape[1]), arrays[0].dtype)
    for array, place in zip(arrays, table.placements, strict=True):
        out = out.at[_level_targets(place, array.shape[2], table.n_cells)].set(
            array[
                place.row[:, None] + jnp.arange(k, dtype=jnp.int32)[None], :, place.group[:, None]
            ],
            mode="drop",
        )
    return out


def _level_targets(place: Placement, n_groups: int, n_cells: int) -> Array:
    """Cells to write, entries past the end sent out of range."""
    return jnp.where(jnp.asarray(place.group) < n_groups, place.source, n_cells)


def _shapes(index: GroupIndex) -> list[tuple[int, int]]:
    return [
        (sum(k * w for k, w in zip(index.sizes, widths, strict=True)), groups)
        for widths, groups in zip(index.widths, index.n_groups, strict=True)
    ]
