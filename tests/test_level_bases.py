"""Columns of Z that are nearly one within groups: no digits are lost beside dense algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import lmm_jax as lmm

THETA = np.array([1.0, 0.1, 0.5])
# A dense V of 240 rows to some roundings of 64 bits, and of 32 bits.
DENSE, SINGLE = 1e-10, 3e-3


def rows(share, dtype=np.float64):
    """y, X and groups of six visits that are a share of what subjects differ by apart."""
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(40), 6)
    x = rng.normal(size=40)[g] + share * rng.uniform(-1.0, 1.0, g.size)
    y = x + rng.normal(size=40)[g] + rng.normal(size=g.size)
    return y.astype(dtype), np.column_stack([np.ones(g.size), x]).astype(dtype), g


def compressed(y, X, g):
    one = jnp.ones(g.size, y.dtype)
    return lmm.compress(y, X, (X[:, None, :],), one, lmm.row_index(g, sizes=2))


def dense(y, X, g, theta=THETA):
    """REML's log-likelihood with V and X written out, Lambda being relative to sigma."""
    L = jnp.array([[theta[0], 0.0], [theta[1], theta[2]]])
    V = jnp.eye(g.size) + jnp.where(g[:, None] == g[None], X @ L @ L.T @ X.T, 0.0)
    C = jnp.linalg.cholesky(V)
    WX, Wy = (jax.scipy.linalg.solve_triangular(C, a, lower=True) for a in (X, y))
    Q, R = jnp.linalg.qr(WX)
    rss = jnp.sum((Wy - Q @ (Q.T @ Wy)) ** 2)
    n, p = X.shape
    logdet = 2 * jnp.sum(jnp.log(jnp.diagonal(C)))
    logdet = logdet + 2 * jnp.sum(jnp.log(jnp.abs(jnp.diagonal(R))))
    return -0.5 * (logdet + (n - p) * (1 + jnp.log(2 * jnp.pi * rss / (n - p))))


@pytest.mark.parametrize("share", [1.0, 1e-2, 1e-3, 1e-4, 1e-5])
def test_values_and_derivatives_are_those_of_dense_matrices(share):
    y, X, g = rows(share)
    with jax.enable_x64(True):
        expected = float(dense(y, X, g))
        for layout in (
            compressed(y, X, g),
            lmm.design_from_arrays(y, X, g, exog_re=X).layout,
        ):
            found = float(lmm.profile_loglike(THETA, layout))
            np.testing.assert_allclose(found, expected, atol=DENSE * abs(expected))

        def mine(x):
            return lmm.profile_loglike(THETA, compressed(y, jnp.column_stack([X[:, 0], x]), g))

        def other(x):
            return dense(y, jnp.column_stack([X[:, 0], x]), g)

        slope, right = jax.grad(mine)(X[:, 1]), jax.grad(other)(X[:, 1])
        # visits that are 1e-4 apart give derivatives 1e4 as large, of which eps is more
        np.testing.assert_allclose(slope, right, atol=1e-7 * float(jnp.abs(right).max()))


@pytest.mark.parametrize("share", [1.0, 1e-1, 1e-2, 1e-3])
def test_single_precision_keeps_its_digits(share):
    y, X, g = rows(share, np.float32)
    found = float(lmm.profile_loglike(THETA.astype(np.float32), compressed(y, X, g)))
    with jax.enable_x64(True):
        expected = float(dense(y.astype(float), X.astype(float), g))
    assert abs(found - expected) < SINGLE


@pytest.mark.parametrize("runtime", ["numpy", "jax"])
def test_fits_in_both_runtimes(runtime):
    """Time in seconds of visits within an hour, of subjects who came within a year or so."""
    y, X, g = rows(1e-5)
    frame = pd.DataFrame({"y": y, "x": X[:, 1], "g": g})
    res = lmm.fit("y ~ x + (x | g)", frame, runtime=runtime)
    with jax.enable_x64(True):
        theta = np.asarray(res.theta)
        expected = float(dense(y, X, g, theta))
        slopes = jax.grad(dense, 3)(y, X, g, jnp.asarray(theta))
    np.testing.assert_allclose(res.llf, expected, rtol=DENSE)
    np.testing.assert_allclose(slopes, 0.0, atol=1e-6)
    assert res.converged


@pytest.mark.parametrize("bars", ["(x | g)", "(x | g) + (1 | h)"])
def test_many_responses_of_which_some_need_a_basis(bars):
    """Gaps leave a level's rows close together in one response and not in another."""
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(20), 4)
    x = rng.normal(size=20)[g] + np.tile([0.0, 1e-4, 2e-4, 1.0], 20)
    Y = x[:, None] + rng.normal(size=(20, 4))[g] + rng.normal(size=(80, 4))
    Y[3::4, 1] = np.nan  # the row that is apart is missing here
    Y[5, 2] = np.nan
    data = pd.DataFrame({"x": x, "g": g, "h": rng.integers(0, 6, 80)})
    many = lmm.fit_many(f"~ x + {bars}", data, Y, runtime="numpy", progress=False)
    for j in range(4):
        one = lmm.fit(f"y ~ x + {bars}", data.assign(y=Y[:, j]))
        np.testing.assert_allclose(many.llf[j], one.llf, rtol=1e-9)


def test_columns_that_are_combinations_do_not_keep_others_from_a_basis():
    """An indicator that is 0 or 1 throughout some groups, beside visits close together."""
    rng = np.random.default_rng(3)
    y, X, g = rows(1e-4)
    z = np.where(np.arange(g.size) % 12 < 6, 0.0, rng.integers(0, 2, g.size))  # 0 in half of them
    X = np.column_stack([X, z])
    L = np.array([[1.0, 0, 0], [0.1, 0.5, 0], [0.2, 0.1, 0.4]])
    with jax.enable_x64(True):
        one = jnp.ones(g.size)
        layout = lmm.compress(y, X, (X[:, None, :],), one, lmm.row_index(g, sizes=3))
        found = float(lmm.profile_loglike(L.T[np.triu_indices(3)], layout))
    V = np.eye(g.size) + np.where(g[:, None] == g[None], X @ L @ L.T @ X.T, 0.0)
    Vi = np.linalg.inv(V)
    A = X.T @ Vi @ X
    e = y - X @ np.linalg.solve(A, X.T @ Vi @ y)
    m = g.size - 3
    terms = np.linalg.slogdet(V)[1] + np.linalg.slogdet(A)[1]
    expected = -0.5 * (terms + m * (1 + np.log(2 * np.pi * (e @ Vi @ e) / m)))
    np.testing.assert_allclose(found, expected, rtol=1e-9)  # of a dense inverse
