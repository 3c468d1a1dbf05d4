"""Which of the two residual layouts a design gets."""

from __future__ import annotations

import numpy as np

from .index import ResidualRows

# Rows of the largest group up to which dense matrices are taken beside random effects: subjects
# with visits and covariates in common share them, where chains are worked off one by one. With
# 8 visits of 2,000 subjects a random intercept takes 0.06 s and 0.23 s by chains, a random slope
# that differs 1.9 s and 0.6 s; with 24 visits 0.2 s and 0.3 s, and 3 s (of 200) and 0.1 s.
_SHORT = 8


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
