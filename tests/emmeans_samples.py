"""Data of which marginal means are made."""

from functools import cache

import numpy as np
import pandas as pd

import lmm_jax as lmm


@cache
def logs():
    rng = np.random.default_rng(3)
    data = pd.DataFrame({
        "g": np.repeat(np.arange(12), 10), "A": np.tile(list("ab"), 60),
        "x": rng.normal(10, 2, 120), "z": rng.integers(0, 2, 120), "t": rng.uniform(1, 3, 120),
    })  # fmt: skip
    eta = 1 + 0.1 * data["x"] + 0.4 * (data["A"] == "b") + rng.normal(0, 0.3, 12)[data["g"]]
    return data.assign(y=np.exp(eta + rng.normal(0, 0.2, 120)))


def oats_data():
    return lmm.load_dataset("oats")
