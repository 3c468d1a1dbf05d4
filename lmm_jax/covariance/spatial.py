"""Correlations by the distance of two rows in time or in coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..numerics.namespace import namespace
from ..numerics.taylor import Taylor, exp, expit
from .correlations import AT_BOUND, Correlation, Fading
from .distances import distances

# Ranges from which nothing changes: squares stay in the range of floats.
_FAR = 1e30


# Log ranges to look at, in units of the distance of neighbours: many where the slope of the
# criterion jumps.
_FEW_RANGES, _MANY_RANGES = np.linspace(-0.5, 5.0, 8), np.linspace(0.2, 4.2, 25)
_FEW_ALONE = np.array([-3.0, -1.5, 0.0, 1.5, 3.0])
# Units of time in the typical distance of rows, or the other way round, from which phi is not a
# number that tests should depend on.
_OTHER_UNIT = 16.0
# Logits of a nugget: a share of 0.2; of a half to nearly all of the variance, beside which a long
# range stands for what all rows of a subject have in common.
_SOME, _LARGE = -1.5, (0.0, 1.5, 3.5)


def _share(c: Any) -> Any:
    """The nugget, of whose logit is the second parameter."""
    xp = namespace(c)
    return 1.0 / (1.0 + xp.exp(-c[1]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Spatial(Correlation):
    """A function of distances in units of a range, less a nugget where it is asked for."""

    nugget: bool = False

    by_levels: ClassVar[bool] = False
    in_space: ClassVar[bool] = True

    @staticmethod
    def falls(t: Any) -> tuple[Any, Any, Any]:
        """The correlation f at t ranges, ``t f'`` and ``t^2 f''``: derivatives in log t."""
        raise NotImplementedError

    @staticmethod
    def reach(rho: Any) -> Any:
        """The t at which the correlation is rho."""
        raise NotImplementedError

    @property
    def n_params(self) -> int:
        """See :attr:`Correlation.n_params`."""
        return 1 + self.nugget

    def entries(self, c: Any, places: Any) -> Taylor:
        """See :meth:`Correlation.entries`."""
        xp = namespace(c, places)
        d = distances(places)
        f, slope, bend = self.falls(d * xp.exp(-c[0]))  # the range is exp(c_0)
        first, second = -slope, slope + bend
        if not self.nugget:
            return Taylor(f, first[None], second[None, None])
        q, own = _share(c), xp.eye(d.shape[0], dtype=d.dtype)[:, :, None]
        value, first, second = ((1.0 - own) * x for x in (f, first, second))
        r = q * (1.0 - q)  # dq / dc_1
        across = -r * first
        return Taylor(
            own + (1.0 - q) * value,
            xp.stack([(1.0 - q) * first, -r * value]),
            xp.stack(
                [
                    xp.stack([(1.0 - q) * second, across]),
                    xp.stack([across, (2.0 * q - 1.0) * r * value]),
                ]
            ),
        )

    def matrix(self, c: Any, places: Any) -> Any:
        """See :meth:`Correlation.matrix`."""
        xp = namespace(c, places)
        d = distances(places)
        f = self.falls(d * xp.exp(-c[0]))[0]
        if not self.nugget:
            return f
        own = xp.eye(d.shape[0], dtype=d.dtype)[:, :, None]
        return own + (1.0 - _share(c)) * (1.0 - own) * f

    def start(self, rho: Any) -> Any:
        """See :meth:`Correlation.start`."""
        xp = namespace(rho)
        at = -xp.log(self.reach(self._bounded(rho)))
        return xp.stack([at, xp.full_like(at, _SOME)]) if self.nugget else at[None]

    @property
    def rows_to_look_at(self) -> tuple[np.ndarray, ...]:
        """See :attr:`Correlation.rows_to_look_at`: ranges, from short ones to beyond all rows."""
        ranges = _FEW_RANGES if not self.rugged else _MANY_RANGES
        if not self.nugget:  # independence is an optimum beside that of a long range
            return (ranges[:, None] if self.rugged else _FEW_ALONE[:, None],)
        nuggets = (_SOME, *_LARGE) if self.rugged else _LARGE
        return tuple(np.column_stack([ranges, np.full(ranges.size, x)]) for x in nuggets)

    def idle(self, c: Any, gradient: Any) -> Any:
        """See :meth:`Correlation.idle`: no nugget, a range without two rows or longer than all.

        Rows that a nugget tells apart have a regular covariance at an infinite range.
        """
        xp = namespace(c, gradient)
        size = 1.0 + xp.abs(c)
        near = self.falls(self.gap * xp.exp(-c[..., 0]))  # at the shortest distance
        still = (-near[1] * size[..., 0] < AT_BOUND) & (gradient[..., 0] >= -AT_BOUND)
        short = still & (near[0] < 0.5)
        if not self.nugget:
            return short[..., None]
        share = 1.0 / (1.0 + xp.exp(-c[..., 1]))
        none = (share * size[..., 1] < AT_BOUND) & (gradient[..., 1] > 0)
        whole = ((1.0 - share) * size[..., 1] < AT_BOUND) & (gradient[..., 1] < 0)
        alone = short | whole  # no correlation is left
        far = self.falls(self.width * xp.exp(-c[..., 0]))  # about the longest distance
        long = (-far[1] * (1.0 - share) * size[..., 0] < AT_BOUND) & (gradient[..., 0] <= AT_BOUND)
        long = long & (far[0] > 0.5) & ~none
        return xp.stack([alone | long, alone | none], axis=-1)

    def natural(self, c: list[Taylor]) -> dict[str, Taylor]:
        """See :meth:`Correlation.natural`."""
        out = {"range": self.unit * exp(c[0])}
        return {**out, "nugget": expit(c[1])} if self.nugget else out

    def of_other(self, c: np.ndarray, other: Any) -> np.ndarray:
        """See :meth:`Correlation.of_other`: ranges in another unit."""
        return c + np.append(np.log(other.unit / self.unit), np.zeros(c.size - 1))


class Exponential(Spatial):
    """``exp(-d / range)``."""

    __slots__ = ()
    name = "sp_exp"

    @staticmethod
    def falls(t: Any) -> tuple[Any, Any, Any]:
        """See :meth:`Spatial.falls`."""
        f = namespace(t).exp(-t)
        return f, -t * f, t * t * f

    @staticmethod
    def reach(rho: Any) -> Any:
        """See :meth:`Spatial.reach`."""
        return -namespace(rho).log(rho)

    def is_markov(self, d: int) -> bool:
        """See :meth:`Correlation.is_markov`."""
        return d == 1 and not self.nugget

    def fading(self, c: Any, gaps: Any) -> Fading:
        """See :meth:`Correlation.fading`."""
        xp = namespace(c, gaps)
        steps = gaps * xp.exp(-c[0])  # in units of the range
        a = xp.exp(-steps)
        return Fading(
            value=a,
            loss=-xp.expm1(-steps),
            left=-xp.expm1(-2.0 * steps),
            first=(steps * a)[None],
            second=(steps * (steps - 1.0) * a)[None, None],
        )


class Continuous(Exponential):
    """``phi^d`` at distance d in time, phi between 0 and 1."""

    __slots__ = ()
    name = "car1"

    @property
    def lowest(self) -> float:
        """See :attr:`Correlation.lowest`."""
        return 0.0

    def natural(self, c: list[Taylor]) -> dict[str, Taylor]:
        """See :meth:`Correlation.natural`."""
        return self._at(1.0 / self.unit, c)

    def natural_bent(self, c: list[Taylor]) -> dict[str, Taylor]:
        """See :meth:`Correlation.natural_bent`: phi, or a correlation at the distance of rows.

        On the parameter depends what Kenward and Roger's moments take from second derivatives.
        Phi is SAS's; where rows are far from a unit apart, as days in years, it says nothing.
        """
        apart = 1.0 / self.unit
        return self._at(apart if 1.0 / _OTHER_UNIT < apart < _OTHER_UNIT else 1.0, c)

    def _at(self, distance: float, c: list[Taylor]) -> dict[str, Taylor]:
        """With the correlation at a distance."""
        out = {"phi": exp(-distance * exp(-c[0]))}
        return {**out, "nugget": expit(c[1])} if self.nugget else out


class Gaussian(Spatial):
    """``exp(-(d / range)^2)``."""

    __slots__ = ()
    name = "sp_gau"

    @staticmethod
    def falls(t: Any) -> tuple[Any, Any, Any]:
        """See :meth:`Spatial.falls`."""
        xp = namespace(t)
        s = xp.minimum(t, _FAR) ** 2
        f = xp.exp(-s)
        return f, -2.0 * s * f, s * (4.0 * s - 2.0) * f

    @staticmethod
    def reach(rho: Any) -> Any:
        """See :meth:`Spatial.reach`."""
        xp = namespace(rho)
        return xp.sqrt(-xp.log(rho))


class Rational(Spatial):
    """``1 / (1 + (d / range)^2)``."""

    __slots__ = ()
    name = "sp_rat"

    @staticmethod
    def falls(t: Any) -> tuple[Any, Any, Any]:
        """See :meth:`Spatial.falls`."""
        s = namespace(t).minimum(t, _FAR) ** 2
        f = 1.0 / (1.0 + s)
        return f, -2.0 * s * f * f, s * (6.0 * s - 2.0) * f * f * f

    @staticmethod
    def reach(rho: Any) -> Any:
        """See :meth:`Spatial.reach`."""
        return namespace(rho).sqrt((1.0 - rho) / rho)


class Spherical(Spatial):
    """``1 - 3/2 d / range + 1/2 (d / range)^3`` up to the range, and nothing beyond."""

    __slots__ = ()
    name = "sp_sph"

    @property
    def rugged(self) -> bool:
        """See :attr:`Correlation.rugged`: its slope at zero jumps from row to row."""
        return True

    @staticmethod
    def falls(t: Any) -> tuple[Any, Any, Any]:
        """See :meth:`Spatial.falls`: the second derivative jumps where d is the range."""
        xp = namespace(t)
        t = xp.minimum(t, 1.0)
        cube = t * t * t
        bend = xp.where(t < 1.0, 3.0 * cube, xp.zeros_like(t))
        return 1.0 - 1.5 * t + 0.5 * cube, 1.5 * (cube - t), bend

    @staticmethod
    def reach(rho: Any) -> Any:
        """See :meth:`Spatial.reach`: with ``t = 2 sin(a)`` the function is ``1 - sin(3 a)``."""
        xp = namespace(rho)
        return 2.0 * xp.sin(xp.arcsin(1.0 - rho) / 3.0)
