"""A residual variance that random effects leave nothing of is no optimum, however steep its end."""

import pandas as pd
import pytest

import lmm_jax as lmm

# 24 simulated rows of twelve clusters, six without a response (``bitest`` of R's package pan).
ROWS = """
12,35,24,1 10,28,21,1 ,57,58,2 ,97,44,2 26,75,28,3 22,63,77,3 8,21,38,4 ,57,100,4
16,44,74,5 11,27,46,5 28,77,67,6 14,37,37,6 ,100,84,7 27,73,70,7 18,46,30,8 25,66,88,8
,37,61,9 31,83,12,9 27,70,101,10 13,29,74,10 33,88,47,11 ,60,67,11 8,12,38,12 8,12,84,12
"""


@pytest.mark.filterwarnings("ignore::lmm_jax.IdentificationWarning")
def test_a_likelihood_without_bound_is_not_converged():
    """22 coefficients for 18 rows: the residual standard deviation ends at 3e-15."""
    rows = [[float(x or "nan") for x in row.split(",")] for row in ROWS.split()]
    data = pd.DataFrame(rows, columns=["y", "x1", "x2", "cluster"])
    with pytest.warns(lmm.ConvergenceWarning, match="until no residual variance is left"):
        res = lmm.fit("y ~ x1 + x2 + (x1 | cluster)", data, reml=False)
    assert not res.converged
    assert lmm.fit("y ~ x1 + x2 + (x1 | cluster)", data).converged  # REML's sigma is 0.31
