"""Markov layout: residuals that depend on earlier ones of their subject by the last one alone.

``R^-1`` is tridiagonal then, and an evaluation is one pass over the rows
(:mod:`lmm_jax.layouts.residual.chain_bucket`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from jax import Array

from ...covariance.residuals import residual_of
from ...numerics.namespace import namespace
from ...reprs import brief, public
from ..group_algebra import level_counts
from .chain_bucket import (
    ChainBucket,
    ChainRows,
    bend,
    slopes_of_gram,
    slopes_of_log,
    whitened,
)
from .chain_moments import bent_rows, halves, rows_alone
from .integrated import WhitenedRows
from .starts import Squares
from .whitened_layout import OfWhitenedRows


@public
@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MarkovLayout(OfWhitenedRows):
    """Sufficient statistics of a model whose residuals are correlated along time."""

    buckets: tuple[ChainBucket, ...]
    _of_columns: ClassVar[tuple[str, ...]] = ("step", "before")

    __repr__ = brief

    def _whitened(self, theta: Array, bucket: ChainBucket) -> WhitenedRows:
        return whitened(theta, self.structures, bucket, self._columns(bucket))

    def _slopes_of_gram(self, theta: Array, bucket: ChainBucket, own: ChainRows) -> Array:
        return slopes_of_gram(bucket, own)

    def _slopes_of_log(self, theta: Array, bucket: ChainBucket, own: ChainRows) -> Array:
        return slopes_of_log(bucket, own)

    def _bend(self, theta: Array, Q: Array, bucket: ChainBucket, own: ChainRows) -> Array:
        return bend(Q, bucket, own)

    def _halves(self, theta: Array, bucket: ChainBucket, own: ChainRows) -> Any:
        return halves(bucket, own)

    def _row_traces(self, theta: Array, bucket: ChainBucket, own: ChainRows) -> Any:
        residual, at = residual_of(self.structures, bucket.arm)
        return rows_alone(theta[at][: residual.spread.n_params], bucket, own)

    def _bent_rows(self, theta: Array, bucket: ChainBucket, own: ChainRows, W: Any, z: Any) -> Any:
        return bent_rows(bucket, own, W, z)

    def block_rows(self) -> float:
        """See :meth:`Layout.block_rows`."""
        return max((bucket.step.shape[1] for bucket in self.buckets), default=0)

    def level_counts(self) -> Array:
        """See :meth:`Layout.level_counts`."""
        xp, there = namespace(self.S0), []
        for bucket in self.buckets:
            q = self._columns(bucket)
            moved = (bucket.step[:, :q] != 0) | (bucket.before[:, :q] != 0)
            there.append(xp.any(moved, axis=2).T)
        return level_counts(there, [bucket.widths for bucket in self.buckets], self.sizes)

    def _squares(self) -> list[Squares]:
        """See :meth:`OfResiduals._squares`."""
        return [
            Squares(b.arm, b.slopes, (b.step[:, -1] + b.before[:, -1]) ** 2, b.counts)
            for b in self.buckets
        ]

    def size(self) -> int:
        """See :meth:`Layout.size`."""
        return sum(2 * bucket.step.size for bucket in self.buckets)
