"""Derivatives of :class:`lmm_jax.layouts.sparse.layout.SparseLayout` (NumPy)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from ...covariance.theta import theta_slices
from ...numerics.namespace import NUMPY as xp
from ..contract import Curvature, PsiMoments, WaistJet
from ..crossed import core as dense
from ..crossed.core_factors import CoreFactors, core_factors
from ..crossed.curvature import EffectColumns, apply_P, cross_products, tangent_effects
from ..together import contracted, curvature_of, jet_of, tangents
from .arrays import SparseArrays
from .system import System, half_slopes

# Singular values of a factor in the place of zeros, in units of a level's norm: blocks of P are
# wrong by the square, and where they are differentiated by the fourth power, of two of them.
_LIFT, _STEP = 1e-6, 3e-3


class SparseTerms(NamedTuple):
    """What the second derivatives need."""

    core: Any  # dense.CoreTerms with operators
    factors: CoreFactors
    D: tuple[Any, ...]  # (m_t, k, k)  dPsi / dtheta_k
    leaves: tuple[Any, ...] = ()  # nothing is eliminated before


class Shrinkage(NamedTuple):
    """``H = Lambda M^-1 Lambda'``, to be multiplied with."""

    system: System
    factors: CoreFactors
    widths: tuple[int, ...]

    def times(self, x: Any) -> Any:
        """``H x``, (N, C, 1)."""
        return dense.shrunk(self.system, self.factors, self.widths, x)  # type: ignore[arg-type]


def solve(layout: SparseArrays, factors: CoreFactors, *, with_inverse: bool = True) -> Any:
    """See :func:`..crossed.core.solve_core`."""
    core = layout.core
    system = layout.system(factors.blocks)
    halves: tuple[Any, ...] = ()
    loss = xp.zeros(())
    if with_inverse:
        M, inverse = system.diagonals
        halves, loss = tuple(system.halves()), M @ inverse
    logdet = xp.asarray(system.logdet)
    return dense.solved(
        core.S, core.s, core.origin, factors, core.widths, system, logdet, halves, loss
    )


def sparse_jet(theta: Array, layout: SparseArrays) -> WaistJet[SparseTerms]:
    """Waist and first derivatives in theta."""
    factors = core_factors(theta, layout.structures)
    core = solve(layout, factors)
    return jet_of(theta, core, factors, layout, lambda D: SparseTerms(core, factors, D))


def _level_blocks(rest: SparseTerms, layout: SparseArrays) -> list[Any]:
    """``sum_i P_ii`` of every term, at factors without a singular value of zero."""
    lifted = _lifted(rest.factors.blocks, _LIFT, layout)
    halves = rest.core.halves if lifted is None else layout.system(lifted).halves()
    factors = rest.factors.blocks if lifted is None else lifted
    return [h @ np.linalg.inv(L) for h, L in zip(halves, factors, strict=True)]


def _lifted(factors: Sequence[Any], least: float, layout: SparseArrays) -> list[Any] | None:
    """Factors without singular values of zero; None where there are none."""
    least = least / float(layout.core.S.diagonal().max()) ** 0.5
    parts = [xp.linalg.svd(L) for L in factors]
    if all((s >= least).all() for _, s, _ in parts):
        return None
    return [(U * xp.maximum(s, least)) @ V for U, s, V in parts]


def _half_slopes(
    factors: Sequence[Any], directions: Sequence[Any], layout: SparseArrays
) -> list[list[Any]]:
    """Derivatives of the halves along all directions of the factors, (m_t, k, k) a term."""
    at = layout.core.S, layout.places, layout.elimination, factors
    return [half_slopes(*at, t, E) for t, own in enumerate(directions) for E in own]


def sparse_curvature(
    theta: Array, W: Array, jet: WaistJet[SparseTerms], layout: SparseArrays
) -> Curvature:
    """Second derivatives of ``logdet + <W, gram>`` in theta, W held fixed.

    Those of logdet are derivatives of ``2 <P Lambda, E_k>``.
    """
    rest = jet.rest
    E = tangents(theta, layout.structures)
    moved = _half_slopes(rest.factors.blocks, E, layout)
    logdet = xp.stack([2.0 * contracted(row, E) for row in moved])
    places = theta_slices(layout.structures)
    for structure, at, half in zip(layout.structures, places, rest.core.halves, strict=True):
        if not structure.linear:
            logdet[at, at] += structure.bend(theta[at], half)
    return curvature_of(theta, W, logdet, _level_blocks(rest, layout), rest, layout)


def sparse_moments(theta: Array, layout: SparseArrays) -> PsiMoments:
    """What P and U make of the directions of Psi."""
    places = theta_slices(layout.structures)
    D = [s.directions_at(theta[at]) for s, at in zip(layout.structures, places, strict=True)]
    rest: SparseTerms = sparse_jet(theta, layout).rest
    factors = rest.factors.blocks
    near, far = (_lifted(factors, step, layout) for step in (_STEP, 2.0 * _STEP))
    if near is None or far is None:
        traces, table = _trace_products(factors, D, layout)
    else:
        pairs = zip(_trace_products(near, D, layout), _trace_products(far, D, layout), strict=True)
        traces, table = ((4.0 * a - b) / 3.0 for a, b in pairs)  # what is left of squares cancels
    rest = rest._replace(D=tuple(D))
    columns = xp.eye(layout.S0.shape[0])[:, :-1]
    g = tangent_effects(rest, layout, columns)
    own = EffectColumns((), rest.core.u[:, :-1])
    C = layout.S0.shape[0] - 1
    return PsiMoments(
        gram=(layout.S0 - rest.core.gram)[:-1, :-1],
        traces=traces,
        products=0.5 * (table + table.T),
        grams=cross_products(own, g, C)[0],
        seconds=cross_products(g, apply_P(g, rest, layout), C),
    )


def _trace_products(factors: Sequence[Any], D: Sequence[Any], layout: SparseArrays) -> Any:
    """``tr(P D_k)``, (m,), and ``tr(P D_k P D_l)``, (m, m), at regular factors.

    The latter is what ``tr(P D_k)`` loses along ``Psi + D_l``.
    """
    inverses = [np.linalg.inv(L) for L in factors]
    halves = layout.system(factors).halves()
    P: Any = [h @ inverse for h, inverse in zip(halves, inverses, strict=True)]
    E = [0.5 * d @ inverse.T for d, inverse in zip(D, inverses, strict=True)]  # D = E L' + L E'
    owner = [(t, j) for t, own in enumerate(E) for j in range(len(own))]
    table = []
    for (t, j), row in zip(owner, _half_slopes(factors, E, layout), strict=True):
        change = [h @ inverse for h, inverse in zip(row, inverses, strict=True)]
        change[t] = change[t] - P[t] @ E[t][j] @ inverses[t]
        table.append(-contracted(change, D))
    return contracted(P, D), xp.stack(table)
