"""Design matrices by formulaic: the columns of a right-hand side, for old and new data.

Formulaic reads the terms; what it would guess is an error here: unseen levels, missing
labels, values that are not finite.
"""

from __future__ import annotations

import builtins
import copy
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import scipy.sparse
from formulaic import ModelSpec, SimpleFormula
from formulaic.transforms import TRANSFORMS
from formulaic.utils.layered_mapping import LayeredMapping
from formulaic.utils.stateful_transforms import stateful_eval

from .errors import DataError, FormulaError, RankWarning, of_new_data, warn_user
from .expressions import NAMESPACES, names_in
from .formula import as_formula
from .materializer import SUPPLIED, materialize, quietly


class Matrix(NamedTuple):
    """Columns of a design and the spec that makes the same columns from new data."""

    values: Any  # (n, k) float64, C-contiguous, or a scipy.sparse array
    names: tuple[str, ...]  # (k,)
    spec: ModelSpec


def _columns_of(
    formula: SimpleFormula, data: pd.DataFrame, context: Mapping[str, Any], text: str
) -> pd.DataFrame:
    """The columns that a formula needs: no other column can hide a function of its name."""
    factors = {factor.expr: factor.eval_method.value for term in formula for factor in term.factors}
    codes = [(expr, kind == "python") for expr, kind in factors.items() if kind != "literal"]
    return data[_check_names(codes, data, context, text)]


def _checked(matrix: Any, names: Sequence[str], n: int) -> Any:
    """Model matrix as (n, k) float64, sparse if it was; raise on what is no finite number."""
    if scipy.sparse.issparse(matrix):
        sparse = scipy.sparse.csc_array(cast(Any, matrix), dtype=np.float64)
        if not np.isfinite(sparse.data).all():
            column = int(np.argmax([not np.isfinite(c.data).all() for c in sparse.T]))
            _check_finite(names[column], np.isfinite(sparse[:, [column]].toarray().ravel()))
        return sparse
    values = np.ascontiguousarray(matrix, dtype=np.float64)
    if values.shape != (n, len(names)):
        raise DataError(f"the terms give {values.shape[0]} rows for {n} rows of data")
    for name, finite in zip(names, np.isfinite(values).T, strict=True):
        _check_finite(name, finite)
    return values


def _check_finite(name: str, finite: np.ndarray) -> None:
    """Raise for the first row of a column that is not finite."""
    if finite.all():
        return
    count, row = int((~finite).sum()), int(np.flatnonzero(~finite)[0])
    raise DataError(
        f"`{name}` is NaN or infinite in {count} of {finite.size} rows (first in row {row},"
        " counted from 0): remove these rows or change the transformation"
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
    matrix = materialize(formula, _columns_of(formula, data, context, rhs), context, output)
    spec: ModelSpec = matrix.model_spec
    for expr, (_, state) in spec.encoder_state.items():
        if len(state.get("categories", ())) == 1 and f"{expr}[" not in "".join(spec.column_names):
            message = f"`{expr}` has one level only, {state['categories'][0]!r}: it adds no column"
            warn_user(message, RankWarning)
    names = tuple(str(name) for name in spec.column_names)
    return Matrix(values=_checked(matrix, names, len(data)), names=names, spec=spec)


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
        frame = _columns_of(spec.formula, data, context, str(spec.formula))
    # formulaic writes into the state of a spec, also when it fails
    spec = spec.update(
        transform_state=copy.deepcopy(spec.transform_state),
        encoder_state=copy.deepcopy(spec.encoder_state),
    )
    names = tuple(str(name) for name in spec.column_names)
    return _checked(materialize(spec, frame, context), names, len(data))


def evaluate(
    expr: str, data: pd.DataFrame, *, context: Mapping[str, Any] | None = None
) -> np.ndarray:
    """One numeric column, such as a response `log(y)` or an offset; booleans become 0 and 1.

    Nothing is remembered for new data: `scale(x)` here is scaled by the data at hand.

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
    raw = labels(expr, data, context=context)
    if raw.dtype.kind not in "fiub":
        raise DataError(f"`{expr}` has the type {raw.dtype}: numbers are needed")
    values = np.ascontiguousarray(raw.to_numpy(dtype=np.float64, na_value=np.nan))
    _check_finite(expr, np.isfinite(values))
    return values


def labels(
    expr: str, data: pd.DataFrame, *, context: Mapping[str, Any] | None = None
) -> pd.Series[Any]:
    """One column of any type, such as a grouping factor, as the expression gives it.

    Raises
    ------
    FormulaError, DataError
        As `evaluate`, whatever the type.
    """
    context = {} if context is None else context
    columns = _check_names([(expr, True)], data, context, expr)
    if (name := expr.strip().strip("`")) in columns:
        return data[name]  # a plain column, whatever its name
    env = LayeredMapping(data[columns], context, SUPPLIED, TRANSFORMS)
    raw = quietly(lambda: stateful_eval(expr, env, {}, {}, None))
    values = getattr(raw, "__wrapped__", raw)
    values = values if isinstance(values, pd.Series) else np.asarray(values)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.shape != (len(data),):
        raise DataError(
            f"`{expr}` gives an array of shape {values.shape}: one column of {len(data)} rows"
            " is needed"
        )
    return pd.Series(np.asarray(values) if values is not raw else values, index=data.index)


def _check_names(
    codes: Sequence[tuple[str, bool]], data: pd.DataFrame, context: Mapping[str, Any], rhs: str
) -> list[str]:
    """Columns that factors (text, whether it is code) need; raise if a name is unknown."""
    read = [names_in(code) if is_code else ((code,), ()) for code, is_code in codes]
    values = list(dict.fromkeys(name for names, _ in read for name in names))
    functions = list(dict.fromkeys(name for _, names in read for name in names))
    for name in values:
        if name not in data.columns and name not in context:
            raise _unknown("column", name, [str(column) for column in data.columns], rhs)
    for name in functions:
        supplied = {**TRANSFORMS, **SUPPLIED}
        if name not in context and name not in supplied and name not in vars(builtins):
            raise _unknown("function", name, sorted(supplied.keys() - NAMESPACES), rhs)
    columns = [name for name in values if name in data.columns]
    for name in columns:
        if list(data.columns).count(name) > 1:
            raise DataError(f"the data has several columns named `{name}`: rename them")
        if name in functions:
            raise DataError(f"`{name}` is a column and a function here: rename the column")
    return columns


def _unknown(what: str, name: str, known: Sequence[str], rhs: str) -> FormulaError:
    """Error about a name that nobody defines, with the names that resemble it."""
    folded = {k.lower(): k for k in known if k != name}
    near = difflib.get_close_matches(name.lower(), list(folded), 3)
    place = "the data has no" if what == "column" else "there is no"
    hint = f"; did you mean {', '.join(f'`{folded[k]}`' for k in near)}?" if near else ""
    if what == "column" and name in known:
        hint = ": the data has that name as a number, columns are named by strings"
    if name == "ns":
        hint = "; formulaic's natural splines are `cr(x, df)`, its B-splines `bs(x, df)`"
    match = re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", rhs)
    return FormulaError(
        f"{place} {what} `{name}`{hint}", rhs, match.start() if match is not None else None
    )
