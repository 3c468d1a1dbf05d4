"""Krylov methods for one symmetric positive definite operator and many columns at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from .namespace import NUMPY, namespace

Operator = Callable[[Array], Array]

# Length of a new vector, relative to the last, from which it is nothing but rounding.
_BREAKDOWN = 1e-13
# Relative distance of two eigenvalues below which their divided difference is a derivative.
_CLOSE = 1e-5


class Solved(NamedTuple):
    """Columns solved by conjugate gradients."""

    x: Array  # (N, C)
    residual: Array  # (C,)  |b - A x| / |b|
    steps: Array  # ()


def conjugate_gradients(apply: Operator, b: Array, *, tol: float, maxiter: int) -> Solved:
    """Solve ``A x = b`` for every column.

    Parameters
    ----------
    apply : callable
        ``A x`` for x of shape (N, C), A symmetric and positive definite.
    b : Array, shape (N, C)
    tol : float
        Residual, relative to b, at which a column has converged.
    maxiter : int

    References
    ----------
    Hestenes & Stiefel (1952), doi:10.6028/jres.049.044.
    """
    xp = namespace(b)
    size = xp.sum(b * b, axis=0)
    least = tol**2 * size

    def go_on(s: Any) -> Any:
        return (s[4] < maxiter) & xp.any(s[3] > least)

    def step(s: Any) -> Any:
        x, r, d, rho, n = s
        Ad = apply(d)
        live = rho > least  # columns that have converged stay as they are
        bend = xp.sum(d * Ad, axis=0)
        alpha = xp.where(live, rho / xp.where(live, bend, 1.0), 0.0)
        x, r = x + alpha[None] * d, r - alpha[None] * Ad
        new = xp.where(live, xp.sum(r * r, axis=0), rho)
        d = r + xp.where(live, new / xp.where(live, rho, 1.0), 0.0)[None] * d
        return x, r, d, new, n + 1

    start = xp.zeros_like(b), b, b, size, xp.zeros((), np.int32)
    x, _, _, rho, steps = xp.while_loop(go_on, step, start)
    positive = size > 0
    residual = xp.sqrt(xp.where(positive, rho / xp.where(positive, size, 1.0), 0.0))
    return Solved(x, residual, steps)


class Lanczos(NamedTuple):
    """Orthonormal bases of the Krylov spaces of many columns, and the operator in them."""

    basis: Array  # (K, N, C)
    T: Array  # (C, K, K)  tridiagonal; the identity where a space ended early
    residual: Array  # (C,)  relative one of conjugate gradients after as many steps
    steps: Array  # ()


def lanczos(apply: Operator, start: Array, *, tol: float, maxiter: int) -> Lanczos:
    """Lanczos with full reorthogonalization, from columns of unit length.

    It ends where conjugate gradients from the same columns would have a residual below
    ``tol``: quadratic forms of functions of A are then known to about its square.

    Parameters
    ----------
    apply : callable
        ``A x`` for x of shape (N, C), A symmetric and positive definite.
    start : Array, shape (N, C)
    tol : float
    maxiter : int
        So many vectors are kept at most for each column.

    References
    ----------
    Golub & Meurant (2010), Matrices, Moments and Quadrature, ISBN 9780691143414.
    """
    xp = namespace(start)
    N, C = start.shape
    K = min(maxiter, N)
    V = xp.zeros((K + 1, N, C), start.dtype)
    V = xp.dynamic_update_slice_in_dim(V, start[None], 0, 0)
    one = xp.ones(C, start.dtype)
    alpha, beta = xp.ones((K, C), start.dtype), xp.zeros((K, C), start.dtype)

    def go_on(s: Any) -> Any:
        return (s[0] < K) & xp.any(s[-1] > tol)

    def step(s: Any) -> Any:
        j, V, alpha, beta, last, pivot, residual = s
        v = xp.dynamic_index_in_dim(V, j, 0, keepdims=False)
        w = apply(v)
        there = last > 0
        a = xp.where(there, xp.sum(v * w, axis=0), 1.0)
        kept = V[: j + 1] if xp is NUMPY else V  # those to come are zero
        w = w - xp.einsum("knc,kc->nc", kept, xp.einsum("knc,nc->kc", kept, w))
        b = xp.sqrt(xp.sum(w * w, axis=0))
        b = xp.where(there & (b > _BREAKDOWN), b, 0.0)
        # |r_j| / |r_0| = prod_i beta_i / d_i with the pivots d_i of T = L D L'
        pivot = a - xp.where(j > 0, last, 0.0) ** 2 / pivot
        residual = residual * b / pivot
        following = w * xp.where(b > 0, 1.0 / xp.where(b > 0, b, 1.0), 0.0)[None]
        V = xp.dynamic_update_slice_in_dim(V, following[None], j + 1, 0)
        alpha = xp.dynamic_update_slice_in_dim(alpha, a[None], j, 0)
        beta = xp.dynamic_update_slice_in_dim(beta, b[None], j, 0)
        return j + 1, V, alpha, beta, b, pivot, residual

    state = (xp.zeros((), np.int32), V, alpha, beta, one, one, one)
    j, V, alpha, beta, _, _, residual = xp.while_loop(go_on, step, state)
    K = int(j) if xp is NUMPY else K
    T = xp.eye(K, dtype=start.dtype)[None] * alpha[:K].T[:, None]
    links = xp.where((xp.arange(1, K + 1, dtype=np.int32) < j)[None], beta[:K].T, 0.0)
    off = xp.eye(K, k=1, dtype=start.dtype)[None] * links[:, :, None]
    return Lanczos(V[:K], T + off + xp.swapaxes(off, 1, 2), residual, j)


class LogKernel(NamedTuple):
    """Logarithm of an operator in the Krylov spaces of some columns, and its derivative there."""

    value: Array  # (C,)       e_1' f(T) e_1
    weights: Array  # (C, K)     in falling order of size
    vectors: Array  # (C, K, K)  columns; sum_r weight_r vector_r vector_r' is the derivative


def log_kernel(T: Array, linear: Array, square: Array) -> LogKernel:
    """``f(x) = log x - linear (x - 1) - square (x - 1)^2`` of tridiagonal matrices.

    With ``T = W diag(x) W'`` and ``w = W' e_1`` the derivative of ``e_1' f(T) e_1`` along D is
    ``<R, D>`` with ``R = W (F * w w') W'``, F the divided differences of f.

    Parameters
    ----------
    T : Array, shape (C, K, K)
    linear, square : Array, shape ()
    """
    xp = namespace(T)
    x, W = xp.linalg.eigh(T)
    w = W[:, 0]
    excess = x - 1.0
    value = xp.sum(w**2 * (xp.log(x) - linear * excess - square * excess**2), axis=1)
    total = x[:, :, None] + x[:, None, :]
    ratio = (x[:, :, None] - x[:, None, :]) / total
    near = xp.abs(ratio) < _CLOSE
    safe = xp.where(near, 0.5, ratio)
    # (log a - log b) / (a - b) = 2 atanh(r) / (r (a + b))
    slope = xp.where(near, 1.0 + ratio**2 / 3.0, xp.log1p(2.0 * safe / (1.0 - safe)) / (2.0 * safe))
    F = 2.0 * slope / total - linear - square * (total - 2.0)
    R = (W * w[:, None]) @ F @ xp.swapaxes(W * w[:, None], 1, 2)
    e, Q = xp.linalg.eigh(R)
    order = xp.argsort(-xp.abs(e), axis=1)
    Q = xp.take_along_axis(Q, order[:, None], axis=2)
    return LogKernel(value, xp.take_along_axis(e, order, axis=1), Q)
