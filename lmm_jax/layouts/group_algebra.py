"""Functions of the matrices of many groups that every layout of groups needs.

T is (q, q, G), triangular factors side by side; whatever follows the first two axes is carried
along. A group with fewer rows than random effects, or with dependent columns, has rows of
zeros in T, and a group of padding has no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from jax import Array

from ..covariance.structures import Structure
from ..covariance.theta import (
    basis,
    factor_blocks,
    gather,
    linear_basis,
    spread,
    theta_slices,
)
from ..numerics.linalg import eliminate, exact, group_product, total_product
from ..numerics.namespace import JAX, NUMPY, custom_jvp, namespace
from .contract import PsiMoments, Waist

# Rows of a matrix from which products of matrices are faster than einsum; NumPy's is slow.
_LARGE, _LARGE_OF_NUMPY = 32, 8

# Of NumPy on the host, of JAX in a program.
AnyArray = TypeVar("AnyArray", Array, np.ndarray)


def rows_there(T: AnyArray) -> AnyArray:
    """Which rows of every group's T are there, and not zero throughout; (q, ...) of bool."""
    return namespace(T).any(T != 0, axis=1)


def groups_there(T: AnyArray) -> AnyArray:
    """Which groups are no padding, (...) of bool."""
    return namespace(T).any(rows_there(T), axis=0)


def reached(T: AnyArray, copies: AnyArray) -> AnyArray:
    """Dimensions of the data that random effects reach: rows of T that are there.

    Parameters
    ----------
    T : Array, shape (q, q, G, ...)
    copies : Array, shape (G, ...)
        Groups that every entry stands for.

    Returns
    -------
    Array, shape (...)
    """
    xp = namespace(T, copies)
    return xp.sum(rows_there(T).astype(copies.dtype) * copies[None], axis=(0, 1))


def lambda_of(
    theta: Array, structures: Sequence[Structure], widths: tuple[int, ...]
) -> tuple[Array, Array]:
    """Lambda of the groups of one bucket, (q, q), and ``dPsi / dtheta_k``, (m, q, q)."""
    Lambda = spread(factor_blocks(theta, structures), widths)
    return Lambda, psi_tangents(Lambda, basis(theta, structures, widths))


def by_term(
    slopes: Sequence[Array], widths: Sequence[tuple[int, ...]], sizes: tuple[int, ...]
) -> tuple[Array, ...]:
    """Diagonal blocks (k, k) of each bucket's (q, q), summed over levels and buckets."""
    parts = [gather(slope, sizes, own) for slope, own in zip(slopes, widths, strict=True)]
    return tuple(sum(blocks[1:], blocks[0]) for blocks in zip(*parts, strict=True))


def level_counts(
    there: Sequence[Array], widths: Sequence[tuple[int, ...]], sizes: Sequence[int]
) -> Array:
    """How many levels of every term have a column that is there, (t,).

    Parameters
    ----------
    there : sequence of Array of bool, shape (q, G)
        One a bucket: columns of the random effects of every group.
    widths : sequence of tuple of int
        Levels of each term in a group of the bucket.
    sizes : sequence of int
    """
    xp = namespace(there)
    counts = []
    for columns, own in zip(there, widths, strict=True):
        ends = np.cumsum([k * w for k, w in zip(sizes, own, strict=True)])
        parts = [
            columns[end - k * w : end].reshape(w, k, columns.shape[1])
            for end, k, w in zip(ends.tolist(), sizes, own, strict=True)
        ]
        counts.append(xp.stack([xp.sum(xp.any(part, axis=1)) for part in parts]))
    return sum(counts[1:], counts[0])


def group_cov(Lambda: Array, T: Array) -> Array:
    """``Lambda (I + Lambda' T'T Lambda)^-1 Lambda'`` of every group, (q, q, G)."""
    xp = namespace(Lambda, T)
    q = Lambda.shape[0]
    TL = xp.einsum("rag,ab->rbg", T, Lambda)
    inner = xp.eye(q, dtype=Lambda.dtype)[:, :, None] + group_product(TL, TL)
    right = xp.broadcast_to(Lambda.T[:, :, None], inner.shape)
    half = eliminate(inner, right).X
    return group_product(half, half)


def rotate_columns(
    T: Array, Q: np.ndarray, t: int, sizes: Sequence[int], widths: Sequence[int]
) -> Array:
    """T with the columns of term t multiplied by Q, level by level (on the host)."""
    xp = namespace(T)
    start = sum(k * w for k, w in zip(sizes[:t], widths[:t], strict=True))
    k, w = sizes[t], widths[t]
    out = np.array(T)
    part = out[:, start : start + k * w].reshape(out.shape[0], w, k, -1)
    turned = np.einsum("rwag,ab->rwbg", part, Q)
    out[:, start : start + k * w] = turned.reshape(out.shape[0], w * k, -1)
    return xp.asarray(out)


# ------------------------------------------------------------ one group after the other


def marginal(Psi: Array, T: Array) -> Array:
    """``M = I + T Psi T'`` of every group, (q, q, G)."""
    xp = namespace(Psi, T)
    q = T.shape[0]
    TP = xp.einsum("rag,ab->rbg", T, Psi)
    TPT = group_product(xp.swapaxes(TP, 0, 1), xp.swapaxes(T, 0, 1))
    return xp.eye(q, dtype=T.dtype)[:, :, None] + TPT


@custom_jvp
@exact
def integrate(M: Array, c: Array, copies: Array) -> Waist:
    """``sum_i m_i log|M_i|`` and ``sum_i c_i' M_i^-1 c_i``; the counts m are no variables.

    M is symmetric, and so must be what it is differentiated along: the factorization
    reads one triangle, and second derivatives use ``M' = M``.
    """
    U, w = eliminate(M, c)
    return Waist(logdet=logdet_of(U, copies), gram=total_product(w, w))


@integrate.defjvp
@exact
def _integrate_jvp(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Any]
) -> tuple[Waist, Waist]:
    # d log|M| = tr(N dM), d(c' N c) = -w' dM w + dc' w + w' dc with N = M^-1, w = N c:
    # products of small matrices instead of a derivative through the Cholesky factor
    xp = namespace(primals, tangents)
    (M, c, copies), (dM, dc, _) = primals, tangents
    N = inverse(M)
    w = group_product(N, c)
    cross = total_product(dc, w)
    dgram = cross + cross.T - total_product(w, group_product(xp.swapaxes(dM, 0, 1), w))
    return integrate(M, c, copies), Waist(logdet=xp.sum(weighted(N, copies) * dM), gram=dgram)


@custom_jvp
@exact
def inverse(M: Array) -> Array:
    """``M_i^-1`` of every group, (q, q, G); M and its tangents are symmetric."""
    xp = namespace(M)
    r = M.shape[0]
    identity = xp.broadcast_to(xp.eye(r, dtype=M.dtype)[:, :, None], M.shape)
    half = eliminate(M, identity).X
    return group_product(half, half)


@inverse.defjvp
@exact
def _inverse_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    xp = namespace(primals, tangents)
    (M,), (dM,) = primals, tangents
    N = inverse(M)
    return N, -group_product(N, group_product(xp.swapaxes(dM, 0, 1), N))


def group_means(Psi: Array, T: Array, r: Array) -> Array:
    """``Psi T_i' M_i^-1 r_i`` of every group, (q, G): its effects given the residuals r."""
    xp = namespace(Psi, T, r)
    w = xp.einsum("abg,bg->ag", inverse(marginal(Psi, T)), r)
    return xp.einsum("ab,cbg,cg->ag", Psi, T, w)


def logdet_of(U: Array, copies: Array) -> Array:
    """Sum of the log-determinants of ``U'U`` over the groups that the entries stand for."""
    xp = namespace(U, copies)
    return 2.0 * xp.sum(xp.log(xp.diagonal(U)) * copies[:, None])


def weighted(A: Array, copies: Array) -> Array:
    """Every group's matrix times the number of groups that it stands for, (q, q, G)."""
    return A * copies[None, None]


# ------------------------------------------------------------ derivatives in theta


def psi_tangents(Lambda: Array, E: Array) -> Array:
    """``dPsi / dtheta_k = E_k Lambda' + Lambda E_k'``, (m, q, q)."""
    xp = namespace(Lambda, E)
    # NumPy's einsum knows no products of matrices
    EL = E @ Lambda.T if xp is NUMPY else xp.einsum("kab,cb->kac", E, Lambda)
    return EL + xp.swapaxes(EL, 1, 2)


def quadratic_tangents(u: Array, D: Array) -> Array:
    """``sum_i u_i' D_k u_i`` for every k, (m, p + 1, p + 1)."""
    xp = namespace(u, D)
    if u.shape[0] <= D.shape[0]:
        q, C, groups = u.shape
        rows = u.reshape(q * C, groups)
        outer = xp.moveaxis((rows @ rows.T).reshape(q, C, q, C), 2, 1).reshape(q * q, C * C)
        return (D.reshape(-1, q * q) @ outer).reshape(D.shape[0], C, C)
    Du = xp.einsum("kab,bdg->akdg", D, u)
    return xp.einsum("acg,akdg->kcd", u, Du)


def half_tangents(u: Array, s: Array, E: Array) -> Array:
    """``sum_i u_i' D_k u_i`` from ``s_i = Lambda' u_i``, which holds digits that u lacks.

    With ``D_k = E_k Lambda' + Lambda E_k'``; shape (m, p + 1, p + 1).
    """
    xp = namespace(u, s, E)
    if u.shape[0] <= E.shape[0]:
        outer = xp.einsum("acg,bdg->acbd", u, s)
        half = xp.einsum("acbd,kab->kcd", outer, E)
    else:
        Es = xp.einsum("kab,bdg->akdg", E, s)
        half = xp.einsum("acg,akdg->kcd", u, Es)
    return half + xp.swapaxes(half, 1, 2)


def halves_of(slopes: Sequence[Array], blocks: Sequence[Array]) -> tuple[Array, ...]:
    """``slope Lambda`` of every term, (k, k)."""
    return tuple(G @ L for G, L in zip(slopes, blocks, strict=True))


def root_rows(W: Array) -> Array:
    """Rows r with ``W = sum r r'`` of a positive semidefinite W, (m, m).

    At unit diagonal, so that parameters in very different units keep their digits.
    """
    xp = namespace(W)
    size = xp.sqrt(xp.maximum(xp.diagonal(W), 0.0))
    unit = xp.where(size > 0, size, 1.0)
    e, vectors = xp.linalg.eigh(W / unit[:, None] / unit[None])
    return (vectors * xp.sqrt(xp.maximum(e, 0.0))[None]).T * unit[None]


def double_traces(A: Array, P: Array, D: Array) -> Array:
    """``sum_i tr(A_i D_k P_i D_l)`` for every k and l, (m, m)."""
    xp = namespace(A, P, D)
    q, _, groups = P.shape
    if q**2 <= 4 * D.shape[0]:
        # sum over the groups first: one product of (q^2, G) matrices
        moments = (A.reshape(q * q, groups) @ P.reshape(q * q, groups).T).reshape(q, q, q, q)
        rows = D.reshape(-1, q * q)
        inner = xp.moveaxis(moments, (1, 2), (0, 1)).reshape(q * q, q * q)  # (bc, ad)
        return (rows @ inner) @ xp.swapaxes(D, 1, 2).reshape(-1, q * q).T
    m = D.shape[0]
    if q >= (_LARGE if xp is JAX else _LARGE_OF_NUMPY):
        # products of matrices rather than long vectors of their entries
        rows = xp.swapaxes(D, 0, 1).reshape(q, m * q)
        AD, PD = ((xp.moveaxis(X, -1, 0) @ rows).reshape(groups, q, m, q) for X in (A, P))
        left, right = xp.moveaxis(AD, 2, 0), xp.moveaxis(PD, (2, 3), (0, 2))
        return left.reshape(m, q * q * groups) @ right.reshape(m, q * q * groups).T
    AD = xp.einsum("abg,kbc->kacg", A, D)
    PD = xp.einsum("abg,kbc->kcag", P, D)
    return AD.reshape(m, q * q * groups) @ PD.reshape(m, q * q * groups).T


def moments_along(
    own: Array, u: Array, Du: Array, gram: Array, traces: Array, products: Array
) -> PsiMoments:
    """Moments of the groups of one bucket from their ``P_i``, ``u_i`` and directions.

    Parameters
    ----------
    own : Array, shape (q, q, G)
        ``P_i``.
    u : Array, shape (q, p, G)
    Du : Array, shape (m, q, p, G)
        ``D_k u_i``.
    gram, traces, products : Array, shape (p, p), (m,), (m, m)
    """
    xp = namespace(own, u, Du)
    m, q, p, groups = Du.shape
    rows = Du.swapaxes(1, 2).reshape(m * p, q * groups)
    behind = xp.einsum("abg,kbcg->kcag", own, Du).reshape(m * p, q * groups)
    return PsiMoments(
        gram=gram,
        traces=traces,
        products=products,
        grams=xp.einsum("acg,kadg->kcd", u, Du),
        seconds=xp.moveaxis((rows @ behind.T).reshape(m, p, m, p), 2, 1),
    )


def total_moments(parts: Sequence[PsiMoments], S0: Array) -> PsiMoments:
    """Of all buckets, and of what no random effect reaches."""
    out = PsiMoments(*(sum(rest, first) for first, *rest in zip(*parts, strict=True)))
    return out._replace(gram=S0[:-1, :-1] + out.gram)


def half_traces(
    A: Array, P: Array, structures: Sequence[Structure], widths: Sequence[int]
) -> Array:
    """``sum_i tr(A_i D_k P_i D_l)`` with ``D_k = E_k Lambda' + Lambda E_k'``, (m, m).

    Up to its antisymmetric part. The matrices come with what Lambda makes of them, as
    ``[I Lambda]' A [I Lambda]``: their products with a large Lambda hold digits that A lacks.
    Of the four terms two are transposes of each other,

        2 tr(A Lambda E_k' P Lambda E_l') + tr(A E_k Lambda' P Lambda E_l') + tr(..)

    Parameters
    ----------
    A, P : Array, shape (2 q, 2 q, G)
    structures, widths
        Of the terms, linear ones, as in :func:`lmm_jax.covariance.theta.basis`.
    """
    xp = namespace(A, P)
    m, q, _ = linear_basis(tuple(structures), widths).shape
    left = xp.stack([A[:q, q:], A[:q, :q], A[q:, q:]]).reshape(3, q * q, -1)
    right = xp.stack([P[:q, q:], P[q:, q:], P[:q, :q]]).reshape(3, q * q, -1)
    moments = xp.einsum("tag,tbg->tab", left, right)
    pairings = _pairings(tuple(structures), tuple(widths))
    return (moments.reshape(-1) @ xp.asarray(pairings, A.dtype)).reshape(m, m)


@lru_cache(maxsize=64)  # asked for at every step
def _pairings(structures: tuple[Structure, ...], widths: tuple[int, ...]) -> np.ndarray:
    """What every product of two entries in :func:`half_traces` adds, (3 q^4, m^2)."""
    E = linear_basis(structures, widths)
    terms = [
        2.0 * np.einsum("kcb,lad->abcdkl", E, E),
        np.einsum("kbc,lad->abcdkl", E, E),
        np.einsum("kcb,lda->abcdkl", E, E),
    ]
    return np.stack(terms).reshape(3 * E.shape[1] ** 4, -1)


def psi_curvatures(
    theta: Array,
    slopes: Sequence[Array],
    halves: Sequence[Array],
    structures: Sequence[Structure],
) -> Array:
    """``<slope, d2Psi_kl>``, ``d2Psi_kl = E_k E_l' + E_l E_k' + E_kl Lambda' + Lambda E_kl'``.

    Parameters
    ----------
    theta : Array, shape (m,)
    slopes : sequence of Array, shape (k, k)
        Derivative of a criterion in the Psi of every term.
    halves : sequence of Array, shape (k, k)
        The same times Lambda.
    structures : sequence of Structure

    Returns
    -------
    Array, shape (m, m)
    """
    xp = namespace(theta, slopes)
    parts = []
    places = theta_slices(structures)
    for slope, half, structure, at in zip(slopes, halves, structures, places, strict=True):
        E = structure.tangents_at(theta[at])
        SE = xp.einsum("ab,kbc->kac", slope, E)
        bend = 2.0 * xp.einsum("kab,lab->kl", SE, E)
        parts.append(bend if structure.linear else bend + structure.bend(theta[at], half))
    return xp.block_diag(*parts)
