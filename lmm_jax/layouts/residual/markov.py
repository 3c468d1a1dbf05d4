"""Markov layout: residuals that depend on earlier ones of their subject by the last one alone.

``R^-1`` is tridiagonal then, and an evaluation is one pass over the rows
(:mod:`lmm_jax.layouts.residual.chain_bucket`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax import Array

from ...covariance.residuals import residual_of
from ...numerics.namespace import namespace
from ...reprs import brief, public
from ..group_algebra import level_counts, rotate_columns
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

    def _columns(self, bucket: ChainBucket) -> int:
        return bucket.step.shape[1] - self.S0.shape[0]

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

    def over_columns(self, change: Callable[[Array, int], Array]) -> MarkovLayout:
        """See :meth:`Layout.over_columns`."""

        def changed(A: Array, q: int) -> Array:
            own = change(A[:, q:], 1)
            return namespace(A, own).concatenate([A[:, :q], own], axis=1)

        buckets = []
        for bucket in self.buckets:
            q = self._columns(bucket)
            step, before = changed(bucket.step, q), changed(bucket.before, q)
            buckets.append(replace(bucket, step=step, before=before))
        return replace(self, S0=change(change(self.S0, 0), 1), buckets=tuple(buckets))

    def rotate(self, t: int, Q: np.ndarray) -> MarkovLayout:
        """See :meth:`Layout.rotate`."""

        def turned(A: Array, widths: Sequence[int]) -> Array:
            return rotate_columns(A, Q, t, self.sizes, widths)

        buckets = tuple(
            replace(b, step=turned(b.step, b.widths), before=turned(b.before, b.widths))
            for b in self.buckets
        )
        return replace(self, buckets=buckets)
