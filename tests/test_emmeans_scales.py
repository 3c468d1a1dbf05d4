"""Marginal means of covariates, with offsets, and on transformed scales."""

import pickle
import re

import numpy as np
import pandas as pd
import pytest
from emmeans_samples import logs
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax.errors import DataError
from lmm_jax.inference.means.transformations import TRANSFORMATIONS, way_back

# R's tables at lme4's own optimum, which is looser.
LME4_RTOL = 1e-6
pytestmark = pytest.mark.filterwarnings("ignore:the fixed-effects design is rank deficient")


def test_a_covariate_of_two_values_keeps_both():
    result = lmm.fit("y ~ A + x + z + (1 | g)", logs())
    kept = lmm.emmeans(result, "A").to_frame()
    half = lmm.emmeans(result, "A", at={"z": 0.5}).to_frame()
    assert_close(kept["estimate"], half["estimate"], 1e-10)
    at = lmm.emmeans(result, "z").to_frame()
    assert at["z"].tolist() == [0.0, 1.0]


def test_an_offset_is_that_of_the_grid():
    data = logs()
    plain = lmm.fit("y ~ A + x + (1 | g)", data.assign(y=data["y"] - 2 * data["t"]))
    result = lmm.fit("y ~ A + x + offset(2 * t) + (1 | g)", data)
    ours, other = (lmm.emmeans(r, "A").to_frame() for r in (result, plain))
    assert_close(ours["estimate"], other["estimate"] + 2 * data["t"].mean(), 1e-7)


@pytest.mark.parametrize(
    ("at", "offset"), [({}, "mean"), ({"x": 0.0}, "mean"), ({"u": 2.0}, np.log(2.0))]
)
def test_an_offset_counts_with_its_mean_until_its_variable_is_moved(at, offset):
    """emmeans 1.8.4: the mean of the logarithms, not the logarithm of the mean."""
    data = logs()
    data["u"] = np.exp(data["t"])
    plain = lmm.fit("y ~ A + x + (1 | g)", data.assign(y=data["y"] - data["t"]))
    res = lmm.fit("y ~ A + x + offset(log(u)) + (1 | g)", data)
    other = lmm.emmeans(plain, "A", at={n: v for n, v in at.items() if n != "u"}).to_frame()
    shift = data["t"].mean() if offset == "mean" else offset
    for fit in (res, pickle.loads(pickle.dumps(res))):
        means = lmm.emmeans(fit, "A", at=at)
        assert_close(means.to_frame()["estimate"], other["estimate"] + shift, 1e-7)
        assert ("u = " in str(means)) == ("u" in at)
        note = re.search(r"The offset counts with its mean, (\S+)$", str(means), flags=re.MULTILINE)
        assert note is None if "u" in at else abs(float(note[1]) - shift) < 1e-4


def test_an_offset_of_a_factor_counts_with_its_mean_in_every_level():
    """Averages of the levels' means are the means over them."""
    data = logs()
    res = lmm.fit("y ~ A * x + offset(1.0 * (A == 'a')) + (1 | g)", data)
    plain = lmm.fit("y ~ A * x + (1 | g)", data.assign(y=data["y"] - (data["A"] == "a")))
    found, other = (lmm.emmeans(one, "A").to_frame()["estimate"] for one in (res, plain))
    assert_close(found, other + (data["A"] == "a").mean(), 1e-7)
    assert_close(lmm.emmeans(res, "1").to_frame()["estimate"], [found.mean()], 1e-9)


def test_geometric_means_and_ratios():
    result = lmm.fit("log(y) ~ A + x + (1 | g)", logs())
    means = lmm.emmeans(result, "A")
    link, response = means.to_frame(), means.to_frame(type="response")
    for column in ("estimate", "conf_low", "conf_high"):
        assert_close(response[column], np.exp(link[column]), 1e-12)
    assert_close(response["std_error"], np.exp(link["estimate"]) * link["std_error"], 1e-12)
    assert_close(response["p_value"], link["p_value"], 1e-12)
    ratios = means.pairs().to_frame(type="response")
    assert ratios["contrast"].tolist() == ["a / b"]
    assert_close(ratios["estimate"], [response["estimate"][0] / response["estimate"][1]], 1e-10)
    corrected = means.to_frame(type="response", bias_sigma=0.4)
    assert_close(corrected["estimate"], response["estimate"] * (1 + 0.08), 1e-10)


def test_regrid_names_every_scale():
    named = ", ".join(f'"{name}"' for name in ("response", *TRANSFORMATIONS))
    assert f"{{{named}}}" in " ".join(lmm.MarginalMeans.regrid.__doc__.split())
    for name in TRANSFORMATIONS:
        assert way_back(f"{name}(y)").name == name
    with pytest.raises(DataError, match=f"{', '.join(TRANSFORMATIONS)}, exp, asin"):
        way_back("floor(y)")


def test_regrid_is_the_delta_method():
    result = lmm.fit("np.log(y) ~ A + x + (1 | g)", logs())
    means = lmm.emmeans(result, "A")
    again, response = means.regrid(), means.to_frame(type="response")
    assert_close(again.to_frame()["estimate"], response["estimate"], 1e-12)
    assert_close(again.to_frame()["std_error"], response["std_error"], 1e-10)
    difference = again.pairs().to_frame()
    m = np.exp(means.at.estimate)
    assert_close(difference["estimate"], [m[0] - m[1]], 1e-10)
    gradient = np.array([m[0], -m[1]])
    assert_close(
        difference["std_error"],
        [np.sqrt(gradient @ means.at.covariance(np.arange(2)) @ gradient)],
        1e-10,
    )


# emmeans 1.8.4, z, Oats: e = emmeans(m, ~ N) of yield or sqrt(yield) ~ Variety * N +
# (1 | Block / Variety); regrid(e, transform = name): estimates and SE, and of the logarithms
# pairs(., type = "response"): ratios, SE and z
REGRIDDED = {
    ("yld", "log"): ([4.37435842003, 4.59399688539, 4.73814586868, 4.815341066],
                     [0.0903742402474, 0.0725532524234, 0.0628136134794, 0.058147136116]),
    ("sqrt(yld)", "log10"): ([1.89381911493, 1.99014271583, 2.05392500358, 2.08775823094],
                             [0.0336912461366, 0.0301547181846, 0.0280197418782, 0.0269493017069]),
}  # fmt: skip
RATIOS = {
    "yld": (0.802808988764, 0.0426612586907, -4.13320515329),
    "sqrt(yld)": (0.801080940649, 0.0382959820055, -4.63950435767),
}


@pytest.mark.parametrize(("response", "scale"), REGRIDDED)
def test_means_on_a_scale_of_logarithms(response, scale):
    res = lmm.fit(f"{response} ~ Variety * Nf + (1 | Block/Variety)", lmm.load_dataset("oats"))
    means = lmm.emmeans(res, "Nf", df_method="z")
    estimate, error = REGRIDDED[response, scale]
    found = means.regrid(scale).to_frame()
    assert_close(found["estimate"], estimate, LME4_RTOL)
    assert_close(found["std_error"], error, LME4_RTOL)
    pairs = means.regrid("log").pairs()
    ratios = pairs.to_frame(type="response")
    assert ratios["contrast"][0] == "n00 / n20"
    first = ratios[["estimate", "std_error", "statistic"]].iloc[0]
    assert_close(first, RATIOS[response], LME4_RTOL)
    back, own = (m.to_frame(type="response") for m in (means.regrid(scale), means))
    assert_close(back[["estimate", "std_error"]], own[["estimate", "std_error"]], 1e-10)
    again = means.regrid(scale).regrid().to_frame()
    assert_close(again["std_error"], back["std_error"], 1e-10)


# emmeans 1.8.4 of lmer(distance ~ poly(age, 2) * Sex + (1 | Subject), Orthodont), Kenward-Roger
SLOPES = {
    "log(age)": {"Male": (6.83322102169, 1.16561691410), "Female": (4.85355775789, 1.40578689213)},
    "age^2": {
        "Male": (0.0341456156903, 0.00582458946735),
        "Female": (0.0242532353930, 0.00702471920766),
    },
}


@pytest.mark.parametrize("var", SLOPES)
def test_slopes_per_unit_of_an_expression(var):
    res = lmm.fit("distance ~ poly(age, 2) * Sex + (1 | Subject)", lmm.load_dataset("orthodont"))
    found = lmm.emtrends(res, "Sex", var, at={"age": 10}, df_method="kenward-roger-expected")
    assert f"{var}.trend" in str(found)
    found = found.to_frame().set_index("Sex")
    for sex, (slope, error) in SLOPES[var].items():
        assert_close(found["estimate"][sex], slope, 1e-8)  # quotients of differences
        assert_close(found["std_error"][sex], error, 1e-7)
        assert_close(found["df"][sex], 77, 1e-6)
    sd = np.std(np.repeat([8, 10, 12, 14], 27), ddof=1)
    for of_all, same in (("age / mean(age)", "age / 11"), ("scale(age)", f"age / {sd}")):
        two = [lmm.emtrends(res, "Sex", v, at={"age": [8, 10]}) for v in (of_all, same)]
        assert_close(*(table.to_frame()["estimate"] for table in two), 1e-8)
    with pytest.raises(lmm.DataError, match="does not change with age"):
        lmm.emtrends(res, "Sex", "round(age)", at={"age": 10})
    for wrong in ("log(Sex)", "age + Sex", "log(height)", 3, "1", ""):
        with pytest.raises(lmm.DataError, match="the covariates are age"):
            lmm.emtrends(res, "Sex", wrong)


def test_trends_of_a_polynomial_are_its_derivative():
    data = logs()
    result = lmm.fit("y ~ A + x + I(x ** 2) + (1 | g)", data)
    b = result.fe_params
    found = lmm.emtrends(result, "1", "x", at={"x": 9.0}).to_frame()
    step = 1e-3 * (data["x"].max() - data["x"].min())
    expected = b["x"] + 2 * b.iloc[-1] * (9.0 + step / 2)
    assert_close(found["estimate"], [expected], 1e-8)


# emmeans 1.8.4.1: emtrends(m, ~ Sex, "age", max.degree = 2) and its pairs(), Kenward and Roger's
# degrees of freedom, m <- lmer(distance ~ poly(age, 2) * Sex + (1 | Subject)), rhoend = 1e-11
DEGREES = {
    "Male": [(0.78407031250003, 0.07781453258946), (0.05078124999965, 0.04349940144310)],
    "Female": [(0.47956250000002, 0.09384785739495), (-0.00284090909089, 0.05246225206975)],
    "Male - Female": [(0.30450781250001, 0.12191194289215), (0.05362215909054, 0.06815046454822)],
}


def growth():
    return lmm.fit("distance ~ poly(age, 2) * Sex + (1 | Subject)", lmm.load_dataset("orthodont"))


def test_trends_of_higher_degree():
    found = lmm.emtrends(growth(), "Sex", "age", max_degree=2, df_method="kr")
    means, pairs = found.to_frame(), found.pairs().to_frame()
    assert found.by == ("degree",)
    assert means["degree"].tolist() == ["linear", "linear", "quadratic", "quadratic"]
    rows = means.set_index(["Sex", "degree"]), pairs.set_index(["contrast", "degree"])
    for label, expected in DEGREES.items():
        for degree, values in zip(("linear", "quadratic"), expected, strict=True):
            row = rows[" - " in label].loc[(label, degree)]
            assert_close(row[["estimate", "std_error"]].astype(float), values, 1e-8)
            assert_close(row["df"], 77, 1e-8)


def test_degrees_are_a_variable():
    """Where specs and by put it, emmeans' order of rows."""
    res, at = growth(), {"age": [9, 10]}
    plain = lmm.emtrends(res, "Sex", "age", max_degree=2).to_frame()["estimate"].to_numpy()
    turned = lmm.emtrends(res, "~ degree | Sex", "age", max_degree=2)
    assert turned.by == ("Sex",)
    assert_close(turned.to_frame()["estimate"], plain[[0, 2, 1, 3]], 1e-12)
    within = lmm.emtrends(res, "~ age * degree | Sex", "age", max_degree=2, at=at).to_frame()
    assert within["age"].tolist() == [9, 10] * 4
    # emmeans 1.8.4.1
    expected = [0.580945312500, 0.682507812500, 0.050781249996, 0.050781249998,
                0.490926136364, 0.485244318182, -0.002840909093, -0.002840909092]  # fmt: skip
    assert_close(within["estimate"], expected, 1e-8)
    one = lmm.emtrends(res, "1", "age", max_degree=2, weights="proportional").to_frame()
    assert_close(one["estimate"], [0.66001157407409905, 0.02893518518498494], 1e-8)  # emmeans
    assert_close(one["std_error"], [0.059901655116517, 0.03348585484368337], 1e-8)


def test_degrees_beyond_that_of_the_model_are_nothing():
    """emmeans has t = 10 of rounding there."""
    found = lmm.emtrends(growth(), "Sex", "age", max_degree=5, at={"age": [9]}).to_frame()
    above = found["degree"].isin(["cubic", "quartic", "quintic"])
    assert (found.loc[above, ["estimate", "std_error"]] == 0).all(axis=None)
    assert (found.loc[~above, "std_error"] > 0).all()


def test_degrees_per_unit_of_an_expression():
    """f = a + b x + c x^2, u = log x: df/du = x f', d2f/du2 / 2 = (x^2 f'' + x f') / 2."""
    res, x = growth(), 10.0
    plain = lmm.emtrends(res, "Sex", "age", max_degree=2, at={"age": x}).to_frame()["estimate"]
    found = lmm.emtrends(res, "Sex", "log(age)", max_degree=2, at={"age": x}).to_frame()
    # the step of 0.006 years downwards: plain slopes are at x - step / 2
    slope = plain[:2].to_numpy() + plain[2:].to_numpy() * 0.006
    assert_close(found["estimate"][2:], x * x * plain[2:].to_numpy() + x * slope / 2, 1e-6)


def test_degrees_that_there_are_not():
    res = growth()
    for wrong in (0, 6, 1.5, "2", True, None):
        with pytest.raises(DataError, match=r"max_degree=.*a whole number of at"):
            lmm.emtrends(res, "Sex", "age", max_degree=wrong)
    data = logs().rename(columns={"A": "degree"})
    own = lmm.fit("y ~ degree * x + (1 | g)", data)
    assert len(lmm.emtrends(own, "degree", "x").to_frame()) == 2
    with pytest.raises(DataError, match="give that another name"):
        lmm.emtrends(own, "degree", "x", max_degree=2)


@pytest.mark.parametrize("kind", [bool, int, str, "category"])
def test_factors_of_every_type(kind):
    data = logs()
    values = {"bool": data["A"] == "b", "int": (data["A"] == "b") + 3, "str": data["A"]}
    column = data["A"].astype("category") if kind == "category" else values[kind.__name__]
    formula = "y ~ C(f) + x + (1 | g)" if kind is int else "y ~ f + x + (1 | g)"
    found = lmm.emmeans(lmm.fit(formula, data.assign(f=column)), "f").to_frame()
    plain = lmm.emmeans(lmm.fit("y ~ A + x + (1 | g)", data), "A").to_frame()
    assert_close(found["estimate"], plain["estimate"], 1e-8)
    assert_close(found["std_error"], plain["std_error"], 1e-8)


def test_spellings_of_a_transformed_covariate():
    data = logs()
    result = lmm.fit("y ~ A * poly(x, 2) + (1 | g)", data)
    other = lmm.fit("y ~ A * (x + I(x ** 2)) + (1 | g)", data)
    for at in ({}, {"x": [8.0, 12.0]}):
        one, two = (lmm.emmeans(r, "A", at=at).to_frame() for r in (result, other))
        assert_close(one["estimate"], two["estimate"], 1e-6)


def test_weights_of_cells_are_means_of_fitted_rows():
    """Averages by cells are those of the fixed part over the rows of each level."""
    data = logs()
    data = data[~((data["A"] == "a") & (data["g"] < 5))].assign(B=lambda d: d["g"] % 3)
    result = lmm.fit("y ~ A + C(B) + (1 | g)", data)
    ours = lmm.emmeans(result, "A", weights="cells").to_frame()
    by_hand = result.predict().groupby(data["A"].to_numpy()).mean()
    assert_close(ours["estimate"], by_hand.loc[ours["A"]], 1e-9)
    overall = lmm.emmeans(result, "1", weights="cells").to_frame()
    assert_close(overall["estimate"], [result.predict().mean()], 1e-9)


def test_an_offset_as_an_array_counts_with_its_mean():
    data = logs()
    named = lmm.emmeans(lmm.fit("y ~ A + x + (1 | g)", data, offset="t"), "A").to_frame()
    for offset in (data["t"], data["t"].to_numpy()):
        given = lmm.emmeans(lmm.fit("y ~ A + x + (1 | g)", data, offset=offset), "A")
        assert_close(given.to_frame()["estimate"], named["estimate"], 1e-10)
        assert "The offset counts with its mean" in str(given)


def test_a_constant_inside_the_transformation_is_taken_out():
    data = logs()
    for text in ("log(y + 2)", "log(2 + y)"):
        means = lmm.emmeans(lmm.fit(f"{text} ~ A + x + (1 | g)", data), "A")
        response = means.to_frame(type="response")
        assert_close(response["estimate"], np.exp(means.at.estimate) - 2, 1e-12)
        ratio = means.pairs().to_frame(type="response")["estimate"]
        assert_close(ratio, np.exp(means.pairs().at.estimate), 1e-12)
    other = lmm.emmeans(lmm.fit("log(y * t) ~ A + x + (1 | g)", data), "A")
    with pytest.raises(DataError, match="can be carried back"):
        other.to_frame(type="response")


def test_errors_of_a_corrected_mean_are_those_of_the_corrected_mean():
    means = lmm.emmeans(lmm.fit("log(y) ~ A + x + (1 | g)", logs()), "A")
    plain, corrected = (means.to_frame(type="response", bias_sigma=s) for s in (None, 0.4))
    assert_close(corrected["std_error"], plain["std_error"] * 1.08, 1e-10)
    again = means.regrid(bias_sigma=0.4).to_frame()
    assert_close(again["std_error"], corrected["std_error"], 1e-10)
    assert_close(again["estimate"], corrected["estimate"], 1e-10)


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_joint_tests_keep_covariates_of_any_scale(scale):
    data = logs()
    plain = lmm.joint_tests(lmm.fit("y ~ A + x + (1 | g)", data)).set_index("term")
    scaled = lmm.joint_tests(lmm.fit("y ~ A + x + (1 | g)", data.assign(x=data["x"] * scale)))
    assert list(scaled["term"]) == ["A", "x"]
    assert_close(scaled["f"], plain["f"], 1e-6)


def test_means_of_a_transformed_response_are_pickled():
    means = lmm.emmeans(lmm.fit("log(y + 2) ~ A + x + (1 | g)", logs()), "A")
    again = pickle.loads(pickle.dumps(means))
    assert again.to_frame(type="response").equals(means.to_frame(type="response"))


def test_letters_on_the_scale_of_the_response():
    means = lmm.emmeans(lmm.fit("log(yld) ~ Nf + (1 | Block)", lmm.load_dataset("oats")), "Nf")
    letters, link = means.cld(type="response"), means.cld()
    columns = ["estimate", "std_error", "df", "conf_low", "conf_high"]
    pd.testing.assert_frame_equal(
        pd.DataFrame(letters[columns]), means.to_frame(type="response")[columns]
    )
    assert letters["group"].equals(link["group"])
    assert "Carried back from the scale of log" in letters.notes
    assert "response" in str(letters) and "emmean" in str(link)


def test_small_print_says_where_covariates_are_held():
    data = lmm.load_dataset("orthodont").assign(w=lambda d: np.arange(len(d)) / 10.0)
    res = lmm.fit("distance ~ age * Sex + w + (1 | Subject)", data)
    assert "Covariates held at age = 11, w = 5.35" in lmm.emmeans(res, "Sex").notes
    assert "Covariates held at age = 9, w = 5.35" in lmm.emmeans(res, "Sex", at={"age": 9}).notes
    of_age = lmm.emmeans(res, "Sex | age", at={"age": [8, 14]}).notes
    assert "Covariates held at w = 5.35" in of_age
    assert "Covariates held at w = 5.35" in lmm.emtrends(res, "Sex", "age").notes
    bent = lmm.fit("distance ~ poly(age, 2) * Sex + (1 | Subject)", data)
    slopes = lmm.emtrends(bent, "Sex", "age", at={"age": 9})
    for made in (slopes, slopes.pairs()):  # a slope that is another at every age
        assert "Covariates held at age = 9" in made.notes
    assert not lmm.emmeans(lmm.fit("distance ~ Sex + (1 | Subject)", data), "Sex").notes
    with pytest.raises(lmm.DataError, match=r"nothing to be compared; `age` is a covariate: at={"):
        lmm.emmeans(res, "pairwise ~ age")


def test_what_is_not_transformed_says_so():
    data = lmm.load_dataset("orthodont").assign(logged=lambda d: np.log(d["distance"]))
    note = "The response is not transformed in the formula: nothing to carry back"
    means = lmm.emmeans(lmm.fit("logged ~ Sex + (1 | Subject)", data), "Sex")
    assert note in means.summary(type="response").notes and note not in means.summary().notes
    means = lmm.emmeans(lmm.fit("log(distance) ~ Sex + (1 | Subject)", data), "Sex")
    assert note not in means.summary(type="response").notes


IN_FUNCTIONS = [
    "as.integer(L) * A", "I(1 * L) + A", "I(!L) + A", "I(L * k) + A", "pmax(L, 0) * A",
    "L * A", "k + factor(k):A", "k + factor(k) + A", "factor(k) + log(k):A",
    "poly(k, 2) + factor(k) * A", "(text > 'a') * A", "as.numeric(text == 'b'):A + A",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::lmm_jax.RankWarning")
@pytest.mark.parametrize("kind", ["bool", "boolean", "object"])
@pytest.mark.parametrize("rhs", IN_FUNCTIONS)
def test_grids_hold_variables_as_the_data_do(rhs, kind):
    """Means are averages of predictions, whatever functions read of logicals, text and numbers."""
    rng = np.random.default_rng(8)
    n = 120
    data = pd.DataFrame({"g": np.arange(n) % 8, "A": rng.choice(["u", "v"], n)})
    data["L"] = pd.Series(rng.random(n) < 0.6).astype(kind)
    data["text"], data["k"] = rng.choice(["a", "b"], n), rng.choice([1.0, 2.0, 4.0], n)
    data["y"] = rng.normal(size=n) + data["L"] * (data["A"] == "v") + data["k"]
    res = lmm.fit(f"y ~ {rhs} + (1 | g)", data)
    names = [name for name in ("L", "k", "text") if name in rhs]
    levels = {name: data[name].drop_duplicates() for name in names} | {"A": ["u", "v"]}
    grid = pd.MultiIndex.from_product(levels.values(), names=levels).to_frame(index=False)
    grid = grid.astype({name: data[name].dtype for name in names})
    if "L * k" in rhs:  # a covariate, at its mean
        grid = grid[grid["k"] == grid["k"].min()].assign(k=data["k"].mean())
    mean = res.predict(grid).groupby(grid["A"]).mean()
    assert_close(lmm.emmeans(res, "A").to_frame()["estimate"], mean, 1e-10)
