"""Start values of residual covariances, from the squares of OLS residuals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from ...covariance.residuals import ResidualStructure, arms_of, residual_of, terms_of
from ...covariance.structures import Structure
from ...covariance.theta import theta_slices
from ...numerics.namespace import namespace

# Correlations, and relative standard deviations of the random effects beside them, to start from.
_STARTS = ((0.1, 1.0), (0.5, 0.3), (0.9, 0.1))
# Standard deviations to look at beside the first correlation: from above a fit finds optima that
# it does not find from below, and random effects that are nearly all of the variance, which a
# correlation of one would have to stand for.
_LARGE = np.geomspace(10.0, 1e6, 11)
# Without random effects; over coordinates a long range may be singular to rounding.
_ALONE, _ALONE_IN_SPACE = ((0.5, 0.0),), ((0.5, 0.0), (0.1, 0.0))
# Parameter of a nugget that is hardly there.
_HARDLY = -9.0
# Starts with standard deviations that OLS does not show: that of one visit on the log scale, the
# step from visit to visit beside a correlation near one, beside how many of the first starts, and
# levels and rows up to which they are tried.
_LOW, _RAMP, _NEAR_ONE, _BESIDE = 2.0, 0.3, 0.95, 2
_MOST_LEVELS, _MOST_APART = 12, 4000
# Parameter of a correlation of neighbours that is negative.
_OPPOSITE = -1.5
# Squares of OLS residuals, of which all add to one, below which fixed effects explain the rows.
_EXPLAINED = 1e-20

# Variance of a visit, as a share of that of all, below which an optimum is challenged by other
# signs of its residuals: of 257 simulated data sets none had a better one above.
_CALM = 0.81


class Squares(NamedTuple):
    """Squares of the OLS residuals of rows S of one arm."""

    arm: int
    slopes: Array  # (m_s, *S)  of log standard deviations
    squares: Array  # S
    rows: Array  # S  how many an entry stands for
    places: Array | None = None  # (d, *S), or one for all groups; None: not by visits


def squares_of(bucket: Any, squares: Array) -> Squares:
    """Those of a bucket of subjects, pattern by pattern."""
    rows = bucket.present * bucket.copies[None]
    return Squares(bucket.arm, bucket.slopes, squares, rows, bucket.places)


def candidates(structures: tuple[Structure, ...], rows: Sequence[Squares]) -> Array:
    """Thetas to start from, (S, m): residuals that are more and less correlated."""
    like = rows[0].squares
    xp = namespace(like)
    terms, arms = terms_of(structures), arms_of(structures)
    spreads = [_log_deviations(structures, rows, arm) for arm in range(len(arms))]
    in_space = any(residual.correlation.in_space for residual, _ in arms)
    alone = _ALONE_IN_SPACE if in_space else _ALONE

    def at(rho: float, sd: float, spreads: Sequence[Array]) -> Array:
        parts = [s.start(xp.full(s.k, sd, like.dtype)) for s in terms]
        for (residual, _), s in zip(arms, spreads, strict=True):
            parts.append(residual.begin(xp.asarray(rho, like.dtype), s))
        return xp.concatenate(parts)

    chosen = _STARTS if terms else alone
    starts = [at(rho, sd, spreads) for rho, sd in chosen]
    patterns = _spreads_apart(structures, rows, spreads)
    for rho, sd in chosen[: _BESIDE if terms else 1]:
        starts += [at(rho if near is None else near, sd, own) for near, own in patterns]
    starts += _negative(structures, starts[0]) if terms else []
    places = _nuggets(structures)
    if places:  # where nearly none is left is often an optimum of its own
        starts += [xp.at(one)[np.array(places)].set(_HARDLY) for one in starts[:2]]
    return xp.stack(starts)


def _spreads_apart(
    structures: tuple[Structure, ...], rows: Sequence[Squares], spreads: Sequence[Array]
) -> list[tuple[float | None, list[Array]]]:
    """Log standard deviations of every arm that OLS residuals do not show, and a correlation.

    Where visits have variances of their own and correlate, the fixed effects may follow one
    visit, whose variance is small then, or run past the first or the last, so that variances
    rise or fall along all of them and correlations are large. Levels that are no visits are taken
    in their order as well. With a covariate its exponent, or
    its multiple, may have either sign.
    """
    xp = namespace(rows[0].squares)
    if sum(part.squares.size for part in rows) > _MOST_APART:
        return []
    residuals = [residual for residual, _ in arms_of(structures)]
    count = max(len(residual.spread.levels) for residual in residuals)
    out: list[tuple[float | None, list[Array]]] = []

    def like(row: np.ndarray) -> list[Array]:
        return [_of_levels(s, r, row) for s, r in zip(spreads, residuals, strict=True)]

    if 1 < count <= _MOST_LEVELS and not any(r.correlation.name == "symm" for r in residuals):
        out += [(None, like(-_LOW * (np.arange(count) == level))) for level in range(count)]
        out += [(_NEAR_ONE, like(slope * np.arange(count))) for slope in (_RAMP, -_RAMP)]
    if any(residual.spread.of for residual in residuals):
        for sign in (1.0, -1.0):
            own = [
                xp.at(s)[-1].set(sign * _unit_multiple(rows, arm)) if residual.spread.of else s
                for arm, (s, residual) in enumerate(zip(spreads, residuals, strict=True))
            ]
            out.append((None, own))
    return out


def _of_levels(s: Array, residual: ResidualStructure, row: np.ndarray) -> Array:
    """Log standard deviations of an arm with those of its levels like a row."""
    xp, spread = namespace(s), residual.spread
    if len(spread.levels) < 2:
        return s
    own = row[: len(spread.levels)]
    own = own[1:] - own[0] if spread.anchored else own - own.mean()
    middle = 0.0 if spread.anchored else xp.mean(s[: spread.n_levels])
    return xp.concatenate([xp.asarray(own, s.dtype) + middle, s[spread.n_levels :]])


def _unit_multiple(rows: Sequence[Squares], arm: int) -> Array:
    """One over the standard deviation of what the last parameter of a spread multiplies."""
    xp = namespace(rows[0].squares)
    own = [(part.slopes[-1], part.rows) for part in rows if part.arm == arm]
    count = sum(xp.sum(there) for _, there in own)
    mean = sum(xp.sum(there * x) for x, there in own) / count
    variance = sum(xp.sum(there * (x - mean) ** 2) for x, there in own) / count
    some = variance > 0
    return xp.where(some, xp.rsqrt(xp.where(some, variance, 1.0)), 0.0)


def _negative(structures: tuple[Structure, ...], start: Array) -> list[Array]:
    """A start with neighbours that correlate negatively, which random effects may hide."""
    found = arms_of(structures)
    if not all(residual.correlation.name == "ar1" for residual, _ in found):
        return []
    places = np.array([at.stop - 1 for _, at in found])
    return [namespace(start).at(start)[places].set(_OPPOSITE)]


def _nuggets(structures: tuple[Structure, ...]) -> list[int]:
    """Places in theta of the parameters of nuggets."""
    arms = arms_of(structures)
    return [at.stop - 1 for residual, at in arms if getattr(residual.correlation, "nugget", False)]


def rows_of_starts(structures: tuple[Structure, ...], starts: Array) -> tuple[Array, ...] | None:
    """Rows of thetas of whose criterion the local minima are starts as well, (S, m) each; or None.

    Large random effects, of all terms alike; and what a correlation has several optima in, beside
    some of these where it is rugged.
    """
    xp, found = namespace(starts), []
    residuals, alone = arms_of(structures), not terms_of(structures)
    if not alone:
        found.append(xp.stack([_with_sizes(structures, starts[0], sd) for sd in _LARGE.tolist()]))
    rugged = any(residual.correlation.rugged for residual, _ in residuals)
    chosen = [starts[0], *found[0][:5:2]] if rugged and not alone else [starts[0]]
    looked = [residual.correlation.rows_to_look_at for residual, _ in residuals]
    for rows in zip(*looked, strict=True):  # of every arm, which are of one kind
        places = np.concatenate(
            [
                np.arange(at.stop - row.shape[1], at.stop)
                for row, (_, at) in zip(rows, residuals, strict=True)
            ]
        )
        values = xp.asarray(np.concatenate(rows, axis=1), starts.dtype)
        for one in chosen:
            found.append(xp.stack([xp.at(one)[places].set(row) for row in values]))
    return tuple(found) or None


def challengers_of(
    structures: tuple[Structure, ...], rows: Sequence[Squares], theta: Array
) -> tuple[Array, Array] | None:
    """Thetas from which an optimum is challenged, (S, m), and which of them; None: never.

    Where visits have one variance and the residuals of one of them are small, a covariance that
    leaves it little, given the others, stands for that: whether it is near to a sum of theirs or
    to minus this, an optimum each. Visits with variances of their own need no such covariance.
    """
    xp, thetas, wanted = namespace(theta), [], []
    for arm, (residual, at) in enumerate(arms_of(structures)):
        own = slice(at.start + residual.spread.n_params, at.stop)
        turned = residual.correlation.turned(theta[own])
        if not len(turned) or residual.spread.levels == residual.correlation.levels:
            continue
        all_alike = xp.broadcast_to(theta[None], (len(turned), theta.size))
        thetas.append(xp.at(all_alike)[:, own].set(turned))
        wanted.append(_calm_visits(residual, theta[at], rows, arm))
    return (xp.concatenate(thetas), xp.concatenate(wanted)) if thetas else None


def _calm_visits(
    residual: ResidualStructure, phi: Array, rows: Sequence[Squares], arm: int
) -> Array:
    """Visits, (T,), whose OLS residuals are small beside those of all, given their weights."""
    xp, T = namespace(phi), len(residual.correlation.levels)
    squares, counts = xp.zeros(T, phi.dtype), xp.zeros(T, phi.dtype)
    for part in rows:
        if part.arm != arm or part.places is None:
            continue
        shape = part.rows.shape
        visits = xp.broadcast_to(part.places[0], shape).reshape(-1).astype(np.int32)
        size = part.squares / residual.variances(phi, part.slopes)
        own = xp.broadcast_to(size, shape).reshape(-1)
        squares = squares + xp.segment_sum(own, visits, T)
        counts = counts + xp.segment_sum(part.rows.reshape(-1), visits, T)
    return squares * xp.sum(counts) < _CALM * counts * xp.sum(squares)


def _with_sizes(structures: tuple[Structure, ...], theta: Array, sd: float) -> Array:
    """Theta with independent random effects of one relative standard deviation."""
    xp, terms = namespace(theta), terms_of(structures)
    for term, at in zip(terms, theta_slices(terms), strict=True):
        theta = xp.at(theta)[at].set(term.start(xp.full(term.k, sd, theta.dtype)))
    return theta


def _log_deviations(structures: tuple[Structure, ...], rows: Sequence[Squares], arm: int) -> Array:
    """Log standard deviations, (m_s,), from the sizes of the residuals of OLS.

    Of levels and arms, less that of the reference; zero for multiples of a covariate.
    """
    dtype = rows[0].squares.dtype
    xp = namespace(rows[0].squares)
    zero = xp.zeros((), dtype)
    spread = residual_of(structures, arm)[0].spread
    of_base, of_rows = (zero, zero), [(zero, zero)] * spread.n_levels
    for part in rows:
        if part.arm == 0:
            rest = xp.ones_like(part.slopes[0] if len(part.slopes) else part.rows)
            first = residual_of(structures, 0)[0].spread
            if first.levels:
                rest = rest - xp.sum(part.slopes[: first.n_levels], axis=0)
            of_base = _added(of_base, rest, part)
        if part.arm == arm:
            of_rows = [
                _added(sums, row, part) for sums, row in zip(of_rows, part.slopes, strict=False)
            ]
    base = _log_variance(*of_base, zero)
    found = [0.5 * (_log_variance(*sums, base) - base) for sums in of_rows]
    found += [zero] * (spread.n_params - spread.n_levels)
    return xp.stack(found) if found else xp.zeros(0, dtype)


def _added(sums: tuple[Array, Array], rows: Array, part: Squares) -> tuple[Array, Array]:
    """Sums of squares, and rows that they are of, with those of more rows."""
    xp = namespace(part.squares)
    return sums[0] + xp.sum(rows * part.squares), sums[1] + xp.sum(rows * part.rows)


def _log_variance(squares: Array, count: Array, otherwise: Array) -> Array:
    """Of rows that the fixed effects do not explain, the squares of all of which add to one."""
    xp = namespace(squares)
    usable = (squares > _EXPLAINED) & (count > 0)
    found = xp.log(xp.where(usable, squares, 1.0) / xp.where(usable, count, 1.0))
    return xp.where(usable, found, otherwise)
