"""Runs that end because another has found where they go: which ones, and that nothing is lost."""

import jax
import numpy as np
import pytest

import lmm_jax as lmm
from lmm_jax.likelihood.profile import profile_jet
from lmm_jax.numerics.stacked import Stacked, stacked
from lmm_jax.optimize import minimize
from lmm_jax.optimize.followers import without_followers
from lmm_jax.optimize.newton import CONVERGED, RUNNING, STALLED, state_at

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
    assert ends(state, layout) == [CONVERGED, STALLED, RUNNING, STALLED]


def test_nothing_ends_before_an_optimum_is_known(machines):
    layout, theta = machines
    state = lanes_at(layout, [theta, 1.001 * theta], first=RUNNING)
    assert without_followers(state, layout.structures) is state


@pytest.mark.parametrize("change", ["gradient", "hessian", "value"])
def test_a_run_that_goes_elsewhere_goes_on(machines, change):
    layout, theta = machines
    state = lanes_at(layout, [theta, 1.01 * theta])
    assert ends(state, layout) == [CONVERGED, STALLED]
    lanes = getattr(state.jet, change).lanes.copy()
    if change == "value":
        lanes[..., 1] = lanes[..., 0] - 1e-3  # lower than the optimum that is known
    else:
        lanes[..., 1] *= -1.0
    other = state._replace(jet=state.jet._replace(**{change: Stacked(lanes)}))
    assert ends(other, layout) == [CONVERGED, RUNNING]


def test_an_optimum_that_is_flat_has_no_followers(machines):
    layout, theta = machines
    state = lanes_at(layout, [theta, 1.001 * theta])
    hessian = state.jet.hessian.lanes.copy()
    hessian[0, :, 0] = hessian[:, 0, 0] = 0.0
    flat = state._replace(jet=state.jet._replace(hessian=Stacked(hessian)))
    assert ends(flat, layout) == [CONVERGED, RUNNING]


@pytest.mark.parametrize("seed", range(12))
def test_the_fit_is_that_of_runs_to_their_ends(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    k, groups = 2 + seed % 2, np.repeat(np.arange(4 + seed % 4), 6)
    X = np.column_stack([np.ones(groups.size), rng.normal(size=(groups.size, k - 1))])
    b = rng.normal(size=(groups.max() + 1, k)) * 10.0 ** rng.uniform(-2, 1, size=k)
    y = np.sum(X * b[groups], axis=1) + rng.standard_t(2, size=groups.size)  # several optima
    design = lmm.design_from_arrays(y, X, groups, exog_re=X)
    fit = lmm.fit(design, runtime="numpy")
    monkeypatch.setattr(minimize, "without_followers", lambda state, structures: state)
    whole = lmm.fit(design, runtime="numpy")
    assert fit.converged == whole.converged
    assert fit.n_iter < whole.n_iter
    np.testing.assert_allclose(fit.llf, whole.llf, rtol=1e-12)
    np.testing.assert_allclose(fit.cov_re, whole.cov_re, rtol=1e-7, atol=1e-9)
