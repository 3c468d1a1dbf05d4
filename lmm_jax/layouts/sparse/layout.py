"""Sparse layout: all random effects in one system, whose matrix is mostly empty.

Where the levels of crossed factors meet few others, employers and employees, the core that the
crossed layout leaves is mostly empty as well, and stays so when its columns are eliminated one
after the other. With ``G = Z'Z``, ``b = Z' [X y]`` and ``M = I + Lambda' G Lambda = L D L'``

    logdet = log|M|     gram = [X y]' [X y] - b' H b     H = Lambda M^-1 Lambda'

the formulas of a crossed layout of which nothing is eliminated before (:mod:`..crossed`). First
derivatives need ``M^-1`` where levels meet, which L gives without the rest of it; second
derivatives are derivatives of these, by an imaginary step through the factorization.

NumPy alone: the layout is for the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jax import Array

from ...covariance.theta import factor_blocks, theta_slices
from ...errors import DataError
from ...numerics.elimination import Elimination
from ...numerics.namespace import JAX, namespace
from ...reprs import brief, public
from ..contract import BlupTerms, Curvature, Layout, PsiMoments, Waist, WaistJet, less_fixed
from ..crossed import core as dense
from ..crossed.arrays import StartMoments
from ..crossed.core_factors import CoreFactors, core_factors
from ..crossed.curvature import EffectColumns, apply_P, average_information, tangent_effects
from ..crossed.curvature import cross_products, inner_products
from ..crossed.layout import moment_theta
from ..group_algebra import psi_curvatures, psi_tangents, quadratic_tangents
from .gram import SparseGram, by_term
from .system import Places, System, half_slopes

# Singular values of a factor below which its blocks of P are those at this value: their error is
# of its square.
_LIFT = 1e-6


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SparseCore:
    """Cross-products of all random effects, as :class:`..crossed.core.Core` of some of them."""

    A: SparseGram  # Z' Z
    s: Array  # (N, p + 1, 1)  Z' [X y]
    origin: Array  # (N, 1, 1)  effects a that y is measured from: y less Z a stands in the layout
    widths: tuple[int, ...] = field(metadata={"static": True})  # levels of each term

    __repr__ = brief


class SparseTerms(NamedTuple):
    """What the second derivatives need."""

    core: Any  # dense.CoreTerms with operators
    factors: CoreFactors
    halves: tuple[Any, ...]  # (k, k) a term: sum of the levels' blocks of P Lambda
    D: tuple[Any, ...]  # (m_t, k, k)  dPsi / dtheta_k
    leaves: tuple[Any, ...] = ()  # nothing is eliminated before


class _Shrinkage(NamedTuple):
    """``H = Lambda M^-1 Lambda'``, to be multiplied with."""

    system: System
    widths: tuple[int, ...]

    def times(self, x: Any) -> Any:
        """``H x``, (N, C, 1)."""
        L, widths = self.system.factors, self.widths
        lower = [block.T for block in L]
        return dense.scale_rows(L, widths, self.system.times(dense.scale_rows(lower, widths, x)))


@public
@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SparseLayout(Layout):
    """Sufficient statistics of a mixed model with crossed factors whose levels meet few others."""

    core: SparseCore
    moments: StartMoments
    elimination: Elimination = field(metadata={"static": True})
    places: Places = field(metadata={"static": True})
    on_host: ClassVar[bool] = True
    # of a crossed layout, which shares its derivatives: nothing is eliminated
    buckets: ClassVar[tuple[()]] = ()
    links: ClassVar[tuple[()]] = ()
    eliminated: ClassVar[tuple[()]] = ()

    __repr__ = brief

    @property
    def crossed(self) -> tuple[int, ...]:
        """All terms."""
        return tuple(range(len(self.core.widths)))

    @property
    def shape(self) -> tuple[int, int]:
        """N columns in one block."""
        return self.core.s.shape[0], 1

    def _is_kind(self, kind: str) -> bool:
        """See :meth:`Layout._is_kind`."""
        return kind in ("crossed", "large core") or Layout._is_kind(self, kind)

    def _system(self, factors: Sequence[Any]) -> System:
        if namespace(self.S0, factors) is JAX:
            raise DataError(
                "the levels of these crossed factors meet few others: their matrices are kept "
                "sparse and worked off by NumPy, not inside of a JAX program"
            )
        return System(self.core.A, self.places, self.elimination, factors)

    def waist(self, blocks: Sequence[Array]) -> Waist:
        """See :meth:`Layout.waist`; of values alone."""
        return self._waist([_root(Psi) for Psi in blocks])

    def waist_at(self, theta: Array) -> Waist:
        """See :meth:`Layout.waist_at`."""
        return self._waist(factor_blocks(theta, self.structures))

    def _waist(self, blocks: Sequence[Any]) -> Waist:
        core = _solve(self, _factors_of(blocks), with_inverse=False)
        return Waist(logdet=core.logdet, gram=self.S0 - core.gram)

    def jet(self, theta: Array) -> WaistJet[SparseTerms]:
        """See :meth:`Layout.jet`."""
        return sparse_jet(theta, self)

    def curvature(self, theta: Array, root: Array, jet: WaistJet[SparseTerms]) -> Curvature:
        """See :meth:`Layout.curvature`."""
        return sparse_curvature(theta, root @ root.T, jet, self)

    def average_information(self, theta: Array, v: Array, jet: WaistJet[SparseTerms]) -> Array:
        """See :meth:`Layout.average_information`."""
        return average_information(theta, v, jet, self)

    def psi_slopes(self, theta: Array, W: Array, jet: WaistJet[SparseTerms]) -> tuple[Array, ...]:
        """See :meth:`Layout.psi_slopes`; where a factor is singular its part of P is left out."""
        rest = jet.rest
        P = [h @ inverse for h, inverse in zip(rest.halves, rest.factors.inverses, strict=True)]
        return _slopes(P, W, rest, self)

    def psi_moments(self, theta: Array) -> PsiMoments:
        """See :meth:`Layout.psi_moments`."""
        return sparse_moments(theta, self)

    def blups(self, theta: Array, beta: Array) -> tuple[BlupTerms, ...]:
        """See :meth:`Layout.blups`: one entry a term."""
        core = _solve(self, core_factors(theta, self.structures))
        means = np.einsum("ncb,c->nb", core.Hb, np.append(-beta, 1.0))[:, None] + self.core.origin
        sizes, system = self.core.A.sizes, core.Ki
        out = []
        for L, Z, b in zip(
            system.factors,
            system.inverse.own,
            by_term(means, sizes, self.core.widths),
            strict=True,
        ):
            cov = np.einsum("ab,lbc,dc->adl", L, Z, L, optimize=True)
            out.append(BlupTerms(b=b[:, :, 0].T, cov=cov))
        return tuple(out)

    def start_moments(self) -> Array:
        """See :meth:`Layout.start_moments`."""
        return moment_theta(self)

    def ranks(self) -> Array:
        """See :meth:`Layout.ranks`; all columns count as independent."""
        return np.sum(self.core.A.diagonal() > 1e-9).astype(float)

    def size(self) -> int:
        """See :meth:`Layout.size`."""
        return self.elimination.size + self.core.s.size

    def is_dear(self) -> bool:
        """See :meth:`Layout.is_dear`."""
        return True

    def measured_from(self, beta: Array) -> SparseLayout:
        """See :meth:`Layout.measured_from`."""
        return replace(
            self,
            S0=less_fixed(less_fixed(self.S0, beta, 0), beta, 1),
            core=replace(self.core, s=less_fixed(self.core.s, beta, 1)),
        )

    def rotate(self, t: int, Q: np.ndarray) -> SparseLayout:
        """See :meth:`Layout.rotate`."""
        core, A = self.core, self.core.A
        factors = [np.eye(k) for k in A.sizes]
        factors[t] = Q.T
        own = [V if s != t else Q.T @ V @ Q for s, V in enumerate(A.own)]
        across = [
            factors[m.terms[0]] @ V @ factors[m.terms[1]].T
            for V, m in zip(A.across, A.meetings, strict=True)
        ]
        turned = replace(
            core,
            A=replace(A, own=tuple(own), across=tuple(across)),
            s=dense.scale_rows(factors, core.widths, core.s),
            origin=dense.scale_rows(factors, core.widths, core.origin),
        )
        return replace(self, core=turned)


def _root(Psi: Any) -> Any:
    """A factor of a covariance that may be singular."""
    e, V = np.linalg.eigh(Psi)
    return V * np.sqrt(np.maximum(e, 0.0))


def _factors_of(blocks: Sequence[Any]) -> CoreFactors:
    """Factors that nothing is divided by."""
    zero = tuple(np.zeros_like(L) for L in blocks)
    one = tuple(np.eye(len(L)) for L in blocks)
    return CoreFactors(tuple(blocks), zero, zero, one, np.zeros(()))


def _solve(layout: SparseLayout, factors: CoreFactors, *, with_inverse: bool = True) -> Any:
    """See :func:`..crossed.core.solve_core`."""
    core = layout.core
    system = layout._system(factors.blocks)
    diagonals: Any = (None, None)
    if with_inverse:
        diagonals = tuple(d[:, None] for d in system.diagonals)
    H: Any = _Shrinkage(system, core.widths)
    at: Any = core.A, core.s, core.origin, factors, core.widths, diagonals, system, H
    return dense.solved(*at, np.asarray(system.logdet))


def sparse_jet(theta: Array, layout: SparseLayout) -> WaistJet[SparseTerms]:
    """Waist and first derivatives in theta."""
    factors = core_factors(theta, layout.structures)
    core = _solve(layout, factors)
    halves = tuple(core.Ki.halves())
    places = theta_slices(layout.structures)
    tangents = [s.tangents_at(theta[at]) for s, at in zip(layout.structures, places, strict=True)]
    D = tuple(psi_tangents(L, E) for L, E in zip(factors.blocks, tangents, strict=True))
    rest = SparseTerms(core, factors, halves, D)
    levels = dense.levels_of(core.u, layout.core.A.sizes, layout.core.widths)
    dlogdet = [2.0 * np.einsum("ab,kab->k", h, E) for h, E in zip(halves, tangents, strict=True)]
    dgram = [-quadratic_tangents(u, d) for u, d in zip(levels, D, strict=True)]
    gram = layout.S0 - core.gram
    rounding = dense.core_rounding(core, layout.core.s, layout.S0)
    waist = Waist(core.logdet, gram)
    return WaistJet(waist, np.concatenate(dlogdet), np.concatenate(dgram), rounding, rest)


def _slopes(
    P: Sequence[Any], W: Array, rest: SparseTerms, layout: SparseLayout
) -> tuple[Array, ...]:
    """Blocks of ``P - U W U'`` summed over the levels of each term, from those of P."""
    levels = dense.levels_of(rest.core.u, layout.core.A.sizes, layout.core.widths)
    return tuple(
        0.5 * (p + p.T) - np.einsum("acg,cd,bdg->ab", u, W, u, optimize=True)
        for p, u in zip(P, levels, strict=True)
    )


def _level_blocks(rest: SparseTerms, layout: SparseLayout) -> list[Any]:
    """``sum_i P_ii`` of every term, at factors without a singular value of zero."""
    lifted, singular = [], False
    for L in rest.factors.blocks:
        U, s, V = np.linalg.svd(L)
        singular |= bool((s < _LIFT).any())
        lifted.append((U * np.maximum(s, _LIFT)) @ V)
    halves = layout._system(lifted).halves() if singular else rest.halves
    return [h @ np.linalg.inv(L) for h, L in zip(halves, lifted, strict=True)]


def _half_slopes(
    factors: Sequence[Any], directions: Sequence[Any], layout: SparseLayout
) -> list[list[Any]]:
    """Derivatives of the halves along all directions of the factors, (m_t, k, k) a term."""
    at = layout.core.A, layout.places, layout.elimination, factors
    return [half_slopes(*at, t, E) for t, own in enumerate(directions) for E in own]


def sparse_curvature(
    theta: Array, W: Array, jet: WaistJet[SparseTerms], layout: SparseLayout
) -> Curvature:
    """Second derivatives of ``logdet + <W, gram>`` in theta, W held fixed.

    Those of logdet are derivatives of ``2 <P Lambda, E_k>``.
    """
    rest = jet.rest
    places = theta_slices(layout.structures)
    E = [s.tangents_at(theta[at]) for s, at in zip(layout.structures, places, strict=True)]
    moved = _half_slopes(rest.factors.blocks, E, layout)
    logdet = np.array(
        [
            np.concatenate([2.0 * np.einsum("ab,kab->k", h, e) for h, e in zip(row, E, strict=True)])
            for row in moved
        ]
    )
    for structure, at, half in zip(layout.structures, places, rest.halves, strict=True):
        if not structure.linear:
            logdet[at, at] += structure.bend(theta[at], half)
    g = tangent_effects(rest, layout, np.eye(W.shape[0]))
    hessian = logdet + 2.0 * inner_products(g, apply_P(g, rest, layout), W)
    minus = _slopes([np.zeros_like(h) for h in rest.halves], W, rest, layout)
    blocks = rest.factors.blocks
    halves = [R @ L for R, L in zip(minus, blocks, strict=True)]
    hessian = hessian + psi_curvatures(theta, minus, halves, layout.structures)
    slopes = _slopes(_level_blocks(rest, layout), W, rest, layout)
    halves = [h + R for h, R in zip(rest.halves, halves, strict=True)]
    return Curvature(0.5 * (hessian + hessian.T), slopes, tuple(halves))


def sparse_moments(theta: Array, layout: SparseLayout) -> PsiMoments:
    """What P and U make of the directions of Psi; a singular factor is lifted a little.

    ``tr(P D_k P D_l)`` is what ``tr(P D_k)`` loses along ``Psi + D_l``.
    """
    places = theta_slices(layout.structures)
    D = [s.directions_at(theta[at]) for s, at in zip(layout.structures, places, strict=True)]
    rest: SparseTerms = sparse_jet(theta, layout).rest
    lifted = []
    for L in rest.factors.blocks:
        U, s, V = np.linalg.svd(L)
        lifted.append((U * np.maximum(s, 1e2 * _LIFT)) @ V)
    inverses = [np.linalg.inv(L) for L in lifted]
    halves = layout._system(lifted).halves()
    E = [0.5 * d @ inverse.T for d, inverse in zip(D, inverses, strict=True)]  # D = E L' + L E'
    moved = _half_slopes(lifted, E, layout)
    P = [h @ inverse for h, inverse in zip(halves, inverses, strict=True)]
    owner = [(t, j) for t, own in enumerate(E) for j in range(len(own))]
    products_of = []
    for (t, j), row in zip(owner, moved, strict=True):
        change = [h @ inverse for h, inverse in zip(row, inverses, strict=True)]
        change[t] = change[t] - halves[t] @ inverses[t] @ E[t][j] @ inverses[t]
        lost = [-np.einsum("ab,kab->k", c, d) for c, d in zip(change, D, strict=True)]
        products_of.append(np.concatenate(lost))
    rest = rest._replace(D=tuple(D))
    columns = np.eye(layout.S0.shape[0])[:, :-1]
    g = tangent_effects(rest, layout, columns)
    own = EffectColumns((), rest.core.u[:, :-1])
    C = layout.S0.shape[0] - 1
    table = np.array(products_of)
    return PsiMoments(
        gram=(layout.S0 - rest.core.gram)[:-1, :-1],
        traces=np.concatenate([np.einsum("ab,kab->k", p, d) for p, d in zip(P, D, strict=True)]),
        products=0.5 * (table + table.T),
        grams=cross_products(own, g, C)[0],
        seconds=cross_products(g, apply_P(g, rest, layout), C),
    )
