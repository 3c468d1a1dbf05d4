"""Runs lost in a corner of theta, finished in the eigenvectors of Psi.

Where a triangular factor has a small pivot above a large entry, as for an intercept of
little variance that is correlated with the slope, a rotation of the lower row hardly
changes Psi: the criterion has a flat valley along a circle, and Newton's straight steps
creep. In the eigenvectors of Psi, largest first, the factor is diagonal, its small
pivots come last, and the valley is gone. The criterion is the same in any basis.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array

from .covariance import factor_blocks, stack_theta
from .layouts.waist import Layout
from .newton import CONVERGED, NONFINITE, Solution

# A pivot smaller than this, relative to what is left below it, makes a corner.
_CORNER = 0.1
# How often the eigenvectors are found again.
_TURNS = 3
# Steps below which a run that has not converged was not given the time to.
PATIENCE = 20

Descend = Callable[[Layout, Array], Solution]


def is_cornered(theta: np.ndarray, sizes: tuple[int, ...]) -> bool:
    """Whether some pivot is small beside the variances that it leaves below it."""
    for L in _factors(theta, sizes):
        left = np.cumsum(np.square(L)[:, ::-1], axis=1)[:, ::-1]  # of each row, from a column on
        for i in range(len(L) - 1):
            if L[i, i] ** 2 < _CORNER**2 * left[i + 1 :, i].max():
                return True
    return False


def leave_corner(layout: Layout, lost: Solution, descend: Descend, settle: Descend) -> Solution:
    """Finish a run that has not converged, if a corner may be what holds it.

    Parameters
    ----------
    layout : Layout
    lost : Solution
        Where the run ended.
    descend : callable
        Minimizes the criterion of a layout from a start in its coordinates.
    settle : callable
        The same in one run: nothing is challenged where the corner is.

    Returns
    -------
    Solution
        In the coordinates of the layout; ``lost`` itself where there is no corner.
    """
    found, sizes = lost, layout.sizes
    for _ in range(_TURNS):
        theta = np.asarray(found.theta)
        if int(found.status) in (CONVERGED, NONFINITE) or not is_cornered(theta, sizes):
            break
        factors = _factors(theta, sizes)
        frames = [_eigenvectors(L) for L in factors]
        turned = layout
        for t, V in enumerate(frames):
            turned = turned.rotate(t, V) if len(V) > 1 else turned
        start = [_lower(V.T @ L) for V, L in zip(frames, factors, strict=True)]
        there = descend(turned, _theta(start))
        ends = _factors(np.asarray(there.theta), sizes)
        home = [_lower(V @ L) for V, L in zip(frames, ends, strict=True)]
        back = settle(layout, _theta(home))
        found = back._replace(n_iter=found.n_iter + there.n_iter + back.n_iter)
    return found


def _factors(theta: np.ndarray, sizes: tuple[int, ...]) -> list[np.ndarray]:
    return [np.asarray(L) for L in factor_blocks(jnp.asarray(theta), sizes)]


def _theta(factors: list[np.ndarray]) -> Array:
    return stack_theta([jnp.asarray(L) for L in factors])


def _eigenvectors(L: np.ndarray) -> np.ndarray:
    """Orthonormal eigenvectors of ``L L'``, largest eigenvalue first."""
    return np.linalg.svd(L)[0]


def _lower(A: np.ndarray) -> np.ndarray:
    """Lower triangular ``L`` with ``L L' = A A'``."""
    return np.linalg.qr(np.asarray(A).T)[1].T
