"""Tests of linear hypotheses against lmerTest and statsmodels; profiles against dense matrices.

Also predictions for rows with missing values and with categories that the fit has not seen.
"""

import re
from dataclasses import replace
from functools import cache
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import reference
import samples
from fits import sleep
from helpers import Term, assert_close, dense_gls, random_design
from scipy import optimize, stats
from test_reference import fit

import lmm_jax as lmm
from lmm_jax.inference.df.wald import f_denominator, joint_test
from lmm_jax.inference.hypotheses import Restriction, read_restriction

F_RTOL = 1e-8  # seen: 5e-11
DF_RTOL = 1e-6  # lmerTest differentiates numerically; seen: 2e-7
P_RTOL = 1e-5  # a p-value of 1e-20 multiplies the relative error of the df; seen: 4e-7
# statsmodels stops at a gradient of about 1e-4: its ratio of variances is off by up to 1e-4
# (seen: 3e-5), which moves points of the profile along the curve.
STATSMODELS_RTOL = 1e-4
DENSE_ATOL = 1e-6  # the dense criterion is minimized without derivatives


@cache
def sample_fit(df_method="satterthwaite"):
    return lmm.fit("y ~ x * f + z + (x | g)", samples.frame(), df_method=df_method)


# ------------------------------------------------------------ lmerTest's F tests

CASES = reference.names(
    lambda case: (
        "anova_satterthwaite" in case
        and case["p"] <= 30
        and reference.supported(case["name"]) == "nested"
    )
)


@pytest.mark.parametrize("name", CASES)
def test_f_tests_of_lmertest(name):
    case = reference.load(name)
    result = fit(name)
    for table in case["anova_satterthwaite"].values():
        for i, term in enumerate(table["term"]):
            L = np.array(table["L"][term], dtype=float).reshape(-1, case["p"])
            if len(L) == 0:
                continue  # nothing is left of the term beside the others
            test = result.f_test(L)
            assert test.df_num == table["NumDF"][i]
            assert_close(test.statistic, table["F value"][i], F_RTOL)
            assert_close(test.df_denom, table["DenDF"][i], DF_RTOL)
            assert_close(test.pvalue, table["Pr(>F)"][i], P_RTOL)


@pytest.mark.parametrize(
    ("nu", "expected"),
    [
        ([7.5], 7.5),
        ([5, 5, 5], 5.0),
        ([1.5, 1.5], 1.5),  # equal: their mean, though the formula has no value there
        ([1.5, 30], 2.0),
        ([2, 30], 2.0),
        ([np.inf, np.inf], np.nan),
        ([4, np.inf], 6.0),  # E = 2 + 1
    ],
)
def test_denominator(nu, expected):
    with np.errstate(invalid="ignore"):
        got = f_denominator(np.array(nu, dtype=float))
    if np.isinf(nu).all():
        assert np.isinf(got)
    else:
        assert_close(got, expected, 1e-12)


def test_denominator_is_the_moment_of_the_mean_of_squared_t():
    nu = np.array([6.0, 9.0, 20.0])
    df = f_denominator(nu)
    assert_close(df / (df - 2), np.mean(nu / (nu - 2)), 1e-12)


# ------------------------------------------------------------ statsmodels' numbers


def test_statsmodels_normal_theory():
    """statsmodels 0.15.0: t_test, wald_test and f_test of the sleepstudy fit by REML."""
    result = sleep(df_method="normal")
    test = result.t_test([[0, 1], [1, -3]])
    assert_close(test.effect, [10.467285959596026, 220.0032469696971], STATSMODELS_RTOL)
    assert_close(test.sd, [1.5457880977442253, 8.762793403023892], STATSMODELS_RTOL)
    assert_close(test.tvalue, [6.7714882621175425, 25.106519901950183], STATSMODELS_RTOL)
    assert_close(test.pvalue[0], 1.2746430437321023e-11, 20 * STATSMODELS_RTOL)
    assert test.distribution == "norm" and np.isinf(test.df_denom).all()
    forced = result.t_test([[0, 1]], use_t=True)
    assert_close(forced.df_denom, [178.0], 0)
    assert_close(forced.pvalue, [1.7872099919092587e-10], 20 * STATSMODELS_RTOL)
    wald = result.wald_test("Days = 8, Intercept = 240")
    assert wald.distribution == "chi2" and wald.df_num == 2
    assert_close([wald.statistic, wald.pvalue], [6.191449812358469, 0.04524220421684343], 1e-4)
    f = result.f_test(np.eye(2))
    assert_close([f.fvalue, f.df_denom, f.df_num], [749.953298116972, 178.0, 2.0], 1e-4)


PROFILES = {
    (0, True): (300, 600, [
        [330.4610821280676, -872.651804125001], [425.7285652495793, -872.1174646756401],
        [519.4198140352198, -871.8775386712455], [612.0964868880582, -871.8141359795748],
        [795.5801175108356, -871.9786544690605], [977.5766681906155, -872.3365010842676],
        [1158.7072033571703, -872.7764149058639]]),
    (1, False): (20, 40, [
        [14.049211609901645, -878.1576882662492], [20.399943424965223, -876.671338845487],
        [26.58336558946704, -876.104316613389], [32.68256136448549, -875.9696722321875],
        [44.75234475090324, -876.2691572252351], [56.735969740071944, -876.8642350642264],
        [68.67608722128227, -877.5458308798458]]),
}  # fmt: skip


@pytest.mark.parametrize("which", PROFILES)
def test_profile_of_statsmodels(which):
    """statsmodels 0.15.0: profile_re of the sleepstudy fit."""
    re_ix, reml = which
    low, high, expected = PROFILES[which]
    curve = sleep(reml=reml).profile_re(re_ix, "re", 3, low, 3, high)
    assert_close(curve, expected, STATSMODELS_RTOL)


# ------------------------------------------------------------ profiles against dense matrices


def dense_profile(result, t, j, ratio):
    """Largest log-likelihood with coefficient j of term t at a given variance ratio."""
    d = result.design
    terms = [Term(term.values[:, 0], term.codes[:, 0].astype(str)) for term in d.terms]
    designs = [random_design(term)[0] for term in terms]
    sizes = [len(term.names) for term in d.terms]
    orders = [np.r_[j, np.delete(np.arange(k), j)] if i == t else np.arange(k)
              for i, k in enumerate(sizes)]  # fmt: skip

    def criterion(x):
        x = list(x)
        V = np.diag(np.ones(d.nobs) if d.weights is None else 1 / d.weights)
        for i, (Z, k, order) in enumerate(zip(designs, sizes, orders, strict=True)):
            L = np.zeros((k, k))
            for a, b in zip(*np.tril_indices(k), strict=True):
                L[a, b] = np.sqrt(ratio) if i == t and a == b == 0 else x.pop(0)
            psi = np.zeros((k, k))
            psi[np.ix_(order, order)] = L @ L.T
            V += Z @ np.kron(np.eye(Z.shape[1] // k), psi) @ Z.T
        return dense_gls(d.exog, d.endog, V, reml=result.reml).criterion

    n_free = sum(k * (k + 1) // 2 for k in sizes) - 1
    if n_free == 0:
        return -0.5 * criterion([])
    start = np.full(n_free, 0.5)
    return -0.5 * optimize.minimize(criterion, start, method="BFGS", options={"gtol": 1e-5}).fun


DENSE = {
    "intercept": ("y ~ x + (1 | g)", "re", "Intercept", 0, 0),
    "slope": ("y ~ x + (x | g)", "re", "x", 0, 1),
    "intercept beside a slope": ("y ~ x + (x | g)", "re", 0, 0, 0),
    "two terms": ("y ~ x + (1 | g) + (0 + x | g)", "re", 1, 1, 0),
    "nested": ("y ~ x + (1 | g/s)", "re", 0, 0, 0),
}


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", DENSE)
def test_profile_against_dense_matrices(name, reml):
    formula, vtype, re_ix, t, j = DENSE[name]
    result = lmm.fit(formula, samples.frame(), reml=reml)
    variance = result.estimates.covariances[t][j, j]
    curve = result.profile_re(re_ix, vtype, 1, 0.9 * variance, 1, 3.0)
    for (_, llf), value in zip(curve, [0.1 * variance, variance, variance + 3.0], strict=True):
        assert abs(llf - dense_profile(result, t, j, value / result.scale)) < DENSE_ATOL


def test_profile_of_a_component():
    options = dict(groups="g", re_formula="1", vc_formula={"s": "0 + C(s)"})
    result = lmm.fit("y ~ x", samples.frame(), **options)
    nested = lmm.fit("y ~ x + (1 | g) + (1 | g:s)", samples.frame())
    t = [label.group for label in nested.term_labels].index("g:s")
    assert_close(result.vcomp["s"], nested.estimates.covariances[t][0, 0], 1e-6)
    curve = result.profile_re("s", "vc", 2, 0.5 * result.vcomp["s"], 2, 1.0)
    same = nested.profile_re(t, "re", 2, 0.5 * result.vcomp["s"], 2, 1.0)
    assert_close(curve, same, 1e-6)


def test_profile_passes_through_the_estimate():
    result = sample_fit()
    curve = result.profile_re("x", "re", 4, 0.1, 3, 0.5)
    assert curve.shape == (8, 2)
    assert_close(curve[4], [result.cov_re.loc["x", "x"], result.llf], 1e-8)
    assert (np.diff(curve[:, 0]) > 0).all()
    assert (np.diff(curve[:5, 1]) > 0).all() and (np.diff(curve[4:, 1]) < 0).all()


def test_profile_down_to_zero():
    result = lmm.fit("y ~ x + (x | g)", samples.frame())
    variance = result.cov_re.loc["x", "x"]
    curve = result.profile_re("x", "re", 2, variance, 0)
    null = lmm.fit("y ~ x + (1 | g)", samples.frame())
    assert_close(curve[0], [0.0, null.llf], 1e-9, 1e-9)


def test_profile_does_not_depend_on_units():
    data = samples.frame()
    one = lmm.fit("y ~ x + (x | g)", data).profile_re("x", "re", 2, 0.2, 2, 0.5)
    data = data.assign(y=1000 * data["y"] + 5, x=data["x"] / 50)
    factor = (1000 * 50) ** 2
    other = lmm.fit("y ~ x + (x | g)", data).profile_re("x", "re", 2, 0.2 * factor, 2, 0.5 * factor)
    assert_close(other[:, 0], factor * one[:, 0], 1e-6)
    assert_close(np.diff(other[:, 1]), np.diff(one[:, 1]), 1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, "se"), "vtype"),
        ((2, "re"), "re_ix=2"),
        ((-1, "re"), "re_ix=-1"),
        (("q", "re"), "re_ix='q'"),
        (("x", "vc"), "re_ix='x'"),
        ((0, "re", 5, 1e6), "negative"),
        ((0, "re", -1), "num_low=-1: a whole number of at least 0"),
    ],
)
def test_profile_refuses(arguments, message):
    with pytest.raises(lmm.DataError, match=message):
        sample_fit().profile_re(*arguments)


def test_profile_of_a_constrained_fit_is_refused():
    free = np.ones(len(sample_fit().params), dtype=bool)
    free[-1] = False
    result = replace(sample_fit(), free=free)
    with pytest.raises(lmm.DataError, match="held fixed"):
        result.profile_re("x", "re")


# ------------------------------------------------------------ reading hypotheses

NAMES = ["Intercept", "x", "x2", "A[T.b]", "A[T.c]", "x:A[T.b]", 'C(f, Treatment("b"))[T.a]', "a b"]


@pytest.mark.parametrize(
    ("text", "rows", "q"),
    [
        ("x = 0", [{"x": 1}], [0]),
        ("x", [{"x": 1}], [0]),
        ("x = x2", [{"x": 1, "x2": -1}], [0]),
        ("2 * x - x2 = 3", [{"x": 2, "x2": -1}], [3]),
        ("(x + x2) / 2 = 1", [{"x": 0.5, "x2": 0.5}], [1]),
        ("x = x2, A[T.b] = 1", [{"x": 1, "x2": -1}, {"A[T.b]": 1}], [0, 1]),
        (["x = 1", "x2 = 2"], [{"x": 1}, {"x2": 1}], [1, 2]),
        ("x = x2 = 0", [{"x": 1, "x2": -1}, {"x2": 1}], [0, 0]),
        ("A[T.b] = A[T.c]", [{"A[T.b]": 1, "A[T.c]": -1}], [0]),
        ("x:A[T.b] = 0", [{"x:A[T.b]": 1}], [0]),
        ("x + x:A[T.b]", [{"x": 1, "x:A[T.b]": 1}], [0]),
        ('C(f, Treatment("b"))[T.a] = 2', [{'C(f, Treatment("b"))[T.a]': 1}], [2]),
        ("`a b` = 1, `x` = 0", [{"a b": 1}, {"x": 1}], [1, 0]),
        ("x = 250", [{"x": 1}], [250]),
        ("-x = 1e-3", [{"x": -1}], [1e-3]),
        ("A[T.b]:x = 1", [{"x:A[T.b]": 1}], [1]),
        ("`A[T.b]:x` = 2 * x", [{"x:A[T.b]": 1, "x": -2}], [0]),
    ],
)
def test_equations(text, rows, q):
    at = read_restriction(text, NAMES, terms={})
    expected = [[row.get(name, 0) for name in NAMES] for row in rows]
    assert at.R.tolist() == expected and at.q.tolist() == q


THREE = ["Intercept", "a[T.u:v]:x:z", "x:z", 'x:C(f, Treatment("p:q"))[T.r]', "a b:z"]


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        *[(":".join(order), THREE[1]) for order in permutations(["a[T.u:v]", "x", "z"])],
        ("z:x", "x:z"),
        ('C(f, Treatment("p:q"))[T.r]:x', THREE[3]),
        ("`z:a b`", "a b:z"),
    ],
)
def test_the_parts_of_an_interaction_in_any_order(asked, name):
    at = read_restriction(f"{asked} = 3", THREE, terms={})
    assert at.R.tolist() == [[float(other == name) for other in THREE]]
    assert at.labels == (f"{asked.strip('`')} = 3",)


CALLS = ["day", "I(day ** 2)", "poly(x, 2)[1]", "a[T.b]:c", "A[T.c q]", "C(A, Treatment('b'))[T.c]"]


@pytest.mark.parametrize("quote", ["", "`", "'", '"'])
@pytest.mark.parametrize("name", CALLS)
def test_names_with_operators_are_found_bare_and_quoted(name, quote):
    at = read_restriction(f"2 * {quote}{name}{quote} - day = 3, {name}", CALLS, terms={})
    row = [2.0 * (other == name) - (other == "day") for other in CALLS]
    assert at.R.tolist() == [row, [float(other == name) for other in CALLS]]
    assert at.q.tolist() == [3, 0]


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("I(day^2)", CALLS[1]),
        ("I(day**2)", CALLS[1]),
        ("poly(x,2)[1]", CALLS[2]),
    ],
)
def test_calls_may_be_spelled_as_in_r(asked, name):
    at = read_restriction(asked, CALLS, terms={})
    assert at.R.tolist() == [[float(o == name) for o in CALLS]]


OF_R = ["Intercept", "C(f)[T.b]", "C(f)[T.c]", "as_numeric(x)", "C(f)[T.b]:x", "x"]


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("factor(f)[T.b]", OF_R[1]),
        ("as.factor(f)[T.c]", OF_R[2]),
        ("as.numeric(x)", OF_R[3]),
        ("x:factor(f)[T.b]", OF_R[4]),
        ("`factor(f)[T.b]`", OF_R[1]),
    ],
)
def test_functions_may_have_the_names_of_the_formula(asked, name):
    assert read_restriction(asked, OF_R, terms={}).R.tolist() == [[float(o == name) for o in OF_R]]


@pytest.mark.parametrize("term", ["C(f)", "factor(f)", "`C(f)`", "factor(f) = 0"])
def test_a_term_stands_for_its_coefficients(term):
    at = read_restriction(f"x = 1, {term}", OF_R, terms={"x": ["x"], "C(f)": OF_R[1:3]})
    assert at.R.tolist() == np.eye(6)[[5, 1, 2]].tolist() and at.q.tolist() == [1, 0, 0]
    with pytest.raises(lmm.DataError, match="cannot read"):
        read_restriction("C(f)[T.d]", OF_R, terms={"C(f)": OF_R[1:3]})


def test_factors_with_dots_in_their_names_may_be_called_as_factors():
    oats = lmm.load_dataset("oats").rename(columns={"Nf": "nitro.gen"})
    res = lmm.fit("yld ~ nitro.gen + (1 | Block)", oats)
    want = res.wald_test("nitro.gen").statistic
    for asked in ("C(nitro.gen)", "factor(nitro.gen)"):
        np.testing.assert_array_equal(res.wald_test(asked).statistic, want)


@pytest.mark.parametrize("formula", ["Variety * Nf", "Variety * C(Nf)", "Variety * C(Nf, Sum)"])
def test_factors_are_called_by_their_columns_too(formula):
    """``Nf`` and ``factor(Nf)`` are one term where the other is not in the model."""
    res = lmm.fit(f"yld ~ {formula} + (1 | Block/Variety)", lmm.load_dataset("oats"))
    term = formula.split(" * ")[1]
    wanted, both = res.wald_test(term), res.wald_test(f"Variety:{term}")
    for asked in ("Nf", "`Nf`") if "Sum" in formula else ("Nf", "C(Nf)", "factor(Nf)"):
        assert res.wald_test(asked).statistic == wanted.statistic
        assert res.wald_test(f"{asked.strip('`')}:Variety").statistic == both.statistic
    with pytest.raises(lmm.DataError, match=rf"terms are Intercept, Variety, {re.escape(term)}"):
        res.wald_test("C(x)")


def test_columns_beside_their_factors_keep_their_names():
    names = ("x", "C(x)[T.2]", "k[T.b]", "C(f)[T.b]", "C(f, Sum)[T.b]")
    terms = {"x": names[:1], "C(x)": names[1:2], "C(f)": names[3:4], "C(f, Sum)": names[4:]}
    asked = {"x": 0, "C(x)": 1, "x[T.2]": 1, "factor(k)[T.b]": 2, "C(f)": 3}
    for name, place in asked.items():
        at = read_restriction(name, names, terms=terms)
        assert at.R.tolist() == np.eye(5)[[place]].tolist()
    for name in ("f", "f[T.b]", "C(k)"):  # two are meant, or none
        with pytest.raises(lmm.DataError, match="cannot read"):
            read_restriction(name, names, terms=terms)


def test_terms_are_tested_by_name():
    data = lmm.load_dataset("oats")
    formula = "yld ~ Variety * factor(Nf) + (1 | Block)"
    res = lmm.fit(formula, data)
    of_terms = res.wald_test_terms()
    for term in ("C(Nf)", "Variety", "Variety:C(Nf)"):
        for asked in (term, term.replace("C(", "factor(")):
            test = res.wald_test(asked)
            assert (test.df_num, float(test.statistic)) == (
                of_terms.loc[term, "df_num"],
                of_terms.loc[term, "statistic"],
            )
    assert res.t_test("factor(Nf)").c_names[0] == "C(Nf)[T.n20]"
    assert list(res.conf_int(parm="factor(Nf)[T.n20]").index) == ["C(Nf)[T.n20]"]
    many = lmm.fit_many(formula, data, data[["yld"]].to_numpy())
    np.testing.assert_array_equal(many.wald_test("factor(Nf)").df_num, 3)
    found = lmm.step(res, keep=["factor(Nf)", "Variety"]).fixed
    assert not (found["eliminated"] > 0).loc[["Variety:C(Nf)"]].empty


def test_values_beside_equations():
    both = read_restriction(("x - x2, A[T.b]", [1, 2]), NAMES, terms={})
    equations = read_restriction("x - x2 = 1, A[T.b] = 2", NAMES, terms={})
    assert both.R.tolist() == equations.R.tolist() and both.q.tolist() == [1, 2]
    assert both.labels == ("x - x2 = 1", "A[T.b] = 2")


@pytest.mark.parametrize(
    ("hypothesis", "labels"),
    [
        ("x = 1", ["x = 1"]),
        ("x = x2 = 1e-3, A[T.b]", ["x = x2", "x2 = 1e-3", "A[T.b]"]),
        (["2 * x - x2 = 3", "x"], ["2 * x - x2 = 3", "x"]),
        ("A[T.b]:x", ["A[T.b]:x"]),
        (np.eye(8)[:2], ["Intercept", "x"]),
        (([[0, -1, 2.5, 0, 0, 0, 0, 0]], 4), ["- x + 2.5 * x2 = 4"]),
        (np.vstack([np.eye(8)[0], np.full(8, 1.25)]), ["Intercept", "c1"]),
    ],
)
def test_rows_are_called_by_what_was_asked(hypothesis, labels):
    assert list(read_restriction(hypothesis, NAMES, terms={}).labels) == labels


@pytest.mark.parametrize(
    ("hypothesis", "message"),
    [
        ("bogus = 1", "cannot read the hypothesis 'bogus = 1'.*Intercept, x"),
        ("x:z = 1", "cannot read"),
        ("A[T.z] = 1", "cannot read"),
        ("x * x2 = 1", "cannot read"),
        ("x =", "cannot read"),
        ("X = 1", "there is no 'X' .did you mean x"),
        ("ATb", "there is no 'ATb'"),
        ("Ab = 1", r"there is no 'Ab' .did you mean A\[T.b\]"),
        ("x:A[T.bb]", r"there is no 'x:A\[T.bb\]' .did you mean x:A\[T.b\]"),
        ("A[T.bb]:x", r"did you mean x:A\[T.b\]"),
        ("x ~ 1", "there is no '~'"),
        ("f(x)", "there is no 'f'"),
        ({"nosuch": 1}, "label 'nosuch'"),
        ([[1, "x"]], "numbers are needed"),
        ("", "cannot read"),
        ("1 = 2", "not all zero"),
        ([[0, 0, 0]], "shape"),
        (np.zeros((2, 8)), "not all zero"),
        (np.full((1, 8), np.nan), "finite"),
        (np.zeros((0, 8)), "shape"),
        (np.zeros((1, 1, 8)), "shape"),
        ((np.eye(8)[:2], [1, 2, 3]), "q has 3 values for 2"),
        ((np.eye(8)[:2], np.nan), "finite"),
        (("x = 1, x2", [1, 2]), "has values: pass these, or q"),
        (("x, x2", [1, 2, 3]), "q has 3 values for 2"),
        (("x", "x2"), "numbers are needed"),
    ],
)
def test_hypotheses_that_cannot_be_read(hypothesis, message):
    with pytest.raises(lmm.DataError, match=message):
        read_restriction(hypothesis, NAMES, terms={})


def test_spellings_agree():
    result = sample_fit()
    R = np.zeros((2, len(result.fe_params)))
    R[0, 1], R[1, 2] = 1, 1
    texts = "x = 1, f[T.b] = 2"
    for test in (result.t_test, result.wald_test, result.f_test):
        one, two = test(texts), test((R, [1, 2]))
        assert_close(one.statistic, two.statistic, 1e-13)
        assert_close(one.pvalue, two.pvalue, 1e-12)


# ------------------------------------------------------------ t tests


def test_t_tests_of_coefficients_are_those_of_the_result():
    for method in ("satterthwaite", "normal"):
        result = sample_fit(method)
        test = result.t_test(np.eye(len(result.fe_params)))
        assert_close(test.effect, result.fe_params, 0)
        assert_close(test.sd, result.bse_fe, 1e-12)
        assert_close(test.tvalue, result.tvalues, 1e-12)
        assert_close(test.pvalue, result.pvalues, 1e-9)
        interval = result.conf_int(0.1).iloc[: len(result.fe_params)]
        assert_close(test.conf_int(0.1), interval, 1e-12)
        frame = test.summary_frame(list(result.fixed_names), 0.1)
        assert_close(frame["conf_low"], interval["lower"], 1e-12)
        assert_close(frame["p_value"], test.pvalue, 0)


def test_one_row_jointly_is_its_square():
    result = sample_fit()
    t, f = result.t_test("x - 2 * z = 1"), result.f_test("x - 2 * z = 1")
    assert_close(f.statistic, t.statistic[0] ** 2, 1e-12)
    assert_close(f.df_denom, t.df_denom[0], 1e-12)
    assert_close(f.pvalue, t.pvalue[0], 1e-9)


def test_z_and_t_on_demand():
    result = sample_fit()
    z = result.t_test("x", use_t=False)
    assert z.distribution == "norm"
    assert_close(z.pvalue, 2 * stats.norm.sf(abs(z.tvalue)), 1e-12)
    chi2, f = result.wald_test("x, z", use_f=False), result.wald_test("x, z")
    assert (chi2.distribution, f.distribution) == ("chi2", "F")
    assert_close(chi2.statistic, 2 * f.statistic, 1e-12)
    assert_close(chi2.pvalue, stats.chi2.sf(chi2.statistic, 2), 1e-12)
    with pytest.raises(AttributeError, match="F test"):
        _ = chi2.fvalue
    with pytest.raises(lmm.DataError, match="joint test"):
        f.conf_int()


def test_variance_parameters_have_normal_theory():
    result = sample_fit()
    test = result.t_test("var(Intercept|g) = var(x|g)")
    assert test.distribution == "norm"
    names = ["var(Intercept|g)", "var(x|g)"]
    C = result.cov_params().loc[names, names].to_numpy()
    assert_close(test.sd[0] ** 2, C[0, 0] + C[1, 1] - 2 * C[0, 1], 1e-12)
    full = np.eye(len(result.params))
    assert_close(result.t_test(full).sd, result.bse, 1e-12)
    assert result.wald_test(full[-2:]).distribution == "chi2"
    for ask in (lambda: result.t_test(full, use_t=True), lambda: result.f_test(full)):
        with pytest.raises(lmm.DataError, match="normal theory"):
            ask()


def test_a_variance_at_zero_has_no_test():
    data = samples.frame()
    data["y"] = np.random.default_rng(3).normal(size=60)
    data["y"] -= data.groupby("g")["y"].transform("mean")
    result = lmm.fit("y ~ x + (1 | g)", data)
    assert result.singular
    test = result.t_test("var(Intercept|g)")
    assert np.isnan([test.sd[0], test.statistic[0], test.pvalue[0]]).all()
    assert np.isnan(result.wald_test("var(Intercept|g), x").pvalue)
    assert np.isfinite(result.t_test("x").pvalue).all()


# ------------------------------------------------------------ joint tests


def test_dependent_rows_count_once():
    result = sample_fit()
    one, two = result.wald_test("x, z"), result.wald_test("x, z, x + z = 0, x = z")
    assert two.df_num == 2
    assert_close(two.statistic, one.statistic, 1e-10)
    with pytest.raises(lmm.DataError, match="contradict"):
        result.wald_test("x = 0, x = 1")


def test_units_of_rows_do_not_matter_to_the_statistic():
    result = sample_fit()
    R = np.eye(len(result.fe_params))[[1, 7]]
    one, two = result.wald_test(R), result.wald_test(R * [[1e-9], [1e6]])
    assert two.df_num == 2
    assert_close(two.statistic, one.statistic, 1e-10)
    assert np.isfinite(two.df_denom)


def test_joint_test_is_the_textbook_quadratic_form():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(5, 5))
    cov, b, R, q = A @ A.T, rng.normal(size=5), rng.normal(size=(3, 5)), rng.normal(size=3)
    V = R @ cov @ R.T
    gap = R @ b - q
    assert_close(joint_test(Restriction(R, q), b, V).chi2, gap @ np.linalg.solve(V, gap), 1e-10)


def test_printed_tests():
    result = sleep()
    shown = repr(result.t_test("Days = 5"))
    assert "Days = 5 " in shown and "5.0000" in shown and "0.003" in shown
    assert "<0.001" in str(result.t_test("Intercept")) and "0.0000 " not in repr(
        result.t_test("Days = 5")
    )
    frame = result.t_test("Days = 5, Intercept").summary_frame()
    assert list(frame.index) == ["Days = 5", "Intercept"]
    assert list(frame["null_value"]) == [5.0, 0.0]
    text = str(result.t_test("Days = 5").summary(xname=["slope"], title="A slope of five"))
    assert text.startswith("A slope of five\n") and "slope" in text and "3.537" in text
    joint = result.f_test("Days, Intercept")
    words = str(joint.summary()).split()
    assert words[:7] == ["F", "test", "F", "df_num", "df_denom", "p_value", f"{joint.fvalue:.3f}"]
    assert words[7:10] == ["2", "17", "<0.001"]
    assert str(result.wald_test("Days", use_f=False)).startswith("Chi-square test\n")
    with pytest.raises(lmm.DataError, match="xname"):
        result.t_test("Days").summary(xname=["a", "b"])


# ------------------------------------------------------------ terms


def test_terms():
    result = sample_fit()
    table = result.wald_test_terms()
    assert list(table.index) == ["Intercept", "x", "f", "z", "x:f"]
    assert table["df_num"].tolist() == [1, 1, 5, 1, 5]
    assert list(table.columns) == ["statistic", "df_num", "df_denom", "p_value"]
    rows = [j for j, name in enumerate(result.fixed_names) if name.startswith("x:f")]
    test = result.f_test(np.eye(len(result.fe_params))[rows])
    expected = [test.statistic, 5, test.df_denom, test.pvalue]
    assert_close(table.loc["x:f"], expected, 1e-12)
    assert list(result.wald_test_terms(skip_single=True).index) == ["f", "x:f"]
    assert np.isinf(sample_fit("normal").wald_test_terms()["df_denom"]).all()


def test_a_test_shows_all_of_itself():
    shown = repr(sleep().t_test("Intercept = 250, Days = 10, Intercept + Days = 260"))
    assert shown.splitlines()[-1] == "Limits of level 0.95"
    assert shown.count("Intercept + Days = 260") == 2  # the limits are below the tests


def test_terms_with_dropped_columns():
    data = samples.frame().assign(x_again=lambda d: 2 * d["x"])
    with pytest.warns(lmm.RankWarning):
        result = lmm.fit("y ~ x + x_again + f + (1 | g)", data)
    plain = lmm.fit("y ~ x + f + (1 | g)", data)
    pd.testing.assert_frame_equal(result.wald_test_terms(), plain.wald_test_terms())


def test_terms_without_a_formula():
    data = samples.frame()
    X = np.column_stack([np.ones(60), data["x"]])
    result = lmm.fit(lmm.design_from_arrays(data["y"], X, data["g"]))
    assert list(result.wald_test_terms().index) == list(result.fixed_names)


# ------------------------------------------------------------ predictions for new rows

VC = dict(groups="g", re_formula="1", vc_formula={"s": "0 + C(s)"})
NEW = pd.DataFrame({"x": [0.0, 1, 2], "s": ["p", "zz", "q"], "g": ["g1", "g1", "new"]})


@pytest.mark.parametrize("new_levels", ["population", "nan"])
def test_an_unseen_category_inside_a_component(new_levels):
    result = lmm.fit("y ~ x", samples.frame(), **VC)
    predicted = result.predict(NEW, conditional=True, new_levels=new_levels).to_numpy()
    fixed = result.predict(NEW).to_numpy()
    b_g, b_s = result.random_effects["g"], result.random_effects["s"]
    first = fixed[0] + b_g.loc["g1"].item() + b_s.loc[("g1", "C(s)[p]")].item()
    if new_levels == "nan":
        assert_close(predicted[0], first, 1e-12)
        assert np.isnan(predicted[1:]).all()
    else:
        # the new classroom of a known school keeps the effect of the school
        assert_close(predicted, [first, fixed[1] + b_g.loc["g1"].item(), fixed[2]], 1e-12)


def test_an_unseen_category_is_refused_by_name():
    result = lmm.fit("y ~ x", samples.frame(), **VC)
    with pytest.raises(lmm.DataError, match="zz"):
        result.predict(NEW.iloc[:2], conditional=True)
    with pytest.raises(lmm.DataError, match="'new'"):
        result.predict(NEW.iloc[[0, 2]], conditional=True)
    fixed = lmm.fit("y ~ f + (1 | g)", samples.frame())
    rows = {"f": ["a", "zz"], "g": ["g1", "g1"]}
    with pytest.raises(lmm.DataError, match="zz"):  # no policy can help a fixed effect
        fixed.predict(rows, conditional=True, new_levels="population")


def test_an_unseen_category_of_a_random_slope():
    result = lmm.fit("y ~ x + (0 + s | g)", samples.frame())
    rows = {"x": [0.0, 0.0], "s": ["p", "zz"], "g": ["g1", "g1"]}
    predicted = result.predict(rows, conditional=True, new_levels="population")
    assert_close(predicted[1], result.fe_params["Intercept"], 1e-12)
    assert np.isnan(result.predict(rows, conditional=True, new_levels="nan")[1])


def test_all_rows_unseen():
    result = lmm.fit("y ~ x", samples.frame(), **VC)
    rows = NEW.assign(s="zz")
    assert_close(
        result.predict(rows.iloc[[2]], conditional=True, new_levels="population"),
        result.predict(rows.iloc[[2]]),
        1e-13,
    )


@pytest.mark.parametrize("column", ["x", "z", "o", "g", "f"])
def test_missing_values_predict_nan(column):
    result = lmm.fit("y ~ x + f + offset(o) + (z | g)", samples.frame())
    new = samples.frame(1).head(5)
    new.index = [9, 9, 3, 1, 0]
    whole = result.predict(new, conditional=True)
    gappy = new.astype({"g": object, "f": object})
    gappy.iloc[2, gappy.columns.get_loc(column)] = None
    predicted = result.predict(gappy, conditional=True)
    assert predicted.index.equals(new.index)
    assert np.isnan(predicted.iloc[2])
    kept = [0, 1, 3, 4]
    assert_close(predicted.iloc[kept], whole.iloc[kept], 1e-12)
    population = result.predict(gappy)  # columns of the random part do not matter to it
    assert np.isnan(population.iloc[2]) == (column not in ("g", "z"))


def test_missing_values_in_arrays_predict_nan():
    data = samples.frame()
    result = lmm.fit("y ~ x", data, groups=data["g"].to_numpy(), offset=data["o"].to_numpy())
    rows = {"x": [1.0, 2.0, 3.0]}
    offset, groups = np.array([0.0, np.nan, 0.0]), np.array(["g1", "g1", None], dtype=object)
    assert np.isnan(result.predict(rows, offset=offset)).tolist() == [False, True, False]
    both = result.predict(rows, offset=offset, groups=groups, conditional=True)
    assert np.isnan(both).tolist() == [False, True, True]
    with pytest.raises(lmm.DataError, match="groups has 2 entries"):
        result.predict(rows, offset=np.zeros(3), groups=groups[:2], conditional=True)
    with pytest.raises(lmm.DataError, match="offset has the shape"):
        result.predict(rows, offset=np.zeros(2))


def test_only_missing_rows_and_no_rows():
    result = lmm.fit("y ~ x + f + (1 | g)", samples.frame())
    rows = pd.DataFrame({"x": [np.nan, np.nan], "f": ["a", "b"], "g": ["g1", "g2"]})
    assert np.isnan(result.predict(rows, conditional=True)).all()
    assert result.predict(rows.iloc[:0]).shape == (0,)


def test_infinite_values_are_refused():
    result = lmm.fit("y ~ x + (1 | g)", samples.frame())
    with pytest.raises(lmm.DataError, match="infinite"):
        result.predict({"x": [1.0, np.inf]})


def test_restrictions_with_labels_go_by_their_labels():
    res = lmm.fit("Reaction ~ Days + (1 | Subject)", lmm.load_dataset("sleepstudy"))
    want = res.t_test("Days = 0")
    row = pd.Series({"Days": 1.0, "Intercept": 0.0})
    for given in (row, {"Days": 1.0}, pd.DataFrame([row]), pd.Series({"Days": 1.0})):
        assert res.t_test(given).statistic[0] == want.statistic[0]
    assert res.t_test(pd.Series([0.0, 1.0])).statistic[0] == want.statistic[0]
    with pytest.raises(lmm.DataError, match="label 'days'"):
        res.t_test({"days": 1.0})


@pytest.mark.parametrize("seed", [2, 3])
def test_a_correlation_of_one_has_no_standard_error(seed):
    """Noise without random effects: the estimate lies on the boundary, whatever rounding says."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=210)
    data = pd.DataFrame({"x": x, "y": rng.normal(size=210), "g": np.repeat(np.arange(14), 15)})
    for runtime in ("numpy", "jax"):
        table = lmm.fit("y ~ x + (x | g)", data, runtime=runtime).tidy()
        row = table[table["term"].str.startswith("cor__")].iloc[0]
        assert abs(abs(row["estimate"]) - 1) < 1e-12 and np.isnan(row["std_error"])


def test_a_row_on_a_variance_leaves_the_others_their_degrees_of_freedom():
    res = lmm.fit("Reaction ~ Days + (1 | Subject)", lmm.load_dataset("sleepstudy"))
    alone, together = res.t_test(np.eye(2)), res.t_test(np.eye(3))
    np.testing.assert_array_equal(together.df_denom, [*alone.df_denom, np.inf])
    assert_close(together.pvalue[:2], alone.pvalue, 1e-12)  # sums of rows of another length
    assert_close(together.conf_int()[:2], alone.conf_int(), 1e-12)
    last = res.t_test(np.eye(3)[2:])
    assert last.distribution == "norm" and last.pvalue == together.pvalue[2:]
