"""Parameters, their packed vectors, and derivatives of the likelihood in both."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples
from helpers import Term, assert_close, random_root

import lmm_jax as lmm

EXACT_RTOL = 1e-13  # the same sums in another order
RTOL = 1e-10  # two float64 routes to one number
DIFF_RTOL = 1e-6  # central differences, relative to the largest slope

pytestmark = pytest.mark.usefixtures("x64")


# ------------------------------------------------------------ vectors


SHAPES = {
    "intercept": (2, (1,), 0),
    "slope": (2, (2,), 0),
    "components only": (3, (), 2),
    "both": (1, (2,), 3),
    "two blocks": (0, (2, 1, 3), 1),
    "fixed effects only": (4, (), 0),
}


def params(p, sizes, k_vc, seed=0):
    rng = np.random.default_rng(seed)
    cov, at = np.zeros((sum(sizes),) * 2), 0
    for k in sizes:
        half = np.tril(rng.normal(size=(k, k))) + 2 * np.eye(k)
        cov[at : at + k, at : at + k] = half @ half.T
        at += k
    return lmm.Params.from_components(
        fe_params=rng.normal(size=p), cov_re=cov, vcomp=rng.uniform(0.1, 2, k_vc)
    )


def assert_same(actual, expected, tol):
    assert_close(actual.fe_params, expected.fe_params, 0)
    assert_close(actual.cov_re, expected.cov_re, tol, scale=1.0 if tol else 0)
    assert_close(actual.vcomp, expected.vcomp, tol)


@pytest.mark.parametrize("name", SHAPES)
def test_profile_round_trip_is_exact(name):
    p, sizes, k_vc = SHAPES[name]
    given = params(p, sizes, k_vc)
    vector = lmm.pack(given, sizes)
    assert vector.shape == (p + sum(k * (k + 1) // 2 for k in sizes) + k_vc,)
    assert_same(lmm.unpack(vector, sizes, p, k_vc), given, 0)
    assert_close(lmm.pack(lmm.unpack(vector, sizes, p, k_vc), sizes), vector, 0)


@pytest.mark.parametrize("name", SHAPES)
def test_square_root_round_trip(name):
    p, sizes, k_vc = SHAPES[name]
    given = params(p, sizes, k_vc)
    vector = lmm.pack(given, sizes, sqrt=True)
    assert_same(lmm.unpack(vector, sizes, p, k_vc, sqrt=True), given, EXACT_RTOL)
    again = lmm.pack(lmm.unpack(vector, sizes, p, k_vc, sqrt=True), sizes, sqrt=True)
    assert_close(again, vector, EXACT_RTOL, scale=1.0)


@pytest.mark.parametrize("name", SHAPES)
def test_vectors_without_fixed_effects(name):
    p, sizes, k_vc = SHAPES[name]
    given = params(p, sizes, k_vc)
    for sqrt in (False, True):
        short = lmm.pack(given, sizes, with_fe=False, sqrt=sqrt)
        assert_close(short, lmm.pack(given, sizes, sqrt=sqrt)[p:], 0)
        back = lmm.unpack(short, sizes, 0, k_vc, sqrt=sqrt)
        assert back.fe_params.size == 0
        assert_close(back.vcomp, given.vcomp, EXACT_RTOL)


def test_order_is_statsmodels():
    """Fixed effects, lower triangle row by row, components."""
    cov = np.array([[1.0, 2, 4], [2, 13, 5], [4, 5, 60]])
    given = lmm.Params.from_components(fe_params=[-1.0, -2], cov_re=cov, vcomp=[7.0, 9])
    assert lmm.pack(given).tolist() == [-1, -2, 1, 2, 13, 4, 5, 60, 7, 9]
    L = np.linalg.cholesky(cov)
    expected = [-1, -2, *L[np.tril_indices(3)], np.sqrt(7), 3]
    assert_close(lmm.pack(given, sqrt=True), expected, EXACT_RTOL)


def test_blocks_leave_out_what_is_between_them():
    given = params(1, (2, 1), 1)
    vector = lmm.pack(given, (2, 1))
    c = np.asarray(given.cov_re)
    assert_close(vector[1:-1], [c[0, 0], c[1, 0], c[1, 1], c[2, 2]], 0)


def test_singular_covariances_round_trip():
    half = np.array([[1.0, 0], [2, 0]])
    given = lmm.Params.from_components(cov_re_sqrt=half, vcomp=[0.0])
    assert_close(given.cov_re, [[1, 2], [2, 4]], 0)
    vector = lmm.pack(given, sqrt=True)
    assert_close(vector, [1, 2, 0, 0], EXACT_RTOL, scale=1e-3)
    assert_same(lmm.unpack(vector, (2,), 0, 1, sqrt=True), given, EXACT_RTOL)
    nothing = lmm.Params.from_components(cov_re=np.zeros((2, 2)), vcomp=[0.0])
    assert_close(lmm.pack(nothing, sqrt=True), np.zeros(4), 0)


def test_vectors_are_read_with_any_sign_of_the_root():
    """``cov = L L'`` needs no positive diagonal."""
    vector = lmm.pack(params(0, (2,), 1), sqrt=True)
    flipped = vector * jnp.array([-1.0, -1, 1, -1])
    expected = lmm.unpack(vector, (2,), 0, sqrt=True)
    assert_same(lmm.unpack(flipped, (2,), 0, sqrt=True), expected, EXACT_RTOL)


BAD = [
    (lambda: lmm.Params.from_components(cov_re=np.eye(2), cov_re_sqrt=np.eye(2)), "not both"),
    (lambda: lmm.Params.from_components(cov_re=np.ones((2, 3))), r"\(2, 3\): a square matrix"),
    (lambda: lmm.Params.from_components(cov_re=np.ones(4)), r"\(4,\): a square matrix"),
    (lambda: lmm.pack(params(1, (2,), 0), (1,)), r"\(1,\) do not add up to the 2 rows"),
    (lambda: lmm.unpack(np.ones(4), (2,), 2), "2 fixed effects, 3 covariances and the comp"),
    (lambda: lmm.unpack(np.ones(6), (2,), 2, 2), r"not one of shape \(6,\)"),
    (lambda: lmm.unpack(np.ones((2, 2)), (2,), 0), r"not one of shape \(2, 2\)"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_parameters(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_rescaled_multiplies_the_covariances_alone():
    given = params(2, (2,), 1)
    user = given.rescaled(2.5)
    assert_close(user.fe_params, given.fe_params, 0)
    assert_close(user.cov_re, 2.5 * np.asarray(given.cov_re), 0)
    assert_close(user.vcomp, 2.5 * np.asarray(given.vcomp), 0)
    assert_same(user.rescaled(1 / 2.5), given, EXACT_RTOL)


# ------------------------------------------------------------ a pytree


def test_params_is_a_pytree():
    given = params(2, (2,), 1)
    leaves, structure = jax.tree.flatten(given)
    assert [leaf.shape for leaf in leaves] == [(2,), (2, 2), (1,)]
    assert_same(jax.tree.unflatten(structure, leaves), given, 0)
    assert_same(jax.jit(lambda q: q)(given), given, 0)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, given)
    assert_close(doubled.cov_re, 2 * np.asarray(given.cov_re), 0)


def test_transformations_of_pack_and_unpack():
    given = params(2, (2,), 1)
    vector = lmm.pack(given)
    assert_close(jax.jit(lmm.pack)(given), vector, 0)
    jac = jax.jacfwd(lambda v: lmm.pack(lmm.unpack(v, (2,), 2, 1)))(vector)
    assert_close(jac, np.eye(6), 0)
    slope = jax.grad(lambda q: jnp.sum(lmm.pack(q, sqrt=True)[:3]))(given)
    assert_close(slope.fe_params, [1, 1], 0)
    assert slope.cov_re[0, 0] == pytest.approx(0.5 / np.sqrt(given.cov_re[0, 0]), rel=EXACT_RTOL)
    batch = jnp.stack([vector, 2 * vector])
    many = jax.vmap(lambda v: lmm.unpack(v, (2,), 2, 1))(batch)
    assert many.cov_re.shape == (2, 2, 2)
    assert_close(jax.vmap(lmm.pack)(many), batch, 0)


# ------------------------------------------------------------ the likelihood


DATA = samples.frame()
G = DATA["g"].to_numpy()
ONE = np.ones((len(DATA), 1))
X = np.column_stack([ONE, DATA["x"]])
SUB = DATA[["g", "s"]].agg(":".join, axis=1).to_numpy()

# Model, its dense terms, and covariances relative to sigma^2: inside, on the boundary, zero.
MODELS = {
    "intercept": (
        {"re_formula": "1"}, [Term(ONE, G)], [([[0.8]], []), ([[0.0]], [])],
    ),
    "slope": (
        {"re_formula": "x"}, [Term(X, G)],
        [([[0.9, 0.2], [0.2, 0.7]], []), ([[0.9, 0.6], [0.6, 0.4]], []), (np.zeros((2, 2)), [])],
    ),
    "components only": (
        {"re_formula": "0", "vc_formula": {"a": "1", "s": "0 + C(s)"}},
        [Term(ONE, G), Term(ONE, SUB)],
        [(np.zeros((0, 0)), [0.8, 0.3]), (np.zeros((0, 0)), [0.0, 0.3])],
    ),
    "both": (
        {"re_formula": "x", "vc_formula": {"s": "0 + C(s)"}},
        [Term(X, G), Term(ONE, SUB)],
        [([[0.9, 0.2], [0.2, 0.7]], [0.5]), ([[0.9, 0.6], [0.6, 0.4]], [0.0])],
    ),
}  # fmt: skip
POINTS = [(name, i) for name, model in MODELS.items() for i in range(len(model[2]))]
BETA = np.array([0.5, 1.5])


@cache
def layout(name):
    return lmm.design("y ~ x", DATA, groups="g", **MODELS[name][0]).layout


def point(name, i):
    cov, vcomp = MODELS[name][2][i]
    return lmm.Params.from_components(fe_params=BETA, cov_re=cov, vcomp=vcomp)


def dense_covariance(name, at):
    """V relative to sigma^2; components one variance a term."""
    blocks = [np.asarray(at.cov_re)] if at.cov_re.size else []
    blocks += [np.array([[v]]) for v in np.asarray(at.vcomp)]
    V = np.eye(len(DATA))
    for term, block in zip(MODELS[name][1], blocks, strict=True):
        k = len(block)
        Z = random_root([term], np.eye(k)[np.triu_indices(k)])[0]
        V += Z @ np.kron(np.eye(Z.shape[1] // k), block) @ Z.T
    return V


def all_settings(function):
    """A value in one program for REML and ML, beta profiled or given."""

    def values(v):
        return jnp.stack(
            [
                function(v if given else v[2:], reml=reml, profile_fe=not given)
                for reml in (True, False)
                for given in (False, True)
            ]
        )

    return jax.jit(values)


def padded_score(vector, at, **options):
    slope = lmm.score(vector, at, **options)
    return jnp.concatenate([jnp.zeros(2), slope]) if options["profile_fe"] else slope


@cache
def program(name, sqrt):
    """Log-likelihood and score."""
    at = layout(name)
    value = all_settings(lambda v, **kw: lmm.loglike(v, at, sqrt=sqrt, **kw))
    slope = all_settings(lambda v, **kw: padded_score(v, at, sqrt=sqrt, **kw))
    return jax.jit(lambda v: (value(v), slope(v)))


@pytest.mark.parametrize("sqrt", [False, True])
@pytest.mark.parametrize(("name", "i"), POINTS)
def test_score_equals_differences(name, i, sqrt):
    """In the packed parameters, at interior and singular covariances, four settings."""
    both = program(name, sqrt)
    at, step = np.asarray(lmm.pack(point(name, i), sqrt=sqrt)), 1e-5
    score = np.asarray(both(at)[1])
    moves = step * np.eye(at.size)
    with np.errstate(all="ignore"):
        differences = [(both(at + m)[0] - both(at - m)[0]) / (2 * step) for m in moves]
    assert np.isfinite(score).all()
    expected = np.stack([np.asarray(d) for d in differences], axis=1)
    expected[[0, 2], :2] = 0  # profiled: the given fixed effects do not matter
    assert_close(score, expected, DIFF_RTOL, np.abs(expected).max())


@pytest.mark.parametrize(("name", "i"), POINTS)
def test_profile_of_the_fixed_effects_and_scale_equals_dense(name, i):
    at = point(name, i)
    V = dense_covariance(name, at)
    y, solved = DATA["y"].to_numpy(), np.linalg.solve(V, X)
    beta = np.linalg.solve(X.T @ solved, solved.T @ y)

    @jax.jit
    def of(b, cov_re, vcomp):
        scales = [lmm.get_scale(b, cov_re, vcomp, layout(name), reml=r) for r in (True, False)]
        return lmm.get_fe_params(cov_re, vcomp, layout(name)), scales

    for b in (beta, BETA):
        r = y - X @ b
        found, scales = of(b, at.cov_re, at.vcomp)
        assert_close(found, beta, RTOL)
        for reml, scale in zip((True, False), scales, strict=True):
            assert_close(scale, r @ np.linalg.solve(V, r) / (60 - 2 * reml), RTOL)


@pytest.mark.parametrize(("name", "i"), POINTS)
def test_one_likelihood_in_three_spellings(name, i):
    """A pytree, a profile vector and a square-root vector."""
    at = point(name, i)
    packed = np.asarray(program(name, False)(np.asarray(lmm.pack(at)))[0])
    assert_close(program(name, True)(np.asarray(lmm.pack(at, sqrt=True)))[0], packed, RTOL)
    tree = jax.tree.map(jnp.asarray, at)
    assert_close(lmm.loglike(tree, layout(name)), packed[0], RTOL)
    assert_close(lmm.loglike(tree, layout(name), reml=False, profile_fe=False), packed[3], RTOL)


def test_score_vanishes_at_the_optimum():
    result = lmm.fit("y ~ x", DATA, groups="g", re_formula="x", reml=False)
    at = lmm.Params.from_components(
        fe_params=result.fe_params, cov_re=result.cov_re_unscaled, vcomp=np.zeros(0)
    )
    value, slope = map(np.asarray, program("slope", False)(np.asarray(lmm.pack(at))))
    assert_close(slope[2:], np.zeros((2, 5)), 1e-4, scale=1.0)  # of the order of 1 a unit away
    assert_close(value[2:], np.full(2, result.llf), RTOL)
