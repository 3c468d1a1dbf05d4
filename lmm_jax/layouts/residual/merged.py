"""Subjects who were seen at the same visits, merged: one covariance, and few rows beside it.

Of the m_d subjects of a pattern a criterion needs ``sum_i c_i' V_d^-1 c_i``, which depends on
``sum_i vec(c_i) vec(c_i)'`` alone. In a trial the columns of ``[X_i y_i]`` are made of a few
numbers of the subject (arm, baseline, the responses), so that this sum has a rank of a dozen,
and the rows of a factor of it stand for all subjects.

Many responses share the columns of X: with ``X = Q R`` of the rows ``vec(X_i)`` of a pattern
those of the factor are R beside ``Q' y``, and a triangle of what Q leaves of y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import qr

from ...numerics.shapes import round_up, round_up_tall
from ..response import Response
from .base import with_buckets
from .bucket import ResidualBucket
from .layout import ResidualLayout
from .subject_bucket import SubjectBucket
from .subjects import SubjectLayout

# Patterns for every group from which it is no use to look for more.
_WORTHWHILE = 0.5
# Pivots of the rows of a pattern, and what rows may differ from their basis, relative to the
# largest entry of a column: eps times a few hundred.
_RANK_TOL, _FIT_TOL = 1e-10, 1e-13
# Rows beyond those that a rank needs, to find it in.
_SPARE = 24


class _Patterns(NamedTuple):
    """Groups by their covariance."""

    owner: np.ndarray  # (G,)
    first: np.ndarray  # (D,)  a group of each
    counts: np.ndarray  # (D,)


def merge_subjects(layout: ResidualLayout) -> ResidualLayout:
    """The layout with groups of one covariance merged; layout itself where there are few.

    Criterion and derivatives are those of ``layout``, to rounding.

    Parameters
    ----------
    layout : ResidualLayout
        Arrays of NumPy.
    """
    return with_buckets(layout, _merged)


def share_patterns(layout: SubjectLayout) -> SubjectLayout:
    """The layout with one covariance for all subjects who were seen at the same visits.

    Parameters
    ----------
    layout : SubjectLayout
        Arrays of NumPy.
    """
    return replace(layout, buckets=tuple(_by_pattern(bucket) for bucket in layout.buckets))


def _by_pattern(bucket: SubjectBucket) -> SubjectBucket:
    one = bucket.places.shape[-1] == 1 and bucket.slopes.shape[-1] in (0, 1)
    if not one or bucket.owner is not None:
        return bucket
    present, owner = np.unique(np.asarray(bucket.present), axis=1, return_inverse=True)
    if present.shape[1] > _WORTHWHILE * owner.size:
        return bucket
    arrays: dict[str, Any] = dict(
        owner=owner.ravel().astype(np.int32),
        present=present,
        copies=np.bincount(owner.ravel()).astype(float),
    )
    return replace(bucket, **arrays)


def _merged(bucket: ResidualBucket) -> ResidualBucket:
    real, found = _alike(bucket)
    if found is None:
        return bucket
    r, C, _ = bucket.c.shape
    rows = np.moveaxis(np.asarray(bucket.c)[..., real], -1, 0).reshape(len(real), r * C)
    parts = [_factor(rows[found.owner == d]) for d in range(found.first.size)]
    return _of_rows(bucket, real, found, parts)


def _of_rows(
    bucket: ResidualBucket, real: np.ndarray, found: _Patterns, parts: Sequence[np.ndarray]
) -> ResidualBucket:
    """The bucket with some rows ``vec(c)``, (K, r C), in the place of the groups of a pattern."""
    r, C, _ = bucket.c.shape
    sizes = [len(part) for part in parts]
    G, D = round_up(sum(sizes)), round_up_tall(found.first.size, r)
    c = np.zeros((G, r * C))
    c[: sum(sizes)] = np.concatenate(parts)
    owner = np.zeros(G, np.int32)
    owner[: sum(sizes)] = np.repeat(np.arange(found.first.size), sizes)
    chosen = real[found.first]
    arrays: dict[str, Any] = dict(
        Z=_padded(np.asarray(bucket.Z)[..., chosen], D),
        c=np.ascontiguousarray(np.moveaxis(c.reshape(G, r, C), 0, -1)),
        owner=owner,
        present=_padded(np.asarray(bucket.present)[..., chosen], D),
        copies=_padded(found.counts.astype(float), D),
    )
    return replace(bucket, **arrays)


class _Shared(NamedTuple):
    """Groups of a pattern, and what their X explains."""

    groups: np.ndarray  # (m,)
    Q: np.ndarray | None  # (m, K)  basis of the columns of vec(X_i); None: they stay apart


@dataclass(frozen=True, kw_only=True, eq=False)
class MergedDesign:
    """A layout for many responses whose subjects are merged, and the way there."""

    layout: ResidualLayout
    shared: tuple[list[_Shared] | None, ...]  # a bucket; None: nothing is merged

    def responses(self, given: Response) -> Response:
        """Responses of the unmerged layout, a leading axis of R, for the merged one."""
        y: list[Any] = []
        for bucket, shared, rows in zip(self.layout.buckets, self.shared, given.y, strict=True):
            if shared is None:
                y.append(rows)
                continue
            parts = np.concatenate([_of_pattern(np.asarray(rows), one) for one in shared], axis=1)
            out = np.zeros((len(parts), bucket.c.shape[0], bucket.c.shape[2]))
            out[..., : parts.shape[1]] = np.swapaxes(parts, 1, 2)
            y.append(out)
        return given._replace(y=tuple(y))


def merge_design(layout: ResidualLayout) -> MergedDesign | None:
    """What many responses of one layout (NumPy) have in common; None where nothing merges."""
    merged = [_merged_design(bucket) for bucket in layout.buckets]
    if all(shared is None for _, shared in merged):
        return None
    buckets, shared = zip(*merged, strict=True)
    return MergedDesign(layout=replace(layout, buckets=buckets), shared=shared)


def _merged_design(bucket: ResidualBucket) -> tuple[ResidualBucket, list[_Shared] | None]:
    real, found = _alike(bucket)
    if found is None:
        return bucket, None
    r, C, _ = bucket.c.shape
    X = np.moveaxis(np.asarray(bucket.c)[:, :-1, real], -1, 0)  # (G, r, p)
    shared, parts = [], []
    for d in range(found.first.size):
        members = found.owner == d
        A = X[members].reshape(int(members.sum()), r * (C - 1))
        Q = _basis(A)
        if Q.shape[1] + r > _WORTHWHILE * len(A):
            shared.append(_Shared(real[members], None))
        else:
            shared.append(_Shared(real[members], Q))
            A = np.concatenate([Q.T @ A, np.zeros((r, A.shape[1]))])
        part = np.zeros((len(A), r, C))
        part[..., :-1] = A.reshape(len(A), r, C - 1)
        parts.append(part.reshape(len(A), r * C))
    return _of_rows(bucket, real, found, parts), shared


def _basis(A: np.ndarray) -> np.ndarray:
    """Orthonormal columns that span those of A, to rounding."""
    used = A[:, A.any(axis=0)]
    if not used.shape[1]:
        return used
    Q, R, _ = qr(used / np.abs(used).max(axis=0, initial=1e-300), mode="economic", pivoting=True)
    pivots = np.abs(np.diagonal(R))
    return np.asarray(Q[:, : int((pivots > _FIT_TOL * pivots[0]).sum())])


def _of_pattern(y: np.ndarray, shared: _Shared) -> np.ndarray:
    """Rows of the y of merged groups, (R, r, G) to (R, K, r)."""
    rows = np.swapaxes(y[..., shared.groups], 1, 2)
    if shared.Q is None:
        return rows
    along = shared.Q.T @ rows
    return np.concatenate([along, np.linalg.qr(rows - shared.Q @ along, mode="r")], axis=1)


def _padded(A: np.ndarray, D: int) -> np.ndarray:
    return np.pad(A, [*((0, 0) for _ in A.shape[:-1]), (0, D - A.shape[-1])])


def _alike(bucket: ResidualBucket) -> tuple[np.ndarray, _Patterns | None]:
    """Groups that are there, and which of them have one covariance."""
    real = np.flatnonzero(np.asarray(bucket.copies) * np.asarray(bucket.present).any(axis=0))
    shared = bucket.places.shape[-1] == 1 and bucket.slopes.shape[-1] in (0, 1)
    if not shared or bucket.subjects is not None or bucket.owner is not None:
        return real, None
    return real, _patterns(bucket, real)


def _patterns(bucket: ResidualBucket, real: np.ndarray) -> _Patterns | None:
    """Groups with the same rows and random-effects columns; None if these are too many."""
    Z = np.asarray(bucket.Z)[..., real]
    keys = np.concatenate([np.asarray(bucket.present)[:, real], Z.reshape(-1, real.size)])
    packed = np.ascontiguousarray(keys.T).view(np.dtype((np.void, keys.shape[0] * 8)))[:, 0]
    _, first, owner, counts = np.unique(
        packed, return_index=True, return_inverse=True, return_counts=True
    )
    if first.size > _WORTHWHILE * real.size:
        return None
    return _Patterns(owner, first, counts)


def _factor(rows: np.ndarray) -> np.ndarray:
    """Rows F with ``F' F = rows' rows``: as many as the rank, where that is less than half."""
    used = np.flatnonzero(rows.any(axis=0))
    A = rows[:, used]
    size = np.abs(A).max(axis=0, initial=1e-300)
    sample = A[:: max(1, len(A) // (used.size + _SPARE))] / size
    _, R, order = qr(sample, mode="economic", pivoting=True)
    pivots = np.abs(np.diagonal(R))
    rank = int((pivots > _RANK_TOL * pivots[0]).sum())
    if 2 * rank > len(A):
        return rows
    basis, others = order[:rank], order[rank:]
    weights = np.linalg.solve(R[:rank, :rank], R[:rank, rank:])
    scaled = A / size
    missed = np.abs(scaled[:, basis] @ weights - scaled[:, others]).max(initial=0.0)
    if missed > _FIT_TOL * rank * max(1.0, float(np.abs(weights).max(initial=0.0))):
        if len(A) <= used.size:
            return rows
        top = _triangle(A)
    else:
        own = _triangle(scaled[:, basis])
        top = np.empty((rank, used.size))
        top[:, basis], top[:, others] = own, own @ weights
        top *= size
    out = np.zeros((len(top), rows.shape[1]))
    out[:, used] = top
    return out


def _triangle(A: np.ndarray) -> np.ndarray:
    """The triangular factor of A by Householder's reflections."""
    return np.asarray(np.linalg.qr(A, mode="r"))
