"""Autoregressive moving averages of any order: correlations of visits by their distance."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from ..numerics.namespace import namespace
from ..numerics.taylor import Taylor, constant, joined, stack, tanh, variables
from .correlations import AT_BOUND, Correlation, arctanh
from .distances import distances, of_partials

# Starts: rows of the last parameter, partial correlations from -0.97 to 0.97, beside others of
# both signs; beside a single one more of it.
_ROW, _BESIDE = np.linspace(-2.1, 2.1, 7), np.arctanh((-0.7, 0.7))
_BESIDE_ONE = (1.6, 0.5, -0.5, -1.2, -2.5)
# Variance, in that of the autoregressive part alone, of which nine digits are left.
_CANCELLED = 1e-7
# Correlation of neighbours from which a moving average starts at most: beyond 1/2 there is none.
_MOST_OF_AVERAGES = 0.45


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoregressiveMovingAverage(Correlation):
    """ARMA(p, q), ``e_t = sum_i phi_i e_(t - i) + a_t + sum_j theta_j a_(t - j)``.

    Parameters are the partial autocorrelations of phi and, by the same recursion, of -theta, so
    that all of them are stationary and invertible. With u the autoregressive part alone and
    ``theta_0 = 1``, correlations are proportional to ``sum_ij theta_i theta_j rho_u(k + i - j)``.

    Attributes
    ----------
    p, q : int
        Orders.
    reach : int
        The largest distance of two visits, where they are no levels.

    References
    ----------
    Barndorff-Nielsen & Schou (1973), doi:10.1016/0047-259X(73)90030-4; Jones (1980),
    doi:10.1080/00401706.1980.10486177.
    """

    p: int = 1
    q: int = 0
    reach: int = 1

    name = "arma"
    takes_gap = True

    @property
    def n_params(self) -> int:
        """See :attr:`Correlation.n_params`."""
        return self.p + self.q

    @property
    def lowest(self) -> float:
        """See :attr:`Correlation.lowest`: coefficients of several have no range of their own."""
        return -1.0 if max(self.p, self.q) == 1 else -np.inf

    def reaching(self, distance: float) -> Self:
        """See :meth:`Correlation.reaching`."""
        return self if distance <= self.reach else replace(self, reach=int(np.ceil(distance)))

    def _coefficients(self, c: list[Taylor]) -> tuple[list[Taylor], list[Taylor], list[Taylor]]:
        """Of u its correlations at 1, .., p and phi; theta."""
        rho, phi = of_partials([tanh(x) for x in c[: self.p]])
        theta = of_partials([tanh(-x) for x in c[self.p :]])[1]
        return rho, phi, [-x for x in theta]

    def _table(self, c: Any) -> Taylor:
        """Correlations at distances 0, .., reach."""
        one = constant(namespace(c).ones((), c.dtype), c.shape[0])
        rho, phi, theta = self._coefficients(variables(c))
        theta, lags = [one, *theta], np.arange(max(self.reach + 1, len(self.levels)))
        of_u = _continued([one, *rho], phi, len(lags) + self.q)
        out: Taylor | None = None
        for k in range(-self.q, self.q + 1):
            ahead = zip(theta, theta[abs(k) :], strict=False)
            weight = sum((a * b for a, b in ahead), start=one * 0.0)
            part = _column(weight) * of_u[np.abs(lags + k)]
            out = part if out is None else out + part
        assert out is not None
        xp, own = namespace(c), out[0]
        # roots of both parts that meet at length one leave a variance of differences alone, and
        # rounding in its place
        told = Taylor(xp.where(own.value > _CANCELLED, own.value, np.nan), own.first, own.second)
        return out / _column(told)

    def entries(self, c: Any, places: Any) -> Taylor:
        """See :meth:`Correlation.entries`."""
        return self._table(c)[distances(places).astype(np.int32)]

    def start(self, rho: Any) -> Any:
        """See :meth:`Correlation.start`: of neighbours, all else zero.

        Those of a moving average correlate by ``theta / (1 + theta^2)``, by less than a half.
        """
        xp, near = namespace(rho), self._bounded(rho) ** (1.0 / self.gap)
        if not self.p:
            near = xp.minimum(near, _MOST_OF_AVERAGES)
            near = 2.0 * near / (1.0 + xp.sqrt(1.0 - 4.0 * near * near))
        first = np.arange(self.n_params) == 0
        return xp.where(first, arctanh(near)[None], 0.0)

    def idle(self, c: Any, gradient: Any) -> Any:
        """See :meth:`Correlation.idle`: a root of the moving average that has length one.

        Its inverse gives the same correlations, so that these stand still there, as the square
        of the distance.
        """
        xp = namespace(c, gradient)
        partial = xp.tanh(c)
        left = 1.0 - partial * partial
        still = left * left * (1.0 + xp.abs(c)) < AT_BOUND
        last = np.arange(self.n_params) == self.n_params - 1 if self.q else np.zeros(self.p, bool)
        return still & (partial * gradient <= AT_BOUND) & last

    @property
    def rows_to_look_at(self) -> tuple[np.ndarray, ...]:
        """See :attr:`Correlation.rows_to_look_at`: the last one beside others of all signs."""
        values = _BESIDE_ONE if self.n_params == 2 and self.q else _BESIDE
        beside = itertools.product(values, repeat=self.n_params - 1)
        return tuple(np.column_stack([*np.tile(x, (len(_ROW), 1)).T, _ROW]) for x in beside)

    def natural(self, c: list[Taylor]) -> dict[str, Taylor]:
        """See :meth:`Correlation.natural`."""
        _, phi, theta = self._coefficients(c)
        return {**_named("phi", phi), **_named("theta", theta)}


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstOrders(AutoregressiveMovingAverage):
    """ARMA(1, 1), which goes by a name of its own."""

    q: int = 1

    name = "arma11"
    ordered = in_line = True


def _named(name: str, found: list[Taylor]) -> dict[str, Taylor]:
    if len(found) == 1:
        return {name: found[0]}
    return {f"{name}[{i + 1}]": x for i, x in enumerate(found)}


def _column(x: Taylor) -> Taylor:
    """A number as an array of one entry, (1,)."""
    return stack([x])


def _continued(rho: list[Taylor], phi: list[Taylor], length: int) -> Taylor:
    """``rho_k = sum_i phi_i rho_(k - i)`` from rho_0, .., rho_p on, (length,).

    By doubling, in a few operations for any length, which JAX would otherwise write out or loop
    over: with A the companion matrix, (rho_(k + s), ..) = A^s (rho_k, ..).
    """
    p = len(phi)
    known = stack(rho[: max(p, 1)])
    if not p:
        m, zeros = len(known.first), namespace(known.value).zeros(length - 1, known.value.dtype)
        return joined([known, constant(zeros, m)])
    xp = namespace(known.value)
    below = constant(xp.eye(p, dtype=known.value.dtype)[: p - 1], len(known.first))
    A, s = joined([stack([stack(phi)]), below]) if p > 1 else stack([stack(phi)]), 1
    while len(known.value) < length:
        at = len(known.value) - s
        steps = [_column(A[0, i]) * known[at - i : at - i + s] for i in range(p)]
        ahead = steps[0]
        for step in steps[1:]:
            ahead = ahead + step
        known = joined([known, ahead])
        if len(known.value) < length:
            A, s = _product(A, A), 2 * s
    return known[:length]


def _product(A: Taylor, B: Taylor) -> Taylor:
    """Of matrices, (p, p)."""
    cells = A[:, :, None] * B[None]
    xp = namespace(cells.value)
    return Taylor(
        xp.sum(cells.value, axis=1), xp.sum(cells.first, axis=2), xp.sum(cells.second, axis=3)
    )
