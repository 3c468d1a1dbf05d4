"""Results in the hands of other packages: their numbers against the same ones asked of us.

Every test needs the package that it is about (the extra ``neighbours``) and is skipped without it;
what is said without it needs none.
"""

import pickle
import re
import subprocess
import sys
import warnings
from functools import cache
from html.parser import HTMLParser

import jax
import numpy as np
import pandas as pd
import pytest
import samples
from examples import check_page
from fits import oats, sleep
from scipy import stats

import lmm_jax as lmm

PACKAGES = ("marginaleffects", "maketables", "great_tables", "statsmodels", "arviz")
RTOL = 1e-12  # the same numbers by another way
STEP = 1.0  # of coefficients, in which the mean is linear; their own leaves three digits of slopes
TOL = 1e-6  # derivatives by difference quotients, slopes by quotients of theirs

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:arviz"),  # of its next major version
    pytest.mark.filterwarnings("ignore:.*get_categories:DeprecationWarning"),  # of polars 2
]


def close(found, expected, rtol):
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(expected, float), rtol, rtol)


@pytest.fixture
def me():
    """The package marginaleffects; it turns on x64 for the process, here for the test."""
    package = pytest.importorskip("marginaleffects")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield package
    jax.config.update("jax_enable_x64", before)


# ------------------------------------------------------------ fits


def sample(**more):
    data = samples.frame()
    return data.assign(dose=np.arange(60) % 3 / 2, old=data["v"] > 0, **more)


MODELS = {
    "factors": "y ~ s * old + f + (1 | g)",
    "covariate and factor": "y ~ x * s + (1 + x | g)",
    "polynomial": "y ~ poly(x, 3) * z + (1 | g)",
    "splines": "y ~ bs(x, df=4) + ns(z, df=3) + (1 | g)",
    "numbers as levels": "y ~ C(dose) * x + dose:z + (1 | g)",
    "logical": "y ~ old * x + (1 | g)",
    "functions": "y ~ log(x ** 2 + 1) + scale(z) + C(s, Sum) + (1 | g)",
    "offset": "y ~ x + offset(o) + (1 | g)",
    "odd names": "y ~ `a & b` + (1 | g)",
    "dependent columns": "y ~ x + I(2 * x) + s + (1 | g)",
    "intercept": "y ~ 1 + (1 | g)",
    "residual covariance": "y ~ x + z + cs(s | g)",
}


@cache
def data():
    return sample(**{"a & b": samples.frame()["z"]})


@cache
def fitted(name):
    frame = data()
    if name == "residual covariance":
        frame = frame.groupby(["g", "s"], as_index=False).mean(numeric_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.RankWarning)  # of the dependent columns
        return lmm.fit(MODELS[name], frame)


# ------------------------------------------------------------ marginaleffects


@pytest.mark.parametrize("name", MODELS)
def test_predictions_are_those_of_predict(me, name):
    res = fitted(name)
    found = me.predictions(res.to_marginaleffects())
    expected = res.predict(res.design.source.rows, se=True)
    close(found["estimate"], expected["fit"], RTOL)
    close(found["std_error"], expected["std_error"], TOL)


@pytest.mark.parametrize("specs", ["Nf", "Variety", ["Nf", "Variety"]])
def test_averages_of_a_balanced_design_are_marginal_means(me, specs):
    found = me.avg_predictions(oats().to_marginaleffects(), by=specs)
    means = lmm.emmeans(oats(), specs).to_frame()
    keys = [specs] if isinstance(specs, str) else specs
    rows = pd.DataFrame({k: found[k].to_list() for k in [*keys, "estimate", "std_error"]})
    both = rows.merge(means.astype(dict.fromkeys(keys, str)), on=keys)
    assert len(both) == len(means)
    close(both["estimate_x"], both["estimate_y"], RTOL)
    close(both["std_error_x"], both["std_error_y"], TOL)


def test_comparisons_are_contrasts_of_means(me):
    found = me.avg_comparisons(oats().to_marginaleffects(), variables={"Nf": "pairwise"})
    pairs = lmm.emmeans(oats(), "Nf").contrast("revpairwise").to_frame()
    assert sorted(found["contrast"]) == sorted(pairs["contrast"])
    own = pairs.set_index("contrast").loc[list(found["contrast"])]
    close(found["estimate"], own["estimate"], RTOL * 1e3)  # differences of means
    close(found["std_error"], own["std_error"], TOL)
    single = me.comparisons(oats().to_marginaleffects(), variables="Nf")
    assert len(single) == 3 * 72


def test_slopes_are_trends(me):
    res = lmm.fit("distance ~ age * Sex + (age | Subject)", lmm.load_dataset("orthodont"))
    found = me.avg_slopes(res.to_marginaleffects(), variables="age", by="Sex", eps_vcov=STEP)
    trends = lmm.emtrends(res, "Sex", "age").to_frame().set_index("Sex").loc[list(found["Sex"])]
    close(found["estimate"], trends["estimate"], TOL)
    close(found["std_error"], trends["std_error"], TOL)


def test_slopes_of_a_polynomial_are_its_derivative(me):
    at = [0.0, 2.5, 9.0]
    model = sleep("Reaction ~ poly(Days, 2) + (1 | Subject)").to_marginaleffects()
    grid = datagrid(model, Days=at)
    found = me.slopes(model, variables="Days", newdata=grid, eps_vcov=STEP)
    raw = sleep("Reaction ~ Days + I(Days ** 2) + (1 | Subject)")
    test = raw.t_test([[0.0, 1.0, 2 * x] for x in at])
    close(found["estimate"], test.effect, TOL)
    close(found["std_error"], test.sd, TOL)


def test_hypotheses_are_t_tests(me):
    model = sleep().to_marginaleffects()
    found = me.hypotheses(model, hypothesis="Days = 5")
    test = sleep().t_test("Days = 5")
    close(found["estimate"], np.atleast_1d(test.effect) - 5, TOL)
    close(found["std_error"], test.sd, TOL)
    close(found["statistic"], test.tvalue, TOL)
    all_of_them = me.hypotheses(model)
    assert list(all_of_them["term"]) == list(sleep().fe_params.index)
    close(all_of_them["std_error"], sleep().bse_fe, TOL)


@pytest.mark.parametrize("df", [None, 17])
def test_one_number_of_degrees_of_freedom(me, df):
    found = me.hypotheses(sleep().to_marginaleffects(df=df))
    df = np.inf if df is None else df
    t = sleep().tvalues.to_numpy()
    close(found["p_value"], 2 * stats.t.sf(np.abs(t), df), TOL)
    half = stats.t.ppf(0.975, df) * sleep().bse_fe
    close(found["conf_low"], sleep().fe_params - half, TOL)


@pytest.mark.parametrize("name", ["kenward-roger", "CR2", "CR0", "normal"])
def test_covariances_by_name(me, name):
    res = oats() if name == "kenward-roger" else sleep()
    own = res.robust(name) if name.startswith("CR") else res.with_df(name)
    close(me.hypotheses(res.to_marginaleffects(), vcov=name)["std_error"], own.bse_fe, TOL)
    close(me.hypotheses(own.to_marginaleffects())["std_error"], own.bse_fe, TOL)
    assert "std_error" not in me.predictions(res.to_marginaleffects(), vcov=False).columns
    with pytest.raises(lmm.DataError, match="df_method"):
        me.hypotheses(res.to_marginaleffects(), vcov="nothing")


def test_rows_of_a_frame(me):
    """New rows with columns of their own to average over, and levels as text."""
    sleepstudy = lmm.load_dataset("sleepstudy")
    found = me.avg_predictions(sleep().to_marginaleffects(), newdata=sleepstudy, by="Subject")
    expected = sleep().predict(sleepstudy).groupby(sleepstudy["Subject"], observed=True).mean()
    close(found["estimate"], expected, RTOL)


@pytest.mark.parametrize("unit", [1, 0.5])
def test_numbers_that_are_levels_stay_what_they_are(me, unit):
    """They are compared as levels, and are neither places in a list nor a covariate."""
    frame = data().assign(visit=(np.arange(60) % 3 + 1) * unit)
    res = lmm.fit("y ~ C(visit) * x + (1 | g)", frame)
    model = res.to_marginaleffects()
    part = frame[frame["visit"] < 3 * unit]  # two of the levels
    close(me.predictions(model, newdata=part)["estimate"], res.predict(part), RTOL)
    found = me.avg_comparisons(model, variables="visit")
    mean = [0.0, 0.0, 0.0, 0.0, frame["x"].mean(), frame["x"].mean()]
    names = list(res.fixed_names)
    assert names[1:3] == [f"C(visit)[T.{unit * k:g}]" for k in (2, 3)] and len(names) == 6
    L = np.zeros((2, 6))
    L[0, [1, 4]], L[1, [2, 5]] = [1, mean[4]], [1, mean[5]]
    test = res.t_test(L)
    close(found["estimate"], test.effect, 1e-9)  # a mean of differences, a difference of means
    close(found["std_error"], test.sd, TOL)
    grid = datagrid(model, visit=[unit], x=[0.0])
    close(me.predictions(model, newdata=grid)["estimate"], res.fe_params["Intercept"], RTOL)


def datagrid(*args, **options):
    """The function of marginaleffects; the package's attribute may be the module of that name."""
    from marginaleffects.datagrid import datagrid

    return datagrid(*args, **options)


def test_a_plot_is_made(me):
    model = oats().to_marginaleffects()
    points = me.plot_predictions(model, condition="Nf", draw=False)
    assert len(points) == 4
    close(points["estimate"], oats().predict({n: list(points[n]) for n in ("Nf", "Variety")}), RTOL)
    assert type(me.plot_predictions(model, condition="Nf")).__name__ == "ggplot"


def test_what_is_refused():
    res = lmm.fit("y ~ x + (1 | g)", data(), offset=data()["o"].to_numpy())
    with pytest.raises(lmm.DataError, match="let the offset be a column"):
        res.to_marginaleffects()
    with pytest.raises(lmm.DataError, match="df=0: a finite number greater than 0"):
        sleep().to_marginaleffects(df=0)


# ------------------------------------------------------------ regression tables


TABLES = {
    "slopes": sleep,
    "nested": oats,
    "residual covariance": lambda: fitted("residual covariance"),
    "components": lambda: lmm.fit(
        "y ~ x", data(), groups="g", re_formula="1", vc_formula={"s": "0 + C(s)"}
    ),
    "without data": lambda: sleep().without_data(),
    "singular": lambda: lmm.fit("yield_ ~ 1 + (1 | g)", flat()),
}


def flat():
    """Groups whose means differ less than chance would have it."""
    y = np.tile([-1.0, 0.0, 1.0], 10)
    return pd.DataFrame({"yield_": y, "g": np.repeat(np.arange(10), 3)})


@pytest.mark.parametrize("name", TABLES)
def test_a_column_of_a_table_has_every_parameter(name):
    res = TABLES[name]()
    column, tidy = res.to_summary_col(), res.tidy()
    names = [*res.fixed_names, *res.conf_int(scale="sdcor", parm="theta").index]
    assert list(column.params.index) == names + list(res.residual_params.index)
    for own, expected in zip(
        (column.params, column.bse, column.tvalues, column.pvalues),
        ("estimate", "std_error", "statistic", "p_value"),
        strict=True,
    ):
        np.testing.assert_array_equal(own, tidy[expected])
    np.testing.assert_array_equal(column.conf_int(), tidy[["conf_low", "conf_high"]])
    assert column.nobs == res.nobs and column.model.endog_names == res.endog_name
    table = res.to_maketables().__maketables_coef_table__
    np.testing.assert_array_equal(table["se"], column.bse)
    limits = column.conf_int(0.1)
    np.testing.assert_array_equal(table[["ci90l", "ci90u"]], limits)


def test_views_can_be_pickled():
    for view in (sleep().to_summary_col(), sleep().to_maketables()):
        again = pickle.loads(pickle.dumps(view))
        assert type(again) is type(view)
        assert again.result.fe_params.equals(sleep().fe_params)


def two():
    return [sleep("Reaction ~ Days + (1 | Subject)"), sleep()]


FORMAT = "b:.6f (se:.6f) [p:.6f]"


def cell(estimate, error, p):
    """A cell of maketables with six decimals."""
    return f"{estimate:.6f} ({error:.6f}) [{p:.6f}]"


def test_etable_takes_results_as_they_are():
    maketables = pytest.importorskip("maketables")
    fits = two()
    table = maketables.ETable(fits, coef_fmt=FORMAT, model_stats=["N", "ll", "aic", "bic"]).df
    assert {column[0] for column in table.columns} == {"Reaction"}
    for j, res in enumerate(fits):
        for name in res.fixed_names:
            expected = cell(res.fe_params[name], res.bse_fe[name], res.pvalues[name])
            assert table.iloc[:, j]["coef", name] == expected
        name = "var(Intercept|Subject)"
        shown = table.iloc[:, j]["coef", name]
        assert shown.startswith(f"{res.params[name]:.6f} ({res.bse[name]:.6f})")
        assert table.iloc[:, j]["stats", "Log-likelihood"] == f"{res.llf:.3f}"


def test_etable_of_columns_has_groups_and_likelihood():
    maketables = pytest.importorskip("maketables")
    from maketables.extractors import PluginExtractor, get_extractor

    crossed = "diameter ~ 1 + (1 | plate) + (1 | sample)"
    fits = [*two(), lmm.fit(crossed, lmm.load_dataset("penicillin"))]
    columns = [res.to_maketables() for res in fits]
    assert all(isinstance(get_extractor(column), PluginExtractor) for column in columns)
    whole = maketables.ETable(columns, coef_fmt=FORMAT)
    table = whole.df
    assert [column[0] for column in table.columns] == ["Reaction", "Reaction", "diameter"]
    for j, res in enumerate(fits):
        shown, tidy = table.iloc[:, j], res.tidy()
        names = columns[j].__maketables_coef_table__.index
        for name, row in zip(names, tidy.itertuples(), strict=True):
            text = cell(row.estimate, row.std_error, row.p_value)
            start = text if row.effect == "fixed" else text.split(" [")[0]
            assert shown["coef", name].startswith(start)
        for factor, count in res.n_groups.items():
            assert shown["stats", f"Groups: {factor}"] == f"{count}"
        assert float(shown["stats", "Log-likelihood"]) == pytest.approx(res.llf, abs=5e-4)
        assert float(shown["stats", "R² (marginal)"]) == pytest.approx(
            res.glance()["r2_marginal"].iloc[0], abs=5e-4
        )
    assert table.iloc[:, 0]["stats", "Groups: plate"] == "-"
    assert maketables.ETable(columns, model_stats=["se_type"]).df.iloc[-1, 0] == "satterthwaite"
    assert "\\toprule" in whole.make(type="tex")
    assert "sd(Days|Subject)" in whole.make(type="gt").as_raw_html()


def test_summary_col_has_every_parameter():
    summary2 = pytest.importorskip("statsmodels.iolib.summary2")
    fits = two()
    info = {"N": lambda x: f"{x.nobs}", "Subjects": lambda x: f"{x.n_groups['Subject']}"}
    info["ll"] = lambda x: f"{x.llf:.6f}"
    page = summary2.summary_col(
        [res.to_summary_col() for res in fits], "%.6f", stars=True, info_dict=info
    )
    table = page.tables[0]
    assert list(table.columns) == ["Reaction I", "Reaction II"]
    for j, res in enumerate(fits):
        shown = list(table.iloc[:, j])
        labels = list(table.index)
        column = res.to_summary_col()
        for name in column.params.index:
            stars = "***" if column.pvalues[name] < 0.01 else ""
            assert shown[labels.index(name)] == f"{column.params[name]:.6f}{stars}"
            assert shown[labels.index(name) + 1] == f"({column.bse[name]:.6f})"
        assert shown[labels.index("ll")] == f"{res.llf:.6f}"
        assert shown[labels.index("Subjects")] == "18"


# ------------------------------------------------------------ great_tables


class Texts(HTMLParser):
    """What stands in the cells, the heading and the source notes of a table."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.heading, self.notes, self.kind = [], [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        kind = dict(attrs).get("class") or ""
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.kind = kind
            if "gt_row" in kind or "gt_col_heading" in kind:
                self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.kind = ""

    def handle_data(self, data):
        if "gt_row" in self.kind or "gt_col_heading" in self.kind:
            self.rows[-1][-1] += data.strip("\n ")
        elif "gt_title" in self.kind or "gt_subtitle" in self.kind:
            self.heading += [data.strip()] * bool(data.strip())
        elif "gt_sourcenote" in self.kind:
            self.notes += [data.strip()] * bool(data.strip())


def odd_names():
    """A fit whose names hold what HTML and LaTeX take for their own."""
    frame = lmm.load_dataset("orthodont").rename(columns={"age": "a<b & c_1 %"})
    return lmm.fit("distance ~ `a<b & c_1 %` * Sex + (1 | Subject)", frame)


PAGES = {
    "summary": lambda: sleep().summary(),
    "fit": sleep,
    "anova": lambda: oats().anova(),
    "means": lambda: lmm.emmeans(oats(), "Nf"),
    "pairs": lambda: lmm.emmeans(oats(), "Nf").pairs(),
    "intervals": lambda: sleep().conf_int(),
    "odd names": odd_names,
    "one table of a summary": lambda: sleep().summary().tables[1],
}


@pytest.mark.parametrize("name", PAGES)
def test_great_tables_show_the_same_strings(name):
    pytest.importorskip("great_tables")
    shown = PAGES[name]()
    page = shown if name == "summary" else shown._page()
    made = shown.to_gt()
    made = made if isinstance(made, tuple) else (made,)
    title, strings, notes = page._paper(
        None, caption=None, digits=None, columns=None, rename=None, notes=True
    )
    assert len(made) == len(page.tables)
    read = [Texts(one.as_raw_html()) for one in made]
    for found, cells in zip(read, strings, strict=True):
        rows = [row for row in found.rows if row]
        expected = [list(cells.header)] * cells.has_header + [list(row) for row in cells.rows]
        assert rows[-len(cells.rows) :] == [list(row) for row in cells.rows]
        assert rows == expected or rows[1:] == expected
    assert read[0].heading[: bool(title)] == [title][: bool(title)]
    assert read[-1].notes == list(notes)
    latex = made[-1].as_latex()
    last = page.tables[-1]._cells(None).rows[-1]
    numbers = [text for text in last if re.fullmatch(r"-?[\d.]+", text)]
    assert numbers and all(text in latex for text in numbers)


# ------------------------------------------------------------ ArviZ


@cache
def replicates():
    return lmm.bootstrap(sleep(), 60, seed=3)


# Names of ArviZ for those of the bootstrap.
NAMES = {
    "fe_params[Intercept]": "Intercept",
    "fe_params[Days]": "Days",
    "{sd}_Subject[Intercept]": "{sd}(Intercept|Subject)",
    "{cor}_Subject[Intercept,Days]": "{cor}(Intercept,Days|Subject)",
    "{sd}_Subject[Days]": "{sd}(Days|Subject)",
    "sigma": "sigma",
}


@pytest.mark.parametrize(("scales", "kinds"), [("sdcor", "sd cor"), ("vcov", "var cov")])
def test_draws_of_a_bootstrap(scales, kinds):
    arviz = pytest.importorskip("arviz")
    boot = replicates()
    tree = boot.to_arviz(scales)
    found = arviz.summary(tree, kind="stats", round_to="none")
    frame = boot.params(scales).dropna()
    names = dict(zip(("sd", "cor"), kinds.split(), strict=True))
    pairs = {key.format(**names): own.format(**names) for key, own in NAMES.items()}
    assert set(found.index) == set(pairs)
    for name, own in pairs.items():
        assert float(found.loc[name, "mean"]) == pytest.approx(frame[own].mean(), rel=1e-9)
        assert float(found.loc[name, "sd"]) == pytest.approx(frame[own].std(ddof=1), rel=1e-9)
    draws = tree["posterior"]
    assert draws["fe_params"].dims == ("chain", "draw", "effect")
    assert draws.attrs["seed"] == 3
    np.testing.assert_array_equal(draws["fe_params"].sel(effect="Days")[0], frame["Days"])


def test_draws_of_components_and_residual_covariances():
    pytest.importorskip("arviz")
    boot = lmm.bootstrap(TABLES["components"](), 20, seed=1)
    draws = boot.to_arviz("vcov")["posterior"]
    np.testing.assert_array_equal(draws["var_s"][0], boot.params()["var(s)"])
    boot = lmm.bootstrap(fitted("residual covariance"), 20, seed=1)
    draws = boot.to_arviz()["posterior"]
    rho = draws["residual_params"].sel(residual_param=boot.residual_names[0])
    np.testing.assert_array_equal(rho[0], boot.params()[boot.residual_names[0]].dropna())


def test_replicates_that_failed_are_left_out():
    pytest.importorskip("arviz")
    from dataclasses import replace

    boot = replicates()
    converged = boot.replicates.converged.copy()
    converged[:5] = False
    some = replace(boot, replicates=boot.replicates._replace(converged=converged))
    draws = some.to_arviz()["posterior"]["sigma"]
    np.testing.assert_allclose(draws[0], boot.params("sdcor")["sigma"][5:])


# ------------------------------------------------------------ all of them, and none


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("marginaleffects", lambda: sleep().to_marginaleffects()),
        ("great_tables", lambda: sleep().to_gt()),
        ("great_tables", lambda: sleep().anova().to_gt()),
        ("arviz", lambda: replicates().to_arviz()),
    ],
)
def test_what_is_missing_is_told_with_its_extra(package, call, monkeypatch):
    for name in (package, *{"arviz": ["xarray"], "marginaleffects": ["polars"]}.get(package, [])):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"needs {package}: pip install 'lmm-jax\[neighbours\]'"):
        call()


def test_columns_need_no_package(monkeypatch):
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)
    assert len(sleep().to_summary_col().params) == len(sleep().tidy())
    assert sleep().to_maketables().__maketables_stat__("Groups: Subject") == 18
    assert sleep().to_maketables().__maketables_stat__("nothing") is None


def test_none_is_imported_before_it_is_used():
    program = f"""
import sys, lmm_jax as lmm
res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
str(res), res.to_summary_col().params, res.to_maketables()
print(sorted({{*{PACKAGES}, "polars", "xarray"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_examples_of_the_page(me):
    for name in PACKAGES:
        pytest.importorskip(name)
    check_page("docs/neighbours.md")
