"""Degrees of freedom between and within subjects, as SAS divides the residual ones."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ...designs.design import Design
from ...errors import DataError
from ...layouts.group_index import function_of


def column_df(design: Design) -> np.ndarray:
    """Degrees of freedom of every fixed effect, (p,).

    Factors nest: ``n_1 < n_2 < .. < n_L`` levels, and the n rows last. A column of X that is
    constant in every level of a factor belongs to the first factor of which that is true; with
    ``p_l`` columns at factor l

        df_l = n_l - n_{l-1} - p_l        n_0 = 0

    so that with one factor the two numbers are subjects less columns between them, and rows
    less subjects less columns within them. The subjects of a residual covariance are a factor as
    well; a factor of one level is none. Where the residual covariance is unstructured and there
    are no random effects, columns within subjects have the degrees of freedom of those between
    them, as in SAS (``type=un``). What is held fixed has no test: infinity.

    Parameters
    ----------
    design : Design
        Of nested factors.

    Raises
    ------
    DataError
        Subjects of a residual covariance that are not nested in the factors of random effects, or
        these in them.

    References
    ----------
    Schluchter & Elashoff (1990), doi:10.1080/00949659008811295; Pinheiro & Bates (2000),
    doi:10.1007/b98882, section 2.4.2.
    """
    X = design.free_exog()
    factors = [t.codes[:, 0] for t in design.terms if t.codes.shape[1] == 1]
    if design.residual is not None and design.residual.rows.n_subjects < len(X):
        factors.append(design.residual.rows.subject)
    by_size = sorted((design.group_codes, *factors), key=lambda c: int(c.max()))
    found = [(int(c.max()) + 1, c) for c in by_size]
    if design.residual is not None:
        _check_nested(found)  # factors of as many levels too
    levels = [(count, c) for count, c in dict(found).items() if count > 1]
    counts = np.array([*(count for count, _ in levels), len(X)], dtype=float)
    owner = np.full(X.shape[1], len(levels))
    for place, (count, codes) in reversed(list(enumerate(levels))):
        owner[_is_constant(X, codes, count)] = place
    used = np.bincount(owner, minlength=len(counts))
    df = np.diff(counts, prepend=0.0) - used
    if levels and not design.terms and _is_unstructured(design):
        df[-1] = df[-2]
    out = np.full(design.exog.shape[1], np.inf)
    out[slice(None) if design.held is None else np.isnan(design.held)] = df[owner]
    return out


def _check_nested(levels: list[tuple[int, np.ndarray]]) -> None:
    for (_, coarse), (count, fine) in pairwise(levels):
        if function_of(fine, coarse, count) is None:
            raise DataError(
                "degrees of freedom between and within subjects need factors that nest, and the "
                "subjects of this residual covariance are crossed with random effects: choose "
                "df_method='satterthwaite' or 'kenward-roger'"
            )


def _is_unstructured(design: Design) -> bool:
    """Whether residuals have any covariance, a variance for every visit."""
    term = None if design.residual is None else design.residual.term
    return (
        term is not None and term.correlation == "symm" and term.spread == "visits" and not term.of
    )


def _is_constant(X: np.ndarray, codes: np.ndarray, count: int) -> np.ndarray:
    """Which columns have one value in every level, (p,)."""
    first = np.zeros(count, dtype=np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    return np.asarray((X[first[codes]] == X).all(axis=0))
