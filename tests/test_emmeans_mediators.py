"""Covariates of marginal means that other variables predict: emmeans' ``cov.reduce`` formulas."""

import numpy as np
import pandas as pd
import pytest
from emmeans_samples import logs
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax.errors import DataError, FormulaError

# emmeans 1.8.4.1 at lme4's optimum with BOBYQA's rhoend = 1e-11; its degrees of freedom come from
# pbkrtest, at that optimum.
RTOL, DF_RTOL = 1e-8, 1e-6
# m <- lmer(FEV1 ~ ARMCD * FEV1_BL + SEX + WEIGHT + AVISIT + (1 | USUBJID), fev1), and
# emmeans(m, specs, cov.reduce =, at =, weights =): emmean, SE, df
TABLES = {
    "one": (
        ("ARMCD", "FEV1_BL ~ ARMCD", {}),
        [40.287763943476, 44.501450517012], [0.48682701089171, 0.50681618198553],
        [188.75939178230, 175.98057715282],
    ),
    "two factors": (
        ("~ ARMCD | SEX", "FEV1_BL ~ ARMCD * SEX", {}),
        [40.270102522069, 44.427560343062, 40.312275069820, 44.585993643662],
        [0.60859491005605, 0.63800756931982, 0.59277749547151, 0.59538460251328],
        [184.49367550939, 181.06218262960, 188.65976099941, 174.72184788125],
    ),
    "chain": (
        ("ARMCD", ["FEV1_BL ~ ARMCD", "WEIGHT ~ poly(FEV1_BL, 2) + ARMCD"], {}),
        [40.283211456453, 44.512684243697], [0.48677349785845, 0.50678831175329],
        [188.69517214074, 175.90653286388],
    ),
    "median": (
        ("ARMCD", ["FEV1_BL ~ ARMCD", np.median], {}),
        [40.275988987721, 44.489675561258], [0.48679187087248, 0.50716127246928],
        [188.71193812627, 176.39313557356],
    ),
    "cells": (
        ("1", "FEV1_BL ~ ARMCD", {"weights": "cells"}),
        [42.301284607556], [0.35038896029031], [181.77053570485],
    ),
    "at": (
        ("ARMCD", ["FEV1_BL ~ ARMCD", "WEIGHT ~ FEV1_BL"], {"at": {"FEV1_BL": 40}}),
        [40.207035641568, 44.504800099754], [0.48764469339795, 0.50682465812359],
        [188.75589687733, 175.96624886684],
    ),
}  # fmt: skip


def lungs():
    formula = "FEV1 ~ ARMCD * FEV1_BL + SEX + WEIGHT + AVISIT + (1 | USUBJID)"
    return lmm.fit(formula, lmm.load_dataset("fev1"), df_method="kr")


def check(found, estimate, error, df):
    assert_close(found["estimate"], estimate, RTOL)
    assert_close(found["std_error"], error, RTOL)
    assert_close(found["df"], df, DF_RTOL)


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_emmeans(name):
    (specs, reduce, options), *expected = TABLES[name]
    check(lmm.emmeans(lungs(), specs, cov_reduce=reduce, **options).to_frame(), *expected)


def test_contrasts_and_trends_of_emmeans():
    res = lungs()
    means = lmm.emmeans(res, "ARMCD", cov_reduce="FEV1_BL ~ ARMCD")
    check(means.pairs().to_frame(), [-4.2136865735365], [0.70229872403544], [182.16640645417])
    assert "Predicted: FEV1_BL ~ ARMCD" in means.notes
    assert not any("FEV1_BL =" in note for note in means.notes)
    # emtrends(m, ~ ARMCD, "FEV1_BL", cov.reduce = WEIGHT ~ FEV1_BL + ARMCD): WEIGHT stays
    trends = lmm.emtrends(res, "ARMCD", "FEV1_BL", cov_reduce="WEIGHT ~ FEV1_BL + ARMCD")
    check(
        trends.to_frame(),
        [0.16856558278567, 0.19269986197886],
        [0.056458648560352, 0.053374481602116],
        [205.12181375012, 180.18289532135],
    )


def test_predictions_are_those_of_least_squares():
    """With means of x within A the means are those of a grid at them."""
    data = logs()
    res = lmm.fit("y ~ A * x + (1 | g)", data)
    found = lmm.emmeans(res, "A", cov_reduce="x ~ A").to_frame()
    for row, level in enumerate("ab"):
        at = {"A": [level], "x": data.loc[data["A"] == level, "x"].mean()}
        plain = lmm.emmeans(res, "A", at=at).to_frame()
        for column in ("estimate", "std_error", "df"):
            assert_close(found[column][row], plain[column][0], 1e-9)
    moved = lmm.emtrends(res, "A", "x", cov_reduce="x ~ A", max_degree=2).to_frame()
    assert_close(moved["estimate"][:2], lmm.emtrends(res, "A", "x").to_frame()["estimate"], 1e-8)


def test_a_cell_without_rows_has_no_prediction():
    data = logs().assign(B=lambda d: np.repeat(list("uvw"), 40))
    data = data[~((data["A"] == "b") & (data["B"] == "w"))]
    res = lmm.fit("y ~ A + B + x + (1 | g)", data)
    found = lmm.emmeans(res, ["A", "B"], cov_reduce="x ~ A * B").to_frame()
    empty = (found["A"] == "b") & (found["B"] == "w")
    assert found.loc[empty, "estimate"].isna().all()
    assert found.loc[~empty, "estimate"].notna().all()
    over = lmm.emmeans(res, "A", cov_reduce="x ~ A * B").to_frame()
    assert over["estimate"].isna().tolist() == [False, True]
    cells = lmm.emmeans(res, "A", cov_reduce="x ~ A * B", weights="cells").to_frame()
    fitted = res.predict().groupby(data["A"].to_numpy()).mean()
    assert_close(cells["estimate"], fitted, 1e-9)
    chain = ["x ~ A * B", "t ~ x"]
    both = lmm.emmeans(
        lmm.fit("y ~ A + B + x + t + (1 | g)", data), ["A", "B"], cov_reduce=chain
    ).to_frame()
    assert both["estimate"].isna().sum() == 1


def test_a_covariate_of_two_values_has_one_prediction():
    data = logs()
    res = lmm.fit("y ~ A + x + z + (1 | g)", data)
    found = lmm.emmeans(res, "A", cov_reduce="z ~ A", weights="proportional").to_frame()
    for row, level in enumerate("ab"):
        at = {"z": data.loc[data["A"] == level, "z"].mean()}
        plain = lmm.emmeans(res, "A", at=at, weights="proportional").to_frame()
        assert_close(found["estimate"][row], plain["estimate"][row], 1e-9)


def test_dates_are_days():
    data = logs().assign(days=lambda d: np.round(d["x"] * 40))
    data = data.assign(date=pd.Timestamp("2020-01-01") + pd.to_timedelta(data["days"], unit="D"))
    found, plain = (
        lmm.emmeans(
            lmm.fit(f"y ~ A + {text} + (1 | g)", data), "A", cov_reduce=f"{name} ~ A"
        ).to_frame()
        for text, name in (("as.numeric(date)", "date"), ("days", "days"))
    )
    assert_close(found["estimate"], plain["estimate"], 1e-8)


@pytest.mark.parametrize("dtype", ["datetime64[s]", "datetime64[ns]", "timedelta64[s]"])
def test_a_function_of_dates_gets_days(dtype):
    """Whatever the unit of their integers is."""
    data = logs().assign(days=lambda d: np.round(d["x"] * 40))
    data["date"] = pd.to_timedelta(data["days"], unit="D").astype("timedelta64[s]")
    if dtype.startswith("d"):
        data["date"] = (pd.Timestamp(0) + data["date"]).astype(dtype)
    found, plain = (
        lmm.emmeans(lmm.fit(f"y ~ A + {text} + (1 | g)", data), "A", cov_reduce=np.median)
        for text in ("as.numeric(date)", "days")
    )
    assert_close(found.to_frame()["estimate"], plain.to_frame()["estimate"], 1e-8)


def test_means_of_many_responses():
    data = logs()
    Y = np.column_stack([data["y"], data["y"] ** 2])
    many = lmm.fit_many("~ A * x + (1 | g)", data, Y, progress=False)
    found = many.emmeans("A", cov_reduce="x ~ A").tests().estimate
    for i, row in enumerate(found):
        single = lmm.fit("y ~ A * x + (1 | g)", data.assign(y=Y[:, i]))
        means = lmm.emmeans(single, "A", cov_reduce="x ~ A").to_frame()
        assert_close(row, means["estimate"], 1e-6)


WRONG = [
    ("~ A", DataError, "stands on the left"),
    ("x ~ ", DataError, "on the right"),
    ("height ~ A", DataError, "height is no covariate of the model, there are x"),
    ("A ~ x", DataError, "A is no covariate"),
    ("log(x) ~ A", DataError, r"log\(x\) is no covariate"),
    ("x ~ height", DataError, "'height' is no variable of the fixed effects"),
    ("x ~ x", DataError, "x does not predict itself"),
    ("x ~ A + (1 | A)", FormulaError, "no random-effects term"),
    (["x ~ A", "mean", "range"], DataError, "one word or function"),
    (["x ~ A", "x ~ 1"], DataError, "predicted by one formula"),
    ([], DataError, "formulas such as 'x ~ A'"),
    (["x ~ A", 3], DataError, "choose from mean, range"),
]


@pytest.mark.parametrize(("reduce", "error", "message"), WRONG)
def test_refusals(reduce, error, message):
    res = lmm.fit("y ~ A + x + (1 | g)", logs())
    with pytest.raises(error, match=message):
        lmm.emmeans(res, "A", cov_reduce=reduce)


def test_predicted_covariates_are_not_asked_for():
    res = lmm.fit("y ~ A + x + (1 | g)", logs())
    with pytest.raises(DataError, match="'x' has no values of its own with cov_reduce='x ~ A'"):
        lmm.emmeans(res, ["A", "x"], cov_reduce="x ~ A")
    found = lmm.emmeans(res, ["A", "x"], cov_reduce="x ~ A", at={"x": [9, 11]}).to_frame()
    assert isinstance(found, pd.DataFrame) and len(found) == 4


def test_rows_are_needed(tmp_path):
    res = lmm.fit("y ~ A + x + (1 | g)", logs())
    res.save(tmp_path / "fit.npz", keep_data=False)
    bare = lmm.load(tmp_path / "fit.npz")
    with pytest.raises(DataError):
        lmm.emmeans(bare, "A", cov_reduce="x ~ A")


def test_dates_are_labels_as_they_were_given():
    """Of a model that computes with their days."""
    data = logs().assign(days=lambda d: np.round(d["x"] * 40))
    data["date"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(data["days"], unit="D")
    res = lmm.fit("y ~ A * as.numeric(date) + (1 | g)", data)
    at = {"date": ["2020-01-03", "2020-02-01 12:00"]}
    found = lmm.emmeans(res, ["date", "A"], at=at)
    assert found.to_frame()["date"].unique().tolist() == list(map(pd.Timestamp, at["date"]))
    assert (
        found.pairs(by="A").to_frame()["contrast"].tolist()
        == ["(date2020-01-03) - (date2020-02-01 12:00:00)"] * 2
    )
    plain = lmm.emmeans(
        lmm.fit("y ~ A * days + (1 | g)", data), ["days", "A"], at={"days": [2, 31.5]}
    )
    assert_close(found.to_frame()["estimate"], plain.to_frame()["estimate"], 1e-8)
    held = lmm.emmeans(res, "A", at={"date": ["2020-01-03"]})
    assert "Covariates held at date = 2020-01-03\n" in str(held)
    contrasts = found.contrast(interaction={"A": "pairwise", "date": "pairwise"}).to_frame()
    assert "(2020-01-03) - (2020-02-01 12:00:00)" in contrasts.astype(str).to_numpy().ravel()
