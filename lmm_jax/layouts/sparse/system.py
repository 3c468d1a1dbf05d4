"""``I + Lambda' Z'Z Lambda`` of all random effects together: its factor and what follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...numerics.elimination import Elimination
from ...numerics.sparse_factor import SparseFactor, factor_sparse, inverse_entries
from .gram import SparseGram
from .index import first_columns

# Imaginary step of a derivative: its square is nothing beside one.
_STEP = 1e-100


class Places:
    """Where the blocks of a matrix with the pattern of ``Z'Z`` are stored."""

    def __init__(self, gram: SparseGram, elimination: Elimination) -> None:
        first = first_columns(gram.widths, gram.sizes)
        self.own = [
            self._find(elimination, first[t], first[t], np.arange(w), np.arange(w), k, k)
            for t, (w, k) in enumerate(zip(gram.widths, gram.sizes, strict=True))
        ]
        self.across = []
        for m in gram.meetings:
            t, s = m.terms
            self.across.append(
                self._find(
                    elimination, first[t], first[s], m.left, m.right, gram.sizes[t], gram.sizes[s]
                )
            )

    @staticmethod
    def _find(
        plan: Elimination, row: int, column: int, a: np.ndarray, b: np.ndarray, k: int, j: int
    ) -> np.ndarray:
        shape = (a.size, k, j)
        rows = (row + a.astype(np.int64) * k)[:, None, None] + np.arange(k)[:, None]
        columns = (column + b.astype(np.int64) * j)[:, None, None] + np.arange(j)
        flat = (np.broadcast_to(at, shape).ravel() for at in (rows, columns))
        return plan.places(*flat).reshape(shape)


@dataclass(frozen=True, eq=False)
class Blocks:
    """Blocks of a symmetric matrix at the pattern of ``Z'Z``."""

    own: list[np.ndarray]  # (L, k, k) a term
    across: list[np.ndarray]  # (P, k, k') a list of meetings


class System:
    """``M = I + Lambda' Z'Z Lambda`` at some factors, real or with a derivative.

    Parameters
    ----------
    gram : SparseGram
    places : Places
    elimination : Elimination
    factors : sequence of ndarray, shape (k, k)
        Lambda of every term.
    """

    def __init__(
        self,
        gram: SparseGram,
        places: Places,
        elimination: Elimination,
        factors: Sequence[Any],
    ) -> None:
        self.gram, self.places, self.factors = gram, places, factors
        values = np.zeros(elimination.size, np.result_type(*factors, float))
        for at, V, L in zip(places.own, gram.own, factors, strict=True):
            values[at] = np.einsum("ca,lcd,db->lab", L, V, L, optimize=True) + np.eye(len(L))
        for at, V, m in zip(places.across, gram.across, gram.meetings, strict=True):
            left, right = (factors[t] for t in m.terms)
            values[at] = np.einsum("ca,pcd,db->pab", left, V, right, optimize=True)
        self.values = values
        self.factor: SparseFactor = factor_sparse(values, elimination)

    @property
    def logdet(self) -> float:
        """``log|M|``."""
        return self.factor.logdet

    def times(self, x: Any) -> Any:
        """``M^-1 x`` for columns (N, C, 1)."""
        return self.factor.solve(np.asarray(x)[:, :, 0])[:, :, None]

    @cached_property
    def inverse(self) -> Blocks:
        """Blocks of ``M^-1``."""
        z = inverse_entries(self.factor)
        at = self.places
        return Blocks([z[own] for own in at.own], [z[across] for across in at.across])

    @cached_property
    def diagonals(self) -> tuple[np.ndarray, np.ndarray]:
        """Diagonals of M and of ``M^-1``, (N,) each."""
        own = [np.einsum("laa->la", self.values[at]).ravel() for at in self.places.own]
        inverse = [np.einsum("laa->la", block).ravel() for block in self.inverse.own]
        return np.concatenate(own), np.concatenate(inverse)

    def halves(self) -> list[np.ndarray]:
        """``sum_i (P Lambda)_ii`` of every term, ``P Lambda = Z'Z Lambda M^-1``, (k, k)."""
        L, Z, gram = self.factors, self.inverse, self.gram
        out = [
            np.einsum("abcd,bc->ad", _moments(V, block), L[t])
            for t, (V, block) in enumerate(zip(gram.own, Z.own, strict=True))
        ]
        for V, block, m in zip(gram.across, Z.across, gram.meetings, strict=True):
            t, s = m.terms
            moments = _moments(V, block)  # V_ab Z_cd: a, c of the first term, b, d of the second
            out[t] = out[t] + np.einsum("abcd,bd->ac", moments, L[s])
            out[s] = out[s] + np.einsum("abcd,ac->bd", moments, L[t])
        return out


def _moments(V: Any, Z: np.ndarray) -> np.ndarray:
    """``sum_p V_p[a, b] Z_p[c, d]``."""
    flat: np.ndarray = V.reshape(len(V), -1).T @ Z.reshape(len(Z), -1)
    return flat.reshape(*V.shape[1:], *Z.shape[1:])


def half_slopes(
    gram: SparseGram,
    places: Places,
    elimination: Elimination,
    factors: Sequence[np.ndarray],
    t: int,
    E: np.ndarray,
) -> list[np.ndarray]:
    """Derivative of :meth:`System.halves` along E in the factor of term t."""
    moved = [L + (1j * _STEP * E if s == t else 0.0) for s, L in enumerate(factors)]
    halves = System(gram, places, elimination, moved).halves()
    return [half.imag / _STEP for half in halves]
