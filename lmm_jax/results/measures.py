"""Measures of a fit with their labels: R2, ICC, variance components, inflation, conditional AIC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..capabilities import require
from ..designs.column_moments import known
from ..designs.fixed_terms import term_columns
from ..errors import DataError
from ..inference.diagnostics.collinearity import inflation
from ..inference.diagnostics.explained import (
    Estimate,
    Moments,
    Parts,
    named_shares,
    parts_of,
    semi_partial,
    share,
)
from ..inference.diagnostics.information import conditional_information
from ..reprs import public
from ..tables.cells import Kind
from ..tables.page import Summary, table
from ..tables.shown import Shown
from .designed import DesignedModel
from .summary import fitted_by, method_name, warnings_of

_SEMI_PARTIAL = "Semi-partial: beyond the other terms; depends on contrasts where terms interact"


@public
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class R2Results(Shown):
    """Shares of the variance of y that a fit explains.

    Attributes
    ----------
    marginal, conditional : float
        By the fixed effects; by fixed and random effects.
    table : DataFrame, shape (2, 4)
        Rows marginal and conditional: estimate, std_error, conf_low, conf_high.
    per_term : DataFrame, shape (terms, 4)
        The same columns for the semi-partial R2 of every fixed term.
    level : float
        Coverage of the intervals.
    """

    marginal: float
    conditional: float
    table: pd.DataFrame
    per_term: pd.DataFrame
    level: float

    def _page(self) -> Summary:
        tables = [table(self.table, "Model")]
        tables += [table(self.per_term, "Semi-partial, by term")] if len(self.per_term) else []
        notes: tuple[str, ...] = (f"Limits of level {self.level:g}",)
        if len(self.per_term):
            notes += (_SEMI_PARTIAL,)
        return Summary(title="R2: explained variance", sheets=tuple(tables), notes=notes)


@public
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ICCResults(Shown):
    """Intraclass correlations.

    Attributes
    ----------
    adjusted, unadjusted : float
        Variance of the random effects over that of random effects and residual; over that of
        fixed effects as well.
    table : DataFrame, shape (2, 4)
        Rows adjusted and unadjusted: estimate, std_error, conf_low, conf_high.
    by_group : DataFrame, shape (factors, 5)
        The adjusted one of every grouping factor, of which it is the sum; and ``intercept``, the
        variance of the intercept alone over the same total.
    level : float
        Coverage of the intervals.
    """

    adjusted: float
    unadjusted: float
    table: pd.DataFrame
    by_group: pd.DataFrame
    level: float

    def _page(self) -> Summary:
        tables = (table(self.table, "Model"), table(self.by_group, "Adjusted, by factor"))
        notes = (f"Limits of level {self.level:g}",)
        return Summary(title="Intraclass correlation", sheets=tables, notes=notes)


@public
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ConditionalAIC(Shown):
    """The conditional AIC and what it is made of: ``caic = -2 llf + 2 (df + 1)``."""

    caic: float
    llf: float  # log-likelihood of y given the random effects, at the BLUPs
    df: float  # tr(d fitted / d y) = trace + correction
    trace: float  # of the hat matrix, covariances given
    correction: float  # for estimating the covariances

    def _page(self) -> Summary:
        values = {"caic": self.caic, "llf": self.llf, "df": self.df}
        values |= {"trace": self.trace, "correction": self.correction}
        return Summary(title="Conditional AIC", sheets=(table(pd.DataFrame([values]), ""),))

    def __float__(self) -> float:
        return self.caic


def _moments(fit: DesignedModel, what: str) -> Moments:
    return known(require(fit, what)._moments, what)


def _table(rows: Mapping[str, Estimate], name: str | None = None) -> pd.DataFrame:
    index = pd.Index(list(rows), name=name, dtype=object)
    return pd.DataFrame(list(rows.values()), index=index, columns=list(Estimate._fields))


def explained(fit: DesignedModel, level: float) -> R2Results:
    """Marginal and conditional R2, and the semi-partial one of every fixed term."""
    moments = _moments(fit, "r2")
    parts = parts_of(fit, moments)
    shares = named_shares(len(parts.values))
    rows = {
        name: share(parts, *shares[f"r2_{name}"], level) for name in ("marginal", "conditional")
    }
    terms = {
        name: semi_partial(fit, moments, parts, columns, level)
        for name, columns in _varying_terms(fit, moments.root).items()
    }
    return R2Results(
        marginal=rows["marginal"].estimate,
        conditional=rows["conditional"].estimate,
        table=_table(rows),
        per_term=_table(terms, "term"),
        level=level,
    )


def _varying_terms(fit: DesignedModel, root: np.ndarray | None) -> dict[str, list[int]]:
    """Columns of the fixed terms without the intercept."""
    columns = term_columns(fit._what_is_known)  # require has looked that there is something
    if root is None:  # of rows in batches, which have a formula
        return {name: at for name, at in columns.items() if name != "Intercept"}
    return {name: at for name, at in columns.items() if np.any(root[:, at])}


def correlations(fit: DesignedModel, level: float) -> ICCResults:
    """Adjusted and unadjusted ICC, and the adjusted one of every grouping factor."""
    parts = parts_of(fit, _moments(fit, "icc"))
    if not fit.term_labels:
        raise DataError(
            "an intraclass correlation is one of random effects, and this model has none: "
            "res.residual_params has the correlations of its residuals"
        )
    shares = named_shares(len(parts.values))
    rows = {
        "adjusted": share(parts, *shares["icc"], level),
        "unadjusted": share(parts, *shares["icc_unadjusted"], level),
    }
    random, noise = shares["icc"]
    factors: dict[str, list[int]] = {}
    for t, label in enumerate(fit.term_labels):
        factors.setdefault(label.factor, []).append(t + 1)
    of_factors = {
        name: share(parts, own, [t for t in [*random, *noise] if t not in own], level)
        for name, own in factors.items()
    }
    by_group = _table(of_factors, "factor")
    by_group["intercept"] = _intercepts(fit, factors, parts)
    return ICCResults(
        adjusted=rows["adjusted"].estimate,
        unadjusted=rows["unadjusted"].estimate,
        table=_table(rows),
        by_group=by_group,
        level=level,
    )


def _intercepts(
    fit: DesignedModel, factors: Mapping[str, Sequence[int]], parts: Parts
) -> list[float]:
    """Variance of every factor's intercept over that of random effects and residual."""
    out = []
    for own in factors.values():
        found = [
            S[label.names.index("Intercept"), label.names.index("Intercept")]
            for label, S in (
                (fit.term_labels[t - 1], fit.estimates.covariances[t - 1]) for t in own
            )
            if "Intercept" in label.names
        ]
        out.append(sum(found) / float(parts.total * parts.values[1:].sum()) if found else np.nan)
    return out


def components(fit: DesignedModel, level: float) -> pd.DataFrame:
    """Variances of the fixed part, every random term and the residual, and their shares."""
    parts = parts_of(fit, _moments(fit, "variance_components"))
    everything = range(len(parts.values))
    shares = [share(parts, [i], [j for j in everything if j != i], level) for i in everything]
    errors = np.where(parts.known, parts.total * np.sqrt(np.diagonal(parts.cov)), np.nan)
    labels = fit.term_labels
    found = pd.DataFrame(
        {
            "effect": ["fixed", *["random"] * len(labels), "residual"],
            "group": [None, *(label.group for label in labels), "Residual"],
            "term": [None, *(" + ".join(label.names) for label in labels), None],
            "variance": parts.total * parts.values,
            "std_error": errors,
            "share": [one.estimate for one in shares],
            "conf_low": [one.conf_low for one in shares],
            "conf_high": [one.conf_high for one in shares],
        }
    )
    title = f"Variance components, {method_name(fit.reml)}"
    notes = (f"Limits of the shares: level {level:g}", *warnings_of(fit))
    kinds: dict[str, Kind] = dict.fromkeys(("effect", "group", "term"), "label")
    kinds |= dict.fromkeys(("share", "conf_low", "conf_high"), "share")
    return table(found, title, notes, method=fitted_by(fit), kinds=kinds)


def inflation_table(fit: DesignedModel, level: float) -> pd.DataFrame:
    """Generalized variance inflation of the fixed terms."""
    require(fit, "vif")
    moments, cov = fit._moments, fit.estimates.cov_beta
    free = np.diagonal(cov) > 0  # others are held fixed
    columns = _varying_terms(fit, None if moments is None else moments.root)
    columns = {name: [j for j in at if free[j]] for name, at in columns.items()}
    columns = {name: at for name, at in columns.items() if at}
    found = inflation(cov, list(columns.values()), fit.nobs, level)
    sizes = np.array([len(at) for at in columns.values()], dtype=int)
    columns_of = {
        "df": sizes,
        "vif": found.vif,
        "conf_low": found.low,
        "conf_high": found.high,
        "se_factor": np.sqrt(found.vif),
        "scaled": found.vif ** (0.5 / sizes),
        "tolerance": 1.0 / found.vif,
        "tolerance_low": 1.0 / found.high,
        "tolerance_high": 1.0 / found.low,
    }
    index = pd.Index(list(columns), name="term", dtype=object)
    notes = (f"Limits of level {level:g}",)
    return table(pd.DataFrame(columns_of, index=index), "Variance inflation", notes)


def conditional_aic(fit: DesignedModel) -> ConditionalAIC:
    """The conditional AIC of Greven and Kneib."""
    found = conditional_information(require(fit, "caic"))
    df = found.trace + found.correction
    return ConditionalAIC(
        caic=-2.0 * found.llf + 2.0 * (df + 1.0),
        llf=found.llf,
        df=df,
        trace=found.trace,
        correction=found.correction,
    )
