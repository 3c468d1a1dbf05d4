"""Data with several optima: the fit ends at one as good as a search over many starts has found.

The data are simulated (heavy tails, calendar years, few groups). Each row holds a theta that
runs from many random starts found, of L-BFGS, of Newton's method for five sizes and more; the
fit's log-likelihood is not below the criterion at that theta, which is evaluated here.
"""

from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import assert_close

import lmm_jax as lmm

DATA = Path(__file__).parent / "data" / "optima"
# theta is given to three digits or so, where the criterion has lost less than this
SLACK = 1e-3

CASES = [
    ("y ~ x + (x || g)", 500, False, [3630.0, 1.787]),
    ("y ~ z + (z + s | g)", 565, False, [2.633, 1.127, -1.807, 2.499, -0.420, 0.2427]),
    ("y ~ z + (z | g)", 1040, True, [1.501, 1.997, 1.478]),
    ("y ~ z + (z | g)", 1189, True, [4.663, -4.787, 0.106]),
    ("y ~ z + (z | g)", 1338, True, [1.0736, 0.3422, 0.0]),
    ("y ~ 0 + x1 * x2 + (x1 | g)", 36, True, [525.98516743, -16.41161048, 0.0]),
    # too many coefficients for a grid of start values
    ("y ~ a + (1 + a + b + c + d + e || g)", "_apart6", False, [0, 0, 0, 1.1577, 0.672, 0]),
    (
        "y ~ 1 + (1 + a + b + c + d | g)",
        "_full5",
        False,
        [
            *(35.0965, 22.1058, -26.3077, -18.3577, -10.5972, 13.985, -1.5109, -0.2058),
            *(0.1289, 0.2136, -6.2594, 0.1881, 0, 0, 0),
        ],
    ),
    (
        "y ~ a + b + (a + b | g) + (1 + c || h)",
        "_two3",
        False,
        [78.9593, 69.4845, 70.5273, 11.8459, 7.7349, 0, 0, 0],
    ),
    (
        "y ~ a + (1 + a + b | g) + (1 | h) + (1 | k)",
        "_crossed5",
        True,
        [1.3245, -2.4301, 1.763, 0.1804, 0.7701, 0, 1.1082, 1.2112],
    ),
    # any factor may hold the mean; lme4's BOBYQA ends here from the starts that it was given
    (
        "y ~ 0 + (1 | ci) + (1 | k) + (1 | nf) + (1 | ch) + (1 | g)",
        "_no_intercept",
        True,
        [0.127016, 0.0, 0.065222, 6.744326, 0.031027],
    ),
]


@pytest.mark.parametrize(
    ("formula", "case", "reml", "theta"), CASES, ids=[str(c[1]) for c in CASES]
)
def test_the_best_known_optimum(formula, case, reml, theta):
    data = pd.read_csv(DATA / f"case{case}.csv")
    result = lmm.fit(formula, data, reml=reml)
    assert result.converged
    with jax.enable_x64(True):
        layout = lmm.design(formula, data).layout
        known = float(
            jax.jit(lambda t: lmm.profile_loglike(t, layout, reml=reml))(np.array(theta, float))
        )
    assert result.llf > known - SLACK
    assert result.llf < known + 0.1  # the same optimum, and not a better one that nobody knew


def _cornered(seed, k):
    """An intercept of little variance beside slopes, correlated at random; 40 groups of 5."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(40), 5)
    Z = np.column_stack([np.ones(200)] + [rng.normal(size=200) for _ in range(k - 1)])
    sd = np.concatenate(
        [[rng.choice([0, 0.01, 0.1, 0.3])], rng.choice([0.02, 0.3, 0.5, 1, 5], size=k - 1)]
    )
    C = rng.normal(size=(k, k))
    C = C @ C.T
    C = C / np.sqrt(np.outer(np.diag(C), np.diag(C)))
    b = rng.multivariate_normal(np.zeros(k), C * sd[:, None] * sd, size=40)
    return Z @ np.ones(k) + np.sum(Z * b[groups], axis=1) + rng.normal(size=200), Z, groups


@pytest.mark.parametrize(("seed", "k"), [(14139, 2), (15960, 2), (16685, 2), (22410, 3)])
def test_a_small_pivot_above_a_large_entry(seed, k):
    # Newton in theta creeps along a circle here; with the columns in another order it does not
    y, Z, groups = _cornered(seed, k)
    fits = [
        lmm.fit(lmm.design_from_arrays(y, Z, groups, exog_re=Z[:, order]), reml=bool(seed % 2))
        for order in (slice(None), slice(None, None, -1))
    ]
    assert fits[0].converged and fits[1].converged
    np.testing.assert_allclose(fits[0].llf, fits[1].llf, rtol=1e-11)
    # a Newton decrement of 1e-9 leaves 3e-5 standard errors
    other = np.asarray(fits[1].cov_re)[::-1, ::-1]
    np.testing.assert_allclose(fits[0].cov_re, other, rtol=1e-5, atol=2e-5)


@pytest.mark.filterwarnings("ignore::lmm_jax.IdentificationWarning")  # as many as rows: meant
@pytest.mark.parametrize(("groups", "rows", "columns"), [(110, 5, 8), (620, 2, 8), (408, 3, 3)])
def test_coefficients_that_fill_their_groups(groups, rows, columns):
    """No row tells of the residual alone: the fit ends no lower than where the data are from."""
    rng = np.random.RandomState(1)
    g, n = np.repeat(np.arange(groups), rows), groups * rows
    X, Z = rng.normal(size=(n, columns)), rng.normal(size=(n, rows - 1))
    Z = np.column_stack([np.ones(n), Z])
    y = X.sum(axis=1) + (Z * 2 * rng.normal(size=(groups, rows))[g]).sum(axis=1)
    y += rng.normal(size=n)
    design = lmm.design_from_arrays(y, np.column_stack([np.ones(n), X]), g, exog_re=Z)
    result = lmm.fit(design, reml=False)
    assert result.converged
    truth = lmm.Params.from_components(np.zeros(0), 4.0 * np.eye(rows))
    with jax.enable_x64(True):
        assert result.llf > float(lmm.loglike(truth, design.layout, reml=False))


@pytest.mark.filterwarnings("ignore::lmm_jax.IdentificationWarning")
def test_a_residual_that_vanishes_is_said():
    """Two rows and two coefficients a group: the likelihood has no maximum inside."""
    rng = np.random.RandomState(4)
    g = np.repeat(np.arange(60), 2)
    X, z = rng.normal(size=(120, 8)), rng.normal(size=120)
    Z = np.column_stack([np.ones(120), z])
    y = X.sum(axis=1) + (Z * 2 * rng.normal(size=(60, 2))[g]).sum(axis=1) + rng.normal(size=120)
    names = [f"x{i}" for i in range(8)]
    data = pd.DataFrame(X, columns=names).assign(z=z, g=g, y=y)
    with pytest.warns(lmm.ConvergenceWarning, match="rises until no residual variance is left"):
        result = lmm.fit(f"y ~ {' + '.join(names)} + (z || g)", data, reml=False)
    assert not result.converged and result.scale < 1e-8


# log-likelihoods of lme4 1.1-31 (R 4.2.2, nloptwrap), `y ~ log(dose + 1) + (dose || plate) + ...`,
# where the mean rises with dose itself: a variance of slopes stands for it, and one of zero is an
# optimum as well; plates of a generator of NumPy's by seed
TWO_OPTIMA = {
    ("(1 | sample)", 8): -84.750529,
    ("(1 | sample)", 9): -36.206142,
    ("(1 | sample)", 10): -33.607235,
    ("(1 | plate:sample)", 8): -105.785181,
    ("(1 | plate:sample)", 1): -45.673645,
}


def plates(seed):
    rng, n = np.random.default_rng(seed), [4, 6, 10][seed % 3]
    plate, dose = np.repeat(np.arange(n), 12), np.tile(np.repeat(np.arange(6.0), 2), n)
    y = rng.normal(size=n)[plate] + 0.5 * dose + 0.3 * rng.normal(size=12 * n)
    sample = dose.astype(int) % 3
    y += np.array([0, 0.5, -0.5])[sample]
    return pd.DataFrame({"y": y, "plate": plate, "dose": dose, "sample": sample})


@pytest.mark.parametrize(("rest", "seed"), TWO_OPTIMA)
def test_a_slope_that_stands_for_what_the_mean_lacks(rest, seed):
    data = plates(seed)
    design = lmm.design(f"y ~ log(dose + 1) + (dose || plate) + {rest}", data)
    res = lmm.fit(design, runtime="numpy")
    assert res.converged
    assert_close(res.llf, TWO_OPTIMA[rest, seed], 1e-7)
    many = lmm.fit_many(design, np.column_stack([data["y"], -data["y"]]), progress=False)
    assert_close(many.llf, [res.llf, res.llf], 1e-9)


# log-likelihoods of lme4 1.1-31 (R 4.2.2, bobyqa) of simulated rows: both variances of s are an
# optimum at zero, and one far from it; and without an intercept the levels of s hold the mean of y
OF_FILES = {
    ("two_zeros", "y ~ x + (x | g) + (x || s)", False): -329.746551,
    ("no_intercept", "y ~ 0 + x + (x | g) + (1 | s)", True): -3333.625737,
}


@pytest.mark.parametrize(("name", "formula", "reml"), OF_FILES)
@pytest.mark.parametrize("runtime", ["numpy", "jax"])
def test_optima_that_lie_far_from_others(name, formula, reml, runtime):
    data = pd.read_csv(Path(__file__).parent / "data" / f"{name}.csv")
    res = lmm.fit(formula, data, reml=reml, runtime=runtime)
    assert res.converged
    assert_close(res.llf, OF_FILES[name, formula, reml], 1e-7)


def test_columns_that_do_not_vary_within_levels_are_said():
    """Coefficients of which every level shows one combination: a larger maxiter finds no more."""
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(12), 5)
    data = pd.DataFrame({"g": g, "f": np.array(list("abc"))[g % 3], "y": rng.normal(size=60)})
    data["y"] += rng.normal(size=12)[g]
    with pytest.warns(lmm.ConvergenceWarning, match="no column varies within a level of g") as said:
        lmm.fit("y ~ 1 + (f | g)", data)
    assert "Try (1 | g)" in str(said[0].message) and "maxiter" not in str(said[0].message)
