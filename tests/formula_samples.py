"""Rows that formulas are tried on."""

import numpy as np
import pandas as pd

from lmm_jax.formulas import matrices
from lmm_jax.formulas import parse as formula

N = 120

rng = np.random.default_rng(5)
DATA = pd.DataFrame(
    {
        "g": np.repeat(np.arange(12), 10),
        "x": rng.normal(size=N),
        "z": rng.uniform(1, 5, N),
        "f": np.tile(list("pqr"), N // 3),
        "h": np.tile(list("uv"), N // 2),
        "k": np.tile([1, 2, 3, 4], N // 4),
        "age": rng.integers(20, 90, N),
        "dose": rng.integers(1, 9, N),
        "on": rng.normal(size=N) > 0,
        "day": pd.date_range("2020-01-01", periods=N),
    }
)
DATA["y"] = rng.normal(size=12)[DATA.g] + 0.5 * DATA.x + rng.normal(size=N) + 9


def columns(rhs, data=DATA, context=None):
    return matrices.build(formula.parse_rhs(rhs), data, context=context or {})
