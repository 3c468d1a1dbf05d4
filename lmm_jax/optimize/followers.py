"""Runs from several starts: one that goes where another has ended is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..covariance.structures import Structure
from ..covariance.theta import theta_slices
from ..covariance.triangles import lower_indices
from ..numerics.stacked import Stacked, filled
from .newton import CONVERGED, FOLLOWED, RUNNING, Solution
from .point import State

# d' H* d of an optimum, twice the square of a distance in standard errors, within which a run may
# follow; the share of it that its own step may miss by; and that by which its value may differ.
_AROUND, _MISSED, _HIGHER = 0.5, 0.1, 0.5
# Differences of the criterion that tell nothing.
_UNTOLD = 1e-6


def without_followers(s: State[Any], structures: tuple[Structure, ...]) -> State[Any]:
    """The state of runs that are lanes of one criterion, fewer of them running.

    With theta* the lowest optimum that one of these runs has reached, H* the Hessian there,
    ``d = theta* - theta``, ``D = d' H* d``, and p the Newton step of a run at theta, it follows if

        D < 0.5        (p - d)' H* (p - d) < 0.1 D        |f - f* - D / 2| < 0.5 D / 2

    and its own Hessian is positive definite: its step leads to theta*, from a place where the
    criterion is what it is around theta*. It ends ``FOLLOWED`` and is never chosen, since theta*
    is at least as good.

    Parameters
    ----------
    s : State
        Of which theta at least is :class:`lmm_jax.numerics.stacked.Stacked`.
    structures : tuple of Structure

    Returns
    -------
    State
    """
    theta: Any = s.theta
    R = theta.lanes.shape[-1]
    status, values = filled(s.status, R), filled(s.jet.value, R)
    running = np.flatnonzero(status == RUNNING)
    ended = np.where(status == CONVERGED, values, np.inf)
    best = int(np.argmin(ended))
    if not running.size or np.isinf(ended[best]):
        return s
    signs = _signs(theta.lanes, structures)
    hessians = signs[:, None] * signs[None] * filled(s.jet.hessian, R)
    gradients = signs * filled(s.jet.gradient, R)
    follows = running[_lead_to(best, running, signs * theta.lanes, values, gradients, hessians)]
    if not follows.size:
        return s
    status = status.copy()
    status[follows] = FOLLOWED
    lanes: Any = Stacked(status)
    return s._replace(status=lanes)


def ends_at_known(
    found: list[Solution], structures: tuple[Structure, ...]
) -> Callable[[State[Any]], State[Any]]:
    """What becomes of the state of one run, of NumPy, after a step: it ends if it follows.

    Parameters
    ----------
    found : list of Solution
        Of other runs. One that goes to any of them, as in :func:`without_followers`, is done:
        the best is among them.
    structures : tuple of Structure
    """

    def after(s: State[Any]) -> State[Any]:
        reached = [other for other in found if int(other.status) == CONVERGED]
        if int(s.status) != RUNNING or not reached:
            return s
        points: list[Any] = [*reached, s]
        thetas = np.stack([point.theta for point in points], axis=-1)
        values, gradients, hessians = (
            np.stack([getattr(point.jet, name) for point in points], axis=-1)
            for name in ("value", "gradient", "hessian")
        )
        signs = _signs(thetas, structures)
        at = signs * thetas, values, signs * gradients, signs[:, None] * signs[None] * hessians
        run = np.array([len(reached)])
        follows = any(_lead_to(i, run, *at)[0] for i in range(len(reached)))
        done: Any = np.int32(FOLLOWED)
        return s._replace(status=done) if follows else s

    return after


def _lead_to(
    best: int,
    runs: np.ndarray,
    thetas: np.ndarray,
    values: np.ndarray,
    gradients: np.ndarray,
    hessians: np.ndarray,
) -> np.ndarray:
    """Which of some runs, (n,), lead to where run ``best`` is; arrays have all R runs last."""
    found = np.zeros(runs.size, bool)
    try:
        root = np.linalg.cholesky(hessians[..., best])
    except np.linalg.LinAlgError:
        return found  # flat: no distance tells anything
    d = thetas[:, best, None] - thetas[:, runs]
    D = np.sum((root.T @ d) ** 2, axis=0)
    gap = values[runs] - values[best]
    near = (D < _AROUND) & (gap >= 0) & (np.abs(gap - D / 2) < _HIGHER * D / 2 + _UNTOLD)
    near &= np.isfinite(hessians[..., runs]).all(axis=(0, 1))
    e, V = np.linalg.eigh(np.moveaxis(hessians[..., runs[near]], -1, 0))
    up = e[:, 0] > 0
    at, e, V = np.flatnonzero(near)[up], e[up], V[up]
    p = -np.einsum("rij,rj->ir", V, np.einsum("rij,ir->rj", V, gradients[:, runs[at]]) / e)
    found[at] = np.sum((root.T @ (p - d[:, at])) ** 2, axis=0) < _MISSED * D[at]
    return found


def _signs(theta: np.ndarray, structures: tuple[Structure, ...]) -> np.ndarray:
    """Signs of entries, (m, R), with which columns of Lambda have pivots that are not negative.

    The criterion is even in every column: thetas that differ in their signs are one.
    """
    signs = np.ones_like(theta)
    for structure, at in zip(structures, theta_slices(structures), strict=True):
        if structure.unrestricted:
            columns = lower_indices(structure.k)[1]
            pivots = theta[at][structure.pivots]
            signs[at] = np.where(pivots < 0, -1.0, 1.0)[columns]
    return signs
