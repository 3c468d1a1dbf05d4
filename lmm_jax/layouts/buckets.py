"""Groups of similar width side by side, and sums over them, block by block where they are many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from math import gcd
from typing import Any, ClassVar

import jax
import numpy as np
from jax import Array

from ..numerics.devices import ByDevice
from ..numerics.namespace import NUMPY, namespace
from ..numerics.stacked import Stacked
from ..reprs import brief
from .group_algebra import groups_there, level_counts, reached, rotate_columns
from .response import OfResponse

# Groups whose matrices stay in the cache of a core together, and from how many it matters. Other
# devices have no such cache and start every step anew: their blocks bound the memory.
_BLOCKS = ByDevice((1 << 10, 1 << 13), (1 << 20, 1 << 21))
HOST_BLOCK = 1 << 12  # of NumPy, whose calls cost as much as a thousand numbers
MANY = 1 << 13


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bucket(OfResponse):
    """Groups of similar width, padded to one shape."""

    T: Array  # (q, q, G)      triangular factor of each group's random-effects design
    c: Array  # (q, p + 1, G)  Q_i' [X_i y_i]
    copies: Array  # (G,)         groups that an entry stands for; 1 unless groups are merged
    widths: tuple[int, ...] = field(metadata={"static": True})  # levels of each term in a group
    divided: bool = field(default=False, metadata={"static": True})  # among devices
    _array: ClassVar[str] = "T"

    __repr__ = brief

    def first_groups(self, y: Array) -> Array:
        """See :meth:`OfResponse.first_groups`."""
        return y[..., : self.T.shape[2]]


def over_blocks(part: Callable[[Bucket], tuple[Any, Any]], bucket: Bucket) -> tuple[Any, Any]:
    """Sums over the groups and what is kept of each group; many groups go block by block.

    The matrices of a block stay in the cache, so nothing is kept of them (None): to
    eliminate again costs less than to write and read them. NumPy, whose steps are not fused,
    keeps a list. Groups on several devices stay together: a block would have to travel.
    """
    xp, groups = namespace(bucket.T), bucket.T.shape[2]
    if xp is NUMPY and groups > MANY:
        done = [part(block) for block in host_blocks(bucket)]
        return total(sums for sums, _ in done), [terms for _, terms in done]
    if xp is NUMPY or bucket.divided:
        return part(bucket)
    size = block_size(groups)
    if size == groups:
        return part(bucket)

    def step(i: Array, sums: Any) -> Any:
        block = jax.tree.map(
            lambda array: xp.dynamic_slice_in_dim(array, i * size, size, axis=-1), bucket
        )
        return jax.tree.map(xp.add, sums, part(block)[0])

    shapes = jax.eval_shape(lambda: part(bucket)[0])
    zero = jax.tree.map(lambda leaf: xp.zeros(leaf.shape, leaf.dtype), shapes)
    return xp.fori_loop(0, groups // size, step, zero), None


def block_size(groups: int) -> int:
    """Groups that a compiled program takes together: a block of a loop, or all of them."""
    block, many = _BLOCKS.here()
    size = gcd(groups, block)
    return groups if groups <= many or size < block // 8 else size


def host_blocks(bucket: Bucket) -> Iterator[Bucket]:
    """The groups of a bucket in NumPy, block by block."""
    for i in range(0, bucket.T.shape[2], HOST_BLOCK):
        at = slice(i, i + HOST_BLOCK)
        yield replace(bucket, T=bucket.T[..., at], c=bucket.c[..., at], copies=bucket.copies[at])


def total(parts: Iterable[Any]) -> Any:
    """Sum of records, entry by entry."""
    return reduce(lambda a, b: jax.tree.map(np.add, a, b), parts)


def bucket_ranks(buckets: Sequence[Bucket]) -> Array:
    """Rows of T that are there, in all groups, ()."""
    xp = namespace(buckets[0].copies)
    return xp.sum(xp.stack([reached(b.T, b.copies) for b in buckets]))


def bucket_levels(buckets: Sequence[Bucket], sizes: Sequence[int]) -> Array:
    """How many levels of every term have rows, in all groups, (t,)."""
    there = [namespace(b.T).any(b.T != 0, axis=0) for b in buckets]
    return level_counts(there, [b.widths for b in buckets], sizes)


def without_padding(bucket: Bucket, least: int = 1) -> Bucket:
    """The groups up to the last one that is there, on the host, and ``least`` at least."""
    there: Any = groups_there(bucket.T)
    in_lanes = np.asarray(there.lanes if type(there) is Stacked else there[:, None])
    last = int(np.max(np.flatnonzero(in_lanes.any(axis=1)), initial=0)) + 1
    at = (..., slice(max(last, least)))
    return replace(bucket, T=bucket.T[at], c=bucket.c[at], copies=bucket.copies[at])


def rotate_bucket(bucket: Bucket, Q: np.ndarray, t: int, sizes: Sequence[int]) -> Bucket:
    """A bucket with the columns of term t multiplied by Q, level by level (on the host)."""
    return replace(bucket, T=rotate_columns(bucket.T, Q, t, sizes, bucket.widths))
