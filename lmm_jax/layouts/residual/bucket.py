"""Groups of one arm side by side, their covariances and the derivatives of these.

With ``T = [Z, I]``, an identity on the rows that are there, the covariance of a group is

    V = E + T diag(Psi, R) T'

and E has ones for the rows that are not there: padding, as everywhere, adds nothing. What the
grouped layout makes of T and Psi holds here for T and ``D = diag(Psi, R)``, whose derivatives
may differ from group to group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
from jax import Array

from ...covariance.residuals import residual_of
from ...covariance.structures import Structure
from ...covariance.theta import basis, factor_blocks, spread
from ...numerics.linalg import eliminate, group_product
from ...numerics.namespace import namespace
from ...reprs import brief
from ..contract import Waist
from ..group_algebra import double_traces, logdet_of, psi_tangents, quadratic_tangents
from ..response import OfResponse


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ResidualBucket(OfResponse):
    """Groups of one arm, padded to one shape."""

    Z: Array  # (r, q, D)  whitened random-effects columns of D patterns
    c: Array  # (r, p + 1, G)  [X_i y_i]
    owner: Array | None  # (G,)  pattern of every group; None: each has its own, D = G
    present: Array  # (r, D)  1 where there is a row, otherwise 0
    copies: Array  # (D,)  groups of a pattern
    subjects: Array | None  # (r, D)
    places: Array  # (d, r, g), g is 1 where all groups share their places, otherwise D
    slopes: Array  # (m_s, r, g)
    widths: tuple[int, ...] = field(metadata={"static": True})  # levels of each term in a group
    arm: int = field(metadata={"static": True})
    _array: ClassVar[str] = "c"

    __repr__ = brief

    @property
    def T(self) -> Array:
        """``[Z, I]``, (r, q + r, D)."""
        xp, r = namespace(self.c), self.c.shape[0]
        rows = xp.eye(r, dtype=self.c.dtype)[:, :, None] * self.present[:, None]
        return xp.concatenate([self.Z, rows], axis=1)


class OfPatterns(Protocol):
    """A bucket whose groups, or subjects, have the covariance of their pattern."""

    @property
    def owner(self) -> Array | None:
        """Pattern of every one; None: each has its own."""

    @property
    def copies(self) -> Array:
        """How many have a pattern."""


class Covariances(NamedTuple):
    """The covariances of a bucket and their derivatives in theta."""

    V: Array  # (r, r, G)
    tangents: Array  # (m, Q, Q) of diag(Psi, R), or (m, Q, Q, G); Q = q + r


class Terms(NamedTuple):
    """Matrices of the patterns and the groups that all derivatives are made of."""

    P: Array  # (Q, Q, D)      T' V^-1 T
    u: Array  # (Q, p + 1, G)  T' V^-1 c


def covariances(
    theta: Array, structures: tuple[Structure, ...], bucket: ResidualBucket
) -> Covariances:
    """V of every group, and what theta does to it."""
    xp = namespace(theta, bucket.c)
    r, q, _ = bucket.Z.shape
    residual, at = residual_of(structures, bucket.arm)
    R, dR = residual.with_tangents(theta[at], bucket.places, bucket.slopes)
    if bucket.subjects is not None:
        same = same_subject(bucket)
        R, dR = R * same, dR * same[None]
    Lambda = spread(factor_blocks(theta, structures), bucket.widths)
    D = psi_tangents(Lambda, basis(theta, structures, bucket.widths))
    D = xp.pad(D, ((0, 0), (0, r), (0, r)))
    if dR.shape[-1] == 1:
        D = xp.at(D)[at, q:, q:].add(dR[..., 0])
    else:
        D = xp.broadcast_to(D[..., None], (*D.shape, dR.shape[-1]))
        D = xp.at(D)[at, q:, q:].add(dR)
    return Covariances(marginal(Lambda @ Lambda.T, R, bucket), D)


def same_subject(bucket: ResidualBucket) -> Array:
    """Ones where two rows of a group are of one subject, (r, r, D)."""
    subjects: Any = bucket.subjects
    return (subjects[:, None] == subjects[None]).astype(bucket.c.dtype)


def marginal(Psi: Array, R: Array, bucket: ResidualBucket) -> Array:
    """``E + Z Psi Z' + R`` of every group, R on the rows that are there; (r, r, G)."""
    xp, r = namespace(Psi, R), bucket.c.shape[0]
    there, absent = bucket.present, 1.0 - bucket.present
    V = R * (there[:, None] * there[None]) + xp.eye(r, dtype=R.dtype)[:, :, None] * absent[:, None]
    if not bucket.Z.shape[1]:
        return V
    ZP = xp.einsum("rag,ab->rbg", bucket.Z, Psi)
    return V + group_product(xp.swapaxes(ZP, 0, 1), xp.swapaxes(bucket.Z, 0, 1))


def covariance_at(theta: Array, structures: tuple[Structure, ...], bucket: ResidualBucket) -> Array:
    """V of every group alone, (r, r, G)."""
    return covariance_of(factor_blocks(theta, structures), theta, structures, bucket)


def covariance_of(
    factors: Sequence[Array],
    theta: Array,
    structures: tuple[Structure, ...],
    bucket: ResidualBucket,
) -> Array:
    """The same with factors of the terms apart from theta, where the residuals have theirs.

    No function of the places of the rows.
    """
    residual, at = residual_of(structures, bucket.arm)
    places = namespace(theta, bucket.places).stop_gradient(bucket.places)
    R = residual.matrix(theta[at], places, bucket.slopes)
    if bucket.subjects is not None:
        R = R * same_subject(bucket)
    Lambda = spread(factors, bucket.widths)
    return marginal(Lambda @ Lambda.T, R, bucket)


def integrate_out(V: Array, bucket: ResidualBucket) -> tuple[Waist, Array, Terms]:
    """Waist, its rounding in units of eps, and the matrices of the groups."""
    xp, r = namespace(V, bucket.c), bucket.c.shape[0]
    U, half = eliminate(V, bucket.T)
    own = half[:, -r:]  # U^-T on the rows that are there
    w = group_product(xp.swapaxes(of_groups(own, bucket), 0, 1), bucket.c)
    waist = Waist(logdet=logdet_of(U, bucket.copies), gram=_squares(w))
    # a pivot rounds by its diagonal entry, and what is divided by it as often
    lost = (xp.diagonal(V) / xp.diagonal(U) ** 2).T  # (r, D)
    rounding = xp.append(
        xp.sum(lost * bucket.copies[None])[None],
        xp.sum(xp.sum(w * w * of_groups(lost, bucket)[:, None], axis=-1), axis=0),
    )
    u = group_product(of_groups(half, bucket), w)
    return waist, rounding, Terms(group_product(half, half), u)


def _squares(w: Array) -> Array:
    """``sum_i w_i' w_i``, (C, C), of (r, C, G)."""
    xp = namespace(w)
    rows = xp.moveaxis(w, 1, 0).reshape(w.shape[1], -1)
    return rows @ rows.T


def of_groups(A: Array, bucket: OfPatterns) -> Array:
    """What every group has of its pattern, (..., D) to (..., G)."""
    return A if bucket.owner is None else A[..., bucket.owner]


def of_patterns(A: Array, bucket: OfPatterns) -> Array:
    """Sums over the groups of every pattern, (..., G) to (..., D)."""
    if bucket.owner is None:
        return A
    xp = namespace(A)
    lead = A.shape[:-1]
    rows = xp.moveaxis(A, -1, 0).reshape(A.shape[-1], -1)
    sums = xp.segment_sum(rows, bucket.owner, bucket.copies.shape[0])
    return xp.moveaxis(sums, 0, -1).reshape(*lead, bucket.copies.shape[0])


# ------------------------------------------------------------ contractions with D


def traces(P: Array, D: Array) -> Array:
    """``sum_i <P_i, D_k>``, (m,)."""
    xp = namespace(P, D)
    if D.ndim == 4:
        return xp.einsum("abg,kabg->k", P, D)
    return D.reshape(D.shape[0], -1) @ xp.sum(P, axis=-1).reshape(-1)


def quadratics(u: Array, D: Array) -> Array:
    """``sum_i u_i' D_k u_i``, (m, C, C)."""
    xp = namespace(u, D)
    if D.ndim == 3:
        return quadratic_tangents(u, D)
    C, m = u.shape[1], D.shape[0]
    rows = xp.moveaxis(u, 1, 0).reshape(C, -1)
    Du = xp.moveaxis(products(u, D), 2, 1).reshape(m * C, -1)
    return xp.swapaxes((Du @ rows.T).reshape(m, C, C), 1, 2)


def products(u: Array, D: Array) -> Array:
    """``D_k u_i`` of every group, (m, Q, C, G)."""
    xp = namespace(u, D)
    if D.ndim == 3:
        m, Q, _ = D.shape
        return (D.reshape(m * Q, Q) @ u.reshape(Q, -1)).reshape(m, Q, *u.shape[1:])
    rows = xp.moveaxis(D, -1, 0) @ xp.moveaxis(u, -1, 0)[:, None]  # (G, m, Q, C)
    return xp.moveaxis(rows, 0, -1)


def pair_traces(A: Array, P: Array, D: Array) -> Array:
    """``sum_i tr(A_i D_k P_i D_l)``, (m, m)."""
    xp = namespace(A, P, D)
    if D.ndim == 3:
        return double_traces(A, P, D)
    m = D.shape[0]
    each = xp.moveaxis(D, -1, 1)  # (m, G, Q, Q)
    AD = xp.moveaxis(A, -1, 0)[None] @ each
    PD = xp.moveaxis(P, -1, 0)[None] @ each
    return AD.reshape(m, -1) @ xp.swapaxes(PD, -1, -2).reshape(m, -1).T
