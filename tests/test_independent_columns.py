"""Which columns of X are kept: the first of every set of dependent ones, as in R."""

import warnings

import numpy as np
import pandas as pd
import pytest
import timings

import lmm_jax as lmm
from lmm_jax.designs.checks import independent_columns


def kept_one_by_one(X):
    """A column is kept if least squares of those kept before it leave something of it."""
    kept = []
    for j, column in enumerate(X.T):
        if not column.any():
            continue
        left = column - X[:, kept] @ np.linalg.lstsq(X[:, kept], column, rcond=1e-12)[0]
        if np.linalg.norm(left) > 1e-7 * np.linalg.norm(column):
            kept.append(j)
    return kept


@pytest.mark.filterwarnings("ignore:the fixed-effects design is rank deficient")
@pytest.mark.parametrize("seed", range(12))
def test_the_first_of_dependent_columns_stay(seed):
    rng = np.random.default_rng(seed)
    n, rank, p = 60, int(rng.integers(5, 40)), 90
    base = rng.normal(size=(n, rank)) * 10.0 ** rng.uniform(-3, 3, rank)
    X = base @ rng.integers(-1, 2, size=(rank, p))
    X[:, rng.integers(0, p, 5)] = 0.0
    X = X * 10.0 ** rng.uniform(-30, 30, p)
    found = independent_columns(X, [f"x{j}" for j in range(p)])
    assert list(found) == kept_one_by_one(X / np.where(X.any(axis=0), np.abs(X).max(axis=0), 1))


def test_a_column_of_which_a_millionth_is_its_own_stays():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(50, 6))
    near = X[:, :3].sum(axis=1) + 1e-6 * rng.normal(size=50)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = independent_columns(
            np.column_stack([X, near, near + X[:, 4], near + X[:, 5] * 1e-9]), list("abcdefghi")
        )
    assert found == (0, 1, 2, 3, 4, 5, 6)
    assert "dropped h, i" in str(caught[0].message)


def test_empty_cells_by_the_hundred():
    """Sites by years of which half were never seen: one factorization a column took a minute."""
    rng = np.random.default_rng(0)
    cells = [(s, y) for s in range(40) for y in range(20) if rng.random() < 0.5]
    data = pd.DataFrame([c for c in cells for _ in range(6)], columns=["site", "year"])
    data["g"], data["y"] = rng.integers(0, 50, len(data)), rng.normal(size=len(data))
    results = []

    def fitted():
        with pytest.warns(lmm.RankWarning, match=f"and {800 - len(cells) - 20} more"):
            results.append(lmm.fit("y ~ C(site) * C(year) + (1 | g)", data))

    columns = rng.normal(size=(len(data), 800))
    factorizations = timings.ratio(fitted, lambda: np.linalg.qr(columns), turns=2)
    assert factorizations < 100  # 5 to 20; one a column 400
    assert len(results[0].fe_params) == len(cells)
