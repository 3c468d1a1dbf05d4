"""Pairs in products of dense matrices: the same fits as by lists of pairs."""

import jax
import numpy as np
import pandas as pd
import pytest
from crossed_designs import islands
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax.layouts.crossed import (
    core,
    core_index,
    dense_entries,
    dense_sums,
    links,
    pair_sums,
    traces,
)
from lmm_jax.layouts.crossed import index as index_module
from lmm_jax.layouts.crossed.core_index import entry_pairs
from lmm_jax.likelihood.profile import profile_jet
from lmm_jax.numerics import inverses, linalg
from lmm_jax.numerics.devices import ByDevice

RTOL = 1e-9  # sums in another order, at optima of decrement 1e-9
EXACT = 1e-11  # the same criterion from sums in another order
MODELS = {
    "intercepts": "y ~ x + (1 | user) + (1 | film)",
    "slopes of users": "y ~ x + (x | user) + (1 | film)",
    "slopes of films": "y ~ x + (1 | user) + (x | film)",
    "nested users": "y ~ x + (1 | town/user) + (1 | film)",
    "three factors": "y ~ x + (1 | user) + (1 | film) + (1 | year)",
}


def ratings():
    """Few films that nearly everybody rates, and many that few do."""
    rng = np.random.default_rng(4)
    share = 1.0 / np.arange(1, 25)
    film = rng.choice(24, 700, p=share / share.sum())
    user = rng.integers(0, 40, 700)
    return pd.DataFrame(
        {
            "user": user,
            "town": user % 7,
            "film": film,
            "year": rng.integers(0, 5, 700),
            "x": rng.normal(size=700),
            "y": rng.normal(size=40)[user] + rng.normal(size=24)[film] + rng.normal(size=700),
        }
    )


@pytest.fixture
def dense(monkeypatch):
    """Small problems take dense products, in chunks of a few groups."""
    monkeypatch.setattr(dense_entries, "_FEW_PAIRS", 0)
    monkeypatch.setattr(dense_entries, "_HELD", ByDevice(100, 100))
    monkeypatch.setattr(dense_entries, "_COSTS", ByDevice((3e-8, 5e-9), (3e-8, 5e-9)))
    monkeypatch.setattr(dense_entries, "_BLOCK_ROWS", 3)

    def design(formula, data):
        found = lmm.design(formula, data)
        heads = [link.head for link in found.layout.links]
        assert any(head is not None for head in heads)
        return found

    return design


@pytest.mark.parametrize("runtime", ["numpy", "jax"])
@pytest.mark.parametrize("name", MODELS)
def test_fits_are_those_of_lists(name, runtime, dense, monkeypatch):
    formula, data = MODELS[name], ratings()
    got = lmm.fit(dense(formula, data), runtime=runtime)
    monkeypatch.setattr(dense_entries, "_FEW_PAIRS", 1 << 22)
    want = lmm.fit(formula, data, runtime="numpy")
    assert all(link.head is None for link in want.design.layout.links)
    assert_close(got.llf, want.llf, EXACT)
    assert_close(np.asarray(got.fe_params), np.asarray(want.fe_params), RTOL)
    assert_close(np.asarray(got.bse), np.asarray(want.bse), 1e-7)  # by second derivatives
    assert_close(got.scale, want.scale, RTOL)
    for factor, frame in want.random_effects.items():
        ours = got.random_effects[factor].loc[frame.index]
        assert_close(ours.to_numpy(), frame.to_numpy(), 1e-7, 1.0)  # effects of order one


@pytest.mark.parametrize("runtime", ["numpy", "jax"])
@pytest.mark.parametrize("name", ["intercepts", "three factors", "slopes of users"])
def test_a_large_core_holds_few_matrices(name, runtime, x64, monkeypatch):
    """In strips, inverted in its own place and without A, it has the same derivatives."""
    layout = jax.tree.map(np.asarray, lmm.design(MODELS[name], ratings()).compressed.layout)
    theta = np.linspace(0.4, 0.8, sum(s.n_params for s in layout.structures))
    want = profile_jet(theta, layout, reml=True)
    for module, names in {
        traces: {"_STRIPS_ABOVE": 8, "_STRIP": 5},
        inverses: {"_SWEEP_ABOVE": 8, "_SWEEP": 5, "LOOP_LIMIT": 8},
        linalg: {"LOOP_LIMIT": 8},
        core: {"SMALL": 8, "KEPT": 8},
        dense_entries: {
            "_FEW_PAIRS": 0,
            "_COSTS": ByDevice((3e-8, 5e-9), (3e-8, 5e-9)),
            "_BLOCK_ROWS": 3,
        },
    }.items():
        for constant, value in names.items():
            monkeypatch.setattr(module, constant, value)
    large = lmm.design(MODELS[name], ratings()).compressed.layout.known_at(theta)
    assert large.regular and large.links[0].head is not None
    if runtime == "jax":
        run = jax.jit(lambda t, at: profile_jet(t, at, reml=True))
        got = run(theta, jax.tree.map(jax.numpy.asarray, large))
    else:
        got = profile_jet(theta, jax.tree.map(np.asarray, large), reml=True)
    scale = np.abs(want.hessian).max()
    assert_close(got.value, want.value, EXACT)
    assert_close(got.gradient, want.gradient, EXACT, scale)
    assert_close(got.hessian, want.hessian, EXACT, scale)
    assert_close(got.dbeta, want.dbeta, EXACT, 1.0)


KINDS = {"list": None, "products": pair_sums.PairSums, "matrices": dense_sums.DenseSums}


def summed_by(kind, monkeypatch):
    """Sums over pairs of this kind wherever they can be."""
    monkeypatch.setattr(pair_sums, "_FEW", 1 << 30 if kind == "list" else 0)
    monkeypatch.setattr(links, "pays", lambda *at: kind == "matrices" and at[-1][1] == 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*MODELS, "islands"])
@pytest.mark.parametrize("head", [False, True])
def test_sums_over_pairs_are_those_of_dense_matrices(name, head, kind, request, monkeypatch):
    """Group by group written out, in every block: ``sum_i d_i' W_i d_i``, ``d_i H d_i'``."""
    summed_by(kind, monkeypatch)
    monkeypatch.setattr(links, "_MANY", 0 if kind == "products" else 1 << 30)
    if name == "islands":
        design = lmm.design("y ~ x + (1 | s) + (1 | d)", islands())
    else:
        make = request.getfixturevalue("dense") if head else lmm.design
        design = make(MODELS[name], ratings())
    layout = jax.tree.map(np.asarray, design.compressed.layout).without_padding().with_sums()
    N, B = layout.shape
    rng = np.random.default_rng(1)
    H = rng.normal(size=(N, N, B))
    H, start = H + H.swapaxes(0, 1), np.zeros((N, N, B))
    A = rng.normal(size=(N, 3, B))
    for link, bucket in zip(layout.links, layout.buckets, strict=True):
        if kind != "matrices" or (B == 1 and link.head is None):
            assert isinstance(link.sums, KINDS[kind] or type(None)) or link.left.size == 0
        q, _, G = bucket.T.shape
        d = np.zeros((q, G, N, B))
        np.add.at(d, (slice(None), link.group, link.row, link.block), link.d)
        W = rng.normal(size=(q, q, G))
        W = W + W.swapaxes(0, 1)
        want = np.einsum("agnc,abg,bgmc->nmc", d, W, d)
        got = links.add_pairs(start, W, link, (link.d, links.apply_at(W, link.d, link)))
        assert_close(got, want, EXACT, np.abs(want).max())
        assert (start == 0).all() and (got == got.swapaxes(0, 1)).all()
        want = np.einsum("agnc,nmc,bgmc->abg", d, H, d)
        got = links.group_contractions(link.d, H, link, G)
        assert_close(got, want, EXACT, np.abs(want).max())
        if link.sums is not None:
            got = links.contractions_of_d(H, link, G)
            assert_close(got, want, EXACT, np.abs(want).max())
        if link.head is None:
            got = links.pair_contraction(link.d, H, link)
            assert_close(got, want.sum(axis=2), EXACT, np.abs(want).max())
        c = rng.normal(size=(q, 3, G))
        want = np.einsum("agnb,acg->ncb", d, c)
        got = links.onto_core(link.d, c, link, layout.shape)
        assert_close(got, want, EXACT, np.abs(want).max())
        want = np.einsum("agnb,ncb->acg", d, A)
        assert_close(links.onto_groups(link.d, A, link, G), want, EXACT, np.abs(want).max())


@pytest.mark.parametrize("many", [0, 1 << 30])
def test_matrices_are_taken_where_groups_meet_most_levels(many, monkeypatch):
    """Subjects who see all items; the products of their entries as matrices or one by one."""
    monkeypatch.setattr(links, "_MANY", many)
    layout = jax.tree.map(np.asarray, experiment().compressed.layout)
    theta = np.linspace(0.4, 0.8, 6)
    want = profile_jet(theta, layout, reml=True)
    ready = layout.without_padding().with_sums()
    assert isinstance(ready.links[0].sums, dense_sums.DenseSums)
    assert ready.buckets[0].T.shape[2] == 20 < layout.buckets[0].T.shape[2]
    assert ready.with_sums().links[0].sums is ready.links[0].sums
    assert ready.rotate(1, np.eye(2)).links[0].sums is None
    got = profile_jet(theta, ready, reml=True)
    for name in ("value", "gradient", "hessian", "dbeta"):
        a, b = getattr(got, name), getattr(want, name)
        assert_close(a, b, EXACT, np.abs(b).max())


@pytest.mark.parametrize("runtime", ["numpy", "jax"])
@pytest.mark.parametrize("pivot", [1e-7, 1e-12, 1e-17])
def test_small_pivots_above_larger_numbers_cost_the_core_no_digits(pivot, runtime, x64):
    """The criterion and its gradient go on to those at a pivot of zero as their derivatives say."""
    layout = experiment().compressed.layout
    convert = jax.numpy.asarray if runtime == "jax" else np.asarray
    layout = jax.tree.map(convert, layout)

    def at(size):
        theta = np.array([size, -0.1, 0.4, size, -0.3, 0.5])  # below the pivots numbers are not
        return profile_jet(convert(theta), layout, reml=True)

    got, want = at(pivot), at(0.0)
    step = pivot * np.array([1, 0, 0, 1, 0, 0])
    assert_close(got.value, float(want.value) + float(want.gradient @ step), EXACT)
    gradient = want.gradient + want.hessian @ step
    assert_close(got.gradient, gradient, EXACT, np.abs(want.gradient).max())


def experiment():
    """20 subjects who see 12 items twice, most of the time."""
    rng = np.random.default_rng(6)
    subject, item = np.repeat(np.arange(20), 24), np.tile(np.arange(12), 40)
    x = np.tile(np.repeat([-0.5, 0.5], 12), 20)
    y = rng.normal(size=20)[subject] + rng.normal(size=12)[item] * (1 + x) + rng.normal(size=480)
    data = pd.DataFrame({"subject": subject, "item": item, "x": x, "y": y})
    rows = data[rng.random(480) < 0.9]
    return lmm.design("y ~ x + (x | subject) + (x | item)", rows)


@pytest.mark.parametrize("condition", [1e2, 1e12])
def test_a_rough_inverse_says_whether_it_will_do(condition):
    """Six digits where single precision has them, what double precision has otherwise."""
    Q = np.linalg.qr(np.random.default_rng(2).normal(size=(120, 120)))[0]
    e = np.geomspace(1.0, condition, 120)
    M = (Q * e) @ Q.T
    X, logdet, single = inverses.rough_inverse(0.5 * (M + M.T)[:, :, None])
    assert_close(X[:, :, 0], (Q / e) @ Q.T, 1e-5, 1.0)  # 1e12 leaves four digits of sixteen
    assert_close(logdet, np.log(e).sum(), 1e-7)
    assert single == (condition < 1e6) == bool((X.astype(np.float32) == X).all())


def test_a_rough_inverse_falls_back_as_a_whole():
    """Beyond the range of single precision, indefinite, or one block of several ill-conditioned."""
    rng = np.random.default_rng(3)
    B = rng.normal(size=(60, 60, 2))
    M = np.einsum("rag,rbg->abg", B, B) + np.eye(60)[:, :, None]
    assert inverses.rough_inverse(M).single
    assert not inverses.rough_inverse(1e39 * M).single
    bad = M.copy()
    bad[:, :, 1] = 1.0 + 1e-9 * np.eye(60)
    for case in (bad, M - 500.0 * np.eye(60)[:, :, None]):
        X, logdet, single = inverses.rough_inverse(case)
        want, known = inverses.spd_inverse(case)
        assert not single
        np.testing.assert_array_equal(X, want)
        np.testing.assert_array_equal(logdet, known)


@pytest.mark.parametrize("kind", ["products", "matrices"])
@pytest.mark.parametrize("name", [*MODELS, "islands", "many islands"])
def test_prepared_sums_change_no_derivative(name, kind, monkeypatch):
    """Criterion, gradient and exact Hessian; blocks of the core from one to many."""
    summed_by(kind, monkeypatch)
    formula, data = MODELS.get(name, "y ~ x + (1 | s) + (1 | d)"), ratings()
    if name == "islands":
        data = islands()
    if name == "many islands":  # 30 blocks of 8 columns
        rng = np.random.default_rng(5)
        island, s, d = (
            np.repeat(np.arange(30), 60),
            rng.integers(0, 20, 1800),
            rng.integers(8, size=1800),
        )
        data = pd.DataFrame({"s": 20 * island + s, "d": 8 * island + d, "x": rng.normal(size=1800)})
        data["y"] = (
            rng.normal(size=600)[data.s] + rng.normal(size=240)[data.d] + rng.normal(size=1800)
        )
    layout = jax.tree.map(np.asarray, lmm.design(formula, data).compressed.layout)
    theta = np.linspace(0.4, 0.8, sum(s.n_params for s in layout.structures))
    ready = layout.with_sums()
    assert all(link.sums is not None for link in ready.links)
    want, got = (profile_jet(theta, at, reml=True) for at in (layout, ready))
    assert_close(got.value, want.value, EXACT)
    assert_close(got.gradient, want.gradient, EXACT, np.abs(want.gradient).max())
    assert_close(got.hessian, want.hessian, EXACT, np.abs(want.hessian).max())
    assert all(link.sums is None for link in ready.rotate(0, np.eye(layout.sizes[0])).links) or (
        0 not in layout.crossed  # turned entries need other products
    )


@pytest.mark.parametrize("error", [0.0, 0.03, 0.5])
@pytest.mark.parametrize("name", ["intercepts", "slopes of users", "three factors"])
def test_rough_steps_that_fail_are_given_up(name, error, monkeypatch):
    """Inverses that are worse than they say cost steps, not the optimum."""
    monkeypatch.setattr(index_module, "_DEAR", 0)
    want = lmm.fit(MODELS[name], ratings(), runtime="numpy")
    asked = []

    def wrong(M):
        asked.append(M.shape)
        found = inverses.spd_inverse(M)
        noise = np.random.default_rng(len(asked)).normal(size=M.shape)
        return inverses.RoughInverse(found[0] * (1.0 + error * noise), found[1] + error, True)

    monkeypatch.setattr(core, "rough_inverse", wrong)
    got = lmm.fit(MODELS[name], ratings(), runtime="numpy")
    assert asked and got.converged
    assert_close(got.llf, want.llf, EXACT)
    assert_close(got.bse, want.bse, 1e-4)  # optima of decrement 1e-9: 3e-5 standard errors apart


def test_large_effects_need_all_digits():
    layout = lmm.design(MODELS["intercepts"], ratings()).compressed.layout
    assert layout.known_at(np.array([1e4, 20.0]), rough=True).rough  # users are eliminated
    assert not layout.known_at(np.array([1.0, 40.0]), rough=True).rough


def test_sums_have_a_budget(monkeypatch):
    summed_by("products", monkeypatch)
    layout = jax.tree.map(np.asarray, lmm.design(MODELS["intercepts"], ratings()).compressed.layout)
    size = layout.with_sums().links[0].sums.nbytes
    monkeypatch.setattr(pair_sums, "host_memory", lambda: 16 * size // 2)
    assert layout.with_sums().links[0].sums is None
    monkeypatch.setattr(pair_sums, "host_memory", lambda: None)
    assert layout.with_sums().links[0].sums is not None


@pytest.mark.parametrize("most", [0, 1 << 26])
def test_pairs_run_along_the_core(most, monkeypatch):
    monkeypatch.setattr(core_index, "SORTED", most)
    for link in lmm.design(MODELS["nested users"], ratings()).layout.links:
        left = np.asarray(link.left)
        there = left != link.d.shape[1] - 1
        assert (np.diff(np.asarray(link.row)[left[there]]) >= 0).all()


@pytest.mark.parametrize("name", MODELS)
def test_a_rough_criterion_has_its_digits(name, monkeypatch):
    """Six of the derivatives, more of the value: columns are refined, the determinant is not."""
    monkeypatch.setattr(inverses, "LOOP_LIMIT", 8)
    layout = jax.tree.map(np.asarray, lmm.design(MODELS[name], ratings()).compressed.layout)
    theta = np.linspace(0.4, 0.8, sum(s.n_params for s in layout.structures))
    rough = layout.known_at(theta, rough=True)
    assert rough.rough and not layout.known_at(theta).rough
    want = profile_jet(theta, layout, reml=True, exact=False)
    got = profile_jet(theta, rough, reml=True, exact=False)
    assert got.value != want.value
    assert_close(got.value, want.value, 1e-8)
    assert_close(got.gradient, want.gradient, 1e-5, np.abs(want.gradient).max())
    assert_close(got.hessian, want.hessian, 1e-5, np.abs(want.hessian).max())


def test_every_pair_is_counted_once(dense):
    """In the list or in the head, never in both."""
    data = ratings()
    for link in dense(MODELS["nested users"], data).layout.links:
        group, row = np.asarray(link.group), np.asarray(link.row)
        there = np.flatnonzero(np.abs(np.asarray(link.d)).sum(axis=0) > 0)
        in_head = {first + i for first, count in link.head.runs for i in range(count)}
        both = {
            (i, j)
            for i in there
            for j in there
            if i <= j and group[i] == group[j] and {row[i], row[j]} <= in_head
        }
        listed = list(zip(np.asarray(link.left), np.asarray(link.right), strict=True))
        listed = [tuple(sorted(pair)) for pair in listed if set(pair) <= set(there)]
        assert len(listed) == len(set(listed))
        assert not both & set(listed)
        n = sum(i <= j and group[i] == group[j] for i in there for j in there)
        assert len(both) + len(listed) == n


def test_the_head_costs_least():
    """Against all pairs by hand: nothing where nobody rates much, everything where all do."""
    group, level = map(np.ravel, np.meshgrid(np.arange(3000), np.arange(300), indexing="ij"))
    width = np.ones(300, int)
    order = np.arange(300)
    assert dense_entries.head_levels(group, level, width, order).all()
    few = level % 60 == group % 60  # five films each: 45,000 pairs
    assert not dense_entries.head_levels(group[few], level[few], width, order).any()


def test_a_list_without_a_head_is_as_it_was():
    group = np.array([0, 0, 0, 1])
    left, right = entry_pairs(group, np.array([0, 1, 2, 0]), 16)
    pairs = [(i, j) for i, j in zip(left, right, strict=True) if i < 15]
    assert sorted(pairs) == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2), (3, 3)]
