"""Satterthwaite's degrees of freedom."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...numerics.namespace import namespace

# Degrees of freedom from which no variance is uncertain: where sigma is known and all random
# effects are zero, rounding of their derivatives is left.
_CERTAIN = 1e15


def satterthwaite_df(
    contrasts: np.ndarray,
    cov_beta: Any,
    dcov_beta: Any,
    joint_cov: Any,
) -> Any:
    """Degrees of freedom of the t statistics of contrasts ``l' beta``.

        df = 2 f^2 / (g' A g)      f = l' Phi l

    with ``Phi = sigma^2 (X' V^-1 X)^-1``, g the gradient of f in the variance
    parameters and A their asymptotic covariance. It depends neither on sigma^2 nor
    on the units of the columns of X, which are taken out: f^2 would leave the range
    of floats.

    Parameters
    ----------
    contrasts : ndarray, shape (r, p) or (..., r, p)
    cov_beta : Array, shape (..., p, p)
        ``(X' V^-1 X)^-1`` relative to sigma^2.
    dcov_beta : Array, shape (..., m, p, p)
        Its derivatives in theta.
    joint_cov : Array, shape (..., m + 1, m + 1)
        Covariance of theta and log sigma^2.

    Returns
    -------
    Array, shape (..., r)

    References
    ----------
    Kuznetsova, Brockhoff & Christensen (2017), doi:10.18637/jss.v082.i13.
    """
    xp = namespace(cov_beta, dcov_beta, joint_cov)
    unit = xp.sqrt(xp.diagonal(cov_beta, axis1=-2, axis2=-1))
    unit = xp.where(unit > 0, unit, 1.0)  # fixed effects that are held have no variance
    largest = np.abs(contrasts).max(axis=-1, keepdims=True, initial=0.0)
    rows = contrasts / np.where(largest > 0, largest, 1.0)
    rows = rows[(None,) * (unit.ndim + 1 - rows.ndim)] * unit[..., None, :]
    largest = xp.abs(rows).max(axis=-1, keepdims=True, initial=0.0)
    rows = rows / xp.where(largest > 0, largest, 1.0)
    square = unit[..., :, None] * unit[..., None, :]
    f = xp.sum(rows @ (cov_beta / square) * rows, axis=-1)
    lone = rows[..., None, :, :]
    in_theta = xp.sum(lone @ (dcov_beta / square[..., None, :, :]) * lone, axis=-1)
    g = xp.concatenate([in_theta, f[..., None, :]], axis=-2)  # d f / d log sigma^2 = f
    with np.errstate(divide="ignore", invalid="ignore"):
        df = 2.0 * f**2 / xp.sum(g * (joint_cov @ g), axis=-2)
    return xp.where(df > _CERTAIN, np.inf, df)
