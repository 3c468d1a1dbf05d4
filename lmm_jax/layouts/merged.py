"""Groups with one triangular factor T, merged: what an optimization has to look at gets shorter.

For the m_j groups whose factor is T_j

    logdet = sum_j m_j log|M_j|          gram = S0 + sum_j sum_{i in j} c_i' M_j^-1 c_i

and the second depends on ``B_j = sum_{i in j} vec(c_i) vec(c_i)'`` alone. The rows of a
factor ``F_j' F_j = B_j`` are pseudo-groups, ``q (p + 1)`` of them however many groups there
were. Their random effects are those of no group: BLUPs use the layout as it was. Derivatives
keep the digits that large random effects cost, as the sums of :mod:`lmm_jax.layouts.moments`
do not; replicates use these, since merged groups take 1.1 to 1.4 times as long under ``vmap``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from jax import Array

from ..numerics.linalg import eliminate
from ..numerics.namespace import namespace
from ..numerics.processes import float64
from ..numerics.programs import compiled
from ..numerics.shapes import round_up
from .buckets import Bucket
from .equal_groups import Classes, find_classes
from .grouped import GroupedLayout

# Numbers in a layout below which an evaluation takes no time, merged or not; and how many
# times fewer entries a merged bucket must have.
WORTH_MERGING = 1 << 13
_WORTHWHILE = 4
# Pivots of B below this, relative to their diagonal, are rounding.
_RANK_TOL = 1e-15


class Chunks(NamedTuple):
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
    (12288, 6)
    """
    if layout.size() < WORTH_MERGING:
        return layout
    with float64(layout.S0.dtype == np.float64):
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
    most = groups // (_WORTHWHILE * q * C)
    classes = find_classes(np.asarray(bucket.T), most=most) if most else None
    if classes is None or not classes.first.size or round_up(classes.first.size, least=1) > most:
        return bucket
    return _merged(bucket, chunk(classes))


def chunk(classes: Classes) -> Chunks:
    """Chunks of one length, none with groups of two classes."""
    label, _, counts = classes
    D = counts.size
    short = label.astype(np.uint16) if D < 1 << 16 else label  # sorted by their digits
    order = np.argsort(short, kind="stable")[: counts.sum()]  # padding is last
    length = 1 << max(4, min(8, int(np.log2(max(1, order.size // (4 * D))))))
    n_chunks = -(-counts // length)
    total = round_up(int(n_chunks.sum()))
    starts, before = np.cumsum(counts) - counts, np.cumsum(n_chunks) - n_chunks
    source = np.full(total * length, label.size, np.int32)
    source[np.arange(order.size) + np.repeat(before * length - starts, counts)] = order
    padded = round_up(D, least=1)
    owner = np.full(total, padded, np.int32)
    owner[: n_chunks.sum()] = np.repeat(np.arange(D), n_chunks)
    fill = (0, padded - D)
    return Chunks(
        source=source.reshape(total, length),
        owner=owner,
        first=np.pad(classes.first, fill).astype(np.int32),
        counts=np.pad(counts, fill).astype(np.float64),
    )


@partial(compiled, host=3e-8)
def _merged(bucket: Bucket, classes: Chunks) -> Bucket:
    """One pseudo-group for every row of the factors of B_j."""
    xp = namespace(bucket.T)
    q, C, groups = bucket.c.shape
    r, D = q * C, classes.first.size
    rows = bucket.c.reshape(r, groups).T[xp.minimum(classes.source, groups - 1)]
    rows = xp.where(xp.asarray(classes.source)[:, :, None] < groups, rows, 0.0)  # (chunks, K, r)
    # squares of the rows are what the gram matrix is made of: it loses no digits by them
    F = _factors(rows, classes, D)
    counts = xp.asarray(classes.counts, bucket.c.dtype)
    copies = xp.at(xp.zeros((r, D), counts.dtype))[0].set(counts)
    T = xp.where(counts > 0, bucket.T[:, :, classes.first], 0.0)
    return replace(
        bucket,
        T=xp.broadcast_to(T[:, :, None], (q, q, r, D)).reshape(q, q, r * D),
        c=xp.moveaxis(F.reshape(r, q, C, D), 0, 2).reshape(q, C, r * D),
        copies=copies.reshape(r * D),
    )


def _factors(rows: Array, classes: Chunks, D: int) -> Array:
    """Upper triangular ``F`` with ``F' F = B`` of every class, (r, r, D)."""
    xp = namespace(rows)
    parts = xp.einsum("nka,nkb->nab", rows, rows)
    B = xp.moveaxis(xp.segment_sum(parts, classes.owner, D), 0, -1)
    empty = xp.zeros((B.shape[0], 0, D), B.dtype)
    return eliminate(B, empty, tol=_RANK_TOL).U
