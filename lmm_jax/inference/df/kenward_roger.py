"""Kenward and Roger's covariance of the fixed effects and degrees of freedom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import block_diag

from ...covariance.structures import Structure
from ...covariance.theta import theta_slices
from ...layouts.contract import PsiMoments

# Eigenvalues of the information, at unit diagonal, below which a direction is not informed.
_UNINFORMED = 1e-10
# df closer to 2 than this leave F as it is (pbkrtest's rule): its scaling divides by df - 2.
_NEAR_TWO = 1e-2
# Below this a factor of the scaling is zero for all purposes.
_ZERO = 1e-10


class KenwardRoger(NamedTuple):
    """What the tests of one fit need, relative to the residual variance."""

    cov_beta: np.ndarray  # (p, p)  adjusted for the uncertainty of the variances
    plain: np.ndarray  # (p, p)  C = (X' V^-1 X)^-1
    bends: np.ndarray  # (m + 1, p, p)  C P_k C
    W: np.ndarray  # (m + 1, m + 1)  covariance of the variance parameters


def kenward_roger(
    moments: PsiMoments,
    beta_map: np.ndarray,
    n: float,
    W: np.ndarray | None,
    *,
    sigma_known: bool = False,
) -> KenwardRoger:
    """The adjusted covariance and what degrees of freedom are made of.

    V is linear in its parameters: with directions ``V_k``, ``P_k = X' V^-1 V_k V^-1 X``
    and ``Q_kl = X' V^-1 V_k V^-1 V_l V^-1 X``,

        adjusted = C + 2 C (sum_kl W_kl (Q_kl - P_k C P_l)) C
        (W^-1)_kl = (tr(V^-1 V_k V^-1 V_l) - 2 tr(C Q_kl) + tr(C P_k C P_l)) / 2

    where W^-1 is the expected information of the restricted likelihood. Nothing of this
    depends on the coordinates of the variances. The first direction is V itself, in the place
    of the residual variance, so that its products are known without another look at the data.

    Parameters
    ----------
    moments : PsiMoments
        Along the directions of all relative covariances, in the layout's coordinates.
    beta_map : ndarray, shape (p, p)
        Fixed effects of the data from those of the layout.
    n : float
        Rows.
    W : ndarray, shape (m + 1, m + 1), or None
        Covariance of log sigma^2 and the parameters of the directions; None: the inverse
        of the expected information.
    sigma_known : bool
        Whether sigma^2 is known, so that only the relative covariances are uncertain.

    References
    ----------
    Kenward & Roger (1997), doi:10.2307/2533558; Halekoh & Højsgaard (2014),
    doi:10.18637/jss.v059.i09.
    """
    P, Q = _bends(moments)
    if W is None:
        W = _uncertainty(expected_information(moments, n), int(sigma_known))
    return adjusted(moments.gram, P, np.einsum("kl,klcd->cd", W, Q), W, beta_map)


def adjusted(
    gram: np.ndarray, P: np.ndarray, WQ: np.ndarray, W: np.ndarray, beta_map: np.ndarray
) -> KenwardRoger:
    """The adjusted covariance and what goes with it from its sums.

    Parameters
    ----------
    gram : ndarray, shape (p, p)
        ``X' V^-1 X``.
    P : ndarray, shape (m + 1, p, p)
        Along V and all directions.
    WQ : ndarray, shape (p, p)
        ``sum_kl W_kl Q_kl``; where V is not linear in its parameters less a quarter of
        ``sum_kl W_kl X' V^-1 V_kl V^-1 X``.
    W : ndarray, shape (m + 1, m + 1)
    beta_map : ndarray, shape (p, p)
    """
    C = np.linalg.inv(gram)
    CP = C @ P
    spread = WQ - np.tensordot(np.tensordot(W, P, 1), CP, ((0, 2), (0, 1)))
    cov = C + C @ (spread + spread.T) @ C
    cov_beta, plain, bends = (beta_map @ A @ beta_map.T for A in (cov, C, CP @ C))
    return KenwardRoger(cov_beta=cov_beta, plain=plain, bends=bends, W=W)


def along_theta(
    moments: PsiMoments, theta: np.ndarray, structures: Sequence[Structure]
) -> PsiMoments:
    """Moments along the derivatives of Psi in theta, from those along all directions."""
    blocks = []
    for structure, at in zip(structures, theta_slices(structures), strict=True):
        if not structure.linear:  # these are the derivatives
            blocks.append(np.eye(structure.n_params))
            continue
        tangents = structure.psi_tangents(theta[at]).reshape(structure.n_params, -1)
        directions = structure.directions.reshape(len(structure.directions), -1)
        blocks.append(np.linalg.lstsq(directions.T, tangents.T, rcond=None)[0].T)
    A = block_diag(*blocks)
    return moments._replace(
        traces=A @ moments.traces,
        products=A @ moments.products @ A.T,
        grams=np.einsum("kl,lcd->kcd", A, moments.grams),
        seconds=np.einsum("ki,ijcd,lj->klcd", A, moments.seconds, A, optimize=True),
    )


def side_by_side(found: Sequence[KenwardRoger | None], p: int) -> KenwardRoger:
    """Those of many fits with a first axis R; NaN where there is none."""
    known = [at for at in found if at is not None]
    m = len(known[0].W) if known else 1
    empty = KenwardRoger(*(np.full(s, np.nan) for s in ((p, p), (p, p), (m, p, p), (m, m))))
    rows = [empty if at is None else at for at in found]
    return KenwardRoger(*(np.stack(each) for each in zip(*rows, strict=True)))


def _bends(moments: PsiMoments) -> tuple[np.ndarray, np.ndarray]:
    """``P_k`` and ``Q_kl`` along V and all directions, (m + 1, p, p), (m + 1, m + 1, p, p)."""
    p, m = len(moments.gram), len(moments.traces)
    P, Q = np.zeros((m + 1, p, p)), np.zeros((m + 1, m + 1, p, p))
    P[0] = Q[0, 0] = moments.gram
    P[1:] = Q[0, 1:] = Q[1:, 0] = moments.grams
    Q[1:, 1:] = 0.5 * (moments.seconds + np.swapaxes(moments.seconds, -1, -2))
    return P, Q


def expected_information(moments: PsiMoments, n: float, *, reml: bool = True) -> np.ndarray:
    """Expected information of the variances along V and all directions, (m + 1, m + 1).

    Parameters
    ----------
    moments : PsiMoments
    n : float
        Rows.
    reml : bool
        Of the restricted likelihood, or of the likelihood: the traces alone.
    """
    m = len(moments.traces)
    own = np.zeros((m + 1, m + 1))
    own[0, 0], own[1:, 1:] = n, moments.products
    own[0, 1:] = own[1:, 0] = moments.traces
    if not reml:
        return 0.5 * own
    C = np.linalg.inv(moments.gram)
    P, Q = _bends(moments)
    CP = C @ P
    own = own - 2.0 * np.einsum("cd,kldc->kl", C, Q)
    return 0.5 * (own + np.einsum("kcd,ldc->kl", CP, CP))


def _uncertainty(information: np.ndarray, known: int) -> np.ndarray:
    """Covariance of the variance parameters, of which the first are known or not."""
    W = np.zeros_like(information)
    W[known:, known:] = _inverse(information[known:, known:])
    return W


def _inverse(information: np.ndarray) -> np.ndarray:
    """Inverse at unit diagonal; a direction without information gets none of the uncertainty."""
    unit = np.sqrt(np.maximum(np.diagonal(information), np.finfo(float).tiny))
    e, V = np.linalg.eigh(information / np.outer(unit, unit))
    e = np.where(e > _UNINFORMED, e, np.inf)
    return (V / e) @ V.T / np.outer(unit, unit)


def f_correction(at: KenwardRoger, L: np.ndarray) -> tuple[float, float]:
    """Denominator degrees of freedom of the F test of ``L beta``, and the scale of F.

    Parameters
    ----------
    at : KenwardRoger
    L : ndarray, shape (q, p)
        Independent rows.

    Returns
    -------
    df, scale : float
        ``scale F`` has the distribution ``F(q, df)``; of one row the scale is 1.

    References
    ----------
    Kenward & Roger (1997), doi:10.2307/2533558, sections 3 and 4.
    """
    q = len(L)
    inner = np.linalg.inv(L @ at.plain @ L.T)
    bends = inner @ (L @ at.bends @ L.T)  # (m + 1, q, q)
    traces = np.trace(bends, axis1=1, axis2=2)
    A1 = traces @ at.W @ traces
    A2 = np.einsum("kl,kab,lba->", at.W, bends, bends)
    if A2 <= 0:  # no variance is uncertain
        return float("inf"), 1.0
    B = (A1 + 6.0 * A2) / (2.0 * q)
    g = ((q + 1) * A1 - (q + 4) * A2) / ((q + 2) * A2)
    below = 3.0 * q + 2.0 * (1.0 - g)
    top = 1.0 + g / below * B
    V1 = 1.0 - (q - g) / below * B
    V2 = 1.0 - (q + 2 - g) / below * B
    top = 0.0 if abs(top) < _ZERO else top
    mean = 1.0 - A2 / q
    with np.errstate(divide="ignore", invalid="ignore"):  # V2 = 0: rho is infinite, df is four
        share = 1.0 if abs(mean) < _ZERO and abs(V1) < _ZERO else mean / V1
        rho = share**2 * top / V2 / q
        df = 4.0 + (q + 2.0) / (q * rho - 1.0)
    scale = 1.0 if abs(df - 2.0) < _NEAR_TWO else df * mean / (df - 2.0)
    return float(df), float(scale)


def contrast_df(at: KenwardRoger, L: np.ndarray) -> np.ndarray:
    """Degrees of freedom of every contrast: ``2 / (d' W d)``, ``d_k = l' C P_k C l / l' C l``.

    Parameters
    ----------
    at : KenwardRoger
        Of one fit, or of many with a first axis R.
    L : ndarray, shape (r, p)

    Returns
    -------
    ndarray, shape (r,) or (R, r)
        That of :func:`f_correction` for one row.
    """
    f = np.sum(L @ at.plain * L, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        d = np.sum(L @ at.bends * L, axis=-1) / f[..., None, :]  # (m + 1, r)
        return 2.0 / np.sum(d * (at.W @ d), axis=-2)
