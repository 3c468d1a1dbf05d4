"""What a fit hands back: frozen, labelled, consistent with itself, and cheap to get twice."""

import contextlib
import pickle
import re
import threading
import warnings
from collections import Counter
from dataclasses import FrozenInstanceError, fields
from functools import cache
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
import samples
from helpers import Term, assert_close, dense_blups
from scipy import stats

import lmm_jax as lmm

EXACT_RTOL = 1e-12  # the same numbers by another route
TOL = 1e-7  # closed forms at an optimum that was iterated to
SAME_RTOL = 1e-13  # the same program on the same numbers

DATA = samples.frame()
N = len(DATA)
SLOPE = "y ~ x + (x | g)"
INTERCEPT = "y ~ x + (1 | g)"


@cache
def fit(formula: str = SLOPE, **options: Any) -> lmm.LMMResults:
    return lmm.fit(formula, DATA, **options)


@cache
def components() -> lmm.LMMResults:
    return lmm.fit("y ~ x", DATA, groups="g", re_formula="1", vc_formula={"s": "0 + C(s)"})


# ------------------------------------------------------------ a value, not an object that changes


@pytest.mark.parametrize("name", [field.name for field in fields(lmm.LMMResults)])
def test_frozen(name):
    with pytest.raises(FrozenInstanceError):
        setattr(fit(), name, None)


def test_theta_is_read_only():
    with pytest.raises(ValueError, match="read-only"):
        fit().theta[0] = 0


@pytest.mark.parametrize(
    "name",
    [
        *("fe_params", "params", "cov_re", "bse"),
        *("df", "resid", "fittedvalues", "random_effects"),
    ],
)
def test_what_is_handed_out_can_be_overwritten_without_harm(name):
    """Or refuses to be: a second look gives the same numbers."""
    result = lmm.fit(SLOPE, DATA)
    before = pickle.dumps(getattr(result, name))
    handed = getattr(result, name)
    handed = handed["g"] if isinstance(handed, dict) else handed
    with contextlib.suppress(ValueError):
        handed.iloc[...] = -1.0
    assert pickle.dumps(getattr(result, name)) == before


def test_results_do_not_share_a_design_that_changes():
    design = lmm.design(SLOPE, DATA)
    reml = lmm.fit(design, runtime="numpy")
    first = reml.summary().as_text(), reml.resid.copy()
    ml = lmm.fit(design, reml=False)
    again = lmm.fit(design, runtime="numpy")
    assert ml.llf != reml.llf
    assert reml.summary().as_text() == first[0] == again.summary().as_text()
    pd.testing.assert_series_equal(reml.resid, first[1])
    np.testing.assert_array_equal(again.theta, reml.theta)


def test_the_data_may_change_after_the_fit():
    data = DATA.copy()
    result = lmm.fit(SLOPE, data)
    data.loc[:, "y"] = 0.0
    data.loc[:, "x"] = 0.0
    assert_close(result.resid, fit().resid, SAME_RTOL, 1)


TABLES = {
    "params": lambda r: r.params,
    "bse": lambda r: r.bse,
    "theta": lambda r: r.theta,
    "df": lambda r: r.df,
    "cov_params": lambda r: r.cov_params(),
    "conf_int": lambda r: r.conf_int(),
    "varcorr": lambda r: r.varcorr,
    "tidy": lambda r: r.tidy(),
    "glance": lambda r: r.glance(),
    "summary": lambda r: str(r.summary()),
}


@pytest.mark.parametrize("table", TABLES)
def test_pickle_round_trip(table):
    for result in (fit(), components()):
        copy = pickle.loads(pickle.dumps(result))
        assert copy.design is None
        assert pickle.dumps(TABLES[table](copy)) == pickle.dumps(TABLES[table](result))


def test_a_pickled_result_is_small():
    assert len(pickle.dumps(fit())) < 10_000


# ------------------------------------------------------------ parameters and their uncertainty

NAMES = {
    SLOPE: ["Intercept", "x", "var(Intercept|g)", "cov(Intercept,x|g)", "var(x|g)"],
    INTERCEPT: ["Intercept", "x", "var(Intercept|g)"],
}


@pytest.mark.parametrize("formula", NAMES)
def test_names_and_order_of_the_parameters(formula):
    result = fit(formula)
    names = NAMES[formula]
    assert list(result.params.index) == list(result.bse.index) == names
    assert list(result.conf_int().index) == list(result.cov_params().index) == names
    assert list(result.fe_params.index) == list(result.tvalues.index) == names[:2]
    assert list(result.pvalues.index) == list(result.df.index) == names[:2]
    assert list(result.cov_params().columns) == names
    lower = np.tril_indices(len(result.cov_re))
    assert_close(result.params.iloc[2:], result.cov_re.to_numpy()[lower], EXACT_RTOL)


def test_names_of_components():
    result = components()
    assert list(result.params.index) == ["Intercept", "x", "var(Intercept|g)", "var(s)"]
    assert list(result.vcomp.index) == ["s"]
    assert list(result.cov_re.index) == ["Intercept"]
    assert result.n_groups.to_dict() == {"g": 10, "s": 30}
    assert_close(result.params["var(s)"], result.vcomp["s"], EXACT_RTOL)


def test_theta_sigma_and_covariances_agree():
    result = fit()
    L = np.zeros((2, 2))
    L[[0, 1, 1], [0, 0, 1]] = result.theta
    assert_close(result.cov_re, result.scale * L @ L.T, EXACT_RTOL, result.scale)
    assert_close(result.cov_re_unscaled, L @ L.T, EXACT_RTOL, 1)
    assert_close(result.sigma**2, result.scale, EXACT_RTOL)
    table = result.varcorr
    assert list(table.columns) == ["grp", "var1", "var2", "vcov", "sdcor"]
    assert list(table["grp"]) == ["g", "g", "g", "Residual"]
    (a, c), (_, b) = result.cov_re.to_numpy()
    assert_close(table["vcov"], [a, b, c, result.scale], EXACT_RTOL)
    assert_close(table["sdcor"], [a**0.5, b**0.5, c / (a * b) ** 0.5, result.sigma], EXACT_RTOL)


@pytest.mark.parametrize("reml", [True, False])
def test_covariance_of_the_parameters(reml):
    for result in (fit(reml=reml), components()):
        cov = result.cov_params().to_numpy()
        assert_close(cov, cov.T, EXACT_RTOL, np.abs(cov).max())
        assert np.linalg.eigvalsh(cov).min() > 0
        assert_close(result.bse, np.sqrt(np.diag(cov)), EXACT_RTOL)
        assert_close(result.tvalues, result.fe_params / result.bse_fe, EXACT_RTOL)


@pytest.mark.parametrize("alpha", [0.05, 0.32])
def test_wald_intervals_and_p_values(alpha):
    result = fit()
    interval = result.conf_int(alpha)
    variances = [2, 4]  # on the logarithm
    center, errors = result.params.copy(), result.bse.copy()
    errors.iloc[variances] /= center.iloc[variances]
    center.iloc[variances] = np.log(center.iloc[variances])
    interval.iloc[variances] = np.log(interval.iloc[variances])
    assert_close(interval.mean(axis=1), center, EXACT_RTOL, errors)
    half = (interval["upper"] - interval["lower"]) / 2 / errors
    df = [*result.df, np.inf, np.inf, np.inf]
    assert_close(half, stats.t.ppf(1 - alpha / 2, df), EXACT_RTOL)
    p = 2 * stats.t.sf(np.abs(result.tvalues), result.df)
    assert_close(result.pvalues, p, EXACT_RTOL)
    # a p value below alpha and an interval without zero are the same statement
    excluded = (interval["lower"] * interval["upper"] > 0).iloc[:2]
    assert list(excluded) == list(result.pvalues < alpha)


def test_normal_df_gives_z_tests():
    result, t_test = fit(df_method="normal"), fit()
    z = result.tvalues
    assert np.isinf(result.df).all()
    assert_close(z, t_test.tvalues, SAME_RTOL)
    assert_close(result.pvalues, 2 * stats.norm.sf(np.abs(z)), EXACT_RTOL)
    half = stats.norm.ppf(0.975) * result.bse_fe
    assert_close(result.conf_int()["upper"].iloc[:2], result.fe_params + half, EXACT_RTOL)
    table = result.summary().tables[2]
    assert "P>|z|" in str(table) and "df" not in table.columns
    assert np.all(t_test.pvalues > result.pvalues)


def test_fit_statistics():
    for result, k in ((fit(), 6), (fit(INTERCEPT), 4), (components(), 5)):
        assert result.n_params == k
        assert_close(result.aic, -2 * result.llf + 2 * k, EXACT_RTOL)
        assert_close(result.bic, -2 * result.llf + np.log(N) * k, EXACT_RTOL)
        assert result.df_resid == N - 2 and result.nobs == N


# ------------------------------------------------------------ random effects and fitted values


def test_random_effects_of_a_balanced_layout_shrink_the_means():
    """b_i = n psi / (1 + n psi) (mean_i - mean), cond. var = sigma^2 psi / (1 + n psi)."""
    result = fit("y ~ 1 + (1 | g)")
    psi, n = result.theta[0] ** 2, 6
    shrink = n * psi / (1 + n * psi)
    means = DATA.groupby("g")["y"].mean() - DATA["y"].mean()
    b = result.random_effects["g"]["Intercept"]
    assert_close(b, shrink * means.loc[b.index], TOL, 1)
    variance = result.scale * psi / (1 + n * psi)
    assert [cov.shape for cov in result.random_effects_cov["g"].values()] == [(1, 1)] * 10
    for cov in result.random_effects_cov["g"].values():
        assert_close(cov, [[variance]], TOL)


def test_random_effects_equal_the_dense_ones():
    result = fit()
    X = np.column_stack([np.ones(N), DATA["x"]])
    terms = [Term(X, DATA["g"].to_numpy())]
    (dense,) = dense_blups(X, DATA["y"].to_numpy(), terms, result.theta, reml=True)
    b = result.random_effects["g"]
    assert list(b.index) == list(dense.levels) and list(b.columns) == ["Intercept", "x"]
    assert_close(b, dense.values, TOL, 1)
    assert_close([result.random_effects_cov["g"][k] for k in b.index], dense.cond_cov, TOL, 1)


@pytest.mark.parametrize(
    "index",
    [
        pd.RangeIndex(N),
        pd.Index([f"row {i}" for i in range(N)][::-1]),
        pd.Index(np.zeros(N)),
        pd.MultiIndex.from_product([range(10), range(6)], names=["a", "b"]),
        pd.date_range("2026-01-01", periods=N, name="day"),
    ],
    ids=["range", "strings", "all equal", "multi", "dates"],
)
def test_rows_keep_their_labels(index):
    """Also where some of them are dropped."""
    data = DATA.set_axis(index)
    data.iloc[[3, 17], data.columns.get_loc("x")] = np.nan
    keep = np.delete(np.arange(N), [3, 17])
    result = lmm.fit(SLOPE, data)
    for rows in (result.resid, result.fittedvalues, result.predict(), result.augment()):
        pd.testing.assert_index_equal(rows.index, index[keep])
    y = data["y"].iloc[keep]
    assert_close(result.fittedvalues.to_numpy() + result.resid.to_numpy(), y, EXACT_RTOL, 1)
    assert result.nobs == N - 2


def test_fitted_values_are_predictions_for_the_same_rows():
    result = fit()
    assert_close(result.predict(DATA, conditional=True), result.fittedvalues, EXACT_RTOL, 1)
    assert_close(result.predict(conditional=True), result.fittedvalues, SAME_RTOL)
    fixed = result.fe_params["Intercept"] + result.fe_params["x"] * DATA["x"]
    assert_close(result.predict(), fixed, EXACT_RTOL, 1)
    assert_close(result.predict(DATA), fixed, EXACT_RTOL, 1)
    few = DATA.loc[[40, 2]]
    predicted = result.predict(few, conditional=True)
    pd.testing.assert_index_equal(predicted.index, few.index)
    assert_close(predicted, result.fittedvalues.loc[[40, 2]], EXACT_RTOL, 1)


EMPTY = {
    "bars": dict(formula="y ~ 0 + (x | g)"),
    "minus one": dict(formula="y ~ -1 + (1 | g) + (1 | f)"),
    "an offset alone": dict(formula="y ~ 0 + offset(o) + (1 | g)"),
    "groups": dict(formula="y ~ 0", groups="g", vc_formula={"s": "0 + C(s)"}),
    "ML, weights": dict(formula="y ~ 0 + (1 | g)", reml=False, weights="w", df_method="normal"),
}


@pytest.mark.parametrize("name", EMPTY)
def test_models_without_fixed_effects(name):
    result = lmm.fit(data=DATA, **EMPTY[name])
    offset = DATA["o"] if name == "an offset alone" else 0 * DATA["o"]
    for rows in (None, DATA):
        assert_close(result.predict(rows), offset, 0)
        assert_close(result.predict(rows, conditional=True), result.fittedvalues, EXACT_RTOL, 1)
    few = DATA.loc[[40, 2]].drop(columns="y")
    assert_close(result.predict(few, conditional=True), result.fittedvalues[[40, 2]], 1e-12, 1)
    assert_close(result.fittedvalues + result.resid, DATA["y"], EXACT_RTOL, 1)
    assert len(result.fe_params) == len(result.bse_fe) == len(result.tvalues) == 0
    assert set(result.tidy()["effect"]) == {"ran_pars"} and len(result.augment()) == N
    assert result.conf_int().shape == (len(result.params), 2)
    assert len(result.wald_test_terms()) == 0 and len(result.glance()) == 1
    summary = result.summary()
    assert "Fixed effects" not in str(summary) and "tabular" in summary.as_latex()
    assert lmm.simulate(result, seed=1, n=2).shape == (N, 2)
    with pytest.raises(lmm.DataError, match="there is no 'x'"):
        result.t_test("x = 0")
    with pytest.raises(lmm.DataError, match="shape"):
        result.t_test([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]])
    first = result.params.index[0]
    assert np.isfinite(result.t_test(f"{first} = 1").statistic).all()
    again = pickle.loads(pickle.dumps(result))
    assert again.predict(few, conditional=True).equals(result.predict(few, conditional=True))


def test_what_is_made_of_models_without_fixed_effects():
    result = lmm.fit("y ~ 0 + (1 | g)", DATA)
    assert list(lmm.bootstrap(result, 5, seed=1).tidy()["term"]) == ["sd(Intercept|g)", "sigma"]
    for by in ("group", "row"):
        assert lmm.influence(result, by=by).dfbetas.shape[1] == 0
    assert result.profile_re(0, "re", 1, 0.01, 1, 0.01)[1, 1] == pytest.approx(result.llf)
    with pytest.raises(lmm.DataError, match="the model has none"):
        lmm.power(result.design, result, 10, test="x", seed=1)
    many = lmm.fit_many("~ 0 + (1 | g)", DATA, ["y", "z"])
    assert len(many.tidy()) == 0
    with pytest.raises(lmm.DataError, match="the model has none"):
        many.fdr("x")
    batches = lmm.fit(lmm.design_from_batches("y ~ 0 + (1 | g)", [DATA[:30], DATA[30:]]))
    assert_close(batches.predict(DATA, conditional=True), result.fittedvalues, 1e-6, 1)
    penalized = lmm.fit_regularized("y ~ 0 + (1 | g)", DATA, alpha=1.0)
    assert_close(penalized.predict(DATA, conditional=True), result.fittedvalues, 1e-6, 1)


@pytest.mark.parametrize(
    ("label", "text"),
    [(33, "33"), (np.int64(33), "33"), (2.5, "2.5"), (np.float32(2.5), "2.5"), ("a", "'a'")],
)
def test_a_new_level_is_shown_as_it_is_written(label, text):
    data = DATA.assign(g=DATA["g"].str[1:].astype(type(label) if label != "a" else str))
    result = lmm.fit(INTERCEPT, data)
    with pytest.raises(lmm.DataError, match=f"'g' has the new level {re.escape(text)}: pass"):
        result.predict({"x": [0.0], "g": [label]}, conditional=True)


def test_a_mapping_of_single_values_is_one_row():
    result = fit()
    one = result.predict({"x": 0.5, "g": "g3"}, conditional=True)
    rows = result.predict({"x": [0.5], "g": ["g3"]}, conditional=True)
    pd.testing.assert_series_equal(one, rows)
    with pytest.raises(lmm.DataError, match="different lengths"):
        result.predict({"x": [1.0, 2.0], "g": ["g1"]}, conditional=True)


# ------------------------------------------------------------ tables


def test_tidy():
    result = fit()
    table = result.tidy(conf_level=0.9)
    assert list(table.columns) == [
        *("effect", "group", "term", "estimate", "std_error"),
        *("statistic", "df", "p_value", "conf_low", "conf_high"),
    ]
    assert list(table["effect"]) == ["fixed"] * 2 + ["ran_pars"] * 4
    assert list(table["group"])[2:] == ["g", "g", "g", "Residual"]
    terms = ["Intercept", "x", "sd__Intercept", "cor__Intercept.x", "sd__x", "sd__Observation"]
    assert list(table["term"]) == terms
    fixed, random = table.iloc[:2], table.iloc[2:]
    interval = result.conf_int(0.1).iloc[:2]
    expected = {
        "estimate": result.fe_params,
        "std_error": result.bse_fe,
        "statistic": result.tvalues,
        "df": result.df,
        "p_value": result.pvalues,
        "conf_low": interval["lower"],
        "conf_high": interval["upper"],
    }
    for column, values in expected.items():
        assert_close(fixed[column].astype(float), values, EXACT_RTOL)
    sdcor = result.varcorr["sdcor"].to_numpy()
    assert_close(random["estimate"], sdcor[[0, 2, 1, 3]], EXACT_RTOL)
    # delta method: the standard error of a standard deviation is that of the variance / (2 sd)
    half = result.bse_re.iloc[[0, 2]].to_numpy() / (2 * sdcor[:2])
    assert_close(random["std_error"].iloc[[0, 2]], half, EXACT_RTOL)


@pytest.mark.parametrize("reml", [True, False])
def test_glance(reml):
    result = fit(reml=reml)
    row = result.glance().iloc[0]
    criterion = row["reml_crit" if reml else "deviance"]
    assert_close(criterion, -2 * result.llf, EXACT_RTOL)
    names = {"nobs": "nobs", "sigma": "sigma", "loglik": "llf", "aic": "aic", "bic": "bic"}
    for column, attribute in names.items():
        assert row[column] == getattr(result, attribute)
    assert row["converged"] and not row["singular"]


def test_augment():
    result = lmm.fit("y ~ x + offset(o) + (x | g)", DATA)
    table = result.augment()
    assert list(table.columns) == ["y", "fitted", "resid", "fixed"]
    assert_close(table["y"], DATA["y"], SAME_RTOL)
    assert_close(table["fitted"] + table["resid"], DATA["y"], EXACT_RTOL, 1)
    assert_close(table["fixed"], result.predict(DATA), EXACT_RTOL, 1)


@pytest.mark.parametrize("kind", ["text", "html"])
def test_summary_shows_the_numbers(kind):
    for result in (fit(), components(), fit(df_method="normal")):
        summary = result.summary(title="A < title")
        text = str(summary) if kind == "text" else summary._repr_html_()
        shown = [
            *result.fe_params,
            *result.bse_fe,
            *np.diag(result.cov_re),
            result.scale,
            result.sigma,
        ]
        shown = [f"{value:.4f}" for value in shown]
        shown += [f"{result.llf:.4f}", f"{result.aic:.3f}", f"{result.bic:.3f}", str(N)]
        shown += [f"{value:.3f}" for value in result.tvalues]
        for number in [*shown, *result.fixed_names]:
            assert number in text
        assert ("A < title" if kind == "text" else "A &lt; title") in text
        assert repr(summary) == summary.as_text()


def test_html_is_balanced_and_escaped():
    result = lmm.fit("y ~ `<b>` + (`<b>` | g)", DATA.rename(columns={"x": "<b>"}))
    page = result.summary().as_html()
    assert "<b>" not in page and "&lt;b&gt;" in page
    for tag in ("table", "tr", "td", "th", "tbody", "thead"):
        assert len(re.findall(f"<{tag}[ >]", page)) == page.count(f"</{tag}>") > 0


def test_repr_names_the_model():
    assert SLOPE in repr(fit()) and f"{fit().llf:.4f}" in repr(fit())


CROSSED = "y ~ x + (1 | g) + (1 | f)"
MANY = dict(groups="g", re_formula="1 + x + z", vc_formula={"s": "0 + C(s)"})
SHOWN = {
    "design": lambda: fit().design,
    "design of arrays": lambda: lmm.design_from_arrays(DATA["y"], DATA[["x"]], DATA["g"]),
    "design of batches": lambda: lmm.design_from_batches(SLOPE, [DATA]),
    "layout": lambda: fit().design.layout,
    "bucket": lambda: fit().design.layout.buckets[0],
    "crossed layout": lambda: fit(CROSSED).design.layout,
    "core": lambda: fit(CROSSED).design.layout.core,
    "links": lambda: fit(CROSSED).design.layout.links[0],
    "plan": lambda: fit().design.plan,
    "crossed plan": lambda: fit(CROSSED).design.plan,
    "index": lambda: lmm.row_index(DATA["g"]),
    "crossed index": lambda: lmm.row_index([DATA["g"], DATA["f"]]),
    "layout info": lambda: fit(CROSSED).layout_info,
    "term": lambda: fit().design.terms[0],
    "source": lambda: fit().design.source,
    "result": fit,
    "result of a long formula": lambda: fit("y ~ " + " + ".join(["x"] * 300) + " + (1 | g)"),
    "result of components": lambda: lmm.fit("y ~ x", DATA, **MANY),
    "estimates": lambda: fit().estimates,
    "influence of groups": lambda: lmm.influence(fit()),
    "influence of rows": lambda: lmm.influence(fit(), by="row"),
    "test": lambda: fit().t_test("x = 1"),
    "many tests": lambda: fit().t_test(np.eye(2)[[0, 1] * 20]),
    "joint test": lambda: fit().wald_test("x"),
    "bootstrap": lambda: lmm.bootstrap(fit(), 5, seed=1),
    "statistics": lambda: lmm.bootstrap(fit(), 5, seed=1).statistics(),
    "many": lambda: lmm.fit_many(SLOPE, DATA, ["y", "z"]),
    "regularized": lambda: lmm.fit_regularized(SLOPE, DATA, alpha=1.0),
    "path": lambda: lmm.fit_regularized(SLOPE, DATA, alpha=[[1.0], [0.1]]),
    "params": lambda: lmm.Params.from_components(np.zeros(99), cov_re=np.eye(99)),
    "penalty": lambda: lmm.penalties.L2(weights=np.ones(500)),
    "random effects": lambda: fit().random_effects_cov,
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_repr_is_short(name):
    text = repr(SHOWN[name]())
    assert 10 < len(text) < 1000
    assert text.count("\n") < 10 and max(map(len, text.splitlines())) < 140


def test_a_repr_says_what_matters():
    assert SLOPE in repr(fit().design) and "60 rows" in repr(fit().design)
    assert "(x | g) 10 levels" in repr(fit().design)
    assert "T=float64[2, 2, 64]" in repr(fit().design.layout.buckets[0])
    params = lmm.Params.from_components([1, 2.5], cov_re=[[2]])
    assert repr(params) == "Params(fe_params=[1.0, 2.5], cov_re=[[2.0]], vcomp=float64[0])"
    largest = lmm.influence(fit()).cooks_distance
    assert f"{largest.max():.4g} ({largest.idxmax()!r})" in repr(lmm.influence(fit()))


def test_a_repr_of_what_is_traced():
    shown = []
    params = lmm.Params.from_components(np.ones(2, np.float32), vcomp=np.ones(1, np.float32))
    jax.jit(lambda p: shown.append(repr(p)) or p.fe_params)(params)
    assert shown == ["Params(fe_params=float32[2], cov_re=float32[0, 0], vcomp=float32[1])"]


# ------------------------------------------------------------ other frames


def test_polars_equals_pandas():
    frame = samples.to_polars(DATA)
    result = lmm.fit(SLOPE, frame, weights="w")
    expected = fit(weights="w")
    np.testing.assert_array_equal(result.params, expected.params)
    np.testing.assert_array_equal(result.resid, expected.resid)
    assert_close(
        result.predict(frame.head(7), conditional=True), expected.fittedvalues[:7], EXACT_RTOL, 1
    )
    assert str(result.summary()) == str(expected.summary())


# ------------------------------------------------------------ stopped early


def test_a_fit_that_is_stopped_early_says_so():
    with pytest.warns(lmm.ConvergenceWarning, match=r"\(x \| g\).*larger maxiter"):
        result = lmm.fit(SLOPE, DATA, maxiter=1)
    assert not result.converged and "limit" in result.message
    assert "Not converged" in str(result.summary())
    assert result.llf < fit().llf


# ------------------------------------------------------------ compilation and threads


def everything(data: pd.DataFrame) -> lmm.LMMResults:
    result = lmm.fit(SLOPE, data, runtime="jax")  # auto may change between two fits of a shape
    str(result.summary()), result.augment(), result.random_effects_cov
    return result


def test_a_second_fit_of_the_same_shape_compiles_nothing(compiled):
    everything(samples.frame(1))
    before = len(compiled())
    everything(samples.frame(3))
    assert compiled()[before:] == []


def test_data_sets_of_similar_size_share_programs(compiled):
    jax.clear_caches()  # whatever other tests have left
    rng = np.random.default_rng(4)
    for seed in range(20):
        data = samples.frame(seed, groups=int(rng.integers(20, 25)))  # 120 to 144 rows
        lmm.fit(INTERCEPT, data, runtime="jax")
    counts = Counter(compiled())
    assert 0 < counts.most_common(1)[0][1] <= 3, counts.most_common(3)


def test_two_threads_fit_at_once():
    seeds = range(6)
    expected = [everything(samples.frame(seed)) for seed in seeds]
    results: dict[int, lmm.LMMResults] = {}
    failures: list[BaseException] = []

    def work(mine):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                results.update({seed: everything(samples.frame(seed)) for seed in mine})
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seeds[i::2],)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=100)
    assert failures == []
    for seed in seeds:
        np.testing.assert_array_equal(results[seed].params, expected[seed].params)
        np.testing.assert_array_equal(results[seed].resid, expected[seed].resid)


def test_the_callers_precision_is_left_alone():
    before = jax.config.jax_enable_x64
    everything(DATA)
    assert jax.config.jax_enable_x64 == before
    assert jax.numpy.ones(2).dtype == ("float64" if before else "float32")
