"""Which driver minimizes a layout, and the one where an evaluation is dear: steps from the host.

The same Newton machine as :mod:`lmm_jax.optimize.newton`. Far from the optimum it works
with the average information, which costs little beyond the gradient; the exact
Hessian is computed when the optimum is at hand, and decides whether it is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import Any

import jax
import numpy as np
from jax import Array

from ..covariance.structures import Structure
from ..errors import DataError
from ..layouts.contract import Layout
from ..likelihood.profile import profile_jet
from ..numerics.devices import on_processor
from ..numerics.inverses import LOST_ROUGHLY
from ..numerics.namespace import NUMPY, namespace
from ..numerics.programs import compiled
from ..numerics.tiers import note, staying_on
from .history import Recorder
from .minimize import minimize
from .newton import (
    CONVERGED,
    DECREMENT_TOL,
    MAXITER,
    NONFINITE,
    RUNNING,
    Solution,
    certified,
    finish,
    judge,
    propose,
    state_at,
)
from .point import State, Step
from .shared_columns import narrowed, outline, widened

# Decrement below which the next evaluation is likely to be the last, and so is exact.
_NEAR = 1e-2
# Columns of a core up to which exact second derivatives cost an accelerator less than the
# compilation of a program without them.
_EXACT_COLUMNS = 4096
# Steps that may be rough: a fit with ordinary variances takes two or three.
_ROUGH_STEPS = 5
# Decrement from which one step on the exact Hessian ends so near that the criterion, squares of
# the step apart, is what its derivatives say: the decrement there is about this squared.
_CLOSE = 1e-7


# Logarithm of sigma where it is reported over that where it was sought, up to which squares of
# squares of both stay in the range of floats.
_FARTHEST = 200.0

_minimize = compiled(minimize, static="reml", host=lambda layout: layout.host_seconds())
_jet = compiled(profile_jet, static=("reml", "exact"), host=6e-8)
_start = compiled(lambda layout: layout.start_moments(), host=1e-8)


def descend(layout: Layout, start: Array | None = None, **options: Any) -> Solution:
    """Optimum of a layout by the driver that suits it; see :func:`minimize`."""
    moved = layout.recentred()
    if moved is None:
        return _descend(layout, start, **options)
    near, coordinates = moved
    inner: Any = None if start is None else coordinates.inward(np.asarray(start))
    found = _descend(near, inner, **options)
    theta: Any = coordinates.outward(np.asarray(found.theta))
    host = jax.tree.map(np.asarray, layout)
    with np.errstate(all="ignore"):
        jet = profile_jet(theta, host, reml=options["reml"])
    place, c = coordinates.reference or (0, 0.0)
    far = abs(c * found.theta[place]) > _FARTHEST if c else False
    if np.isfinite(found.jet.value) and (far or not np.isfinite(jet.value)):
        raise DataError(
            "sigma, the standard deviation of residuals where the covariate of power() is 1 or "
            "that of expo() is 0, leaves the range of floats: divide the covariate of power() by "
            "its mean, or subtract it from that of expo(), power(x / 1000), expo(x - 1000)"
        )
    return found._replace(theta=theta, jet=jax.tree.map(np.asarray, jet))


def _descend(layout: Layout, start: Array | None, **options: Any) -> Solution:
    if layout.is_dear():
        return minimize_staged(layout, start, **options)
    like = outline(layout, reml=options["reml"])
    if _minimize.takes_numpy(like, start, **options):
        found: Solution = _minimize.at_once(layout, start, counted=like, **options)
        return found
    wide = widened(layout, reml=options["reml"])
    return narrowed(_minimize(wide, start, **options), layout.beta_origin.shape[0])


def minimize_staged(
    layout: Layout,
    start: Array | None = None,
    *,
    reml: bool,
    maxiter: int,
    tol: float = DECREMENT_TOL,
    watch: Recorder | None = None,
) -> Solution:
    """Optimum from one start, moment estimates if none is given.

    Parameters
    ----------
    layout : Layout
    start : Array, shape (m,), optional
        In the layout's coordinates.
    reml : bool
    maxiter : int
        Limit on the number of steps.
    tol : float
        Newton decrement, in deviance units, below which a point is stationary.
    watch : Recorder, optional
        Notes the start and every step, as they were made.

    Returns
    -------
    Solution
        ``CONVERGED`` rests on exact derivatives, as in :func:`lmm_jax.optimize.newton.newton`.
    """
    theta: Any = np.asarray(_start(layout) if start is None else start)
    always = _exact_costs_little(layout)
    exact = maxiter == 0 or always  # whether the curvature at s is
    evaluate, seen = _Criterion(layout, theta, reml=reml, exact=exact), 0
    with evaluate.running():
        s = state_at(theta, evaluate(theta, exact))
        if maxiter == 0 and int(s.status) == RUNNING:
            s = s._replace(status=_code(MAXITER))
        while True:
            if watch is not None and int(s.tick) > seen:
                seen = int(s.tick)
                watch(s.tick, s.theta, s.jet.value, s.jet.gradient)
            if int(s.status) != RUNNING:
                break
            old, theta = exact, s.theta
            s, exact = _advance(s, exact, always, evaluate, layout.structures, maxiter, tol)
            failed = not old and not (s.theta != theta).any()
            if evaluate.rough and (failed or int(s.tick) > _ROUGH_STEPS):
                evaluate.rough = False
                if not exact and int(s.status) == RUNNING:
                    s = s._replace(jet=evaluate(s.theta, exact=False))
        if not exact and int(s.status) == MAXITER:
            s = s._replace(jet=evaluate(s.theta, exact=True))
    return narrowed(finish(s), layout.beta_origin.shape[0])


class _Criterion:
    """The criterion of a large layout at one theta after the other, in one runtime."""

    @np.errstate(all="ignore")
    def __init__(self, layout: Layout, theta: Any, *, reml: bool, exact: bool) -> None:
        like = outline(layout.known_at(theta), reml=reml)
        self._first = partial(_jet.spend, theta=theta, layout=like, reml=reml, exact=exact)
        self._by_numpy = _jet.takes_numpy(**self._first.keywords)
        self._layout: Layout
        self._reml = reml
        if self._by_numpy:
            self._layout = jax.tree.map(np.asarray, layout).with_sums()
        else:
            self._layout = jax.device_put(widened(layout, reml=reml))  # once for all evaluations
        # whether six digits will do where it is not exact: while steps succeed
        self.rough = self._by_numpy and self._layout.known_at(theta, rough=True).rough

    def __call__(self, theta: Any, exact: bool) -> Any:
        """The jet; a few numbers, and what the optimizer does with them is nothing for a device."""
        at = self._layout.known_at(theta, rough=self.rough and not exact)
        evaluate = profile_jet if self._by_numpy else _jet
        found = evaluate(theta=theta, layout=at, reml=self._reml, exact=exact)
        return jax.tree.map(np.asarray, found)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Context of its evaluations, whose time counts for the choice of a runtime."""
        began = perf_counter()
        with staying_on("numpy" if self._by_numpy else "jax"), np.errstate(all="ignore"):
            yield
        if self._by_numpy:
            note("numpy")
            self._first(perf_counter() - began)


def _exact_costs_little(layout: Layout) -> bool:
    """Whether every evaluation may have exact second derivatives: there is one program then."""
    on_host = namespace(layout) is NUMPY or on_processor()
    shape = getattr(layout, "shape", None)
    return not on_host and shape is not None and shape[0] <= _EXACT_COLUMNS


def _advance(
    s: State,
    exact: bool,
    always: bool,
    evaluate: _Criterion,
    structures: tuple[Structure, ...],
    maxiter: int,
    tol: float,
) -> tuple[State, bool]:
    """One step, or exact curvature where the optimum seems to be; and whether it is exact."""
    step = propose(s, structures=structures, tol=tol)
    if exact and _is_last(step, tol):
        if _is_bent(s, step):
            return _follow(s, step), True
        if bool(step.final):
            return _arrived(s, step, evaluate(step.trial, exact=True)), True
    if bool(step.final):
        if exact:
            status = certified(CONVERGED, s.jet)
            return s._replace(status=status, decrement=step.decrement), True
        return s._replace(jet=evaluate(s.theta, exact=True)), True
    near = always or float(step.decrement) < _NEAR
    slack = LOST_ROUGHLY if evaluate.rough and not exact and not bool(step.lifting) else 0.0
    new = judge(s, step, evaluate(step.trial, exact=near), maxiter, slack)
    moved = bool((new.theta != s.theta).any())
    exact = near if moved else exact
    if not exact and int(new.status) not in (RUNNING, NONFINITE, MAXITER):
        # no step helps, as far as the average information can tell
        return new._replace(jet=evaluate(new.theta, exact=True), status=_code(RUNNING)), True
    return new, exact


def _is_last(step: Step, tol: float) -> bool:
    """Whether a step is short and plain Newton: positive curvature, no saddle, no corner."""
    decrement = float(step.decrement)
    plain = abs(float(step.predicted) - 0.5 * decrement) < 1e-3 * decrement
    return plain and not bool(step.lifting) and decrement < min(_CLOSE, tol**0.5)


def _is_bent(s: State, step: Step) -> bool:
    """Whether the curvature in every direction is more than what is left of the gradient makes.

    Along a curve on which the criterion does not change the Hessian sees that gradient alone.
    """
    size = 1.0 + np.abs(s.theta)
    e = np.abs(np.linalg.eigvalsh(s.jet.hessian * size[:, None] * size))
    return bool(e.min() > (float(step.decrement) * e.max()) ** 0.5)


def _follow(s: State, step: Step) -> State:
    """The end of the last step without an evaluation: the profile continued to first order."""
    xp, move = namespace(s.theta), step.trial - s.theta
    at = s.jet.profile
    profile = at._replace(
        deviance=s.jet.value - step.predicted,
        beta=at.beta + move @ s.jet.dbeta,
        scale=at.scale * xp.exp(move @ s.jet.dlog_scale),
        cov_beta=at.cov_beta + xp.tensordot(move, s.jet.dcov_beta, 1),
    )
    return _arrived(s, step, s.jet._replace(value=profile.deviance, profile=profile))


def _arrived(s: State, step: Step, jet: Any) -> State:
    """The end of the last step, with the criterion there."""
    return s._replace(
        theta=step.trial,
        jet=jet,
        tick=s.tick + 1,
        status=certified(CONVERGED, jet),
        decrement=step.decrement,
    )


def _code(status: int) -> Any:
    return np.full((), status, np.int32)
