"""From cross-products of cells to a crossed layout: what :mod:`.compress` makes of rows.

All that is measured from residual rows there is a difference of sums here. On the host, in NumPy:
there are as many steps as factors, and none of them depends on the number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jax import Array

from ...numerics.linalg import Elimination, eliminate, total_product
from ...numerics.namespace import NUMPY as xp
from ..buckets import Bucket
from ..cells import CellSums, add_cells, whitened_cells
from ..group_index import stream_pairs
from ..group_sums import place_cells, place_levels, rank_tol
from ..stream_compress import (
    Digits,
    Units,
    measured_from,
    unreached,
)
from .compress import link_groups, moments_of, n_columns, two_way_fit, without_step
from .core import Core, multiply
from .index import CrossedIndex
from .layout import CrossedLayout
from .links import Links, onto_groups

Pair = Callable[[int, int], Array]


def crossed_layout(
    cells: CellSums, units: Units, index: CrossedIndex
) -> tuple[CrossedLayout, Digits]:
    """The layout, and what its digits hang on.

    Parameters
    ----------
    cells : CellSums
        Of all rows, terms in the order of the index, whose rows are the cells.
    units : Units
        What the sums were made with.
    index : CrossedIndex
    """
    at = whitened_cells(cells, index.structures)

    def pair(a: int, b: int) -> Array:
        return xp.asarray(at.pair(a, b))

    grams, rows = _group_arrays(pair, at.crosses, index)
    tol = rank_tol(np.float64)
    factors = [eliminate(a, b, tol=tol) for a, b in zip(grams, rows, strict=True)]
    buckets = [
        Bucket(T=f.U, c=f.X, copies=xp.ones(f.U.shape[2]), widths=w)
        for f, w in zip(factors, index.groups.widths, strict=True)
    ]
    core_squares = _core_products(pair, index)
    entries = [_entry_products(pair, b, bucket, index) for b, bucket in enumerate(buckets)]
    links, S = link_groups(core_squares, entries, buckets, index)
    y_rows = _core_rows(at.crosses, index)
    s = _less_groups(y_rows, links, factors)
    moments = moments_of(
        core_squares, y_rows[:, -1:], links, entries, [r[:, -1:] for r in rows], buckets, index
    )
    left = at.gram() - sum(total_product(f.X, f.X) for f in factors)
    S0, full = unreached(left, factors, cells.n_obs)
    core = Core(S=S, s=s, origin=xp.zeros_like(s[:, :1]), widths=index.core_widths)
    origin, step = two_way_fit(core, S0)
    S0, core = from_effects(S0, core, origin, step)
    layout = CrossedLayout(
        buckets=tuple(
            _less_effects(bucket, link, origin, step)
            for bucket, link in zip(buckets, links, strict=True)
        ),
        S0=S0,
        links=links,
        core=core,
        moments=moments,
        eliminated=index.eliminated,
        crossed=index.crossed,
        **at.maps(step, units, index),
    )
    return layout, at.digits(layout, full)


def _group_arrays(
    pair: Pair, crosses: Sequence[Array], index: CrossedIndex
) -> tuple[list[Array], list[Array]]:
    """``Z_1' Z_1`` and ``Z_1' [X y]`` of the groups of every bucket."""
    inner, groups = index.eliminated, index.groups
    pairs = zip(stream_pairs(len(inner)), groups.pairs, strict=True)
    blocks = [add_cells(pair(inner[a], inner[b]), table) for (a, b), table in pairs]
    levels = [add_cells(crosses[t], table) for t, table in zip(inner, groups.levels, strict=True)]
    return place_cells(blocks, groups), place_levels(levels, groups)


def _core_products(pair: Pair, index: CrossedIndex) -> Array:
    """``Z_2' Z_2``, (N, N, B)."""
    out = xp.zeros((n_columns(index),) * 2 + (index.n_blocks,))
    for t, first in zip(index.crossed, index.rows, strict=True):
        for u, second in zip(index.crossed, index.rows, strict=True):
            products = pair(t, u)
            count, k, m = products.shape
            row = first[:count, None, None] + xp.arange(k)[:, None]
            column = second[:count, None, None] + xp.arange(m)
            np.add.at(out, (row, column, index.block[:count, None, None]), products)
    return out


def _core_rows(crosses: Sequence[Array], index: CrossedIndex) -> Array:
    """``Z_2' [X y]``, (N, p + 1, B)."""
    out = xp.zeros((n_columns(index), index.n_blocks, crosses[0].shape[2]))
    for t, first in zip(index.crossed, index.rows, strict=True):
        count, k, _ = crosses[t].shape
        row = first[:count, None] + xp.arange(k)
        np.add.at(out, (row, index.block[:count, None]), crosses[t])
    return xp.by_rows(xp.swapaxes(out, 1, 2))


def _entry_products(pair: Pair, b: int, bucket: Bucket, index: CrossedIndex) -> Array:
    """``Z_1' Z_2`` at the entries of one bucket, (q, E)."""
    out = xp.zeros((bucket.T.shape[0], index.links[b].group.size))
    for u, entries in zip(index.crossed, index.entries, strict=True):
        for t, slot in zip(index.eliminated, index.slots, strict=True):
            products = pair(t, u)
            count, k, m = products.shape
            first = entries[b][:count]
            here = np.flatnonzero(first < out.shape[1])  # the others are of other buckets
            row = slot[here][:, None, None] + xp.arange(k)[:, None]
            column = first[here][:, None, None] + xp.arange(m)
            np.add.at(out, (row, column), products[here])
    return out


def _less_groups(rows: Array, links: Sequence[Links], factors: Sequence[Elimination]) -> Array:
    """What the groups leave of ``Z_2' [X y]``: less ``d' c``."""
    out: Any = np.array(rows)
    for link, factor in zip(links, factors, strict=True):
        taken = xp.einsum("qe,qpe->ep", link.d, factor.X[:, :, link.group])
        np.subtract.at(out.transpose(0, 2, 1), (link.row, link.block), taken)
    return out


def from_effects(S0: Array, core: Any, origin: Array, step: Array) -> tuple[Array, Any]:
    """What no group explains, with y measured from ``X step`` and effects of the core's levels."""
    p = step.size
    left: Any = np.array(measured_from(S0, step))
    s: Any = np.array(core.s)
    s[:, p] = without_step(s, step)
    moved = multiply(core.S, origin)
    left[:p, p] -= total_product(s[:, :p], origin)[:, 0]
    left[p, :p] = left[:p, p]
    left[p, p] -= total_product(2.0 * s[:, p:] - moved, origin)[0, 0]
    s[:, p:] -= moved
    return left, replace(core, s=s, origin=origin)


def _less_effects(bucket: Bucket, link: Links, origin: Array, step: Array) -> Bucket:
    """A bucket with y measured from there."""
    moved = onto_groups(link.d, origin, link, bucket.T.shape[2])
    c: Any = np.array(bucket.c)
    c[:, -1] -= xp.einsum("rpg,p->rg", c[:, :-1], step) + moved[:, 0]
    return replace(bucket, c=c)
