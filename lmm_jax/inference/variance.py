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
from itertools import accumulate
from typing import Any

import numpy as np

from ..covariance.structures import Structure
from ..covariance.theta import theta_size, theta_slices
from ..covariance.triangles import lower_rows
from ..numerics.eigen import eigen_of_many
from ..numerics.namespace import namespace

# Curvature below this, relative to the largest, carries no information (lmerTest's rule).
FLAT_TOL = 1e-10
# Distance of a correlation from one that is rounding.
_ONE = 64 * float(np.finfo(float).eps)


def covariance_slices(covariances: Sequence[Any]) -> list[slice]:
    """Places of the lower triangle of every term among the covariance parameters."""
    sizes = [len(S) * (len(S) + 1) // 2 for S in covariances]
    return [slice(stop - size, stop) for size, stop in zip(sizes, accumulate(sizes), strict=True)]


def inverse_curvature(hessian: Any) -> Any:
    """``2 H^-1``, the asymptotic covariance of theta, for the Hessian H of -2 log L, (..., m, m).

    Directions without positive curvature get no variance: at a singular fit they
    are the parameters that the boundary holds.
    """
    xp = namespace(hessian)
    known = xp.isfinite(hessian).all(axis=(-2, -1), keepdims=True)
    hessian = xp.where(known, hessian, 0.0)
    e, V = eigen_of_many(0.5 * (hessian + xp.swapaxes(hessian, -1, -2)))
    largest = xp.abs(e).max(axis=-1, keepdims=True, initial=0.0)
    usable = e > FLAT_TOL * xp.maximum(largest, 1e-300)
    inverse = xp.where(usable, 1.0 / xp.where(usable, e, 1.0), 0.0)
    return xp.where(known, 2.0 * (V * inverse[..., None, :]) @ xp.swapaxes(V, -1, -2), np.nan)


def joint_covariance(cov_theta: Any, rho: Any, nu: Any) -> Any:
    """Asymptotic covariance of ``(theta, log sigma^2)``, (..., m + 1, m + 1)."""
    xp = namespace(cov_theta, rho)
    cross = cov_theta @ rho[..., None]
    last = 2.0 / nu + xp.sum(rho * cross[..., 0], axis=-1)
    above = xp.concatenate([cov_theta, cross], axis=-1)
    below = xp.concatenate([xp.swapaxes(cross, -1, -2), last[..., None, None]], axis=-1)
    return xp.concatenate([above, below], axis=-2)


def covariance_jacobian(
    theta: Any,
    whiteners: Sequence[Any],
    structures: Sequence[Structure],
    scale: Any,
) -> Any:
    """Derivative of the covariances of the data in ``(theta, tau)``.

    Parameters
    ----------
    theta : ndarray, shape (..., m)
        In the layout's coordinates.
    whiteners : sequence of ndarray, shape (..., k, k)
        Map to the coordinates of the data.
    structures : sequence of Structure
    scale : float or ndarray
        Residual variance.

    Returns
    -------
    ndarray, shape (..., n_cov + 1, m + 1)
        Rows: lower triangle of every term row by row, then the residual variance.
    """
    xp, m = namespace(theta), theta_size(structures)
    scale = xp.asarray(scale)[..., None, None]
    parts = []
    for s, A, at in zip(structures, whiteners, theta_slices(structures), strict=True):
        own, lower = theta[..., at], lower_rows(s.k)
        AL = A @ s.factor(own)
        tangents = s.tangents if s.linear else s.tangents_at(own)
        half = A[..., None, :, :] @ tangents @ xp.swapaxes(AL, -1, -2)[..., None, :, :]
        # A (E_j Lambda' + Lambda E_j') A', (..., m_t, k, k)
        both = half + xp.swapaxes(half, -1, -2)
        inside = scale * xp.swapaxes(both[..., *lower], -1, -2)
        last = (scale * AL @ xp.swapaxes(AL, -1, -2))[..., *lower][..., None]
        zeros = xp.zeros((*last.shape[:-1], m))
        parts.append([zeros[..., : at.start], inside, zeros[..., at.stop :], last])
    parts.append([xp.zeros((*scale.shape[:-1], m)), scale])
    return xp.concatenate([xp.concatenate(part, axis=-1) for part in parts], axis=-2)


def sdcor_jacobian(covariance: np.ndarray) -> np.ndarray:
    """Derivative of standard deviations and correlations in the covariances.

    Both run along the lower triangle row by row: the diagonal holds standard
    deviations, the rest correlations. NaN where a variance is zero or a correlation one.
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
            if 1.0 - abs(correlation) < _ONE:
                out[at] = np.nan  # what is left of the delta method is rounding, of either sign
                continue
            out[at, at] = 1.0 / (sd[i] * sd[j])
            out[at, position[i, i]] = -0.5 * correlation / covariance[i, i]
            out[at, position[j, j]] = -0.5 * correlation / covariance[j, j]
    return out


def touches_zero(S: np.ndarray) -> np.ndarray:
    """Entries of the lower triangle whose row or column has a zero variance."""
    zero = np.diagonal(S) == 0
    rows, columns = np.tril_indices(len(S))
    return zero[rows] | zero[columns]
