"""The residual covariance of a design: subjects, visits and strata of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from ..covariance.correlations import (
    Antedependent,
    Correlation,
    General,
    Independent,
    Symmetric,
)
from ..covariance.distances import (
    Autoregressive,
    Continuous,
    Exponential,
    Gaussian,
    MovingAverage,
    Spatial,
    Toeplitz,
)
from ..covariance.residuals import ResidualStructure, Spread
from ..covariance.structures import Structure
from ..errors import DataError, OrderWarning, warn_user
from ..formulas import matrices as mat
from ..formulas.residual import ResidualTerm
from ..inputs.matching import spelled
from ..layouts.group_index import rank_within
from ..layouts.residual.index import ResidualRows
from ..reprs import brief
from .bars import group_factor, warn_of_order
from .terms import factor_codes

# Visits beyond which a whole covariance is no use: it would have thousands of parameters.
_MOST_VISITS = 60
# Whole numbers beyond which they look more like a covariate than like visits.
_MANY_NUMBERS = 8
# Subjects whose distances say what a typical one is.
_SAMPLE = 200
_CORRELATIONS: dict[str, type[Correlation]] = {
    "": Independent,
    **{
        kind.name: kind
        for kind in (
            General, Symmetric, Autoregressive, MovingAverage, Antedependent, Toeplitz,
            Continuous, Exponential, Gaussian,
        )
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Residual:
    """What a formula's residual covariance is for the rows of a design."""

    term: ResidualTerm
    rows: ResidualRows
    subjects: pd.Index[Any] | None  # labels; None: every row is one, or all rows are
    visits: pd.Index[Any] | None  # in their order; None where places are coordinates
    arms: pd.Index[Any] | None
    strata: pd.Index[Any] | None  # levels of diag()
    visit_places: np.ndarray | None  # (V,)  where distances put the visits

    __repr__ = brief

    @property
    def structures(self) -> tuple[ResidualStructure, ...]:
        """One an arm."""
        return self.rows.structures

    @property
    def text(self) -> str:
        """As written in the formula."""
        return self.term.text

    def kept(self, keep: np.ndarray) -> Residual:
        """The same for some of the rows; subjects that have none of them are gone.

        Raises
        ------
        DataError
            None of these rows tell of a parameter.
        """
        rows = self.rows.take(np.flatnonzero(keep))
        _check_told(self.term, rows)
        used, subject = np.unique(rows.subject, return_inverse=True)
        return replace(
            self,
            rows=replace(rows, subject=subject.reshape(-1), n_subjects=len(used)),
            subjects=None if self.subjects is None else self.subjects[used],
        )

    def without_rows(self) -> Residual:
        """The same with its labels alone."""
        return replace(self, rows=self.rows.take(np.zeros(0, np.int64)), subjects=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class ResidualLabel:
    """What a result needs to know of a residual covariance without its rows."""

    text: str
    structures: tuple[Structure, ...]  # of theta: random effects, then residuals
    visits: tuple[str, ...]  # empty where places are coordinates
    distances: tuple[float, ...]  # of every visit, where distances are taken of numbers
    strata: tuple[str, ...]
    n_coordinates: int = 1  # of a place
    correlates: bool  # rows of a subject, or has variances alone

    def __str__(self) -> str:
        return self.text


class VisitCounts(NamedTuple):
    """Who was seen how often: what SAS and mmrm print above their estimates."""

    subject: str  # the column of the subjects
    n_subjects: int
    fewest: int  # rows of a subject
    most: int
    n_visits: int  # 0 where places are coordinates
    n_patterns: int  # sets of visits that subjects have; 0 where there are too many visits


def visit_counts(residual: Residual | None) -> VisitCounts | None:
    """Counts of a design's subjects and of the visits at which they were seen."""
    if residual is None or residual.subjects is None:
        return None
    rows = residual.rows
    counts = np.bincount(rows.subject, minlength=rows.n_subjects)
    n_visits = 0 if residual.visits is None else len(residual.visits)
    n_patterns = 0
    if 0 < n_visits <= _MOST_VISITS:
        codes = np.unique(rows.places[0], return_inverse=True)[1]
        seen = np.zeros(rows.n_subjects, np.uint64)  # a bit a visit
        np.bitwise_or.at(seen, rows.subject, np.uint64(1) << codes.astype(np.uint64))
        n_patterns = np.unique(seen).size
    return VisitCounts(
        subject=":".join(residual.term.group),
        n_subjects=rows.n_subjects,
        fewest=int(counts.min()),
        most=int(counts.max()),
        n_visits=n_visits,
        n_patterns=n_patterns,
    )


def residual_label(
    residual: Residual | None, structures: tuple[Structure, ...]
) -> ResidualLabel | None:
    """The label of a design's residual covariance; structures are those of its terms."""
    if residual is None:
        return None
    named = [() if x is None else tuple(spelled(x)) for x in (residual.visits, residual.strata)]
    places = residual.visit_places
    return ResidualLabel(
        text=residual.text,
        structures=structures + residual.structures,
        visits=named[0],
        distances=() if places is None else tuple(places.tolist()),
        strata=named[1],
        correlates=bool(residual.term.correlation),
        n_coordinates=len(residual.rows.places),
    )


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
    arm, arms = _factor(term.by, data, context)
    subject, subjects = _subjects(term, arm, data, context)
    n_subjects = int(subject.max(initial=-1)) + 1
    places = _places(term, subject, n_subjects, data, context)
    kind = _CORRELATIONS[term.correlation]
    levels, strata, x = _spread_of(term, places, data, context)
    spread = {"visits": "levels", "diag": "levels"}.get(term.spread, term.spread)
    names = strata if strata is not None else places.visits if spread == "levels" else None
    labels = tuple(spelled(names)) if names is not None else ()
    if term.correlation:
        _check_repeats(term, subject, subjects, places)
    at = places.codes[None].astype(float) if kind.levels_are_codes else places.at  # type: ignore[index]
    options: dict[str, Any] = {}
    if kind.levels_are_codes:
        assert places.visits is not None
        options["levels"] = tuple(spelled(places.visits))
    elif kind is Toeplitz:
        step = max(float(np.gcd.reduce(at[0].astype(np.int64))), 1.0)
        at = at / step
        options |= {"unit": step, "levels": tuple(map(str, range(int(at.max(initial=0)) + 1)))}
    if len(options.get("levels", ())) > _MOST_VISITS:
        what = "distances" if kind is Toeplitz else "visits"
        raise DataError(
            f"{term.text} has {len(options['levels'])} {what}, up to {_MOST_VISITS} are taken: "
            "choose a covariance of fewer parameters, such as ar1, or `(1 + x | g)` where a "
            "random slope is meant"
        )
    if issubclass(kind, Spatial):
        unit = _neighbours(at, subject)
        options |= {"unit": unit, "nugget": term.nugget}
        at = at / unit
    elif kind in (Autoregressive, MovingAverage):
        options["gap"] = max(_neighbours(at, subject), 1.0)
    counts = np.bincount(subject, minlength=n_subjects)
    structures = tuple(
        ResidualStructure(
            correlation=kind(width=_width(counts, arm, subject, a), **options),
            spread=Spread(kind=spread, levels=labels, anchored=a == 0),
            arm=None if arms is None else spelled(arms)[a],
        )
        for a in range(1 if arms is None else len(arms))
    )
    rows = ResidualRows(
        structures=structures,
        arm=np.zeros(n, np.int64) if arms is None else arm,
        subject=subject,
        n_subjects=n_subjects,
        places=at,
        levels=levels,
        covariate=x,
    )
    _check_told(term, rows)
    return Residual(
        term=term,
        rows=rows,
        subjects=subjects,
        visits=places.visits,
        arms=arms,
        strata=strata,
        visit_places=_visit_places(places.codes, at),
    )


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
    expressions: tuple[str, ...], data: pd.DataFrame, context: Mapping[str, Any]
) -> tuple[np.ndarray, pd.Index[Any] | None]:
    if not expressions:
        return np.zeros(len(data), np.int64), None
    return group_factor(expressions, data, context)


def _subjects(
    term: ResidualTerm, arm: np.ndarray, data: pd.DataFrame, context: Mapping[str, Any]
) -> tuple[np.ndarray, pd.Index[Any] | None]:
    if not term.correlation:
        return np.arange(len(data)), None
    code, labels = _factor(term.group, data, context)
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
    if issubclass(_CORRELATIONS[term.correlation], Spatial):
        coordinates = [mat.evaluate(e, data, context=context) for e in term.places]
        return _Places(codes=None, visits=None, at=np.stack(coordinates))
    return _visits(term, mat.labels(term.places[0], data, context=context))


def _visits(term: ResidualTerm, labels: pd.Series[Any]) -> _Places:
    """Visits in their order: of whole numbers, of categories, or of text as it is sorted."""
    name = term.places[0]
    if pd.api.types.is_numeric_dtype(labels.dtype) and not pd.api.types.is_bool_dtype(labels.dtype):
        numbers = labels.to_numpy(dtype=float)
        if np.isinf(numbers).any():
            raise DataError(f"`{name}` in {term.text} is infinite in some rows: visits are finite")
        if not (numbers == np.round(numbers)).all():
            raise DataError(
                f"`{name}` in {term.text} is no visit: it has fractions. Take `car1({name} | …)` "
                f"or `sp_exp({name} | …)` for times, `(1 + {name} | …)` for a random slope"
            )
        codes, visits = factor_codes(labels)
        if term.correlation == "symm" and _MANY_NUMBERS < len(visits) <= _MOST_VISITS:
            warn_user(
                f"{term.text} is a covariance of the residuals at {len(visits)} visits, of "
                f"{len(visits) * (len(visits) - 1) // 2} correlations: a random slope of {name} is "
                f"`us(1 + {name} | …)`",
                OrderWarning,
            )
        return _Places(codes=codes, visits=visits, at=(numbers - numbers.min())[None])
    codes, visits = factor_codes(labels)
    at = codes
    if isinstance(labels.dtype, pd.CategoricalDtype):
        at = labels.cat.codes.to_numpy().astype(np.int64)
        at = at - at.min(initial=0)
    else:
        warn_of_order(f"the visits of {term.text}", list(spelled(visits)))
    return _Places(codes=codes, visits=visits, at=at[None].astype(float))


def _spread_of(
    term: ResidualTerm, places: _Places, data: pd.DataFrame, context: Mapping[str, Any]
) -> tuple[np.ndarray | None, pd.Index[Any] | None, np.ndarray | None]:
    """Level of the standard deviation of every row, labels of strata, and a covariate."""
    if term.spread == "visits":
        return places.codes, None, None
    name = ":".join(term.covariate)
    if term.spread == "diag":
        codes, strata = group_factor(term.covariate, data, context)
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
        return codes, strata, None
    if term.spread == "one":
        return None, None, None
    x = mat.evaluate(name, data, context=context)
    if term.spread == "power" and (x == 0).any():
        raise DataError(
            f"`{name}` is zero in some rows, where power({name}) has no "
            f"variance: take `expo({name})`, or another unit of it"
        )
    return None, None, x


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


def _check_told(term: ResidualTerm, rows: ResidualRows) -> None:
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
        if term.correlation:
            _check_pairs(term, structure, rows.subject[mine], rows.places[0, mine], where)


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


def _neighbours(at: np.ndarray, subject: np.ndarray) -> float:
    """A power of two near the median distance of a row from the next one of its subject."""
    order = np.argsort(subject, kind="stable")
    edges = np.flatnonzero(np.diff(subject[order])) + 1
    found = np.zeros(0)
    for rows in np.split(order, edges)[:_SAMPLE]:
        rows = rows[:_SAMPLE]
        gaps = at[:, rows, None] - at[:, None, rows]
        apart = np.sqrt(np.sum(gaps**2, axis=0))
        nearest = np.where(apart > 0, apart, np.inf).min(axis=0, initial=np.inf)
        found = np.append(found, nearest[np.isfinite(nearest)])
    return float(2.0 ** np.round(np.log2(np.median(found)))) if found.size else 1.0
