"""Where lanes start from: the starts of a single fit, lane by lane."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import Array

from ..covariance.structures import Structure
from ..numerics.namespace import namespace
from ..optimize.minimize import is_extreme
from ..optimize.starts import MAX_RUNS, far_starts, local_minima, widest


def lowest(values: Array, thetas: Array, near: np.ndarray) -> tuple[Array, Array]:
    """The lowest local minima among candidates of every lane, and which of them are there.

    Parameters
    ----------
    values : Array, shape (N, R)
        The criterion at the candidates.
    thetas : Array, shape (N, m, R) or (N, m, 1)
    near : ndarray of int, shape (N, K)
        See :class:`lmm_jax.optimize.starts.Candidates`.

    Returns
    -------
    starts : Array, shape (S, m, R)
    wanted : Array of bool, shape (S, R)
    """
    xp, R = namespace(values, thetas), values.shape[1]
    values = xp.where(xp.isfinite(values), values, np.inf)
    ranked = xp.where(local_minima(values, xp.asarray(near)), values, np.inf)
    thetas = xp.broadcast_to(thetas, (*thetas.shape[:2], R))
    starts, wanted = [], []
    for _ in range(min(MAX_RUNS, len(near))):
        at = xp.argmin(ranked, axis=0)
        taken = xp.arange(len(near))[:, None] == at[None]
        starts.append(xp.take_along_axis(thetas, at[None, None], axis=0)[0])
        wanted.append(xp.isfinite(xp.min(ranked, axis=0)))
        ranked = xp.where(taken, np.inf, ranked)
    return xp.stack(starts), xp.stack(wanted)


def with_far(
    starts: Array, wanted: Array, theta: Array, structures: tuple[Structure, ...], few: Any
) -> tuple[Array, Array]:
    """More starts, as :func:`lmm_jax.optimize.starts.with_far_starts` has them.

    Parameters
    ----------
    starts, wanted : Array
        As in :func:`lowest`.
    theta : Array, shape (m, R)
        The best ones so far.
    structures : tuple of Structure
    few : Array of bool, shape (R,)
        So few groups that every optimum is in doubt.
    """
    xp = namespace(starts, theta)
    extreme = is_extreme(theta)
    hidden = extreme | (few & (widest(structures) > 2))
    for far, ask in zip(far_starts(structures), (hidden, extreme), strict=True):
        more = xp.asarray(far, theta.dtype)[:, :, None]
        starts = xp.concatenate([starts, xp.broadcast_to(more, (*far.shape, theta.shape[1]))])
        wanted = xp.concatenate([wanted, xp.broadcast_to(ask, (len(far), theta.shape[1]))])
    return starts, wanted
