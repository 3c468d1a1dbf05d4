"""Steps of factors up to rotations, against automatic derivatives of a criterion in Psi."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmm_jax.covariance.structures import term_sizes, unstructured
from lmm_jax.covariance.theta import factor_blocks, stack_theta
from lmm_jax.numerics.linalg import lower_factor
from lmm_jax.optimize.factor_steps import coordinates, move

TERMS = unstructured((2, 1, 3))
# a pivot of 1e-4 leaves half of the digits of a Hessian in theta
RTOL, SMALL_PIVOT_RTOL = 1e-9, 1e-6


class Jet(NamedTuple):
    gradient: jax.Array
    hessian: jax.Array
    psi_gradients: tuple[jax.Array, ...]
    psi_halves: tuple[jax.Array, ...]


def of_factors(factors):
    """A smooth criterion of the covariances ``F F'`` that couples all of them."""
    total = 0.0
    for t, F in enumerate(factors):
        A = jnp.asarray(np.random.default_rng(t).normal(size=(5, F.shape[0])))
        total = total + A @ F @ F.T @ A.T
    M = jnp.eye(5) + total
    y = jnp.arange(1.0, 6.0)
    return jnp.linalg.slogdet(M)[1] + y @ jnp.linalg.solve(M, y)


def of_psi(blocks):
    return of_factors([jnp.linalg.cholesky(S) for S in blocks])


def jet_at(theta):
    blocks = [L @ L.T for L in factor_blocks(theta, TERMS)]
    f = lambda theta: of_factors(factor_blocks(theta, TERMS))  # noqa: E731
    G = [0.5 * (g + g.T) for g in jax.grad(of_psi)(blocks)]
    halves = tuple(g @ L for g, L in zip(G, factor_blocks(theta, TERMS), strict=True))
    return Jet(jax.grad(f)(theta), jax.hessian(f)(theta), tuple(G), halves)


@jax.jit
def coordinates_at(theta):
    return coordinates(theta, jet_at(theta), TERMS)


def theta_of(pivot):
    rng = np.random.default_rng(7)
    blocks = [np.tril(rng.normal(size=(k, k))) for k in term_sizes(TERMS)]
    for L in blocks:
        L[0, 0] = pivot
    return jnp.asarray(stack_theta(blocks))


@pytest.mark.parametrize(("pivot", "rtol"), [(1.0, RTOL), (1e-4, SMALL_PIVOT_RTOL)])
def test_derivatives_are_those_along_the_moves(pivot, rtol):
    with jax.enable_x64(True):
        theta = theta_of(pivot)
        at = coordinates_at(theta)

        def along(p):
            start, factors = 0, []
            for L, D in zip(factor_blocks(theta, TERMS), at.moves, strict=True):
                step = p[start : start + len(D)]
                factors.append(L + jnp.sum(step[:, None, None] * D, axis=0))
                start += len(D)
            return of_factors(factors)

        zero = jnp.zeros(theta.size)
        gradient, hessian = jax.jit(lambda p: (jax.grad(along)(p), jax.hessian(along)(p)))(zero)
        scale = np.abs(hessian).max()
        np.testing.assert_allclose(at.gradient, gradient, rtol=rtol, atol=rtol * scale)
        np.testing.assert_allclose(at.hessian, hessian, rtol=rtol, atol=rtol * scale)


def test_moves_are_orthonormal_and_turn_nothing():
    with jax.enable_x64(True):
        theta = theta_of(0.3)
        at = coordinates_at(theta)
        for L, D in zip(factor_blocks(theta, TERMS), at.moves, strict=True):
            products = np.einsum("kab,lab->kl", D, D)
            np.testing.assert_allclose(products, np.eye(len(D)), atol=1e-12)
            turns = np.einsum("ca,kcb->kab", L, D)  # a rotation would be its skew part
            np.testing.assert_allclose(turns, np.swapaxes(turns, 1, 2), atol=1e-12)


def test_a_move_ends_in_a_triangular_factor_of_the_same_covariance():
    with jax.enable_x64(True):
        theta = theta_of(0.3)
        at = coordinates_at(theta)
        p = np.random.default_rng(1).normal(size=theta.size)
        start = 0
        after = factor_blocks(jax.jit(lambda *args: move(*args, TERMS))(theta, p, at), TERMS)
        for L, D, new in zip(factor_blocks(theta, TERMS), at.moves, after, strict=True):
            F = L + np.sum(p[start : start + len(D), None, None] * D, axis=0)
            np.testing.assert_allclose(new @ new.T, F @ F.T, rtol=1e-12, atol=1e-12)
            start += len(D)


def test_a_term_without_variance_stays_finite():
    with jax.enable_x64(True):
        theta = theta_of(1.0).at[:3].set(0.0)
        jet = jax.jit(jet_at)(theta_of(1.0))
        at = jax.jit(lambda *args: coordinates(*args, TERMS))(theta, jet)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(at))


def test_lower_factor_of_a_singular_matrix():
    F = np.array([[0.0, 3.0], [0.0, 4.0]])
    with jax.enable_x64(True):
        np.testing.assert_allclose(lower_factor(jnp.asarray(F)), [[3.0, 0.0], [4.0, 0.0]])
