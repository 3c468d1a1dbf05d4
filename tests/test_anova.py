"""Analysis of variance: types I to III, likelihood ratio tests, terms left out in turn."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import reference
import samples
from helpers import assert_close
from scipy import special
from test_reference import fit

import lmm_jax as lmm
from lmm_jax.api import anova as anova_module
from lmm_jax.errors import DataError

# R's tables at lme4's optimum polished by Newton steps, ours at our own.
F_RTOL = 1e-8
# lmerTest's degrees of freedom come from numerical derivatives.
SATTERTHWAITE_RTOL = 1e-7
KR_RTOL = 1e-8
P_RTOL = 1e-6  # a p value of 1e-12 turns on the twelfth digit of its degrees of freedom
LLF_TOL = 1e-8

pytestmark = pytest.mark.filterwarnings("ignore:the fixed-effects design is rank deficient")

CASES = reference.names(lambda c: "anova" in c, reference.INFERENCE)
KINDS = {"type1": 1, "type2": 2, "type3": 3}
METHODS = ("satterthwaite", "kenward_roger")
SLEEP = lmm.load_dataset("sleepstudy")
SLOPES = "Reaction ~ Days + (Days | Subject)"
INTERCEPTS = "Reaction ~ Days + (1 | Subject)"


def in_r(name):
    return name.replace(" ", "").replace("**", "^")


def check(table, expected, df_rtol):
    assert [in_r(term) for term in table.index] == [in_r(term) for term in expected["term"]]
    np.testing.assert_array_equal(table["df_num"], expected["NumDF"])
    assert_close(table["sum_sq"], expected["Sum Sq"], F_RTOL)
    assert_close(table["mean_sq"], expected["Mean Sq"], F_RTOL)
    assert_close(table["f"], expected["F value"], F_RTOL)
    assert_close(table["df_denom"], expected["DenDF"], df_rtol)
    assert_close(table["p_value"], expected["Pr(>F)"], P_RTOL)


@pytest.mark.parametrize("name", CASES)
def test_types_of_lmertest(name):
    case, result = reference.load(name), reference.inference_fit(name)
    for kind, number in KINDS.items():
        for method in METHODS:
            expected = case["anova"].get(f"{kind}_{method}")
            if expected:
                df_rtol = SATTERTHWAITE_RTOL if method == "satterthwaite" else KR_RTOL
                table = result.anova(number, df_method=method.replace("_", "-"))
                check(table, expected, df_rtol)


OLD = reference.names(
    lambda c: (
        "anova_satterthwaite" in c and c["p"] <= 30 and reference.supported(c["name"]) == "nested"
    )
)


@pytest.mark.parametrize("name", OLD)
def test_types_with_other_contrasts_and_dropped_columns(name):
    case, result = reference.load(name), fit(name)
    for kind, expected in case["anova_satterthwaite"].items():
        table = result.anova(int(kind[-1]))
        table = table[table["df_num"] > 0]  # R's puts terms that were dropped last
        tested = np.array(expected["NumDF"], dtype=float) > 0
        np.testing.assert_array_equal(table["df_num"], np.array(expected["NumDF"])[tested])
        for ours, theirs, tol in (
            ("f", "F value", 1e-6), ("df_denom", "DenDF", 1e-4), ("p_value", "Pr(>F)", 1e-4),
        ):  # fmt: skip
            assert_close(table[ours], np.array(expected[theirs], dtype=float)[tested], tol)


@pytest.mark.parametrize(
    "name", [n for n in CASES if "car_type2_chisq" in reference.load(n)["anova"]]
)
def test_type_2_of_car(name):
    anova, result = reference.load(name)["anova"], reference.inference_fit(name)
    table, expected = result.anova(2, marginal="car", df_method="z"), anova["car_type2_chisq"]
    assert_close(table["chisq"], expected["Chisq"], F_RTOL)
    np.testing.assert_array_equal(table["df"], expected["Df"])
    assert_close(table["p_value"], expected["Pr(>Chisq)"], P_RTOL)
    if anova.get("car_type2_F_kr"):
        table, expected = result.anova(2, marginal="car", df_method="kr"), anova["car_type2_F_kr"]
        assert_close(table["f"], expected["F"], F_RTOL)
        assert_close(table["df_denom"], expected["Df.res"], KR_RTOL)


CODINGS = ["{}", "C({}, contr.sum)", "C({}, contr.helmert)", "C({}, contr.poly)"]


@pytest.mark.parametrize("name", ["lmm_three", "lmm_empty", "lmm_empty_additive", "lmm_weights"])
def test_type_3_does_not_depend_on_the_coding(name):
    case = reference.load(name)
    data, model = reference.frame(case).rename(columns={"C": "D"}), case["model"]
    expected = None
    for coding in CODINGS:
        fixed, bars = model["formula"].replace("C", "D").split(" + (", 1)
        left, right = fixed.split("~")
        for factor in ("A", "B", "D"):
            if factor in data:
                right = " ".join(coding.format(w) if w == factor else w for w in right.split(" "))
                right = right.replace(f"{factor}:x", f"{coding.format(factor)}:x")
        formula = f"{left}~{right} + ({bars}"
        result = lmm.fit(formula, data, weights=model["weights"])
        table = result.anova().to_numpy()
        expected = table if expected is None else expected
        assert_close(table, expected, 1e-6)


def test_types_by_their_roman_numbers():
    result = lmm.fit("yld ~ Variety * Nf + (1 | Block/Variety)", lmm.load_dataset("oats"))
    for number, roman in enumerate(("I", "II", "III"), 1):
        pd.testing.assert_frame_equal(result.anova(roman), result.anova(number))
    with pytest.raises(lmm.DataError, match="type"):
        result.anova("IV")


def test_no_p_value_where_a_covariance_is_not_identified():
    """Lots nest in sources, so that nothing tells the covariance between these."""
    rng = np.random.default_rng(1)
    lot, wafer = np.repeat(np.arange(8), 9), np.repeat(np.arange(24), 3)
    data = pd.DataFrame({"lot": lot, "wafer": wafer, "source": np.where(lot < 4, "one", "two")})
    data["y"] = 2 * rng.normal(size=8)[lot] + rng.normal(size=24)[wafer] + rng.normal(size=72)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.ConvergenceWarning)
        result = lmm.fit("y ~ source + (0 + source | lot) + (1 | wafer)", data)
        table = lmm.ranova(result)
    assert not result.converged
    row = table.loc["(0 + source | lot)"]
    assert row["chisq"] > 10 and row["df"] == 3 and np.isnan(row["p_boundary"])


def test_levels_in_another_order_and_other_units_change_nothing():
    case = reference.load("lmm_three")
    data = reference.frame(case)
    turned = data.assign(
        A=pd.Categorical(data["A"], categories=list(data["A"].cat.categories)[::-1]),
        x=1000.0 * data["x"] + 7.0,
        y=-3.0 * data["y"],
    ).sample(frac=1.0, random_state=1)
    formula = case["model"]["formula"]
    for kind in (1, 2, 3):
        one, other = lmm.fit(formula, data).anova(kind), lmm.fit(formula, turned).anova(kind)
        assert_close(other["f"], one["f"], 1e-6)
        # the rows that span a hypothesis of several degrees of freedom belong to other levels
        assert_close(other["df_denom"], one["df_denom"], 1e-2)


def test_what_empty_cells_leave_untested_has_no_test():
    data = pd.DataFrame({"A": list("aabb") * 15, "B": list("cdcc") * 15, "g": np.arange(60) // 6})
    rng = np.random.default_rng(0)
    data["y"] = rng.normal(size=60) + rng.normal(size=10)[data["g"]]
    with pytest.warns(lmm.RankWarning):
        table = lmm.fit("y ~ A * B + (1 | g)", data).anova()
    assert table.loc["A:B", "df_num"] == 0
    assert table.loc["A:B"].drop("df_num").isna().all()


def test_arrays_have_a_term_a_column():
    data = lmm.load_dataset("sleepstudy")
    X = np.column_stack([np.ones(len(data)), data["Days"]])
    result = lmm.fit(lmm.design_from_arrays(data["Reaction"], X, data["Subject"]))
    expected = lmm.fit("Reaction ~ Days + (1 | Subject)", data).anova()
    assert_close(result.anova(), expected, 1e-7)


def test_a_table_prints_whole_and_is_a_frame():
    import pickle

    table = reference.inference_fit("lmm_oats_factor").anova()
    lines = str(table).splitlines()
    assert lines[0] == "Analysis of variance, type III, satterthwaite"
    assert lines[2].split() == ["term", *table.columns]
    assert lines[4].split()[-1] == "<0.001" and "<td>&lt;0.001</td>" in table._repr_html_()
    assert isinstance(table, pd.DataFrame) and type(table[["f"]]) is pd.DataFrame
    again = pickle.loads(pickle.dumps(table))
    assert str(again) == str(table) and again.equals(table)


def test_the_function_is_the_method():
    result = reference.inference_fit("lmm_oats_factor")
    assert lmm.anova(result, type=2, df_method="kr").equals(result.anova(2, df_method="kr"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": 4}, "type=4"),
        ({"type": 3, "marginal": "car"}, "pass type=2"),
        ({"type": 2, "marginal": "sas"}, "choose from lmertest, car"),
    ],
)
def test_options(options, message):
    with pytest.raises(DataError, match=message):
        reference.inference_fit("lmm_oats_factor").anova(**options)


# ------------------------------------------------------------ likelihood ratios

LRT = reference.names(lambda c: "lrt" in c, reference.INFERENCE)
PAIRS = [("npar", "npar"), ("aic", "AIC"), ("bic", "BIC"), ("llf", "logLik"), ("chisq", "Chisq")]


@pytest.mark.parametrize("name", LRT)
def test_likelihood_ratio_tests_of_lme4(name):
    case = reference.load(name)
    data, weights = reference.frame(case), case["model"]["weights"]
    fits = [lmm.fit(formula, data, weights=weights) for formula in case["lrt"]["formulas"]]
    table, expected = lmm.anova(*reversed(fits)), case["lrt"]["table"]
    for ours, theirs in PAIRS:
        gap = table[ours].iloc[1:] - np.array(expected[theirs][1:])
        assert np.abs(gap).max() < LLF_TOL
    assert_close(table["p_value"].iloc[1:], expected["Pr(>Chisq)"][1:], P_RTOL)
    assert "p_boundary" not in table


# ------------------------------------------------------------ F tests of nested fits

MODCOMP = json.loads((reference.INFERENCE.parent / "modcomp.json").read_text(encoding="utf-8"))
# pbkrtest's at the optimum of BOBYQA, 1e-6 of theta from ours, with numerical derivatives.
MODCOMP_RTOL = 1e-5


@pytest.mark.parametrize("found", MODCOMP["tests"], ids=lambda t: f"{t['case']}: {t['large']}")
def test_nested_fits_are_compared_as_by_pbkrtest(found):
    data = reference.frame(reference.load(found["case"]))
    texts = [found[size].replace("factor(", "C(") for size in ("small", "large")]
    small, large = (lmm.fit(text, data) for text in texts)
    for method in ("kenward-roger", "satterthwaite"):
        table, expected = lmm.anova(large, small, df_method=method), found[method]
        assert [note.split(": ")[1] for note in table.notes[:2]] == texts
        row = table.iloc[1]
        assert row["df_num"] == expected["df_num"]
        assert_close(row["f"], expected["f"], MODCOMP_RTOL)
        assert_close(row["df_denom"], expected["df_denom"], MODCOMP_RTOL)
        assert_close(row["p_value"], expected["p_value"], 1e-4, 1e-15)  # R's is 1 - cdf


def test_an_f_test_of_nested_fits_is_a_test_of_their_coefficients():
    texts = [f"Reaction ~ {left} + (Days | Subject)" for left in ("0", "1", "Days", "bs(Days, 4)")]
    fits = [lmm.fit(text, SLEEP) for text in texts]
    table = lmm.anova(*fits, df_method="satterthwaite")
    assert table["npar"].tolist() == [4, 5, 6, 9] and table["df_num"].tolist() == [0, 1, 1, 3]
    for i, name in enumerate(["Intercept", "Days"], 1):
        assert_close(table["f"].iloc[i], fits[i].tvalues[name] ** 2, 1e-9)
        assert_close(table["df_denom"].iloc[i], fits[i].df[name], 1e-9)
    chisq = lmm.anova(fits[1], fits[2], df_method="normal")
    assert_close(chisq["chisq"].iloc[1], table["f"].iloc[2], 1e-9)
    robust = lmm.anova(fits[1], fits[2].robust("CR2"), df_method="CR2")
    assert_close(robust["p_value"].iloc[1], fits[2].robust("CR2").pvalues["Days"], 1e-9)


NESTED = {
    "other random effects": ([INTERCEPTS, SLOPES], {}, "differ in their random effects"),
    "a bootstrap": ([SLOPES, SLOPES], {"bootstrap": 10}, "belong to likelihood ratios"),
    "no refit": ([SLOPES, SLOPES], {"refit": False}, "belong to likelihood ratios"),
}


@pytest.mark.parametrize(("texts", "options", "message"), NESTED.values(), ids=NESTED)
def test_f_tests_that_there_are_not(texts, options, message):
    small = lmm.fit("Reaction ~ 1 + (Days | Subject)", SLEEP)
    fits = [lmm.fit(text, SLEEP) for text in texts]
    with pytest.raises(DataError, match=message):
        lmm.anova(fits[0] if fits[0].n_params < 6 else small, fits[1], df_method="kr", **options)
    with pytest.raises(DataError, match="one of REML"):
        lmm.anova(small, lmm.fit(SLOPES, SLEEP, reml=False), df_method="kr")


@pytest.mark.parametrize("name", reference.names(lambda c: "ranova" in c, reference.INFERENCE))
def test_ranova_of_lmertest(name):
    expected = reference.load(name)["ranova"]["table"]
    table = lmm.ranova(reference.inference_fit(name)).loc[expected["term"]]
    np.testing.assert_array_equal(table["npar"], expected["npar"])
    np.testing.assert_array_equal(table["df"].iloc[1:], expected["Df"][1:])
    assert np.abs(table["llf"] - expected["logLik"]).max() < LLF_TOL
    assert np.abs(table["aic"] - expected["AIC"]).max() < LLF_TOL
    assert_close(table["p_value"].iloc[1:], expected["Pr(>Chisq)"][1:], P_RTOL)


@pytest.mark.parametrize(
    "name", reference.names(lambda c: "drop1_ml_chisq" in c, reference.INFERENCE)
)
def test_drop1(name):
    case, result = reference.load(name), reference.inference_fit(name)
    table, expected = lmm.drop1(result, "chisq"), case["drop1_ml_chisq"]
    assert list(table.index) == expected["term"]
    assert np.abs(table["aic"] - expected["AIC"]).max() < LLF_TOL
    assert_close(table["p_value"].iloc[1:], expected["Pr(Chi)"][1:], P_RTOL)
    for method in METHODS:
        if case["anova"].get(f"drop1_{method}"):
            table = lmm.drop1(result, df_method=method.replace("_", "-"))
            check(table, case["anova"][f"drop1_{method}"], SATTERTHWAITE_RTOL)


def test_random_parts_keep_reml_on_request():
    large, small = lmm.fit(SLOPES, SLEEP), lmm.fit(INTERCEPTS, SLEEP)
    table = lmm.anova(small, large, refit=False)
    assert_close(table["chisq"].iloc[1], 2 * (large.llf - small.llf), 1e-12)
    assert_close(table["chisq"].iloc[1], lmm.ranova(large)["chisq"].iloc[1], 1e-8)
    by_ml = lmm.anova(small, large)
    assert by_ml["llf"].iloc[1] == pytest.approx(lmm.fit(SLOPES, SLEEP, reml=False).llf)
    with pytest.raises(DataError, match="leave refit=True"):
        lmm.anova(lmm.fit("Reaction ~ 1 + (Days | Subject)", SLEEP), large, refit=False)


def test_a_new_variance_is_tested_on_its_boundary():
    """A variance alone: half of the usual p value; with a covariance: between one df and two."""
    from scipy import stats

    small, middle = (
        lmm.fit(INTERCEPTS, SLEEP),
        lmm.fit("Reaction ~ Days + (Days || Subject)", SLEEP),
    )
    table = lmm.anova(small, middle, refit=False)
    assert_close(table["p_boundary"].iloc[1], table["p_value"].iloc[1] / 2, 1e-12)
    table = lmm.anova(small, lmm.fit(SLOPES, SLEEP), refit=False)
    x = table["chisq"].iloc[1]
    assert_close(
        table["p_boundary"].iloc[1], (stats.chi2.sf(x, 1) + stats.chi2.sf(x, 2)) / 2, 1e-10
    )


def test_bootstrap_of_a_likelihood_ratio():
    """Where the larger model is true by far the share is as small as it can be."""
    small, large = lmm.fit(INTERCEPTS, SLEEP), lmm.fit(SLOPES, SLEEP)
    table = lmm.anova(small, large, bootstrap=39, seed=1)
    assert table["p_bootstrap"].iloc[1] == 1 / 40
    assert table.equals(lmm.anova(small, large, bootstrap=39, seed=1))


def test_bootstrap_in_chunks(monkeypatch):
    small, large = lmm.fit(INTERCEPTS, SLEEP), lmm.fit(SLOPES, SLEEP)
    sizes = []
    whole = anova_module._many_llf
    monkeypatch.setattr("lmm_jax.api.simulate._CHUNK", 15 * len(SLEEP))
    monkeypatch.setattr(
        anova_module, "_many_llf", lambda res, y: sizes.append(y.shape) or whole(res, y)
    )
    table = lmm.anova(small, large, bootstrap=39, seed=1)
    assert sizes[::2] == [(180, 15), (180, 15), (180, 9)]
    assert table["p_bootstrap"].iloc[1] == 1 / 40


def test_a_cone_of_one_variance_is_half_a_space():
    from lmm_jax.inference.profiles.boundary import boundary_p_value, cone_p_value

    rng = np.random.default_rng(1)
    for r in range(3):
        A = rng.normal(size=(r + 1, r + 4))
        for x in (0.5, 3.0, 8.0):
            expected = boundary_p_value(x, r + 1)
            assert_close(cone_p_value(x, A @ A.T, 1), expected, 0.02)  # 2,048 directions


def test_a_cone_of_two_variances_by_brute_force():
    """Squared length of the positive part of a symmetric normal matrix."""
    from lmm_jax.inference.profiles.boundary import cone_p_value

    z = np.random.default_rng(0).normal(size=(200_000, 3))
    F = np.stack([z[:, 0], z[:, 1] / np.sqrt(2), z[:, 1] / np.sqrt(2), z[:, 2]], axis=1)
    e = np.linalg.eigvalsh(F.reshape(-1, 2, 2))
    drawn = (np.maximum(e, 0) ** 2).sum(axis=1)
    for x in (1.0, 3.0, 6.0, 10.0):
        expected = (drawn > x).mean()
        assert_close(cone_p_value(x, np.diag([1.0, 2.0, 1.0]), 2), expected, 0.03)


def test_two_new_coefficients_lie_between_the_simple_tests():
    result = lmm.fit("score ~ Machine + (Machine | Worker)", lmm.load_dataset("machines"))
    row = lmm.ranova(result).iloc[1]
    assert 0 < row["p_boundary"] < row["p_value"]
    small = lmm.fit("score ~ Machine + (1 | Worker)", lmm.load_dataset("machines"))
    pair = lmm.anova(small, result, refit=False).iloc[1]
    assert_close(pair["p_boundary"], row["p_boundary"], 1e-6)


@pytest.mark.slow
def test_size_of_the_boundary_test():
    """Under the hypothesis the mixture keeps its level, the chi-square distribution does not."""
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(40), 5)
    data = pd.DataFrame({"g": g, "x": rng.normal(size=200), "y": 0.0})
    Y = rng.normal(size=(200, 2000)) + rng.normal(size=(40, 2000))[g]
    small = lmm.fit_many("~ x + (1 | g)", data, Y, reml=False, progress=False).llf
    large = lmm.fit_many("~ x + (x | g)", data, Y, reml=False, progress=False).llf
    from lmm_jax.inference.profiles.boundary import boundary_p_value

    p = np.array([boundary_p_value(2 * (b - a), 2) for a, b in zip(small, large, strict=True)])
    assert abs((p < 0.05).mean() - 0.05) < 0.015  # three standard errors of 2,000 draws


OTHER = SLEEP.assign(
    z=np.arange(180) % 2, h=np.arange(180) // 20, Reaction2=SLEEP["Reaction"] + 1.0
)


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (
            {"formula": INTERCEPTS, "subset": np.arange(180) > 3},
            {"formula": SLOPES},
            "176 and 180 rows",
        ),
        ({"formula": "Reaction2 ~ Days + (1 | Subject)"}, {"formula": SLOPES}, "responses"),
        ({"formula": INTERCEPTS, "weights": OTHER["z"] + 1.0}, {"formula": SLOPES}, "weights"),
        ({"formula": "Reaction ~ z + (1 | Subject)"}, {"formula": SLOPES}, "no special case"),
        ({"formula": "Reaction ~ Days + (1 | h)"}, {"formula": SLOPES}, "no special case"),
        ({"formula": INTERCEPTS}, {"formula": INTERCEPTS}, "same number of parameters"),
    ],
)
def test_what_cannot_be_compared(one, other, message):
    fits = [lmm.fit(o.pop("formula"), OTHER, **o) for o in ({**one}, {**other})]
    with pytest.raises(DataError, match=message):
        lmm.anova(*fits)


# ------------------------------------------------------------ where others go wrong


def by_slopes(result, rows):
    """F test of hypotheses about the slope of each level, by emtrends."""
    slopes = lmm.emtrends(result, "A", "x")
    return result.f_test(np.array(rows) @ slopes.at.L)


@pytest.mark.parametrize("coding", ["A", "C(A, contr.sum)", "C(A, contr.helmert)"])
def test_slopes_without_main_effects(coding):
    """x + A:x, A:x and A + A:x: the hypotheses are differences and means of slopes."""
    data = reference.frame(reference.load("lmm_weights"))
    apart = [[1, -1, 0], [0, 1, -1]]
    both = lmm.fit(f"y ~ x + {coding}:x + (1 | g)", data)
    table = both.anova()
    assert_close(table["f"].iloc[1], by_slopes(both, apart).statistic, 1e-6)
    assert_close(table["f"].iloc[0], by_slopes(both, [[1 / 3] * 3]).statistic, 1e-6)
    lone = lmm.fit(f"y ~ {coding}:x + (1 | g)", data)
    assert_close(lone.anova()["f"], [by_slopes(lone, np.eye(3)).statistic], 1e-6)
    crossed = lmm.fit(f"y ~ {coding} * x + (1 | g)", data)
    table = crossed.anova()
    assert_close(table["f"].iloc[1], by_slopes(crossed, [[1 / 3] * 3]).statistic, 1e-6)
    assert_close(table["f"].iloc[2], by_slopes(crossed, apart).statistic, 1e-6)


def test_type_1_of_nlme():
    """``nlme::anova.lme`` and lme4's anova without lmerTest, of an unbalanced split plot."""
    oats = lmm.load_dataset("oats").drop(index=[0, 4, 16, 29, 30, 43])
    result = lmm.fit("yld ~ Variety * Nf + (1 | Block/Variety)", oats)
    assert_close(result.llf, -238.947396876, 1e-10)
    table = result.anova(1, marginal="nlme")
    # lme4's optimum is 4e-10 of the log-likelihood below: the root of it, in its directions
    assert_close(table["f"], [0.994299099079, 32.713524933478, 0.434851635773], 3e-6)
    assert_close(table["f"].iloc[-1], result.anova(3)["f"].iloc[-1], 1e-9)
    assert table["df_num"].tolist() == [2, 3, 6]
    with pytest.raises(DataError, match="rule of type I: pass type=1"):
        result.anova(marginal="nlme")


def test_no_p_value_is_zero_that_a_float_can_hold():
    data = SLEEP.assign(Reaction=1e2 * SLEEP["Days"] + SLEEP["Reaction"])
    result = lmm.fit(INTERCEPTS, data)
    for method in ("satterthwaite", "kr", "residual"):
        p = result.anova(df_method=method)["p_value"].iloc[0]
        assert 0 < p < 1e-100
        assert 0 < result.t_test("Days = 0", df_method=method).pvalue[0] < 1e-100


def test_a_term_whose_columns_were_dropped_is_not_tested():
    data = reference.frame(reference.load("lmm_weights"))
    result = lmm.fit("y ~ A * x + (1 | g)", data.assign(x=data["x"] + 1e8))
    table, alone = result.anova(), lmm.fit("y ~ A + (1 | g)", data).anova()
    assert table["df_num"].tolist() == [2, 0, 0]
    assert np.isnan(table["f"]).tolist() == [False, True, True]
    assert_close(table["f"].iloc[0], alone["f"].iloc[0], 1e-6)


def test_terms_of_a_double_bar_have_names_that_a_formula_reads():
    barred = lmm.ranova(lmm.fit("Reaction ~ Days + (Days || Subject)", SLEEP))
    written = lmm.fit("Reaction ~ Days + (1 | Subject) + (0 + Days | Subject)", SLEEP)
    assert barred.index.tolist() == ["<none>", "(1 | Subject)", "(0 + Days | Subject)"]
    pd.testing.assert_frame_equal(barred, lmm.ranova(written))


def test_ranova_respects_marginality():
    data = reference.frame(reference.load("lmm_weights")).assign(c=lambda d: d["A"] == "a")
    table = lmm.ranova(lmm.fit("y ~ A + (x * B | g)", data))
    assert [name.split(" in ")[0] for name in table.index[1:]] == ["x:B"]


@pytest.mark.parametrize("option", [{"marginal": "car"}, {"type": 2}])
def test_options_of_one_table_are_refused_for_several_fits(option):
    fits = lmm.fit(INTERCEPTS, SLEEP), lmm.fit(SLOPES, SLEEP)
    with pytest.raises(DataError, match="belongs to the table of one fit"):
        lmm.anova(*fits, **option)


def test_names_that_hold_the_name_of_a_covariate_make_no_factor_of_it():
    data = reference.frame(reference.load("lmm_weights")).rename(columns={"B": "sex"})
    other = data.rename(columns={"sex": "gender"})
    one = lmm.fit("y ~ x * sex + (1 | g)", data).anova(2)
    two = lmm.fit("y ~ x * gender + (1 | g)", other).anova(2)
    assert_close(one, two, 1e-12)


def test_covariances_between_old_coefficients_count_on_the_boundary():
    from scipy import stats

    data = SLEEP.assign(w=np.random.default_rng(0).normal(size=180))
    small = lmm.fit("Reaction ~ Days + (Days || Subject)", data)
    large = lmm.fit("Reaction ~ Days + (Days + w | Subject)", data)
    row = lmm.anova(small, large, refit=False).iloc[1]
    expected = (stats.chi2.sf(row["chisq"], 3) + stats.chi2.sf(row["chisq"], 4)) / 2
    assert_close(row["p_boundary"], expected, 1e-10)


def test_a_structure_is_no_general_case():
    structured = lmm.fit("Reaction ~ Days + cs(1 + Days | Subject, hom=True)", SLEEP)
    with pytest.raises(DataError, match="no special case"):
        lmm.anova(lmm.fit(INTERCEPTS, SLEEP), structured, refit=False)
    assert np.isnan(lmm.ranova(structured)["p_boundary"].iloc[1])


@pytest.mark.parametrize("option", [{"bootstrap": 10}, {"refit": False}, {"seed": 1}])
def test_options_of_comparisons_are_refused_for_one_fit(option):
    with pytest.raises(DataError, match="comparisons of several fits"):
        lmm.anova(lmm.fit(SLOPES, SLEEP), **option)


def test_a_term_that_is_alone_has_the_degrees_of_freedom_of_its_sequential_test():
    """lmerTest 3.1: ``drop1`` and ``anova`` of unbalanced plots; the rows of L decide."""
    data = lmm.load_dataset("oats").iloc[[0, 3, *range(7, 60)]]
    result = lmm.fit("yld ~ Nf + (1 | Block)", data)
    for table in (lmm.drop1(result), result.anova()):
        assert_close(table.loc["Nf", "df_denom"], 46.8348690328, 1e-6)
        assert_close(table.loc["Nf", "f"], 21.27002991, 1e-6)


def test_likelihood_ratios_of_terms_have_no_method_of_degrees_of_freedom():
    with pytest.raises(lmm.DataError, match="df_method belongs to F tests"):
        lmm.drop1(lmm.fit("yld ~ Nf + (1 | Block)", lmm.load_dataset("oats")), "chisq",
                  df_method="satterthwaite")  # fmt: skip


def test_criteria_of_models_that_are_no_special_cases():
    fits = [lmm.fit(f"Reaction ~ Days + {term}", SLEEP) for term in ("(1 | Subject)", "diag(Days)")]
    table = lmm.anova(*fits, refit=False, test=False)
    assert table.columns.tolist() == ["npar", "aic", "bic", "llf", "deviance"]
    ordered = sorted(fits, key=lambda one: one.n_params)
    assert table["aic"].tolist() == [one.aic for one in ordered]
    assert table["bic"].tolist() == [one.bic for one in ordered]
    by_ml = lmm.anova(*fits, test=False)["llf"].tolist()
    assert by_ml == [lmm.fit(one.design, reml=False).llf for one in ordered]
    with pytest.raises(DataError, match="fitted to 176 and 180 rows"):
        lmm.anova(lmm.fit(INTERCEPTS, SLEEP, subset=np.arange(180) > 3), fits[0], test=False)
    with pytest.raises(DataError, match="belong to tests"):
        lmm.anova(*fits, test=False, bootstrap=10)


def test_criteria_of_other_likelihoods_are_refused():
    by_reml = lmm.fit(SLOPES, SLEEP)
    with pytest.raises(DataError, match="other fixed effects"):
        without = lmm.fit("Reaction ~ (Days | Subject)", SLEEP)
        lmm.anova(by_reml, without, refit=False, test=False)
    with pytest.raises(DataError, match="another by ML"):
        lmm.anova(by_reml, lmm.fit(INTERCEPTS, SLEEP, reml=False), refit=False, test=False)


def unbalanced_oats():
    """67 plots of the 72."""
    data = lmm.load_dataset("oats")
    return data.drop(index=data.index[[2, 16, 39, 40, 59]])


@pytest.mark.parametrize("coding", ["Variety * factor(Nf)", "C(Variety, Sum) * C(Nf, Helmert)"])
def test_likelihood_ratios_of_all_terms(coding):
    """lme4 1.1.31 by ML without the columns of each term under ``contr.sum``, from R's own rows."""
    data = unbalanced_oats()
    res = lmm.fit(f"yld ~ {coding} + (1 | Block / Variety)", data, runtime="numpy")
    table = lmm.drop1(res, "chisq", marginal=False)
    assert list(table["npar"]) == [0, 2, 3, 6]
    assert_close(table["chisq"].iloc[1:], [3.43606452, 59.42924726, 3.39652255], 1e-7)
    assert_close(
        table["p_value"].iloc[1:], special.chdtrc([2, 3, 6], table["chisq"].iloc[1:]), 1e-12
    )
    by_f = lmm.drop1(res, marginal=False)
    assert_close(by_f["f"], res.anova(3)["f"], 1e-12)
    alone = lmm.drop1(res, "chisq")
    assert_close(alone["chisq"].iloc[-1], table["chisq"].iloc[-1], 1e-7)


def test_random_effects_that_came_beside_the_formula_are_told():
    """By ``groups=``: the formulas alone are the same."""
    data = lmm.load_dataset("sleepstudy")
    one, two = (
        lmm.fit("Reaction ~ Days", data, groups="Subject", re_formula=re, runtime="numpy")
        for re in ("1", "~Days")
    )
    legend = str(lmm.anova(one, two, refit=False)).splitlines()[-2:]
    assert legend[0] == "Model 1: Reaction ~ Days + (1 | Subject)"
    assert legend[1] == "Model 2: Reaction ~ Days + (1 + Days | Subject)"


def test_models_by_names_of_the_caller():
    data = lmm.load_dataset("sleepstudy")
    large = lmm.fit("Reaction ~ Days + (Days | Subject)", data)
    small = lmm.fit("Reaction ~ Days + (1 | Subject)", data)
    found = lmm.anova(large, small, names=["slopes", "intercepts"])
    assert list(found.index) == ["intercepts", "slopes"]
    assert found.notes[0] == "intercepts: Reaction ~ Days + (1 | Subject)"
    plain = lmm.anova(large, small)
    assert list(plain.index) == ["Model 1", "Model 2"]
    assert plain.notes[1] == "Model 2: Reaction ~ Days + (Days | Subject)"
    np.testing.assert_array_equal(found.to_numpy(), plain.to_numpy())
    with pytest.raises(lmm.DataError, match="two models have one name"):
        lmm.anova(large, small, names=["one", "one"])
    with pytest.raises(lmm.DataError, match="names"):
        lmm.anova(large, small, names=["one"])
    with pytest.raises(lmm.DataError, match="names belong to comparisons"):
        lmm.anova(large, names=["one"])


def test_comparisons_say_which_likelihoods_they_are_of():
    by_reml = [lmm.fit(formula, SLEEP) for formula in (INTERCEPTS, SLOPES)]
    by_ml = [lmm.fit(formula, SLEEP, reml=False) for formula in (INTERCEPTS, SLOPES)]
    cases = {
        "models refitted by ML": lmm.anova(*by_reml),
        "models fitted by REML": lmm.anova(*by_reml, refit=False),
        "models fitted by ML": lmm.anova(*by_ml),
    }
    for how, table in cases.items():
        assert table.title == f"Likelihood ratio tests, {how}"
        assert how.capitalize()[:16] in table.to_markdown(caption="Models compared")
    untested = lmm.anova(*by_reml, test=False)
    assert untested.title == "Information criteria, models refitted by ML"


# ------------------------------------------------------------ rank-deficient designs


def crossover():
    """Four treatments in four periods: the carry-over of the first period is that of none."""
    rng = np.random.default_rng(4)
    square = np.array(["ABDC", "BCAD", "CDBA", "DACB"])
    rows = [
        {"id": f"s{s}", "period": f"p{k + 1}", "trt": order[k], "carry": order[k - 1] if k else "0"}
        for s, order in enumerate(square.repeat(4))
        for k in range(4)
    ]
    data = pd.DataFrame(rows)
    effect = data["trt"].map({"A": 0.0, "B": 0.6, "C": 0.2, "D": -0.4})
    subject = rng.normal(size=16).repeat(4)
    return data.assign(y=effect + subject + rng.normal(size=64), half=np.arange(64) % 2)


@pytest.mark.filterwarnings("ignore::lmm_jax.RankWarning")
@pytest.mark.parametrize("terms", ["period + trt + carry", "carry + trt + period"])
def test_terms_left_out_where_columns_depend_on_each_other(terms):
    """Models without a term: a column that depended on it is estimable there."""
    data = crossover()
    res = lmm.fit(f"y ~ {terms} + (1 | id)", data)
    assert len(res.design.dropped) == 1
    found, by_f = lmm.drop1(res, "chisq"), lmm.drop1(res, df_method="kr")
    for name in ("period", "trt", "carry"):
        rest = " + ".join(term for term in terms.split(" + ") if term != name)
        small = lmm.fit(f"y ~ {rest} + (1 | id)", data)
        table = lmm.anova(small, res).iloc[1]
        row = found.loc[name]
        assert row["npar"] == table["df"] == {"period": 2, "trt": 3, "carry": 3}[name]
        assert_close(row["chisq"], table["chisq"], 1e-7)
        assert_close(row["p_value"], table["p_value"], 1e-6)
        exact = lmm.anova(small, res, df_method="kr").iloc[1]
        assert_close(by_f.loc[name, ["df_num", "df_denom", "f"]].astype(float),
                     exact[["df_num", "df_denom", "f"]].astype(float), 1e-6)  # fmt: skip
    left = lmm.step(res, reduce_random=False, alpha_fixed=1e-9).fit
    assert left.formula == "y ~ 1 + (1 | id)"


@pytest.mark.filterwarnings("ignore::lmm_jax.RankWarning")
def test_a_term_that_another_stands_for_has_nothing_to_test():
    data = crossover()
    res = lmm.fit("y ~ half + I(2 * half) + trt + (1 | id)", data)
    plain = lmm.fit("y ~ half + trt + (1 | id)", data)
    for test in ("F", "chisq"):
        table, other = lmm.drop1(res, test), lmm.drop1(plain, test)
        assert np.isnan(table.loc["half", "p_value"])
        assert_close(table.loc["trt", "p_value"], other.loc["trt", "p_value"], 1e-6)


@pytest.mark.parametrize("unit", ["k", "C(f, Sum)"])
def test_restricted_likelihoods_of_other_units_are_not_compared(unit):
    """`|X' V^-1 X|` of REML knows the units of X: chi-square -12.5 for 1.3."""
    data = samples.frame().assign(k=lambda d: 1000 * d["x"])
    small, large = ("x", "k") if unit == "k" else ("f", unit)
    fits = [lmm.fit(f"y ~ {small} + (1 | g)", data), lmm.fit(f"y ~ {large} + (x | g)", data)]
    with pytest.raises(DataError, match="or the same in other units or contrasts"):
        lmm.anova(*fits, refit=False)
    found = lmm.anova(*fits)
    same = lmm.anova(fits[0], lmm.fit(f"y ~ {small} + (x | g)", data))
    assert_close(found["chisq"].iloc[1], same["chisq"].iloc[1], 1e-6)
