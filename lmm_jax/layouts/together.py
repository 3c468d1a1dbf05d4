"""What layouts that hold all random effects in one system have in common.

Crossed layouts of which nothing is eliminated before: their core is everything, and its matrices
may know how to multiply and no more (:mod:`.sparse`, :mod:`.matrix_free`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax import Array

from ..covariance.structures import Structure
from ..covariance.theta import theta_slices
from ..numerics.linalg import symmetrize
from ..numerics.namespace import namespace
from .contract import Curvature, Waist, WaistJet
from .crossed import core as dense
from .crossed.core_factors import CoreFactors
from .crossed.curvature import apply_P, inner_products, tangent_effects
from .group_algebra import psi_curvatures, psi_tangents, quadratic_tangents


def root(Psi: Array) -> Array:
    """A factor of a covariance that may be singular."""
    xp = namespace(Psi)
    e, V = xp.linalg.eigh(Psi)
    return V * xp.sqrt(xp.maximum(e, 0.0))[None]


def undivided(blocks: Sequence[Array]) -> CoreFactors:
    """Factors that nothing is divided by."""
    xp = namespace(blocks)
    zero = tuple(xp.zeros_like(L) for L in blocks)
    one = tuple(xp.eye(L.shape[0], dtype=L.dtype) for L in blocks)
    return CoreFactors(tuple(blocks), zero, zero, one, xp.zeros((), blocks[0].dtype))


def tangents(theta: Array, structures: Sequence[Structure]) -> list[Array]:
    """``dLambda / dtheta_k`` of every term, (m_t, k, k)."""
    places = theta_slices(structures)
    return [s.tangents_at(theta[at]) for s, at in zip(structures, places, strict=True)]


def contracted(blocks: Sequence[Array], D: Sequence[Array]) -> Array:
    """``<block, D_k>`` of every term, (m,)."""
    xp = namespace(blocks, D)
    parts = [xp.einsum("ab,kab->k", A, d) for A, d in zip(blocks, D, strict=True)]
    out: Array = xp.concatenate(parts)
    return out


def jet_of(
    theta: Array,
    core: dense.CoreTerms,
    factors: CoreFactors,
    layout: Any,
    keep: Callable[[tuple[Array, ...]], Any],
) -> WaistJet[Any]:
    """Waist and first derivatives in theta, of a core that is solved.

    Parameters
    ----------
    theta : Array, shape (m,)
    core : CoreTerms
        With the halves ``sum_i (P Lambda)_ii``.
    factors : CoreFactors
    layout : Layout
    keep : callable
        What the second derivatives need, from ``dPsi / dtheta_k`` of every term, (m_t, k, k).
    """
    xp = namespace(theta, layout.S0)
    E = tangents(theta, layout.structures)
    D = tuple(psi_tangents(L, e) for L, e in zip(factors.blocks, E, strict=True))
    levels = dense.levels_of(core.u, layout.sizes, layout.core.widths)
    dgram = xp.concatenate([-quadratic_tangents(u, d) for u, d in zip(levels, D, strict=True)])
    waist = Waist(core.logdet, layout.S0 - core.gram)
    rounding = dense.core_rounding(core, layout.core.s, layout.S0)
    return WaistJet(waist, 2.0 * contracted(core.halves, E), dgram, rounding, keep(D))


def less_gram(P: Sequence[Array], W: Array, rest: Any, layout: Any) -> tuple[Array, ...]:
    """Blocks of ``P - U W U'`` summed over the levels of each term, from those of P."""
    xp = namespace(W)
    levels = dense.levels_of(rest.core.u, layout.sizes, layout.core.widths)
    return tuple(
        symmetrize(p)
        - xp.einsum("adl,dbl->ab", xp.einsum("acl,cd->adl", u, W), xp.swapaxes(u, 0, 1))
        for p, u in zip(P, levels, strict=True)
    )


def curvature_of(
    theta: Array, W: Array, logdet: Array, P: Sequence[Array], rest: Any, layout: Any
) -> Curvature:
    """Second derivatives of ``logdet + <W, gram>`` in theta, given those of logdet.

    Parameters
    ----------
    theta : Array, shape (m,)
    W : Array, shape (p + 1, p + 1)
    logdet : Array, shape (m, m)
    P : sequence of Array, shape (k, k)
        ``sum_i P_ii`` of every term.
    rest : tuple
        What the jet keeps: ``core``, ``factors``, ``D``, ``leaves``.
    layout : Layout
    """
    xp = namespace(theta, layout.S0)
    g = tangent_effects(rest, layout, xp.eye(W.shape[0], dtype=W.dtype))
    hessian = logdet + 2.0 * inner_products(g, apply_P(g, rest, layout), W)
    halves = rest.core.halves
    minus = less_gram([xp.zeros_like(h) for h in halves], W, rest, layout)
    minus_halves = [R @ L for R, L in zip(minus, rest.factors.blocks, strict=True)]
    hessian = hessian + psi_curvatures(theta, minus, minus_halves, layout.structures)
    both = tuple(h + R for h, R in zip(halves, minus_halves, strict=True))
    return Curvature(symmetrize(hessian), less_gram(P, W, rest, layout), both)
