"""How results are shown: HTML, text of any width and LaTeX hold the same table."""

import copy
import dataclasses
import os
import pickle
import re
import shutil
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from types import ModuleType
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from fits import dyestuff, nitrogen, oats, sleep

import lmm_jax as lmm
from lmm_jax.inference.df import methods as df
from lmm_jax.reprs import number
from lmm_jax.tables.cells import cells, columns_of
from lmm_jax.tables.markup import escape_latex
from lmm_jax.tables.page import Summary, Table, table
from lmm_jax.tables.paper import in_words, method_name
from lmm_jax.tables.text import folded_columns

ODD = "50% of <b>A</b> & B_1 {x} $ # ~ ^ \\"


@cache
def visits():
    data = lmm.load_dataset("orthodont")
    data["age"] = data["age"].astype(int)
    data.loc[[0, 5, 50], "distance"] = np.nan
    return data, lmm.fit("distance ~ Sex * C(age) + us(age | Subject)", data)


@cache
def some_power():
    return lmm.power(dyestuff().design, dyestuff(), 50, test="Intercept", seed=1)


def odd_names():
    """A fit whose names hold what HTML and LaTeX take for their own."""
    data = lmm.load_dataset("orthodont").rename(columns={"age": "a<b & c_1 %"})
    data["Sex"] = data["Sex"].map({"Male": "[m]", "Female": "{f}$"})
    return lmm.fit("distance ~ `a<b & c_1 %` * Sex + (1 | Subject)", data)


SHOWN = {
    "fit": sleep,
    "residual covariance": lambda: visits()[1],
    "odd names": odd_names,
    "means": lambda: lmm.emmeans(nitrogen(), "Nf"),
    "pairs": lambda: lmm.emmeans(nitrogen(), "Nf").pairs(),
    "anova": lambda: nitrogen().anova(),
    "ranova": lambda: lmm.ranova(sleep()),
    "t test": lambda: sleep().t_test("Days = 10, Intercept"),
    "variances": lambda: sleep().varcorr,
    "intervals": lambda: sleep().conf_int(),
    "glance": lambda: sleep().glance(),
    "r2": lambda: lmm.r2(nitrogen()),
    "icc": lambda: lmm.icc(nitrogen()),
    "vif": lambda: lmm.vif(nitrogen()),
    "components": lambda: lmm.variance_components(nitrogen()),
    "caic": lambda: lmm.caic(sleep()),
    "heritability": lambda: lmm.heritability(nitrogen(), additive="Block"),
    "profile": lambda: lmm.profile(sleep(), "theta"),
    "residuals": lambda: lmm.simulate_residuals(sleep(), 20, seed=1),
    "F test": lambda: sleep().f_test("Days = 10, Intercept"),
    "chi-square test": lambda: sleep().wald_test("Days", use_f=False),
    "tests of terms": lambda: nitrogen().wald_test_terms(),
    "influence": lambda: lmm.influence(sleep()),
    "random effects": lambda: sleep().random_effects["Subject"],
    "effects in one table": lambda: sleep().random_effects_frame(),
    "coefficients": lambda: sleep().coef()["Subject"],
    "power": lambda: some_power(),
}


class Page(HTMLParser):
    """Tables of a page as rows of cells, captions and notes."""

    def __init__(self, page):
        super().__init__()
        self.tables, self.captions, self.notes, self.opened, self.open = [], [], [], [], []
        self.feed(page)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.kind = dict(attrs).get("class", "")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "p" and self.kind == "notes":
            self.notes.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        elif self.open[-1] == "caption":
            self.captions.append(data)
        elif self.open[-1] == "p" and self.kind == "notes":
            self.notes[-1] += data
        else:
            assert self.open[-1] in ("style", "p")


@pytest.mark.parametrize("name", SHOWN)
def test_html_is_made_of_whole_tables(name):
    shown = SHOWN[name]()
    page = Page(shown._repr_html_())
    own = shown._page()
    assert len(page.tables) == len(own.tables) > 0
    for rows, frame in zip(page.tables, own.tables, strict=True):
        has_header = len(rows) > len(frame)
        assert len(rows) - has_header == len(frame)
        assert len({len(row) for row in rows}) == 1  # every row as many cells
        assert len(rows[0]) in (len(frame.columns), len(frame.columns) + frame.index.nlevels)
    assert page.notes == list(own.notes)


@pytest.mark.parametrize("name", SHOWN)
def test_text_and_html_hold_the_same_cells(name):
    shown = SHOWN[name]()
    text = shown._page().as_text(200)
    for rows in Page(shown._repr_html_()).tables:
        for row in rows:
            assert re.search(r"\s+".join(re.escape(c) for c in row if c), text)
    assert str(shown) == shown._page().as_text(80)  # conftest.py sets the width


@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.parametrize("width", [40, 80, 200])
def test_any_width_loses_nothing(name, width):
    page = SHOWN[name]()._page()
    text = page.as_text(width)
    assert max(map(len, text.splitlines())) <= width
    squeezed = re.sub(r"\s", "", text)
    for frame in page.tables:
        shown = frame._cells(None)
        for row in shown.rows:
            for cell, is_right in zip(row, shown.right, strict=True):
                # words may be put on two lines, between which other columns stand
                parts = [cell] if is_right else cell.split()
                assert all(part[: None if is_right else 6] in squeezed for part in parts)
    for note in page.notes:
        assert re.sub(r"\s", "", note) in squeezed


@pytest.mark.parametrize("name", SHOWN)
def test_latex_is_balanced(name):
    shown = SHOWN[name]()
    text = shown.to_latex()
    for what in ("table", "tabular", "minipage"):
        assert text.count(rf"\begin{{{what}}}") == text.count(rf"\end{{{what}}}")
    bare = re.sub(r"\\[&%$#_{}]", "", text)
    assert "%" not in bare and "#" not in bare and "~" not in bare and "<" not in bare
    assert bare.count("{") == bare.count("}")
    for tabular in re.findall(r"begin{tabular}{@{}(.*?)@{}}\n(.*?)\\end{tabular}", bare, re.DOTALL):
        columns = re.sub(r"p{.*?}", "l", tabular[0])
        rows = [line for line in tabular[1].splitlines() if line.endswith(r"\\")]
        assert rows and not any(row.startswith(("[", "*")) for row in rows)
        assert {row.count("&") + 1 for row in rows if "multicolumn" not in row} == {len(columns)}


def compiled(body, folder):
    """What TeX says of a document."""
    head = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
    (folder / "all.tex").write_text(head + body + "\n\\end{document}\n", encoding="utf-8")
    run = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(run, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no TeX")
def test_latex_compiles_with_booktabs_alone(tmp_path):
    body = "\n\\clearpage\n".join(SHOWN[name]().to_latex() for name in SHOWN)
    told = compiled(body, tmp_path)
    assert "Overfull" not in told and "too large" not in told


def long_tables():
    """What one page of LaTeX has no room for: a folded table, rows of words, many rows."""
    words = ["  a_long_name_of_a_factor[T.one]:another_long_name[T.two]", "  x"] * 25
    cells = {name: ["1.2345 [-1.2345, 2.3456]"] * 50 for name in ("(1)", "(2)", "(3)", "(4)")}
    kinds = {"term": "label", **dict.fromkeys(cells, "number")}
    names = pd.DataFrame({"term": words, **cells})
    for frame in (names.assign(term="  x"), names, pd.DataFrame({"n": np.arange(1234.0)})):
        yield table(frame, "A title", ["A note"], kinds=kinds, headings={"term": ""})


def test_latex_goes_on_in_another_float_where_a_page_ends():
    expected = ("1.2345 [", 200), ("1.2345 [", 200), (".0000", 1234)
    for shown, (cell, times) in zip(long_tables(), expected, strict=True):
        text = shown.to_latex(label="tab:a")
        pages = text.split(r"\begin{table}[htbp]")[1:]
        assert text.count(cell) == times and len(pages) > 1
        assert [page.count(r"\label{tab:a}") for page in pages] == [1] + [0] * (len(pages) - 1)
        assert (
            r"\caption{A title}" in pages[0] and "A note" in pages[-1] and text.count("A note") == 1
        )
        for page in pages[1:]:  # with the number and the headings of the first
            assert "\\addtocounter{table}{-1}\n\\caption{A title (continued)}\n" in page
            assert r"\midrule" in page
        assert max(page.count(r" \\") for page in pages) < 60
    assert sleep().summary().to_latex().count("begin{table}") == 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no TeX")
def test_pages_of_latex_have_room_for_floats(tmp_path):
    body = "\n\\clearpage\n".join(shown.to_latex() for shown in long_tables())
    assert compiled(body, tmp_path).count("too large") == 0


def long_words():
    """Formulas of 60 names without a blank: a column, notes, a caption; a row; above a column."""
    formula = "y~" + "+".join(f"covariate_{i}" for i in range(60)) + "+(1|g)"
    name = ":".join(f"covariate_{i}" for i in range(9))
    facts = pd.DataFrame({"value": [formula, "(1|g)"]}, index=["Formula", "Terms"])
    yield table(facts, "Facts", [formula], headings={"value": ""}, kinds={"value": "text"})
    yield table(pd.DataFrame({"x": [1.0], "z": [2.0]}, index=[name]), f"Fit of {formula}")
    yield table(pd.DataFrame({"[x]": np.ones(70), formula: np.ones(70)}), "Heads")


def test_long_words_of_latex_go_on_behind_signs():
    facts, named, heads = (shown.to_latex() for shown in long_words())
    assert facts.count(r"\allowbreak{}") == 2 * 62
    assert named.count(r":\allowbreak{}covariate\_") == 8
    assert r"+\allowbreak{}(1\textbar{}\allowbreak{}g) \\" in facts
    assert r"Terms & (1\textbar{}g) \\" in facts  # which is short
    assert r"{}[x] & \shortstack[r]{y$\sim$covariate\_0+" in heads
    assert r"covariate\_3+\\{}covariate\_4+" in heads and heads.count(r"\begin{table}") == 3


NAME = "average_daily_number_of_hours_of_restricted_sleep_in_the_laboratory"


def long_names():
    data = lmm.load_dataset("sleepstudy").rename(columns={"Days": NAME})
    res = lmm.fit(f"Reaction ~ {NAME} + ({NAME} | Subject)", data)
    return [res.summary(), lmm.regression_table(res, res), res.anova()]


def test_long_names_of_latex_go_on_behind_underscores():
    for shown in long_names():
        text = shown.to_latex()
        assert NAME.replace("_", r"\_\allowbreak{}") in text
        assert NAME.replace("_", r"\_") not in text
    short = lmm.load_dataset("sleepstudy").rename(columns={"Days": "days_of_restricted_sleep"})
    text = lmm.fit("Reaction ~ days_of_restricted_sleep + (1 | Subject)", short).to_latex()
    assert r"days\_of\_restricted\_sleep" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no TeX")
def test_long_words_of_latex_stay_on_the_page(tmp_path):
    body = "\n\\clearpage\n".join(shown.to_latex() for shown in [*long_words(), *long_names()[:2]])
    told = compiled(body, tmp_path)
    assert "Overfull" not in told and "too large" not in told


def test_special_characters_are_themselves():
    frame = pd.DataFrame({"x": [1.0, -2.0]}, index=[ODD, "[a]"])
    shown = table(frame, ODD, [ODD])
    page = Page(shown._repr_html_())
    assert [row[0] for row in page.tables[0]] == ["", ODD, "[a]"]
    assert page.captions == [ODD] and page.notes == [ODD]
    latex = shown.to_latex()
    assert latex.count(escape_latex(ODD)) == 3
    assert r"50\% of \textless{}b\textgreater{}A" in latex and r"\& B\_1 \{x\} \$ \#" in latex
    assert "{}[a] & $-$2.0000" in latex  # not an argument of the \\ before


def test_numbers_stand_right_and_words_left():
    frame = pd.DataFrame({"word": ["a", "long word"], "x": [1.5, -20.25], "ok": [True, False]})
    assert str(table(frame, "")).splitlines() == [
        " word              x  ok",
        " a            1.5000  yes",
        " long word  -20.2500  no",
    ]


def test_kinds_of_columns():
    columns = {"df": [1.0, np.inf], "n": [1, 20], "p_value": [1e-9, 0.25], "x": [np.nan, 1e-7]}
    own = cells(columns_of(pd.DataFrame(columns)), "", {}, {})
    assert own.rows == (("1", "1", "<0.001", ""), ("inf", "20", "0.250", number(1e-7)))
    fractions = cells(columns_of(pd.DataFrame({"df": [1.0, 2.25]})), "", {}, {})
    assert fractions.rows == (("1.00",), ("2.25",))


def test_columns_are_folded_with_their_labels():
    assert folded_columns([5, 4, 4, 4], [False] * 4, 1, 17) == [[0, 1, 2], [0, 3]]
    assert folded_columns([5, 4, 4, 4], [False, False, False, True], 1, 17) == [[0, 1], [0, 2, 3]]
    assert folded_columns([5], [False], 1, 3) == [[0]]
    assert folded_columns([5, 40], [False] * 2, 1, 10) == [[0, 1]]


def test_long_tables_show_their_beginning():
    long = table(pd.DataFrame({"x": np.arange(1234.0)}), "long")
    assert "... 1,174 rows more" in str(long) and "... 1,174 rows more" in long._repr_html_()
    assert len(str(long).splitlines()) < 70
    assert long.to_latex().count("0000 \\\\") == 1234


def test_tables_of_a_summary_are_frames():
    res, tables = sleep(), sleep().summary().tables
    assert all(isinstance(t, pd.DataFrame) for t in tables)
    facts, random, fixed = tables
    assert facts.loc["Observations", "value"] == "180"
    np.testing.assert_array_equal(fixed["estimate"], res.fe_params)  # all digits
    np.testing.assert_array_equal(fixed["p_value"], res.pvalues)
    assert random["variance"].tolist() == [*np.diag(res.cov_re), res.scale]
    assert type(fixed.round(2)) is pd.DataFrame and type(fixed["df"]) is pd.Series
    again = pickle.loads(pickle.dumps(fixed))
    assert str(again) == str(fixed) and isinstance(again, Table)


def test_arguments_that_only_pandas_has_go_there(monkeypatch):
    frame = sleep().varcorr
    monkeypatch.setattr(pd.DataFrame, "to_latex", lambda self, **options: options)  # needs Jinja2
    asked = {"index": False, "caption": "A"}
    assert frame.to_latex(**asked) == asked | {"escape": True}
    assert isinstance(frame.to_latex(caption="A", label="t"), str)

    def absent(self, **options):
        raise ImportError("Import tabulate failed")

    monkeypatch.setattr(pd.DataFrame, "to_markdown", absent)
    with pytest.raises(
        ImportError, match=r"with floatfmt pandas writes the table.* tabulate.*digits"
    ):
        frame.to_markdown(floatfmt=".2f", digits=1)


# ------------------------------------------------------------ for papers


EXPORTS = ("to_latex", "to_markdown", "to_html")


@pytest.mark.parametrize("how", EXPORTS)
@pytest.mark.parametrize("name", SHOWN)
def test_every_export_takes_a_caption_digits_and_notes(name, how):
    shown = SHOWN[name]()
    text = getattr(shown, how)(caption="An own caption", digits=1, notes="My note.")
    assert text.count("An own caption") == 1 and text.count("My note.") == 1
    title = shown._page().title
    assert not title or title not in text
    small = [re.escape(note[:20]) for note in shown._page().notes]
    assert not any(re.search(note, text) for note in small)
    assert "My note" not in getattr(shown, how)(notes=False)


METHODS = {
    "anova": (lambda: sleep().anova(df_method="kr"), "Type III, Kenward-Roger"),
    "summary": (lambda: sleep().summary(), "Fitted by REML"),
    "fit": (sleep, "Fitted by REML"),
    "varcorr": (lambda: sleep().varcorr, "Fitted by REML"),
    "glance": (lambda: sleep().glance(), "Fitted by REML"),
    "wald": (lambda: sleep().conf_int(), "Wald intervals of level 0.95"),
    "profile": (lambda: sleep().conf_int(method="profile"), "Profile intervals of level 0.95"),
    "components": (lambda: lmm.variance_components(sleep()), "Fitted by REML"),
    "ranova": (lambda: lmm.ranova(sleep()), "Fitted by REML"),
    "drop1": (lambda: lmm.drop1(nitrogen(), df_method="kr"), "Degrees of freedom: Kenward-Roger"),
    "drop1 chisq": (lambda: lmm.drop1(nitrogen(), test="chisq"), "Likelihood ratios by ML"),
    "joint": (lambda: lmm.joint_tests(nitrogen()), "Degrees of freedom: Satterthwaite"),
    "profiles": (lambda: lmm.profile(dyestuff(), "sigma"), "Profiles of the likelihood, ML"),
    "bootstrap": (
        lambda: lmm.bootstrap(dyestuff(), 20, seed=1),
        "Parametric bootstrap, 20 replicates fitted by REML",
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_caption_leaves_how_the_numbers_were_made(name):
    make, method = METHODS[name]
    shown = make()
    for how in ("to_markdown", "to_html", "to_latex"):
        text = getattr(shown, how)(caption="A caption")
        assert "A caption" in text and method in text
    assert f">{method}</p>" not in shown.to_html()  # the title says it
    assert f">{method}</p>" in shown.to_html(caption="")
    assert method not in shown.to_html(caption="A", notes="Of my own.")


def test_advice_is_for_screens():
    """A published table does not name the library's functions."""
    _, res = visits()
    for shown, call in ((res.conf_int(), "residual_intervals()"), (res.varcorr, "residual_params")):
        assert call in str(shown) and call in shown._repr_html_()
        for how in ("to_markdown", "to_html", "to_latex"):
            assert call.partition("_")[2] not in getattr(shown, how)()
    many = sleep().random_effects_frame()
    long = table(pd.concat([many] * 5, ignore_index=True), "Long")._page()
    long = dataclasses.replace(long, whole="to_frame()")
    assert "of 180 rows: to_frame() has all" in str(long)
    assert "of 180 rows" in long.to_html() and "to_frame" not in long.to_html()


def test_digits_are_those_of_estimates_and_statistics():
    found = sleep().summary().to_markdown(digits=2)
    line = next(line for line in found.splitlines() if line.startswith("| Days | 1"))
    assert line == r"| Days | 10.47 | 1.55 | 17 | 6.77 | \<0.001 | 7.21 | 13.73 |"
    whole = next(line for line in sleep().anova().to_markdown(digits=0).splitlines()[::-1] if line)
    assert whole == r"| Days | 30031 | 30031 | 1 | 17 | 46 | \<0.001 |"


def test_columns_are_chosen_by_name_or_heading():
    table = sleep().anova()
    text = table.to_markdown(columns=["P", "f"])
    assert text.splitlines()[2] == "| Term | P | F |"
    page = sleep().summary()
    only = page.to_latex(columns=["estimate"])  # of the fixed effects alone
    assert only.count("begin{tabular}") == 1 and "Fixed effects" in only
    both = page.to_markdown(columns=["Std. error"])
    assert both.count("Std. error") == 2 and "| Group | Term | Std. error |" in both
    with pytest.raises(lmm.DataError, match="columns: there is no 'se'; there are sum_sq, mean_sq"):
        table.to_html(columns=["se"])


def test_names_are_replaced_in_headings_terms_and_interactions():
    words = {"Nf": "Nitrogen", "Variety": "Cultivar", "estimate": "b"}
    fixed = oats().summary().tables[-1]
    text = fixed.to_markdown(rename=words)
    assert "Cultivar\\[T.Victory\\]:Nitrogen\\[T.n20\\]" in text and "| b |" in text
    assert "Variety" not in text and "Variety" in fixed.to_markdown()
    words = {"Nf": "Nitrogen", "Variety": "Cultivar", "P": "p"}
    anova = oats().anova().to_markdown(rename=words)
    assert "| Cultivar:Nitrogen |" in anova and anova.splitlines()[2].endswith("| F | p |")
    means = lmm.emmeans(nitrogen(), "Nf").to_markdown(rename={"Nf": "Nitrogen", "estimate": "b"})
    assert means.splitlines()[2].startswith("| Nitrogen | b |")


def test_numbers_of_a_column_have_the_same_decimals():
    frame = pd.DataFrame(
        {"x": [-0.0012, -0.00085637, 0.00010333, 0.0], "y": [251.4, 1e-9, 3, np.nan]}
    )
    rows = cells(columns_of(frame), "", {}, {}).rows
    assert [row[0] for row in rows] == ["-0.001200", "-0.000856", "0.000103", "0.000000"]
    assert [row[1] for row in rows] == ["251.4000", "1e-09", "3.0000", ""]
    fine = pd.DataFrame(
        {"estimate": [12.5, 0.00002], "std_error": [0.25, 0.0004], "size": [12.5, 1]}
    )
    assert cells(columns_of(fine), "", {}, {}).rows[0] == ("12.500000", "0.250000", "12.5000")
    coarse = fine.assign(std_error=[0.25, 0.5])
    assert [row[0] for row in cells(columns_of(coarse), "", {}, {}).rows] == ["12.5000", "0.0000"]


def test_labels_of_rows_have_headings_for_papers():
    small = lmm.fit("Reaction ~ Days + (1 | Subject)", lmm.load_dataset("sleepstudy"))
    assert "| Model | Parameters | AIC |" in lmm.anova(small, sleep()).to_markdown()
    assert "| Factor | Estimate |" in lmm.icc(sleep()).to_markdown()


def test_headings_that_are_names_of_the_data_stay():
    """A covariate called like a column of ours."""
    data = lmm.load_dataset("sleepstudy").rename(columns={"Days": "size", "Subject": "level"})
    res = lmm.fit("Reaction ~ size + (size | level)", data)
    for frame in (res.random_effects["level"], res.coef()["level"]):
        assert "size |" in frame.to_markdown() and "Size" not in frame.to_markdown()
    means = lmm.emmeans(lmm.fit("Reaction ~ C(size) + (1 | level)", data), "size")
    assert means.to_markdown().splitlines()[2].startswith("| size | Mean |")
    assert "| size |" in lmm.influence(res).to_markdown()
    data = lmm.load_dataset("sleepstudy").rename(columns={"Subject": "model"})
    named = lmm.fit("Reaction ~ Days + (Days | model)", data)
    assert "| model |" in lmm.influence(named, by="model").to_markdown()


def test_coefficients_called_like_p_values_are_numbers():
    data = lmm.load_dataset("sleepstudy").rename(columns={"Days": "p_value"})
    res = lmm.fit("Reaction ~ p_value + (p_value | Subject)", data)
    assert "<0.001" not in str(res.random_effects["Subject"]) + str(res.coef()["Subject"])
    assert "<0.001" not in str(lmm.influence(res))


def test_letters_leave_a_factor_called_group_alone():
    data = lmm.load_dataset("oats").rename(columns={"Nf": "group"})
    means = lmm.emmeans(lmm.fit("yld ~ group + (1 | Block/Variety)", data), "group")
    found = means.cld()
    assert found.iloc[:, 0].tolist() == ["n00", "n20", "n40", "n60"]
    assert found["group"].tolist() == ["a", "b", "c", "c"]
    assert means.test().title == "Tests of marginal means"


def test_levels_are_renamed_within_interactions():
    words = {"Variety[T.Marvellous]": "Marvellous", "Nf": "N", "T.n20": "20"}
    text = oats().summary().tables[-1].to_markdown(rename=words)
    assert r"Marvellous:N\[20\]" in text and r"| Variety\[T.Victory\]:N\[20\]" in text
    whole = oats().summary().to_markdown(rename={"Nf": "N"})
    assert "yld ~ Variety \\* Nf" in whole.replace("\\~", "~")  # a formula stays what it is


@cache
def levels():
    return lmm.fit("yld ~ Variety * factor(Nf) + (1 | Block)", lmm.load_dataset("oats"))


def test_names_to_replace_are_spelled_as_in_the_formula_or_refused():
    fixed, cell = levels().summary().tables[-1], r"N\[T.n20\] "
    for key in ("factor(Nf)", "C(Nf)", "as.factor(Nf)"):
        assert f"| {cell}" in fixed.to_markdown(rename={key: "N"})
        assert f":{cell}" in fixed.to_markdown(rename={key: "N"})
    assert "| low |" in fixed.to_markdown(rename={"factor(Nf)[T.n20]": "low"})
    swapped = {"factor(Nf):Variety": "Both"}
    assert "| Both |" in levels().anova().to_markdown(rename=swapped)
    for shown, key, near in (
        (levels().summary(), "C(Nff)", "did you mean 'C(Nf)'"),
        (fixed, "estimte", "did you mean 'Estimate'"),
        (lmm.emmeans(nitrogen(), "Nf"), "Varietie", "there are n00, n20, n40, n60, Nf"),
    ):
        message = re.escape(f"rename: there is no {key!r}; {near}")
        for how in EXPORTS:
            with pytest.raises(lmm.DataError, match=message):
                getattr(shown, how)(rename={key: "x"})
    rows = pd.DataFrame({"x": range(100)}, index=[f"row {i}" for i in range(100)])
    assert "row 3<" in table(rows, "Long").to_html(rename={"row 99": "the last"})


def test_methods_are_spelled_as_papers_do():
    data = lmm.load_dataset("oats").rename(columns={"Variety": "holm", "Nf": "fdr"})
    means = lmm.emmeans(lmm.fit("yld ~ holm + fdr + (1 | Block)", data), "holm")
    assert "Averaged over the levels of fdr" in means.to_markdown()
    text = nitrogen().anova(df_method="kenward-roger").to_latex()
    assert r"\caption{Analysis of variance, type III, Kenward-Roger}" in text
    pairs = lmm.emmeans(nitrogen(), "Nf").pairs()
    assert "adjusted by Tukey" in pairs.to_html() and "adjusted by tukey" in str(pairs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"digits": -1}, "digits=-1"),
        ({"digits": 1.5}, "digits=1.5"),
        ({"caption": 3}, "caption is a int"),
        ({"rename": "a"}, "rename='a'"),
        ({"rename": {"a": None}}, "rename['a'] is a NoneType: a string is needed"),
        ({"notes": 3}, "notes=3"),
        ({"columns": "nothing"}, "columns"),
    ],
)
def test_options_that_are_none_are_refused(options, message):
    for shown in (sleep().anova(), lmm.emmeans(nitrogen(), "Nf"), sleep().summary()):
        with pytest.raises(lmm.DataError, match=re.escape(message)):
            shown.to_markdown(**options)
    for shown in (sleep().summary(), sleep().varcorr):
        with pytest.raises(TypeError, match=r"'capton'.*did you mean 'caption'"):
            shown.to_markdown(capton="A")


def test_labels_and_widths_of_latex():
    text = sleep().summary().to_latex(label="tab:a_b", width=200)
    assert text.splitlines()[2:4] == [
        r"\caption{Linear mixed model fitted by REML}",
        r"\label{tab:a_b}",
    ]
    narrow = sleep().summary().to_latex(width=40)
    assert narrow.count("begin{tabular}") > text.count("begin{tabular}") == 3


def test_tables_fold_where_a_line_of_latex_ends():
    wide = lmm.regression_table(*[sleep()] * 6, show="conf_int")
    assert wide.to_latex().count("begin{tabular}") > 1 and "\\footnotesize" in wide.to_latex()
    assert wide.to_latex(width=400).count("begin{tabular}") == 1
    assert "\\centering\\small" in sleep().summary().to_latex()
    assert wide.to_markdown().count("Observations") == wide.to_html().count("Observations") == 1


def test_rows_stay_indented_where_latex_folds_their_names():
    name = "nitrogen_in_hundredweight_per_acre"
    data = lmm.load_dataset("oats").rename(columns={"Nf": name})
    fit = lmm.fit(f"yld ~ {name} + (1 | Block/Variety)", data)
    text = lmm.regression_table(fit, fit, show="conf_int").to_latex()
    assert "p{" in text and r"\raggedright \hangindent=2em\hspace*{1em}Intercept &" in text
    assert r"\raggedright Fixed effects &" in text
    shown = lmm.regression_table(nitrogen()).to_latex()
    assert "p{" not in shown and r"\quad Intercept &" in shown


def test_small_print():
    assert "Degrees of freedom: satterthwaite" in sleep().summary().notes
    assert "Degrees of freedom: normal" in sleep().summary(df_method="normal").notes
    assert "REML" in sleep().summary().title and "REML" in sleep().varcorr.title
    robust = sleep().robust("CR2")
    assert any("CR2" in note for note in robust.anova().notes)
    singular = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff2"))
    for shown in (singular.summary(), singular.varcorr, singular.conf_int(), singular.glance()):
        assert any(note.startswith("Singular fit") for note in shown.notes)
    adjusted = lmm.hypotheses(nitrogen(), "Nf[T.n20], Nf[T.n40]", adjust="holm")
    assert "P values and limits adjusted by holm" in adjusted.summary().notes
    assert "P values adjusted by tukey" in str(lmm.emmeans(nitrogen(), "Nf").pairs())


def test_rows_left_out_are_counted_by_variable():
    data = lmm.load_dataset("sleepstudy")
    data.loc[[3, 50, 51], "Reaction"] = np.nan
    data.loc[[51, 60], "Days"] = np.nan
    formula = "Reaction ~ Days + (Days | Subject)"
    want = "4 rows with missing values: Reaction 3, Days 2"
    gaps = (("Reaction", 3), ("Days", 2))
    res = lmm.fit(formula, data)
    assert (res.n_missing, res.gaps) == (4, gaps)
    assert res.summary().tables[0].loc["Left out", "value"] == want
    restored = pickle.loads(pickle.dumps(res))
    assert want in str(restored.summary())
    batches = lmm.design_from_batches(formula, [data.iloc[:60], data.iloc[60:]])
    assert (batches.n_missing, batches.gaps) == (4, gaps)
    y, x = data["Reaction"].to_numpy(), np.column_stack([np.ones(180), data["Days"]])
    arrays = lmm.design_from_arrays(y, x, data["Subject"].to_numpy(), missing="drop")
    assert (arrays.n_missing, dict(arrays.gaps)) == (4, {"y": 3, "x1": 2})
    assert "Left out" not in str(sleep().summary())


def test_visits_of_a_residual_covariance_are_counted():
    data, res = visits()
    seen = (
        data.dropna().groupby("Subject", observed=True)["age"].agg(lambda ages: tuple(sorted(ages)))
    )
    counts = seen.map(len)
    found = res.visits
    assert (found.n_subjects, found.n_visits, found.n_patterns) == (27, 4, seen.nunique())
    assert (found.fewest, found.most) == (counts.min(), counts.max())
    want = f"Subject 27, {counts.min()} to 4 visits of 4, {seen.nunique()} patterns"
    assert res.summary().tables[0].loc["Subjects", "value"] == want


def test_no_variance_of_the_first_visit_reads_like_one_of_all():
    res = visits()[1]
    rows = [line.split()[0] for line in str(res.summary()).splitlines() if line.strip()]
    assert "sd[8]" in rows and str(res.summary()).count(" Residual ") == 0
    assert any("first level" in note for note in res.varcorr.notes)
    data = lmm.load_dataset("orthodont")
    pooled = lmm.fit("distance ~ age + ar1(row | Subject)", data)
    assert number(pooled.scale) in str(pooled.summary()) and not pooled.varcorr.notes
    power = lmm.fit("distance ~ age + power(age) + (1 | Subject)", data)
    assert "at |x| = 1" in str(power.summary()) and "at |x| = 1" in power.varcorr.notes[0]


def test_a_joint_test_is_a_row_with_its_hypotheses():
    test = sleep().wald_test("Days = 0, Intercept = 0")
    page = test.summary(title="Both")
    assert isinstance(page, Summary) and page.title == "Both"
    [row] = page.tables
    assert row.iloc[0].tolist() == [test.fvalue, 2, test.df_denom, test.pvalue]
    assert page.notes == ("Tested: Days = 0, Intercept = 0",)
    assert "chisq" in str(sleep().wald_test("Days", use_f=False))


def test_tables_of_levels_and_of_power_are_frames():
    effects = sleep().random_effects["Subject"]
    assert effects.title == "Random effects of Subject" and type(effects + 1) is pd.DataFrame
    np.testing.assert_array_equal(
        sleep().coef()["Subject"]["Days"], effects["Days"] + sleep().fe_params["Days"]
    )
    power = some_power()
    assert type(power[power["power"] > 0]) is pd.DataFrame
    assert power.notes[0] == "50 simulated data sets a size, tests at the level 0.05, satterthwaite"


def test_influence_shows_the_largest_first():
    found = lmm.influence(sleep())
    rows = [line.split()[0] for line in str(found).splitlines()[3:-3]]
    assert rows == list(found.cooks_distance.sort_values(ascending=False).index)
    of_rows = lmm.influence(sleep(), "row")
    assert "Influence of 180 rows" in str(of_rows) and "The first 20 of 180 rows" in str(of_rows)
    text = of_rows.to_latex()
    rows = text.count(r" \\" + "\n") - text.count("toprule")  # without headings
    assert rows == 180 and of_rows.to_markdown().count("\n| ") == 181 + 1
    frame = of_rows.to_frame()
    np.testing.assert_array_equal(frame["conditional_cooks"], of_rows.conditional_cooks)
    np.testing.assert_array_equal(frame["Days"], of_rows.dfbetas["Days"])


def test_markdown_has_the_strings_of_the_page():
    page = sleep().summary()
    lines = page.to_markdown().splitlines()
    assert lines[0] == f"**{page.title}**" and "*Fixed effects*" in lines
    table = lines[lines.index("*Fixed effects*") + 2 :]
    assert table[1].startswith("| :--- | ---: |")
    cells = [cell.strip() for cell in table[3].strip("|").split(" | ")]
    row = next(line for line in str(page).splitlines() if line.startswith(" Days "))
    assert [cell.replace("\\", "") for cell in cells] == row.split()
    assert r"(Days \| Subject)" in page.to_markdown()
    assert sleep().to_markdown() == page.to_markdown() and sleep().to_html() == page.to_html()


# ------------------------------------------------------------ long work


class Bar:
    """What tqdm would show; raises after some units if it is told to."""

    made: ClassVar[list["Bar"]] = []
    stop_after = np.inf

    def __init__(self, total, **options):
        self.total, self.count, self.closed = total, 0, False
        Bar.made.append(self)

    def update(self, count):
        self.count += count
        if self.count >= Bar.stop_after:
            raise KeyboardInterrupt

    def close(self):
        self.closed = True


@pytest.fixture
def bars(monkeypatch):
    module = ModuleType("tqdm.auto")
    module.tqdm = Bar
    monkeypatch.setitem(sys.modules, "tqdm.auto", module)
    monkeypatch.setattr(Bar, "made", [])
    monkeypatch.setattr(Bar, "stop_after", np.inf)
    return Bar.made


def responses():
    data = lmm.load_dataset("dyestuff")
    noise = np.random.default_rng(1).normal(size=(30, 40))
    return data["Yield"].to_numpy()[:, None] + 20 * noise


def many(**options):
    data = lmm.load_dataset("dyestuff")
    return lmm.fit_many("~ 1 + (1 | Batch)", data, responses(), chunk_size=16, **options).llf


LONG = {
    "bootstrap": (lambda **o: lmm.bootstrap(dyestuff(), 100, seed=1, **o).replicates.beta, 100),
    "profile": (lambda **o: lmm.profile(dyestuff(), **o).to_frame().to_numpy()[:, 1:], 3),
    "profile limits": (lambda **o: dyestuff().conf_int(method="profile", **o).to_numpy(), 3),
    "bootstrap limits": (
        lambda **o: dyestuff().conf_int(method="bootstrap", n_boot=100, seed=1, **o).to_numpy(),
        100,
    ),
    "profile_re": (
        lambda **o: dyestuff().profile_re("Intercept", "re", 2, 1000.0, 2, 1000.0, **o),
        6,
    ),
    "fit_many": (many, 40),
    "power": (
        lambda **o: lmm.power(
            [dyestuff().design] * 2, dyestuff(), 50, test="Intercept", seed=1, **o
        ).to_numpy(),
        2,
    ),
}


def same(a, b):
    """Equal to what an optimum is found: batches of other sizes, and the two runtimes, round."""
    np.testing.assert_allclose(a.astype(float), b.astype(float), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", LONG)
def test_bars_are_shown_when_asked_and_long_work_can_be_interrupted(name, bars):
    work, total = LONG[name]
    quiet = work()
    assert not bars
    watched = work(progress=True)
    assert [(bar.total, bar.count, bar.closed) for bar in bars] == [(total, total, True)]
    same(watched, quiet)
    Bar.stop_after = total // 2
    with pytest.raises(KeyboardInterrupt):
        work(progress=True)
    assert bars[-1].closed and bars[-1].count < total
    Bar.stop_after = np.inf
    same(work(progress=True), watched)  # as if nothing had happened


def test_bars_need_no_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    assert len(lmm.profile(dyestuff(), "sigma", progress=True).curves) == 1


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_signal_leaves_a_clean_state():
    """Ctrl-C at any place of compiled work: no lock, no setting of JAX and no cache is left.

    JAX loses one signal of some hundred, in a callback of the garbage collector and where it
    asks an executable for its memory under a bare ``except``: hence another after two seconds.
    """
    program = """
import signal
import jax, numpy as np
import lmm_jax as lmm

signal.signal(signal.SIGALRM, signal.default_int_handler)
fit = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
before = lmm.bootstrap(fit, 64, seed=1).replicates.beta
x64, stopped = jax.config.jax_enable_x64, 0
for wait in (0.01, 0.3, 0.8):
    try:
        signal.setitimer(signal.ITIMER_REAL, wait, 2.0)
        lmm.bootstrap(fit, 3_000_000, seed=1)
    except KeyboardInterrupt:
        stopped += 1
    signal.setitimer(signal.ITIMER_REAL, 0.0)
assert stopped == 3, stopped
assert jax.config.jax_enable_x64 == x64
np.testing.assert_array_equal(lmm.bootstrap(fit, 64, seed=1).replicates.beta, before)
assert lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff")).llf == fit.llf
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_exports_take_names_of_any_kind():
    """Breaks of lines, citations, superscripts and entities of Markdown; captions of LaTeX."""
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0]}, index=["a\nb", "@foo ^s^", "a&lt;b"])
    shown = table(frame, "A caption\n\nof two lines")
    markdown = shown.to_markdown()
    assert r"| a b | 1.0000 |" in markdown and r"\@foo \^s\^" in markdown and r"a\&lt;b" in markdown
    assert r"\caption{A caption  of two lines}" in shown.to_latex()
    for label in ("a}b", "a\nb", "", "%"):
        with pytest.raises(lmm.DataError, match="label="):
            shown.to_latex(label=label)
    assert r"\label{tab:a_b-1}" in shown.to_latex(label="tab:a_b-1")
    with pytest.raises(lmm.DataError, match="columns has no names"):
        shown.to_html(columns=[])
    with pytest.raises(lmm.DataError, match="sigma=-1: a positive number"):
        lmm.emmeans(nitrogen(), "Nf").eff_size(-1, 10)


def test_a_variable_called_like_a_column_is_renamed_alone():
    """`f` is the F statistic of an analysis of variance, `group` the first column of a summary."""
    data = lmm.load_dataset("oats").rename(columns={"Variety": "f", "Nf": "group"})
    res = lmm.fit("yld ~ f + group + (1 | Block)", data)
    words = {"f": "Variety", "group": "Nitrogen"}
    table = res.anova().to_markdown(rename=words)
    assert "| F | P |" in table and "| Variety | " in table and "| Nitrogen | " in table
    page = res.summary().to_markdown(rename=words)
    assert "| Group | Term |" in page and "Nitrogen\\[T.n20\\]" in page
    means = lmm.emmeans(res, "f").to_markdown(rename={"f": "Variety"})
    assert means.count("| Variety | ") == 1


def test_days_have_no_hours_in_tables():
    data = lmm.load_dataset("sleepstudy")
    data["day"] = pd.to_datetime("2004-01-01") + pd.to_timedelta(data["Days"], unit="D")
    res = lmm.fit("Reaction ~ 1 + (1 | day)", data, runtime="numpy")
    assert "\n 2004-01-02  " in str(res.random_effects["day"])
    means = lmm.emmeans(lmm.fit("Reaction ~ factor(day) + (1 | Subject)", data), "day")
    assert "\n 2004-01-02  " in str(means)


def test_papers_have_words_for_all_degrees_of_freedom():
    """Of every method, as the argument and in small print."""
    for name in set(df.METHODS) - {"residual"}:  # which is a word of papers
        said = in_words(f"Degrees of freedom: {name}")
        assert said == f"Degrees of freedom: {method_name(name)}"
        assert method_name(name) != name


def test_copies_of_tables_are_tables():
    table, summary = dyestuff().anova(type=1), dyestuff().summary()
    for one in (table, summary):
        for again in (copy.copy(one), copy.deepcopy(one)):
            assert type(again) is type(one)
            assert str(again) == str(one) and again.to_latex() == one.to_latex()
    assert type(table.copy()) is pd.DataFrame
