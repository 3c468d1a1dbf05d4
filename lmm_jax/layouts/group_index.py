"""Where every row, level and group goes: the integer bookkeeping of the grouped layout.

Built on the host with NumPy, once per design; no loop over groups or rows.
Array lengths are rounded up to a few sizes, so that data sets of similar size
share one compiled program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations_with_replacement

import jax
import numpy as np
import scipy.sparse

from ..covariance.structures import OfTerms, Structure, term_sizes
from ..numerics.shapes import VERY_FEW, round_up, round_up_groups, round_up_rows
from ..reprs import brief

# Octaves of sizes of which groups are padded to arrays of their own.
MAX_BUCKETS = 4
# Labels from which counting costs less than comparing.
_MANY_LABELS = 1 << 15


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Placement:
    """Where the cells of one table go in one bucket; entries past the end have group = G."""

    source: np.ndarray  # (L_b,)  cell
    group: np.ndarray  # (L_b,)  group within the bucket
    row: np.ndarray  # (L_b,)  first row of the cell's block within the group
    column: np.ndarray  # (L_b,)  first column of it

    __repr__ = brief


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Table:
    """A sum over the rows of each cell, and the places of the cells in every bucket.

    ``placements`` is empty when cell i is group i of the only bucket and all
    blocks start at ``(row, column)``: nothing has to be moved then.
    """

    cell: np.ndarray  # (n,)  cell of each row
    placements: tuple[Placement, ...]
    n_cells: int = field(metadata={"static": True})
    row: int = field(metadata={"static": True})
    column: int = field(metadata={"static": True})
    # of two streams: whether the cells are the levels of the first, each in one of the second
    nested: bool = field(default=False, metadata={"static": True})

    __repr__ = brief


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GroupIndex(OfTerms):
    """Index of a grouped design.

    A *stream* is one (term, membership) pair: a row belongs to one level of the
    term in each of its streams.
    """

    levels: tuple[Table, ...]  # one a stream
    pairs: tuple[Table, ...]  # one a pair of streams, in the order of stream_pairs
    streams: tuple[int, ...] = field(metadata={"static": True})  # term of each stream
    structures: tuple[Structure, ...] = field(metadata={"static": True})  # one a term
    widths: tuple[tuple[int, ...], ...] = field(metadata={"static": True})  # per bucket, per term
    n_groups: tuple[int, ...] = field(metadata={"static": True})  # per bucket, rounded up
    n_components: int = field(metadata={"static": True})  # trailing terms: variance components

    __repr__ = brief

    @property
    def n_rows(self) -> int:
        """Number of rows, rounded up."""
        return self.levels[0].cell.shape[0]

    def size(self, p: int) -> int:
        """Numbers in a layout of ``p`` fixed effects."""
        widths = [sum(k * w for k, w in zip(self.sizes, row, strict=True)) for row in self.widths]
        return sum(q * (q + p + 1) * g for q, g in zip(widths, self.n_groups, strict=True))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LevelMap:
    """Place of every level of one term: bucket, group within it, first column in the group."""

    bucket: np.ndarray  # (L,)
    group: np.ndarray  # (L,)
    slot: np.ndarray  # (L,)

    __repr__ = brief


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GroupPlan:
    """The host's side of the index: the way back from buckets to groups and levels."""

    index: GroupIndex
    level_maps: tuple[LevelMap, ...]  # one a term
    group_bucket: np.ndarray  # (n_groups,)
    group_position: np.ndarray  # (n_groups,)

    __repr__ = brief


def stream_terms(codes: Sequence[np.ndarray]) -> tuple[int, ...]:
    """Term of each stream, from the levels of the rows in every term, (n, S)."""
    return tuple(t for t, code in enumerate(codes) for _ in range(code.shape[1]))


def stream_pairs(n_streams: int) -> tuple[tuple[int, int], ...]:
    """Unordered pairs of streams, with themselves."""
    return tuple(combinations_with_replacement(range(n_streams), 2))


def plan_groups(
    group: np.ndarray,
    n_groups: int,
    codes: Sequence[np.ndarray],
    n_levels: Sequence[int],
    structures: Sequence[Structure],
    n_components: int = 0,
) -> GroupPlan:
    """Build the index of a design whose terms are nested in ``group``.

    Parameters
    ----------
    group : ndarray of int, shape (n,)
        Group of each row, ``0 .. n_groups - 1``.
    n_groups : int
    codes : sequence of ndarray of int, shape (n, S)
        Level of each row in each term, for every membership; a level belongs to
        one group only.
    n_levels : sequence of int
        Number of levels of each term.
    structures : sequence of Structure
        Covariance of each term.
    n_components : int
        How many of the last terms are variance components.
    """
    sizes = term_sizes(structures)
    parents = [level_parent(c, group, size) for c, size in zip(codes, n_levels, strict=True)]
    counts = [np.bincount(parent, minlength=n_groups) for parent in parents]
    bucket = _buckets(counts, sizes, n_groups)
    n_buckets = int(bucket.max(initial=0)) + 1
    position = rank_within(bucket, n_buckets)
    widths = tuple(
        tuple(int(count[bucket == b].max(initial=0)) for count in counts) for b in range(n_buckets)
    )
    members = np.bincount(bucket, minlength=n_buckets)
    rows = round_up_rows(group.size, n_groups)
    padded = tuple(
        round_up_groups(int(size), sum(k * w for k, w in zip(sizes, width, strict=True)), rows)
        for size, width in zip(members, widths, strict=True)
    )
    maps = _level_maps(parents, sizes, bucket, position, widths)
    streams = stream_terms(codes)
    columns = [c[:, s] for c in codes for s in range(c.shape[1])]
    levels = tuple(
        _level_table(column, maps[t], padded, rows)
        for t, column in zip(streams, columns, strict=True)
    )
    index = GroupIndex(
        levels=levels,
        pairs=tuple(
            levels[a]
            if a == b
            else _pair_table(
                columns[a], columns[b], maps[streams[a]], maps[streams[b]], padded, rows
            )
            for a, b in stream_pairs(len(streams))
        ),
        streams=streams,
        structures=tuple(structures),
        widths=widths,
        n_groups=padded,
        n_components=n_components,
    )
    return GroupPlan(index=index, level_maps=maps, group_bucket=bucket, group_position=position)


def level_parent(codes: np.ndarray, group: np.ndarray, n_levels: int) -> np.ndarray:
    """Group of every level."""
    parent = np.zeros(n_levels, dtype=np.int64)
    for column in codes.T:
        parent[column] = group
    return parent


def stable_order(label: np.ndarray, n_labels: int) -> np.ndarray:
    """Stable order of labels ``0 .. n_labels - 1``: counted where they are many, not compared."""
    if label.size < _MANY_LABELS:
        return np.argsort(label, kind="stable")
    entries = np.arange(label.size, dtype=np.int32), label, np.arange(label.size + 1)
    table = scipy.sparse.csr_array(entries, shape=(label.size, n_labels))
    return np.asarray(table.tocsc().indices)


def rank_within(label: np.ndarray, n_labels: int) -> np.ndarray:
    """0, 1, 2, ... within each label, in order of appearance."""
    if label.size == n_labels and bool((label == np.arange(n_labels)).all()):
        return np.zeros(n_labels, dtype=np.int64)
    order = stable_order(label, n_labels)
    starts = np.concatenate([[0], np.cumsum(np.bincount(label, minlength=n_labels))[:-1]])
    rank = np.empty(label.size, dtype=np.int64)
    rank[order] = np.arange(label.size) - starts[label[order]]
    return rank


def _level_maps(
    parents: Sequence[np.ndarray],
    sizes: Sequence[int],
    bucket: np.ndarray,
    position: np.ndarray,
    widths: Sequence[Sequence[int]],
) -> tuple[LevelMap, ...]:
    """Places of the levels of every term: terms one after the other in a group."""
    maps = []
    offsets = np.zeros(len(widths), dtype=np.int64)
    for t, (parent, k) in enumerate(zip(parents, sizes, strict=True)):
        slot = offsets[bucket[parent]] + k * rank_within(parent, bucket.size)
        maps.append(LevelMap(bucket=bucket[parent], group=position[parent], slot=slot))
        offsets += k * np.array([w[t] for w in widths], dtype=np.int64)
    return tuple(maps)


def _buckets(counts: Sequence[np.ndarray], sizes: Sequence[int], n_groups: int) -> np.ndarray:
    """Bucket of every group: groups of similar width share one padded array."""
    width = sum((k * c for k, c in zip(sizes, counts, strict=True)), np.zeros(n_groups, np.int64))
    if n_groups == 0 or width.max() <= 2 * width.min():
        return np.zeros(n_groups, dtype=np.int64)
    octave = np.ceil(np.log2(np.maximum(width, 1))).astype(np.int64)
    octave = np.maximum(octave, octave.max() - (MAX_BUCKETS - 1))
    return np.unique(octave, return_inverse=True)[1].astype(np.int64)


def _level_table(
    levels: np.ndarray, level_map: LevelMap, padded: tuple[int, ...], rows: int
) -> Table:
    """The table of a stream alone: its cells are the levels."""
    every = np.arange(level_map.group.size)
    return _table(levels, every, every, level_map, level_map, padded, rows)


def _table(
    cell: np.ndarray,
    row_level: np.ndarray,
    column_level: np.ndarray,
    row_map: LevelMap,
    column_map: LevelMap,
    padded: tuple[int, ...],
    rows: int,
) -> Table:
    n_cells = row_level.size
    cells = np.zeros(rows, np.int32)
    cells[: cell.size] = cell
    bucket, group, slot = (
        places[row_level] for places in (row_map.bucket, row_map.group, row_map.slot)
    )
    column = column_map.slot[column_level]
    aligned = (
        len(padded) == 1
        and bool((group == np.arange(n_cells)).all())
        and bool((slot == slot[0]).all() and (column == column[0]).all())
    )
    if aligned:
        return Table(
            cell=cells, placements=(), n_cells=padded[0], row=int(slot[0]), column=int(column[0])
        )
    return Table(
        cell=cells,
        placements=tuple(
            _placement(np.flatnonzero(bucket == b), group, slot, column, n_groups)
            for b, n_groups in enumerate(padded)
        ),
        n_cells=round_up(n_cells, VERY_FEW),
        row=0,
        column=0,
    )


def _placement(
    source: np.ndarray, group: np.ndarray, row: np.ndarray, column: np.ndarray, n_groups: int
) -> Placement:
    """Places of some cells in a bucket of so many groups."""
    fill = round_up(source.size, VERY_FEW) - source.size
    return Placement(
        source=_extend(source, fill, 0),
        group=_extend(group[source], fill, n_groups),
        row=_extend(row[source], fill, 0),
        column=_extend(column[source], fill, 0),
    )


def _pair_table(
    a: np.ndarray,
    b: np.ndarray,
    map_a: LevelMap,
    map_b: LevelMap,
    padded: tuple[int, ...],
    rows: int,
) -> Table:
    levels_a, levels_b = np.arange(map_a.group.size), np.arange(map_b.group.size)
    if (parent := function_of(a, b, levels_a.size)) is not None:  # b follows from a
        return replace(_table(a, levels_a, parent, map_a, map_b, padded, rows), nested=True)
    if (parent := function_of(b, a, levels_b.size)) is not None:
        return _table(b, parent, levels_b, map_a, map_b, padded, rows)
    key = a.astype(np.int64) * levels_b.size + b
    _, first, cell = np.unique(key, return_index=True, return_inverse=True)
    return _table(cell, a[first], b[first], map_a, map_b, padded, rows)


def function_of(fine: np.ndarray, coarse: np.ndarray, n_fine: int) -> np.ndarray | None:
    """Coarse level of every fine level, or None where a fine level meets several."""
    parent = np.zeros(n_fine, dtype=np.int64)
    parent[fine] = coarse
    return parent if bool((parent[fine] == coarse).all()) else None


def divide_alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two labellings, numbered from zero, divide the rows alike."""
    sizes = int(a.max(initial=-1)) + 1, int(b.max(initial=-1)) + 1
    return function_of(a, b, sizes[0]) is not None and function_of(b, a, sizes[1]) is not None


def _extend(values: np.ndarray, fill: int, with_value: int) -> np.ndarray:
    return np.concatenate([values, np.full(fill, with_value)]).astype(np.int32)
