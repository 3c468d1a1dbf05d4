"""Messages name the row of the data that was passed, whatever rows are left out before."""

import numpy as np
import pandas as pd
import pytest
import samples

import lmm_jax as lmm
from lmm_jax import DataError

DATA = samples.frame()[["y", "x", "g"]].reset_index(drop=True)
MODEL = "y ~ x + (1 | g)"
BAD = 5
NAMED = DATA.set_axis([f"p{i}" for i in range(len(DATA))])


def with_gaps(frame):
    return frame.assign(x=frame["x"].where(np.arange(len(frame)) > 1))


def weights():
    out = np.ones(len(DATA))
    out[BAD] = 0.0
    return out


def infinite(frame, name):
    out = frame.copy()
    out.iloc[BAD, list(out.columns).index(name)] = np.inf
    return out


@pytest.mark.parametrize(("frame", "row"), [(DATA, "5"), (NAMED, "'p5'")], ids=["numbers", "names"])
def test_the_row_is_that_of_the_data(frame, row):
    where = f"row {row} of the index"
    for data, options in (
        (with_gaps(frame), {}),
        (frame, {"subset": np.arange(len(frame)) >= 3}),
    ):
        with pytest.raises(DataError, match=f"must be positive; {where} has 0: drop that row"):
            lmm.fit(MODEL, data, weights=weights(), **options)
        with pytest.raises(DataError, match=f"must be positive; {where}"):
            lmm.fit(MODEL, data.assign(w=weights()), weights="w", **options)
        offset = np.where(np.arange(len(frame)) == BAD, np.inf, 0.0)
        with pytest.raises(DataError, match=f"offset has a NaN or infinite .*first in {where}"):
            lmm.fit(MODEL, data, offset=offset, **options)
        for name in ("x", "y"):
            with pytest.raises(DataError, match=f"`{name}` is NaN or infinite .*first in {where}"):
                lmm.fit(MODEL, infinite(data, name), **options)


def test_the_row_is_that_of_the_arrays():
    X = np.column_stack([np.ones(len(DATA)), with_gaps(DATA)["x"]])
    y = DATA["y"].to_numpy()
    with pytest.raises(DataError, match="row 5 of the index has 0"):
        lmm.design_from_arrays(y, X, DATA["g"].to_numpy(), weights=weights(), missing="drop")
    y = np.where(np.arange(len(y)) == BAD, np.inf, y)
    with pytest.raises(DataError, match="first in row 5 of the index"):
        lmm.design_from_arrays(y, X, DATA["g"].to_numpy(), missing="drop")


def test_the_row_is_that_of_new_rows_and_of_batches():
    res = lmm.fit(MODEL, DATA)
    for frame, row in ((DATA, "5"), (NAMED, "'p5'")):
        with pytest.raises(DataError, match=f"first in row {row} of the index"):
            res.predict(infinite(with_gaps(frame), "x"))
        with pytest.raises(DataError, match=f"row {row} of the index has 0"):
            lmm.summarize(MODEL, with_gaps(frame).assign(w=weights()), weights="w")


def test_the_row_is_that_of_the_responses():
    Y = pd.DataFrame({"a": DATA["y"], "b": DATA["y"]})
    own = np.column_stack([np.ones(len(DATA)), weights()])
    with pytest.raises(DataError, match="response 1 has 0 in row 5"):
        lmm.fit_many(MODEL.replace("y ", ""), with_gaps(DATA), Y, weights=own)
