"""What a fit says about its parameters; nothing here needs the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import special  # scipy.stats takes half a second to import

from ..designs.labels import TermLabel, parameter_names
from ..inference import contrasts
from ..inference.contrasts import ContrastResults
from ..inference.estimates import Estimates
from ..inference.satterthwaite import satterthwaite_df
from ..inference.variance import relative_covariance, touches_zero
from ..inputs.arguments import hinted, probability
from ..reprs import folded
from . import tidy as tables
from .summary import Summary, summarize


@lru_cache(maxsize=256)  # pandas takes longer to make an index of strings than a fit's arithmetic
def _labels(names: tuple[str, ...]) -> pd.Index[Any]:
    return pd.Index(list(names))


@hinted
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FittedModel:
    """Estimates of a linear mixed model with their uncertainty, labelled.

    Variances are variances of the data, never divided by ``scale``.
    """

    estimates: Estimates
    fixed_names: tuple[str, ...]
    term_labels: tuple[TermLabel, ...]
    endog_name: str
    formula: str | None
    nobs: int
    reml: bool
    df_method: str
    converged: bool
    message: str
    n_iter: int
    free: np.ndarray | None = None  # which of params were free; None: all
    hist: pd.DataFrame | None = None  # iterations, with full_output=True
    penalized: bool = False

    # ---- estimates

    @property
    def fe_params(self) -> pd.Series[float]:
        """Fixed effects."""
        return pd.Series(self.estimates.beta, index=_labels(self.fixed_names), name="estimate")

    @property
    def theta(self) -> np.ndarray:
        """lme4's theta: column-major lower triangles of the relative covariance factors.

        Of a term ``cs(x | g)`` the roots of the two eigenvalues of its relative covariance.
        """
        view = self.estimates.theta.view()
        view.flags.writeable = False
        return view

    @property
    def scale(self) -> float:
        """Residual variance."""
        return self.estimates.scale

    @property
    def sigma(self) -> float:
        """Residual standard deviation."""
        return float(np.sqrt(self.estimates.scale))

    @property
    def singular(self) -> bool:
        """Whether a covariance is on the boundary: a zero variance, a correlation of one."""
        return self.estimates.singular

    @property
    def cov_re(self) -> pd.DataFrame:
        """Covariance of the correlated terms, block diagonal over terms."""
        return tables.covariance_frame(self)

    @property
    def cov_re_unscaled(self) -> pd.DataFrame:
        """``cov_re`` divided by the residual variance."""
        return self.cov_re / self.scale

    @property
    def vcomp(self) -> pd.Series[float]:
        """Variances of the components, sorted by name."""
        pairs = zip(self.term_labels, self.estimates.covariances, strict=True)
        values = {label.group: S[0, 0] for label, S in pairs if label.is_component}
        return pd.Series(values, dtype=np.float64, name="variance")

    @property
    def params(self) -> pd.Series[float]:
        """Fixed effects, then covariances of every term (lower triangle row by row)."""
        values = [S[np.tril_indices(len(S))] for S in self.estimates.covariances]
        return pd.Series(
            np.concatenate([self.estimates.beta, *values]), index=_labels(self._parameter_names)
        )

    @property
    def varcorr(self) -> pd.DataFrame:
        """Variances and correlations: columns grp, var1, var2, vcov, sdcor.

        A row without ``var2`` is a variance and its standard deviation, one with
        it a covariance and its correlation; the residual comes last.
        """
        return tables.variance_table(self)

    @property
    def n_groups(self) -> pd.Series[int]:
        """Levels of every grouping factor."""
        return pd.Series({label.factor: label.n_levels for label in self.term_labels})

    # ---- fit statistics

    @property
    def llf(self) -> float:
        """Log-likelihood, restricted if the fit was by REML."""
        return -0.5 * self.estimates.deviance

    @property
    def n_params(self) -> int:
        """Free parameters: fixed effects, theta and the residual variance."""
        count = self.estimates.beta.size + self.estimates.theta.size
        return 1 + (count if self.free is None else int(self.free.sum()))

    @property
    def df_resid(self) -> int:
        """Rows less fixed effects."""
        return self.nobs - self.estimates.beta.size

    @property
    def aic(self) -> float:
        """``-2 llf + 2 n_params``, with the restricted likelihood under REML (as lme4)."""
        return self.estimates.deviance + 2 * self.n_params

    @property
    def bic(self) -> float:
        """``-2 llf + log(nobs) n_params``, with the restricted likelihood under REML."""
        return self.estimates.deviance + float(np.log(self.nobs)) * self.n_params

    # ---- uncertainty

    @property
    def _parameter_names(self) -> tuple[str, ...]:
        return parameter_names(self.fixed_names, self.term_labels)

    @property
    def bse_fe(self) -> pd.Series[float]:
        """Standard errors of the fixed effects."""
        variance = self.scale * np.diagonal(self.estimates.cov_beta)
        return pd.Series(np.sqrt(variance), index=_labels(self.fixed_names))

    @property
    def bse_re(self) -> pd.Series[float]:
        """Standard errors of the variance parameters, from the observed information.

        NaN for a variance estimated at zero and for its covariances: the usual
        theory does not hold on the boundary. Zero for what was held fixed.
        """
        e = self.estimates
        variance = np.diagonal(e.cov_variance)[:-1]
        at_zero = np.concatenate([touches_zero(S) for S in e.covariances])
        with np.errstate(invalid="ignore"):
            sd = np.sqrt(np.maximum(variance, 0.0)) * e.variance_unit[:-1]
        values = np.where(at_zero, np.nan, sd)
        if self.free is not None:
            values = np.where(self.free[e.beta.size :], values, 0.0)
        return pd.Series(values, index=_labels(self._parameter_names[len(self.fixed_names) :]))

    @property
    def bse(self) -> pd.Series[float]:
        """Standard errors of ``params``."""
        return pd.concat([self.bse_fe, self.bse_re])

    def cov_params(self) -> pd.DataFrame:
        """Covariance of ``params``; fixed effects and variances are uncorrelated in it."""
        names = _labels(self._parameter_names)
        unit, relative = relative_covariance(self.estimates)
        with np.errstate(over="ignore"):  # covariances of variances may leave the range of floats
            out = relative * unit * unit[:, None]
        p = len(self.fixed_names)
        out[:p, :p] = self.scale * self.estimates.cov_beta
        return pd.DataFrame(out, index=names, columns=names)

    @property
    def df(self) -> pd.Series[float]:
        """Degrees of freedom of the t statistics; infinite for ``df_method="normal"``."""
        return pd.Series(self._df, index=_labels(self.fixed_names))

    @cached_property
    def _df(self) -> np.ndarray:
        e, p = self.estimates, len(self.fixed_names)
        values = np.full(p, np.inf)
        if self.df_method != "normal":
            values = satterthwaite_df(np.eye(p), e.cov_beta, e.dcov_beta, e.joint_cov)
        values.flags.writeable = False
        return values

    @property
    def tvalues(self) -> pd.Series[float]:
        """Estimates of the fixed effects over their standard errors."""
        errors = self.bse_fe
        return self.fe_params / errors.where(errors != 0)  # what is held fixed has no statistic

    @property
    def pvalues(self) -> pd.Series[float]:
        """Two-sided p values of the fixed effects."""
        values = 2.0 * special.stdtr(self._df, -np.abs(self.tvalues.to_numpy()))
        return pd.Series(values, index=_labels(self.fixed_names))

    def conf_int(self, alpha: float = 0.05) -> pd.DataFrame:
        """Wald intervals of ``params``.

        Fixed effects use the t quantile of their degrees of freedom, variances
        the normal one.

        Parameters
        ----------
        alpha : float
            One less the coverage.
        """
        alpha = probability(alpha, "alpha")
        params, quantile = self.params, np.full(len(self.params), special.ndtri(1 - alpha / 2))
        quantile[: len(self._df)] = special.stdtrit(self._df, 1 - alpha / 2)
        errors = self.bse.to_numpy()
        half = np.where(errors == 0, 0.0, quantile * errors)  # what is held fixed is known
        return pd.DataFrame({"lower": params - half, "upper": params + half})

    # ---- tests

    def t_test(self, r_matrix: Any, *, use_t: bool | None = None) -> ContrastResults:
        """Test linear hypotheses one by one.

            t = (r' params - q) / sqrt(r' cov r)

        Parameters
        ----------
        r_matrix : array of shape (r, p), tuple or str
            One row a hypothesis, over the fixed effects or over all ``params``;
            ``(R, q)``; or equations such as ``"x1 = x2, x3 = 0"``.
        use_t : bool, optional
            t with Satterthwaite's degrees of freedom (residual ones for
            ``df_method="normal"``), or z. By default as the fit says; z where a
            hypothesis concerns variances.

        Returns
        -------
        ContrastResults

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
        >>> test = res.t_test("Days = 5")
        >>> print(f"t = {test.tvalue[0]:.3f}, df = {test.df_denom[0]:.2f}")
        t = 3.537, df = 17.00
        """
        return contrasts.t_test(self, r_matrix, use_t)

    def wald_test(self, r_matrix: Any, *, use_f: bool | None = None) -> ContrastResults:
        """Test linear hypotheses together: F, or chi-square for ``df_method="normal"``.

            F = (R b - q)' (R cov R')^-1 (R b - q) / rank

        with lmerTest's denominator degrees of freedom.

        Parameters
        ----------
        r_matrix : array of shape (r, p), tuple or str
            As in :meth:`t_test`.
        use_f : bool, optional
            F or chi-square.

        Returns
        -------
        ContrastResults

        References
        ----------
        Kuznetsova, Brockhoff & Christensen (2017), doi:10.18637/jss.v082.i13.

        Examples
        --------
        >>> import lmm_jax as lmm
        >>> res = lmm.fit("score ~ Machine + (1 | Worker)", lmm.load_dataset("machines"))
        >>> print(res.wald_test("Machine[T.B] = 0, Machine[T.C] = 0"))
        F(2, 46) = 87.7982, p = 1.975e-16
        """
        return contrasts.wald_test(self, r_matrix, use_f)

    def f_test(self, r_matrix: Any) -> ContrastResults:
        """F test of linear hypotheses together: :meth:`wald_test` with ``use_f=True``."""
        return contrasts.wald_test(self, r_matrix, True)

    # ---- tables

    def tidy(self, *, conf_level: float = 0.95) -> pd.DataFrame:
        """One row a parameter, with broom.mixed's columns.

        Fixed effects, then standard deviations (``sd__``) and correlations
        (``cor__``) of the random effects and of the residual.
        """
        return tables.tidy(self, conf_level)

    def glance(self) -> pd.DataFrame:
        """One row of fit statistics, with broom.mixed's columns."""
        return tables.glance(self)

    def summary(
        self,
        yname: str | None = None,
        xname_fe: Sequence[str] | None = None,
        xname_re: Sequence[str] | None = None,
        title: str | None = None,
        alpha: float = 0.05,
    ) -> Summary:
        """Tables of fit statistics, fixed and random effects: text, HTML and LaTeX.

        Parameters
        ----------
        yname : str, optional
            Name of the response, in the place of the formula's.
        xname_fe : sequence of str, length p, optional
            Names of the fixed effects.
        xname_re : sequence of str, optional
            Names of the random coefficients and components, one for each
            variance, in the order of the table.
        title : str, optional
        alpha : float
            One less the coverage of the intervals.
        """
        return summarize(
            self, yname=yname, xname_fe=xname_fe, xname_re=xname_re, title=title, alpha=alpha
        )

    def __repr__(self) -> str:
        kind = "REML" if self.reml else "ML"
        model = self.formula or f"{self.endog_name} (from arrays)"
        return folded(f"<{type(self).__name__} by {kind}: {model}, llf {self.llf:.4f}>")
