"""Residuals that depend on the row before: chains against dense matrices, and what they are for."""

from functools import cache, partial

import numpy as np
import pandas as pd
import pytest
from dense_residual import DenseResidual
from helpers import Term, assert_close, differences
from residual_checks import (
    DENSE_RTOL,
    EXACT,
    LAYOUT_RTOL,
    check_criterion,
    check_derivatives,
    check_drawn_rows,
    check_moments,
    check_replicate,
    check_same_fit,
    check_under_jax,
    dense_groups,
    model_of,
    on_host,
)

import lmm_jax as lmm
from lmm_jax.covariance.correlations import Independent
from lmm_jax.covariance.distances import Autoregressive
from lmm_jax.covariance.spatial import Continuous, Exponential, Gaussian
from lmm_jax.covariance.visits import General, Symmetric
from lmm_jax.likelihood.profile import profile_jet

DIFFERENCE_RTOL = 1e-9  # of `differences`: rounding over its step


# ------------------------------------------------------------------------------ correlations

GAPS = np.array([[0.3, 1.0, 2.5, 0.01]])
WHOLE = np.array([[1.0, 2.0, 3.0, 8.0]])
MARKOV = {
    "independent": (Independent(), WHOLE, np.zeros(0)),
    "autoregressive": (Autoregressive(), WHOLE, np.array([0.7])),
    "autoregressive, negative": (Autoregressive(), WHOLE, np.array([-0.4])),
    "autoregressive, zero": (Autoregressive(), WHOLE, np.array([0.0])),
    "continuous": (Continuous(), GAPS, np.array([0.2])),
    "exponential": (Exponential(unit=2.0), GAPS, np.array([-1.0])),
}


@pytest.mark.parametrize("name", MARKOV)
def test_fading_is_the_correlation_at_a_gap(name):
    correlation, gaps, c = MARKOV[name]
    at = correlation.fading(c, gaps)
    pairs = np.stack([np.zeros_like(gaps[0]), gaps[0]])[None]  # two rows a group
    a = correlation.matrix(c, pairs)[0, 1][None] * np.ones_like(gaps)
    assert_close(at.value, a, EXACT, 1)
    assert_close(at.loss, 1 - a, EXACT, 1)
    assert_close(at.left, 1 - a**2, EXACT, 1)
    assert at.first.shape == (c.size, *gaps.shape)
    if c.size:
        first = differences(lambda x: correlation.fading(x, gaps).value, c)
        assert_close(at.first, first, DIFFERENCE_RTOL, 1)
        second = differences(lambda x: correlation.fading(x, gaps).first, c)
        assert_close(at.second, second, DIFFERENCE_RTOL, 1)


@pytest.mark.parametrize(("correlation", "c"), [(Autoregressive(), 15.0), (Continuous(), 30.0)])
def test_fading_keeps_its_digits_near_one(correlation, c):
    """1 - a of steps of 1e-13: by the logarithm of a, in long double."""
    at = correlation.fading(np.array([c]), WHOLE)
    c, gaps = np.longdouble(c), WHOLE.astype(np.longdouble)
    log = np.log1p(-2 / (np.exp(2 * c) + 1)) if isinstance(correlation, Autoregressive) else None
    log = -np.exp(-c) if log is None else log
    assert_close(at.loss, -np.expm1(gaps * log), EXACT)
    assert_close(at.left, -np.expm1(2 * gaps * log), EXACT)


def test_which_correlations_are_those_of_neighbours():
    along_time = [Independent(), Autoregressive(), Continuous(), Exponential()]
    others = [General(levels=("a", "b")), Symmetric(), Gaussian(), Exponential(nugget=True)]
    assert all(kind.is_markov(1) for kind in along_time)
    assert not any(kind.is_markov(1) for kind in others)
    assert not Exponential().is_markov(2) and not Continuous().is_markov(2)


# ------------------------------------------------------------------------------ models

SEEN = [14, 1, 11, 12, 2, 10, 13, 1, 12]  # rows of every subject


def panel():
    """Subjects at four sites, visits of which some were missed, times of their own, no order."""
    rng = np.random.default_rng(17)
    subject = np.repeat(np.arange(len(SEEN)), SEEN)
    visits = [np.sort(rng.permutation(16)[:count]) for count in SEEN]
    visit = np.concatenate(visits)
    n = subject.size
    data = pd.DataFrame(
        {
            "x": rng.normal(size=n),
            "time": visit + rng.uniform(0, 0.9, n),
            "visit": visit + 2,
            "size": rng.uniform(0.5, 3.0, n),
            "subject": [f"s{k}" for k in subject],
            "site": [f"c{k}" for k in subject % 4],
            "arm": np.array(["A", "B"])[subject % 2],
            "stratum": np.array(["p", "q", "r"])[rng.integers(0, 3, n)],
            "w": rng.uniform(0.5, 2.0, n),
        }
    )
    e = np.zeros(n)
    for i in range(n):
        same = i > 0 and subject[i] == subject[i - 1]
        e[i] = rng.normal() if not same else 0.5 * e[i - 1] + 0.9 * rng.normal()
    data["y"] = 2 + 0.5 * data["x"] + e + rng.normal(size=len(SEEN))[subject]
    return data.sample(frac=1.0, random_state=1)


PANEL = panel()


def column(name):
    return PANEL[name].to_numpy()


def dense_of(correlation="", **options):
    fields = {
        "subject": pd.factorize(PANEL["subject"])[0],
        "places": column("visit").astype(float)[None],
        **options,
    }
    return DenseResidual(correlation=correlation, **fields)


TIME = {"places": column("time")[None]}
BY_STRATUM = {"spread": "levels", "by": column("stratum")}
ONE = np.ones((len(PANEL), 1))
SUBJECT, SITE = Term(ONE, column("subject")), Term(ONE, column("site"))
SLOPE = Term(np.column_stack([ONE, column("x")]), column("subject"))

# formula of the covariance and of random effects: twin, random terms in the layout's order
MODELS = {
    "ar1(visit | subject)": (dense_of("ar1"), []),
    "ar1h(visit | subject)": (
        dense_of("ar1", spread="levels", by=column("visit").astype(str)), []
    ),
    "car1(time | subject)": (dense_of("car1", **TIME), []),
    "car1(time)": (dense_of("car1", subject=np.zeros(len(PANEL), int), **TIME), []),
    "car1(time | arm / subject)": (dense_of("car1", arm=column("arm"), **TIME), []),
    "diag(stratum)": (dense_of(**BY_STRATUM), []),
    "ar1(visit | subject) * diag(stratum)": (dense_of("ar1", **BY_STRATUM), []),
    "sp_exp(time | subject) * power(size)": (
        dense_of("sp_exp", spread="power", by=column("size"), **TIME), []
    ),
    "ar1(visit | arm / subject) * expo(x)": (
        dense_of("ar1", spread="expo", by=column("x"), arm=column("arm")), []
    ),
    "car1(time | arm / subject) * diag(stratum)": (
        dense_of("car1", arm=column("arm"), **BY_STRATUM, **TIME), []
    ),
    "ar1(visit | subject) + (1 | subject)": (dense_of("ar1"), [SUBJECT]),
    "car1(time | subject) + (1 | site)": (dense_of("car1", **TIME), [SITE]),
    "car1(time | subject) * diag(stratum) + (1 + x | subject)": (
        dense_of("car1", **BY_STRATUM, **TIME), [SLOPE]
    ),
    "ar1(visit | arm / subject) + (1 | subject)": (
        dense_of("ar1", arm=column("arm")), [SUBJECT]
    ),
    "ar1(visit | subject) * power(size) + (1 | site) + (1 + x | subject)": (
        dense_of("ar1", spread="power", by=column("size")), [SLOPE, SITE]
    ),
    "diag(stratum) + (1 + x | subject)": (dense_of(**BY_STRATUM), [SLOPE]),
    "diag(stratum) + (1 | site)": (dense_of(**BY_STRATUM), [SITE]),
}  # fmt: skip


X = np.column_stack([ONE, column("x")])


@cache
def model(text, weighted=False):
    options = {"weights": "w"} if weighted else {}
    return model_of(f"y ~ x + {text}", PANEL, X, MODELS[text], 0.3, **options)


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("text", MODELS)
def test_criterion_is_that_of_dense_matrices(text, weighted, reml):
    assert isinstance(model(text, weighted).layouts[0], lmm.MarkovLayout)
    check_criterion(model(text, weighted), reml=reml)


@pytest.mark.parametrize("text", MODELS)
def test_derivatives_of_the_criterion(text):
    weighted = reml = bool(len(text) % 2)
    check_derivatives(model(text, weighted), reml=reml)


@pytest.mark.parametrize("c", [-0.8, 2.5])
def test_negative_and_large_correlations(c):
    """Over gaps of odd and of even length."""
    own = model("ar1(visit | subject)")
    layout, theta = own.layouts[0], np.array([c])
    criterion = partial(own.criterion, layout, reml=True)
    jet = profile_jet(theta, layout, reml=True)
    assert_close(jet.value, criterion(theta), DENSE_RTOL)
    assert_close(jet.gradient, differences(criterion, theta), 1e-8, 1)


def test_criterion_and_derivatives_under_jax(x64):
    text = "ar1(visit | subject) * power(size) + (1 | site) + (1 + x | subject)"
    check_under_jax(model(text, True), model(text, True).layouts[1])


# ------------------------------------------------------------------------------ two layouts


MOMENTS = [
    "ar1(visit | subject) * diag(stratum)",
    "car1(time | arm / subject) * diag(stratum)",
    "ar1(visit | subject) * power(size) + (1 | site) + (1 + x | subject)",
]


@pytest.mark.parametrize("text", MOMENTS)
def test_moments_are_those_of_the_dense_layout(text):
    check_moments(model(text, True), model(text, True).layouts[:1])


FITS = [
    "ar1(visit | subject)",
    "car1(time | arm / subject)",
    "ar1(visit | subject) * diag(stratum)",
    "ar1(visit | subject) + (1 | subject)",
    "car1(time | subject) + (1 | site)",
    "diag(stratum) + (1 + x | subject)",
]


@pytest.mark.parametrize("text", FITS)
def test_a_fit_does_not_show_its_layout(text):
    new = PANEL.iloc[::7].assign(visit=20, time=18.5)
    assert check_same_fit(model(text, True), lmm.MarkovLayout, new).converged


def test_a_singular_random_effect():
    """A variance of zero beside a correlation."""
    data = PANEL.copy()
    data["y"] -= data.groupby("subject")["y"].transform("mean")

    def fitted():
        return lmm.fit("y ~ x + car1(time | subject) + (1 | subject)", data, runtime="numpy")

    found = fitted()
    with dense_groups():
        expected = fitted()
    assert isinstance(found.design.compressed.layout, lmm.MarkovLayout)
    assert_close(found.llf, expected.llf, LAYOUT_RTOL)
    assert_close(found.cov_re, expected.cov_re, EXACT, 1)
    assert_close(found.residual_params, expected.residual_params, 1e-6)


DRAWN = ["ar1(visit | subject) * diag(stratum)",
         "ar1(visit | subject) * power(size) + (1 | site) + (1 + x | subject)"]  # fmt: skip


@pytest.mark.parametrize("text", DRAWN)
def test_drawn_rows_have_the_covariance_of_the_model(text):
    check_drawn_rows(model(text, True))


@pytest.mark.parametrize("text", DRAWN)
def test_a_replicate_is_fitted_as_a_response(text):
    check_replicate(model(text))


def test_bootstrap_of_long_series():
    """Replicates have the spread of the estimate, in three standard errors of it."""
    fit = lmm.fit("y ~ x + car1(t)", series(1500), runtime="numpy")
    boot = lmm.bootstrap(fit, 60, seed=4)
    table = boot.tidy().set_index("term")
    assert boot.n_failed == 0
    for name, se in {**fit.bse_fe, **fit.residual_params_se}.items():
        assert abs(np.log(table.loc[name, "std_error"] / se)) < 3 / np.sqrt(2 * 60), name


def test_new_rows_depend_on_their_neighbours_alone():
    """Predictions between, before and after rows of the fit: by all of them in dense algebra."""
    data = series(40).assign(id=np.repeat(["a", "b"], 20))
    fit = lmm.fit("y ~ x + car1(t | id)", data, runtime="numpy")
    phi, mean = fit.residual_params["phi"], fit.fe_params
    own = data[data["id"] == "a"]
    t = own["t"].to_numpy()
    new = np.array([t[0] - 0.4, 0.5 * (t[3] + t[4]), t[-1] + 1.5])
    e = own["y"] - mean.iloc[0] - mean.iloc[1] * own["x"]
    C = phi ** np.abs(new[:, None] - t)
    expected = mean.iloc[0] + C @ np.linalg.solve(phi ** np.abs(t[:, None] - t), e)
    found = fit.predict(pd.DataFrame({"t": new, "x": 0.0, "id": "a"}), conditional=True)
    assert_close(found, expected, 1e-10, 1)


@pytest.mark.slow
def test_both_runtimes_find_one_optimum():
    text = "y ~ x + ar1(visit | subject) * diag(stratum) + (1 | subject)"
    numpy, other = (lmm.fit(text, PANEL, runtime=runtime) for runtime in ("numpy", "jax"))
    assert (numpy.runtime, other.runtime) == ("numpy", "jax")
    assert_close(other.llf, numpy.llf, DENSE_RTOL)
    assert_close(other.fe_params, numpy.fe_params, 1e-6, numpy.bse_fe)


# ------------------------------------------------------------------------------ long series


def recursion(y, x, time, phi, *, reml=True):
    """The criterion of one series ``y ~ 1 + x`` by innovations, in long double."""
    y, x, time = (np.asarray(v, np.longdouble) for v in (y, x, time))
    A = np.column_stack([np.ones_like(x), x, y])
    log = np.diff(time) * np.log(np.longdouble(phi))
    a, left = np.exp(log), -np.expm1(2 * log)
    rows = (A[1:] - A[:-1] - np.expm1(log)[:, None] * A[:-1]) / np.sqrt(left)[:, None]
    E = np.concatenate([A[:1], rows])
    G = E.T @ E
    assert np.all(a < 1)
    det = G[0, 0] * G[1, 1] - G[0, 1] ** 2
    b = np.array([G[1, 1] * G[0, 2] - G[0, 1] * G[1, 2], G[0, 0] * G[1, 2] - G[0, 1] * G[0, 2]])
    rss = G[2, 2] - (b @ G[:2, 2]) / det
    nu = y.size - 2 if reml else y.size
    logs = np.log(left).sum() + (np.log(det) if reml else 0)
    return float(logs + nu * (1 + np.log(2 * np.pi * rss / nu)))


def series(n, phi=0.7, seed=2):
    rng = np.random.default_rng(seed)
    time = np.cumsum(rng.uniform(0.2, 2.0, n))
    e = rng.normal(size=n)
    for i in range(1, n):
        a = phi ** (time[i] - time[i - 1])
        e[i] = a * e[i - 1] + np.sqrt(1 - a * a) * e[i]
    x = rng.normal(size=n)
    return pd.DataFrame({"t": time, "x": x, "y": 1 + 0.2 * x + e})


def test_one_series_of_many_rows():
    """More than dense matrices would take; its maximum by the recursion alone."""
    data = series(6000)
    result = lmm.fit("y ~ x + car1(t)", data, runtime="numpy")
    phi = result.residual_params["phi"]
    assert result.converged and abs(phi - 0.7) < 0.05

    def criterion(at):
        return recursion(data["y"], data["x"], data["t"], at)

    assert_close(-2 * result.llf, criterion(phi), EXACT)
    h = 1e-4
    slope = (criterion(phi + h) - criterion(phi - h)) / (2 * h)
    bend = (criterion(phi + h) - 2 * criterion(phi) + criterion(phi - h)) / h**2
    assert abs(slope / bend) < 1e-6  # the optimum
    assert_close(result.residual_params_se["phi"], np.sqrt(2 / bend), 1e-3)  # of sigma apart


@pytest.mark.parametrize("near", [1e-3, 1e-6, 1e-9])
def test_correlations_near_one_keep_their_digits(near):
    """A random walk of small steps, of which dense matrices would make little."""
    rng = np.random.default_rng(5)
    n, gaps = 300, np.array([1.0, 2.0])
    time = np.cumsum(gaps[rng.integers(0, 2, n)])
    walk = np.cumsum(rng.normal(size=n))
    data = pd.DataFrame({"t": time, "x": np.cumsum(rng.normal(size=n)), "y": walk, "id": "a"})
    for text in ("car1(t)", "ar1(t | id)"):
        design = lmm.design(f"y ~ x + {text}", data)
        residual = design.residual.structures[0].correlation
        # 1 - phi = near
        c = -np.log(-np.log1p(-near) * getattr(residual, "unit", 1.0))
        c = np.arctanh(1 - near) if text.startswith("ar1") else c
        phi = np.tanh(np.longdouble(c)) if text.startswith("ar1") else np.exp(
            -np.exp(-np.longdouble(c)) / residual.unit
        )  # fmt: skip
        for layout in map(on_host, (design.compressed.layout, design.compressed.merged)):
            jet = profile_jet(np.array([c]), layout, reml=True)
            expected = recursion(data["y"], data["x"], data["t"], phi)
            # the constant is told from the rest by the first row alone: its rows are rounded
            assert_close(jet.value, expected, 1e-9 if near < 1e-8 else DENSE_RTOL)


def test_regular_visits_are_few_links():
    """Of all rows a few remain that a fit looks at."""
    data = pd.concat([series(60, seed=k).assign(id=k) for k in range(8)])
    data["t"] = data.groupby("id").cumcount()
    alone = lmm.design("y ~ x + ar1(t | id)", data)
    beside = lmm.design("y ~ x + ar1(t | id) + (1 | id)", data)
    assert alone.compressed.merged.buckets[0].step.shape == (1, 3, 9)
    assert beside.compressed.merged.buckets[0].step.shape == (8, 4, 9)  # one first row a group
    moved = lmm.design("y ~ x + car1(t | id)", data.assign(t=series(480)["t"].to_numpy()))
    assert moved.compressed.merged.buckets[0].in_order


def test_who_gets_chains():
    """Without random effects all, beside them from nine rows a group on; never with a nugget."""
    data = pd.concat([series(8, seed=k).assign(id=k) for k in range(30)])
    data["v"] = data.groupby("id").cumcount()

    def kind(text, of=data):
        return type(lmm.design(f"y ~ x + {text}", of).compressed.layout).__name__

    assert kind("ar1(v | id)") == kind("car1(t | id)") == "MarkovLayout"
    assert kind("ar1(v | id) + (1 | id)") == kind("cs(v | id)") == "ResidualLayout"
    assert kind("car1(t | id, nugget=True)") == kind("sp_exp(t + x | id)") == "ResidualLayout"
    longer = pd.concat([series(9, seed=k).assign(id=k) for k in range(5)])
    assert kind("car1(t | id) + (1 | id)", longer) == "MarkovLayout"


def test_too_many_rows_of_random_effects(monkeypatch):
    from lmm_jax.layouts.residual import index

    monkeypatch.setattr(index, "_MOST_NUMBERS", 100)
    with pytest.raises(lmm.DataError, match="rows are connected by 1 random effects"):
        _ = lmm.design("y ~ x + car1(time | subject) + (1 | subject)", PANEL).compressed
