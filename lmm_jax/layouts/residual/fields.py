"""Field layout: residuals of plots that correlate along the rows and the columns of a field.

An evaluation takes a few products of every plot with those of its row and of its column, where
:class:`ResidualLayout` takes the cube of the plots (:mod:`lmm_jax.layouts.residual.field_bucket`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from jax import Array

from ...numerics.namespace import namespace
from ...reprs import brief, public
from ..group_algebra import level_counts
from .field_bucket import (
    FieldBucket,
    FieldRows,
    bend,
    bent_rows,
    halves,
    row_traces,
    slopes_of_gram,
    slopes_of_log,
    whitened,
)
from .integrated import WhitenedRows
from .starts import Squares
from .whitened_layout import OfWhitenedRows


@public
@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FieldLayout(OfWhitenedRows):
    """Sufficient statistics of a model whose residuals are those of plots of fields."""

    buckets: tuple[FieldBucket, ...]

    __repr__ = brief

    def _whitened(self, theta: Array, bucket: FieldBucket) -> WhitenedRows:
        return whitened(theta, self.structures, bucket, self._columns(bucket))

    def _slopes_of_gram(self, theta: Array, bucket: FieldBucket, own: FieldRows) -> Array:
        return slopes_of_gram(bucket, own)

    def _slopes_of_log(self, theta: Array, bucket: FieldBucket, own: FieldRows) -> Array:
        return slopes_of_log(bucket, own)

    def _bend(self, theta: Array, Q: Array, bucket: FieldBucket, own: FieldRows) -> Array:
        return bend(Q, bucket, own)

    def _halves(self, theta: Array, bucket: FieldBucket, own: FieldRows) -> Any:
        return halves(bucket, own)

    def _row_traces(self, theta: Array, bucket: FieldBucket, own: FieldRows) -> Any:
        return row_traces(bucket, own)

    def _bent_rows(self, theta: Array, bucket: FieldBucket, own: FieldRows, W: Any, z: Any) -> Any:
        return bent_rows(bucket, own, W, z)

    def block_rows(self) -> float:
        """See :meth:`Layout.block_rows`."""
        return max((max(bucket.c.shape[1:]) for bucket in self.buckets), default=0)

    def level_counts(self) -> Array:
        """See :meth:`Layout.level_counts`."""
        xp, there = namespace(self.S0), []
        for bucket in self.buckets:
            Z = bucket.c[:, : self._columns(bucket)]
            some = xp.any(xp.any(Z != 0, axis=3), axis=2)  # (N, q)
            G, (N, q) = bucket.n_groups, some.shape
            some = xp.any(some.reshape(G, N // G, q), axis=1)
            there.append(some.T)
        return level_counts(there, [bucket.widths for bucket in self.buckets], self.sizes)

    def _squares(self) -> list[Squares]:
        """See :meth:`OfResiduals._squares`: one variance for all plots."""
        xp = namespace(self.S0)
        return [
            Squares(b.arm, xp.zeros((0, *b.present.shape), b.c.dtype), b.c[:, -1] ** 2, b.present)
            for b in self.buckets
        ]

    def size(self) -> int:
        """See :meth:`Layout.size`."""
        return sum(b.c.size + b.lost.size for b in self.buckets)
