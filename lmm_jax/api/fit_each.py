"""Responses of ``fit_many`` one after another: of models that have no lanes, and the chosen one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ..batches.residual_lanes import fit_alike
from ..covariance.theta import theta_size
from ..designs.design import Design
from ..designs.responses import Responses, one_response
from ..errors import ConvergenceWarning, DataError, RankWarning
from ..inference.estimates import ManyEstimates, put_estimates, unknown_estimates
from ..layouts.residual.layout import ResidualLayout
from ..numerics.processes import float64
from ..numerics.progress import progress_bar
from ..numerics.tiers import running_on
from ..optimize.newton import CONVERGED, Solution
from ..results.lmm import LMMResults
from .fit import fit, fit_begun
from .options import Options

# Responses whose optima are looked for together.
_AT_ONCE = 256


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
    """Estimates by :func:`lmm_jax.fit` of one response after another.

    Optima of complete responses with a residual covariance are found side by side before.
    """
    options = options._replace(df_method="normal")
    refit = Refit(design, columns, {**options._asdict(), "runtime": runtime})
    own = () if design.residual is None else design.residual.structures
    p, m = len(design.exog_names), theta_size((*design.structures, *own))
    out = unknown_estimates(columns.count, p, m, design.sizes)
    bar = progress_bar(columns.count, "fit", progress)
    with bar as tick, warnings.catch_warnings():
        for told in (ConvergenceWarning, RankWarning):  # once, for all; of rows that are left
            warnings.simplefilter("ignore", told)
        for i, one in enumerate(_fits(refit, options, runtime)):
            if one is not None and one.fixed_names == design.exog_names:
                put_estimates(
                    out, i, one.estimates,
                    nobs=one.nobs, converged=one.converged, n_iter=one.n_iter,
                )  # fmt: skip
            else:
                out.nobs[i] = _rows_left(design, columns, i)
            tick(1)
    return out


def _fits(refit: Refit, options: Options, runtime: str) -> Iterator[LMMResults | None]:
    """Every response's fit, None where there is nothing to estimate from: NaN."""
    count = refit.columns.count
    for first in range(0, count, _AT_ONCE):
        numbers = range(first, min(first + _AT_ONCE, count))
        with float64(), running_on(runtime):
            begun = {} if runtime == "jax" else _begun(refit, numbers, options)
        for i in numbers:
            try:
                yield fit_begun(*begun[i], options, runtime) if i in begun else refit.fit_one(i)
            except DataError:
                yield None


def _begun(
    refit: Refit, numbers: Sequence[int], options: Options
) -> dict[int, tuple[Design, Solution]]:
    """Designs of responses whose optimum is known, by their numbers; others are not there."""
    design = refit.design
    if design.residual is None or design.held is not None:
        return {}
    models, layouts = {}, []
    for i in numbers:
        with suppress(DataError):  # which a fit of its own meets again
            model = one_response(design, refit.columns, i)
            if model.exog is not design.exog or model.weights is not design.weights:
                continue  # rows or weights of its own
            layout = model.compressed.layout
            if isinstance(layout, ResidualLayout):
                models[i] = model
                layouts.append(layout)
    if len(models) < 2:
        return {}
    with float64():
        found = fit_alike(layouts, reml=options.reml, maxiter=options.maxiter, tol=options.gtol)
    if found is None:
        return {}
    solutions = (jax.tree.map(lambda leaf, k=k: leaf[k], found) for k in range(len(models)))
    pairs = zip(models.items(), solutions, strict=True)
    return {i: (model, at) for (i, model), at in pairs if int(at.status) == CONVERGED}


def _rows_left(design: Design, columns: Responses, i: int) -> int:
    """Rows of a response that are there and weigh something."""
    which = np.array([i])
    weights = columns.take_weights(which, 1)
    if weights is None and design.weights is not None:
        weights = design.weights[:, None]
    there = ~np.isnan(columns.take(which, 1))
    return int((there if weights is None else there & (weights > 0)).sum())
