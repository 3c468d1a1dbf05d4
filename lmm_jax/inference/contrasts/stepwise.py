"""P values adjusted one after another, from the smallest or the largest on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def _least_from(p: np.ndarray) -> np.ndarray:
    return np.asarray(np.minimum.accumulate(p[::-1])[::-1])


def _hommel(p: np.ndarray, m: int) -> np.ndarray:
    """The largest of Simes' p values of sets with i: i and the others of largest p, (m,)."""
    p = np.concatenate([p, np.ones(m - p.size)])  # what has no row is never rejected
    out = p
    for k in range(2, m + 1):
        others = k * np.min(p[m - k + 1 :] / np.arange(2, k + 1))
        out = np.maximum(out, np.minimum(k * np.minimum(p, p[m - k]), others))
    return out


# Step-wise procedures: adjusted p values of ascending ones, of the ranks 1 to n of m. They have no
# intervals of their own: theirs are Bonferroni's.
STEPWISE: dict[str, Callable[[np.ndarray, int, np.ndarray], np.ndarray]] = {
    "holm": lambda p, m, rank: np.maximum.accumulate(p * (m - rank + 1)),
    "hochberg": lambda p, m, rank: _least_from(p * (m - rank + 1)),
    "hommel": lambda p, m, rank: _hommel(p, m)[rank - 1],
    "fdr": lambda p, m, rank: _least_from(p * (m / rank)),
}


def stepwise(p: np.ndarray, how: str, m: int) -> np.ndarray:
    """Adjusted p values, (n,), of a family of m tests."""
    order = np.argsort(p, kind="stable")
    out = np.empty_like(p)
    out[order] = np.minimum(STEPWISE[how](p[order], m, np.arange(1, p.size + 1)), 1.0)
    return out


def false_discovery(p: np.ndarray) -> np.ndarray:
    """Benjamini and Hochberg's adjusted p values; NaN stays NaN and does not count, (m,)."""
    known = ~np.isnan(p)
    out = np.full(p.shape, np.nan)
    out[known] = stepwise(p[known], "fdr", int(known.sum()))
    return out
