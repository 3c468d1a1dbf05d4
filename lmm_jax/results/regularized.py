"""What a fit with L1-penalized fixed effects says, one or a path of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ..inference.estimates import Estimates
from .effects import LevelCovariances
from .lmm import LMMResults
from .saving import Saved
from .summary import Summary


@dataclass(frozen=True, kw_only=True, eq=False)
class RegularizedResults(Saved):
    """A linear mixed model with L1-penalized fixed effects.

    Covariances and residual variance are those of the unpenalized fit.
    """

    unpenalized: LMMResults
    estimates: Estimates  # the penalized coefficients in the place of the others
    alpha: np.ndarray  # (p,)  weights of the penalty
    kkt: float  # largest relative violation of the optimality conditions
    converged: bool
    n_iter: int  # sweeps

    @cached_property
    def _model(self) -> LMMResults:
        """The model at the penalized coefficients; zeros do not count as parameters."""
        n_cov = len(self.unpenalized.params) - self.estimates.beta.size
        return replace(
            self.unpenalized,
            estimates=self.estimates,
            df_method="normal",
            converged=self.converged and self.unpenalized.converged,
            free=np.concatenate([self.estimates.beta != 0, np.ones(n_cov, dtype=bool)]),
            hist=None,
            kept=None,  # it belongs to the unpenalized coefficients
        )

    def _state(self, *, keep_data: bool) -> dict[str, Any]:
        state = super()._state(keep_data=keep_data)
        if self.unpenalized.design is None:  # restored before
            return {**state, "_model": self._model}
        if keep_data:
            return state
        # the effects at the penalized coefficients; their covariances are those of the fit
        kept = replace(self._model._kept, covariances=self.unpenalized.random_effects_cov)
        return {**state, "_model": replace(self._model, design=None, kept=kept)}

    @property
    def fe_params(self) -> pd.Series[float]:
        """Fixed effects, exact zeros among them."""
        return self._model.fe_params

    @property
    def params(self) -> pd.Series[float]:
        """Fixed effects, then covariances of every term, as in an unpenalized fit."""
        return self._model.params

    @property
    def nonzero(self) -> pd.Series[bool]:
        """Which fixed effects are not zero."""
        return self.fe_params != 0

    @property
    def cov_re(self) -> pd.DataFrame:
        """Covariance of the correlated terms, from the unpenalized fit."""
        return self._model.cov_re

    @property
    def vcomp(self) -> pd.Series[float]:
        """Variances of the components, from the unpenalized fit."""
        return self._model.vcomp

    @property
    def scale(self) -> float:
        """Residual variance, from the unpenalized fit."""
        return self._model.scale

    @property
    def llf(self) -> float:
        """Log-likelihood at the solution, without the penalty."""
        return self._model.llf

    @property
    def objective(self) -> float:
        """What is minimized: ``-2 llf + sum_j alpha_j |beta_j|``."""
        return self.estimates.deviance + float(self.alpha @ np.abs(self.estimates.beta))

    @property
    def bse_fe(self) -> pd.Series[float]:
        """Standard errors of the coefficients that are not zero, as if these alone were fitted.

        NaN for the others. Neither the shrinkage nor the selection is accounted for.
        """
        return self._model.bse_fe

    def cov_params(self) -> pd.DataFrame:
        """Covariance of ``params``; NaN in the rows and columns of zero coefficients."""
        out = self._model.cov_params()
        zero = list(self.fe_params.index[~self.nonzero])
        out.loc[zero, :] = np.nan
        out.loc[:, zero] = np.nan
        return out

    @property
    def random_effects(self) -> dict[str, pd.DataFrame]:
        """Conditional means of the random effects at the penalized coefficients."""
        return self._model.random_effects

    @property
    def random_effects_cov(self) -> Mapping[str, LevelCovariances]:
        """Conditional covariance of the random effects of every level."""
        return self._model.random_effects_cov

    @property
    def fittedvalues(self) -> pd.Series[float]:
        """``X beta + Z b + offset`` with the BLUPs."""
        return self._model.fittedvalues

    @property
    def resid(self) -> pd.Series[float]:
        """``y`` less fitted values."""
        return self._model.resid

    def predict(self, newdata: Any = None, **options: Any) -> pd.Series[float]:
        """Predicted means; options as in :meth:`LMMResults.predict`."""
        return self._model.predict(newdata, **options)

    def summary(self, **options: Any) -> Summary:
        """Tables of the fit; options as in :meth:`LMMResults.summary`."""
        kind = "REML" if self._model.reml else "ML"
        title = f"Linear mixed model, L1-penalized fixed effects, covariance by {kind}"
        return self._model.summary(**{"title": title, **options})

    def __repr__(self) -> str:
        n, p = int(self.nonzero.sum()), self.alpha.size
        return f"<RegularizedResults: {n} of {p} fixed effects, llf {self.llf:.4f}>"


@dataclass(frozen=True, kw_only=True, eq=False)
class RegularizedPath(Saved):
    """Penalized fits along a sequence of penalties, in the order in which these were given."""

    results: tuple[RegularizedResults, ...]

    @property
    def alpha(self) -> np.ndarray:
        """Weights of the penalty, (K, p)."""
        return np.stack([result.alpha for result in self.results])

    @property
    def fe_params(self) -> pd.DataFrame:
        """Coefficients: a row a penalty, a column a fixed effect."""
        return pd.DataFrame([result.fe_params for result in self.results]).reset_index(drop=True)

    @property
    def llf(self) -> np.ndarray:
        """Log-likelihoods without the penalty, (K,)."""
        return np.array([result.llf for result in self.results])

    @property
    def converged(self) -> bool:
        """Whether all of them did."""
        return all(result.converged for result in self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __repr__(self) -> str:
        counts = [int(result.nonzero.sum()) for result in self.results]
        chosen = f"{min(counts)} to {max(counts)} of {self.alpha.shape[1]}" if counts else "no"
        return f"<RegularizedPath: {len(self)} penalties, {chosen} fixed effects>"

    def __getitem__(self, k: int) -> RegularizedResults:
        return self.results[k]

    def __iter__(self) -> Iterator[RegularizedResults]:
        return iter(self.results)
