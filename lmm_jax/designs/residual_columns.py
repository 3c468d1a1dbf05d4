"""The columns of a residual covariance, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..covariance.arma import AutoregressiveMovingAverage, FirstOrders
from ..covariance.correlations import Correlation, Independent
from ..covariance.distances import Autoregressive, Toeplitz
from ..covariance.residuals import ResidualStructure, Spread
from ..covariance.separable import SeparableAutoregressive
from ..covariance.spatial import Continuous, Exponential, Gaussian, Rational, Spatial, Spherical
from ..covariance.visits import Antedependent, General, Symmetric
from ..errors import DataError, OrderWarning, warn_user
from ..formulas import matrices as mat
from ..formulas.residual import SEPARABLE, ResidualTerm
from ..inputs.matching import spelled
from ..inputs.series import since
from ..layouts.group_index import rank_within
from ..layouts.residual.index import ResidualRows
from .bars import group_factor, warn_of_order
from .residual import MOST_VISITS, Residual
from .residual_checks import check_told, longest_distance, warn_of_steps
from .terms import factor_codes

# Whole numbers beyond which they look more like a covariate than like visits.
_MANY_NUMBERS = 8
# Whole numbers that floats hold.
_EXACT = 2.0**53
# Subjects whose distances say what a typical one is.
_SAMPLE = 200
_CORRELATIONS: dict[str, type[Correlation]] = {
    "": Independent,
    **{
        kind.name: kind
        for kind in (
            General, Symmetric, Autoregressive, FirstOrders, AutoregressiveMovingAverage,
            Antedependent, Toeplitz, Continuous, Exponential, Gaussian, Rational, Spherical,
            SeparableAutoregressive,
        )
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class _Places:
    """Where the rows are."""

    codes: np.ndarray | None  # (n,)  visit of every row among those that there are
    visits: pd.Index[Any] | None
    at: np.ndarray  # (d, n)  numbers that distances are taken of


def residual_of_rows(
    term: ResidualTerm, data: pd.DataFrame, context: Mapping[str, Any]
) -> Residual:
    """Read the columns of a residual covariance.

    Raises
    ------
    DataError
        A visit that stands twice in a subject, numbers that are no visits, a zero in ``power``.
    """
    n = len(data)
    state: dict[str, Any] = {}
    arm, arms = _factor(term.by, data, context, state)
    subject, subjects = _subjects(term, arm, data, context, state)
    n_subjects = int(subject.max(initial=-1)) + 1
    places = _places(term, subject, n_subjects, data, context, state)
    levels, strata, x = _spread_of(term, places, data, context, state)
    names = strata if strata is not None else places.visits if term.spread == "visits" else None
    labels = tuple(spelled(names)) if names is not None else ()
    if term.correlation:
        _check_repeats(term, subject, subjects, places)
    at, options = _in_units(term, places, subject)
    rows = ResidualRows(
        structures=_structures(term, labels, options, subject, arm, arms),
        arm=np.zeros(n, np.int64) if arms is None else arm,
        subject=subject,
        n_subjects=n_subjects,
        places=at,
        levels=levels,
        covariate=x,
    )
    check_told(term, rows)
    warn_of_steps(term, rows, places.visits)
    return Residual(
        term=term,
        rows=rows,
        subjects=subjects,
        visits=places.visits,
        arms=arms,
        strata=strata,
        visit_places=_visit_places(places.codes, at),
        state=state,
    )


def _structures(
    term: ResidualTerm,
    labels: tuple[str, ...],
    options: Mapping[str, Any],
    subject: np.ndarray,
    arm: np.ndarray,
    arms: pd.Index[Any] | None,
) -> tuple[ResidualStructure, ...]:
    """A covariance an arm, of the visits or strata that have a standard deviation of their own."""
    kind, counts = _CORRELATIONS[term.correlation], np.bincount(subject)
    return tuple(
        ResidualStructure(
            correlation=kind(width=_width(counts, arm, subject, a), **options),
            spread=Spread(levels=labels, of=term.of, anchored=a == 0),
            arm=None if arms is None else spelled(arms)[a],
        )
        for a in range(1 if arms is None else len(arms))
    )


def _in_units(
    term: ResidualTerm, places: _Places, subject: np.ndarray
) -> tuple[np.ndarray, dict[str, Any]]:
    """Where rows are, (d, n), in units of the correlation, and what it knows of distances."""
    kind = _CORRELATIONS[term.correlation]
    at = places.codes[None].astype(float) if kind.levels_are_codes else places.at  # type: ignore[index]
    options: dict[str, Any] = {}
    if kind.levels_are_codes:
        assert places.visits is not None
        options["levels"] = tuple(spelled(places.visits))
    elif kind is Toeplitz:
        step = max(float(np.gcd.reduce(at[0].astype(np.int64))), 1.0)
        at = at / step
        count = int(at.max(initial=0)) + 1
        _check_count(term, count, "distances")
        options |= {"unit": step, "levels": tuple(map(str, range(count)))}
    _check_count(term, len(options.get("levels", ())), "visits")
    if issubclass(kind, Spatial):
        unit, least = _neighbours(at, subject)
        # what ends at the range has to know the distance; of others a size will do, and programs
        # are for many data sets
        gap = least if kind is Spherical else 2.0 ** np.floor(np.log2(least))
        options |= {"unit": unit, "nugget": term.nugget, "gap": float(gap) / unit}
        at = at / unit
    elif kind is SeparableAutoregressive:
        steps = [float(np.gcd.reduce((x - x.min()).astype(np.int64))) or 1.0 for x in at]
        at = at / np.array(steps)[:, None]
        reach = max(int(longest_distance(term, at)), 1)
        options |= {"names": term.places, "nugget": term.nugget, "reach": reach}
        options |= {"steps": tuple(steps)}
    elif kind.takes_gap:
        if issubclass(kind, AutoregressiveMovingAverage):
            options |= _orders(term, at)
        options["gap"] = max(_neighbours(at, subject)[0], 1.0)
    return at, options


def _check_count(term: ResidualTerm, count: int, what: str) -> None:
    """There are not too many visits, or distances of them, for a parameter each."""
    if count > MOST_VISITS:
        raise DataError(
            f"{term.text} has {count} {what}, up to {MOST_VISITS} are taken: choose a covariance "
            "of fewer parameters, such as ar1, or `(1 + x | g)` where a random slope is meant"
        )


def _orders(term: ResidualTerm, at: np.ndarray) -> dict[str, int]:
    """Orders of an autoregressive moving average, and how far its correlations are listed."""
    p, q = term.order
    return {"p": p, "q": q, "reach": max(int(longest_distance(term, at)), 1)}


def _visit_places(codes: np.ndarray | None, at: np.ndarray) -> np.ndarray | None:
    if codes is None:
        return None
    out = np.zeros(int(codes.max(initial=-1)) + 1)
    out[codes] = at[0]
    return out


def _width(counts: np.ndarray, arm: np.ndarray, subject: np.ndarray, a: int) -> int:
    """Rows of the largest subject of an arm."""
    return int(counts[subject[arm == a]].max(initial=1))


def _factor(
    expressions: tuple[str, ...],
    data: pd.DataFrame,
    context: Mapping[str, Any],
    state: dict[str, Any],
) -> tuple[np.ndarray, pd.Index[Any] | None]:
    if not expressions:
        return np.zeros(len(data), np.int64), None
    return group_factor(expressions, data, context, state)


def _subjects(
    term: ResidualTerm,
    arm: np.ndarray,
    data: pd.DataFrame,
    context: Mapping[str, Any],
    state: dict[str, Any],
) -> tuple[np.ndarray, pd.Index[Any] | None]:
    if not term.correlation:
        return np.arange(len(data)), None
    code, labels = _factor(term.group, data, context, state)
    if labels is None or not term.by:
        return code, labels
    pair, code = np.unique(arm * len(labels) + code, return_inverse=True)
    return code, labels[pair % len(labels)]


def _places(
    term: ResidualTerm,
    subject: np.ndarray,
    n_subjects: int,
    data: pd.DataFrame,
    context: Mapping[str, Any],
    state: dict[str, Any],
) -> _Places:
    if not term.correlation:
        return _Places(codes=None, visits=None, at=np.zeros((1, len(data))))
    if term.counts_rows:
        if "row" in data.columns:
            warn_user(
                f"`row` in {term.text} counts the rows of a subject, and the column `row` is not "
                "read: rename it where it holds the visits",
                OrderWarning,
            )
        rank = rank_within(subject, n_subjects)
        visits = pd.RangeIndex(int(rank.max(initial=0)) + 1)
        return _Places(codes=rank, visits=visits, at=rank[None].astype(float))
    if term.in_space:
        return _Places(codes=None, visits=None, at=coordinates(term, data, context, state))
    return _visits(term, mat.labels(term.places[0], data, context=context, state=state))


def coordinates(
    term: ResidualTerm, data: pd.DataFrame, context: Mapping[str, Any], state: dict[str, Any]
) -> np.ndarray:
    """Where rows are in space, (d, n); of a field's rows and columns their whole numbers."""
    if term.correlation != SEPARABLE:
        found = [mat.evaluate(e, data, context=context, state=state) for e in term.places]
        return np.stack(found)
    return np.stack([_positions(term, e, data, context, state) for e in term.places])


def _positions(
    term: ResidualTerm,
    name: str,
    data: pd.DataFrame,
    context: Mapping[str, Any],
    state: dict[str, Any],
) -> np.ndarray:
    """Whole numbers of a field's rows or columns, as numbers or as labels."""
    labels = mat.labels(name, data, context=context, state=state)
    values = labels.cat.categories if isinstance(labels.dtype, pd.CategoricalDtype) else labels
    numbers = pd.to_numeric(pd.Series(np.asarray(labels, dtype=object)), errors="coerce")
    at, no_numbers = numbers.to_numpy(dtype=float), values.dtype.kind in "Mmb"  # dates, logicals
    if no_numbers or not ((np.abs(at) < _EXACT) & (at == np.round(at))).all():
        raise DataError(
            f"`{name}` in {term.text} has values that are no whole numbers: number the rows and "
            "the columns of the field, or take sp_exp of coordinates"
        )
    return at


def _visits(term: ResidualTerm, labels: pd.Series[Any]) -> _Places:
    """Visits in their order: of whole numbers, of categories, or of text as it is sorted."""
    name = term.places[0]
    if labels.dtype.kind == "c" or pd.api.types.infer_dtype(labels) == "complex":
        raise DataError(f"`{name}` in {term.text} has complex numbers: visits have an order")
    numeric = pd.api.types.is_numeric_dtype(labels.dtype)
    if numeric and not pd.api.types.is_bool_dtype(labels.dtype) and not term.steps:
        numbers = labels.to_numpy(dtype=float)
        if np.isinf(numbers).any():
            raise DataError(f"`{name}` in {term.text} is infinite in some rows: visits are finite")
        if not (numbers == np.round(numbers)).all():
            raise DataError(
                f"`{name}` in {term.text} is no visit: it has fractions. Take `car1({name} | …)` "
                f"or `sp_exp({name} | …)` for times, `(1 + {name} | …)` for a random slope"
            )
        codes, visits = factor_codes(labels)
        if term.correlation == "symm" and _MANY_NUMBERS < len(visits) <= MOST_VISITS:
            warn_user(
                f"{term.text} is a covariance of the residuals at {len(visits)} visits, of "
                f"{len(visits) * (len(visits) - 1) // 2} correlations: a random slope of {name} is "
                f"`us(1 + {name} | …)`",
                OrderWarning,
            )
        return _Places(codes=codes, visits=visits, at=since(labels, labels.min())[None])
    codes, visits = factor_codes(labels)
    at = codes
    if isinstance(labels.dtype, pd.CategoricalDtype):
        at = labels.cat.codes.to_numpy().astype(np.int64)
        at = at - at.min(initial=0)
    elif not numeric:
        warn_of_order(f"the visits of {term.text}", list(spelled(visits)))
    return _Places(codes=codes, visits=visits, at=at[None].astype(float))


def _spread_of(
    term: ResidualTerm,
    places: _Places,
    data: pd.DataFrame,
    context: Mapping[str, Any],
    state: dict[str, Any],
) -> tuple[np.ndarray | None, pd.Index[Any] | None, np.ndarray | None]:
    """Level of the standard deviation of every row, labels of strata, and a covariate."""
    codes = places.codes if term.spread == "visits" else None
    reads = term.of and not term.follows_means
    x = _covariate(term, data, context, state) if reads else None
    if term.spread == "diag":
        name = ":".join(term.strata)
        codes, strata = group_factor(term.strata, data, context, state)
        if len(strata) == len(data):
            raise DataError(
                f"`{name}` has a level for every row: {term.text} would have as many "
                f"variances. Take `power({name})` or `expo({name})` of numbers"
            )
        if len(strata) == 1:
            raise DataError(
                f"`{name}` has one level, {spelled(strata)[0]}: {term.text} would have "
                "one variance, which every model has"
            )
        return codes, strata, x
    return codes, None, x


def _covariate(
    term: ResidualTerm, data: pd.DataFrame, context: Mapping[str, Any], state: dict[str, Any]
) -> np.ndarray:
    """The numbers that standard deviations are a function of."""
    name = term.covariate
    x = mat.evaluate(name, data, context=context, state=state)
    if term.of == "power" and (x == 0).any():
        raise DataError(
            f"`{name}` is zero in some rows, where power({name}) has no "
            f"variance: take `expo({name})`, or another unit of it"
        )
    return x


def _check_repeats(
    term: ResidualTerm, subject: np.ndarray, subjects: pd.Index[Any] | None, places: _Places
) -> None:
    """No subject has two rows at one visit."""
    if places.codes is None and term.nugget:
        return
    if places.codes is None:
        at = np.unique(places.at, axis=1, return_inverse=True)[1]
    else:
        at = places.codes
    key = subject * (int(at.max(initial=0)) + 1) + at
    _, first, count = np.unique(key, return_index=True, return_counts=True)
    if (count == 1).all():
        return
    row = int(first[np.argmax(count > 1)])
    found = "there are two rows"
    if subjects is not None:
        found = f"subject {spelled(subjects)[subject[row]]} has two rows"
    if places.codes is None:
        where = ", ".join(f"{x:g}" for x in places.at[:, row])
        raise DataError(
            f"{found} at {where} in {term.text}: their correlation would be 1. Add "
            "`nugget=True`, or take one row of them"
        )
    visit = spelled(places.visits)[places.codes[row]]  # type: ignore[arg-type]
    raise DataError(
        f"{found} at the visit {visit} in {term.text}: a subject is seen once at a "
        "visit. Average them, or give each a visit of its own"
    )


def _neighbours(at: np.ndarray, subject: np.ndarray) -> tuple[float, float]:
    """Distances of a row from the next one of its subject: a power of two near the median.

    And the shortest, of subjects and rows that are looked at.
    """
    order = np.argsort(subject, kind="stable")
    edges = np.flatnonzero(np.diff(subject[order])) + 1
    found = np.zeros(0)
    for rows in np.split(order, edges)[:_SAMPLE]:
        rows = rows[:_SAMPLE]
        gaps = at[:, rows, None] - at[:, None, rows]
        apart = np.sqrt(np.sum(gaps**2, axis=0))
        nearest = np.where(apart > 0, apart, np.inf).min(axis=0, initial=np.inf)
        found = np.append(found, nearest[np.isfinite(nearest)])
    if not found.size:
        return 1.0, 1.0
    return float(2.0 ** np.round(np.log2(np.median(found)))), float(found.min())
