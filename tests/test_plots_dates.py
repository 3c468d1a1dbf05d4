"""Plots over dates and spans of time: what is drawn stands where it does over numbers of days."""

from functools import cache
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
import samples

import lmm_jax as lmm

pytest.importorskip("matplotlib")
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.collections import PathCollection
from matplotlib.dates import num2date

from lmm_jax.plots.places import date_ticks, drawn_places

plots = lmm.plots
TOL = 1e-9  # dates are drawn to the microsecond, of 20,000 days
START = pd.Timestamp("2024-02-01 06:00")
# Types of a column whose days are those of `day`: unit, time zone.
DATES = {
    "nanoseconds": "datetime64[ns]",
    "seconds": "datetime64[s]",
    "zone": "datetime64[us, Europe/Berlin]",
}
SPANS = {"spans": "timedelta64[ns]", "seconds of spans": "timedelta64[s]"}
COLUMNS = DATES | SPANS


@pytest.fixture(autouse=True)
def clean():
    yield
    plt.close("all")


@cache
def visits(kind):
    """A column of a type, whole seconds with unequal gaps, and its days."""
    rng, n = np.random.default_rng(3), 80
    data = pd.DataFrame({"g": np.repeat(np.arange(10), 8), "x": rng.normal(size=n)})
    data["f"] = np.where(data["g"] % 2 == 0, "a", "b")
    after = pd.Series(pd.to_timedelta(np.sort(rng.integers(0, 40_000, n)), unit="s"))
    if kind in SPANS:
        data["day"], column = after / pd.Timedelta(days=1), after
    else:
        column = START + after
        data["day"] = (column - pd.Timestamp(0)) / pd.Timedelta(days=1)
    if kind == "zone":
        column = column.dt.tz_localize("UTC")
    data["t"] = column.astype(COLUMNS[kind])
    shift = data["day"] - data["day"].mean()
    data["y"] = rng.normal(size=10)[data["g"]] + 5 * shift + data["x"] + rng.normal(size=n)
    return data


@cache
def fits(kind, more="f"):
    """A fit of the column, and of its days."""
    data = visits(kind)
    return tuple(
        lmm.fit(f"y ~ {time} + {more} + (1 | g)", data) for time in ("as.numeric(t)", "day")
    )


def drawn(ax):
    """All points and lines of Axes, as numbers."""
    ax.figure.canvas.draw()
    found = [one.get_xydata() for one in ax.lines]
    for c in ax.collections:
        is_points = isinstance(c, PathCollection)
        found += [c.get_offsets()] if is_points else [path.vertices for path in c.get_paths()]
    return [np.asarray(a, float) for a in found]


def alike(first, second):
    for a, b in zip(np.ravel(first), np.ravel(second), strict=True):
        np.testing.assert_allclose(a.get_ylim(), b.get_ylim(), rtol=TOL, atol=TOL)
        for own, other in zip(drawn(a), drawn(b), strict=True):
            np.testing.assert_allclose(own, other, rtol=TOL, atol=TOL)


# ------------------------------------------------------------ curves


@pytest.mark.parametrize("kind", COLUMNS)
def test_curves_and_partial_residuals_stand_at_days(kind):
    of_time, of_days = fits(kind)
    alike(plots.predictions(of_time, "t"), plots.predictions(of_days, "day"))
    alike(plots.predictions(of_time, "t", by="f"), plots.predictions(of_days, "day", by="f"))


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_curve_for_quartiles_of_dates(kind):
    of_time, of_days = fits(kind, "x")
    ax = plots.predictions(of_time, "x", by="t")
    alike(ax, plots.predictions(of_days, "x", by="day"))
    shown = [text.get_text() for text in ax.get_legend().get_texts()]
    quartiles = visits(kind)["t"].dt.as_unit("ns").quantile([0.25, 0.5, 0.75])
    if kind in SPANS:
        days = quartiles / pd.Timedelta(days=1)
        assert shown == [f"{day:.4f}".rstrip("0") + " days" for day in days]
    else:
        assert shown == [str(q.tz_localize(None).round("s")) for q in quartiles]


def test_dates_are_held_and_said_as_dates():
    of_time, of_days = fits("seconds", "x")
    middle = START + pd.Timedelta(hours=5)
    day = (middle - pd.Timestamp(0)) / pd.Timedelta(days=1)
    for value in (middle, str(middle), middle.to_datetime64(), day):
        ax = plots.predictions(of_time, "x", at={"t": value})
        alike(ax, plots.predictions(of_days, "x", at={"day": day}))
        assert [text.get_text() for text in ax.texts] == ["At t = 2024-02-01 11:00:00"]
    two = ["2024-02-01 12:00", "2024-02-02"]
    ax = plots.predictions(of_time, "x", by="t", at={"t": two})
    shown = [text.get_text() for text in ax.get_legend().get_texts()]
    assert shown == ["2024-02-01 12:00:00", "2024-02-02"]
    close = ["2024-02-01 12:00:00.25", "2024-02-01 12:00:00.5"]
    shown = plots.predictions(fits("zone", "x")[0], "x", by="t", at={"t": [f"{t}Z" for t in close]})
    shown = [text.get_text() for text in shown.get_legend().get_texts()]
    assert shown == ["2024-02-01 13:00:00.250000", "2024-02-01 13:00:00.500000"]
    ends = np.array(two, "datetime64[s]").astype(float) / 86400
    alike(
        plots.predictions(of_time, "t", at={"t": two}),
        plots.predictions(of_days, "day", at={"day": ends}),
    )


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("seconds", "soon", "='soon': dates or numbers of days are needed"),
        ("seconds", pd.Timedelta(days=1), "dates or numbers of days"),
        ("seconds", pd.Timestamp("2024-02-01", tz="UTC"), "dates or numbers of days"),
        ("zone", START, "dates in a time zone, as of Europe/Berlin, or numbers of days"),
        ("seconds", [1, "2024-02-01"], "dates or numbers of days are needed"),
        ("seconds", [], "one value of t is needed, not"),
        ("seconds", float("nan"), "finite numbers are needed"),
        ("spans", [1.0, 2.0], "one value of t is needed, not"),
        ("spans", START, "spans of time or numbers of days"),
        ("spans", [pd.Timedelta(days=1), "soon"], "spans of time or numbers of days"),
    ],
)
def test_what_is_no_date_is_refused(kind, value, message):
    with pytest.raises(lmm.DataError, match=message):
        plots.predictions(fits(kind, "x")[0], "x", at={"t": value})


@pytest.mark.parametrize(
    ("by", "value", "message"),
    [
        (None, [1, 2], "one value of day is needed"),
        (None, "a", r"at\['day'\]='a': finite numbers"),
        ("day", ["a"], "finite numbers are needed"),
        ("day", [], "at has no values for 'day'"),
        ("day", [[1, 2]], "one list"),
    ],
)
def test_values_of_covariates_are_numbers(by, value, message):
    with pytest.raises(lmm.DataError, match=message):
        plots.predictions(fits("seconds", "x")[1], "x", by=by, at={"day": value})


# ------------------------------------------------------------ axes


@pytest.mark.parametrize("kind", COLUMNS)
def test_axes_of_time_show_dates_or_name_days(kind):
    ax = plots.predictions(fits(kind)[0], "t")
    ax.figure.canvas.draw()
    shown = [label.get_text() for label in ax.get_xticklabels()]
    if kind in SPANS:
        assert ax.get_xlabel() == "t (days)"
        return
    assert ax.get_xlabel() == "t"
    zone = ZoneInfo("Europe/Berlin" if kind == "zone" else "UTC")
    times = [f"{num2date(tick, zone):%H:%M}" for tick in ax.get_xticks()]
    assert len(times) > 3 and times == shown
    assert ax.xaxis.get_major_formatter().get_offset() == "2024-Feb-01"


@pytest.mark.parametrize("inches", [1.2, 3.0, 9.0])
@pytest.mark.parametrize(
    "days", [1e-4, 0.01, 0.1, 0.9, 1.9, 2.9, 5, 29, 61, 92, 200, 370, 800, 1100, 4e3, 7e4]
)
def test_dates_of_every_range_have_a_few_ticks(inches, days):
    figure = plt.figure(figsize=(inches, 2))
    ax = figure.add_axes((0, 0.3, 1, 0.7))
    ax.plot(drawn_places(19_754.3 + np.linspace(0, days, 5), np.dtype("M8[ns]")), np.zeros(5))
    date_ticks(ax, None)
    figure.canvas.draw()
    low, high = ax.get_xlim()
    ticks = [t for t in ax.get_xticks() if low <= t <= high]
    assert 2 <= len(ticks) <= max(5, 2.2 * inches)


def test_places_that_are_not_known_are_no_dates():
    assert np.isnat(drawn_places([np.nan, 1.0], np.dtype("M8[ns]"))).tolist() == [True, False]


# ------------------------------------------------------------ residuals and fits


@pytest.mark.parametrize("kind", COLUMNS)
def test_fits_and_dependence_over_days(kind):
    of_time, of_days = fits(kind, "x")
    panels = plots.fits(of_time, "t", levels=3)
    alike(panels, plots.fits(of_days, "day", levels=3))
    assert panels[0].figure.get_supxlabel() == ("t (days)" if kind in SPANS else "t")
    ax = plots.variogram(of_time, "t")
    alike(ax, plots.variogram(of_days, "day"))
    assert ax.get_xlabel() == "Distance in t (days)"
    alike(plots.autocorrelation(of_time, time="t"), plots.autocorrelation(of_days, time="day"))


@pytest.mark.parametrize("kind", ["zone", "seconds of spans"])
@pytest.mark.parametrize("given", [pd.Series, list, np.asarray, pd.Index])
def test_dates_by_their_values(kind, given):
    data, res = visits(kind), fits(kind)[1]
    time, days = given(data["t"]), list(data["day"])
    alike(plots.variogram(res, time), plots.variogram(res, days))
    alike(plots.fits(res, time, levels=2), plots.fits(res, days, levels=2))


def test_the_first_covariate_may_be_a_date():
    of_time, of_days = fits("seconds")
    alike(plots.variogram(of_time), plots.variogram(of_days))
    alike(plots.fits(of_time, levels=2), plots.fits(of_days, levels=2))


def test_a_date_beside_x_is_no_factor():
    alike(*(plots.fits(res, "x", levels=2) for res in fits("seconds", "x")))


def test_missing_dates_are_refused():
    dates = visits("seconds")["t"].where(np.arange(80) > 0)
    with pytest.raises(lmm.DataError, match=r"time=.*: finite numbers are needed"):
        plots.variogram(fits("seconds")[0], dates)


def test_visits_of_a_residual_covariance_that_are_dates():
    data = lmm.load_dataset("sleepstudy")
    data["day"] = data["Days"] ** 2.0  # unequal gaps
    data["date"] = pd.Timestamp("2024-02-01") + pd.to_timedelta(data["day"], unit="D")
    res = lmm.fit("Reaction ~ 1 + ar1(date | Subject)", data)
    alike(plots.variogram(res, "date"), plots.variogram(res, data["day"]))


# ------------------------------------------------------------ means


@pytest.mark.parametrize("kind", COLUMNS)
def test_means_at_dates_keep_their_distances(kind):
    data = lmm.load_dataset("sleepstudy").query("Days in (0, 1, 5, 9)")
    data["day"] = data["Days"] / 2
    after = pd.to_timedelta(data["day"] * 86400, unit="s")
    column = after if kind in SPANS else pd.Timestamp(0) + after
    column = column.dt.tz_localize("UTC") if kind == "zone" else column
    data["t"] = column.astype(COLUMNS[kind])
    ax, over_days = (
        plots.interaction(lmm.emmeans(lmm.fit(f"Reaction ~ factor({x}) + (1 | Subject)", data), x))
        for x in ("t", "day")
    )
    alike(ax, over_days)
    names = [label.get_text() for label in ax.get_xticklabels()]
    if kind in SPANS:
        assert ax.get_xticks().tolist() == [0, 0.5, 2.5, 4.5]
        assert ax.get_xlabel() == "t (days)" and names == ["0", "0.5", "2.5", "4.5"]
    else:
        assert names == ["Jan", *(f"0{day}" for day in (2, 3, 4, 5, 6)[: len(names) - 1])]


def test_a_few_dates_are_named_below_their_means():
    data = lmm.load_dataset("sleepstudy").query("Days in (0, 4, 9)")
    data["t"] = pd.Timestamp("2024-02-01") + pd.to_timedelta(data["Days"], unit="D")
    means = lmm.emmeans(lmm.fit("Reaction ~ factor(t) + (1 | Subject)", data), "t")
    ax = plots.interaction(means)
    names = ["2024-02-01", "2024-02-05", "2024-02-10"]
    assert [label.get_text() for label in ax.get_xticklabels()] == names
    assert ax.get_xticks().tolist() == [19_754, 19_758, 19_763]


def test_letters_stand_above_means_at_dates():
    data = lmm.load_dataset("sleepstudy").query("Days in (0, 1, 9)")
    data["t"] = pd.Timestamp(0) + pd.to_timedelta(data["Days"], unit="D")
    means = lmm.emmeans(lmm.fit("Reaction ~ factor(t) + (1 | Subject)", data), "t")
    ax = plots.interaction(means, letters=True)
    ax.figure.canvas.draw()
    middle = [text.get_window_extent().x0 + text.get_window_extent().width / 2 for text in ax.texts]
    wanted = ax.transData.transform(np.column_stack([[0, 1, 9], np.full(3, 300)]))[:, 0]
    np.testing.assert_allclose(middle, wanted, atol=1.5)


def test_a_logical_is_no_covariate_that_nobody_asked_for():
    data = samples.frame().assign(treated=lambda d: d["x"] > 0)
    res = lmm.fit("y ~ treated + z + (1 | g)", data)
    assert lmm.plots.variogram(res).get_xlabel() == "Distance in z"
    assert lmm.plots.fits(res, levels=2)[0].get_xlabel() in ("", "z")


def test_days_of_a_calendar_are_dates():
    days = [one.date() for one in pd.date_range("2024-01-01", periods=len(samples.frame()))]
    res = lmm.fit("y ~ x + (1 | g)", samples.frame())
    assert lmm.plots.variogram(res, days).get_xlabel().endswith("(days)")


def test_ticks_of_means_within_a_second_are_told_apart():
    times = [START + pd.Timedelta(seconds=s) for s in (0, 0.25, 0.5)]
    means = lmm.emmeans(fits("nanoseconds")[0], ["t", "f"], at={"t": times})
    ax = plots.interaction(means, "t")
    ticks = [tick.get_text() for tick in ax.get_xticklabels()]
    assert len(set(ticks)) == len(ticks) == 3
    legend = plots.interaction(means, "f").get_legend().get_texts()
    assert [text.get_text() for text in legend] == list(map(str, times))
