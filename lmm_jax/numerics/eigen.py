"""Eigenvalues and eigenvectors of small symmetric matrices, one or very many side by side."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .namespace import JAX, namespace

# Rows up to which rotations are faster than LAPACK for many matrices, and the sweeps that bring
# them down to rounding (convergence is quadratic).
_JACOBI_LIMIT, _SWEEPS = 6, 7
# Matrices of NumPy that are many.
_MANY = 256
# Rows of V' L that are rounding, relative to the largest.
_ROUNDING = 1e-13


def eigen(A: Array) -> tuple[Array, Array]:
    """Eigenvalues and -vectors of a small symmetric matrix, ascending, (m,) and (m, m).

    Under ``vmap`` Jacobi's rotations run through all matrices at once, elementwise.
    Not differentiable.
    """
    xp = namespace(A)
    e, V = _traced_eigen(A) if xp is JAX else xp.linalg.eigh(A)
    return e, V


def singular(L: Array) -> tuple[Array, Array, Array]:
    """Singular values s, ascending, and vectors, rows of v and w: ``L = sum_i s_i v_i w_i'``.

    The vectors are orthonormal also where L is singular. Not differentiable.

    Returns
    -------
    v : Array, shape (k, k)
    s : Array, shape (k,)
    w : Array, shape (k, k)
    """
    xp = namespace(L)
    if xp is not JAX:
        V, s, w = xp.linalg.svd(L)
        return V.T[::-1], s[::-1], w[::-1]
    V = eigen(xp.sum(L[:, None] * L[None], axis=-1))[1]
    return V.T, *_lengths(xp.sum(V[:, :, None] * L[:, None], axis=0))


def _lengths(rows: Array) -> tuple[Array, Array]:
    """Lengths of nearly orthogonal rows, the longest last, and orthonormal directions of them.

    A row that is rounding beside the others takes a direction that is left.
    """
    xp = namespace(rows)
    k = rows.shape[0]
    least = _ROUNDING * xp.sqrt(xp.sum(rows[-1] ** 2))
    sizes: list[Array] = []
    units: list[Array] = []
    for i in range(k - 1, -1, -1):
        row, left = rows[i], xp.eye(k, dtype=rows.dtype)
        for unit in units:
            row = row - xp.sum(row * unit) * unit
            left = left - xp.sum(left * unit[None], axis=1)[:, None] * unit[None]
        norm = xp.sqrt(xp.sum(row * row))
        some = norm > least
        far = xp.sum(left * left, axis=1)
        other = xp.sum(xp.where(xp.arange(k)[:, None] == xp.argmax(far), left, 0.0), axis=0)
        other = other / xp.sqrt(xp.sum(other * other))
        unit = xp.where(some, row / xp.where(some, norm, 1.0), other)
        sizes.append(xp.sum(row * unit))
        units.append(unit)
    return xp.stack(sizes[::-1]), xp.stack(units[::-1])


@jax.custom_batching.custom_vmap
def _traced_eigen(A: Array) -> tuple[Array, Array]:
    e, V = jnp.linalg.eigh(A)
    return e, V


@_traced_eigen.def_vmap
def _eigen_of_many(axis_size: int, in_batched: list[bool], A: Array) -> Any:
    m = A.shape[-1]
    if m > _JACOBI_LIMIT:
        return tuple(jnp.linalg.eigh(A)), (True, True)
    e, V = jacobi_eigen(jnp.moveaxis(A, 0, -1))
    return (jnp.moveaxis(e, -1, 0), jnp.moveaxis(V, -1, 0)), (True, True)


def eigen_of_many(A: Any) -> tuple[Any, Any]:
    """The same of symmetric matrices (..., m, m).

    Calls of LAPACK wait for each other where many threads make them, and take longer than
    rotations of small matrices.
    """
    e: Any
    V: Any
    m, count = A.shape[-1], math.prod(A.shape[:-2])
    if namespace(A) is JAX:
        if count == 1:
            e, V = eigen(A.reshape(m, m))
        else:
            e, V = jax.vmap(eigen)(A.reshape(-1, m, m))
        return e.reshape(A.shape[:-1]), V.reshape(A.shape)
    if not 0 < m <= _JACOBI_LIMIT or count < _MANY:
        e, V = np.linalg.eigh(A)
        return e, V
    last: Any = np.ascontiguousarray(np.moveaxis(A.reshape(-1, m, m), 0, -1))
    with np.errstate(over="ignore"):  # of an entry that is next to nothing: no rotation
        e, V = (np.moveaxis(np.asarray(part), -1, 0) for part in jacobi_eigen(last))
    return e.reshape(A.shape[:-1]), V.reshape(A.shape)


def jacobi_eigen(A: Array) -> tuple[Array, Array]:
    """Eigenvalues, ascending, and eigenvectors of symmetric matrices by cyclic rotations.

    Parameters
    ----------
    A : Array, shape (m, m, G)

    Returns
    -------
    e : Array, shape (m, G)
    V : Array, shape (m, m, G)
    """
    xp = namespace(A)
    m = A.shape[0]
    if m == 1:
        return A[0], xp.ones_like(A)
    start = [[A[i, j] for j in range(m)] for i in range(m)]
    one, zero = xp.ones_like(A[0, 0]), xp.zeros_like(A[0, 0])
    identity = [[one if i == j else zero for j in range(m)] for i in range(m)]

    def sweep(_: Any, carry: Any) -> Any:
        S, V = carry
        for i in range(m):
            for j in range(i + 1, m):
                S, V = _rotate(S, V, i, j)
        return S, V

    sweeps = 1 if m == 2 else _SWEEPS
    S, V = xp.fori_loop(0, sweeps, sweep, (start, identity))
    e = [S[i][i] for i in range(m)]
    columns = [xp.stack([V[i][j] for i in range(m)]) for j in range(m)]
    for end in range(m - 1, 0, -1):  # bubbles: elementwise where a sort would go lane by lane
        for j in range(end):
            swap = e[j] > e[j + 1]
            e[j], e[j + 1] = xp.minimum(e[j], e[j + 1]), xp.maximum(e[j], e[j + 1])
            a, b = columns[j], columns[j + 1]
            columns[j] = xp.where(swap[None], b, a)
            columns[j + 1] = xp.where(swap[None], a, b)
    return xp.stack(e), xp.stack(columns, axis=1)


def _rotate(
    S: list[list[Array]], V: list[list[Array]], i: int, j: int
) -> tuple[list[list[Array]], list[list[Array]]]:
    """One rotation that makes entry (i, j) vanish."""
    xp = namespace(S, V)
    m = len(S)
    off = S[i][j]
    live = off != 0
    tau = (S[j][j] - S[i][i]) / xp.where(live, 2.0 * off, 1.0)
    t = xp.where(tau >= 0, 1.0, -1.0) / (xp.abs(tau) + xp.sqrt(1.0 + tau * tau))
    t = xp.where(live, t, 0.0)
    c = xp.rsqrt(1.0 + t * t)
    s = t * c
    S, V = [list(row) for row in S], [list(row) for row in V]
    S[i][i], S[j][j] = S[i][i] - t * off, S[j][j] + t * off
    S[i][j] = S[j][i] = xp.zeros_like(off)
    for k in range(m):
        if k not in (i, j):
            a, b = S[k][i], S[k][j]
            S[k][i] = S[i][k] = c * a - s * b
            S[k][j] = S[j][k] = s * a + c * b
        a, b = V[k][i], V[k][j]
        V[k][i], V[k][j] = c * a - s * b, s * a + c * b
    return S, V
