"""Cluster-robust covariances: clubSandwich's numbers, dense formulas, invariances, refusals."""
# ruff: noqa: E501

import pickle
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import reference
import samples
from dense_robust import dense
from fits import oats
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax.inference.df.robust import KINDS

# clubSandwich at lme4's optimum polished by Newton steps: two optima, ours to a decrement of 1e-9.
R_RTOL = 1e-7
P_ATOL = 1e-15  # R's tail of a large chi-square is 0 where ours is 1e-300
DENSE_RTOL = 1e-8  # n x n inverses and squared roots in float64
ROUNDING = 1e-9  # one computation in another order, basis or unit
TWO_FITS = 1e-6  # two optimizations of one criterion

P = lmm.Params.from_components
CASES = reference.names(lambda c: c.get("robust") is not None, reference.INFERENCE)
DATA = samples.frame()
BLOCK = (np.arange(60) // 12).astype(float)  # pairs of the groups g
JOINT = np.eye(3)[1:]


# ------------------------------------------------------------ clubSandwich


def numbers(values):
    return np.array([np.nan if v is None else v for v in values], dtype=float)


@pytest.mark.filterwarnings("ignore:the fixed-effects design is rank deficient")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_covariances_and_t_tests_are_those_of_clubsandwich(name, kind):
    result = reference.inference_fit(name).robust(kind)
    expected = reference.load(name)["robust"]["types"][kind]
    table, V, p = expected["coef_test"], np.array(expected["vcov"]), len(result.fe_params)
    se = np.sqrt(np.diagonal(V))
    assert_close(result.cov_params().to_numpy()[:p, :p], V, R_RTOL, np.outer(se, se))
    assert_close(result.bse_fe, numbers(table["SE"]), R_RTOL)
    assert_close(result.tvalues, numbers(table["tstat"]), R_RTOL, 1 + np.abs(result.tvalues))
    assert_close(result.df, numbers(table["df_Satt"]), R_RTOL)
    assert_close(result.pvalues, numbers(table["p_Satt"]), R_RTOL)
    z = result.t_test(np.eye(p), use_t=False)
    assert z.distribution == "norm"
    np.testing.assert_allclose(z.pvalue, numbers(table["p_z"]), rtol=R_RTOL, atol=P_ATOL)


@pytest.mark.filterwarnings("ignore:the fixed-effects design is rank deficient")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_joint_tests_are_those_of_clubsandwich(name, kind):
    case = reference.load(name)["robust"]
    result, expected = reference.inference_fit(name).robust(kind), case["types"][kind]["wald_test"]
    L = np.eye(len(result.fe_params))[np.array(case["joint_coefficients"]) - 1]
    for test, theirs in {"HTZ": "HTZ", "naive-F": "Naive-F", "chi2": "chi-sq"}.items():
        got, row = result.wald_test(L, test=test), expected["test"].index(theirs)
        F = got.statistic / (len(L) if test == "chi2" else 1)
        assert_close(F, expected["Fstat"][row], R_RTOL)
        np.testing.assert_allclose(got.pvalue, expected["p_val"][row], rtol=R_RTOL, atol=P_ATOL)
        assert got.df_num == len(L)
        if test != "chi2":
            assert_close(got.df_denom, expected["df_denom"][row], R_RTOL)
    assert str(result.wald_test(L)) == str(result.f_test(L)) == str(result.wald_test(L, test="HTZ"))
    assert str(result.wald_test(L, use_f=False)) == str(result.wald_test(L, test="chi2"))


# ------------------------------------------------------------ dense formulas


def leverage_one() -> pd.DataFrame:
    """A covariate that is zero outside of some rows of one group: that group determines it."""
    return DATA.assign(z=np.where(np.arange(60) < 3, DATA["z"], 0.0))


def of_sizes(*sizes: int) -> pd.DataFrame:
    data = samples.frame(3, groups=len(sizes), rows=max(sizes))
    return data[data.groupby("g").cumcount() < np.repeat(sizes, max(sizes))]


CROSSED = DATA.assign(s=DATA["s"] + BLOCK.astype(str))
OPTIONS = {"groups": "g", "re_formula": "1", "vc_formula": {"s": "0 + C(s)"}}
# Formula, data, options of the fit, clusters (None: those of the model).
MODELS = {
    "weights": ("y ~ x + z + (x | g)", DATA, {"weights": "w"}, None),
    "weights of groups": ("y ~ x + z + (1 | g)", DATA.assign(w=1 + BLOCK), {"weights": "w"}, None),
    "ML, offset": ("y ~ x + z + (x | g)", DATA, {"reml": False, "offset": "o"}, None),
    "wide groups": ("y ~ x + z + (1 | g)", samples.frame(1, groups=5, rows=30), {}, None),
    "nested": ("y ~ x + z + (1 | g/s)", DATA, {}, None),
    "components": ("y ~ x + z", DATA, OPTIONS, None),
    "structured": ("y ~ x + z + cs(1 + x | g, hom=True)", DATA, {}, None),
    "coarser": ("y ~ x + z + (x | g)", DATA, {}, BLOCK),
    "coarser, weights": ("y ~ x + z + (x | g)", DATA, {"weights": "w"}, BLOCK),
    "crossed": ("y ~ x + z + (1 | g) + (1 | s)", CROSSED, {}, BLOCK),
    "one row": ("y ~ x + z + (1 | g)", of_sizes(1, 1, 2, 5, 1, 7, 9, 4), {}, None),
    "determined": ("y ~ x + z + (x | g)", leverage_one(), {}, None),
    "determined, weights": ("y ~ x + z + (x | g)", leverage_one(), {"weights": "w"}, None),
}


@cache
def model(name: str) -> lmm.LMMResults:
    formula, data, options, _ = MODELS[name]
    return lmm.fit(formula, data, **options)


def pairs():
    """All but CR3 where a cluster determines a coefficient: its A has no inverse."""
    return [(n, k) for n in MODELS for k in KINDS if k != "CR3" or "determined" not in n]


@pytest.mark.parametrize(("name", "kind"), pairs())
def test_any_model_is_that_of_the_dense_formulas(name, kind):
    fit, given = model(name), MODELS[name][3]
    expected = dense(fit, kind, fit.design.group_codes if given is None else given)
    result = fit.robust(kind, given)
    se = np.sqrt(np.diagonal(expected.cov))
    tol = 1e-6 if "determined" in name else DENSE_RTOL  # its root of a singular matrix
    assert_close(result.cov_params().to_numpy()[:3, :3], expected.cov, tol, np.outer(se, se))
    rows = np.vstack([np.eye(3), [1, 2, 3]])
    if kind == "CR2" or "determined" not in name:  # without it the last coefficient has no variance
        assert_close(result.t_test(rows).df_denom, [expected.df(row) for row in rows], tol)
        eta = expected.eta(JOINT)
        if eta > 1:
            assert_close(result.wald_test(JOINT).df_denom, eta - 1, tol)


def test_cr2_is_unbiased_under_the_model():
    """The expected covariance is that of the model, for every cluster size."""
    for name in ("weights", "coarser", "one row"):
        tests = model(name).robust("CR2", MODELS[name][3]).tests
        expected = (tests.T - tests.F @ tests.F.transpose(0, 2, 1)).sum(axis=0)
        assert_close(expected, np.eye(3), ROUNDING, 1)
        assert_close(tests.root @ tests.root.T, model(name).estimates.cov_beta, ROUNDING, 1)


# ------------------------------------------------------------ invariances


def same(a, b, scale=1.0, tol=TWO_FITS, kinds=KINDS):
    for kind in kinds:
        one, two = a.robust(kind), b.robust(kind)
        assert_close(one.bse_fe.to_numpy() * scale, two.bse_fe, tol)
        assert_close(one.df, two.df, tol)
        joint = np.eye(len(one.fe_params))[1:]
        assert_close(one.wald_test(joint).statistic, two.wald_test(joint).statistic, tol)


def test_order_of_rows_and_units_of_y_do_not_matter():
    fit = model("weights")
    order = np.random.default_rng(0).permutation(60)
    same(fit, lmm.fit("y ~ x + z + (x | g)", DATA.iloc[order], weights="w"))
    data = DATA.assign(y=1e6 * DATA["y"])
    same(fit, lmm.fit("y ~ x + z + (x | g)", data, weights="w"), 1e6)


def test_coding_of_x_does_not_matter():
    data = DATA.assign(a=1990 + 5 * DATA["x"], b=0.1 * DATA["z"] + DATA["x"])
    one, two = model("weights"), lmm.fit("y ~ a + b + (x | g)", data, weights="w")
    for kind in KINDS:
        plain, coded = one.robust(kind), two.robust(kind)
        assert_close(plain.wald_test(JOINT).statistic, coded.wald_test(JOINT).statistic, TWO_FITS)
        assert_close(plain.wald_test(JOINT).df_denom, coded.wald_test(JOINT).df_denom, TWO_FITS)
        # x moves y through a and b together
        t = coded.t_test([[0, 5.0, 1.0]])
        assert_close(t.sd[0], plain.bse_fe["x"], TWO_FITS)
        assert_close(t.df_denom[0], plain.df["x"], TWO_FITS)


def test_labels_of_clusters_do_not_matter():
    fit, order = model("coarser"), np.random.default_rng(1).permutation(60)
    plain = fit.robust("CR2", BLOCK)
    column = pd.Series(BLOCK, name="school").map("s{:.0f}".format)
    for cluster in (column, column.astype("category"), column.iloc[order], list(column)):
        assert_close(fit.robust("CR2", cluster).bse_fe, plain.bse_fe, ROUNDING)
    assert "CR2, 5 clusters (school)" in str(fit.robust("CR2", column).summary())
    assert_close(fit.robust("CR1", DATA["g"]).bse_fe, fit.robust("CR1").bse_fe, ROUNDING)


def test_a_column_of_the_data_serves_where_rows_are_left_out():
    data = DATA.assign(x=DATA["x"].where(np.arange(60) != 7), school=BLOCK)
    fit = lmm.fit("y ~ x + z + (1 | g)", data)
    expected = fit.robust("CR2", np.delete(BLOCK, 7))
    assert_close(fit.robust("CR2", data["school"]).bse_fe, expected.bse_fe, ROUNDING)


def test_a_variable_of_the_formula_serves_by_its_name():
    school = pd.Series(BLOCK).map("s{:.0f}".format)
    data = DATA.assign(school=school, x=DATA["x"].where(np.arange(60) != 7))
    fixed = lmm.fit("y ~ x + school + (1 | g)", data)
    nested = lmm.fit("y ~ x + (1 | school) + (1 | g)", data)
    for fit in (fixed, nested):
        by_name, expected = fit.robust("CR2", "school"), fit.robust("CR2", data["school"])
        assert_close(by_name.bse_fe, expected.bse_fe, 0)
        assert "5 clusters (school)" in str(by_name.summary())
    assert_close(nested.robust("CR1", "school").bse_fe, nested.robust("CR1").bse_fe, ROUNDING)


def test_a_held_effect_is_an_offset():
    free, start = P(fe_params=[1, 1, 0], cov_re=[[1]]), P(fe_params=[0, 0, 0.5], cov_re=[[1]])
    held = lmm.fit("y ~ x + z + (1 | g)", DATA, free=free, start_params=start)
    rest = lmm.fit("y ~ x + (1 | g)", DATA.assign(k=0.5 * DATA["z"]), offset="k")
    for kind in KINDS:
        one, two = held.robust(kind), rest.robust(kind)
        assert_close(one.bse_fe[:2], two.bse_fe, TWO_FITS)
        assert_close(one.df[:2], two.df, TWO_FITS)
        assert one.bse_fe["z"] == 0 and np.isnan(one.pvalues["z"])
        joint = one.wald_test(np.eye(3)[:2]), two.wald_test(np.eye(2))
        assert_close(joint[0].pvalue, joint[1].pvalue, TWO_FITS)


# ------------------------------------------------------------ a result like any other


def test_tests_and_tables_take_the_robust_covariance():
    plain = model("coarser")
    result = plain.robust("CR2", BLOCK)
    assert result.df_method == "CR2" and plain.df_method == "satterthwaite"
    table, t = result.tidy().iloc[:3], result.t_test(np.eye(3))
    for column, values in {"std_error": t.sd, "df": t.df_denom, "p_value": t.pvalue}.items():
        assert_close(table[column], values, ROUNDING)
    assert_close(table[["conf_low", "conf_high"]], t.conf_int(), ROUNDING)
    assert_close(result.conf_int().iloc[:3], t.conf_int(), ROUNDING)
    assert_close(result.wald_test_terms()["p_value"], t.pvalue, 1e-7)
    assert_close(result.bse_re, plain.bse_re, ROUNDING)
    assert f"{result.df['x']:.2f}" in str(result.summary())


def test_the_method_stays_with_the_result():
    result = model("coarser").robust("CR2", BLOCK)
    z, again = result.with_df("normal"), pickle.loads(pickle.dumps(result))
    kept = (again, result.without_data(), z.with_df("CR2"), again.with_df("CR2"))
    own = (result.with_df("satterthwaite"), z.with_df("satterthwaite"))
    for other in (*kept, *own):
        assert_close(other.df, result.df, 0)
        assert other.wald_test(JOINT).pvalue == result.wald_test(JOINT).pvalue
    assert_close(result.tidy(df_method="normal")["std_error"][:3], result.bse_fe, ROUNDING)
    assert set(result.robust("CR0").df_methods) >= {"CR0", "CR2"}


def test_matrices_of_large_clusters_are_refused_before_they_are_made(monkeypatch):
    monkeypatch.setattr("lmm_jax.inference.residuals.clusters._MOST", 12 * 8)
    with pytest.raises(lmm.DataError, match=r"of a cluster, 12, by its 12 rows, .* finer clusters"):
        model("coarser, weights").robust("CR2", BLOCK)
    monkeypatch.setattr("lmm_jax.inference.residuals.clusters._MOST", 12 * 2 - 1)
    with pytest.raises(lmm.DataError, match=r"12, by its \d effects of g"):
        model("coarser").robust("CR2", BLOCK)


def test_a_result_without_data_is_small_or_refused(monkeypatch):
    result = model("coarser").robust("CR2", BLOCK)
    monkeypatch.setattr("lmm_jax.results.lmm._SMALL", 2 * 5 * 3 * 3)
    assert result.without_data().df.equals(result.df)
    monkeypatch.setattr("lmm_jax.results.lmm._SMALL", 2 * 5 * 3 * 3 - 1)
    with pytest.raises(lmm.DataError, match=r"keep 90 numbers, .* each of 5 clusters"):
        result.without_data()


def test_no_method_loses_the_robust_covariance_in_silence():
    """As asked for by whoever knows clubSandwich, whose test is called "Satterthwaite"."""
    plain, result = model("coarser"), model("coarser").robust("CR2", BLOCK)
    assert not np.allclose(plain.bse_fe, result.bse_fe)
    for method in ("satterthwaite", "normal", "residual"):
        errors = result.tidy("fixed", df_method=method)["std_error"]
        assert_close(errors, result.bse_fe, ROUNDING)
    for method in ("kr", "kenward-roger-linear"):
        with pytest.raises(lmm.DataError, match="is one of the model's covariance"):
            result.anova(df_method=method)


def test_what_no_cluster_leaves_open_has_no_test():
    """A cluster that alone determines its mean leaves a contrast without variance."""
    data = DATA.assign(own=(DATA["g"] == "g0").astype(float))
    result = lmm.fit("y ~ x + own + (1 | g)", data)
    balanced = lmm.fit("y ~ own + (1 | g)", data)
    for kind in KINDS:
        robust = balanced.robust(kind)
        mean = robust.t_test("Intercept + own = 0")
        assert mean.sd[0] < 1e-6 and np.isnan(mean.df_denom[0]) and np.isnan(mean.pvalue[0])
        assert np.isfinite(robust.pvalues).all()
        assert np.isfinite(result.robust(kind).pvalues).all()


def test_no_approximation_for_too_few_clusters():
    half = np.repeat([0.0, 1.0, 2.0], 20)
    data = samples.frame(2, groups=6, rows=10)
    result = lmm.fit("y ~ x + z + v + (1 | g)", data).robust("CR2", half)
    test = result.wald_test(np.eye(4)[1:3])
    eta = dense(result, "CR2", half).eta(np.eye(4)[1:3])
    assert (eta <= 1) == bool(np.isnan(test.pvalue))
    with pytest.raises(lmm.DataError, match="3 clusters are too few"):
        result.wald_test(np.eye(4))


# ------------------------------------------------------------ refusals

CROSSED_FIT = cache(lambda: lmm.fit("y ~ x + (1 | g) + (1 | s)", DATA))
# fmt: off
REFUSED = {
    "unknown kind": (lambda: model("coarser").robust("CR4"), "kind='CR4': choose from CR0"),
    "lower case": (lambda: model("coarser").robust("cr2"), "did you mean|choose from CR0"),
    "no string": (lambda: model("coarser").robust(["CR2"]), "kind="),
    "a column that no formula names": (lambda: model("coarser").robust("CR2", "school"), r"keeps what its formula names \(g, x, z\); pass the labels, data\['school'\]"),
    "too short": (lambda: model("coarser").robust("CR2", BLOCK[:5]), "has 5 entries but y has 60"),
    "other index": (lambda: model("coarser").robust("CR2", pd.Series(BLOCK, index=np.arange(60) + 1)), "another index"),
    "missing": (lambda: model("coarser").robust("CR2", np.where(np.arange(60) == 3, np.nan, BLOCK)), "missing in rows of the fit, such as 3"),
    "one cluster": (lambda: model("coarser").robust("CR2", np.zeros(60)), "at least 2"),
    "finer than the groups": (lambda: model("coarser").robust("CR2", np.arange(60)), r"share random effects \(g\)"),
    "across the groups": (lambda: model("coarser").robust("CR2", DATA["f"]), r"share random effects \(g\)"),
    "crossed": (lambda: CROSSED_FIT().robust(), "crossed: pass cluster="),
    "crossed, one factor": (lambda: CROSSED_FIT().robust("CR2", DATA["g"]), r"share random effects \((g, s|s, g)\)"),
    "penalized": (lambda: replace(model("coarser"), penalized=True).robust(), "without a penalty"),
    "no fixed effects": (lambda: lmm.fit("y ~ 0 + (1 | g)", DATA).robust(), "none is estimated"),
    "without data": (lambda: model("coarser").without_data().robust(), "without its data"),
    "test of a plain fit": (lambda: model("coarser").wald_test(JOINT, test="HTZ"), "robust covariances only"),
    "unknown test": (lambda: model("coarser").robust().wald_test(JOINT, test="HTA"), "test='HTA': choose from HTZ"),
    "test no string": (lambda: model("coarser").robust().wald_test(JOINT, test=3), "test=3"),
    "chi2 and F": (lambda: model("coarser").robust().wald_test(JOINT, test="chi2", use_f=True), "contradict"),
    "HTZ and chi2": (lambda: model("coarser").robust().wald_test(JOINT, test="HTZ", use_f=False), "contradict"),
    "HTZ of a variance": (lambda: model("coarser").robust().wald_test(np.eye(6)[[1, 3]], test="HTZ"), "variance parameters"),
    "df_method": (lambda: model("coarser").with_df("CR2"), r"res\.robust\('CR2'\)"),
    "df_method of fit": (lambda: lmm.fit("y ~ x + (1 | g)", DATA, df_method="CR2"), r"res\.robust\('CR2'\)"),
}
# fmt: on


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals(call, message):
    with pytest.raises(lmm.DataError, match=message):
        call()


def test_fixed_degrees_of_freedom_keep_the_robust_covariance():
    robust = model("coarser").robust("CR2", BLOCK)
    z = robust.with_df("normal")
    assert_close(z.with_df("residual").bse_fe, robust.bse_fe, ROUNDING)
    assert "CR2" in str(z.summary()) and z.with_df("CR2").df.equals(robust.df)


def test_joint_tests_beyond_the_clusters_have_no_answer():
    table = lmm.joint_tests(oats().robust("CR2")).set_index("term")
    assert np.isnan(table.loc["Variety:Nf", ["f", "p_value"]].astype(float)).all()
    assert table.loc["Variety", "f"] > 0


def test_nested_factors_have_independent_groups_whatever_the_layout():
    """A hundred pupils in each of six schools stand beside a core, and are nested all the same."""
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"school": np.repeat(np.arange(6), 400), "pupil": np.arange(2400) // 4})
    data["x"] = rng.normal(size=2400)
    data["y"] = rng.normal(size=6)[data["school"]] + rng.normal(size=600)[data["pupil"]]
    data["y"] += data["x"] * rng.normal(size=6)[data["school"]] + rng.normal(size=2400)
    res = lmm.fit("y ~ x + (x | school/pupil)", data)
    assert res.layout_info.kind == "crossed"
    np.testing.assert_array_equal(res.robust("CR2").bse_fe, res.robust("CR2", "school").bse_fe)
    assert len(lmm.influence(res).cooks_distance) == 6


def test_a_cluster_may_be_named_by_the_subject_of_residuals():
    rng = np.random.default_rng(5)
    data = pd.DataFrame({"id": np.repeat(np.arange(20), 3), "k": np.tile(np.arange(3), 20)})
    data["x"], data["site"] = rng.normal(size=60), data["id"] % 10
    data["y"] = data["x"] + rng.normal(size=60) + np.repeat(rng.normal(size=20), 3)
    res = lmm.fit("y ~ x + cs(k | id)", data)
    named = res.robust("CR2", cluster="id")
    assert_close(named.bse_fe, res.robust("CR2", cluster=data["id"]).bse_fe, ROUNDING)
    with pytest.raises(lmm.DataError, match=r"\(id, x"):
        res.robust("CR2", cluster="site")
