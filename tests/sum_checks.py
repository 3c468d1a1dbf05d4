"""What sums over rows, and fits of them, are compared by."""

import numpy as np
import pandas as pd
import pytest


def assert_same(got, want, rtol=1e-6):
    """The same fit; both stop at a decrement of 1e-9, which leaves the variances ``rtol`` apart."""
    assert got.llf == pytest.approx(want.llf, rel=1e-10)
    assert list(got.params.index) == list(want.params.index)
    np.testing.assert_allclose(got.params, want.params, rtol=rtol, atol=1e-3 * rtol)
    np.testing.assert_allclose(got.bse_fe, want.bse_fe, rtol=0.1 * rtol)
    assert (got.nobs, got.converged) == (want.nobs, True)
    pd.testing.assert_series_equal(got.n_groups, want.n_groups)
    for group, frame in want.random_effects.items():
        ours = got.random_effects[group].loc[frame.index]
        np.testing.assert_allclose(ours, frame, rtol=10 * rtol, atol=1e-2 * rtol)


def arrays(sums):
    return [sums.gram, sums.links, *sums.products]


def assert_equal_sums(a, b):
    """Equal up to the order of additions."""
    assert (a.n_rows, a.n_missing, a.gaps) == (b.n_rows, b.n_missing, b.gaps)
    assert [list(found) for found in a.labels] == [list(found) for found in b.labels]
    np.testing.assert_array_equal(a.cells, b.cells)
    for left, right in zip(arrays(a), arrays(b), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-12 * np.abs(a.gram).max())
