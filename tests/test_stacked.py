"""Many thetas in one call of NumPy: the numbers of one theta after the other."""

import operator
import warnings
from functools import cache
from unittest.mock import patch

import jax
import numpy as np
import pytest
import samples
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax.layouts.crossed import pair_sums
from lmm_jax.likelihood.profile import profile_jet
from lmm_jax.numerics.namespace import JAX, NUMPY, STACKED, namespace
from lmm_jax.numerics.stacked import Stacked, side_by_side
from lmm_jax.optimize.newton import newton

RTOL = 1e-12  # of the same formula, summed in another order
# Random effects of 30 residuals cost a Hessian of four coefficients the square of that.
CRITERION_TOL = 1e-11
# A step more or less of rounding at the end of a run.
OPTIMUM_TOL = 1e-9

LANES = 5


@pytest.fixture(autouse=True)
def as_programs_run():
    with np.errstate(all="ignore"):
        yield


MODELS = {
    "intercept": "y ~ x + (1 | g)",
    "slope": "y ~ x + (x | g)",
    "three coefficients": "y ~ x + (x + z | g)",
    "four coefficients": "y ~ x + (x + z + v | g)",
    "structure": "y ~ x + cs(1 + x + z | g, hom=True)",
    "nested": "y ~ x + (x | g) + (1 | g:s)",
    "no fixed effects": "y ~ 0 + (1 | g)",
    "crossed intercepts": "y ~ x + (1 | g) + (1 | h)",
    "crossed slopes": "y ~ x + (x | g) + (x | h)",
    "crossed and nested": "y ~ x + (x | g) + (1 | g:s) + (x + z | f)",
    "crossed structure": "y ~ x + (1 | g) + cs(1 + x + z | f, hom=True)",
}
# crossed layouts whose pairs are summed as products of matrices, however few they are
SUMMED = ("crossed slopes", "crossed and nested")


@cache
def layout_of(name):
    data = samples.frame(3, groups=24)
    data["h"] = np.random.default_rng(1).permutation(np.arange(len(data)) % 40)  # a core of 40
    few = 0 if name in SUMMED else pair_sums._FEW
    with warnings.catch_warnings(), patch.object(pair_sums, "_FEW", few):
        warnings.simplefilter("ignore", UserWarning)
        layout = lmm.fit(MODELS[name], data, runtime="numpy").design.compressed.layout
        layout = layout.without_padding().with_sums()
    links = getattr(layout, "links", ())
    assert name not in SUMMED or all(link.sums is not None for link in links)
    return layout


def thetas_of(layout):
    m = sum(s.n_params for s in layout.structures)
    thetas = np.random.default_rng(m).normal(size=(LANES, m))
    thetas[1] = 0.0
    # traces of crossed factors are differences, which cost the digits of the square of theta, and
    # products of two in second derivatives those of its fourth power: 1e-11 at three times a draw
    thetas[2] *= 2.0 if hasattr(layout, "links") else 30.0
    thetas[3, -1] = 0.0
    return thetas


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_criterion_lane_by_lane(name, reml):
    layout = layout_of(name)
    thetas = thetas_of(layout)
    together = side_by_side(lambda theta: profile_jet(theta, layout, reml=reml))(thetas)
    for i, theta in enumerate(thetas):
        alone = profile_jet(theta, layout, reml=reml)
        lane = jax.tree.map(lambda leaf: leaf[i], together)  # noqa: B023
        for got, want in zip(jax.tree.leaves(lane), jax.tree.leaves(alone), strict=True):
            assert_close(got, want, CRITERION_TOL, np.abs(want).max(initial=1e-3))


CROSSED = [
    "y ~ x + (x | g) + (1 | f)",
    "y ~ x + (1 | g) + (x + z | f)",
    "y ~ 1 + (1 | g) + (1 | f)",
]


@pytest.mark.parametrize("formula", CROSSED)
def test_the_waist_of_a_crossed_layout_lane_by_lane(formula):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fit = lmm.fit(formula, samples.frame(3, groups=24), runtime="numpy")
    layout = fit.design.compressed.layout
    thetas = thetas_of(layout)
    together = layout.waists_at(thetas)
    for i, theta in enumerate(thetas):
        alone = layout.waist_at(theta)
        assert_close(together.logdet[i], alone.logdet, RTOL)
        assert_close(together.gram[i], alone.gram, CRITERION_TOL, np.abs(alone.gram).max())


@pytest.mark.parametrize("name", MODELS)
def test_newton_lane_by_lane(name):
    layout = layout_of(name)
    thetas = thetas_of(layout)

    def run(theta):
        evaluate = lambda t: profile_jet(t, layout, reml=True)  # noqa: E731
        return newton(theta, evaluate, layout.structures, maxiter=100)

    together = side_by_side(run)(thetas)
    for i, theta in enumerate(thetas):
        alone = run(theta)
        assert together.status[i] == alone.status
        assert_close(together.jet.value[i], alone.jet.value, OPTIMUM_TOL)


def test_a_lane_without_a_criterion_leaves_the_others_alone():
    layout = layout_of("slope")
    thetas = np.array([[1.0, 0.0, 1.0], [np.nan, 0.0, 1.0], [0.3, 0.1, 0.5]])

    def run(theta):
        evaluate = lambda t: profile_jet(t, layout, reml=True)  # noqa: E731
        return newton(theta, evaluate, layout.structures, maxiter=100)

    found = side_by_side(run)(thetas)
    assert np.isfinite(found.jet.value).tolist() == [True, False, True]
    assert_close(found.jet.value[0], found.jet.value[2], OPTIMUM_TOL)


# ------------------------------------------------------------ arrays


def lanes(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(LANES, *shape))


CALLS = {
    "sum": (lambda xp, a, b: xp.sum(a * b), (3, 2), (3, 2)),
    "sum along": (lambda xp, a, b: xp.sum(a, axis=-1) + b, (3, 2), (3,)),
    "two axes": (lambda xp, a, b: xp.max(a, axis=(0, -1)) - b, (3, 2, 4), (2,)),
    "broadcast": (lambda xp, a, b: a - b[:, None], (3, 2), (3,)),
    "matrices": (lambda xp, a, b: a @ b, (3, 2), (2, 4)),
    "matrix, vector": (lambda xp, a, b: a @ b, (4, 3, 2), (2,)),
    "vector, matrix": (lambda xp, a, b: a @ b, (3,), (3, 2)),
    "matrices of more axes": (lambda xp, a, b: a @ b, (4, 3, 2), (2, 5)),
    "shared ones of more axes": (lambda xp, a, b: np.ones((4, 3, 2)) @ a + b, (2, 5), (4, 3, 5)),
    "vectors": (lambda xp, a, b: a @ b, (3,), (3,)),
    "one matrix": (lambda xp, a, b: a @ np.ones((2, 3)) + b, (4, 2), (4, 3)),
    "one matrix, left": (lambda xp, a, b: np.ones((3, 4)) @ a + b, (4, 2), (3, 2)),
    "vector, one matrix": (lambda xp, a, b: a @ np.ones((2, 3)) + b, (2,), (3,)),
    "einsum": (lambda xp, a, b: xp.einsum("ab,bc->ca", a, b), (3, 2), (2, 4)),
    "einsum, shared": (lambda xp, a, b: xp.einsum("ab,bc->ca", a, np.ones((2, 4))), (3, 2), ()),
    "concatenate": (lambda xp, a, b: xp.concatenate([a, b, np.ones((1, 2))]), (3, 2), (1, 2)),
    "concatenate along": (lambda xp, a, b: xp.concatenate([a, b], axis=-1), (3, 2), (3, 1)),
    "stack": (lambda xp, a, b: xp.stack([a, b, np.zeros(3)]), (3,), (3,)),
    "stack along": (lambda xp, a, b: xp.stack([a, b], axis=-1), (3,), (3,)),
    "append": (lambda xp, a, b: xp.append(a, 1.0) * b, (3,), (4,)),
    "where": (lambda xp, a, b: xp.where(a > 0, b, 0.0), (3,), (3,)),
    "pad": (lambda xp, a, b: xp.pad(a, ((0, 1), (2, 0))) * b, (3, 2), (4, 4)),
    "diagonal": (lambda xp, a, b: xp.diagonal(a) + b, (3, 3, 4), (4, 3)),
    "last diagonal": (lambda xp, a, b: xp.diagonal(a, axis1=-2, axis2=-1) + b, (4, 3, 3), (4, 3)),
    "set": (lambda xp, a, b: xp.at(a)[1].set(b), (3, 2), (2,)),
    "set last": (lambda xp, a, b: xp.at(a)[..., 0].set(b), (3, 2), (3,)),
    "set, shared": (lambda xp, a, b: xp.at(np.zeros((3, 2)))[:, 1].set(a + b), (3,), (3,)),
    "add": (lambda xp, a, b: xp.at(a)[-1].add(b), (3, 2), (2,)),
    "add, often": (
        lambda xp, a, b: xp.at(a)[np.array([0, 2, 0])].add(b, mode="promise_in_bounds"),
        (3,),
        (3,),
    ),
    "segments": (
        lambda xp, a, b: xp.segment_sum(a, np.array([0, 1, 0]), 2) + b,
        (3, 2),
        (2, 2),
    ),
    "determinant": (lambda xp, a, b: xp.linalg.slogdet(a)[1] + b, (3, 3), ()),
    "singular values": (lambda xp, a, b: xp.linalg.svd(a)[1] + b, (3, 3), (3,)),
    "entries": (lambda xp, a, b: a[np.array([0, 2]), np.array([1, 1])] + b, (3, 2), (2,)),
    "backwards": (lambda xp, a, b: a[::-1] * b.T, (3, 2), (2, 3)),
    "move": (lambda xp, a, b: xp.moveaxis(a, -1, 0) * b.swapaxes(0, 1), (3, 2), (3, 2)),
    "reshape": (lambda xp, a, b: a.reshape(2, -1) + b, (3, 2), (2, 3)),
    "numbers": (lambda xp, a, b: 1.0 - a / 2 + 2.0 * b**2, (), ()),
    "spread": (lambda xp, a, b: xp.broadcast_to(a, (2, 3)) * b, (3,), (2, 3)),
    "largest": (lambda xp, a, b: xp.where(np.arange(3) == xp.argmax(a), b, 0.0), (3,), (3,)),
    "blocks": (lambda xp, a, b: xp.block_diag(a, b), (3, 2), (1, 2)),
    "norm": (lambda xp, a, b: xp.linalg.norm(a) + b, (3,), ()),
    "solve": (lambda xp, a, b: xp.linalg.solve(a, b), (3, 3), (3, 2)),
    "solve for a vector": (lambda xp, a, b: xp.linalg.solve(a, b), (3, 3), (3,)),
    "solve for a shared one": (lambda xp, a, b: xp.linalg.solve(a, np.ones(3)) + b, (3, 3), (3,)),
    "diag": (lambda xp, a, b: xp.diag(a) @ b, (3,), (3, 2)),
    "diag, infinite": (lambda xp, a, b: xp.diag(xp.where(a > 0, np.inf, a)) + b, (3,), (3, 3)),
    "mean along": (lambda xp, a, b: xp.mean(a, axis=-1) + b, (3, 2), (3,)),
    "mean": (lambda xp, a, b: xp.mean(a) + b, (3, 2), (3,)),
    "cond": (lambda xp, a, b: xp.cond(a > 0, lambda: b, lambda: 2.0 * b), (), (3,)),
}


@pytest.mark.parametrize("name", CALLS)
def test_functions_lane_by_lane(name):
    fun, *shapes = CALLS[name]
    a, b = (lanes(*shape, seed=i) for i, shape in enumerate(shapes))
    got = fun(STACKED, *(Stacked(np.moveaxis(x, 0, -1)) for x in (a, b)))
    want = np.stack([fun(NUMPY, *pair) for pair in zip(a, b, strict=True)])
    assert got.shape == want.shape[1:] and got.size == want[0].size
    np.testing.assert_allclose(np.moveaxis(got.lanes, -1, 0), want, rtol=RTOL, atol=1e-14)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv", "pow", "lt", "le", "gt", "ge"])
def test_operators_on_both_sides(name):
    op, array = getattr(operator, name), np.abs(lanes(3)[0])
    many = Stacked(np.abs(lanes(3).T))
    assert np.array_equal(op(many, array).lanes, op(many.lanes, array[:, None]))
    assert np.array_equal(op(array, many).lanes, op(array[:, None], many.lanes))


def test_loops_end_lane_by_lane():
    start = np.array([1.0, 5.0, 40.0])
    halve = lambda x: STACKED.while_loop(lambda x: x > 1.0, lambda x: 0.5 * x, x)  # noqa: E731
    assert side_by_side(halve)(start).tolist() == [1.0, 0.625, 0.625]


def test_what_lanes_cannot_say():
    many = Stacked(np.ones((2, 3)))
    with pytest.raises(TypeError, match="use where or cond"):
        bool(many > 0)
    with pytest.raises(TypeError, match="no length"):
        len(many[0])


def test_the_namespace_of_lanes():
    many, one = Stacked(np.ones((2, 3))), np.ones(2)
    assert namespace(one, many) is STACKED and namespace([one, (many,)]) is STACKED
    assert namespace(many, jax.numpy.ones(2)) is JAX and namespace(one, 1.0) is NUMPY


def test_starts_side_by_side_end_where_single_runs_do():
    data = lmm.load_dataset("machines")
    formula = "score ~ Machine + (Machine | Worker)"
    beside = lmm.fit(formula, data, runtime="numpy")
    in_turn = lmm.fit(formula, data, runtime="numpy", full_output=True)  # one run after the other
    assert_close(beside.llf, in_turn.llf, RTOL)
    assert_close(beside.cov_re, in_turn.cov_re, OPTIMUM_TOL, in_turn.scale)
