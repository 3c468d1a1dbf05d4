"""A layout with another response: what depends on y, apart from what does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from jax import Array

from ..numerics.namespace import namespace


class OfResponse:
    """What a bucket does with the part of it that a response makes."""

    __slots__ = ()

    def with_response(self, y: Array) -> Any:
        """The bucket with another y: c_y, the last column of c."""
        at: Any = self
        xp = namespace(at.c, y)
        return replace(at, c=xp.concatenate([at.c[:, :-1], y[:, None]], axis=1))

    def first_groups(self, y: Array) -> Array:
        """Responses with a leading axis of lanes as far as the bucket has groups."""
        return y

    def response_over_columns(self, y: Array, change: Callable[[Array, int], Array]) -> Array:
        """The same where ``change`` was made to the columns of [X y], beside which y may lie."""
        del change
        return y


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
    buckets = tuple(b.with_response(y) for b, y in parts)
    if response.core is None:
        return replace(layout, S0=S0, buckets=buckets)
    s, origin = response.core
    core = replace(layout.core, s=xp.at(layout.core.s)[:, -1].set(s), origin=origin[:, None])
    return replace(layout, S0=S0, buckets=buckets, core=core)


def first_groups(responses: Response, layout: Any) -> Response:
    """Responses with a leading axis of lanes for a layout that has fewer groups: the first."""
    parts = zip(layout.buckets, responses.y, strict=True)
    return responses._replace(y=tuple(b.first_groups(y) for b, y in parts))


def response_over_columns(
    response: Response, layout: Any, change: Callable[[Array, int], Array]
) -> Response:
    """Responses with a leading axis of lanes for ``layout.over_columns(change)``."""
    parts = zip(layout.buckets, response.y, strict=True)
    y = tuple(b.response_over_columns(y, change) for b, y in parts)
    return response._replace(y=y, S0=change(response.S0, 1))
