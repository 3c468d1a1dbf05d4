"""Rows of one step in time merged: few links stand for those of a group.

What an evaluation needs of all links with one gap and the same standard deviations, before and
after, is ``sum_i [d_i f_i]' [d_i f_i]`` of their steps d and rows before f. The rows of a
triangular factor of that matrix, twice as many as columns, stand for all of them, and the
log-determinant counts the first of them. Visits at whole numbers have few gaps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..group_index import rank_within
from .base import with_buckets
from .chain_bucket import ChainBucket
from .markov import MarkovLayout

# Links that are left for every one there was, from which it is no use to merge.
_WORTHWHILE = 0.5
# Links of which a sample says that there are too many kinds of them.
_SAMPLE = 512
# Numbers of a block that stays in the cache.
_BLOCK = 1 << 16
# What all links of a kind share.
_OF_KINDS = ("follows", "gaps", "slopes", "slopes_before")


class _Kinds(NamedTuple):
    """Links by their gap and standard deviations."""

    of: np.ndarray  # (G, l)  kind of every link; K where there is none
    first: np.ndarray  # (K,)  a link of each, numbered along (G, l)


def merge_links(layout: MarkovLayout) -> MarkovLayout:
    """The layout with links of one kind merged; layout itself where there are few of a kind.

    Criterion and derivatives are those of ``layout``, to rounding; the order of rows is lost.

    Parameters
    ----------
    layout : MarkovLayout
        Arrays of NumPy.
    """
    return with_buckets(layout, _merged)


def _merged(bucket: ChainBucket) -> ChainBucket:
    found = _kinds(bucket)
    if found is None:
        return bucket
    G, w, length = bucket.step.shape
    K = found.first.size
    key = np.arange(G)[:, None] * (K + 1) + found.of
    members = np.bincount(key.ravel(), minlength=G * (K + 1)).reshape(G, K + 1)
    follows = np.asarray(bucket.follows).ravel()[found.first] > 0
    largest = members[:, :K].max(axis=0)
    sizes = np.minimum(largest, np.where(follows, 2 * w, w))
    if sizes.sum() > _WORTHWHILE * length:
        return bucket
    rank = rank_within(key.ravel(), G * (K + 1)).reshape(G, length)
    rows = np.concatenate([np.asarray(bucket.step), np.asarray(bucket.before)], axis=1)
    parts, counts = [], []
    for kind, size in enumerate(sizes.tolist()):
        g, i = np.nonzero(found.of == kind)
        columns = 2 * w if follows[kind] else w
        dense = np.zeros((G, int(largest[kind]), columns))
        dense[g, rank[g, i]] = rows[g, :columns, i]
        few, number = _merged_kind(dense, members[:, kind], size)
        own = np.zeros((G, 2 * w, size))
        own[:, :columns, : few.shape[1]] = np.swapaxes(few, 1, 2)
        parts.append(own)
        counts.append(number)
    links, at = np.concatenate(parts, axis=2), np.repeat(found.first, sizes)

    def shared(values: Any) -> np.ndarray:
        rows = np.asarray(values).reshape(*values.shape[:-2], G * length)
        return np.asarray(rows[..., None, at])

    arrays: dict[str, Any] = dict(
        step=np.ascontiguousarray(links[:, :w]),
        before=np.ascontiguousarray(links[:, w:]),
        counts=np.concatenate(counts, axis=1),
        **{name: shared(getattr(bucket, name)) for name in _OF_KINDS},
    )
    return replace(bucket, in_order=False, **arrays)


def _merged_kind(rows: np.ndarray, members: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """At most ``size`` rows that stand for those of a kind, and links that each counts for.

    Parameters
    ----------
    rows : ndarray, shape (G, n, k)
        Zeros behind the links that a group has.
    members : ndarray of int, shape (G,)
        How many these are.
    size : int
        n where nothing is to be merged.
    """
    if size == rows.shape[1]:
        return rows, (np.arange(size) < members[:, None]).astype(float)
    counts = np.zeros((len(rows), size))
    counts[:, 0] = members
    return _triangles(rows), counts


def _kinds(bucket: ChainBucket) -> _Kinds | None:
    """Links by their kind; None if these are too many, or are merged already."""
    if not bucket.in_order:
        return None
    G, _, length = bucket.step.shape
    there = np.flatnonzero(np.asarray(bucket.counts))
    slopes = [*np.asarray(bucket.slopes), *np.asarray(bucket.slopes_before)]
    numbers = [np.asarray(bucket.gaps), np.asarray(bucket.follows), *slopes]
    columns = [values.ravel()[there] for values in numbers]
    some = slice(None, None, max(1, there.size // _SAMPLE))
    if _labels([column[some] for column in columns])[1].size > _WORTHWHILE * _SAMPLE:
        return None
    label, first = _labels(columns)
    of = np.full(G * length, first.size)
    of[there] = label
    return _Kinds(of.reshape(G, length), there[first])


def _labels(columns: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Equal rows by their number, (n,), and where each first stands."""
    label = np.zeros(columns[0].size, np.int64)
    first = np.zeros(1, np.int64)
    for column in columns:
        values, own = np.unique(column, return_inverse=True)
        _, first, label = np.unique(
            label * values.size + own, return_index=True, return_inverse=True
        )
    return label, first


def _triangles(rows: np.ndarray) -> np.ndarray:
    """Triangular factors, (G, k, k), of matrices (G, n, k) by Householder's reflections."""
    G, n, k = rows.shape
    block = max(_BLOCK // k, 2 * k)
    while n > 2 * block:  # first of blocks, then of their factors
        parts = -(-n // block)
        rows = np.pad(rows, ((0, 0), (0, parts * block - n), (0, 0)))
        factors = np.asarray(np.linalg.qr(rows.reshape(G * parts, block, k), mode="r"))
        rows = factors.reshape(G, parts * k, k)
        n = parts * k
    return np.asarray(np.linalg.qr(rows, mode="r"))
