"""Plots of a field: a correlation along its rows times one along its columns."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..numerics.namespace import namespace
from ..numerics.taylor import Taylor, expit, powers, tanh, variables
from .correlations import AT_BOUND, Correlation, arctanh, cell

# Starts: correlations of neighbours along either axis, and shares of a nugget, as logits.
_NEAR, _NUGGETS = np.arctanh((-0.5, 0.3, 0.8)), (-1.5, 0.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class SeparableAutoregressive(Correlation):
    """``rho_1^|i - i'| rho_2^|j - j'|`` of plots (i, j), whole numbers, less a nugget if asked for.

    ``AR(1) x AR(1)`` of field trials. The nugget, a share of the variance that every plot has for
    itself, is their measurement error ("units").

    Attributes
    ----------
    names : tuple of str
        Of the two coordinates.
    nugget : bool

    References
    ----------
    Gilmour, Cullis & Verbyla (1997), doi:10.2307/1400446.
    """

    names: tuple[str, ...] = ()
    nugget: bool = False

    name: ClassVar[str] = "ar1_ar1"
    by_levels: ClassVar[bool] = False

    @property
    def n_params(self) -> int:
        """See :attr:`Correlation.n_params`."""
        return 2 + self.nugget

    def entries(self, c: Any, places: Any) -> Taylor:
        """See :meth:`Correlation.entries`."""
        xp = namespace(c, places)
        apart = xp.abs(places[:, :, None] - places[:, None])
        free = variables(c)
        along = [powers(tanh(x), d) for x, d in zip(free, apart, strict=False)]
        found = along[0] * along[1]
        if not self.nugget:
            return found
        own = xp.eye(apart.shape[1], dtype=apart.dtype)[:, :, None]
        return found * (1.0 - own) * cell(1.0 - expit(free[2])) + own

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
