"""The dense twin of ``helpers.py`` against R, at the reference's theta: validates the helper."""

from functools import cache

import numpy as np
import pytest
import reference
from helpers import (
    DenseBlups,
    DenseFit,
    assert_close,
    dense_blups,
    dense_deviance,
    lambda_from_theta,
)

CRITERION_RTOL = 1e-11  # two float64 codes at one theta
ESTIMATE_TOL = 1e-9  # relative to the larger of the value and its natural scale
# Between-group variance 1e8 times sigma^2: cond(V) ~ 1e9 takes that many digits from a dense V.
STIFF = {"sim_ratio_high_reml"}
STIFF_CRITERION_RTOL = 1e-8
STIFF_ESTIMATE_TOL = 1e-6

CASES = reference.names(lambda case: case["n"] < 5000)  # n x n matrices


@cache
def fit(name: str) -> tuple[DenseFit, list[DenseBlups]]:
    case = reference.load(name)
    X, terms = reference.design_columns(case)
    args = (X, reference.response(case), terms, case["theta"]["values"])
    options = {
        "reml": case["model"]["REML"],
        "weights": reference.column_or_none(case, "weights"),
        "offset": reference.column_or_none(case, "offset"),
    }
    return dense_deviance(*args, **options), dense_blups(*args, **options)


def estimate_tol(name: str) -> float:
    return STIFF_ESTIMATE_TOL if name in STIFF else ESTIMATE_TOL


def test_lambda_runs_down_the_columns():
    expected = [[1, 0, 0], [2, 4, 0], [3, 5, 6]]
    np.testing.assert_array_equal(lambda_from_theta([1, 2, 3, 4, 5, 6], 3), expected)


@pytest.mark.parametrize("name", CASES)
def test_criterion(name):
    case = reference.load(name)
    tol = STIFF_CRITERION_RTOL if name in STIFF else CRITERION_RTOL
    assert_close(fit(name)[0].criterion, case["criterion"]["value"], tol)
    assert_close(-fit(name)[0].criterion / 2, case["logLik"], tol)


@pytest.mark.parametrize("name", CASES)
def test_fixed_effects_and_sigma(name):
    case, dense, tol = reference.load(name), fit(name)[0], estimate_tol(name)
    fixef, se = case["fixef"], np.array(case["fixef"]["se"])
    assert_close(dense.beta, fixef.get("values_minus_shift", fixef["values"]), tol, se)
    assert_close(dense.vcov, case["vcov"], tol, np.outer(se, se))
    assert_close(dense.sigma, case["sigma"], tol)


@pytest.mark.parametrize("name", CASES)
def test_random_effects(name):
    case, tol = reference.load(name), estimate_tol(name)
    scales = reference.coefficient_scales(case)
    for dense, ranef, scale in zip(fit(name)[1], case["ranef"], scales, strict=True):
        assert len(dense.levels) == ranef["n_levels"]
        rows = [dense.levels.tolist().index(level) for level in ranef["levels"]]
        assert_close(dense.values[rows], ranef["values"], tol, scale)
        assert_close(sd(dense.cond_cov[rows]), ranef["cond_sd"], tol, scale)
        if "pred_sd" in ranef:
            assert_close(sd(dense.pred_cov[rows]), ranef["pred_sd"], tol, scale)


def sd(cov: np.ndarray) -> np.ndarray:
    return np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
