"""Satterthwaite's degrees of freedom."""

from __future__ import annotations

import numpy as np


def satterthwaite_df(
    contrasts: np.ndarray,
    cov_beta: np.ndarray,
    dcov_beta: np.ndarray,
    joint_cov: np.ndarray,
    scale: float,
) -> np.ndarray:
    """Degrees of freedom of the t statistics of contrasts ``l' beta``.

        df = 2 f^2 / (g' A g)      f = l' Phi l

    with ``Phi = sigma^2 (X' V^-1 X)^-1``, g the gradient of f in the variance
    parameters and A their asymptotic covariance.

    Parameters
    ----------
    contrasts : ndarray, shape (r, p)
    cov_beta : ndarray, shape (p, p)
        ``(X' V^-1 X)^-1`` relative to sigma^2.
    dcov_beta : ndarray, shape (m, p, p)
        Its derivatives in theta.
    joint_cov : ndarray, shape (m + 1, m + 1)
        Covariance of theta and log sigma^2.
    scale : float
        sigma^2.

    Returns
    -------
    ndarray, shape (r,)

    References
    ----------
    Kuznetsova, Brockhoff & Christensen (2017), doi:10.18637/jss.v082.i13.
    """
    f = scale * np.einsum("ra,ab,rb->r", contrasts, cov_beta, contrasts)
    in_theta = scale * np.einsum("ra,kab,rb->rk", contrasts, dcov_beta, contrasts)
    g = np.concatenate([in_theta, f[:, None]], axis=1)  # d f / d log sigma^2 = f
    with np.errstate(divide="ignore", invalid="ignore"):
        return 2.0 * f**2 / np.einsum("ra,ab,rb->r", g, joint_cov, g)
