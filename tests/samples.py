"""One small simulated data set for the tests: 10 groups of 6 rows, so that fits share programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import polars as pl


def frame(seed: int = 0, *, groups: int = 10, rows: int = 6) -> pd.DataFrame:
    """Response ``y``, covariates ``x, z, v``, factors ``f`` and ``s`` within ``g``, ``w, o``.

    The intercept and the slope of x vary between groups; ``w`` are prior weights, ``o`` an offset.
    """
    rng = np.random.default_rng(seed)
    n = groups * rows
    g = np.repeat(np.arange(groups), rows)
    x, z, v, o = rng.normal(size=(4, n))
    b = rng.normal(size=(groups, 2)) * [1.2, 0.7]
    return pd.DataFrame(
        {
            "y": 1 + 2 * x + b[g, 0] + b[g, 1] * x + rng.normal(size=n),
            "x": x,
            "z": z,
            "v": v,
            "f": np.array(list("abcdef"))[np.arange(n) % 6],
            "s": np.array(list("pqr"))[np.arange(n) // 2 % 3],
            "g": np.char.add("g", g.astype(str)),
            "w": rng.uniform(0.5, 2, n),
            "o": o,
        }
    )


def to_polars(frame: pd.DataFrame) -> pl.DataFrame:
    """The same columns in polars, with nulls for what is missing (no pyarrow needed)."""
    import polars as pl  # machines with an accelerator run tests without it

    columns = {
        name: [None if gap else value for value, gap in zip(column, column.isna(), strict=True)]
        for name, column in frame.astype(object).items()
    }
    return pl.DataFrame(columns)
