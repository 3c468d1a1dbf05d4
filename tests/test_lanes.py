"""The criterion lane by lane is that of each response's own layout; rotations and eigenvalues."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax.batches.lane_arrays import share, shared_lanes
from lmm_jax.batches.lane_criterion import contract, deviance, lane_jet, lane_layout
from lmm_jax.likelihood.profile import profile_jet
from lmm_jax.numerics.eigen import eigen, jacobi_eigen

RTOL = 1e-10  # two float64 routes to one number
EXACT = 1e-13  # products of a few numbers in another order

pytestmark = pytest.mark.usefixtures("x64")

FRAME = samples.frame()
# sleepstudy is balanced, so that its groups are merged; the groups of the sample differ
BALANCED = lmm.load_dataset("sleepstudy").rename(
    columns={"Reaction": "y", "Days": "x", "Subject": "g"}
)
CASES = {
    "intercept": (FRAME, "y ~ x + (1 | g)", {}),
    "balanced": (BALANCED, "y ~ x + (x | g)", {}),
    "slope": (FRAME, "y ~ x + (x | g)", {"weights": "w"}),
    "nested": (FRAME, "y ~ x + (1 | g) + (1 | g:s)", {}),
    "three": (FRAME, "y ~ 1 + (x + z | g)", {}),
}


def numbers(jet) -> dict[str, np.ndarray]:
    out = {"value": jet.value, "gradient": jet.gradient, "hessian": jet.hessian}
    out |= {f"psi{t}": g for t, g in enumerate(jet.psi_gradients)}
    out |= {"beta": jet.profile.beta, "scale": jet.profile.scale, "cov": jet.profile.cov_beta}
    return out | {"dlog_scale": jet.dlog_scale, "dbeta": jet.dbeta, "dcov": jet.dcov_beta}


@pytest.mark.device
@pytest.mark.parametrize(("name", "reml"), [("slope", False), *((name, True) for name in CASES)])
def test_the_criterion_of_every_lane(name, reml):
    frame, formula, options = CASES[name]
    design = lmm.design(formula, frame, **options)
    y = frame["y"].to_numpy()
    Y = np.column_stack([y, np.roll(y, 7), 1e3 * y**2])
    weights = np.ones(len(y)) if design.weights is None else design.weights
    Z = tuple(term.values for term in design.terms)
    lanes = shared_lanes(Y, share(design.exog, Z, weights, design.plan.index, design.layout))
    assert (lanes.buckets[0].X.shape[3] > 1) == (name in ("intercept", "balanced"))
    m = sum(k * (k + 1) // 2 for k in design.sizes)
    theta = np.random.default_rng(0).normal(size=(m, 3))
    theta[:, 2] = 0.0
    ours = jax.jit(lane_jet, static_argnames="reml")(theta, lanes, reml=reml)
    value = jax.jit(deviance, static_argnames="reml")(theta, lanes, reml=reml)
    assert_close(value, ours.value, RTOL)
    on_host = jax.tree.map(np.asarray, lanes)
    for lane in range(3):
        own = lmm.design(formula, frame.assign(y=Y[:, lane]), **options).compressed.layout
        for layout in jax.tree.map(np.asarray, (own, lane_layout(on_host, lane))):
            expected = numbers(profile_jet(theta[:, lane], layout, reml=reml))
            for key, value in numbers(ours).items():
                assert_close(
                    value[..., lane], expected[key], RTOL, scale=np.abs(expected[key]).max() + 1e-3
                )


def test_contract_is_einsum_lane_by_lane():
    rng = np.random.default_rng(1)
    for spec, left, right in [
        ("ab,bc->ac", (2, 3), (3, 2)),
        ("abn,cn->abc", (2, 3, 4), (2, 4)),
        ("ab,ab->", (2, 3), (2, 3)),
        ("ran,rn->an", (2, 3, 4), (2, 4)),
    ]:
        for lanes in [(5, 5), (1, 5), (5, 1)]:
            A, B = (rng.normal(size=(*s, r)) for s, r in zip((left, right), lanes, strict=True))
            wide = [np.broadcast_to(a, (*a.shape[:-1], 5)) for a in (A, B)]
            terms, out = spec.split("->")
            expected = np.einsum(",".join(t + "z" for t in terms.split(",")) + f"->{out}z", *wide)
            assert_close(contract(spec, jnp.asarray(A), jnp.asarray(B)), expected, EXACT, scale=1.0)


@pytest.mark.device
@pytest.mark.parametrize("m", [1, 2, 3, 6])
def test_rotations_find_eigenvalues_and_vectors(m):
    rng = np.random.default_rng(m)
    A = rng.normal(size=(m, m, 9))
    A = A + A.swapaxes(0, 1)
    A[..., 0] = np.eye(m)  # equal eigenvalues
    A[..., 1] = 0.0
    A[..., 2] = np.diag(np.arange(m)[::-1])
    A[..., 3] *= np.outer(*[np.geomspace(1e-6, 1e6, m)] * 2)  # graded
    e, V = (np.asarray(out) for out in jax.jit(jacobi_eigen)(A))
    for i in range(9):
        scale = np.abs(A[..., i]).max() + 1e-300
        assert_close(e[:, i], np.linalg.eigvalsh(A[..., i]), EXACT, scale=scale)
        assert_close(V[..., i] @ np.diag(e[:, i]) @ V[..., i].T, A[..., i], EXACT, scale=10 * scale)
        assert_close(V[..., i].T @ V[..., i], np.eye(m), EXACT, scale=1.0)
    batched = jax.jit(jax.vmap(eigen, -1, -1))(A)
    assert_close(batched[0], e, EXACT, scale=1.0)
