"""R2, ICC, variance components, inflation, information: R's numbers, dense twins, invariances."""

import warnings

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import reference
import samples
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax.inference.diagnostics import row_algebra
from lmm_jax.inference.diagnostics.explained import moments_of

RTOL = 1e-9  # two float64 routes to one number
# Shares of variances at a theta that two optimizers know to 1e-8 of itself.
SHARE_TOL = 1e-8
# Cases of the reference whose theta is known less well: tol.params of the case times this.
CASE_FACTOR = 10.0
# Derivatives of whole fits by central differences: the optimum 1e-7 over the step, curvature 1e-5.
STEP, STEP_RTOL = 3e-3, 1e-4

DATA = samples.frame()
INFERENCE = reference.names(lambda case: case["kind"] == "lmm", reference.INFERENCE)
COLLINEAR = [n for n in INFERENCE if "check_collinearity" in reference.load(n)["performance"]]
FITS = reference.names(lambda case: case["n"] < 1000 and case.get("r2_nakagawa") is not None)
QUICK = ("sim_weights_reml", "sim_offset_ml", "sim_crossslope_reml", "sim_k3_blocks_ml",
         "sim_three_ml", "sim_year_quad_ml", "machines_cat_reml", "dyestuff2_ml",
         "sleepstudy_noint_ml")  # fmt: skip


def fitted(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.RankWarning)
        return reference.inference_fit(name)


@pytest.mark.parametrize("name", INFERENCE)
def test_shares_and_criteria_of_performance(name):
    expected, res = reference.load(name)["performance"], fitted(name)
    r2, icc = lmm.r2(res), lmm.icc(res)
    assert_close(r2.marginal, expected["r2_nakagawa"]["marginal"], SHARE_TOL)
    assert_close(r2.conditional, expected["r2_nakagawa"]["conditional"], SHARE_TOL)
    assert_close(icc.adjusted, expected["icc"]["adjusted"], SHARE_TOL)
    assert_close(icc.unadjusted, expected["icc"]["unadjusted"], SHARE_TOL)
    by_group = dict(zip(*(expected["icc_by_group"][key] for key in ("Group", "ICC")), strict=True))
    got = icc.by_group.set_axis([group_key(g) for g in icc.by_group.index])
    for group, value in by_group.items():
        assert_close(got.loc[group_key(group), "intercept"], value, SHARE_TOL)
    if all(len(label.names) == 1 for label in res.term_labels):
        assert_close(icc.by_group["intercept"], icc.by_group["estimate"], RTOL)
    table = lmm.variance_components(res).set_index("effect")["variance"]
    parts = expected["variance_components"]
    assert_close(table["fixed"], parts["var.fixed"], SHARE_TOL)
    assert_close(np.sum(table["random"]), parts["var.random"], SHARE_TOL)
    assert_close(table["residual"], parts["var.residual"], SHARE_TOL)
    assert_close(res.aicc, expected["aicc_reml"], RTOL)
    assert_close(res.aic, expected["aic_reml"], RTOL)
    assert_close(np.sqrt(np.mean(res.resid**2)), expected["rmse"], 1e-7)


def group_key(name):
    """Factors of an interaction in any order: R writes those of ``a/b`` as ``b:a``."""
    return ":".join(sorted(str(name).split(":")))


@pytest.mark.parametrize("name", COLLINEAR)
def test_inflation_of_performance(name):
    expected, table = (
        reference.load(name)["performance"]["check_collinearity"],
        lmm.vif(fitted(name)),
    )
    assert [t.replace(" ** ", "^") for t in table.index] == expected["Term"]
    columns = {
        "VIF": "vif", "VIF_CI_low": "conf_low", "VIF_CI_high": "conf_high",
        "SE_factor": "se_factor", "Tolerance": "tolerance", "Tolerance_CI_low": "tolerance_low",
        "Tolerance_CI_high": "tolerance_high",
    }  # fmt: skip
    for theirs, ours in columns.items():
        assert_close(table[ours], np.array(expected[theirs], float), SHARE_TOL)
    assert_close(table["scaled"] ** (2 * table["df"]), table["vif"], RTOL)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in FITS]
)
def test_shares_of_the_golden_fits(name):
    case = reference.load(name)
    model, expected = case["model"], case["r2_nakagawa"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a dropped column, an exact fit
        res = lmm.fit(reference.formula(case), reference.frame(case), reml=model["REML"],
                      weights=model["weights"])  # fmt: skip
    tol = max(CASE_FACTOR * case["tol"]["params"], SHARE_TOL)
    r2, icc, parts = lmm.r2(res), lmm.icc(res), lmm.variance_components(res)
    assert_close(r2.marginal, expected["marginal"], tol)
    assert_close(r2.conditional, expected["conditional"], tol)
    assert_close(icc.adjusted, expected["icc_adjusted"], tol, 1e-6)
    assert_close(icc.unadjusted, expected["icc_unadjusted"], tol, 1e-6)
    total = parts["variance"].sum()
    assert_close(parts["variance"].iloc[0], expected["var_fixed"], tol, total)
    random = np.atleast_1d(expected["var_random_per_term"])
    assert_close(sorted(parts["variance"].iloc[1:-1]), sorted(random), tol, total)


# ------------------------------------------------------------ intervals


MODELS = {
    "slopes, weights": ("y ~ x * z + f + (x | g)", {"weights": "w"}),
    "crossed, ML": ("y ~ x + (1 | g) + (1 | s)", {"reml": False}),
    "no intercept": ("y ~ 0 + x + z + (0 + x | g)", {}),
}


@pytest.mark.parametrize("name", MODELS)
def test_standard_errors_are_those_of_the_delta_method(name):
    """The measures written as functions of the parameters, differentiated by JAX."""
    formula, options = MODELS[name]
    res = lmm.fit(formula, DATA, **options)
    X, terms = res.design.exog, res.design.terms
    others = np.column_stack([np.delete(X, 1, axis=1), np.ones(len(X))])  # variances are centred
    beyond = others @ np.linalg.pinv(others)  # on which X beta is projected without the term

    def parts(params, beta=None):
        fixed = jnp.var(X @ (params.fe_params if beta is None else beta), ddof=1)
        random = [
            jnp.mean(jnp.einsum("nsa,ab,nsb->n", t.values, S, t.values))
            for t, S in zip(terms, params.covariances, strict=True)
        ]
        return fixed, sum(random), params.scale

    def measures(params):
        f, r, s = parts(params)
        rest = jnp.var(beyond @ (X @ params.fe_params), ddof=1)
        return {"marginal": f / (f + r + s), "conditional": (f + r) / (f + r + s),
                "adjusted": r / (r + s), "unadjusted": r / (f + r + s),
                "term": (f - rest) / (f + r + s)}  # fmt: skip

    expected = lmm.delta_method(res, measures).to_frame()
    r2, icc = lmm.r2(res), lmm.icc(res)
    second = res.fixed_names[1]
    table = pd.concat([r2.table, icc.table, r2.per_term.loc[[second]].set_axis(["term"])])
    for column in ("estimate", "std_error"):
        assert_close(table[column], expected.loc[table.index, column], 1e-8)
    at, error = table["estimate"], table["std_error"]
    for side, column in ((-1.0, "conf_low"), (1.0, "conf_high")):
        angle = side * 1.959963984540054 * error / (2 * np.sqrt(at * (1 - at)))
        angle = np.clip(np.arcsin(np.sqrt(at)) + angle, 0, np.pi / 2)
        assert_close(table[column], np.sin(angle) ** 2, 1e-9)


@pytest.mark.slow
def test_the_conditional_r2_covers_what_is_true():
    """Of 60 draws intervals of 90 percent hold the truth in 47 or more: three standard errors."""
    data = samples.frame(1, groups=24)
    design = lmm.design("y ~ x + (1 | g)", data)
    truth = lmm.Params.from_components(fe_params=[0.0, 1.0], cov_re=[[1.0]])
    f, draws = np.var(data["x"], ddof=1), lmm.simulate(truth, design, seed=5, scale=1.0, n=60)
    hits = []
    for column in draws.to_numpy().T:
        found = lmm.r2(lmm.fit("y ~ x + (1 | g)", data.assign(y=column)), 0.9).table
        hits.append((found["conf_low"] < [f / (f + 2), (f + 1) / (f + 2)])
                    & (found["conf_high"] > [f / (f + 2), (f + 1) / (f + 2)]))  # fmt: skip
    assert (np.mean(hits, axis=0) > 0.78).all()


def test_limits_near_zero_are_of_use():
    """Of no effect at all, and of a variance that is not there: they begin at zero, and end soon.

    Of 40 fits the level lets two fail, and seven are four standard errors more. On the scale of
    the logit no limit was at zero, and the median length 0.9.
    """
    rng = np.random.default_rng(5)
    data = pd.DataFrame({"g": np.repeat(np.arange(30), 5), "x": rng.normal(size=150)})
    data["z"] = rng.normal(size=30).repeat(5)
    found = {"r2": [], "icc": []}
    for _ in range(40):
        noise = rng.normal(size=150)
        y = data["x"] + rng.normal(size=30)[data["g"]] + noise
        effect = lmm.r2(lmm.fit("y ~ x + z + (1 | g)", data.assign(y=y))).per_term.loc["z"]
        found["r2"].append(effect[["conf_low", "conf_high"]])
        none = lmm.fit("y ~ x + (1 | g)", data.assign(y=noise))
        if not none.singular:
            found["icc"].append(lmm.icc(none).table.loc["adjusted", ["conf_low", "conf_high"]])
    for name, most in (("r2", 0.2), ("icc", 0.35)):
        limits = np.array(found[name], dtype=float)
        assert (limits[:, 1] < most).mean() > 0.8, name
    assert (np.array(found["r2"], dtype=float)[:, 0] == 0).sum() >= 33


@pytest.mark.parametrize("of_squares", [True, False])
def test_limits_of_shares_by_hand(of_squares):
    from lmm_jax.inference.diagnostics.explained import _limits

    z = 1.959963984540054
    for value, error in ((0.3, 0.05), (0.02, 0.05), (0.98, 0.05)):
        found = _limits(value, 1 - value, error, 0.95, of_squares=of_squares)
        if not of_squares and error > min(value, 1 - value):
            expected = [max(value - z * error, 0), min(value + z * error, 1)]
        else:
            angle = np.arcsin(np.sqrt(value)) + np.array([-z, z]) * error / (
                2 * np.sqrt(value * (1 - value))
            )
            expected = np.sin(np.clip(angle, 0, np.pi / 2)) ** 2
        assert_close(found, expected, 1e-9)
    # an estimate that is smaller has limits that are no wider
    ends = [_limits(v, 1 - v, 0.05 * (v**0.5 if of_squares else 1), 0.95, of_squares=of_squares)[1]
            for v in (0.04, 0.01, 1e-3, 1e-6)]  # fmt: skip
    assert (np.diff(ends) < 0).all()


def test_edges_of_intervals():
    """No fixed effects: zero without an error. A variance at zero: no error is known."""
    empty = lmm.r2(lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff")))
    assert empty.table.loc["marginal"].tolist() == [0, 0, 0, 0] and len(empty.per_term) == 0
    assert 0 < empty.table.loc["conditional", "conf_low"] < empty.conditional
    flat = DATA.assign(y=np.random.default_rng(4).normal(size=60))
    singular = lmm.fit("y ~ x + (1 | g)", flat)
    assert singular.singular
    for table in (lmm.r2(singular).table, lmm.icc(singular).table):
        assert table["estimate"].notna().all() and table["std_error"].isna().all()
    parts = lmm.variance_components(singular)
    assert parts["share"].notna().all() and np.isnan(parts.loc[1, "std_error"])
    wide, narrow = (lmm.r2(lmm.fit("y ~ x + (1 | g)", DATA), level).table for level in (0.99, 0.5))
    assert (wide["conf_low"] < narrow["conf_low"]).all()


# ------------------------------------------------------------ invariances and closed forms


@pytest.mark.parametrize("unit", [1e-3, 1e80])
def test_shares_know_no_units(unit):
    formula = "y ~ x + f + (x | g)"
    moved = DATA.assign(y=DATA["y"] * unit, x=DATA["x"] * 7 / unit ** (unit < 1))
    before, after = (lmm.fit(formula, data) for data in (DATA, moved))
    for measure in (lmm.r2, lmm.icc):
        assert_close(measure(after).table, measure(before).table, 1e-6)
    assert_close(lmm.r2(after).per_term, lmm.r2(before).per_term, 1e-6, 1e-3)
    assert_close(lmm.vif(after), lmm.vif(before), 1e-6)
    a, b = lmm.caic(after), lmm.caic(before)
    assert_close([a.trace, a.correction], [b.trace, b.correction], 1e-5)
    assert_close(a.caic, b.caic + 120 * np.log(unit), 1e-6)


def test_uncorrelated_terms_share_the_marginal_r2():
    data = DATA.assign(
        a=np.tile([-1.0, 1.0, -1.0, 1.0, 0, 0], 10), b=np.tile([1, 1, -1, -1, 0, 0], 10)
    )
    res = lmm.fit("y ~ a + b + (1 | g)", data)
    r2 = lmm.r2(res)
    assert_close(r2.per_term["estimate"].sum(), r2.marginal, RTOL)
    assert_close(lmm.vif(res)["vif"], [1.0, 1.0], RTOL)
    alone = np.var(data["a"] * res.fe_params["a"], ddof=1)
    total = lmm.variance_components(res)["variance"].sum()
    assert_close(r2.per_term.loc["a", "estimate"], alone / total, RTOL)


def test_inflation_of_one_column_is_that_of_its_regression_on_the_others():
    """Without random effects that matter: ``1 / (1 - R^2)`` of ordinary least squares."""
    flat = DATA.assign(y=np.random.default_rng(4).normal(size=60), z=DATA["z"] + DATA["x"])
    res = lmm.fit("y ~ x + z + v + (1 | g)", flat)
    assert res.singular
    R = np.linalg.inv(np.corrcoef(flat[["x", "z", "v"]].T))
    assert_close(lmm.vif(res)["vif"], np.diagonal(R), RTOL)


def test_arrays_have_a_term_a_column_and_a_constant_is_none():
    X = DATA[["x", "z"]].assign(one=1.0)
    res = lmm.fit(lmm.design_from_arrays(DATA["y"], X, DATA["g"]))
    same = lmm.fit("y ~ x + z + (1 | g)", DATA)
    assert list(lmm.vif(res).index) == list(lmm.r2(res).per_term.index) == ["x", "z"]
    assert_close(lmm.vif(res)["vif"], lmm.vif(same)["vif"], 1e-7)
    assert_close(lmm.r2(res).per_term, lmm.r2(same).per_term, 1e-6, 1e-3)


def test_the_root_of_the_covariance_of_the_columns():
    design = lmm.design("y ~ x + f + (x | g)", DATA)
    found = moments_of(design)
    assert_close(found.root.T @ found.root, np.cov(design.exog.T), RTOL, 1.0)
    Z = np.column_stack([np.ones(60), DATA["x"]])
    assert_close(found.products[0], Z.T @ Z / 60, RTOL)


def test_aicc():
    res = lmm.fit("y ~ x + (1 | g)", DATA)
    assert_close(res.aicc, res.aic + 2 * 4 * 5 / (60 - 4 - 1), RTOL)
    few = lmm.fit("y ~ 1 + (1 | g)", DATA[:4].assign(g=list("aabb")))
    assert few.aicc == np.inf


def test_glance_has_the_shares():
    res = lmm.fit("y ~ x + (1 | g)", DATA)
    row = res.glance().iloc[0]
    r2 = lmm.r2(res)
    assert_close(row[["r2_marginal", "r2_conditional"]], [r2.marginal, r2.conditional], RTOL)
    assert_close(row["icc"], lmm.icc(res).adjusted, RTOL)
    unknown = res.without_data().glance()[["r2_marginal", "r2_conditional", "icc"]]
    assert unknown.isna().all(axis=None)


# ------------------------------------------------------------ conditional AIC


CONDITIONAL = {
    "slopes": ("y ~ x + (x | g)", {}),
    "crossed, ML": ("y ~ x + (1 | g) + (1 | s)", {"reml": False}),
    "weights, nested": ("y ~ x + (1 | g/s)", {"weights": "w"}),
    "intercepts": ("y ~ x + (1 | g)", {}),
}


SLOW = [pytest.mark.slow]  # 120 fits


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=SLOW if n != "intercepts" else []) for n in CONDITIONAL]
)
def test_degrees_of_freedom_are_the_trace_of_the_derivative_of_the_fitted_values(name):
    """``d fitted_j / d y_j`` of whole fits; the hat matrix alone misses theta's own change."""
    formula, options = CONDITIONAL[name]
    data = DATA[:36] if name == "intercepts" else DATA
    found, total = lmm.caic(lmm.fit(formula, data, **options)), 0.0
    for j in range(len(data)):
        ends = []
        for sign in (1.0, -1.0):
            y = data["y"].to_numpy().copy()
            y[j] += sign * STEP
            res = lmm.fit(formula, data.assign(y=y), **options)
            ends.append(res.fittedvalues.iloc[j])
        total += (ends[0] - ends[1]) / (2 * STEP)
    assert_close(found.df, total, STEP_RTOL)
    assert found.correction > 0.05
    assert_close(float(found), -2 * found.llf + 2 * (found.df + 1), RTOL)


def test_at_the_boundary_the_conditional_fit_is_least_squares():
    flat = DATA.assign(y=np.random.default_rng(4).normal(size=60))
    res = lmm.fit("y ~ x + (1 | g)", flat, reml=False)
    found = lmm.caic(res)
    assert res.singular
    assert_close([found.trace, found.correction], [2.0, 0.0], 1e-7, 1.0)
    assert_close(found.llf, res.llf, 1e-8)


def test_the_trace_is_that_of_the_hat_values():
    res = lmm.fit("y ~ x + (1 | g) + (1 | f)", DATA)
    hats = [lmm.influence(res, by).hat_values.sum() for by in ("row", "g", "f")]
    assert_close(hats, [lmm.caic(res).trace] * 3, RTOL)


# ------------------------------------------------------------ what is refused and what is shown


def test_refusals(monkeypatch):
    frame = pd.DataFrame({"a": [1.0]})
    for measure in (lmm.r2, lmm.icc, lmm.vif, lmm.variance_components, lmm.caic):
        with pytest.raises(lmm.DataError, match=r"a result of lmm.fit"):
            measure(frame)
    monkeypatch.setattr(row_algebra, "_MOST", 959)
    with pytest.raises(lmm.DataError, match="connect 60 rows by 16 effects, too many"):
        lmm.caic(lmm.fit("y ~ x + (1 | g) + (1 | f)", DATA))


def test_reprs():
    res = lmm.fit("y ~ x + (1 | g)", DATA)
    assert "marginal" in repr(lmm.r2(res)) and "level 0.9" in repr(lmm.r2(res, 0.9))
    assert "unadjusted" in repr(lmm.icc(res))
    assert "Conditional AIC" in repr(lmm.caic(res))
