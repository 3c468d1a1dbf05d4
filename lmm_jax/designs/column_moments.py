"""Means of products of the columns of a design: what is asked of rows that may be gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from ..errors import DataError
from ..layouts.stream_compress import Units
from .terms import RandomTerm

M = TypeVar("M")

# A column that varies by less, relative to its size from its origin, is constant.
_CONSTANT = 1e-12


class ColumnMoments(NamedTuple):
    """Moments of the columns of X and of every term, the rows taken as they are."""

    centred_root: np.ndarray  # (r, p)  R'R is the covariance of the columns of X
    mean_squares: tuple[np.ndarray, ...]  # (k, k) a term: mean of z z'
    exog_root: np.ndarray | None = None  # (r, p)  R'R = X'X; None where X itself is there


def known(moments: M | None, what: str) -> M:
    """The moments themselves; the function ``what`` needs them.

    Raises
    ------
    DataError
        Sums over rows that do not tell them.
    """
    if moments is None:
        raise DataError(
            f"{what} needs moments of the rows as they are, and the sums of this design are "
            "weighted, or X has no constant column: make the design from a frame in memory"
        )
    return moments


def of_rows(X: np.ndarray, terms: Sequence[RandomTerm]) -> ColumnMoments:
    """Moments from the rows; ``z z'`` times the diagonal entry of A where levels are related."""
    n = len(X)
    centred = np.where(np.ptp(X, axis=0) == 0, 0.0, X - X.mean(axis=0))
    root = np.linalg.qr(centred, mode="r") / np.sqrt(max(n - 1, 1))
    return ColumnMoments(root, tuple(map(_mean_square, terms)))


def _mean_square(term: RandomTerm) -> np.ndarray:
    right = term.values
    if term.relationship is not None:
        right = right * term.relationship.diagonal[term.codes][:, :, None]
    return np.einsum("nsa,nsb->ab", term.values, right) / len(right)


def of_sums(
    gram: np.ndarray, units: Units, n: int, mean_squares: Sequence[np.ndarray]
) -> ColumnMoments | None:
    """Moments from sums over rows without weights; None where X has no constant column.

    With ``X = S D + 1 m'`` (S the columns in their units D, from their origins m), ``S'S = R'R``
    and ``1 = X c``, the vector of ones is S times ``D c / (1 - m'c)``: in the coordinates of R it
    is a vector v of the length ``sqrt(n)``. Then ``R D + v m'`` stands for X, and
    ``(I - v v' / n) R D`` for X less its means.

    Parameters
    ----------
    gram : ndarray, shape (p, p)
        S'S of full rank.
    units : Units
        Of these columns.
    n : int
        Number of rows.
    mean_squares : sequence of ndarray
    """
    constant, shift = np.asarray(units.constant), np.asarray(units.x_shift)
    if not constant.any():
        return None
    R, unit = _root(gram), np.asarray(units.x_unit)
    v = R @ (unit * constant) / (1.0 - shift @ constant)
    centred = R - np.outer(v, v @ R / n)
    size = np.linalg.norm(R, axis=0)
    centred[:, np.linalg.norm(centred, axis=0) < _CONSTANT * size] = 0.0
    return ColumnMoments(
        centred * unit / np.sqrt(max(n - 1, 1)),
        tuple(mean_squares),
        R * unit + np.outer(v, shift),
    )


def _root(gram: np.ndarray) -> np.ndarray:
    """R with ``R'R`` the matrix, which may have lost the digits that a Cholesky factor needs."""
    size = np.sqrt(np.diagonal(gram))
    e, V = np.linalg.eigh(gram / size[:, None] / size)
    root: np.ndarray = np.sqrt(np.maximum(e, 0.0))[:, None] * V.T * size
    return root
