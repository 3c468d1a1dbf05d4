"""The stratified layout of a model whose residuals are independent; see :mod:`.strata`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ...covariance.correlations import Independent
from ...covariance.residuals import arms_of
from ..choice import Choice, choose_within
from ..contract import Layout, maps_of
from ..crossed.compress import core_products, core_rows
from ..crossed.core import KEPT
from ..crossed.from_rows import AroundCore, around_core, of_terms, row_factors
from ..crossed.index import CrossedIndex, CrossedPlan, plan_crossed
from ..crossed.links import add_pairs
from .chain_bucket import ChainBucket
from .markov import MarkovLayout
from .strata import StrataSums, StratifiedLayout

# Columns of the random effects from which dense matrices of all are slower, and numbers in the
# cores of all strata up to which these are not.
_MANY_COLUMNS, _MOST_NUMBERS = 48, 3e7


class _Rows(NamedTuple):
    """The rows of a chain, as the layout's coordinates have them."""

    XY: np.ndarray  # (n, p + 1)
    codes: list[np.ndarray]  # (n, 1) a term
    streams: list[np.ndarray]  # (n, k)
    n_levels: list[int]
    stratum: np.ndarray  # (n,)
    slopes: np.ndarray  # (m_s, S)


def stratify(layout: MarkovLayout) -> Layout:
    """The layout for optimization of crossed effects with a residual variance a stratum.

    Parameters
    ----------
    layout : MarkovLayout
        Arrays of NumPy, whose links are rows.

    Returns
    -------
    Layout
        ``layout`` itself where there are no strata, where groups in one stratum each leave no
        smaller core, or where it is small already.
    """
    bucket = layout.buckets[0]
    if len(layout.buckets) > 1 or not _has_strata(layout, bucket):
        return layout
    rows = _rows_of(layout, bucket)
    if rows is None:
        return layout
    structures = layout.structures[:-1]
    sizes = [structure.k for structure in structures]
    choice = choose_within(rows.stratum, rows.codes, rows.n_levels, sizes)
    if choice is None:
        return layout
    plan = plan_crossed(
        choice.group, choice.n_groups, rows.codes, rows.n_levels, structures,
        choice.eliminated, "the random effects", layout.n_components,
    )  # fmt: skip
    columns, strata = plan.core_size, rows.slopes.shape[1]
    headed = any(link.head is not None for link in plan.index.links)
    if plan.n_blocks > 1 or headed or columns > KEPT or columns**2 * strata > _MOST_NUMBERS:
        return layout
    return _stratified(layout, rows, _owners(rows, choice, plan), plan.index)


def _has_strata(layout: MarkovLayout, bucket: ChainBucket) -> bool:
    """Whether all random effects stand together, and residuals differ by levels alone."""
    residual, _ = arms_of(layout.structures)[-1]
    alone = isinstance(residual.correlation, Independent) and not residual.spread.of
    columns = bucket.step.shape[1] - layout.S0.shape[0]
    return alone and bucket.in_order and len(bucket.step) == 1 and columns >= _MANY_COLUMNS


def _rows_of(layout: MarkovLayout, bucket: ChainBucket) -> _Rows | None:
    """The rows of the only group; None where one belongs to several levels of a term."""
    there = np.asarray(bucket.counts)[0] > 0
    values = (np.asarray(bucket.step) + np.asarray(bucket.before))[0][:, there]
    codes, streams, start = [], [], 0
    for k, w in zip(layout.sizes[:-1], bucket.widths, strict=False):
        block = values[start : start + k * w].reshape(w, k, -1)
        met = (block != 0).any(axis=1)
        if (met.sum(axis=0) > 1).any():
            return None
        code = met.argmax(axis=0)
        codes.append(code[:, None])
        streams.append(block[code, :, np.arange(code.size)])
        start += k * w
    slopes = np.asarray(bucket.slopes)[:, 0][:, there]
    kinds, stratum = np.unique(slopes, axis=1, return_inverse=True)
    n_levels = list(bucket.widths[: len(codes)])
    return _Rows(values[start:].T, codes, streams, n_levels, stratum.reshape(-1), kinds)


def _stratified(
    layout: MarkovLayout, rows: _Rows, owners: tuple[Any, ...], index: CrossedIndex
) -> StratifiedLayout:
    fill = index.n_rows - len(rows.XY)

    def padded(values: np.ndarray) -> Any:
        return np.pad(values, ((0, fill), *((0, 0) for _ in values.shape[1:])))

    XY, streams = padded(rows.XY), [padded(z) for z in rows.streams]
    stratum = padded(rows.stratum)
    p = XY.shape[1] - 1
    groups = row_factors(of_terms(streams, index, index.eliminated), XY, p, index.groups)
    at = around_core(streams, XY[:, p:], groups, index)
    maps = maps_of(layout)  # y is measured from X step, so that beta begins there
    maps["beta_origin"] = layout.beta_origin + layout.y_scale * (layout.beta_map @ at.step)
    return StratifiedLayout(
        buckets=at.buckets,
        links=at.links,
        owners=owners,
        sums=_sums(streams, rows, stratum, owners, at, index),
        origin=at.core.origin,
        levels=layout.level_counts(),
        core_widths=index.core_widths,
        eliminated=index.eliminated,
        crossed=index.crossed,
        S0=np.zeros_like(layout.S0),  # type: ignore[arg-type]
        **maps,
    )


def _owners(rows: _Rows, choice: Choice, plan: CrossedPlan) -> tuple[np.ndarray, ...]:
    """Stratum of the groups of every bucket; that of a group without rows is the first."""
    stratum = np.zeros(choice.n_groups, np.int32)
    stratum[choice.group] = rows.stratum
    # the groups are the levels of one of the terms
    own = next(t for t in choice.eliminated if np.array_equal(rows.codes[t][:, 0], choice.group))
    at, owners = plan.level_maps[own], []
    for b, count in enumerate(plan.index.groups.n_groups):
        owner, here = np.zeros(count, np.int32), at.bucket == b
        owner[at.group[here]] = stratum[here]
        owners.append(owner)
    return tuple(owners)


def _sums(
    streams: Sequence[Any],
    rows: _Rows,
    stratum: np.ndarray,
    owners: Sequence[np.ndarray],
    at: AroundCore,
    index: CrossedIndex,
) -> StrataSums:
    """What the groups leave of every stratum: the core's sums with a block of their own for each.

    ``stratum`` is that of the rows with those that fill them up, of zeros.
    """
    n, left = rows.slopes.shape[1], at.residual
    apart = replace(index, block=stratum, n_blocks=n)
    outer = of_terms(streams, index, index.crossed)
    S: Any = core_products(outer, apart)
    for bucket, link, owner in zip(at.buckets, at.links, owners, strict=True):
        own = replace(link, block=owner[link.group])  # type: ignore[arg-type]
        less: Any = np.broadcast_to(-np.eye(len(bucket.T))[:, :, None], bucket.T.shape)
        S = add_pairs(S, less, own, (-link.d, link.d))
    arrays: dict[str, Any] = dict(
        S0=np.stack([left[stratum == i].T @ left[stratum == i] for i in range(n)], axis=-1),
        counts=np.bincount(rows.stratum, minlength=n).astype(float),
        squares=np.bincount(rows.stratum, rows.XY[:, -1] ** 2, minlength=n),
        slopes=rows.slopes,
    )
    return StrataSums(S=S, s=core_rows(outer, left, apart), **arrays)
