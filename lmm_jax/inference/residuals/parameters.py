"""Parameters of a residual covariance as they are reported, and their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from ...covariance.residuals import SIGMA, ResidualStructure, arms_of, natural_values, terms_of
from ...covariance.structures import Structure
from ...covariance.theta import theta_size, theta_slices
from ...designs.residual import ResidualLabel
from ...errors import DataError
from ...inputs.arguments import items, numbers, shown
from ...inputs.matching import find, spelling
from ...numerics.taylor import Taylor, constant, stack, variables
from ..estimates import Estimates


class Natural(NamedTuple):
    """Functions of theta and log sigma^2, with derivatives in the residual parameters."""

    names: tuple[str, ...]
    at: np.ndarray  # (r,)  places of what they depend on in (theta, log sigma^2)
    values: Taylor  # (n,), derivatives in these places


def natural_parameters(theta: np.ndarray, scale: float, structures: Sequence[Structure]) -> Natural:
    """Standard deviations, correlations and ranges of the residuals.

    Parameters
    ----------
    theta : ndarray, shape (m,)
    scale : float
        ``sigma^2``.
    structures : sequence of Structure
        Of a layout: those of residuals come last.
    """
    first = theta_size(terms_of(structures))
    x = variables(np.append(theta[first:], np.log(scale)))
    found = natural_values(x, structures, variances=False)
    return Natural(tuple(found), np.arange(first, theta.size + 1), stack(list(found.values())))


def reported(at: Estimates, structures: Sequence[Structure]) -> tuple[Natural, np.ndarray]:
    """The parameters that are no other's, and their standard errors by the delta method, (n,)."""
    found = natural_parameters(at.theta_layout, at.scale, structures)
    kept = [i for i, name in enumerate(found.names) if name != SIGMA]
    values = found.values[np.array(kept, dtype=int)]
    J = np.swapaxes(values.first, 0, 1)
    cov = at.joint_cov[np.ix_(found.at, found.at)]
    with np.errstate(invalid="ignore"):
        errors = np.sqrt(np.sum(J @ cov * J, axis=1))
    still = _idle(at.theta_layout, structures)[found.at[:-1]]
    # at the end of their range, or so near that nothing of them is left in floats
    errors[(J[:, :-1][:, still] != 0).any(axis=1) | ~J.any(axis=1)] = np.nan
    return Natural(tuple(found.names[i] for i in kept), found.at, values), errors


def _idle(theta: np.ndarray, structures: Sequence[Structure]) -> np.ndarray:
    """Entries of theta at which a covariance is as at the end of its range, (m,)."""
    places, one = theta_slices(structures), np.ones(theta.size)
    own = [
        s.idle(theta[at], one[at]) | s.idle(theta[at], -one[at])
        for s, at in zip(structures, places, strict=True)
    ]
    return np.concatenate(own)


def residual_values(thetas: np.ndarray, scale: np.ndarray, label: ResidualLabel) -> np.ndarray:
    """The parameters that are reported, of many fits, (R, r); NaN without a variance.

    Parameters
    ----------
    thetas : ndarray, shape (R, m)
        Of the layout.
    scale : ndarray, shape (R,)
    label : ResidualLabel
    """
    out = np.full((len(thetas), len(residual_names(label))), np.nan)
    for i in np.flatnonzero(scale > 0):
        found = natural_parameters(thetas[i], scale[i], label.theta_structures)
        out[i] = np.asarray(found.values.value)[[name != SIGMA for name in found.names]]
    return out


def residual_names(label: ResidualLabel) -> tuple[str, ...]:
    """Names of the parameters that are reported."""
    zero = np.zeros(theta_size(label.theta_structures))
    found = natural_parameters(zero, 1.0, label.theta_structures)
    return tuple(name for name in found.names if name != SIGMA)


def natural_bend(
    at: Estimates, structures: Sequence[Structure], means: Sequence[float] | None
) -> np.ndarray:
    """``z_k = sum_a (J^-1)_ka sum_ij A_ij d2 psi_a``, (m + 1,); zero for random effects.

    What second derivatives in theta owe to its being no natural parameter: psi are variances,
    correlations and ranges, J their derivative and A the covariance of (theta, log sigma^2).
    Variances that follow a covariate are those at its mean, ``means`` of every arm, None where
    there is no covariate: where it is zero, in other units somewhere else, is nothing that tests
    should depend on.
    """
    first = theta_size(terms_of(structures))
    x = list(variables(np.append(at.theta_layout[first:], np.log(at.scale))))
    if means is not None:
        x = _at_means(x, structures, means)
    values = natural_values(x, structures, variances=True)
    places = np.arange(first, at.theta_layout.size + 1)
    found = Natural(tuple(values), places, stack(list(values.values())))
    cov = at.joint_cov[np.ix_(found.at, found.at)]
    second = np.einsum("kl,kla->a", cov, found.values.second)
    out = np.zeros(len(at.joint_cov))
    J = np.swapaxes(found.values.first, 0, 1)
    # phi, the correlation a unit apart, underflows where rows correlate over much less: no bend
    rows, columns = np.flatnonzero(J.any(axis=1)), np.flatnonzero(J.any(axis=0))
    size = np.abs(J[rows]).max(axis=1)
    inner = J[np.ix_(rows, columns)] / size[:, None]
    out[found.at[columns]] = np.linalg.lstsq(inner, second[rows] / size)[0]
    return out


def _at_means(
    x: list[Taylor], structures: Sequence[Structure], means: Sequence[float]
) -> list[Taylor]:
    """Parameters of residuals and log sigma^2 where covariates are at their means."""
    own = [s for s, _ in arms_of(structures)]
    starts = np.cumsum([0, *(s.n_params for s in own)])
    shifts = [
        x[start + s.spread.n_params - 1] * mean if s.spread.of else x[-1] * 0.0
        for s, start, mean in zip(own, starts, means, strict=False)
    ]
    out = list(x)
    for s, start, shift in zip(own[1:], starts[1:], shifts[1:], strict=False):
        for place in range(start, start + s.spread.n_levels):
            out[place] = x[place] + shift - shifts[0]
    out[-1] = x[-1] + shifts[0] * 2.0
    return out


# Scales on which the estimates are nearly normal, by the beginning of a name.
_LOG, _CORRELATIONS, _SHARES = ("sd", "range"), ("corr", "rho", "phi", "theta"), ("nugget",)


def intervals(
    values: pd.Series[float],
    errors: pd.Series[float],
    level: float,
    structures: Sequence[Structure],
) -> np.ndarray:
    """Limits, (n, 2): on the log scale or that of a logit, so that none is outside.

    Of a correlation between a and 1 that is the logit of ``(r - a) / (1 - a)``: Fisher's z where
    a is -1. Coefficients of an autoregressive moving average of more orders than one have no
    range of their own, and symmetric limits.

    Parameters
    ----------
    values, errors : Series
        By names as :func:`natural_parameters` gives them.
    level : float
    structures : sequence of Structure
        Of the layout.
    """
    lowest = {
        name: s.correlation.lowest
        for s, _ in arms_of(structures)
        for name in s.natural(variables(np.zeros(s.n_params)), constant(np.ones(()), s.n_params))
    }
    z = special.ndtri(0.5 + 0.5 * level) * np.array([-1.0, 1.0])
    out = np.empty((len(values), 2))
    with np.errstate(all="ignore"):
        for i, (name, x, se) in enumerate(zip(values.index, values, errors, strict=True)):
            kind = name.partition("[")[0]
            if kind in _LOG:
                out[i] = x * np.exp(z * se / x)
            elif kind in _SHARES or (kind in _CORRELATIONS and np.isfinite(lowest[name])):
                a = lowest[name] if kind in _CORRELATIONS else 0.0
                share = (x - a) / (1.0 - a)
                half = z * se / ((x - a) * (1.0 - share))
                out[i] = a + (1.0 - a) * special.expit(special.logit(share) + half)
            else:
                out[i] = x + z * se
    return out


def covariance_frame(
    at: Estimates,
    label: ResidualLabel,
    levels: Any = None,
    *,
    arm: str | None = None,
    stratum: Any = None,
    covariate: Any = None,
) -> pd.DataFrame:
    """Covariance of residuals at some visits, times or coordinates; see ``LMMResults``."""
    found = arms_of(label.theta_structures)
    arms = [s.arm for s, _ in found if s.arm is not None]
    if arm is None and len(arms) > 1:
        raise DataError(f"the residual covariance differs between {', '.join(arms)}: pass arm=")
    if arm is not None and not arms:
        raise DataError(f"arm={shown(arm)}: {label.text} has no arms")
    own, place = found[0 if arm is None else int(_places([arm], "arm", arms)[0])]
    if isinstance(levels, str | int | float | date | np.generic):  # one of them
        levels = [levels]
    independent = not (own.correlation.name or own.spread.levels)
    if levels is None and pd.api.types.is_list_like(covariate) and independent:
        levels = covariate  # rows named by it
    if levels is None and stratum is not None and not own.correlation.name:
        levels = [stratum]
    spots, names = _spots(own, label, levels)
    r = spots.shape[1]
    codes = _strata(own, label, names, stratum)[:, None] if own.spread.levels else None
    of = "the fitted value" if label.follows_means else "a covariate"
    x = _covariate(own, covariate, r, of)[:, None] if own.spread.of else None
    slopes = own.spread.slopes(codes, x, (r, 1))
    R = own.matrix(at.theta_layout[place], spots[..., None], slopes)[..., 0]
    return pd.DataFrame(at.scale * R, index=list(names), columns=list(names))


def _covariate(own: ResidualStructure, covariate: Any, r: int, of: str) -> np.ndarray:
    """The covariate of the standard deviations at every place, (r,)."""
    if covariate is None:
        raise DataError(
            f"standard deviations are {own.spread.of}() of {of}: "
            "pass covariate=, one number or one a level"
        )
    x = numbers(covariate, "covariate")
    if x.size not in (1, r):
        raise DataError(f"covariate has {x.size} numbers for {r} levels")
    if own.spread.of == "power" and (x == 0).any():
        raise DataError("covariate=0: power() has no variance there")
    return np.broadcast_to(x.ravel(), (r,))


def _spots(
    own: ResidualStructure, label: ResidualLabel, levels: Any
) -> tuple[np.ndarray, list[Any]]:
    """Places, (d, r), of visits or coordinates, and their names."""
    if own.correlation.name == "":
        strata = own.spread.levels or ("all rows",)
        names = list(strata) if levels is None else _texts(levels)
        return np.zeros((1, len(names))), names
    if label.visits:
        codes = list(range(len(label.visits)))
        if levels is not None:
            asked = items(levels, "levels", "names of levels are needed")
            codes = _places(asked, "visit", label.visits).tolist()
        names = [label.visits[c] for c in codes]
        spots = label.distances if not own.correlation.levels_are_codes else ()
        return np.array([[spots[c] if spots else c for c in codes]], dtype=float), names
    if levels is None:
        raise DataError(f"{label.text} has no visits: pass levels=, times or coordinates")
    if isinstance(levels, pd.DataFrame):
        levels = _columns_of(levels, label)
    at = numbers(levels, "levels")
    at = at[:, None] if at.ndim == 1 else at
    d = label.n_coordinates
    if at.ndim != 2 or at.shape[1] != d:
        raise DataError(
            f"levels has the shape {np.shape(levels)}: {d} "
            f"coordinate{'s' * (d > 1)} a row are needed, as in {label.text}"
        )
    names = [f"{row[0]:g}" if d == 1 else f"({', '.join(f'{x:g}' for x in row)})" for row in at]
    return own.correlation.placed(at.T), names


def _columns_of(levels: pd.DataFrame, label: ResidualLabel) -> np.ndarray:
    """The columns of a frame that are the coordinates, in their order."""
    if set(levels.columns) != set(label.places):
        raise DataError(
            f"levels has the columns {', '.join(map(str, levels.columns))}: those of {label.text} "
            f"are {', '.join(label.places)}"
        )
    return levels[list(label.places)].to_numpy()


def _texts(levels: Any) -> list[str]:
    return [spelling(level) for level in items(levels, "levels", "names of levels are needed")]


def _strata(
    own: ResidualStructure, label: ResidualLabel, names: Sequence[Any], stratum: Any
) -> np.ndarray:
    """Level of the standard deviation at every place."""
    known = own.spread.levels
    of_visits = known == label.visits and not label.strata
    if of_visits or (own.correlation.name == "" and stratum is None):
        return _places(names, "stratum", known)
    if stratum is None and label.strata_of_visits:
        visits = _places(names, "visit", label.visits)
        return np.array(label.strata_of_visits)[visits]
    if stratum is None:
        raise DataError(
            f"standard deviations differ between {', '.join(known)}: pass stratum=, one or one a "
            "level"
        )
    several = isinstance(stratum, list | tuple | np.ndarray | pd.Series | pd.Index)
    asked = list(stratum) if several else [stratum] * len(names)
    if len(asked) != len(names):
        count = f"{len(asked)} label{'s' * (len(asked) != 1)}"
        raise DataError(f"stratum has {count} for {len(names)} levels")
    return _places(asked, "stratum", known)


def _places(labels: Sequence[Any], what: str, known: Sequence[str]) -> np.ndarray:
    """Places of labels among the known ones: 8, 8.0 and "8" are one, and so are dates."""
    at = find(pd.Index(known), pd.Index(labels, dtype=object, tupleize_cols=False), what)
    if (at < 0).any():
        missing = labels[int(np.argmax(at < 0))]
        raise DataError(f"no {what} {shown(missing)}: there are {', '.join(known)}")
    return at
