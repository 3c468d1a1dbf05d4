"""Garbage for every argument of every public function and method, one at a time.

A call is right but for one argument. What comes out is an answer, or an error of the package
that says what was wrong: never one from the inside of pandas, NumPy, XLA or Python.
"""

import datetime
import inspect
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import samples

import lmm_jax as lmm
from lmm_jax import penalties

P = lmm.Params.from_components
DATA = samples.frame()
FORMULA = "y ~ x + (1 | g)"
NAN, INF = float("nan"), float("inf")
SAMPLE = 250  # calls of the quick test


@cache
def design() -> lmm.Design:
    return lmm.design(FORMULA, DATA)


@cache
def fitted() -> lmm.LMMResults:
    return lmm.fit(design())


@cache
def components() -> lmm.LMMResults:
    return lmm.fit("y ~ x", DATA, groups="g", vc_formula={"s": "0 + C(s)"})


def by_callable(n: int) -> lmm.Design:
    return design()


GARBAGE: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "-1": lambda: -1,
    "0": lambda: 0,
    "1.5": lambda: 1.5,
    "nan": lambda: NAN,
    "inf": lambda: INF,
    "2**31": lambda: 2**31,
    "2**63": lambda: 2**63,
    "10**30": lambda: 10**30,
    "'a'": lambda: "a",
    "empty string": lambda: "",
    "[]": list,
    "{}": dict,
    "[nan]": lambda: [NAN],
    "ragged": lambda: [[1], [1, 2]],
    "['a', 1]": lambda: ["a", 1],
    "{1: 2}": lambda: {1: 2},
    "object": object,
    "array (2, 0)": lambda: np.zeros((2, 0)),
    "array (3, 2, 1)": lambda: np.ones((3, 2, 1)),
    "array ()": lambda: np.array(None),
    "array of text": lambda: np.array(["a", "b"]),
    "jax array": lambda: jnp.ones(3),
    "complex": lambda: 1 + 2j,
    "date": lambda: datetime.date(2026, 1, 1),
    "NA": lambda: pd.NA,
    "bytes": lambda: b"a",
    "function": lambda: len,
    "class": lambda: dict,
    "generator": lambda: (i for i in "ab"),
    "frame": lambda: pd.DataFrame({"a": [1.0, 2.0]}),
    "series": lambda: pd.Series(["u", None]),
    "design": design,
    "result": fitted,
}

# Counts of what a call is to compute: a value that is right, but more than a test has time for.
COUNTS = {"n", "n_boot", "n_sim", "num_low", "num_high"}
# Functions of the caller: their errors are the caller's own.
CALLED = {
    ("power of sizes", "design"), ("BootstrapResults.apply", "fun"), ("delta_method", "f"),
    ("hypotheses", "hypothesis"),
}  # fmt: skip
# What Python itself says where a path leads nowhere, and a directory that would be made.
PATHS = {"batches", "path"}


def saved(result: lmm.LMMResults) -> str:
    """A file of a result."""
    result.save(path := Path(tempfile.mkdtemp()) / "a")
    return str(path)


class Call(NamedTuple):
    """A function with arguments that are right."""

    function: Callable[..., Any]
    good: dict[str, Any]


def calls() -> dict[str, Call]:
    d, r, layout = design(), fitted(), design().layout
    c = components()
    truth = P(fe_params=[1, 2], cov_re=[[1.0]])
    y, x, g = DATA["y"].to_numpy(), DATA[["x"]].to_numpy(), DATA["g"].to_numpy()
    model = {"formula": FORMULA, "data": DATA, "weights": None, "offset": None, "subset": None}
    spelled = {"groups": None, "re_formula": None, "vc_formula": None, "context": None}
    rows = {"missing": "drop", **model, **spelled}
    means = lmm.emmeans(r, "x", at={"x": [0.0, 1.0]})
    logs = lmm.emmeans(lmm.fit("log(y) ~ x + (1 | g)", DATA.assign(y=np.exp(y / 4))), "1")
    boot, test = lmm.bootstrap(r, 10, seed=1), r.t_test("x = 0")
    many = lmm.fit_many(d, np.column_stack([y, y[::-1]]), progress=False)
    lasso = lmm.fit_regularized(d, alpha=1.0)
    mesh = jax.make_mesh((1,), ("g",), axis_types=(jax.sharding.AxisType.Auto,))
    fit_options = dict(reml=True, maxiter=200, gtol=1e-9, df_method="normal")
    cov, none = np.eye(1), np.zeros(0)
    of_layout = dict(layout=layout, reml=True, profile_fe=True, sqrt=False, params=truth)
    # statsmodels' spelling, so that each of its arguments is used
    by_groups = dict(formula="y ~ x", data=DATA, groups="g", re_formula="1", vc_formula=None)
    new = DATA[:4]
    visits = DATA.groupby("g").head(2).assign(v=lambda d: d.groupby("g").cumcount())
    trial = dict(formula="y ~ x", data=visits, residual="us(v | g)", reml=True, missing="drop")
    trial |= dict(weights=None, offset=None, subset=None, context=None, df_method=None)
    beside = lmm.fit("y ~ x + ar1(v | g)", visits)
    ids = DATA["g"].unique()
    pedigree = pd.DataFrame({"id": ids.astype(str), "sire": "", "dam": ""})
    pedigree.loc[pedigree.index[2:], ["sire", "dam"]] = pedigree["id"].iloc[:2].to_numpy()
    related = lmm.fit(FORMULA, DATA, relatedness={"g": (np.eye(len(ids)), list(ids))})
    return {
        "mmrm": Call(lmm.mmrm, {**trial, "fallback": ()}),
        "fit beside a residual covariance": Call(lmm.fit, {**trial, "df_method": "kr"}),
        "residual_cov": Call(
            beside.residual_cov, dict(levels=[0], arm=None, stratum=None, covariate=None)
        ),
        "residual_corr": Call(beside.residual_corr, dict(levels=[0])),
        "residual_intervals": Call(beside.residual_intervals, dict(level=0.9)),
        "relationship": Call(
            lmm.relationship,
            dict(pedigree=pedigree, id="id", sire="sire", dam="dam", inverse=False),
        ),
        "heritability": Call(
            lmm.heritability,
            dict(res=related, additive=None, leave_out=(), fixed=False, level=0.9),
        ),
        "fit of related levels": Call(
            lmm.fit, {**model, "relatedness": {"g": (np.eye(len(ids)), list(ids))}}
        ),
        "design": Call(lmm.design, rows),
        "design, groups": Call(lmm.design, by_groups),
        "design_from_arrays": Call(
            lmm.design_from_arrays,
            dict(endog=y, exog=x, groups=g, exog_re=None, exog_vc=None, weights=None,
                 offset=None, missing="none"),
        ),
        "design_from_batches": Call(
            lmm.design_from_batches,
            dict(formula=FORMULA, batches=[DATA], weights=None, offset=None, missing="drop",
                 context=None, batch_size=100),
        ),
        "schema": Call(
            lmm.schema,
            dict(formula=FORMULA, sample=DATA, levels=None, weights=None, offset=None,
                 missing="drop", context=None),
        ),
        "summarize": Call(
            lmm.summarize,
            dict(formula=FORMULA, data=DATA, schema=None, weights=None, offset=None,
                 missing="drop", context=None, batch_size=100),
        ),
        "fit": Call(lmm.fit, {**rows, **fit_options}),
        "fit of a design": Call(
            lmm.fit,
            dict(formula=d, start_params=None, free=None, fe_pen=None, cov_pen=None,
                 method="newton", full_output=False, **fit_options),
        ),
        "fit_many": Call(
            lmm.fit_many,
            {**model, **spelled, **fit_options, "responses": ["y"], "progress": False,
             "responses_in": "columns"},
        ),
        "fit_many of a design": Call(
            lmm.fit_many, dict(formula=d, data=DATA[["y"]], chunk_size=None, progress=False)
        ),
        "fit_regularized": Call(
            lmm.fit_regularized,
            dict(formula=d, method="l1", alpha=1.0, ceps=0.0, ptol=1e-9, maxit=200,
                 start_params=None, reml=True),
        ),
        "fit_regularized of data": Call(
            lmm.fit_regularized, {k: v for k, v in rows.items() if k != "context"}
        ),
        "bootstrap": Call(lmm.bootstrap, dict(res=r, n_boot=10, seed=1)),
        "power": Call(
            lmm.power,
            dict(design=d, params=truth, n_sim=10, test="x", seed=1, scale=1.0, effects=None,
                 alpha=0.05, df_method="normal", reml=True),
        ),
        "power of sizes": Call(
            lmm.power,
            dict(design=by_callable, params=truth, n_sim=10, test="x", seed=1, scale=1.0,
                 sizes=[1]),
        ),
        "simulate": Call(lmm.simulate, dict(model=r, design=None, seed=1, n=1, conditional=False)),
        "simulate from Params": Call(
            lmm.simulate, dict(model=truth, design=d, seed=1, scale=1.0)
        ),
        "influence": Call(lmm.influence, dict(res=r, by="group")),
        "r2": Call(lmm.r2, dict(res=r, level=0.9)),
        "icc": Call(lmm.icc, dict(res=r, level=0.9)),
        "variance_components": Call(lmm.variance_components, dict(res=r, level=0.9)),
        "vif": Call(lmm.vif, dict(res=r, level=0.9)),
        "caic": Call(lmm.caic, dict(res=r)),
        "load_dataset": Call(lmm.load_dataset, dict(name="dyestuff")),
        "row_index": Call(lmm.row_index, dict(groups=g, sizes=1, n_components=0)),
        "shard": Call(lmm.shard, dict(layout=layout, mesh=mesh, axis="g")),
        "profile_loglike": Call(
            lmm.profile_loglike, dict(theta=np.ones(1), layout=layout, reml=True)
        ),
        "loglike": Call(lmm.loglike, of_layout),
        "score": Call(lmm.score, of_layout),
        "hessian": Call(lmm.hessian, of_layout),
        "get_fe_params": Call(lmm.get_fe_params, dict(cov_re=cov, vcomp=none, layout=layout)),
        "get_theta": Call(
            lmm.get_theta, dict(params=P(cov_re=cov, vcomp=none), layout=layout, sqrt=False)
        ),
        "get_scale": Call(
            lmm.get_scale,
            dict(fe_params=np.ones(2), cov_re=cov, vcomp=none, layout=layout, reml=True),
        ),
        "get_random_effects": Call(
            lmm.get_random_effects,
            dict(
                params=P(fe_params=np.ones(2), cov_re=cov, vcomp=none), layout=layout,
                index=lmm.row_index(g), profile_fe=True, sqrt=False,
            ),
        ),
        "fit_params": Call(
            lmm.fit_params, dict(layout=layout, start=None, reml=True, maxiter=50, tol=1e-9)
        ),
        "pack": Call(lmm.pack, dict(params=truth, sizes=None, with_fe=True, sqrt=False)),
        "unpack": Call(
            lmm.unpack, dict(vector=np.ones(3), sizes=(1,), k_fe=2, k_vc=0, sqrt=False)
        ),
        "Params": Call(P, dict(fe_params=[1.0], cov_re=cov, vcomp=none)),
        "Params, root": Call(P, dict(cov_re_sqrt=cov)),
        "rescaled": Call(truth.rescaled, dict(factor=2.0)),
        "compress": Call(
            lmm.compress,
            dict(y=y, X=x, Z=(np.ones((60, 1, 1)),), weights=np.ones(60),
                 index=lmm.row_index(g), sigma=None),
        ),
        "woodbury_logdet": Call(
            lmm.woodbury_logdet, dict(s=1.0, A=np.ones((3, 2)), Q=cov, d=np.ones(1))
        ),
        "woodbury_solver": Call(
            lmm.woodbury_solver, dict(s=1.0, A=np.ones((3, 2)), Q=cov, d=np.ones(1))
        ),
        "predict": Call(
            r.predict, dict(newdata=new, conditional=True, new_levels="error", offset=None,
                 output=None)
        ),
        "predict, groups": Call(
            lmm.fit("y ~ x", DATA, groups=g).predict,
            dict(newdata=new, conditional=True, groups=g[:4]),
        ),
        "predict, intervals": Call(
            r.predict,
            dict(newdata=new, se=True, interval="prediction", level=0.9, df_method="kr",
                 weights=np.ones(4), type="response"),
        ),
        "predict, own rows": Call(
            r.predict, dict(newdata=None, conditional=True, se=True, interval="confidence")
        ),
        "model_matrix": Call(r.model_matrix, dict(newdata=new)),
        "random_effects_frame": Call(
            r.random_effects_frame, dict(conf_level=0.9, given_beta=False, output="polars")
        ),
        "augment": Call(r.augment, dict(output="polars")),
        "glance": Call(r.glance, dict(output="pandas")),
        "resid": Call(r.resid.__call__, dict(kind="pearson")),
        "simulate_residuals": Call(
            lmm.simulate_residuals, dict(res=r, n=10, seed=1, conditional=False)
        ),
        "load": Call(lmm.load, dict(path=saved(r), context=None)),
        "save": Call(r.save, dict(path=saved(r), keep_data=False)),
        "joint_effects_cov": Call(
            r.joint_effects_cov, dict(levels={"g": DATA["g"].iloc[0]}, given_beta=False)
        ),
        "conf_int": Call(r.conf_int, dict(alpha=0.05, df_method=None)),
        "with_df": Call(r.with_df, dict(df_method="kr")),
        "t_test": Call(r.t_test, dict(r_matrix="x = 0", use_t=None, df_method="residual")),
        "wald_test": Call(r.wald_test, dict(r_matrix=np.eye(2), use_f=None, df_method="kr")),
        "anova": Call(lmm.anova, dict(res=r, type=3, df_method=None, marginal="lmertest")),
        "anova of one": Call(r.anova, dict(type=2, df_method="kr", marginal="car")),
        "ranova": Call(lmm.ranova, dict(res=r)),
        **{
            how: Call(
                getattr(r, how),
                dict(caption="a", digits=2, columns=["estimate"], rename={"x": "b"}, notes=False)
                | (dict(label="t", width=60) if how == "to_latex" else {}),
            )
            for how in ("to_latex", "to_markdown", "to_html", "to_gt")
        },
        "regression_table": Call(
            lmm.regression_table,
            dict(res=r, names=["a"], show="conf_int", level=0.9, stars=True, digits=2,
                 statistics=["aic"]),
        ),
        "emmeans": Call(
            lmm.emmeans,
            dict(res=r, specs="x", by=None, at={"x": [0.0]}, weights="equal", cov_reduce="mean",
                 df_method=None, level=0.9),
        ),
        "emtrends": Call(
            lmm.emtrends,
            dict(res=r, specs="1", var="x", max_degree=2, by=None, at=None, weights="equal",
                 cov_reduce="range", df_method="z", level=0.9),
        ),
        "joint_tests": Call(lmm.joint_tests, dict(res=r, by=None, at=None, df_method=None)),
        "MarginalMeans.to_frame": Call(
            means.to_frame,
            dict(adjust="none", level=0.9, type="link", bias_sigma=None, output=None),
        ),
        "MarginalMeans.confint": Call(means.confint, dict(level=0.9, adjust="sidak")),
        "MarginalMeans.test": Call(
            means.test, dict(null=0.0, side="less", delta=0.1, adjust="holm")
        ),
        "MarginalMeans.contrast": Call(
            means.contrast,
            dict(
                method="eff",
                by="same",
                simple=None,
                interaction=None,
                ref=None,
                max_degree=None,
                adjust="fdr",
            ),
        ),
        "MarginalMeans.pairs": Call(
            means.pairs, dict(by="same", simple=None, adjust="tukey", reverse=False)
        ),
        "MarginalMeans.joint_tests": Call(means.joint_tests, dict(by=None)),
        "MarginalMeans.joint_test": Call(means.joint_test, dict(null=0.0)),
        "MarginalMeans.eff_size": Call(means.eff_size, dict(sigma=2.0, edf=5.0)),
        "MarginalMeans.cld": Call(means.cld, dict(alpha=0.1, adjust="none", type="response")),
        "MarginalMeans.regrid": Call(logs.regrid, dict(transform="log", bias_sigma=0.1)),
        "drop1": Call(lmm.drop1, dict(res=r, test="F", marginal=True, df_method=None)),
        "step": Call(
            lmm.step,
            dict(
                res=r, alpha_random=0.1, alpha_fixed=0.05, reduce_random=True, reduce_fixed=True,
                keep=["x"], df_method=None,
            ),
        ),
        "robust": Call(r.robust, dict(kind="CR2", cluster=g)),
        "robust wald_test": Call(r.robust().wald_test, dict(r_matrix=np.eye(2), test="HTZ")),
        "conf_int, named": Call(
            r.conf_int,
            dict(method="profile", level=0.9, scale="vcov", parm="scale", reml=False),
        ),
        "profile": Call(lmm.profile, dict(res=r, parm="sigma", scale="sdcor", reml=False)),
        "delta_method": Call(
            lmm.delta_method, dict(res=r, f=lambda p: p.scale, level=0.9, df_method=None)
        ),
        "hypotheses": Call(
            lmm.hypotheses,
            dict(res=r, hypothesis="x = 0", level=0.9, df_method=None, adjust="holm"),
        ),
        "f_test": Call(r.f_test, dict(r_matrix=np.eye(2))),
        "to_marginaleffects": Call(r.to_marginaleffects, dict(df=10.0)),
        "tidy": Call(
            r.tidy,
            dict(effects="ran_vals", conf_int=True, conf_level=0.9, df_method="kr", output=None),
        ),
        "summary": Call(
            r.summary, dict(yname="y", xname_fe=None, xname_re=None, title=None, alpha=0.05)
        ),
        "wald_test_terms": Call(r.wald_test_terms, dict(skip_single=False, df_method=None)),
        "profile_re": Call(
            r.profile_re,
            dict(re_ix=0, vtype="re", num_low=1, dist_low=0.1, num_high=1, dist_high=0.1),
        ),
        "profile_re of a component": Call(
            c.profile_re, dict(re_ix="s", vtype="vc", num_low=0, num_high=1)
        ),
        "ContrastResults.conf_int": Call(test.conf_int, dict(alpha=0.05)),
        "ContrastResults.summary_frame": Call(test.summary_frame, dict(xname=None, alpha=0.05)),
        "ContrastResults.summary": Call(test.summary, dict(xname=None, alpha=0.05, title=None)),
        "BootstrapResults.to_arviz": Call(boot.to_arviz, dict(scale="vcov")),
        "BootstrapResults.params": Call(boot.params, dict(scale="vcov")),
        "BootstrapResults.statistics": Call(boot.statistics, dict(scale="vcov")),
        "BootstrapResults.apply": Call(boot.apply, dict(fun=lambda at: at.scale, names=None)),
        "BootstrapResults.conf_int": Call(
            boot.conf_int, dict(kind="basic", alpha=0.1, scale="vcov")
        ),
        "BootstrapResults.tidy": Call(
            boot.tidy, dict(kind="basic", conf_level=0.9, scale="sdcor", output=None)
        ),
        "BootstrapResults.summary": Call(boot.summary, dict(kind="basic", alpha=0.1)),
        "BootstrapStatistics.conf_int": Call(
            boot.statistics().conf_int, dict(kind="normal", alpha=0.1)
        ),
        "BootstrapStatistics.tidy": Call(
            boot.statistics().tidy, dict(kind="normal", conf_level=0.9, output=None)
        ),
        "LMMResults.plot": Call(r.plot, dict(ax=None)),
        "ManyResults.t_test": Call(many.t_test, dict(r_matrix="x = 0", moderate=False)),
        "ManyResults.wald_test": Call(many.wald_test, dict(r_matrix="x = 0", moderate=False)),
        "ManyResults.emmeans": Call(
            many.emmeans,
            dict(specs="1", by=None, at={"x": [0.0]}, weights="equal", cov_reduce="mean",
                 level=0.9),
        ),
        "ManyTests.to_frame": Call(
            many.t_test("x = 0").to_frame, dict(conf_level=0.9, output=None)
        ),
        "ManyMeans.tests": Call(many.emmeans("1").tests, dict(moderate=False)),
        "ManyResults.tidy": Call(many.tidy, dict(conf_level=0.9, output=None)),
        "ManyResults.fdr": Call(many.fdr, dict(term="x")),
        "ManyResults.number": Call(many.number, dict(response=1)),
        "ManyResults.select": Call(many.select, dict(response=1)),
        "ManyResults.random_effects": Call(many.random_effects, dict(response=1)),
        "RegularizedResults.predict": Call(lasso.predict, dict(newdata=new)),
        "RegularizedResults.summary": Call(lasso.summary, dict(title=None)),
    }  # fmt: skip


# Public functions without arguments, and those that this file leaves to others.
ELSEWHERE = {
    "compiler_options",  # takes nothing
    "use_cache",  # changes the process: tests/test_arguments.py has its rows
}


def cases() -> Iterator[tuple[str, str, str]]:
    for name, call in made().items():
        for argument in call.good:
            for value in GARBAGE:
                if value == "2**31" and argument in COUNTS:
                    continue
                if (name, argument) in CALLED and value in ("function", "class"):
                    continue
                yield name, argument, value


@cache
def made() -> dict[str, Call]:
    return calls()


def outcome(name: str, argument: str, value: str) -> str | None:
    """What is wrong with the way a call ends; None if nothing is."""
    call = made()[name]
    given = call.good | {argument: GARBAGE[value]()}
    if (name, argument) == ("save", "path") and isinstance(given["path"], str):
        return None  # a good path
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with jax.enable_x64(True):
                call.function(**given)
    except (lmm.DataError, lmm.FormulaError) as error:
        text = str(error)
        return None if text and len(text) < 2000 else f"a message of {len(text)} characters"
    except ImportError as error:  # the extra that a call needs is named before all else
        return None if "pip install 'lmm-jax[" in str(error) else str(error)
    except OSError as error:
        return None if argument in PATHS else f"{type(error).__name__}: {error}"
    except Exception as error:
        said = str(error).splitlines() or [""]
        return f"{type(error).__name__}: {said[0][:120]}"
    return None


def failures(chosen: list[tuple[str, str, str]]) -> list[str]:
    out = []
    for case in chosen:
        wrong = outcome(*case)
        if wrong is not None:
            out.append("{}({}={}): ".format(*case) + wrong)
    return out


def test_garbage_is_refused_in_words():
    everything = list(cases())
    found = failures(random.Random(0).sample(everything, SAMPLE))
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_all_garbage_is_refused_in_words(part):
    found = failures(list(cases())[part::8])
    assert not found, "\n".join(found)


def test_every_public_function_is_tried():
    tried = {getattr(call.function, "__name__", "") for call in made().values()}
    functions = {
        name for name in lmm.__all__
        if inspect.isfunction(getattr(lmm, name)) and not name[0].isupper()
    }  # fmt: skip
    assert functions - tried <= ELSEWHERE
    classes = [lmm.LMMResults, lmm.ManyResults, lmm.BootstrapResults, lmm.RegularizedResults,
               lmm.MarginalMeans,
               type(fitted().t_test("x = 0")), type(made()["BootstrapStatistics.tidy"].function.__self__)]  # fmt: skip # noqa: E501
    for kind in classes:
        for name, member in inspect.getmembers(kind, inspect.isfunction):
            if not name.startswith("_") and len(inspect.signature(member).parameters) > 1:
                assert name in tried, f"{kind.__name__}.{name}"


@pytest.mark.parametrize("name", ["L2", "SmoothL1", "SmoothSCAD", "LogDet"])
def test_garbage_in_a_penalty_is_refused_by_the_fit(name):
    """Penalties are pytrees and hold anything; the fit that calls them looks."""
    fields = [f for f in inspect.signature(getattr(penalties, name)).parameters]
    good = {"weights": 0.1, "tau": 0.5, "c": 3.7, "eps": 1e-4, "weight": 0.5}
    option = "cov_pen" if name == "LogDet" else "fe_pen"
    numbers = {"True", "0", "1.5", "2**31", "2**63", "10**30", "jax array"}
    small = {"eps": {"0"}, "c": {"True", "0", "1.5", "jax array"}}
    for field in fields:
        for kind, value in GARBAGE.items():
            penalty = getattr(penalties, name)(**{f: good[f] for f in fields} | {field: value()})
            call = partial(lmm.fit, design(), maxiter=0, **{option: penalty})
            if kind in numbers - small.get(field, set()):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    told = outcome_of(call)
                assert told is None or "shape" in told, (field, kind, told)
            else:
                with pytest.raises(lmm.DataError):
                    call()


def outcome_of(call):
    """The message of a refusal; None if there is none."""
    try:
        call()
    except lmm.DataError as error:
        return str(error)
