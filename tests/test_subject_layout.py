"""Subjects who share random effects: rows whitened subject by subject, against dense matrices."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from dense_residual import DenseResidual
from helpers import Term
from residual_checks import (
    check_criterion,
    check_derivatives,
    check_drawn_rows,
    check_moments,
    check_replicate,
    check_same_fit,
    check_under_jax,
    model_of,
)

import lmm_jax as lmm
from lmm_jax.layouts.residual import index


def trial():
    """Patients of three centres of different size, five visits of which some were missed."""
    rng = np.random.default_rng(23)
    subject = np.repeat(np.arange(30), 5)
    data = pd.DataFrame({"subject": subject, "k": np.tile(np.arange(5), 30)})
    data["site"] = np.array(["a"] * 14 + ["b"] * 10 + ["c"] * 6)[subject]
    data["x"], data["size"] = rng.normal(size=150), rng.uniform(0.5, 3.0, 150)
    data["time"] = data["k"] + rng.uniform(0, 0.9, 150)
    data["rater"] = rng.integers(0, 3, 150)
    data["arm"] = np.where(data["site"] == "c", "q", "p")
    data["w"] = rng.uniform(0.5, 2.0, 150)
    shared = rng.normal(size=30)[subject] + 0.7 * rng.normal(size=3)[pd.factorize(data["site"])[0]]
    data["y"] = 2 + 0.5 * data["x"] + shared + 0.5 * data["k"] * rng.normal(size=30)[subject]
    data["y"] += rng.normal(size=150)
    data["visit"] = "v" + data["k"].astype(str)
    seen = rng.random(150) < np.where(subject < 15, 1.1, 0.75)
    return data[seen].sample(frac=1.0, random_state=1).reset_index(drop=True)


TRIAL = trial()


def column(name):
    return TRIAL[name].to_numpy()


def dense_of(correlation="", **options):
    places = column("k").astype(float)[None]
    return DenseResidual(
        correlation=correlation, **{"subject": column("subject"), "places": places, **options}
    )


ONE = np.ones((len(TRIAL), 1))
CENTRE = pd.factorize(TRIAL["site"], sort=True)[0]
SITE, RATER = Term(ONE, CENTRE), Term(ONE, column("rater"))
SLOPE = Term(np.column_stack([ONE, column("x")]), CENTRE)
PATIENT = Term(ONE, column("subject"))
TIME = {"places": column("time")[None]}
VISITS = {"spread": "levels", "by": column("visit"), "visits": [f"v{k}" for k in range(5)]}

# formula of the covariance and of random effects: twin, random terms in the layout's order
MODELS = {
    "us(visit | subject) + (1 | site)": (dense_of("symm", **VISITS), [SITE]),
    "cs(visit | subject) + (1 | site) + (1 | rater)": (dense_of("cs"), [SITE, RATER]),
    "toep(visit | subject) + (1 + x | site)": (dense_of("toep"), [SLOPE]),
    "sp_gau(time | subject) * power(size) + (1 | site)": (
        dense_of("sp_gau", spread="power", by=column("size"), **TIME), [SITE]
    ),
    "sp_exp(time | subject, nugget=True) + (1 | subject) + (1 | site)": (
        dense_of("sp_exp", nugget=True, **TIME), [PATIENT, SITE]
    ),
    "cs(visit | arm / subject) + (1 | site)": (dense_of("cs", arm=column("arm")), [SITE]),
}  # fmt: skip


X = np.column_stack([ONE, column("x")])


@cache
def model(text, weighted=False):
    options = {"weights": "w"} if weighted else {}
    return model_of(f"y ~ x + {text}", TRIAL, X, MODELS[text], 0.2, **options)


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("text", MODELS)
def test_criterion_is_that_of_dense_matrices(text, weighted, reml):
    assert isinstance(model(text, weighted).layouts[0], lmm.SubjectLayout)
    check_criterion(model(text, weighted), reml=reml)


@pytest.mark.parametrize("text", MODELS)
def test_derivatives_of_the_criterion(text):
    weighted = reml = bool(len(text) % 2)
    check_derivatives(model(text, weighted), reml=reml)


@pytest.mark.device
def test_criterion_and_derivatives_under_jax(x64):
    own = model("sp_gau(time | subject) * power(size) + (1 | site)", True)
    shared = model("us(visit | subject) + (1 | site)")
    check_under_jax(own, own.layouts[0])
    check_under_jax(shared, shared.layouts[1])


# ------------------------------------------------------------------------------ two layouts


@pytest.mark.parametrize("text", MODELS)
def test_moments_are_those_of_the_dense_layout(text):
    check_moments(model(text, True), model(text, True).layouts)


@pytest.mark.parametrize("text", MODELS)
def test_a_fit_does_not_show_its_layout(text):
    new = TRIAL.iloc[::7].assign(time=7.5, k=3, visit="v3")
    check_same_fit(model(text, True), lmm.SubjectLayout, new)


@pytest.mark.parametrize("text", MODELS)
def test_drawn_rows_have_the_covariance_of_the_model(text):
    check_drawn_rows(model(text, True))


@pytest.mark.parametrize("text", MODELS)
def test_a_replicate_is_fitted_as_a_response(text):
    check_replicate(model(text))


def test_bootstrap_replicates_have_the_spread_of_the_estimates():
    """In three standard errors of a standard deviation of 60."""
    fit = lmm.fit("y ~ x + cs(visit | subject) + (1 | site)", TRIAL, runtime="numpy")
    boot = lmm.bootstrap(fit, 60, seed=4)
    errors = boot.tidy().set_index("term")["std_error"]
    assert boot.n_failed == 0
    assert abs(np.log(errors["x"] / fit.bse_fe["x"])) < 3 / np.sqrt(2 * 60)


# ------------------------------------------------------------------------------ who gets it


def centres(sites, patients, visits=4):
    rng = np.random.default_rng(8)
    n = sites * patients * visits
    data = pd.DataFrame({"id": np.arange(n) // visits, "t": np.arange(n) % visits})
    data["site"], data["rater"] = data["id"] // patients, rng.integers(0, 12, n)
    data["x"] = rng.normal(size=n)
    shared = rng.normal(size=sites)[data["site"]] + rng.normal(size=12)[data["rater"]]
    data["y"] = data["x"] + shared + rng.normal(size=n)
    return data


def test_who_gets_it():
    """Where the rows of a group are more than those of a subject and its random effects."""

    def kind(text, of):
        return type(lmm.design(f"y ~ x + {text}", of).compressed.layout).__name__

    many, few = centres(4, 6), centres(12, 2)
    assert kind("us(t | id) + (1 | site)", many) == "SubjectLayout"
    assert kind("us(t | id) + (1 | site)", few) == "ResidualLayout"
    assert kind("us(t | id) + (1 | id)", many) == kind("us(t | id)", many) == "ResidualLayout"
    assert kind("us(t | id) + (1 | id) + (1 | site)", many) == "SubjectLayout"
    assert kind("ar1(t | id) + (1 | site)", many) == "MarkovLayout"


def test_more_rows_than_a_dense_matrix_takes():
    """Crossed raters make one group of 4,800 rows; variances of 1, sigma 1, a slope of 1."""
    data = centres(40, 30)
    fit = lmm.fit("y ~ x + cs(t | id) + (1 | site) + (1 | rater)", data, runtime="numpy")
    assert fit.converged
    assert abs(fit.residual_params["rho"]) < 4 * fit.residual_params_se["rho"]
    assert abs(fit.fe_params["x"] - 1) < 4 * fit.bse_fe["x"]
    plain = lmm.fit("y ~ x + (1 | site) + (1 | rater)", data, runtime="numpy")
    assert 0 <= fit.llf - plain.llf < 6  # one parameter more, which is zero


def test_what_memory_does_not_hold_is_refused(monkeypatch):
    model = "y ~ x + cs(visit | subject) + (1 | site)"
    monkeypatch.setattr(index, "_MOST_NUMBERS", 200)
    with pytest.raises(lmm.DataError, match="subjects of up to 5 rows share random effects"):
        _ = lmm.design(model, TRIAL).compressed
    monkeypatch.setattr(index, "_MOST_NUMBERS", 900)  # 160 places, five rows a subject
    with pytest.raises(lmm.DataError, match="rows are connected by 6 random effects"):
        _ = lmm.design(f"{model} + (1 | rater)", TRIAL).compressed


def lengths(short, long):
    """Subjects of five centres, most of them short and one of them long."""
    rng = np.random.default_rng(3)
    sizes = np.full(60, short)
    sizes[7] = long
    subject = np.repeat(np.arange(60), sizes)
    data = pd.DataFrame({"id": subject, "t": np.concatenate([np.arange(n) for n in sizes])})
    data["site"], data["x"] = subject % 5, rng.normal(size=subject.size)
    data["y"] = data["x"] + rng.normal(size=5)[subject % 5] + rng.normal(size=subject.size)
    return data.assign(t=data["t"] + rng.uniform(0, 0.5, len(data)))


def test_a_long_subject_does_not_stretch_the_others():
    """Its group has places of its length; where dense matrices are smaller, these are taken."""
    some = lmm.design("y ~ x + sp_gau(t | id, nugget=True) + (1 | site)", lengths(6, 9))
    assert isinstance(some.compressed.layout, lmm.SubjectLayout)
    one = lmm.design("y ~ x + sp_gau(t | id, nugget=True) + (1 | site)", lengths(6, 400))
    assert isinstance(one.compressed.layout, lmm.ResidualLayout)
    apart = lengths(6, 400)
    apart["site"] = np.where(apart["id"] == 7, 9, apart["site"])  # alone in its centre
    layout = lmm.design("y ~ x + sp_gau(t | id, nugget=True) + (1 | site)", apart).compressed.layout
    assert isinstance(layout, lmm.SubjectLayout)
    assert sorted(bucket.c.shape[0] for bucket in layout.buckets) == [6, 400]


def test_crossed_random_effects_of_every_subject_beyond_dense_matrices():
    """4,800 rows of one group with more columns than rows of a subject."""
    data = centres(40, 30)
    fit = lmm.fit("y ~ x + cs(t | id) + (1 | site) + (x | rater)", data, runtime="numpy")
    assert isinstance(fit.design.compressed.layout, lmm.SubjectLayout)
    assert fit.converged
