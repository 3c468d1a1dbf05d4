"""A residual variance a stratum beside crossed effects: the layout for it, and its fits."""

from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax.covariance.theta import factor_blocks, theta_size
from lmm_jax.layouts.residual import alike
from lmm_jax.layouts.residual.strata import StratifiedLayout
from lmm_jax.layouts.residual.strata_rows import stratify
from lmm_jax.numerics.processes import float64

LAYOUT_RTOL = 1e-12  # two layouts at one theta
OPTIMUM_RTOL = 1e-6  # two optima, each to a Newton decrement of 1e-9 and better
EFFECTS_RTOL = 1e-10  # a dense V of 258 rows, at the variances of the fit
GLMMTMB_LLF, GLMMTMB_RTOL = 2e-9, 2e-6  # it stops at 1e-9 of the likelihood
# by ML it ends with "singular convergence", a hundred thousandth of a standard error away
GLMMTMB_ML_RTOL = 1e-5
RANDOM = "(1 | gen) + (1 | gen:env) + (1 | env:rep)"
MODELS = {
    "three terms": f"y ~ x + {RANDOM} + diag(env)",
    "slopes of the core": "y ~ x + (1 + x | gen) + (1 | env:rep) + (1 | gen:env) + diag(env)",
    "slopes of the groups": "y ~ x + (1 | gen) + (1 + x | gen:env) + (1 | env) + diag(env)",
    "groups that hold others": "y ~ 1 + (1 + x | gen) + (1 | env/rep) + diag(env)",
    "strata within": f"y ~ x + {RANDOM} + diag(env:rep)",
}


@cache
def trials():
    """258 plots of 30 genotypes in five environments with two replicates, simulated."""
    return pd.read_csv(Path(__file__).parent / "data" / "trials.csv")


@cache
def layouts(name):
    """The layout of all effects together, and the one for optimization; y is measured alike."""
    together = jax.tree.map(np.asarray, lmm.design(MODELS[name], trials()).compressed.layout)
    found = stratify(together)
    assert isinstance(found, StratifiedLayout)
    apart = together.beta_origin - found.beta_origin
    return together, found.measured_from(np.linalg.solve(found.beta_map, apart) / found.y_scale)


def thetas(layout):
    rng, m = np.random.default_rng(3), theta_size(layout.structures)
    singular = np.where(np.arange(m) < m - 4, 0.0, 0.3)  # the last are log standard deviations
    return {"inside": 0.5 + 0.5 * rng.normal(size=m), "anywhere": rng.normal(size=m)} | {
        "no random effects": singular
    }


@pytest.mark.parametrize("at", ["inside", "anywhere", "no random effects"])
@pytest.mark.parametrize("name", MODELS)
def test_the_layouts_agree(name, at):
    together, found = layouts(name)
    theta = thetas(together)[at]
    root = np.random.default_rng(5).normal(size=(len(together.S0), 2))
    one, two = together.jet(theta), found.jet(theta)
    for a, b in zip(one[:3], two[:3], strict=True):
        jax.tree.map(lambda x, y: assert_close(y, x, LAYOUT_RTOL, np.abs(x).max()), a, b)
    bent, also = together.curvature(theta, root, one), found.curvature(theta, root, two)
    jax.tree.map(
        lambda x, y: assert_close(y, x, LAYOUT_RTOL, np.abs(x).max(initial=1.0)), bent[:2], also[:2]
    )
    for waist in (
        found.waist_at(theta),
        found.waist_of(factor_blocks(theta, found.structures), theta),
    ):
        assert_close(waist.logdet, one.waist.logdet, LAYOUT_RTOL, 1)
        assert_close(waist.gram, one.waist.gram, LAYOUT_RTOL, np.abs(one.waist.gram).max())
    if at != "no random effects":  # a singular factor leaves its part out, as of crossed layouts
        pairs = zip(together.psi_slopes(theta, root @ root.T, one),
                    found.psi_slopes(theta, root @ root.T, two), strict=True)  # fmt: skip
        for x, y in pairs:
            assert_close(y, x, LAYOUT_RTOL, np.abs(x).max(initial=1.0))


@pytest.mark.parametrize(("name", "term"), [("slopes of the core", 1), ("slopes of the groups", 0)])
def test_rotated_terms_agree(name, term):
    """Profiles turn the coefficients of a term."""
    together, found = layouts(name)
    assert together.sizes[term] == 2
    Q = np.linalg.qr(np.random.default_rng(2).normal(size=(2, 2)))[0]
    theta = thetas(together)["inside"]
    one, two = together.rotate(term, Q).jet(theta), found.rotate(term, Q).jet(theta)
    for a, b in zip(one[:3], two[:3], strict=True):
        jax.tree.map(lambda x, y: assert_close(y, x, LAYOUT_RTOL, np.abs(x).max()), a, b)
    assert np.abs(one.dlogdet - together.jet(theta).dlogdet).max() > 0.1  # it is another theta


@pytest.mark.parametrize("name", ["three terms", "slopes of the core"])
def test_programs_compute_the_same(name):
    _, found = layouts(name)
    theta = thetas(found)["inside"]
    root = np.random.default_rng(5).normal(size=(len(found.S0), 2))

    def both(layout, theta):
        jet = layout.jet(theta)
        return jet.waist, jet.dlogdet, jet.dgram, layout.curvature(theta, root, jet).hessian

    def logdet(theta, layout):
        return layout.waist_of(factor_blocks(theta, layout.structures), theta).logdet

    with float64():
        traced = jax.tree.map(jnp.asarray, found)
        compiled = jax.jit(both)(traced, jnp.asarray(theta))
        slope = jax.grad(logdet)(jnp.asarray(theta), traced)
    here = both(found, theta)
    jax.tree.map(lambda x, y: assert_close(y, x, LAYOUT_RTOL, np.abs(x).max()), here, compiled)
    assert_close(slope, here[1], LAYOUT_RTOL, np.abs(here[1]).max())


# glmmTMB 1.1.5, glmmTMB(y ~ x + (1 | gen) + (1 | gen:env) + (1 | env:rep), dispformula = ~env)
GLMMTMB = {
    True: (-463.7640814379, [0.24098153670, -0.00908242912]),
    False: (-461.6925084998, [0.238927882105, -0.009120993085]),
}
GLMMTMB_SD = [0.8581112799, 0.7390502567, 0.7724383059]  # gen, gen:env, env:rep by REML
GLMMTMB_RESIDUAL = np.sqrt([0.3226334990, 0.3361416354, 0.9545256311, 3.0770533937, 3.9454676165])


@pytest.mark.parametrize("runtime", ["numpy", "jax"])
@pytest.mark.parametrize("reml", [True, False])
def test_fits_are_those_of_glmmtmb(reml, runtime):
    res = lmm.fit(MODELS["three terms"], trials(), reml=reml, runtime=runtime)
    assert res.converged
    assert isinstance(res.design.compressed.merged, StratifiedLayout)
    llf, beta = GLMMTMB[reml]
    assert_close(res.llf, llf, GLMMTMB_LLF, 1)
    assert_close(res.fe_params, beta, GLMMTMB_RTOL if reml else GLMMTMB_ML_RTOL, 1)
    if reml:
        variances = res.varcorr.to_frame().set_index("grp")["sdcor"]
        assert_close(variances[["gen", "gen:env", "env:rep"]], GLMMTMB_SD, GLMMTMB_RTOL, 1)
        assert_close(res.residual_params, GLMMTMB_RESIDUAL, GLMMTMB_RTOL, 1)


def test_fixed_effects_are_generalized_least_squares():
    """At the variances of the fit, with a dense V."""
    data, res = trials(), lmm.fit(MODELS["three terms"], trials())
    sd = res.varcorr.to_frame().set_index("grp")["sdcor"]
    labels = {"gen": data.gen, "gen:env": data.gen + data.env, "env:rep": data.env + data.rep}
    Z = {name: pd.get_dummies(label).to_numpy(float) for name, label in labels.items()}
    residual = res.residual_params.to_numpy()[data.env.str[1:].astype(int)]
    V = np.diag(residual**2) + sum(sd[name] ** 2 * z @ z.T for name, z in Z.items())
    X = np.column_stack([np.ones(len(data)), data.x])
    cov = np.linalg.inv(X.T @ np.linalg.solve(V, X))
    assert_close(res.fe_params, cov @ X.T @ np.linalg.solve(V, data.y), EFFECTS_RTOL, 1)
    assert_close(res.bse[:2], np.sqrt(np.diag(cov)), EFFECTS_RTOL, 1)


def test_rows_of_two_strata_in_a_group_keep_all_effects_together():
    """Nothing is left to eliminate where every term meets several strata."""
    design = lmm.design("y ~ x + (1 | gen) + (1 | rep) + diag(env)", trials())
    assert not isinstance(design.compressed.merged, StratifiedLayout)


def test_random_effects_of_wide_groups():
    """186 columns in one group: conditional means and standard deviations with a dense V."""
    data, res = trials(), lmm.fit(MODELS["three terms"], trials())
    sd = res.varcorr.to_frame().set_index("grp")["sdcor"]
    labels = {"gen": data.gen, "gen:env": data.gen + ":" + data.env,
              "env:rep": data.env + ":" + data.rep}  # fmt: skip
    columns = {name: pd.get_dummies(label).astype(float) for name, label in labels.items()}
    psi = np.concatenate([np.full(z.shape[1], sd[name] ** 2) for name, z in columns.items()])
    Z = np.hstack([z.to_numpy() for z in columns.values()])
    residual = res.residual_params.to_numpy()[data.env.str[1:].astype(int)]
    V = np.diag(residual**2) + (Z * psi) @ Z.T
    left = data.y - np.column_stack([np.ones(len(data)), data.x]) @ res.fe_params.to_numpy()
    half = psi[:, None] * Z.T
    names = pd.MultiIndex.from_tuples([(name, c) for name, z in columns.items() for c in z])
    b = pd.Series(half @ np.linalg.solve(V, left), names)
    cov = np.diag(psi) - half @ np.linalg.solve(V, half.T)
    found = res.random_effects_frame().set_index(["factor", "level"]).loc[names]
    assert len(found) == 186
    assert_close(found["estimate"], b, EFFECTS_RTOL, 1)
    assert_close(found["std_error"] ** 2, np.diagonal(cov), EFFECTS_RTOL, 1)


def _all_that_is_said(kind):
    data = trials()
    res = lmm.fit(MODELS["slopes of the core"], data)
    many = lmm.fit_many(MODELS["three terms"], data.assign(z=data.y + data.x), ["y", "z"])
    assert type(res.design.compressed.merged) is kind
    return {
        "fe_params": res.fe_params,
        "fitted": res.fittedvalues,
        "resid": res.resid,
        "predicted": res.predict(data[:9], conditional=True),
        "simulated": lmm.simulate(res, seed=3, conditional=True),
        "replicates": lmm.bootstrap(res, 4, seed=1).replicates.beta,
        "many": many.fe_params,
        "their effects": many.random_effects("z")["gen"],
        "regularized": lmm.fit_regularized(MODELS["three terms"], data, alpha=0.1).fittedvalues,
    }


def test_everything_is_that_of_all_effects_together(monkeypatch):
    """y is measured from fixed effects of each layout's own: whoever reads beta has to know."""
    found = _all_that_is_said(StratifiedLayout)
    monkeypatch.setattr(alike, "stratify", lambda layout: layout)
    for name, want in _all_that_is_said(lmm.MarkovLayout).items():
        assert_close(np.asarray(found[name], float), np.asarray(want, float), OPTIMUM_RTOL, 1)
