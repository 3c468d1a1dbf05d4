"""Sums over the pairs of entries as products of matrices, for NumPy and groups that meet most rows.

Where every group has entries at most rows of the core (subjects who see all items), the entries of
a group, written out as a matrix ``d_i`` with a column for every row of the core, are few zeros

    sum_i d_i' W_i d_i         d_i H d_i'

are products of dense matrices then, and need no list of pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ...reprs import brief

# Seconds of a pair in one of the sums of :mod:`.pair_sums`, of a place of a dense matrix in one,
# and of a product of numbers, on one core of today.
_PAIR, _PLACE, _PRODUCT = 1.2e-9, 2e-9, 5e-11


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DenseSums:
    """The entries of the groups of one bucket as matrices; the core is one block."""

    d: np.ndarray  # (q, G, N)

    __repr__ = brief

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return self.d.nbytes

    def added(self, total: np.ndarray, W: Any) -> np.ndarray:
        """``total + sum_i d_i' W_i d_i``, (N, N, 1), for symmetric W; lanes may be last."""
        d, n = self.d, self.d.shape[1]
        W = W[:, :, :n]
        if total.ndim > 3:
            lanes = [self.added(total[..., i], W[..., i]) for i in range(total.shape[3])]
            return np.stack(lanes, axis=3)
        weighted = np.einsum("abg,bgn->agn", W, d)
        sums = weighted.reshape(-1, d.shape[2]).T @ d.reshape(-1, d.shape[2])
        return np.asarray(total + 0.5 * (sums + sums.T)[:, :, None])

    def contractions(self, H: Any, q: int, n_groups: int) -> np.ndarray:
        """``d_i H d_i'`` of every group, (q, q, G), for a symmetric H; lanes may be last."""
        if H.ndim > 3:
            lanes = [self.contractions(H[..., i], q, n_groups) for i in range(H.shape[3])]
            return np.stack(lanes, axis=3)
        n = self.d.shape[1]
        through = (self.d.reshape(-1, self.d.shape[2]) @ H[:, :, 0]).reshape(self.d.shape)
        out = np.zeros((q, q, n_groups))
        out[:, :, :n] = np.einsum("agn,bgn->abg", through, self.d)
        return out


def pays(pairs: int, q: int, n_groups: int, shape: tuple[int, int]) -> bool:
    """Whether products of matrices cost less than those of a list of pairs.

    Parameters
    ----------
    pairs : int
    q : int
        Numbers of an entry.
    n_groups : int
    shape : (int, int)
        N columns and B blocks of the core.
    """
    N, B = shape
    listed = pairs * q * (q + 1) / 2 * _PAIR
    dense = n_groups * N * (q * q * _PLACE + q * N * _PRODUCT)
    return B == 1 and dense < listed
