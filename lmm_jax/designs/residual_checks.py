"""Whether the rows tell of every parameter of a residual covariance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from ..covariance.residuals import ResidualStructure
from ..errors import DataError, OrderWarning, warn_user
from ..formulas.residual import SEPARABLE, ResidualTerm
from ..layouts.residual.index import ResidualRows

# A correlation of neighbours that is on its way below zero, and cannot go there.
_NO_CORRELATION = 1e-6
# Distances of visits whose correlations are listed, each with its derivatives: up to 43 numbers.
_MOST_LAGS = 100_000


def check_told(term: ResidualTerm, rows: ResidualRows) -> None:
    """Some rows tell of every parameter, arm by arm."""
    for a, structure in enumerate(rows.structures):
        mine = np.flatnonzero(rows.arm == a)
        where = "" if structure.arm is None else f" where {':'.join(term.by)} is {structure.arm}"
        if not mine.size:
            raise DataError(f"there are no rows{where}: {term.text} has parameters of it")
        if rows.levels is not None:
            labels = structure.spread.levels
            count = np.bincount(rows.levels[mine], minlength=len(labels))
            if not count.all():
                raise DataError(
                    f"there are no rows of {labels[int(np.argmin(count))]}{where}: {term.text} has "
                    "a standard deviation of it"
                )
        if term.of and rows.covariate is not None:
            _check_covariate(term, rows, mine, where)
        if term.correlation:
            _check_pairs(term, structure, rows.subject[mine], rows.places[0, mine], where)
        if term.correlation == SEPARABLE:
            _check_axes(term, rows.subject[mine], rows.places[:, mine], where)


def warn_of_steps(term: ResidualTerm, rows: ResidualRows, visits: pd.Index[Any] | None) -> None:
    """Warn of coefficients of steps of one, where no two rows are one apart."""
    if not term.correlation.startswith("arma"):
        return
    step = max(_common_steps(term, rows, visits))
    if step > 1:
        warn_user(
            f"the coefficients of {term.text} are of steps of 1, and the visits of a subject are "
            f"multiples of {step} apart: {_count_visits(term)}",
            OrderWarning,
        )


def warn_at_zero(
    term: ResidualTerm,
    rows: ResidualRows,
    visits: pd.Index[Any] | None,
    params: pd.Series[float],
) -> None:
    """Warn of a correlation at zero, below which a power of it does not or hardly go."""
    if term.correlation != "ar1":
        return
    for structure, step in zip(rows.structures, _common_steps(term, rows, visits), strict=True):
        rho = params["rho" if structure.arm is None else f"rho[{structure.arm}]"]
        if step > 1 and abs(rho) ** step < _NO_CORRELATION:
            bar = "is flat at zero" if step % 2 else "is never negative"
            warn_user(
                f"rho of {term.text} is zero, where a negative correlation of neighbours would be "
                f"more likely: the visits of a subject are multiples of {step} apart, and "
                f"rho^{step} {bar}; {_count_visits(term)}",
                OrderWarning,
            )
            return


def _common_steps(
    term: ResidualTerm, rows: ResidualRows, visits: pd.Index[Any] | None
) -> list[int]:
    """Of every arm the number of which all distances of a subject's visits are multiples.

    One where visits are counted, and no numbers.
    """
    numbers = visits is not None and pd.api.types.is_numeric_dtype(visits.dtype)
    if not numbers or term.steps or term.counts_rows:
        return [1] * len(rows.structures)
    steps = []
    for a in range(len(rows.structures)):
        mine = np.flatnonzero(rows.arm == a)
        mine = mine[np.argsort(rows.subject[mine], kind="stable")]
        gaps = np.diff(rows.places[0, mine])[np.diff(rows.subject[mine]) == 0]
        steps.append(int(np.gcd.reduce(np.abs(gaps).astype(np.int64))))
    return steps


def _count_visits(term: ResidualTerm) -> str:
    name = term.places[0]
    return f"`factor({name})` in the place of `{name}` counts visits, whatever their numbers"


def longest_distance(term: ResidualTerm, at: np.ndarray) -> float:
    """The largest distance along an axis of places (d, n), by which correlations are listed.

    Raises
    ------
    DataError
        More of them than are listed.
    """
    reach = float(np.ptp(at, axis=1).max()) if at.size else 1.0
    if term.correlation.startswith(("arma", SEPARABLE)) and reach > _MOST_LAGS:
        raise DataError(
            f"the places of {term.text} are up to {reach:g} apart, {_MOST_LAGS:,} at most are "
            "taken: count them in a larger unit, or take car1 of the time"
        )
    return reach


def _check_covariate(term: ResidualTerm, rows: ResidualRows, mine: np.ndarray, where: str) -> None:
    """The covariate of standard deviations varies beside their levels."""
    x = rows.covariate[mine]  # type: ignore[index]
    x = np.abs(x) if term.of == "power" else x
    levels = np.zeros(mine.size, np.int64) if rows.levels is None else rows.levels[mine]
    order = np.lexsort((x, levels))
    x, levels = x[order], levels[order]
    if not ((x[1:] != x[:-1]) & (levels[1:] == levels[:-1])).any():
        among = "" if rows.levels is None else " within every level of the standard deviations"
        raise DataError(
            f"`{term.covariate}` is the same in all rows{among}{where}: {term.text} has a "
            f"parameter of it that nothing tells. Leave {term.of}() out"
        )


def _check_pairs(
    term: ResidualTerm,
    structure: ResidualStructure,
    subject: np.ndarray,
    place: np.ndarray,
    where: str,
) -> None:
    """Every correlation is that of two rows of some subject."""
    if np.bincount(subject).max(initial=0) < 2:
        raise DataError(
            f"no `{':'.join(term.group)}` has two rows{where}: {term.text} has no correlation to "
            "estimate. Name the column of the subjects behind the bar, or leave the correlation "
            "out, as in `diag(…)`"
        )
    if term.correlation == "arma":
        _check_lags(term, subject, place.astype(np.int64), where)
    T = len(structure.correlation.levels)
    if not T:
        return
    shape = int(subject.max()) + 1, T
    seen = sparse.csr_matrix((np.ones(subject.size), (subject, place.astype(np.int64))), shape)
    untold = structure.untold((seen.T @ seen).toarray() > 0)
    if untold:
        others = f" and {len(untold) - 1} other parameters" if len(untold) > 1 else ""
        far = "make the visits a categorical, whose distances count visits, or "
        raise DataError(
            f"no two rows of a subject tell of {untold[0]}{others} of {term.text}: "
            f"{far * (term.correlation == 'toep')}take a covariance of fewer parameters, such as "
            "`ar1(…)` or `cs(…)`, or leave rare visits out"
        )


def _check_axes(term: ResidualTerm, subject: np.ndarray, places: np.ndarray, where: str) -> None:
    """Some plots of a field are in different rows, and some in different columns."""
    for name, place in zip(term.places, places, strict=True):
        order = np.lexsort((place, subject))
        there = (np.diff(place[order]) != 0) & (np.diff(subject[order]) == 0)
        if not there.any():
            raise DataError(
                f"no two plots of a field have different values of `{name}`{where}: {term.text} "
                "has a correlation along it that nothing tells. Take `ar1()` of the other one"
            )


def _check_lags(term: ResidualTerm, subject: np.ndarray, place: np.ndarray, where: str) -> None:
    """Rows are at as many distances as an autoregressive moving average has parameters.

    Averages alone correlate rows up to q apart.
    """
    p, q = term.order
    place = place - place.min()
    reach = int(place.max()) if p else min(int(place.max()), q)
    seen = sparse.csc_matrix(
        (np.ones(subject.size), (subject, place)), (int(subject.max()) + 1, int(place.max()) + 1)
    )
    told = 0
    for lag in range(1, reach + 1):
        told += seen[:, lag:].multiply(seen[:, :-lag]).nnz > 0
        if told == p + q:
            return
    apart = "" if p else f" of {q} at most"
    raise DataError(
        f"the rows of a subject are at {told} distance{'s' * (told != 1)}{apart}{where}, and "
        f"{term.text} has {p + q} parameter{'s' * (p + q != 1)}: take lower orders"
    )
