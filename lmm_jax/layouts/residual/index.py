"""Where every row goes in the residual layout: integer bookkeeping, on the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from ...covariance.residuals import ResidualStructure
from ...covariance.structures import OfTerms, Structure, term_sizes
from ...errors import DataError
from ...numerics.shapes import round_up_rows, round_up_tall
from ...reprs import brief
from ..group_index import (
    MAX_BUCKETS,
    GroupPlan,
    LevelMap,
    divide_alike,
    level_parent,
    rank_within,
    stream_terms,
)

# Rows of a group beyond which its dense matrices are too much.
MOST_ROWS = 4000
# Numbers of rows and random-effects columns that fit into memory (4 GB, twice over).
_MOST_NUMBERS = 1 << 29
# Slots that visits may have for every row of the largest subject, and slots that are few.
_SPARSE, _FEW_SLOTS = 2, 8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ResidualRows:
    """What the residual covariance of a design knows of its rows."""

    structures: tuple[ResidualStructure, ...]  # one an arm
    arm: np.ndarray  # (n,)  int
    subject: np.ndarray  # (n,)  int: rows of different subjects have independent residuals
    n_subjects: int
    places: np.ndarray  # (d, n)  levels of the visit, or coordinates in units of the structure
    levels: np.ndarray | None  # (n,)  level of the standard deviation
    covariate: np.ndarray | None  # (n,)  that standard deviations are a function of

    __repr__ = brief

    def take(self, at: np.ndarray) -> ResidualRows:
        """Some of the rows, all of their subjects."""
        return ResidualRows(
            structures=self.structures,
            arm=self.arm[at],
            subject=self.subject[at],
            n_subjects=self.n_subjects,
            places=self.places[:, at],
            levels=None if self.levels is None else self.levels[at],
            covariate=None if self.covariate is None else self.covariate[at],
        )

    def followed_by(self, new: ResidualRows) -> ResidualRows:
        """These rows and others, whose subjects have the same numbers."""
        levels, x = self.levels, self.covariate
        return ResidualRows(
            structures=new.structures,  # which know the distances between both
            arm=np.append(self.arm, new.arm),
            subject=np.append(self.subject, new.subject),
            n_subjects=self.n_subjects,
            places=np.append(self.places, new.places, axis=1),
            levels=None if levels is None else np.append(levels, new.levels),  # type: ignore[arg-type]
            covariate=None if x is None else np.append(x, new.covariate),  # type: ignore[arg-type]
        )


class RowPlaces(NamedTuple):
    """Where the rows of a bucket go in its arrays."""

    rows: np.ndarray  # (k,)
    at: tuple[Any, ...]  # (k,) an axis
    shape: tuple[int, ...]

    def put(self, values: np.ndarray, fill: float = 0.0) -> np.ndarray:
        """Values of all rows, (..., n): those of the bucket in their places, (..., *shape)."""
        out = np.full((*values.shape[:-1], *self.shape), fill, values.dtype)
        out[..., *self.at] = values[..., self.rows]
        return out

    def numbers(self, n: int) -> np.ndarray:
        """Row at each place; n, which is none, where there is none."""
        return self.put(np.arange(n, dtype=np.int32), n)


class LevelPlaces(NamedTuple):
    """Groups in their buckets, and the levels of the terms in these."""

    position: np.ndarray  # (n_groups,)  of every group within its bucket
    maps: tuple[LevelMap, ...]  # one a term
    widths: tuple[tuple[int, ...], ...]  # levels of each term in a group, a bucket each


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BucketIndex:
    """Groups of one arm and similar size side by side."""

    rows: np.ndarray  # (r, G)  row at each place; n where there is none
    columns: tuple[np.ndarray, ...]  # (r, G) a stream: first column of the row's level
    subjects: np.ndarray | None  # (r, G)  where a group holds several; None: it is one subject
    places: np.ndarray  # (d, r, G), or (d, r, 1) where places are visits
    slopes: np.ndarray  # (m_s, r, G) or (m_s, r, 1): log standard deviations by their parameters
    widths: tuple[int, ...] = field(metadata={"static": True})  # levels of each term in a group
    arm: int = field(metadata={"static": True})  # which of the residual structures

    __repr__ = brief


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OfBuckets(OfTerms):
    """Index of a design whose residuals have a covariance of their own."""

    buckets: tuple[Any, ...]
    n_rows: int = field(metadata={"static": True})  # rounded up; at least one more than there are
    streams: tuple[int, ...] = field(metadata={"static": True})  # term of each stream
    structures: tuple[Structure, ...] = field(metadata={"static": True})  # terms, residuals last
    n_components: int = field(metadata={"static": True})

    __repr__ = brief

    @property
    def n_columns(self) -> tuple[int, ...]:
        """Random effects of a group of every bucket."""
        return tuple(
            sum(k * w for k, w in zip(self.sizes, bucket.widths, strict=True))
            for bucket in self.buckets
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ResidualIndex(OfBuckets):
    """Index of a design with a residual covariance."""

    buckets: tuple[BucketIndex, ...]

    __repr__ = brief

    @property
    def n_groups(self) -> tuple[int, ...]:
        """Groups of every bucket, rounded up."""
        return tuple(bucket.rows.shape[1] for bucket in self.buckets)

    def size(self, p: int) -> int:
        """Numbers in a layout of p fixed effects."""
        return sum(bucket.rows.size * (p + 1 + len(bucket.rows)) for bucket in self.buckets)


class ResidualPlan(GroupPlan):
    """The host's side of the index."""

    __slots__ = ()
    index: ResidualIndex  # type: ignore[assignment]


def plan_residual(
    group: np.ndarray,
    n_groups: int,
    codes: Sequence[np.ndarray],
    n_levels: Sequence[int],
    structures: Sequence[Structure],
    rows: ResidualRows,
    n_components: int = 0,
) -> ResidualPlan:
    """Build the index of a design with a residual covariance.

    Parameters
    ----------
    group : ndarray of int, shape (n,)
        Independent group of each row: no random effect and no subject is shared.
    n_groups : int
    codes : sequence of ndarray of int, shape (n, S)
        Level of each row in each term.
    n_levels : sequence of int
    structures : sequence of Structure
        Of the terms.
    rows : ResidualRows
    n_components : int

    Raises
    ------
    DataError
        The rows of a group are too many for a dense matrix, or of several arms.
    """
    arm = arm_of_groups(rows.arm, group, n_groups)
    counts = np.bincount(group, minlength=n_groups)
    check_dense(int(counts.max(initial=0)))
    alone = n_groups == rows.n_subjects and bool((counts > 0).all())
    alone = alone and divide_alike(group, rows.subject)
    slots = slots_of(rows, int(counts.max(initial=1))) if alone else None
    if slots is not None:
        row = rows.places[0].astype(np.int64)
        bucket = arm.copy()
    else:
        row = rank_within(group, n_groups)
        bucket = buckets_of_groups(arm, counts)
    inside = places_of_levels(group, codes, n_levels, structures, bucket)
    n = group.size
    made = []
    for b, widths in enumerate(inside.widths):
        mine = np.flatnonzero(bucket[group] == b)
        height = slots or max(int(counts[bucket == b].max(initial=0)), 1)
        G = round_up_tall(int((bucket == b).sum()), height)
        to = RowPlaces(mine, (row[mine], inside.position[group[mine]]), (height, G))
        made.append(
            BucketIndex(
                rows=to.numbers(n),
                columns=columns_of(codes, inside.maps, to),
                subjects=None if alone else to.put(rows.subject.astype(np.int32)),
                widths=(*widths, *(0 for _ in rows.structures)),
                arm=int(rows.arm[mine[0]]),
                **rows_placed(rows, to, by_visit=slots is not None),
            )
        )
    index = ResidualIndex(
        **of_buckets(made, round_up_rows(n + 1, n_groups), codes, structures, rows, n_components)
    )
    return ResidualPlan(
        index=index,  # type: ignore[arg-type]
        level_maps=inside.maps,
        group_bucket=bucket,
        group_position=inside.position,
    )


def of_buckets(
    made: Sequence[Any],
    n_rows: int,
    codes: Sequence[np.ndarray],
    structures: Sequence[Structure],
    rows: ResidualRows,
    n_components: int,
) -> dict[str, Any]:
    """Fields of an index of these buckets."""
    return dict(
        buckets=tuple(made),
        n_rows=n_rows,
        streams=stream_terms(codes),
        structures=(*structures, *rows.structures),
        n_components=n_components,
    )


def slots_of(rows: ResidualRows, largest: int) -> int | None:
    """How many visits there are, where the places of all subjects are visits; otherwise None.

    Parameters
    ----------
    rows : ResidualRows
    largest : int
        Rows of the largest subject.
    """
    slots = int(rows.places.max(initial=0)) + 1
    correlation = rows.structures[0].correlation
    by_visit = rows.levels is None or bool(np.array_equal(rows.levels, rows.places[0]))
    by_visit = by_visit and rows.covariate is None and correlation.by_levels
    dense = slots <= max(_SPARSE * largest, _FEW_SLOTS)
    shared = bool(correlation.levels) or (by_visit and dense and slots > 1)
    return slots if shared and by_visit else None


def columns_of(
    codes: Sequence[np.ndarray], maps: Sequence[LevelMap], to: RowPlaces
) -> tuple[np.ndarray, ...]:
    """First column of the level of every row, a stream each."""
    return tuple(
        to.put(maps[t].slot[column]).astype(np.int32)
        for t, code in enumerate(codes)
        for column in code.T
    )


def rows_placed(rows: ResidualRows, to: RowPlaces, *, by_visit: bool) -> dict[str, np.ndarray]:
    """``places`` and ``slopes`` of a bucket."""
    spread = rows.structures[int(rows.arm[to.rows[0]])].spread
    if by_visit:
        visits = np.arange(to.shape[0])[:, None]
        slopes = spread.slopes(visits, None, visits.shape)
        return {"places": visits[None].astype(float), "slopes": slopes}
    levels = None if rows.levels is None else to.put(rows.levels)
    x = None if rows.covariate is None else to.put(rows.covariate, 1.0)
    return {"places": to.put(rows.places), "slopes": spread.slopes(levels, x, to.shape)}


def arm_of_groups(arm: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """Arm of every group.

    Raises
    ------
    DataError
        A group has rows of several.
    """
    out = np.zeros(n_groups, np.int64)
    out[group] = arm
    if not bool((out[group] == arm).all()):
        raise DataError(
            "a residual covariance of every arm needs subjects that share no random effect "
            "with those of another arm: leave out the terms above subjects, or the arm"
        )
    return out


def check_dense(rows: int, what: str = "share random effects or a subject") -> None:
    """The rows of a group, or of a subject, are few enough for dense matrices."""
    if rows > MOST_ROWS:
        need = rows**2 * 8 / 2**30
        raise DataError(
            f"{rows} rows {what}: their covariance would be dense "
            f"({need:.1f} GiB, several times over); up to {MOST_ROWS} rows are taken"
        )


def heights_of_groups(
    group: np.ndarray, n_groups: int, subject: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the largest subject of every group, and how many subjects it has, (n_groups,)."""
    own = np.zeros(int(subject.max(initial=-1)) + 1, np.int64)
    own[subject] = group
    height = np.zeros(n_groups, np.int64)
    np.maximum.at(height, own, np.bincount(subject))
    return height, np.bincount(own, minlength=n_groups)


def check_size(
    widths: Sequence[int],
    structures: Sequence[Structure],
    places: int,
    largest: int,
    height: int = 0,
) -> None:
    """What stands beside every row of a bucket fits into memory: random effects, its subject."""
    if height * places > _MOST_NUMBERS:
        raise DataError(
            f"subjects of up to {height} rows share random effects with others: their covariances "
            f"are too many for memory ({height * places * 8 / 2**30:.1f} GiB, several times over): "
            "leave out the random effects that they share"
        )
    q = sum(k * w for k, w in zip(term_sizes(structures), widths, strict=True))
    if q * places > _MOST_NUMBERS:
        raise DataError(
            f"up to {largest} rows are connected by {q} random effects, beside a residual "
            f"covariance too many for memory ({q * places * 8 / 2**30:.1f} GiB, several times "
            "over): leave out a factor that connects them"
        )


def buckets_of_groups(arm: np.ndarray, *counts: np.ndarray) -> np.ndarray:
    """Bucket of every group: of one arm, and of one octave of every size that is given."""
    key = arm
    for count in counts:
        octave = np.ceil(np.log2(np.maximum(count, 1))).astype(np.int64)
        if count.size and count.max() <= 2 * count.min():
            octave[:] = 0
        octave = np.maximum(octave, octave.max(initial=0) - (MAX_BUCKETS - 1))
        key = key * (int(octave.max(initial=0)) + 1) + octave
    return np.unique(key, return_inverse=True)[1].astype(np.int64)


def places_of_levels(
    group: np.ndarray,
    codes: Sequence[np.ndarray],
    n_levels: Sequence[int],
    structures: Sequence[Structure],
    bucket: np.ndarray,
) -> LevelPlaces:
    """Places of the levels of every term, groups in the buckets that are given."""
    sizes, n_groups = term_sizes(structures), bucket.size
    n_buckets = int(bucket.max(initial=0)) + 1
    position = rank_within(bucket, n_buckets)
    parents = [level_parent(c, group, size) for c, size in zip(codes, n_levels, strict=True)]
    widths = tuple(
        tuple(
            int(np.bincount(parent, minlength=n_groups)[bucket == b].max(initial=0))
            for parent in parents
        )
        for b in range(n_buckets)
    )
    offsets = np.zeros(n_buckets, np.int64)
    maps = []
    for t, (parent, k) in enumerate(zip(parents, sizes, strict=True)):
        slot = offsets[bucket[parent]] + k * rank_within(parent, n_groups)
        maps.append(LevelMap(bucket=bucket[parent], group=position[parent], slot=slot))
        offsets += k * np.array([w[t] for w in widths], dtype=np.int64)
    return LevelPlaces(position, tuple(maps), widths)
