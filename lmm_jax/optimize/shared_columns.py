"""Columns of X that are not there: models of other numbers of fixed effects share a program.

A layout gets columns e of rows of their own, one each, that no random effect reaches and
whose response is zero: ``gram`` gets ones on its diagonal, everything else zeros. Their fixed
effects are 0, no determinant changes, and REML's ``n - p`` stays as it is if n counts these
rows. Nothing of the criterion depends on them; moment estimates, from which a large fit starts,
have a few degrees of freedom less by ML.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TypeVar, cast

import jax
import numpy as np
from jax import Array

from ..layouts.contract import Layout, Maps
from ..layouts.response import Response, response_over_columns
from ..likelihood.criterion import Jet
from ..numerics.devices import on_processor, to_host
from ..numerics.namespace import namespace
from ..numerics.programs import compiled
from ..numerics.shapes import round_up_columns
from .newton import Solution

M = TypeVar("M", bound=Maps)
L = TypeVar("L", bound=Layout)


def widened(layout: L, *, reml: bool) -> L:
    """The layout with as many columns of X as programs have."""
    more = lacking(layout.beta_origin.shape[0])
    if not more:
        return layout
    if on_processor():  # arrays are shared with NumPy, whose calls cost a tenth
        return _with_columns(jax.tree.map(np.asarray, layout), more, reml=reml)
    old, tree = jax.tree.flatten(layout)
    new = _changed(layout, more=more, reml=reml)
    leaves = [a if b is None else b for a, b in zip(old, new, strict=True)]
    return cast(L, jax.tree.unflatten(tree, leaves))


@partial(compiled, static=("more", "reml"))
def _changed(layout: Layout, *, more: int, reml: bool) -> list[Array | None]:
    """Arrays of the wide layout, None for one that stays: a large core is not copied."""
    old, new = (jax.tree.leaves(at) for at in (layout, _with_columns(layout, more, reml=reml)))
    return [None if a is b else b for a, b in zip(old, new, strict=True)]


def _with_columns(layout: L, more: int, *, reml: bool) -> L:
    """The layout with so many columns more."""
    xp, p = namespace(layout.S0), layout.beta_origin.shape[0]
    new = np.arange(p, p + more)
    wide = layout.over_columns(lambda A, axis: _inserted(A, axis, more))
    S0 = xp.at(wide.S0)[new, new].set(xp.ones((), layout.S0.dtype))
    return with_wide_maps(replace(wide, S0=S0), more, reml=reml)


def widened_response(response: Response, layout: Layout) -> Response:
    """Responses, with a leading axis of lanes, for the layout that :func:`widened` makes."""
    more = lacking(layout.beta_origin.shape[0])
    return response_over_columns(response, layout, lambda A, axis: _inserted(A, axis, more))


def lacking(p: int) -> int:
    """Columns that are added to p of them."""
    return round_up_columns(p) - p


def _inserted(A: Array, axis: int, more: int) -> Array:
    """Columns of zeros before that of y."""
    xp, before = namespace(A), (slice(None),) * axis
    none = xp.zeros((*A.shape[:axis], more, *A.shape[axis + 1 :]), A.dtype)
    return xp.concatenate([A[*before, :-1], none, A[*before, -1:]], axis=axis)


def outline(layout: Layout, *, reml: bool) -> Layout:
    """What has the shapes of :func:`widened` and no memory of its own."""
    more = lacking(layout.beta_origin.shape[0])
    if not more:
        return layout

    def change(A: Array, axis: int) -> Array:
        return _hollow(A, (*A.shape[:axis], A.shape[axis] + more, *A.shape[axis + 1 :]))

    layout = jax.tree.map(lambda A: _hollow(A, A.shape), layout)
    return with_wide_maps(layout.over_columns(change), more, reml=reml)


def _hollow(A: Array, shape: tuple[int, ...]) -> Array:
    one = np.zeros((), A.dtype)  # np.broadcast_to takes ten times as long
    return cast(Array, np.ndarray(shape, one.dtype, one, strides=(0,) * len(shape)))


def with_wide_maps(maps: M, more: int, *, reml: bool) -> M:
    """Maps, of one layout or of lanes, with fixed effects that stay what they are."""
    xp, p = namespace(maps.n_obs), maps.beta_origin.shape[0]

    def pad(A: Array, axes: int) -> Array:
        widths = tuple((0, more) if i < axes else (0, 0) for i in range(A.ndim))
        padded: Array = xp.pad(A, widths)
        return padded

    new, one = np.arange(p, p + more), xp.ones((), maps.n_obs.dtype)
    return replace(
        maps,
        n_obs=maps.n_obs + xp.asarray(more * reml, maps.n_obs.dtype),
        beta_map=xp.at(pad(maps.beta_map, 2))[new, new].set(one),
        beta_origin=pad(maps.beta_origin, 1),
        beta_shift=pad(maps.beta_shift, 1),
    )


def narrowed(found: Solution, p: int, *, lanes_first: bool = False) -> Solution:
    """The solution of what was widened with the fixed effects that are there.

    Lanes, if there are any, are last in every array or first. Arrays of NumPy, on the host.
    """
    found = to_host(found)
    return found._replace(jet=narrowed_jet(found.jet, p, lanes_first=lanes_first))


def narrowed_jet(jet: Jet, p: int, *, lanes_first: bool = False) -> Jet:
    """The criterion of what was widened with the fixed effects that are there."""
    at, lane = jet.profile, (slice(None),) * lanes_first
    own = (*lane, slice(p))
    both, each = (*own, slice(p)), slice(None)
    profile = at._replace(beta=at.beta[own], cov_beta=at.cov_beta[both])
    dbeta = jet.dbeta[*lane, each, :p]
    dcov_beta = jet.dcov_beta[*lane, each, :p, :p]
    return jet._replace(profile=profile, dbeta=dbeta, dcov_beta=dcov_beta)
