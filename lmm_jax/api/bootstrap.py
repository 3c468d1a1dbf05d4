"""``bootstrap``: the parametric bootstrap of a fit. Orchestration only."""

from __future__ import annotations

import jax
import numpy as np

from ..batches.draw import fit_replicates
from ..capabilities import require
from ..inference.estimates import Estimates, estimate, has_optimum
from ..inputs.arguments import hinted, whole_number
from ..inputs.arguments import seed as read_seed
from ..numerics.processes import float64
from ..results.bootstrap import BootstrapResults, Replicates
from ..results.lmm import LMMResults


@hinted
def bootstrap(res: LMMResults, n_boot: int = 1000, *, seed: int) -> BootstrapResults:
    """Parametric bootstrap: draw from the fitted model, fit every draw again.

        y* = offset + X beta + Z b* + e*     b* ~ N(0, cov_re)     e* ~ N(0, scale / w)

    Responses are drawn in the compressed coordinates of the fit and fitted by the same
    criterion: a replicate costs as much as its groups, however many rows they have, and
    groups that are alike (a balanced design) cost as much as one.

    Parameters
    ----------
    res : LMMResults
        A fit by REML or ML that holds no covariance fixed and has no penalty. Fixed effects
        may be held. Crossed factors must be small (a core of some 100 columns).
    n_boot : int
        Replicates.
    seed : int
        Replicate i depends on the seed and on i alone, not on ``n_boot``.

    Returns
    -------
    BootstrapResults

    Raises
    ------
    DataError
        A fit that cannot be drawn from, with what to do instead.

    References
    ----------
    Davison & Hinkley (1997), Bootstrap Methods and their Application,
    doi:10.1017/CBO9780511802843; Bates, Maechler, Bolker & Walker (2015),
    doi:10.18637/jss.v067.i01, whose ``bootMer`` does the same row by row.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> boot = lmm.bootstrap(res, 1000, seed=1)
    >>> boot.n_failed
    0
    >>> interval = boot.conf_int().loc["Days"]
    >>> bool(interval["lower"] < res.fe_params["Days"] < interval["upper"])
    True
    """
    n_boot, seed = whole_number(n_boot, "n_boot", least=2), read_seed(seed)
    design = require(res, "bootstrap").design
    with float64():
        layout = design.layout
        at = res.estimates
        solution, base = fit_replicates(
            layout,
            at.theta_layout,
            at.scale,
            key=jax.random.key(seed),
            n=n_boot,
            reml=res.reml,
        )
        found = estimate(solution, base, reml=res.reml)
        converged = has_optimum(solution, base.structures, found.singular)
    beta = np.broadcast_to(at.beta, (n_boot, at.beta.size)).copy()
    beta[:, slice(None) if design.held is None else np.isnan(design.held)] += found.beta
    fit = jax.tree.map(lambda leaf: np.asarray(leaf)[None], at)
    return BootstrapResults(
        fit=_replicates(fit, fit.beta, np.array([res.converged])),
        replicates=_replicates(found, beta, converged),
        fixed_names=res.fixed_names,
        term_labels=res.term_labels,
        reml=res.reml,
        seed=seed,
    )


def _replicates(at: Estimates, beta: np.ndarray, converged: np.ndarray) -> Replicates:
    """What is kept of each fit."""
    out = Replicates(beta, at.covariances, at.scale, at.deviance, converged, at.singular)
    for leaf in jax.tree.leaves(out):
        leaf.flags.writeable = False
    return out
