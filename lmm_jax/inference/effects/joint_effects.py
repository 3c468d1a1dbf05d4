"""Conditional covariances between any random effects, across terms, levels and groups (NumPy)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from ...designs.design import Design
from ...layouts.crossed.layout import CrossedLayout
from ...layouts.matrix_free.system import Shrinkage as FreeShrinkage
from ...layouts.sparse.derivatives import Shrinkage
from .related_effects import LatentCovariance, layout_covariance
from .sparse_effects import SolvedCovariance, SparseCovariance


class GroupEffects(NamedTuple):
    """Conditional moments of all random effects, whitened coordinates, one entry a bucket."""

    means: list[np.ndarray]  # (q, G)
    covariances: list[np.ndarray]  # (q, q, G)  relative to sigma^2
    through: list[np.ndarray | None]  # (q, E)  see BlupTerms
    priors: list[np.ndarray]  # (k, k) a term: Psi in the coordinates of the data
    joint: Shrinkage | FreeShrinkage | None = None  # of all effects, where one system holds them


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
    counts = which.counts
    out_starts = np.concatenate([[0], np.cumsum(counts**2)])
    out = np.zeros(out_starts[-1])
    of_sets = _related(effects, design).covariances if design.is_related else None
    if of_sets is None:
        of_sets = partial(_covariances, effects, design, _meeting(effects, design))
    for K in np.unique(counts[counts > 0]):
        sets = np.flatnonzero(counts == K)
        at = which.starts[sets][:, None] + np.arange(K)
        matrices = scale * of_sets(which.term[at], which.level[at], which.coefficient[at])
        out[out_starts[sets][:, None] + np.arange(K * K)] = matrices.reshape(len(sets), -1)
    return out


def _meeting(effects: GroupEffects, design: Design) -> _Meeting | SolvedCovariance | None:
    """How effects of different groups depend on each other; None where they do not."""
    if isinstance(effects.joint, FreeShrinkage):
        layout = effects.joint.system.layout
        return SolvedCovariance(effects.joint, layout.core.widths, layout.sizes)
    if effects.joint is not None:
        return SparseCovariance(effects.joint)
    crossed = isinstance(design.compressed.layout, CrossedLayout)
    return _Meeting(effects, design) if crossed else None


def _related(effects: GroupEffects, design: Design) -> LatentCovariance:
    C = layout_covariance(effects.covariances, effects.through, design)
    return LatentCovariance(design, C, effects.priors)


def _covariances(
    effects: GroupEffects,
    design: Design,
    meeting: _Meeting | SolvedCovariance | None,
    t: np.ndarray,
    level: np.ndarray,
    j: np.ndarray,
) -> np.ndarray:
    """Covariances of sets of K effects in the units of the data, (S, K) to (S, K, K)."""
    whiteners = _padded(design.compressed.layout.whiteners)
    inner = _whitened(effects, _cells(design, t, level, j), meeting)
    own = (t[:, :, None] == t[:, None]) & (level[:, :, None] == level[:, None])
    A = np.where(own, whiteners[t[:, :, None], j[:, :, None], j[:, None]], 0.0)
    return np.asarray(A @ inner @ np.swapaxes(A, 1, 2))


def _padded(matrices: Sequence[Any]) -> np.ndarray:
    """Square matrices in one array, (T, k, k) with the largest k."""
    k = max(len(A) for A in matrices)
    out = np.zeros((len(matrices), k, k))
    for t, A in enumerate(matrices):
        out[t, : len(A), : len(A)] = np.asarray(A)
    return out


def _cells(design: Design, term: np.ndarray, level: np.ndarray, coefficient: np.ndarray) -> Places:
    """Places of effects in the layout."""
    out = Places(*np.zeros((3, *term.shape), np.int64))
    for t, places in enumerate(design.places.level_maps):
        at = term == t
        own = level[at]
        out.bucket[at], out.group[at] = places.bucket[own], places.group[own]
        out.slot[at] = places.slot[own] + coefficient[at]
    return out


def _whitened(
    effects: GroupEffects, cells: Places, meeting: _Meeting | SolvedCovariance | None
) -> np.ndarray:
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
        rows, columns, values = self._entries(cells)
        out = _of_groups(self.effects, cells)
        eliminated = cells.bucket < len(self.links)
        same = eliminated[:, None] & eliminated & (cells.bucket[:, None] == cells.bucket)
        same &= cells.group[:, None] == cells.group
        for block in np.unique(columns % B):
            at = columns % B == block
            shape = (len(out), N)
            R = scipy.sparse.csr_array((values[at], (rows[at], columns[at] // B)), shape=shape)
            used = np.flatnonzero(np.diff(R.indptr))
            R = R[used]
            through = R @ (R @ self.H[:, :, block]).T
            square = np.ix_(used, used)
            out[square] = np.where(same[square], out[square], through)
        return out

    def variances(self, cells: Places, a: np.ndarray) -> np.ndarray:
        """Variance of ``a' b`` for rows of K effects each, (n, K) to (n,).

        With ``t_g`` the core effects through which group g of a row speaks, ``r`` their sum over
        the groups and C_g the covariance of a group: ``r' H r + sum_g a_g' C_g a_g - t_g' H t_g``.
        """
        n, K = a.shape
        effect, column, value = self._entries(Places(*(v.ravel() for v in cells)))
        value = value * a.ravel()[effect]
        row = effect // K
        total = pair_variances(self.effects.covariances[:-1], cells, a)
        total += self._through(row, column, value, n)
        apart = np.flatnonzero(cells.bucket.ravel()[effect] < len(self.links))
        bucket, group = (v.ravel()[effect] for v in cells[:2])
        sizes = n, int(bucket.max(initial=0)) + 1, int(group.max(initial=0)) + 1
        # rows, buckets and groups: far below the 2^63 cells that a number has room for
        keys = np.ravel_multi_index((row[apart], bucket[apart], group[apart]), sizes)
        found, key = np.unique(keys, return_inverse=True)
        own = self._through(key, column[apart], value[apart], found.size)
        return np.asarray(total - np.bincount(found // (sizes[1] * sizes[2]), own, minlength=n))

    def _through(
        self, row: np.ndarray, column: np.ndarray, value: np.ndarray, n: int
    ) -> np.ndarray:
        """``r' H r`` of n sparse rows over the columns of the core."""
        N, _, B = self.H.shape
        total = np.zeros(n)
        for block in np.unique(column % B):
            at = column % B == block
            R = scipy.sparse.csr_array((value[at], (row[at], column[at] // B)), shape=(n, N))
            total += R.multiply(R @ self.H[:, :, block]).sum(axis=1)
        return total

    def _entries(self, cells: Places) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What effects are of the core: number of the effect, column of the core, factor.

        Columns are numbered ``row * B + block``.
        """
        B = self.H.shape[2]
        core = np.flatnonzero(cells.bucket == len(self.links))
        parts = [(core, cells.slot[core] * B + cells.group[core], np.ones(core.size))]
        for b, (row, block, order, groups) in enumerate(self.links):
            at = np.flatnonzero(cells.bucket == b)
            first, last = (np.searchsorted(groups, cells.group[at], s) for s in ("left", "right"))
            count = last - first
            start = np.repeat(first - (np.cumsum(count) - count), count)
            entry = order[start + np.arange(start.size)]
            effect = np.repeat(at, count)
            through = self.effects.through[b]
            assert through is not None  # of a bucket of eliminated groups
            value = -through[cells.slot[effect], entry]
            parts.append((effect, row[entry] * B + block[entry], value))
        effects, columns, values = zip(*parts, strict=True)
        return np.concatenate(effects), np.concatenate(columns), np.concatenate(values)


def pair_variances(covariances: Sequence[np.ndarray], cells: Places, a: np.ndarray) -> np.ndarray:
    """``sum a_j a_l Cov(b_j, b_l)`` over pairs of one group, for rows of K effects, (n,)."""
    bucket, group, slot = cells
    same = (bucket[:, :, None] == bucket[:, None]) & (group[:, :, None] == group[:, None])
    total = np.zeros(len(a))
    for b, cov in enumerate(covariances):
        row, j, k = np.nonzero(same & (bucket == b)[:, :, None])
        values = cov[slot[row, j], slot[row, k], group[row, j]]
        total += np.bincount(row, a[row, j] * a[row, k] * values, minlength=len(a))
    return total


def row_variances(
    effects: GroupEffects, design: Design, codes: Sequence[np.ndarray], values: Sequence[np.ndarray]
) -> np.ndarray:
    """Conditional variance of ``z' b`` for rows of any levels, relative to sigma^2, (n,).

    Parameters
    ----------
    effects : GroupEffects
    design : Design
    codes : sequence of ndarray of int, shape (n, S)
        Levels of each row in each term.
    values : sequence of ndarray, shape (n, S, k)
        Covariates; what is zero adds nothing, whatever its level.
    """
    if design.is_related:
        return np.asarray(np.maximum(_related(effects, design).variances(codes, values), 0.0))
    layout, n = design.compressed.layout, len(codes[0])
    cells, a = [], []
    for t, (code, z) in enumerate(zip(codes, values, strict=True)):
        places, k = design.places.level_maps[t], design.sizes[t]
        found = (places.bucket[code], places.group[code], places.slot[code])
        at = [np.repeat(column[:, :, None], k, axis=2) for column in found]
        at[2] = at[2] + np.arange(k)
        cells.append([v.reshape(n, -1) for v in at])
        a.append((z @ np.asarray(layout.whiteners[t])).reshape(n, -1))
    where = Places(*(np.concatenate(columns, axis=1) for columns in zip(*cells, strict=True)))
    weights = np.concatenate(a, axis=1)
    meeting = _meeting(effects, design)
    if meeting is None:
        total = pair_variances(effects.covariances, where, weights)
    else:
        total = meeting.variances(where, weights)
    return np.asarray(np.maximum(total, 0.0))
