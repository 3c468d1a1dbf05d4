"""Responses of ``fit_many`` one after another: of models that have no lanes, and the chosen one."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..covariance.theta import theta_size
from ..designs.design import Design
from ..designs.responses import Responses, one_response
from ..errors import ConvergenceWarning, DataError, RankWarning
from ..inference.estimates import ManyEstimates, put_estimates, unknown_estimates
from ..numerics.progress import progress_bar
from ..results.lmm import LMMResults
from .fit import fit
from .options import Options


@dataclass(frozen=True, slots=True, eq=False)
class Refit:
    """Fits one of the responses by itself."""

    design: Design
    columns: Responses
    options: dict[str, Any]

    def fit_one(self, number: int) -> LMMResults:
        """The fit of a response by its number."""
        return fit(one_response(self.design, self.columns, number), **self.options)


def fit_each(
    design: Design, columns: Responses, progress: bool, options: Options, runtime: str
) -> ManyEstimates:
    """Estimates by :func:`lmm_jax.fit` of one response after another."""
    how = {**options._asdict(), "df_method": "normal", "runtime": runtime}
    refit = Refit(design, columns, how)
    own = () if design.residual is None else design.residual.structures
    p, m = len(design.exog_names), theta_size((*design.structures, *own))
    out = unknown_estimates(columns.count, p, m, design.sizes)
    bar = progress_bar(columns.count, "fit", progress)
    with bar as tick, warnings.catch_warnings():
        for told in (ConvergenceWarning, RankWarning):  # once, for all; of rows that are left
            warnings.simplefilter("ignore", told)
        for i in range(columns.count):
            try:
                one = refit.fit_one(i)
            except DataError:  # nothing to estimate from: NaN
                one = None
            if one is not None and one.fixed_names == design.exog_names:
                put_estimates(
                    out, i, one.estimates,
                    nobs=one.nobs, converged=one.converged, n_iter=one.n_iter,
                )  # fmt: skip
            else:
                out.nobs[i] = _rows_left(design, columns, i)
            tick(1)
    return out


def _rows_left(design: Design, columns: Responses, i: int) -> int:
    """Rows of a response that are there and weigh something."""
    which = np.array([i])
    weights = columns.take_weights(which, 1)
    if weights is None and design.weights is not None:
        weights = design.weights[:, None]
    there = ~np.isnan(columns.take(which, 1))
    return int((there if weights is None else there & (weights > 0)).sum())
