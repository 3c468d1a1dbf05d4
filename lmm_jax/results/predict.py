"""Residuals, and predictions for new rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..designs.bars import group_labels
from ..designs.checks import finite_vector
from ..designs.design import Design
from ..designs.terms import RandomTerm, member_columns
from ..errors import DataError, of_new_data
from ..formulas import matrices as mat
from ..formulas.contexts import check_found
from ..formulas.right_side import mentioned, variables
from ..inference.estimates import Estimates
from ..inputs.arguments import choice
from ..inputs.arrays import numbers, vector
from ..inputs.matching import find, shown
from .kept import Kept


def residuals(design: Design, estimates: Estimates, zb: np.ndarray) -> np.ndarray:
    """``y - X beta - Z b - offset`` without losing digits to a large mean of y."""
    y = design.endog if design.offset is None else design.endog - design.offset
    return (y - design.exog @ estimates.beta_shift) - design.exog @ estimates.beta_low - zb


def predict_new(
    design: Design | Kept,
    estimates: Estimates,
    data: pd.DataFrame,
    effects: Sequence[np.ndarray] | None,
    *,
    groups: Any,
    offset: Any,
    new_levels: str,
) -> np.ndarray:
    """Predictions for the rows of a frame; ``effects`` None leaves the random part out."""
    source = design.source
    assert source is not None  # require has looked
    choice(new_levels, "new_levels", ("error", "population", "nan"))
    groups, offset = _new_arrays(design, data, groups, offset)
    out = np.full(len(data), np.nan)
    used = design.expressions(effects is not None)
    if source.lost:
        check_found(source.lost, mentioned(used), data.columns)
    keep = _complete(data, used, offset, None if effects is None else groups)
    if not keep.any():
        return out
    data = data.loc[keep]
    offset = None if offset is None else offset[keep]
    groups = None if groups is None else pd.Series(groups[keep], index=data.index)
    X = mat.replay(source.spec, data, context=source.context)[:, list(source.kept)]
    with of_new_data():
        mean = X @ estimates.beta + _new_offset(design, data, offset)
        for term, b in zip(design.terms, effects, strict=True) if effects is not None else ():
            mean = mean + _new_term(term, b, data, groups, new_levels, source.context)
    out[keep] = mean
    return out


def _new_arrays(
    design: Design | Kept, data: pd.DataFrame, groups: Any, offset: Any
) -> tuple[Any, Any]:
    """Groups and offset of new rows as arrays, where the model was fitted to arrays of them."""
    source = design.source
    assert source is not None  # checked by the caller
    named = next((":".join(t.source.group) for t in design.terms if t.source.group), None)
    if groups is not None and named is not None:
        raise DataError(
            f"the model reads its groups from `{named}` of the new data: leave groups= out"
        )
    if offset is not None and not source.offset_array:
        raise DataError(
            "the model was not fitted with an array of offsets: leave offset= out, and give what "
            "offset() or a name of a column stands for among the new data"
        )
    if groups is not None:
        groups = vector(groups, "groups", index=data.index)
    if offset is not None:
        offset = numbers(vector(offset, "offset", index=data.index), "offset")
    if groups is not None and len(groups) != len(data):
        raise DataError(f"groups has {len(groups)} entries but the new data {len(data)} rows")
    if offset is not None and len(offset) != len(data):
        raise DataError(f"offset has the shape {offset.shape} for {len(data)} rows")
    return groups, offset


def _complete(data: pd.DataFrame, expressions: Sequence[str], *arrays: Any) -> np.ndarray:
    """Rows in which nothing that the expressions and arrays hold is missing."""
    names = dict.fromkeys(name for e in expressions for name in variables(e))
    missing = [data[name].isna().to_numpy() for name in names if name in data.columns]
    missing += [np.asarray(pd.isna(a)) for a in arrays if a is not None]
    return ~np.any(missing, axis=0) if missing else np.ones(len(data), dtype=bool)


def _new_offset(design: Design | Kept, data: pd.DataFrame, offset: Any) -> np.ndarray:
    source = design.source
    assert source is not None  # checked by the caller
    parts = [mat.evaluate(e, data, context=source.context) for e in source.offsets]
    if offset is not None:
        parts.append(finite_vector(offset, "offset"))
    elif source.offset_array:
        raise DataError("the model was fitted with an offset array: pass offset= for the new rows")
    return np.sum(parts, axis=0) if parts else np.zeros(len(data))


def _new_term(
    term: RandomTerm,
    b: np.ndarray,
    data: pd.DataFrame,
    groups: Any,
    new_levels: str,
    context: Any,
) -> np.ndarray:
    """``z' b`` of one term for new rows; rows with anything unseen follow ``new_levels``."""
    if term.source.group:
        labels = group_labels(term.source.group, data, context)
    elif groups is not None:
        labels = groups
    else:
        raise DataError("the model was fitted with an array of groups: pass groups= for the rows")
    known = np.ones(len(data), dtype=bool)
    if new_levels != "error":  # otherwise the replay below names the category
        known = _known_categories(term.source.spec, data, context)
    codes, values = _new_codes(term, data.loc[known], labels.loc[known], context)
    unseen = (codes < 0).any(axis=1)
    if unseen.any() and new_levels == "error":
        new = shown(labels.iloc[int(np.argmax(unseen))])
        raise DataError(
            f"{term.group!r} has the new level {new}: pass "
            "new_levels='population' to leave its random effect out, or 'nan'"
        )
    instead = np.nan if new_levels == "nan" else 0.0
    part = np.full(len(data), instead)
    seen = np.einsum("nsk,nsk->n", values, b[codes])
    part[known] = np.where(unseen, instead, seen)
    return part


def _known_categories(spec: Any, data: pd.DataFrame, context: Any) -> np.ndarray:
    """Rows whose categories the columns of a term were made with, (n,)."""
    known = np.ones(len(data), dtype=bool)
    for expr, (_, state) in spec.encoder_state.items():
        categories = state.get("categories")
        if categories is not None:
            state = spec.transform_state
            plain = expr in data
            values = data[expr] if plain else mat.labels(expr, data, context=context, state=state)
            known &= find(pd.Index(list(categories)), values, expr) >= 0
    return known


def _new_codes(
    term: RandomTerm, data: pd.DataFrame, labels: pd.Series[Any], context: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Levels (n, S), -1 where new, and covariates (n, S, k) of new rows."""
    if len(data) == 0:
        return np.zeros((0, 1), dtype=np.int64), np.zeros((0, 1, len(term.names)))
    values = mat.replay(term.source.spec, data, context=context)[:, list(term.source.columns)]
    if not isinstance(term.levels, pd.MultiIndex) or not term.is_component:
        return find(term.levels, labels, term.group)[:, None], values[:, None, :]
    members, values = member_columns(values)
    names = pd.Index(term.source.spec.column_names).take(np.array(term.source.columns))
    groups, columns = term.levels.levels
    group = find(groups, labels, term.group)[:, None]
    column = columns.get_indexer(names)[np.maximum(members, 0)]
    known = term.levels.codes[0].astype(np.int64) * len(columns) + term.levels.codes[1]
    places = pd.Index(known).get_indexer((group * len(columns) + column).ravel())
    codes = np.where((group < 0) | (column < 0), -1, places.reshape(members.shape))
    return np.where(values == 0, 0, codes), values[:, :, None]
