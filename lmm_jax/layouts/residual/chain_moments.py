"""What Kenward and Roger's method needs of rows that depend on the row before (NumPy).

Along a parameter of R, ``R_k = -R Omega_k R`` with ``Omega = R^-1 = B' B``. With
``g_k = B^-T Omega_k A``, a recursion backwards in time,

    A' Omega_k A = dG_k      A' Omega_k R Omega_l A = g_k' g_l = T_kl      V^-1 A = Omega A J

and everything else are matrices of the groups: ``V^-1 R_k V^-1`` between columns of A is
``-J' dG_k J``, ``V^-1 R_k V^-1 R_l V^-1`` is ``J' (T_kl - dG_k W dG_l) J``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import solve_banded

from ...covariance.residuals import Step
from ...covariance.structures import Structure
from ..contract import PsiMoments
from ..group_algebra import double_traces
from .chain_bucket import (
    ChainBucket,
    Whitened,
    projected,
    slopes_of_gram,
    slopes_of_logdet,
    whitened,
)
from .starts import residual_of


def moments_of(
    theta: Any, structures: tuple[Structure, ...], at: ChainBucket, D: Any
) -> PsiMoments:
    """A bucket's share of :meth:`Layout.psi_moments`, along the derivatives of V in theta.

    Parameters
    ----------
    theta : ndarray, shape (m,)
    structures : tuple of Structure
    at : ChainBucket
        Whose links are rows.
    D : ndarray, shape (m, q, q)
        ``dPsi / dtheta_k``.
    """
    residual, own = residual_of(structures, at.arm)
    of: Any = whitened(theta, structures, at)
    q, m = of.Y.shape[1], theta.size
    X = slice(q, -1)
    dG: Any = slopes_of_gram(at, of)
    T = _pair_products(at, of)
    W = np.swapaxes(of.Y, 1, 2) @ of.Y
    dS = projected(dG, of.H)
    P, U = of.S[:, :q, :q], of.S[:, :q, X]
    DU = D[:, None] @ U[None]  # (m, G, q, p)
    traces, products = np.einsum("gab,kab->k", P, D), np.zeros((m, m))
    traces[own] += slopes_of_logdet(dG, at, of)
    Ut = np.swapaxes(U, 1, 2)
    grams = np.sum(Ut[None] @ DU, axis=1)
    grams[own] -= np.sum(dS[..., X, X], axis=1)
    seconds = np.einsum("kgab,gac,lgcd->klbd", DU, P, DU, optimize=True)
    across = np.einsum("kgba,lgbd->klad", dS[..., :q, X], DU, optimize=True)
    seconds[own] -= across
    seconds[:, own] -= np.moveaxis(across, (0, 3), (1, 2))
    middle = T - (dG[:, None, ..., :q] @ W) @ dG[None, ..., :q, :]
    HX = of.H[..., X]
    both = middle[..., X, X] - np.swapaxes(HX, 1, 2) @ middle[..., :q, X]
    both = both - (middle[..., X, :q] - np.swapaxes(HX, 1, 2) @ middle[..., :q, :q]) @ HX
    seconds[own, own] += np.sum(both, axis=2)
    if q:
        last: Any = np.moveaxis(P, 0, -1)
        products += double_traces(last, last, D)
    mixed = np.einsum("kgab,lab->kl", dS[..., :q, :q], D)
    products[own] -= mixed
    products[:, own] -= mixed.T
    WdG = W @ dG[..., :q, :q]
    products[own, own] += (
        _rows_alone(theta[own][: residual.spread.n_params], at, of)
        - 2.0 * np.einsum("gab,klgab->kl", W, T[..., :q, :q])
        + np.einsum("kgab,lgba->kl", WdG, WdG)
    )
    gram = np.sum(of.S[:, X, X], axis=0)
    return PsiMoments(gram, traces, products, grams, seconds)


def bent_form(
    theta: Any, structures: tuple[Structure, ...], at: ChainBucket, W: Any, z: Any
) -> np.ndarray:
    """A bucket's share of :meth:`ResidualLayout.bend_form`, (p, p)."""
    own = residual_of(structures, at.arm)[1]
    of: Any = whitened(theta, structures, at)
    q, step = of.Y.shape[1], of.step
    inner = W[own, own]
    lam, mu = step.dlog_h, step.h[None] * step.db
    T = np.einsum("kl,klgab->gab", inner, _pair_products(at, of))
    Wl = np.tensordot(inner, lam, 1)
    ee = 2.0 * np.sum(lam * Wl, axis=0) + step.log_h_along(inner)
    fe = 4.0 * np.sum(mu * Wl, axis=0) + step.h * step.b_along(inner)
    ff = np.sum(mu * np.tensordot(inner, mu, 1), axis=0)
    E, F = of.E, np.asarray(at.before)
    Et, Ft = np.swapaxes(E, 1, 2), np.swapaxes(F, 1, 2)
    half = (ee[:, None] * E) @ Et - (fe[:, None] * F) @ Et + (ff[:, None] * F) @ Ft
    first = np.tensordot(2.0 * W[own, -1] - z[own], slopes_of_gram(at, of), 1)
    total = 2.0 * T - (half + np.swapaxes(half, 1, 2)) - first + (W[-1, -1] - z[-1]) * of.G
    total = 0.5 * (total + np.swapaxes(total, 1, 2))
    return np.asarray(np.sum(projected(total, of.H)[:, q:-1, q:-1], axis=0))


def _rows_alone(s: Any, at: ChainBucket, of: Whitened) -> Any:
    """``tr(R^-1 R_k R^-1 R_l)``, (m, m): of the bidiagonal ``B_k B^-1`` and the rows of B^-1.

    A row of B^-1 has the variance of its residual as sum of squares.
    """
    step, m = of.step, len(of.step.db)
    before = np.exp(2.0 * np.tensordot(s, at.slopes_before, 1)) if len(s) else np.ones(1)
    counts = np.asarray(at.counts)
    shape = (m, *counts.shape)
    lam = np.broadcast_to(step.dlog_h, shape).reshape(m, -1)
    mu = np.broadcast_to(step.h[None] * step.db * np.sqrt(before), shape).reshape(m, -1)
    return 4.0 * (lam * counts.reshape(1, -1)) @ lam.T + 2.0 * mu @ mu.T


def _pair_products(at: ChainBucket, of: Whitened) -> Any:
    """``T_kl = A' Omega_k R Omega_l A`` of every group, (m, m, G, w, w)."""
    assert at.in_order  # the caller has taken the layout before links were merged
    step, E, F = of.step, np.asarray(of.E), np.asarray(at.before)
    lam, mu = step.dlog_h[:, :, None], (step.h[None] * step.db)[:, :, None]
    g = 2.0 * lam * E[None] - mu * F[None] - _backwards(mu * E[None], step)
    return g[:, None] @ np.swapaxes(g, -1, -2)[None]


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
