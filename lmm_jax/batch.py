"""Minimization for many responses: the single fit's starts, runs and challenges, lane by lane.

One Newton machine (:mod:`lmm_jax.newton`) ticks for a batch of lanes; when only a
few still run, they go on in a smaller batch, so that a lane that has converged
costs nothing more. The driver here is the host's side of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .covariance import lower_indices, theta_slices
from .lanes import LaneJet, Lanes, Point, deviance, lane_jet, lane_layout
from .newton import CONVERGED, NONFINITE, PIVOT_TOL, RUNNING, State, judge, propose
from .programs import compiled
from .starts import MAX_RUNS, local_minima, start_grid

# A batch goes on with an eighth of its lanes once the others are done; smaller ones are finished.
_SHRINK, SMALLEST = 8, 32


class _Options(NamedTuple):
    reml: bool
    maxiter: int
    tol: float
    defer: bool


class Optimum(NamedTuple):
    """Ends of the runs, one entry a lane."""

    theta: np.ndarray  # (m, R)
    value: np.ndarray  # (R,)
    status: np.ndarray  # (R,)
    n_iter: np.ndarray  # (R,)


def minimize_lanes(
    lanes: Lanes, *, reml: bool, maxiter: int, tol: float, grid: bool, defer: bool = False
) -> tuple[Optimum, LaneJet]:
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
    Optimum
    LaneJet
        The criterion at the optimum, as NumPy arrays.
    """
    options = _Options(reml, maxiter, tol, defer)
    starts, wanted = _starts(lanes, reml=reml, grid=grid)
    wanted_host, starts_host = np.asarray(wanted), None
    best = _descend(lanes, starts[0], None, options)
    for i in range(1, len(wanted_host)):
        again = np.flatnonzero(wanted_host[i])
        if again.size:
            starts_host = np.asarray(starts) if starts_host is None else starts_host
            found = _descend(lanes, starts_host[i][:, again], again, options)
            best = _better(best, found, again)
    opened, cornered = _off_boundary(best.theta, lanes.sizes)
    cornered = np.flatnonzero(cornered)
    if cornered.size:
        found = _descend(lanes, opened[:, cornered], cornered, options)
        best = _better(best, found, cornered)
    return best, jax.device_get(_jet(jnp.asarray(best.theta), lanes, reml=reml))


_jet = compiled(lane_jet, static="reml")


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


def _first(theta: Array, alive: Array, usable: Array, sizes: tuple[int, ...]) -> State:
    """See :func:`lmm_jax.newton.first_state`."""
    m, R = theta.shape
    zero, one = jnp.zeros(R, theta.dtype), jnp.ones(R, theta.dtype)
    jet = _point_of_zeros(m, R, sizes, theta.dtype)
    return State(
        theta=theta,
        jet=jet._replace(value=one * jnp.inf),
        radius=jnp.maximum(one, jnp.sqrt(jnp.sum(theta * theta, axis=0))),
        lift=one,
        tick=jnp.zeros(R, jnp.int32),
        status=jnp.where(alive & usable, RUNNING, NONFINITE).astype(jnp.int32),
        decrement=zero + jnp.inf,
    )


def _point_of_zeros(m: int, R: int, sizes: tuple[int, ...], dtype: Any) -> Any:
    psi = tuple(jnp.zeros((k, k, R), dtype) for k in sizes)
    return Point(jnp.zeros(R, dtype), jnp.zeros((m, R), dtype), jnp.zeros((m, m, R), dtype), psi)


def _advance(s: State, lanes: Lanes, few: Any, *, reml: bool, maxiter: Any, tol: Any) -> State:
    """Ticks until no more than ``few`` lanes are running."""
    ahead = jax.vmap(lambda s, tol: propose(s, lanes.sizes, tol), (-1, None), -1)
    verdict = jax.vmap(judge, (-1, -1, -1, None), -1)

    def tick(s: State) -> State:
        step = ahead(s, tol)
        new = verdict(s, step, lane_jet(step.trial, lanes, reml=reml).point, maxiter)
        return _choose(s.status == RUNNING, new, s)

    return lax.while_loop(lambda s: jnp.sum(s.status == RUNNING) > few, tick, s)


def _choose(mask: Array, a: Any, b: Any) -> Any:
    def pick(x: Array, y: Array) -> Array:
        return jnp.where(mask.reshape((1,) * (x.ndim - 1) + (-1,)), x, y)

    return jax.tree.map(pick, a, b)


def _take(tree: Any, index: Array, R: int) -> Any:
    """Some lanes of a tree; what they share stays as it is."""
    return jax.tree.map(lambda a: a if a.shape[-1:] != (R,) else a[..., index], tree)


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


_begin = compiled(_first, static="sizes")
_run = compiled(_advance, static="reml")
_select = compiled(_take, static="R")


def _descend(
    lanes: Lanes,
    theta: Array | np.ndarray,
    which: np.ndarray | None,
    options: _Options,
) -> Optimum:
    """Newton from one start a lane, for all lanes or for those in ``which``."""
    R = lanes.S_yy.shape[0]
    jobs = np.arange(R) if which is None else which
    m = theta.shape[0]
    out = Optimum(np.zeros((m, jobs.size)), np.zeros(jobs.size), np.zeros(jobs.size, int),
                  np.zeros(jobs.size, int))  # fmt: skip
    batch, size = lanes, R
    place = np.arange(jobs.size)  # where the batch's lanes go in the answer
    if which is not None:
        size = batch_size(jobs.size, R)
        fill = np.zeros(size - jobs.size, int)
        batch = _select(lanes, np.concatenate([jobs, fill]), R=R)
        theta = np.concatenate([theta, np.repeat(theta[:, :1], fill.size, axis=1)], axis=1)
    alive = np.arange(size) < jobs.size
    state = _begin(jnp.asarray(theta), alive, batch.usable, sizes=lanes.sizes)
    while True:
        smaller = size // _SHRINK if size >= _SHRINK * SMALLEST else 0
        last = options.defer and size < R  # one smaller batch, then the rest waits for others
        state = _run(
            state, batch, smaller, reml=options.reml, maxiter=options.maxiter, tol=options.tol
        )
        ends = jax.device_get((state.theta, state.jet.value, state.status, state.tick))
        theta_end, value, status, ticks = (a[..., : place.size] for a in ends)
        out.theta[:, place], out.value[place] = theta_end, value
        out.status[place], out.n_iter[place] = status, np.maximum(ticks - 1, 0)
        going = np.flatnonzero(status == RUNNING)
        if last or not going.size:
            return out
        index = np.concatenate([going, np.zeros(smaller - going.size, int)])
        batch, state = _select((batch, state), index, R=size)
        alive = np.arange(smaller) < going.size
        state = state._replace(status=np.where(alive, RUNNING, NONFINITE).astype(np.int32))
        place, size = place[going], smaller


def batch_size(count: int, largest: int) -> int:
    """The smallest size that holds ``count`` lanes, of those that a batch can shrink to."""
    size = largest
    while size >= _SHRINK * SMALLEST and count <= size // _SHRINK:
        size //= _SHRINK
    return size


# ------------------------------------------------------------ which optimum


def _better(best: Optimum, found: Optimum, which: np.ndarray) -> Optimum:
    """See :func:`lmm_jax.optimize._better`, for some lanes."""
    value = best.value[which]
    with np.errstate(invalid="ignore"):
        noise = 1e-9 * (1.0 + np.abs(value))
        void = best.status[which] == NONFINITE
        lower = found.value < value - noise
        tie = np.abs(found.value - value) <= noise
    gained = (found.status == CONVERGED) & (best.status[which] != CONVERGED)
    take = void | (np.isfinite(found.value) & (lower | (tie & gained)))
    # a run that has been put off puts off its lane
    waiting = (found.status == RUNNING) | (best.status[which] == RUNNING)
    best.status[which[waiting]] = RUNNING
    take &= ~waiting
    at = which[take]
    best.n_iter[which] += found.n_iter
    best.theta[:, at], best.value[at] = found.theta[:, take], found.value[take]
    best.status[at] = found.status[take]
    return best


def _off_boundary(theta: np.ndarray, sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """See :func:`lmm_jax.optimize._off_boundary`."""
    opened, cornered = theta.copy(), np.zeros(theta.shape[1], bool)
    for k, at in zip(sizes, theta_slices(sizes), strict=True):
        rows, columns = lower_indices(k)
        diagonal = np.arange(at.start, at.stop)[rows == columns]
        singular = np.abs(theta[diagonal]).min(axis=0) < PIVOT_TOL
        opened[at.start : at.stop, singular] = 0.0
        opened[np.ix_(diagonal, singular)] = 0.5
        cornered |= singular
    return opened, cornered
