"""The likelihood, its derivatives and the linear algebra under it, against dense NumPy."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples
from derivatives import check_derivatives
from helpers import Array, Term, assert_close, dense_deviance, random_root

import lmm_jax as lmm
from lmm_jax.covariance.structures import unstructured
from lmm_jax.covariance.theta import factor_blocks, stack_theta
from lmm_jax.layouts.compress import compress
from lmm_jax.layouts.group_algebra import integrate, inverse
from lmm_jax.layouts.group_index import plan_groups
from lmm_jax.layouts.grouped import GroupedLayout, waist
from lmm_jax.likelihood.profile import loglike_of_theta, profile_jet, profile_waist
from lmm_jax.numerics import inverses
from lmm_jax.numerics.linalg import _eliminate_loop, back_substitute, eliminate, psd_cholesky
from lmm_jax.numerics.namespace import namespace

RTOL = 1e-10  # two float64 routes to one number
CLOSED_RTOL = 1e-9  # closed-form against automatic second derivatives: more sums, same digits
DIFF_RTOL = 1e-6  # central differences: eps^(2/3) of the value, divided by a small slope
FLOAT32_RTOL = 1e-4  # a sum of 60 float32 rows
EXACT_RTOL = 1e-13  # the same sums in another order

loglike_at = jax.jit(lmm.profile_loglike)  # shared: a shape compiles once

pytestmark = [
    pytest.mark.usefixtures("x64"),
    # of a constant that is fixed and random, which is meant
    pytest.mark.filterwarnings("ignore:the fixed effects have:lmm_jax.IdentificationWarning"),
]


class Case(NamedTuple):
    """A design and its dense twin. A component of several columns is several dense terms."""

    design: lmm.Design
    X: Array
    y: Array
    terms: list[Term]
    weights: Array | None = None
    offset: Array | None = None
    tied: tuple[int, ...] | None = None  # our theta for each dense term of one column


DATA = samples.frame()
G = DATA["g"].to_numpy()
ONE = np.ones((len(DATA), 1))
X = np.column_stack([ONE, DATA["x"]])
Y = DATA["y"].to_numpy()


def columns(*names: str) -> Array:
    return np.column_stack([ONE[:, 0], *(DATA[name] for name in names)])


def joined(*names: str) -> Any:
    return DATA[list(names)].agg(":".join, axis=1).to_numpy()


def bars(text: str, *terms: Term, fixed: str = "x", X: Array = X, **roles: str) -> Case:
    """A case in lme4's spelling."""
    arrays = {name: DATA[column].to_numpy() for name, column in roles.items()}
    return Case(lmm.design(f"y ~ {fixed} + {text}", DATA, **roles), X, Y, list(terms), **arrays)


def grouped_as(g: Any) -> Case:
    """Random slopes over other groups of the same rows."""
    design = lmm.design("y ~ x + (x | h)", DATA.assign(h=g))
    return Case(design, X, Y, [Term(columns("x"), np.asarray(g).astype(str))])


def components() -> Case:
    """An intercept, a factor, and a component with two non-zero columns in every row."""
    vc = {"a": "0 + C(s)", "b": "0 + x + z"}
    design = lmm.design("y ~ x", DATA, groups="g", re_formula="1", vc_formula=vc)
    inner = [DATA[["x"]].to_numpy(), DATA[["z"]].to_numpy()]
    terms = [Term(ONE, G), Term(ONE, SUB), *(Term(Z, G) for Z in inner)]
    return Case(design, X, Y, terms, tied=(0, 1, 2, 2))


def wide(**more: str) -> Case:
    """One group of all rows with 40 levels: the LAPACK regime. With a constant: singular."""
    h = np.char.add("h", (np.arange(len(DATA)) % 40).astype(str))
    data, vc = DATA.assign(h=h, one=1.0), {"h": "0 + h"} | more
    design = lmm.design("y ~ x", data, groups=np.ones(len(h)), re_formula="0", vc_formula=vc)
    return Case(design, X, Y, [Term(ONE, h), *(Term(ONE, np.full(len(h), "all")) for _ in more)])


WIDE = 34
WIDE_ROWS = np.random.default_rng(8).normal(size=(4 * 50, WIDE))
WIDE_ROWS[:, 7] = WIDE_ROWS[:, 2] - 3 * WIDE_ROWS[:, 5]  # depends on columns before it
WIDE_GROUP = np.repeat(np.arange(5), [50, 50, 50, 40, 10])  # the last one has few rows


def wide_with_a_dependent_column() -> lmm.Design:
    """34 slopes, one of which two others make up, in four groups of many rows and one of ten."""
    y = np.random.default_rng(9).normal(size=len(WIDE_ROWS)) + WIDE_ROWS[:, 0]
    return lmm.design_from_arrays(y, np.ones((len(y), 1)), WIDE_GROUP, exog_re=WIDE_ROWS)


def empty_in_a_group() -> Case:
    """A covariate that is zero throughout one group."""
    u = np.where(G == "g3", 0, DATA["z"])
    design = lmm.design("y ~ x + (0 + u | g)", DATA.assign(u=u))
    return Case(design, X, Y, [Term(u[:, None], G)])


SUB = joined("g", "s")
SIZES = np.repeat(np.arange(19), [1, 2, 1, 2, 3, 2, 4, 1, 4, 4, 8, 1, 1, 2, 2, 6, 6, 5, 5])
UNEVEN = np.repeat([f"m{i}" for i in range(5)], [1, 2, 12, 9, 36])  # 1 to 8 groups: buckets

CASES: dict[str, Callable[[], Case]] = {
    "intercept": lambda: bars("(1 | g)", Term(ONE, G)),
    "no fixed effects": lambda: bars("(1 | g)", Term(ONE, G), fixed="0", X=X[:, :0]),
    "k=2": lambda: bars("(x | g)", Term(columns("x"), G)),
    "k=2, weights": lambda: bars("(x | g)", Term(columns("x"), G), weights="w"),
    "k=2, offset": lambda: bars("(x | g)", Term(columns("x"), G), offset="o"),
    "k=3": lambda: bars("(x + z | g)", Term(columns("x", "z"), G)),
    "k=4": lambda: bars("(x + z + v | g)", Term(columns("x", "z", "v"), G)),
    "nested": lambda: bars("(x | g) + (1 | g:s)", Term(ONE, SUB), Term(columns("x"), G)),
    "uneven": lambda: Case(
        lmm.design("y ~ x + (1 | m) + (1 | h)", DATA.assign(m=UNEVEN, h=SIZES)),
        X, Y, [Term(ONE, SIZES.astype(str)), Term(ONE, UNEVEN)],
    ),
    "components": components,
    "singletons, n_i < q": lambda: grouped_as(SIZES),
    "zero Z in a group": empty_in_a_group,
    "wide": wide,
    "wide, singular": lambda: wide(one="0 + one"),
}  # fmt: skip


@cache
def case(name: str) -> Case:
    return CASES[name]()


def layout_of(name: str) -> GroupedLayout:
    return case(name).design.layout


def thetas(name: str) -> Array:
    """Interior, with signs; zero; each term singular; large; one term zero."""
    sizes = layout_of(name).sizes
    rng = np.random.default_rng(1)
    interior = rng.normal(size=sum(k * (k + 1) // 2 for k in sizes))
    singular, ends = interior.copy(), np.cumsum([k * (k + 1) // 2 for k in sizes])
    singular[ends - 1] = 0  # the last pivot of every term
    partial = interior.copy()
    partial[: ends[0]] = 0
    return np.stack([interior, 0 * interior, singular, 50 * interior, partial])


def dense_theta(name: str, theta: Array) -> Array:
    tied = case(name).tied
    return theta if tied is None else theta[list(tied)]


def dense_criterion(name: str, theta: Array, *, reml: bool) -> float:
    _, X, y, terms, weights, offset, _ = case(name)
    at = dense_theta(name, theta)
    return dense_deviance(X, y, terms, at, reml=reml, weights=weights, offset=offset).criterion


def packed(theta: Array, layout: GroupedLayout) -> Array:
    """Relative covariances as ``lmm.pack`` has them."""
    blocks = [np.asarray(L) @ np.asarray(L).T for L in factor_blocks(theta, layout.structures)]
    return np.concatenate([S[np.tril_indices(len(S))] for S in blocks])


# ------------------------------------------------------------ values


# Unrolled, by loops, in several buckets, by LAPACK; the other cases run the same source in NumPy.
COMPILED = ("k=2", "k=4", "uneven", "wide")


@pytest.mark.parametrize("name", CASES)
def test_profile_loglike_equals_dense(name):
    points, layout = thetas(name), layout_of(name)
    if name in COMPILED:
        values = batch(lambda t, reml: lmm.profile_loglike(t, layout, reml=reml))(points)
    else:
        layout = jax.tree.map(np.asarray, layout)
        values = np.array([[loglike_of_theta(t, layout, reml=r) for r in BOTH] for t in points])
    expected = [[dense_criterion(name, t, reml=reml) for reml in BOTH] for t in points]
    assert_close(-2 * values, expected, RTOL)


BOTH = (True, False)  # REML and ML


def batch(function: Callable[[Any, bool], Any]) -> Callable[[Any], Any]:
    """By REML and ML at every row, in one program."""
    return jax.jit(jax.vmap(lambda at: jnp.stack([function(at, reml) for reml in BOTH])))


@pytest.mark.device
@pytest.mark.parametrize("name", ["k=2, weights", "components"])
def test_loglike_equals_dense(name):
    """In covariances; with the fixed effects profiled out or given."""
    layout, points, beta = layout_of(name), thetas(name), np.array([0.5, -1.5])
    vectors = np.stack([packed(theta, layout) for theta in points])
    values = batch(lambda v, reml: lmm.loglike(v, layout, reml=reml))(vectors)
    expected = [[dense_criterion(name, t, reml=reml) for reml in BOTH] for t in points]
    assert_close(-2 * values, expected, RTOL)

    def given(vector, reml):
        full = jnp.concatenate([jnp.asarray(beta), vector])
        return lmm.loglike(full, layout, reml=reml, profile_fe=False)

    expected = [
        [dense_at_beta(case(name), dense_theta(name, t), beta, reml=reml) for reml in BOTH]
        for t in points
    ]
    assert_close(-2 * batch(given)(vectors), expected, RTOL)


def dense_at_beta(at: Case, theta: Array, beta: Array, *, reml: bool) -> float:
    """The criterion with the fixed effects given and sigma profiled out."""
    Z, Lambda = random_root(at.terms, theta)
    w = np.ones(len(at.y)) if at.weights is None else at.weights
    V = np.diag(1 / w) + (Z @ Lambda) @ (Z @ Lambda).T
    r = at.y - (0 if at.offset is None else at.offset) - at.X @ beta
    m = len(r) - (at.X.shape[1] if reml else 0)
    s2 = r @ np.linalg.solve(V, r) / m
    value = m * (np.log(2 * np.pi * s2) + 1) + np.linalg.slogdet(V)[1]
    return value + (np.linalg.slogdet(at.X.T @ np.linalg.solve(V, at.X))[1] if reml else 0)


def test_a_params_pytree_and_its_packed_vector_are_one():
    layout, vector = layout_of("components"), jnp.array([0.7, 0.4, 1.3])
    both = jax.jit(lambda p: (lmm.loglike(p, layout), lmm.score(p, layout)))
    (value, slope), (expected, packed_slope) = both(lmm.unpack(vector, (1,), 0)), both(vector)
    assert_close(value, expected, EXACT_RTOL)
    assert_close(lmm.pack(slope, (1,)), packed_slope, RTOL)


def test_sign_of_a_column_is_free():
    theta, layout = thetas("k=2")[0], layout_of("k=2")
    assert_close(loglike_at(theta * [-1, -1, 1], layout), loglike_at(theta, layout), EXACT_RTOL)


# ------------------------------------------------------------ derivatives


@pytest.mark.device
@pytest.mark.parametrize(("name", "reml"), [("k=2, weights", False), ("components", True)])
def test_jet_equals_autodiff(name, reml):
    """Closed forms of ``profile_jet`` against jax.grad and jax.hessian through ``waist``."""
    layout = layout_of(name)

    def criterion(theta):
        blocks = tuple(L @ L.T for L in factor_blocks(theta, layout.structures))
        return profile_waist(waist(blocks, layout), layout, reml=reml).deviance

    @jax.jit
    @jax.vmap
    def both(theta):
        auto = criterion(theta), jax.grad(criterion)(theta), jax.hessian(criterion)(theta)
        return profile_jet(theta, layout, reml=reml), auto

    jet, (value, slope, bend) = both(thetas(name))
    assert_close(jet.value, value, RTOL)
    assert_close(jet.gradient, slope, CLOSED_RTOL, np.abs(slope).max(axis=1, keepdims=True) + 1)
    assert_close(jet.hessian, bend, CLOSED_RTOL, np.abs(bend).max(axis=(1, 2), keepdims=True) + 1)


def test_jet_over_buckets_equals_differences():
    """Groups of very different width: several padded arrays, one sum."""
    layout, points = layout_of("uneven"), thetas("uneven")
    assert len(layout.buckets) > 1
    jet = jax.jit(lambda t: profile_jet(t, layout, reml=True))
    for theta in points[[0, 2]]:
        at = jet(theta)
        scale = np.abs(at.hessian).max()
        assert_close(at.gradient, central(lambda t: jet(t).value, theta), DIFF_RTOL, scale)
        assert_close(at.hessian, central(lambda t: jet(t).gradient, theta), DIFF_RTOL, scale)


def central(function: Callable[[Array], Any], at: Array, step: float = 1e-5) -> Array:
    """Central differences over every entry of ``at``, along the first axis."""
    at = np.asarray(at, float)
    rows = []
    for i in range(at.size):
        move = np.zeros(at.size)
        move[i] = step
        move = move.reshape(at.shape)
        rows.append((np.asarray(function(at + move)) - np.asarray(function(at - move))) / 2 / step)
    return np.stack(rows)


SCORE_POINTS = {
    "interior": [0.5, 1.5, 0.9, 0.2, 0.7],
    "singular": [0.5, 1.5, 0.9, 0.6, 0.4],
    "zero": [0.5, 1.5, 0.0, 0.0, 0.0],
}


@pytest.mark.parametrize(("reml", "profile_fe"), [(True, True), (False, False)])
def test_score_and_hessian_equal_differences(reml, profile_fe):
    layout = layout_of("k=2")
    options = {"reml": reml, "profile_fe": profile_fe}
    value = jax.jit(lambda v: lmm.loglike(v, layout, **options))
    slope = jax.jit(lambda v: lmm.score(v, layout, **options))
    bend = jax.jit(lambda v: lmm.hessian(v, layout, **options))
    for point in SCORE_POINTS.values():
        at = np.array(point)[2 if profile_fe else 0 :]
        score, second = np.asarray(slope(at)), np.asarray(bend(at))
        assert_close(score, central(value, at), DIFF_RTOL, np.abs(score).max())
        assert_close(second, central(slope, at), DIFF_RTOL, np.abs(second).max())
        assert_close(second, second.T, RTOL, np.abs(second).max())


def test_derivatives_of_profile_loglike():
    layout = layout_of("k=2")
    # interior, singular, boundary: in a batch
    thetas = jnp.array([[0.8, 0.3, 0.6], [0.8, 0.3, 0.0], [0.0, 0.0, 0.5]])
    check_derivatives(jax.vmap(lambda t: lmm.profile_loglike(t, layout)), thetas)


# unrolled, loop, LAPACK; the rule is the same code for all
@pytest.mark.parametrize(("r", "order"), [(2, 2), (4, 1), (33, 1)])
def test_derivatives_of_the_custom_rules(r, order):
    M, c = blocks(r, 3, 2, seed=r)
    sym = lambda A: 0.5 * (A + jnp.swapaxes(A, 0, 1))  # noqa: E731  the rules are for symmetric M
    copies = jnp.array([1.0, 3.0, 0.0])
    rules = lambda A, b: (integrate(sym(A), b, copies), inverse(sym(A)))  # noqa: E731
    check_derivatives(rules, M, c, order=order)


# ------------------------------------------------------------ under transformations


@pytest.mark.device
def test_jit_and_vmap_change_nothing():
    layout, points = layout_of("k=2"), jnp.asarray(thetas("k=2"))
    one_by_one = np.stack([loglike_at(t, layout) for t in points])
    assert_close(lmm.profile_loglike(points[0], layout), one_by_one[0], EXACT_RTOL)
    batched = jax.jit(jax.vmap(lmm.profile_loglike, in_axes=(0, None)))
    assert_close(batched(points, layout), one_by_one, EXACT_RTOL)


def test_responses_in_a_batch_equal_one_by_one():
    """vmap over layouts: many responses of one design."""
    one, index = case("k=2"), case("k=2").design.plan.index
    rows = lambda a: pad_rows(a, index.levels[0].cell.size)  # noqa: E731
    ys = jnp.stack([rows(Y), rows(DATA["z"].to_numpy()), rows(3 * Y - 1)])
    theta = jnp.asarray(thetas("k=2")[0])

    @jax.jit
    def value(y):
        Z = (rows(one.design.terms[0].values),)
        return lmm.profile_loglike(theta, compress(y, rows(X), Z, rows(np.ones(60)), index))

    assert_close(jax.jit(jax.vmap(value))(ys), [value(y) for y in ys], RTOL)


def test_new_values_are_not_traced_again():
    traces = []

    @jax.jit
    def value(theta, layout):
        traces.append(theta)
        return lmm.profile_loglike(theta, layout)

    for seed in range(3):
        layout = lmm.design("y ~ x + (x | g)", samples.frame(seed)).layout
        value(jnp.asarray(thetas("k=2")[seed]), layout)
    assert len(traces) == 1


@pytest.mark.device
def test_float32_in_float32_out():
    name = "components"
    layout = jax.tree.map(lambda a: a.astype(jnp.float32), layout_of(name))
    theta = thetas(name)[0]
    expected = loglike_at(theta, layout_of(name))
    single = jnp.asarray(theta, jnp.float32)
    value, slope = jax.jit(jax.value_and_grad(lmm.profile_loglike))(single, layout)
    assert value.dtype == slope.dtype == jnp.float32
    assert_close(value, expected, FLOAT32_RTOL)
    vector = jnp.asarray(packed(theta, layout), jnp.float32)
    likelihood = jax.jit(lmm.loglike)(vector, layout)
    assert likelihood.dtype == jnp.float32
    assert_close(likelihood, expected, FLOAT32_RTOL)


# ------------------------------------------------------------ compression


@pytest.mark.device
def test_ranks_of_groups_in_float32():
    # groups of one row, and pairs of rows with one x, cannot carry a slope
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), [1] * 20 + [2] * 20 + [4] * 20)
    x = rng.normal(size=groups.size)
    x[20:60:2] = x[21:60:2]
    X = np.column_stack([np.ones(x.size), x])
    y = x + rng.normal(size=60)[groups] + rng.normal(size=x.size)
    design = lmm.design_from_arrays(y, X, groups, exog_re=X)
    rows = design.padded_rows()
    with jax.enable_x64(False):
        layout = jax.jit(compress)(*jax.tree.map(jnp.asarray, rows[:4]), rows[4])
        assert layout.S0.dtype == jnp.float32
        assert jax.jit(lambda at: at.ranks())(layout) == 20 + 20 + 2 * 20
        value = loglike_at(jnp.array([100.0, 0.0, 100.0]), layout)
    expected = loglike_at(np.array([100.0, 0.0, 100.0]), design.layout)
    # twenty ranks too many would be 1e-5 off, and wrong in the start values
    assert_close(value, expected, 1e-6)


def pad_rows(values: Any, n: int) -> Array:
    values = np.asarray(values, float)
    return np.concatenate([values, np.zeros((n - len(values), *values.shape[1:]))])


@pytest.mark.device
def test_gradients_flow_to_the_rows():
    """jax.grad through ``compress`` against differences along random directions."""
    index, theta = case("k=2, weights").design.plan.index, jnp.asarray(thetas("k=2")[0])
    n = index.levels[0].cell.size
    y, X_rows, (Z,), w = arrays(n)

    def value(y, X_rows, Z, w):
        return lmm.profile_loglike(theta, compress(y, X_rows, (Z,), w, index))

    parts = [jnp.asarray(part) for part in (y, X_rows, Z, w)]
    slopes = jax.jit(jax.grad(value, argnums=(0, 1, 2, 3)))(*parts)
    run, rng, step = jax.jit(value), np.random.default_rng(3), 1e-5
    for i, slope in enumerate(np.asarray(slope)[:60] for slope in slopes):

        def along(move, i=i):
            return run(*(p + pad_rows(move, n) if j == i else p for j, p in enumerate(parts)))

        for _ in range(4):
            move = rng.normal(size=slope.shape)
            difference = (along(step * move) - along(-step * move)) / (2 * step)
            assert_close(np.sum(slope * move), difference, DIFF_RTOL, np.linalg.norm(slope))


def arrays(n: int) -> tuple[Any, ...]:
    """Rows of the random-slope model, padded to n."""
    parts = (Y, X, columns("x")[:, None, :], DATA["w"])
    y, X_rows, Z, w = (pad_rows(part, n) for part in parts)
    return y, X_rows, (Z,), w


def test_padding_is_exact():
    """Rows of weight zero in any group, and groups without rows."""
    codes = np.concatenate([np.unique(G, return_inverse=True)[1], np.arange(140) % 10])
    index = plan_groups(codes, 10, [codes[:, None]], [10], unstructured([2])).index
    (pair,), (level,) = index.pairs, index.levels
    index = replace(  # as if 40 groups of no rows followed
        index,
        levels=(replace(level, n_cells=50),),
        pairs=(replace(pair, n_cells=50),),
        n_groups=(50,),
    )
    layout = jax.jit(compress)(*arrays(level.cell.size), index)
    for theta in thetas("k=2, weights"):
        expected = loglike_at(theta, layout_of("k=2, weights"))
        assert_close(loglike_at(theta, layout), expected, RTOL)


def test_groups_of_zeros_are_neutral():
    layout = layout_of("k=2")
    (bucket,) = layout.buckets
    more = [jnp.pad(a, ((0, 0), (0, 0), (0, 5))) for a in (bucket.T, bucket.c)]
    copies = jnp.pad(bucket.copies, (0, 5))
    padded = replace(layout, buckets=(replace(bucket, T=more[0], c=more[1], copies=copies),))
    theta = thetas("k=2")[0]
    assert_close(loglike_at(theta, padded), loglike_at(theta, layout), EXACT_RTOL)


@pytest.mark.device
def test_the_jet_of_a_float32_layout_is_float32():
    layout = jax.tree.map(lambda a: np.asarray(a, np.float32), layout_of("k=2"))
    run = jax.jit(lambda t, lay: profile_jet(t, lay, reml=True))
    expected = run(jnp.asarray(thetas("k=2")[0]), layout_of("k=2"))
    with jax.enable_x64(False):
        jet = run(jnp.asarray(thetas("k=2")[0], jnp.float32), layout)
    assert {leaf.dtype for leaf in jax.tree.leaves(jet)} == {jnp.dtype(jnp.float32)}
    assert float(jet.noise) > 1e6 * float(expected.noise)  # the rounding is that of the type
    jet, expected = (j._replace(noise=j.value) for j in (jet, expected))
    for actual, exact in zip(jax.tree.leaves(jet), jax.tree.leaves(expected), strict=True):
        assert_close(actual, exact, FLOAT32_RTOL, np.abs(exact).max())


# ------------------------------------------------------------ linear algebra


def blocks(r: int, groups: int, k: int, *, seed: int = 0, rank: int | None = None) -> Any:
    """Positive (semi)definite matrices (r, r, G) of a given rank and columns (r, k, G)."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(groups, r, max(r, 1) if rank is None else rank))
    M = root @ root.transpose(0, 2, 1) + (np.eye(r) if rank is None else 0)
    columns = M @ rng.normal(size=(groups, r, k))
    return jnp.asarray(np.moveaxis(M, 0, -1)), jnp.asarray(np.moveaxis(columns, 0, -1))


@pytest.mark.device
@pytest.mark.parametrize("r", [0, 1, 2, 3, 4, 13, 32, 33, 40])
def test_eliminate_and_back_substitute_equal_numpy(r):
    M, B = blocks(r, 4, 2)
    out = jax.jit(eliminate)(M, B)
    x = jax.jit(back_substitute)(*out)
    for i in range(4):
        L = np.linalg.cholesky(M[:, :, i])
        assert_close(out.U[:, :, i], L.T, RTOL, np.abs(L).max(initial=0))
        solved = np.linalg.solve(L, B[:, :, i])
        assert_close(out.X[:, :, i], solved, RTOL, np.abs(solved).max(initial=0))
        full = np.linalg.solve(M[:, :, i], B[:, :, i])
        assert_close(x[:, :, i], full, RTOL, np.abs(full).max(initial=0))


@pytest.mark.parametrize(("r", "rank"), [(1, 0), (2, 1), (3, 1), (3, 2), (5, 3), (12, 7)])
def test_singular_blocks(r, rank):
    """Negligible pivots give rows of zeros: what remains still reproduces M and solves."""
    M, B = blocks(r, 4, 2, rank=rank)
    out = jax.jit(lambda M, B: eliminate(M, B, tol=1e-12))(M, B)
    x = jax.jit(back_substitute)(*out)
    for i in range(4):
        U, m = np.asarray(out.U[:, :, i]), np.asarray(M[:, :, i])
        if r <= 32:  # larger ones get a ridge of the size of rounding
            assert (np.abs(U).sum(axis=1) > 0).sum() == rank
        assert_close(U.T @ U, m, RTOL, np.abs(m).max(initial=0))
        assert_close(m @ x[:, :, i], B[:, :, i], 1e-8, np.abs(B[:, :, i]).max(initial=0))
        L = np.asarray(psd_cholesky(M[:, :, i]))
        assert_close(L @ L.T, m, RTOL, np.abs(m).max(initial=0))
        assert np.all(np.triu(L, 1) == 0)


def test_what_is_not_positive_definite_gives_nan():
    for r in (2, 5, 33):
        M = jnp.eye(r)[:, :, None]
        assert np.isnan(jax.jit(eliminate)(-M, M).U).any()


@pytest.mark.parametrize("runtime", ["numpy", "jax"])
@pytest.mark.parametrize("r", [3, 12, 33, 49, 70])
def test_zero_pivots_leave_the_others_solved(r, runtime, x64):
    """What ``U x = B`` is without the rows and columns of zero pivots."""
    rng = np.random.default_rng(r)
    U = np.triu(rng.normal(size=(r, r)) / r) + np.diag(rng.uniform(1.0, 2.0, r))
    kept = np.ones(r, bool)
    kept[[1, r - 1]] = False
    U[~kept] = 0.0
    B = rng.normal(size=(r, 2, 3))
    want = np.zeros_like(B)
    for g in range(3):
        want[kept, :, g] = np.linalg.solve(U[np.ix_(kept, kept)], B[kept, :, g])
    matrices = np.repeat(U[:, :, None], 3, axis=2)
    if runtime == "numpy":
        got = back_substitute(matrices, B)
    else:
        got = jax.jit(back_substitute)(matrices, B)
    assert_close(got, want, 1e-13, 1.0)


@pytest.mark.parametrize("r", [5, 49, 90, 200])
def test_triangular_systems_in_numpy(r):
    """From below and above, of matrices in any order of memory; no number for a zero pivot."""
    xp, rng = namespace(np.zeros(1)), np.random.default_rng(r)
    A = rng.normal(size=(2, r, r)) / r + 2.0 * np.eye(r)
    B = rng.normal(size=(r, 3, 2)).transpose(2, 0, 1)
    for matrix in (A, A[:, ::-1, ::-1], A.swapaxes(1, 2)):
        for lower, part in ((True, np.tril(matrix)), (False, np.triu(matrix))):
            got = xp.triangular_solve(matrix, B, left_side=True, lower=lower)
            assert_close(got, np.linalg.solve(part, B), 1e-13, 1.0)
            assert xp.triangular_solve(matrix, B[:, :, :0], lower=lower).shape == (2, r, 0)
    A[0, 2, 2] = 0.0
    with np.errstate(all="ignore"):
        got = xp.triangular_solve(A, B, left_side=True, lower=True)
    assert not np.isfinite(got[0, 2:]).all() and np.isfinite(got[1]).all()


# ------------------------------------------------------------ wide groups


def test_a_wide_group_has_a_row_of_zeros_for_every_dependent_column():
    design = wide_with_a_dependent_column()
    ranks = [np.linalg.matrix_rank(WIDE_ROWS[g == WIDE_GROUP]) for g in range(5)]
    assert ranks == [33, 33, 33, 33, 10]
    assert design.reach[0] == sum(ranks)
    (bucket,) = design.layout.buckets
    assert sorted((np.diagonal(bucket.T) > 0).sum(axis=1)[:5]) == sorted(ranks)
    assert not np.moveaxis(np.asarray(bucket.T), 2, 1)[~(np.diagonal(bucket.T) > 0).T].any()
    Lambda = np.tril(np.random.default_rng(1).normal(size=(WIDE, WIDE)))
    layout = design.compressed.layout  # NumPy's: one evaluation
    (A,) = layout.whiteners
    inner = stack_theta([np.linalg.solve(A, Lambda)])
    dense = dense_deviance(
        design.exog,
        design.endog,
        [Term(WIDE_ROWS, WIDE_GROUP.astype(str))],
        Lambda.T[np.triu_indices(WIDE)],
        reml=True,
    )
    at = profile_waist(layout.waist_at(inner), layout, reml=True)
    assert_close(at.deviance, dense.criterion, RTOL)


@pytest.mark.parametrize("r", [33, 40, 64])
def test_a_wide_elimination_is_the_one_of_small_blocks(r):
    rng = np.random.default_rng(r)
    Z = rng.normal(size=(r + 5, r, 3))
    Z[:, 7] = Z[:, 2] - 3 * Z[:, 5]
    Z[:, r - 1] = 0  # padding
    Z[:, 20, 0] = 1e4 * Z[:, 3, 0]
    M = np.einsum("nag,nbg->abg", Z, Z)
    B = np.einsum("nag,nkg->akg", Z, rng.normal(size=(r + 5, 2, 3)))
    wide = jax.jit(lambda M, B: eliminate(M, B, tol=1e-12))(M, B)
    plain = jax.jit(lambda M, B: _eliminate_loop(M, B, 1e-12))(M, B)
    assert (np.diagonal(wide.U) > 0).sum(axis=1).tolist() == [r - 3, r - 2, r - 2]
    assert_close(wide.U, plain.U, 1e-9, 1)
    assert_close(wide.X, plain.X, 1e-9, 1)
    assert_close(np.einsum("rag,rbg->abg", wide.U, wide.U), M, 1e-13, np.abs(M).max())

    def total(A):  # log|S| / 2 + tr(B' S^-1 B) of S = A'A + I, which has full rank
        full = jnp.einsum("nag,nbg->abg", A, A) + jnp.eye(r)[:, :, None]
        U, X = eliminate(full, jnp.asarray(B), tol=1e-12)
        return jnp.sum(jnp.log(jnp.diagonal(U))) + jnp.sum(X * X)

    slope = jax.jit(jax.grad(total))(Z)
    for i in range(3):
        A, inverted = Z[:, :, i], np.linalg.inv(Z[:, :, i].T @ Z[:, :, i] + np.eye(r))
        solved = inverted @ B[:, :, i]
        assert_close(slope[:, :, i], A @ (inverted - 2 * solved @ solved.T), 1e-9, 1)


@pytest.mark.parametrize("sweep", [False, True])
@pytest.mark.parametrize("r", [40, 100])
def test_inverses_of_large_matrices(r, sweep, monkeypatch):
    """By LAPACK, by halves, and in the matrix's own place with a shorter strip at the end."""
    if sweep:
        monkeypatch.setattr(inverses, "_SWEEP_ABOVE", 32)
        monkeypatch.setattr(inverses, "_SWEEP", 24)
    monkeypatch.setattr(inverses, "_HALVE_ABOVE", 24)
    root = np.random.default_rng(r).normal(size=(r, r))
    M = root @ root.T / r + np.eye(r)
    on_device = jax.jit(lambda M: inverses.spd_inverse(M))
    for found, logdet in (inverses.spd_inverse(M[:, :, None].copy()), on_device(M[:, :, None])):
        assert_close(found[:, :, 0], np.linalg.inv(M), EXACT_RTOL, 1.0)
        assert_close(logdet, np.linalg.slogdet(M)[1], EXACT_RTOL)
    M[r // 2, r // 2] = -1.0  # a pivot in the middle
    for found, logdet in (inverses.spd_inverse(M[:, :, None].copy()), on_device(M[:, :, None])):
        assert np.isnan(logdet) and np.isnan(np.asarray(found)).any()
