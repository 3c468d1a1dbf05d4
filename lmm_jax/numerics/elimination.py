"""The order in which the columns of a sparse symmetric matrix are eliminated, and what fills.

Columns are eliminated in *rounds*: columns of one round do not meet, so that a round is a few
operations of long vectors. Of every round those are taken whose degree is least among all that
they meet: minimum degree, many columns at a time. What remains when that no longer pays is the
*tail*, a dense matrix. NumPy, on the host, once per design.

References
----------
Liu (1985), doi:10.1145/214392.214398 (independent sets of minimum degree).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..reprs import brief

# Seconds of a pair of entries in an evaluation (factor and inverse), of a round whatever its size,
# and of n^3 in a dense tail of n columns, about.
_PAIR, _ROUND, _DENSE = 4e-8, 4e-4, 1e-10
# Seconds of an entry of the matrix in a round of the search for an order.
_SEARCH = 1e-7
# How far above the least degree a column may be eliminated in the same round, or at the median.
_MORE = 2


class Round(NamedTuple):
    """Columns that are eliminated at once, and the products of their entries."""

    columns: slice
    entries: slice
    left: np.ndarray  # (P,) int32: entry of the round; its row is not above that of right
    right: np.ndarray  # (P,) int32
    target: np.ndarray  # (T,) places of the storage that the products go to
    cell: np.ndarray  # (P,) int32: which of the targets


@dataclass(frozen=True, kw_only=True, eq=False)
class Elimination:
    """Where the numbers of an n x n matrix are stored: diagonal, entries, tail.

    Storage is one vector: the pivots' diagonal, (n - t,), the entries below it column by
    column, (E,), and the tail row by row, (t, t). Columns are counted in their new order.
    """

    position: np.ndarray  # (n,) new place of every column
    rows: np.ndarray  # (E,) int32
    columns: np.ndarray  # (E,) int32, in order
    starts: np.ndarray  # (n - t + 1,) first entry of every column
    rounds: tuple[Round, ...]
    n_tail: int

    __repr__ = brief

    @property
    def n_pivots(self) -> int:
        """Columns that are eliminated one by one, ``n - t``."""
        return self.starts.size - 1

    @property
    def size(self) -> int:
        """Numbers in the storage."""
        return self.n_pivots + self.rows.size + self.n_tail**2

    @property
    def seconds(self) -> float:
        """Time of an evaluation, about."""
        pairs = sum(r.left.size for r in self.rounds)
        return pairs * _PAIR + len(self.rounds) * _ROUND + self.n_tail**3 * _DENSE

    def places(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Where the numbers at these rows and columns of the matrix are stored.

        The matrix is symmetric: either order will do. Of the tail the upper triangle is
        stored too, and is for the caller to keep equal.
        """
        a, b = self.position[row], self.position[column]
        return self._stored(np.maximum(a, b), np.minimum(a, b))

    def _stored(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """The same in the new order, ``row >= column``."""
        m, E, t = self.n_pivots, self.rows.size, self.n_tail
        n = m + t
        out = np.asarray(column, np.int64).copy()  # the diagonal
        below = np.flatnonzero((row != column) & (column < m))
        key = self.columns.astype(np.int64) * n + self.rows
        out[below] = m + np.searchsorted(key, column[below].astype(np.int64) * n + row[below])
        tail = np.flatnonzero(column >= m)
        out[tail] = m + E + (row[tail] - m).astype(np.int64) * t + (column[tail] - m)
        return out


def eliminate_sparse(
    row: np.ndarray,
    column: np.ndarray,
    n: int,
    *,
    most_pairs: float,
    most_tail: int,
    most_seconds: float = np.inf,
) -> Elimination | None:
    """An order for a matrix with entries at these places; None where it fills up.

    Parameters
    ----------
    row, column : ndarray of int, shape (P,)
        Off the diagonal, every pair once or more.
    n : int
        Columns.
    most_pairs : float
        Products of entries beyond which it is not tried.
    most_tail : int
        Columns of the largest tail.
    most_seconds : float
        What the search for an order may take, about.
    """
    graph = _Graph(row, column, n)
    found = []
    pairs = spent = 0.0
    while graph.alive.size:
        chosen = graph.independent()
        cost = float(np.sum(graph.degree[chosen] * (graph.degree[chosen] + 1.0)) / 2)
        left = graph.alive.size
        saved = 3.0 * left**2 * chosen.size * _DENSE
        if left <= most_tail and cost * _PAIR + _ROUND > saved:
            break
        pairs += cost
        spent += (graph.source.size + 4.0 * cost) * _SEARCH
        if pairs > most_pairs or spent > most_seconds:
            return None
        found.append(graph.eliminate(chosen))
    return _stored(found, graph.alive, n)


class _Graph:
    """Which columns meet, while some are eliminated."""

    def __init__(self, row: np.ndarray, column: np.ndarray, n: int) -> None:
        self.n = n
        self.alive = np.arange(n)
        self.keys = _distinct(_key(row, column, n))
        self.order = np.random.default_rng(0).permutation(n)
        self._index()

    def _index(self) -> None:
        a, b = self.keys // self.n, self.keys % self.n
        self.source = np.concatenate([a, b])
        order = np.argsort(self.source, kind="stable")
        self.source, self.other = self.source[order], np.concatenate([b, a])[order]
        self.degree = np.bincount(self.source, minlength=self.n)

    def independent(self) -> np.ndarray:
        """Columns of nearly the least degree of which no two meet."""
        degree = self.degree[self.alive]
        few = degree <= max(degree.min() + _MORE, np.median(degree))
        rank = np.full(self.n, np.iinfo(np.int64).max)
        candidates = self.alive[few]
        rank[candidates] = degree[few] * np.int64(self.n) + self.order[candidates]
        if self.source.size:
            first = np.flatnonzero(np.diff(self.source, prepend=-1))
            least = np.minimum.reduceat(rank[self.other], first)
            beaten = self.source[first][rank[self.source[first]] > least]
            rank[beaten] = np.iinfo(np.int64).max
        return candidates[rank[candidates] < np.iinfo(np.int64).max]

    def eliminate(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Eliminate columns: they, and their entries (column, row)."""
        gone = np.zeros(self.n, bool)
        gone[chosen] = True
        at = gone[self.source]
        column, row = self.source[at], self.other[at]
        left, right = _products(np.searchsorted(column, column, side="right"))
        apart = left != right
        filled = _key(row[left[apart]], row[right[apart]], self.n)
        stays = ~(gone[self.keys // self.n] | gone[self.keys % self.n])
        self.keys = _distinct(np.concatenate([self.keys[stays], _distinct(filled)]))
        self.alive = self.alive[~gone[self.alive]]
        self._index()
        return chosen, column, row


def _key(row: np.ndarray, column: np.ndarray, n: int) -> np.ndarray:
    """One number for an unordered pair."""
    low, high = np.minimum(row, column), np.maximum(row, column)
    return low.astype(np.int64) * n + high


def _distinct(keys: np.ndarray) -> np.ndarray:
    """Sorted, each once: NumPy's own hashes, which takes far longer for runs that are sorted."""
    ranked = np.sort(keys, kind="stable")
    return ranked[np.append(True, ranked[1:] != ranked[:-1])] if keys.size else keys


def _products(end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of entries of one column, itself included: entry e with all from e to ``end[e]``."""
    count = end - np.arange(end.size)
    right = np.repeat(np.arange(end.size), count)
    left = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + right
    return left, right


def _stored(
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]], tail: np.ndarray, n: int
) -> Elimination:
    """Columns in their order, and where the products of their entries go."""
    order = np.concatenate([*(chosen for chosen, _, _ in found), tail])
    position = np.empty(n, np.int64)
    position[order] = np.arange(n)
    m = n - tail.size
    columns = position[np.concatenate([*(c for _, c, _ in found), np.zeros(0, np.int64)])]
    rows = position[np.concatenate([*(r for _, _, r in found), np.zeros(0, np.int64)])]
    by_column = np.lexsort((rows, columns))
    columns, rows = columns[by_column], rows[by_column]
    plan = Elimination(
        position=position,
        rows=rows.astype(np.int32),
        columns=columns.astype(np.int32),
        starts=np.searchsorted(columns, np.arange(m + 1)),
        rounds=(),
        n_tail=tail.size,
    )
    rounds = []
    start = 0
    for chosen, _, _ in found:
        stop = start + chosen.size
        at = slice(int(plan.starts[start]), int(plan.starts[stop]))
        own = rows[at]
        left, right = _products(plan.starts[columns[at] + 1] - at.start)
        target, cell = np.unique(plan._stored(own[left], own[right]), return_inverse=True)
        rounds.append(
            Round(
                columns=slice(start, stop),
                entries=at,
                left=left.astype(np.int32),
                right=right.astype(np.int32),
                target=target,
                cell=cell.astype(np.int32),
            )
        )
        start = stop
    object.__setattr__(plan, "rounds", tuple(rounds))
    return plan
