"""Where the lanes of fit_many run: NumPy and programs agree, and which of them is taken."""

import numpy as np
import pandas as pd
import pytest
import samples
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax.api import fit_many as api
from lmm_jax.numerics.tiers import Tier

RTOL = 1e-11  # what is promised of the two runtimes
NUMBERS = ("llf", "fe_params", "bse_fe", "df", "scale", "theta", "cov_re", "pvalues")

UNEVEN = samples.frame()
BALANCED = lmm.load_dataset("sleepstudy").rename(
    columns={"Reaction": "y", "Days": "x", "Subject": "g"}
)
CASES = {
    "uneven": (UNEVEN, "~ x + (1 | g)", {}),
    "balanced": (BALANCED, "~ x + (x | g)", {}),
    "weighted": (UNEVEN, "~ x + (x | g)", {"weights": "w", "reml": False}),
    "nested": (UNEVEN, "~ x + (1 | g) + (1 | g:s)", {}),
    "uncorrelated": (BALANCED, "~ x + (x || g)", {}),
    "structure": (UNEVEN, "~ x + cs(1 + x | g)", {}),
    "no fixed effects": (UNEVEN, "~ 0 + (1 | g)", {}),
    "one fixed effect": (BALANCED, "~ (1 | g)", {"offset": "x"}),
    "six fixed effects": (UNEVEN, "~ x * z + I(x**2) + I(z**2) + (1 | g)", {}),
}


def responses(frame: pd.DataFrame, count: int = 4) -> np.ndarray:
    """The response and others that the model fits as well: no variance of them is zero."""
    rng = np.random.default_rng(0)
    code = pd.factorize(frame["g"])[0]
    x = (frame["x"] / frame["x"].std()).to_numpy()
    b = rng.normal(size=(2, code.max() + 1, count))
    cells = rng.normal(size=(2 * code.max() + 2, count))[2 * code + (frame.index % 2)]
    mean = b[0, code] + 0.7 * b[1, code] * x[:, None] + 3.0 * x[:, None] + cells
    return mean + 0.5 * rng.normal(size=(len(frame), count))


def assert_same(one: lmm.ManyResults, other: lmm.ManyResults) -> None:
    assert (one.converged == other.converged).all()
    for name in NUMBERS:
        got, want = (np.asarray(getattr(many, name), float) for many in (one, other))
        largest = np.abs(want).max(axis=tuple(range(1, want.ndim)), keepdims=True, initial=0.0)
        assert_close(got, want, RTOL, scale=largest + 1e-3 * (name == "pvalues"))


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_runtimes_agree(case, gaps):
    frame, formula, options = CASES[case]
    Y = responses(frame)
    if gaps:
        Y[::17, 1], Y[3:9, 2] = np.nan, np.nan
    one, other = (
        lmm.fit_many(formula, frame, Y, runtime=runtime, **options) for runtime in ("numpy", "jax")
    )
    assert_same(one, other)


def test_runtimes_agree_on_related_levels():
    frame = UNEVEN
    names = sorted(frame["g"].unique())
    A = np.random.default_rng(3).normal(size=(len(names), 2 * len(names)))
    K = pd.DataFrame(A @ A.T / A.shape[1], names, names)
    Y, how = responses(frame), {"relatedness": {"g": K}}
    one, other = (
        lmm.fit_many("~ x + (1 | g)", frame, Y, runtime=runtime, **how)
        for runtime in ("numpy", "jax")
    )
    assert_same(one, other)


@pytest.fixture
def tier(monkeypatch):
    """A process that has fitted nothing yet."""
    fresh = Tier(api.NUMPY_SECONDS)
    monkeypatch.setattr(api, "_LANES", fresh)
    return fresh


@pytest.mark.parametrize("count", [2, 300])
def test_a_new_model_compiles_nothing(count, tier, compiled):
    many = lmm.fit_many("~ x + (x | g)", BALANCED, responses(BALANCED, count))
    assert many.converged.all()
    assert not compiled()
    assert len(tier.spent) == 1 and not tier.compiled


def test_what_takes_longer_than_a_compilation_is_compiled(tier):
    tier.seconds = 1.0
    lmm.fit_many("~ x + (1 | g)", UNEVEN, responses(UNEVEN))
    assert tier.compiled and not tier.spent
    tier.seconds = 0.0
    lmm.fit_many("~ x + (1 | g)", UNEVEN, responses(UNEVEN, 5))  # the same program
    assert not tier.spent


def test_gaps_are_another_program(tier):
    Y = responses(UNEVEN)
    gaps = Y.copy()
    gaps[0] = np.nan
    for some in (Y, gaps, np.column_stack([Y, gaps])):
        lmm.fit_many("~ x + (1 | g)", UNEVEN, some)
    assert len(tier.spent) == 3


def test_what_is_interrupted_has_taken_its_time(tier):
    with pytest.raises(KeyboardInterrupt), tier.one_runtime("shape", 1, 1.0):
        raise KeyboardInterrupt
    assert "shape" in tier.spent
    with pytest.raises(KeyboardInterrupt), tier.one_runtime("shape", 1, 0.0):
        raise KeyboardInterrupt
    assert not tier.compiled


def test_time_adds_up(tier):
    """What has been spent on a model counts: the next call compiles."""
    for _ in range(2):
        lmm.fit_many("~ x + (1 | g)", UNEVEN, responses(UNEVEN))
    assert not tier.compiled
    (key,) = tier.spent
    tier.spent[key] = 100.0
    lmm.fit_many("~ x + (1 | g)", UNEVEN, responses(UNEVEN))
    assert tier.compiled == {key}


def test_a_runtime_may_be_asked_for(tier, compiled):
    tier.seconds = 1.0  # far too long
    lmm.fit_many("~ x + (1 | g)", UNEVEN, responses(UNEVEN), runtime="numpy")
    assert not compiled() and not tier.compiled
    tier.seconds = 0.0
    lmm.fit_many("~ x + (1 | g)", UNEVEN, responses(UNEVEN), runtime="jax")
    assert tier.compiled
    with pytest.raises(lmm.DataError, match="runtime='gpu'"):
        lmm.fit_many("~ x + (1 | g)", UNEVEN, responses(UNEVEN), runtime="gpu")
