"""Curves through points: a local regression, densities, order statistics."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special

# Places at which a smoother is computed; between them it is a straight line.
_PLACES = 80


class Curve(NamedTuple):
    """A line."""

    x: np.ndarray  # (G,)
    y: np.ndarray  # (G,)


class Quantiles(NamedTuple):
    """A normal quantile plot: sorted values, where a normal sample would have them, a band."""

    theory: np.ndarray  # (n,)  standard normal quantiles of (i - a) / (n + 1 - 2 a)
    sample: np.ndarray  # (n,)
    order: np.ndarray  # (n,)   places of the sorted values among the given ones
    intercept: float  # of the line through the quartiles
    slope: float
    low: np.ndarray  # (n,)  pointwise limits of normal order statistics around the line
    high: np.ndarray  # (n,)

    @property
    def line(self) -> np.ndarray:
        """The line at ``theory``, (n,)."""
        return self.intercept + self.slope * self.theory


def lowess(x: np.ndarray, y: np.ndarray, share: float = 2 / 3, robust: int = 2) -> Curve:
    """Locally linear regression with tricube weights, made robust by bisquare weights.

    Each place sees the ``share`` of the points that are next to it.

    References
    ----------
    Cleveland (1979), doi:10.1080/01621459.1979.10481038.

    Examples
    --------
    >>> x = np.linspace(0, 1, 50)
    >>> curve = lowess(x, 1 + 2 * x)
    >>> bool(np.allclose(curve.y, 1 + 2 * curve.x))
    True
    """
    good = np.isfinite(x) & np.isfinite(y)
    x, y = np.asarray(x, float)[good], np.asarray(y, float)[good]
    places, which = np.unique(x, return_inverse=True)
    if places.size < 3:
        return Curve(places, np.bincount(which, y) / np.bincount(which))
    places = np.unique(np.quantile(x, np.linspace(0, 1, _PLACES)))
    near = max(2, int(np.ceil(share * x.size)))
    weights = np.ones(x.size)
    found = np.zeros(places.size)
    for again in range(robust + 1):
        found = np.array([_local(x, y, weights, place, near) for place in places])
        if again < robust:
            rest = np.abs(y - np.interp(x, places, found))
            spread = 6.0 * np.median(rest)
            if spread <= 0:
                break
            weights = np.clip(1.0 - (rest / spread) ** 2, 0.0, None) ** 2
    return Curve(places, found)


def _local(x: np.ndarray, y: np.ndarray, weights: np.ndarray, place: float, near: int) -> float:
    """The line at one place."""
    distance = np.abs(x - place)
    reach = float(np.partition(distance, near - 1)[near - 1])
    reach = reach if reach > 0 else float(distance[distance > 0].min())
    w = weights * np.clip(1.0 - (distance / reach) ** 3, 0.0, None) ** 3
    total = w.sum()
    if total <= 0:  # all points here are outliers of the fit before
        return float(np.mean(y[distance <= reach]))
    centre = w @ x / total
    spread = w @ (x - centre) ** 2
    mean = float(w @ y / total)
    if spread <= 1e-12 * total * np.ptp(x) ** 2:
        return mean
    return mean + float(w @ ((x - centre) * y) / spread) * (place - centre)


def density(
    values: np.ndarray, low: float = -np.inf, high: float = np.inf, places: int = 256
) -> Curve:
    """Kernel density with Silverman's bandwidth, three of which are added at both ends.

        h = 0.9 min(sd, IQR / 1.34) n^(-1/5)

    What would lie below ``low`` or above ``high`` is reflected there.

    References
    ----------
    Silverman (1986), Density Estimation, equation 3.31.

    Examples
    --------
    >>> curve = density(np.array([0.0, 1.0, 2.0, 4.0]))
    >>> round(float(np.trapezoid(curve.y, curve.x)), 2)
    1.0
    """
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if values.size < 2 or np.ptp(values) == 0:
        return Curve(np.zeros(0), np.zeros(0))
    quartiles = np.quantile(values, [0.25, 0.75])
    spreads = [float(np.std(values, ddof=1)), float(np.diff(quartiles)[0]) / 1.34]
    h = 0.9 * min(s for s in spreads if s > 0) * values.size ** (-0.2)
    x = np.linspace(max(values.min() - 3 * h, low), min(values.max() + 3 * h, high), places)
    heights = np.zeros(places)
    sources = [values, *(2 * end - values for end in (low, high) if np.isfinite(end))]
    for part in np.array_split(np.concatenate(sources), max(1, values.size // 1024)):
        heights += np.exp(-0.5 * ((x[:, None] - part) / h) ** 2).sum(axis=1)
    return Curve(x, heights / (values.size * h * np.sqrt(2 * np.pi)))


def normal_quantiles(values: np.ndarray, level: float = 0.95) -> Quantiles:
    """Sorted values beside normal quantiles, as R's qqnorm and qqline, with a pointwise band.

    The band has the quantiles of the i-th of n uniform order statistics, Beta(i, n + 1 - i).

    Examples
    --------
    >>> q = normal_quantiles(special.ndtri((np.arange(100) + 0.5) / 100) * 2 + 1)
    >>> print(f"{q.intercept:.1f} {q.slope:.1f}")
    1.0 2.0
    """
    values = np.asarray(values, float)
    places = np.flatnonzero(np.isfinite(values))
    order = places[np.argsort(values[places], kind="stable")]
    sample, n = values[order], len(order)
    a = 3 / 8 if n <= 10 else 1 / 2  # R's ppoints
    i = np.arange(1, n + 1)
    theory = special.ndtri((i - a) / (n + 1 - 2 * a))
    lower, upper = np.quantile(sample, [0.25, 0.75]) if n else (np.nan, np.nan)
    slope = float((upper - lower) / (2 * special.ndtri(0.75)))
    intercept = float((upper + lower) / 2)
    tail = (1 - level) / 2
    low, high = (special.ndtri(special.betaincinv(i, n + 1 - i, p)) for p in (tail, 1 - tail))
    return Quantiles(
        theory, sample, order, intercept, slope, intercept + slope * low, intercept + slope * high
    )
