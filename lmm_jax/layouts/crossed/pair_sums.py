"""Sums over the pairs of entries as products of one sparse matrix, for NumPy.

Pairs of entries that fall on one place of the core are added up,

    A_cd  =  sum_i d_ic' W_i d_id  =  sum_i <W_i, d_ic d_id'>        X_i  =  sum_cd d_ic H_cd d_id'

so that with the products ``d_ic d_id'`` in the rows of the places (c, d) and the columns of the
numbers of W_i, K of each group i, the one sum is the matrix times W, the other its transpose
times H. The products do not
depend on theta: a fit makes them once, and an evaluation reads every one of them once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import scipy.sparse

from ...numerics.memory import host_memory
from ...reprs import brief

# Pairs up to which a list of them is as good, and that are worth sorting.
_FEW, SORTED = 1 << 12, 1 << 26
# Products that integers of 32 bits number.
MOST = 2**31 - 1
# Share of the memory that the sums may take, and what they may where nobody knows how much it is.
_SHARE, _ROOM = 1 / 16, 1 << 30
# Bytes of a place: both of its numbers, its first pair, whether there are two.
_PLACE = 8 + 8 + 4 + 1
# Pairs that are taken together: their numbers stay in the cache.
HOST_CHUNK = 1 << 17


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PairSums:
    """Products of the pairs that :class:`lmm_jax.layouts.crossed.links.Links` lists.

    ``flat`` are the places (c, d) in an array (N, N, B), ``mirror`` those of (d, c) where it is
    another.
    """

    products: np.ndarray  # (P, K)  x_a y_b of a pair (x, y), with x_b y_a; K = q (q + 1) / 2
    column: np.ndarray  # (P, K)  int32: group times K, and which of the K
    starts: np.ndarray  # (C + 1,)  first number of each place
    flat: np.ndarray  # (C,)
    off: np.ndarray  # (C,)  bool: whether c is not d
    mirror: np.ndarray  # (C',)
    n_groups: int = field(metadata={"static": True})

    __repr__ = brief

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return sum(a.nbytes for a in jax.tree.leaves(self))

    @property
    def matrix(self) -> Any:
        """The products at places and numbers of the groups, (C, G K)."""
        entries = self.products.reshape(-1), self.column.reshape(-1), self.starts
        shape = self.flat.size, self.n_groups * self.products.shape[1]
        return scipy.sparse.csr_array(entries, shape=shape)

    def added(self, total: np.ndarray, W: Any) -> np.ndarray:
        """``total + sum_i d_i' W_i d_i``, (N, N, B), for symmetric W; lanes may be last."""
        total, lanes = np.array(total, order="C"), total.shape[3:]
        of_groups = np.swapaxes(W[*np.triu_indices(W.shape[0])][:, : self.n_groups], 0, 1)
        sums = self.matrix @ of_groups.reshape(-1, *lanes)
        cells = total.reshape(-1, *lanes)  # a view: the copy above is in C's order
        cells[self.flat] += sums
        cells[self.mirror] += sums[self.off]
        return total

    def contractions(self, H: Any, q: int, n_groups: int) -> np.ndarray:
        """``d_i H d_i'`` of every group, (q, q, G), for a symmetric H; lanes may be last."""
        lanes, (a, b) = H.shape[3:], np.triu_indices(q)
        twice = H.reshape(-1, *lanes)[self.flat]
        twice[self.off] *= 2.0
        sums = np.swapaxes((self.matrix.T @ twice).reshape(self.n_groups, a.size, *lanes), 0, 1)
        sums[a < b] *= 0.5
        out = np.zeros((q, q, n_groups, *lanes))
        out[a, b, : self.n_groups] = out[b, a, : self.n_groups] = sums
        return out


def room_for_sums() -> float:
    """Bytes that the sums of a layout, which NumPy has alone, may take."""
    there = host_memory()
    return _ROOM if there is None else _SHARE * there


def expected_size(pairs: int, q: int, shape: tuple[int, int]) -> float:
    """Bytes of the sums of so many pairs of entries with q numbers, about."""
    N, B = shape
    return pairs * 12 * (q * (q + 1) // 2) + _PLACE * min(pairs, N * N * B / 2)


def pair_sums(
    d: np.ndarray,
    group: np.ndarray,
    row: np.ndarray,
    block: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray],
    shape: tuple[int, int],
    room: float,
) -> PairSums | None:
    """Products of all pairs; None where these are few, or more than there is room for.

    Parameters
    ----------
    d : ndarray, shape (q, E)
    group, row, block : ndarray of int, shape (E,)
    pairs : two of ndarray of int, shape (P,)
        Entries, those of one place side by side.
    shape : (int, int)
        N columns and B blocks of the core.
    room : float
        Bytes.
    """
    q, (N, B), count = d.shape[0], shape, pairs[0].size
    rows, columns = np.triu_indices(q)
    numbers = count * rows.size
    if numbers <= _FEW or numbers > MOST or count > SORTED:
        return None
    if expected_size(count, q, shape) > room:
        return None
    place = (row * B + block).astype(np.int32)
    products = np.empty((count, rows.size))
    column = np.empty((count, rows.size), np.int32)
    starts: list[np.ndarray] = []
    before = -1, -1
    for at in range(0, count, HOST_CHUNK):  # what a chunk needs stays in the cache
        left, right = (entry[at : at + HOST_CHUNK] for entry in pairs)
        c, e = place[left], place[right]
        new = np.append((c[0], e[0]) != before, (c[1:] != c[:-1]) | (e[1:] != e[:-1]))
        before = c[-1], e[-1]
        starts.append(at + np.flatnonzero(new))
        column[at : at + left.size] = group[left][:, None] * rows.size + np.arange(rows.size)
        x, y = d[:, left], d[:, right]
        for k, (a, b) in enumerate(zip(rows, columns, strict=True)):
            products[at : at + left.size, k] = x[a] * y[b] + (x[b] * y[a] if a < b else 0.0)
    first = np.concatenate(starts)
    c, e = (place[entry[first]].astype(np.int64) for entry in pairs)
    off = c != e
    return PairSums(
        products=products,
        column=column,
        starts=(rows.size * np.append(first, count)).astype(np.int32),
        flat=c // B * (N * B) + e,
        off=off,
        mirror=(e // B * (N * B) + c)[off],
        n_groups=1 + int(group.max(initial=-1)),
    )
