"""The arrays of the crossed layout; its methods are in :mod:`lmm_jax.layouts.crossed.layout`."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
from jax import Array

from ...reprs import brief
from ..buckets import Bucket
from ..contract import Layout
from .core import Core
from .links import Links


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StartMoments:
    """Weighted sums of squares of ``z_l' y`` for start values; K coefficients of all terms.

    Level l of a coefficient has the weight ``w_l = (1 + z_l' z_l / 4)^-2``: nearly
    the best one for variances of usual size, whatever the sizes of the levels.
    """

    squares: Array  # (K,)    sum_l w_l (z_l' y)^2 for the OLS residual y
    noise: Array  # (K,)    sum_l w_l z_l' z_l
    spread: Array  # (K, K)  sum_l w_l sum_m (z_l' z_m)^2, m over the levels of the second
    norms: Array  # (K,)    sum_l z_l' z_l

    __repr__ = brief


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CrossedArrays(Layout):
    """What a crossed layout is made of."""

    buckets: tuple[Bucket, ...]  # groups of the eliminated terms; widths over these terms
    links: tuple[Links, ...]  # one a bucket
    core: Core
    moments: StartMoments | None  # None where start values are others
    eliminated: tuple[int, ...] = field(metadata={"static": True})  # terms, in order
    crossed: tuple[int, ...] = field(metadata={"static": True})  # terms of the core, in order
    # whether it is only asked at factors of the core that may be divided by
    regular: bool = field(default=False, metadata={"static": True})
    # whether six digits of the criterion will do
    rough: bool = field(default=False, metadata={"static": True})  # type: ignore[misc]

    @property
    def shape(self) -> tuple[int, int]:
        """N columns and B blocks of the core."""
        return self.core.S.shape[0], self.core.S.shape[2]
