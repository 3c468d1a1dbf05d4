"""Whether the residual variance can be told from the random effects.

The covariance of the rows is linear in its parameters: ``V = sigma^2 W^-1 + sum_t Z_t (I (x)
Sigma_t) Z_t'``. The residual variance is identified if ``W^-1`` is no linear combination of
the other derivatives, ``Z_t (I (x) E_ij) Z_t'`` (of a term with a covariance structure those
combinations of them that it allows), as they show in error contrasts: what the
fixed effects absorb says nothing of a variance, under ML as little as under REML (there the
likelihood still depends on it, but not on the response). Inner products of these n x n
matrices are sums over the pairs of levels that share rows, so none of them is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
import scipy.sparse
from scipy.linalg import block_diag

from ..covariance.structures import Structure
from ..numerics.blocks import level_columns
from .terms import RandomTerm

# Share of W^-1 that the others must leave, in squares: at a smaller one a hundred million rows
# would not determine the residual variance to its own size, and rounding reaches 1e-9.
_APART = 1e-8
# Derivatives of unit length whose Gram matrix has a smaller eigenvalue are dependent.
_DEPENDENT = 1e-11
# The same of terms of one factor, in orthonormal columns: years and their squares are apart.
_OVERLAPPING = 1e-14
# Columns of Z of unit length with a smaller singular value are dependent.
_NO_COLUMN = 1e-9
# The same where only sums of squares are known.
_NO_SQUARE = 1e-12
# Derivatives up to which the question is answered: their Gram matrix is dense.
MOST_DERIVATIVES = 1500

# Cells whose part in X is computed at a time: the memory is that of p numbers each.
_CHUNK = 1 << 14


class LevelProducts(NamedTuple):
    """Cross-products of the columns of two terms over the rows that two levels share."""

    left: np.ndarray  # (B,)  level of the first term
    right: np.ndarray  # (B,)  level of the second
    products: np.ndarray  # (B, k, l)


class Moments(NamedTuple):
    """All that the inner products need; rows and columns of Z weighted, columns orthonormal."""

    cells: Mapping[tuple[int, int], LevelProducts]  # of the terms (t, u), t <= u
    reached: Sequence[np.ndarray]  # (L, k, p) a term: Z' Q, Q an orthonormal basis of X
    spans: Sequence[np.ndarray | None]  # (d, k k) a term: see :func:`_span`
    n: int  # rows
    p: int  # columns of Q


def row_moments(terms: Sequence[RandomTerm], X: np.ndarray, weights: np.ndarray | None) -> Moments:
    """Moments of rows in memory."""
    n = len(X)
    root = np.ones(n) if weights is None else np.sqrt(weights / weights.max())
    largest = np.abs(X).max(axis=0, initial=0.0)
    X = root[:, None] * X / np.where(largest > 0, largest, 1.0)
    Q = orthonormal(X / np.maximum(np.sqrt((X * X).sum(axis=0)), 1e-300))
    columns = [_orthonormal_columns(term, root) for term in terms]
    designs = [design for design, _ in columns]
    widths = [design.shape[1] // term.n_levels for design, term in zip(designs, terms, strict=True)]
    cells = {}
    for t, u in combinations_with_replacement(range(len(terms)), 2):
        table = (designs[t].T @ designs[u]).tobsr(blocksize=(widths[t], widths[u]))
        left = np.repeat(np.arange(terms[t].n_levels), np.diff(table.indptr))
        cells[t, u] = LevelProducts(left, table.indices, table.data)
    reached = [
        (design.T @ Q).reshape(term.n_levels, width, Q.shape[1])
        for design, term, width in zip(designs, terms, widths, strict=True)
    ]
    spans = [_span(term.structure, C) for (_, C), term in zip(columns, terms, strict=True)]
    return Moments(cells, reached, spans, n, Q.shape[1])


def _orthonormal_columns(
    term: RandomTerm, root: np.ndarray
) -> tuple[scipy.sparse.csr_array, np.ndarray]:
    """Z of a term, weighted, columns orthonormal before they are split by level: (n, L k).

    And the coordinates C of its columns as they were, ``Z C``.
    """
    n, members, k = term.values.shape
    given = (term.values * root[:, None, None]).reshape(n * members, k)
    largest = np.abs(given).max(axis=0, initial=0.0)
    values = orthonormal(given / np.where(largest > 0, largest, 1.0))
    Z = level_columns(term.codes, values.reshape(n, members, values.shape[1]), term.n_levels)
    return Z, values.T @ given


def is_within(term: RandomTerm, X: np.ndarray) -> bool:
    """Whether the columns of X span those of a term."""
    Z = term.columns().toarray()
    Z = Z[:, (Z != 0).any(axis=0)]
    Q = orthonormal(X)
    left = Z - Q @ (Q.T @ Z)
    return bool(np.linalg.norm(left) <= _NO_COLUMN * np.linalg.norm(Z))


def overlapping_terms(terms: Sequence[RandomTerm]) -> list[int]:
    """Terms of one factor whose covariances cannot be told from each other; none if all can.

    Rows of different levels share nothing, so that the inner product of ``Z_t (I (x) D) Z_t'`` and
    ``Z_u (I (x) E) Z_u'`` is ``sum_g tr(D C_g E C_g')`` with ``C_g = Z_tg' Z_ug`` of every level.

    Parameters
    ----------
    terms : sequence of RandomTerm
        With the same levels; a row belongs to one.
    """
    codes, n_levels = terms[0].codes[:, 0], terms[0].n_levels
    parts, sizes = [], []
    for term in terms:
        own = term.values[:, 0]
        size = np.sqrt((own * own).sum(axis=0))
        size = np.where(size > 0, size, 1.0)
        if term.structure.unrestricted and own.shape[1] > 1:  # any basis has the same covariances
            own, size = np.linalg.qr(own / size)[0], np.ones(own.shape[1])
        parts.append(own / size)
        sizes.append(size)
    values, size = np.concatenate(parts, axis=1), np.concatenate(sizes)
    K = values.shape[1]
    C = np.empty((n_levels, K, K))
    for i, j in combinations_with_replacement(range(K), 2):
        C[:, i, j] = np.bincount(codes, values[:, i] * values[:, j], n_levels)
        C[:, j, i] = C[:, i, j]
    directions, owner = [], []
    place = 0
    for t, term in enumerate(terms):
        k = len(term.names)
        for D in term.structure.span:
            whole = np.zeros((K, K))
            own = size[place : place + k]
            whole[place : place + k, place : place + k] = own[:, None] * D * own
            directions.append(whole)
            owner.append(t)
        place += k
    E = np.stack(directions)
    squares = (C.reshape(n_levels, -1).T @ C.reshape(n_levels, -1)).reshape(K, K, K, K)
    half = np.tensordot(E, squares, axes=((1, 2), (2, 0)))  # (m, k, l)
    gram = half.reshape(len(E), -1) @ E.reshape(len(E), -1).T
    scale = np.sqrt(np.diagonal(gram))
    gram = gram / np.where(scale > 0, scale, 1.0) / np.where(scale > 0, scale, 1.0)[:, None]
    least, vectors = np.linalg.eigh(gram)
    if least[0] > _OVERLAPPING:
        return []
    share = np.abs(vectors[:, 0])
    return sorted({owner[i] for i in np.flatnonzero(share > 1e-3 * share.max())})


def _span(structure: Structure, C: np.ndarray) -> np.ndarray | None:
    """Matrices that the covariance of a term is made of, (d, k k); None where it may be any.

    Of coefficients that multiply columns ``Z C``: ``C D C'`` for those D of the structure.
    """
    if structure.unrestricted:
        return None
    D = structure.span
    return (C @ D @ C.T).reshape(len(D), -1)


def orthonormal(columns: np.ndarray) -> np.ndarray:
    """Basis of what the columns span; a column of zeros if that is nothing."""
    norms = np.sqrt((columns * columns).sum(axis=0))
    U, s, _ = np.linalg.svd(columns / np.where(norms > 0, norms, 1.0), full_matrices=False)
    rank = int((s > _NO_COLUMN * s.max(initial=0.0)).sum())
    return U[:, :rank] if rank else columns[:, :0]


def summed_moments(
    levels: Sequence[np.ndarray],
    gram: np.ndarray,
    pairs: Mapping[tuple[int, int], LevelProducts],
    structures: Sequence[Structure],
    n: int,
) -> Moments:
    """Moments of rows that are gone, of which cross-products were kept.

    Parameters
    ----------
    levels : sequence of ndarray, shape (L, k, k + p)
        ``z' W [z X]`` of every level of a term.
    gram : ndarray, shape (p, p)
        ``X' W X``.
    pairs : mapping
        Cells of two different terms (t, u), t < u, before any change of basis.
    structures : sequence of Structure
    n : int
    """
    basis = _basis(gram)
    own = [table[:, :, : table.shape[1]] for table in levels]
    change = [_basis(table.sum(axis=0)) for table in own]
    cells = {}
    for t, (table, B) in enumerate(zip(own, change, strict=True)):
        at = np.arange(len(table))
        cells[t, t] = LevelProducts(at, at, B.T @ table @ B)
    for (t, u), pair in pairs.items():
        cells[t, u] = pair._replace(products=change[t].T @ pair.products @ change[u])
    reached = [
        B.T @ (table[:, :, table.shape[1] :] @ basis)
        for table, B in zip(levels, change, strict=True)
    ]
    spans = [
        _span(structure, B.T @ table.sum(axis=0))
        for structure, table, B in zip(structures, own, change, strict=True)
    ]
    return Moments(cells, reached, spans, n, basis.shape[1])


def _basis(gram: np.ndarray) -> np.ndarray:
    """B with B' gram B = I on what the columns span, (k, r)."""
    norms = np.sqrt(np.diagonal(gram))
    norms = np.where(norms > 0, norms, 1.0)
    e, V = np.linalg.eigh(gram / np.outer(norms, norms))
    kept = e > _NO_SQUARE * e.max(initial=0.0)
    return V[:, kept] / np.sqrt(e[kept]) / norms[:, None]


def confounded_terms(moments: Moments) -> list[int]:
    """Terms whose derivatives add up to that of the residual variance; none if it is identified."""
    owners, gram, traces = _inner_products(moments)
    e, V = np.linalg.eigh(gram)
    kept = e > _DEPENDENT
    e, V = e[kept], V[:, kept]
    along = V.T @ traces
    spare = moments.n - moments.p
    if spare - (along**2 / e).sum() > _APART * spare:
        return []
    part = np.abs(V @ (along / e))
    return sorted(set(owners[part > 1e-6 * part.max(initial=0.0)].tolist()))


def _inner_products(moments: Moments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Term, Gram matrix and inner product with the identity of the derivatives of unit length.

    With P = I - QQ' and D_a, D_b two derivatives, ``tr(P D_a' P D_b) = tr(D_a' D_b) -
    tr(Q' D_a' D_b Q) - tr(Q' D_b D_a' Q) + tr((Q' D_a Q)' (Q' D_b Q))``.
    """
    sizes = [reached.shape[1] for reached in moments.reached]
    ends = np.cumsum([0, *(k * k for k in sizes)])
    gram, squares = np.zeros((ends[-1], ends[-1])), []
    traces = np.zeros(ends[-1])
    inside = [np.einsum("lip,ljq->ijpq", R, R, optimize=True) for R in moments.reached]
    for (t, u), cells in moments.cells.items():
        C, H = cells.products, _absorbed(cells, moments.reached[t], moments.reached[u])
        whole = _over_pairs(C, C)
        block = whole - _over_pairs(C, H) - _over_pairs(H, C)
        k, m = sizes[t], sizes[u]
        block += np.einsum("ijpq,klpq->ijkl", inside[t], inside[u], optimize=True).reshape(
            k * k, m * m
        )
        at = slice(ends[t], ends[t + 1]), slice(ends[u], ends[u + 1])
        gram[at], gram[at[::-1]] = block, block.T
        if t == u:
            squares.append(whole)
            own = C[cells.left == cells.right].sum(axis=0)
            traces[at[0]] = (own - np.einsum("ijpp->ij", inside[t])).ravel()
    lengths, places = [], []
    for t, (whole, span) in enumerate(zip(squares, moments.spans, strict=True)):
        square = np.diagonal(whole) if span is None else np.diagonal(span @ whole @ span.T)
        lengths.append(np.sqrt(np.maximum(square, 0.0)))
        places.append(np.full(square.size, t))
    if any(span is not None for span in moments.spans):
        J = block_diag(*(np.eye(k * k) if span is None else span
                         for k, span in zip(sizes, moments.spans, strict=True)))  # fmt: skip
        gram, traces = J @ gram @ J.T, J @ traces
    length = np.concatenate(lengths)
    length = np.where(length > 0, length, 1.0)
    return np.concatenate(places), gram / np.outer(length, length), traces / length


def _absorbed(cells: LevelProducts, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """What the columns of X take of the cross-products, ``Z_t' Q Q' Z_u`` in every cell."""
    out = np.empty_like(cells.products)
    for start in range(0, len(out), _CHUNK):
        at = slice(start, start + _CHUNK)
        out[at] = left[cells.left[at]] @ right[cells.right[at]].transpose(0, 2, 1)
    return out


def _over_pairs(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """``sum_b A[b, i, k] B[b, j, l]`` at row (i, j) and column (k, l)."""
    count, k, m = A.shape
    out = A.reshape(count, k * m).T @ B.reshape(count, k * m)
    return out.reshape(k, m, k, m).transpose(0, 2, 1, 3).reshape(k * k, m * m)
