"""Influence of groups and rows, against refits and dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import samples
from helpers import Term, assert_close, dense_deviance
from scipy.optimize import brentq

import lmm_jax as lmm
from lmm_jax.covariance.theta import factor_blocks, stack_theta
from lmm_jax.inference import influence as host
from lmm_jax.inference.deletion import without_groups, without_rows
from lmm_jax.likelihood.coordinates import whiten_factors

RTOL = 1e-9  # two float64 routes to one number, one of them by subtraction of cross-products
# A deletion of one of 18 subjects takes a step of up to one standard error in theta, and the
# Hessian changes by about the share of the subject: the step is 8 to 11 percent short, 16 in the
# worst case. One of 180 rows: the residual variance, of which a row is a large part, misses most.
GROUP_SIZE, GROUP_WORST = 0.12, 0.17
ROW_SIZE, ROW_WORST = 0.04, 0.1
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


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("by", ["group", "row"])
def test_what_is_left_at_given_theta_equals_dense(x64, name, by):
    """Fixed effects, residual variance and the change of the criterion between two theta."""
    bars, options, terms, groups = MODELS[name]
    reml = name != "buckets"
    data = DATA.assign(m=UNEVEN, h=SIZES)
    res = lmm.fit(f"y ~ x + {bars}", data, reml=reml, **options)
    design, layout = res.design, res.design.layout
    rows = host._rows(design, host._bucket_places(design))
    count = jnp.asarray(np.bincount(np.unique(groups, return_inverse=True)[1]), float)
    sizes = [b.T.shape[2] for b in layout.buckets]
    starts = np.cumsum([0, *sizes])
    plan = design.plan
    if by == "group":
        unit = starts[plan.group_bucket] + plan.group_position
        n_obs = jnp.zeros(starts[-1]).at[unit].set(count)
        run = jax.jit(lambda t: without_groups(t, layout, rows, n_obs, reml=reml)[1])
        keep = [groups != label for label in np.unique(groups)]
    else:
        bucket, ends = host._bucket_places(design), np.cumsum([0, *(len(r.group) for r in rows)])
        unit = np.empty(len(data), int)
        for at, start in zip(bucket, ends, strict=False):
            unit[at] = start + np.arange(at.size)
        run = jax.jit(lambda t: without_rows(t, layout, rows, reml=reml)[1])
        keep = [np.arange(len(data)) != i for i in range(0, len(data), 7)]
        unit = unit[::7]
    m = res.estimates.theta.size
    thetas = [np.linspace(0.4, 1.1, m), np.linspace(0.9, 0.2, m)]
    found = [jax.tree.map(lambda a: np.asarray(a)[unit], run(inner(t, layout))) for t in thetas]
    exact = [[dense(theta, at, terms, data, options, reml) for at in keep] for theta in thetas]
    for out, fits in zip(found, exact, strict=True):
        origin = np.asarray(layout.beta_shift + layout.beta_origin)
        beta = origin + float(layout.y_scale) * out.beta @ np.asarray(layout.beta_map).T
        nu = np.array([at.sum() for at in keep]) - (2 if reml else 0)
        assert_close(beta, [fit.beta for fit in fits], RTOL, 1.0)
        sigma = float(layout.y_scale) * np.sqrt(np.exp(out.log_rss) / nu)
        assert_close(sigma, [fit.sigma for fit in fits], RTOL)
    moved = [[fit.criterion for fit in fits] for fits in exact]
    difference = np.subtract(*moved)
    assert_close(found[0].criterion - found[1].criterion, difference, RTOL, 1.0)


def inner(theta, layout):
    """Theta of the data in the layout's coordinates."""
    factors = factor_blocks(jnp.asarray(theta), layout.structures)
    return stack_theta(whiten_factors(factors, layout))


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
    with pytest.raises(lmm.DataError, match="by='case': choose from group, row"):
        lmm.influence(res, "case")
    with pytest.raises(lmm.DataError, match="one over groups"):
        _ = lmm.influence(res, "row").cov_params
    with pytest.raises(lmm.DataError, match="restored without its data"):
        lmm.influence(res.without_data())
    with pytest.raises(lmm.DataError, match="are crossed"):
        lmm.influence(lmm.fit("y ~ x + (1 | g) + (1 | f)", DATA))
    penalized = lmm.fit("y ~ x + (1 | g)", DATA, fe_pen=lmm.penalties.L2(weights=np.array(0.1)))
    with pytest.raises(lmm.DataError, match="nothing held or penalized"):
        lmm.influence(penalized)


def test_a_frame_is_no_result():
    with pytest.raises(lmm.DataError, match="needs a result of"):
        lmm.influence({})
