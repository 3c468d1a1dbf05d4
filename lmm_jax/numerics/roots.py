"""Elimination of ``I + F F'`` from F: what a product of large entries would lose is kept."""

from __future__ import annotations

from typing import Any, NamedTuple

from jax import Array

from .linalg import UNROLL_LIMIT, eliminate, group_product
from .namespace import namespace


class RootElimination(NamedTuple):
    """What eliminating ``M = I + F F'`` leaves, F known."""

    U: Array  # (r, r, G)  U'U = M
    X: Array  # (r, k, G)  U^-T B
    F: Array  # (r, s, G)  U^-T F
    loss: Array  # (G,)  by how much cancellation multiplies rounding


def eliminate_root(F: Array, B: Array) -> RootElimination:
    """Elimination of ``I + F F'`` from the rows of F: half of the digits that M would lose.

    Gram's and Schmidt's process, modified, on the columns of ``[I; F']``: its triangular
    factor is as good as that of a QR factorization. A pivot keeps a relative error of
    ``eps sqrt(M_jj) / U_jj``, where that of a Cholesky factor has the square.

    Parameters
    ----------
    F : Array, shape (r, s, G)
    B : Array, shape (r, k, G)

    Notes
    -----
    More than three rows go by way of M, whose loops are several times as fast.
    """
    xp = namespace(F, B)
    r = F.shape[0]
    if r > UNROLL_LIMIT:
        M = xp.eye(r, dtype=F.dtype)[:, :, None] + _outer_product(F)
        U, X = eliminate(M, xp.concatenate([B, F], axis=1))
        loss = xp.max(xp.diagonal(M) / xp.diagonal(U) ** 2, axis=-1)
        return RootElimination(U, X[:, : B.shape[1]], X[:, B.shape[1] :], loss)
    zero, one = xp.zeros_like(F[0, 0]), xp.ones_like(F[0, 0])
    top = [[one if i == j else zero for i in range(r)] for j in range(r)]  # zero below i = j
    low = [list(F[j]) for j in range(r)]
    rows = [[zero] * r for _ in range(r)]  # of U
    solved: list[Array] = []
    loss = one
    for j in range(r):
        square = _dot(low[j], low[j]) + _dot(top[j][: j + 1], top[j][: j + 1])
        scale = xp.rsqrt(square)
        rows[j][j] = square * scale
        top[j] = [entry * scale for entry in top[j]]
        low[j] = [entry * scale for entry in low[j]]
        for k in range(j + 1, r):
            rows[j][k] = _dot(low[j], low[k]) + _dot(top[j][:j], top[k][:j])
            top[k] = [a - rows[j][k] * b for a, b in zip(top[k], top[j], strict=True)]
            low[k] = [a - rows[j][k] * b for a, b in zip(low[k], low[j], strict=True)]
        rest = B[j]
        for i in range(j):
            rest = rest - rows[i][j][None] * solved[i]
        solved.append(rest * scale[None])
        if j:
            whole = square + sum((rows[i][j] * rows[i][j] for i in range(j)), zero)
            loss = xp.maximum(loss, whole / square)
    return RootElimination(
        U=xp.stack([xp.stack(row) for row in rows]),
        X=xp.stack(solved),
        F=xp.stack([xp.stack(row) for row in low]),
        loss=xp.sqrt(loss),
    )


def root_rounding(at: RootElimination, c: Array, copies: Array) -> Array:
    """Rounding of ``sum log|M|`` and of the sums of squares of ``w = U^-T c``, last in ``at.X``.

    A wrong pivot changes M by a factor close to one, the same for all columns; an entry of
    w has besides the rounding of what its substitution subtracts from c.
    """
    xp = namespace(at.X, c, copies)
    w = at.X[:, -c.shape[1] :]
    pivots = xp.stack([at.U[j, j] for j in range(at.U.shape[0])])
    squares = w * w
    terms = 4.0 * xp.abs(w * c) / pivots[:, None] + 2.0 * squares
    y = 2.0 * xp.sum(at.loss * xp.sum(squares[:, -1], axis=0))
    lost = xp.sum(terms, axis=(0, 2))
    logs = at.U.shape[0] * xp.sum(at.loss * copies)
    return xp.concatenate([logs[None], xp.at(lost)[-1].add(y)])


def _dot(a: list[Array], b: list[Array]) -> Any:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _outer_product(F: Array) -> Array:
    """``F_i F_i'`` of every group, (r, r, G)."""
    xp = namespace(F)
    return group_product(xp.swapaxes(F, 0, 1), xp.swapaxes(F, 0, 1))
