"""Groups with one triangular factor T, merged: what an optimization has to look at gets shorter.

For the m_j groups whose factor is T_j

    logdet = sum_j m_j log|M_j|          gram = S0 + sum_j sum_{i in j} c_i' M_j^-1 c_i

and the second depends on ``B_j = sum_{i in j} vec(c_i) vec(c_i)'`` alone. The rows of a
factor ``F_j' F_j = B_j`` are pseudo-groups, ``q (p + 1)`` of them however many groups there
were. Their random effects are those of no group: BLUPs use the layout as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..linalg import eliminate
from ..programs import compiled
from .grouped import Bucket, GroupedLayout
from .index import round_up

# Numbers in a layout below which an evaluation takes no time, merged or not; and how many
# times fewer entries a merged bucket must have.
WORTH_MERGING = 1 << 13
_WORTHWHILE = 4
# Pivots of B below this, relative to their diagonal, are rounding.
_RANK_TOL = 1e-15
# Odd multiplier of a hash of the bits of T; a collision is found out.
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Classes(NamedTuple):
    """Groups sorted by their factor and cut into chunks of one class each."""

    source: np.ndarray  # (chunks, K)  group at each place, past the end where there is none
    owner: np.ndarray  # (chunks,)  class of each chunk
    first: np.ndarray  # (D,)  a group of each class
    counts: np.ndarray  # (D,)  groups in each class, 0 for padding


def merge(layout: GroupedLayout) -> GroupedLayout:
    """The layout with groups of equal factors merged, wherever that makes it much shorter.

    Criterion and derivatives of any order in the covariance parameters are
    those of ``layout``, and so are the moments that start values are made of.

    Parameters
    ----------
    layout : GroupedLayout
        Concrete arrays: which factors coincide is decided on the host.

    Returns
    -------
    GroupedLayout
        ``layout`` itself if there is little to gain.

    Examples
    --------
    >>> import numpy as np, lmm_jax as lmm
    >>> n = 20_000
    >>> y = np.random.default_rng(0).normal(size=n)
    >>> layout = lmm.design_from_arrays(y, np.ones((n, 1)), np.arange(n) // 5).layout
    >>> layout.size(), merge(layout).size()
    (12288, 12)
    """
    if layout.size() < WORTH_MERGING:
        return layout
    with jax.enable_x64(layout.S0.dtype == np.float64):
        buckets = tuple(_merge_bucket(bucket) for bucket in layout.buckets)
    if all(new is old for new, old in zip(buckets, layout.buckets, strict=True)):
        return layout
    return replace(layout, buckets=buckets)


def trim(layout: GroupedLayout, sizes: Sequence[int]) -> GroupedLayout:
    """The layout without most of its padding: what is evaluated many times has few groups.

    Parameters
    ----------
    layout : GroupedLayout
    sizes : sequence of int
        Groups of every bucket to be kept; those that are no padding come first.
    """
    buckets = tuple(
        bucket
        if size >= bucket.copies.size
        else replace(
            bucket,
            T=bucket.T[..., :size],
            c=bucket.c[..., :size],
            copies=bucket.copies[:size],
        )
        for bucket, size in zip(layout.buckets, sizes, strict=True)
    )
    return replace(layout, buckets=buckets)


def _merge_bucket(bucket: Bucket) -> Bucket:
    q, C, groups = bucket.c.shape
    classes = find_classes(np.asarray(bucket.T), groups // (_WORTHWHILE * q * C))
    return bucket if classes is None else _merged(bucket, classes)


def find_classes(T: np.ndarray, budget: int) -> Classes | None:
    """Classes of groups whose factors are equal bit by bit; None if there are too many.

    Parameters
    ----------
    T : ndarray, shape (q, q, G)
    budget : int
        The largest number of classes worth having.
    """
    groups = T.shape[2]
    if budget < 1:
        return None
    sample = np.unique(_hashes(T[:, :, :: max(1, groups // (4 * budget))]))
    if sample.size > budget:
        return None
    keys = _hashes(T)
    distinct = np.unique(keys)
    if round_up(distinct.size, least=1) > budget:
        return None
    label = np.searchsorted(distinct, keys).astype(np.uint16 if distinct.size < 1 << 16 else int)
    order = np.argsort(label, kind="stable")
    counts = np.bincount(label, minlength=distinct.size)
    starts = np.cumsum(counts) - counts
    first = order[starts]
    if not (T[:, :, first][:, :, label] == T).all():
        return None  # two factors with one hash
    return _chunks(order, counts, starts, first)


def _hashes(T: np.ndarray) -> np.ndarray:
    """A number for the bits of every group's factor, (G,)."""
    rows, columns = np.triu_indices(T.shape[0])
    total = np.zeros(T.shape[2], np.uint64)
    for i, j in zip(rows, columns, strict=True):
        bits = np.ascontiguousarray(T[i, j]).view(f"u{T.dtype.itemsize}").astype(np.uint64)
        total = (total ^ (total >> np.uint64(29)) ^ bits) * _MIX
    return total


def _chunks(
    order: np.ndarray, counts: np.ndarray, starts: np.ndarray, first: np.ndarray
) -> Classes:
    """Chunks of one length, none with groups of two classes."""
    groups = order.size
    length = 1 << max(4, min(8, int(np.log2(max(1, groups // (4 * counts.size))))))
    n_chunks = -(-counts // length)
    total = round_up(int(n_chunks.sum()))
    before = np.cumsum(n_chunks) - n_chunks
    source = np.full(total * length, groups, np.int32)
    source[np.arange(groups) + np.repeat(before * length - starts, counts)] = order
    padded = round_up(counts.size, least=1)
    owner = np.full(total, padded, np.int32)
    owner[: n_chunks.sum()] = np.repeat(np.arange(counts.size), n_chunks)
    fill = (0, padded - counts.size)
    return Classes(
        source=source.reshape(total, length),
        owner=owner,
        first=np.pad(first, fill).astype(np.int32),
        counts=np.pad(counts, fill).astype(np.float64),
    )


@compiled
def _merged(bucket: Bucket, classes: Classes) -> Bucket:
    """One pseudo-group for every row of the factors of B_j."""
    q, C, groups = bucket.c.shape
    r, D = q * C, classes.first.size
    rows = bucket.c.reshape(r, groups).T[classes.source]
    rows = jnp.where(jnp.asarray(classes.source)[:, :, None] < groups, rows, 0.0)  # (chunks, K, r)
    # squares of the rows are what the gram matrix is made of: it loses no digits by them
    F = _factors(rows, classes, D)
    counts = jnp.asarray(classes.counts, bucket.c.dtype)
    copies = jnp.zeros((r, D), counts.dtype).at[0].set(counts)
    T = jnp.where(counts > 0, bucket.T[:, :, classes.first], 0.0)
    return replace(
        bucket,
        T=jnp.broadcast_to(T[:, :, None], (q, q, r, D)).reshape(q, q, r * D),
        c=jnp.moveaxis(F.reshape(r, q, C, D), 0, 2).reshape(q, C, r * D),
        copies=copies.reshape(r * D),
    )


def _factors(rows: Array, classes: Classes, D: int) -> Array:
    """Upper triangular ``F`` with ``F' F = B`` of every class, (r, r, D)."""
    parts = jnp.einsum("nka,nkb->nab", rows, rows)
    B = jnp.moveaxis(jax.ops.segment_sum(parts, classes.owner, D), 0, -1)
    empty = jnp.zeros((B.shape[0], 0, D), B.dtype)
    return eliminate(B, empty, tol=_RANK_TOL).U
