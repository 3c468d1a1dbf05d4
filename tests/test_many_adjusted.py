"""Kenward and Roger's tests of many responses: those of every response fitted by itself."""

from functools import cache

import numpy as np
import pytest
from helpers import assert_close

import lmm_jax as lmm

pytestmark = pytest.mark.filterwarnings("ignore::lmm_jax.ConvergenceWarning")  # of the empty one
RTOL = 1e-9  # two optima, each to a Newton decrement of 1e-9 and better
STATISTIC_RTOL = 1e-7  # estimates of the two beside zero
MODELS = {
    "groups": ("machines", "score", "~ Machine + (1 | Worker)"),
    "slopes": ("machines", "score", "~ Machine + (1 + Machine | Worker)"),
    "a structure": ("machines", "score", "~ Machine + cs(0 + Machine | Worker)"),
    "crossed": ("cake", "angle", "~ recipe + temp + (1 | replicate) + (1 | factor(temp))"),
    "a residual covariance": (
        "sleepstudy",
        "Reaction",
        "~ Days + I(Days > 4) + ar1(Days | Subject)",
    ),
}


@cache
def responses(name):
    """A data set, with four noisy copies of its response: one with gaps, one without a row."""
    data_set, y, _ = MODELS[name]
    data = lmm.load_dataset(data_set)
    noise = np.random.default_rng(4).normal(size=(len(data), 4))
    Y = data[y].to_numpy(float)[:, None] + data[y].std() * noise
    Y[[3, 10, 11], 1] = np.nan
    Y[:, 3] = np.nan
    return data, Y


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_responses_are_tested_as_by_themselves(name, weighted):
    data, Y = responses(name)
    weights = np.random.default_rng(5).uniform(0.5, 2.0, Y.shape) if weighted else None
    many = lmm.fit_many(MODELS[name][2], data, Y, weights=weights, df_method="kr", progress=False)
    rows = ", ".join(f"{effect} = 0" for effect in many.fixed_names[1:3])
    t, wald = many.t_test(rows), many.wald_test(rows)
    p = len(many.fixed_names)
    for i in range(3):
        one = many.select(i)
        assert one.df_method == "kenward-roger"
        assert_close(many.bse_fe[i], one.bse[:p], RTOL, 1)
        assert_close(many.df[i], one.df[:p], RTOL, one.df[:p].max())
        assert_close(t.statistic[i], one.t_test(rows).statistic, STATISTIC_RTOL, 1)
        assert_close(t.pvalue[i], one.t_test(rows).pvalue, STATISTIC_RTOL, 1)
        joint = one.wald_test(rows)
        assert_close(wald.statistic[i, 0], joint.statistic, STATISTIC_RTOL, 1)
        assert_close(wald.df_denom[i, 0], joint.df_denom, RTOL, joint.df_denom)
    for nothing in (many.bse_fe[3], many.df[3], t.pvalue[3], wald.pvalue[3]):
        assert np.isnan(nothing).all()


def test_means_have_its_degrees_of_freedom():
    data, Y = responses("groups")
    many = lmm.fit_many(MODELS["groups"][2], data, Y, df_method="kenward-roger", progress=False)
    pairs = many.emmeans("Machine").pairs().tests()
    one = lmm.emmeans(many.select(0), "Machine").pairs(adjust="none").to_frame()
    assert_close(pairs.df_denom[0], one["df"], RTOL, one["df"].max())
    assert_close(pairs.pvalue[0], one["p_value"], STATISTIC_RTOL, 1)


def test_it_is_kept(tmp_path):
    data, Y = responses("groups")
    many = lmm.fit_many(MODELS["groups"][2], data, Y, df_method="kenward-roger", progress=False)
    many.save(tmp_path / "many.lmm")
    again = lmm.load(tmp_path / "many.lmm").t_test("Machine[T.B]")
    np.testing.assert_array_equal(again.pvalue, many.t_test("Machine[T.B]").pvalue)


def test_what_it_does_not_go_with_is_said():
    data, Y = responses("groups")
    with pytest.raises(lmm.DataError, match="one of REML"):
        lmm.fit_many(MODELS["groups"][2], data, Y, df_method="kenward-roger", reml=False)
    many = lmm.fit_many(MODELS["groups"][2], data, Y, df_method="kenward-roger", progress=False)
    with pytest.raises(lmm.DataError, match="Satterthwaite"):
        many.wald_test("Machine[T.B] = 0", moderate=True)
