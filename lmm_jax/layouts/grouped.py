"""Grouped layout: independent groups, compressed to a few small matrices each.

With ``M_i = I + T_i Psi T_i'`` the waist of the model is

    logdet = sum_i log|M_i|          gram = S0 + sum_i c_i' M_i^-1 c_i

Rows and groups of zeros add nothing, so padding is exact. An entry may stand for
several groups with the same T (:mod:`lmm_jax.layouts.merged`): log-determinants and
traces then count it ``copies`` times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import numpy as np
from jax import Array

from ..covariance.structures import Structure
from ..covariance.theta import (
    basis,
    factor_blocks,
    group_factors,
    spread,
    spread_basis,
    theta_size,
    theta_slices,
)
from ..numerics.linalg import eliminate, exact, group_product, symmetrize, total_product
from ..numerics.namespace import NUMPY, namespace
from ..reprs import brief, public
from .buckets import (
    MANY,
    Bucket,
    bucket_levels,
    bucket_ranks,
    host_blocks,
    over_blocks,
    rotate_bucket,
    total,
    without_padding,
)
from .contract import BlupTerms, Curvature, Layout, PsiMoments, Waist, WaistJet, over_bucket_columns
from .group_algebra import (
    by_term,
    double_traces,
    group_cov,
    group_means,
    half_tangents,
    half_traces,
    integrate,
    lambda_of,
    marginal,
    moments_along,
    psi_curvatures,
    total_moments,
    weighted,
)
from .group_terms import GroupTerms, eliminate_bucket
from .start_moments import column_moments, moment_theta

# Random effects of a group up to which, unless groups are many, second derivatives keep the
# digits that large effects cost: otherwise they would be dear (a tenth of a fit).
EXACT_WIDTH = 3
# Groups of a sample that gives start values, and the largest share that is left out.
_SAMPLE, _SHARE = 1 << 10, 24
# Share of the rows that no coefficient reaches from which their variance is one to start from.
_TOLD = 0.02


@public
@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GroupedLayout(Layout):
    """Sufficient statistics of a mixed model with independent groups."""

    buckets: tuple[Bucket, ...]
    takes_many: ClassVar[bool] = True

    __repr__ = brief

    @exact
    def waist(self, blocks: Sequence[Array]) -> Waist:
        """See :meth:`Layout.waist`."""
        return waist(blocks, self)

    @exact
    def waists_at(self, thetas: Array) -> Waist:
        """See :meth:`Layout.waists_at`."""
        if namespace(thetas, self) is NUMPY:
            return waists(thetas, self)
        return Layout.waists_at(self, thetas)

    @exact
    def jet(self, theta: Array) -> WaistJet:
        """See :meth:`Layout.jet`."""
        return waist_jet(theta, self)

    @exact
    def curvature(self, theta: Array, root: Array, jet: WaistJet) -> Curvature:
        """See :meth:`Layout.curvature`."""
        return curvature(theta, root, jet, self)

    @exact
    def average_information(self, theta: Array, v: Array, jet: WaistJet) -> Array:
        """See :meth:`Layout.average_information`."""
        return average_information(theta, v, jet, self)

    @exact
    def psi_slopes(self, theta: Array, W: Array, jet: WaistJet) -> tuple[Array, ...]:
        """See :meth:`Layout.psi_slopes`."""
        return psi_slopes(theta, W, jet, self)

    @exact
    def psi_moments(self, theta: Array) -> PsiMoments:
        """See :meth:`Layout.psi_moments`."""
        return psi_moments(theta, self)

    @exact
    def blups(self, theta: Array, beta: Array) -> tuple[BlupTerms, ...]:
        """See :meth:`Layout.blups`: one entry a bucket."""
        return tuple(blups(theta, beta, bucket, self.structures) for bucket in self.buckets)

    @exact
    def conditional_means(self, blocks: Sequence[Array], v: Array) -> tuple[Array, ...]:
        """See :meth:`Layout.conditional_means`."""
        xp = namespace(blocks, v, self.S0)
        return tuple(
            group_means(spread(blocks, b.widths), b.T, xp.einsum("acg,c->ag", b.c, v))
            for b in self.buckets
        )

    @exact
    def start_moments(self) -> Array:
        """See :meth:`Layout.start_moments`."""
        xp = namespace(self.S0)
        p, buckets = self.beta_origin.size, self.buckets
        free = self.n_obs - self.ranks() - p
        total = self.S0[p, p] + sum(xp.sum(b.c[:, p] ** 2) for b in buckets)
        # where coefficients fill the groups, no row tells of the residual: half of the variance
        told = free > _TOLD * self.n_obs
        within = self.S0[p, p] / xp.maximum(free, 1.0)
        sigma2 = xp.where(told, within, 0.5 * total / xp.maximum(self.n_obs, 1.0))
        moments = [column_moments(b.T, b.c[:, p], b.copies) for b in buckets]
        return moment_theta(moments, [b.widths for b in buckets], sigma2, self.structures)

    def ranks(self) -> Array:
        """See :meth:`Layout.ranks`."""
        return bucket_ranks(self.buckets)

    def level_counts(self) -> Array:
        """See :meth:`Layout.level_counts`."""
        return bucket_levels(self.buckets, self.sizes)

    def size(self) -> int:
        """See :meth:`Layout.size`."""
        return sum(b.T.size + b.c.size for b in self.buckets)

    def block_rows(self) -> float:
        """See :meth:`Layout.block_rows`."""
        return max((b.c.shape[0] for b in self.buckets), default=0)

    def thinned(self) -> GroupedLayout | None:
        """See :meth:`Layout.thinned`: every s-th group, and an s-th of what no group explains."""
        groups = sum(b.copies.size for b in self.buckets)
        if groups <= MANY or any(b.divided for b in self.buckets):
            return None
        s = groups // max(_SAMPLE, groups // _SHARE)
        buckets = tuple(
            replace(b, T=b.T[..., ::s], c=b.c[..., ::s], copies=b.copies[::s]) for b in self.buckets
        )
        return replace(self, buckets=buckets, S0=self.S0 / s, n_obs=self.n_obs / s)

    def without_padding(self) -> GroupedLayout:
        """See :meth:`Layout.without_padding`."""
        return replace(self, buckets=tuple(map(without_padding, self.buckets)))

    def host_seconds(self) -> float:
        """See :meth:`Layout.host_seconds`; measured at 1,000 to 400,000 groups."""
        return 1.2e-8 * theta_size(self.structures) ** 2

    def over_columns(self, change: Callable[[Array, int], Array]) -> GroupedLayout:
        """See :meth:`Layout.over_columns`."""
        return over_bucket_columns(self, change)

    def rotate(self, t: int, Q: np.ndarray) -> GroupedLayout:
        """See :meth:`Layout.rotate`."""
        return replace(
            self, buckets=tuple(rotate_bucket(b, Q, t, self.sizes) for b in self.buckets)
        )


def waist(blocks: Sequence[Array], layout: GroupedLayout) -> Waist:
    """``logdet`` and ``gram`` at relative covariances of the whitened terms."""
    xp = namespace(blocks, layout.S0)
    logdet, gram = xp.zeros((), layout.S0.dtype), layout.S0
    for bucket in layout.buckets:
        Psi = spread(blocks, bucket.widths)
        M = marginal(Psi, bucket.T)
        part = integrate(M, bucket.c, bucket.copies)
        logdet, gram = logdet + part.logdet, gram + part.gram
    return Waist(logdet=logdet, gram=gram)


def waists(thetas: Array, layout: GroupedLayout) -> Waist:
    """The waist at many thetas, (S, m): a group and a theta are one group of the elimination."""
    xp, S = namespace(thetas, layout), len(thetas)
    logdet, gram = xp.zeros(S, layout.S0.dtype), layout.S0
    for bucket in layout.buckets:
        q, C, G = bucket.c.shape
        Lambda = group_factors(thetas, layout.structures, bucket.widths)  # (S, q, q)
        F = xp.tensordot(bucket.T, Lambda, (1, 1))  # (q, G, S, q)
        F = xp.moveaxis(F, 3, 1).reshape(q, q, G * S)
        FF = group_product(xp.swapaxes(F, 0, 1), xp.swapaxes(F, 0, 1))
        M = xp.eye(q, dtype=F.dtype)[:, :, None] + FF
        U, w = eliminate(M, xp.repeat(bucket.c, S, axis=2))
        logs = xp.log(xp.diagonal(U)).reshape(G, S, q)
        logdet = logdet + 2.0 * xp.einsum("gsr,g->s", logs, bucket.copies)
        w = xp.moveaxis(w.reshape(q, C, G, S), 3, 0).swapaxes(1, 2).reshape(S, C, q * G)
        gram = gram + w @ xp.swapaxes(w, 1, 2)
    return Waist(logdet=logdet, gram=gram)


def waist_jet(theta: Array, layout: GroupedLayout) -> WaistJet:
    """Waist and its theta derivatives from one elimination (closed forms).

    With ``P = T' M^-1 T`` and ``u = T' M^-1 c``, P counted ``copies`` times,

        d logdet = tr(P dPsi)    d gram = -u' dPsi u    dP = -P dPsi P    du = -P dPsi u

    Where Psi is large, ``P Psi`` is small though P is not: its digits are in ``P Lambda``
    and ``Lambda' u``, which the elimination gives without a difference.
    """
    xp = namespace(theta, layout.S0)
    C = layout.S0.shape[0]
    logdet, gram = xp.zeros((), theta.dtype), layout.S0
    dlogdet, dgram = xp.zeros_like(theta), xp.zeros((theta.size, C, C), theta.dtype)
    rounding, groups = xp.zeros(C + 1, theta.dtype), []
    for bucket in layout.buckets:
        Lambda = spread(factor_blocks(theta, layout.structures), bucket.widths)
        E = basis(theta, layout.structures, bucket.widths)

        def part(bucket: Bucket, Lambda: Array = Lambda, E: Array = E) -> Any:
            waist, lost, terms = eliminate_bucket(Lambda, bucket)
            q = Lambda.shape[0]
            half = xp.sum(weighted(terms.both[:q, q:], bucket.copies), axis=-1)
            first = 2.0 * xp.einsum("ab,kab->k", half, E)
            return (waist, lost, first, half_tangents(terms.u, terms.columns[q:], E)), terms

        (waist, lost, first, second), terms = over_blocks(part, bucket)
        logdet, gram = logdet + waist.logdet, gram + waist.gram
        dlogdet, dgram = dlogdet + first, dgram - second
        rounding = rounding + lost
        groups.append(terms)
    return WaistJet(Waist(logdet, gram), dlogdet, dgram, rounding, tuple(groups))


def _sum_terms(
    fun: Callable[[GroupTerms, Bucket], Any], Lambda: Array, bucket: Bucket, kept: Any
) -> Any:
    """A sum over the groups of a function of their matrices, kept or made again."""
    if isinstance(kept, list):
        blocks = zip(kept, host_blocks(bucket), strict=True)
        return total(fun(terms, block) for terms, block in blocks)
    if kept is not None:
        return fun(kept, bucket)
    return over_blocks(lambda b: (fun(eliminate_bucket(Lambda, b)[2], b), None), bucket)[0]


def curvature(theta: Array, root: Array, jet: WaistJet, layout: GroupedLayout) -> Curvature:
    """Second derivatives of ``logdet + <W, gram>`` in theta, ``W = root root'`` held fixed.

    With ``R = u W u'`` and ``D_k = dPsi / dtheta_k``

        sum_i <P - R, D_kl> + tr((2 R - P) D_k P D_l)
    """
    xp = namespace(theta, root, layout.S0)
    hessian, slopes, halves = xp.zeros((theta.size, theta.size), theta.dtype), [], []
    linear = all(s.linear for s in layout.structures)
    for bucket, kept in zip(layout.buckets, jet.rest, strict=True):
        Lambda, D = lambda_of(theta, layout.structures, bucket.widths)
        many = not isinstance(kept, GroupTerms)

        def part(terms: GroupTerms, bucket: Bucket, D: Array = D, many: bool = many) -> Any:
            q = D.shape[1]
            columns = xp.einsum("acg,cd->dag", terms.columns, root)
            R, P = group_product(columns, columns), weighted(terms.both, bucket.copies)
            slope = xp.sum(P[:q] - R[:q], axis=-1)
            if q > EXACT_WIDTH or many or not linear:
                bend = double_traces(2.0 * R[:q, :q] - P[:q, :q], terms.P, D)
            else:
                bend = half_traces(2.0 * R - P, terms.both, layout.structures, bucket.widths)
            return bend, slope[:, :q], slope[:, q:]

        bend, slope, half = _sum_terms(part, Lambda, bucket, kept)
        hessian = hessian + bend
        slopes.append(slope)
        halves.append(half)
    widths = [bucket.widths for bucket in layout.buckets]
    psi, half = (by_term(parts, widths, layout.sizes) for parts in (slopes, halves))
    hessian = hessian + psi_curvatures(theta, psi, half, layout.structures)
    return Curvature(symmetrize(hessian), psi, half)


def _shares(u: Array, W: Array) -> Array:
    """``R = u W u'`` of every group, (q, q, G)."""
    xp = namespace(u, W)
    uW = xp.einsum("acg,cd->adg", u, W)
    return group_product(xp.swapaxes(uW, 0, 1), xp.swapaxes(u, 0, 1))


def psi_slopes(theta: Array, W: Array, jet: WaistJet, layout: GroupedLayout) -> tuple[Array, ...]:
    """``sum_i P_i - R_i``, summed over the levels of each term, (k, k)."""
    xp = namespace(theta, W, layout.S0)

    def part(terms: GroupTerms, bucket: Bucket) -> Array:
        return xp.sum(weighted(terms.P, bucket.copies) - _shares(terms.u, W), axis=-1)

    slopes = [
        _sum_terms(part, lambda_of(theta, layout.structures, bucket.widths)[0], bucket, kept)
        for bucket, kept in zip(layout.buckets, jet.rest, strict=True)
    ]
    return by_term(slopes, [bucket.widths for bucket in layout.buckets], layout.sizes)


def average_information(theta: Array, v: Array, jet: WaistJet, layout: GroupedLayout) -> Array:
    """``sum_i (D_k u_i v)' P_i (D_l u_i v)``, (m, m)."""
    xp = namespace(theta, v, layout.S0)
    out = xp.zeros((theta.size, theta.size), theta.dtype)
    for bucket, kept in zip(layout.buckets, jet.rest, strict=True):
        Lambda, D = lambda_of(theta, layout.structures, bucket.widths)

        def part(terms: GroupTerms, bucket: Bucket, D: Array = D) -> Array:
            del bucket
            g = xp.einsum("kab,bg->akg", D, xp.einsum("acg,c->ag", terms.u, v))
            return total_product(g, group_product(terms.P, g))

        out = out + _sum_terms(part, Lambda, bucket, kept)
    return symmetrize(out)


def psi_moments(theta: Array, layout: GroupedLayout) -> PsiMoments:
    """Sums over the groups of what ``P_i`` and ``u_i`` make of the directions of Psi."""
    xp, sums = namespace(theta, layout.S0), []
    places = theta_slices(layout.structures)
    directions = [
        s.directions_at(theta[at]) for s, at in zip(layout.structures, places, strict=True)
    ]
    for bucket in layout.buckets:
        Lambda = spread(factor_blocks(theta, layout.structures), bucket.widths)
        D = spread_basis(directions, bucket.widths)

        def part(bucket: Bucket, Lambda: Array = Lambda, D: Array = D) -> Any:
            waist, _, terms = eliminate_bucket(Lambda, bucket)
            P, u = weighted(terms.P, bucket.copies), terms.u[:, :-1]
            Du = xp.einsum("kab,bcg->kacg", D, u)
            traces, products = xp.einsum("abg,kab->k", P, D), double_traces(P, terms.P, D)
            gram = waist.gram[:-1, :-1]
            return moments_along(terms.P, u, Du, gram, traces, products), None

        sums.append(over_blocks(part, bucket)[0])
    return total_moments(sums, layout.S0)


def blups(theta: Array, beta: Array, bucket: Bucket, structures: Sequence[Structure]) -> BlupTerms:
    """Conditional mean ``Psi u (y - X beta)`` and covariance of each group's random effects.

    The covariance ``Lambda (I + Lambda' T'T Lambda)^-1 Lambda'`` is that of
    ``b`` given y at known theta and beta.
    """
    xp = namespace(theta, beta, bucket.T)
    Lambda = spread(factor_blocks(theta, structures), bucket.widths)
    _, _, terms = eliminate_bucket(Lambda, bucket)
    residual = xp.einsum("acg,c->ag", terms.u, xp.append(-beta, 1.0))
    b = xp.einsum("ab,bg->ag", Lambda @ Lambda.T, residual)
    return BlupTerms(b=b, cov=group_cov(Lambda, bucket.T))
