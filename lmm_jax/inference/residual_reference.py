"""Where the residual variance of a fit is its ``scale``: everywhere, or at a covariate's value."""

from __future__ import annotations

from ..covariance.residuals import arms_of
from .record import FitRecord

# Where the variance of a residual covariance stands that depends on a covariate.
_REFERENCE = {"power": "at |x| = 1", "expo": "at x = 0"}
_REFERENCE_OF_MEANS = {"power": "at |fitted| = 1", "expo": "at fitted = 0"}


def residual_reference(results: FitRecord) -> str | None:
    """Where the residual variance is ``scale``: "" everywhere, None at the first level only.

    "known" everywhere if it was not estimated.

    The table of a residual covariance with several standard deviations has that of its first
    level among them: a row "Residual" beside it would read like a variance of all rows.
    """
    if results.residual is None:
        return "known" if results.sigma_known else ""
    if any(name.startswith("sd") for name in results.residual_params.index):
        return None
    kinds = [s.spread.of for s, _ in arms_of(results.residual.theta_structures)]
    where = _REFERENCE_OF_MEANS if results.residual.follows_means else _REFERENCE
    return next((where[kind] for kind in kinds if kind in where), "")
