"""Merged groups: the same criterion and derivatives of any order, the same fit, fewer numbers."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax.designs.design import Design
from lmm_jax.layouts import equal_groups as classes_module
from lmm_jax.layouts import merged
from lmm_jax.layouts.equal_groups import find_classes
from lmm_jax.layouts.grouped import GroupedLayout
from lmm_jax.layouts.merged import chunk, merge
from lmm_jax.likelihood.profile import profile_jet

RTOL = 1e-12  # the same sums in another order; derivatives are sums of about n terms
FIT_RTOL = 1e-8  # two optimizers stop within a Newton decrement of 1e-9


def data(groups: int = 400, seed: int = 0) -> pd.DataFrame:
    """Groups of 3 to 5 rows at fixed times, two nested factors, weights that depend on the time."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), 3 + np.arange(groups) % 3)
    t = np.arange(g.size) - np.searchsorted(g, g)
    b = rng.normal(size=(groups, 3)) * [2.0, 0.7, 0.3]
    x = rng.normal(size=g.size)
    y = 1e3 + x + b[g, 0] + b[g, 1] * t + b[g, 2] * t**2 + rng.normal(size=g.size)
    return pd.DataFrame({"y": y, "x": x, "t": t, "g": g, "s": g * 10 + t // 2, "w": 1.0 + t})


CASES = {
    "q=1": ("y ~ x + (1 | g)", {}),
    "q=2": ("y ~ x + t + (t | g)", {}),
    "q=2, weights": ("y ~ x + t + (t | g)", {"weights": "w"}),
    "q=3": ("y ~ x + (t + I(t**2) | g)", {}),
    "nested": ("y ~ x + (1 | g) + (1 | s)", {}),
}


@pytest.fixture(autouse=True)
def merge_small(monkeypatch):
    """Merging pays for large data only; here it is to happen for small ones."""
    monkeypatch.setattr(merged, "WORTH_MERGING", 0)


def design_of(name: str) -> Design:
    formula, options = CASES[name]
    return lmm.design(formula, data(1200 if name == "q=3" else 400), **options)


jet_at = jax.jit(profile_jet, static_argnames="reml")
loglike_at = jax.jit(lmm.profile_loglike)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CASES)
def test_criterion_gradient_and_hessian(name):
    """Merged groups in a program, all groups in NumPy."""
    layout, reml = design_of(name).compressed.layout, "weights" not in name
    short = merge(layout)
    assert short.size() < layout.size() / 3
    m = sum(k * (k + 1) // 2 for k in layout.sizes)
    for theta in (np.linspace(0.3, 1.2, m), np.zeros(m), np.linspace(-2.0, 30.0, m)):
        ours = jet_at(jnp.asarray(theta), short, reml=reml)
        expected = profile_jet(theta, layout, reml=reml)
        for field in ("value", "gradient", "hessian", "psi_gradients", "dbeta", "dcov_beta"):
            pairs = zip(
                jax.tree.leaves(getattr(ours, field)),
                jax.tree.leaves(getattr(expected, field)),
                strict=True,
            )
            for a, b in pairs:
                assert_close(a, b, RTOL, scale=max(np.abs(b).max(), float(layout.n_obs)))


@pytest.mark.usefixtures("x64")
def test_public_functions_moments_and_ranks():
    design = design_of("q=2")

    @jax.jit
    def everything(at):
        theta, params = jnp.array([0.9, 0.2, 0.4]), jnp.array([1.1, 0.1, 0.3])
        likelihood = lmm.profile_loglike
        return (
            *jax.value_and_grad(likelihood)(theta, at),
            jax.hessian(likelihood)(theta, at),
            lmm.loglike(params, at),
            lmm.score(params, at),
            at.start_moments(),
            at.ranks(),
        )

    ours, expected = everything(merge(design.layout)), everything(design.layout)
    for a, b in zip(ours, expected, strict=True):
        assert_close(a, b, RTOL, scale=np.abs(b).max())


@pytest.mark.usefixtures("x64")
def test_tangents_of_the_merged_arrays():
    short = merge(design_of("q=1").layout)
    (bucket,) = short.buckets
    rng = np.random.default_rng(1)
    dT, dc = (jnp.asarray(rng.normal(size=a.shape)) for a in (bucket.T, bucket.c))

    @jax.jit
    def value(step: float) -> jax.Array:
        moved = replace(bucket, T=bucket.T + step * dT, c=bucket.c + step * dc)
        return lmm.profile_loglike(jnp.array([0.8]), replace(short, buckets=(moved,)))

    slope = jax.jit(jax.grad(value))(0.0)
    h = 1e-5
    assert_close(slope, (value(h) - value(-h)) / (2 * h), 1e-7)  # h^2 of a smooth function


@pytest.mark.usefixtures("x64")
def test_large_effects_keep_their_digits():
    frame = data()
    rng = np.random.default_rng(3)
    frame["y"] += 1e3 * (rng.normal(size=400)[frame["g"]] * (frame["t"] - 1.3))
    layout = lmm.design("y ~ x + t + (t | g)", frame).layout
    theta = jnp.array([1.3e3, -1e3, 0.1])  # what the effects hide lies across both columns of Z
    ours, expected = (loglike_at(theta, at) for at in (merge(layout), layout))
    assert_close(ours, expected, 1e-11)  # the condition of M, 1e6, costs either form some digits


def test_several_buckets_each_for_itself():
    rng = np.random.default_rng(2)
    small, wide = np.repeat(np.arange(300), 4), np.repeat(300 + np.arange(3), 30)
    g = np.concatenate([small, wide])
    s = np.concatenate([small * 100 + np.tile([0, 0, 1, 1], 300), wide * 100 + np.arange(90) // 2])
    y = rng.normal(size=303)[g - g.min()] + rng.normal(size=g.size)
    layout = lmm.design("y ~ 1 + (1 | g) + (1 | s)", pd.DataFrame({"y": y, "g": g, "s": s})).layout
    assert len(layout.buckets) > 1
    with jax.enable_x64(True):
        short = merge(layout)
        kept = [new is old for new, old in zip(short.buckets, layout.buckets, strict=True)]
        assert sorted(kept) == [False, True]
        theta = jnp.array([0.7, 0.5])
        values = [loglike_at(theta, at) for at in (short, layout)]
        assert_close(values[0], values[1], RTOL)


def test_different_factors_are_left_alone():
    frame = data()
    frame["z"] = np.random.default_rng(4).normal(size=len(frame))
    layout = lmm.design("y ~ x + (z | g)", frame).layout
    assert merge(layout) is layout


def test_small_layouts_are_left_alone(monkeypatch):
    monkeypatch.undo()
    layout = design_of("q=1").layout
    assert isinstance(layout, GroupedLayout)
    assert merge(layout) is layout


def factors(groups: int = 5000) -> np.ndarray:
    """Seven distinct factors and padding, in any order."""
    rng = np.random.default_rng(5)
    kinds = np.concatenate([rng.normal(size=(2, 2, 7)) * np.triu(np.ones((2, 2)))[:, :, None],
                            np.zeros((2, 2, 1))], axis=2)  # fmt: skip
    kinds[0, 1, 0] = 0.0
    return kinds[:, :, rng.integers(0, 8, groups)]


def test_classes_are_equal_bit_by_bit():
    T = factors()
    classes = find_classes(T, most=7)
    there = np.flatnonzero(T.any(axis=(0, 1)))
    assert (np.flatnonzero(classes.label < 7) == there).all()
    assert classes.counts.sum() == there.size and classes.counts.size == 7
    for d in range(7):
        members = classes.members(d)
        assert members.size == classes.counts[d] and classes.first[d] == members[0]
        assert (T[:, :, members] == T[:, :, members[:1]]).all()
    lexical = T[:, :, classes.first].reshape(4, 7).T.tolist()
    assert lexical == sorted(lexical)
    assert find_classes(T, most=6) is None
    assert find_classes(-T * 0.0).first.size == 0  # negative zeros are zeros
    T[0, 1, there[:2500]] += np.arange(2500)
    assert find_classes(T, most=100) is None


def test_classes_up_to_rounding():
    T = factors()
    noisy = T * (1 + 1e-14 * np.random.default_rng(6).normal(size=T.shape))
    assert find_classes(noisy).first.size > 4000
    for found, expected in zip(find_classes(noisy, digits=11), find_classes(T), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_equal_hashes_are_told_apart(monkeypatch):
    expected = find_classes(factors())
    monkeypatch.setattr(classes_module, "_hashes", lambda entries: np.zeros(len(entries.T)))
    for found, value in zip(find_classes(factors()), expected, strict=True):
        np.testing.assert_array_equal(found, value)


def test_chunks_hold_groups_of_one_class():
    classes = find_classes(factors())
    chunks = chunk(classes)
    assert (chunks.counts[:7] == classes.counts).all() and not chunks.counts[7:].any()
    for d in range(7):
        places = chunks.source[chunks.owner == d].ravel()
        assert (np.sort(places[places < 5000]) == classes.members(d)).all()


@pytest.mark.parametrize("reml", [True, False])
def test_fits_are_equal(monkeypatch, reml):
    design = design_of("q=2")
    ours = lmm.fit(design, reml=reml)
    assert design.compressed.merged is not design.layout
    monkeypatch.setattr(merged, "WORTH_MERGING", 1 << 60)
    expected = lmm.fit(design_of("q=2"), reml=reml)
    assert ours.converged
    assert_close(ours.llf, expected.llf, RTOL)
    for name in ("params", "bse", "df", "theta"):
        assert_close(getattr(ours, name), getattr(expected, name), FIT_RTOL)
    assert_close(ours.random_effects["g"], expected.random_effects["g"], FIT_RTOL, scale=1.0)
