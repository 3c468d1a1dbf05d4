"""Fits whose residual variance follows the fitted values, ``power(fitted(.))``.

Given the fitted values mu, conditional on the random effects, the variances are those of a
covariate and the model is fitted by (restricted) maximum likelihood; its fitted values are the
next mu, until they stay. What is reported is the fit with these variances, as in nlme: no
maximum of a likelihood in which mu moves along.

References
----------
Pinheiro & Bates (2000), Mixed-Effects Models in S and S-PLUS, section 5.2.2;
Davidian & Giltinan (1995), Nonlinear Models for Repeated Measurement Data, section 2.3.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..designs.design import Design
from ..designs.residual import Residual
from ..errors import ConvergenceWarning, DataError, warn_user
from ..formulas.residual_elsewhere import MEANS
from ..results.lmm import LMMResults

Fitted = Callable[[Design, np.ndarray | None], LMMResults]

# Change of a fitted value, in standard deviations of the response, that is none; and how often
# they may change.
_STILL, _MOST_FITS = 1e-9, 100
# A share of a change that lessens the next by less than this share of itself is halved.
_LEAST_GAIN, _LEAST_SHARE = 0.2, 0.1
# Changes that the next one is foretold from, and how much larger than the last it may then be; and
# fits after which all of a change is taken again: what made them small may lie behind.
_DEPTH, _FARTHEST, _AGAIN = 3, 3.0, 40


def settle(model: Design, fitted: Fitted) -> LMMResults:
    """Fit a design until its fitted values are those that its variances follow.

    Parameters
    ----------
    model : Design
        Of the kind "means".
    fitted : callable
        The fit of a design whose variances are known functions, and the theta at which it may
        begin.
    """
    unit, residual = float(np.std(model.endog)), model.residual
    assert residual is not None  # of that kind
    theta = None  # that of a fit without these variances is another
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        means, last, share = _first_means(model, residual, fitted), np.inf, 1.0
        seen: list[tuple[np.ndarray, np.ndarray]] = []
        for count in range(_MOST_FITS):
            found = _fitted_at(means, model, residual, fitted, theta)
            theta, after = found.estimates.theta_layout, found.fittedvalues.to_numpy()
            change = np.abs(after - means).max() / unit
            if not change > _STILL:
                break
            if change > (1.0 - _LEAST_GAIN * share) * last:  # they go to and fro
                share = max(0.5 * share, _LEAST_SHARE)
                seen.clear()
            if count == _AGAIN:
                seen, share = [], 1.0
            seen = [*seen[-_DEPTH:], (means, after - means)]
            means, last = means + _step(seen, share), change
    if not np.isfinite(found.llf):
        raise DataError(
            f"{residual.text}: the fitted values come so near to zero that the variances leave "
            "the range of floats"
        )
    if change > _STILL:
        message = (
            f"fitted values and the variances of {residual.text} that follow them do not settle: "
            f"they still change by {change:.1g} standard deviations of the response"
        )
        found = replace(found, converged=False, message=message)
    if not found.converged:
        warn_user(found.message, ConvergenceWarning)
    return found


def _step(seen: list[tuple[np.ndarray, np.ndarray]], share: float) -> np.ndarray:
    """A step of the means from pairs of means and their changes, the last one now.

    To where changes would be none if they were linear along the steps so far (Anderson's
    mixing); the change itself where that is far off.

    References
    ----------
    Walker & Ni (2011), doi:10.1137/10078356X.
    """
    points, changes = (np.array(part) for part in zip(*seen, strict=True))
    plain = share * changes[-1]
    if len(seen) == 1:
        return np.asarray(plain)
    steps, bends = np.diff(points, axis=0), np.diff(changes, axis=0)
    at = np.linalg.lstsq(bends.T, changes[-1], rcond=None)[0]
    mixed = plain - at @ (steps + share * bends)
    near = np.abs(mixed).max() <= _FARTHEST * np.abs(changes[-1]).max()
    return np.asarray(mixed if near else plain)


def _fitted_at(
    means: np.ndarray, model: Design, residual: Residual, fitted: Fitted, theta: np.ndarray | None
) -> LMMResults:
    """The fit whose variances follow these means, (n,)."""
    design = replace(model, residual=residual.at_means(means))
    try:
        return fitted(design, theta)
    except DataError as error:
        if "range of floats" not in str(error):
            raise
        raise DataError(
            f"{residual.text}: the fitted values vary so little beside their size that sigma, the "
            f"standard deviation where they are one (zero for expo), leaves the range of floats: "
            f"take expo({MEANS}) of the response less a constant, which changes sigma alone"
        ) from error


def _first_means(model: Design, residual: Residual, fitted: Fitted) -> np.ndarray:
    """Those of a fit before, or of one without these variances, (n,)."""
    if residual.is_settled and residual.rows.covariate is not None:
        return residual.rows.covariate
    plain = residual.without_covariate()
    if plain is None and not model.terms:  # least squares
        root = np.sqrt(model.row_weights)
        beta = np.linalg.lstsq(root[:, None] * model.exog, root * model.endog_less_offset)[0]
        return np.asarray(model.exog @ beta + (0.0 if model.offset is None else model.offset))
    return fitted(replace(model, residual=plain), None).fittedvalues.to_numpy()
