"""Functions of the parameters in every replicate of a bootstrap: errors and intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import special

from ..inputs.arguments import choice, coverage, hinted
from ..reprs import brief
from ..tables.frames import as_frame
from ..tables.page import Summary, table
from ..tables.shown import Shown

Kind = Literal["percentile", "basic", "normal"]
KINDS = ("percentile", "basic", "normal")


@hinted
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BootstrapStatistics(Shown):
    """Some functions of the parameters: at the estimate, and in every replicate."""

    names: tuple[str, ...]
    estimate: np.ndarray  # (s,)
    values: np.ndarray  # (R, s)  replicates that converged; NaN where a function has no value
    output: str = "pandas"  # kind of frame that tables come in: that of the data

    __repr__ = brief  # a page has a row for each of many functions

    def _page(self) -> Summary:
        title = f"Functions of the parameters, {len(self.values)} replicates"
        notes = ("95 % intervals: percentile",)
        tables = (table(self.tidy(output="pandas"), ""),)
        how = f"Parametric bootstrap, {len(self.values)} replicates"
        return Summary(title=title, sheets=tables, notes=notes, method=how)

    def conf_int(
        self, *, kind: Kind = "percentile", alpha: float = 0.05, level: float | None = None
    ) -> pd.DataFrame:
        """Intervals, a row a function, with columns lower and upper.

        Parameters
        ----------
        kind : {"percentile", "basic", "normal"}
            Quantiles q of the replicates; ``2 estimate - q``; or
            ``estimate - bias -+ z std_error``.
        alpha : float
            One less the coverage.
        level : float, optional
            The coverage, in the place of ``alpha``.

        References
        ----------
        Davison & Hinkley (1997), Bootstrap Methods and their Application, chapter 5.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
        >>> boot = lmm.bootstrap(res, n_boot=200, seed=1)
        >>> share = boot.apply(lambda r: {"share": r.scale / (r.scale + r.covariances[0][0, 0])})
        >>> share.conf_int().shape
        (1, 2)
        """
        choice(kind, "kind", KINDS)
        alpha = 1.0 - coverage(level, alpha=alpha)
        if kind == "normal":
            center = self.estimate - self.bias
            half = special.ndtri(1 - alpha / 2) * self.std_error
            lower, upper = center - half, center + half
        else:
            lower, upper = self._quantiles(alpha / 2), self._quantiles(1 - alpha / 2)
            if kind == "basic":
                lower, upper = 2 * self.estimate - upper, 2 * self.estimate - lower
        return pd.DataFrame({"lower": lower, "upper": upper}, index=list(self.names))

    @property
    def bias(self) -> np.ndarray:
        """Mean of the replicates less the estimate, (s,)."""
        return self._columns(lambda v: v[0] + np.mean(v - v[0])) - self.estimate

    @property
    def std_error(self) -> np.ndarray:
        """Standard deviation of the replicates, (s,)."""
        return self._columns(lambda v: np.std(v - v[0], ddof=1) if v.size > 1 else np.nan)

    def _quantiles(self, level: float) -> np.ndarray:
        # order statistic (R + 1) level, as boot.ci takes it
        return self._columns(lambda v: np.quantile(v, level, method="weibull"))

    def _columns(self, fun: Callable[[np.ndarray], Any]) -> np.ndarray:
        """A function of the finite values of every column.

        Means of values less their first are exact where all of them are one, a sigma that is known.
        """
        finite = (column[np.isfinite(column)] for column in self.values.T)
        return np.array([fun(v) if v.size else np.nan for v in finite], dtype=float)

    def tidy(
        self,
        *,
        kind: Kind = "percentile",
        conf_level: float = 0.95,
        level: float | None = None,
        output: str | None = None,
    ) -> Any:
        """One row a function: estimate, bias, std_error, conf_low, conf_high.

        Parameters
        ----------
        kind : {"percentile", "basic", "normal"}
        conf_level, level : float
            The coverage, by either of both words.
        output : {"pandas", "polars", "pyarrow"}, optional
            Kind of frame; that of the data if not given.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
        >>> boot = lmm.bootstrap(res, n_boot=200, seed=1)
        >>> share = boot.apply(lambda r: {"share": r.scale / (r.scale + r.covariances[0][0, 0])})
        >>> share.tidy()["term"].tolist()
        ['share']
        """
        level = coverage(level, conf_level=conf_level)
        interval = self.conf_int(kind=kind, level=level)
        made = pd.DataFrame(
            {
                "term": list(self.names),
                "estimate": self.estimate,
                "bias": self.bias,
                "std_error": self.std_error,
                "conf_low": interval["lower"].to_numpy(),
                "conf_high": interval["upper"].to_numpy(),
            }
        )
        return as_frame(made, output, self.output)
