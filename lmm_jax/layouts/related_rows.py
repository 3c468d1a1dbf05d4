"""The rows of a model with related levels, on the scale of its layout (NumPy)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from ..covariance.structures import Structure
from ..numerics.blocks import AnyMatrix, level_columns, members_of
from .common_scale import Frame, RowWeights, fixed_frame, read_weights, whitener


class Known(NamedTuple):
    """What is known of the levels of a related term."""

    matrix: AnyMatrix  # (L, L)  A
    family: np.ndarray  # (L,)  block of every id
    seen: np.ndarray  # (m,)  ids with rows, in order

    def families(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of every family with rows: its ids, those with rows, and the numbers of these."""
        there = np.isin(np.arange(self.family.size), self.seen)
        number = np.searchsorted(self.seen, np.arange(self.family.size))
        parts = [(ids, ids[there[ids]]) for ids in members_of(self.family)]
        return [(ids, own, number[own]) for ids, own in parts if own.size]


class TermColumns(NamedTuple):
    """One term of the model."""

    codes: np.ndarray  # (n, S)  level of each row; of a related term its number among those seen
    n_levels: int
    values: np.ndarray  # (n, S, k)
    structure: Structure
    known: Known | None  # None: levels are independent


class ScaledColumns(NamedTuple):
    """The columns of all rows on a common scale, times root weights."""

    weights: RowWeights
    frame: Frame
    XY: np.ndarray  # (n, p + R)
    whiteners: tuple[Any, ...]  # (k, k) a term
    Z: tuple[scipy.sparse.csr_array, ...]  # (n, L k) a term; a related one times its scale
    scales: tuple[float, ...]  # root of the mean diagonal of A


def on_scale(Y: Any, X: Any, terms: Sequence[TermColumns], weights: Any) -> ScaledColumns:
    """One scale for all columns of responses (n, R); as if the mean diagonal of A were one."""
    read = read_weights(weights)
    frame = fixed_frame(X, Y, read)
    XY = np.concatenate([frame.X, frame.Y], axis=1) * read.root[:, None]
    whiteners: list[Any] = []
    Z, scales = [], []
    for term in terms:
        scale = 1.0
        if term.known is not None:
            diagonal = np.asarray(term.known.matrix.diagonal())[term.known.seen]
            scale = float(np.sqrt(max(np.mean(diagonal), 0.0))) or 1.0
        values: Any = scale * term.values
        A = np.asarray(whitener(values, weights, term.structure))
        whiteners.append(A)
        Z.append(level_columns(term.codes, values @ A * read.root[:, None, None], term.n_levels))
        scales.append(scale)
    return ScaledColumns(read, frame, XY, tuple(whiteners), tuple(Z), tuple(scales))
