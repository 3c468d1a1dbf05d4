"""Tests of fixed effects in many fits at once: the same as those of every fit by itself."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import timings
from helpers import assert_close
from scipy import special

import lmm_jax as lmm
from lmm_jax.inference.contrasts.moderation import (
    Moderation,
    moderate,
    moderated_estimates,
    trigamma_inverse,
)

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
    (each,) = found.contrast("poly", max_degree=1, simple="each").values()
    assert each.tests().names == ("linear",) and str(each).startswith("Tests in")
    assert_close(each.tests().estimate[:, 0], -pairs.estimate[:, 1], RTOL, 1)


def test_covariates_stand_at_their_mean_over_all_rows_of_the_design():
    fits = many()  # response 2 has missing values
    found, mean = fits.emmeans("A").tests(), data()["x"].mean()
    own = lmm.emmeans(fits.select(2), "A").at.estimate
    assert np.abs(found.estimate[2] - own).min() > 1e-4
    for i in range(len(fits)):
        one = lmm.emmeans(fits.select(i), "A", at={"x": [mean]})
        assert_close(found.estimate[i], one.at.estimate, RTOL, 1)


def test_missing_arguments_name_no_class_that_nobody_sees():
    """ManyResults has fdr and t_test of ManyTested, MarginalMeans has test of EstimateTable."""
    fits = many()
    means = lmm.emmeans(fits.select(0), "A")
    for call in (fits.fdr, fits.t_test, lambda: means.test(0.0, 1.0), lambda: fits.t_test("x", 1)):
        with pytest.raises(TypeError, match=r"^(fdr|t_test|test)\(\) (missing|takes)"):
            call()
    assert type(fits).fdr.__qualname__ == "ManyTested.fdr"  # as pickles and documentation need it


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


@pytest.fixture(scope="module")
def balanced():
    """Groups of five rows; x within groups, and a treatment of whole groups."""
    rng = np.random.default_rng(12)
    frame = pd.DataFrame({"g": np.repeat(np.arange(8), 5), "x": np.tile(np.arange(5.0), 8)})
    frame["treated"] = frame["g"] % 2
    sd = np.sqrt(6.0 / rng.chisquare(6.0, 200))
    Y = 2.0 * rng.normal(size=(8, 200))[frame["g"]] + rng.normal(size=(40, 200))
    fits = lmm.fit_many("~ treated + x + (1 | g)", frame, Y * sd, progress=False)
    assert not fits.singular.any()
    return fits


def test_moderation_is_of_what_a_contrast_shares_of_the_residual_variance(balanced):
    """Within groups limma's t; between balanced groups, whose means tell their variance, none."""
    found, plain = (balanced.t_test("treated, x", moderate=m) for m in (True, False))
    d = 8 * 4 - 1  # of the rows within groups, less x
    assert_close(
        balanced.moderation.variance, moderate(balanced.scale, np.full(200, d)).variance, 1e-6
    )
    prior = balanced.moderation.df_prior
    ratio = np.sqrt(balanced.scale / balanced.moderation.variance)
    assert_close(found.statistic[:, 1], plain.statistic[:, 1] * ratio, 1e-6)
    assert_close(found.df_denom[:, 1], np.full(200, d + prior), 1e-6)
    # variance components at a Newton decrement of 1e-9: 1e-5 of their standard errors
    assert_close(found.statistic[:, 0], plain.statistic[:, 0], 1e-4)
    assert_close(found.df_denom[:, 0], np.full(200, 6.0), 1e-4)


def test_one_moderated_contrast_is_a_moderated_joint_test(balanced):
    joint, one = (test("x = 0", moderate=True) for test in (balanced.wald_test, balanced.t_test))
    assert_close(joint.statistic, one.statistic**2, 1e-8)
    assert_close(joint.pvalue, one.pvalue, 1e-6)
    apart = balanced.t_test("treated, x", moderate=True)
    both = balanced.wald_test("treated, x", moderate=True)
    assert_close(2 * both.statistic[:, 0], np.sum(apart.statistic**2, axis=1), 1e-6)  # orthogonal


def test_a_prior_of_one_variance_takes_its_uncertainty_away(balanced):
    """Nothing is left of the variance of log sigma^2."""
    whole = Moderation(np.full(200, 1.5), np.inf, 1.5)
    assert_close(
        moderated_estimates(balanced, whole).joint_cov[:, -1], np.zeros((200, 2)), 1e-12, 1
    )


@pytest.mark.slow
def test_ten_thousand_responses_are_tested_in_a_moment():
    endog, fits = responses(10_000), []

    def fitted():
        fits.append(lmm.fit_many("~ A * x + (1 | g)", data(), endog, progress=False))

    def tested():
        fits[-1].wald_test("A[T.b] = 0, A[T.c] = 0")
        fits[-1].t_test(["A[T.b] = 0", "A[T.c] = 0", "A[T.b] = A[T.c]"])

    fitting = timings.seconds(fitted)
    assert min(timings.seconds(tested) for _ in range(3)) < fitting  # a tenth


def test_units_of_the_columns_do_not_matter_to_a_joint_test():
    frame = data().assign(big=1e6 * np.random.default_rng(1).normal(size=90))
    fits = lmm.fit_many("~ x + big + (1 | g)", frame, responses(3), progress=False)
    found = fits.wald_test("x = 0, big = 0")
    for i in range(3):
        one = fits.select(i).wald_test("x = 0, big = 0")
        assert found.df_num[i, 0] == one.df_num == 2
        assert_close(found.statistic[i, 0], one.statistic, RTOL)
        assert_close(found.df_denom[i, 0], one.df_denom, DF_RTOL)


def test_tests_say_whose_fit_has_not_converged():
    with pytest.warns(lmm.ConvergenceWarning):
        fits = lmm.fit_many("~ A * x + (x | g)", data(), responses(3), maxiter=0, progress=False)
    assert not fits.t_test("x = 0").to_frame()["converged"].any()


def test_no_moderation_beside_several_residual_variances():
    """Which of them scale is would decide it."""
    frame = data().assign(v=np.tile(list("pqr"), 30), h=np.arange(90) // 3)
    for term in ("us(v | h)", "diag(A)", "power(w)"):
        fits = lmm.fit_many(f"~ x + {term}", frame, responses(3), progress=False)
        with pytest.raises(lmm.DataError, match="residuals have several variances"):
            fits.t_test("x = 0", moderate=True)
    fits = lmm.fit_many("~ x + cs(v | h)", frame, responses(3), progress=False)
    assert np.isfinite(fits.t_test("x = 0", moderate=True).pvalue).all()


def test_frames_of_means_are_those_of_their_tests():
    data = lmm.load_dataset("machines")
    Y = data["score"].to_numpy()[:, None] + np.random.default_rng(1).normal(size=(54, 4))
    many = lmm.fit_many("~ Machine + (1 | Worker)", data, Y, progress=False)
    means = many.emmeans("Machine").contrast("consec")
    pd.testing.assert_frame_equal(means.to_frame(level=0.9), means.tests().to_frame(level=0.9))
