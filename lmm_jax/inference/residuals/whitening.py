"""Residuals without the correlation that the model gives them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from scipy.linalg import solve_triangular

from ...designs.design import Design
from ...errors import DataError
from ..estimates import Estimates
from .clusters import Clusters, effect_columns, rows_by_size
from .residuals import pearson
from .rows import noise_blocks, row_noise

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

    def covariance(rows: np.ndarray) -> np.ndarray:
        Z = effect_columns(design, estimates, rows)
        return Z @ Z.transpose(0, 2, 1) + noise_blocks(design, estimates, rows)

    blocks = Clusters(design.group_codes, design.n_groups, "groups")
    return _solved(
        estimates, marginal, blocks, covariance, "whitened", "shared effects or subjects"
    )


def normalized(design: Design, estimates: Estimates, raw: np.ndarray) -> np.ndarray:
    """``L^-1 e`` with ``L L' = sigma^2 N``, the covariance of the residuals alone, (n,).

    Subjects of the residual covariance have blocks of their own, as groups in :func:`whitened`.

    Parameters
    ----------
    design : Design
    estimates : Estimates
    raw : ndarray, shape (n,)
        ``e = y - X beta - Z b - offset``.

    Raises
    ------
    DataError
        More than ``LARGEST_BLOCK`` rows of one subject.
    """
    if design.residual is None:
        return pearson(raw, row_noise(design, estimates)) / np.sqrt(estimates.scale)
    subjects, codes = np.unique(design.residual.rows.subject, return_inverse=True)
    blocks = Clusters(codes, subjects.size, "subjects")
    covariance = partial(noise_blocks, design, estimates)
    return _solved(estimates, raw, blocks, covariance, "normalized", "the same subject")


def _solved(
    estimates: Estimates,
    values: np.ndarray,
    blocks: Clusters,
    covariance: Callable[[np.ndarray], np.ndarray],
    kind: str,
    why: str,
) -> np.ndarray:
    """``L^-1 values``; ``covariance`` gives ``L L' / sigma^2`` of sets of rows, (G, n, n)."""
    largest = int(np.bincount(blocks.codes).max())
    if largest > LARGEST_BLOCK:
        raise DataError(
            f"{largest} rows depend on each other ({why}), and {kind} "
            f"residuals take a Cholesky factor of their covariance, for at most {LARGEST_BLOCK}: "
            "use 'pearson' or 'standardized' residuals, or lmm.simulate_residuals"
        )
    sigma, out = np.sqrt(estimates.scale), np.empty(values.size)
    for rows in rows_by_size(blocks):
        factors = np.linalg.cholesky(covariance(rows))
        for place, L, own in zip(rows, factors, values[rows] / sigma, strict=True):
            out[place] = solve_triangular(L, own, lower=True)
    return out
