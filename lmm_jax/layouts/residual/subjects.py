"""Subject layout: residuals of subjects who share random effects, whatever their covariance.

Patients of a centre, plots of a block: an evaluation takes the cube of the rows of a subject,
and the square of the random effects of a group for every row, where
:class:`ResidualLayout` takes the cube of the rows of a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from jax import Array

from ...numerics.namespace import namespace
from ...reprs import brief, public
from ..group_algebra import level_counts
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
