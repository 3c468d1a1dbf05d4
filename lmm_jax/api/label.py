"""From an optimum to a result: back to the units of the data, with names and a verdict."""

from __future__ import annotations

import numpy as np

from ..designs.design import Design
from ..designs.labels import term_labels
from ..designs.residual import residual_label, visit_counts
from ..errors import DataError
from ..inference.estimates import Estimates, find, is_in_range, kept
from ..inference.monte_carlo import approximation
from ..inference.residuals.rows import row_thetas
from ..optimize.newton import CONVERGED, FLAT, MESSAGES
from ..results.lmm import LMMResults
from .methods import Run
from .options import Options

# Relative standard deviation of random effects beside which the residual has gone to zero.
_NO_RESIDUAL = 1e6
_VANISHES = (
    "the likelihood rises until no residual variance is left beside the random effects, which "
    "have as many coefficients as the rows can tell"
)
_VANISHES_IN = (
    "the likelihood rises until no residual variance is left in {}, where the fixed and random "
    "effects explain every row"
)
_FIRST_VANISHES = (
    "the residual variance of {}, the first level, in which the others are measured, goes to zero: "
    "make another level the first one, pd.Categorical(f, categories=[...])"
)
# Standard deviation of the first level, as a share of the largest, that is on its way to zero.
_SMALL_FIRST = 1e-2
# Residual standard deviation, as a share of the largest |y|, that is the rounding of y.
_ROUNDING = 64 * np.finfo(float).eps
# The same of a fit that found no optimum: nothing else makes residuals so small.
_ON_ITS_WAY = 1e-8


def label(run: Run, model: Design, options: Options, runtime: str) -> LMMResults:
    """Carry the answer back to the data's units, and name its parts."""
    layout = model.compressed.of_fit
    found = run.found or find(run.solution, layout, reml=options.reml)
    estimates = kept(found.estimates, model.held)
    if layout is not model.compressed.layout:  # whose random effects are asked for
        beta = estimates.beta_layout + model.compressed.moved
        estimates = estimates._replace(beta_layout=beta)
    _check_range(estimates, model)
    flat = bool(found.flat)
    status, message = _verdict(int(run.solution.status), estimates, model, flat=flat)
    return LMMResults(
        estimates=estimates,
        fixed_names=model.exog_names,
        term_labels=term_labels(model.terms),
        residual=residual_label(model.residual, model.structures),
        endog_name=model.endog_name,
        formula=None if model.source is None else model.source.formula,
        nobs=model.nobs,
        n_missing=model.n_missing,
        gaps=model.gaps,
        output=model.output,
        visits=visit_counts(model.residual),
        reml=options.reml,
        df_method=options.df_method,
        converged=status == CONVERGED,
        message=message,
        n_iter=int(run.solution.n_iter),
        runtime=runtime,
        sigma_known=model.sigma is not None,
        design=model,
        hist=run.hist,
        approximation=approximation(run.solution, model.compressed.layout),
    )


def _verdict(status: int, at: Estimates, model: Design, *, flat: bool) -> tuple[int, str]:
    """How the fit ended, and what is said of it."""
    if status == CONVERGED and flat:
        status = FLAT
    gone = _without_variance(at, model, _ROUNDING if status == CONVERGED else _ON_ITS_WAY)
    if gone:
        return FLAT, _VANISHES_IN.format(", ".join(gone))
    if status == CONVERGED and _is_rounding(at, model):
        return FLAT, _VANISHES
    first = None if status == CONVERGED else _vanishing_first(at, model)
    return status, _message(status, at) if first is None else _FIRST_VANISHES.format(first)


def _is_rounding(at: Estimates, model: Design) -> bool:
    """Whether what is left of y beside the random effects is its own rounding."""
    if model.residual is not None or model.sigma is not None or not model.has_rows:
        return False
    least = 1.0 if model.weights is None else model.weights.min()
    return bool(np.sqrt(at.scale / least) < _ROUNDING * np.abs(model.endog).max())


def _without_variance(at: Estimates, model: Design, share: float) -> list[str]:
    """Levels of the residual covariance in which nothing of the variance is left."""
    if model.residual is None:
        return []
    nothing, found = share * np.abs(model.endog).max(), []
    for residual, phi in zip(model.residual.structures, row_thetas(model, at), strict=True):
        spread = residual.spread
        sizes = np.sqrt(at.scale) * np.exp(phi[: spread.n_levels])
        levels = spread.levels[spread.anchored :]
        found += [n for n, size in zip(levels, sizes, strict=False) if size < nothing]
        if spread.anchored and spread.levels and np.sqrt(at.scale) < nothing:
            found.insert(0, spread.levels[0])
    return found


def _vanishing_first(at: Estimates, model: Design) -> str | None:
    """The first level of a residual covariance if its variance is far below the others'."""
    if model.residual is None:
        return None
    for residual, phi in zip(model.residual.structures, row_thetas(model, at), strict=True):
        others = phi[: residual.spread.n_levels]
        if residual.spread.anchored and others.max(initial=0.0) > -np.log(_SMALL_FIRST):
            return residual.spread.levels[0]
    return None


def _message(status: int, at: Estimates) -> str:
    """What to say of a status; whose criterion is flat because no residual is left."""
    far = np.abs(at.theta_layout).max(initial=0.0) > _NO_RESIDUAL
    return _VANISHES if status == FLAT and far else MESSAGES[status]


def _check_range(at: Estimates, model: Design) -> None:
    """Refuse units in which variances leave the range of floats."""
    if not np.isfinite(at.deviance):
        return  # there is no fit
    if not is_in_range(at, model.held):
        gone = _without_variance(at, model, _ON_ITS_WAY)
        if gone:
            raise DataError(
                f"{_VANISHES_IN.format(', '.join(gone))}: leave these rows out, or give them no "
                "variance of their own"
            )
        raise DataError(
            f"variances of {model.endog_name!r} or of its fixed effects leave the range of floats: "
            "give the response, its covariates or the weights in other units"
        )
