"""``get_random_effects``: dense algebra, the predictions of fits, and derivatives."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax.errors import DataError

RTOL = 1e-10  # one solve by another route
STEP, DIFF_RTOL = 1e-3, 3e-7  # differences of order step^4, rounding over the step

DATA = samples.frame()
MODELS = {
    "slopes": ("y ~ x + (x | g)", {"weights": "w"}),
    "nested": ("y ~ x + (x | g) + (1 | g:s)", {}),
    "crossed": ("y ~ x + (1 | g) + (1 | f)", {"offset": "o"}),
    "crossed slopes": ("y ~ x + (1 | f) + (x | s) + (1 | g)", {"weights": "w"}),
    "a structure": ("y ~ x + cs(1 + x | g, hom=True) + (1 | f)", {}),
    "components": ("y ~ x", {"groups": "g", "re_formula": "1", "vc_formula": {"s": "0 + C(s)"}}),
}


def params_of(design, seed=1):
    """Some covariances of a design's terms, relative to the residual variance."""
    rng = np.random.default_rng(seed)
    sizes = design.sizes[: len(design.sizes) - design.n_components]
    blocks = [rng.normal(size=(k, k)) for k in sizes]
    cov = [B @ B.T + 0.1 * np.eye(len(B)) for B in blocks]
    return lmm.Params(
        fe_params=jnp.asarray(rng.normal(size=design.exog.shape[1])),
        cov_re=jax.scipy.linalg.block_diag(*map(jnp.asarray, cov)),
        vcomp=jnp.asarray(rng.uniform(0.2, 2.0, size=design.n_components)),
    )


def rows_of(design):
    """y less the offset, X, Z and weights."""
    n = design.nobs
    offset = np.zeros(n) if design.offset is None else design.offset
    weights = np.ones(n) if design.weights is None else design.weights
    Z = tuple(jnp.asarray(term.values) for term in design.terms)
    return jnp.asarray(design.endog - offset), jnp.asarray(design.exog), Z, jnp.asarray(weights)


def dense_effects(params, design, y, X, Z, w):
    """``Psi Z' V^-1 (y - X beta)`` written out, at the rows, (n, S, k) a term."""
    n, at, places = len(y), 0, []
    V = np.diag(1.0 / np.asarray(w))
    sizes, cov = design.sizes, np.asarray(params.cov_re)
    for t, term in enumerate(design.terms):
        k, correlated = sizes[t], t < len(sizes) - design.n_components
        Psi = (
            cov[at : at + k, at : at + k]
            if correlated
            else np.asarray(params.vcomp)[[[t - len(sizes)]]]
        )
        at += k if correlated else 0
        wide = np.zeros((n, term.n_levels, k))
        for s in range(term.codes.shape[1]):
            np.add.at(wide, (np.arange(n), term.codes[:, s]), np.asarray(Z[t])[:, s])
        V += np.einsum("nla,ab,mlb->nm", wide, Psi, wide)
        places.append((wide, Psi, term.codes))
    rest = np.asarray(y) - np.asarray(X) @ np.asarray(params.fe_params)
    weighed = np.linalg.solve(V, rest)
    return [(np.einsum("nla,n->la", wide, weighed) @ Psi)[codes] for wide, Psi, codes in places]


@pytest.mark.device
@pytest.mark.parametrize("name", MODELS)
def test_dense_algebra(x64, name):
    formula, options = MODELS[name]
    design = lmm.design(formula, DATA, **options)
    rows, params = rows_of(design), params_of(design)
    index = lmm.row_index(design)
    found = jax.jit(partial(lmm.get_random_effects, profile_fe=False))(
        params, lmm.compress(*rows, index), index
    )
    expected = dense_effects(params, design, *rows)
    for b, dense, z in zip(found, expected, rows[2], strict=True):
        assert b.shape == z.shape
        assert_close(b, dense, RTOL, np.abs(dense).max())


@pytest.mark.parametrize("name", MODELS)
def test_at_the_optimum_they_are_those_of_fit(x64, name):
    formula, options = MODELS[name]
    res = lmm.fit(formula, DATA, **options)
    layout, index = res.design.layout, lmm.row_index(res.design)
    params = lmm.Params(
        fe_params=res.fe_params, cov_re=res.cov_re_unscaled, vcomp=res.vcomp / res.scale
    )
    found = lmm.get_random_effects(params, layout, index)
    pairs = zip(rows_of(res.design)[2], found, strict=True)
    part = sum(np.asarray(z * b).sum(axis=(1, 2)) for z, b in pairs)
    fitted = res.predict(conditional=True) - res.predict(conditional=False)
    assert_close(part, fitted, RTOL, 1.0)


def test_rows_of_several_levels(x64):
    """Two levels a row, effects with a covariate, and a term beside them."""
    rng = np.random.default_rng(5)
    n = 90
    school = np.repeat(np.arange(3), 30)
    team = 6 * school[:, None] + rng.integers(0, 6, size=(n, 2))
    index = lmm.row_index([school, team], [1, 2])
    Z = (np.ones((n, 1, 1)), rng.normal(size=(n, 2, 2)))
    y, X = rng.normal(size=n), np.ones((n, 1))
    cov = np.diag([0.7, 1.0, 1.0]) + np.pad([[0.3, 0.2], [0.2, 0.1]], ((1, 0), (1, 0)))
    params = lmm.Params(fe_params=[0.4], cov_re=cov, vcomp=[])
    found = lmm.get_random_effects(
        params, lmm.compress(y, X, Z, np.ones(n), index), index, profile_fe=False
    )

    codes = school, np.unique(team, return_inverse=True)[1]
    terms = [SimpleNamespace(codes=c.reshape(n, -1), n_levels=c.max() + 1) for c in codes]
    made = SimpleNamespace(sizes=(1, 2), n_components=0, terms=terms)
    for b, dense in zip(found, dense_effects(params, made, y, X, Z, np.ones(n)), strict=True):
        assert_close(b, dense, RTOL, np.abs(dense).max())


@pytest.mark.parametrize("formula", ["y ~ x + (x | g)", "y ~ x + (1 | g) + (1 | f)"])
def test_rows_of_weight_zero_are_predicted(x64, formula):
    new = np.arange(len(DATA)) % 5 == 2
    design = lmm.design(formula, DATA)
    y, X, Z, w = rows_of(design)
    index = lmm.row_index(design)
    layout = lmm.compress(jnp.where(new, jnp.nan, y), X, Z, jnp.where(new, 0.0, w), index)
    out = lmm.fit_params(layout)
    found = lmm.get_random_effects(out.params, layout, index)
    part = sum(np.asarray(z * b).sum(axis=(1, 2)) for z, b in zip(Z, found, strict=True))
    alone = lmm.fit(formula, DATA[~new])
    expected = alone.predict(DATA, conditional=True)
    assert_close(np.asarray(X @ out.params.fe_params) + part, expected, 1e-7, 1.0)


@pytest.mark.parametrize("name", ["slopes", "crossed"])
@pytest.mark.parametrize("singular", [False, True])
def test_derivatives_equal_differences(x64, name, singular):
    """In parameters and rows; at a covariance of rank one, or a variance of zero, as well."""
    formula, options = MODELS[name]
    design = lmm.design(formula, DATA, **options)
    params, rows, index = params_of(design), rows_of(design), lmm.row_index(design)
    if singular:
        cov = {"slopes": [[1.0, 0.5], [0.5, 0.25]], "crossed": [[0.7, 0.0], [0.0, 0.0]]}[name]
        params = dataclasses.replace(params, cov_re=jnp.asarray(cov))

    @jax.jit
    def effects(params, rows):
        return lmm.get_random_effects(params, lmm.compress(*rows, index), index)

    rng, args = np.random.default_rng(3), (params, rows)
    move = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), args)
    symmetric = move[0].cov_re + move[0].cov_re.T
    if singular:  # within the covariances
        symmetric = params.cov_re @ symmetric @ params.cov_re
    move = dataclasses.replace(move[0], cov_re=symmetric), move[1]
    _, slopes = jax.jvp(effects, args, move)
    up, down, far_up, far_down = (
        effects(*jax.tree.map(lambda a, m, s=s: a + s * STEP * m, args, move))
        for s in (1, -1, 2, -2)
    )
    for slope, *at in zip(slopes, up, down, far_up, far_down, strict=True):
        above, below, far_above, far_below = map(np.asarray, at)
        difference = (8 * (above - below) - (far_above - far_below)) / (12 * STEP)
        assert_close(slope, difference, DIFF_RTOL, np.abs(difference).max() + 1e-3)


def test_lanes_and_single_precision():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(8), 5)
    index, one = lmm.row_index(groups), jnp.ones(40, jnp.float32)
    Y = jnp.asarray(rng.normal(size=(3, 40)) + rng.normal(size=(3, 8))[:, groups], jnp.float32)

    def effects(y):
        layout = lmm.compress(y, one[:, None], (one[:, None, None],), one, index)
        return lmm.get_random_effects(jnp.array([0.8], jnp.float32), layout, index)[0][:, 0, 0]

    found = jax.jit(jax.vmap(effects))(Y)
    assert found.dtype == jnp.float32
    means = np.asarray(Y).reshape(3, 8, 5).mean(axis=2)
    shrunk = 0.8 / (0.8 + 1 / 5) * (means - means.mean(axis=1, keepdims=True))
    assert_close(found, np.repeat(shrunk, 5, axis=1), 1e-5, 1.0)  # balanced: the closed form


def test_an_index_of_other_rows_is_refused(x64):
    design = lmm.design("y ~ x + (x | g)", DATA)
    params = params_of(design)
    for other in (lmm.row_index(DATA["g"]), lmm.row_index([DATA["g"], DATA["f"]]), DATA["g"]):
        with pytest.raises(DataError, match="index"):
            lmm.get_random_effects(params, design.layout, other)
    crossed = lmm.design("y ~ x + (1 | g) + (1 | f)", DATA)
    other = lmm.row_index([DATA["g"], np.arange(len(DATA)) % 9])
    with pytest.raises(DataError, match="other rows"):
        lmm.get_random_effects(params_of(crossed), crossed.layout, other)
    series = lmm.design("y ~ x + ar1(o | g)", DATA.assign(o=np.arange(len(DATA)) % 6))
    with pytest.raises(DataError, match="takes no model with a residual covariance"):
        lmm.get_random_effects(params, series.layout, lmm.row_index(design))
