"""The rows that are predicted: those of the fit, or new ones read as the fit's were."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..designs.bars import labels_present
from ..designs.checks import finite_vector
from ..designs.data_frames import as_pandas
from ..designs.design import Design
from ..designs.labels import TermLabel
from ..designs.new_rows import expressions
from ..designs.residual_new import check_subjects, new_residual_rows
from ..designs.rows import are_complete
from ..designs.terms import RandomTerm, member_columns
from ..designs.variables import reference_of
from ..errors import DataError, RankWarning, of_new_data, warn_user
from ..formulas import matrices as mat
from ..formulas.contexts import check_found
from ..formulas.right_side import mentioned, written
from ..inference.contrasts.linear_functions import ESTIMABLE
from ..inference.effects.random_effects import TermRows
from ..inputs.arguments import items
from ..inputs.arrays import numbers, vector
from ..inputs.matching import find, label_shown
from ..inputs.names import unquoted
from ..layouts.residual.index import ResidualRows
from .kept import Kept


class Rows(NamedTuple):
    """n complete rows among the N that are predicted."""

    labels: pd.Index[Any]  # (N,)
    complete: np.ndarray  # (N,)   rows in which nothing is missing
    X: np.ndarray  # (n, p)
    offset: np.ndarray | float  # (n,)
    terms: tuple[TermRows, ...]  # of all terms, zero where one is no part of the mean, or empty
    weights: np.ndarray | float  # (n,)  prior weights
    residual: ResidualRows | None = None  # of new rows, where their residuals have a part
    own: bool = False  # the rows of the fit
    outside: tuple[TermRows, ...] = ()  # likewise of the terms that are none

    def column(self, values: np.ndarray) -> np.ndarray:
        """Values of the complete rows among all of them, (N,); NaN elsewhere."""
        out = np.full(len(self.labels), np.nan)
        out[self.complete] = values
        return out


Chosen = tuple[bool, ...]  # of every term: whether its random effects are part of the mean


def chosen_terms(conditional: Any, labels: Sequence[TermLabel]) -> Chosen:
    """Terms whose random effects are wanted: all, none, or those of some grouping factors."""
    if isinstance(conditional, bool | np.bool_):
        return (bool(conditional),) * len(labels)
    names, needed = [label.factor for label in labels], "True, False or names of grouping factors"
    wanted = (
        [conditional] if isinstance(conditional, str) else items(conditional, "conditional", needed)
    )
    for name in wanted:
        if not isinstance(name, str) or not any(_same(name, own) for own in names):
            there = ", ".join(map(repr, dict.fromkeys(names))) or "there are none"
            raise DataError(f"conditional={label_shown(conditional)}: {needed} ({there})")
    return tuple(any(_same(name, own) for name in wanted) for own in names)


def _same(name: str, factor: str) -> bool:
    """Whether a name is that of a factor: `a:b` is `b:a`."""
    parts = (sorted(map(unquoted, text.split(":"))) for text in (name, factor))
    return unquoted(name) == factor or next(parts) == next(parts)


def own_rows(design: Design, chosen: Chosen | None = None) -> Rows:
    """The rows of the fit; all terms are part of the mean if ``chosen`` is not given."""
    terms = [TermRows(term.codes, term.values) for term in design.terms]
    inside, outside = _divided((True,) * len(terms) if chosen is None else chosen, terms)
    return Rows(
        labels=design.index,
        complete=np.ones(design.nobs, dtype=bool),
        X=design.exog,
        offset=0.0 if design.offset is None else design.offset,
        terms=inside,
        weights=1.0 if design.weights is None else design.weights,
        own=True,
        outside=outside,
    )


def _divided(
    chosen: Chosen, terms: Sequence[TermRows]
) -> tuple[tuple[TermRows, ...], tuple[TermRows, ...]]:
    """Rows of the terms that are part of the mean, and of the others; empty where all are."""
    if all(chosen):
        return tuple(terms), ()
    if not any(chosen):
        return (), tuple(terms)
    none = [TermRows(*map(np.zeros_like, term)) for term in terms]
    pairs = list(zip(terms, none, chosen, strict=True))
    inside = tuple(term if take else zero for term, zero, take in pairs)
    return inside, tuple(zero if take else term for term, zero, take in pairs)


def fixed_rows(design: Design | Kept, newdata: Any) -> Rows:
    """X of new rows and nothing else of them."""
    source = design.source
    assert source is not None  # require has looked
    used = [text] if (text := written(source.spec.formula)) else []
    data = as_pandas(newdata, used)
    if source.lost:
        check_found(source.lost, mentioned(used), data.columns)
    keep, X = are_complete(data, used), np.zeros((0, len(source.kept)))
    if keep.any():
        whole = mat.replay(source.spec, data.loc[keep], context=source.context)
        X = whole[:, list(source.kept)]
    return Rows(data.index, keep, X, 0.0, (), 1.0)


def new_rows(
    design: Design | Kept,
    data: pd.DataFrame,
    chosen: Chosen,
    *,
    conditional: bool = False,
    noise: bool = False,
    groups: Any = None,
    offset: Any = None,
    weights: Any = None,
    new_levels: str = "error",
) -> Rows:
    """The rows of a frame.

    Parameters
    ----------
    design : Design or Kept
    data : DataFrame
        Columns of :func:`expressions`.
    chosen : tuple of bool
        Terms that are part of the mean, whose levels are read.
    conditional : bool
        Read where subjects stand whose residuals are correlated.
    noise : bool
        Read what the variance of an observation is a function of: the covariates of the other
        terms, and those of the residual variance.
    groups, offset, weights : array, shape (N,), optional
    new_levels : {"error", "population", "nan"}
        With "population" rows are complete without their groups.
    """
    source = design.source
    assert source is not None  # require has looked
    groups, offset = _new_arrays(design, data, groups, offset)
    weights = _new_weights(weights, data)
    used = expressions(design, chosen, conditional=conditional, noise=noise)
    if source.lost:
        check_found(source.lost, mentioned(used), data.columns)
    index = data.index
    grouped = new_levels != "population"
    if not grouped:
        used = expressions(design, chosen, conditional=conditional, noise=noise, groups=False)
    keep = are_complete(data, used, offset, weights, groups if grouped and any(chosen) else None)
    if not keep.any():
        return Rows(index, keep, np.zeros((0, len(source.kept))), 0.0, (), 1.0)
    data = data.loc[keep]
    offset = None if offset is None else offset[keep]
    groups = None if groups is None else pd.Series(groups[keep], index=data.index)
    whole_X = mat.replay(source.spec, data, context=source.context)
    X = whole_X[:, list(source.kept)]
    if X.shape[1] < whole_X.shape[1]:
        _warn_of_unestimable(design, whole_X)
    with of_new_data():
        given = _new_offset(design, data, offset)
        terms = [
            _new_term(term, data, groups, new_levels, source.context)
            if take
            else _new_covariates(term, data, new_levels, source.context)
            if noise
            else _no_covariates(term, len(data))
            for term, take in zip(design.terms, chosen, strict=True)
            if noise or any(chosen)
        ]
        residual = _new_residual(design, data, conditional, noise, new_levels)
    given_weights = 1.0 if weights is None else weights[keep]
    inside, outside = _divided(chosen, terms)
    return Rows(index, keep, X, given, inside, given_weights, residual, outside=outside)


def _new_residual(
    design: Design | Kept, data: pd.DataFrame, conditional: bool, noise: bool, new_levels: str
) -> ResidualRows | None:
    """Where rows stand beside a residual covariance, as far as it is asked for."""
    residual, source = design.residual, design.source
    if residual is None or source is None:
        return None
    whole = conditional and bool(residual.term.correlation)
    if not (whole or noise):
        return None
    found = new_residual_rows(residual, data, source.context, whole=whole)
    if whole and new_levels == "error":
        check_subjects(residual, found, data, source.context)
    return found


def _warn_of_unestimable(design: Design | Kept, matrix: np.ndarray) -> None:
    """Say that rows have means that the rows of the fit do not determine."""
    reference = reference_of(design) if isinstance(design, Design) else design.reference
    if reference is None or design.source is None:
        return
    kept = list(design.source.kept)
    dropped = np.setdiff1d(np.arange(matrix.shape[1]), kept)
    gap = matrix[:, dropped] - matrix[:, kept] @ reference.aliases
    size = np.maximum(np.abs(matrix).max(axis=1, initial=0.0), 1.0)
    count = int((np.abs(gap).max(axis=1, initial=0.0) > ESTIMABLE * size).sum())
    if count:
        warn_user(
            f"{count} of the {len(matrix)} rows have means that cannot be estimated: columns of X "
            "were dropped, and their predictions depend on which",
            RankWarning,
        )


def _new_weights(weights: Any, data: pd.DataFrame) -> np.ndarray | None:
    """Prior weights of new rows, NaN where missing."""
    if weights is None:
        return None
    weights = _column(data, weights, "weights")
    out = numbers(vector(weights, "weights", index=data.index), "weights")
    if len(out) != len(data):
        raise DataError(f"weights has {len(out)} entries but the new data {len(data)} rows")
    if not (np.isnan(out) | ((out > 0) & np.isfinite(out))).all():
        raise DataError("weights must be positive and finite: the residual variance is scale / w")
    return out


def _column(data: pd.DataFrame, given: Any, what: str) -> Any:
    """A column of the new data where its name is given."""
    if not isinstance(given, str):
        return given
    name = unquoted(given)
    if name not in data.columns:
        raise DataError(
            f"{what}={given!r} names no column of the new data: pass an array, or the name of one"
        )
    return data[name]


def _new_arrays(
    design: Design | Kept, data: pd.DataFrame, groups: Any, offset: Any
) -> tuple[Any, Any]:
    """Groups and offset of new rows as arrays, where the model was fitted to arrays of them.

    Either may be the name of a column of the new data.
    """
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
    groups, offset = (_column(data, *each) for each in ((groups, "groups"), (offset, "offset")))
    if groups is not None:
        groups = vector(groups, "groups", index=data.index)
    if offset is not None:
        offset = numbers(vector(offset, "offset", index=data.index), "offset")
    if groups is not None and len(groups) != len(data):
        raise DataError(f"groups has {len(groups)} entries but the new data {len(data)} rows")
    if offset is not None and len(offset) != len(data):
        raise DataError(f"offset has the shape {offset.shape} for {len(data)} rows")
    return groups, offset


def _new_offset(design: Design | Kept, data: pd.DataFrame, offset: Any) -> np.ndarray:
    source = design.source
    assert source is not None  # checked by the caller
    parts = source.offset_parts(data)
    if offset is not None:
        parts.append(finite_vector(offset, "offset", data.index))
    elif source.offset_array:
        raise DataError("the model was fitted with an offset array: pass offset= for the new rows")
    return np.sum(parts, axis=0) if parts else np.zeros(len(data))


def _new_term(
    term: RandomTerm, data: pd.DataFrame, groups: Any, new_levels: str, context: Any
) -> TermRows:
    """Levels and covariates of one term for new rows; anything unseen has the level -1."""
    if term.source.group:
        remembered = copy.deepcopy(dict(term.source.state))
        labels, present = labels_present(term.source.group, data, context, remembered)
    elif groups is not None:
        present = are_complete(data, (), groups)
        labels = groups.loc[present]
    else:
        raise DataError("the model was fitted with an array of groups: pass groups= for the rows")
    within, group = _within_groups(term), np.full(len(data), -1)
    group[present] = find(term.levels if within is None else within.levels[0], labels, term.group)
    known = _readable(term, data, new_levels, context)
    found = TermRows(*_new_codes(term, data.loc[known], group[known], context))
    unseen = found.unseen
    if unseen.any() and new_levels == "error":
        new = label_shown(labels.iloc[int(np.argmax(unseen))])
        raise DataError(
            f"{term.group!r} has the new level {new}: pass "
            "new_levels='population' to leave its random effect out, or 'nan'"
        )
    return found if known.all() else _spread(found, known)


def _no_covariates(term: RandomTerm, n: int) -> TermRows:
    """One term for n rows of which nothing is read."""
    return TermRows(np.zeros((n, 1), int), np.zeros((n, 1, len(term.names))))


def _new_covariates(
    term: RandomTerm, data: pd.DataFrame, new_levels: str, context: Any
) -> TermRows:
    """Covariates of one term for rows of no known level."""
    known = _readable(term, data, new_levels, context)
    if not known.any():
        return _spread(_no_covariates(term, 0), known)
    values = _replayed(term, data.loc[known], context)
    within = _within_groups(term) is not None
    values = member_columns(values)[1][:, :, None] if within else values[:, None, :]
    found = TermRows(np.full(values.shape[:2], -1), values)
    return found if known.all() else _spread(found, known)


def _readable(term: RandomTerm, data: pd.DataFrame, new_levels: str, context: Any) -> np.ndarray:
    """Rows whose covariates of a term can be told, (n,): all, where a new category is an error."""
    if new_levels == "error":  # the replay names the category
        return np.ones(len(data), dtype=bool)
    return _known_categories(term.source.spec, data, context)


def _spread(found: TermRows, known: np.ndarray) -> TermRows:
    """The rows among all of them: covariates with a new category are not known."""
    _, S, k = found.values.shape
    codes, values = np.full((len(known), S), -1), np.full((len(known), S, k), np.nan)
    codes[known], values[known] = found
    return TermRows(codes, values)


def _replayed(term: RandomTerm, data: pd.DataFrame, context: Any) -> Any:
    """Columns of a term for new rows, (n, K)."""
    return mat.replay(term.source.spec, data, context=context)[:, list(term.source.columns)]


def _known_categories(spec: Any, data: pd.DataFrame, context: Any) -> np.ndarray:
    """Rows whose categories the columns of a term were made with, (n,)."""
    known = np.ones(len(data), dtype=bool)
    for expr, (_, encoded) in spec.encoder_state.items():
        categories = encoded.get("categories")
        if categories is not None:
            own = copy.deepcopy(dict(spec.transform_state))
            plain = expr in data
            values = data[expr] if plain else mat.labels(expr, data, context=context, state=own)
            known &= find(pd.Index(list(categories)), values, expr) >= 0
    return known


def _within_groups(term: RandomTerm) -> pd.MultiIndex | None:
    """Levels of a term that are those of a column within each group; None of others."""
    levels = term.levels
    return levels if term.is_component and isinstance(levels, pd.MultiIndex) else None


def _new_codes(
    term: RandomTerm, data: pd.DataFrame, group: np.ndarray, context: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Levels (n, S), -1 where new, and covariates (n, S, k) of new rows of some groups, (n,)."""
    if len(data) == 0:
        return np.zeros((0, 1), dtype=np.int64), np.zeros((0, 1, len(term.names)))
    values = _replayed(term, data, context)
    levels = _within_groups(term)
    if levels is None:
        return group[:, None], values[:, None, :]
    members, values = member_columns(values)
    names = pd.Index(term.source.spec.column_names).take(np.array(term.source.columns))
    columns, group = levels.levels[1], group[:, None]
    column = columns.get_indexer(names)[np.maximum(members, 0)]
    known = levels.codes[0].astype(np.int64) * len(columns) + levels.codes[1]
    places = pd.Index(known).get_indexer((group * len(columns) + column).ravel())
    codes = np.where((group < 0) | (column < 0), -1, places.reshape(members.shape))
    return np.where(values == 0, 0, codes), values[:, :, None]
