"""Columns of Z that are nearly one within groups: no digits are lost beside dense algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import dense_gls, dense_llf

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
    expected = -0.5 * dense_gls(X, y, V, reml=True).criterion
    np.testing.assert_allclose(found, expected, rtol=1e-9)  # of a dense V


# ------------------------------------------------------------ levels within the groups


def nested_rows(share, mean=0.0, n_groups=9):
    """Eight levels of five rows in every group, x that differs within a level by a share."""
    rng = np.random.default_rng(5)
    h = np.repeat(np.arange(8 * n_groups), 5)
    g, n = h // 8, h.size
    x = rng.normal(size=8 * n_groups)[h] + share * rng.normal(size=n)
    x = (x - x.mean()) / x.std() + mean
    y = (
        rng.normal(size=n)
        + rng.normal(size=n_groups)[g] * (1 + 2 * x)
        + rng.normal(size=72)[h % 72]
    )
    return pd.DataFrame({"y": y, "x": x, "g": g, "h": h})


def nested_dense(data, theta):
    """REML's log-likelihood of (x | g) + (1 | h), by all n x n numbers."""
    X = np.column_stack([np.ones(len(data)), data["x"]])
    L = np.array([[theta[1], 0.0], [theta[2], theta[3]]])
    same_g, same_h = (np.equal.outer(*[data[name].to_numpy()] * 2) for name in "gh")
    V = np.eye(len(X)) + theta[0] ** 2 * same_h + same_g * (X @ L @ L.T @ X.T)
    return -0.5 * dense_gls(X, data["y"].to_numpy(), V, reml=True).criterion


NESTED = "y ~ x + (x | g) + (1 | h)"


@pytest.mark.parametrize("runtime", ["numpy", "jax"])
@pytest.mark.parametrize("mean", [0.0, 2e-6, 1e-4, 1.0])
@pytest.mark.parametrize("share", [1.0, 1e-3, 1e-4, 1e-5])
def test_levels_within_a_group_take_no_digits(share, mean, runtime):
    """An intercept with a trace of x, x with little left within levels: 2.5e-3 were lost once."""
    data = nested_rows(share, mean)
    res = lmm.fit(NESTED, data, runtime=runtime)
    expected = nested_dense(data, res.theta)
    np.testing.assert_allclose(res.llf, expected, atol=DENSE * abs(expected))


@pytest.mark.parametrize("mean", [0.0, 1.0])
@pytest.mark.parametrize("share", [1.0, 1e-1, 1e-2, 1e-12])
def test_levels_within_a_group_in_single_precision(share, mean):
    data, theta = nested_rows(share, mean), np.array([0.7, 1.0, 0.2, 0.8])
    data = data.astype({"y": np.float32, "x": np.float32})
    one = np.ones(len(data), np.float32)
    X = np.column_stack([one, data["x"]])
    index = lmm.row_index([data["h"].to_numpy(), data["g"].to_numpy()], sizes=[1, 2])
    Z = (X[:, None, :1], X[:, None])
    layout = lmm.compress(data["y"].to_numpy(), X, Z, jnp.asarray(one), index)
    found = float(lmm.profile_loglike(theta.astype(np.float32), layout))
    assert abs(found - nested_dense(data.astype(float), theta)) < SINGLE


def test_derivatives_in_rows_whose_levels_nearly_agree():
    """Of the criterion at a theta, in x: rows are columns of no orthonormal basis there."""
    data, theta = nested_rows(1e-3), np.array([0.8, 1.1, 0.4, 0.9])
    h, g = data["h"].to_numpy(), data["g"].to_numpy()
    index = lmm.row_index([h, g], sizes=[1, 2])
    y, one = data["y"].to_numpy(), np.ones(len(h))

    def value(x):
        X = jnp.column_stack([one, x])
        Z = (jnp.asarray(one)[:, None, None], X[:, None])
        return lmm.profile_loglike(theta, lmm.compress(y, X, Z, one, index))

    with jax.enable_x64(True):
        x = jnp.asarray(data["x"].to_numpy())
        slope = np.asarray(jax.grad(value)(x))
        assert abs(float(value(x)) - nested_dense(data, theta)) < 1e-8
    step = 1e-5
    for i in (0, 57, 200):
        up, down = (data.assign(x=data["x"] + s * step * (np.arange(len(h)) == i)) for s in (1, -1))
        found = (nested_dense(up, theta) - nested_dense(down, theta)) / (2 * step)
        assert abs(found - slope[i]) < 1e-5 * np.abs(slope).max()


def test_sums_that_lose_them_are_not_taken():
    """10,000 rows or more go by sums of products, unless these say that digits are lost."""
    data = nested_rows(1e-5, n_groups=250)
    by_rows, by_sums = (lmm.fit(NESTED, data, runtime=name).llf for name in ("numpy", "jax"))
    np.testing.assert_allclose(by_sums, by_rows, rtol=1e-12)


def test_two_terms_of_one_factor_whose_columns_nearly_agree():
    data = nested_rows(1.0).drop(columns="x")
    data["z"] = 1.0 + 1e-5 * np.random.default_rng(2).normal(size=len(data))
    res = lmm.fit("y ~ 1 + (1 | g) + (0 + z | g)", data)
    z, same = data["z"].to_numpy(), np.equal.outer(*[data["g"].to_numpy()] * 2)
    V = np.eye(len(z)) + same * (res.theta[0] ** 2 + res.theta[1] ** 2 * np.outer(z, z))
    one = np.ones((len(z), 1))
    expected = -0.5 * dense_gls(one, data["y"].to_numpy(), V, reml=True).criterion
    np.testing.assert_allclose(res.llf, expected, rtol=1e-10)


# ------------------------------------------------------------ several levels of a row


def memberships():
    """Pupils of six schools who were taught by two of eight teachers each, the same in a school."""
    rng = np.random.default_rng(4)
    g = np.repeat(np.arange(6), 12)
    first, second = rng.integers(0, 4, g.size), rng.integers(4, 8, g.size)
    M = np.zeros((g.size, 8))
    M[np.arange(g.size), first], M[np.arange(g.size), second] = 0.5, 0.5
    data = pd.DataFrame(
        {"g": g, "x": rng.normal(size=g.size), **{f"m{j}": M[:, j] for j in range(8)}}
    )
    effects = rng.normal(size=(6, 8))
    data["y"] = rng.normal(size=g.size) + (M * effects[g]).sum(axis=1) + rng.normal(size=6)[g]
    return data, M


@pytest.mark.parametrize("runtime", ["numpy", "jax"])
def test_components_of_several_levels_a_row_are_those_of_dense_matrices(runtime):
    """Beside a term of two coefficients, which brings bases of levels in."""
    data, M = memberships()
    columns = " + ".join(f"m{j}" for j in range(8))
    model = dict(groups="g", re_formula="~x", vc_formula={"m": f"0 + {columns}"})
    res = lmm.fit("y ~ x", data, runtime=runtime, **model)
    X = np.column_stack([np.ones(len(data)), data["x"]])
    same = np.equal.outer(*[data["g"].to_numpy()] * 2)
    V = res.scale * np.eye(len(X)) + same * (
        X @ res.cov_re.to_numpy() @ X.T + float(res.vcomp.iloc[0]) * M @ M.T
    )
    expected = dense_llf(X, data["y"].to_numpy(), V, reml=True)
    np.testing.assert_allclose(res.llf, expected, rtol=1e-9)
