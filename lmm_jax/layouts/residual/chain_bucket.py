"""Rows that depend on the row before them: what a group has of them, in one pass.

With B the whitening of the residuals, ``R^-1 = B' B``, whose rows take a row less b times the
row before, over a standard deviation, ``E = B A`` of the rows ``A = [Z X y]``. Derivatives of
``G = E' E`` in the parameters of R are ``dE' E + E' dE``; see
:mod:`lmm_jax.layouts.residual.integrated`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

import jax
from jax import Array

from ...covariance.residuals import residual_of
from ...covariance.steps import Step
from ...covariance.structures import Structure
from ...numerics.namespace import namespace
from ...reprs import brief
from ..response import OfResponse
from .integrated import WhitenedRows


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChainBucket(OfResponse):
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

    def with_response(self, y: Array) -> ChainBucket:
        """See :meth:`OfResponse.with_response`, (G, l): links are rows."""
        xp = namespace(self.step, y)
        before = one_later(y) * self.follows

        def joined(A: Array, last: Array) -> Array:
            return xp.concatenate([A[:, :-1], last[:, None]], axis=1)

        step = joined(self.step, y - before)
        return replace(self, step=step, before=joined(self.before, before))


class ChainRows(NamedTuple):
    """The links of a bucket at one theta."""

    step: Step  # of shape (g, l)
    E: Array  # (G, w, l)


def one_later(values: Array) -> Array:
    """What stands one place before, along the last axis; zero at the first."""
    xp = namespace(values)
    return xp.pad(values, (*((0, 0) for _ in values.shape[:-1]), (1, 0)))[..., :-1]


def steps_of(theta: Array, structures: tuple[Structure, ...], at: ChainBucket) -> Step:
    """From the row before to every row, (g, l); no function of the times."""
    residual, own = residual_of(structures, at.arm)
    gaps = namespace(theta, at.gaps).stop_gradient(at.gaps)
    return residual.steps(theta[own], gaps, at.follows, at.slopes, at.slopes_before)


def whitened(
    theta: Array, structures: tuple[Structure, ...], at: ChainBucket, q: int
) -> WhitenedRows:
    """The links whitened, behind q columns of random effects."""
    xp = namespace(theta, at.step)
    step = steps_of(theta, structures, at)
    h, drift = step.h[:, None], step.rest[:, None] * at.before
    E = h * (at.step + drift)
    counts = _per_entry(at.counts, step)
    # Rows are rounded before their differences are taken, which are all that the data say of a
    # correlation near one.
    terms = (h * at.step[:, q:]) ** 2 + (h * drift[:, q:]) ** 2
    return WhitenedRows(
        own=ChainRows(step, E),
        G=E @ xp.swapaxes(E, 1, 2),
        log_R=-2.0 * xp.sum(step.log_h * counts),
        lost=xp.sum(counts / step.left),
        squares=xp.sum(xp.sum(terms, axis=2), axis=0),
    )


def slopes_of_gram(at: ChainBucket, own: ChainRows) -> Array:
    """``dG``, (m, G, w, w), in the arm's own parameters."""
    xp, step, E = namespace(own.E), own.step, own.E
    Et = xp.swapaxes(E, 1, 2)
    mu = step.h[None] * step.db
    halves = [
        (step.dlog_h[k][:, None] * E - mu[k][:, None] * at.before) @ Et for k in range(len(mu))
    ]
    G, w, _ = E.shape
    half = xp.stack(halves) if halves else xp.zeros((0, G, w, w), E.dtype)
    return half + xp.swapaxes(half, 2, 3)


def slopes_of_log(at: ChainBucket, own: ChainRows) -> Array:
    """Derivatives of ``log|R|`` in the arm's own parameters, (m,)."""
    xp, step = namespace(own.E), own.step
    return -2.0 * xp.sum(xp.sum(step.dlog_h * _per_entry(at.counts, step)[None], axis=2), axis=1)


def bend(Q: Array, at: ChainBucket, own: ChainRows) -> Array:
    """``sum <Q_i, d2 G_i> + d2 log|R_i|`` in the arm's own parameters, (m, m).

    Q, (G, w, w), is symmetric.
    """
    xp, step, E = namespace(Q, own.E), own.step, own.E
    QE = Q @ E
    ee, fe, ff = (
        _per_entry(xp.sum(a * b, axis=1), step)
        for a, b in ((E, QE), (at.before, QE), (at.before, Q @ at.before))
    )
    m, n = len(step.db), step.b.size
    lam = step.dlog_h.reshape(m, n)
    mu = (step.h[None] * step.db).reshape(m, n)
    ll, lm, mm = ((a * x.reshape(1, n)) @ b.T for a, x, b in
                  ((lam, ee, lam), (lam, fe, mu), (mu, ff, mu)))  # fmt: skip
    bent = step.bend_of_log_h(ee - _per_entry(at.counts, step)) - step.bend_of_b(step.h * fe)
    return 4.0 * (ll - lm - lm.T) + 2.0 * (mm + bent)


def _per_entry(values: Array, step: Step) -> Array:
    """Sums of (G, l) over the groups where they share their steps, (g, l)."""
    if step.b.shape == values.shape:
        return values
    return namespace(values).sum(values, axis=0)[None]
