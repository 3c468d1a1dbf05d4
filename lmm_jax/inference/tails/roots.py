"""Critical values: where the tail of a largest statistic is a given probability."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# Of statistics and their degrees of freedom, (m,).
StudentTails = Callable[[np.ndarray, np.ndarray], np.ndarray]
# sinh of more leaves the range of floats: critical values at few hundredths of a df.
_LARGEST = 709.0
# Of regula falsi: the logarithm of p, and the bracket, that are no distance; steps, of which it
# needs a dozen.
_NO_GAP, _MOST_STEPS = 1e-13, 100


def roots(
    tail: StudentTails, df: np.ndarray, low: np.ndarray, high: np.ndarray, alpha: float
) -> np.ndarray:
    """:func:`root` of many degrees of freedom, all at once by regula falsi.

    log p is nearly linear in ``asinh t``; the Illinois rule halves the end that stays.
    """
    ends = np.minimum(np.arcsinh([low, high]), _LARGEST)
    goal = np.log(alpha)

    def gap(v: np.ndarray, of: np.ndarray) -> np.ndarray:
        return np.log(np.maximum(tail(np.sinh(v), df[of]), np.finfo(float).tiny)) - goal

    every = np.arange(df.size)
    (a, b), (fa, fb) = ends, (gap(end, every) for end in ends)
    a, b = np.where(fb >= 0, b, a), np.where(fa <= 0, a, b)  # a bound is the root, up to rounding
    left = np.flatnonzero((fa > 0) & (fb < 0))
    root, side = np.where(fb >= 0, b, a), np.zeros(df.size)
    for _ in range(_MOST_STEPS):
        if not left.size:
            break
        middle = b[left] - fb[left] * (b[left] - a[left]) / (fb[left] - fa[left])
        f = gap(middle, left)
        above = f > 0  # the root is beyond
        fb[left] = np.where(above & (side[left] > 0), fb[left] / 2, fb[left])
        fa[left] = np.where(~above & (side[left] < 0), fa[left] / 2, fa[left])
        a[left], fa[left] = np.where(above, middle, a[left]), np.where(above, f, fa[left])
        b[left], fb[left] = np.where(above, b[left], middle), np.where(above, fb[left], f)
        side[left], root[left] = np.where(above, 1.0, -1.0), middle
        left = left[(np.abs(f) > _NO_GAP) & (b[left] - a[left] > _NO_GAP)]
    return np.sinh(root)


def root(tail: StudentTails, df: float, low: float, high: float, alpha: float) -> float:
    """Where a tail between one statistic's and Bonferroni's bound is alpha."""
    from scipy.optimize import brentq

    def gap(v: float) -> float:  # log p is nearly linear in log t
        (p,) = tail(np.sinh([v]), np.array([df]))
        return float(np.log(max(p, np.finfo(float).tiny) / alpha))

    start, end = np.minimum(np.arcsinh([low, high]), _LARGEST).tolist()
    if gap(start) <= 0.0:
        return low
    if gap(end) >= 0.0:
        return high
    return float(np.sinh(brentq(gap, start, end, xtol=1e-13)))
