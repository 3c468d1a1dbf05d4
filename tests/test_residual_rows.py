"""What is computed of single rows, beside a residual covariance, against dense matrices and SAS.

With the covariance V of y made of what a fit reports (``residual_cov``, ``cov_re``),

    P = V^-1 - V^-1 X (X' V^-1 X)^-1 X' V^-1

is all that residuals, predictions and influence depend on.
"""

import json
import pickle
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
import pytest
from dense_robust import dense, residual_covariance, working_covariance
from helpers import Array, assert_close
from reference import INFERENCE
from scipy import stats

import lmm_jax as lmm
import lmm_jax.api.one_by_one as one_by_one
from lmm_jax.batches.draw import draw, fit_replicates
from lmm_jax.batches.draw_recipe import recipe
from lmm_jax.batches.replicate_minimize import fit_each
from lmm_jax.batches.streams import Stream
from lmm_jax.layouts.response import Response

RTOL = 1e-9  # two routes through float64 to one number
TOL = 1e-6  # two optimizations of one criterion
# SAS stops where a step promises a relative 1e-8: estimates, standard errors and predictions are
# off by a few 1e-4 of a standard error (tests/test_sas.py).
SAS_RTOL = 4e-4


def frame() -> pd.DataFrame:
    """Orthodont with visits, sites of three subjects, weights, and a fifth of the rows gone."""
    data = lmm.load_dataset("orthodont")
    rng = np.random.default_rng(11)
    data["visit"] = "v" + (data["age"] // 2 - 3).astype(int).astype(str)
    data["site"] = (data.groupby("Subject", observed=True, sort=False).ngroup() // 3).astype(str)
    data["w"] = rng.uniform(0.5, 2.0, len(data))
    return data.assign(gone=rng.uniform(size=len(data)) < 0.2)


ALL = frame()
DATA = ALL[~ALL["gone"]]
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "us": ("distance ~ age * Sex + us(visit | Subject)", {}),
    "us, weights": ("distance ~ age * Sex + us(visit | Subject)", {"weights": "w"}),
    "ar1": ("distance ~ age * Sex + ar1(visit | Subject)", {"reml": False}),
    "toeph, weights": ("distance ~ age * Sex + toeph(visit | Subject)", {"weights": "w"}),
    "times": ("distance ~ age * Sex + car1(age | Subject)", {}),
    "arms": ("distance ~ age * Sex + cs(visit | Sex / Subject)", {}),
    "strata": ("distance ~ age * Sex + (age | Subject) + diag(Sex)", {"weights": "w"}),
    # by Sex: with a variance a visit the best optimum leaves the second visit none
    "intercept": ("distance ~ age * Sex + (1 | Subject) + ar1(visit | Subject) * diag(Sex)", {}),
    "sites": ("distance ~ age * Sex + (1 | site) + csh(visit | Subject)", {}),
    "power": ("distance ~ age * Sex + (1 | Subject) + power(age)", {}),
}
CORRELATED = [name for name in MODELS if name not in ("strata", "power")]


@cache
def fitted(name: str) -> lmm.LMMResults:
    text, options = MODELS[name]
    return lmm.fit(text, DATA, **options)


class Rows(NamedTuple):
    """A fit in dense matrices, in the units of y."""

    X: Array
    e: Array  # y - X beta
    R: Array
    V: Array
    Vi: Array
    Phi: Array  # (X' V^-1 X)^-1

    @property
    def P(self) -> Array:
        B = self.Vi @ self.X
        return self.Vi - B @ self.Phi @ B.T


def rows_of(fit: lmm.LMMResults) -> Rows:
    X, V = fit.design.exog, fit.scale * working_covariance(fit)
    Vi = np.linalg.inv(V)
    e = fit.design.endog - X @ fit.fe_params.to_numpy()
    return Rows(X, e, residual_covariance(fit), V, Vi, np.linalg.inv(X.T @ Vi @ X))


# ------------------------------------------------------------ residuals, robust covariances


@pytest.mark.parametrize("name", MODELS)
def test_residuals(name):
    fit, at = fitted(name), rows_of(fitted(name))
    e = at.R @ at.Vi @ at.e  # what the random effects leave
    assert_close(fit.resid, e, RTOL, 1)
    assert_close(fit.resid("marginal"), at.e, RTOL, 1)
    assert_close(fit.resid("pearson"), e / np.sqrt(np.diagonal(at.R)), RTOL, 1)
    spread = np.sqrt(np.diagonal(at.R @ at.P @ at.R))
    assert_close(fit.resid("standardized"), e / spread, 1e-8, 1)
    assert fit.design.residual is not None
    for kind, groups, V, values in (
        ("whitened", fit.design.group_codes, at.V, at.e),
        ("normalized", fit.design.residual.rows.subject, at.R, e),
    ):
        white = np.empty(fit.nobs)
        for group in np.unique(groups):
            own = groups == group
            white[own] = np.linalg.solve(np.linalg.cholesky(V[np.ix_(own, own)]), values[own])
        assert_close(fit.resid(kind), white, RTOL, 1)


def test_normalized_residuals_of_nlme():
    """nlme 3.1-162: lme with random = ~1 | Subject, corAR1 and varIdent; type = "normalized"."""
    teeth = lmm.load_dataset("orthodont").assign(visit=lambda d: (d["age"] - 6) / 2)
    order = [f"M{i:02d}" for i in range(1, 17)] + [f"F{i:02d}" for i in range(1, 12)]
    teeth = teeth.set_index("Subject").loc[order].reset_index()
    fit = lmm.fit("distance ~ age + (1 | Subject) + ar1(visit | Subject) * diag(Sex)", teeth)
    first = [0.326446625536, -0.863642416773, 0.919951333280, 1.120569003134, -0.212175299627]
    last = [-0.126055261069, -0.832594374400, 1.637301221239, -0.133977275668]
    # digits that nlme's optimum has
    assert_close(fit.resid("normalized").iloc[[*range(5), *range(-4, 0)]], first + last, 2e-6, 1)


@pytest.mark.parametrize("kind", ["CR0", "CR1", "CR2", "CR3"])
@pytest.mark.parametrize("name", MODELS)
def test_robust_covariances_by_subject(name, kind):
    """Of the independent groups, which are the subjects or the sites, if not told otherwise."""
    fit = fitted(name)
    expected, got = dense(fit, kind, fit.design.group_codes), fit.robust(kind)
    assert_close(got.bse_fe, np.sqrt(np.diagonal(expected.cov)), TOL)
    assert_close(got.df, [expected.df(row) for row in np.eye(len(got.df))], TOL)


def test_clusters_of_a_subject_hold_together():
    fit = fitted("ar1")
    assert_close(fit.robust("CR2", DATA["Subject"]).bse_fe, fit.robust("CR2").bse_fe, RTOL)
    with pytest.raises(lmm.DataError, match="share"):
        fit.robust("CR2", DATA["visit"])


# ------------------------------------------------------------ predictions


def everyone() -> pd.DataFrame:
    """All rows, those that were left out of the fits among them, and those of a new subject.

    As new observations, of weight one.
    """
    new = ALL[ALL["Subject"] == "M01"].assign(Subject="new", site="new")
    return pd.concat([ALL, new], ignore_index=True).assign(w=1.0)


class Joint(NamedTuple):
    """New rows beside those of a fit."""

    X: Array
    V_no: Array  # covariances of new observations and the rows of the fit
    V_nn: Array  # variances of new observations
    R_no: Array
    R_nn: Array
    seen: Array  # new rows at a visit at which their subject was seen


def joint(fit: lmm.LMMResults, new: pd.DataFrame) -> Joint:
    """From the model of both together: the new rows are appended, under the fit's parameters."""
    text, options = (
        fit.design.source.formula,
        {} if fit.design.weights is None else {"weights": "w"},
    )
    both = pd.concat([DATA.assign(new=False), new.assign(new=True, w=1.0)], ignore_index=True)
    n, m = len(DATA), len(new)
    key = both["Subject"].astype(str) + both["age"].astype(str)
    # a new row at a place that was seen is another observation there: left out of the structure
    twice = (key.duplicated(keep=False) & both["new"]).to_numpy()
    design = lmm.design(text, both[~twice], **options)
    at = replace(fit, design=design, nobs=design.nobs)
    V, R = fit.scale * working_covariance(at), residual_covariance(at)
    some = ~twice[n:]
    V_no, R_no = np.full((m, n), np.nan), np.zeros((m, n))
    V_nn, R_nn = np.full(m, np.nan), np.full(m, np.nan)
    V_no[some], R_no[some] = V[n:, :n], R[n:, :n]
    V_nn[some], R_nn[some] = np.diagonal(V)[n:], np.diagonal(R)[n:]
    return Joint(fit.model_matrix(new).to_numpy(), V_no, V_nn, R_no, R_nn, twice[n:])


@pytest.mark.parametrize("name", MODELS)
def test_conditional_predictions(name):
    """The best linear prediction of a visit that was not seen, given those that were."""
    fit, new = fitted(name), everyone()
    at, known = rows_of(fit), joint(fitted(name), everyone())
    beta = fit.fe_params.to_numpy()
    given = dict(conditional=True, new_levels="population")
    table = fit.predict(new, se=True, interval="prediction", level=0.9, **given)
    assert_close(fit.predict(new, **given), table["fit"], RTOL, 1)
    A = known.V_no @ at.Vi
    mean = known.X @ beta + A @ at.e
    left = known.X - A @ at.X
    total = known.V_nn - np.einsum("ij,ij->i", A, known.V_no)
    total = total + np.einsum("ij,jk,ik->i", left, at.Phi, left)
    there = ~known.seen
    assert_close(table["fit"][there], mean[there], RTOL, 1)
    q = stats.t.ppf(0.95, fit.df_resid)
    half = (table["upper"] - table["fit"]) / q
    assert_close(half[there], np.sqrt(total[there]), 1e-8)
    # of the mean: without what is the observation's own, given its subject's residuals
    own = known.R_nn - np.einsum("ij,jk,ik->i", known.R_no, np.linalg.inv(at.R), known.R_no)
    assert_close(table["std_error"][there], np.sqrt((total - own)[there]), 1e-7)
    limits = fit.predict(new, interval="confidence", level=0.9, **given)
    assert_close(limits["upper"] - limits["fit"], q * table["std_error"], 1e-8)


@pytest.mark.parametrize("name", MODELS)
def test_predictions_of_rows_that_were_seen(name):
    """The fitted value, no residual smoothed into it; another observation has all its variance."""
    fit, at = fitted(name), rows_of(fitted(name))
    another = DATA.assign(w=1.0)
    got = fit.predict(another, conditional=True, se=True, interval="prediction")
    assert_close(got["fit"], fit.fittedvalues, RTOL, 1)
    H = at.R - at.R @ at.P @ at.R  # Cov of the error of X beta + Z b
    assert_close(got["std_error"], np.sqrt(np.diagonal(H)), 1e-8)
    own = np.diagonal(at.R) if fit.design.weights is None else np.diagonal(at.R) * DATA["w"]
    q = stats.t.ppf(0.975, fit.df_resid)
    assert_close((got["upper"] - got["fit"]) / q, np.sqrt(np.diagonal(H) + own), 1e-8)
    same = fit.predict(conditional=True, se=True, interval="confidence")
    assert_close(same[["fit", "std_error"]], got[["fit", "std_error"]], RTOL, 1)


@pytest.mark.parametrize("name", MODELS)
def test_population_predictions(name):
    fit, at, new = fitted(name), rows_of(fitted(name)), everyone()
    known = joint(fit, new)
    there = ~known.seen
    table = fit.predict(new, se=True, interval="prediction")
    se = np.sqrt(np.einsum("ij,jk,ik->i", known.X, at.Phi, known.X))
    assert_close(table["fit"], known.X @ fit.fe_params.to_numpy(), RTOL, 1)
    assert_close(table["std_error"], se, 1e-8)
    q = stats.t.ppf(0.975, fit.df_resid)
    half = (table["upper"] - table["fit"]) / q
    assert_close(half[there], np.sqrt(se**2 + known.V_nn)[there], 1e-8)


def test_weights_of_new_rows_count_in_their_variance():
    fit = fitted("us")
    new = ALL[ALL["gone"]]
    one, four = (
        fit.predict(new, interval="prediction", weights=np.full(len(new), w)) for w in (1.0, 4.0)
    )
    q = stats.t.ppf(0.975, fit.df_resid)
    sd = fit.residual_params[[f"sd[{visit}]" for visit in new["visit"]]].to_numpy()
    for table, w in ((one, 1.0), (four, 4.0)):
        half = (table["upper"] - table["fit"]) / q
        assert_close(half**2 - table["std_error"] ** 2, sd**2 / w, 1e-8)


REFUSED = {
    "no place among the rows": (
        "distance ~ age + ar1(row | Subject)", {"conditional": True}, "name the visits by a column"
    ),
    "a visit that was never seen": (
        "distance ~ age + us(visit | Subject)",
        {"conditional": True, "newdata": {"age": [9], "visit": ["v9"], "Subject": ["M01"]}}, "v9",
    ),
    "a stratum that was never seen": (
        "distance ~ age + diag(visit) + (1 | Subject)",
        {"interval": "prediction", "newdata": {"age": [9], "visit": ["v9"], "Subject": ["M01"]}},
        "v9",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_predictions_that_are_refused(text, options, message):
    with pytest.raises(lmm.DataError, match=message):
        lmm.fit(text, DATA).predict(**{"newdata": DATA.head(), **options})


def test_a_result_without_rows_predicts_what_it_can():
    fit, new = fitted("us"), everyone()
    for kept in (pickle.loads(pickle.dumps(fit)),):
        options = dict(interval="prediction")
        pd.testing.assert_frame_equal(kept.predict(new, **options), fit.predict(new, **options))
        with pytest.raises(lmm.DataError, match="without its data"):
            kept.predict(new, conditional=True)
    assert_close(fit.without_data().residual_params, fit.residual_params, 0)
    with pytest.raises(lmm.DataError, match="without its data"):
        fit.without_data().predict(new)


def test_a_saved_result_is_the_same(tmp_path):
    fit, new = fitted("intercept"), everyone()
    fit.save(tmp_path / "fit", keep_data=True)
    again = lmm.load(tmp_path / "fit")
    options = dict(conditional=True, se=True, new_levels="population")
    pd.testing.assert_frame_equal(again.predict(new, **options), fit.predict(new, **options))
    assert_close(again.resid("whitened"), fit.resid("whitened"), 0)
    assert_close(again.residual_params, fit.residual_params, 0)


# ------------------------------------------------------------ draws and their fits


@pytest.mark.parametrize("name", MODELS)
def test_draws_have_the_covariance_of_the_model(name):
    """Every entry of the covariance of 20,000 draws within 5 of its standard errors."""
    fit, at, n = fitted(name), rows_of(fitted(name)), 20_000
    y = lmm.simulate(fit, seed=5, n=n).to_numpy() - fit.predict().to_numpy()[:, None]
    sd = np.sqrt(np.diagonal(at.V))
    error = np.sqrt((at.V**2 + np.outer(sd, sd) ** 2) / n)
    assert (np.abs(y @ y.T / n - at.V) < 5 * error).all()
    assert (np.abs(y.mean(axis=1)) < 5 * sd / np.sqrt(n)).all()


@pytest.mark.parametrize("name", CORRELATED)
def test_draws_for_another_design(name):
    """Fewer rows have another unit of distance and smaller subjects; parameters mean the same."""
    fit = fitted(name)
    first = DATA["Subject"].isin(["M01", "M02", "M03", "F01", "F02", "F03"])
    options = {} if fit.design.weights is None else {"weights": "w"}
    some = DATA[first & (DATA["visit"] != "v4")]
    if name != "times":
        with pytest.raises(lmm.DataError, match="the same visits"):
            lmm.simulate(fit, lmm.design(fit.design.source.formula, some, **options), seed=1)
        some = DATA[first]
    design = lmm.design(fit.design.source.formula, some, **options)
    n = 4000
    y = lmm.simulate(fit, design, seed=5, n=n).to_numpy()
    y = y - (design.exog @ fit.fe_params.to_numpy())[:, None]
    at = replace(fit, design=design, nobs=design.nobs)
    V = fit.scale * working_covariance(at)
    if name == "times":  # in whose unit the parameters of the fit are others
        gaps = np.abs(np.subtract.outer(*[some["age"].to_numpy()] * 2))
        same = np.equal.outer(*[some["Subject"].to_numpy()] * 2)
        V = fit.scale * same * fit.residual_params["phi"] ** gaps
    sd = np.sqrt(np.diagonal(V))
    error = np.sqrt((V**2 + np.outer(sd, sd) ** 2) / n)
    assert (np.abs(y @ y.T / n - V) < 5 * error).all()


def test_draws_that_are_refused():
    fit, other = fitted("us"), fitted("ar1")
    params = lmm.Params.from_components(fe_params=fit.fe_params)
    with pytest.raises(lmm.DataError, match="Params hold no residual covariance"):
        lmm.simulate(params, fit.design, seed=1, scale=1.0)
    with pytest.raises(lmm.DataError, match="which is not that of the fit"):
        lmm.simulate(fit, other.design, seed=1)
    plain = lmm.design("distance ~ age * Sex + (1 | Subject)", DATA)
    with pytest.raises(lmm.DataError, match="the design has none"):
        lmm.simulate(fitted("ar1"), replace(plain, terms=()), seed=1)


# Drawn row after row: tests/test_markov_residuals.py.
CHAINS = ("ar1", "times")


@pytest.mark.parametrize("name", [name for name in MODELS if name not in CHAINS])
def test_drawn_groups_have_the_covariance_of_the_model(name):
    """``root' root`` of every group, which its rows are drawn with."""
    fit = fitted(name)
    with jax.enable_x64(True):
        base, source = recipe(fit.design.layout, fit.estimates.theta_layout, fit.scale)
    found = []
    for bucket, part in zip(base.buckets, source.buckets, strict=True):
        V = np.einsum("kag,kbg->gab", part.root, part.root)
        there = np.asarray(bucket.present).T > 0
        there = there if bucket.owner is None else there[np.asarray(bucket.owner)]
        found += [np.linalg.eigvalsh(own[np.ix_(at, at)]) for own, at in zip(V, there, strict=True)]
    root = np.ones(fit.nobs) if fit.design.weights is None else np.sqrt(fit.design.weights)
    V = working_covariance(fit) * np.outer(root, root)
    groups = fit.design.group_codes
    expected = [np.linalg.eigvalsh(V[np.ix_(groups == g, groups == g)]) for g in np.unique(groups)]
    got = sorted(tuple(np.round(e, 8)) for e in found if e.size)
    want = sorted(tuple(np.round(e, 8)) for e in expected)
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        assert_close(one, other, 1e-7)


@pytest.mark.parametrize("name", ["us, weights", "sites"])
def test_a_replicate_is_fitted_as_a_response(name):
    """The response of the data in a lane beside others."""
    fit = fitted(name)
    theta = fit.estimates.theta_layout
    with jax.enable_x64(True):
        base, _ = recipe(fit.design.layout, theta, fit.scale)
        mine = Response(y=tuple(b.c[None, :, -1] for b in base.buckets), S0=base.S0[None, -1])
        found = fit_each(base, mine, theta + 0.05, reml=fit.reml)
    scale = float(fit.design.layout.y_scale) ** 2 / fit.scale  # the unit of the response
    shift = (fit.nobs - len(fit.fe_params)) * np.log(scale)
    assert_close(found.theta[0], theta, 1e-5, 1)
    assert_close(found.jet.value[0] + shift, fit.estimates.deviance, RTOL)


@pytest.mark.parametrize("name", ["us", "us, weights", "arms", "strata", "sites", "intercept"])
def test_replicates_side_by_side_are_those_one_by_one(name):
    """Whether subjects merge for all of them, their rows X and y apart, or stay as they are."""
    fit = fitted(name)
    theta = fit.estimates.theta_layout
    with jax.enable_x64(True):
        base, source = recipe(fit.design.layout, theta, fit.scale)
        drawn = draw(Stream(3), np.arange(6), source)
        each = fit_each(base, drawn, theta, reml=fit.reml)
        lanes, _ = fit_replicates(
            fit.design.layout, theta, fit.scale, stream=Stream(3), n=6, reml=fit.reml
        )
    assert (lanes.status == each.status).all()
    assert_close(lanes.jet.value, each.jet.value, RTOL)
    assert_close(lanes.theta, each.theta, 1e-6, 1)
    assert_close(lanes.jet.profile.beta, each.jet.profile.beta, TOL, 1)


def test_replicates_without_fixed_effects():
    result = lmm.fit(
        "distance ~ 0 + us(visit | Subject)", DATA.assign(distance=DATA["distance"] - 24)
    )
    boot = lmm.bootstrap(result, 20, seed=1, progress=False)
    assert boot.n_failed == 0 and boot.params().shape == (20, 1 + 10)


def test_replicates_have_the_spread_of_the_estimates():
    fit = fitted("us")
    boot = lmm.bootstrap(fit, 200, seed=2)
    table = boot.tidy().set_index("term")
    assert boot.n_failed == 0
    # a standard deviation of 200 replicates has an error of 5 %, Wald's that of 25 subjects
    for name, se in {**fit.bse_fe, **fit.residual_params_se}.items():
        assert abs(np.log(table.loc[name, "std_error"] / se)) < 0.35, name
        assert abs(table.loc[name, "bias"]) < 0.3 * se, name
    assert_close(table.loc[list(fit.residual_params.index), "estimate"], fit.residual_params, RTOL)
    assert (table.loc[list(fit.residual_params.index), "group"] == "Residual").all()
    ratio = boot.apply(lambda r: r.residual_params["sd[v4]"] / r.residual_params["sd[v1]"])
    sd = fit.residual_params
    assert_close(ratio.estimate, [sd["sd[v4]"] / sd["sd[v1]"]], RTOL)
    assert boot.params().shape == (200, 4 + 1 + 10)


def test_replicates_do_not_depend_on_their_number():
    fit = fitted("ar1")
    e = fit.estimates
    with jax.enable_x64(True):
        few, many = (
            fit_replicates(fit.design.layout, e.theta_layout, e.scale,
                           stream=Stream(3), n=n, reml=False)[0]
            for n in (4, 20)
        )  # fmt: skip
    assert_close(few.theta, many.theta[:4], TOL, 1)


def test_power_is_that_of_simulated_fits():
    """The rate of rejections in single fits to simulated responses, within its errors."""
    fit = fitted("arms")
    table = lmm.power(fit.design, fit, 300, test="age:Sex[T.Female]", seed=4)
    y = lmm.simulate(fit, seed=9, n=100).to_numpy()
    fits = [lmm.fit(replace(fit.design, endog=column)) for column in y.T]
    rate = np.mean([one.pvalues["age:Sex[T.Female]"] < 0.05 for one in fits])
    error = np.sqrt(rate * (1 - rate) * (1 / 300 + 1 / 100))
    assert abs(table["power"].iloc[0] - rate) < 4 * error
    assert table["n_failed"].iloc[0] == 0


@pytest.mark.parametrize("name", ["us, weights", "arms", "strata", "power"])
def test_many_complete_responses_are_fitted_side_by_side(name, monkeypatch):
    """To the optima of single fits, whether subjects merge or not; one has no likelihood."""
    fit, rng = fitted(name), np.random.default_rng(6)
    y = DATA["distance"].to_numpy()
    Y = y[:, None] + rng.normal(size=(len(y), 5)) * [0, 1, 1, 2, 0]
    Y[:, 4] = 7.0
    designs = [replace(fit.design, endog=column) for column in Y[:, :4].T]
    alone = [lmm.fit(design, reml=fit.reml) for design in designs]
    single, finish = [], one_by_one.fit_begun

    def fit_begun(model, begun, *options):
        if begun is None:
            single.append(model)
        return finish(model, begun, *options)

    monkeypatch.setattr(one_by_one, "fit_begun", fit_begun)
    with pytest.warns(lmm.ConvergenceWarning, match="1 of 5 responses"):
        many = lmm.fit_many(fit.design, Y, reml=fit.reml, progress=False)
    assert len(single) <= 1  # the constant one
    assert many.converged.tolist() == [True] * 4 + [False]
    for i, one in enumerate(alone):
        assert_close(many.llf[i], one.llf, RTOL)
        assert_close(many.fe_params[i], one.fe_params, TOL, 1)
        assert_close(many.bse_fe[i], one.bse_fe, TOL)
        assert_close(many.residual_params.iloc[i], one.residual_params, TOL, 1)


def test_many_responses_are_fitted_one_by_one():
    y = DATA["distance"].to_numpy()
    Y = np.column_stack([y, y[::-1], np.where(np.arange(len(y)) < 7, np.nan, y), 0 * y])
    Y[:, 3] = np.where(DATA["visit"] == "v2", np.nan, y)  # no row of a visit
    with pytest.warns(lmm.ConvergenceWarning, match="1 of 4 responses"):
        many = lmm.fit_many("~ age * Sex + us(visit | Subject)", DATA, Y, progress=False)
    assert many.converged.tolist() == [True, True, True, False]
    assert np.isnan(many.fe_params[3]).all() and many.residual_params.iloc[3].isna().all()
    for i in range(3):
        one = many.select(i)
        rows = ~np.isnan(Y[:, i])
        alone = lmm.fit("y ~ age * Sex + us(visit | Subject)", DATA[rows].assign(y=Y[rows, i]))
        assert_close(many.llf[i], alone.llf, RTOL)
        assert_close(many.fe_params[i], alone.fe_params, TOL, 1)
        assert_close(many.bse_fe[i], alone.bse_fe, TOL)
        assert_close(many.df[i], alone.df, 1e-4)
        assert_close(many.residual_params.iloc[i], alone.residual_params, TOL, 1)
        assert_close(one.residual_params, alone.residual_params, TOL, 1)
        assert many.nobs[i] == alone.nobs


# ------------------------------------------------------------ influence


@pytest.mark.parametrize("name", MODELS)
def test_hat_values(name):
    """``d fitted / d y`` at given covariances."""
    fit, at = fitted(name), rows_of(fitted(name))
    hat = 1.0 - np.diagonal(at.R @ at.P)
    rows = lmm.influence(fit, "row")
    assert_close(rows.hat_values, hat, 1e-8, 1)
    groups = lmm.influence(fit)
    assert_close(groups.hat_values, np.bincount(fit.design.group_codes, hat), 1e-8, 1)
    assert rows.conditional_cooks is None


@pytest.mark.parametrize("name", ["us", "ar1", "times", "arms", "strata", "sites"])
def test_a_fit_without_a_subject(name):
    """One step from the fit, whose error is of second order in the step."""
    fit, (text, options) = fitted(name), MODELS[name]
    found = lmm.influence(fit, "Subject" if name == "sites" else "group")
    for subject in ("M10", "F04"):
        rest, got = (
            lmm.fit(text, DATA[DATA["Subject"] != subject], **options),
            found.params.loc[subject],
        )
        assert (np.abs(got[rest.fe_params.index] - rest.fe_params) < 0.05 * fit.bse_fe).all()
        sd, se = fit.residual_params, fit.residual_params_se
        error = np.abs(got[sd.index] - rest.residual_params)
        assert (error < 0.3 * np.abs(rest.residual_params - sd) + 0.1 * se).all()


@pytest.mark.parametrize("name", ["ar1", "times", "arms", "strata", "toeph, weights"])
def test_a_fit_without_a_row(name):
    fit, (text, options) = fitted(name), MODELS[name]
    found = lmm.influence(fit, "row")
    row = found.cooks_distance.idxmax()
    rest = lmm.fit(text, DATA.drop(index=row), **options)
    got = found.params.loc[row, list(rest.fe_params.index)]
    assert (np.abs(got - rest.fe_params) < 0.02 * fit.bse_fe).all()
    assert (np.abs(fit.fe_params - rest.fe_params) > 0.5 * fit.bse_fe).any()


@pytest.mark.parametrize("name", ["us, weights", "intercept", "strata", "sites"])
def test_derivatives_are_those_of_more_and_fewer_copies_of_a_group(name):
    """Every group fifty times, one of them 49 and 51 times: a weight of its likelihood."""
    text, options = MODELS[name]
    factor = "site" if name == "sites" else "Subject"
    many = pd.concat(
        [DATA.assign(Subject=DATA["Subject"].astype(str) + f"_{k}", site=DATA["site"] + f"_{k}")
         for k in range(51)],
        ignore_index=True,
    )  # fmt: skip
    label = many[factor].str.partition("_")
    copy, group = label[2].astype(int), label[0]
    found = lmm.influence(lmm.fit(text, DATA, **{**options, "reml": False})).derivatives
    chosen = found.index[4]
    values = []
    for count in (49, 51):
        keep = copy < np.where(group == chosen, count, 50)
        fit = lmm.fit(text, many[keep], **{**options, "reml": False})
        values.append(np.concatenate([fit.params, [fit.scale], fit.residual_params]))
    slope = (values[1] - values[0]) / (2 / 50)
    size = np.sqrt((found**2).mean()).to_numpy()
    assert (np.abs(found.loc[chosen] - slope) < 5e-3 * size + 1e-3 * np.abs(slope)).all()


@pytest.mark.parametrize("name", MODELS)
def test_derivatives_in_the_weights_of_groups_add_up_to_nothing(name):
    """At the optimum of the likelihood the slopes of all groups cancel."""
    text, options = MODELS[name]
    fit = lmm.fit(text, DATA, **{**options, "reml": False})
    psi = lmm.influence(fit).derivatives
    size = np.sqrt((psi**2).sum())
    assert (np.abs(psi.sum()) < 1e-4 * size).all()
    assert list(psi.columns[-len(fit.residual_params) :]) == list(fit.residual_params.index)


# ------------------------------------------------------------ measures, tables, comparisons


@pytest.mark.parametrize("name", MODELS)
def test_shares_of_the_variance(name):
    """The variance of a residual is the mean over the rows, taken without their weights."""
    fit, at = fitted(name), rows_of(fitted(name))
    w = np.ones(fit.nobs) if fit.design.weights is None else fit.design.weights
    noise = np.mean(np.diagonal(at.R) * w)
    random = np.mean(np.diagonal(at.V - at.R))
    fixed = np.var(at.X @ fit.fe_params.to_numpy(), ddof=1)
    total = fixed + random + noise
    found = lmm.r2(fit)
    assert_close([found.marginal, found.conditional], [fixed / total, 1 - noise / total], 1e-8)
    table = lmm.variance_components(fit)
    assert_close(table["variance"].iloc[-1], noise, 1e-8)
    glance = fit.glance().iloc[0]
    assert_close(glance["r2_marginal"], found.marginal, RTOL)
    if fit.design.terms:
        assert_close(lmm.icc(fit).adjusted, random / (random + noise), 1e-8)
        assert_close(glance["icc"], random / (random + noise), 1e-8)
    else:
        assert np.isnan(glance["icc"])
        with pytest.raises(lmm.DataError, match="this model has none"):
            lmm.icc(fit)


def test_the_error_of_the_mean_residual_variance():
    """By the delta method from the standard deviations of the visits, a simulated covariance."""
    fit = fitted("us")
    share = DATA["visit"].value_counts(normalize=True).sort_index().to_numpy()
    boot = lmm.bootstrap(fit, 400, seed=2).params().filter(regex=r"^sd\[")
    spread = (boot.to_numpy() ** 2 @ share).std(ddof=1)
    assert abs(np.log(lmm.variance_components(fit)["std_error"].iloc[-1] / spread)) < 0.2


def test_tidy_has_the_residual_parameters():
    fit = fitted("intercept")
    table = fit.tidy(effects="ran_pars").set_index("term")
    names = list(fit.residual_params.index)
    assert_close(table.loc[names, "estimate"], fit.residual_params, 0)
    assert_close(table.loc[names, "std_error"], fit.residual_params_se, 0)
    assert (table.loc[["sd__Observation", *names], "group"] == "Residual").all()


def test_random_effects_left_out_beside_a_residual_covariance():
    fit = fitted("intercept")
    table = lmm.ranova(fit)
    small = lmm.fit("distance ~ age * Sex + ar1(visit | Subject) * diag(Sex)", DATA)
    row = table.loc["(1 | Subject)"]
    assert_close(row["llf"], small.llf, RTOL)
    assert_close(row["chisq"], 2 * (fit.llf - small.llf), 1e-6, 1)
    assert row["df"] == 1 and row["npar"] == small.n_params
    assert_close(row["p_boundary"], 0.5 * stats.chi2.sf(row["chisq"], 1), RTOL)
    slopes = fitted("strata")
    rows = lmm.ranova(slopes)
    weights = dict(weights="w")
    less = lmm.fit("distance ~ age * Sex + (1 | Subject) + diag(Sex)", DATA, **weights)
    assert_close(rows.loc["age in (age | Subject)", "llf"], less.llf, RTOL)


NESTED = {
    "cs in us": ("cs(visit | Subject)", "us(visit | Subject)", 8),
    "ar1 in ar1h": ("ar1(visit | Subject)", "ar1h(visit | Subject)", 3),
    "ar1 in toep": ("ar1(visit | Subject)", "toep(visit | Subject)", 2),
    "one in diag": ("(1 | Subject)", "(1 | Subject) + diag(Sex)", 1),
    "alike in arms": ("cs(visit | Subject)", "cs(visit | Sex / Subject)", 2),
    "ages in visits": ("ar1(age | Subject)", "us(age | Subject)", 8),
    "ages in a chain": ("ar1(age | Subject)", "ad(age | Subject)", 2),
    "distances in visits": ("toep(age | Subject)", "us(visit | Subject)", 6),
    "strata in strata": ("diag(Sex)", "diag(Sex:age)", 6),
    "strata in arms": ("diag(Sex)", "us(visit | Sex / Subject)", 18),
    "strata in a product": (
        "(1 | Subject) + diag(Sex)",
        "(1 | Subject) + diag(Sex) * power(age)",
        1,
    ),
    "a power in a product": ("power(age)", "ar1(visit | Subject) * diag(Sex) * power(age)", 2),
    "times in visits": ("sp_exp(age | Subject)", "us(visit | Subject)", 8),
    "a nugget in visits": ("car1(age | Subject, nugget=True)", "symm(visit | Subject)", 4),
    "an intercept in us": ("(1 | Subject)", "us(visit | Subject)", 8),
    "an intercept in csh": ("(1 | Subject)", "csh(visit | Subject)", 3),
    "an intercept in arms": ("(1 | Subject)", "cs(visit | Sex / Subject)", 2),
    "a slope in us": ("(age | Subject)", "us(visit | Subject)", 6),
    "an intercept and ar1 in toep": (
        "(1 | Subject) + ar1(visit | Subject)",
        "toep(visit | Subject)",
        1,
    ),
    "an intercept and ar1h in us": (
        "(1 | Subject) + ar1h(visit | Subject)",
        "us(visit | Subject)",
        4,
    ),
}


@pytest.mark.parametrize(("small", "large", "df"), NESTED.values(), ids=NESTED)
def test_likelihood_ratios_of_residual_covariances(small, large, df):
    one, two = (lmm.fit(f"distance ~ age * Sex + {text}", DATA) for text in (small, large))
    table = lmm.anova(one, two, refit=False)
    chisq = 2 * (two.llf - one.llf)
    assert_close(table["chisq"].iloc[1], chisq, RTOL, 1)
    assert table["df"].iloc[1] == df
    assert_close(table["p_value"].iloc[1], stats.chi2.sf(chisq, df), 1e-8)


def test_a_likelihood_ratio_of_random_effects_and_a_residual_covariance():
    """``nlme::anova.lme`` of lme and gls by ML."""
    data = lmm.load_dataset("orthodont")
    formula = "distance ~ age * Sex + "
    two = lmm.fit(formula + "us(age | Subject)", data, reml=False)
    for term, chisq in {"(1 | Subject)": 9.1620099051, "(age | Subject)": 8.32890268535}.items():
        table = lmm.anova(lmm.fit(formula + term, data, reml=False), two)
        assert_close(table["chisq"].iloc[1], chisq, 1e-7)


def test_weights_scale_residuals_and_no_random_effects():
    data = DATA.assign(w=np.random.default_rng(1).uniform(0.5, 2.0, len(DATA)))
    one, two = (
        lmm.fit(f"distance ~ Sex + {text}", data, weights="w")
        for text in ("(1 | Subject)", "us(visit | Subject)")
    )
    with pytest.raises(lmm.DataError, match="no special case of the other"):
        lmm.anova(one, two, refit=False)


@pytest.mark.parametrize(
    ("residual", "reml", "llf", "expected"),
    [
        ("(1 | Subject) + diag(Sex) * power(age)", True, -206.972747143,
         {"sd[Male]": 6.241436, "sd[Female]": 6.241436 * 0.4630982, "power": -0.559947}),
        ("(1 | Subject) + expo(age) * diag(Sex)", False, -204.078861796,
         {"sd[Male]": 2.852124, "sd[Female]": 2.852124 * 0.4617953, "expo": -0.0507672}),
        ("ar1(row | Subject) * diag(Sex) * power(age)", True, -216.472721134,
         {"sd[Male]": 3.633326, "sd[Female]": 3.633326 * 0.5657320, "power": -0.0693475,
          "rho": 0.7477299}),
    ],
)  # fmt: skip
def test_a_standard_deviation_of_a_level_times_one_of_a_covariate(residual, reml, llf, expected):
    """nlme's ``varComb(varIdent(form = ~ 1 | Sex), varPower(form = ~ age))``, and ``varExp``."""
    data = lmm.load_dataset("orthodont")
    result = lmm.fit(f"distance ~ age * Sex + {residual}", data, reml=reml)
    assert result.converged and abs(result.llf - llf) < 2e-9
    # the criterion is flat: nlme stops up to 1e-9 of it below, which is 1e-4 of the power
    assert_close(result.residual_params, np.array(list(expected.values())), 1e-4)
    assert list(result.residual_params.index) == list(expected)


def test_the_variance_of_a_stratum_at_a_covariate():
    data = lmm.load_dataset("orthodont")
    result = lmm.fit("distance ~ age * Sex + (1 | Subject) + diag(Sex) * power(age)", data)
    sd, power = result.residual_params["sd[Female]"], result.residual_params["power"]
    found = result.residual_cov(stratum="Female", covariate=10)
    assert_close(found.to_numpy(), [[(sd * 10**power) ** 2]], RTOL)
    assert list(found.index) == ["Female"]
    with pytest.raises(lmm.DataError, match="pass covariate="):
        result.residual_cov(stratum="Female")
    with pytest.raises(lmm.DataError, match="no variance there"):
        result.residual_cov(stratum="Female", covariate=0)


@pytest.mark.parametrize("residual", ["us(age | Subject) * power(age)", "diag(age) * expo(age)"])
def test_a_covariate_that_its_levels_know_is_refused(residual):
    with pytest.raises(lmm.DataError, match="`age` is the same in all rows within every level"):
        lmm.fit(f"distance ~ Sex + {residual}", DATA)


def test_covariances_that_are_not_nested_are_not_compared_by_a_ratio():
    other = lmm.fit("distance ~ age * Sex + cs(visit | Subject)", DATA)
    with pytest.raises(lmm.DataError, match="no special case of the other"):
        lmm.anova(fitted("times"), other)


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ("(1 | Subject)", "ad(visit | Subject)"),
        ("(age | Subject)", "symm(visit | Subject)"),  # one variance of all visits
        ("(x | Subject)", "us(visit | Subject)"),
        ("(1 | Sex:age)", "us(visit | Subject)"),
        ("(1 | Subject) + diag(Sex)", "toep(visit | Sex / Subject)"),
    ],
)
def test_random_effects_that_residuals_have_no_room_for(small, large):
    data = DATA.assign(x=np.random.default_rng(0).normal(size=len(DATA)))
    one, two = (lmm.fit(f"distance ~ Sex + {text}", data) for text in (small, large))
    with pytest.raises(lmm.DataError, match="no special case of the other"):
        lmm.anova(one, two, refit=False)


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ("symm(visit | Subject)", "us(other | Subject)"),
        ("ar1(age | Subject)", "ad(other | Subject)"),
        ("ar1(age | Subject)", "ad(backwards | Subject)"),
        ("ar1h(visit | Subject)", "us(other | Subject)"),
    ],
)
def test_visits_that_do_not_tell_each_other(small, large):
    """Visits that are numbered otherwise in half of the subjects, or in another order in all."""
    order = np.array(["v1", "v2", "v3", "v4"])
    visit = DATA["age"].to_numpy().astype(int) // 2 - 4
    other = np.where(DATA["Sex"] == "Male", order[visit], order[[1, 0, 3, 2]][visit])
    data = DATA.assign(other=other, backwards=order[[0, 2, 1, 3]][visit])
    one, two = (lmm.fit(f"distance ~ age * Sex + {text}", data) for text in (small, large))
    with pytest.raises(lmm.DataError, match="no special case of the other"):
        lmm.anova(one, two, refit=False)


def test_a_bootstrapped_ratio():
    one = lmm.fit("distance ~ age + ar1(visit | Subject)", DATA)
    two = lmm.fit("distance ~ age * Sex + ar1(visit | Subject)", DATA)
    table = lmm.anova(one, two, bootstrap=20, seed=1)
    assert 0 < table["p_bootstrap"].iloc[1] <= 1


@pytest.mark.parametrize("name", ["us", "sites", "times"])
def test_profile_intervals(name):
    """At both ends the likelihood, maximized over the rest, has fallen by half of q^2."""
    fit, text = fitted(name), MODELS[name][0]
    whole = lmm.fit(text, DATA, reml=False)
    ends = fit.conf_int(method="profile", level=0.8).loc["age"]
    for value in ends:
        moved = DATA.assign(off=value * DATA["age"], slope=DATA["age"] * (DATA["Sex"] == "Female"))
        rest = text.replace("age * Sex", "Sex + slope", 1)
        held = lmm.fit(rest, moved, offset="off", reml=False)
        assert_close(2 * (whole.llf - held.llf), stats.chi2.ppf(0.8, 1), 1e-5)


# ------------------------------------------------------------ other roads to the same fit


@pytest.mark.parametrize("name", ["us", "intercept", "arms", "strata"])
def test_every_optimizer_and_runtime_finds_the_optimum(name):
    fit, (text, options) = fitted(name), MODELS[name]
    for more in ({"method": "lbfgs"}, {"method": "bfgs"}, {"runtime": "jax"}):
        again = lmm.fit(text, DATA, **options, **more)
        assert_close(again.llf, fit.llf, RTOL)
        assert_close(again.residual_params, fit.residual_params, 1e-4, 1)


def test_start_values_and_held_fixed_effects():
    fit = fitted("intercept")
    P = lmm.Params.from_components
    start = P(fe_params=np.zeros(4), cov_re=[[9.0]])
    assert_close(lmm.fit(fit.design, start_params=start).llf, fit.llf, RTOL)
    free = P(fe_params=[1, 1, 1, 0], cov_re=[[1]])
    held = lmm.fit(fit.design, free=free, start_params=start, reml=False)
    slope = lmm.fit(
        "distance ~ age + Sex + (1 | Subject) + ar1(visit | Subject) * diag(Sex)", DATA, reml=False
    )
    assert held.fe_params.iloc[-1] == 0.0
    assert_close(held.llf, slope.llf, RTOL)
    fixed = P(fe_params=np.ones(4), cov_re=[[0]])
    with pytest.raises(lmm.DataError, match="works on the random effects alone"):
        lmm.fit(fit.design, free=fixed, start_params=start)


def test_the_criterion_at_any_theta():
    """Beside a dense evaluation of the restricted likelihood, the residual variance profiled."""
    fit = fitted("sites")
    at = fit.estimates.theta.copy()
    with jax.enable_x64(True):
        assert_close(lmm.profile_loglike(at, fit.design.layout), fit.llf, RTOL)
        params = lmm.Params.from_components(cov_re=[[1.0]])
        for call in (lmm.loglike, lmm.score, lmm.hessian):
            with pytest.raises(lmm.DataError, match="which Params do not hold"):
                call(params, fit.design.layout)
        with pytest.raises(
            lmm.DataError, match="fit_params with start= cannot take a model with a res"
        ):
            lmm.fit_params(fit.design.layout, params)
        slope = jax.grad(lambda theta: lmm.profile_loglike(theta, fit.design.layout))(at)
    assert (np.abs(slope) < 1e-3).all()


def test_the_conditional_aic_is_refused():
    with pytest.raises(lmm.DataError, match=r"compare by res\.aic"):
        lmm.caic(fitted("intercept"))


# ------------------------------------------------------------ SAS's figures

CASES: dict[str, dict[str, Any]] = {
    case["name"]: case
    for case in json.loads((INFERENCE.parent / "sas_fev.json").read_text("utf-8"))["cases"]
}
ROBUST = [name for name, case in CASES.items() if "vcov_full" in case and "empirical" in name]
PREDICTED = [name for name, case in CASES.items() if "predictions" in case]
RESIDUALS = [name for name, case in CASES.items() if "residuals" in case]


@cache
def trial() -> pd.DataFrame:
    folder = INFERENCE.parent / "data"
    data = pd.read_csv(folder / "inf_fev.csv")
    at = pd.read_csv(folder / "inf_fev_visitn2.csv")
    return data.merge(at, on=["USUBJID", "AVISIT"], validate="one_to_one")


@cache
def sas_fit(name: str) -> lmm.LMMResults:
    case = CASES[name]
    text = case["model"]["formula"].replace("VISITN, VISITN2", "VISITN + VISITN2")
    data, weights = trial().dropna(subset="FEV1"), case["model"]["weights"]
    if "fit_weight" in case:
        data, weights = data.assign(fit_weight=np.array(case["fit_weight"], float)), "fit_weight"
    return lmm.fit(text, data, weights=weights, runtime="numpy")


@pytest.mark.parametrize("name", ROBUST)
def test_sas_empirical_covariances(name):
    case = CASES[name]
    robust = sas_fit(name).robust("CR0").with_df("between-within")
    assert_close(robust.cov_params().iloc[:2, :2], case["vcov_full"]["matrix"], 2 * SAS_RTOL)
    assert robust.df.tolist() == [195.0, 195.0]  # 197 subjects less two columns between them
    for row, se, df in zip(case["fixed_effects"], robust.bse_fe, robust.df, strict=True):
        assert abs(se - row["se"]) < row["tol"]["se"] + SAS_RTOL * row["se"]
        assert df == row["df"]


def test_sas_degrees_of_freedom_between_and_within():
    """Of an unstructured covariance columns within subjects have those between them."""
    fit = sas_fit("sas_resid_us").with_df("between-within")
    for row in CASES["sas_resid_us"]["type3_tests"]:
        table = fit.anova()
        assert table.loc[row["effect"].replace("*", ":"), "df_denom"] == row["den_df"]


@pytest.mark.parametrize("name", RESIDUALS)
def test_sas_residuals(name):
    fit, data = sas_fit(name), trial().dropna(subset="FEV1")
    keys = pd.MultiIndex.from_frame(data[["USUBJID", "AVISIT"]])
    kinds = {
        "residual": fit.resid("marginal"),
        "scaled_residual": fit.resid("whitened"),
        "student_residual": fit.resid("standardized"),
        "pearson_residual": fit.resid("pearson"),
    }
    for row in CASES[name]["residuals"]["rows"]:
        at = keys.get_loc((row["USUBJID"], row["AVISIT"]))
        for kind, values in kinds.items():
            digits = 1e-4 if kind == "residual" else 1e-5
            allowed = digits + SAS_RTOL * max(1.0, abs(row[kind]))
            assert abs(values.iloc[at] - row[kind]) < allowed, (kind, row)


@pytest.mark.parametrize("name", PREDICTED)
def test_sas_predictions(name):
    """Those of missing visits are conditional means with the error of an observation there."""
    case, fit, data = CASES[name]["predictions"], sas_fit(name), trial()
    level = 0.95
    marginal = fit.predict(data, se=True)
    # patients of whom nothing was seen are predicted like the population
    how = dict(conditional=True, new_levels="population", interval="prediction", level=level)
    table = fit.predict(data, **how)
    q = stats.t.ppf(0.5 + 0.5 * level, fit.df_resid)
    missing = data["FEV1"].isna().to_numpy()
    se = np.where(missing, (table["upper"] - table["fit"]) / q, table["std_error"])
    expected = pd.DataFrame(case["first_rows"], columns=case["columns"])
    first = len(expected)
    assert (~missing[:first] == expected["observed"]).all()
    assert_close(marginal["fit"].head(first), expected["marginal"], SAS_RTOL)
    assert_close(table["fit"].head(first), expected["conditional"], SAS_RTOL)
    sums = case["sums_over_800_rows"]
    assert_close(table["fit"].sum(), sums["conditional"], SAS_RTOL)
    if "kr" in name:  # SAS adjusts the fixed effects' part, mildly
        return
    assert_close(marginal["std_error"].head(first), expected["se_marginal"], SAS_RTOL)
    assert_close(se[:first], expected["se_conditional"], SAS_RTOL)
    assert_close(se.sum(), sums["se_conditional"], SAS_RTOL)


def test_a_subject_that_was_not_seen_is_refused():
    data = trial()
    fit = lmm.fit("FEV1 ~ ARMCD * AVISIT + ar1(AVISIT | USUBJID)", data)
    new = data.iloc[:2].assign(USUBJID="nobody")
    with pytest.raises(lmm.DataError, match="has not seen the subject 'nobody'"):
        fit.predict(new, conditional=True)
    known = fit.predict(new, conditional=True, new_levels="population")
    assert_close(known, fit.predict(new), 1e-12)


ENDS = {
    "no correlation": ("(1 | Subject)", "(1 | Subject) + sp_exp(age | Subject)", 1),
    "no correlation in time": ("(1 | Subject)", "(1 | Subject) + car1(age | Subject)", 1),
    "no nugget": ("sp_exp(age | Subject)", "sp_exp(age | Subject, nugget=True)", 1),
    "neither": ("(1 | Subject)", "(1 | Subject) + sp_exp(age | Subject, nugget=True)", 2),
}


@pytest.mark.parametrize(("small", "large", "ends"), ENDS.values(), ids=ENDS)
def test_ends_of_ranges_of_residuals(small, large, ends):
    one, two = (lmm.fit(f"distance ~ age * Sex + {text}", DATA) for text in (small, large))
    row = lmm.anova(one, two, refit=False).iloc[1]
    chisq = 2 * (two.llf - one.llf)
    assert row["df"] == ends and row["chisq"] > -1e-6
    assert_close(row["p_value"], stats.chi2.sf(chisq, ends), 1e-6)
    if ends == 1:
        mixture = 0.5 * (chisq <= 1e-7) + 0.5 * stats.chi2.sf(chisq, 1)
        assert_close(row["p_boundary"], mixture, 1e-6)
    else:
        assert np.isnan(row["p_boundary"])


def test_no_random_effects_make_an_empty_table():
    table = lmm.fit("distance ~ age + ar1(visit | Subject)", DATA).random_effects_frame()
    assert len(table) == 0
    assert table.columns.tolist() == [
        *("factor", "term", "level", "estimate", "std_error", "conf_low", "conf_high")
    ]


def test_bootstrap_intervals_stand_in_the_rows_of_the_others():
    fit = lmm.fit("distance ~ age + (1 | Subject) + diag(Sex)", lmm.load_dataset("orthodont"))
    boot = lmm.bootstrap(fit, 30, seed=1)
    for scale in ("vcov", "sdcor"):
        found = fit.conf_int(method="bootstrap", n_boot=30, seed=1, scale=scale)
        assert found.index.equals(fit.conf_int(scale=scale).index)
        own = boot.conf_int(scale=scale).iloc[: len(found)].to_numpy().copy()
        own[-1] = own[-1] ** (2 if scale == "vcov" else 1)  # of sigma, or of the variance
        assert_close(found, own, 1e-12)
