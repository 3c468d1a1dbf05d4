"""``log|M|`` and its derivative: exact but for ``tr log(I + X)``, which fixed probes estimate.

With signs z, fair and independent, ``E z' f(X) z = tr f(X)``; a sum of squares of what f has off
the diagonal is the variance. Three things make it small. X has no diagonal. What is known of the
trace of a polynomial ``g = a x + b x^2`` is taken from g, and ``f = log(1 + x) - g`` left to the
probes. Columns Q that hold the directions in which large random effects make M nearly singular
count by themselves, the probes only beside them.

The estimate is a smooth function of the covariances, and its derivative here is the derivative of
the estimate, not another estimate: optimizers may compare values with slopes.

References
----------
Hutchinson (1989), doi:10.1080/03610918908812806; Meyer, Musco, Musco & Woodruff (2021),
doi:10.1137/1.9781611976496.16; Ubaru, Chen & Saad (2017), doi:10.1137/16M1104974;
Kuendig & Sigrist (2025), arXiv:2505.09552.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from ...numerics.krylov import Lanczos, lanczos, log_kernel
from ...numerics.namespace import namespace
from .arrays import MatrixFreeArrays
from .reduced import (
    Applied,
    Reduced,
    applied,
    apply,
    size_of_rest,
    split,
    squares_up,
)
from .squares import squares

# Residual of the Krylov spaces: the derivative is known to about this, the value to its square.
_TOL = 1e-6
# Vectors that are kept for each probe at most.
_MOST_STEPS = 150
# Parts of the derivative that are left out, relative to the largest.
_NEGLIGIBLE = 1e-8
# Columns that are worked off at a time: bounds the memory.
BATCH = 16
# Polynomials that take most from the variance where the eigenvalues of X lie in a half circle,
# as those of a random crossing do: a = 1 + 2/3 s, b = -1/2 - 3/4 s with s the mean square.
_LINEAR, _SQUARE = 2.0 / 3.0, -0.75


class LogDet(NamedTuple):
    """``log|M|`` with its derivative, ``2 <half, dLambda>`` summed over the terms."""

    value: Array  # ()
    halves: tuple[Array, ...]  # (k, k) a term: sum of the levels' blocks of P Lambda
    values: Array  # (R,)  the value by each probe alone
    each: tuple[Array, ...]  # (R, k, k) a term: the halves by each probe alone
    residual: Array  # ()  largest of the Krylov spaces


class _Polynomial(NamedTuple):
    """What is taken from the logarithm, and what the trace of that depends on."""

    linear: Array  # ()
    square: Array  # ()
    trace: Array  # ()  square tr X^2
    slope: Array  # ()  derivative in tr X^2 of all that the estimate has of it
    rows: Array  # (N,)  diagonal of X^2
    half: tuple[Array, ...]


def log_det(at: Reduced, layout: MatrixFreeArrays) -> LogDet:
    """Value and derivative at one covariance."""
    xp = namespace(layout.S0)
    start, weights, n_known = _columns(layout)
    R = layout.probes.shape[1]
    batches = [slice(i, i + BATCH) for i in range(0, weights.shape[0], BATCH)]
    spaces = [_space(start[:, b], at, layout) for b in batches]
    poly = _polynomial(at, _moments_of(spaces), weights, layout)
    values, parts = [], []
    for batch, space in zip(batches, spaces, strict=True):
        kernel = log_kernel(space.T, poly.linear, poly.square)
        values.append(kernel.value * weights[batch])
        own = _contractions(space, kernel.weights, kernel.vectors, at, layout)
        parts.append([x * weights[batch][:, None, None] for x in own])
    sums, exact = xp.concatenate(values), _exact_halves(at, poly, layout)
    each = [xp.concatenate(x) for x in zip(*parts, strict=True)]
    fixed = at.logdet + poly.trace + xp.sum(sums[:n_known])
    known = [x[:n_known].sum(axis=0) + y for x, y in zip(each, exact, strict=True)]
    each = [R * x[n_known:] for x in each]
    order = [layout.first, *layout.rest]
    return LogDet(
        value=fixed + xp.sum(sums[n_known:]),
        halves=_sorted([x + y.sum(axis=0) / R for x, y in zip(known, each, strict=True)], order),
        values=fixed + R * sums[n_known:],
        each=_sorted([x[None] + y for x, y in zip(known, each, strict=True)], order),
        residual=xp.max(xp.stack([xp.max(space.residual) for space in spaces])),
    )


def log_det_value(at: Reduced, layout: MatrixFreeArrays) -> Array:
    """The value alone."""
    xp = namespace(layout.S0)
    start, weights, _ = _columns(layout)
    batches = [slice(i, i + BATCH) for i in range(0, weights.shape[0], BATCH)]
    spaces = [_space(start[:, b], at, layout) for b in batches]
    poly = _polynomial(at, _moments_of(spaces), weights, layout)
    found = [log_kernel(space.T, poly.linear, poly.square).value for space in spaces]
    return at.logdet + poly.trace + xp.sum(xp.concatenate(found) * weights)


def _sorted(parts: Sequence[Array], order: Sequence[int]) -> tuple[Array, ...]:
    """Values of the terms in their own order."""
    return tuple(parts[order.index(t)] for t in range(len(order)))


def _space(start: Array, at: Reduced, layout: MatrixFreeArrays) -> Lanczos:
    return lanczos(lambda u: apply(u, at, layout), start, tol=_TOL, maxiter=_MOST_STEPS)


def _moments_of(spaces: Sequence[Lanczos]) -> tuple[Array, Array]:
    """``u' X u`` and ``u' X^2 u`` of every column u, (C,)."""
    xp = namespace(spaces[0].T)
    first, second = [], []
    for space in spaces:
        X = space.T - xp.eye(space.T.shape[1], dtype=space.T.dtype)[None]
        first.append(X[:, 0, 0])
        second.append(xp.sum(X[:, 0] ** 2, axis=1))
    return xp.concatenate(first), xp.concatenate(second)


def known_columns(layout: MatrixFreeArrays) -> Array:
    """Orthonormal columns whose share of a trace is not left to the probes, (N, d).

    In ``S Lambda^-1 1``, with ones at all levels of a term, what the term's coefficients share
    with the eliminated ones cancels: where Lambda is large that is all there is. In the
    coordinates of X this column is near the roots of the blocks.
    """
    xp = namespace(layout.S0)
    N, start, columns = layout.probes.shape[0], 0, []
    for t in layout.rest:
        root = xp.sqrt(xp.einsum("aal->al", layout.blocks[t]))
        for own in root:
            column = xp.pad(own, ((start, N - start - own.shape[0]),))
            columns.append(column / xp.sqrt(xp.sum(own**2)))
            start += own.shape[0]
    return xp.stack(columns, axis=1)


def probes_beside(Q: Array, layout: MatrixFreeArrays) -> tuple[Array, Array]:
    """The probes, and what they have beside known columns, (N, R) each."""
    z = layout.probes.astype(Q.dtype)
    return z, z - Q @ (Q.T @ z)


def _columns(layout: MatrixFreeArrays) -> tuple[Array, Array, int]:
    """All columns, of unit length; what each counts; how many are known."""
    Q = known_columns(layout)
    xp, (_, z) = namespace(Q), probes_beside(Q, layout)
    size = xp.sum(z * z, axis=0)
    weights = xp.concatenate([xp.ones(Q.shape[1], z.dtype), size / z.shape[1]])
    return xp.concatenate([Q, z / xp.sqrt(size)[None]], axis=1), weights, Q.shape[1]


def _polynomial(
    at: Reduced, moments: tuple[Array, Array], weights: Array, layout: MatrixFreeArrays
) -> _Polynomial:
    xp: Any = namespace(layout.S0)
    one, N = xp.ones((), layout.S0.dtype), size_of_rest(layout)
    if not layout.square:
        zero = 0.0 * one
        nothing = tuple(xp.zeros((k, k), one.dtype) for k in layout.sizes)
        return _Polynomial(one, zero, zero, zero, xp.zeros(N, one.dtype), nothing)
    found = squares(at, layout)
    mean = found.total / N
    square = -0.5 + _SQUARE * mean
    first, second = (weights @ m for m in moments)
    slope = square + (_SQUARE * (found.total - second) - _LINEAR * first) / N
    return _Polynomial(
        1.0 + _LINEAR * mean, square, square * found.total, slope, found.rows, found.half
    )


def _contractions(
    space: Lanczos, weights: Array, vectors: Array, at: Reduced, layout: MatrixFreeArrays
) -> list[Array]:
    """Halves of ``<R, dX>`` of every column's kernel R, (C, k, k); the eliminated term first."""
    xp = namespace(layout.S0)
    size = xp.max(xp.abs(weights), axis=0)
    C, K = weights.shape
    order = [layout.first, *layout.rest]
    halves = [xp.zeros((C, layout.sizes[t], layout.sizes[t]), layout.S0.dtype) for t in order]
    twists = [xp.zeros((*layout.blocks[t].shape, C), layout.S0.dtype) for t in layout.rest]

    def go_on(s: Any) -> Any:
        r = xp.minimum(s[0], K - 1)
        return (s[0] < K) & (size[r] > _NEGLIGIBLE * size[0])

    def step(s: Any) -> Any:
        r, halves, twists = s
        at_r = xp.dynamic_index_in_dim(vectors, r, 2, keepdims=False)
        weight = xp.dynamic_index_in_dim(weights, r, 1, keepdims=False)
        u = xp.einsum("knc,ck->nc", space.basis, at_r)
        found = applied(u, at, layout)
        halves = [x + y for x, y in zip(halves, _halves(found, weight), strict=True)]
        twists = [x + y for x, y in zip(twists, _twists(u, found, weight, at, layout), strict=True)]
        return r + 1, halves, twists

    _, halves, twists = xp.while_loop(go_on, step, (xp.zeros((), np.int32), halves, twists))
    through = _through_blocks(twists, at, layout)
    return [x + y for x, y in zip(halves, through, strict=True)]


def _halves(found: Applied, weight: Array) -> list[Array]:
    """``weight p h'`` summed over the levels, (C, k, k) a term."""
    xp = namespace(weight)
    return [
        xp.einsum("alc,blc->cab", p, h) * weight[:, None, None]
        for p, h in zip(found.p, found.h, strict=True)
    ]


def _twists(
    u: Array, found: Applied, weight: Array, at: Reduced, layout: MatrixFreeArrays
) -> list[Array]:
    """``-2 L^-T sym(low(u v')) L^-1`` with ``v = (I + X) u``: dL = L low(L^-1 dD L^-T)."""
    xp = namespace(u)
    out = []
    for x, y, Li in zip(split(u, layout), split(found.out, layout), at.Li, strict=True):
        k = x.shape[0]
        if k == 1:
            out.append(-weight[None, None, None] * (x[None] * y[None] * Li[..., None] ** 2))
            continue
        low = xp.asarray(np.tril(np.ones((k, k)), -1) + 0.5 * np.eye(k), u.dtype)
        outer = low[:, :, None, None] * x[:, None] * y[None]
        outer = outer + xp.swapaxes(outer, 0, 1)
        out.append(-weight[None, None, None] * xp.einsum("bal,bdlc,del->aelc", Li, outer, Li))
    return out


def _through_blocks(twists: list[Array], at: Reduced, layout: MatrixFreeArrays) -> list[Array]:
    """Halves of ``<W, dD>`` for symmetric W at the levels, (C, k, k); the eliminated term first.

    ``D = I + Lambda' A Lambda`` and ``dA = -sum_i G_ji J_i dPsi J_i' G_ij`` with
    ``J = I - H G``, ``J Lambda = Lambda B^-1``.
    """
    xp, e = namespace(layout.S0), layout.first
    inner, halves = None, []
    for t, A, W in zip(layout.rest, at.A, twists, strict=True):
        F = at.factors[t]
        halves.append(xp.einsum("abl,bd,delc->cae", A, F, W))
        up = squares_up(xp.einsum("ab,bdlc,ed->aelc", F, W, F), t, layout)
        inner = up if inner is None else inner + up
    assert inner is not None
    q = inner.shape[0]
    J = xp.eye(q, dtype=inner.dtype)[:, :, None] - xp.einsum("abl,bdl->adl", at.H, layout.blocks[e])
    right = xp.einsum("ab,bdl->adl", at.factors[e], at.inverse)
    top = -xp.einsum("bal,bdlc,del->cae", J, inner, right)
    return [top, *halves]


def _exact_halves(at: Reduced, poly: _Polynomial, layout: MatrixFreeArrays) -> list[Array]:
    """Halves of ``log|B| + log|D|`` and of the sum of squares; the eliminated term first."""
    xp, e = namespace(layout.S0), layout.first
    W = [xp.einsum("bal,bdl->adl", Li, Li)[..., None] for Li in at.Li]  # D^-1
    if layout.square:
        W[0] = W[0] * (1.0 - 2.0 * poly.slope * poly.rows)[None, None, :, None]
    parts = [x[0] for x in _through_blocks(W, at, layout)]
    parts[0] = parts[0] + xp.einsum("abl,bd,del->ae", layout.blocks[e], at.factors[e], at.inverse)
    order = [e, *layout.rest]
    return [x + 2.0 * poly.slope * poly.half[t] for x, t in zip(parts, order, strict=True)]
