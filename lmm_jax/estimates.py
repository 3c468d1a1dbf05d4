"""From the optimizer's answer, in the layout's coordinates, to estimates of the data's.

Host arithmetic on arrays of the size of the parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .covariance import lower_indices, rectify_signs, theta_slices
from .inference.variance import covariance_jacobian, joint_covariance
from .layouts.grouped import GroupedLayout
from .newton import Solution

# Whitened pivots below the first are zero for all purposes (they move the deviance by
# less than its square); below the second the fit counts as singular, as in lme4.
_ZERO_PIVOT = 1e-5
_SINGULAR_TOL = 1e-4


class Estimates(NamedTuple):
    """Everything that a fit determines, as NumPy arrays in the units of the data."""

    theta: np.ndarray  # (m,)  lme4's theta: relative factors of the data, diagonals >= 0
    factors: tuple[np.ndarray, ...]  # (k, k) a term: Lambda in the coordinates of the data
    covariances: tuple[np.ndarray, ...]  # (k, k) a term: sigma^2 Lambda Lambda'
    scale: float  # sigma^2
    beta: np.ndarray  # (p,)
    beta_low: np.ndarray  # (p,)  beta less the mean of y that was taken out first
    beta_shift: np.ndarray  # (p,)
    cov_beta: np.ndarray  # (p, p)  (X' V^-1 X)^-1, relative to sigma^2
    dcov_beta: np.ndarray  # (m, p, p)  its derivative in the layout's theta
    joint_cov: np.ndarray  # (m + 1, m + 1)  of the layout's theta and log sigma^2
    cov_variance: np.ndarray  # (n_cov + 1, n_cov + 1)  of the covariances and sigma^2
    deviance: float  # -2 log-likelihood
    singular: bool
    theta_layout: np.ndarray  # (m,)
    beta_layout: np.ndarray  # (p,)
    y_scale: float


def estimate(solution: Solution, layout: GroupedLayout, *, reml: bool) -> Estimates:
    """Carry a solution back to the coordinates and units of the data."""
    jet = solution.jet
    whiteners = [np.asarray(A) for A in layout.whiteners]
    theta = np.asarray(solution.theta)
    inner = factor_matrices(theta, layout.sizes)
    singular = any(np.linalg.svd(L, compute_uv=False).min() < _SINGULAR_TOL for L in inner)
    factors = rectify_signs(
        [A @ canonical_factor(L) for A, L in zip(whiteners, inner, strict=True)]
    )
    y_scale, beta = float(layout.y_scale), np.asarray(jet.profile.beta)
    beta_map, shift = np.asarray(layout.beta_map), np.asarray(layout.beta_shift)
    nu = float(layout.n_obs) - (beta.size if reml else 0)
    scale = float(jet.profile.rss) * y_scale**2 / nu
    low = np.asarray(layout.beta_origin) + y_scale * (beta_map @ beta)
    joint = joint_covariance(np.asarray(jet.hessian), np.asarray(jet.dlog_rss), nu).matrix
    J = covariance_jacobian(inner, whiteners, scale)
    return Estimates(
        theta=np.concatenate([L[lower_indices(L.shape[0])] for L in factors]),
        factors=factors,
        covariances=tuple(scale * L @ L.T for L in factors),
        scale=scale,
        beta=shift + low,
        beta_low=low,
        beta_shift=shift,
        cov_beta=beta_map @ np.asarray(jet.profile.cov_beta) @ beta_map.T,
        dcov_beta=beta_map @ np.asarray(jet.dcov_beta) @ beta_map.T,
        joint_cov=joint,
        cov_variance=J @ joint @ J.T,
        deviance=float(jet.value),
        singular=singular,
        theta_layout=theta,
        beta_layout=beta,
        y_scale=y_scale,
    )


def factor_matrices(theta: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """Lower triangular matrix of every term from theta."""
    out = []
    for k, at in zip(sizes, theta_slices(sizes), strict=True):
        L = np.zeros((k, k))
        L[lower_indices(k)] = theta[at]
        out.append(L)
    return out


def canonical_factor(L: np.ndarray) -> np.ndarray:
    """The factor with exact zeros where a pivot is negligible, same covariance.

    A triangular factor of a singular covariance is not unique: the Cholesky
    factor of the covariance, with a zero column for a zero pivot, is taken.
    """
    if (np.abs(np.diagonal(L)) >= _ZERO_PIVOT).all():
        return L
    S = L @ L.T
    out = np.zeros_like(S)
    for j in range(S.shape[0]):
        pivot = S[j, j] - out[j, :j] @ out[j, :j]
        if pivot > _ZERO_PIVOT**2:
            out[j:, j] = (S[j:, j] - out[j:, :j] @ out[j, :j]) / np.sqrt(pivot)
    return out
