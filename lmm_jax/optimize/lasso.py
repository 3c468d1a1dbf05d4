"""L1-penalized least squares by coordinate descent on the gram matrix, in NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular

# Sweeps between two direct solutions while signs still change.
_PATIENCE = 3


class Quadratic(NamedTuple):
    """The generalized sum of squares around the GLS estimate, in units of the deviance.

    Coefficients are measured in their conditional standard deviations ``1 / sqrt(H_jj)``:
    ``v = unit * (beta - b)`` and ``(beta - b)' H (beta - b) = |A v|^2``.
    """

    A: np.ndarray  # (p, p)  columns of length one
    R: np.ndarray  # (p, p)  A'A
    centre: np.ndarray  # (p,)  b in these units
    unit: np.ndarray  # (p,)  sqrt(H_jj)


class Descent(NamedTuple):
    """A point of the penalized problem."""

    v: np.ndarray  # (p,)
    sign: np.ndarray  # (p,)  of the coefficient; 0: it is exactly zero
    kkt: float  # largest relative violation of the optimality conditions
    n_iter: int


def descend_removing(
    quadratic: Quadratic, alpha: np.ndarray, start: Descent, *, ceps: float, tol: float, maxit: int
) -> Descent:
    """Descend, then remove coefficients below ``ceps`` until there are none."""
    half = 0.5 * alpha / quadratic.unit
    kept = np.ones(alpha.size, dtype=bool)
    at = descend(quadratic, half, start, kept, tol=tol, maxit=maxit)
    while ceps > 0:
        size = np.abs(quadratic.centre + at.v) / quadratic.unit
        small = kept & (alpha > 0) & (at.sign != 0) & (size < ceps)
        if not small.any():
            break
        kept = kept & ~small
        at = descend(quadratic, half, at, kept, tol=tol, maxit=maxit)
    return at


def descend(
    quadratic: Quadratic,
    half: np.ndarray,
    start: Descent,
    kept: np.ndarray,
    *,
    tol: float,
    maxit: int,
) -> Descent:
    """Minimize ``|A v|^2 + 2 sum_j half_j |centre_j + v_j|``.

    Parameters
    ----------
    quadratic : Quadratic
    half : ndarray, shape (p,)
        Half the weights; 0 for a coefficient that is not penalized.
    start : Descent
    kept : ndarray of bool, shape (p,)
        Coefficients that are not held at zero.
    tol : float
        Relative violation of the optimality conditions at which to stop.
    maxit : int
        Limit on sweeps.

    Returns
    -------
    Descent

    Notes
    -----
    Every step lowers the objective. Once a sweep leaves the signs as they are,
    the linear system of the coefficients with these signs is solved; one that would
    pass zero on the way stays there.
    """
    v = np.where(kept, start.v, -quadratic.centre)
    sign = np.where(kept, start.sign, 0.0)
    kkt, n_iter = np.inf, 0
    while kkt > tol and n_iter < maxit:
        before = sign
        v, sign = _sweep(quadratic, half, v, kept)
        n_iter += 1
        if np.array_equal(sign, before) or n_iter % _PATIENCE == 0:
            v, sign = _solve_signs(quadratic, half, v, sign, kept)
            kkt = _violation(quadratic, half, v, sign, kept)
    return Descent(v=v, sign=sign, kkt=kkt, n_iter=n_iter)


def _sweep(
    quadratic: Quadratic, half: np.ndarray, v: np.ndarray, kept: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Minimize over one coefficient after the other: soft thresholding."""
    R, centre = quadratic.R, quadratic.centre
    v, sign = v.copy(), np.zeros(v.size)
    slope = R @ v  # half the gradient of the sum of squares
    for j in np.flatnonzero(kept):
        rest = slope[j] - v[j]
        target = centre[j] - rest
        if abs(target) <= half[j] and half[j] > 0:
            new = -centre[j]
        else:
            sign[j] = 1.0 if target > 0 else -1.0
            new = -rest - half[j] * sign[j]
        if new != v[j]:
            slope += (new - v[j]) * R[j]
            v[j] = new
    return v, sign


def _solve_signs(
    quadratic: Quadratic,
    half: np.ndarray,
    v: np.ndarray,
    sign: np.ndarray,
    kept: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Minimize over the coefficients that are not zero, leaving at zero what would pass it."""
    while True:
        on = kept & ((sign != 0) | (half == 0))
        target = _stationary(quadratic, half * sign, v, on)
        old, new = quadratic.centre + v, quadratic.centre + target
        passes = on & (half > 0) & (new * sign <= 0)
        if not passes.any():
            return target, sign
        fraction = np.full(v.size, np.inf)
        travel = np.where(old == new, 1.0, old - new)
        fraction[passes] = np.clip(old[passes] / travel[passes], 0.0, 1.0)
        first = fraction == fraction.min()
        v = np.where(first, -quadratic.centre, v + fraction.min() * (target - v))
        sign = np.where(first, 0.0, sign)


def _stationary(
    quadratic: Quadratic, pull: np.ndarray, v: np.ndarray, on: np.ndarray
) -> np.ndarray:
    """Minimizer of ``|A v|^2 + 2 pull' v`` over some entries, the others as they are."""
    if not on.any():
        return v
    Q, U = np.linalg.qr(quadratic.A[:, on])
    along = Q.T @ (quadratic.A[:, ~on] @ v[~on]) + solve_triangular(U, pull[on], trans="T")
    out = v.copy()
    out[on] = -solve_triangular(U, along)
    return out


def _violation(
    quadratic: Quadratic,
    half: np.ndarray,
    v: np.ndarray,
    sign: np.ndarray,
    kept: np.ndarray,
) -> float:
    """Distance of 0 from the subgradient, relative to what bounds its two parts."""
    away = quadratic.A @ v
    slope = quadratic.A.T @ away
    size = 1.0 + half + np.linalg.norm(away)
    at_zero = (sign == 0) & (half > 0)
    beyond = np.maximum(np.abs(slope) - half, 0.0)
    distance = np.where(at_zero, beyond, np.abs(slope + half * sign))
    return float(np.max(np.where(kept, distance / size, 0.0), initial=0.0))
