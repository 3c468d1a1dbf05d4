"""From rows to the residual layouts: columns on a common scale, rows at the places of their groups.

Nothing is summed over the rows of a group: whatever R is, they are needed one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from ...covariance.residuals import terms_of
from ...numerics.namespace import namespace
from ..scaled_rows import maps_back, one_response, scaled_rows
from .bucket import ResidualBucket
from .chain_bucket import ChainBucket, one_later
from .chain_index import ChainBucketIndex, ChainIndex
from .field_bucket import FieldBucket
from .field_index import FieldBucketIndex, FieldIndex
from .fields import FieldLayout
from .index import BucketIndex, OfBuckets, ResidualIndex
from .layout import ResidualLayout
from .markov import MarkovLayout
from .subject_bucket import SubjectBucket
from .subject_index import SubjectBucketIndex, SubjectIndex
from .subjects import SubjectLayout


class _Rows(NamedTuple):
    """All rows in the layout's coordinates, times root weights."""

    XY: Array  # (n, p + 1)
    streams: list[Array]  # (n, k) a stream
    present: Array  # (n,)  1 where a row weighs something, otherwise 0
    maps: dict[str, Any]  # the way back


def _rows(
    y: Array,
    X: Array,
    Z: Sequence[Array],
    weights: Array,
    index: OfBuckets,
) -> _Rows:
    terms = terms_of(index.structures)
    rows, frame, XY, whiteners, streams = scaled_rows(
        y[:, None], X, Z, weights, terms, index.streams
    )
    xp, C = namespace(XY), XY.shape[1]
    of_residuals = (xp.zeros((0, 0), XY.dtype) for _ in index.structures[len(terms) :])
    maps = maps_back(
        rows,
        frame,
        (*whiteners, *of_residuals),
        xp.zeros((C - 1, 1), XY.dtype),
        index.structures,
        index.n_components,
    )
    maps["S0"] = xp.zeros((C, C), XY.dtype)
    return _Rows(XY, streams, rows.present.astype(XY.dtype), one_response(maps))


def residual_layout(
    y: Array, X: Array, Z: Sequence[Array], weights: Array, index: ResidualIndex
) -> ResidualLayout:
    """The layout of rows that weigh nothing where they are padding; see :func:`compress`."""
    rows = _rows(y, X, Z, weights, index)
    return ResidualLayout(
        buckets=tuple(_bucket(rows, at, index) for at in index.buckets),
        **rows.maps,
    )


def markov_layout(
    y: Array, X: Array, Z: Sequence[Array], weights: Array, index: ChainIndex
) -> MarkovLayout:
    """The same of residuals that depend on the row before: all rows weigh something."""
    rows = _rows(y, X, Z, weights, index)
    return MarkovLayout(
        buckets=tuple(_chain_bucket(rows, at, index) for at in index.buckets), **rows.maps
    )


def subject_layout(
    y: Array, X: Array, Z: Sequence[Array], weights: Array, index: SubjectIndex
) -> SubjectLayout:
    """The same of subjects who share random effects."""
    rows = _rows(y, X, Z, weights, index)
    return SubjectLayout(
        buckets=tuple(_subject_bucket(rows, at, index) for at in index.buckets), **rows.maps
    )


def _subject_bucket(rows: _Rows, at: SubjectBucketIndex, index: SubjectIndex) -> SubjectBucket:
    xp, here = namespace(rows.XY), _places(rows, at, index)
    c = xp.concatenate([here.Z, here.XY], axis=2)
    return SubjectBucket(
        c=xp.moveaxis(c, 2, 1),
        owner=None,
        present=here.present,
        copies=xp.ones(c.shape[1], c.dtype),
        places=xp.asarray(at.places, c.dtype),
        slopes=xp.asarray(at.slopes, c.dtype),
        widths=at.widths,
        arm=at.arm,
        n_groups=at.n_groups,
    )


def field_layout(y: Any, X: Any, Z: Sequence[Any], weights: Any, index: FieldIndex) -> FieldLayout:
    """The same of plots of fields, of NumPy's arrays: which of them weigh nothing makes shapes."""
    rows = _rows(y, X, Z, weights, index)
    return FieldLayout(
        buckets=tuple(_field_bucket(rows, at, index) for at in index.buckets), **rows.maps
    )


def _field_bucket(rows: _Rows, at: FieldBucketIndex, index: FieldIndex) -> FieldBucket:
    here: Any = _places(rows, at, index)
    absent = here.present == 0
    number = np.cumsum(absent.reshape(len(absent), -1), axis=1).reshape(absent.shape) - 1
    shape = (len(absent), int(number.max(initial=-1)) + 1, *absent.shape[1:])
    lost = np.zeros(shape, here.XY.dtype)
    field, row, column = np.nonzero(absent)
    lost[field, number[field, row, column], row, column] = 1.0
    c: Any = np.moveaxis(np.concatenate([here.Z, here.XY], axis=3), 3, 1)
    found: Any = np.ascontiguousarray(c), here.present, lost
    return FieldBucket(
        c=found[0],
        present=found[1],
        lost=found[2],
        widths=at.widths,
        arm=at.arm,
        n_groups=at.n_groups,
    )


def _chain_bucket(rows: _Rows, at: ChainBucketIndex, index: ChainIndex) -> ChainBucket:
    xp, XY = namespace(rows.XY), rows.XY
    places = xp.asarray(at.rows)
    follows = xp.asarray(at.follows, XY.dtype)
    slopes = xp.asarray(at.slopes, XY.dtype)
    q = sum(k * w for k, w in zip(index.sizes, at.widths, strict=True))
    Z = xp.zeros((places.shape[0], q, places.shape[1]), XY.dtype)
    numbers = xp.asarray(np.arange(q, dtype=np.int32)[None, :, None])
    for stream, first in zip(rows.streams, at.columns, strict=True):
        for j in range(stream.shape[1]):
            level = numbers == (xp.asarray(first) + j)[:, None]
            Z = Z + xp.where(level, stream[:, j][places][:, None], 0.0)
    fixed = xp.stack([column[places] for column in XY.T], axis=1)
    values = xp.concatenate([Z, fixed], axis=1)
    before = one_later(values) * follows[:, None]
    return ChainBucket(
        step=values - before,
        before=before,
        follows=follows,
        gaps=xp.asarray(at.gaps, XY.dtype),
        slopes=slopes,
        slopes_before=slopes + follows[None] * (one_later(slopes) - slopes),
        counts=rows.present[places],
        widths=at.widths,
        arm=at.arm,
        in_order=True,
    )


def _bucket(rows: _Rows, at: BucketIndex, index: ResidualIndex) -> ResidualBucket:
    xp, here = namespace(rows.XY), _places(rows, at, index)
    return ResidualBucket(
        Z=xp.moveaxis(here.Z, 2, 1),
        c=xp.moveaxis(here.XY, 2, 1),
        owner=None,
        present=here.present,
        copies=xp.ones(here.Z.shape[1], here.Z.dtype),
        subjects=None if at.subjects is None else xp.asarray(at.subjects),
        places=xp.asarray(at.places, here.Z.dtype),
        slopes=xp.asarray(at.slopes, here.Z.dtype),
        widths=at.widths,
        arm=at.arm,
    )


class _Places(NamedTuple):
    """Rows at the places of a bucket, zeros where there is none."""

    Z: Array  # (*S, q)  S is the shape of the places
    XY: Array  # (*S, p + 1)
    present: Array  # S


def _places(
    rows: _Rows, at: BucketIndex | SubjectBucketIndex | FieldBucketIndex, index: OfBuckets
) -> _Places:
    xp, XY = namespace(rows.XY), rows.XY
    q = sum(k * w for k, w in zip(index.sizes, at.widths, strict=True))
    places = xp.asarray(at.rows)
    there = rows.present[places]
    Z = xp.zeros((*places.shape, q), XY.dtype)
    columns = xp.asarray(np.arange(q, dtype=np.int32).reshape(*(1,) * places.ndim, q))
    for stream, first in zip(rows.streams, at.columns, strict=True):
        for j in range(stream.shape[1]):
            level = columns == (xp.asarray(first) + j)[..., None]
            Z = Z + xp.where(level, (stream[:, j][places] * there)[..., None], 0.0)
    return _Places(Z, XY[places] * there[..., None], there)


def present_first(index: ChainIndex, present: Array) -> ChainIndex:
    """The index with the places of rows that weigh nothing after the others, in JAX.

    Parameters
    ----------
    index : ChainIndex
    present : Array of bool, shape (n_rows,)
        Which rows weigh something: only when a program runs it is known which.
    """
    return replace(index, buckets=tuple(_present_first(at, present) for at in index.buckets))


def _present_first(at: ChainBucketIndex, present: Array) -> ChainBucketIndex:
    there = present[at.rows]
    order = jnp.argsort(~there, axis=1, stable=True)

    def moved(values: Any) -> Array:
        return jnp.take_along_axis(jnp.asarray(values), order, axis=1)

    follows, gaps = jnp.asarray(at.follows), jnp.asarray(at.gaps)
    series = moved(jnp.cumsum(1.0 - follows, axis=1))  # one a subject
    time = moved(jnp.cumsum(gaps, axis=1))
    same = (series[:, 1:] == series[:, :-1]) & moved(there)[:, 1:]
    # neighbours keep their gap to the last digit
    near = order[:, 1:] == order[:, :-1] + 1
    apart = jnp.where(near, moved(gaps)[:, 1:], time[:, 1:] - time[:, :-1])
    first = ((0, 0), (1, 0))
    places: dict[str, Any] = {
        "rows": moved(at.rows),
        "columns": tuple(moved(column) for column in at.columns),
        "follows": jnp.pad(same.astype(gaps.dtype), first),
        "gaps": jnp.pad(jnp.where(same, apart, 1.0), first, constant_values=1.0),
        "slopes": jnp.take_along_axis(jnp.asarray(at.slopes), order[None], axis=2),
    }
    return replace(at, **places)
