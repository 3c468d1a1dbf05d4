"""Curves of a profile likelihood: intervals at any level, and points for plots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from ...errors import DataError
from ...inputs.arguments import hinted, probability
from ...reprs import public
from ...tables.frames import as_frame
from ...tables.page import Summary, table
from ...tables.shown import Shown
from .lines import Form

# Two-sided levels that are points of a curve, and what else is.
LEVELS = np.array([0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999])
BETWEEN = np.array([0.35, 1.0])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class ProfileCurve:
    """The profile of one parameter."""

    name: str
    value: np.ndarray  # (G,)   of the parameter, increasing
    zeta: np.ndarray  # (G,)   signed root of the deviance above its minimum
    deviance: np.ndarray  # (G,)   -2 log-likelihood, maximized over the others
    parameters: np.ndarray  # (G, K) all parameters at the maximum
    coordinate: np.ndarray  # (G,)   in which the profile was followed
    slope: np.ndarray  # (G,)   derivative of the deviance in it
    form: Form
    ends: tuple[bool, bool]  # whether the parameter ends at the first and the last value

    def limits(self, level: float) -> tuple[float, float]:
        """Both ends of an interval; where the parameter ends before, that end."""
        q = float(special.ndtri(0.5 + 0.5 * level))
        return self._limit(q, -1), self._limit(q, 1)

    def _limit(self, q: float, side: int) -> float:
        last = 0 if side < 0 else -1
        if q > side * self.zeta[last] + 1e-9:
            return float(self.value[last]) if self.ends[last] else np.nan
        places = np.flatnonzero(side * self.zeta >= -1e-12)
        order = places[np.argsort(side * self.zeta[places], kind="stable")]
        n = int(np.searchsorted(side * self.zeta[order], q - 1e-9))
        beyond = order[min(n, order.size - 1)]
        if abs(side * self.zeta[beyond] - q) < 1e-8:
            return float(self.value[beyond])
        return self.form.of_data(self._between(order[n - 1], beyond, q * q))

    def _between(self, a: int, b: int, rise: float) -> float:
        """Coordinate between two points at which the deviance has risen so far: Hermite's cubic."""
        x, h = self.coordinate, self.coordinate[b] - self.coordinate[a]
        low, high = self.zeta[a] ** 2, self.zeta[b] ** 2
        s, t = h * self.slope[a], h * self.slope[b]
        cubic = [2 * (low - high) + s + t, 3 * (high - low) - 2 * s - t, s, low - rise]
        roots = np.roots(cubic)
        real = roots.real[(abs(roots.imag) < 1e-9) & (roots.real > -1e-9) & (roots.real < 1 + 1e-9)]
        return float(x[a] + h * real[0]) if real.size else float("nan")


@public
@hinted
@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class ProfileResults(Shown):
    """Profiles of the parameters of a fit, made by :func:`lmm_jax.profile`."""

    curves: tuple[ProfileCurve, ...]
    names: tuple[str, ...]  # (K,)  of all parameters
    estimate: np.ndarray  # (K,)  where the criterion is lowest
    deviance: float  # there, -2 log-likelihood
    reml: bool
    output: str = "pandas"  # kind of frame that tables come in: that of the data

    def conf_int(self, *, level: float = 0.95) -> pd.DataFrame:
        """Profile intervals, a row a parameter, with columns lower and upper.

        Parameters
        ----------
        level : float
            Coverage, at most 0.999. Exact at 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995 and
            0.999, and by Hermite's cubics between these (good to a thousandth of a standard
            error); ``res.conf_int(method="profile")`` is exact at every level.
        """
        level = probability(level, "level")
        if level > LEVELS[-1]:
            raise DataError(f"level={level}: the profile goes to {LEVELS[-1]}")
        limits = [curve.limits(level) for curve in self.curves]
        index = [curve.name for curve in self.curves]
        return pd.DataFrame(limits, columns=["lower", "upper"], index=index)

    def to_frame(self, *, output: str | None = None) -> Any:
        """All points: parameter, value, zeta, deviance, and every parameter at the maximum.

        Parameters
        ----------
        output : {"pandas", "polars", "pyarrow"}, optional
            Kind of frame; that of the data if not given.
        """
        parts = []
        for curve in self.curves:
            own = {"value": curve.value, "zeta": curve.zeta, "deviance": curve.deviance}
            rest = pd.DataFrame(curve.parameters, columns=list(self.names))
            frame = pd.concat([pd.DataFrame(own), rest], axis=1)
            frame.insert(0, "parameter", curve.name)
            parts.append(frame)
        return as_frame(pd.concat(parts, ignore_index=True), output, self.output)

    def _page(self) -> Summary:
        kind = "REML" if self.reml else "ML"
        frame = self.conf_int()
        at = [self.names.index(name) for name in frame.index]
        frame.insert(0, "estimate", np.asarray(self.estimate)[at])
        title = f"Profiles of the likelihood, {kind}"
        notes = ("Limits of level 0.95",)
        return Summary(title=title, sheets=(table(frame, ""),), notes=notes, method=title)

    def __repr__(self) -> str:
        kind = "REML" if self.reml else "ML"
        return f"<ProfileResults by {kind}: {', '.join(curve.name for curve in self.curves)}>"
