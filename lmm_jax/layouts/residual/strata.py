"""Stratified layout: independent residuals, a variance for each of a few strata, crossed effects.

With R = r_s in the rows of stratum s, ``R^-1/2 V R^-1/2`` is the V of a crossed model whose rows
are divided by standard deviations. Groups that are eliminated lie in one stratum each, so their
factors T, c and d are divided by one number, and all other sums are ``sum_s r_s^-1 (.)_s``: of the
rows nothing is looked at again. The layout for fits and profiles of a :class:`MarkovLayout` that
holds all effects in one dense matrix; derivatives are in :mod:`.strata_moments`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from ...covariance.residuals import residual_of
from ...numerics.linalg import exact
from ...numerics.namespace import namespace
from ...reprs import brief
from ..buckets import Bucket
from ..contract import Curvature, Waist, WaistJet, maps_of
from ..crossed.core import Core
from ..crossed.curvature import curvature
from ..crossed.jet import waist_jet
from ..crossed.layout import CrossedLayout, rotate_term
from ..crossed.links import Links
from .base import OfResiduals
from .starts import Squares
from .strata_moments import OfStrata, Strata, of_strata, strata_curvature


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StrataSums:
    """What the groups leave of the rows of every stratum, and the strata themselves."""

    S: Array  # (N, N, S)  Z_2' Z_2 less d' d
    s: Array  # (N, p + 1, S)
    S0: Array  # (p + 1, p + 1, S)
    counts: Array  # (S,)  rows
    squares: Array  # (S,)  of their OLS residuals
    slopes: Array  # (m_s, S)  of log standard deviations

    __repr__ = brief


class _Kept(NamedTuple):
    crossed: WaistJet
    strata: OfStrata


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StratifiedLayout(OfResiduals):
    """Sufficient statistics of crossed effects whose residuals have a variance a stratum."""

    buckets: tuple[Bucket, ...]  # groups, each in one stratum, before any division
    links: tuple[Links, ...]  # one a bucket
    owners: tuple[Array, ...]  # (G,) a bucket: stratum of every group
    sums: StrataSums  # with an S0 for each: that of the layout is zero
    origin: Array  # (N, 1, 1)  effects that y is measured from
    levels: Array  # (t,)  levels of every term that have rows
    core_widths: tuple[int, ...] = field(metadata={"static": True})
    eliminated: tuple[int, ...] = field(metadata={"static": True})  # terms, in order
    crossed: tuple[int, ...] = field(metadata={"static": True})  # terms of the core, in order

    __repr__ = brief

    @property
    def n_terms(self) -> int:
        """Terms of random effects; what follows in theta are log standard deviations."""
        return len(self.structures) - 1

    def _divided(self, theta: Array) -> tuple[CrossedLayout, Strata]:
        """The crossed model whose rows are divided by their standard deviations."""
        xp = namespace(theta, self.S0)
        at, sums = residual_of(self.structures, 0)[1], self.sums
        log_sd = theta[at] @ sums.slopes
        h, weight = xp.exp(-log_sd), xp.exp(-2.0 * log_sd)
        buckets, links = [], []
        for bucket, link, owner in zip(self.buckets, self.links, self.owners, strict=True):
            own = h[owner]
            T, c = bucket.T * own[None, None], bucket.c * own[None, None]
            buckets.append(replace(bucket, T=T, c=c))
            links.append(replace(link, d=link.d * own[link.group][None]))
        S, s, S0 = (x * weight[None, None] for x in (sums.S, sums.s, sums.S0))
        core = Core(
            S=xp.sum(S, axis=2)[:, :, None],
            s=xp.sum(s, axis=2)[:, :, None],
            origin=self.origin,
            widths=self.core_widths,
        )
        layout = self._crossed(tuple(buckets), tuple(links), core, self.S0 + xp.sum(S0, axis=2))
        return layout, Strata(S, s, S0, sums.counts, self.owners, log_sd)

    def _crossed(
        self, buckets: tuple[Bucket, ...], links: tuple[Links, ...], core: Core, S0: Array
    ) -> CrossedLayout:
        """These as a model without a residual covariance."""
        n_terms, maps = self.n_terms, maps_of(self)
        maps.update(structures=self.structures[:n_terms], whiteners=self.whiteners[:n_terms])
        return CrossedLayout(
            buckets=buckets,
            links=links,
            core=core,
            moments=None,  # start values are those of residual models
            S0=S0,
            eliminated=self.eliminated,
            crossed=self.crossed,
            **maps,
        )

    def _own(self, theta: Array) -> Array:
        """Theta of the random effects."""
        return theta[: residual_of(self.structures, 0)[1].start]

    @exact
    def waist_of(self, factors: Sequence[Array], theta: Array) -> Waist:
        """See :meth:`Layout.waist_of`."""
        layout, strata = self._divided(theta)
        found = layout.waist_of(tuple(factors)[: self.n_terms], self._own(theta))
        return found._replace(logdet=found.logdet + strata.log_R)

    @exact
    def waist_at(self, theta: Array) -> Waist:
        """See :meth:`Layout.waist_at`."""
        layout, strata = self._divided(theta)
        found = layout.waist_at(self._own(theta))
        return found._replace(logdet=found.logdet + strata.log_R)

    @exact
    def jet(self, theta: Array) -> WaistJet[_Kept]:
        """See :meth:`Layout.jet`."""
        xp, at = namespace(theta, self.S0), residual_of(self.structures, 0)[1]
        layout, strata = self._divided(theta)
        of = waist_jet(self._own(theta), layout)
        own = of_strata(of, layout, strata)
        slopes = self.sums.slopes
        dgram = xp.einsum("ks,abs->kab", slopes, own.dgram)
        waist = of.waist._replace(logdet=of.waist.logdet + strata.log_R)
        return WaistJet(
            waist,
            xp.at(xp.zeros_like(theta))[at].set(slopes @ own.dlogdet)
            + xp.pad(of.dlogdet, ((0, theta.size - at.start),)),
            xp.concatenate([of.dgram, dgram]),
            of.rounding,
            _Kept(of, own),
        )

    @exact
    def curvature(self, theta: Array, root: Array, jet: WaistJet[_Kept]) -> Curvature:
        """See :meth:`Layout.curvature`."""
        xp, at = namespace(theta, root, self.S0), residual_of(self.structures, 0)[1]
        layout, strata = self._divided(theta)
        terms, kept = self._own(theta), jet.rest
        found = curvature(terms, root @ root.T, kept.crossed, layout)
        mixed, own = strata_curvature(root, kept.crossed, layout, strata, kept.strata)
        slopes, m = self.sums.slopes, theta.size - at.start
        hessian = xp.pad(found.hessian, ((0, m), (0, m)))
        across = mixed @ slopes.T
        hessian = xp.at(hessian)[: at.start, at].set(across)
        hessian = xp.at(hessian)[at, : at.start].set(across.T)
        hessian = xp.at(hessian)[at, at].set(slopes @ own @ slopes.T)
        none = xp.zeros((0, 0), theta.dtype)
        return Curvature(hessian, (*found.psi_gradients, none), (*found.psi_halves, none))

    @exact
    def psi_slopes(self, theta: Array, W: Array, jet: WaistJet[_Kept]) -> tuple[Array, ...]:
        """See :meth:`Layout.psi_slopes`."""
        xp, (layout, _) = namespace(theta, W), self._divided(theta)
        found = layout.psi_slopes(self._own(theta), W, jet.rest.crossed)
        return (*found, xp.zeros((0, 0), theta.dtype))

    def level_counts(self) -> Array:
        """See :meth:`Layout.level_counts`."""
        return self.levels

    def _squares(self) -> list[Squares]:
        """See :meth:`OfResiduals._squares`: sums over a stratum."""
        sums = self.sums
        return [Squares(0, sums.slopes, sums.squares, sums.counts)]

    def size(self) -> int:
        """See :meth:`Layout.size`."""
        pairs = sum(link.left.size for link in self.links)
        return 2 * pairs + self.sums.S.size + sum(b.T.size + b.c.size for b in self.buckets)

    def block_rows(self) -> float:
        """See :meth:`Layout.block_rows`."""
        return max([self.sums.S.shape[0], *(b.c.shape[0] for b in self.buckets)])

    def rotate(self, t: int, Q: np.ndarray) -> StratifiedLayout:
        """See :meth:`Layout.rotate`."""
        core = Core(S=self.sums.S, s=self.sums.s, origin=self.origin, widths=self.core_widths)
        turned = rotate_term(self._crossed(self.buckets, self.links, core, self.S0), t, Q)
        return replace(
            self,
            buckets=turned.buckets,
            links=turned.links,
            sums=replace(self.sums, S=turned.core.S, s=turned.core.s),
            origin=turned.core.origin,
        )

    def over_columns(self, change: Callable[[Array, int], Array]) -> StratifiedLayout:
        """See :meth:`Layout.over_columns`."""
        sums = self.sums
        return replace(
            self,
            S0=change(change(self.S0, 0), 1),
            buckets=tuple(replace(b, c=change(b.c, 1)) for b in self.buckets),
            sums=replace(sums, s=change(sums.s, 1), S0=change(change(sums.S0, 0), 1)),
        )
