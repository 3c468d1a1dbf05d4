"""Design matrices by formulaic: the columns of a right-hand side, for old and new data.

Formulaic reads the terms; what it would guess is an error here: unseen levels, missing
labels, values that are not finite.
"""

from __future__ import annotations

import builtins
import copy
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import scipy.sparse
from formulaic import ModelSpec, SimpleFormula
from formulaic.errors import DataMismatchWarning, FormulaicError
from formulaic.materializers import PandasMaterializer
from formulaic.materializers.types import FactorValues
from formulaic.transforms import TRANSFORMS
from formulaic.utils.layered_mapping import LayeredMapping
from formulaic.utils.stateful_transforms import stateful_eval, stateful_transform
from pandas.api.types import is_bool_dtype

from .errors import DataError, FormulaError, RankWarning, warn_user
from .formula import NAMESPACES, as_formula, names_in


class Matrix(NamedTuple):
    """Columns of a design and the spec that makes the same columns from new data."""

    values: Any  # (n, k) float64, C-contiguous, or a scipy.sparse array
    names: tuple[str, ...]  # (k,)
    spec: ModelSpec


@stateful_transform  # type: ignore[untyped-decorator]
def _as_numeric(x: Any, _state: dict[str, Any] | None = None) -> Any:
    """R's as.numeric: the codes 1, 2, ... of a categorical, otherwise the number itself."""
    if not isinstance(getattr(x, "dtype", None), pd.CategoricalDtype):
        return pd.to_numeric(x).astype("float64")
    state = {} if _state is None else _state
    levels = state.setdefault("levels", list(x.cat.categories))  # new data: the first data's codes
    codes = np.asarray(pd.Categorical(x, categories=levels).codes)
    return np.where(codes < 0, np.nan, codes + 1.0)


def _log(x: Any, base: float | None = None) -> Any:
    """R's log; the second argument of numpy's would be the array to write into."""
    return np.log(x) if base is None else np.log(x) / np.log(base)


_SUPPLIED: dict[str, Any] = {
    "log": _log,
    "sqrt": np.sqrt,
    "log1p": np.log1p,
    "expm1": np.expm1,
    "as_numeric": _as_numeric,
}


class _Materializer(PandasMaterializer):  # type: ignore[misc]
    """Formulaic's pandas reader with R's logicals, and errors where it would guess."""

    @PandasMaterializer.override  # type: ignore[untyped-decorator]
    def _is_categorical(self, values: Any) -> bool:
        dtype = getattr(values, "dtype", None)
        if dtype is not None and (isinstance(dtype, pd.StringDtype) or is_bool_dtype(dtype)):
            return True
        return bool(super()._is_categorical(values))

    @PandasMaterializer.override  # type: ignore[untyped-decorator]
    def _encode_evaled_factor(
        self, factor: Any, spec: Any, drop_rows: Sequence[int], reduced_rank: bool = False
    ) -> dict[str, Any]:
        dtype = getattr(factor.values, "dtype", None)
        if factor.metadata.kind.value == "numerical" and getattr(dtype, "kind", "f") not in "fiub":
            raise DataError(f"`{factor.expr}` has the type {dtype}: numbers or labels are needed")
        factor = _used_levels(factor)
        _check_levels(factor, spec)  # before: formulaic codes an unseen level as the reference
        columns: dict[str, Any] = super()._encode_evaled_factor(
            factor, spec, drop_rows, reduced_rank
        )
        _check_levels(factor, spec)  # after: C(x, levels=[...]) at the first build
        return columns


def _used_levels(factor: Any) -> Any:
    """The evaluated factor without unused levels, where it holds a pandas categorical."""
    values = getattr(factor.values, "__wrapped__", factor.values)
    if not isinstance(getattr(values, "dtype", None), pd.CategoricalDtype):
        return factor
    used = pd.Series(values).cat.remove_unused_categories()
    return replace(factor, values=FactorValues(used, metadata=factor.metadata))


def _check_levels(factor: Any, spec: Any) -> None:
    """Raise if a categorical factor has missing values or levels outside those of the spec."""
    known = spec.encoder_state.get(factor.expr, (None, {}))[1].get("categories")
    if known is None:
        return
    found = pd.unique(pd.Series(getattr(factor.values, "__wrapped__", factor.values)))
    if pd.isna(found).any():
        raise DataError(f"`{factor.expr}` has missing values: remove these rows")
    unseen = [level for level in found if level not in set(known)]
    if unseen:
        raise DataError(
            f"`{factor.expr}` has the level {_listed(unseen)}, which the model was not fitted to;"
            f" it knows {_listed(known)}"
        )


def _listed(levels: Sequence[Any]) -> str:
    """The first few of some levels."""
    return ", ".join(repr(x) for x in levels[:8]) + (", ..." if len(levels) > 8 else "")


def _columns_of(
    formula: SimpleFormula, data: pd.DataFrame, context: Mapping[str, Any], text: str
) -> pd.DataFrame:
    """The columns that a formula needs: no other column can hide a function of its name."""
    factors = {factor.expr: factor.eval_method.value for term in formula for factor in term.factors}
    codes = [(expr, kind == "python") for expr, kind in factors.items() if kind != "literal"]
    return data[_check_names(codes, data, context, text)]


def _quietly(run: Callable[[], Any]) -> Any:
    """Call into formulaic: numeric warnings off (results are checked), failures as `DataError`."""
    failures = (ArithmeticError, AttributeError, LookupError, NameError, TypeError, ValueError)
    try:
        with np.errstate(all="ignore"):
            return run()
    except DataError:
        raise
    except (FormulaicError, DataMismatchWarning, *failures) as error:
        raise DataError(str(error)) from error


def _materialize(
    spec: SimpleFormula | ModelSpec,
    frame: pd.DataFrame,
    context: Mapping[str, Any],
    output: str = "numpy",
) -> Any:
    """Formulaic's model matrix; a spec remembers its kind of output."""
    materializer = _Materializer(frame, context=LayeredMapping(context, _SUPPLIED))
    options = {} if isinstance(spec, ModelSpec) else {"na_action": "ignore", "output": output}
    return _quietly(lambda: materializer.get_model_matrix(spec, **options))


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
    matrix = _materialize(formula, _columns_of(formula, data, context, rhs), context, output)
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
    try:
        frame = _columns_of(spec.formula, data, context, str(spec.formula))
    except FormulaError as error:
        raise DataError(error.message) from error
    # formulaic writes into the state of a spec, also when it fails
    spec = spec.update(
        transform_state=copy.deepcopy(spec.transform_state),
        encoder_state=copy.deepcopy(spec.encoder_state),
    )
    names = tuple(str(name) for name in spec.column_names)
    return _checked(_materialize(spec, frame, context), names, len(data))


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
    frame = data[_check_names([(expr, True)], data, context, expr)]
    if (name := expr.strip().strip("`")) in frame.columns:
        return frame[name]  # a plain column, whatever its name
    env = LayeredMapping(frame, context, _SUPPLIED, TRANSFORMS)
    raw = _quietly(lambda: stateful_eval(expr, env, {}, {}, None))
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
    read = [names_in(code) if is_code else ([code], []) for code, is_code in codes]
    values = list(dict.fromkeys(name for names, _ in read for name in names))
    functions = list(dict.fromkeys(name for _, names in read for name in names))
    for name in values:
        if name not in data.columns and name not in context:
            raise _unknown("column", name, [str(column) for column in data.columns], rhs)
    for name in functions:
        supplied = {**TRANSFORMS, **_SUPPLIED}
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
