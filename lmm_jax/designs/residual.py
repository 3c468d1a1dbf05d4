"""The residual covariance of a design: subjects, visits and strata of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..covariance.residuals import ResidualStructure, arms_of
from ..covariance.structures import Structure
from ..errors import DataError
from ..formulas.residual import ResidualTerm
from ..formulas.residual_elsewhere import MEANS
from ..inputs.matching import spelled
from ..layouts.group_index import function_of
from ..layouts.residual.index import ResidualRows
from ..reprs import brief
from .residual_checks import check_told, warn_at_zero

# Visits beyond which a whole covariance is no use: it would have thousands of parameters.
MOST_VISITS = 60


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
    state: Mapping[str, Any]  # what expressions remember of the first data

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
        check_told(self.term, rows)
        used, subject = np.unique(rows.subject, return_inverse=True)
        return replace(
            self,
            rows=replace(rows, subject=subject.reshape(-1), n_subjects=len(used)),
            subjects=None if self.subjects is None else self.subjects[used],
        )

    @property
    def is_settled(self) -> bool:
        """Whether all that variances are a function of is known; not fitted values before a fit."""
        return not self.term.follows_means or self.rows.covariate is not None

    def check_settled(self) -> None:
        """Refuse what fitted values are needed for.

        Raises
        ------
        DataError
        """
        if not self.is_settled:
            raise DataError(
                f"the variances of {self.text} follow the fitted values, and there are none before "
                "a fit: take lmm.fit(design), and res.design of what it gives"
            )

    def warn_at_zero(self, params: pd.Series[float]) -> None:
        """Warn of a correlation at zero, where the visits are such that it cannot be negative."""
        warn_at_zero(self.term, self.rows, self.visits, params)

    def at_means(self, means: np.ndarray) -> Residual:
        """The same with variances that follow these means of the rows, (n,).

        Raises
        ------
        DataError
            Means that are all alike, or one of zero where the variance is a power of it.
        """
        rows = replace(self.rows, covariate=means)
        if self.term.of == "power" and (means == 0).any():
            raise DataError(
                f"{self.text}: a fitted value is zero, where there would be no variance: take "
                f"expo({MEANS})"
            )
        check_told(self.term, rows)
        return replace(self, rows=rows)

    def without_covariate(self) -> Residual | None:
        """The same without what variances follow; None where nothing is left."""
        term = replace(self.term, of="", covariate="")
        if not term.correlation and term.spread == "one":
            return None
        structures = tuple(
            replace(s, spread=replace(s.spread, of="")) for s in self.rows.structures
        )
        return replace(
            self, term=term, rows=replace(self.rows, structures=structures, covariate=None)
        )

    def without_rows(self) -> Residual:
        """The same with its labels alone."""
        return replace(self, rows=self.rows.take(np.zeros(0, np.int64)), subjects=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class ResidualLabel:
    """What a result needs to know of a residual covariance without its rows."""

    text: str
    theta_structures: tuple[Structure, ...]  # random effects, then residuals
    visits: tuple[str, ...]  # empty where places are coordinates
    distances: tuple[float, ...]  # of every visit, where distances are taken of numbers
    strata: tuple[str, ...]
    n_coordinates: int = 1  # of a place
    places: tuple[str, ...] = ()  # expressions of visits, times or coordinates
    correlates: bool  # rows of a subject, or has variances alone
    follows_means: bool = False  # variances are a function of the fitted values
    strata_of_visits: tuple[int, ...] = ()  # of every visit, where it tells the stratum

    @property
    def n_params(self) -> int:
        """Parameters of theta that are those of residuals."""
        return sum(residual.n_params for residual, _ in arms_of(self.theta_structures))

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
    if 0 < n_visits <= MOST_VISITS:
        codes = np.unique(rows.places[0], return_inverse=True)[1]
        seen = np.zeros(rows.n_subjects, np.uint64)  # a bit a visit
        np.bitwise_or.at(seen, rows.subject, np.uint64(1) << codes.astype(np.uint64))
        n_patterns = np.unique(seen).size
    return VisitCounts(
        subject=residual.term.subject,
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
        theta_structures=structures + residual.structures,
        visits=named[0],
        distances=() if places is None else tuple(places.tolist()),
        strata=named[1],
        correlates=bool(residual.term.correlation),
        n_coordinates=len(residual.rows.places),
        places=residual.term.places,
        follows_means=residual.term.follows_means,
        strata_of_visits=_strata_of_visits(residual),
    )


def _strata_of_visits(residual: Residual) -> tuple[int, ...]:
    """The stratum of every visit; empty where rows of a visit are in several, or none is seen."""
    rows, at = residual.rows, residual.visit_places
    if residual.strata is None or at is None or not rows.arm.size:
        return ()
    order = np.argsort(at)
    visit = order[np.searchsorted(at[order], rows.places[0])]
    found = function_of(visit, rows.levels, len(at))  # type: ignore[arg-type]
    return () if found is None else tuple(found.tolist())
