"""Residuals of a fit among responses that it simulates."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..capabilities import require
from ..inference.residuals.scaled_residuals import scaled_quantiles
from ..inputs.arguments import flag, generator, hinted, whole_number
from ..numerics.read_only import read_only
from ..results.lmm import LMMResults
from ..results.simulated_residuals import SimulatedResiduals
from .simulate import draws_in_chunks


@hinted
def simulate_residuals(
    res: LMMResults,
    n: int = 250,
    *,
    seed: int | np.random.Generator,
    conditional: bool = False,
) -> SimulatedResiduals:
    """Scaled quantile residuals: where each response lies among simulated ones.

        scaled_i = #{draws of row i < y_i} / n      with a uniform share of the draws equal to y_i

    Parameters
    ----------
    res : LMMResults
    n : int
        Number of simulated responses of each row.
    seed : int or numpy.random.Generator
    conditional : bool
        Keep the random effects at their conditional means; otherwise they are drawn anew, so that
        their distribution is looked at too.

    Returns
    -------
    SimulatedResiduals
        ``scaled``, tests of uniformity, dispersion and outliers, ``to_frame()``.

    Raises
    ------
    DataError
        A result without its rows.

    Notes
    -----
    The draws come from the estimates, which the responses have made: with few rows for a parameter
    the residuals are closer to the middle than those of the true model.

    References
    ----------
    Dunn & Smyth (1996), doi:10.1080/10618600.1996.10474708; the scaled residuals of Hartig's R
    package DHARMa.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
    >>> found = simulate_residuals(res, seed=1)
    >>> found.tests.round(2)["p_value"].between(0.05, 1).all()
    np.True_
    >>> found.to_frame().shape
    (30, 4)
    """
    n, rng = whole_number(n, "n", least=1), generator(seed)
    conditional = flag(conditional, "conditional")
    design = require(res, "simulate_residuals").design
    fitted = (
        res.fittedvalues if conditional else pd.Series(res.predict(output="pandas"), name="fitted")
    )
    draws = draws_in_chunks(res, n, rng, conditional=conditional)
    found = scaled_quantiles(design.endog, fitted.to_numpy(), draws, rng)
    return SimulatedResiduals(
        scaled=pd.Series(found.scaled, index=design.index, name="scaled"),
        outside=pd.Series(found.outside, index=design.index, name="outside"),
        observed=pd.Series(design.endog, index=design.index, name="observed"),
        fitted=fitted,
        spread=found.spread,
        spreads=read_only(found.spreads),
        output=res.output,
    )
