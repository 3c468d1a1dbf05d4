"""Tail of the largest of several t statistics with any correlation and one denominator.

The average over the directions of the numerators is one over points of a Sobol' net, drawn once
for all t and df; their length is integrated exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from scipy import special

from .normal import product_loadings, product_tail
from .student import f_tail, over_scale, scale_nodes, student_tail

# p as a function of t and df, both scalars.
StudentTail = Callable[[float, float], float]

# Eigenvalues of a correlation below it are zero: a direction of standard deviation 1e-5.
_RANK_TOL = 1e-10
# Random shifts of the net, whose scatter is the error estimate, their seed, and digits in base 2.
_SHIFTS, _SEED, _BITS = 8, 20090101, 30
# Points of a shift, at most, and numbers in all that bound the time to about half a second.
_POINTS, _NUMBERS = 2**16, 1e8
_CONE_POINTS, _CONE_NUMBERS = 2**10, 4e7
# Cells of the distribution of the largest coordinate of a direction.
_CELLS = 4096
# Bonferroni's bound below which the sum over cones is the better of the two estimates.
_FAR = 0.05


class Directions(NamedTuple):
    """Largest coordinate M(u) of ``root @ u`` over directions u, in cells."""

    rank: int
    largest: np.ndarray  # (cells,)  mean of M in a cell, 0 where it is empty
    weight: np.ndarray  # (shifts, cells)


class Cones(NamedTuple):
    """Where a coordinate becomes the largest, for all coordinates and points of a shift."""

    points: int
    entry: np.ndarray  # (shifts, n)  sorted
    mass: np.ndarray  # (shifts, n + 1)  normal tail beyond each entry, summed from the end


def joint_tail(correlation: np.ndarray, *, two_sided: bool) -> StudentTail:
    """Tail of the largest of t statistics with any correlation, singular ones too.

    Exact to about 1e-12 for one statistic, for independent numerators and for
    correlations ``lambda_i lambda_j`` (`normal.product_tail`), to 1e-8 for
    correlations of rank 2. Else by `joint_estimator`, the same value at every call.

    Parameters
    ----------
    correlation : ndarray, shape (m, m)
    two_sided : bool
        Of ``max |T_i|`` or of ``max T_i``.

    Returns
    -------
    callable
        p of (t, df).

    Examples
    --------
    >>> third = np.array([[1.0, 0.5, -0.5], [0.5, 1.0, 0.5], [-0.5, 0.5, 1.0]])
    >>> p = joint_tail(third, two_sided=True)  # all differences of three balanced means
    >>> round(p(2.5, 20.0), 4)
    0.0531
    """
    R = distinct(correlation, two_sided=two_sided)
    loadings = product_loadings(R)
    if loadings is not None:
        tail = product_tail(loadings, two_sided=two_sided)
        return lambda t, df: over_scale(tail, t, df)
    estimate = joint_estimator(R, two_sided=two_sided)
    return lambda t, df: estimate(t, df).p


def distinct(correlation: np.ndarray, *, two_sided: bool) -> np.ndarray:
    """The correlation without repetitions of a statistic (up to its sign if two sided).

    Parameters
    ----------
    correlation : ndarray, shape (m, m)
    two_sided : bool

    Returns
    -------
    ndarray, shape (d, d)

    Examples
    --------
    >>> distinct(np.array([[1.0, -1.0], [-1.0, 1.0]]), two_sided=True)
    array([[1.]])
    """
    same = (np.abs(correlation) if two_sided else correlation) > 1.0 - _RANK_TOL
    first = same.argmax(axis=1) == np.arange(len(same))
    return correlation[np.ix_(first, first)]


class Estimate(NamedTuple):
    """A probability that was estimated."""

    p: float
    error: float  # standard error over the shifts of the net


def joint_estimator(
    correlation: np.ndarray, *, two_sided: bool
) -> Callable[[float, float], Estimate]:
    """Tail of t and df for a correlation of no special form, by a Sobol' net.

    Its random shifts are fixed, and all t and df share the samples. Two unbiased averages are
    mixed, with weight on the first where Bonferroni's bound is large and on the second in the
    tail:

        E_u P(F(r, df) > t^2 / (r M(u)^2)),      M(u) = max_i |a_i' u|
        sum_i E P(|Z_i| > max(t s, k_i)),        k_i = max_j |v_j| / (1 -+ rho_ij)

    with the rows a_i of a root of the correlation, r its rank, u a direction and v the part
    of Z that is independent of Z_i. The first integrates the radius exactly; the second
    splits the region by which statistic is the largest, and tends to Bonferroni's bound.

    Parameters
    ----------
    correlation : ndarray, shape (m, m)
        Without repeated statistics, see `distinct`; m at least 2.
    two_sided : bool

    Returns
    -------
    callable
        Estimate of (t, df).

    References
    ----------
    Somerville (1998), doi:10.1080/10618600.1998.10474793; Genz & Bretz (2009),
    doi:10.1007/978-3-642-01689-9.

    Examples
    --------
    >>> R = np.where(np.eye(3, dtype=bool), 1.0, 0.5)
    >>> p, error = joint_estimator(R, two_sided=True)(2.54, 20.0)  # Dunnett's 5 % value
    >>> abs(p - 0.05) < 1e-3, error < 1e-4
    (True, True)
    """
    R = np.ascontiguousarray(correlation, dtype=np.float64)
    directions, cones = _sample(R.tobytes(), len(R), two_sided)
    return partial(_estimated, directions, cones, len(R), two_sided)


def _estimated(
    directions: Directions, cones: Cones | None, m: int, two_sided: bool, t: float, df: float
) -> Estimate:
    """The mixture of both averages."""
    single = float(student_tail(t, df, two_sided=two_sided))
    if not 0.0 < single < 1.0:  # NaN or an end
        return Estimate(p=single, error=0.0)
    bound = m * single
    share = bound**2 / (bound**2 + _FAR**2) if cones is not None else 1.0
    each = share * _over_directions(directions, t, df, two_sided=two_sided)
    if cones is not None:
        each = each + (1.0 - share) * _over_cones(cones, t, df, two_sided=two_sided)
    error = float(each.std(ddof=1) / np.sqrt(each.size)) if each.size > 1 else 0.0
    return Estimate(p=float(np.clip(each.mean(), single, min(bound, 1.0))), error=error)


@lru_cache(maxsize=8)  # limits follow p values, and each asks for many t
def _sample(correlation: bytes, m: int, two_sided: bool) -> tuple[Directions, Cones | None]:
    """Both averages' samples; two directions of Z need no net, and no cones."""
    R = np.frombuffer(correlation).reshape(m, m)
    d, P = np.linalg.eigh(R)
    root = P[:, d > _RANK_TOL * d[-1]] * np.sqrt(d[d > _RANK_TOL * d[-1]])
    rank = root.shape[1]
    if rank == 2:
        angle = (np.arange(_SHIFTS * _POINTS) + 0.5) * 2.0 * np.pi / (_SHIFTS * _POINTS)
        around = np.column_stack([np.cos(angle), np.sin(angle)])
        return _directions([_largest(around, root, two_sided)], rank), None
    points = int(np.clip(_NUMBERS / (_SHIFTS * m), 2**10, _POINTS))
    few = int(np.clip(_CONE_NUMBERS / (_SHIFTS * m * m), 2**5, _CONE_POINTS))
    largest, entry = [], []
    for z in _normal_points(points, rank):
        entry.append(np.sort(_entries(z[:few] @ root.T, R, two_sided), axis=None))
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        largest.append(_largest(z, root, two_sided))
    beyond = special.ndtr(-np.array(entry))[:, ::-1].cumsum(axis=1)[:, ::-1]
    cones = Cones(points=few, entry=np.array(entry), mass=np.pad(beyond, ((0, 0), (0, 1))))
    return _directions(largest, rank), cones


def _normal_points(points: int, rank: int) -> Iterator[np.ndarray]:
    """Normal points from Sobol's net, one set for each random digital shift."""
    from scipy.stats import qmc  # takes half a second to import

    net = qmc.Sobol(rank, scramble=False, bits=_BITS).random_base2(points.bit_length() - 1)
    whole = (net * 2**_BITS).astype(np.int64)
    for shift in np.random.default_rng(_SEED).integers(0, 2**_BITS, (_SHIFTS, rank)):
        yield special.ndtri(((whole ^ shift) + 0.5) / 2**_BITS)


def _largest(directions: np.ndarray, root: np.ndarray, two_sided: bool) -> np.ndarray:
    """M(u) of each direction, in pieces that fit a cache."""
    out = np.empty(len(directions))
    for start in range(0, len(out), _POINTS // 16):
        piece = slice(start, start + _POINTS // 16)
        at = directions[piece] @ root.T
        out[piece] = (np.abs(at) if two_sided else at).max(axis=1)
    return out


def _directions(largest: list[np.ndarray], rank: int) -> Directions:
    """The M(u) of each shift counted in common cells, each with the mean of its M."""
    every = np.concatenate(largest)
    width = max(np.ptp(every), _RANK_TOL) / (_CELLS - 2)
    start = np.floor(every.min() / width)  # no cell has both signs in it
    place = [(np.floor(M / width) - start).astype(np.intp) for M in largest]
    count = np.array([np.bincount(cell, minlength=_CELLS) for cell in place])
    total = np.bincount(np.concatenate(place), every, minlength=_CELLS)
    used = count.sum(axis=0) > 0
    return Directions(
        rank=rank,
        largest=total[used] / count[:, used].sum(axis=0),
        weight=count[:, used] / count.sum(axis=1, keepdims=True),
    )


def _entries(y: np.ndarray, R: np.ndarray, two_sided: bool) -> np.ndarray:
    """k_i of each point: Z_i from which on no other statistic is as large."""
    out = np.empty(y.shape)
    for i, rho in enumerate(R):
        others = np.arange(len(R)) != i
        v = y[:, others] - y[:, [i]] * rho[others]
        out[:, i] = (v / (1.0 - rho[others])).max(axis=1)
        if two_sided:
            np.maximum(out[:, i], (-v / (1.0 + rho[others])).max(axis=1), out=out[:, i])
    return out


def _over_directions(at: Directions, t: float, df: float, *, two_sided: bool) -> np.ndarray:
    """First average, one value for each shift."""
    inside = not two_sided and t <= 0  # the origin is outside of the region of no rejection
    used = at.largest < 0 if inside else at.largest > 0
    square = (t / at.largest[used]) ** 2
    total = at.weight[:, used] @ f_tail(square / at.rank, at.rank, df)
    return 1.0 - total if inside else total


def _over_cones(cones: Cones, t: float, df: float, *, two_sided: bool) -> np.ndarray:
    """Second average, one value for each shift."""
    x, weight = scale_nodes(t, df)
    at_x = special.ndtr(-x)
    out = []
    for entry, mass in zip(cones.entry, cones.mass, strict=True):
        before = np.searchsorted(entry, x, side="right")
        out.append(weight @ (before * at_x + mass[before]))
    return np.array(out) * (2.0 if two_sided else 1.0) / cones.points
