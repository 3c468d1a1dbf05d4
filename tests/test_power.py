"""Power by simulation against closed forms of balanced designs, and its bookkeeping."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import samples
from helpers import assert_close
from scipy import stats
from scipy.linalg import block_diag

import lmm_jax as lmm
from lmm_jax.api.power import rejection_rate
from lmm_jax.batches.replicate_minimize import fit_lanes
from lmm_jax.inference.contrasts.lane_tests import lane_pvalues
from lmm_jax.inference.df.satterthwaite import satterthwaite_df
from lmm_jax.inference.estimates import estimate
from lmm_jax.inference.hypotheses import read_restriction
from lmm_jax.layouts.response import Response

N_SIM = 4000
# Monte-Carlo standard errors: seeds are fixed, so a failure is one of the code.
ERRORS = 4.0
# Degrees of freedom and p values from the same optimum, found by two runs to a decrement of 1e-9.
OPTIMUM_TOL = 1e-5


def between(groups=12, rows=5, arms=2):
    """Arms assigned to whole groups: x (or a factor) is constant within a group."""
    g = np.repeat(np.arange(groups), rows)
    arm = g % arms
    y = np.sin(np.arange(g.size))  # a placeholder
    data = pd.DataFrame({"y": y, "x": arm * 1.0, "arm": np.array(list("abc"))[arm], "g": g})
    return lmm.design("y ~ x + (1 | g)" if arms == 2 else "y ~ arm + (1 | g)", data)


def truth(beta, variance):
    return lmm.Params.from_components(fe_params=beta, cov_re=[[variance]])


def t_power(effect, sd, df, alpha=0.05):
    """Power of a two-sided t test, exact."""
    c, shift = stats.t.ppf(1 - alpha / 2, df), effect / sd
    return stats.nct.sf(c, df, shift) + stats.nct.cdf(-c, df, shift)


def agree(power, exact, n=N_SIM):
    error = np.sqrt(exact * (1 - exact) / n)
    assert np.all(np.abs(power - exact) < ERRORS * error), (power, exact)


def test_a_balanced_trial_has_the_power_of_the_t_test_of_its_means():
    # the variance of the groups is estimated above zero (all but surely), so the mixed model is
    # the analysis of the group means: t with groups - 2 degrees of freedom
    effects = np.array([0.0, 2.0, 4.0, 6.0, -4.0])
    table = lmm.power(
        between(), truth([3.0, 9.0], 10.0), N_SIM, scale=1.0, test="x", effects=effects, seed=2
    )
    sd = np.sqrt((10.0 + 1.0 / 5) * (1 / 6 + 1 / 6))
    agree(table["power"], np.array([t_power(e, sd, 10) for e in effects]))
    assert (table["n_failed"] == 0).all()
    assert np.all(np.diff(table["power"][:4]) > 0)
    np.testing.assert_allclose(
        table["mc_error"], np.sqrt(table["power"] * (1 - table["power"]) / N_SIM)
    )
    assert ((table["conf_low"] < table["power"]) & (table["power"] < table["conf_high"])).all()


def test_within_groups_the_power_is_that_of_the_residual_t_test():
    g, t = np.repeat(np.arange(8), 4), np.tile([-1.0, 1.0, -1.0, 1.0], 8)
    data = pd.DataFrame({"y": np.sin(np.arange(32)), "t": t, "g": g})
    design = lmm.design("y ~ t + (1 | g)", data)
    table = lmm.power(
        design, truth([0.0, 0.5], 50.0), N_SIM, scale=2.0, test="t", effects=[0, 0.5, 1], seed=4
    )
    sd = np.sqrt(2.0 / 32)
    agree(table["power"], np.array([t_power(e, sd, 32 - 8 - 1) for e in (0, 0.5, 1)]))


def test_a_joint_test_has_the_power_of_the_f_test_of_the_means():
    design = between(groups=15, arms=3)
    rows = np.eye(3)[1:]
    for slope, seed in ((0.0, 1), (4.0, 2)):
        beta = [1.0, slope, 2 * slope]
        table = lmm.power(design, truth(beta, 10.0), 1500, scale=1.0, test=rows, seed=seed)
        means = np.array([0, slope, 2 * slope])
        shift = 5 * np.sum((means - means.mean()) ** 2) / (10.0 + 1.0 / 5)
        c = stats.f.ppf(0.95, 2, 12)
        exact = 0.05 if slope == 0 else stats.ncf.sf(c, 2, 12, shift)
        agree(table["power"], np.array([exact]), n=1500)
        assert np.isnan(table["effect"]).all()


def test_z_tests_reject_too_often():
    table = lmm.power(
        between(), truth([3.0, 0.0], 10.0), N_SIM, scale=1.0, test="x", seed=2, df_method="normal"
    )
    agree(table["power"], np.array([2 * stats.t.sf(stats.norm.ppf(0.975), 10)]))


def test_the_level_where_variances_are_often_zero():
    """Satterthwaite's test on a zero variance: near its level, and no fit is lost."""
    table = lmm.power(between(), truth([0.0, 0.0], 0.02), 2000, scale=1.0, test="x", seed=1)
    assert table["n_failed"][0] == 0
    assert 0.02 < table["power"][0] < 0.08


def crossed(items, people=9, y=None):
    g, i = np.divmod(np.arange(people * items), items)
    x = (g + i) % 2 - 0.5
    y = np.sin(np.arange(g.size)) if y is None else y
    data = pd.DataFrame({"y": y, "x": x, "person": g, "item": i})
    return lmm.design("y ~ x + (1 | person) + (1 | item)", data)


def test_every_size_has_the_variances_of_its_own_terms():
    # terms of most levels come first: items of the second size, people of the first
    given = dict(scale=1.0, test="x", seed=3)
    few, many = crossed(4), crossed(14)
    assert [term.group for term in few.terms] == ["person", "item"]
    assert [term.group for term in many.terms] == ["item", "person"]
    made, beta = lmm.Params.from_components, [0.0, 0.5]
    people_first = made(fe_params=beta, cov_re=np.diag([9.0, 0.25]))
    items_first = made(fe_params=beta, cov_re=np.diag([0.25, 9.0]))
    named = made(fe_params={"x": 0.5, "Intercept": 0.0}, cov_re={"item": 0.25, "person": [[9.0]]})
    both = lmm.power(crossed, named, 60, sizes=[4, 14], **given)
    alone = lmm.power([few], people_first, 60, **given)
    assert both["power"][0] == alone["power"][0]
    # the second design of a list, whose draws have a key of their own
    second = lmm.power([many, many], items_first, 60, **given)
    assert both["power"][1] == second["power"][1]
    half = made(fe_params={"x": 0.5, "Intercept": 0.0}, cov_re=np.diag([9.0, 0.25]))
    with pytest.raises(lmm.DataError, match="different orders"):
        lmm.power(crossed, half, 60, sizes=[4, 14], **given)
    for sizes in ([4, 14], [14, 4]):
        with pytest.raises(lmm.DataError, match=r"different orders.*cov_re=\{.item"):
            lmm.power(crossed, people_first, 60, sizes=sizes, **given)


def test_parameters_by_name_have_the_order_of_a_design():
    rng = np.random.default_rng(0)
    g, h = np.divmod(np.arange(84), 14)
    data = pd.DataFrame({"y": rng.normal(size=84), "x": rng.normal(size=84), "g": g, "h": h})
    design = lmm.design("y ~ x + (x | g) + (1 | h) + (0 + x | h)", data)
    S = np.array([[2.0, 0.5], [0.5, 1.0]])
    blocks = {"(0 + x | h)": 3.0, "g": S, "1|h": 4.0}
    named = lmm.Params.from_components(fe_params={"x": 1.0, "Intercept": 5.0}, cov_re=blocks)
    ordered = design.ordered(named)
    assert ordered.fe_params.tolist() == [5.0, 1.0]
    own = {"0 + x | h": [[3.0]], "1 | h": [[4.0]], "x | g": S}
    wanted = block_diag(*(own[term.label] for term in design.terms))
    np.testing.assert_array_equal(ordered.cov_re, wanted)
    draws = [lmm.simulate(at, design, scale=1.0, seed=1) for at in (named, ordered)]
    pd.testing.assert_frame_equal(*draws)
    starts = [lmm.fit(design, start_params=at, maxiter=0).llf for at in (named, ordered)]
    assert starts[0] == starts[1]
    assert design.ordered(ordered) is ordered

    def value(v):
        made = lmm.Params.from_components(fe_params={"Intercept": 5.0, "x": v},
                                          cov_re=blocks | {"1|h": 4.0 * v})  # fmt: skip
        return lmm.loglike(design.ordered(made), design.layout)

    assert_close(jax.jit(value)(1.0), lmm.loglike(ordered, design.layout), 1e-6)  # float32
    turned = pd.DataFrame(S[::-1, ::-1], *[["x", "Intercept"]] * 2)  # by its own names
    framed = lmm.Params.from_components(fe_params=[5.0, 1.0], cov_re=blocks | {"g": turned})
    np.testing.assert_array_equal(design.ordered(framed).cov_re, ordered.cov_re)
    with pytest.raises(lmm.DataError, match=r"has .'z', 'Intercept'., and the term"):
        bad = turned.set_axis(["z", "Intercept"], axis=0).set_axis(["z", "Intercept"], axis=1)
        design.ordered(lmm.Params.from_components(cov_re=blocks | {"g": bad}))
    coded = lmm.design("y ~ C(f) + (1 | g)", data.assign(f=list("abc") * 28))
    spelled = {"factor(f)[T.c]": 2.0, "Intercept": 0.0, "C(f)[T.b]": 1.0}
    made = lmm.Params.from_components(fe_params=spelled, cov_re={"g": 1.0})
    assert coded.ordered(made).fe_params.tolist() == [0.0, 1.0, 2.0]
    assert named.rescaled(2.0).names == named.names


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"person": 1.0}, "names .'person'., the design .'person', 'item'."),
        ({"person": 1.0, "item": 1.0, "day": 1.0}, "the design .'person', 'item'."),
        ({"person": np.eye(2), "item": 1.0}, "is 2 by 2, and the term has the coefficients"),
        ({"person": [1.0, 2.0, 3.0], "item": 1.0}, "a variance or a square matrix"),
        ({"person": "much", "item": 1.0}, "numbers are needed"),
        ({1: 1.0, "1": 2.0}, "the name '1' twice"),
        ({"person": None, "item": 1.0}, "finite numbers are needed"),
        ({"person": float("nan"), "item": 1.0}, "finite numbers are needed"),
        ({}, "has the names .., the design"),
    ],
)
def test_names_that_do_not_fit(given, message):
    with pytest.raises(lmm.DataError, match=message):
        named = lmm.Params.from_components(fe_params=[0.0, 0.5], cov_re=given)
        lmm.simulate(named, crossed(4), scale=1.0, seed=1)


def test_a_series_of_fixed_effects_goes_by_its_index():
    design = crossed(4)
    series = pd.Series({"x": 0.5, "Intercept": 2.0})
    params = lmm.Params.from_components(fe_params=series, cov_re=np.eye(2))
    assert design.ordered(params).fe_params.tolist() == [2.0, 0.5]
    plain = lmm.Params.from_components(fe_params=series.to_numpy(), cov_re=np.eye(2))
    np.testing.assert_array_equal(lmm.pack(params, (1, 1)), lmm.pack(plain, (1, 1)))
    with pytest.raises(lmm.DataError, match=r"names .'z', 'Intercept'., the design"):
        design.ordered(lmm.Params.from_components(fe_params=series.rename({"x": "z"})))


def test_functions_of_arrays_know_no_names():
    named = lmm.Params.from_components(fe_params=[0.0, 0.5], cov_re={"person": 1.0, "item": 2.0})
    design = crossed(4)
    for call in (lambda at: lmm.loglike(at, design.layout), lmm.pack):
        with pytest.raises(lmm.DataError, match=r"design\.ordered"):
            call(named)
    assert np.isfinite(lmm.loglike(design.ordered(named), design.layout))


def test_a_fit_serves_designs_with_its_terms_in_another_order():
    few, many = crossed(4), crossed(14)
    people_first = lmm.Params.from_components(fe_params=[0.0, 0.5], cov_re=np.diag([9.0, 0.25]))
    drawn = lmm.simulate(people_first, few, scale=1.0, seed=1)[0].to_numpy()
    fitted = lmm.fit(crossed(4, y=drawn))
    own = np.diag(fitted.cov_re)
    swapped = lmm.Params.from_components(fe_params=fitted.fe_params, cov_re=np.diag(own[::-1]))
    given = dict(scale=fitted.scale, seed=2)
    np.testing.assert_array_equal(
        lmm.simulate(fitted, many, seed=2), lmm.simulate(swapped, many, **given)
    )


def test_a_grid_of_sizes():
    given = dict(scale=1.0, test="x", effects=[0.0, 2.0], seed=3)
    made = lmm.power(lambda n: between(groups=n), truth([0, 1], 1.0), 400, sizes=[6, 24], **given)
    assert made["size"].tolist() == [6, 6, 24, 24]
    assert made["n_obs"].tolist() == [30, 30, 120, 120]
    assert made["effect"].tolist() == [0.0, 2.0, 0.0, 2.0]
    assert made["power"][3] > made["power"][1]
    listed = lmm.power([between(6), between(24)], truth([0, 1], 1.0), 400, **given)
    pd.testing.assert_frame_equal(made, listed)
    other = lmm.power([between(6), between(24)], truth([0, 1], 1.0), 400, **{**given, "seed": 4})
    assert not made["power"].equals(other["power"])


def test_ways_to_name_a_test():
    given = dict(scale=1.0, seed=3, effects=[3.0])
    design, at = between(), truth([5.0, 1.0], 1.0)
    by_name = lmm.power(design, at, 200, test="x", **given)
    for test in ("x = 0", np.array([0.0, 1.0]), np.array([[0.0, 1.0]])):
        pd.testing.assert_frame_equal(lmm.power(design, at, 200, test=test, **given), by_name)
    # a null hypothesis other than zero: at it the test has its level, away from it power
    table = lmm.power(design, at, 2000, test="x = 3", scale=1.0, seed=3, effects=[3.0, 6.0])
    assert table["power"][0] < 0.1 < table["power"][1]
    # without effects the value of params is taken
    assert lmm.power(design, at, 50, test="x", scale=1.0, seed=3)["effect"].tolist() == [1.0]


def test_a_fit_serves_as_truth():
    res = lmm.fit("y ~ x + (x | g)", samples.frame())
    params = lmm.Params(
        fe_params=res.fe_params.to_numpy(), cov_re=res.cov_re.to_numpy(), vcomp=np.zeros(0)
    )
    by_fit = lmm.power(res.design, res, 100, test="x", seed=1)
    by_hand = lmm.power(res.design, params, 100, test="x", scale=res.scale, seed=1)
    pd.testing.assert_frame_equal(by_fit, by_hand)


def test_tests_of_lanes_are_those_of_single_fits():
    res = lmm.fit("y ~ x + z + (x | g)", samples.frame())
    layout = res.design.layout
    with jax.enable_x64(True):
        response = Response(y=tuple(b.c[:, -1] for b in layout.buckets), S0=layout.S0[-1])
        lanes = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), response)
        solution = fit_lanes(layout, lanes, res.estimates.theta_layout, reml=True)
    # errors are measured from beta_origin, which is where the truth would stand
    origin, zero = np.asarray(layout.beta_origin + layout.beta_shift), np.zeros(3)
    at = estimate(solution, replace(layout, beta_origin=zero, beta_shift=zero), reml=True)
    df = satterthwaite_df(np.eye(3), at.cov_beta, at.dcov_beta, at.joint_cov)
    sd = np.sqrt(at.scale[:, None] * np.diagonal(at.cov_beta, axis1=1, axis2=2))
    for own in (0, 1):
        np.testing.assert_allclose(df[own], res.df, rtol=OPTIMUM_TOL)
        np.testing.assert_allclose(sd[own], res.bse_fe, rtol=OPTIMUM_TOL)
    for test in ("x = 1", "x = 1, z = 2"):
        restriction = read_restriction(test, res.fixed_names, terms={})
        gap = (restriction.R @ origin - restriction.q)[None]
        for normal in (False, True):
            p = lane_pvalues(restriction, gap, at, normal=normal)
            expected = res.wald_test(test, use_f=not normal).pvalue
            np.testing.assert_allclose(p, np.full((1, 2), expected), rtol=OPTIMUM_TOL)


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (20, 20), (7, 20), (1, 3)])
def test_the_interval_is_clopper_and_pearsons(hits, n):
    p = np.where(np.arange(n) < hits, 0.01, 0.5)
    row = rejection_rate(p, 0.05)
    exact = stats.binomtest(hits, n).proportion_ci(0.95, method="exact")
    np.testing.assert_allclose([row["conf_low"], row["conf_high"]], exact, atol=1e-12)
    assert row["power"] == hits / n


def test_no_fit_no_power():
    assert np.isnan(list(rejection_rate(np.zeros(0), 0.05).values())).all()


DESIGN, TRUTH = between(), truth([0.0, 1.0], 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_sim": 1}, "n_sim=1"),
        ({"seed": "one"}, "seed='one'"),
        ({"alpha": 5}, "between 0 and 1"),
        ({"df_method": "kr"}, "df_method='kenward-roger': choose from satterthwaite, normal"),
        ({"scale": None}, "residual variance"),
        ({"scale": 0.0}, "positive residual variance"),
        ({"params": truth([0.0], 1.0)}, r"params has fe_params of shape \(1,\)"),
        ({"params": truth([0.0, np.nan], 1.0)}, "finite numbers are needed"),
        ({"params": truth([0.0, 1.0], -1.0)}, "negative eigenvalue"),
        ({"test": "nothing"}, "nothing"),
        ({"test": np.eye(3)}, "3"),
        ({"test": np.eye(2), "effects": [1.0]}, "not with a matrix"),
        ({"effects": [np.inf]}, "finite numbers"),
        ({"effects": []}, "finite numbers"),
        ({"sizes": [3]}, "goes with a function"),
        ({"design": lambda n: between(n)}, "say by sizes="),
        ({"design": lambda n: n, "sizes": [3]}, "power needs a Design"),
        ({"design": []}, "empty"),
        ({"design": ["y ~ x"]}, "power needs a Design"),
    ],
)
def test_refuses(options, message):
    given = {"design": DESIGN, "params": TRUTH, "n_sim": 10, "test": "x", "seed": 1, "scale": 1.0}
    given.update(options)
    design, params, n_sim = given.pop("design"), given.pop("params"), given.pop("n_sim")
    with pytest.raises(lmm.DataError, match=message):
        lmm.power(design, params, n_sim, **given)


def test_refuses_a_fit_of_another_model():
    res = lmm.fit("y ~ x + (x | g)", samples.frame())
    with pytest.raises(lmm.DataError, match="random effects"):
        lmm.power(DESIGN, res, 10, test="x", seed=1)
    other = lmm.design("y ~ z + (x | g)", samples.frame())
    with pytest.raises(lmm.DataError, match="coefficients"):
        lmm.power(other, res, 10, test="x", seed=1)
