"""Crossed layout: groups eliminated one by one, what remains in one dense core.

The terms of the factor with most levels, and those nested in it, are integrated
out group by group as in the grouped layout (subscript 1). The terms that cross
it (subscript 2) are the core. With ``V_1 = I + Z_1 Psi_1 Z_1'`` and
``[A b] = Z_2' V_1^-1 [Z_2 X y]``,

    logdet = sum_i log|M_i| + log|I + Lambda_2' A Lambda_2|
    gram   = [X y]' V_1^-1 [X y] - b' H b
    H      = Lambda_2 (I + Lambda_2' A Lambda_2)^-1 Lambda_2'

where y is measured from fixed effects of the core's levels (``Core.origin``), so
that large random effects take no digits. Nothing here fails at a singular covariance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import numpy as np
from jax import Array

from ...covariance.theta import factor_blocks, spread
from ...numerics.devices import on_processor
from ...numerics.linalg import exact
from ...numerics.namespace import JAX, namespace
from ...reprs import brief, public
from ..buckets import bucket_levels, bucket_ranks, rotate_bucket, without_padding
from ..contract import BlupTerms, Curvature, PsiMoments, Waist, WaistJet
from ..group_algebra import group_cov
from . import core as dense
from . import links as sparse
from .arrays import CrossedArrays
from .core_factors import core_factors
from .curvature import average_information, curvature, psi_moments, psi_slopes
from .index import is_dear
from .jet import (
    CrossedTerms,
    conditional_means,
    pick,
    places,
    sizes_of,
    through_core,
    waist,
    waist_jet,
)
from .pair_sums import expected_size, room_for_sums

# Relative standard deviations of the core's effects beyond which derivatives need all digits.
_MODERATE = 30.0
# Products of pairs of entries up to which many responses gain side by side, 40 by 30 levels where
# rows differ; and numbers in the core, which lanes work off one by one: a core of 50 columns takes
# a fifth to two fifths of the time, one of 200 as long, one of 400 more than twice as long.
_FEW_SHARED, _FEW_OWN, _FEW_IN_CORE = 1 << 18, 1 << 15, 1 << 15
# Columns of a core whose cross-products are worth a spectral decomposition, which draws need:
# twelve seconds on one core.
LARGE_CORE = 4096


@public
@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CrossedLayout(CrossedArrays):
    """Sufficient statistics of a mixed model with crossed factors."""

    takes_many: ClassVar[bool] = True

    __repr__ = brief

    def _is_kind(self, kind: str) -> bool:
        """See :meth:`Layout._is_kind`."""
        if kind == "large core":
            return int(np.prod(self.shape)) > LARGE_CORE
        return kind == "crossed" or CrossedArrays._is_kind(self, kind)

    @exact
    def waist(self, blocks: Sequence[Array]) -> Waist:
        """See :meth:`Layout.waist`."""
        return waist(blocks, self)

    @exact
    def waist_at(self, theta: Array) -> Waist:
        """See :meth:`Layout.waist_at`."""
        if namespace(theta, self) is not JAX:
            return CrossedArrays.waist_at(self, theta)
        return waist_jet(theta, self).waist  # one program for both

    @exact
    def jet(self, theta: Array) -> WaistJet[CrossedTerms]:
        """See :meth:`Layout.jet`."""
        return waist_jet(theta, self)

    @exact
    def curvature(self, theta: Array, root: Array, jet: WaistJet[CrossedTerms]) -> Curvature:
        """See :meth:`Layout.curvature`."""
        return curvature(theta, root @ root.T, jet, self)

    @exact
    def average_information(self, theta: Array, v: Array, jet: WaistJet[CrossedTerms]) -> Array:
        """See :meth:`Layout.average_information`."""
        return average_information(theta, v, jet, self)

    @exact
    def psi_slopes(self, theta: Array, W: Array, jet: WaistJet[CrossedTerms]) -> tuple[Array, ...]:
        """See :meth:`Layout.psi_slopes`; where a factor is singular its part of P is left out."""
        return psi_slopes(W, jet, self)

    @exact
    def psi_moments(self, theta: Array) -> PsiMoments:
        """See :meth:`Layout.psi_moments`."""
        return psi_moments(theta, self)

    @exact
    def blups(self, theta: Array, beta: Array) -> tuple[BlupTerms, ...]:
        """See :meth:`Layout.blups`: one entry a bucket, the core last."""
        return blups(theta, beta, self)

    @exact
    def conditional_means(self, blocks: Sequence[Array], v: Array) -> tuple[Array, ...]:
        """See :meth:`Layout.conditional_means`: the core last."""
        return conditional_means(blocks, v, self)

    @exact
    def start_moments(self) -> Array:
        """See :meth:`Layout.start_moments`."""
        return moment_theta(self)

    def ranks(self) -> Array:
        """See :meth:`Layout.ranks`; columns of the core count as independent."""
        xp = namespace(self.S0)
        columns = xp.sum((xp.diagonal(self.core.S) > 1e-9).astype(self.S0.dtype))
        return bucket_ranks(self.buckets) + columns if self.buckets else columns

    def level_counts(self) -> Array:
        """See :meth:`Layout.level_counts`; all levels of the core count."""
        xp, order = namespace(self.S0), np.argsort((*self.eliminated, *self.crossed))
        n = self.core.S.shape[2]
        counts = [xp.asarray(np.array([width * n for width in self.core.widths]))]
        if self.buckets:
            sizes = [self.sizes[t] for t in self.eliminated]
            counts.insert(0, bucket_levels(self.buckets, sizes))
        return xp.concatenate(counts)[order]

    def size(self) -> int:
        """See :meth:`Layout.size`."""
        pairs = sum(link.left.size for link in self.links)
        return pairs + self.core.S.size + sum(b.T.size + b.c.size for b in self.buckets)

    def block_rows(self) -> float:
        """See :meth:`Layout.block_rows`."""
        return max([self.shape[0], *(b.c.shape[0] for b in self.buckets)])  # there may be none

    def is_dear(self) -> bool:
        """See :meth:`Layout.is_dear`."""
        return is_dear(self.size())

    def gains_by_lanes(self, *, own_rows: bool) -> bool:
        """See :meth:`Layout.gains_by_lanes`: not where arithmetic outweighs the calls of NumPy."""
        pairs = sum(k.left.size * k.d.shape[0] ** 2 for k in self.links)
        few = pairs <= (_FEW_OWN if own_rows else _FEW_SHARED)
        return few and self.core.S.size <= _FEW_IN_CORE

    def known_at(self, theta: Array, *, rough: bool = False) -> CrossedLayout:
        """See :meth:`Layout.known_at`: a large core of regular terms takes less memory."""
        outer = pick(self.structures, self.crossed)
        factors = core_factors(np.asarray(theta)[places(self, self.crossed)], outer)
        rough = rough and max(float(np.max(np.abs(L))) for L in factors.blocks) <= _MODERATE
        return replace(self, regular=dense.is_regular(factors, self.shape[0]), rough=rough)

    @property
    def may_gain(self) -> bool:
        """See :attr:`Layout.may_gain`: no large one on a CPU with room for its sums over pairs."""
        if not self.is_dear() or not on_processor():
            return True
        sizes = [expected_size(k.left.size, k.d.shape[0], self.shape) for k in self.links]
        return sum(sizes) > room_for_sums()

    def without_padding(self) -> CrossedLayout:
        """See :meth:`Layout.without_padding`; levels of the core that are not there stay."""
        links = tuple(map(sparse.without_padding, self.links))
        linked = [1 + int(np.max(k.group, initial=0)) for k in links]
        buckets = map(without_padding, self.buckets, linked)
        return replace(self, links=links, buckets=tuple(buckets))

    def with_sums(self) -> CrossedLayout:
        """See :meth:`Layout.with_sums`: the products of all pairs."""
        links, room = [], room_for_sums()
        for link in self.links:
            links.append(sparse.with_sums(link, self.shape, room))
            room -= 0 if links[-1].sums is None else links[-1].sums.nbytes
        return replace(self, links=tuple(links))

    def over_columns(self, change: Callable[[Array, int], Array]) -> CrossedLayout:
        """See :meth:`Layout.over_columns`."""
        return replace(
            self,
            S0=change(change(self.S0, 0), 1),
            buckets=tuple(replace(b, c=change(b.c, 1)) for b in self.buckets),
            core=replace(self.core, s=change(self.core.s, 1)),
        )

    def rotate(self, t: int, Q: np.ndarray) -> CrossedLayout:
        """See :meth:`Layout.rotate`."""
        return rotate_term(self, t, Q)


# ------------------------------------------------------------ random effects


def blups(theta: Array, beta: Array, layout: CrossedLayout) -> tuple[BlupTerms, ...]:
    """Conditional means and covariances: of every bucket's groups, then of the core.

    The core has ``b_2 = origin + H b v`` with covariance H, a group ``Psi u_i v`` with its
    own covariance plus ``Psi e_i H e_i' Psi``; ``v = (-beta, 1)``.
    """
    xp = namespace(theta, beta, layout.S0)
    jet = waist_jet(theta, layout)
    rest = jet.rest
    v = xp.append(-beta, 1.0)
    inner = pick(factor_blocks(theta, layout.structures), layout.eliminated)
    out = []
    for bucket, links, leaf in zip(layout.buckets, layout.links, rest.leaves, strict=True):
        Lambda = spread(inner, bucket.widths)
        Psi = Lambda @ Lambda.T
        X = through_core(leaf, rest.core, links)
        mean = xp.einsum("ab,bg->ag", Psi, xp.einsum("acg,c->ag", leaf.u, v))
        through = xp.einsum("ab,bcg,cd->adg", Psi, X, Psi)
        cov = group_cov(Lambda, bucket.T) + through
        out.append(BlupTerms(b=mean, cov=cov, through=xp.einsum("ab,be->ae", Psi, leaf.e)))
    mean = xp.einsum("ncb,c->nb", rest.core.Hb, v) + layout.core.origin[:, 0]
    H = dense.covariance(rest.core.Ki, rest.factors, layout.core.widths)
    return (*out, BlupTerms(b=mean, cov=H))


# ------------------------------------------------------------ start values, rotations


def moment_theta(layout: Any) -> Array:
    """Start values from expected squares, weighted as in :class:`StartMoments`.

    E (z_l' y)^2 = sigma^2 z_l' z_l + sum_b psi_b sum_m (z_l' z_m)^2
    E y' y       = sigma^2 (n - p)  + sum_b psi_b |Z_b|^2
    """
    xp = namespace(layout.S0)
    at = layout.moments
    nu = layout.n_obs - layout.beta_origin.size
    rows = xp.concatenate([at.noise[:, None], at.spread], axis=1)
    left = xp.concatenate([xp.append(nu, at.norms)[None], rows])
    right = xp.append(xp.ones((), nu.dtype), at.squares)
    # rows on the scale of their diagonal, a touch of ridge: identical factors are no obstacle
    scale = 1.0 / xp.diagonal(left)
    ridge = 1e-6 * xp.eye(right.size, dtype=nu.dtype)
    found = xp.linalg.solve(left * scale[:, None] + ridge, right * scale)
    sigma2 = xp.maximum(found[0], 1e-3 / nu)
    psi = xp.sqrt(xp.clip(found[1:] / sigma2, 1e-3, 1e6))
    psi = xp.where(xp.isfinite(psi), psi, 1.0)
    ends = np.cumsum(layout.sizes)
    starts = [s.start(psi[e - s.k : e]) for s, e in zip(layout.structures, ends, strict=True)]
    return xp.concatenate(starts)


def rotate_term(layout: CrossedLayout, t: int, Q: np.ndarray) -> CrossedLayout:
    """The layout with the columns of term t multiplied by an orthogonal Q."""
    xp = namespace(layout.S0)
    if t in layout.eliminated:
        place, sizes = layout.eliminated.index(t), sizes_of(layout, layout.eliminated)
        turned = tuple(rotate_bucket(b, Q, place, sizes) for b in layout.buckets)
        return replace(layout, buckets=turned)
    place, widths = layout.crossed.index(t), layout.core.widths
    sizes = sizes_of(layout, layout.crossed)
    factors = [xp.eye(k) for k in sizes]
    factors[place] = xp.asarray(Q.T)
    S = dense.scale_both(factors, factors, widths, layout.core.S)
    s = dense.scale_rows(factors, widths, layout.core.s)
    origin = dense.scale_rows(factors, widths, layout.core.origin)
    start = sum(k * w for k, w in zip(sizes[:place], widths[:place], strict=True))
    k, stop = sizes[place], start + sizes[place] * widths[place]
    links = []
    for link in layout.links:
        row, d = np.asarray(link.row), np.array(link.d)
        last = np.append(row[k - 1 :], np.zeros(k - 1, row.dtype))
        level = (row >= start) & (row < stop) & ((row - start) % k == 0) & (last == row + k - 1)
        columns = np.flatnonzero(level)[:, None] + np.arange(k)
        d[:, columns] = np.einsum("qek,kj->qej", d[:, columns], Q)
        links.append(replace(link, d=xp.asarray(d), sums=None))
    return replace(layout, links=tuple(links), core=replace(layout.core, S=S, s=s, origin=origin))
