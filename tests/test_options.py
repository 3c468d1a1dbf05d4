"""What a fit may be told: start values, methods, masks, penalties, rows."""

import warnings
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import samples
import scipy.optimize
from helpers import Term, assert_close, dense_gls, random_root

import lmm_jax as lmm
from lmm_jax.layouts.crossed import index as crossed
from lmm_jax.likelihood.profile import profile_jet
from lmm_jax.optimize import history
from lmm_jax.penalties import L2, LogDet, SmoothL1, SmoothSCAD

OPTIMUM_RTOL = 1e-8  # deviance of two converged runs: each within 1e-9 of the optimum
PARAM_RTOL = 1e-4  # estimates of two such runs: the root of that over a curvature of order one
RTOL = 1e-9  # two float64 routes to one number
DENSE_RTOL = 1e-7  # llf of a dense maximization by Nelder-Mead and BFGS: less tight than ours

DATA = samples.frame()
FORMULA = "y ~ x + (x | g)"
G = DATA["g"].to_numpy()
ONE = np.ones((len(DATA), 1))
X = np.column_stack([ONE, DATA["x"]])
Y = DATA["y"].to_numpy()
START = lmm.Params.from_components(fe_params=[0.5, 1.0], cov_re=[[1.0, 0.2], [0.2, 0.5]])


@cache
def design():
    return lmm.design(FORMULA, DATA)


@cache
def plain(reml=True):
    return lmm.fit(design(), reml=reml)


def fit(**options):
    return lmm.fit(design(), **options)


def in_x64(function, *arguments, **options):
    with jax.enable_x64(True):
        return float(function(*arguments, **options))


def assert_same_optimum(actual, expected):
    assert actual.converged
    assert actual.llf == pytest.approx(expected.llf, rel=OPTIMUM_RTOL)
    scale = np.abs(expected.params).max()
    assert_close(actual.params, expected.params, PARAM_RTOL, scale=scale)


# ------------------------------------------------------------ dense maximization

Z = random_root([Term(X, G)], np.eye(2)[np.triu_indices(2)])[0]


def dense_criterion(cov, *, reml, beta=None, y=Y, X=X):
    """-2 log-likelihood at a relative covariance; beta profiled, or as given."""
    V = np.eye(60) + Z @ np.kron(np.eye(10), cov) @ Z.T
    if beta is None:
        return dense_gls(X, y, V, reml=reml).criterion
    H = X.T @ np.linalg.solve(V, X)
    r = y - X @ beta
    nu = 60 - X.shape[1] * reml
    rss = r @ np.linalg.solve(V, r)
    value = nu * (1 + np.log(2 * np.pi * rss / nu)) + np.linalg.slogdet(V)[1]
    return value + (np.linalg.slogdet(H)[1] if reml else 0)


def dense_minimum(function, start):
    """Derivative-free, then from its optimum again."""
    best = start
    for _ in range(3):
        best = scipy.optimize.minimize(
            function, best, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-11}
        ).x
    return function(best)


# ------------------------------------------------------------ start values and methods


STARTS = {
    "Params": START,
    "without fixed effects": lmm.Params.from_components(cov_re=np.eye(2)),
    "packed": np.array([0.5, 1.0, 1.0, 0.2, 0.5]),
    "packed without fixed effects": [1.0, 0.2, 0.5],
    "singular": [1.0, 0.5, 0.25],
    "zero": [0.0, 0.0, 0.0],
}


@pytest.mark.parametrize("name", STARTS)
def test_any_start_leads_to_the_optimum(name):
    assert_same_optimum(fit(start_params=STARTS[name]), plain())


def test_the_optimum_as_start_is_done_at_once():
    again = fit(start_params=np.append(plain().fe_params, plain().cov_re_unscaled.to_numpy()[
        np.tril_indices(2)
    ]))  # fmt: skip
    assert_same_optimum(again, plain())
    assert again.n_iter <= 2


def test_maxiter_zero_gives_the_model_at_its_start():
    with jax.enable_x64(True):
        packed = np.asarray(lmm.pack(START, with_fe=False))
    for start in (START, packed):
        for reml in (True, False):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                result = fit(start_params=start, maxiter=0, reml=reml)
            expected = in_x64(lmm.loglike, packed, design().layout, reml=reml)
            assert result.llf == pytest.approx(expected, rel=1e-12)
            assert_close(result.cov_re_unscaled, START.cov_re, RTOL)
            assert not result.converged
            assert result.n_iter == 0
    with jax.enable_x64(True):
        cov = jnp.asarray(START.cov_re)
        beta = lmm.get_fe_params(cov, jnp.zeros(0), design().layout)
        scale = lmm.get_scale(beta, cov, jnp.zeros(0), design().layout, reml=False)
    assert_close(result.fe_params, beta, RTOL)
    assert result.scale == pytest.approx(float(scale), rel=RTOL)


@pytest.mark.parametrize("runtime", ["numpy", "jax"])
@pytest.mark.parametrize(
    ("method", "reml"),
    [("newton", True), ("newton", False), ("lbfgs", True), ("bfgs", False), ("LIST", True)],
)
def test_methods_share_an_optimum(method, reml, runtime):
    method = ["lbfgs", "newton"] if method == "LIST" else method
    found = fit(method=method, reml=reml, runtime=runtime)
    assert found.runtime == runtime
    assert_same_optimum(found, plain(reml))


@pytest.mark.parametrize("runtime", ["numpy", "jax"])
@pytest.mark.parametrize("method", ["newton", "lbfgs", "bfgs"])
def test_no_step_gives_the_model_at_its_start(method, runtime):
    found = fit(method=method, runtime=runtime, maxiter=0, start_params=[0.5, 0.1, 0.4])
    assert found.n_iter == 0
    assert_close(found.cov_re / found.scale, [[0.5, 0.1], [0.1, 0.4]], RTOL)


@pytest.mark.parametrize("method", ["lbfgs", "bfgs"])
@pytest.mark.parametrize("start", [[0.0, 0.0, 0.0], [1e8, 0.0, 1e8]])
def test_awkward_starts_of_first_order_methods(method, start):
    """A stationary point that is no minimum, and one far away: Newton's steps go on from there."""
    assert_same_optimum(fit(method=method, start_params=start), plain(True))


def test_too_few_steps_are_reported():
    with pytest.warns(lmm.ConvergenceWarning, match=r"iteration limit.*\(x \| g\)"):
        result = fit(maxiter=1, start_params=[50.0, 0.0, 50.0])
    assert not result.converged


def test_a_retry_is_announced():
    """Newton with a tolerance that nothing reaches gives way to the next of the list."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = fit(method=["newton", "bfgs"], maxiter=2, start_params=[50.0, 0.0, 50.0])
    messages = [str(w.message) for w in caught]
    assert any("'newton' did not converge, trying 'bfgs'" in m for m in messages)
    assert all(w.category is lmm.ConvergenceWarning for w in caught)
    assert caught[0].filename == __file__
    assert result.n_iter > 0


def test_a_looser_gtol_takes_fewer_steps():
    loose = fit(gtol=1e-1, start_params=[50.0, 0.0, 50.0])
    tight = fit(start_params=[50.0, 0.0, 50.0])
    assert loose.converged
    assert loose.n_iter < tight.n_iter
    assert loose.llf == pytest.approx(tight.llf, abs=0.1)


# ------------------------------------------------------------ history


def check_history(result):
    """Runs in order, a row a step and one a start, none of them above the one before."""
    hist = result.hist
    m = result.theta.size
    assert list(hist.columns) == [
        "run", "iteration", "objective", "gradient_norm", *(f"theta_{j}" for j in range(m)),
    ]  # fmt: skip
    ends = []
    for _, run in hist.groupby("run"):
        assert run["iteration"].tolist() == list(range(len(run)))
        assert (np.diff(run["objective"]) <= 1e-9 * abs(run["objective"].iloc[0])).all()
        ends.append(run["objective"].iloc[-1])
    assert len(hist) == result.n_iter + len(ends)
    assert -2 * result.llf == pytest.approx(min(ends), rel=OPTIMUM_RTOL)
    assert np.isfinite(hist.to_numpy()).all()
    return ends


@pytest.mark.parametrize(
    ("method", "runtime"),
    [("newton", "numpy"), ("lbfgs", "numpy"), ("bfgs", "numpy"), ("lbfgs", "jax"), ("bfgs", "jax")],
)
def test_history(method, runtime):
    """The fit that is recorded is the fit: the same optimum.

    To the last digit, but for NumPy, which runs starts side by side unless it records them: its
    sums have another order then, and runs that need no end have none.
    """
    fit = partial(lmm.fit, design(), method=method, runtime=runtime)  # digits are compared
    result = fit(full_output=True)
    ends = check_history(result)
    assert len(ends) >= (1 if method == "newton" else 2)  # first-order methods are polished
    assert result.hist["gradient_norm"].iloc[-1] < 1e-2
    alone = fit()
    if method == "newton":  # side by side a run ends where another has found its optimum
        assert alone.n_iter < result.n_iter
    else:
        assert alone.n_iter == result.n_iter
    assert_close(alone.params, result.params, 1e-13 if method == "newton" else 0)
    layout = jax.tree.map(np.asarray, result.design.compressed.layout)
    for row in result.hist.iloc[[0, -1]].itertuples():  # every row is what it says
        value = profile_jet(np.array(row[5:]), layout, reml=True).value
        assert row.objective == pytest.approx(float(value), rel=1e-12)


def test_history_has_the_challenge_of_a_boundary():
    """A run that ends at a zero variance is followed by one from the interior."""
    noise = np.random.default_rng(2).normal(size=len(DATA))
    result = lmm.fit("noise ~ x + (x | g)", DATA.assign(noise=noise), full_output=True)
    assert result.singular and result.converged
    assert len(check_history(result)) >= 2


def test_history_of_steps_on_the_average_information(monkeypatch):
    """A dear layout is recorded as it is fitted, step by step from the host."""
    rng = np.random.default_rng(0)
    data = DATA.assign(item=rng.integers(0, 7, len(DATA)))
    formula = "y ~ x + (1 | g) + (1 | item)"
    exact = lmm.fit(formula, data, full_output=True)
    check_history(exact)
    monkeypatch.setattr(crossed, "_DEAR", 0)
    staged = lmm.fit(formula, data, full_output=True)
    assert staged.design.layout.is_dear()
    check_history(staged)
    assert not np.allclose(
        staged.hist["theta_0"].iloc[:2], exact.hist["theta_0"].iloc[:2], rtol=1e-6
    )


def test_history_without_steps():
    result = fit(full_output=True, maxiter=0)
    assert result.n_iter == 0
    assert (result.hist["iteration"] == 0).all()


def test_history_of_a_penalized_fit():
    result = fit(cov_pen=LogDet(), full_output=True)
    assert (np.diff(result.hist["objective"]) <= 1e-9).all()
    with jax.enable_x64(True):
        penalty = float(LogDet()(jnp.asarray(result.cov_re_unscaled.to_numpy())))
    assert result.hist["objective"].iloc[-1] == pytest.approx(-2 * result.llf + 2 * penalty)


def test_no_history_unless_asked():
    assert plain().hist is None
    assert history._ROWS == {}  # nothing is left of those that were asked for


# ------------------------------------------------------------ programs


SMALL = "y ~ x + (1 | g)"  # one parameter: quick to compile


def ridge(weight):
    return lambda beta: weight * jnp.sum(beta**2)


OFTEN = {
    "newton": dict,
    "lbfgs": lambda: {"method": "lbfgs"},
    "bfgs": lambda: {"method": "bfgs"},
    "history": lambda: {"full_output": True},
    "history of lbfgs": lambda: {"method": "lbfgs", "full_output": True},
    "a lambda": lambda: {"fe_pen": lambda beta: 0.1 * jnp.sum(beta**2)},
    "what a function returns": lambda: {"fe_pen": ridge(0.2)},
    "a partial function": lambda: {"cov_pen": partial(lambda a, c: a * jnp.trace(c), 0.1)},
    "a penalty of the library": lambda: {"fe_pen": L2(weights=np.array([0.0, 0.1]))},
}


@pytest.mark.parametrize("options", OFTEN.values(), ids=OFTEN)
def test_a_second_call_compiles_nothing(options, compiled):
    first = lmm.fit(SMALL, samples.frame(1), **options())
    before = len(compiled())
    lmm.fit(SMALL, samples.frame(3), **options())
    assert compiled()[before:] == []
    again = lmm.fit(SMALL, samples.frame(1), **options())
    np.testing.assert_array_equal(first.params, again.params)


def test_a_penalty_is_known_by_what_it_computes():
    """The same function gives another program once what it closes over has changed."""
    model = lmm.design(SMALL, DATA)
    fit = partial(lmm.fit, model)
    weight = 0.0

    def penalty(beta):
        return weight * jnp.sum(beta**2)

    first = fit(fe_pen=penalty)
    weight = 5.0
    second = fit(fe_pen=penalty)
    assert np.abs(second.fe_params).sum() < 0.9 * np.abs(first.fe_params).sum()
    expected = fit(fe_pen=L2(weights=np.full(2, 5.0)))
    np.testing.assert_allclose(second.fe_params, expected.fe_params, rtol=1e-8)
    large = np.zeros(5000)

    def of_many(beta):
        return jnp.sum(jnp.asarray(large)) * jnp.sum(beta**2)

    third = fit(fe_pen=of_many)
    large = large.copy()
    large[2500] = 5.0
    np.testing.assert_allclose(third.fe_params, first.fe_params, rtol=1e-8)
    np.testing.assert_allclose(fit(fe_pen=of_many).fe_params, expected.fe_params, rtol=1e-8)


# ------------------------------------------------------------ parameters held fixed


def free(fe=(1, 1), cov=((1, 1), (1, 1))):
    return lmm.Params.from_components(fe_params=fe, cov_re=cov)


def start(fe=(0, 0), cov=((1, 0), (0, 1))):
    return lmm.Params.from_components(fe_params=fe, cov_re=cov)


def test_everything_free_is_the_plain_fit():
    for mask in (free(), lmm.Params.from_components(cov_re=np.ones((2, 2)))):
        result = fit(free=mask)
        assert_same_optimum(result, plain())
        assert result.aic == pytest.approx(plain().aic, rel=OPTIMUM_RTOL)
        assert_close(result.bse, plain().bse, PARAM_RTOL)


@pytest.mark.parametrize("reml", [True, False])
def test_an_independent_mask_equals_the_double_bar(reml):
    result = fit(free=free(cov=np.eye(2)), reml=reml)
    expected = lmm.fit("y ~ x + (x || g)", DATA, reml=reml)
    assert result.converged
    assert result.llf == pytest.approx(expected.llf, rel=OPTIMUM_RTOL)
    assert_close(result.fe_params, expected.fe_params, PARAM_RTOL)
    assert_close(result.cov_re, expected.cov_re, PARAM_RTOL, scale=1e-6)
    assert abs(result.cov_re.iloc[0, 1]) < 1e-15
    assert result.bse["cov(Intercept,x|g)"] == 0
    assert_close(result.bse.drop("cov(Intercept,x|g)"), expected.bse, PARAM_RTOL)
    assert result.aic == pytest.approx(expected.aic, rel=OPTIMUM_RTOL)
    assert result.bic == pytest.approx(expected.bic, rel=OPTIMUM_RTOL)


def test_a_fixed_variance_equals_dense():
    """The intercept's relative variance at 0.3, the rest of the covariance free."""
    given = start(cov=[[0.3, 0.1], [0.1, 0.5]])
    result = fit(free=free(cov=[[0, 1], [1, 1]]), start_params=given)
    assert result.cov_re_unscaled.iloc[0, 0] == pytest.approx(0.3, rel=1e-10)

    def criterion(x):
        root = np.array([[np.sqrt(0.3), 0], x])
        return dense_criterion(root @ root.T, reml=True)

    assert -2 * result.llf == pytest.approx(dense_minimum(criterion, [0.1, 0.5]), rel=DENSE_RTOL)
    assert result.bse["var(Intercept|g)"] == 0
    assert (result.bse[["cov(Intercept,x|g)", "var(x|g)"]] > 0).all()
    assert result.n_params == plain().n_params - 1


def test_two_fixed_variances_with_a_free_covariance():
    given = start(cov=[[0.8, 0.0], [0.0, 0.5]])
    result = fit(free=free(cov=[[0, 1], [1, 0]]), start_params=given)
    relative = result.cov_re_unscaled.to_numpy()
    assert_close(np.diagonal(relative), [0.8, 0.5], 1e-10)
    assert relative[0, 1] != 0

    def criterion(c):
        return dense_criterion(np.array([[0.8, c], [c, 0.5]]), reml=True)

    limit = np.sqrt(0.4) * (1 - 1e-9)
    found = scipy.optimize.minimize_scalar(
        criterion, bounds=(-limit, limit), method="bounded", options={"xatol": 1e-10}
    )
    assert -2 * result.llf == pytest.approx(found.fun, rel=DENSE_RTOL)
    assert relative[0, 1] == pytest.approx(found.x, rel=1e-4)
    assert result.bse[["var(Intercept|g)", "var(x|g)"]].tolist() == [0, 0]
    assert result.bse["cov(Intercept,x|g)"] > 0


def test_a_covariance_fixed_with_free_variances():
    given = start(cov=[[1.0, 0.15], [0.15, 1.0]])
    result = fit(free=free(cov=np.eye(2)), start_params=given)
    assert result.cov_re_unscaled.iloc[0, 1] == pytest.approx(0.15, rel=1e-10)

    def criterion(x):
        a, b = np.exp(x)
        if a * b < 0.15**2:
            return np.inf
        return dense_criterion(np.array([[a, 0.15], [0.15, b]]), reml=True)

    assert -2 * result.llf == pytest.approx(dense_minimum(criterion, [0.0, 0.0]), rel=DENSE_RTOL)


@pytest.mark.parametrize("reml", [True, False])
def test_a_fixed_coefficient_equals_an_offset(reml):
    result = fit(free=free(fe=[1, 0]), start_params=start(fe=[0, 1.5]), reml=reml)
    moved = DATA.assign(o=1.5 * DATA["x"])
    expected = lmm.fit("y ~ 1 + (x | g)", moved, offset="o", reml=reml)
    assert result.fe_params["x"] == 1.5
    assert result.bse["x"] == 0
    assert result.llf == pytest.approx(expected.llf, rel=OPTIMUM_RTOL)
    assert result.fe_params["Intercept"] == pytest.approx(
        expected.fe_params["Intercept"], rel=PARAM_RTOL
    )
    assert_close(result.cov_re, expected.cov_re, PARAM_RTOL, scale=1.0)
    assert result.aic == pytest.approx(expected.aic, rel=OPTIMUM_RTOL)
    assert_close(result.fittedvalues, expected.fittedvalues, PARAM_RTOL, scale=1.0)
    assert_close(result.resid, expected.resid, PARAM_RTOL, scale=1.0)


def test_a_coefficient_is_fixed_at_zero_without_a_start():
    result = fit(free=free(fe=[1, 0]))
    expected = lmm.fit("y ~ 1 + (x | g)", DATA)
    assert result.fe_params["x"] == 0
    assert result.llf == pytest.approx(expected.llf, rel=OPTIMUM_RTOL)


def test_nothing_free():
    """Only the residual variance is left to estimate."""
    given = start(fe=[1.0, 2.0], cov=[[0.9, 0.1], [0.1, 0.4]])
    nothing = free(fe=[0, 0], cov=np.zeros((2, 2)))
    result = fit(free=nothing, start_params=given, reml=False)
    expected = dense_criterion(given.cov_re, reml=False, beta=given.fe_params)
    assert result.converged
    assert -2 * result.llf == pytest.approx(expected, rel=RTOL)
    assert_close(result.fe_params, [1, 2], 0)
    assert_close(result.cov_re_unscaled, given.cov_re, RTOL)
    assert (result.bse == 0).all()
    assert result.n_params == 1
    assert result.aic == pytest.approx(expected + 2, rel=RTOL)


def test_a_fixed_component():
    def vc(**options):
        model = {"groups": "g", "re_formula": "1", "vc_formula": {"s": "0 + C(s)"}}
        return lmm.fit("y ~ x", DATA, **model, **options)

    mask = lmm.Params.from_components(fe_params=[1, 1], cov_re=[[1]], vcomp=[0])
    given = lmm.Params.from_components(fe_params=[0, 0], cov_re=[[1.0]], vcomp=[0.25])
    result = vc(free=mask, start_params=given)
    assert result.vcomp["s"] / result.scale == pytest.approx(0.25, rel=1e-10)
    assert result.bse["var(s)"] == 0
    sub = DATA[["g", "s"]].agg(":".join, axis=1).to_numpy()
    one, two = (random_root([Term(ONE, labels)], [1.0])[0] for labels in (G, sub))

    def criterion(t):
        V = np.eye(60) + np.exp(t) * one @ one.T + 0.25 * two @ two.T
        L = np.linalg.cholesky(V)
        Xw, yw = np.linalg.solve(L, X), np.linalg.solve(L, Y)
        rss = np.linalg.lstsq(Xw, yw, rcond=None)[1][0]
        extra = np.linalg.slogdet(V)[1] + np.linalg.slogdet(Xw.T @ Xw)[1]
        return 58 * (1 + np.log(2 * np.pi * rss / 58)) + extra

    found = scipy.optimize.minimize_scalar(criterion, bounds=(-5, 5), method="bounded")
    assert -2 * result.llf == pytest.approx(found.fun, rel=DENSE_RTOL)


# ------------------------------------------------------------ penalties


def quadratic(results):
    """X'V^-1X and X'V^-1y at the relative covariance of a fit."""
    V = np.eye(60) + Z @ np.kron(np.eye(10), results.cov_re_unscaled) @ Z.T
    solved = np.linalg.solve(V, np.column_stack([X, Y]))
    return X.T @ solved[:, :2], X.T @ solved[:, 2]


@pytest.mark.parametrize(
    ("options", "reml"),
    [
        ({"fe_pen": L2(weights=np.zeros(2))}, True),
        ({"fe_pen": L2(weights=np.zeros(2))}, False),
        ({"cov_pen": LogDet(weight=0.0)}, True),
    ],
)
def test_a_zero_penalty_changes_nothing(options, reml):
    """The likelihood joint in the fixed effects."""
    assert_same_optimum(fit(reml=reml, **options), plain(reml))


def test_a_zero_penalty_that_is_a_plain_function_changes_nothing():
    free = lmm.fit(SMALL, DATA, cov_pen=lambda cov: 0.0 * jnp.sum(cov))
    assert_same_optimum(free, lmm.fit(SMALL, DATA))


@pytest.mark.parametrize("reml", [True, False])
def test_ridge_solves_its_normal_equations(reml):
    """``(X'V^-1X / s2 + 2 W) beta = X'V^-1y / s2`` at the fitted covariance and scale."""
    weights = np.array([0.0, 3.0])
    result = fit(fe_pen=L2(weights=weights), reml=reml)
    H, b = quadratic(result)
    expected = np.linalg.solve(H / result.scale + 2 * np.diag(weights), b / result.scale)
    assert_close(result.fe_params, expected, 1e-6)
    assert abs(result.fe_params["x"]) < abs(plain(reml).fe_params["x"])


def joint_objective(params, penalty, reml):
    """-2 log-likelihood + 2 penalty at fixed effects and relative covariance, dense."""
    root = np.array([[params[2], 0], params[3:]])
    with jax.enable_x64(True):
        extra = 2 * float(penalty(jnp.asarray(params[:2])))
    return dense_criterion(root @ root.T, reml=reml, beta=params[:2]) + extra


def packed_root(results):
    L = np.linalg.cholesky(results.cov_re_unscaled.to_numpy())
    return np.concatenate([results.fe_params, L[np.tril_indices(2)]])


def test_the_joint_optimum_is_below_one_step_of_alternation():
    """Penalized coefficients at the unpenalized covariance do not do as well."""
    penalty = L2(weights=np.array([0.0, 3.0]))
    joint = joint_objective(packed_root(fit(fe_pen=penalty)), penalty, True)
    H, b = quadratic(plain())
    s2 = plain().scale
    at = packed_root(plain())
    at[:2] = np.linalg.solve(H / s2 + np.diag([0.0, 6.0]), b / s2)
    assert joint < joint_objective(at, penalty, True) - 1e-3
    rng = np.random.default_rng(0)
    best = packed_root(fit(fe_pen=penalty))
    for size in (1e-3, 1e-2, 1e-1):
        for _ in range(20):
            assert joint < joint_objective(best + size * rng.normal(size=5), penalty, True)


def test_smooth_l1_comes_close_to_the_exact_lasso():
    """Its limit: ``|x'V^-1 r| / s2 = w`` for a coefficient that is not zero, or 0."""
    w = 2.0
    result = fit(fe_pen=SmoothL1(weights=np.array([0.0, w]), eps=1e-5))
    H, b = quadratic(result)
    slope = (b - H @ result.fe_params.to_numpy()) / result.scale
    assert_close(slope, [0, w], 1e-5, scale=1.0)
    heavy = fit(fe_pen=SmoothL1(weights=np.array([0.0, 40.0]), eps=1e-4))
    assert abs(heavy.fe_params["x"]) < 1e-3


def test_fixed_and_random_penalties_together():
    result = fit(fe_pen=L2(weights=1.0), cov_pen=LogDet())
    assert result.converged
    assert result.llf < plain().llf


PENALTIES = {
    "L2": L2(weights=np.array([0.5, 2.0, 1.0])),
    "SmoothL1": SmoothL1(weights=np.array([0.5, 2.0, 1.0]), eps=1e-2),
    "SmoothSCAD": SmoothSCAD(weights=np.array([0.5, 2.0, 1.0]), tau=0.4, eps=1e-2),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_derivatives_of_penalties(name):
    penalty, step = PENALTIES[name], 1e-6
    with jax.enable_x64(True):
        value, slope = jax.jit(lambda at: penalty(at)), jax.jit(jax.grad(lambda at: penalty(at)))
        for at in ([0.1, -0.2, 0.0], [0.6, -1.0, 1.2], [3.0, -5.0, 1e-3]):
            at, moves = np.array(at), step * np.eye(3)
            differences = [(value(at + m) - value(at - m)) / (2 * step) for m in moves]
            assert_close(slope(at), differences, 1e-7, scale=1.0)
            assert float(value(at)) >= 0
            assert float(value(at)) == pytest.approx(float(value(-at)), rel=1e-14)
        assert float(value(np.zeros(3))) == 0


def test_scad_joins_smoothly():
    """Value and slope are continuous at tau and c tau; constant beyond."""
    penalty = SmoothSCAD(weights=1.0, tau=0.5, c=3.0, eps=1e-6)
    with jax.enable_x64(True):
        slope = jax.grad(lambda b: penalty(b))
        for knot in (0.5, 1.5):
            low, high = jnp.array([knot - 1e-7]), jnp.array([knot + 1e-7])
            assert float(penalty(high) - penalty(low)) == pytest.approx(0, abs=2e-7)
            assert float((slope(high) - slope(low))[0]) == pytest.approx(0, abs=1e-5)
        assert float(slope(jnp.array([0.3]))[0]) == pytest.approx(0.5, rel=1e-6)
        assert float(slope(jnp.array([2.0]))[0]) == 0
        expected = 0.5 * 0.5**2 * 4  # (c + 1) tau^2 / 2
        assert float(penalty(jnp.array([10.0]))) == pytest.approx(expected, rel=1e-12)


def singular_response():
    """No variation of slopes: the plain fit is on the boundary."""
    rng = np.random.default_rng(0)
    return (
        1
        + 2 * DATA["x"].to_numpy()
        + rng.normal(size=10)[np.repeat(np.arange(10), 6)]
        + (rng.normal(size=60))
    )


def test_logdet_keeps_a_covariance_off_the_boundary():
    y = singular_response()
    model = lmm.design(FORMULA, DATA.assign(y=y))
    assert lmm.fit(model).singular
    result = lmm.fit(model, cov_pen=LogDet())
    assert result.converged
    assert not result.singular
    assert np.linalg.eigvalsh(result.cov_re).min() > 1e-3

    def criterion(x):
        root = np.array([[np.exp(x[0]), 0], [x[1], np.exp(x[2])]])
        # LogDet has weight 1/2: 2 * (-1/2 log|cov|)
        return dense_criterion(root @ root.T, reml=True, y=y) - 2 * (x[0] + x[2])

    lowest = dense_minimum(criterion, [0.0, 0.0, -1.0])
    L = np.linalg.cholesky(result.cov_re_unscaled.to_numpy())
    ours = -2 * result.llf - 2 * np.log(np.diagonal(L)).sum()
    assert ours == pytest.approx(lowest, rel=DENSE_RTOL)


def test_penalties_with_a_mask():
    """A penalty over what is free only."""
    result = fit(free=free(cov=np.eye(2)), cov_pen=LogDet())
    expected = lmm.fit("y ~ x + (x || g)", DATA, cov_pen=LogDet())
    assert abs(result.cov_re.iloc[0, 1]) < 1e-15
    assert result.llf == pytest.approx(expected.llf, rel=OPTIMUM_RTOL)


# ------------------------------------------------------------ rows


KEPT = np.arange(60) % 7 != 3
SUBSETS = {
    "mask": KEPT,
    "series": pd.Series(KEPT, index=DATA.index),
    "labels": DATA.index[KEPT],
    "query": "u == 1",
}


@pytest.mark.parametrize("name", SUBSETS)
def test_a_subset_equals_the_fit_to_its_rows(name):
    data = DATA.assign(u=KEPT.astype(int))
    result = lmm.fit(FORMULA, data, subset=SUBSETS[name], weights="w", offset=DATA["o"].to_numpy())
    rows = data[KEPT]
    expected = lmm.fit(FORMULA, rows, weights="w", offset=rows["o"].to_numpy())
    assert result.nobs == KEPT.sum()
    assert_close(result.params, expected.params, 0)
    assert result.resid.index.equals(rows.index)


def with_gaps():
    data = DATA.set_index(pd.Index([f"r{i}" for i in range(60)]))
    data.loc["r3", "y"] = np.nan
    data.loc["r17", "x"] = np.nan
    data.loc["r30", "g"] = None
    data.loc["r50", "z"] = np.nan  # not in the model
    return data


def test_rows_with_missing_values_are_dropped():
    data = with_gaps()
    result = lmm.fit(FORMULA, data)
    complete = data.dropna(subset=["y", "x", "g"])
    expected = lmm.fit(FORMULA, complete)
    assert result.nobs == 57
    assert result.design.n_missing == 3
    assert_close(result.params, expected.params, 0)
    for part in (result.resid, result.fittedvalues, result.predict(), result.augment()):
        assert part.index.equals(complete.index)
    assert_close(result.fittedvalues + result.resid, complete["y"], 1e-12, scale=1.0)


@pytest.mark.parametrize("missing", ["raise", "none"])
def test_missing_values_may_be_refused(missing):
    with pytest.raises(lmm.DataError):
        lmm.fit(FORMULA, with_gaps(), missing=missing)


@pytest.mark.parametrize("missing", ["raise", "none", "drop"])
def test_complete_data_are_the_same_in_every_mode(missing):
    assert_close(lmm.fit(FORMULA, DATA, missing=missing).params, plain().params, RTOL, scale=1.0)


def test_a_design_is_not_changed_by_fits():
    model = lmm.design(FORMULA, DATA)
    before = model.endog.copy(), model.exog.copy()
    layout = model.layout
    leaves = [np.array(leaf) for leaf in jax.tree.leaves(layout)]
    first = lmm.fit(model, runtime="numpy")
    lmm.fit(model, free=free(fe=[1, 0]), start_params=start(fe=[0, 9.0]))
    lmm.fit(model, cov_pen=LogDet())
    second = lmm.fit(model, runtime="numpy")
    assert_close(second.params, first.params, 0)
    assert model.held is None
    assert_close(model.endog, before[0], 0)
    assert_close(model.exog, before[1], 0)
    assert model.layout is layout
    for now, then in zip(jax.tree.leaves(layout), leaves, strict=True):
        assert_close(now, then, 0)


# ------------------------------------------------------------ refusals


BAD = [
    ({"start_params": np.ones(4)}, r"start_params has the shape \(4,\): pass 5 values"),
    ({"start_params": np.ones((1, 5))}, r"start_params has the shape \(1, 5\)"),
    (
        {"start_params": lmm.Params.from_components(cov_re=np.eye(3))},
        r"of shape \(3, 3\): cov_re",
    ),
    (
        {"start_params": lmm.Params.from_components(np.ones(3), np.eye(2))},
        r"fe_params of shape \(3,\)",
    ),
    ({"free": lmm.Params.from_components(cov_re=np.eye(3))}, "free has cov_re"),
    ({"free": lmm.Params.from_components(cov_re=[[1, 1], [0, 1]])}, "must be symmetric"),
    ({"method": "powell"}, "method='powell': choose from newton, lbfgs, bfgs"),
    ({"method": ["newton", "powell"]}, "method='powell'"),
    ({"method": []}, "method is empty"),
    ({"fe_pen": 3.0}, r"fe_pen=3\.0: a function"),
    ({"df_method": "wald"}, "df_method='wald'"),
    ({"subset": np.ones(60, bool)}, "pass no data arguments"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_options(options, message):
    with pytest.raises(lmm.DataError, match=message):
        fit(**options)


BAD_ROWS = [
    ({"subset": KEPT[:50]}, "subset"),
    ({"subset": ["r1"]}, "not in the index"),
    ({"subset": "nothing > 1"}, "cannot be evaluated"),
    ({"missing": "maybe"}, "missing"),
]


@pytest.mark.parametrize(("options", "message"), BAD_ROWS)
def test_bad_rows(options, message):
    with pytest.raises(lmm.DataError, match=message):
        lmm.fit(FORMULA, DATA, **options)


def test_a_fit_is_a_start_and_its_params_are_none():
    """Variances of the data would be read as relative to the residual variance."""
    res = plain()
    assert_close(fit(start_params=res, maxiter=0).llf, res.llf, 1e-10)
    with pytest.raises(lmm.DataError, match="pass the fit, start_params=res"):
        fit(start_params=res.params)
