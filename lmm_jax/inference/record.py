"""What is known of a fit: its parameters, their names and their uncertainty, as numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from ..designs.design import Design
from ..designs.labels import TermLabel, parameter_names
from ..designs.residual import ResidualLabel, VisitCounts
from ..errors import DataError
from ..inputs.arguments import hinted
from ..inputs.names import unique
from ..numerics.read_only import read_only
from .df.methods import METHODS, DfMethod, bound, read_df_method
from .df.robust import RobustWith, robust_of
from .estimates import Estimates
from .monte_carlo import Approximation
from .residuals.figures import ResidualFigures, labels_of
from .tails.student import student_tail
from .variance import touches_zero


@hinted
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FitRecord(ResidualFigures):
    """Estimates of a linear mixed model with their uncertainty, labelled.

    Variances are variances of the data, never divided by ``scale``.
    """

    estimates: Estimates
    design: Design | None  # the model alone; None: restored without the rows
    fixed_names: tuple[str, ...]  # names of the fixed effects, in the order of X
    term_labels: tuple[TermLabel, ...]  # names of the random-effects terms
    endog_name: str  # name of the response
    formula: str | None  # as given; None: made from arrays
    nobs: int  # rows used
    reml: bool  # whether by the restricted likelihood
    df_method: str  # degrees of freedom of the tests: "satterthwaite", "kenward-roger", ...
    converged: bool  # whether the criterion is at a maximum, inside or on the boundary
    message: str  # what the optimizer said
    n_iter: int  # iterations of the optimizer
    runtime: str = "jax"  # of the fit: "numpy", or "jax" if anything was compiled for it
    free: np.ndarray | None = None  # which of params were free; None: all
    hist: pd.DataFrame | None = None  # iterations, with full_output=True
    penalized: bool = False  # whether fitted with fe_pen or cov_pen
    residual: ResidualLabel | None = None  # covariance of the residuals; None: one variance
    n_missing: int = 0  # rows left out for missing values
    gaps: tuple[tuple[str, int], ...] = ()  # variables with missing values, and how many
    output: str = "pandas"  # kind of frame that tables come in: that of the data
    visits: VisitCounts | None = None  # of the subjects of a residual covariance
    sigma_known: bool = False  # whether the residual variance was given, and not estimated
    approximation: Approximation | None = None  # Monte Carlo standard errors; None: an exact fit
    df_methods: dict[str, DfMethod] = field(default_factory=dict)  # those that were asked for
    _subject: ClassVar[str] = "fit"
    _made_by: ClassVar[str] = "Fitted by"  # as small print has it, before REML or ML

    def _is_kind(self, kind: str) -> bool:
        """Whether the fit is of a kind that some functions refuse (``capabilities.py``)."""
        p = self.estimates.beta.size
        if kind == "penalized":
            return self.penalized
        if kind == "ml":
            return not self.reml
        if kind == "residual":
            return self.residual is not None
        if kind == "sigma":
            return self.sigma_known
        if kind == "held covariances":
            return self.free is not None and not self.free[p:].all()
        if kind == "held effects" and self.free is not None and not self.free[:p].all():
            return True
        return self.design is not None and self.design._is_kind(kind)

    @property
    def _what_is_known(self) -> Any:
        """The design or what is left of it, with the terms and what was dropped; or None."""
        return self.design

    # ---- estimates

    @property
    def fe_params(self) -> pd.Series[float]:
        """Fixed effects."""
        return pd.Series(self.estimates.beta, index=labels_of(self.fixed_names), name="estimate")

    @property
    def endog_names(self) -> str:
        """``endog_name``, by the name under which packages of tables ask for it."""
        return self.endog_name

    @property
    def theta(self) -> np.ndarray:
        """lme4's theta: column-major lower triangles of the relative covariance factors.

        Of a term with a structure its own parameters: of ``cs(1 + x | g, hom=True)`` the roots of
        the two eigenvalues of its relative covariance, otherwise log standard deviations and
        transformed correlations; those of a residual covariance come last.
        """
        return read_only(self.estimates.theta.view())

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
        return _covariance_frame(self)

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
            np.concatenate([self.estimates.beta, *values]), index=labels_of(self._parameter_names)
        )

    @property
    def n_groups(self) -> pd.Series[int]:
        """Levels of every grouping factor."""
        levels = self._n_groups
        return pd.Series(list(levels.values()), index=labels_of(tuple(levels)))

    @property
    def _n_groups(self) -> dict[str, int]:
        return {label.factor: label.n_levels for label in self.term_labels}

    # ---- fit statistics

    @property
    def llf(self) -> float:
        """Log-likelihood, restricted if the fit was by REML."""
        return -0.5 * self.estimates.deviance

    @property
    def n_params(self) -> int:
        """Free parameters: fixed effects, theta and the residual variance if it is not known."""
        scale = int(not self.sigma_known)
        if self.free is None:
            return scale + self.estimates.beta.size + self.estimates.theta.size
        of_residuals = 0 if self.residual is None else self.residual.n_params
        return scale + int(self.free.sum()) + of_residuals  # these are never held

    @property
    def df_resid(self) -> int:
        """Rows less fixed effects."""
        return self.nobs - self.estimates.beta.size

    @property
    def aic(self) -> float:
        """``-2 llf + 2 n_params``, with the restricted likelihood under REML (as lme4)."""
        return self.estimates.deviance + 2 * self.n_params

    @property
    def aicc(self) -> float:
        """``aic + 2 k (k + 1) / (n - k - 1)``, k parameters and n rows; infinite without such.

        Hurvich & Tsai (1989), doi:10.1093/biomet/76.2.297.
        """
        k, rest = self.n_params, self.nobs - self.n_params - 1
        return self.aic + (2.0 * k * (k + 1) / rest if rest > 0 else float("inf"))

    @property
    def bic(self) -> float:
        """``-2 llf + log(nobs) n_params``, with the restricted likelihood under REML."""
        return self.estimates.deviance + float(np.log(self.nobs)) * self.n_params

    # ---- uncertainty

    @property
    def tests(self) -> DfMethod:
        """How fixed effects are tested: their covariance and degrees of freedom."""
        found = self.df_methods.get(self.df_method)
        if found is None:
            found = self.df_methods[self.df_method] = bound(self, self.df_method)
        return found

    def with_df(self, df_method: str | None) -> Self:
        """The fit with another method of degrees of freedom; None leaves it as it is.

        A robust covariance stays: its own degrees of freedom, ``"CR2"`` or "satterthwaite",
        "normal", "residual" and "between-within" (SAS's with ``empirical``). Kenward and Roger's
        method is one of the model's covariance and refused; that of the model is in the fit
        that :meth:`~lmm_jax.LMMResults.robust` was called on.
        """
        if df_method is None:
            return self
        known = isinstance(df_method, str) and df_method in self.df_methods
        name = df_method if known else read_df_method(df_method)
        methods, robust = self.df_methods, robust_of(self.tests)
        if robust is not None and name == "satterthwaite":
            name, methods = robust.kind, {**methods, robust.kind: robust}
        elif robust is not None and name.startswith("kenward-roger"):
            raise DataError(
                f"Kenward and Roger's method is one of the model's covariance, and this result has "
                f"a robust one, {robust.kind}: take the fit that robust() was called on"
            )
        elif robust is not None and name in METHODS:
            own = RobustWith(robust, bound(self, name))
            name = f"{robust.kind}, {name}"
            methods = {**methods, name: own}
        if name == self.df_method:
            return self
        return replace(self, df_method=name, df_methods=methods)

    @property
    def _parameter_names(self) -> tuple[str, ...]:
        return parameter_names(self.fixed_names, self.term_labels)

    @property
    def bse_fe(self) -> pd.Series[float]:
        """Standard errors of the fixed effects; Kenward-Roger's are adjusted."""
        return pd.Series(self._bse_fe, index=labels_of(self.fixed_names))

    @property
    def _bse_fe(self) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # of what is not identified there may be none
            return np.sqrt(self.scale * np.diagonal(self.tests.cov_beta))

    @property
    def bse_re(self) -> pd.Series[float]:
        """Standard errors of the variance parameters, from the observed information.

        NaN for a variance estimated at zero and for its covariances: the usual
        theory does not hold on the boundary. Zero for what was held fixed.
        """
        names = self._parameter_names[len(self.fixed_names) :]
        return pd.Series(self._bse_re, index=labels_of(names))

    @property
    def _bse_re(self) -> np.ndarray:
        e = self.estimates
        variance = np.diagonal(e.cov_variance)[:-1]
        at_zero = np.concatenate([np.zeros(0, bool), *(touches_zero(S) for S in e.covariances)])
        with np.errstate(invalid="ignore"):
            sd = np.sqrt(np.maximum(variance, 0.0)) * e.variance_unit[:-1]
        values = np.where(at_zero, np.nan, sd)
        if self.free is not None:
            values = np.where(self.free[e.beta.size :], values, 0.0)
        return values

    @property
    def bse(self) -> pd.Series[float]:
        """Standard errors of ``params``."""
        return pd.concat([self.bse_fe, self.bse_re])

    def cov_params(self) -> pd.DataFrame:
        """Covariance of ``params``; fixed effects and variances are uncorrelated in it.

        NaN in the rows and columns of what has no standard error (:attr:`bse_re`).
        """
        names = labels_of(self._parameter_names)
        unit, relative = relative_covariance(self.estimates, self.tests.cov_beta)
        with np.errstate(over="ignore"):  # covariances of variances may leave the range of floats
            out = (relative * unit * unit[:, None])[:-1, :-1]
        p = len(self.fixed_names)
        out[:p, :p] = self.scale * self.tests.cov_beta
        unknown = p + np.flatnonzero(np.isnan(self._bse_re))
        out[unknown] = out[:, unknown] = np.nan
        return pd.DataFrame(out, index=names, columns=names)

    @property
    def df(self) -> pd.Series[float]:
        """Degrees of freedom of the t statistics; infinite for ``df_method="normal"``."""
        return pd.Series(self._df, index=labels_of(self.fixed_names))

    @cached_property
    def _df(self) -> np.ndarray:
        L = np.eye(len(self.fixed_names))
        return read_only(self.tests.of_contrasts(L))

    @property
    def tvalues(self) -> pd.Series[float]:
        """Estimates of the fixed effects over their standard errors."""
        return pd.Series(self._statistics, index=labels_of(self.fixed_names))

    @property
    def _statistics(self) -> np.ndarray:
        errors = self._bse_fe
        known = np.where(errors != 0, errors, np.nan)  # what is held fixed has no statistic
        return self.estimates.beta / known

    @property
    def pvalues(self) -> pd.Series[float]:
        """Two-sided p values of the fixed effects."""
        return pd.Series(self._pvalues, index=labels_of(self.fixed_names))

    @property
    def _pvalues(self) -> np.ndarray:
        return student_tail(self._statistics, self._df, two_sided=True)


def _covariance_frame(results: FitRecord) -> pd.DataFrame:
    """Covariance of the correlated terms, block diagonal over terms."""
    blocks = [
        (label, S)
        for label, S in zip(results.term_labels, results.estimates.covariances, strict=True)
        if not label.is_component
    ]
    several = len({label.group for label, _ in blocks}) > 1
    names = unique(
        f"{name}|{label.group}" if several else name for label, _ in blocks for name in label.names
    )
    out = np.zeros((len(names), len(names)))
    start = 0
    for _, S in blocks:
        out[start : start + len(S), start : start + len(S)] = S
        start += len(S)
    return pd.DataFrame(out, index=list(names), columns=list(names))


def relative_covariance(
    estimates: Estimates, cov_beta: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A unit of every parameter and the covariance of all of them in these units.

    Parameters
    ----------
    estimates : Estimates
    cov_beta : ndarray, shape (p, p)
        Covariance of the fixed effects, relative to the residual variance.

    Returns
    -------
    unit : ndarray, shape (K + 1,)
        Of ``params``, and of the residual variance, which is none of them.
    relative : ndarray, shape (K + 1, K + 1)
    """
    e, p = estimates, estimates.beta.size
    with np.errstate(invalid="ignore"):
        sd = np.sqrt(np.diagonal(cov_beta))
    unit = np.concatenate([np.sqrt(e.scale) * sd, e.variance_unit])
    sd = np.where(sd > 0, sd, 1.0)
    relative = np.zeros((unit.size, unit.size))
    relative[:p, :p], relative[p:, p:] = cov_beta / np.outer(sd, sd), e.cov_variance
    return unit, relative
