"""L1-penalized fixed effects: optimality, closed forms, and statsmodels' own numbers."""

import pickle
from functools import cache

import numpy as np
import pandas as pd
import pytest
import samples
from helpers import Term, assert_close, random_root
from scipy.stats import norm

import lmm_jax as lmm
from lmm_jax import Params, RegularizedPath, RegularizedResults, fit_regularized
from lmm_jax.inference.df.satterthwaite import satterthwaite_df
from lmm_jax.optimize.lasso import Descent, Quadratic, descend
from lmm_jax.penalties import L2

KKT = 1e-8  # violation of the optimality conditions relative to the gradient at zero
RTOL = 1e-9  # two float64 routes to one solution of a well-conditioned system
UNIT_RTOL = 1e-6  # two fits in other units: each stops at a Newton decrement of 1e-9
STATSMODELS = 2e-5  # its covariance comes from a first-order optimizer with gtol 1e-5

DATA = samples.frame()
FORMULA = "y ~ x + z + v + o + (x | g)"
NAMES = ["Intercept", "x", "z", "v", "o"]


@cache
def design():
    return lmm.design(FORMULA, DATA)


@cache
def plain(reml=True):
    return lmm.fit(design(), reml=reml)


def regularized(alpha, **options):
    return fit_regularized(design(), alpha=alpha, **options)


def dense_quadratic(results):
    """X'V^-1X and X'V^-1y at a fit's covariance, V in the units of the data."""
    d = results.design
    terms = [
        Term(t.values[:, 0, :], np.asarray(t.levels.astype(str))[t.codes[:, 0]]) for t in d.terms
    ]
    root = random_root(terms, results.theta)
    V = results.scale * (np.eye(d.nobs) + (root[0] @ root[1]) @ (root[0] @ root[1]).T)
    solved = np.linalg.solve(V, np.column_stack([d.exog, d.endog]))
    gram = d.exog.T @ solved
    return gram[:, :-1], gram[:, -1], V


def violation(H, b, beta, alpha):
    """Largest distance of the subgradient from 0, relative to the gradient at beta = 0."""
    slope = 2 * (H @ beta - b)
    distance = np.where(
        beta == 0, np.maximum(np.abs(slope) - alpha, 0), np.abs(slope + alpha * np.sign(beta))
    )
    unit = np.sqrt(np.diagonal(H))
    return np.max(distance / unit) / max(1, np.max(np.abs(b) / unit))


# ------------------------------------------------------------ the solution


ALPHAS = {
    "zero": 0.0,
    "all": 4.0,
    "free intercept": [0.0, 6, 6, 6, 6],
    "two free": [0.0, 60, 0, 6, 30],
    "huge": 1e6,
    "mixed": [0.0, 1e5, 2, 2, 2],
}


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", ALPHAS)
def test_optimality_at_the_dense_covariance(name, reml):
    alpha = np.broadcast_to(ALPHAS[name], 5)
    result = regularized(ALPHAS[name], reml=reml)
    H, b, _ = dense_quadratic(plain(reml))
    beta = result.fe_params.to_numpy()
    assert result.converged
    assert result.kkt < KKT
    assert violation(H, b, beta, alpha) < KKT
    assert (result.nonzero.to_numpy() == (beta != 0)).all()
    assert beta[alpha == 0].all()


@pytest.mark.parametrize("reml", [True, False])
def test_zero_weights_give_the_gls_estimate(reml):
    result, expected = regularized(0.0, reml=reml), plain(reml)
    assert_close(result.fe_params, expected.fe_params, RTOL)
    assert_close(result.params, expected.params, RTOL)
    assert_close(result.bse_fe, expected.bse_fe, RTOL)
    assert_close(result.cov_params(), expected.cov_params(), RTOL, scale=1e-6)
    assert result.llf == pytest.approx(expected.llf, rel=1e-12)
    assert result.kkt < 1e-12


def test_huge_weights_leave_the_unpenalized_coefficients():
    """Equal to the fit without the others at that covariance."""
    result = regularized([0.0, 0, 1e9, 1e9, 1e9])
    H, b, _ = dense_quadratic(plain())
    assert result.fe_params.index[result.nonzero].tolist() == ["Intercept", "x"]
    assert_close(result.fe_params.iloc[:2], np.linalg.solve(H[:2, :2], b[:2]), RTOL)
    assert (result.fe_params.iloc[2:] == 0).all()
    assert not np.signbit(result.fe_params.iloc[2:]).any()
    cov = np.linalg.inv(H[:2, :2])
    assert_close(result.cov_params().iloc[:2, :2], cov, RTOL)
    assert_close(result.bse_fe.iloc[:2], np.sqrt(np.diagonal(cov)), RTOL)


def test_what_the_penalty_leaves_is_tested_beside_what_it_removes():
    """Removed coefficients are the constant 0: covariances are those of the columns that stay."""
    data = DATA.assign(f=np.tile(["a", "b", "c"], len(DATA))[: len(DATA)])
    model = "y ~ x + f + z + (x | g)"
    res = fit_regularized(model, data, alpha=[0, 0, 0, 0, 1e6])
    assert list(res.nonzero) == [True, True, True, True, False]
    H, b, _ = dense_quadratic(res)
    cov = np.linalg.inv(H[:4, :4])
    beta = cov @ b[:4]

    def error(weights):
        return np.sqrt(weights @ cov @ weights)

    one = res.t_test("x = 0")
    assert_close(one.sd, [error(np.eye(4)[1])], RTOL)
    assert_close(one.pvalue, 2 * norm.sf(np.abs(beta[1]) / one.sd), 1e-7)  # of a far tail
    two = res.wald_test("f[T.b] = 0, f[T.c] = 0", use_f=False)
    assert_close(two.statistic, beta[2:] @ np.linalg.solve(cov[2:, 2:], beta[2:]), RTOL)
    joint = lmm.joint_tests(res).set_index("term")
    assert_close(joint.loc["f", "f"], two.statistic / 2, RTOL)
    assert np.isnan(joint.loc["z", "f"])
    assert np.isnan(res.t_test("z = 0").pvalue).all() and np.isnan(res.bse_fe["z"])

    means = lmm.emmeans(res, "f")
    grid = np.array([[1, data.x.mean(), 0, 0], [1, data.x.mean(), 1, 0], [1, data.x.mean(), 0, 1]])
    assert_close(means.to_frame()["std_error"], [error(row) for row in grid], RTOL)
    pairs = means.contrast("pairwise").to_frame()["std_error"]
    between = [grid[i] - grid[j] for i, j in ((0, 1), (0, 2), (1, 2))]
    assert_close(pairs, [error(row) for row in between], RTOL)
    with pytest.raises(lmm.DataError, match=r"removed by a penalty: lmm.joint_tests\(res\)"):
        lmm.anova(res)


def test_degrees_of_freedom_are_those_of_the_columns_that_stay():
    """At the covariances of the whole model, held there in a fit of these columns alone."""
    whole = lmm.fit("y ~ x + z + (x | g)", DATA)
    res = fit_regularized("y ~ x + z + (x | g)", DATA, alpha=[0, 0, 1e6])
    at = Params.from_components(fe_params=np.zeros(2), cov_re=whole.cov_re_unscaled.to_numpy())
    free = Params.from_components(fe_params=np.ones(2), cov_re=np.zeros((2, 2)))
    alone = lmm.fit("y ~ x + (x | g)", DATA, start_params=at, free=free).estimates
    own = res.estimates
    assert_close(own.cov_beta[:2, :2], alone.cov_beta, RTOL)
    df = satterthwaite_df(np.eye(2), alone.cov_beta, alone.dcov_beta, own.joint_cov)
    assert_close(res.with_df("satterthwaite").df[:2], df, RTOL)


def test_nothing_is_left_of_a_huge_penalty():
    result = regularized(1e9)
    assert (result.fe_params == 0).all()
    assert result.bse_fe.isna().all()
    assert result.converged


def test_no_fixed_effects():
    result = fit_regularized("y ~ 0 + (x | g)", DATA, alpha=3.0)
    assert result.fe_params.empty
    assert result.converged
    assert result.llf == pytest.approx(result.unpenalized.llf, rel=1e-12)


def test_llf_and_objective_equal_dense():
    result = regularized([0.0, 6, 6, 6, 6], reml=False)
    _, _, V = dense_quadratic(plain(False))
    d = design()
    r = d.endog - d.exog @ result.fe_params.to_numpy()
    deviance = len(r) * np.log(2 * np.pi) + np.linalg.slogdet(V)[1] + r @ np.linalg.solve(V, r)
    assert result.llf == pytest.approx(-0.5 * deviance, rel=RTOL)
    penalty = 6 * np.abs(result.fe_params.iloc[1:]).sum()
    assert result.objective == pytest.approx(deviance + penalty, rel=RTOL)


def test_objective_is_lowest_among_perturbations():
    alpha = np.array([0.0, 20, 6, 3, 6])
    result = regularized(alpha)
    H, b, _ = dense_quadratic(plain())
    rng = np.random.default_rng(0)

    def objective(beta):
        return beta @ H @ beta - 2 * b @ beta + alpha @ np.abs(beta)

    best = result.fe_params.to_numpy()
    for size in 10.0 ** np.arange(-6, 2):
        for _ in range(50):
            assert objective(best) < objective(best + size * rng.normal(size=5))


# ------------------------------------------------------------ coordinate descent alone


def problem(seed, p, kind):
    """A random quadratic: independent, equally correlated, or copies with little noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(p + 5, p))
    if kind == "correlated":
        X += 3 * rng.normal(size=(p + 5, 1))
    elif kind == "groups":
        X = np.repeat(X, 3, axis=1)[:, :p] + 1e-3 * rng.normal(size=X.shape)
    X *= 10.0 ** rng.uniform(-4, 4, p)  # units
    y = X[:, :2] @ (3 / np.linalg.norm(X[:, :2], axis=0)) + rng.normal(size=p + 5)
    root, H = np.linalg.qr(X, mode="r"), X.T @ X
    unit = np.linalg.norm(root, axis=0)
    A = root / unit
    centre = np.linalg.lstsq(X / unit, y, rcond=None)[0]
    alpha = np.where(rng.uniform(size=p) < 0.2, 0.0, rng.exponential(2.0, p)) * unit
    return Quadratic(A, A.T @ A, centre, unit), H, X.T @ y, alpha


@pytest.mark.parametrize("kind", ["independent", "correlated", "groups"])
@pytest.mark.parametrize("p", [1, 2, 7, 40, 150])
def test_optimality_of_random_problems(p, kind):
    for seed in range(5):
        quadratic, H, b, alpha = problem(seed, p, kind)
        start = Descent(np.zeros(p), np.sign(quadratic.centre), np.inf, 0)
        half = 0.5 * alpha / quadratic.unit
        at = descend(quadratic, half, start, np.ones(p, bool), tol=1e-9, maxit=200)
        assert at.kkt <= 1e-9
        beta = np.where((at.sign == 0) & (alpha > 0), 0, quadratic.centre + at.v) / quadratic.unit
        assert violation(H, b, beta, alpha) < KKT, (seed, p, kind)


def test_a_few_sweeps_do_for_many_coefficients():
    quadratic, _, _, alpha = problem(0, 150, "groups")
    start = Descent(np.zeros(150), np.sign(quadratic.centre), np.inf, 0)
    half = 0.5 * alpha / quadratic.unit
    at = descend(quadratic, half, start, np.ones(150, bool), tol=1e-9, maxit=200)
    assert at.n_iter < 50


def test_a_sweep_never_raises_the_objective():
    quadratic, _, _, alpha = problem(3, 40, "correlated")
    half = 0.5 * alpha / quadratic.unit
    at = Descent(np.zeros(40), np.sign(quadratic.centre), np.inf, 0)
    last = np.inf
    for _ in range(8):
        at = descend(quadratic, half, at, np.ones(40, bool), tol=1e-300, maxit=1)
        size = half @ np.abs(quadratic.centre + at.v)
        value = np.sum((quadratic.A @ at.v) ** 2) + 2 * size
        assert value <= last * (1 + 1e-12)
        last = value


# ------------------------------------------------------------ statsmodels


# statsmodels 0.15.0, MixedLM on the same columns with exog_re = [1, x]:
# fit_regularized(alpha=..., ceps=0, ptol=1e-13, maxit=5000, reml=...).fe_params
REFERENCE = {
    (True, "all"): [
        1.049307139393661, 2.1221285255934332, 0.12161598645149818, 0.13822586821976637,
        -0.01689255359891222,
    ],
    (True, "free intercept"): [
        1.3551051354392956, 1.9317645364353584, 0.0948342596718052, 0.1096384811601758, 0,
    ],
    (True, "mixed"): [
        2.3192210811724605, 0, 0.1403850941395093, 0.18108350981610613, 0.04718342856754231,
    ],
    (False, "all"): [
        1.0762299442201624, 2.1456967280275, 0.1285187991962637, 0.12939964952028832,
        -0.02172045286308104,
    ],
    (False, "free intercept"): [
        1.3487582868185364, 1.9759922938939583, 0.10339576168757564, 0.10320489229070279, 0,
    ],
    (False, "mixed"): [
        2.4317743889651724, 0, 0.14120787964778694, 0.16847147364583054, 0.058799550771829495,
    ],
}  # fmt: skip


@pytest.mark.parametrize(("reml", "name"), REFERENCE)
def test_equals_statsmodels(reml, name):
    expected = np.array(REFERENCE[reml, name])
    result = regularized(ALPHAS[name], reml=reml)
    # the ML covariance has a slack of 2e-4 there
    assert_close(result.fe_params, expected, STATSMODELS if reml else 1e-4, scale=1.0)
    assert (result.nonzero.to_numpy() == (expected != 0)).all()


def test_issue_8681_random_effects_after_a_regularized_fit():
    """A result with everything that the unpenalized one has (statsmodels: no ``vcomp``)."""
    vc = {"s": "0 + C(s)"}
    result = fit_regularized(
        "y ~ x", DATA, groups="g", re_formula="1", vc_formula=vc, alpha=[0, 40.0], reml=False
    )
    assert result.vcomp.index.tolist() == ["s"]
    assert list(result.random_effects) == ["g", "s"]
    assert result.random_effects["g"].shape == (10, 1)
    assert_close(result.resid + result.fittedvalues, DATA["y"], 1e-12, scale=1.0)
    # BLUPs are those of a fit to y - X beta with the covariance held
    offset = result.predict().to_numpy()
    held = lmm.Params.from_components(
        cov_re=result.cov_re / result.scale, vcomp=result.vcomp / result.scale
    )
    same = lmm.fit(
        "y ~ 0", DATA, groups="g", re_formula="1", vc_formula=vc, offset=offset,
        start_params=held, maxiter=0, reml=False,
    )  # fmt: skip
    assert_close(result.random_effects["g"], same.random_effects["g"], RTOL, scale=1e-3)


def test_issue_8902_summary_of_a_regularized_fit():
    result = regularized([0.0, 6, 6, 6, 60])
    text = str(result.summary())
    assert "L1-penalized" in text
    assert all(name in text for name in NAMES)
    assert "var" not in repr(result)
    assert "L1-penalized" in result.glance().to_latex(caption="A path")  # the title gives way
    free = str(regularized(0.0).summary(xname_fe=list("abcde")))
    assert " e " in free


# ------------------------------------------------------------ paths


WEIGHTS = np.array([0.0, 1, 1, 2, 1])
FACTORS = np.array([1.0, 100, 0, 10])


def test_a_path_equals_separate_fits():
    path = regularized(np.outer(FACTORS, WEIGHTS))
    assert isinstance(path, RegularizedPath)
    assert path.converged
    assert path.fe_params.shape == (4, 5)
    assert list(path.fe_params.columns) == NAMES
    for k, factor in enumerate(FACTORS):
        alone = regularized(factor * WEIGHTS)
        assert_close(path.fe_params.iloc[k], alone.fe_params, RTOL, scale=1e-3)
        assert path[k].llf == pytest.approx(alone.llf, rel=1e-12)
        assert_close(path[k].alpha, factor * WEIGHTS, 0)
    assert len(path) == 4
    assert [r.llf for r in path] == path.llf.tolist()
    assert path.alpha.shape == (4, 5)
    order = np.argsort(FACTORS)
    assert (np.diff(path.llf[order]) <= 1e-9).all()  # more penalty, lower likelihood


def test_a_column_penalizes_every_coefficient_alike():
    path = regularized([[5.0], [2.0]])
    assert_close(path.alpha, np.repeat([[5.0], [2.0]], 5, axis=1), 0)
    assert_close(path.fe_params.iloc[1], regularized(2.0).fe_params, RTOL, scale=1e-3)


# ------------------------------------------------------------ invariances


def test_units_of_response_and_covariates():
    """y in other units divides alpha by them; x in other units multiplies its own."""
    base = regularized([0.0, 20, 6, 3, 6])
    data = DATA.assign(y=1e-6 * DATA["y"], x=1e4 * DATA["x"], z=1e-5 * DATA["z"])
    alpha = np.array([0.0, 20e4, 6e-5, 3, 6]) / 1e-6
    other = fit_regularized(FORMULA, data, alpha=alpha)
    expected = base.fe_params * 1e-6 / [1, 1e4, 1e-5, 1, 1]
    assert_close(other.fe_params, expected, UNIT_RTOL, scale=np.abs(expected).max() * 1e-9)
    assert (other.nonzero == base.nonzero).all()


def test_a_large_mean_of_the_response_costs_no_digits():
    base = regularized([0.0, 20, 6, 3, 6])
    shifted = fit_regularized(FORMULA, DATA.assign(y=DATA["y"] + 2.0**30), alpha=base.alpha)
    assert_close(shifted.fe_params[1:], base.fe_params[1:], UNIT_RTOL, scale=1e-2)
    assert_close(shifted.fe_params["Intercept"] - 2.0**30, base.fe_params["Intercept"], 2e-6)
    assert_close(shifted.resid, base.resid, UNIT_RTOL, scale=1.0)
    assert shifted.converged


def test_rows_in_another_order():
    base = regularized(6.0)
    other = fit_regularized(FORMULA, DATA.sample(frac=1, random_state=1), alpha=6.0)
    assert_close(other.fe_params, base.fe_params, UNIT_RTOL, scale=1e-3)
    assert_close(other.resid.sort_index(), base.resid, UNIT_RTOL, scale=1.0)


# ------------------------------------------------------------ the interface


def test_a_penalty_as_method_is_a_joint_fit():
    penalty = L2(weights=np.array([0.0, 1, 1, 1, 1]))
    result = fit_regularized(design(), method=penalty)
    expected = lmm.fit(design(), fe_pen=penalty)
    assert isinstance(result, lmm.LMMResults)
    assert_close(result.params, expected.params, 0)


def test_small_coefficients_are_removed_on_request():
    exact = regularized(1.0)
    small = exact.fe_params.abs() < 0.1
    assert small.any()
    cut = regularized(1.0, ceps=0.1)
    assert (cut.fe_params[small] == 0).all()
    assert (cut.fe_params[cut.nonzero].abs() >= 0.1).all()
    refit = np.where(cut.nonzero, 1.0, 1e9)
    assert_close(cut.fe_params, regularized(refit).fe_params, RTOL, scale=1e-3)


def test_data_arguments_reach_the_fit():
    result = fit_regularized(
        "y ~ x + z", DATA, groups="g", re_formula="x", weights="w", offset="o",
        subset=np.arange(60) > 5, alpha=[0, 3.0, 3],
    )  # fmt: skip
    expected = lmm.fit(
        "y ~ x + z", DATA, groups="g", re_formula="x", weights="w", offset="o",
        subset=np.arange(60) > 5,
    )  # fmt: skip
    assert_close(result.unpenalized.params, expected.params, RTOL)
    assert_close(result.cov_re, expected.cov_re, RTOL)
    assert result.scale == pytest.approx(expected.scale, rel=RTOL)
    assert_close(result.predict(DATA.head(3), offset=None), expected.predict(DATA.head(3)), 1.0)


def test_a_copy_keeps_the_parameters():
    result = regularized(6.0)
    copy = pickle.loads(pickle.dumps(result))
    assert isinstance(copy, RegularizedResults)
    pd.testing.assert_series_equal(copy.params, result.params)
    pd.testing.assert_frame_equal(copy.cov_params(), result.cov_params())


def test_results_cannot_be_changed():
    with pytest.raises(AttributeError):
        regularized(6.0).alpha = np.zeros(5)


def test_too_few_sweeps_are_reported():
    rng = np.random.default_rng(0)
    common = rng.normal(size=60)
    data = DATA.assign(**{name: common + 1e-3 * rng.normal(size=60) for name in "xzvo"})
    formula, alpha = "y ~ x + z + v + o + (x | g)", [0.0, 3, 3, 3, 3]
    with pytest.warns(lmm.ConvergenceWarning, match="1 sweeps leave a relative violation"):
        result = fit_regularized(formula, data, alpha=alpha, maxit=1, ptol=1e-300)
    assert not result.converged
    assert fit_regularized(formula, data, alpha=alpha).kkt < KKT


BAD = [
    ({"alpha": [1.0, 2]}, r"shape \(2,\): pass a number, 5 weights \(Intercept, x, z, v, o\)"),
    ({"alpha": np.ones((2, 3))}, r"shape \(2, 3\)"),
    ({"alpha": np.ones((0, 5))}, r"shape \(0, 5\)"),
    ({"alpha": np.ones((1, 1, 5))}, "shape"),
    ({"alpha": -1.0}, "alpha must not be negative"),
    ({"alpha": np.nan}, "alpha=nan: finite numbers are needed"),
    ({"alpha": "much"}, "alpha='much': finite numbers are needed"),
    ({"method": "l2"}, "method='l2': 'l1', or a penalty"),
    ({"method": L2(weights=1.0), "alpha": 2.0}, "holds its own weights"),
    ({"maxit": 0}, "maxit=0: a whole number of at least 1"),
    ({"ceps": -1.0}, "ceps=-1.0: a finite number of at least 0"),
    ({"ptol": 0.0}, "ptol=0.0: a finite number greater than 0"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_options(options, message):
    with pytest.raises(lmm.DataError, match=message):
        fit_regularized(design(), **options)


def test_a_formula_sees_what_it_is_given():
    """Functions of the caller by default, those of ``context`` alone where it is passed."""

    def twice(column):
        return 2.0 * column

    seen = fit_regularized("y ~ twice(x) + (1 | g)", DATA, alpha=1.0)
    given = fit_regularized("y ~ two(x) + (1 | g)", DATA, alpha=1.0, context={"two": twice})
    np.testing.assert_allclose(seen.fe_params, given.fe_params, rtol=1e-12)
    with pytest.raises(lmm.FormulaError, match="twice"):
        fit_regularized("y ~ twice(x) + (1 | g)", DATA, alpha=1.0, context={})


def test_models_are_those_of_fit():
    """Residual covariances and related levels, whose unpenalized fit a weight of zero gives."""
    data = DATA.assign(visit=DATA.groupby("g").cumcount())
    ar1 = fit_regularized("y ~ x", data, residual="ar1(visit | g)", alpha=0.0, df_method="z")
    plain = lmm.fit("y ~ x + ar1(visit | g)", data, df_method="z")
    np.testing.assert_allclose(ar1.fe_params, plain.fe_params, rtol=1e-9)
    assert ar1.df_method == plain.df_method
    levels = list(dict.fromkeys(data["g"]))
    A = (0.5 * np.eye(len(levels)) + 0.5, levels)
    kin = fit_regularized("y ~ x + (1 | g)", data, relatedness={"g": A}, alpha=0.0)
    same = lmm.fit("y ~ x + (1 | g)", data, relatedness={"g": A})
    np.testing.assert_allclose(kin.fe_params, same.fe_params, rtol=1e-9)
