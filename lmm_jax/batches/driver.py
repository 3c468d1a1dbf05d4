"""Many minimizations side by side, one lane each: what the host does.

All lanes of a batch tick together (:mod:`lmm_jax.optimize.newton`), in a program or in NumPy.
When only a few still run they are packed into a smaller batch and go on, so that a lane that
has finished costs nothing more. Starts, challenges and the choice among optima are those of a
single fit (:mod:`lmm_jax.optimize.minimize`), lane by lane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ..covariance.structures import Structure
from ..optimize.better import second_is_better
from ..optimize.minimize import is_extreme, lacks_one, off_boundary
from ..optimize.newton import CONVERGED, NONFINITE, RUNNING, Solution, unknown_state
from ..optimize.point import State

# Runs that go side by side even where there are fewer lanes, and lanes that are not divided,
# where batches of any size may run.
_AT_ONCE, _LEAST = 256, 32


@dataclass(frozen=True, kw_only=True, eq=False)
class LaneProblem:
    """R lanes; how they are evaluated, and the sizes that their batches have."""

    data: Any  # tree of arrays, whatever `advance` needs of the lanes
    usable: np.ndarray  # (R,)  lanes with a criterion; the others end NONFINITE
    axis: int  # of the lanes in a state: 0 or -1
    structures: tuple[Structure, ...]  # one a term
    shapes: Any  # of the criterion at one theta
    few: np.ndarray | bool = False  # (R,)  so few groups that every optimum is in doubt
    any_size: bool = False  # batches of any size may run: all starts of a lane go side by side

    def advance(self, state: State, data: Any, least: int) -> State:
        """Tick until at most ``least`` lanes are running."""
        raise NotImplementedError

    def pick(self, tree: Any, lanes: np.ndarray, total: int) -> Any:
        """Some lanes of a tree that has ``total`` of them."""
        del total
        return take(jax.device_get(tree), lanes, self.axis)

    def kept(self, jet: Any) -> Any:
        """What a solution keeps of the criterion, its value among it."""
        return jet

    def smaller(self, size: int) -> int:
        """Lanes of the next smaller batch that programs have; 0: there is none."""
        raise NotImplementedError

    def next_size(self, size: int) -> int:
        """Lanes that a batch goes on with; 0: it is finished."""
        if self.any_size:
            return size // 2 if size >= 2 * _LEAST else 0
        return self.smaller(size)

    def holding(self, count: int, size: int) -> int:
        """Size of a batch of programs for some lanes out of a batch of ``size``."""
        while count <= self.smaller(size):
            size = self.smaller(size)
        return size

    def size_for(self, count: int, size: int) -> int:
        """Size of a batch for some lanes out of a batch of ``size``."""
        if self.any_size:
            return max(count, 2)  # arrays of a single lane look like those that lanes share
        return self.holding(count, size)

    def more_starts(
        self, theta: np.ndarray, which: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Further starts for lanes whose optimum is in doubt, if there are any.

        Parameters
        ----------
        theta : ndarray, shape (m, R)
            The best ones so far.
        which : ndarray of int, shape (n,)
            Lanes in doubt.

        Returns
        -------
        starts : ndarray, shape (K, m, n)
        wanted : ndarray of bool, shape (K, n)
        """
        del theta, which
        return None


def minimize_all(
    problem: LaneProblem,
    starts: np.ndarray,
    wanted: np.ndarray,
    *,
    defer: bool = False,
    reopen: bool = False,
) -> Solution:
    """Best optimum of every lane.

    Parameters
    ----------
    problem : LaneProblem
    starts : ndarray, shape (K, m, R)
    wanted : ndarray of bool, shape (K, R)
        Which starts deserve a run; the first of a lane always gets one.
    defer : bool
        Leave the last few lanes of a large batch ``RUNNING``.
    reopen : bool
        Challenge lanes that have not converged as well as those near the boundary.

    Returns
    -------
    Solution
        NumPy arrays, with lanes where the states of the problem have them.
    """
    everywhere = np.arange(problem.usable.size)
    best = _descend(problem, starts[0], everywhere, defer)
    best = _challenge_all(problem, best, starts[1:], wanted[1:], everywhere, defer)
    theta = np.moveaxis(np.asarray(best.theta), problem.axis, -1)
    if reopen:
        theta = np.where(best.status == CONVERGED, theta, 0.0)
    opened, cornered = off_boundary(theta, problem.structures)
    best = _challenge(problem, best, opened[:, cornered], np.flatnonzero(cornered), defer)
    theta = np.moveaxis(np.asarray(best.theta), problem.axis, -1)
    doubt = problem.few | is_extreme(theta) | lacks_one(theta, problem.structures)
    which = np.flatnonzero(doubt & problem.usable & (best.status != RUNNING))
    more = problem.more_starts(theta, which) if which.size else None
    if more is not None:
        best = _challenge_all(problem, best, *more, which, defer)
    return best


def _challenge_all(
    problem: LaneProblem,
    best: Solution,
    starts: np.ndarray,
    wanted: np.ndarray,
    which: np.ndarray,
    defer: bool,
) -> Solution:
    """More runs for some lanes, from starts (K, m, n): one after another, or all at once."""
    if not problem.any_size:
        for theta, go in zip(starts, wanted, strict=True):
            best = _challenge(problem, best, theta[:, go], which[go], defer)
        return best
    run, at = np.nonzero(wanted & problem.usable[which])
    size = max(problem.usable.size, _AT_ONCE)
    for first in range(0, run.size, size):
        part = slice(first, first + size)
        found = _descend(problem, starts[run[part], :, at[part]].T, which[at[part]], defer)
        for k in np.unique(run[part]):
            mine = run[part] == k
            best = _settle(problem, best, take(found, mine, problem.axis), which[at[part][mine]])
    return best


def _challenge(
    problem: LaneProblem, best: Solution, theta: np.ndarray, which: np.ndarray, defer: bool
) -> Solution:
    """One more run for some lanes, from their columns of theta."""
    theta, which = theta[:, problem.usable[which]], which[problem.usable[which]]
    if not which.size:
        return best
    return _settle(problem, best, _descend(problem, theta, which, defer), which)


def _settle(problem: LaneProblem, best: Solution, found: Solution, which: np.ndarray) -> Solution:
    """The better solution of some lanes; those that are put off, before or now, stay so."""
    now = take(best, which, problem.axis)
    waits = (now.status == RUNNING) | (found.status == RUNNING)
    with np.errstate(invalid="ignore"):  # values of lanes without a fit
        wins = second_is_better(now, found) & ~waits
    best = _put(best, take(found, wins, problem.axis), which[wins], problem.axis)
    best.n_iter[which] = now.n_iter + found.n_iter
    best.status[which[waits]] = RUNNING
    return best


def _descend(problem: LaneProblem, theta: np.ndarray, which: np.ndarray, defer: bool) -> Solution:
    """One run for some lanes, each from its column of theta, (m, n)."""
    total, axis = problem.usable.size, problem.axis
    size = problem.size_for(which.size, total)
    if size == total and np.bincount(which).max() == 1:  # no lane twice
        data, own = problem.data, which
        begin = np.zeros((len(theta), total))
        begin[:, which] = theta
    else:
        lanes, own = _padded(np.arange(which.size), size), np.arange(which.size)
        data, begin = problem.pick(problem.data, which[lanes], total), theta[:, lanes]
    runs = np.zeros(size, bool)
    runs[own] = problem.usable[which]
    state = unknown_state(begin, problem.shapes, axis)
    state = state._replace(status=_status(runs))
    place, done = np.arange(size), None  # where the lanes of the batch were in the first one
    while True:
        few, last = problem.next_size(size), defer and size < total
        state = problem.advance(state, data, few)
        ends = _ends(state, problem)
        first = slice(place.size)  # copies of a lane fill the rest
        done = ends if done is None else _put(done, take(ends, first, axis), place, axis)
        going = np.flatnonzero(ends.status[first] == RUNNING)
        if last or not going.size:
            return take(done, own, axis)
        place, before = place[going], size
        size = few if defer else problem.size_for(going.size, few)
        data, state = problem.pick((data, state), _padded(going, size), before)
        state = state._replace(status=_status(np.arange(size) < going.size))


def _ends(s: State, problem: LaneProblem) -> Solution:
    """See :func:`lmm_jax.optimize.newton.finish`; on the host."""
    ends = jax.device_get(Solution(s.theta, problem.kept(s.jet), s.status, s.tick, s.decrement))
    return ends._replace(n_iter=np.maximum(ends.n_iter - 1, 0))


def _status(runs: np.ndarray) -> Any:
    return np.where(runs, RUNNING, NONFINITE).astype(np.int32)


def _padded(lanes: np.ndarray, size: int) -> np.ndarray:
    """Lanes, the last one repeated."""
    return lanes[np.minimum(np.arange(size), lanes.size - 1)]


def take(tree: Any, at: Any, axis: int) -> Any:
    """Some lanes of a tree of NumPy arrays."""
    return jax.tree.map(lambda leaf: leaf[at] if axis == 0 else leaf[..., at], tree)


def _put(tree: Any, values: Any, at: np.ndarray, axis: int) -> Any:
    """The tree with some of its lanes replaced."""

    def put(leaf: np.ndarray, new: np.ndarray) -> np.ndarray:
        out = np.array(leaf)
        out[at if axis == 0 else (..., at)] = new
        return out

    return jax.tree.map(put, tree, values)
