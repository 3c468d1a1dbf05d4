"""Every fit against R: the objective at a fixed theta, the optimum, and all that is derived.

Crossed cases with a spelling in statsmodels enter a second time, as one group of all rows.
"""

import re
import warnings
from collections.abc import Iterator
from functools import cache

import jax
import numpy as np
import pandas as pd
import pytest
import reference
from helpers import Array, assert_close

import lmm_jax as lmm
from lmm_jax.likelihood.profile import loglike_of_theta

# Each case brings its own tolerances (case["tol"]): logLik is relative to |logLik|; params relative
# to the larger of a value and its natural scale. The latter is here, in any units of the columns:
# a standard error for fixed effects; sigma over the column's root mean square for the standard
# deviations and values of random effects; sigma for fitted values, residuals and predictions.
OPTIMUM_RTOL = 1e-8  # two optimizers, one maximum: the criterion is flat to second order there
DF_RTOL = 1e-4  # for cases without their own (exact ones): the df divide two Hessian-sized numbers
SE_FACTOR = 10  # standard errors of variances move several times faster than the variances do
EPS = 4 * np.finfo(float).eps  # sums that carry a large constant of y are rounded to its last bits

CASES = reference.names()


def spelled(one_group: bool) -> list[str]:
    """Cases with a statsmodels spelling: groups of a column, or one group of all rows."""

    def keep(case: reference.Case) -> bool:
        spelling = case["model"]["statsmodels"]
        return spelling is not None and (spelling["groups"] == "__all__") == one_group

    return reference.names(keep)


def cases_with(*path: str) -> list[str]:
    """Cases where ``case[path[0]][path[1]]...`` is present and not null."""

    def present(name: str) -> bool:
        node = reference.load(name)
        for key in path:
            node = (node or {}).get(key)
        return node is not None

    return [name for name in CASES if present(name)]


# ------------------------------------------------------------ how the library is asked


@cache
def fits(name: str) -> tuple[lmm.LMMResults, lmm.LMMResults | None]:
    """The case's fits from lme4's formula and in statsmodels' spelling, where it has one.

    One after the other, while their common programs are at hand; warnings have tests of their own.
    """
    case = reference.load(name)
    model, data = case["model"], reference.frame(case)
    spelled = model["statsmodels"] is not None and model["statsmodels"]["groups"] != "__all__"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        first = lmm.fit(reference.formula(case), data, weights=model["weights"], reml=model["REML"])
        return first, fit_as_statsmodels(name) if spelled else None


def fit(name: str) -> lmm.LMMResults:
    """The case's fit from lme4's formula."""
    return fits(name)[0]


def fit_as_statsmodels(name: str) -> lmm.LMMResults:
    """The same model in the words of ``MixedLM.from_formula``."""
    case = reference.load(name)
    spelling, data = case["model"]["statsmodels"], reference.frame(case)
    one_group = spelling["groups"] == "__all__"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return lmm.fit(
            spelling["formula"],
            data,
            groups=np.ones(len(data)) if one_group else spelling["groups"],
            re_formula="0" if one_group else spelling["re_formula"],
            vc_formula=spelling["vc_formula"],
            reml=case["model"]["REML"],
        )


def term_slices(case: reference.Case) -> Iterator[tuple[str, slice]]:
    """Name of each term's grouping factor and its columns in ``random_effects[name]``.

    Terms of one factor share a frame, side by side, as in lme4's ``ranef``.
    """
    filled: dict[str, int] = {}
    for term in case["model"]["random_terms"]:
        group, k = ":".join(term["group"]), len(term["columns"])
        start = filled.get(group, 0)
        filled[group] = start + k
        yield group, slice(start, start + k)


def blups(result: lmm.LMMResults, group: str) -> pd.DataFrame:
    """Predicted random effects of a factor, the labels of its levels as strings."""
    return result.random_effects[group].rename(index=str)


def conditional_sd(result: lmm.LMMResults, group: str) -> pd.DataFrame:
    """Conditional standard deviations of a factor's random effects, levels by coefficients."""
    rows = {str(level): np.diag(cov) for level, cov in result.random_effects_cov[group].items()}
    return pd.DataFrame.from_dict(rows, orient="index") ** 0.5


def variance_errors(result: lmm.LMMResults, case: reference.Case) -> Array:
    """``bse_re`` in the reference's order, which runs down columns where ours runs along rows."""
    order, start = [], 0
    for term in case["model"]["random_terms"]:
        row, column = np.tril_indices(len(term["columns"]))
        order.extend(start + np.lexsort((row, column)))
        start += len(row)
    return result.bse_re.to_numpy()[order]


# ------------------------------------------------------------ what R says, in our shapes


def params_tol(name: str) -> float:
    return reference.load(name)["tol"]["params"]


def sd_scales(case: reference.Case) -> list[Array]:
    """Larger of each random coefficient's standard deviation and its natural scale, per term."""
    natural = reference.coefficient_scales(case)
    return [np.maximum(v["sd"], s) for v, s in zip(case["varcorr"], natural, strict=True)]


def lower(matrix: Array) -> Array:
    """Column-major lower triangle: lme4's order of theta."""
    column, row = np.triu_indices(len(matrix))
    return matrix[row, column]


def varcorr_rows(matrices: list[Array], diagonals: list[Array]) -> Array:
    """Per term the k diagonal entries, then the off-diagonal ones: ``as.data.frame(VarCorr())``."""
    out: list[float] = []
    for matrix, diagonal in zip(matrices, diagonals, strict=True):
        column, row = np.triu_indices(len(matrix), k=1)
        out.extend([*diagonal, *matrix[row, column]])
    return np.array(out)


# ------------------------------------------------------------ the objective and its optimum


@pytest.mark.parametrize("name", CASES)
def test_loglike_at_reference_theta(name):
    case = reference.load(name)
    layout, reml = fit(name).design.compressed.layout, case["model"]["REML"]
    theta = np.array(case["theta"]["values"], dtype=float)
    loglike = loglike_of_theta(theta, jax.tree.map(np.asarray, layout), reml=reml)  # in NumPy
    assert_close(-2 * loglike, case["criterion"]["value"], case["tol"]["logLik"])


@pytest.mark.parametrize("name", CASES)
def test_optimum(name):
    expected = reference.load(name)["minus2logLik"]
    actual = -2 * fit(name).llf
    assert actual <= expected + OPTIMUM_RTOL * abs(expected)
    assert_close(actual, expected, OPTIMUM_RTOL)


@pytest.mark.parametrize("name", CASES)
def test_status(name):
    case, result = reference.load(name), fit(name)
    assert result.converged
    assert result.singular == case["singular"]
    assert result.nobs == case["n"]


@pytest.mark.parametrize("name", CASES)
def test_information_criteria(name):
    case, result = reference.load(name), fit(name)
    assert_close(result.aic, case["AIC"], OPTIMUM_RTOL, abs(case["minus2logLik"]))
    assert_close(result.bic, case["BIC"], OPTIMUM_RTOL, abs(case["minus2logLik"]))


# ------------------------------------------------------------ estimates


@pytest.mark.parametrize("name", CASES)
def test_fixed_effects(name):
    fixef, params = reference.load(name)["fixef"], fit(name).fe_params
    se = np.array(fixef["se"])
    shift = np.array(fixef["values"]) - fixef.get("values_minus_shift", fixef["values"])
    scale = np.maximum(np.abs(fixef["values"] - shift), se)
    error = np.abs(params.to_numpy() - fixef["values"])
    assert np.all(error <= params_tol(name) * scale + EPS * np.abs(fixef["values"]))


@pytest.mark.parametrize("name", CASES)
def test_fixed_effects_covariance(name):
    case, result = reference.load(name), fit(name)
    se = np.array(case["fixef"]["se"])
    p = len(se)
    assert_close(result.bse_fe, se, params_tol(name))
    cov = np.asarray(result.cov_params())[:p, :p]
    assert_close(cov, case["vcov"], params_tol(name), np.outer(se, se))


@pytest.mark.parametrize("name", CASES)
def test_sigma_and_theta(name):
    case, result, tol = reference.load(name), fit(name), params_tol(name)
    assert_close(result.sigma, case["sigma"], tol)
    assert_close(result.scale, case["sigma"] ** 2, 2 * tol)
    rows = [np.outer(s, np.ones(len(s))) for s in sd_scales(case)]
    scale = np.concatenate([lower(row) for row in rows]) / case["sigma"]
    assert_close(result.theta, case["theta"]["values"], tol, scale)


@pytest.mark.parametrize("name", CASES)
def test_varcorr(name):
    case, table, tol = reference.load(name), fit(name).varcorr, params_tol(name)
    scales, terms, sigma = sd_scales(case), case["varcorr"], case["sigma"]
    covs = [np.array(term["cov"], float) for term in terms]
    cors = [np.array(term["cor"], float) for term in terms]
    products = [np.outer(s, s) for s in scales]
    ones = [np.ones_like(cor) for cor in cors]

    assert len(table) == len(varcorr_rows(covs, scales)) + 1
    vcov = varcorr_rows(covs, [np.diag(cov) for cov in covs])
    vcov_scale = varcorr_rows(products, [np.diag(product) for product in products])
    assert_close(table["vcov"][:-1], vcov, 2 * tol, vcov_scale)
    sdcor = varcorr_rows(cors, [term["sd"] for term in terms])
    assert_close(table["sdcor"][:-1], sdcor, tol, varcorr_rows(ones, scales))
    assert_close(table[["vcov", "sdcor"]].iloc[-1], [sigma**2, sigma], 2 * tol)
    assert table["grp"].iloc[-1] == "Residual"


# ------------------------------------------------------------ predictions


@pytest.mark.parametrize("name", CASES)
def test_random_effects(name):
    case, result, tol = reference.load(name), fit(name), params_tol(name)
    parts = zip(term_slices(case), case["ranef"], sd_scales(case), strict=True)
    for (group, columns), ranef, scale in parts:
        values = blups(result, group).iloc[:, columns]
        assert len(values) == ranef["n_levels"]
        assert_close(values.loc[ranef["levels"]], ranef["values"], tol, scale)
        squares = ranef["sum_of_squares_all_levels"]
        assert_close((values**2).sum(), squares, 2 * tol, ranef["n_levels"] * scale**2)


WITH_SD = [name for name in CASES if "cond_sd" in reference.load(name)["ranef"][0]]


@pytest.mark.parametrize("name", WITH_SD)
def test_random_effects_conditional_sd(name):
    case, result, tol = reference.load(name), fit(name), params_tol(name)
    parts = zip(term_slices(case), case["ranef"], sd_scales(case), strict=True)
    for (group, columns), ranef, scale in parts:
        sd = conditional_sd(result, group).iloc[:, columns]
        assert_close(sd.loc[ranef["levels"]], ranef["cond_sd"], tol, scale)


@pytest.mark.parametrize("name", CASES)
def test_fitted_and_residuals(name):
    case, result = reference.load(name), fit(name)
    rows, sigma = np.array(case["fitted"]["row"]) - 1, case["sigma"]
    fitted = np.array(case["fitted"]["fitted"])
    error = np.abs(result.fittedvalues.loc[rows] - fitted)
    assert np.all(error <= params_tol(name) * sigma + EPS * np.abs(fitted))
    assert_close(result.resid.loc[rows], case["fitted"]["resid"], params_tol(name), sigma)
    assert len(result.resid) == len(result.fittedvalues) == case["n"]


@pytest.mark.parametrize("kind", ["population", "conditional"])
@pytest.mark.parametrize("name", cases_with("predict"))
# lme4 predicts rows that break the collinearity of the others in silence
@pytest.mark.filterwarnings("ignore:.*means that cannot be estimated:lmm_jax.RankWarning")
def test_predict(name, kind):
    case = reference.load(name)
    expected, sigma = np.array(case["predict"][kind]), case["sigma"]
    actual = fit(name).predict(
        reference.newdata(case), conditional=kind == "conditional", new_levels="population"
    )
    error = np.abs(np.asarray(actual) - expected)
    small = np.abs(expected - case["data"]["y_shift_used_in_fit"])
    allowed = params_tol(name) * np.maximum(small, sigma) + EPS * np.abs(expected)
    assert np.all(error <= allowed)


# ------------------------------------------------------------ inference


@pytest.mark.parametrize("name", cases_with("satterthwaite_analytic", "df"))
def test_satterthwaite(name):
    case = reference.load(name)
    tol = case["tol"].get("df", DF_RTOL)
    assert_close(fit(name).df, case["satterthwaite_analytic"]["df"], tol)


SINGULAR = [
    name
    for name in cases_with("satterthwaite_lmerTest", "df")
    if reference.load(name)["singular"]
    and not reference.load(name)["satterthwaite_lmerTest"].get("unreliable")
]


@pytest.mark.parametrize("name", SINGULAR)
def test_satterthwaite_singular(name):
    """On the boundary the df depend on the parameterization: lmerTest's is (theta, sigma).

    Exact derivatives there agree with lmerTest's numerical ones to 2e-7 in every one of these.
    """
    case = reference.load(name)
    assert_close(fit(name).df, case["satterthwaite_lmerTest"]["df"], case["tol"]["df"])


@pytest.mark.parametrize("name", cases_with("varpar_info", "variance_scale", "se_observed"))
def test_variance_standard_errors(name):
    case = reference.load(name)
    expected = case["varpar_info"]["variance_scale"]["se_observed"][:-1]  # sigma^2 is the last
    assert_close(variance_errors(fit(name), case), expected, SE_FACTOR * params_tol(name))


# ------------------------------------------------------------ statsmodels' spelling


@pytest.mark.parametrize("name", spelled(one_group=False))
def test_statsmodels_spelling(name):
    case = reference.load(name)
    result = fits(name)[1]
    assert result is not None
    assert_close(result.llf, case["logLik"], OPTIMUM_RTOL)


@pytest.mark.parametrize("name", spelled(one_group=True))
def test_crossed_as_one_group(name):
    case, result, tol = reference.load(name), fit_as_statsmodels(name), params_tol(name)
    assert_close(result.llf, case["logLik"], OPTIMUM_RTOL)
    variances = component_variances(case)
    scale = [variances[key][1] ** 2 for key in sorted(variances)]
    expected = [variances[key][0] for key in sorted(variances)]
    assert_close(result.vcomp.sort_index(), expected, 2 * tol, scale)


def component_variances(case: reference.Case) -> dict[str, tuple[float, float]]:
    """Variance and sd scale by the name of the component: ``"0 + C(g):x"`` is ``(0 + x | g)``."""
    terms = case["model"]["random_terms"]
    by_key = {
        (frozenset(term["group"]), term["columns"][0]["name"]): (float(v["cov"][0][0]), float(s[0]))
        for term, v, s in zip(terms, case["varcorr"], sd_scales(case), strict=True)
    }
    out = {}
    for name, text in case["model"]["statsmodels"]["vc_formula"].items():
        groups = frozenset(re.findall(r"C\((\w+)\)", text))
        column = re.sub(r"0 \+|C\(\w+\)|[: ]", "", text) or "(Intercept)"
        out[name] = by_key[groups, column]
    return out
