"""The fitted model: immutable, labelled, made of NumPy arrays and pandas labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from .design import Design
from .errors import DataError
from .estimates import Estimates
from .frames import as_pandas
from .inference.satterthwaite import satterthwaite_df
from .inference.variance import sdcor_jacobian
from .predict import (
    GroupEffects,
    group_effects,
    level_covariances,
    level_effects,
    predict_new,
    random_part,
    residuals,
)
from .summary import Summary, summarize


@dataclass(frozen=True, kw_only=True, eq=False)
class LMMResults:
    """A fitted linear mixed model.

    Variances are variances of the data, never divided by ``scale``. Everything
    that costs more than the parameters is computed when it is first asked for.
    A pickled result keeps its parameters but not the data, so fitted values,
    random effects and conditional predictions are not available from a copy.
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
    design: Design | None

    def __getstate__(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**fields, "design": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    # ---- estimates

    @property
    def fe_params(self) -> pd.Series[float]:
        """Fixed effects."""
        return pd.Series(self.estimates.beta, index=list(self.fixed_names), name="estimate")

    @property
    def theta(self) -> np.ndarray:
        """lme4's theta: column-major lower triangles of the relative covariance factors."""
        return _read_only(self.estimates.theta)

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
        blocks = [
            (label, S)
            for label, S in zip(self.term_labels, self.estimates.covariances, strict=True)
            if not label.is_component
        ]
        several = len({label.group for label, _ in blocks}) > 1
        names = [
            f"{name}|{label.group}" if several else name
            for label, _ in blocks
            for name in label.names
        ]
        out = np.zeros((len(names), len(names)))
        start = 0
        for _, S in blocks:
            out[start : start + len(S), start : start + len(S)] = S
            start += len(S)
        return pd.DataFrame(out, index=names, columns=names)

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
        names = [*self.fixed_names, *self._variance_names]
        return pd.Series(np.concatenate([self.estimates.beta, *values]), index=names)

    @property
    def varcorr(self) -> pd.DataFrame:
        """Variances and correlations: columns grp, var1, var2, vcov, sdcor.

        A row without ``var2`` is a variance and its standard deviation, one with
        it a covariance and its correlation; the residual comes last.
        """
        rows: list[tuple[Any, ...]] = []
        for label, S in zip(self.term_labels, self.estimates.covariances, strict=True):
            sd = np.sqrt(np.diagonal(S))
            for i, name in enumerate(label.names):
                rows.append((label.group, name, None, S[i, i], sd[i]))
            for j, i in combinations(range(len(S)), 2):
                with np.errstate(invalid="ignore"):
                    correlation = np.divide(S[i, j], sd[i] * sd[j])
                rows.append((label.group, label.names[j], label.names[i], S[i, j], correlation))
        rows.append(("Residual", None, None, self.scale, self.sigma))
        return pd.DataFrame(rows, columns=["grp", "var1", "var2", "vcov", "sdcor"])

    @property
    def n_groups(self) -> pd.Series[int]:
        """Levels of every grouping factor."""
        return pd.Series({label.group: label.n_levels for label in self.term_labels})

    # ---- fit statistics

    @property
    def llf(self) -> float:
        """Log-likelihood, restricted if the fit was by REML."""
        return -0.5 * self.estimates.deviance

    @property
    def n_params(self) -> int:
        """Free parameters: fixed effects, theta and the residual variance."""
        return self.estimates.beta.size + self.estimates.theta.size + 1

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
    def _variance_names(self) -> list[str]:
        return [name for label in self.term_labels for name in label.parameter_names()]

    @cached_property
    def bse_fe(self) -> pd.Series[float]:
        """Standard errors of the fixed effects."""
        variance = self.scale * np.diagonal(self.estimates.cov_beta)
        return pd.Series(np.sqrt(variance), index=list(self.fixed_names))

    @cached_property
    def bse_re(self) -> pd.Series[float]:
        """Standard errors of the variance parameters, from the observed information.

        NaN for a variance estimated at zero and for its covariances: the usual
        theory does not hold on the boundary.
        """
        variance = np.diagonal(self.estimates.cov_variance)[:-1]
        at_zero = np.concatenate([_touches_zero(S) for S in self.estimates.covariances])
        with np.errstate(invalid="ignore"):
            values = np.where(at_zero, np.nan, np.sqrt(np.maximum(variance, 0.0)))
        return pd.Series(values, index=self._variance_names)

    @property
    def bse(self) -> pd.Series[float]:
        """Standard errors of ``params``."""
        return pd.concat([self.bse_fe, self.bse_re])

    def cov_params(self) -> pd.DataFrame:
        """Covariance of ``params``; fixed effects and variances are uncorrelated in it."""
        p = len(self.fixed_names)
        names = [*self.fixed_names, *self._variance_names]
        out = np.zeros((len(names), len(names)))
        out[:p, :p] = self.scale * self.estimates.cov_beta
        out[p:, p:] = self.estimates.cov_variance[:-1, :-1]
        return pd.DataFrame(out, index=names, columns=names)

    @cached_property
    def df(self) -> pd.Series[float]:
        """Degrees of freedom of the t statistics; infinite for ``df_method="normal"``."""
        p = len(self.fixed_names)
        if self.df_method == "normal":
            values = np.full(p, np.inf)
        else:
            e = self.estimates
            values = satterthwaite_df(np.eye(p), e.cov_beta, e.dcov_beta, e.joint_cov, e.scale)
        return pd.Series(values, index=list(self.fixed_names))

    @property
    def tvalues(self) -> pd.Series[float]:
        """Estimates of the fixed effects over their standard errors."""
        return self.fe_params / self.bse_fe

    @property
    def pvalues(self) -> pd.Series[float]:
        """Two-sided p values of the fixed effects."""
        values = 2.0 * stats.t.sf(np.abs(self.tvalues), self.df)
        return pd.Series(values, index=list(self.fixed_names))

    def conf_int(self, alpha: float = 0.05) -> pd.DataFrame:
        """Wald intervals of ``params``.

        Fixed effects use the t quantile of their degrees of freedom, variances
        the normal one.

        Parameters
        ----------
        alpha : float
            One less the coverage.
        """
        if not 0 < alpha < 1:
            raise DataError(f"alpha={alpha!r}: a number between 0 and 1 is needed")
        quantile = np.concatenate(
            [
                stats.t.ppf(1 - alpha / 2, self.df.to_numpy()),
                np.full(len(self._variance_names), stats.norm.ppf(1 - alpha / 2)),
            ]
        )
        half = quantile * self.bse.to_numpy()
        params = self.params
        return pd.DataFrame({"lower": params - half, "upper": params + half})

    # ---- random effects and predictions

    def _need_design(self) -> Design:
        if self.design is None:
            raise DataError("this result was restored without its data: fit the model again")
        return self.design

    @cached_property
    def _effects(self) -> GroupEffects:
        return group_effects(self.estimates, self._need_design())

    @cached_property
    def _level_effects(self) -> list[np.ndarray]:
        design = self._need_design()
        return [level_effects(self._effects, design, t) for t in range(len(design.terms))]

    def _terms_of_factors(self) -> dict[str, list[int]]:
        out: dict[str, list[int]] = {}
        for t, term in enumerate(self._need_design().terms):
            out.setdefault(term.group, []).append(t)
        return out

    @cached_property
    def random_effects(self) -> dict[str, pd.DataFrame]:
        """Conditional means of the random effects (BLUPs) given y.

        One frame per grouping factor or component: levels in the rows,
        coefficients in the columns.
        """
        terms = self._need_design().terms
        out = {}
        for group, members in self._terms_of_factors().items():
            values = np.concatenate([self._level_effects[t] for t in members], axis=1)
            columns = [name for t in members for name in terms[t].names]
            out[group] = pd.DataFrame(values, index=terms[members[0]].levels, columns=columns)
        return out

    @cached_property
    def random_effects_cov(self) -> Mapping[str, dict[Any, pd.DataFrame]]:
        """Conditional covariance of the random effects of every level, at known parameters."""
        design = self._need_design()
        out = {}
        for group, members in self._terms_of_factors().items():
            cov = level_covariances(self._effects, design, members, self.scale)
            names = [name for t in members for name in design.terms[t].names]
            levels = design.terms[members[0]].levels
            out[group] = {
                level: pd.DataFrame(S, index=names, columns=names)
                for level, S in zip(levels, cov, strict=True)
            }
        return out

    @cached_property
    def resid(self) -> pd.Series[float]:
        """``y`` less fitted values."""
        design = self._need_design()
        zb = random_part(design.terms, self._level_effects)
        return pd.Series(residuals(design, self.estimates, zb), index=design.index, name="resid")

    @cached_property
    def fittedvalues(self) -> pd.Series[float]:
        """``X beta + Z b + offset`` with the BLUPs."""
        design = self._need_design()
        zb = random_part(design.terms, self._level_effects)
        return pd.Series(self._population() + zb, index=design.index, name="fitted")

    def _population(self) -> np.ndarray:
        design = self._need_design()
        fixed = design.exog @ self.estimates.beta
        return fixed if design.offset is None else fixed + design.offset

    def predict(
        self,
        newdata: Any = None,
        *,
        conditional: bool = False,
        groups: Any = None,
        offset: Any = None,
        new_levels: str = "error",
    ) -> pd.Series[float]:
        """Predicted means.

        Parameters
        ----------
        newdata : DataFrame or mapping, optional
            New rows; the rows of the fit if not given.
        conditional : bool
            Add the random effects of each row's levels (lme4's default), or
            leave them out (statsmodels').
        groups : array, optional
            Group of each new row, where the model was fitted to an array of groups.
        offset : array, optional
            Offset of each new row, where the model was fitted to an array of offsets.
        new_levels : {"error", "population", "nan"}
            A level that the fit has not seen: refuse, leave its random effect
            out, or predict NaN.

        Returns
        -------
        pandas.Series
            On the index of ``newdata``; NaN in rows with missing values.
        """
        design = self._need_design()
        if newdata is None:
            if conditional:
                return self.fittedvalues
            return pd.Series(self._population(), index=design.index, name="predicted")
        frame = as_pandas(newdata, design.expressions(conditional))
        values = predict_new(
            design,
            self.estimates,
            frame,
            self._level_effects if conditional else None,
            groups=groups,
            offset=offset,
            new_levels=new_levels,
        )
        return pd.Series(values, index=frame.index, name="predicted")

    # ---- tables

    def tidy(self, *, conf_level: float = 0.95) -> pd.DataFrame:
        """One row a parameter, with broom.mixed's columns.

        Fixed effects, then standard deviations (``sd__``) and correlations
        (``cor__``) of the random effects and of the residual.
        """
        interval = self.conf_int(1 - conf_level).iloc[: len(self.fixed_names)]
        fixed = pd.DataFrame(
            {
                "effect": "fixed",
                "group": None,
                "term": list(self.fixed_names),
                "estimate": self.fe_params.to_numpy(),
                "std_error": self.bse_fe.to_numpy(),
                "statistic": self.tvalues.to_numpy(),
                "df": self.df.to_numpy(),
                "p_value": self.pvalues.to_numpy(),
                "conf_low": interval["lower"].to_numpy(),
                "conf_high": interval["upper"].to_numpy(),
            }
        )
        rows = [row for t in range(len(self.term_labels)) for row in self._sdcor_rows(t)]
        last = self.estimates.cov_variance[-1, -1]
        rows.append(("Residual", "sd__Observation", self.sigma, 0.5 * np.sqrt(last) / self.sigma))
        random = pd.DataFrame(rows, columns=["group", "term", "estimate", "std_error"])
        random.insert(0, "effect", "ran_pars")
        for column in ("statistic", "df", "p_value", "conf_low", "conf_high"):
            random[column] = np.nan
        return pd.concat([fixed.astype({"group": object}), random], ignore_index=True)

    def _sdcor_rows(self, t: int) -> list[tuple[str, str, float, float]]:
        """Standard deviations and correlations of one term with their standard errors."""
        label, S = self.term_labels[t], self.estimates.covariances[t]
        start = sum(len(T) * (len(T) + 1) // 2 for T in self.estimates.covariances[:t])
        stop = start + len(S) * (len(S) + 1) // 2
        J = sdcor_jacobian(S)
        with np.errstate(invalid="ignore"):
            cov = J @ self.estimates.cov_variance[start:stop, start:stop] @ J.T
            se = np.sqrt(np.diagonal(cov))
            sd = np.sqrt(np.diagonal(S))
            correlation = S / np.outer(sd, sd)
        out = []
        for at, (i, j) in enumerate(zip(*np.tril_indices(len(S)), strict=True)):
            name, other = label.names[i], label.names[j]
            if i == j:
                out.append((label.group, f"sd__{name}", float(sd[i]), float(se[at])))
            else:
                value = float(correlation[i, j])
                out.append((label.group, f"cor__{other}.{name}", value, float(se[at])))
        return out

    def glance(self) -> pd.DataFrame:
        """One row of fit statistics, with broom.mixed's columns."""
        criterion = "reml_crit" if self.reml else "deviance"
        return pd.DataFrame(
            {
                "nobs": [self.nobs],
                "sigma": [self.sigma],
                "loglik": [self.llf],
                "aic": [self.aic],
                "bic": [self.bic],
                criterion: [self.estimates.deviance],
                "df_residual": [self.nobs - self.n_params],
                "converged": [self.converged],
                "singular": [self.singular],
            }
        )

    def augment(self) -> pd.DataFrame:
        """Response, fitted values, residuals and the fixed part of every row used."""
        design = self._need_design()
        return pd.DataFrame(
            {
                design.endog_name: design.endog,
                "fitted": self.fittedvalues,
                "resid": self.resid,
                "fixed": self._population(),
            },
            index=design.index,
        )

    def summary(self, *, title: str | None = None, alpha: float = 0.05) -> Summary:
        """Tables of fit statistics, fixed effects and random effects (text and HTML)."""
        return summarize(self, title=title, alpha=alpha)

    def __repr__(self) -> str:
        kind = "REML" if self.reml else "ML"
        return f"<LMMResults by {kind}: {self.formula or self.endog_name}, llf {self.llf:.4f}>"

    def without_data(self) -> LMMResults:
        """The same result without a reference to its data."""
        return replace(self, design=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class TermLabel:
    """Names of one random-effects term."""

    group: str
    names: tuple[str, ...]
    n_levels: int
    is_component: bool

    def parameter_names(self) -> list[str]:
        """Names of its covariance parameters, lower triangle row by row."""
        if self.is_component:
            return [f"var({self.group})"]
        out = []
        for i, j in zip(*np.tril_indices(len(self.names)), strict=True):
            if i == j:
                out.append(f"var({self.names[i]}|{self.group})")
            else:
                out.append(f"cov({self.names[j]},{self.names[i]}|{self.group})")
        return out


def _touches_zero(S: np.ndarray) -> np.ndarray:
    """Entries of the lower triangle whose row or column has a zero variance."""
    zero = np.diagonal(S) == 0
    rows, columns = np.tril_indices(len(S))
    return zero[rows] | zero[columns]


def _read_only(values: np.ndarray) -> np.ndarray:
    view = values.view()
    view.flags.writeable = False
    return view
