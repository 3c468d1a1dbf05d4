"""Subjects who share random effects: rows whitened subject by subject, against dense matrices."""

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
from lmm_jax.covariance.theta import factor_blocks
from lmm_jax.inference.residuals.parameters import natural_parameters
from lmm_jax.layouts import plan
from lmm_jax.layouts.residual import index
from lmm_jax.layouts.response import Response
from lmm_jax.likelihood.profile import profile_jet, profile_waist

EXACT = 1e-12  # a few roundings of float64
DENSE_RTOL = 1e-11  # a dense V of 130 rows
LAYOUT_RTOL = 1e-11  # two layouts at one optimum
OPTIMUM_RTOL = 1e-7  # two optima, each to a Newton decrement of 1e-9 and better
# `differences` of dense criteria: rounding over the step; of sums in another order under JAX
DIFF_RTOL, JAX_RTOL = 1e-8, 1e-10
# Functions of the curvature at two optima: variances and degrees of freedom, and BLUPs
CURVED_RTOL, EFFECTS_TOL = 1e-5, 1e-6


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


@cache
def design_of(text, weighted=False):
    return lmm.design(f"y ~ x + {text}", TRIAL, weights="w" if weighted else None)


def layout_of(model):
    return jax.tree.map(np.asarray, model.compressed.layout)


def shared_of(model):
    return jax.tree.map(np.asarray, model.compressed.merged)


def theta_near(layout, seed):
    start = np.asarray(layout.start_moments())
    return start + 0.2 * np.random.default_rng(seed).normal(size=start.size)


def dense_covariance(text, weighted, layout, theta) -> Array:
    """V of the rows, relative to sigma^2, at the layout's theta."""
    residual, terms = MODELS[text]
    found = natural_parameters(theta, 1.0, layout.structures)
    V = residual.matrix(dict(zip(found.names, np.asarray(found.values.value), strict=True)))
    if weighted:
        V = V / np.sqrt(np.outer(column("w"), column("w")))
    blocks = factor_blocks(theta, layout.structures)
    own = [A @ L for A, L in zip(layout.whiteners, blocks, strict=True)][: len(terms)]
    Z, Lambda = random_root(terms, np.concatenate([L.T[np.triu_indices(len(L))] for L in own]))
    return V + (Z @ Lambda) @ (Z @ Lambda).T


X, Y = np.column_stack([ONE, column("x")]), column("y")


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("text", MODELS)
def test_criterion_is_that_of_dense_matrices(text, weighted):
    model = design_of(text, weighted)
    plain, shared = layout_of(model), shared_of(model)
    assert isinstance(plain, lmm.SubjectLayout)
    for seed, reml in ((0, True), (1, False)):
        theta = theta_near(plain, seed)
        V = dense_covariance(text, weighted, plain, theta)
        dense = dense_gls(X, Y, V, reml=reml)
        for layout in (plain, shared):
            assert_close(profile_jet(theta, layout, reml=reml).value, dense.criterion, DENSE_RTOL)
            value = profile_waist(layout.waist_at(theta), layout, reml=reml).deviance
            assert_close(value, dense.criterion, DENSE_RTOL)


@pytest.mark.parametrize("text", MODELS)
def test_derivatives_of_the_criterion(text):
    """The gradient is that of the dense criterion, the Hessian that of the gradient."""
    weighted, reml = (True, True) if len(text) % 2 else (False, False)
    layout = shared_of(design_of(text, weighted))
    theta = theta_near(layout, 3)

    def criterion(at):
        return dense_gls(X, Y, dense_covariance(text, weighted, layout, at), reml=reml).criterion

    jet = profile_jet(theta, layout, reml=reml)
    scale = np.abs(jet.gradient).max()
    assert_close(jet.gradient, differences(criterion, theta), DIFF_RTOL, scale)
    hessian = differences(lambda at: profile_jet(at, layout, reml=reml).gradient, theta)
    assert_close(jet.hessian, hessian, DIFF_RTOL, np.abs(hessian).max())


@pytest.mark.device
def test_criterion_and_derivatives_under_jax(x64):
    model = design_of("sp_gau(time | subject) * power(size) + (1 | site)", True)
    for layout in (layout_of(model), shared_of(design_of("us(visit | subject) + (1 | site)"))):
        theta = theta_near(layout, 5)
        expected = profile_jet(theta, layout, reml=True)
        device = jax.tree.map(jnp.asarray, layout)
        found = jax.jit(profile_jet, static_argnames="reml")(jnp.asarray(theta), device, reml=True)
        assert_close(found.value, expected.value, 10 * EXACT)
        for name in ("gradient", "hessian"):
            value = getattr(expected, name)
            assert_close(getattr(found, name), value, JAX_RTOL, np.abs(value).max())
        slopes = jax.jit(jax.grad(lambda at: device.waist_at(at).logdet))(jnp.asarray(theta))  # noqa: B023
        jet = layout.jet(theta)
        assert_close(slopes, jet.dlogdet, JAX_RTOL, np.abs(jet.dlogdet).max())


# ------------------------------------------------------------------------------ two layouts


@pytest.fixture
def dense(monkeypatch):
    """Every residual covariance by dense matrices of the groups."""

    def use():
        monkeypatch.setattr(plan, "takes_subjects", lambda *args: False)

    return use


@pytest.mark.parametrize("text", MODELS)
def test_moments_are_those_of_the_dense_layout(text, dense):
    """What Kenward and Roger's adjustment is made of."""
    layouts = layout_of(design_of(text, True)), shared_of(design_of(text, True))
    dense()
    other = layout_of(lmm.design(f"y ~ x + {text}", TRIAL, weights="w"))
    assert isinstance(other, lmm.ResidualLayout)
    theta = theta_near(other, 4)
    rng = np.random.default_rng(6)
    root, z = rng.normal(size=(theta.size + 1, theta.size + 1)), rng.normal(size=theta.size + 1)
    W, beta = root @ root.T, rng.normal(size=2)
    expected, bend = other.psi_moments(theta), other.bend_form(theta, W, z)
    for layout in layouts:
        found = layout.psi_moments(theta)
        for name, value in expected._asdict().items():
            assert_close(getattr(found, name), value, DENSE_RTOL, np.abs(value).max())
        assert_close(layout.bend_form(theta, W, z), bend, JAX_RTOL, np.abs(bend).max())
        assert_close(layout.start_candidates(), other.start_candidates(), EXACT, 1)
        assert layout.level_counts().tolist() == other.level_counts().tolist()
        moved, at = (own.measured_from(beta).jet(theta).waist.gram for own in (layout, other))
        assert_close(moved, at, DENSE_RTOL, np.abs(at).max())


@pytest.mark.parametrize("text", MODELS)
def test_a_fit_does_not_show_its_layout(text, dense):
    def fitted():
        return lmm.fit(f"y ~ x + {text}", TRIAL, weights="w", runtime="numpy")

    found = fitted()
    dense()
    expected = fitted()
    assert isinstance(found.design.compressed.layout, lmm.SubjectLayout)
    assert isinstance(expected.design.compressed.layout, lmm.ResidualLayout)
    assert found.converged == expected.converged
    assert_close(found.llf, expected.llf, LAYOUT_RTOL)
    assert_close(found.fe_params, expected.fe_params, OPTIMUM_RTOL, expected.bse_fe)
    assert_close(found.bse_fe, expected.bse_fe, OPTIMUM_RTOL)
    errors = expected.residual_params_se
    assert_close(found.residual_params, expected.residual_params, EFFECTS_TOL, errors.fillna(1))
    for name in ("satterthwaite", "kenward-roger", "kenward-roger-expected"):
        left, right = found.with_df(name), expected.with_df(name)
        assert_close(left.df, right.df, CURVED_RTOL)
        assert_close(left.bse_fe, right.bse_fe, OPTIMUM_RTOL)
    assert_close(found.predict(TRIAL), expected.predict(TRIAL), EFFECTS_TOL, 1)
    left, right = found.random_effects, expected.random_effects
    for group in right:
        assert_close(left[group], right[group], CURVED_RTOL, 1)


@pytest.mark.parametrize("text", MODELS)
def test_drawn_rows_have_the_covariance_of_the_model(text):
    """Rows are linear in independent variates: by all unit vectors."""
    layout = layout_of(design_of(text, True))
    theta = theta_near(layout, 2)
    got = np.zeros(0)
    for root in row_roots(layout, theta):
        size = root.present.size + root.ZL.shape[0] * root.ZL.shape[1]
        made = _rows(root, np.eye(size)).reshape(size, -1)
        got = np.append(got, np.linalg.eigvalsh(made[:, made.any(axis=0)].T @ made[:, made.any(0)]))
    w = np.sqrt(column("w"))
    expected = np.linalg.eigvalsh(dense_covariance(text, True, layout, theta) * np.outer(w, w))
    assert_close(np.sort(got), expected, DENSE_RTOL, expected.max())


def test_a_replicate_is_fitted_as_a_response():
    """The response of the data in the place of a drawn one."""
    fit = lmm.fit("y ~ x + us(visit | subject) + (1 | site)", TRIAL, runtime="numpy")
    layout, theta = layout_of(fit.design), fit.estimates.theta_layout
    rows = tuple(b.c[None, :, -1] for b in layout.buckets)
    found = fit_each(layout, Response(y=rows, S0=layout.S0[None, -1]), theta + 0.05, reml=True)
    assert_close(found.jet.value[0], fit.estimates.deviance, LAYOUT_RTOL)


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
