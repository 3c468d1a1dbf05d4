"""Derivatives in the standard deviations of strata; see :mod:`.strata`.

All is divided by standard deviations, so that along the logarithm of that of stratum s V changes
by ``2 E_s``, the identity in its rows. With ``V = V_1 + Z_2 Psi_2 Z_2'``, B what the core leaves of
``A = [X y]``, ``B = A - Z_2 H b``, and J = I - H A of the core,

    tr(V^-1 E_s)            = tr(V_1^-1 E_s) - tr(H F_s)       F_s = Z_2' V_1^-1 E_s V_1^-1 Z_2
    A' V^-1 E_s V^-1 A      = B' V_1^-1 E_s V_1^-1 B
    tr(V^-1 E_s V^-1 E_t)   = tr(H F_s H F_t)
                              + 1(s = t) [tr(V_1^-2 E_s) - 2 tr(H Z_2' V_1^-3 E_s Z_2)]

Within a group ``V_1 = Q M Q' + I - Q Q'``, and its powers are those of ``N = M^-1``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from jax import Array

from ...covariance.theta import theta_size
from ...numerics.linalg import group_product, symmetrize
from ...numerics.namespace import namespace
from ..contract import WaistJet
from ..crossed import core as dense
from ..crossed import links as sparse
from ..crossed.curvature import EffectColumns, tangent_effects
from ..crossed.jet import CrossedTerms, places, sandwiched
from ..crossed.layout import CrossedLayout


class Strata(NamedTuple):
    """The sums of every stratum over its residual variance."""

    S: Array  # (N, N, S)
    s: Array  # (N, p + 1, S)
    S0: Array  # (p + 1, p + 1, S)
    counts: Array  # (S,)
    owners: Sequence[Array]  # (G,) a bucket
    log_sd: Array  # (S,)

    @property
    def log_R(self) -> Array:
        """``log|R|``."""
        log_R: Array = 2.0 * (self.counts @ self.log_sd)
        return log_R


class OfStrata(NamedTuple):
    """First derivatives, and what they give to second ones."""

    F: Array  # (N, N, S)
    f: Array  # (N, p + 1, S)  Z_2' V_1^-1 E_s V^-1 [X y]
    rows: Array  # (p + 1, p + 1, S)  B' E_s B of what no group reaches
    H: Array  # (N, N, 1)
    dlogdet: Array  # (S,)  in log standard deviations
    dgram: Array  # (p + 1, p + 1, S)


class _Leaf(NamedTuple):
    """Groups of one bucket."""

    T: Array  # (q, q, G)
    left: Array  # (q, p + 1, G)  Q' B
    N: Array  # (q, q, G)
    N2: Array  # (q, q, G)
    links: sparse.Links  # to a core that has a block for every stratum
    owner: Array  # (G,)


def _leaves(jet: WaistJet[CrossedTerms], layout: CrossedLayout, strata: Strata) -> Iterator[_Leaf]:
    parts = zip(layout.buckets, layout.links, strata.owners, jet.rest.leaves, strict=True)
    for bucket, links, owner, leaf in parts:
        moved = sparse.onto_groups(links.d, jet.rest.core.Hb, links, bucket.T.shape[2])
        own = replace(links, block=owner[links.group])
        yield _Leaf(bucket.T, bucket.c - moved, leaf.N, group_product(leaf.N, leaf.N), own, owner)


def of_strata(jet: WaistJet[CrossedTerms], layout: CrossedLayout, strata: Strata) -> OfStrata:
    """Derivatives of ``log|V|`` and of ``gram`` in the log standard deviations."""
    xp, core = namespace(jet.rest.core.Ki, strata.S), jet.rest.core
    n, Hb = strata.S.shape[2], core.Hb[:, :, 0]
    shape = strata.S.shape[0], n
    through = xp.einsum("abs,bc->acs", strata.S, Hb)
    cross = xp.einsum("ac,ads->cds", Hb, strata.s)
    rows = strata.S0 - cross - xp.swapaxes(cross, 0, 1) + xp.einsum("ac,ads->cds", Hb, through)
    F, f, gram, trace = strata.S, strata.s - through, rows, strata.counts
    for at in _leaves(jet, layout, strata):
        d, half = at.links.d, group_product(at.N2, at.left)
        F = sparse.add_pairs(F, at.N2, at.links, (d, sparse.apply_at(at.N2, d, at.links)))
        f = f + sparse.onto_core(d, half, at.links, shape)
        gram = gram + _by_stratum(xp.einsum("qcg,qdg->cdg", at.left, half), at.owner, n)
        trace = trace - _by_stratum(_less_than_one(at.N), at.owner, n)
    H = dense.covariance(core.Ki, jet.rest.factors, layout.core.widths)
    dlogdet = 2.0 * (trace - xp.einsum("ab,abs->s", H[:, :, 0], F))
    return OfStrata(F, f, rows, H, dlogdet, -2.0 * gram)


def strata_curvature(
    root: Array,
    jet: WaistJet[CrossedTerms],
    layout: CrossedLayout,
    strata: Strata,
    of: OfStrata,
) -> tuple[Array, Array]:
    """Second derivatives of ``logdet + <W, gram>``, ``W = root root'`` held fixed.

    Returns
    -------
    mixed : Array, shape (m, S)
        In theta of the random effects and the log standard deviations.
    own : Array, shape (S, S)
    """
    xp = namespace(root, strata.S)
    leaves = list(_leaves(jet, layout, strata))
    through, diagonal = _of_groups(root, jet, leaves, strata, of)
    FF, mixed = _of_core(jet, layout, of)
    f = xp.einsum("acs,cd->ads", of.f, root)
    Hf = xp.einsum("ab,bds->ads", of.H[:, :, 0], f)
    N, d, n = f.shape
    crossed = Hf.reshape(N * d, n).T @ f.reshape(N * d, n)
    slopes = 2.0 * of.dlogdet + 2.0 * xp.einsum("cds,ce,de->s", of.dgram, root, root)
    own = xp.diag(slopes + diagonal) - 4.0 * FF - 8.0 * crossed
    first = places(layout, layout.eliminated)
    mixed = xp.at(mixed)[first].add(through)
    g = tangent_effects(jet.rest, layout, root)
    along = _along(g, root, layout, leaves, n)
    core = _core_columns(g, jet, layout, Hf, f)
    return -2.0 * mixed + 4.0 * (along + core), symmetrize(own)


def _of_groups(
    root: Array,
    jet: WaistJet[CrossedTerms],
    leaves: Sequence[_Leaf],
    strata: Strata,
    of: OfStrata,
) -> tuple[Array, Array]:
    """Traces along the eliminated terms, (m_1, S), and what the diagonal has besides, (S,)."""
    xp, n = namespace(root, strata.S), strata.S.shape[2]
    third = xp.einsum("ce,cds,de->s", root, of.rows, root)
    square = strata.counts - 2.0 * xp.einsum("ab,abs->s", of.H[:, :, 0], strata.S)
    mixed: Array = xp.zeros((), root.dtype)
    for at, terms in zip(leaves, jet.rest.leaves, strict=True):
        N3 = group_product(at.N, at.N2)
        plain = replace(at.links, block=xp.zeros_like(at.links.block), sums=None)
        C = sparse.group_contractions(at.links.d, of.H, plain, at.T.shape[2])
        y = xp.einsum("qcg,cd->qdg", at.left, root)
        third = third + _by_stratum(xp.sum(y * group_product(N3, y), axis=(0, 1)), at.owner, n)
        inner = _less_than_one(at.N2) + 2.0 * xp.sum(N3 * C, axis=(0, 1))
        square = square - _by_stratum(inner, at.owner, n)
        middle = group_product(at.N, group_product(C, at.N2))
        middle = at.N2 - middle - xp.swapaxes(middle, 0, 1)
        B = _by_stratum(group_product(at.T, group_product(middle, at.T)), at.owner, n)
        mixed = mixed + xp.einsum("kab,abs->ks", terms.D, B)
    return mixed, 8.0 * third - 4.0 * square


def _of_core(
    jet: WaistJet[CrossedTerms], layout: CrossedLayout, of: OfStrata
) -> tuple[Array, Array]:
    """``tr(H F_s H F_t)``, (S, S), and with every term in the place of t, (m, S)."""
    rest, widths = jet.rest, layout.core.widths
    xp, core = namespace(of.F), rest.core
    lower = [L.T for L in rest.factors.blocks]
    Ki = xp.moveaxis(core.Ki, -1, 0)

    def shrunk(F: Array) -> Array:
        return Ki @ xp.moveaxis(dense.scale_both(lower, lower, widths, F), -1, 0)

    R = shrunk(of.F)
    n, N, _ = R.shape
    flat = xp.swapaxes(R, 1, 2).reshape(n, N * N)
    mixed = xp.zeros((theta_size(layout.structures), n), R.dtype)
    for i, k in enumerate(places(layout, layout.eliminated)):
        total = xp.zeros((N, N, 1), R.dtype)
        for leaf, links in zip(rest.leaves, layout.links, strict=True):
            De = xp.einsum("ab,be->ae", leaf.D[i], leaf.e)
            total = sparse.add_pairs(total, sandwiched(leaf.E, leaf.D[i]), links, (leaf.e, De))
        mixed = xp.at(mixed)[k].set(flat @ shrunk(total).reshape(N * N))
    eye = xp.eye(N, dtype=R.dtype)[:, :, None]
    assert core.A is not None  # no large core has strata
    J = dense.remainder(core.A, core.Ki, eye, rest.factors, widths)[:, :, 0]
    FJ, start = xp.moveaxis(of.F, -1, 0) @ J[None], 0
    for t, D, w in zip(layout.crossed, rest.D, widths, strict=True):
        k = D.shape[1]
        at = slice(start, start + k * w)
        left, right = J[:, at].reshape(N, w, k), FJ[:, :, at].reshape(n, N, w, k)
        blocks = xp.einsum("nwa,snwb->abs", left, right)
        mixed = xp.at(mixed)[places(layout, (t,))].set(xp.einsum("kab,abs->ks", D, blocks))
        start += k * w
    return R.reshape(n, N * N) @ flat.T, mixed


def _along(
    g: EffectColumns,
    root: Array,
    layout: CrossedLayout,
    leaves: Sequence[_Leaf],
    n: int,
) -> Array:
    """``<W, B' V_1^-1 E_s V_1^-1 Z_1 D_k U>``, (m, S)."""
    xp, d = namespace(root, g.core), root.shape[1]
    total: Array = xp.zeros((theta_size(layout.structures), n), root.dtype)
    for at, part in zip(leaves, g.groups, strict=True):
        y = group_product(at.T, group_product(at.N2, xp.einsum("qcg,cd->qdg", at.left, root)))
        columns = part.reshape(len(part), -1, d, part.shape[2])
        total = total + _by_stratum(xp.einsum("qdg,qkdg->kg", y, columns), at.owner, n)
    return total


def _core_columns(
    g: EffectColumns, jet: WaistJet[CrossedTerms], layout: CrossedLayout, Hf: Array, f: Array
) -> Array:
    """``f_s' J D_k U_2 - f_s' H Z_2' V_1^-1 Z_1 D_k U_1``, (m, S)."""
    rest, core = jet.rest, jet.rest.core
    assert core.A is not None  # no large core has strata
    xp, (N, d, _) = namespace(f), f.shape
    h = xp.zeros_like(g.core)
    for leaf, links, part in zip(rest.leaves, layout.links, g.groups, strict=True):
        h = h + sparse.onto_core(leaf.e, part, links, layout.shape)
    own = dense.remainder(core.A, core.Ki, g.core, rest.factors, layout.core.widths)
    own, h = (x.reshape(N, -1, d) for x in (own[:, :, 0], h[:, :, 0]))
    return xp.einsum("nkd,nds->ks", own, f) - xp.einsum("nkd,nds->ks", h, Hf)


def _by_stratum(values: Array, owner: Array, n: int) -> Array:
    """Sums over the groups of every stratum, (..., G) to (..., S)."""
    xp = namespace(values)
    rows = xp.moveaxis(values, -1, 0)
    flat = rows.reshape(len(rows), -1)
    found = xp.segment_sum(flat, owner, n).reshape(n, *rows.shape[1:])
    return xp.moveaxis(found, 0, -1)


def _less_than_one(N: Array) -> Array:
    """``tr(I - N)`` of every group, (G,)."""
    xp = namespace(N)
    return N.shape[0] - xp.sum(xp.diagonal(N), axis=-1)
