"""Kinds of residuals and simulated ones: R's numbers, dense matrices, distributions."""

import copy
import pickle
from functools import cache

import numpy as np
import pandas as pd
import pytest
import reference
import samples
from helpers import assert_close
from scipy import stats

import lmm_jax as lmm
from lmm_jax.inference.residuals import scaled_residuals, whitening
from lmm_jax.results.residuals import KINDS

# The reference is polished by Newton steps, ours goes to a decrement of 1e-9: two optima.
R_RTOL = 1e-7
DENSE_RTOL = 1e-9  # n x n factors in float64
ROUNDING = 1e-10  # an identity in float64

CASES = [
    "cake_crossed_reml", "dyestuff2_ml", "dyestuff_reml", "machines_nested_unbal_ml",
    "machines_treat_unbal_reml", "orthodont_rs_ml", "pastes_nested_reml", "penicillin_reml",
    "sim_cor1_ml", "sim_crossslope_reml", "sim_k3_blocks_ml", "sim_weights_reml",
    "sleepstudy_rs_reml",
]  # fmt: skip
DATA = samples.frame()
MODELS = {
    "grouped": dict(formula="y ~ x + (x | g)", offset="o", weights="w"),
    "unbalanced": dict(formula="y ~ x + (1 | g)", subset=np.arange(60) % 7 != 0),
    "nested": dict(formula="y ~ x + (1 | g / s)", weights="w"),
    "crossed": dict(formula="y ~ x + (1 | g) + (x | f)", weights="w"),
    "component": dict(formula="y ~ x", groups="g", re_formula="1", vc_formula={"s": "0 + C(s)"}),
}


@cache
def fit(name, **options):
    return lmm.fit(data=DATA.sample(frac=1, random_state=1), **MODELS[name], **options)


@pytest.mark.parametrize("name", CASES)
def test_pearson_and_leverages_are_those_of_lme4(name):
    case = reference.load(name)
    res = lmm.fit(
        reference.formula(case), reference.frame(case), reml=case["model"]["REML"],
        weights=case["model"]["weights"],
    )  # fmt: skip
    expected = np.array(case["fitted"]["resid_pearson"])
    found = res.resid("pearson").to_numpy()
    assert_close(found[: expected.size], expected, R_RTOL, res.sigma)
    hat = np.array(case["influence"]["hatvalues"])
    standardized = res.resid("standardized").to_numpy()[: hat.size]
    want = found[: hat.size] / (case["sigma"] * np.sqrt(1 - hat))
    assert_close(standardized, want, R_RTOL, 1)


def dense(res):
    """Covariance of y in the units of the data, (n, n)."""
    design = res.design
    V = res.scale * np.diag(
        1 / (np.ones(design.nobs) if design.weights is None else design.weights)
    )
    for term, S in zip(design.terms, res.estimates.covariances, strict=True):
        Z = term.columns().toarray()
        V += Z @ np.kron(np.eye(term.n_levels), S) @ Z.T
    return V


@pytest.mark.parametrize("name", MODELS)
def test_kinds_by_their_definitions(name):
    res = fit(name)
    design = res.design
    offset = 0.0 if design.offset is None else design.offset
    w = np.ones(design.nobs) if design.weights is None else design.weights
    marginal = design.endog - offset - design.exog @ res.fe_params.to_numpy()
    assert_close(res.resid("marginal"), marginal, ROUNDING, 1)
    assert_close(res.resid("response"), design.endog - res.fittedvalues, ROUNDING, 1)
    assert_close(res.resid("pearson"), np.sqrt(w) * res.resid, ROUNDING, 1)
    V = dense(res)
    Vi = np.linalg.inv(V)
    P = Vi - Vi @ design.exog @ np.linalg.solve(
        design.exog.T @ Vi @ design.exog, design.exog.T @ Vi
    )
    left = res.scale / w * np.diagonal(P)  # 1 - h
    want = res.resid("pearson") / (res.sigma * np.sqrt(left))
    assert_close(res.resid("standardized"), want, DENSE_RTOL, 1)
    assert_close(res.resid("normalized"), res.resid("pearson") / res.sigma, ROUNDING, 1)
    for kind in KINDS:
        found = res.resid(kind)
        assert type(found) is pd.Series and found.index.equals(design.index)


@pytest.mark.parametrize("name", MODELS)
def test_whitened_residuals_by_one_factor_of_all_rows(name):
    """Rows in the order of their groups: the factor of all is that of every block."""
    res = fit(name)
    L = np.linalg.cholesky(dense(res))  # blocks keep the order of rows, so any order serves
    found = res.resid("whitened").to_numpy()
    assert_close(found, np.linalg.solve(L, res.resid("marginal")), DENSE_RTOL, 1)
    assert_close(found @ found, res.df_resid, ROUNDING)  # sigma^2 is the mean square of them
    ml = fit(name, reml=False).resid("whitened")
    assert_close(ml @ ml, len(ml), ROUNDING)


def test_a_series_that_can_be_called():
    res = fit("grouped")
    raw = res.resid
    assert isinstance(raw, pd.Series) and isinstance(raw, lmm.Residuals) and raw.name == "resid"
    pd.testing.assert_series_equal(raw(), pd.Series(raw))
    for other in (raw[:3], raw * 2, raw.abs(), raw.sort_values()):
        assert type(other) is pd.Series
    for other in (raw.copy(), copy.copy(raw), copy.deepcopy(raw)):
        pd.testing.assert_series_equal(other, raw)
        pd.testing.assert_series_equal(other("pearson"), raw("pearson"))
    again = pickle.loads(pickle.dumps(raw))
    assert type(again) is lmm.Residuals and again.name == "resid"
    pd.testing.assert_series_equal(again, raw)
    pd.testing.assert_series_equal(again("response"), raw())
    with pytest.raises(lmm.DataError, match="a pickle of residuals keeps the raw ones"):
        again("pearson")
    table = raw.to_frame().assign(same=raw)  # pandas calls what is callable
    assert (table["same"] == table["resid"]).all()
    assert (res.augment()["resid"] == raw).all()


def test_a_row_that_is_fitted_exactly_has_no_standardized_residual():
    data = DATA.assign(one=(np.arange(60) == 7).astype(float))
    found = lmm.fit("y ~ x + one + (1 | g)", data).resid("standardized")
    assert np.isnan(found[7]) and found.drop(7).notna().all()


@pytest.mark.parametrize("kind", [None, "raw", "Pearson", 1, ["pearson"]])
def test_other_kinds_are_refused(kind):
    with pytest.raises(lmm.DataError, match="kind="):
        fit("grouped").resid(kind)


def test_many_dependent_rows_are_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr(whitening, "LARGEST_BLOCK", 59)
    with pytest.raises(lmm.DataError, match=r"60 rows depend on each other .* at most 59"):
        fit("crossed").resid("whitened")
    assert fit("grouped").resid("whitened").notna().all()


# ------------------------------------------------------------ simulated residuals


def test_scaled_residuals_are_shares_of_the_draws():
    y = np.array([0.5, 2.0, -1.0, 9.0])
    draws = np.array([[0.0, 1, 2, 3], [2, 2, 1, 3], [0, 1, 2, 3], [0, 1, 2, 3]])
    parts = [draws[:, :1], draws[:, 1:]]
    found = scaled_residuals.scaled_quantiles(y, np.zeros(4), parts, np.random.default_rng(0))
    assert found.scaled[[0, 2, 3]].tolist() == [0.25, 0.0, 1.0]
    assert 0.25 < found.scaled[1] < 0.75  # one below, two equal
    assert found.outside.tolist() == [False, False, True, True]
    assert_close(found.spreads, draws.var(axis=0), ROUNDING)
    ties = np.ones((1, 4))
    many = [
        scaled_residuals.scaled_quantiles(ties[0, :1], np.zeros(1), [ties], rng).scaled[0]
        for rng in map(np.random.default_rng, range(200))
    ]
    assert stats.kstest(many, "uniform").pvalue > 1e-3


def test_simulated_residuals_of_a_right_model():
    data = samples.frame(3, groups=40, rows=5)
    res = lmm.fit("y ~ x + (x | g)", data)
    found = lmm.simulate_residuals(res, 200, seed=4)
    assert found.scaled.between(0, 1).all() and found.scaled.index.equals(data.index)
    assert (found.tests["p_value"] > 0.01).all() and 0.7 < found.dispersion.statistic < 1.4
    assert_close(found.fitted, res.predict(), ROUNDING, 1)
    assert found.to_frame().columns.tolist() == ["observed", "fitted", "scaled", "outside"]
    assert found.outliers.statistic == found.outside.sum()
    expected = stats.binomtest(int(found.outside.sum()), 200, 2 / 201).pvalue
    assert_close(found.outliers.p_value, expected, ROUNDING)
    assert_close(found.uniformity, stats.kstest(found.scaled, "uniform")[:2], ROUNDING)
    same = lmm.simulate_residuals(res, 200, seed=4)
    pd.testing.assert_series_equal(same.scaled, found.scaled)
    assert "200 rows, 200 draws" in repr(found)
    kept = pickle.loads(pickle.dumps(found))
    pd.testing.assert_frame_equal(kept.to_frame(), found.to_frame())
    inner = lmm.simulate_residuals(res, 50, seed=4, conditional=True)
    assert_close(inner.fitted, res.fittedvalues, 0)
    with pytest.raises(ValueError, match="read-only"):
        found.spreads[0] = 1


def test_a_wrong_model_shows():
    """Residuals with heavy tails; a response with more variance than the model has."""
    rng = np.random.default_rng(0)
    data = samples.frame(3, groups=40, rows=10)
    heavy = data.assign(y=data["x"] + rng.standard_t(1.5, len(data)))
    found = lmm.simulate_residuals(lmm.fit("y ~ x + (1 | g)", heavy), seed=1)
    assert found.uniformity.p_value < 1e-3 and found.outliers.p_value < 0.01
    res = lmm.fit("y ~ x + (x | g)", data)
    wide = res.design.endog + rng.normal(size=len(data)) * 3
    draws = lmm.simulate(res, seed=1, n=200).to_numpy()
    mean = res.predict().to_numpy()
    spread = scaled_residuals.scaled_quantiles(wide, mean, [draws], rng)
    test = scaled_residuals.dispersion(spread.spread, spread.spreads)
    assert test.statistic > 2 and test.p_value == 2 / 201


@pytest.mark.slow
def test_p_values_of_right_models_are_not_small_too_often():
    """Conditional dispersion is not looked at: BLUPs take up what the residuals lack."""
    design = lmm.design("y ~ x + (1 | g)", samples.frame(9, groups=60, rows=4))
    truth = lmm.Params.from_components(fe_params=[1, 2], cov_re=[[0.25]])
    Y = lmm.simulate(truth, design, seed=1, n=150, scale=1.0)
    p = {"dispersion": [], "outliers": []}
    scaled = []
    for i, (_, y) in enumerate(Y.items()):
        frame = pd.DataFrame({"y": y, "x": design.exog[:, 1], "g": design.group_codes})
        found = lmm.simulate_residuals(lmm.fit("y ~ x + (1 | g)", frame), 200, seed=i)
        scaled.append(found.scaled.to_numpy())
        for name, values in p.items():
            values.append(getattr(found, name).p_value)
    assert abs(np.mean(scaled) - 0.5) < 0.01 and abs(np.var(scaled) - 1 / 12) < 0.003
    assert all(np.mean(np.array(values) < 0.05) < 0.1 for values in p.values())
