"""Which of the two residual layouts a design gets."""

from __future__ import annotations

import numpy as np

from .index import ResidualRows

_SHORT = 24


def takes_chains(group: np.ndarray, n_groups: int, rows: ResidualRows) -> bool:
    """Whether the rows are whitened one after the other, not by dense matrices of the groups.

    Parameters
    ----------
    group : ndarray of int, shape (n,)
        Independent group of each row.
    n_groups : int
    rows : ResidualRows
    """
    d = len(rows.places)
    if not all(structure.correlation.is_markov(d) for structure in rows.structures):
        return False
    return int(np.bincount(group, minlength=n_groups).max(initial=0)) > _SHORT
