"""Parameters of a residual covariance as they are reported, and their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..covariance.residuals import ResidualStructure
from ..covariance.structures import Structure
from ..covariance.theta import theta_slices
from ..numerics.taylor import Taylor, exp, stack, variables
from .estimates import Estimates


class Natural(NamedTuple):
    """Functions of theta and log sigma^2, with derivatives in the residual parameters."""

    names: tuple[str, ...]
    at: np.ndarray  # (r,)  places of what they depend on in (theta, log sigma^2)
    values: Taylor  # (n,), derivatives in these places


def natural_parameters(
    theta: np.ndarray, scale: float, structures: Sequence[Structure], *, variances: bool = False
) -> Natural:
    """Standard deviations, correlations and ranges of the residuals.

    Parameters
    ----------
    theta : ndarray, shape (m,)
    scale : float
        ``sigma^2``.
    structures : sequence of Structure
        Of a layout: those of residuals come last.
    variances : bool
        Variances in the place of standard deviations.
    """
    own = [
        (structure, at)
        for structure, at in zip(structures, theta_slices(structures), strict=True)
        if isinstance(structure, ResidualStructure)
    ]
    first = own[0][1].start
    x = variables(np.append(theta[first:], np.log(scale)))
    sigma = exp(0.5 * x[-1])
    found: dict[str, Taylor] = {}
    for structure, at in own:
        found |= structure.natural(
            x[at.start - first : at.stop - first], sigma, variances=variances
        )
    return Natural(tuple(found), np.arange(first, theta.size + 1), stack(list(found.values())))


def reported(at: Estimates, structures: Sequence[Structure]) -> tuple[Natural, np.ndarray]:
    """The parameters that are no other's, and their standard errors by the delta method, (n,)."""
    found = natural_parameters(at.theta_layout, at.scale, structures)
    kept = [i for i, name in enumerate(found.names) if name != "sd"]  # that is sigma itself
    values = found.values[np.array(kept, dtype=int)]
    J = np.swapaxes(values.first, 0, 1)
    cov = at.joint_cov[np.ix_(found.at, found.at)]
    with np.errstate(invalid="ignore"):
        errors = np.sqrt(np.sum(J @ cov * J, axis=1))
    return Natural(tuple(found.names[i] for i in kept), found.at, values), errors


def natural_bend(at: Estimates, structures: Sequence[Structure]) -> np.ndarray:
    """``z_k = sum_a (J^-1)_ka sum_ij A_ij d2 psi_a``, (m + 1,); zero for random effects.

    What second derivatives in theta owe to its being no natural parameter: psi are variances,
    correlations and ranges, J their derivative and A the covariance of (theta, log sigma^2).
    """
    found = natural_parameters(at.theta_layout, at.scale, structures, variances=True)
    cov = at.joint_cov[np.ix_(found.at, found.at)]
    second = np.einsum("kl,kla->a", cov, found.values.second)
    out = np.zeros(len(at.joint_cov))
    out[found.at] = np.linalg.solve(np.swapaxes(found.values.first, 0, 1), second)
    return out
