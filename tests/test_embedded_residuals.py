"""Models with a residual covariance inside programs: their rows compressed, fitted, differentiated.

What a layout says of its rows is compared with dense matrices elsewhere; here a layout that a
program makes of rows is that of a design of the same rows.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax.errors import DataError

RTOL = 1e-11  # the same sums in another order
FIT_RTOL = 1e-9  # two runs to an optimum of decrement 1e-9, which the last step squares
# central differences: step^2 of the third derivative, and rounding (1e-11) over the step
STEP, DIFF_RTOL = 1e-4, 1e-6
FLOAT32_RTOL = 1e-5  # sums over 60 rows, eps = 6e-8

rng = np.random.default_rng(3)
DATA = samples.frame().assign(visit=np.arange(60) % 6)
DATA["time"] = DATA["visit"] + rng.uniform(-0.3, 0.3, 60)
DATA["visit"] = DATA["visit"].map(lambda k: f"v{k}")
DATA["site"] = np.repeat(["p", "q"], 30)
DATA["arm"] = np.where(np.arange(60) < 30, "a", "b")
KEPT = ~DATA.index.isin([3, 14, 15])  # subjects who were not seen at every visit
DATA = DATA[KEPT].reset_index(drop=True)
ABSENT = np.array([0, 7, 8, 20, 33, len(DATA) - 1])  # first, in between, two in a row, last

MODELS = {
    "autoregressive": "y ~ x + ar1(visit | g)",
    "beside an intercept": "y ~ x + (1 | g) + ar1h(visit | g)",
    "continuous time": "y ~ x + car1(time | g) * power(o)",
    "an arm each": "y ~ x + ar1(visit | arm / g)",
    "symmetric": "y ~ x + (0 + x | g) + cs(visit | g)",
    "in space": "y ~ x + sp_gau(time | g)",
    "subjects of centres": "y ~ x + (1 | site) + cs(visit | g)",
}


def rows_of(design):
    """y, X, Z, weights of a design, as a caller would have them."""
    y, X, Z, w, _ = design.padded_rows()
    n = design.nobs
    return y[:n], X[:n], tuple(z[:n] for z in Z), w[:n]


def made(name, data=DATA):
    design = lmm.design(MODELS[name], data.assign(o=np.abs(data["o"]) + 0.5), weights="w")
    return design, lmm.row_index(design), rows_of(design)


def some_theta(design):
    m = sum(s.n_params for s in design.layout.structures)
    return jnp.linspace(-0.4, 0.6, m)


@jax.jit
def value(theta, rows, index):
    return lmm.profile_loglike(theta, lmm.compress(*rows, index))


@pytest.mark.device
@pytest.mark.parametrize("name", MODELS)
def test_rows_make_the_layout_of_their_design(x64, name):
    """Where all rows are there, and where some weigh nothing and hold anything."""
    design, index, (y, X, Z, w) = made(name)
    theta = some_theta(design)
    expected = lmm.profile_loglike(theta, design.layout)
    assert_close(value(theta, (y, X, Z, w), index), expected, RTOL)

    fewer, _, _ = made(name, DATA.drop(index=ABSENT))
    y[ABSENT], w[ABSENT], X[ABSENT] = np.nan, 0.0, np.inf
    expected = lmm.profile_loglike(theta, fewer.layout)
    assert_close(value(theta, (y, X, Z, w), index), expected, RTOL)


@pytest.mark.parametrize("name", ["beside an intercept", "symmetric", "subjects of centres"])
def test_gradients_equal_differences(x64, name):
    """With respect to theta, y, X, Z and weights, rows of weight zero among the others."""
    design, index, rows = made(name)
    rows[3][ABSENT] = 0.0
    args = (some_theta(design), *jax.tree.map(jnp.asarray, rows))

    def f(theta, *rows):
        return value(theta, rows, index)

    slopes = jax.jit(jax.grad(f, argnums=tuple(range(5))))(*args)
    for j, (part, slope) in enumerate(zip(args, slopes, strict=True)):
        move = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), part)
        if j == 4:
            move = move * part  # absent rows stay so
        up, down = (
            f(*args[:j], jax.tree.map(lambda a, m: a + s * STEP * m, part, move), *args[j + 1 :])  # noqa: B023
            for s in (1, -1)
        )
        along = sum(
            jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (slope, move)), strict=True)
        )
        assert_close(along, (up - down) / (2 * STEP), DIFF_RTOL, 1.0)
    assert not np.any([np.asarray(slopes[j])[ABSENT].any() for j in (1, 2, 4)])


def numbers(out):
    p, of_residuals = out.params, [out.residual[name] for name in sorted(out.residual)]
    parts = (p.fe_params, p.cov_re.ravel(), jnp.stack([out.scale, out.llf, *of_residuals]))
    return jnp.concatenate(parts)


@pytest.mark.device
@pytest.mark.parametrize("name", ["beside an intercept", "continuous time", "symmetric"])
def test_the_pure_fit_is_that_of_fit_and_its_derivatives_are_of_refits(x64, name):
    design, index, (y, X, Z, w) = made(name)
    res = lmm.fit(design)

    @jax.jit
    def refits(ys, ws, moves):
        """Estimates of three lanes, derivatives of the first along the moves."""

        def estimates(y, w):
            out = lmm.fit_params(lmm.compress(y, X, Z, w, index))
            return numbers(out), out

        def derivative(y, w):
            return jax.jvp(lambda *rows: estimates(*rows)[0], (y, w), moves)[1]

        return (*jax.vmap(estimates)(ys, ws), derivative(ys[0], ws[0]))

    moves = rng.normal(size=y.size), 0.1 * rng.normal(size=y.size) * w
    steps = np.array([[0.0], [1.0], [-1.0]]) * STEP
    lanes, out, slopes = refits(y + steps * moves[0], w + steps * moves[1], moves)
    found, up, down = lanes
    assert out.converged.all()
    cov, own = np.asarray(res.cov_re_unscaled).ravel(), res.residual_params.sort_index()
    assert sorted(out.residual) == list(own.index)
    expected = np.concatenate([res.fe_params, cov, [res.scale, res.llf], own])
    assert_close(found, expected, FIT_RTOL, np.abs(expected).max())
    assert_close(slopes, (up - down) / (2 * STEP), DIFF_RTOL, np.abs(slopes).max())


def test_what_has_no_likelihood_has_no_residual_parameters(x64):
    _, index, (y, X, Z, w) = made("autoregressive")
    ys = jnp.stack([jnp.asarray(y), jnp.full(y.size, jnp.nan), jnp.ones(y.size)])
    run = jax.jit(jax.vmap(lambda y: lmm.fit_params(lmm.compress(y, X, Z, w, index))))
    out = run(ys)
    assert out.converged.tolist() == [True, False, False]
    assert np.isfinite(out.residual["rho"][0])
    assert np.isnan(out.residual["rho"][1:]).all() and np.isnan(out.params.fe_params[1:]).all()


def test_single_precision():
    design, index, rows = made("autoregressive")
    with jax.enable_x64(True):
        theta = some_theta(design)
        expected = lmm.profile_loglike(theta, design.layout)
    single = jax.tree.map(lambda a: np.asarray(a, np.float32), rows)
    found = value(np.asarray(theta, np.float32), single, index)
    assert found.dtype == jnp.float32
    assert_close(found, expected, FLOAT32_RTOL)


def test_an_index_of_other_rows_and_starts_are_refused(x64):
    design, index, (y, X, Z, w) = made("symmetric")
    with pytest.raises(DataError, match="56 rows are given, and the index is one of 57"):
        lmm.compress(y[1:], X[1:], (Z[0][1:],), w[1:], index)
    with pytest.raises(DataError, match=r"for terms of \(1,\) coefficients"):
        lmm.compress(y, X, (), w, index)
    start = lmm.Params.from_components(cov_re=np.eye(1))
    with pytest.raises(DataError, match="cannot take a model with a residual covariance"):
        lmm.fit_params(design.layout, start)
