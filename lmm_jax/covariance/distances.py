"""Correlations by the distance of two visits, in whole numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numerics.namespace import namespace
from ..numerics.taylor import Taylor, constant, powers, stack, tanh, variables
from .correlations import AT_BOUND, Correlation, Fading, arctanh, at_visits


def distances(places: Any) -> Any:
    """Euclidean, (r, r, g), of places (d, r, g)."""
    xp = namespace(places)
    gaps = places[:, :, None] - places[:, None]
    return xp.abs(gaps[0]) if len(gaps) == 1 else xp.sqrt(xp.sum(gaps * gaps, axis=0))


class Autoregressive(Correlation):
    """``rho^|i - j|`` over whole numbers i and j: a visit that is missing counts."""

    __slots__ = ()
    name = "ar1"
    takes_gap = True
    ordered = in_line = to_one = True

    def entries(self, c: Any, places: Any) -> Taylor:
        """See :meth:`Correlation.entries`."""
        return powers(tanh(variables(c)[0]), distances(places))

    def is_markov(self, d: int) -> bool:
        """See :meth:`Correlation.is_markov`."""
        return d == 1

    def fading(self, c: Any, gaps: Any) -> Fading:
        """See :meth:`Correlation.fading`."""
        xp, d = namespace(c, gaps), gaps
        one, zero = xp.ones_like(d), xp.zeros_like(d)
        # by t = exp(-2 |c|): |rho| = (1 - t) / (1 + t), and 1 - rho^2 keeps its digits
        t = xp.exp(-2.0 * xp.abs(c[0]))
        rho, slope = xp.tanh(c[0]), 4.0 * t / (1.0 + t) ** 2
        tiny = float(np.finfo(d.dtype).eps)
        log = d * (xp.log1p(-xp.minimum(t, 1.0 - tiny)) - xp.log1p(t))
        a = rho**d
        down, twice = rho ** (d - 1.0), rho ** xp.maximum(d - 2.0, zero)
        return Fading(
            value=a,
            loss=xp.where(rho > 0, -xp.expm1(log), one - a),
            left=-xp.expm1(2.0 * log),
            first=(d * slope * down)[None],
            second=(d * slope * ((d - 1.0) * slope * twice - 2.0 * a))[None, None],
        )

    def start(self, rho: Any) -> Any:
        """See :meth:`Correlation.start`: of neighbours."""
        return arctanh(self._bounded(rho) ** (1.0 / self.gap))[None]

    def natural(self, c: list[Taylor]) -> dict[str, Taylor]:
        """See :meth:`Correlation.natural`."""
        return {"rho": tanh(c[0])}


class Toeplitz(Correlation):
    """One correlation a distance between visits, by their partial autocorrelations.

    Distances are counted in the largest step of which all are multiples, the unit. Durbin and
    Levinson's recursion makes correlations of numbers in (-1, 1), any numbers.
    """

    __slots__ = ()
    name = "toep"
    linear = True
    ordered = True
    to_one = False

    @property
    def n_params(self) -> int:
        """See :attr:`Correlation.n_params`."""
        return len(self.levels) - 1

    def _correlations(self, c: list[Taylor]) -> list[Taylor]:
        """Correlations at distances 1, .., T - 1."""
        return of_partials([tanh(x) for x in c])[0]

    def entries(self, c: Any, places: Any) -> Taylor:
        """See :meth:`Correlation.entries`."""
        xp = namespace(c)
        one = constant(xp.ones((), c.dtype), c.shape[0])
        i, j = at_visits(places)
        return stack([one, *self._correlations(variables(c))])[xp.abs(i - j)]

    def start(self, rho: Any) -> Any:
        """See :meth:`Correlation.start`: those of one correlation, ``rho / (1 + k rho)``."""
        xp, rho = namespace(rho), self._bounded(rho)
        steps = xp.arange(self.n_params).astype(rho.dtype)
        return arctanh(rho / (1.0 + steps * rho))

    def idle(self, c: Any, gradient: Any) -> Any:
        """See :meth:`Correlation.idle`: a partial one of 1 or -1, and those behind it.

        The matrix of all visits is singular there, those of the visits of subjects need not be.
        """
        xp = namespace(c, gradient)
        partial = xp.tanh(c)
        still = (1.0 - partial * partial) * (1.0 + xp.abs(c)) < AT_BOUND
        bound = still & (partial * gradient <= AT_BOUND)
        before = np.tri(self.n_params, dtype=bool)
        return xp.any(bound[..., None, :] & before, axis=-1)

    def natural(self, c: list[Taylor]) -> dict[str, Taylor]:
        """See :meth:`Correlation.natural`."""
        return {f"rho[{k + 1}]": rho for k, rho in enumerate(self._correlations(c))}

    def untold(self, together: np.ndarray) -> list[str]:
        """See :meth:`Correlation.untold`."""
        lags = range(1, len(self.levels))
        return [f"rho[{k}]" for k in lags if not np.diagonal(together, k).any()]


def of_partials(partials: list[Taylor]) -> tuple[list[Taylor], list[Taylor]]:
    """Correlations at distances 1, .., p and autoregressive coefficients of partial ones.

    References
    ----------
    Durbin (1960), doi:10.2307/1401322.
    """
    rho: list[Taylor] = []
    weights: list[Taylor] = []
    for partial in partials:
        if not rho:
            rho, weights = [partial], [partial]
            continue
        mean, left = weights[0] * rho[-1], 1.0 - weights[0] * rho[0]
        for w, back, ahead in zip(weights[1:], rho[-2::-1], rho[1:], strict=True):
            mean, left = mean + w * back, left - w * ahead
        rho.append(mean + partial * left)
        pairs = zip(weights, weights[::-1], strict=True)
        weights = [*(w - partial * v for w, v in pairs), partial]
    return rho, weights
