"""The system that is left of ``M = I + Lambda' G Lambda`` once one term is eliminated.

With the eliminated term first, its levels' blocks ``B`` and the columns C' beside them,

    S = M_22 - C B^-1 C'        log|M| = log|B| + log|D| + log|I + X|
    X = L^-1 S L^-T - I         D = L L' the blocks of S at the levels

so that X, symmetric, has zeros at the levels. S and X are never formed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax import Array

from ...numerics.linalg import eliminate, group_product
from ...numerics.namespace import namespace
from ...numerics.sparse_rows import multiply
from .arrays import Link, MatrixFreeArrays, apply_link, at_levels, swapped

Parts = list[Array]


class Reduced(NamedTuple):
    """The reduced system at one covariance."""

    factors: tuple[Array, ...]  # (k, k) a term: Lambda
    inverse: Array  # (k, k, L)  B^-1
    H: Array  # (k, k, L)  Lambda B^-1 Lambda'
    A: tuple[Array, ...]  # (k, k, L)  G of the rest less what the eliminated term takes
    Li: tuple[Array, ...]  # (k, k, L)  L^-1 of the rest
    logdet: Array  # ()  log|B| + log|D|


def by_factor(F: Array, x: Array) -> Array:
    """``F x`` with the same F, (k', k), at every level: (k, L, C) -> (k', L, C)."""
    xp = namespace(F, x)
    return F[0, 0] * x if F.shape == (1, 1) else xp.tensordot(F, x, 1)


def split(u: Array, layout: MatrixFreeArrays) -> Parts:
    """Columns (N, C) over the rest as those of each term, (k, L, C)."""
    out, start = [], 0
    for t in layout.rest:
        k, _, L = layout.blocks[t].shape
        out.append(u[start : start + k * L].reshape(k, L, u.shape[1]))
        start += k * L
    return out


def join(parts: Sequence[Array]) -> Array:
    """Inverse of :func:`split`."""
    flat = [part.reshape(-1, part.shape[2]) for part in parts]
    return namespace(flat).concatenate(flat) if len(flat) > 1 else flat[0]


def coupled(x: Parts, layout: MatrixFreeArrays) -> tuple[Array, Parts]:
    """``G x`` of columns over the rest: the rows of the eliminated term, and of the rest."""
    e, rest = layout.first, layout.rest
    w = [at_levels(layout.blocks[t], part) for t, part in zip(rest, x, strict=True)]
    up = None
    for link in layout.linked:
        s, t = link.pair
        if e in link.pair:
            own = rest.index(t if s == e else s)
            new = apply_link(link, x[own], back=t == e)
            up = new if up is None else up + new
            continue
        i, j = rest.index(s), rest.index(t)
        w[i] = w[i] + apply_link(link, x[j], back=False)
        w[j] = w[j] + apply_link(link, x[i], back=True)
    assert up is not None
    return up, w


def lowered(z: Array, layout: MatrixFreeArrays) -> Parts:
    """``G z`` of columns over the eliminated term: the rows of the rest."""
    e, rest = layout.first, layout.rest
    out: list[Array | None] = [None] * len(rest)
    for link in layout.linked:
        s, t = link.pair
        if e in link.pair:
            i = rest.index(t if s == e else s)
            out[i] = apply_link(link, z, back=s == e)
    xp = namespace(z)
    return [
        xp.zeros((*layout.blocks[t].shape[1:], z.shape[2]), z.dtype) if part is None else part
        for t, part in zip(rest, out, strict=True)
    ]


def link_to(t: int, layout: MatrixFreeArrays) -> Link | None:
    """The link of a term with the eliminated one."""
    wanted = {t, layout.first}
    return next((link for link in layout.linked if set(link.pair) == wanted), None)


def squares_down(H: Array, t: int, layout: MatrixFreeArrays) -> Array:
    """``sum_i G_ji H_i G_ij`` at the levels j of a term: (k_e, k_e, L_e) -> (k, k, L)."""
    xp, link = namespace(H), link_to(t, layout)
    k = layout.blocks[t].shape[0]
    if link is None:
        return xp.zeros_like(layout.blocks[t])
    first = link.pair[0] == t
    values = link.values if first else swapped(link.values_back)
    at = link.at if first else link.back
    q = values.shape[1]
    out = [[xp.zeros((), H.dtype)] * k for _ in range(k)]
    for a in range(k):
        for d in range(a + 1):
            for b in range(q):
                for c in range(q):
                    products = values[a, b] * values[d, c]
                    out[a][d] = out[a][d] + multiply(products, at, H[b, c][:, None])[:, 0]
            out[d][a] = out[a][d]
    return xp.stack([xp.stack(row) for row in out])


def squares_up(W: Array, t: int, layout: MatrixFreeArrays) -> Array:
    """``sum_j G_ij W_j G_ji`` at the eliminated levels i: (k, k, L, C) -> (k_e, k_e, L_e, C).

    The adjoint of :func:`squares_down`, of symmetric W.
    """
    xp, link = namespace(W), link_to(t, layout)
    q, _, L = layout.blocks[layout.first].shape
    if link is None:
        return xp.zeros((q, q, L, W.shape[3]), W.dtype)
    first = link.pair[0] == t
    values = swapped(link.values_back) if first else link.values  # (q, k, E) by eliminated level
    at = link.back if first else link.at
    k = values.shape[1]
    out = [[xp.zeros((), W.dtype)] * q for _ in range(q)]
    for a in range(q):
        for d in range(a + 1):
            for b in range(k):
                for c in range(k):
                    products = values[a, b] * values[d, c]
                    out[a][d] = out[a][d] + multiply(products, at, W[b, c])
            out[d][a] = out[a][d]
    return xp.stack([xp.stack(row) for row in out])


def reduce(factors: Sequence[Array], layout: MatrixFreeArrays) -> Reduced:
    """Eliminate one term and take the blocks of what is left."""
    xp = namespace(factors, layout.S0)
    e = layout.first
    inverse, logdet = _inverse(_inner(factors[e], layout.blocks[e]))
    H = between(factors[e], inverse, factors[e].T)
    A, Li = [], []
    for t in layout.rest:
        own = layout.blocks[t] - squares_down(H, t, layout)
        D = _inner(factors[t], own)
        identity = xp.broadcast_to(xp.eye(D.shape[0], dtype=D.dtype)[:, :, None], D.shape)
        U, half = eliminate(D, identity)
        logdet = logdet + 2.0 * xp.sum(xp.log(xp.diagonal(U)))
        A.append(own)
        Li.append(half)
    return Reduced(tuple(factors), inverse, H, tuple(A), tuple(Li), logdet)


def _inner(F: Array, G: Array) -> Array:
    """``I + F' G F`` at every level."""
    xp = namespace(F, G)
    return xp.eye(F.shape[0], dtype=F.dtype)[:, :, None] + between(F.T, G, F)


def between(left: Array, B: Array, right: Array) -> Array:
    """``left B right`` at every level with the same two matrices."""
    xp = namespace(left, B, right)
    if B.shape[:2] == (1, 1):
        return left[0, 0] * right[0, 0] * B
    return xp.einsum("ab,bcl,cd->adl", left, B, right)


def _inverse(B: Array) -> tuple[Array, Array]:
    xp = namespace(B)
    identity = xp.broadcast_to(xp.eye(B.shape[0], dtype=B.dtype)[:, :, None], B.shape)
    U, half = eliminate(B, identity)
    return group_product(half, half), 2.0 * xp.sum(xp.log(xp.diagonal(U)))


class Applied(NamedTuple):
    """What the reduced system makes of columns u, with ``a = L^-T u``, ``h = (-B^-1 C' a, a)``."""

    out: Array  # (N, C)  (I + X) u
    h: Parts  # (k, L, C)  of the eliminated term, then of the rest
    p: Parts  # (k, L, C)  G Lambda h


def apply(u: Array, at: Reduced, layout: MatrixFreeArrays) -> Array:
    """``(I + X) u``, (N, C)."""
    return applied(u, at, layout).out


def applied(u: Array, at: Reduced, layout: MatrixFreeArrays) -> Applied:
    """``(I + X) u`` with what derivatives need of it."""
    e, rest = layout.first, layout.rest
    a = [at_levels(swapped(Li), x) for Li, x in zip(at.Li, split(u, layout), strict=True)]
    v = [by_factor(at.factors[t], x) for t, x in zip(rest, a, strict=True)]
    up, w = coupled(v, layout)
    z = at_levels(at.H, up)
    w = [x - y for x, y in zip(w, lowered(z, layout), strict=True)]
    out = [
        at_levels(Li, x + by_factor(at.factors[t].T, y))
        for t, Li, x, y in zip(rest, at.Li, a, w, strict=True)
    ]
    top = -at_levels(at.inverse, by_factor(at.factors[e].T, up))
    return Applied(join(out), [top, *a], [up - at_levels(layout.blocks[e], z), *w])


def size_of_rest(layout: MatrixFreeArrays) -> int:
    """Columns of the reduced system."""
    return int(sum(np.prod(layout.blocks[t].shape[1:]) for t in layout.rest))
