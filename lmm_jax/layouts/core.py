"""Algebra of the dense core: random effects of all levels of the crossed terms together.

Arrays are (N, N, B): N columns of one block, B independent blocks. Every term
owns a run of ``k * width`` columns, level by level, the same in every block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.linalg import solve_triangular

from ..linalg import spd_inverse, total_product
from .waist import Waist


# Pivots of Lambda above which dividing by them costs no digits that matter.
_REGULAR = 1e-3


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Core:
    """Cross-products of the crossed terms that the eliminated ones do not reach."""

    S: Array  # (N, N, B)      Z_2' Z_2 less d' d
    s: Array  # (N, p + 1, B)  Z_2' [X y] less d' c
    widths: tuple[int, ...] = field(metadata={"static": True})  # levels of each term in a block


class CoreTerms(NamedTuple):
    """The core at one covariance, the eliminated terms integrated out."""

    A: Array  # (N, N, B)      Z_2' V_1^-1 Z_2
    Ki: Array  # (N, N, B)      (I + Lambda' A Lambda)^-1
    H: Array  # (N, N, B)      Lambda Ki Lambda'
    Hb: Array  # (N, p + 1, B)  H Z_2' V_1^-1 [X y]
    u: Array  # (N, p + 1, B)  Z_2' V^-1 [X y]
    logdet: Array  # ()


def multiply(A: Array, B: Array) -> Array:
    """``A B`` block by block: (N, M, B), (M, C, B) -> (N, C, B)."""
    if A.shape[0] * A.shape[1] <= 256:
        return jnp.sum(A[:, :, None] * B[None], axis=1)
    product = jnp.moveaxis(A, -1, 0) @ jnp.moveaxis(B, -1, 0)
    return jnp.moveaxis(product, 0, -1)


def transposed(A: Array) -> Array:
    """``A'`` block by block."""
    return jnp.swapaxes(A, 0, 1)


def scale_rows(factors: Sequence[Array], widths: Sequence[int], A: Array) -> Array:
    """``F A`` for the block-diagonal F that repeats each term's (k, k) factor, (N, C, B)."""
    if all(factor.shape[0] == 1 for factor in factors):
        return _diagonal(factors, widths)[:, None, None] * A
    parts = []
    start = 0
    for factor, w in zip(factors, widths, strict=True):
        k = factor.shape[0]
        rows = A[start : start + k * w]
        if k == 1:
            parts.append(factor[0, 0] * rows)
        else:
            levels = rows.reshape(w, k, *A.shape[1:])
            parts.append(jnp.einsum("ab,wbcg->wacg", factor, levels).reshape(rows.shape))
        start += k * w
    return jnp.concatenate(parts)


def scale_columns(factors: Sequence[Array], widths: Sequence[int], A: Array) -> Array:
    """``A F'`` for the same F, (C, N, B)."""
    if all(factor.shape[0] == 1 for factor in factors):
        return A * _diagonal(factors, widths)[None, :, None]
    return transposed(scale_rows(factors, widths, transposed(A)))


def _diagonal(factors: Sequence[Array], widths: Sequence[int]) -> Array:
    """Diagonal of F where every term has one coefficient, (N,)."""
    return jnp.concatenate([jnp.repeat(f[0], w) for f, w in zip(factors, widths, strict=True)])


def solve_core(A: Array, b: Array, factors: Sequence[Array], widths: Sequence[int]) -> CoreTerms:
    """Integrate the core out.

        log|I + Lambda' A Lambda|      H = Lambda (I + Lambda' A Lambda)^-1 Lambda'

    Parameters
    ----------
    A : Array, shape (N, N, B)
        ``Z_2' V_1^-1 Z_2``.
    b : Array, shape (N, p + 1, B)
        ``Z_2' V_1^-1 [X y]``.
    factors : sequence of Array, shape (k, k)
        Relative factor of every term; may be singular.
    widths : sequence of int
    """
    lower = [L.T for L in factors]
    K = scale_columns(lower, widths, scale_rows(lower, widths, A))
    K = K + jnp.eye(K.shape[0], dtype=K.dtype)[:, :, None]
    Ki, logdet = spd_inverse(K)
    H = scale_columns(factors, widths, scale_rows(factors, widths, Ki))
    Hb = multiply(H, b)
    return CoreTerms(A=A, Ki=Ki, H=H, Hb=Hb, u=b - multiply(A, Hb), logdet=logdet)


class Shrunk(NamedTuple):
    """Products of N x N matrices that second derivatives need."""

    P: Array  # (N, N, B)  A - A H A
    J: Array  # (N, N, B)  I - H A
    R: tuple[Array, ...]  # (N, N, B)  Ki Lambda' F Lambda of every F: trace products of H F
    left: tuple[Array, ...]  # (N, N, B)  J' F


def shrink(
    core: CoreTerms, factors: Sequence[Array], widths: Sequence[int], F: Sequence[Array]
) -> Shrunk:
    """``P = A - A H A``, ``J = I - H A``, and ``J' F`` for symmetric matrices F.

    Where Lambda is safely regular, ``P = Lambda^-T (I - Ki) Lambda^-1`` and
    ``J = Lambda Ki Lambda^-1`` save all products but one for each F.
    """
    lower = [L.T for L in factors]
    A, Ki = core.A, core.Ki
    identity = jnp.eye(A.shape[0], dtype=A.dtype)[:, :, None]
    half = [multiply(Ki, scale_rows(lower, widths, f)) for f in F]  # Ki Lambda' F
    R = tuple(scale_columns(lower, widths, h) for h in half)
    pivots = jnp.concatenate([jnp.abs(jnp.diagonal(L)) for L in factors])

    def regular() -> tuple[Array, Array, tuple[Array, ...]]:
        inverse = [solve_triangular(L, jnp.eye(len(L), dtype=L.dtype), lower=True) for L in factors]
        back = [Li.T for Li in inverse]
        P = scale_rows(back, widths, scale_columns(back, widths, identity - Ki))
        J = scale_rows(factors, widths, scale_columns(back, widths, Ki))
        return P, J, tuple(scale_rows(back, widths, h) for h in half)

    def singular() -> tuple[Array, Array, tuple[Array, ...]]:
        LA = scale_rows(lower, widths, A)
        Q = multiply(Ki, LA)  # Lambda' P
        AL = transposed(LA)
        J = identity - scale_rows(factors, widths, Q)
        return A - multiply(AL, Q), J, tuple(f - multiply(AL, h) for f, h in zip(F, half, strict=True))

    P, J, left = lax.cond(jnp.min(pivots) > _REGULAR, regular, singular)
    return Shrunk(P, J, R, left)


@jax.custom_jvp
def integrate_core(A: Array, b: Array, Psi: Array) -> Waist:
    """``log|I + A Psi|`` and ``b' H b``, ``H = Psi (I + A Psi)^-1``; Psi may be singular."""
    identity = jnp.eye(A.shape[0], dtype=A.dtype)[:, :, None]
    logdet = jnp.linalg.slogdet(jnp.moveaxis(identity + multiply(A, Psi), -1, 0))[1]
    return Waist(jnp.sum(logdet), total_product(b, multiply(shrinkage(A, Psi), b)))


@integrate_core.defjvp
def _integrate_core_jvp(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Waist, Waist]:
    # d log|I + A Psi| = tr(H dA) + tr((A - A H A) dPsi); b' dH b from the rule of H
    (A, b, Psi), (dA, db, dPsi) = primals, tangents
    H = shrinkage(A, Psi)
    w = multiply(H, b)
    rest = b - multiply(A, w)
    cross = total_product(db, w)
    dgram = cross + cross.T - total_product(w, multiply(dA, w))
    dgram = dgram + total_product(rest, multiply(dPsi, rest))
    dlogdet = jnp.sum(H * dA) + jnp.sum((A - multiply(A, multiply(H, A))) * dPsi)
    return integrate_core(A, b, Psi), Waist(dlogdet, dgram)


@jax.custom_jvp
def shrinkage(A: Array, Psi: Array) -> Array:
    """``H = (I + Psi A)^-1 Psi``, the conditional covariance of the core's effects."""
    identity = jnp.eye(A.shape[0], dtype=A.dtype)[:, :, None]
    left = jnp.moveaxis(identity + multiply(Psi, A), -1, 0)
    return jnp.moveaxis(jnp.linalg.solve(left, jnp.moveaxis(Psi, -1, 0)), 0, -1)


@shrinkage.defjvp
def _shrinkage_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    # dH = J dPsi J' - H dA H with J = I - H A
    (A, Psi), (dA, dPsi) = primals, tangents
    H = shrinkage(A, Psi)
    J = jnp.eye(A.shape[0], dtype=A.dtype)[:, :, None] - multiply(H, A)
    dH = multiply(multiply(J, dPsi), transposed(J)) - multiply(multiply(H, dA), H)
    return H, dH


def level_blocks(A: Array, sizes: Sequence[int], widths: Sequence[int]) -> tuple[Array, ...]:
    """Diagonal blocks of the levels, summed over levels and blocks, (k, k) a term."""
    out = []
    start = 0
    for k, w in zip(sizes, widths, strict=True):
        rows = A[start : start + k * w, start : start + k * w].reshape(w, k, w, k, -1)
        level = np.arange(w)
        out.append(jnp.sum(rows[level, :, level], axis=(0, 3)))
        start += k * w
    return tuple(out)


def product_blocks(
    A: Array, Bt: Array, sizes: Sequence[int], widths: Sequence[int]
) -> tuple[Array, ...]:
    """:func:`level_blocks` of ``A B`` from A and B', in N^2 k operations instead of N^3."""
    out = []
    start = 0
    for k, w in zip(sizes, widths, strict=True):
        rows = A[start : start + k * w].reshape(w, k, *A.shape[1:])
        columns = Bt[start : start + k * w].reshape(w, k, *A.shape[1:])
        blocks = [[jnp.sum(rows[:, a] * columns[:, b]) for b in range(k)] for a in range(k)]
        out.append(jnp.stack([jnp.stack(row) for row in blocks]))
        start += k * w
    return tuple(out)


def block_moments(
    P: Array, sizes: Sequence[int], widths: Sequence[int]
) -> list[tuple[int, int, Array]]:
    """``sum_ij P_ij[a, c] P_ij[b, d]`` over the levels i, j of two terms, (k, k', k, k').

    For every unordered pair of terms, with their numbers: all that traces of
    ``P D P D'`` with matrices D that repeat a block for each level depend on.
    """
    out = []
    ends = np.cumsum([k * w for k, w in zip(sizes, widths, strict=True)])
    for t, (k, w) in enumerate(zip(sizes, widths, strict=True)):
        for s in range(t, len(sizes)):
            j, v = sizes[s], widths[s]
            part = P[ends[t] - k * w : ends[t], ends[s] - j * v : ends[s]]
            flat = jnp.moveaxis(part.reshape(w, k, v, j, -1), (1, 3), (0, 1)).reshape(k * j, -1)
            out.append((t, s, (flat @ flat.T).reshape(k, j, k, j)))
    return out


def levels_of(A: Array, sizes: Sequence[int], widths: Sequence[int]) -> tuple[Array, ...]:
    """Rows of every term with the levels of all blocks last: (N, C, B) -> (k, C, w B) a term."""
    out = []
    start = 0
    for k, w in zip(sizes, widths, strict=True):
        rows = A[start : start + k * w].reshape(w, k, A.shape[1], -1)
        out.append(jnp.moveaxis(rows, 0, 2).reshape(k, A.shape[1], -1))
        start += k * w
    return tuple(out)
