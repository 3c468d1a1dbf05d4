"""Correlations of the residuals of one subject: what a formula may ask for, and its parameters.

A correlation is a static object. Its parameters c run through all of R^m; what is reported
(rho, a range) are smooth functions of them. A function of the places of two rows gives the
matrix, (r, r, g), with two derivatives: g is one where all subjects share their places (visits),
otherwise their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..numerics.namespace import namespace
from ..numerics.taylor import Taylor, constant, expit, stack, tanh, variables
from .structures import Pattern, lower_rows

# Distance of a starting correlation from 1, and its least size.
_NEAR_ONE, _LEAST = 0.05, 0.02
# Change of a covariance, in units of the residual variance, by a relative change of theta, that
# is none.
AT_BOUND = 1e-6
# Correlations by the ones that have them as a special case in their interior.
WITHIN = {
    "cs": ("toep", "symm"),
    "ar1": ("arma11", "ad", "toep", "symm"),
    "arma11": ("toep", "symm"),
    "ad": ("symm",),
    "toep": ("symm",),
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
    levels_are_codes: ClassVar[bool] = False  # places are codes of `levels`, not distances
    linear: ClassVar[bool] = False  # in reported parameters, times the variance

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

    def tangents(self, c: Any, places: Any) -> Any:
        """Their derivatives, (m, r, r, g)."""
        return self.entries(c, places).first

    def bend(self, c: Any, places: Any, slope: Any) -> Any:
        """``sum_ab slope_ab d2 C_ab``, (m, m); the slope is symmetric, (r, r, g)."""
        xp, second = namespace(c, slope), self.entries(c, places).second
        if second.shape[-1] == 1 and slope.shape[-1] > 1:
            slope = xp.sum(slope, axis=-1)[:, :, None]
        return xp.einsum("klabg,abg->kl", second, slope)

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

    def idle(self, c: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Which parameters make no difference, (..., m), of a matrix that is regular there.

        As :meth:`Structure.idle` has it.
        """
        del gradient
        return np.zeros(c.shape, bool)

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

    def untold(self, together: np.ndarray) -> list[str]:
        """Names of the parameters that no two rows of a subject depend on.

        Parameters
        ----------
        together : ndarray of bool, shape (T, T)
            Whether some subject has rows at both places; of one that has :attr:`levels`.
        """
        del together
        return []

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


def _spread_over(rho: Taylor, shape: Any, like: Any) -> Taylor:
    """Ones on the diagonal and rho elsewhere."""
    xp = namespace(like)
    one = xp.broadcast_to(xp.eye(shape[0], dtype=like.dtype)[:, :, None], shape)
    other = 1.0 - one
    return rho.through(one + other * rho.value, other, xp.zeros_like(one))


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


class General(Correlation):
    """Any correlation of T visits: ``C = L L'`` with rows ``(u_i1, .., 1, 0, ..) / norm``."""

    __slots__ = ()
    name = "symm"
    linear = True
    levels_are_codes = True

    @property
    def n_params(self) -> int:
        """See :attr:`Correlation.n_params`."""
        T = len(self.levels)
        return T * (T - 1) // 2

    def _rows(self, c: Any) -> tuple[Any, Any, Any]:
        """L, the rows before their norms are taken, and the norms."""
        xp, T = namespace(c), len(self.levels)
        i, j = _below(T)
        v = xp.at(xp.eye(T, dtype=c.dtype))[i, j].set(c)
        norm = xp.sqrt(xp.sum(v * v, axis=1))
        return v / norm[:, None], v, norm

    def _visits(self, c: Any) -> Any:
        """Correlations of all visits, (T, T)."""
        L = self._rows(c)[0]
        return L @ L.T

    def matrix(self, c: Any, places: Any) -> Any:
        """See :meth:`Correlation.matrix`."""
        return self._visits(c)[at_visits(places)]

    def entries(self, c: Any, places: Any) -> Taylor:
        """See :meth:`Correlation.entries`."""
        return stack([stack(row) for row in self._bent(variables(c))])[at_visits(places)]

    def _bent(self, c: list[Taylor]) -> list[list[Taylor]]:
        """Correlations of all visits with two derivatives, number by number."""
        rows: list[list[Taylor]] = []
        first = c[0] * 0.0 + 1.0
        for i in range(len(self.levels)):
            own = c[i * (i - 1) // 2 : i * (i + 1) // 2]
            size = first
            for x in own:
                size = size + x * x
            n = size.value
            inverse = size.through(n**-0.5, -0.5 * n**-1.5, 0.75 * n**-2.5)
            rows.append([*(x * inverse for x in own), inverse])
        out = [[first] * len(rows) for _ in rows]
        for i, row in enumerate(rows):
            for j in range(i):
                pairs = [a * b for a, b in zip(row, rows[j], strict=False)]
                out[i][j] = out[j][i] = sum(pairs[1:], pairs[0])
        return out

    def _factor_tangents(self, c: Any) -> Any:
        """Derivative of its row of L in every parameter, (m, T)."""
        xp, T = namespace(c), len(self.levels)
        i, j = _below(T)
        _, v, norm = self._rows(c)
        unit = xp.asarray(np.eye(T)[j], c.dtype)
        return unit / norm[i][:, None] - v[i] * (c / norm[i] ** 3)[:, None]

    def _visit_tangents(self, c: Any) -> Any:
        """Derivatives of the correlations of all visits, (m, T, T)."""
        xp, T = namespace(c), len(self.levels)
        i, _ = _below(T)
        row = self._factor_tangents(c) @ self._rows(c)[0].T  # (m, T)
        at = xp.asarray(np.eye(T)[i], c.dtype)
        half = at[:, :, None] * row[:, None]
        out = half + xp.swapaxes(half, 1, 2)
        return out * (1.0 - xp.eye(T, dtype=c.dtype))[None]

    def tangents(self, c: Any, places: Any) -> Any:
        """See :meth:`Correlation.tangents`."""
        return self._visit_tangents(c)[(slice(None), *at_visits(places))]

    def _slope_of_visits(self, places: Any, slope: Any) -> Any:
        """Sums of a slope, (r, r, g), over the rows of every two visits, (T, T)."""
        xp, T = namespace(places, slope), len(self.levels)
        visits = xp.asarray(np.arange(T), places.dtype)
        at = (places[0][None] == visits[:, None, None]).astype(slope.dtype)  # (T, r, g)
        if at.shape[-1] == 1:
            return at[..., 0] @ xp.sum(slope, axis=-1) @ at[..., 0].T
        return xp.einsum("tag,aug->tu", at, xp.einsum("abg,ubg->aug", slope, at))

    def bend(self, c: Any, places: Any, slope: Any) -> Any:
        """See :meth:`Correlation.bend`."""
        xp, T = namespace(c), len(self.levels)
        i, j = _below(T)
        H = self._slope_of_visits(places, slope) * (1.0 - xp.eye(T, dtype=c.dtype))
        L, v, norm = self._rows(c)
        dL = self._factor_tangents(c)
        across = 2.0 * H[i][:, i] * (dL @ dL.T)  # different rows; H is zero for one row
        w = (H @ L)[i]  # (m, T): of the row of every parameter
        own, n = w[np.arange(len(i)), j], norm[i]
        both = own[:, None] * c[None]
        along = xp.sum(w * v[i], axis=1)
        same = -(both + both.T) / n[:, None] ** 3
        same = same + 3.0 * (along / n**5)[:, None] * (c[:, None] * c[None])
        same = same - xp.diag(along / n**3)
        return across + 2.0 * xp.where(i[:, None] == i[None], same, 0.0)

    def start(self, rho: Any) -> Any:
        """See :meth:`Correlation.start`: one correlation."""
        xp, T = namespace(rho), len(self.levels)
        i, j = _below(T)
        rho = self._bounded(rho)
        L = xp.linalg.cholesky((1.0 - rho) * xp.eye(T, dtype=rho.dtype) + rho)
        return L[i, j] / xp.diagonal(L)[i]

    def natural(self, c: list[Taylor]) -> dict[str, Taylor]:
        """See :meth:`Correlation.natural`; first derivatives alone, since V is linear in it."""
        at = stack(c)
        xp, T = namespace(at.value), len(self.levels)
        i, j = _below(T)
        C = self._visits(at.value)
        first = xp.einsum("kab,zk->zab", self._visit_tangents(at.value), at.first)
        m = at.first.shape[0]
        return {
            self._name(a, b): Taylor(C[a, b], first[:, a, b], xp.zeros((m, m), C.dtype))
            for a, b in zip(i.tolist(), j.tolist(), strict=True)
        }

    def natural_bent(self, c: list[Taylor]) -> dict[str, Taylor]:
        """See :meth:`Correlation.natural_bent`."""
        i, j = _below(len(self.levels))
        C = self._bent(c)
        return {self._name(a, b): C[a][b] for a, b in zip(i.tolist(), j.tolist(), strict=True)}

    def untold(self, together: np.ndarray) -> list[str]:
        """See :meth:`Correlation.untold`."""
        i, j = _below(len(self.levels))
        apart = ~together[i, j]
        return [self._name(a, b) for a, b in zip(i[apart].tolist(), j[apart].tolist(), strict=True)]

    def _name(self, a: int, b: int) -> str:
        return f"corr[{self.levels[b]},{self.levels[a]}]"


def _below(T: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the entries below the diagonal, row by row."""
    i, j = lower_rows(T)
    return i[i > j], j[i > j]


class Symmetric(Correlation):
    """One correlation between any two rows, from ``-1 / (width - 1)`` to 1."""

    __slots__ = ()
    name = "cs"
    linear = True

    @property
    def lowest(self) -> float:
        """See :attr:`Correlation.lowest`: that of equal correlations of all rows."""
        return -1.0 / max(self.width - 1, 1)

    def _rho(self, c: Taylor) -> Taylor:
        least = self.lowest
        return least + (1.0 - least) * expit(c)

    def entries(self, c: Any, places: Any) -> Taylor:
        """See :meth:`Correlation.entries`."""
        _, r, g = places.shape
        return _spread_over(self._expanded(c), (r, r, g), c)

    def _expanded(self, c: Any) -> Taylor:
        return cell(self._rho(variables(c)[0]))

    def start(self, rho: Any) -> Any:
        """See :meth:`Correlation.start`."""
        xp, least = namespace(rho), self.lowest
        share = (self._bounded(rho) - least) / (1.0 - least)
        return xp.log(share / (1.0 - share))[None]

    def natural(self, c: list[Taylor]) -> dict[str, Taylor]:
        """See :meth:`Correlation.natural`."""
        return {"rho": self._rho(c[0])}

    def of_other(self, c: np.ndarray, other: Any) -> np.ndarray:
        """See :meth:`Correlation.of_other`: the same rho, whose least value is another."""
        least = self.lowest
        share = (other._rho(variables(c)[0]).value - least) / (1.0 - least)
        with np.errstate(all="ignore"):
            return np.log(share) - np.log1p(-share) + np.zeros(1)


class Antedependent(Correlation):
    """Products of the correlations of neighbouring visits."""

    __slots__ = ()
    name = "ad"
    levels_are_codes = True

    @property
    def n_params(self) -> int:
        """See :attr:`Correlation.n_params`."""
        return len(self.levels) - 1

    def entries(self, c: Any, places: Any) -> Taylor:
        """See :meth:`Correlation.entries`."""
        xp, T = namespace(c), len(self.levels)
        near = [tanh(x) for x in variables(c)]
        one = constant(xp.ones((), c.dtype), c.shape[0])
        rows: list[list[Taylor]] = [[one] * T for _ in range(T)]
        for i in range(T):
            for j in range(i + 1, T):
                rows[i][j] = rows[j][i] = rows[i][j - 1] * near[j - 1]
        return stack([stack(row) for row in rows])[at_visits(places)]

    def start(self, rho: Any) -> Any:
        """See :meth:`Correlation.start`."""
        return namespace(rho).broadcast_to(arctanh(self._bounded(rho)), (self.n_params,))

    def natural(self, c: list[Taylor]) -> dict[str, Taylor]:
        """See :meth:`Correlation.natural`."""
        names = zip(self.levels, self.levels[1:], strict=False)
        return {f"corr[{a},{b}]": tanh(x) for (a, b), x in zip(names, c, strict=True)}

    def untold(self, together: np.ndarray) -> list[str]:
        """See :meth:`Correlation.untold`: a pair depends on all neighbours between its visits."""
        names = zip(self.levels, self.levels[1:], strict=False)
        return [
            f"corr[{a},{b}]"
            for k, (a, b) in enumerate(names)
            if not together[: k + 1, k + 1 :].any()
        ]
