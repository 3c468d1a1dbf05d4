"""Estimates of many responses, a row a response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ..numerics.namespace import namespace
from ..numerics.programs import compiled
from ..optimize.newton import Solution
from ..optimize.shared_columns import narrowed_jet
from .df.satterthwaite import satterthwaite_df
from .estimates import Estimates, estimate, has_optimum, is_in_range


class ManyEstimates(NamedTuple):
    """What the fits of many responses determine, a row a response; NaN where there is no fit."""

    fe_params: np.ndarray  # (R, p)
    bse_fe: np.ndarray  # (R, p)
    df: np.ndarray  # (R, p)  Satterthwaite's
    cov_beta: np.ndarray  # (R, p, p)  relative to the residual variance
    dcov_beta: np.ndarray  # (R, m, p, p)
    joint_cov: np.ndarray  # (R, m + 1, m + 1)
    theta: np.ndarray  # (R, m)  lme4's theta
    covariances: tuple[np.ndarray, ...]  # (R, k, k) a term
    scale: np.ndarray  # (R,)
    llf: np.ndarray  # (R,)
    nobs: np.ndarray  # (R,)
    converged: np.ndarray  # (R,)
    singular: np.ndarray  # (R,)
    n_iter: np.ndarray  # (R,)


@np.errstate(all="ignore")  # lanes without a fit are NaN all the way
def estimate_many(
    best: Solution, lanes: Any, *, reml: bool, held: np.ndarray | None = None
) -> ManyEstimates:
    """Carry the optima of :func:`lmm_jax.fit_many` back to the coordinates of the data.

    Parameters
    ----------
    best : Solution
        Arrays with lanes last, of NumPy or traced.
    lanes : Lanes
    reml : bool
    held : ndarray, shape (p,), optional
        As in :func:`estimate`.
    """
    xp = namespace(best.theta)
    best = best._replace(jet=narrowed_jet(best.jet, lanes.beta_origin.shape[0]))
    best, lanes = jax.tree.map(lambda leaf: xp.moveaxis(leaf, -1, 0), (best, lanes))
    at = estimate(best, lanes, reml=reml, held=held, variances=False)
    void = ~lanes.usable | ~xp.isfinite(at.deviance) | ~is_in_range(at, held)
    variance = xp.diagonal(at.cov_beta, axis1=-2, axis2=-1)
    rows = dict(
        fe_params=at.beta,
        bse_fe=xp.sqrt(at.scale[:, None] * variance),
        df=satterthwaite_df(np.eye(variance.shape[1]), at.cov_beta, at.dcov_beta, at.joint_cov),
        cov_beta=at.cov_beta,
        dcov_beta=at.dcov_beta,
        joint_cov=at.joint_cov,
        theta=at.theta,
        covariances=at.covariances,
        scale=at.scale,
        llf=-0.5 * at.deviance,
    )
    rows = jax.tree.map(lambda a: xp.where(void.reshape(-1, *(1,) * (a.ndim - 1)), np.nan, a), rows)
    return ManyEstimates(
        **rows,
        nobs=xp.broadcast_to(lanes.n_obs, void.shape).astype(np.int64),
        converged=has_optimum(best, lanes.structures, at.singular) & ~void,
        singular=at.singular & ~void,
        n_iter=xp.where(void, 0, best.n_iter),
    )


estimate_lanes = compiled(estimate_many, static="reml")
"""The same as a program: where many lanes are on a device, they stay there."""


def unknown_estimates(R: int, p: int, m: int, sizes: Sequence[int]) -> ManyEstimates:
    """No estimates of R responses: NaN everywhere."""
    shapes = {"cov_beta": (p, p), "dcov_beta": (m, p, p), "joint_cov": (m + 1, m + 1)}
    shapes |= {"fe_params": (p,), "bse_fe": (p,), "df": (p,), "theta": (m,)}
    shapes |= {"scale": (), "llf": ()}
    return ManyEstimates(
        **{name: np.full((R, *shape), np.nan) for name, shape in shapes.items()},
        covariances=tuple(np.full((R, k, k), np.nan) for k in sizes),
        nobs=np.zeros(R, np.int64),
        converged=np.zeros(R, bool),
        singular=np.zeros(R, bool),
        n_iter=np.zeros(R, np.int64),
    )


def put_estimates(
    out: ManyEstimates, i: int, at: Estimates, *, nobs: int, converged: bool, n_iter: int
) -> None:
    """Write those of a fit into row i."""
    with np.errstate(all="ignore"):  # what is held has no degrees of freedom
        df = satterthwaite_df(np.eye(at.beta.size), at.cov_beta, at.dcov_beta, at.joint_cov)
    bse = np.sqrt(at.scale * np.diagonal(at.cov_beta))
    row = {"fe_params": at.beta, "bse_fe": bse, "df": df, "llf": -0.5 * at.deviance}
    row |= {"nobs": nobs, "converged": converged, "n_iter": n_iter}
    for name in ("cov_beta", "dcov_beta", "joint_cov", "theta", "scale", "singular"):
        row[name] = getattr(at, name)
    for name, value in row.items():
        getattr(out, name)[i] = value
    for every, S in zip(out.covariances, at.covariances, strict=True):
        every[i] = S
