"""From rows to the core of a crossed layout and its links to the eliminated groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax import Array

from ...numerics.linalg import back_substitute, eliminate, group_product, total_product
from ...numerics.namespace import NUMPY, namespace
from ..buckets import Bucket
from .arrays import StartMoments
from .core import Core
from .index import CrossedIndex
from .links import Links, add_pairs, apply_at

# Columns of a core whose fixed effects are worth a factorization, for the digits of y; and the
# size, relative to their diagonal, that differences of cross-products have from rounding.
_FIT_COLUMNS = 2048
_ROUNDING = 1e-12
# Integers of the links.
_PLACES = ("group", "row", "block", "left", "right")


def link_rows(
    inner: Sequence[Array],
    outer: Sequence[Array],
    y: Array,
    group_rows: Sequence[Array],
    residual: Array,
    buckets: Sequence[Bucket],
    index: CrossedIndex,
) -> tuple[tuple[Links, ...], Core, StartMoments]:
    """Cross-products of the core with itself, with the groups and with [X y].

    Parameters
    ----------
    inner, outer : sequence of Array, shape (n, k)
        Covariates of the streams of the eliminated terms and of the core's.
    y : Array, shape (n,)
        OLS residual, for the moments of the start values.
    group_rows : sequence of Array, shape (q, 1, G)
        ``Z_1' y`` of the groups of every bucket.
    residual : Array, shape (n, p + 1)
        What the groups leave of [X y].
    buckets : sequence of Bucket
    index : CrossedIndex
    """
    squares = core_products(outer, index)
    entries = [_entry_products(inner, outer, b, bucket, index) for b, bucket in enumerate(buckets)]
    links, S = link_groups(squares, entries, buckets, index)
    s = core_rows(outer, residual, index)
    core = Core(S=S, s=s, origin=s[:, :1] * 0.0, widths=index.core_widths)
    y_rows = core_rows(outer, y[:, None], index)
    return links, core, moments_of(squares, y_rows, links, entries, group_rows, buckets, index)


def link_groups(
    squares: Array, entries: Sequence[Array], buckets: Sequence[Bucket], index: CrossedIndex
) -> tuple[tuple[Links, ...], Array]:
    """Links of the groups of every bucket, and what the groups leave of the core's products.

    Parameters
    ----------
    squares : Array, shape (N, N, B)
        ``Z_2' Z_2``.
    entries : sequence of Array, shape (q, E)
        ``Z_1' Z_2`` at the entries of every bucket.
    buckets : sequence of Bucket
    index : CrossedIndex
    """
    xp = namespace(squares, entries)
    S, links = squares, []
    for b, (x, bucket) in enumerate(zip(entries, buckets, strict=True)):
        link = _link(x, b, index)
        identity = xp.eye(bucket.T.shape[0], dtype=x.dtype)[:, :, None]
        Ti = back_substitute(bucket.T, xp.broadcast_to(identity, bucket.T.shape))
        link = replace(link, d=apply_at(xp.swapaxes(Ti, 0, 1), x, link))
        less = xp.broadcast_to(-identity, bucket.T.shape)
        S = add_pairs(S, less, link, (-link.d, link.d))
        links.append(link)
    return tuple(links), S


def _link(d: Array, b: int, index: CrossedIndex) -> Links:
    """Numbers at the entries of bucket b."""
    xp, at = namespace(d), index.links[b]
    places = {name: xp.asarray(getattr(at, name)) for name in _PLACES}
    return Links(d=d, head=jax.tree.map(xp.asarray, at.head), **places)


def moments_of(
    squares: Array,
    y_rows: Array,
    links: Sequence[Links],
    entries: Sequence[Array],
    group_rows: Sequence[Array],
    buckets: Sequence[Bucket],
    index: CrossedIndex,
) -> StartMoments:
    """:func:`core_moments` of a layout whose ``Z_1' Z_2`` are ``entries``."""
    return core_moments(
        squares,
        y_rows,
        [replace(link, d=x) for link, x in zip(links, entries, strict=True)],
        group_rows,
        buckets,
        sizes=index.sizes,
        eliminated=index.eliminated,
        crossed=index.crossed,
        widths=index.core_widths,
    )


def two_way_fit(core: Core, S0: Array) -> tuple[Array, Array]:
    """Fixed effects of the core's levels and of X that the rows suggest.

    Whatever they are, they describe the same model; near the truth they keep the
    digits of y that large random effects would take.

    Returns
    -------
    origin : Array, shape (N, 1, B)
    step : Array, shape (p,)
    """
    xp = namespace(core.S, S0)
    S, s, S0 = xp.stop_gradient((core.S, core.s, S0))
    if S.shape[0] > _FIT_COLUMNS:
        return xp.zeros_like(s[:, :1]), xp.zeros_like(S0[:-1, 0])
    # a ridge of the size of rounding; empty columns and those that the groups hold get a unit
    scale = xp.diagonal(S).T
    ridge = xp.where(scale > _ROUNDING, _ROUNDING * scale, 1.0)
    lifted = S + xp.eye(S.shape[0], dtype=S.dtype)[:, :, None] * ridge[:, None]
    at = eliminate(lifted, s)
    fit = back_substitute(at.U, at.X)
    step = step_of(S0 - total_product(s, fit))
    origin = xp.where(scale > _ROUNDING, without_step(fit, step), 0.0)[:, None]
    # rounding can leave S indefinite beyond the ridge: any origin describes the same model
    sound = xp.all(xp.isfinite(origin)) & xp.all(xp.isfinite(step))
    return xp.where(sound, origin, 0.0), xp.where(sound, step, 0.0)


def within_step(S_xx: Array, S_xy: Array) -> Array:
    """Estimates of beta within groups, where they leave information about it; like ``S_xy``.

    The estimate that large random effects lead to. Measured from there y keeps
    the digits that it would lose next to an OLS fit which the group effects disturb.
    """
    xp = namespace(S_xx, S_xy)
    if S_xx.shape[0] == 0:
        return S_xy
    e, V = xp.linalg.eigh(S_xx)
    known = e > 1e-3  # of one: the columns of X are orthonormal
    inverse = xp.where(known, 1.0 / xp.where(known, e, 1.0), 0.0)
    return (V * inverse[None]) @ (V.T @ S_xy)


def step_of(gram: Array) -> Array:
    """The same, (p,), of one response from its cross-products with X, (p + 1, p + 1)."""
    return within_step(gram[:-1, :-1], gram[:-1, -1])


def without_step(rows: Array, step: Array) -> Array:
    """The y column of rows of [X y], (N, p + 1, B), where y is measured from ``X step``, (N, B)."""
    return rows[:, -1] - namespace(rows, step).einsum("npb,p->nb", rows[:, :-1], step)


def fit_rows(outer: Sequence[Array], effects: Array, index: CrossedIndex) -> Array:
    """Rows of ``Z_2 a`` for effects (N, C, B), shape (n, C)."""
    xp = namespace(outer, effects)
    N, C, B = effects.shape
    flat = xp.swapaxes(effects, 1, 2).reshape(N * B, C)
    block = xp.asarray(index.block)
    parts = [z[:, None] * flat[row * B + block] for z, row in _core_streams(outer, index)]
    return sum(parts[1:], parts[0])


def _core_streams(outer: Sequence[Array], index: CrossedIndex) -> list[tuple[Array, Array]]:
    """Every column of the core's streams with its row of the core, (n,) each."""
    xp = namespace(outer)
    columns = []
    for z, first in zip(outer, index.rows, strict=True):
        columns += [(z[:, a], xp.asarray(first) + np.int32(a)) for a in range(z.shape[1])]
    return columns


def n_columns(index: CrossedIndex) -> int:
    """Columns of a block of the core."""
    sizes = [index.sizes[t] for t in index.crossed]
    return sum(k * w for k, w in zip(sizes, index.core_widths, strict=True))


def core_products(outer: Sequence[Array], index: CrossedIndex) -> Array:
    """``Z_2' Z_2``, (N, N, B)."""
    xp = namespace(outer)
    N, B = n_columns(index), index.n_blocks
    block = xp.asarray(index.block)
    total = xp.zeros(N * N * B, outer[0].dtype)
    columns = _core_streams(outer, index)
    for left, row in columns:
        for right, column in columns:
            total = xp.at(total)[(row * N + column) * B + block].add(left * right)
    return total.reshape(N, N, B)


def core_rows(outer: Sequence[Array], rows: Array, index: CrossedIndex) -> Array:
    """``Z_2' rows``, (N, C, B)."""
    xp = namespace(outer, rows)
    N, B = n_columns(index), index.n_blocks
    total = xp.zeros((N * B, rows.shape[1]), rows.dtype)
    for z, row in _core_streams(outer, index):
        cell = row * B + xp.asarray(index.block)
        total = total + xp.segment_sum(z[:, None] * rows, cell, N * B)
    return xp.swapaxes(total.reshape(N, B, -1), 1, 2)


def _entry_products(
    inner: Sequence[Array],
    outer: Sequence[Array],
    b: int,
    bucket: Bucket,
    index: CrossedIndex,
) -> Array:
    """``Z_1' Z_2`` at the entries of one bucket, (q, E)."""
    xp = namespace(inner, outer, bucket.T)
    q, E = bucket.T.shape[0], index.links[b].group.size
    total = xp.zeros(q * E, outer[0].dtype)
    for z, entries in zip(outer, index.entries, strict=True):
        first = xp.asarray(entries[b])
        for x, slot in zip(inner, index.slots, strict=True):
            for a in range(x.shape[1]):
                for c in range(z.shape[1]):
                    here = first < E  # rows of other buckets point past the end
                    cell = (xp.asarray(slot) + np.int32(a)) * E + first + np.int32(c)
                    cell = xp.where(here, cell, q * E)
                    total = xp.at(total)[cell].add(x[:, a] * z[:, c], mode="drop")
    return total.reshape(q, E)


def core_moments(
    products: Array,
    y_rows: Array,
    links: Sequence[Links],
    group_rows: Sequence[Array],
    buckets: Sequence[Bucket],
    *,
    sizes: Sequence[int],
    eliminated: Sequence[int],
    crossed: Sequence[int],
    widths: Sequence[int],
) -> StartMoments:
    """Squares that the moment equations of the start values are made of.

    Parameters
    ----------
    products : Array, shape (N, N, B)
        ``Z_2' Z_2``.
    y_rows : Array, shape (N, 1, B)
        ``Z_2' y``.
    links : sequence of Links
        With ``Z_1' Z_2`` at the entries.
    group_rows : sequence of Array, shape (q, 1, G)
        ``Z_1' y``.
    buckets : sequence of Bucket
    sizes : sequence of int
        Coefficients per level of every term.
    eliminated, crossed : sequence of int
        Terms of the groups and of the core.
    widths : sequence of int
        Levels of each term of the core in a block.
    """
    xp = namespace(products, y_rows, group_rows)
    core = xp.asarray(_coefficients(crossed, widths, sizes, products.dtype))
    weight = _level_weights(xp.diagonal(products)).T  # (N, B)
    spread = core.T @ _spread(weight, products, sizes, crossed, widths)
    noise = xp.sum(weight * xp.diagonal(products).T, axis=1) @ core
    norms = xp.sum(xp.diagonal(products), axis=0) @ core
    square = xp.sum(weight[:, None] * y_rows**2, axis=(1, 2)) @ core
    for bucket, link, rows in zip(buckets, links, group_rows, strict=True):
        own = xp.asarray(_coefficients(eliminated, bucket.widths, sizes, products.dtype))
        gram = group_product(bucket.T, bucket.T)
        inner = _level_weights(xp.diagonal(gram)).T  # (q, G)
        spread = spread + own.T @ xp.sum(inner[:, None] * gram**2, axis=-1) @ own
        noise = noise + xp.sum(inner * xp.diagonal(gram).T, axis=1) @ own
        norms = norms + xp.sum(xp.diagonal(gram), axis=0) @ own
        square = square + xp.sum(inner[:, None] * rows**2, axis=(1, 2)) @ own
        mixed = link.d**2  # (q, E)
        of_core = core[link.row]
        spread = spread + own.T @ ((inner[:, link.group] * mixed) @ of_core)
        weighted = (mixed * weight[link.row, link.block][None]) @ of_core
        spread = spread + (own.T @ weighted).T
    return StartMoments(squares=square, noise=noise, spread=spread, norms=norms)


def _spread(
    weight: Array,
    products: Array,
    sizes: Sequence[int],
    crossed: Sequence[int],
    widths: Sequence[int],
) -> Array:
    """``w_l sum_m (z_l' z_m)^2`` of every row l of the core, by the coefficients of m, (N, K)."""
    xp = namespace(weight, products)
    N = products.shape[0]
    columns = [xp.zeros(N, products.dtype)] * sum(sizes)
    start, ends = 0, np.cumsum(sizes)
    for t, w in zip(crossed, widths, strict=True):
        for a in range(sizes[t]):
            part = products[:, start + a : start + sizes[t] * w : sizes[t]]
            squares = (  # no second matrix: a fused sum, or one without products
                xp.einsum("nmb,nmb->nb", part, part) if xp is NUMPY else xp.sum(part * part, axis=1)
            )
            columns[int(ends[t]) - sizes[t] + a] = xp.sum(weight * squares, axis=1)
        start += sizes[t] * w
    return xp.stack(columns, axis=1)


def _level_weights(norms: Array) -> Array:
    return (1.0 + 0.25 * norms) ** -2


def _coefficients(
    terms: Sequence[int], widths: Sequence[int], sizes: Sequence[int], dtype: Any
) -> Array:
    """Indicators of the coefficient that every column belongs to, (columns, K)."""
    ends = np.cumsum(sizes)
    owner = [
        ends[t] - sizes[t] + np.tile(np.arange(sizes[t]), w)
        for t, w in zip(terms, widths, strict=True)
    ]
    return np.eye(int(ends[-1]), dtype=dtype)[np.concatenate(owner)]
