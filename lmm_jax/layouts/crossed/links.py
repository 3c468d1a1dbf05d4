"""How the eliminated groups meet the core: sparse rows, and sums over their pairs.

Group i touches few of the core's columns. An *entry* is one of them, with the
vector ``d_e = Q_i' z_e`` of its cross-products. Everything dense that the core
needs is a sum over pairs of entries of one group,

    sum_i d_i' N_i d_i    at (row_e, row_f):    d_e' N_i d_f

The pairs run along the rows of the core, so that a sum writes to one short
stretch of memory after the other, in chunks that bound what is held at once.
Where most groups touch a column, dense products take its pairs (:mod:`.dense_entries`). In NumPy
a fit multiplies its listed pairs once (:mod:`.pair_sums`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
import scipy.sparse
from jax import Array

from ...numerics.in_place import accumulate
from ...numerics.namespace import JAX, NUMPY, STACKED, namespace
from ...reprs import brief
from .dense_entries import DenseEntries, add_head, head_contractions
from .dense_sums import DenseSums, pays
from .pair_sums import HOST_CHUNK, PairSums, pair_sums

# Pairs that one step of a sum takes together in a program.
CHUNK = 1 << 20
# Products of numbers from which a sparse matrix is worth its making in NumPy.
_MANY = 1 << 13


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
    sums: PairSums | DenseSums | None = None  # of the listed pairs, for NumPy while it fits

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
    """Fold ``step(sum, left, right)`` over chunks of the pairs, ``size`` numbers a pair."""
    xp = namespace(init)
    pairs = links.left.shape[0]
    if xp is NUMPY:  # numbers of a chunk stay in the cache
        chunk = max(1, HOST_CHUNK // size)
        for start in range(0, pairs, chunk):
            init = step(init, links.left[start : start + chunk], links.right[start : start + chunk])
        return init
    chunk = pairs
    while chunk * size > CHUNK and chunk % 2 == 0:
        chunk //= 2
    if chunk == pairs:
        return step(init, links.left, links.right)

    def body(i: Array, total: Array) -> Array:
        left = xp.dynamic_slice_in_dim(links.left, i * chunk, chunk)
        right = xp.dynamic_slice_in_dim(links.right, i * chunk, chunk)
        return step(total, left, right)

    return xp.fori_loop(0, pairs // chunk, body, init)


def without_padding(links: Links) -> Links:
    """The pairs that are there and their entries, an empty one behind them, on the host."""
    count = _n_pairs(links)
    n = int(np.max(links.left[:count], initial=-1)) + 2  # every entry is paired with itself
    if links.head is not None:  # whose entries are not, and which refers to the last one
        n = links.d.shape[1]
    return replace(
        links,
        d=links.d[:, :n],
        group=links.group[:n],
        row=links.row[:n],
        block=links.block[:n],
        left=links.left[:count],
        right=links.right[:count],
    )


def _n_pairs(links: Links) -> int:
    """Pairs that are there: those past the end are the last entry's, which is empty."""
    last = links.d.shape[1] - 1
    return int(np.searchsorted(np.asarray(links.left) == last, True))


def with_sums(links: Links, shape: tuple[int, int], room: float) -> Links:
    """Links of a core (N, B) for many sums in NumPy, if those take no more than ``room`` bytes.

    Lanes with entries of their own have none.
    """
    if links.sums is not None or namespace(links.d) is STACKED:
        return links
    d, group, row, block, left, right = (
        np.asarray(x)
        for x in (links.d, links.group, links.row, links.block, links.left, links.right)
    )
    count = _n_pairs(links)
    q, n_groups = d.shape[0], 1 + int(group.max(initial=-1))
    if links.head is None and pays(count, q, n_groups, shape):
        entries = entry_matrix(d, links, n_groups, shape).toarray()
        return replace(links, sums=DenseSums(d=entries.reshape(q, n_groups, -1)))
    pairs = left[:count], right[:count]
    return replace(links, sums=pair_sums(d, group, row, block, pairs, shape, room))


def add_pairs(total: Array, W: Array, links: Links, factors: tuple[Array, Array]) -> Array:
    """``total + sum_i d_i' W_i d_i`` over the core.

    Parameters
    ----------
    total : Array, shape (N, N, B)
        Symmetric.
    W : Array, shape (q, q, G)
        Symmetric, one a group.
    links : Links
    factors : two of Array, shape (q, E)
        x and y with ``x_e' y_f = d_e' W d_f`` within a group, d and W d for example.
    """
    xp = namespace(total, W)
    N, _, B = total.shape
    head, sums = links.head, None if xp is JAX else links.sums
    own: Any = total
    if sums is not None:
        own = xp.with_lanes(sums.added, total, W)
    if sums is not None and head is None:
        return own
    x, y = factors
    if sums is not None and head is not None:
        return add_head(own[:, :, 0], x, y, head)[:, :, None]
    twice = head is not None and xp is not NUMPY  # a large core: no second matrix

    def step(sums: Array, left: Array, right: Array) -> Array:
        row, column = links.row[left], links.row[right]
        dots = x[0][left] * y[0][right]
        for a in range(1, x.shape[0]):
            dots = dots + x[a][left] * y[a][right]
        sums = accumulate(sums, _cells(row, column, left, links, N, B), dots)
        if not twice:
            return sums
        dots = xp.where(row == column, 0.0, dots)
        return accumulate(sums, _cells(column, row, left, links, N, B), dots)

    if head is not None and twice:
        flat = _over_pairs(step, total.reshape(-1), links, x.shape[0])
        return add_head(flat.reshape(N, N), x, y, head)[:, :, None]
    upper = _over_pairs(step, xp.zeros(N * N * B, x.dtype), links, x.shape[0]).reshape(N, N, B)
    if xp is not NUMPY:
        diagonal = xp.eye(N, dtype=x.dtype)[:, :, None]
        return total + (upper + xp.swapaxes(upper, 0, 1) * (1.0 - diagonal))
    on = np.arange(N)
    upper[on, on] *= 0.5
    out: Any = total + upper
    out += xp.swapaxes(upper, 0, 1)
    return out if head is None else add_head(out[:, :, 0], x, y, head)[:, :, None]


def pair_contraction(x: Array, H: Array, links: Links) -> Array:
    """``sum_i x_i H_i x_i'`` with H at the entries of each group, (q, q); all pairs are listed."""
    xp = namespace(x, H)
    q = x.shape[0]
    flat = H.reshape(-1)

    def step(total: Array, left: Array, right: Array) -> Array:
        at = _both_orders(flat, H, links, left, right)
        if q == 1:
            return total + xp.sum(x[0][left] * x[0][right] * at)
        return total + (x[:, left] * at[None]) @ x[:, right].T

    half = _over_pairs(step, xp.zeros((q, q), x.dtype), links, q)
    return 0.5 * (half + half.T)


def group_contractions(x: Array, H: Array, links: Links, n_groups: int) -> Array:
    """``x_i H_i x_i'`` of every group, (q, q, G)."""
    xp = namespace(x, H)
    q = x.shape[0]
    flat = H.reshape(-1)

    def step(total: Array, left: Array, right: Array) -> Array:
        at = _both_orders(flat, H, links, left, right)
        if q == 1:
            own = (x[0][left] * x[0][right] * at)[:, None]
            return total + xp.segment_sum(own, links.group[left], n_groups)
        outer = (x[:, left] * at[None])[:, None] * x[:, right][None]  # (q, q, pairs)
        rows = outer.reshape(q * q, -1).T
        return total + xp.segment_sum(rows, links.group[left], n_groups)

    found = _over_pairs(step, xp.zeros((n_groups, q * q), x.dtype), links, q * q)
    return _with_head(found.T.reshape(q, q, n_groups), x, H, links)


def contractions_of_d(H: Array, links: Links, n_groups: int) -> Array:
    """:func:`group_contractions` of the entries themselves, by the sums that NumPy has."""
    assert links.sums is not None
    q, sums = links.d.shape[0], links.sums
    contract = partial(sums.contractions, q=q, n_groups=n_groups)
    found: Any = namespace(H).with_lanes(contract, H)
    return _with_head(found, links.d, H, links)


def _with_head(half: Array, x: Array, H: Array, links: Links) -> Array:
    """Half of ``result + result'``, (q, q, G), the part of the head included."""
    if links.head is not None:
        half = half + head_contractions(x, H[:, :, 0], links.head, half.shape[2])
    return 0.5 * (half + namespace(half).swapaxes(half, 0, 1))


def _cells(row: Array, column: Array, left: Array, links: Links, N: int, B: int) -> Array:
    """Places of pairs in a flat (N, N, B)."""
    cell = row * N + column
    return cell if B == 1 else cell * B + links.block[left]


def _both_orders(flat: Array, H: Array, links: Links, left: Array, right: Array) -> Array:
    """H at pairs of entries, those of different rows counted for both of their orders."""
    xp = namespace(flat)
    N, _, B = H.shape
    row, column = links.row[left], links.row[right]
    at = flat[_cells(row, column, left, links, N, B)]
    return xp.where(row == column, at, 2.0 * at)


def scaled_entries(
    x: Array, factors: Sequence[Array], widths: Sequence[int], links: Links
) -> Array:
    """``x Lambda`` with the factors of the core's terms, (q, E).

    Entries of one level of a group stand side by side, so that those that Lambda mixes
    are neighbours.
    """
    xp = namespace(x, factors)
    sizes = [F.shape[0] for F in factors]
    out: Any = None
    for shift in range(1 - max(sizes), max(sizes)):
        rows = []
        for F, k, w in zip(factors, sizes, widths, strict=True):
            ahead = range(k)
            own = [F[b + shift, b] if b + shift in ahead else xp.zeros((), x.dtype) for b in ahead]
            rows.append(xp.broadcast_to(xp.stack(own), (w, k)).reshape(-1))
        neighbours, beyond = x, xp.zeros((x.shape[0], abs(shift)), x.dtype)
        if shift > 0:
            neighbours = xp.concatenate([x[:, shift:], beyond], axis=1)
        elif shift < 0:
            neighbours = xp.concatenate([beyond, x[:, :shift]], axis=1)
        part = neighbours * xp.concatenate(rows)[links.row][None]
        out = part if out is None else out + part
    return out


def onto_core(x: Array, c: Array, links: Links, shape: tuple[int, int]) -> Array:
    """``sum_i x_i' c_i`` at the rows of the core: (q, E), (q, C, G) -> (N, C, B)."""
    xp, (N, B) = namespace(x, c), shape
    if xp is NUMPY and x.size * c.shape[1] > _MANY:
        columns = np.swapaxes(c, 1, 2).reshape(-1, c.shape[1])
        sums = entry_matrix(x, links, c.shape[2], shape).T @ columns
    else:
        values = xp.sum(x[:, None] * at_entries(c, links), axis=0)
        sums = xp.segment_sum(values.T, links.row * B + links.block, N * B)
    return xp.swapaxes(sums.reshape(N, B, -1), 1, 2)


def onto_groups(x: Array, A: Array, links: Links, n_groups: int) -> Array:
    """``x_i A`` of every group: (q, E), (N, C, B) -> (q, C, G)."""
    xp, q, (N, C, B) = namespace(x, A), x.shape[0], A.shape
    rows = xp.swapaxes(A, 1, 2).reshape(N * B, C)
    if xp is NUMPY and x.size * C > _MANY:
        found = entry_matrix(x, links, n_groups, (N, B)) @ rows
        return np.swapaxes(found.reshape(q, n_groups, C), 1, 2)
    values = rows[links.row * B + links.block].T
    products = (x[:, None] * values[None]).reshape(q * C, -1).T
    return xp.segment_sum(products, links.group, n_groups).T.reshape(q, C, n_groups)


def entry_matrix(x: Any, links: Links, n_groups: int, shape: tuple[int, int]) -> Any:
    """Numbers at the entries (q, E) as a matrix (q G, N B): sparse, unless its sums are dense."""
    q, (N, B) = x.shape[0], shape
    place, E = links.row * B + links.block, links.row.size
    first = np.searchsorted(links.group, np.arange(n_groups))  # empty entries are the last
    starts = np.append((first + E * np.arange(q)[:, None]).reshape(-1), q * E)
    entries = x.reshape(-1), np.tile(place, q), starts
    found = scipy.sparse.csr_array(entries, shape=(q * n_groups, N * B))
    return found.toarray() if isinstance(links.sums, DenseSums) else found
