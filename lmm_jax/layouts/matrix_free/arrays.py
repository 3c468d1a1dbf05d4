"""Arrays of :class:`lmm_jax.layouts.matrix_free.layout.MatrixFreeLayout`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import jax
from jax import Array

from ...numerics.namespace import namespace
from ...numerics.sparse_rows import Pattern, multiply
from ...reprs import brief
from ..contract import Layout
from ..crossed.arrays import StartMoments


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Link:
    """Cross-products of the columns of two terms, at the pairs of levels that share rows.

    Of one term with itself, where rows belong to several of its levels: the pairs in order.
    """

    values: Array  # (k, k', E)  ordered by the levels of the first term
    at: Pattern  # levels of the first term by those of the second
    values_back: Array  # (k, k', E)  the same, ordered by the levels of the second
    back: Pattern
    pair: tuple[int, int] = field(metadata={"static": True})

    __repr__ = brief


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LinkedGram:
    """``G = Z'Z``: blocks of the levels, and of the pairs of levels that share rows."""

    blocks: tuple[Array, ...]  # (k, k, L) a term
    links: tuple[Link, ...]
    _array: ClassVar[str] = "blocks"

    __repr__ = brief

    def times(self, x: Array) -> Array:
        """``G x`` of columns over all effects, (N, C, 1)."""
        parts = by_terms(x, self.blocks)
        out = [at_levels(B, part) for B, part in zip(self.blocks, parts, strict=True)]
        for link in self.links:
            s, t = link.pair
            out[s] = out[s] + apply_link(link, parts[t], back=False)
            out[t] = out[t] + apply_link(link, parts[s], back=True)
        return side_by_side(out)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FreeCore:
    """Cross-products of all random effects, as :class:`..crossed.core.Core` of some of them."""

    A: LinkedGram
    s: Array  # (N, p + 1, 1)  Z' [X y], term by term and level by level
    origin: Array  # (N, 1, 1)  effects a that y is measured from: y less Z a stands in the layout
    widths: tuple[int, ...] = field(metadata={"static": True})  # levels of each term

    __repr__ = brief


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MatrixFreeArrays(Layout):
    """G, and what the estimates of traces are made of.

    Columns over the levels of a term are (k, L, C). Those over all terms but the eliminated
    one, side by side, are (N, C), a term's coefficients one after the other, levels inside.
    """

    core: FreeCore
    moments: StartMoments
    probes: Array  # (N, R) int8  signs, fair and independent
    first: int = field(metadata={"static": True})  # the term that is eliminated
    square: bool = field(metadata={"static": True})  # whether |X|^2 is computed, by NumPy

    @property
    def blocks(self) -> tuple[Array, ...]:
        """Blocks of G at the levels, (k, k, L) a term."""
        return self.core.A.blocks

    @property
    def linked(self) -> tuple[Link, ...]:
        """Blocks of G at pairs of levels."""
        return self.core.A.links

    @property
    def rest(self) -> tuple[int, ...]:
        """The terms that are not eliminated."""
        return tuple(t for t in range(len(self.blocks)) if t != self.first)


# ------------------------------------------------------------ products


def by_terms(x: Array, blocks: Sequence[Array]) -> list[Array]:
    """Columns (N, C, 1), a term's levels one after the other, as (k, L, C) a term."""
    out, start = [], 0
    for B in blocks:
        k, _, L = B.shape
        part = x[start : start + k * L, :, 0].reshape(L, k, x.shape[1])
        out.append(namespace(x).swapaxes(part, 0, 1))
        start += k * L
    return out


def side_by_side(parts: Sequence[Array]) -> Array:
    """Inverse of :func:`by_terms`."""
    xp = namespace(parts)
    C = parts[0].shape[2]
    return xp.concatenate([xp.swapaxes(p, 0, 1).reshape(-1, C) for p in parts])[:, :, None]


def at_levels(B: Array, x: Array) -> Array:
    """``B x`` level by level: (k, k', L), (k', L, C) -> (k, L, C)."""
    xp = namespace(B, x)
    if B.shape[:2] == (1, 1):
        return B[0, 0][None, :, None] * x
    return xp.stack([
        sum((B[a, b][:, None] * x[b] for b in range(1, B.shape[1])), B[a, 0][:, None] * x[0])
        for a in range(B.shape[0])
    ])  # fmt: skip


def swapped(B: Array) -> Array:
    """``B'`` at every level."""
    return namespace(B).swapaxes(B, 0, 1)


def apply_link(link: Link, x: Array, back: bool) -> Array:
    """``G_st x`` for x over the levels of t; over those of s and ``G_ts x`` if ``back``."""
    xp = namespace(link.values, x)
    if back:
        values, at = swapped(link.values_back), link.back
    else:
        values, at = link.values, link.at
    rows = [
        sum(
            (multiply(values[a, b], at, x[b]) for b in range(1, values.shape[1])),
            multiply(values[a, 0], at, x[0]),
        )
        for a in range(values.shape[0])
    ]
    return xp.stack(rows) if len(rows) > 1 else rows[0][None]
