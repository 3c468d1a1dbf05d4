"""Rows that depend on the row before them: what a group has of them, in one pass.

With B the whitening of the residuals, ``R^-1 = B' B``, whose rows take a row less b times the
row before, over a standard deviation, and with ``A = [Z X y]`` of a group

    E = B A      G = E' E = A' R^-1 A      W = Lambda (I + Lambda' G_ZZ Lambda)^-1 Lambda'

the random effects are integrated out by J, the identity less ``H = W G_Z`` in the rows of Z:

    J' G J = A' V^-1 A         log|V| = log|R| + log|I + Lambda' G_ZZ Lambda|

and derivatives in the parameters of R are ``J' dG J`` with ``dG = dE' E + E' dE``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

import jax
from jax import Array

from ...covariance.residuals import Step
from ...covariance.structures import Structure
from ...covariance.theta import factor_blocks, spread
from ...numerics.linalg import eliminate
from ...numerics.namespace import namespace
from ...reprs import brief
from .starts import residual_of


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChainBucket:
    """Groups of one arm; without random effects all rows of the arm are one group.

    An entry (a *link*) is a row and the row before it, or one of a few that stand for many such.
    ``g`` is G, or 1 where all groups have the same.
    """

    step: Array  # (G, w, l)  [Z X y], less that of the row before; w = q + p + 1
    before: Array  # (G, w, l)  the row before, zero where there is none
    follows: Array  # (g, l)  1 where there is one, otherwise 0
    gaps: Array  # (g, l)  how much earlier it is; 1 where there is none
    slopes: Array  # (m_s, g, l)
    slopes_before: Array  # (m_s, g, l)  of the row before; of the row itself where there is none
    counts: Array  # (G, l)  rows that a link stands for
    widths: tuple[int, ...] = field(metadata={"static": True})  # levels of each term in a group
    arm: int = field(metadata={"static": True})
    in_order: bool = field(metadata={"static": True})  # links are rows, each after the one before
    _array: ClassVar[str] = "step"

    __repr__ = brief


class Whitened(NamedTuple):
    """A bucket at one theta."""

    step: Step  # of shape (g, l)
    E: Array  # (G, w, l)
    G: Array  # (G, w, w)
    Y: Array  # (G, q, q)  W = Y' Y
    H: Array  # (G, q, w)  W G_Z,
    S: Array  # (G, w, w)  A' V^-1 A
    logdet: Array  # ()  log|V| of all groups
    rounding: Array  # (C + 1,)  of logdet and of the diagonal of gram, in units of eps


def one_later(values: Array) -> Array:
    """What stands one place before, along the last axis; zero at the first."""
    xp = namespace(values)
    return xp.pad(values, (*((0, 0) for _ in values.shape[:-1]), (1, 0)))[..., :-1]


def with_response(at: ChainBucket, y: Array) -> ChainBucket:
    """The bucket, whose links are rows, with another y, (G, l)."""
    xp = namespace(at.step, y)
    before = one_later(y) * at.follows

    def joined(A: Array, last: Array) -> Array:
        return xp.concatenate([A[:, :-1], last[:, None]], axis=1)

    step = joined(at.step, y - before)
    return replace(at, step=step, before=joined(at.before, before))


def steps_of(theta: Array, structures: tuple[Structure, ...], at: ChainBucket) -> Step:
    """From the row before to every row, (g, l); no function of the times."""
    residual, own = residual_of(structures, at.arm)
    gaps = namespace(theta, at.gaps).stop_gradient(at.gaps)
    return residual.steps(theta[own], gaps, at.follows, at.slopes, at.slopes_before)


def whitened(theta: Array, structures: tuple[Structure, ...], at: ChainBucket) -> Whitened:
    """Whiten the rows and integrate the random effects out."""
    return whitened_by(factor_blocks(theta, structures), theta, structures, at)


def whitened_by(
    factors: Sequence[Array], theta: Array, structures: tuple[Structure, ...], at: ChainBucket
) -> Whitened:
    """The same with factors of the terms apart from theta, where the residuals have theirs."""
    xp = namespace(factors, theta, at.step)
    step = steps_of(theta, structures, at)
    Lambda = spread(factors, at.widths)
    q = len(Lambda)
    h, drift = step.h[:, None], step.rest[:, None] * at.before
    E = h * (at.step + drift)
    G = E @ xp.swapaxes(E, 1, 2)
    LG = Lambda.T[None] @ G[:, :q]  # (G, q, w)
    M = xp.moveaxis(xp.eye(q, dtype=G.dtype)[None] + LG[..., :q] @ Lambda[None], 0, -1)
    right = [xp.broadcast_to(Lambda.T[:, :, None], M.shape), xp.moveaxis(LG, 0, -1)]
    U, X = eliminate(M, xp.concatenate(right, axis=1))
    Y, through = xp.moveaxis(X[:, :q], -1, 0), xp.moveaxis(X[:, q:], -1, 0)
    pivots = xp.diagonal(U)  # (G, q)
    logs = xp.sum(step.log_h * _per_entry(at.counts, step))
    # A pivot rounds by its diagonal entry. Rows are rounded before their differences are taken,
    # which are all that the data say of a correlation near one.
    lost = xp.sum(_per_entry(at.counts, step) / step.left) + xp.sum(xp.diagonal(M) / pivots**2)
    terms = (h * at.step[:, q:]) ** 2 + (h * drift[:, q:]) ** 2
    squares = xp.sum(xp.sum(terms, axis=2), axis=0)
    squares = squares + xp.diagonal(xp.sum(G[:, q:, q:], axis=0))
    return Whitened(
        step=step,
        E=E,
        G=G,
        Y=Y,
        H=xp.swapaxes(Y, 1, 2) @ through,
        S=G - xp.swapaxes(through, 1, 2) @ through,
        logdet=2.0 * xp.sum(xp.log(pivots)) - 2.0 * logs,
        rounding=xp.append(lost[None], squares),
    )


def slopes_of_gram(at: ChainBucket, of: Whitened) -> Array:
    """``dG``, (m, G, w, w), in the arm's own parameters."""
    xp, step = namespace(of.E), of.step
    Et = xp.swapaxes(of.E, 1, 2)
    mu = step.h[None] * step.db
    halves = [
        (step.dlog_h[k][:, None] * of.E - mu[k][:, None] * at.before) @ Et for k in range(len(mu))
    ]
    half = xp.stack(halves) if halves else xp.zeros((0, *of.G.shape), of.G.dtype)
    return half + xp.swapaxes(half, 2, 3)


def projected(A: Array, H: Array) -> Array:
    """``J' A J`` of symmetric A, (..., G, w, w)."""
    xp, q = namespace(A, H), H.shape[1]
    half = A - A[..., :q] @ _leading(H, A)  # A J
    return half - xp.swapaxes(_leading(H, A), -1, -2) @ half[..., :q, :]


def _leading(H: Array, A: Array) -> Array:
    """H with as many leading axes as A."""
    return H.reshape(*(1,) * (A.ndim - H.ndim), *H.shape)


def slopes_of_logdet(dG: Array, at: ChainBucket, of: Whitened) -> Array:
    """Derivatives of ``log|V|`` in the arm's own parameters, (m,)."""
    xp, q = namespace(dG), of.Y.shape[1]
    logs = xp.sum(xp.sum(of.step.dlog_h * _per_entry(at.counts, of.step)[None], axis=2), axis=1)
    W = xp.swapaxes(of.Y, 1, 2) @ of.Y
    return xp.einsum("gab,kgab->k", W, dG[..., :q, :q]) - 2.0 * logs


def bend(Q: Array, at: ChainBucket, of: Whitened) -> Array:
    """``sum <Q_i, d2 G_i> + d2 log|R_i|`` in the arm's own parameters, (m, m).

    Parameters
    ----------
    Q : Array, shape (G, w, w)
        Symmetric.
    """
    xp, step = namespace(Q, of.E), of.step
    QE = Q @ of.E
    ee, fe, ff = (
        _per_entry(xp.sum(a * b, axis=1), step)
        for a, b in ((of.E, QE), (at.before, QE), (at.before, Q @ at.before))
    )
    m, n = len(step.db), step.b.size
    lam = step.dlog_h.reshape(m, n)
    mu = (step.h[None] * step.db).reshape(m, n)
    ll, lm, mm = ((a * x.reshape(1, n)) @ b.T for a, x, b in
                  ((lam, ee, lam), (lam, fe, mu), (mu, ff, mu)))  # fmt: skip
    own = step.bend_of_log_h(ee - _per_entry(at.counts, step)) - step.bend_of_b(step.h * fe)
    return 4.0 * (ll - lm - lm.T) + 2.0 * (mm + own)


def _per_entry(values: Array, step: Step) -> Array:
    """Sums of (G, l) over the groups where they share their steps, (g, l)."""
    if step.b.shape == values.shape:
        return values
    return namespace(values).sum(values, axis=0)[None]
