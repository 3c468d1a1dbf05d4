"""Marginal means, trends, contrasts and joint tests: emmeans, and what R has no answer for."""

import tracemalloc
from dataclasses import fields, is_dataclass

import numpy as np
import pandas as pd
import pytest
import reference
from emmeans_samples import logs, oats_data
from fits import OATS, oats
from helpers import assert_close
from scipy import stats

import lmm_jax as lmm
from lmm_jax.designs.variables import Variables
from lmm_jax.errors import DataError
from lmm_jax.inference.means import contrast_families
from lmm_jax.inference.means.grid import average, make_grid

# R's tables at lme4's optimum polished by Newton steps, ours at our own.
RTOL = 1e-8
# R's tables at lme4's own optimum, which is looser.
LME4_RTOL = 1e-6
# lmerTest's degrees of freedom come from numerical derivatives.
DF_RTOL = {"satterthwaite": 1e-6, "kenward_roger": 1e-8, "asymptotic": 0}
P_TOL = 1e-8
# R's ptukey is off by up to 2.7e-3 of its value; its dunnettx limits come from a rough search.
TUKEY_TOL, DUNNETTX_TOL = 2.5e-5, 1e-3
METHODS = {"satterthwaite": "satterthwaite", "kenward_roger": "kr", "asymptotic": "z"}

CASES = reference.names(lambda c: "emmeans" in c, reference.INFERENCE)
pytestmark = pytest.mark.filterwarnings("ignore:the fixed-effects design is rank deficient")


def numbers(values):
    return np.array([np.nan if v is None else v for v in values], dtype=float)


def means_of(result, entry, method):
    reduce = {"median": np.median, None: "mean"}.get(entry["cov_reduce"], entry["cov_reduce"])
    options = {
        "by": entry["by"], "at": entry["at"], "weights": entry["weights"], "cov_reduce": reduce,
        "df_method": METHODS[method], "level": entry["level"],
    }  # fmt: skip
    if entry["trend"]:
        return lmm.emtrends(result, entry["specs"], entry["trend"], **options)
    return lmm.emmeans(result, entry["specs"], **options)


def contrasts_of(means, entry):
    if entry["custom"]:
        return means.contrast(entry["custom"])
    if entry["interaction"]:
        return means.contrast(interaction=entry["method"])
    return means.contrast(entry["method"][0])


def check(ours, theirs, method, scale):
    """Estimates, errors, degrees of freedom; NaN in the same places."""
    estimate = next(k for k in theirs if k not in TAKEN)
    known = np.isfinite(numbers(theirs[estimate]))
    np.testing.assert_array_equal(np.isfinite(ours["estimate"]), known)
    expected = {k: numbers(theirs[k])[known] for k in (estimate, "SE", "df")}
    assert_close(ours["estimate"][known], expected[estimate], RTOL, scale)
    some = expected["SE"] > 1e-12 * scale  # a contrast of nothing is nothing but rounding in R
    assert_close(ours["std_error"][known][some], expected["SE"][some], RTOL)
    if method == "asymptotic":
        assert np.isinf(ours["df"][known]).all()
    else:
        assert_close(ours["df"][known][some], expected["df"][some], DF_RTOL[method])
    return known, some


TAKEN = {"SE", "df", "lower", "upper", "stat", "p", "contrast"}


def labels(values):
    return [str(v).removesuffix(".0") for v in values]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", METHODS)
def test_tables_of_emmeans(name, method):
    case, result = reference.load(name), reference.inference_fit(name)
    scale = case["sigma"]
    for entry in case["emmeans"]:
        if method not in entry:
            continue
        means = means_of(result, entry, method)
        ours, theirs = means.to_frame(), entry[method]["means"]
        for column, values in entry["grid"].items():
            assert labels(ours[column]) == labels(values)
        known, _ = check(ours, theirs, method, scale)
        for column, other in (("conf_low", "lower"), ("conf_high", "upper")):
            assert_close(ours[column][known], numbers(theirs[other])[known], 1e-7, scale)
        assert_close(ours["p_value"][known], numbers(theirs["p"])[known], P_TOL, 1)
        for asked in entry[method]["contrasts"]:
            check_contrasts(contrasts_of(means, asked), asked, method, scale)


def check_contrasts(found, asked, method, scale):
    ours, theirs = found.to_frame(level=asked["level"]), asked["table"]
    named = [k for k in theirs if k in ours and k not in ("estimate", "df")]
    for column in named:
        assert labels(ours[column]) == labels(theirs[column])
    wanted = {k: v for k, v in theirs.items() if k not in named}
    known, some = check(ours, wanted, method, scale)
    assert_close(ours["statistic"][known][some], numbers(theirs["stat"])[known][some], 1e-7, 1)
    for how, adjusted in asked["adjust"].items():
        ours = found.to_frame(how, level=asked["level"])
        p_tol = TUKEY_TOL if how == "tukey" else P_TOL
        assert_close(ours["p_value"][known][some], numbers(adjusted["p"])[known][some], p_tol, 1)
        limit_tol = DUNNETTX_TOL if how == "dunnettx" else 1e-6
        for column, other in (("conf_low", "lower"), ("conf_high", "upper")):
            expected = numbers(adjusted[other])[known][some]
            assert_close(ours[column][known][some], expected, limit_tol, scale)


def test_hommel_of_emmeans():
    """emmeans 1.8.4.1: pairs(emmeans(m, ~Nf, lmer.df = "k")), adjust = "hommel", infer = TRUE.

    m by lmer with BOBYQA's rhoend = 1e-11.
    """
    found = lmm.emmeans(oats(), "Nf", df_method="kr").pairs().to_frame("hommel")
    p = [1.9970395930813412e-04, 2.8245378855203701e-09, 4.0182008793635155e-12,
         2.4101140397143378e-03, 6.3333559276031528e-06, 4.4560876215324709e-02]  # fmt: skip
    low = [-31.742371525080429, -47.075704858413765, -56.242371525080429,
           -27.575704858413854, -36.742371525080522, -21.409038191747189]  # fmt: skip
    assert_close(found["p_value"], p, LME4_RTOL)
    assert_close(found["conf_low"], low, LME4_RTOL)


@pytest.mark.parametrize("name", [n for n in CASES if "joint_tests" in reference.load(n)])
def test_joint_tests_of_emmeans(name):
    case, result = reference.load(name), reference.inference_fit(name)
    for entry in case["joint_tests"]:
        for method in METHODS:
            theirs = entry.get(method)
            if not theirs:
                continue
            ours = lmm.joint_tests(
                result, by=entry.get("by"), at=entry.get("at"), df_method=METHODS[method]
            )
            assert list(ours["term"]) == theirs["model term"]
            # emmeans makes (confounded) of F ratios rounded to three decimals
            proper = ours["term"] != "(confounded)"
            np.testing.assert_array_equal(ours["df_num"], theirs["df1"])
            assert_close(ours["f"][proper], np.array(theirs["F.ratio"])[proper], 1e-7)
            # rows that empty cells leave can be made orthogonal in several ways
            loose = np.array([str(note).strip() == "e" for note in theirs.get("note", proper)])
            df = numbers(theirs["df2"])
            assert_close(ours["df_denom"][proper & ~loose], df[proper & ~loose], 1e-6)
            assert_close(ours["df_denom"][proper & loose], df[proper & loose], 1e-3)
            assert_close(ours["p_value"][proper], np.array(theirs["p.value"])[proper], 1e-6, 1)


# ------------------------------------------------------------ definitions


def test_means_are_averages_of_the_grid():
    result = oats()
    cells = lmm.emmeans(result, ["Variety", "Nf"]).to_frame()
    means = lmm.emmeans(result, "Nf").to_frame()
    by_hand = cells.groupby("Nf", observed=True)["estimate"].mean()
    assert_close(means["estimate"], by_hand.loc[means["Nf"]], 1e-12)


def test_joint_tests_are_type_3():
    result = oats()
    table, ours = result.anova(), lmm.joint_tests(result).set_index("term")
    assert_close(ours["f"], table["f"], 1e-8)
    assert_close(ours["df_num"], table["df_num"], 0)


@pytest.mark.parametrize("coding", ["sum", "poly", "helmert"])
def test_coding_of_the_fit_does_not_matter(coding):
    plain = lmm.emmeans(oats(), "Nf").pairs().to_frame()
    other = lmm.emmeans(oats(OATS.replace("Nf", f"C(Nf, contr.{coding})")), "Nf").pairs().to_frame()
    assert_close(other["estimate"], plain["estimate"], 1e-7)
    assert_close(other["p_value"], plain["p_value"], 1e-6, 1)


def test_every_method_of_the_families():
    means = lmm.emmeans(oats(), "Nf")
    m = means.to_frame()["estimate"].to_numpy()
    expected = {
        "revpairwise": [m[j] - m[i] for j in range(4) for i in range(j)],
        "helmert": [m[i] - m[:i].mean() for i in range(1, 4)],
        "mean_chg": [m[i:].mean() - m[:i].mean() for i in range(1, 4)],
        "consec": m[1:] - m[:-1],
        "del.eff": [m[i] - np.delete(m, i).mean() for i in range(4)],
        "eff": m - m.mean(),
        "trt.vs.ctrlk": m[:3] - m[3],
    }
    for method, values in expected.items():
        assert_close(means.contrast(method).at.estimate, values, 1e-10)
    last = means.contrast("trt.vs.ctrl", ref=-1).to_frame()
    assert_close(last["estimate"], m[:3] - m[3], 1e-10)
    own = means.contrast({"half": [0.5, 0.5, -0.5, -0.5]}).to_frame()
    assert own["contrast"].tolist() == ["half"]
    assert_close(own["estimate"], [(m[0] + m[1] - m[2] - m[3]) / 2], 1e-10)
    assert_close(means.contrast([[1, 0, 0, -1]]).at.estimate, [m[0] - m[3]], 1e-10)


# emmeans 1.8.4 of lmer(yield ~ Variety * N + (1 | Block / Variety), Oats), z: contrast(e,
# "trt.vs.ctrl", simple = "each", adjust = "none"), e of Variety * N: estimate, SE, p of the first
SIMPLE = {
    "Variety": ([6.66666666667, -8.5, 10, -8.83333333333, 2.5, -3.83333333333, 2, -6.33333333333],
                9.71502515176, 0.492572952946),
    "Nf": ([18.5, 34.6666666667, 44.8333333333, 21.8333333333, 30.5, 40.1666666667, 18.1666666667,
            39.3333333333, 47], 7.68295363729, 0.0160433400256),
}  # fmt: skip


def test_simple_contrasts_of_every_factor():
    means = lmm.emmeans(oats(), ["Variety", "Nf"], df_method="z")
    each = means.contrast("trt.vs.ctrl", simple="each", adjust="none")
    assert list(each) == list(SIMPLE) and str(each).startswith("Simple contrasts of Variety")
    assert "<p>Simple contrasts of Nf</p>" in each._repr_html_()
    for name, (estimate, error, p) in SIMPLE.items():
        found = each[name].to_frame()
        assert_close(found["estimate"], estimate, 1e-10)
        assert_close(found["std_error"], [error] * len(found), LME4_RTOL)
        assert_close(found["p_value"][:1], [p], LME4_RTOL)
        alone = means.contrast("trt.vs.ctrl", simple=name, adjust="none").to_frame()
        pd.testing.assert_frame_equal(alone, found)
    within = lmm.emmeans(oats(), "Variety", by="Nf")  # what is compared may have divided the rows
    pd.testing.assert_frame_equal(
        within.pairs(simple="Nf").to_frame(),
        lmm.emmeans(oats(), "Nf", by="Variety").pairs().to_frame(),
    )
    assert list(within.pairs(simple="each")) == ["Variety", "Nf"]
    assert len(means.pairs(simple=["Nf", "Variety"])) == 66
    one = lmm.emmeans(oats(), ["Variety", "Nf"], at={"Nf": ["n00"]})
    assert list(one.pairs(simple="each")) == ["Variety"]


# The same model, its means of N: contrast(e, "poly", max.degree = 2), estimate and SE.
QUADRATIC = [(147.333333333, 14.0270900514), (-10.3333333333, 6.27310537627)]
# emmeans:::poly.emmc(1:9, max.degree = 8), the last two columns.
DEGREES = [[-1, 6, -14, 14, 0, -14, 14, -6, 1], [1, -8, 28, -56, 70, -56, 28, -8, 1]]


def test_polynomials_up_to_a_degree():
    found = lmm.emmeans(oats(), "Nf").contrast("poly", max_degree=2).to_frame()
    assert found["contrast"].tolist() == ["linear", "quadratic"]
    assert_close(found[["estimate", "std_error"]], QUADRATIC, LME4_RTOL)
    most = contrast_families.contrasts_of("poly", list("abcdefghi"), max_degree=8)
    assert most.labels[-3:] == ("degree 6", "degree 7", "degree 8")
    np.testing.assert_array_equal(most.coefficients[-2:], DEGREES)


def test_contrasts_of_contrasts():
    within = lmm.emmeans(oats(), "pairwise ~ Nf | Variety").contrasts
    between = within.contrast("pairwise", by="contrast")
    product = lmm.emmeans(oats(), ["Nf", "Variety"]).contrast(interaction="pairwise")
    assert_close(np.sort(between.at.estimate), np.sort(product.at.estimate), 1e-8, 1)


def test_formulas_and_lists_ask_for_the_same():
    result = oats()
    frames = [
        lmm.emmeans(result, "~ Variety | Nf").to_frame(),
        lmm.emmeans(result, "Variety | Nf").to_frame(),
        lmm.emmeans(result, "Variety", by="Nf").to_frame(),
        lmm.emmeans(result, ["Variety"], by=["Nf"]).to_frame(),
    ]
    assert all(frame.equals(frames[0]) for frame in frames)
    both = lmm.emmeans(result, "trt.vs.ctrl ~ Variety * Nf")
    assert len(both.emmeans) == 12 and len(both.contrasts) == 11


def test_dunnett_is_exact():
    """Balanced and known: the value of Dunnett's table for three treatments, 45 df."""
    found = lmm.emmeans(oats(), "Nf").contrast("trt.vs.ctrl", adjust="dunnett").to_frame()
    half = (found["conf_high"] - found["estimate"]) / found["std_error"]
    assert (np.abs(half - 2.43) < 0.01).all()
    rough = lmm.emmeans(oats(), "Nf").contrast("trt.vs.ctrl").to_frame()
    assert_close(found["p_value"], rough["p_value"], 5e-3, 1)


def test_equivalence_and_non_inferiority():
    found = lmm.emmeans(oats(), "Variety").pairs()
    frame = found.to_frame("none")
    t, se, df = (frame[k].to_numpy() for k in ("statistic", "std_error", "df"))
    from scipy import stats

    delta = 25.0
    both = found.test(delta=delta, adjust="none")
    lower, upper = stats.t.sf(t + delta / se, df), stats.t.cdf(t - delta / se, df)
    assert_close(both["p_value"], np.maximum(lower, upper), 1e-9)
    worse = found.test(side="greater", delta=delta, adjust="none")
    assert_close(worse["p_value"], lower, 1e-9)
    shifted = found.test(null=5.0, side="less", adjust="none")
    assert_close(shifted["p_value"], stats.t.cdf(t - 5.0 / se, df), 1e-9)


def test_limits_on_one_side():
    """emmeans 1.8.4: ``confint(side = ">")``, ``summary(pairs(e), infer = TRUE, side = "<")``."""
    data = lmm.load_dataset("orthodont")
    means = lmm.emmeans(lmm.fit("distance ~ factor(age) + (1 | Subject)", data), "age")
    limits = means.confint(side=">")
    assert_close(limits["conf_low"], [21.35778554, 22.33926703, 23.82074851, 25.26519295], 1e-9)
    assert np.isposinf(limits["conf_high"]).all()
    assert_close(means.confint(0.9)["conf_low"], limits["conf_low"], 1e-12)
    table = means.pairs().to_frame(side="<")
    high = [-0.02469640904, -1.50617789052, -2.95062233497]
    assert_close(table["conf_high"][:3], high, 1e-7)
    assert_close(table["p_value"][:2], [4.262131290e-02, 5.408006720e-08], 1e-7)
    assert np.isneginf(table["conf_low"]).all()
    text = str(means.pairs().summary(infer=True, side="less"))
    assert "Alternative: less" in text and "adjusted by sidak" in text
    with pytest.raises(DataError, match="choose from two-sided, less, greater"):
        means.confint(side="equivalence")
    logs = lmm.emmeans(lmm.fit("log(distance) ~ factor(age) + (1 | Subject)", data), "age")
    on_response = logs.to_frame(side=">", type="response")
    assert_close(on_response["conf_low"], np.exp(logs.confint(side=">")["conf_low"]), 1e-12)
    assert np.isposinf(on_response["conf_high"]).all()


def test_values_of_a_null_go_row_by_row():
    found = lmm.emmeans(oats(), "Nf").pairs()
    null = np.array([1.0, -2.0, 0.0, 30.0, 4.0, 5.0])
    together = found.test(null=null, adjust="none")
    for i, value in enumerate(null):
        alone = found.test(null=value, adjust="none").iloc[i]
        assert together.iloc[i].drop(["contrast"]).equals(alone.drop(["contrast"]))
    means = lmm.emmeans(oats(), "Nf")
    ours = means.joint_test([70.0, 80.0, 90.0, 100.0]).iloc[0]
    expected = oats().f_test((means.at.L, [70.0, 80.0, 90.0, 100.0]))
    assert_close(ours["f"], expected.statistic, 1e-8)
    with pytest.raises(lmm.DataError, match=r"null has the shape \(2,\): one value, or 6"):
        found.test(null=[1.0, 2.0])


def arrays_of(record):
    """All arrays of a record and of the records inside of it."""
    if isinstance(record, np.ndarray):
        return [record]
    if is_dataclass(record):
        record = tuple(getattr(record, f.name) for f in fields(record))
    return [a for part in record for a in arrays_of(part)] if isinstance(record, tuple) else []


def test_arrays_of_means_and_of_their_tests_are_read_only():
    methods = ["satterthwaite", "kenward-roger", "between-within", "residual", "normal"]
    results = [*map(oats().with_df, methods), oats().robust("CR2")]
    for result in results:
        means = lmm.emmeans(result, "Nf")
        for table in (means, means.pairs()):
            held = arrays_of(table)
            assert len(held) > 6 and not any(a.flags.writeable for a in held)
    logs = lmm.fit("log(yld) ~ Nf + (1 | Block)", lmm.load_dataset("oats"))
    assert not any(a.flags.writeable for a in arrays_of(lmm.emmeans(logs, "Nf").regrid()))


def test_many_contrasts_form_no_matrix_of_their_size(monkeypatch):
    means = lmm.emmeans(oats(), "Nf")
    expected = {how: means.pairs(adjust=how).to_frame() for how in ("tukey", "scheffe", "mvt")}
    monkeypatch.setattr("lmm_jax.inference.contrasts.multiplicity._MOST", 5)  # of 6 contrasts
    monkeypatch.setattr("lmm_jax.inference.contrasts.linear_functions.correlation", None)
    for how in ("tukey", "scheffe"):
        assert means.pairs(adjust=how).to_frame().equals(expected[how])
    with pytest.raises(DataError, match="adjust='mvt' needs the correlation of all 6 contrasts"):
        means.pairs(adjust="mvt").to_frame()
    rows = means.pairs().at.L
    with pytest.raises(DataError, match="5 contrasts are the most"):
        lmm.hypotheses(oats(), rows, adjust="mvt")
    assert lmm.hypotheses(oats(), rows, adjust="holm").family.correlation is None


@pytest.mark.parametrize("weights", ["cells", "flat"])
def test_cells_without_rows_are_no_average_by_their_rows(weights):
    """As emmeans 1.8.4.1: nonEst where something is averaged, else the mean that the model has."""
    data = lmm.load_dataset("oats").query("not (Variety == 'Victory' and Nf == 'n60')")
    data = data.assign(C=np.where(np.arange(len(data)) % 3 == 0, "u", "v"))
    keep = ["Variety", "Nf"]
    two, three = (lmm.fit(f"yld ~ Variety + Nf {more} + (1 | Block)", data) for more in ("", "+ C"))
    found = lmm.emmeans(three, keep, weights=weights).to_frame()
    empty = (found["Variety"] == "Victory") & (found["Nf"] == "n60")
    assert found["estimate"].isna().tolist() == empty.tolist()
    frames = [lmm.emmeans(two, keep, weights=how).to_frame() for how in (weights, "equal")]
    assert frames[0].equals(frames[1]) and frames[0]["estimate"].notna().all()


def test_averages_of_a_large_grid_are_not_dense():
    levels = {"A": pd.RangeIndex(20_000).astype(str), "B": pd.Index(["x", "y"])}
    cells = np.stack(np.meshgrid(np.arange(20_000), [0, 1]), axis=-1).reshape(-1, 2)
    known = Variables(
        names=("A", "B"),
        factors=levels,
        covariates={},
        cells=cells,
        counts=np.ones(40_000, int),
        dtypes={},
    )
    grid = make_grid({name: list(found) for name, found in levels.items()}, ["A"], known)
    tracemalloc.start()
    means = average(grid, ["A"], "equal").of(np.arange(40_000.0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert_close(means, np.arange(20_000) + 10_000.0, 1e-12)
    assert peak < 100 * 8 * 40_000  # a dense matrix of weights would be 200 times as large


def test_a_grid_of_too_many_numbers_is_refused(monkeypatch):
    monkeypatch.setattr("lmm_jax.results.marginal_basis._MOST", 100)
    with pytest.raises(DataError, match="12 rows, and with the columns of X 144 numbers: 100 are"):
        lmm.emmeans(oats(), "Nf")


def test_letters_say_what_differs():
    means = lmm.emmeans(oats(), "Nf")
    table, p = means.cld(), means.pairs().to_frame()["p_value"].to_numpy()
    groups = [set(g) for g in table["group"]]
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    for (i, j), value in zip(pairs, p, strict=True):
        assert bool(groups[i] & groups[j]) == (value > 0.05)


def test_overall_joint_test_is_a_wald_test():
    result = oats()
    pairs = lmm.emmeans(result, "Nf").pairs()
    ours = pairs.joint_test().iloc[0]
    expected = result.f_test(pairs.at.L)
    assert_close(ours["f"], expected.statistic, 1e-8)
    assert ours["df_num"] == 3


def test_robust_covariances_carry_over():
    result = oats()
    plain, robust = (lmm.emmeans(r, "Nf").pairs() for r in (result, result.robust("CR2")))
    assert_close(robust.at.estimate, plain.at.estimate, 1e-12)
    test = result.robust("CR2").t_test(plain.at.L)
    assert_close(robust.at.std_error, test.sd, 1e-9)
    assert_close(robust.at.df, test.df_denom, 1e-7)


def test_saved_results_and_printing():
    import pickle

    again = pickle.loads(pickle.dumps(oats()))
    table, expected = (lmm.emmeans(r, "Nf", weights="cells") for r in (again, oats()))
    assert table.to_frame().equals(expected.to_frame())
    assert str(table) == str(expected)
    for text in (str(expected.pairs()), expected._repr_html_(), expected.summary().as_latex()):
        assert "n20" in text


REFUSED = [
    (lambda r: lmm.emmeans(r, "Block"), "no variable of the fixed effects"),
    (lambda r: lmm.emmeans(r, "Nf", at={"Nf": ["n99"]}), "whose levels are"),
    (lambda r: lmm.emmeans(r, "Nf", at={"Q": [1]}), "the variables are"),
    (lambda r: lmm.emmeans(r, "Nf", weights="rows"), "choose from equal"),
    (lambda r: lmm.emmeans(r, "Nf", weights=[1.0, 2.0]), "3 numbers are averaged over"),
    (lambda r: lmm.emmeans(r, []), "name a variable"),
    (
        lambda r: lmm.emmeans(r, "Nf", cov_reduce="median"),
        "mean, range.*, or pass a function of a column, np.median$",
    ),
    (lambda r: lmm.emmeans(r, "Variety:Nf"), r"means of cells are those of \['Variety', 'Nf'\]"),
    (lambda r: lmm.emmeans(r, "Nf").contrast("tukey"), "did you mean 'pairwise'"),
    (lambda r: lmm.emmeans(r, "Nf").contrast("Dunnett"), "did you mean 'trt.vs.ctrl'"),
    (lambda r: lmm.emmeans(r, "Nf").contrast("Sequen"), "did you mean 'consec'"),
    (lambda r: lmm.emtrends(r, "Nf", "Variety"), "the model has no covariate"),
    (lambda r: lmm.emmeans(r, "Nf").contrast("pairs"), "did you mean 'pairwise'"),
    (lambda r: lmm.emmeans(r, "Nf").contrast({"a": [1, -1]}), "4 finite numbers"),
    (lambda r: lmm.emmeans(r, "Nf").contrast("eff", by="Block"), "there are the columns"),
    (lambda r: lmm.emmeans(r, "Nf").contrast("trt.vs.ctrl", ref=9), "there are the levels"),
    (lambda r: lmm.emmeans(r, "Nf").to_frame("tuckey"), "did you mean 'tukey'"),
    (lambda r: lmm.emmeans(r, "Nf").regrid(), "transformed response"),
    (
        lambda r: lmm.emmeans(oats(OATS.replace("yld", "I(yld - 100)")), "Nf").regrid("log"),
        "mean -20.61 has no log",
    ),
    (lambda r: lmm.emmeans(r, "Nf").regrid("exp"), "choose from response, log, log2, log10"),
    (lambda r: lmm.emmeans(r, "Nf").pairs().regrid("log"), "regrid is for means"),
    (lambda r: lmm.emmeans(r, "Nf").regrid("log", bias_sigma=0.1), "transformed response"),
    (lambda r: lmm.emmeans(r, "1").contrast("identity").regrid("log"), "regrid is for means"),
    (lambda r: lmm.emmeans(r, "Nf").contrast("poly", max_degree=4), "of degree 3"),
    (lambda r: lmm.emmeans(r, "Nf").contrast("poly", max_degree=0), "at least 1 is needed"),
    (lambda r: lmm.emmeans(r, "Nf").contrast("eff", max_degree=2), "eff has no degrees"),
    (lambda r: lmm.emmeans(r, "Nf").contrast(interaction="poly", max_degree=2), "contrast..poly"),
    (lambda r: lmm.emmeans(r, "Nf").pairs(simple="Sex"), "simple='Sex': there are the columns Nf"),
    (lambda r: lmm.emmeans(r, "Nf").pairs(simple=[["Nf"]]), "there are the columns Nf"),
    (lambda r: lmm.emmeans(r, "Nf").contrast(by=np.ones((2, 0))), "there are the columns Nf"),
    (lambda r: lmm.emmeans(r, "Nf").pairs(simple="Nf", by=None), "pass one of them"),
    (lambda r: lmm.emmeans(r, "Nf").contrast(interaction=["eff", "eff"]), "2 methods for"),
    (lambda r: lmm.emmeans("r", "Nf"), "a result of lmm.fit"),
    (lambda r: lmm.emmeans(r.without_data(), "Nf"), "restored without its data"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(DataError, match=message):
        call(oats())


@pytest.mark.parametrize("how", ["bonferroni", "holm", "fdr", "sidak", "mvt", "scheffe"])
def test_any_rows_can_be_adjusted(how):
    """Hypotheses that are contrasts of means are adjusted as these."""
    pairs = lmm.emmeans(oats(), "Nf").pairs()
    found = lmm.hypotheses(oats(), pairs.at.L, adjust=how)
    table = pairs.to_frame(how)
    tol = 1e-4 if how == "mvt" else 1e-8  # its nodes turn with the digits of the correlation
    assert_close(found.pvalue, table["p_value"], tol, 1)
    assert_close(found.conf_int(), table[["conf_low", "conf_high"]], 10 * tol, 1)


def test_variables_that_are_called_like_columns():
    data = logs().rename(columns={"A": "term"})
    result = lmm.fit("y ~ term * z + (1 | g)", data)
    by = lmm.joint_tests(result, by="term")
    assert by["term"].tolist() == ["z", "z"] and by["term.1"].tolist() == ["a", "b"]
    named = lmm.fit("y ~ df + (1 | g)", logs().rename(columns={"A": "df"}))
    assert lmm.emmeans(named, "df").to_frame().columns.is_unique


def test_a_reference_by_its_label():
    means = lmm.emmeans(oats(), "Variety")
    by_label = means.contrast("trt.vs.ctrl", ref="Victory")
    assert by_label.to_frame().equals(means.contrast("trt.vs.ctrl", ref=2).to_frame())
    with pytest.raises(DataError, match="there are the levels"):
        means.contrast("trt.vs.ctrl", ref="Vic")


def test_a_model_without_fixed_effects_has_a_mean_of_zero():
    result = lmm.fit("y ~ 0 + (1 | g)", logs())
    assert lmm.emmeans(result, "1").to_frame()["estimate"].tolist() == [0.0]


def test_robust_covariances_with_normal_quantiles():
    robust = oats().robust("CR2")
    z = robust.t_test("Nf[T.n60] = 0", df_method="z")
    assert z.sd[0] == robust.t_test("Nf[T.n60] = 0").sd[0] and np.isinf(z.df_denom[0])
    residual = robust.t_test("Nf[T.n60] = 0", df_method="residual")
    assert residual.sd[0] == z.sd[0] and residual.df_denom[0] == 60


# emmeans 1.8.4 of lmer(yield ~ factor(nitro) + (1 | Block), Oats), Kenward-Roger
AGAINST_SEVERAL = {
    (0, 1): [("0.4 - avg(0,0.2)", 25.1, 4.61, 5.437), ("0.6 - avg(0,0.2)", 34.2, 4.61, 7.424)],
    (0, 1, 2): [("0.6 - avg(0,0.2,0.4)", 25.9, 4.35, 5.952)],
}


@pytest.mark.parametrize("ref", AGAINST_SEVERAL)
def test_contrasts_with_the_mean_of_several_levels(ref):
    data = lmm.load_dataset("oats").assign(n=lambda d: d["Nf"].str[1:].astype(int) / 100)
    means = lmm.emmeans(lmm.fit("yld ~ C(n) + (1 | Block)", data), "n", df_method="kr")
    found = means.contrast("trt.vs.ctrl", ref=list(ref)).to_frame()
    rows = AGAINST_SEVERAL[ref]
    assert found["contrast"].tolist() == [row[0] for row in rows]
    for i, (column, tol) in enumerate(
        (("estimate", 0.051), ("std_error", 5e-3), ("statistic", 5e-4))
    ):
        np.testing.assert_allclose(found[column], [row[i + 1] for row in rows], atol=1.02 * tol)
    by_label = means.contrast("trt.vs.ctrl", ref=[0.2 * i for i in ref]).to_frame()
    assert by_label["contrast"].tolist() == found["contrast"].tolist()


def test_a_reference_is_a_level_where_there_is_one():
    data = lmm.load_dataset("oats").assign(n=lambda d: d["Nf"].cat.codes.astype(int) + 1)
    means = lmm.emmeans(lmm.fit("yld ~ C(n) + (1 | Block)", data), "n")

    def first(ref):
        return means.contrast("trt.vs.ctrl", ref=ref).to_frame()["contrast"][0]

    assert first(1) == first("1") == first(0) == "2 - 1"
    assert first(2) == "1 - 2" and first(-1) == "1 - 4"
    assert means.contrast("trt.vs.ctrl", ref=[1.0, 2]).to_frame()["contrast"][0] == "3 - avg(1,2)"
    for wrong in (7, 1.5, [], [1, 1], "n9", [1, "n9"], True):
        with pytest.raises(lmm.DataError, match="ref="):
            first(wrong)


def test_a_reference_is_that_of_one_family():
    means = lmm.emmeans(oats(), ["Variety", "Nf"])
    for call in ({"interaction": ["trt.vs.ctrl", "consec"]}, {"method": {"a": [1, -1] * 6}}):
        with pytest.raises(lmm.DataError, match="ref="):
            means.contrast(ref="n00", **call)


def test_a_reference_is_the_value_of_a_covariate_or_a_label_in_brackets():
    data = lmm.load_dataset("oats").assign(n=lambda d: d["Nf"].cat.codes.astype(float) + 1)
    means = lmm.emmeans(lmm.fit("yld ~ n + (1 | Block)", data), "n", at={"n": [1, 2, 3]})
    for ref in (1, "1", "n1", 0):
        first = means.contrast("trt.vs.ctrl", ref=ref).to_frame()["contrast"][0]
        assert first == "n2 - n1", ref
    names = {"n00": "(a)", "n20": "a", "n40": "b - c", "n60": "d"}
    data["n"] = data["Nf"].astype(str).map(names)
    means = lmm.emmeans(lmm.fit("yld ~ n + (1 | Block)", data), "n")
    for ref, first in {"a": "(a) - a", "(a)": "a - (a)", "b - c": "(a) - (b - c)",
                       "(b - c)": "(a) - (b - c)"}.items():  # fmt: skip
        assert means.contrast("trt.vs.ctrl", ref=ref).to_frame()["contrast"][0] == first


def test_a_reference_may_have_many_digits():
    data = lmm.load_dataset("oats").assign(n=lambda d: d["Nf"].cat.codes.astype(int) + 1234567)
    means = lmm.emmeans(lmm.fit("yld ~ C(n) + (1 | Block)", data), "n")
    found = means.contrast("trt.vs.ctrl", ref=1234568).to_frame()["contrast"][0]
    assert found == "1234567 - 1234568"


def test_joint_tests_of_many_covariates_are_those_of_the_table_of_variance():
    """Nothing joins them: a grid of all of them together would have 2^30 rows."""
    rng = np.random.default_rng(2)
    data = pd.DataFrame({f"c{i}": rng.normal(size=300) + i for i in range(30)})
    data["f"], data["g"] = rng.choice(list("abc"), 300), rng.choice(30, 300)
    data["y"] = rng.normal(size=300) + rng.normal(size=30)[data["g"]]
    covariates = " + ".join(f"c{i}" for i in range(30))
    res = lmm.fit(f"y ~ {covariates} + f * c0 + c1:c2 + (1 | g)", data)
    found, table = lmm.joint_tests(res).set_index("term"), res.anova("III")
    alone = [f"c{i}" for i in range(3, 30)]
    assert set(found.index) == {"c0", "c1", "c2", *alone, "f", "c0:f", "c1:c2"}
    same = [*alone, "c0:f", "c1:c2"]
    np.testing.assert_allclose(
        found.loc[same, "f"], table.loc[[*alone, "f:c0", "c1:c2"], "f"], rtol=1e-8
    )


def quoted():
    """A log response and a factor whose names need backticks."""
    data = oats_data().rename(columns={"yld": "Yield (q)", "Nf": "N rate"})
    return data, lmm.fit("log(`Yield (q)`) ~ Variety * `N rate` + (1 | Block)", data)


def test_names_between_backticks():
    data, res = quoted()
    plain = lmm.fit("log(yld) ~ Variety * Nf + (1 | Block)", oats_data())
    pairs = [
        ("~ Variety | `N rate`", "~ Variety | Nf"),
        ("`N rate`", "Nf"),
        ("pairwise ~ `N rate`:Variety", "pairwise ~ Nf:Variety"),
    ]
    for ours, theirs in pairs:
        got, want = (lmm.emmeans(m, s) for m, s in ((res, ours), (plain, theirs)))
        got, want = (g if isinstance(g, tuple) else (g,) for g in (got, want))
        for a, b in zip(got, want, strict=True):
            assert_close(a.to_frame()["estimate"], b.to_frame()["estimate"], 1e-12)
    by = lmm.joint_tests(res, by="`N rate`")
    assert by.columns[1] == "N rate" and len(by) == 4
    at = lmm.emmeans(res, "Variety", at={"`N rate`": ["n00"]})
    assert len(at) == 3
    back = lmm.emmeans(res, "N rate").to_frame(type="response")["estimate"]
    assert_close(back, np.exp(lmm.emmeans(plain, "Nf").to_frame()["estimate"]), 1e-12)
    as_it_is = lmm.fit("`Yield (q)` ~ Variety + (1 | Block)", data)
    means = lmm.emmeans(as_it_is, "Variety")
    assert means.to_frame(type="response").equals(means.to_frame())


def test_a_table_with_limits_and_tests():
    pairs = lmm.emmeans(quoted()[1], "Variety").pairs()
    page = pairs.summary(infer=True, type="response")
    (shown,), frame = page.tables, pairs.to_frame(type="response")
    for name in ("estimate", "conf_low", "conf_high", "statistic", "p_value"):
        np.testing.assert_array_equal(shown[name], frame[name])
    assert "ratio" in str(page) and "Carried back from the scale of log" in str(page)
    assert "P values and limits of level 0.95 adjusted by tukey" in str(page)
    narrow = pairs.summary(infer=True, level=0.8, adjust="none")
    assert "Limits of level 0.8" in str(narrow)
    assert list(pairs.summary(infer=False).tables[0])[-1] == "df"


def test_what_is_averaged_is_told():
    res = oats()
    note = "Averaged over the interaction Variety:Nf: the means may mislead"
    assert note in lmm.emmeans(res, "Nf").summary().notes
    assert note not in lmm.emmeans(res, ["Nf", "Variety"]).summary().notes
    alone = lmm.fit("yld ~ Variety + Nf + (1 | Block)", oats_data())
    assert note not in lmm.emmeans(alone, "Nf").summary().notes
    three = lmm.fit("yld ~ Variety * Nf * h + (1 | Block)", oats_data().assign(h=["a", "b"] * 36))
    terms = "interactions Variety:Nf, Variety:h, Variety:Nf:h: the means may mislead"
    assert f"Averaged over the {terms}" in lmm.emmeans(three, "Variety").summary().notes
    robust = lmm.emmeans(alone.robust("CR2"), "Nf").summary().notes
    assert "Standard errors of the fixed effects: CR2, 6 clusters (Block)." in robust


@pytest.mark.parametrize("name", ["50% dose", "it's", ".", " ", "log(x)", "1"])
def test_columns_of_any_name_are_averaged_and_kept(name, tmp_path):
    data = oats_data().assign(x=np.arange(72) % 7)
    plain = lmm.fit("yld ~ Nf + x + (1 | Block)", data)
    res = lmm.fit(f"yld ~ Nf + `{name}` + (1 | Block)", data.rename(columns={"x": name}))
    means = lmm.emmeans(plain, "Nf").to_frame()["estimate"]
    assert_close(lmm.emmeans(res, "Nf").to_frame()["estimate"], means, 1e-12)
    res.save(tmp_path / "fit.lmm")
    again = lmm.emmeans(lmm.load(tmp_path / "fit.lmm"), "Nf").to_frame()["estimate"]
    assert_close(again, means, 1e-12)


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({}, None),
        ({"side": "<"}, "Alternative: less"),
        ({"delta": 3}, "Alternative: equivalence, margin 3"),
        ({"delta": 3, "side": "noninferiority"}, "Alternative: non-inferiority, margin 3"),
    ],
)
def test_tests_and_letters_show_how_they_were_made(options, note):
    means = lmm.emmeans(oats(), "Nf")
    tests = means.test(100.0, **options)
    assert tests.notes[0] == note or (note is None and not tests.notes[0].startswith("Alternative"))
    assert tests.title == "Tests of marginal means" and "| Nf | Mean |" in tests.to_markdown()
    letters = means.cld(0.01, adjust="holm")
    assert letters.notes[0].endswith("at the level 0.01, adjusted by holm within each family")
    assert letters.to_latex(columns=["estimate", "group"], digits=1).count(" & ") == 10


# multcomp's cld() of emmeans 1.8.4 of lmer(yield ~ Variety * nitro + (1 | Block/Variety), Oats)
OATS_LOW = {
    "tukey": [55.32458874, 74.82458874, 90.15792207, 99.32458874],
    "bonferroni": [55.22224119, 74.72224119, 90.05557452, 99.22224119],
    "holm": [55.22224119, 74.72224119, 90.05557452, 99.22224119],  # Bonferroni's
    None: [62.31733698, 81.81733698, 97.15067031, 106.31733698],
}


@pytest.mark.parametrize("adjust", OATS_LOW)
def test_an_adjustment_that_is_asked_for_is_of_the_limits_beside_letters_too(adjust):
    res = oats()
    found = lmm.emmeans(res, "Nf").cld(adjust=adjust)
    assert_close(found["conf_low"], OATS_LOW[adjust], 1e-5)  # lme4's optimum is looser
    assert any("Limits of level 0.95" in note for note in found.notes)
    told = {"tukey": "sidak", "bonferroni": "bonferroni", "holm": "bonferroni"}.get(adjust)
    limits = next(note for note in found.notes if note.startswith("Limits"))
    assert limits.endswith(
        "0.95" if told is None else f"0.95 adjusted by {told} within each family"
    )


# the example of emmeans' help page of eff_size, Oats without the interaction: its printed output
OATS_SIGMA = 22.06183
OATS_SIZES = {
    5: ([-0.240, 0.312, 0.551], [0.330, 0.336, 0.365]),
    51: ([-0.240, 0.312, 0.551], [0.322, 0.322, 0.325]),
}


@pytest.mark.parametrize("edf", OATS_SIZES)
def test_effect_sizes_of_emmeans(edf):
    res = oats("yld ~ Variety + Nf + (1 | Block/Variety)")
    means = lmm.emmeans(res, "Variety")
    found = means.eff_size(OATS_SIGMA, edf)
    for name, want in zip(("estimate", "std_error"), OATS_SIZES[edf], strict=True):
        np.testing.assert_allclose(found[name], want, atol=5e-4)  # three decimals
    half = stats.t.ppf(0.975, found["df"]) * found["std_error"]
    np.testing.assert_allclose(found["conf_high"] - found["estimate"], half, rtol=1e-12)
    np.testing.assert_array_equal(found["df"], means.pairs().to_frame()["df"])
    of_contrasts = means.contrast("trt.vs.ctrl").eff_size(OATS_SIGMA, edf)
    np.testing.assert_allclose(-of_contrasts["estimate"], found["estimate"][:2])


def test_effect_sizes_with_a_known_sigma_are_contrasts_in_its_units():
    res = oats("yld ~ Variety + Nf + (1 | Block/Variety)")
    pairs = lmm.emmeans(res, "Nf").pairs(adjust="none")
    found, frame = pairs.eff_size(10.0, np.inf), pairs.to_frame()
    for name in ("estimate", "std_error", "conf_low", "conf_high"):
        np.testing.assert_allclose(found[name], frame[name] / 10.0, rtol=1e-12)
    for bad in ({"sigma": 0, "edf": 5}, {"sigma": 1, "edf": -1}, {"sigma": "a", "edf": 5}):
        with pytest.raises(lmm.DataError, match=r"sigma=|edf="):
            pairs.eff_size(**bad)


def test_joint_tests_where_the_mean_less_one_has_no_logarithm():
    """Of one coefficient each: the F of the table of variance, whatever the step."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"x": rng.uniform(0.05, 1.2, 120), "p": rng.uniform(0.02, 0.98, 120)})
    data["g"], data["y"] = rng.integers(0, 12, 120), np.log(data["x"]) + rng.normal(size=120)
    res = lmm.fit("y ~ log(x) + logit(p) + (1 | g)", data)
    found, table = lmm.joint_tests(res), res.anova()
    np.testing.assert_allclose(found["f"], table["f"], rtol=1e-9)
    np.testing.assert_allclose(found["p_value"], table["p_value"], rtol=1e-9)
    with pytest.raises(lmm.DataError, match="NaN or infinite"):
        lmm.joint_tests(res, at={"x": [-1.0, 1.0]})


def test_interaction_contrasts_by_the_names_of_their_factors():
    means = lmm.emmeans(oats(), ["Variety", "Nf"])
    listed = means.contrast(interaction=["pairwise", "consec"])
    named = means.contrast(interaction={"Nf": "consec", "Variety": "pairwise"})
    pd.testing.assert_frame_equal(named.to_frame(), listed.to_frame())


def test_notes_say_where_covariates_are_held():
    """All digits that matter, and that differences depend on it where the model says so."""
    data = lmm.load_dataset("orthodont")
    data["year"] = 1990.0 + data["age"] + 0.9 * (data["age"] > 10)
    apart = lmm.fit("distance ~ year * Sex + (1 | Subject)", data)
    told = lmm.emmeans(apart, "Sex").notes
    assert f"Covariates held at year = {data['year'].mean():.2f}" in told
    assert any("year:Sex differences depend on where that is" in note for note in told)
    same = lmm.fit("distance ~ year + Sex + (1 | Subject)", data)
    assert not any("depend on" in note for note in lmm.emmeans(same, "Sex").notes)


def test_interaction_contrasts_need_a_method_for_every_factor():
    res = lmm.fit("yld ~ Variety * Nf + (1 | Block)", lmm.load_dataset("oats"))
    with pytest.raises(DataError, match="methods for Nf: one is needed for each of Variety, Nf"):
        lmm.emmeans(res, ["Variety", "Nf"]).contrast(interaction={"Nf": "consec"})


@pytest.mark.parametrize(
    ("after", "shown"),
    [
        ([0, 0.25, 0.5], ["06:00:00", "06:00:00.250000", "06:00:00.500000"]),
        ([0, 0.0004], ["06:00:00", "06:00:00.000400"]),
        ([0.25, 100], ["06:00:00", "06:01:40"]),  # to the second, which tells them apart
    ],
)
def test_dates_within_a_second_have_labels_of_their_own(after, shown):
    rng, n = np.random.default_rng(3), 60
    start = pd.Timestamp("2024-02-01 06:00")
    data = pd.DataFrame({"g": np.repeat(np.arange(10), 6), "y": rng.normal(size=n)})
    data["t"] = start + pd.to_timedelta(rng.integers(0, 400_000, n), unit="ms")
    times = [start + pd.Timedelta(seconds=s) for s in after]
    means = lmm.emmeans(lmm.fit("y ~ as.numeric(t) + (1 | g)", data), "t", at={"t": times})
    assert [str(t) for t in means.to_frame()["t"]] == [f"2024-02-01 {text}" for text in shown]
    first, second, *_ = (f"(t2024-02-01 {text})" for text in shown)
    assert means.pairs().to_frame()["contrast"].iloc[0] == f"{first} - {second}"
    assert all(text in str(means) for text in shown)


def test_interactions_by_the_method_of_every_factor():
    """emmeans' ``contrast(e, "pairwise", interaction = TRUE)``."""
    cells = lmm.emmeans(oats(), ["Variety", "Nf"])
    named, true = (cells.contrast("consec", interaction=how).to_frame() for how in ("consec", True))
    pd.testing.assert_frame_equal(named, true)
    plain = cells.contrast("consec", interaction=False).to_frame()
    pd.testing.assert_frame_equal(plain, cells.contrast("consec").to_frame())


def test_what_joint_tests_are_within_may_stand_second():
    found = lmm.joint_tests(oats(), "Variety")
    pd.testing.assert_frame_equal(found, lmm.joint_tests(oats(), by="Variety"))
