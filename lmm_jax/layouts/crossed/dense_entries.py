"""Entries at the columns of the core that most groups touch, as dense matrices.

A list of all pairs of entries grows with the square of what a group touches: a viewer of
1,000 films has half a million. Where most groups touch a column, a product of dense matrices
costs less than its pairs, and needs no list. *Head* is what these columns are called; pairs of
which one entry lies elsewhere stay in the list of :mod:`.links`.

Levels stand in the core in the order of how many groups touch them, so that the head is one
stretch of rows a term. Products are symmetric: of each only blocks of rows from their diagonal
block on are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import jax
import numpy as np
from jax import Array

from ...numerics.devices import ByDevice
from ...numerics.in_place import add_block
from ...numerics.memory import memory_size
from ...numerics.namespace import namespace
from ...reprs import brief
from ..group_index import stable_order

# Pairs up to which a list of them is as good.
_FEW_PAIRS = 1 << 22
# Numbers of a dense matrix that are held at once, seconds of a pair in a list and of a product in
# half of a symmetric matrix product: on two cores of today (a compiled program takes a third of
# that for a pair), and on a GPU that multiplies float64 matrices at 50 TFLOP/s.
_HELD = ByDevice(1 << 23, 1 << 27)
_COSTS = ByDevice((4e-8, 2.2e-11), (5e-10, 2e-14))
# Share of the memory that the list may take, and bytes of a pair in it.
_LISTED, _BYTES = 1 / 16, 8
# Blocks of rows that a product is made of, and rows that are worth one.
_BLOCKS, _BLOCK_ROWS = 8, 512
# Sizes of a head that are compared.
_STEPS = 24


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DenseEntries:
    """Which entries of one bucket go where, chunk by chunk of its groups."""

    member: Array  # (chunks, M)  int32: entry; past the end an empty one
    place: Array  # (chunks, M)  int32: its place among (column of the head, group of the chunk)
    # first row in the core and number of rows of every term with columns in the head
    runs: tuple[tuple[int, int], ...] = field(metadata={"static": True})
    n_groups: int = field(metadata={"static": True})  # of a chunk

    __repr__ = brief

    @property
    def blocks(self) -> list[tuple[int, int, int]]:
        """First column in the head, columns, and first row in the core of every block."""
        out, at = [], 0
        whole = sum(count for _, count in self.runs)
        most = max(-(-whole // _BLOCKS), min(_BLOCK_ROWS, whole))
        for first, count in self.runs:
            cuts = np.linspace(0, count, -(-count // most) + 1).astype(int).tolist()
            out += [(at + a, b - a, first + a) for a, b in pairwise(cuts)]
            at += count
        return out


def by_popularity(level: np.ndarray, n_levels: int) -> np.ndarray:
    """Levels in the order of how many groups touch them, (L,): the most first."""
    return np.argsort(-np.bincount(level, minlength=n_levels), kind="stable")


def head_levels(
    group: np.ndarray, level: np.ndarray, width: np.ndarray, order: np.ndarray
) -> np.ndarray:
    """Which levels of the core the head holds, (L,) bool: those that cost least in all.

    Parameters
    ----------
    group, level : ndarray of int, shape (C,)
        Pairs that meet.
    width : ndarray of int, shape (L,)
        Columns of a level.
    order : ndarray of int, shape (L,)
        Levels as :func:`by_popularity` has them: the head holds the first.
    """
    n_groups = int(group.max(initial=-1)) + 1
    n = np.bincount(group, width[level])
    if float(np.sum(n * (n + 1)) / 2) <= _FEW_PAIRS:
        return np.zeros(width.size, bool)
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    steps = np.unique(np.append(0, np.geomspace(8, max(order.size, 8), _STEPS).astype(int)))
    # columns of every group in the heads of all sizes: those between two sizes, added up
    band = np.searchsorted(steps, rank, side="right")[level]
    cells = np.bincount(group * (steps.size + 1) + band, width[level], n_groups * (steps.size + 1))
    inside = np.cumsum(cells.reshape(n_groups, -1), axis=1)[:, : steps.size]
    rest = np.sum((n * (n + 1))[:, None] - inside * (inside + 1), axis=0) / 2
    columns = np.append(0, np.cumsum(width[order]))[np.minimum(steps, order.size)]
    pair, product = _COSTS.here()
    cost = rest * pair + n_groups * columns.astype(float) ** 2 * product
    there = memory_size()
    if there is not None:
        cost[(rest * _BYTES > _LISTED * there) & (rest > rest.min())] = np.inf
    return rank < steps[int(np.argmin(cost))]


def dense_entries(
    group: np.ndarray,
    row: np.ndarray,
    in_head: np.ndarray,
    empty: int,
    runs: Sequence[tuple[int, int]],
) -> DenseEntries | None:
    """Places of the entries of the head.

    Parameters
    ----------
    group, row : ndarray of int, shape (E,)
        Of every entry, sorted by group.
    in_head : ndarray of bool, shape (E,)
    empty : int
        An entry whose numbers are zero.
    runs : sequence of (int, int)
        First row in the core and number of rows of every term with columns in the head.
    """
    if not in_head.any():
        return None
    h, n_groups = sum(count for _, count in runs), int(group[-1]) + 1
    column = np.zeros(max(first + count for first, count in runs), np.int64)
    column[np.concatenate([first + np.arange(count) for first, count in runs])] = np.arange(h)
    held = _HELD.here()
    size = min(n_groups, max(1, held // h))
    chunks = -(-n_groups // size)
    size = -(-n_groups // chunks)
    member, owner = np.flatnonzero(in_head).astype(np.int32), group[in_head]
    chunk, local = owner % chunks, owner // chunks  # busy groups are often neighbours
    order = stable_order(chunk, chunks)
    counts = np.bincount(chunk, minlength=chunks)
    slot = np.arange(member.size) - np.repeat(np.cumsum(counts) - counts, counts)
    members = np.full((chunks, counts.max()), empty, np.int32)
    places = np.full(members.shape, size * h, np.int32)
    members[chunk[order], slot] = member[order]
    places[chunk[order], slot] = (column[row[in_head]] * size + local)[order]
    return DenseEntries(
        member=members,  # type: ignore[arg-type]  # NumPy's until they are linked
        place=places,  # type: ignore[arg-type]
        runs=tuple(runs),
        n_groups=size,
    )


def _matrix(x: Array, at: DenseEntries, i: Array) -> Array:
    """One chunk of x as a dense matrix, zero elsewhere: (q, E) -> (q, h, groups)."""
    xp = namespace(x)
    q, size = x.shape[0], at.n_groups * sum(count for _, count in at.runs)
    flat = xp.at(xp.zeros((q, size + 1), x.dtype))[:, at.place[i]].set(x[:, at.member[i]])
    return flat[:, :-1].reshape(q, -1, at.n_groups)


def add_head(total: Array, x: Array, y: Array, at: DenseEntries) -> Array:
    """``total + sum_i x_i' y_i`` over the head, (N, N), for x and y with a symmetric result.

    In NumPy ``total`` itself is changed.
    """
    xp = namespace(total, x, y)
    blocks, h = at.blocks, sum(count for _, count in at.runs)

    def body(i: Array, strips: tuple[Array, ...]) -> tuple[Array, ...]:
        left = _matrix(x, at, i)
        right = left if y is x else _matrix(y, at, i)
        return tuple(
            sum((u[a : a + n] @ v[a:].T for u, v in zip(left, right, strict=True)), strip)
            for strip, (a, n, _) in zip(strips, blocks, strict=True)
        )

    start = tuple(xp.zeros((n, h - a), x.dtype) for a, n, _ in blocks)
    strips = xp.fori_loop(0, at.member.shape[0], body, start)
    for strip, (a, n, row) in zip(strips, blocks, strict=True):
        own = strip[:, :n]
        total = add_block(total, 0.5 * (own + own.T), row, row)
        for b, m, column in blocks:
            if b > a:
                part = strip[:, b - a : b - a + m]
                total = add_block(total, part, row, column)
                total = add_block(total, part.T, column, row)
    return total


def head_contractions(x: Array, H: Array, at: DenseEntries, n_groups: int) -> Array:
    """``x_i H x_i'`` of every group over the head, (q, q, G), for a symmetric H, (N, N).

    Pairs of blocks of rows are taken once: half of ``result + result'`` is meant.
    """
    xp = namespace(x, H)
    q, chunks, blocks = x.shape[0], at.member.shape[0], at.blocks

    def body(i: Array, total: Array) -> Array:
        dense, own = _matrix(x, at, i), xp.zeros((q, q, at.n_groups), x.dtype)
        for a, n, row in blocks:
            mine = dense[:, a : a + n]
            through = H[row : row + n, row : row + n] @ mine
            for b, m, column in blocks:
                if b > a:
                    across = H[row : row + n, column : column + m]
                    through = through + 2.0 * (across @ dense[:, b : b + m])
            own = own + xp.sum(through[:, None] * mine[None], axis=2)
        return xp.at(total)[i].set(own)

    whole = xp.fori_loop(0, chunks, body, xp.zeros((chunks, q, q, at.n_groups), x.dtype))
    # group g stands in chunk g % chunks
    found = xp.moveaxis(whole, 0, -1).reshape(q, q, -1)
    if found.shape[2] >= n_groups:
        return found[:, :, :n_groups]
    return xp.pad(found, ((0, 0), (0, 0), (0, n_groups - found.shape[2])))
