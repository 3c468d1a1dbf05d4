"""Residuals that depend on the row before: chains against dense matrices, and what they are for."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from dense_residual import DenseResidual
from helpers import Array, Term, assert_close, dense_gls, differences, random_root

import lmm_jax as lmm
from lmm_jax.batches.replicate_minimize import fit_each
from lmm_jax.batches.row_draws import _rows, row_roots
from lmm_jax.covariance.correlations import Independent
from lmm_jax.covariance.distances import Autoregressive
from lmm_jax.covariance.spatial import Continuous, Exponential, Gaussian
from lmm_jax.covariance.theta import factor_blocks
from lmm_jax.covariance.visits import General, Symmetric
from lmm_jax.inference.residuals.parameters import natural_parameters
from lmm_jax.layouts import plan
from lmm_jax.layouts.response import Response
from lmm_jax.likelihood.profile import profile_jet, profile_waist

EXACT = 1e-12  # a few roundings of float64
DENSE_RTOL = 1e-11  # a dense V of eighty rows
DIFFERENCE_RTOL = 1e-9  # of `differences`: rounding over its step
LAYOUT_RTOL = 1e-11  # two layouts at one optimum
OPTIMUM_RTOL = 1e-7  # two optima, each to a Newton decrement of 1e-9 and better


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
    "car1(time | subject) * diag(stratum) + (1 + x | subject)": (
        dense_of("car1", **BY_STRATUM, **TIME), [SLOPE]
    ),
    "ar1(visit | arm / subject) + (1 | subject)": (
        dense_of("ar1", arm=column("arm")), [SUBJECT]
    ),
    "ar1(visit | subject) * power(size) + (1 | site) + (1 + x | subject)": (
        dense_of("ar1", spread="power", by=column("size")), [SLOPE, SITE]
    ),
    "diag(stratum) + (1 | site)": (dense_of(**BY_STRATUM), [SITE]),
}  # fmt: skip


@cache
def design_of(text, weighted=False):
    return lmm.design(f"y ~ x + {text}", PANEL, weights="w" if weighted else None)


def layout_of(model):
    return jax.tree.map(np.asarray, model.compressed.layout)


def merged_of(model):
    return jax.tree.map(np.asarray, model.compressed.merged)


def theta_near(layout, seed):
    start = np.asarray(layout.start_moments())
    return start + 0.3 * np.random.default_rng(seed).normal(size=start.size)


def dense_covariance(text, weighted, layout, theta) -> Array:
    """V of the rows, relative to sigma^2, at the layout's theta."""
    residual, terms = MODELS[text]
    found = natural_parameters(theta, 1.0, layout.structures)
    V = residual.matrix(dict(zip(found.names, np.asarray(found.values.value), strict=True)))
    if weighted:
        V = V / np.sqrt(np.outer(column("w"), column("w")))
    if not terms:
        return V
    blocks = factor_blocks(theta, layout.structures)
    own = [A @ L for A, L in zip(layout.whiteners, blocks, strict=True)][: len(terms)]
    Z, Lambda = random_root(terms, np.concatenate([L.T[np.triu_indices(len(L))] for L in own]))
    return V + (Z @ Lambda) @ (Z @ Lambda).T


X, Y = np.column_stack([ONE, column("x")]), column("y")


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("text", MODELS)
def test_criterion_is_that_of_dense_matrices(text, weighted):
    plain, merged = layout_of(design_of(text, weighted)), merged_of(design_of(text, weighted))
    assert isinstance(plain, lmm.MarkovLayout)
    for seed, reml in ((0, True), (1, False)):
        theta = theta_near(plain, seed)
        V = dense_covariance(text, weighted, plain, theta)
        dense = dense_gls(X, Y, V, reml=reml)
        for layout in (plain, merged):
            assert_close(profile_jet(theta, layout, reml=reml).value, dense.criterion, DENSE_RTOL)
            value = profile_waist(layout.waist_at(theta), layout, reml=reml).deviance
            assert_close(value, dense.criterion, DENSE_RTOL)
        many = profile_waist(plain.waists_at(np.stack([theta, theta])), plain, reml=reml)
        assert_close(many.deviance, [dense.criterion] * 2, DENSE_RTOL)


@pytest.mark.parametrize("text", MODELS)
def test_derivatives_of_the_criterion(text):
    """The gradient is that of the dense criterion, the Hessian that of the gradient."""
    weighted, reml = (True, True) if len(text) % 2 else (False, False)
    layout = merged_of(design_of(text, weighted))
    theta = theta_near(layout, 3)

    def criterion(at):
        return dense_gls(X, Y, dense_covariance(text, weighted, layout, at), reml=reml).criterion

    jet = profile_jet(theta, layout, reml=reml)
    scale = np.abs(jet.gradient).max()
    assert_close(jet.gradient, differences(criterion, theta), 1e-8, scale)
    hessian = differences(lambda at: profile_jet(at, layout, reml=reml).gradient, theta)
    assert_close(jet.hessian, hessian, 1e-8, np.abs(hessian).max())


@pytest.mark.parametrize("c", [-0.8, 2.5])
def test_negative_and_large_correlations(c):
    """Over gaps of odd and of even length."""
    text = "ar1(visit | subject)"
    layout = layout_of(design_of(text))
    theta = np.array([c])

    def criterion(at):
        return dense_gls(X, Y, dense_covariance(text, False, layout, at), reml=True).criterion

    jet = profile_jet(theta, layout, reml=True)
    assert_close(jet.value, criterion(theta), DENSE_RTOL)
    assert_close(jet.gradient, differences(criterion, theta), 1e-8, 1)


def test_criterion_and_derivatives_under_jax(x64):
    text = "ar1(visit | subject) * power(size) + (1 | site)"
    layout = merged_of(design_of(text, True))
    theta = theta_near(layout, 5)
    expected = profile_jet(theta, layout, reml=True)
    device = jax.tree.map(jnp.asarray, layout)
    found = jax.jit(profile_jet, static_argnames="reml")(jnp.asarray(theta), device, reml=True)
    assert_close(found.value, expected.value, 10 * EXACT)
    for name in ("gradient", "hessian"):
        value = getattr(expected, name)
        assert_close(getattr(found, name), value, 1e-10, np.abs(value).max())

    def logdet(at):
        return device.waist_at(at).logdet

    slopes = jax.jit(jax.grad(logdet))(jnp.asarray(theta))
    jet = layout.jet(theta)
    assert_close(slopes, jet.dlogdet, 1e-10, np.abs(jet.dlogdet).max())


# ------------------------------------------------------------------------------ two layouts


@pytest.fixture
def dense(monkeypatch):
    """Every residual covariance by dense matrices of the groups."""

    def use():
        for other in ("takes_chains", "takes_subjects"):
            monkeypatch.setattr(plan, other, lambda *args, **options: False)

    return use


MOMENTS = [
    "ar1(visit | subject) * diag(stratum)",
    "car1(time | arm / subject) * diag(stratum)",
    "ar1(visit | subject) * power(size) + (1 | site) + (1 + x | subject)",
]


@pytest.mark.parametrize("text", MOMENTS)
def test_moments_are_those_of_the_dense_layout(text, dense):
    """What Kenward and Roger's adjustment is made of."""
    layout = layout_of(design_of(text, True))
    dense()
    other = layout_of(lmm.design(f"y ~ x + {text}", PANEL, weights="w"))
    assert isinstance(other, lmm.ResidualLayout)
    theta = theta_near(layout, 4)
    found, expected = layout.psi_moments(theta), other.psi_moments(theta)
    for name, value in expected._asdict().items():
        assert_close(getattr(found, name), value, DENSE_RTOL, np.abs(value).max())
    rng = np.random.default_rng(6)
    root, z = rng.normal(size=(theta.size + 1, theta.size + 1)), rng.normal(size=theta.size + 1)
    W = root @ root.T
    bend = other.bend_form(theta, W, z)
    assert_close(layout.bend_form(theta, W, z), bend, 1e-10, np.abs(bend).max())
    pairs = zip(layout.weighted_moments(theta, W[1:, 1:]),
                other.weighted_moments(theta, W[1:, 1:]), strict=True)  # fmt: skip
    for left, right in pairs:
        assert_close(left, right, DENSE_RTOL, np.abs(right).max())
    assert_close(layout.start_candidates(), other.start_candidates(), EXACT, 1)
    beta = rng.normal(size=2)
    moved, at = (own.measured_from(beta).jet(theta).waist.gram for own in (layout, other))
    assert_close(moved, at, DENSE_RTOL, np.abs(at).max())


FITS = [
    "ar1(visit | subject)",
    "car1(time | arm / subject)",
    "ar1(visit | subject) * diag(stratum)",
    "ar1(visit | subject) + (1 | subject)",
    "car1(time | subject) + (1 | site)",
    "diag(stratum) + (1 + x | subject)",
]


@pytest.mark.parametrize("text", FITS)
def test_a_fit_does_not_show_its_layout(text, dense):
    def fitted():
        return lmm.fit(f"y ~ x + {text}", PANEL, weights="w", runtime="numpy")

    found = fitted()
    dense()
    expected = fitted()
    assert isinstance(found.design.compressed.layout, lmm.MarkovLayout)
    assert isinstance(expected.design.compressed.layout, lmm.ResidualLayout)
    assert found.converged and found.layout_info.kind == expected.layout_info.kind
    assert_close(found.llf, expected.llf, LAYOUT_RTOL)
    assert_close(found.fe_params, expected.fe_params, OPTIMUM_RTOL, expected.bse_fe)
    assert_close(found.bse_fe, expected.bse_fe, OPTIMUM_RTOL)
    errors = expected.residual_params_se
    assert_close(found.residual_params, expected.residual_params, 1e-6, errors)
    assert_close(found.residual_params_se, errors, 1e-5)
    for name in ("satterthwaite", "kenward-roger", "kenward-roger-linear",
                 "kenward-roger-expected"):  # fmt: skip
        left, right = found.with_df(name), expected.with_df(name)
        assert_close(left.df, right.df, 1e-5)
        assert_close(left.bse_fe, right.bse_fe, OPTIMUM_RTOL)
    assert_close(found.fittedvalues, expected.fittedvalues, 1e-6, 1)
    assert_close(found.resid(), expected.resid(), 1e-6, 1)
    assert_close(found.predict(PANEL), expected.predict(PANEL), 1e-6, 1)
    if "(1" in text:
        left, right = found.random_effects, expected.random_effects
        for group in right:
            assert_close(left[group], right[group], 1e-5, 1)


def test_a_singular_random_effect(dense):
    """A variance of zero beside a correlation."""
    data = PANEL.copy()
    data["y"] -= data.groupby("subject")["y"].transform("mean")

    def fitted():
        return lmm.fit("y ~ x + car1(time | subject) + (1 | subject)", data, runtime="numpy")

    found = fitted()
    dense()
    expected = fitted()
    assert isinstance(found.design.compressed.layout, lmm.MarkovLayout)
    assert_close(found.llf, expected.llf, LAYOUT_RTOL)
    assert_close(found.cov_re, expected.cov_re, EXACT, 1)
    assert_close(found.residual_params, expected.residual_params, 1e-6)


DRAWN = ["ar1(visit | subject) * diag(stratum)",
         "ar1(visit | subject) * power(size) + (1 | site) + (1 + x | subject)"]  # fmt: skip


@pytest.mark.parametrize("text", DRAWN)
def test_drawn_rows_have_the_covariance_of_the_model(text):
    """Rows are linear in independent variates: by all unit vectors."""
    layout = layout_of(design_of(text, True))
    theta = theta_near(layout, 2)
    got = np.zeros(0)
    for root in row_roots(layout, theta):
        size = root.present.size + root.ZL.shape[0] * root.ZL.shape[1]
        made = _rows(root, np.eye(size)).reshape(size, -1)[:, root.present.ravel() > 0]
        got = np.append(got, np.linalg.eigvalsh(made.T @ made))
    w = np.sqrt(column("w"))
    V = dense_covariance(text, True, layout, theta) * np.outer(w, w)
    expected = np.linalg.eigvalsh(V)
    assert_close(np.sort(got), expected, DENSE_RTOL, expected.max())


@pytest.mark.parametrize("text", DRAWN)
def test_a_replicate_is_fitted_as_a_response(text):
    """The response of the data in the place of a drawn one."""
    fit = lmm.fit(f"y ~ x + {text}", PANEL, runtime="numpy")
    layout, theta = layout_of(fit.design), fit.estimates.theta_layout
    rows = tuple((b.step[:, -1] + b.before[:, -1])[None] for b in layout.buckets)
    with jax.enable_x64(True):
        found = fit_each(layout, Response(y=rows, S0=layout.S0[None, -1]), theta + 0.05, reml=True)
    assert_close(found.jet.value[0], fit.estimates.deviance, LAYOUT_RTOL)


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
        model = lmm.design(f"y ~ x + {text}", data)
        residual = model.residual.structures[0].correlation
        # 1 - phi = near
        c = -np.log(-np.log1p(-near) * getattr(residual, "unit", 1.0))
        c = np.arctanh(1 - near) if text.startswith("ar1") else c
        phi = np.tanh(np.longdouble(c)) if text.startswith("ar1") else np.exp(
            -np.exp(-np.longdouble(c)) / residual.unit
        )  # fmt: skip
        for layout in (layout_of(model), merged_of(model)):
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
    assert merged_of(alone).buckets[0].step.shape == (1, 3, 9)
    assert merged_of(beside).buckets[0].step.shape == (8, 4, 9)  # one first row a group
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
