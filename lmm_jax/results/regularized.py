"""What a fit with L1-penalized fixed effects says, one or a path of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import pandas as pd

from ..inference.estimates import Estimates
from ..inputs.arguments import hinted
from ..optimize.lasso import Descent
from ..reprs import public
from ..tables.page import Summary
from .effects import LevelCovariances
from .lmm import LMMResults
from .saving import Saved
from .summary import fitted_by


@public
@hinted
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RegularizedResults(LMMResults):
    """A linear mixed model with L1-penalized fixed effects.

    Covariances and residual variance are those of the unpenalized fit, ``llf`` is the
    log-likelihood at the solution without the penalty, and zeros do not count as parameters.
    Standard errors and z tests are those of the coefficients that are not zero, as if these
    alone were fitted: neither the shrinkage nor the selection is accounted for. NaN for the
    others, which count as the constant 0 in means, contrasts and predictions.

    Attributes
    ----------
    unpenalized : LMMResults
    alpha : ndarray, shape (p,)
        Weights of the penalty.
    kkt : float
        Largest relative violation of the optimality conditions.
    n_iter : int
        Sweeps.
    """

    unpenalized: LMMResults
    alpha: np.ndarray
    kkt: float
    _made_by: ClassVar[str] = "L1-penalized fixed effects, covariance by"

    @property
    def nonzero(self) -> pd.Series[bool]:
        """Which fixed effects are not zero."""
        return self.fe_params != 0

    @property
    def _bse_fe(self) -> np.ndarray:
        return np.where(self.nonzero, super()._bse_fe, np.nan)

    @property
    def objective(self) -> float:
        """What is minimized: ``-2 llf + sum_j alpha_j |beta_j|``."""
        return self.estimates.deviance + float(self.alpha @ np.abs(self.estimates.beta))

    def cov_params(self) -> pd.DataFrame:
        """Covariance of ``params``; NaN in the rows and columns of zero coefficients.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> sleep = lmm.load_dataset("sleepstudy")
        >>> model = "Reaction ~ Days + (Days | Subject)"
        >>> res = lmm.fit_regularized(model, sleep, alpha=[0.0, 2.0])
        >>> res.cov_params().shape
        (5, 5)
        """
        out = super().cov_params()
        zero = list(self.fe_params.index[~self.nonzero])
        out.loc[zero, :] = np.nan
        out.loc[:, zero] = np.nan
        return out

    @cached_property
    def random_effects_cov(self) -> Mapping[str, LevelCovariances]:
        """Conditional covariance of the random effects of every level: it knows no y."""
        return self.unpenalized.random_effects_cov

    def without_data(self) -> RegularizedResults:
        """See :meth:`LMMResults.without_data`."""
        return replace(self, design=None, kept=None, unpenalized=self.unpenalized.without_data())

    def summary(
        self,
        yname: str | None = None,
        xname_fe: Sequence[str] | None = None,
        xname_re: Sequence[str] | None = None,
        title: str | None = None,
        alpha: float = 0.05,
        df_method: str | None = None,
        *,
        level: float | None = None,
    ) -> Summary:
        """Tables of the fit; see :meth:`LMMResults.summary`."""
        if title is None:
            title = f"Linear mixed model, {fitted_by(self)}"
        return super().summary(yname, xname_fe, xname_re, title, alpha, df_method, level=level)

    def __repr__(self) -> str:
        n, p = int(self.nonzero.sum()), self.alpha.size
        return f"<RegularizedResults: {n} of {p} fixed effects, llf {self.llf:.4f}>"


def regularized(
    unpenalized: LMMResults, estimates: Estimates, alpha: np.ndarray, at: Descent, tol: float
) -> RegularizedResults:
    """The unpenalized fit with the coefficients ``estimates`` of a penalized problem."""
    n_cov = len(unpenalized.params) - estimates.beta.size
    message, solved = unpenalized.message, bool(at.kkt <= tol)
    if not solved:
        message = f"{at.n_iter} sweeps leave a relative violation {at.kkt:.2g} of optimality"
    own = {
        "estimates": estimates,
        "df_method": "normal",
        "df_methods": {},
        "converged": solved and unpenalized.converged,
        "message": message,
        "n_iter": at.n_iter,
        "free": np.concatenate([estimates.beta != 0, np.ones(n_cov, dtype=bool)]),
        "penalized": True,
    }
    same = {field.name: getattr(unpenalized, field.name) for field in fields(unpenalized)}
    return RegularizedResults(**same | own, unpenalized=unpenalized, alpha=alpha, kkt=at.kkt)


@public
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
