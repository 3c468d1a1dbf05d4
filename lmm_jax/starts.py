"""Start values for theta from the compressed data."""

from __future__ import annotations

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .covariance import factor_blocks, stack_theta
from .layouts.grouped import GroupedLayout, waist
from .likelihood import profile_waist

# A full grid of start values is evaluated while that costs next to nothing.
_SMALL_PROBLEM = 1 << 15
_MAX_RUNS = 4


def start_values(layout: GroupedLayout, *, reml: bool) -> tuple[Array, Array]:
    """Candidates for theta, best first, and which of them deserve a run.

    Returns
    -------
    starts : Array, shape (K, m)
    wanted : Array of bool, shape (K,)
    """
    if sum(b.T.size + b.c.size for b in layout.buckets) > _SMALL_PROBLEM:
        return moment_theta(layout)[None], jnp.ones(1, bool)
    axes = _grid_axes(sum(layout.sizes))
    points = np.array(list(product(*axes)))
    if not axes:  # too many coefficients for a grid: all scales together
        points = np.repeat(np.geomspace(0.01, 3e3, 9)[:, None], sum(layout.sizes), axis=1)
    thetas = jax.vmap(lambda s: _diagonal(s, layout.sizes))(jnp.asarray(points, layout.S0.dtype))

    def value(theta: Array) -> Array:
        blocks = tuple(L @ L.T for L in factor_blocks(theta, layout.sizes))
        return profile_waist(waist(blocks, layout), layout, reml=reml).deviance

    values = jax.vmap(value)(thetas)
    values = jnp.where(jnp.isfinite(values), values, jnp.inf)
    shape = tuple(len(a) for a in axes) if axes else (len(points),)
    ranked = jnp.where(_local_minima(values.reshape(shape)).ravel(), values, jnp.inf)
    order = jnp.argsort(ranked)[:_MAX_RUNS]
    return thetas[order], jnp.isfinite(ranked[order])


def _grid_axes(n_coefficients: int) -> list[np.ndarray]:
    """Relative standard deviations to look at, one array a coefficient; none if too many."""
    count = {1: 9, 2: 9, 3: 6, 4: 4}.get(n_coefficients, 0)
    return [np.geomspace(0.01, 3e3, count)] * n_coefficients if count else []


def _local_minima(values: Array) -> Array:
    """Grid points that no axis neighbour undercuts."""
    lowest = jnp.ones(values.shape, bool)
    for axis in range(values.ndim):
        pad = [(1, 1) if a == axis else (0, 0) for a in range(values.ndim)]
        wide = jnp.pad(values, pad, constant_values=jnp.inf)
        n = values.shape[axis]
        lowest &= values <= lax.slice_in_dim(wide, 0, n, axis=axis)
        lowest &= values < lax.slice_in_dim(wide, 2, n + 2, axis=axis)
    return lowest


def _diagonal(scales: Array, sizes: tuple[int, ...]) -> Array:
    """Theta of diagonal factors, one scale a coefficient."""
    ends = np.cumsum(sizes)
    return stack_theta([jnp.diag(scales[e - k : e]) for k, e in zip(sizes, ends, strict=True)])


def moment_theta(layout: GroupedLayout) -> Array:
    """Moment estimate of one relative standard deviation a coefficient, as theta.

    ``E |T_a' c|^2 = sigma^2 (sum |T_a|^2 + psi sum |T_a|^4)`` for every column a of T,
    with sigma^2 from the rows that the random effects do not reach.
    """
    p = layout.beta_origin.size
    ranks = sum(
        (jnp.sum((jnp.diagonal(b.T) != 0).astype(b.T.dtype)) for b in layout.buckets),
        jnp.zeros((), layout.S0.dtype),
    )
    free = jnp.maximum(layout.n_obs - ranks - p, 1.0)
    sigma2 = layout.S0[p, p] / free
    observed, first, second = [], [], []
    for b in layout.buckets:
        norms = jnp.sum(b.T**2, axis=0)  # (q, G)
        observed.append(jnp.sum(jnp.sum(b.T * b.c[:, None, p], axis=0) ** 2, axis=1))
        first.append(jnp.sum(norms, axis=1))
        second.append(jnp.sum(norms**2, axis=1))
    blocks, start = [], [0] * len(layout.buckets)
    for t, k in enumerate(layout.sizes):
        sums = []
        for part in (observed, first, second):
            total = jnp.zeros(k, layout.S0.dtype)
            for i, b in enumerate(layout.buckets):
                stop = start[i] + k * b.widths[t]
                total = total + part[i][start[i] : stop].reshape(-1, k).sum(axis=0)
            sums.append(total)
        start = [s + k * b.widths[t] for s, b in zip(start, layout.buckets, strict=True)]
        psi = (sums[0] / jnp.maximum(sigma2, 1e-300) - sums[1]) / jnp.maximum(sums[2], 1e-300)
        psi = jnp.where(jnp.isfinite(psi), jnp.clip(psi, 1e-4, 1e8), 1.0)
        blocks.append(jnp.diag(jnp.sqrt(psi)))
    return stack_theta(blocks)
