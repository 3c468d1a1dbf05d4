"""From responses to lanes: one program for complete columns, one for gaps or own weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from ..designs.checks import DEPENDENT_TOL, explained_exactly
from ..layouts.compress import layout_of_rows
from ..layouts.contract import Maps, maps_of
from ..layouts.equal_groups import Classes
from ..layouts.group_algebra import groups_there, reached
from ..layouts.group_index import GroupIndex, Table
from ..layouts.grouped import GroupedLayout
from ..numerics.namespace import NUMPY, namespace
from ..numerics.programs import compiled
from ..numerics.stacked import as_lanes, lanes_last
from .lane_compress import compress_many, lane_classes, merge_lanes
from .lane_criterion import NUMPY_SECONDS, LaneBucket, Lanes

# Numbers of rows with weights of their own that NumPy takes together: they stay in the cache.
_TOGETHER = 1 << 18


class Shared(NamedTuple):
    """What all responses have in common."""

    X: Any  # (n, p)
    Z: Any  # (n, S, k) a term
    weights: Any  # (n,)
    rows: GroupIndex  # where they go, without padding of rows
    classes: tuple[Classes | None, ...]  # one a bucket
    sigma2: Any  # (1,)  residual variance where it is known, or None


def share(
    X: np.ndarray,
    Z: tuple[np.ndarray, ...],
    weights: np.ndarray,
    index: GroupIndex,
    layout: GroupedLayout,
) -> Shared:
    """Collect what the responses share; ``layout`` is that of any response."""
    n, p = X.shape
    factors = [np.asarray(bucket.T) for bucket in layout.buckets]
    groups = tuple(_last_group(T) for T in factors)

    def tight(table: Table) -> Table:
        cells = table.n_cells if table.placements else groups[0]
        return replace(table, cell=table.cell[:n], n_cells=cells)

    rows = replace(
        index,
        levels=tuple(tight(table) for table in index.levels),
        pairs=tuple(tight(table) for table in index.pairs),
        n_groups=groups,
    )
    factors = [T[:, :, :g] for T, g in zip(factors, groups, strict=True)]
    known = None if layout.sigma2 is None else np.asarray(layout.sigma2)[None]
    return Shared(X, Z, weights, rows, tuple(lane_classes(T, p) for T in factors), known)


def _last_group(T: np.ndarray) -> int:
    """Number of the last group that is no padding: every lane would have to carry it."""
    filled = np.flatnonzero(groups_there(T))
    return int(filled[-1]) + 1 if filled.size else 1


def _shared_lanes(Y: Array, shared: Shared) -> Lanes:
    """Lanes of complete responses, (n, R)."""
    xp = namespace(Y, shared.X)
    at = compress_many(Y, shared.X, shared.Z, shared.weights, shared.rows)
    buckets = []
    groups = zip(at.T, at.X, at.y, shared.classes, shared.rows.widths, strict=True)
    for T, X, y, classes, widths in groups:
        if classes is None:
            copies = xp.ones(T.shape[2], T.dtype)
            X, y = X[:, :, :, None], y[:, :, None]
        else:
            T, X, y, copies = merge_lanes(T, X, y, classes)
        buckets.append(
            LaneBucket(T=T[..., None], X=X[..., None], y=y, copies=copies[:, None], widths=widths)
        )
    lanes = Lanes(
        buckets=tuple(buckets),
        S_xx=at.S_xx[..., None],
        S_xy=at.S_xy,
        S_yy=at.S_yy,
        usable=xp.ones(Y.shape[1], bool),
        **{**maps_of(at.maps), "sigma2": shared.sigma2},
    )
    return replace(lanes, usable=varies(Y, shared.weights[:, None], lanes))


def _masked_lanes(Y: Array, W: Array, shared: Shared) -> Lanes:
    """Lanes of responses (n, R) with weights of their own, zero where a row is missing."""
    X: Any = shared.X

    def one(y: Array, w: Array) -> tuple[Any, Array]:
        return layout_of_rows(y, X, shared.Z, w, shared.rows), independent(X, w)

    if namespace(Y, W) is NUMPY:
        step, parts = max(1, _TOGETHER // (X.size + 2 * len(X))), []
        for start in range(0, Y.shape[1], step):
            part = Y[:, start : start + step], W[:, start : start + step]
            parts.append(lanes_last(one(*as_lanes(part)), part[0].shape[1]))
        at, alone = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=-1), *parts)
    else:
        at, alone = jax.vmap(one, (1, 1), -1)(Y, W)
    p = at.S0.shape[0] - 1
    buckets = tuple(
        LaneBucket(
            T=b.T, X=b.c[:, :p, :, None], y=b.c[:, p, :, None], copies=b.copies, widths=b.widths
        )
        for b in at.buckets
    )
    lanes = Lanes(
        buckets=buckets,
        S_xx=at.S0[:p, :p],
        S_xy=at.S0[:p, p],
        S_yy=at.S0[p, p],
        usable=alone,
        **{**maps_of(at), "sigma2": shared.sigma2},
    )
    return replace(lanes, usable=alone & varies(Y, W, lanes))


shared_lanes = compiled(_shared_lanes, host=NUMPY_SECONDS)
masked_lanes = compiled(_masked_lanes, host=NUMPY_SECONDS)


def independent(X: Array, w: Array) -> Array:
    """Whether the rows that are there leave the columns of X independent."""
    xp = namespace(X, w)
    if X.shape[1] == 0:
        return xp.ones((), bool)
    gram = X.T @ (X * (w > 0).astype(X.dtype)[:, None])
    scale = xp.rsqrt(xp.diagonal(gram))
    L = xp.linalg.cholesky(gram * scale[:, None] * scale[None])
    return xp.min(xp.where(xp.isfinite(L), xp.diagonal(L), 0.0)) > DEPENDENT_TOL


def varies(Y: Array, W: Array, lanes: Lanes) -> Array:
    """What fit checks of one response: it is not constant, nor explained exactly; (R,).

    Where sigma is known, a response may be explained exactly.
    """
    ranks = sum(reached(b.T, b.copies) for b in lanes.buckets)
    return is_varied(Y, W, lanes, lanes.S_yy, ranks, lanes.S_xx.shape[0])


def is_varied(Y: Array, W: Array, maps: Maps, rss: Array, ranks: Any, p: int) -> Array:
    """See :func:`varies`.

    Parameters
    ----------
    Y, W : Array, shape (n, R)
        Responses and their weights.
    maps : Maps
        Lanes last.
    rss : Array, shape (R,)
        What neither X nor random effects explain.
    ranks : Array, shape (R,)
        Dimensions that the random effects reach.
    p : int
    """
    xp, there = namespace(Y, W, rss), W > 0
    high = xp.max(xp.where(there, Y, -np.inf), axis=0)
    low = xp.min(xp.where(there, Y, np.inf), axis=0)
    largest = xp.maximum(xp.abs(high), xp.abs(low))
    unit = Y * xp.where(there, 1.0 / xp.where(largest > 0, largest, 1.0)[None], 0.0)
    total = xp.sum(W, axis=0)
    centred = unit - (xp.sum(unit * W, axis=0) / total)[None]
    spread = xp.sqrt(xp.sum(W * centred * centred, axis=0))
    floor = explained_exactly(largest, spread, total)
    within = maps.y_scale * xp.sqrt(rss)
    exact = maps.y_scale <= floor
    if maps.sigma2 is None:
        exact = exact | ((maps.n_obs - ranks - p > 0) & (within <= floor))
    return (high > low) & ~exact & (maps.n_obs > p)
