"""Predictions with standard errors and limits: R's numbers, dense matrices, coverage, refusals."""

import pickle
import tracemalloc
from functools import cache

import numpy as np
import pandas as pd
import pytest
import reference
import samples
from helpers import assert_close
from scipy import stats
from scipy.linalg import block_diag

import lmm_jax as lmm
from lmm_jax.inference.effects import prediction
from lmm_jax.inference.effects.prediction import conditional_variance
from lmm_jax.inference.effects.random_effects import TermRows

# The reference is polished by Newton steps, ours goes to a decrement of 1e-9: two optima.
R_RTOL = 1e-7
DENSE_RTOL = 1e-8  # n x n inverses in float64
ROUNDING = 1e-10  # one computation in another order or unit
TWO_FITS = 1e-6  # two optimizations of one criterion

INFERENCE = reference.names(lambda c: "predict_se" in c, reference.INFERENCE)
EFFECTS = [
    "dyestuff_ml", "pastes_nested_reml", "penicillin_reml", "sleepstudy_rs_reml",
    "oats_factor_reml", "sim_weights_reml", "sim_crossslope_reml", "orthodont_rs_ml",
]  # fmt: skip
DATA = samples.frame()
MODELS = {
    "slope, weights, offset": dict(formula="y ~ x + (x | g)", weights="w", offset="o"),
    "two terms of a factor": dict(formula="y ~ x + (x || g)"),
    "structure": dict(formula="y ~ x + cs(1 + x | g, hom=True)"),
    "nested": dict(formula="y ~ x + f + (1 | g / s)"),
    "crossed": dict(formula="y ~ x + (x | g) + (1 | f)", weights="w"),
    "three crossed": dict(formula="y ~ x + (1 | g) + (x | s) + (1 | f)"),
    "component": dict(formula="y ~ x", groups="g", re_formula="x", vc_formula={"s": "0 + C(s)"}),
    "wide component": dict(
        formula="y ~ x", groups="s", re_formula="1", vc_formula={"u": "0 + x + z"}
    ),
    "no fixed effects": dict(formula="y ~ 0 + (x | g)"),
    "ml": dict(formula="y ~ x + (x | g)", reml=False),
}  # fmt: skip


@cache
def fit(name):
    options = dict(MODELS[name])
    reml = options.pop("reml", True)
    return lmm.fit(data=DATA, reml=reml, **options)


# ------------------------------------------------------------ R


@pytest.mark.filterwarnings("ignore:the fixed-effects design is rank deficient")
@pytest.mark.parametrize("name", INFERENCE)
def test_standard_errors_are_those_of_the_reference(name):
    expected, res = reference.load(name)["predict_se"], reference.inference_fit(name)
    new = pd.DataFrame(expected["newdata"])
    population = res.predict(new, se=True)
    assert_close(population["fit"], expected["population"], R_RTOL, res.sigma)
    assert_close(population["std_error"], expected["se_population"], R_RTOL)
    z = res.predict(new, interval="confidence", level=0.9, df_method="normal")
    assert_close(z[["lower", "upper"]], expected["population_ci90_normal"], R_RTOL, res.sigma)
    found = res.predict(new, conditional=True, new_levels="population", se=True)
    variance = np.square(expected["se_conditional"]) + expected["new_level_variance"]
    assert_close(found["fit"], expected["conditional"], R_RTOL, res.sigma)
    assert_close(found["std_error"], np.sqrt(variance), R_RTOL)
    own, first = res.predict(conditional=True, se=True), expected["fitted_first10"]
    assert_close(own["fit"].iloc[:10], first["conditional"], R_RTOL, res.sigma)
    assert_close(own["std_error"].iloc[:10], first["se_conditional"], R_RTOL)


@pytest.mark.parametrize("name", EFFECTS)
def test_errors_of_the_random_effects_are_those_of_the_reference(name):
    """Conditional standard deviations in the tables; with the error of beta, ``pred_sd``."""
    case = reference.load(name)
    res = lmm.fit(
        reference.formula(case), reference.frame(case), reml=case["model"]["REML"],
        weights=case["model"]["weights"],
    )  # fmt: skip
    table = res.random_effects_frame(conf_level=0.9)
    coef = res.coef()
    for t, (term, expected) in enumerate(zip(res.design.terms, case["ranef"], strict=True)):
        scale = reference.coefficient_scales(case)[t]
        levels = expected["levels"]
        at = pd.Index(term.levels.astype(str)).get_indexer(levels)
        assert (at >= 0).all()
        for j, column in enumerate(term.names):
            own = (table["factor"] == res.term_labels[t].factor) & (table["term"] == column)
            rows = table[own].iloc[at]
            assert_close(rows["estimate"], np.array(expected["values"])[:, j], R_RTOL, scale[j])
            assert_close(rows["std_error"], np.array(expected["cond_sd"])[:, j], R_RTOL, scale[j])
            half = stats.norm.ppf(0.95) * rows["std_error"]
            assert_close(rows["conf_high"] - rows["estimate"], half, ROUNDING, scale[j])
            whole = coef[res.term_labels[t].factor][column].iloc[at] - rows["estimate"].to_numpy()
            fixed = res.fe_params.get(column, 0.0)
            assert_close(whole, np.full(len(at), fixed), ROUNDING, np.abs(whole) + scale[j])
            unit = np.zeros((len(at), 1, len(term.names)))
            unit[..., j] = 1.0
            terms = [
                TermRows(at[:, None], unit) if u == t
                else TermRows(np.zeros((len(at), 1), int), np.zeros((len(at), 1, k)))
                for u, k in enumerate(res.design.sizes)
            ]  # fmt: skip
            X = np.zeros((len(at), len(res.fe_params)))
            found = conditional_variance(res._blup_errors, X, terms, res.estimates.cov_beta)
            pred = np.array(expected["pred_sd"])[:, j]
            assert_close(res.sigma * np.sqrt(found), pred, R_RTOL, scale[j])


# ------------------------------------------------------------ dense matrices


def dense_errors(res, X, Z):
    """Variance of ``x' (beta_hat - beta) + z' (b_hat - b)`` by Henderson's equations.

    The inverse of ``[X Z]' W [X Z] + diag(0, Psi^-1)``, in b = Lambda u so that Psi may be
    singular.
    """
    design, scale = res.design, res.scale
    w = np.ones(design.nobs) if design.weights is None else design.weights
    Lambda = block_diag(
        *[
            np.kron(np.eye(term.n_levels), F)
            for term, F in zip(design.terms, res.estimates.factors, strict=True)
        ]
    )
    own = np.hstack([term.columns().toarray() for term in design.terms]) @ Lambda
    C = np.hstack([design.exog, own])
    p = design.exog.shape[1]
    ridge = np.diag([0.0] * p + [1.0] * own.shape[1])
    inverse = np.linalg.inv(C.T * w @ C + ridge)
    rows = np.hstack([X, Z @ Lambda])
    return scale * np.einsum("ni,ij,nj->n", rows, inverse, rows)


@pytest.mark.parametrize("name", MODELS)
def test_own_rows_against_dense_matrices(name):
    res = fit(name)
    Z = np.hstack([term.columns().toarray() for term in res.design.terms])
    expected = np.sqrt(dense_errors(res, res.design.exog, Z))
    own = res.predict(conditional=True, se=True)
    assert_close(own["std_error"], expected, DENSE_RTOL)
    assert_close(own["fit"], res.fittedvalues, ROUNDING, 1)
    new = res.predict(DATA, conditional=True, se=True)
    pd.testing.assert_frame_equal(own, new, rtol=ROUNDING)


@pytest.mark.parametrize("name", ["nested", "crossed", "three crossed", "slope, weights, offset"])
def test_new_combinations_of_levels_against_dense_matrices(name):
    """Levels that never met in a row, and unseen ones, of which the terms have no columns."""
    res, rng = fit(name), np.random.default_rng(3)
    new = DATA.sample(40, random_state=1).reset_index(drop=True)
    for column in ("g", "s", "f"):
        if not (name == "nested" and column == "f"):
            new[column] = new[column].sample(frac=1, random_state=rng).to_numpy()
            new.loc[rng.choice(40, 6), column] = "new"
    found = res.predict(new, conditional=True, new_levels="population", se=True)
    extra, unseen, blocks = np.zeros(40), np.zeros(40, dtype=bool), []
    for term, S in zip(res.design.terms, res.estimates.covariances, strict=True):
        labels = new[list(term.source.group)].astype(str).agg(":".join, axis=1)
        code = pd.Index(term.levels.astype(str)).get_indexer(labels)
        z = np.column_stack([np.ones(40) if n == "Intercept" else new[n] for n in term.names])
        Z = np.zeros((40, term.n_levels, z.shape[1]))
        Z[np.flatnonzero(code >= 0), code[code >= 0]] = z[code >= 0]
        blocks.append(Z.reshape(40, -1))
        unseen |= code < 0
        extra += np.where(code < 0, np.einsum("nk,kl,nl->n", z, S, z), 0.0)
    X = res.model_matrix(new).to_numpy()
    expected = dense_errors(res, X, np.hstack(blocks)) + extra
    assert unseen.any() and not unseen.all()
    assert_close(found["std_error"], np.sqrt(expected), DENSE_RTOL)
    gone = res.predict(new, conditional=True, new_levels="nan", se=True)
    assert gone.isna().all(axis=1).tolist() == unseen.tolist()
    pd.testing.assert_frame_equal(gone.dropna(), found[~unseen])
    with pytest.raises(lmm.DataError, match="has the new level"):
        res.predict(new, conditional=True, se=True)


# ------------------------------------------------------------ limits


@pytest.mark.parametrize("method", ["satterthwaite", "kr", "residual", "normal", "CR2"])
def test_population_limits_are_those_of_contrasts(method):
    res = fit("two terms of a factor")
    res = res.robust("CR2") if method == "CR2" else res
    new = DATA[:7]
    found = res.predict(new, interval="confidence", level=0.9, df_method=method)
    X = res.model_matrix(new).to_numpy()
    test = res.t_test(X, df_method=method)
    assert_close(found["fit"], test.effect, ROUNDING, 1)
    assert_close(found["std_error"], test.sd, ROUNDING)
    assert_close(found[["lower", "upper"]], test.conf_int(0.1), ROUNDING, 1)


def test_other_limits_take_the_residual_degrees_of_freedom():
    res, new = fit("slope, weights, offset"), DATA[:5]
    w = np.arange(1.0, 6.0)
    options = dict(level=0.8, weights=w)
    t = stats.t.ppf(0.9, res.df_resid)
    given = dict(conditional=True, interval="prediction", **options)
    found = res.predict(new, **given)
    half = t * np.sqrt(found["std_error"] ** 2 + res.scale / w)
    assert_close(found["upper"] - found["fit"], half, ROUNDING)
    assert_close(found["fit"] - found["lower"], half, ROUNDING)
    normal = res.predict(new, df_method="normal", **given)
    assert_close(normal["upper"] - normal["fit"], half / t * stats.norm.ppf(0.9), ROUNDING)
    mean = res.predict(new, conditional=True, interval="confidence", level=0.8)
    assert_close(mean["upper"] - mean["fit"], t * mean["std_error"], ROUNDING)
    z = np.column_stack([np.ones(5), new["x"]])
    S = res.estimates.covariances[0]
    found = res.predict(new.drop(columns="g"), interval="prediction", **options)
    own = np.einsum("nk,kl,nl->n", z, S, z) + res.scale / w
    assert_close(found["std_error"], res.predict(new, se=True)["std_error"], 0)
    half = t * np.sqrt(found["std_error"] ** 2 + own)
    assert_close(found["upper"] - found["fit"], half, ROUNDING)


def test_own_rows_have_their_prior_weights():
    res = fit("slope, weights, offset")
    own = res.predict(conditional=True, interval="prediction")
    new = res.predict(DATA, conditional=True, interval="prediction", weights=DATA["w"])
    pd.testing.assert_frame_equal(own, new, rtol=ROUNDING)
    plain = res.predict(interval="prediction")
    pd.testing.assert_frame_equal(
        plain, res.predict(DATA, interval="prediction", weights=DATA["w"]), rtol=ROUNDING
    )


def test_variances_of_components():
    """A population prediction of a component: its own variance for each non-zero column."""
    res = fit("component")
    found = res.predict(DATA[:4], interval="prediction", df_method="normal")
    z = np.column_stack([np.ones(4), DATA["x"][:4]])
    own = np.einsum("nk,kl,nl->n", z, res.estimates.covariances[0], z)
    total = found["std_error"] ** 2 + own + res.vcomp["s"] + res.scale
    assert_close(found["upper"] - found["fit"], stats.norm.ppf(0.975) * np.sqrt(total), ROUNDING)
    new = DATA[:2].assign(s="z")
    row = res.predict(new, conditional=True, new_levels="population", se=True)
    assert row["fit"].notna().all() and row["std_error"].isna().all()  # a category without a column


@pytest.mark.parametrize("conditional", [False, "s"])
def test_a_new_category_of_a_term_outside_of_the_mean(conditional):
    """Its variance is not known, and no other row is worse for it."""
    data = DATA.assign(c=np.tile(list("klm"), len(DATA))[: len(DATA)])
    res = lmm.fit("y ~ x", data, groups="g", vc_formula={"s": "0 + C(s)", "c": "0 + C(c)"})
    new = data[:3].assign(c=["k", "new", "l"])
    given = dict(conditional=conditional, interval="prediction")
    found = res.predict(new, new_levels="population", **given)
    assert found.isna().any(axis=1).tolist() == [False, True, False]
    assert found["fit"].notna().all() and found["std_error"].notna().all()
    known = res.predict(data[:3], **given)
    pd.testing.assert_frame_equal(found.iloc[[0, 2]], known.iloc[[0, 2]])
    every = res.predict(new.assign(c="new"), new_levels="population", **given)
    assert every["lower"].isna().all() and every["fit"].notna().all()
    with pytest.raises(lmm.DataError, match="new"):
        res.predict(new, **given)


# ------------------------------------------------------------ rows


def test_rows_with_gaps_and_none_at_all():
    res = fit("crossed")
    new = DATA[:4].copy()
    new.loc[1, "x"], new.loc[2, "g"] = np.nan, None
    found = res.predict(new, conditional=True, se=True)
    assert found.isna().any(axis=1).tolist() == [False, True, True, False]
    assert res.predict(new, se=True).isna().any(axis=1).tolist() == [False, True, False, False]
    assert list(found.columns) == ["fit", "std_error", "lower", "upper"]
    for rows in (new[1:2], new[:0]):
        empty = res.predict(rows, conditional=True, se=True, interval="prediction")
        assert empty.shape == (len(rows), 4) and empty.isna().all(axis=None)
    weights = [1.0, 1.0, 1.0, np.nan]
    gone = res.predict(new, interval="prediction", weights=weights)
    assert gone["upper"].isna().tolist() == [False, True, False, True]


@pytest.mark.parametrize("name", ["crossed", "wide component"])
def test_steps_over_the_rows_change_nothing(name, monkeypatch):
    whole = fit(name).predict(DATA, conditional=True, se=True)
    monkeypatch.setattr(prediction, "_CHUNK", 50)
    steps = fit(name).predict(DATA, conditional=True, se=True)
    pd.testing.assert_frame_equal(whole, steps, rtol=ROUNDING)
    some = fit(name).predict(DATA[::7], conditional=True, se=True)
    pd.testing.assert_frame_equal(some, whole[::7], rtol=ROUNDING)


def test_units_and_order_of_the_rows():
    options = dict(conditional=True, interval="prediction")
    res = fit("crossed").predict(DATA, **options)
    model = MODELS["crossed"]
    other = lmm.fit(data=DATA.assign(y=1e3 * DATA["y"] + 5e4)[::-1], **model)
    found = (other.predict(DATA, **options) - [5e4, 0, 5e4, 5e4]) / 1e3
    assert_close(found, res, TWO_FITS, 1)


@pytest.mark.slow
def test_many_new_rows_take_memory_for_rows():
    res = fit("crossed")
    new = pd.concat([DATA] * 2000, ignore_index=True)
    tracemalloc.start()
    found = res.predict(new, conditional=True, interval="prediction")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 120_000 and peak < 1e9


def test_model_matrix():
    res = fit("nested")
    X = res.model_matrix()
    assert X.columns.tolist() == list(res.fixed_names) and X.index.equals(DATA.index)
    np.testing.assert_array_equal(X, res.design.exog)
    np.testing.assert_array_equal(res.model_matrix(DATA[:9]), X[:9])
    gap = res.model_matrix(DATA[:3].assign(x=[1, np.nan, 2.0]))
    assert gap.isna().all(axis=1).tolist() == [False, True, False]
    by_array = lmm.fit("y ~ x + (1 | g)", DATA, offset=DATA["o"].to_numpy())
    assert by_array.model_matrix({"x": [2.0]}).to_numpy().tolist() == [[1.0, 2.0]]


def test_a_pickle_predicts_the_population_with_errors():
    res = fit("slope, weights, offset")
    again = pickle.loads(pickle.dumps(res))
    for interval in ("confidence", "prediction"):
        one, other = (r.predict(DATA, interval=interval) for r in (res, again))
        pd.testing.assert_frame_equal(one, other)
    with pytest.raises(lmm.DataError, match="conditional standard errors must have"):
        again.predict(DATA, conditional=True, se=True)
    kept = res.predict(DATA, conditional=True)
    pd.testing.assert_series_equal(again.predict(DATA, conditional=True), kept)


def test_zero_coefficients_of_a_penalized_fit_have_no_error():
    path = lmm.fit_regularized("y ~ x + z + v + (1 | g)", DATA, alpha=30.0)
    assert (path.fe_params[["z", "v"]] == 0).all()
    found = path.predict(DATA, conditional=True, se=True)
    assert found.notna().all(axis=None) and (found["std_error"] > 0).all()


WRONG = {
    "weights without an interval": (dict(newdata=DATA, weights=DATA["w"]), "interval='prediction'"),
    "weights of no rows": (dict(interval="prediction", weights=[1]), "pass newdata"),
    "negative weights": (
        dict(newdata=DATA[:2], interval="prediction", weights=[1, -1]), "positive and finite",
    ),
    "few weights": (dict(newdata=DATA, interval="prediction", weights=[1]), "1 entries but"),
    "an interval": (dict(interval="conf"), "interval='conf': choose from confidence, prediction"),
    "percent": (dict(se=True, level=95), "level=95"),
    "se": (dict(se="yes"), "se='yes'"),
    "a method": (dict(se=True, df_method="kenward"), "df_method='kenward'"),
    "R's word": (dict(se_fit=True), "did you mean 'se'"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_what_is_refused(options, message):
    with pytest.raises((lmm.DataError, TypeError), match=message):
        fit("nested").predict(**options)


# ------------------------------------------------------------ tables of levels


def test_coefficients_of_crossed_factors_and_terms_without_fixed_effects():
    res = lmm.fit("y ~ z + (x | g) + (1 | f)", DATA)
    coef, b = res.coef(), res.random_effects
    assert list(coef) == ["g", "f"] and list(coef["g"].columns) == ["x", "Intercept", "z"]
    assert_close(coef["g"]["x"], b["g"]["x"], 0)
    assert (coef["f"]["x"] == 0).all() and (coef["f"]["z"] == res.fe_params["z"]).all()
    expected = b["f"]["Intercept"] + res.fe_params["Intercept"]
    assert_close(coef["f"]["Intercept"], expected, ROUNDING)
    assert list(fit("component").coef()) == ["g"]


def test_tidy_of_all_kinds():
    res = fit("three crossed")
    plain = res.tidy()
    assert plain["effect"].unique().tolist() == ["fixed", "ran_pars"] and "level" not in plain
    kinds = ["fixed", "ran_pars", "ran_vals", "ran_coefs"]
    table = res.tidy(kinds)
    assert table["effect"].unique().tolist() == kinds
    pd.testing.assert_frame_equal(table.drop(columns="level")[: len(plain)], plain)
    values = res.tidy("ran_vals", conf_level=0.9)
    frame = res.random_effects_frame(0.9)
    assert_close(values[["estimate", "std_error", "conf_low"]],
                 frame[["estimate", "std_error", "conf_low"]], 0)  # fmt: skip
    assert values[["group", "term", "level"]].to_numpy().tolist() == (
        frame[["factor", "term", "level"]].to_numpy().tolist()
    )
    coefs = res.tidy("ran_coefs", conf_int=False)
    assert len(coefs) == sum(c.size for c in res.coef().values()) and "conf_low" not in coefs
    one = coefs.query("group == 'g' and term == 'x' and level == 'g3'")["estimate"].item()
    assert one == res.coef()["g"].loc["g3", "x"]
    assert res.tidy("fixed", conf_int=False).shape == (2, 8)
    components = fit("component").tidy(["ran_vals"])
    assert components["level"].iloc[-1] == ("g9", "C(s)[r]")
    assert res.glance()["df"].item() == res.n_params


@pytest.mark.parametrize(
    ("effects", "message"),
    [
        ("random", "effects='random'"),
        ([], "choose from fixed"),
        (None, "effects=None"),
        (["fixed", 1], "effects=1"),
    ],
)
def test_effects_that_are_none(effects, message):
    with pytest.raises(lmm.DataError, match=message):
        fit("nested").tidy(effects)


# ------------------------------------------------------------ coverage


@pytest.mark.slow
def test_intervals_cover_new_observations():
    """Of groups seen and not seen; theta is estimated from 30 groups, so a little is missing."""
    design = lmm.design("y ~ x + (x | g)", samples.frame(5, groups=30, rows=8))
    truth = lmm.Params.from_components(fe_params=[1, 2], cov_re=[[1.0, 0.3], [0.3, 0.5]])
    rng, hits, runs = np.random.default_rng(0), {}, 150
    x = design.exog[:, 1]
    root = np.linalg.cholesky(truth.cov_re)
    for _ in range(runs):
        b = rng.normal(size=(30, 2)) @ root.T
        code = design.terms[0].codes[:, 0]
        mean = 1 + 2 * x + b[code, 0] + b[code, 1] * x
        y, again = mean + rng.normal(size=(2, x.size))
        frame = pd.DataFrame({"y": y, "x": x, "g": code})
        res = lmm.fit("y ~ x + (x | g)", frame)
        within = res.predict(conditional=True, interval="prediction")
        fitted = res.predict(conditional=True, interval="confidence")
        other = rng.normal(size=(x.size, 2)) @ root.T
        outside = 1 + 2 * x + other[:, 0] + other[:, 1] * x + rng.normal(size=x.size)
        population = res.predict(interval="prediction")
        for name, table, value in (
            ("observation", within, again), ("mean", fitted, mean), ("group", population, outside),
            ("line", res.predict(interval="confidence"), 1 + 2 * x),
        ):  # fmt: skip
            hit = (table["lower"] < value) & (value < table["upper"])
            hits.setdefault(name, []).append(hit.mean())
    found = {name: float(np.mean(values)) for name, values in hits.items()}
    assert all(0.93 < share < 0.965 for share in found.values()), found


def test_a_cell_without_rows_is_said():
    """Its mean depends on the reference level; other rows can be predicted in silence."""
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"g": np.repeat(np.arange(12), 6), "a": np.tile(list("xyz"), 24)})
    data["b"] = np.repeat(np.tile(list("uv"), 12), 3)
    data["y"] = rng.normal(size=72) + rng.normal(size=12)[data["g"]]
    there = data[(data["a"] != "z") | (data["b"] != "v")]
    with pytest.warns(lmm.RankWarning, match="rank deficient"):
        fit = lmm.fit("y ~ a * b + (1 | g)", there)
    gone = pd.DataFrame({"a": ["z", "x"], "b": ["v", "v"], "g": [0, 0]})
    with pytest.warns(lmm.RankWarning, match="1 of the 2 rows have means that cannot be estimated"):
        fit.predict(gone)
    fit.predict(gone.iloc[1:])
    restored = pickle.loads(pickle.dumps(fit))
    with pytest.warns(lmm.RankWarning, match="1 of the 2 rows"):
        restored.predict(gone)


# ---- random effects of some of the factors


@pytest.fixture(scope="module")
def casks():
    return lmm.fit("strength ~ 1 + (1 | batch / cask)", lmm.load_dataset("pastes"))


def test_effects_of_one_factor_alone(casks):
    found = casks.predict({"batch": ["A"]}, conditional="batch")  # needs no column of casks
    assert found[0] == pytest.approx(60.85398, abs=5e-6)  # lme4 1.1-31, re.form = ~ (1 | batch)
    own = casks.predict(conditional=["batch"])
    batch = lmm.load_dataset("pastes")["batch"]
    effects = casks.random_effects["batch"]["Intercept"]
    expected = casks.fe_params["Intercept"] + batch.map(effects).astype(float)
    np.testing.assert_allclose(own, expected, rtol=1e-12)
    both = casks.predict(conditional=["cask:batch", "batch"])
    np.testing.assert_allclose(both, casks.predict(conditional=True), rtol=1e-14)
    assert casks.predict(conditional="batch:cask").equals(casks.predict(conditional="cask:batch"))
    pd.testing.assert_series_equal(casks.predict(conditional=[]), casks.predict())


def test_errors_of_one_factor_are_those_of_the_mixed_model_equations(casks):
    """Henderson's C; an observation adds the variance of the effects that are left out."""
    data = lmm.load_dataset("pastes")
    X = np.ones((60, 1))
    Z = [
        pd.get_dummies(data["batch"]),
        pd.get_dummies(data["batch"].astype(str) + data["cask"].astype(str)),
    ]
    Z = [z.to_numpy(float) for z in Z]
    variances = casks.varcorr.set_index("grp")["vcov"]
    cask, whole = variances["cask:batch"], np.concatenate([X, *Z], axis=1)
    prior = np.concatenate([[0.0], np.full(10, 1 / variances["batch"]), np.full(30, 1 / cask)])
    C = np.linalg.inv(whole.T @ whole / casks.scale + np.diag(prior))
    row = np.concatenate([[1.0], np.eye(10)[0], np.zeros(30)])
    table = casks.predict({"batch": ["A"]}, conditional="batch", se=True)
    assert table["std_error"][0] == pytest.approx(np.sqrt(row @ C @ row), rel=1e-7)
    more = casks.predict({"batch": ["A"]}, conditional="batch", interval="prediction")
    assert more["std_error"][0] == pytest.approx(table["std_error"][0], rel=1e-12)
    widths = [(t["upper"] - t["lower"])[0] for t in (table, more)]
    total = row @ C @ row + cask + casks.scale
    assert (widths[1] / widths[0]) ** 2 == pytest.approx(total / (row @ C @ row), rel=1e-7)
    own = casks.predict(conditional="batch", interval="prediction")
    np.testing.assert_allclose((own["upper"] - own["lower"])[0], widths[1], rtol=1e-9)


@pytest.mark.parametrize("wrong", ["x", ["batch", "x"], [3], 1, None, {}, "bat"])
def test_effects_of_no_factor(casks, wrong):
    with pytest.raises(lmm.DataError, match="conditional="):
        casks.predict(conditional=wrong)


def test_correlated_residuals_stand_beside_all_effects():
    data = lmm.load_dataset("orthodont")
    res = lmm.fit("distance ~ age + (1 | Subject) + ar1(age | Subject)", data)
    pd.testing.assert_series_equal(  # all of them, or none
        res.predict(data, conditional="Subject"), res.predict(data, conditional=True)
    )
    pd.testing.assert_series_equal(res.predict(data, conditional=[]), res.predict(data))
    data["half"] = data["age"] < 10
    res = lmm.fit("distance ~ age + (1 | half) + (1 | Subject) + ar1(age | Subject)", data)
    with pytest.raises(lmm.DataError, match="conditional=True"):
        res.predict(data, conditional="Subject")


# ------------------------------------------------------------ transformed responses


def logged(f="log", **options):
    data = lmm.load_dataset("sleepstudy")
    return lmm.fit(f"{f} ~ Days + (Days | Subject)", data, **options)


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("interval", ["confidence", "prediction"])
def test_predictions_on_the_scale_of_the_response(interval, conditional):
    res, new = logged("log(Reaction + 2)"), {"Days": [0.5, 9], "Subject": ["308", "309"]}
    how = {"conditional": conditional, "interval": interval}
    link, response = res.predict(new, **how), res.predict(new, type="response", **how)
    for column in ("fit", "lower", "upper"):
        assert_close(response[column], np.exp(link[column]) - 2, ROUNDING)
    assert_close(response["std_error"], np.exp(link["fit"]) * link["std_error"], ROUNDING)
    means = res.predict(new, conditional=conditional, type="response", output="polars")
    assert_close(means.to_numpy(), response["fit"], ROUNDING)
    own = res.predict(conditional=conditional, type="response")
    assert_close(own, np.exp(res.predict(conditional=conditional)) - 2, ROUNDING)


def test_predictions_are_carried_back_as_marginal_means_are():
    res = lmm.fit("log10(yld) ~ Nf + (1 | Block)", lmm.load_dataset("oats"))
    means = lmm.emmeans(res, "Nf").to_frame(type="response")
    table = res.predict({"Nf": means["Nf"]}, se=True, type="response")
    wanted = means[["estimate", "std_error", "conf_low", "conf_high"]]
    assert_close(table.to_numpy(), wanted.to_numpy(), ROUNDING)


def test_limits_of_a_root_end_at_zero():
    data = pd.DataFrame({"g": np.repeat(np.arange(8), 5), "x": np.tile(np.arange(5.0), 8)})
    data["y"] = np.random.default_rng(0).normal(data["x"], 1.0) ** 2
    res = lmm.fit("sqrt(y) ~ x + (1 | g)", data)
    link = res.predict({"x": [0.0, 4.0]}, interval="prediction")
    table = res.predict({"x": [0.0, 4.0]}, interval="prediction", type="response")
    assert link["lower"][0] < 0 < link["lower"][1]
    assert_close(table["lower"], [0.0, link["lower"][1] ** 2], ROUNDING)
    assert_close(table["std_error"], 2 * link["fit"] * link["std_error"], ROUNDING)
    low = lmm.emmeans(res, "1", at={"x": -2.0}).to_frame(type="response")["conf_low"][0]
    assert low == 0


def test_scales_of_predictions():
    plain = logged("Reaction")
    assert plain.predict(type="response").equals(plain.predict())
    with pytest.raises(lmm.DataError, match="type='mean': choose from link, response"):
        plain.predict(type="mean")
    with pytest.raises(lmm.DataError, match="can be carried back: log, log2"):
        logged("floor(Reaction)").predict(type="response")
    half, whole = logged("log(Reaction / 2)"), logged("log(Reaction)")
    assert_close(half.predict(type="response"), whole.predict(type="response"), 1e-9)


def test_a_square_root_is_carried_back_from_its_end():
    """A mean below zero on the scale of the fit is no root: the estimate is within its limits."""
    res = lmm.fit("sqrt(Reaction) ~ Days + (1 | Subject)", lmm.load_dataset("sleepstudy"))
    new = {"Days": [-200.0, -50.0, 5.0]}
    options = dict(conditional=False, type="response")
    found = res.predict(new, interval="confidence", **options)
    assert (found["lower"] <= found["fit"]).all() and (found["fit"] <= found["upper"]).all()
    assert found["fit"][0] == 0.0 and found["fit"][2] > 200
    np.testing.assert_array_equal(res.predict(new, **options), found["fit"])


def test_levels_of_nlme_are_named():
    res = lmm.fit("Reaction ~ Days + (1 | Subject)", lmm.load_dataset("sleepstudy"))
    with pytest.raises(lmm.DataError, match="conditional=False and conditional=True"):
        res.predict(level=0)


def test_new_rows_have_the_weights_that_the_fit_named():
    """A new observation has the variance scale / w, w of the column that weights= named."""
    res = lmm.fit("y ~ x + (1 | g)", DATA, weights="w")
    new = pd.DataFrame({"x": [0.0, 0.0], "w": [0.2, 5.0]})
    found = res.predict(new, interval="prediction")
    pd.testing.assert_frame_equal(found, res.predict(new, interval="prediction", weights="w"))
    mean = res.predict(new, interval="confidence")
    var = mean["std_error"] ** 2 + res.cov_re.iloc[0, 0] + res.scale / new["w"]
    half = (found["upper"] - found["lower"]) / 2
    assert_close(half[0] / half[1], np.sqrt(var[0] / var[1]), 0.05)  # df differ a little
    again = pickle.loads(pickle.dumps(res)).predict(new, interval="prediction")
    pd.testing.assert_frame_equal(again, found)
    with pytest.warns(UserWarning, match="taken as observations of weight one"):
        without = res.predict(new[["x"]], interval="prediction")
    one = res.predict(new.assign(w=1.0), interval="prediction")
    pd.testing.assert_frame_equal(without, one)


def test_weights_of_correlated_residuals_are_read_by_name():
    """A row's part in what is known of its subject depends on its weight."""
    data = DATA.assign(t=DATA.groupby("g").cumcount())
    res = lmm.fit("y ~ x + ar1(t | g)", data, weights="w")
    last = data.groupby("g").tail(1).assign(t=lambda d: d["t"] + 1)
    named = res.predict(last, conditional=True)
    assert_close(named, res.predict(last, conditional=True, weights=last["w"]), ROUNDING)
    with pytest.warns(UserWarning, match="taken as observations of weight one"):
        without = res.predict(last.drop(columns="w"), conditional=True)
    assert np.abs(named - without).max() > 1e-4


# ------------------------------------------------------------ labels that are missing

GROUPED = {
    "label": ("y ~ x + (x | g)", ["g"]),
    "crossed": ("y ~ x + (1 | g) + (1 | s)", ["g", "s"]),
    "nested": ("y ~ x + (1 | g / s)", ["s"]),
    "expression": ("y ~ x + (1 | relevel(g, 'g3'))", ["g"]),
    "subject": ("y ~ x + (1 | s) + car1(t | g)", ["g"]),
}


def with_times():
    return DATA.assign(t=DATA.groupby("g").cumcount())


@pytest.mark.parametrize("name", GROUPED)
def test_a_missing_label_is_nobodys(name):
    """lme4 with ``allow.new.levels = TRUE``; a label that nobody has says what is right."""
    formula, missing = GROUPED[name]
    data = with_times()
    res = lmm.fit(formula, data)
    for gap in (None, np.nan):
        new, unseen = data[:4].copy(), data[:4].copy()
        for column in missing:
            new[column] = new[column].astype(object)
            new.loc[new.index[1], column] = gap
            unseen.loc[unseen.index[1], column] = "nobody"
        for interval in (None, "confidence", "prediction"):
            given = dict(conditional=True, interval=interval)
            expected = res.predict(unseen, new_levels="population", **given)
            found = res.predict(new, new_levels="population", **given)
            assert np.isfinite(found.to_numpy()).all()
            np.testing.assert_array_equal(found, expected)
            for other in ("error", "nan"):
                rows = res.predict(new, new_levels=other, **given)
                assert np.isnan(rows.to_numpy()[1]).all()
                np.testing.assert_array_equal(
                    rows.drop(index=rows.index[1]), expected.drop(index=rows.index[1])
                )
    new["x"] = np.nan
    assert res.predict(new, conditional=True, new_levels="population").isna().all()


def test_groups_beside_the_rows_that_are_missing():
    res = lmm.fit("y ~ x", DATA, groups=DATA["g"].to_numpy(), re_formula="~ x")
    groups = np.array([None, "nobody", DATA["g"].iloc[2]], dtype=object)
    found = res.predict(DATA[:3], conditional=True, groups=groups, new_levels="population")
    assert_close(found[:2], res.predict(DATA[:2]), ROUNDING, 1)
    assert_close(found[2:], res.fittedvalues[2:3], ROUNDING, 1)
    all_gone = res.predict(DATA[:2], conditional=True, groups=[None, None], new_levels="population")
    assert_close(all_gone, res.predict(DATA[:2]), ROUNDING, 1)


@pytest.mark.parametrize(
    ("given", "hint"), [("zero", r" \(did you mean 'population'\?\)"), ("skip", ""), (True, "")]
)
def test_what_becomes_of_new_levels_is_read_without_new_rows_too(given, hint):
    res = lmm.fit("Reaction ~ Days + (1 | Subject)", lmm.load_dataset("sleepstudy"))
    for options in ({}, {"newdata": {"Days": [1], "Subject": ["x"]}, "conditional": True}):
        with pytest.raises(lmm.DataError, match=f"choose from error, population, nan{hint}$"):
            res.predict(new_levels=given, **options)
