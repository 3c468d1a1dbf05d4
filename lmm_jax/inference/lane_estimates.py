"""From the solutions of many lanes to estimates in the units of the data (NumPy)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..covariance.theta import factor_blocks, theta_slices
from ..layouts.contract import Layout
from ..optimize.newton import CONVERGED, Solution
from ..reprs import brief
from .estimates import FLAT_CURVATURE, SINGULAR_TOL


class LaneEstimates(NamedTuple):
    """Parameters of R fits of one design, in the units of the data."""

    beta: np.ndarray  # (R, p)
    covariances: tuple[np.ndarray, ...]  # (R, k, k) a term
    scale: np.ndarray  # (R,)  residual variance
    deviance: np.ndarray  # (R,)  -2 log-likelihood
    converged: np.ndarray  # (R,)
    singular: np.ndarray  # (R,)

    def __repr__(self) -> str:
        return brief(self)


def estimate_lanes(
    solution: Solution,
    layout: Layout,
    *,
    reml: bool,
    center: np.ndarray,
    held: np.ndarray | None = None,
) -> LaneEstimates:
    """Carry the solutions of lanes back to the coordinates and units of the data.

    Parameters
    ----------
    solution : Solution
        With a leading axis of R.
    layout : Layout
        Its ``y_scale`` is the unit of the responses.
    reml : bool
    center : ndarray, shape (p,)
        Fixed effects from which the responses were measured.
    held : ndarray, shape (p,), optional
        Values of the fixed effects that are not in the layout, NaN elsewhere.
    """
    unit = float(layout.y_scale)
    at = solution.jet.profile
    nu = float(layout.n_obs) - (np.asarray(at.beta).shape[1] if reml else 0)
    scale = unit**2 * np.asarray(at.rss) / nu
    theta, places = np.asarray(solution.theta), theta_slices(layout.structures)
    factors = factor_blocks(theta, layout.structures)
    covariances = []
    for A, structure, own in zip(layout.whiteners, layout.structures, places, strict=True):
        outer = np.asarray(A) @ structure.factor(structure.canonical(theta[:, own]))
        covariances.append(scale[:, None, None] * (outer @ np.swapaxes(outer, 1, 2)))
    singular = np.any([smallest_singular_value(L) < SINGULAR_TOL for L in factors], axis=0)
    moved = unit * np.asarray(at.beta) @ np.asarray(layout.beta_map).T
    beta = np.broadcast_to(center, (scale.size, center.size)).copy()
    beta[:, slice(None) if held is None else np.isnan(held)] += moved
    converged = np.asarray(solution.status) == CONVERGED
    return LaneEstimates(
        beta=beta,
        covariances=tuple(covariances),
        scale=scale,
        deviance=np.asarray(solution.jet.value),
        converged=converged & (singular | ~_is_flat(solution)),
        singular=singular,
    )


def smallest_singular_value(L: np.ndarray) -> np.ndarray:
    """Of every matrix of (R, k, k), (R,)."""
    k = L.shape[-1]
    if k == 1:
        return np.abs(L[:, 0, 0])
    if k == 2:  # |det| over the largest: (s1 + s2)^2 = |L|^2 + 2 |det|
        det = np.abs(L[:, 0, 0] * L[:, 1, 1] - L[:, 0, 1] * L[:, 1, 0])
        square = np.sum(L**2, axis=(1, 2))
        top = 0.5 * (np.sqrt(square + 2 * det) + np.sqrt(np.maximum(square - 2 * det, 0.0)))
        return np.divide(det, top, out=np.zeros_like(det), where=top > 0)
    return np.linalg.svd(L, compute_uv=False)[:, -1]


def _is_flat(solution: Solution) -> np.ndarray:
    """As :func:`lmm_jax.inference.estimates.is_flat`, for every lane."""
    size = 1.0 + np.abs(np.asarray(solution.theta))
    hessian = np.asarray(solution.jet.hessian) * size[:, :, None] * size[:, None, :]
    hessian = np.where(np.isfinite(hessian), hessian, 0.0)
    return np.abs(np.linalg.eigvalsh(hessian)).min(axis=1) < FLAT_CURVATURE
