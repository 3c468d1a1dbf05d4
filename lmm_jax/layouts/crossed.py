"""Crossed layout: groups eliminated one by one, what remains in one dense core.

The terms of the factor with most levels, and those nested in it, are integrated
out group by group as in the grouped layout (subscript 1). The terms that cross
it (subscript 2) are the core. With ``V_1 = I + Z_1 Psi_1 Z_1'`` and
``[A b] = Z_2' V_1^-1 [Z_2 X y]``,

    logdet = sum_i log|M_i| + log|I + Lambda_2' A Lambda_2|
    gram   = [X y]' V_1^-1 [X y] - b' H b        H = Lambda_2 (I + Lambda_2' A Lambda_2)^-1 Lambda_2'

where y is measured from fixed effects of the core's levels (``Core.origin``), so
that large random effects take no digits. Nothing inverts Lambda, so all of it holds at a singular covariance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..covariance import (
    basis,
    factor_blocks,
    gather,
    lower_indices,
    spread,
    stack_theta,
    theta_slices,
)
from ..linalg import eliminate, group_product, symmetrize, total_product
from . import core as dense
from . import links as sparse
from .core import Core, CoreTerms
from .grouped import Bucket, bucket_ranks, group_cov, rotate_bucket
from .links import Links
from .waist import (
    BlupTerms,
    Curvature,
    Layout,
    Waist,
    WaistJet,
    double_traces,
    integrate,
    inverse,
    logdet_of,
    marginal,
    psi_curvatures,
    psi_tangents,
    quadratic_tangents,
)


# Numbers in the core and pairs of entries beyond which an evaluation takes milliseconds.
_DEAR = 1 << 17


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Moments:
    """Weighted sums of squares of ``z_l' y`` for start values; K coefficients of all terms.

    Level l of a coefficient has the weight ``w_l = (1 + z_l' z_l / 4)^-2``: nearly
    the best one for variances of usual size, whatever the sizes of the levels.
    """

    squares: Array  # (K,)    sum_l w_l (z_l' y)^2 for the OLS residual y
    noise: Array  # (K,)    sum_l w_l z_l' z_l
    spread: Array  # (K, K)  sum_l w_l sum_m (z_l' z_m)^2, m over the levels of the second
    norms: Array  # (K,)    sum_l z_l' z_l


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CrossedLayout(Layout):
    """Sufficient statistics of a mixed model with crossed factors."""

    buckets: tuple[Bucket, ...]  # groups of the eliminated terms; widths over these terms
    links: tuple[Links, ...]  # one a bucket
    core: Core
    moments: Moments
    eliminated: tuple[int, ...] = field(metadata={"static": True})  # terms, in order
    crossed: tuple[int, ...] = field(metadata={"static": True})  # terms of the core, in order

    def waist(self, blocks: Sequence[Array]) -> Waist:
        """See :meth:`Layout.waist`."""
        return waist(blocks, self)

    def waist_at(self, theta: Array) -> Waist:
        """See :meth:`Layout.waist_at`."""
        return waist_jet(theta, self).waist

    def jet(self, theta: Array) -> WaistJet:
        """See :meth:`Layout.jet`."""
        return waist_jet(theta, self)

    def curvature(self, theta: Array, W: Array, jet: WaistJet) -> Curvature:
        """See :meth:`Layout.curvature`."""
        return curvature(theta, W, jet, self)

    def average_information(self, theta: Array, v: Array, jet: WaistJet) -> Array:
        """See :meth:`Layout.average_information`."""
        return average_information(theta, v, jet, self)

    def psi_slopes(self, theta: Array, W: Array, jet: WaistJet) -> tuple[Array, ...]:
        """See :meth:`Layout.psi_slopes`; where a factor is singular its part of P is left out."""
        return psi_slopes(W, jet, self)

    def blups(self, theta: Array, beta: Array) -> tuple[BlupTerms, ...]:
        """See :meth:`Layout.blups`: one entry a bucket, the core last."""
        return blups(theta, beta, self)

    def start_moments(self) -> Array:
        """See :meth:`Layout.start_moments`."""
        return moment_theta(self)

    def ranks(self) -> Array:
        """See :meth:`Layout.ranks`; columns of the core count as independent."""
        columns = jnp.sum((jnp.diagonal(self.core.S) > 1e-9).astype(self.S0.dtype))
        return bucket_ranks(self.buckets) + columns

    def size(self) -> int:
        """See :meth:`Layout.size`."""
        pairs = sum(link.left.size for link in self.links)
        return pairs + self.core.S.size + sum(b.T.size + b.c.size for b in self.buckets)

    def is_dear(self) -> bool:
        """See :meth:`Layout.is_dear`."""
        return self.size() > _DEAR

    def rotate(self, t: int, Q: np.ndarray) -> Self:
        """See :meth:`Layout.rotate`."""
        return rotate_term(self, t, Q)

    @property
    def shape(self) -> tuple[int, int]:
        """N columns and B blocks of the core."""
        return self.core.S.shape[0], self.core.S.shape[2]


# ------------------------------------------------------------ terms on both sides


def _pick(values: Sequence[Array], terms: Sequence[int]) -> tuple[Array, ...]:
    return tuple(values[t] for t in terms)


def _sizes(layout: CrossedLayout, terms: Sequence[int]) -> tuple[int, ...]:
    return tuple(layout.sizes[t] for t in terms)


def _places(layout: CrossedLayout, terms: Sequence[int]) -> np.ndarray:
    """Entries of theta that belong to some terms."""
    slices = theta_slices(layout.sizes)
    parts = [np.arange(slices[t].start, slices[t].stop) for t in terms]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


# ------------------------------------------------------------ the waist


def waist(blocks: Sequence[Array], layout: CrossedLayout) -> Waist:
    """``logdet`` and ``gram`` at relative covariances of the whitened terms."""
    logdet, gram = jnp.zeros((), layout.S0.dtype), layout.S0
    A, b = layout.core.S, layout.core.s
    for bucket, links in zip(layout.buckets, layout.links, strict=True):
        Psi = spread(_pick(blocks, layout.eliminated), bucket.widths)
        M = marginal(Psi, bucket.T)
        part = integrate(M, bucket.c)
        N = inverse(M)
        Nd = sparse.apply_at(N, links.d, links)
        A = A + sparse.pair_sums(links.d, Nd, links, layout.shape)
        b = b + sparse.to_core(_entry_products(Nd, bucket.c, links), links, layout.shape)
        logdet, gram = logdet + part.logdet, gram + part.gram
    Psi = spread(_pick(blocks, layout.crossed), layout.core.widths)
    Psi = jnp.broadcast_to(Psi[:, :, None], A.shape)
    extra = dense.integrate_core(A, b, Psi, layout.core.origin)
    return Waist(logdet=logdet + extra.logdet, gram=gram - extra.gram)


def _entry_products(x: Array, c: Array, links: Links) -> Array:
    """``x_e' c_i`` with the rows of each entry's group: (q, E), (q, C, G) -> (C, E)."""
    return jnp.sum(x[:, None] * sparse.at_entries(c, links), axis=0)


# ------------------------------------------------------------ derivatives in theta


class LeafTerms(NamedTuple):
    """Eliminated groups of one bucket; their matrices with the core integrated out as well."""

    P: Array  # (q, q, G)      T' M^-1 T, this group alone
    e: Array  # (q, E)         T' M^-1 d at the entries
    u: Array  # (q, p + 1, G)  Z_1' V^-1 [X y]
    D: Array  # (m_1, q, q)    dPsi / dtheta_k
    E: Array  # (m_1, q, q)    dLambda / dtheta_k


class CrossedTerms(NamedTuple):
    """What the second derivatives need."""

    leaves: tuple[LeafTerms, ...]  # one a bucket
    core: CoreTerms
    factors: tuple[Array, ...]  # (k, k)       Lambda of the core's terms
    slopes: tuple[Array, ...]  # (q, q) a bucket: sum of the groups' blocks of P
    halves: tuple[Array, ...]  # (k, k) a term of the core: sum of the levels' blocks of P Lambda
    D: tuple[Array, ...]  # (m_t, k, k)  dPsi / dtheta_k of the core's terms


def waist_jet(theta: Array, layout: CrossedLayout) -> WaistJet:
    """Waist and its theta derivatives from one elimination (closed forms).

    With ``U = Z' V^-1 [X y]`` and ``P = Z' V^-1 Z``

        d logdet = tr(P dPsi)      d gram = -U' dPsi U

    where the blocks of P are ``P_i - e_i H e_i'`` for a group, and for the core
    those of ``A - A H A``, found from ``(A - A H A) Lambda = A Lambda K^-1``.
    """
    blocks = factor_blocks(theta, layout.sizes)
    inner = _pick(blocks, layout.eliminated)
    factors = _pick(blocks, layout.crossed)
    q_sizes = _sizes(layout, layout.eliminated)
    logdet, gram = jnp.zeros((), theta.dtype), layout.S0
    A, b = layout.core.S, layout.core.s
    leaves = []
    for bucket, links in zip(layout.buckets, layout.links, strict=True):
        leaf, part, more = _eliminate_leaf(spread(inner, bucket.widths), bucket, links, layout)
        E = jnp.asarray(basis(q_sizes, bucket.widths), theta.dtype)
        D = psi_tangents(spread(inner, bucket.widths), E)
        leaves.append(leaf._replace(D=D, E=E))
        logdet, gram = logdet + part.logdet, gram + part.gram
        A, b = A + more[0], b + more[1]
    core = dense.solve_core(A, b, layout.core.origin, factors, layout.core.widths)
    logdet, gram = logdet + core.logdet, gram - core.gram
    leaves = [
        _behind_core(leaf, core, links) for leaf, links in zip(leaves, layout.links, strict=True)
    ]
    tangents = tuple(
        psi_tangents(L, jnp.asarray(basis((L.shape[0],), (1,)), theta.dtype)) for L in factors
    )
    slopes = tuple(
        jnp.sum(leaf.P, axis=-1) - sparse.pair_contraction(leaf.e, core.H, links)
        for leaf, links in zip(leaves, layout.links, strict=True)
    )
    half = dense.scale_columns([L.T for L in factors], layout.core.widths, core.A)  # A Lambda
    q_core = _sizes(layout, layout.crossed)
    halves = dense.product_blocks(half, core.Ki, q_core, layout.core.widths)
    rest = CrossedTerms(tuple(leaves), core, factors, slopes, halves, tangents)
    dlogdet, dgram = _first_derivatives(theta, rest, layout)
    return WaistJet(Waist(logdet, gram), dlogdet, dgram, rest)


def _eliminate_leaf(
    Lambda: Array, bucket: Bucket, links: Links, layout: CrossedLayout
) -> tuple[LeafTerms, Waist, tuple[Array, Array]]:
    """Integrate one bucket out: its terms, its waist, and what it adds to A and b."""
    q, C = Lambda.shape[0], bucket.c.shape[1]
    M = marginal(Lambda @ Lambda.T, bucket.T)
    identity = jnp.broadcast_to(jnp.eye(q, dtype=M.dtype)[:, :, None], M.shape)
    U, X = eliminate(M, jnp.concatenate([bucket.T, bucket.c, identity], axis=1))
    K, w, Li = X[:, :q], X[:, q : q + C], X[:, q + C :]
    v = sparse.apply_at(Li, links.d, links)  # L^-1 d
    A = sparse.pair_sums(v, v, links, layout.shape)
    b = sparse.to_core(_entry_products(v, w, links), links, layout.shape)
    leaf = LeafTerms(
        P=group_product(K, K),
        e=sparse.apply_at(jnp.swapaxes(K, 0, 1), v, links),
        u=group_product(K, w),
        D=K,
        E=K,
    )
    return leaf, Waist(logdet=logdet_of(U), gram=total_product(w, w)), (A, b)


def _behind_core(leaf: LeafTerms, core: CoreTerms, links: Links) -> LeafTerms:
    """u of the whole model from that of the group alone."""
    shift = sparse.to_groups(leaf.e, sparse.from_core(core.Hb, links), links, leaf.P.shape[2])
    return leaf._replace(u=leaf.u - shift)


def _first_derivatives(
    theta: Array, rest: CrossedTerms, layout: CrossedLayout
) -> tuple[Array, Array]:
    """``d logdet`` (m,) and ``d gram`` (m, p + 1, p + 1)."""
    C, sizes = layout.S0.shape[0], _sizes(layout, layout.crossed)
    dlogdet, dgram = jnp.zeros_like(theta), jnp.zeros((theta.size, C, C), theta.dtype)
    at = _places(layout, layout.eliminated)
    for leaf, slope in zip(rest.leaves, rest.slopes, strict=True):
        dlogdet = dlogdet.at[at].add(jnp.einsum("ab,kab->k", slope, leaf.D))
        dgram = dgram.at[at].add(-quadratic_tangents(leaf.u, leaf.D))
    levels = dense.levels_of(rest.core.u, sizes, layout.core.widths)
    for t, G, u, D in zip(layout.crossed, rest.halves, levels, rest.D, strict=True):
        at = _places(layout, (t,))
        dlogdet = dlogdet.at[at].add(2.0 * G[lower_indices(G.shape[0])])
        dgram = dgram.at[at].add(-quadratic_tangents(u, D))
    return dlogdet, dgram


class Effects(NamedTuple):
    """Columns over all random effects."""

    groups: tuple[Array, ...]  # (q, C, G) a bucket
    core: Array  # (N, C, B)


def _tangent_effects(rest: CrossedTerms, layout: CrossedLayout, v: Array) -> Effects:
    """``D_k U v`` for every entry k of theta, with v (p + 1, C): m C columns, k slowest."""
    first, C = _places(layout, layout.eliminated), v.shape[1]
    m = first.size + sum(D.shape[0] for D in rest.D)
    groups = []
    for leaf in rest.leaves:
        u = jnp.einsum("acg,cd->adg", leaf.u, v)
        part = jnp.zeros((u.shape[0], m, C, u.shape[2]), v.dtype)
        part = part.at[:, first].set(jnp.einsum("kab,bcg->akcg", leaf.D, u))
        groups.append(part.reshape(u.shape[0], m * C, -1))
    u = jnp.einsum("ncb,cd->ndb", rest.core.u, v)
    core = jnp.zeros((u.shape[0], m, C, u.shape[2]), v.dtype)
    start = 0
    for t, D, w in zip(layout.crossed, rest.D, layout.core.widths, strict=True):
        k = D.shape[1]
        rows = u[start : start + k * w].reshape(w, k, C, -1)
        part = jnp.einsum("kab,wbcg->wakcg", D, rows).reshape(w * k, D.shape[0], C, -1)
        core = core.at[start : start + k * w, _places(layout, (t,))].set(part)
        start += k * w
    return Effects(tuple(groups), core.reshape(u.shape[0], m * C, -1))


def _apply_P(x: Effects, rest: CrossedTerms, layout: CrossedLayout) -> Effects:
    """``Z' V^-1 Z x``.

    With ``h = e' x_1 + A x_2``: the core gets ``h - A H h``, a group
    ``P_i x_i + e_i (x_2 - H h)``.
    """
    core = rest.core
    h = dense.multiply(core.A, x.core)
    for leaf, links, part in zip(rest.leaves, layout.links, x.groups, strict=True):
        h = h + sparse.to_core(_entry_products(leaf.e, part, links), links, layout.shape)
    Hh = dense.multiply(core.H, h)
    groups = []
    for leaf, links, part in zip(rest.leaves, layout.links, x.groups, strict=True):
        back = sparse.from_core(x.core - Hh, links)
        own = group_product(leaf.P, part)
        groups.append(own + sparse.to_groups(leaf.e, back, links, part.shape[2]))
    return Effects(tuple(groups), h - dense.multiply(core.A, Hh))


def _inner_products(left: Effects, right: Effects, W: Array) -> Array:
    """``sum_cd W_cd left_kc' right_ld`` for the entries k and l of theta, (m, m)."""
    C = W.shape[0]

    def inner(a: Array, b: Array) -> Array:
        shape = (a.shape[0], -1, C, a.shape[2])
        weighted = jnp.einsum("akcg,cd->akdg", a.reshape(shape), W)
        return jnp.einsum("akdg,aldg->kl", weighted, b.reshape(shape))

    parts = [inner(a, b) for a, b in zip(left.groups, right.groups, strict=True)]
    return sum(parts, inner(left.core, right.core))


def average_information(theta: Array, v: Array, jet: WaistJet, layout: CrossedLayout) -> Array:
    """``(D_k U v)' P (D_l U v)``: a curvature that needs no traces, (m, m).

    References
    ----------
    Gilmour, Thompson & Cullis (1995), doi:10.2307/2533274.
    """
    g = _tangent_effects(jet.rest, layout, v[:, None])
    one = jnp.ones((1, 1), theta.dtype)
    return symmetrize(_inner_products(g, _apply_P(g, jet.rest, layout), one))


def curvature(theta: Array, W: Array, jet: WaistJet, layout: CrossedLayout) -> Curvature:
    """Second derivatives of ``logdet + <W, gram>`` in theta, W held fixed.

    With ``P = Z' V^-1 Z``, ``R = U W U'`` and ``D_k = dPsi / dtheta_k``

        <P - R, D_kl> + 2 tr(R D_k P D_l) - tr(P D_k P D_l)
    """
    rest = jet.rest
    g = _tangent_effects(rest, layout, jnp.eye(W.shape[0], dtype=W.dtype))
    hessian = 2.0 * _inner_products(g, _apply_P(g, rest, layout), W)
    traces, blocks = _trace_products(theta, rest, layout)
    slopes = _with_core(blocks, W, rest, layout)
    return Curvature(symmetrize(hessian - traces + psi_curvatures(slopes)), slopes)


def psi_slopes(W: Array, jet: WaistJet, layout: CrossedLayout) -> tuple[Array, ...]:
    """Blocks of ``P - R`` summed over the levels of each term, (k, k).

    Those of the core come from ``(P Lambda) Lambda^-1``, without the products
    of large matrices that a singular Lambda would need.
    """
    rest: CrossedTerms = jet.rest
    blocks = []
    for half, L in zip(rest.halves, rest.factors, strict=True):
        regular = jnp.min(jnp.abs(jnp.diagonal(L))) > 0
        safe = jnp.where(regular, L, jnp.eye(len(L), dtype=L.dtype))
        block = jax.scipy.linalg.solve_triangular(safe, half.T, lower=True, trans=1).T
        blocks.append(jnp.where(regular, symmetrize(block), 0.0))
    return _with_core(blocks, W, rest, layout)


def _with_core(
    blocks: Sequence[Array], W: Array, rest: CrossedTerms, layout: CrossedLayout
) -> tuple[Array, ...]:
    """Blocks of ``P - R`` of all terms, given those of P for the core."""
    psi = [jnp.zeros((k, k), W.dtype) for k in layout.sizes]
    for leaf, bucket, slope in zip(rest.leaves, layout.buckets, rest.slopes, strict=True):
        full = slope - jnp.einsum("acg,cd,bdg->ab", leaf.u, W, leaf.u)
        parts = gather(full, _sizes(layout, layout.eliminated), bucket.widths)
        for t, part in zip(layout.eliminated, parts, strict=True):
            psi[t] = psi[t] + part
    levels = dense.levels_of(rest.core.u, _sizes(layout, layout.crossed), layout.core.widths)
    for t, block, u in zip(layout.crossed, blocks, levels, strict=True):
        psi[t] = block - jnp.einsum("acg,cd,bdg->ab", u, W, u)
    return tuple(psi)


def _trace_products(
    theta: Array, rest: CrossedTerms, layout: CrossedLayout
) -> tuple[Array, tuple[Array, ...]]:
    """``tr(P D_k P D_l)``, (m, m), and the summed blocks of P of the core's terms.

    With ``F_k = e' D_k e`` of the eliminated terms, J = I - H A and
    ``P_22 = A - A H A``: the traces are, for two terms of the core, those of
    ``P_22 D_k P_22 D_l``; for one of each kind of ``J' F_k J D_l``; for two
    eliminated ones of ``P_i D_k P_i D_l`` less twice those with ``X_i = e_i H e_i'``
    in the place of one P_i, plus ``H F_k H F_l``.
    """
    core, widths, sizes = rest.core, layout.core.widths, _sizes(layout, layout.crossed)
    out = jnp.zeros((theta.size, theta.size), theta.dtype)
    m1 = _places(layout, layout.eliminated)
    F = [jnp.zeros_like(core.A) for _ in m1]
    for leaf, links in zip(rest.leaves, layout.links, strict=True):
        X = sparse.group_contractions(leaf.e, core.H, links, leaf.P.shape[2])
        own = double_traces(leaf.P, leaf.P, leaf.D)
        cross = double_traces(leaf.P, X, leaf.D)
        out = out.at[np.ix_(m1, m1)].add(own - cross - cross.T)
        for i in range(len(m1)):
            De = jnp.einsum("ab,be->ae", leaf.D[i], leaf.e)
            F[i] = F[i] + sparse.pair_sums(leaf.e, De, links, layout.shape)
    P, J, R, left = dense.shrink(core, rest.factors, widths, F)
    for t, s, moments in dense.block_moments(P, sizes, widths):
        value = jnp.einsum("kab,lcd,acbd->kl", rest.D[t], rest.D[s], moments)
        rows, columns = (_places(layout, (layout.crossed[i],)) for i in (t, s))
        out = out.at[np.ix_(rows, columns)].set(value).at[np.ix_(columns, rows)].set(value.T)
    for i, k in enumerate(m1):
        for j, l in enumerate(m1):
            out = out.at[k, l].add(jnp.sum(R[i] * dense.transposed(R[j])))
        diagonal = dense.product_blocks(left[i], dense.transposed(J), sizes, widths)
        for t, block, D in zip(layout.crossed, diagonal, rest.D, strict=True):
            value = jnp.einsum("ab,kba->k", block, D)
            at = _places(layout, (t,))
            out = out.at[k, at].set(value).at[at, k].set(value)
    return out, dense.level_blocks(P, sizes, widths)


# ------------------------------------------------------------ random effects


def blups(theta: Array, beta: Array, layout: CrossedLayout) -> tuple[BlupTerms, ...]:
    """Conditional means and covariances: of every bucket's groups, then of the core.

    The core has ``b_2 = origin + H b v`` with covariance H, a group ``Psi u_i v`` with its
    own covariance plus ``Psi e_i H e_i' Psi``; ``v = (-beta, 1)``.
    """
    jet = waist_jet(theta, layout)
    rest: CrossedTerms = jet.rest
    v = jnp.append(-beta, 1.0)
    inner = _pick(factor_blocks(theta, layout.sizes), layout.eliminated)
    out = []
    for bucket, links, leaf in zip(layout.buckets, layout.links, rest.leaves, strict=True):
        Lambda = spread(inner, bucket.widths)
        Psi = Lambda @ Lambda.T
        X = sparse.group_contractions(leaf.e, rest.core.H, links, leaf.P.shape[2])
        mean = jnp.einsum("ab,bg->ag", Psi, jnp.einsum("acg,c->ag", leaf.u, v))
        through = jnp.einsum("ab,bcg,cd->adg", Psi, X, Psi)
        out.append(BlupTerms(b=mean, cov=group_cov(Lambda, bucket.T) + through))
    mean = jnp.einsum("ncb,c->nb", rest.core.Hb, v) + layout.core.origin[:, 0]
    return (*out, BlupTerms(b=mean, cov=rest.core.H))


# ------------------------------------------------------------ start values, rotations


def moment_theta(layout: CrossedLayout) -> Array:
    """Start values from expected squares, weighted as in :class:`Moments`.

        E (z_l' y)^2 = sigma^2 z_l' z_l + sum_b psi_b sum_m (z_l' z_m)^2
        E y' y       = sigma^2 (n - p)  + sum_b psi_b |Z_b|^2
    """
    at = layout.moments
    nu = layout.n_obs - layout.beta_origin.size
    rows = jnp.concatenate([at.noise[:, None], at.spread], axis=1)
    left = jnp.concatenate([jnp.append(nu, at.norms)[None], rows])
    right = jnp.append(jnp.ones((), nu.dtype), at.squares)
    # rows on the scale of their diagonal, a touch of ridge: identical factors are no obstacle
    scale = 1.0 / jnp.diagonal(left)
    ridge = 1e-6 * jnp.eye(right.size, dtype=nu.dtype)
    found = jnp.linalg.solve(left * scale[:, None] + ridge, right * scale)
    sigma2 = jnp.maximum(found[0], 1e-3 / nu)
    psi = jnp.sqrt(jnp.clip(found[1:] / sigma2, 1e-3, 1e6))
    psi = jnp.where(jnp.isfinite(psi), psi, 1.0)
    ends = np.cumsum(layout.sizes)
    return stack_theta(
        [jnp.diag(psi[e - k : e]) for k, e in zip(layout.sizes, ends, strict=True)]
    )


def rotate_term(layout: CrossedLayout, t: int, Q: np.ndarray) -> CrossedLayout:
    """The layout with the columns of term t multiplied by an orthogonal Q."""
    if t in layout.eliminated:
        place, sizes = layout.eliminated.index(t), _sizes(layout, layout.eliminated)
        turned = tuple(rotate_bucket(b, Q, place, sizes) for b in layout.buckets)
        return replace(layout, buckets=turned)
    place, widths = layout.crossed.index(t), layout.core.widths
    sizes = _sizes(layout, layout.crossed)
    factors = [np.eye(k) for k in sizes]
    factors[place] = Q.T
    S = dense.scale_columns(factors, widths, dense.scale_rows(factors, widths, layout.core.S))
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
        links.append(replace(link, d=jnp.asarray(d)))
    return replace(layout, links=tuple(links), core=replace(layout.core, S=S, s=s, origin=origin))
