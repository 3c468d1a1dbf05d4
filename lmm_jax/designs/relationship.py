"""The relationship of the levels of a factor: a known covariance up to a variance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ..numerics.blocks import AnyMatrix
from ..reprs import brief


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Relationship:
    """Covariance of the effects of some ids, ``cov(a) = A (x) Psi``."""

    ids: pd.Index[Any]  # (L,)
    matrix: AnyMatrix | None  # (L, L)  A; None in a result that was saved without its data
    diagonal: np.ndarray  # (L,)
    family: np.ndarray  # (L,)  ids of different families are unrelated

    __repr__ = brief

    def columns(self, ids: np.ndarray) -> AnyMatrix:
        """Columns of A, (L, m)."""
        assert self.matrix is not None  # what needs it asks for a result with its data
        if ids.size == len(self.ids) and (ids == np.arange(ids.size)).all():
            return self.matrix
        return self.matrix[:, ids]

    def without_matrix(self) -> Relationship:
        """The ids alone: what predictions and tables of a saved result need."""
        return replace(self, matrix=None)
