"""Plots of fields by products along their rows and columns, against dense matrices."""

import decimal
import itertools
from decimal import Decimal
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import assert_close, dense_gls
from residual_checks import (
    DENSE_RTOL,
    EXACT,
    JAX_RTOL,
    LAYOUT_RTOL,
    OPTIMUM_RTOL,
    Model,
    check_criterion,
    check_derivatives,
    check_drawn_rows,
    check_moments,
    check_replicate,
    check_same_fit,
    check_under_jax,
    on_host,
)

import lmm_jax as lmm
from lmm_jax.likelihood.profile import profile_jet
from lmm_jax.optimize.staged import descend

PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")

PLAIN = "ar1(row | field) * ar1(col | field)"
UNITS = "ar1(row | field) * ar1(col | field, nugget=True)"
MODELS = [PLAIN, UNITS, f"(1 | gen) + {PLAIN}", f"(1 | gen) + (x | block) + {UNITS}"]


def trial() -> pd.DataFrame:
    """Three fields of two sizes, a tenth of the plots lost, varieties in all of them."""
    rng, parts = np.random.default_rng(5), []
    for field, shape in {"a": (7, 9), "b": (6, 5), "c": (7, 9)}.items():
        row, col = (at.ravel() for at in np.indices(shape))
        R = 0.6 ** np.abs(row[:, None] - row) * (-0.4) ** np.abs(col[:, None] - col)
        y = np.linalg.cholesky(R + 0.3 * np.eye(row.size)) @ rng.normal(size=row.size)
        own = {"field": field, "row": 3 + 2 * row, "col": col - 1, "y": y}
        parts.append(pd.DataFrame({**own, "block": field + (row // 3).astype(str)}))
    data = pd.concat(parts, ignore_index=True)
    n = len(data)
    data["gen"], data["x"] = rng.permutation(np.arange(n) % 12), rng.normal(size=n)
    data["w"] = rng.uniform(0.5, 2.0, n)
    data["y"] += 4 + 0.3 * data["x"] + rng.normal(0, 0.8, 12)[data["gen"]]
    return data.sample(frac=0.9, random_state=3).reset_index(drop=True)


TRIAL = trial()
X, Y = np.column_stack([np.ones(len(TRIAL)), TRIAL["x"]]), TRIAL["y"].to_numpy()


def theta_near(layout, seed):
    m = sum(structure.n_params for structure in layout.structures)
    return np.random.default_rng(seed).normal(0, 0.5, m)


def same(name):
    values = TRIAL[name].to_numpy()
    return np.equal.outer(values, values).astype(float)


def field_covariance(text, weighted, layout, theta):
    """V, relative to sigma^2, entry by entry."""
    units = "nugget" in text
    c = theta[-2 - units :]
    apart = [np.abs(np.subtract.outer(*[TRIAL[axis].to_numpy()] * 2)) for axis in ("row", "col")]
    R = same("field") * np.tanh(c[0]) ** (apart[0] // 2) * np.tanh(c[1]) ** apart[1]
    if units:
        odds = np.exp(c[2]) * np.prod(1 - np.tanh(c[:2]) ** 2)
        q = odds / (1 + odds)
        R = (1 - q) * R + q * np.eye(len(TRIAL))
    V = R / np.sqrt(np.outer(TRIAL["w"], TRIAL["w"])) if weighted else R
    place = 0
    for structure, A in zip(layout.structures, layout.whiteners, strict=True):
        L = A @ structure.factor(theta[place : place + structure.n_params])
        place += structure.n_params
        if structure.k:
            name = "block" if structure.k == 2 else "gen"
            Z = X if structure.k == 2 else X[:, :1]
            V = V + same(name) * (Z @ L @ L.T @ Z.T)
    return V


@cache
def model(text, weighted=False):
    return Model(
        formula=f"y ~ x + {text}",
        data=TRIAL,
        X=X,
        y=Y,
        covariance=partial(field_covariance, text, weighted),
        near=theta_near,
        options={"weights": "w"} if weighted else {},
    )


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("text", MODELS)
def test_criterion_is_that_of_dense_matrices(text, weighted, reml):
    assert isinstance(model(text, weighted).layouts[0], lmm.FieldLayout)
    check_criterion(model(text, weighted), reml=reml)


@pytest.mark.parametrize("reml", [True, False], ids=["weighted, reml", "plain, ml"])
@pytest.mark.parametrize("text", MODELS)
def test_derivatives_of_the_criterion(text, reml):
    check_derivatives(model(text, weighted=reml), reml=reml)


@pytest.mark.device
@pytest.mark.parametrize("text", MODELS[1:3])
def test_criterion_and_derivatives_under_jax(text, x64):
    """JAX differentiates through the solutions, not through the eigenvectors, twice."""
    check_under_jax(model(text, True), model(text, True).layouts[0])


def test_no_correlation_at_all_has_derivatives(x64):
    """All eigenvalues are one there."""
    layout = model(PLAIN).layouts[0]
    zero = np.zeros(2)
    device = jax.tree.map(jnp.asarray, layout)
    slope = jax.grad(lambda at: -2 * lmm.profile_loglike(at, device))(zero)
    expected = profile_jet(zero, layout, reml=True).gradient
    assert_close(slope, expected, JAX_RTOL, np.abs(expected).max())


def criterion_of_sixty_digits(data, theta):
    """ML's, by elimination of V entry by entry."""
    with decimal.localcontext(decimal.Context(prec=60)):
        c = [Decimal(x) for x in theta]
        a, b = (((2 * x).exp() - 1) / ((2 * x).exp() + 1) for x in c[:2])
        odds = c[2].exp() * (1 - a * a) * (1 - b * b) if len(c) == 3 else Decimal(0)
        n, row, col = len(data), data["row"].tolist(), data["col"].tolist()
        V = [
            [a ** (abs(row[i] - row[j]) // 2) * b ** abs(col[i] - col[j]) / (1 + odds)
             for j in range(n)]
            for i in range(n)
        ]  # fmt: skip
        B = [
            [Decimal(1), Decimal(x), Decimal(y)] for x, y in zip(data["x"], data["y"], strict=True)
        ]
        logs, gram = Decimal(0), [[Decimal(0)] * 3 for _ in range(3)]
        for i in range(n):
            V[i][i] += odds / (1 + odds) if len(c) == 3 else 0
        for i in range(n):
            pivot = V[i][i]
            logs += pivot.ln()
            for k, m in itertools.product(range(3), repeat=2):
                gram[k][m] += B[i][k] * B[i][m] / pivot
            for j in range(i + 1, n):
                f = V[j][i] / pivot
                V[j] = [v - f * w for v, w in zip(V[j], V[i], strict=True)]
                B[j] = [v - f * w for v, w in zip(B[j], B[i], strict=True)]
        for k in range(2):
            for m in range(k + 1, 3):
                f = gram[m][k] / gram[k][k]
                gram[m] = [v - f * w for v, w in zip(gram[m], gram[k], strict=True)]
        rss = gram[2][2] / n
        return logs + n * (1 + (2 * PI * rss).ln())


@pytest.mark.parametrize("nugget", [None, -3.0, 0.0, 3.0])
@pytest.mark.parametrize("left", [1e-1, 1e-3, 1e-5, 1e-7])
def test_correlations_near_one_keep_what_is_promised(left, nugget):
    """The rounding that is reported bounds the distance from 60 digits.

    Beside it a correlation that is rounded is that of another theta, ``eps / (1 - rho^2)`` apart.
    """
    few = TRIAL[TRIAL["field"] == "b"].reset_index(drop=True)
    text = f"y ~ x + {PLAIN if nugget is None else UNITS}"
    layout = on_host(lmm.design(text, few).compressed.layout)
    near = np.arctanh([1.0 - left, 1.0 - 2.0 * left]) + 0.0123  # whose tanh is rounded
    theta = [*near, *([nugget] * (nugget is not None))]
    jet = profile_jet(np.array(theta), layout, reml=False)
    off = abs(float(criterion_of_sixty_digits(few, theta) - Decimal(float(jet.value))))
    moved = np.finfo(float).eps * np.cosh(near) ** 2
    assert off < jet.noise + EXACT * abs(jet.value) + moved @ np.abs(jet.gradient[:2])


@pytest.mark.parametrize("text", MODELS)
def test_moments_are_those_of_the_dense_layout(text):
    check_moments(model(text, True), model(text, True).layouts)


@pytest.mark.parametrize("text", MODELS)
def test_a_fit_does_not_show_its_layout(text):
    new = TRIAL.iloc[::7].assign(row=TRIAL["row"].max() + 2)
    check_same_fit(model(text, True), lmm.FieldLayout, new)


@pytest.mark.parametrize("text", MODELS)
def test_drawn_rows_have_the_covariance_of_the_model(text):
    check_drawn_rows(model(text, True))


@pytest.mark.parametrize("text", MODELS)
def test_a_replicate_is_fitted_as_a_response(text):
    check_replicate(model(text))


def test_programs_make_dense_matrices_of_the_rows(x64):
    """The index of a design for ``compress`` takes rows that are traced, weights of zero too."""
    own = model(f"(1 | gen) + {PLAIN}")
    design = own.design
    index, ones = lmm.row_index(design), np.ones(len(Y))
    layout = lmm.compress(Y, X, tuple(t.values for t in design.terms), ones, index)
    assert isinstance(layout, lmm.ResidualLayout | lmm.SubjectLayout)
    theta = theta_near(layout, 7)
    value = profile_jet(theta, own.layouts[0], reml=True).value
    assert_close(-2 * lmm.profile_loglike(theta, layout), value, LAYOUT_RTOL)


def test_places_that_are_far_apart_are_no_grid():
    """Plots along two lines: their grid would have thirty plots for each."""
    line = np.arange(30)
    far = pd.DataFrame({"row": np.append(line, 0 * line), "col": np.append(0 * line, line)})
    far = far.drop_duplicates().assign(y=np.random.default_rng(0).normal(size=59))
    design = lmm.design("y ~ 1 + ar1(row | 1) * ar1(col | 1)", far)
    assert isinstance(design.compressed.layout, lmm.ResidualLayout)


def fields_of(*shapes):
    """Whole fields of some shapes with twelve varieties in all of them."""
    rng, parts = np.random.default_rng(8), []
    for name, shape in zip("abc", shapes, strict=False):
        row, col = (at.ravel() for at in np.indices(shape))
        parts.append(pd.DataFrame({"field": name, "row": row, "col": col}))
    data = pd.concat(parts, ignore_index=True)
    n = len(data)
    return data.assign(gen=rng.permutation(np.arange(n) % 12), y=rng.normal(size=n))


def test_fields_that_share_varieties_share_a_grid():
    """As long as the longest and as wide as the widest: few plots more, or other matrices."""
    text = f"y ~ 1 + (1 | gen) + {PLAIN}"
    alike = lmm.design(text, fields_of((8, 10), (10, 8), (9, 9))).compressed.layout
    assert isinstance(alike, lmm.FieldLayout) and alike.buckets[0].c.shape[2:] == (10, 10)
    crosswise = lmm.design(text, fields_of((4, 20), (20, 4))).compressed.layout
    assert not isinstance(crosswise, lmm.FieldLayout)
    apart = lmm.design(f"y ~ 1 + {PLAIN}", fields_of((4, 20), (20, 4))).compressed.layout
    assert isinstance(apart, lmm.FieldLayout) and len(apart.buckets) == 2
    assert all(bucket.lost.size == 0 for bucket in apart.buckets)


def test_two_rows_of_one_plot_are_no_grid():
    """With a nugget of their own they may share a plot: neither is left out."""
    twice = pd.concat([fields_of((6, 7)), fields_of((6, 7)).iloc[:9]], ignore_index=True)
    twice["y"] = np.random.default_rng(2).normal(size=len(twice))
    res = lmm.fit(f"y ~ 1 + {UNITS}", twice)
    assert not isinstance(res.design.compressed.layout, lmm.FieldLayout)
    at = res.residual_params
    apart = [np.abs(np.subtract.outer(*[twice[axis].to_numpy()] * 2)) for axis in ("row", "col")]
    R = at["rho[row]"] ** apart[0] * at["rho[col]"] ** apart[1]
    V = (1 - at["nugget"]) * R + at["nugget"] * np.eye(len(twice))
    one = np.ones((len(twice), 1))
    expected = dense_gls(one, twice["y"].to_numpy(), V, reml=True).criterion
    assert_close(-2 * res.llf, expected, DENSE_RTOL)


@pytest.mark.parametrize("seed", [8, 10, 16])
def test_plots_without_a_pattern_have_several_optima(seed, x64):
    """The best is beside a large nugget and correlations near one of either sign."""
    data = fields_of((7, 9), (6, 5), (7, 9))
    data["y"] = np.random.default_rng(seed).normal(size=len(data))
    res = lmm.fit(f"y ~ field + {UNITS}", data, runtime="numpy")
    layout = on_host(res.design.compressed.layout)
    for rho in itertools.product((-0.95, -0.4, 0.4, 0.95), repeat=2):
        for share in (0.3, 0.9):
            left = np.log1p(-(np.array(rho) ** 2)).sum()
            start = np.array([*np.arctanh(rho), np.log(share / (1 - share)) - left])
            found = descend(layout, start, reml=True, maxiter=200)
            assert res.estimates.deviance < float(found.jet.value) + OPTIMUM_RTOL * 500
