"""Plots of a field: a correlation along its rows times one along its columns."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from ..numerics.namespace import namespace
from ..numerics.taylor import Taylor, expit, powers, tanh, variables
from .correlations import AT_BOUND, Correlation, arctanh

# Starts: correlations of neighbours along either axis, and shares of a nugget, as logits.
_NEAR, _NUGGETS = np.arctanh((-0.5, 0.3, 0.8)), (-1.5, 0.5)


class Axis(NamedTuple):
    """Correlations along one axis with derivatives in its parameter, (r, r) or (r, r, g)."""

    f: Any
    slope: Any
    bend: Any


class Share(NamedTuple):
    """What all plots but one have in common, 1 less the nugget, with derivatives in its logit."""

    value: Any
    slope: Any
    bend: Any


class OnGrid(NamedTuple):
    """The correlation of all plots of a grid, ``s A (x) B + (1 - s) I``."""

    rows: Axis  # (R, R)
    columns: Axis  # (C, C)
    share: Share | None  # None: of no nugget, where s is 1


@dataclass(frozen=True, kw_only=True, slots=True)
class SeparableAutoregressive(Correlation):
    """``rho_1^|i - i'| rho_2^|j - j'|`` of plots (i, j), less a nugget if asked for.

    Along each axis plots are counted in the largest step of which all distances are multiples.
    ``AR(1) x AR(1)`` of field trials. The nugget, a share of the variance that every plot has for
    itself, is their measurement error ("units").

    Attributes
    ----------
    names : tuple of str
        Of the two coordinates.
    nugget : bool
    steps : tuple of float
        Of the two coordinates.
    reach : int
        The largest distance of two plots along either axis.

    References
    ----------
    Gilmour, Cullis & Verbyla (1997), doi:10.2307/1400446.
    """

    names: tuple[str, ...] = ()
    nugget: bool = False
    steps: tuple[float, ...] = (1.0, 1.0)
    reach: int = 1

    name: ClassVar[str] = "ar1_ar1"
    by_levels: ClassVar[bool] = False
    in_space: ClassVar[bool] = True

    @property
    def n_params(self) -> int:
        """See :attr:`Correlation.n_params`."""
        return 2 + self.nugget

    def reaching(self, distance: float) -> Self:
        """See :meth:`Correlation.reaching`."""
        return self if distance <= self.reach else replace(self, reach=int(np.ceil(distance)))

    def placed(self, at: Any) -> Any:
        """See :meth:`Correlation.placed`: axis by axis."""
        return at / np.array(self.steps)[:, None]

    def _along(self, c: Any, places: Any) -> tuple[Axis, Axis]:
        """Powers along both axes with two derivatives, (r, r, g) each."""
        xp = namespace(c, places)
        apart = xp.abs(places[:, :, None] - places[:, None]) + 0.5  # of steps, rounded
        apart = xp.minimum(apart, self.reach).astype(
            np.int32
        )  # rows that are not there lie anywhere
        return self._axis(c, 0, apart[0]), self._axis(c, 1, apart[1])

    def _axis(self, c: Any, i: int, apart: Any) -> Axis:
        """Powers along axis i with two derivatives, looked up by whole distances."""
        lags = namespace(c).arange(self.reach + 1).astype(c.dtype)
        of = powers(tanh(variables(c[i : i + 1])[0]), lags)
        return Axis(of.value[apart], of.first[0][apart], of.second[0, 0][apart])

    def on_grid(self, c: Any, shape: tuple[int, int]) -> OnGrid:
        """The correlation of the plots of a grid without gaps."""
        rows, columns = (np.abs(np.subtract.outer(np.arange(r), np.arange(r))) for r in shape)
        share = self._share(c) if self.nugget else None
        return OnGrid(self._axis(c, 0, rows), self._axis(c, 1, columns), share)

    def _share(self, c: Any) -> Share:
        q = 1.0 / (1.0 + namespace(c).exp(-c[2]))
        r = q * (1.0 - q)
        return Share(1.0 - q, -r, (2.0 * q - 1.0) * r)

    def _shared(self, c: Any, places: Any) -> tuple[Any, Any, Any]:
        """What correlations off the diagonal are multiplied by, with two derivatives in c_2."""
        other = (1.0 - namespace(c, places).eye(places.shape[1], dtype=c.dtype))[:, :, None]
        value, slope, bend = self._share(c)
        return value * other, slope * other, bend * other

    def entries(self, c: Any, places: Any) -> Taylor:
        """See :meth:`Correlation.entries`."""
        xp, (a, b) = namespace(c, places), self._along(c, places)
        f, across = a.f * b.f, a.slope * b.slope
        first = [a.slope * b.f, a.f * b.slope]
        second = [[a.bend * b.f, across], [across, a.f * b.bend]]
        if self.nugget:
            share, slope, bend = self._shared(c, places)
            beside = [slope * x for x in first]
            second = [[share * x for x in row] + [y] for row, y in zip(second, beside, strict=True)]
            second.append([*beside, bend * f])
            first = [*(share * x for x in first), slope * f]
            f = xp.where(share == 0, 1.0, share * f)
        return Taylor(f, xp.stack(first), xp.stack([xp.stack(row) for row in second]))

    def with_tangents(self, c: Any, places: Any) -> tuple[Any, Any]:
        """See :meth:`Correlation.with_tangents`."""
        xp, (a, b) = namespace(c, places), self._along(c, places)
        f, first = a.f * b.f, [a.slope * b.f, a.f * b.slope]
        if self.nugget:
            share, slope, _ = self._shared(c, places)
            first = [*(share * x for x in first), slope * f]
            f = xp.where(share == 0, 1.0, share * f)
        return f, xp.stack(first)

    def matrix(self, c: Any, places: Any) -> Any:
        """See :meth:`Correlation.matrix`."""
        return self.with_tangents(c, places)[0]

    def start(self, rho: Any) -> Any:
        """See :meth:`Correlation.start`."""
        xp = namespace(rho)
        at = arctanh(self._bounded(rho))
        return xp.stack([at, at, *[xp.full_like(at, _NUGGETS[0])] * self.nugget])

    @property
    def rows_to_look_at(self) -> tuple[np.ndarray, ...]:
        """See :attr:`Correlation.rows_to_look_at`: both signs along either axis."""
        if not self.nugget:
            return ()
        pairs = np.array(list(itertools.product(_NEAR, _NEAR)))
        return tuple(np.column_stack([pairs, np.full(len(pairs), x)]) for x in _NUGGETS)

    def idle(self, c: Any, gradient: Any) -> Any:
        """See :meth:`Correlation.idle`: no nugget, or nothing else; a rho of 1 beside a nugget."""
        xp = namespace(c, gradient)
        if not self.nugget:
            return xp.zeros(c.shape, bool)
        share, size = 1.0 / (1.0 + xp.exp(-c[..., 2])), 1.0 + xp.abs(c)
        none = (share * size[..., 2] < AT_BOUND) & (gradient[..., 2] > 0)
        whole = ((1.0 - share) * size[..., 2] < AT_BOUND) & (gradient[..., 2] < 0)
        rho = xp.tanh(c[..., :2])
        left = (1.0 - rho * rho) * size[..., :2]
        one = (left < AT_BOUND) & (rho * gradient[..., :2] <= AT_BOUND) & ~none[..., None]
        at_end = xp.stack([whole, whole, whole | none], axis=-1)
        return at_end | xp.concatenate([one, xp.zeros_like(one[..., :1])], axis=-1)

    def natural(self, c: list[Taylor]) -> dict[str, Taylor]:
        """See :meth:`Correlation.natural`."""
        out = {f"rho[{name}]": tanh(x) for name, x in zip(self.names, c, strict=False)}
        return {**out, "nugget": expit(c[2])} if self.nugget else out
