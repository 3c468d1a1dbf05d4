"""Arrays of :class:`lmm_jax.layouts.matrix_free.layout.MatrixFreeLayout`."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
from jax import Array

from ...numerics.sparse_rows import Pattern
from ...reprs import brief
from ..contract import Layout


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Link:
    """Cross-products of the columns of two terms, at the pairs of levels that share rows."""

    values: Array  # (k, k', E)  ordered by the levels of the first term
    at: Pattern  # levels of the first term by those of the second
    values_back: Array  # (k, k', E)  the same, ordered by the levels of the second
    back: Pattern
    pair: tuple[int, int] = field(metadata={"static": True})

    __repr__ = brief


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MatrixFreeArrays(Layout):
    """G = Z'Z, whitened, and what the estimates of traces are made of.

    Columns over the levels of a term are (k, L, C). Those over all terms but the eliminated
    one, side by side, are (N, C), a term's coefficients one after the other, levels inside.
    """

    blocks: tuple[Array, ...]  # (k, k, L) a term: G at the levels
    c: tuple[Array, ...]  # (k, L, p + 1) a term: Z' [X y]
    origin: tuple[Array, ...]  # (k, L) a term: effects a that y is measured from
    links: tuple[Link, ...]
    probes: Array  # (N, R)  signs, independent and fair
    known: Array  # (N, d)  orthonormal columns whose share of a trace is not left to probes
    moments: Array  # theta, (m,)  to start from
    eliminated: int = field(metadata={"static": True})
    square: bool = field(metadata={"static": True})  # whether |X|^2 is computed

    @property
    def rest(self) -> tuple[int, ...]:
        """The terms that are not eliminated."""
        return tuple(t for t in range(len(self.blocks)) if t != self.eliminated)
