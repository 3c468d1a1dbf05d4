"""From the optimizer's answer, in the layout's coordinates, to estimates of the data's.

Host arithmetic on arrays of the size of the parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..covariance.structures import Structure
from ..covariance.theta import factor_blocks, theta_slices
from ..layouts.contract import Layout
from ..optimize.constrained import ConstrainedSolution
from ..optimize.newton import Solution
from ..reprs import brief
from .variance import covariance_jacobian, inverse_curvature, joint_covariance

# Whitened pivots below this make a fit singular, as in lme4.
SINGULAR_TOL = 1e-4
# Deviance per squared relative change of theta below which the data say nothing.
FLAT_CURVATURE = 1e-6


class Estimates(NamedTuple):
    """Everything that a fit determines, as NumPy arrays in the units of the data."""

    theta: np.ndarray  # (m,)  of the relative factors of the data: lme4's, diagonals >= 0
    factors: tuple[np.ndarray, ...]  # (k, k) a term: Lambda in the coordinates of the data
    covariances: tuple[np.ndarray, ...]  # (k, k) a term: sigma^2 Lambda Lambda'
    scale: float  # sigma^2
    beta: np.ndarray  # (p,)
    beta_low: np.ndarray  # (p,)  beta less the mean of y that was taken out first
    beta_shift: np.ndarray  # (p,)
    cov_beta: np.ndarray  # (p, p)  (X' V^-1 X)^-1, relative to sigma^2
    dcov_beta: np.ndarray  # (m, p, p)  its derivative in the layout's theta
    joint_cov: np.ndarray  # (m + 1, m + 1)  of the layout's theta and log sigma^2
    variance_unit: np.ndarray  # (n_cov + 1,)  sizes of the covariances and sigma^2
    cov_variance: np.ndarray  # (n_cov + 1, n_cov + 1)  of the covariances and sigma^2 in that unit
    deviance: float  # -2 log-likelihood
    singular: bool
    theta_layout: np.ndarray  # (m,)
    beta_layout: np.ndarray  # (p,)
    y_scale: float

    def __repr__(self) -> str:
        return brief(self)


@np.errstate(over="ignore", invalid="ignore")  # variances may leave the range of floats
def estimate(
    solution: Solution | ConstrainedSolution,
    layout: Layout,
    *,
    reml: bool,
    held: np.ndarray | None = None,
) -> Estimates:
    """Carry a solution back to the coordinates and units of the data.

    Parameters
    ----------
    solution : Solution or ConstrainedSolution
    layout : Layout
    reml : bool
    held : ndarray, shape (p,), optional
        Values of the fixed effects that are not in the layout, NaN elsewhere.
    """
    jet = solution.jet
    whiteners = [np.asarray(A) for A in layout.whiteners]
    theta = np.asarray(solution.theta)
    inner = factor_blocks(theta, layout.structures)
    singular = any(np.linalg.svd(L, compute_uv=False).min() < SINGULAR_TOL for L in inner)
    outer = _outer_theta(theta, whiteners, layout.structures)
    factors = tuple(s.factor(t) for s, t in zip(layout.structures, outer, strict=True))
    if isinstance(solution, ConstrainedSolution):
        beta, cov_beta, rss = solution.beta, solution.cov_beta, solution.rss
        cov_theta, deviance = np.asarray(solution.cov_theta), solution.deviance
    else:
        beta, cov_beta, rss = jet.profile.beta, jet.profile.cov_beta, jet.profile.rss
        cov_theta, deviance = inverse_curvature(np.asarray(jet.hessian)), jet.value
    y_scale, inner_beta = float(layout.y_scale), np.asarray(beta)
    beta_map, shift = np.asarray(layout.beta_map), np.asarray(layout.beta_shift)
    nu = float(layout.n_obs) - (inner_beta.size if reml else 0)
    scale = float(np.float64(rss) * np.square(np.float64(y_scale)) / nu)
    low = np.asarray(layout.beta_origin) + y_scale * (beta_map @ inner_beta)
    joint = joint_covariance(cov_theta, np.asarray(jet.dlog_rss), nu)
    J = covariance_jacobian(theta, whiteners, layout.structures, scale)
    unit = np.abs(J).max(axis=1)  # their squares would leave the range of floats
    J = J / np.where(unit > 0, unit, 1.0)[:, None]
    out = Estimates(
        theta=np.concatenate(outer),
        factors=factors,
        covariances=tuple(
            covariance_of(L, scale, singular=bool((t[s.pivots] == 0).any()))
            for L, t, s in zip(factors, outer, layout.structures, strict=True)
        ),
        scale=scale,
        beta=shift + low,
        beta_low=low,
        beta_shift=shift,
        cov_beta=beta_map @ np.asarray(cov_beta) @ beta_map.T,
        dcov_beta=beta_map @ np.asarray(jet.dcov_beta) @ beta_map.T,
        joint_cov=joint,
        variance_unit=unit,
        cov_variance=J @ joint @ J.T,
        deviance=float(deviance),
        singular=singular,
        theta_layout=theta,
        beta_layout=inner_beta,
        y_scale=y_scale,
    )
    out = out if held is None else _with_held(out, held)
    for value in (*out, *out.factors, *out.covariances):
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    return out


def _outer_theta(
    theta: np.ndarray, whiteners: Sequence[np.ndarray], structures: Sequence[Structure]
) -> list[np.ndarray]:
    """Reported theta of every term in the coordinates of the data."""
    places = theta_slices(structures)
    return [
        s.mapped(s.canonical(theta[at]), A)
        for s, at, A in zip(structures, places, whiteners, strict=True)
    ]


def _with_held(estimates: Estimates, held: np.ndarray) -> Estimates:
    """Put the fixed effects that were held fixed back in their places, without variance."""
    free = np.isnan(held)
    p = held.size

    def vector(values: np.ndarray, rest: np.ndarray) -> np.ndarray:
        out = np.array(rest)
        out[free] = values
        return out

    def matrix(values: np.ndarray) -> np.ndarray:
        out = np.zeros((*values.shape[:-2], p, p))
        out[..., np.ix_(free, free)[0], np.ix_(free, free)[1]] = values
        return out

    return estimates._replace(
        beta=vector(estimates.beta, held),
        beta_low=vector(estimates.beta_low, held),
        beta_shift=vector(estimates.beta_shift, np.zeros(p)),
        cov_beta=matrix(estimates.cov_beta),
        dcov_beta=matrix(estimates.dcov_beta),
    )


def is_flat(
    solution: Solution | ConstrainedSolution, structures: Sequence[Structure], *, singular: bool
) -> bool:
    """Whether some direction of theta leaves the criterion unchanged to second order.

    Curvature per relative change of theta, so that large variance ratios, where
    the criterion bends slowly in theta itself, do not count as flat. Of a singular
    solution only the terms without rotations are looked at: these leave the factor
    of any other free where a pivot is zero.
    """
    if isinstance(solution, ConstrainedSolution):
        return False
    looked = np.ones(len(np.asarray(solution.theta)), dtype=bool)
    for structure, at in zip(structures, theta_slices(structures), strict=True):
        looked[at] = not structure.rotates or not singular
    if not looked.any():
        return False
    size = 1.0 + np.abs(np.asarray(solution.theta))
    hessian = np.asarray(solution.jet.hessian) * size[:, None] * size[None, :]
    hessian = hessian[np.ix_(looked, looked)]
    return bool(np.abs(np.linalg.eigvalsh(hessian)).min() < FLAT_CURVATURE)


def residual_variance_error(at: Estimates) -> float:
    """Standard error of the residual variance."""
    return float(at.variance_unit[-1] * np.sqrt(at.cov_variance[-1, -1]))


def covariance_of(L: np.ndarray, scale: float, *, singular: bool) -> np.ndarray:
    """``scale L L'``; a singular one is rounded upwards, so that it has a Cholesky factor."""
    cov = scale * L @ L.T
    if len(L) > 1 and singular:
        cov[np.diag_indices_from(cov)] *= 1.0 + 8.0 * np.finfo(float).eps
    return cov
