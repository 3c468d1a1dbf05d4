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

from typing import Any, NamedTuple

import numpy as np
from jax import Array

from ...numerics.krylov import Lanczos, lanczos, log_kernel
from ...numerics.namespace import NUMPY, namespace
from .arrays import MatrixFreeArrays
from .reduced import (
    Applied,
    Reduced,
    apply,
    applied,
    at_levels,
    size_of_rest,
    split,
    squares_up,
    swapped,
    theta_order,
)
from .squares import squares

# Residual of the Krylov spaces: the derivative is known to about this, the value to its square.
_TOL = 1e-8
# Vectors that are kept for each probe at most.
_MOST_STEPS = 150
# Parts of the derivative that are left out, relative to the largest.
_NEGLIGIBLE = 1e-10
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
    start, weights = _columns(layout)
    n_known = layout.known.shape[1]
    space = lanczos(lambda u: apply(u, at, layout), start, tol=_TOL, maxiter=_MOST_STEPS)
    poly = _polynomial(at, space, weights, layout)
    kernel = log_kernel(space.T, poly.linear, poly.square)
    halves, twists = _contractions(space, kernel.weights, kernel.vectors, at, layout)
    exact = _of_blocks(at, poly, layout)  # the column after those of the Krylov spaces
    twists = [
        xp.concatenate([twist * weights, one[..., None]], axis=3)
        for twist, one in zip(twists, exact, strict=True)
    ]
    parts = [xp.concatenate([h * weights[:, None, None], xp.zeros((1, *h.shape[1:]))]) for h in halves]
    parts = [x + y for x, y in zip(parts, _through_blocks(twists, at, layout), strict=True)]
    last = _exact_halves(at, poly, layout)
    known = [x[:n_known].sum(axis=0) + x[-1] + y for x, y in zip(parts, last, strict=True)]
    R = max(layout.probes.shape[1], 1)
    each = [R * x[n_known:-1] for x in parts]
    sums = kernel.value * weights
    fixed = at.logdet + poly.trace + xp.sum(sums[:n_known])
    return LogDet(
        value=fixed + xp.sum(sums[n_known:]),
        halves=theta_order([x + y.sum(axis=0) / R for x, y in zip(known, each, strict=True)], layout),
        values=fixed + R * sums[n_known:],
        each=theta_order([x + y for x, y in zip(known, each, strict=True)], layout),
        residual=xp.max(space.residual),
    )


def _columns(layout: MatrixFreeArrays) -> tuple[Array, Array]:
    """Known columns and probes beside them, of unit length, and what each counts, (C,)."""
    xp = namespace(layout.S0)
    Q, z = layout.known, layout.probes.astype(layout.S0.dtype)
    z = z - Q @ (Q.T @ z)
    size = xp.sum(z * z, axis=0)
    there = size > 0
    z = z / xp.sqrt(xp.where(there, size, 1.0))
    weights = xp.concatenate([xp.ones(Q.shape[1], z.dtype), size / max(z.shape[1], 1)])
    return xp.concatenate([Q, z], axis=1), weights


def _polynomial(
    at: Reduced, space: Lanczos, weights: Array, layout: MatrixFreeArrays
) -> _Polynomial:
    xp = namespace(layout.S0)
    one, N = xp.ones((), layout.S0.dtype), size_of_rest(layout)
    if not layout.square:
        zero = 0.0 * one
        nothing = tuple(xp.zeros((k, k), one.dtype) for k in layout.sizes)
        return _Polynomial(one, zero, zero, zero, xp.zeros(N, one.dtype), nothing)
    found = squares(at, layout)
    mean = found.total / N
    square = -0.5 + _SQUARE * mean
    X = space.T - xp.eye(space.T.shape[1])
    first = weights @ X[:, 0, 0]
    second = weights @ xp.sum(X[:, 0] ** 2, axis=1)
    slope = square + (_SQUARE * (found.total - second) - _LINEAR * first) / N
    return _Polynomial(
        1.0 + _LINEAR * mean, square, square * found.total, slope, found.rows, found.half
    )


def _contractions(
    space: Lanczos, weights: Array, vectors: Array, at: Reduced, layout: MatrixFreeArrays
) -> tuple[list[Array], list[Array]]:
    """``<R, dX>`` of every column's kernel R.

    Returns
    -------
    halves : list of Array, shape (C, k, k)
        By way of S at fixed L; of the eliminated term, then of the rest.
    twists : list of Array, shape (k, k, L, C)
        Derivative in the blocks D, by way of L.
    """
    xp = namespace(layout.S0)
    size = xp.max(xp.abs(weights), axis=0)
    C, K = weights.shape
    order = [layout.eliminated, *layout.rest]
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
    return halves, twists


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
            out.append(-weight * (x * y * (Li[0] ** 2)[..., None])[None])
            continue
        low = xp.asarray(np.tril(np.ones((k, k)), -1) + 0.5 * np.eye(k), u.dtype)
        outer = low[:, :, None, None] * x[:, None] * y[None]
        outer = outer + xp.swapaxes(outer, 0, 1)
        out.append(-weight * xp.einsum("bal,bdlc,del->aelc", Li, outer, Li))
    return out


def _of_blocks(at: Reduced, poly: _Polynomial, layout: MatrixFreeArrays) -> list[Array]:
    """Derivative in the blocks D of what is exact, (k, k, L) a term of the rest."""
    xp = namespace(layout.S0)
    out = [xp.einsum("bal,bdl->adl", Li, Li) for Li in at.Li]
    if layout.square:
        out[0] = out[0] * (1.0 - 2.0 * poly.slope * poly.rows)
    return out


def _through_blocks(twists: list[Array], at: Reduced, layout: MatrixFreeArrays) -> list[Array]:
    """Halves of ``<W, dD>`` for symmetric W at the levels, (C, k, k); the eliminated term first.

    ``D = I + Lambda' A Lambda`` and ``dA = -sum_i G_ji J_i dPsi J_i' G_ij`` with
    ``J = I - H G``, ``J Lambda = Lambda B^-1``.
    """
    xp, e = namespace(layout.S0), layout.eliminated
    inner, halves = None, []
    for t, A, W in zip(layout.rest, at.A, twists, strict=True):
        F = at.factors[t]
        halves.append(xp.einsum("abl,bd,delc->cae", A, F, W))
        up = squares_up(xp.einsum("ab,bdlc,ed->aelc", F, W, F), t, layout)
        inner = up if inner is None else inner + up
    assert inner is not None
    q = inner.shape[0]
    J = xp.eye(q, dtype=inner.dtype)[:, :, None] - xp.einsum(
        "abl,bdl->adl", at.H, layout.blocks[e]
    )
    right = xp.einsum("ab,bdl->adl", at.factors[e], at.inverse)
    top = -xp.einsum("bal,bdlc,del->cae", J, inner, right)
    return [top, *halves]


def _exact_halves(at: Reduced, poly: _Polynomial, layout: MatrixFreeArrays) -> list[Array]:
    """Halves of ``log|B|``, and of the sum of squares at fixed D."""
    xp, e = namespace(layout.S0), layout.eliminated
    top = xp.einsum("abl,bd,del->ae", layout.blocks[e], at.factors[e], at.inverse)
    out = [top, *(xp.zeros((k, k), top.dtype) for k in (layout.sizes[t] for t in layout.rest))]
    order = [e, *layout.rest]
    return [x + 2.0 * poly.slope * poly.half[t] for x, t in zip(out, order, strict=True)]



