"""Degrees of freedom between and within subjects, as SAS divides the residual ones."""

from __future__ import annotations

import numpy as np

from ..designs.design import Design


def column_df(design: Design) -> np.ndarray:
    """Degrees of freedom of every fixed effect, (p,).

    Factors nest: ``n_1 < n_2 < .. < n_L`` levels, and the n rows last. A column of X that is
    constant in every level of a factor belongs to the first factor of which that is true; with
    ``p_l`` columns at factor l

        df_l = n_l - n_{l-1} - p_l        n_0 = 0

    so that with one factor the two numbers are subjects less columns between them, and rows
    less subjects less columns within them. What is held fixed has no test: infinity.

    Parameters
    ----------
    design : Design
        Of nested factors.

    References
    ----------
    Schluchter & Elashoff (1990), doi:10.1080/00949659008811295; Pinheiro & Bates (2000),
    doi:10.1007/b98882, section 2.4.2.
    """
    X = design.free_exog()
    factors = [t.codes[:, 0] for t in design.terms if t.codes.shape[1] == 1]
    by_count = {int(codes.max()) + 1: codes for codes in (design.group_codes, *factors)}
    levels = sorted(by_count.items())
    counts = np.array([*by_count, len(X)], dtype=float)
    counts.sort()
    owner = np.full(X.shape[1], len(levels))
    for place, (count, codes) in reversed(list(enumerate(levels))):
        owner[_is_constant(X, codes, count)] = place
    used = np.bincount(owner, minlength=len(counts))
    df = np.diff(counts, prepend=0.0) - used
    out = np.full(design.exog.shape[1], np.inf)
    out[slice(None) if design.held is None else np.isnan(design.held)] = df[owner]
    return out


def _is_constant(X: np.ndarray, codes: np.ndarray, count: int) -> np.ndarray:
    """Which columns have one value in every level, (p,)."""
    first = np.zeros(count, dtype=np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    return np.asarray((X[first[codes]] == X).all(axis=0))
