"""Matrix-free layout: crossed factors of any size, with no matrix among the random effects.

With ``G = Z'Z`` and ``M = I + Lambda' G Lambda``, as in the sparse layout (:mod:`..sparse`),

    logdet = log|M|     gram = [X y]' [X y] - b' H b     H = Lambda M^-1 Lambda'

where products with ``M^-1`` are found by conjugate gradients, and ``log|M|`` by an estimate
(:mod:`.trace`) on probes that never change: a smooth function of theta whose derivative is
known, and which an optimizer takes for the criterion. Everything else is exact. What the probes
leave uncertain is measured by how much they differ (:meth:`MatrixFreeLayout.monte_carlo`).

References
----------
Kuendig & Sigrist (2025), arXiv:2505.09552; Pandolfi, Papaspiliopoulos & Zanella (2024),
arXiv:2411.04729.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jax import Array

from ...covariance.theta import factor_blocks
from ...numerics.devices import on_processor
from ...numerics.linalg import exact, symmetrize
from ...numerics.namespace import NUMPY, namespace
from ...reprs import brief, public
from ..contract import BlupTerms, Curvature, Waist, WaistJet
from ..crossed import core as dense
from ..crossed.core_factors import CoreFactors, core_factors
from ..crossed.curvature import average_information
from ..crossed.layout import moment_theta
from ..together import contracted, curvature_of, jet_of, less_gram, root, tangents, undivided
from .arrays import MatrixFreeArrays, by_terms
from .effects import level_covariances
from .system import Shrinkage, System, system_at, trace_of_inverse
from .trace import LogDet, log_det, log_det_value

# Step in theta, relative to 1 + |theta|, of the differences that second derivatives are: standard
# errors are right to about as much.
_STEP = 1e-5
# Singular values of a factor below which its blocks of P are those at this value.
_LIFT = 1e-4


class FreeTerms(NamedTuple):
    """What the second derivatives need."""

    core: dense.CoreTerms  # with operators in the place of matrices
    factors: CoreFactors
    trace: LogDet
    D: tuple[Array, ...]  # (m_t, k, k)  dPsi / dtheta_k
    leaves: tuple[()] = ()  # nothing is eliminated before, as far as the crossed layout knows


class MonteCarlo(NamedTuple):
    """What the probes leave uncertain, one standard error each."""

    logdet: Array  # ()     of log|V|
    dlogdet: Array  # (m, m)  covariance of its derivative
    n_probes: int


@public
@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MatrixFreeLayout(MatrixFreeArrays):
    """Sufficient statistics of a mixed model whose crossed factors are fitted approximately."""

    # of a crossed layout, which shares its derivatives
    buckets: ClassVar[tuple[()]] = ()
    links: ClassVar[tuple[()]] = ()
    eliminated: ClassVar[tuple[()]] = ()

    __repr__ = brief

    @property
    def on_host(self) -> bool:  # type: ignore[override]
        """Whether NumPy alone works it off: its sparse products are faster on a CPU."""
        return on_processor()

    @property
    def crossed(self) -> tuple[int, ...]:
        """All terms."""
        return tuple(range(len(self.blocks)))

    def _is_kind(self, kind: str) -> bool:
        """See :meth:`Layout._is_kind`."""
        kinds = ("crossed", "large core", "approximate")
        return kind in kinds or MatrixFreeArrays._is_kind(self, kind)

    @exact
    def waist(self, blocks: Sequence[Array]) -> Waist:
        """See :meth:`Layout.waist`; of values alone."""
        return self._waist(undivided([root(Psi) for Psi in blocks]))

    @exact
    def waist_of(self, factors: Sequence[Array], theta: Array) -> Waist:
        """See :meth:`Layout.waist_of`; of values alone."""
        del theta
        return self._waist(undivided(factors))

    @exact
    def waist_at(self, theta: Array) -> Waist:
        """See :meth:`Layout.waist_at`."""
        return self._waist(core_factors(theta, self.structures))

    @exact
    def waists_at(self, thetas: Array) -> Waist:
        """See :meth:`Layout.waists_at`: one after the other."""
        xp = namespace(thetas, self)
        found: Waist = (xp.vmap(self.waist_at) if xp is NUMPY else self._mapped)(thetas)
        return found

    def _mapped(self, thetas: Array) -> Waist:
        found: Waist = jax.lax.map(self.waist_at, thetas)
        return found

    def _waist(self, factors: CoreFactors) -> Waist:
        system = system_at(factors.blocks, self)
        core = _solved(system, factors, log_det_value(system.at, self))
        return Waist(logdet=core.logdet, gram=self.S0 - core.gram)

    @exact
    def jet(self, theta: Array) -> WaistJet[FreeTerms]:
        """See :meth:`Layout.jet`."""
        return free_jet(theta, self)

    @exact
    def curvature(self, theta: Array, root: Array, jet: WaistJet[FreeTerms]) -> Curvature:
        """See :meth:`Layout.curvature`."""
        return free_curvature(theta, root @ root.T, jet, self)

    @exact
    def average_information(self, theta: Array, v: Array, jet: WaistJet[FreeTerms]) -> Array:
        """See :meth:`Layout.average_information`."""
        return average_information(theta, v, jet, self)

    @exact
    def psi_slopes(self, theta: Array, W: Array, jet: WaistJet[FreeTerms]) -> tuple[Array, ...]:
        """See :meth:`Layout.psi_slopes`; where a factor is singular its part of P is left out."""
        rest = jet.rest
        P = [
            h @ inverse for h, inverse in zip(rest.trace.halves, rest.factors.inverses, strict=True)
        ]
        return less_gram(P, W, rest, self)

    @exact
    def blups(self, theta: Array, beta: Array) -> tuple[BlupTerms, ...]:
        """See :meth:`Layout.blups`: one entry a term; conditional covariances are estimates."""
        xp = namespace(self.S0)
        factors = core_factors(theta, self.structures)
        system = system_at(factors.blocks, self)
        core = _solved(system, factors, system.at.logdet)
        mean = xp.einsum("ncb,c->nb", core.Hb, xp.append(-beta, 1.0))[:, None] + self.core.origin
        means = by_terms(mean, self.blocks)
        covs = level_covariances(system, self)
        return tuple(BlupTerms(b=b[:, :, 0], cov=cov) for b, cov in zip(means, covs, strict=True))

    @exact
    def joint_covariance(self, theta: Array) -> Shrinkage:
        """See :meth:`Layout.joint_covariance`."""
        return Shrinkage(system_at(factor_blocks(theta, self.structures), self))

    @exact
    def start_moments(self) -> Array:
        """See :meth:`Layout.start_moments`."""
        return moment_theta(self)

    def ranks(self) -> Array:
        """See :meth:`Layout.ranks`; all columns count as independent."""
        xp = namespace(self.S0)
        parts = [xp.sum((xp.einsum("aal->al", B) > 1e-9).astype(B.dtype)) for B in self.blocks]
        return xp.sum(xp.stack(parts))

    def size(self) -> int:
        """See :meth:`Layout.size`."""
        return self.core.s.size + sum(2 * link.values.size for link in self.linked)

    def is_dear(self) -> bool:
        """See :meth:`Layout.is_dear`."""
        return True

    def over_columns(self, change: Callable[[Array, int], Array]) -> MatrixFreeLayout:
        """See :meth:`Layout.over_columns`."""
        return replace(
            self,
            S0=change(change(self.S0, 0), 1),
            core=replace(self.core, s=change(self.core.s, 1)),
        )

    def rotate(self, t: int, Q: np.ndarray) -> MatrixFreeLayout:
        """See :meth:`Layout.rotate`."""
        core, A = self.core, self.core.A
        xp = namespace(self.S0)
        factors: Any = [np.eye(k) for k in self.sizes]
        factors[t] = Q.T
        turn = lambda V, s, u: xp.einsum("ab,bce,dc->ade", factors[s], V, factors[u])  # noqa: E731
        links = tuple(
            replace(link, values=turn(link.values, *link.pair),
                    values_back=turn(link.values_back, *link.pair))
            for link in A.links
        )  # fmt: skip
        turned = replace(
            core,
            A=replace(A, blocks=tuple(turn(B, s, s) for s, B in enumerate(A.blocks)), links=links),
            s=dense.scale_rows(factors, core.widths, core.s),
            origin=dense.scale_rows(factors, core.widths, core.origin),
        )
        return replace(self, core=turned)

    @exact
    def monte_carlo(self, theta: Any) -> MonteCarlo:
        """What the probes leave uncertain at a theta."""
        xp = namespace(theta, self.S0)
        found = log_det(system_at(factor_blocks(theta, self.structures), self).at, self)
        R = found.values.shape[0]
        each = [
            2.0 * xp.einsum("rab,kab->rk", h, E)
            for h, E in zip(found.each, tangents(theta, self.structures), strict=True)
        ]
        slopes = xp.concatenate(each, axis=1)
        apart = slopes - xp.mean(slopes, axis=0)[None]
        spread = found.values - xp.mean(found.values)
        share = 1.0 / (R * (R - 1))
        return MonteCarlo(xp.sqrt(share * xp.sum(spread**2)), share * (apart.T @ apart), R)


def _solved(
    system: System, factors: CoreFactors, logdet: Array, halves: tuple[Array, ...] = ()
) -> dense.CoreTerms:
    """See :func:`..crossed.core.solve_core`."""
    core = system.layout.core
    ends = core.A, core.s, core.origin, factors, core.widths
    return dense.solved(*ends, system, logdet, halves, trace_of_inverse(system))


def free_jet(theta: Array, layout: MatrixFreeLayout) -> WaistJet[FreeTerms]:
    """Waist and first derivatives in theta."""
    factors = core_factors(theta, layout.structures)
    system = system_at(factors.blocks, layout)
    trace = log_det(system.at, layout)
    core = _solved(system, factors, trace.value, trace.halves)
    return jet_of(theta, core, factors, layout, lambda D: FreeTerms(core, factors, trace, D))


def _level_blocks(rest: FreeTerms, layout: MatrixFreeLayout) -> list[Array]:
    """``sum_i P_ii`` of every term, at factors without a singular value of zero."""
    xp = namespace(layout.S0)
    lifted, least = [], []
    for L in rest.factors.blocks:
        U, s, V = xp.linalg.svd(L)
        lifted.append((U * xp.maximum(s, _LIFT)[None]) @ V)
        least.append(xp.min(s))
    singular = xp.min(xp.stack(least)) < _LIFT
    halves = xp.cond(
        singular,
        lambda: log_det(system_at(lifted, layout).at, layout).halves,
        lambda: rest.trace.halves,
    )
    return [xp.linalg.solve(L.T, h.T).T for h, L in zip(halves, lifted, strict=True)]


def free_curvature(
    theta: Array, W: Array, jet: WaistJet[FreeTerms], layout: MatrixFreeLayout
) -> Curvature:
    """Second derivatives of ``logdet + <W, gram>`` in theta, W held fixed.

    Those of logdet are differences of its first ones, of the same probes; those of the gram
    matrix are closed forms.
    """
    xp = namespace(theta, layout.S0)
    rest, rows = jet.rest, []
    for k in range(theta.shape[0]):
        step = _STEP * (1.0 + xp.abs(theta[k]))
        moved = xp.at(theta)[k].add(step)
        found = log_det(system_at(factor_blocks(moved, layout.structures), layout).at, layout)
        slope = 2.0 * contracted(found.halves, tangents(moved, layout.structures))
        rows.append((slope - jet.dlogdet) / step)
    logdet, P = symmetrize(xp.stack(rows)), _level_blocks(rest, layout)
    return curvature_of(theta, W, logdet, P, rest, layout)
