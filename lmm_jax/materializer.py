"""Formulaic's reader of data frames, with R's logicals and functions, and fewer guesses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from formulaic import ModelSpec, SimpleFormula
from formulaic.errors import DataMismatchWarning, FormulaicError
from formulaic.materializers import PandasMaterializer
from formulaic.materializers.types import FactorValues
from formulaic.utils.layered_mapping import LayeredMapping
from formulaic.utils.stateful_transforms import stateful_transform
from pandas.api.types import is_bool_dtype

from .errors import DataError


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


SUPPLIED: dict[str, Any] = {
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


def quietly(run: Callable[[], Any]) -> Any:
    """Call into formulaic: numeric warnings off (results are checked), failures as `DataError`."""
    failures = (ArithmeticError, AttributeError, LookupError, NameError, TypeError, ValueError)
    try:
        with np.errstate(all="ignore"):
            return run()
    except DataError:
        raise
    except (FormulaicError, DataMismatchWarning, *failures) as error:
        raise DataError(str(error)) from error


def materialize(
    spec: SimpleFormula | ModelSpec,
    frame: pd.DataFrame,
    context: Mapping[str, Any],
    output: str = "numpy",
) -> Any:
    """Formulaic's model matrix; a spec remembers its kind of output."""
    materializer = _Materializer(frame, context=LayeredMapping(context, SUPPLIED))
    options = {} if isinstance(spec, ModelSpec) else {"na_action": "ignore", "output": output}
    return quietly(lambda: materializer.get_model_matrix(spec, **options))
