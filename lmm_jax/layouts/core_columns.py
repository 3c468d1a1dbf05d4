"""The columns of a dense core whose terms may be related: ``Z B`` side by side, and where they go.

Nothing of the size of the rows times that of A is made: products go by way of the levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from scipy import linalg

from ..numerics.blocks import AnyMatrix, BlockColumns, dense_block, is_sparse
from .crossed.core_index import place_levels
from .group_index import LevelMap
from .related_rows import Known, TermColumns

# Pivots below this, relative to the largest diagonal entry of A, are its rounding.
_PIVOT_TOL = 1e-10


def factor(known: Known, scale: float) -> tuple[AnyMatrix, AnyMatrix, np.ndarray]:
    """``A = B B'`` on the ids with rows, by pivoted Cholesky factors of the families.

    Returns
    -------
    own : matrix, shape (m, r)
        B of the ids with rows, over the scale.
    basis : matrix, shape (L, r)
    first : ndarray of int, shape (r,)
        A member of the family of every column.
    """
    basis = BlockColumns(known.family.size)
    first = []
    for ids, own, number, C, pivots in _cholesky(known):
        rank = C.shape[1]
        across = dense_block(known.matrix, own[pivots[:rank]], ids)
        B = linalg.blas.dtrsm(1.0, C[:rank], across, lower=1, overwrite_b=1)
        basis.add(ids, np.ascontiguousarray(B.T))
        first.append(np.full(rank, number[0]))
    found = basis.matrix()
    seen: Any = found[known.seen] / scale
    return seen, found, np.concatenate(first)


def seen_root(known: Known) -> AnyMatrix:
    """B of the ids with rows alone, (m, r): draws of effects take no other."""
    root = BlockColumns(known.seen.size)
    for _, own, number, C, pivots in _cholesky(known):
        B = np.empty((own.size, C.shape[1]))
        B[pivots] = np.tril(C)
        root.add(number, B)
    return root.matrix()


def _cholesky(known: Known) -> Iterator[tuple[np.ndarray, ...]]:
    """Of every family its parts, the pivoted Cholesky factor (m, r) and the ids in its order."""
    largest = float(np.max(np.asarray(known.matrix.diagonal())[known.seen]))
    for ids, own, number in known.families():
        C, pivots, rank, _ = linalg.lapack.dpstrf(
            dense_block(known.matrix, own, own), tol=_PIVOT_TOL * largest, lower=1, overwrite_a=1
        )
        yield ids, own, number, C[:, :rank], pivots - 1


class CoreTerm(NamedTuple):
    """One term of the core: its Z, and what makes its effects of independent ones."""

    Z: scipy.sparse.csr_array  # (n, L k)
    spread: AnyMatrix | None  # (L k, r k); None: the identity
    basis: AnyMatrix | None
    group: np.ndarray  # (r,)  independent group of every effect
    k: int

    def back(self, x: Any) -> Any:
        """``B' x`` for x over the levels."""
        return x if self.spread is None else self.spread.T @ x

    def forth(self, b: np.ndarray) -> np.ndarray:
        """``Z B b``, (n, C)."""
        return np.asarray(self.Z @ (b if self.spread is None else self.spread @ b))


def core_term(
    term: TermColumns, Z: scipy.sparse.csr_array, scale: float, group: np.ndarray
) -> CoreTerm:
    """A term of the core, from its columns and the independent group of every row."""
    of_level, k = np.zeros(term.n_levels, np.int64), term.structure.k
    of_level[term.codes] = group[:, None]
    if term.known is None:
        return CoreTerm(Z, None, None, of_level, k)
    own, basis, first = factor(term.known, scale)
    if k > 1:
        wide = scipy.sparse.kron(scipy.sparse.csr_array(own), np.eye(k), format="csr")
        own = scipy.sparse.csr_array(wide) if is_sparse(own) else wide.toarray()
    return CoreTerm(Z, own, basis, of_level[first], k)


class CoreColumns:
    """``Z_2``, the columns of all terms of the core side by side, and their places in it."""

    def __init__(
        self, terms: Sequence[CoreTerm], sizes: Sequence[int], n_groups: int, name: str
    ) -> None:
        self.terms = terms
        count = [term.group.size for term in terms]
        owner = np.repeat(np.arange(len(terms)), count)
        group = np.concatenate([term.group for term in terms])
        self.places = place_levels(group, np.arange(owner.size), owner, n_groups, sizes, name=name)
        width = np.asarray(sizes)[owner]
        inside = np.arange(width.sum()) - np.repeat(np.cumsum(width) - width, width)
        self.row = np.repeat(self.places.row, width) + inside
        self.block = np.repeat(self.places.level_block, width)
        ends = np.cumsum([c * k for c, k in zip(count, sizes, strict=True)])
        self.at = [slice(e - c * k, e) for e, c, k in zip(ends, count, sizes, strict=True)]
        self.shape = self.places.columns, self.places.n_blocks

    def back(self, x: Any) -> np.ndarray:
        """``Z_2' x`` for rows x, dense or sparse, (F, C)."""
        parts = [term.back(term.Z.T @ x) for term in self.terms]
        return np.concatenate([v.toarray() if is_sparse(v) else v for v in parts])

    def forth(self, b: np.ndarray) -> np.ndarray:
        """``Z_2 b``, (n, C)."""
        return np.sum([t.forth(b[at]) for t, at in zip(self.terms, self.at, strict=True)], axis=0)

    def products(self) -> np.ndarray:
        """``Z_2' Z_2`` in its place, (N, N, B)."""
        N, B = self.shape
        out = np.zeros((N, N, B))
        for i, left in enumerate(self.terms):
            for j, right in enumerate(self.terms[: i + 1]):
                between = left.back(left.Z.T @ right.Z)
                self._place(out, i, j, right.back(between.T).T)
        return out

    def _place(self, out: np.ndarray, i: int, j: int, values: Any) -> None:
        """Add the products of two terms, those of one block."""
        rows, columns = self.at[i], self.at[j]
        if is_sparse(values):
            table = values.tocoo()
            r, c = rows.start + table.coords[0], columns.start + table.coords[1]
            out[self.row[r], self.row[c], self.block[r]] = table.data
            out[self.row[c], self.row[r], self.block[r]] = table.data
            return
        for b in range(out.shape[2]):
            r = np.flatnonzero(self.block[rows] == b)
            c = np.flatnonzero(self.block[columns] == b)
            part = values[r][:, c] if out.shape[2] > 1 else values
            at = self.row[rows][r], self.row[columns][c]
            out[np.ix_(*at, [b])] = part[..., None]
            out[np.ix_(*at[::-1], [b])] = part.T[..., None]

    def square(self, d: np.ndarray) -> np.ndarray:
        """``d' d`` in its place, (N, N, B)."""
        N, B = self.shape
        out = np.zeros((N, N, B))
        for b in range(B):
            own = np.flatnonzero(self.block == b)
            out[np.ix_(self.row[own], self.row[own], [b])] = (d[:, own].T @ d[:, own])[..., None]
        return out

    def rows(self, x: np.ndarray) -> np.ndarray:
        """Columns over all effects in their place, (F, C) to (N, C, B)."""
        N, B = self.shape
        out = np.zeros((N, x.shape[1], B))
        out[self.row, :, self.block] = x
        return out

    def flat(self, x: np.ndarray) -> np.ndarray:
        """And back, (F, C)."""
        return np.asarray(x[self.row, :, self.block])

    def maps(self, bucket: int) -> list[LevelMap]:
        """Places of the effects of every term; the core counts as one more bucket."""
        out, start = [], 0
        for term in self.terms:
            at = slice(start, start + term.group.size)
            where = np.full(term.group.size, bucket)
            out.append(LevelMap(bucket=where, group=self.places.level_block[at],
                                slot=self.places.row[at]))  # fmt: skip
            start = at.stop
        return out
