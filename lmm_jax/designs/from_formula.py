"""From a formula and a data frame to a :class:`lmm_jax.Design`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ..errors import FormulaError
from ..formulas import matrices as mat
from ..formulas import parse as fml
from ..formulas.expressions import quoted
from ..formulas.residual import incomplete
from ..formulas.right_side import variables
from ..formulas.tokens import lex
from ..inputs.arguments import choice, hinted, mapping, shown
from ..inputs.frames import kind_of
from ..layouts.group_index import function_of
from .assembled import assemble
from .bars import bar_terms
from .checks import finite_vector, optional_vector, read_sigma
from .data_frames import MISSING, as_pandas, callables, names_for
from .design import Design
from .fixed_source import FixedSource, named
from .relatedness import related_terms
from .residual_columns import residual_of_rows
from .rows import complete_rows, row_arrays, select_rows
from .terms import (
    RandomTerm,
    TermSource,
    coefficient_term,
    component_term,
    factor_codes,
    most_levels_first,
)


@hinted
def design(
    formula: str,
    data: Any,
    *,
    groups: Any = None,
    re_formula: str | None = None,
    vc_formula: Mapping[str, str] | None = None,
    weights: Any = None,
    offset: Any = None,
    missing: str = "drop",
    subset: Any = None,
    context: Mapping[str, Any] | None = None,
    relatedness: Mapping[str, Any] | None = None,
    residual: str | None = None,
    sigma: float | None = None,
) -> Design:
    """Build the design of a model from a formula.

    Parameters
    ----------
    formula : str
        lme4's syntax, ``y ~ x + (1 + x | g)``, or a fixed-effects formula
        together with ``groups``.
    data : data frame, mapping of columns, or path of a file
        A frame of pandas, polars, pyarrow or another kind that narwhals reads, lazy frames and
        relations of DuckDB included; or a Parquet, Feather or CSV file. Of all but pandas' no
        more is read than the columns in use.
    groups : str or array of length n, optional
        Grouping factor in statsmodels' spelling; not together with bars.
    re_formula : str, optional
        Columns with correlated random coefficients, ``"0"`` for none. Not given:
        an intercept, or none if there is a ``vc_formula``.
    vc_formula : mapping of str to str, optional
        Variance components: name to the formula of its columns within a group.
    weights : str or array of length n, optional
        Prior weights: the residual variance of a row is ``sigma^2 / w``.
    offset : str or array of length n, optional
        Known part of the mean, added to any ``offset()`` of the formula.
    missing : {"drop", "raise", "none"}
        What to do with rows in which anything the model uses is missing.
    subset : array of bool, array of labels, or str, optional
        Rows to use: a mask (a series is read by its labels), index labels, or an
        expression of columns for ``DataFrame.query`` (without ``@`` variables).
    context : mapping, optional
        Functions and variables for the formula; by default the functions that
        the caller can see.
    relatedness : mapping, optional
        Grouping factor to the relationship matrix of its levels, ``cov(b) = A (x) Psi``: a
        DataFrame with the ids for its index and columns, or a tuple of a matrix (dense or sparse)
        and the ids. Ids without rows are predicted too.
    residual : str, optional
        Covariance of the residuals, ``"ar1(visit | id)"``, where it is not in the formula.
    sigma : float, optional
        Residual standard deviation where it is known: with ``weights=1 / v`` and ``sigma=1`` the
        rows are estimates with sampling variances v. By default it is estimated.

    Returns
    -------
    Design

    Raises
    ------
    FormulaError
        The formula cannot be read or names an unknown column.
    DataError
        The data cannot carry the model.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> d = lmm.design("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> d.exog.shape, d.n_groups
    ((180, 2), 18)
    """
    _check_kinds(formula, vc_formula, context)
    choice(missing, "missing", MISSING)
    sigma = read_sigma(sigma)
    groups = _column_of(groups, data)
    parsed = _with_residual(fml.parse(formula), residual)
    for name, message, start in fml.other_names(parsed.text):
        if name not in (callables(formula) if context is None else context):
            raise FormulaError(message, parsed.text, start)
    _check_spelling(parsed, groups, re_formula, vc_formula)
    expressions = _expressions(parsed, groups, re_formula, vc_formula, weights, offset)
    frame = as_pandas(data, expressions, subset if isinstance(subset, str) else "")
    known = names_for([formula, re_formula, *(vc_formula or {}).values(), residual], context)
    arrays = row_arrays(frame, {"groups": groups, "weights": weights, "offset": offset})
    frame, arrays = select_rows(frame, arrays, subset)
    frame, arrays, keep, gaps = complete_rows(frame, arrays, expressions, missing)
    y = mat.evaluate(parsed.response, frame, context=known)
    matrix = mat.build(parsed.fixed, frame, context=known)
    if parsed.bars or (parsed.residual is not None and groups is None):
        found = bar_terms(parsed.bars, frame, known, {parsed.fixed: matrix})
        terms = most_levels_first(related_terms(found, relatedness))
        group, n_groups = outer_group(terms)
    else:
        labels = groups if isinstance(groups, str) else arrays["groups"]
        found, group, n_groups = _group_terms(frame, labels, re_formula, vc_formula, known)
        terms = related_terms(found, relatedness)
    offset_state: dict[str, Any] = {}
    source = _fixed_source(parsed, matrix.spec, offset, weights, known, frame, offset_state)
    beside = named({"Weights": weights, "Offset": offset, "Subset": subset})
    return assemble(
        y=y,
        X=matrix.values,
        names=matrix.names,
        endog_name=parsed.response,
        terms=terms,
        group=group,
        n_groups=n_groups,
        weights=_vector(weights, arrays["weights"], frame, known, "weights"),
        offset=_total_offset(parsed.offsets, offset, arrays["offset"], frame, known, offset_state),
        index=frame.index,
        n_missing=int((~keep).sum()),
        gaps=gaps,
        source=replace(source, beside=beside),
        residual=None
        if parsed.residual is None
        else residual_of_rows(parsed.residual, frame, known),
        output=kind_of(data),
        sigma=sigma,
    )


def _check_kinds(formula: Any, vc_formula: Any, context: Any) -> None:
    """Refuse what is no formula, no mapping of formulas and no mapping of names."""
    if not isinstance(formula, str):
        arrays = "; arrays are read by lmm.design_from_arrays(y, X, groups=g)"
        raise FormulaError(
            f"the formula is a {type(formula).__name__}: pass a string or a Design"
            f"{arrays * hasattr(formula, '__array__')}"
        )
    if vc_formula is not None and not isinstance(vc_formula, Mapping):
        raise FormulaError("vc_formula maps names to formulas: pass a dictionary", formula)
    if context is not None:
        mapping(context, "context")


def _with_residual(parsed: fml.ParsedFormula, residual: Any) -> fml.ParsedFormula:
    """The formula with a residual covariance that was given beside it."""
    if residual is None:
        return parsed
    if not isinstance(residual, str):
        raise FormulaError(f"residual is a {type(residual).__name__}: pass 'ar1(visit | id)'")
    if parsed.residual is not None:
        raise FormulaError("residual= beside a residual covariance in the formula", parsed.text)
    term = fml.parse_residual(residual)
    return replace(parsed, residual=term, text=f"{parsed.text} + {term.text}")


def _fixed_source(
    parsed: fml.ParsedFormula,
    spec: Any,
    offset: Any,
    weights: Any,
    context: Mapping[str, Any],
    frame: pd.DataFrame,
    offset_state: Mapping[str, Any],
) -> FixedSource:
    """What prediction and marginal means need to make the fixed part for other rows."""
    by_name = isinstance(offset, str)
    offsets = (*parsed.offsets, *([quoted(offset)] if by_name else []))
    used = dict.fromkeys(name for text in (parsed.fixed, *offsets) for name in variables(text))
    columns = list(frame.columns)
    places = [columns.index(name) for name in used if name in columns]
    return FixedSource(
        response=parsed.response,
        spec=spec,
        kept=(),
        offsets=offsets,
        offset_array=offset is not None and not by_name,
        weights=weights if isinstance(weights, str) else None,
        context=context,
        formula=parsed.text,
        offset_state=offset_state,
        rows=frame.take(places, axis=1),  # a list of names takes pandas five times as long
    )


def _check_spelling(
    parsed: fml.ParsedFormula, groups: Any, re_formula: Any, vc_formula: Any
) -> None:
    given = {f"vc_formula[{name!r}]": rhs for name, rhs in (vc_formula or {}).items()}
    if re_formula is not None:
        given["re_formula"] = re_formula
    for what, rhs in given.items():
        if not isinstance(rhs, str):
            raise FormulaError(f"{what} is a {type(rhs).__name__}: pass a string such as '~ x'")
    for name in vc_formula or {}:
        if not isinstance(name, str):
            raise FormulaError(f"vc_formula has the name {shown(name)}: names are strings")
    if parsed.bars and (groups is not None or re_formula is not None or vc_formula):
        raise FormulaError(
            "bars in the formula together with groups=, re_formula= or vc_formula=: "
            "give the random effects in one of the two spellings",
            parsed.text,
        )
    if not parsed.bars and groups is None and parsed.residual is None:
        for item in lex(parsed.text):
            why = incomplete(item.text) if item.kind == "python" else None
            if why is not None:
                raise FormulaError(why, parsed.text, item.start)
        raise FormulaError(
            "the formula has no random effects: add a term such as (1 | g), or a covariance of the "
            "residuals such as ar1(visit | id), or pass groups=; a model with neither is least "
            "squares, statsmodels' OLS",
            parsed.text,
        )


def _expressions(
    parsed: fml.ParsedFormula, groups: Any, re_formula: Any, vc_formula: Any, *named: Any
) -> list[str]:
    """Every expression of the model that reads columns."""
    out = [parsed.response, parsed.fixed, *parsed.offsets]
    for bar in parsed.bars:
        out += [bar.lhs, *bar.group]
    out += [fml.parse_rhs(rhs) for rhs in [re_formula, *(vc_formula or {}).values()] if rhs]
    if parsed.residual is not None:
        out += parsed.residual.expressions
    return out + [quoted(name) for name in (groups, *named) if isinstance(name, str)]


def _column_of(groups: Any, data: Any) -> Any:
    """Name of the column that a series of groups is, so that new rows can be looked up."""
    if not isinstance(groups, pd.Series) or not isinstance(data, pd.DataFrame):
        return groups
    known = groups.name in data.columns and isinstance(groups.name, str)
    return groups.name if known and data[groups.name].equals(groups) else groups


def _group_terms(
    frame: pd.DataFrame,
    groups: Any,
    re_formula: str | None,
    vc_formula: Mapping[str, str] | None,
    context: Mapping[str, Any],
) -> tuple[list[RandomTerm], np.ndarray, int]:
    """Terms of statsmodels' spelling: one correlated term, then components by name."""
    by_name = isinstance(groups, str)
    labels = mat.labels(quoted(groups), frame, context=context) if by_name else pd.Series(groups)
    codes, levels = factor_codes(labels)
    group = (quoted(groups),) if by_name else ()
    name = groups if by_name else "groups"
    terms: list[RandomTerm] = []
    if re_formula is None:  # components alone bring no random intercept
        re_formula = "0" if vc_formula else "1"
    matrix = mat.build(fml.parse_rhs(re_formula), frame, context=context)
    if matrix.names:
        source = TermSource(spec=matrix.spec, columns=tuple(range(len(matrix.names))), group=group)
        terms.append(coefficient_term(matrix.values, matrix.names, codes, levels, name, source))
    for component in sorted(vc_formula or {}):
        rhs = fml.parse_rhs(vc_formula[component])  # type: ignore[index]
        part = mat.build(rhs, frame, context=context, sparse=True)
        if not part.names:
            raise FormulaError(f"the component {component!r} of vc_formula has no columns", rhs)
        source = TermSource(spec=part.spec, columns=tuple(range(len(part.names))), group=group)
        terms.append(component_term(component, part.values, part.names, codes, levels, source))
    if not terms:
        raise FormulaError("re_formula and vc_formula leave no random effects", re_formula)
    return terms, codes, len(levels)


def outer_group(terms: Sequence[RandomTerm]) -> tuple[np.ndarray, int]:
    """Coarsest grouping factor if all others are nested in it, else one group of all rows."""
    if not terms:
        return np.zeros(0, np.int64), 0  # the residual covariance says what the groups are
    outer = min(reversed(terms), key=lambda term: term.n_levels)
    codes = outer.codes[:, 0]
    for term in terms:
        if function_of(term.codes[:, 0], codes, term.n_levels) is None:
            return np.zeros_like(codes), 1
    return codes, outer.n_levels


def _vector(
    given: Any, array: Any, frame: pd.DataFrame, context: Mapping[str, Any], what: str
) -> np.ndarray | None:
    """A weight or offset given by column name or as an array."""
    if isinstance(given, str):
        return finite_vector(mat.evaluate(quoted(given), frame, context=context), what)
    return optional_vector(array, what, frame.index)


def _total_offset(
    expressions: Sequence[str],
    given: Any,
    array: Any,
    frame: pd.DataFrame,
    context: Mapping[str, Any],
    state: dict[str, Any],
) -> np.ndarray | None:
    parts = [mat.evaluate(e, frame, context=context, state=state) for e in expressions]
    extra = _vector(given, array, frame, context, "offset")
    parts += [] if extra is None else [extra]
    return np.sum(parts, axis=0) if parts else None
