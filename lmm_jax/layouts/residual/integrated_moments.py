"""What Kenward and Roger's method needs of whitened rows (NumPy).

Along a parameter of R, ``R_k = -R Omega_k R`` with ``Omega = R^-1 = B' B``, and with
``T_kl = A' Omega_k R Omega_l A`` everything else are matrices of the groups: of columns of A

    A' Omega_k A = dG_k      V^-1 A = Omega A J

``V^-1 R_k V^-1`` is ``-J' dG_k J``, ``V^-1 R_k V^-1 R_l V^-1`` is ``J' (T_kl - dG_k W dG_l) J``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..contract import PsiMoments
from ..group_algebra import double_traces, root_rows
from .integrated import Integrated, projected


class RowMoments(NamedTuple):
    """Of the rows of a bucket, along the arm's own parameters."""

    dG: Any  # (m, G, w, w)
    g: Any  # (m, G, w, l)  halves, T_kl = g_k g_l'
    slopes_of_log: Any  # (m,)  of log|R|
    traces: Any  # (m, m)  tr(R^-1 R_k R^-1 R_l)


def moments_of(of: Integrated, rows: RowMoments, D: Any, own: slice) -> PsiMoments:
    """A bucket's share of :meth:`Layout.psi_moments`, along the derivatives of V in theta.

    Parameters
    ----------
    of : Integrated
    rows : RowMoments
    D : ndarray, shape (m, q, q)
        ``dPsi / dtheta_k``.
    own : slice
        Where the arm's own parameters are in theta.
    """
    at: Any = of
    q, m = at.Y.shape[1], len(D)
    X = slice(q, -1)
    dG, T = rows.dG, rows.g[:, None] @ np.swapaxes(rows.g, -1, -2)[None]
    W = np.swapaxes(at.Y, 1, 2) @ at.Y
    dS = projected(dG, at.H)
    P, U = at.S[:, :q, :q], at.S[:, :q, X]
    DU = D[:, None] @ U[None]  # (m, G, q, p)
    traces, products = np.einsum("gab,kab->k", P, D), np.zeros((m, m))
    traces[own] += rows.slopes_of_log + np.einsum("gab,kgab->k", W, dG[..., :q, :q])
    Ut = np.swapaxes(U, 1, 2)
    grams = np.sum(Ut[None] @ DU, axis=1)
    grams[own] -= np.sum(dS[..., X, X], axis=1)
    seconds = np.einsum("kgab,gac,lgcd->klbd", DU, P, DU, optimize=True)
    across = np.einsum("kgba,lgbd->klad", dS[..., :q, X], DU, optimize=True)
    seconds[own] -= across
    seconds[:, own] -= np.moveaxis(across, (0, 3), (1, 2))
    middle = T - (dG[:, None, ..., :q] @ W) @ dG[None, ..., :q, :]
    HX = at.H[..., X]
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
        rows.traces
        - 2.0 * np.einsum("gab,klgab->kl", W, T[..., :q, :q])
        + np.einsum("kgab,lgba->kl", WdG, WdG)
    )
    gram = np.sum(at.S[:, X, X], axis=0)
    return PsiMoments(gram, traces, products, grams, seconds)


def weighted_of(
    of: Integrated, rows: RowMoments, D: Any, own: slice, W: Any
) -> tuple[np.ndarray, np.ndarray]:
    """A bucket's share of :meth:`ResidualLayout.weighted_moments`: ``P_k`` and ``sum W_kl Q_kl``.

    With rows r of a root of W, ``D_r = sum_k r_k D_k`` and likewise dG and g, the sum is

        (D_r U)' P (D_r U) - dS_r' D_r U - (D_r U)' dS_r + J' (g_r g_r' - dG_r W dG_r) J

    one matrix a group at a time. Arguments as in :func:`moments_of`; W is (m, m), positive
    semidefinite.
    """
    at: Any = of
    q = at.Y.shape[1]
    X = slice(q, -1)
    H, P, U = at.H, at.S[:, :q, :q], at.S[:, :q, X]
    inner = np.swapaxes(at.Y, 1, 2) @ at.Y
    dS = projected(rows.dG, H)
    Ut = np.swapaxes(U, 1, 2)
    grams = np.stack([np.sum(Ut @ (Dk @ U), axis=0) for Dk in D]) if len(D) else np.zeros((0, 0, 0))
    grams[own] -= np.sum(dS[..., X, X], axis=1)
    total: Any = np.zeros((U.shape[2], U.shape[2]))
    for root in root_rows(W):
        DU = np.tensordot(root, D, 1) @ U
        dG, g, dSr = (np.tensordot(root[own], each, 1) for each in (rows.dG, rows.g, dS))
        middle = g @ np.swapaxes(g, 1, 2) - dG[..., :q] @ inner @ dG[..., :q, :]
        across = np.swapaxes(dSr[:, :q, X], 1, 2) @ DU
        each = np.swapaxes(DU, 1, 2) @ P @ DU - across - np.swapaxes(across, 1, 2)
        total = total + np.sum(each + projected(middle, H)[:, X, X], axis=0)
    return grams, total


def form_of(of: Integrated, inner: Any) -> np.ndarray:
    """``sum X' V^-1 B V^-1 X``, (p, p), from ``A' R^-1 B R^-1 A`` of every group, (G, w, w)."""
    q = of.Y.shape[1]
    total = 0.5 * (inner + np.swapaxes(inner, 1, 2))
    return np.asarray(np.sum(projected(total, of.H)[:, q:-1, q:-1], axis=0))
