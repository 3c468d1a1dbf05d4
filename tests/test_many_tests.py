"""Tests of fixed effects in many fits at once: the same as those of every fit by itself."""

import time
from functools import cache

import numpy as np
import pandas as pd
import pytest
from helpers import assert_close
from scipy import special

import lmm_jax as lmm
from lmm_jax.inference.moderation import moderate, trigamma_inverse

RTOL = 1e-6  # two optimizations of one criterion
DF_RTOL = 1e-4


@cache
def data():
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({
        "g": np.repeat(np.arange(15), 6), "A": np.tile(list("abc"), 30),
        "x": rng.normal(size=90), "w": rng.uniform(1, 2, 90),
    })  # fmt: skip
    return frame


def responses(R, seed=0):
    rng = np.random.default_rng(seed)
    g = data()["g"].to_numpy()
    return rng.normal(size=(90, R)) + rng.normal(size=(15, R))[g] + data()[["x"]].to_numpy() * 0.3


@cache
def many(**options):
    Y = responses(5)
    Y[3:9, 2] = np.nan
    return lmm.fit_many("~ A * x + (1 | g)", data(), Y, progress=False, **options)


ROWS = "A[T.b] = A[T.c], A[T.b]:x = 0, x = 0.2"


@pytest.mark.parametrize("df_method", ["satterthwaite", "normal"])
def test_every_response_is_tested_as_by_itself(df_method):
    fits = many(df_method=df_method)
    rows, joint = fits.t_test(ROWS), fits.wald_test(ROWS)
    for i in range(len(fits)):
        one = fits.select(i)
        own, together = one.t_test(ROWS), one.wald_test(ROWS)
        assert_close(rows.statistic[i], own.statistic, RTOL, 1)
        assert_close(rows.estimate[i], own.effect, RTOL, 1)
        assert_close(rows.std_error[i], own.sd, RTOL)
        assert_close(joint.statistic[i, 0], together.statistic, RTOL)
        assert joint.df_num[i, 0] == together.df_num
        assert_close(joint.pvalue[i, 0], together.pvalue, 1e-4)
        if df_method == "satterthwaite":
            assert_close(rows.df_denom[i], own.df_denom, DF_RTOL)
            assert_close(joint.df_denom[i, 0], together.df_denom, DF_RTOL)
    assert rows.names == own.c_names


def test_dependent_rows_count_once():
    fits = many()
    twice = fits.wald_test(["A[T.b] = 0", "A[T.c] = 0", "A[T.b] = A[T.c]"])
    once = fits.wald_test(["A[T.b] = 0", "A[T.c] = 0"])
    assert (twice.df_num == 2).all()
    assert_close(twice.statistic, once.statistic, 1e-8)


def test_means_and_contrasts_of_every_response():
    fits = many()
    found = fits.emmeans("A", at={"x": [0.5]})
    tests, pairs = found.tests(), found.pairs().tests()
    for i in range(len(fits)):
        means = lmm.emmeans(fits.select(i), "A", at={"x": [0.5]})
        assert_close(tests.estimate[i], means.at.estimate, RTOL, 1)
        assert_close(tests.std_error[i], means.at.std_error, RTOL)
        frame = means.pairs().to_frame("none")
        assert_close(pairs.estimate[i], frame["estimate"], RTOL, 1)
        assert_close(pairs.df_denom[i], frame["df"], DF_RTOL)
        assert_close(pairs.pvalue[i], frame["p_value"], 1e-4, 1)
    assert pairs.names == ("a - b", "a - c", "b - c")
    assert fits.emmeans("pairwise ~ A").tests().names == pairs.names


def test_covariates_stand_at_their_mean_over_all_rows_of_the_design():
    fits = many()  # response 2 has missing values
    found, mean = fits.emmeans("A").tests(), data()["x"].mean()
    own = lmm.emmeans(fits.select(2), "A").at.estimate
    assert np.abs(found.estimate[2] - own).min() > 1e-4
    for i in range(len(fits)):
        one = lmm.emmeans(fits.select(i), "A", at={"x": [mean]})
        assert_close(found.estimate[i], one.at.estimate, RTOL, 1)


def test_false_discoveries_of_any_test():
    tests = many().t_test(ROWS)
    adjusted = tests.fdr()
    for j, name in enumerate(tests.names):
        p = tests.pvalue[:, j]
        order = np.sort(p)
        expected = [min(order[k] * 5 / (k + 1) for k in range(i, 5)) for i in range(5)]
        assert_close(np.sort(adjusted[name]), expected, 1e-12)
    frame = tests.to_frame()
    assert_close(frame["q_value"], adjusted.to_numpy().ravel(), 1e-12)


def test_responses_in_rows():
    Y = responses(4)
    columns = lmm.fit_many("~ A + (1 | g)", data(), Y, progress=False)
    rows = lmm.fit_many("~ A + (1 | g)", data(), Y.T, responses_in="rows", progress=False)
    np.testing.assert_array_equal(rows.fe_params, columns.fe_params)
    genes = pd.DataFrame(Y.T, index=["u", "v", "w", "z"], columns=data().index)
    named = lmm.fit_many("~ A + (1 | g)", data(), genes, responses_in="rows", progress=False)
    assert named.response_names == ("u", "v", "w", "z")
    design = lmm.design("x ~ A + (1 | g)", data())
    again = lmm.fit_many(design, Y.T, responses_in="rows", progress=False)
    assert_close(again.fe_params, columns.fe_params, 1e-10)


def test_what_is_not_estimated_has_no_test():
    Y = responses(3)
    Y[:, 1] = np.nan
    with pytest.warns(lmm.ConvergenceWarning):
        fits = lmm.fit_many("~ A + (1 | g)", data(), Y, progress=False)
    for tests in (fits.t_test("A[T.b] = 0"), fits.wald_test("A[T.b] = 0")):
        assert np.isnan(tests.pvalue[1]).all() and np.isfinite(tests.pvalue[[0, 2]]).all()
        assert np.isnan(tests.fdr().iloc[1]).all()


# ------------------------------------------------------------ moderated statistics


def test_the_prior_is_found_again():
    rng = np.random.default_rng(1)
    d0, s0, d = 8.0, 2.0, np.full(20_000, 6.0)
    sigma2 = d0 * s0 / rng.chisquare(d0, d.size)
    found = moderate(sigma2 * rng.chisquare(6.0, d.size) / 6.0, d)
    assert abs(found.df_prior - d0) < 0.6 and abs(found.variance_prior - s0) < 0.05


def test_moderation_is_an_average_of_variance_and_prior():
    variance, d = np.array([0.5, 1.0, 4.0, 2.0, np.nan]), np.array([4.0, 4.0, 4.0, 9.0, 4.0])
    found = moderate(variance, d)
    expected = (found.df_prior * found.variance_prior + d * variance) / (found.df_prior + d)
    assert_close(found.variance[:4], expected[:4], 1e-12)
    scaled = moderate(9.0 * variance, d)
    assert_close(scaled.variance[:4], 9.0 * found.variance[:4], 1e-10)
    assert_close(scaled.df_prior, found.df_prior, 1e-10)


def test_variances_that_differ_by_chance_alone_become_one():
    found = moderate(np.full(50, 2.0), np.full(50, 5.0))
    assert found.df_prior == np.inf and len(set(found.variance)) == 1


@pytest.mark.parametrize("x", [1e-6, 0.01, 1.0, 50.0, 1e6])
def test_inverse_of_trigamma(x):
    assert_close(special.polygamma(1, trigamma_inverse(x)), x, 1e-10)


def test_moderated_tests_use_the_moderated_variance():
    fits = many()
    plain, found = fits.t_test("x = 0"), fits.t_test("x = 0", moderate=True)
    ratio = np.sqrt(fits.scale / fits.moderation.variance)[:, None]
    assert_close(found.statistic, plain.statistic * ratio, 1e-10)
    assert_close(found.df_denom, plain.df_denom + fits.moderation.df_prior, 1e-10)
    joint, one = fits.wald_test("x = 0", moderate=True), found
    assert_close(joint.statistic, one.statistic**2, 1e-8)
    assert_close(joint.pvalue, one.pvalue, 1e-6)


@pytest.mark.slow
def test_ten_thousand_responses_are_tested_in_a_moment():
    fits = lmm.fit_many("~ A * x + (1 | g)", data(), responses(10_000), progress=False)
    start = time.perf_counter()
    fits.wald_test("A[T.b] = 0, A[T.c] = 0")
    fits.t_test(["A[T.b] = 0", "A[T.c] = 0", "A[T.b] = A[T.c]"])
    assert time.perf_counter() - start < 1.0  # 0.1 s on an idle core


def test_units_of_the_columns_do_not_matter_to_a_joint_test():
    frame = data().assign(big=1e6 * np.random.default_rng(1).normal(size=90))
    fits = lmm.fit_many("~ x + big + (1 | g)", frame, responses(3), progress=False)
    found = fits.wald_test("x = 0, big = 0")
    for i in range(3):
        one = fits.select(i).wald_test("x = 0, big = 0")
        assert found.df_num[i, 0] == one.df_num == 2
        assert_close(found.statistic[i, 0], one.statistic, RTOL)
        assert_close(found.df_denom[i, 0], one.df_denom, DF_RTOL)
