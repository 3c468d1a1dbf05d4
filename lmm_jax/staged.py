"""Minimization where one evaluation is dear: steps driven from the host.

The same Newton machine as :mod:`lmm_jax.newton`. Far from the optimum it works
with the average information, which costs little beyond the gradient; the exact
Hessian is computed when the optimum is at hand, and decides whether it is one.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array

from .layouts.waist import Layout
from .likelihood import profile_jet
from .newton import (
    CONVERGED,
    DECREMENT_TOL,
    MAXITER,
    NONFINITE,
    RUNNING,
    Solution,
    finish,
    judge,
    propose,
    state_at,
)
from .programs import compiled

# Decrement below which the next evaluation is likely to be the last, and so is exact.
_NEAR = 1e-2
# Decrement of a step so short that the exact Hessian is the same at both of its ends.
_SAME = 1e-6

_jet = compiled(profile_jet, static=("reml", "exact"))
_start = compiled(lambda layout: layout.start_moments())
_propose = compiled(propose, static="sizes")
_judge = compiled(judge)


def minimize_staged(
    layout: Layout,
    start: Array | None = None,
    *,
    reml: bool,
    maxiter: int,
    tol: float = DECREMENT_TOL,
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

    Returns
    -------
    Solution
        ``CONVERGED`` rests on exact derivatives, as in :func:`lmm_jax.newton.newton`.
    """
    evaluate = partial(_jet, layout=layout, reml=reml)
    theta = _start(layout) if start is None else jnp.asarray(start)
    exact = maxiter == 0  # whether the curvature at s is
    s = state_at(theta, evaluate(theta, exact=exact))
    if exact and int(s.status) == RUNNING:
        s = s._replace(status=_code(MAXITER))
    while int(s.status) == RUNNING:
        step = _propose(s, sizes=layout.sizes, tol=tol)
        settled = bool(step.final)
        if settled and exact:
            s = s._replace(status=_code(CONVERGED), decrement=step.decrement)
            break
        if settled:
            s, exact = s._replace(jet=evaluate(s.theta, exact=True)), True
            continue
        near = float(step.decrement) < _NEAR
        if exact and float(step.decrement) < _SAME:
            jet = evaluate(step.trial, exact=False)._replace(hessian=s.jet.hessian)
        else:
            jet = evaluate(step.trial, exact=near)
        new = _judge(s, step, jet, maxiter)
        moved = bool(jnp.any(new.theta != s.theta))
        exact = near if moved else exact
        if not exact and int(new.status) not in (RUNNING, NONFINITE, MAXITER):
            # no step helps, as far as the average information can tell
            new = new._replace(jet=evaluate(new.theta, exact=True), status=_code(RUNNING))
            exact = True
        s = new
    if not exact and int(s.status) == MAXITER:
        s = s._replace(jet=evaluate(s.theta, exact=True))
    return finish(s)


def _code(status: int) -> Any:
    return jnp.full((), status, jnp.int32)
