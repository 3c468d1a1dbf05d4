"""Residuals without the correlation that the model gives them."""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve_triangular

from ..designs.design import Design
from ..errors import DataError
from .clusters import Clusters, effect_columns, rows_by_size
from .estimates import Estimates
from .residual_rows import noise_blocks

# Rows that depend on each other of which a Cholesky factor is made (200 MB).
LARGEST_BLOCK = 5000


def whitened(design: Design, estimates: Estimates, marginal: np.ndarray) -> np.ndarray:
    """``L^-1 (y - X beta - offset)`` with ``L L' = Cov(y)``, (n,).

    Independent groups have blocks of their own; within one the rows keep their order, and each
    entry is a residual less what the rows before it say of it, over its standard deviation.

    Parameters
    ----------
    design : Design
    estimates : Estimates
    marginal : ndarray, shape (n,)

    Raises
    ------
    DataError
        More than ``LARGEST_BLOCK`` rows depend on each other.
    """
    blocks = Clusters(design.group_codes, design.n_groups, "groups")
    largest = int(np.bincount(design.group_codes).max())
    if largest > LARGEST_BLOCK:
        raise DataError(
            f"{largest} rows depend on each other (shared effects or subjects), and whitened "
            f"residuals take a Cholesky factor of their covariance, for at most {LARGEST_BLOCK}: "
            "use 'pearson' or 'standardized' residuals, or lmm.simulate_residuals"
        )
    sigma, out = np.sqrt(estimates.scale), np.empty(design.nobs)
    for rows in rows_by_size(blocks):
        Z = effect_columns(design, estimates, rows)
        V = Z @ Z.transpose(0, 2, 1) + noise_blocks(design, estimates, rows)
        e = marginal[rows] / sigma
        for place, L, own in zip(rows, np.linalg.cholesky(V), e, strict=True):
            out[place] = solve_triangular(L, own, lower=True)
    return out
