"""Formulaic's reader of data frames, with R's logicals and functions, and fewer guesses."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from formulaic import ModelSpec, SimpleFormula
from formulaic.errors import DataMismatchWarning, FormulaicError
from formulaic.materializers import PandasMaterializer
from formulaic.materializers.types import FactorValues
from pandas.api.types import is_bool_dtype

from ..errors import DataError, FormulaError, UnknownLabel
from ..inputs.matching import find, first_shown, spelling
from .columns import number, plain
from .evaluation import Scope, evaluate, shaped
from .text import are_numbers, text_in, warn_of_numbers

# How Python begins to say that text is no number.
_CONVERSION = "could not convert string"
# A dense matrix of fixed effects must not be larger.
_MOST_BYTES = 2 * 2**30


class _Columns(dict[str, Any]):
    """Columns that a formula reads, in the form that formulaic asks for."""

    def __init__(self, columns: Mapping[str, Any], rows: int) -> None:
        super().__init__(columns)
        self.shape = (rows, len(columns))


class _Materializer(PandasMaterializer):  # type: ignore[misc]
    """Formulaic's pandas reader with R's logicals, and errors where it would guess."""

    def __init__(self, scope: Scope, index: pd.Index[Any]) -> None:
        self.scope, self.index = scope, index
        super().__init__(_Columns(scope.columns, len(index)), context=scope.context)

    @PandasMaterializer.override  # type: ignore[untyped-decorator]
    def _init(self) -> None:
        """Columns stay what they are."""

    @PandasMaterializer.override  # type: ignore[untyped-decorator, prop-decorator]
    @property
    def nrows(self) -> int:
        """Number of rows, also of a formula without columns."""
        return int(self.data.shape[0])

    @PandasMaterializer.override  # type: ignore[untyped-decorator]
    def _lookup(self, name: str) -> tuple[Any, set[Any]]:
        return self._term(self.scope.value(name), name), set()

    @PandasMaterializer.override  # type: ignore[untyped-decorator]
    def _evaluate(self, expr: str, metadata: Any, spec: ModelSpec) -> tuple[Any, set[Any]]:
        state: MutableMapping[str, Any] = spec.transform_state
        value = evaluate(expr, self.scope, state=state, spec=spec)
        return self._term(value, expr), set()

    def _term(self, value: Any, expr: str) -> Any:
        """Values of a term: numbers in float64, text as labels."""
        value = shaped(value, expr, self.index)
        if isinstance(value, FactorValues):
            return value
        if isinstance(value, np.ndarray) and value.dtype.kind in "OUS" and value.ndim == 1:
            value = pd.Series(value)  # formulaic takes the labels of a series only
        if isinstance(value, pd.Series):
            value = plain(value, expr)
        elif isinstance(value, pd.DataFrame):
            return value.apply(number)
        return number(value)

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
        categorical = factor.metadata.kind.value == "categorical"
        before = spec.encoder_state.get(factor.expr)
        if before is not None and (before[0].value == "categorical") != categorical:
            was, now, how = ("labels", "numbers", "as by .astype(str) or pd.Categorical")
            if _are_logicals(_categories(factor, spec)):
                was, how = "logicals", "as by .astype(bool)"
            if categorical:
                was, now, how = ("numbers", "labels or logicals", "as by pd.to_numeric")
            raise DataError(
                f"`{factor.expr}` holds {now}, {was} in the data of the fit: convert the column, "
                f"{how}"
            )
        if not categorical and getattr(dtype, "kind", "f") not in "fiub":
            instead = _of_times(dtype, factor.expr)
            raise DataError(
                f"`{factor.expr}` has the type {dtype}: numbers or labels are needed{instead}"
            )
        if getattr(dtype, "kind", "") == "O" and pd.api.types.infer_dtype(factor.values) == "time":
            raise DataError(f"`{factor.expr}` holds times of day: numbers or labels are needed")
        if categorical:
            factor = _known_levels(_used_levels(factor), spec)
            if factor.expr not in spec.encoder_state and spec.output != "sparse":
                _check_size(factor, self.nrows, isinstance(dtype, pd.CategoricalDtype))
        _check_levels(factor, spec)  # before: formulaic codes an unseen level as the reference
        columns: dict[str, Any] = super()._encode_evaled_factor(
            factor, spec, drop_rows, reduced_rank
        )
        _check_levels(factor, spec)  # after: C(x, levels=[...]) at the first build
        return columns

    @PandasMaterializer.override  # type: ignore[untyped-decorator]
    def _flatten_encoded_evaled_factor(self, name: str, values: Any) -> dict[str, Any]:
        if isinstance(values, dict):  # levels as R prints them, 2 and 2024-01-01
            spelled = {spelling(level): column for level, column in values.items()}
            own = getattr(values, "__formulaic_metadata__", None)
            values = spelled if own is None else FactorValues(spelled, metadata=own)
        found: dict[str, Any] = super()._flatten_encoded_evaled_factor(name, values)
        return found

    @PandasMaterializer.override  # type: ignore[untyped-decorator]
    def _get_columns_for_term(
        self, factors: list[dict[str, Any]], spec: Any, scale: float = 1
    ) -> dict[str, Any]:
        count = math.prod(len(factor) for factor in factors)
        if spec.output != "sparse" and _gib(count, self.nrows) > _gib():
            name = ":".join(next(iter(factor)) for factor in factors)
            raise DataError(
                f"an interaction has {count:,} columns, the first of them `{name}`: for "
                f"{self.nrows:,} rows they need {_gib(count, self.nrows):,.0f} GiB (the limit is "
                f"{_gib():.0f} GiB). Use random effects for factors of many levels"
            )
        found: dict[str, Any] = super()._get_columns_for_term(factors, spec, scale)
        return found


def _of_times(dtype: Any, name: str) -> str:
    """What to write for dates and spans of time, periods and intervals."""
    if not name.isidentifier():
        return ""
    if isinstance(dtype, pd.PeriodDtype | pd.IntervalDtype):
        return f", `C({name})`"
    if getattr(dtype, "kind", "") not in ("m", "M"):
        return ""
    return f", `as.numeric({name})`, in days, or `C({name})`"


def _gib(columns: int = 1, rows: int = _MOST_BYTES // 8) -> float:
    """GiB of a matrix of float64."""
    return columns * rows * 8 / 2**30


def _check_size(factor: Any, rows: int, category: bool) -> None:
    """Raise for a factor of too many levels before anything is allocated for them."""
    values = factor.values.__wrapped__
    levels = values.cat.categories if isinstance(values, pd.Series) else pd.Index([])
    need = f"`{factor.expr}` has {len(levels):,} levels in {rows:,} rows"
    asked = category or factor.expr.startswith("C(")
    numbers, how = are_numbers(list(levels), many=2 * len(levels) > rows, measured=not asked)
    hint = f"; as numbers, {how}, it is one column" if numbers else ""
    if _gib(len(levels), rows) > _gib():
        raise DataError(
            f"{need}: their fixed effects need a matrix of {_gib(len(levels), rows):,.0f} GiB (the "
            f"limit is {_gib():.0f} GiB). Make it a random effect, (1 | g), or join levels{hint}"
        )
    if numbers:
        labels = "; as a factor, C(x)" if not asked and 2 * len(levels) <= rows else ""
        raise DataError(
            f"{need}, and most are text that looks like numbers: join levels{hint}{labels}"
        )
    if len(levels) >= rows > 2:
        raise DataError(
            f"{need}, a fixed effect for every row: make it a random effect, (1 | g), or join "
            "levels"
        )
    if not asked:
        warn_of_numbers(list(levels), factor.expr)


def _used_levels(factor: Any) -> Any:
    """The evaluated factor as a pandas categorical without unused levels."""
    values = getattr(factor.values, "__wrapped__", factor.values)
    if isinstance(getattr(values, "dtype", None), pd.CategoricalDtype):
        used = pd.Series(values).cat.remove_unused_categories()
    else:
        used = pd.Series(values).astype("category")
    return replace(factor, values=FactorValues(used, metadata=factor.metadata))


def _categories(factor: Any, spec: Any) -> pd.Index[Any] | None:
    """Levels that a spec has of a factor, if it was made before."""
    known = spec.encoder_state.get(factor.expr, (None, {}))[1].get("categories")
    return None if known is None else pd.Index(list(known), tupleize_cols=False)


def _are_logicals(levels: pd.Index[Any] | None) -> bool:
    return levels is not None and all(isinstance(level, bool | np.bool_) for level in levels)


def _known_levels(factor: Any, spec: Any) -> Any:
    """The factor in the levels of the spec, where its labels are theirs in another type."""
    known, values = _categories(factor, spec), factor.values.__wrapped__
    if known is None or known.equals(values.cat.categories):
        return factor
    places = find(known, values.cat.categories, factor.expr)
    if (places < 0).any():
        return factor
    codes = np.append(places, -1)[values.cat.codes]
    same = pd.Series(pd.Categorical.from_codes(codes, categories=known), index=values.index)
    return replace(factor, values=FactorValues(same, metadata=factor.metadata))


def _check_levels(factor: Any, spec: Any) -> None:
    """Raise if a categorical factor has missing values or levels outside those of the spec."""
    known = _categories(factor, spec)
    if known is None:
        return
    found = pd.unique(pd.Series(getattr(factor.values, "__wrapped__", factor.values)))
    if pd.isna(found).any():
        raise DataError(f"`{factor.expr}` has missing values: remove these rows")
    unseen = pd.Index(found)[find(known, found, factor.expr) < 0]
    if len(unseen):
        raise UnknownLabel(
            f"`{factor.expr}` has the level {first_shown(unseen)}, which the model was not fitted "
            f"to; it knows {first_shown(known)}"
        )


def _is_of_text(error: Any) -> bool:
    """Whether NumPy or pandas say that they cannot compute with text."""
    text = str(error)
    told = "ufunc" in text or "string" in text or "'str'" in text
    return isinstance(error, TypeError) and told


def quietly(run: Callable[[], Any], columns: Mapping[str, Any], expr: str = "") -> Any:
    """Call into formulaic: numeric warnings off (results are checked), failures as `DataError`.

    ``columns`` are those that it reads, and ``expr`` the expression if there is but one.
    """
    failures = (ArithmeticError, AttributeError, LookupError, NameError, TypeError, ValueError)
    try:
        with np.errstate(all="ignore"):
            return run()
    except (DataError, FormulaError):
        raise
    except (FormulaicError, DataMismatchWarning, *failures) as error:
        cause = error.__cause__
        if isinstance(cause, DataError | FormulaError):
            raise cause from None
        where = re.search(r"factor `(.*?)`[.:]", str(error))
        expr = expr or (where[1] if where is not None else "")
        what = text_in(expr, columns) if _CONVERSION in str(error) else ""
        if what or any(_is_of_text(one) for one in (cause, error)):
            what = what or text_in(expr, columns) or "numbers are needed"
            raise DataError(f"`{expr}` computes with what is text: {what}") from error
        raise DataError(str(error)) from error


def materialize(
    spec: SimpleFormula | ModelSpec, scope: Scope, index: pd.Index[Any], output: str = "numpy"
) -> Any:
    """Formulaic's model matrix; a spec remembers its kind of output."""
    materializer = _Materializer(scope, index)
    options = {} if isinstance(spec, ModelSpec) else {"na_action": "ignore", "output": output}
    return quietly(lambda: materializer.get_model_matrix(spec, **options), scope.columns)
