"""Functions of the matrices of many groups that every layout of groups needs.

T is (q, q, G), triangular factors side by side; whatever follows the first two axes is carried
along. A group with fewer rows than random effects, or with dependent columns, has rows of
zeros in T, and a group of padding has no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from ..covariance.structures import Structure
from ..covariance.theta import basis, factor_blocks, gather, spread
from ..numerics.linalg import eliminate, group_product
from .contract import psi_tangents

# Of NumPy on the host, of JAX in a program.
AnyArray = TypeVar("AnyArray", Array, np.ndarray)


def rows_there(T: AnyArray) -> AnyArray:
    """Which rows of every group's T are there, and not zero throughout; (q, ...) of bool."""
    return (T != 0).any(axis=1)


def groups_there(T: AnyArray) -> AnyArray:
    """Which groups are no padding, (...) of bool."""
    there: Any = rows_there(T)
    return there.any(axis=0)


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
    return (rows_there(T).astype(copies.dtype) * copies[None]).sum(axis=(0, 1))


def lambda_of(
    theta: Array, structures: Sequence[Structure], widths: tuple[int, ...]
) -> tuple[Array, Array]:
    """Lambda of the groups of one bucket, (q, q), and ``dPsi / dtheta_k``, (m, q, q)."""
    Lambda = spread(factor_blocks(theta, structures), widths)
    return Lambda, psi_tangents(Lambda, jnp.asarray(basis(structures, widths), theta.dtype))


def by_term(
    slopes: Sequence[Array], widths: Sequence[tuple[int, ...]], sizes: tuple[int, ...]
) -> tuple[Array, ...]:
    """Diagonal blocks (k, k) of each bucket's (q, q), summed over levels and buckets."""
    parts = [gather(slope, sizes, own) for slope, own in zip(slopes, widths, strict=True)]
    return tuple(sum(blocks[1:], blocks[0]) for blocks in zip(*parts, strict=True))


def group_cov(Lambda: Array, T: Array) -> Array:
    """``Lambda (I + Lambda' T'T Lambda)^-1 Lambda'`` of every group, (q, q, G)."""
    q = Lambda.shape[0]
    TL = jnp.einsum("rag,ab->rbg", T, Lambda)
    inner = jnp.eye(q, dtype=Lambda.dtype)[:, :, None] + group_product(TL, TL)
    right = jnp.broadcast_to(Lambda.T[:, :, None], inner.shape)
    half = eliminate(inner, right).X
    return group_product(half, half)


def rotate_columns(
    T: Array, Q: np.ndarray, t: int, sizes: Sequence[int], widths: Sequence[int]
) -> Array:
    """T with the columns of term t multiplied by Q, level by level (on the host)."""
    start = sum(k * w for k, w in zip(sizes[:t], widths[:t], strict=True))
    k, w = sizes[t], widths[t]
    out = np.array(T)
    part = out[:, start : start + k * w].reshape(out.shape[0], w, k, -1)
    turned = np.einsum("rwag,ab->rwbg", part, Q)
    out[:, start : start + k * w] = turned.reshape(out.shape[0], w * k, -1)
    return jnp.asarray(out)
