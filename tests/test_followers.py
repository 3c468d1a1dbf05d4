"""Runs that end because another has found where they go: which ones, and that nothing is lost."""

from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
import pytest

import lmm_jax as lmm
from lmm_jax.covariance.structures import unstructured
from lmm_jax.likelihood.profile import profile_jet
from lmm_jax.numerics.stacked import Stacked, stacked
from lmm_jax.optimize import minimize
from lmm_jax.optimize.followers import _signs, without_followers
from lmm_jax.optimize.newton import CONVERGED, FOLLOWED, RUNNING, newton, state_at

# the likelihood at an optimum is flat: its value has all digits, theta half as many
SAME, OPTIMUM = 1e-12, 1e-7
OTHER_SIGNS = np.array([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0])  # the first column of Lambda


@pytest.fixture(scope="module")
def machines():
    """The layout of a model with one optimum, and its theta there."""
    data = lmm.load_dataset("machines")
    design = lmm.design("score ~ Machine + (Machine | Worker)", data)
    layout = jax.tree.map(np.asarray, design.compressed.layout)
    found = minimize.minimize(layout, reml=True, maxiter=200)
    assert found.status == CONVERGED
    return layout, np.asarray(found.theta)


def lanes_at(layout, thetas, *, first=CONVERGED):
    """Runs at some thetas, the first of which has ended."""
    state = stacked(
        jax.tree.map(
            lambda *rows: np.stack(rows),
            *[state_at(theta, profile_jet(theta, layout, reml=True)) for theta in thetas],
        )
    )
    status = np.full(len(thetas), RUNNING, np.int32)
    status[0] = first
    return state._replace(status=Stacked(status))


def ends(state, layout):
    return without_followers(state, layout.structures).status.lanes.tolist()


def test_runs_that_go_to_an_optimum_are_ended(machines):
    layout, theta = machines
    near = theta + 0.01 * np.array([1.0, -1.0, 1.0, 1.0, -1.0, 1.0])
    far = 0.3 * theta
    state = lanes_at(layout, [theta, near, far, OTHER_SIGNS * near])
    assert ends(state, layout) == [CONVERGED, FOLLOWED, RUNNING, FOLLOWED]


def test_nothing_ends_before_an_optimum_is_known(machines):
    layout, theta = machines
    state = lanes_at(layout, [theta, 1.001 * theta], first=RUNNING)
    assert without_followers(state, layout.structures) is state


# what a run has in the place of what it is at, near the optimum: a function of that
ELSEWHERE = {
    "uphill": {"gradient": lambda g: -g},
    "bent down": {"hessian": lambda h: -h},
    "from a hilltop": {"gradient": lambda g: -g, "hessian": lambda h: -h},
    "a valley beside": {"gradient": lambda g: g + 3.0},
    "no curvature known": {"hessian": lambda h: h * np.nan},
    "lower": {"value": lambda f: f - 1e-3},
    "much higher": {"value": lambda f: f + 1e-1},
}


@pytest.mark.parametrize("change", ELSEWHERE)
def test_a_run_that_goes_elsewhere_goes_on(machines, change):
    layout, theta = machines
    state = lanes_at(layout, [theta, 1.01 * theta])
    assert ends(state, layout) == [CONVERGED, FOLLOWED]
    for name, fun in ELSEWHERE[change].items():
        lanes = getattr(state.jet, name).lanes.copy()
        lanes[..., 1] = fun(lanes[..., 1])
        state = state._replace(jet=state.jet._replace(**{name: Stacked(lanes)}))
    assert ends(state, layout) == [CONVERGED, RUNNING]


def test_signs_are_those_of_columns():
    structures = unstructured((3, 2))
    theta = np.array([-1.0, 0.0, 2.0, 3.0, -4.0, -5.0, 1.0, -2.0, 0.0])[:, None]
    want = np.array([-1.0, -1.0, -1.0, 1.0, 1.0, -1.0, 1.0, 1.0, 1.0])
    np.testing.assert_array_equal(_signs(theta, structures)[:, 0], want)


class Hill(NamedTuple):
    """A criterion of one variance with optima at zero and, lower, at one."""

    value: Any
    gradient: Any
    hessian: Any
    psi_gradients: tuple[Any, ...]
    psi_halves: tuple[Any, ...]
    noise: Any


def hill(theta):
    """``0.4 (c^2 / 2 - 5.6^(1/2) c^4 / 4 + c^6 / 6)``, least where c^2 = 1.82, and at 0."""
    c, b = theta[0], np.sqrt(5.6)
    slope = 0.4 * (c - b * c**3 + c**5)
    return Hill(
        value=0.4 * (c**2 / 2 - b * c**4 / 4 + c**6 / 6),
        gradient=slope[None],
        hessian=(0.4 * (1.0 - 3.0 * b * c**2 + 5.0 * c**4))[None, None],
        psi_gradients=(0.2 * (1.0 - b * c**2 + c**4)[None, None],),
        psi_halves=(0.5 * slope[None, None],),
        noise=0.0 * c,
    )


@pytest.mark.parametrize("start", [1.05, 1.08, 1.0877, 1.1, 1.2])
def test_a_run_on_the_other_side_of_a_hill_finds_its_own_optimum(start):
    structures = unstructured((1,))
    theta = Stacked(np.array([[1e-6, start]]))
    found = newton(
        theta,
        hill,
        structures,
        maxiter=100,
        after=lambda s: without_followers(s, structures),
    )
    b = np.sqrt(5.6)
    best = np.sqrt((b + np.sqrt(b**2 - 4.0)) / 2.0)  # where the derivative is zero
    assert found.status.lanes.tolist() == [CONVERGED, CONVERGED]
    np.testing.assert_allclose(found.theta.lanes[0, 1], best, rtol=OPTIMUM)


def test_an_optimum_that_is_flat_has_no_followers(machines):
    layout, theta = machines
    state = lanes_at(layout, [theta, 1.001 * theta])
    hessian = state.jet.hessian.lanes.copy()
    hessian[0, :, 0] = hessian[:, 0, 0] = 0.0
    flat = state._replace(jet=state.jet._replace(hessian=Stacked(hessian)))
    assert ends(flat, layout) == [CONVERGED, RUNNING]


def hard_data(seed):
    """Few groups and heavy tails: several optima are not rare."""
    rng = np.random.default_rng(seed)
    k, groups = 2 + seed % 2, np.repeat(np.arange(4 + seed % 4), 6)
    X = np.column_stack([np.ones(groups.size), rng.normal(size=(groups.size, k - 1))])
    b = rng.normal(size=(groups.max() + 1, k)) * 10.0 ** rng.uniform(-2, 1, size=k)
    y = np.sum(X * b[groups], axis=1) + rng.standard_t(2, size=groups.size)
    return lmm.design_from_arrays(y, X, groups, exog_re=X)


def assert_those_of_whole_runs(designs, name, nobody, monkeypatch):
    """Fits in which runs may follow others, and in which nobody does, end at the same optima."""
    fits = [lmm.fit(design, runtime="numpy") for design in designs]
    monkeypatch.setattr(minimize, name, nobody)
    whole = [lmm.fit(design, runtime="numpy") for design in designs]
    for fit, other in zip(fits, whole, strict=True):
        assert fit.converged == other.converged
        np.testing.assert_allclose(fit.llf, other.llf, rtol=SAME)
        np.testing.assert_allclose(fit.cov_re, other.cov_re, rtol=OPTIMUM, atol=OPTIMUM)
    assert sum(fit.n_iter for fit in fits) < 0.9 * sum(fit.n_iter for fit in whole)


def test_fits_are_those_of_runs_to_their_ends(monkeypatch):
    designs = [hard_data(seed) for seed in range(24)]
    nobody = lambda state, structures: state  # noqa: E731
    assert_those_of_whole_runs(designs, "without_followers", nobody, monkeypatch)


def hard_places(seed, name):
    """Few subjects at random places, of whose nuggets several optima are not rare."""
    rng = np.random.default_rng(seed)
    N, k = 6, 8
    u, v = rng.uniform(0.0, 10.0, (2, N, k))
    apart = np.hypot(u[:, :, None] - u[:, None], v[:, :, None] - v[:, None])
    R = np.exp(-apart / rng.uniform(0.5, 6.0)) + rng.uniform(0.0, 2.0) * np.eye(k)
    y = np.einsum("nij,nj->ni", np.linalg.cholesky(R), rng.normal(size=(N, k)))
    columns = {"y": y, "u": u, "v": v, "id": np.repeat(np.arange(N), k).reshape(N, k)}
    frame = pd.DataFrame({name: column.ravel() for name, column in columns.items()})
    return lmm.design(f"y ~ 1 + {name}(u + v | id, nugget=True)", frame)


@pytest.mark.parametrize("name", ["sp_exp", "sp_sph"])
def test_fits_one_after_another_are_those_of_runs_to_their_ends(name, monkeypatch):
    designs = [hard_places(seed, name) for seed in range(8)]
    nobody = lambda found, structures: None  # noqa: E731
    assert_those_of_whole_runs(designs, "ends_at_known", nobody, monkeypatch)
