"""Backward elimination, against lmerTest's step and the fits that are left."""

import pickle

import numpy as np
import pandas as pd
import pytest
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax.designs.nesting import with_fixed_terms, with_formula

DATA = {
    "oats": lmm.load_dataset("oats"),
    "teeth": lmm.load_dataset("orthodont"),
    "cake": lmm.load_dataset("cake"),
    "machines": lmm.load_dataset("machines"),
    "sleep": lmm.load_dataset("sleepstudy"),
}
# lmerTest 3.1-3, optimizers at 1e-12: data, model, arguments; of every part tested: when it went,
# the likelihood ratio and its p value; of every term: when it went, the sum of squares, the
# denominator degrees of freedom, F and its p value; what is left.
LMERTEST = {
    "oats": (
        "oats", "yld ~ Variety * Nf + (1 | Block/Variety)", {},
        {"(1 | Variety:Block)": (0, 7.661459689, 0.005641284551),
         "(1 | Block)": (0, 4.978204076, 0.025668616434)},
        {"Variety:Nf": (1, 321.75, 45.000035840, 0.3028239865, 9.321985272e-01),
         "Variety": (2, 482.9103364, 9.999999765, 1.4853403289, 2.723868684e-01),
         "Nf": (0, 20020.5, 50.999991527, 41.0528190527, 1.227717797e-13)},
        "yld ~ Nf + (1 | Variety:Block) + (1 | Block)",
    ),
    "oats, Kenward-Roger": (
        "oats", "yld ~ Variety * Nf + (1 | Block/Variety)", {"df_method": "kr", "alpha_fixed": 0.5},
        {"(1 | Variety:Block)": (0, 7.661459689, 0.005641284551),
         "(1 | Block)": (0, 4.978204076, 0.025668616434)},
        {"Variety:Nf": (1, 321.75, 45.0, 0.3028239865, 9.321985244e-01),
         "Variety": (0, 482.9103364, 10.0, 1.4853403289, 2.723868674e-01),
         "Nf": (0, 20020.5, 51.0, 41.0528329524, 1.227707718e-13)},
        "yld ~ Variety + Nf + (1 | Variety:Block) + (1 | Block)",
    ),
    "a slope": (
        "teeth", "distance ~ age * Sex + (age | Subject)", {},
        {"age in (age | Subject)": (1, 1.175582137, 5.555531092e-01),
         "(1 | Subject)": (0, 49.801868259, 1.700819342e-12)},
        {"age:Sex": (0, 12.11415194, 79.00000037, 6.302708946, 0.01409745038)},
        "distance ~ age + Sex + age:Sex + (1 | Subject)",
    ),
    "a polynomial": (
        "teeth", "distance ~ age * Sex + I(age^2) + (age | Subject)", {"alpha_random": 1e-6},
        {"age in (age | Subject)": (1, 1.152433324, 5.620206635e-01),
         "(1 | Subject)": (0, 49.293841881, 2.203531435e-12)},
        {"I(age ** 2)": (1, 1.446759259, 78.00000589, 0.7503361334, 0.38902654855),
         "age:Sex": (0, 12.114151936, 79.00000037, 6.3027089465, 0.01409745038)},
        "distance ~ age + Sex + age:Sex + (1 | Subject)",
    ),
    "cake": (
        "cake", "angle ~ recipe * temp + (1 | replicate) + (1 | recipe:replicate)", {},
        {"(1 | recipe:replicate)": (0, 7.688633904, 5.556967440e-03),
         "(1 | replicate)": (0, 37.899697460, 7.447678909e-10)},
        {"recipe:temp": (1, 1.741587302, 221.99997692, 0.04169244092, 9.591722434e-01),
         "recipe": (2, 65.354588458, 27.99991723, 1.57804873792, 2.241866683e-01),
         "temp": (0, 1966.705079365, 224.00002329, 94.97590501135, 6.192674216e-19)},
        "angle ~ temp + (1 | recipe:replicate) + (1 | replicate)",
    ),
    "a term that is kept": (
        "cake", "angle ~ recipe * temp + (1 | replicate) + (1 | recipe:replicate)",
        {"keep": ["recipe"]},
        {"(1 | recipe:replicate)": (0, 7.688633904, 5.556967440e-03),
         "(1 | replicate)": (0, 37.899697460, 7.447678909e-10)},
        {"recipe:temp": (1, 1.741587302, 221.99997692, 0.04169244092, 9.591722434e-01),
         "recipe": (0, 65.354588458, 27.99991723, 1.57804873792, 2.241866683e-01),
         "temp": (0, 1966.705079365, 224.00010781, 94.97593180798, 6.192600428e-19)},
        "angle ~ recipe + temp + (1 | recipe:replicate) + (1 | replicate)",
    ),
    "nothing but the intercept": (
        "machines", "score ~ Machine + (1 | Worker) + (1 | Worker:Machine)",
        {"alpha_fixed": 1e-9},
        {"(1 | Worker:Machine)": (0, 71.190633969, 3.243240443e-17),
         "(1 | Worker)": (0, 5.568022041, 1.829141185e-02)},
        {"Machine": (1, 38.05051164, 9.999999933, 20.57608284, 0.0002855485005)},
        "score ~ 1 + (1 | Worker:Machine) + (1 | Worker)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LMERTEST)
def test_step_of_lmertest(name):
    data, formula, options, random, fixed, left = LMERTEST[name]
    found = lmm.step(lmm.fit(formula, DATA[data]), **options)
    assert found.formula == left
    assert found.random.index.tolist() == ["<none>", *random]
    rows = found.random.iloc[1:]
    assert rows["eliminated"].tolist() == [row[0] for row in random.values()]
    assert_close(rows[["chisq", "p_value"]], [row[1:] for row in random.values()], 2e-5)
    assert found.fixed.index.tolist() == list(fixed)
    assert found.fixed["eliminated"].tolist() == [row[0] for row in fixed.values()]
    # digits of lmerTest's numerical derivatives
    columns = ["sum_sq", "df_denom", "f", "p_value"]
    assert_close(found.fixed[columns], [row[1:] for row in fixed.values()], 3e-5)


@pytest.mark.parametrize("name", LMERTEST)
def test_what_is_left_is_a_fit_of_its_formula(name):
    data, formula, options, *_ = LMERTEST[name]
    left = lmm.step(lmm.fit(formula, DATA[data]), **options).fit
    again = lmm.fit(left.formula, DATA[data], df_method=left.df_method)
    assert_close(left.llf, again.llf, 1e-10)
    assert_close(left.tidy().select_dtypes(float), again.tidy().select_dtypes(float), 1e-6)
    new = DATA[data].iloc[[5, 1, 17]]
    for conditional in (False, True):
        assert_close(
            left.predict(new, conditional=conditional),
            again.predict(new, conditional=conditional), 1e-8,
        )  # fmt: skip
    factor = {"oats": "Nf", "teeth": "Sex"}.get(data, "1")
    assert_close(
        lmm.emmeans(left, factor).at.estimate, lmm.emmeans(again, factor).at.estimate, 1e-8
    )
    assert_close(left.random_effects_frame().select_dtypes(float),
                 again.random_effects_frame().select_dtypes(float), 1e-5, 1e-6)  # fmt: skip


def test_without_random_effects_it_is_least_squares():
    """Rows of one mean and variance: no group has anything of its own."""
    rng = np.random.default_rng(1)
    sleep = DATA["sleep"].assign(y=rng.normal(size=180))
    sleep["y"] -= sleep.groupby("Subject")["y"].transform("mean")
    formula = "y ~ Days + I(Days^2) + cs(1 + Days | Subject)"
    found = lmm.step(lmm.fit(formula, sleep), alpha_fixed=1e-6)
    assert found.random["eliminated"].tolist() == [0, 1, 2]
    assert found.formula == "y ~ 1" and found.fixed["eliminated"].tolist() == [1, 2]
    assert_close(found.fit.scale, sleep["y"].var(), 1e-10)
    assert_close(found.fit.bse_fe["Intercept"], sleep["y"].std() / np.sqrt(180), 1e-10)
    assert found.fixed["df_denom"].tolist() == pytest.approx([177, 178], rel=1e-9)
    X = np.column_stack([np.ones(180), sleep["Days"], sleep["Days"] ** 2])
    beta, rss = np.linalg.lstsq(X, sleep["y"], rcond=None)[:2]
    t = beta[2] / np.sqrt(np.linalg.inv(X.T @ X)[2, 2] * rss[0] / 177)
    assert_close(found.fixed["f"].iloc[0], t**2, 1e-8)


def test_parts_that_may_not_go():
    res = lmm.fit("distance ~ age * Sex + (age | Subject)", DATA["teeth"])
    stays = lmm.step(res, reduce_random=False, alpha_fixed=1e-3)
    assert stays.random["eliminated"].tolist() == [0, 0]
    assert stays.fixed.index[0] == "age:Sex" and "(age | Subject)" in stays.formula
    whole = lmm.step(res, reduce_fixed=False, alpha_fixed=1e-3)
    assert whole.fixed["eliminated"].tolist() == [0] and "age:Sex" in whole.formula
    assert_close(whole.fixed["p_value"], lmm.drop1(whole.fit)["p_value"], 1e-12)


def test_a_residual_covariance_needs_no_random_effects():
    res = lmm.fit("distance ~ age * Sex + (1 | Subject) + diag(Sex)", DATA["teeth"])
    found = lmm.step(res, alpha_random=1e-20)
    assert found.random["eliminated"].tolist() == [0, 1]
    assert found.formula == "distance ~ age + Sex + diag(Sex)"
    alone = lmm.fit(found.formula, DATA["teeth"])
    assert_close(found.fit.llf, alone.llf, 1e-10)
    assert found.fixed["eliminated"].tolist() == [1, 0, 0]
    assert_close(found.fixed["f"].iloc[1:], lmm.drop1(alone)["f"], 1e-6)


@pytest.mark.parametrize(
    ("formula", "names", "left", "random"),
    [
        ("y ~ x * f + poly(z, 2) + (1 + x | `a b`)", ["x", "poly(z, 2)"],
         "y ~ x + poly(z, 2) + (1 + x | `a b`)", None),
        ("y ~ 0 + f + x + offset(z) + (0 + x | g) + (1 | g)", ["f"],
         "y ~ 0 + f + (0 + x | g) + (1 | g) + offset(z)", None),
        ("y ~ `a b` + x + (1 | g)", ["a b"], "y ~ `a b` + (1 | g)", None),
        ("y ~ x + I(2 * x) + f + (1 | g)", ["f"], "y ~ f + (1 | g)", None),
    ],
)  # fmt: skip
def test_designs_with_some_of_the_terms(formula, names, left, random):
    rng = np.random.default_rng(3)
    data = DATA["oats"].assign(x=rng.normal(size=72), z=rng.normal(size=72), f=DATA["oats"]["Nf"])
    data = data.rename(columns={"yld": "y", "Block": "g"}).assign(**{"a b": rng.integers(0, 6, 72)})
    if "I(2" in formula:
        with pytest.warns(lmm.RankWarning):
            design = lmm.design(formula, data)
    else:
        design = lmm.design(formula, data)
    some = with_fixed_terms(design, names)
    some = with_formula(some, some.source)
    assert some.source.formula == left
    assert_close(some.exog, lmm.design(left, data).exog, 1e-12, 1)
    fit, plain = lmm.fit(some), lmm.fit(design)
    assert_close(fit.predict(data), some.exog @ fit.fe_params.to_numpy()
                 + (0 if some.offset is None else some.offset), 1e-10, 1)  # fmt: skip
    assert fit.nobs == plain.nobs and len(fit.fe_params) < len(plain.fe_params)


@pytest.mark.filterwarnings("ignore::lmm_jax.RankWarning")
def test_dependent_columns_after_an_elimination():
    """What u = 2 Days stands for is no test of Days alone, before and after terms have gone."""
    sleep = DATA["sleep"].assign(u=lambda d: 2 * d["Days"], h=np.arange(180) % 7)
    res = lmm.fit("Reaction ~ Days + u + (1 | Subject) + (1 | h)", sleep)
    found = lmm.step(res)
    assert found.random["eliminated"].tolist() == [0, 1, 0]
    assert found.fixed["p_value"].isna().tolist() == [True, True]
    again = lmm.fit(found.formula, sleep)
    assert_close(found.fit.llf, again.llf, 1e-10)
    assert_close(found.fit.predict(sleep), again.predict(sleep), 1e-9)


def test_a_design_from_arrays_keeps_its_constant():
    sleep = DATA["sleep"]
    X = sleep[["Days"]].assign(one=1.0, u=np.sin(np.arange(180.0)))[["one", "Days", "u"]]
    res = lmm.fit(lmm.design_from_arrays(sleep["Reaction"], X, sleep["Subject"]))
    same = lmm.fit("Reaction ~ Days + u + (1 | Subject)", sleep.assign(u=X["u"]))
    for test in ("F", "chisq"):
        assert_close(lmm.drop1(res, test), lmm.drop1(same, test), 1e-7)
    found, other = lmm.step(res), lmm.step(same)
    assert found.formula is None and found.fit.fixed_names == ("one", "Days")
    assert other.fit.fixed_names == ("Intercept", "Days")
    assert_close(found.fit.llf, other.fit.llf, 1e-10)


@pytest.mark.parametrize(
    ("formula", "data", "options"),
    [
        ("score ~ Machine", "machines",
         {"groups": "Worker", "re_formula": "1", "vc_formula": {"m": "0 + C(Machine)"}}),
        ("score ~ Machine + (0 + Machine || Worker)", "machines", {}),
    ],
)  # fmt: skip
def test_models_that_no_formula_says(formula, data, options):
    res = lmm.fit(formula, DATA[data], **options)
    found = lmm.step(res)
    assert found.formula is None and "Model:" not in str(found)
    assert found.fit.llf <= res.llf + 1e-9


def test_page_and_errors():
    res = lmm.fit("Reaction ~ Days + I(Days^2) + (Days | Subject)", DATA["sleep"])
    found = lmm.step(res)
    text = str(found)
    assert "Model: Reaction ~ Days + (Days | Subject)" in text and "eliminated" in text
    assert "Backward elimination" in found.to_html() and "tabular" in found.to_latex()
    with pytest.raises(lmm.DataError, match="keep='Dyas': choose from Days, "):
        lmm.step(res, keep=["Dyas"])
    with pytest.raises(lmm.DataError, match="alpha_fixed=5: a number between 0 and 1"):
        lmm.step(res, alpha_fixed=5)
    with pytest.raises(lmm.DataError, match=r"pass the fit, or res\.with_df"):
        lmm.step(res.robust("CR2"))
    with pytest.raises(lmm.DataError, match="restored without its data"):
        lmm.step(res.without_data())


def test_what_is_eliminated_to_the_last_keeps_its_numbers():
    res = lmm.fit(
        "score ~ Machine + (1 | Worker) + (1 | Worker:Machine)", lmm.load_dataset("machines")
    )
    found = lmm.step(res, alpha_fixed=1e-9)
    assert all(dtype.kind in "if" for dtype in found.fixed.dtypes)
    again = pickle.loads(pickle.dumps(found))
    assert again.formula == found.formula == "score ~ 1 + (1 | Worker:Machine) + (1 | Worker)"
    assert str(again) == str(found)


def test_terms_without_a_column_are_listed():
    """As drop1 of lme4 lists them: with no parameter, before what they contain."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"x": rng.normal(size=60), "g": np.arange(60) % 8, "h": list("AB") * 30})
    data["a"] = data["h"] + pd.Series(list("1122") * 15)
    data["y"], data["twice"] = data["x"] + rng.normal(size=60), 2 * data["x"]
    with pytest.warns(lmm.RankWarning):
        nested = lmm.fit("y ~ h * a + (1 | g)", data)
    with pytest.warns(lmm.RankWarning):
        both = lmm.fit("y ~ x + twice + (1 | g)", data)
    for test in ("F", "chisq"):
        assert lmm.drop1(nested, test).iloc[-1].name == "h:a"
        found = lmm.drop1(both, test)["df_num" if test == "F" else "npar"]
        assert found[["x", "twice"]].tolist() == [0, 0]
    again = pickle.loads(pickle.dumps(both))
    assert "twice: linearly dependent columns" in str(again)
    assert str(again) == str(both)
