"""The index of the crossed layout: groups that are eliminated, and entries of the core.

Built on the host with NumPy, once per design; no loop over groups or rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import jax
import numpy as np

from ...covariance.structures import OfTerms, Structure, term_sizes
from ...numerics.shapes import round_up
from ...reprs import brief
from ..group_index import GroupIndex, GroupPlan, LevelMap, plan_groups, stream_terms
from .core_index import CorePlan, LinkIndex, link_groups, padded, plan_core, take

# Columns of a block up to which empty blocks may be added, to share compiled programs.
_SMALL_BLOCK = 32
# Numbers in the core and pairs of entries beyond which an evaluation takes milliseconds.
_DEAR = 1 << 17


def is_dear(size: int) -> bool:
    """Whether steps on a layout of so many numbers are directed from the host."""
    return size > _DEAR


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CrossedIndex(OfTerms):
    """Index of a design with crossed factors; a *stream* is a (term, membership) pair."""

    groups: GroupIndex  # of the eliminated terms alone
    slots: tuple[np.ndarray, ...]  # (n,) a stream of theirs: first column within the group
    entries: tuple[tuple[np.ndarray, ...], ...]  # (n,) per stream of the core, per bucket
    rows: tuple[np.ndarray, ...]  # (n,) a stream of the core: first row of the core
    block: np.ndarray  # (n,)  block of the core
    links: tuple[LinkIndex, ...]  # one a bucket
    streams: tuple[int, ...] = field(metadata={"static": True})  # term of each stream
    structures: tuple[Structure, ...] = field(metadata={"static": True})  # one a term
    eliminated: tuple[int, ...] = field(metadata={"static": True})
    crossed: tuple[int, ...] = field(metadata={"static": True})
    core_widths: tuple[int, ...] = field(metadata={"static": True})  # levels of each core term
    n_blocks: int = field(metadata={"static": True})
    n_components: int = field(metadata={"static": True})

    __repr__ = brief

    @property
    def n_rows(self) -> int:
        """Number of rows, rounded up."""
        return self.block.shape[0]

    def size(self, p: int) -> int:
        """Numbers in a layout of ``p`` fixed effects."""
        widths = zip(self.crossed, self.core_widths, strict=True)
        columns = sum(self.sizes[t] * width for t, width in widths)
        pairs = sum(link.left.size for link in self.links)
        return pairs + columns**2 * self.n_blocks + self.groups.size(p)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CrossedPlan:
    """The host's side of the index: the way back to levels, the core as the last bucket."""

    index: CrossedIndex
    level_maps: tuple[LevelMap, ...]  # one a term
    n_groups: int  # groups that are eliminated
    core_size: int  # columns of the largest block
    n_blocks: int

    __repr__ = brief


def plan_crossed(
    group: np.ndarray,
    n_groups: int,
    codes: Sequence[np.ndarray],
    n_levels: Sequence[int],
    structures: Sequence[Structure],
    eliminated: Sequence[int],
    core_name: str,
    n_components: int,
) -> CrossedPlan:
    """Build the index of a design in which some terms cross the groups.

    Parameters
    ----------
    group : ndarray of int, shape (n,)
        Group of each row, ``0 .. n_groups - 1``: what is eliminated one by one.
    n_groups : int
    codes : sequence of ndarray of int, shape (n, S)
        Level of each row in each term, for every membership.
    n_levels : sequence of int
        Levels of each term.
    structures : sequence of Structure
        Covariance of each term.
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
    inner = plan_groups(group, n_groups, *take(eliminated, codes, n_levels, structures))
    outer = take(crossed, codes, n_levels, term_sizes(structures))
    core = plan_core(group, n_groups, *outer, name=core_name)
    links, first = link_groups(inner, core)
    rows = inner.index.n_rows
    index = CrossedIndex(
        groups=inner.index,
        slots=tuple(
            padded(levels.slot[codes[t][:, s]], rows)
            for levels, t in zip(inner.level_maps, eliminated, strict=True)
            for s in range(codes[t].shape[1])
        ),
        entries=_row_entries(group, inner, core, links, first),
        rows=tuple(padded(core.row[stream], rows) for stream in core.streams),
        block=padded(core.group_block[group], rows),
        links=links,
        streams=stream_terms(codes),
        structures=tuple(structures),
        eliminated=tuple(eliminated),
        crossed=tuple(crossed),
        core_widths=core.widths,
        n_blocks=_rounded_blocks(core),
        n_components=n_components,
    )
    maps = dict(zip(eliminated, inner.level_maps, strict=True))
    maps |= zip(crossed, _core_maps(core, len(links)), strict=True)
    return CrossedPlan(
        index=index,
        level_maps=tuple(maps[t] for t in range(len(codes))),
        n_groups=n_groups,
        core_size=int(np.bincount(core.level_block, weights=core.width).max()),
        n_blocks=core.n_blocks,
    )


def _row_entries(
    group: np.ndarray,
    inner: GroupPlan,
    core: CorePlan,
    links: Sequence[LinkIndex],
    first: np.ndarray,
) -> tuple[tuple[np.ndarray, ...], ...]:
    """First entry of each row in every bucket, past the end outside its own; per stream."""
    bucket = inner.group_bucket[group]
    rows = inner.index.n_rows
    return tuple(
        tuple(
            padded(np.where(bucket == b, first[cell], link.group.size), rows)
            for b, link in enumerate(links)
        )
        for cell in core.cells.of_rows
    )


def _rounded_blocks(core: CorePlan) -> int:
    as_is = core.columns > _SMALL_BLOCK or core.n_blocks == 1
    return core.n_blocks if as_is else round_up(core.n_blocks)


def _core_maps(core: CorePlan, bucket: int) -> list[LevelMap]:
    """Places of the levels of every crossed term: the core stands as one more bucket."""
    return [
        LevelMap(
            bucket=np.full(stop - start, bucket),
            group=core.level_block[start:stop],
            slot=core.row[start:stop],
        )
        for start, stop in pairwise(core.offsets)
    ]
