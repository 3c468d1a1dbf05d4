"""PROC MIXED's published fits of a trial: criterion, covariances, estimates and their tests.

Facts that openpharma/mmrm keeps of SAS's output (``data/inference/README.md``). Most numbers are
printed to four digits; those in ``*_full`` have fifteen, and the error of an optimizer that stops.
"""

import json
import re
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import assert_close
from reference import INFERENCE

import lmm_jax as lmm

FOLDER = INFERENCE.parent
CASES: dict[str, dict[str, Any]] = {
    case["name"]: case
    for case in json.loads((FOLDER / "sas_fev.json").read_text(encoding="utf-8"))["cases"]
}
FITTED = [name for name, case in CASES.items() if "neg2loglik" in case]
METHODS = ("satterthwaite", "kenward-roger", "kenward-roger-linear")
TESTED = [name for name in FITTED if CASES[name]["model"]["df_method"] in METHODS]

# SAS stops where a step promises a relative 1e-8 or less; the criterion is flat there, so that it
# ends up to 1.3e-5 above the minimum, and below it by its rounding to eight decimals alone.
SHORT, PRINTED = 1.3e-5, 1e-8
# Covariance parameters are then off by up to the root of that, 3.6e-3, in standard errors, which
# are a sixth of a variance at most (the third visit, seen by the fewest); estimates, standard
# errors and df by less (most in a number written with 15 digits: 3.7e-4, df of csh). Printed
# numbers have half a unit of their last place, which is given, besides.
COVARIANCE_RTOL, SAS_RTOL = 6e-4, 4e-4


@cache
def trial() -> pd.DataFrame:
    data = pd.read_csv(FOLDER / "data" / "inf_fev.csv")
    at = pd.read_csv(FOLDER / "data" / "inf_fev_visitn2.csv")
    return data.merge(at, on=["USUBJID", "AVISIT"], validate="one_to_one")


def frame(case) -> pd.DataFrame:
    """The rows of a case with its reference levels first."""
    data = trial().dropna(subset="FEV1")
    for column in ("AVISIT", "ARMCD", "RACE", "SEX"):
        levels, first = sorted(data[column].unique()), case["reference_levels"].get(column)
        if first is not None:
            levels = [first, *(level for level in levels if level != first)]
        data[column] = pd.Categorical(data[column], categories=levels)
    if "fit_weight" in case:
        data["fit_weight"] = np.array(case["fit_weight"], float)
    return data


def weights(case) -> str | None:
    return "fit_weight" if "fit_weight" in case else case["model"]["weights"]


@cache
def fitted(name: str) -> lmm.LMMResults:
    case = CASES[name]
    text = case["model"]["formula"].replace("VISITN, VISITN2", "VISITN + VISITN2")
    return lmm.fit(text, frame(case), reml=case["model"]["method"] == "REML",
                   weights=weights(case), runtime="numpy")  # fmt: skip


def as_sas(name: str) -> lmm.LMMResults:
    """The fit with the case's degrees of freedom and standard errors."""
    return fitted(name).with_df(CASES[name]["model"]["df_method"])


def check(
    actual: float, row: dict[str, Any], field: str, scale: float = 0.0, rtol: float = SAS_RTOL
) -> None:
    """A printed number: to half a unit of its last place, and SAS's own convergence."""
    if row.get(field) is None:  # "<.0001"
        if f"{field}_below" in row:
            assert actual < row[f"{field}_below"]
        return
    allowed = row["tol"][field] + rtol * max(abs(row[field]), scale)
    assert abs(actual - row[field]) <= allowed, (field, actual, row[field], allowed)


def test_the_cases_are_there():
    assert len(CASES) == 70 and len(FITTED) == 61
    methods = {case["model"]["df_method"] for case in CASES.values()}
    assert methods == {*METHODS, "between-within"}


@pytest.mark.parametrize("name", FITTED)
def test_criterion(name):
    case, result = CASES[name], fitted(name)
    assert result.converged
    assert result.nobs == case["n_used"]
    own = result.n_params - len(result.fe_params)
    assert own == case["n_covariance_parameters"]
    gain = case["neg2loglik"]["value"] + 2 * result.llf
    assert -PRINTED <= gain <= SHORT, gain


# ------------------------------------------------------------------------------ covariances


def sas_parameters(case, result) -> dict[tuple[str, str | None], float]:
    """Ours by SAS's names (and arms)."""
    arms = sorted({p["group"] for p in case["covariance_parameters"] if p.get("group")}) or [None]
    own = result.residual_params.to_dict()
    visits, out = case.get("visit_order") or [], {}
    for arm in arms:
        mark = "" if arm is None else f"[{arm}]"
        variance = own.get(f"sd{mark}", result.sigma) ** 2
        term = case["model"]["formula"]
        if "cs(" in term:
            rho = own[f"rho{mark}"]
            out[("CS", arm)] = variance * rho
            variance *= 1 - rho  # SAS adds the common covariance to what it calls the residual
        if "sp_" in term:
            out[("SP(EXP)", arm)] = out[("SP(GAU)", arm)] = own[f"range{mark}"]
            out[("SP(POW)", arm)] = np.exp(-1 / own[f"range{mark}"])
        out[("Residual", arm)] = out[("Variance", arm)] = variance
        if "csh(" in term:
            out[("CSH", arm)] = own[f"rho{mark}"]
        out[("AR(1)", arm)] = out[("ARH(1)", arm)] = own.get(f"rho{mark}", np.nan)
        if visits and "sp_" not in term:
            R = result.residual_cov(visits, arm=arm).to_numpy()
            for i in range(len(visits)):
                out[(f"Var({i + 1})", arm)] = R[i, i]
                out[(f"TOEP({i + 1})", arm)] = R[0, i]
                for j in range(i + 1):
                    out[(f"UN({i + 1},{j + 1})", arm)] = R[i, j]
    return out


def size(name: str, arm: str | None, found: dict[tuple[str, str | None], float]) -> float:
    """What a parameter's error is measured by: 1 of correlations, variances of covariances."""
    if name.startswith(("UN", "TOEP", "Var(")):
        i, j = (re.findall(r"\d+", name) * 2)[:2]
        return (found[(f"UN({i},{i})", arm)] * found[(f"UN({j},{j})", arm)]) ** 0.5
    return found[("Variance", arm)] if name == "CS" else 1.0


@pytest.mark.parametrize("name", FITTED)
def test_covariance_parameters(name):
    case, result = CASES[name], fitted(name)
    found = sas_parameters(case, result)
    for row in case["covariance_parameters"]:
        name, arm = row["name"], row.get("group")
        check(found[(name, arm)], row, "value", size(name, arm, found), COVARIANCE_RTOL)


@pytest.mark.parametrize("name", [n for n in FITTED if "R" in CASES[n]])
def test_covariance_of_a_subject(name):
    """R as SAS prints it, of the subject's rows; divided by the roots of their weights."""
    case, result, data = CASES[name], fitted(name), frame(CASES[name])
    for block in case["R"]:
        visits = block["visits"]
        rows = data[data["USUBJID"] == block["subject"]].set_index("AVISIT").loc[visits]
        if "sp_" in case["model"]["formula"]:
            at = ["VISITN", "VISITN2"] if "VISITN2" in case["model"]["formula"] else ["VISITN"]
            R = result.residual_cov(rows[at].to_numpy()).to_numpy()
        else:
            R = result.residual_cov(visits, arm=block.get("group")).to_numpy()
        if block.get("scaled_by_weights"):
            root = np.sqrt(rows[weights(case)].to_numpy())
            R = R / root[:, None] / root
        expected, tol = np.array(block["matrix"]), np.array(block["tol"])
        sd = np.sqrt(np.diag(expected))
        assert (np.abs(R - expected) <= tol + COVARIANCE_RTOL * sd[:, None] * sd).all()


# ------------------------------------------------------------------------------ fixed effects


def sas_name(name: str) -> str:
    return {"Intercept": "(Intercept)"}.get(name, name.replace("[T.", "").replace("]", ""))


def has_df(name: str) -> bool:
    """Not of weighted fits: see ``test_df_of_weighted_fits``."""
    return weights(CASES[name]) is None


@pytest.mark.parametrize("name", [n for n in TESTED if "fixed_effects" in CASES[n]])
def test_fixed_effects(name):
    case, result = CASES[name], as_sas(name)
    columns = {"estimate": result.fe_params, "se": result.bse_fe, "t": result.tvalues}
    if has_df(name):
        columns |= {"df": result.df, "p": result.pvalues}
    found = pd.DataFrame(columns).rename(index=sas_name)
    assert len(case["fixed_effects"]) == len(found)
    for row in case["fixed_effects"]:
        for field in columns:
            check(found.at[row["name"], field], row, field, row["se"] if field == "estimate" else 0)


@pytest.mark.parametrize("name", [n for n in TESTED if "type3_tests" in CASES[n]])
def test_type_three(name):
    table = as_sas(name).anova()
    for row in CASES[name]["type3_tests"]:
        ours = table.loc[row["effect"]]
        assert ours["df_num"] == row["num_df"]
        check(ours["f"], row, "F")
        if has_df(name):
            check(ours["df_denom"], row, "den_df")
            check(ours["p_value"], row, "p_F")


@pytest.mark.parametrize("name", [n for n in TESTED if "ls_means" in CASES[n]])
def test_means(name):
    case, result = CASES[name], as_sas(name)
    factors = list(case["ls_means"][0]["at"])
    means = lmm.emmeans(result, factors)
    labels = means.to_frame()[factors].astype(str).to_dict("records")
    fields = {"estimate": "estimate", "se": "std_error", "t": "statistic"}
    if has_df(name):
        fields |= {"df": "df", "lower": "conf_low", "upper": "conf_high"}
    for row in case["ls_means"]:
        ours = means.to_frame().iloc[labels.index(row["at"])]
        for field, column in fields.items():
            check(ours[column], row, field)
    for row in case["ls_means_differences"]:
        weight = np.zeros(len(labels))
        weight[labels.index(row["at"])], weight[labels.index(row["minus"])] = 1, -1
        ours = means.contrast({"difference": weight}).to_frame().iloc[0]
        for field, column in fields.items():
            check(ours[column], row, field)


FULL = [name for name in TESTED if "ls_means_differences_full" in CASES[name]]


@pytest.mark.parametrize("name", FULL)
def test_difference_of_the_arms(name):
    """Written with 15 digits: what is left is SAS's convergence."""
    (row,) = CASES[name]["ls_means_differences_full"]
    result = as_sas(name)
    weight = [1 if label == row["at"]["ARMCD"] else -1 for label in ("PBO", "TRT")]
    ours = lmm.emmeans(result, "ARMCD").contrast({"difference": weight}).to_frame().iloc[0]
    assert_close(ours["estimate"], row["estimate"], SAS_RTOL)
    assert_close(ours["std_error"], row["se"], SAS_RTOL)
    assert_close(ours["df"], row["df"], SAS_RTOL)


def test_two_kenward_roger_methods_differ_in_standard_errors_alone():
    """SAS's kr and kr(linear): second derivatives of V change the covariance, not the df."""
    for name in FULL:
        if not name.endswith("_kr"):
            continue
        one, other = as_sas(name), as_sas(f"{name}_linear")
        assert_close(one.df, other.df, 1e-9)
        gap = (one.bse_fe / other.bse_fe - 1).abs().max()
        linear = name in ("sas_armcd_cs_kr", "sas_armcd_us_kr", "sas_armcd_toep_kr")
        assert (gap < 1e-9) == linear, (name, gap)


@pytest.mark.parametrize("kind", [2, 3])
def test_types_of_a_factor_and_a_covariate(kind):
    case = CASES["sas_anova_1"]
    table = fitted("sas_anova_1").anova(kind)
    for row in case[f"type{kind}_tests_full"]:
        ours = table.loc[row["effect"]]
        assert ours["df_num"] == row["num_df"]
        assert_close(ours["f"], row["F"], SAS_RTOL)
        assert_close(ours["df_denom"], row["den_df"], SAS_RTOL)
        assert_close(ours["p_value"], row["p_F"], SAS_RTOL)


# ------------------------------------------------------------------------------ weights


@pytest.mark.parametrize("name", [n for n in TESTED if weights(CASES[n]) is not None])
def test_df_of_weighted_fits(name):
    """SAS differentiates V without the weights, so that its df change with their unit.

    Satterthwaite's df by dense matrices, ``V = W^-1/2 R W^-1/2``: with ``dV = W^-1/2 dR W^-1/2``
    they are ours; with dR in the place of dV they are SAS's.
    """
    case, result, data = CASES[name], fitted(name), frame(CASES[name])
    visits = list(data["AVISIT"].cat.categories)
    at = data["AVISIT"].cat.codes.to_numpy()
    subject = data["USUBJID"].to_numpy()
    same = subject[:, None] == subject
    root = 1 / np.sqrt(data[weights(case)].to_numpy(float))
    scaled = root[:, None] * root
    V = scaled * same * result.residual_cov(visits).to_numpy()[np.ix_(at, at)]
    X, y = result.design.exog, data["FEV1"].to_numpy()
    Vi = np.linalg.inv(V)
    C = np.linalg.inv(X.T @ Vi @ X)
    P = Vi - Vi @ X @ C @ X.T @ Vi
    Py, XVC = P @ y, Vi @ X @ C
    units = []
    for i in range(len(visits)):
        for j in range(i + 1):
            E = np.zeros((len(visits),) * 2)
            E[i, j] = E[j, i] = 1
            units.append(same * E[np.ix_(at, at)])
    PD = [P @ (scaled * D) for D in units]
    DPy = [(scaled * D) @ Py for D in units]
    hessian = [[2 * a @ P @ b - np.sum(A * B.T) for B, b in zip(PD, DPy, strict=True)]
               for A, a in zip(PD, DPy, strict=True)]  # fmt: skip
    A = 2 * np.linalg.inv(hessian)

    def df(dV):
        g = np.array([np.einsum("ip,ij,jp->p", XVC, D, XVC) for D in dV])
        return 2 * np.diag(C) ** 2 / np.einsum("kp,kl,lp->p", g, A, g)

    assert_close(result.df, df([scaled * D for D in units]), 1e-7)
    theirs = pd.Series(df(units), index=result.fe_params.index).rename(index=sas_name)
    for row in case["fixed_effects"]:
        check(theirs[row["name"]], row, "df")


def test_df_do_not_depend_on_the_unit_of_the_weights():
    case = CASES["sas_weighted_mmrm_us_reml"]
    data = frame(case).assign(WEIGHT=lambda d: 50 * d["WEIGHT"])
    other = lmm.fit(case["model"]["formula"], data, weights="WEIGHT", runtime="numpy")
    assert_close(other.df, fitted(case["name"]).df, 1e-6)


# ------------------------------------------------------------------------------ by subjects

BETWEEN = [name for name in FITTED if CASES[name]["model"]["df_method"] == "between-within"]
EMPIRICAL = [name for name in BETWEEN if CASES[name]["model"]["se_method"] == "empirical"]


def test_every_case_is_compared():
    assert sorted([*TESTED, *BETWEEN]) == sorted(FITTED)


@pytest.mark.parametrize("name", EMPIRICAL)
def test_empirical_standard_errors(name):
    """The sandwich without a correction, clusters are the subjects: CR0."""
    case, robust = CASES[name], fitted(name).robust("CR0")
    found = pd.DataFrame({"estimate": robust.fe_params, "se": robust.bse_fe}).rename(index=sas_name)
    found["t"] = found["estimate"] / found["se"]
    for row in case["fixed_effects"]:
        for field in found:
            check(found.at[row["name"], field], row, field, row["se"] if field == "estimate" else 0)
    se = np.array([row["se"] for row in case["fixed_effects"]])
    assert case["vcov_full"]["names"] == list(found.index)
    assert_close(robust.scale * robust.tests.cov_beta, case["vcov_full"]["matrix"], 2 * SAS_RTOL,
                 np.outer(se, se))  # fmt: skip
    (row,) = case["ls_means_differences_full"]
    weight = np.array([[0.0, 1.0 if row["at"]["ARMCD"] == "TRT" else -1.0]])
    test = robust.t_test(weight)
    assert_close(test.effect, [row["estimate"]], SAS_RTOL)
    assert_close(test.sd, [row["se"]], SAS_RTOL)


@pytest.mark.parametrize("name", BETWEEN)
def test_between_within(name):
    """Subjects less the effects that differ between them: exact numbers."""
    case, result = CASES[name], as_sas(name)
    for row in case.get("fixed_effects", []):
        df = result.df.rename(index=sas_name)[row["name"]]
        assert df == row["df"]
    for row in case.get("ls_means_differences_full", []):
        assert result.t_test(np.array([[0.0, 1.0]])).df_denom[0] == row["df"]
    table = result.anova()
    for row in case["type3_tests"]:
        ours = table.loc[row["effect"]]
        assert ours["df_num"] == row["num_df"] and ours["df_denom"] == row["den_df"]
        if case["model"]["se_method"] == "model-based":
            check(ours["f"], row, "F")
            check(ours["p_value"], row, "p_F")
