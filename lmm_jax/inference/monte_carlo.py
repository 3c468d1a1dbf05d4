"""What probes leave uncertain in a fit whose log-determinant they estimate."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..layouts.contract import Layout
from ..layouts.matrix_free.layout import MatrixFreeLayout
from ..numerics.processes import float64
from ..numerics.read_only import read_only
from ..optimize.constrained import ConstrainedSolution
from ..optimize.newton import Solution
from .estimates import outer_theta
from .variance import inverse_curvature

# Step in theta, relative to 1 + |theta|, of the derivative of the reported theta.
_STEP = 1e-6


class Approximation(NamedTuple):
    """Monte Carlo standard errors of an approximate fit.

    The error of the log-likelihood is that of the estimate of ``log|V|``; those of theta come
    from how much the gradients of single probes differ, through the Hessian. Both are small
    beside the standard errors of the estimates, which they are not part of.
    """

    llf_se: float  # of the log-likelihood
    theta_se: np.ndarray  # (m,)  of theta
    n_probes: int


def approximation(
    solution: Solution[Any] | ConstrainedSolution, layout: Layout
) -> Approximation | None:
    """How far the probes may have led a fit astray, at its end; None of an exact fit."""
    if not isinstance(layout, MatrixFreeLayout) or isinstance(solution, ConstrainedSolution):
        return None
    theta = np.asarray(solution.theta)
    with float64():
        at = layout.monte_carlo(theta)
    inverse = 0.5 * inverse_curvature(np.asarray(solution.jet.hessian))
    whiteners = [np.asarray(A) for A in layout.whiteners]

    def reported(inner: np.ndarray) -> np.ndarray:
        return np.concatenate(outer_theta(inner, whiteners, layout.structures), axis=-1)

    step = _STEP * (1.0 + np.abs(theta))
    moved = step[:, None] * np.eye(theta.size)
    J = (reported(theta + moved) - reported(theta - moved)) / (2.0 * step[:, None])
    cov = J.T @ inverse @ np.asarray(at.dlogdet) @ inverse @ J
    return read_only(
        Approximation(
            llf_se=0.5 * float(at.logdet),
            theta_se=np.sqrt(np.maximum(np.diagonal(cov), 0.0)),
            n_probes=at.n_probes,
        )
    )
