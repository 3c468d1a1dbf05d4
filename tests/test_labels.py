"""Labels: no two parameters, coefficients, factors or terms of a result share a name."""

import warnings
from datetime import UTC, datetime, timedelta
from functools import cache
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
import samples
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax.inputs.names import unique

SAME_RTOL = 1e-9  # the same model under other names

DATA = samples.frame().assign(Intercept=lambda d: d["v"])
ODD = {
    "Intercept": DATA["v"],
    "var(Intercept|g)": DATA["z"],
    "sigma": DATA["v"],
    "scale": DATA["o"],
}


DAYS = np.datetime64("2020-01-01") + np.repeat(np.arange(10), 4)


@pytest.mark.parametrize(
    ("groups", "kind"),
    [
        (DAYS, "M"),  # pandas has no days of its own
        (DAYS - DAYS[0], "m"),
        (np.array(list(map(pd.Timestamp, DAYS)), dtype=object), "M"),
        (np.array([day.item() for day in DAYS], dtype=object), "O"),
        (np.repeat(np.arange(10), 4).astype(object), "O"),
        (np.repeat(np.arange(10), 4).astype(np.int8), "i"),
    ],
    ids=["days", "spans of days", "Timestamps", "dates", "objects", "small integers"],
)
def test_groups_of_an_array_have_labels_of_any_type(groups, kind):
    design = lmm.design_from_arrays(np.arange(40.0) ** 2, np.ones((40, 1)), groups)
    levels = lmm.fit(design).random_effects["groups"].index
    assert levels.dtype.kind == kind and len(levels) == 10
    assert list(levels) == sorted(set(pd.Series(groups)))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("abc", "abc"),
        (["a", "a"], ["a", "a.1"]),
        (["a", "a", "a.1"], ["a", "a.2", "a.1"]),
        (["a.1", "a", "a", "a"], ["a.1", "a", "a.2", "a.3"]),
        (["a", "a.1", "a", "a.1"], ["a", "a.1", "a.2", "a.1.1"]),
        ([], []),
    ],
)
def test_a_repeated_name_is_numbered(names, expected):
    assert list(unique(names)) == list(expected)


MODELS = {
    "two terms": dict(formula="y ~ x + z + (x | g) + (z | g)"),
    "three terms": dict(formula="y ~ x + (1 | g) + (x | g) + (z | g)"),
    "the same term twice": dict(formula="y ~ x + (1 | g) + (1 | g)"),
    "independent and correlated": dict(formula="y ~ x + (x || g) + (x | g)"),
    "nested": dict(formula="y ~ x + (1 | g/s) + (x | g)"),
    "a column called Intercept": dict(formula="y ~ Intercept + (Intercept | g)"),
    "Intercept and two terms": dict(formula="y ~ Intercept + (Intercept | g) + (1 | g)"),
    "a component like its group": dict(
        formula="y ~ x", groups="g", re_formula="1", vc_formula={"g": "0 + C(s)"}
    ),
    "components like group and column": dict(
        formula="y ~ x", groups="g", vc_formula={"g": "0 + C(s)", "x": "0 + x"}
    ),
    "like a variance": dict(formula="y ~ `var(Intercept|g)` + sigma + scale + (1 | g)"),
    "an interaction and a column": dict(formula="y ~ x + (1 | g:s) + (1 | `g:s`)"),
}


@cache
def fit(name: str) -> lmm.LMMResults:
    data = DATA.assign(**ODD, **{"g:s": np.arange(60) % 7})
    with warnings.catch_warnings():  # several of these models are not identified
        warnings.simplefilter("ignore", UserWarning)
        return lmm.fit(data=data, **MODELS[name])


@pytest.mark.parametrize("name", MODELS)
def test_no_label_twice(name):
    result = fit(name)
    names = list(result.params.index)
    assert result.params.index.is_unique
    for table in (result.bse, result.conf_int(), result.cov_params()):
        assert list(table.index) == names
    assert result.cov_re.index.is_unique and result.vcomp.index.is_unique
    assert not result.varcorr.duplicated(["grp", "var1", "var2"]).any()
    assert not result.tidy().duplicated(["effect", "group", "term"]).any()
    assert result.wald_test_terms().index.is_unique
    assert len(result.t_test(np.eye(len(result.fe_params))).effect) == len(result.fe_params)
    for key, frame in result.random_effects.items():
        assert frame.columns.is_unique
        level = frame.index[0]
        covariance = result.random_effects_cov[key][level]
        assert list(covariance)[: frame.shape[1]] == list(frame) and covariance.columns.is_unique
        assert result.n_groups[key] == len(frame)
    effects = sum(frame.shape[1] for frame in result.random_effects.values())
    assert effects == sum(len(label.names) for label in result.term_labels)
    for name in names[len(result.fe_params) :]:
        assert np.isfinite(result.t_test(f"`{name}` = 1").effect).all()
    assert_close(result.predict(data_of(result), conditional=True), result.fittedvalues, 1e-9, 1)
    assert str(result.summary()).count("Residual") == 1


def data_of(result: lmm.LMMResults) -> pd.DataFrame:
    return DATA.assign(**ODD, **{"g:s": np.arange(60) % 7})


def test_the_labels_of_lme4():
    assert list(fit("two terms").params.index)[3:] == [
        *("var(Intercept|g)", "cov(Intercept,x|g)", "var(x|g)"),
        *("var(Intercept|g.1)", "cov(Intercept,z|g.1)", "var(z|g.1)"),
    ]
    assert list(fit("two terms").random_effects["g"]) == ["Intercept", "x", "Intercept.1", "z"]
    assert list(fit("a component like its group").random_effects) == ["g", "g.1"]
    assert list(fit("a component like its group").vcomp.index) == ["g.1"]
    # terms of one factor without a coefficient in common need no second label
    assert list(lmm.fit("y ~ x + (x || g)", DATA).cov_re.index) == ["Intercept", "x"]


@pytest.mark.parametrize(
    ("odd", "plain"),
    [
        ("a component like its group", {"vc_formula": {"c": "0 + C(s)"}}),
        ("a column called Intercept", {"formula": "y ~ v + (v | g)"}),
        ("like a variance", {"formula": "y ~ z + v + o + (1 | g)"}),
    ],
)
def test_names_do_not_change_the_numbers(odd, plain):
    result, same = fit(odd), lmm.fit(data=DATA, **{**MODELS[odd], **plain})
    assert_close(result.params, same.params, SAME_RTOL, 1e-3)
    assert_close(result.fittedvalues, same.fittedvalues, SAME_RTOL, 1)
    for ours, theirs in zip(
        result.random_effects.values(), same.random_effects.values(), strict=True
    ):
        assert_close(ours, theirs, 1e-7, 1)


def test_a_column_called_intercept_is_tested_beside_the_intercept():
    terms = fit("a column called Intercept").wald_test_terms()
    assert list(terms.index) == ["Intercept", "Intercept.1"]


def test_bootstrap_influence_profile_and_augment():
    result = fit("like a variance")
    boot = lmm.bootstrap(result, 5, seed=1)
    assert boot.params().columns.is_unique and not boot.tidy()["term"].duplicated().any()
    assert lmm.influence(result).params.columns.is_unique
    curve = fit("a component like its group").profile_re("g.1", "vc", 1, 0.01, 1, 0.01)
    assert curve.shape == (3, 2)
    data = DATA.rename(columns={"y": "fitted"})
    table = lmm.fit("fitted ~ x + (1 | g)", data).augment()
    assert list(table.columns) == ["fitted.1", "fitted", "resid", "fixed"]
    assert_close(table["fitted"] + table["resid"], table["fitted.1"], SAME_RTOL, 1)


def test_draws_and_many_responses_with_such_labels():
    result = fit("a component like its group")
    assert lmm.simulate(result, seed=1, n=2).shape == (60, 2)
    options = dict(MODELS["a component like its group"], formula="~ x")
    many = lmm.fit_many(data=DATA, responses=["y", "z"], **options)
    assert [label.group for label in many.term_labels] == ["g", "g.1"]
    assert_close(many.vcomp[0], result.vcomp, 1e-6, 1e-3)


def test_arrays_with_repeated_names():
    X = pd.DataFrame(np.column_stack([np.ones(60), DATA["x"]]), columns=["a", "a"])
    result = lmm.fit(lmm.design_from_arrays(DATA["y"].to_numpy(), X, DATA["g"], X))
    assert list(result.params.index)[:2] == ["a", "a.1"]
    assert list(result.random_effects["groups"]) == ["a", "a.1"]
    twice = SimpleNamespace(names=["a", "a"], colnames=[], mats=[{}, {}])
    with pytest.raises(lmm.DataError, match="a component twice"):
        lmm.design_from_arrays(DATA["y"], X, DATA["g"], X, twice)


def test_groups_by_two_columns_are_those_of_a_formula():
    """A MultiIndex labels rows by tuples, as a column of tuples does."""
    data = samples.frame()
    data["h"] = np.arange(len(data)) % 2
    want = lmm.fit("y ~ x + (1 | g:h)", data)
    keys = pd.MultiIndex.from_frame(data[["g", "h"]])
    for groups in (keys, pd.Series(keys.to_flat_index(), index=data.index)):
        res = lmm.fit("y ~ x", data, groups=groups)
        assert res.llf == pytest.approx(want.llf, rel=1e-12)
        assert res.n_groups.item() == data.groupby(["g", "h"]).ngroups


NIGHT = [datetime(2024, 10, 26, 22, tzinfo=UTC) + timedelta(hours=h) for h in range(6)]
BERLIN = ZoneInfo("Europe/Berlin")


def _object(values):
    out = np.empty(len(values), object)
    out[:] = values
    return out


@pytest.mark.parametrize("formula", ["y ~ 1 + (1 | t)", "y ~ 1 + (1 | g:t)", "y ~ C(t) + (1 | g)"])
@pytest.mark.parametrize("kind", ["one zone", "two zones", "beside gaps"])
def test_hours_of_a_night_with_a_second_two_o_clock_are_levels(kind, formula):
    """Python's own times, whatever their zones: an hour that comes twice is two levels."""
    rng = np.random.default_rng(4)
    hour, g = np.arange(120) % 6, np.arange(120) // 20
    y = rng.normal(size=120) + rng.normal(size=6)[hour] + rng.normal(size=6)[g]
    local = [NIGHT[h].astimezone(BERLIN) for h in hour]
    if kind == "two zones":
        local[::5] = [NIGHT[h] for h in hour[::5]]
    number = hour.astype(float)
    if kind == "beside gaps":
        local[0], number[0] = None, np.nan
    got = lmm.fit(formula, pd.DataFrame({"y": y, "t": _object(local), "g": g}))
    want = lmm.fit(formula, pd.DataFrame({"y": y, "t": number, "g": g}))
    assert got.llf == pytest.approx(want.llf, rel=1e-12)
    if ":" not in formula:  # labels of cells are texts
        new = pd.DataFrame({"t": _object(NIGHT), "g": 0})
        expected = want.predict(pd.DataFrame({"t": np.arange(6.0), "g": 0}), conditional=True)
        assert_close(got.predict(new, conditional=True), expected, 1e-9)
