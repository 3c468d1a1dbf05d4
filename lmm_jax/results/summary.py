"""The summary of a fit: its facts, random effects, residual covariance and fixed effects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..designs.fixed_source import named
from ..inference.df.robust import robust_note
from ..inference.estimates import residual_variance_error
from ..inference.intervals import fixed_limits
from ..inference.monte_carlo import Approximation
from ..inference.record import FitRecord
from ..inference.residual_reference import residual_reference
from ..inference.variance import covariance_slices
from ..inputs.arguments import instance
from ..inputs.arguments import names as read_names
from ..tables.cells import Kind
from ..tables.page import Sheet, Summary

# What stands above the columns of a summary; statistics are named by their distribution.
_HEADINGS = {
    **{"group": "Group", "term": "Term", "variance": "Variance", "std_dev": "Std. dev."},
    **{"estimate": "Estimate", "std_error": "Std. error"},
}


def summarize(
    results: FitRecord,
    *,
    yname: str | None,
    xname_fe: Sequence[str] | None,
    xname_re: Sequence[str] | None,
    title: str | None,
    level: float,
) -> Summary:
    """Tables of a fit, with names of the caller's choice."""
    if title is None:
        title = f"Linear mixed model fitted by {criterion(results)}"
    for what, text in {"title": title, "yname": yname}.items():
        if text is not None:
            instance(text, what, str, "a string")
    fixed = _names(xname_fe, list(results.fixed_names), "xname_fe")
    shown = ["(component)" if label.is_component else name
             for label in results.term_labels for name in label.names]  # fmt: skip
    random = _names(xname_re, shown, "xname_re")
    sheets = [_facts(results, yname), *_random(results, random), *_residual(results)]
    sheets += [_fixed(results, fixed, level)] if fixed else []
    how = (f"Degrees of freedom: {results.df_method}",) * bool(fixed)
    notes = (*how, *warnings_of(results))
    method = fitted_by(results)
    return Summary(title=title, sheets=tuple(sheets), notes=notes, method=method)


def method_name(reml: bool) -> str:
    """The criterion, as titles have it."""
    return "REML" if reml else "ML"


def criterion(results: FitRecord) -> str:
    """By what a fit was made, with the penalty that other words leave unsaid."""
    unsaid = results.penalized and results._made_by == FitRecord._made_by
    return method_name(results.reml) + " with a penalty" * unsaid


def fitted_by(results: FitRecord) -> str:
    """How a fit was made, and the criterion, as small print has it."""
    return f"{results._made_by} {criterion(results)}"


def warnings_of(results: FitRecord) -> tuple[str, ...]:
    """What to know of whatever is said of a fit: robust errors, convergence, a singular fit."""
    notes = [*robust_note(results.tests)]
    if results.approximation is not None:
        notes.append(_approximate(results.approximation))
    if not results.converged:
        notes.append(f"Not converged: {results.message}.")
    if results.singular:
        notes.append(
            "Singular fit: a variance is zero or a correlation is one. Estimates are valid; the "
            "random-effects structure is richer than these data support."
        )
    if results.residual is not None and results.converged:
        errors = results.residual_params_se
        ends = ", ".join(errors.index[errors.isna()])
        notes += [f"At the end of its range, without a standard error: {ends}."] if ends else []
    return tuple(notes)


def _approximate(at: Approximation) -> str:
    """How far an approximate fit may be from the exact one."""
    return (
        f"Approximate fit: the log-determinant is an estimate from {at.n_probes} fixed probes. "
        f"Monte Carlo standard error of theta: {at.theta_se.max():.2g} at most."
    )


def _names(given: Sequence[str] | None, default: list[str], what: str) -> list[str]:
    """Names to print, one for each default."""
    if given is None:
        return default
    return read_names(given, what, len(default))


# ------------------------------------------------------------ tables


def _facts(results: FitRecord, yname: str | None) -> Sheet:
    rows = dict(_facts_of(results, yname))
    return Sheet(
        title="",
        columns={"value": list(rows.values())},
        labels=list(rows),
        headings={"value": ""},
        kinds={"value": "text"},
    )


def _facts_of(results: FitRecord, yname: str | None) -> Iterator[tuple[str, str]]:
    if yname is not None:
        yield "Response", yname
    if yname is None or results.formula is not None:
        yield "Formula", results.formula or f"{results.endog_name} (from arrays)"
    known = results._what_is_known
    yield from given_beside(results)
    yield "Observations", str(results.nobs)
    if results.n_missing:
        yield "Left out", left_out(results)
    if known is not None and (known.dropped or known.absorbed):
        columns = [f"{', '.join(known.dropped)}: linearly dependent columns"] * bool(known.dropped)
        terms = [f"{', '.join(known.absorbed)}: not identified beside the fixed effects"]
        yield "Dropped", "; ".join(columns + terms * bool(known.absorbed))
    related = {label.factor for label in results.term_labels if label.related}
    groups = [
        f"{name} {n}" + " related" * (name in related) for name, n in results._n_groups.items()
    ]
    if groups:
        yield "Groups", ", ".join(groups)
    if results.visits is not None:
        yield "Subjects", _seen(results.visits)
    yield "REML log-likelihood" if results.reml else "Log-likelihood", _loglike(results)
    yield "AIC, BIC", f"{results.aic:.3f}, {results.bic:.3f}"
    yield "Converged", "yes" if results.converged else "no"


def given_beside(results: FitRecord) -> tuple[tuple[str, str], ...]:
    """Weights, offset and subset, as they were given beside a formula or arrays."""
    known = results._what_is_known
    if known is not None and known.source is not None:
        beside: tuple[tuple[str, str], ...] = known.source.beside
        return beside
    given = {"Weights": getattr(known, "weights", None), "Offset": getattr(known, "offset", None)}
    return named(given)


def _loglike(results: FitRecord) -> str:
    """The log-likelihood, with what is uncertain about it where it is an estimate."""
    at = results.approximation
    if at is None:
        return f"{results.llf:.4f}"
    return f"{results.llf:.4f} (approximate, Monte Carlo standard error {at.llf_se:.2g})"


def left_out(results: FitRecord) -> str:
    """How many rows had missing values, and in which variables."""
    why = ", ".join(f"{name} {n}" for name, n in results.gaps)
    rows = f"{results.n_missing} row{'s' * (results.n_missing != 1)} with missing values"
    return f"{rows}: {why}" if why else rows


def _seen(visits: Any) -> str:
    """Subjects of a residual covariance and the visits at which they were seen."""
    what = "visit" if visits.n_visits else "row"
    often = f"{visits.fewest} to {visits.most}" if visits.fewest < visits.most else visits.most
    text = f"{visits.subject} {visits.n_subjects}, {often} {what}{'s' * (visits.most != 1)}"
    if visits.n_visits:
        text += f" of {visits.n_visits}"
    if visits.n_patterns:
        text += f", {visits.n_patterns} pattern{'s' * (visits.n_patterns != 1)}"
    return text


def _random(results: FitRecord, names: Sequence[str]) -> list[Sheet]:
    """Variances with their standard errors, and correlations: a row a coefficient."""
    rows: list[tuple[Any, ...]] = []
    width = max([0, *(len(label.names) - 1 for label in results.term_labels)])
    name, errors = iter(names), iter(_variance_errors(results))
    for label, S in zip(results.term_labels, results.estimates.covariances, strict=True):
        sd = np.sqrt(np.diagonal(S))
        for i in range(len(label.names)):
            with np.errstate(invalid="ignore"):
                correlations = [S[i, j] / (sd[i] * sd[j]) for j in range(i)]
            correlations += [np.nan] * (width - i)
            group = label.group if i == 0 else ""
            rows.append((group, next(name), S[i, i], next(errors), sd[i], *correlations))
    last = residual_reference(results)
    if last is not None:
        own = results.scale, next(errors), results.sigma
        rows.append(("Residual", last, *own, *[np.nan] * width))
    if not rows:
        return []
    correlated = [f"corr_{j + 1}" for j in range(width)]
    columns = ["group", "term", "variance", "std_error", "std_dev", *correlated]
    headings = _HEADINGS | {name: "Corr." if j == 0 else "" for j, name in enumerate(correlated)}
    kinds: dict[str, Kind] = {"group": "label", "term": "label"}
    kinds |= dict.fromkeys(correlated, "correlation")
    caption = "Random effects" if results.term_labels else "Residual"
    made = dict(zip(columns, map(_column, zip(*rows, strict=True)), strict=True))
    return [Sheet(title=caption, columns=made, headings=headings, kinds=kinds)]


def _column(values: Sequence[Any]) -> np.ndarray | list[str]:
    return list(values) if isinstance(values[0], str) else np.array(values, dtype=float)


def _residual(results: FitRecord) -> list[Sheet]:
    """Parameters of the residual covariance, where there is one."""
    if results.residual is None:
        return []
    values, errors = results.residual_params, results.residual_params_se
    columns = {"estimate": values.to_numpy(), "std_error": errors.to_numpy()}
    title, names = f"Residual covariance {results.residual}", values.index.tolist()
    return [Sheet(title=title, columns=columns, labels=names, headings=_HEADINGS)]


def _variance_errors(results: FitRecord) -> list[float]:
    """Standard errors of the variances, the residual one last; covariances left out."""
    out: list[float] = []
    errors, covariances = results._bse_re, results.estimates.covariances
    for S, at in zip(covariances, covariance_slices(covariances), strict=True):
        rows, columns = np.tril_indices(len(S))
        out += errors[at][rows == columns].tolist()
    return [*out, residual_variance_error(results.estimates)]


def _fixed(results: FitRecord, names: Sequence[str], level: float) -> Sheet:
    columns = {
        "estimate": results.estimates.beta,
        "std_error": results._bse_fe,
        "df": results._df,
        "statistic": results._statistics,
        "p_value": results._pvalues,
    }
    letter = "t" if results.tests.uses_t else "z"
    headings = _HEADINGS | {
        "statistic": letter,
        "p_value": f"P>|{letter}|",
        "conf_low": f"{50 * (1 - level):g}%",
        "conf_high": f"{50 * (1 + level):g}%",
    }
    if letter == "z":
        del columns["df"]
    columns["conf_low"], columns["conf_high"] = fixed_limits(results, level).T
    return Sheet(
        title="Fixed effects",
        columns=columns,
        labels=list(names),
        headings=headings,
        kinds={"statistic": "statistic"},
    )
