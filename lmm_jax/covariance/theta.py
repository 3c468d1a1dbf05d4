"""lme4's theta: the relative covariance factor of every random-effects term.

A term with ``k`` coefficients per level has a relative covariance
``Psi = Lambda Lambda'`` (``k x k``, in units of the residual variance) with
``Lambda`` lower triangular. ``theta`` stacks the column-major lower triangles of
all terms. A variance component is a term with ``k = 1``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array


def theta_size(sizes: Sequence[int]) -> int:
    """Length of theta for terms with ``sizes`` coefficients per level."""
    return sum(k * (k + 1) // 2 for k in sizes)


@cache  # a small fit takes less time than to make these a dozen times
def lower_indices(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every entry of a lower triangle, column by column."""
    columns, rows = np.triu_indices(k)
    return _frozen(rows), _frozen(columns)


@cache
def lower_rows(k: int) -> tuple[np.ndarray, np.ndarray]:
    """The same row by row."""
    rows, columns = np.tril_indices(k)
    return _frozen(rows), _frozen(columns)


def _frozen(index: np.ndarray) -> np.ndarray:
    """Of a type that does not depend on JAX's mode; everybody gets the same arrays."""
    index = index.astype(np.int32)
    index.flags.writeable = False
    return index


def theta_slices(sizes: Sequence[int]) -> tuple[slice, ...]:
    """Where the entries of each term stand in theta."""
    out, start = [], 0
    for k in sizes:
        stop = start + k * (k + 1) // 2
        out.append(slice(start, stop))
        start = stop
    return tuple(out)


def factor_blocks(theta: Array, sizes: Sequence[int]) -> tuple[Array, ...]:
    """Lower triangular ``Lambda`` of every term, shapes ``(k, k)``."""
    blocks = []
    for k, at in zip(sizes, theta_slices(sizes), strict=True):
        if k == 1:  # elementwise, also for many thetas at once
            blocks.append(theta[at].reshape(1, 1))
        else:
            blocks.append(jnp.zeros((k, k), theta.dtype).at[lower_indices(k)].set(theta[at]))
    return tuple(blocks)


def stack_theta(blocks: Sequence[Array]) -> Array:
    """Inverse of :func:`factor_blocks`."""
    parts = [block[lower_indices(block.shape[0])] for block in blocks]
    return jnp.concatenate(parts) if parts else jnp.zeros(0)


def rectify_signs(blocks: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Flip columns so that every diagonal entry is non-negative (``Lambda Lambda'`` stays)."""
    diagonals = [np.diagonal(block, axis1=-2, axis2=-1) for block in blocks]
    signs = [np.where(diagonal < 0, -1.0, 1.0)[..., None, :] for diagonal in diagonals]
    return tuple(block * sign for block, sign in zip(blocks, signs, strict=True))


def basis(sizes: Sequence[int], widths: Sequence[int]) -> np.ndarray:
    """Constant matrices ``E`` with ``Lambda = sum_k theta_k E_k`` for one group.

    Parameters
    ----------
    sizes : sequence of int
        Coefficients per level of each term.
    widths : sequence of int
        Levels of each term inside the group; the term's block is repeated so often.

    Returns
    -------
    ndarray, shape (m, q, q)
        ``q = sum(sizes * widths)``.
    """
    q = sum(k * w for k, w in zip(sizes, widths, strict=True))
    out = np.zeros((theta_size(sizes), q, q))
    offset = 0
    for k, w, at in zip(sizes, widths, theta_slices(sizes), strict=True):
        rows, columns = lower_indices(k)
        for level in range(w):
            start = offset + level * k
            out[np.arange(at.start, at.stop), start + rows, start + columns] = 1.0
        offset += k * w
    return out


def spread(blocks: Sequence[Array], widths: Sequence[int]) -> Array:
    """Block-diagonal matrix of one group: each term's block repeated for its levels, (q, q)."""
    q = sum(b.shape[0] * w for b, w in zip(blocks, widths, strict=True))
    out = jnp.zeros((q, q), blocks[0].dtype if blocks else None)
    offset = 0
    for block, w in zip(blocks, widths, strict=True):
        k = block.shape[0]
        starts = offset + k * np.arange(w)
        rows = starts[:, None, None] + np.arange(k)[:, None]
        columns = starts[:, None, None] + np.arange(k)[None]
        out = out.at[rows, columns].set(jnp.broadcast_to(block, (w, k, k)))
        offset += k * w
    return out


def gather(full: Array, sizes: Sequence[int], widths: Sequence[int]) -> tuple[Array, ...]:
    """Adjoint of :func:`spread`: sum the diagonal blocks that belong to each term."""
    blocks: list[Any] = []
    offset = 0
    for k, w in zip(sizes, widths, strict=True):
        starts = offset + k * np.arange(w)
        rows = starts[:, None, None] + np.arange(k)[:, None]
        columns = starts[:, None, None] + np.arange(k)[None]
        blocks.append(jnp.sum(full[rows, columns], axis=0))
        offset += k * w
    return tuple(blocks)
