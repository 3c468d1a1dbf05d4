"""Plots of a field: a correlation along its rows times one along its columns."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from ..numerics.namespace import namespace
from ..numerics.taylor import Taylor, expit, log_left, powers, tanh, variables
from .correlations import AT_BOUND, Correlation, arctanh

# Starts: correlations of neighbours along either axis, and shares of a nugget, as logits.
_NEAR, _NUGGETS = np.arctanh((-0.8, 0.3, 0.9)), (-1.5, 0.5, 2.5)


class Axis(NamedTuple):
    """Correlations along one axis with derivatives in its parameter, (r, r) or (r, r, g)."""

    f: Any
    slope: Any
    bend: Any


class OnGrid(NamedTuple):
    """The correlation of all plots of a grid, ``s A (x) B + q I`` with ``s = 1 - q``."""

    rows: Axis  # (R, R)
    columns: Axis  # (C, C)
    share: Taylor | None  # s, in all parameters; None: of no nugget, where it is 1
    nugget: Any  # q, with its digits where it is small

    def first(self, off: Any, rows: Any, columns: Any) -> list[Any]:
        """From what is linear in ``A (x) B - I`` and in its derivatives to those of all of it."""
        if self.share is None:
            return [rows, columns]
        s, slopes = self.share.value, self.share.first
        return [slopes[0] * off + s * rows, slopes[1] * off + s * columns, slopes[2] * off]

    def second(
        self, off: Any, rows: Any, columns: Any, across: Any, bent_rows: Any, bent_columns: Any
    ) -> list[list[Any]]:
        """The same of derivatives in two parameters."""
        own = [[bent_rows, across], [across, bent_columns]]
        if self.share is None:
            return own
        s, slopes, bends = self.share.value, self.share.first, self.share.second
        axes = [rows, columns]

        def entry(k: int, j: int) -> Any:
            out = bends[k, j] * off
            out = out + slopes[k] * axes[j] if j < 2 else out
            out = out + slopes[j] * axes[k] if k < 2 else out
            return out + s * own[k][j] if max(k, j) < 2 else out

        return [[entry(k, j) for j in range(3)] for k in range(3)]


@dataclass(frozen=True, kw_only=True, slots=True)
class SeparableAutoregressive(Correlation):
    """``rho_1^|i - i'| rho_2^|j - j'|`` of plots (i, j), less a nugget if asked for.

    Along each axis plots are counted in the largest step of which all distances are multiples.
    ``AR(1) x AR(1)`` of field trials. The nugget q, a share of the variance that every plot has
    for itself, is their measurement error ("units"). Its parameter is
    ``log(q / (1 - q)) - log((1 - rho_1^2) (1 - rho_2^2))``, the logarithm of its variance over
    that of what no neighbour tells of the rest: where the field has a trend both correlations go
    to one, and q to zero, while this number stays.

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
        return OnGrid(self._axis(c, 0, rows), self._axis(c, 1, columns), *self._shares(c))

    def _shares(self, c: Any) -> tuple[Taylor | None, Any]:
        """``1 - q`` of a nugget q, None without one, and q."""
        if not self.nugget:
            return None, namespace(c).zeros((), c.dtype)
        x = variables(c)
        logit = x[2] + log_left(x[0]) + log_left(x[1])
        return expit(-logit), expit(logit).value

    def _of_plots(self, c: Any, places: Any) -> tuple[OnGrid, Any]:
        """Both axes at the places of single plots, and ``A (x) B`` off the diagonal."""
        xp, (a, b) = namespace(c, places), self._along(c, places)
        f, (share, nugget) = a.f * b.f, self._shares(c)
        if share is not None:
            f = f * (1.0 - xp.eye(places.shape[1], dtype=c.dtype))[:, :, None]
        return OnGrid(a, b, share, nugget), f

    def _whole(self, share: Taylor | None, f: Any) -> Any:
        """The correlation itself."""
        if share is None:
            return f
        return share.value * f + namespace(f).eye(len(f), dtype=f.dtype)[:, :, None]

    def entries(self, c: Any, places: Any) -> Taylor:
        """See :meth:`Correlation.entries`."""
        xp, (at, f) = namespace(c, places), self._of_plots(c, places)
        a, b, share, _ = at
        first = a.slope * b.f, a.f * b.slope
        second = at.second(f, *first, a.slope * b.slope, a.bend * b.f, a.f * b.bend)
        slopes = xp.stack(at.first(f, *first))
        return Taylor(self._whole(share, f), slopes, xp.stack([xp.stack(row) for row in second]))

    def with_tangents(self, c: Any, places: Any) -> tuple[Any, Any]:
        """See :meth:`Correlation.with_tangents`."""
        xp, (at, f) = namespace(c, places), self._of_plots(c, places)
        a, b, share, _ = at
        return self._whole(share, f), xp.stack(at.first(f, a.slope * b.f, a.f * b.slope))

    def matrix(self, c: Any, places: Any) -> Any:
        """See :meth:`Correlation.matrix`."""
        return self.with_tangents(c, places)[0]

    def start(self, rho: Any) -> Any:
        """See :meth:`Correlation.start`."""
        xp = namespace(rho)
        at = arctanh(self._bounded(rho))
        if not self.nugget:
            return xp.stack([at, at])
        return xp.stack([at, at, _NUGGETS[0] - 2.0 * xp.log1p(-(xp.tanh(at) ** 2))])

    @property
    def rows_to_look_at(self) -> tuple[np.ndarray, ...]:
        """See :attr:`Correlation.rows_to_look_at`: both signs along either axis."""
        if not self.nugget:
            return ()
        pairs = np.array(list(itertools.product(_NEAR, _NEAR)))
        left = np.log1p(-(np.tanh(pairs) ** 2)).sum(axis=1)
        return tuple(np.column_stack([pairs, x - left]) for x in _NUGGETS)

    def idle(self, c: Any, gradient: Any) -> Any:
        """See :meth:`Correlation.idle`: no nugget, or nothing else; a rho of 1 beside a nugget."""
        xp = namespace(c, gradient)
        if not self.nugget:
            return xp.zeros(c.shape, bool)
        rho, size = xp.tanh(c[..., :2]), 1.0 + xp.abs(c)
        left = 1.0 - rho * rho
        logit = c[..., 2] + xp.sum(xp.log(xp.maximum(left, np.finfo(left.dtype).tiny)), axis=-1)
        own, rest = (1.0 / (1.0 + xp.exp(-xp.clip(x, -80.0, 80.0))) for x in (logit, -logit))
        none = (own * size[..., 2] < AT_BOUND) & (gradient[..., 2] > 0)
        whole = (rest * size[..., 2] < AT_BOUND) & (gradient[..., 2] < 0)
        one = (
            (left * size[..., :2] < AT_BOUND)
            & (rho * gradient[..., :2] <= AT_BOUND)
            & ~none[..., None]
        )
        at_end = xp.stack([whole, whole, whole | none], axis=-1)
        return at_end | xp.concatenate([one, xp.zeros_like(one[..., :1])], axis=-1)

    def natural(self, c: list[Taylor]) -> dict[str, Taylor]:
        """See :meth:`Correlation.natural`."""
        out = {f"rho[{name}]": tanh(x) for name, x in zip(self.names, c, strict=False)}
        if self.nugget:
            out["nugget"] = expit(c[2] + log_left(c[0]) + log_left(c[1]))
        return out
