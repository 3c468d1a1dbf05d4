"""Methods of degrees of freedom: Kenward-Roger, between-within, residual, normal."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import reference
from helpers import assert_close, random_root

import lmm_jax as lmm
from lmm_jax.errors import DataError
from lmm_jax.inference.df.kenward_roger import f_correction

# pbkrtest at lme4's optimum polished by Newton steps: two optima, ours to a decrement of 1e-9.
KR_RTOL = 1e-7
# Columns near 2,000 with a spread of 10: what V^-1 leaves of them in the reference's own code.
KR_BADLY_SCALED = {"sim_year_reml": 1e-5}
MOMENT_RTOL = 1e-9  # two float64 codes; the dense one inverts n x n matrices

KR = reference.names(lambda c: "kenward_roger" in c or "kenward_roger_own" in c)


def fitted(name, **options):
    case = reference.load(name)
    weights = case["model"]["weights"]
    return lmm.fit(reference.formula(case), reference.frame(case), weights=weights, **options)


@pytest.mark.filterwarnings("ignore:the fixed-effects design is rank deficient")
@pytest.mark.parametrize("name", KR)
def test_kenward_roger_is_that_of_pbkrtest(name):
    case = reference.load(name)
    expected = case.get("kenward_roger") or case["kenward_roger_own"]
    result, tol = fitted(name, df_method="kr"), KR_BADLY_SCALED.get(name, KR_RTOL)
    assert_close(result.df, expected["df"], tol)
    assert_close(result.bse_fe, expected["se"], tol)
    assert_close(result.tvalues, expected["t"], tol, np.ones(len(expected["t"])))
    se = np.array(expected["se"])
    cov = result.cov_params().to_numpy()[: len(se), : len(se)]
    assert_close(cov, expected["vcov_adjusted"], 10 * tol, np.outer(se, se))


@pytest.mark.parametrize(
    "name", ["sleepstudy_rs_reml", "sim_crossslope_reml", "pastes_nested_reml"]
)
@pytest.mark.parametrize("xp", [np, jnp])
def test_moments_of_the_layouts_are_those_of_dense_matrices(name, xp, x64):
    case, result = reference.load(name), fitted(name)
    layout = jax.tree.map(xp.asarray, result.design.compressed.layout)
    moments = lambda layout, theta: layout.psi_moments(theta)  # noqa: E731
    moments = moments if xp is np else jax.jit(moments)
    at = moments(layout, xp.asarray(result.estimates.theta_layout))
    X, terms = reference.design_columns(case)
    Z, Lambda = random_root(terms, result.theta)
    V = np.eye(len(X)) + Z @ Lambda @ Lambda.T @ Z.T
    Vi, start, whitened = np.linalg.inv(V), 0, []
    for term, A, s in zip(terms, layout.whiteners, layout.structures, strict=True):
        levels = len(np.unique(term.groups))
        part = Z[:, start : start + levels * s.k]
        for E in s.directions:  # in the layout's coordinates Psi is A^-1 Psi A^-T
            whitened.append(part @ np.kron(np.eye(levels), A @ E @ np.asarray(A).T) @ part.T)
        start += levels * s.k
    B = np.asarray(layout.beta_map)
    assert_close(at.gram, B.T @ X.T @ Vi @ X @ B, MOMENT_RTOL, 1)
    for k, Vk in enumerate(whitened):
        assert_close(at.traces[k], np.trace(Vi @ Vk), MOMENT_RTOL)
        assert_close(at.grams[k], B.T @ X.T @ Vi @ Vk @ Vi @ X @ B, MOMENT_RTOL, 1)
        for j, Vj in enumerate(whitened):
            assert_close(at.products[k, j], np.trace(Vi @ Vk @ Vi @ Vj), MOMENT_RTOL, 1)
            assert_close(
                at.seconds[k, j], B.T @ X.T @ Vi @ Vk @ Vi @ Vj @ Vi @ X @ B, MOMENT_RTOL, 1
            )


def test_one_row_is_not_scaled_and_has_the_df_of_the_contrast():
    result = fitted("oats_factor_reml", df_method="kenward-roger")
    rows = np.random.default_rng(0).normal(size=(4, len(result.fe_params)))
    for row, df in zip(rows, result.tests.of_contrasts(rows), strict=True):
        found, scale = f_correction(result.tests.at, row[None])
        assert_close(found, df, 1e-10)
        assert_close(scale, 1.0, 1e-10)


def test_a_balanced_split_plot_has_the_df_of_its_strata():
    result = fitted("oats_factor_reml")
    names = list(result.fixed_names)
    main = [n for n in names if n.startswith("Variety") and ":" not in n]
    inner = [n for n in names if ":" in n]
    test = result.f_test([f"{n} = 0" for n in inner], df_method="kr")
    assert_close(test.df_denom, 45.0, 1e-8)
    exact = result.f_test([f"{n} = 0" for n in inner])
    assert_close(test.statistic, exact.statistic, 1e-8)
    assert result.t_test(f"{main[0]} = 0", df_method="residual").df_denom[0] == 72 - 12


def test_recoding_and_units_leave_kenward_roger_as_it_is():
    data = lmm.load_dataset("machines")
    one = lmm.fit("score ~ Machine + (1 | Worker)", data, df_method="kr")
    other = lmm.fit(
        "y ~ C(Machine, contr.sum) + (1 | Worker)", data.assign(y=1e6 * data.score), df_method="kr"
    )
    last = [len(one.fe_params) - 2, len(one.fe_params) - 1]
    left, right = (r.f_test(np.eye(3)[last]) for r in (one, other))
    assert_close(left.statistic, right.statistic, 1e-8)
    assert_close(left.df_denom, right.df_denom, 1e-8)


def test_between_and_within_subjects():
    data = lmm.load_dataset("orthodont")
    result = lmm.fit("distance ~ age * Sex + (1 | Subject)", data, df_method="between-within")
    between = {"Intercept", "Sex[T.Female]", "Sex[T.Male]"} & set(result.fixed_names)
    for name, df in result.df.items():
        assert df == (27 - 2 if name in between else 108 - 27 - 2)
    both = result.f_test(np.eye(4)[[1, 2]])  # one of each: the fewer
    assert both.df_denom == 25


def test_between_and_within_of_nested_factors():
    result = fitted("oats_factor_reml", df_method="between-within")
    varieties = [n.startswith("Variety") and ":" not in n for n in result.fixed_names]
    intercept = np.array(result.fixed_names) == "Intercept"
    expected = np.where(intercept, 6 - 1, np.where(varieties, 18 - 6 - 2, 72 - 18 - 9))
    np.testing.assert_array_equal(result.df, expected)


def test_the_method_is_an_argument_of_every_test():
    result = lmm.fit("score ~ Machine + (1 | Worker)", lmm.load_dataset("machines"))
    kr = lmm.fit("score ~ Machine + (1 | Worker)", lmm.load_dataset("machines"), df_method="kr")
    hypothesis = "Machine[T.B] = 0, Machine[T.C] = 0"
    pairs = [
        (result.tidy(df_method="kr"), kr.tidy()),
        (result.conf_int(df_method="kr"), kr.conf_int()),
        (result.wald_test_terms(df_method="kr"), kr.wald_test_terms()),
        (
            result.t_test(hypothesis, df_method="kr").summary_frame(),
            kr.t_test(hypothesis).summary_frame(),
        ),
    ]
    for left, right in pairs:
        assert left.equals(right)
    assert str(result.summary(df_method="kr")) == str(kr.summary())
    assert str(result.f_test(hypothesis, df_method="kr")) == str(kr.f_test(hypothesis))
    assert result.wald_test(hypothesis, df_method="z").distribution == "chi2"
    assert np.isinf(result.t_test(hypothesis, df_method="normal").df_denom).all()
    assert result.df_method == "satterthwaite"


def test_held_effects_have_no_test_and_the_others_keep_theirs():
    data = lmm.load_dataset("sleepstudy")
    model = lmm.design("Reaction ~ Days + (Days | Subject)", data)
    start = lmm.Params.from_components(np.array([0.0, 10.0]), cov_re=np.eye(2))
    free = lmm.Params.from_components(np.array([1.0, 0.0]), cov_re=np.ones((2, 2)))
    held = lmm.fit(model, start_params=start, free=free, df_method="kr")
    shifted = lmm.fit("Reaction ~ 1 + offset(10 * Days) + (Days | Subject)", data, df_method="kr")
    assert_close(held.bse_fe.iloc[0], shifted.bse_fe.iloc[0], 1e-9)
    assert_close(held.df.iloc[0], shifted.df.iloc[0], 1e-9)
    assert held.bse_fe.iloc[1] == 0 and np.isnan(held.pvalues.iloc[1])


def test_a_saved_fit_keeps_its_method():
    result = fitted("sleepstudy_rs_reml", df_method="kr")
    again = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(again.df, result.df)
    plain = pickle.loads(pickle.dumps(fitted("sleepstudy_rs_reml")))
    with pytest.raises(DataError, match="restored without its data"):
        plain.t_test("Days = 0", df_method="kr")


@pytest.mark.parametrize(
    ("formula", "options", "message"),
    [
        ("score ~ Machine + (1 | Worker)", {"df_method": "kr", "reml": False}, "one of REML"),
        (
            "score ~ Machine + (1 | Worker)",
            {"df_method": "kenward"},
            "did you mean 'kenward-roger'",
        ),
        ("score ~ 1 + (1 | Worker) + (1 | Machine)", {"df_method": "between-within"}, "nest"),
    ],
)
def test_refusals(formula, options, message):
    with pytest.raises(DataError, match=message):
        lmm.fit(formula, lmm.load_dataset("machines"), **options)


def test_rounding_is_no_part_of_a_contrast():
    """Between-within of tables and means: the strata of a split plot, whatever rounds."""
    result = fitted("oats_factor_reml", df_method="between-within")
    assert result.anova()["df_denom"].tolist() == [10, 45, 45]
    assert lmm.joint_tests(result)["df_denom"].tolist() == [10, 45, 45]
    for method in ("eff", "poly"):
        contrasts = lmm.emmeans(result, "Nf").contrast(method).to_frame()
        assert (contrasts["df"] == 45).all()
    growth = lmm.fit(
        "distance ~ age * Sex + (1 | Subject)", lmm.load_dataset("orthodont"),
        df_method="between-within",
    )  # fmt: skip
    assert growth.anova()["df_denom"].tolist() == [79, 25, 79]


def crossed_sites(sites):
    """Twelve subjects, each seen once at every site."""
    rng = np.random.default_rng(3)
    site, subject = (a.ravel() for a in np.meshgrid(np.arange(sites), np.arange(12)))
    effects = rng.normal(size=sites)[site] + rng.normal(size=12)[subject]
    return pd.DataFrame(
        {
            "y": effects + rng.normal(size=12 * sites),
            "x": rng.normal(size=sites)[site],
            "z": rng.normal(size=12 * sites),
            "site": site,
            "id": subject,
        }
    )


@pytest.mark.parametrize("sites", [6, 12])
def test_subjects_crossed_with_sites_are_refused_whatever_their_numbers(sites):
    result = lmm.fit("y ~ x + z + (1 | site) + cs(site | id)", crossed_sites(sites))
    with pytest.raises(DataError, match="crossed with random effects"):
        _ = result.with_df("between-within").df


@pytest.mark.parametrize("residual", ["sp_exp(z)", "cs(site | id)"])
def test_a_factor_of_one_level_is_none(residual):
    """n - p, or subjects and rows less theirs: the intercept has no factor of its own."""
    data = crossed_sites(4)
    result = lmm.fit(f"y ~ x + z + {residual}", data, df_method="between-within")
    n = len(data)
    expected = [n - 3] * 3 if residual == "sp_exp(z)" else [12 - 1, n - 12 - 2, n - 12 - 2]
    np.testing.assert_array_equal(result.df, expected)
    assert np.isfinite(result.pvalues).all()


def test_names_in_any_case():
    res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
    for name, method in {"KR": "kenward-roger", "Kenward-Roger": "kenward-roger", "Z": "normal",
                         "Satterthwaite": "satterthwaite"}.items():  # fmt: skip
        assert res.with_df(name).df_method == method
