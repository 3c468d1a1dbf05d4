"""``Z' Z`` of crossed factors, block by block where levels meet, and its products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax import Array

from ...numerics.namespace import namespace
from ...reprs import brief
from .index import Meetings, SparseIndex


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SparseGram:
    """A symmetric matrix of N columns: those of every term level by level."""

    own: tuple[Array, ...]  # (L, k, k) a term: blocks of the levels
    across: tuple[Array, ...]  # (P, k, k') a list of meetings: blocks of two levels
    meetings: tuple[Meetings, ...]
    sizes: tuple[int, ...] = field(metadata={"static": True})
    _array = "own"

    __repr__ = brief

    @property
    def widths(self) -> tuple[int, ...]:
        """Levels of each term."""
        return tuple(len(block) for block in self.own)

    def diagonal(self) -> Array:
        """Entries of the diagonal, (N,)."""
        xp = namespace(self)
        return xp.concatenate([xp.einsum("laa->la", block).reshape(-1) for block in self.own])

    def times(self, x: Array) -> Array:
        """The matrix times columns, (N, C, 1)."""
        xp = namespace(self, x)
        C = x.shape[1]
        parts = rows_by_term(x, self.sizes, self.widths)
        out = [xp.einsum("lab,lbc->lac", A, b) for A, b in zip(self.own, parts, strict=True)]
        for A, m in zip(self.across, self.meetings, strict=True):
            t, s = m.terms
            to_left = xp.einsum("pab,pbc->pac", A, parts[s][m.right])
            to_right = xp.einsum("pab,pac->pbc", A, parts[t][m.left])
            out[t] = out[t] + _added(to_left, m.left, len(parts[t]))
            out[s] = out[s] + _added(to_right, m.right, len(parts[s]))
        return xp.concatenate([part.reshape(-1, C) for part in out])[:, :, None]


def rows_by_term(x: Array, sizes: Sequence[int], widths: Sequence[int]) -> list[Array]:
    """Rows of every term, level by level: (N, C, 1) to (L, k, C)."""
    out, start = [], 0
    for k, w in zip(sizes, widths, strict=True):
        out.append(x[start : start + k * w, :, 0].reshape(w, k, -1))
        start += k * w
    return out


def _added(blocks: Array, level: Any, count: int) -> Array:
    """Sums of the blocks (P, k, C) of one level, (L, k, C)."""
    xp = namespace(blocks)
    flat = blocks.reshape(blocks.shape[0], -1)
    return xp.segment_sum(flat, level, count).reshape(count, *blocks.shape[1:])


def gram_of(streams: Sequence[Array], index: SparseIndex) -> SparseGram:
    """``Z' Z`` from the covariates of the streams, (n, k) each."""
    xp = namespace(streams)
    own = [
        xp.zeros((count, k, k), streams[0].dtype)
        for count, k in zip(index.widths, index.sizes, strict=True)
    ]
    across = [
        xp.zeros((m.left.shape[0], *(index.sizes[t] for t in m.terms)), streams[0].dtype)
        for m in index.meetings
    ]
    for z, level, t in zip(streams, index.levels, index.streams, strict=True):
        own[t] = own[t] + _products(z, z, level, index.widths[t])
    pairs = [(u, v) for u in range(len(streams)) for v in range(u + 1, len(streams))]
    for (u, v), cell, place in zip(pairs, index.cells, index.of_meetings, strict=True):
        m, left, right = index.meetings[place], streams[u], streams[v]
        count = m.left.shape[0]
        if m.terms[0] == m.terms[1]:
            t, a, b = m.terms[0], index.levels[u], index.levels[v]
            same = xp.where(a == b, 1.0, 0.0)[:, None]
            twice = _products(left * same, right, a, index.widths[t])
            own[t] = own[t] + twice + xp.swapaxes(twice, 1, 2)
            swapped = (a > b)[:, None]
            left, right = xp.where(swapped, right, left), xp.where(swapped, left, right)
        across[place] = across[place] + _products(left, right, cell, count + 1)[:count]
    return SparseGram(
        own=tuple(own), across=tuple(across), meetings=index.meetings, sizes=index.sizes
    )


def _products(left: Array, right: Array, cell: Any, count: int) -> Array:
    """Sums of ``left_i right_i'`` by cell, (count, k, k')."""
    xp = namespace(left, right)
    parts = [
        [xp.segment_sum(left[:, a] * right[:, b], cell, count) for b in range(right.shape[1])]
        for a in range(left.shape[1])
    ]
    return xp.stack([xp.stack(row, axis=-1) for row in parts], axis=1)


def rows_of_levels(streams: Sequence[Array], rows: Array, index: SparseIndex) -> Array:
    """``Z' rows``, (N, C, 1)."""
    xp = namespace(streams, rows)
    parts: dict[int, Array] = {}
    for z, level, t in zip(streams, index.levels, index.streams, strict=True):
        part = xp.stack(
            [
                xp.segment_sum(z[:, a, None] * rows, level, index.widths[t])
                for a in range(z.shape[1])
            ],
            axis=1,
        )
        parts[t] = parts[t] + part if t in parts else part
    C = rows.shape[1]
    out: Array = xp.concatenate([parts[t].reshape(-1, C) for t in sorted(parts)])[:, :, None]
    return out


def effects_of_rows(streams: Sequence[Array], effects: Array, index: SparseIndex) -> Array:
    """``Z a`` for effects (N, C, 1), (n, C)."""
    parts = rows_by_term(effects, index.sizes, index.widths)
    total: Any = 0.0
    for z, level, t in zip(streams, index.levels, index.streams, strict=True):
        for a in range(z.shape[1]):
            total = total + z[:, a, None] * parts[t][level, a]
    out: Array = total
    return out


def squares_of(gram: SparseGram, weight: Sequence[Array]) -> Array:
    """``sum_l w_l sum_m (z_l' z_m)^2`` for coefficients l and m of two kinds, (K, K).

    Parameters
    ----------
    gram : SparseGram
    weight : sequence of Array, shape (L, k)
        Of every coefficient, term by term.
    """
    xp = namespace(gram)
    ends = np.cumsum(gram.sizes)
    out = xp.zeros((int(ends[-1]),) * 2, gram.own[0].dtype)
    at = [slice(int(e) - k, int(e)) for e, k in zip(ends, gram.sizes, strict=True)]
    for t, block in enumerate(gram.own):
        out = xp.at(out)[at[t], at[t]].add(xp.einsum("la,lab->ab", weight[t], block**2))
    for block, m in zip(gram.across, gram.meetings, strict=True):
        t, s = m.terms
        left = xp.einsum("pa,pab->ab", weight[t][m.left], block**2)
        right = xp.einsum("pb,pab->ba", weight[s][m.right], block**2)
        out = xp.at(out)[at[t], at[s]].add(left)
        out = xp.at(out)[at[s], at[t]].add(right)
    return out
