"""The pure functions inside other programs: under every transformation, fed by a network."""

import doctest
import re
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
import samples
from helpers import Term, assert_close, dense_deviance
from jax import lax

import lmm_jax as lmm
from lmm_jax.layouts import compress as compress_rows
from lmm_jax.layouts.crossed.index import CrossedIndex
from lmm_jax.numerics.namespace import namespace

RTOL = 1e-10  # two float64 routes to one number
DIFF_RTOL = 1e-6  # central differences: eps^(2/3) of the value, divided by a small slope
# float32: sums over 60 rows of squares of order one, eps = 6e-8; second derivatives lose more
FLOAT32_RTOL = {"compress": 1e-5, "loglike": 1e-5, "profile_loglike": 1e-5, "score": 1e-3,
                "hessian": 1e-3}  # fmt: skip

PAGES = Path(__file__).parents[1] / "docs"
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

DATA = samples.frame()
COLUMNS = np.column_stack([np.ones(len(DATA)), DATA["x"]])
ROWS = (DATA["y"].to_numpy(), COLUMNS, COLUMNS[:, None, :], DATA["w"].to_numpy())
INDEX = lmm.row_index(DATA["g"], 2)
VECTORS = np.array([[1.5, 0.4, 0.7], [1.0, 0.5, 0.25], [0.3, 0.0, 0.0]])  # the last two: singular
THETAS = np.array([[0.9, 0.3, 0.6], [0.9, 0.3, 0.0], [0.0, 0.0, 0.0]])


def layout_of(y, X, Z, w):
    return lmm.compress(y, X, (Z,), w, INDEX)


class At(NamedTuple):
    """One point in both parameterizations."""

    vector: Any  # (3,)  relative covariances
    theta: Any  # (3,)


POINTS = At(VECTORS, THETAS)


def everything(at, rows):
    """All functions at one point, over one layout."""
    layout = layout_of(*rows)
    identity = jnp.eye(2, dtype=rows[0].dtype)
    return {
        "compress": layout.waist((identity,)).gram,
        "loglike": lmm.loglike(at.vector, layout),
        "profile_loglike": lmm.profile_loglike(at.theta, layout, reml=False),
        "score": lmm.score(at.vector, layout),
        "hessian": lmm.hessian(at.vector, layout),
    }


def take(points, i):
    return jax.tree.map(lambda a: a[i], points)


plain = jax.jit(everything)


@jax.jit
def over_points_and_slopes(points, rows):
    each = jax.vmap(everything, in_axes=(0, None))(points, rows)
    return each, jax.jacrev(everything, argnums=(0, 1))(take(points, 0), rows)


@jax.jit
def over_responses_and_in_a_scan(points, rows):
    over_y = jax.vmap(lambda y: everything(take(points, 0), (y, *rows[1:])))(responses(rows))
    return over_y, lax.scan(lambda _, at: (None, everything(at, rows)), None, points)[1]


@pytest.mark.slow
def test_every_function_under_every_transformation():
    """Against one plain call after the other, in float64; float32 against float64."""
    found = {}
    for dtype in ("float64", "float32"):
        with jax.enable_x64(dtype == "float64"):
            args = jax.tree.map(lambda a, t=dtype: a.astype(t), (POINTS, ROWS))
            found[dtype] = over_points_and_slopes(*args)
        assert {leaf.dtype for leaf in jax.tree.leaves(found[dtype])} == {jnp.dtype(dtype)}
    with jax.enable_x64(True):
        each = [plain(take(POINTS, i), ROWS) for i in range(3)]
        over_y = [plain(take(POINTS, 0), (y, *ROWS[1:])) for y in responses(ROWS)]
        others = over_responses_and_in_a_scan(POINTS, ROWS)
    for name in each[0]:
        at_points, at_ys = (np.stack([out[name] for out in runs]) for runs in (each, over_y))
        for actual, expected, tol in [
            (found["float64"][0], at_points, RTOL),
            (found["float32"][0], at_points, FLOAT32_RTOL[name]),
            (others[0], at_ys, RTOL),
            (others[1], at_points, RTOL),
        ]:
            assert_close(actual[name], expected, tol, np.abs(expected).max())
        slopes = (jax.tree.leaves(found[dtype][1][name]) for dtype in ("float32", "float64"))
        for single, double in zip(*slopes, strict=True):  # one derivative more: one digit less
            assert_close(single, double, 10 * FLOAT32_RTOL[name], np.abs(double).max())


def responses(rows):
    y, X = rows[:2]
    return namespace(y).stack([y, 3 * y - 1, y + X[:, 1] ** 2])


@pytest.mark.device
def test_the_value_is_that_of_dense_matrices(x64):
    y, X, Z, w = ROWS
    terms = [Term(Z[:, 0], DATA["g"].to_numpy())]
    value = jax.jit(lambda t: lmm.profile_loglike(t, layout_of(*ROWS), reml=False))
    for theta in THETAS:
        dense = dense_deviance(X, y, terms, theta, reml=False, weights=w).criterion
        assert_close(-2 * value(jnp.asarray(theta)), dense, RTOL)


@pytest.mark.device
def test_gradients_equal_central_differences(x64):
    """With respect to parameters and to every array of rows, along random directions."""
    args, step = (take(POINTS, 0), ROWS), 1e-5
    slopes = over_points_and_slopes(POINTS, ROWS)[1]
    leaves, tree = jax.tree.flatten(args)
    rng = np.random.default_rng(3)
    for i, leaf in enumerate(leaves):
        for _ in range(3):
            move = step * rng.normal(size=leaf.shape)
            moves = [move if j == i else 0.0 for j in range(len(leaves))]
            up, down = (
                plain(*tree.unflatten([a + s * m for a, m in zip(leaves, moves, strict=True)]))
                for s in (1, -1)
            )
            for name in sorted(slopes.keys() - {"compress"}):  # a layout's frame is no function
                slope = jax.tree.leaves(slopes[name])[i]
                along = np.tensordot(slope, move, axes=move.ndim)
                # a GPU adds rows up in any order: where a slope is zero, rounding is left
                noise = 8 * np.finfo(float).eps * np.max(np.abs(up[name])) / DIFF_RTOL
                scale = np.maximum(step * np.linalg.norm(slope), noise)
                assert_close(along, (up[name] - down[name]) / 2, DIFF_RTOL, scale)


@jax.jit
@jax.grad
def slope_in_Z(Z, y, X, theta, index):
    return lmm.profile_loglike(theta, lmm.compress(y, X, (Z,), jnp.ones(len(y)), index))


@pytest.mark.parametrize("jitter", [0.0, 1e-3])
def test_gradients_where_a_group_cannot_tell_its_coefficients_apart(x64, jitter):
    """Groups of one row, which have a pivot of zero; a covariate that is nearly constant in one.

    Where it is exactly constant the derivative in Z is not defined (docs/embedding.md).
    """
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), [1] * 4 + [3] * 8)
    x = rng.normal(size=groups.size)
    if jitter:
        x[groups == 6] = 0.7 + jitter * x[groups == 6]
    index = lmm.row_index(groups, 2)
    y, X = rng.normal(size=groups.size), np.c_[np.ones_like(x), x]
    Z, theta, step = X[:, None, :], THETAS[0], 1e-5
    slope = np.asarray(slope_in_Z(Z, y, X, theta, index))

    def dense(Z):
        term = Term(Z[:, 0], groups.astype(str))
        return -dense_deviance(X, y, [term], theta, reml=True).criterion / 2

    for _ in range(4):
        move = step * rng.normal(size=slope.shape)
        difference = (dense(Z + move) - dense(Z - move)) / 2
        assert_close(np.sum(slope * move), difference, DIFF_RTOL, step * np.linalg.norm(slope))


# ------------------------------------------------------------ the index


CASES = {
    "one factor": ("y ~ x + (x | g)", ["g"], 2),
    "nested": ("y ~ x + (x | g) + (1 | g:s)", ["gs", "g"], (1, 2)),
    "crossed": ("y ~ x + (1 | g) + (1 | f)", ["g", "f"], 1),
}


@pytest.mark.parametrize("name", CASES)
def test_index_from_labels_and_from_a_design(x64, name):
    """Both describe the model that the formula does, row for row."""
    formula, factors, sizes = CASES[name]
    data = DATA.assign(gs=DATA["g"] + DATA["s"])
    design = lmm.design(formula, data)
    Z = tuple(term.values for term in design.terms)
    theta = jnp.linspace(0.4, 1.2, sum(k * (k + 1) // 2 for k in design.sizes))
    expected = jax.jit(lmm.profile_loglike)(theta, design.layout)

    @jax.jit
    def value(index):
        layout = lmm.compress(design.endog, design.exog, Z, np.ones(len(data)), index)
        return lmm.profile_loglike(theta, layout)

    by_labels = lmm.row_index([data[f].to_numpy() for f in factors], sizes)
    assert isinstance(by_labels, CrossedIndex) == (name == "crossed")
    for index in (by_labels, lmm.row_index(design)):
        assert_close(value(index), expected, RTOL)


def test_index_of_a_component_with_two_levels_a_row(x64):
    """Rows with several memberships, as variance components have them."""
    design = lmm.design("y ~ x", DATA, groups="g", re_formula="1", vc_formula={"b": "0 + x + z"})
    codes, Z = [t.codes for t in design.terms], tuple(t.values for t in design.terms)
    assert codes[1].shape == (len(DATA), 2)
    index = lmm.row_index(codes, n_components=1)
    layout = lmm.compress(design.endog, design.exog, Z, np.ones(len(DATA)), index)
    value, theta = jax.jit(lmm.profile_loglike), jnp.array([0.8, 0.5])
    assert_close(value(theta, layout), value(theta, design.layout), RTOL)


BAD = [
    ([], {}, "empty"),
    ([np.arange(3), np.arange(4)], {}, "one label a row"),
    (np.array([1.0, np.nan]), {}, "missing"),
    (np.array(["a", None], dtype=object), {}, "missing"),
    (np.array(["a", 1], dtype=object), {}, "no common order"),
    (np.zeros((2, 2, 2)), {}, "shape"),
    (["a", "b"], {"sizes": (1, 2)}, "each of the 1 terms"),
    (["a", "b"], {"sizes": 0}, "number of coefficients"),
    (["a", "b"], {"n_components": 2}, "n_components=2: a whole number of at most 1"),
    (["a", "b"], {"sizes": 2, "n_components": 1}, "one coefficient"),
]


@pytest.mark.parametrize(("groups", "options", "fragment"), BAD)
def test_bad_labels(groups, options, fragment):
    with pytest.raises(lmm.DataError, match=fragment):
        lmm.row_index(groups, **options)


@pytest.mark.parametrize("known", [np.asarray, jnp.asarray])
def test_rows_that_are_known_are_compressed_while_a_program_is_traced(known, x64):
    """A log density or a step of an optimizer over data from outside, in every kind of program."""
    rows = tuple(known(a) for a in ROWS)
    vector = jnp.asarray(VECTORS[0])

    def density(vector):
        return lmm.loglike(vector, layout_of(*rows))

    def stepped(vector, _):
        return vector + 1e-3 * jax.grad(density)(vector), density(vector)

    value, slope = density(vector), jax.grad(density)(vector)
    programs = {
        "jit": jax.jit(density),
        "grad": jax.jit(lambda v: jax.value_and_grad(density)(v)[0]),
        "vmap": lambda v: jax.jit(jax.vmap(density))(jnp.stack([v, 2 * v]))[0],
        "scan": lambda v: lax.scan(stepped, v, length=2)[1][0],
        "cond": jax.jit(lambda v: lax.cond(v[0] > 0, density, lambda v: v[0], v)),
        "map": lambda v: lax.map(density, v[None])[0],
        "remat": jax.jit(jax.checkpoint(density)),
        "ahead": lambda v: jax.jit(density).lower(v).compile()(v),
    }
    for program in programs.values():
        assert_close(program(vector), value, RTOL)
    assert_close(jax.jit(jax.grad(density))(vector), slope, RTOL, np.abs(slope).max())
    by_index = jax.jit(lambda v, i: lmm.loglike(v, lmm.compress(rows[0], rows[1], (rows[2],),
                                                                rows[3], i)))  # fmt: skip
    assert_close(by_index(vector, INDEX), value, RTOL)


def test_labels_inside_jit():
    with pytest.raises(lmm.DataError, match="outside of jit"):
        jax.jit(lambda g: lmm.row_index(g))(jnp.arange(3))


# ------------------------------------------------------------ a network in the mean


def network(weights, x):
    """Two hidden layers, (n, d) -> (n,)."""
    for W, b in weights[:-1]:
        x = jnp.tanh(x @ W + b[None])
    W, b = weights[-1]
    return (x @ W + b[None])[:, 0]


def initial_weights(rng, widths=(2, 16, 16, 1)):
    return [
        (jnp.asarray(rng.normal(size=(a, b)) / np.sqrt(a)), jnp.zeros(b))
        for a, b in pairwise(widths)
    ]


def simulated(rng, n_groups=300, rows=6):
    """A curved mean, an intercept per group with twice the residual's standard deviation."""
    g = np.repeat(np.arange(n_groups), rows)
    x = rng.uniform(-2, 2, size=(g.size, 2))
    mean = np.sin(2 * x[:, 0]) + x[:, 0] * np.abs(x[:, 1])
    noise = 0.5 * rng.normal(size=g.size)
    return x, mean + rng.normal(size=n_groups)[g] + noise, g, mean


def trained(loss, start, steps=400):
    """Adam in one compiled scan."""
    solver = optax.adam(1e-2)

    def step(carry, _):
        at, state = carry
        updates, state = solver.update(jax.grad(loss)(at), state)
        return (optax.apply_updates(at, updates), state), None

    with jax.numpy_dtype_promotion("standard"):  # optax mixes integer types under x64
        run = jax.jit(lambda at: lax.scan(step, (at, solver.init(at)), length=steps)[0][0])
        return run(start)


def test_a_network_with_random_effects_predicts_better_than_without(x64):
    """The setting of LMMNN (Simchoni & Rosset, NeurIPS 2021): groups seen in training.

    An oracle that knows the mean has, from 4 rows a group, the error
    sqrt(0.25 + 1 / (1 + 4 / 0.25)) = 0.556; no model without groups can be below
    sqrt(1 + 0.25) = 1.118.
    """
    rng = np.random.default_rng(0)
    x, y, g, _ = simulated(rng)
    seen = np.arange(len(g)) % 6 < 4
    index = lmm.row_index(g[seen])
    one = jnp.ones(seen.sum())

    def layout(weights):
        return lmm.compress(
            jnp.asarray(y[seen]) - network(weights, jnp.asarray(x[seen])),
            one[:, None], (one[:, None, None],), one, index,
        )  # fmt: skip

    def mixed_loss(at):
        weights, log_ratio = at
        return -lmm.loglike(jnp.exp(log_ratio)[None], layout(weights), reml=False) / one.size

    def plain_loss(weights):
        r = jnp.asarray(y[seen]) - network(weights, jnp.asarray(x[seen]))
        return jnp.mean((r - jnp.mean(r)) ** 2)

    start = (initial_weights(rng), jnp.zeros(()))
    _check_directional(mixed_loss, start, rng)
    weights, log_ratio = trained(mixed_loss, start)
    plain = trained(plain_loss, start[0])

    frame = pd.DataFrame({"y": y, "g": g, "net": np.asarray(network(weights, jnp.asarray(x)))})
    res = lmm.fit("y ~ 1 + (1 | g)", frame[seen], offset="net", reml=False)
    assert_close(res.cov_re_unscaled.iloc[0, 0], jnp.exp(log_ratio), 0.02)  # Adam, not Newton
    mixed_error = rmse(frame["y"], res.predict(frame, conditional=True), ~seen)
    fixed = np.asarray(network(plain, jnp.asarray(x)))
    plain_error = rmse(y, fixed + np.mean((y - fixed)[seen]), ~seen)
    assert plain_error > 1.05
    assert mixed_error < 0.7
    assert mixed_error > 0.5  # not better than the oracle by more than chance


def rmse(y, prediction, at):
    return float(np.sqrt(np.mean((np.asarray(y) - np.asarray(prediction))[at] ** 2)))


def _check_directional(loss, at, rng, step=1e-5):
    """The gradient along random directions of all weights against central differences."""
    value, slope = jax.jit(loss), jax.jit(jax.grad(loss))(at)
    leaves, tree = jax.tree.flatten(at)
    size = np.sqrt(sum(float(jnp.sum(s**2)) for s in jax.tree.leaves(slope)))
    for _ in range(3):
        move = [step * rng.normal(size=leaf.shape) for leaf in leaves]
        up, down = (
            value(tree.unflatten([a + sign * m for a, m in zip(leaves, move, strict=True)]))
            for sign in (1, -1)
        )
        along = sum(
            float(jnp.sum(s * m)) for s, m in zip(jax.tree.leaves(slope), move, strict=True)
        )
        assert_close(along, (up - down) / 2, DIFF_RTOL, step * size)


@pytest.mark.slow
def test_constants_of_many_rows_are_not_computed_with_in_the_compiler(monkeypatch, x64):
    """Derivatives of both orders and batches go through what keeps XLA from it."""
    rng = np.random.default_rng(0)
    groups, ones = np.repeat(np.arange(10), 6), jnp.ones(60)
    X = jnp.stack([ones, jnp.asarray(rng.normal(size=60))], axis=1)
    index, y = lmm.row_index(groups), jnp.asarray(rng.normal(size=60))

    def loss(y, X, w):
        layout = lmm.compress(y, X, (ones[:, None, None],), w, index)
        return lmm.loglike(jnp.array([0.7]), layout, reml=False)

    def everything():
        closed = jax.jit(lambda y: loss(y, X, ones))  # X and weights are constants
        weights = jnp.asarray(np.repeat(1.0 + np.arange(3.0)[:, None], 60, axis=1))
        return (
            closed.lower(y).as_text(),
            (
                closed(y),
                jax.grad(loss, argnums=(0, 1, 2))(y, X, ones),
                jax.jvp(jax.grad(closed), (y,), (ones,)),
                jax.jit(jax.vmap(loss, (None, None, 0)))(y, X, weights),
            ),
        )

    plain, expected = everything()
    monkeypatch.setattr(compress_rows, "_FOLDED", 0)
    kept, found = everything()
    assert "optimization_barrier" in kept and "optimization_barrier" not in plain
    for ours, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert_close(ours, theirs, 1e-12, 1)


# ------------------------------------------------------------ the page


def test_examples_on_the_page():
    text = (PAGES / "embedding.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "embedding.md", None, 0)
    assert len(blocks) >= 3
    with jax.numpy_dtype_promotion("standard"):  # optax mixes integer types
        assert doctest.DocTestRunner(optionflags=OPTIONS).run(test).failed == 0


def test_what_a_program_cannot_take_is_named():
    rng, g = np.random.default_rng(0), np.repeat(np.arange(6), 4)
    y, X = rng.normal(size=24), np.ones((24, 1))
    index = lmm.row_index(g)
    with pytest.raises(lmm.DataError, match=r"Z is an array of shape \(24, 1, 1\)"):
        lmm.compress(y, X, X[:, None], np.ones(24), index)
    with pytest.raises(lmm.DataError, match="y is an array of bfloat16: float32 is the least"):
        lmm.compress(jnp.asarray(y, jnp.bfloat16), X, (X[:, None],), np.ones(24), index)
    for call in (
        lambda y: lmm.fit("y ~ 1 + (1 | g)", {"y": y, "g": g}).llf,
        lambda y: lmm.design_from_arrays(y, X, g).nobs,
    ):
        with pytest.raises(lmm.DataError, match=r"is traced by JAX.*lmm\.compress"):
            jax.jit(call)(y)
    layout = lmm.compress(y, X, (X[:, None],), np.ones(24), index)
    with pytest.raises(lmm.DataError, match=r"maxiter=<traced by JAX.*make it static"):
        jax.jit(lambda n: lmm.fit_params(layout, maxiter=n).llf)(3)
    data = pd.DataFrame({"y": y, "g": g, "h": np.tile(np.arange(4), 6)})
    layout = lmm.design("y ~ 1 + (1 | g) + (1 | h)", data).layout
    full = lmm.Params.from_components(fe_params=[0.0], cov_re=[[0.7, 0.3], [0.3, 0.4]])
    with pytest.raises(lmm.DataError, match=r"0\.3 between two terms.*block diagonal"):
        lmm.loglike(full, layout)


@pytest.mark.parametrize("rows", [0, 1, 79, 160])
def test_rows_of_another_index_are_refused(rows):
    """One row would be broadcast to all of them."""
    index = lmm.row_index(np.repeat(np.arange(20), 4))
    y, X = jnp.ones(rows), jnp.ones((rows, 1))
    with pytest.raises(lmm.DataError, match=f"{rows} rows are given, and the index is one of 80"):
        lmm.compress(y, X, (X[:, None, :],), jnp.ones(rows), index)
