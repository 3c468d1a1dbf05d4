"""The terms of the fixed effects: what they are made of, their columns, and one for every level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import DataError
from ..formulas import matrices as mat
from ..formulas.right_side import variables, written
from ..inputs.matching import spelling
from ..inputs.names import unique
from .design import Design
from .fixed_source import FixedSource
from .schema import factor_columns

# Rows for a column of X on which two matrices are compared, and what they may differ by.
_ROWS, _SAME = 20, 1e-8
_NOT_INVENTED = (
    "an analysis of variance of type III needs the rows here, and these are gone: take type=2, or "
    "res.wald_test_terms() of a fit with sum contrasts, C(f, contr.sum)"
)


class Term(NamedTuple):
    """A term of the fixed effects' formula."""

    factors: frozenset[str]  # categorical variables, and numeric ones of several columns
    covariates: frozenset[str]  # numeric ones of one column

    def is_within(self, other: Term) -> bool:
        """Whether the other contains this one: more factors, the same covariates."""
        return self.factors < other.factors and self.covariates == other.covariates

    def is_marginal_to(self, other: Term) -> bool:
        """Whether all variables of this one are in the other, covariates or not (car's rule)."""
        return self.factors | self.covariates < other.factors | other.covariates


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedTerms:
    """Terms of a formula by name, in its order."""

    terms: Mapping[str, Term]  # without the intercept
    columns: Mapping[str, Sequence[int]]  # of X, those left out for rank not counted


class FullMatrix(NamedTuple):
    """The fixed effects' matrix with a column for every level of every factor."""

    values: np.ndarray  # (n, P)
    places: Mapping[str, slice]  # columns of every term, the intercept included
    n_first: np.ndarray  # (P,)  factors of the column that are at their first level


def fixed_terms(design: Design) -> FixedTerms:
    """Terms of a design; without a formula every column that varies is one."""
    if design.source is None:
        constant = (design.exog == design.exog[:1]).all(axis=0)
        names = zip(design.exog_names, constant, strict=True)
        terms = {name: Term(frozenset(), frozenset([name])) for name, is_one in names if not is_one}
        return FixedTerms(terms=terms, columns={n: [j] for j, n in enumerate(design.exog_names)})
    spec = design.source.spec
    kinds = {expr: kind.value for expr, (kind, _) in spec.encoder_state.items()}
    marked = [f":{name}" for name in spec.column_names]
    several = {expr for expr in kinds if any(f":{expr}[" in name for name in marked)}
    terms = {}
    for name, term in zip(term_names(spec), spec.term_slices, strict=True):
        used = [f.expr for f in term.factors]
        if term.degree > 0:
            factors = frozenset(e for e in used if kinds.get(e) == "categorical" or e in several)
            terms[name] = Term(factors, frozenset(used) - factors)
    return FixedTerms(terms=terms, columns=columns_of_terms(design.source))


def columns_of_terms(source: FixedSource) -> dict[str, list[int]]:
    """Columns of X that belong to each term of the formula, those left out for rank not counted."""
    place = {column: j for j, column in enumerate(source.kept)}
    slices = source.spec.term_slices.values()
    return {
        name: [place[c] for c in range(at.start, at.stop) if c in place]
        for name, at in zip(term_names(source.spec), slices, strict=True)
    }


def term_columns(design: Any) -> dict[str, list[int]]:
    """Columns of X of the terms that have any, of a design or of what is kept of one.

    Without a formula every column is a term of its own.
    """
    if design.source is None:
        return {name: [j] for j, name in enumerate(design.exog_names)}
    found = columns_of_terms(design.source)
    return {name: columns for name, columns in found.items() if columns}


def term_coefficients(design: Any, names: Sequence[str]) -> dict[str, list[str]]:
    """Names of the fixed effects of every term; none where the design is not known (None)."""
    at = {} if design is None else term_columns(design)
    return {term: [names[j] for j in columns] for term, columns in at.items()}


def term_names(spec: Any) -> tuple[str, ...]:
    """Names of the terms of a spec, in its order."""
    return unique("Intercept" if str(term) == "1" else str(term) for term in spec.term_slices)


def full_matrix(design: Design, at: FixedTerms, X: np.ndarray) -> FullMatrix:
    """A column for every level of every factor, whatever the contrasts of X.

    Its rows are those of X, the matrix of the design or a root of its cross-products.
    """
    if design.source is None:
        places = {name: slice(c[0], c[0] + 1) for name, c in at.columns.items()}
        return FullMatrix(design.exog, places, np.zeros(design.exog.shape[1], dtype=int))
    source = design.source
    if source.rows is None:
        matrix, values = _of_invented_rows(source, X)
    else:
        matrix = mat.build_full(source.spec, source.rows, context=source.context)
        values = matrix.values
    slices = dict(zip(term_names(matrix.spec), matrix.spec.term_slices.values(), strict=True))
    first = [
        f"{expr}[{spelling(state['categories'][0])}]"
        for expr, (kind, state) in matrix.spec.encoder_state.items()
        if kind.value == "categorical"
    ]
    names = [f":{name}:" for name in matrix.spec.column_names]  # a level may hold a colon itself
    n_first = np.array([sum(f":{part}:" in name for part in first) for name in names], dtype=int)
    return FullMatrix(values=values, places=slices, n_first=n_first)


def _of_invented_rows(source: FixedSource, X: np.ndarray) -> tuple[mat.Matrix, np.ndarray]:
    """The columns as combinations of those of X, found on rows with all levels of the factors."""
    rows = _invented_rows(source)
    try:
        matrix = mat.build_full(source.spec, rows, context=source.context)
        kept = mat.replay(source.spec, rows, context=source.context)[:, list(source.kept)]
    except Exception as error:  # whatever a function says to values that it was not made for
        raise DataError(_NOT_INVENTED) from error
    combined, _, rank, _ = np.linalg.lstsq(kept, matrix.values, rcond=None)
    most = np.abs(matrix.values).max(initial=0.0)
    off = np.abs(kept @ combined - matrix.values).max(initial=0.0)
    if rank < kept.shape[1] or off > _SAME * most:
        raise DataError(_NOT_INVENTED)
    return matrix, X @ combined


def _invented_rows(source: FixedSource) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n = _ROWS * max(len(source.spec.column_names), 1)
    data: dict[str, Any] = {}
    for factor in dict.fromkeys(f for term in source.spec.formula for f in term.factors):
        kind, state = source.spec.encoder_state.get(factor.expr, (None, {}))
        names = factor_columns(factor)
        if kind is not None and kind.value == "categorical" and len(names) == 1:
            data[names[0]] = rng.permutation(np.resize(np.asarray(state["categories"]), n))
        elif factor.eval_method.value == "lookup":  # whatever the caller calls by this name
            data[names[0]] = rng.uniform(1.0, 2.0, n)
    for name in variables(written(source.spec.formula)):
        if name not in data and name not in source.context:
            data[name] = rng.uniform(1.0, 2.0, n)
    return pd.DataFrame(data, index=range(n))
