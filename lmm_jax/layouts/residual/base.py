"""What the layouts of a model with a residual covariance have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import jax
import numpy as np
from jax import Array
from scipy.special import logsumexp

from ...covariance.residuals import residual_of
from ...covariance.theta import factor_blocks
from ...numerics.linalg import exact
from ...numerics.namespace import JAX, namespace
from ..contract import Layout, Waist
from ..group_algebra import by_term
from .recentred import Covariates, covariates_of, from_mean, has_covariates
from .starts import Squares, candidates, challengers_of, rows_of_starts

OfOneKind = TypeVar("OfOneKind", bound="OfResiduals")


def with_buckets(layout: OfOneKind, change: Callable[[Any], Any]) -> OfOneKind:
    """The layout with every bucket changed; layout itself where ``change`` gives all back."""
    buckets = tuple(map(change, layout.buckets))
    if all(new is old for new, old in zip(buckets, layout.buckets, strict=True)):
        return layout
    return replace(layout, buckets=buckets)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OfResiduals(Layout):
    """Sufficient statistics of a model whose residuals have a covariance of their own."""

    buckets: tuple[Any, ...]

    def _is_kind(self, kind: str) -> bool:
        """See :meth:`Layout._is_kind`."""
        return kind == "residual" or Layout._is_kind(self, kind)

    def block_rows(self) -> float:
        """See :meth:`Layout.block_rows`."""
        return max((b.c.shape[0] for b in self.buckets), default=0)

    def _squares(self) -> list[Squares]:
        """Squares of the OLS residuals, bucket by bucket."""
        raise NotImplementedError

    def _by_term(self, slopes: Sequence[Array]) -> tuple[Array, ...]:
        """Sums of every bucket's (q, q) over the levels of each term."""
        return by_term(slopes, [bucket.widths for bucket in self.buckets], self.sizes)

    @exact
    def waist_at(self, theta: Array) -> Waist:
        """See :meth:`Layout.waist_at`; differentiable in theta to any order."""
        return self.waist_of(factor_blocks(theta, self.structures), theta)

    def waists_at(self, thetas: Array) -> Waist:
        """See :meth:`Layout.waists_at`: one after the other, each costs a look at all rows."""
        xp = namespace(thetas, self.S0)
        if xp is JAX:
            return jax.lax.map(self.waist_at, thetas)  # side by side they would hold all rows
        waists: Waist = xp.vmap(self.waist_at)(thetas)
        return waists

    @exact
    def start_moments(self) -> Array:
        """See :meth:`Layout.start_moments`."""
        return self.start_candidates()[0]

    def start_candidates(self) -> Array:
        """Thetas to start from, (S, m): residuals that are more and less correlated."""
        return candidates(self.structures, self._squares())

    def start_chains(self, candidates: Array) -> tuple[Array, ...] | None:
        """See :meth:`Layout.start_chains`: large random effects, and ranges."""
        return rows_of_starts(self.structures, candidates)

    def challengers(self, theta: Array) -> tuple[Array, Array] | None:
        """See :meth:`Layout.challengers`: other signs of the residuals of a visit."""
        return challengers_of(self.structures, self._squares(), theta)

    def recentred(self) -> tuple[Layout, Covariates] | None:
        """See :meth:`Layout.recentred`: covariates of standard deviations from their means."""
        if not has_covariates(self.structures):
            return None
        host: Any = jax.device_get(self)
        found = covariates_of(self.structures, host._squares())
        buckets = tuple(from_mean(bucket, found) for bucket in host.buckets)
        return replace(host, buckets=buckets), found

    def log_unit(self, theta: np.ndarray) -> Any:
        """See :meth:`Layout.log_unit`: ``mean(exp(-2 s))^(-1/2)``, by what rows tell of a mean."""
        theta = np.asarray(theta)
        total, count = np.full(theta.shape[:-1], -np.inf), 0.0
        for part in jax.device_get(self)._squares():
            residual, at = residual_of(self.structures, part.arm)
            phi = theta[..., at][..., : residual.spread.n_params]
            rows = np.broadcast_to(part.rows, part.squares.shape)
            slopes = np.broadcast_to(part.slopes, (len(part.slopes), *rows.shape))
            there = rows > 0
            own = logsumexp(-2.0 * phi @ slopes[:, there], b=rows[there], axis=-1)
            total = np.logaddexp(total, own)
            count += float(rows.sum())
        return -0.5 * (total - np.log(count))

    def ranks(self) -> Array:
        """See :meth:`Layout.ranks`: what the random effects can explain is not asked for."""
        return namespace(self.S0).zeros((), self.S0.dtype)

    def within_rss(self) -> Array:
        """See :meth:`Layout.within_rss`: all of it, no residual is free of the others."""
        xp = namespace(self.S0)
        return xp.sum(xp.stack([xp.sum(part.squares) for part in self._squares()]))
