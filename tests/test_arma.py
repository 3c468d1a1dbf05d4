"""Residuals that are autoregressive moving averages of any order, ``arma(visit | id, p=, q=)``."""

import numpy as np
import pandas as pd
import pytest
from helpers import assert_close, dense_llf
from scipy import special

import lmm_jax as lmm
from lmm_jax.covariance.arma import AutoregressiveMovingAverage
from lmm_jax.covariance.distances import of_partials
from lmm_jax.designs.residual_nesting import residual_ends
from lmm_jax.errors import DataError, FormulaError
from lmm_jax.numerics.taylor import joined, tanh, variables

ARMA = [
    ("sleepstudy", 0, 1, True, -904.84223741, {"theta": 0.607769}),
    ("sleepstudy", 0, 2, False, -889.48892413, {"theta[1]": 0.714099, "theta[2]": 0.495791}),
    ("sleepstudy", 2, 0, True, -867.24249814, {"phi[1]": 0.661753, "phi[2]": 0.176356}),
    ("sleepstudy", 2, 1, True, -867.06509914, {"phi[1]": 0.996817, "theta": -0.349993}),
    ("sleepstudy", 1, 2, True, -867.07443016, {"phi": 0.889081}),
    ("sleepstudy", 3, 0, False, -871.62772361, {"phi[2]": 0.155106, "phi[3]": 0.033843}),
    ("orthodont", 2, 0, False, -212.43498375, {"phi[1]": 0.313450, "phi[2]": 0.492364}),
    ("orthodont", 0, 2, True, -219.41050369, {"theta[2]": 1.0}),
]


@pytest.mark.parametrize(("name", "p", "q", "reml", "llf", "reported"), ARMA)
def test_autoregressive_moving_averages(name, p, q, reml, llf, reported):
    """``nlme::gls`` 3.1.162 with ``corARMA(form = ~ 1 | Subject)`` and tolerances of 1e-10.

    Two thetas beside a phi are printed by it in a way that its own ``corMatrix`` contradicts.
    """
    fixed = {"sleepstudy": "Reaction ~ Days", "orthodont": "distance ~ age * Sex"}[name]
    formula = f"{fixed} + arma(row | Subject, p={p}, q={q})"
    result = lmm.fit(formula, lmm.load_dataset(name), reml=reml, runtime="numpy")
    assert result.converged and abs(result.llf - llf) < 1e-7
    for key, value in reported.items():
        assert abs(result.residual_params[key] - value) < 2e-5  # nlme stops at a change of 1e-6


def test_correlations_beside_a_moving_average_of_two_are_those_of_nlme():
    """``corMatrix`` of the fit with p = 1 and q = 2."""
    formula = "Reaction ~ Days + arma(row | Subject, p=1, q=2)"
    R = lmm.fit(formula, lmm.load_dataset("sleepstudy"), runtime="numpy").residual_cov()
    found = R.iloc[0, 1:4] / R.iloc[0, 0]
    np.testing.assert_allclose(found, [0.801156, 0.706107, 0.627786], atol=3e-6)


def test_a_series_is_foretold_beyond_its_end():
    """By the recursion of its own residuals: of AR(2), phi_1 e_n + phi_2 e_(n - 1)."""
    data = lmm.load_dataset("sleepstudy")
    result = lmm.fit("Reaction ~ Days + arma(Days | Subject, p=2)", data, runtime="numpy")
    new = pd.DataFrame({"Days": [10, 11, 40], "Subject": "308"})
    e = [*result.resid()[data["Subject"] == "308"].iloc[-2:]]
    for _ in range(31):
        e.append(
            result.residual_params["phi[1]"] * e[-1] + result.residual_params["phi[2]"] * e[-2]
        )
    means = result.predict(new, conditional=False)
    expected = means + np.array([e[2], e[3], e[32]])
    assert_close(result.predict(new, conditional=True), expected, 1e-10)


def test_orders_that_are_special_cases():
    data = lmm.load_dataset("sleepstudy")
    text = "Reaction ~ Days + {}"
    ar1, ar2 = (
        lmm.fit(text.format(f"arma(Days | Subject, p={p})"), data, reml=False, runtime="numpy")
        for p in (1, 2)
    )
    ma1, mixed = (
        lmm.fit(text.format(f"arma(Days | Subject, {o})"), data, reml=False, runtime="numpy")
        for o in ("q=1", "p=2, q=1")
    )
    table = lmm.anova(ar1, ar2)
    assert table["df"].iloc[1] == 1  # nothing of it is at an end: the usual reference
    assert_close(table["p_value"].iloc[1], special.chdtrc(1, table["chisq"].iloc[1]), 1e-12)
    with pytest.raises(DataError, match=r"not nested|special case"):
        lmm.anova(ma1, ar2)
    assert lmm.anova(ma1, mixed)["df"].iloc[1] == 2


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ("arma(Days | Subject)", "needs its orders"),
        ("arma(Days | Subject, p=0)", "needs its orders"),
        ("arma(Days | Subject, p=4, q=3)", "p \\+ q is 7, up to 6"),
        ("arma(Days | Subject, p=-1)", "a whole number from 0 on"),
        ("arma(Days | Subject, p=1, p=2)", "stands twice"),
        ("ar1(Days | Subject, p=2)", "belongs to arma"),
        ("arma(Days | Subject, 2, 1)", "takes p= and q= behind the subjects"),
        ("ar1(Days | Subject, 2)", "takes nothing behind the subjects"),
        ("arma(Days, p=2)", r"write `arma\(Days \| id, p=2\)`"),
        ("corARMA(form = ~ Days | Subject, p=2)", "write `arma"),
    ],
)
def test_orders_that_are_none(term, message):
    with pytest.raises(FormulaError, match=message):
        lmm.design(f"Reaction ~ Days + {term}", lmm.load_dataset("sleepstudy"))


# ------------------------------------------------------------ pieces


def test_partial_correlations_solve_the_equations_of_yule_and_walker():
    c = np.array([0.7, -0.4, 1.1])
    rho, phi = of_partials([tanh(x) for x in variables(c)])
    r = np.array([1.0, *(float(x.value) for x in rho)])
    T = r[np.abs(np.subtract.outer(np.arange(3), np.arange(3)))]
    assert_close([x.value for x in phi], np.linalg.solve(T, r[1:]), 1e-12)
    assert np.abs(np.roots([1, *(-float(x.value) for x in phi)])).max() < 1  # stationary


def test_values_one_after_another_keep_their_derivatives():
    x, y = variables(np.array([2.0, 3.0]))
    one, two = ((x * y).through(*np.array([[6.0], [1.0], [0.0]])), (x * x)[None])
    found = joined([one, two])
    assert found.value.tolist() == [6.0, 4.0]
    assert found.first.tolist() == [[3.0, 4.0], [2.0, 0.0]]
    assert found.second[:, :, 1].tolist() == [[2.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("q", [1, 2])
def test_an_average_that_is_not_invertible_is_an_end_of_its_range(q):
    """There correlations stand still in the last parameter alone: dC / dc is nothing."""
    own = AutoregressiveMovingAverage(p=1, q=q, reach=3)
    c = np.array([0.5, *[0.3] * (q - 1), 12.0])
    slopes = own.entries(c, np.arange(4.0)[None, :, None]).first
    assert np.abs(slopes[-1]).max() < 1e-8 < np.abs(slopes[0]).max()
    for down in (-1.0, 1.0):  # the gradient: only where the criterion falls outwards
        assert own.idle(c, np.full(own.n_params, down)).tolist() == [False] * q + [down < 0]
    assert not own.idle(c * 0.05, -np.ones(own.n_params)).any()


def test_no_standard_error_at_the_end():
    data = lmm.load_dataset("orthodont")
    formula = "distance ~ age * Sex + arma(row | Subject, q=2)"
    res = lmm.fit(formula, data, runtime="numpy")
    assert res.residual_params["theta[2]"] > 0.9999
    assert np.isnan(res.residual_params_se["theta[2]"])


ENDS = [
    (None, "q=2", 0), (None, "p=2, q=1", 2), (None, "p=2, q=2", 4), ("p=1", "p=2", 0),
    ("p=1", "p=2, q=2", 2), ("p=1, q=1", "p=2, q=2", 2), ("p=1, q=1", "p=1, q=2", 0),
    ("q=1", "p=2", None), ("p=2", "p=1, q=1", None),
]  # fmt: skip


@pytest.mark.parametrize(("small", "large", "ends"), ENDS)
def test_factors_that_both_polynomials_share_are_told_by_nothing(small, large, ends):
    """``(1 - a B) e = (1 - a B) u`` for any a: two parameters, one of them without a place."""
    data = lmm.load_dataset("sleepstudy")

    def residual(orders):
        text = f"Reaction ~ Days + arma(Days | Subject, {orders})"
        return None if orders is None else lmm.design(text, data).residual

    assert residual_ends(residual(small), residual(large)) == ends


def test_distances_beyond_those_that_are_listed():
    data = lmm.load_dataset("sleepstudy").astype({"Days": int})
    far = data.assign(Days=data["Days"] * 20_000)
    with pytest.raises(DataError, match="up to 180000 apart, 100,000 at most"):
        lmm.design("Reaction ~ Days + arma(Days | Subject, p=2)", far)
    res = lmm.fit("Reaction ~ Days + arma(Days | Subject, p=2)", data, runtime="numpy")
    with pytest.raises(DataError, match=r"up to 1e\+09 apart"):
        res.predict({"Days": [10**9], "Subject": ["308"]}, conditional=True)


@pytest.mark.parametrize(
    ("rows", "orders", "message"),
    [
        ("Days <= 1", "p=2", "at 1 distance, and .* has 2 parameters"),
        ("Days <= 2", "p=4", "at 2 distances, and .* has 4 parameters"),
        ("Days % 2 == 0", "q=1", "at 0 distances of 1 at most, and .* has 1 parameter:"),
        ("Days % 3 == 0", "p=2, q=2", "at 3 distances, and .* has 4 parameters"),
    ],
)
def test_as_many_distances_as_parameters(rows, orders, message):
    data = lmm.load_dataset("sleepstudy").query(rows)
    with pytest.raises(DataError, match=message):
        lmm.design(f"Reaction ~ Days + arma(Days | Subject, {orders})", data)


def test_no_fallback_without_orders():
    data = lmm.load_dataset("orthodont")
    with pytest.raises(DataError, match="fallback"):
        lmm.mmrm("distance ~ age + us(age | Subject)", data, fallback=["arma"])
    res = lmm.mmrm("distance ~ age + arma(age | Subject, p=1)", data, fallback=["cs"])
    assert res.residual.text == "arma(age | Subject, p=1)"


@pytest.mark.parametrize("seed", [3, 6])
def test_where_both_parts_have_a_root_of_one_digits_are_left(seed):
    """Then `arma(2, 1)` is `ar1` beside a random intercept, whose log-likelihood it has.

    And that of the matrix which is reported, by dense algebra.
    """
    rng, rows = np.random.default_rng(seed), []
    for i in range(60):
        e, u = 0.0, rng.normal()
        for visit in range(1, 7):
            e = 0.5 * e + rng.normal()
            rows.append((i, visit, u + e))
    data = pd.DataFrame(rows, columns=["id", "v", "y"])
    with pytest.warns(lmm.ConvergenceWarning):
        res = lmm.fit("y ~ v + arma(v | id, p=2, q=1)", data)
    limit = lmm.fit("y ~ v + (1 | id) + ar1(v | id)", data)
    assert abs(res.llf - limit.llf) < 1e-3
    V = np.kron(np.eye(60), res.residual_cov(range(1, 7)).to_numpy())
    dense = dense_llf(res.design.exog, res.design.endog, V, reml=True)
    assert abs(dense - res.llf) < 1e-6
