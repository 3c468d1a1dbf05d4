"""Random effects of every level, fitted values and predictions for new rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from . import formula as fml
from . import matrices as mat
from .arguments import choice
from .design import Design
from .errors import DataError, of_new_data
from .estimates import Estimates
from .formula_terms import group_labels
from .layouts.waist import BlupTerms, Layout
from .programs import compiled
from .terms import RandomTerm, member_columns


def _all_blups(theta: jax.Array, beta: jax.Array, layout: Layout) -> tuple[BlupTerms, ...]:
    return layout.blups(theta, beta)


_blups = compiled(_all_blups)


class GroupEffects(NamedTuple):
    """Conditional moments of all random effects, whitened coordinates, one entry a bucket."""

    means: list[np.ndarray]  # (q, G)
    covariances: list[np.ndarray]  # (q, q, G)  relative to sigma^2


def group_effects(estimates: Estimates, design: Design) -> GroupEffects:
    """Conditional means (BLUPs) and covariances given y at the estimates."""
    with jax.enable_x64(True):
        theta, beta = jnp.asarray(estimates.theta_layout), jnp.asarray(estimates.beta_layout)
        parts = _blups(theta, beta, design.layout)
    means = [estimates.y_scale * np.asarray(part.b) for part in parts]
    return GroupEffects(means, [np.asarray(part.cov) for part in parts])


def level_effects(effects: GroupEffects, design: Design, t: int) -> np.ndarray:
    """Conditional means of the levels of term t in the coordinates of the data, (L, k)."""
    places, k = design.plan.level_maps[t], design.sizes[t]
    out = np.zeros((design.terms[t].n_levels, k))
    for b, means in enumerate(effects.means):
        at = places.bucket == b
        rows = places.slot[at][:, None] + np.arange(k)
        out[at] = means[rows, places.group[at][:, None]]
    return out @ np.asarray(design.layout.whiteners[t]).T


def level_covariances(
    effects: GroupEffects, design: Design, terms: Sequence[int], scale: float
) -> np.ndarray:
    """Joint conditional covariance of several terms on the same levels, (L, k, k)."""
    maps = [design.plan.level_maps[t] for t in terms]
    sizes = [design.sizes[t] for t in terms]
    n_levels, k = design.terms[terms[0]].n_levels, sum(sizes)
    slots = np.concatenate(
        [m.slot[:, None] + np.arange(s) for m, s in zip(maps, sizes, strict=True)], axis=1
    )
    A = np.zeros((k, k))
    start = 0
    for t, s in zip(terms, sizes, strict=True):
        A[start : start + s, start : start + s] = np.asarray(design.layout.whiteners[t])
        start += s
    out = np.zeros((n_levels, k, k))
    for b, cov in enumerate(effects.covariances):
        at = maps[0].bucket == b
        rows = slots[at]
        out[at] = cov[rows[:, :, None], rows[:, None, :], maps[0].group[at][:, None, None]]
    return scale * (A @ out @ A.T)


def terms_of_factors(terms: Sequence[RandomTerm]) -> dict[str, list[int]]:
    """Numbers of the terms that share a grouping factor, by its name."""
    out: dict[str, list[int]] = {}
    for t, term in enumerate(terms):
        out.setdefault(term.group, []).append(t)
    return out


def effect_frames(
    terms: Sequence[RandomTerm], effects: Sequence[np.ndarray]
) -> dict[str, pd.DataFrame]:
    """Effects of every factor: levels in the rows, coefficients in the columns."""
    out = {}
    for group, members in terms_of_factors(terms).items():
        values = np.concatenate([effects[t] for t in members], axis=1)
        columns = [name for t in members for name in terms[t].names]
        out[group] = pd.DataFrame(values, index=terms[members[0]].levels, columns=columns)
    return out


def covariance_frames(
    design: Design, effects: GroupEffects, scale: float
) -> dict[str, dict[Any, pd.DataFrame]]:
    """Conditional covariance of the effects of every level of every factor."""
    out = {}
    for group, members in terms_of_factors(design.terms).items():
        cov = level_covariances(effects, design, members, scale)
        names = [name for t in members for name in design.terms[t].names]
        levels = design.terms[members[0]].levels
        out[group] = {
            level: pd.DataFrame(S, index=names, columns=names)
            for level, S in zip(levels, cov, strict=True)
        }
    return out


def random_part(terms: Sequence[RandomTerm], effects: Sequence[np.ndarray]) -> np.ndarray:
    """``Z b`` for the rows of the design, (n,)."""
    total = np.zeros(terms[0].codes.shape[0])
    for term, b in zip(terms, effects, strict=True):
        total += np.einsum("nsk,nsk->n", term.values, b[term.codes])
    return total


def residuals(design: Design, estimates: Estimates, zb: np.ndarray) -> np.ndarray:
    """``y - X beta - Z b - offset`` without losing digits to a large mean of y."""
    y = design.endog if design.offset is None else design.endog - design.offset
    return (y - design.exog @ estimates.beta_shift) - design.exog @ estimates.beta_low - zb


def predict_new(
    design: Design,
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
    if groups is not None and len(groups) != len(data):
        raise DataError(f"groups has {len(groups)} entries but the new data {len(data)} rows")
    if offset is not None and np.shape(offset) != (len(data),):
        raise DataError(f"offset has the shape {np.shape(offset)} for {len(data)} rows")
    out = np.full(len(data), np.nan)
    used = design.expressions(effects is not None)
    keep = _complete(data, used, offset, None if effects is None else groups)
    if not keep.any():
        return out
    data = data.loc[keep]
    offset = None if offset is None else np.asarray(offset)[keep]
    groups = None if groups is None else pd.Index(groups)[keep]
    X = mat.replay(source.spec, data, context=source.context)[:, list(source.kept)]
    with of_new_data():
        mean = X @ estimates.beta + _new_offset(design, data, offset)
        for term, b in zip(design.terms, effects, strict=True) if effects is not None else ():
            mean = mean + _new_term(term, b, data, groups, new_levels, source.context)
    out[keep] = mean
    return out


def _complete(data: pd.DataFrame, expressions: Sequence[str], *arrays: Any) -> np.ndarray:
    """Rows in which nothing that the expressions and arrays hold is missing."""
    names = dict.fromkeys(name for e in expressions for name in fml.variables(e))
    missing = [data[name].isna().to_numpy() for name in names if name in data.columns]
    missing += [np.asarray(pd.isna(a)) for a in arrays if a is not None]
    return ~np.any(missing, axis=0) if missing else np.ones(len(data), dtype=bool)


def _new_offset(design: Design, data: pd.DataFrame, offset: Any) -> np.ndarray:
    source = design.source
    assert source is not None  # checked by the caller
    parts = [mat.evaluate(e, data, context=source.context) for e in source.offsets]
    if offset is not None:
        parts.append(np.asarray(offset, dtype=np.float64))
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
    codes, values = _new_codes(term, data.loc[known], labels[known], context)
    unseen = (codes < 0).any(axis=1)
    if unseen.any() and new_levels == "error":
        raise DataError(
            f"{term.group!r} has the new level {labels[int(np.argmax(unseen))]!r}: pass "
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
            values = data[expr] if expr in data else mat.labels(expr, data, context=context)
            known &= values.isin(list(categories)).to_numpy()
    return known


def _new_codes(
    term: RandomTerm, data: pd.DataFrame, labels: pd.Index[Any], context: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Levels (n, S), -1 where new, and covariates (n, S, k) of new rows."""
    if len(data) == 0:
        return np.zeros((0, 1), dtype=np.int64), np.zeros((0, 1, len(term.names)))
    values = mat.replay(term.source.spec, data, context=context)[:, list(term.source.columns)]
    if not term.is_component:
        return _lookup(term.levels, labels)[:, None], values[:, None, :]
    members, values = member_columns(values)
    names = pd.Index(term.source.spec.column_names)
    flat = [np.repeat(labels, members.shape[1]), names[np.maximum(members, 0).ravel()]]
    codes = term.levels.get_indexer(pd.MultiIndex.from_arrays(flat)).reshape(members.shape)
    return np.where(values == 0, 0, codes), values[:, :, None]


def _lookup(levels: pd.Index[Any], labels: pd.Index[Any]) -> np.ndarray:
    """Positions of labels among levels, -1 if new; a number matches its own spelling."""
    codes = np.asarray(levels.get_indexer(labels))
    if (codes < 0).any():  # the column may hold 308 where the fit had "308"
        codes = np.asarray(levels.astype(str).get_indexer(labels.astype(str)))
    return codes
