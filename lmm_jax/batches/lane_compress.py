"""From the rows of many responses to their lanes; see :mod:`lmm_jax.batches.lane_criterion`.

Responses without gaps share X, Z and the weights. All that is left to do for each
is linear in y, so that they go through the steps of :mod:`lmm_jax.layouts.compress`
side by side, as columns. Groups with one factor are merged at once
(:mod:`lmm_jax.layouts.merged`): with ``vec(c_i)`` split into the shared part of X and
the part of y, the first block of the factor of ``B_j`` is the same for all lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax import Array

from ..layouts.compress import compress_columns
from ..layouts.contract import Maps
from ..layouts.equal_groups import Classes, find_classes
from ..layouts.group_index import GroupIndex
from ..numerics.linalg import eliminate
from ..numerics.namespace import namespace

# As in merged.py: pivots of B below this, relative to their diagonal, are rounding.
_RANK_TOL = 1e-15


class ManyColumns(NamedTuple):
    """What the rows of many responses come down to; arrays end with the lane axis."""

    T: tuple[Array, ...]  # (q, q, G) a bucket
    X: tuple[Array, ...]  # (q, p, G) a bucket
    y: tuple[Array, ...]  # (q, G, R) a bucket
    S_xx: Array  # (p, p)
    S_xy: Array  # (p, R)
    S_yy: Array  # (R,)
    maps: Maps  # those of beta's origin and of y with a last axis of R lanes, the others of 1


def compress_many(
    Y: Array, X: Array, Z: Sequence[Array], weights: Array, index: GroupIndex
) -> ManyColumns:
    """Compress responses that share everything else.

    Parameters
    ----------
    Y : Array, shape (n, R)
        Finite responses, offset already subtracted.
    X, Z, weights, index
        As in :func:`lmm_jax.compress`.

    Returns
    -------
    ManyColumns
        Lane by lane what ``compress`` makes of the column.
    """
    xp = namespace(Y, X, weights)
    at = compress_columns(Y, X, Z, weights, index)
    p, groups = X.shape[1], at.groups
    left, right = groups.residual[:, :p], groups.residual[:, p:]
    maps = at.maps(groups.step, index)
    shared = ("beta_map", "log_det_map", "n_obs", "log_weights")
    return ManyColumns(
        T=tuple(groups.T),
        X=tuple(c[:, :p] for c in groups.c),
        y=tuple(xp.swapaxes(c[:, p:], 1, 2) for c in groups.c),
        S_xx=left.T @ left,
        S_xy=left.T @ right,
        S_yy=xp.sum(right * right, axis=0),
        maps=Maps(
            **{name: of[..., None] if name in shared else of for name, of in maps.items()}
            | {"whiteners": tuple(A[..., None] for A in at.whiteners)}
        ),
    )


class Merged(NamedTuple):
    """Pseudo-groups of one bucket, E in each of D classes."""

    T: Array  # (q, q, D)
    X: Array  # (q, p, D, E)
    y: Array  # (q, D, E, R)
    copies: Array  # (D,)


def lane_classes(T: np.ndarray, p: int) -> Classes | None:
    """Classes of groups with equal factors; None if merging makes nothing shorter."""
    filled = int((T != 0).any(axis=(0, 1)).sum())
    return find_classes(T, most=filled // (len(T) * (p + 1)))


def merge_lanes(T: Array, X: Array, y: Array, classes: Classes) -> Merged:
    """Pseudo-groups of the classes of groups with one factor.

    Parameters
    ----------
    T, X, y : Array
        As in :class:`ManyColumns`, of one bucket.
    classes : Classes
    """
    xp, label, first = namespace(T, X, y), classes.label, classes.first
    q, p, groups = X.shape
    D, R = first.size, y.shape[-1]
    member = (xp.asarray(label)[None] == xp.arange(D, dtype=label.dtype)[:, None]).astype(X.dtype)
    x = X.reshape(q * p, groups)
    mine = member[:, None] * x[None]  # (D, q p, G)
    B = xp.einsum("dag,bg->abd", mine, x)
    identity = xp.broadcast_to(xp.eye(q * p, dtype=X.dtype)[:, :, None], B.shape)
    U, Li = eliminate(B, identity, tol=_RANK_TOL)  # shared by all lanes
    cross = (mine.reshape(-1, groups) @ xp.swapaxes(y, 0, 1).reshape(groups, -1)).reshape(
        D, q * p, q, R
    )
    upper = xp.einsum("abd,dbqz->daqz", Li, cross)
    square = xp.einsum("dg,abgz->abdz", member, y[:, None] * y[None])
    rest = square - xp.einsum("daqz,dasz->qsdz", upper, upper)
    empty = xp.zeros((q, 0, D * R), X.dtype)
    own = eliminate(rest.reshape(q, q, D * R), empty, tol=_RANK_TOL).U.reshape(q, q, D, R)
    parts = [upper.transpose(2, 0, 1, 3), own.transpose(1, 2, 0, 3)]
    new_y = xp.concatenate(parts, axis=2)
    new_X = xp.moveaxis(U, 2, 0).reshape(D, q * p, q, p).transpose(2, 3, 0, 1)
    new_X = xp.pad(new_X, ((0, 0), (0, 0), (0, 0), (0, q)))
    return Merged(
        T=T[:, :, first],
        X=new_X,
        y=new_y,
        copies=xp.asarray(classes.counts, X.dtype),
    )
