"""Trust-region Newton over theta as one flat state machine in NumPy or JAX.

Each tick evaluates the criterion once and accepts or shrinks; nothing is nested,
so the loop can be jitted and batched. Theta is unconstrained (the criterion is
even in the sign of a column of Lambda); optimality on the boundary is judged in
Psi, where the criterion is smooth and the positive semidefinite cone is the
only constraint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple

import jax
import numpy as np
from jax import Array

from ..covariance.structures import Structure
from ..covariance.theta import stack_theta, theta_slices
from ..numerics.eigen import eigen
from ..numerics.linalg import lower_factor
from ..numerics.namespace import JAX, namespace
from .factor_steps import coordinates, move
from .history import Recorder
from .point import Evaluate, P, Point, State, Step

RUNNING, CONVERGED, MAXITER, NONFINITE, STALLED, FLAT, NOISY, FOLLOWED = range(8)
MESSAGES = {
    RUNNING: "the optimizer is still running",
    CONVERGED: "converged: tiny Newton decrement and positive curvature",
    MAXITER: "the iteration limit was reached before the Newton decrement was small",
    NONFINITE: "the criterion is not finite at the start values",
    STALLED: "no step lowers the criterion, yet its gradient is not small: "
    "a covariance parameter may not be identified by these data",
    FLAT: "the criterion is flat in a direction: a covariance parameter is not identified",
    NOISY: "rounding of the criterion is larger than a millionth here: some random effects are so "
    "much larger than the residual, or so nearly dependent, or the correlation of some residuals "
    "is so near to one, that no optimum can be certified",
    FOLLOWED: "the optimum that this run was going to had been reached by another",
}

# Decrements are in units of the deviance and so do not depend on the units of the data.
DECREMENT_TOL = 1e-9
# Rounding of the criterion, in units of the deviance, above which nothing is certified.
PROMISE = 1e-6
# What every evaluation rounds, in units of eps times the value.
_ROUNDING = 32.0
# Below this a step is 1e-11 standard errors long: it would be one of rounding.
_SETTLED = 1e-22
# Share of the tolerance below which one step more, which squares the length of a step, ends where
# every runtime sees the optimum to eleven digits; and share of the decrement before above which
# steps are not squared: they lead along a criterion that has no optimum, only a limit.
_POLISHED, _SLOW = 1e-3, 1e-2
# Eigenvalues of the Hessian and of d criterion / d Psi below minus this, relative to the
# largest, count as negative. A slope that small could gain no more than about its square.
_CURVATURE_TOL = 1e-7
_SLOPE_TOL = 1e-4
# Hessian and eigenvalues are divided by no less than this, and than this share of the largest:
# a criterion that hardly bends gets steps of finite length, which the radius then bounds.
_LEAST_BEND, _LEAST_SHARE = 1e-8, 1e-10
# Decrement below which negative curvature is followed: farther out the gradient leads down.
_AT_REST = 1e-3
# Length of a step off a saddle, in units of the coordinates.
_ESCAPE = 0.3
# Variance that a step off the boundary gives a direction, as a share of 1 + its own, and what is
# left of that after a step that gained nothing.
_LIFT, _LOWER = 0.1, 0.1
# Shares of the predicted gain from which a step is taken, and from which the model is trusted
# farther out.
_TAKEN, _TRUSTED = 0.05, 0.5
# The next radius in lengths of this step, where the model is trusted and where it was wrong.
_WIDER, _NARROWER = 2.5, 0.3
# Radius at which no step is left: theta is of order one, so that the trial is theta itself.
_NO_STEP = 1e-13
# A decrement of so many roundings promises a gain (half of it) that can hardly be told from none.
_UNTOLD = 4.0
# Relative standard deviation (in units of sigma, covariates whitened) near the boundary.
PIVOT_TOL = 1e-3


class Solution(NamedTuple, Generic[P]):
    """The end of a minimization."""

    theta: Array  # (m,)  in the coordinates of the criterion
    jet: P  # the criterion at theta
    status: Array  # ()    one of the codes above
    n_iter: Array  # ()
    decrement: Array  # ()  Newton decrement g' H^-1 g at theta


def newton(
    theta: Array,
    evaluate: Evaluate[P],
    structures: tuple[Structure, ...],
    *,
    maxiter: int,
    tol: float = DECREMENT_TOL,
    watch: Recorder | None = None,
    after: Callable[[State[P]], State[P]] | None = None,
    go: Any = True,
) -> Solution[P]:
    """Minimize a criterion from one start.

    Parameters
    ----------
    theta : Array, shape (m,)
    evaluate : callable
        Value, gradient and Hessian at a theta, and the derivatives in Psi of
        the terms in ``structures`` (or none, if theta is not made of factors).
    structures : tuple of Structure
        Covariance of each term.
    maxiter : int
        Limit on steps; 0 evaluates the start and stops.
    tol : float
        Newton decrement, in deviance units, below which a point is stationary.
    watch : Recorder, optional
        Notes the start and every step, accepted or not.
    after : callable, optional
        What becomes of the state, all runs side by side, after a step of those that run.
    go : Array of bool, shape ()
        False: a program takes no step. Under ``vmap`` a run that nobody wants costs nothing then.

    Returns
    -------
    Solution
        ``CONVERGED`` means a decrement below ``tol``, no direction of negative
        curvature in theta and none that enters the cone downhill in Psi, as far as the
        criterion can tell: what is below its rounding counts as zero, and a rounding of
        more than ``PROMISE`` ends in ``NOISY``.
    """
    xp = namespace(theta)

    def step(s: State[P]) -> State[P]:
        new = tick(s, evaluate, structures, maxiter=maxiter, tol=tol)
        s = new if after is None else after(xp.choose(s.status == RUNNING, new, s))
        if watch is not None:
            watch(s.tick, s.theta, s.jet.value, s.jet.gradient)
        return s

    if xp is JAX:
        s = first_state(theta, evaluate)
        s = s._replace(status=xp.where(go, s.status, FOLLOWED))
    else:
        s = state_at(theta, evaluate(theta))
        s = s._replace(status=xp.where(s.status + maxiter > 0, s.status, MAXITER))
        if watch is not None:
            watch(s.tick, s.theta, s.jet.value, s.jet.gradient)
    return finish(xp.while_loop(lambda s: s.status == RUNNING, step, s))


def tick(
    s: State[P],
    evaluate: Evaluate[P],
    structures: tuple[Structure, ...],
    *,
    maxiter: int,
    tol: float,
) -> State[P]:
    """One evaluation of the criterion: propose a point, evaluate it, accept or shrink."""
    xp = namespace(s.theta)
    step = propose(s, structures, tol)
    stay = lambda: s.jet  # noqa: E731
    jet = xp.cond(step.settled, stay, lambda: evaluate(step.trial))
    return judge(s, step, jet, maxiter)


def finish(s: State[P]) -> Solution[P]:
    """The solution that a state has reached; the evaluation of the start is no step."""
    xp = namespace(s.theta)
    return Solution(s.theta, s.jet, s.status, xp.maximum(s.tick - 1, 0), s.decrement)


def first_state(theta: Array, evaluate: Evaluate[P]) -> State[P]:
    """State of a program in which nothing is known yet: the first tick evaluates the start itself.

    So the program holds one copy of the criterion, which halves its compile time.
    """
    return unknown_state(theta, jax.eval_shape(evaluate, theta))


def unknown_state(theta: Any, shapes: Any, axis: int = -1) -> State[Any]:
    """State before the first tick.

    Parameters
    ----------
    theta : Array, shape (m,) or (m, R)
        One start, or one for each of many lanes.
    shapes : tree
        Of shapes and types, those of the criterion at one theta.
    axis : {-1, 0}
        Of the lanes in the state.
    """
    xp, lanes = namespace(theta), theta.shape[1:]

    def zeros(leaf: Any) -> Any:
        at = len(leaf.shape) if axis else 0
        return xp.zeros((*leaf.shape[:at], *lanes, *leaf.shape[at:]), leaf.dtype)

    one = xp.ones(lanes, theta.dtype)
    return State(
        theta=theta if axis else xp.swapaxes(theta, 0, -1),
        jet=jax.tree.map(zeros, shapes)._replace(value=one * np.inf),
        radius=xp.maximum(one, xp.sqrt(xp.sum(theta * theta, axis=0))),
        lift=one,
        tick=xp.zeros(lanes, np.int32),
        status=xp.full(lanes, RUNNING, np.int32),
        decrement=one * np.inf,
    )


def state_at(theta: Array, jet: P) -> State[P]:
    """State whose start has been evaluated already."""
    xp = namespace(theta)
    one = xp.ones((), theta.dtype)
    finite = xp.isfinite(jet.value) & xp.all(xp.isfinite(jet.gradient))
    return State(
        theta=theta,
        jet=jet,
        radius=xp.maximum(one, xp.linalg.norm(theta)),
        lift=one,
        tick=xp.ones((), np.int32),
        status=xp.where(finite, RUNNING, NONFINITE).astype(np.int32),
        decrement=one * np.inf,
    )


def propose(s: State[P], structures: tuple[Structure, ...], tol: float) -> Step:
    """Next trial point: Newton with |eigenvalues|, plus escapes from saddles and corners."""
    xp = namespace(s.theta)
    at = coordinates(s.theta, s.jet, structures)
    g, hessian = at.gradient * at.units, at.hessian * at.units[:, None] * at.units[None]
    e, V = eigen(hessian)
    top = xp.maximum(xp.max(xp.abs(e)), _LEAST_BEND)
    along = xp.sum(V * g[:, None], axis=0)  # sums: elementwise where many lanes go side by side
    size = xp.maximum(xp.abs(e), _LEAST_SHARE * top)
    decrement = xp.sum(along**2 / size)
    flat = decrement < tol
    saddle = (decrement < _AT_REST) & (e[0] < -_CURVATURE_TOL * top)
    p = -xp.sum(V * (along / size)[None], axis=1)
    p = p + xp.where(saddle, _ESCAPE, 0.0) * V[:, 0] * xp.where(along[0] > 0, -1.0, 1.0)
    length = xp.linalg.norm(at.units * p)
    p = p * xp.minimum(1.0, s.radius / xp.maximum(length, np.finfo(p.dtype).tiny))
    bend = xp.sum(hessian * p[:, None] * p[None])
    predicted = -(xp.sum(g * p) + 0.5 * bend)
    known = xp.isfinite(s.jet.value)
    stay = lambda: (s.theta, xp.zeros((), s.theta.dtype))  # noqa: E731
    resting = known & flat & ~saddle
    lifted, gain = xp.cond(resting, lambda: _lift(s, structures), stay)
    lifting = resting & (gain > rounding(s.jet))
    p = at.units * p
    told = predicted > rounding(s.jet)
    rough = (decrement > _POLISHED * tol) & (decrement < _SLOW * s.decrement) & told
    final = known & flat & ~saddle & ~lifting & ~rough
    settled = final & (decrement < xp.minimum(_SETTLED, tol))
    moved = xp.where(lifting, lifted, move(s.theta, p, at, structures))
    return Step(
        trial=xp.where(known & ~settled, moved, s.theta),
        predicted=predicted,
        length=xp.minimum(length, s.radius),
        decrement=decrement,
        flat=flat,
        lifting=lifting,
        final=final,
        settled=settled,
    )


def rounding(jet: Point) -> Array:
    """Differences of the criterion below this mean nothing."""
    return _rounding_of_all(jet) + jet.noise


def _rounding_of_all(jet: Point) -> Array:
    """What every evaluation rounds, however well conditioned."""
    xp = namespace(jet.value)
    return _ROUNDING * np.finfo(jet.value.dtype).eps * (1.0 + xp.abs(jet.value))


def _lift(s: State[P], structures: tuple[Structure, ...]) -> tuple[Array, Array]:
    """Step off the boundary of the cone along the steepest feasible direction, and its gain.

    Where the derivative G of the criterion in Psi has a negative eigenvalue with
    eigenvector v, ``Psi + t v v'`` lowers the criterion although theta is
    stationary: the corner that a triangular factor has at a zero pivot.
    """
    xp = namespace(s.theta)
    gain = xp.zeros((), s.theta.dtype)
    if not s.jet.psi_gradients or not any(s.rotates for s in structures):
        return s.theta, gain
    parts = []
    for structure, at, G in zip(
        structures, theta_slices(structures), s.jet.psi_gradients, strict=True
    ):
        parts.append(s.theta[at])
        if not structure.rotates:
            continue  # no corner: Psi is linear in squares, the curvature in theta decides
        L = structure.factor(s.theta[at])
        e, V = eigen(G)
        cornered = xp.min(xp.abs(xp.diagonal(L))) < PIVOT_TOL
        found = cornered & (e[0] < -_SLOPE_TOL * xp.maximum(xp.max(xp.abs(e)), 1.0))
        v = V[:, 0]
        size = s.lift * _LIFT * (1.0 + xp.sum(xp.sum(L * v[:, None], axis=0) ** 2))
        raised = lower_factor(xp.concatenate([L, xp.sqrt(size) * v[:, None]], axis=1))
        parts[-1] = stack_theta([xp.where(found, raised, L)])
        gain = gain + xp.where(found, -e[0] * size, 0.0)
    return xp.concatenate(parts), gain


def certified(status: Any, jet: Point) -> Array:
    """The status, or ``NOISY`` where rounding of the criterion leaves nothing to be certain of."""
    xp = namespace(jet.value)
    ended = (status == CONVERGED) | (status == STALLED)
    lost = jet.noise > xp.maximum(PROMISE, _rounding_of_all(jet))  # float32 promises less
    return xp.where(ended & lost, NOISY, status).astype(np.int32)


def judge(s: State[P], step: Step, jet: P, maxiter: int, slack: float = 0.0) -> State[P]:
    """Accept or shrink, and say whether that was the last step.

    ``slack`` is what the criterion at the state may be too low by.
    """
    xp = namespace(s.theta)
    noise = rounding(jet)
    gain = s.jet.value - jet.value
    finite = xp.isfinite(jet.value) & xp.all(xp.isfinite(jet.gradient))
    small = step.predicted < noise
    first = s.tick == 0
    # rounding is a bound: near a singular V a loss far below it is a loss
    equal = gain > -xp.minimum(noise, xp.maximum(PROMISE, _rounding_of_all(jet)))
    good = finite & xp.where(
        step.lifting, gain > noise, (gain + slack > _TAKEN * step.predicted) | (small & equal)
    )
    good = good | (first & finite)
    ratio = gain / xp.maximum(step.predicted, noise)
    radius = xp.where(
        good,
        xp.where(ratio > _TRUSTED, xp.maximum(s.radius, _WIDER * step.length), s.radius),
        _NARROWER * step.length,
    )
    radius = xp.where(step.lifting | first, s.radius, radius)
    lift = xp.where(step.lifting & ~good, _LOWER * s.lift, s.lift)
    exhausted = s.tick >= maxiter
    # whether nothing is left to gain is told by the rounding at the state: that of a trial at
    # which V is nearly singular is no bound of it
    own = xp.where(first, noise, rounding(s.jet))
    nothing = step.predicted < own
    stuck = ~good & ~step.lifting & (nothing | (radius < _NO_STEP))
    # no step, along a direction of negative curvature or not, gains what the criterion rounds
    lowest = stuck & nothing & (step.flat | (step.decrement < _UNTOLD * own))
    status = xp.where(exhausted, MAXITER, RUNNING)
    status = xp.where(stuck, STALLED, status)
    status = xp.where(step.final | lowest, CONVERGED, status)
    new = xp.choose(good, jet, s.jet)
    status = certified(status, new)
    status = xp.where(first & ~finite, NONFINITE, status)
    return State(
        theta=xp.where(good, step.trial, s.theta),
        jet=new,
        radius=radius,
        lift=lift,
        tick=s.tick + 1,
        status=status.astype(np.int32),
        decrement=step.decrement,
    )
