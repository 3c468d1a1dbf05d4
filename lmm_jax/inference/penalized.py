"""The penalized problem around a fit, and the estimates at its solution.

With V the covariance of y that the unpenalized fit has estimated,

    (y - X beta)' V^-1 (y - X beta) + sum_j alpha_j |beta_j|

has ``(beta - b)' H (beta - b)`` and a constant for its first part, with ``H = X' V^-1 X`` and b
the GLS estimate: after one look at the layout nothing depends on the number of rows.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from jax import Array
from scipy.linalg import solve_triangular

from ..covariance.theta import factor_blocks
from ..layouts.contract import Layout
from ..numerics.processes import float64
from ..numerics.programs import compiled
from ..optimize.lasso import Descent, Quadratic
from .estimates import Estimates


@partial(compiled, host=1e-7)
def _gram(theta: Array, layout: Layout) -> Array:
    """``[X y]' V^-1 [X y]`` in the layout's coordinates."""
    return layout.waist_of(factor_blocks(theta, layout.structures), theta).gram


def quadratic_form(estimates: Estimates, layout: Layout) -> Quadratic:
    """The sum of squares as a function of the fixed effects of the data."""
    p = estimates.beta.size
    with float64():
        gram = np.asarray(_gram(estimates.theta_layout, layout))[:p, :p]
        beta_map = np.asarray(layout.beta_map)
    # H = beta_map^-T gram beta_map^-1 / sigma^2, kept as a root: half the digits of H suffice
    root = np.linalg.solve(beta_map.T, np.linalg.cholesky(gram)).T
    length = np.sqrt(np.sum(root**2, axis=0))
    A = root / length
    unit = length / np.sqrt(estimates.scale)
    return Quadratic(A=A, R=A.T @ A, centre=unit * estimates.beta, unit=unit)


def penalized_estimates(
    estimates: Estimates, quadratic: Quadratic, at: Descent, inward: np.ndarray
) -> Estimates:
    """The estimates with other fixed effects, and the covariance of those that are not zero.

    ``inward`` takes steps of the fixed effects to the layout's coordinates.
    """
    step = at.v / quadratic.unit
    low = estimates.beta_low + step
    zero = (at.sign == 0) & (quadratic.centre + at.v == 0)
    Q, U = np.linalg.qr(quadratic.A[:, ~zero])
    inverse = solve_triangular(U, np.eye(len(U))) / quadratic.unit[~zero, None]
    cov = np.zeros(estimates.cov_beta.shape)  # what is removed is a constant
    cov[np.ix_(~zero, ~zero)] = inverse @ inverse.T / estimates.scale
    # H_r^-1 H_r. of the coefficients that stay: d cov = S dcov S', as cov = S cov S'
    S = np.zeros(cov.shape)
    S[~zero] = inverse @ Q.T @ quadratic.A * quadratic.unit
    return estimates._replace(
        beta=np.where(zero, 0.0, estimates.beta_shift + low),
        beta_low=np.where(zero, -estimates.beta_shift, low),
        beta_layout=estimates.beta_layout + inward @ step,
        cov_beta=cov,
        dcov_beta=S @ estimates.dcov_beta @ S.T,
        deviance=estimates.deviance + float(np.sum((quadratic.A @ at.v) ** 2)),
    )
