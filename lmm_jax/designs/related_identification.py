"""Whether the residual variance can be told from random effects of which some are related.

The question of :mod:`lmm_jax.designs.identification`, asked of a few random vectors: W^-1 is a
linear combination of the derivatives ``Z_t (A (x) E_ij) Z_t'`` in error contrasts if and only if
that holds, with probability one, for their products with vectors. No n x n matrix is made.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..numerics.blocks import level_columns
from .identification import orthonormal
from .terms import RandomTerm

# Vectors, and the share of squares of W^-1 x that the others must leave: see there.
_VECTORS = 4
_APART = 1e-8


def confounded_related(
    terms: Sequence[RandomTerm], X: np.ndarray, weights: np.ndarray | None
) -> list[RandomTerm]:
    """Terms from which the residual variance cannot be told; none if it is identified."""
    n = len(X)
    root = np.ones(n) if weights is None else np.sqrt(weights / weights.max())
    largest = np.abs(X).max(axis=0, initial=0.0)
    Q = orthonormal(root[:, None] * X / np.where(largest > 0, largest, 1.0))
    x = np.random.default_rng(0).standard_normal((n, _VECTORS))
    x -= Q @ (Q.T @ x)
    columns, owner = [], []
    for t, term in enumerate(terms):
        for column in _derivatives(term, root, x):
            rest = column - Q @ (Q.T @ column)
            size = float(np.linalg.norm(rest))
            if size > 0:
                columns.append(rest.ravel() / size)
                owner.append(t)
    if not columns:
        return []
    D, target = np.column_stack(columns), x.ravel()
    found, *_ = np.linalg.lstsq(D, target, rcond=1e-11)
    left = target - D @ found
    if left @ left > _APART * (target @ target):
        return []
    part = np.abs(found)
    return [terms[t] for t in sorted({owner[j] for j in np.flatnonzero(part > 1e-6 * part.max())})]


def _derivatives(term: RandomTerm, root: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
    """Products of ``Z (A (x) D) Z'`` with x, (n, C) each, for the span D of a term's Psi."""
    Z = level_columns(term.codes, term.values * root[:, None, None], term.n_levels)
    across = (Z.T @ x).reshape(term.n_levels, -1)
    if term.relationship is not None and term.relationship.matrix is not None:
        across = np.asarray(term.relationship.matrix @ across)
    by_level = across.reshape(term.n_levels, -1, x.shape[1])
    moved = np.einsum("dij,ljc->dlic", term.structure.span, by_level)
    return [Z @ u.reshape(Z.shape[1], -1) for u in moved]
