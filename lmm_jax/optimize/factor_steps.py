"""Steps of factors of Psi: along the changes that no rotation undoes.

A rotation of the rows of Lambda takes steps in theta and changes nothing: where a small
pivot stands above a large entry, theta has a flat valley along a circle. With
``Psi = V diag(e) V'`` and ``W = V' Lambda`` the changes of Lambda that are orthogonal to
all rotations are spanned by

    D_ij = (v_i w_j' + v_j w_i') / sqrt(e_i + e_j), i > j        D_ii = v_i w_i' / sqrt(e_i)

each of length one. (Where e_i is zero, D_ii takes a direction that is orthogonal to the other
rows of W: along it the criterion bends by ``2 v_i' G v_i``.) To first order D does to Psi
what a change P of theta does; their difference in second order is ``2 <G D, D> - 2 <G P, P>``
with the derivative G in Psi.

A step along D_ij that changes the criterion by as much as another is ``sqrt(1 + e)`` long, e
the smaller of e_i and e_j: large variances take long steps, and the Hessian in these units
has eigenvalues of one order, however far apart the variances are.

References
----------
Massart & Absil (2020), doi:10.1137/18M1231389: the geometry of factors up to rotations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jax import Array

from ..covariance.structures import Structure
from ..covariance.theta import stack_theta, theta_slices
from ..covariance.triangles import lower_indices
from ..numerics.eigen import singular
from ..numerics.linalg import lower_factor
from ..numerics.namespace import namespace
from .point import Point

# Pivots that leave enough digits to divide by, relative to the largest entry.
_REGULAR = 1e-7


class Coordinates(NamedTuple):
    """Where a step is taken: theta, or square factors of Psi up to rotations."""

    gradient: Array  # (m,)
    hessian: Array  # (m, m)
    moves: tuple[Array, ...]  # (m_t, k, k) a term: what a unit of each does to its factor
    units: Array  # (m,)  steps that change the criterion about equally


def coordinates(theta: Array, jet: Point, structures: tuple[Structure, ...]) -> Coordinates:
    """Derivatives along the shortest changes of the factors that change Psi.

    Parameters
    ----------
    theta : Array, shape (m,)
    jet : Point
        Gradient and Hessian in theta, derivatives in the Psi of every term (or none), and
        these times Lambda.
    structures : tuple of Structure
        Covariance of each term.

    Returns
    -------
    Coordinates
        Theta itself for terms that no rotation leaves as they are, or without derivatives
        in Psi.
    """
    xp = namespace(theta)
    if not jet.psi_gradients:
        return Coordinates(jet.gradient, jet.hessian, (), xp.ones_like(theta))
    if not any(s.rotates for s in structures):
        return Coordinates(jet.gradient, jet.hessian, (), xp.sqrt(1.0 + theta * theta))
    g, maps, moves, bends, flats, units = [], [], [], [], [], []
    places = zip(
        structures, jet.psi_gradients, jet.psi_halves, theta_slices(structures), strict=True
    )
    for structure, G, GL, at in places:
        E = structure.tangents_at(theta[at])
        moves.append(E)
        flats.append(_bend(G, E))
        if not structure.rotates:
            g.append(jet.gradient[at])
            units.append(xp.sqrt(1.0 + theta[at] ** 2))
            maps.append(xp.eye(structure.n_params, dtype=theta.dtype))
            bends.append(flats[-1])
            continue
        D, P, size = _horizontal(structure.factor(theta[at]))
        g.append(2.0 * xp.sum(GL[None] * D, axis=(1, 2)))
        units.append(xp.sqrt(1.0 + size))
        maps.append(P[:, *lower_indices(structure.k)].T)
        moves[-1] = D
        bends.append(_bend(G, D))
    T = _block_diagonal(maps)
    inner = jet.hessian - _block_diagonal(flats)
    half = xp.sum(inner[:, :, None] * T[None], axis=1)
    hessian = xp.sum(T[:, :, None] * half[:, None], axis=0) + _block_diagonal(bends)
    return Coordinates(xp.concatenate(g), hessian, tuple(moves), xp.concatenate(units))


def _horizontal(L: Array) -> tuple[Array, Array, Array]:
    """D and P of one term, (m_t, k, k), and the smaller of ``e_i`` and ``e_j``, (m_t,)."""
    xp = namespace(L)
    i, j = lower_indices(L.shape[0])
    v, s, w = singular(L)
    e = s * s
    length = xp.sqrt(xp.maximum(e[i] + e[j], np.finfo(e.dtype).tiny))
    across = s[j][:, None, None] * v[i][:, :, None] * w[j][:, None]
    across = across + s[i][:, None, None] * v[j][:, :, None] * w[i][:, None]
    D = xp.where(
        (i == j)[:, None, None],
        v[i][:, :, None] * w[i][:, None],
        across / length[:, None, None],
    )
    change = xp.sum(D[:, :, None] * L[None, None], axis=-1)
    return D, _theta_changes(L, change + xp.swapaxes(change, 1, 2)), xp.minimum(e[i], e[j])


def _theta_changes(L: Array, change: Array) -> Array:
    """Changes P of a triangular factor with ``P L' + L P' = change``, (n, k, k).

    Columns with a negligible pivot stay as they are.
    """
    xp = namespace(L, change)
    k = L.shape[0]
    P = [xp.zeros_like(change[:, 0]) for _ in range(k)]  # columns, (n, k)
    least = _REGULAR * xp.max(xp.abs(L))
    for j in range(k):
        rest = change[:, :, j]
        for c in range(j):
            rest = rest - P[c] * L[j, c] - L[None, :, c] * P[c][:, j, None]
        some = xp.abs(L[j, j]) > least
        pivot = xp.where(some, L[j, j], 1.0)
        own = 0.5 * rest[:, j] / pivot
        column = (rest - L[None, :, j] * own[:, None]) / pivot
        below = (np.arange(k) >= j)[None]
        P[j] = xp.where(some & below, column, 0.0)
    return xp.stack(P, axis=-1)


def _bend(G: Array, D: Array) -> Array:
    """``2 <G D_k, D_l>``: what G makes of second-order changes of Psi, (m_t, m_t)."""
    xp = namespace(G, D)
    GD = xp.sum(G[None, :, :, None] * D[:, None], axis=2)
    return 2.0 * xp.sum(GD[:, None] * D[None], axis=(-2, -1))


def _block_diagonal(blocks: list[Array]) -> Array:
    xp = namespace(blocks)
    m = sum(block.shape[0] for block in blocks)
    rows, start = [], 0
    for block in blocks:
        after = m - start - block.shape[0]
        rows.append(xp.pad(block, ((0, 0), (start, after))))
        start += block.shape[0]
    return xp.concatenate(rows)


def move(theta: Array, p: Array, at: Coordinates, structures: tuple[Structure, ...]) -> Array:
    """Theta after a step."""
    xp = namespace(theta, p)
    if not at.moves:
        return theta + p
    parts = []
    for structure, D, place in zip(structures, at.moves, theta_slices(structures), strict=True):
        if not structure.rotates:
            parts.append(theta[place] + p[place])
            continue
        F = structure.factor(theta[place]) + xp.sum(p[place][:, None, None] * D, axis=0)
        parts.append(stack_theta([lower_factor(F)]))
    return xp.concatenate(parts)
