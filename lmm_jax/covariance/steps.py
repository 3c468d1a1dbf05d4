"""What a row of a chain has beside the row before it."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..numerics.linalg import symmetric_blocks
from ..numerics.namespace import namespace


class Step(NamedTuple):
    """What a row has beside the row before it, of any number of rows S.

    With ``x_i`` the row and ``x_(i-1)`` the one before, ``h_i (x_i - b_i x_(i-1))`` have
    independent residuals of variance sigma^2: ``R^-1 = B' B`` with these rows of B. Derivatives
    are those in the structure's stretch of theta.
    """

    left: Any  # S  share of a row's variance that the row before leaves, 1 - a^2
    log_h: Any  # S
    b: Any  # S
    rest: Any  # S  1 - b
    dlog_h: Any  # (m, *S)
    db: Any  # (m, *S)
    log_h_bend: Any  # (m_c, m_c, *S)  of log h, which is linear in the standard deviations'
    growth: Any  # (m_s, *S)  by which b grows with theirs, b_k = b growth_k
    b_bend: Any  # (m_c, m_c, *S)

    @property
    def h(self) -> Any:
        """Inverse standard deviation given the row before, S."""
        return namespace(self.log_h).exp(self.log_h)

    def bend_of_b(self, weights: Any) -> Any:
        """``sum_i w_i d2 b_i``, (m, m), with weights of shape S."""
        xp, n = namespace(self.b, weights), self.b.size
        m_s, m_c = self.growth.shape[0], self.b_bend.shape[0]
        growth = self.growth.reshape(m_s, n)
        ss = (growth * (weights * self.b).reshape(1, n)) @ growth.T
        sc = growth @ (self.db[m_s:] * weights[None]).reshape(m_c, n).T
        axes = tuple(range(2, 2 + self.b.ndim))
        cc = xp.sum(self.b_bend * weights[None, None], axis=axes)
        return symmetric_blocks(ss, sc, cc)

    def bend_of_log_h(self, weights: Any) -> Any:
        """``sum_i w_i d2 log h_i``, (m, m)."""
        xp = namespace(self.b, weights)
        axes = tuple(range(2, 2 + self.b.ndim))
        m_s = self.growth.shape[0]
        cc = xp.sum(self.log_h_bend * weights[None, None], axis=axes)
        return xp.pad(cc, ((m_s, 0), (m_s, 0)))

    def b_along(self, W: Any) -> Any:
        """``sum_kl W_kl d2 b_i``, of shape S; W is symmetric, (m, m)."""
        xp, m_s = namespace(self.b, W), self.growth.shape[0]
        ss = xp.einsum("kl,k...,l...->...", W[:m_s, :m_s], self.growth, self.growth)
        sc = xp.einsum("kl,k...,l...->...", W[:m_s, m_s:], self.growth, self.db[m_s:])
        return self.b * ss + 2.0 * sc + xp.einsum("kl,kl...->...", W[m_s:, m_s:], self.b_bend)

    def log_h_along(self, W: Any) -> Any:
        """``sum_kl W_kl d2 log h_i``, of shape S."""
        m_s = self.growth.shape[0]
        bend = namespace(self.b, W).einsum("kl,kl...->...", W[m_s:, m_s:], self.log_h_bend)
        return bend
