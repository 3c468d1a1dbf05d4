"""Where lanes start from: the starts of a single fit, lane by lane."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import Array

from ..covariance.structures import Structure
from ..numerics.namespace import namespace
from ..optimize.grids import leaves_gaps
from ..optimize.minimize import is_extreme
from ..optimize.starts import MAX_RUNS, far_starts, local_minima


def of_candidates(
    values: Callable[[Any, np.ndarray | None], np.ndarray], thetas: Any, R: int, together: int
) -> Any:
    """A criterion of candidates in every lane, in NumPy, several of them in one call.

    Parameters
    ----------
    values : callable
        The criterion at thetas (m, n) in lanes (n,), which may come more than once; at one
        theta (m, R or 1) of all lanes, as they are, if they are None.
    thetas : ndarray, shape (N, m, R) or (N, m, 1)
    R : int
        Lanes.
    together : int
        Candidates in one call; fewer than two: one after the other.

    Returns
    -------
    ndarray, shape (N, R)
    """
    if together < 2:
        return np.stack([values(theta, None) for theta in thetas])
    found = []
    for start in range(0, len(thetas), together):
        part = thetas[start : start + together]
        part = np.broadcast_to(part, (*part.shape[:2], R))
        copies = np.arange(len(part) * R) % R
        flat = np.swapaxes(part, 0, 1).reshape(part.shape[1], -1)
        found.append(values(flat, copies).reshape(-1, R))
    return np.concatenate(found)


def lowest(values: Array, thetas: Array, near: np.ndarray) -> tuple[Array, Array]:
    """The lowest local minima among candidates of every lane, and which of them are there.

    Parameters
    ----------
    values : Array, shape (N, R)
        The criterion at the candidates.
    thetas : Array, shape (N, m, R) or (N, m, 1)
    near : ndarray of int, shape (N, K)
        See :class:`lmm_jax.optimize.grids.Candidates`.

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
    hidden = extreme | (few & leaves_gaps(structures))
    for far, ask in zip(far_starts(structures), (hidden, extreme), strict=True):
        more = xp.asarray(far, theta.dtype)[:, :, None]
        starts = xp.concatenate([starts, xp.broadcast_to(more, (*far.shape, theta.shape[1]))])
        wanted = xp.concatenate([wanted, xp.broadcast_to(ask, (len(far), theta.shape[1]))])
    return starts, wanted
