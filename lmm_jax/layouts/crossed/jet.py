"""Waist and first derivatives of :class:`lmm_jax.layouts.crossed.layout.CrossedLayout`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from ...covariance.theta import basis, factor_blocks, spread, theta_slices
from ...numerics.in_place import settled
from ...numerics.linalg import group_product, total_product
from ...numerics.namespace import JAX, namespace
from ...numerics.roots import eliminate_root, root_rounding
from ..buckets import Bucket
from ..contract import Waist, WaistJet
from ..group_algebra import (
    group_means,
    integrate,
    inverse,
    logdet_of,
    marginal,
    psi_tangents,
    quadratic_tangents,
)
from . import core as dense
from . import links as sparse
from .arrays import CrossedArrays
from .core import CoreTerms
from .core_factors import CoreFactors, core_factors
from .links import Links


def pick(values: Sequence[Any], terms: Sequence[int]) -> tuple[Any, ...]:
    """Entries of some terms."""
    return tuple(values[t] for t in terms)


def sizes_of(layout: CrossedArrays, terms: Sequence[int]) -> tuple[int, ...]:
    """Coefficients per level of some terms."""
    return tuple(layout.sizes[t] for t in terms)


def places(layout: CrossedArrays, terms: Sequence[int]) -> np.ndarray:
    """Entries of theta that belong to some terms."""
    slices = theta_slices(layout.structures)
    parts = [np.arange(slices[t].start, slices[t].stop) for t in terms]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


class Eliminated(NamedTuple):
    """What the groups leave of the core, and their part of the waist."""

    A: Array  # (N, N, B)
    b: Array  # (N, p + 1, B)
    logdet: Array  # ()
    gram: Array  # (p + 1, p + 1)


def eliminated(blocks: Sequence[Array], layout: CrossedArrays) -> Eliminated:
    """The groups integrated out at relative covariances of the whitened terms."""
    xp = namespace(blocks, layout.S0)
    logdet, gram = xp.zeros((), layout.S0.dtype), layout.S0
    A, b = layout.core.S, layout.core.s
    for bucket, links in zip(layout.buckets, layout.links, strict=True):
        Psi = spread(pick(blocks, layout.eliminated), bucket.widths)
        M = marginal(Psi, bucket.T)
        part = integrate(M, bucket.c, bucket.copies)
        N = inverse(M)
        Nd = sparse.apply_at(N, links.d, links)
        A = sparse.add_pairs(A, N, links, (links.d, Nd))
        b = b + sparse.onto_core(Nd, bucket.c, links, layout.shape)
        logdet, gram = logdet + part.logdet, gram + part.gram
    return Eliminated(A, b, logdet, gram)


def core_psi(blocks: Sequence[Array], layout: CrossedArrays) -> Array:
    """Psi of all effects of the core, (N, N, B)."""
    Psi = spread(pick(blocks, layout.crossed), layout.core.widths)
    return namespace(blocks, layout.S0).broadcast_to(Psi[:, :, None], layout.core.S.shape)


def waist(blocks: Sequence[Array], layout: CrossedArrays) -> Waist:
    """``logdet`` and ``gram`` at relative covariances of the whitened terms."""
    at = eliminated(blocks, layout)
    extra = dense.integrate_core(at.A, at.b, core_psi(blocks, layout), layout.core.origin)
    return Waist(logdet=at.logdet + extra.logdet, gram=at.gram - extra.gram)


def conditional_means(
    blocks: Sequence[Array], v: Array, layout: CrossedArrays
) -> tuple[Array, ...]:
    """Effects of every bucket's groups, then of the core, given y; (q, G) each.

    With ``b_2 = origin + x`` those of a group are ``Psi T' M^-1 (c v - d' x)``: y is measured
    from the origin there.
    """
    xp = namespace(blocks, v, layout.S0)
    at = eliminated(blocks, layout)
    right = xp.einsum("ncb,c->nb", at.b, v)[:, None]
    x, _ = dense.shrunk_from(at.A, right, core_psi(blocks, layout), layout.core.origin)
    out = []
    for bucket, links in zip(layout.buckets, layout.links, strict=True):
        moved = sparse.onto_groups(links.d, x, links, bucket.T.shape[2])
        rest = xp.einsum("acg,c->ag", bucket.c, v) - moved[:, 0]
        out.append(
            group_means(spread(pick(blocks, layout.eliminated), bucket.widths), bucket.T, rest)
        )
    return (*out, (layout.core.origin + x)[:, 0])


class LeafTerms(NamedTuple):
    """Eliminated groups of one bucket; z and X are made behind the core."""

    P: Array  # (q, q, G)      T' M^-1 T, this group alone
    N: Array  # (q, q, G)      M^-1 = (L L')^-1
    E: Array  # (q, q, G)      T' M^-1
    v: Array  # (q, E)         L^-1 d at the entries
    e: Array  # (q, E)         E d
    u: Array  # (q, p + 1, G)  T' M^-1 c; behind the core Z_1' V^-1 [X y]
    D: Array  # (m_1, q, q)    dPsi / dtheta_k
    z: Array | None = None  # (q, E)     e Lambda: e H e' = z Ki z'; where X is not there
    X: Array | None = None  # (q, q, G)  e H e', where it costs no more than its sum over groups


class CrossedTerms(NamedTuple):
    """What the second derivatives need."""

    leaves: tuple[LeafTerms, ...]  # one a bucket
    core: CoreTerms
    factors: CoreFactors  # Lambda of the core's terms
    slopes: tuple[Array, ...]  # (q, q) a bucket: sum of the groups' blocks of P
    D: tuple[Array, ...]  # (m_t, k, k)  dPsi / dtheta_k of the core's terms


class _Leaf(NamedTuple):
    """Groups of one bucket integrated out, the core not yet."""

    terms: LeafTerms
    waist: Waist  # its part of both
    rounding: Array  # (p + 2,)  see :class:`WaistJet`
    b: Array  # (N, p + 1, B)  what it adds to Z_2' V_1^-1 [X y]


def waist_jet(theta: Array, layout: CrossedArrays) -> WaistJet[CrossedTerms]:
    """Waist and its theta derivatives from one elimination (closed forms).

    With ``U = Z' V^-1 [X y]`` and ``P = Z' V^-1 Z``

        d logdet = tr(P dPsi)      d gram = -U' dPsi U

    where the blocks of P are ``P_i - e_i H e_i'`` for a group, and for the core
    those of ``A - A H A``, found from ``(A - A H A) Lambda = A Lambda K^-1``.
    """
    xp = namespace(theta, layout.S0)
    inner = pick(factor_blocks(theta, layout.structures), layout.eliminated)
    outer = pick(layout.structures, layout.crossed)
    factors = core_factors(theta[places(layout, layout.crossed)], outer)
    logdet, gram = xp.zeros((), theta.dtype), layout.S0
    A, b = layout.core.S, layout.core.s
    rounding, alone = xp.zeros(layout.S0.shape[0] + 1, theta.dtype), []
    for bucket, links in zip(layout.buckets, layout.links, strict=True):
        leaf = _eliminate_leaf(theta, spread(inner, bucket.widths), bucket, links, layout)
        logdet, gram = logdet + leaf.waist.logdet, gram + leaf.waist.gram
        v = leaf.terms.v
        A = settled(sparse.add_pairs(A, leaf.terms.N, links, (v, v)))
        b, rounding = b + leaf.b, rounding + leaf.rounding
        alone.append(leaf)
    widths = layout.core.widths
    core = dense.solve_core(A, b, layout.core.origin, factors, widths, rough=layout.rough)
    rounding = rounding + dense.core_rounding(core, b, gram)
    logdet, gram = logdet + core.logdet, gram - core.gram
    H = None
    if xp is not JAX and any(links.sums is not None for links in layout.links):
        H = dense.covariance(core.Ki, factors, widths)
    leaves = tuple(
        _behind_core(leaf.terms, core, factors, H, links, layout)
        for leaf, links in zip(alone, layout.links, strict=True)
    )
    tangents = tuple(
        psi_tangents(L, structure.tangents_at(theta[places(layout, (t,))]))
        for t, L, structure in zip(layout.crossed, factors.blocks, outer, strict=True)
    )
    slopes = tuple(
        xp.sum(leaf.P, -1) - _summed_core(leaf, core, links)
        for leaf, links in zip(leaves, layout.links, strict=True)
    )
    rest = CrossedTerms(leaves, core, factors, slopes, tangents)
    dlogdet, dgram = _first_derivatives(theta, rest, layout)
    return WaistJet(Waist(logdet, gram), dlogdet, dgram, rounding, rest)


def _eliminate_leaf(
    theta: Array, Lambda: Array, bucket: Bucket, links: Links, layout: CrossedArrays
) -> _Leaf:
    """Integrate the random effects of one bucket out."""
    xp = namespace(Lambda, bucket.T, layout.S0)
    q, C = Lambda.shape[0], bucket.c.shape[1]
    F = xp.einsum("rag,ab->rbg", bucket.T, Lambda)
    identity = xp.broadcast_to(xp.eye(q, dtype=F.dtype)[:, :, None], F.shape)
    at = eliminate_root(F, xp.concatenate([bucket.T, bucket.c, identity], axis=1))
    K, w, Li = at.X[:, :q], at.X[:, q : q + C], at.X[:, q + C :]
    v = sparse.apply_at(Li, links.d, links)  # L^-1 d
    # derivatives here go by way of Psi, which costs the digits that the root of M keeps
    own = at._replace(loss=at.loss**2, X=at.X[:, : q + C])
    own_theta, inner = (
        theta[places(layout, layout.eliminated)],
        pick(layout.structures, layout.eliminated),
    )
    return _Leaf(
        terms=LeafTerms(
            P=group_product(K, K),
            N=group_product(Li, Li),
            E=group_product(K, Li),
            v=v,
            e=sparse.apply_at(xp.swapaxes(K, 0, 1), v, links),
            u=group_product(K, w),
            D=psi_tangents(Lambda, basis(own_theta, inner, bucket.widths)),
        ),
        waist=Waist(logdet=logdet_of(at.U, bucket.copies), gram=total_product(w, w)),
        rounding=root_rounding(own, bucket.c, bucket.copies),
        b=sparse.onto_core(v, w, links, layout.shape),
    )


def _behind_core(
    leaf: LeafTerms,
    core: CoreTerms,
    factors: CoreFactors,
    H: Array | None,
    links: Links,
    layout: CrossedArrays,
) -> LeafTerms:
    """A bucket with U of the whole model; H is there where sums over pairs take it."""
    G = leaf.P.shape[2]
    shift = sparse.onto_groups(leaf.e, core.Hb, links, G)
    leaf = leaf._replace(u=leaf.u - shift)
    if H is not None and links.sums is not None:
        across = namespace(leaf.E).swapaxes(leaf.E, 0, 1)
        return leaf._replace(X=sandwiched(across, sparse.contractions_of_d(H, links, G)))
    z = sparse.scaled_entries(leaf.e, factors.blocks, layout.core.widths, links)
    if links.head is None:
        return leaf._replace(z=z)
    return leaf._replace(X=sparse.group_contractions(z, core.Ki, links, G))


def sandwiched(E: Array, D: Array) -> Array:
    """``E_i' D_i E_i`` for symmetric D, one a group, or one of all, (q, q, G)."""
    xp = namespace(E, D)
    one = D.ndim == 2
    return group_product(E, xp.einsum("ab,bcg->acg", D, E) if one else group_product(D, E))


def through_core(leaf: LeafTerms, core: CoreTerms, links: Links) -> Array:
    """``X = e H e'`` of every group, (q, q, G)."""
    if leaf.X is not None:
        return leaf.X
    assert leaf.z is not None
    return sparse.group_contractions(leaf.z, core.Ki, links, leaf.P.shape[2])


def _summed_core(leaf: LeafTerms, core: CoreTerms, links: Links) -> Array:
    """X summed over the groups, (q, q)."""
    if leaf.X is not None:
        return namespace(leaf.X).sum(leaf.X, -1)
    assert leaf.z is not None
    return sparse.pair_contraction(leaf.z, core.Ki, links)


def _first_derivatives(
    theta: Array, rest: CrossedTerms, layout: CrossedArrays
) -> tuple[Array, Array]:
    """``d logdet`` (m,) and ``d gram`` (m, p + 1, p + 1)."""
    xp = namespace(theta, layout.S0)
    C, sizes = layout.S0.shape[0], sizes_of(layout, layout.crossed)
    dlogdet, dgram = xp.zeros_like(theta), xp.zeros((theta.size, C, C), theta.dtype)
    at = places(layout, layout.eliminated)
    for leaf, slope in zip(rest.leaves, rest.slopes, strict=True):
        dlogdet = xp.at(dlogdet)[at].add(xp.einsum("ab,kab->k", slope, leaf.D))
        dgram = xp.at(dgram)[at].add(-quadratic_tangents(leaf.u, leaf.D))
    levels = dense.levels_of(rest.core.u, sizes, layout.core.widths)
    for t, G, u, D in zip(layout.crossed, rest.core.halves, levels, rest.D, strict=True):
        at = places(layout, (t,))
        E = layout.structures[t].tangents_at(theta[at])
        dlogdet = xp.at(dlogdet)[at].add(2.0 * xp.einsum("ab,kab->k", G, E))
        dgram = xp.at(dgram)[at].add(-quadratic_tangents(u, D))
    return dlogdet, dgram
