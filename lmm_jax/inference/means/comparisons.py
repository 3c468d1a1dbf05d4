"""Letters that say which of some means do not differ."""

from __future__ import annotations

import string

import numpy as np


def cld_letters(estimates: np.ndarray, alike: np.ndarray) -> list[str]:
    """Compact letter display: means that share a letter do not differ.

    Every set of means of which all pairs are alike, and that no other such set contains, is a
    letter; letters go from the least mean upwards.

    Parameters
    ----------
    estimates : ndarray, shape (k,)
    alike : ndarray of bool, shape (k (k - 1) / 2,)
        Whether two means do not differ, pairs in the order (0, 1), (0, 2), .., (1, 2), ..

    References
    ----------
    Piepho (2004), doi:10.1198/1061860043515: insert and absorb.

    Examples
    --------
    >>> cld_letters(np.array([3.0, 1.0, 2.0]), np.array([False, True, True]))
    ['b', 'a', 'ab']
    """
    k = len(estimates)
    groups: list[set[int]] = [set(range(k))]
    pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
    for (i, j), same in zip(pairs, alike, strict=True):
        if same or np.isnan(estimates[[i, j]]).any():
            continue
        for group in [g for g in groups if {i, j} <= g]:  # insert: they part
            groups.remove(group)
            for new in (group - {i}, group - {j}):
                if not any(new <= other for other in groups):  # absorb
                    groups = [g for g in groups if not g <= new] + [new]
    rank = np.argsort(np.argsort(estimates))
    groups.sort(key=lambda g: sorted(rank[list(g)]))
    letters = _letters(len(groups))
    return [
        ""
        if np.isnan(estimates[i])
        else "".join(a for a, g in zip(letters, groups, strict=True) if i in g)
        for i in range(k)
    ]


def _letters(count: int) -> list[str]:
    """A to z, then A to Z, then numbers between points."""
    known = string.ascii_lowercase + string.ascii_uppercase
    return [known[i] if i < len(known) else f".{i}." for i in range(count)]
