"""The host driver of lanes, on a criterion that takes as many ticks as it is told."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmm_jax.batches.driver import LaneProblem, minimize_all
from lmm_jax.covariance.structures import unstructured
from lmm_jax.optimize.better import better, second_is_better
from lmm_jax.optimize.minimize import off_boundary
from lmm_jax.optimize.newton import CONVERGED, MAXITER, NONFINITE, RUNNING, Solution, unknown_state

R = 64
TERMS = unstructured((2, 1))  # theta has 3 + 1 entries


class Value(NamedTuple):
    value: np.ndarray
    noise: np.ndarray


class Data(NamedTuple):
    """Ticks that a lane needs, and the optimum that it then has for a start and elsewhere."""

    ticks: np.ndarray  # (R,)
    low: np.ndarray  # (R,)  value reached from starts with a first entry of at least one
    high: np.ndarray  # (R,)  and from others


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem(LaneProblem):
    """A run ends where it began; it is the start that decides how low that is."""

    seen: list[int]  # sizes of the batches, one after the other
    lost: list[float]  # optima that are not found

    def advance(self, s, data, least):
        self.seen.append(data.ticks.size)
        tick, status = s.tick.copy(), s.status.copy()
        while (status == RUNNING).sum() > least:
            tick += status == RUNNING
            done = (status == RUNNING) & (tick > data.ticks)
            status[done] = np.where(np.isin(data.low[done], self.lost), MAXITER, CONVERGED)
        first = s.theta[..., 0] if self.axis == 0 else s.theta[0]
        value = np.where(tick > 0, np.where(first >= 1, data.low, data.high), np.inf)
        return s._replace(jet=Value(value, np.zeros_like(value)), tick=tick, status=status)

    def smaller(self, size):
        return size // 4 if size > 4 else 0


def problem(axis, seen, *, lost=(), usable=None, any_size=False):
    order = np.random.default_rng(0).permutation(R)
    return Problem(
        data=Data(order + 1, order.astype(float), order + 0.5),
        usable=np.ones(R, bool) if usable is None else usable,
        axis=axis,
        structures=TERMS,
        shapes=Value(np.zeros(()), np.zeros(())),
        seen=seen,
        lost=list(lost),
        any_size=any_size,
    )


def interior(first):
    return np.tile(np.array([first, 0.3, 1.0, 1.0])[:, None], R)


@pytest.mark.parametrize("axis", [0, -1])
def test_batches_shrink_and_every_lane_keeps_its_place(axis):
    seen = []
    task = problem(axis, seen)
    best = minimize_all(task, interior(2.0)[None], np.ones((1, R), bool))
    assert seen == [64, 16, 4]
    assert (best.status == CONVERGED).all()
    assert (best.n_iter == task.data.ticks).all()
    assert (best.jet.value == task.data.low).all()
    assert best.theta.shape == ((R, 4) if axis == 0 else (4, R))


@pytest.mark.parametrize("axis", [0, -1])
def test_the_better_start_wins_and_few_lanes_run_in_a_small_batch(axis):
    seen = []
    task = problem(axis, seen)
    again = np.arange(R) % 8 == 3
    starts = np.stack([interior(0.5), interior(2.0)])
    best = minimize_all(task, starts, np.stack([np.ones(R, bool), again]))
    assert seen == [64, 16, 4, 16, 4]
    assert (best.jet.value == np.where(again, task.data.low, task.data.high)).all()
    assert (best.n_iter == np.where(again, 2, 1) * task.data.ticks).all()
    theta = np.moveaxis(best.theta, axis, -1)
    assert (theta[0] == np.where(again, 2.0, 0.5)).all()


@pytest.mark.parametrize("axis", [0, -1])
def test_boundaries_and_lost_lanes_are_challenged(axis):
    seen, start = [], interior(2.0)
    start[2, :5] = 0.0  # a singular term: the challenge opens it to 0.5, where values are higher
    task = problem(axis, seen, lost=(7.0, 8.0))
    best = minimize_all(task, start[None], np.ones((1, R), bool))
    lost = np.isin(task.data.low, (7.0, 8.0))
    assert (best.n_iter == np.where(np.arange(R) < 5, 2, 1) * task.data.ticks).all()
    assert (best.status == np.where(lost, MAXITER, CONVERGED)).all()
    best = minimize_all(task, start[None], np.ones((1, R), bool), reopen=True)
    twice = lost | (np.arange(R) < 5)
    assert (best.n_iter == np.where(twice, 2, 1) * task.data.ticks).all()
    assert (best.jet.value == task.data.low).all()


@pytest.mark.parametrize("axis", [0, -1])
def test_the_last_lanes_may_be_put_off_and_unusable_ones_never_run(axis):
    seen, usable = [], np.arange(R) != 10
    task = problem(axis, seen, usable=usable)
    starts = np.stack([interior(0.5), interior(2.0)])
    best = minimize_all(task, starts, np.ones((2, R), bool), defer=True)
    assert seen == [64, 16, 64, 16]
    slow = (task.data.ticks > np.sort(task.data.ticks[usable])[-5]) & usable
    assert (best.status == np.where(slow, RUNNING, np.where(usable, CONVERGED, NONFINITE))).all()
    done = usable & ~slow
    assert (best.jet.value[done] == task.data.low[done]).all()
    assert best.n_iter[10] == 0 and np.isinf(best.jet.value[10])


@pytest.mark.usefixtures("x64")
def test_the_rules_for_lanes_are_those_for_one():
    rng = np.random.default_rng(1)
    theta = rng.normal(size=(4, 9)) * rng.integers(0, 2, (4, 9))
    opened, cornered = off_boundary(theta, TERMS)
    for i in range(9):
        one, corner = off_boundary(jnp.asarray(theta[:, i]), TERMS)
        np.testing.assert_array_equal(opened[:, i], one)
        assert cornered[i] == corner
        state = unknown_state(jnp.asarray(theta[:, i]), Value(np.zeros(()), np.zeros(())))
        for axis in (0, -1):
            many = unknown_state(theta, Value(np.zeros(()), np.zeros(())), axis)
            np.testing.assert_allclose(many.radius[i], state.radius, rtol=1e-15)
            np.testing.assert_array_equal(np.moveaxis(many.theta, axis, -1)[:, i], state.theta)
    values = np.array([1.0, 1.0 + 1e-12, 0.5, np.nan, np.inf])
    cases = [Solution(None, Value(v, np.zeros(())), s, 1, 0.0) for v in values
             for s in (CONVERGED, MAXITER, NONFINITE)]  # fmt: skip
    with np.errstate(invalid="ignore"):
        for a in cases:
            for b in cases:
                x, y = (c._replace(theta=jnp.zeros(1)) for c in (a, b))
                chosen = better(x._replace(theta=x.theta), y._replace(theta=y.theta + 1.0))
                assert bool(second_is_better(a, b)) == bool(chosen.theta[0] == 1.0)


@pytest.mark.parametrize("axis", [0, -1])
def test_all_starts_side_by_side_are_the_same_runs(axis):
    """More runs than lanes, in two parts, and lanes that occur more than once in each."""
    rng, usable = np.random.default_rng(1), np.arange(R) != 10
    starts = np.stack([interior(0.5), *(interior(first) for first in rng.uniform(0, 2, 6))])
    wanted = rng.random((7, R)) < 0.9
    best = []
    for any_size in (False, True):
        seen = []
        task = problem(axis, seen, usable=usable, any_size=any_size)
        best.append(minimize_all(task, starts, wanted))
    assert (wanted[1:] & usable).sum() > 256 >= max(seen) > R
    assert len(seen) > 2 and min(seen) >= 2
    for one, other in zip(*map(jax.tree.leaves, best), strict=True):
        np.testing.assert_array_equal(one, other)
