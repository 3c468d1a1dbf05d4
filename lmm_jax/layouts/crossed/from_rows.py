"""Rows of a crossed design: what its groups explain of them, and the core around the groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from jax import Array

from ...numerics.linalg import back_substitute
from ...numerics.namespace import namespace
from ..buckets import Bucket
from ..group_index import GroupIndex
from ..group_sums import cross_arrays, explain, group_fit
from .arrays import StartMoments
from .compress import core_rows, fit_rows, link_rows, two_way_fit, within_step, without_step
from .core import Core
from .index import CrossedIndex
from .links import Links, onto_groups


class RowFactors(NamedTuple):
    """What the groups explain of rows [X Y], Y measured from ``X step``."""

    T: list[Array]  # (q, q, G) a bucket
    c: list[Array]  # (q, p + R, G) a bucket: Q' [X Y]
    residual: Array  # (n, p + R)  what no group explains
    step: Array  # (p, R)  the within-group estimate


def row_factors(streams: Sequence[Array], XY: Array, p: int, index: GroupIndex) -> RowFactors:
    """Factors of the groups, and residual rows of R responses behind p columns of X.

    Parameters
    ----------
    streams : sequence of Array, shape (n, k)
        Whitened covariates of every stream of the groups, times the root weights.
    XY : Array, shape (n, p + R)
        Times the root weights.
    p : int
    index : GroupIndex
    """
    xp = namespace(streams, XY)
    T, c, residual = explain(streams, XY, index)
    left, right = xp.stop_gradient((residual[:, :p], residual[:, p:]))
    step = within_step(left.T @ left, left.T @ right)
    residual = xp.at(residual)[:, p:].add(-(residual[:, :p] @ step))
    c = [xp.at(v)[:, p:].add(-xp.einsum("rpg,pz->rzg", v[:, :p], step)) for v in c]
    return RowFactors(T, c, residual, step)


def buckets_of(groups: RowFactors, index: GroupIndex) -> tuple[Bucket, ...]:
    """The groups as they stand in a layout."""
    xp = namespace(groups.T)
    return tuple(
        Bucket(T=T, c=c, copies=xp.ones(T.shape[2], T.dtype), widths=w)
        for T, c, w in zip(groups.T, groups.c, index.widths, strict=True)
    )


class AroundCore(NamedTuple):
    """Groups and core of one response, y measured from effects of the core's levels."""

    buckets: tuple[Bucket, ...]
    links: tuple[Links, ...]
    core: Core
    moments: StartMoments
    residual: Array  # (n, p + 1)  what no group explains
    step: Array  # (p,)  fixed effects that y is measured from


def of_terms(streams: Sequence[Array], index: CrossedIndex, terms: Sequence[int]) -> list[Array]:
    """The streams of some terms."""
    return [stream for stream, t in zip(streams, index.streams, strict=True) if t in terms]


def around_core(
    streams: Sequence[Array], y_rows: Array, groups: RowFactors, index: CrossedIndex
) -> AroundCore:
    """The core of one response whose groups are known.

    Parameters
    ----------
    streams : sequence of Array, shape (n, k)
        Of all terms.
    y_rows : Array, shape (n, 1)
        OLS residual, times the root weights, for the moments of the start values.
    groups : RowFactors
        With R = 1.
    index : CrossedIndex
    """
    inner, outer = (of_terms(streams, index, at) for at in (index.eliminated, index.crossed))
    buckets = buckets_of(groups, index.groups)
    links, core, moments = link_rows(
        inner, outer, y_rows[:, 0], cross_arrays(inner, y_rows, index.groups), groups.residual,
        buckets, index,
    )  # fmt: skip
    found = AroundCore(buckets, links, core, moments, groups.residual, groups.step[:, 0])
    return _measured_from_effects(found, inner, outer, index)


def _measured_from_effects(
    at: AroundCore, inner: Sequence[Array], outer: Sequence[Array], index: CrossedIndex
) -> AroundCore:
    """Measure y from fixed effects of the core's levels."""
    xp = namespace(at.residual, inner, outer)
    residual, core = at.residual, at.core
    origin, step = two_way_fit(core, residual.T @ residual)
    buckets, coefficients = [], []
    for bucket, link in zip(at.buckets, at.links, strict=True):
        moved = onto_groups(link.d, origin, link, bucket.T.shape[2])
        y = without_step(bucket.c, step) - moved[:, 0]
        buckets.append(replace(bucket, c=xp.at(bucket.c)[:, -1].set(y)))
        coefficients.append(back_substitute(bucket.T, moved))
    left = fit_rows(outer, origin, index) - group_fit(inner, coefficients, index.groups)
    residual = xp.at(residual)[:, -1].add(-(residual[:, :-1] @ step) - left[:, 0])
    s = xp.at(core.s)[:, -1:].set(core_rows(outer, residual[:, -1:], index))
    return at._replace(
        buckets=tuple(buckets), residual=residual, step=at.step + step,
        core=replace(core, s=s, origin=origin),
    )  # fmt: skip
