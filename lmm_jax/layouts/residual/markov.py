"""Markov layout: residuals that depend on earlier ones of their subject by the last one alone.

``R^-1`` is tridiagonal then, and an evaluation is one pass over the rows
(:mod:`lmm_jax.layouts.residual.chain_bucket`) where :class:`ResidualLayout` takes the cube of
the rows of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np
from jax import Array

from ...covariance.theta import factor_blocks, spread
from ...numerics.linalg import exact, symmetrize
from ...numerics.namespace import namespace
from ...reprs import brief, public
from ..contract import BlupTerms, Curvature, PsiMoments, Waist, WaistJet
from ..group_algebra import (
    double_traces,
    halves_of,
    lambda_of,
    level_counts,
    psi_curvatures,
    rotate_columns,
)
from .base import OfResiduals
from .chain_bucket import (
    ChainBucket,
    Whitened,
    bend,
    projected,
    slopes_of_gram,
    slopes_of_logdet,
    whitened,
    whitened_by,
)
from .chain_moments import bent_form, moments_of
from .starts import Squares, residual_of

_Kept = tuple[Whitened, Array]  # of a bucket: itself, and dG


@public
@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MarkovLayout(OfResiduals):
    """Sufficient statistics of a model whose residuals are correlated along time."""

    buckets: tuple[ChainBucket, ...]

    __repr__ = brief

    @exact
    def waist_of(self, factors: Sequence[Array], theta: Array) -> Waist:
        """See :meth:`Layout.waist_of`."""
        xp = namespace(factors, theta, self.S0)
        logdet, gram = xp.zeros((), self.S0.dtype), self.S0
        for bucket in self.buckets:
            of = whitened_by(factors, theta, self.structures, bucket)
            q = self._columns(bucket)
            logdet, gram = logdet + of.logdet, gram + xp.sum(of.S[:, q:, q:], axis=0)
        return Waist(logdet=logdet, gram=gram)

    @exact
    def jet(self, theta: Array) -> WaistJet[tuple[_Kept, ...]]:
        """See :meth:`Layout.jet`."""
        xp, C = namespace(theta, self.S0), self.S0.shape[0]
        logdet, gram = xp.zeros((), theta.dtype), self.S0
        dlogdet, dgram = xp.zeros_like(theta), xp.zeros((theta.size, C, C), theta.dtype)
        rounding, kept = xp.zeros(C + 1, theta.dtype), []
        for bucket in self.buckets:
            of, q = whitened(theta, self.structures, bucket), self._columns(bucket)
            at = residual_of(self.structures, bucket.arm)[1]
            dG = slopes_of_gram(bucket, of)
            logdet, gram = logdet + of.logdet, gram + xp.sum(of.S[:, q:, q:], axis=0)
            own = xp.sum(projected(dG, of.H)[..., q:, q:], axis=1)
            dlogdet = xp.at(dlogdet)[at].add(slopes_of_logdet(dG, bucket, of))
            dgram = xp.at(dgram)[at].add(own)
            rounding = rounding + of.rounding
            kept.append((of, dG))
            if q:
                D, P = self._tangents(theta, bucket), xp.sum(of.S[:, :q, :q], axis=0)
                dlogdet = dlogdet + xp.einsum("ab,kab->k", P, D)
                dgram = dgram - _quadratics(of.S[:, :q, q:], D)
        return WaistJet(Waist(logdet, gram), dlogdet, dgram, rounding, tuple(kept))

    @exact
    def curvature(self, theta: Array, root: Array, jet: WaistJet) -> Curvature:
        """See :meth:`Layout.curvature`."""
        xp = namespace(theta, root, self.S0)
        hessian, slopes = xp.zeros((theta.size, theta.size), theta.dtype), []
        for bucket, (of, dG) in zip(self.buckets, jet.rest, strict=True):
            at, q = residual_of(self.structures, bucket.arm)[1], self._columns(bucket)
            rooted = _rooted(of, root)
            Q = rooted @ xp.swapaxes(rooted, 1, 2)
            Q = xp.at(Q)[:, :q, :q].add(xp.swapaxes(of.Y, 1, 2) @ of.Y)
            hessian = xp.at(hessian)[at, at].add(bend(Q, bucket, of))
            P, u = of.S[:, :q, :q], of.S[:, :q, q:] @ root
            share = u @ xp.swapaxes(u, 1, 2)
            slopes.append(xp.sum(P - share, axis=0))
            if not q:
                continue
            across = _flat(of.Y[None] @ (dG[..., :q, :] @ rooted[None]))
            inside = _flat(of.Y[None] @ dG[..., :q, :q] @ xp.swapaxes(of.Y, 1, 2)[None])
            own = 2.0 * across @ across.T + inside @ inside.T
            hessian = xp.at(hessian)[at, at].add(-own)
            D = self._tangents(theta, bucket)
            slope, last = xp.moveaxis(2.0 * share - P, 0, -1), xp.moveaxis(P, 0, -1)
            hessian = hessian + double_traces(slope, last, D)
            # what both kinds of parameters do together
            dS = projected(dG, of.H)[..., :q, :]
            du = (dS[..., q:] @ root) @ xp.swapaxes(u, 1, 2)[None]
            moved = xp.sum(dS[..., :q] - du - xp.swapaxes(du, -1, -2), axis=1)
            mixed = xp.einsum("lab,kab->lk", moved, D)
            hessian = xp.at(hessian)[at].add(mixed)
            hessian = xp.at(hessian)[:, at].add(mixed.T)
        psi = self._by_term(slopes)
        halves = halves_of(psi, factor_blocks(theta, self.structures))
        hessian = hessian + psi_curvatures(theta, psi, halves, self.structures)
        return Curvature(symmetrize(hessian), psi, halves)

    @exact
    def psi_slopes(self, theta: Array, W: Array, jet: WaistJet) -> tuple[Array, ...]:
        """See :meth:`Layout.psi_slopes`."""
        xp, slopes = namespace(theta, W), []
        for bucket, (of, _) in zip(self.buckets, jet.rest, strict=True):
            q = self._columns(bucket)
            U = of.S[:, :q, q:]
            slopes.append(xp.sum(of.S[:, :q, :q] - U @ W @ xp.swapaxes(U, 1, 2), axis=0))
        return self._by_term(slopes)

    def psi_moments(self, theta: Array) -> PsiMoments:
        """See :meth:`Layout.psi_moments`: along the derivatives of V in theta (NumPy).

        Of a layout whose links are the rows themselves.
        """
        parts = [
            moments_of(theta, self.structures, bucket, self._tangents(theta, bucket))
            for bucket in self.buckets
        ]
        out: PsiMoments = jax.tree.map(lambda *each: sum(each[1:], each[0]), *parts)
        return out._replace(gram=self.S0[:-1, :-1] + out.gram)

    def weighted_moments(self, theta: Array, W: Array) -> tuple[Array, Array]:
        """``P_k = X' V^-1 V_k V^-1 X``, (m, p, p), and ``sum_kl W_kl Q_kl``, (p, p).

        See :meth:`ResidualLayout.weighted_moments`.
        """
        at = self.psi_moments(theta)
        return at.grams, namespace(W).einsum("kl,klcd->cd", W, at.seconds)

    def bend_form(self, theta: Array, W: Array, z: Array) -> Array:
        """With second derivatives of V, (p, p); see :meth:`ResidualLayout.bend_form`."""
        p = self.beta_origin.size
        out = namespace(theta, W).zeros((p, p), theta.dtype)
        for bucket in self.buckets:
            out = out + bent_form(theta, self.structures, bucket, W, z)
        return out

    @exact
    def blups(self, theta: Array, beta: Array) -> tuple[BlupTerms, ...]:
        """See :meth:`Layout.blups`: one entry a bucket."""
        xp, out = namespace(theta, beta, self.S0), []
        for bucket in self.buckets:
            of, q = whitened(theta, self.structures, bucket), self._columns(bucket)
            Lambda = spread(factor_blocks(theta, self.structures), bucket.widths)
            Psi = Lambda @ Lambda.T
            residual = of.S[:, :q, q:] @ xp.append(-beta, 1.0)  # (G, q)
            known = xp.einsum("ab,gbc,cd->adg", Psi, of.S[:, :q, :q], Psi)
            out.append(BlupTerms(b=Psi @ residual.T, cov=Psi[:, :, None] - known))
        return tuple(out)

    def level_counts(self) -> Array:
        """See :meth:`Layout.level_counts`."""
        xp, there = namespace(self.S0), []
        for bucket in self.buckets:
            q = self._columns(bucket)
            moved = (bucket.step[:, :q] != 0) | (bucket.before[:, :q] != 0)
            there.append(xp.any(moved, axis=2).T)
        return level_counts(there, [bucket.widths for bucket in self.buckets], self.sizes)

    def _squares(self) -> list[Squares]:
        """See :meth:`OfResiduals._squares`."""
        return [
            Squares(b.arm, b.slopes, (b.step[:, -1] + b.before[:, -1]) ** 2, b.counts)
            for b in self.buckets
        ]

    def size(self) -> int:
        """See :meth:`Layout.size`."""
        return sum(2 * bucket.step.size for bucket in self.buckets)

    def over_columns(self, change: Callable[[Array, int], Array]) -> MarkovLayout:
        """See :meth:`Layout.over_columns`."""

        def changed(A: Array, q: int) -> Array:
            own = change(A[:, q:], 1)
            return namespace(A, own).concatenate([A[:, :q], own], axis=1)

        buckets = []
        for bucket in self.buckets:
            q = self._columns(bucket)
            step, before = changed(bucket.step, q), changed(bucket.before, q)
            buckets.append(replace(bucket, step=step, before=before))
        return replace(self, S0=change(change(self.S0, 0), 1), buckets=tuple(buckets))

    def rotate(self, t: int, Q: np.ndarray) -> MarkovLayout:
        """See :meth:`Layout.rotate`."""

        def turned(A: Array, widths: Sequence[int]) -> Array:
            return rotate_columns(A, Q, t, self.sizes, widths)

        buckets = tuple(
            replace(b, step=turned(b.step, b.widths), before=turned(b.before, b.widths))
            for b in self.buckets
        )
        return replace(self, buckets=buckets)

    def _columns(self, bucket: ChainBucket) -> int:
        """Random effects of a group of the bucket."""
        return bucket.step.shape[1] - self.S0.shape[0]

    def _tangents(self, theta: Array, bucket: ChainBucket) -> Array:
        """``dPsi / dtheta_k`` of a group, (m, q, q)."""
        return lambda_of(theta, self.structures, bucket.widths)[1]


def _quadratics(U: Array, D: Array) -> Array:
    """``sum_i U_i' D_k U_i``, (m, C, C), of (G, q, C)."""
    xp, (G, q, C) = namespace(U, D), U.shape
    m = D.shape[0]
    rows = xp.moveaxis(U, 1, 0).reshape(q, G * C)
    DU = (D.reshape(m * q, q) @ rows).reshape(m, q * G, C)
    return xp.einsum("kad,ac->kcd", DU, rows.reshape(q * G, C))


def _rooted(of: Whitened, root: Array) -> Array:
    """``J_C root``, (G, w, d): J of the columns of [X y]."""
    xp, q = namespace(of.H, root), of.H.shape[1]
    fixed = xp.broadcast_to(root[None], (len(of.H), *root.shape))
    return xp.concatenate([-(of.H[:, :, q:] @ root), fixed], axis=1)


def _flat(A: Array) -> Array:
    """One row a parameter."""
    return A.reshape(A.shape[0], int(np.prod(A.shape[1:])))
