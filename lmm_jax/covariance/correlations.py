"""What a correlation of the residuals of one subject, or of coefficients, has to say.

A correlation is a static object. Its parameters c run through all of R^m; what is reported
(rho, a range) are smooth functions of them. A function of the places of two rows gives the
matrix, (r, r, g), with two derivatives: g is one where all subjects share their places (visits),
otherwise their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from ..numerics.namespace import namespace
from ..numerics.taylor import Taylor, constant
from .structures import Pattern

# Distance of a starting correlation from 1, and its least size.
_NEAR_ONE, _LEAST = 0.05, 0.02
# Change of a covariance, in units of the residual variance, by a relative change of theta, that
# is none.
AT_BOUND = 1e-6
# Correlations by the ones that have them as a special case in their interior.
WITHIN = {
    "cs": ("toep", "symm"),
    "ar1": ("arma11", "arma", "ad", "toep", "symm"),
    "arma11": ("arma", "toep", "symm"),
    "arma": ("toep", "symm"),
    "ad": ("symm",),
    "toep": ("symm",),
    **dict.fromkeys(("car1", "sp_exp", "sp_gau", "sp_rat", "sp_sph"), ("symm",)),
}


def covers(large: Pattern, small: Pattern) -> bool:
    """Whether a pattern has another as a special case.

    Independence lies within the range of all correlations that coefficients may have.
    """
    (name, equal), (own, own_equal) = large, small
    known = own in ("", name) or name in WITHIN.get(own, ())
    return known and (own_equal or not equal)


class Fading(NamedTuple):
    """Correlation a of a residual with the one before it, at gaps of any shape S in time."""

    value: Any  # S
    loss: Any  # S  1 - a, with its digits where a is near one
    left: Any  # S  1 - a^2, likewise
    first: Any  # (m, *S)
    second: Any  # (m, m, *S)


@dataclass(frozen=True, kw_only=True, slots=True)
class Correlation:
    """Correlation of r residuals by their places.

    Attributes
    ----------
    levels : tuple of str
        Visits, in their order; empty where places are numbers.
    unit : float
        Of distances: places are given in it.
    width : int
        Rows of the largest subject.
    gap : float
        Typical distance of neighbours, in whole numbers, where distances are in no unit; where
        they are in one, the shortest distance.
    """

    levels: tuple[str, ...] = ()
    unit: float = 1.0
    width: int = 2
    gap: float = 1.0

    name: ClassVar[str] = ""
    by_levels: ClassVar[bool] = True  # places are levels of a factor, or distances count
    takes_gap: ClassVar[bool] = False  # starts from the typical distance of neighbours
    levels_are_codes: ClassVar[bool] = False  # places are codes of `levels`, not distances
    in_space: ClassVar[bool] = False  # places are times or coordinates, and no visits
    linear: ClassVar[bool] = False  # in reported parameters, times the variance
    # of the coefficients of a term:
    ordered: ClassVar[bool] = False  # their order counts
    in_line: ClassVar[bool] = False  # without one in their midst correlations with it are untold
    to_one: ClassVar[bool | None] = None  # all may be one, in one number or in several; None: no

    @property
    def n_params(self) -> int:
        """Parameters."""
        return 1

    @property
    def lowest(self) -> float:
        """Least value of a reported correlation; the largest is one."""
        return -1.0

    def entries(self, c: Any, places: Any) -> Taylor:
        """The matrix with two derivatives.

        Parameters
        ----------
        c : Array, shape (m,)
        places : Array, shape (d, r, g)

        Returns
        -------
        Taylor
            Of shape (r, r, g).
        """
        raise NotImplementedError

    def matrix(self, c: Any, places: Any) -> Any:
        """The correlations, (r, r, g)."""
        return self.entries(c, places).value

    def with_tangents(self, c: Any, places: Any) -> tuple[Any, Any]:
        """The correlations, (r, r, g), and their derivatives, (m, r, r, g)."""
        at = self.entries(c, places)
        return at.value, at.first

    def with_bend(self, c: Any, places: Any, slope: Any) -> tuple[Any, Any, Any]:
        """The same, and ``sum_ab slope_ab d2 C_ab``, (m, m); the slope is symmetric, (r, r, g)."""
        xp, at = namespace(c, slope), self.entries(c, places)
        if at.second.shape[-1] == 1 and slope.shape[-1] > 1:
            slope = xp.sum(slope, axis=-1)[:, :, None]
        return at.value, at.first, xp.einsum("klabg,abg->kl", at.second, slope)

    def is_markov(self, d: int) -> bool:
        """Whether, at places in d dimensions, a residual depends on earlier ones by the last one.

        The correlation at a distance is then the product of those of the steps it consists of.
        """
        del d
        return False

    def fading(self, c: Any, gaps: Any) -> Fading:
        """Correlation of neighbours in time, with two derivatives; see :meth:`is_markov`.

        Parameters
        ----------
        c : Array, shape (m,)
        gaps : Array
            Distances in time, positive.
        """
        raise NotImplementedError

    def idle(self, c: Any, gradient: Any) -> Any:
        """Which parameters make no difference, (..., m), of a matrix that is regular there.

        As :meth:`Structure.idle` has it.
        """
        del gradient
        return namespace(c).zeros(c.shape, bool)

    def start(self, rho: Any) -> Any:
        """Parameters, (m,), of correlations near rho at distance one."""
        raise NotImplementedError

    def natural(self, c: list[Taylor]) -> dict[str, Taylor]:
        """What is reported, by name, of parameters that are functions of others."""
        raise NotImplementedError

    def natural_bent(self, c: list[Taylor]) -> dict[str, Taylor]:
        """The same with second derivatives, which :meth:`natural` may leave at zero."""
        return self.natural(c)

    def of_other(self, c: np.ndarray, other: Any) -> np.ndarray:
        """Parameters that mean here what c means to another of the kind; NaN if nothing does."""
        del other
        return c

    def reaching(self, distance: float) -> Self:
        """The same correlation, which knows what it is at this distance of two rows as well."""
        del distance
        return self

    def placed(self, at: Any) -> Any:
        """Places, (d, n), in its unit, of coordinates as they were given."""
        return at / self.unit

    def untold(self, together: np.ndarray) -> list[str]:
        """Names of the parameters that no two rows of a subject depend on.

        Parameters
        ----------
        together : ndarray of bool, shape (T, T)
            Whether some subject has rows at both places; of one that has :attr:`levels`.
        """
        del together
        return []

    @property
    def rugged(self) -> bool:
        """Whether the criterion may have an optimum at any distance that rows have."""
        return False

    @property
    def rows_to_look_at(self) -> tuple[np.ndarray, ...]:
        """Rows of parameters, (S, m), of whose criterion the local minima are starts as well."""
        return ()

    def turned(self, c: Any) -> Any:
        """Parameters, (S, m), from which an optimum c is challenged: other signs of residuals.

        A row for every level: the correlation nearer to independence with the signs of its
        residuals changed. None, S = 0, where that leads to no other optimum.
        """
        return namespace(c).zeros((0, self.n_params), c.dtype)

    def _bounded(self, rho: Any) -> Any:
        return namespace(rho).clip(rho, _LEAST, 1.0 - _NEAR_ONE)


def arctanh(x: Any) -> Any:
    """Inverse of tanh."""
    xp = namespace(x)
    return 0.5 * xp.log((1.0 + x) / (1.0 - x))


def at_visits(places: Any) -> tuple[Any, Any]:
    """Indices of two visits, (r, 1, g) and (1, r, g), of every pair of rows."""
    visits = places[0].astype(np.int32)
    return visits[:, None], visits[None]


def cell(x: Taylor) -> Taylor:
    """A number as an array of one entry, (1, 1, 1)."""
    m = x.first.shape[0]
    return Taylor(
        x.value.reshape(1, 1, 1), x.first.reshape(m, 1, 1, 1), x.second.reshape(m, m, 1, 1, 1)
    )


class Independent(Correlation):
    """No correlation."""

    __slots__ = ()

    @property
    def n_params(self) -> int:
        """See :attr:`Correlation.n_params`."""
        return 0

    def entries(self, c: Any, places: Any) -> Taylor:
        """See :meth:`Correlation.entries`."""
        xp, (_, r, g) = namespace(c, places), places.shape
        return constant(xp.broadcast_to(xp.eye(r, dtype=c.dtype)[:, :, None], (r, r, g)), 0)

    def is_markov(self, d: int) -> bool:
        """See :meth:`Correlation.is_markov`."""
        del d
        return True

    def fading(self, c: Any, gaps: Any) -> Fading:
        """See :meth:`Correlation.fading`."""
        xp, shape = namespace(c, gaps), gaps.shape
        one, zero = xp.ones_like(gaps), xp.zeros_like(gaps)
        none = xp.zeros((0, *shape), gaps.dtype), xp.zeros((0, 0, *shape), gaps.dtype)
        return Fading(zero, one, one, *none)

    def start(self, rho: Any) -> Any:
        """See :meth:`Correlation.start`."""
        return namespace(rho).zeros(0, rho.dtype)

    def natural(self, c: list[Taylor]) -> dict[str, Taylor]:
        """See :meth:`Correlation.natural`."""
        del c
        return {}
