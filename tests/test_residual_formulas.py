"""The words of residual covariances: what is one, what it says, and what is refused."""

from datetime import date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lmm_jax as lmm
from lmm_jax.covariance.correlations import WITHIN
from lmm_jax.covariance.residuals import ResidualStructure
from lmm_jax.designs.residual_columns import _CORRELATIONS
from lmm_jax.errors import DataError, FormulaError
from lmm_jax.formulas import parse
from lmm_jax.formulas.residual import OF_VISITS, SEPARABLE, SPATIAL, with_correlation

DOCS = Path(__file__).parent.parent / "docs"

# a term: correlation, places, arms, subjects, nugget, what standard deviations depend on
READ = {
    "us(visit | id)": ("symm", "visit", "", "id", False, "visits"),
    "symm(visit | id)": ("symm", "visit", "", "id", False, "one"),
    "cs(visit | id)": ("cs", "visit", "", "id", False, "one"),
    "csh(visit | id)": ("cs", "visit", "", "id", False, "visits"),
    "ar1(visit | id)": ("ar1", "visit", "", "id", False, "one"),
    "ar1h(visit | id)": ("ar1", "visit", "", "id", False, "visits"),
    "toep(visit|id)": ("toep", "visit", "", "id", False, "one"),
    "toeph( visit | id )": ("toep", "visit", "", "id", False, "visits"),
    "ad(visit | id)": ("ad", "visit", "", "id", False, "one"),
    "adh(visit | id)": ("ad", "visit", "", "id", False, "visits"),
    "arma11(visit | id)": ("arma11", "visit", "", "id", False, "one"),
    "arma(visit | id, p=2, q = 1)": ("arma", "visit", "", "id", False, "one"),
    "arma(visit | arm / id, p=1L, q=1)": ("arma11", "visit", "arm", "id", False, "one"),
    "arma(visit | id, p=1)": ("ar1", "visit", "", "id", False, "one"),
    "ar1(row | id)": ("ar1", "row", "", "id", False, "one"),
    "us(x | g)": ("symm", "x", "", "g", False, "visits"),  # a bare name is a visit
    "us(factor(visit) | id)": ("symm", "visit", "", "id", False, "visits"),
    "us(C(visit) | factor(id))": ("symm", "visit", "", "id", False, "visits"),
    "us(`my visit` | `my id`)": ("symm", "`my visit`", "", "`my id`", False, "visits"),
    "us(visit | site:id)": ("symm", "visit", "", "site id", False, "visits"),
    "us(visit | arm / id)": ("symm", "visit", "arm", "id", False, "visits"),
    "ar1(visit | arm:sex / site:id)": ("ar1", "visit", "arm sex", "site id", False, "one"),
    "car1(time | id)": ("car1", "time", "", "id", False, "one"),
    "car1(log(time) | id)": ("car1", "log(time)", "", "id", False, "one"),
    "sp_exp(lat + lon)": ("sp_exp", "lat lon", "", "", False, "one"),
    "sp_exp(lat + lon | id, nugget=True)": ("sp_exp", "lat lon", "", "id", True, "one"),
    "sp_gau(time | id, nugget = TRUE)": ("sp_gau", "time", "", "id", True, "one"),
    "sp_gau(time | id, nugget=False)": ("sp_gau", "time", "", "id", False, "one"),
    "sp_exp(lat + lon | 1)": ("sp_exp", "lat lon", "", "", False, "one"),
    "ar1(visit | 1)": ("ar1", "visit", "", "", False, "one"),
    "diag(sex)": ("", "", "", "", False, "diag sex"),
    "power(x)": ("", "", "", "", False, "power x"),
    "expo(x^2)": ("", "", "", "", False, "expo x**2"),
    "ar1(visit | id) * diag(sex)": ("ar1", "visit", "", "id", False, "diag sex"),
    "power(x) * ar1(visit | id)": ("ar1", "visit", "", "id", False, "power x"),
    "car1(time | id, nugget=True) * expo(x)": ("car1", "time", "", "id", True, "expo x"),
    "diag(sex) * power(x)": ("", "", "", "", False, "diag sex power x"),
    "expo(x) * ar1(visit | id) * diag(sex)": ("ar1", "visit", "", "id", False, "diag sex expo x"),
    "ar1h(visit | id) * power(x)": ("ar1", "visit", "", "id", False, "visits power x"),
}


@pytest.mark.parametrize("text", READ)
def test_a_residual_covariance(text):
    parsed = parse.parse(f"y ~ x + {text} + z")
    found = parsed.residual
    assert not parsed.bars and found.text == text
    levels = " ".join((found.spread, *found.strata))
    of = f"{found.of} {found.covariate}".strip()
    spread = of if of and levels == "one" else f"{levels} {of}".strip()
    joined = [" ".join(names) for names in (found.places, found.by, found.group)]
    assert (found.correlation, *joined, found.nugget, spread) == READ[text]
    assert parse.parse_residual(text) == found


RANDOM = [
    ("us(1 + x | g)", "1 + x", "us"),
    ("us(0 + f | g)", "0 + f", "us"),
    ("us(x + z | g)", "x + z", "us"),
    ("cs(1 + x | g)", "1 + x", "cs"),
    ("diag(x | g)", "x", "diag"),  # diag() of residuals has no bar
    ("diag(1 + x | g)", "1 + x", "diag"),
]


@pytest.mark.parametrize(("text", "left", "structure"), RANDOM)
def test_a_term_of_random_effects(text, left, structure):
    parsed = parse.parse(f"y ~ x + {text}")
    assert parsed.residual is None
    assert [(bar.lhs, bar.group, bar.structure) for bar in parsed.bars] == [
        (left, ("g",), structure)
    ]


def test_both_in_one_formula():
    parsed = parse.parse("y ~ x + ar1(visit | id) + (1 | g) + us(1 + x | h)")
    assert parsed.residual.text == "ar1(visit | id)"
    assert [bar.group for bar in parsed.bars] == [("g",), ("h",)]


REFUSED = [
    ("us(visit | id) * diag(sex)", "has a variance for every visit already"),
    ("ar1(visit | id) * power(x) * expo(x)", "are two of a kind"),
    ("diag(sex) * diag(site)", "are two of a kind"),
    ("ar1(visit | id) * cs(visit | id)", "are two of a kind"),
    ("ar1(visit | id) * x", "the product of one correlation and one variance"),
    ("x * ar1(visit | id)", "the product of one correlation and one variance"),
    ("ar1(visit | id) * (1 | g)", "the product of one correlation and one variance"),
    ("ar1(visit | id):diag(sex)", "the product of one correlation and one variance"),
    ("ar1(visit | id) / diag(sex)", "the product of one correlation and one variance"),
    ("ar1(visit | id)^2", "the product of one correlation and one variance"),
    ("(ar1(visit | id))", "a residual covariance stands alone"),
    ("ar1(visit | id) + diag(sex)", "one residual covariance"),
    ("ar1(visit | id) + us(visit | id)", "one residual covariance"),
    ("x - ar1(visit | id)", "a residual covariance is added"),
    ("ar1(visit || id)", r"write one bar, `ar1\(… \| id\)`"),
    ("ar1(visit | )", "no subjects after the bar"),
    ("sp_exp( | id)", "nothing stands in"),
    ("sp_exp(lat, lon | id)", "coordinates are added"),
    ("diag()", "nothing stands in"),
    ("us(visit | arm / site / id)", "one `/` at most"),
    ("us(visit | site + id)", "the levels of one factor, or of several joined by colons"),
    ("us(visit | site * id)", "the levels of one factor, or of several joined by colons"),
    (
        "ar1(visit | id, nugget=True)",
        "`nugget=True` belongs to car1, sp_exp, sp_gau, sp_rat, sp_sph",
    ),
    ("sp_exp(time | id, nugget=0.5)", "`nugget=0.5`: True or False"),
    ("ar1h(1 + visit | id)", r"no `ar1h\(… \| g\)`.*of residuals write the visits alone"),
    ("csh(0 + visit | id)", r"no `csh\(… \| g\)`.*of residuals write the visits alone"),
    ("un(visit | id)", r"no `un\(… \| g\)`.*`us\(visit \| id\)`"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_what_is_refused(text, message):
    with pytest.raises(FormulaError, match=message):
        parse.parse(f"y ~ z + {text}")


# ------------------------------------------------------------------------------ with data


def rows() -> pd.DataFrame:
    rng = np.random.default_rng(4)
    subject, visit = np.repeat(np.arange(12), 4), np.tile(np.arange(4), 12)
    return pd.DataFrame(
        {
            "y": rng.normal(size=12)[subject] + rng.normal(size=48),
            "x": rng.normal(size=48),
            "zero": visit.astype(float),
            "visit": [f"v{k + 1}" for k in visit],
            "id": subject,
            "arm": np.array(["A", "B"])[subject % 2],
            "one": "a",
        }
    )


DATA = rows()
OF_DATA = [
    ("us(x | id)", "`x` in us.* is no visit: it has fractions. Take `car1.*random slope"),
    ("ar1(x | id)", "is no visit: it has fractions"),
    ("power(zero)", "`zero` is zero in some rows.*`expo"),
    ("power(arm)", "numbers are needed"),
    ("sp_exp(arm | id)", "numbers are needed"),
    ("diag(one)", "`one` has one level, a"),
    ("diag(x)", "`x` has a level for every row"),
    ("ar1(visit | arm)", "subject A has two rows at the visit v1"),
]


@pytest.mark.parametrize(("text", "message"), OF_DATA)
def test_columns_that_do_not_fit(text, message):
    with pytest.raises(DataError, match=message):
        lmm.design(f"y ~ 1 + {text}", DATA)


def test_most_visits():
    """A covariance of thousands of parameters is a random slope that was meant."""
    data = pd.concat([DATA] * 20, ignore_index=True)
    data["day"], data["id"] = np.arange(len(data)) // 12 % 80, np.arange(len(data)) % 12
    with pytest.raises(DataError, match=r"80 visits, up to 60 are taken.*random slope"):
        lmm.design("y ~ 1 + us(day | id)", data)


def test_a_covariance_beside_the_formula():
    inside = lmm.fit("y ~ x + ar1(visit | id)", DATA, runtime="numpy")
    beside = lmm.fit("y ~ x", DATA, residual="ar1(visit | id)", runtime="numpy")
    assert beside.llf == inside.llf
    with pytest.raises(FormulaError, match="residual= beside a residual covariance"):
        lmm.fit("y ~ x + us(visit | id)", DATA, residual="ar1(visit | id)")
    with pytest.raises(FormulaError, match="no residual covariance: write"):
        lmm.fit("y ~ x", DATA, residual="(1 | id)")
    with pytest.raises(FormulaError, match="residual is a int"):
        lmm.fit("y ~ x", DATA, residual=3)


def test_a_factor_of_arms_makes_subjects_of_pairs():
    """Labels that start anew in every arm are other subjects there."""
    again = DATA.assign(id=DATA["id"] // 2)
    unique = lmm.fit("y ~ x + ar1(visit | arm / id)", DATA, runtime="numpy")
    nested = lmm.fit("y ~ x + ar1(visit | arm / id)", again, runtime="numpy")
    assert nested.llf == unique.llf
    with pytest.raises(DataError, match="two rows at the visit"):
        lmm.design("y ~ x + ar1(visit | id)", again)


# ------------------------------------------------------------------------------ mmrm


FEV = "FEV1 ~ ARMCD * AVISIT"


def test_defaults_of_trials():
    data = lmm.load_dataset("fev1")
    res = lmm.mmrm(f"{FEV} + us(AVISIT | USUBJID)", data)
    same = lmm.mmrm(FEV, data, residual="us(AVISIT | USUBJID)")
    assert res.llf == same.llf
    assert res.df_method == "kenward-roger-linear"
    assert lmm.mmrm(f"{FEV} + cs(AVISIT | USUBJID)", data, reml=False).df_method == "satterthwaite"
    with pytest.raises(FormulaError, match="no residual covariance over visits"):
        lmm.mmrm(f"{FEV} + (1 | USUBJID)", data)


def test_no_structures_of_visits_in_the_place_of_one_over_times():
    with pytest.raises(FormulaError, match="structures over visits"):
        lmm.mmrm(
            FEV, lmm.load_dataset("fev1"), residual="sp_exp(VISITN | USUBJID)", fallback=["cs"]
        )


@pytest.mark.parametrize(
    ("term", "name", "spelled"),
    [
        ("us(v | id)", "toeph", "toeph(v | id)"),
        ("diag(sex) * toep(v | a / id)", "ar1", "diag(sex) * ar1(v | a / id)"),
        ("car1(t | id, nugget=True) * power(x)", "cs", None),
        ("ar1(v | id) * diag(sex)", "ar1h", None),
    ],
)
def test_another_correlation(term, name, spelled):
    read = parse.parse_residual(term)
    if spelled is None and name == "ar1h":
        with pytest.raises(FormulaError, match="has others already"):
            with_correlation(read, name)
    elif spelled is not None:
        assert with_correlation(read, name) == spelled


def test_structures_in_turn():
    """Four patients and four visits: the whole covariance has no maximum, one variance has."""
    data = lmm.load_dataset("fev1").dropna(subset="FEV1")
    few = data[data["USUBJID"].isin(["PT1", "PT2", "PT3", "PT4", "PT5"])]
    with pytest.warns(lmm.ConvergenceWarning, match=r"did not converge .*trying cs\("):
        res = lmm.mmrm("FEV1 ~ AVISIT + us(AVISIT | USUBJID)", few, fallback=["cs"])
    assert res.converged
    assert "cs(AVISIT | USUBJID)" in res.formula


def test_numbers_that_look_like_a_covariate():
    data = lmm.load_dataset("sleepstudy")
    with pytest.warns(lmm.OrderWarning, match=r"10 visits, of 45 correlations.*us\(1 \+ Days"):
        lmm.design("Reaction ~ Days + us(Days | Subject)", data)


def test_covariances_asked_for():
    data = lmm.load_dataset("fev1")
    res = lmm.fit(f"{FEV} + us(AVISIT | USUBJID)", data)
    pd.testing.assert_frame_equal(res.residual_cov("VIS1"), res.residual_cov(["VIS1"]))
    R = res.residual_cov()
    sd = np.sqrt(np.diag(R))
    np.testing.assert_allclose(res.residual_corr(), R / np.outer(sd, sd), rtol=1e-14)
    with pytest.raises(DataError, match="has no arms"):
        res.residual_cov(arm="TRT")
    limits = res.tidy(effects="ran_pars").set_index("term")[["conf_low", "conf_high"]]
    np.testing.assert_allclose(limits.loc["sd[VIS2]"], res.residual_intervals().iloc[1, 2:], 1e-14)
    power = lmm.fit(f"{FEV} + power(FEV1_BL)", data)
    at = power.residual_cov(covariate=[20.0, 40.0]).to_numpy()
    ratio = 2.0 ** (2.0 * power.residual_params["power"])
    np.testing.assert_allclose(at, at[0, 0] * np.diag([1.0, ratio]), rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "one", "options"),
    [
        ("us(age | Subject)", [8.0, 10.0], {}),
        ("us(age | Subject)", np.array(["8", "10"]), {}),
        ("us(day | Subject)", [datetime(2026, 1, 8), date(2026, 1, 10)], {}),
        ("us(day | Subject)", pd.to_datetime(["2026-01-08", "2026-01-10"]), {}),
        ("ar1(age | Subject) * diag(age)", [8, 10], {"stratum": 14.0}),
        ("us(age | boy / Subject)", [8, 10], {"arm": True}),
        ("us(age | part / Subject)", [8, 10], {"arm": 1.0}),
        ("diag(age)", [8.0, 10.0], {}),
    ],
)
def test_labels_of_any_type(text, one, options):
    """A visit, an arm or a stratum is found by its number, its text or its date."""
    data = lmm.load_dataset("orthodont")
    data = data.assign(
        day=pd.to_datetime("2026-01-01") + pd.to_timedelta(data["age"] - 1, unit="D"),
        boy=data["Sex"] == "Male", part=(data["Sex"] == "Male").astype(int),
    )  # fmt: skip
    res = lmm.fit(f"distance ~ age + {text}", data, runtime="numpy")
    names = ["2026-01-08", "2026-01-10"] if "day" in text else ["8", "10"]
    asked = {key: str(x).removesuffix(".0") for key, x in options.items()}
    by_name = res.residual_cov(names, **asked)
    pd.testing.assert_frame_equal(res.residual_cov(one, **options), by_name)
    with pytest.raises(DataError, match=r"no (visit|stratum) '?9'?: there are"):
        res.residual_cov(9, **options)


def test_an_arm_without_a_name():
    """The empty text is a label like others: its parameters are told apart."""
    data = lmm.load_dataset("orthodont")
    data["part"] = np.where(data["Sex"] == "Male", "", "f")
    res = lmm.fit("distance ~ age * Sex + ar1(age | part / Subject)", data, runtime="numpy")
    named = lmm.fit("distance ~ age * Sex + ar1(age | Sex / Subject)", data, runtime="numpy")
    assert list(res.residual_params.index) == ["sd[]", "rho[]", "sd[f]", "rho[f]"]
    by_name = named.residual_params[["sd[Male]", "rho[Male]", "sd[Female]", "rho[Female]"]]
    np.testing.assert_allclose(res.residual_params, by_name, rtol=1e-6)
    np.testing.assert_allclose(res.residual_cov(arm=""), named.residual_cov(arm="Male"), rtol=1e-6)
    with pytest.raises(DataError, match="no arm 'm': there are"):
        res.residual_cov(arm="m")


def test_residual_covariances_are_tables_with_a_title():
    data = lmm.load_dataset("orthodont").astype({"age": int})
    res = lmm.fit("distance ~ age + us(age | Subject)", data, runtime="numpy")
    R = res.residual_cov([8, 14])
    assert str(R).splitlines()[0] == "Residual covariance us(age | Subject)"
    assert "| 14 | 4.05 | 7.66 |" in R.to_markdown(digits=2)
    assert R.to_frame("polars").columns == ["term", "8", "14"]
    assert "Residual correlations" in res.residual_corr().to_html()
    limits = res.residual_intervals(0.9)
    assert "| sd\\[8\\] |" in limits.to_markdown(columns=["estimate"])
    assert "Wald intervals of level 0.9" in limits.to_latex(caption="Residuals")
    assert lmm.fit("distance ~ age + (1 | Subject)", data).residual_intervals().empty


def test_the_formula_of_a_result_has_its_residual_covariance():
    one, two = (
        lmm.fit("y ~ x", DATA, residual=f"{name}(visit | id)", runtime="numpy")
        for name in ("cs", "us")
    )
    assert one.formula == "y ~ x + cs(visit | id)"
    assert lmm.anova(one, two).notes[1] == f"Model 2: {two.formula}"


def test_a_column_called_row():
    """The word counts the rows of a subject; a column of that name is not read, which is said."""
    with pytest.warns(lmm.OrderWarning, match=r"`row` in ar1\(row \| id\) counts.*the column"):
        named = lmm.fit("y ~ x + ar1(row | id)", DATA.assign(row=7), runtime="numpy")
    assert named.llf == lmm.fit("y ~ x + ar1(row | id)", DATA, runtime="numpy").llf
    lmm.design("y ~ row + ar1(visit | id)", DATA.assign(row=DATA["x"]))  # no warning


def test_a_covariance_beside_the_formula_of_many_responses():
    Y = DATA[["y"]].assign(z=DATA["y"] + 0.1 * DATA["x"] ** 2)
    inside = lmm.fit_many("~ x + ar1(visit | id)", DATA, Y)
    beside = lmm.fit_many("~ x", DATA, Y, residual="ar1(visit | id)")
    np.testing.assert_array_equal(beside.llf, inside.llf)
    assert beside.select(1).formula == "z ~ x + ar1(visit | id)"
    with pytest.raises(DataError, match="a Design holds the model"):
        lmm.fit_many(lmm.design("y ~ x + (1 | id)", DATA), Y, residual="ar1(visit | id)")


@pytest.mark.parametrize("text", ["diag(sex)", "diag(sex) + (1 | id)"])
def test_strata_are_linear_in_their_variances(text):
    """No second derivatives of V: Kenward and Roger's two methods are one."""
    data = DATA.assign(sex=np.array(["f", "m", "m"])[DATA["id"] % 3])
    res = lmm.fit(f"y ~ x + arm + {text}", data, runtime="numpy")
    structures = [s for s in res.design.layout.structures if isinstance(s, ResidualStructure)]
    assert all(s.is_linear for s in structures)
    both = [res.with_df(f"kenward-roger{name}") for name in ("", "-linear")]
    np.testing.assert_allclose(both[0].bse_fe, both[1].bse_fe, rtol=1e-12)


def test_strata_of_two_factors():
    data = lmm.load_dataset("fev1")
    joined = data.assign(both=data["SEX"].astype(str) + ":" + data["ARMCD"].astype(str))
    one = lmm.fit(f"{FEV} + diag(SEX:ARMCD)", data)
    two = lmm.fit(f"{FEV} + diag(both)", joined)
    assert one.llf == pytest.approx(two.llf, abs=1e-9)
    assert len(one.residual_params) == 4
    one.predict(data.iloc[:3], interval="prediction")


@pytest.mark.parametrize(
    ("formula", "options", "message"),
    [
        ("y ~ x + corAR1(form = ~ 1 | g)", {}, r"write `ar1\(visit \| id\)`"),
        ("y ~ x + corCompSymm(t | g)", {}, r"write `cs\(visit \| id\)`"),
        ("y ~ x + (1 | g) + varIdent(f)", {}, r"write `diag\(f\)`"),
        (
            "y ~ x + (1 | g)",
            {"residual": "corSpher(form = ~ x + t | g)"},
            r"`sp_sph\(x \+ y \| id\)`",
        ),
        ("y ~ x + (1 | g)", {"weights": "varPower(form = ~ x)"}, r"in the formula, `power\(x\)`"),
        ("y ~ x + AR1(t | g)", {}, r"write `ar1\(visit \| id\)`"),
        ("y ~ x + ar1(t)", {}, r"names no subjects: write `ar1\(t \| id\)`"),
        ("y ~ x + ar2(t | g)", {}, r"`ar2\(… \| …\)` is no covariance: of residuals there are us"),
        ("y ~ x + zerocorr(1 + x | g)", {}, r"`\(x \|\| g\)` without correlations"),
        ("y ~ x + power(x | f)", {}, r"takes a column alone"),
        ("y ~ x + ar1(t | g) + diag(f)", {}, r"multiplied: `ar1\(t \| g\) \* diag\(f\)`"),
        ("y ~ x + diag(f) + power(x)", {}, r"multiplied: `diag\(f\) \* power\(x\)`"),
        ("y ~ x + power(x, 0.5)", {}, "takes one column"),
        ("y ~ x + diag(f * h)", {}, r"`diag\(a:b\)`"),
    ],
)
def test_what_other_packages_write_is_named(formula, options, message):
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"g": np.repeat(np.arange(6), 4), "t": np.tile(np.arange(4), 6)})
    data["x"], data["y"] = rng.uniform(1, 2, 24), rng.normal(size=24)
    data["f"], data["h"] = np.where(data["t"] > 1, "p", "q"), np.where(data["g"] > 2, "p", "q")
    with pytest.raises(lmm.FormulaError, match=message):
        lmm.fit(formula, data, **options)


def test_functions_of_other_packages_names_are_the_callers():
    def lin(x):
        return 2 * x

    rng = np.random.default_rng(1)
    data = pd.DataFrame(
        {"g": np.repeat(np.arange(6), 4), "x": rng.normal(size=24), "y": rng.normal(size=24)}
    )
    found = lmm.fit("y ~ lin(x) + (1 | g)", data)
    assert found.fixed_names == ("Intercept", "lin(x)")
    varExp = np.exp  # noqa: F841  found where the call stands
    assert lmm.fit("y ~ varExp(x) + (1 | g)", data).converged
    context = {"varExp": np.exp, "corExp": np.exp}
    found = lmm.fit("y ~ varExp(x) + corExp(x) : x + (1 | g)", data, context=context)
    assert found.fixed_names == ("Intercept", "varExp(x)", "corExp(x):x")
    assert lmm.fit("y ~ x + power(x * x + 1)", data).converged


def test_every_correlation_is_where_it_has_to_be():
    """Its special cases, and the pages; us has all others."""
    names = set(_CORRELATIONS) - {""}  # independence
    assert names - {"symm", SEPARABLE} == set(WITHIN)  # places of which are no visits
    page = (DOCS / "residual-structures.md").read_text()
    assert all(f"{name}(" in page for name in (*OF_VISITS, *SPATIAL))


@pytest.mark.parametrize(
    "term", ["ar1(t | {})", "car1(t | {})", "ar1(row | {})", "sp_exp(u + v | {})"]
)
def test_one_subject_needs_no_column(term):
    rng = np.random.default_rng(0)
    data = pd.DataFrame(rng.uniform(size=(40, 3)), columns=["x", "u", "v"]).assign(
        t=range(40), all="a"
    )
    data["y"] = data["x"] + np.convolve(rng.normal(size=43), [1.0, 0.8, 0.6, 0.4], "valid")
    got, want = (lmm.fit("y ~ x + " + term.format(by), data) for by in ("1", "all"))
    assert got.llf == pytest.approx(want.llf, abs=1e-9)
    np.testing.assert_allclose(got.df, want.df, rtol=1e-6)  # by derivatives at two optima
    assert got.predict(data.head(3)).tolist() == pytest.approx(want.predict(data.head(3)).tolist())


def test_visits_that_tell_their_strata():
    """nlme's corAR1 with varIdent by visit is ``ar1h``; phases of visits are known too."""
    data = lmm.load_dataset("orthodont").assign(late=lambda d: d["age"] > 11)
    fixed = "distance ~ factor(age) + "
    one, other = (
        lmm.fit(fixed + text, data, runtime="numpy").residual_cov()
        for text in ("ar1(age | Subject) * diag(age)", "ar1h(age | Subject)")
    )
    np.testing.assert_allclose(one, other, rtol=1e-6)  # two optima
    res = lmm.fit(fixed + "symm(age | Subject) * diag(late)", data, runtime="numpy")
    sd = res.residual_params[["sd[False]", "sd[True]"]].to_numpy()
    np.testing.assert_allclose(np.diagonal(res.residual_cov([14, 8])), sd[[1, 0]] ** 2)
    of_sex = lmm.fit(fixed + "cs(age | Subject) * diag(Sex)", data, runtime="numpy")
    with pytest.raises(DataError, match="pass stratum=, one or one a level"):
        of_sex.residual_cov([8, 10])
    several = of_sex.residual_cov([8, 10], stratum=["Male", "Female"])
    sd = of_sex.residual_params[["sd[Male]", "sd[Female]"]].to_numpy()
    np.testing.assert_allclose(np.diagonal(several), sd**2)
    with pytest.raises(DataError, match="3 labels for 2 levels"):
        of_sex.residual_cov([8, 10], stratum=["Male"] * 3)
