"""Which of the residual layouts a design gets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...covariance.separable import SeparableAutoregressive
from ..group_index import divide_alike
from .field_index import grids, grids_of_groups
from .index import MOST_ROWS, ResidualRows, heights_of_groups

# Rows of the largest group up to which dense matrices are taken beside random effects: subjects
# with visits and covariates in common share them, where chains are worked off one by one. With
# 8 visits of 2,000 subjects a random intercept takes 0.06 s and 0.23 s by chains, a random slope
# that differs 1.9 s and 0.6 s; with 24 visits 0.2 s and 0.3 s, and 3 s (of 200) and 0.1 s.
_SHORT = 8
# Columns that count beside the random effects of a group, about: the fixed effects.
_FIXED = 8

# Plots of a grid for each that is there up to which whole grids are taken, and numbers that columns
# of the other ones may have.
_SPARSE, _MOST_LOST = 2.0, 1 << 25


def takes_chains(
    group: np.ndarray, n_groups: int, rows: ResidualRows, *, random_effects: bool
) -> bool:
    """Whether the rows are whitened one after the other, not by dense matrices of the groups.

    Without random effects chains are never slower: rows of all subjects are merged.

    Parameters
    ----------
    group : ndarray of int, shape (n,)
        Independent group of each row.
    n_groups : int
    rows : ResidualRows
    random_effects : bool
    """
    d = len(rows.places)
    if not all(structure.correlation.is_markov(d) for structure in rows.structures):
        return False
    if not random_effects:
        return True
    return int(np.bincount(group, minlength=n_groups).max(initial=0)) > _SHORT


def takes_fields(group: np.ndarray, rows: ResidualRows) -> bool:
    """Whether the rows are plots of grids that are nearly whole, of one variance, a row a plot.

    Fields of one group are laid on one grid, as long and as wide as the largest of them.

    Parameters
    ----------
    group : ndarray of int, shape (n,)
        Independent group of each row.
    rows : ResidualRows
    """
    for structure in rows.structures:
        if not isinstance(structure.correlation, SeparableAutoregressive):
            return False
        if structure.spread.n_params:
            return False
    at, shape, subject = grids(rows)
    if len(np.unique(np.stack([subject, *at]), axis=1).T) < len(subject):
        return False
    plots = grids_of_groups(group, shape, subject)[1].prod(axis=0)
    height = np.bincount(subject)
    lost = int((plots - height).max())  # each has as many columns for them
    return bool(plots.sum() <= _SPARSE * len(subject) and plots.sum() * lost <= _MOST_LOST)


def takes_subjects(
    group: np.ndarray,
    n_groups: int,
    codes: Sequence[np.ndarray],
    sizes: Sequence[int],
    rows: ResidualRows,
) -> bool:
    """Whether the rows are whitened subject by subject, not by dense matrices of the groups.

    For a row the first costs the rows of the largest subject and the columns of its group, the
    second the rows of its group, of which dense matrices take up to ``MOST_ROWS``.

    Parameters
    ----------
    group : ndarray of int, shape (n,)
        Independent group of each row.
    n_groups : int
    codes : sequence of ndarray of int, shape (n, S)
        Level of each row in each term.
    sizes : sequence of int
        Coefficients of each term.
    rows : ResidualRows
    """
    members = np.bincount(group, minlength=n_groups)
    largest = int(members.max(initial=0))
    subject = np.unique(rows.subject, return_inverse=True)[1]
    if largest <= _SHORT or divide_alike(group, subject):
        return False
    if largest > MOST_ROWS:
        return True
    columns = np.full(n_groups, float(_FIXED))
    for code, k in zip(codes, sizes, strict=True):
        for level in code.T:
            count = int(level.max(initial=0)) + 1
            pairs = np.unique(group.astype(np.int64) * count + level)
            columns += k * np.bincount(pairs // count, minlength=n_groups)
    height, subjects = heights_of_groups(group, n_groups, subject)
    places = subjects * height  # those of the rows of a group, short subjects among long ones
    return bool(np.sum(places * (height + columns)) < np.sum(members.astype(float) ** 2))
