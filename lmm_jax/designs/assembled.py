"""The parts of a design checked against each other, whatever they were read from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from .checks import (
    check_identified,
    check_levels,
    check_overlap,
    check_rank,
    check_related,
    check_response,
    check_shapes,
    check_sigma,
    confounded,
    independent_columns,
    without_absorbed,
)
from .design import Design
from .fixed_source import FixedSource
from .identification import row_moments
from .related_identification import confounded_related
from .residual import Residual
from .terms import RandomTerm, connected_rows, independent_groups


def assemble(
    *,
    y: np.ndarray,
    X: np.ndarray,
    names: Sequence[str],
    endog_name: str,
    terms: Sequence[RandomTerm],
    group: np.ndarray,
    n_groups: int,
    weights: np.ndarray | None,
    offset: np.ndarray | None,
    index: pd.Index[Any],
    n_missing: int,
    source: FixedSource | None,
    residual: Residual | None = None,
    gaps: tuple[tuple[str, int], ...] = (),
    output: str = "pandas",
    sigma: float | None = None,
) -> Design:
    """Check the parts against each other and drop dependent columns of X."""
    check_shapes(y, X, terms, weights, index)
    check_related(terms, residual)
    check_sigma(sigma, residual)
    kept = independent_columns(X, names)
    X = X if len(kept) == X.shape[1] else np.ascontiguousarray(X[:, list(kept)])
    check_rank(y.size, X.shape[1])
    check_levels(terms)
    # arrays are their caller's: parameters are counted by them
    terms, absorbed = without_absorbed(terms, X, stay=source is None, alone=residual is None)
    group, n_groups = _independent(terms, group, n_groups, residual)
    check_overlap(terms)
    if residual is None and sigma is None:
        check_identified(terms, y.size, X.shape[1], lambda: _confounded(terms, X, weights))
    check_response(y if offset is None else y - offset, endog_name)
    if source is not None:
        source = replace(source, kept=kept)
    return Design(
        endog=y,
        exog=X,
        exog_names=tuple(names[j] for j in kept),
        endog_name=endog_name,
        terms=tuple(terms),
        group_codes=group,
        n_groups=n_groups,
        weights=weights,
        offset=offset,
        index=index,
        dropped=tuple(name for j, name in enumerate(names) if j not in set(kept)),
        n_missing=n_missing,
        gaps=gaps,
        source=source,
        residual=residual,
        output=output,
        sigma=sigma,
        absorbed=absorbed,
    )


def _independent(
    terms: Sequence[RandomTerm], group: np.ndarray, n_groups: int, residual: Residual | None
) -> tuple[np.ndarray, int]:
    """Groups of rows that share no random effect and no residual covariance."""
    if residual is None:
        return independent_groups(terms, group, n_groups)
    codes = [*(term.codes for term in terms), residual.rows.subject[:, None]]
    counts = [*(term.n_levels for term in terms), residual.rows.n_subjects]
    return connected_rows(codes, counts)


def _confounded(
    terms: Sequence[RandomTerm], X: np.ndarray, weights: np.ndarray | None
) -> list[RandomTerm]:
    """Terms from which the residual variance cannot be told."""
    if any(term.relationship is not None for term in terms):
        return confounded_related(terms, X, weights)
    return confounded(terms, len(X), lambda: row_moments(terms, X, weights))
