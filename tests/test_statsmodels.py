"""statsmodels' own reference cases: what lme4 gave for them, as far as its stored digits go.

statsmodels asks for 4 decimals of the estimates, 3 of their covariance and of the random effects
and 2 of the log-likelihood. Here every stored digit counts.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from helpers import assert_close

import lmm_jax as lmm

DATA = Path(__file__).parent / "data" / "statsmodels"
CASES = json.loads((DATA / "lmer.json").read_text(encoding="utf-8"))
DIGITS = 1e-6  # seven significant digits were stored: half a unit in the last is at most 5e-7
OPTIMUM = 5e-6  # lmer stopped there: a variance is worse determined than what depends on it
SMALL = 0.1  # entries below this are compared with it: zeros, a correlation near none
LLF_ATOL = 6e-5  # four decimals were stored


def parameter(case):
    """One case, slow unless it shares a compiled program with few others (p = 1)."""
    name = f"{case['data'][:5]}-{'reml' if case['reml'] else 'ml'}"
    name += "" if case["correlated"] else "-independent"
    marks = () if len(case["coef"]) == 1 else pytest.mark.slow
    return pytest.param(case, id=name, marks=marks)


def fit(case):
    data = pd.read_csv(DATA / case["data"])
    fixed = [name for name in data if name.startswith("exog_fe")]
    random = [name for name in data if name.startswith("exog_re")]
    if case["correlated"]:
        design = lmm.design_from_arrays(data["endog"], data[fixed], data["groups"], data[random])
        return lmm.fit(design, reml=case["reml"])
    bars = f"(0 + {' + '.join(random)} || groups)"
    return lmm.fit(f"endog ~ 0 + {' + '.join(fixed)} + {bars}", data, reml=case["reml"])


@pytest.mark.parametrize("case", [parameter(case) for case in CASES])
def test_estimates(case):
    result = fit(case)
    p = len(case["coef"])
    assert result.converged
    assert result.singular == (case["data"] == "lme01.csv")
    assert_close(result.fe_params, case["coef"], DIGITS)
    assert_close(result.cov_params().to_numpy()[:p, :p], case["vcov"], DIGITS)
    assert_close(result.cov_re, case["cov_re"], OPTIMUM, scale=SMALL)
    assert_close(result.scale, case["scale"], DIGITS)
    assert result.llf == pytest.approx(case["loglike"], abs=LLF_ATOL)
    if case["correlated"]:
        (effects,), (covariances,) = (
            result.random_effects.values(),
            result.random_effects_cov.values(),
        )
        assert_close(effects.iloc[0], case["ranef_mean"], OPTIMUM, scale=SMALL)
        first = covariances[effects.index[0]]
        assert_close(first, case["ranef_condvar"], OPTIMUM, scale=SMALL)


def components_frame():
    """Slopes that vary between groups, and two nested components within them.

    statsmodels draws these 1,600 rows from the same seed to compare with lmer.
    """
    rs = np.random.RandomState(6241)
    n = 1600
    exog = rs.normal(size=(n, 2))
    z = rs.normal(size=(n, 2))
    y = exog.sum(1) + (np.repeat(rs.normal(size=(n // 16, 2)), 16, axis=0) * z).sum(1)
    y += np.repeat(2 * rs.normal(size=n // 4), 4)
    y += np.repeat(2 * rs.normal(size=n // 2), 2)
    y += rs.normal(size=n)
    columns = {"y": y, "x1": exog[:, 0], "x2": exog[:, 1], "z1": z[:, 0], "z2": z[:, 1]}
    rows = np.arange(n)
    return pd.DataFrame({**columns, "g": rows // 16, "v1": rows // 4, "v2": rows // 2})


@pytest.mark.slow
def test_two_components_within_groups():
    result = lmm.fit(
        "y ~ x1 + x2",
        components_frame(),
        groups="g",
        re_formula="0 + z1 + z2",
        vc_formula={"a": "0 + C(v1)", "b": "0 + C(v2)"},
    )
    # lmer(y ~ x1 + x2 + (0 + z1 + z2 | groups) + (1 | v1) + (1 | v2), df), digits as printed
    assert_close(result.fe_params, [0.16527, 0.99911, 0.96217], 4e-5)
    assert_close(result.bse_fe, [0.12610, 0.03938, 0.03848], 2e-4)
    assert_close(result.cov_re, [[1.244, 0.146], [0.146, 1.371]], 5e-4, scale=1)
    assert_close(result.vcomp[["a", "b"]], [4.024, 3.997], 2e-4)


def test_a_group_column_may_be_called_class():
    data = components_frame().rename(columns={"g": "class"})
    by_name = lmm.design("y ~ x1", data, groups="class")
    by_values = lmm.design("y ~ x1", data, groups=data["class"])
    assert by_name.n_groups == by_values.n_groups == 100


@pytest.mark.slow
def test_components_bring_no_intercept_of_their_own():
    """``re_formula`` left out: a random intercept, but not beside components."""
    rs = np.random.RandomState(4279)
    x1 = rs.normal(size=400)
    y = np.repeat(rs.normal(size=100), 4) * x1 + rs.normal(size=400)
    data = pd.DataFrame({"y": y, "x1": x1, "groups": np.arange(400) // 4})
    result = lmm.fit("y ~ 1", data, groups="groups", vc_formula={"a": "0 + x1"})
    # stored in statsmodels' test of a model with components and no other random effects
    assert result.cov_re.size == 0
    assert_close(result.resid[:4], [-1.180753, 0.279966, 0.578576, -0.667916], 1e-3)
    assert_close(result.fittedvalues[:4], [-0.101549, 0.028613, -0.224621, -0.126295], 1e-3)


@pytest.mark.parametrize("correlated", [True, False])
def test_components_as_a_list_of_the_groups_matrices(correlated):
    """statsmodels' ``VCSpec``: a list of matrices a component, in the order of sorted labels."""
    spec = SimpleNamespace(
        names=["a"],
        colnames=[[["p", "q"], ["r"], ["s", "t"]]],
        mats=[[np.eye(2), np.ones((3, 1)), np.eye(2)]],
    )
    labels = np.array([2, 2, 5, 5, 5, 9, 9])
    y = np.array([1.0, 3.0, 2.0, 5.0, 4.0, 0.0, 7.0])
    exog_re = np.ones((7, 1)) if correlated else None
    columns = np.array([[1, 0], [0, 1], [1, 0], [1, 0], [1, 0], [1, 0], [0, 1]], float)
    listed = lmm.design_from_arrays(y, np.ones((7, 1)), labels, exog_re, spec)
    stacked = lmm.design_from_arrays(y, np.ones((7, 1)), labels, exog_re, {"a": columns})
    assert_close(listed.terms[-1].codes, stacked.terms[-1].codes, 0)
    assert_close(listed.terms[-1].values, stacked.terms[-1].values, 0)


def test_the_result_of_a_fit_shows_itself_in_a_line():
    data = pd.read_csv(DATA / "lme00.csv")
    result = lmm.fit("endog ~ 0 + exog_fe_0", data, groups="groups", re_formula="0 + exog_re_0")
    assert len(repr(result)) < 200
