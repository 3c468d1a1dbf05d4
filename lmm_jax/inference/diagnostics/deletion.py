"""What remains of a model when rows are left out, with derivatives in theta (NumPy).

In the coordinates of :class:`~lmm_jax.inference.diagnostics.row_algebra.Standard`, where
``gram = [X y]' V^-1 [X y] = I``. With ``B = V^-1 [X y]`` and ``U = V^-1 Z``, rows R left out,

    log|V| gains log|C|,  C = (V^-1)_RR          gram loses B_R' C^-1 B_R

(for a whole independent group ``-log|V_g|`` and its own part of gram), and along theta

    dC = -U_R D U_R'        dB_R = -U_R D Z' B        D = dPsi / dtheta

Everything else is a function of the gram matrix that is left (Christensen, Pearson & Johnson 1992).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .row_algebra import Alike, Standard

# Share of its own information that a direction of X must keep without the unit.
_RANK_TOL = 1e-10
# Numbers of the derivatives of the rows that are worked off side by side.
_CHUNK = 1 << 19


class Loss(NamedTuple):
    """What K units take with them."""

    unit: np.ndarray  # (K,)
    n_rows: np.ndarray  # (K,)
    dlogdet: np.ndarray  # (K, m)  of what is added to log|V|
    gram: np.ndarray  # (K, P, P)
    dgram: np.ndarray  # (K, m, P, P)


class Without(NamedTuple):
    """The model without each of K units."""

    beta: np.ndarray  # (K, p)  less that of the whole model
    dbeta: np.ndarray  # (K, m, p)  of beta itself
    log_rss: np.ndarray  # (K,)  less that of the whole model
    dlog_rss: np.ndarray  # (K, m)
    slope: np.ndarray  # (K, m)  of what of -2 log-likelihood depends on theta


class Weighted(NamedTuple):
    """Derivatives in the weight of every group's likelihood, theta held."""

    beta: np.ndarray  # (K, p)
    log_scale: np.ndarray  # (K,)
    slope: np.ndarray  # (K, m)  of the criterion, in theta as well


def whole_groups(part: Alike) -> Loss:
    """Independent groups as units."""
    n = np.full(part.groups.size, part.rows.shape[1])
    return Loss(part.groups, n, -part.dlogdet, part.gram, part.dgram)


def single_rows(part: Alike) -> Iterator[Loss]:
    """Rows as units."""
    G, n, P = part.B.shape
    c = part.own_precision
    step = max(1, _CHUNK // max(1, G * part.dlogdet.shape[1] * P * P))
    for start in range(0, n, step):
        at = slice(start, start + step)
        U, b, own = part.U[:, at], part.B[:, at], c[:, at]
        UD = U[:, None] @ part.D  # (G, m, n, q)
        dc = -np.einsum("gknq,gnq->gnk", UD, U)
        db = -np.moveaxis(UD @ part.ZB[:, None], 1, 2)  # (G, n, m, P)
        ratio = dc / own[..., None]
        outer = b[..., :, None] * b[..., None, :] / own[..., None, None]
        half = db[..., :, None] * (b / own[..., None])[..., None, None, :]
        dgram = half + np.swapaxes(half, -1, -2) - ratio[..., None, None] * outer[:, :, None]
        unit = part.rows[:, at].reshape(-1)
        K, m = unit.size, dc.shape[-1]
        yield Loss(
            unit, np.ones(K), ratio.reshape(K, m),
            outer.reshape(K, P, P), dgram.reshape(K, m, P, P),
        )  # fmt: skip


def sets_of_rows(part: Alike, unit: np.ndarray) -> Iterator[Loss]:
    """Units of rows within independent groups, ``unit`` (n,) the one of every row."""
    for g, rows in enumerate(part.rows):
        UD = part.U[g] @ part.tangents_of(g)
        dB = -UD @ part.ZB[g]
        for one in np.unique(unit[rows]):
            at = np.flatnonzero(unit[rows] == one)
            C = part.precision_of(g, at)
            dC = -UD[:, at] @ part.U[g][at].T
            b, db = part.B[g][at], dB[:, at]
            inverse = np.linalg.inv(C)
            a = inverse @ b
            half = np.swapaxes(db, 1, 2) @ a
            dgram = half + np.swapaxes(half, 1, 2) - a.T @ dC @ a
            slope = np.einsum("ab,kab->k", inverse, dC)
            yield Loss(
                np.array([one]), np.array([at.size]), slope[None],
                (b.T @ a)[None], dgram[None],
            )  # fmt: skip


@np.errstate(divide="ignore", invalid="ignore")
def without(loss: Loss, whole: Standard, nu: float, *, reml: bool) -> Without:
    """Fixed effects, residual sum of squares and slope of the criterion without each unit.

    Parameters
    ----------
    loss : Loss
    whole : Standard
    nu : float
        Rows of the whole model, less p for REML.
    reml : bool

    Returns
    -------
    Without
        NaN where a combination of columns of X has nothing left.
    """
    P = len(whole.T)
    left, slopes = np.eye(P) - loss.gram, whole.dgram - loss.dgram
    xx, xy = left[:, :-1, :-1], left[:, :-1, -1]
    lowest = np.linalg.eigvalsh(xx).min(axis=-1, initial=1.0)
    determined = lowest > _RANK_TOL
    xx = np.where(determined[:, None, None], xx, np.eye(P - 1))
    inverse = np.linalg.inv(xx)
    beta = (inverse @ xy[..., None])[..., 0]
    dxx, dxy = slopes[..., :-1, :-1], slopes[..., :-1, -1]
    dbeta = np.einsum("uab,ukb->uka", inverse, dxy - np.einsum("ukab,ub->uka", dxx, beta))
    v = np.concatenate([-beta, np.ones((len(beta), 1))], axis=1)
    rss = left[:, -1, -1] - np.sum(xy * beta, axis=-1)
    dlog_rss = np.einsum("ua,ukab,ub->uk", v, slopes, v) / rss[:, None]
    slope = whole.dlogdet + loss.dlogdet + (nu - loss.n_rows)[:, None] * dlog_rss
    if reml:
        slope = slope + np.einsum("uab,ukab->uk", inverse, dxx)
    hole = np.where(determined, 1.0, np.nan)
    return Without(
        beta=beta * hole[:, None],
        dbeta=dbeta,
        log_rss=np.log(rss) * hole,
        dlog_rss=dlog_rss,
        slope=slope * hole[:, None],
    )


def weighted(loss: Loss, whole: Standard, nu: float, *, reml: bool) -> Weighted:
    """Derivatives of the model in the powers of the likelihoods of independent groups."""
    xy, share, p = loss.gram[:, :-1, -1], loss.gram[:, -1, -1], len(whole.T) - 1
    dbeta, dlog_rss = whole.dgram[:, :-1, -1], whole.dgram[:, -1, -1]
    dshare = loss.dgram[:, :, -1, -1] - 2.0 * xy @ dbeta.T - share[:, None] * dlog_rss
    slope = -loss.dlogdet + loss.n_rows[:, None] * dlog_rss + nu * dshare
    if reml:
        own = loss.gram[:, :p, :p]
        slope = slope + np.einsum("ukaa->uk", loss.dgram[:, :, :p, :p])
        slope = slope - np.einsum("uab,kab->uk", own, whole.dgram[:, :p, :p])
    return Weighted(xy, share - loss.n_rows / nu, slope)
