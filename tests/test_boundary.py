"""Where a variance is zero or almost: what statsmodels' MixedLM gets wrong, each with its issue.

The number in a test's name is that of the issue at github.com/statsmodels/statsmodels/issues; the
ones without a number were met while comparing the two libraries. Every warning is an error here.
"""

import json

import numpy as np
import pandas as pd
import pytest
from helpers import Term, assert_close, dense_deviance
from scipy.optimize import minimize, minimize_scalar

import lmm_jax as lmm
from lmm_jax.inference.profiles.boundary import cone_p_value

EXACT = 1e-10  # against a closed form (ordinary least squares)
MAXIMUM_RTOL = 1e-9  # of the log-likelihood, against another optimizer's maximum
POINT_RTOL = 1e-5  # of estimates: that optimizer stops where the criterion is flat to eight digits
GROUPS, ROWS = 40, 10


def simulate(seed, sd, groups=GROUPS, rows=ROWS):
    """y, X and the groups: an intercept, a column constant within groups and one that is not."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), rows)
    X = np.column_stack([np.ones(g.size), g % 2, rng.normal(size=g.size)])
    y = X @ [5, 2, 1] + sd * rng.normal(size=groups)[g] + rng.normal(size=g.size)
    return y, X, g


def fit(y, X, g, reml=True):
    return lmm.fit(lmm.design_from_arrays(y, X, g), reml=reml)


def least_squares(y, X):
    """Coefficients, standard errors and residual variance of the model without groups."""
    beta = np.linalg.solve(X.T @ X, X.T @ y)
    residual = y - X @ beta
    sigma2 = residual @ residual / (y.size - X.shape[1])
    return beta, np.sqrt(sigma2 * np.diag(np.linalg.inv(X.T @ X))), sigma2


def assert_is_least_squares(result, y, X):
    """What a REML fit is when every variance is zero."""
    beta, se, sigma2 = least_squares(y, X)
    assert result.converged
    assert result.singular
    assert_close(result.fe_params, beta, EXACT, scale=se)
    assert_close(result.bse_fe, se, EXACT)
    assert_close(result.scale, sigma2, EXACT)
    n, p = X.shape
    logdet = np.linalg.slogdet(X.T @ X).logabsdet
    llf = -0.5 * ((n - p) * (1 + np.log(2 * np.pi * sigma2)) + logdet)
    assert result.llf == pytest.approx(llf, rel=EXACT)


def dense_maximum(y, X, terms, starts, reml=True):
    """Largest log-likelihood over theta, and theta, by L-BFGS on the dense criterion."""

    def criterion(theta):
        return dense_deviance(X, y, terms, theta, reml=reml).criterion

    found = [minimize(criterion, x0, method="L-BFGS-B", options={"ftol": 1e-14}) for x0 in starts]
    best = min(found, key=lambda f: f.fun)
    return -0.5 * best.fun, best.x


# -------------------------------------------------------------- two hundred data sets


class Balanced:
    """The random-intercept model of ``simulate`` in the eigenbasis of ZZ', which all seeds share.

    With ``V = I + psi ZZ'`` diagonal there, one evaluation is a few sums.
    """

    def __init__(self, y, X, basis, reml):
        self.lam, Q = basis
        self.X, self.y, self.reml = Q.T @ X, Q.T @ y, reml
        self.nu = y.size - (X.shape[1] if reml else 0)

    def deviance(self, psi):
        v = 1 + psi * self.lam
        XtV = self.X.T / v
        A = XtV @ self.X
        residual = self.y - self.X @ np.linalg.solve(A, XtV @ self.y)
        out = self.nu * (1 + np.log(2 * np.pi * (residual**2 / v).sum() / self.nu))
        return out + np.log(v).sum() + (np.linalg.slogdet(A).logabsdet if self.reml else 0)

    def slope_at_zero(self):
        """d deviance / d psi at psi = 0."""
        beta = np.linalg.lstsq(self.X, self.y, rcond=None)[0]
        r2 = (self.y - self.X @ beta) ** 2
        slope = self.lam.sum() - self.nu * (self.lam @ r2) / r2.sum()
        if self.reml:
            XtX, XtDX = self.X.T @ self.X, (self.X.T * self.lam) @ self.X
            slope -= np.trace(np.linalg.solve(XtX, XtDX))
        return slope

    def maximum(self):
        """Largest log-likelihood over psi >= 0."""
        options = {"xatol": 1e-10}
        inside = minimize_scalar(self.deviance, bounds=(0, 3), method="bounded", options=options)
        return -0.5 * min(inside.fun, self.deviance(0.0))


@pytest.fixture(scope="module")
def basis():
    g = np.repeat(np.arange(GROUPS), ROWS)
    return np.linalg.eigh((g[:, None] == g).astype(float))


def test_the_eigenbasis_gives_the_dense_criterion(basis):
    y, X, g = simulate(1, 0.05)
    terms = [Term(np.ones((g.size, 1)), g.astype(str))]
    for reml in (False, True):
        model = Balanced(y, X, basis, reml)
        dense = dense_deviance(X, y, terms, [0.3], reml=reml).criterion
        assert model.deviance(0.09) == pytest.approx(dense, rel=1e-12)
        step = (model.deviance(1e-5) - model.deviance(0.0)) / 1e-5
        assert model.slope_at_zero() == pytest.approx(step, rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("reml", [False, True])
def test_two_hundred_data_sets_around_the_boundary(reml, basis):
    counts = {True: 0, False: 0}
    for seed in range(200):
        y, X, g = simulate(seed, (0, 0.05, 0.5)[seed % 3])
        result = fit(y, X, g, reml)
        model = Balanced(y, X, basis, reml)
        assert result.converged, seed
        assert result.singular == (model.slope_at_zero() >= 0), seed
        assert result.llf == pytest.approx(model.maximum(), rel=MAXIMUM_RTOL), seed
        assert result.llf >= model.maximum() - 1e-10 * abs(result.llf), seed
        if result.singular:
            assert result.cov_re.iloc[0, 0] == 0, seed
            assert_close(result.fe_params, least_squares(y, X)[0], EXACT, scale=0.1)
        counts[result.singular] += 1
    assert min(counts.values()) > 50  # the seeds hold both kinds


# ------------------------------------------------------------- issues of statsmodels


@pytest.mark.parametrize("seed", range(10))
def test_10239_coefficients_constant_within_groups_survive_a_zero_variance(seed):
    """Three groups without variance: MixedLM by L-BFGS gives the intercept and the coefficient
    of the column that is constant within groups as 0 and the log-likelihood as inf."""
    y, X, g = simulate(seed, 0.0, groups=3, rows=33)
    result = fit(y, X, g)
    beta, se, _ = least_squares(y, X)
    if result.singular:
        assert_is_least_squares(result, y, X)
    assert np.isfinite(result.llf)
    assert (np.abs(result.fe_params - beta) < se).all()
    assert result.fe_params.iloc[0] > 4


def test_10239_nothing_jumps_as_the_variance_goes_to_zero(x64):
    """MixedLM changes to another solution where the relative variance falls below 1e-10."""
    y, X, g = simulate(0, 0.5)
    layout = lmm.design_from_arrays(y, X, g).layout
    at_zero = float(lmm.profile_loglike(np.zeros(1), layout))
    slope = float(lmm.score(np.zeros(1), layout)[0])
    for psi in (1e-6, 1e-8, 1e-9, 1.01e-10, 0.99e-10, 1e-11, 1e-12, 1e-14):
        step = float(lmm.profile_loglike(np.array([np.sqrt(psi)]), layout)) - at_zero
        assert step == pytest.approx(slope * psi, rel=1e-2, abs=1e-10)


def test_10239_one_direction_of_a_covariance_is_singular():
    """No variance of the intercepts, a large one of the slopes."""
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(40), 4)
    x = rng.normal(size=g.size)
    X = np.column_stack([np.ones(g.size), g % 2, x])
    e = 0.5 * rng.normal(size=g.size)
    y = X @ [10, 3, 2] + 1.4 * rng.normal(size=40)[g] * x + e - (np.bincount(g, e) / 4)[g]
    result = lmm.fit(lmm.design_from_arrays(y, X, g, X[:, [0, 2]]))
    terms = [Term(X[:, [0, 2]], g.astype(str))]
    dense = dense_deviance(X, y, terms, result.theta, reml=True)
    best, _ = dense_maximum(y, X, terms, [[0.1, 0, 1], [0.5, -0.1, 3]])
    assert result.converged
    assert result.singular
    assert_close(result.fe_params, dense.beta, 1e-8)
    assert result.llf == pytest.approx(-0.5 * dense.criterion, rel=EXACT)
    assert result.llf >= best - MAXIMUM_RTOL * abs(best)
    assert abs(result.fe_params.iloc[0] - 10) < 0.5


def test_7051_pure_noise_in_three_groups():
    """The data of statsmodels' test for the issue: its MixedLM returns an infinite likelihood and
    no intercept, where the maximum is at a small variance."""
    y, x = np.random.RandomState(3423).randn(100, 2).T
    data = pd.DataFrame({"Y": y, "X": x, "g": (np.arange(100) % 3).astype(str)})
    result = lmm.fit("Y ~ X", data, groups="g")
    X = np.column_stack([np.ones(100), x])
    terms = [Term(np.ones((100, 1)), data["g"].to_numpy(str))]
    best, theta = dense_maximum(y, X, terms, [[0.02], [0.3]])
    beta, se, _ = least_squares(y, X)
    assert result.converged
    assert result.llf == pytest.approx(best, rel=MAXIMUM_RTOL)
    assert_close(result.theta, np.abs(theta), 1e-2)
    assert (np.abs(result.fe_params - beta) < 0.1 * se).all()


def test_4782_ordinary_data_without_group_variance():
    """MixedLM by L-BFGS raises "Singular matrix" on nine of ten such data sets."""
    for seed in (0, 1, 2, 8, 9, 11):  # all but the first are singular
        y, X, g = simulate(seed, 0.0)
        result = fit(y, X, g)
        assert result.converged
        assert result.singular == (seed > 0)
        if result.singular:
            assert_is_least_squares(result, y, X)
        assert np.isfinite(result.bse_fe).all()


@pytest.mark.slow
def test_9138_every_covariate_has_a_random_slope():
    """Noise with a full 4 x 4 covariance of twelve groups: a singular fit, not an error."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame(rng.normal(size=(120, 4)), columns=list("yabc"))
    data["g"] = np.repeat(np.arange(12), 10).astype(str)
    result = lmm.fit("y ~ a + b + c", data, groups="g", re_formula="a + b + c")
    X = np.column_stack([np.ones(120), data[["a", "b", "c"]]])
    y, terms = data["y"].to_numpy(), [Term(X, data["g"].to_numpy(str))]
    diagonal = np.array([0, 4, 7, 9])
    starts = [np.isin(np.arange(10), diagonal) * size for size in (0.1, 0.4)]
    best, _ = dense_maximum(y, X, terms, starts)
    assert result.converged
    assert result.singular
    assert np.linalg.eigvalsh(result.cov_re).min() >= -1e-12
    assert result.llf >= best - MAXIMUM_RTOL * abs(best)


def crossed_frame():
    """30 subjects who all meet the same 20 items, once each."""
    rng = np.random.default_rng(9279)
    subject, item = np.repeat(np.arange(30), 20), np.tile(np.arange(20), 30)
    x = rng.normal(size=600)
    y = 5 + 3 * x + 2 * rng.normal(size=30)[subject] + rng.normal(size=20)[item]
    data = pd.DataFrame({"y": y + rng.normal(size=600), "x": x, "all": "a"})
    return data.assign(subject=subject.astype(str), item=item.astype(str))


@pytest.mark.slow
def test_9279_two_components():
    data = crossed_frame()
    components = {"subject": "0 + subject", "item": "0 + item"}
    result = lmm.fit("y ~ x", data, groups="all", re_formula="0", vc_formula=components)
    X = np.column_stack([np.ones(600), data["x"]])
    ones = np.ones((600, 1))
    terms = [Term(ones, data[name].to_numpy(str)) for name in ("subject", "item")]
    best, theta = dense_maximum(data["y"].to_numpy(), X, terms, [[2.0, 1.0]])
    assert result.llf == pytest.approx(best, rel=MAXIMUM_RTOL)
    dense = dense_deviance(X, data["y"].to_numpy(), terms, theta, reml=True)
    expected = theta**2 * dense.sigma**2
    assert_close(result.vcomp[["subject", "item"]], expected, POINT_RTOL)
    assert_close(result.scale, dense.sigma**2, POINT_RTOL)


def test_9279_items_within_subjects_are_another_model():
    """With ``groups="subject"`` the items are nested: one row an item cannot tell their variance
    from the residual one. MixedLM returns a number for it."""
    with pytest.raises(lmm.DataError, match="item"):
        lmm.fit("y ~ x", crossed_frame(), groups="subject", vc_formula={"item": "0 + item"})


# ------------------------------------------------------------------------- no number


def test_a_second_fit_leaves_the_first_result_alone():
    """MixedLM keeps REML or ML in the model: refit, and an earlier result's ``llf`` changes."""
    y, X, g = simulate(2, 0.5)
    design = lmm.design_from_arrays(y, X, g)
    first = lmm.fit(design, reml=True)
    before = json.dumps([first.llf, first.aic, first.bse.tolist(), first.params.tolist()])
    second = lmm.fit(design, reml=False)
    after = json.dumps([first.llf, first.aic, first.bse.tolist(), first.params.tolist()])
    assert before == after
    assert first.llf != second.llf
    fresh = fit(y, X, g)
    assert first.random_effects["groups"].equals(fresh.random_effects["groups"])


@pytest.mark.parametrize("factor", [1e-6, 1e6])
@pytest.mark.parametrize("seed", [9, 2])  # a singular fit and a regular one
def test_units_of_y_change_nothing_but_units(seed, factor):
    """MixedLM warns of the boundary when a variance is below 0.01, in whatever unit."""
    y, X, g = simulate(seed, (0, 0.05, 0.5)[seed % 3])
    plain, scaled = fit(y, X, g), fit(factor * y, X, g)
    assert scaled.converged
    assert scaled.singular == plain.singular == (seed == 9)
    assert_close(scaled.fe_params, factor * plain.fe_params, 1e-9)
    assert_close(scaled.bse_fe, factor * plain.bse_fe, 1e-9)
    assert_close(scaled.cov_re, factor**2 * plain.cov_re, 1e-7)
    assert_close(scaled.bse_re, factor**2 * plain.bse_re, 1e-7)
    assert_close(scaled.params.iloc[3:], factor**2 * plain.params.iloc[3:], 1e-7)
    assert_close(scaled.tvalues, plain.tvalues, 1e-9)
    shift = -(y.size - 3) * np.log(factor)
    assert scaled.llf == pytest.approx(plain.llf + shift, rel=1e-10)


def test_variances_in_params_are_those_of_the_data():
    """MixedLM divides the variances in ``params``, ``bse`` and ``conf_int`` by ``scale``."""
    y, X, g = simulate(2, 0.5)
    result = fit(2 * y, X, g)
    variance = result.cov_re.iloc[0, 0]
    assert result.scale > 3
    assert result.params.iloc[3] == variance
    assert result.cov_re_unscaled.iloc[0, 0] == variance / result.scale
    assert result.bse.iloc[3] == result.bse_re.iloc[0]
    low, high = np.log(result.conf_int().iloc[3])
    assert (low + high) / 2 == pytest.approx(np.log(variance), rel=1e-12)
    assert (high - low) / 2 == pytest.approx(1.959964 * result.bse.iloc[3] / variance, rel=1e-6)


def test_what_has_no_standard_error_has_no_covariance():
    result = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff2"))
    assert result.singular
    matrix = result.cov_params()
    np.testing.assert_array_equal(np.sqrt(np.diag(matrix)), result.bse)
    assert np.isnan(matrix.iloc[1]).all() and np.isnan(matrix.iloc[:, 1]).all()


@pytest.mark.parametrize("unit", [0.1, 100.0, 1e4, 1e-4])
def test_p_values_do_not_depend_on_the_units_of_covariates(unit):
    rng = np.random.default_rng(4)
    A = rng.normal(size=(40, 9))
    information = A.T @ A  # three free covariances, then the lower triangle of a 3 x 3
    c = np.array([1.0, unit, unit**2])
    rows, columns = np.tril_indices(3)
    change = np.append(c, c[rows] * c[columns])
    plain = cone_p_value(3.0, information, 3)
    assert cone_p_value(3.0, information * np.outer(change, change), 3) == pytest.approx(plain)
