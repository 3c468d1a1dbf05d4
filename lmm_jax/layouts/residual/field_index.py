"""Where every row goes in the field layout: a plot at its place of the grid of its field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from ...covariance.structures import Structure
from ...numerics.shapes import round_up_rows
from ...reprs import brief
from ..group_index import rank_within
from .index import (
    OfBuckets,
    ResidualPlan,
    ResidualRows,
    RowPlaces,
    arm_of_groups,
    check_size,
    columns_of,
    of_buckets,
    places_of_levels,
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FieldBucketIndex:
    """Groups of one arm with as many fields each, N in all, on grids of one size."""

    rows: np.ndarray  # (N, R, C)  row of each plot; n where there is none
    columns: tuple[np.ndarray, ...]  # (N, R, C) a stream: first column of the row's level
    widths: tuple[int, ...] = field(metadata={"static": True})  # levels of each term in a group
    arm: int = field(metadata={"static": True})
    n_groups: int = field(metadata={"static": True})

    __repr__ = brief


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FieldIndex(OfBuckets):
    """Index of a design whose rows are plots of fields."""

    buckets: tuple[FieldBucketIndex, ...]

    __repr__ = brief

    @property
    def n_groups(self) -> tuple[int, ...]:
        """Groups of every bucket."""
        return tuple(bucket.n_groups for bucket in self.buckets)

    def size(self, p: int) -> int:
        """Numbers in a layout of p fixed effects."""
        pairs = zip(self.buckets, self.n_columns, strict=True)
        return sum(bucket.rows.size * (q + p + 1) for bucket, q in pairs)


class FieldPlan(ResidualPlan):
    """The host's side of the index; NumPy makes the layout, which knows what plots were lost."""

    __slots__ = ()
    index: FieldIndex  # type: ignore[assignment]


def grids(rows: ResidualRows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places of the rows on the grids of their fields.

    Returns
    -------
    at : ndarray of int, shape (2, n)
    shape : ndarray of int, shape (2, S)
        Rows and columns of every field.
    subject : ndarray of int, shape (n,)
        Field of every row.
    """
    subject = np.unique(rows.subject, return_inverse=True)[1]
    n_fields = int(subject.max(initial=-1)) + 1
    first = np.full((2, n_fields), np.inf)
    for axis in range(2):
        np.minimum.at(first[axis], subject, rows.places[axis])
    at = np.round(rows.places - first[:, subject]).astype(np.int64)
    shape = np.zeros((2, n_fields), np.int64)
    for axis in range(2):
        np.maximum.at(shape[axis], subject, at[axis] + 1)
    return at, shape, subject


def grids_of_groups(
    group: np.ndarray, shape: np.ndarray, subject: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Group of every field, (S,), and rows and columns of the grid that its fields share, (2, S).

    Arguments as :func:`grids` gives them.
    """
    own = np.zeros(shape.shape[1], np.int64)
    own[subject] = group
    largest = np.zeros((2, int(own.max(initial=0)) + 1), np.int64)
    for axis in range(2):
        np.maximum.at(largest[axis], own, shape[axis])
    return own, largest[:, own]


def plan_fields(
    group: np.ndarray,
    n_groups: int,
    codes: Sequence[np.ndarray],
    n_levels: Sequence[int],
    structures: Sequence[Structure],
    rows: ResidualRows,
    n_components: int = 0,
) -> FieldPlan:
    """Build the index of a design whose rows are plots of fields.

    Parameters
    ----------
    group, n_groups, codes, n_levels, structures, rows, n_components
        As in :func:`lmm_jax.layouts.residual.index.plan_residual`.

    Raises
    ------
    DataError
        A group of several arms; plots and random effects of a group that memory does not hold.
    """
    arm = arm_of_groups(rows.arm, group, n_groups)
    place, shape, subject = grids(rows)
    own, largest = grids_of_groups(group, shape, subject)
    grid = np.zeros((2, n_groups), np.int64)
    grid[:, own] = largest
    fields = np.bincount(own, minlength=n_groups)
    kinds, bucket = np.unique(np.stack([arm, fields, *grid]), axis=1, return_inverse=True)
    bucket = bucket.reshape(-1)
    inside = places_of_levels(group, codes, n_levels, structures, bucket)
    number = rank_within(own, n_groups)[subject]  # of a row's field within its group
    most, made = int(np.bincount(group).max(initial=0)), []
    for b, (widths, kind) in enumerate(zip(inside.widths, kinds.T.tolist(), strict=True)):
        own_arm, M, R, C = kind
        G, mine = int((bucket == b).sum()), np.flatnonzero(bucket[group] == b)
        check_size(widths, structures, G * M * R * C, most)
        at = inside.position[group[mine]] * M + number[mine], place[0][mine], place[1][mine]
        to = RowPlaces(mine, at, (G * M, R, C))
        made.append(
            FieldBucketIndex(
                rows=to.numbers(group.size),
                columns=columns_of(codes, inside.maps, to),
                widths=(*widths, *(0 for _ in rows.structures)),
                arm=own_arm,
                n_groups=G,
            )
        )
    n_rows = round_up_rows(group.size + 1, n_groups)
    index = FieldIndex(**of_buckets(made, n_rows, codes, structures, rows, n_components))
    return FieldPlan(
        index=index,  # type: ignore[arg-type]
        level_maps=inside.maps,
        group_bucket=bucket,
        group_position=inside.position,
    )
