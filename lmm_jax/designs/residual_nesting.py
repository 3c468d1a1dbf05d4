"""Which residual covariances are special cases of others."""

from __future__ import annotations

import numpy as np

from .residual import Residual

# Correlations by the ones that have them as a special case in their interior.
_WITHIN = {
    "cs": ("toep", "symm"),
    "ar1": ("arma11", "ad", "toep", "symm"),
    "arma11": ("toep", "symm"),
    "ad": ("symm",),
    "toep": ("symm",),
}
# Independence is at the end of their ranges.
_SPATIAL = ("car1", "sp_exp", "sp_gau")


def is_special_case(small: Residual | None, large: Residual | None) -> bool:
    """Whether a residual covariance is what another is at some of its parameters.

    None stands for independent residuals of one variance.
    """
    if small is None or large is None:
        return small is None and (large is None or large.term.correlation not in _SPATIAL)
    return (
        (small.arms is None or _alike(small.rows.arm, large.rows.arm))
        and _correlation_within(small, large)
        and _spread_within(small, large)
    )


def _correlation_within(small: Residual, large: Residual) -> bool:
    own, other = small.term.correlation, large.term.correlation
    if not own:
        return other not in _SPATIAL
    if own != other and other not in _WITHIN.get(own, ()):
        return False
    if small.term.nugget and not large.term.nugget:
        return False
    if own not in ("cs", "symm") or other not in ("cs", "symm"):
        units = (r.structures[0].correlation.unit for r in (small, large))
        one, two = (r.rows.places * unit for r, unit in zip((small, large), units, strict=True))
        if one.shape != two.shape or np.ptp(one - two, axis=1).any():
            return False
    return _alike(small.rows.subject, large.rows.subject)


def _spread_within(small: Residual, large: Residual) -> bool:
    one, two = small.rows, large.rows
    if small.term.spread == "one":
        return True
    if one.levels is not None:
        return two.levels is not None and _alike(one.levels, two.levels)
    same = small.term.spread == large.term.spread and two.covariate is not None
    return same and bool(np.array_equal(one.covariate, two.covariate))  # type: ignore[arg-type]


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two labellings divide the rows alike."""
    pairs = np.unique(np.stack([a, b]), axis=1).shape[1]
    return bool(pairs == np.unique(a).size == np.unique(b).size)
