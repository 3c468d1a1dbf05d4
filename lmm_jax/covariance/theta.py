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
from .structures import Structure
from .triangles import lower_indices


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


def basis(theta: Any, structures: Sequence[Structure], widths: Sequence[int]) -> Any:
    """Matrices ``E_j = dLambda / dtheta_j`` of one group, (m, q, q).

    Parameters
    ----------
    theta : Array, shape (m,)
    structures : sequence of Structure
        One a term.
    widths : sequence of int
        Levels of each term inside the group; the term's block is repeated so often.
        ``q`` coefficients of all levels together.
    """
    xp = namespace(theta)
    if all(s.linear for s in structures):
        return xp.asarray(linear_basis(tuple(structures), tuple(widths)), theta.dtype)
    places = theta_slices(structures)
    own = [s.tangents_at(theta[at]) for s, at in zip(structures, places, strict=True)]
    return spread_basis(own, widths)


@lru_cache(maxsize=256)  # asked for at every step
def linear_basis(structures: tuple[Structure, ...], widths: tuple[int, ...]) -> np.ndarray:
    """The same of structures that are linear: constants."""
    E = spread_basis([s.tangents for s in structures], widths)
    E.flags.writeable = False
    return E


def group_factors(thetas: Any, structures: Sequence[Structure], widths: Sequence[int]) -> Any:
    """Lambda of one group at many thetas, (..., m) to (..., q, q)."""
    xp = namespace(thetas)
    if all(s.linear for s in structures):
        return xp.tensordot(thetas, linear_basis(tuple(structures), tuple(widths)), 1)
    cells = [np.eye(s.k * s.k).reshape(-1, s.k, s.k) for s in structures]
    blocks = factor_blocks(thetas, structures)
    entries = [block.reshape(*thetas.shape[:-1], -1) for block in blocks]
    return xp.tensordot(xp.concatenate(entries, axis=-1), spread_basis(cells, widths), 1)


def spread_basis(bases: Sequence[Any], widths: Sequence[int]) -> Any:
    """Matrices (m_t, k, k) of every term as those of one group, (m, q, q)."""
    xp = namespace(bases)
    q = sum(E.shape[1] * w for E, w in zip(bases, widths, strict=True))
    out = xp.zeros((sum(E.shape[0] for E in bases), q, q), bases[0].dtype if bases else None)
    first = offset = 0
    for E, w in zip(bases, widths, strict=True):
        m, k = E.shape[:2]
        places = offset + k * np.arange(w)[:, None, None, None]
        rows, columns = places + np.arange(k)[:, None], places + np.arange(k)
        at = first + np.arange(m)[:, None, None]
        out = xp.at(out)[at, rows, columns].set(xp.broadcast_to(E[None], (w, m, k, k)))
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
