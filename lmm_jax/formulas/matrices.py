"""Design matrices by formulaic: the columns of a right-hand side, for old and new data.

Formulaic reads the terms; what it would guess is an error here: unseen levels, missing
labels, values that are not finite.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import scipy.sparse
from formulaic import ModelSpec, SimpleFormula

from ..errors import DataError, RankWarning, of_new_data, warn_user
from ..inputs.matching import label_shown, row_shown
from ..inputs.names import unique
from .columns import plain, real
from .evaluation import Scope, resolve, shaped
from .evaluation import evaluate as evaluate_code
from .expressions import is_factor
from .materializer import materialize, quietly
from .right_side import as_formula, written
from .text import is_text, needs_numbers


class Matrix(NamedTuple):
    """Columns of a design and the spec that makes the same columns from new data."""

    values: Any  # (n, k) float64, C-contiguous, or a scipy.sparse array
    names: tuple[str, ...]  # (k,)
    spec: ModelSpec


def _scope(
    formula: SimpleFormula, data: pd.DataFrame, context: Mapping[str, Any], text: str
) -> Scope:
    """What a formula needs: no other column can hide a function of its name."""
    factors = {factor.expr: factor.eval_method.value for term in formula for factor in term.factors}
    codes = [(expr, kind == "python") for expr, kind in factors.items() if kind != "literal"]
    columns = resolve(codes, data, context, text)
    intercept = any(term.degree == 0 for term in formula)
    return Scope({name: plain(c, name) for name, c in columns.items()}, context, intercept)


def _checked(matrix: Any, names: Sequence[str], index: pd.Index[Any]) -> Any:
    """Model matrix as (n, k) float64, sparse if it was; raise on what is no finite number."""
    if scipy.sparse.issparse(matrix):
        sparse = scipy.sparse.csc_array(cast(Any, matrix), dtype=np.float64)
        if not np.isfinite(sparse.data).all():
            column = int(np.argmax([not np.isfinite(c.data).all() for c in sparse.T]))
            _check_finite(names[column], np.isfinite(sparse[:, [column]].toarray().ravel()), index)
        return sparse
    values = np.ascontiguousarray(matrix, dtype=np.float64)
    if values.shape != (len(index), len(names)):
        raise DataError(f"the terms give {values.shape[0]} rows for {len(index)} rows of data")
    for name, finite in zip(names, np.isfinite(values).T, strict=True):
        _check_finite(name, finite, index)
    return values


def _check_finite(name: str, finite: np.ndarray, index: pd.Index[Any]) -> None:
    """Raise for the first row of a column that is not finite."""
    if finite.all():
        return
    count, first = int((~finite).sum()), row_shown(int(np.flatnonzero(~finite)[0]), index)
    raise DataError(
        f"`{name}` is NaN or infinite in {count} of {finite.size} rows (first in {first}):"
        " remove these rows or change the transformation"
    )


def build(
    rhs: str,
    data: pd.DataFrame,
    *,
    context: Mapping[str, Any] | None = None,
    sparse: bool = False,
) -> Matrix:
    """Columns of a right-hand side, as `parse` or `parse_rhs` translated it.

    Strings and categoricals get treatment contrasts (unused levels dropped, strings sorted);
    booleans are categories as in R (`x[T.True]`); integers are numbers.

    Parameters
    ----------
    rhs : str
        For example `1 + x`.
    data : pandas.DataFrame, n rows
        Without missing values in the columns used.
    context : mapping, optional
        The caller's own functions and variables; columns of the data go first.
    sparse : bool
        Give the values as a scipy.sparse array, for factors of many levels.

    Returns
    -------
    Matrix
        values of shape (n, k), k = 0 for `0`.

    Raises
    ------
    FormulaError
        For a column or a function that does not exist.
    DataError
        For values that are not numbers, not finite, or do not fit the terms.

    Warns
    -----
    RankWarning
        For a factor with one level, whose contrasts have no column.
    """
    context = {} if context is None else context
    formula = as_formula(rhs)
    output = "sparse" if sparse else "numpy"
    matrix = materialize(formula, _scope(formula, data, context, rhs), data.index, output)
    spec: ModelSpec = matrix.model_spec
    for expr, (_, state) in spec.encoder_state.items():
        if len(state.get("categories", ())) == 1 and f"{expr}[" not in "".join(spec.column_names):
            level = label_shown(state["categories"][0])
            warn_user(f"`{expr}` has one level only, {level}: it adds no column", RankWarning)
    names = unique(str(name) for name in spec.column_names)
    return Matrix(values=_checked(matrix, names, data.index), names=names, spec=spec)


def build_full(
    spec: ModelSpec, data: pd.DataFrame, *, context: Mapping[str, Any] | None = None
) -> Matrix:
    """The terms of a spec with a column for every level of every factor, for its own data.

    Returns
    -------
    Matrix
        Dependent columns included: contrasts are left out.
    """
    scope = _scope(spec.formula, data, {} if context is None else context, written(spec.formula))
    spec = spec.update(
        ensure_full_rank=False,
        structure=None,
        transform_state=copy.deepcopy(spec.transform_state),
        encoder_state=copy.deepcopy(spec.encoder_state),
    )
    matrix = materialize(spec, scope, data.index)
    names = tuple(str(name) for name in matrix.model_spec.column_names)
    return Matrix(_checked(matrix, names, data.index), names, matrix.model_spec)


def replay(spec: ModelSpec, data: pd.DataFrame, *, context: Mapping[str, Any] | None = None) -> Any:
    """The columns of a spec for new data, with the levels, knots and means of the first data.

    Returns
    -------
    np.ndarray, shape (n, k)
        A sparse array if the spec was built with ``sparse=True``.

    Raises
    ------
    DataError
        For a column that is missing, a level that the spec does not know, or a value that is
        not finite.
    """
    context = {} if context is None else context
    with of_new_data():
        scope = _scope(spec.formula, data, context, written(spec.formula))
    # formulaic writes into the state of a spec, also when it fails
    spec = spec.update(
        transform_state=copy.deepcopy(spec.transform_state),
        encoder_state=copy.deepcopy(spec.encoder_state),
    )
    names = tuple(str(name) for name in spec.column_names)
    return _checked(materialize(spec, scope, data.index), names, data.index)


def evaluate(
    expr: str,
    data: pd.DataFrame,
    *,
    context: Mapping[str, Any] | None = None,
    state: dict[str, Any] | None = None,
) -> np.ndarray:
    """One numeric column, such as a response `log(y)` or an offset; booleans become 0 and 1.

    ``state`` is what was remembered of the first data, and keeps what is computed of these where
    it has nothing; without it `scale(x)` is scaled by the data at hand.

    Returns
    -------
    np.ndarray, shape (n,)

    Raises
    ------
    FormulaError
        For a column or a function that does not exist.
    DataError
        If the result is not one column of finite numbers.
    """
    name = f"`{expr.strip('`')}`"
    if is_factor(expr):
        raise DataError(f"{name} is a factor: numbers are needed, as_numeric of it for example")
    known = {} if state is None else state
    column = _column(expr, data, {} if context is None else context, exact=False, state=known)
    raw = real(plain(column, expr))
    if raw.dtype != np.float64:
        if is_text(raw):
            raise DataError(needs_numbers(raw, name))
        days = f", as.numeric({expr}) in days" if raw.dtype.kind in "mM" else ""
        raise DataError(f"{name} has the type {raw.dtype}: numbers are needed{days}")
    values = np.ascontiguousarray(raw.to_numpy())
    _check_finite(expr, np.isfinite(values), data.index)
    return values


def labels(
    expr: str,
    data: pd.DataFrame,
    *,
    context: Mapping[str, Any] | None = None,
    state: dict[str, Any] | None = None,
) -> pd.Series[Any]:
    """One column of any type, such as a grouping factor, as the expression gives it.

    ``state`` is what was remembered of the first data, as in :func:`evaluate`.

    Raises
    ------
    FormulaError, DataError
        As `evaluate`, whatever the type.
    """
    known = {} if state is None else state
    return _column(expr, data, {} if context is None else context, exact=True, state=known)


def _column(
    expr: str,
    data: pd.DataFrame,
    context: Mapping[str, Any],
    *,
    exact: bool,
    state: dict[str, Any],
) -> pd.Series[Any]:
    """One column; `exact` if its values are labels."""
    columns = resolve([(expr, True)], data, context, expr)
    if (name := expr.strip().strip("`")) in columns:
        return columns[name]  # a plain column, whatever its name
    scope = Scope({name: plain(column, name) for name, column in columns.items()}, context)
    run = lambda: evaluate_code(expr, scope, state=state, exact=exact)  # noqa: E731
    raw = quietly(run, columns, expr)
    raw = shaped(raw, expr, data.index)
    inner = getattr(raw, "__wrapped__", raw)
    values: Any = inner.array if isinstance(inner, pd.Series) else np.asarray(inner)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise DataError(
            f"`{expr}` gives an array of shape {values.shape}: one column of {len(data)} rows"
            " is needed"
        )
    if exact and pd.isna(values).any():
        raise DataError(f"`{expr}` has missing values: labels are needed in every row")
    return pd.Series(values, index=data.index)
