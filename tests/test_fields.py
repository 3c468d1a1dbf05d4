"""Plots of a field, `ar1(row | field) * ar1(col | field)`: ASReml's figures and dense algebra."""

from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import assert_close, dense_llf

import lmm_jax as lmm
from lmm_jax.likelihood.profile import profile_jet

HERE = Path(__file__).parent / "data"
BARLEY, WHEAT = (
    pd.read_csv(HERE / f"{name}.csv").rename(columns={"yield": "y"})
    for name in ("barley_uniformity", "slate_hall")
)
PLAIN, UNITS = "ar1(row | 1) * ar1(col | 1)", "ar1(row | 1) * ar1(col | 1, nugget=True)"

RTOL = 1e-9  # two routes through float64 to one number
TOL = 1e-6  # two optimizations of one criterion
PRINTED = 5e-5  # ASReml stops when its log-likelihood changes by less than 0.002
RNG = np.random.default_rng(2)


def trial() -> pd.DataFrame:
    """Two fields of nine rows and six columns, a tenth of the plots lost."""
    row, col = (at.ravel() for at in np.meshgrid(np.arange(1, 10), np.arange(1, 7), indexing="ij"))
    parts = []
    for field in "ab":
        R = 0.6 ** np.abs(row[:, None] - row) * (-0.4) ** np.abs(col[:, None] - col)
        e = np.linalg.cholesky(R + 0.2 * np.eye(row.size)) @ RNG.normal(size=row.size)
        gen = RNG.permutation(np.arange(row.size) % 18)
        parts.append(pd.DataFrame({"field": field, "row": row, "col": col, "gen": gen, "y": e}))
    whole = pd.concat(parts, ignore_index=True)
    effects = RNG.normal(0, 0.9, 18)
    whole["y"] += 5 + effects[whole["gen"]]
    return whole.sample(frac=0.9, random_state=1).reset_index(drop=True)


TRIAL = trial()


def covariance(res: lmm.LMMResults, one: pd.DataFrame, two: pd.DataFrame) -> np.ndarray:
    """Of the residuals of plots, by what the result reports."""
    at, same = res.residual_params, np.ones((len(one), len(two)))
    for name in ("row", "col"):
        same *= at[f"rho[{name}]"] ** np.abs(
            np.subtract.outer(*(each[name].to_numpy(float) for each in (one, two)))
        )
    if "field" in one:
        same *= np.equal.outer(one["field"].to_numpy(), two["field"].to_numpy())
    nugget = at.get("nugget", 0.0)
    itself = np.equal.outer(one.index.to_numpy(), two.index.to_numpy())
    return res.scale * ((1 - nugget) * same + nugget * itself)


def llf_by_plots(res: lmm.LMMResults, data: pd.DataFrame) -> float:
    V = covariance(res, data, data)
    if res.term_labels:
        gen = data["gen"].to_numpy()
        V = V + res.cov_re.iloc[0, 0] * np.equal.outer(gen, gen)
    return dense_llf(res.design.exog, res.design.endog, V, reml=True)


def test_a_uniformity_trial_is_asremls():
    """agridat's page of the data: 0.1044, 0.2458 and 0.8186 by asreml 3."""
    res = lmm.fit(f"y ~ 1 + {PLAIN}", BARLEY)
    assert res.converged
    assert_close(res.scale, 0.1044, 5e-4)  # of four digits
    assert_close(res.residual_params[["rho[col]", "rho[row]"]], [0.2458, 0.8186], 3e-4)


@pytest.mark.parametrize(
    ("residual", "llf", "rho", "variance", "units"),
    [
        (PLAIN, -700.322, [0.458607, 0.683767], 38754.2, 0.0),
        (UNITS, -696.823, [0.682682, 0.843791], 45796.3, 4861.48),
    ],
)
def test_slate_hall_is_asremls(residual, llf, rho, variance, units):
    """The example of ASReml's user guide, varieties fixed, without and with a units term.

    Its log-likelihood leaves the constant out: half of 125 log 2 pi.
    """
    res = lmm.fit(f"y ~ gen + {residual}", WHEAT)
    assert res.converged
    assert_close(res.llf + 0.5 * 125 * np.log(2 * np.pi), llf, 1e-6)
    assert_close(res.residual_params[["rho[row]", "rho[col]"]], rho, PRINTED)
    share = res.residual_params.get("nugget", 0.0)
    assert_close(res.scale * (1 - share), variance, 2e-4)
    assert_close(res.scale * share, units, 2e-4)


@pytest.mark.parametrize("runtime", ["numpy", "jax"])
@pytest.mark.parametrize("residual", [PLAIN, UNITS])
def test_the_criterion_is_the_dense_one(residual, runtime):
    formula = f"y ~ 1 + (1 | gen) + {residual.replace('| 1', '| field')}"
    res = lmm.fit(formula, TRIAL, runtime=runtime)
    assert res.converged
    assert_close(res.llf, llf_by_plots(res, TRIAL), RTOL)
    layout, theta = res.design.layout, res.theta
    with jax.enable_x64(True):
        at = jax.value_and_grad(lambda t: lmm.profile_loglike(t, layout))
        found, slope = at(jax.numpy.array(theta))
    assert_close(found, res.llf, RTOL)
    assert np.abs(slope).max() < 1e-5


def test_closed_derivatives_are_jaxs():
    """The closed-form Hessian in theta beside JAX's, at a point that is no optimum."""
    design = lmm.design(f"y ~ 1 + (1 | gen) + {UNITS.replace('| 1', '| field')}", TRIAL)
    theta = np.array([0.7, 0.4, -0.3, -1.0])
    with jax.enable_x64(True):
        f = lambda t: lmm.profile_loglike(t, design.layout)  # noqa: E731
        slope, bend = jax.grad(f)(theta), jax.hessian(f)(theta)
    res = lmm.fit(design)
    jet = profile_jet(theta, jax.tree.map(np.asarray, design.compressed.layout), reml=True)
    assert res.converged
    assert_close(-0.5 * jet.gradient, slope, 1e-8, np.abs(slope).max())
    assert_close(-0.5 * jet.hessian, bend, 1e-8, np.abs(bend).max())


def test_plots_that_were_lost_are_predicted_by_kriging():
    """Best linear unbiased predictions from all plots of the field, with their variance."""
    formula = f"y ~ 1 + {UNITS.replace('| 1', '| field')}"
    res = lmm.fit(formula, TRIAL)
    whole = pd.MultiIndex.from_product([list("ab"), range(1, 11), range(1, 7)])
    seen = pd.MultiIndex.from_frame(TRIAL[["field", "row", "col"]])
    new = whole.difference(seen).to_frame(index=False, name=["field", "row", "col"])
    new.index += 1000
    found = res.predict(new, conditional=True, se=True)
    V, X = covariance(res, TRIAL, TRIAL), np.ones((len(TRIAL), 1))
    c = covariance(res, new, TRIAL)
    Vi = np.linalg.inv(V)
    Phi = np.linalg.inv(X.T @ Vi @ X)
    beta = Phi @ X.T @ Vi @ TRIAL["y"].to_numpy()
    assert_close(found["fit"], beta + c @ Vi @ (TRIAL["y"].to_numpy() - beta), 1e-8, 1)
    free = 1 - c @ Vi @ X
    assert_close(found["std_error"], np.sqrt((free @ Phi @ free.T).diagonal()), 1e-8, 1)


def test_numbers_may_be_labels_and_either_axis_comes_first():
    res = lmm.fit(f"y ~ 1 + {PLAIN}", BARLEY)
    other = lmm.fit("y ~ 1 + ar1(col | 1) * ar1(row | 1)", BARLEY.assign(
        row=pd.Categorical(BARLEY["row"].astype(str)), col=BARLEY["col"] + 100))  # fmt: skip
    assert_close(other.llf, res.llf, RTOL)
    assert_close(other.residual_params[res.residual_params.index], res.residual_params, TOL)
    table = res.residual_cov([[1, 1], [3, 2]])
    rho = res.residual_params
    assert_close(table.iloc[0, 1], res.scale * rho["rho[row]"] ** 2 * rho["rho[col]"], RTOL)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("step", [2, 3, 100])
def test_coordinates_count_in_their_own_step(sign, step):
    """Centimetres, every second row: the same correlations of neighbours, of either sign."""
    rng = np.random.default_rng(1)
    row, col = (at.ravel() for at in np.meshgrid(np.arange(12), np.arange(10), indexing="ij"))
    K = (0.6 * sign) ** np.abs(row[:, None] - row) * 0.5 ** np.abs(col[:, None] - col)
    y = np.linalg.cholesky(K) @ rng.normal(size=120)
    plain, apart = (
        lmm.fit(f"y ~ 1 + {PLAIN}", pd.DataFrame({"row": row * k + 7, "col": col, "y": y}))
        for k in (1, step)
    )
    assert_close(apart.llf, plain.llf, RTOL)
    assert_close(apart.residual_params, plain.residual_params, TOL)
    pair = pd.DataFrame({"col": [1, 1], "row": [7, 7 + 3 * step]})
    table = apart.residual_cov(pair)
    assert_close(table.iloc[0, 1], apart.scale * plain.residual_params["rho[row]"] ** 3, 1e-5)
    with pytest.raises(lmm.DataError, match="columns a, row: those of"):
        apart.residual_cov(pair.rename(columns={"col": "a"}))
    new = pd.DataFrame({"row": [7 + 12 * step], "col": [3]})
    one = plain.predict(new.assign(row=[19]), conditional=True)
    assert_close(apart.predict(new, conditional=True), one, TOL, 1)
    with pytest.raises(lmm.DataError, match="between the rows or columns"):
        apart.predict(new.assign(row=[8]), conditional=True)


def test_each_of_two_fields_may_have_its_own():
    """Two fits of a field each have the same log-likelihoods, where their means differ."""
    formula = "y ~ 0 + field + ar1(row | field / field) * ar1(col | field / field)"
    both = lmm.fit(formula, TRIAL, reml=False)
    alone = [lmm.fit(f"y ~ 1 + {PLAIN}", TRIAL[TRIAL["field"] == f], reml=False) for f in "ab"]
    assert_close(both.llf, sum(one.llf for one in alone), RTOL)
    for f, one in zip("ab", alone, strict=True):
        own = both.residual_params[[f"rho[{f},row]", f"rho[{f},col]", f"sd[{f}]"]]
        assert_close(own, [*one.residual_params, one.sigma], TOL, 1)


def test_independence_and_no_nugget_are_special_cases():
    """Tests of two parameters and of one, the second at a boundary; axes in either order."""
    none, plain, units, turned = (
        lmm.fit(f"y ~ gen + (1 | rep){part}", WHEAT, reml=False)
        for part in ("", f" + {PLAIN}", f" + {UNITS}", " + ar1(col | 1) * ar1(row | 1)")
    )
    for small, large, df, boundary in (
        (none, plain, 2, False), (none, units, 3, True), (plain, units, 1, True),
        (turned, units, 1, True),
    ):  # fmt: skip
        row = lmm.anova(small, large).iloc[1]
        assert row["df"] == df
        assert_close(row["chisq"], 2 * (large.llf - small.llf), 1e-7)
        assert ("p_boundary" in row and np.isfinite(row["p_boundary"])) == boundary
    renamed = WHEAT.assign(at=WHEAT["row"])
    alone = lmm.fit("y ~ gen + (1 | rep) + ar1(at | col)", renamed, reml=False)
    with pytest.raises(lmm.DataError, match="no special case"):  # its subjects are columns
        lmm.anova(alone, plain)


@pytest.mark.parametrize(
    ("residual", "message"),
    [
        ("ar1(row | 1, nugget=True)", "nugget=True` belongs to .*, and to a field's"),
        ("cs(row | 1, nugget=True)", "nugget=True` belongs to .*, and to a field's"),
        ("cs(row | 1, nugget=False)", "nugget=True` belongs to"),
        ("ar1(row | 1) * ar1(row | 1)", "two of a kind"),
        ("ar1(row | 1) * ar1(col | gen)", "two of a kind"),
        ("ar1(row | 1) * cs(col | 1)", "two of a kind"),
        ("ar1(row | 1) * ar1(col | 1) * ar1(gen | 1)", "two of a kind"),
        ("ar1(half | 1) * ar1(col | 1)", "whole numbers"),
        ("ar1(name | 1) * ar1(col | 1)", "whole numbers"),
        ("ar1(one | 1) * ar1(at | 1)", "different values of `one`"),
        ("ar1(few | 1) * ar1(col | 1)", "two rows at"),
        ("ar1(day | 1) * ar1(col | 1)", "whole numbers"),
        ("ar1(odd | 1) * ar1(col | 1)", "whole numbers"),
    ],
)
def test_what_is_no_field_is_refused(residual, message):
    days = pd.Timestamp("2024-03-01") + pd.to_timedelta(BARLEY["row"], "D")
    data = BARLEY.assign(day=days, odd=BARLEY["row"] % 2 == 1)
    data = data.assign(half=BARLEY["row"] / 2, name="a", one=1, few=BARLEY["row"] // 2, gen=1,
                         at=np.arange(len(BARLEY)))  # fmt: skip
    with pytest.raises((lmm.DataError, lmm.FormulaError), match=message):
        lmm.fit(f"y ~ 1 + {residual}", data)


def test_coefficients_that_look_like_axes_are_named():
    with pytest.warns(lmm.OrderWarning, match=r"`ar1\(row \| field\) \* ar1\(col \| field\)`"):
        lmm.design("y ~ 1 + ar1(row + col | field)", TRIAL)


def test_what_follows_from_a_fit_knows_of_it():
    formula = f"y ~ 1 + (1 | gen) + {PLAIN.replace('| 1', '| field')}"
    res = lmm.fit(formula, TRIAL)
    drawn = lmm.simulate(res, seed=1, n=4000)
    gen = TRIAL["gen"].to_numpy()
    V = covariance(res, TRIAL, TRIAL) + res.cov_re.iloc[0, 0] * np.equal.outer(gen, gen)
    assert np.abs(np.cov(drawn.to_numpy()) - V).max() < 6 * V.max() / np.sqrt(4000)
    boot = lmm.bootstrap(res, 40, seed=2)
    assert boot.n_failed < 4
    many = lmm.fit_many(res.design, drawn.iloc[:, :2], progress=False)
    one = lmm.fit(formula, TRIAL.assign(y=drawn.iloc[:, 1]))
    assert_close(many.llf[1], one.llf, 1e-8)
