"""Plots: what the artists hold against numbers made from the result in another way."""

import pickle
import pkgutil
import random
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from examples import check_module
from fits import dyestuff, oats, sleep
from scipy import integrate, stats
from test_garbage import GARBAGE

import lmm_jax as lmm

pytest.importorskip("matplotlib")
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgb
from matplotlib.quiver import Quiver

plots = lmm.plots
RTOL = 1e-12  # the same numbers by another way
ITERATED = 1e-6  # quantiles of profiles and of bootstraps: roots, order statistics
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def clean():
    """Figures are closed; settings are as before."""
    before = dict(matplotlib.rcParams)
    yield
    plt.close("all")
    assert dict(matplotlib.rcParams) == before


# ------------------------------------------------------------ fits


@cache
def growth():
    return lmm.fit("distance ~ age * Sex + (age | Subject)", lmm.load_dataset("orthodont"))


@cache
def casks():
    data = lmm.load_dataset("pastes")
    return lmm.fit("strength ~ 1", data, groups="batch", vc_formula={"c": "0 + C(cask)"})


@cache
def trial():
    formula = "FEV1 ~ ARMCD * AVISIT + us(AVISIT | USUBJID)"
    return lmm.mmrm(formula, lmm.load_dataset("fev1"))


@cache
def boot():
    return lmm.bootstrap(dyestuff(), n_boot=200, seed=1)


@cache
def profiled():
    return lmm.profile(dyestuff())


@cache
def many():
    data, rng = lmm.load_dataset("machines"), np.random.default_rng(1)
    Y = rng.normal(size=(54, 40)) + np.outer(data["Machine"] == "B", np.arange(40) < 10)
    return lmm.fit_many("~ Machine + (1 | Worker)", data, Y, progress=False)


def power_table():
    rows = [
        (effect, size, 6 * size, p, p - 0.05, p + 0.04)
        for effect, base in ((0.2, 0.3), (0.4, 0.5))
        for size, p in ((40, base + 0.3), (10, base), (20, base + 0.2))
    ]
    return pd.DataFrame(rows, columns=["effect", "size", "n_obs", "power", "conf_low", "conf_high"])


# ------------------------------------------------------------ artists


def offsets(ax, number=0):
    """Places of one set of points."""
    sets = [c for c in ax.collections if isinstance(c, PathCollection)]
    return np.asarray(sets[number].get_offsets())


def segments(ax, number=0):
    """Ends of one set of lines, (k, 2, 2)."""
    return np.array(
        [c for c in ax.collections if isinstance(c, LineCollection)][number].get_segments()
    )


def line(ax, number=0):
    return np.asarray(ax.lines[number].get_xydata(), dtype=float)


def curves(ax):
    """Lines of more than two points."""
    return [np.asarray(one.get_xydata(), float) for one in ax.lines if len(one.get_xdata()) > 2]


def close(a, b, rtol=RTOL):
    scale = np.max(np.abs(np.asarray(b, float)), initial=1e-300)
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale)


# ------------------------------------------------------------ every function

# name: a call with keywords, and how many Axes it draws on
CALLS = {
    "autocorrelation": (lambda **k: plots.autocorrelation(sleep(), **k), 1),
    "bootstrap": (lambda **k: plots.bootstrap(boot(), **k), 3),
    "caterpillar": (lambda **k: plots.caterpillar(sleep(), **k), 2),
    "coefficients": (lambda **k: plots.coefficients(growth(), **k), 1),
    "comparisons": (lambda **k: plots.comparisons(lmm.emmeans(oats(), "Nf"), **k), 1),
    "fits": (lambda **k: plots.fits(sleep(), levels=["308", "372"], **k), 2),
    "influence": (lambda **k: plots.influence(lmm.influence(sleep()), **k), 1),
    "interaction": (lambda **k: plots.interaction(lmm.emmeans(oats(), "Nf"), **k), 1),
    "overview": (lambda **k: plots.overview(sleep(), **k), 4),
    "plot": (lambda **k: sleep().plot(**k), 4),
    "power": (lambda **k: plots.power(power_table(), **k), 1),
    "predictions": (lambda **k: plots.predictions(sleep(), "Days", **k), 1),
    "profile": (lambda **k: plots.profile(profiled(), **k), 3),
    "pvalue_histogram": (lambda **k: plots.pvalue_histogram(many(), "Machine[T.B]", **k), 1),
    "pwpp": (lambda **k: plots.pwpp(lmm.emmeans(oats(), "Nf"), **k), 1),
    "qq_random_effects": (lambda **k: plots.qq_random_effects(sleep(), **k), 2),
    "qq_residuals": (lambda **k: plots.qq_residuals(sleep(), **k), 1),
    "residuals_by_group": (lambda **k: plots.residuals_by_group(sleep(), **k), 1),
    "residuals_fitted": (lambda **k: plots.residuals_fitted(sleep(), **k), 1),
    "scale_location": (lambda **k: plots.scale_location(sleep(), **k), 1),
    "shrinkage": (lambda **k: plots.shrinkage(sleep(), **k), 1),
    "variance_components": (lambda **k: plots.variance_components(sleep(), **k), 1),
    "variogram": (lambda **k: plots.variogram(sleep(), **k), 1),
    "volcano": (lambda **k: plots.volcano(many(), "Machine[T.B]", **k), 1),
}


def test_every_function_is_in_the_table():
    assert set(CALLS) == {*plots.__all__, "plot"}


@pytest.mark.parametrize("name", CALLS)
def test_the_given_axes_are_drawn_on_and_returned(name):
    call, count = CALLS[name]
    fig, given = plt.subplots(1, count, squeeze=False)
    wanted = given[0] if count > 1 or name in ("bootstrap", "profile") else given[0, 0]
    drawn = call(ax=wanted)
    assert list(np.atleast_1d(drawn)) == list(given[0])
    assert plt.get_fignums() == [fig.number]
    for ax in given[0]:
        assert ax.has_data()
        assert ax.get_xlabel() or name == "fits"


def test_axes_of_the_wrong_kind_or_number():
    fig, two = plt.subplots(1, 2)
    with pytest.raises(lmm.DataError, match="ax is a Figure: one Axes"):
        plots.qq_residuals(sleep(), ax=fig)
    with pytest.raises(lmm.DataError, match="ax holds 2 Axes: 4 are needed"):
        sleep().plot(ax=two)
    assert not any(ax.has_data() for ax in two)


WRONG = {
    "no fit": (lambda: plots.caterpillar(boot()), "res is a BootstrapResults: a result of lmm.fit"),
    "no profile": (lambda: plots.profile(sleep()), "profile is a LMMResults: a result of lmm.prof"),
    "no means": (lambda: plots.pwpp(sleep()), "means is a LMMResults: means of lmm.emmeans"),
    "no fits": (lambda: plots.coefficients([sleep(), 3]), "res is a int: a result of lmm.fit"),
    "not one fit": (lambda: plots.coefficients({}), "fits has no fits"),
    "an intercept": (lambda: plots.coefficients(dyestuff()), "pass intercept=True"),
    "a joint test": (lambda: plots.comparisons(sleep().f_test("Days")), "no effects of its own"),
    "another adjustment": (
        lambda: plots.comparisons(sleep().t_test("Days"), adjust="holm"), "adjust='holm': tests",
    ),
    "another scale": (
        lambda: plots.comparisons(sleep().t_test("Days"), type="response"), "tests have one scale",
    ),
    "no bootstrap": (lambda: plots.bootstrap(3), "boot is a int: a result of lmm.bootstrap, or"),
    "no influence": (lambda: plots.influence(sleep()), "influence is a LMMResults"),
    "no many": (lambda: plots.volcano(sleep()), "many is a LMMResults"),
    "no table": (lambda: plots.power(3), "table is a int: the frame of lmm.power"),
    "another table": (lambda: plots.power(pd.DataFrame({"size": [1]})), "no column 'effect'"),
    "a term": (lambda: plots.caterpillar(sleep(), "subject"), "factor='subject': choose from"),
    "a coefficient": (lambda: plots.caterpillar(sleep(), coefficient="x"), "coefficient='x'"),
    "a kind": (lambda: plots.qq_residuals(sleep(), kind="raw"), "kind='raw': choose from resp"),
    "a level of trust": (lambda: plots.caterpillar(sleep(), level=95), "level=95"),
    "a level": (lambda: plots.fits(sleep(), levels=["1"]), "'Subject' has no level"),
    "a variable": (lambda: plots.fits(sleep(), "Day"), "x='Day': the variables .* are Days; pass"),
    "a short variable": (lambda: plots.fits(sleep(), [1, 2]), "x has the shape .2,.: 180 values"),
    "no covariate": (lambda: plots.fits(oats()), "no covariate: pass x"),
    "no x": (lambda: plots.predictions(sleep(), "Day"), "x='Day': choose from Days"),
    "a factor": (lambda: plots.predictions(growth(), "Sex"), "x='Sex' is a factor"),
    "by": (lambda: plots.predictions(growth(), "age", by="sex"), "the variables are Sex, age"),
    "two by": (lambda: plots.predictions(growth(), "age", by=["Sex"]), "one name is needed, the v"),
    "time": (lambda: plots.autocorrelation(growth(), time="Sex"), r"\['Sex'\].map.{'Male': 1, "),
    "a parameter": (lambda: plots.bootstrap(boot(), "tau"), "names='tau'"),
    "which term": (lambda: plots.volcano(many()), "term=None: choose from Intercept, Machine"),
    "no estimate": (
        lambda: plots.volcano(many().wald_test("Machine[T.B] = 0, Machine[T.C] = 0")), "an F test",
    ),
    "no effects": (lambda: plots.shrinkage(trial()), "no random effects"),
    "a component": (lambda: plots.shrinkage(casks()), "factor='c' is a variance component"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    call, message = WRONG[name]
    with pytest.raises(lmm.DataError, match=message):
        call()
    assert not plt.get_fignums()


@cache
def arguments():
    """Calls with every argument, all of them right."""
    s, means, rows = sleep(), lmm.emmeans(oats(), ["Nf", "Variety"]), lmm.influence(sleep())
    term, level = {"factor": "Subject", "coefficient": "Days"}, {"level": 0.9}
    kind, smoother = {"kind": "pearson"}, {"smoother": True}
    by = {"factor": "Subject", **kind}
    volcano = {"many": many(), "term": "Machine[T.B]"}
    return {
        "autocorrelation": {"res": s, **by, "time": "Days", "lags": 3, **level},
        "bootstrap": {"boot": boot(), "names": ["sigma"], "kind": "basic", **level},
        "caterpillar": {"res": s, **term, **level, "levels": ["308"], "labels": True},
        "coefficients": {"fits": growth(), "intercept": True, "rename": {"age": "Age"}, **level},
        "comparisons": {"means": means, "alpha": 0.1, "adjust": "none", "type": "link"},
        "fits": {"res": s, "x": "Days", "factor": "Subject", "levels": ["308"], "columns": 1},
        "influence": {"influence": rows, "kind": "hat_values", "label": 2},
        "interaction": {"means": means, "x": "Nf", "type": "link", **level},
        "overview": {"res": s},
        "power": {"table": power_table(), "x": "size", "target": 0.8},
        "predictions": {
            "res": growth(), "x": "age", "by": "Sex", "at": {"age": [8, 10]}, "new": True,
            "residuals": True, "type": "response", **level,
        },
        "profile": {"profile": profiled(), "absolute": True, "levels": [0.9]},
        "pvalue_histogram": {**volcano, "bins": 5},
        "pwpp": {"means": means, "adjust": "none", "alpha": 0.1},
        "qq_random_effects": {"res": s, **term, **level},
        "qq_residuals": {"res": s, **kind, **level},
        "residuals_by_group": {"res": s, **by},
        "residuals_fitted": {"res": s, **kind, **smoother},
        "scale_location": {"res": s, **kind, **smoother},
        "shrinkage": {"res": s, "factor": "Subject", "coefficients": ("Days", "Intercept"),
                      "label": True},
        "variance_components": {"res": s, "scale": "vcov", "method": "wald", **level},
        "variogram": {"res": s, "time": "Days", **by, **smoother},
        "volcano": {**volcano, "fdr": 0.1, "label": 2},
    }  # fmt: skip


def garbage():
    """Names of functions, arguments and values."""
    for name, good in arguments().items():
        for argument in (*good, "ax"):
            for value in GARBAGE:
                if (argument, value) not in {("lags", "2**31"), ("bins", "2**31")}:
                    yield name, argument, value


def refused(name, argument, value):
    """What is wrong with the way a call ends; None if nothing is."""
    given = {**arguments()[name], argument: GARBAGE[value]()}
    try:
        getattr(plots, name)(**given)
    except (lmm.DataError, lmm.FormulaError) as error:
        return None if str(error) else "no message"
    except Exception as error:
        return f"{name}({argument}={value}): {type(error).__name__}: {error}"
    finally:
        plt.close("all")
    return None


def test_garbage_is_refused_in_words():
    everything = list(garbage())
    assert {name for name, _, _ in everything} == set(plots.__all__)
    chosen = random.Random(0).sample(everything, 120)
    assert not [wrong for case in chosen if (wrong := refused(*case))]


def test_without_matplotlib_the_message_names_the_extra():
    program = """
import sys
sys.modules["matplotlib"] = None
import lmm_jax as lmm
res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
for draw in (lmm.plots.caterpillar, lmm.LMMResults.plot):
    try:
        draw(res)
    except ImportError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "plots need matplotlib: pip install 'lmm-jax[plot]'\n" * 2


def test_results_and_plots_import_no_matplotlib():
    program = """
import sys, lmm_jax
lmm_jax.LMMResults, lmm_jax.plots.qq_residuals
print("matplotlib" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"


def test_colours_differ_in_grey():
    from lmm_jax.plots.canvas import series

    looks = [series(i) for i in range(4)]
    grey = np.sort([np.dot(to_rgb(look["color"]), (0.299, 0.587, 0.114)) for look in looks])
    assert np.diff(grey).min() > 0.05
    assert len({(look["marker"], str(look["linestyle"])) for look in looks}) == 4


# ------------------------------------------------------------ residuals


def test_residuals_against_fitted():
    ax = plots.residuals_fitted(sleep(), kind="response")
    table = sleep().augment()
    close(offsets(ax), table[["fitted", "resid"]])
    assert ax.get_xlabel() == "Fitted Reaction"
    assert len(curves(ax)) == 1
    assert not curves(plots.residuals_fitted(sleep(), smoother=False))


def test_scale_location():
    ax = plots.scale_location(sleep())
    values = sleep().resid("standardized").to_numpy()
    close(offsets(ax), np.column_stack([sleep().fittedvalues, np.abs(values) ** 0.5]))


def test_whitened_residuals_where_there_is_a_residual_covariance():
    panels = trial().plot()
    assert panels[0].get_ylabel() == "Whitened residuals"
    assert panels[3].get_ylabel() == "Autocorrelation, whitened residuals"
    close(offsets(panels[0])[:, 1], trial().resid("whitened"))


def test_boxes_of_groups():
    ax = plots.residuals_by_group(sleep(), kind="response")
    data = lmm.load_dataset("sleepstudy")
    by = sleep().resid.groupby(data["Subject"].to_numpy())
    medians = by.median().sort_values()
    assert [t.get_text() for t in ax.get_yticklabels()] == [str(k) for k in medians.index]
    close(segments(ax, 1)[:, 0, 0], medians)
    lower, upper = (by.quantile(q)[medians.index].to_numpy() for q in (0.25, 0.75))
    close([[b.get_x(), b.get_x() + b.get_width()] for b in ax.patches], np.c_[lower, upper])
    reach = 1.5 * (upper - lower)
    inside = [
        v[(v >= lo) & (v <= hi)]
        for v, lo, hi in zip(
            (by.get_group(k).to_numpy() for k in medians.index),
            lower - reach, upper + reach, strict=True,
        )
    ]  # fmt: skip
    close(segments(ax, 0)[:, :, 0], [[v.min(), v.max()] for v in inside])
    assert len(offsets(ax)) == 180 - sum(map(len, inside))


def test_quantiles_of_residuals_are_those_of_scipy():
    ax = plots.qq_residuals(sleep(), kind="pearson")
    values = np.sort(sleep().resid("pearson"))
    theory = stats.norm.ppf((np.arange(180) + 0.5) / 180)
    close(offsets(ax), np.column_stack([theory, values]))
    quartiles = np.quantile(values, [0.25, 0.75])
    slope = np.diff(quartiles)[0] / (2 * stats.norm.ppf(0.75))
    close(line(ax)[:, 1], quartiles.mean() + slope * theory)
    i = np.arange(1, 181)
    band = ax.collections[0].get_paths()[0].vertices
    for p in (0.025, 0.975):
        wanted = quartiles.mean() + slope * stats.norm.ppf(stats.beta.ppf(p, i, 181 - i))
        assert all(np.min(np.abs(band[:, 1] - y)) < 1e-8 for y in wanted)


def test_quantiles_of_random_effects():
    panels = plots.qq_random_effects(sleep(), level=0.9)
    for ax, name in zip(panels, ("Intercept", "Days"), strict=True):
        table = sleep().random_effects["Subject"][name].sort_values()
        close(offsets(ax)[:, 1], table)
        se = sleep().random_effects_cov["Subject"].std_errors[name][table.index].to_numpy()
        half = stats.norm.ppf(0.95) * se
        close(segments(ax)[:, :, 1], np.c_[table - half, table + half])
    alone = plots.qq_random_effects(sleep(), coefficient="Days")
    assert alone.get_ylabel() == "Days of Subject"


# ------------------------------------------------------------ levels


def test_caterpillar():
    panels = plots.caterpillar(sleep(), "Subject")
    blups = sleep().random_effects["Subject"]
    order = blups["Intercept"].sort_values().index
    errors = sleep().random_effects_cov["Subject"].std_errors.loc[order]
    for ax, name in zip(panels, ("Intercept", "Days"), strict=True):
        b, half = blups.loc[order, name], stats.norm.ppf(0.975) * errors[name]
        close(offsets(ax), np.c_[b, np.arange(18)])
        close(segments(ax)[:, :, 0], np.c_[b - half, b + half])
        close(segments(ax)[:, :, 1], np.c_[np.arange(18), np.arange(18)])
    assert [t.get_text() for t in panels[0].get_yticklabels()] == [str(x) for x in order]
    one = plots.caterpillar(sleep(), coefficient="Days")
    close(offsets(one)[:, 0], np.sort(blups["Days"]))


def schools():
    """Seventy schools of two pupils, and four examiners."""
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"school": np.repeat(np.arange(70), 4), "x": np.tile(np.arange(4.0), 70)})
    data["by"] = rng.permutation(np.tile(list("abcd"), 70))
    data["y"] = rng.normal(size=70)[data["school"]] + rng.normal(size=280)
    data["y"] += data["by"].map({"a": 0.0, "b": 2.0, "c": 4.0, "d": 6.0})
    return lmm.fit("y ~ x + (1 | school) + (1 | by)", data)


def test_names_of_many_levels_where_they_are_asked_for():
    res = schools()
    effects = res.random_effects["school"]["Intercept"].sort_values()
    few, every = plots.caterpillar(res), plots.caterpillar(res, labels=True)
    assert not few.get_yticklabels() and few.get_ylabel() == "school (70)"
    assert [t.get_text() for t in every.get_yticklabels()] == list(map(str, effects.index))
    assert every.figure.get_figheight() == pytest.approx(1.2 + 0.22 * 70)
    assert not plots.caterpillar(res, "by", labels=False).get_yticklabels()
    assert plots.caterpillar(res, factor="by").get_ylabel() == "by"
    shrunken = plots.shrinkage(res, label=True)
    assert len(shrunken.get_yticklabels()) == 70


def test_some_levels_of_a_caterpillar():
    res = schools()
    effects = res.random_effects["school"]["Intercept"].sort_values()
    ax = plots.caterpillar(res, levels=[3, 68, "5"])
    own = effects.loc[[level for level in effects.index if level in (3, 5, 68)]]
    close(offsets(ax), np.c_[own, np.arange(3)])
    assert [t.get_text() for t in ax.get_yticklabels()] == list(map(str, own.index))
    assert ax.get_ylabel() == "school (3 of 70)"
    farthest = effects[effects.abs() >= effects.abs().nlargest(10).iloc[-1]]
    close(offsets(plots.caterpillar(res, levels=10))[:, 0], farthest)
    cask = plots.caterpillar(casks(), "c", levels=["A:C(cask)[a]"])
    assert [t.get_text() for t in cask.get_yticklabels()] == ["A:C(cask)[a]"]


def test_fits_say_how_many_levels_they_leave_out():
    res = schools()
    drawn = plots.fits(res, "x")
    assert len(drawn) == 36 and drawn[0].figure.get_suptitle() == "school: 36 of 70"
    some = plots.fits(res, "x", levels=4)
    assert [ax.get_title() for ax in some] == ["0", "1", "2", "3"]
    assert some[0].figure.get_suptitle() == "school: 4 of 70"
    assert plots.fits(res, "x", levels=[1, 2])[0].figure.get_suptitle() == ""
    assert plots.fits(res, "x", levels=70)[0].figure.get_suptitle() == ""


def test_the_factor_has_one_name():
    for draw in (plots.caterpillar, plots.shrinkage, plots.qq_random_effects):
        with pytest.raises(TypeError, match="'term': did you mean 'factor'"):
            draw(sleep(), term="Subject")


def shrunk(ax):
    """Where arrows of one piece begin and end."""
    (arrows,) = [c for c in ax.collections if isinstance(c, Quiver)]
    assert arrows.angles == arrows.scale_units == "xy" and arrows.scale == 1.0
    return arrows.XY, arrows.XY + np.column_stack([arrows.U, arrows.V])


def test_shrinkage_from_separate_regressions():
    ax = plots.shrinkage(sleep())
    data = lmm.load_dataset("sleepstudy")
    separate = [np.polyfit(d["Days"], d["Reaction"], 1)[::-1] for _, d in data.groupby("Subject")]
    close(offsets(ax, 0), separate, 1e-9)  # polyfit scales its columns
    close(offsets(ax, 1), sleep().coef()["Subject"][["Intercept", "Days"]])
    close(offsets(ax, 2), [sleep().fe_params[["Intercept", "Days"]]])
    start, end = shrunk(ax)
    close(start, offsets(ax, 0))
    close(end, offsets(ax, 1))


def test_shrinkage_of_means_and_of_other_fixed_effects():
    ax = plots.shrinkage(dyestuff())
    means = lmm.load_dataset("dyestuff").groupby("Batch")["Yield"].mean().sort_values()
    close(offsets(ax, 0), np.c_[means, np.arange(6)])
    close(offsets(ax, 1)[:, 0], dyestuff().coef()["Batch"]["Intercept"][means.index])
    assert [t.get_text() for t in ax.get_yticklabels()] == list(means.index)
    from lmm_jax.plots.separate_fits import shrinkage_of

    data, res = lmm.load_dataset("oats"), oats()
    rest = (
        data["yld"] - (res.model_matrix() @ res.fe_params).to_numpy() + res.fe_params["Intercept"]
    )
    found = shrinkage_of(res, "Block").separate["Intercept"]
    close(found, rest.groupby(data["Block"]).mean()[found.index])


def chicks():
    """Growth that is curved in the mean, and straight around it; one chick is seen once."""
    rng = np.random.default_rng(5)
    data = pd.DataFrame({"t": np.tile(np.arange(2.0, 8.0), 12), "g": np.repeat(np.arange(12), 6)})
    own = rng.normal(0, [4.0, 1.5], (12, 2))
    data["y"] = 40 + data["t"] ** 2 + own[data["g"], 0] + own[data["g"], 1] * data["t"]
    data["y"] += rng.normal(size=72)
    return data.drop(index=data.index[67:])


@pytest.mark.parametrize("fixed", ["poly(t, 2)", "1", "t + I(t**2)"])
def test_both_ends_of_shrinkage_are_one_quantity(fixed):
    data = chicks()
    res = lmm.fit(f"y ~ {fixed} + (t | g)", data)
    ax = plots.shrinkage(res)
    rest = res.resid("marginal").to_numpy()
    own = [np.polyfit(data["t"][i], rest[i], 1)[::-1] for i in data.groupby("g").indices.values()
           if len(i) > 1]  # fmt: skip
    names = ["Intercept", "t"]
    at = res.fe_params[names].to_numpy() if fixed.startswith("t") else np.zeros(2)
    close(offsets(ax, 0)[:11], own + at, 1e-8)  # polyfit scales its columns
    close(offsets(ax, 1), res.random_effects["g"][names] + at)
    close(offsets(ax, 2), [at])
    assert len(shrunk(ax)[0]) == 11
    what = "" if fixed.startswith("t") else ", deviation from the population"
    assert (ax.get_xlabel(), ax.get_ylabel()) == (f"Intercept{what}", f"t{what}")


def test_fits_of_levels():
    drawn = plots.fits(sleep(), levels=["308", "335"])
    data = lmm.load_dataset("sleepstudy")
    for ax, level in zip(drawn, ("308", "335"), strict=True):
        own = data[data["Subject"].astype(str) == level]
        close(offsets(ax), own[["Days", "Reaction"]])
        a, b = sleep().coef()["Subject"].loc[level, ["Intercept", "Days"]]
        close(line(ax, 1), np.c_[own["Days"], a + b * own["Days"]])
        close(line(ax, 0)[:, 1], sleep().predict(own))
        assert ax.get_title() == level


def pupils():
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"school": np.repeat(np.arange(5), 20), "ses": rng.normal(size=100)})
    data["sex"], data["age"] = rng.choice(["boy", "girl"], 100), rng.normal(size=100)
    data["y"] = data["ses"] + 2 * (data["sex"] == "girl") + rng.normal(size=5)[data["school"]]
    return data.assign(y=data["y"] + rng.normal(size=100))


def test_fits_have_a_line_for_every_level_of_factors_within():
    data = pupils()
    res = lmm.fit("y ~ ses + sex + (ses | school)", data)
    (ax,) = plots.fits(res, "ses", levels=[2])
    drawn = [one.get_xydata() for one in ax.lines if len(one.get_xdata())]
    assert len(drawn) == 4  # of the population and of the school, boys and girls
    for i, sex in enumerate(("boy", "girl")):
        own = data[(data["school"] == 2) & (data["sex"] == sex)].sort_values("ses")
        close(drawn[2 * i], np.c_[own["ses"], res.predict(own)])
        close(drawn[2 * i + 1], np.c_[own["ses"], res.predict(own, conditional=True)])
        slopes = np.diff(drawn[2 * i + 1][:, 1]) / np.diff(drawn[2 * i + 1][:, 0])
        assert np.ptp(slopes) < 1e-6  # straight
    (legend,) = ax.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["boy", "girl"]
    moving = lmm.fit("y ~ ses + age + (1 | school)", data)  # no function of ses: no line
    (ax,) = plots.fits(moving, "ses", levels=[2])
    assert not ax.lines and len(ax.collections) == 2


def test_a_single_series_is_one_subject():
    data = pd.DataFrame(
        {"t": np.arange(60), "y": np.cumsum(np.random.default_rng(1).normal(size=60))}
    )
    res = lmm.fit("y ~ t + ar1(t | 1)", data)
    assert len(np.ravel(res.plot())) == 4
    plots.autocorrelation(res)
    (ax,) = plots.fits(res, "t")
    assert ax.get_title() == "all rows"


def test_what_is_no_function_of_x_stands_as_dots():
    data = pupils()
    data["item"] = np.arange(100) % 7
    for terms in ("(1 | school) + (1 | item)", "(age | school)"):
        res = lmm.fit(f"y ~ ses + {terms}", data)
        (ax,) = plots.fits(res, "ses", factor="school", levels=[2])
        assert not ax.lines and len(ax.collections) == 2
    dollars = data.assign(sex=data["sex"].map({"boy": "$5 & \\frac$", "girl": "$10_{ x"}))
    (ax,) = plots.fits(lmm.fit("y ~ ses + sex + (1 | school)", dollars), "ses", levels=[2])
    ax.figure.canvas.draw()  # no mathematics
    (legend,) = ax.figure.legends
    assert legend.get_texts()[0].get_text() == "$10_{ x"


def test_contrasts_stand_beside_zero():
    pairs = lmm.emmeans(oats(), "Nf").pairs()
    ax = plots.comparisons(pairs)
    table = pairs.to_frame()
    found = np.vstack([offsets(ax, i) for i in range(2)])
    close(np.sort(found[:, 0]), np.sort(table["estimate"]))
    ends = np.vstack([s for one in ax.collections for s in getattr(one, "get_segments", list)()])
    close(np.sort(ends[:, 0]), np.sort(table[["conf_low", "conf_high"]].to_numpy().ravel()))
    assert not ax.texts and ax.lines[0].get_xdata()[0] == 0
    assert ax.get_xlabel() == "Difference, 95% intervals, adjusted by Tukey"


def test_ticks_of_a_number_stand_at_its_values():
    ages = lmm.emmeans(growth(), ["age", "Sex"], at={"age": [8, 9.5, 14]})
    ax = plots.interaction(ages, "age")
    assert ax.get_xticks().tolist() == [8, 9.5, 14]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["8", "9.5", "14"]
    many_ages = lmm.emmeans(growth(), ["age", "Sex"], at={"age": np.linspace(8, 14, 40)})
    assert len(plots.interaction(many_ages, "age").get_xticks()) < 20


def boxes(texts):
    """Rectangles of texts as they are drawn, (k, 4): left, bottom, right, top."""
    texts[0].figure.canvas.draw()
    return np.array([t.get_window_extent().extents for t in texts])


def test_letters_stand_beside_the_bars_of_other_lines():
    ax = plots.interaction(lmm.emmeans(oats(), ["Nf", "Variety"]), letters=True)
    for text, (left, bottom, right, top) in zip(ax.texts, boxes(ax.texts), strict=True):
        for i in range(3):
            if text.get_color() == ax.lines[i].get_color():
                continue  # its own
            for ends in segments(ax, i):
                (x, low), (_, high) = ax.transData.transform(ends)
                assert not (left < x < right and bottom < high and top > low)


def test_names_of_points_stay_inside_and_off_other_points():
    rng = np.random.default_rng(4)
    data = lmm.load_dataset("machines")
    Y = rng.normal(size=(54, 60)) + np.outer(data["Machine"] == "B", 2.0 * (np.arange(60) < 9))
    Y = pd.DataFrame(Y, columns=[f"long_name_{k}" for k in range(60)])
    found = lmm.fit_many("~ Machine + (1 | Worker)", data, Y, progress=False)
    ax = plots.volcano(found, "Machine[T.B]", label=5)
    rectangles, frame = boxes(ax.texts), ax.get_window_extent()
    assert (rectangles[:, :2] >= frame.p0).all() and (rectangles[:, 2:] <= frame.p1).all()
    points = ax.transData.transform(np.vstack([offsets(ax, 0), offsets(ax, 1)]))
    inside = (points[:, None] > rectangles[:, :2]) & (points[:, None] < rectangles[:, 2:])
    assert not inside.all(axis=2).any()


def test_adjustments_are_spelled_as_in_tables():
    contrasts = lmm.emmeans(oats(), "Nf").contrast("trt.vs.ctrl", ref="n00")
    label = plots.comparisons(contrasts).get_xlabel()
    assert label == "Difference, 95% intervals, adjusted by Dunnett (approximate)"
    label = plots.pwpp(lmm.emmeans(oats(), "Nf"), adjust="fdr").get_xlabel()
    assert label == "P value, adjusted by Benjamini-Hochberg"


def forest_of(ax):
    """Rows of one series of a forest from the top: estimates, lower and upper limits."""
    ends = np.vstack([s for one in ax.collections for s in getattr(one, "get_segments", list)()])
    points = np.vstack([c.get_offsets() for c in ax.collections if isinstance(c, PathCollection)])
    order = np.argsort(-points[:, 1])
    ends = ends.reshape(-1, 2, 2)
    return np.c_[points[order, 0], ends[np.argsort(-ends[:, 0, 1])][:, :, 0]]


def test_tests_of_hypotheses_have_a_forest():
    tests = lmm.hypotheses(growth(), ["age = 0", "Intercept = 2"], adjust="holm")
    ax = plots.comparisons(tests, alpha=0.1)
    rows = ["estimate", "conf_low", "conf_high"]
    nulls = segments(ax)
    close(nulls[:, 0, 0], [0, 2])  # values that differ stand in their rows
    nulls = next(c for c in ax.collections if isinstance(c, LineCollection))
    nulls.remove()
    close(forest_of(ax), tests.summary_frame(alpha=0.1)[rows])
    assert [t.get_text() for t in ax.get_yticklabels()] == list(tests.c_names)[::-1]
    assert ax.get_xlabel() == "Estimate, 90% intervals, adjusted by Holm"
    alone = plots.comparisons(sleep().t_test("Days = 10"))
    assert alone.lines[0].get_xdata()[0] == 10
    functions = lmm.hypotheses(sleep(), lambda p: {"ratio": p["Days"] / p["Intercept"]})
    close(forest_of(plots.comparisons(functions)), functions.to_frame()[rows], 1e-9)


def test_coefficients_of_one_fit():
    ax = plots.coefficients(growth(), level=0.9, rename={"age": "Age"})
    table = growth().tidy("fixed", conf_level=0.9).set_index("term")
    names = ["age", "Sex[T.Female]", "age:Sex[T.Female]"]
    close(forest_of(ax), table.loc[names, ["estimate", "conf_low", "conf_high"]])
    shown = [label.get_text() for label in ax.get_yticklabels()]
    assert shown == ["Age:Sex[T.Female]", "Sex[T.Female]", "Age"]
    assert ax.lines[0].get_xdata()[0] == 0 and ax.get_legend() is None
    everything = plots.coefficients(growth(), intercept=True).get_yticklabels()
    assert everything[-1].get_text() == "Intercept"


def test_coefficients_of_several_fits_stand_beside_each_other():
    data = lmm.load_dataset("orthodont")
    additive = lmm.fit("distance ~ age + Sex + (1 | Subject)", data)
    ax = plots.coefficients([additive, growth()])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["(1)", "(2)"]
    names = ["age", "Sex[T.Female]", "age:Sex[T.Female]"]
    for i, res in enumerate((additive, growth())):
        own = res.tidy("fixed").set_index("term").reindex(names)
        there, rows = own["estimate"].notna().to_numpy(), np.array([2, 1, 0]) + (0.15, -0.15)[i]
        close(offsets(ax, i), np.c_[own["estimate"], rows][there])
        close(segments(ax, i)[:, :, 0], own.loc[there, ["conf_low", "conf_high"]])


def test_a_coefficient_that_fits_spell_differently_is_one_row():
    data = lmm.load_dataset("orthodont")
    other = lmm.fit("distance ~ C(Sex) * age + (age | Subject)", data)
    names = [t.get_text() for t in plots.coefficients([growth(), other]).get_yticklabels()]
    assert names == ["age:Sex[T.Female]", "Sex[T.Female]", "age"]


def test_letters_stand_above_the_means():
    means = lmm.emmeans(oats(), "Nf")
    ax = plots.interaction(means, letters=True)
    assert [text.get_text() for text in ax.texts] == means.cld()["group"].tolist()
    assert [text.xy[1] for text in ax.texts] == means.to_frame()["conf_high"].tolist()


def test_levels_of_components():
    data, res = lmm.load_dataset("pastes"), casks()
    panels = res.plot()
    assert len(panels[3].get_yticklabels()) == 30
    assert {t.get_text() for t in panels[3].get_yticklabels()} >= {"A:C(cask)[a]"}
    ax = plots.residuals_by_group(res)
    assert sorted(t.get_text() for t in ax.get_yticklabels()) == sorted(set(data["batch"]))


def test_without_the_rows():
    restored = pickle.loads(pickle.dumps(sleep()))
    close(offsets(plots.caterpillar(restored)[0]), offsets(plots.caterpillar(sleep())[0]))
    with pytest.raises(lmm.DataError, match="restored without its data"):
        restored.plot()
    with pytest.raises(lmm.DataError, match="restored without its data"):
        plots.fits(restored)


def test_designs_from_arrays():
    data = lmm.load_dataset("sleepstudy")
    X = np.column_stack([np.ones(180), data["Days"]])
    arrays = lmm.design_from_arrays(data["Reaction"].to_numpy(), X, groups=data["Subject"])
    res = lmm.fit(arrays)
    assert len(res.plot()) == 4
    with pytest.raises(lmm.DataError, match="no covariate: pass x"):
        plots.fits(res)
    assert len(plots.fits(res, data["Days"])) == 18
    with pytest.raises(lmm.DataError, match="pass the values"):
        plots.fits(res, "Days")


def test_a_variable_by_its_values():
    from lmm_jax.plots.sources import variable_of

    data = lmm.load_dataset("sleepstudy").assign(hour=np.arange(180.0))
    res = lmm.fit("Reaction ~ Days + (1 | Subject)", data, subset=data["Days"] > 1)
    kept = data.loc[data["Days"] > 1, "hour"]
    assert variable_of(res, data["hour"]).equals(kept)  # a series of all rows: by its labels
    assert variable_of(res, kept.to_numpy()).tolist() == kept.tolist()


# ------------------------------------------------------------ predictions and means


def test_predicted_curves_and_partial_residuals():
    ax = plots.predictions(growth(), "age", by="Sex", level=0.9)
    data, shown = lmm.load_dataset("orthodont"), curves(ax)
    t = np.linspace(8, 14, 101)
    b = growth().fe_params
    for i, sex in enumerate(("Male", "Female")):
        new = pd.DataFrame({"age": t, "Sex": sex})
        low, high, mean = shown[3 * i : 3 * i + 3]
        female = sex == "Female"
        close(
            mean[:, 1],
            b.iloc[0] + b["age"] * t + female * (b["Sex[T.Female]"] + b["age:Sex[T.Female]"] * t),
        )
        limits = growth().predict(new, interval="prediction", level=0.9)
        close(low[:, 1], limits["lower"])
        close(high[:, 1], limits["upper"])
        band = growth().predict(new, se=True, level=0.9)
        ends = ax.collections[2 * i + 1].get_datalim(ax.transData).intervaly
        close(ends, [band["lower"].min(), band["upper"].max()])
        own = data[data["Sex"] == sex]  # with one covariate, partial residuals are the data
        close(offsets(ax, i), own[["age", "distance"]])


def test_partial_residuals_where_others_are_held():
    from lmm_jax.plots.predictions import curves_of

    rng, n = np.random.default_rng(0), 60
    data = pd.DataFrame({"x": rng.normal(size=n), "z": rng.normal(size=n), "g": np.arange(n) % 10})
    data["y"] = data["x"] - data["z"] + rng.normal(size=n)
    res = lmm.fit("y ~ x + z + (1 | g)", data)
    b = res.fe_params
    found = curves_of(res, "x", None, {"z": 2.0}, 0.95, True)
    close(found.residuals["y"], data["y"] - b["z"] * data["z"] + 2.0 * b["z"])
    close(found.lines["fit"], b["Intercept"] + b["x"] * found.lines["x"] + 2.0 * b["z"])
    quartiles = curves_of(res, "x", "z", None, 0.95, True)
    assert sorted(set(quartiles.lines["by"])) == list(np.quantile(data["z"], [0.25, 0.5, 0.75]))
    nearest = np.abs(data["z"].to_numpy()[:, None] - np.quantile(data["z"], [0.25, 0.5, 0.75]))
    assert (quartiles.residuals["by"] == sorted(set(quartiles.lines["by"]))[0]).sum() == np.sum(
        nearest.argmin(axis=1) == 0
    )


@pytest.mark.parametrize("kind", ["components", "slope", "visits"])
def test_curves_without_limits_of_new_observations(kind):
    """Their variance reads what has no part in the mean; ``at`` may hold its value."""
    sleep = lmm.load_dataset("sleepstudy")
    sleep["z"], sleep["part"] = np.linspace(-1.0, 1.0, 180), np.tile(["a", "b"], 90)
    how = {"groups": "Subject", "re_formula": "1", "vc_formula": {"part": "0 + C(part)"}}
    res = {
        "components": lambda: lmm.fit("Reaction ~ Days", sleep, **how),
        "slope": lambda: lmm.fit("Reaction ~ Days + (z | Subject)", sleep),
        "visits": lambda: lmm.fit("Reaction ~ Days + ar1h(Days | Subject)", sleep),
    }[kind]()
    ax = plots.predictions(res, "Days")
    mean = curves(ax)[-1]
    close(mean[:, 1], res.predict({"Days": mean[:, 0]}))
    assert all(np.isnan(line.get_ydata()).all() for line in ax.lines[:2])
    if kind != "visits":
        own = {"components": {"part": "a"}, "slope": {"z": 0.5}}[kind]
        held = plots.predictions(res, "Days", at=own)
        assert all(np.isfinite(line.get_ydata()).all() for line in held.lines)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ({"v": 77}, "knows nothing of the visit 77"),
        ({"vv": 8}, "new rows do not have: they have Sex, age, v"),
        ({"Subject": "M01"}, "new rows do not have"),
        ({"Sex": "male"}, "'male' is no level of Sex: there are Male, Female"),
        ({"Sex": None}, "None is no level of Sex"),
        ({"age": ["a", "b"]}, "numbers are needed"),
        ({"age": 8}, "the two ends of x are needed"),
    ],
)
def test_values_that_nothing_reads_are_refused(at, message):
    data = lmm.load_dataset("orthodont").assign(v=lambda d: d["age"])
    res = lmm.fit("distance ~ age + Sex + us(v | Subject)", data)
    with pytest.raises(lmm.DataError, match=message):
        plots.predictions(res, "age", at=at)
    limits = plots.predictions(res, "age", at={"v": 8}).lines[:2]
    assert all(np.isfinite(line.get_ydata()).all() for line in limits)


def logs():
    return lmm.fit("log(distance) ~ age * Sex + (age | Subject)", lmm.load_dataset("orthodont"))


def test_curves_on_the_scale_of_the_response():
    link, ax = plots.predictions(logs(), "age"), plots.predictions(logs(), "age", type="response")
    assert (link.get_ylabel(), ax.get_ylabel()) == ("log(distance)", "distance")
    for one, other in zip(curves(ax), curves(link), strict=True):
        close(one, np.c_[other[:, 0], np.exp(other[:, 1])])
    close(offsets(ax), np.c_[offsets(link)[:, 0], np.exp(offsets(link)[:, 1])])
    ends = (one.collections[1].get_datalim(one.transData).intervaly for one in (ax, link))
    close(next(ends), np.exp(next(ends)))


def test_comparisons_on_the_scale_of_the_response():
    means = lmm.emmeans(logs(), "Sex", at={"age": [8, 14]}, by="age")
    link, ax = (plots.comparisons(means, type=scale) for scale in ("link", "response"))
    table = means.to_frame(type="response")
    close(offsets(ax)[:, 0], table["estimate"])
    close(segments(ax)[:, :, 0], table[["conf_low", "conf_high"]])
    for (start, end), (a, b) in zip(arrows_of(ax), arrows_of(link), strict=True):
        close([start[0], end[0]], np.exp([a[0], b[0]]))
    assert ax.get_xlabel().startswith("Estimated marginal mean of distance\n")
    assert link.get_xlabel().startswith("Estimated marginal mean of log(distance)\n")
    ratios = plots.comparisons(means.pairs(), type="response")
    close(np.sort(forest_of(ratios)[:, 0]), np.sort(means.pairs().to_frame(type="response")
          ["estimate"]))  # fmt: skip
    assert ratios.lines[0].get_xdata()[0] == 1
    assert ratios.get_xlabel() == "Ratio, 95% intervals"
    assert ratios.get_yticklabels()[0].get_text().startswith("Male / Female")


def test_interaction():
    means = lmm.emmeans(oats(), ["Nf", "Variety"])
    ax = plots.interaction(means, level=0.9)
    table = means.to_frame(level=0.9)
    shown = {one.get_label(): one.get_ydata() for one in ax.lines}
    for i, (name, own) in enumerate(table.groupby("Variety", sort=False)):
        close(shown[name], own["estimate"])
        close(segments(ax, i)[:, :, 1], own[["conf_low", "conf_high"]])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["n00", "n20", "n40", "n60"]
    ages = lmm.emmeans(growth(), ["Sex", "age"], at={"age": [8, 14]})
    numeric = plots.interaction(ages, "age")
    assert abs(np.mean([one.get_xdata()[0] for one in numeric.lines]) - 8) < 1e-12
    trends = lmm.emtrends(growth(), "Sex", "age")
    assert plots.interaction(trends).get_ylabel() == "Slope of age, 95% intervals"


def arrows_of(ax):
    """Ends of the arrows: row to [(from, to), ..]."""
    return [(t.xyann, t.xy) for t in ax.texts if t.arrow_patch is not None]


@pytest.mark.parametrize("adjust", ["tukey", "none", "holm"])
def test_arrows_overlap_where_means_do_not_differ(adjust):
    means = lmm.emmeans(oats(), ["Nf"])
    ax = plots.comparisons(means, adjust=adjust)
    assert not ax.get_title()
    table, p = means.confint(), means.pairs(adjust=adjust).to_frame(adjust)["p_value"].to_numpy()
    close(offsets(ax), np.c_[table["estimate"], [3, 2, 1, 0]])
    close(segments(ax)[:, :, 0], table[["conf_low", "conf_high"]])
    right, left = dict.fromkeys(range(4), -np.inf), dict.fromkeys(range(4), np.inf)
    for (start, row), (end, _) in arrows_of(ax):
        (right if end > start else left)[3 - row] = end
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    for (i, j), value in zip(pairs, p, strict=True):
        low, high = (i, j) if table["estimate"][i] < table["estimate"][j] else (j, i)
        assert (right[low] > left[high]) == (value >= 0.05)


def test_arrows_of_equal_critical_differences_and_of_impossible_ones():
    from lmm_jax.plots.arrows import comparison_arrows

    means, c = np.array([5.0, 0.0, 9.5]), np.full(3, 4.0)
    found = comparison_arrows(means, c, np.full(3, True))
    close(found.right, [2.0, 2.0, 0.0], 1e-6)  # a pull towards symmetry of 1e-3 is in the squares
    close(found.left, [2.0, 0.0, 2.0], 1e-6)
    # 0 and 1 do not differ, nor 1 and 2, nor 0 and 3, but 1 from 3 though they are nearer
    means = np.array([0.0, 1.0, 1.1, 2.0])
    differs = np.array([False, False, False, False, True, True])
    found = comparison_arrows(means, np.array([3.0, 3, 3, 3, 0.8, 0.8]), differs)
    right, left = means + found.right, means - found.left
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    wrong = sum((right[i] <= left[j]) != d for (i, j), d in zip(pairs, differs, strict=True))
    assert found.wrong == wrong


def test_arrows_do_not_depend_on_the_units():
    from lmm_jax.plots.arrows import comparison_arrows

    rng = np.random.default_rng(3)
    means, c = rng.normal(size=6), rng.uniform(0.5, 1.5, 15)
    i, j = np.triu_indices(6, 1)
    differs = np.abs(means[i] - means[j]) > c
    one, other = (comparison_arrows(s * means + 7, s * c, differs) for s in (1.0, 1e6))
    close(other.right / 1e6, one.right, 1e-4)  # two descents
    assert one.wrong == other.wrong


def test_pairs_by_p_values():
    means = lmm.emmeans(oats(), "Nf")
    ax = plots.pwpp(means)
    p = means.pairs().to_frame()["p_value"].to_numpy()
    table = means.to_frame()
    rank = table["estimate"].rank().astype(int).to_numpy() - 1
    wanted = {
        tuple(sorted((rank[i], rank[j]))): value
        for (i, j), value in zip(
            [(i, j) for i in range(4) for j in range(i + 1, 4)], p, strict=True
        )
    }
    found = np.concatenate([segments(ax, 0), segments(ax, 1)])
    assert len(found) == 6
    for (x, low), (_, high) in found:
        value = wanted.pop(tuple(sorted((round(low), round(high)))))
        assert np.cbrt(value) <= x + 1e-12  # only ever moved to the right, and by little
        assert x - np.cbrt(value) < 0.05
    assert len(segments(ax, 0)) == np.sum(p < 0.05)


def test_families_are_compared_by_themselves():
    means = lmm.emmeans(oats(), "Nf", by="Variety")
    ax = plots.pwpp(means, adjust="none")
    assert len(np.concatenate([segments(ax, 0), segments(ax, 1)])) == 18
    shown = plots.comparisons(means)
    assert len(shown.get_yticklabels()) == 12
    assert len(arrows_of(shown)) == 3 * 6  # 4 means a family, the outer arrows of 2 left out


# ------------------------------------------------------------ parameters


def test_profiles():
    drawn = plots.profile(profiled(), levels=[0.95])
    for ax, (name, table) in zip(
        drawn, profiled().to_frame().groupby("parameter", sort=False), strict=True
    ):
        assert ax.get_xlabel() == name
        close(line(ax, 1), table[["value", "zeta"]])
        limits = profiled().conf_int(level=0.95).loc[name]
        ends = segments(ax)
        close(ends[:, 0, 0], limits)
        assert not ends[:, 0, 1].any()
        close(ends[:, 1, 1], [-1.959964, 1.959964], ITERATED)
        smooth = line(ax, 0)
        assert np.all(np.diff(smooth[:, 1]) > 0)
    folded = plots.profile(profiled(), absolute=True)
    assert all(line(ax, 1)[:, 1].min() >= 0 for ax in folded)


def test_bootstrap_densities():
    drawn = plots.bootstrap(boot(), ["sd(Intercept|Batch)", "sigma"])
    values, limits = boot().params("sdcor"), boot().conf_int(scale="sdcor")
    for ax, name in zip(drawn, ("sd(Intercept|Batch)", "sigma"), strict=True):
        x, y = line(ax, 0).T
        assert abs(integrate.trapezoid(y, x) - 1) < 0.01
        assert x.min() >= 0
        drawn_at = [one.get_xdata()[0] for one in ax.lines[1:]]
        close(drawn_at[1:], limits.loc[name])
        heights = np.array([b.get_height() for b in ax.patches])
        own = values[name].dropna().to_numpy()
        close(heights, np.histogram(own, len(heights), density=True)[0], 1e-9)
    ratio = boot().apply(lambda r: {"ratio": r.covariances[0][0, 0] / r.scale})
    assert plots.bootstrap(ratio)[0].get_xlabel() == "ratio"


def test_density_is_a_sum_of_kernels():
    from lmm_jax.plots.smooth import density

    values = np.random.default_rng(2).normal(size=300)
    h = 0.9 * min(values.std(ddof=1), stats.iqr(values) / 1.34) * 300**-0.2
    found = density(values)
    wanted = stats.gaussian_kde(values, h / values.std(ddof=1))
    close(found.y, wanted(found.x), 1e-10)
    reflected = density(np.abs(values), low=0.0)
    assert abs(integrate.trapezoid(reflected.y, reflected.x) - 1) < 0.01


def test_variances_as_bars():
    ax = plots.variance_components(sleep())
    wanted = [*np.sqrt(np.diagonal(sleep().cov_re)), sleep().sigma]
    close([bar.get_width() for bar in ax.patches], wanted)
    limits = sleep().conf_int(scale="sdcor")
    names = ["sd(Intercept|Subject)", "sd(Days|Subject)", "sigma"]
    close(segments(ax)[:, :, 0], limits.loc[names])
    ax = plots.variance_components(sleep(), scale="vcov", level=0.8)
    close([bar.get_width() for bar in ax.patches], np.square(wanted))
    ax = plots.variance_components(trial())
    table = trial().residual_intervals().iloc[:4]
    close([bar.get_width() for bar in ax.patches], table["estimate"])
    assert ax.get_yticklabels()[3].get_text() == "VIS1 | Residual"


# ------------------------------------------------------------ influence, dependence


def test_influence():
    found = lmm.influence(sleep())
    ax = plots.influence(found, label=2)
    close(offsets(ax), np.c_[np.arange(18), found.cooks_distance])
    close(segments(ax)[:, 1], offsets(ax))
    assert [t.get_text() for t in ax.texts] == [
        str(k) for k in found.cooks_distance.nlargest(2).index
    ]
    rows = lmm.influence(dyestuff(), "row")
    ax = plots.influence(rows, kind="conditional_cooks")
    close(offsets(ax)[:, 1], rows.conditional_cooks)


def test_autocorrelation_against_a_loop():
    res, data = sleep(), lmm.load_dataset("sleepstudy")
    shuffled = np.random.default_rng(0).permutation(180)
    ax = plots.autocorrelation(res, time="Days", lags=4)
    r = res.resid("pearson").groupby(data["Subject"].to_numpy())
    series = [own.to_numpy() for _, own in r]
    for lag, rho in offsets(ax):
        k = int(lag)
        products = np.concatenate([v[k:] * v[: len(v) - k] for v in series])
        close(rho, products.mean() / np.mean(np.concatenate(series) ** 2))
        bound = stats.norm.ppf(0.975) / np.sqrt(18 * (10 - k))
        band = ax.collections[0].get_paths()[0].vertices
        close(np.abs(band[band[:, 0] == lag][:, 1]), bound)
    again = lmm.fit("Reaction ~ Days + (Days | Subject)", data.iloc[shuffled])
    other = plots.autocorrelation(again, time="Days", lags=4)
    close(offsets(other), offsets(ax), 1e-6)  # two fits


def test_variogram_against_a_loop():
    res, data = sleep(), lmm.load_dataset("sleepstudy")
    ax = plots.variogram(res, "Days", kind="response")
    halves = {}
    for rows in data.groupby("Subject").indices.values():
        for i in rows:
            for j in rows[rows > i]:
                d = abs(data["Days"][i] - data["Days"][j])
                halves.setdefault(d, []).append((res.resid[i] - res.resid[j]) ** 2 / 2)
    close(offsets(ax), [(d, np.mean(halves[d])) for d in sorted(halves)])


def test_many_distances_are_put_together():
    from lmm_jax.plots.dependence import semivariances

    rng = np.random.default_rng(0)
    codes, when = np.repeat(np.arange(20), 10), rng.uniform(size=200)
    table = semivariances(rng.normal(size=200), codes, when)
    assert len(table) == 20
    assert table["pairs"].sum() == 20 * 45
    assert table["pairs"].between(44, 46).all()
    assert table["distance"].is_monotonic_increasing


def test_lowess_of_a_line_and_of_an_outlier():
    from lmm_jax.plots.smooth import lowess

    x = np.sort(np.random.default_rng(0).uniform(size=100))
    y = 2 - 3 * x
    y[50] += 100
    found = lowess(x, y)
    close(found.y, 2 - 3 * found.x, 1e-9)
    assert lowess(np.array([1.0, 1, 2]), np.array([1.0, 3, 5])).y.tolist() == [2.0, 5.0]


# ------------------------------------------------------------ many fits, power


def test_volcano():
    ax = plots.volcano(many(), "Machine[T.B]", label=3)
    table = many().tidy()
    table = table[table["term"] == "Machine[T.B]"]
    q = stats.false_discovery_control(table["p_value"])
    for number, part in ((0, q >= 0.05), (1, q < 0.05)):
        own = table[part]
        close(offsets(ax, number), np.c_[own["estimate"], -np.log10(own["p_value"])], 1e-9)
    best = table.nsmallest(3, "p_value")["response"]
    assert [t.get_text() for t in ax.texts] == list(best)
    assert ax.get_title() == f"{np.sum(q < 0.05)} of 40 at FDR 0.05"
    tests = many().t_test("Machine[T.B] = Machine[T.C]", moderate=True)
    other = plots.volcano(tests)
    assert len(offsets(other, 0)) + len(offsets(other, 1)) == 40


def test_histogram_of_p_values():
    ax = plots.pvalue_histogram(many(), "Machine[T.C]", bins=8)
    p = many().pvalues[:, list(many().fixed_names).index("Machine[T.C]")]
    assert [b.get_height() for b in ax.patches] == np.histogram(p, 8, (0, 1))[0].tolist()
    close(ax.lines[0].get_ydata(), [5.0, 5.0])


def test_power_curves():
    ax = plots.power(power_table())
    shown = {one.get_label(): one.get_xydata() for one in ax.lines if len(one.get_xdata()) == 3}
    close(shown["0.2"], [(10, 0.3), (20, 0.5), (40, 0.6)])
    close(shown["0.4"], [(10, 0.5), (20, 0.7), (40, 0.8)])
    band = ax.collections[0].get_paths()[0].vertices
    close(np.unique(band[band[:, 0] == 20][:, 1]), [0.45, 0.54])
    by_effect = plots.power(power_table(), x="effect")
    assert by_effect.get_xlabel() == "effect"
    assert len([one for one in by_effect.lines if len(one.get_xdata()) == 2]) >= 3
    named = power_table().replace({"size": {10: "small", 20: "middle", 40: "large"}})
    ticks = plots.power(named, x="size").get_xticklabels()
    assert [t.get_text() for t in ticks] == ["large", "small", "middle"]


# ------------------------------------------------------------ docstrings, the page


@pytest.mark.parametrize("name", sorted(m.name for m in pkgutil.iter_modules(plots.__path__)))
def test_docstrings(name):
    check_module(f"lmm_jax.plots.{name}")


def test_the_code_of_the_page_runs_and_makes_its_pictures():
    make, page = (
        runpy.run_path(str(ROOT / "docs" / "plots" / "make.py")),
        ROOT / "docs" / "plots.md",
    )
    pictures, failed, _ = make["run"](page)
    links = make["links"](page)
    assert failed == 0
    assert pictures == len(links) == len(set(links))


def test_every_function_is_on_the_page():
    text = (ROOT / "docs" / "plots.md").read_text(encoding="utf-8")
    missing = [n for n in plots.__all__ if f"lmm.plots.{n}(" not in text and n != "overview"]
    assert not missing
    assert "res.plot()" in text


def test_a_curve_that_the_data_do_not_determine_is_left_out():
    """A level of one row has no slope of its own."""
    data = lmm.load_dataset("sleepstudy").assign(f=np.tile(list("ab"), 90))
    data.loc[5, "f"] = "c"
    with pytest.warns(lmm.RankWarning):
        res = lmm.fit("Reaction ~ f * Days + (1 | Subject)", data)
    ax = lmm.plots.predictions(res, "Days", by="f")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]


def test_labels_with_dollars_are_no_mathematics():
    data = lmm.load_dataset("sleepstudy")
    data["income"] = np.where(np.arange(180) % 2, "$0-$25", "$25-$50")
    res = lmm.fit("Reaction ~ income * Days + (1 | Subject)", data)
    axes = [
        lmm.plots.predictions(res, "Days", by="income"),
        lmm.plots.interaction(lmm.emmeans(res, "income")),
    ]
    for ax in axes:
        shown = [text for text in ax.findobj(matplotlib.text.Text) if "$" in text.get_text()]
        assert shown and not any(text.get_parse_math() for text in shown)


def test_limits_of_new_observations_need_the_columns_of_their_variance():
    data = lmm.load_dataset("orthodont").assign(w=lambda d: d["age"] / 10)
    res = lmm.fit("distance ~ age + (1 | Subject) + power(w)", data)
    without, with_w = (
        lmm.plots.predictions(res, "age", residuals=False, at=at) for at in (None, {"w": 1.0})
    )
    solid = [line for line in without.get_lines() if np.isfinite(line.get_ydata()).any()]
    assert len(solid) == 1 and len(with_w.get_lines()) == 3
    assert all(np.isfinite(line.get_ydata()).all() for line in with_w.get_lines())
