"""The pure fit: equal to ``lmm.fit``, and differentiable at its optimum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples
from helpers import assert_close
from jax import lax

import lmm_jax as lmm

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
    layout = lmm.design("y ~ x + (x | g)", DATA).layout
    start = lmm.Params.from_components(cov_re=np.array([[1.0, 0.2], [0.2, 0.5]]))
    near = jax.jit(lambda at: lmm.fit_params(layout, at))(start)
    assert_close(numbers(near), numbers(run(layout)), RTOL, 1e-2)
    held = lmm.fit_params(layout, start, maxiter=0)
    assert not bool(held.converged)
    assert_close(held.params.cov_re, start.cov_re, RTOL)


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


def test_derivatives_equal_differences_of_refits(x64):
    """With respect to y, X, Z and weights, at interior and singular optima, in one batch."""
    ys = jnp.stack([jnp.asarray(response(kind)) for kind in KINDS])
    rows = (ys, *map(jnp.asarray, ROWS))
    batch = {"in_axes": (0, None, None, None)}
    refit = jax.jit(jax.vmap(estimates_of_rows, **batch))
    backward = jax.vmap(jax.jacrev(estimates_of_rows, argnums=(0, 1, 2, 3)), **batch)
    jacobians = jax.jit(backward)(*rows)
    forward = jax.jit(
        lambda rows, moves: jax.jvp(jax.vmap(estimates_of_rows, **batch), rows, moves)
    )
    fits = np.asarray(refit(*rows))
    ranks = [np.linalg.matrix_rank(fit[2:6].reshape(2, 2), tol=1e-8) for fit in fits]
    assert ranks == [2, 1, 0]
    one = jax.jit(estimates_of_rows)
    for i, y in enumerate(ys):
        assert_close(one(y, *rows[1:]), fits[i], RTOL, 1e-2)

    rng = np.random.default_rng(7)
    for j, part in enumerate(rows):
        move = rng.normal(size=part.shape)
        moves = tuple(
            jnp.asarray(move) if i == j else jnp.zeros_like(a) for i, a in enumerate(rows)
        )
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


def test_float32_and_scan():
    """Values and derivatives of all three optima, in a scan; float32 against float64."""
    rng = np.random.default_rng(9)
    ys = np.stack([response(kind) for kind in KINDS])
    moves = rng.normal(size=ys.shape)

    @jax.jit
    def scanned(ys, moves, X, Z, w):
        def one(_, pair):
            def fit(y):
                out = lmm.fit_params(lmm.compress(y, X, (Z,), w, INDEX))
                return numbers(out), out.converged.astype(y.dtype)

            return None, jax.jvp(fit, (pair[0],), (pair[1],))

        return lax.scan(one, None, (ys, moves))[1]

    found = {}
    for dtype in ("float64", "float32"):
        with jax.enable_x64(dtype == "float64"):
            out = scanned(*(jnp.asarray(a, dtype) for a in (ys, moves, *ROWS)))
        assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {np.dtype(dtype)}
        (values, converged), (slopes, _) = jax.tree.map(np.asarray, out)
        assert converged.all()
        found[dtype] = values, slopes
    for single, double in zip(found["float32"], found["float64"], strict=True):
        assert_close(single, double, FLOAT32_RTOL, np.abs(double).max())


LAYOUTS = {
    "nested": ["gs", "g"],
    "component": ["g", "gs"],
    "crossed": ["g", "f"],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_derivatives_of_several_terms_by_ml(x64, name):
    data = DATA.assign(gs=DATA["g"] + DATA["s"])
    sizes = (1, 2) if name == "nested" else (1, 1)
    factors = [data[factor].to_numpy() for factor in LAYOUTS[name]]
    index = lmm.row_index(factors, sizes, n_components=int(name == "component"))
    Z = tuple(jnp.asarray(COLUMNS[:, None, :k]) for k in sizes)
    X, w = jnp.asarray(COLUMNS), jnp.asarray(DATA["w"])
    move = np.random.default_rng(1).normal(size=60)

    def along(t):
        y = jnp.asarray(DATA["y"].to_numpy() + DATA["z"] * (data["f"] == "a")) + t * move
        return numbers(lmm.fit_params(lmm.compress(y, X, Z, w, index), reml=False))

    refit, slope = jax.jit(along), jax.jit(jax.jacfwd(along))(0.0)
    difference = (refit(STEP) - refit(-STEP)) / (2 * STEP)
    assert_close(slope, difference, DIFF_RTOL, np.abs(difference).max())


def test_second_derivatives_at_an_interior_optimum(x64):
    index, move = lmm.row_index(DATA["g"]), np.random.default_rng(1).normal(size=60)
    X, one = jnp.asarray(COLUMNS), jnp.ones(60)

    def along(t):
        y = jnp.asarray(DATA["y"].to_numpy()) + t * move
        return numbers(lmm.fit_params(lmm.compress(y, X, (X[:, None, :1],), one, index)))

    slope = jax.jit(jax.jacfwd(along))
    bend = jax.jit(jax.jacfwd(jax.jacfwd(along)))(0.0)
    difference = (slope(STEP) - slope(-STEP)) / (2 * STEP)
    assert_close(bend, difference, DIFF_RTOL, np.abs(difference).max())


def test_gradient_of_the_maximum_is_that_of_the_likelihood(x64):
    """The envelope theorem: at the optimum only the data move."""
    X, Z, w = map(jnp.asarray, ROWS)
    y = jnp.asarray(response("interior"))
    best = jax.jit(jax.grad(lambda y: estimates_of_rows(y, X, Z, w)[-1]))(y)
    at = run(lmm.compress(y, X, (Z,), w, INDEX)).params
    held = jax.jit(jax.grad(lambda y: lmm.loglike(at, lmm.compress(y, X, (Z,), w, INDEX))))(y)
    assert_close(best, held, 1e-7, np.abs(held).max())  # the optimum's gradient is not quite zero
