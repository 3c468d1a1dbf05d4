"""Batches of few responses, fitted one after another: what lanes side by side give."""

import numpy as np
import pytest
import samples
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax.api import fit_each
from lmm_jax.batches import replicate_minimize
from lmm_jax.numerics.tiers import Tier

TOL = 1e-6  # two optimizations of one criterion
DATA = samples.frame()
FORMULA = "~ x + (1 + x | g)"


@pytest.fixture
def one_by_one(monkeypatch):
    """As outside of tests; how often a fit went that way."""
    calls = []
    for module in (fit_each, replicate_minimize):
        tier = Tier(2e-7)
        monkeypatch.setattr(module, "_ONE_BY_ONE", tier)
        add = tier.add
        monkeypatch.setattr(tier, "add", lambda key, s, add=add: (calls.append(s), add(key, s)))
    return calls


def responses():
    """The response, another, one with gaps, one that is constant, and one with none left."""
    rng = np.random.default_rng(0)
    y = DATA["y"].to_numpy()
    Y = np.column_stack([y, 3 * y + rng.normal(size=y.size), y, np.ones(y.size), y])
    Y[::7, 2] = np.nan
    Y[2:, 4] = np.nan
    return Y


@pytest.mark.filterwarnings("ignore::lmm_jax.ConvergenceWarning")
@pytest.mark.parametrize("options", [{}, {"reml": False}, {"weights": "w"}])
def test_few_responses(options, one_by_one):
    few = lmm.fit_many(FORMULA, DATA, responses(), **options)
    assert len(one_by_one) == 1
    fit_each._ONE_BY_ONE.seconds = np.inf
    lanes = lmm.fit_many(FORMULA, DATA, responses(), **options)
    assert len(one_by_one) == 1
    assert_close(few.llf, lanes.llf, 1e-9)
    assert (few.converged == lanes.converged).all()
    for name in ("fe_params", "bse_fe", "df", "scale", "nobs"):
        got, want = (np.asarray(getattr(many, name), float) for many in (few, lanes))
        assert (np.isnan(got) == np.isnan(want)).all()
        assert_close(got, want, 1e-4 if name == "df" else TOL, 1)


@pytest.mark.filterwarnings("ignore::lmm_jax.ConvergenceWarning")
def test_nothing_to_fit(one_by_one):
    """A constant, a covariate, zeros: NaN, and no other warning."""
    n = len(DATA)
    few = lmm.fit_many(FORMULA, DATA, np.column_stack([np.ones(n), DATA["x"], np.zeros(n)]))
    assert len(one_by_one) == 1 and not few.converged.any()
    assert np.isnan(few.llf).all() and (few.nobs == n).all()


def test_many_responses_are_lanes(one_by_one):
    """A thousand fits take longer than a compilation."""
    lmm.fit_many(FORMULA, DATA, np.repeat(DATA[["y"]].to_numpy(), 1000, axis=1))
    assert not one_by_one


def test_time_adds_up(one_by_one):
    """What has been spent on a shape counts: the next call compiles."""
    lmm.fit_many(FORMULA, DATA, responses()[:, :2])
    (key,) = fit_each._ONE_BY_ONE.spent
    fit_each._ONE_BY_ONE.spent[key] = 100.0
    lmm.fit_many(FORMULA, DATA, responses()[:, :2])
    assert len(one_by_one) == 1


def test_few_replicates_of_crossed_factors(one_by_one):
    """The same draws, and the same optimum of each."""
    fit = lmm.fit("y ~ x + (1 | g) + (1 | s)", DATA)
    few = lmm.bootstrap(fit, 20, seed=1)
    assert len(one_by_one) == 1
    replicate_minimize._ONE_BY_ONE.seconds = np.inf
    lanes = lmm.bootstrap(fit, 20, seed=1)
    assert len(one_by_one) == 1
    # variances on the boundary are flat there: the square root of the criterion's tolerance
    assert_close(few.params(), lanes.params(), 1e-4, 1)
