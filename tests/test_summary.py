"""The printed summary: the numbers are in it, in text, HTML and LaTeX."""

import html
import pickle
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import samples
from fits import sleep

import lmm_jax as lmm
from lmm_jax.reprs import number, p_value
from lmm_jax.tables.markup import latex_cell

MODELS = {
    "an intercept": dict(formula="y ~ x + (1 | g)"),
    "a slope": dict(formula="y ~ x + (x | g)"),
    "one slope": dict(formula="y ~ x * f + (x | g)"),
    "normal": dict(formula="y ~ x + (1 | g)", df_method="normal"),
    "components": dict(formula="y ~ x", groups="g", vc_formula={"s_%": "0 + C(s)"}),
    "ML, nested": dict(formula="y ~ x + (1 | g/s)", reml=False),
}


@cache
def fit(name="one slope"):
    return lmm.fit(data=samples.frame(), **MODELS[name])


def numbers(result):
    """What every spelling of the summary must hold."""
    interval = result.conf_int().loc[list(result.fixed_names)]
    fixed = [*result.fe_params, *result.bse_fe, *interval.to_numpy().ravel()]
    out = [f"{v:.4f}" for v in fixed]  # standard errors need no more
    values = [result.scale, result.sigma, *result.vcomp, *np.diag(result.cov_re)]
    out += [number(v) for v in values]
    out += [f"{v:.3f}" for v in result.tvalues] + [p_value(v) for v in result.pvalues]
    out += [f"{result.llf:.4f}", f"{result.aic:.3f}", f"{result.bic:.3f}", str(result.nobs)]
    variances = result.varcorr[result.varcorr["var2"].isna()]
    correlations = result.varcorr[result.varcorr["var2"].notna()]
    out += [number(v) for v in variances["sdcor"]] + [f"{v:.3f}" for v in correlations["sdcor"]]
    return out


@pytest.mark.parametrize("name", MODELS)
def test_every_spelling_holds_the_numbers(name):
    result = fit(name)
    summary = result.summary()
    spellings = {
        "text": (str(summary), str),
        "html": (summary.as_html(), html.escape),
        "latex": (summary.as_latex(), latex_cell),
    }
    for text, escape in spellings.values():
        for value in [*numbers(result), *result.fixed_names, *result.n_groups.index]:
            assert escape(value) in text
    assert summary._repr_html_() == summary.as_html()


def test_degrees_of_freedom_or_z():
    assert f"{fit().df.iloc[0]:.2f}" in str(fit().summary())
    assert "P>|z|" in str(fit("normal").summary()) and "P>|t|" in str(fit().summary())


def test_standard_errors_of_variances():
    result = fit()
    text = str(result.summary())
    for name in ("var(Intercept|g)", "var(x|g)"):
        assert number(result.bse_re[name]) in text
    assert number(result.tidy()["std_error"].iloc[-1] * 2 * result.sigma) in text


def test_a_wide_table_is_folded():
    data = samples.frame(groups=40)
    result = lmm.fit("y ~ x + (1 + x + z + v + o | g)", data)
    names = ["a fairly long name " + c for c in "abcde"]
    text = result.summary(xname_re=names).as_text(80)
    table = text.split("Random effects")[1].split("Fixed effects")[0]
    assert table.count(names[0]) == table.count("Group") == 2
    for error in result.bse_re[[f"var({c}|g)" for c in ("Intercept", "x", "z", "v", "o")]]:
        assert np.isnan(error) or number(error) in table


@pytest.mark.parametrize("name", MODELS)
def test_lines_fit_a_terminal(name):
    assert max(map(len, str(fit(name).summary()).splitlines())) <= 80


def test_names_of_the_callers_choice():
    result = fit("a slope")
    summary = result.summary(
        yname="response time", xname_fe=["base", "per day"], xname_re=["level", "trend"],
        title="A title", alpha=0.1,
    )  # fmt: skip
    text = str(summary)
    assert text.startswith("A title\n")
    for name in ("response time", "base", "per day", "level", "trend", "5%", "95%"):
        assert name in text
    assert number(result.conf_int(0.1).loc["x", "lower"]) in text
    assert result.formula in text


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"], "ab", []])
@pytest.mark.parametrize("what", ["xname_fe", "xname_re"])
def test_a_wrong_number_of_names(what, names):
    result = fit("a slope")
    with pytest.raises(lmm.DataError, match=f"{what}.*2 .*needed"):
        result.summary(**{what: names})


def test_latex_is_balanced_and_escaped():
    text = fit("components").summary(title="50% of A & B_1 {x} $ # ~ ^ \\").as_latex()
    assert r"50\% of A \& B\_1 \{x\} \$ \#" in text
    assert r"$\sim$ \textasciicircum{} \textbackslash{}" in text
    assert r"s\_\%" in text
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") > 0
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) > 8


def test_html_is_escaped():
    page = fit().summary(title="<b>").as_html()
    assert "&lt;b&gt;" in page and "<b>" not in page


def test_notes_on_convergence_and_singularity():
    data = samples.frame()
    data["y"] = np.random.default_rng(3).normal(size=60)
    data["y"] -= data.groupby("g")["y"].transform("mean")
    singular = lmm.fit("y ~ x + (1 | g)", data)
    assert singular.singular and "Singular fit" in str(singular.summary())
    broken = replace(fit(), converged=False, message="it stopped")
    assert "Not converged: it stopped." in str(broken.summary())


def test_the_coverage_goes_by_either_word():
    result = sleep("Reaction ~ Days + (1 | Subject)")
    text = str(result.summary(level=0.9))
    assert text == str(result.summary(alpha=0.1))
    assert number(result.conf_int(level=0.9).loc["Days", "lower"]) in text
    test = result.t_test("Days = 10")
    assert str(test.summary(level=0.9)) == str(test.summary(alpha=0.1)) != str(test.summary())
    with pytest.raises(lmm.DataError, match="level is 1 - alpha"):
        result.summary(alpha=0.1, level=0.95)


def test_an_estimate_shows_the_digits_of_its_standard_error():
    """An effect of 4e-6 beside one of 0.5: neither is rounded away, nor has eight decimals."""
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"id": np.repeat(range(40), 6), "income": rng.normal(4e4, 15e3, 240)})
    data["y"] = 0.5 + 5e-6 * data["income"] + 0.1 * rng.normal(size=40)[data["id"]]
    data["y"] += 0.1 * rng.normal(size=240)
    res = lmm.fit("y ~ income + (1 | id)", data)
    table = res.summary().tables[-1]
    text = {line.split()[0]: line.split()[1:] for line in str(table).splitlines() if line.strip()}
    estimate, error = res.fe_params["income"], res.bse_fe["income"]
    assert text["income"][0] == f"{estimate:.3e}" and text["income"][1] == f"{error:.2e}"
    assert text["income"][-2:] == [f"{x:.3e}" for x in res.conf_int().loc["income"]]
    assert text["Intercept"][0] == f"{res.fe_params['Intercept']:.4f}"
    thousands = lmm.fit("y ~ I(income / 1000) + (1 | id)", data)  # errors of 5e-4 ask for more
    shown = str(thousands.summary().tables[-1])
    assert f"{1000 * estimate:.6f}" in shown and f"{1000 * error:.6f}" in shown
    cells = str(lmm.regression_table(res, thousands, statistics=["nobs"]))
    assert f"{estimate:.8f} ({error:.8f})" in cells
    assert f"{1000 * estimate:.5f} ({1000 * error:.5f})" in cells
    assert "0.005 (0.000)" in str(lmm.regression_table(thousands, digits=3))


def test_long_names_leave_the_numbers_on_the_page():
    """In LaTeX names fold into what is left of the line; facts beside short words have more."""
    data = samples.frame().rename(columns={"x": "time since the onset of the disease (weeks)"})
    formula = "y ~ `time since the onset of the disease (weeks)` * f + (1 | g)"
    text = lmm.fit(formula, data).summary().to_latex()
    facts, *_, fixed = re.findall(r"begin{tabular}{@{}(.*?)@{}}", text)
    assert re.fullmatch(r"p{0.2\d*\\linewidth}rrrrrrr", fixed) and facts == r"lp{0.6\linewidth}"
    assert text.count(r"\raggedright time since") == 1 + (data["f"].nunique() - 1)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (3.1415926, 5e-7, "3.141592600"),  # of its size, and all digits that the error leaves
        (4.1246e-6, 4.9e-7, "4.125e-06"),
        (1.2e-8, 4.9e-7, "1.20e-08"),  # less than its error
        (-9.92e-7, 1.04e-6, "-0.00000099"),
        (0.25, 0.1, "0.2500"),
        (-3.2e-9, 6.1e-5, "0.0000000"),  # nothing beside its error
        (3.2e-9, np.nan, "3.2000e-09"),
    ],
)
def test_digits_of_an_estimate(value, error, text):
    table = fit("an intercept").summary().tables[-1]
    table["estimate"], table["std_error"] = value, error
    assert text in str(table).split()


def test_what_was_given_beside_the_formula_stands_in_the_head():
    data = samples.frame()
    by_name = lmm.fit("y ~ x + (1 | g)", data, weights="w", offset="o", subset="x > -9")
    given = lmm.fit("y ~ x + (1 | g)", data, weights=data["w"], offset=data["o"].to_numpy())
    X = np.column_stack([np.ones(len(data)), data["x"]])
    arrays = lmm.fit(lmm.design_from_arrays(data["y"], X, data["g"], weights=data["w"]))
    named = {"Weights": "w", "Offset": "o", "Subset": "x > -9"}
    array = {"Weights": "an array", "Offset": "an array"}
    for res, want in (
        (by_name, named),
        (given, array),
        (arrays, {"Weights": "an array"}),
        (fit(), {}),
    ):
        facts = res.summary().tables[0]["value"]
        assert facts[facts.index.isin(["Weights", "Offset", "Subset"])].to_dict() == want
    again = pickle.loads(pickle.dumps(by_name)).summary()
    assert str(again) == str(by_name.summary())


def test_a_frame_that_was_changed_is_shown_as_it_is():
    page = lmm.fit("y ~ x + (1 | g)", samples.frame()).summary()
    page.tables[-1].loc["x", "estimate"] = 98.7654
    assert "98.7654" in str(page) and "98.7654" in page.to_markdown()
