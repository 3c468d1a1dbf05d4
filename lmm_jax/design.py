"""From a formula and a data frame, or from arrays, to a :class:`Design`.

A design holds y, X and the random-effects terms of the rows that are used, and
all that is needed to build the same columns from new data. Bad input ends here.
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np
import pandas as pd

from . import formula as fml
from . import matrices as mat
from .checks import (
    check_levels,
    check_numeric,
    check_rank,
    check_response,
    check_shapes,
    finite_vector,
    independent_columns,
)
from .errors import DataError, FormulaError
from .frames import as_pandas, callables, complete_rows, select_rows
from .layouts.compress import compress
from .layouts.grouped import GroupedLayout
from .layouts.index import GroupPlan, plan_groups, round_up
from .terms import (
    RandomTerm,
    TermSource,
    bar_terms,
    coefficient_term,
    component_matrices,
    component_term,
    factor_codes,
    independent_groups,
)

_compress = jax.jit(compress)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FixedSource:
    """How y, X and the offset come out of a data frame."""

    response: str
    spec: Any  # formulaic.ModelSpec of X
    kept: tuple[int, ...]  # columns of the spec that are in X
    offsets: tuple[str, ...]
    offset_array: bool  # an array was given: new rows need one too
    context: Mapping[str, Any]
    formula: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Design:
    """A linear mixed model without its parameters: ``y = X beta + Z b + offset + e``.

    Made by :func:`design` or :func:`design_from_arrays`.
    """

    endog: np.ndarray  # (n,)    response as given
    exog: np.ndarray  # (n, p)  fixed effects, full column rank
    exog_names: tuple[str, ...]
    endog_name: str
    terms: tuple[RandomTerm, ...]
    group_codes: np.ndarray  # (n,)   independent group of each row
    n_groups: int
    weights: np.ndarray | None  # (n,)   prior weights
    offset: np.ndarray | None  # (n,)
    index: pd.Index[Any]  # (n,)   labels of the rows that are used
    dropped: tuple[str, ...]  # columns of X left out for linear dependence
    n_missing: int  # rows left out for missing values
    source: FixedSource | None
    held: np.ndarray | None = None  # (p,)   values of fixed effects held fixed, NaN where free

    def expressions(self, conditional: bool) -> list[str]:
        """Expressions that prediction evaluates, with the random part or without."""
        if self.source is None:
            return []
        out = [str(self.source.spec.formula), *self.source.offsets]
        for term in self.terms if conditional else ():
            out += [*term.source.group, str(term.source.spec.formula)]
        return out

    @property
    def nobs(self) -> int:
        """Number of rows used."""
        return self.endog.size

    @property
    def sizes(self) -> tuple[int, ...]:
        """Coefficients per level of each term."""
        return tuple(len(term.names) for term in self.terms)

    @property
    def n_components(self) -> int:
        """Number of variance components among the terms (they come last)."""
        return sum(term.is_component for term in self.terms)

    @cached_property
    def plan(self) -> GroupPlan:
        """Integer bookkeeping of the grouped layout."""
        return plan_groups(
            self.group_codes,
            self.n_groups,
            [term.codes for term in self.terms],
            [term.n_levels for term in self.terms],
            self.sizes,
            self.n_components,
        )

    @cached_property
    def layout(self) -> GroupedLayout:
        """The compressed model: float64 JAX arrays, nothing of the size of the rows."""
        rows = round_up(self.nobs)
        y = self.endog if self.offset is None else self.endog - self.offset
        X = self.exog
        if self.held is not None:
            fixed = ~np.isnan(self.held)
            y, X = y - X[:, fixed] @ self.held[fixed], X[:, ~fixed]
        weights = np.ones(self.nobs) if self.weights is None else self.weights
        with jax.enable_x64(True):
            return _compress(
                _pad(y, rows),
                _pad(X, rows),
                tuple(_pad(term.values, rows) for term in self.terms),
                _pad(weights, rows),
                self.plan.index,
            )


def _pad(values: np.ndarray, rows: int) -> np.ndarray:
    """Zero rows at the end: they weigh nothing."""
    if values.shape[0] == rows:
        return values
    out = np.zeros((rows, *values.shape[1:]))
    out[: values.shape[0]] = values
    return out


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
) -> Design:
    """Build the design of a model from a formula.

    Parameters
    ----------
    formula : str
        lme4's syntax, ``y ~ x + (1 + x | g)``, or a fixed-effects formula
        together with ``groups``.
    data : pandas.DataFrame, mapping of columns, or a frame that narwhals reads
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
        Rows to use: a mask, index labels, or an expression for ``DataFrame.query``.
    context : mapping, optional
        Functions and variables for the formula; by default the functions that
        the caller can see.

    Returns
    -------
    Design

    Raises
    ------
    FormulaError
        The formula cannot be read or names an unknown column.
    DataError
        The data cannot carry the model.
    NotImplementedError
        Crossed grouping factors.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> d = lmm.design("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> d.exog.shape, d.n_groups
    ((180, 2), 18)
    """
    if not isinstance(formula, str):
        raise FormulaError(f"the formula is a {type(formula).__name__}: pass a string or a Design")
    if vc_formula is not None and not isinstance(vc_formula, Mapping):
        raise FormulaError("vc_formula maps names to formulas: pass a dictionary", formula)
    groups = _column_of(groups, data)
    parsed = fml.parse(formula)
    _check_spelling(parsed, groups, re_formula, vc_formula)
    expressions = _expressions(parsed, groups, re_formula, vc_formula, weights, offset)
    frame = as_pandas(data, expressions)
    known = callables(" ".join([formula, *expressions])) if context is None else context
    arrays = {"groups": groups, "weights": weights, "offset": offset}
    frame, arrays = select_rows(frame, arrays, subset)
    frame, arrays, keep = complete_rows(frame, arrays, expressions, known, missing)
    y = mat.evaluate(parsed.response, frame, context=known)
    matrix = mat.build(parsed.fixed, frame, context=known)
    offsets = (*parsed.offsets, *([offset] if isinstance(offset, str) else []))
    source = FixedSource(
        response=parsed.response,
        spec=matrix.spec,
        kept=(),
        offsets=offsets,
        offset_array=offset is not None and not isinstance(offset, str),
        context=known,
        formula=formula,
    )
    if parsed.bars:
        terms = bar_terms(parsed.bars, frame, known)
        group, n_groups = _outer_group(terms)
    else:
        labels = groups if isinstance(groups, str) else arrays["groups"]
        terms, group, n_groups = _group_terms(frame, labels, re_formula, vc_formula, known)
    return _assemble(
        y=y,
        X=matrix.values,
        names=matrix.names,
        endog_name=parsed.response,
        terms=terms,
        group=group,
        n_groups=n_groups,
        weights=_vector(weights, arrays["weights"], frame, known, "weights"),
        offset=_total_offset(parsed.offsets, offset, arrays["offset"], frame, known),
        index=frame.index,
        n_missing=int((~keep).sum()),
        source=source,
    )


def design_from_arrays(
    endog: Any,
    exog: Any,
    groups: Any,
    exog_re: Any = None,
    exog_vc: Any = None,
    *,
    weights: Any = None,
    offset: Any = None,
    missing: str = "none",
) -> Design:
    """Build the design of a model with one grouping factor from arrays.

    Parameters
    ----------
    endog : array, shape (n,)
    exog : array or DataFrame, shape (n, p)
        No intercept is added.
    groups : array, shape (n,)
        Group label of each row.
    exog_re : array or DataFrame, shape (n, k), optional
        Columns with correlated random coefficients. Not given: a random
        intercept, or none if there are components.
    exog_vc : mapping or object with names, colnames and mats, optional
        Variance components: name to an array or sparse matrix of shape (n, K),
        or name to a mapping from group to the matrix of the group's rows
        (statsmodels' ``VCSpec`` is read as well). A column that is zero
        throughout a group does not exist in it.
    weights, offset : array, shape (n,), optional
    missing : {"none", "drop", "raise"}

    Returns
    -------
    Design

    Examples
    --------
    >>> import numpy as np
    >>> d = design_from_arrays([1.0, 2, 4, 3], np.ones((4, 1)), ["a", "a", "b", "b"])
    >>> d.nobs, d.n_groups
    (4, 2)
    """
    y = _response(endog)
    n = len(y)
    for name, other in {"exog": exog, "exog_re": exog_re}.items():
        indexed = isinstance(endog, pd.Series) and isinstance(other, pd.DataFrame | pd.Series)
        if indexed and not other.index.equals(endog.index):
            raise DataError(f"{name} has another index than endog: align them, or pass arrays")
    X, names = _matrix(exog, n, "exog", "x")
    Z, z_names = _matrix(np.ones((n, 1)) if exog_re is None else exog_re, n, "exog_re", "z")
    if exog_re is None:
        z_names = ("Intercept",)
    if exog_re is not None and not Z.shape[1] and not exog_vc:
        raise DataError("exog_re has no columns: the model has no random effects")
    table = pd.DataFrame({"y": y.to_numpy()}, index=y.index)
    table = table.join(pd.DataFrame(X, index=y.index).add_prefix("x"))
    table = table.join(pd.DataFrame(Z, index=y.index).add_prefix("z"))
    arrays = {"groups": groups, "weights": weights, "offset": offset}
    table, arrays, keep = complete_rows(table, arrays, list(table.columns), {}, missing)
    codes, levels = factor_codes(pd.Series(arrays["groups"]))
    none = TermSource(spec=None, columns=(), group=())
    terms: list[RandomTerm] = []
    if (exog_re is not None and Z.shape[1]) or not exog_vc:
        terms.append(coefficient_term(Z[keep], z_names, codes, levels, "groups", none))
    labels = np.asarray(groups)
    for name, part, columns in component_matrices(exog_vc, labels):
        terms.append(component_term(name, part[keep], columns, codes, levels, none))
    return _assemble(
        y=finite_vector(table["y"], "endog"),
        X=X[keep],
        names=names,
        endog_name=str(y.name) if y.name is not None else "y",
        terms=terms,
        group=codes,
        n_groups=len(levels),
        weights=_maybe(arrays["weights"], "weights"),
        offset=_maybe(arrays["offset"], "offset"),
        index=table.index,
        n_missing=int((~keep).sum()),
        source=None,
    )


def _response(endog: Any) -> pd.Series[Any]:
    """One column of numbers with an index."""
    if isinstance(endog, pd.DataFrame) and endog.shape[1] == 1:
        endog = endog.iloc[:, 0]
    if np.ndim(endog) != 1:
        raise DataError(f"endog has the shape {np.shape(endog)}: one dimension is needed")
    values = pd.Series(endog)
    check_numeric(values.to_numpy(), "endog")
    return values


def _matrix(values: Any, n: int, what: str, prefix: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Two-dimensional float64 array and column names."""
    if isinstance(values, pd.Series):
        values = values.to_frame()
    names = [str(c) for c in values.columns] if isinstance(values, pd.DataFrame) else None
    check_numeric(np.asarray(values), what)
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} must be numeric: {error}") from error
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[0] != n:
        raise DataError(f"{what} has the shape {array.shape} but endog has {n} entries")
    return array, tuple(names or [f"{prefix}{j + 1}" for j in range(array.shape[1])])


def _check_spelling(
    parsed: fml.ParsedFormula, groups: Any, re_formula: Any, vc_formula: Any
) -> None:
    if parsed.bars and (groups is not None or re_formula is not None or vc_formula):
        raise FormulaError(
            "bars in the formula together with groups=, re_formula= or vc_formula=: "
            "give the random effects in one of the two spellings",
            parsed.text,
        )
    if not parsed.bars and groups is None:
        raise FormulaError(
            "the formula has no random effects: add a term such as (1 | g), or pass groups=",
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
    return out + [_quoted(name) for name in (groups, *named) if isinstance(name, str)]


def _column_of(groups: Any, data: Any) -> Any:
    """Name of the column that a series of groups is, so that new rows can be looked up."""
    if not isinstance(groups, pd.Series) or not isinstance(data, pd.DataFrame):
        return groups
    known = groups.name in data.columns and isinstance(groups.name, str)
    return groups.name if known and data[groups.name].equals(groups) else groups


def _quoted(name: str) -> str:
    return name if name.isidentifier() and not keyword.iskeyword(name) else f"`{name}`"


def _group_terms(
    frame: pd.DataFrame,
    groups: Any,
    re_formula: str | None,
    vc_formula: Mapping[str, str] | None,
    context: Mapping[str, Any],
) -> tuple[list[RandomTerm], np.ndarray, int]:
    """Terms of statsmodels' spelling: one correlated term, then components by name."""
    by_name = isinstance(groups, str)
    labels = mat.labels(_quoted(groups), frame, context=context) if by_name else pd.Series(groups)
    codes, levels = factor_codes(labels)
    group = (_quoted(groups),) if by_name else ()
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


def _outer_group(terms: Sequence[RandomTerm]) -> tuple[np.ndarray, int]:
    """Coarsest grouping factor, in which all others must be nested."""
    outer = min(reversed(terms), key=lambda term: term.n_levels)
    codes = outer.codes[:, 0]
    for term in terms:
        parent = np.zeros(term.n_levels, dtype=np.int64)
        parent[term.codes[:, 0]] = codes
        if (parent[term.codes[:, 0]] != codes).any():
            raise NotImplementedError(
                f"the grouping factors {term.group!r} and {outer.group!r} are crossed: levels of "
                "one meet several levels of the other. Only nested factors can be fitted"
            )
    return codes, outer.n_levels


def _vector(
    given: Any, array: Any, frame: pd.DataFrame, context: Mapping[str, Any], what: str
) -> np.ndarray | None:
    """A weight or offset given by column name or as an array."""
    if isinstance(given, str):
        return finite_vector(mat.evaluate(_quoted(given), frame, context=context), what)
    return _maybe(array, what)


def _maybe(array: Any, what: str) -> np.ndarray | None:
    return None if array is None else finite_vector(array, what)


def _total_offset(
    expressions: Sequence[str],
    given: Any,
    array: Any,
    frame: pd.DataFrame,
    context: Mapping[str, Any],
) -> np.ndarray | None:
    parts = [mat.evaluate(e, frame, context=context) for e in expressions]
    extra = _vector(given, array, frame, context, "offset")
    parts += [] if extra is None else [extra]
    return np.sum(parts, axis=0) if parts else None


def _assemble(
    *,
    y: np.ndarray,
    X: np.ndarray,
    names: Sequence[str],
    endog_name: str,
    terms: Sequence[RandomTerm],
    group: np.ndarray,
    n_groups: int,
    weights: np.ndarray | None,
    offset: np.ndarray | None,
    index: pd.Index[Any],
    n_missing: int,
    source: FixedSource | None,
) -> Design:
    """Check the parts against each other and drop dependent columns of X."""
    check_shapes(y, X, terms, weights)
    check_levels(terms, n_groups)
    group, n_groups = independent_groups(terms, group, n_groups)
    kept = independent_columns(X, names)
    X = X if len(kept) == X.shape[1] else np.ascontiguousarray(X[:, list(kept)])
    check_rank(y.size, X.shape[1])
    check_response(y if offset is None else y - offset, X, endog_name)
    if source is not None:
        source = replace(source, kept=kept)
    return Design(
        endog=y,
        exog=X,
        exog_names=tuple(names[j] for j in kept),
        endog_name=endog_name,
        terms=tuple(terms),
        group_codes=group,
        n_groups=n_groups,
        weights=weights,
        offset=offset,
        index=index,
        dropped=tuple(name for j, name in enumerate(names) if j not in set(kept)),
        n_missing=n_missing,
        source=source,
    )
