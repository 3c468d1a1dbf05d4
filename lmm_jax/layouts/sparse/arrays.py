"""The arrays of :class:`lmm_jax.layouts.sparse.layout.SparseLayout`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
from jax import Array

from ...numerics.elimination import Elimination
from ...reprs import brief
from ..contract import Layout
from ..crossed.arrays import StartMoments
from .gram import SparseGram
from .system import Places, System


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SparseCore:
    """Cross-products of all random effects, as :class:`..crossed.core.Core` of some of them."""

    S: SparseGram  # Z' Z
    s: Array  # (N, p + 1, 1)  Z' [X y]
    # (N, c, 1)  effects a that the last columns of [X y] are measured from: what they leave of
    # them stands in the layout. X too: columns that the effects explain lose no digits
    origin: Array
    widths: tuple[int, ...] = field(metadata={"static": True})  # levels of each term

    __repr__ = brief


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SparseArrays(Layout):
    """What a sparse layout is made of."""

    core: SparseCore
    moments: StartMoments
    elimination: Elimination = field(metadata={"static": True})
    places: Places = field(metadata={"static": True})
    on_host: ClassVar[bool] = True
    # of a crossed layout, which shares its derivatives: nothing is eliminated
    buckets: ClassVar[tuple[()]] = ()
    links: ClassVar[tuple[()]] = ()
    eliminated: ClassVar[tuple[()]] = ()

    @property
    def crossed(self) -> tuple[int, ...]:
        """All terms."""
        return tuple(range(len(self.core.widths)))

    @property
    def shape(self) -> tuple[int, int]:
        """N columns in one block."""
        return self.core.s.shape[0], 1

    def system(self, factors: Sequence[Any]) -> System:
        """``M = I + Lambda' Z'Z Lambda`` at some factors."""
        return System(self.core.S, self.places, self.elimination, factors)
