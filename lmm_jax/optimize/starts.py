"""Start values for theta from the compressed data."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from ..covariance.structures import Structure
from ..covariance.theta import theta_slices
from ..covariance.triangles import lower_indices
from ..layouts.contract import Layout
from ..likelihood.coordinates import inverse_whiteners
from ..likelihood.profile import profile_waist
from ..numerics.namespace import namespace
from .grids import (
    ALONE,
    ALONG,
    has_grid,
    is_crowded,
    of_sizes,
    parts_of,
    start_grid,
    widest,
)

# A full grid of start values is evaluated while that costs next to nothing.
SMALL_PROBLEM = 1 << 13
MAX_RUNS = 6
# Relative sizes of coefficients at the corners where more data are looked at, how many coefficients
# have corners, and numbers of a layout up to which they cost little beside a fit.
_CORNERS, _MOST_CORNERS, _MIDDLE = (0.1, 5.0), 4, 1 << 17
# Starts that are no local minima of a grid: uncorrelated ones, for terms of two coefficients and
# for larger ones, and nearly singular ones, whose relative sizes go up to the last number.
_FAR, _FAR_LARGE, _FAR_SINGULAR, _FARTHEST = 5, 10, 48, 1e6
# Relative standard deviations where a grid has no axis for each coefficient. Of every other one,
# and of those between them: from above a fit finds optima that it does not find from below.
_FAR_APART = ((125.0, 125.0), (125.0, 5.0))


class Starts(NamedTuple):
    """Where to start from."""

    thetas: Array  # (K, m)  best first
    wanted: Array  # (K,)  bool: which of them deserve a run
    beta: Array  # (p,)  fixed effects at the lowest point


def start_values(layout: Layout, *, reml: bool) -> tuple[Array, Array]:
    """Candidates for theta, best first, and which of them deserve a run.

    Returns
    -------
    starts : Array, shape (K, m)
    wanted : Array of bool, shape (K,)
    """
    xp = namespace(layout.S0)
    if layout.size() > SMALL_PROBLEM:
        return _moments_or_corners(layout, reml=reml)
    points, near = start_grid(layout.structures)
    found = look(xp.asarray(points, layout.S0.dtype), xp.asarray(near), layout, reml=reml)
    return found.thetas, found.wanted


def _moments_or_corners(layout: Layout, *, reml: bool) -> tuple[Array, Array]:
    """Moment estimates, and the lowest corner of some sizes where that is lower.

    Without an intercept any of several factors may hold the mean of y, so that moments say little:
    both are starts.
    """
    xp, moments = namespace(layout.S0), layout.start_moments()
    structures, sizes = layout.structures, sum(s.n_sizes for s in layout.structures)
    plain = all(s.unrestricted for s in structures)
    if not plain or not len(structures) >= 2 or sizes > _MOST_CORNERS or layout.size() > _MIDDLE:
        return moments[None], xp.ones(1, bool)
    corners = of_sizes(structures, np.array(list(product(_CORNERS, repeat=sizes))))
    points = xp.concatenate([moments[None], xp.asarray(corners, moments.dtype)])
    values = profile_waist(layout.waists_at(points), layout, reml=reml).deviance
    values = xp.where(xp.isfinite(values), values, np.inf)
    lowest = 1 + xp.argmin(values[1:])
    free_mean = xp.all(layout.beta_shift == 0)  # no column of X is constant
    runs = ((values[lowest] < values[0]) | free_mean) & xp.isfinite(values[lowest])
    return xp.stack([moments, points[lowest]]), xp.stack([xp.ones((), bool), runs])


def look(
    thetas: Array, neighbours: Array, layout: Layout, *, reml: bool, batches: Array | None = None
) -> Starts:
    """Evaluate candidates batch by batch; their local minima deserve a run, the lowest few.

    Parameters
    ----------
    thetas : Array, shape (N, m)
    neighbours : Array of int, shape (N, K)
        See :class:`Candidates`.
    layout : Layout
    reml : bool
    batches : Array, optional
        How many of the parts of the candidates (:func:`parts_of`) to look at; not given: all
        together.
    """
    xp = namespace(thetas, neighbours, layout.S0, batches)
    parts = 1 if batches is None else parts_of(len(thetas), layout.structures)

    def batch(i: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        size = len(thetas) // parts
        at = layout.waists_at(xp.dynamic_slice_in_dim(thetas, i * size, size))
        profiles = profile_waist(at, layout, reml=reml)
        new = profiles.deviance, profiles.beta
        return jax.tree.map(
            lambda a, b: xp.dynamic_update_slice_in_dim(a, b, i * size, 0), found, new
        )

    p, dtype = layout.beta_origin.size, thetas.dtype
    nothing = xp.full(len(thetas), np.inf, dtype), xp.zeros((len(thetas), p), dtype)
    values, betas = xp.fori_loop(0, 1 if batches is None else batches, batch, nothing)
    values = xp.where(xp.isfinite(values), values, np.inf)
    ranked = xp.where(local_minima(values, neighbours), values, np.inf)
    order = xp.argsort(ranked)[:MAX_RUNS]
    wanted = xp.isfinite(ranked[order])
    beta = xp.where(wanted[0], betas[order[0]], 0.0)
    return Starts(thetas[order], xp.at(wanted)[0].set(True), beta)  # one run says what is wrong


def with_far_starts(
    starts: Starts, structures: tuple[Structure, ...], hidden: Array, extreme: Array
) -> Starts:
    """More starts, far from each other: for narrow valleys that a grid does not show.

    ``hidden``: whether there may be some; ``extreme``: very narrow ones.
    """
    xp = namespace(starts.thetas)
    thetas, wanted = [starts.thetas], [starts.wanted]
    for more, ask in zip(far_starts(structures), (hidden, extreme), strict=True):
        thetas.append(xp.asarray(more, starts.thetas.dtype))
        wanted.append(xp.broadcast_to(ask, len(more)))
    return starts._replace(thetas=xp.concatenate(thetas), wanted=xp.concatenate(wanted))


@cache
def far_starts(structures: tuple[Structure, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A few points of the grid of uncorrelated coefficients, and others at random, (K, m) each.

    Those of :data:`_FAR_APART` where there are too many coefficients for a grid. Those at random
    are close to rank one, of any direction and size; of a term with a structure any pivot may be
    small.
    """
    points = start_grid(structures).thetas
    if has_grid(structures):
        count = _FAR_LARGE if widest(structures) > 2 else _FAR
        chosen = points[np.linspace(0, len(points) - 1, count + 2).astype(int)[1:-1]]
    else:
        total = sum(s.n_sizes for s in structures)
        chosen = of_sizes(structures, np.array([np.resize(pair, total) for pair in _FAR_APART]))
    rng = np.random.default_rng(0)
    singular = np.zeros((_FAR_SINGULAR, points.shape[1]))
    for structure, at in zip(structures, theta_slices(structures), strict=True):
        k, size = structure.k, np.geomspace(0.1, _FARTHEST, _FAR_SINGULAR)
        size = size[rng.permutation(_FAR_SINGULAR)]
        if not structure.unrestricted:
            small = 10.0 ** rng.uniform(-5, 0, size=(_FAR_SINGULAR, structure.n_sizes))
            singular[:, at] = structure.of_sizes(size[:, None] * small)
            continue
        axes = rng.normal(size=(_FAR_SINGULAR, k, k))
        axes[:, :, 1:] *= 10.0 ** rng.uniform(-5, 0, size=(_FAR_SINGULAR, 1, 1))
        factor = np.swapaxes(np.linalg.qr(np.swapaxes(axes, 1, 2), mode="r"), 1, 2)
        rows, columns = lower_indices(k)
        singular[:, at] = size[:, None] * factor[:, rows, columns]
    return chosen, singular


def local_minima(values: Array, neighbours: Array) -> Array:
    """Points that no neighbour undercuts; of equal ones the last.

    Parameters
    ----------
    values : Array, shape (N,) or (N, R)
    neighbours : Array of int, shape (N, K)
    """
    xp = namespace(values, neighbours)
    own = xp.arange(neighbours.shape[0])[:, None]
    last = xp.full_like(values[:1], np.inf)  # where -1 points to
    near, here = xp.concatenate([values, last])[neighbours], values[:, None]
    later = (neighbours < own).reshape(*neighbours.shape, *(1,) * (values.ndim - 1))
    return xp.all((near > here) | ((near == here) & later), axis=1)


def with_submodels(thetas: Array, best: Array, layout: Layout) -> Array:
    """The last of the candidates of a grid: one coefficient of the data varies alone.

    Terms beside it are as in the best point so far. Of uncorrelated coefficients each takes many
    sizes in its turn. In the layout's coordinates the
    covariance of a single coefficient of a term is singular, along a column of the inverse
    whitener: its optimum is that of the model without the other coefficients.

    Parameters
    ----------
    thetas : Array, shape (N, m)
        Of :func:`second_grid`.
    best : Array, shape (m,)
    layout : Layout
    """
    xp = namespace(thetas, best, layout.S0)
    if is_crowded(layout.structures):
        lines = _lines_through(best, xp)
        return xp.at(thetas)[-len(lines) :].set(lines)
    if not has_grid(layout.structures):
        return thetas
    parts = []
    for structure, at, Ai in zip(
        layout.structures, theta_slices(layout.structures), inverse_whiteners(layout), strict=True
    ):
        if not structure.rotates:
            continue
        k = structure.k
        v = Ai / xp.sqrt(xp.sum(Ai * Ai, axis=0))[None]
        lines = xp.asarray(ALONE, v.dtype)[None, :, None] * v.T[:, None]
        term = xp.pad(lines.reshape(-1, k), ((0, 0), (0, at.stop - at.start - k)))
        one = xp.broadcast_to(best[None], (len(term), best.size))
        parts.append(xp.at(one)[:, at].set(term))
    if not parts:
        return thetas
    last = xp.concatenate(parts)
    return xp.at(thetas)[-len(last) :].set(last)


def _lines_through(best: Array, xp: Any) -> Array:
    """One entry of a theta after the other at each of many sizes, (m n, m)."""
    m, n = best.shape[0], len(ALONG)
    own = np.repeat(np.eye(m, dtype=bool), n, axis=0)
    sizes = xp.asarray(np.tile(ALONG, m)[:, None], best.dtype)
    return xp.where(own, sizes, best[None])
