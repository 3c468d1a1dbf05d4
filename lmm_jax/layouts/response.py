"""A layout with another response: what depends on y, apart from what does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from jax import Array

from ..numerics.namespace import namespace
from .buckets import Bucket
from .moments import MomentBucket
from .residual.bucket import ResidualBucket
from .residual.chain_bucket import ChainBucket, with_response
from .residual.field_bucket import FieldBucket
from .residual.subject_bucket import SubjectBucket

_AnyBucket = Bucket | MomentBucket | ResidualBucket | ChainBucket | SubjectBucket | FieldBucket


class Response(NamedTuple):
    """The part of a layout that a response makes."""

    y: tuple[
        Array, ...
    ]  # a bucket: (q, G) or (r, G) c_y, (G, l) rows, or (q, p + 1, q, D) y columns of B
    S0: Array  # (p + 1,)  the y column of S0
    core: tuple[Array, Array] | None = None  # (N, B) the y column of s, and y's origin


def attach(layout: Any, response: Response) -> Any:
    """The layout with its response replaced.

    Parameters
    ----------
    layout : Layout
        With groups, a core, or a residual covariance.
    response : Response
        In the coordinates of the layout.

    Returns
    -------
    Layout
        Of the same kind.
    """
    p = layout.S0.shape[0] - 1
    xp = namespace(layout.S0, response.S0)
    S0 = xp.at(xp.at(layout.S0)[p].set(response.S0))[:, p].set(response.S0)
    parts = zip(layout.buckets, response.y, strict=True)
    buckets = tuple(_attach(b, y) for b, y in parts)
    if response.core is None:
        return replace(layout, S0=S0, buckets=buckets)
    s, origin = response.core
    core = replace(layout.core, s=xp.at(layout.core.s)[:, -1].set(s), origin=origin[:, None])
    return replace(layout, S0=S0, buckets=buckets, core=core)


def first_groups(responses: Response, layout: Any) -> Response:
    """Responses with a leading axis of lanes for a layout that has fewer groups: the first."""
    parts = zip(layout.buckets, responses.y, strict=True)
    y = tuple(y[..., : b.T.shape[2]] if isinstance(b, Bucket) else y for b, y in parts)
    return responses._replace(y=y)


def response_over_columns(
    response: Response, layout: Any, change: Callable[[Array, int], Array]
) -> Response:
    """Responses with a leading axis of lanes for ``layout.over_columns(change)``."""
    parts = zip(layout.buckets, response.y, strict=True)
    y = tuple(change(y, 2) if isinstance(b, MomentBucket) else y for b, y in parts)
    return response._replace(y=y, S0=change(response.S0, 1))


def _attach(bucket: _AnyBucket, y: Array) -> _AnyBucket:
    if isinstance(bucket, ChainBucket):
        return with_response(bucket, y)
    if not isinstance(bucket, MomentBucket):
        xp = namespace(bucket.c, y)
        return replace(bucket, c=xp.concatenate([bucket.c[:, :-1], y[:, None]], axis=1))
    # rows of B that belong to y are its columns, transposed
    xp = namespace(bucket.B, y)
    columns = xp.moveaxis(y, 2, 0)  # (q of y, q, p + 1, D)
    B = xp.at(xp.at(bucket.B)[:, :, :, -1].set(y))[:, -1].set(columns)
    return replace(bucket, B=B)
