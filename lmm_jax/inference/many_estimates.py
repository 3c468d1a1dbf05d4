"""From the optima of many responses to estimates in the units of the data: NumPy over lanes.

The formulas are those of :mod:`lmm_jax.inference.estimates`, :mod:`lmm_jax.inference.variance` and
:mod:`lmm_jax.inference.satterthwaite`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..covariance.structures import ZERO_PIVOT, Structure, canonical_factor, lower_indices
from ..covariance.theta import factor_blocks
from ..optimize.newton import CONVERGED, Solution
from .estimates import FLAT_CURVATURE, SINGULAR_TOL
from .variance import FLAT_TOL


class ManyEstimates(NamedTuple):
    """What the fits determine, a row a response; NaN where there is no fit."""

    fe_params: np.ndarray  # (R, p)
    bse_fe: np.ndarray  # (R, p)
    df: np.ndarray  # (R, p)  Satterthwaite's
    theta: np.ndarray  # (R, m)  lme4's theta
    covariances: tuple[np.ndarray, ...]  # (R, k, k) a term
    scale: np.ndarray  # (R,)
    llf: np.ndarray  # (R,)
    nobs: np.ndarray  # (R,)
    converged: np.ndarray  # (R,)
    singular: np.ndarray  # (R,)
    n_iter: np.ndarray  # (R,)


def estimate_many(best: Solution, lanes: Any, *, reml: bool) -> ManyEstimates:
    """Carry the optima back to the coordinates of the data.

    Parameters
    ----------
    best : Solution
        Arrays with lanes last; ``jet`` is a LaneJet.
    lanes : Lanes of ndarray
    reml : bool
    """
    with np.errstate(all="ignore"):  # lanes without a fit are NaN all the way
        return _estimate(best, lanes, reml=reml)


def _estimate(best: Solution, lanes: Any, *, reml: bool) -> ManyEstimates:
    jet, theta = best.jet, np.asarray(best.theta)
    inner = _factors(theta, lanes.structures)
    smallest = np.min([_smallest_singular(L) for L in inner], axis=0)
    nu = lanes.n_obs - (lanes.S_xx.shape[0] if reml else 0)
    scale = jet.profile.rss * lanes.y_scale**2 / nu
    factors = [
        _rectified(_product(A, _canonical(L))) for A, L in zip(lanes.whiteners, inner, strict=True)
    ]
    low = lanes.beta_origin + lanes.y_scale * np.sum(
        lanes.beta_map * jet.profile.beta[None], axis=1
    )
    variance = _diagonal_of(lanes.beta_map, jet.profile.cov_beta)
    slopes = np.stack([_diagonal_of(lanes.beta_map, d) for d in jet.dcov_beta])
    df = _satterthwaite(jet, variance, slopes, nu)
    converged = (best.status == CONVERGED) & lanes.usable
    singular = smallest < SINGULAR_TOL
    converged &= singular | ~_flat(jet.point.hessian, theta)
    void = ~lanes.usable | ~np.isfinite(jet.point.value)
    n_obs = np.broadcast_to(lanes.n_obs, void.shape)
    rows = dict(
        fe_params=lanes.beta_shift + low,
        bse_fe=np.sqrt(scale * variance),
        df=df,
        theta=np.concatenate([L[lower_indices(len(L))] for L in factors]),
        scale=scale,
        llf=-0.5 * jet.point.value,
    )
    rows = {name: np.where(void, np.nan, values).T for name, values in rows.items()}
    covariances = tuple(
        np.moveaxis(np.where(void, np.nan, scale * _product(L, np.swapaxes(L, 0, 1))), -1, 0)
        for L in factors
    )
    return ManyEstimates(
        **rows,
        covariances=covariances,
        nobs=n_obs.astype(np.int64),
        converged=converged & ~void,
        singular=singular & ~void,
        n_iter=np.where(void, 0, best.n_iter),
    )


def with_held(found: ManyEstimates, held: np.ndarray) -> ManyEstimates:
    """Put the fixed effects that were held back in their places, without variance.

    Parameters
    ----------
    found : ManyEstimates
        Of the fixed effects that are free.
    held : ndarray, shape (p,)
        Values of the held ones, NaN where free.
    """
    void = np.isnan(found.scale)[:, None]

    def among(values: np.ndarray, rest: Any) -> np.ndarray:
        out = np.where(void, np.nan, np.broadcast_to(rest, (len(void), held.size)))
        out[:, np.isnan(held)] = values
        return out

    return found._replace(
        fe_params=among(found.fe_params, held),
        bse_fe=among(found.bse_fe, 0.0),
        df=among(found.df, np.nan),
    )


def _factors(theta: np.ndarray, structures: tuple[Structure, ...]) -> list[np.ndarray]:
    """Lambda of every term, (k, k, R)."""
    blocks = factor_blocks(theta.T, structures)
    return [np.ascontiguousarray(np.moveaxis(L, 0, -1)) for L in blocks]


def _product(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """``A B`` of every lane."""
    return np.sum(A[:, :, None] * B[None], axis=1)


def _diagonal_of(A: np.ndarray, S: np.ndarray) -> np.ndarray:
    """Diagonal of ``A S A'`` of every lane, (p, R)."""
    if A.shape[-1] == 1:
        half = np.tensordot(A[..., 0], S, 1)
        return np.sum(half * A, axis=1)
    return np.sum(_product(A, S) * A, axis=1)


def _smallest_singular(L: np.ndarray) -> np.ndarray:
    if len(L) == 1:
        return np.abs(L[0, 0])
    finite = np.where(np.isfinite(L), L, 1.0)
    return np.linalg.svd(np.moveaxis(finite, -1, 0), compute_uv=False).min(axis=1)


def _canonical(L: np.ndarray) -> np.ndarray:
    """See :func:`lmm_jax.inference.estimates.canonical_factor`."""
    tiny = np.flatnonzero(
        (np.abs(L[np.arange(len(L)), np.arange(len(L))]) < ZERO_PIVOT).any(axis=0)
    )
    if not tiny.size:
        return L
    fixed = np.moveaxis(canonical_factor(np.moveaxis(L[..., tiny], -1, 0)), 0, -1)
    out = L.copy()
    out[..., tiny] = fixed
    return out


def _rectified(L: np.ndarray) -> np.ndarray:
    """Columns flipped so that every diagonal entry is non-negative."""
    diagonal = L[np.arange(len(L)), np.arange(len(L))]
    return L * np.where(diagonal < 0, -1.0, 1.0)[None]


def _satterthwaite(
    jet: Any, variance: np.ndarray, slopes: np.ndarray, nu: np.ndarray
) -> np.ndarray:
    """``2 f^2 / (g' A g)`` of every coefficient, (p, R).

    With ``C = cov(theta) = 2 H^-1`` and ``rho = d log r^2 / d theta`` the covariance A
    of (theta, log sigma^2) makes ``g' A g = h' C h + 2 f^2 / nu`` with ``h = f_theta + f rho``.
    """
    e, V = eigen_lanes(jet.point.hessian)
    usable = e > FLAT_TOL * np.maximum(np.abs(e).max(axis=0), 1e-300)
    inverse = np.where(usable, 2.0 / np.where(usable, e, 1.0), 0.0)
    h = slopes + variance[None] * jet.dlog_rss[:, None]  # (m, p, R)
    along = np.sum(V[:, :, None] * h[:, None], axis=0)
    spread = np.sum(inverse[:, None] * along**2, axis=0)
    return 2.0 * variance**2 / (spread + 2.0 * variance**2 / nu)


def _flat(hessian: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """See :func:`lmm_jax.inference.estimates.is_flat`."""
    size = 1.0 + np.abs(theta)
    e, _ = eigen_lanes(hessian * size[:, None] * size[None])
    return np.abs(e).min(axis=0) < FLAT_CURVATURE


def eigen_lanes(H: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (m, R) and -vectors (m, m, R) of symmetric matrices (m, m, R)."""
    if len(H) == 1:
        return H[0], np.ones_like(H)
    finite = np.where(np.isfinite(H), H, 0.0)
    e, V = np.linalg.eigh(np.moveaxis(finite, -1, 0))
    return e.T, np.moveaxis(V, 0, -1)
