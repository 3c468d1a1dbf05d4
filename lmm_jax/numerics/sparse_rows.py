"""Products of sparse matrices with dense columns, in NumPy (by SciPy) and JAX."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import scipy.sparse
from jax import Array

from ..reprs import brief
from .namespace import JAX, namespace

# Numbers in the products of all entries and columns beyond which JAX goes column by column.
_MOST_PRODUCTS = 1 << 28


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pattern:
    """Where the entries of a sparse matrix stand, row by row (CSR)."""

    columns: Array  # (nnz,)   column of each entry
    starts: Array  # (r + 1,)  first entry of each row
    n_columns: int = field(metadata={"static": True})

    __repr__ = brief

    @property
    def n_rows(self) -> int:
        """Rows of the matrix."""
        return int(self.starts.shape[0]) - 1


def matrix(values: Any, at: Pattern) -> scipy.sparse.csr_array:
    """The matrix of SciPy with these values, (nnz,); nothing is copied."""
    entries = values, at.columns, at.starts
    return scipy.sparse.csr_array(entries, shape=(at.n_rows, at.n_columns))


def multiply(values: Array, at: Pattern, x: Array) -> Array:
    """``A x`` of the matrix with these values.

    Parameters
    ----------
    values : Array, shape (nnz,)
    at : Pattern
    x : Array, shape (columns, C)

    Returns
    -------
    Array, shape (rows, C)
    """
    xp = namespace(values, x)
    if xp is not JAX:
        out: Any = matrix(values, at) @ x
        return out
    count = at.n_rows
    widths = at.starts[1:] - at.starts[:-1]
    rows = jax.numpy.repeat(jax.numpy.arange(count), widths, total_repeat_length=values.shape[0])

    def product(column: Array) -> Array:
        entries = values.reshape(-1, *(1,) * (column.ndim - 1)) * column[at.columns]
        return jax.ops.segment_sum(entries, rows, count, indices_are_sorted=True)

    if values.shape[0] * x.shape[1] <= _MOST_PRODUCTS:
        return product(x)
    return jax.lax.map(product, x.T).T
