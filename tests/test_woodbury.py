"""Solves and determinants with ``s I + A B A'`` against dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives import check_derivatives
from helpers import assert_close
from scipy.linalg import block_diag

import lmm_jax as lmm

RTOL = 1e-11  # two float64 solves of a system with a condition number below 1e4
FLOAT32_RTOL = 1e-4

pytestmark = pytest.mark.usefixtures("x64")


def parts(n, m, k, kind="regular", seed=0):
    """A, Q and d; ``singular`` has a Q of rank one and every other d zero."""
    rng = np.random.default_rng(seed)
    A, half, d = rng.normal(size=(n, m)), rng.normal(size=(k, k)), rng.uniform(0.5, 2, m - k)
    if kind == "singular":
        half[:, 1:] = 0
        d[::2] = 0
    elif kind == "zero":
        half, d = 0 * half, 0 * d
    return A, half @ half.T, d


def dense(s, A, Q, d):
    return s * np.eye(len(A)) + A @ block_diag(Q, np.diag(d)) @ A.T


SIZES = [(1, 1, 0), (1, 1, 1), (6, 2, 0), (6, 2, 2), (9, 5, 2), (3, 7, 2), (40, 12, 3), (5, 0, 0)]


@pytest.mark.parametrize("kind", ["regular", "singular", "zero"])
@pytest.mark.parametrize(("n", "m", "k"), SIZES)
def test_equals_dense(n, m, k, kind):
    A, Q, d = parts(n, m, k, kind)
    rng = np.random.default_rng(1)
    for s in (0.3, 1.0, 50.0):
        V = dense(s, A, Q, d)
        solve = lmm.woodbury_solver(s, jnp.asarray(A), jnp.asarray(Q), jnp.asarray(d))
        for rhs in (rng.normal(size=n), rng.normal(size=(n, 3))):
            expected = np.linalg.solve(V, rhs)
            assert_close(solve(jnp.asarray(rhs)), expected, RTOL, np.abs(rhs).max() / s)
        logdet = lmm.woodbury_logdet(s, jnp.asarray(A), jnp.asarray(Q), jnp.asarray(d))
        assert_close(logdet, np.linalg.slogdet(V)[1], RTOL, scale=1.0)


def test_numpy_arrays_do():
    A, Q, d = parts(6, 3, 1)
    rhs = np.arange(6.0)
    expected = np.linalg.solve(dense(2.0, A, Q, d), rhs)
    assert_close(lmm.woodbury_solver(2.0, A, Q, d)(rhs), expected, RTOL)
    assert isinstance(lmm.woodbury_solver(2.0, A, Q, d)(rhs), jax.Array)


def both(s, A, Q, d, rhs):
    return lmm.woodbury_solver(s, A, Q, d)(rhs), lmm.woodbury_logdet(s, A, Q, d)


def test_jit_and_vmap_change_nothing():
    cases = [parts(6, 3, 2, kind, seed) for seed, kind in enumerate(["regular", "singular"])]
    A, Q, d = (jnp.stack(part) for part in zip(*cases, strict=True))
    s, rhs = jnp.array([0.5, 2.0]), jnp.ones((2, 6))
    plain = [both(*row) for row in zip(s, A, Q, d, rhs, strict=True)]
    batched = jax.jit(jax.vmap(both))(s, A, Q, d, rhs)
    for i, (x, logdet) in enumerate(plain):
        assert_close(batched[0][i], x, RTOL, scale=1.0)
        assert_close(batched[1][i], logdet, RTOL)


@pytest.mark.parametrize("kind", ["regular", "singular", "zero"])
def test_derivatives_equal_differences(kind):
    """Also where the covariance is singular: nothing inverts it."""
    A, Q, d = parts(5, 4, 2, kind)
    check_derivatives(both, jnp.asarray(0.7), *map(jnp.asarray, (A, Q, d)), jnp.ones(5))


def test_gradient_of_the_logdet_is_a_solve():
    """``d log|V| / d d_j = a_j' V^-1 a_j`` at zero variances."""
    A, Q, d = parts(7, 4, 1, "singular")
    slope = jax.grad(lmm.woodbury_logdet, argnums=3)(1.5, *(jnp.asarray(x) for x in (A, Q, d)))
    expected = np.diagonal(A[:, 1:].T @ np.linalg.solve(dense(1.5, A, Q, d), A[:, 1:]))
    assert_close(slope, expected, RTOL)


def test_float32_in_float32_out():
    A, Q, d = (jnp.asarray(x, jnp.float32) for x in parts(6, 3, 2))
    x, logdet = both(jnp.float32(1.0), A, Q, d, jnp.ones(6, jnp.float32))
    assert x.dtype == logdet.dtype == jnp.float32
    V = dense(1.0, *parts(6, 3, 2))
    assert_close(x, np.linalg.solve(V, np.ones(6)), FLOAT32_RTOL, scale=1.0)
    assert_close(logdet, np.linalg.slogdet(V)[1], FLOAT32_RTOL)
