"""Estimates of drawn responses, sought where a fit is sought."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..batches.draw import fit_replicates
from ..batches.streams import Stream
from ..optimize.newton import Solution
from .estimates import Estimates, estimate


def replicate_estimates(
    layout: Any,
    theta: np.ndarray,
    scale: float,
    *,
    stream: Stream,
    n: int,
    reml: bool,
    tick: Callable[[int], object] | None = None,
) -> tuple[Solution, Estimates]:
    """Draw n responses at given parameters and estimate from each of them.

    Residual variances that follow a covariate are those at its mean while the optima are sought
    (:meth:`Layout.recentred`). What is relative to sigma, and ``theta_layout``, are those of the
    layout again; ``joint_cov`` and ``dcov_beta`` have the parameters that were sought.
    Arguments are those of :func:`lmm_jax.batches.draw.fit_replicates`.

    Returns
    -------
    solution : Solution
        Where it was sought.
    estimates : Estimates
        Arrays with a leading axis of n.
    """
    moved = layout.recentred()
    theta = np.asarray(theta)
    if moved is not None:
        layout, coordinates = moved
        theta = coordinates.inward(theta)
        scale = float(scale * np.exp(-coordinates.slope_of_log_scale @ theta))
    solution, base = fit_replicates(layout, theta, scale, stream=stream, n=n, reml=reml, tick=tick)
    inner = np.asarray(solution.theta)
    found = estimate(solution, base, reml=reml, log_unit=base.log_unit(inner))
    if moved is None:
        return solution, found
    outer = np.stack([coordinates.outward(one) for one in inner])
    unit = np.exp(inner @ coordinates.slope_of_log_scale)
    relative = 1.0 / unit[:, None, None]
    return solution, found._replace(
        theta_layout=outer,
        scale=found.scale * unit,
        cov_beta=found.cov_beta * relative,
        dcov_beta=found.dcov_beta * relative[..., None],
    )
