"""Second derivatives of the crossed layout; see :mod:`lmm_jax.layouts.crossed.layout`.

Everything is made of ``P = Z' V^-1 Z`` and ``U = Z' V^-1 [X y]``: products of P with
columns are cheap, traces of products of P need matrix products of the core's size. What the
former give, :mod:`..sparse` takes too, whose matrices multiply and are not written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from ...covariance.theta import factor_blocks, gather, spread_basis, theta_slices
from ...numerics.in_place import settled
from ...numerics.linalg import group_product, symmetrize
from ...numerics.namespace import namespace
from ..contract import Curvature, PsiMoments, WaistJet
from ..group_algebra import double_traces, halves_of, psi_curvatures
from . import core as dense
from . import links as sparse
from .arrays import CrossedArrays
from .jet import (
    CrossedTerms,
    pick,
    places,
    sandwiched,
    sizes_of,
    through_core,
    waist_jet,
)
from .traces import traces


class EffectColumns(NamedTuple):
    """Columns over all random effects."""

    groups: tuple[Array, ...]  # (q, C, G) a bucket
    core: Array  # (N, C, B)


def tangent_effects(rest: Any, layout: Any, v: Array) -> EffectColumns:
    """``D_k U v`` for every entry k of theta, with v (p + 1, C): m C columns, k slowest."""
    xp = namespace(rest.core.u, v)
    first, C = places(layout, layout.eliminated), v.shape[1]
    m = first.size + sum(D.shape[0] for D in rest.D)
    groups = []
    for leaf in rest.leaves:
        u = xp.einsum("acg,cd->adg", leaf.u, v)
        part = xp.zeros((u.shape[0], m, C, u.shape[2]), v.dtype)
        part = xp.at(part)[:, first].set(xp.einsum("kab,bcg->akcg", leaf.D, u))
        groups.append(part.reshape(u.shape[0], m * C, -1))
    u = xp.einsum("ncb,cd->ndb", rest.core.u, v)
    core = xp.zeros((u.shape[0], m, C, u.shape[2]), v.dtype)
    start = 0
    for t, D, w in zip(layout.crossed, rest.D, layout.core.widths, strict=True):
        k = D.shape[1]
        rows = u[start : start + k * w].reshape(w, k, C, -1)
        part = xp.einsum("kab,wbcg->wakcg", D, rows).reshape(w * k, D.shape[0], C, -1)
        core = xp.at(core)[start : start + k * w, places(layout, (t,))].set(part)
        start += k * w
    return EffectColumns(tuple(groups), core.reshape(u.shape[0], m * C, -1))


def apply_P(x: EffectColumns, rest: Any, layout: Any) -> EffectColumns:
    """``Z' V^-1 Z x``.

    With ``h = e' x_1 + A x_2``: the core gets ``h - A H h``, a group
    ``P_i x_i + e_i (x_2 - H h)``.
    """
    widths = layout.core.widths
    h = _apply_A(x.core, rest, layout)
    for leaf, links, part in zip(rest.leaves, layout.links, x.groups, strict=True):
        h = h + sparse.onto_core(leaf.e, part, links, layout.shape)
    Hh = dense.shrunk(rest.core.Ki, rest.factors, widths, h)
    groups = []
    for leaf, links, part in zip(rest.leaves, layout.links, x.groups, strict=True):
        own = group_product(leaf.P, part)
        groups.append(own + sparse.onto_groups(leaf.e, x.core - Hh, links, part.shape[2]))
    return EffectColumns(tuple(groups), h - _apply_A(Hh, rest, layout))


def _apply_A(x: Array, rest: Any, layout: Any) -> Array:
    """``A x``; of a large core, which does not keep A, from the groups."""
    if rest.core.A is not None:
        return dense.multiply(rest.core.A, x)
    out = dense.multiply(layout.core.S, x)
    for leaf, links in zip(rest.leaves, layout.links, strict=True):
        met = sparse.onto_groups(leaf.v, x, links, leaf.P.shape[2])
        out = out + sparse.onto_core(leaf.v, met, links, layout.shape)
    return out


def _matrix_A(rest: CrossedTerms, layout: CrossedArrays) -> Array:
    """A itself, where it is needed after all."""
    A = layout.core.S if rest.core.A is None else rest.core.A
    if rest.core.A is None:
        for leaf, links in zip(rest.leaves, layout.links, strict=True):
            A = sparse.add_pairs(A, leaf.N, links, (leaf.v, leaf.v))
    return A


def cross_products(left: EffectColumns, right: EffectColumns, C: int) -> Array:
    """``left_kc' right_ld`` for the entries k and l, (m, m, C, C)."""

    def inner(a: Array, b: Array) -> Array:
        return namespace(a, b).einsum("amg,ang->mn", a, b)

    parts = [inner(a, b) for a, b in zip(left.groups, right.groups, strict=True)]
    full = sum(parts, inner(left.core, right.core))
    return full.reshape(-1, C, full.shape[1] // C, C).swapaxes(1, 2)


def inner_products(left: EffectColumns, right: EffectColumns, W: Array) -> Array:
    """``sum_cd W_cd left_kc' right_ld`` for the entries k and l of theta, (m, m)."""
    xp = namespace(left.core, W)
    C = W.shape[0]

    def inner(a: Array, b: Array) -> Array:
        shape = (a.shape[0], -1, C, a.shape[2])
        weighted = xp.einsum("akcg,cd->akdg", a.reshape(shape), W)
        one, two = (xp.moveaxis(x, 1, 0) for x in (weighted, b.reshape(shape)))
        return one.reshape(len(one), -1) @ two.reshape(len(two), -1).T

    parts = [inner(a, b) for a, b in zip(left.groups, right.groups, strict=True)]
    return sum(parts, inner(left.core, right.core))


def average_information(theta: Array, v: Array, jet: WaistJet[Any], layout: Any) -> Array:
    """``(D_k U v)' P (D_l U v)``: a curvature that needs no traces, (m, m).

    References
    ----------
    Gilmour, Thompson & Cullis (1995), doi:10.2307/2533274.
    """
    xp = namespace(theta, v, layout.S0)
    g = tangent_effects(jet.rest, layout, v[:, None])
    one = xp.ones((1, 1), theta.dtype)
    return symmetrize(inner_products(g, apply_P(g, jet.rest, layout), one))


def curvature(
    theta: Array, W: Array, jet: WaistJet[CrossedTerms], layout: CrossedArrays
) -> Curvature:
    """Second derivatives of ``logdet + <W, gram>`` in theta, W held fixed.

    With ``P = Z' V^-1 Z``, ``R = U W U'`` and ``D_k = dPsi / dtheta_k``

        <P - R, D_kl> + 2 tr(R D_k P D_l) - tr(P D_k P D_l)
    """
    xp = namespace(theta, W, layout.S0)
    rest = jet.rest
    g = tangent_effects(rest, layout, xp.eye(W.shape[0], dtype=W.dtype))
    hessian = 2.0 * inner_products(g, apply_P(g, rest, layout), W)
    traces, blocks = _trace_products(theta, rest, layout)
    slopes = _with_core(blocks, W, rest, layout)
    halves = halves_of(slopes, factor_blocks(theta, layout.structures))
    hessian = hessian - traces + psi_curvatures(theta, slopes, halves, layout.structures)
    return Curvature(symmetrize(hessian), slopes, halves)


def psi_slopes(W: Array, jet: WaistJet[CrossedTerms], layout: CrossedArrays) -> tuple[Array, ...]:
    """Blocks of ``P - R`` summed over the levels of each term, (k, k).

    Those of the core come from ``(P Lambda) Lambda^-1``, without the products
    of large matrices that a singular Lambda would need.
    """
    rest = jet.rest
    blocks = []
    for half, inverse in zip(rest.core.halves, rest.factors.inverses, strict=True):
        blocks.append(symmetrize(half @ inverse))
    return _with_core(blocks, W, rest, layout)


def psi_moments(theta: Array, layout: CrossedArrays) -> PsiMoments:
    """What P and U make of the directions of Psi, by the formulas of :func:`curvature`."""
    xp = namespace(theta, layout.S0)
    at = theta_slices(layout.structures)
    directions = [s.directions_at(theta[a]) for s, a in zip(layout.structures, at, strict=True)]
    inner = pick(directions, layout.eliminated)
    jet = waist_jet(theta, layout)
    rest = jet.rest
    leaves = tuple(
        leaf._replace(D=spread_basis(inner, bucket.widths))
        for leaf, bucket in zip(rest.leaves, layout.buckets, strict=True)
    )
    rest = rest._replace(leaves=leaves, D=pick(directions, layout.crossed))
    products, blocks = _trace_products(theta, rest, layout)
    traces = xp.zeros_like(theta)
    for leaf, slope in zip(rest.leaves, rest.slopes, strict=True):
        traces = xp.at(traces)[places(layout, layout.eliminated)].add(
            xp.einsum("ab,kab->k", slope, leaf.D)
        )
    for t, block, D in zip(layout.crossed, blocks, rest.D, strict=True):
        traces = xp.at(traces)[places(layout, (t,))].add(xp.einsum("ab,kab->k", block, D))
    C = layout.S0.shape[0]
    columns = xp.eye(C, dtype=theta.dtype)[:, :-1]
    g = tangent_effects(rest, layout, columns)
    own = EffectColumns(tuple(leaf.u[:, :-1] for leaf in rest.leaves), rest.core.u[:, :-1])
    return PsiMoments(
        gram=jet.waist.gram[:-1, :-1],
        traces=traces,
        products=symmetrize(products),
        grams=cross_products(own, g, C - 1)[0],
        seconds=cross_products(g, apply_P(g, rest, layout), C - 1),
    )


def _with_core(
    blocks: Sequence[Array], W: Array, rest: CrossedTerms, layout: CrossedArrays
) -> tuple[Array, ...]:
    """Blocks of ``P - R`` of all terms, given those of P for the core."""
    xp = namespace(blocks, W, layout.S0)
    psi = [xp.zeros((k, k), W.dtype) for k in layout.sizes]
    for leaf, bucket, slope in zip(rest.leaves, layout.buckets, rest.slopes, strict=True):
        full = slope - xp.einsum("acg,cd,bdg->ab", leaf.u, W, leaf.u)
        parts = gather(full, sizes_of(layout, layout.eliminated), bucket.widths)
        for t, part in zip(layout.eliminated, parts, strict=True):
            psi[t] = psi[t] + part
    levels = dense.levels_of(rest.core.u, sizes_of(layout, layout.crossed), layout.core.widths)
    for t, block, u in zip(layout.crossed, blocks, levels, strict=True):
        psi[t] = block - xp.einsum("acg,cd,bdg->ab", u, W, u)
    return tuple(psi)


def _trace_products(
    theta: Array, rest: CrossedTerms, layout: CrossedArrays
) -> tuple[Array, tuple[Array, ...]]:
    """``tr(P D_k P D_l)``, (m, m), and the summed blocks of P of the core's terms.

    With ``F_k = e' D_k e`` of the eliminated terms, J = I - H A and
    ``P_22 = A - A H A``: the traces are, for two terms of the core, those of
    ``P_22 D_k P_22 D_l``; for one of each kind of ``J' F_k J D_l``; for two
    eliminated ones of ``P_i D_k P_i D_l`` less twice those with ``X_i = e_i H e_i'``
    in the place of one P_i, plus ``H F_k H F_l``.
    """
    xp = namespace(theta, layout.S0)
    core, widths = rest.core, layout.core.widths
    out = xp.zeros((theta.size, theta.size), theta.dtype)
    m1 = places(layout, layout.eliminated)
    for leaf, links in zip(rest.leaves, layout.links, strict=True):
        X = through_core(leaf, core, links)
        own = double_traces(leaf.P, leaf.P, leaf.D)
        cross = double_traces(leaf.P, X, leaf.D)
        out = xp.at(out)[np.ix_(m1, m1)].add(own - cross - cross.T)

    def F(i: int) -> Array:
        # behind A: a large core has no room for both
        total, *_ = settled((xp.zeros(core.Ki.shape, theta.dtype), core.Ki, *core.halves))
        for leaf, links in zip(rest.leaves, layout.links, strict=True):
            De = xp.einsum("ab,be->ae", leaf.D[i], leaf.e)
            W = sandwiched(leaf.E, leaf.D[i])
            total = settled(sparse.add_pairs(total, W, links, (leaf.e, De)))
        return total

    at = traces(
        core.Ki,
        rest.factors,
        widths,
        [partial(F, i) for i in range(len(m1))],
        partial(_matrix_A, rest, layout),
        regular=layout.regular,
    )
    for t, s, moments in at.P:
        value = xp.einsum("kab,lcd,acbd->kl", rest.D[t], rest.D[s], moments)
        rows, columns = (places(layout, (layout.crossed[i],)) for i in (t, s))
        out = xp.at(xp.at(out)[np.ix_(rows, columns)].set(value))[np.ix_(columns, rows)].set(
            value.T
        )
    for i, k in enumerate(m1):
        out = xp.at(out)[k, m1].add(at.FF[i])
        for t, block, D in zip(layout.crossed, at.JFJ[i], rest.D, strict=True):
            value = xp.einsum("ab,kba->k", block, D)
            to = places(layout, (t,))
            out = xp.at(xp.at(out)[k, to].set(value))[to, k].set(value)
    return out, at.blocks
