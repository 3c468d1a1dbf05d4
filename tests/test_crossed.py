"""The crossed layout against dense matrices: criterion, derivatives, predictions, the choice."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from crossed_designs import DESIGNS, WEIGHTED, frame, intercept, islands, jet_of_dense_terms
from derivatives import check_derivatives
from helpers import assert_close, dense_blups, dense_deviance

import lmm_jax as lmm
from lmm_jax.api.methods import Task, begin
from lmm_jax.covariance.theta import factor_blocks, stack_theta
from lmm_jax.inference.profiles.ratio import hold_variance
from lmm_jax.layouts import plan
from lmm_jax.layouts.crossed import core_index, links
from lmm_jax.layouts.crossed.core import integrate_core, shrinkage
from lmm_jax.layouts.crossed.layout import CrossedLayout
from lmm_jax.layouts.grouped import GroupedLayout
from lmm_jax.likelihood.profile import loglike_of_theta, profile_jet
from lmm_jax.numerics.memory import memory_size
from lmm_jax.numerics.tiers import running_on
from lmm_jax.optimize.minimize import minimize
from lmm_jax.optimize.newton import CONVERGED, MAXITER
from lmm_jax.optimize.staged import minimize_staged

CRITERION_RTOL = 1e-11  # the same number from n x n matrices and from the core
DERIVATIVE_RTOL = 1e-8  # closed forms against automatic differentiation of n x n matrices
BLUP_TOL = 1e-8  # relative to a standard deviation of the effects
OPTIMUM_RTOL = 1e-9  # of the criterion at two ends of a search, decrement 1e-9 each


NAMES = sorted(DESIGNS)
HARD = ["factor slopes", "islands", "nested in the eliminated", "slopes"]  # the rest is R's
COMPILED = ("islands", "weighted")  # the other designs run the same source in NumPy


@cache
def model(name):
    """Design, frame and dense terms of one entry of the table."""
    make, bars, dense = DESIGNS[name]
    data = make()
    weights = "w" if name in WEIGHTED else None
    return lmm.design(f"y ~ x + {bars}", data, weights=weights), data, dense(data)


def thetas(name):
    """An interior point, zeros, and a singular block with a zero pivot first."""
    sizes = model(name)[0].sizes
    m = sum(k * (k + 1) // 2 for k in sizes)
    interior = np.random.default_rng(7).uniform(0.2, 1.3, m)
    singular = interior.copy()
    singular[[0, m - 1]] = 0.0
    return [interior, singular, np.zeros(m)]


def dense(name, theta, reml):
    _, data, terms = model(name)
    X = np.column_stack([np.ones(len(data)), data["x"]])
    weights = data["w"].to_numpy() if name in WEIGHTED else None
    return X, dense_deviance(X, data["y"].to_numpy(), terms, theta, reml=reml, weights=weights)


# ------------------------------------------------------------ the criterion


def layout_of(name):
    """In arrays of JAX or of NumPy."""
    design = model(name)[0]
    return design.layout if name in COMPILED else jax.tree.map(np.asarray, design.compressed.layout)


def program(name, fun):
    """A function of theta on :func:`layout_of`."""
    return jax.jit(fun) if name in COMPILED else fun


@pytest.mark.parametrize("name", NAMES)
def test_criterion_against_dense_matrices(name, x64):
    layout = layout_of(name)
    assert isinstance(layout, CrossedLayout)
    both = program(name, lambda t: [loglike_of_theta(t, layout, reml=r) for r in (True, False)])
    for theta in thetas(name):
        for reml, value in zip((True, False), both(theta), strict=True):
            expected = dense(name, theta, reml)[1].criterion
            assert_close(-2 * float(value), expected, CRITERION_RTOL)


def jet_of_dense_matrices(name, theta):
    """Of the REML criterion at a theta of the layout."""
    design, data, terms = model(name)
    return jet_of_dense_terms(name, theta, design.compressed.layout, data, terms)


@pytest.mark.parametrize("name", HARD)
def test_jet_against_dense_matrices(name, x64):
    """Closed forms of value, gradient and Hessian at interior and singular theta."""
    layout = layout_of(name)
    jet = program(name, lambda t: profile_jet(t, layout, reml=True))
    for theta in thetas(name):
        at = jet(theta)
        value, gradient, hessian, _ = jet_of_dense_matrices(name, theta)
        assert_close(at.value, value, CRITERION_RTOL)
        assert_close(at.gradient, gradient, DERIVATIVE_RTOL, np.abs(hessian).max())
        assert_close(at.hessian, hessian, DERIVATIVE_RTOL, np.abs(hessian).max())


def test_derivatives_of_the_waist(x64):
    """The public functions differentiate to second order, at a singular covariance too."""
    layout = model("slopes")[0].layout
    whiteners = [np.asarray(A) for A in layout.whiteners]

    def criterion(theta):  # the public function wants the theta of the data
        blocks = zip(whiteners, factor_blocks(theta, layout.structures), strict=True)
        outer = stack_theta([A @ L for A, L in blocks])
        return -2 * lmm.profile_loglike(outer, layout)

    waist = jax.jit(lambda t: (jax.grad(criterion)(t), jax.hessian(criterion)(t)))
    for theta in thetas("slopes")[:2]:
        expected = jet_of_dense_matrices("slopes", theta)[1:3]
        for got, want in zip(waist(jnp.asarray(theta)), expected, strict=True):
            assert_close(got, want, DERIVATIVE_RTOL, np.abs(expected[1]).max())


@pytest.mark.parametrize("name", HARD)
def test_average_information(name, x64):
    """``y' P V_k P V_l P y / sigma^2``, sigma^2 profiled out, and what Psi bends in theta."""
    layout, theta = layout_of(name), thetas(name)[0]
    jet = program(name, lambda t: profile_jet(t, layout, reml=True, exact=False))(theta)
    expected = jet_of_dense_matrices(name, theta).average
    assert_close(jet.hessian, expected, DERIVATIVE_RTOL, np.abs(expected).max())


def test_gradients_reach_the_data(x64):
    """Derivatives in y and the weights through the compression of a crossed design."""
    design = model("weighted")[0]
    n = design.nobs

    def pad(a):
        return jnp.concatenate([a, jnp.zeros((rows - n, *a.shape[1:]))])

    def value(y, w):
        layout = lmm.compress(pad(y), X, Z, pad(w), design.plan.index)
        return lmm.profile_loglike(jnp.asarray(thetas("weighted")[0]), layout)

    rows = design.plan.index.block.size
    X, Z = pad(design.exog), tuple(pad(term.values) for term in design.terms)
    y, w = jnp.asarray(design.endog), jnp.asarray(design.weights)
    check_derivatives(value, y, w, order=1)


CORE_PSI = {  # of one term of two coefficients and one of one, two levels each: N = 6
    "interior": ([[1.0, 0.3], [0.3, 0.5]], 0.8),
    "singular": ([[1.0, 0.5], [0.5, 0.25]], 0.8),
    "boundary": ([[1.0, 0.3], [0.3, 0.5]], 0.0),
    "zero": ([[0.0, 0.0], [0.0, 0.0]], 0.0),
}


def core():
    """A, b and the origin of two cores."""
    rng = np.random.default_rng(1)
    half = rng.normal(size=(8, 6, 2))
    A = np.einsum("nab,ncb->acb", half, half) / 8
    return A, rng.normal(size=(6, 3, 2)), rng.normal(size=(6, 1, 2))


CORE = core()


def symmetric(A):
    return 0.5 * (A + jnp.swapaxes(A, 0, 1))


def rules_of_the_core(A, b, Psi):
    A, Psi = symmetric(A), symmetric(Psi)
    return integrate_core(A, b, Psi, jnp.asarray(CORE[2])), shrinkage(A, Psi)


@pytest.mark.parametrize("where", CORE_PSI)
def test_derivatives_of_the_rules_of_the_core(where, x64):
    """To order two, forwards and backwards, along symmetric A and Psi; and the closed forms."""
    first, second = CORE_PSI[where]
    Psi = np.zeros((6, 6))
    Psi[:2, :2] = Psi[2:4, 2:4] = first
    Psi[4, 4] = Psi[5, 5] = second
    A, b, origin = CORE
    Psi = np.repeat(Psi[:, :, None], 2, axis=2)
    found, H = integrate_core(A, b, Psi, origin), shrinkage(A, Psi)
    logdet, gram = 0.0, np.zeros((3, 3))
    for i in range(2):
        Ai, bi, Pi, a = (v[:, :, i] for v in (A, b, Psi, origin))
        assert_close(H[:, :, i], Pi @ np.linalg.inv(np.eye(6) + Ai @ Pi), CRITERION_RTOL, 1)
        logdet += np.linalg.slogdet(np.eye(6) + Ai @ Pi).logabsdet
        whole = bi + np.c_[np.zeros((6, 2)), Ai @ a]
        gram += whole.T @ H[:, :, i] @ whole
        # S0 of the whole y has more than that of y less its origin by these
        more = np.zeros((3, 3))
        more[2, :2] = more[:2, 2] = (bi.T @ a)[:2, 0]
        more[2, 2] = 2 * (bi.T @ a)[2, 0] + (a.T @ Ai @ a)[0, 0]
        gram -= more
    assert_close(found.logdet, logdet, CRITERION_RTOL, 1)
    assert_close(found.gram, gram, CRITERION_RTOL, 1)
    check_derivatives(rules_of_the_core, A, b, Psi)


# ------------------------------------------------------------ the fit and what follows from it


@pytest.mark.parametrize("name", ["islands", "nested in the eliminated", "same factor twice"])
def test_random_effects(name):
    design, data, terms = model(name)
    res = lmm.fit(design)
    assert res.converged
    X = np.column_stack([np.ones(len(data)), data["x"]])
    weights = data["w"].to_numpy() if name in WEIGHTED else None
    expected = dense_blups(X, data["y"].to_numpy(), terms, res.theta, reml=True, weights=weights)
    fitted = X @ res.fe_params.to_numpy()
    filled = {}
    for term, dense_term, want in zip(design.terms, terms, expected, strict=True):
        k = len(term.names)
        start = filled.setdefault(term.group, 0)
        filled[term.group] += k
        got = res.random_effects[term.group].iloc[:, start : start + k]
        assert list(got.index) == list(want.levels)
        assert_close(got, want.values, BLUP_TOL, res.sigma)
        cov = [res.random_effects_cov[term.group][v].to_numpy() for v in want.levels]
        cov = np.array(cov)[:, start : start + k, start : start + k]
        assert_close(cov, want.cond_cov, BLUP_TOL, res.scale)
        code = np.searchsorted(want.levels, dense_term.groups)
        fitted = fitted + np.sum(dense_term.Z * want.values[code], axis=1)
    assert_close(res.fittedvalues, fitted, BLUP_TOL, res.sigma)
    assert_close(res.predict(data, conditional=True), fitted, BLUP_TOL, res.sigma)


@pytest.mark.parametrize("name", NAMES)
def test_the_index_knows_the_size_of_the_layout(name):
    design = model(name)[0]
    assert design.plan.index.size(design.exog.shape[1]) == design.compressed.layout.size()


@pytest.mark.parametrize("name", ["islands", "slopes"])
def test_rows_and_their_layout_end_at_one_optimum(name):
    """Compression and fit are one call where the rows are new, two where they are compressed."""
    make, bars, _ = DESIGNS[name]
    at_once, apart = (lmm.design(f"y ~ x + {bars}", make()) for _ in range(2))
    assert apart.compressed is not None
    tasks = (Task(design=one, reml=True, maxiter=100, gtol=1e-10) for one in (at_once, apart))
    with running_on("numpy"):
        begun = [begin(task, ("newton",)).begun for task in tasks]
    assert begun[1] is None and at_once.is_compressed
    solution, told = begun[0]
    assert int(solution.status) == CONVERGED and not told.flat
    found, expected = (lmm.fit(lmm.design(f"y ~ x + {bars}", make())), lmm.fit(apart))
    assert_close(-0.5 * float(solution.jet.value), found.llf, OPTIMUM_RTOL)
    assert_close(told.estimates.theta, found.theta, 1e-6, 1)
    assert_close(found.llf, expected.llf, OPTIMUM_RTOL)
    assert_close(found.theta, expected.theta, 1e-6, 1)


@pytest.mark.parametrize("name", ["three"])
def test_staged_equals_whole(name, x64):
    """Compiled steps, driven from the host, end where one loop of NumPy ends."""
    layout = model(name)[0].compressed.layout
    whole = minimize(layout, reml=True, maxiter=100)
    with running_on("jax"):
        staged = minimize_staged(layout, reml=True, maxiter=100)
    assert int(whole.status) == int(staged.status) == 1
    assert_close(staged.jet.value, whole.jet.value, OPTIMUM_RTOL)
    hessians = [np.abs(at.jet.hessian) for at in (staged, whole)]  # signs of columns are free
    assert_close(*hessians, 1e-3, hessians[1].max())


def test_no_step_is_taken_where_none_is_allowed(x64):
    layout = model("three")[0].layout
    start = jnp.array([0.5, 0.4, 0.3])
    end = minimize_staged(layout, start, reml=True, maxiter=0)
    assert_close(end.theta, start, 0)
    assert int(end.status) == MAXITER


def test_chunks_of_pairs(x64, monkeypatch):
    """Sums over pairs do not depend on how many are taken at once."""
    data = frame(3, 3000, 60, 40)
    whole = lmm.design("y ~ x + (1 | s) + (1 | d)", data).layout
    theta = jnp.array([0.7, 0.4])
    expected = jax.jit(lambda at: profile_jet(theta, at, reml=True))(whole)
    monkeypatch.setattr(links, "CHUNK", 1 << 12)
    monkeypatch.setattr("lmm_jax.layouts.crossed.core_index.CHUNK", 1 << 12)
    jax.clear_caches()
    parts = lmm.design("y ~ x + (1 | s) + (1 | d)", data).layout
    assert parts.links[0].left.size > 4 * links.CHUNK
    actual = jax.jit(lambda at: profile_jet(theta, at, reml=True))(parts)
    jax.clear_caches()
    for got, want in zip(actual[:3], expected[:3], strict=True):
        assert_close(got, want, 1e-11, np.abs(want).max())


def test_wide_nested_groups_are_eliminated_level_by_level():
    """Three schools with 60 classes each: the same optimum as from dense groups."""
    rng = np.random.default_rng(5)
    school, klass = np.repeat(np.arange(3), 240), np.repeat(np.arange(180), 4)
    x = rng.normal(size=720)
    y = (
        1
        + x
        + rng.normal(size=3)[school]
        + 0.7 * rng.normal(size=180)[klass]
        + rng.normal(size=720)
    )
    data = pd.DataFrame({"y": y, "x": x, "school": school, "class": klass % 60})
    design = lmm.design("y ~ x + (1 | school/class)", data)
    wide = lmm.design("y ~ x + (1 | school) + (1 | school:class)", data)
    assert isinstance(design.layout, CrossedLayout)
    assert design.layout_info.eliminated == ("1 | class:school",)
    res = lmm.fit(design)
    terms = [intercept(data.astype(str), "class", "school"), intercept(data.astype(str), "school")]
    X = np.column_stack([np.ones(720), x])
    assert_close(-2 * res.llf, dense_deviance(X, y, terms, res.theta, reml=True).criterion, 1e-10)
    assert wide.layout_info.kind == "crossed"


def test_rotated_terms_are_the_same_model(x64):
    """Profiles turn a term until one variance is one entry of theta, on either side."""
    layout = model("slopes")[0].layout
    theta = thetas("slopes")[0]
    value = jax.jit(lambda t, at: at.waist_at(t))
    expected = value(jnp.asarray(theta), layout)
    for t, j in [(0, 1), (1, 0), (1, 1)]:
        at = hold_variance(layout, theta, t, j)
        actual = value(jnp.asarray(at.theta), at.layout)
        assert_close(actual.logdet, expected.logdet, CRITERION_RTOL)
        assert_close(actual.gram, expected.gram, CRITERION_RTOL, np.abs(expected.gram).max())


def test_a_covariance_held_at_zero_is_the_double_bar():
    data = frame(n=300)
    mask = lmm.Params.from_components(fe_params=[1, 1], cov_re=np.eye(3))
    held = lmm.fit("y ~ x + (1 + x | s) + (1 | d)", data, free=mask)
    apart = lmm.fit("y ~ x + (1 + x || s) + (1 | d)", data)
    assert isinstance(held.design.layout, CrossedLayout)
    assert_close(held.llf, apart.llf, OPTIMUM_RTOL)
    assert abs(held.params["cov(Intercept,x|s)"]) < 1e-12
    for name, value in apart.params.items():
        # decrements below 1e-9 leave each end within 3e-5 standard errors of the optimum
        assert_close(held.params[name], value, 1e-6, apart.bse[name])


def test_a_fixed_effect_held_is_an_offset():
    data = frame(n=300)
    mask = lmm.Params.from_components(fe_params=[1, 0], cov_re=np.eye(2))
    start = lmm.Params.from_components(fe_params=[0, 1.5], cov_re=np.eye(2))
    held = lmm.fit("y ~ x + (1 | s) + (1 | d)", data, free=mask, start_params=start, reml=False)
    moved = lmm.fit(
        "y ~ 1 + (1 | s) + (1 | d)", data, offset=1.5 * data["x"].to_numpy(), reml=False
    )
    assert held.fe_params["x"] == 1.5
    assert_close(held.llf, moved.llf, OPTIMUM_RTOL)


def test_profile_of_a_variance():
    """The curve passes through the estimate, and falls on both sides of it."""
    res = lmm.fit(model("intercepts")[0], reml=False)
    curve = res.profile_re(1, "re", 2, 0.5 * res.cov_re.iloc[1, 1], 2, 1.0)
    assert_close(curve[2], [res.cov_re.iloc[1, 1], res.llf], 1e-8)
    assert (np.diff(curve[:3, 1]) > 0).all()
    assert (np.diff(curve[2:, 1]) < 0).all()


# ------------------------------------------------------------ ill-behaved designs


def ill_behaved():
    data = frame(9, 300, 20, 8)
    rng = np.random.default_rng(9)
    s, d = data["s"].factorize(sort=True)[0], data["d"].factorize(sort=True)[0]
    e = rng.normal(size=300)
    s_effect, d_effect = rng.normal(size=20)[s], rng.normal(size=8)[d]
    return data.assign(
        zero_d=data["x"] + s_effect + e,
        exact=data["x"] + s_effect + d_effect,
        aligned=data["x"] + s_effect + d_effect * (1 - data["x"]) + e,
        steep=data["x"] + 1e3 * (s_effect + d_effect) + e,
        row=np.arange(300),
        one="a",
        same=data["s"],
    )


REFUSED = [
    ("zero_d ~ x + (1 | s) + (1 | row)", "cannot be told from the residual"),
    ("zero_d ~ x + (1 | s) + (1 | one)", "has one level only"),
    ("exact ~ x + (1 | s) + (1 | d)", "explain 'exact' exactly"),
]


@pytest.mark.parametrize(("formula", "message"), REFUSED)
def test_what_cannot_be_fitted_is_refused(formula, message):
    with pytest.raises(lmm.DataError, match=message):
        lmm.fit(formula, ill_behaved())


@pytest.mark.parametrize(
    ("there", "message"),
    [(40 * 2**30, r"need about 50 GiB, and there are 40 GiB"), (60 * 2**30, None), (None, None)],
)
def test_a_core_too_large_for_memory_is_refused(there, message, monkeypatch):
    monkeypatch.setattr(core_index, "memory_size", lambda: there)
    monkeypatch.setattr(plan, "_SEARCH", -1.0)  # nor does a sparse one hold it
    rng = np.random.default_rng(0)
    s, d = rng.integers(0, 30_000, 200_000), rng.integers(0, 29_000, 200_000)
    data = pd.DataFrame({"y": rng.normal(size=200_000), "s": s, "d": d})
    if message is None:
        core_index.check_memory(29_000, 29_000, 1, "d")
    else:
        with pytest.raises(lmm.DataError, match=message):
            lmm.fit("y ~ 1 + (1 | s) + (1 | d)", data, approximate=False)
    with pytest.raises(lmm.DataError, match=r"more than 2,147,483,647 places"):
        core_index.check_memory(50_000, 50_000, 1, "d")


def test_the_memory_of_a_machine_is_known():
    assert 2**28 < memory_size() < 2**50


def test_a_factor_without_variance():
    """The fit is that without the factor, and its variance zero."""
    data = ill_behaved()
    res, without = (lmm.fit(f"zero_d ~ x + (1 | s){d}", data) for d in (" + (1 | d)", ""))
    assert res.converged and res.singular
    assert res.theta[1] == 0
    assert_close(res.llf, without.llf, OPTIMUM_RTOL)
    assert_close(res.fe_params, without.fe_params, 1e-6, without.bse_fe)


def test_a_correlation_of_one():
    res = lmm.fit("aligned ~ x + (1 | s) + (1 + x | d)", ill_behaved())
    assert res.converged and res.singular
    correlation = res.varcorr.set_index(["grp", "var1", "var2"]).loc[("d", "Intercept", "x")]
    assert_close(correlation["sdcor"], -1.0, 1e-6)


def test_identical_factors_share_a_variance():
    """Only the sum of the two variances is determined."""
    data = ill_behaved()
    with pytest.warns(lmm.ConvergenceWarning, match="not identified"):
        twice = lmm.fit("zero_d ~ x + (1 | s) + (1 | same)", data)
    once = lmm.fit("zero_d ~ x + (1 | s)", data)
    assert_close(twice.llf, once.llf, OPTIMUM_RTOL)
    total = sum(S[0, 0] for S in twice.estimates.covariances)
    assert_close(total, once.cov_re.iloc[0, 0], 1e-5)


def test_large_variances_keep_the_digits(x64):
    """Standard deviations a thousand times the residual's: criterion against dense matrices.

    The dense V has a condition number near 1e9 there, which takes that many digits from it.
    """
    data = ill_behaved()
    design = lmm.design("steep ~ x + (1 | s) + (1 | d)", data)
    theta = np.array([900.0, 1100.0])
    X = np.column_stack([np.ones(300), data["x"]])
    terms = [intercept(data, "s"), intercept(data, "d")]
    expected = dense_deviance(X, data["steep"].to_numpy(), terms, theta, reml=True).criterion
    actual = -2 * float(lmm.profile_loglike(jnp.asarray(theta), design.layout))
    assert_close(actual, expected, 1e-7)
    assert lmm.fit(design).converged


# ------------------------------------------------------------ which layout


LAYOUTS = [
    ("(1 | s) + (1 | d)", "crossed", ("1 | s",), ("1 | d",)),
    ("(1 | d) + (1 | s)", "crossed", ("1 | s",), ("1 | d",)),
    ("(1 | s/visit) + (1 | d)", "crossed", ("1 | visit:s",), ("1 | s", "1 | d")),
    ("(1 | s) + (0 + x | s) + (1 | d)", "crossed", ("1 | s", "0 + x | s"), ("1 | d",)),
    ("(1 | s/visit)", "grouped", ("1 | visit:s", "1 | s"), ()),
    ("(1 | d) + (1 | dept)", "grouped", ("1 | d", "1 | dept"), ()),  # nested by its labels alone
    ("(x | s)", "grouped", ("x | s",), ()),
]


@pytest.mark.parametrize(("bars", "kind", "eliminated", "core"), LAYOUTS)
def test_layout_is_chosen_from_the_data(bars, kind, eliminated, core):
    design = lmm.design(f"y ~ x + {bars}", frame())
    info = design.layout_info
    assert (info.kind, info.eliminated, info.core) == (kind, eliminated, core)
    assert isinstance(design.layout, CrossedLayout if kind == "crossed" else GroupedLayout)
    assert kind in str(info)


def test_independent_blocks_are_found():
    info = lmm.design("y ~ x + (1 | s) + (1 | d)", islands()).layout_info
    assert info.core_size == 6
    assert info.n_blocks == 2  # the two small islands share one block


def test_few_groups_that_meet_everything_stay_in_the_core():
    """Teachers of 14 departments: those are eliminated, not whole departments of them."""
    rng = np.random.default_rng(1)
    teacher, student = rng.integers(0, 200, 2000), rng.integers(0, 100, 2000)
    columns = {"s": student, "d": teacher, "dept": teacher % 14, "y": rng.normal(size=2000)}
    info = lmm.design("y ~ 1 + (1 | s) + (1 | d) + (1 | dept)", pd.DataFrame(columns)).layout_info
    assert info.eliminated == ("1 | d",)
    assert info.core_size == 114


def test_what_persons_and_items_do_together_is_eliminated_alone():
    """As in a study of generalizability: a core of both, not groups of all that a person did."""
    rng = np.random.default_rng(1)
    columns = {"p": rng.integers(0, 100, 2000), "i": rng.integers(0, 40, 2000)}
    data = pd.DataFrame(columns | {"y": rng.normal(size=2000)})
    info = lmm.design("y ~ 1 + (1 | p:i) + (1 | p) + (1 | i)", data).layout_info
    assert info.eliminated == ("1 | p:i",)
    assert info.core_size == 140
