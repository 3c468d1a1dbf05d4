"""Minimization for the responses of ``fit_many``: lanes of :mod:`lmm_jax.batches.lane_criterion`.

Lanes are last in every array and the criterion is written out for them, elementwise: for
thousands of small models that is three to ten times as fast on a CPU as layouts under
``vmap``. Compiled programs keep them on the device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array

from ..covariance.theta import theta_size
from ..layouts.group_algebra import reached
from ..likelihood.criterion import Jet
from ..numerics.devices import ByDevice
from ..numerics.namespace import NUMPY, namespace
from ..numerics.programs import compiled
from ..numerics.stacked import as_lanes
from ..optimize.grids import second_grid, start_grid
from ..optimize.minimize import FEW_GROUPS
from ..optimize.newton import Solution, judge, propose
from ..optimize.point import State
from ..optimize.shared_columns import lacking, with_wide_maps
from ..optimize.starts import with_submodels
from .driver import LaneProblem, minimize_all
from .lane_criterion import NUMPY_SECONDS, Lanes, deviance, lane_jet, of_each_lane
from .lane_starts import lowest, of_candidates, with_far
from .ticks import tick_lanes

# A batch of programs goes on with an eighth of its lanes once the others are done; smaller ones
# are finished. Of an accelerator a few thousand lanes take as long as a few, and each size is a
# program.
_SHRINK, SMALLEST = 8, ByDevice(32, 2048)
# Lanes from which a call of NumPy takes one candidate of a grid, and fewer so many more; and
# numbers that copies of lanes may be.
_CANDIDATES, _NUMBERS = 128, 1 << 22


def minimize_lanes(
    lanes: Lanes, *, reml: bool, maxiter: int, tol: float, grid: bool, defer: bool = False
) -> Solution:
    """Best optimum of every lane, as :func:`lmm_jax.optimize.minimize.minimize` finds it for one.

    Parameters
    ----------
    lanes : Lanes
    reml : bool
    maxiter, tol
        As in :func:`lmm_jax.optimize.minimize.minimize`.
    grid : bool
        Start from the local minima of a grid, or from moment estimates.
    defer : bool
        Leave the last few lanes of a large batch ``RUNNING``: the caller collects
        them and minimizes them together.

    Returns
    -------
    Solution
        Lanes last. ``jet``, a :class:`lmm_jax.likelihood.criterion.Jet`, is where the lanes are and
        has the fixed effects that programs share; all else are arrays of NumPy.
    """
    in_program = namespace(lanes) is not NUMPY
    if in_program:
        lanes = _widened(lanes, reml=reml)
    problem = _Responses(
        data=lanes,
        usable=np.asarray(lanes.usable),
        axis=-1,
        structures=lanes.structures,
        shapes=_shapes(lanes),
        few=_few_groups(lanes),
        reml=reml,
        maxiter=maxiter,
        tol=tol,
        grid=grid and second_grid(lanes.structures) is not None,
        any_size=not in_program,
    )
    starts, wanted = jax.device_get(_starts(lanes, reml=reml, grid=grid))
    best = minimize_all(problem, starts, wanted, defer=defer)
    return best._replace(jet=_jet(best.theta, lanes, reml=reml))


@partial(compiled, static="reml")
def _widened(lanes: Lanes, *, reml: bool) -> Lanes:
    """See :func:`lmm_jax.optimize.shared_columns.widened`."""
    xp, p = namespace(lanes), lanes.S_xx.shape[0]
    more = lacking(p)
    new, one = np.arange(p, p + more), xp.ones((), lanes.S_yy.dtype)
    buckets = []
    for bucket in lanes.buckets:
        q, E = bucket.y.shape[0], bucket.y.shape[2]
        rows = (0, q * more if E > 1 else 0)  # merged groups have q for each column of [X y]
        X = xp.pad(bucket.X, ((0, 0), (0, more), (0, 0), rows, (0, 0)))
        y = xp.pad(bucket.y, ((0, 0), (0, 0), rows, (0, 0)))
        buckets.append(replace(bucket, X=X, y=y))
    S_xx = xp.pad(lanes.S_xx, ((0, more), (0, more), (0, 0)))
    wide = replace(
        lanes,
        buckets=tuple(buckets),
        S_xx=xp.at(S_xx)[new, new].set(one),
        S_xy=xp.pad(lanes.S_xy, ((0, more), (0, 0))),
    )
    return with_wide_maps(wide, more, reml=reml)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Responses(LaneProblem):
    """Lanes of responses; compiled programs keep them on the device."""

    reml: bool
    maxiter: int
    tol: float
    grid: bool  # whether optima in doubt are challenged from a grid of singular covariances

    def advance(self, state: State, data: Lanes, least: int) -> State:
        return _run(state, data, least, reml=self.reml, maxiter=self.maxiter, tol=self.tol)

    def pick(self, tree: Any, lanes: np.ndarray, total: int) -> Any:
        return _select(tree, lanes, R=total)

    def kept(self, jet: Jet) -> Jet:
        none: Any = ()
        return jet._replace(gradient=none, hessian=none, psi_gradients=none, psi_halves=none)

    def smaller(self, size: int) -> int:
        return size // _SHRINK if size >= _SHRINK * SMALLEST.here() else 0

    def more_starts(
        self, theta: np.ndarray, which: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        if not self.grid:
            return None
        lanes, R = self.data, self.usable.size
        size = self.size_for(which.size, R)
        fill = np.append(which, np.repeat(which[-1:], size - which.size))
        some = lanes if size == R else _select(lanes, fill, R=R)
        at = np.arange(R) if size == R else fill
        few: Any = self.few
        found = _singular(theta[:, at], some, few[at], reml=self.reml)
        starts, wanted = jax.device_get(found)
        place = which if size == R else slice(which.size)
        return starts[..., place], wanted[:, place]


_jet = compiled(lane_jet, static="reml", host=NUMPY_SECONDS)


def _for_steps(jet: Jet) -> Jet:
    """What Newton's method needs of the criterion: lanes carry nothing else along."""
    none: Any = ()
    return jet._replace(profile=none, dlog_scale=none, dbeta=none, dcov_beta=none)


def _shapes(lanes: Lanes) -> Jet:
    """Of the criterion in one lane."""

    def of(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, lanes.S_yy.dtype)

    m = theta_size(lanes.structures)
    blocks: Any = tuple(of(k, k) for k in lanes.sizes)
    none: Any = ()
    return Jet(of(), of(m), of(m, m), blocks, blocks, of(), none, none, none, none)


# ------------------------------------------------------------ starts


def _find_starts(lanes: Lanes, *, reml: bool, grid: bool) -> tuple[Array, Array]:
    """Candidates (K, m, R), best first, and which of them deserve a run, (K, R)."""
    xp, R = namespace(lanes), lanes.S_yy.shape[0]
    if not grid:
        moments = of_each_lane(lambda layout: layout.start_moments(), lanes)
        return moments[None], xp.ones((1, R), bool)
    points, near = start_grid(lanes.structures)
    starts, wanted = _lowest(xp.asarray(points, lanes.S_yy.dtype)[:, :, None], near, lanes, reml)
    # a lane without a finite value gets one run, which says so
    return starts, xp.at(wanted)[0].set(True)


def _lowest(thetas: Array, near: np.ndarray, lanes: Lanes, reml: bool) -> tuple[Array, Array]:
    """The lowest local minima among candidates (N, m, R or 1) of every lane."""
    return lowest(_deviances(thetas, lanes, reml), thetas, near)


def _deviances(thetas: Array, lanes: Lanes, reml: bool) -> Array:
    """-2 log-likelihoods of candidates (N, m, R or 1) in every lane, (N, R)."""
    xp, R = namespace(thetas, lanes), lanes.S_yy.shape[0]
    if xp is not NUMPY:
        values: Array = xp.map(lambda theta: deviance(theta, lanes, reml=reml), thetas)
        return values

    def at(theta: Any, copies: Any) -> Any:
        some = lanes if copies is None else _take(lanes, copies, R)
        return deviance(theta, some, reml=reml)

    own = sum(a.size for a in jax.tree.leaves(lanes) if a.shape[-1:] == (R,)) // R
    found: Array = of_candidates(at, thetas, R, min(_CANDIDATES, _NUMBERS // own) // R)
    return found


def _find_singular(theta: Array, lanes: Lanes, few: Array, *, reml: bool) -> tuple[Array, Array]:
    """Starts from singular covariances and submodels, (K, m, R), and which deserve a run."""
    xp, grid = namespace(theta, lanes), second_grid(lanes.structures)
    assert grid is not None  # the caller has looked
    points = xp.asarray(grid.thetas, theta.dtype)
    of_lane = lambda layout, best: with_submodels(points, best, layout)  # noqa: E731
    thetas = of_each_lane(of_lane, lanes, theta)
    starts, wanted = _lowest(thetas, grid.neighbours, lanes, reml)
    return with_far(starts, wanted, theta, lanes.structures, few)


_starts = compiled(_find_starts, static=("reml", "grid"), host=NUMPY_SECONDS)
_singular = compiled(_find_singular, static="reml", host=NUMPY_SECONDS)


def _few_groups(lanes: Lanes) -> np.ndarray:
    """See :func:`lmm_jax.optimize.minimize.has_few_groups`, (R,)."""
    ranks: Any = sum(reached(np.asarray(b.T), np.asarray(b.copies)) for b in lanes.buckets)
    return np.broadcast_to(ranks < FEW_GROUPS * sum(lanes.sizes), lanes.S_yy.shape)


# ------------------------------------------------------------ runs


def _advance(s: State, lanes: Lanes, few: Any, *, reml: bool, maxiter: Any, tol: Any) -> State:
    """Ticks until no more than ``few`` lanes are running."""
    structures = lanes.structures
    if namespace(s.theta) is NUMPY:

        def tick(at: Any) -> State:
            step: Any = propose(at, structures, tol)
            jet = _for_steps(lane_jet(step.trial.lanes, lanes, reml=reml))
            return judge(at, step, as_lanes(jet), maxiter)

    else:
        ahead = jax.vmap(lambda s, tol: propose(s, structures, tol), (-1, None), -1)
        verdict = jax.vmap(judge, (-1, -1, -1, None), -1)

        def tick(at: Any) -> State:
            step = ahead(at, tol)
            jet = _for_steps(lane_jet(step.trial, lanes, reml=reml))
            out: State = verdict(at, step, jet, maxiter)
            return out

    return tick_lanes(s, tick, few, axis=-1)


_run = compiled(_advance, static="reml", host=NUMPY_SECONDS)


# ------------------------------------------------------------ some of the lanes


def _take(tree: Any, index: Array, R: int) -> Any:
    """Some lanes of a tree; what they share stays as it is."""
    return jax.tree.map(lambda a: a if a.shape[-1:] != (R,) else a[..., index], tree)


_select = compiled(_take, static="R", host=NUMPY_SECONDS)


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
