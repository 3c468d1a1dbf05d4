"""Tables of means where cells are empty, rows equal or contrasts of contrasts: emmeans' figures.

emmeans 1.8.4.1, lmerTest 3.1-3 (R 4.2.2), Satterthwaite's degrees of freedom.
"""

import numpy as np
import pandas as pd
import pytest
from helpers import assert_close

import lmm_jax as lmm

PRINTED = 6e-4  # of four digits
RTOL = 1e-9

OATS = lmm.load_dataset("oats")
OATS = OATS.assign(s=np.where(np.arange(72) % 5 < 2, "p", "q"), x=np.sin(np.arange(72) * 1.7))
LACKING = OATS[~((OATS["Variety"] == "Victory") & (OATS["Nf"] == "n60"))]


def fit(formula, data=OATS):
    if data is not LACKING:
        return lmm.fit(formula, data)
    with pytest.warns(lmm.RankWarning):
        return lmm.fit(formula, data)


def test_rows_that_are_equal_share_a_letter():
    """A difference of zero has no p value."""
    slopes = lmm.emtrends(fit("yld ~ Variety + s + x + (1 | Block)"), ["Variety", "s"], "x")
    assert slopes.cld()["group"].tolist() == ["a"] * 6


def test_means_by_cells_beside_an_empty_one():
    """11 of 66 differences have the empty one in them; emmeans' joint tests."""
    means = lmm.emmeans(fit("yld ~ Variety * Nf + s + (1 | Block)", LACKING), ["Variety", "Nf"],
                        weights="cells")  # fmt: skip
    table = means.to_frame().set_index(["Variety", "Nf"])["estimate"]
    known = [80, 260 / 3, 71.5, 98.5, 108.5, 269 / 3, 344 / 3, 703 / 6, 665 / 6, 749 / 6, 761 / 6]
    assert_close(table[:-1], known, 1e-8)
    assert table.isna().sum() == 1
    assert means.pairs().to_frame()["estimate"].isna().sum() == 11
    assert means.pairs(adjust="scheffe").to_frame()["p_value"].notna().sum() == 55
    tests = means.joint_tests().set_index("term")
    assert tests["df_num"].to_dict() == {"Variety": 1, "Nf": 2, "Variety:Nf": 5, "(confounded)": 2}
    assert_close(tests["f"], [1.447, 23.624, 0.255, 19.686], 2e-3)
    assert_close(tests["f"][:2], [1.447, 23.624], PRINTED)
    assert means.joint_test()["df_num"].tolist() == [11]


def test_factors_that_nest_by_the_formula_have_the_cells_that_there_are():
    res = fit("yld ~ Variety / Nf + s + (1 | Block)", LACKING)
    found = {v: lmm.emmeans(res, v).to_frame() for v in ("Variety", "s", "1")}
    assert_close(found["Variety"]["estimate"], [104.0, 109.3, 90.3], PRINTED)
    assert_close(found["Variety"]["std_error"], [6.95, 6.95, 7.18], 1e-3)
    assert_close(found["Variety"]["df"], [6.58, 6.58, 7.44], 1e-3)
    assert_close(found["s"]["estimate"], [98.2, 104.2], PRINTED)
    assert_close(found["1"][["std_error", "df"]].iloc[0], [6.5, 5.03], 1e-3)
    assert len(lmm.emmeans(res, ["Variety", "Nf"]).to_frame()) == 11
    tests = lmm.joint_tests(res).set_index("term")
    assert tests["df_num"].to_dict() == {"Variety": 2, "s": 1, "Variety:Nf": 8}
    assert_close(tests["f"], [8.219, 2.300, 9.132], PRINTED)


def test_a_nested_factor_that_divides_brings_what_it_is_nested_in():
    res = fit("yld ~ Variety / Nf + s + (1 | Block)")
    means = lmm.emmeans(res, "s", by="Nf")
    table = means.to_frame()
    assert len(table) == 24 and set(means.by) == {"Nf", "Variety"}
    first = table.query("Variety == 'Golden Rain' and Nf == 'n00' and s == 'p'")
    assert_close(first["estimate"], [75.8], 1e-3)
    assert_close(means.pairs().to_frame()["estimate"], [-6.32] * 12, 1e-3)
    both = lmm.emmeans(res, "Nf", by="s")
    assert len(both.to_frame()) == 24 and both.by == ("s",)


def test_what_is_unknown_on_one_scale_is_on_another():
    means = lmm.emmeans(fit("log(yld) ~ Variety * Nf + s + (1 | Block)", LACKING), ["s", "Variety"])
    table = means.regrid().contrast("pairwise", by="Variety").to_frame()
    assert_close(table["estimate"][:2], [-6.33, -6.71], 1e-3)
    assert np.isnan(table["estimate"].iloc[2])
    plain = lmm.emmeans(fit("yld ~ Variety * Nf + s + (1 | Block)", LACKING), "s").regrid("log")
    assert plain.pairs().to_frame(type="response")["estimate"].isna().all()
    assert plain.joint_test()["df_num"].tolist() == [0]


def test_nearly_dependent_rows_count_as_one():
    """`mean_chg` of 54 means spans as many dimensions as its rows, by singular values."""
    rng, n = np.random.default_rng(0), 240
    sizes = {"A": 3, "B": 3, "C": 3, "D": 2}
    data = pd.DataFrame({k: rng.choice(list("pqr")[:q], n) for k, q in sizes.items()})
    data["g"], data["x"] = np.repeat(np.arange(12), 20), rng.normal(3, 1.5, n)
    data["y"] = rng.normal(size=n) + rng.normal(size=12)[data["g"]]
    res = lmm.fit("y ~ (A + B + C) ** 2 + D + x + I(x**2) + (1 | g)", data)
    found = lmm.emmeans(res, ["D", "A", "B", "C"]).contrast("mean_chg")
    rank = np.linalg.matrix_rank(found.at.L, tol=1e-9)
    L = np.linalg.svd(found.at.L)[2][:rank]
    V = res.scale * L @ res.tests.cov_beta @ L.T
    b = L @ res.fe_params.to_numpy()
    test = found.joint_test()
    assert test["df_num"].tolist() == [rank]
    assert_close(test["f"], [b @ np.linalg.solve(V, b) / rank], 1e-6)


def test_a_covariate_far_from_zero_leaves_no_row_out():
    """Means in 2020 and half a year later are as many as in months from there."""
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"tr": np.tile(["a", "b"], 60), "g": np.repeat(np.arange(12), 10),
                         "month": rng.integers(0, 12, 120)})  # fmt: skip
    data["y"] = 5 + data["month"] + rng.normal(size=120) + rng.normal(size=12)[data["g"]]
    data["year"] = 2020 + data["month"] / 12
    tests = []
    for name, at in ("month", [0, 6]), ("year", [2020, 2020.5]):
        res = lmm.fit(f"y ~ tr * {name} + (1 | g)", data)
        means = lmm.emmeans(res, ["tr", name], at={name: at})
        tests.append(means.joint_test().iloc[0])
        assert means.pairs().joint_test()["df_num"].tolist() == [3]
    assert tests[0]["df_num"] == tests[1]["df_num"] == 4
    assert_close(tests[1]["f"], tests[0]["f"], 1e-6)


def test_contrasts_in_groups_of_contrasts_keep_both_labels():
    res = fit("yld ~ Variety * Nf + (1 | Block)")
    effects = lmm.emmeans(res, "Variety", by="Nf").contrast("eff")
    for found in (effects.contrast("pairwise", by="contrast"), effects.pairs(simple="Nf")):
        table = found.to_frame()
        assert len(table.drop_duplicates(["contrast1", "contrast"])) == 18
        assert table["contrast1"].iloc[0] == "n00 - n20"
    other = lmm.fit(
        "yld ~ contrast * Nf + (1 | Block)", OATS.rename(columns={"Variety": "contrast"})
    )
    table = lmm.emmeans(other, "Nf", by="contrast").pairs().to_frame()
    assert table["contrast"].iloc[0] == "Golden Rain" and table["contrast1"].iloc[0] == "n00 - n20"


def test_ratios_are_called_ratios_and_levels_keep_their_names():
    named = OATS.assign(Variety=OATS["Variety"].astype(str).replace({"Victory": "a - b"}))
    means = lmm.emmeans(fit("log(yld) ~ Variety * Nf + (1 | Block)", named), ["Variety", "Nf"])
    table = means.contrast(interaction="pairwise").to_frame(type="response")
    assert table["Variety_pairwise"].unique().tolist() == [
        "Golden Rain / Marvellous", "Golden Rain / (a - b)", "Marvellous / (a - b)",
    ]  # fmt: skip
    assert_close(table["estimate"][:3], [0.987, 1.005, 1.018], PRINTED)
    plain = means.contrast(interaction="pairwise").to_frame()
    assert plain["Variety_pairwise"].iloc[0] == "Golden Rain - Marvellous"


def test_contrasts_of_one_mean_are_refused():
    res = fit("yld ~ Variety * nitro + (1 | Block)")
    with pytest.raises(lmm.DataError, match="nothing to be compared; `nitro` is a covariate"):
        lmm.emmeans(res, ["Variety", "nitro"]).contrast(interaction="consec")
    for means in (lmm.emmeans(res, "1"), lmm.emmeans(res, "nitro", by="Variety")):
        with pytest.raises(lmm.DataError, match="nothing to be compared"):
            means.contrast("del.eff")


def test_contrasts_that_the_model_makes_zero_are_zero():
    res = fit("yld ~ Variety * Nf + poly(x, 2) + s + (1 | Block)")
    means = lmm.emmeans(res, ["x", "Variety"], at={"x": [0.1, 0.7]})
    for how in ("eff", "pairwise"):
        table = means.contrast(interaction=how).to_frame()
        assert (table["estimate"] == 0).all() and table["p_value"].isna().all()
