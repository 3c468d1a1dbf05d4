"""Where every row goes in the Markov layout: row after row in time, subject after subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from ...covariance.structures import Structure
from ...numerics.shapes import round_up, round_up_rows
from ...reprs import brief
from ..group_index import LevelMap, rank_within
from .index import (
    OfBuckets,
    ResidualPlan,
    ResidualRows,
    arm_of_groups,
    buckets_of_groups,
    check_size,
    columns_of,
    of_buckets,
    placed,
    places_of_levels,
    rows_placed,
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChainBucketIndex:
    """Groups of one arm and similar size side by side, or all rows of an arm as one group."""

    rows: np.ndarray  # (G, l)  row at each place, in the order of time; n where there is none
    columns: tuple[np.ndarray, ...]  # (G, l) a stream: first column of the row's level
    follows: np.ndarray  # (G, l)  1 where the place before has a row of the same subject
    gaps: np.ndarray  # (G, l)  how much earlier that one is; 1 where there is none
    slopes: np.ndarray  # (m_s, G, l): log standard deviations by their parameters
    widths: tuple[int, ...] = field(metadata={"static": True})  # levels of each term in a group
    arm: int = field(metadata={"static": True})  # which of the residual structures

    __repr__ = brief


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChainIndex(OfBuckets):
    """Index of a design whose residuals depend on the row before."""

    buckets: tuple[ChainBucketIndex, ...]

    __repr__ = brief

    @property
    def n_groups(self) -> tuple[int, ...]:
        """Groups of every bucket."""
        return tuple(bucket.rows.shape[0] for bucket in self.buckets)

    def size(self, p: int) -> int:
        """Numbers in a layout of p fixed effects."""
        pairs = zip(self.buckets, self.n_columns, strict=True)
        return sum(2 * bucket.rows.size * (q + p + 1) for bucket, q in pairs)


class ChainPlan(ResidualPlan):
    """The host's side of the index."""

    __slots__ = ()
    index: ChainIndex  # type: ignore[assignment]


def plan_chains(
    group: np.ndarray,
    n_groups: int,
    codes: Sequence[np.ndarray],
    n_levels: Sequence[int],
    structures: Sequence[Structure],
    rows: ResidualRows,
    n_components: int = 0,
) -> ChainPlan:
    """Build the index of a design whose residual covariances are all of neighbours in time.

    Parameters
    ----------
    group, n_groups, codes, n_levels, structures, rows, n_components
        As in :func:`lmm_jax.layouts.residual.index.plan_residual`.

    Raises
    ------
    DataError
        A group of several arms; rows and random effects of a group that memory does not hold.
    """
    n = group.size
    arm = arm_of_groups(rows.arm, group, n_groups)
    if not codes:  # without random effects nothing but subjects matters: an arm is one group
        group, n_groups = rows.arm, len(rows.structures)
        arm = np.arange(n_groups)
    counts = np.bincount(group, minlength=n_groups)
    bucket = buckets_of_groups(arm, counts)
    n_buckets = int(bucket.max(initial=0)) + 1
    position = rank_within(bucket, n_buckets)
    maps, widths = places_of_levels(
        group, n_groups, codes, n_levels, structures, bucket, position, n_buckets
    )
    order = np.lexsort((rows.places[0], rows.subject, group))
    first = np.cumsum(counts) - counts
    place = np.arange(n) - first[group[order]]
    made = []
    for b in range(n_buckets):
        length = round_up(int(counts[bucket == b].max(initial=1)), least=4)
        G = round_up(int((bucket == b).sum()), least=1)
        check_size(widths[b], structures, G * length, int(counts.max(initial=0)))
        mine = np.flatnonzero(bucket[group[order]] == b)
        source = np.full((G, length), n, np.int32)
        at = position[group[order[mine]]], place[mine]
        source[at] = order[mine]
        own = (*widths[b], *(0 for _ in rows.structures))
        made.append(_bucket(source, at, order[mine], codes, maps, rows, own))
    index = ChainIndex(
        **of_buckets(made, round_up_rows(n + 1), codes, structures, rows, n_components)
    )
    return ChainPlan(
        index=index,  # type: ignore[arg-type]
        level_maps=maps,
        group_bucket=bucket,
        group_position=position,
    )


def _bucket(
    source: np.ndarray,
    at: tuple[np.ndarray, np.ndarray],
    mine: np.ndarray,
    codes: Sequence[np.ndarray],
    maps: Sequence[LevelMap],
    rows: ResidualRows,
    widths: tuple[int, ...],
) -> ChainBucketIndex:
    shape, arm = source.shape, int(rows.arm[mine[0]])
    subject = placed(rows.subject, shape, at, mine, -1)
    time = placed(rows.places[0], shape, at, mine)
    follows = np.zeros(shape)
    follows[:, 1:] = (subject[:, 1:] == subject[:, :-1]) & (subject[:, 1:] >= 0)
    gaps = np.ones(shape)
    gaps[:, 1:] = np.where(follows[:, 1:], time[:, 1:] - time[:, :-1], 1.0)
    return ChainBucketIndex(
        rows=source,
        columns=columns_of(codes, maps, shape, at, mine),
        follows=follows,
        gaps=gaps,
        slopes=rows_placed(rows, shape, at, mine, by_visit=False)["slopes"],
        widths=widths,
        arm=arm,
    )
