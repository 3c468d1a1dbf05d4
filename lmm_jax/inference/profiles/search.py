"""Where the profile deviance of one parameter reaches a level.

With the parameter psi held and x everything else, the signed root of the profile is

    zeta(psi)^2 = min_x D(x, psi) - min D

Venzon and Moolgavkar solve ``dD/dx = 0, D = min D + q^2`` by Newton's method for x and psi
together: a handful of evaluations. What that does not find, or finds near the boundary of
another covariance, is found by a search over psi with x minimized at every step.

References
----------
Venzon & Moolgavkar (1988), doi:10.2307/2347496.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...optimize.constrained import PlainJet
from ...optimize.newton import newton
from .lines import MAXITER, Line, LineJet, covariances_at, pivots_of, theta_at

# Steps of Venzon and Moolgavkar's iteration; four are needed.
_STEPS = 12
# Deviance, and decrement in x, from which the next of them ends: it leaves the square of that.
_LAST, _LAST_OF_X = 1e-4, 1e-5
# Eigenvalues of the Hessian in x below this share of the largest carry nothing; negative ones
# below minus that are of no minimum.
_FLAT, _NEGATIVE = 1e-10, 1e-7
# Whitened pivots below the first are opened to the second before a minimum is believed in.
_SMALL_PIVOT, _OPEN_PIVOT = 1e-3, 0.3
# Pivots that other minima are sought from where the groups are few.
_FEW = (0.5, 0.02)
# By how much, in deviance, another minimum must be lower to be another.
_LOWER = 1e-7
# By how much, in deviance, a point must be lower than the optimum to be the better optimum.
_ANOTHER = 1e-5
# The search over psi: its steps, the deviance it ends at.
_ROUNDS, _LEVEL_TOL = 100, 1e-9
# Longest first step in a logarithm.
_LONGEST = 1.5


class LowerOptimum(Exception):
    """The search has come to a point below the optimum that it started from."""

    def __init__(self, theta: np.ndarray) -> None:
        super().__init__()
        self.theta = theta


class Found(NamedTuple):
    """A point of the profile."""

    psi: float  # the coordinate that is held
    zeta: float  # root of the profile deviance, not negative
    slope: float  # d D / d psi
    jet: LineJet
    ends: bool = False  # the parameter ends here: the level lies beyond
    followed: bool = False  # from the point before, where nothing lower was seen


class _Model(NamedTuple):
    """The quadratic model of D with x minimized: ``level + slope d + curve d^2 / 2``."""

    decrement: float  # of x
    level: float
    slope: float
    curve: float
    step: np.ndarray  # (M - 1,)  of x where psi stays
    tangent: np.ndarray  # (M - 1,)  of x with psi
    is_minimum: bool  # in x


def crossing(
    line: Line, start: Found, best: float, q: float, side: int, *, sure: bool = True
) -> Found | None:
    """The point on one side of the optimum at which zeta is q, or where the parameter ends.

    Parameters
    ----------
    line : Line
    start : Found
        The optimum (:func:`at_optimum`), or a point on that side with a lower root.
    best : float
        Lowest criterion.
    q : float
        Quantile.
    side : {-1, 1}
        Direction of the line's coordinate.
    sure : bool
        Whether other minima are looked for where a model of few groups may have them.

    Returns
    -------
    Found or None
        None where the search fails.

    Raises
    ------
    LowerOptimum
    """
    if start.psi == (line.low if side < 0 else line.high):
        return start._replace(ends=True)
    if not np.isfinite(start.jet.hessian).all():
        return None  # the residual variance vanishes beside the random effects: no digits are left
    guess = _guess(line, start, q, side)
    found = _venzon_moolgavkar(line, _moved(start, line.held, guess), best, q, side)
    if found is not None and not _is_challenged(line, found, best, sure=sure):
        return found._replace(followed=True)
    return _bracketed(line, start, guess, best, q, side)


def at_optimum(line: Line) -> Found:
    """The line's own beginning."""
    jet = line.jet(line.z)
    return Found(float(line.z[line.held]), 0.0, 0.0, jet)


# ------------------------------------------------------------ where to look first


def _guess(line: Line, start: Found, q: float, side: int) -> float:
    """The coordinate at which the level should be, by the curvature on the parameter's own scale.

    Standard deviations go by their logarithm, correlations by Fisher's z.
    """
    psi = start.psi
    model = _model(start.jet, line.held, 0.0)
    if start.zeta > 0.0 and start.slope * side > 0.0:
        step = (q - start.zeta) * 2.0 * start.zeta / start.slope * side
    else:
        step = q * np.sqrt(2.0 / model.curve) if model.curve > 0.0 else np.nan
    if not (np.isfinite(step) and step > 0.0):
        step = 0.1 * max(abs(psi), float(np.exp(0.5 * line.z[line.chart.tau])))
    if line.form.kind == "cos" and 1e-3 < psi < np.pi - 1e-3:
        stretched = min(step / np.sin(psi), _LONGEST)
        return float(2.0 * np.arctan(np.tan(0.5 * psi) * np.exp(side * stretched)))
    if line.low == 0.0 and line.form.kind == "linear" and psi > 0.0:
        if step < _LONGEST * psi:
            return float(psi * np.exp(side * step / psi))
        return float(psi + step if side > 0 else psi * np.exp(-_LONGEST))
    reached = psi + side * step
    room = (line.low if side < 0 else line.high) - psi
    return float(reached if abs(room) > step else psi + 0.5 * room)


def _moved(start: Found, held: int, psi: float) -> np.ndarray:
    """The point with psi there, x along the tangent of the profile."""
    z = start.jet.z.copy()
    tangent = _model(start.jet, held, 0.0).tangent
    z[held] = psi
    z[_free(z.size, held)] += np.clip((psi - start.psi) * tangent, -_LONGEST, _LONGEST)
    return z


def _free(size: int, held: int) -> np.ndarray:
    return np.delete(np.arange(size), held)


# ------------------------------------------------------------ x and psi together


def _model(jet: LineJet, held: int, target: float) -> _Model:
    """Eliminate x from the quadratic model of the criterion, which is ``target`` at zero."""
    free = _free(jet.z.size, held)
    units = 1.0 + np.abs(jet.z[free])  # covariances large beside the residual bend slowly
    g, cross = jet.gradient[free] * units, jet.hessian[free, held] * units
    e, V = np.linalg.eigh(jet.hessian[np.ix_(free, free)] * np.outer(units, units))
    top = np.abs(e).max(initial=0.0)
    usable = np.abs(e) > _FLAT * top
    inverse = np.where(usable, 1.0 / np.where(usable, np.abs(e), 1.0), 0.0)
    along, across = V.T @ g, V.T @ cross
    decrement = float(along @ (inverse * along))
    return _Model(
        decrement=decrement,
        level=jet.value - 0.5 * decrement - target,
        slope=float(jet.gradient[held] - across @ (inverse * along)),
        curve=float(jet.hessian[held, held] - across @ (inverse * across)),
        step=-units * (V @ (inverse * along)),
        tangent=-units * (V @ (inverse * across)),
        is_minimum=bool(e.min(initial=0.0) > -_NEGATIVE * top),
    )


def _step_of(model: _Model, side: int) -> float:
    """Root of the quadratic model at which it rises outwards; NaN if there is none."""
    square = model.slope**2 - 2.0 * model.curve * model.level
    if not square >= 0.0:
        return float("nan")
    root = side * float(np.sqrt(square))
    if model.slope * side > 0.0:
        return -2.0 * model.level / (model.slope + root)
    return (root - model.slope) / model.curve if model.curve else float("nan")


def _venzon_moolgavkar(line: Line, z: np.ndarray, best: float, q: float, side: int) -> Found | None:
    held, target = line.held, best + q * q
    free = _free(z.size, held)
    for _ in range(_STEPS):
        jet = line.jet(z)
        if not (np.isfinite(jet.value) and np.isfinite(jet.hessian).all()):
            return None
        model = _model(jet, held, target)
        step = _step_of(model, side)
        if not np.isfinite(step):
            return None
        z = z.copy()
        z[held] += step
        z[free] += model.step + step * model.tangent
        if not line.low <= z[held] <= line.high:
            return None
        settled = abs(model.level) < _LAST and model.decrement < _LAST_OF_X
        if settled:
            right = model.slope * side > 0.0 and (z[held] - line.z[held]) * side > 0.0
            if not (model.is_minimum and right):
                return None
            return Found(float(z[held]), q, model.slope + model.curve * step, jet._replace(z=z))
    return None


def _is_challenged(line: Line, found: Found, best: float, *, sure: bool) -> bool:
    """Whether another minimum over x is lower than the one there."""
    own = best + found.zeta**2
    others = _others(line, found.jet.z, few=line.doubtful and sure)
    return any(_height(line, _rest(line, z)) < own - _LOWER for z in others)


def end_of(line: Line, start: Found, best: float, side: int) -> Found:
    """The profile where the parameter ends, at a standard deviation of zero for example."""
    bound = line.low if side < 0 else line.high
    found = _lowest_rest(line, [_moved(start, line.held, bound)], best)
    return found._replace(ends=True)


# ------------------------------------------------------------ x minimized at every psi


def _others(line: Line, z: np.ndarray, *, few: bool) -> list[np.ndarray]:
    """Where else a minimum over x may be.

    The criterion is even in a column of Lambda: its gradient vanishes at zero whatever lies
    around, so that small pivots are opened. With few groups a second minimum is not rare: where
    ``few``, all pivots are opened and all are closed, nearly.
    """
    pivots = pivots_of(line)
    small = [n for n in pivots if abs(z[n]) < _SMALL_PIVOT]
    out = []
    for places, value in [(small, _OPEN_PIVOT)] + [(pivots, v) for v in _FEW if few]:
        if places:
            out.append(z.copy())
            out[-1][places] = value
    return out


def _rest(line: Line, z: np.ndarray) -> LineJet:
    """The minimum over x from one start."""
    free = _free(z.size, line.held)

    def put(x: np.ndarray) -> np.ndarray:
        out = z.copy()
        out[free] = x
        return out

    def evaluate(x: Any) -> PlainJet:
        at = line.jet(put(x))
        H: Any = at.hessian[np.ix_(free, free)]
        parts: tuple[Any, ...] = np.asarray(at.value), at.gradient[free], H, np.asarray(at.noise)
        return PlainJet(*parts)

    begin: Any = z[free]
    with np.errstate(all="ignore"):
        found = newton(begin, evaluate, (), maxiter=MAXITER)
    return line.jet(put(np.asarray(found.theta)))


def _height(line: Line, jet: LineJet) -> float:
    """The criterion; infinite where x has gone through zero to the mirror of another correlation.

    A negative standard deviation turns the sign of the correlation whose angle is held.
    """
    if line.form.kind == "cos":
        S = covariances_at(line, jet.y)[line.parameter.term]
        if S[line.parameter.i, line.parameter.j] * np.cos(jet.z[line.held]) < 0.0:
            return np.inf
    return jet.value if np.isfinite(jet.value) else np.inf


def _lowest_rest(line: Line, starts: list[np.ndarray], best: float) -> Found:
    """The lowest of the minima from some starts, and from where others may be."""
    ends = [_rest(line, z) for z in starts]
    ends += [_rest(line, z) for z in _others(line, ends[0].z, few=line.doubtful)]
    jet = min(ends, key=lambda end: _height(line, end))
    height = _height(line, jet)
    if height < best - _ANOTHER - jet.noise:
        raise LowerOptimum(theta_at(line, jet.y))
    zeta = float(np.sqrt(max(height - best, 0.0)))
    return Found(float(jet.z[line.held]), zeta, float(jet.gradient[line.held]), jet)


def _bracketed(
    line: Line, inner: Found, guess: float, best: float, q: float, side: int
) -> Found | None:
    """The level between a point inside and one beyond, or the end of the parameter."""
    held = line.held
    bound = line.low if side < 0 else line.high
    outer = inner
    if np.isfinite(bound):
        outer = end_of(line, inner, best, side)
        if outer.zeta <= q:
            return outer
    step = abs(guess - inner.psi)
    for _ in range(_ROUNDS):
        if outer.zeta > q or np.isfinite(bound):
            break
        inner = outer
        outer = _lowest_rest(line, [_moved(inner, held, inner.psi + side * step)], best)
        step *= 2.0
    if not (outer.zeta > q and np.isfinite(outer.jet.value)):
        return None
    return _between(line, inner, outer._replace(ends=False), best, q)


def _between(line: Line, inner: Found, outer: Found, best: float, q: float) -> Found | None:
    """Safeguarded Newton steps on the signed root, bisection where they leave the bracket."""
    held, bisect = line.held, False
    for _ in range(_ROUNDS):
        close = inner if q - inner.zeta < outer.zeta - q else outer
        low, high = sorted((inner.psi, outer.psi))
        width = high - low
        psi = 0.5 * (low + high)
        if close.zeta > 0.0 and close.slope != 0.0 and not bisect:
            newton_point = close.psi + (q - close.zeta) * 2.0 * close.zeta / close.slope
            psi = newton_point if low < newton_point < high else psi
        starts = [_moved(close, held, psi)]
        if bisect:  # the valleys of both sides
            other = outer if close is inner else inner
            starts += [_moved(other, held, psi)]
        new = _lowest_rest(line, starts, best)
        if abs(new.zeta**2 - q * q) < _LEVEL_TOL * (1.0 + q * q):
            return new
        inner, outer = (new, outer) if new.zeta < q else (inner, new)
        bisect = abs(outer.psi - inner.psi) > 0.5 * width
        if width <= 1e-13 * (abs(low) + abs(high)):
            return None
    return None
