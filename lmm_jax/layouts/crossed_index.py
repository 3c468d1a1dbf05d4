"""Where every row goes in the crossed layout: groups, entries of the core, and their pairs.

Built on the host with NumPy, once per design; no loop over groups or rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

from ..errors import DataError
from .index import (
    GroupIndex,
    GroupPlan,
    LevelMap,
    plan_groups,
    rank_within,
    round_up,
)
from .links import CHUNK

# Numbers in a dense matrix of the core: those of one block of so many columns. About eight such
# matrices are held at the peak.
MAX_CORE = 20_000
_CORE_MATRICES = 8
# Columns of a block up to which empty blocks may be added, to share compiled programs.
_SMALL_BLOCK = 32


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LinkIndex:
    """Integers of :class:`lmm_jax.layouts.links.Links`."""

    group: np.ndarray  # (E,)
    row: np.ndarray  # (E,)
    block: np.ndarray  # (E,)
    left: np.ndarray  # (P,)
    right: np.ndarray  # (P,)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CrossedIndex:
    """Index of a design with crossed factors; a *stream* is a (term, membership) pair."""

    groups: GroupIndex  # of the eliminated terms alone
    slots: tuple[np.ndarray, ...]  # (n,) a stream of theirs: first column within the group
    entries: tuple[tuple[np.ndarray, ...], ...]  # (n,) per stream of the core, per bucket
    rows: tuple[np.ndarray, ...]  # (n,) a stream of the core: first row of the core
    block: np.ndarray  # (n,)  block of the core
    links: tuple[LinkIndex, ...]  # one a bucket
    streams: tuple[int, ...] = field(metadata={"static": True})  # term of each stream
    sizes: tuple[int, ...] = field(metadata={"static": True})  # coefficients per level of each term
    eliminated: tuple[int, ...] = field(metadata={"static": True})
    crossed: tuple[int, ...] = field(metadata={"static": True})
    core_widths: tuple[int, ...] = field(metadata={"static": True})  # levels of each core term
    n_blocks: int = field(metadata={"static": True})
    n_components: int = field(metadata={"static": True})

    @property
    def n_rows(self) -> int:
        """Number of rows, rounded up."""
        return self.block.shape[0]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CrossedPlan:
    """The host's side of the index: the way back to levels, the core as the last bucket."""

    index: CrossedIndex
    level_maps: tuple[LevelMap, ...]  # one a term
    n_groups: int  # groups that are eliminated
    core_size: int  # columns of the largest block
    n_blocks: int


class _Cells:
    """Distinct (group, level of the core) pairs, sorted by group and level."""

    def __init__(self, group: np.ndarray, levels: Sequence[np.ndarray], n_levels: int) -> None:
        key = np.concatenate([group * n_levels + level for level in levels])
        order = np.argsort(key, kind="stable")
        ranked = key[order]
        first = np.append(True, ranked[1:] != ranked[:-1])
        number = np.empty(key.size, dtype=np.int64)
        number[order] = np.cumsum(first) - 1
        self.group = ranked[first] // n_levels
        self.level = ranked[first] % n_levels
        self.of_rows = np.split(number, len(levels))  # (n,) a stream


def plan_crossed(
    group: np.ndarray,
    n_groups: int,
    codes: Sequence[np.ndarray],
    n_levels: Sequence[int],
    sizes: Sequence[int],
    eliminated: Sequence[int],
    core_name: str = "the core",
    n_components: int = 0,
) -> CrossedPlan:
    """Build the index of a design in which some terms cross the groups.

    Parameters
    ----------
    group : ndarray of int, shape (n,)
        Group of each row, ``0 .. n_groups - 1``: what is eliminated one by one.
    codes : sequence of ndarray of int, shape (n, S)
        Level of each row in each term, for every membership.
    n_levels, sizes : sequence of int
        Levels, and coefficients per level, of each term.
    eliminated : sequence of int
        Terms nested in the groups; the others form the core.
    core_name : str
        What an error calls them.
    n_components : int
        How many of the last terms are variance components.

    Raises
    ------
    DataError
        The dense matrices of the core would not fit into memory.
    """
    crossed = [t for t in range(len(codes)) if t not in eliminated]
    inner = plan_groups(
        group,
        n_groups,
        [codes[t] for t in eliminated],
        [n_levels[t] for t in eliminated],
        [sizes[t] for t in eliminated],
    )
    offsets = np.cumsum([0, *(n_levels[t] for t in crossed)])
    term = np.repeat(np.arange(len(crossed)), np.diff(offsets))
    width = np.array([sizes[t] for t in crossed])[term]  # columns of every level
    streams = [
        codes[t][:, s] + at
        for t, at in zip(crossed, offsets[:-1], strict=True)
        for s in range(codes[t].shape[1])
    ]
    cells = _Cells(group, streams, int(offsets[-1]))
    group_block, level_block, n_blocks = _blocks(cells, n_groups, width)
    row, core_widths = _core_rows(term, level_block, n_blocks, [sizes[t] for t in crossed])
    rows = inner.index.n_rows
    columns = sum(sizes[t] * w for t, w in zip(crossed, core_widths, strict=True))
    _check_memory(int(width.sum()), columns, n_blocks, core_name)
    links, first = _links(inner, cells, row, width, level_block, columns)
    entries = []
    for number in cells.of_rows:
        bucket = inner.group_bucket[group]
        entries.append(
            tuple(
                _padded(np.where(bucket == b, first[number], link.group.size), rows)
                for b, link in enumerate(links)
            )
        )
    index = CrossedIndex(
        groups=inner.index,
        slots=tuple(
            _padded(inner.level_maps[place].slot[codes[t][:, s]], rows)
            for place, t in enumerate(eliminated)
            for s in range(codes[t].shape[1])
        ),
        entries=tuple(entries),
        rows=tuple(_padded(row[stream], rows) for stream in streams),
        block=_padded(group_block[group], rows),
        links=links,
        streams=tuple(t for t, c in enumerate(codes) for _ in range(c.shape[1])),
        sizes=tuple(sizes),
        eliminated=tuple(eliminated),
        crossed=tuple(crossed),
        core_widths=core_widths,
        n_blocks=n_blocks if columns > _SMALL_BLOCK or n_blocks == 1 else round_up(n_blocks),
        n_components=n_components,
    )
    maps: list[LevelMap] = [inner.level_maps[0]] * len(codes)
    for place, t in enumerate(eliminated):
        maps[t] = inner.level_maps[place]
    for place, t in enumerate(crossed):
        at = slice(offsets[place], offsets[place + 1])
        last = np.full(n_levels[t], len(links))
        maps[t] = LevelMap(bucket=last, group=level_block[at], slot=row[at])
    return CrossedPlan(
        index=index,
        level_maps=tuple(maps),
        n_groups=n_groups,
        core_size=int(np.bincount(level_block, weights=width).max()),
        n_blocks=n_blocks,
    )


def _check_memory(size: int, columns: int, n_blocks: int, name: str) -> None:
    """Refuse a dense core that no machine should be asked for."""
    numbers = columns**2 * n_blocks
    if numbers <= MAX_CORE**2:
        return
    gib = _CORE_MATRICES * 8 * numbers / 2**30
    raise DataError(
        f"the crossed terms ({name}) have {size:,} coefficients together: the dense matrices that "
        f"hold them would need about {gib:,.0f} GiB (the limit is {MAX_CORE:,} in one block). Use "
        "a coarser factor, leave a term out, or fit a part of the rows"
    )


def core_blocks(
    group: np.ndarray, level: np.ndarray, n_groups: int, n_levels: int
) -> tuple[int, np.ndarray]:
    """Connected components of groups and levels: their number, and that of each node."""
    graph = scipy.sparse.coo_array(
        (np.ones(group.size, dtype=np.int8), (group, n_groups + level)),
        shape=(n_groups + n_levels,) * 2,
    )
    count, label = scipy.sparse.csgraph.connected_components(graph, directed=False)
    return int(count), label


def _blocks(cells: _Cells, n_groups: int, width: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Block of every group and of every level of the core, and the number of blocks.

    A block holds whole connected components, packed up to the size of the largest.
    """
    count, label = core_blocks(cells.group, cells.level, n_groups, width.size)
    size = np.bincount(label[n_groups:], weights=width, minlength=count).astype(np.int64)
    if size.sum() <= 1.1 * size.max():  # a few stray levels are no reason for a second block
        return np.zeros(n_groups, dtype=np.int64), np.zeros(width.size, dtype=np.int64), 1
    order = np.argsort(-size, kind="stable")
    start = np.cumsum(size[order]) - size[order]
    block = np.empty(count, dtype=np.int64)
    block[order] = np.unique(start // size.max(), return_inverse=True)[1]
    return block[label[:n_groups]], block[label[n_groups:]], int(block.max()) + 1


def _core_rows(
    term: np.ndarray, block: np.ndarray, n_blocks: int, sizes: Sequence[int]
) -> tuple[np.ndarray, tuple[int, ...]]:
    """First row of every level within its block, and the levels of each term in a block."""
    row = np.empty(term.size, dtype=np.int64)
    widths = []
    start = 0
    for t, k in enumerate(sizes):
        at = term == t
        rank = rank_within(block[at], n_blocks)
        row[at] = start + k * rank
        widths.append(_core_width(int(rank.max()) + 1))
        start += k * widths[-1]
    return row, tuple(widths)


def _core_width(n: int) -> int:
    """Levels rounded up, so that data sets of similar size share a program."""
    step = 4 if n <= 32 else 16 if n <= 256 else 32
    return -(-n // step) * step


def _links(
    inner: GroupPlan,
    cells: _Cells,
    row: np.ndarray,
    width: np.ndarray,
    level_block: np.ndarray,
    n_rows: int,
) -> tuple[tuple[LinkIndex, ...], np.ndarray]:
    """Entries and pairs of every bucket, and the first entry of every cell in its bucket."""
    bucket = inner.group_bucket[cells.group]
    first = np.zeros(cells.group.size, dtype=np.int64)
    links = []
    for b in range(len(inner.index.widths)):
        at = np.flatnonzero(bucket == b)
        k = width[cells.level[at]]
        ends = np.cumsum(k)
        first[at] = ends - k
        step = np.arange(int(k.sum())) - np.repeat(first[at], k)
        group = np.repeat(inner.group_position[cells.group[at]], k)
        entry_row = np.repeat(row[cells.level[at]], k) + step
        block = np.repeat(level_block[cells.level[at]], k)
        size = round_up(group.size + 1)  # the last entry is empty: pairs past the end point there
        left, right = _pairs(group, block * n_rows + entry_row, size)
        links.append(
            LinkIndex(
                group=_padded(group, size),
                row=_padded(entry_row, size),
                block=_padded(block, size),
                left=left,
                right=right,
            )
        )
    return tuple(links), first


def _pairs(group: np.ndarray, place: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of entries of one group, ordered by the place of the first in the core.

    Entries are sorted by group and row: the partners of one are those from
    itself to the end of its group.
    """
    end = np.searchsorted(group, group, side="right")
    order = np.argsort(place, kind="stable")
    count = (end - np.arange(group.size))[order]
    total = int(count.sum())
    padded = round_up(total) if total <= CHUNK else -(-total // CHUNK) * CHUNK
    left = np.full(padded, size - 1, dtype=np.int32)
    right = np.full(padded, size - 1, dtype=np.int32)
    left[:total] = np.repeat(order.astype(np.int32), count)
    start = np.cumsum(count) - count
    right[:total] = np.arange(total) - np.repeat(start - order, count)
    return left, right


def _padded(values: np.ndarray, rows: int) -> np.ndarray:
    out = np.zeros(rows, dtype=np.int32)
    out[: values.size] = values
    return out
