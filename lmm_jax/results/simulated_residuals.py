"""Scaled quantile residuals and what they say of a fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..inference.residuals import scaled_residuals as numbers
from ..inference.residuals.scaled_residuals import ResidualTest
from ..reprs import public
from ..tables.frames import as_frame
from ..tables.page import Summary, table
from ..tables.shown import Shown


@public
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SimulatedResiduals(Shown):
    """Residuals of a fit on the scale of its own simulations, by :func:`simulate_residuals`.

    Uniform between 0 and 1 if the model is right. Without ``conditional`` the rows of a group
    share its random effects: the residuals are then correlated within groups, and the test of
    uniformity, which takes them for independent, rejects more often than it says.

    Attributes
    ----------
    scaled : Series, shape (n,)
        Share of the simulated responses of a row that are below the observed one.
    outside : Series of bool, shape (n,)
        Rows whose response is below or above all simulated ones.
    observed, fitted : Series, shape (n,)
        Response, and the mean that the simulations have: ``X beta + offset``, with ``Z b`` if
        ``conditional``.
    spread : float
        Variance of ``observed - fitted`` over the rows.
    spreads : ndarray, shape (m,)
        The same of every simulation.
    """

    scaled: pd.Series[float]
    outside: pd.Series[bool]
    observed: pd.Series[float]
    fitted: pd.Series[float]
    spread: float
    spreads: np.ndarray
    output: str = "pandas"  # kind of frame that tables come in: that of the data

    @property
    def uniformity(self) -> ResidualTest:
        """Kolmogorov-Smirnov test of ``scaled``: statistic and p_value."""
        return numbers.uniformity(self.scaled.to_numpy())

    @property
    def dispersion(self) -> ResidualTest:
        """Ratio of ``spread`` to its mean over the simulations, with its p_value among them."""
        return numbers.dispersion(self.spread, self.spreads)

    @property
    def outliers(self) -> ResidualTest:
        """Number of rows in ``outside``, with the p_value of an exact binomial test."""
        return numbers.outliers(self.outside.to_numpy(), self.spreads.size)

    @property
    def tests(self) -> pd.DataFrame:
        """The three tests: statistic and p_value in a row each."""
        rows = {name: getattr(self, name) for name in ("uniformity", "dispersion", "outliers")}
        return pd.DataFrame(rows, index=list(ResidualTest._fields)).T

    def to_frame(self, *, output: str | None = None) -> Any:
        """One row an observation: observed, fitted, scaled, outside.

        Parameters
        ----------
        output : {"pandas", "polars", "pyarrow"}, optional
            Kind of frame; that of the data if not given. Where a frame has no index, a column
            ``row`` has the labels of the rows.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
        >>> list(lmm.simulate_residuals(res, seed=1).to_frame().columns)
        ['observed', 'fitted', 'scaled', 'outside']
        """
        columns = {k: getattr(self, k) for k in ("observed", "fitted", "scaled", "outside")}
        return as_frame(pd.DataFrame(columns), output, self.output, labels="row")

    def _page(self) -> Summary:
        title = f"Scaled residuals of {len(self.scaled)} rows, {self.spreads.size} draws"
        return Summary(title=title, sheets=(table(self.tests, ""),), method=title)

    def __repr__(self) -> str:
        tests = ", ".join(f"{name} p = {p:.3g}" for name, p in self.tests["p_value"].items())
        return f"<SimulatedResiduals: {len(self.scaled)} rows, {self.spreads.size} draws; {tests}>"
