"""The crossed layout against dense matrices: criterion, derivatives, predictions, the choice."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import Term, assert_close, dense_blups, dense_deviance
from jax.test_util import check_grads

import lmm_jax as lmm
from lmm_jax.covariance import factor_blocks
from lmm_jax.layouts import links
from lmm_jax.layouts.crossed import CrossedLayout
from lmm_jax.layouts.grouped import GroupedLayout
from lmm_jax.likelihood import profile_jet
from lmm_jax.optimize import minimize
from lmm_jax.staged import minimize_staged

CRITERION_RTOL = 1e-11  # the same number from n x n matrices and from the core
DERIVATIVE_RTOL = 1e-8  # closed forms against automatic differentiation of n x n matrices
BLUP_TOL = 1e-8  # relative to a standard deviation of the effects
OPTIMUM_RTOL = 1e-9  # of the criterion at two ends of a search, decrement 1e-9 each


def frame(seed=0, n=150, students=14, items=7):
    """Ratings of items by students: two crossed factors, nested ones on both sides, covariates."""
    rng = np.random.default_rng(seed)
    s, d = rng.integers(0, students, n), rng.integers(0, items, n)
    x, z = rng.normal(size=(2, n))
    data = pd.DataFrame(
        {
            "x": x,
            "z": z + 3,
            "s": np.char.add("s", s.astype(str)),
            "d": np.char.add("d", d.astype(str)),
            "visit": np.char.add("v", rng.integers(0, 3, n).astype(str)),
            "dept": np.char.add("k", (d % 3).astype(str)),
            "A": np.array(list("abc"))[rng.integers(0, 3, n)],
            "w": rng.uniform(0.5, 2.0, n),
        }
    )
    effects = rng.normal(size=students)[s] + 0.8 * rng.normal(size=items)[d]
    data["y"] = 2 + x + effects + 0.4 * x * rng.normal(size=students)[s] + rng.normal(size=n)
    return data


def islands(seed=1):
    """Three disconnected designs of very different size; labels do not tell."""
    parts = [frame(seed, 90, 9, 6), frame(seed + 1, 40, 5, 3), frame(seed + 2, 30, 4, 3)]
    for i, part in enumerate(parts):
        part["s"], part["d"] = f"{i}" + part["s"], f"{i}" + part["d"]
    return pd.concat(parts, ignore_index=True)


def intercept(data, *columns):
    labels = data[list(columns)].agg(":".join, axis=1).to_numpy(str)
    return Term(np.ones((len(data), 1)), labels)


def slope(data, column, *columns, alone=False):
    term = intercept(data, *columns)
    x = data[[column]].to_numpy()
    return Term(x if alone else np.hstack([term.Z, x]), term.groups)


def indicators(data, column, *columns):
    levels = np.unique(data[column])
    return Term(
        (data[[column]].to_numpy() == levels).astype(float), intercept(data, *columns).groups
    )


# name: data, random part of the formula, the same as dense terms in the order of theta
DESIGNS = {
    "intercepts": (frame, "(1 | s) + (1 | d)", lambda f: [intercept(f, "s"), intercept(f, "d")]),
    "slopes": (
        frame,
        "(1 + x | s) + (1 + z | d)",
        lambda f: [slope(f, "x", "s"), slope(f, "z", "d")],
    ),
    "three": (
        frame,
        "(1 | s) + (1 | d) + (1 | dept:visit)",
        lambda f: [intercept(f, "s"), intercept(f, "dept", "visit"), intercept(f, "d")],
    ),
    "nested in the eliminated": (
        frame,
        "(1 | s/visit) + (1 + x | d)",
        lambda f: [intercept(f, "visit", "s"), intercept(f, "s"), slope(f, "x", "d")],
    ),
    "same factor twice": (
        frame,
        "(1 | s) + (1 | d) + (0 + x | d)",
        lambda f: [intercept(f, "s"), intercept(f, "d"), slope(f, "x", "d", alone=True)],
    ),
    "factor slopes": (
        frame,
        "(0 + A | s) + (1 | d)",
        lambda f: [indicators(f, "A", "s"), intercept(f, "d")],
    ),
    "islands": (
        islands,
        "(1 + x | s) + (1 | d)",
        lambda f: [slope(f, "x", "s"), intercept(f, "d")],
    ),
}
NAMES = sorted(DESIGNS)
WEIGHTED = {"slopes", "three"}


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


@pytest.mark.parametrize("name", NAMES)
def test_criterion_against_dense_matrices(name, x64):
    layout = model(name)[0].layout
    assert isinstance(layout, CrossedLayout)
    both = jax.jit(lambda t: [lmm.profile_loglike(t, layout, reml=r) for r in (True, False)])
    for theta in thetas(name):
        for reml, value in zip((True, False), both(jnp.asarray(theta)), strict=True):
            expected = dense(name, theta, reml)[1].criterion
            assert_close(-2 * float(value), expected, CRITERION_RTOL)


def dense_criterion(name):
    """REML criterion as a function of the layout's theta, n x n matrices in JAX."""
    design, data, terms = model(name)
    X, y = np.column_stack([np.ones(len(data)), data["x"]]), data["y"].to_numpy()
    w = data["w"].to_numpy() if name in WEIGHTED else np.ones(len(data))
    whiteners = [np.asarray(A) for A in design.layout.whiteners]
    same = [(term.groups[:, None] == term.groups).astype(float) for term in terms]

    def criterion(theta):
        V = jnp.diag(1 / w)
        blocks = factor_blocks(theta, design.sizes)
        for term, A, L, mask in zip(terms, whiteners, blocks, same, strict=True):
            half = term.Z @ A @ L
            V = V + half @ half.T * mask
        C = jnp.linalg.cholesky(V)
        half = jax.scipy.linalg.solve_triangular(C, np.column_stack([X, y]), lower=True)
        R = jnp.linalg.cholesky(half.T @ half)
        p, nu = X.shape[1], len(y) - X.shape[1]
        log_rss = 2 * jnp.log(R[p, p]) - np.log(nu)
        logdets = 2 * jnp.sum(jnp.log(jnp.diagonal(C))) + 2 * jnp.sum(jnp.log(jnp.diagonal(R)[:p]))
        return logdets + nu * (1 + np.log(2 * np.pi) + log_rss)

    return criterion


@pytest.mark.parametrize("name", NAMES)
def test_jet_against_dense_matrices(name, x64):
    """Closed forms of value, gradient and Hessian at interior and singular theta."""
    layout, f = model(name)[0].layout, dense_criterion(name)
    plain = jax.jit(lambda t: (f(t), jax.grad(f)(t), jax.hessian(f)(t)))
    jet = jax.jit(lambda t: profile_jet(t, layout, reml=True))
    for theta in thetas(name):
        value, gradient, hessian = plain(jnp.asarray(theta))
        at = jet(jnp.asarray(theta))
        assert_close(at.value, value, CRITERION_RTOL)
        assert_close(at.gradient, gradient, DERIVATIVE_RTOL, np.abs(hessian).max())
        assert_close(at.hessian, hessian, DERIVATIVE_RTOL, np.abs(hessian).max())


def test_derivatives_of_the_waist(x64):
    """The public functions differentiate to second order, at a singular covariance too."""
    layout = model("slopes")[0].layout
    f = jax.jit(lambda t: lmm.profile_loglike(t, layout))
    for theta in thetas("slopes")[:2]:
        check_grads(f, (jnp.asarray(theta),), order=2, modes=["fwd", "rev"], rtol=1e-4)


@pytest.mark.parametrize("name", ["slopes", "nested in the eliminated"])
def test_average_information(name, x64):
    """``y' P V_k P V_l P y / sigma^2`` from n x n matrices, sigma^2 profiled out."""
    design, data, terms = model(name)
    layout, theta = design.layout, thetas(name)[0]
    weights = data["w"].to_numpy() if name in WEIGHTED else np.ones(len(data))
    X, y = np.column_stack([np.ones(len(data)), data["x"]]), data["y"].to_numpy()
    jet = jax.jit(lambda t: profile_jet(t, layout, reml=True, exact=False))(jnp.asarray(theta))
    whiteners = [np.asarray(A) for A in layout.whiteners]

    def covariance(at):
        V = np.diag(1 / weights)
        for term, A, L in zip(
            terms, whiteners, factor_blocks(jnp.asarray(at), layout.sizes), strict=True
        ):
            Psi = A @ np.asarray(L @ L.T) @ A.T
            V = V + (term.Z @ Psi @ term.Z.T) * (term.groups[:, None] == term.groups)
        return V

    m, h = theta.size, 1e-2
    steps = h * np.eye(m)
    V = covariance(theta)
    dV = [
        (covariance(theta + e) - covariance(theta - e)) / (2 * h) for e in steps
    ]  # quadratic: exact
    Vi = np.linalg.inv(V)
    P = Vi - Vi @ X @ np.linalg.solve(X.T @ Vi @ X, X.T @ Vi)
    Py = P @ y
    sigma2 = (y @ Py) / (len(y) - 2)  # REML
    A = np.array([[Py @ a @ P @ b @ Py for b in dV] for a in dV]) / sigma2
    rho = np.array([-Py @ a @ Py for a in dV]) / (y @ Py)
    expected = A - (len(y) - 2) * np.outer(rho, rho)
    # the rest of the Hessian: what Psi bends in theta, <d criterion / dV, d2V>
    G = P - np.outer(Py, Py) / sigma2
    for k in range(m):
        for j in range(m):
            d2V = (
                covariance(theta + steps[k] + steps[j]) - covariance(theta + steps[k] - steps[j])
                - covariance(theta - steps[k] + steps[j]) + covariance(theta - steps[k] - steps[j])
            ) / (4 * h**2)  # fmt: skip
            expected[k, j] += np.sum(G * d2V)
    assert_close(jet.hessian, expected, DERIVATIVE_RTOL, np.abs(expected).max())


def test_gradients_reach_the_data(x64):
    """Derivatives in y and the weights through the compression of a crossed design."""
    design = model("slopes")[0]
    n = design.nobs

    def pad(a):
        return jnp.concatenate([a, jnp.zeros((rows - n, *a.shape[1:]))])

    def value(y, w):
        layout = lmm.compress(pad(y), X, Z, pad(w), design.plan.index)
        return lmm.profile_loglike(jnp.asarray(thetas("slopes")[0]), layout)

    rows = design.plan.index.block.size
    X, Z = pad(design.exog), tuple(pad(term.values) for term in design.terms)
    y, w = jnp.asarray(design.endog), jnp.asarray(design.weights)
    check_grads(jax.jit(value), (y, w), order=1, modes=["rev"], rtol=1e-5)


# ------------------------------------------------------------ the fit and what follows from it


@pytest.mark.parametrize("name", NAMES)
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


@pytest.mark.parametrize("name", ["three", "nested in the eliminated"])
def test_staged_equals_whole(name, x64):
    """Steps driven from the host end where the compiled loop ends."""
    layout = model(name)[0].layout
    whole = jax.jit(lambda at: minimize(at, reml=True, maxiter=100))(layout)
    staged = minimize_staged(layout, reml=True, maxiter=100)
    assert int(whole.status) == int(staged.status) == 1
    assert_close(staged.jet.value, whole.jet.value, OPTIMUM_RTOL)
    hessians = [np.abs(at.jet.hessian) for at in (staged, whole)]  # signs of columns are free
    assert_close(*hessians, 1e-3, hessians[1].max())


def test_chunks_of_pairs(x64, monkeypatch):
    """Sums over pairs do not depend on how many are taken at once."""
    data = frame(3, 3000, 60, 40)
    whole = lmm.design("y ~ x + (1 | s) + (1 | d)", data).layout
    theta = jnp.array([0.7, 0.4])
    expected = profile_jet(theta, whole, reml=True)
    monkeypatch.setattr(links, "CHUNK", 1 << 12)
    monkeypatch.setattr("lmm_jax.layouts.crossed_index.CHUNK", 1 << 12)
    jax.clear_caches()
    parts = lmm.design("y ~ x + (1 | s) + (1 | d)", data).layout
    assert parts.links[0].left.size > 4 * links.CHUNK
    actual = profile_jet(theta, parts, reml=True)
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


def test_profile_of_a_variance():
    """Every point equals a fit with that ratio held, on both sides of the layout."""
    data = frame()
    res = lmm.fit("y ~ x + (1 + x | s) + (1 + z | d)", data, reml=False)
    ratio = res.cov_re_unscaled.to_numpy()
    for which in (1, 2):
        curve = res.profile_re(which, "re", 1, 0.3 * res.cov_re.iloc[which, which], 0, 0.0)
        assert_close(curve[1, 1], res.llf, OPTIMUM_RTOL)
        start = lmm.Params(
            fe_params=np.zeros(0), cov_re=np.where(np.eye(4), ratio, 0.0), vcomp=np.zeros(0)
        )
        start.cov_re[which, which] *= 0.7
        free = np.ones((4, 4))
        free[which, which] = 0.0
        mask = lmm.Params(fe_params=np.ones(2), cov_re=free, vcomp=np.zeros(0))
        held = lmm.fit("y ~ x + (1 + x | s) + (1 + z | d)", data, reml=False, free=mask,
                       start_params=start)  # fmt: skip
        assert_close(curve[0, 1], held.llf, 1e-8)


# ------------------------------------------------------------ which layout


LAYOUTS = [
    ("(1 | s) + (1 | d)", "crossed", ("1 | s",), ("1 | d",)),
    ("(1 | d) + (1 | s)", "crossed", ("1 | s",), ("1 | d",)),
    ("(1 | s/visit) + (1 | d)", "crossed", ("1 | visit:s", "1 | s"), ("1 | d",)),
    ("(1 | s) + (1 | d) + (0 + x | s)", "crossed", ("1 | s", "0 + x | s"), ("1 | d",)),
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
