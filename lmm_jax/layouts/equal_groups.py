"""Which groups of a bucket have the same triangular factor T (on the host)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Odd multiplier of a hash of the bits of T; a collision is found out.
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Classes(NamedTuple):
    """Groups by their factor, classes in lexical order of it; groups of padding are in none."""

    label: np.ndarray  # (G,)  class of each group; D for padding
    first: np.ndarray  # (D,)  a group of each class
    counts: np.ndarray  # (D,)  groups in each class

    @property
    def padded(self) -> int:
        """Classes with padding: few shapes, so that programs are shared."""
        return 1 << max(self.first.size - 1, 0).bit_length()

    def members(self, d: int) -> np.ndarray:
        """Positions of the groups of one class."""
        return np.flatnonzero(self.label == d)


def find_classes(
    T: np.ndarray, *, most: int | None = None, digits: int | None = None
) -> Classes | None:
    """Classes of groups with equal factors.

    Parameters
    ----------
    T : ndarray, shape (q, q, G)
        Upper triangular; zero for groups of padding.
    most : int, optional
        The largest number of classes worth having.
    digits : int, optional
        Decimals, relative to the largest entry, to which factors have to agree;
        by default they are equal bit by bit.

    Returns
    -------
    Classes or None
        None if there are more than ``most``.

    Examples
    --------
    >>> import numpy as np
    >>> classes = find_classes(np.array([[[2.0, 1.0, 2.0, 0.0, 2.0]]]))
    >>> classes.label.tolist(), classes.counts.tolist()
    ([1, 0, 1, 2, 1], [1, 3])
    """
    entries = T[np.triu_indices(T.shape[0])] + 0.0  # (q (q + 1) / 2, G), no negative zeros
    groups = entries.shape[1]
    if digits is not None:
        unit = np.max(np.abs(entries), initial=1e-300)
        entries = np.round(entries / unit, digits) + 0.0
    if most is None:
        keys = _hashes(entries)
        distinct = np.unique(keys)
    else:
        sample = np.unique(_hashes(entries[:, :: max(1, groups // (4 * max(most, 1)))]))
        if sample.size > most + 1:  # and one of padding
            return None
        keys = _hashes(entries)
        distinct = _distinct(keys, sample)
        if distinct.size > most + 1:
            return None
    own = np.searchsorted(distinct, keys).astype(np.int32)
    first = np.empty(distinct.size, np.int32)
    first[own[::-1]] = np.arange(groups, dtype=np.int32)[::-1]
    if not (entries[:, first].take(own, axis=1) == entries).all():  # two factors with one hash
        found = np.unique(entries, axis=1, return_index=True, return_inverse=True)
        first, own = (np.ravel(at).astype(np.int32) for at in found[1:])
    empty = ~entries[:, first].any(axis=0)
    order = np.lexsort([*entries[::-1, first], empty])  # padding last
    rank = np.empty(order.size, np.int32)
    rank[order] = np.arange(order.size)
    D = order.size - int(empty.sum())
    if most is not None and most < D:
        return None
    counts = np.bincount(own, minlength=order.size)
    return Classes(rank[own], first[order[:D]], counts[order[:D]])


def _distinct(keys: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """Distinct keys in order: few, so that looking every key up is faster than sorting all."""
    at = np.minimum(np.searchsorted(sample, keys), sample.size - 1)
    new = keys[sample[at] != keys]
    return np.unique(np.concatenate([sample, new])) if new.size else sample


def _hashes(entries: np.ndarray) -> np.ndarray:
    """A number for the bits of every column, (G,)."""
    total = np.zeros(entries.shape[1], np.uint64)
    for row in entries:
        bits = np.ascontiguousarray(row).view(f"u{row.dtype.itemsize}").astype(np.uint64)
        total = (total ^ (total >> np.uint64(29)) ^ bits) * _MIX
    return total
