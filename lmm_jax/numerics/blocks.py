"""Matrices of independent blocks, dense or sparse, on the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

AnyMatrix = np.ndarray | scipy.sparse.csr_array

# Share of the entries from which a sparse matrix would take more memory than a dense one.
_DENSE = 0.3


def is_sparse(A: Any) -> bool:
    """Whether a matrix is one of SciPy's sparse ones."""
    return bool(scipy.sparse.issparse(A))


def members_of(owner: np.ndarray) -> list[np.ndarray]:
    """Places of the members of every block ``0 .. B - 1``, in their order."""
    order = np.argsort(owner, kind="stable")
    return np.split(order, np.cumsum(np.bincount(owner))[:-1])


def dense_block(A: AnyMatrix, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Some rows and columns of a matrix, a dense copy."""
    if isinstance(A, np.ndarray):
        return A[np.ix_(rows, columns)]
    return np.asarray(A[rows][:, columns].toarray())


def level_columns(codes: np.ndarray, values: np.ndarray, n_levels: int) -> scipy.sparse.csr_array:
    """Z of a term, levels by coefficients in the columns, (n, L k).

    Parameters
    ----------
    codes : ndarray of int, shape (n, S)
        Levels of each row.
    values : ndarray, shape (n, S, k)
    n_levels : int
    """
    n, S, k = values.shape
    columns = codes[:, :, None] * k + np.arange(k)
    starts = np.arange(0, n * S * k + 1, S * k)
    table = values.ravel(), columns.ravel(), starts
    return scipy.sparse.csr_array(table, shape=(n, n_levels * k))


class BlockColumns:
    """Columns gathered block by block: dense where they fill much of the matrix, else sparse.

    Parameters
    ----------
    n_rows : int
    """

    def __init__(self, n_rows: int) -> None:
        self.n_rows = n_rows
        self.parts: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Columns that are zero outside of some rows, (rows, r)."""
        self.parts.append((rows, values))

    def matrix(self) -> AnyMatrix:
        """All columns side by side, (n_rows, sum of r)."""
        if len(self.parts) == 1 and self.parts[0][0].size == self.n_rows:
            return self.parts[0][1]
        width = sum(values.shape[1] for _, values in self.parts)
        if sum(values.size for _, values in self.parts) > _DENSE * self.n_rows * width:
            return self._dense(width)
        at, row, column = 0, [], []
        for rows, values in self.parts:
            row.append(np.repeat(rows, values.shape[1]))
            column.append(np.tile(np.arange(at, at + values.shape[1]), rows.size))
            at += values.shape[1]
        flat = np.concatenate([values.ravel() for _, values in self.parts])
        table = scipy.sparse.coo_array(
            (flat, (np.concatenate(row), np.concatenate(column))), shape=(self.n_rows, width)
        )
        return scipy.sparse.csr_array(table)

    def _dense(self, width: int) -> np.ndarray:
        out, at = np.zeros((self.n_rows, width)), 0
        for rows, values in self.parts:
            out[rows, at : at + values.shape[1]] = values
            at += values.shape[1]
        return out
