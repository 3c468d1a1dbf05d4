"""Where every row goes in the Markov layout: row after row in time, subject after subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from ...covariance.structures import Structure
from ...numerics.shapes import round_up, round_up_rows
from ...reprs import brief
from ..group_index import LevelMap
from .index import (
    OfBuckets,
    ResidualPlan,
    ResidualRows,
    RowPlaces,
    arm_of_groups,
    buckets_of_groups,
    check_size,
    columns_of,
    of_buckets,
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
    inside = places_of_levels(group, codes, n_levels, structures, bucket)
    order = np.lexsort((rows.places[0], rows.subject, group))
    first = np.cumsum(counts) - counts
    place = np.arange(n) - first[group[order]]
    made = []
    for b, widths in enumerate(inside.widths):
        length = round_up(int(counts[bucket == b].max(initial=1)), least=4)
        G = round_up(int((bucket == b).sum()), least=1)
        check_size(widths, structures, G * length, int(counts.max(initial=0)))
        mine = np.flatnonzero(bucket[group[order]] == b)
        at = inside.position[group[order[mine]]], place[mine]
        to = RowPlaces(order[mine], at, (G, length))
        own = (*widths, *(0 for _ in rows.structures))
        made.append(_bucket(to, codes, inside.maps, rows, own))
    index = ChainIndex(
        **of_buckets(made, round_up_rows(n + 1), codes, structures, rows, n_components)
    )
    return ChainPlan(
        index=index,  # type: ignore[arg-type]
        level_maps=inside.maps,
        group_bucket=bucket,
        group_position=inside.position,
    )


def _bucket(
    to: RowPlaces,
    codes: Sequence[np.ndarray],
    maps: Sequence[LevelMap],
    rows: ResidualRows,
    widths: tuple[int, ...],
) -> ChainBucketIndex:
    subject, time = to.put(rows.subject, -1), to.put(rows.places[0])
    follows = np.zeros(to.shape)
    follows[:, 1:] = (subject[:, 1:] == subject[:, :-1]) & (subject[:, 1:] >= 0)
    gaps = np.ones(to.shape)
    gaps[:, 1:] = np.where(follows[:, 1:], time[:, 1:] - time[:, :-1], 1.0)
    return ChainBucketIndex(
        rows=to.numbers(len(rows.arm)),
        columns=columns_of(codes, maps, to),
        follows=follows,
        gaps=gaps,
        slopes=rows_placed(rows, to, by_visit=False)["slopes"],
        widths=widths,
        arm=int(rows.arm[to.rows[0]]),
    )
