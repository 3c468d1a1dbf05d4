"""Fits side by side: the numbers of each, where they belong."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest

import lmm_jax as lmm
from lmm_jax.inputs.names import merged_terms
from lmm_jax.results.regression_table import _cell

DATA = lmm.load_dataset("sleepstudy")


@pytest.fixture(scope="module")
def fits():
    formulas = [
        "Days + (1 | Subject)",
        "Days + (Days | Subject)",
        "Days + I(Days**2) + (1 | Subject)",
    ]
    return [lmm.fit(f"Reaction ~ {formula}", DATA) for formula in formulas]


@pytest.fixture(scope="module")
def crossed():
    """Rows with a factor, two covariates and two grouping factors."""
    rng, n = np.random.default_rng(1), 300
    data = pd.DataFrame({"x": rng.normal(size=n), "z": rng.normal(size=n)})
    data = data.assign(f=rng.choice(list("abc"), n), g=rng.integers(0, 9, n), h=np.arange(n) % 4)
    cells = rng.normal(size=(9, 4))[data["g"], data["h"]]
    return data.assign(y=data["x"] + cells + rng.normal(size=9)[data["g"]] + rng.normal(size=n))


def column(table, name):
    return dict(zip(table["term"].str.strip(), table[name], strict=True))


def test_small_print_says_which_fits_are_penalized(fits):
    model = "Reaction ~ Days + (1 | Subject)"
    lasso = lmm.fit_regularized(model, DATA, alpha=30.0)
    how = "L1-penalized fixed effects, covariance by REML"
    notes = lmm.regression_table(fits[0], lasso, fits[1]).notes
    assert notes[:2] == ("(1), (3): Fitted by REML", f"(2): {how}")
    assert how in str(lasso.summary()) and lmm.regression_table(lasso).notes[0] == f"(1): {how}"
    ridge = lmm.fit(model, DATA, fe_pen=lambda beta: (beta**2).sum())
    notes = lmm.regression_table(fits[0], ridge).notes
    assert notes[0] == "Fitted by (1) REML, (2) REML with a penalty"
    assert str(ridge.summary()).startswith("Linear mixed model fitted by REML with a penalty\n")


def test_small_print_says_whose_standard_errors_are_adjusted(fits):
    kr = lmm.fit("Reaction ~ Days + (Days | Subject)", DATA, df_method="kr")
    visits = DATA.assign(day=DATA["Days"].astype(int)).query("day < 3")
    mmrm = lmm.mmrm("Reaction ~ Days + us(day | Subject)", visits)
    others = [kr.with_df(name) for name in ("normal", "residual", "satterthwaite")]
    notes = lmm.regression_table(fits[1], kr, mmrm, kr.robust("CR2"), statistics=["nobs"]).notes
    said = "Standard errors of the fixed effects"
    assert notes[2:] == (
        f"(2): {said}: Kenward-Roger.",
        f"(3): {said}: Kenward-Roger, linear.",
        f"(4): {said}: CR2, 18 clusters (Subject).",
    )
    assert not any(said in note for note in lmm.regression_table(fits[1], *others).notes)
    saved = pickle.loads(pickle.dumps(kr))
    assert f"(1): {said}: Kenward-Roger." in lmm.regression_table(saved).notes


# Fits by REML with other fixed effects, of which regression_table warns.
not_compared = pytest.mark.filterwarnings("ignore:log-likelihood, AIC and BIC of these fits")


@not_compared
@pytest.mark.parametrize("show", ["std_error", "conf_int", "statistic", "p_value", "none"])
def test_cells_are_the_numbers_of_tidy(fits, show):
    table = lmm.regression_table(*fits, show=show, digits=5)
    for i, res in enumerate(fits):
        cells, rows = column(table, f"({i + 1})"), res.tidy("fixed")
        for row in rows.itertuples():
            beside = {
                "std_error": f" ({row.std_error:.5f})",
                "conf_int": f" [{row.conf_low:.5f}, {row.conf_high:.5f}]",
                "statistic": f" ({row.statistic:.5f})",
                "p_value": f" ({row.p_value:.3f})" if row.p_value >= 0.001 else " (<0.001)",
                "none": "",
            }[show]
            assert cells[row.term] == f"{row.estimate:.5f}{beside}"
        assert cells["sigma"].startswith(f"{res.sigma:.5f}")
        assert cells["sd(Intercept|Subject)"].startswith(f"{np.sqrt(res.cov_re.iloc[0, 0]):.5f}")
        assert cells["Observations"] == "180" and cells["Groups: Subject"] == "18"
        assert cells["Log-likelihood"] == f"{res.llf:.3f}" and cells["AIC"] == f"{res.aic:.3f}"


@not_compared
def test_rows_stand_in_the_order_of_the_models(fits):
    rows = [row.strip() for row in lmm.regression_table(*fits)["term"]]
    assert rows[:9] == [
        "Fixed effects", "Intercept", "Days", "I(Days ** 2)",
        "Random effects", "sd(Intercept|Subject)", "sd(Days|Subject)",
        "cor(Intercept,Days|Subject)", "sigma",
    ]  # fmt: skip
    table = lmm.regression_table(*fits)
    assert (
        column(table, "(1)")["I(Days ** 2)"] == ""
        and column(table, "(3)")["sd(Days|Subject)"] == ""
    )


def test_stars_are_those_of_the_p_values(fits):
    data = DATA.assign(x=np.random.default_rng(0).normal(size=180))
    res = lmm.fit("Reaction ~ Days + x + (1 | Subject)", data)
    cells = column(lmm.regression_table(res, stars=True, show="none"), "(1)")
    for name, p in res.pvalues.items():
        assert cells[name].count("*") == (p < 0.05) + (p < 0.01) + (p < 0.001)
    assert "*" not in cells["sigma"]


@not_compared
def test_small_print_says_what_differs(fits):
    ml = lmm.fit("Reaction ~ Days + (1 | Subject)", DATA, reml=False)
    robust = fits[1].robust("CR2")
    table = lmm.regression_table(ml, robust, names=["A", "B"], show="p_value", stars=True)
    assert table.notes[0] == "Fitted by A ML, B REML"
    assert "Degrees of freedom: A satterthwaite, B CR2" in table.notes
    assert any(
        note.startswith("B: Standard errors of the fixed effects: CR2") for note in table.notes
    )
    assert table.title == "Linear mixed models of Reaction"
    assert lmm.regression_table(fits[0], fits[1]).notes[0] == "Fitted by REML"


def warned(*fits, **options):
    """What the author of a table is told of its criteria; readers are told nothing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = lmm.regression_table(*fits, **options)
    assert not any("compare" in note or "reml=" in note for note in table.notes)
    assert len(caught) <= 1
    return "".join(str(w.message) for w in caught)


def test_the_author_is_warned_where_criteria_do_not_compare(fits):
    ml = lmm.fit("Reaction ~ Days + (1 | Subject)", DATA, reml=False)
    other = lmm.fit("Days ~ Reaction + (1 | Subject)", DATA)
    assert "(1) and (2): they are by REML with other fixed" in warned(fits[0], fits[2])
    assert "one is by REML and the other by ML" in warned(fits[0], ml)
    assert not warned(fits[0], fits[1]) and not warned(ml, ml) and not warned(fits[0], other)
    assert not warned(fits[0], fits[2], statistics=["nobs", "sigma"])


def test_restricted_likelihoods_compare_where_fixed_effects_are_the_same(crossed):
    def fit(fixed):
        return lmm.fit(f"y ~ {fixed} + (1 | g)", crossed.assign(x1000=crossed["x"] * 1000))

    first = fit("x*f")
    for fixed in ("f*x", "C(f)*x", "f/x"):
        other = fit(fixed)
        assert other.llf == pytest.approx(first.llf, abs=1e-6) and not warned(first, other)
    for fixed in ("x1000*f", "x*C(f, Sum)"):  # which the restricted likelihood depends on
        other = fit(fixed)
        assert abs(other.llf - first.llf) > 0.1
        assert "other units or contrasts" in warned(first, other)


@pytest.mark.parametrize(
    ("response", "rows", "options", "reason"),
    [
        ("np.log(y + 10)", slice(None), {}, "their responses 'y' and 'np.log(y + 10)' are not"),
        ("y", slice(290), {}, "they were fitted to 300 and 290 rows"),
        ("y", slice(10, None), {}, "they were fitted to 300 and 290 rows"),
        ("y", slice(None), {"offset": "z"}, "their weights or offsets are not the same"),
    ],
)
@pytest.mark.parametrize("saved", [False, True])
def test_criteria_of_other_responses_and_rows_do_not_compare(
    crossed, response, rows, options, reason, saved
):
    first = lmm.fit("y ~ x + (1 | g)", crossed, reml=False)
    other = lmm.fit(f"{response} ~ x + (1 | g)", crossed.iloc[rows], reml=False, **options)
    if saved:  # without rows
        other = pickle.loads(pickle.dumps(other))
    assert reason in warned(first, other)
    # (3) is compared with (1): what stands between them is of another response
    between = lmm.fit("z ~ x + (1 | g)", crossed)
    assert ("(1) and (3)" in warned(first, between, other)) == bool(reason)


def test_standard_deviations_of_a_term_stand_before_its_correlations():
    data = DATA.assign(late=(DATA["Days"] > 4) * 1.0)
    res = lmm.fit("Reaction ~ Days + (Days + late | Subject)", data)
    table = lmm.regression_table(res, show="none", digits=5)
    names = [row.strip() for row in table["term"]]
    kinds = [n.partition("(")[0] for n in names if n.startswith(("sd(", "cor("))]
    assert kinds == ["sd"] * 3 + ["cor"] * 3
    cells, limits = column(table, "(1)"), res.tidy("ran_pars").set_index("term")["estimate"]
    assert cells["sd(late|Subject)"] == f"{limits['sd__late']:.5f}"
    assert cells["cor(Days,late|Subject)"] == f"{limits['cor__Days.late']:.5f}"


def test_a_coefficient_has_one_row_however_it_is_spelled(crossed):
    formulas = [
        "x*f + (x + z | g/h)",
        "C(f)*x + (z + x | g) + (z + x | g:h)",
        "factor(f):x + f + x + (1 | g)",
    ]
    fits = [lmm.fit(f"y ~ {formula}", crossed, reml=False) for formula in formulas]
    table = lmm.regression_table(*fits)
    rows = [row.strip() for row in table["term"]]
    assert rows[: rows.index("Random effects")] == ["Fixed effects", *fits[0].fixed_names]
    assert all("" not in set(table.loc[1:6, name]) for name in ("(1)", "(2)", "(3)"))
    assert sum(row.startswith("sd(") for row in rows) == 6
    assert sum(row.startswith("cor(") for row in rows) == 6
    assert [row for row in rows if row.startswith("Groups")] == ["Groups: h:g", "Groups: g"]
    first, second = column(table, "(1)"), column(table, "(2)")
    for row in ("x:f[T.b]", "sd(x|h:g)", "cor(x,z|g)", "Groups: h:g"):
        assert first[row] == second[row] != ""


def test_interactions_stand_behind_what_they_are_of(crossed):
    fits = [lmm.fit(f"y ~ {part} + (1 | g)", crossed) for part in ("f*x", "f/x", "z*x + f")]
    rows = [r.strip() for r in lmm.regression_table(*fits, statistics=["nobs"])["term"]]
    degrees = [row.count(":") for row in rows[1 : rows.index("Random effects")]]
    assert degrees == sorted(degrees) and sum(degrees) == 6


def test_two_spellings_in_one_fit_are_two_rows():
    names = ["Intercept", "f[T.b]", "C(f)[T.b]"]
    assert merged_terms([names, names[:2]])[0] == names


def test_residual_parameters_stand_once():
    data = DATA[DATA["Days"] < 3].assign(day=lambda d: d["Days"].astype(int))
    res = lmm.fit("Reaction ~ Days + us(day | Subject)", data)
    cells = column(lmm.regression_table(res, digits=4), "(1)")
    assert "sigma" not in cells
    assert cells["sd[0]"].startswith(f"{res.residual_params['sd[0]']:.4f}")
    series = lmm.fit("Reaction ~ Days + ar1(day | Subject)", data)
    cells = column(lmm.regression_table(series, digits=4), "(1)")
    assert cells["sigma"].startswith(f"{series.sigma:.4f}") and "rho" in cells


def test_exports(fits):
    table = lmm.regression_table(*fits[:2], names=["One", "Two"], show="conf_int")
    words = {"Days": "Day", "Subject": "Person"}
    markdown = table.to_markdown(rename=words, caption="Sleep", notes=False)
    assert "| &emsp;sd(Day\\|Person) |  | 5.922" in markdown and "&emsp;Groups: Person" in markdown
    latex = table.to_latex(label="tab:sleep", width=120)
    assert r"\quad sd(Days\textbar{}Subject) &  & 5.922" in latex
    assert latex.count("begin{tabular}") == 1
    assert '<th scope="row">&emsp;Days</th>' in table.to_html()
    assert isinstance(table, pd.DataFrame)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([1, 2],), {}, "res is a list: fits stand one beside the other"),
        ((3,), {}, "res is a int"),
        (None, {"names": ["a"]}, "names has 1 names, 2 are needed"),
        (None, {"show": "se"}, "show='se'"),
        (None, {"statistics": ["r3"]}, "statistics='r3'"),
        (None, {"digits": -1}, "digits=-1"),
        (None, {"level": 2}, "level=2"),
    ],
)
def test_what_is_no_table_is_refused(fits, arguments, options, message):
    with pytest.raises(lmm.DataError, match=message):
        lmm.regression_table(*(fits[:2] if arguments is None else arguments), **options)


def test_residual_covariances_and_their_subjects_are_named():
    data = DATA.assign(day=lambda d: d["Days"].astype(int))
    fits = [lmm.fit(f"Reaction ~ Days + {kind}(day | Subject)", data) for kind in ("ar1", "cs")]
    table = lmm.regression_table(*fits)
    for i, kind in enumerate(("ar1", "cs")):
        cells = column(table, f"({i + 1})")
        assert cells["Residuals"] == f"{kind}(day | Subject)" and cells["Groups: Subject"] == "18"


@not_compared
@pytest.mark.parametrize("saved", [False, True])
def test_weights_offsets_and_other_rows_are_told(crossed, saved):
    data, model = crossed.assign(w=1 + crossed["x"] ** 2), "y ~ x + (1 | g)"
    fits = [
        lmm.fit(model, data[:290]),
        lmm.fit(model, data[:290], weights="w", offset="z"),
        lmm.fit(f"{model} + offset(z / 2)", data[:290], weights=np.ones(290) * 2),
        lmm.fit(model, data, subset=np.arange(300) >= 10),
    ]
    if saved:
        fits = [pickle.loads(pickle.dumps(res)) for res in fits]
    table = lmm.regression_table(*fits)
    cells = [column(table, f"({i})") for i in (1, 2, 3, 4)]
    assert [cell["Weights"] for cell in cells] == ["", "w", "an array", ""]
    assert [cell["Offset"] for cell in cells] == ["", "z", "z / 2", ""]
    assert "(4): Other rows than those of (1)." in table.notes
    shuffled = lmm.fit(model, data[:290].sample(frac=1, random_state=0), reml=False)
    turned = lmm.regression_table(
        lmm.fit(model, data[:290], reml=False), shuffled, statistics=["nobs"]
    )
    assert not any("rows" in note for note in turned.notes)
    assert "Weights" not in column(lmm.regression_table(fits[0]), "(1)")
    assert not any("rows" in note for note in lmm.regression_table(*fits[:3]).notes)


def test_weights_of_a_saved_fit_are_compared_by_name(crossed):
    data = crossed.assign(w=1 + crossed["x"] ** 2)
    saved = pickle.loads(pickle.dumps(lmm.fit("y ~ x + (1 | g)", data, weights="w")))
    with pytest.warns(UserWarning, match="weights or offsets are not the same"):
        lmm.regression_table(lmm.fit("y ~ x + (1 | g)", data), saved)


def test_fits_without_rows_are_compared_by_what_is_known_of_them(crossed):
    first = lmm.fit("y ~ x * f + (1 | g)", crossed)
    sums = lmm.fit(lmm.summarize("y ~ f * x + (1 | g)", [crossed]))
    for other in (sums, first.without_data()):
        assert not warned(first, other) and not warned(other, first)
        assert not any("rows" in note for note in lmm.regression_table(first, other).notes)
    small = lmm.fit("y ~ x + (1 | g)", crossed)
    assert "by REML with other fixed effects" in warned(sums, small)


def test_models_may_have_any_name(fits):
    table = lmm.regression_table(*fits[:2], names=["term", "term"])
    assert list(table.columns) == ["term", "term.1", "term.2"]
    assert table.to_markdown().splitlines()[2] == "|  | term.1 | term.2 |"
    assert table.to_frame("polars").columns[0] == "term"
    with pytest.raises(lmm.DataError, match="digits: the cells are text"):
        table.to_markdown(digits=1)


def test_numbers_that_decimals_would_hide_are_written_in_another_way():
    small = lmm.fit("y ~ Days + (1 | Subject)", DATA.assign(y=DATA["Reaction"] * 1e-12))
    cells = column(lmm.regression_table(small, show="none"), "(1)")
    assert float(cells["Days"]) == pytest.approx(small.fe_params["Days"], rel=1e-3)
    large = lmm.fit("y ~ Days + (1 | Subject)", DATA.assign(y=DATA["Reaction"] * 1e14))
    cells = column(lmm.regression_table(large, show="none", digits=2), "(1)")
    assert float(cells["Days"]) == pytest.approx(large.fe_params["Days"], rel=1e-2)
    assert "e+" in cells["Days"]


@pytest.mark.parametrize(
    ("value", "error", "digits", "text"),
    [
        (6.060636e-08, 0.000061, None, "0.000000 (0.000061)"),
        (-4.9319189e-08, 3.0e-6, None, "0.0000000 (0.0000030)"),
        (6.060636e-08, 0.5, None, "0.000 (0.500)"),
        (6.060636e-08, np.nan, None, "6.06e-08"),  # nothing says that it is zero
        (0.00031234, np.nan, None, "0.000312"),
        (1e-5, 6.06e-7, 2, "0.00 (0.00)"),
        (6.060636e-08, 0.000061, 2, "0.00 (0.00)"),
        (2e15, 6.06e-7, 2, "2.00e+15 (0.00)"),
    ],
)
def test_an_estimate_has_the_digits_of_its_standard_error(value, error, digits, text):
    row = pd.Series({"estimate": value, "std_error": error, "p_value": 0.2, "statistic": 1e-9})
    assert _cell(row, "std_error", False, digits) == text
    assert _cell(row, "statistic", False, 2).endswith(" (0.00)")


def test_an_infinite_standard_error_asks_for_no_decimals():
    """Of a correlation at a variance of nearly zero."""
    row = pd.Series({"estimate": 0.5, "std_error": np.inf, "p_value": 0.2, "statistic": 0.0})
    assert _cell(row, "std_error", False, None) == "0.500"


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-5])
def test_sigma_among_the_figures_has_the_digits_of_its_row(size):
    fit = lmm.fit("y ~ Days + (1 | Subject)", DATA.assign(y=DATA["Reaction"] * size))
    cells = column(lmm.regression_table(fit, show="none", statistics=["sigma"]), "(1)")
    assert float(cells["Sigma"]) == pytest.approx(np.sqrt(fit.scale), rel=5e-3)
    short = column(lmm.regression_table(fit, digits=2, statistics=["sigma"]), "(1)")
    assert short["Sigma"] == f"{np.sqrt(fit.scale):.2f}"
