"""Groups with equal T, kept as sums of products: the group axis leaves the iterations.

Groups of one *class* share their triangular factor T, and so ``M = I + T Psi T'``.
All that they say about theta is how many they are and the sum of the products of
their compressed rows,

    B = sum_i vec(c_i) vec(c_i)'          gram = S0 + sum_rs (M^-1)_rs B[r, :, s, :]

so that a balanced design costs per evaluation what one group costs. It serves replicates
under ``vmap``: the pseudo-groups of :mod:`lmm_jax.layouts.merged` in its place make draws and
fits take 1.1 (sleepstudy) to 1.4 times as long (5 sizes of groups; q = 3): B sums their rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple, cast

import jax
import numpy as np
from jax import Array

from ..covariance.theta import factor_blocks, spread
from ..numerics.linalg import Elimination, eliminate, exact, group_product, symmetrize
from ..numerics.namespace import namespace
from ..numerics.shapes import round_up
from ..reprs import brief
from .buckets import Bucket
from .contract import Curvature, Layout, Waist, WaistJet, maps_of
from .equal_groups import Classes, find_classes
from .group_algebra import (
    by_term,
    double_traces,
    groups_there,
    halves_of,
    integrate,
    inverse,
    lambda_of,
    logdet_of,
    marginal,
    psi_curvatures,
    weighted,
)
from .grouped import GroupedLayout
from .response import OfResponse

# Decimals of T in which equal groups agree: cross-products of the same rows in another order
# differ by rounding.
_DIGITS = 11


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MomentBucket(OfResponse):
    """Classes of groups of similar width, padded to one shape."""

    T: Array  # (q, q, D)  triangular factor of each class
    copies: Array  # (D,)       groups in the class
    B: Array  # (q, p + 1, q, p + 1, D)  sum over the class of c_i times c_i
    widths: tuple[int, ...] = field(metadata={"static": True})  # levels of each term in a group

    __repr__ = brief

    def with_response(self, y: Array) -> MomentBucket:
        """See :meth:`OfResponse.with_response`: y columns of B, and its rows, transposed."""
        xp = namespace(self.B, y)
        columns = xp.moveaxis(y, 2, 0)  # (q of y, q, p + 1, D)
        return replace(self, B=xp.at(xp.at(self.B)[:, :, :, -1].set(y))[:, -1].set(columns))

    def response_over_columns(self, y: Array, change: Callable[[Array, int], Array]) -> Array:
        """See :meth:`OfResponse.response_over_columns`."""
        return change(y, 2)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MomentLayout(Layout):
    """What the criterion needs of a model whose groups come in a few classes.

    It serves the optimizer; random effects of single groups are not in it.
    """

    takes_many: ClassVar[bool] = True

    buckets: tuple[MomentBucket, ...]

    __repr__ = brief

    @exact
    def waist(self, blocks: Sequence[Array]) -> Waist:
        """See :meth:`Layout.waist`."""
        xp = namespace(blocks, self.S0)
        logdet, gram = xp.zeros((), self.S0.dtype), self.S0
        for bucket in self.buckets:
            M = marginal(spread(blocks, bucket.widths), bucket.T)
            logdet = logdet + integrate(M, M[:, :0], bucket.copies).logdet
            gram = gram + xp.einsum("rsd,rasbd->ab", inverse(M), bucket.B)
        return Waist(logdet=logdet, gram=gram)

    @exact
    def jet(self, theta: Array) -> WaistJet:
        """See :meth:`Layout.jet`."""
        return moment_jet(theta, self)

    @exact
    def curvature(self, theta: Array, root: Array, jet: WaistJet) -> Curvature:
        """See :meth:`Layout.curvature`."""
        return moment_curvature(theta, root @ root.T, jet, self)

    def over_columns(self, change: Callable[[Array, int], Array]) -> MomentLayout:
        """See :meth:`Layout.over_columns`."""
        buckets = tuple(replace(b, B=change(change(b.B, 1), 3)) for b in self.buckets)
        return replace(self, S0=change(change(self.S0, 0), 1), buckets=buckets)

    def block_rows(self) -> float:
        """See :meth:`Layout.block_rows`."""
        return max((bucket.T.shape[0] for bucket in self.buckets), default=0)

    def size(self) -> int:
        """See :meth:`Layout.size`."""
        return sum(b.T.size + b.B.size for b in self.buckets)


class ClassTerms(NamedTuple):
    """Matrices of every class that all derivatives in Psi are made of."""

    P: Array  # (q, q, D)  T' M^-1 T of one group
    U: Array  # (q, p + 1, q, p + 1, D)  sum over the class of u_i times u_i, u = T' M^-1 c


def moment_jet(theta: Array, layout: MomentLayout) -> WaistJet:
    """Waist and first derivatives: those of the grouped layout, summed over each class.

    d logdet = sum_d copies <P, dPsi>          d gram_ab = - sum_d <U[:, a, :, b], dPsi>
    """
    xp, C = namespace(theta, layout.S0), layout.S0.shape[0]
    logdet, gram = xp.zeros((), theta.dtype), layout.S0
    dlogdet, dgram = xp.zeros_like(theta), xp.zeros((theta.size, C, C), theta.dtype)
    rounding, classes = xp.zeros(C + 1, theta.dtype), []
    for bucket in layout.buckets:
        Lambda, D = lambda_of(theta, layout.structures, bucket.widths)
        part, lost, terms = _eliminate_classes(Lambda, bucket)
        rounding = rounding + lost
        P = xp.sum(weighted(terms.P, bucket.copies), axis=-1)
        U = xp.sum(terms.U, axis=-1)
        logdet, gram = logdet + part.logdet, gram + part.gram
        dlogdet = dlogdet + xp.einsum("ab,kab->k", P, D)
        dgram = dgram - xp.sum(U[None] * D[:, :, None, :, None], axis=(1, 3))
        classes.append(terms)
    return WaistJet(Waist(logdet, gram), dlogdet, dgram, rounding, tuple(classes))


def _eliminate_classes(Lambda: Array, bucket: MomentBucket) -> tuple[Waist, Array, ClassTerms]:
    """Waist, its rounding as in :class:`WaistJet`, and the matrices of the classes."""
    xp = namespace(Lambda, bucket.B)
    M = marginal(Lambda @ Lambda.T, bucket.T)
    identity = xp.broadcast_to(xp.eye(M.shape[0], dtype=M.dtype)[:, :, None], M.shape)
    at = eliminate(M, identity)
    N = group_product(at.X, at.X)
    V = group_product(N, bucket.T)  # M^-1 T
    # sums of products instead of einsum: under vmap XLA makes single loops of them
    half = xp.sum(V[:, :, None, None, None] * bucket.B[:, None], axis=0)
    U = xp.sum(V[None, None, :, :, None] * half[:, :, :, None], axis=2)
    gram = xp.sum(N[:, None, :, None] * bucket.B, axis=(0, 2, 4))
    terms = ClassTerms(P=group_product(bucket.T, V), U=U)
    return Waist(logdet_of(at.U, bucket.copies), gram), _rounding(M, at, N, bucket), terms


def _rounding(M: Array, at: Elimination, N: Array, bucket: MomentBucket) -> Array:
    """What the pivots of M lose, and what the terms of ``<N, B>`` cancel."""
    xp = namespace(N, bucket.B)
    loss = xp.max(xp.diagonal(M) / xp.diagonal(at.U) ** 2, axis=-1)
    squares = xp.stack([bucket.B[:, a, :, a] for a in range(bucket.B.shape[1])])
    terms = xp.sum(xp.abs(N)[None] * xp.abs(squares), axis=(1, 2))
    logs = M.shape[0] * xp.sum(loss * bucket.copies)
    return xp.append(logs, 2.0 * xp.sum(loss[None] * terms, axis=1))


def _shares(terms: ClassTerms, W: Array) -> Array:
    """``sum_i u_i W u_i'`` of every class, (q, q, D)."""
    xp = namespace(terms.U, W)
    return xp.sum(terms.U * W[None, :, None, :, None], axis=(1, 3))


def moment_curvature(theta: Array, W: Array, jet: WaistJet, layout: MomentLayout) -> Curvature:
    """``sum_d <copies P - R, D_kl> + tr((2 R - copies P) D_k P D_l)`` with ``R`` the shares."""
    xp = namespace(theta, W)
    hessian, slopes = xp.zeros((theta.size, theta.size), theta.dtype), []
    for bucket, terms in zip(layout.buckets, jet.rest, strict=True):
        _, D = lambda_of(theta, layout.structures, bucket.widths)
        R, P = _shares(terms, W), weighted(terms.P, bucket.copies)
        hessian = hessian + double_traces(2.0 * R - P, terms.P, D)
        slopes.append(xp.sum(P - R, axis=-1))
    psi = by_term(slopes, [bucket.widths for bucket in layout.buckets], layout.sizes)
    halves = halves_of(psi, factor_blocks(theta, layout.structures))
    hessian = hessian + psi_curvatures(theta, psi, halves, layout.structures)
    return Curvature(symmetrize(hessian), psi, halves)


# ------------------------------------------------------------ from groups to classes


def merge_classes(layout: GroupedLayout) -> MomentLayout | GroupedLayout:
    """The layout with equal groups merged into classes where that makes it smaller (on the host).

    Parameters
    ----------
    layout : GroupedLayout

    Returns
    -------
    MomentLayout or GroupedLayout
        The same criterion.
    """
    found = [equal_groups(bucket) for bucket in layout.buckets]
    merged = sum(
        at.first.size * (b.T.shape[0] * b.c.shape[1]) ** 2 for at, b in _pairs(found, layout)
    )
    single = sum(
        int(at.counts.sum()) * b.T.shape[0] * sum(b.c.shape[:2]) for at, b in _pairs(found, layout)
    )
    if merged > single:
        return layout
    buckets = tuple(_merge(bucket, at) for at, bucket in _pairs(found, layout))
    return MomentLayout(buckets=buckets, S0=layout.S0, **maps_of(layout))


def drop_padding(layout: GroupedLayout) -> GroupedLayout:
    """The layout with most of its empty groups left out (on the host)."""
    buckets = []
    for bucket in layout.buckets:
        there = np.flatnonzero(groups_there(np.asarray(bucket.T)))
        size = min(round_up(there.size, least=4), bucket.T.shape[2])
        padding = np.setdiff1d(np.arange(bucket.T.shape[2]), there)[: size - there.size]
        at = np.concatenate([there, padding])
        buckets.append(
            replace(bucket, T=bucket.T[:, :, at], c=bucket.c[:, :, at], copies=bucket.copies[at])
        )
    return replace(layout, buckets=tuple(buckets))


def equal_groups(bucket: Bucket) -> Classes:
    """Groups with the same T up to rounding."""
    classes = find_classes(np.asarray(bucket.T), digits=_DIGITS)
    assert classes is not None  # however many they are
    return classes


def _pairs(found: Sequence[Classes], layout: GroupedLayout) -> list[tuple[Classes, Bucket]]:
    return list(zip(found, layout.buckets, strict=True))


def _merge(bucket: Bucket, at: Classes) -> MomentBucket:
    q, C, _ = bucket.c.shape
    T, c = np.asarray(bucket.T), np.asarray(bucket.c)
    D = at.padded
    out, copies, B = np.zeros((q, q, D)), np.zeros(D), np.zeros((q, C, q, C, D))
    for d in range(at.first.size):
        members = at.members(d)
        out[:, :, d], copies[d] = T[:, :, members[0]], members.size
        B[..., d] = np.einsum("rag,sbg->rasb", c[:, :, members], c[:, :, members])
    T_d, n_d, B_d = (cast(Array, of_class) for of_class in (out, copies, B))
    return MomentBucket(T=T_d, copies=n_d, B=B_d, widths=bucket.widths)
