"""Several fits side by side: a block for fixed effects, one for random ones, one for the fit."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..designs.design import Design
from ..designs.nesting import OTHER_RESPONSE, OTHER_ROWS, OTHER_WEIGHTS, why_incomparable
from ..designs.term_nesting import restricted_alike
from ..errors import warn_user
from ..formulas.right_side import variables
from ..inference.df.robust import robust_note
from ..inference.parameter_rows import parameter_rows
from ..inference.parameters import Parameter, parameters_of
from ..inputs.names import merged, merged_terms, one_spelling, parts_of, unquoted
from ..reprs import p_value
from ..tables.cells import beside_error, digits_for, rounded
from ..tables.page import Table, table
from ..tables.paper import method_name as name_on_paper
from .lmm import LMMResults
from .summary import criterion, given_beside, warnings_of

# What may stand in parentheses, and what the small print says of it.
SHOWN = {
    "std_error": "Standard errors in parentheses",
    "conf_int": "Limits of level {level:g} in brackets",
    "statistic": "Statistics in parentheses",
    "p_value": "P values in parentheses",
    "none": "",
}
_STARS = (0.001, 0.01, 0.05)
# Decimals where nothing asks for more; digits that a standard error has at least, and a number
# without one.
_DECIMALS, _OF_ERRORS, _OF_NUMBERS = 3, 2, 3
# Figures of a fit: what a row is called, and how its number is written; as estimates are if empty.
STATISTICS: dict[str, tuple[str, str]] = {
    "nobs": ("Observations", "d"),
    "n_groups": ("", "d"),
    "r2_marginal": ("R2 (marginal)", ".3f"),
    "r2_conditional": ("R2 (conditional)", ".3f"),
    "icc": ("ICC", ".3f"),
    "loglik": ("Log-likelihood", ".3f"),
    "aic": ("AIC", ".3f"),
    "bic": ("BIC", ".3f"),
    "sigma": ("Sigma", ""),
    "df": ("Parameters", "d"),
}
# What the rows are about, in their order.
_BLOCKS = ("Fixed effects", "Random effects", "Fit")
# Figures that are comparable between fits by REML only with the same fixed effects.
_CRITERIA = {"loglik", "aic", "bic"}
_NOT_COMPARABLE = (
    "log-likelihood, AIC and BIC of these fits do not compare. {} and {}: {}; statistics= leaves "
    "them out"
)
_BY_REML = (
    "they are by REML with other fixed effects, or the same in other units or contrasts: fit all "
    "with reml=False"
)
BASIC = ("nobs", "n_groups", "r2_marginal", "r2_conditional", "loglik", "aic", "bic")


class Row(NamedTuple):
    """A row of one column."""

    key: Hashable  # the same of all columns, however they spell the name
    name: str
    text: str


def side_by_side(
    fits: Mapping[str, LMMResults],
    *,
    show: str,
    level: float,
    stars: bool,
    digits: int | None,
    statistics: Sequence[str],
) -> Table:
    """The table of :func:`lmm_jax.regression_table`, its arguments read."""
    write = partial(_cell, show=show, stars=stars, digits=digits)
    parts = [
        [*_parameters(res, level, write), _figures(res, statistics, digits)]
        for res in fits.values()
    ]
    out: list[tuple[str, ...]] = []
    for block, own in zip(_BLOCKS, zip(*parts, strict=True), strict=True):
        found, texts = _aligned(own, are_terms=block == _BLOCKS[0])
        out += [(block, *[""] * len(own))] * bool(found)
        out += [("  " + row, *(column.get(row, "") for column in texts)) for row in found]
    frame = pd.DataFrame(out, columns=["term", *fits], dtype=object)
    kinds: Any = {"term": "label", **dict.fromkeys(fits, "number")}
    headings = {"term": "", **{name: name for name in fits}}
    if not _CRITERIA.isdisjoint(statistics):
        _warn_of_criteria(fits)  # the author: readers are told the criterion
    notes = _notes(fits, show, level, stars)
    return table(frame, _title(fits), notes, headings=headings, kinds=kinds)


def _parameters(
    res: LMMResults, level: float, write: Callable[[Any], str]
) -> tuple[list[Row], list[Row]]:
    """Rows of the fixed effects, and of the others with every term's deviations first."""
    known = parameters_of(res.fixed_names, res.term_labels, "sdcor")
    of_terms = sorted((p for p in known if p.term >= 0), key=lambda p: (p.term, p.kind == "cor"))
    frame, first = parameter_rows(res, level), len(res.fixed_names)
    names = list(frame.index)
    names[first : first + len(of_terms)] = [p.name for p in of_terms]
    keys = {p.name: _key(p, res) for p in of_terms}
    texts = map(write, frame.loc[names].itertuples())
    rows = [Row(keys.get(n, n), str(n), text) for n, text in zip(names, texts, strict=True)]
    return rows[:first], rows[first:]


def _key(p: Parameter, res: LMMResults) -> Hashable:
    """A standard deviation or a correlation, whatever the order in its name."""
    label = res.term_labels[p.term]
    columns = sorted({parts_of(label.names[k]) for k in (p.i, p.j)})
    # of a second term of one factor the name of the group ends with a number
    return p.kind, *columns, parts_of(label.factor), label.group.removeprefix(label.factor)


def _aligned(
    columns: Sequence[Sequence[Row]], *, are_terms: bool
) -> tuple[list[str], list[dict[str, str]]]:
    """Names of the rows of a block, and what each column has in them."""
    names = [[row.name for row in rows] for rows in columns]
    if are_terms:
        found, spelled = merged_terms(names)
    else:
        spelled = one_spelling(names, [[row.key for row in rows] for rows in columns])
        found = merged(spelled)
    texts = [[row.text for row in rows] for rows in columns]
    return found, [dict(zip(*pair, strict=True)) for pair in zip(spelled, texts, strict=True)]


def _cell(row: Any, show: str, stars: bool, digits: int | None) -> str:
    """An estimate with its stars and what stands in parentheses."""
    by_error = 0 < row.std_error < np.inf
    size, least = (row.std_error, _OF_ERRORS) if by_error else (abs(row.estimate), _OF_NUMBERS)
    write = _writer(size, least, digits)
    text = write(row.estimate)
    if stars and np.isfinite(row.p_value):
        text += "*" * sum(row.p_value < limit for limit in _STARS)
    if show == "conf_int" and np.isfinite([row.conf_low, row.conf_high]).all():
        return f"{text} [{write(row.conf_low)}, {write(row.conf_high)}]"
    if show == "std_error" and np.isfinite(row.std_error):
        return f"{text} ({write(row.std_error)})"
    if show == "statistic" and np.isfinite(row.statistic):
        return f"{text} ({rounded(row.statistic, _DECIMALS if digits is None else digits)})"
    if show == "p_value" and np.isfinite(row.p_value):
        return f"{text} ({p_value(row.p_value)})"
    return text


def _writer(size: float, least: int, digits: int | None) -> Callable[[float], str]:
    """How numbers are written: with three decimals, or so many that a size has so many digits."""
    if digits is not None:  # what is nothing at the digits that were asked for is zero
        return partial(rounded, places=digits)
    has_digits = 0 < size < np.inf
    places = max(_DECIMALS, digits_for(size, least)) if has_digits else _DECIMALS
    return partial(beside_error, places=places)


def _figures(res: LMMResults, statistics: Sequence[str], digits: int | None) -> list[Row]:
    """Figures of the fit."""
    at = res.glance(output="pandas").iloc[0]
    out = [Row(label, label, text) for label, text in _asked(res).items() if text]
    for key in statistics:
        label, form = STATISTICS[key]
        if key == "n_groups":
            levels = {str(factor): n for factor, n in res.n_groups.items()}
            if res.visits is not None:
                levels.setdefault(res.visits.subject, res.visits.n_subjects)
            out += [Row(parts_of(g), f"Groups: {g}", str(n)) for g, n in levels.items()]
        elif np.isfinite(float(at[key])):
            value = int(at[key]) if form == "d" else float(at[key])
            own = f"{value:{form}}" if form else _writer(value, _OF_NUMBERS, digits)(value)
            out.append(Row(label, label, own))
    return out


def _asked(res: LMMResults) -> dict[str, str]:
    """What a model has beside its effects."""
    source, beside = getattr(res._what_is_known, "source", None), dict(given_beside(res))
    in_formula = "" if source is None else ", ".join(source.offsets)
    return {
        "Residuals": "" if res.residual is None else str(res.residual),
        "Weights": beside.get("Weights", ""),
        "Offset": in_formula or beside.get("Offset", ""),
    }


def _title(fits: Mapping[str, LMMResults]) -> str:
    responses = list(dict.fromkeys(unquoted(res.endog_name) for res in fits.values()))
    return f"Linear mixed models of {', '.join(responses)}"


def _notes(fits: Mapping[str, LMMResults], show: str, level: float, stars: bool) -> list[str]:
    """The small print: what stands in the cells, and what to know of every fit."""
    notes = _made(fits)
    if SHOWN[show]:
        notes.append(SHOWN[show].format(level=level))
    if stars:
        notes.append("* p < 0.05, ** p < 0.01, *** p < 0.001")
    if stars or show in ("p_value", "conf_int"):
        notes.append(_of_each("Degrees of freedom:", {n: r.df_method for n, r in fits.items()}))
    told = {
        name: [*_elsewhere(name, fits), *_adjusted(res), *warnings_of(res)]
        for name, res in fits.items()
    }
    return notes + _of_fits(told)


def _elsewhere(name: str, fits: Mapping[str, LMMResults]) -> list[str]:
    """Which fit has other rows, where their number does not tell."""
    own = _rows(fits[name])
    first = next(n for n, other in fits.items() if other.nobs == fits[name].nobs)
    others = _rows(fits[first])
    same = own is None or others is None or own.difference(others).empty
    return [] if same else [f"Other rows than those of {first}."]


def _rows(res: LMMResults) -> pd.Index[Any] | None:
    """Labels of the rows of a fit, where they are known."""
    design, fitted = _with_rows(res), None if res.kept is None else res.kept.fitted
    if design is not None:
        return design.index
    return None if fitted is None else fitted.index


def _with_rows(res: LMMResults) -> Design | None:
    """The design, where it has its rows."""
    return res.design if res.design is not None and res.design.has_rows else None


def _adjusted(res: LMMResults) -> list[str]:
    """Whose standard errors are others than the model's, where no robust covariance is."""
    own, model = res.tests.cov_beta, res.estimates.cov_beta
    if robust_note(res.tests) or np.array_equal(own, model, equal_nan=True):
        return []
    return [f"Standard errors of the fixed effects: {name_on_paper(res.df_method)}."]


def _made(fits: Mapping[str, LMMResults]) -> list[str]:
    """How all fits were made; of each where they differ."""
    criteria = {name: criterion(res) for name, res in fits.items()}
    if all(res._made_by == LMMResults._made_by for res in fits.values()):
        return [_of_each(LMMResults._made_by, criteria)]
    return _of_fits({name: [f"{res._made_by} {criteria[name]}"] for name, res in fits.items()})


def _of_fits(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """Notes behind the names of the fits that have them."""
    by_note: dict[str, list[str]] = {}
    for name, own in notes.items():
        for note in own:
            by_note.setdefault(note, []).append(name)
    return [f"{', '.join(names)}: {note}" for note, names in by_note.items()]


def _warn_of_criteria(fits: Mapping[str, LMMResults]) -> None:
    """Warn of the first fits of one response whose criteria do not compare."""
    firsts: dict[str, LMMResults] = {}
    for name, res in fits.items():
        own = _variables(res)
        other = next((n for n, one in firsts.items() if own & _variables(one)), None)
        if other is None:  # of another response, whose criteria nobody compares
            firsts[name] = res
            continue
        reason = _why_not(firsts[other], res)
        if reason is not None:
            warn_user(_NOT_COMPARABLE.format(other, name, reason), UserWarning)
            return


def _variables(res: LMMResults) -> set[str]:
    """The columns that a response is made of."""
    named = set() if res.formula is None else set(variables(res.endog_name))
    return {res.endog_name} | named


def _why_not(one: LMMResults, other: LMMResults) -> str | None:
    """Why two log-likelihoods do not compare; None if they do."""
    a, b = _with_rows(one), _with_rows(other)
    reason = _of_saved(one, other) if a is None or b is None else why_incomparable(a, b)
    if reason is not None:
        return reason
    if one.reml != other.reml:
        return "one is by REML and the other by ML: fit all with reml=False"
    return _BY_REML if one.reml and not _equal_columns(one, other) else None


def _of_saved(one: LMMResults, other: LMMResults) -> str | None:
    """Why two fits do not compare, as far as this is told without their rows."""
    if one.nobs != other.nobs:
        return OTHER_ROWS.format(one.nobs, other.nobs)
    if one.endog_name != other.endog_name:
        return OTHER_RESPONSE.format(one.endog_name, other.endog_name)
    if any(_asked(one)[what] != _asked(other)[what] for what in ("Weights", "Offset")):
        return OTHER_WEIGHTS
    return None


def _equal_columns(one: LMMResults, other: LMMResults) -> bool:
    """Whether the fixed effects of two fits by REML are the same, of saved ones by their names."""
    a, b = _with_rows(one), _with_rows(other)
    if a is None or b is None:
        return {*map(parts_of, one.fixed_names)} == {*map(parts_of, other.fixed_names)}
    return restricted_alike(a.exog, b.exog)


def _of_each(what: str, values: Mapping[str, str]) -> str:
    """One value where all are alike, otherwise that of each."""
    if len(set(values.values())) == 1:
        return f"{what} {next(iter(values.values()))}"
    return f"{what} " + ", ".join(f"{name} {value}" for name, value in values.items())
