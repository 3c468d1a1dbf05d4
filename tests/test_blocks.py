"""Derivatives summed block by block over many groups are those of all groups at once."""

import jax
import numpy as np
import pytest
from samples import frame

import lmm_jax as lmm
from lmm_jax.layouts import buckets, grouped
from lmm_jax.likelihood.profile import profile_jet
from lmm_jax.optimize.minimize import minimize
from lmm_jax.optimize.newton import CONVERGED

FORMULAS = {
    "slope": "y ~ x + (x | g)",
    "two terms": "y ~ x + (1 + x | g) + (1 | g:h)",
}


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
def test_jet_is_that_of_all_groups_at_once(formula, exact, monkeypatch):
    rng = np.random.default_rng(0)
    data = frame(groups=60)
    data = data.assign(h=rng.integers(0, 2, len(data)))
    layout = lmm.design(formula, data).layout
    groups = layout.buckets[0].copies.size
    assert groups % 16 == 0 and groups > 16
    with jax.enable_x64(True):
        theta = np.concatenate([0.5 * np.eye(k)[np.tril_indices(k)] + 0.1 for k in layout.sizes])
        jet_of = lambda at: profile_jet(theta, at, reml=True, exact=exact)  # noqa: E731
        whole = jax.jit(lambda at: jet_of(at))(layout)
        monkeypatch.setattr(buckets, "MANY", 16)
        monkeypatch.setattr(buckets, "block_size", lambda groups: 16)
        blocks, rest = jax.jit(lambda at: (jet_of(at), at.jet(theta).rest))(layout)
        assert rest == (None,) * len(layout.buckets)  # went by blocks
    monkeypatch.setattr(buckets, "HOST_BLOCK", 24)  # NumPy's may end with a short one
    on_host = jax.tree.map(np.asarray, layout)
    assert len(on_host.jet(theta).rest[0]) == -(-groups // 24)
    by_numpy = profile_jet(theta, on_host, reml=True, exact=exact)
    for a, b, c in zip(*map(jax.tree.leaves, (whole, blocks, by_numpy)), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(c, a, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    "device, groups, size",
    [("cpu", 4096, 4096), ("cpu", 1 << 20, 1 << 10), ("cpu", 16_384 + 64, 16_384 + 64),
     ("gpu", 1 << 20, 1 << 20), ("gpu", 9 << 20, 1 << 20)],
)  # fmt: skip
def test_blocks_suit_the_device(device, groups, size, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: device)
    assert buckets.block_size(groups) == size


def test_a_sample_of_the_groups_starts_at_the_same_optimum(monkeypatch):
    layout = lmm.design("y ~ x + (x | g)", frame(groups=200)).compressed.layout
    whole = minimize(layout, reml=True, maxiter=200)
    monkeypatch.setattr(grouped, "MANY", 64)
    monkeypatch.setattr(grouped, "_SAMPLE", 32)
    few = layout.thinned()
    assert few.buckets[0].copies.size <= 64
    np.testing.assert_allclose(few.n_obs * layout.S0, layout.n_obs * few.S0)
    sampled = minimize(layout, reml=True, maxiter=200)
    assert whole.status == sampled.status == CONVERGED
    # a Newton decrement of 1e-9 leaves 3e-5 standard errors of theta
    np.testing.assert_allclose(sampled.theta, whole.theta, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sampled.jet.value, whole.jet.value, rtol=1e-12)
