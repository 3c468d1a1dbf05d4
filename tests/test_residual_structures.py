"""Residual covariances: their derivatives, and their layout against dense n x n matrices."""

import sys
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from dense_residual import DenseResidual
from helpers import Term, assert_close, differences
from residual_checks import (
    DENSE_RTOL,
    EXACT,
    check_criterion,
    check_derivatives,
    check_under_jax,
    dense_covariance,
    model_of,
    on_host,
)

import lmm_jax as lmm
from lmm_jax.covariance.arma import AutoregressiveMovingAverage, FirstOrders
from lmm_jax.covariance.correlations import Independent
from lmm_jax.covariance.distances import Autoregressive, Toeplitz
from lmm_jax.covariance.residuals import ResidualStructure, Spread
from lmm_jax.covariance.spatial import (
    Continuous,
    Exponential,
    Gaussian,
    Rational,
    Spatial,
    Spherical,
)
from lmm_jax.covariance.theta import theta_slices
from lmm_jax.covariance.visits import Antedependent, General, Symmetric
from lmm_jax.numerics.taylor import variables

DIFFERENCE_RTOL = 1e-9  # of `differences`: rounding over its step
RUNTIME_RTOL = 1e-9  # two optima, each to a decrement of 1e-9 and better


# ------------------------------------------------------------------------------ correlations

LEVELS = ("a", "b", "c", "d")
VISITS = np.arange(4.0)[None, :, None]  # places of visits: (d, r, g)
GAPS = np.array([[0.0, 2.0, 3.0, 7.0], [1.0, 2.0, 4.0, 5.0]]).T[None]
POINTS = np.random.default_rng(3).normal(size=(2, 4, 3))
CORRELATIONS = {
    "independent": (Independent(), VISITS),
    "general": (General(levels=LEVELS), VISITS),
    "symmetric": (Symmetric(width=4), VISITS),
    "symmetric of places of their own": (Symmetric(width=4), GAPS),
    "autoregressive": (Autoregressive(), VISITS),
    "autoregressive with gaps": (Autoregressive(), GAPS),
    "moving average": (FirstOrders(reach=3), VISITS),
    "moving average with gaps": (FirstOrders(reach=9), GAPS),
    "arma(2, 1)": (AutoregressiveMovingAverage(p=2, q=1, reach=3), VISITS),
    "arma(0, 1)": (AutoregressiveMovingAverage(p=0, q=1, reach=3), VISITS),
    "arma(1, 2) with gaps": (AutoregressiveMovingAverage(p=1, q=2, reach=9), GAPS),
    "arma(3, 0) with gaps": (AutoregressiveMovingAverage(p=3, q=0, reach=7), GAPS),
    "arma(0, 3) with gaps": (AutoregressiveMovingAverage(p=0, q=3, reach=7), GAPS),
    "antedependent": (Antedependent(levels=LEVELS), VISITS),
    "toeplitz": (Toeplitz(levels=LEVELS), VISITS),
    "continuous": (Continuous(), GAPS / 2.5),
    "exponential": (Exponential(unit=2.0), POINTS),
    "exponential with nugget": (Exponential(nugget=True), POINTS),
    "gaussian": (Gaussian(), GAPS / 3.5),
    "gaussian with nugget": (Gaussian(unit=0.5, nugget=True), POINTS),
    "rational": (Rational(unit=2.0), POINTS),
    "rational with nugget": (Rational(nugget=True), GAPS / 2.5),
    "spherical": (Spherical(unit=0.5), POINTS / 1.5),
    "spherical with nugget": (Spherical(nugget=True), GAPS / 2.5),
}


def drawn(correlation, seed=0):
    return np.random.default_rng(seed).normal(size=correlation.n_params)


@pytest.mark.parametrize("name", CORRELATIONS)
def test_a_correlation_is_one_at_any_parameters(name):
    """Symmetric, ones on the diagonal, positive definite: theta runs through all of R^m."""
    correlation, places = CORRELATIONS[name]
    for seed in range(5):
        C = np.moveaxis(correlation.matrix(2.0 * drawn(correlation, seed), places), -1, 0)
        assert_close(C, np.swapaxes(C, 1, 2), EXACT, 1)
        assert_close(np.diagonal(C, axis1=1, axis2=2), np.ones(C.shape[:2]), EXACT)
        assert (np.linalg.eigvalsh(C) > -EXACT).all() and np.abs(C).max() < 1 + EXACT


@pytest.mark.parametrize("name", CORRELATIONS)
def test_derivatives_of_a_correlation(name):
    correlation, places = CORRELATIONS[name]
    c = drawn(correlation)
    value, tangents = correlation.with_tangents(c, places)
    assert_close(value, correlation.matrix(c, places), EXACT, 1)
    if not c.size:
        assert tangents.shape[0] == 0
        return
    assert_close(tangents, differences(lambda x: correlation.matrix(x, places), c),
                 DIFFERENCE_RTOL, 1)  # fmt: skip
    second = differences(lambda x: correlation.with_tangents(x, places)[1], c)
    slope = np.random.default_rng(1).normal(size=(4, 4, places.shape[-1]))
    slope = slope + np.swapaxes(slope, 0, 1)
    bend = np.einsum("klabg,abg->kl", np.broadcast_to(second, (*second.shape[:4], slope.shape[-1])),
                     slope)  # fmt: skip
    again, first, found = correlation.with_bend(c, places, slope)
    assert_close(again, value, EXACT, 1)
    assert_close(first, tangents, EXACT, 1)
    assert_close(found, bend, DIFFERENCE_RTOL, 10)
    if places.shape[-1] == 1:  # places that all groups share: their slopes are added
        many = np.concatenate([slope, 2.0 * slope], axis=-1)
        found = correlation.with_bend(c, places, many)[2]
        assert_close(found, 3.0 * bend, DIFFERENCE_RTOL, 10)
    full = correlation.entries(c, places)
    assert_close(full.value, correlation.matrix(c, places), EXACT, 1)
    assert_close(full.first, tangents, EXACT, 1)
    assert_close(full.second, second, DIFFERENCE_RTOL, 1)


@pytest.mark.parametrize("name", CORRELATIONS)
@pytest.mark.parametrize("rho", [-0.3, 0.1, 0.5, 0.99])
def test_a_start_is_near_the_correlation_that_is_asked_for(name, rho):
    """Neighbours at distance one have it, within the bounds that keep starts off the edges."""
    correlation, places = CORRELATIONS[name]
    c = correlation.start(np.asarray(rho))
    assert c.shape == (correlation.n_params,) and np.isfinite(c).all()
    if places is VISITS and c.size:
        C = correlation.matrix(c, places)[..., 0]
        most = 0.45 if name == "arma(0, 1)" else 0.95  # neighbours correlate by less than a half
        assert_close(C[0, 1], np.clip(rho, 0.02, most), 1e-9)


@pytest.mark.parametrize("name", CORRELATIONS)
def test_reported_parameters_are_smooth_functions(name):
    """``natural`` carries its first derivatives along, ``natural_bent`` two."""
    correlation, _ = CORRELATIONS[name]
    c = drawn(correlation)
    if not c.size:
        assert correlation.natural([]) == {}
        return

    def values(x):
        return np.array([float(t.value) for t in correlation.natural(variables(x)).values()])

    def firsts(x):
        return np.array([t.first for t in correlation.natural(variables(x)).values()])

    assert_close(firsts(c), differences(values, c).T, DIFFERENCE_RTOL, 1)
    second = np.array([t.second for t in correlation.natural_bent(variables(c)).values()])
    assert_close(second, np.moveaxis(differences(firsts, c), 0, -1), DIFFERENCE_RTOL, 1)


UNDER_JAX = ("general", "symmetric of places of their own", "moving average with gaps",
             "antedependent", "toeplitz", "gaussian with nugget")  # fmt: skip


@pytest.mark.parametrize("name", UNDER_JAX)
def test_a_correlation_under_jax(name, x64):
    """The same matrix, derivatives and bend, one program of them all."""
    correlation, places = CORRELATIONS[name]
    c = drawn(correlation)
    slope = np.ones((4, 4, places.shape[-1]))

    @jax.jit
    def all_of(c, places, slope):
        return correlation.matrix(c, places), *correlation.with_bend(c, places, slope)

    found = all_of(*map(jnp.asarray, (c, places, slope)))
    expected = correlation.matrix(c, places), *correlation.with_bend(c, places, slope)
    for left, right in zip(found, expected, strict=True):
        assert_close(left, right, 10 * EXACT, 1)


# ------------------------------------------------------------------------------ residual structures

X_OF_ROWS = np.random.default_rng(5).uniform(0.5, 2.0, size=(4, 3))
STRUCTURES = {
    "us": (General(levels=LEVELS), Spread(levels=LEVELS)),
    "us, another arm": (
        General(levels=LEVELS), Spread(levels=LEVELS, anchored=False)
    ),
    "csh": (Symmetric(width=4), Spread(levels=LEVELS)),
    "ar1, another arm": (Autoregressive(), Spread(anchored=False)),
    "toeph": (Toeplitz(levels=LEVELS), Spread(levels=LEVELS)),
    "adh": (Antedependent(levels=LEVELS), Spread(levels=LEVELS)),
    "arma11 * power": (FirstOrders(reach=3), Spread(of="power")),
    "ar1 * expo, another arm": (Autoregressive(), Spread(of="expo", anchored=False)),
    "symm * expo": (General(levels=LEVELS), Spread(of="expo")),
    "sp_gau * power": (Gaussian(nugget=True), Spread(of="power")),
    "sp_rat * expo": (Rational(), Spread(of="expo")),
    "diag": (Independent(), Spread(levels=LEVELS)),
    "diag * power": (Independent(), Spread(levels=LEVELS, of="power")),
    "ar1 * diag * expo, another arm": (
        Autoregressive(), Spread(levels=LEVELS, of="expo", anchored=False)
    ),
}  # fmt: skip


def structure_at(name):
    """A structure, parameters, places and slopes of three groups of four rows."""
    correlation, spread = STRUCTURES[name]
    structure = ResidualStructure(correlation=correlation, spread=spread)
    phi = np.random.default_rng(7).normal(size=structure.n_params)
    codes = np.broadcast_to(np.arange(4)[:, None], (4, 3))
    slopes = spread.slopes(codes, X_OF_ROWS, (4, 3))
    places = POINTS if isinstance(correlation, Spatial) else np.broadcast_to(VISITS, (1, 4, 3))
    return structure, phi, places, slopes


@pytest.mark.parametrize("name", STRUCTURES)
def test_derivatives_of_a_residual_covariance(name):
    structure, phi, places, slopes = structure_at(name)
    m = structure.n_params
    R, tangents = structure.with_tangents(phi, places, slopes)
    assert_close(R, structure.matrix(phi, places, slopes), EXACT, 1)
    assert (np.linalg.eigvalsh(np.moveaxis(R, -1, 0)) > 0).all()
    found = differences(lambda x: structure.matrix(x, places, slopes), phi)
    assert_close(tangents, found, 10 * DIFFERENCE_RTOL, np.abs(R).max())
    second = differences(lambda x: structure.with_tangents(x, places, slopes)[1], phi)
    rng = np.random.default_rng(8)
    slope = rng.normal(size=(4, 4, 3))
    slope = slope + np.swapaxes(slope, 0, 1)
    expected = np.einsum("klabg,abg->kl", second, slope)
    assert_close(structure.bend_at(phi, places, slopes, slope), expected, 10 * DIFFERENCE_RTOL,
                 np.abs(expected).max())  # fmt: skip
    W = rng.normal(size=(m, m))
    W = W + W.T
    expected = np.einsum("kl,klabg->abg", W, second)
    assert_close(structure.bent(phi, places, slopes, W), expected, 10 * DIFFERENCE_RTOL,
                 np.abs(expected).max())  # fmt: skip


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_residual_structure_starts_where_it_is_told(name):
    structure, _, places, slopes = structure_at(name)
    s = np.linspace(-0.5, 0.5, structure.spread.n_params)
    phi = structure.begin(np.asarray(0.5), s)
    assert phi.shape == (structure.n_params,)
    R = structure.matrix(phi, places, slopes)
    sd = np.exp(np.einsum("k,kag->ag", s, slopes))
    assert_close(np.einsum("aag->ag", R), sd**2, EXACT)


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_residual_structure_is_a_static_object(name):
    structure, phi, _, _ = structure_at(name)
    assert hash(structure) == hash(replace(structure)) and structure == replace(structure)
    assert structure.factor(phi).shape == (0, 0)
    assert structure.tangents.shape == (phi.size, 0, 0)


# ------------------------------------------------------------------------------ models


SEEN = {"1234": 16, "123": 10, "134": 6, "1": 4}  # subjects of every pattern of visits


def trial():
    """Subjects at five sites, two arms, four visits of which some were missed."""
    rng = np.random.default_rng(11)
    patterns = [seen for seen, count in SEEN.items() for _ in range(count)]
    subject = np.repeat(np.arange(len(patterns)), [len(seen) for seen in patterns])
    visit = np.array([int(k) - 1 for seen in patterns for k in seen])
    site = subject % 5
    n = subject.size
    level = rng.normal(size=len(patterns))[subject] + 0.5 * rng.normal(size=5)[site]
    data = pd.DataFrame(
        {
            "y": 3 + level + 0.6 * visit + (1 + 0.3 * visit) * rng.normal(size=n),
            "base": rng.integers(0, 3, len(patterns))[subject] - 1.0,
            "x": rng.normal(size=n),
            "visit": [f"v{k + 1}" for k in visit],
            "number": visit + 3,
            "time": np.round(visit + rng.uniform(0, 0.9, n), 2),
            "lat": rng.normal(size=n),
            "lon": rng.normal(size=n),
            "size": rng.uniform(0.5, 3.0, n),
            "subject": [f"s{k:02d}" for k in subject],
            "site": [f"c{k}" for k in site],
            "arm": np.array(["A", "B"])[site % 2],
            "sex": np.array(["f", "m"])[subject // 2 % 2],
            "stratum": np.array(["p", "q", "r"])[rng.integers(0, 3, n)],
            "w": rng.uniform(0.5, 2.0, n),
            "o": rng.normal(size=n),
        }
    )
    return data.sample(frac=1.0, random_state=0)  # in no order


TRIAL = trial()
FOUR = ("v1", "v2", "v3", "v4")


def dense_of(data, correlation="", **options):
    """The twin of a covariance of this data set."""
    fields = {
        "subject": pd.factorize(data["subject"])[0],
        "places": (data["number"].to_numpy(float) - 3)[None],
        "visits": FOUR,
        **options,
    }
    return DenseResidual(correlation=correlation, **fields)


def column(name):
    return TRIAL[name].to_numpy()


TIME = column("time")[None]
PLANE = np.stack([column("lat"), column("lon")])
# in the order of rows: the place of a row is its rank among the rows of its subject
ROW = TRIAL.groupby("subject").cumcount().to_numpy(float)[None]
BY_VISIT = {"spread": "levels", "by": column("visit")}
SLOPE = Term(np.column_stack([np.ones(len(TRIAL)), column("x")]), column("subject"))
SITE = Term(np.ones((len(TRIAL), 1)), column("site"))
SUBJECT = Term(np.ones((len(TRIAL), 1)), column("subject"))
ONE = np.zeros(len(TRIAL), int)

# formula of the covariance and of random effects: twin, random terms in the layout's order
MODELS = {
    "us(visit | subject)": (dense_of(TRIAL, "symm", **BY_VISIT), []),
    "symm(visit | subject)": (dense_of(TRIAL, "symm"), []),
    "cs(visit | subject)": (dense_of(TRIAL, "cs"), []),
    "csh(visit | subject)": (dense_of(TRIAL, "cs", **BY_VISIT), []),
    "ar1(visit | subject)": (dense_of(TRIAL, "ar1"), []),
    "ar1(number | subject)": (dense_of(TRIAL, "ar1"), []),
    "ar1(row | subject)": (dense_of(TRIAL, "ar1", places=ROW), []),
    "ar1h(visit | subject)": (dense_of(TRIAL, "ar1", **BY_VISIT), []),
    "toep(visit | subject)": (dense_of(TRIAL, "toep"), []),
    "toeph(visit | subject)": (dense_of(TRIAL, "toep", **BY_VISIT), []),
    "ad(visit | subject)": (dense_of(TRIAL, "ad"), []),
    "adh(visit | subject)": (dense_of(TRIAL, "ad", **BY_VISIT), []),
    "arma11(visit | subject)": (dense_of(TRIAL, "arma11"), []),
    "arma(visit | subject, p=2, q=1)": (dense_of(TRIAL, "arma"), []),
    "arma(visit | subject, q=2)": (dense_of(TRIAL, "arma"), []),
    "car1(time | subject)": (dense_of(TRIAL, "car1", places=TIME), []),
    "sp_exp(time | subject)": (dense_of(TRIAL, "sp_exp", places=TIME), []),
    "sp_exp(lat + lon | subject)": (dense_of(TRIAL, "sp_exp", places=PLANE), []),
    "sp_exp(lat + lon)": (dense_of(TRIAL, "sp_exp", places=PLANE, subject=ONE), []),
    "sp_gau(lat + lon | site, nugget=True)": (
        dense_of(TRIAL, "sp_gau", places=PLANE, nugget=True, subject=pd.factorize(TRIAL.site)[0]),
        [],
    ),
    "sp_rat(lat + lon | site)": (
        dense_of(TRIAL, "sp_rat", places=PLANE, subject=pd.factorize(TRIAL.site)[0]), []
    ),
    "sp_sph(lat + lon | site, nugget=True)": (
        dense_of(TRIAL, "sp_sph", places=PLANE, nugget=True, subject=pd.factorize(TRIAL.site)[0]),
        [],
    ),
    "sp_sph(time | subject)": (dense_of(TRIAL, "sp_sph", places=TIME), []),
    "car1(time | subject, nugget=True)": (
        dense_of(TRIAL, "car1", places=TIME, nugget=True), []
    ),
    "diag(stratum)": (dense_of(TRIAL, spread="levels", by=column("stratum")), []),
    "power(size)": (dense_of(TRIAL, spread="power", by=column("size")), []),
    "expo(x)": (dense_of(TRIAL, spread="expo", by=column("x")), []),
    "ar1(visit | subject) * diag(stratum)": (
        dense_of(TRIAL, "ar1", spread="levels", by=column("stratum")), []
    ),
    "symm(visit | subject) * diag(sex)": (
        dense_of(TRIAL, "symm", spread="levels", by=column("sex")), []
    ),
    "toep(visit | subject) * power(size)": (
        dense_of(TRIAL, "toep", spread="power", by=column("size")), []
    ),
    "diag(stratum) * power(size)": (
        dense_of(TRIAL, spread="levels", by=column("stratum"), of="power", x=column("size")), []
    ),
    "ar1(visit | subject) * diag(sex) * expo(x)": (
        dense_of(TRIAL, "ar1", spread="levels", by=column("sex"), of="expo", x=column("x")), []
    ),
    "us(visit | subject) * power(size)": (
        dense_of(TRIAL, "symm", **BY_VISIT, of="power", x=column("size")), []
    ),
    "us(visit | arm / subject)": (dense_of(TRIAL, "symm", arm=column("arm"), **BY_VISIT), []),
    "ar1(visit | arm / subject)": (dense_of(TRIAL, "ar1", arm=column("arm")), []),
    "sp_exp(time | arm / subject)": (
        dense_of(TRIAL, "sp_exp", places=TIME, arm=column("arm")), []
    ),
    "car1(time | arm / subject, nugget=True)": (
        dense_of(TRIAL, "car1", places=TIME, nugget=True, arm=column("arm")), []
    ),
    "ar1(visit | subject) + (1 | site)": (dense_of(TRIAL, "ar1"), [SITE]),
    "us(visit | subject) + (1 | site)": (dense_of(TRIAL, "symm", **BY_VISIT), [SITE]),
    "car1(time | subject) + (1 | site)": (dense_of(TRIAL, "car1", places=TIME), [SITE]),
    "ar1h(visit | subject) + (1 | subject)": (dense_of(TRIAL, "ar1", **BY_VISIT), [SUBJECT]),
    "diag(stratum) + (1 + x | subject)": (
        dense_of(TRIAL, spread="levels", by=column("stratum")), [SLOPE]
    ),
    "ar1(visit | subject) * diag(sex) + (1 | site) + (1 + x | subject)": (
        dense_of(TRIAL, "ar1", spread="levels", by=column("sex")), [SLOPE, SITE]
    ),
}  # fmt: skip
OPTIONS = {"plain": {}, "weighted": {"weights": "w", "offset": "o"}}


X = np.column_stack([np.ones(len(TRIAL)), column("base"),
                     *(column("visit") == v for v in FOUR[1:])])  # fmt: skip


@cache
def model(text, options="plain"):
    formula = f"y ~ base + visit + {text}"
    return model_of(formula, TRIAL, X, MODELS[text], 0.3, **OPTIONS[options])


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("text", MODELS)
def test_criterion_is_that_of_dense_matrices(text, options, reml):
    check_criterion(model(text, options), reml=reml)


@pytest.mark.parametrize("text", MODELS)
def test_derivatives_of_the_criterion(text):
    options, reml = ("weighted", True) if len(text) % 2 else ("plain", False)
    check_derivatives(model(text, options), reml=reml)


COMPILED = [
    "us(visit | arm / subject)",
    "sp_gau(lat + lon | site, nugget=True)",
    "ar1(visit | subject) * diag(sex) + (1 | site) + (1 + x | subject)",
]


@pytest.mark.parametrize("text", COMPILED)
def test_criterion_and_derivatives_under_jax(text, x64):
    check_under_jax(model(text, "weighted"), model(text, "weighted").layouts[1])


MOMENTS = [
    "us(visit | subject)",
    "ar1(visit | subject) * diag(stratum)",
    "ar1(visit | arm / subject)",
    "symm(visit | subject) * diag(sex)",
    "ar1(visit | subject) * diag(sex) + (1 | site) + (1 + x | subject)",
    "ar1h(visit | subject) + (1 | subject)",
    "sp_gau(lat + lon | site, nugget=True)",
]


@pytest.mark.parametrize("text", MOMENTS)
def test_moments_are_those_of_dense_matrices(text):
    """What Kenward and Roger's adjustment is made of, by V and its differences."""
    own = model(text, "weighted")
    layout = on_host(own.design.compressed.of_moments)
    theta = own.near(layout, 4)
    m, covariance = theta.size, partial(own.covariance, layout)
    X = own.X @ layout.beta_map
    Vi = np.linalg.inv(covariance(theta))
    dV = differences(covariance, theta)
    at = layout.psi_moments(theta)
    B = Vi @ X
    expected = {
        "gram": X.T @ B,
        "traces": np.einsum("ab,kab->k", Vi, dV),
        "products": np.einsum("ab,kbc,cd,lda->kl", Vi, dV, Vi, dV, optimize=True),
        "grams": np.einsum("ap,kab,bq->kpq", B, dV, B, optimize=True),
        "seconds": np.einsum("ap,kab,bc,lcd,dq->klpq", B, dV, Vi, dV, B, optimize=True),
    }
    for name, value in expected.items():
        assert_close(getattr(at, name), value, 1e-8, np.abs(value).max())
    (residual, terms), w = MODELS[text], column("w")
    check_weighted(layout, theta, expected)
    assert own.layouts[0].level_counts().tolist()[: len(terms)] == [
        np.unique(t.groups).size for t in terms
    ]
    second = differences(lambda x: differences(covariance, x), theta)
    rng = np.random.default_rng(6)
    W, z = rng.normal(size=(m + 1, m + 1)), rng.normal(size=m + 1)
    W = W + W.T
    places = [
        k
        for s, place in zip(layout.structures, theta_slices(layout.structures), strict=True)
        if isinstance(s, ResidualStructure)
        for k in range(place.start, place.stop)
    ]
    mine = np.ix_(places, places)
    bends = np.einsum("kl,klab->ab", W[mine], second[mine])
    # log sigma^2 multiplies V, of which this is the residuals' share
    bends += np.einsum("k,kab->ab", 2 * W[places, -1] - z[places], dV[places])
    bends += (W[-1, -1] - z[-1]) * dense_covariance(residual, [], w, layout, theta)
    expected = B.T @ bends @ B
    assert_close(layout.bend_form(theta, W, z), expected, 1e-6, np.abs(expected).max())


def check_weighted(layout, theta, expected):
    """Sums of the moments with weights, and the cross-products of a y measured from elsewhere."""
    rng, p = np.random.default_rng(7), len(expected["gram"])
    root, beta = rng.normal(size=(theta.size, theta.size)), rng.normal(size=p)
    W = root @ root.T
    grams, total = layout.weighted_moments(theta, W)
    assert_close(grams, expected["grams"], 1e-8, np.abs(expected["grams"]).max())
    weighted = np.tensordot(W, expected["seconds"], 2)
    assert_close(total, weighted, 1e-8, np.abs(weighted).max())
    move = np.eye(p + 1)
    move[:-1, -1] = -beta
    moved = move.T @ layout.waist_at(theta).gram @ move
    found = layout.measured_from(beta).jet(theta).waist.gram
    assert_close(found, moved, DENSE_RTOL, np.abs(moved).max())


def test_buckets_of_every_kind_are_among_the_models():
    """Shared and own places, several subjects in a group, merged patterns, fewer rows of them."""
    layouts = [model(text, o).layouts[1] for text in MODELS for o in OPTIONS]
    layouts = [layout for layout in layouts if isinstance(layout, lmm.ResidualLayout)]
    buckets = [bucket for layout in layouts for bucket in layout.buckets]
    assert {bucket.places.shape[-1] == 1 for bucket in buckets} == {True, False}
    assert {bucket.subjects is None for bucket in buckets} == {True, False}
    assert {bucket.owner is None for bucket in buckets} == {True, False}
    assert max(len(layout.buckets) for layout in layouts) > 2
    merged = model("us(visit | subject)").layouts[1].buckets[0]
    assert np.asarray(merged.copies).sum() == sum(SEEN.values())
    assert np.any(merged.c, axis=(0, 1)).sum() < sum(SEEN.values())


def test_what_is_linear_in_reported_parameters():
    """There Kenward and Roger's second derivatives of V are zero."""
    own = {text: model(text).layouts[1].structures for text in MODELS}
    linear = {
        text for text, structures in own.items()
        if all(s.is_linear for s in structures if isinstance(s, ResidualStructure))
    }  # fmt: skip
    names = ("us", "symm", "cs", "toep", "diag")
    assert linear == {t for t in MODELS if t.startswith(tuple(f"{n}(" for n in names))} - {
        "symm(visit | subject) * diag(sex)",
        "toep(visit | subject) * power(size)",
        "diag(stratum) * power(size)",
        "us(visit | subject) * power(size)",
    }


RUNTIMES = [
    "us(visit | arm / subject)",
    "ar1(visit | subject) * diag(sex) + (1 | site) + (1 + x | subject)",
]


@pytest.mark.slow
@pytest.mark.parametrize("text", RUNTIMES)
def test_both_runtimes_find_one_optimum(text):
    numpy, other = (
        lmm.fit(f"y ~ base + visit + {text}", TRIAL, weights="w", runtime=runtime)
        for runtime in ("numpy", "jax")
    )
    assert (numpy.runtime, other.runtime) == ("numpy", "jax")
    assert_close(other.llf, numpy.llf, RUNTIME_RTOL)
    assert_close(other.fe_params, numpy.fe_params, 1e-6, numpy.bse_fe)
    assert_close(other.residual_params, numpy.residual_params, 1e-6, numpy.residual_params_se)
    for name in ("kenward-roger", "satterthwaite"):
        assert_close(other.with_df(name).df, numpy.with_df(name).df, 1e-5)


@pytest.mark.parametrize("term", ["diag(a)", "power(z)"])
def test_large_data_with_variances_alone_start_from_the_best_point(term, monkeypatch):
    """One run, to the optimum of all runs."""
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"g": np.repeat(np.arange(150), 8), "a": rng.choice(list("abc"), 1200)})
    data["z"] = np.exp(rng.normal(size=1200))
    sd = data["a"].map({"a": 0.1, "b": 1.0, "c": 30.0}) if term == "diag(a)" else data["z"] ** 1.5
    data["y"] = 20 * rng.normal(size=150)[data["g"]] + sd * rng.normal(size=1200)
    alone = lmm.fit(f"y ~ z + (1 | g) + {term}", data)
    monkeypatch.setattr(sys.modules["lmm_jax.optimize.minimize"], "SMALL_PROBLEM", 1 << 40)
    several = lmm.fit(f"y ~ z + (1 | g) + {term}", data, runtime="numpy")
    assert alone.design.layout.size() > 1 << 13 and alone.n_iter < several.n_iter
    # two optimizations, each to a Newton decrement of 1e-9
    np.testing.assert_allclose(alone.llf, several.llf, atol=1e-8)


def test_moving_averages_are_looked_for_on_all_sides():
    """Short series whose likelihood has several tops; the highest by a grid of dense matrices."""
    for seed in (59, 7):
        rng, rows = np.random.default_rng(seed), []
        for i in range(3):
            e = rng.normal(size=21)
            e = e[1:] - 0.3 * e[:-1]
            rows += [(i, t, e[t]) for t in range(20) if rng.random() < 0.8]
        data = pd.DataFrame(rows, columns=["id", "t", "y"])
        grid = np.tanh(np.linspace(-4, 4, 21))
        best = min(_arma_criterion(data, phi, theta) for phi in grid for theta in grid)
        res = lmm.fit("y ~ 1 + arma11(t | id)", data)
        assert -2 * res.llf <= best + 1e-8
        own = res.residual_params
        assert -2 * res.llf == pytest.approx(_arma_criterion(data, own["phi"], own["theta"]))


@pytest.mark.parametrize("seed", [1, 2, 5, 11])
def test_correlations_by_distance_end_where_the_matrix_of_all_visits_is_singular(seed):
    """No subject has all visits: an optimum; the last correlation has no standard error."""
    rng, rows = np.random.default_rng(seed), []
    L = np.linalg.cholesky(0.6 ** np.abs(np.subtract.outer(range(8), range(8))))
    for i in range(12):
        e = L @ rng.normal(size=8)
        rows += [(i, t, e[t]) for t in range(8) if rng.random() < 0.6]
    data = pd.DataFrame(rows, columns=["id", "t", "y"])
    res = lmm.fit("y ~ 1 + toep(t | id)", data)
    assert res.converged and res.residual_params_se.isna().tolist() == [False] * 6 + [True]
    partials = np.tanh(res.estimates.theta_layout)
    rho = _of_partials(partials)
    np.testing.assert_allclose(rho, res.residual_params, rtol=1e-10)
    best = _mean_criterion(data, np.concatenate([[1.0], rho]))
    assert -2 * res.llf == pytest.approx(best, rel=1e-9)
    for k in range(7):
        for step in (-0.02, 0.02):
            moved = np.clip(partials + step * np.eye(7)[k], -1, 1)
            other = _mean_criterion(data, np.concatenate([[1.0], _of_partials(moved)]))
            assert other >= best - 1e-7  # beyond the end of the range nothing moves


def _of_partials(partials):
    """Autocorrelations by Durbin and Levinson's recursion."""
    rho, weights = [], np.zeros(0)
    for last in partials:
        r = np.array(rho)
        mean, left = weights @ r[::-1], 1.0 - weights @ r
        rho.append(mean + last * left)
        weights = np.append(weights - last * weights[::-1], last)
    return np.array(rho)


def _arma_criterion(data, phi, theta):
    """:func:`_mean_criterion` of ARMA(1, 1) residuals."""
    first = (1 + phi * theta) * (phi + theta) / (1 + theta**2 + 2 * phi * theta)
    return _mean_criterion(data, np.concatenate([[1.0], first * phi ** np.arange(20.0)]))


def _mean_criterion(data, rho):
    """-2 REML log-likelihood of a mean, residuals correlated by distance; sigma profiled."""
    logdet, sums = 0.0, np.zeros((2, 2))
    for _, own in data.groupby("id"):
        C = rho[np.abs(np.subtract.outer(*[own["t"].to_numpy()] * 2))]
        rows = np.column_stack([np.ones(len(own)), own["y"]])
        logdet += np.linalg.slogdet(C)[1]
        sums += rows.T @ np.linalg.solve(C, rows)
    n, rss = len(data), sums[1, 1] - sums[0, 1] ** 2 / sums[0, 0]
    return logdet + (n - 1) * (np.log(2 * np.pi * rss / (n - 1)) + 1) + np.log(sums[0, 0])
