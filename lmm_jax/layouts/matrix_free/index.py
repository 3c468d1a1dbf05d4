"""The index of a matrix-free layout: a sparse one that is never put in an order of elimination."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...reprs import brief
from ..group_index import LevelMap
from ..sparse.index import SparseIndex, SparsePlan


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MatrixFreePlan(SparsePlan):
    """The host's side of the index: every term is a bucket, every level a group of it."""

    first: int  # the term that is eliminated

    __repr__ = brief


def plan_matrix_free(index: SparseIndex, maps: tuple[LevelMap, ...]) -> MatrixFreePlan | None:
    """A plan of an index; None where every term has rows of several levels.

    The term with most columns is eliminated of those whose rows have one level each.

    Parameters
    ----------
    index, maps
        See :func:`..sparse.index.sparse_index`.
    """
    alone = [index.streams.count(t) == 1 for t in range(len(index.widths))]
    columns = [
        k * n if one else -1 for k, n, one in zip(index.sizes, index.widths, alone, strict=True)
    ]
    first = int(np.argmax(columns))
    if columns[first] < 0:
        return None
    return MatrixFreePlan(index=index, level_maps=maps, first=first)
