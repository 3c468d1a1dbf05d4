"""Layouts whose rows are whitened first and whose random effects are integrated out afterwards.

An evaluation looks at every row once and at the random effects of a group, where
:class:`ResidualLayout` takes the cube of the rows of a group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax
import numpy as np
from jax import Array

from ...covariance.residuals import residual_of
from ...covariance.theta import factor_blocks, spread
from ...numerics.linalg import exact, symmetrize
from ...numerics.namespace import namespace
from ..contract import BlupTerms, Curvature, PsiMoments, Waist, WaistJet
from ..group_algebra import (
    double_traces,
    halves_of,
    lambda_of,
    psi_curvatures,
    rotate_columns,
)
from .base import OfResiduals
from .integrated import Integrated, WhitenedRows, integrate, projected, times_spread
from .integrated_moments import RowMoments, form_of, moments_of, weighted_of

_Kept = tuple[Integrated, Array]  # of a bucket: itself, and dG


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OfWhitenedRows(OfResiduals):
    """Sufficient statistics of a model whose residuals are whitened by themselves."""

    _of_columns: ClassVar[tuple[str, ...]] = ("c",)  # what a bucket has of [Z X y], (., w, ...)

    # ---- what a kind of buckets knows of its rows; own is that of WhitenedRows

    def _whitened(self, theta: Array, bucket: Any) -> WhitenedRows:
        raise NotImplementedError

    def _slopes_of_gram(self, theta: Array, bucket: Any, own: Any) -> Array:
        """``dG``, (m, G, w, w), in the arm's own parameters."""
        raise NotImplementedError

    def _slopes_of_log(self, theta: Array, bucket: Any, own: Any) -> Array:
        """Derivatives of ``log|R|`` in the arm's own parameters, (m,)."""
        raise NotImplementedError

    def _bend(self, theta: Array, Q: Array, bucket: Any, own: Any) -> Array:
        """``sum <Q_i, d2 G_i> + d2 log|R_i|`` in the arm's own parameters; Q is (G, w, w)."""
        raise NotImplementedError

    def _halves(self, theta: Array, bucket: Any, own: Any) -> Any:
        """Of ``A' R^-1 R_k R^-1 R_l R^-1 A = g_k g_l'``, g of every group, (m, G, w, l)."""
        raise NotImplementedError

    def _row_traces(self, theta: Array, bucket: Any, own: Any) -> Any:
        """``tr(R^-1 R_k R^-1 R_l)`` of all groups, (m, m)."""
        raise NotImplementedError

    def _bent_rows(self, theta: Array, bucket: Any, own: Any, W: Any, z: Any) -> Any:
        """``A' R^-1 (sum_kl W_kl R_kl - sum_k z_k R_k) R^-1 A`` of every group, (G, w, w)."""
        raise NotImplementedError

    # ---- and what follows

    def _columns(self, bucket: Any) -> int:
        """Random effects of a group of the bucket."""
        return getattr(bucket, self._of_columns[0]).shape[1] - self.S0.shape[0]

    def _integrated(self, factors: Sequence[Array], theta: Array, bucket: Any) -> Integrated:
        return integrate(self._whitened(theta, bucket), factors, bucket.widths)

    def _at(self, theta: Array, bucket: Any) -> Integrated:
        return self._integrated(factor_blocks(theta, self.structures), theta, bucket)

    @exact
    def waist_of(self, factors: Sequence[Array], theta: Array) -> Waist:
        """See :meth:`Layout.waist_of`."""
        xp = namespace(factors, theta, self.S0)
        logdet, gram = xp.zeros((), self.S0.dtype), self.S0
        for bucket in self.buckets:
            of = self._integrated(factors, theta, bucket)
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
            of, q = self._at(theta, bucket), self._columns(bucket)
            at = residual_of(self.structures, bucket.arm)[1]
            dG = self._slopes_of_gram(theta, bucket, of.own)
            logdet, gram = logdet + of.logdet, gram + xp.sum(of.S[:, q:, q:], axis=0)
            own = xp.sum(projected(dG, of.H)[..., q:, q:], axis=1)
            W = xp.swapaxes(of.Y, 1, 2) @ of.Y
            along = xp.einsum("gab,kgab->k", W, dG[..., :q, :q])
            along = along + self._slopes_of_log(theta, bucket, of.own)
            dlogdet = xp.at(dlogdet)[at].add(along)
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
            hessian = xp.at(hessian)[at, at].add(self._bend(theta, Q, bucket, of.own))
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

        Of a layout whose rows are not merged.
        """
        parts = [
            moments_of(of, rows, self._tangents(theta, bucket), at)
            for bucket, of, rows, at in self._row_moments(theta)
        ]
        out: PsiMoments = jax.tree.map(lambda *each: sum(each[1:], each[0]), *parts)
        return out._replace(gram=self.S0[:-1, :-1] + out.gram)

    def _row_moments(self, theta: Array) -> Iterator[tuple[Any, Integrated, RowMoments, slice]]:
        """Every bucket, at theta, with what its rows say, and where in theta its own stand."""
        for bucket in self.buckets:
            of = self._at(theta, bucket)
            rows = RowMoments(
                dG=self._slopes_of_gram(theta, bucket, of.own),
                g=self._halves(theta, bucket, of.own),
                slopes_of_log=self._slopes_of_log(theta, bucket, of.own),
                traces=self._row_traces(theta, bucket, of.own),
            )
            yield bucket, of, rows, residual_of(self.structures, bucket.arm)[1]

    def weighted_moments(self, theta: Array, W: Array) -> tuple[Array, Array]:
        """``P_k = X' V^-1 V_k V^-1 X``, (m, p, p), and ``sum_kl W_kl Q_kl``, (p, p).

        See :meth:`ResidualLayout.weighted_moments`.
        """
        parts = [
            weighted_of(of, rows, self._tangents(theta, bucket), at, W)
            for bucket, of, rows, at in self._row_moments(theta)
        ]
        grams, totals = zip(*parts, strict=True)
        return sum(grams[1:], grams[0]), sum(totals[1:], totals[0])  # type: ignore[return-value]

    def bend_form(self, theta: Array, W: Array, z: Array) -> Array:
        """With second derivatives of V, (p, p); see :meth:`ResidualLayout.bend_form`."""
        p = self.beta_origin.size
        out = namespace(theta, W).zeros((p, p), theta.dtype)
        for bucket in self.buckets:
            of, at = self._at(theta, bucket), residual_of(self.structures, bucket.arm)[1]
            first = z[at] - 2.0 * W[at, -1]
            inner = self._bent_rows(theta, bucket, of.own, W[at, at], first)
            out = out + form_of(of, inner + (W[-1, -1] - z[-1]) * of.G)
        return out

    @exact
    def blups(self, theta: Array, beta: Array) -> tuple[BlupTerms, ...]:
        """See :meth:`Layout.blups`: one entry a bucket."""
        xp, out = namespace(theta, beta, self.S0), []
        for bucket in self.buckets:
            of, q = self._at(theta, bucket), self._columns(bucket)
            blocks = [L @ L.T for L in factor_blocks(theta, self.structures)]
            residual = of.S[:, :q, q:] @ xp.append(-beta, 1.0)  # (G, q)
            half = times_spread(blocks, bucket.widths, of.S[:, :q, :q])
            known = times_spread(blocks, bucket.widths, xp.swapaxes(half, 1, 2))
            b = times_spread(blocks, bucket.widths, residual[:, :, None])
            cov = spread(blocks, bucket.widths)[None] - known
            out.append(BlupTerms(b=b[:, :, 0].T, cov=xp.moveaxis(cov, 0, -1)))
        return tuple(out)

    def over_columns(self, change: Callable[[Array, int], Array]) -> Self:
        """See :meth:`Layout.over_columns`."""

        def changed(A: Array, q: int) -> Array:
            own = change(A[:, q:], 1)
            return namespace(A, own).concatenate([A[:, :q], own], axis=1)

        buckets = []
        for bucket in self.buckets:
            q = self._columns(bucket)
            arrays = {name: changed(getattr(bucket, name), q) for name in self._of_columns}
            buckets.append(replace(bucket, **arrays))
        return replace(self, S0=change(change(self.S0, 0), 1), buckets=tuple(buckets))

    def rotate(self, t: int, Q: np.ndarray) -> Self:
        """See :meth:`Layout.rotate`."""

        def turned(A: Array, widths: Sequence[int]) -> Array:
            flat = A.reshape(*A.shape[:2], math.prod(A.shape[2:]))
            return rotate_columns(flat, Q, t, self.sizes, widths).reshape(A.shape)

        def rotated(bucket: Any) -> Any:
            arrays = {n: turned(getattr(bucket, n), bucket.widths) for n in self._of_columns}
            return replace(bucket, **arrays)

        return replace(self, buckets=tuple(map(rotated, self.buckets)))

    def _tangents(self, theta: Array, bucket: Any) -> Array:
        """``dPsi / dtheta_k`` of a group, (m, q, q)."""
        return lambda_of(theta, self.structures, bucket.widths)[1]


def _quadratics(U: Array, D: Array) -> Array:
    """``sum_i U_i' D_k U_i``, (m, C, C), of (G, q, C)."""
    xp, (G, q, C) = namespace(U, D), U.shape
    m = D.shape[0]
    rows = xp.moveaxis(U, 1, 0).reshape(q, G * C)
    DU = (D.reshape(m * q, q) @ rows).reshape(m, q * G, C)
    return xp.einsum("kad,ac->kcd", DU, rows.reshape(q * G, C))


def _rooted(of: Integrated, root: Array) -> Array:
    """``J_C root``, (G, w, d): J of the columns of [X y]."""
    xp, q = namespace(of.H, root), of.H.shape[1]
    fixed = xp.broadcast_to(root[None], (len(of.H), *root.shape))
    return xp.concatenate([-(of.H[:, :, q:] @ root), fixed], axis=1)


def _flat(A: Array) -> Array:
    """One row a parameter."""
    return A.reshape(A.shape[0], int(np.prod(A.shape[1:])))
