"""Grids of thetas to look at before an optimum is sought, and which points lie side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np

from ..covariance.structures import Structure

# Relative standard deviations to look at, from the least to the largest, and how many of
# them: one axis a coefficient, by the number of coefficients.
_LEAST, _LARGEST = 0.01, 3e3
_AXES = {1: 9, 2: 9, 3: 6, 4: 4}
# Sizes of a singular covariance to look at; directions fill up what a grid may have of points.
_SIZES = {2: 16, 3: 10, 4: 10}
# Batches, each as large as the grid of uncorrelated coefficients, that the others make up.
BATCHES = 4
# Sizes of one coefficient that varies alone: its model is a line, which may be looked at closely.
ALONE = np.geomspace(0.01, 1e7, 13)
# The same beside others that stay, and the sizes of a second grid of several such coefficients.
ALONG, _AMONG = np.geomspace(0.05, 500.0, 13), (0.1, 60.0)
# Directions that count as neighbours of one.
_NEAREST = 4
# Of one in its turn, and of the others: without an intercept any factor may hold the mean of y.
_ONE, _OTHERS = 30.0, 0.3
# Correlations to look at of structures that have parameters for them.
_CORRELATIONS = (0.9, 0.5, -0.4, -0.8)


class Candidates(NamedTuple):
    """Thetas to look at, and which of them lie side by side."""

    thetas: np.ndarray  # (N, m)
    neighbours: np.ndarray  # (N, K)  -1 where a point has fewer


@cache
def start_grid(structures: tuple[Structure, ...]) -> Candidates:
    """Every combination of pivots: of uncorrelated coefficients their standard deviations."""
    return _grid_of(structures, 0.0)


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
    axes = has_grid(structures)
    if is_crowded(structures):
        return _with_lines(_among(structures) if axes else _one_above(structures), structures)
    if not axes and not _has_correlations(structures):
        room = BATCHES * len(start_grid(structures).thetas)
        return _with_copies(_one_above(structures), room)
    if axes and widest(structures) > 1:
        return _singular_grid(structures)
    if all(s.n_params == s.n_sizes for s in structures):
        return None
    parts = [_grid_of(structures, rho) for rho in _CORRELATIONS]
    near = [np.where(g.neighbours < 0, -1, g.neighbours + i * len(g.thetas))
            for i, g in enumerate(parts)]  # fmt: skip
    return Candidates(np.vstack([g.thetas for g in parts]), np.vstack(near))


def parts_of(count: int, structures: tuple[Structure, ...]) -> int:
    """In how many parts so many candidates are looked at, each as large as the first grid."""
    return count // len(start_grid(structures).thetas)


def is_crowded(structures: tuple[Structure, ...]) -> bool:
    """Whether there are three uncorrelated coefficients and more.

    Where the fixed effects lack what one of them may stand for, its variance of zero is an optimum
    of its own.
    """
    alone = all(s.unrestricted and s.k == 1 for s in structures)
    return alone and len(structures) > 2


def leaves_gaps(structures: tuple[Structure, ...]) -> bool:
    """Whether coefficients are so many that a grid of their sizes hides valleys."""
    return widest(structures) > 2 or not has_grid(structures)


def widest(structures: tuple[Structure, ...]) -> int:
    """Coefficients of the largest term that can be correlated in any way."""
    return max((s.k for s in structures if s.unrestricted), default=1)


def in_rows(lengths: Sequence[int]) -> np.ndarray:
    """Neighbours of the points of some rows, one after another, (N, 2); see :class:`Candidates`."""
    n = sum(lengths)
    ends = np.cumsum(lengths)
    before, after = np.arange(n) - 1, np.arange(n) + 1
    before[ends - np.asarray(lengths)], after[ends - 1] = -1, -1
    return np.column_stack([before, after])


def _grid_of(structures: tuple[Structure, ...], rho: float) -> Candidates:
    """The same, with correlations near rho where a structure has parameters for them."""
    sizes = [s.n_sizes for s in structures]
    together = [1] * sum(sizes)
    if not has_grid(structures):  # too many coefficients: those of a term, or all, have one axis
        together = sizes if _has_correlations(structures) else [sum(sizes)]
    count = _AXES.get(len(together), 9)
    scales = np.geomspace(_LEAST, _LARGEST, count)
    points = np.array(list(product(scales, repeat=len(together))))
    near = _grid_neighbours((count,) * len(together))
    return Candidates(of_sizes(structures, np.repeat(points, together, axis=1), rho), near)


def _has_correlations(structures: tuple[Structure, ...]) -> bool:
    """Whether correlations are parameters of their own, of terms so few that each has an axis."""
    return len(structures) in _AXES and any(not s.linear for s in structures)


def has_grid(structures: tuple[Structure, ...]) -> bool:
    """Whether the coefficients are so few that each has an axis of a grid."""
    return sum(s.n_sizes for s in structures) in _AXES


def of_sizes(structures: tuple[Structure, ...], sizes: np.ndarray, rho: float = 0.0) -> np.ndarray:
    """See :meth:`Structure.of_sizes`: thetas of all terms, (N, sum of sizes) to (N, m)."""
    own = np.split(sizes, np.cumsum([s.n_sizes for s in structures])[:-1], axis=1)
    thetas = [s.of_sizes(part, rho) for s, part in zip(structures, own, strict=True)]
    return np.concatenate(thetas, axis=1)


def _among(structures: tuple[Structure, ...]) -> Candidates:
    """A grid of fewer and less distant sizes, which leaves room for lines beside it."""
    axes = len(structures)
    room = len(start_grid(structures).thetas) - axes * len(ALONG)
    count = int(room ** (1 / axes) + 1e-9)
    points = np.array(list(product(np.geomspace(*_AMONG, count), repeat=axes)))
    return Candidates(of_sizes(structures, points), _grid_neighbours((count,) * axes))


def _with_lines(points: Candidates, structures: tuple[Structure, ...]) -> Candidates:
    """Candidates, copies of the last one up to a number of parts, and lines for each coefficient.

    See :func:`with_submodels`.
    """
    part, lines = len(start_grid(structures).thetas), len(structures) * len(ALONG)
    N = -(-(len(points.thetas) + lines) // part) * part
    first = _with_copies(points, N - lines)
    beside = in_rows([len(ALONG)] * len(structures))
    beside = np.where(beside < 0, -1, beside + N - lines)
    width = max(first.neighbours.shape[1], beside.shape[1])
    near = [np.pad(one, ((0, 0), (0, width - one.shape[1])), constant_values=-1)
            for one in (first.neighbours, beside)]  # fmt: skip
    thetas = np.vstack([first.thetas, first.thetas[-1:].repeat(lines, axis=0)])
    return Candidates(thetas, np.vstack(near))


def _one_above(structures: tuple[Structure, ...]) -> Candidates:
    """Uncorrelated coefficients, one larger than the others; none beside another.

    As many as a second grid has room for.
    """
    axes = sum(s.n_sizes for s in structures)
    sizes = np.where(np.eye(axes) > 0, _ONE, _OTHERS)[
        : BATCHES * len(start_grid(structures).thetas)
    ]
    return Candidates(of_sizes(structures, sizes), np.full((len(sizes), 1), -1))


def _with_copies(points: Candidates, N: int) -> Candidates:
    """As many as N by copies of the last one, beside themselves."""
    n, width = points.neighbours.shape
    copies = np.repeat(np.arange(n, N)[:, None], width, axis=1)
    thetas = np.vstack([points.thetas, points.thetas[-1:].repeat(N - n, axis=0)])
    return Candidates(thetas, np.vstack([points.neighbours, copies]))


def _singular_grid(structures: tuple[Structure, ...]) -> Candidates:
    """Covariances ``s^2 v v'`` of the terms of several coefficients, over sizes and directions.

    The last points are for :func:`with_submodels`; before them may be copies.
    """
    total = sum(s.n_sizes for s in structures)
    alone = sum(s.k for s in structures if s.rotates) * len(ALONE)
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
    lines = N + np.arange(alone).reshape(-1, len(ALONE))
    lines = np.pad(lines, ((0, 0), (1, 1)), constant_values=-1)
    beside = np.stack([lines[:, :-2].ravel(), lines[:, 2:].ravel()], axis=1)
    beside = np.pad(beside, ((0, 0), (0, near.shape[1] - 2)), constant_values=-1)
    points = np.vstack([points, points[-1:].repeat(N + alone - len(points), axis=0)])
    return Candidates(points, np.vstack([near, copies, beside]))


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
