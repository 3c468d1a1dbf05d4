"""Simulated responses: their moments, what they respect, what they refuse."""

import numpy as np
import pandas as pd
import pytest
import samples
from scipy import stats

import lmm_jax as lmm
from lmm_jax.api.simulate import covariance_factor, simulate

DRAWS = 10_000
# Probability that a test of moments fails although the draws are right. Seeds are fixed, so a
# failure is one of the code.
FALSE_ALARM = 1e-6

MODELS = {
    "slope": dict(formula="y ~ x + (x | g)"),
    "nested, weights, offset": dict(formula="y ~ x + offset(o) + (1 | g/s)", weights="w"),
    "crossed": dict(formula="y ~ x + (x | g) + (1 | s)"),
    "components": dict(formula="y ~ x", groups="g", re_formula="1", vc_formula={"s": "0 + C(s)"}),
}


def fit(name):
    return lmm.fit(data=samples.frame(), **MODELS[name])


def variance(design, blocks, scale):
    """``Z cov Z' + scale / w``, dense."""
    w = np.ones(design.nobs) if design.weights is None else design.weights
    V = np.diag(scale / w)
    for term, S in zip(design.terms, blocks, strict=True):
        Z = term.columns().toarray()
        V += Z @ np.kron(np.eye(term.n_levels), S) @ Z.T
    return V


def check_moments(y, mean, V):
    """Mean by one chi-square over all rows; variance along 30 fixed directions by one each."""
    rows, n = y.shape
    C = np.linalg.cholesky(V)
    z = np.linalg.solve(C, np.asarray(y) - mean[:, None])  # standard normal if all is right
    low, high = stats.chi2.interval(1 - FALSE_ALARM, rows)
    assert low < n * np.sum(z.mean(axis=1) ** 2) < high
    directions = np.random.default_rng(5).normal(size=(30, rows))
    projected = directions @ z / np.linalg.norm(directions, axis=1)[:, None]
    low, high = stats.chi2.interval(1 - FALSE_ALARM / 30, n)
    sums = np.sum(projected**2, axis=1)
    assert ((low < sums) & (sums < high)).all()
    low, high = stats.chi2.interval(1 - FALSE_ALARM, n * rows)
    assert low < np.sum(z**2) < high


@pytest.mark.parametrize("name", MODELS)
def test_marginal_moments(name):
    result = fit(name)
    y = simulate(result, seed=1, n=DRAWS)
    V = variance(result.design, result.estimates.covariances, result.scale)
    check_moments(y, result.predict().to_numpy(), V)


@pytest.mark.parametrize("name", MODELS)
def test_conditional_moments(name):
    result = fit(name)
    y = simulate(result, seed=2, n=DRAWS, conditional=True)
    w = 1.0 if result.design.weights is None else result.design.weights
    noise = np.diag(np.broadcast_to(result.scale / w, result.nobs))
    check_moments(y, result.fittedvalues.to_numpy(), noise)


def test_given_parameters():
    design = lmm.design("y ~ x + (x | g)", samples.frame())
    S = np.array([[4.0, -1.0], [-1.0, 0.5]])
    params = lmm.Params(fe_params=np.array([100.0, -3.0]), cov_re=S, vcomp=np.zeros(0))
    y = simulate(params, design, seed=3, n=DRAWS, scale=0.25)
    mean = design.exog @ [100.0, -3.0]
    check_moments(y, mean, variance(design, [S], 0.25))


def test_given_parameters_follow_a_fit_in_the_units_of_the_data():
    result = fit("components")
    params = lmm.Params(
        fe_params=result.fe_params.to_numpy(),
        cov_re=result.cov_re.to_numpy(),
        vcomp=result.vcomp.to_numpy(),
    )
    for design in (result, result.design):
        y = simulate(params, design, seed=4, n=3, scale=result.scale)
        pd.testing.assert_frame_equal(y, simulate(result, seed=4, n=3))


def test_shape_index_and_seed():
    data = samples.frame().set_index(pd.Index(range(1000, 1060), name="row"))
    result = lmm.fit("y ~ x + (1 | g)", data)
    y = simulate(result, seed=7, n=2)
    assert y.shape == (60, 2) and y.index.equals(data.index)
    pd.testing.assert_frame_equal(y, simulate(result, seed=7, n=2))
    pd.testing.assert_frame_equal(y, simulate(result, seed=np.random.default_rng(7), n=2))
    assert not np.array_equal(y, simulate(result, seed=8, n=2))
    assert simulate(result, seed=7).shape == (60, 1)


def test_singular_covariances():
    design = lmm.design("y ~ x + (x | g)", samples.frame())
    one = np.array([[4.0, 2.0], [2.0, 1.0]])  # correlation one: b1 = b0 / 2
    params = lmm.Params(fe_params=np.zeros(2), cov_re=one, vcomp=np.zeros(0))
    y = simulate(params, design, seed=1, n=4, scale=0.0).to_numpy()
    x, g = samples.frame()["x"].to_numpy(), design.group_codes
    b0 = y / (1 + x / 2)[:, None]
    for level in range(3):
        rows = b0[g == level]
        np.testing.assert_allclose(rows, np.broadcast_to(rows[0], rows.shape), rtol=1e-8)
    zero = lmm.Params(fe_params=np.zeros(2), cov_re=np.zeros((2, 2)), vcomp=np.zeros(0))
    assert (simulate(zero, design, seed=1, scale=0.0) == 0).all(axis=None)


@pytest.mark.parametrize("S", [[[0.0]], [[2.0]], [[1, 1], [1, 1]], [[4, 2, 0], [2, 1, 0], [0] * 3]])
def test_covariance_factor(S):
    F = covariance_factor(np.array(S, dtype=float))
    np.testing.assert_allclose(F @ F.T, S, atol=1e-14)


def test_refit_of_a_draw():
    result = fit("slope")
    data = samples.frame().assign(y=simulate(result, seed=11)[0])
    assert lmm.fit("y ~ x + (x | g)", data).converged


DESIGN = lmm.design("y ~ x + (1 | g)", samples.frame())


def params(p=2, k=1, vc=0, cov=None):
    cov = np.eye(k) if cov is None else np.array(cov, dtype=float)
    return lmm.Params(fe_params=np.zeros(p), cov_re=cov, vcomp=np.zeros(vc))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (params(), {"scale": 1.0}, "no rows"),
        (params(), {"design": DESIGN}, "residual variance"),
        (params(), {"design": DESIGN, "scale": -1.0}, "residual variance"),
        (
            params(p=3),
            {"design": DESIGN, "scale": 1.0},
            r"fe_params of shape \(3,\)",
        ),
        (params(k=2), {"design": DESIGN, "scale": 1.0}, r"cov_re of shape \(2, 2\)"),
        (params(vc=1), {"design": DESIGN, "scale": 1.0}, r"vcomp of shape \(1,\)"),
        (params(cov=[[-1]]), {"design": DESIGN, "scale": 1.0}, "negative eigenvalue"),
        (params(cov=[[np.nan]]), {"design": DESIGN, "scale": 1.0}, "finite"),
        (params(), {"design": DESIGN, "scale": 1.0, "n": 0}, "n=0: a whole number of at least 1"),
        (params(), {"design": DESIGN, "scale": 1.0, "conditional": True}, "BLUPs"),
    ],
)
def test_refuses(model, options, message):
    with pytest.raises(lmm.DataError, match=message):
        simulate(model, **{"seed": 0, **options})


def test_refuses_a_design_of_another_model():
    result = fit("slope")
    with pytest.raises(lmm.DataError, match="random effects"):
        simulate(result, DESIGN, seed=0)
    with pytest.raises(lmm.DataError, match="coefficients"):
        simulate(result, lmm.design("y ~ z + (x | g)", samples.frame()), seed=0)
    with pytest.raises(lmm.DataError, match="its own residual variance"):
        simulate(result, seed=0, scale=1.0)
    with pytest.raises(lmm.DataError, match="no rows"):
        simulate(result.without_data(), seed=0)


def test_new_rows():
    result = fit("slope")
    more = lmm.design("y ~ x + (x | g)", samples.frame(1, groups=25))
    assert simulate(result, more, seed=0, n=2).shape == (150, 2)
