"""Runs from several starts side by side: one that goes where another has ended is at its end."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..covariance.structures import Structure
from ..covariance.theta import theta_slices
from ..numerics.stacked import Stacked, filled
from .newton import CONVERGED, RUNNING, STALLED
from .point import State

# Squared distance to an optimum, in units of the deviance, from which a run may be known to go
# there; and the share of it that Newton's step may miss, by its own model at the optimum.
_AROUND, _MISSED = 0.5, 0.1


def without_followers(s: State[Any], structures: tuple[Structure, ...]) -> State[Any]:
    """The state of runs that are lanes of one criterion, fewer of them running.

    With theta* the lowest optimum that a run has reached, H* the Hessian there and
    ``d = theta* - theta``, a run at theta with the gradient g and the Hessian H follows if

        d' H* d < 0.5        r' H*^-1 r < 0.1 d' H* d        r = g + H d

    which says that theta* is near and that its own step leads there, r being what its model takes
    the gradient at theta* for; and if its value is no lower. It ends ``STALLED``, and is never
    chosen, since the optimum is at least as good.
    """
    status = filled(s.status, _count(s))
    running, values = np.flatnonzero(status == RUNNING), filled(s.jet.value, status.size)
    ended = np.where(status == CONVERGED, values, np.inf)
    best = int(np.argmin(ended))
    if not running.size or np.isinf(ended[best]):
        return s
    theta, H = filled(s.theta, status.size), filled(s.jet.hessian, status.size)
    alike = _same_signs(theta, structures)
    flip = np.where(alike * theta < 0, -1.0, 1.0)
    at_best = flip[:, None, best] * flip[None, :, best] * H[..., best]
    try:
        root = np.linalg.cholesky(at_best)
    except np.linalg.LinAlgError:
        return s  # flat: no distance tells anything
    d, own = alike[:, best, None] - alike[:, running], flip[:, running]
    g = filled(s.jet.gradient, status.size)[:, running]
    r = own * (g + np.einsum("ijr,jr->ir", H[..., running], own * d))
    near = np.sum((root.T @ d) ** 2, axis=0)
    missed = np.sum(np.linalg.solve(root, r) ** 2, axis=0)
    follows = (near < _AROUND) & (missed < _MISSED * near) & (values[running] >= values[best])
    if not follows.any():
        return s
    status = status.copy()
    status[running[follows]] = STALLED
    lanes: Any = Stacked(status)
    return s._replace(status=lanes)


def _count(s: State[Any]) -> int:
    theta: Any = s.theta
    return int(theta.lanes.shape[-1])


def _same_signs(theta: np.ndarray, structures: tuple[Structure, ...]) -> np.ndarray:
    """Theta (m, R) with the signs that a report has, so that equal covariances are equal."""
    parts = zip(structures, theta_slices(structures), strict=True)
    return np.concatenate([s.canonical(theta[at].T).T for s, at in parts])
