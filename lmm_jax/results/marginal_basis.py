"""What marginal means need of a fit, and the rows of X and of the offset at other values."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..designs.fixed_source import FixedSource
from ..designs.variables import Reference
from ..errors import DataError
from ..formulas import matrices as mat
from ..formulas.right_side import variables
from ..inference.contrasts.linear_functions import is_estimable
from ..inference.df.methods import DfMethod

# Numbers of X at a reference grid beyond which it is refused (2 GiB).
_MOST = 1 << 28


@dataclass(frozen=True, kw_only=True, eq=False)
class Basis:
    """What marginal means need of a fit."""

    source: FixedSource
    reference: Reference
    rows: pd.DataFrame | None  # variables of the rows, for functions of them
    beta: np.ndarray  # (p,)
    tests: DfMethod
    scale: float
    df_method: str
    output: str = "pandas"  # kind of frame of the data

    def estimable(self, frame: pd.DataFrame) -> np.ndarray:
        """Which rows of a frame have a mean that the data determine, (r,) of bool."""
        matrix = mat.replay(self.source.spec, frame, context=self.source.context)
        return is_estimable(*parted(matrix, self))


def parted(matrix: np.ndarray, fit: Basis) -> tuple[np.ndarray, np.ndarray]:
    """The columns that were kept, and what the others miss of estimable functions."""
    kept = list(fit.source.kept)
    dropped = [j for j in range(matrix.shape[1]) if j not in set(kept)]
    L = matrix[:, kept]
    return L, matrix[:, dropped] - L @ fit.reference.aliases


def replayed(
    fit: Basis, frame: pd.DataFrame, moved: Set[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """X and the offset of a frame, of which some variables are others than those of the rows."""
    source = fit.source
    size = len(frame) * len(source.spec.column_names)
    if size > _MOST:
        raise DataError(
            f"the reference grid has {len(frame):,} rows, and with the columns of X {size:,} "
            f"numbers: {_MOST:,} are the most; choose fewer values by at="
        )
    try:
        matrix = mat.replay(source.spec, frame, context=source.context)
    except DataError as error:
        held = fit.reference.variables.covariates
        if not held:
            raise
        raise DataError(
            f"on the grid of the means, where covariates ({', '.join(held)}) are at one value: "
            f"{error}; at= takes others"
        ) from error
    return matrix, _offset(fit, frame, moved) + np.zeros(len(frame))


def _offset(fit: Basis, frame: pd.DataFrame, moved: Set[str] | None) -> Any:
    """The offset of a frame; what none of the moved variables is in counts with its mean.

    The mean of `log(time)` over the rows is not its value at the mean time.
    """
    parts = fit.source.offset_parts(frame)
    if moved is None or not fit.reference.offsets:
        return sum(parts, fit.reference.offset)
    own = zip(parts, at_mean(fit, moved), strict=True)
    return sum((part for part, fixed in own if not fixed), mean_offset(fit, moved))


def at_mean(fit: Basis, moved: Set[str]) -> list[bool]:
    """Which of the formula's offsets count with their mean."""
    return [moved.isdisjoint(variables(text)) for text in fit.source.offsets]


def mean_offset(fit: Basis, moved: Set[str]) -> float:
    """The sum of the offsets that count with their mean."""
    means = zip(fit.reference.offsets, at_mean(fit, moved), strict=True)
    return sum((mean for mean, fixed in means if fixed), fit.reference.offset)
