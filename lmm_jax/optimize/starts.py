"""Start values for theta from the compressed data."""

from __future__ import annotations

from collections.abc import Sequence
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

# A full grid of start values is evaluated while that costs next to nothing.
SMALL_PROBLEM = 1 << 13
MAX_RUNS = 6
# Relative standard deviations to look at, from the least to the largest, and how many of
# them: one axis a coefficient, by the number of coefficients.
_LEAST, _LARGEST = 0.01, 3e3
_AXES = {1: 9, 2: 9, 3: 6, 4: 4}
# Sizes of a singular covariance to look at; directions fill up what a grid may have of points.
_SIZES = {2: 16, 3: 10, 4: 10}
# Batches, each as large as the grid of uncorrelated coefficients, that the others make up.
BATCHES = 4
# Sizes of one coefficient that varies alone: its model is a line, which may be looked at closely.
_ALONE = np.geomspace(0.01, 1e7, 13)
# The same beside others that stay, and the sizes of a second grid of several such coefficients.
_ALONG, _AMONG = np.geomspace(0.05, 500.0, 13), (0.1, 60.0)
# Starts that are no local minima of a grid: uncorrelated ones, for terms of two coefficients and
# for larger ones, and nearly singular ones, whose relative sizes go up to the last number.
_FAR, _FAR_LARGE, _FAR_SINGULAR, _FARTHEST = 5, 10, 48, 1e6
# Directions that count as neighbours of one.
_NEAREST = 4
# Relative standard deviations where a grid has no axis for each coefficient. Of every other one,
# and of those between them: from above a fit finds optima that it does not find from below.
_FAR_APART = ((125.0, 125.0), (125.0, 5.0))
# Of one in its turn, and of the others: without an intercept any factor may hold the mean of y.
_ONE, _OTHERS = 30.0, 0.3
# Correlations to look at of structures that have parameters for them.
_CORRELATIONS = (0.9, 0.5, -0.4, -0.8)


class Candidates(NamedTuple):
    """Thetas to look at, and which of them lie side by side."""

    thetas: np.ndarray  # (N, m)
    neighbours: np.ndarray  # (N, K)  -1 where a point has fewer


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
        return layout.start_moments()[None], xp.ones(1, bool)
    points, near = start_grid(layout.structures)
    found = look(xp.asarray(points, layout.S0.dtype), xp.asarray(near), layout, reml=reml)
    return found.thetas, found.wanted


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


def parts_of(count: int, structures: tuple[Structure, ...]) -> int:
    """In how many parts so many candidates are looked at, each as large as the first grid."""
    return count // len(start_grid(structures).thetas)


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
    if _has_grid(structures):
        count = _FAR_LARGE if widest(structures) > 2 else _FAR
        chosen = points[np.linspace(0, len(points) - 1, count + 2).astype(int)[1:-1]]
    else:
        total = sum(s.n_sizes for s in structures)
        chosen = _of_sizes(structures, np.array([np.resize(pair, total) for pair in _FAR_APART]))
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


def in_rows(lengths: Sequence[int]) -> np.ndarray:
    """Neighbours of the points of some rows, one after another, (N, 2); see :class:`Candidates`."""
    n = sum(lengths)
    ends = np.cumsum(lengths)
    before, after = np.arange(n) - 1, np.arange(n) + 1
    before[ends - np.asarray(lengths)], after[ends - 1] = -1, -1
    return np.column_stack([before, after])


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


@cache
def start_grid(structures: tuple[Structure, ...]) -> Candidates:
    """Every combination of pivots: of uncorrelated coefficients their standard deviations."""
    return _grid_of(structures, 0.0)


def _grid_of(structures: tuple[Structure, ...], rho: float) -> Candidates:
    """The same, with correlations near rho where a structure has parameters for them."""
    sizes = [s.n_sizes for s in structures]
    together = [1] * sum(sizes)
    if not _has_grid(structures):  # too many coefficients: those of a term, or all, have one axis
        together = sizes if _has_correlations(structures) else [sum(sizes)]
    count = _AXES.get(len(together), 9)
    scales = np.geomspace(_LEAST, _LARGEST, count)
    points = np.array(list(product(scales, repeat=len(together))))
    near = _grid_neighbours((count,) * len(together))
    return Candidates(_of_sizes(structures, np.repeat(points, together, axis=1), rho), near)


def _has_correlations(structures: tuple[Structure, ...]) -> bool:
    """Whether correlations are parameters of their own, of terms so few that each has an axis."""
    return len(structures) in _AXES and any(not s.linear for s in structures)


def is_crowded(structures: tuple[Structure, ...]) -> bool:
    """Whether uncorrelated coefficients are so many that every optimum is in doubt.

    Where the fixed effects lack what one of them may stand for, another variance of zero is an
    optimum of its own: one in four such models of few plates has two.
    """
    alone = all(s.unrestricted and s.k == 1 for s in structures)
    return alone and len(structures) > 2


def _has_grid(structures: tuple[Structure, ...]) -> bool:
    """Whether the coefficients are so few that each has an axis of a grid."""
    return sum(s.n_sizes for s in structures) in _AXES


def _of_sizes(structures: tuple[Structure, ...], sizes: np.ndarray, rho: float = 0.0) -> np.ndarray:
    """See :meth:`Structure.of_sizes`: thetas of all terms, (N, sum of sizes) to (N, m)."""
    own = np.split(sizes, np.cumsum([s.n_sizes for s in structures])[:-1], axis=1)
    thetas = [s.of_sizes(part, rho) for s, part in zip(structures, own, strict=True)]
    return np.concatenate(thetas, axis=1)


def leaves_gaps(structures: tuple[Structure, ...]) -> bool:
    """Whether coefficients are so many that a grid of their sizes hides valleys."""
    return widest(structures) > 2 or not _has_grid(structures)


def widest(structures: tuple[Structure, ...]) -> int:
    """Coefficients of the largest term that can be correlated in any way."""
    return max((s.k for s in structures if s.unrestricted), default=1)


@cache
def second_grid(structures: tuple[Structure, ...]) -> Candidates | None:
    """What an optimum in doubt is challenged from, beside the points of :func:`start_grid`.

    Four times as many points: singular covariances of the terms of several coefficients; or the
    same sizes with correlations, where these are parameters of their own. Of uncorrelated
    coefficients as many points or few times as many, other sizes and lines through the best point;
    and where there are too many coefficients for a grid, one of them larger than the others. The
    last ones may be copies beside themselves, from which no run starts. None where a grid has
    shown all that there is.
    """
    axes = _has_grid(structures)
    if is_crowded(structures):
        return _with_lines(_among(structures) if axes else _one_above(structures), structures)
    if not axes and not _has_correlations(structures):
        return _one_above(structures)
    if axes and widest(structures) > 1:
        return _singular_grid(structures)
    if all(s.n_params == s.n_sizes for s in structures):
        return None
    parts = [_grid_of(structures, rho) for rho in _CORRELATIONS]
    near = [np.where(g.neighbours < 0, -1, g.neighbours + i * len(g.thetas))
            for i, g in enumerate(parts)]  # fmt: skip
    return Candidates(np.vstack([g.thetas for g in parts]), np.vstack(near))


def _among(structures: tuple[Structure, ...]) -> Candidates:
    """A grid of fewer and less distant sizes, which leaves room for lines beside it."""
    axes = len(structures)
    room = len(start_grid(structures).thetas) - axes * len(_ALONG)
    count = int(room ** (1 / axes) + 1e-9)
    points = np.array(list(product(np.geomspace(*_AMONG, count), repeat=axes)))
    return Candidates(_of_sizes(structures, points), _grid_neighbours((count,) * axes))


def _with_lines(points: Candidates, structures: tuple[Structure, ...]) -> Candidates:
    """Candidates, copies of the last one up to a number of parts, and lines for each coefficient.

    See :func:`with_submodels`.
    """
    part, lines = len(start_grid(structures).thetas), len(structures) * len(_ALONG)
    n, width = points.neighbours.shape
    N = -(-(n + lines) // part) * part
    at = np.arange(n, N - lines)
    copies = np.repeat(at[:, None], max(width, 2), axis=1)
    beside = in_rows([len(_ALONG)] * len(structures))
    beside = np.where(beside < 0, -1, beside + N - lines)
    rows = [np.pad(points.neighbours, ((0, 0), (0, max(2 - width, 0))), constant_values=-1), copies,
            np.pad(beside, ((0, 0), (0, max(width - 2, 0))), constant_values=-1)]  # fmt: skip
    thetas = np.vstack([points.thetas, points.thetas[-1:].repeat(N - n, axis=0)])
    return Candidates(thetas, np.vstack(rows))


def _one_above(structures: tuple[Structure, ...]) -> Candidates:
    """Uncorrelated coefficients, one larger than the others; none beside another.

    As many as there is room for.
    """
    N, axes = BATCHES * len(start_grid(structures).thetas), sum(s.n_sizes for s in structures)
    sizes = np.where(np.eye(axes) > 0, _ONE, _OTHERS)[:N]
    near = np.where(np.arange(N) < len(sizes), -1, np.arange(N))[:, None]
    sizes = np.vstack([sizes, sizes[-1:].repeat(N - len(sizes), axis=0)])
    return Candidates(_of_sizes(structures, sizes), near)


def _singular_grid(structures: tuple[Structure, ...]) -> Candidates:
    """Covariances ``s^2 v v'`` of the terms of several coefficients, over sizes and directions.

    The last points are for :func:`with_submodels`; before them may be copies.
    """
    total = sum(s.n_sizes for s in structures)
    alone = sum(s.k for s in structures if s.rotates) * len(_ALONE)
    N = BATCHES * len(start_grid(structures).thetas) - alone
    axes, shapes = [], []  # thetas of one term each, and their neighbours
    for structure in structures:
        k, m, r = structure.k, structure.n_params, structure.n_sizes
        if not structure.rotates:
            share = int(N ** (1 / total) + 1e-9)
            scales = np.geomspace(_LEAST, _LARGEST, share)
            axes.append(structure.of_sizes(np.array(list(product(scales, repeat=r)))))
            shapes.append(_grid_neighbours((share,) * r))
            continue
        share = int(N ** (k / total) + 1e-9)
        size = _SIZES[total] if len(structures) == 1 else 8
        directions = _directions(k, share // size)
        scales = np.geomspace(10 * _LEAST, _LARGEST, size)
        thetas = np.zeros((size, len(directions), m))
        thetas[:, :, :k] = scales[:, None, None] * directions[None]  # the first column of Lambda
        axes.append(thetas.reshape(-1, m))
        shapes.append(_shell_neighbours(size, directions))
    points = np.array([np.concatenate(parts) for parts in product(*axes)])
    near = _product_neighbours(shapes)
    copies = np.arange(len(points), N)[:, None].repeat(near.shape[1], axis=1)
    lines = N + np.arange(alone).reshape(-1, len(_ALONE))
    lines = np.pad(lines, ((0, 0), (1, 1)), constant_values=-1)
    beside = np.stack([lines[:, :-2].ravel(), lines[:, 2:].ravel()], axis=1)
    beside = np.pad(beside, ((0, 0), (0, near.shape[1] - 2)), constant_values=-1)
    points = np.vstack([points, points[-1:].repeat(N + alone - len(points), axis=0)])
    return Candidates(points, np.vstack([near, copies, beside]))


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
    if not _has_grid(layout.structures):
        return thetas
    parts = []
    for structure, at, Ai in zip(
        layout.structures, theta_slices(layout.structures), inverse_whiteners(layout), strict=True
    ):
        if not structure.rotates:
            continue
        k = structure.k
        v = Ai / xp.sqrt(xp.sum(Ai * Ai, axis=0))[None]
        lines = xp.asarray(_ALONE, v.dtype)[None, :, None] * v.T[:, None]
        term = xp.pad(lines.reshape(-1, k), ((0, 0), (0, at.stop - at.start - k)))
        one = xp.broadcast_to(best[None], (len(term), best.size))
        parts.append(xp.at(one)[:, at].set(term))
    if not parts:
        return thetas
    last = xp.concatenate(parts)
    return xp.at(thetas)[-len(last) :].set(last)


def _lines_through(best: Array, xp: Any) -> Array:
    """One entry of a theta after the other at each of many sizes, (m n, m)."""
    m, n = best.shape[0], len(_ALONG)
    own = np.repeat(np.eye(m, dtype=bool), n, axis=0)
    sizes = xp.asarray(np.tile(_ALONG, m)[:, None], best.dtype)
    return xp.where(own, sizes, best[None])


def _directions(k: int, count: int) -> np.ndarray:
    """Unit vectors up to their sign, spread evenly, (count, k)."""
    if k == 2:
        angles = np.pi * (np.arange(count) + 0.5) / count
        return np.column_stack([np.cos(angles), np.sin(angles)])
    rng = np.random.default_rng(0)
    chosen = np.eye(k)[:1]
    while len(chosen) < count:  # always the farthest of some
        more = rng.normal(size=(200, k))
        more /= np.linalg.norm(more, axis=1, keepdims=True)
        far = np.abs(more @ chosen.T).max(axis=1)
        chosen = np.vstack([chosen, more[far.argmin()]])
    return chosen


def _grid_neighbours(shape: tuple[int, ...]) -> np.ndarray:
    """Points one step away along every axis, (N, 2 axes)."""
    index = np.arange(np.prod(shape)).reshape(shape)
    out = []
    for axis in range(len(shape)):
        for step in (-1, 1):
            at = np.clip(np.arange(shape[axis]) + step, 0, shape[axis] - 1)
            moved = np.take(index, at, axis=axis)
            out.append(np.where(moved == index, -1, moved).ravel())
    return np.stack(out, axis=1)


def _shell_neighbours(n_sizes: int, directions: np.ndarray) -> np.ndarray:
    """Neighbours of points (size, direction): adjacent sizes, the nearest directions."""
    n = len(directions)
    angle = np.abs(directions @ directions.T) - 2.0 * np.eye(n)
    count = min(2 if directions.shape[1] == 2 else _NEAREST, n - 1)
    nearest = np.argsort(-angle, axis=1)[:, :count]
    own = np.arange(n_sizes)[:, None, None] * n
    sideways = (own + nearest[None]).reshape(n_sizes * n, -1)
    upwards = _grid_neighbours((n_sizes, n))[:, :2]
    return np.concatenate([sideways, upwards], axis=1)


def _product_neighbours(parts: list[np.ndarray]) -> np.ndarray:
    """Neighbours in a product of sets of points: one of them moves."""
    index = np.arange(np.prod([len(p) for p in parts])).reshape([len(p) for p in parts])
    out = []
    for axis, near in enumerate(parts):
        for column in near.T:
            none = np.expand_dims(column < 0, [a for a in range(len(parts)) if a != axis])
            out.append(np.where(none, -1, np.take(index, column, axis=axis)).ravel())
    return np.stack(out, axis=1)
