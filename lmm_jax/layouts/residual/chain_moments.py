"""What Kenward and Roger's method needs of rows that depend on the row before (NumPy).

With ``g_k = (B^-T Omega_k A)'``, a recursion backwards in time, ``T_kl = g_k g_l'``; see
:mod:`lmm_jax.layouts.residual.integrated_moments`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import solve_banded

from ...covariance.steps import Step
from .chain_bucket import ChainBucket, ChainRows, slopes_of_gram


def bent_rows(at: ChainBucket, own: ChainRows, W: Any, z: Any) -> np.ndarray:
    """``A' R^-1 (sum_kl W_kl R_kl - sum_k z_k R_k) R^-1 A`` of every group, (G, w, w).

    Parameters
    ----------
    at : ChainBucket
        Whose links are rows.
    own : ChainRows
    W : ndarray, shape (m, m)
        Symmetric; of the arm's own parameters.
    z : ndarray, shape (m,)
    """
    step: Any = own.step
    lam, mu = step.dlog_h, step.h[None] * step.db
    g = halves(at, own)
    T = sum(
        half @ np.swapaxes(other, 1, 2)
        for half, other in zip(np.tensordot(W, g, 1), g, strict=True)
    )
    Wl = np.tensordot(W, lam, 1)
    ee = 2.0 * np.sum(lam * Wl, axis=0) + step.log_h_along(W)
    fe = 4.0 * np.sum(mu * Wl, axis=0) + step.h * step.b_along(W)
    ff = np.sum(mu * np.tensordot(W, mu, 1), axis=0)
    E, F = np.asarray(own.E), np.asarray(at.before)
    Et, Ft = np.swapaxes(E, 1, 2), np.swapaxes(F, 1, 2)
    half = (ee[:, None] * E) @ Et - (fe[:, None] * F) @ Et + (ff[:, None] * F) @ Ft
    first: Any = np.tensordot(z, slopes_of_gram(at, own), 1)
    return np.asarray(2.0 * T - (half + np.swapaxes(half, 1, 2)) + first)


def rows_alone(s: Any, at: ChainBucket, own: ChainRows) -> Any:
    """``tr(R^-1 R_k R^-1 R_l)``, (m, m): of the bidiagonal ``B_k B^-1`` and the rows of B^-1.

    A row of B^-1 has the variance of its residual as sum of squares.
    """
    step: Any = own.step
    m = len(step.db)
    before = np.exp(2.0 * np.tensordot(s, at.slopes_before, 1)) if len(s) else np.ones(1)
    counts = np.asarray(at.counts)
    shape = (m, *counts.shape)
    lam = np.broadcast_to(step.dlog_h, shape).reshape(m, -1)
    mu = np.broadcast_to(step.h[None] * step.db * np.sqrt(before), shape).reshape(m, -1)
    return 4.0 * (lam * counts.reshape(1, -1)) @ lam.T + 2.0 * mu @ mu.T


def halves(at: ChainBucket, own: ChainRows) -> Any:
    """Of ``A' Omega_k R Omega_l A = g_k g_l'``, g of every group, (m, G, w, l)."""
    assert at.in_order  # the caller has taken the layout before links were merged
    step, E, F = own.step, np.asarray(own.E), np.asarray(at.before)
    lam, mu = step.dlog_h[:, :, None], (step.h[None] * step.db)[:, :, None]
    return 2.0 * lam * E[None] - mu * F[None] - _backwards(mu * E[None], step)


def _backwards(rows: np.ndarray, step: Step) -> np.ndarray:
    """T with ``h_i t_i = h b t + rows``, all of the row after on the right; (m, G, w, l)."""
    m, G, w, n = rows.shape
    flat = np.moveaxis(rows, 2, -1).reshape(m, G * n, w)
    right = np.zeros_like(flat)
    right[:, :-1] = flat[:, 1:]  # of the first row of a subject, zero
    band = np.zeros((2, G * n))
    h, b = (np.broadcast_to(a, (G, n)).ravel() for a in (step.h, step.b))
    band[0], band[1] = -h * b, h
    columns = np.moveaxis(right, 1, 0).reshape(G * n, m * w)
    found = solve_banded((0, 1), band, columns, overwrite_b=True, check_finite=False)
    return np.moveaxis(found.reshape(G, n, m, w), (2, 0, 3, 1), (0, 1, 2, 3))
