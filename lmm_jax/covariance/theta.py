"""Theta: the parameters of the relative covariances of all terms, stacked.

Each term has those of its structure (:mod:`lmm_jax.covariance.structures`): for an
unstructured one lme4's, the column-major lower triangle of ``Lambda`` with
``Psi = Lambda Lambda'`` (``k x k``, in units of the residual variance). A variance
component is a term with ``k = 1``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jax import Array

from ..numerics.namespace import namespace
from .structures import Structure, lower_indices


def theta_size(structures: Sequence[Structure]) -> int:
    """Length of theta."""
    return sum(structure.n_params for structure in structures)


def theta_slices(structures: Sequence[Structure]) -> tuple[slice, ...]:
    """Where the parameters of each term stand in theta."""
    out, start = [], 0
    for structure in structures:
        stop = start + structure.n_params
        out.append(slice(start, stop))
        start = stop
    return tuple(out)


def factor_blocks(theta: Any, structures: Sequence[Structure]) -> tuple[Any, ...]:
    """``Lambda`` of every term, (..., k, k) each, from theta, (..., m), of JAX or NumPy."""
    places = theta_slices(structures)
    return tuple(s.factor(theta[..., at]) for s, at in zip(structures, places, strict=True))


def stack_theta(blocks: Sequence[Array]) -> Array:
    """Inverse of :func:`factor_blocks` for unstructured terms."""
    xp = namespace(blocks)
    parts = [block[lower_indices(block.shape[0])] for block in blocks]
    return xp.concatenate(parts) if parts else xp.zeros(0)


def basis(structures: Sequence[Structure], widths: Sequence[int]) -> np.ndarray:
    """Constant matrices ``E`` with ``Lambda = sum_j theta_j E_j`` for one group.

    Parameters
    ----------
    structures : sequence of Structure
        One a term.
    widths : sequence of int
        Levels of each term inside the group; the term's block is repeated so often.

    Returns
    -------
    ndarray, shape (m, q, q)
        ``q`` coefficients of all levels together.
    """
    return _basis(tuple(structures), tuple(widths))


@lru_cache(maxsize=256)  # asked for at every step
def _basis(structures: tuple[Structure, ...], widths: tuple[int, ...]) -> np.ndarray:
    E = spread_basis([s.tangents for s in structures], widths)
    E.flags.writeable = False
    return E


def spread_basis(bases: Sequence[np.ndarray], widths: Sequence[int]) -> np.ndarray:
    """Matrices (m_t, k, k) of every term as those of one group, (m, q, q)."""
    q = sum(E.shape[1] * w for E, w in zip(bases, widths, strict=True))
    out = np.zeros((sum(map(len, bases)), q, q))
    first = offset = 0
    for E, w in zip(bases, widths, strict=True):
        m, k = E.shape[:2]
        for start in offset + k * np.arange(w):
            out[first : first + m, start : start + k, start : start + k] = E
        first, offset = first + m, offset + k * w
    return out


def spread(blocks: Sequence[Array], widths: Sequence[int]) -> Array:
    """Block-diagonal matrix of one group: each term's block repeated for its levels, (q, q)."""
    xp = namespace(blocks)
    q = sum(b.shape[0] * w for b, w in zip(blocks, widths, strict=True))
    out = xp.zeros((q, q), blocks[0].dtype if blocks else None)
    offset = 0
    for block, w in zip(blocks, widths, strict=True):
        k = block.shape[0]
        starts = offset + k * np.arange(w)
        rows = starts[:, None, None] + np.arange(k)[:, None]
        columns = starts[:, None, None] + np.arange(k)[None]
        out = xp.at(out)[rows, columns].set(xp.broadcast_to(block, (w, k, k)))
        offset += k * w
    return out


def gather(full: Array, sizes: Sequence[int], widths: Sequence[int]) -> tuple[Array, ...]:
    """Adjoint of :func:`spread`: sum the diagonal blocks that belong to each term."""
    xp = namespace(full)
    blocks: list[Any] = []
    offset = 0
    for k, w in zip(sizes, widths, strict=True):
        starts = offset + k * np.arange(w)
        rows = starts[:, None, None] + np.arange(k)[:, None]
        columns = starts[:, None, None] + np.arange(k)[None]
        blocks.append(xp.sum(full[rows, columns], axis=0))
        offset += k * w
    return tuple(blocks)
