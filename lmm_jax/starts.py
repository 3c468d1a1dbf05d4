"""Start values for theta from the compressed data."""

from __future__ import annotations

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .covariance import lower_indices, theta_size, theta_slices
from .layouts.waist import Layout
from .likelihood import profile_waist

# A full grid of start values is evaluated while that costs next to nothing.
SMALL_PROBLEM = 1 << 13
MAX_RUNS = 4


def start_values(layout: Layout, *, reml: bool) -> tuple[Array, Array]:
    """Candidates for theta, best first, and which of them deserve a run.

    Returns
    -------
    starts : Array, shape (K, m)
    wanted : Array of bool, shape (K,)
    """
    if layout.size() > SMALL_PROBLEM:
        return layout.start_moments()[None], jnp.ones(1, bool)
    points, shape = start_grid(layout.sizes)
    thetas = jnp.asarray(points, layout.S0.dtype)

    def value(theta: Array) -> Array:
        return profile_waist(layout.waist_at(theta), layout, reml=reml).deviance

    values = jax.vmap(value)(thetas)
    values = jnp.where(jnp.isfinite(values), values, jnp.inf)
    ranked = jnp.where(local_minima(values.reshape(shape)).ravel(), values, jnp.inf)
    order = jnp.argsort(ranked)[:MAX_RUNS]
    return thetas[order], jnp.isfinite(ranked[order])


def start_grid(sizes: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Thetas to look at, (K, m), and the shape of the grid that they make up."""
    axes = _grid_axes(sum(sizes))
    points = np.array(list(product(*axes)))
    if not axes:  # too many coefficients for a grid: all scales together
        points = np.repeat(np.geomspace(0.01, 3e3, 9)[:, None], sum(sizes), axis=1)
    ends = np.cumsum(sizes)
    thetas = np.zeros((len(points), theta_size(sizes)))
    for k, end, at in zip(sizes, ends, theta_slices(sizes), strict=True):
        rows, columns = lower_indices(k)
        thetas[:, np.arange(at.start, at.stop)[rows == columns]] = points[:, end - k : end]
    return thetas, tuple(len(a) for a in axes) if axes else (len(points),)


def _grid_axes(n_coefficients: int) -> list[np.ndarray]:
    """Relative standard deviations to look at, one array a coefficient; none if too many."""
    count = {1: 9, 2: 9, 3: 6, 4: 4}.get(n_coefficients, 0)
    return [np.geomspace(0.01, 3e3, count)] * n_coefficients if count else []


def local_minima(values: Array) -> Array:
    """Grid points that no axis neighbour undercuts."""
    lowest = jnp.ones(values.shape, bool)
    for axis in range(values.ndim):
        pad = [(1, 1) if a == axis else (0, 0) for a in range(values.ndim)]
        wide = jnp.pad(values, pad, constant_values=jnp.inf)
        n = values.shape[axis]
        lowest &= values <= lax.slice_in_dim(wide, 0, n, axis=axis)
        lowest &= values < lax.slice_in_dim(wide, 2, n + 2, axis=axis)
    return lowest
