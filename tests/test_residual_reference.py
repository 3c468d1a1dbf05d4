"""Residual covariances against nlme: the criterion, its optimum, and the tests made of it.

The reference is nlme's fit brought to the optimum by Newton steps, with definitions from the
literature evaluated there by dense matrices (``data/inference/README.md``).
"""

import re
from functools import cache

import numpy as np
import pytest
import reference
from helpers import assert_close, differences

import lmm_jax as lmm
from lmm_jax.covariance.theta import factor_blocks
from lmm_jax.inference.residuals.parameters import natural_parameters
from lmm_jax.likelihood.profile import profile_waist

CRITERION_RTOL = 1e-12  # one function in two float64 codes, hundreds of rows
# Two Newton optimizers that stop at different gradients, both far below these (largest seen: 4e-11
# of a standard error, 1e-9 of a variance with a nearly flat direction).
FIXED_RTOL, VCOV_RTOL = 1e-9, 1e-8
# Degrees of freedom and information take derivatives there: an error of the optimum is multiplied
# by the condition of the information, which is 1e5 for the ridge of phi and theta of ARMA(1, 1).
DF_RTOL = {"rs_sleep_gls_arma11_reml": 1e-6}
DF_RTOL_OTHERS = 1e-7
JOINT_RTOL = 1e-6  # products of several of these
INFORMATION_RTOL = 1e-6  # also of our central differences

CASES = reference.names(
    lambda case: case["kind"] == "residual_structure", folder=reference.INFERENCE
)
REGULAR = [name for name in CASES if not reference.load(name)["singular"]]
SINGULAR = [name for name in CASES if reference.load(name)["singular"]]
REML = [name for name in REGULAR if reference.load(name)["model"]["method"] == "REML"]
WEIGHTS = {"W_observed": "kenward-roger-linear", "W_expected": "kenward-roger-expected"}
OURS = {
    "ar1": "ar1", "car1": "car1", "cs": "cs", "symm": "symm", "arma11": "arma11", "un": "us",
    "exp": "sp_exp", "exp_nugget": "sp_exp", "gaus": "sp_gau", "gaus_nugget": "sp_gau",
}  # fmt: skip


def test_every_kind_of_case_is_there():
    kinds = {reference.load(name)["model"]["correlation"]["type"] for name in CASES}
    assert len(CASES) == 44 and kinds == {*OURS, "none"} - {"gaus"}
    assert len(SINGULAR) == 2


def formula(case) -> str:
    """The case's model in the language of formulas."""
    model = case["model"]
    correlation, variance = model["correlation"], model["variance"]
    kind, time, factors = correlation["type"], correlation["time"], []
    if kind != "none":
        time = correlation["visit"] if kind == "un" else "row" if kind == "cs" else time or "row"
        nugget = ", nugget=True" if "nugget" in kind else ""
        factors.append(f"{OURS[kind]}({time} | {':'.join(model['group'])}{nugget})")
    of_variance = {"ident": "diag", "power": "power", "exp": "expo"}.get(variance["type"])
    if of_variance:
        factors.append(f"{of_variance}({variance['by'] or variance['covariate']})")
    bars = [f"({r['formula'].lstrip('~')} | {':'.join(r['group'])})" for r in model["random"]]
    return " + ".join([model["fixed"], *bars, " * ".join(factors)])


@cache
def fitted(name: str) -> lmm.LMMResults:
    case = reference.load(name)
    reml = case["model"]["method"] == "REML"
    return lmm.fit(formula(case), reference.frame(case), reml=reml, runtime="numpy")


# ------------------------------------------------------------------------------ parameters


def optimum(result: lmm.LMMResults) -> np.ndarray:
    """Theta of the layout and log sigma^2."""
    return np.append(result.estimates.theta_layout, np.log(result.scale))


def nlme_parameters(case, result: lmm.LMMResults, x: np.ndarray) -> np.ndarray:
    """The case's parameters, in their order, at theta and log sigma^2."""
    theta, scale = x[:-1], float(np.exp(x[-1]))
    layout = result.design.compressed.layout
    found = natural_parameters(theta, scale, layout.structures)
    own = dict(zip(found.names, np.asarray(found.values.value), strict=True))
    blocks = factor_blocks(theta, layout.structures)
    Lambdas = [np.asarray(A) @ L for A, L in zip(layout.whiteners, blocks, strict=True)]
    psi = [scale * L @ L.T for L in Lambdas if L.size]
    # nlme's terms: the outer factor, with the fewest levels, first
    entries = np.concatenate([S[np.triu_indices(len(S))] for S in psi[::-1]]) if psi else []
    values = [parameter(case, name, own) for name in case["parameters"]["names"]
              if "|" not in name]  # fmt: skip
    return np.array([*values, *entries])


def parameter(case, name: str, own: dict[str, float]) -> float:
    """One of nlme's parameters of the residuals from ours."""
    kind, *labels = re.findall(r"[^(),]+", name)
    visits = case["data"]["columns"].get(case["model"]["correlation"]["visit"], {}).get("levels")
    of = case["model"]["variance"]["reference_stratum"]
    sigma = own[f"sd[{of}]"] if of else own.get("sd")
    if kind == "sigma2":
        return sigma**2
    if kind == "sd_ratio":
        return own[f"sd[{labels[0]}]"] / sigma
    if kind == "cor":
        return own[f"corr[{labels[0]},{labels[1]}]"]
    if kind == "cov":
        a, b = sorted(labels, key=visits.index) if visits else labels
        r = 1.0 if a == b else own[f"corr[{a},{b}]"]
        return own[f"sd[{a}]"] * own[f"sd[{b}]"] * r
    if kind == "phi" and case["model"]["correlation"]["type"] == "ar1":
        return own["rho"]
    return own[{"expon": "expo"}.get(kind, kind)]


def slopes(case, result, x) -> np.ndarray:
    """Derivatives of nlme's parameters in theta and log sigma^2, (m + 1, m + 1)."""
    return differences(lambda at: nlme_parameters(case, result, at), x).T


def at_stored_parameters(case, result) -> np.ndarray:
    """Theta and log sigma^2 where nlme's parameters are those of the case, by Newton."""
    x = optimum(result)
    for _ in range(2):
        off = nlme_parameters(case, result, x) - case["parameters"]["values"]
        x = x - np.linalg.solve(slopes(case, result, x), off)
    assert_close(nlme_parameters(case, result, x), case["parameters"]["values"], 1e-12)
    return x


# ------------------------------------------------------------------------------ tests


@pytest.mark.parametrize("name", REGULAR)
def test_criterion_at_the_stored_parameters(name):
    case, result = reference.load(name), fitted(name)
    x = at_stored_parameters(case, result)
    layout = result.design.compressed.layout
    waist = layout.waist_at(x[:-1])
    at = profile_waist(waist, layout, reml=result.reml)
    assert_close(at.deviance, case["minus2logLik"], CRITERION_RTOL)


@pytest.mark.parametrize("name", CASES)
def test_optimum(name):
    case, result = reference.load(name), fitted(name)
    assert result.converged and result.singular == case["singular"]
    assert_close(-2 * result.llf, case["minus2logLik"], CRITERION_RTOL)
    assert_close(result.aic, case["AIC"], CRITERION_RTOL)
    assert result.n_params == case["p"] + case["n_covariance_parameters"]
    se = np.array(case["fixef"]["se"])
    assert_close(result.fe_params, case["fixef"]["values"], FIXED_RTOL, se)
    assert_close(result.bse_fe, se, VCOV_RTOL)
    assert_close(result.scale * result.estimates.cov_beta, case["vcov"], VCOV_RTOL,
                 np.outer(se, se))  # fmt: skip
    # parameters: by the size of a standard error where there is one, which is what they moved by
    found = nlme_parameters(case, result, optimum(result))
    if case["singular"]:
        assert_close(found, case["parameters"]["values"], 1e-6)
    else:
        errors = np.sqrt(np.diag(case["information"]["vcov_parameters_observed"]))
        assert_close(found, case["parameters"]["values"], INFORMATION_RTOL, errors)


@pytest.mark.parametrize("name", REGULAR)
def test_information_of_the_parameters(name):
    """Inverse of the observed information of nlme's parameters, by the delta method."""
    case, result = reference.load(name), fitted(name)
    J = slopes(case, result, optimum(result))
    expected = np.array(case["information"]["vcov_parameters_observed"])
    se = np.sqrt(np.diag(expected))
    assert_close(J @ result.estimates.joint_cov @ J.T, expected, INFORMATION_RTOL,
                 np.outer(se, se))  # fmt: skip


@pytest.mark.parametrize("name", REGULAR)
def test_satterthwaite(name):
    case, result = reference.load(name), fitted(name)
    tol = DF_RTOL.get(name, DF_RTOL_OTHERS)
    assert_close(result.df, case["satterthwaite"]["df"], tol)
    joint = case["wald_joint"]
    rows = np.eye(case["p"])[np.array(joint["coefficients"]) - 1]
    chi2 = result.wald_test(rows, df_method="normal")
    assert_close(chi2.statistic, joint["chisq"], VCOV_RTOL)
    if "satterthwaite_F" in joint:
        check_f(result.f_test(rows), joint["satterthwaite_F"])


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", REML)
def test_kenward_roger(name, weights):
    """Without second derivatives, from the observed or the expected information."""
    case = reference.load(name)
    result = fitted(name).with_df(WEIGHTS[weights])
    expected, tol = case["kenward_roger_linear"][weights], DF_RTOL.get(name, DF_RTOL_OTHERS)
    assert_close(result.df, expected["df"], tol)
    assert_close(result.bse_fe, expected["se"], tol)
    se = np.array(expected["se"])
    assert_close(result.scale * result.tests.cov_beta, expected["vcov_adjusted"], 10 * tol,
                 np.outer(se, se))  # fmt: skip
    joint = case["wald_joint"]
    if "kenward_roger_linear_F" in joint:
        rows = np.eye(case["p"])[np.array(joint["coefficients"]) - 1]
        check_f(result.f_test(rows), joint["kenward_roger_linear_F"][weights])


def check_f(test, expected):
    assert test.df_num == expected["NumDF"]
    assert_close(test.df_denom, expected["DenDF"], JOINT_RTOL)
    assert_close(test.fvalue, expected["F"], JOINT_RTOL)
    assert_close(test.pvalue, expected["p"], 10 * JOINT_RTOL)


EFFECTS = [name for name in REGULAR if "treatment_effect_by_visit" in reference.load(name)]


@pytest.mark.parametrize("name", EFFECTS)
def test_treatment_effect_at_every_visit(name):
    case, result = reference.load(name), fitted(name)
    expected = case["treatment_effect_by_visit"]
    test = result.t_test(np.array(expected["L"], float))
    assert_close(test.effect, expected["estimate"], FIXED_RTOL, np.array(expected["se"]))
    assert_close(test.sd, expected["se"], VCOV_RTOL)
    assert_close(test.df_denom, expected["satterthwaite_df"], DF_RTOL_OTHERS)
    assert_close(test.pvalue, expected["satterthwaite_p"], JOINT_RTOL)


BLUPS = [name for name in CASES if "random_effects" in reference.load(name)]


@pytest.mark.parametrize("name", BLUPS)
def test_random_effects_beside_a_residual_covariance(name):
    case, result = reference.load(name), fitted(name)
    for term in case["random_effects"]:
        frame = result.random_effects[":".join(term["group"])]
        values = frame.loc[term["levels"]].to_numpy()
        scale = np.abs(term["values"]).max(axis=0)
        assert_close(values, term["values"], 1e-7, scale)


# ------------------------------------------------------------------------------ where nlme differs


def test_nlme_stops_short_where_random_effects_are_singular():
    """By up to 0.035 of the log-likelihood; at no case is it above."""
    short = {}
    for name in CASES:
        gain = fitted(name).llf - reference.load(name)["convergence"]["nlme_logLik"]
        assert gain > -1e-8, name
        short[name] = gain
    assert max(short, key=short.get) in SINGULAR
    assert 0.03 < max(short.values()) < 0.04
    assert max(short[name] for name in REGULAR) < 1e-4


ML = [name for name in REGULAR if reference.load(name)["model"]["method"] == "ML"]


@pytest.mark.parametrize("name", ML)
def test_nlme_scales_standard_errors_of_maximum_likelihood(name):
    """``summary`` of gls and lme has ``n / (n - p)`` in its variances; ours never has it."""
    case, result = reference.load(name), fitted(name)
    factor = np.sqrt(case["n"] / (case["n"] - case["p"]))
    theirs = np.array(case["nlme_summary"]["tTable"]["Std.Error"])
    assert_close(theirs, factor * result.bse_fe.to_numpy(), 1e-4)  # nlme's own optimum


# nlme 3.1.162: lme(y ~ age * Sex, ~ 1 | Subject, weights = varConstProp(form = ~ x,
# fixed = list(const = 1)), tolerance = 1e-12): logLik, sigma, prop, sd of Subject, fixed effects
CONST_PROP = {
    True: (-241.111740479, 1.51428332326, 0.222338230588, 1.60591927972, 0.369855267803),
    False: (-239.147535452, 1.50164189567, 0.219774544426, 1.52993607192, 0.370101112303),
}
# nlme's optimizer stops there at a relative change of the criterion of 1e-14.
NLME_RTOL = 1e-5


@pytest.mark.filterwarnings("ignore:.*has 108 random coefficients for 108 rows")
@pytest.mark.parametrize("reml", CONST_PROP)
def test_a_slope_of_every_row_is_a_constant_and_a_proportion(reml):
    """Variance ``sigma^2 + tau^2 x^2``, nlme's varConstProp."""
    teeth, i = lmm.load_dataset("orthodont"), np.arange(1, 109)
    x = teeth["age"] - 8
    y = (teeth["distance"] + x * np.sin(1.7 * i**2) / 2).round(2)
    data = teeth.assign(x=x, y=y, row=i, Sex=teeth["Sex"].astype(str))
    res = lmm.fit("y ~ age * Sex + (1 | Subject) + (0 + x | row)", data, reml=reml)
    llf, sigma, prop, subject, age = CONST_PROP[reml]
    assert_close(res.llf, llf, 1e-10)
    found = res.tidy(effects="ran_pars").set_index("group")["estimate"]
    assert_close(found[["Residual", "row", "Subject"]], [sigma, prop * sigma, subject], NLME_RTOL)
    assert_close(res.fe_params["age"], age, NLME_RTOL)
