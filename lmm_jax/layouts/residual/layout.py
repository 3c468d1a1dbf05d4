"""Residual layout: independent groups whose residuals have a covariance of their own.

    logdet = sum_i log|V_i|          gram = sum_i c_i' V_i^-1 c_i          V_i = R_i + Z_i Psi Z_i'

The rows of a group stay as they are, so that an evaluation costs the cube of their number;
groups with one covariance are merged (:mod:`lmm_jax.layouts.merged`), and subjects who were
seen at the same visits are one evaluation however many they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np
from jax import Array

from ...covariance.residuals import residual_of
from ...covariance.theta import factor_blocks, spread
from ...numerics.linalg import exact, group_product, symmetrize, total_product
from ...numerics.namespace import namespace
from ...reprs import brief, public
from ..contract import BlupTerms, Curvature, PsiMoments, Waist, WaistJet, over_bucket_columns
from ..group_algebra import (
    halves_of,
    level_counts,
    moments_along,
    psi_curvatures,
    root_rows,
    rotate_columns,
    total_moments,
    weighted,
)
from .base import OfResiduals
from .bucket import (
    ResidualBucket,
    covariance_at,
    covariance_of,
    covariances,
    integrate_out,
    of_groups,
    of_patterns,
    pair_traces,
    products,
    quadratics,
    same_subject,
    traces,
)
from .starts import Squares, squares_of


@public
@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ResidualLayout(OfResiduals):
    """Sufficient statistics of a model with a residual covariance."""

    buckets: tuple[ResidualBucket, ...]

    __repr__ = brief

    @exact
    def waist_of(self, factors: Sequence[Array], theta: Array) -> Waist:
        """See :meth:`Layout.waist_of`."""
        xp = namespace(theta, self.S0)
        logdet, gram = xp.zeros((), self.S0.dtype), self.S0
        for bucket in self.buckets:
            V = covariance_of(factors, theta, self.structures, bucket)
            part = integrate_out(V, bucket)[0]
            logdet, gram = logdet + part.logdet, gram + part.gram
        return Waist(logdet=logdet, gram=gram)

    @exact
    def jet(self, theta: Array) -> WaistJet:
        """See :meth:`Layout.jet`."""
        xp, C = namespace(theta, self.S0), self.S0.shape[0]
        logdet, gram = xp.zeros((), theta.dtype), self.S0
        dlogdet, dgram = xp.zeros_like(theta), xp.zeros((theta.size, C, C), theta.dtype)
        rounding, kept = xp.zeros(C + 1, theta.dtype), []
        for bucket in self.buckets:
            at = covariances(theta, self.structures, bucket)
            waist, lost, terms = integrate_out(at.V, bucket)
            logdet, gram = logdet + waist.logdet, gram + waist.gram
            dlogdet = dlogdet + traces(weighted(terms.P, bucket.copies), at.tangents)
            dgram = dgram - quadratics(terms.u, at.tangents)
            rounding = rounding + lost
            kept.append((terms, at.tangents))
        return WaistJet(Waist(logdet, gram), dlogdet, dgram, rounding, tuple(kept))

    @exact
    def curvature(self, theta: Array, root: Array, jet: WaistJet) -> Curvature:
        """See :meth:`Layout.curvature`."""
        xp = namespace(theta, root, self.S0)
        hessian, slopes = xp.zeros((theta.size, theta.size), theta.dtype), []
        for bucket, (terms, D) in zip(self.buckets, jet.rest, strict=True):
            q = bucket.Z.shape[1]
            columns = xp.einsum("cd,qcg->dqg", root, terms.u)
            shares = of_patterns(group_product(columns, columns), bucket)
            P = weighted(terms.P, bucket.copies)
            hessian = hessian + pair_traces(2.0 * shares - P, terms.P, D)
            slope = P - shares
            slopes.append(xp.sum(slope[:q, :q], axis=-1))
            hessian = hessian + self._residual_bend(theta, slope[q:, q:], bucket)
        psi = self._by_term(slopes)
        halves = halves_of(psi, factor_blocks(theta, self.structures))
        hessian = hessian + psi_curvatures(theta, psi, halves, self.structures)
        return Curvature(symmetrize(hessian), psi, halves)

    def _residual_bend(self, theta: Array, slope: Array, bucket: ResidualBucket) -> Array:
        """What the residual covariance's own second derivatives add, (m, m)."""
        xp = namespace(theta, slope)
        residual, at = residual_of(self.structures, bucket.arm)
        if bucket.subjects is not None:
            slope = slope * same_subject(bucket)
        if max(bucket.places.shape[-1], bucket.slopes.shape[-1]) == 1:
            slope = xp.sum(slope, axis=-1)[:, :, None]
        own = residual.bend_at(theta[at], bucket.places, bucket.slopes, slope)
        return xp.at(xp.zeros((theta.size, theta.size), theta.dtype))[at, at].set(own)

    @exact
    def average_information(self, theta: Array, v: Array, jet: WaistJet) -> Array:
        """See :meth:`Layout.average_information`."""
        xp = namespace(theta, v, self.S0)
        out = xp.zeros((theta.size, theta.size), theta.dtype)
        for bucket, (terms, D) in zip(self.buckets, jet.rest, strict=True):
            g = products(xp.einsum("acg,c->ag", terms.u, v)[:, None], D)[:, :, 0]  # (m, Q, G)
            g = xp.swapaxes(g, 0, 1)
            out = out + total_product(g, group_product(of_groups(terms.P, bucket), g))
        return symmetrize(out)

    @exact
    def psi_slopes(self, theta: Array, W: Array, jet: WaistJet) -> tuple[Array, ...]:
        """See :meth:`Layout.psi_slopes`."""
        xp, slopes = namespace(theta, W), []
        for bucket, (terms, _) in zip(self.buckets, jet.rest, strict=True):
            q = bucket.Z.shape[1]
            uW = xp.tensordot(W, terms.u[:q], ((0,), (1,)))  # (C, q, G)
            share = of_patterns(group_product(uW, xp.swapaxes(terms.u[:q], 0, 1)), bucket)
            P = weighted(terms.P[:q, :q], bucket.copies)
            slopes.append(xp.sum(P - share, axis=-1))
        return self._by_term(slopes)

    @exact
    def psi_moments(self, theta: Array) -> PsiMoments:
        """See :meth:`Layout.psi_moments`: along the derivatives of V in theta."""
        sums = []
        for bucket in self.buckets:
            at = covariances(theta, self.structures, bucket)
            waist, _, terms = integrate_out(at.V, bucket)
            P, u = weighted(terms.P, bucket.copies), terms.u[:, :-1]
            Du = products(u, at.tangents)
            own, gram = of_groups(terms.P, bucket), waist.gram[:-1, :-1]
            first, second = traces(P, at.tangents), pair_traces(P, terms.P, at.tangents)
            sums.append(moments_along(own, u, Du, gram, first, second))
        return total_moments(sums, self.S0)

    @exact
    def weighted_moments(self, theta: Array, W: Array) -> tuple[Array, Array]:
        """``P_k = X' V^-1 V_k V^-1 X``, (m, p, p), and ``sum_kl W_kl Q_kl``, (p, p).

        ``Q_kl = X' V^-1 V_k V^-1 V_l V^-1 X`` along the derivatives of V in theta; with a root of
        W the sum costs m products where all Q would cost m^2.

        Parameters
        ----------
        theta : Array, shape (m,)
        W : Array, shape (m, m)
            Positive semidefinite.
        """
        xp = namespace(theta, W, self.S0)
        p, m = self.beta_origin.size, theta.size
        root = root_rows(W)
        P, total = xp.zeros((m, p, p), theta.dtype), xp.zeros((p, p), theta.dtype)
        for bucket in self.buckets:
            at = covariances(theta, self.structures, bucket)
            terms = integrate_out(at.V, bucket)[2]
            u, D = terms.u[:, :-1], at.tangents
            P = P + quadratics(u, D)
            own = of_groups(terms.P, bucket)
            for row in root:  # one at a time: (Q, p, G) numbers each
                Du = products(u, xp.tensordot(row, D, 1)[None])[0]
                size = Du.shape[0] * Du.shape[2]
                behind = xp.moveaxis(group_product(own, Du), 1, 0).reshape(p, size)
                total = total + xp.moveaxis(Du, 1, 0).reshape(p, size) @ behind.T
        return P, total

    @exact
    def bend_form(self, theta: Array, W: Array, z: Array) -> Array:
        """``X' V^-1 B V^-1 X``, (p, p), with second derivatives of V in theta and log sigma^2.

        ``B = sum_kl W_kl V_kl - sum_k z_k V_k``, of the residuals' share of V.

        Parameters
        ----------
        theta : Array, shape (m,)
        W : Array, shape (m + 1, m + 1)
        z : Array, shape (m + 1,)
        """
        xp = namespace(theta, W, self.S0)
        p = self.beta_origin.size
        out = xp.zeros((p, p), theta.dtype)
        for bucket in self.buckets:
            q = bucket.Z.shape[1]
            residual, at = residual_of(self.structures, bucket.arm)
            own = theta[at], bucket.places, bucket.slopes
            R, dR = residual.with_tangents(*own)
            first = 2.0 * W[at, -1] - z[at]
            B = residual.bent(*own, W[at, at]) + xp.einsum("k,kabg->abg", first, dR)
            B = B + (W[-1, -1] - z[-1]) * R
            if bucket.subjects is not None:
                B = B * same_subject(bucket)
            V = covariance_at(theta, self.structures, bucket)
            u = integrate_out(V, bucket)[2].u[q:, :-1]
            B = xp.broadcast_to(B, (*B.shape[:2], bucket.present.shape[-1]))
            B = of_groups(B, bucket)
            out = out + xp.einsum("acg,abg,bdg->cd", u, B, u)
        return out

    @exact
    def blups(self, theta: Array, beta: Array) -> tuple[BlupTerms, ...]:
        """See :meth:`Layout.blups`: one entry a bucket."""
        xp, out = namespace(theta, beta, self.S0), []
        for bucket in self.buckets:
            q = bucket.Z.shape[1]
            _, _, terms = integrate_out(covariance_at(theta, self.structures, bucket), bucket)
            Lambda = spread(factor_blocks(theta, self.structures), bucket.widths)
            Psi = Lambda @ Lambda.T
            residual = xp.einsum("acg,c->ag", terms.u[:q], xp.append(-beta, 1.0))
            known = xp.einsum("ab,bcg,cd->adg", Psi, terms.P[:q, :q], Psi)
            out.append(
                BlupTerms(
                    b=xp.einsum("ab,bg->ag", Psi, residual),
                    cov=Psi[:, :, None] - known,
                )
            )
        return tuple(out)

    def level_counts(self) -> Array:
        """See :meth:`Layout.level_counts`."""
        xp = namespace(self.S0)
        there = [xp.any(bucket.Z != 0, axis=0) for bucket in self.buckets]
        return level_counts(there, [bucket.widths for bucket in self.buckets], self.sizes)

    def _squares(self) -> list[Squares]:
        """See :meth:`OfResiduals._squares`."""
        return [squares_of(b, of_patterns(b.c[:, -1] ** 2, b)) for b in self.buckets]

    def size(self) -> int:
        """See :meth:`Layout.size`."""
        return sum(b.c.size + b.Z.size + b.c.shape[0] * b.present.size for b in self.buckets)

    def over_columns(self, change: Callable[[Array, int], Array]) -> ResidualLayout:
        """See :meth:`Layout.over_columns`."""
        return over_bucket_columns(self, change)

    def rotate(self, t: int, Q: np.ndarray) -> ResidualLayout:
        """See :meth:`Layout.rotate`."""
        buckets = tuple(
            replace(b, Z=rotate_columns(b.Z, Q, t, self.sizes, b.widths)) for b in self.buckets
        )
        return replace(self, buckets=buckets)
