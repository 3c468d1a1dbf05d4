"""The estimator of scikit-learn: the numbers of `lmm.fit`, and the manners of scikit-learn."""

import pickle
import warnings
from contextlib import suppress

import numpy as np
import pandas as pd
import polars as pl
import pytest
import samples

import lmm_jax as lmm

pytest.importorskip("sklearn")

import sklearn
from sklearn.base import clone
from sklearn.metrics import r2_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import _num_samples

from lmm_jax.sklearn import MixedRegressor

RTOL = 1e-9  # one model through two doors: the optimizer ends at the same point up to rounding

DATA = samples.frame()
X, Y, G = DATA[["x", "z"]], DATA["y"], DATA["g"]
NEW = X[:6] + 0.25


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


# ------------------------------------------------------------ the numbers of lmm.fit

MODELS = {
    "intercepts": ({}, "y ~ x + z + (1 | g)"),
    "a slope": ({"slopes": ["x"]}, "y ~ x + z + (1 + x | g)"),
    "a slope by place": ({"slopes": [0]}, "y ~ x + z + (1 + x | g)"),
    "one name": ({"slopes": "x"}, "y ~ x + z + (1 + x | g)"),
    "uncorrelated": ({"slopes": ["x"], "correlated": False}, "y ~ x + z + (1 + x || g)"),
    "slopes alone": ({"slopes": "all", "random_intercept": False}, "y ~ x + z + (0 + x + z | g)"),
    "through the origin": ({"fit_intercept": False}, "y ~ 0 + x + z + (1 | g)"),
    "by likelihood": ({"reml": False}, "y ~ x + z + (1 | g)"),
}


@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_model_of_the_formula(name):
    options, formula = MODELS[name]
    got = MixedRegressor(**options).fit(X, Y, groups=G)
    want = lmm.fit(formula, DATA, reml=options.get("reml", True))
    np.testing.assert_allclose(got.results_.llf, want.llf, rtol=RTOL)
    np.testing.assert_allclose(got.coef_, want.fe_params[["x", "z"]], rtol=1e-6)
    np.testing.assert_allclose(got.intercept_, want.fe_params.get("Intercept", 0.0), rtol=1e-6)
    np.testing.assert_allclose(got.predict(NEW), want.predict(NEW), rtol=1e-6)
    known = got.predict(NEW, groups=G[:6])
    np.testing.assert_allclose(
        known, want.predict(NEW.assign(g=G[:6]), conditional=True), rtol=1e-5
    )


def test_weights_are_prior_weights():
    got = MixedRegressor().fit(X, Y, groups=G, sample_weight=DATA["w"])
    want = lmm.fit("y ~ x + z + (1 | g)", DATA, weights="w")
    np.testing.assert_allclose(got.results_.llf, want.llf, rtol=RTOL)
    alone = MixedRegressor().fit(X, Y, groups=G)
    constant = MixedRegressor().fit(X, Y, groups=G, sample_weight=3.0)
    np.testing.assert_allclose(constant.coef_, alone.coef_)


def test_a_row_without_weight_is_no_row():
    weights = np.where(np.arange(len(X)) % 7 == 0, 0.0, DATA["w"])
    rows = weights > 0
    got = MixedRegressor().fit(X, Y, groups=G, sample_weight=weights)
    want = MixedRegressor().fit(X[rows], Y[rows], groups=G[rows], sample_weight=weights[rows])
    np.testing.assert_array_equal(got.coef_, want.coef_)


def test_groups_that_were_not_seen_have_the_mean_of_the_population():
    model = MixedRegressor(slopes=["x"]).fit(X, Y, groups=G)
    mean = model.predict(NEW)
    np.testing.assert_array_equal(model.predict(NEW, groups=["new"] * 6), mean)
    np.testing.assert_array_equal(model.predict(NEW, groups=[None] * 6), mean)
    mixed = model.predict(NEW, groups=["g0", "new"] * 3)
    np.testing.assert_array_equal(mixed[1::2], mean[1::2])
    assert (mixed[::2] != mean[::2]).all()


def test_labels_match_whatever_their_type():
    codes = G.str[1:].astype(int)
    model = MixedRegressor().fit(X, Y, groups=codes)
    want = model.predict(NEW, groups=codes[:6].to_numpy())
    np.testing.assert_array_equal(model.predict(NEW, groups=codes[:6].astype(str).tolist()), want)
    np.testing.assert_array_equal(model.predict(NEW, groups=codes[:6].astype(float)), want)


def test_frames_of_every_kind_and_arrays():
    want = MixedRegressor(slopes=["x"]).fit(X, Y, groups=G)
    assert want.feature_names_in_.tolist() == ["x", "z"]
    assert want.results_.fe_params.index.tolist() == ["Intercept", "x", "z"]
    frame = pl.DataFrame({name: X[name].to_numpy() for name in X})
    other = MixedRegressor(slopes=["x"]).fit(frame, pl.Series(Y.to_list()), groups=pl.Series(G))
    np.testing.assert_allclose(other.coef_, want.coef_)
    np.testing.assert_allclose(other.predict(frame, groups=pl.Series(G)), want.predict(X, G))
    np.testing.assert_allclose(other.predict(frame.lazy(), groups=G), want.predict(X, G))
    bare = MixedRegressor(slopes=[0]).fit(X.to_numpy(), Y.to_numpy(), groups=G.to_numpy())
    np.testing.assert_allclose(bare.coef_, want.coef_)
    assert bare.random_effects_.columns.tolist() == ["Intercept", "x0"]
    with pytest.raises(ValueError, match="feature names"):
        want.predict(X[["z", "x"]])


def test_a_column_that_others_determine_has_the_coefficient_zero():
    with pytest.warns(lmm.RankWarning):
        model = MixedRegressor().fit(X.assign(twice=2 * X["x"]), Y, groups=G)
    assert model.coef_[2] == 0
    np.testing.assert_allclose(model.coef_[:2], MixedRegressor().fit(X, Y, groups=G).coef_)


def test_a_slope_of_zeros_in_a_group():
    none = X.assign(x=X["x"].where(G != "g3", 0.0))
    options = dict(slopes=["x"], correlated=False, random_intercept=False)
    model = MixedRegressor(**options).fit(none, Y, groups=G)
    row = pd.DataFrame({"x": [1.0], "z": [0.0]})
    np.testing.assert_array_equal(model.predict(row, groups=["g3"]), model.predict(row))


# ------------------------------------------------------------ the manners of scikit-learn


def test_groups_go_through_pipelines(routing):
    pipe = make_pipeline(StandardScaler(), MixedRegressor(slopes=[0]))
    pipe.fit(X, Y, groups=G)
    scaled = StandardScaler().fit(X)
    want = MixedRegressor(slopes=[0]).fit(scaled.transform(X), Y, groups=G)
    np.testing.assert_allclose(pipe.predict(X, groups=G), want.predict(scaled.transform(X), G))
    np.testing.assert_allclose(pipe.predict(X), want.predict(scaled.transform(X)))
    np.testing.assert_allclose(
        pipe.score(X, Y, groups=G), r2_score(Y, pipe.predict(X, groups=G)), rtol=1e-12
    )
    named = make_pipeline(StandardScaler(), MixedRegressor(slopes=["x"])).set_output(
        transform="pandas"
    )
    np.testing.assert_allclose(named.fit(X, Y, groups=G).predict(X), pipe.predict(X))


def test_what_is_asked_for_can_be_said(routing):
    quiet = MixedRegressor().set_predict_request(groups=False).set_score_request(groups=False)
    pipe = make_pipeline(
        StandardScaler().set_fit_request(sample_weight=False),
        quiet.set_fit_request(groups=True, sample_weight=True),
    )
    pipe.fit(X, Y, groups=G, sample_weight=DATA["w"])
    assert pipe[-1].results_.design.weights is not None
    with pytest.raises(TypeError, match="groups"):
        pipe.predict(X, groups=G)


@pytest.mark.filterwarnings("ignore:The groups parameter is ignored by KFold")
@pytest.mark.parametrize("splitter", [GroupKFold(5), KFold(5, shuffle=True, random_state=0)])
def test_cross_validation(routing, splitter):
    """Splits by hand: groups left out are new, rows left out have known groups."""
    got = cross_val_score(MixedRegressor(), X, Y, params={"groups": G}, cv=splitter)
    want = []
    for train, test in splitter.split(X, Y, G):
        model = MixedRegressor().fit(X.iloc[train], Y.iloc[train], groups=G.iloc[train])
        known = model.predict(X.iloc[test], groups=G.iloc[test])
        if isinstance(splitter, GroupKFold):
            np.testing.assert_array_equal(known, model.predict(X.iloc[test]))
        want.append(r2_score(Y.iloc[test], known))
    np.testing.assert_allclose(got, want, rtol=1e-9)
    errors = cross_validate(
        MixedRegressor(), X, Y, params={"groups": G}, cv=splitter, scoring="neg_mean_squared_error"
    )["test_score"]
    assert np.isfinite(errors).all()


@pytest.mark.filterwarnings("ignore:The groups parameter is ignored by KFold")
def test_a_search(routing):
    pipe = make_pipeline(StandardScaler(), MixedRegressor())
    grid = {"mixedregressor__slopes": [None, [0]], "mixedregressor__reml": [True, False]}
    search = GridSearchCV(pipe, grid, cv=KFold(3, shuffle=True, random_state=1))
    search.fit(X, Y, groups=G)
    assert search.best_params_["mixedregressor__slopes"] == [0]  # the slopes do vary
    assert np.isfinite(search.best_estimator_.predict(X, groups=G)).all()


def test_without_routing_nothing_is_fitted_without_groups():
    with pytest.raises(ValueError, match=r"groups is missing.*enable_metadata_routing"):
        MixedRegressor().fit(X, Y)
    with pytest.raises(ValueError, match="groups is missing"):
        cross_val_score(MixedRegressor(), X, Y, groups=G, cv=GroupKFold(5), error_score="raise")


def test_clones_and_pickles():
    model = MixedRegressor(slopes=["x"], reml=False)
    assert clone(model).get_params() == model.get_params()
    model.fit(X, Y, groups=G)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(NEW, groups=G[:6]), model.predict(NEW, G[:6]))
    assert again.results_.llf == model.results_.llf
    assert not hasattr(clone(model), "results_")
    assert repr(model) == "MixedRegressor(reml=False, slopes=['x'])"


REFUSED = {
    "no such column": (
        dict(slopes=["nothing"]),
        {},
        "slopes has 'nothing': X has the columns x, z",
    ),
    "no such place": (dict(slopes=[2]), {}, "slopes has 2: X has the columns"),
    "a fraction": (dict(slopes=0.5), {}, "slopes=0.5: pass names or places"),
    "nothing random": (dict(random_intercept=False), {}, "no random effects"),
    "nothing at all": (dict(random_intercept=False, correlated=False), {}, "no random effects"),
    "a word": (dict(reml="yes"), {}, "reml='yes'"),
    "another word": (dict(correlated="yes"), {}, "correlated='yes'"),
    "an optimizer": (dict(method="sgd"), {}, "method='sgd'"),
    "short groups": ({}, dict(groups=G[1:]), "groups has 59 entries"),
    "a missing group": ({}, dict(groups=G.where(G != "g1")), "missing values in 'groups'"),
    "one group": ({}, dict(groups=["a"] * len(X)), "one level"),
    "short weights": ({}, dict(sample_weight=[1.0]), "sample_weight has 1 entries"),
    "negative weights": ({}, dict(sample_weight=-DATA["w"]), "weights"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    options, given, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        MixedRegressor(**options).fit(X, Y, **{"groups": G, **given})


def test_a_name_of_two_columns_is_refused():
    model, twice = MixedRegressor().fit(X, Y, groups=G), X.set_axis(["x", "x"], axis=1)
    for call in (lambda: model.fit(twice, Y, groups=G), lambda: model.predict(twice)):
        with pytest.raises(ValueError, match="several columns named 'x'"):
            call()


def test_a_name_that_is_asked_for():
    assert lmm.sklearn.MixedRegressor is MixedRegressor
    assert "sklearn" not in lmm.__all__


# ------------------------------------------------------------ scikit-learn's own checks


class Numbered(MixedRegressor):
    """Groups for checks that pass none: every fifth row is in one group."""

    def fit(self, X, y, groups=None, sample_weight=None):
        if groups is None:
            with suppress(TypeError):  # no rows that could be counted: for fit to refuse
                groups = np.arange(_num_samples(X)) % 5
        return super().fit(X, y, groups=groups, sample_weight=sample_weight)


_EXACT = "its response is a linear function of X: no variance is left, which is refused"
EXEMPT = {
    "check_regressors_no_decision_function": _EXACT,
    "check_sample_weights_shape": _EXACT,
    "check_sample_weights_not_overwritten": _EXACT,
    "check_sample_weight_equivalence_on_dense_data": (
        "weights are precisions, not frequencies: a row of weight 2 is not two rows"
    ),
}


@parametrize_with_checks([Numbered()], expected_failed_checks=lambda _: EXEMPT)
def test_checks_of_scikit_learn(estimator, check):
    with warnings.catch_warnings():
        for kind in (lmm.RankWarning, lmm.IdentificationWarning, lmm.ConvergenceWarning):
            warnings.simplefilter("ignore", kind)
        check(estimator)
