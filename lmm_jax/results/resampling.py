"""The parametric bootstrap of a fit: draw, fit again, and carry back."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ..batches.streams import Stream
from ..capabilities import require
from ..designs.residual import ResidualLabel
from ..inference.estimates import Estimates, has_optimum
from ..inference.replicates import replicate_estimates
from ..inference.residuals.parameters import residual_names, residual_values
from ..inputs.arguments import seed as read_seed
from ..inputs.arguments import whole_number
from ..numerics.processes import float64
from ..numerics.progress import progress_bar
from ..numerics.read_only import read_only
from .bootstrap import BootstrapResults, Replicates


def resample(res: Any, n_boot: int, seed: int, *, progress: bool = False) -> BootstrapResults:
    """See :func:`lmm_jax.bootstrap`."""
    n_boot, seed = whole_number(n_boot, "n_boot", least=2), read_seed(seed)
    design = require(res, "bootstrap").design
    with float64(), progress_bar(n_boot, "fit", progress) as tick:
        layout = design.compressed.layout
        at = res.estimates
        solution, found = replicate_estimates(
            layout,
            at.theta_layout,
            at.scale,
            stream=Stream(seed),
            n=n_boot,
            reml=res.reml,
            tick=tick if progress else None,
        )
        converged = has_optimum(solution, layout.structures, found.singular)
    beta = np.broadcast_to(at.beta, (n_boot, at.beta.size)).copy()
    beta[:, slice(None) if design.held is None else np.isnan(design.held)] += found.beta
    fit = jax.tree.map(lambda leaf: np.asarray(leaf)[None], at)
    return BootstrapResults(
        fit=_replicates(fit, fit.beta, np.array([res.converged]), res.residual),
        replicates=_replicates(found, beta, converged, res.residual),
        fixed_names=res.fixed_names,
        term_labels=res.term_labels,
        reml=res.reml,
        seed=seed,
        output=res.output,
        residual_names=() if res.residual is None else residual_names(res.residual),
    )


def _replicates(
    at: Estimates, beta: np.ndarray, converged: np.ndarray, label: ResidualLabel | None
) -> Replicates:
    """What is kept of each fit."""
    residual = None if label is None else residual_values(at.theta_layout, at.scale, label)
    kept = Replicates(beta, at.covariances, at.scale, at.deviance, converged, at.singular, residual)
    return read_only(kept)
