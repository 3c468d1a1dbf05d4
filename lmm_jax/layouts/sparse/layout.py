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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax import Array

from ...covariance.theta import factor_blocks
from ...errors import DataError
from ...numerics.namespace import JAX, namespace
from ...numerics.namespace import NUMPY as xp
from ...reprs import brief, public
from ..contract import BlupTerms, Curvature, PsiMoments, Waist, WaistJet
from ..crossed import core as dense
from ..crossed.core_factors import core_factors
from ..crossed.curvature import average_information
from ..crossed.layout import moment_theta
from ..together import less_gram, root, undivided
from .arrays import SparseArrays
from .derivatives import (
    Shrinkage,
    SparseTerms,
    solve,
    sparse_curvature,
    sparse_jet,
    sparse_moments,
)
from .gram import rows_by_term

# Numbers in the storage beyond which an evaluation takes milliseconds.
_DEAR = 1 << 14


@public
@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SparseLayout(SparseArrays):
    """Sufficient statistics of crossed factors whose levels meet few others."""

    __repr__ = brief

    def _is_kind(self, kind: str) -> bool:
        """See :meth:`Layout._is_kind`."""
        return kind in ("crossed", "large core", "sparse") or SparseArrays._is_kind(self, kind)

    def waist(self, blocks: Sequence[Array]) -> Waist:
        """See :meth:`Layout.waist`; of values alone."""
        _check_host(blocks, self)
        return self._waist([root(Psi) for Psi in blocks])

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
        core = solve(self, undivided(blocks), with_inverse=False)
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
        return less_gram(P, W, rest, self)

    def psi_moments(self, theta: Array) -> PsiMoments:
        """See :meth:`Layout.psi_moments`."""
        _check_host(theta, self)
        return sparse_moments(theta, self)

    def blups(self, theta: Array, beta: Array) -> tuple[BlupTerms, ...]:
        """See :meth:`Layout.blups`: one entry a term."""
        _check_host((theta, beta), self)
        core = solve(self, core_factors(theta, self.structures))
        v, origin = xp.append(-beta, 1.0), self.core.origin
        means = xp.einsum("ncb,c->nb", core.Hb, v)
        means = (means + xp.einsum("ncb,c->nb", origin, v[-origin.shape[1] :]))[:, None]
        sizes, system = self.core.S.sizes, core.Ki
        out = []
        for L, Z, b in zip(
            system.factors,
            system.inverse.own,
            rows_by_term(means, sizes, self.core.widths),
            strict=True,
        ):
            cov = xp.einsum("ab,lbc,dc->adl", L, Z, L)
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

    def over_columns(self, change: Callable[[Array, int], Array]) -> SparseLayout:
        """See :meth:`Layout.over_columns`."""
        origin = self.core.origin
        if origin.shape[1] > 1:
            origin = change(origin, 1)
        return replace(
            self,
            S0=change(change(self.S0, 0), 1),
            core=replace(self.core, s=change(self.core.s, 1), origin=origin),
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
