"""Plots of data with ordinary, long names: all texts can be read, and say what is drawn."""

from functools import cache
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from fits import nitrogen
from helpers import Term, dense_blups

import lmm_jax as lmm

pytest.importorskip("matplotlib")
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.quiver import Quiver

from lmm_jax.plots import canvas
from lmm_jax.plots.room import fold

plots = lmm.plots
TOL = 1e-8  # two ways to the conditional means
PIXELS = 2.0  # boxes of letters are larger than what is drawn of them
ARM, WEEK = "Treatment condition", "Time since onset (weeks)"
PERSON = "Participant identifier"
ARMS = [
    "Cognitive behavioural therapy",
    "Waiting list control",
    "Treatment as usual",
    "Medication (sertraline)",
]


@pytest.fixture(autouse=True)
def clean():
    yield
    plt.close("all")


@cache
def depression():
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(60), 8)
    data = pd.DataFrame({PERSON: [f"participant {i:03d} (clinic A)" for i in person]})
    data[ARM], data[WEEK] = rng.choice(ARMS, 60)[person], np.tile(np.arange(8.0), 60)
    data["BDI"] = 20 + 4 * rng.normal(size=60)[person] - data[WEEK] + 3 * rng.normal(size=480)
    return data


@cache
def slopes():
    return lmm.fit(f"BDI ~ `{ARM}` * `{WEEK}` + (`{WEEK}` | `{PERSON}`)", depression())


@cache
def intercepts():
    return lmm.fit(f"BDI ~ `{ARM}` * `{WEEK}` + (1 | `{PERSON}`)", depression())


@cache
def small():
    """Estimates whose axes have a multiplier."""
    data = depression().assign(BDI=lambda d: 1e-6 * d["BDI"])
    return lmm.fit(f"BDI ~ `{ARM}` * `{WEEK}` + (1 | `{PERSON}`)", data)


@cache
def dated():
    """A covariate of dates with a long name."""
    name, data = "date of the visit to the outpatient clinic of the hospital", depression()
    data = data.assign(**{name: pd.Timestamp(0) + pd.to_timedelta(9 * data[WEEK], unit="D")})
    return lmm.fit(f"BDI ~ as.numeric(`{name}`) + (1 | `{PERSON}`)", data), name


@cache
def arms():
    return lmm.emmeans(slopes(), ARM)


@cache
def genotypes():
    rng, name = np.random.default_rng(1), [f"genotype {i:02d}" for i in range(60)]
    data = pd.DataFrame({"line": np.repeat(name, 4), "block": np.tile(np.arange(4), 60)})
    data["y"] = 3 * rng.normal(size=60).repeat(4) + rng.normal(size=240)
    return lmm.emmeans(lmm.fit("y ~ line + (1 | block)", data), "line")


# ------------------------------------------------------------ room


def texts_of(ax):
    """What is drawn of the texts of Axes: labels of ticks within the limits alone."""
    ticks = []
    for axis in (ax.xaxis, ax.yaxis):
        low, high = sorted(axis.get_view_interval())
        ticks += [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
    legend = ax.get_legend()
    names = [] if legend is None else [legend.get_title(), *legend.get_texts()]
    of_axes = (ax.xaxis.label, ax.yaxis.label, ax.xaxis.offsetText, ax.yaxis.offsetText)
    return [ax.title, *of_axes, *ticks, *names]


def illegible(drawn):
    """Texts that leave the figure, and pairs that lie on each other."""
    figure = np.ravel(drawn)[0].figure
    figure.canvas.draw()
    texts = [text for ax in np.ravel(drawn) for text in texts_of(ax)]
    texts += [*figure.texts, *(text for one in figure.legends for text in one.get_texts())]
    texts = [text for text in texts if text.get_visible() and text.get_text().strip()]
    boxes = [(text.get_text(), text.get_window_extent().extents) for text in texts]
    size = figure.bbox.size + PIXELS
    outside = [name for name, e in boxes if (e[:2] < -PIXELS).any() or (e[2:] > size).any()]
    return outside + [
        (name, other)
        for (name, a), (other, b) in combinations(boxes, 2)
        if (np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]) > PIXELS).all()
    ]


DRAWN = {
    "bootstrap": lambda: plots.bootstrap(lmm.bootstrap(slopes(), 30, seed=1)),
    "caterpillar": lambda: plots.caterpillar(slopes(), levels=20),
    "coefficients": lambda: plots.coefficients(slopes()),
    "coefficients of two": lambda: plots.coefficients(
        {"Full model": slopes(), "Intercepts only": intercepts()}
    ),
    "comparisons": lambda: plots.comparisons(arms()),
    "contrasts": lambda: plots.comparisons(arms().pairs()),
    "curve over dates": lambda: plots.predictions(*dated()),
    "fits over dates": lambda: plots.fits(*dated(), levels=5),
    "Dunnett": lambda: plots.comparisons(arms().contrast("trt.vs.ctrl")),
    "fits": lambda: plots.fits(slopes(), WEEK, levels=6),
    "influence": lambda: plots.influence(lmm.influence(intercepts())),
    "interaction": lambda: plots.interaction(arms()),
    "interaction of two": lambda: plots.interaction(
        lmm.emmeans(slopes(), [ARM, WEEK], at={WEEK: [0, 4, 7]})
    ),
    "interaction of many": lambda: plots.interaction(genotypes()),
    "many means": lambda: plots.comparisons(genotypes()),
    "overview": lambda: slopes().plot(),
    "p values": lambda: plots.pwpp(arms()),
    "predictions": lambda: plots.predictions(slopes(), WEEK),
    "profile": lambda: plots.profile(lmm.profile(intercepts())),
    "quantiles": lambda: plots.qq_random_effects(slopes()),
    "small bootstrap": lambda: plots.bootstrap(lmm.bootstrap(small(), 30, seed=1)),
    "small coefficients": lambda: plots.coefficients(small()),
    "small means": lambda: plots.comparisons(lmm.emmeans(small(), ARM)),
    "small profile": lambda: plots.profile(lmm.profile(small())),
    "shrinkage": lambda: plots.shrinkage(slopes()),
    "variances": lambda: plots.variance_components(slopes()),
}


@pytest.mark.parametrize("name", DRAWN)
def test_texts_are_inside_and_off_each_other(name):
    drawn = DRAWN[name]()
    assert not illegible(drawn)
    for ax in np.ravel(drawn):  # names leave the panels their room
        figure, spec = ax.figure, ax.get_subplotspec().get_gridspec()
        shares = ax.get_window_extent().size / figure.bbox.size * [spec.ncols, spec.nrows]
        assert (shares > 0.25).all()


def test_a_panel_has_its_width_beside_long_names():
    ax = plots.coefficients(slopes())
    ax.figure.canvas.draw()
    assert ax.get_window_extent().width > 0.5 * 5.8 * ax.figure.dpi
    assert ax.get_xlabel().replace("\n", " ") == "Coefficient, 95% intervals"


def test_names_of_many_groups_are_thinned_below_an_axis():
    ax = plots.interaction(genotypes())
    names = [label.get_text() for label in ax.get_xticklabels()]
    kept = [i for i, name in enumerate(names) if name]
    assert len(names) == 60 and kept == list(range(0, 60, kept[1]))
    assert names[0] == "genotype 00"


def test_given_axes_fold_their_labels():
    figure, two = plt.subplots(1, 2, layout="constrained", figsize=(9, 4))
    plots.comparisons(arms().contrast("trt.vs.ctrl"), ax=two[1])
    plots.qq_residuals(slopes(), ax=two[0])
    assert not illegible(two)
    assert figure.get_size_inches().tolist() == [9, 4]


def test_a_multiplier_keeps_its_place_in_given_axes():
    _, two = plt.subplots(1, 2, layout="constrained", figsize=(8, 4))
    for _ in range(2):  # drawing on them again moves nothing
        plots.comparisons(lmm.emmeans(small(), ARM), ax=two[0])
        assert not illegible(two)
        pad = two[0].xaxis.labelpad
        assert 8 < pad < 30
    plots.coefficients(intercepts(), ax=two[1])
    assert two[1].xaxis.labelpad == matplotlib.rcParams["axes.labelpad"]


def test_names_that_have_room_are_as_they_were():
    ax = plots.interaction(lmm.emmeans(nitrogen(), "Nf"))
    assert ax.figure.get_size_inches().tolist() == [6.4, 4.4]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["n00", "n20", "n40", "n60"]
    assert ax.get_xticklabels()[0].get_rotation() == 0


@pytest.mark.parametrize(
    ("text", "most", "lines", "folded"),
    [
        ("age", 8, None, "age"),
        ("arm[T.usual]:age (weeks)", 15, None, "arm[T.usual]:\nage (weeks)"),
        ("one two three four", 9, None, "one two\nthree\nfour"),
        ("a - b", 3, None, "a -\nb"),
        ("first\nsecond", 6, None, "first\nsecond"),
        ("participant_0123456789", 12, 1, "partic…56789"),
        ("x" * 9, 5, None, "xx…xx"),
        ("", 5, None, ""),
    ],
)
def test_fold(text, most, lines, folded):
    assert fold(text, most, lines) == folded


def test_folded_lines_are_short_and_lose_nothing():
    rng = np.random.default_rng(2)
    for _ in range(50):
        words = ["".join(rng.choice(list("abcde"), rng.integers(1, 8))) for _ in range(12)]
        text = " ".join(words)
        rows = fold(text, 16).split("\n")
        assert max(map(len, rows)) <= 16 and " ".join(rows) == text


# ------------------------------------------------------------ legends


@cache
def of_levels(count):
    """A fit with a factor of some levels beside one of three, and a covariate."""
    rng = np.random.default_rng(5)
    rows = [(f"level number {i:02d}", h, g) for i in range(count) for h in "uvw" for g in range(3)]
    data = pd.DataFrame(rows, columns=["f", "h", "g"])
    data["x"], data["y"] = rng.normal(size=(2, len(data)))
    return lmm.fit("y ~ f + h + x + (1 | g)", data)


LINES = {
    "interaction": lambda res, **k: plots.interaction(lmm.emmeans(res, ["h", "f"]), **k),
    "predictions": lambda res, **k: plots.predictions(res, "x", by="f", **k),
}


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("count", [8, 20, 30, 36, 60])
def test_legends_of_many_lines_stand_beside_the_data(name, count):
    ax = LINES[name](of_levels(count))
    assert not illegible(ax)
    frame, legend = ax.get_window_extent(), ax.get_legend().get_window_extent()
    assert len(ax.get_legend().get_texts()) == count
    assert legend.x0 >= frame.x1 - PIXELS and legend.height <= frame.height + PIXELS
    assert (frame.size > np.array([2.5, 2.5]) * ax.figure.dpi).all()
    assert (ax.figure.get_size_inches() < 16).all()


def test_figures_are_as_tall_as_legends_of_long_names():
    data = pd.DataFrame({"f": [f"{'a long name of a level ' * 4}{i}" for i in range(18)] * 6})
    data["g"], data["h"] = np.repeat(np.arange(6), 18), np.repeat(["u", "v"] * 3, 18)
    data["y"] = np.random.default_rng(6).normal(size=108)
    ax = plots.interaction(lmm.emmeans(lmm.fit("y ~ f + h + (1 | g)", data), ["h", "f"]))
    assert not illegible(ax)
    assert ax.get_legend().get_window_extent().height <= ax.get_window_extent().height + PIXELS
    assert ax.figure.get_size_inches()[1] > 4.4


@pytest.mark.parametrize("name", LINES)
def test_legends_leave_given_axes_their_frame(name):
    figure, two = plt.subplots(1, 2, layout="constrained", figsize=(9, 4))
    LINES[name](of_levels(36), ax=two[0])
    figure.canvas.draw()
    assert (two[0].get_window_extent().size > [300, 300]).all()
    assert two[0].get_legend().get_window_extent().height < two[0].get_window_extent().height


def test_more_lines_than_a_plot_has_are_refused():
    res = of_levels(61)
    with pytest.raises(lmm.DataError, match=r"61 lines, one for each f, .* at=.'f': \[...\]"):
        plots.predictions(res, "x", by="f")
    with pytest.raises(lmm.DataError, match=r"61 lines, .* x='f', or choose levels, .*at="):
        LINES["interaction"](res)
    assert not plt.get_fignums()
    few = [f"level number {i:02d}" for i in range(3)]
    assert len(plots.predictions(res, "x", by="f", at={"f": few}).get_legend().get_texts()) == 3
    means = lmm.emmeans(res, ["h", "f"], at={"f": few})
    assert len(plots.interaction(means).get_legend().get_texts()) == 3
    assert plots.interaction(lmm.emmeans(res, ["h", "f"]), x="f").get_legend()


def test_lines_look_different():
    looks = [canvas.series(i) for i in range(60)]
    assert len({tuple(map(str, look.values())) for look in looks}) == 60
    assert len({(look["color"], str(look["linestyle"])) for look in looks[:24]}) == 24


# ------------------------------------------------------------ what is drawn where


@pytest.mark.parametrize("levels", [10, 12, 20])
def test_p_values_stand_at_their_places(levels):
    rng = np.random.default_rng(3)
    data = pd.DataFrame(
        [(f"c{v:02d}", b) for v in range(levels) for b in range(4)], columns=["c", "b"]
    )
    effect = np.where(np.arange(levels) < 4, 0.4, 6.0) * np.arange(levels)
    data["y"] = effect.repeat(4) + rng.normal(size=4)[data["b"]] + rng.normal(size=4 * levels)
    means = lmm.emmeans(lmm.fit("y ~ c + (1 | b)", data), "c")
    ax, p = plots.pwpp(means), means.pairs().to_frame()["p_value"].to_numpy()
    lines = [c for c in ax.collections if isinstance(c, LineCollection)]
    found = np.concatenate([np.array(c.get_segments()) for c in lines])
    pairs = np.sort(np.round(found[:, :, 1]).astype(int), axis=1)
    rank = np.argsort(np.argsort(means.to_frame()["estimate"].to_numpy()))
    wanted = np.sort(rank[np.column_stack(np.triu_indices(levels, 1))], axis=1)
    where = {tuple(pair): place for pair, place in zip(pairs, found[:, 0, 0], strict=True)}
    place = np.array([where[tuple(pair)] for pair in wanted])
    moved = place - np.cbrt(p)
    assert (moved >= -1e-12).all() and moved.max() <= 0.03 + 1e-12
    assert ((place < np.cbrt(0.05)) == (p < 0.05)).all()
    assert place.max() <= 1.0 and ax.get_xlim()[1] < 1.1


def shrunk(ax):
    """Ends of the arrows of one coefficient, by name."""
    (arrows,) = [c for c in ax.collections if isinstance(c, Quiver)]
    start = arrows.XY[:, 0]
    names = [label.get_text() for label in ax.get_yticklabels()]
    return pd.DataFrame({"separate": start, "mixed": start + np.asarray(arrows.U)}, index=names)


def test_both_ends_of_shrinkage_are_deviations_within_the_block():
    data, res = lmm.load_dataset("oats"), nitrogen()
    block = data["Block"].astype(str)
    plot = data["Variety"].astype(str) + ":" + block
    one = np.ones((len(data), 1))
    terms = [Term(one, plot.to_numpy()), Term(one, block.to_numpy())]
    sd = res.varcorr.set_index("grp")["sdcor"]
    theta = [sd["Variety:Block"] / sd["Residual"], sd["Block"] / sd["Residual"]]
    X, y = res.model_matrix().to_numpy(), data["yld"].to_numpy()
    plots_of, blocks = dense_blups(X, y, terms, theta, reml=True)
    effect = pd.Series(blocks.values[:, 0], blocks.levels)
    rest = y - X @ res.fe_params.to_numpy() + res.fe_params["Intercept"]
    found = shrunk(plots.shrinkage(res, "Variety:Block"))
    wanted = pd.Series(rest - block.map(effect).to_numpy()).groupby(plot.to_numpy()).mean()
    np.testing.assert_allclose(found["separate"], wanted[found.index], rtol=TOL)
    mixed = pd.Series(plots_of.values[:, 0], plots_of.levels) + res.fe_params["Intercept"]
    np.testing.assert_allclose(found["mixed"], mixed[found.index], rtol=TOL)
    share = (found - res.fe_params["Intercept"]).eval("mixed / separate")
    np.testing.assert_allclose(share, 4 / (4 + theta[0] ** -2), rtol=TOL)
    outer = shrunk(plots.shrinkage(res, "Block"))  # what lies within a block is left in its rows
    means = pd.Series(rest).groupby(block.to_numpy()).mean()
    np.testing.assert_allclose(outer["separate"], means[outer.index], rtol=TOL)


def test_shrinkage_beside_crossed_effects():
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"pupil": np.repeat(np.arange(20), 3), "rater": rng.integers(0, 5, 60)})
    data["y"] = rng.normal(size=20)[data["pupil"]] + 4 * rng.normal(size=5)[data["rater"]]
    data["y"] += rng.normal(size=60)
    res = lmm.fit("y ~ 1 + (1 | pupil) + (1 | rater)", data)
    raters = res.random_effects["rater"]["Intercept"]
    alone = data["y"] - raters.reindex(data["rater"]).to_numpy()
    found = shrunk(plots.shrinkage(res, "pupil"))
    wanted = alone.groupby(data["pupil"].astype(str)).mean()
    np.testing.assert_allclose(found["separate"], wanted[found.index], rtol=TOL)
    deviations = found - res.fe_params["Intercept"]
    assert (deviations["mixed"].abs() <= deviations["separate"].abs()).all()
    assert (deviations["mixed"] * deviations["separate"] >= 0).all()


@cache
def singular():
    """Plots of a site are alike: their variance is zero, that of sites is not."""
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"site": np.repeat(range(8), 6), "plot": np.repeat(range(24), 2)})
    data["y"] = rng.normal(size=8)[data["site"]] + rng.normal(size=48)
    means = (data.groupby(name)["y"].transform("mean") for name in ("plot", "site"))
    data["y"] -= 0.9 * (next(means) - next(means))
    return lmm.fit("y ~ 1 + (1 | site/plot)", data)


def test_effects_without_a_variance_are_zero():
    assert singular().varcorr["sdcor"][0] == 0
    ax = plots.caterpillar(singular(), "plot:site")
    points = next(c for c in ax.collections if isinstance(c, PathCollection)).get_offsets()
    assert len(points) == 24 and not points[:, 0].any()
    assert ax.get_xlim() == (-1, 1) and ax.get_xticks().tolist() == [0]
    assert ax.get_title() == "The variance is zero"
    quantiles = plots.qq_random_effects(singular(), "plot:site")
    assert quantiles.get_ylim() == (-1, 1) and quantiles.get_yticks().tolist() == [0]


def test_the_overview_shows_effects_that_have_a_variance():
    ax = singular().plot()[3]
    assert ax.get_ylabel() == "site"
    points = next(c for c in ax.collections if isinstance(c, PathCollection)).get_offsets()
    np.testing.assert_allclose(
        points[:, 0], singular().random_effects["site"]["Intercept"].sort_values()
    )


# ------------------------------------------------------------ what texts say


def test_interaction_says_what_its_bars_are():
    means = lmm.emmeans(nitrogen(), "Nf")
    assert plots.interaction(means).get_ylabel() == "Estimated marginal mean of yld, 95% intervals"
    assert plots.interaction(means, level=0.9).get_ylabel().endswith(", 90% intervals")
    narrow = lmm.emmeans(nitrogen(), "Nf", level=0.8)
    assert plots.interaction(narrow).get_ylabel().endswith(", 80% intervals")


def test_predictions_say_where_other_variables_are_held():
    data = lmm.load_dataset("orthodont").assign(mass=lambda d: 3.0 * d["age"] ** 0.5)
    res = lmm.fit("distance ~ age + Sex + mass + (1 | Subject)", data)

    def small_print(ax):
        return [text.get_text().replace("\n", " ") for text in ax.texts]

    mean = f"{data['mass'].mean():.4f}"
    assert small_print(plots.predictions(res, "age")) == [f"At Sex = Male, mass = {mean}"]
    assert small_print(plots.predictions(res, "age", by="Sex")) == [f"At mass = {mean}"]
    told = plots.predictions(res, "age", at={"Sex": "Female", "mass": 9.5, "age": [8, 10]})
    assert small_print(told) == ["At Sex = Female, mass = 9.5"]
    told.figure.canvas.draw()
    note, label = (text.get_window_extent() for text in (told.texts[0], told.xaxis.label))
    assert 0 <= note.y0 < note.y1 <= label.y0
    assert not plots.predictions(lmm.fit("distance ~ age + (1 | Subject)", data), "age").texts


def test_contrasts_have_a_heading():
    by = lmm.emmeans(lmm.fit("yld ~ Nf * Variety + (1 | Block)", lmm.load_dataset("oats")),
                     "Nf", by="Variety")  # fmt: skip
    assert plots.comparisons(by.pairs()).get_ylabel() == "Contrast, Variety"
    assert plots.comparisons(by).get_ylabel() == "Nf, Variety"


def test_residuals_of_subjects_are_called_by_their_column():
    res = lmm.mmrm("FEV1 ~ AVISIT + ar1(AVISIT | USUBJID)", lmm.load_dataset("fev1"))
    assert plots.residuals_by_group(res).get_ylabel().startswith("USUBJID")


def test_curves_of_a_weighted_fit_say_what_new_observations_are():
    data = pd.DataFrame({"g": np.repeat(np.arange(20), 6), "x": np.tile(np.arange(6.0), 20)})
    data["w"] = 1.0 + data["x"]
    data["y"] = np.random.default_rng(1).normal(data["x"]) + data["g"] % 5
    ax = plots.predictions(lmm.fit("y ~ x + (1 | g)", data, weights="w"), "x")
    assert "New observations have weight one" in [text.get_text() for text in ax.texts]


def test_the_scale_of_regridded_means_is_named():
    for response, label in (("log(yld)", "yld"), ("I(yld * 2)", "I(yld * 2)")):
        res = lmm.fit(f"{response} ~ Nf + (1 | Block)", lmm.load_dataset("oats"))
        ax = plots.interaction(lmm.emmeans(res, "Nf").regrid("log"))
        assert ax.get_ylabel().startswith(f"Estimated marginal mean of log({label})")
