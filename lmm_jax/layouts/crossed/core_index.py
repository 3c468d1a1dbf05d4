"""Where the levels of crossed factors go: dense blocks of the core, and entries of the groups.

Built on the host with NumPy, once per design; no loop over groups or rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import numpy as np

from ...errors import DataError
from ...numerics.components import connected
from ...numerics.devices import ByDevice
from ...numerics.memory import memory_size
from ...numerics.shapes import round_up
from ...reprs import brief
from ..group_index import GroupPlan, rank_within, stable_order
from .dense_entries import DenseEntries, by_popularity, dense_entries, head_levels
from .links import CHUNK
from .pair_sums import MOST, SORTED

# Dense matrices of the core that are held at the peak, about, one parameter of the eliminated terms
# given: programs of an accelerator update them in their place (five beside the core itself and the
# entries; 93 GiB for 43,884 columns of 14). Bytes that any machine has.
_ANY_MACHINE = 1 << 30
_CORE_MATRICES = ByDevice(8, 7)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LinkIndex:
    """Integers of :class:`lmm_jax.layouts.crossed.links.Links`."""

    group: np.ndarray  # (E,)
    row: np.ndarray  # (E,)
    block: np.ndarray  # (E,)
    left: np.ndarray  # (P,)
    right: np.ndarray  # (P,)
    head: DenseEntries | None = None

    __repr__ = brief


class GroupLevels(NamedTuple):
    """Distinct (group, level of the core) pairs, sorted by group and level."""

    group: np.ndarray  # (C,)
    level: np.ndarray  # (C,)
    of_rows: list[np.ndarray]  # (n,) a stream


class CorePlan(NamedTuple):
    """The crossed terms, their levels counted through."""

    offsets: np.ndarray  # first level of each term, and the end
    streams: list[np.ndarray]  # (n,) a (term, membership) pair: level of each row
    cells: GroupLevels
    group_block: np.ndarray  # (n_groups,)  block of the core
    level_block: np.ndarray  # (L,)
    row: np.ndarray  # (L,)  first row of a level within its block
    order: np.ndarray  # (L,)  levels by popularity: those of a term have their rows in this order
    width: np.ndarray  # (L,)  columns of a level
    widths: tuple[int, ...]  # levels of each term in a block
    columns: int  # of a block
    n_blocks: int


def plan_core(
    group: np.ndarray,
    n_groups: int,
    codes: Sequence[np.ndarray],
    n_levels: Sequence[int],
    sizes: Sequence[int],
    *,
    name: str,
) -> CorePlan:
    """Place the levels of the crossed terms, called ``name`` in an error, in dense blocks."""
    streams, offsets = level_streams(codes, n_levels)
    term = np.repeat(np.arange(len(codes)), np.diff(offsets))
    width = np.asarray(sizes)[term]
    cells = find_cells(group, streams, int(offsets[-1]))
    at = place_levels(cells.group, cells.level, term, n_groups, sizes, name=name)
    return CorePlan(offsets=offsets, streams=streams, cells=cells, width=width, **at._asdict())


class CorePlaces(NamedTuple):
    """Where the levels of the crossed terms stand in the core; see :class:`CorePlan`."""

    group_block: np.ndarray
    level_block: np.ndarray
    row: np.ndarray
    order: np.ndarray
    widths: tuple[int, ...]
    columns: int
    n_blocks: int


def place_levels(
    group: np.ndarray,
    level: np.ndarray,
    term: np.ndarray,
    n_groups: int,
    sizes: Sequence[int],
    *,
    name: str,
) -> CorePlaces:
    """Place levels in dense blocks.

    Parameters
    ----------
    group, level : ndarray of int, shape (C,)
        Pairs that meet: what is connected shares a block.
    term : ndarray of int, shape (L,)
        Term of every level.
    n_groups : int
    sizes : sequence of int
        Coefficients per level of each term.
    name : str
        What an error calls the terms.
    """
    width = np.asarray(sizes)[term]
    group_block, level_block, n_blocks = _blocks(group, level, n_groups, width)
    order = by_popularity(level, width.size)
    row, widths = _core_rows(term, level_block, n_blocks, sizes, order)
    columns = sum(k * w for k, w in zip(sizes, widths, strict=True))
    check_memory(int(width.sum()), columns, n_blocks, name)
    return CorePlaces(group_block, level_block, row, order, widths, columns, n_blocks)


def take(which: Sequence[int], *lists: Sequence[Any]) -> list[Any]:
    """Some entries of every list, what belongs to some of the terms."""
    return [[values[t] for t in which] for values in lists]


def level_streams(
    codes: Sequence[np.ndarray], n_levels: Sequence[int]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Levels of the rows in every membership, counted through all terms, and where terms start."""
    offsets = np.cumsum([0, *n_levels])
    return [
        code[:, s] + at
        for code, at in zip(codes, offsets[:-1], strict=True)
        for s in range(code.shape[1])
    ], offsets


def find_cells(group: np.ndarray, levels: Sequence[np.ndarray], n_levels: int) -> GroupLevels:
    """Which groups meet which levels, from the rows' levels in every membership."""
    groups, level = np.tile(group, len(levels)), np.concatenate(levels)
    order = stable_order(level, n_levels)
    order = order[stable_order(groups[order], int(group.max(initial=-1)) + 1)]
    groups, level = groups[order], level[order]
    first = np.append(True, (groups[1:] != groups[:-1]) | (level[1:] != level[:-1]))
    number = np.empty(order.size, dtype=np.int32)
    number[order] = np.cumsum(first, dtype=np.int32) - 1
    return GroupLevels(groups[first], level[first], np.split(number, len(levels)))


def check_memory(size: int, columns: int, n_blocks: int, name: str) -> None:
    """Refuse a dense core that there is no room for."""
    if room_for(columns, n_blocks):
        return
    numbers = columns**2 * n_blocks
    need, there = core_matrices() * 8 * numbers, memory_size()
    found = "" if there is None else f", and there are {there / 2**30:,.0f} GiB"
    most = f" (and more than {MOST:,} places)" if numbers > MOST else ""
    raise DataError(
        f"the crossed terms ({name}) have {size:,} coefficients together: the dense matrices that "
        f"hold them would need about {need / 2**30:,.0f} GiB{most}{found}. Use a coarser factor, "
        "leave a term out, fit a part of the rows, or take a machine with more memory"
    )


def core_matrices() -> int:
    """Matrices of the core's size that are held at once, about, on the device of programs."""
    return _CORE_MATRICES.here()


def room_for(columns: int, n_blocks: int) -> bool:
    """Whether there is memory for a dense core of blocks of so many columns."""
    numbers = columns**2 * n_blocks
    if _CORE_MATRICES.processor * 8 * numbers <= _ANY_MACHINE:
        return True
    there = memory_size()
    return numbers <= MOST and (there is None or core_matrices() * 8 * numbers <= there)


def core_blocks(
    group: np.ndarray, level: np.ndarray, n_groups: int, n_levels: int
) -> tuple[int, np.ndarray]:
    """Connected components of groups and levels: their number, and that of each node."""
    return connected(group, n_groups + level, n_groups + n_levels)


def _blocks(
    group: np.ndarray, level: np.ndarray, n_groups: int, width: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Block of every group and of every level of the core, and the number of blocks.

    A block holds whole connected components, packed up to the size of the largest.
    """
    count, label = core_blocks(group, level, n_groups, width.size)
    size = np.bincount(label[n_groups:], weights=width, minlength=count).astype(np.int64)
    if size.sum() <= 1.1 * size.max():  # a few stray levels are no reason for a second block
        return np.zeros(n_groups, dtype=np.int64), np.zeros(width.size, dtype=np.int64), 1
    order = np.argsort(-size, kind="stable")
    start = np.cumsum(size[order]) - size[order]
    block = np.empty(count, dtype=np.int64)
    block[order] = np.unique(start // size.max(), return_inverse=True)[1]
    return block[label[:n_groups]], block[label[n_groups:]], int(block.max()) + 1


def _core_rows(
    term: np.ndarray, block: np.ndarray, n_blocks: int, sizes: Sequence[int], order: np.ndarray
) -> tuple[np.ndarray, tuple[int, ...]]:
    """First row of every level within its block, and the levels of each term in a block.

    Levels of a term stand in the given order.
    """
    row = np.empty(term.size, dtype=np.int64)
    widths = []
    start = 0
    for t, k in enumerate(sizes):
        at = order[term[order] == t]
        rank = rank_within(block[at], n_blocks)
        row[at] = start + k * rank
        widths.append(_core_width(int(rank.max()) + 1))
        start += k * widths[-1]
    return row, tuple(widths)


def _core_width(n: int) -> int:
    """Levels rounded up, so that data sets of similar size share a program."""
    step = 4 if n <= 32 else 16 if n <= 256 else 32
    return -(-n // step) * step


def link_groups(inner: GroupPlan, core: CorePlan) -> tuple[tuple[LinkIndex, ...], np.ndarray]:
    """Entries and pairs of every bucket, and the first entry of every cell in its bucket."""
    bucket = inner.group_bucket[core.cells.group]
    first = np.zeros(core.cells.group.size, dtype=np.int32)
    links = []
    for b in range(len(inner.index.widths)):
        at = np.flatnonzero(bucket == b)
        owner = inner.group_position[core.cells.group[at]]
        heads = np.zeros(core.width.size, bool)
        if core.n_blocks == 1:
            heads = head_levels(owner, core.cells.level[at], core.width, core.order)
        count = int(owner.max(initial=-1)) + 1
        # by group, entries of the head behind the others of their group, and by row
        by_row = np.argsort(core.row[core.cells.level[at]], kind="stable")
        at, owner = at[by_row], owner[by_row]
        order = stable_order(2 * owner + heads[core.cells.level[at]], 2 * count)
        at, owner = at[order], owner[order]
        level = core.cells.level[at]
        k = core.width[level]
        first[at] = np.cumsum(k) - k
        step = np.arange(int(k.sum())) - np.repeat(first[at], k)
        group, in_head = np.repeat(owner, k), np.repeat(heads[level], k)
        row = np.repeat(core.row[level], k) + step
        block = np.repeat(core.level_block[level], k)
        size = round_up(group.size + 1)  # the last entry is empty: pairs past the end point there
        left, right = entry_pairs(group, block * core.columns + row, size, in_head)
        links.append(
            LinkIndex(
                group=padded(group, size, last=count - 1),
                row=padded(row, size),
                block=padded(block, size),
                left=left,
                right=right,
                head=dense_entries(group, row, in_head, size - 1, _runs(heads, core)),
            )
        )
    return tuple(links), first


def _runs(heads: np.ndarray, core: CorePlan) -> list[tuple[int, int]]:
    """First row and number of rows of every term with levels in the head."""
    out = []
    for start, stop in pairwise(core.offsets):
        own = np.flatnonzero(heads[start:stop]) + start
        if own.size:
            out.append((int(core.row[own].min()), int(core.width[own].sum())))
    return out


def entry_pairs(
    group: np.ndarray, place: np.ndarray, size: int, in_head: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of entries of one group, (P,) each, by the places in the core of their first entries.

    Up to ``SORTED`` pairs those of one place of the core stand side by side.

    Entries are sorted by group, those of the head last, and by place: the partners of one are
    those from the start of its group to itself, and two of the head are no pair.
    """
    counts = np.bincount(group)
    start = (np.cumsum(counts) - counts)[group]
    stop = np.arange(1, group.size + 1)
    if in_head is not None and in_head.any():
        tails = np.bincount(group[~in_head], minlength=counts.size)
        stop = np.minimum(stop, start + tails[group])
    places = int(place.max(initial=-1)) + 1
    order = stable_order(place, places)
    start, count = start[order], (stop - start)[order]
    total = int(count.sum())
    length = round_up(total) if total <= CHUNK else -(-total // CHUNK) * CHUNK
    ends = np.cumsum(count)
    # pairs are many and their arithmetic is exact modulo 2^32: integers of half the size, in place
    count, order = np.append(count, length - total), np.append(order, size - 1).astype(np.int32)
    second = np.repeat(order, count)
    first = np.arange(length, dtype=np.uint32).view(np.int32)
    first -= np.repeat(np.append(ends - count[:-1] - start, 0).astype(np.int32), count)
    first[total:] = size - 1
    if total > SORTED:  # in order of the second, whose place is as good
        return second, first
    by_first = stable_order(place.astype(np.int32)[first[:total]], places)
    first[:total], second[:total] = first[by_first], second[by_first]
    return first, second


def padded(values: np.ndarray, rows: int, last: int = 0) -> np.ndarray:
    """Integers for the device, ``last`` past their end."""
    out = np.full(rows, max(last, 0), dtype=np.int32)
    out[: values.size] = values
    return out
