"""Data with several optima: the fit ends at one as good as a search over many starts has found.

The data are simulated (heavy tails, calendar years, few groups). Each row holds a theta that
L-BFGS runs from many random starts found; the fit's log-likelihood is not below the criterion at
that theta, which is evaluated here.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import pandas as pd
import pytest

import lmm_jax as lmm

DATA = Path(__file__).parent / "data" / "optima"
# theta is given to three digits or so, where the criterion has lost less than this
SLACK = 1e-3

CASES = [
    ("y ~ x + (x || g)", 500, False, [3630.0, 1.787]),
    ("y ~ z + (z + s | g)", 565, False, [2.633, 1.127, -1.807, 2.499, -0.420, 0.2427]),
    ("y ~ z + (z | g)", 1040, True, [1.501, 1.997, 1.478]),
    ("y ~ z + (z | g)", 1189, True, [4.663, -4.787, 0.106]),
    ("y ~ z + (z | g)", 1338, True, [1.0736, 0.3422, 0.0]),
]


@pytest.mark.parametrize(
    ("formula", "case", "reml", "theta"), CASES, ids=[str(c[1]) for c in CASES]
)
def test_the_best_known_optimum(formula, case, reml, theta):
    data = pd.read_csv(DATA / f"case{case}.csv")
    result = lmm.fit(formula, data, reml=reml)
    assert result.converged
    with jax.enable_x64(True):
        layout = lmm.design(formula, data).layout
        known = float(lmm.profile_loglike(jnp.array(theta), layout, reml=reml))
    assert result.llf > known - SLACK
    assert result.llf < known + 0.1  # the same optimum, and not a better one that nobody knew
