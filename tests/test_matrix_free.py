"""The matrix-free layout: its estimate against dense matrices, its fits against exact ones."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax.covariance.theta import factor_blocks
from lmm_jax.layouts import plan
from lmm_jax.layouts.matrix_free import compress, squares, trace
from lmm_jax.layouts.matrix_free.layout import MatrixFreeLayout
from lmm_jax.layouts.matrix_free.system import system_at
from lmm_jax.likelihood.profile import profile_jet
from lmm_jax.numerics import sparse_rows
from lmm_jax.numerics.krylov import conjugate_gradients, lanczos, log_kernel
from lmm_jax.numerics.processes import float64

SOLVED = 1e-9  # solves end at a residual of 1e-11
SLOPE = 1e-7  # differences of step 1e-5: rounding of values of size 1e3, the cube of the step
RUNTIMES = 1e-9  # NumPy and JAX: the same sums in another order, and Lanczos vectors of them
ERRORS = 4.0  # Monte Carlo standard errors: one of 16,000 numbers that were right is farther off

MODELS = {
    "intercepts": "y ~ x + (1 | s) + (1 | d)",
    "slopes": "y ~ x + (1 + x | s) + (1 + z | d)",
    "three factors": "y ~ x + (1 + x | s) + (1 | d) + (1 | A)",
    "one factor twice": "y ~ x + (1 + x || s) + (1 | d)",
    "nested beside crossed": "y ~ x + (1 | s) + (1 | d) + (1 | d:visit)",
    "structured": "y ~ x + cs(1 + x | s, hom=True) + (1 | d)",
}


def frame(seed: int = 0, n: int = 600, students: int = 80, items: int = 30) -> pd.DataFrame:
    """Ratings of items by students, with weights."""
    rng = np.random.default_rng(seed)
    s, d = rng.integers(0, students, n), rng.integers(0, items, n)
    x, z = rng.normal(size=(2, n))
    effects = rng.normal(size=students)[s] + 0.8 * rng.normal(size=items)[d]
    slopes = 0.6 * rng.normal(size=students)[s] * x + 0.5 * rng.normal(size=items)[d] * z
    y = 2 + x + effects + slopes + rng.normal(size=n)
    named = {"visit": rng.integers(0, 3, n), "A": rng.integers(0, 3, n)}
    return pd.DataFrame({"y": y, "x": x, "z": z, "s": s, "d": d, **named, "w": 0.5 + rng.random(n)})


@cache
def layouts(name: str, n_probes: int = 160) -> tuple[MatrixFreeLayout, lmm.CrossedLayout]:
    """The same rows without matrices, with very many probes, and with a dense core."""
    design = lmm.design(MODELS[name], frame(), weights="w")
    free = replace(design, approximate=True)
    layout = free.compressed.layout
    probes = compress.signs(layout.probes.shape[0], n_probes)
    exact = replace(design, approximate=False).compressed.layout
    return replace(layout, probes=probes), exact


def theta_of(layout: lmm.CrossedLayout) -> np.ndarray:
    rng = np.random.default_rng(1)
    start = layout.start_moments()
    return start * rng.uniform(0.7, 1.4, start.size) + 0.1 * rng.uniform(size=start.size)


# ------------------------------------------------------------ Krylov spaces


def spread(n: int = 60, seed: int = 3) -> np.ndarray:
    """A positive definite matrix with eigenvalues between 0.01 and 2."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.normal(size=(n, n)))[0]
    return Q * np.append(np.geomspace(0.01, 0.5, 5), np.linspace(0.8, 2.0, n - 5)) @ Q.T


def test_conjugate_gradients_solve():
    A, b = spread(), np.random.default_rng(0).normal(size=(60, 3))
    b[:, 1] = 0.0
    found = conjugate_gradients(lambda x: A @ x, b, tol=1e-13, maxiter=200)
    assert_close(found.x, np.linalg.solve(A, b), 1e-10, 1)
    assert (found.residual <= 1e-13).all() and not found.x[:, 1].any()
    early = conjugate_gradients(lambda x: A @ x, b, tol=1e-13, maxiter=5)
    assert early.steps == 5 and early.residual[0] > 1e-6


def test_quadrature_of_the_logarithm_and_its_derivative():
    A, rng = spread(), np.random.default_rng(0)
    start = np.linalg.qr(rng.normal(size=(60, 4)))[0]
    start[:, 3] = np.linalg.eigh(A)[1][:, 7]  # a space of one dimension
    a, b = 0.9, -0.4

    def value(A: np.ndarray) -> np.ndarray:
        e, V = np.linalg.eigh(A)
        f = (V * (np.log(e) - a * (e - 1) - b * (e - 1) ** 2)) @ V.T
        return np.einsum("nc,nm,mc->c", start, f, start)

    space = lanczos(lambda x: A @ x, start, tol=1e-12, maxiter=60)
    kernel = log_kernel(space.T, np.asarray(a), np.asarray(b))
    assert_close(kernel.value, value(A), 1e-11)
    D = rng.normal(size=(60, 60))
    D = D + D.T
    fd = (value(A + 1e-5 * D) - value(A - 1e-5 * D)) / 2e-5
    u = np.einsum("knc,ckr->cnr", space.basis, kernel.vectors)
    got = np.einsum("cr,cnr,nm,cmr->c", kernel.weights, u, D, u)
    assert_close(got, fd, 1e-6, 1)  # the third derivative times the squared step


# ------------------------------------------------------------ the estimate


@pytest.mark.parametrize("name", MODELS)
def test_the_estimate_is_that_of_dense_matrices(name):
    """Value and slopes within their standard errors; the gram matrix has no error."""
    layout, exact = layouts(name)
    theta = theta_of(exact)
    got, want = layout.jet(theta), exact.jet(theta)
    errors = layout.monte_carlo(theta)
    assert abs(got.waist.logdet - want.waist.logdet) < ERRORS * errors.logdet + 1e-9
    apart = got.dlogdet - want.dlogdet
    assert (np.abs(apart) < ERRORS * np.sqrt(np.diagonal(errors.dlogdet)) + 1e-6).all()
    assert errors.logdet < 0.05
    for reml in (True, False):  # both layouts have their own unit of y and of beta
        a, b = (profile_jet(theta, at, reml=reml) for at in (layout, exact))
        scale = 1 + abs(errors.logdet)
        assert abs(a.value - b.value) < ERRORS * errors.logdet + 1e-8 * scale
        assert_close(a.profile.cov_beta, b.profile.cov_beta, SOLVED, 1)
        assert_close(a.dlog_scale, b.dlog_scale, 1e-7, 1)
        assert_close(a.hessian, b.hessian, 0.02, np.abs(b.hessian).max())


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_the_slope_is_that_of_the_estimate(name, square):
    """Differences of the estimate on the same probes, not of what it estimates."""
    layout, exact = layouts(name, 3)
    if square and not squares.fits(layout):
        pytest.skip("sums of squares are those of two intercepts")
    layout, theta = replace(layout, square=square), theta_of(exact)
    slope = layout.jet(theta).dlogdet

    def value(theta: np.ndarray) -> float:
        return trace.log_det_value(
            system_at(factor_blocks(theta, layout.structures), layout).at, layout
        )

    steps = 1e-5 * np.eye(theta.size)
    fd = [(value(theta + h) - value(theta - h)) / 2e-5 for h in steps]
    assert_close(slope, fd, SLOPE, np.abs(slope).max())


def test_the_sum_of_squares_is_exact():
    layout, exact = layouts("intercepts", 2)
    theta = theta_of(exact)
    at = system_at(factor_blocks(theta, layout.structures), layout).at
    N = layout.probes.shape[0]
    X = trace.apply(np.eye(N), at, layout) - np.eye(N)
    found = squares.squares(at, layout)
    assert_close(found.total, np.sum(X**2), 1e-10)
    assert_close(found.rows, np.sum(X**2, axis=1), 1e-10)
    assert np.abs(np.diagonal(X)).max() < 1e-12


@pytest.mark.parametrize("square", [False, True])
def test_standard_errors_are_those_of_other_probes(square):
    """40 sets of probes: their spread is the standard error, their mean the truth."""
    layout, exact = layouts("intercepts", 6)
    layout, theta = replace(layout, square=square), theta_of(exact)
    values, errors = [], []
    for seed in range(40):
        own = replace(layout, probes=compress.signs(layout.probes.shape[0], 6, seed))
        values.append(own.waist_at(theta).logdet)
        errors.append(own.monte_carlo(theta).logdet ** 2)
    truth = exact.waist_at(theta).logdet
    spread = np.std(values, ddof=1)
    assert 0.6 < spread / np.sqrt(np.mean(errors)) < 1.6
    assert abs(np.mean(values) - truth) < ERRORS * spread / np.sqrt(40)


def test_large_effects_do_not_widen_the_error():
    """The direction in which M is then nearly singular is not left to probes."""
    layout, exact = layouts("intercepts", 8)
    errors = [layout.monte_carlo(np.full(2, size)).logdet for size in (1.0, 100.0)]
    assert errors[1] < 3 * errors[0]
    theta = np.full(2, 100.0)
    apart = layout.waist_at(theta).logdet - exact.waist_at(theta).logdet
    assert abs(apart) < ERRORS * errors[1]


# ------------------------------------------------------------ fits


@cache
def fits(name: str) -> tuple[lmm.LMMResults, lmm.LMMResults]:
    data, formula = frame(2, 8000, 900, 200), MODELS[name]
    return lmm.fit(formula, data, approximate=True), lmm.fit(formula, data, approximate=False)


@pytest.mark.parametrize("name", ["intercepts", "slopes", "three factors"])
def test_fits_are_near_exact_ones(name):
    got, want = fits(name)
    at = got.approximation
    assert got.converged and want.approximation is None
    assert abs(got.llf - want.llf) < min(0.05, ERRORS * at.llf_se)
    assert (np.abs(got.theta - want.theta) < 3 * at.theta_se + 1e-8).all()
    assert (at.theta_se < 0.01 * np.sqrt(np.diagonal(want.estimates.joint_cov)[:-1]).max()).all()
    assert_close(got.fe_params, want.fe_params, 1e-5, 1)
    assert_close(got.bse_fe, want.bse_fe, 1e-4)
    assert_close(got.df, want.df, 0.02)
    assert_close(got.bse_re, want.bse_re, 0.01)


def test_random_effects_and_their_conditional_variances():
    got, want = fits("slopes")
    for group in ("s", "d"):
        a, b = got.random_effects[group].to_numpy(), want.random_effects[group].to_numpy()
        assert_close(a, b, 1e-3, b.std())
        a, b = (np.array(list(r.random_effects_cov[group].values())) for r in (got, want))
        assert_close(a, b, 0.03, np.abs(b).max())


def test_a_variance_of_zero():
    data = frame(3)
    rng = np.random.default_rng(0)
    data["y"] = data["x"] + rng.normal(size=80)[data["s"]] + rng.normal(size=len(data))
    got = lmm.fit("y ~ x + (1 | s) + (1 | d)", data, approximate=True)
    want = lmm.fit("y ~ x + (1 | s) + (1 | d)", data)
    assert want.singular and got.singular and got.converged
    assert_close(got.llf, want.llf, 1e-8)
    assert_close(got.theta, want.theta, 1e-6, 1)


def test_the_result_says_so():
    res = fits("intercepts")[0]
    text = str(res.summary())
    assert "approximate, Monte Carlo standard error" in text.replace("\n", " ")
    assert f"{res.approximation.n_probes} fixed probes" in text
    assert res.layout_info.kind == "matrix-free"
    assert "approximate" in str(res.layout_info)
    assert "approximate" not in str(fits("intercepts")[1].summary())


# ------------------------------------------------------------ who gets it


def test_where_a_core_does_not_fit(monkeypatch):
    """By default the last resort; never where the user says so."""
    monkeypatch.setattr(plan, "_LARGE_CORE", 10)
    monkeypatch.setattr(plan, "room_for", lambda columns, blocks: False)
    monkeypatch.setattr(plan, "plan_sparse", lambda *args, **limits: None)
    data = frame()
    info = lmm.design(MODELS["intercepts"], data).layout_info
    assert info.kind == "matrix-free" and "memory" in info.reason
    assert info.eliminated == ("1 | s",) and info.n_groups == data["s"].nunique()
    exact = replace(lmm.design(MODELS["intercepts"], data), approximate=False)
    assert exact.layout_info.kind == "crossed"


def test_where_a_core_takes_too_long(monkeypatch):
    monkeypatch.setattr(plan, "_LARGE_CORE", 10)
    monkeypatch.setattr(plan, "_LONG", 0.0)
    monkeypatch.setattr(plan, "plan_sparse", lambda *args, **limits: None)
    info = lmm.design(MODELS["intercepts"], frame()).layout_info
    assert info.kind == "matrix-free" and "minutes" in info.reason


def test_nested_factors_are_exact_in_any_case():
    res = lmm.fit("y ~ x + (1 | s)", frame(), approximate=True)
    assert res.approximation is None and res.layout_info.kind == "grouped"


@pytest.mark.parametrize("value", ["yes", 1, 0.5])
def test_other_values_are_refused(value):
    with pytest.raises(lmm.DataError, match="approximate"):
        lmm.fit("y ~ x + (1 | s) + (1 | d)", frame(), approximate=value)


# ------------------------------------------------------------ two runtimes


@pytest.mark.parametrize("name", ["intercepts", "slopes"])
def test_jax_gives_the_same(name):
    layout, exact = layouts(name, 2)
    theta = theta_of(exact)
    with float64():
        on_device = jax.tree.map(jnp.asarray, layout)

    @jax.jit
    def numbers(theta: jax.Array, layout: MatrixFreeLayout) -> tuple[jax.Array, ...]:
        jet = layout.jet(theta)
        return jet.waist.logdet, jet.waist.gram, jet.dlogdet, jet.dgram

    with float64():
        got = numbers(jnp.asarray(theta), on_device)
    jet = layout.jet(theta)
    want = jet.waist.logdet, jet.waist.gram, jet.dlogdet, jet.dgram
    for a, b in zip(got, want, strict=True):
        assert_close(a, b, RUNTIMES, np.abs(b).max())


def test_a_wide_product_goes_column_by_column(monkeypatch):
    layout, _ = layouts("intercepts", 2)
    link = layout.core.A.links[0]
    x = np.random.default_rng(0).normal(size=(link.at.n_columns, 3))
    want = sparse_rows.multiply(link.values[0, 0], link.at, x)
    monkeypatch.setattr(sparse_rows, "_MOST_PRODUCTS", 1)
    with float64():
        on_device = jax.tree.map(jnp.asarray, link)
        got = jax.jit(partial(sparse_rows.multiply, x=jnp.asarray(x)))(
            on_device.values[0, 0], on_device.at
        )
    assert_close(got, want, 1e-13, np.abs(want).max())
