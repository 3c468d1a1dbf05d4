"""Bases of the covariates of a level in which cross-products keep their digits.

Of columns that are nearly one within a level, an intercept and the time of visits that are close
together, cross-products keep the square of what the rows have: eps over the square of the share
that is left. In a basis that is nearly orthonormal within the level they lose no more than rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from ..numerics.linalg import back_substitute, eliminate, group_product
from ..numerics.namespace import NUMPY, namespace
from .group_index import GroupIndex, stream_pairs


class LevelBases(NamedTuple):
    """Streams in bases of their levels, their cross-products, and the way back."""

    streams: tuple[Array, ...]  # (n, k) a stream
    cells: tuple[Array, ...]  # (L, ka, kb) a pair of streams
    # (L, k, k) a stream, upper triangular, times which streams are what they were; None where no
    # level has a basis of its own
    factors: tuple[Array, ...] | None


def level_bases(
    streams: Sequence[Array],
    cells_of: Callable[[Sequence[Array]], list[Array]],
    index: GroupIndex,
    tol: float,
) -> LevelBases:
    """Bases for the levels whose columns are nearly dependent; the others keep what they have.

    They are constants of a derivative: cross-products are the same whatever the basis, and those
    of orthonormal columns are differentiated without a loss as well.

    Parameters
    ----------
    streams : sequence of Array, shape (n, k)
    cells_of : callable
        ``Z' Z`` of the cells of every pair of streams, (L, ka, kb) each.
    index : GroupIndex
    tol : float
        Relative pivot below which a column is a combination of those before it.
    """
    xp, cells = namespace(streams), cells_of(streams)
    # a level of which a row may have several is one column of all their streams
    alone = [index.streams.count(t) == 1 for t in index.streams]
    if not any(one and stream.shape[1] > 1 for one, stream in zip(alone, streams, strict=True)):
        return LevelBases(tuple(streams), tuple(cells), None)
    pairs = zip(stream_pairs(len(streams)), cells, strict=True)
    factors_of = [_factor(block, tol) for (a, b), block in pairs if a == b]
    found = [(U, poor & one) for (U, poor), one in zip(factors_of, alone, strict=True)]
    needed = xp.any(xp.stack([xp.any(poor) for _, poor in found]))
    if xp is NUMPY and not needed:
        return LevelBases(tuple(streams), tuple(cells), None)
    ones = [xp.broadcast_to(xp.eye(len(U), dtype=U.dtype)[:, :, None], U.shape) for U, _ in found]

    def in_bases(
        factors: Sequence[Array], turned: Sequence[Array], cells: Sequence[Array]
    ) -> LevelBases:
        back = tuple(xp.moveaxis(U, -1, 0) for U in factors)
        return LevelBases(tuple(turned), tuple(cells), back)

    def turn() -> LevelBases:
        factors = [xp.where(poor, U, one) for (U, poor), one in zip(found, ones, strict=True)]
        turned = []
        for stream, U, one, table in zip(streams, factors, ones, index.levels, strict=True):
            W = xp.moveaxis(back_substitute(U, one), -1, 0)
            turned.append(xp.row_products(stream, W[table.cell]))
        return in_bases(factors, turned, cells_of(turned))

    out: LevelBases = xp.cond(needed, turn, lambda: in_bases(ones, streams, cells))
    return out


def _factor(cells: Array, tol: float) -> tuple[Array, Array]:
    """Cholesky factors of the levels, (k, k, L), and which are poor, (L,).

    A column that is a combination of those before it stays as it is.
    """
    xp = namespace(cells)
    gram = xp.stop_gradient(xp.moveaxis(cells, 0, -1))
    U = eliminate(gram, gram[:, :0], tol=tol).U
    left, whole = xp.diagonal(U).T ** 2, xp.diagonal(gram).T
    told = left > 0
    poor = told & (left < poor_share(gram.dtype) * whole)
    U = xp.where(told[None], U, xp.eye(len(U), dtype=U.dtype)[:, :, None])
    return U, xp.any(poor, axis=0)


def poor_share(dtype: Any) -> float:
    """Share of a column's sum of squares that those before it leave, of which too little is known.

    Eleven digits in 64 bits, five in 32.
    """
    return max(1e-5, 3e5 * float(np.finfo(dtype).eps))


def in_rows(T: Array, blocks: Array) -> Array:
    """Factors of groups in the columns of the rows: ``T`` times the factors of its levels."""
    return group_product(namespace(T).swapaxes(T, 0, 1), blocks)
