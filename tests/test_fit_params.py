"""The pure fit: equal to ``lmm.fit``, and differentiable at its optimum."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import samples
from helpers import assert_close
from jax import lax

import lmm_jax as lmm
from lmm_jax.errors import DataError
from lmm_jax.numerics.tiers import running_on
from lmm_jax.optimize import minimize

RTOL = 1e-9  # two runs to an optimum of decrement 1e-9, which the last step squares
# central differences of refits: step^2 of the third derivative, and the optimum's rounding
# (about 1e-11) over the step
STEP, DIFF_RTOL = 1e-4, 1e-6
EXACT = 1e-11  # zeros, relative to estimates of order one
# sums over 60 rows, eps = 6e-8; the gradient, not the criterion, finds the optimum
FLOAT32_RTOL = 1e-5

DATA = samples.frame()
COLUMNS = np.column_stack([np.ones(len(DATA)), DATA["x"]])
ROWS = (COLUMNS, COLUMNS[:, None, :], DATA["w"].to_numpy())
INDEX = lmm.row_index(DATA["g"], 2)

run = jax.jit(lmm.fit_params, static_argnames="reml")


def numbers(out):
    """All estimates in one vector: fixed effects, cov_re, components, scale, log-likelihood."""
    p = out.params
    return jnp.concatenate([p.fe_params, p.cov_re.ravel(), p.vcomp, out.scale[None], out.llf[None]])


def numbers_of(res):
    parts = (res.fe_params, np.ravel(res.cov_re_unscaled), res.vcomp / res.scale)
    return np.concatenate([*map(np.asarray, parts), [res.scale, res.llf]])


# ------------------------------------------------------------ values


MODELS = {
    "slopes": ("y ~ x + (x | g)", {"weights": "w"}),
    "nested": ("y ~ x + (x | g) + (1 | g:s)", {}),
    "crossed": ("y ~ x + (1 | g) + (1 | f)", {"offset": "o"}),
    "components": ("y ~ x", {"groups": "g", "re_formula": "1", "vc_formula": {"s": "0 + C(s)"}}),
}


@pytest.mark.device
@pytest.mark.parametrize("name", MODELS)
def test_estimates_are_those_of_fit(x64, name):
    formula, options = MODELS[name]
    reml = name != "nested"
    res = lmm.fit(formula, DATA, reml=reml, **options)
    out = run(res.design.layout, reml=reml)
    assert bool(out.converged)
    assert_close(numbers(out), numbers_of(res), RTOL, 1e-2)
    value = lmm.loglike(out.params, res.design.layout, reml=reml)
    assert_close(out.llf, value, RTOL)  # params are in the units of loglike


def test_start_and_its_limit(x64):
    """One run from a start; no steps give the model at the start, not converged."""
    design = lmm.design("y ~ x + (1 | g)", DATA)
    start = lmm.Params.from_components(cov_re=np.array([[0.3]]))
    near, held = jax.jit(
        lambda at: [lmm.fit_params(design.layout, at, maxiter=most) for most in (100, 0)]
    )(start)
    assert_close(numbers(near), numbers_of(lmm.fit(design)), RTOL, 1e-2)
    assert not bool(held.converged)
    assert_close(held.params.cov_re, start.cov_re, RTOL)


@pytest.mark.parametrize("runtime", ["numpy", "jax"])
def test_data_are_read_at_once_within_a_program(x64, runtime):
    """A design that a program of the caller's is the first to use holds numbers, no tracers."""
    design = lmm.design("y ~ x + (1 | g)", DATA)
    with running_on(runtime):
        out = jax.jit(lambda: lmm.fit_params(design.layout))()
        llf = jax.jit(lambda: lmm.fit(design).llf)()
    jax.tree.map(np.asarray, design.layout)  # refused for tracers
    assert_close(numbers(out), numbers_of(lmm.fit(design)), RTOL, 1e-2)
    assert_close(llf, out.llf, RTOL)


# ------------------------------------------------------------ derivatives


def response(kind):
    """A response whose optimum is interior, of rank one, or zero."""
    if kind == "interior":
        return DATA["y"].to_numpy()
    rng = np.random.default_rng({"rank one": 102, "zero": 104}[kind])
    y = rng.normal(size=60)
    return y if kind == "zero" else y + DATA["x"] * rng.normal(size=10)[np.arange(60) // 6] / 2


KINDS = ("interior", "rank one", "zero")


def estimates_of_rows(y, X, Z, w):
    return numbers(lmm.fit_params(lmm.compress(y, X, (Z,), w, INDEX)))


BATCH = {"in_axes": (0, None, None, None)}


@jax.jit
def forward(rows, moves):
    """Estimates of a batch of responses, and their derivatives along moves of the rows."""
    return jax.jvp(jax.vmap(estimates_of_rows, **BATCH), rows, moves)


backward = jax.jit(jax.vmap(jax.jacrev(estimates_of_rows, argnums=(0, 1, 2, 3)), **BATCH))


def test_derivatives_equal_differences_of_refits(x64):
    """With respect to y, X, Z and weights, at interior and singular optima, in one batch."""
    rows = ys, *_ = (np.stack([response(kind) for kind in KINDS]), *ROWS)
    jacobians = backward(*rows)

    def refit(*rows):
        return np.asarray(forward(rows, rows)[0])

    fits = refit(*rows)
    ranks = [np.linalg.matrix_rank(fit[2:6].reshape(2, 2), tol=1e-8) for fit in fits]
    assert ranks == [2, 1, 0]
    for y, fit in zip(ys, fits, strict=True):
        one = lmm.fit("y ~ x + (x | g)", DATA.assign(y=np.asarray(y)), weights="w")
        assert_close(fit, numbers_of(one), RTOL, 1e-2)

    rng = np.random.default_rng(7)
    for j, part in enumerate(rows):
        move = rng.normal(size=part.shape)
        moves = tuple(move if i == j else np.zeros(a.shape) for i, a in enumerate(rows))
        up, down = (refit(*(a + s * STEP * m for a, m in zip(rows, moves, strict=True)))
                    for s in (1, -1))  # fmt: skip
        difference = (up - down) / (2 * STEP)
        along = [
            np.tensordot(J, m, axes=m.ndim)
            for J, m in zip(jacobians[j], move if j == 0 else [move] * 3, strict=True)
        ]
        assert_close(along, difference, DIFF_RTOL, np.abs(difference).max())
        assert_close(forward(rows, moves)[1], along, RTOL, np.abs(difference).max())
        assert np.abs(along[2][2:6]).max() < EXACT  # a variance of zero stays zero
        Psi, dPsi = fits[1][2:6].reshape(2, 2), along[1][2:6].reshape(2, 2)
        # within the matrices of rank one: nothing outside the range, to first order
        null = np.linalg.eigh(Psi)[1][:, :1]
        assert np.abs(null.T @ dPsi @ null) < EXACT
        assert np.abs(dPsi).max() > 1e-3


@pytest.mark.device
def test_float32_and_scan():
    """Values and derivatives of all three optima: float32 in a scan, float64 in a batch."""
    rng = np.random.default_rng(9)
    ys = np.stack([response(kind) for kind in KINDS])
    moves = rng.normal(size=ys.shape)
    with jax.enable_x64(True):
        expected = forward((ys, *ROWS), (moves, *map(np.zeros_like, ROWS)))

    @jax.jit
    def scanned(ys, moves, X, Z, w):
        def one(_, pair):
            def fit(y):
                out = lmm.fit_params(lmm.compress(y, X, (Z,), w, INDEX))
                return numbers(out), out.converged.astype(y.dtype)

            return None, jax.jvp(fit, (pair[0],), (pair[1],))

        return lax.scan(one, None, (ys, moves))[1]

    out = scanned(*(a.astype(np.float32) for a in (ys, moves, *ROWS)))
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {np.dtype(np.float32)}
    (values, converged), (slopes, _) = jax.tree.map(np.asarray, out)
    assert converged.all()
    for single, double in zip((values, slopes), expected, strict=True):
        assert_close(single, double, FLOAT32_RTOL, np.abs(double).max())


LAYOUTS = {"nested, a component": ["g", "gs"], "crossed": ["g", "f"]}


@pytest.mark.parametrize("name", LAYOUTS)
def test_derivatives_of_several_terms_by_ml(x64, name):
    data = DATA.assign(gs=DATA["g"] + DATA["s"])
    sizes = (1, 1) if name == "crossed" else (2, 1)
    factors = [data[factor].to_numpy() for factor in LAYOUTS[name]]
    index = lmm.row_index(factors, sizes, n_components=int(name != "crossed"))
    Z = tuple(jnp.asarray(COLUMNS[:, None, :k]) for k in sizes)
    X, w = jnp.asarray(COLUMNS), jnp.asarray(DATA["w"])
    move = np.random.default_rng(1).normal(size=60)

    def along(t):
        y = jnp.asarray(DATA["y"].to_numpy() + DATA["z"] * (data["f"] == "a")) + t * move
        return numbers(lmm.fit_params(lmm.compress(y, X, Z, w, index), reml=False))

    both = jax.jit(lambda t: jax.jvp(along, (t,), (1.0,)))
    difference = (both(STEP)[0] - both(-STEP)[0]) / (2 * STEP)
    assert_close(both(0.0)[1], difference, DIFF_RTOL, np.abs(difference).max())


def test_second_derivatives_at_an_interior_optimum(x64):
    index, move = lmm.row_index(DATA["g"]), np.random.default_rng(1).normal(size=60)
    X, one = jnp.asarray(COLUMNS), jnp.ones(60)

    def along(t):
        y = jnp.asarray(DATA["y"].to_numpy()) + t * move
        return numbers(lmm.fit_params(lmm.compress(y, X, (X[:, None, :1],), one, index)))

    @jax.jit
    def both(t):
        return jax.jvp(lambda t: jax.jvp(along, (t,), (1.0,))[1], (t,), (1.0,))

    difference = (both(STEP)[0] - both(-STEP)[0]) / (2 * STEP)
    assert_close(both(0.0)[1], difference, DIFF_RTOL, np.abs(difference).max())


def test_gradient_of_the_maximum_is_that_of_the_likelihood(x64):
    """The envelope theorem: at the optimum only the data move."""
    X, Z, w = ROWS
    ys = np.stack([response(kind) for kind in KINDS])
    best = backward(ys, X, Z, w)[0][KINDS.index("interior"), -1]
    res = lmm.fit("y ~ x + (x | g)", DATA, weights="w")
    at = lmm.Params.from_components(cov_re=res.cov_re_unscaled)
    held = jax.jit(jax.grad(lambda y: lmm.loglike(at, lmm.compress(y, X, (Z,), w, INDEX))))
    want = held(response("interior"))
    assert_close(best, want, 1e-7, np.abs(want).max())  # the optimum's gradient is not quite zero


# ------------------------------------------------------------ data that nobody has checked

Y = DATA["y"].to_numpy()
VOID = slice(3, 9)  # rows that are spoilt


def estimates(y, weights, index=INDEX, X=ROWS[0]):
    one = jnp.ones_like(y)[:, None, None]
    Z = (jnp.asarray(ROWS[1], y.dtype) if index.sizes == (2,) else one,)
    return lmm.fit_params(lmm.compress(y, jnp.asarray(X, y.dtype), Z, weights, index))


fitted = jax.jit(estimates)
SPOILT = {
    "a value": lambda y, w: (y.at[3].set(np.nan), w),
    "an infinite value": lambda y, w: (y.at[3].set(np.inf), w),
    "a negative weight": lambda y, w: (y, w.at[3].set(-1.0)),
    "a weight": lambda y, w: (y, w.at[3].set(np.nan)),
    "no row": lambda y, w: (y, 0.0 * w),
    "a constant": lambda y, w: (0.0 * y + 2.0, w),
}


@pytest.mark.parametrize("what", SPOILT)
def test_what_has_no_likelihood_has_no_estimates(x64, what):
    out = fitted(*SPOILT[what](jnp.asarray(Y), jnp.asarray(ROWS[2])))
    assert not out.converged and np.isnan(numbers(out)).all()


def test_rows_of_weight_zero_may_hold_anything(x64):
    there = np.ones(len(DATA), bool)
    there[VOID] = False
    weights = jnp.where(there, jnp.asarray(ROWS[2]), 0.0)
    y, X = jnp.asarray(Y).at[VOID].set(np.nan), jnp.asarray(ROWS[0]).at[VOID, 1].set(np.inf)
    value = jax.jit(jax.value_and_grad(lambda *a: estimates(*a[:2], X=a[2]).llf, (0, 1, 2)))
    llf, slopes = value(y, weights, X)
    alone = lmm.fit("y ~ x + (x | g)", DATA[there], weights="w")
    assert_close(llf, alone.llf, RTOL)
    for slope in slopes:
        assert np.isfinite(slope).all() and not slope[VOID].any()


def test_parameters_that_the_rows_do_not_tell_have_not_converged(x64):
    """``lmm.fit`` refuses these; what is returned of theta is anything."""
    n = len(DATA)
    y, one = jnp.asarray(Y), jnp.ones(n)
    assert fitted(y, one, lmm.row_index(DATA["g"])).converged
    for labels in (np.zeros(n), np.arange(n)):
        assert not fitted(y, one, lmm.row_index(labels)).converged
    assert not fitted(jnp.asarray(ROWS[0]) @ jnp.array([1.0, 2.0]), one).converged


@pytest.mark.parametrize("formula", ["y ~ x + (x | g)", "y ~ x + (1 | g) + (1 | f)"])
def test_a_layout_of_a_design_goes_into_a_program_of_32_bits(formula):
    """JAX warns of every operation that mixes the two, and warnings are errors here."""
    res = lmm.fit(formula, DATA)
    layout = res.design.layout
    out = run(layout)
    assert out.llf.dtype == jnp.float32
    assert_close(out.llf, res.llf, FLOAT32_RTOL)
    for value in (lmm.profile_loglike(res.theta, layout), jax.jit(lmm.loglike)(out.params, layout)):
        assert_close(value, res.llf, FLOAT32_RTOL)


# ------------------------------------------------------------ covariance structures

MACHINES = lmm.load_dataset("machines")


@pytest.mark.parametrize("term", ["cs", "ar1 hom"])
def test_derivatives_of_terms_with_a_structure(x64, term):
    """Along random directions of y, against differences of refits; estimates are those of fit."""
    name, _, equal = term.partition(" ")
    res = lmm.fit(f"score ~ Machine + {name}(0 + Machine | Worker, hom={bool(equal)})", MACHINES)
    design = res.design
    Z, X = tuple(jnp.asarray(t.values) for t in design.terms), jnp.asarray(design.exog)
    index, y = lmm.row_index(design), jnp.asarray(design.endog)

    @jax.jit
    def run_rows(y):
        out = lmm.fit_params(lmm.compress(y, X, Z, jnp.ones_like(y), index))
        return numbers(out), out.converged

    found, converged = run_rows(y)
    assert converged
    assert_close(found, numbers_of(res), RTOL, 1e-2)
    move = jnp.asarray(np.random.default_rng(0).normal(size=y.size))
    slope = jax.jvp(lambda y: run_rows(y)[0], (y,), (move,))[1]
    step = 0.3 * STEP * float(y.std())
    difference = np.asarray(run_rows(y + step * move)[0] - run_rows(y - step * move)[0]) / (
        2 * step
    )
    assert_close(slope, difference, DIFF_RTOL, np.abs(difference).max())


def test_a_start_knows_no_structure(x64):
    layout = lmm.design("y ~ x + cs(1 + x | g, hom=True)", DATA).layout
    start = lmm.Params(fe_params=[], cov_re=np.eye(2), vcomp=[])
    with pytest.raises(DataError, match="keeps no covariance structure"):
        lmm.fit_params(layout, start)


# ------------------------------------------------------------ what converged means


def test_dependent_columns_have_no_estimates(x64):
    """Whatever the rounding of their cross-products is; in the rows that weigh something."""
    weights = jnp.asarray(ROWS[2])
    for seed in range(5):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(len(Y), 3)) if seed else np.column_stack([*ROWS[0].T, ROWS[0][:, 1]])
        X = np.column_stack([X, X @ rng.integers(-3, 4, size=3)])
        out = fitted(jnp.asarray(Y), weights, INDEX, X)
        assert not out.converged and np.isnan(numbers(out)).all()
    X = np.column_stack([ROWS[0], np.arange(len(Y)) == 4])
    absent = weights.at[4].set(0.0)
    assert fitted(jnp.asarray(Y), weights, INDEX, X).converged
    assert not fitted(jnp.asarray(Y), absent, INDEX, X).converged


@pytest.mark.parametrize("weight", [-1.0, np.nan])
def test_a_weight_that_is_none_without_fixed_effects(x64, weight):
    weights = jnp.asarray(ROWS[2]).at[3].set(weight)
    out = fitted(jnp.asarray(Y), weights, INDEX, np.zeros((len(Y), 0)))
    assert not out.converged and np.isnan(numbers(out)).all()


@pytest.mark.parametrize("bits", [32, 64])
def test_rows_that_tell_no_variance_in_either_precision(bits):
    rng = np.random.default_rng(0)
    n, g = len(Y), np.arange(len(Y)) // 6
    with jax.enable_x64(bits == 64):
        one = jnp.ones(n)
        told, alone, each = (lmm.row_index(labels) for labels in (g, 0 * g, np.arange(n)))
        ml = jax.jit(lambda y: lmm.fit_params(
            lmm.compress(y, jnp.ones((n, 1)), (jnp.ones((n, 1, 1)),), one, alone), reml=False
        ))  # fmt: skip
        for _ in range(10):
            y = jnp.asarray(rng.normal(size=10)[g] + rng.normal(size=n), one.dtype)
            assert fitted(y, one, told).converged
            assert not fitted(y, one, alone).converged and not fitted(y, one, each).converged
            assert not ml(y).converged  # the likelihood bends all the same


@pytest.mark.parametrize("term", ["ar1(0 + f | g)", "toep(0 + f | g, hom=True)", "cs(0 + f | g)"])
def test_structures_at_a_bound_have_converged_where_fit_has(x64, term):
    """Of noise: variances of zero, correlations of one."""
    for seed in range(3):
        y = np.random.default_rng(seed).normal(size=135)
        data = {"y": y, "g": np.repeat(np.arange(15), 9), "f": list("aaabbbccc") * 15}
        res = lmm.fit(f"y ~ 1 + {term}", data)
        out = run(res.design.layout)
        assert out.converged == res.converged
        assert_close(out.llf, res.llf, RTOL)


def test_a_variance_of_zero_excuses_no_other_term(x64):
    """Two terms of the same columns, beside a third: their covariances add up to one."""
    rng = np.random.default_rng(1)
    n, g, s = 120, np.arange(120) // 10, np.arange(120) // 5
    index = lmm.row_index([g, g, s], [2, 2, 1])
    x = jnp.asarray(np.column_stack([np.ones(n), rng.normal(size=n)]))
    Z = (x[:, None], x[:, None], jnp.ones((n, 1, 1)))
    layout = lambda y: lmm.compress(y, x, Z, jnp.ones(n), index)  # noqa: E731
    both = jax.jit(lambda y: lmm.fit_params(layout(y)))
    zeros = 0
    for _ in range(6):
        own = np.asarray(x) * rng.normal(size=(12, 2))[g]
        out = both(jnp.asarray(own.sum(axis=1) + rng.normal(size=n)))
        assert not out.converged
        zeros += bool(out.params.cov_re[-1, -1] == 0)
    assert zeros > 0


def test_calendar_years_have_full_rank_in_single_precision():
    rng = np.random.default_rng(0)
    g, one = rng.integers(0, 40, 400), np.ones(400)
    year = 2010 + np.round(2 * rng.normal(size=400))
    X = np.column_stack([one, year, rng.normal(size=400)])
    y = 0.1 * (X[:, 1] - 2010) + rng.normal(size=40)[g] + rng.normal(size=400)
    rows = [np.asarray(a, np.float32) for a in (y, X, one[:, None, None], one)]
    layout = lmm.compress(rows[0], rows[1], (rows[2],), rows[3], lmm.row_index(g))
    found = run(layout)
    frame = pd.DataFrame({"y": y, "a": year, "b": X[:, 2], "g": g})
    assert_close(found.llf, lmm.fit("y ~ a + b + (1 | g)", frame).llf, FLOAT32_RTOL)


THETAS = {
    **{name: (formula, options) for name, (formula, options) in MODELS.items()},
    "three": ("y ~ x + (x + I(x**2) | g)", {}),
    "residual": ("y ~ x + (1 | g) + ar1(row | g:s)", {}),
    "structured": ("y ~ x + ar1(0 + f | g)", {}),
}


@pytest.mark.parametrize("name", THETAS)
def test_theta_and_covariance_of_the_fixed_effects(x64, name):
    formula, options = THETAS[name]
    res = lmm.fit(formula, DATA, **options)
    layout = res.design.layout
    out = run(layout)
    assert_close(lmm.profile_loglike(out.theta, layout), out.llf, 1e-11)
    p = len(res.fe_params)
    assert_close(out.cov_fe, res.cov_params().to_numpy()[:p, :p], 1e-6)
    if name in ("residual", "structured"):  # theta is of their own
        with pytest.raises(DataError, match="covariance"):
            lmm.get_theta(out.params, layout)
        return
    assert_close(out.theta, res.theta, 1e-6, scale=1.0)
    assert_close(lmm.get_theta(out.params, layout), out.theta, 1e-7, scale=1.0)
    sizes = res.design.sizes[: len(res.design.sizes) - res.design.n_components]
    packed = lmm.pack(out.params, sizes, with_fe=False, sqrt=True)
    assert_close(lmm.get_theta(packed, layout, sqrt=True), out.theta, 1e-7, scale=1.0)


@pytest.mark.parametrize("name", ["slopes", "residual"])
def test_theta_and_covariance_have_derivatives(x64, name):
    """Against refits of a response that is moved a little."""
    formula, options = THETAS[name]
    y, *rest, index = lmm.design(formula, DATA, **options).padded_rows()
    n = index.n_rows - 1 if name == "residual" else len(y)  # the last one is its own there
    rows = [y[:n], rest[0][:n], tuple(z[:n] for z in rest[1]), rest[2][:n]]
    direction = np.append(np.random.default_rng(2).normal(size=60), np.zeros(n - 60))

    def fitted(step):
        out = lmm.fit_params(lmm.compress(rows[0] + step * direction, *rows[1:], index))
        return jnp.concatenate([out.theta, out.cov_fe.ravel()])

    slope = jax.jit(jax.jacfwd(fitted))(0.0)
    value = jax.jit(fitted)
    differences = (value(STEP) - value(-STEP)) / (2 * STEP)
    assert_close(slope, differences, DIFF_RTOL, scale=float(jnp.abs(differences).max()))


def test_lanes_take_no_runs_that_nobody_wants(x64, monkeypatch):
    """Under vmap a branch not taken is computed all the same: starts without a run cost nothing."""
    calls, plain = [], minimize._jet

    def counted(theta, layout, *, reml):
        jax.debug.callback(lambda _: calls.append(1), theta)
        return plain(theta, layout, reml=reml)

    monkeypatch.setattr(minimize, "_jet", counted)
    rng, g = np.random.default_rng(5), np.repeat(np.arange(12), 5)
    x = np.tile(np.arange(5.0), 12)
    X = np.column_stack([np.ones(60), x])
    b = rng.normal(size=(6, 2, 12))
    Y = b[:, 0, g] + 0.5 * b[:, 1, g] * x + rng.normal(size=(6, 60))
    index = lmm.row_index(g, sizes=2)

    def fitted(y):
        return lmm.fit_params(lmm.compress(y, X, (X[:, None],), np.ones(60), index)).llf

    counts, values = [], []
    for run in (jax.vmap(fitted), lambda Y: jax.lax.map(fitted, Y)):
        jax.clear_caches()
        calls.clear()
        values.append(np.asarray(jax.jit(run)(Y)))
        jax.effects_barrier()
        counts.append(len(calls))
    assert_close(values[0], values[1], 1e-11)
    assert counts[1] < counts[0] < 4 * counts[1]  # all lanes wait for the slowest
