"""Subject layout: residuals of subjects who share random effects, whatever their covariance.

Patients of a centre, plots of a block: an evaluation takes the cube of the rows of a subject,
and the square of the random effects of a group for every row, where
:class:`ResidualLayout` takes the cube of the rows of a group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax import Array

from ...numerics.namespace import namespace
from ...reprs import brief, public
from ..group_algebra import level_counts, rotate_columns
from .bucket import of_patterns
from .integrated import WhitenedRows
from .starts import Squares, squares_of
from .subject_bucket import (
    SubjectBucket,
    SubjectRows,
    bend,
    bent_rows,
    halves,
    in_groups,
    row_traces,
    slopes_of_gram,
    slopes_of_log,
    tangents_of,
    whitened,
)
from .whitened_layout import OfWhitenedRows


@public
@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SubjectLayout(OfWhitenedRows):
    """Sufficient statistics of a model whose subjects share random effects."""

    buckets: tuple[SubjectBucket, ...]

    __repr__ = brief

    def _whitened(self, theta: Array, bucket: SubjectBucket) -> WhitenedRows:
        return whitened(theta, self.structures, bucket, self._columns(bucket))

    def _slopes_of_gram(self, theta: Array, bucket: SubjectBucket, own: SubjectRows) -> Array:
        return slopes_of_gram(tangents_of(theta, self.structures, bucket), bucket, own)

    def _slopes_of_log(self, theta: Array, bucket: SubjectBucket, own: SubjectRows) -> Array:
        return slopes_of_log(tangents_of(theta, self.structures, bucket), bucket, own)

    def _bend(self, theta: Array, Q: Array, bucket: SubjectBucket, own: SubjectRows) -> Array:
        return bend(theta, Q, self.structures, bucket, own)

    def _halves(self, theta: Array, bucket: SubjectBucket, own: SubjectRows) -> Any:
        return halves(tangents_of(theta, self.structures, bucket), bucket, own)

    def _row_traces(self, theta: Array, bucket: SubjectBucket, own: SubjectRows) -> Any:
        return row_traces(tangents_of(theta, self.structures, bucket), bucket, own)

    def _bent_rows(
        self, theta: Array, bucket: SubjectBucket, own: SubjectRows, W: Any, z: Any
    ) -> Any:
        return bent_rows(theta, self.structures, bucket, own, W, z)

    def _columns(self, bucket: SubjectBucket) -> int:
        return bucket.c.shape[1] - self.S0.shape[0]

    def level_counts(self) -> Array:
        """See :meth:`Layout.level_counts`."""
        xp, there = namespace(self.S0), []
        for bucket in self.buckets:
            Z = in_groups(bucket.c[:, : self._columns(bucket)], bucket)
            there.append(xp.any(Z != 0, axis=2).T)
        return level_counts(there, [bucket.widths for bucket in self.buckets], self.sizes)

    def _squares(self) -> list[Squares]:
        """See :meth:`OfResiduals._squares`."""
        return [squares_of(b, of_patterns(b.c[:, -1] ** 2, b)) for b in self.buckets]

    def size(self) -> int:
        """See :meth:`Layout.size`."""
        return sum(2 * b.c.size + b.c.shape[0] * b.present.size for b in self.buckets)

    def over_columns(self, change: Callable[[Array, int], Array]) -> SubjectLayout:
        """See :meth:`Layout.over_columns`."""
        buckets = []
        for bucket in self.buckets:
            q, c = self._columns(bucket), bucket.c
            own = change(c[:, q:], 1)
            joined = namespace(c, own).concatenate([c[:, :q], own], axis=1)
            buckets.append(replace(bucket, c=joined))
        return replace(self, S0=change(change(self.S0, 0), 1), buckets=tuple(buckets))

    def rotate(self, t: int, Q: np.ndarray) -> SubjectLayout:
        """See :meth:`Layout.rotate`."""
        buckets = tuple(
            replace(b, c=rotate_columns(b.c, Q, t, self.sizes, b.widths)) for b in self.buckets
        )
        return replace(self, buckets=buckets)
