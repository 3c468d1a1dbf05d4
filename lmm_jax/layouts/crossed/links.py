"""How the eliminated groups meet the core: sparse rows, and sums over their pairs.

Group i touches few of the core's columns. An *entry* is one of them, with the
vector ``d_e = Q_i' z_e`` of its cross-products. Everything dense that the core
needs is a sum over pairs of entries of one group,

    sum_i d_i' N_i d_i    at (row_e, row_f):    d_e' N_i d_f

The pairs run along the rows of the core, so that a sum writes to one short
stretch of memory after the other, in chunks that bound what is held at once.
Where most groups touch a column, dense products take its pairs (:mod:`.dense_entries`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
from jax import Array

from ...numerics.namespace import namespace
from ...reprs import brief
from .dense_entries import DenseEntries, head_contraction, head_group_contractions, head_sums

# Pairs that one step of a sum takes together.
CHUNK = 1 << 20


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Links:
    """Entries of the groups of one bucket; those past the end are zero.

    ``left`` and ``right`` list every pair of entries of one group once, an entry
    with itself included; but not those that are both in the head, if there is one.
    """

    d: Array  # (q, E)
    group: Array  # (E,)  int32: group within the bucket
    row: Array  # (E,)  int32: row of the core
    block: Array  # (E,)  int32: block of the core
    left: Array  # (P,)  int32: entry
    right: Array  # (P,)  int32: entry
    head: DenseEntries | None = None

    __repr__ = brief


def at_entries(A: Array, links: Links) -> Array:
    """The matrices of each entry's group: (a, b, G) -> (a, b, E)."""
    return A[:, :, links.group]


def apply_at(A: Array, x: Array, links: Links) -> Array:
    """``A_i x_e`` with the matrix of each entry's group: (a, b, G), (b, E) -> (a, E)."""
    xp = namespace(A, x)
    return xp.sum(at_entries(A, links) * x[None], axis=1)


def _over_pairs(
    step: Callable[[Array, Array, Array], Array], init: Array, links: Links, size: int = 1
) -> Array:
    """Fold ``step(sum, left, right)`` over chunks of the pairs, ``size`` numbers a pair.

    NumPy writes a new sum for every chunk: one takes as many pairs as there are sums, about.
    """
    xp = namespace(init)
    pairs = links.left.shape[0]
    chunk = pairs
    while chunk * size > max(CHUNK, init.size // 4) and chunk % 2 == 0:
        chunk //= 2
    if chunk == pairs:
        return step(init, links.left, links.right)

    def body(i: Array, total: Array) -> Array:
        left = xp.dynamic_slice_in_dim(links.left, i * chunk, chunk)
        right = xp.dynamic_slice_in_dim(links.right, i * chunk, chunk)
        return step(total, left, right)

    return xp.fori_loop(0, pairs // chunk, body, init)


def pair_sums(x: Array, y: Array, links: Links, shape: tuple[int, int]) -> Array:
    """``sum_i x_i' y_i`` over the core, (N, N, B), for x and y with a symmetric result.

    Parameters
    ----------
    x, y : Array, shape (q, E)
        ``x_e' y_f = x_f' y_e`` within a group.
    links : Links
    shape : tuple of int
        N and B.
    """
    xp = namespace(x, y)
    N, B = shape

    def step(total: Array, left: Array, right: Array) -> Array:
        cell = (links.row[left] * N + links.row[right]) * B + links.block[left]
        dots = xp.sum(x[:, left] * y[:, right], axis=0)
        return xp.at(total)[cell].add(dots, mode="promise_in_bounds")

    upper = _over_pairs(step, xp.zeros(N * N * B, x.dtype), links, x.shape[0])
    upper = upper.reshape(N, N, B)
    diagonal = xp.eye(N, dtype=x.dtype)[:, :, None]
    total = upper + xp.swapaxes(upper, 0, 1) * (1.0 - diagonal)
    if links.head is None:
        return total
    at = (links.head.row[:, None], links.head.row[None], 0)
    return xp.at(total)[at].set(total[at] + head_sums(x, y, links.head))


def pair_contraction(x: Array, H: Array, links: Links) -> Array:
    """``sum_i x_i H_i x_i'`` with H at the entries of each group, (q, q)."""
    xp = namespace(x, H)
    q = x.shape[0]
    weighted = _double_off_diagonal(H)

    def step(total: Array, left: Array, right: Array) -> Array:
        at = weighted[_cells(H, links, left, right)]
        if q == 1:
            return total + xp.sum(x[0][left] * x[0][right] * at)
        return total + (x[:, left] * at[None]) @ x[:, right].T

    half = _over_pairs(step, xp.zeros((q, q), x.dtype), links, q)
    if links.head is not None:
        half = half + head_contraction(x, _of_head(H, links.head), links.head)
    return 0.5 * (half + half.T)


def group_contractions(x: Array, H: Array, links: Links, n_groups: int) -> Array:
    """``x_i H_i x_i'`` of every group, (q, q, G)."""
    xp = namespace(x, H)
    q = x.shape[0]
    weighted = _double_off_diagonal(H)

    def step(total: Array, left: Array, right: Array) -> Array:
        at = weighted[_cells(H, links, left, right)]
        outer = (x[:, left] * at[None])[:, None] * x[:, right][None]  # (q, q, pairs)
        rows = outer.reshape(q * q, -1).T
        return total + xp.segment_sum(rows, links.group[left], n_groups)

    flat = _over_pairs(step, xp.zeros((n_groups, q * q), x.dtype), links, q * q)
    half = flat.T.reshape(q, q, n_groups)
    if links.head is not None:
        own = _of_head(H, links.head)
        half = half + head_group_contractions(x, own, links.head, n_groups)
    return 0.5 * (half + xp.swapaxes(half, 0, 1))


def _of_head(H: Array, head: DenseEntries) -> Array:
    """H at the columns of the head, (h, h); a core that has one is one block."""
    return H[:, :, 0][head.row[:, None], head.row[None]]


def _cells(H: Array, links: Links, left: Array, right: Array) -> Array:
    N, _, B = H.shape
    return (links.row[left] * N + links.row[right]) * B + links.block[left]


def _double_off_diagonal(H: Array) -> Array:
    """H flat, every pair of different entries counted for both of its orders."""
    xp = namespace(H)
    return (H * (2.0 - xp.eye(H.shape[0], dtype=H.dtype)[:, :, None])).reshape(-1)


def to_core(values: Array, links: Links, shape: tuple[int, int]) -> Array:
    """Add the values of the entries up at their rows of the core: (C, E) -> (N, C, B)."""
    xp = namespace(values)
    N, B = shape
    flat = links.row * B + links.block
    sums = xp.segment_sum(values.T, flat, N * B)
    return xp.swapaxes(sums.reshape(N, B, -1), 1, 2)


def from_core(A: Array, links: Links) -> Array:
    """Rows of the core at the entries: (N, C, B) -> (C, E)."""
    xp = namespace(A)
    N, C, B = A.shape
    rows = xp.swapaxes(A, 1, 2).reshape(N * B, C)
    return rows[links.row * B + links.block].T


def to_groups(x: Array, values: Array, links: Links, n_groups: int) -> Array:
    """``sum_e x_e values_e'`` over the entries of each group: (q, E), (C, E) -> (q, C, G)."""
    xp = namespace(x, values)
    q, C = x.shape[0], values.shape[0]
    products = (x[:, None] * values[None]).reshape(q * C, -1).T
    sums = xp.segment_sum(products, links.group, n_groups)
    return sums.T.reshape(q, C, n_groups)
