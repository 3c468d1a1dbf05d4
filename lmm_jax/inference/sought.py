"""An optimum in the coordinates in which it was sought, where its curvature has its digits."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from ..layouts.contract import Coordinates, Layout
from ..likelihood.profile import profile_jet
from ..optimize.constrained import ConstrainedSolution
from .variance import inverse_curvature, joint_covariance


class Sought(NamedTuple):
    """A solution in the coordinates in which it was sought."""

    coordinates: Coordinates
    theta: np.ndarray
    jet: Any

    def joint_covariance(self, nu: float) -> np.ndarray:
        """Asymptotic covariance of ``(theta, log sigma^2)`` outside."""
        own = inverse_curvature(np.asarray(self.jet.hessian))
        inner = joint_covariance(own, np.asarray(self.jet.dlog_scale), nu)
        m = self.theta.size
        J = np.eye(m + 1)
        J[:m, :m] = self.coordinates.slopes(self.theta)
        J[m, :m] = self.coordinates.slope_of_log_scale
        return np.asarray(J @ inner @ J.T)


def sought_at(solution: Any, layout: Layout, *, reml: bool) -> Sought | None:
    """A solution of one fit where it was sought, or None where that is where it is."""
    moved = layout.recentred()
    if moved is None or isinstance(solution, ConstrainedSolution):
        return None
    near, coordinates = moved
    theta = coordinates.inward(np.asarray(solution.theta))
    with np.errstate(all="ignore"):
        at: Any = theta
        jet = profile_jet(at, near, reml=reml)
    return Sought(coordinates, theta, jax.tree.map(np.asarray, jet))
