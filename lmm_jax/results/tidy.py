"""Tables of a fit: variance components, broom.mixed's tidy, glance and augment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from ..designs.design import Design
from ..designs.fixed_terms import term_columns
from ..errors import DataError
from ..inference.contrasts.contrasts import wald_test
from ..inference.df.wald import correlation
from ..inference.diagnostics.explained import named_shares, part_values
from ..inference.estimates import residual_variance_error
from ..inference.intervals import wald_intervals
from ..inference.record import FitRecord
from ..inference.residual_reference import residual_reference
from ..inference.variance import covariance_slices, sdcor_jacobian
from ..inputs.arguments import choice, items
from ..tables.cells import Kind
from ..tables.page import table
from .kept import Kept
from .summary import fitted_by, method_name, warnings_of


def variance_table(results: FitRecord) -> pd.DataFrame:
    """Variances and correlations, a row each, the residual last."""
    rows: list[tuple[Any, ...]] = []
    for label, S in zip(results.term_labels, results.estimates.covariances, strict=True):
        sd, between = np.sqrt(np.diagonal(S)), correlation(S)
        for i, name in enumerate(label.names):
            rows.append((label.group, name, None, S[i, i], sd[i]))
        for j, i in combinations(range(len(S)), 2):
            rows.append((label.group, label.names[j], label.names[i], S[i, j], between[i, j]))
    rows.append(("Residual", None, None, results.scale, results.sigma))
    frame = pd.DataFrame(rows, columns=["grp", "var1", "var2", "vcov", "sdcor"])
    kinds: dict[str, Kind] = dict.fromkeys(("grp", "var1", "var2"), "label")
    title = f"Variances and correlations, {method_name(results.reml)}"
    notes, advice = _reference_note(results)
    notes += warnings_of(results)
    method = fitted_by(results)
    return table(frame, title, notes, method=method, advice=advice, kinds=kinds)


def _reference_note(results: FitRecord) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the last row is where residuals have several variances, and what has the others."""
    where = residual_reference(results)
    if where is None:
        first = f"Residual: of the first level of {results.residual}"
        return (first,), ("residual_params has all levels",)
    return ((f"Residual: {where}",) if where else ()), ()


# Kinds of rows of a tidy table, as in broom.mixed.
EFFECTS = ("fixed", "ran_pars", "ran_vals", "ran_coefs")
_LABELS = ("effect", "group", "level", "term")
_NUMBERS = ("estimate", "std_error", "statistic", "df", "p_value", "conf_low", "conf_high")


def tidy(
    results: FitRecord,
    effects: Any,
    conf_int: bool,
    level: float,
    of_levels: Mapping[str, Callable[[float], pd.DataFrame]],
) -> pd.DataFrame:
    """One row a parameter or effect, with broom.mixed's columns.

    ``of_levels`` makes the rows of "ran_vals" and "ran_coefs", with their factor, term and level.
    """
    wanted = [effects] if isinstance(effects, str) else items(effects, "effects")
    wanted = list(dict.fromkeys(choice(kind, "effects", EFFECTS) for kind in wanted))
    makers: dict[str, Callable[[], pd.DataFrame]] = {
        "fixed": lambda: _fixed_rows(results, level),
        "ran_pars": lambda: _parameter_rows(results, level),
    }
    parts = []
    for kind in wanted:
        own = makers[kind]() if kind in makers else of_levels[kind](level)
        own = own.rename(columns={"factor": "group"}).assign(effect=kind)
        own = own if "level" in own else own.assign(level=None)
        own = own.reindex(columns=[*_LABELS, *_NUMBERS])
        parts.append(own.astype(dict.fromkeys(_LABELS, object) | dict.fromkeys(_NUMBERS, float)))
    if not parts:
        raise DataError(f"effects=[]: choose from {', '.join(EFFECTS)}")
    out = pd.concat(parts, ignore_index=True)
    gone = [] if conf_int else ["conf_low", "conf_high"]
    gone += [] if set(wanted) & set(of_levels) else ["level"]
    return out.drop(columns=gone)


def _fixed_rows(results: FitRecord, level: float) -> pd.DataFrame:
    interval = wald_intervals(results, level, None, None).iloc[: len(results.fixed_names)]
    return pd.DataFrame(
        {
            "group": None,
            "term": list(results.fixed_names),
            "estimate": results.fe_params.to_numpy(),
            "std_error": results.bse_fe.to_numpy(),
            "statistic": results.tvalues.to_numpy(),
            "df": results.df.to_numpy(),
            "p_value": results.pvalues.to_numpy(),
            "conf_low": interval["lower"].to_numpy(),
            "conf_high": interval["upper"].to_numpy(),
        }
    )


def _parameter_rows(results: FitRecord, level: float) -> pd.DataFrame:
    """Limits are Wald's on the scales of logarithm and atanh, as those of ``conf_int()``."""
    rows = [row for t in range(len(results.term_labels)) for row in _sdcor_rows(results, t)]
    last = residual_variance_error(results.estimates)
    rows.append(("Residual", "sd__Observation", results.sigma, 0.5 * last / results.sigma))
    own = zip(results.residual_params.items(), results.residual_params_se, strict=True)
    rows += [("Residual", str(name), value, se) for (name, value), se in own]
    limits = wald_intervals(results, level, "sdcor", "theta").to_numpy()
    if len(results.residual_params):
        more = results.residual_intervals(level)[["lower", "upper"]].to_numpy()
        limits = np.concatenate([limits, more])
    out = pd.DataFrame(rows, columns=["group", "term", "estimate", "std_error"])
    return out.assign(conf_low=limits[:, 0], conf_high=limits[:, 1])


def _sdcor_rows(results: FitRecord, t: int) -> list[tuple[str, str, float, float]]:
    """Standard deviations and correlations of one term with their standard errors."""
    e, label = results.estimates, results.term_labels[t]
    S = e.covariances[t]
    own = covariance_slices(e.covariances)[t]
    with np.errstate(invalid="ignore"):
        J = sdcor_jacobian(S) * e.variance_unit[own]
        cov = J @ e.cov_variance[own, own] @ J.T
        se = np.sqrt(np.diagonal(cov))
        sd, between = np.sqrt(np.diagonal(S)), correlation(S)
    out = []
    for at, (i, j) in enumerate(zip(*np.tril_indices(len(S)), strict=True)):
        name, other = label.names[i], label.names[j]
        if i == j:
            out.append((label.group, f"sd__{name}", float(sd[i]), float(se[at])))
        else:
            value = float(between[i, j])
            out.append((label.group, f"cor__{other}.{name}", value, float(se[at])))
    return out


def glance(results: FitRecord) -> pd.DataFrame:
    """One row of fit statistics, with broom.mixed's columns, R2 and ICC."""
    criterion = "reml_crit" if results.reml else "deviance"
    frame = pd.DataFrame(
        {
            "nobs": [results.nobs],
            "sigma": [results.sigma],
            "loglik": [results.llf],
            "aic": [results.aic],
            "bic": [results.bic],
            criterion: [results.estimates.deviance],
            "df": [results.n_params],
            "df_residual": [results.nobs - results.n_params],
            "converged": [results.converged],
            "singular": [results.singular],
            **{name: [value] for name, value in _shares(results).items()},
        }
    )
    title, method = f"Fit by {method_name(results.reml)}", fitted_by(results)
    return table(frame, title, warnings_of(results), method=method)


def _shares(results: FitRecord) -> dict[str, float]:
    """R2 and the adjusted ICC; NaN where the rows are not known, or sigma is."""
    names, moments = ("r2_marginal", "r2_conditional", "icc"), getattr(results, "_moments", None)
    if moments is None or results.sigma_known:
        return dict.fromkeys(names, float("nan"))
    parts = part_values(results, moments)
    shares = named_shares(len(parts))
    inside, outside = ([parts[shares[name][side]].sum() for name in names] for side in (0, 1))
    found = {n: float(a / (a + b)) for n, a, b in zip(names, inside, outside, strict=True)}
    return found if len(parts) > 2 else {**found, "icc": float("nan")}  # no random effects


def term_tests(results: FitRecord, design: Design | Kept, skip_single: bool) -> pd.DataFrame:
    """Wald test of every term of the formula: all of its coefficients are zero."""
    p = len(results.fixed_names)
    chosen = {
        name: columns
        for name, columns in term_columns(design).items()
        if not (skip_single and len(columns) == 1)
    }
    tests = [wald_test(results, np.eye(p)[columns], None) for columns in chosen.values()]
    frame = pd.DataFrame(
        {
            "statistic": [float(test.statistic) for test in tests],
            "df_num": [test.df_num for test in tests],
            "df_denom": [float(test.df_denom) for test in tests],
            "p_value": [float(test.pvalue) for test in tests],
        },
        index=list(chosen),
    )
    notes = (f"Degrees of freedom: {results.df_method}",)
    title = "Wald tests of the terms: all coefficients are zero"
    return table(frame, title, notes, kinds={"statistic": "statistic"})
