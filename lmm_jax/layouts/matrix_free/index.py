"""The index of a matrix-free layout: a sparse one that is never put in an order of elimination."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...covariance.structures import Structure, term_sizes
from ...reprs import brief
from ..sparse.index import SparsePlan, sparse_index


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MatrixFreePlan(SparsePlan):
    """The host's side of the index: every term is a bucket, every level a group of it."""

    first: int  # the term that is eliminated

    __repr__ = brief


def plan_matrix_free(
    codes: Sequence[np.ndarray],
    n_levels: Sequence[int],
    structures: Sequence[Structure],
    n_components: int,
) -> MatrixFreePlan | None:
    """Build the index; None where every term has rows of several levels.

    The arguments are those of :func:`..sparse.index.plan_sparse`.
    """
    first = first_term(codes, n_levels, structures)
    if first is None:
        return None
    index, maps = sparse_index(codes, n_levels, structures, n_components)
    return MatrixFreePlan(index=index, level_maps=maps, first=first)


def first_term(
    codes: Sequence[np.ndarray], n_levels: Sequence[int], structures: Sequence[Structure]
) -> int | None:
    """The term to eliminate: that with most columns whose rows have one level each."""
    columns = [
        k * n if code.shape[1] == 1 else -1
        for code, n, k in zip(codes, n_levels, term_sizes(structures), strict=True)
    ]
    best = int(np.argmax(columns))
    return best if columns[best] >= 0 else None
