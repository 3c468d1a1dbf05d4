"""Marginal means and joint tests of nested factors, and where cells are empty."""

import numpy as np
import pandas as pd
import pytest
import reference
from helpers import assert_close

import lmm_jax as lmm

# R's tables at lme4's optimum polished by Newton steps, ours at our own.
RTOL = 1e-8
pytestmark = pytest.mark.filterwarnings("ignore:the fixed-effects design is rank deficient")


def test_what_cannot_be_estimated_is_named():
    result = reference.inference_fit("lmm_empty")
    means = lmm.emmeans(result, ["A", "B"])
    assert means.to_frame()["estimate"].isna().sum() == 2
    assert "nonEst" in str(means)


@pytest.mark.filterwarnings("ignore:the fixed-effects design is rank deficient")
@pytest.mark.parametrize("fixed", ["f / b", "f + b"])
def test_nested_factors_are_averaged_over_the_cells_that_there_are(fixed):
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"b": np.repeat(list("uvwxyz"), 20), "g": np.tile(np.arange(20), 6)})
    data["f"] = data["b"].map(dict(zip("uvwxyz", "ppqqqr", strict=True)))
    data["y"] = rng.normal(size=120) + data["b"].map(ord) + rng.normal(size=20)[data["g"]]
    result = lmm.fit(f"y ~ {fixed} + (1 | g)", data)
    cells = data.groupby(["f", "b"])["y"].mean()  # balanced: means of cells
    means = lmm.emmeans(result, "f").to_frame()
    assert_close(means["estimate"], cells.groupby("f").mean(), 1e-8)
    inner = lmm.emmeans(result, "b", by="f").to_frame()
    pairs = list(zip("ppqqqr", "uvwxyz", strict=True))
    assert inner[["f", "b"]].apply(tuple, axis=1).tolist() == pairs
    assert_close(inner["estimate"], cells[pairs], 1e-8)
    assert len(lmm.emmeans(result, "f").pairs()) == 3
    assert len(lmm.emmeans(result, "pairwise ~ b | f").contrasts) == 1 + 3


def cells_without_levels():
    """b nested in f and c, of which one combination has no level; balanced."""
    rng = np.random.default_rng(0)
    cells = [(f, c, f"{f}{c}{k}") for f in "AB" for c in "uvw" for k in (1, 2) if f + c != "Bw"]
    data = pd.DataFrame([(*x, g) for x in cells for g in "abcdef"], columns=["f", "c", "b", "g"])
    return data.assign(y=100 + rng.normal(size=len(data)))


@pytest.mark.filterwarnings("ignore:the fixed-effects design is rank deficient")
@pytest.mark.parametrize("fixed", ["f * c + f:c:b", "f + c + b"])
def test_cells_in_which_a_nested_factor_has_no_level(fixed):
    """emmeans 1.8.4; the hypotheses summed to a mean of all before, of a hundred."""
    res = lmm.fit(f"y ~ {fixed} + (1 | g)", cells_without_levels())
    R = {"c": (1, 2.584), "f:c": (1, 0.217), "f:c:b": (5, 2.339), "(confounded)": (2, 2.278)}
    tables = [lmm.joint_tests(res)]
    if "*" in fixed:
        tables.append(lmm.emmeans(res, ["f", "c", "b"]).joint_tests())
    for table in tables:
        assert table["term"].tolist() == list(R)
        assert table["df_num"].tolist() == [df for df, _ in R.values()]
        # three decimals; emmeans makes (confounded) of such
        np.testing.assert_allclose(table["f"], [f for _, f in R.values()], atol=1.5e-3)
    for factor, known in (("f", [True, False]), ("c", [True, True, False])):
        assert lmm.emmeans(res, factor).to_frame()["estimate"].notna().tolist() == known


# emmeans 1.8.4 of lmer(distance ~ Sex * half + Sex:Subject + (1 | age), Orthodont), a: age < 10,
# Kenward-Roger: 16 boys and 11 girls, nested in Sex. Weights: means of the halves, then of all.
NESTED_MEANS = {
    "equal": (22.02840909, 24.40151515, 23.21496212, 1.4639281417, 2.005068883),
    "flat": (22.02840909, 24.40151515, 23.21496212, 1.4639281417, 2.005068883),
    "proportional": (22.18518519, 24.63580247, 24.02314815, 1.4630020328, 2.0),
    "outer": (22.18518519, 24.63580247, 24.02314815, 1.4630020328, 2.0),
    "cells": (22.18518519, 24.63580247, 24.02314815, 1.4630020328, 2.0),
}
# term, df_num, df_denom, F and its p value
NESTED_TESTS = [
    ("Sex", 1, 77.00, 42.314, 7.082793903e-09),
    ("half", 1, 2.01, 1.971, 2.952012341e-01),
    ("Sex:half", 1, 77.00, 1.662, 2.011492542e-01),
    ("Sex:Subject", 25, 77.00, 7.335, 5.870573210e-12),
]


@pytest.fixture(scope="module")
def nested_children():
    data = lmm.load_dataset("orthodont")
    data["half"] = np.where(data["age"] < 10, "a", "b")
    with pytest.warns(lmm.RankWarning):
        return lmm.fit("distance ~ Sex * half + Sex:Subject + (1 | age)", data)


@pytest.mark.parametrize("weights", NESTED_MEANS)
def test_nested_factors_are_averaged_first(nested_children, weights):
    halves = lmm.emmeans(nested_children, "half", weights=weights, df_method="kr").to_frame()
    whole = lmm.emmeans(nested_children, "1", weights=weights, df_method="kr").to_frame()
    found = [*halves["estimate"], *whole["estimate"], halves["std_error"][0], halves["df"][0]]
    np.testing.assert_allclose(found, NESTED_MEANS[weights], rtol=2e-9)


def test_joint_tests_of_nested_factors_stand_within_what_they_are_nested_in(nested_children):
    found = lmm.joint_tests(nested_children, df_method="kr")
    assert found["term"].tolist() == [row[0] for row in NESTED_TESTS]
    for column, digits in (("df_num", 0), ("df_denom", 2), ("f", 3)):
        R = [row[1 + ["df_num", "df_denom", "f"].index(column)] for row in NESTED_TESTS]
        np.testing.assert_allclose(found[column], R, atol=0.51 * 10.0**-digits)
    # R's optimizer ends at a relative gradient of 1e-6 or so
    np.testing.assert_allclose(found["p_value"], [row[-1] for row in NESTED_TESTS], rtol=1e-7)
    means = lmm.emmeans(nested_children, ["Sex", "half", "Subject"], df_method="kr")
    again = means.joint_tests().sort_values("term")
    assert_close(again["f"], found.sort_values("term")["f"], 1e-9)
    of_halves = lmm.joint_tests(nested_children, by="half", df_method="kr")
    np.testing.assert_allclose(of_halves["f"], [9.067, 60.750, 7.335, 7.335], atol=5.1e-4)


@pytest.mark.filterwarnings("ignore:the fixed-effects design is rank deficient")
def test_joint_tests_of_factors_nested_twice():
    """Balanced: F of an analysis of variance, whose sums of squares are those of means."""
    rng = np.random.default_rng(3)
    cells = pd.DataFrame({"a": list("ppppqqqq"), "b": list("uuvvwwzz"), "c": list("cdefghij")})
    data = cells.merge(pd.DataFrame({"g": range(6)}), how="cross")
    data["y"] = rng.normal(size=48) + rng.normal(size=6)[data["g"]] + np.repeat(np.arange(8) % 3, 6)
    res = lmm.fit("y ~ a / b / c + (1 | g)", data)
    found = lmm.joint_tests(res).set_index("term")["f"]
    y = {k: data.groupby(list("abc")[:k])["y"].transform("mean") for k in (1, 2, 3)}
    total, rest = data["y"].mean(), data["y"] - data.groupby("g")["y"].transform("mean")
    error = np.sum((rest - y[3] + total) ** 2) / (47 - 7 - 5)
    squares = [(y[1] - total), (y[2] - y[1]), (y[3] - y[2])]
    F = [np.sum(d**2) / q / error for d, q in zip(squares, (1, 2, 4), strict=True)]
    assert list(found.index) == ["a", "a:b", "a:b:c"]
    np.testing.assert_allclose(found, F, rtol=1e-8)


@pytest.fixture(scope="module")
def beside_nested():
    """Two factors of which one is nested in the other, with a factor and a covariate beside."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"b": np.repeat(list("uvwxz"), 24), "g": np.tile(np.arange(24), 5)})
    data["f"] = data["b"].map(dict(zip("uvwxz", "ppqqq", strict=True)))
    data["h"], data["x"] = np.tile(list("ab"), 60), rng.normal(size=120)
    data["y"] = rng.normal(size=120) + rng.normal(size=24)[data["g"]]
    data = data[rng.random(120) < 0.9]
    with pytest.warns(lmm.RankWarning):
        return lmm.fit("y ~ f / b + h + x + (1 | g)", data), data


def test_joint_tests_beside_nested_factors(beside_nested):
    res, data = beside_nested
    whole = lmm.joint_tests(res).set_index("term")["f"]
    assert list(whole.index) == ["f", "h", "x", "f:b"]
    by_f = lmm.joint_tests(res, by="f")
    assert by_f["term"].tolist() == ["b", "b", "h", "h", "x", "x"]
    for term in ("h", "x"):
        np.testing.assert_allclose(by_f["f"][by_f["term"] == term], whole[term], rtol=RTOL)
    first = lmm.emmeans(res, "b", at={"f": ["p"]}).pairs().to_frame()["statistic"]
    assert_close(by_f["f"][0], float(first[0]) ** 2, 1e-8)
    for by, count in (("b", 5), (["f", "b"], 5), ("h", 2)):
        found = lmm.joint_tests(res, by=by)
        assert (found["term"] == "x").sum() == count
        np.testing.assert_allclose(found["f"][found["term"] == "x"], whole["x"], rtol=RTOL)
    chosen = lmm.joint_tests(res, at={"b": ["w", "z"]}).set_index("term")["f"]
    assert list(chosen.index) == ["b", "h", "x"]
    pair = lmm.emmeans(res, "b").contrast({"w - z": [0, 0, 1, 0, -1]}).to_frame()["statistic"][0]
    assert_close(chosen["b"], float(pair) ** 2, 1e-8)
    for formula in ("y ~ 1 + (1 | g)", "y ~ h + (1 | g)"):
        with pytest.raises(lmm.DataError, match="bogus"):
            lmm.joint_tests(lmm.fit(formula, data), by="bogus")


@pytest.mark.filterwarnings("ignore:the fixed-effects design is rank deficient")
def test_a_nested_factor_may_have_any_name(beside_nested):
    res, data = beside_nested
    again = lmm.fit("y ~ f / place + h + x + (1 | g)", data.rename(columns={"b": "place"}))
    found, same = (lmm.emmeans(r, "1").to_frame()["estimate"] for r in (again, res))
    assert_close(found, same, RTOL)


@pytest.mark.parametrize("shift", [0.0, 30.0, 100.0, 1e3, 1e5])
def test_nothing_is_confounded_far_from_zero(shift):
    rng = np.random.default_rng(7)
    data = pd.DataFrame({"f": rng.choice(list("abc"), 60), "g": np.repeat(np.arange(10), 6)})
    data["x"] = rng.normal(size=60) + shift
    data["y"] = rng.normal(size=60) + rng.normal(size=10)[data["g"]]
    res = lmm.fit("y ~ f * x + (1 | g)", data)
    near = lmm.fit("y ~ f * x + (1 | g)", data.assign(x=data["x"] - shift))
    for method in ("satterthwaite", "kr"):
        found, same = (lmm.joint_tests(r, df_method=method) for r in (res, near))
        assert found["term"].tolist() == ["f", "x", "f:x"]
        # columns that far from zero are equal in five digits: their squares lose ten of sixteen
        np.testing.assert_allclose(found["f"], same["f"], rtol=1e-5)


def cells_that_are_empty():
    """Two factors with two empty cells, and subjects; the figures below are of these rows."""
    levels = [(a, b) for a in ("hi", "lo", "mid") for b in "pqrs"]
    kept = [cell for cell in levels if cell not in (("hi", "q"), ("mid", "s"))]
    rows = np.arange(90)
    data = pd.DataFrame([kept[i] for i in rows * 7 % 10], columns=["A", "B"])
    data["g"], data["x"] = rows % 9, np.sin(rows)
    effect = data["A"].map({"hi": 1.0, "lo": 0.0, "mid": 0.4}) + (data["B"] == "p") * (
        data["A"] == "lo"
    )
    return data.assign(y=effect + np.cos(5 * (rows % 9)) + np.sin(3 * rows**2) + 0.5 * data["x"])


@pytest.mark.parametrize("df_method", ["satterthwaite", "kr"])
def test_what_empty_cells_confound_does_not_depend_on_contrasts(df_method):
    """The sums of squares of all rows add up to those of all contrasts of the cells."""
    found = []
    for terms in ("A * B", "C(A, Treatment('mid')) * B", "C(A, contr.sum) * C(B, contr.helmert)"):
        with pytest.warns(lmm.RankWarning):
            res = lmm.fit(f"y ~ {terms} + x + (1 | g)", cells_that_are_empty())
        found.append(lmm.joint_tests(res, df_method=df_method).set_index("term"))
    for other in found[1:]:
        for column in ("df_num", "f"):
            # optima of one model, found apart: of a Newton decrement of 1e-9
            np.testing.assert_allclose(other[column], found[0][column], rtol=1e-6)
    assert found[0].loc["(confounded)", "df_num"] == 4
    # emmeans 1.8.4, which makes it of F ratios that it has rounded to three decimals
    np.testing.assert_allclose(found[0].loc["(confounded)", "f"], 3.708, atol=2e-3)
    np.testing.assert_allclose(found[0].loc["A:B", "f"], 6.787, atol=5e-4)
