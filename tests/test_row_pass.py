"""The batched pass over many rows gives the layout that residual rows give, or says it cannot."""

import jax
import numpy as np
import pandas as pd
import pytest

import lmm_jax as lmm
from lmm_jax.designs import compressed
from lmm_jax.layouts import stream_pass as row_pass
from lmm_jax.layouts.compress import compress

RNG = np.random.default_rng(7)
GROUP = np.repeat(np.arange(40), RNG.integers(2, 9, 40))
N = GROUP.size
DATA = pd.DataFrame(
    {
        "g": GROUP,
        "h": RNG.integers(0, 3, N),
        "x": RNG.normal(size=N) + 3.0,
        "z": RNG.normal(size=40)[GROUP],
        "w": RNG.uniform(0.5, 2.0, N),
        "o": RNG.normal(size=N),
        "y": RNG.normal(size=N) + RNG.normal(size=40)[GROUP],
    }
)
UNEVEN = DATA[(DATA["g"] > 2) | (DATA["h"] == 0)]  # a few groups with fewer levels

CASES = {
    "intercept": ("y ~ x + z + (1 | g)", {}),
    "slope": ("y ~ x + (x | g)", {}),
    "slope without intercepts": ("y ~ 0 + x + (0 + x | g)", {}),
    "uncorrelated": ("y ~ x + (x || g)", {}),
    "nested": ("y ~ x + (1 + x | g) + (1 | g:h)", {}),
    "weights and offset": ("y ~ x + (x | g)", {"weights": "w", "offset": "o"}),
    "no fixed effects": ("y ~ 0 + (1 | g)", {}),
}


loglike_at = jax.jit(lmm.profile_loglike, static_argnames="reml")


def both(formula, data, **options):
    """Layout by batches of 64 rows, and by residual rows."""
    design = lmm.design(formula, data, **options)
    y = design.endog if design.offset is None else design.endog - design.offset
    Z = tuple(term.values for term in design.terms)
    weights = np.ones(y.size) if design.weights is None else design.weights
    rows = design.plan.index.n_rows
    pad = row_pass.pad
    with jax.enable_x64(True):
        made = row_pass.sum_rows(y, design.exog, Z, design.weights, design.plan.index)
        careful = compress(
            pad(y, rows),
            pad(design.exog, rows),
            [pad(z, rows) for z in Z],
            pad(weights, rows),
            design.plan.index,
        )
    return None if made is None else made[0], careful


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(row_pass, "batch_rows", lambda: 64)


@pytest.mark.parametrize("name", [*CASES, "uneven"])
def test_likelihood_is_that_of_residual_rows(name):
    data = UNEVEN if name == "uneven" else DATA
    name = "nested" if name == "uneven" else name
    formula, options = CASES[name]
    passed, careful = both(formula, data, **options)
    theta = np.concatenate([np.eye(k)[np.tril_indices(k)] + 0.1 for k in careful.sizes])
    with jax.enable_x64(True):
        for size in (0.0, 0.3, 5.0):
            for reml in (True, False):
                want = float(loglike_at(size * theta, careful, reml=reml))
                got = float(loglike_at(size * theta, passed, reml=reml))
                assert got == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("name", ["slope", "nested", "weights and offset"])
def test_fit_is_that_of_residual_rows(name, monkeypatch):
    formula, options = CASES[name]
    want = lmm.fit(formula, DATA, **options)
    monkeypatch.setattr(compressed, "MANY_ROWS", 64)
    got = lmm.fit(formula, DATA, **options)
    assert got.llf == pytest.approx(want.llf, rel=1e-12)
    np.testing.assert_allclose(got.params, want.params, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(got.bse_fe, want.bse_fe, rtol=1e-7)


DIGITS = {
    "y near a line": DATA.assign(y=1e3 * DATA["x"] + DATA["y"]),
    "large groups effects": DATA.assign(y=DATA["y"] + 1e3 * DATA["z"]),
    "columns that nearly agree": DATA.assign(z=DATA["x"] + 1e-4 * DATA["z"]),
    "a slope of calendar years": DATA.assign(x=DATA["x"] + 2e3),
}


@pytest.mark.parametrize("name", DIGITS)
def test_says_so_where_sums_would_cost_digits(name):
    passed, _ = both("y ~ x + z + (x | g)", DIGITS[name])
    assert passed is None


def test_large_means_cost_nothing():
    data = DATA.assign(y=DATA["y"] + 1e8, z=DATA["z"] + 1e6)
    passed, careful = both("y ~ x + z + (1 | g)", data)
    with jax.enable_x64(True):
        want = float(loglike_at(np.array([0.7]), careful))
        assert float(loglike_at(np.array([0.7]), passed)) == pytest.approx(want, rel=1e-9)


def test_a_careful_pass_takes_over(monkeypatch):
    want = lmm.fit("y ~ x + (1 | g)", DIGITS["y near a line"])
    monkeypatch.setattr(compressed, "MANY_ROWS", 64)
    got = lmm.fit("y ~ x + (1 | g)", DIGITS["y near a line"])
    assert got.llf == want.llf
