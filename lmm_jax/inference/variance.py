"""Covariance of the variance parameters from the curvature of the profiled criterion.

The free parameters are theta and ``tau = log sigma^2``. Profiling tau out leaves
the Hessian H of the criterion (-2 log L) in theta; with ``rho = d log r^2 / d theta``

    cov(theta) = 2 H^-1 = C      cov(theta, tau) = C rho      var(tau) = 2 / nu + rho' C rho

which is the inverse of the joint observed information. Smooth functions of
(theta, tau) follow by the delta method, exactly as if the information had been
taken in their own coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..covariance.structures import Structure, lower_rows
from ..covariance.theta import theta_slices

if TYPE_CHECKING:
    from .estimates import Estimates

# Curvature below this, relative to the largest, carries no information (lmerTest's rule).
FLAT_TOL = 1e-10


def inverse_curvature(hessian: np.ndarray) -> np.ndarray:
    """``2 H^-1``, the asymptotic covariance of theta, for the Hessian H of -2 log L, (..., m, m).

    Directions without positive curvature get no variance: at a singular fit they
    are the parameters that the boundary holds.
    """
    e, V = np.linalg.eigh(0.5 * (hessian + np.swapaxes(hessian, -1, -2)))
    largest = np.abs(e).max(axis=-1, keepdims=True, initial=0.0)
    usable = e > FLAT_TOL * np.maximum(largest, 1e-300)
    inverse = np.where(usable, 1.0 / np.where(usable, e, 1.0), 0.0)
    return 2.0 * (V * inverse[..., None, :]) @ np.swapaxes(V, -1, -2)


def joint_covariance(cov_theta: np.ndarray, rho: np.ndarray, nu: float) -> np.ndarray:
    """Asymptotic covariance of ``(theta, log sigma^2)``, (m + 1, m + 1)."""
    cross = cov_theta @ rho
    out = np.empty((rho.size + 1, rho.size + 1))
    out[:-1, :-1] = cov_theta
    out[:-1, -1] = out[-1, :-1] = cross
    out[-1, -1] = 2.0 / nu + rho @ cross
    return out


def covariance_jacobian(
    theta: np.ndarray,
    whiteners: Sequence[np.ndarray],
    structures: Sequence[Structure],
    scale: float,
) -> np.ndarray:
    """Derivative of the covariances of the data in ``(theta, tau)``.

    Parameters
    ----------
    theta : ndarray, shape (m,)
        In the layout's coordinates.
    whiteners : sequence of ndarray, shape (k, k)
        Map to the coordinates of the data.
    structures : sequence of Structure
    scale : float
        Residual variance.

    Returns
    -------
    ndarray, shape (n_cov + 1, m + 1)
        Rows: lower triangle of every term row by row, then the residual variance.
    """
    m = theta.size
    rows = []
    for structure, A, at in zip(structures, whiteners, theta_slices(structures), strict=True):
        lower = lower_rows(structure.k)
        AL = A @ structure.factor(theta[at])
        half = A @ structure.tangents @ AL.T  # A E_j Lambda' A', (m_t, k, k)
        block = np.zeros((lower[0].size, m + 1))
        block[:, at] = (scale * (half + np.swapaxes(half, 1, 2)))[:, lower[0], lower[1]].T
        block[:, m] = scale * (AL @ AL.T)[lower]
        rows.append(block)
    last = np.zeros((1, m + 1))
    last[0, m] = scale
    return np.concatenate([*rows, last])


def sdcor_jacobian(covariance: np.ndarray) -> np.ndarray:
    """Derivative of standard deviations and correlations in the covariances.

    Both run along the lower triangle row by row: the diagonal holds standard
    deviations, the rest correlations. NaN where a variance is zero.
    """
    k = covariance.shape[0]
    rows, columns = np.tril_indices(k)
    position = {(int(i), int(j)): n for n, (i, j) in enumerate(zip(rows, columns, strict=True))}
    sd = np.sqrt(np.diagonal(covariance))
    out = np.zeros((rows.size, rows.size))
    with np.errstate(divide="ignore", invalid="ignore"):
        for (i, j), at in position.items():
            if i == j:
                out[at, at] = 0.5 / sd[i]
                continue
            correlation = covariance[i, j] / (sd[i] * sd[j])
            out[at, at] = 1.0 / (sd[i] * sd[j])
            out[at, position[i, i]] = -0.5 * correlation / covariance[i, i]
            out[at, position[j, j]] = -0.5 * correlation / covariance[j, j]
    return out


def relative_covariance(estimates: Estimates) -> tuple[np.ndarray, np.ndarray]:
    """A unit of every parameter and the covariance of all of them in these units.

    Returns
    -------
    unit : ndarray, shape (K,)
    relative : ndarray, shape (K, K)
    """
    e, p = estimates, estimates.beta.size
    sd = np.sqrt(np.diagonal(e.cov_beta))
    unit = np.concatenate([np.sqrt(e.scale) * sd, e.variance_unit[:-1]])
    sd = np.where(sd > 0, sd, 1.0)
    relative = np.zeros((unit.size, unit.size))
    relative[:p, :p] = e.cov_beta / np.outer(sd, sd)
    relative[p:, p:] = e.cov_variance[:-1, :-1]
    return unit, relative


def touches_zero(S: np.ndarray) -> np.ndarray:
    """Entries of the lower triangle whose row or column has a zero variance."""
    zero = np.diagonal(S) == 0
    rows, columns = np.tril_indices(len(S))
    return zero[rows] | zero[columns]
