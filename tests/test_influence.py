"""Influence of groups and rows, against refits and dense matrices."""

import warnings
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
import pytest
import reference
import samples
from helpers import Term, assert_close, dense_deviance, random_root
from scipy.optimize import brentq

import lmm_jax as lmm
from lmm_jax.covariance.theta import factor_blocks, stack_theta
from lmm_jax.inference.diagnostics import influence as host
from lmm_jax.inference.diagnostics.deletion import Loss, without
from lmm_jax.inference.diagnostics.row_algebra import standardized
from lmm_jax.likelihood.coordinates import whiten_factors

RTOL = 1e-9  # two float64 routes to one number, one of them by subtraction of cross-products
# A deletion of one of 18 subjects takes a step of up to one standard error in theta, and the
# Hessian changes by about the share of the subject: the step is 8 to 11 percent short, 16 in the
# worst case. One of 180 rows: the residual variance, of which a row is a large part, misses most.
GROUP_SIZE, GROUP_WORST = 0.12, 0.17
ROW_SIZE, ROW_WORST = 0.04, 0.1
# Central differences of functions known to 1e-13: rounding 1e-8, curvature 1e-8.
STEP, STEP_RTOL = 1e-5, 1e-6
# Hat values and Cook's distances of R, at a theta that two optimizers know to 1e-7 of itself;
# 1 - h falls to 0.05, and its square is divided by.
HAT_TOL, COOK_TOL = 1e-6, 1e-5
WEIGHT_STEP, WEIGHT_RTOL = 1e-3, 1e-4  # of refits: an optimum known to 1e-9, over the step

SLEEP = lmm.load_dataset("sleepstudy")
FORMULA = "Reaction ~ Days + (Days | Subject)"
DATA = samples.frame()


def numbers(res):
    return np.append(res.params, res.scale)


@pytest.mark.parametrize("by", ["group", "row"])
def test_one_step_against_exact_refits(by):
    res = lmm.fit(FORMULA, SLEEP)
    inf = lmm.influence(res, by)
    if by == "group":
        assert list(inf.params.index) == sorted(set(SLEEP["Subject"]))
        rest = [SLEEP[SLEEP["Subject"] != unit] for unit in inf.params.index]
    else:
        rest = [SLEEP.drop(index=unit) for unit in inf.params.index]
    fits = [lmm.fit(FORMULA, part) for part in rest]
    exact = np.array([numbers(fit) for fit in fits]) - numbers(res)
    steps = inf.params.to_numpy() - numbers(res)
    worst = np.abs(steps - exact).max(axis=0) / np.abs(exact).max(axis=0)
    size = np.sum(steps * exact, axis=0) / np.sum(exact**2, axis=0)
    correlation = [np.corrcoef(*pair)[0, 1] for pair in zip(steps.T, exact.T, strict=True)]
    assert min(correlation) > 0.995
    if by == "group":  # balanced: the fixed effects do not depend on theta
        assert worst[:2].max() < RTOL
    assert worst.max() < (GROUP_WORST if by == "group" else ROW_WORST)
    assert np.abs(size - 1).max() < (GROUP_SIZE if by == "group" else ROW_SIZE)

    change = -exact[:, :2]
    cov = res.cov_params().iloc[:2, :2].to_numpy()
    cook = np.einsum("up,pq,uq->u", change, np.linalg.inv(cov), change) / 2
    assert_close(inf.cooks_distance, cook, 0.01, cook.max())  # as the fixed effects, squared
    assert_close(inf.dfbetas, change / res.bse_fe.to_numpy(), 0.01, 0.2)


# ------------------------------------------------------------ exact at given theta


ONE = np.ones((len(DATA), 1))
SLOPES = np.column_stack([ONE, DATA["x"]])
G = DATA["g"].to_numpy()
GS = (DATA["g"] + ":" + DATA["s"]).to_numpy()
F = DATA["f"].to_numpy()
UNEVEN = np.repeat([f"m{i}" for i in range(5)], [1, 2, 12, 9, 36])
SIZES = np.repeat(np.arange(19), [1, 2, 1, 2, 3, 2, 4, 1, 4, 4, 8, 1, 1, 2, 2, 6, 6, 5, 5])
MODELS = {
    "weights": ("(x | g)", {"weights": "w"}, [Term(SLOPES, G)], G),
    "nested, offset": (
        "(x | g) + (1 | g:s)", {"offset": "o"}, [Term(ONE, GS), Term(SLOPES, G)], G,
    ),
    "buckets": (
        "(1 | m) + (1 | h)", {}, [Term(ONE, SIZES.astype(str)), Term(ONE, UNEVEN)], UNEVEN,
    ),
}  # fmt: skip


CROSSED = "(x | g) + (1 | f)", {"weights": "w"}, [Term(SLOPES, G), Term(ONE, F)], F
UNITS = [
    *((name, unit) for name in MODELS for unit in ("group", "row")),
    ("nested, offset", "factor"),
    ("crossed", "factor"),
    ("crossed", "row"),
]


@pytest.mark.parametrize(("name", "kind"), UNITS)
def test_what_is_left_at_given_theta_equals_dense(name, kind):
    """Fixed effects, residual variance, the change of the criterion, and its derivatives."""
    bars, options, terms, groups = CROSSED if name == "crossed" else MODELS[name]
    groups = GS if name == "nested, offset" and kind == "factor" else groups
    reml = name != "buckets"
    data = DATA.assign(m=UNEVEN, h=SIZES)
    design = lmm.design(f"y ~ x + {bars}", data, **options)
    codes = np.arange(len(data)) if kind == "row" else np.unique(groups, return_inverse=True)[1]
    units = host._Units(pd.RangeIndex(codes.max() + 1), codes, kind)
    some = np.arange(0, codes.max() + 1, 7 if kind == "row" else 1)
    keep = [codes != unit for unit in some]
    m = sum(s.n_params for s in design.structures)
    thetas = [np.linspace(0.4, 1.1, m), np.linspace(0.9, 0.2, m)]
    found = [left(inner(t, design), design, units, reml) for t in thetas]
    exact = [[dense(theta, at, terms, data, options, reml) for at in keep] for theta in thetas]
    for out, fits in zip(found, exact, strict=True):
        assert_close(out.beta[some], [fit.beta for fit in fits], RTOL, 1.0)
        assert_close(out.sigma[some], [fit.sigma for fit in fits], RTOL)
    moved = np.subtract(*[[fit.criterion for fit in fits] for fits in exact])
    assert_close((found[0].criterion - found[1].criterion)[some], moved, RTOL, 1.0)
    theta = inner(thetas[0], design)
    for k in range(m):
        h = STEP * (np.arange(m) == k)
        up, down = (left(theta + sign * h, design, units, reml) for sign in (1, -1))
        for value, slope in ("beta", "dbeta"), ("log_rss", "dlog_rss"), ("criterion", "slope"):
            difference = (getattr(up, value) - getattr(down, value)) / (2 * STEP)
            at = getattr(found[0], slope)[:, k]
            assert_close(at, difference, STEP_RTOL, np.abs(difference).max())


class Left(NamedTuple):
    """A model without each unit, at one theta."""

    beta: np.ndarray
    sigma: np.ndarray
    log_rss: np.ndarray
    criterion: np.ndarray
    dbeta: np.ndarray
    dlog_rss: np.ndarray
    slope: np.ndarray


def left(theta, design, units, reml):
    """By the library, in the units of the data."""
    whole, layout = standardized(design, theta), design.compressed.layout
    p, n = 2, design.nobs
    losses = [loss for part in whole.groups() for loss in host._losses(part, units)]
    loss = Loss(*(np.concatenate(parts) for parts in zip(*losses, strict=True)))
    loss = Loss(*(values[np.argsort(loss.unit)] for values in loss))
    nu = n - p if reml else n
    rest = without(loss, whole, nu, reml=reml)
    size, A = float(layout.y_scale) * np.sqrt(whole.rss), np.asarray(layout.beta_map)
    origin = np.asarray(layout.beta_shift) + np.asarray(layout.beta_origin)
    through = size * A @ whole.T[:p, :p]
    beta = origin - size * A @ whole.T[:p, p] + rest.beta @ through.T
    log_rss = rest.log_rss + np.log(whole.rss)
    criterion = logdets(whole, units.code) + (nu - loss.n_rows) * log_rss
    if reml:
        xx = np.eye(p) - loss.gram[:, :p, :p]
        criterion += np.linalg.slogdet(xx)[1] - 2 * np.linalg.slogdet(whole.T[:p, :p])[1]
    sigma = float(layout.y_scale) * np.sqrt(np.exp(log_rss) / (nu - loss.n_rows))
    slope = rest.dlog_rss  # of the whole model and of what is lost, together
    return Left(beta, sigma, log_rss, criterion, rest.dbeta @ through.T, slope, rest.slope)


def logdets(whole, code):
    """``log|V|`` without each unit, ``log|V| + log|(V^-1)_RR|``, from V^-1 written out."""
    inverse = np.zeros((code.size, code.size))
    for part in whole.groups():
        for rows, S in zip(part.rows, part.S, strict=True):
            inverse[np.ix_(rows, rows)] = np.eye(rows.size) - S.T @ S
    own = [inverse[np.ix_(code == unit, code == unit)] for unit in range(code.max() + 1)]
    return np.array([np.linalg.slogdet(C)[1] for C in own]) - np.linalg.slogdet(inverse)[1]


def inner(theta, design):
    """Theta of the data in the layout's coordinates."""
    layout = jax.tree.map(np.asarray, design.compressed.layout)  # in either runtime's arrays
    factors = factor_blocks(np.asarray(theta), layout.structures)
    return np.asarray(stack_theta(whiten_factors(factors, layout)))


def dense(theta, at, terms, data, options, reml):
    arrays = {name: data[column].to_numpy()[at] for name, column in options.items()}
    left = [Term(term.Z[at], term.groups[at]) for term in terms]
    y = data["y"].to_numpy()[at]
    return dense_deviance(SLOPES[at], y, left, theta, reml=reml, **arrays)


# ------------------------------------------------------------ derivatives in weights


def weighted_fit(weights, reml):
    """Maximum of the sum of weighted log-likelihoods of the groups, random intercepts."""
    labels = np.unique(G)
    X, y = SLOPES, DATA["y"].to_numpy()

    def solve(theta):
        gram, logdet = np.zeros((3, 3)), 0.0
        for label, w in zip(labels, weights, strict=True):
            at = label == G
            V = np.eye(at.sum()) + theta**2
            XY = np.column_stack([X[at], y[at]])
            gram += w * XY.T @ np.linalg.solve(V, XY)
            logdet += w * np.linalg.slogdet(V)[1]
        beta = np.linalg.solve(gram[:2, :2], gram[:2, 2])
        rss = gram[2, 2] - gram[:2, 2] @ beta
        nu = np.sum(weights * 6) - (2 if reml else 0)
        value = logdet + nu * (1 + np.log(2 * np.pi * rss / nu))
        return value + (np.linalg.slogdet(gram[:2, :2])[1] if reml else 0), beta, rss / nu

    # a slope by differences of 1e-3 has its root within 1e-6, a smooth function of the weights
    best = brentq(lambda t: solve(t + 1e-3)[0] - solve(t - 1e-3)[0], 0.3, 3.0, xtol=1e-14)
    _, beta, scale = solve(best)
    return np.array([*beta, scale * best**2, scale])


@pytest.mark.parametrize("reml", [True, False])
def test_derivatives_in_group_weights_equal_differences_of_refits(reml):
    res = lmm.fit("y ~ x + (1 | g)", DATA, reml=reml)
    assert_close(numbers(res), weighted_fit(np.ones(10), reml), 1e-5)
    psi = lmm.influence(res).derivatives.to_numpy()
    for g in (0, 4, 9):
        move = WEIGHT_STEP * (np.arange(10) == g)
        up, down = (weighted_fit(1 + sign * move, reml) for sign in (1, -1))
        difference = (up - down) / (2 * WEIGHT_STEP)
        assert_close(psi[g], difference, WEIGHT_RTOL, np.abs(difference).max())


def test_derivatives_sum_to_zero_under_ml():
    """One weight for all groups changes no maximum likelihood estimate."""
    res = lmm.fit("y ~ x + (x | g) + (1 | g:s)", DATA, reml=False, weights="w")
    psi = lmm.influence(res).derivatives
    assert np.abs(psi.sum() / psi.abs().sum()).max() < 1e-6  # the optimum's gradient is not zero


def test_jackknife_covariance_of_a_balanced_design_is_that_of_ml():
    """With equal X and Z in every group the sandwich of the fixed effects is the ML covariance."""
    res = lmm.fit(FORMULA, SLEEP, reml=False)
    cov = lmm.influence(res).cov_params
    assert_close(cov.iloc[:2, :2], res.cov_params().iloc[:2, :2], 1e-6)
    assert list(cov.index) == [*res.params.index, "scale"]


# ------------------------------------------------------------ crossed factors


@pytest.mark.parametrize("by", ["g", "f", "row"])
def test_crossed_factors_against_refits(by):
    """Without a level of either factor, and without a row."""
    model = "y ~ x + (1 | g) + (1 | f)"
    data = DATA.assign(y=DATA["y"] + 0.8 * np.unique(F, return_inverse=True)[1])
    res = lmm.fit(model, data)
    inf = lmm.influence(res, by)
    some, exact = inf.params.index[:: 6 if by == "row" else 1], []
    for unit in some:
        rest = data.drop(index=unit) if by == "row" else data[data[by] != unit]
        exact.append(numbers(lmm.fit(model, rest)) - numbers(res))
    steps = inf.params.loc[some].to_numpy() - numbers(res)
    correlation = [
        np.corrcoef(*pair)[0, 1] for pair in zip(steps.T, np.transpose(exact), strict=True)
    ]
    assert min(correlation) > 0.98
    size = np.sum(steps * exact, axis=0) / np.sum(np.square(exact), axis=0)
    assert np.abs(size - 1).max() < 0.35  # one of 6 levels is a third of what is known of them
    assert np.abs(size[:2] - 1).max() < 0.02
    assert inf.derivatives is None and inf.params.index.name == (None if by == "row" else by)


def test_a_nested_factor_by_its_name():
    """The outer one is what the groups are; one level in each group is the group."""
    res = lmm.fit("y ~ x + (x | g) + (1 | g:s)", DATA)
    outer, groups = lmm.influence(res, "g"), lmm.influence(res)
    pd.testing.assert_frame_equal(outer.params, groups.params, rtol=1e-9, check_names=False)
    cells = lmm.influence(res, "g:s")
    assert list(cells.params.index) == list(res.random_effects["g:s"].index)
    assert_close(cells.hat_values.sum(), groups.hat_values.sum(), RTOL)


# ------------------------------------------------------------ the conditional fit


HATS = reference.names(lambda case: "influence" in case)
QUICK = ("sleepstudy_rs_reml", "sim_weights_reml", "sim_three_ml", "sim_crossslope_reml",
         "sim_offset_ml", "penicillin_reml", "cake_crossed_reml", "sim_year_reml")  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in HATS]
)
def test_hat_values_and_cooks_distances_of_the_reference(name):
    case = reference.load(name)
    model, expected = case["model"], case["influence"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.RankWarning)
        res = lmm.fit(reference.formula(case), reference.frame(case), reml=model["REML"],
                      weights=model["weights"])  # fmt: skip
    inf = lmm.influence(res, "row")
    assert_close(inf.hat_values.iloc[:20], expected["hatvalues"], HAT_TOL, 0.1)
    assert_close(inf.hat_values.sum(), expected["hat_sum"], HAT_TOL)
    cooks = np.array(expected["cooks"])
    assert_close(inf.conditional_cooks.iloc[:20], cooks, COOK_TOL, np.abs(cooks).max())


@pytest.mark.parametrize("name", ["dyestuff_reml", "sleepstudy_ri_reml", "sleepstudy_rs_reml"])
def test_cooks_distance_of_groups_against_refits_of_the_reference(name):
    case = reference.load(name)
    inf = lmm.influence(lmm.fit(case["model"]["formula"], reference.frame(case)))
    rows = case["influence"]["group_deletion"]["results"]
    assert [row["dropped"] for row in rows] == list(inf.params.index.astype(str))
    exact = np.array([row["cooks"] for row in rows])
    assert_close(inf.cooks_distance, exact, 1e-6, exact.max())  # balanced: theta does not matter
    fixed = np.array([row["fixef"] for row in rows])
    assert_close(inf.params.iloc[:, : fixed.shape[1]], fixed, 1e-6)


@pytest.mark.parametrize("kind", ["weights", "crossed"])
def test_hat_values_equal_the_dense_hat_matrix(kind):
    bars, options, terms, _ = CROSSED if kind == "crossed" else MODELS[kind]
    res = lmm.fit(f"y ~ x + {bars}", DATA, **options)
    Z, Lambda = random_root(terms, ordered_theta(res, bars))
    V = np.diag(1 / DATA["w"]) + Z @ Lambda @ Lambda.T @ Z.T
    Vi = np.linalg.inv(V)
    P = Vi - Vi @ SLOPES @ np.linalg.solve(SLOPES.T @ Vi @ SLOPES, SLOPES.T @ Vi)
    H = np.eye(60) - np.diag(1 / DATA["w"]) @ P
    inf = lmm.influence(res, "row")
    assert_close(inf.hat_values, np.diagonal(H), RTOL)
    assert_close(H @ DATA["y"], res.fittedvalues, 1e-8, 1.0)


def ordered_theta(res, bars):
    """Theta in the order in which the bars are written."""
    sizes = [len(S) * (len(S) + 1) // 2 for S in res.estimates.covariances]
    parts = np.split(res.theta, np.cumsum(sizes)[:-1])
    labels = [label.factor for label in res.term_labels]
    written = sorted(range(len(parts)), key=lambda t: bars.index(f"| {labels[t]}"))
    return np.concatenate([parts[t] for t in written])


# ------------------------------------------------------------ edges


def test_a_zero_variance_stays_zero():
    rng = np.random.default_rng(4)
    data = DATA.assign(y=rng.normal(size=60))
    res = lmm.fit("y ~ x + (1 | g)", data)
    assert res.singular
    inf = lmm.influence(res)
    assert np.abs(inf.params["var(Intercept|g)"]).max() < 1e-12
    X, y = SLOPES, data["y"].to_numpy()
    ols = [np.linalg.lstsq(X[g != G], y[g != G])[0] for g in np.unique(G)]
    assert_close(inf.params[["Intercept", "x"]], ols, RTOL, 0.1)


def test_a_group_without_which_a_coefficient_is_not_determined():
    data = DATA.assign(d=(G == "g3") * 1.0)
    inf = lmm.influence(lmm.fit("y ~ x + d + (1 | g)", data))
    assert inf.params.loc["g3"].isna().any()
    assert inf.params.drop(index="g3").notna().all().all()


def test_labels_of_rows_and_of_groups():
    data = DATA.set_index(pd.Index([f"r{i}" for i in range(60)], name="row"))
    res = lmm.fit("y ~ x + (1 | g)", data)
    assert list(lmm.influence(res, "row").dfbetas.index) == list(data.index)
    groups = lmm.influence(res)
    assert groups.dfbetas.index.name == "g"
    assert list(groups.dfbetas.index) == list(np.unique(G))
    assert list(groups.dfbetas.columns) == ["Intercept", "x"]


def test_bad_calls():
    res = lmm.fit("y ~ x + (1 | g)", DATA)
    with pytest.raises(lmm.DataError, match="by='case': choose from group, row, g"):
        lmm.influence(res, "case")
    with pytest.raises(lmm.DataError, match="one over groups"):
        _ = lmm.influence(res, "row").cov_params
    with pytest.raises(lmm.DataError, match="restored without its data"):
        lmm.influence(res.without_data())
    with pytest.raises(lmm.DataError, match=r"are crossed.* one of 'g', 'f', or 'row'"):
        lmm.influence(lmm.fit("y ~ x + (1 | g) + (1 | f)", DATA))
    penalized = lmm.fit("y ~ x + (1 | g)", DATA, fe_pen=lmm.penalties.L2(weights=np.array(0.1)))
    with pytest.raises(lmm.DataError, match="nothing held or penalized"):
        lmm.influence(penalized)


def test_a_frame_is_no_result():
    with pytest.raises(lmm.DataError, match="needs a result of"):
        lmm.influence({})
