"""Which levels of crossed factors meet: the index of a layout that holds their products sparse.

Built on the host with NumPy, once per design; no loop over levels or rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import jax
import numpy as np

from ...covariance.structures import OfTerms, Structure
from ...numerics.elimination import Elimination, eliminate_sparse
from ...reprs import brief
from ..group_index import LevelMap, stream_terms


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Meetings:
    """Pairs of different levels that rows bring together, of two terms or of one."""

    left: np.ndarray  # (P,) int32: level of the first term
    right: np.ndarray  # (P,) int32: level of the second; of one term the later level
    terms: tuple[int, int] = field(metadata={"static": True})

    __repr__ = brief


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SparseIndex(OfTerms):
    """Index of a design with crossed factors; a *stream* is a (term, membership) pair."""

    levels: tuple[np.ndarray, ...]  # (n,) int32 a stream: level of each row
    meetings: tuple[Meetings, ...]
    cells: tuple[np.ndarray, ...]  # (n,) int32 a pair of streams: which meeting of theirs
    of_meetings: tuple[int, ...] = field(metadata={"static": True})  # a pair of streams: which list
    streams: tuple[int, ...] = field(metadata={"static": True})  # term of each stream
    structures: tuple[Structure, ...] = field(metadata={"static": True})  # one a term
    widths: tuple[int, ...] = field(metadata={"static": True})  # levels of each term
    n_components: int = field(metadata={"static": True})
    elimination: Elimination | None = field(metadata={"static": True})  # None: not looked for

    __repr__ = brief

    @property
    def order(self) -> Elimination:
        """The order of elimination, of a plan that has looked for one."""
        assert self.elimination is not None
        return self.elimination

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.levels[0].shape[0]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SparsePlan:
    """The host's side of the index: every term is a bucket, every level a group of it."""

    index: SparseIndex
    level_maps: tuple[LevelMap, ...]  # one a term

    __repr__ = brief


def plan_sparse(index: SparseIndex, maps: tuple[LevelMap, ...], **limits: Any) -> SparsePlan | None:
    """An order of elimination for an index; None where it would fill the matrix up.

    Parameters
    ----------
    index, maps
        See :func:`sparse_index`.
    **limits
        Of :func:`lmm_jax.numerics.elimination.eliminate_sparse`.
    """
    elimination = eliminate_sparse(
        *scalar_pairs(index.meetings, index.widths, index.sizes), **limits
    )
    if elimination is None:
        return None
    return SparsePlan(index=replace(index, elimination=elimination), level_maps=maps)


def sparse_index(
    codes: Sequence[np.ndarray],
    n_levels: Sequence[int],
    structures: Sequence[Structure],
    n_components: int,
) -> tuple[SparseIndex, tuple[LevelMap, ...]]:
    """The index without an order of elimination, and where the levels' effects stand.

    Parameters
    ----------
    codes : sequence of ndarray of int, shape (n, S)
        Level of each row in each term, for every membership.
    n_levels : sequence of int
    structures : sequence of Structure
    n_components : int
        How many of the last terms are variance components.
    """
    streams = stream_terms(codes)
    levels = tuple(
        np.ascontiguousarray(c[:, s], np.int32) for c in codes for s in range(c.shape[1])
    )
    meetings, cells, of_meetings = _meet(streams, levels, n_levels)
    index = SparseIndex(
        levels=levels,
        meetings=meetings,
        cells=cells,
        of_meetings=of_meetings,
        streams=streams,
        structures=tuple(structures),
        widths=tuple(n_levels),
        n_components=n_components,
        elimination=None,
    )
    maps = tuple(
        LevelMap(bucket=np.full(count, t), group=np.arange(count), slot=np.zeros(count, np.int64))
        for t, count in enumerate(n_levels)
    )
    return index, maps


def _meet(
    streams: Sequence[int], levels: Sequence[np.ndarray], n_levels: Sequence[int]
) -> tuple[tuple[Meetings, ...], tuple[np.ndarray, ...], tuple[int, ...]]:
    """Meetings of every pair of terms, and of every pair of streams which one a row is.

    A row that has one level twice is no meeting: its cell is past the end.
    """
    pairs = list(combinations(range(len(streams)), 2))
    terms = sorted({(streams[u], streams[v]) for u, v in pairs})
    meetings: list[Meetings] = []
    cells: dict[tuple[int, int], np.ndarray] = {}
    for t, s in terms:
        own = [(u, v) for u, v in pairs if (streams[u], streams[v]) == (t, s)]
        keys = []
        for u, v in own:
            a, b = levels[u].astype(np.int64), levels[v].astype(np.int64)
            low, high = (np.minimum(a, b), np.maximum(a, b)) if t == s else (a, b)
            keys.append(low * n_levels[s] + high)
        key = np.concatenate(keys)
        found, cell = np.unique(key, return_inverse=True)
        if t == s:
            apart = found // n_levels[s] != found % n_levels[s]
            number = np.where(apart, np.cumsum(apart) - 1, apart.sum())
            found, cell = found[apart], number[cell]
        meetings.append(
            Meetings(
                left=(found // n_levels[s]).astype(np.int32),
                right=(found % n_levels[s]).astype(np.int32),
                terms=(t, s),
            )
        )
        cells |= zip(own, np.split(cell.astype(np.int32), len(own)), strict=True)
    order = tuple(terms.index((streams[u], streams[v])) for u, v in pairs)
    return tuple(meetings), tuple(cells[pair] for pair in pairs), order


def first_columns(n_levels: Sequence[int], sizes: Sequence[int]) -> np.ndarray:
    """First column of each term, and the end."""
    return np.cumsum([0, *(n * k for n, k in zip(n_levels, sizes, strict=True))])


def scalar_pairs(
    meetings: Sequence[Meetings], n_levels: Sequence[int], sizes: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows and columns of the matrix of all coefficients that are not zero, and its size."""
    first = first_columns(n_levels, sizes)
    rows, columns = [], []
    for m in meetings:
        (t, s), a, b = m.terms, m.left.astype(np.int64), m.right.astype(np.int64)
        shape = (a.size, sizes[t], sizes[s])
        row = (first[t] + a * sizes[t])[:, None, None] + np.arange(sizes[t])[:, None]
        column = (first[s] + b * sizes[s])[:, None, None] + np.arange(sizes[s])
        rows.append(np.broadcast_to(row, shape).ravel())
        columns.append(np.broadcast_to(column, shape).ravel())
    for t, k in enumerate(sizes):
        row, column = np.tril_indices(k, -1)
        start = first[t] + k * np.arange(n_levels[t])[:, None]
        rows.append((start + row).ravel())
        columns.append((start + column).ravel())
    return np.concatenate(rows), np.concatenate(columns), int(first[-1])
