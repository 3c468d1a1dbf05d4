"""New rows under the residual covariance of a fit: their subjects, visits, arms and strata."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ..covariance.correlations import Correlation
from ..covariance.distances import Toeplitz
from ..covariance.residuals import ResidualStructure
from ..errors import DataError
from ..formulas import matrices as mat
from ..formulas.residual import SEPARABLE, ResidualTerm
from ..inputs.matching import find, label_shown, spelled
from ..inputs.series import since
from ..layouts.residual.index import ResidualRows
from .bars import group_labels, labels_present
from .residual import Residual
from .residual_checks import longest_distance
from .residual_columns import coordinates

# Share of a step that is rounding.
_OFF = 1e-9


def spread_expressions(term: ResidualTerm) -> list[str]:
    """Expressions that the variance of a row is a function of."""
    visits = term.places if term.spread == "visits" and not term.counts_rows else ()
    return [*visits, *term.by, *term.spread_expressions]


def new_residual_rows(
    residual: Residual, data: pd.DataFrame, context: Mapping[str, Any], *, whole: bool
) -> ResidualRows:
    """New rows among those of a fit.

    Parameters
    ----------
    residual : Residual
        Of the fit.
    data : DataFrame
        Complete rows.
    context : mapping
    whole : bool
        Read their subjects and places too; variances alone need neither, and then nobody is seen.

    Returns
    -------
    ResidualRows
        Subjects have the numbers that they have in the fit, -1 where it has not seen them.
        Without the covariate where it is the means of the rows.

    Raises
    ------
    DataError
        An arm, a stratum or a visit for which the fit has no variance or no correlation.
    """
    term, rows = residual.term, residual.rows
    arm = np.zeros(len(data), np.int64)
    if residual.arms is not None:
        arm = _known(residual, residual.arms, term.by, "arm", data, context)
    codes, at = None, np.zeros((len(rows.places), len(data)))
    if whole or term.spread == "visits":
        codes, at = _new_places(residual, data, context)
    levels, x = codes if term.spread == "visits" else None, None
    if residual.strata is not None:
        levels = _known(residual, residual.strata, term.strata, "stratum", data, context)
    if term.of and not term.follows_means:
        x = mat.evaluate(term.covariate, data, context=context, state=_remembered(residual))
        if term.of == "power" and (x == 0).any():
            raise DataError(
                f"`{term.covariate}` is zero in some of the new rows, where {term.text} has no "
                "variance"
            )
    subject = np.full(len(data), -1, np.int64)
    if whole:
        subject = _new_subjects(residual, arm, data, context)
    reach = longest_distance(term, np.concatenate([rows.places, at], axis=1))
    return ResidualRows(
        structures=tuple(_reaching(s, reach) for s in rows.structures),
        arm=arm,
        subject=subject,
        n_subjects=rows.n_subjects,
        places=at,
        levels=levels,
        covariate=x,
    )


def _reaching(structure: ResidualStructure, distance: float) -> ResidualStructure:
    return replace(structure, correlation=structure.correlation.reaching(distance))


def _remembered(residual: Residual) -> dict[str, Any]:
    """What expressions remember of the rows of the fit; a copy, which evaluation may write to."""
    return copy.deepcopy(dict(residual.state))


def check_subjects(
    residual: Residual, new: ResidualRows, data: pd.DataFrame, context: Mapping[str, Any]
) -> None:
    """Refuse subjects that the fit has not seen.

    Raises
    ------
    DataError
    """
    if residual.subjects is None or (new.subject >= 0).all():
        return
    labels = group_labels(residual.term.group, data, context, _remembered(residual))
    label = labels.iloc[int(np.argmin(new.subject))]
    raise DataError(
        f"{residual.text}: the fit has not seen the subject {label_shown(label)}, pass "
        "new_levels='population' to predict it by its fixed effects, or 'nan'"
    )


def _known(
    residual: Residual,
    known: pd.Index[Any],
    expressions: tuple[str, ...],
    what: str,
    data: pd.DataFrame,
    context: Mapping[str, Any],
) -> np.ndarray:
    """Numbers of labels all of which the fit has seen."""
    labels = group_labels(expressions, data, context, _remembered(residual))
    codes = find(known, labels, ":".join(expressions))
    if (codes < 0).any():
        _refuse(residual.term, what, labels.iloc[int(np.argmin(codes))], known)
    return codes


def _refuse(term: ResidualTerm, what: str, label: Any, known: pd.Index[Any]) -> None:
    names = spelled(known)
    some = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    raise DataError(
        f"{term.text} knows nothing of the {what} {label_shown(label)}, which the fit has not "
        f"seen: it has seen {some}"
    )


def _new_subjects(
    residual: Residual, arm: np.ndarray, data: pd.DataFrame, context: Mapping[str, Any]
) -> np.ndarray:
    """Number of the subject of every row, of its arm; -1 for others."""
    term, rows = residual.term, residual.rows
    if not term.correlation:
        return np.full(len(data), -1, np.int64)
    if residual.subjects is None:
        return np.zeros(len(data), np.int64)
    labels = residual.subjects.unique()
    own, present = labels_present(term.group, data, context, _remembered(residual))
    code = np.full(len(data), -1)
    code[present] = find(labels, own, term.subject)
    arm_of = np.zeros(rows.n_subjects, np.int64)
    arm_of[rows.subject] = rows.arm
    keys = pd.Index(arm_of * len(labels) + labels.get_indexer(residual.subjects))
    return np.where(code < 0, -1, keys.get_indexer(arm * len(labels) + code))


def _new_places(
    residual: Residual, data: pd.DataFrame, context: Mapping[str, Any]
) -> tuple[np.ndarray | None, np.ndarray]:
    """Visit of every row, -1 for one that the fit has not seen, and its place, (d, n)."""
    term, correlation = residual.term, residual.structures[0].correlation
    if not term.correlation:
        return None, np.zeros((1, len(data)))
    if term.counts_rows:
        raise DataError(
            f"new rows have no place among those of their subjects in {term.text}, which counts "
            "rows: name the visits by a column, or leave conditional= and intervals out"
        )
    if residual.visits is None:
        at = correlation.placed(coordinates(term, data, context, _remembered(residual)))
        _check_steps(residual, at)
        return None, at
    assert residual.visit_places is not None  # visits have places
    labels = mat.labels(term.places[0], data, context=context, state=_remembered(residual))
    codes = find(residual.visits, labels, term.places[0])
    at = np.where(codes < 0, np.nan, residual.visit_places[codes])
    if _goes_on(residual):
        numbers = pd.to_numeric(labels, errors="coerce")
        other = since(numbers, residual.visits.min()) / correlation.unit
        whole = other == np.round(other)
        apart = (codes < 0) & ~whole & np.isfinite(other) & (correlation.unit == 1)
        if apart.any():
            raise DataError(
                f"{term.text} is over visits at whole numbers, and "
                f"{label_shown(labels.iloc[int(np.argmax(apart))])} is none: car1 takes any times"
            )
        at = np.where((codes < 0) & whole & _in_reach(correlation, other), other, at)
    if np.isnan(at).any():
        _refuse(term, "visit", labels.iloc[int(np.argmax(np.isnan(at)))], residual.visits)
    return codes, at[None]


def _check_steps(residual: Residual, at: np.ndarray) -> None:
    """New plots of a field lie among its rows and columns, whole steps from those of the fit."""
    if residual.term.correlation != SEPARABLE:
        return
    steps = at - residual.rows.places[:, :1]
    if (np.abs(steps - np.round(steps)) > _OFF).any():
        raise DataError(
            f"new plots lie between the rows or columns of {residual.text}, whose correlations are "
            "of whole steps"
        )


def _goes_on(residual: Residual) -> bool:
    """Whether visits are known by their numbers alone, so that others have a covariance too."""
    term, correlation, visits = residual.term, residual.structures[0].correlation, residual.visits
    if term.spread == "visits" or (correlation.levels and not isinstance(correlation, Toeplitz)):
        return False
    if visits is None or visits.dtype.kind not in "iuf":
        return False
    places = since(visits, visits.min()) / correlation.unit
    # of categories the places count, not the numbers
    return np.array_equal(places, residual.visit_places)  # type: ignore[arg-type]


def _in_reach(correlation: Correlation, place: np.ndarray) -> np.ndarray:
    """Places that a table of correlations by distance holds."""
    inside = (place >= 0) & (place < len(correlation.levels))
    return inside | (not correlation.levels)
