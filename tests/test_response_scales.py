"""Responses that are functions of a column: emmeans' back-transformed tables, and closed forms."""

import pickle

import numpy as np
import pandas as pd
import pytest
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax.errors import DataError
from lmm_jax.inference.means.transformations import (
    TRANSFORMATIONS,
    known_transformation,
    transformation_of,
    untransformed,
    way_back,
)

# R's tables at lme4's own optimum (BOBYQA, rhoend = 1e-11).
LME4_RTOL = 1e-6
ROUNDING = 1e-12
# Central differences of steps 1e-4: h^2 and rounding.
DIFFERENCES = 1e-6

# emmeans 1.8.4.1: summary(emmeans(m, ~ Nf), type = "response") of lmer(response ~ Nf +
# (1 | Block / Variety), Oats), Kenward-Roger, p = yld / 200; response, SE, lower.CL and upper.CL of
# n00 and of n60. Of what emmeans does not recognize (1 / p, powers, Box and Cox's, genlog) by
# update(tran = "inverse") or make.tran().
TABLES = {
    "logit(p)": [
        (0.39361744784807, 0.037846177448024, 0.30758072116988, 0.48680080977592),
        (0.62586391972267, 0.037128763940342, 0.53374633011311, 0.70968113751731),
    ],
    "probit(p)": [
        (0.39433430261179, 0.037329143619446, 0.30850168006323, 0.48564997129726),
        (0.62382072562247, 0.036815433769588, 0.53326068931722, 0.70801427147620),
    ],
    "cloglog(p)": [
        (0.39019679451276, 0.031537092396719, 0.31988607630844, 0.46987015491036),
        (0.61753664055694, 0.038435249789710, 0.52719738770261, 0.70863900766626),
    ],
    "asin(sqrt(p))": [
        (0.39529751844963, 0.036654488933805, 0.30975313388887, 0.48420130229204),
        (0.62111936130466, 0.036369136439983, 0.53263124115270, 0.70572134342688),
    ],
    "asin(sqrt(100 * p / 100))": [
        (0.39529751844963, 0.036654488933805, 0.30975313388887, 0.48420130229204),
        (0.62111936130466, 0.036369136439983, 0.53263124115270, 0.70572134342688),
    ],
    "2 * asin(sqrt(p))": [
        (0.39529751844963, 0.036654490557895, 0.30975312962495, 0.48420130690047),
        (0.62111936130466, 0.036369138051430, 0.53263123655180, 0.70572134762926),
    ],
    "asinh(sqrt(yld))": [
        (77.273339494635, 5.1465161055930, 66.042418610142, 90.399889018996),
        (121.415102138172, 8.0676197097044, 103.809620965459, 141.992112638896),
    ],
    "exp(p)": [
        (0.40145669987937, 0.042657677626629, 0.29367930542623, 0.49873999040688),
        (0.62328707253664, 0.034170985259850, 0.53789751561829, 0.70195541348845),
    ],
    "1 / p": [
        (0.37637441177734, 0.019009416494725, 0.33736270516847, 0.42558828469289),
        (0.59735307067014, 0.047884042501440, 0.50472119962633, 0.73162961891340),
    ],
    "yld^1.5": [
        (80.487140302056, 8.4544918282091, 58.685177249046, 99.640315507831),
        (124.390882193108, 6.8007448822528, 107.515031287230, 140.189228490065),
    ],
    "yld^(-0.5)": [
        (76.246460407552, 4.4015370091025, 66.952843886702, 87.618484333921),
        (120.432041817401, 8.7375143348344, 102.416248456271, 143.655935496393),
    ],
    "boxcox(yld - 3, 0.4)": [
        (78.047615916096, 5.8075369575611, 65.011430952552, 92.603225624134),
        (122.165436762273, 7.6644329184748, 104.795600890430, 141.201970967957),
    ],
    "((yld - 3)^0.4 - 1) / 0.4": [
        (78.047615916096, 5.8075369575611, 65.011430952552, 92.603225624134),
        (122.165436762273, 7.6644329184748, 104.795600890430, 141.201970967957),
    ],
    "boxcox(yld, -0.4)": [
        (76.446021799807, 4.5370898538742, 66.807518428999, 88.149594095493),
        (120.626027711538, 8.5920732786303, 102.699089381719, 143.259541563176),
    ],
    "log(yld + 3, 2)": [
        (77.336519606209, 5.1877403005110, 65.989087079387, 90.55039551418),
        (121.454492626916, 8.0366636511647, 103.875451803810, 141.92496147250),
    ],
    "sqrt(yld + 2)": [
        (78.336558277434, 6.0581692909383, 64.572797610686, 93.39267129433),
        (122.409420372222, 7.5389597997695, 105.123457422328, 140.98773567226),
    ],
}
# The same of pairs(., infer = TRUE): odds.ratio, SE, lower.CL, upper.CL, t.ratio.
ODDS = (0.66299808416564, 0.062382996845971, 0.51639972303558, 0.85121358513397, -4.3678738391832)
LIMITS = ["estimate", "std_error", "conf_low", "conf_high"]
OTHER_NAMES = {
    "qlogis(p)": "logit(p)", "qnorm(p)": "probit(p)", "np.arcsin(np.sqrt(p))": "asin(sqrt(p))",
    "I(1 / p)": "1 / p", "np.reciprocal(p)": "1 / p", "p ** -1": "1 / p",
    "np.power(yld, 1.5)": "yld^1.5",
}  # fmt: skip


def fitted(response):
    data = lmm.load_dataset("oats")
    data = data.assign(p=data["yld"] / 200)
    return lmm.fit(f"{response} ~ Nf + (1 | Block/Variety)", data, df_method="kr")


@pytest.mark.parametrize("response", TABLES)
def test_tables_of_emmeans(response):
    res = fitted(response)
    found = lmm.emmeans(res, "Nf").to_frame(type="response")[LIMITS]
    assert_close(found.iloc[[0, 3]], TABLES[response], LME4_RTOL)
    new = pd.DataFrame({"Nf": ["n00", "n60"]})
    predicted = res.predict(new, interval="confidence", type="response")
    assert_close(predicted["fit"], [row[0] for row in TABLES[response]], LME4_RTOL)
    assert (predicted["lower"] < predicted["fit"]).all()
    assert (predicted["fit"] < predicted["upper"]).all()


@pytest.mark.parametrize(("one", "other"), OTHER_NAMES.items())
def test_names_of_one_function(one, other):
    found, same = (lmm.emmeans(fitted(f), "Nf").to_frame(type="response") for f in (one, other))
    assert_close(found[LIMITS], same[LIMITS], 1e-7)


def test_differences_of_logits_are_odds_ratios():
    means = lmm.emmeans(fitted("logit(p)"), "Nf")
    pairs = means.pairs()
    found = pairs.to_frame(type="response")
    assert found["contrast"][0] == "n00 / n20"
    assert_close(found.loc[0, [*LIMITS, "statistic"]].astype(float), ODDS, LME4_RTOL)
    assert "odds ratio" in str(pairs.summary(type="response"))
    assert " ratio" in str(lmm.emmeans(fitted("log(yld)"), "Nf").pairs().summary(type="response"))
    for response in ("probit(p)", "asin(sqrt(p))", "log(sqrt(yld))", "1 / p"):
        with pytest.raises(DataError, match=r"no differences of the response: use regrid\(\)"):
            lmm.emmeans(fitted(response), "Nf").pairs().to_frame(type="response")


def test_regrid_to_logits():
    """Log odds ratios of means that were fitted as they are, by the delta method."""
    means = lmm.emmeans(fitted("p"), "Nf")
    m, error = means.at.estimate, means.at.std_error
    found = means.regrid("logit")
    assert_close(found.to_frame()["estimate"], np.log(m / (1 - m)), ROUNDING)
    assert_close(found.to_frame()["std_error"], error / (m * (1 - m)), 1e-10)
    odds = m / (1 - m)
    ratio = found.pairs().to_frame(type="response")["estimate"][0]
    assert_close(ratio, odds[0] / odds[1], ROUNDING)
    with pytest.raises(DataError, match="has no logit"):
        lmm.emmeans(fitted("yld"), "Nf").regrid("logit")


# Responses with values of y at which all of their steps are regular.
CHAINS = {
    **{f"{name}(y)": (0.2, 0.9) for name in TRANSFORMATIONS},
    **dict.fromkeys(("asin(y)", "exp(y)", "expm1(y)", "np.square(y)"), (0.2, 0.9)),
    **dict.fromkeys(("1 / (2 + y)", "3 - log(y) / 4", "boxcox(y, 0)"), (0.2, 3.0)),
    **dict.fromkeys(("boxcox(y, -0.7)", "boxcox(y + 1, 0.3)", "y ** (-1 / 3)"), (0.2, 3.0)),
    **dict.fromkeys(("2 * asin(sqrt(y / 100))", "log(y, 3) - 1", "logit(y / 100)"), (0.2, 90.0)),
    "y ** 3": (1.0, 3.0),
    "1 / sqrt(log(y + 2))": (0.2, 3.0),
}  # fmt: skip


@pytest.mark.parametrize("response", CHAINS)
def test_inverses_and_their_derivatives(response):
    f, y = way_back(response), np.linspace(*CHAINS[response], 7)
    data = pd.DataFrame({"y": y, "g": list("aabbccc")})
    x = np.asarray(lmm.design(f"{response} ~ 1 + (1 | g)", data).endog)
    assert_close(f.forward(y), x, ROUNDING, 1.0)
    assert_close(f.back(x), y, 1e-11)
    step = 1e-4 * np.abs(x).max() / 10
    _, slope, bend, twist = f._jet(x)
    around = [f._jet(x + shift) for shift in (-step, step)]
    for order, derivative in enumerate((slope, bend, twist)):
        numeric = (around[1][order] - around[0][order]) / (2 * step)
        assert_close(derivative, numeric, DIFFERENCES, np.abs(derivative).max())
    low, middle, high = x - step, x, x + step
    carried = f.carried(middle, np.ones(7), low, high)
    assert (carried.conf_low < carried.estimate).all() and (carried.std_error > 0).all()
    assert (carried.estimate < carried.conf_high).all()


def test_corrected_means():
    """h(x) + sigma^2 h''(x) / 2, and its derivative, of a chain: sin^2."""
    means = lmm.emmeans(fitted("asin(sqrt(p))"), "Nf")
    x = means.at.estimate
    found = means.to_frame(type="response", bias_sigma=0.1)
    assert_close(found["estimate"], np.sin(x) ** 2 + 0.01 * np.cos(2 * x), ROUNDING)
    slope = np.abs(np.sin(2 * x) - 0.02 * np.sin(2 * x))
    assert_close(found["std_error"], slope * means.at.std_error, ROUNDING)


@pytest.mark.parametrize(
    ("response", "x", "y"),
    [
        ("asin(sqrt(y))", [-0.5, 2.0], [0.0, 1.0]),
        ("1 / y", [-1.0, 0.0], [np.inf, np.inf]),
        ("exp(y)", [-1.0], [-np.inf]),
        ("y ** 2", [-1.0], [0.0]),
        ("y ** 3", [-8.0], [-2.0]),
        ("boxcox(y, 0.5)", [-3.0], [0.0]),
        ("boxcox(y, -0.5)", [3.0], [np.inf]),
        ("sqrt(y) - 1", [-2.0], [0.0]),
        ("logit(y)", [-np.inf, np.inf], [0.0, 1.0]),
        ("log(y + 2)", [-np.inf, np.inf], [-2.0, np.inf]),
    ],
)
def test_what_a_function_cannot_be_is_at_its_end(response, x, y):
    f, x = way_back(response), np.array(x)
    np.testing.assert_allclose(f.back(x), y, rtol=1e-14)
    np.testing.assert_allclose(f.back(x, 0.5)[~np.isfinite(x)], np.array(y)[~np.isfinite(x)])


def test_limits_on_one_side_of_a_decreasing_function():
    means = lmm.emmeans(fitted("1 / p"), "Nf")
    for side, finite in (("greater", "conf_high"), ("less", "conf_low")):
        link = means.to_frame(side=side)
        found = means.to_frame(type="response", side=side)
        limit = link["conf_low" if side == "greater" else "conf_high"]
        assert_close(found[finite], 1 / limit, ROUNDING)
    assert (found["conf_high"] == np.inf).all()


def test_columns_and_what_is_no_function_of_one():
    for response, name in {
        "2 * asin(sqrt(`% killed` / 100))": "% killed", "np.log(RT.ms)": "RT.ms",
        "1 / (y + 1)": "y", "log(y) - log(x)": "log(y) - log(x)",
    }.items():  # fmt: skip
        assert untransformed(response) == name
    for response in (
        "y * x", "floor(y)", "y ** x", "2 ** y", "y ** 0", "0 * y", "y / 0", "log(y, x)",
        "log(y, base=2)", "scale(y)", "log(y", "log(3)", "y + pi", "cosh(y)",
        "y - 100", "I(y / 100)",
    ):  # fmt: skip
        assert transformation_of(response) is None
        with pytest.raises(DataError, match="no function that can be carried back"):
            way_back(response)


def test_transformations_are_pickled():
    f = transformation_of("2 * asin(sqrt(y / 100))")
    assert pickle.loads(pickle.dumps(f)) == f
    assert known_transformation("log") == transformation_of("log(y)")
    assert f.name == "2 * asin(sqrt(y / 100))"


def test_the_library_has_the_functions():
    """R: qlogis(0.3), qnorm(0.3), log(-log(0.7)), (0.3^0.4 - 1) / 0.4."""
    data = pd.DataFrame({"p": [0.3, 0.4, 0.6, 0.7] * 3, "g": np.repeat([1, 2, 3], 4)})
    expected = {
        "logit(p)": -0.8472978603872037, "qlogis(p)": -0.8472978603872037,
        "probit(p)": -0.5244005127080407, "qnorm(p)": -0.5244005127080407,
        "cloglog(p)": -1.0309304331587226, "boxcox(p, 0.4)": -0.9554978735814703,
        "plogis(qlogis(p))": 0.3, "pnorm(qnorm(p))": 0.3,
    }  # fmt: skip
    for term, value in expected.items():
        design = lmm.design(f"p ~ 0 + {term} + (1 | g)", data)
        assert_close(np.asarray(design.exog)[0, 0], value, 1e-10)
    with pytest.raises(DataError, match=r"`logit\(p\)` is NaN or infinite in 1 of"):
        lmm.fit("logit(p) ~ 1 + (1 | g)", data.assign(p=[0.0, *data["p"][1:]]))
    with pytest.raises(DataError, match=r"qnorm\(\) takes 1 arguments, not 3"):
        lmm.fit("qnorm(p, 0, 1) ~ 1 + (1 | g)", data)
