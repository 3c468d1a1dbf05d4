"""Which residual covariances, and random effects of subjects, are special cases of others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..covariance.correlations import WITHIN
from ..formulas.residual import SPATIAL
from ..layouts.group_index import divide_alike, function_of
from .residual import Residual
from .terms import RandomTerm

# Correlations that stay what they are where all of them move towards one together.
_WITH_INTERCEPT = ("cs", "toep", "symm")


def residual_ends(small: Residual | None, large: Residual | None) -> int | None:
    """Parameters of a residual covariance at the end of their range where it is another one.

    None where it is never; no covariance stands for independent residuals of one variance. What
    is untold in the smaller one, such as the nugget of no correlation, counts as well.
    """
    if large is None or not _is_special_case(small, large):
        return 0 if small is None and large is None else None
    own = "" if small is None else small.term.correlation
    if large.term.correlation in ("arma11", "arma"):
        p, q = np.subtract(_order(large), _order(small))
        return 2 * int(min(p, q))  # any factor that both polynomials share
    if own:
        return int(large.term.nugget and not small.term.nugget)  # type: ignore[union-attr]
    # of spatial ones independence is at the end of their ranges
    return large.term.nugget + (large.term.correlation in SPATIAL)


def _order(residual: Residual | None) -> tuple[int, int]:
    """Orders p and q of residuals that are autoregressive moving averages, or independent."""
    return (0, 0) if residual is None else residual.term.order


def without_room(
    terms: Sequence[RandomTerm], small: Residual | None, large: Residual | None
) -> list[RandomTerm]:
    """Random effects of a smaller model that the residuals of a larger one have no room for.

    Covariances of the rows of a subject that any random effects of subjects lead to are special
    cases of one without restrictions, if their covariates depend on the visit alone; a random
    intercept adds one number to all covariances.
    """
    if large is None or large.term.nugget:
        return list(terms)
    return [term for term in terms if not _has_room(large, term, small)]


def _has_room(large: Residual, term: RandomTerm, small: Residual | None) -> bool:
    """Whether residuals may be what they are with a random effect of subjects beside them."""
    one_a_row = term.codes.shape[1] == 1
    if not one_a_row or term.relationship is not None or not large.term.correlation:
        return False
    if not divide_alike(term.codes[:, 0], large.rows.subject):
        return False
    values = term.values[:, 0]
    if large.term.correlation == "symm" and large.term.spread == "visits":
        visit = large.rows.places[0].astype(np.int64)
        rows = np.unique(values, axis=0, return_inverse=True)[1].reshape(-1)
        of_visit = function_of(visit, rows, int(visit.max()) + 1) is not None
        return of_visit and (small is None or not small.term.of)
    alike = small is None or not (small.term.spread != "one" or small.term.of or small.term.nugget)
    constant = values.shape[1] == 1 and not np.ptp(values[:, 0])
    return alike and constant and large.term.correlation in _WITH_INTERCEPT


def _is_special_case(small: Residual | None, large: Residual) -> bool:
    """Whether a residual covariance is what another is at some of its parameters."""
    if small is None:
        return True
    return (
        (small.arms is None or divide_alike(small.rows.arm, large.rows.arm))
        and _correlation_within(small, large)
        and _spread_within(small, large)
    )


def _correlation_within(small: Residual, large: Residual) -> bool:
    own, other = small.term.correlation, large.term.correlation
    if not own:
        return True
    if own != other and other not in WITHIN.get(own, ()):
        return False
    if other == "arma" and np.greater(_order(small), _order(large)).any():
        return False
    if small.term.nugget and not large.term.nugget and other != "symm":
        return False
    return divide_alike(small.rows.subject, large.rows.subject) and _places_within(small, large)


def _places_within(small: Residual, large: Residual) -> bool:
    """Whether the places of rows in the larger one tell their correlations in the smaller one."""
    if small.term.correlation == "cs":
        return True
    one, two = (r.rows.places * r.structures[0].correlation.unit for r in (small, large))
    if sorted(small.term.places) == sorted(large.term.places):  # axes in another order
        one = one[[small.term.places.index(name) for name in large.term.places]]
    if large.term.correlation not in ("symm", "ad"):  # distances
        return one.shape == two.shape and not np.ptp(one - two, axis=1).any()
    visit, place = (
        two[0].astype(np.int64),
        np.unique(one, axis=1, return_inverse=True)[1].reshape(-1),
    )
    place_of = function_of(visit, place, int(visit.max()) + 1)
    if place_of is None:
        return False
    return large.term.correlation == "symm" or bool((np.diff(place_of) > 0).all())


def _spread_within(small: Residual, large: Residual) -> bool:
    one, two = small.rows, large.rows
    if small.term.of:
        if small.term.of != large.term.of:
            return False
        both = small.term.follows_means and large.term.follows_means  # each its own means
        if not both and not np.array_equal(one.covariate, two.covariate):  # type: ignore[arg-type]
            return False
    if one.levels is not None:  # every arm has a standard deviation, at least
        own = two.arm if two.levels is None else two.arm * (two.levels.max() + 1) + two.levels
        return function_of(own, one.levels, int(own.max()) + 1) is not None
    return True
