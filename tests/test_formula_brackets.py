"""Brackets, signs and NaN of R's formulas: R's columns and likelihoods, or a refusal."""

import warnings

import numpy as np
import pandas as pd
import pytest

import lmm_jax as lmm
from lmm_jax.errors import DataError, FormulaError
from lmm_jax.formulas import matrices
from lmm_jax.formulas import parse as formula

PRINTED = 1e-11  # R's numbers are typed with twelve digits

DATA = pd.DataFrame(
    {
        "x": [0.5, 1.5, 2.5, 4.0, 6.0, 7.0],
        "z": [2.0, 1.0, 5.0, 3.0, 4.0, 0.0],
        "f": list("abcabc"),
        "k": [4, 7, 9, 4, 7, 9],
        "m": [2, 3, 4, 2, 3, 4],
        "c": pd.Categorical(list("pqrpqr")),
        "on": [True, False, False, True, True, False],
        "t": [0.15, 0.25, 0.35, 0.45, -0.55, 2.675],
    }
)
X, Z, ON = DATA.x, DATA.z, DATA.on.astype(float)
ONE, SEVEN, NINE = [1.0] * 6, [0, 1, 0] * 2, [0, 0, 1] * 2

# A right-hand side and all columns of model.matrix: R 4.2.2.
COLUMNS = [
    ("(0 + x)", [X]),
    ("(x - 1) + z", [X, Z]),
    ("x + (z - 1)", [X, Z]),
    ("1 + (0 + x)", [X]),
    ("x + (0)", [X]),
    ("x + (-1)", [X]),
    ("(x + 0) + 1", [ONE, X]),
    ("0 + (1 + x)", [ONE, X]),
    ("x - (1)", [X]),
    ("x - (-1)", [ONE, X]),
    ("x - (x - 1)", [ONE]),
    ("z - (0)", [ONE, Z]),
    ("((0 + x)) + z", [X, Z]),
    ("x + z - (z + 1)", [X]),
    ("x - -1", [ONE, X]),
    ("(x + z)^2 + (0)", [X, Z, X * Z]),
    ("I(!x > 2 & on)", [ONE, [1, 0, 0, 0, 0, 0]]),
    ("I(!!on)", [ONE, ON]),
    ("(!f == 'a')", [ONE, [0, 1, 1] * 2]),
    ("I(!k %in% c(4, 9))", [ONE, SEVEN]),
    ("z:ifelse(x > 2, on, FALSE)", [ONE, [2, 1, 5, 0, 0, 0], [0, 0, 0, 3, 4, 0]]),
    ("ifelse(on, TRUE, z > 2)", [ONE, [1, 0, 1, 1, 1, 0]]),
    ("ifelse(x > 2, on, 0)", [ONE, [0, 0, 0, 1, 1, 0]]),
    ("z:c(on)", [ONE, [0, 1, 5, 0, 0, 0], [2, 0, 0, 3, 4, 0]]),
    ("z:as.vector(on)", [ONE, [0, 1, 5, 0, 0, 0], [2, 0, 0, 3, 4, 0]]),
    ("(on == 'TRUE')", [ONE, ON]),
    ("(x > 2) + ('FALSE' == on)", [ONE, [0, 0, 1, 1, 1, 1], 1 - ON]),
    ("dummy(on, 'TRUE')", [ONE, ON]),
    ("dummy(factor(k), '7')", [ONE, SEVEN]),
    ("dummy(k, '7')", [ONE, SEVEN]),
    ("dummy(m, '3')", [ONE, SEVEN]),
    ("relevel(factor(m), ref='3')", [ONE, [1, 0, 0] * 2, NINE]),
    ("factor(k, levels=c('9', '7', '4'))", [ONE, SEVEN, [1, 0, 0] * 2]),
    ("factor(on, levels=c('TRUE', 'FALSE'))", [ONE, 1 - ON]),
    ("relevel(factor(on), 'TRUE')", [ONE, 1 - ON]),
    ("I(f == c('a'))", [ONE, [1, 0, 0] * 2]),
    ("I(x - x[1])", [ONE, X - 0.5]),
    ("I(x - quantile(x, c(.25, .75))[1])", [ONE, X - 1.75]),
    ("I(x - x[c(1, 2)][2])", [ONE, X - 1.5]),
    ("I(x * T) + I(z * F + x)", [ONE, X, X]),
    ("I(x - mean(x, na.rm=TRUE))", [ONE, X - 21.5 / 6]),
    ("I(as.numeric(2) * x)", [ONE, 2 * X]),
    ("I(as.integer(pi + 2) * x)", [ONE, 5 * X]),
    ("x # it's a comment", [ONE, X]),
    ("x + # 'one\n z", [ONE, X, Z]),
    ("round(t, 1)", [ONE, [0.1, 0.2, 0.3, 0.4, -0.6, 2.7]]),
    ("round(t, 2)", [ONE, [0.15, 0.25, 0.35, 0.45, -0.55, 2.67]]),
    ("round(k * 5, -1)", [ONE, [20, 40, 40] * 2]),
]  # fmt: skip


def built(rhs):
    return matrices.build(formula.parse_rhs(rhs), DATA)


@pytest.mark.parametrize(("rhs", "expected"), COLUMNS)
def test_columns_are_those_of_r(rhs, expected):
    found = built(rhs)
    np.testing.assert_allclose(found.values.T, expected, atol=PRINTED)
    for row in range(len(DATA)):  # one row of new data gets what it had among all
        alone = matrices.replay(found.spec, DATA.iloc[[row]].set_axis([9]))
        np.testing.assert_allclose(alone, found.values[[row]], atol=PRINTED)


# lme4 1.1-31: logLik(lmer(formula, sleepstudy)), fixed effects, elements of theta.
FITS = [
    ("Reaction ~ (0 + Days) + (1 | Subject)", -930.844121, 1, 1),
    ("Reaction ~ (Days - 1) + I(Days^2) + (1 | Subject)", -930.758313, 2, 1),
    ("Reaction ~ Days + ((Days - 1) | Subject)", -883.262514, 2, 1),
    ("Reaction ~ Days + (Days + (0) | Subject)", -883.262514, 2, 1),
    ("Reaction ~ Days + (Days + (-1) || Subject)", -883.262514, 2, 1),
    ("Reaction ~ offset(10 * Days + Days^2) + Days + offset(10*Days + Days^2) + (1 | Subject)",
     -894.829313, 2, 1),
    ("Reaction ~ (Days + offset(Days^2)) + (1 | Subject)", -894.829313, 2, 1),
    ("Reaction ~ Days + (offset(Days^2)) + (1 | Subject)", -894.829313, 2, 1),
    ("Reaction %% 100 ~ Days + (1 | Subject)", -844.656297, 2, 1),
    ("Reaction ~ Days + (1 | Subject) # it's one", -893.232543, 2, 1),
    ("Reaction ~ # all\n Days + (Days - 1 | Subject) # slopes", -883.262514, 2, 1),
    ("Reaction ~ round(Days / 3 + 0.005, 2) + (1 | Subject)", -892.166957, 2, 1),
    ("Reaction ~ Days:c(Days > 4) + (1 | Subject)", -891.284659, 3, 1),
    ("Reaction ~ Days + (0 + c(Days > 4) | Subject)", -874.851757, 2, 3),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "llf", "n_fixed", "n_theta"), FITS)
def test_fits_are_those_of_lme4(spec, llf, n_fixed, n_theta):
    res = lmm.fit(spec, lmm.load_dataset("sleepstudy"))
    assert res.llf == pytest.approx(llf, abs=2e-5)
    assert (len(res.fe_params), len(res.theta)) == (n_fixed, n_theta)


# R leaves the rows of these out, or reads another model; here they are refused.
REFUSED = [
    ("ifelse(log(x - 3) > 0, 1, 0)", DataError, "a comparison of NaN in 3 of 6 rows .first in row"),
    ("(sqrt(x - 3) > 0.5)", DataError, "a comparison of NaN in 3 of 6 rows"),
    ("factor(sqrt(x - 3) > 0.5)", DataError, "a comparison of NaN"),
    ("I(x %% (k - 4) > 0)", DataError, "a comparison of NaN in 2 of 6"),
    ("I(x > mean(sqrt(x - 3)))", DataError, "a summary of NaN in 3 of 6 rows"),
    ("I(x == NA)", DataError, "a comparison of NaN, which R calls missing"),
    ("ifelse(log(x - 3), 1, 0)", DataError, "a test of NaN in 3 of 6"),
    ("as.logical(sqrt(x - 3))", DataError, r"as.logical\(\) of NaN in 3 of 6"),
    ("ns(sqrt(x - 3), 2)", DataError, r"ns\(\) of NaN in 3 of 6"),
    ("cut(log(x - 3), 2)", DataError, r"cut\(\) of NaN in 3 of 6"),
    ("scale(log(x - 3))", DataError, r"scale\(\) of NaN in 3 of 6"),
    ("I(!on + 1)", DataError, r"take logicals, not float64.*`!b \+ 1` is `!\(b \+ 1\)`"),
    ("I(x - x[0])", DataError, "places in brackets count from 1, as in R"),
    ("I(x - x[-1])", DataError, "places in brackets count from 1, as in R"),
    ("I(x - x[7])", DataError, "there are 6 values"),
    ("I(x - mean(x[1:3]))", FormulaError, r"list the places, counted from 1, `x\[c\(1, 2\)\]`"),
    ("x - -z", FormulaError, "two minus signs: write `\\+`"),
    ("- - x", FormulaError, "two minus signs"),
    ("x - + - z", FormulaError, "two minus signs"),
    ("(f - f) * x", FormulaError, r"no term is left on one side of `\*`: remove it"),
    ("x + z %in% (f - f)", FormulaError, "no term is left on one side of `%in%`"),
    ("dummy(f, 'zz')", DataError, "'zz', which is none of 'a', 'b', 'c'"),
    ("dummy(k, 10)", DataError, "10, which is none of 4, 7, 9"),
    ("dummy(f, c('a', 'b'))", DataError, "one level at a time"),
    ("I(f == c('a', 'b'))", DataError, "a comparison with 2 values: write `f %in% c"),
    ("dummy(on, TRUE)", DataError, "by its text: write 'TRUE'"),
    ("dummy(m, 2)", DataError, "in R the level at this place, .3., by .* write '2' or '3'"),
    ("relevel(factor(m), ref=2)", DataError, r"relevel\(\) of 2: in R the level at this place"),
    ("pmin(x, z, na.rm=TRUE)", DataError, r"pmin\(na.rm=TRUE\): rows with missing values are"),
    ("ifelse(pi > 3, x, z)", DataError, "of one test, not one for every row"),
    ("poly(factor(f), 2)", DataError, "computes with what is text"),
    ("poly(c, 2)", DataError, "computes with what is text.*`C\\(c, poly\\)`"),
    ("log(base=2, x)", FormulaError, "arguments with a name stand last"),
    ("factor(f:k)", FormulaError, "an interaction stands outside of calls, `f:h`"),
    ("x + NULL", FormulaError, "no column `NULL`: delete it"),
    ("TRUE", FormulaError, "no column `TRUE`: delete it"),
    ("as.ordered(f)", FormulaError, r"write `C\(f, Poly\)`"),
    ("droplevels(f)", FormulaError, "delete it: levels without rows"),
    ("x % 2", FormulaError, "`%` is arithmetic: put it in a call"),
]  # fmt: skip


@pytest.mark.parametrize(("rhs", "error", "message"), REFUSED)
def test_what_is_refused(rhs, error, message):
    with pytest.raises(error, match=message), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        built(rhs)


def test_brackets_after_what_is_pythons_count_from_0():
    for code, value in (("x.mode()[0]", 0.5), ("np.quantile(x, [0, 0.5])[0]", 0.5),
                        ("[3, 4][0]", 3.0), ("x.to_numpy()[2]", 2.5)):  # fmt: skip
        np.testing.assert_allclose(built(f"I(x - {code})").values[:, 1], X - value)
    own = {"at": [1.5, 2.5], "x": 0}
    found = matrices.build(formula.parse_rhs("I(x - at[0])"), DATA, context=own)
    np.testing.assert_allclose(found.values[:, 1], X - 1.5)


def test_missing_values_of_a_summary_are_left_out_where_it_says_so():
    """R 4.2.2: mean(log(x - 3), na.rm = TRUE)."""
    with np.errstate(invalid="ignore"):
        mean = built("I(x - mean(log(x - 3), na.rm=TRUE))").values[:, 1]
    np.testing.assert_allclose(X - mean, 0.828302216596, atol=PRINTED)
