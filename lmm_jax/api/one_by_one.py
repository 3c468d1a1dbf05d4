"""Responses of ``fit_many`` one after another: of models that have no lanes, and the chosen one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ..batches.residual_lanes import begin_responses
from ..covariance.theta import theta_size
from ..designs.design import Design
from ..designs.responses import Responses, one_response
from ..errors import ConvergenceWarning, DataError, IdentificationWarning, RankWarning
from ..inference.df.kenward_roger import KenwardRoger, side_by_side
from ..inference.df.methods import METHODS, Adjusted
from ..inference.many_estimates import ManyEstimates, put_estimates, unknown_estimates
from ..numerics.progress import progress_bar
from ..results.lmm import LMMResults
from .fit import fit, fit_begun
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


def fit_one_by_one(
    design: Design, columns: Responses, progress: bool, options: Options, runtime: str
) -> tuple[ManyEstimates, KenwardRoger | None]:
    """Estimates by :func:`lmm_jax.fit` of one response after another.

    Optima of complete responses with a residual covariance are found side by side before. With
    Kenward and Roger's adjustment, if that is the method.
    """
    asked = options.df_method
    options = options._replace(df_method="normal")
    own = () if design.residual is None else design.residual.structures
    p, m = len(design.exog_names), theta_size((*design.structures, *own))
    out = unknown_estimates(columns.count, p, m, design.sizes)
    adjusted: list[KenwardRoger | None] = [None] * columns.count
    bar = progress_bar(columns.count, "fit", progress)
    with bar as tick, warnings.catch_warnings():
        # once, for all; of rows that are left
        for told in (ConvergenceWarning, IdentificationWarning, RankWarning):
            warnings.simplefilter("ignore", told)
        for i, one in enumerate(_fits(design, columns, options, runtime)):
            if one is not None and _is_of(one, design):
                put_estimates(
                    out, i, one.estimates,
                    nobs=one.nobs, converged=one.converged, n_iter=one.n_iter,
                )  # fmt: skip
                if asked == "kenward-roger":
                    adjusted[i] = cast(Adjusted, METHODS[asked](one)).at
            else:
                out.nobs[i] = _rows_left(design, columns, i)
            tick(1)
    return out, side_by_side(adjusted, p) if asked == "kenward-roger" else None


def _fits(
    design: Design, columns: Responses, options: Options, runtime: str
) -> Iterator[LMMResults | None]:
    """Every response's fit, None where there is nothing to estimate from: NaN."""
    models = begin_responses(
        design, columns, reml=options.reml, maxiter=options.maxiter, tol=options.gtol,
        runtime=runtime,
    )  # fmt: skip
    for model, begun in models:
        if model is None:
            yield None
            continue
        try:
            yield fit_begun(model, begun, options, runtime)
        except DataError:
            yield None


def _is_of(one: LMMResults, design: Design) -> bool:
    """Whether the rows of a response left all columns and random effects of the model."""
    sizes = tuple(len(S) for S in one.estimates.covariances)
    return one.fixed_names == design.exog_names and sizes == design.sizes


def _rows_left(design: Design, columns: Responses, i: int) -> int:
    """Rows of a response that are there and weigh something."""
    which = np.array([i])
    weights = columns.take_weights(which, 1)
    if weights is None and design.weights is not None:
        weights = design.weights[:, None]
    there = ~np.isnan(columns.take(which, 1))
    return int((there if weights is None else there & (weights > 0)).sum())
