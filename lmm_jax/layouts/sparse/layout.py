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
from ...numerics.namespace import NUMPY as xp
from ...reprs import brief, public
from ..contract import BlupTerms, Curvature, Layout, PsiMoments, Waist, WaistJet, less_fixed
from ..crossed import core as dense
from ..crossed.arrays import StartMoments
from ..crossed.core_factors import CoreFactors, core_factors
from ..crossed.curvature import (
    EffectColumns,
    apply_P,
    average_information,
    cross_products,
    inner_products,
    tangent_effects,
)
from ..crossed.layout import moment_theta
from ..group_algebra import psi_curvatures, psi_tangents, quadratic_tangents
from .gram import SparseGram, by_term
from .system import Places, System, half_slopes

# Numbers in the storage beyond which an evaluation takes milliseconds.
_DEAR = 1 << 14
# Singular values of a factor in the place of zeros, in units of a level's norm: blocks of P are
# wrong by the square, and where they are differentiated by the fourth power, of two of them.
_LIFT, _STEP = 1e-6, 3e-3


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SparseCore:
    """Cross-products of all random effects, as :class:`..crossed.core.Core` of some of them."""

    S: SparseGram  # Z' Z
    s: Array  # (N, p + 1, 1)  Z' [X y]
    # (N, c, 1)  effects a that the last columns of [X y] are measured from: what they leave of
    # them stands in the layout. X too: columns that the effects explain lose no digits
    origin: Array
    widths: tuple[int, ...] = field(metadata={"static": True})  # levels of each term

    __repr__ = brief


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


@public
@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SparseLayout(Layout):
    """Sufficient statistics of crossed factors whose levels meet few others."""

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
        return kind in ("crossed", "large core", "sparse") or Layout._is_kind(self, kind)

    def system(self, factors: Sequence[Any]) -> System:
        """``M = I + Lambda' Z'Z Lambda`` at some factors."""
        return System(self.core.S, self.places, self.elimination, factors)

    def waist(self, blocks: Sequence[Array]) -> Waist:
        """See :meth:`Layout.waist`; of values alone."""
        _check_host(blocks, self)
        return self._waist([_root(Psi) for Psi in blocks])

    def waist_at(self, theta: Array) -> Waist:
        """See :meth:`Layout.waist_at`."""
        _check_host(theta, self)
        return self._waist(factor_blocks(theta, self.structures))

    def waists_at(self, thetas: Array) -> Waist:
        """See :meth:`Layout.waists_at`: one after the other."""
        _check_host(thetas, self)
        found = [self.waist_at(theta) for theta in thetas]
        return Waist(*(xp.stack(parts) for parts in zip(*found, strict=True)))

    def _waist(self, blocks: Sequence[Any]) -> Waist:
        core = _solve(self, _factors_of(blocks), with_inverse=False)
        return Waist(logdet=core.logdet, gram=self.S0 - core.gram)

    def jet(self, theta: Array) -> WaistJet[SparseTerms]:
        """See :meth:`Layout.jet`."""
        _check_host(theta, self)
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
        P = [
            h @ inverse for h, inverse in zip(rest.core.halves, rest.factors.inverses, strict=True)
        ]
        return _slopes(P, W, rest, self)

    def psi_moments(self, theta: Array) -> PsiMoments:
        """See :meth:`Layout.psi_moments`."""
        _check_host(theta, self)
        return sparse_moments(theta, self)

    def blups(self, theta: Array, beta: Array) -> tuple[BlupTerms, ...]:
        """See :meth:`Layout.blups`: one entry a term."""
        _check_host((theta, beta), self)
        core = _solve(self, core_factors(theta, self.structures))
        v, origin = xp.append(-beta, 1.0), self.core.origin
        means = xp.einsum("ncb,c->nb", core.Hb, v)
        means = (means + xp.einsum("ncb,c->nb", origin, v[-origin.shape[1] :]))[:, None]
        sizes, system = self.core.S.sizes, core.Ki
        out = []
        for L, Z, b in zip(
            system.factors,
            system.inverse.own,
            by_term(means, sizes, self.core.widths),
            strict=True,
        ):
            cov = xp.einsum("ab,lbc,dc->adl", L, Z, L, optimize=True)
            out.append(BlupTerms(b=b[:, :, 0].T, cov=cov))
        return tuple(out)

    def joint_covariance(self, theta: Array) -> Shrinkage:
        """See :meth:`Layout.joint_covariance`."""
        factors = core_factors(theta, self.structures)
        return Shrinkage(self.system(factors.blocks), factors, self.core.widths)

    def start_moments(self) -> Array:
        """See :meth:`Layout.start_moments`."""
        return moment_theta(self)

    def ranks(self) -> Array:
        """See :meth:`Layout.ranks`; all columns count as independent."""
        return xp.sum(self.core.S.diagonal() > 1e-9).astype(float)

    def size(self) -> int:
        """See :meth:`Layout.size`."""
        return self.elimination.size + self.core.s.size

    def is_dear(self) -> bool:
        """See :meth:`Layout.is_dear`."""
        return self.size() > _DEAR

    def measured_from(self, beta: Array) -> SparseLayout:
        """See :meth:`Layout.measured_from`."""
        origin = self.core.origin
        if origin.shape[1] > 1:
            origin = less_fixed(origin, beta, 1)
        return replace(
            self,
            S0=less_fixed(less_fixed(self.S0, beta, 0), beta, 1),
            core=replace(self.core, s=less_fixed(self.core.s, beta, 1), origin=origin),
        )

    def rotate(self, t: int, Q: np.ndarray) -> SparseLayout:
        """See :meth:`Layout.rotate`."""
        core, A = self.core, self.core.S
        factors = [xp.eye(k) for k in A.sizes]
        factors[t] = Q.T
        own = [V if s != t else Q.T @ V @ Q for s, V in enumerate(A.own)]
        across = [
            factors[m.terms[0]] @ V @ factors[m.terms[1]].T
            for V, m in zip(A.across, A.meetings, strict=True)
        ]
        turned = replace(
            core,
            S=replace(A, own=tuple(own), across=tuple(across)),
            s=dense.scale_rows(factors, core.widths, core.s),
            origin=dense.scale_rows(factors, core.widths, core.origin),
        )
        return replace(self, core=turned)


def _check_host(arrays: Any, layout: SparseLayout) -> None:
    if namespace(arrays, layout.S0) is JAX:
        raise DataError(
            "the levels of these crossed factors meet few others: their matrices are kept sparse "
            "and worked off by NumPy, not inside of a JAX program: its values and the fit are had, "
            "of arrays of NumPy, its derivatives by JAX are not"
        )


def _root(Psi: Any) -> Any:
    """A factor of a covariance that may be singular."""
    e, V = xp.linalg.eigh(Psi)
    return V * np.sqrt(xp.maximum(e, 0.0))


def _factors_of(blocks: Sequence[Any]) -> CoreFactors:
    """Factors that nothing is divided by."""
    zero = tuple(xp.zeros_like(L) for L in blocks)
    one = tuple(xp.eye(len(L)) for L in blocks)
    return CoreFactors(tuple(blocks), zero, zero, one, xp.zeros(()))


def _solve(layout: SparseLayout, factors: CoreFactors, *, with_inverse: bool = True) -> Any:
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


def sparse_jet(theta: Array, layout: SparseLayout) -> WaistJet[SparseTerms]:
    """Waist and first derivatives in theta."""
    factors = core_factors(theta, layout.structures)
    core = _solve(layout, factors)
    places = theta_slices(layout.structures)
    tangents = [s.tangents_at(theta[at]) for s, at in zip(layout.structures, places, strict=True)]
    D = tuple(psi_tangents(L, E) for L, E in zip(factors.blocks, tangents, strict=True))
    rest = SparseTerms(core, factors, D)
    levels = dense.levels_of(core.u, layout.core.S.sizes, layout.core.widths)
    dgram = [-quadratic_tangents(u, d) for u, d in zip(levels, D, strict=True)]
    gram = layout.S0 - core.gram
    rounding = dense.core_rounding(core, layout.core.s, layout.S0)
    waist = Waist(core.logdet, gram)
    return WaistJet(
        waist, 2.0 * _contracted(core.halves, tangents), xp.concatenate(dgram), rounding, rest
    )


def _slopes(
    P: Sequence[Any], W: Array, rest: SparseTerms, layout: SparseLayout
) -> tuple[Array, ...]:
    """Blocks of ``P - U W U'`` summed over the levels of each term, from those of P."""
    levels = dense.levels_of(rest.core.u, layout.core.S.sizes, layout.core.widths)
    return tuple(
        0.5 * (p + p.T) - xp.einsum("acg,cd,bdg->ab", u, W, u, optimize=True)
        for p, u in zip(P, levels, strict=True)
    )


def _level_blocks(rest: SparseTerms, layout: SparseLayout) -> list[Any]:
    """``sum_i P_ii`` of every term, at factors without a singular value of zero."""
    lifted = _lifted(rest.factors.blocks, _LIFT, layout)
    halves = rest.core.halves if lifted is None else layout.system(lifted).halves()
    factors = rest.factors.blocks if lifted is None else lifted
    return [h @ np.linalg.inv(L) for h, L in zip(halves, factors, strict=True)]


def _lifted(factors: Sequence[Any], least: float, layout: SparseLayout) -> list[Any] | None:
    """Factors without singular values of zero; None where there are none."""
    least = least / float(layout.core.S.diagonal().max()) ** 0.5
    parts = [xp.linalg.svd(L) for L in factors]
    if all((s >= least).all() for _, s, _ in parts):
        return None
    return [(U * xp.maximum(s, least)) @ V for U, s, V in parts]


def _half_slopes(
    factors: Sequence[Any], directions: Sequence[Any], layout: SparseLayout
) -> list[list[Any]]:
    """Derivatives of the halves along all directions of the factors, (m_t, k, k) a term."""
    at = layout.core.S, layout.places, layout.elimination, factors
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
    logdet = xp.stack([2.0 * _contracted(row, E) for row in moved])
    for structure, at, half in zip(layout.structures, places, rest.core.halves, strict=True):
        if not structure.linear:
            logdet[at, at] += structure.bend(theta[at], half)
    g = tangent_effects(rest, layout, xp.eye(W.shape[0]))
    hessian = logdet + 2.0 * inner_products(g, apply_P(g, rest, layout), W)
    minus = _slopes([xp.zeros_like(h) for h in rest.core.halves], W, rest, layout)
    blocks = rest.factors.blocks
    halves = [R @ L for R, L in zip(minus, blocks, strict=True)]
    hessian = hessian + psi_curvatures(theta, minus, halves, layout.structures)
    slopes = _slopes(_level_blocks(rest, layout), W, rest, layout)
    halves = [h + R for h, R in zip(rest.core.halves, halves, strict=True)]
    return Curvature(0.5 * (hessian + hessian.T), slopes, tuple(halves))


def sparse_moments(theta: Array, layout: SparseLayout) -> PsiMoments:
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


def _trace_products(factors: Sequence[Any], D: Sequence[Any], layout: SparseLayout) -> Any:
    """``tr(P D_k)``, (m,), and ``tr(P D_k P D_l)``, (m, m), at regular factors.

    The latter is what ``tr(P D_k)`` loses along ``Psi + D_l``.
    """
    inverses = [np.linalg.inv(L) for L in factors]
    halves = layout.system(factors).halves()
    P = [h @ inverse for h, inverse in zip(halves, inverses, strict=True)]
    E = [0.5 * d @ inverse.T for d, inverse in zip(D, inverses, strict=True)]  # D = E L' + L E'
    owner = [(t, j) for t, own in enumerate(E) for j in range(len(own))]
    table = []
    for (t, j), row in zip(owner, _half_slopes(factors, E, layout), strict=True):
        change = [h @ inverse for h, inverse in zip(row, inverses, strict=True)]
        change[t] = change[t] - P[t] @ E[t][j] @ inverses[t]
        table.append(-_contracted(change, D))
    return _contracted(P, D), xp.stack(table)


def _contracted(blocks: Sequence[Any], D: Sequence[Any]) -> Any:
    """``<block, D_k>`` of every term, (m,)."""
    parts = [xp.einsum("ab,kab->k", A, d) for A, d in zip(blocks, D, strict=True)]
    return xp.concatenate(parts)
