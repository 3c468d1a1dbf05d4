"""Entries at the columns of the core that most groups touch, as dense matrices.

A list of all pairs of entries grows with the square of what a group touches: a viewer of
1,000 films has half a million. Where most groups touch a column, a product of dense matrices
costs less than its pairs, and needs no list. *Head* is what these columns are called; pairs of
which one entry lies elsewhere stay in the list of :mod:`.links`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import numpy as np
from jax import Array

from ...numerics.namespace import namespace
from ...reprs import brief

# Pairs up to which a list of them is as good; numbers of a dense matrix that are held at once.
_FEW_PAIRS, _HELD = 1 << 22, 1 << 23
# Seconds of a pair in a list and of a product in a matrix product, on a core of today: NumPy takes
# 48 ns for a pair, a compiled program 12.
_PAIR, _PRODUCT = 1e-8, 3e-11


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DenseEntries:
    """Which entries of one bucket go where, chunk by chunk of its groups."""

    row: Array  # (h,)  int32: rows of the core
    member: Array  # (chunks, M)  int32: entry; past the end an empty one
    place: Array  # (chunks, M)  int32: its place among (column of the head, group of the chunk)
    n_groups: int = field(metadata={"static": True})  # of a chunk

    __repr__ = brief


def head_levels(group: np.ndarray, level: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Which levels of the core the head holds, (L,) bool: those that cost least in all.

    Parameters
    ----------
    group, level : ndarray of int, shape (C,)
        Pairs that meet.
    width : ndarray of int, shape (L,)
        Columns of a level.
    """
    count = np.bincount(level, minlength=width.size)
    order = np.argsort(-count, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    columns, n_groups = width[level], int(group.max(initial=-1)) + 1
    whole = _n_pairs(group, columns)
    if whole <= _FEW_PAIRS:
        return np.zeros(width.size, bool)
    steps = np.unique(np.append(0, np.geomspace(8, max(order.size, 8), 24).astype(int)))
    costs = []
    for step in steps:
        at = rank[level] < step
        h = int(width[order[:step]].sum())
        rest = whole - _n_pairs(group[at], columns[at])
        costs.append(rest * _PAIR + n_groups * h**2 * _PRODUCT)
    return rank < steps[int(np.argmin(costs))]


def _n_pairs(group: np.ndarray, columns: np.ndarray) -> float:
    """Pairs of entries of one group."""
    n = np.bincount(group, columns)
    return float(np.sum(n * (n + 1)) / 2)


def dense_entries(
    group: np.ndarray, row: np.ndarray, in_head: np.ndarray, empty: int
) -> DenseEntries | None:
    """Places of the entries of the head.

    Parameters
    ----------
    group, row : ndarray of int, shape (E,)
        Of every entry, sorted by group.
    in_head : ndarray of bool, shape (E,)
    empty : int
        An entry whose numbers are zero.
    """
    rows, column = np.unique(row[in_head], return_inverse=True)
    if not rows.size:
        return None
    member, owner = np.flatnonzero(in_head), group[in_head]
    n_groups = int(group[-1]) + 1
    size = min(n_groups, max(1, _HELD // rows.size))
    chunk = owner // size
    counts = np.bincount(chunk, minlength=-(-n_groups // size))
    slot = np.arange(member.size) - (np.cumsum(counts) - counts)[chunk]
    members = np.full((counts.size, counts.max()), empty, np.int32)
    places = np.full(members.shape, size * rows.size, np.int32)
    members[chunk, slot] = member
    places[chunk, slot] = column * size + owner - chunk * size
    return DenseEntries(
        row=rows.astype(np.int32),  # type: ignore[arg-type]  # NumPy's until they are linked
        member=members,  # type: ignore[arg-type]
        place=places,  # type: ignore[arg-type]
        n_groups=size,
    )


def _matrix(x: Array, at: DenseEntries, i: Array) -> Array:
    """One chunk of x as a dense matrix, zero elsewhere: (q, E) -> (q, h, groups)."""
    xp = namespace(x)
    q, size = x.shape[0], at.n_groups * at.row.shape[0]
    flat = xp.at(xp.zeros((q, size + 1), x.dtype))[:, at.place[i]].set(x[:, at.member[i]])
    return flat[:, :-1].reshape(q, -1, at.n_groups)


def head_sums(x: Array, y: Array, at: DenseEntries) -> Array:
    """``sum_i x_i' y_i`` over the head, (h, h), for x and y with a symmetric result."""
    xp = namespace(x, y)
    h = at.row.shape[0]

    def body(i: Array, total: Array) -> Array:
        left = _matrix(x, at, i)
        right = left if y is x else _matrix(y, at, i)
        for a in range(x.shape[0]):
            total = total + left[a] @ right[a].T
        return total

    total = xp.fori_loop(0, at.member.shape[0], body, xp.zeros((h, h), x.dtype))
    return 0.5 * (total + total.T)


def head_contraction(x: Array, H: Array, at: DenseEntries) -> Array:
    """``sum_i x_i H x_i'`` over the head, (q, q), for a symmetric H, (h, h)."""
    xp = namespace(x, H)
    q = x.shape[0]

    def body(i: Array, total: Array) -> Array:
        dense = _matrix(x, at, i)
        return total + (H @ dense).reshape(q, -1) @ dense.reshape(q, -1).T

    return xp.fori_loop(0, at.member.shape[0], body, xp.zeros((q, q), x.dtype))


def head_group_contractions(x: Array, H: Array, at: DenseEntries, n_groups: int) -> Array:
    """``x_i H x_i'`` of every group over the head, (q, q, G), for a symmetric H, (h, h)."""
    xp = namespace(x, H)
    q, chunks = x.shape[0], at.member.shape[0]
    groups = xp.asarray(np.arange(chunks * at.n_groups, dtype=np.int32).reshape(chunks, -1))

    def body(i: Array, total: Array) -> Array:
        dense = _matrix(x, at, i)
        own = xp.sum((H @ dense)[:, None] * dense[None], axis=2)
        return xp.at(total)[:, :, groups[i]].set(own)

    start = xp.zeros((q, q, max(chunks * at.n_groups, n_groups)), x.dtype)
    return xp.fori_loop(0, chunks, body, start)[:, :, :n_groups]
