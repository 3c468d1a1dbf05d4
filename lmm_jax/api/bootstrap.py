"""``bootstrap``: the parametric bootstrap of a fit. Orchestration only."""

from __future__ import annotations

from ..inputs.arguments import flag, hinted
from ..results.bootstrap import BootstrapResults
from ..results.lmm import LMMResults
from ..results.resampling import resample


@hinted
def bootstrap(
    res: LMMResults, n_boot: int = 1000, *, seed: int, progress: bool = False
) -> BootstrapResults:
    """Parametric bootstrap: draw from the fitted model, fit every draw again.

        y* = offset + X beta + Z b* + e*     b* ~ N(0, cov_re)     e* ~ N(0, scale / w)

    or e* with the residual covariance of the fit, whose parameters are among the statistics.

    Responses are drawn in the compressed coordinates of the fit and fitted by the same
    criterion: a replicate costs as much as its groups, however many rows they have, and
    groups that are alike (a balanced design) cost as much as one.

    Parameters
    ----------
    res : LMMResults
        A fit by REML or ML that holds no covariance fixed and has no penalty. Fixed effects
        may be held. Crossed factors go in batches, large ones one replicate after another, up
        to a core of 4,096 columns.
    n_boot : int
        Replicates.
    seed : int
        Replicate i depends on the seed and on i alone, not on ``n_boot``.
    progress : bool
        Show a progress bar, if tqdm is installed.

    Returns
    -------
    BootstrapResults

    Raises
    ------
    DataError
        A fit that cannot be drawn from, with what to do instead; more replicates than memory holds.

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
    return resample(res, n_boot, seed, progress=flag(progress, "progress"))
