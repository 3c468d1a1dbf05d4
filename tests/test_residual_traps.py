"""Residual covariances where data are few, degenerate or in disorder, and models that are equal."""

import re
import warnings
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from dense_residual import DenseResidual
from helpers import assert_close, dense_gls, dense_llf
from scipy import special

import lmm_jax as lmm
from lmm_jax.errors import ConvergenceWarning, DataError, OrderWarning
from lmm_jax.formulas.parse import parse_residual
from lmm_jax.likelihood.profile import profile_jet
from lmm_jax.optimize.minimize import minimize
from lmm_jax.optimize.newton import CONVERGED

SAME = 1e-9  # one optimum in two spellings, each to a decrement of 1e-9 in the deviance
SAME_ROOT = 1e-6  # parameters there: the root of it, and less by the last Newton step
CLOSED = 1e-7  # closed forms: the same for parameters


def panel(n=30, T=4, *, rho=0.5, seed=0):
    """n subjects at T visits, compound symmetry."""
    rng = np.random.default_rng(seed)
    subject, visit = np.repeat(np.arange(n), T), np.tile(np.arange(T), n)
    e = np.sqrt(1 - rho) * rng.normal(size=(n, T)) + np.sqrt(rho) * rng.normal(size=(n, 1))
    return pd.DataFrame(
        {
            "y": e.ravel() + 0.3 * visit,
            "x": rng.normal(size=n * T),
            "time": visit,
            "visit": pd.Categorical.from_codes(visit, [f"v{k + 1}" for k in range(T)]),
            "id": subject,
            "arm": np.array(["A", "B"])[subject % 2],
        }
    )


def gaps():
    """The same with a tenth of the rows missing."""
    data = panel()
    return data[np.random.default_rng(1).uniform(size=len(data)) > 0.1]


@cache
def fitted(text, **options):
    return lmm.fit(text, gaps(), runtime="numpy", **options)


# ------------------------------------------------------------------------------ too few rows


@pytest.mark.parametrize("name", ["ar1", "us", "cs", "toep", "adh", "arma11", "symm"])
def test_no_subject_with_two_rows(name):
    """One row a subject, or one visit of all: nothing to take a correlation from."""
    for data in (panel().groupby("id").head(1), panel().query("time == 2")):
        with pytest.raises(DataError, match=r"no `id` has two rows.*no correlation to estimate"):
            lmm.design(f"y ~ x + {name}(visit | id)", data)


def test_subjects_with_one_row_among_others():
    """They say what the variance is: the criterion is that of dense matrices."""
    data = panel().query("id < 15 or time == 0")
    result = lmm.fit("y ~ x + ar1(time | id)", data, runtime="numpy")
    assert result.converged
    X = np.column_stack([np.ones(len(data)), data["x"]])
    same = data["id"].to_numpy()[:, None] == data["id"].to_numpy()
    lags = np.abs(np.subtract.outer(data["time"].to_numpy(), data["time"].to_numpy()))
    V = same * result.residual_params["rho"] ** lags
    dense = dense_gls(X, data["y"].to_numpy(), V, reml=True)
    assert_close(-2 * result.llf, dense.criterion, 1e-12)
    assert_close(result.sigma, dense.sigma, 1e-10)


def once():
    """The last visit is seen in one subject."""
    data = panel(seed=2)
    return data[(data["time"] < 3) | (data["id"] == 0)]


@pytest.mark.parametrize("name", ["ar1", "cs", "ad", "ar1h", "csh"])
def test_a_visit_seen_once(name):
    assert lmm.fit(f"y ~ x + {name}(visit | id)", once(), runtime="numpy").converged


def test_a_visit_seen_once_has_no_covariance_of_its_own():
    """Its residual can be explained exactly by the others': the likelihood has no maximum."""
    with pytest.warns(ConvergenceWarning, match="fewer parameters"):
        result = lmm.fit("y ~ x + us(visit | id)", once(), runtime="numpy")
    assert not result.converged and np.isfinite(result.llf)


def test_a_visit_seen_once_with_a_mean_of_its_own():
    """Then it says nothing of its variance: the criterion is that of the other rows."""
    with pytest.warns(ConvergenceWarning, match="flat in a direction"):
        result = lmm.fit("y ~ x + visit + us(visit | id)", once(), runtime="numpy")
    others = once().query("time < 3").assign(visit=lambda d: d["visit"].cat.remove_categories("v4"))
    small = lmm.fit("y ~ x + visit + us(visit | id)", others, runtime="numpy")
    assert small.converged and not result.converged
    assert_close(result.llf, small.llf, SAME)
    assert_close(result.fe_params[:4], small.fe_params, SAME_ROOT)
    assert_close(result.bse_fe[:4], small.bse_fe, SAME_ROOT)


@pytest.mark.parametrize("seed", [6, 24, 53])
def test_a_fit_is_not_worse_than_a_simpler_one(seed):
    """Where an optimum lies at a correlation of one, steps into rounding are not taken."""
    data = panel(seed=seed)
    data = data[(data["time"] < 3) | (data["id"] == 0)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        simple, larger = (
            lmm.fit(f"y ~ x + {name}(visit | id)", data, runtime="numpy")
            for name in ("ar1", "toep")
        )
    assert larger.llf > simple.llf - SAME


UNTOLD = [
    ("us(visit | arm / id)", "arm == 'A' or time < 3", "no rows of v4 where arm is B"),
    ("ar1h(visit | arm / id)", "arm == 'A' or time > 0", "no rows of v1 where arm is B"),
    ("ar1(visit | arm / id)", "arm == 'A' or time == id % 4", "has two rows where arm is B"),
    ("sp_exp(time | arm / id)", "arm == 'A' or time == id % 4", "has two rows where arm is B"),
    ("us(visit | id)", "time != 3 * (id % 3 > 0)", r"tell of corr\[v1,v4\] of us"),
    ("adh(visit | id)", "(time < 2) == (id % 3 > 0)", r"tell of corr\[v2,v3\] of adh"),
    ("toep(visit | id)", "time != 3 * (id % 3 > 0)", r"rho\[3\] of toep.*a categorical"),
    ("us(visit | arm / id)", "arm == 'A' or time != 3 * (id % 3 > 0)", r"corr\[B,v1,v4\] of us"),
]


@pytest.mark.parametrize(("text", "rows", "message"), UNTOLD)
def test_parameters_that_no_row_tells_of(text, rows, message):
    """They would keep the values that the optimization begins with."""
    data = panel()
    few = data[data.eval(rows)]
    with pytest.raises(DataError, match=message):
        lmm.design(f"y ~ x + {text}", few)
    Y = data["y"].where(data.eval(rows)).to_numpy()[:, None]
    with pytest.warns(ConvergenceWarning, match="cannot be fitted"):
        many = lmm.fit_many(f"~ x + {text}", data, Y)
    assert np.isnan(many.llf).all()


def test_weeks_of_a_trial_have_distances_that_no_pair_has():
    data = panel(T=5)
    data["week"] = np.array([0, 12, 24, 52, 104])[data["time"]]
    # of 26 steps of four weeks the distances are 3, 6, 7, 10, 13, 20, 23 and 26
    with pytest.raises(DataError, match=r"rho\[1\] and 17 other parameters of toep"):
        lmm.design("y ~ x + toep(week | id)", data)
    data["week"] = pd.Categorical(data["week"])
    lmm.design("y ~ x + toep(week | id)", data)


# ------------------------------------------------------------------------------ disorder


def test_a_visit_that_stands_twice():
    data = panel()
    twice = pd.concat([data, data.iloc[[21]]])  # visit v2 of subject 5
    for name in ("us", "ar1", "cs", "toep"):
        message = rf"subject 5 has two rows at the visit v2 in {name}\(visit \| id\)"
        with pytest.raises(DataError, match=message):
            lmm.design(f"y ~ x + {name}(visit | id)", twice)
    with pytest.raises(DataError, match="subject 5 has two rows at the visit 1 in ar1"):
        lmm.design("y ~ x + ar1(time | id)", twice)
    with pytest.raises(DataError, match="subject 5 has two rows at the visit v2"):
        lmm.design("y ~ x + us(visit | arm / id)", twice)
    with pytest.raises(DataError, match=r"subject 5 has two rows at 1 in sp_exp.*nugget=True"):
        lmm.design("y ~ x + sp_exp(time | id)", twice)
    with pytest.raises(DataError, match="there are two rows at 0 in sp_exp"):
        lmm.design("y ~ x + sp_exp(time)", data)
    lmm.design("y ~ x + sp_exp(time | id, nugget=True)", twice)


def test_visits_as_text_in_another_order():
    data = panel(T=11)
    text = data.assign(visit=data["visit"].astype(str))
    with pytest.warns(
        OrderWarning, match=r"taken in the order v1, v10, v11, v2, v3, v4.*categories"
    ):
        disordered = lmm.fit("y ~ x + ar1(visit | id)", text, runtime="numpy")
    by_number = lmm.fit("y ~ x + ar1(time | id)", data, runtime="numpy")
    by_category = lmm.fit("y ~ x + ar1(visit | id)", data, runtime="numpy")
    assert by_category.llf == by_number.llf
    assert abs(disordered.llf - by_number.llf) > 1
    short = panel(T=9)  # in order as text too: no warning
    lmm.design("y ~ x + ar1(visit | id)", short.assign(visit=short["visit"].astype(str)))


def test_a_category_that_nobody_has_is_a_gap():
    data = panel().query("time != 1")
    by_number = lmm.fit("y ~ x + ar1(time | id)", data, runtime="numpy")
    by_category = lmm.fit("y ~ x + ar1(visit | id)", data, runtime="numpy")
    closed_up = lmm.fit("y ~ x + ar1(row | id)", data, runtime="numpy")
    assert by_category.llf == by_number.llf != closed_up.llf


def test_ages_two_years_apart():
    """Distances of a Toeplitz covariance are counted in the step that the visits have."""
    data = lmm.load_dataset("orthodont")
    data["visit"] = pd.Categorical(data["age"])
    result = lmm.fit("distance ~ age + toep(age | Subject)", data, runtime="numpy")
    counted = lmm.fit("distance ~ age + toep(visit | Subject)", data, runtime="numpy")
    assert result.converged and list(result.residual_params.index) == ["rho[1]", "rho[2]", "rho[3]"]
    assert_close(result.llf, counted.llf, SAME)
    assert_close(result.residual_cov().to_numpy(), counted.residual_cov().to_numpy(), SAME_ROOT)
    # a visit that the fit has not seen, as another of the same subject tells of it
    seen = data[data["age"] != 12]
    apart = lmm.fit("distance ~ age + toep(age | Subject)", seen, runtime="numpy")
    new = data[data["Subject"] == "M01"].query("age == 12")
    expected = np.linalg.solve(
        apart.residual_cov().to_numpy(),
        seen.query("Subject == 'M01'")["distance"] - apart.predict(seen.query("Subject == 'M01'")),
    )
    rho = np.append(1.0, apart.residual_params)[[2, 1, 1]]
    mean = apart.predict(new, conditional=False).iloc[0]
    assert_close(
        apart.predict(new, conditional=True).iloc[0], mean + apart.scale * rho @ expected, SAME_ROOT
    )


@pytest.mark.parametrize("name", ["ar1", "toep"])
def test_categories_that_are_numbers_have_no_places_between(name):
    """Their places are those of the categories: a number that is none has no place."""
    data = lmm.load_dataset("orthodont")
    data = data.assign(visit=pd.Categorical(data["age"]))
    result = lmm.fit(f"distance ~ age + {name}(visit | Subject)", data, runtime="numpy")
    new = data[data["Subject"] == "M01"].assign(visit=[8, 10, 12, 16])
    with pytest.raises(DataError, match="nothing of the visit 16"):
        result.predict(new, conditional=True)


@pytest.mark.parametrize("name", ["us", "ar1", "toeph", "adh", "arma11"])
def test_order_of_rows_and_direction_of_time(name):
    """Rows in any order; time reversed, where the covariance is the same read backwards."""
    ours = fitted(f"y ~ x + {name}(visit | id)")
    data = gaps().sample(frac=1.0, random_state=3)
    shuffled = lmm.fit(f"y ~ x + {name}(visit | id)", data, runtime="numpy")
    backwards = data.assign(visit=data["visit"].cat.reorder_categories(["v4", "v3", "v2", "v1"]))
    reversed_ = lmm.fit(f"y ~ x + {name}(visit | id)", backwards, runtime="numpy")
    for other in (shuffled, reversed_):
        assert_close(other.llf, ours.llf, SAME)
        assert_close(other.fe_params, ours.fe_params, SAME_ROOT, ours.bse_fe)
        assert_close(other.df, ours.df, 10 * SAME_ROOT)


# ------------------------------------------------------------------------------ edges


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, -1.0, -30.0])
def test_compound_symmetry_in_closed_form(share):
    """Mean squares of a balanced analysis of variance, down to the least correlation.

    ``rho = (B - W) / (B + (T - 1) W)``, ``sigma^2 = (B + (T - 1) W) / T``; a share of the subjects'
    means is taken out, so that rho comes near to ``-1 / (T - 1)``, or added, near to 1.
    """
    T, n = 4, 30
    data = panel(n, T)
    data["y"] -= share * data.groupby("id")["y"].transform("mean")
    means = data.groupby("id")["y"].mean()
    within = ((data["y"] - data.groupby("id")["y"].transform("mean")) ** 2).sum() / (n * (T - 1))
    between = T * means.var(ddof=1)
    result = lmm.fit("y ~ 1 + cs(visit | id)", data, runtime="numpy")
    assert result.converged
    whole = between + (T - 1) * within
    assert_close(result.residual_params["rho"], (between - within) / whole, CLOSED, 1)
    assert_close(result.scale, whole / T, 10 * CLOSED)
    assert_close(result.bse_fe, [np.sqrt(between / (n * T))], 10 * CLOSED)
    assert_close(result.df, [n - 1], 1e-5)


@pytest.mark.parametrize("name", ["cs", "csh", "toep"])
def test_compound_symmetry_at_its_lower_bound(name):
    """Rows of a subject that add to zero: their covariance is singular, which is said."""
    data = panel()
    data["y"] -= data.groupby("id")["y"].transform("mean")
    with pytest.warns(ConvergenceWarning, match="the correlation of some residuals is so near"):
        result = lmm.fit(f"y ~ 1 + {name}(visit | id)", data, runtime="numpy")
    assert not result.converged
    R = result.residual_cov().to_numpy()
    assert np.linalg.eigvalsh(R)[0] < 1e-8 * result.scale
    if name == "cs":
        assert_close(result.residual_params["rho"], -1 / 3, 1e-6)


@pytest.mark.parametrize("name", ["cs", "ar1", "toep", "ad", "car1", "sp_gau", "arma11"])
def test_correlation_of_one(name):
    data = panel()
    data["y"] = data.groupby("id")["y"].transform("first")
    place = "time" if name in ("car1", "sp_gau") else "visit"
    with pytest.warns(ConvergenceWarning, match="the correlation of some residuals is so near"):
        result = lmm.fit(f"y ~ 1 + {name}({place} | id)", data, runtime="numpy")
    assert not result.converged
    R = result.residual_cov(range(4) if place == "time" else None).to_numpy()
    assert_close(R / R[0, 0], np.ones((4, 4)), 1e-4)


def test_twenty_visits_of_forty_subjects():
    """Balanced, a mean for every visit: covariances of the sample, in closed form."""
    n, T = 40, 20
    data = panel(n, T, rho=0.4, seed=5)
    Y = data["y"].to_numpy().reshape(n, T)
    S = (Y - Y.mean(axis=0)).T @ (Y - Y.mean(axis=0))
    for reml, divisor in ((True, n - 1), (False, n)):
        result = lmm.fit("y ~ 0 + visit + us(visit | id)", data, reml=reml, runtime="numpy")
        assert result.converged and result.n_params == T + T * (T + 1) // 2
        V = S / divisor
        size = np.sqrt(np.outer(np.diag(V), np.diag(V)))
        assert_close(result.residual_cov(), V, 100 * CLOSED, size)  # 210 parameters, 40 subjects
        deviance = divisor * (np.linalg.slogdet(V).logabsdet + T * (np.log(2 * np.pi) + 1))
        if reml:  # X'V^-1 X = n V^-1
            deviance += T * np.log(n)
        assert_close(-2 * result.llf, deviance, SAME)
        assert_close(result.bse_fe, np.sqrt(np.diag(V) / n), 100 * CLOSED)


# ------------------------------------------------------------------------------ equal models

KENWARD_ROGER = ("kenward-roger", "kenward-roger-linear", "kenward-roger-expected")
EQUAL = [
    ("ar1(time | id)", "car1(time | id)"),
    ("ar1(time | id)", "sp_exp(time | id)"),
    ("ar1(visit | id)", "ar1(time | id)"),
    ("us(visit | id)", "symm(visit | id) * diag(visit)"),
    ("ar1h(visit | id)", "ar1(visit | id) * diag(visit)"),
    ("csh(visit | id)", "cs(visit | id) * diag(visit)"),
    ("cs(visit | id)", "(1 | id)"),
    ("arma11(time | id)", "car1(time | id, nugget=True)"),
    ("arma11(time | id)", "arma(time | id, p=1, q=1)"),
    ("ar1(time | id)", "arma(time | id, p=1)"),
    ("diag(arm)", "diag(factor(arm))"),
    ("us(visit | id)", "us(time | id)"),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equal_models(one, other):
    left, right = fitted(f"y ~ x + {one}"), fitted(f"y ~ x + {other}")
    assert left.converged and right.converged
    assert left.n_params == right.n_params
    assert_close(right.llf, left.llf, SAME)
    assert_close(right.fe_params, left.fe_params, SAME_ROOT, left.bse_fe)
    assert_close(right.bse_fe, left.bse_fe, SAME_ROOT)
    assert_close(right.df, left.df, 100 * SAME_ROOT)
    # that of random effects takes the expected information, as pbkrtest does
    methods = ["kenward-roger-expected"] if "1 | id" in other else [*KENWARD_ROGER]
    for method in methods:
        ours = left.with_df(method)
        theirs = right.with_df("kenward-roger" if "1 | id" in other else method)
        assert_close(theirs.df, ours.df, 100 * SAME_ROOT)
        if method != "kenward-roger":  # that has second derivatives in parameters of its own
            assert_close(theirs.bse_fe, ours.bse_fe, 10 * SAME_ROOT)


NESTED = ["cs", "ar1", "toep", "ad", "csh", "ar1h", "toeph", "adh", "symm", "arma11"]


@pytest.mark.parametrize("name", NESTED)
def test_the_unstructured_covariance_contains_all(name):
    largest, result = fitted("y ~ x + us(visit | id)"), fitted(f"y ~ x + {name}(visit | id)")
    assert result.converged and result.n_params < largest.n_params
    assert result.llf < largest.llf + SAME


def test_two_visits_have_one_correlation():
    data = gaps().query("time < 2")
    names = ("cs", "ar1", "toep", "ad", "symm")
    fits = [lmm.fit(f"y ~ x + {name}(visit | id)", data, runtime="numpy") for name in names]
    for other in fits[1:]:
        assert_close(other.llf, fits[0].llf, SAME)
        assert_close(other.residual_params.iloc[0], fits[0].residual_params.iloc[0], SAME_ROOT)


def test_arms_apart_are_fits_apart():
    """Under ML, with means of their own, each arm is fitted by itself."""
    text = "y ~ {}x + us(visit | {}id)"
    together = fitted(text.format("0 + arm + arm:", "arm / "), reml=False)
    apart = [
        lmm.fit(text.format("", ""), gaps().query(f"arm == {arm!r}"), reml=False, runtime="numpy")
        for arm in "AB"
    ]
    assert_close(together.llf, sum(fit.llf for fit in apart), SAME)
    for arm, alone in zip("AB", apart, strict=True):
        R = together.residual_cov(arm=arm).to_numpy()
        assert_close(R, alone.residual_cov(), SAME_ROOT, alone.scale)


@pytest.mark.parametrize(
    "text", ["us(visit | id)", "ar1(visit | id) * diag(arm)", "sp_exp(time | id)"]
)
def test_units(text):
    """Of the response, of the weights and of time."""
    ours = fitted(f"y ~ x + {text}")
    data = gaps().assign(y=lambda d: 1e3 * d["y"], w=7.0)
    n, p = ours.nobs, len(ours.fe_params)
    scaled = lmm.fit(f"y ~ x + {text}", data, runtime="numpy")
    assert_close(scaled.llf, ours.llf - (n - p) * np.log(1e3), SAME)
    assert_close(scaled.fe_params, 1e3 * ours.fe_params, SAME_ROOT, 1e3 * ours.bse_fe)
    weighted = lmm.fit(f"y ~ x + {text}", data, weights="w", runtime="numpy")
    assert_close(weighted.scale, 7 * scaled.scale, 10 * SAME_ROOT)
    assert_close(weighted.llf, scaled.llf, SAME)
    assert_close(weighted.df, ours.df, 100 * SAME_ROOT)
    if text.startswith("sp_exp"):
        days = gaps().assign(time=lambda d: 365.25 * d["time"])
        slow = lmm.fit(f"y ~ x + {text}", days, runtime="numpy")
        assert_close(slow.llf, ours.llf, SAME)
        expected = 365.25 * ours.residual_params["range"]
        assert_close(slow.residual_params["range"], expected, SAME_ROOT)


# ------------------------------------------------------------------------------ starts


def test_a_smooth_field_on_a_grid():
    """A start at the typical distance of all pairs is singular to rounding; gls: -140.5054."""
    k = 12
    at = np.array([(i, j) for i in range(k) for j in range(k)], float)
    D = np.sqrt(((at[:, None] - at[None]) ** 2).sum(-1))
    noise = np.random.default_rng(1).normal(size=k * k)
    y = 10 + np.linalg.cholesky(np.exp(-((D / 1.2) ** 2)) + 1e-9 * np.eye(k * k)) @ noise
    data = pd.DataFrame({"row": at[:, 0], "col": at[:, 1], "y": y})
    res = lmm.fit("y ~ 1 + sp_gau(row + col)", data)
    assert res.converged
    assert abs(res.llf - -140.5054) < 5e-5


@pytest.mark.parametrize("name", ["ar1", "ar1h"])
def test_visits_far_apart(name):
    """Days in the place of visits: rho^d at whole numbers is phi^d of car1."""
    rng = np.random.default_rng(9)
    e = rng.normal(size=(50, 4))
    for t in (1, 2, 3):
        e[:, t] = 0.5 * e[:, t - 1] + 0.87 * e[:, t]
    days = np.array([1, 80, 290, 850])
    data = pd.DataFrame({"id": np.repeat(np.arange(50), 4), "day": np.tile(days, 50)})
    data["y"] = e.ravel()
    res = lmm.fit(f"y ~ factor(day) + {name}(day | id)", data)
    assert res.converged
    if name == "ar1":
        other = lmm.fit("y ~ factor(day) + car1(day | id)", data)
        assert abs(res.llf - other.llf) < 1e-9


def test_one_unit_and_a_visit_that_is_none():
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"x": rng.uniform(0, 9, 40), "y": rng.normal(size=40)})
    fit = lmm.fit("y ~ 1 + sp_exp(x)", data)
    with pytest.raises(DataError, match="pass by='row'"):
        lmm.influence(fit)
    data = pd.DataFrame({"id": np.repeat(np.arange(20), 4), "week": np.tile([1, 2, 3, 4], 20)})
    data["y"] = rng.normal(size=80) + np.repeat(rng.normal(size=20), 4)
    fit = lmm.fit("y ~ 1 + ar1(week | id)", data)
    new = pd.DataFrame({"id": [0], "week": [5.5]})
    with pytest.raises(DataError, match="car1 takes any times"):
        fit.predict(new, conditional=True)
    fit.predict(new.assign(week=6), conditional=True)


@pytest.mark.parametrize("term", ["ar1(t | id)", "us(t | id)", "toep(t | id)"])
def test_an_infinite_visit_is_refused(term):
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"id": np.repeat(np.arange(20), 4), "t": np.tile([1.0, 2, 3, 4], 20)})
    data["y"] = rng.normal(size=80)
    data.loc[3, "t"] = np.inf
    with pytest.raises(DataError, match="infinite in some rows"):
        lmm.fit(f"y ~ 1 + {term}", data)


# ------------------------------------------------------------ ends of a range, and other optima


RATS = pd.read_csv(Path(__file__).parent / "data" / "bodyweight.csv").astype(
    {"Rat": str, "Diet": str}
)


def test_the_highest_of_several_optima():
    """``nlme::lme`` of the rats' weights with ``corExp(form = ~Time, nugget = TRUE)``, by REML.

    Seven of nine start values lead nlme there, the others to a range of 269 days.
    """
    formula = "weight ~ Time * Diet + (Time | Rat) + sp_exp(Time | Rat, nugget=True)"
    result = lmm.fit(formula, RATS)
    assert abs(result.llf - -563.884139) < 1e-5
    assert abs(result.residual_params["range"] - 17.15) < 0.005
    without = RATS[RATS["Rat"] != "3"]  # the best that nlme found from three start values
    assert lmm.fit(formula.replace("exp", "gau"), without).llf > -533.2499771 - 1e-5


@pytest.mark.parametrize(
    ("term", "llf", "reported"),
    [
        ("sp_rat(Time | Rat)", -566.87471975, {"range": 1.47940815}),
        ("sp_sph(Time | Rat)", -567.616677937, {"range": 4.26835}),
        ("sp_rat(Time | Rat, nugget=True)", -564.50689447, {"range": 5.990175, "nugget": 0.268218}),
    ],
)
def test_rational_and_spherical_correlations_beside_random_effects(term, llf, reported):
    """``nlme::lme`` with ``corRatio`` and ``corSpher(form = ~Time)``, by REML."""
    result = lmm.fit(f"weight ~ Time * Diet + (Time | Rat) + {term}", RATS)
    assert result.converged and abs(result.llf - llf) < 1e-7
    for name, value in reported.items():
        assert abs(result.residual_params[name] / value - 1) < 5e-6  # the digits that are given


def plots():
    """A field of wheat in 224 plots, of Pinheiro & Bates (2000), section 5.4.2."""
    found = pd.read_csv(Path(__file__).parent / "data" / "wheat2.csv")
    return found.rename(columns={"yield": "yield_"})


def test_a_field_of_wheat():
    """``nlme::gls`` with corRatio and a nugget, by REML."""
    result = lmm.fit("yield_ ~ variety + sp_rat(latitude + longitude, nugget=True)", plots())
    assert result.converged and abs(result.llf - -532.638888179) < 1e-7
    for name, value in {"range": 13.46133, "nugget": 0.19358033}.items():
        assert abs(result.residual_params[name] / value - 1) < 2e-6


def test_a_field_of_wheat_has_several_optima():
    """``nlme::gls`` with corSpher and a nugget ends in one of them, by REML; another is higher."""
    model = lmm.design("yield_ ~ variety + sp_sph(latitude + longitude, nugget=True)", plots())
    share, unit = 0.2093143, model.residual.structures[0].correlation.unit
    theta = np.array([np.log(27.45747 / unit), np.log(share / (1 - share))])
    layout = jax.device_get(model.compressed.layout)
    assert abs(profile_jet(theta, layout, reml=True).value / -2 - -533.931542692) < 1e-7
    result = lmm.fit(model)
    dense = DenseResidual(
        correlation="sp_sph",
        subject=np.zeros(224, int),
        places=plots()[["latitude", "longitude"]].to_numpy(float).T,
        nugget=True,
    )
    V = dense.matrix({"sd": 1.0, **result.residual_params})
    higher = dense_gls(model.exog, model.endog, V, reml=True).criterion / -2
    assert result.converged and higher > -533.931542692
    assert_close(result.llf, higher, 1e-9)


def pines():
    """Heights of 14 seed sources, whose variance grows fifteenfold from age 3 to 25."""
    data = pd.read_csv(Path(__file__).parent / "data" / "loblolly.csv").astype({"Seed": str})
    return data.sort_values(["Seed", "age"], ignore_index=True)


@pytest.mark.parametrize("runtime", ["numpy", "jax"])
@pytest.mark.parametrize(("reml", "llf"), [(False, -85.014091352), (True, -84.997947609)])
def test_any_correlation_of_visits_that_differ_in_variance(reml, llf, runtime):
    """Signs of residuals make optima: gls with corSymm ends at -94.1465, -94.2202 or, once in
    twelve random starts (``set.seed(7)``, ``runif(15, -0.1, 0.5)``), here; REML from there."""
    result = lmm.fit(
        "height ~ poly(age, 3) + symm(age | Seed)", pines(), reml=reml, runtime=runtime
    )
    assert result.converged
    assert_close(result.llf, llf, 1e-9)
    model = lmm.design("height ~ poly(age, 3) + symm(age | Seed)", pines())
    dense = DenseResidual(
        correlation="symm",
        subject=pines()["Seed"].factorize()[0],
        places=np.tile(np.arange(6.0), 14)[None],
        visits=["3", "5", "10", "15", "20", "25"],
    )
    V = dense.matrix({"sd": result.sigma, **result.residual_params})
    assert_close(dense_gls(model.exog, model.endog, V, reml=reml).criterion / -2, llf, 1e-9)


@pytest.mark.parametrize("name", ["symm", "ad"])
def test_signs_of_a_visit_lead_to_no_higher_optimum(name):
    """Every visit in turn from the optimum found, as the user of ``start=`` would try it."""
    layout = jax.device_get(lmm.design(f"height ~ age + {name}(age | Seed)", pines()).layout)
    best = minimize(layout, reml=True, maxiter=300)
    others, wanted = layout.challengers(best.theta)
    assert others.shape == (6, best.theta.size) and 0 < wanted.sum() < 6
    found = [minimize(layout, one, reml=True, maxiter=300).jet.value for one in others]
    assert best.status == CONVERGED and min(found) > best.jet.value - 1e-6


def test_many_responses_have_the_optimum_of_each():
    data = pines()
    noise = np.random.default_rng(0).normal(size=(len(data), 3))
    y = data[["height"]].to_numpy() + 0.3 * noise
    many = lmm.fit_many("~ poly(age, 3) + symm(age | Seed)", data, y)
    each = [lmm.fit("y ~ poly(age, 3) + symm(age | Seed)", data.assign(y=one)).llf for one in y.T]
    assert_close(np.asarray(many.llf), np.array(each), SAME)


def test_a_rugged_criterion():
    """Without a nugget the spherical one has many optima here: nlme ends in one of -553.4562."""
    result = lmm.fit("yield_ ~ variety + sp_sph(latitude + longitude)", plots())
    assert result.converged and result.llf > -553.456220282


def noise(seed, rho):
    """Rows of 20 subjects at 6 times, whose residuals have an autocorrelation."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(20, 6))
    for k in range(1, 6):
        z[:, k] = rho * z[:, k - 1] + np.sqrt(1 - rho**2) * z[:, k]
    g, t = np.repeat(np.arange(20), 6), np.tile(np.arange(6.0), 20)
    y = z.ravel() + rng.normal(size=20)[g]
    return pd.DataFrame({"g": g, "t": t, "y": y})


def test_an_optimum_without_a_nugget_is_not_missed_with_one():
    """There is one at no nugget, and a lower likelihood at a nugget of 0.02 and a longer range."""
    rng = np.random.default_rng(99)
    id = np.repeat(np.arange(8), 7)
    t = rng.uniform(0, 5, id.size)
    C = np.exp(-np.abs(t[:, None] - t)) * (id[:, None] == id)
    y = np.linalg.cholesky(C + 1e-8 * np.eye(id.size)) @ rng.normal(size=id.size)
    data = pd.DataFrame({"y": y, "t": t, "id": id})
    without = lmm.fit("y ~ t + sp_gau(t | id)", data)
    with_one = lmm.fit("y ~ t + sp_gau(t | id, nugget=True)", data)
    assert with_one.converged and with_one.llf > without.llf - 1e-6


def test_a_nugget_of_zero_is_a_result():
    data = noise(2, 0.6)
    with_one = lmm.fit("y ~ t + sp_exp(t | g, nugget=True)", data)
    without = lmm.fit("y ~ t + sp_exp(t | g)", data)
    assert with_one.converged and with_one.residual_params["nugget"] < 1e-6
    assert_close(with_one.llf, without.llf, 1e-9)
    assert_close(with_one.bse_fe, without.bse_fe, 1e-6)
    errors = with_one.residual_params_se
    assert np.isnan(errors["nugget"])
    assert_close(errors["range"], without.residual_params_se["range"], 1e-5)


def test_a_range_shorter_than_all_distances_is_independence():
    data = noise(0, -0.3)
    short = lmm.fit("y ~ t + (1 | g) + sp_exp(t | g)", data)
    apart = lmm.fit("y ~ t + (1 | g)", data)
    assert short.converged and short.residual_params["range"] < 0.1
    assert_close(short.llf, apart.llf, 1e-9)
    assert_close(short.bse, apart.bse, 1e-6)
    assert np.isnan(short.residual_params_se["range"])


@pytest.mark.parametrize(
    ("term", "lower", "upper"),
    # nlme::intervals of gls(distance ~ Sex * I(age - 11), Orthodont)
    [("cs(row | Subject)", 0.441617721, 0.775989122), ("ar1(row | Subject)", 0.449209, 0.753477)],
)
def test_intervals_of_correlations_are_those_of_nlme(term, lower, upper):
    data = lmm.load_dataset("orthodont")
    found = lmm.fit(f"distance ~ Sex * I(age - 11) + {term}", data).residual_intervals().loc["rho"]
    # nlme's standard errors come from numerical derivatives
    assert_close([found["lower"], found["upper"]], [lower, upper], 5e-5)


def test_the_interval_of_phi_stays_above_zero():
    data = noise(0, 0.05)
    result = lmm.fit("y ~ t + (1 | g) + car1(t | g)", data)
    found = result.residual_intervals().loc["phi"]
    logit, half = special.logit(found["estimate"]), found["estimate"] * (1 - found["estimate"])
    ends = special.expit(logit + special.ndtri([0.025, 0.975]) * found["std_error"] / half)
    assert 0 < ends[0] < found["estimate"]
    assert_close([found["lower"], found["upper"]], ends, 1e-10)


def test_a_range_that_few_close_rows_tell_has_an_error():
    """Pairs a tenth of a range apart among rows that are many ranges apart."""
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(60), 4)
    t = np.tile([0.0, 0.01, 5.0, 10.0], 60)
    t = np.where((g >= 36) & (t == 0.01), 2.5, t)
    near = np.exp(-np.abs(t[:, None] - t[None]) / 0.05) * (g[:, None] == g[None])
    y = np.linalg.cholesky(near) @ rng.normal(size=240)
    found = lmm.fit("y ~ 1 + sp_exp(t | g)", pd.DataFrame({"g": g, "t": t, "y": y}))
    row = found.residual_intervals().loc["range"]
    assert 0 < row["lower"] < row["estimate"] < row["upper"] < 1


# ------------------------------------------------------- ends of ranges where R is regular


def subjects(kind, seed):
    """80 subjects at four visits."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(80, 6))
    e = {
        "intercept": u[:, :1] + 0.3 * u[:, 2:],
        "white": u[:, 2:],
        "unit root": u[:, 2:] + u[:, 1:-1],
        "difference": u[:, 2:] - u[:, 1:-1],
    }[kind]
    x = rng.normal(size=320)
    frame = pd.DataFrame(
        {"id": np.repeat(np.arange(80), 4), "t": np.tile(np.arange(4), 80), "x": x}
    )
    return frame.assign(y=x + e.ravel(), far=1.3 * frame["t"])


ENDS = [
    ("sp_exp(t | id, nugget=True)", "intercept", "(1 | id)"),
    ("sp_gau(t | id, nugget=True)", "intercept", "(1 | id)"),
    ("car1(far | id, nugget=True)", "intercept", "(1 | id)"),
    ("sp_sph(t | id)", "white", ""),
    ("sp_sph(far | id)", "difference", ""),
]


@pytest.mark.parametrize(("term", "kind", "limit"), ENDS)
def test_a_range_at_its_end_is_an_optimum(term, kind, limit):
    """Longer than all distances beside a nugget, R is that of a random intercept; shorter, none."""
    ended = 0
    for seed in range(8):
        data = subjects(kind, seed)
        result = lmm.fit(f"y ~ x + {term}", data)
        assert result.converged, seed
        if limit:
            other = lmm.fit(f"y ~ x + {limit}", data).llf
        else:
            X = np.column_stack([np.ones(320), data["x"]])
            other = dense_gls(X, data["y"].to_numpy(), np.eye(320), reml=True).criterion / -2
        assert result.llf > other - 1e-6
        ended += result.llf < other + 1e-6
    assert ended >= 2


def test_moving_averages_end_at_one():
    """R is regular there; the parameter has no standard error."""
    ended = 0
    for seed in range(12):
        result = lmm.fit("y ~ x + arma11(t | id)", subjects("unit root", seed))
        if abs(result.residual_params["theta"]) > 0.999:
            ended += 1
            assert result.converged
            assert np.isnan(result.residual_params_se["theta"])
            assert np.isfinite(result.residual_params_se["phi"])
    assert ended >= 3


@pytest.mark.parametrize("term", ["ar1", "car1", "sp_exp", "sp_sph", "sp_gau"])
@pytest.mark.parametrize(("size", "seed"), [(30.0, 3), (40.0, 5), (300.0, 1)])
def test_random_effects_that_are_nearly_all(term, size, seed):
    """A correlation of one would stand for them, far below the model without a correlation."""
    rng = np.random.default_rng(seed)
    g, x = np.repeat(np.arange(20), 6), np.tile(np.arange(6), 20)
    b, slope = rng.normal(0, size, 20), rng.normal(0, 0.1 * size, 20)
    data = pd.DataFrame({"g": g, "x": x, "y": 2 * x + b[g] + slope[g] * x + rng.normal(size=120)})
    without = lmm.fit("y ~ x + (x | g)", data)
    assert lmm.fit(f"y ~ x + (x | g) + {term}(x | g)", data).llf > without.llf - 1e-6


# ------------------------------------------------------- covariates far from their reference


def heteroscedastic():
    rng = np.random.default_rng(4)
    g = np.repeat(np.arange(24), 8)
    data = pd.DataFrame({"g": g, "x": rng.uniform(1, 5, 192), "v": np.tile(np.arange(8), 24)})
    data["half"], data["arm"] = g // 12, np.where(g % 2, "p", "q")
    data["y"] = data["x"] + rng.normal(size=24)[g] + np.exp(0.3 * data["x"]) * rng.normal(size=192)
    data["coarse"] = np.round(data["x"])
    return data


COVARIATES = [
    "power({})", "ar1(v | g) * expo({}) + (1 | g)", "cs(v | g) * power({}) + (1 | half)",
    "cs(v | arm / g) * expo({})", "ar1(v | arm / g) * power({}) + (1 | g)", "expo({}) + (x | g)",
    "ar1(v | g) * diag(arm) * power({})", "expo({}) + cs(1 + x | g)",
]  # fmt: skip


@pytest.mark.parametrize("column", ["x", "coarse"])
@pytest.mark.parametrize("text", COVARIATES)
def test_coordinates_of_the_search_are_of_the_same_model(text, column):
    model = lmm.design(f"y ~ x + {text.format(column)}", heteroscedastic())
    rng = np.random.default_rng(2)
    for layout in (model.compressed.layout, model.compressed.merged):
        layout = jax.device_get(layout)
        near, coordinates = layout.recentred()
        theta = layout.start_moments() + 0.1 * rng.normal(size=layout.start_moments().size)
        inner = coordinates.inward(theta)
        assert_close(coordinates.outward(inner), theta, 1e-12, 1)
        expected = profile_jet(theta, layout, reml=True)
        assert_close(profile_jet(inner, near, reml=True).value, expected.value, 1e-12)
        slopes = expected.gradient @ coordinates.slopes(inner)
        found = profile_jet(inner, near, reml=True).gradient
        assert_close(found, slopes, 1e-8, np.abs(slopes).max())


def test_the_origin_of_a_covariate_is_no_matter():
    """Years, hours: expo(x + c) is expo(x) with another sigma, power(c x) is power(x)."""
    data = heteroscedastic()
    data = data.assign(shifted=data["x"] + 650, scaled=1e4 * data["x"])
    for term, moved in (("expo(x)", "expo(shifted)"), ("power(x)", "power(scaled)")):
        for rest in ("", " + (1 | g)", " + (x | g)"):
            one, other = (lmm.fit(f"y ~ x + {t}{rest}", data) for t in (term, moved))
            assert other.converged and other.n_iter <= one.n_iter + 2
            assert_close(other.llf, one.llf, 1e-9)
            assert_close(other.residual_params, one.residual_params, 1e-5)
            assert_close(other.bse_fe, one.bse_fe, 1e-6)
            assert_close(other.df, one.df, 1e-4)
            assert other.singular == one.singular
            assert_close(other.residual_params_se.iloc[-1], one.residual_params_se.iloc[-1], 1e-5)
            if rest:
                assert_close(other.cov_re, one.cov_re, 1e-5, np.asarray(one.cov_re).max())
                assert_close(other.bse_re, one.bse_re, 1e-4)
            for name in ("kenward-roger", "kenward-roger-linear"):
                left, right = other.with_df(name), one.with_df(name)
                assert_close(left.bse_fe, right.bse_fe, 1e-5)
                assert_close(left.df, right.df, 1e-4)


def test_profiles_know_the_coordinates_of_the_search():
    """Limits of everything but sigma stay; sigma is that where the covariate is zero."""
    data = heteroscedastic()
    one, other = (
        lmm.fit(f"y ~ x + expo({x}) + (1 | g)", data.assign(far=data["x"] + 60), reml=False)
        for x in ("x", "far")
    )
    near, far = (r.conf_int(method="profile") for r in (one, other))
    assert_close(far.drop("sigma"), near.drop("sigma"), 1e-6)
    wald = np.sqrt(other.residual_params_se["expo"] ** 2) * 60  # most of the error of log sigma
    half = 0.5 * np.log(far.loc["sigma", "upper"] / far.loc["sigma", "lower"])
    assert 0.8 < half / (1.96 * wald) < 1.25
    curve = lmm.profile(other, "theta").conf_int(level=0.95)
    assert_close(np.log(curve.loc["sigma"]), np.log(far.loc["sigma"]), 1e-3)  # a spline of it


def test_levels_of_text_keep_their_warning():
    """`factor()` of text takes its levels as they are sorted, and says so."""
    data = subjects("white", 1)
    data["week"] = data["t"].map({0: "w1", 1: "w2", 2: "w10", 3: "w20"})
    for written in ("week", "factor(week)"):
        with pytest.warns(OrderWarning, match="w10"):
            lmm.fit(f"y ~ x + ar1({written} | id)", data)


def test_a_reference_beyond_floats_is_refused():
    data = heteroscedastic()
    with pytest.raises(DataError, match="divide the covariate of power"):
        lmm.fit("y ~ x + power(far)", data.assign(far=data["x"] + 5e3))
    with pytest.raises(DataError, match="subtract it from that of expo"):
        lmm.fit("y ~ x + expo(far) + (1 | g)", data.assign(far=data["x"] + 900))


@pytest.mark.parametrize("structure", ["ar1", "ar1h", "toep", "arma11"])
def test_numbers_as_a_factor_are_steps(structure):
    """Weeks 0, 3, 6, 12 count by their order where they are levels, by themselves where not."""
    data = subjects("unit root", 3)
    data["week"] = data["t"].map({0: 0, 1: 3, 2: 6, 3: 12})
    steps = lmm.fit(f"y ~ x + {structure}(t | id)", data)
    for written in ("factor(week)", "C(week)", "as.factor(week)"):
        found = lmm.fit(f"y ~ x + {structure}({written} | id)", data)
        assert_close(found.llf, steps.llf, 1e-12)
        rows = data.iloc[:3].assign(week=[6, 3, 12], t=[2, 1, 3])
        assert_close(
            found.predict(rows, conditional=True), steps.predict(rows, conditional=True), 1e-9, 1
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OrderWarning)  # moving averages of weeks three apart
        weeks = lmm.fit(f"y ~ x + {structure}(week | id)", data)
    assert abs(weeks.llf - steps.llf) > 1e-3


# ------------------------------------------------------------ units and references


def _with_power(unit=1.0, shift=0.0):
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(20), 8), rng.uniform(1, 5, 160)
    z = rng.normal(size=160)
    y = 1 + 0.5 * z + rng.normal(size=20)[g] + x**1.5 * rng.normal(size=160) * 0.5
    return pd.DataFrame({"y": y, "z": z, "g": g, "x": x * unit + shift})


@pytest.mark.parametrize(
    ("spread", "data"),
    [("power(x)", _with_power(1e-4)), ("power(x)", _with_power(1e6)),
     ("expo(x)", _with_power(1.0, 100.0))],
)  # fmt: skip
def test_bootstrap_and_influence_know_no_unit_of_a_covariate(spread, data):
    """Where sigma is the standard deviation at a size of one, or in the year zero."""
    formula = f"y ~ z + {spread} + (1 | g)"
    far, near = lmm.fit(formula, data), lmm.fit(formula, _with_power())
    assert_close(far.llf, near.llf, 1e-8)
    names = [name for name in near.params.index if name != "scale"]
    boots = [lmm.bootstrap(res, 30, seed=1) for res in (far, near)]
    assert boots[0].n_failed == boots[1].n_failed == 0
    a, b = (boot.params()[names] for boot in boots)
    assert_close(a, b, 1e-4, 1)  # single runs, each to its own optimum
    assert_close(boots[0].params().iloc[:, -1], boots[1].params().iloc[:, -1], 1e-4)  # exponents
    a, b = (lmm.influence(res, by="row").cooks_distance for res in (far, near))
    assert_close(a, b, 1e-5)
    found = [
        lmm.power(res.design, res, 30, test="z", seed=2)["power"].iloc[0] for res in (far, near)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("levels", [["a", "b"], ["b", "a"]])
def test_random_effects_are_nothing_beside_typical_residuals_alone(levels):
    """Whatever stratum or visit sigma is of: one of them has a residual of 40,000."""
    rng = np.random.default_rng(0)
    g, f = np.repeat(np.arange(60), 20), np.where(np.arange(1200) % 4 == 0, "b", "a")
    b, e = rng.normal(size=60), rng.normal(size=1200)
    y = 0.3 * b[g] + np.where(f == "a", e, 4e4 * e)
    data = pd.DataFrame({"y": y, "g": g, "f": pd.Categorical(f, categories=levels)})
    res = lmm.fit("y ~ f + (1 | g) + diag(f)", data, reml=False)
    assert res.converged and not res.singular
    sd = data["f"].map(res.residual_params.rename(lambda name: name[3:-1])).to_numpy(float)
    V = float(res.cov_re.iloc[0, 0]) * (g[:, None] == g) + np.diag(sd**2)
    L = np.linalg.cholesky(V)
    e = np.linalg.solve(L, y - res.predict().to_numpy())
    dense = -0.5 * (1200 * np.log(2 * np.pi) + 2 * np.log(np.diagonal(L)).sum() + e @ e)
    assert_close(res.llf, dense, 1e-9)  # of what is reported


# ------------------------------------------------------------ several optima


_FALLS = {
    "sp_exp": lambda t: np.exp(-t),
    "sp_gau": lambda t: np.exp(-t * t),
    "sp_rat": lambda t: 1 / (1 + t * t),
    "sp_sph": lambda t: np.where(t < 1, 1 - 1.5 * t + 0.5 * t**3, 0.0),
}


@pytest.mark.parametrize("seed", [17, 64, 101, 217])
@pytest.mark.parametrize("kind", _FALLS)
def test_no_nugget_is_better_than_the_one_that_is_found(kind, seed):
    """A random intercept and noise: a long range beside a large nugget, far from a start."""
    rng = np.random.default_rng(seed)
    n, k = int(rng.choice([10, 20, 40])), int(rng.integers(4, 7))
    s = np.tile(np.arange(1.0, k + 1), n) + np.round(rng.uniform(-0.3, 0.3, n * k), 2)
    g, x = np.repeat(np.arange(n), k), rng.normal(size=n * k)
    y = 0.5 * x + rng.normal(size=n)[g] * rng.uniform(0.2, 1) + rng.normal(size=n * k)
    data = pd.DataFrame({"id": g, "s": s, "x": x, "y": y})
    res = lmm.fit(f"y ~ x + {kind}(s | id, nugget=True)", data)
    X, D = np.column_stack([np.ones(n * k), x]), np.abs(s[:, None] - s)
    same, best = g[:, None] == g, -np.inf
    for scale in np.geomspace(0.15, 300, 14):
        C = np.where(same, _FALLS[kind](D / scale), 0.0)
        for nugget in (0.001, 0.1, 0.35, 0.6, 0.8, 0.97):
            V = (1 - nugget) * C
            np.fill_diagonal(V, 1.0)
            L = np.linalg.cholesky(V)
            Xs, ys = np.linalg.solve(L, X), np.linalg.solve(L, y)
            Q, R = np.linalg.qr(Xs)
            rss, nu = ys @ ys - np.sum((Q.T @ ys) ** 2), n * k - 2
            logs = 2 * np.log(np.diagonal(L)).sum() + 2 * np.log(np.abs(np.diagonal(R))).sum()
            best = max(best, -0.5 * (nu * (np.log(2 * np.pi * rss / nu) + 1) + logs))
    assert res.llf > best - 1e-6
    assert res.llf > lmm.fit("y ~ x + (1 | id)", data).llf - 1e-6  # an infinite range


def test_a_moving_average_is_looked_for_on_both_sides():
    """Compound symmetry is a moving average with phi to 1 and theta to -1."""
    better = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        g, t = np.repeat(np.arange(15), 5), np.tile(np.arange(5), 15)
        data = pd.DataFrame(
            {"id": g, "t": t, "y": 0.6 * rng.normal(size=15)[g] + rng.normal(size=75)}
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lmm.ConvergenceWarning)  # a limit, that cs reaches
            whole = lmm.fit("y ~ t + arma11(t | id)", data).llf
        cs = lmm.fit("y ~ t + cs(t | id)", data)
        if cs.residual_params["rho"] >= 0:
            assert whole > cs.llf - 1e-5
            better += 1
    assert better > 4


@pytest.mark.parametrize("effects", ["", "(1 | g) + "])
def test_a_stratum_that_is_explained_exactly_has_no_maximum(effects):
    rng = np.random.default_rng(4)
    g, z, f = np.repeat(np.arange(15), 4), rng.normal(size=60), rng.choice(list("ab"), 60)
    y = np.where(f == "a", 2 * z, rng.normal(size=60) + rng.normal(size=15)[g])
    data = pd.DataFrame({"y": y, "z": z, "g": g, "f": f})
    with pytest.warns(lmm.ConvergenceWarning, match="no residual variance is left in a, where"):
        res = lmm.fit(f"y ~ z + {effects}diag(f)", data)
    assert not res.converged
    small = 1e-9 * rng.normal(size=60)  # a variance, if a small one
    res = lmm.fit(f"y ~ z + {effects}diag(f)", data.assign(y=np.where(f == "a", y + small, y)))
    assert res.converged and 3e-10 < res.residual_params["sd[a]"] < 3e-9


@pytest.mark.parametrize(
    ("term", "plain"),
    [
        ("ar1(~ age | Subject)", "ar1(age | Subject)"),
        ("us(~age | Subject)", "us(age | Subject)"),
        ("diag(~ 1 | Sex)", "diag(Sex)"),
        ("ar1(form = ~ 1 | Subject)", "ar1(row | Subject)"),
        ("car1(form = ~ age | Subject)", "car1(age | Subject)"),
        ("power(~ age)", "power(age)"),
        ("sp_exp(~ age | Subject)", "sp_exp(age | Subject)"),
    ],
)
def test_one_sided_formulas_of_others_are_not_another_model(term, plain):
    """`ar1(~ age | Subject)` was read as a random effect, without a word."""
    with pytest.raises(lmm.FormulaError, match=re.escape(f"write `{plain}`")):
        lmm.fit(f"distance ~ age + (1 | Subject) + {term}", lmm.load_dataset("orthodont"))
    assert parse_residual(plain).text == plain  # of residuals


@pytest.mark.parametrize(
    "term", ["expo(form = ~ age | Sex)", "us(~ 1 + age | Subject)", "ar1(~ 1)"]
)
def test_one_sided_formulas_that_are_nothing_here_get_no_advice(term):
    with pytest.raises(lmm.FormulaError, match=r"no `~` stands inside of a term\n"):
        lmm.fit(f"distance ~ age + (1 | Subject) + {term}", lmm.load_dataset("orthodont"))


@pytest.mark.parametrize("seed", [3, 9, 10])
def test_a_correlation_that_is_zero_in_floats_has_tests(seed):
    """Rows that are correlated over a thousandth of a unit: phi, a unit apart, is exp(-2000)."""
    times = np.sort(np.random.default_rng(2).uniform(0, 10, (30, 10)), 1).ravel()
    data = pd.DataFrame({"id": np.repeat(np.arange(30), 10), "time": times})
    rng = np.random.default_rng(seed)
    data["y"] = rng.normal(size=30)[data["id"]] + rng.normal(size=300)
    res = lmm.fit("y ~ time + (1 | id) + car1(time | id)", data)
    assert res.residual_params["phi"] == 0.0 and np.isnan(res.residual_params_se["phi"])
    assert res.residual_intervals()[["lower", "upper"]].isna().all(axis=None)
    # a few pairs of rows apart it is the model of independent ones
    plain = lmm.fit("y ~ time + (1 | id)", data, df_method="kr")
    np.testing.assert_allclose(res.with_df("kr").df, plain.df, rtol=0.01)
    np.testing.assert_allclose(res.with_df("kr").bse_fe, plain.bse_fe, rtol=0.1)


@pytest.mark.parametrize("empty", ["A", "B"])
@pytest.mark.parametrize("term", ["diag(arm)", "ar1(t | id) * diag(arm)", "(1 | id) + diag(arm)"])
def test_a_stratum_without_variance_is_named(term, empty):
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"id": np.repeat(np.arange(20), 5), "t": np.tile(np.arange(5), 20)})
    data["arm"] = np.where(data["id"] < 10, "A", "B")
    data["y"] = np.where(data["arm"] == empty, 0.0, rng.normal(size=100))
    named = f"no residual variance is left in {empty}, where"
    with pytest.raises((lmm.DataError, lmm.ConvergenceWarning), match=named):
        lmm.fit(f"y ~ 0 + arm + {term}", data)


@pytest.mark.parametrize("unit", [0.05, 0.01, 1e-3, 1e-5])
def test_kenward_roger_in_units_of_time_far_from_the_distances_of_rows(unit):
    """Phi, a unit apart, was 1e-300: standard errors were halved, or NaN."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"id": np.repeat(np.arange(40), 5), "t": np.tile(np.arange(5.0), 40)})
    data["x"] = rng.normal(size=200)
    data["y"] = data["x"] + rng.normal(size=200) + np.repeat(rng.normal(size=40), 5)
    found = lmm.fit("y ~ x + car1(t | id)", data.assign(t=data["t"] * unit), df_method="kr")
    same = lmm.fit("y ~ x + car1(t | id)", data, df_method="kr")
    # moments of second order: the parameter is a correlation at other distances
    np.testing.assert_allclose(found.bse_fe, same.bse_fe, rtol=2e-3)
    np.testing.assert_allclose(found.df, same.df, rtol=1e-6)


def test_a_level_without_a_variance_is_a_boundary():
    """Of treatment T nothing varies beside the subjects: an optimum, not a flat criterion."""
    rng = np.random.default_rng(5)
    rows = []
    for i in range(24):
        b = rng.normal()
        for period, arm in enumerate(["TRR", "RTR", "RRT"][i % 3]):
            e = 0.3 * rng.normal() if arm == "R" else 0.0
            rows.append((i, period, arm, b + 0.3 * (arm == "T") + e))
    data = pd.DataFrame(rows, columns=["subject", "period", "arm", "y"])
    res = lmm.fit("y ~ arm + C(period) + (1 | subject) + diag(arm)", data)
    assert res.converged
    assert res.residual_params["sd[T]"] < 1e-4
    assert np.isnan(res.residual_params_se["sd[T]"])
    assert "At the end of its range, without a standard error: sd[T]." in str(res.summary())
    # the criterion is what dense matrices make of a variance of zero
    R = np.where(data["arm"] == "R", res.scale, 0.0)
    same = data["subject"].to_numpy()[:, None] == data["subject"].to_numpy()[None]
    V = np.diag(R) + float(res.cov_re.iloc[0, 0]) * same
    X, y = np.asarray(res.model_matrix()), data["y"].to_numpy()
    np.testing.assert_allclose(res.llf, dense_llf(X, y, V, reml=True), rtol=1e-8)
    np.testing.assert_allclose(res.fe_params, dense_gls(X, y, V, reml=True).beta, rtol=1e-6)


def test_the_first_level_without_a_variance_is_named():
    """The others are measured in it: another level first, and the optimum is found."""
    rng = np.random.default_rng(4)
    g = np.repeat(np.arange(20), 3)
    f = np.tile(["a", "b", "b"], 20)
    y = rng.normal(size=20)[g] + np.where(f == "a", 0.0, rng.normal(size=60))
    data = pd.DataFrame({"y": y, "g": g, "f": f})
    with pytest.warns(lmm.ConvergenceWarning, match="variance of a, the first level, .* goes to"):
        first = lmm.fit("y ~ 1 + (1 | g) + diag(f)", data)
    assert not first.converged
    data["f"] = pd.Categorical(f, categories=["b", "a"])
    last = lmm.fit("y ~ 1 + (1 | g) + diag(f)", data)
    assert last.converged
    assert last.llf > first.llf - 1e-9


def zigzag(step):
    """Residuals that alternate, at visits that are multiples of a step apart."""
    rng, k = np.random.default_rng(3), np.arange(4)
    root = np.linalg.cholesky((-0.5) ** np.abs(k[:, None] - k))
    y = (rng.normal(size=(40, 4)) @ root.T).ravel()
    visit, ids = np.tile(8 + step * k, 40), np.repeat(np.arange(40), 4)
    return pd.DataFrame({"y": y, "Age": visit, "id": ids, "arm": np.array(["A", "B"])[ids % 2]})


@pytest.mark.parametrize("step", [2, 4])
@pytest.mark.parametrize("term", ["ar1(Age | id)", "ar1h(Age | id)", "ar1(Age | arm / id)"])
def test_visits_an_even_number_apart_have_no_negative_correlation(term, step):
    """An even power of rho is not negative: said where the rows want it to be."""
    data, said = zigzag(step), rf"multiples of {step} apart.*`factor\(Age\)` in the place of `Age`"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # rho^4 is flat at zero
        with pytest.warns(OrderWarning, match=said):
            zero = lmm.fit(f"y ~ 1 + {term}", data)
    free = lmm.fit(f"y ~ 1 + {term.replace('Age', 'factor(Age)')}", data)
    assert free.llf > zero.llf + 5
    assert (free.residual_params.filter(like="rho") < -0.3).all()


def test_visits_a_step_apart_are_fitted_where_correlations_are_positive():
    data = panel()
    data["time"] = 2 * data["time"]
    both = [lmm.fit(f"y ~ 1 + ar1({name} | id)", data) for name in ("time", "visit")]
    assert_close(both[0].llf, both[1].llf, SAME)
    rho = [fit.residual_params["rho"] for fit in both]
    assert_close(rho[0] ** 2, rho[1], SAME_ROOT)


def test_moving_averages_of_visits_no_two_of_which_are_neighbours():
    """A moving average of one step is no model of visits two apart, whatever its sign."""
    data = zigzag(2)
    with pytest.warns(OrderWarning, match=r"steps of 1, .* multiples of 2 apart: `factor\(Age\)`"):
        lmm.design("y ~ 1 + arma11(Age | id)", data)
    lmm.design("y ~ 1 + arma11(factor(Age) | id)", data)
    lmm.design("y ~ 1 + arma11(row | id)", data)
    lmm.design("y ~ 1 + arma11(Age | id)", pd.concat([data, data.iloc[:1].assign(Age=9)]))
