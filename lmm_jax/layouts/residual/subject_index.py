"""Where every row goes in the subject layout: subject after subject of every group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from ...covariance.structures import Structure
from ...numerics.shapes import round_up, round_up_rows
from ...reprs import brief
from ..group_index import rank_within
from .index import (
    OfBuckets,
    ResidualPlan,
    ResidualRows,
    RowPlaces,
    arm_of_groups,
    buckets_of_groups,
    check_dense,
    check_size,
    columns_of,
    heights_of_groups,
    of_buckets,
    places_of_levels,
    rows_placed,
    slots_of,
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SubjectBucketIndex:
    """Groups of one arm and similar size, as many places for subjects in each, N in all."""

    rows: np.ndarray  # (d, N)  row at each place; n where there is none
    columns: tuple[np.ndarray, ...]  # (d, N) a stream: first column of the row's level
    places: np.ndarray  # (., d, N), or (., d, 1) where places are visits
    slopes: np.ndarray  # (m_s, d, N) or (m_s, d, 1): log standard deviations by their parameters
    widths: tuple[int, ...] = field(metadata={"static": True})  # levels of each term in a group
    arm: int = field(metadata={"static": True})  # which of the residual structures
    n_groups: int = field(metadata={"static": True})

    __repr__ = brief


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SubjectIndex(OfBuckets):
    """Index of a design whose subjects share random effects."""

    buckets: tuple[SubjectBucketIndex, ...]

    __repr__ = brief

    @property
    def n_groups(self) -> tuple[int, ...]:
        """Groups of every bucket."""
        return tuple(bucket.n_groups for bucket in self.buckets)

    def size(self, p: int) -> int:
        """Numbers in a layout of p fixed effects."""
        pairs = zip(self.buckets, self.n_columns, strict=True)
        return sum(bucket.rows.size * (2 * (q + p + 1) + len(bucket.rows)) for bucket, q in pairs)


class SubjectPlan(ResidualPlan):
    """The host's side of the index."""

    __slots__ = ()
    index: SubjectIndex  # type: ignore[assignment]


def plan_subjects(
    group: np.ndarray,
    n_groups: int,
    codes: Sequence[np.ndarray],
    n_levels: Sequence[int],
    structures: Sequence[Structure],
    rows: ResidualRows,
    n_components: int = 0,
) -> SubjectPlan:
    """Build the index of a design whose subjects share random effects.

    Parameters
    ----------
    group, n_groups, codes, n_levels, structures, rows, n_components
        As in :func:`lmm_jax.layouts.residual.index.plan_residual`.

    Raises
    ------
    DataError
        A group of several arms; rows of a subject that are too many for a dense matrix, rows and
        random effects of a group that memory does not hold.
    """
    arm = arm_of_groups(rows.arm, group, n_groups)
    used, subject = np.unique(rows.subject, return_inverse=True)
    own = np.zeros(used.size, np.int64)  # group of every subject
    own[subject] = group
    height = np.bincount(subject)
    check_dense(int(height.max(initial=0)), "are of one subject")
    slots = slots_of(rows, int(height.max(initial=1)))
    tall, subjects = heights_of_groups(group, n_groups, subject)
    bucket = buckets_of_groups(arm, subjects, *([] if slots else [tall]))
    inside = places_of_levels(group, codes, n_levels, structures, bucket)
    row = rank_within(subject, used.size) if slots is None else rows.places[0].astype(np.int64)
    number = rank_within(own, n_groups)  # of a subject within its group
    largest, made = int(np.bincount(group).max(initial=0)), []
    for b, widths in enumerate(inside.widths):
        mine = np.flatnonzero(bucket[group] == b)
        d = slots or int(tall[bucket == b].max(initial=1))
        G = round_up(int((bucket == b).sum()), least=1)
        M = round_up(int(subjects[bucket == b].max(initial=1)), least=1)
        check_size(widths, structures, G * M * d, largest, d)
        at = row[mine], inside.position[group[mine]] * M + number[subject[mine]]
        to = RowPlaces(mine, at, (d, G * M))
        made.append(
            SubjectBucketIndex(
                rows=to.numbers(group.size),
                columns=columns_of(codes, inside.maps, to),
                widths=(*widths, *(0 for _ in rows.structures)),
                arm=int(rows.arm[mine[0]]),
                n_groups=G,
                **rows_placed(rows, to, by_visit=slots is not None),
            )
        )
    n_rows = round_up_rows(group.size + 1, n_groups)
    index = SubjectIndex(**of_buckets(made, n_rows, codes, structures, rows, n_components))
    return SubjectPlan(
        index=index,  # type: ignore[arg-type]
        level_maps=inside.maps,
        group_bucket=bucket,
        group_position=inside.position,
    )
