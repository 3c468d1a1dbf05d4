"""What the groups of one bucket become when their random effects are integrated out."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array

from ..numerics.linalg import group_product, total_product
from ..numerics.namespace import namespace
from ..numerics.roots import eliminate_root, root_rounding
from .buckets import Bucket
from .contract import Waist
from .group_algebra import logdet_of


class GroupTerms(NamedTuple):
    """Per-group matrices that all derivatives in Psi are made of."""

    both: Array  # (2 q, 2 q, G)    [I Lambda]' P [I Lambda] with P = T' M^-1 T
    columns: Array  # (2 q, p + 1, G)  [I Lambda]' u with u = T' M^-1 c

    @property
    def P(self) -> Array:
        """``T' M^-1 T``, (q, q, G)."""
        q = self.both.shape[0] // 2
        return self.both[:q, :q]

    @property
    def u(self) -> Array:
        """``T' M^-1 c``, (q, p + 1, G)."""
        return self.columns[: self.both.shape[0] // 2]


def eliminate_bucket(Lambda: Array, bucket: Bucket) -> tuple[Waist, Array, GroupTerms]:
    """Waist, its rounding in units of eps, and the matrices of the groups."""
    xp = namespace(Lambda, bucket.T)
    q = Lambda.shape[0]
    F = xp.einsum("rag,ab->rbg", bucket.T, Lambda)
    at = eliminate_root(F, xp.concatenate([bucket.T, bucket.c], axis=1))
    K, w = at.X[:, :q], at.X[:, q:]
    part = Waist(logdet=logdet_of(at.U, bucket.copies), gram=total_product(w, w))
    KF = xp.concatenate([K, at.F], axis=1)
    terms = GroupTerms(both=group_product(KF, KF), columns=group_product(KF, w))
    return part, root_rounding(at, bucket.c, bucket.copies), terms
