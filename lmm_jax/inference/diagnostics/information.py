"""The conditional AIC: how well a fit predicts new rows of the groups that it has seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..record import FitRecord
from .row_algebra import Alike, Standard, conditional_fit, standardized


class Conditional(NamedTuple):
    """Likelihood of the rows given the random effects, and degrees of freedom of that fit."""

    llf: float  # at the BLUPs
    trace: float  # tr(H), H = d fitted / d y at given theta
    correction: float  # what theta's own dependence on y adds


def conditional_information(results: FitRecord) -> Conditional:
    """Conditional log-likelihood and degrees of freedom of a fit.

    The fitted values are ``y - W^-1 P y``, so that with ``V_k = dV / dtheta_k``

        d fitted / d y = H + sum_k W^-1 P V_k P y (d theta_k / d y)'
        d theta / d y = -C / 2 * d2 f / (d theta d y)

    with f the profiled criterion and ``C = 2 (d2 f / d theta^2)^-1``. In coordinates where
    ``y' P y = 1`` the trace of the second part is

        nu sum_kl C_kl (q_k' q_l - (r' V_k r) r' q_l)        r = P y,  q_k = P V_k r

    Directions in which the boundary holds theta have no part in C.
    """
    e, design = results.estimates, results.design
    assert design is not None  # the caller has looked
    whole = standardized(design, e.theta_layout)
    fit, m, n = conditional_fit(whole), e.theta_layout.size, results.nobs
    nu = n - (len(whole.T) - 1 if results.reml else 0)
    sums = _sums(whole)
    qq = sums.aa - sums.ab @ sums.xa.T - sums.xa @ sums.ab.T + sums.xa @ sums.bb @ sums.xa.T
    rq = sums.ra - sums.xa @ sums.rb
    inner = qq + np.outer(whole.dgram[:, -1, -1], rq)  # d (y' P y) = -r' V_k r
    correction = nu * float(np.sum(e.joint_cov[:m, :m] * inner))
    log_weights = 0.0 if design.weights is None else float(np.log(design.weights).sum())
    llf = -0.5 * (n * np.log(2 * np.pi * e.scale) - log_weights + nu * float(fit.z @ fit.z))
    return Conditional(float(llf), float(fit.hat.sum()), correction)


class _Sums(NamedTuple):
    """Products of ``a_k = V^-1 V_k r`` with each other, r and ``B = V^-1 X``, over all rows."""

    aa: np.ndarray  # (m, m)
    ab: np.ndarray  # (m, p)  a_k' B
    xa: np.ndarray  # (m, p)  X' a_k
    bb: np.ndarray  # (p, p)  B' B
    ra: np.ndarray  # (m,)    r' a_k
    rb: np.ndarray  # (p,)    B' r

    @classmethod
    def of(cls, part: Alike) -> _Sums:
        """Those of some groups."""
        B, r = part.B[..., :-1], part.B[..., -1]
        Dr = np.einsum("kab,gb->gka", part.D, part.ZB[..., -1])
        a = np.einsum("gnq,gkq->gkn", part.U, Dr)
        return cls(
            np.einsum("gkn,gln->kl", a, a),
            np.einsum("gkn,gnp->kp", a, B),
            np.einsum("gkq,gqp->kp", Dr, part.ZB[..., :-1]),
            np.einsum("gna,gnb->ab", B, B),
            np.einsum("gkn,gn->k", a, r),
            np.einsum("gnp,gn->p", B, r),
        )


def _sums(whole: Standard) -> _Sums:
    parts = [_Sums.of(part) for part in whole.groups()]
    return _Sums(*(np.sum(values, axis=0) for values in zip(*parts, strict=True)))
