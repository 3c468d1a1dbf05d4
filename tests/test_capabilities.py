"""Every function with every kind of model: the right answer, or the refusal of the table.

Rows: functions of `capabilities.TABLE`. Columns: its kinds. A function that does not refuse a
kind is compared with another way to the same answer.
"""

import pickle
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import samples
import scipy.linalg
from dense_robust import dense, level_columns, working_covariance
from helpers import assert_close
from sparse_plan import make_sparse

import lmm_jax as lmm
import lmm_jax.layouts.crossed.layout as crossed
from lmm_jax.capabilities import KINDS, TABLE
from lmm_jax.neighbours.marginal_effects import covariance, fixed_part
from lmm_jax.penalties import L2

RTOL = 1e-9  # two routes through float64 to one number
TOL = 1e-6  # two optimizations of one criterion
DRAWS = 60  # replicates: a standard deviation of them is within 25 % of its own, nearly always

P = lmm.Params.from_components
DATA = samples.frame()
PAGE = Path(__file__).parents[1] / "docs" / "supported.md"
X = DATA[["x"]].assign(one=1.0)[["one", "x"]]
HELD = 0.5  # value of the coefficient of x that is held


class Model(NamedTuple):
    """A fit, the design it comes from, and the rows as a frame."""

    fit: lmm.LMMResults
    design: lmm.Design
    data: pd.DataFrame


def made(formula: str = "y ~ x + (1 | g)", data: pd.DataFrame = DATA, **options: Any) -> Model:
    design = lmm.design(formula, data, **options)
    return Model(lmm.fit(design), design, data)


def with_options(**options: Any) -> Model:
    fit = lmm.fit("y ~ x + (1 | g)", DATA, **options)
    return Model(fit, fit.design, DATA)


def dropped() -> Model:
    with pytest.warns(lmm.RankWarning):
        return made("y ~ x + I(2 * x) + (1 | g)")


def approximate() -> Model:
    fit = lmm.fit("y ~ x + (1 | g) + (1 | s)", DATA, approximate=True)
    return Model(fit, fit.design, DATA)


def arrays() -> Model:
    design = lmm.design_from_arrays(DATA["y"], X, DATA["g"])
    return Model(lmm.fit(design), design, DATA)


def batches() -> Model:
    parts = [DATA[i : i + 20] for i in range(0, 60, 20)]
    design = lmm.design_from_batches("y ~ x + (1 | g)", parts)
    return Model(lmm.fit(design), design, DATA)


def held_covariance() -> Model:
    free = P(fe_params=[1, 1], cov_re=[[0]])
    return with_options(free=free, start_params=P(fe_params=[0, 0], cov_re=[[0.8]]))


def held_effects() -> Model:
    free = P(fe_params=[1, 0], cov_re=[[1]])
    return with_options(free=free, start_params=P(fe_params=[0, HELD], cov_re=[[1.0]]))


def means() -> Model:
    fit = lmm.fit("y ~ x + (1 | g) + expo(fitted(.))", DATA)
    return Model(fit, fit.design, DATA)


def related() -> pd.DataFrame:
    """Pairs of groups that are sibs, each with a sib that has no rows."""
    ids = [f"g{i}" for i in range(10)] + [f"new{i}" for i in range(5)]
    family = np.array([i // 2 for i in range(10)] + list(range(5)))
    A = 0.5 * (family[:, None] == family[None]) + 0.5 * np.eye(15)
    return pd.DataFrame(A, ids, ids)


MAKE = {
    "weighted": lambda: made(weights="w"),
    "offset": lambda: made(offset="o"),
    "dropped": dropped,
    "components": lambda: made("y ~ x", groups="g", re_formula="1", vc_formula={"s": "0 + C(s)"}),
    "structured": lambda: made("y ~ x + cs(1 + x | g, hom=True)"),
    "residual": lambda: made("y ~ x + (1 | g) + diag(h)", DATA.assign(h=DATA.index % 2)),
    "means": means,
    "nested": lambda: made("y ~ x + (1 | g / s)"),
    "crossed": lambda: made("y ~ x + (1 | g) + (1 | s)"),
    "large core": lambda: made("y ~ x + (1 | g) + (1 | s)"),
    "sparse": lambda: made("y ~ x + (1 | g) + (1 | s)", DATA.copy()),
    "approximate": approximate,
    "related": lambda: made(relatedness={"g": related()}),
    "arrays": arrays,
    "batches": batches,
    "held effects": held_effects,
    "sigma": lambda: made(sigma=1.1),
    "held covariances": held_covariance,
    "penalized": lambda: with_options(fe_pen=L2(weights=np.array(0.1))),
    "ml": lambda: with_options(reml=False),
    "saved": lambda: made()._replace(fit=pickle.loads(pickle.dumps(made().fit))),
    "without data": lambda: made()._replace(fit=made().fit.without_data()),
}


@cache
def model(kind: str) -> Model:
    return MAKE[kind]()


@cache
def by_offset() -> Model:
    """The model with the held part of the mean as an offset: the same layout another way."""
    return made("y ~ 1 + (1 | g)", DATA.assign(k=HELD * DATA["x"]), offset="k")


# ------------------------------------------------------------ each function another way


def check_fit(m: Model, kind: str) -> None:
    again = lmm.fit(m.design)
    assert again.converged
    if kind not in ("penalized", "held covariances"):  # these are no part of a design
        assert_close(again.params, m.fit.params, TOL, 1)
        assert_close(again.llf, m.fit.llf, RTOL)
        assert again.n_params == m.fit.n_params


def check_free(m: Model, kind: str) -> None:
    """Holding x at its estimate changes nothing, holding the intercept too leaves none free."""
    p = len(m.fit.fixed_names)
    sizes = [len(term.names) for term in m.design.terms if not term.is_component]
    cov, vcomp = np.eye(sum(sizes)), np.ones(m.design.n_components)
    free = P(fe_params=[1] + [0] * (p - 1), cov_re=cov, vcomp=vcomp)
    start = P(fe_params=lmm.fit(m.design).fe_params, cov_re=cov, vcomp=vcomp)
    held = lmm.fit(m.design, free=free, start_params=start, reml=False)
    plain = lmm.fit(m.design, reml=False)
    assert held.fe_params.iloc[-1] == start.fe_params[-1]
    assert held.llf <= plain.llf + 1e-8 or kind == "means"  # fits of two sets of variances
    assert plain.llf - held.llf < 0.2  # REML's estimate is close to that of ML
    assert held.n_params == 1 + (kind != "sigma") + m.fit.theta.size


def check_start_params(m: Model, kind: str) -> None:
    """The optimum does not depend on where the search starts."""
    sizes = [len(term.names) for term in m.design.terms if not term.is_component]
    start = P(
        fe_params=np.zeros(len(m.fit.fixed_names)),
        cov_re=2.0 * np.eye(sum(sizes)),
        vcomp=np.full(m.design.n_components, 0.5),
    )
    again = lmm.fit(m.design, start_params=start)
    assert_close(again.llf, lmm.fit(m.design).llf, 1e-8)


def check_penalty(m: Model, kind: str) -> None:
    """A penalty of nothing: the plain fit by another road."""
    got, plain = lmm.fit(m.design, cov_pen=lambda S: 0.0 * jnp.sum(S)), lmm.fit(m.design)
    assert_close(got.llf, plain.llf, 1e-8)
    assert_close(got.fe_params, plain.fe_params, TOL, 1)


def check_fit_many(m: Model, kind: str) -> None:
    Y = np.column_stack([m.design.endog, m.design.endog[::-1]])
    many, one = lmm.fit_many(m.design, Y, progress=False), lmm.fit(m.design)
    assert_close(many.llf[0], one.llf, RTOL)
    assert_close(many.fe_params[0], one.fe_params, TOL, 1)
    assert_close(many.bse_fe[0], one.bse_fe, TOL, 1)
    assert_close(many.df[0], one.df, 1e-4)
    assert_close(many.pvalues[0], one.pvalues, 1e-4, 1e-3)
    second = many.select(1)
    assert_close(many.fe_params[1], second.fe_params, TOL, 1)
    assert_close(many.llf[1], second.llf, RTOL)


def check_fit_many_with_gaps(m: Model, kind: str) -> None:
    y = m.design.endog.copy()
    y[::7] = np.nan
    many = lmm.fit_many(m.design, y, progress=False)
    assert_close(many.fe_params[0], many.select(0).fe_params, TOL, 1)
    assert_close(many.llf[0], many.select(0).llf, RTOL)


def check_fit_regularized(m: Model, kind: str) -> None:
    path = lmm.fit_regularized(m.design, alpha=0.0)
    assert_close(path.fe_params, lmm.fit(m.design).fe_params, TOL, 1)


def check_bootstrap(m: Model, kind: str) -> None:
    boot = lmm.bootstrap(m.fit, DRAWS, seed=3)
    assert boot.n_failed == 0
    spread = boot.params().std()[list(m.fit.fixed_names)].to_numpy()
    error = m.fit.bse_fe.to_numpy()
    assert (np.abs(np.log(spread[error > 0] / error[error > 0])) < np.log(1.5)).all()
    if kind == "held effects":
        same = lmm.bootstrap(by_offset().fit, DRAWS, seed=3).params()
        assert_close(boot.params()["Intercept"], same["Intercept"], TOL, 1)
        assert (boot.params()["x"] == HELD).all()


def check_power(m: Model, kind: str) -> None:
    free = 0 if kind == "held effects" else -1
    name = m.design.exog_names[free]
    truth = P(
        fe_params=lmm.fit(m.design).fe_params,
        cov_re=np.eye(sum(not t.is_component for t in m.design.terms)),
        vcomp=np.ones(m.design.n_components),
    )
    given = dict(test=name, seed=2, scale=1.0, effects=[0.0, 30.0])
    if kind == "residual":
        truth, given["scale"] = m.fit, None
    elif kind == "sigma":
        del given["scale"]  # the design knows it
    table = lmm.power(m.design, truth, DRAWS, **given)
    assert table["power"].iloc[0] < 0.25 and table["power"].iloc[1] == 1.0
    if kind == "held effects":
        rest = P(fe_params=truth.fe_params[:1], cov_re=truth.cov_re)
        given["effects"] = [0.0, 0.5, 1.0]
        same = lmm.power(by_offset().design, rest, DRAWS, **given)
        pd.testing.assert_frame_equal(lmm.power(m.design, truth, DRAWS, **given), same)


def check_simulate(m: Model, kind: str) -> None:
    y = lmm.simulate(
        m.fit if kind not in ("saved", "without data") else made().fit, m.design, seed=1, n=400
    )
    mean = m.design.exog @ m.fit.fe_params.to_numpy()
    mean = mean if m.design.offset is None else mean + m.design.offset
    spread = y.to_numpy().std(axis=1) / np.sqrt(400)
    assert (np.abs(y.to_numpy().mean(axis=1) - mean) < 5 * spread).all()


def check_influence(m: Model, kind: str) -> None:
    """Against a fit without the last group."""
    last = DATA["g"].iloc[-1]
    keep = (m.data["g"] != last).to_numpy()
    by_factor = kind in (*CROSSED, "related")
    found = lmm.influence(m.fit, "g" if by_factor else "group")
    if kind == "arrays":
        rest = lmm.fit(lmm.design_from_arrays(DATA["y"][keep], X[keep], DATA["g"][keep]))
    else:
        options = {
            "weighted": {"weights": "w"},
            "offset": {"offset": "o"},
            "components": {"groups": "g", "re_formula": "1", "vc_formula": {"s": "0 + C(s)"}},
            "related": {"relatedness": {"g": related()}},
        }.get(kind, {})
        rest = lmm.fit(m.design.source.formula if kind != "dropped" else "y ~ x + (1 | g)",
                       m.data[keep], **options)  # fmt: skip
    got = found.params.loc[last][list(rest.fe_params.index)].to_numpy()
    assert (np.abs(got - rest.fe_params) < 0.2 * rest.bse_fe).all()


def row_weights(m: Model) -> np.ndarray:
    """Over sigma^2 they are what the residuals of the rows have for their variance."""
    if m.fit._is_kind("means"):
        return np.exp(-2 * m.fit.residual_params["expo"] * m.fit.fittedvalues.to_numpy())
    sd = m.fit.residual_params.to_numpy()
    if sd.size:
        return (m.fit.sigma / sd[DATA.index % 2]) ** 2
    w = None if m.design.weights is None else m.design.weights
    return np.ones(60) if w is None else w


def variance_parts(m: Model) -> np.ndarray:
    """Variances of X beta, of every random term and of the residual, row by row."""
    gone = m.fit.design is None or not m.design.has_rows
    design = made().design if gone else m.design
    values = [np.var(design.exog @ m.fit.estimates.beta, ddof=1)]
    for term, S in zip(design.terms, m.fit.estimates.covariances, strict=True):
        Z = level_columns(term)
        values.append(np.einsum("nla,ab,nlb->n", Z, S, Z).mean())
    several = m.fit.residual_params.size > 0
    return np.array(
        [*values, m.fit.scale * np.mean(1 / row_weights(m)) if several else m.fit.scale]
    )


def check_r2(m: Model, kind: str) -> None:
    parts, found = variance_parts(m), lmm.r2(m.fit)
    assert_close(found.marginal, parts[0] / parts.sum(), RTOL)
    assert_close(found.conditional, 1 - parts[-1] / parts.sum(), RTOL)
    glance = m.fit.glance().iloc[0]
    assert_close([glance["r2_marginal"], glance["r2_conditional"]],
                 [found.marginal, found.conditional], RTOL)  # fmt: skip
    if kind != "dropped":  # there x has two terms
        assert_close(found.per_term["estimate"], [found.marginal], RTOL)
    assert found.table.notna().all(axis=None)


def check_icc(m: Model, kind: str) -> None:
    parts, found = variance_parts(m), lmm.icc(m.fit)
    assert_close(found.adjusted, parts[1:-1].sum() / parts[1:].sum(), RTOL)
    assert_close(found.unadjusted, parts[1:-1].sum() / parts.sum(), RTOL)
    assert_close(found.by_group["estimate"].sum(), found.adjusted, RTOL)


def check_variance_components(m: Model, kind: str) -> None:
    parts, found = variance_parts(m), lmm.variance_components(m.fit)
    assert_close(found["variance"], parts, RTOL)
    assert_close(found["share"], parts / parts.sum(), RTOL)


def check_heritability(m: Model, kind: str) -> None:
    """The share of one factor in what the fixed effects leave."""
    parts, labels = variance_parts(m), m.fit.term_labels
    found = lmm.heritability(m.fit, additive=labels[0].factor)
    own = [1 + t for t, label in enumerate(labels) if label.factor == labels[0].factor]
    assert_close(found.estimate, parts[own].sum() / parts[1:].sum(), RTOL)
    assert_close(found.table["share"], parts[1:] / parts[1:].sum(), RTOL)
    assert found.conf_low <= found.estimate <= found.conf_high  # equal where the ratio is held
    if kind == "related":
        assert_close(lmm.heritability(m.fit).estimate, found.estimate, 0)


def check_vif(m: Model, kind: str) -> None:
    """One covariate has nothing to be collinear with."""
    found = lmm.vif(m.fit)
    assert list(found.index) == ([] if kind == "held effects" else ["x"])
    assert_close(found["vif"], np.ones(len(found)), RTOL)


def check_caic(m: Model, kind: str) -> None:
    """The trace against a dense hat matrix; tests/test_measures.py has the correction."""
    design, r, found = m.design, m.fit, lmm.caic(m.fit)
    w = np.ones(design.nobs) if design.weights is None else design.weights
    X, Vi = design.free_exog(), np.linalg.inv(working_covariance(r))
    P = Vi - Vi @ X @ np.linalg.solve(X.T @ Vi @ X, X.T @ Vi)
    assert_close(found.trace, design.nobs - np.trace(P / w[:, None]), RTOL)
    llf = -0.5 * np.sum(np.log(2 * np.pi * r.scale / w) + w * r.resid**2 / r.scale)
    assert_close(found.llf, llf, RTOL)
    assert_close(found.caic, -2 * llf + 2 * (found.trace + found.correction + 1), RTOL)


def check_profile_re(m: Model, kind: str) -> None:
    name, vtype = (0, "re")
    curve = m.fit.profile_re(name, vtype, 1, 0.1, 2, 0.5)
    assert_close(curve[1, 1], m.fit.llf, 1e-8)
    assert (curve[:, 1] <= m.fit.llf + 1e-8).all()
    if kind == "held effects":
        assert_close(curve, by_offset().fit.profile_re(name, vtype, 1, 0.1, 2, 0.5), TOL)


def check_profile(m: Model, kind: str) -> None:
    """At both ends of an interval the maximum over the rest has fallen by half of q^2."""
    found = m.fit.conf_int(method="profile", level=0.8, reml=kind == "arrays")
    assert found.notna().all(axis=None)
    name = "sigma" if kind != "sigma" else "sd(Intercept|g)"  # what is known has no curve
    curve = lmm.profile(m.fit, name, reml=kind == "arrays")
    assert_close(curve.conf_int(level=0.8).loc[name], found.loc[name], TOL)
    if kind == "held effects":
        assert found.loc["x"].tolist() == [HELD, HELD]
        same = by_offset().fit.conf_int(method="profile", level=0.8)
        assert_close(found.drop(index="x"), same, TOL, 1)
    elif kind in ("dropped", "batches", "ml", "large core", "sparse"):
        model = "y ~ x + (1 | g)" + (" + (1 | s)" if kind in ("large core", "sparse") else "")
        same = made(model).fit.conf_int(method="profile", level=0.8)
        assert_close(found, same, TOL, 1)
    elif kind == "approximate":  # the likelihood of which is known to 1e-3
        same = made("y ~ x + (1 | g) + (1 | s)").fit.conf_int(method="profile", level=0.8)
        assert_close(found, same, 1e-3, 1)
    elif kind == "offset":
        moved = made("y ~ x + (1 | g)", DATA.assign(y=DATA["y"] - DATA["o"]))
        assert_close(found, moved.fit.conf_int(method="profile", level=0.8), TOL, 1)
    elif kind != "arrays":  # a fixed effect is held by free=
        upper = found.loc["x", "upper"]
        plain = lmm.fit(m.design, reml=False)
        if kind != "structured":
            held = held_at(m, upper)
            q = 1.2815515655446004  # normal quantile of 0.9
            assert_close(2 * (plain.llf - held.llf), q * q, 1e-5)


def held_at(m: Model, value: float) -> lmm.LMMResults:
    sizes = [len(term.names) for term in m.design.terms if not term.is_component]
    cov, vcomp = np.eye(sum(sizes)), np.ones(m.design.n_components)
    free = P(fe_params=[1, 0], cov_re=cov * 0 + 1, vcomp=vcomp)
    start = P(fe_params=[0, value], cov_re=cov, vcomp=vcomp)
    return lmm.fit(m.design, free=free, start_params=start, reml=False)


def check_kenward_roger(m: Model, kind: str) -> None:
    """The formulas in dense matrices, with the entries of every covariance for parameters."""
    if kind == "means":  # the variances are those of a covariate
        column = lmm.fit("y ~ x + (1 | g) + expo(mu)", DATA.assign(mu=m.fit.fittedvalues))
        mine, other = (one.with_df("kr").tidy("fixed") for one in (m.fit, column))
        assert_close(mine.drop(columns=["effect", "term"]), other.drop(columns=["effect", "term"]),
                     TOL, 1)  # fmt: skip
        return
    design = made().design if kind == "batches" else m.design
    X, estimates = design.free_exog(), m.fit.estimates
    noise = np.diag(1.0 / row_weights(m))
    V, parts = m.fit.scale * noise, [noise]
    if kind == "residual":  # a variance for every stratum
        parts = [np.diag(1.0 * (DATA.index % 2 == k)) for k in (0, 1)]
    if kind == "sigma":
        parts = []
    for term, S in zip(design.terms, estimates.covariances, strict=True):
        Z = level_columns(term)
        V = V + np.einsum("nla,ab,mlb->nm", Z, S, Z)
        parts += [np.einsum("nla,ab,mlb->nm", Z, E, Z) for E in term.structure.directions]
    Vi = np.linalg.inv(V)
    Phi = np.linalg.inv(X.T @ Vi @ X)
    P = [X.T @ Vi @ Vk @ Vi @ X for Vk in parts]
    Q = [[X.T @ Vi @ Vk @ Vi @ Vl @ Vi @ X for Vl in parts] for Vk in parts]
    M = Vi - Vi @ X @ Phi @ X.T @ Vi
    W = np.linalg.inv([[0.5 * np.trace(M @ Vk @ M @ Vl) for Vl in parts] for Vk in parts])
    if kind == "residual":  # as SAS: the observed information
        e = M @ design.endog
        W = [
            [e @ Vk @ M @ Vl @ e - 0.5 * np.trace(M @ Vk @ M @ Vl) for Vl in parts] for Vk in parts
        ]
        W = np.linalg.inv(W)
    pairs = [(k, j) for k in range(len(parts)) for j in range(len(parts))]
    middle = sum(W[k, j] * (Q[k][j] - P[k] @ Phi @ P[j]) for k, j in pairs)
    variance = np.diagonal(Phi + 2 * Phi @ middle @ Phi)
    d = np.array([np.diagonal(Phi @ Pk @ Phi) for Pk in P]) / np.diagonal(Phi)
    df = 2.0 / np.einsum("kj,kl,lj->j", d, W, d)
    adjusted = m.fit.with_df("kenward-roger")
    free = slice(None) if design.held is None else np.isnan(design.held)
    assert_close(adjusted.bse_fe.to_numpy()[free], np.sqrt(variance), TOL)
    assert_close(adjusted.df.to_numpy()[free], df, TOL)


def check_between_within(m: Model, kind: str) -> None:
    """Subjects less the intercept, and the rest of the rows less x."""
    inner = max(len(t.levels) for t in m.design.terms)
    df = m.fit.with_df("between-within").df
    assert df["Intercept" if kind != "arrays" else "one"] == m.design.n_groups - 1
    assert df["x"] == (np.inf if kind == "held effects" else m.design.nobs - inner - 1)


def check_emmeans(m: Model, kind: str) -> None:
    """The mean at the mean of x; its slope."""
    overall, r = lmm.emmeans(m.fit, "1"), m.fit
    row = np.array([1.0, DATA["x"].mean()])
    offset = DATA["o"].mean() if kind == "offset" else 0.0
    assert_close(overall.at.estimate, [row @ r.fe_params + offset], RTOL, 1)
    expected = r.t_test(row[None])
    assert_close(overall.at.std_error, expected.sd, RTOL, 1)
    if kind != "dropped":  # there x has two coefficients
        trend = lmm.emtrends(r, "1", "x")
        assert_close(trend.at.estimate, [r.fe_params.iloc[1]], 1e-8)
    assert list(lmm.joint_tests(r)["term"]) == ["x"]


def check_to_marginaleffects(m: Model, kind: str) -> None:
    """What it hands over, without the package: means of rows and their covariance."""
    part = fixed_part(m.fit, m.fit.basis.rows)
    assert_close(part[:, :-1] @ m.fit.fe_params + part[:, -1], m.fit.predict(), RTOL, 1)
    assert_close(np.diagonal(covariance(m.fit, True)), m.fit.bse_fe**2, RTOL)


def check_emmeans_of_many(m: Model, kind: str) -> None:
    """The first response is that of the design."""
    if kind in ("batches", "means"):
        return  # fit_many refuses them
    many = lmm.fit_many(m.design, m.design.endog[:, None], progress=False)
    found = many.emmeans("1").tests()
    expected = lmm.emmeans(lmm.fit(m.design), "1")
    assert_close(found.estimate[0], expected.at.estimate, TOL, 1)
    assert_close(found.std_error[0], expected.at.std_error, TOL, 1)


def check_anova(m: Model, kind: str) -> None:
    """One covariate, which nothing contains: its F is the square of its t, whatever the type."""
    t = m.fit.t_test("x = 0")
    for number in (1, 2, 3):
        table = m.fit.anova(number)
        assert list(table.index)[:1] == ["x"] and len(table) == 1 + (kind == "dropped")
        assert_close(table.loc["x", "f"], t.statistic[0] ** 2, 1e-8)
        assert_close(table.loc["x", "p_value"], t.pvalue[0], 1e-8)


def check_comparisons(m: Model, kind: str) -> None:
    """Leaving out x is a fit by ML without it."""
    one = lmm.drop1(m.fit, "chisq") if kind != "held effects" else lmm.ranova(m.fit)
    assert np.isfinite(one.iloc[1:]["chisq"]).all() or kind == "dropped"
    table = lmm.ranova(m.fit)
    assert len(table) == 1 + sum(
        max(1, len([n for n in t.names if n != "Intercept"])) for t in m.design.terms
    )
    assert (table["chisq"].iloc[1:] > -1e-6).all()


def check_robust(m: Model, kind: str) -> None:
    """Of the independent groups, by dense matrices."""
    compare_robust(m.fit, m.design.group_codes, None)


def check_robust_with_cluster(m: Model, kind: str) -> None:
    """Of pairs of groups; the crossed factor has levels of its own in each."""
    pair = np.arange(len(DATA)) // 12
    if kind in CROSSED:
        data = DATA.assign(s=DATA["s"] + pair.astype(str))
        m = made("y ~ x + (1 | g) + (1 | s)", data)
    compare_robust(m.fit, pair, pair)


def compare_robust(fit: lmm.LMMResults, clusters: np.ndarray, given: Any) -> None:
    expected, result = dense(fit, "CR2", clusters), fit.robust("CR2", given)
    free = slice(None) if fit.design.held is None else np.isnan(fit.design.held)
    assert_close(result.bse_fe.to_numpy()[free], np.sqrt(np.diagonal(expected.cov)), TOL)
    df = [expected.df(row) for row in np.eye(len(expected.cov))]
    assert_close(result.df.to_numpy()[free], df, TOL)


def check_wald_test_terms(m: Model, kind: str) -> None:
    table = m.fit.wald_test_terms()
    for row, name in enumerate(m.fit.fixed_names):  # every term has one coefficient here
        expected = m.fit.wald_test(np.eye(len(m.fit.fixed_names))[row])
        assert_close(table["statistic"].iloc[row], expected.statistic, RTOL)
        alone = m.fit.t_test(f"{name} = 0")
        assert_close(table["p_value"].iloc[row], alone.pvalue[0], 1e-8)
    if kind == "held effects":
        assert np.isnan(table["p_value"].to_numpy()).tolist() == [False, True]


def check_random_effects(m: Model, kind: str) -> None:
    """Their sum over the rows is what the fitted values have beside the fixed part."""
    total = np.zeros(len(DATA))
    for term in m.design.terms:
        frame = m.fit.random_effects[term.group]
        if term.is_component or kind in ("batches", "saved"):
            continue
        values = frame.to_numpy()[term.codes[:, 0]]
        total += np.einsum("nk,nk->n", values, term.values[:, 0])
    if kind in ("batches", "saved"):
        same = made().fit.random_effects["g"]
        assert_close(m.fit.random_effects["g"], same, TOL, 1)
    elif kind != "components":
        assert_close(m.fit.fittedvalues - m.fit.predict(), total, RTOL, 1)


def check_random_effects_cov(m: Model, kind: str) -> None:
    """Of a balanced random intercept: ``psi (1 - f)`` with f its share of what is known."""
    for per_level in m.fit.random_effects_cov.values():
        for S in list(per_level.values())[:3]:
            assert (np.linalg.eigvalsh(S.to_numpy()) >= -1e-12).all()
    if kind in ("held effects", "offset", "arrays", "batches", "dropped", "saved"):
        psi, s2 = float(m.fit.cov_re.iloc[0, 0]), m.fit.scale
        first = next(iter(next(iter(m.fit.random_effects_cov.values())).values()))
        assert_close(first.to_numpy()[0, 0], psi * s2 / (s2 + 6 * psi), 1e-8)


def check_joint_effects_cov(m: Model, kind: str) -> None:
    """Of one level it is the covariance of that level, of which components are a part."""
    for factor, per_level in m.fit.random_effects_cov.items():
        level, S = next(iter(per_level.items()))
        found = m.fit.joint_effects_cov({factor: level})
        assert_close(found, S.iloc[: len(found), : len(found)], 1e-10)


def check_given_beta(m: Model, kind: str) -> None:
    """The error of the fixed effects comes on top, if there is any."""
    if len(m.fit.fe_params) == 0:
        return
    frames = [m.fit.random_effects_frame(given_beta=known) for known in (True, False)]
    known, both = (frame["std_error"].to_numpy() for frame in frames)
    assert (both >= known * (1.0 - 1e-12)).all() and (both > known).any()


def check_layout_info(m: Model, kind: str) -> None:
    expected = (
        {"large core": "crossed"}
        | {name: name for name in ("crossed", "residual", "sparse")}
        | {"approximate": "matrix-free", "means": "residual"}
    )
    assert m.fit.layout_info.kind == expected.get(kind, "grouped")


def check_coef(m: Model, kind: str) -> None:
    """Fixed effects beside the random ones of every factor."""
    for factor, frame in m.fit.coef().items():
        random = m.fit.random_effects[factor]
        for name in frame:
            both = random.get(name, 0.0) + m.fit.fe_params.get(name, 0.0)
            assert_close(frame[name], both + 0.0 * frame[name], RTOL, 1)
    assert list(m.fit.coef()) == [t.group for t in m.design.terms if not t.is_component]


def check_predict(m: Model, kind: str) -> None:
    found = m.fit.predict(m.data, interval="confidence")
    test = m.fit.t_test(m.fit.model_matrix(m.data).to_numpy())
    assert_close(found["fit"], m.fit.predict(m.data), RTOL, 1)
    assert_close(found["std_error"], test.sd, RTOL)
    limits = test.conf_int() - test.effect[:, None]
    assert_close(found[["lower", "upper"]].sub(found["fit"], axis=0), limits, RTOL, 1)
    if kind in ("batches", "saved"):
        assert_close(m.fit.predict(DATA), made().fit.predict(DATA), TOL, 1)
        return
    conditional = m.fit.predict(m.data, conditional=True)
    assert_close(conditional, m.fit.fittedvalues, RTOL, 1)
    assert_close(m.fit.predict(m.data), m.fit.predict(), RTOL, 1)


def check_predict_without_newdata(m: Model, kind: str) -> None:
    mean = m.design.exog @ m.fit.fe_params.to_numpy()
    mean = mean if m.design.offset is None else mean + m.design.offset
    if kind == "held effects":
        mean = by_offset().fit.predict()
    assert_close(m.fit.predict(), mean, TOL if kind == "held effects" else RTOL, 1)


def check_conditional_errors(m: Model, kind: str) -> None:
    """Henderson's equations in ``b = Lambda u``, of the fixed effects that are free."""
    design = made().design if kind == "batches" else m.design
    X, w, parts = design.free_exog(), row_weights(m), [design.free_exog()]
    for term, factor in zip(design.terms, m.fit.estimates.factors, strict=True):
        parts.append(np.einsum("nla,ab->nlb", level_columns(term), factor).reshape(60, -1))
    C = np.hstack(parts)
    ridge = np.diag(np.repeat([0.0, 1.0], [X.shape[1], C.shape[1] - X.shape[1]]))
    if kind == "penalized":  # Phi is that of the penalized fit
        G = C[:, X.shape[1] :]
        H = np.linalg.inv(np.eye(G.shape[1]) + G.T * w @ G)
        left = X - G @ H @ (G.T * w @ X)
        inner = np.einsum("ni,ij,nj->n", G, H, G)
        expected = inner + np.einsum("ni,ij,nj->n", left, m.fit.estimates.cov_beta, left)
    else:
        expected = np.einsum("ni,ij,nj->n", C, np.linalg.inv(C.T * w @ C + ridge), C)
    new = None if kind == "arrays" else m.data
    found = m.fit.predict(new, conditional=True, se=True)["std_error"]
    assert_close(found, m.fit.sigma * np.sqrt(expected), TOL)


def check_model_matrix(m: Model, kind: str) -> None:
    X = m.fit.model_matrix(m.data)
    assert_close(X @ m.fit.fe_params, m.fit.predict(m.data.assign(o=0.0)), RTOL, 1)
    if kind not in ("batches", "saved"):
        assert_close(X, m.fit.model_matrix(), RTOL, 1)


def check_model_matrix_without_newdata(m: Model, kind: str) -> None:
    assert_close(m.fit.model_matrix(), m.design.exog, 0)


def check_resid(m: Model, kind: str) -> None:
    """Raw ones; whitened ones have sigma^2 for their mean square, at the fixed effects' optimum."""
    check_fittedvalues(m, kind)
    w, unit = row_weights(m), m.fit.sigma if kind in ("residual", "means") else 1.0
    assert_close(m.fit.resid("pearson"), np.sqrt(w) * m.fit.resid / unit, RTOL, 1)
    assert_close(m.fit.resid("marginal"), m.design.endog - m.fit.predict(), RTOL, 1)
    if kind == "sigma":
        r, V = m.design.endog - m.fit.predict(), m.fit.scale * np.eye(60)
        for term, S in zip(m.design.terms, m.fit.estimates.covariances, strict=True):
            Z = level_columns(term)
            V = V + np.einsum("nla,ab,mlb->nm", Z, S, Z)
        assert_close((m.fit.resid("whitened") ** 2).sum(), r @ np.linalg.solve(V, r), 1e-8)
    elif kind != "penalized":
        free = m.design.free_exog().shape[1] if m.fit.reml else 0
        assert_close((m.fit.resid("whitened") ** 2).sum(), 60 - free, 1e-8)
    se = m.fit.predict(conditional=True, se=True)["std_error"]
    left = m.fit.sigma * np.sqrt(1 - w * se**2 / m.fit.scale)
    assert_close(m.fit.resid("standardized"), unit * m.fit.resid("pearson") / left, 1e-8, 1)


def check_simulate_residuals(m: Model, kind: str) -> None:
    found = lmm.simulate_residuals(m.fit, 60, seed=2)
    assert_close(found.observed, m.design.endog, 0)
    assert_close(found.fitted, m.fit.predict(), RTOL, 1)
    draws = lmm.simulate(m.fit, seed=2, n=60).to_numpy()
    assert_close(found.scaled, (draws < m.design.endog[:, None]).mean(axis=1), RTOL, 1)


def check_fittedvalues(m: Model, kind: str) -> None:
    resid = made().fit.resid if kind == "saved" else m.fit.resid
    assert_close(m.fit.fittedvalues + resid, m.design.endog, RTOL, 1)
    if kind == "held effects":
        assert_close(m.fit.fittedvalues, by_offset().fit.fittedvalues, TOL, 1)


def check_augment(m: Model, kind: str) -> None:
    table = m.fit.augment()
    assert_close(table["fitted"] + table["resid"], m.design.endog, RTOL, 1)
    assert_close(table["fixed"], m.fit.predict(), RTOL, 1)


def check_conditional_means(m: Model, kind: str) -> None:
    """Without correlated residuals these are the fitted values, whose data are not asked for."""
    if kind not in ("arrays", "saved", "without data", "batches"):
        assert_close(m.fit.predict(m.data, conditional=True), m.fit.fittedvalues, RTOL, 1)


def check_functions_of_params(m: Model, kind: str) -> None:
    """At the estimates the likelihood is that of the fit."""
    e = m.fit.estimates
    if kind == "structured":
        return  # Params stand for covariances of any structure
    correlated = [S / e.scale for S, t in zip(e.covariances, m.design.terms, strict=True)
                  if not t.is_component]  # fmt: skip
    vcomp = [S[0, 0] / e.scale for S, t in zip(e.covariances, m.design.terms, strict=True)
             if t.is_component]  # fmt: skip
    params = P(cov_re=scipy.linalg.block_diag(*correlated), vcomp=vcomp)
    with jax.enable_x64(True):
        assert_close(lmm.loglike(params, m.design.layout), m.fit.llf, RTOL)


def check_fit_params(m: Model, kind: str) -> None:
    with jax.enable_x64(True):
        out = jax.jit(lmm.fit_params)(m.design.layout)
    assert bool(out.converged)
    assert_close(out.llf, lmm.fit(m.design).llf, 1e-8)


def check_get_random_effects(m: Model, kind: str) -> None:
    if m.design.is_related or kind == "batches":
        return  # no index of rows, or no rows
    with jax.enable_x64(True):
        params = P(cov_re=m.fit.cov_re_unscaled, vcomp=np.asarray(m.fit.vcomp) / m.fit.scale)
        index = lmm.row_index(m.design)
        found = lmm.get_random_effects(params, m.design.layout, index)
    rows = [
        np.sum(t.values * np.asarray(b), axis=(1, 2))
        for t, b in zip(m.design.terms, found, strict=True)
    ]
    expected = m.fit.predict(conditional=True) - m.fit.predict(conditional=False)
    assert_close(sum(rows), expected, 1e-8, 1)


def check_start_of_fit_params(m: Model, kind: str) -> None:
    sizes = [len(term.names) for term in m.design.terms if not term.is_component]
    with jax.enable_x64(True):
        start = P(cov_re=2.0 * np.eye(sum(sizes)), vcomp=np.full(m.design.n_components, 0.5))
        out = jax.jit(lmm.fit_params)(m.design.layout, start)
    assert bool(out.converged)
    assert_close(out.llf, lmm.fit(m.design).llf, 1e-8)


def check_shard(m: Model, kind: str) -> None:
    mesh = jax.make_mesh((1,), ("groups",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.enable_x64(True):
        got = lmm.profile_loglike(
            m.design.layout.S0[0, :1].repeat(m.fit.theta.size) * 0 + 0.7,
            lmm.shard(m.design.layout, mesh, "groups"),
        )
        theta = np.full(m.fit.theta.size, 0.7)
        assert_close(got, lmm.profile_loglike(theta, m.design.layout), RTOL)


def check_other_methods(m: Model, kind: str) -> None:
    for options in ({"runtime": "jax"}, {"method": "lbfgs"}):
        assert_close(lmm.fit(m.design, **options).llf, lmm.fit(m.design).llf, 1e-8)


def check_approximate(m: Model, kind: str) -> None:
    """Crossed factors alone are fitted so; 60 rows leave their probes far apart."""
    got, exact = lmm.fit(m.design, approximate=True), lmm.fit(m.design, approximate=False)
    error = 0.0 if got.approximation is None else got.approximation.llf_se
    assert (got.approximation is not None) == (kind in CROSSED)
    assert abs(got.llf - exact.llf) <= 4 * error + 1e-9 * abs(exact.llf)


CHECKS = {
    "fit": check_fit,
    "approximate=True": check_approximate,
    "a fit by runtime='jax' or first-order methods": check_other_methods,
    "free": check_free,
    "start_params": check_start_params,
    "fit with cov_re held or a penalty": check_penalty,
    "fit_many": check_fit_many,
    "fit_regularized": check_fit_regularized,
    "bootstrap": check_bootstrap,
    "power": check_power,
    "simulate": check_simulate,
    "influence": check_influence,
    "r2": check_r2,
    "icc": check_icc,
    "variance_components": check_variance_components,
    "heritability": check_heritability,
    "vif": check_vif,
    "caic": check_caic,
    "profile_re": check_profile_re,
    "profile": check_profile,
    "kenward-roger": check_kenward_roger,
    "between-within": check_between_within,
    "emmeans": check_emmeans,
    "to_marginaleffects": check_to_marginaleffects,
    "emmeans of many": check_emmeans_of_many,
    "anova": check_anova,
    "comparisons of models": check_comparisons,
    "robust": check_robust,
    "robust with cluster=": check_robust_with_cluster,
    "wald_test_terms": check_wald_test_terms,
    "random_effects": check_random_effects,
    "random_effects_cov": check_random_effects_cov,
    "joint_effects_cov": check_joint_effects_cov,
    "given_beta=False": check_given_beta,
    "layout_info": check_layout_info,
    "coef": check_coef,
    "predict": check_predict,
    "predict without newdata": check_predict_without_newdata,
    "conditional standard errors": check_conditional_errors,
    "conditional prediction beside correlated residuals": check_conditional_means,
    "model_matrix": check_model_matrix,
    "model_matrix without newdata": check_model_matrix_without_newdata,
    "fittedvalues": check_fittedvalues,
    "resid": check_resid,
    "simulate_residuals": check_simulate_residuals,
    "augment": check_augment,
    "fit_params": check_fit_params,
    "fit_params with start=": check_start_of_fit_params,
    "get_random_effects": check_get_random_effects,
    "functions of Params": check_functions_of_params,
    "shard": check_shard,
}


def ask_correlated(m: Model) -> None:
    """The fit of a kind without its rows, of a model whose residuals are correlated."""
    fit = made("y ~ x + car1(v | g)").fit
    fit = fit.without_data() if m.fit._is_kind("without data") else pickle.loads(pickle.dumps(fit))
    fit.predict(DATA, conditional=True)


# Kinds of fits; no design is of them.
CROSSED = ("crossed", "large core", "sparse", "approximate")
FIT_KINDS = ("held covariances", "penalized", "ml", "saved", "without data")
# Functions that compile a program of their own for every kind: in full in the slow tests only.
DEAR = (
    "a fit by runtime='jax' or first-order methods",
    "free",
    "fit with cov_re held or a penalty",
    "bootstrap",
    "power",
    "profile_re",
    "fit_params",
    "fit_params with start=",
)
QUICK = ("held effects", "offset")

ASK = {
    "approximate=True": lambda m: lmm.fit(m.design, approximate=True),
    "a fit by runtime='jax' or first-order methods": lambda m: lmm.fit(m.design, runtime="jax"),
    "fit": lambda m: lmm.fit(m.design),
    "free": lambda m: lmm.fit(
        m.design, free=P(fe_params=[1, 0], cov_re=np.eye(sum(m.design.sizes)))
    ),
    "start_params": lambda m: lmm.fit(m.design, start_params=P(fe_params=[0, 0], cov_re=np.eye(2))),
    "fit with cov_re held or a penalty": lambda m: lmm.fit(
        m.design, cov_pen=lambda S: 0.0 * jnp.sum(S)
    ),
    "fit_many": lambda m: lmm.fit_many(m.design, np.ones((60, 2))),
    "fit_regularized": lambda m: lmm.fit_regularized(m.design, alpha=1.0),
    "bootstrap": lambda m: lmm.bootstrap(m.fit, 10, seed=1),
    "power": lambda m: lmm.power(m.design, m.fit, 10, test="x", seed=1),
    "simulate": lambda m: lmm.simulate(m.fit, m.design, seed=1),
    "influence": lambda m: lmm.influence(m.fit),
    "r2": lambda m: lmm.r2(m.fit),
    "icc": lambda m: lmm.icc(m.fit),
    "variance_components": lambda m: lmm.variance_components(m.fit),
    "heritability": lambda m: lmm.heritability(m.fit),
    "vif": lambda m: lmm.vif(m.fit),
    "caic": lambda m: lmm.caic(m.fit),
    "profile_re": lambda m: m.fit.profile_re(0, "re"),
    "profile": lambda m: m.fit.conf_int(method="profile"),
    "kenward-roger": lambda m: m.fit.with_df("kr").df,
    "between-within": lambda m: m.fit.with_df("between-within").df,
    "emmeans": lambda m: lmm.emmeans(m.fit, "1"),
    "to_marginaleffects": lambda m: m.fit.to_marginaleffects(),
    "emmeans of many": lambda m: lmm.fit_many(
        m.design, m.design.endog[:, None], progress=False
    ).emmeans("1"),
    "anova": lambda m: m.fit.anova(),
    "comparisons of models": lambda m: lmm.ranova(m.fit),
    "robust": lambda m: m.fit.robust(),
    "robust with cluster=": lambda m: m.fit.robust("CR2", np.arange(60) // 12),
    "wald_test_terms": lambda m: m.fit.wald_test_terms(),
    "random_effects": lambda m: m.fit.random_effects,
    "random_effects_cov": lambda m: m.fit.random_effects_cov,
    "joint_effects_cov": lambda m: m.fit.joint_effects_cov({"g": 0}),
    "given_beta=False": lambda m: m.fit.random_effects_frame(given_beta=False),
    "layout_info": lambda m: m.fit.layout_info,
    "predict": lambda m: m.fit.predict(DATA),
    "coef": lambda m: m.fit.coef(),
    "predict without newdata": lambda m: m.fit.predict(),
    "conditional prediction beside correlated residuals": ask_correlated,
    "conditional standard errors": lambda m: m.fit.predict(DATA, conditional=True, se=True),
    "model_matrix": lambda m: m.fit.model_matrix(DATA),
    "model_matrix without newdata": lambda m: m.fit.model_matrix(),
    "fittedvalues": lambda m: m.fit.fittedvalues,
    "resid": lambda m: m.fit.resid,
    "simulate_residuals": lambda m: lmm.simulate_residuals(m.fit, seed=1),
    "augment": lambda m: m.fit.augment(),
    "fit_params": lambda m: lmm.fit_params(m.design.layout),
    "get_random_effects": lambda m: lmm.get_random_effects(
        P(cov_re=np.eye(2), vcomp=[]), m.design.layout, lmm.row_index(DATA["g"])
    ),
    "fit_params with start=": lambda m: lmm.fit_params(
        m.design.layout, P(cov_re=np.eye(2), vcomp=[])
    ),
    "functions of Params": lambda m: lmm.loglike(P(cov_re=[[1.0]]), m.design.layout),
    "shard": lambda m: lmm.shard(
        m.design.layout,
        jax.make_mesh((1,), ("g",), axis_types=(jax.sharding.AxisType.Auto,)),
        "g",
    ),
}


def cells() -> list[Any]:
    out = []
    for what in TABLE:
        for kind in KINDS:
            dear = what in DEAR and kind not in QUICK and not refuses(what, kind)
            marks = [pytest.mark.slow] if dear else []
            out.append(pytest.param(what, kind, marks=marks, id=f"{what}-{kind}"))
    return out


def refuses(what: str, kind: str) -> str | None:
    """The reason, where the table has one; a large core is one of crossed factors."""
    mine = (kind,)
    if kind in CROSSED:
        mine = ("crossed", *("large core",) * (kind != "crossed"), kind)
    if kind == "means":
        mine = ("residual", kind)
    return next((reason for name, reason in TABLE[what].refuses.items() if name in mine), None)


@pytest.mark.parametrize(("what", "kind"), cells())
def test_right_or_refused(what, kind, monkeypatch):
    if kind == "sparse":
        make_sparse(monkeypatch)
    m = model(kind)
    if kind == "large core":
        monkeypatch.setattr(crossed, "LARGE_CORE", 2)
    takes_design = TABLE[what].takes != "fit"
    if kind in FIT_KINDS and takes_design:
        assert refuses(what, kind) is None  # a design holds no such thing
        return
    reason = refuses(what, kind)
    if reason is None:
        CHECKS[what](m, kind)
        return
    with pytest.raises(lmm.DataError) as caught:
        ASK[what](m)
    assert str(caught.value) == reason.format(what=what)


@pytest.mark.parametrize("kind", ["held effects", "offset"])
def test_responses_with_gaps(kind):
    check_fit_many_with_gaps(model(kind), kind)


# ------------------------------------------------------------ held effects, the details


def test_a_held_effect_has_a_value_and_no_test():
    held = model("held effects").fit
    assert held.fe_params["x"] == HELD and held.bse_fe["x"] == 0
    assert np.isnan([held.tvalues["x"], held.pvalues["x"], held.t_test("x = 0").pvalue[0]]).all()
    assert held.conf_int().loc["x"].tolist() == [HELD, HELD]
    normal = lmm.fit(held.design, df_method="normal")
    assert np.isnan(normal.pvalues["x"]) and normal.conf_int().loc["x"].tolist() == [HELD, HELD]
    many = lmm.fit_many(held.design, DATA[["y"]], progress=False)
    assert many.tidy()[["conf_low", "conf_high"]].iloc[1].tolist() == [HELD, HELD]
    assert np.isnan(many.pvalues[0, 1])
    for one in (held, normal):
        same = by_offset().fit
        assert_close(one.llf, same.llf, RTOL)
        assert_close(one.bse_fe["Intercept"], same.bse_fe["Intercept"], TOL)
        assert one.n_params == same.n_params


def test_what_a_design_holds_stays_held():
    design = model("held effects").design
    free = P(fe_params=[0, 1], cov_re=[[1]])
    both = lmm.fit(design, free=free, start_params=P(fe_params=[2, 9], cov_re=[[1.0]]))
    assert both.fe_params.tolist() == [2.0, HELD]
    assert both.n_params == 2  # the two variances


def test_a_penalty_sees_held_effects():
    """The penalty of the whole vector, of which a part is a constant."""
    m = model("held effects")
    weights = np.array([3.0, 5.0])
    got = lmm.fit(m.design, fe_pen=L2(weights=weights))
    alone = lmm.fit(by_offset().design, fe_pen=L2(weights=weights[:1]))
    assert_close(got.fe_params["Intercept"], alone.fe_params["Intercept"], TOL)
    assert_close(got.llf, alone.llf, 1e-8)
    tied = lmm.fit(m.design, fe_pen=lambda b: 50.0 * (b[0] - 4.0 * b[1]) ** 2)
    assert abs(tied.fe_params["Intercept"] - 4 * HELD) < 0.05


HELD_POWER = {
    "the held coefficient": ({"test": "x"}, "holds 'x' fixed"),
    "a row of a matrix": ({"test": np.eye(2)}, "holds 'x' fixed"),
    "an equation": ({"test": "x = 1"}, "holds 'x' fixed"),
    "another truth": ({"params": P(fe_params=[1, 2], cov_re=[[1.0]])}, "gives 'x' other values"),
}


@pytest.mark.parametrize(("options", "message"), HELD_POWER.values(), ids=HELD_POWER)
def test_power_of_what_is_held_is_refused(options, message):
    params = P(fe_params=[1, HELD], cov_re=[[1.0]])
    given = {"params": params, "test": "Intercept", "seed": 1, "scale": 1.0} | options
    with pytest.raises(lmm.DataError, match=message):
        lmm.power(model("held effects").design, given.pop("params"), 10, **given)


WRONG_TYPES = [
    (lambda: lmm.bootstrap(model("offset").design, 10, seed=1), "bootstrap needs a result of"),
    (lambda: lmm.influence(DATA), "influence needs a result of lmm.fit, not a DataFrame"),
    (lambda: lmm.shard(model("offset").design, None, "g"), "shard needs a layout"),
    (
        lambda: lmm.bootstrap(lmm.fit_regularized(model("offset").design), 10, seed=1),
        "the fit is penalized",
    ),
]


@pytest.mark.parametrize(("call", "message"), WRONG_TYPES)
def test_other_types_are_refused(call, message):
    with pytest.raises(lmm.DataError, match=message):
        call()


# ------------------------------------------------------------ the page


def table() -> str:
    """The table of the page: what is refused, and in which words."""
    lines = ["| | " + " | ".join(KINDS) + " |", "|---" * (len(KINDS) + 1) + "|"]
    notes: list[str] = []
    for what, (takes, _) in TABLE.items():
        marks = []
        for kind in KINDS:
            reason = refuses(what, kind)
            if reason is None:
                applies = takes == "fit" or kind not in FIT_KINDS
                marks.append("yes" if applies else "")
                continue
            reason = reason.format(what="the function")
            notes += [] if reason in notes else [reason]
            marks.append(f"{notes.index(reason) + 1}")
        lines.append(f"| `{what}` | " + " | ".join(marks) + " |")
    numbered = [f"{i}. {note}" for i, note in enumerate(notes, 1)]
    return "\n".join([*lines, "", *numbered])


def test_the_page_shows_the_table():
    text = PAGE.read_text(encoding="utf-8")
    assert table() in text, f"docs/supported.md should hold\n\n{table()}"
    for kind, meaning in KINDS.items():
        assert f"- *{kind}*: {meaning}" in text
