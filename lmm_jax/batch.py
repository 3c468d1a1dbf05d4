"""Minimization for the responses of ``fit_many``: lanes of :mod:`lmm_jax.lanes`.

Lanes are last in every array and the criterion is written out for them, elementwise: for
thousands of small models that is three to ten times as fast on a CPU as layouts under
``vmap``. They stay on the device.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .covariance import theta_size
from .lane_driver import LaneProblem, minimize_all
from .lanes import Lanes, Point, deviance, lane_jet, lane_layout
from .newton import RUNNING, Solution, State, judge, propose
from .programs import compiled
from .starts import MAX_RUNS, local_minima, start_grid

# A batch goes on with an eighth of its lanes once the others are done; smaller ones are finished.
_SHRINK, SMALLEST = 8, 32


def minimize_lanes(
    lanes: Lanes, *, reml: bool, maxiter: int, tol: float, grid: bool, defer: bool = False
) -> Solution:
    """Best optimum of every lane, as :func:`lmm_jax.optimize.minimize` finds it for one.

    Parameters
    ----------
    lanes : Lanes
    reml : bool
    maxiter, tol
        As in :func:`lmm_jax.optimize.minimize`.
    grid : bool
        Start from the local minima of a grid, or from moment estimates.
    defer : bool
        Leave the last few lanes of a large batch ``RUNNING``: the caller collects
        them and minimizes them together.

    Returns
    -------
    Solution
        NumPy arrays with lanes last; ``jet`` is a :class:`lmm_jax.lanes.LaneJet`.
    """
    problem = LaneProblem(
        data=lanes,
        usable=np.asarray(lanes.usable),
        axis=-1,
        sizes=lanes.sizes,
        shapes=_shapes(lanes),
        advance=partial(_run, reml=reml, maxiter=maxiter, tol=tol),
        pick=_select,
        keep=lambda jet: jet._replace(gradient=(), hessian=(), psi_gradients=()),
        smaller=_smaller,
        holding=_holding,
    )
    starts, wanted = jax.device_get(_starts(lanes, reml=reml, grid=grid))
    best = minimize_all(problem, starts, wanted, defer=defer)
    return best._replace(jet=jax.device_get(_jet(best.theta, lanes, reml=reml)))


_jet = compiled(lane_jet, static="reml")


def _shapes(lanes: Lanes) -> Point:
    """Of the criterion in one lane."""

    def of(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, lanes.S_yy.dtype)

    m = theta_size(lanes.sizes)
    return Point(of(), of(m), of(m, m), tuple(of(k, k) for k in lanes.sizes))


# ------------------------------------------------------------ starts


def _find_starts(lanes: Lanes, *, reml: bool, grid: bool) -> tuple[Array, Array]:
    """Candidates (K, m, R), best first, and which of them deserve a run, (K, R)."""
    R = lanes.S_yy.shape[0]
    if not grid:
        moments = jax.vmap(lambda i: lane_layout(lanes, i).start_moments(), out_axes=-1)
        return moments(jnp.arange(R))[None], jnp.ones((1, R), bool)
    points, shape = start_grid(lanes.sizes)
    thetas = jnp.asarray(points, lanes.S_yy.dtype)
    values = lax.map(lambda theta: deviance(theta[:, None], lanes, reml=reml), thetas)
    values = jnp.where(jnp.isfinite(values), values, jnp.inf)
    lowest = jax.vmap(local_minima, -1, -1)(values.reshape(*shape, R))
    ranked = jnp.where(lowest.reshape(len(points), R), values, jnp.inf)
    starts, wanted = [], []
    for i in range(min(MAX_RUNS, len(points))):
        at = jnp.argmin(ranked, axis=0)
        taken = jnp.arange(len(points))[:, None] == at[None]
        starts.append(thetas[at].T)
        # a lane without a finite value gets one run, which says so
        wanted.append(jnp.isfinite(jnp.min(ranked, axis=0)) | (i == 0))
        ranked = jnp.where(taken, jnp.inf, ranked)
    return jnp.stack(starts), jnp.stack(wanted)


_starts = compiled(_find_starts, static=("reml", "grid"))


# ------------------------------------------------------------ runs


def _advance(s: State, lanes: Lanes, few: Any, *, reml: bool, maxiter: Any, tol: Any) -> State:
    """Ticks until no more than ``few`` lanes are running."""
    ahead = jax.vmap(lambda s, tol: propose(s, lanes.sizes, tol), (-1, None), -1)
    verdict = jax.vmap(judge, (-1, -1, -1, None), -1)

    def tick(s: State) -> State:
        step = ahead(s, tol)
        new = verdict(s, step, lane_jet(step.trial, lanes, reml=reml).point, maxiter)
        going = s.status == RUNNING

        def pick(a: Array, b: Array) -> Array:
            return jnp.where(going.reshape((1,) * (a.ndim - 1) + (-1,)), a, b)

        return jax.tree.map(pick, new, s)

    return lax.while_loop(lambda s: jnp.sum(s.status == RUNNING) > few, tick, s)


_run = compiled(_advance, static="reml")


def _smaller(size: int) -> int:
    return size // _SHRINK if size >= _SHRINK * SMALLEST else 0


def _holding(count: int, size: int) -> int:
    """The smallest size that holds ``count`` lanes, of those that a batch can shrink to."""
    while count <= _smaller(size):
        size = _smaller(size)
    return size


# ------------------------------------------------------------ some of the lanes


def _take(tree: Any, index: Array, R: int) -> Any:
    """Some lanes of a tree; what they share stays as it is."""
    return jax.tree.map(lambda a: a if a.shape[-1:] != (R,) else a[..., index], tree)


_select = compiled(_take, static="R")


def pick_lanes(lanes: Lanes, index: np.ndarray) -> Lanes:
    """Some of the lanes, on the host."""
    size = 1 << max(index.size - 1, 1).bit_length()  # few programs
    fill = np.append(index, np.repeat(index[:1], size - index.size))
    few = jax.device_get(_select(lanes, fill, R=lanes.S_yy.shape[0]))
    return jax.tree.map(lambda a: a[..., : index.size] if a.shape[-1:] == (size,) else a, few)


def join_lanes(parts: list[Lanes], like: Lanes, size: int) -> Lanes:
    """Lanes of several batches with one design side by side, the last repeated up to ``size``.

    ``like`` has more than one lane and so tells what the lanes share.
    """

    def join(example: Array, *leaves: np.ndarray) -> np.ndarray:
        if example.shape[-1:] != (like.S_yy.shape[0],):
            return leaves[0]
        joined = np.concatenate(leaves, axis=-1)
        fill = np.repeat(joined[..., -1:], size - joined.shape[-1], axis=-1)
        return np.concatenate([joined, fill], axis=-1)

    return jax.tree.map(join, like, *parts)
