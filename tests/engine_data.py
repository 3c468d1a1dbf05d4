"""Rows and models for the engines, and what their sums are compared with."""

import numpy as np
import pandas as pd

RNG = np.random.default_rng(11)
N = 600
DATA = pd.DataFrame(
    {
        "school": RNG.integers(0, 20, N),
        "room": RNG.choice(["east", "west"], N),
        "item": RNG.integers(0, 9, N).astype(str),
        "x": RNG.normal(size=N) + 2.0,
        # sorted: the first rows, and every part of them, lack levels
        "f": np.sort(RNG.choice(["a", "b", "c"], N)),
        "w": RNG.uniform(0.5, 2.0, N),
    }
)
DATA["y"] = (
    RNG.normal(size=20)[DATA["school"]] * (1 + 0.5 * DATA["x"])
    + RNG.normal(size=9)[DATA["item"].astype(int)]
    + DATA["x"]
    + RNG.normal(size=N)
)
DATA.loc[::50, "x"] = np.nan

PLAIN = {
    "slope": ("y ~ x + f + (x | school)", {}),
    "nested": ("y ~ x * f + (1 | school/room)", {"weights": "w"}),
    "crossed": ("y ~ x + C(f, contr.sum) + (1 | school) + (1 | item)", {}),
}
COMPUTED = {
    "computed": ("y ~ I(x ** 2) + f + (1 | school)", {}),
    "computed, crossed": ("y ~ x + np.abs(x) + (1 | school) + (1 | item)", {"weights": "w"}),
}
MODELS = PLAIN | COMPUTED
