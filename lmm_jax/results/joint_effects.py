"""Conditional covariances between any random effects, across terms, levels and groups (NumPy)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from ..designs.design import Design
from ..layouts.crossed.layout import CrossedLayout


class GroupEffects(NamedTuple):
    """Conditional moments of all random effects, whitened coordinates, one entry a bucket."""

    means: list[np.ndarray]  # (q, G)
    covariances: list[np.ndarray]  # (q, q, G)  relative to sigma^2
    through: list[np.ndarray | None]  # (q, E)  see BlupTerms


class EffectSets(NamedTuple):
    """N random effects in sets; the covariances within every set are wanted."""

    term: np.ndarray  # (N,)
    level: np.ndarray  # (N,)
    coefficient: np.ndarray  # (N,)
    starts: np.ndarray  # (S + 1,)  where each set begins, and the end

    @property
    def counts(self) -> np.ndarray:
        """Effects of each set, (S,)."""
        return np.diff(self.starts)

    def one(self, i: int) -> EffectSets:
        """Set i alone."""
        at = slice(self.starts[i], self.starts[i + 1])
        starts = self.starts[i : i + 2] - self.starts[i]
        return EffectSets(self.term[at], self.level[at], self.coefficient[at], starts)


class Places(NamedTuple):
    """Where effects stand in the layout."""

    bucket: np.ndarray
    group: np.ndarray
    slot: np.ndarray

    def take(self, at: Any) -> Places:
        """Some of them."""
        return Places(*(values[at] for values in self))


def effects_of(
    terms: Sequence[int], sizes: Sequence[int], set_of: Sequence[np.ndarray], n_sets: int
) -> EffectSets:
    """All coefficients of some levels of some terms, sorted by the set they belong to.

    Within a set terms come in the order given, then levels, then coefficients.

    Parameters
    ----------
    terms : sequence of int
    sizes : sequence of int
        Coefficients per level of each of them.
    set_of : sequence of ndarray of int
        Set of every level of each of the terms, -1 for a level that belongs to none.
    n_sets : int
    """
    parts = []
    for place, (t, k, owner) in enumerate(zip(terms, sizes, set_of, strict=True)):
        level = np.repeat(np.flatnonzero(owner >= 0), k)
        coefficient = np.tile(np.arange(k), level.size // k)
        parts.append(
            [coefficient, level, np.full(level.size, place), owner[level], np.full(level.size, t)]
        )
    coefficient, level, place, owner, term = np.concatenate(parts, axis=1)
    order = np.lexsort((coefficient, level, place, owner))
    starts = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=n_sets))])
    return EffectSets(term[order], level[order], coefficient[order], starts)


def set_covariances(
    effects: GroupEffects, design: Design, which: EffectSets, scale: float
) -> np.ndarray:
    """Covariance matrices of the sets of effects, one after the other, (sum K_i^2,)."""
    cells, whiteners = _cells(design, which), _padded(design.compressed.layout.whiteners)
    counts = which.counts
    out_starts = np.concatenate([[0], np.cumsum(counts**2)])
    out = np.zeros(out_starts[-1])
    meeting = (
        _Meeting(effects, design) if isinstance(design.compressed.layout, CrossedLayout) else None
    )
    for K in np.unique(counts[counts > 0]):
        sets = np.flatnonzero(counts == K)
        at = which.starts[sets][:, None] + np.arange(K)
        inner = _whitened(effects, cells.take(at), meeting)
        t, level, j = which.term[at], which.level[at], which.coefficient[at]
        own = (t[:, :, None] == t[:, None]) & (level[:, :, None] == level[:, None])
        A = np.where(own, whiteners[t[:, :, None], j[:, :, None], j[:, None]], 0.0)
        matrices = scale * (A @ inner @ np.swapaxes(A, 1, 2))
        out[out_starts[sets][:, None] + np.arange(K * K)] = matrices.reshape(len(sets), -1)
    return out


def _padded(matrices: Sequence[Any]) -> np.ndarray:
    """Square matrices in one array, (T, k, k) with the largest k."""
    k = max(len(A) for A in matrices)
    out = np.zeros((len(matrices), k, k))
    for t, A in enumerate(matrices):
        out[t, : len(A), : len(A)] = np.asarray(A)
    return out


def _cells(design: Design, which: EffectSets) -> Places:
    """Places of effects in the layout."""
    out = Places(*np.zeros((3, which.term.size), np.int64))
    for t, places in enumerate(design.plan.level_maps):
        at = which.term == t
        level = which.level[at]
        out.bucket[at], out.group[at] = places.bucket[level], places.group[level]
        out.slot[at] = places.slot[level] + which.coefficient[at]
    return out


def _whitened(effects: GroupEffects, cells: Places, meeting: _Meeting | None) -> np.ndarray:
    """Covariances of sets of K effects in the layout's coordinates, (S, K, K)."""
    bucket, group, slot = cells
    together = ((bucket == bucket[:, :1]) & (group == group[:, :1])).all(axis=1)
    out = np.zeros((*bucket.shape, bucket.shape[1]))
    for b, cov in enumerate(effects.covariances):
        at = together & (bucket[:, 0] == b)
        s = slot[at]
        out[at] = cov[s[:, :, None], s[:, None], group[at][:, :1, None]]
    for i in np.flatnonzero(~together):
        apart = cells.take(i)
        out[i] = _of_groups(effects, apart) if meeting is None else meeting.covariance(apart)
    return out


def _of_groups(effects: GroupEffects, cells: Places) -> np.ndarray:
    """Covariance of effects of several groups, which are independent of one another."""
    out = np.zeros((cells.slot.size,) * 2)
    keys = np.stack([cells.bucket, cells.group])
    for b, g in np.unique(keys, axis=1).T:
        at = np.flatnonzero((cells.bucket == b) & (cells.group == g))
        slots = cells.slot[at]
        out[np.ix_(at, at)] = effects.covariances[b][np.ix_(slots, slots)][:, :, g]
    return out


class _Meeting:
    """How the eliminated groups depend on each other: through the core alone.

    Given the effects b_2 of the core, groups are independent, and group i has the mean
    ``constant - Psi e_i b_2``. So ``cov(b_i, b_2) = -Psi e_i H`` and
    ``cov(b_i, b_j) = Psi e_i H e_j' Psi``.
    """

    def __init__(self, effects: GroupEffects, design: Design) -> None:
        assert isinstance(design.compressed.layout, CrossedLayout)  # the caller has looked
        self.effects = effects
        self.H = effects.covariances[-1]
        self.links = []
        for link in design.compressed.layout.links:
            row, block, group = (np.asarray(a) for a in (link.row, link.block, link.group))
            order = np.argsort(group, kind="stable")
            self.links.append((row, block, order, group[order]))

    def covariance(self, cells: Places) -> np.ndarray:
        """Covariance of the effects of a set, (K, K)."""
        N, _, B = self.H.shape
        parts = [self._row(b, g, s) for b, g, s in zip(*cells, strict=True)]
        rows = np.repeat(np.arange(len(parts)), [len(columns) for columns, _ in parts])
        columns = np.concatenate([columns for columns, _ in parts])
        values = np.concatenate([values for _, values in parts])
        out = _of_groups(self.effects, cells)
        eliminated = cells.bucket < len(self.links)
        same = eliminated[:, None] & eliminated & (cells.bucket[:, None] == cells.bucket)
        same &= cells.group[:, None] == cells.group
        for block in np.unique(columns % B):
            at = columns % B == block
            shape = (len(parts), N)
            R = scipy.sparse.csr_array((values[at], (rows[at], columns[at] // B)), shape=shape)
            used = np.flatnonzero(np.diff(R.indptr))
            R = R[used]
            through = R @ (R @ self.H[:, :, block]).T
            square = np.ix_(used, used)
            out[square] = np.where(same[square], out[square], through)
        return out

    def _row(self, bucket: int, group: int, slot: int) -> tuple[np.ndarray, np.ndarray]:
        """Columns of the core, numbered ``row * B + block``, that an effect depends on."""
        B = self.H.shape[2]
        if bucket == len(self.links):
            return np.array([slot * B + group]), np.ones(1)
        row, block, order, groups = self.links[bucket]
        entries = order[slice(*np.searchsorted(groups, [group, group + 1]))]
        through = self.effects.through[bucket]
        assert through is not None  # of a bucket of eliminated groups
        return row[entries] * B + block[entries], -through[slot, entries]
