"""Values in formulas: doubles before arithmetic, R's functions, names and hints."""

import pickle
import statistics
import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from formula_samples import DATA, N, columns

import lmm_jax as lmm
from lmm_jax.errors import DataError, FormulaError
from lmm_jax.formulas import matrices

TIGHT = 1e-12  # a few roundings of float64
PRINTED = 6e-8  # R's documentation prints seven digits


def same(left, right, data=DATA, other=None):
    got, want = columns(left, data), columns(right, DATA if other is None else other)
    np.testing.assert_allclose(got.values, want.values, rtol=TIGHT, atol=TIGHT)


# ----------------------------------------------------------------------------- narrow numbers

NARROW = [
    "int8",
    "uint8",
    "int16",
    "float16",
    "float32",
    "Int8",
    "UInt8",
    "Float32",
    "int64",
    object,
]
NARROW.append(pytest.param("int8[pyarrow]", id="arrow"))
ARITHMETIC = [
    "age * dose",
    "age:dose + I(age^2)",
    "I(age + age + age) + I(-age - dose)",
    "log(age) + sqrt(dose) + np.exp(dose) + sin(age)",
    "poly(age, 2, raw=TRUE) + I(dose^-1) + I(age %/% 7 + age %% 7)",
    "scale(age) + center(dose) + bs(age, df=4) + ns(age, 3)",
    "I(age.cumsum()) + I(age - age.mean()) + I(age / max(age))",
    "ifelse(age > 40, age * 9, dose) + pmax(age * 3, dose) + C(age > 40)",
    "twice(age) + I(np.square(age)) + round(age * 3.3)",
]


def twice(v):
    """A function of the user's that would wrap around in narrow integers."""
    return v * v * 2


@pytest.mark.parametrize("rhs", ARITHMETIC)
@pytest.mark.parametrize("kind", NARROW)
def test_narrow_numbers_are_doubles(rhs, kind):
    if "arrow" in str(kind):
        pytest.importorskip("pyarrow")
    small = DATA.astype({"age": kind, "dose": kind})
    wide = small.astype({"age": float, "dose": float})
    got = columns(rhs, small, {"twice": twice}).values
    np.testing.assert_allclose(got, columns(rhs, wide, {"twice": twice}).values, rtol=TIGHT)


@pytest.mark.parametrize("kind", ["int8", "Int8", "float32", object])
def test_narrow_numbers_everywhere_in_a_model(kind):
    names = ["age", "dose", "pre", "post", "w"]
    data = DATA.assign(pre=DATA.age - 60, post=DATA.dose - DATA.k, w=DATA.k)
    text = "post - pre ~ age * dose + offset(age * dose / 9) + (0 + age:dose | g)"
    small = lmm.design(text, data.astype(dict.fromkeys(names, kind)), weights="w")
    wide = lmm.design(text, data.astype(dict.fromkeys(names, float)), weights="w")
    for what in ("endog", "exog", "offset", "weights"):
        np.testing.assert_allclose(getattr(small, what), getattr(wide, what), rtol=TIGHT)
    np.testing.assert_allclose(small.terms[0].values, wide.terms[0].values, rtol=TIGHT)


def test_decimals_and_missing_numbers():
    data = DATA.assign(age=[Decimal(int(v)) / 4 for v in DATA.age])
    same("age + I(age^2)", "age + I(age^2)", data, DATA.assign(age=DATA.age / 4))


def test_float64_is_not_copied():
    seen = []
    matrices.evaluate("keep(x)", DATA, context={"keep": lambda v: seen.append(v) or v})
    plain = matrices.labels("x", DATA, context={})
    assert np.shares_memory(plain.to_numpy(), DATA["x"].to_numpy())
    assert seen[0].dtype == np.float64


def test_a_function_cannot_change_the_data():
    def centre(v):
        v -= v.mean()
        return v

    before = DATA.copy(deep=True)
    got = columns("0 + centre(x)", DATA, {"centre": centre}).values[:, 0]
    np.testing.assert_allclose(got, DATA.x - DATA.x.mean(), atol=TIGHT)
    pd.testing.assert_frame_equal(DATA, before)


HUGE = 2**60 + np.repeat(np.arange(40), 3)  # float64 cannot tell neighbours apart


@pytest.mark.parametrize("expr", ["id", "I(id)", "id.astype(str)"])
def test_labels_keep_their_digits(expr):
    assert matrices.labels(expr, DATA.assign(id=HUGE), context={}).nunique() == 40


@pytest.mark.parametrize("rhs", ["C(id)", "as.factor(id)", "C(id.astype(str))"])
def test_categories_keep_their_digits(rhs):
    assert len(columns(rhs, DATA.assign(id=HUGE)).names) == 40


@pytest.mark.parametrize("expr", ["id // 10", "id + 1", "np.floor(id)", "I(id * 2)"])
def test_computed_labels_do_not_lose_digits(expr):
    data = DATA.assign(id=HUGE)
    with pytest.raises(DataError, match=r"`id` has integers above 2\^53"):
        matrices.labels(expr, data, context={})
    with pytest.raises(DataError, match=r"`id` has integers above 2\^53"):
        columns(f"C({expr})", data)


def test_computed_labels_are_whole_numbers():
    assert list(matrices.labels("k // 2", DATA, context={})[:4]) == [0, 1, 1, 2]
    assert matrices.labels("k // 2", DATA, context={}).dtype == np.int64
    assert columns("C(k // 2)").names == ("Intercept", "C(k // 2)[T.1]", "C(k // 2)[T.2]")


def test_computed_labels_are_complete():
    with pytest.raises(DataError, match="has missing values: labels are needed in every row"):
        matrices.labels("x.shift()", DATA, context={})


# ----------------------------------------------------------------------------- objects and text


@pytest.mark.parametrize("rhs", ["k", "x", "I(k * x)", "log(k)", "x:f", "poly(k, 2)", "C(k)"])
def test_objects_are_what_they_hold(rhs):
    same(rhs, rhs, DATA.astype({"k": object, "x": object, "f": object}))


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_objects_with_a_gap_are_read_alike(missing):
    whole = DATA.astype({"k": object, "on": object})
    gap = whole.copy()
    gap.loc[5, "k"] = missing
    names = [lmm.design("y ~ k + on + (1 | g)", d).exog_names for d in (whole, gap, gap.dropna())]
    assert names == [("Intercept", "k", "on[T.True]")] * 3


def test_predictions_read_objects_as_numbers():
    res = lmm.fit("y ~ k + on + f + (1 | g)", DATA)
    new = DATA[:9]
    loose = new.astype({"k": object, "on": object, "f": object})
    np.testing.assert_allclose(res.predict(loose), res.predict(new), rtol=TIGHT)
    loose.loc[4, "k"] = None
    assert list(np.flatnonzero(res.predict(loose).isna())) == [4]


WORDS = np.array([f"w{i}" for i in range(N)])
OBJECTS = [
    (
        "x",
        {"x": DATA.x.astype(str)},
        "`x` has 120 levels in 120 rows, and most are text that looks",
    ),
    ("x", {"x": DATA.x.round(2).astype(str)}, r"pd.to_numeric"),
    ("(x | g)", {"x": DATA.x.astype(str)}, "`x` has 120 levels"),
    ("x", {"x": DATA.x.map("{:.1f}".format).str.replace(".", ",")}, r"decimal=','"),
    (
        "x",
        {"x": DATA.x.map("{:.1f}".format)},
        "looks like numbers: join levels; as numbers, pd.to_num",
    ),
    ("x", {"x": [f"{v:.2f}" if v > -1 else "n.d." for v in DATA.x]}, "most are text that looks"),
    ("x", {"x": WORDS}, "`x` has 120 levels in 120 rows, a fixed effect for every row"),
    ("C(x)", {}, r"`C\(x\)` has 120 levels in 120 rows"),
    ("k", {"k": [1, "2"] * 60}, "`k` holds values of the types int, str"),
    ("k", {"k": [1.5, "a", None] * 40}, "`k` holds values of the types float, str"),
    ("I(k + 1)", {"k": [1, "2"] * 60}, "`k` holds values of the types int, str"),
    ("k", {"k": [True, "no"] * 60}, "`k` holds values of the types bool, str"),
    ("k", {"k": [(1, 2), (3, 4)] * 60}, "`k` holds values of the type tuple, several"),
    ("as.numeric(f)", {}, "as_numeric"),
    ("log(f)", {}, r"`log\(f\)` computes with what is text: `f` is text, '.*needed, without"),
    (
        "log(x)",
        {"x": DATA.x.map("{:.1f}".format).str.replace(".", ",")},
        r"is text, '.*decimal=','",
    ),
    (
        "poly(x, 2)",
        {"x": [f"{v}" if v > -1 else "n.d." for v in DATA.x]},
        "'n.d.' for example.*coerce",
    ),
    ("bs(x)", {"x": DATA.x.map("{:.1f}".format)}, r"`bs\(x\)` computes with.*pd.to_numeric\(…\)$"),
    ("np.log('x')", {}, "computes with what is text"),
    ("I(f + f)", {}, "`f` is text, '.*numbers are needed"),
    ("log(x)", {"x": ["1,250", "980", "3,100"] * 40}, "decimal=','.* or thousands=','"),
]


def test_errors_of_functions_of_the_caller_are_theirs():
    def own(x):
        return float("abc") * x

    with pytest.raises(DataError, match="could not convert string to float: 'abc'"):
        columns("own(x)", context={"own": own})


@pytest.mark.parametrize(
    ("rhs", "plain"),
    [
        ("C * factor(k)", "f * C(k)"),
        ("log + log(k)", "x + log(k)"),
        ("scale * scale(scale)", "z * scale(z)"),
        ("factor(C)", "C(f)"),
        ("C(C, contr.sum)", "C(f, contr.sum)"),
    ],
)
def test_columns_that_are_called_like_functions(rhs, plain):
    data = DATA.assign(C=DATA.f, log=DATA.x, scale=DATA.z)
    found, expected = columns(rhs, data), columns(plain, DATA)
    np.testing.assert_array_equal(found.values, expected.values)
    new = matrices.replay(found.spec, data[:7])
    np.testing.assert_allclose(new, found.values[:7], rtol=TIGHT)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([*"0123456789", "n/a", "unknown"], "12 levels, and all but 'n/a', 'unknown' are numbers"),
        (["0,5", "1,0", "2,0"], r"they are numbers: as a covariate, pd.read_csv.*C\(x\)"),
    ],
)
def test_labels_that_are_numbers_but_for_a_few(values, message):
    data = DATA.assign(x=(values * N)[:N])
    with pytest.warns(lmm.TextWarning, match=message):
        columns("x", data)
    columns("C(x)", data)  # asked for
    columns("x", data.astype({"x": "category"}))


@pytest.mark.parametrize("values", [[*"123456"], ["0.5", "1.0", "2.0"], [*"12", "control"]])
def test_labels_of_groups_and_doses_are_labels(values):
    columns("x", DATA.assign(x=(values * N)[:N]))


TIMES = {
    "dates": lambda day: day.dt.date,
    "objects": lambda day: day.astype(object),
    "arrow": lambda day: day.astype("timestamp[us][pyarrow]"),
    "arrow dates": lambda day: day.astype("date32[day][pyarrow]"),
    "spans": lambda day: day - day.min(),
    "objects of spans": lambda day: (day - day.min()).astype(object),
    "arrow spans": lambda day: (day - day.min()).astype("duration[us][pyarrow]"),
    "times of day": lambda day: day.dt.time,
}


@pytest.mark.parametrize("kind", TIMES)
def test_dates_and_times_are_refused_whatever_holds_them(kind):
    data = DATA.assign(day=TIMES[kind](DATA.day))
    with pytest.raises(DataError, match="numbers or labels are needed"):
        columns("day", data)
    if "day" not in kind:
        same("I((day - day.min()).dt.days)", "I((day - day.min()).dt.days)", data)


def test_sparse_columns_are_what_they_hold():
    data = DATA.assign(k=pd.arrays.SparseArray(DATA.k.to_numpy()))
    same("k + I(k^2) + k:f", "k + I(k^2) + k:f", data)


def test_decimals_that_are_meant_as_labels():
    text = DATA.assign(z=DATA.z.map("{:.1f}".format))
    with pytest.raises(DataError, match=r"one column; as a factor, C\(x\)"):
        columns("z", text)
    same("C(z)", "C(z)", text, text.astype({"z": "category"}))
    few = DATA.assign(k=(DATA.k / 2).astype(str))
    assert columns("k", few).names[1:] == ("k[T.1.0]", "k[T.1.5]", "k[T.2.0]")


RESPONSES = [
    ("factor(on)", r"`C\(on\)` is a factor"),
    ("C(k)", "is a factor"),
    ("f", "`f` is text, '.*: numbers are needed"),
    ("day", r"`day` has the type datetime64.*: numbers are needed, as.numeric\(day\) in days"),
    ("`my x`", r"`my x` is text, .*: pd.read_csv\(…, decimal=','\)"),
]


@pytest.mark.parametrize(("response", "message"), RESPONSES)
def test_responses_that_are_no_numbers(response, message):
    data = DATA.assign(**{"my x": DATA.x.map("{:.1f}".format).str.replace(".", ",")})
    with pytest.raises(DataError, match=message):
        lmm.design(f"{response} ~ z + (1 | g)", data)


@pytest.mark.parametrize(("term", "changed", "message"), OBJECTS)
def test_hopeless_columns_are_named(term, changed, message):
    with pytest.raises(DataError, match=message):
        lmm.design(f"y ~ {term} + (1 | g)", DATA.assign(**changed))


def test_years_as_text_are_a_factor():
    data = DATA.assign(year=(2000 + DATA.k).astype(str))
    assert columns("year", data).names[1:] == ("year[T.2002]", "year[T.2003]", "year[T.2004]")


def test_a_level_for_every_row_may_be_a_component():
    data = DATA.assign(row=np.arange(N))
    matrix = matrices.build("0 + C(row)", data, context={}, sparse=True)
    assert matrix.values.shape == (N, N)


@pytest.mark.parametrize(
    "formula", ["y ~ item + (1 | g)", "y ~ 1 + (item | g)", "y ~ C(item) + (1 | g)"]
)
@pytest.mark.parametrize("kind", [str, "int64", "category"])
def test_a_factor_of_many_levels_ends_before_memory_does(formula, kind):
    n = 60_000
    item = pd.Series(np.arange(n) // 2 * 7)
    item = "i" + item.astype(str) if kind is not str else item.astype(str)
    data = pd.DataFrame({"y": np.arange(n) * 1.0, "g": np.arange(n) % 40, "item": item})
    data = data.astype({"item": "category"}) if kind == "category" else data
    with pytest.raises(DataError, match=r"item\)?` has 30,000 levels in 60,000 rows.* 13 GiB"):
        lmm.design(formula, data)


def test_an_interaction_of_many_levels_is_named():
    n = 60_000
    data = pd.DataFrame({"a": np.arange(n) % 2003, "b": np.arange(n) % 1999, "x": 1.0})
    data = data.astype({"a": str, "b": str})
    with pytest.raises(DataError, match=r"an interaction has 4,00.,... columns.* GiB"):
        columns("0 + a:b", data)


# ----------------------------------------------------------------------------- names

NAMES = [
    "my x",
    "%x",
    "father's x",
    "a'b'c",
    'say "x"',
    "w-z",
    "x^2",
    "a:b",
    "1x",
    "x.y",
    "(x",
    "a\\b",
]
WORDS_OF_PYTHON = [
    "class",
    "lambda",
    "from",
    "in",
    "or",
    "not",
    "if",
    "def",
    "import",
    "is",
    "None",
]


@pytest.mark.parametrize("name", [*NAMES, *WORDS_OF_PYTHON])
def test_names_between_backticks(name):
    data = DATA.rename(columns={"x": name, "g": f"{name} g", "k": f"{name}w"})
    text = f"y ~ `{name}` * f + I(`{name}`^2 + 1) + offset(`{name}`) + (`{name}` | `{name} g`)"
    quoted = lmm.design(text, data, weights=f"{name}w")
    plain = lmm.design("y ~ x * f + I(x^2 + 1) + offset(x) + (x | g)", DATA, weights="k")
    for what in ("exog", "offset", "weights", "group_codes"):
        np.testing.assert_array_equal(getattr(quoted, what), getattr(plain, what))
    np.testing.assert_array_equal(quoted.terms[0].values, plain.terms[0].values)
    assert quoted.exog_names[1] == name
    assert quoted.terms[0].group == f"{name} g"


NO_NAMES = [
    ("pd.cut(x, 3)", {}, "modules are no part of formulas"),
    ("Q(x)", {}, "its argument is text"),
    ("`é`", {"e\u0301": DATA.x}, "written in other characters"),
]


@pytest.mark.parametrize(("term", "added", "message"), NO_NAMES)
def test_names_that_nobody_has_get_advice(term, added, message):
    with pytest.raises(FormulaError, match=message):
        lmm.design(f"y ~ {term} + (1 | g)", DATA.assign(**added))


# A column that is called like something else in the formula, and the same formula without it.
ALIKE = [
    ("`1`", "x", "1"),
    ("Q('1')", "x", "1"),
    ("`1` * f", "x * f", "1"),
    ("`1`:f", "x:f", "1"),
    ("log(z) + `log(z)`", "log(z) + x", "log(z)"),
    ("z + log(z) + `log(z)`:z", "z + log(z) + x:z", "log(z)"),
    ("I(z**2) + `I(z ** 2)`", "I(z**2) + x", "I(z ** 2)"),
]


@pytest.mark.parametrize(("rhs", "plain", "name"), ALIKE)
def test_a_column_called_like_an_expression_is_a_term_of_its_own(rhs, plain, name):
    data = DATA.rename(columns={"x": name})
    same(rhs, plain, data)
    quoted = lmm.design(f"y ~ z + ({rhs} | g)", data).terms[0]
    np.testing.assert_array_equal(
        quoted.values, lmm.design(f"y ~ z + ({plain} | g)", DATA).terms[0].values
    )


@pytest.mark.parametrize(
    "rhs", ["µ", "I(µ * 2)", "log(µ) + µ", "exp(µ):f", "ifelse(µ > 2, µ, 0)", "offset(µ) + f"]
)
def test_names_are_the_characters_of_the_data(rhs):
    """The micro sign is another letter than mu, which Python makes of it."""
    data = DATA.assign(**{"\u00b5": DATA.z, "\u03bc": DATA.x})
    got = lmm.design(f"y ~ {rhs} + (1 | g)", data)
    want = lmm.design(f"y ~ {rhs.replace('µ', 'z')} + (1 | g)", DATA)
    np.testing.assert_array_equal(got.exog, want.exog)
    alone = lmm.design(f"y ~ {rhs} + (1 | g)", data.drop(columns="\u03bc"))
    np.testing.assert_array_equal(alone.exog, want.exog)
    assert (got.offset is None) == (want.offset is None)


@pytest.mark.parametrize("key", ["\u00b5k", "\u03bck"])
def test_names_of_the_context_are_found_as_python_writes_them(key):
    """Python keeps a variable with a micro sign under the Greek letter."""
    value = columns("I(x * \u00b5k)", DATA, {key: 3.0}).values
    np.testing.assert_array_equal(value, columns("I(x * 3.0)").values)
    called = columns("\u00b5k(z)", DATA, {key: np.sin}).values
    np.testing.assert_array_equal(called, columns("np.sin(z)").values)


def test_a_power_of_terms_ends_where_nothing_is_added():
    same("(x + z + f)^99", "(x + z + f)^3")
    same("(x + z)**2", "x + z + x:z")


def test_powers_and_orthogonal_polynomials_are_numbered_alike():
    assert columns("poly(z, 2, raw=TRUE)").names[1:] == (
        "poly(z, 2, raw=True)[1]", "poly(z, 2, raw=True)[2]",
    )  # fmt: skip
    same("poly(z, 2, raw=TRUE)", "z + I(z^2)")
    assert columns("poly(z, 2)").names[1:] == ("poly(z, 2)[1]", "poly(z, 2)[2]")
    with pytest.raises(DataError, match="from 1 on"):
        columns("poly(z, 0)")


TEXTS = ["(", ")a]", "it's", "a`b", "[x", "{", "50%", "a|b", "~", 'say "x"', "a + b", "#", "a:b"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "call", ["I(f == {t})", "(f == {t})", "C(f, Treatment({t}))", "f.isin([{t}])"]
)
def test_any_text_may_stand_between_quotes(text, call):
    data = DATA.assign(f=DATA.f.replace({"q": text}))
    same(call.format(t=repr(text)), call.format(t="'q'"), data)
    assert lmm.design(f"y ~ {call.format(t=repr(text))} + (1 | g)", data).n_groups == 12


@pytest.mark.parametrize("name", ["my x", "%x", "father's x", "class", "w-z"])
def test_predictions_find_gaps_in_quoted_columns(name):
    res = lmm.fit("y ~ x + log(z) + (x | g)", DATA)
    other = DATA.rename(columns={"x": name, "z": f"{name} z"})
    quoted = lmm.fit(f"y ~ `{name}` + log(`{name} z`) + (`{name}` | g)", other)
    for gap in (name, f"{name} z", None):
        new = other[:6].assign(w=1.0, z=np.nan)  # no column of the model
        want = res.predict(DATA[:6]).to_numpy().copy()
        if gap:
            new.loc[2, gap] = np.nan
            want[2] = np.nan
        np.testing.assert_allclose(quoted.predict(new), want, rtol=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        "C({w})",
        "factor(`{w}`)",
        "C(Q('{w}'))",
        "I({w} + 1)",
        "I(2 * {w})",
        "log({w}, 2)",
        "I(-{w})",
    ],
)
@pytest.mark.parametrize(
    "word", ["class", "lambda", "from", "in", "or", "is", "if", "for", "while"]
)
def test_words_of_python_are_columns_in_calls(call, word):
    data = DATA.rename(columns={"k": word})
    same(call.format(w=word), call.format(w="k"), data)


# ----------------------------------------------------------------------------- R's reading

B, P = DATA.on.to_numpy(), (DATA.f == "p").to_numpy()
LOGICAL = [
    ("I((x > 0) + (z > 3))", (DATA.x > 0) * 1.0 + (DATA.z > 3)),
    ("I(on + on)", 2.0 * B),
    ("I(on - on)", 0.0 * B),
    ("I(1 - on)", 1.0 - B),
    ("I(on * on * 3)", 3.0 * B),
    ("I(-on)", -1.0 * B),
    ("I(on / 2)", B / 2),
    ("I(on * x)", B * DATA.x),
    ("log(on + 1)", np.log(B + 1.0)),
    ("exp(on)", np.exp(B * 1.0)),
    ("np.exp(on)", np.exp(B * 1.0)),
    ("as.integer(on)", B * 1.0),
    ("as.numeric(f == 'p')", P * 1.0),
    ("I(on.map({True: 2.0, False: 5.0}))", np.where(B, 2.0, 5.0)),
]


@pytest.mark.parametrize(("term", "expected"), LOGICAL)
def test_logicals_count_in_arithmetic(term, expected):
    matrix = columns(f"0 + {term}")
    assert len(matrix.names) == 1
    np.testing.assert_allclose(matrix.values[:, 0], expected, rtol=TIGHT)


CATEGORY = [
    ("on", B),
    ("I(x > 0)", DATA.x > 0),
    ("(f == 'p')", P),
    ("(f != 'p')", ~P),
    ("I((x > 0) + (z > 3) == 2)", (DATA.x > 0) & (DATA.z > 3)),
    ("I(~on)", ~B),
    ("I(!on)", ~B),
    ("I(!(f == 'p'))", ~P),
    ("((x > 0) & (z > 3))", (DATA.x > 0) & (DATA.z > 3)),
    ("I((x > 0) | on)", (DATA.x > 0) | B),
    ("I(f %in% c('p', 'q'))", DATA.f != "r"),
    ("I(!(k %in% c(1, 4)))", DATA.k.isin([2, 3])),
    ("as.logical(k - 1)", DATA.k != 1),
]


@pytest.mark.parametrize(("term", "expected"), CATEGORY)
def test_comparisons_are_categories(term, expected):
    matrix = columns(term)
    assert matrix.names[1].endswith("[T.True]")
    np.testing.assert_array_equal(matrix.values[:, 1], np.asarray(expected) * 1.0)


NESTED = [
    ("x %in% f", "x:f"),
    ("x + x %in% f", "x + x:f"),
    ("f + x %in% f", "f + x:f"),
    ("x %in% (f + h)", "x:f:h"),  # R: all of the right side at once
    ("(x + z) %in% f", "x:f + z:f"),
    ("f * x %in% h", "f * x:h"),  # %in% binds more tightly than *
    ("z %in% f %in% h", "z:f:h"),
]


@pytest.mark.parametrize(("left", "right"), NESTED)
def test_nesting(left, right):
    same(left, right)


SPELLINGS = [
    ("as.integer(z)", "I(np.trunc(z))"),
    ("sin(x) + cos(x) + tan(x)", "np.sin(x) + np.cos(x) + np.tan(x)"),
    ("asin(x / 9) + atan(x) + tanh(x)", "np.arcsin(x / 9) + np.arctan(x) + np.tanh(x)"),
    ("sin(2 * pi * z)", "np.sin(2 * np.pi * z)"),
    (
        "floor(z) + ceiling(x) + trunc(x) + sign(x)",
        "np.floor(z) + np.ceil(x) + np.trunc(x) + np.sign(x)",
    ),
    ("round(z, 1) + round(x)", "np.round(z, 1) + np.round(x)"),
    (
        "abs(x) + exp(x) + sqrt(z) + log2(z) + exp10(x)",
        "np.abs(x) + np.exp(x) + np.sqrt(z) + np.log2(z) + I(10^x)",
    ),
    ("log(z, base = 3)", "I(np.log(z) / np.log(3))"),
    ("ifelse(f == 'p', x, 0)", "I(np.where(f == 'p', x, 0))"),
    ("ifelse(x > 0, 'a', 'b')", "I(x <= 0)"),
    ("pmax(x, 0) + pmin(x, z, 1)", "np.maximum(x, 0) + np.minimum(np.minimum(x, z), 1)"),
    ("bs(z, degree=2, knots=c(2, 3))", "bs(z, degree=2, knots=[2, 3])"),
    ("I(x - mean(x)) + I(z / sd(z))", "I(x - x.mean()) + I(z / z.std())"),
    ("I(z / max(z)) + I(x - median(x))", "I(z / z.max()) + I(x - x.median())"),
    ("as.factor(k) + as.character(k):x", "C(k) + C(k):x"),
    ("relevel(f, ref = 'q')", "C(f, Treatment('q'))"),
    ("relevel(factor(k), 3)", "C(k, Treatment(3))"),
    ("dummy(f, 'p')", "as.numeric(f == 'p')"),
    ("cut(z, c(0, 2, 3, 6))", "C((z > 2) + (z > 3))"),
    ("cut(z, c(-Inf, 2, Inf), labels = c('low', 'high'))", "I(z > 2)"),
    ("cut(k, c(1, 2, 4), include.lowest = TRUE)", "I(k > 2)"),
    ("cut(k, c(1, 3, 5), right = FALSE)", "I(k >= 3)"),
    ("I(k %% 2) + I(k %/% 2)", "I(k - 2 * np.floor(k / 2)) + np.floor(k / 2)"),
    ("factor(k, levels = c(4, 3, 2, 1))", "C(-k)"),
]


@pytest.mark.parametrize(("of_r", "here"), SPELLINGS)
def test_spellings_of_r(of_r, here):
    same(of_r, here)


# What messages advise, and a formula that follows the advice.
ADVICE = [
    ("y ~ is.na(z) + (1 | g)", "`is.na` finds nothing", "y ~ gap + (1 | g)"),
    ("y ~ z.fillna(0) + (1 | g)", "`.fillna` finds nothing", "y ~ gap + (1 | g)"),
    ("y ~ I(z.isna()) + (1 | g)", r"data.assign\(gap=data\['z'\].isna\(\)\)", "y ~ gap + (1 | g)"),
    ("y ~ ordered(f) + (1 | g)", r"`C\(f, Poly\)`", "y ~ C(f, Poly) + (1 | g)"),
    ("y ~ rcs(z, 3) + (1 | g)", r"`ns\(x, df\)`", "y ~ ns(x, 3) + (1 | g)"),
    (
        "y ~ s(z) + (1 | g)",
        r"`ns\(x, df\)`, `bs\(x, df\)` or `cr\(x, df\)`",
        "y ~ bs(x, 4) + cr(z, 4) + (1 | g)",
    ),
    ("y ~ te(x, z) + (1 | g)", r"`ns\(x, 3\) \* ns\(z, 3\)`", "y ~ ns(x, 3) * ns(z, 3) + (1 | g)"),
    ("y ~ t2(x, z) + (1 | g)", "products of splines", "y ~ ns(x, 3) * ns(z, 3) + (1 | g)"),
    ("y ~ ti(x, z) + (1 | g)", r"`ns\(x, 3\):ns\(z, 3\)`", "y ~ x + ns(x, 3):ns(z, 3) + (1 | g)"),
    ("y ~ lo(x) + (1 | g)", "no penalty", "y ~ ns(x, 3) + (1 | g)"),
    ("y ~ x + (1 | interaction(g, h))", r"`\(1 \| f:h\)`", "y ~ x + (1 | f:h)"),
    ("y ~ interaction(f, h) * x + (1 | g)", r"`\(f:h\) \* x`", "y ~ (f:h) * x + (1 | g)"),
    ("y ~ paste(f, h) + (1 | g)", "`f:h`", "y ~ f:h + (1 | g)"),
    ("y ~ nchar(f) + (1 | g)", r"`f.str.len\(\)`", "y ~ f.str.len():x + (1 | g)"),
    ("y ~ rank(x) + (1 | g)", r"`x.rank\(\)`", "y ~ x.rank() + (1 | g)"),
    ("y ~ cumsum(x) + (1 | g)", r"`np.cumsum\(x\)`", "y ~ np.cumsum(x) + (1 | g)"),
    ("y ~ recode(f) + (1 | g)", "`f.map", "y ~ f.map({'p': 1, 'q': 2, 'r': 3}) + (1 | g)"),
    (
        "y ~ bs(x, knots=seq(1, 3)) + (1 | g)",
        r"`c\(1, 2, 3\)`",
        "y ~ bs(z, knots=c(2, 3)) + (1 | g)",
    ),
    (
        "y ~ case_when(x) + (1 | g)",
        r"`ifelse\(test, yes, no\)`",
        "y ~ ifelse(x > 0, 1, 0) + (1 | g)",
    ),
    (
        "y ~ I(x if z > 2 else 0) + (1 | g)",
        r"`ifelse\(test, yes, no\)`",
        "y ~ ifelse(z > 2, x, 0) + (1 | g)",
    ),
    ("y ~ f == 'p' + (1 | g)", r"`\(f == 'a'\)`", "y ~ (f == 'p') + (1 | g)"),
    (
        "y ~ I(x > 0 & z > 3) + (1 | g)",
        "each comparison in parentheses",
        "y ~ I((x > 0) & (z > 3)) + (1 | g)",
    ),
    (
        "y ~ I(1 < z < 3) + (1 | g)",
        r"`\(a < b\) & \(b < c\)`",
        "y ~ I((1 < z) & (z < 3)) + (1 | g)",
    ),
    (
        "y ~ I(on & z) + (1 | g)",
        "take logicals, not float64: compare first",
        "y ~ I(on & (z > 2)) + (1 | g)",
    ),
    ("y ~ I(~f == 'p') + (1 | g)", r"`~\(a == b\)`", "y ~ I(~(f == 'p')) + (1 | g)"),
    ("y ~ I(x - x[0]) + (1 | g)", "places in brackets count from 1", "y ~ I(x - x[1]) + (1 | g)"),
    (
        "y ~ I(x - mean(x[1:3])) + (1 | g)",
        "list the places",
        "y ~ I(x - mean(x[c(1, 2, 3)])) + (1 | g)",
    ),
    (
        "y ~ I(k + 1 %in% c(2)) + (1 | g)",
        "binds more tightly",
        "y ~ I(I(k + 1) %in% c(2)) + (1 | g)",
    ),
    ("y ~ x + -3 + (1 | g)", "3 is no term", "y ~ I(3 * x) + (1 | g)"),
    ("y ~ 2 + x + (1 | g)", "2 is no term", "y ~ 1 + x + (1 | g)"),
    ("y ~ 2:x + (1 | g)", r"`I\(2 \* x\)`", "y ~ I(2 * x) + (1 | g)"),
    ("y ~ x / 2 + (1 | g)", "2 is no term", "y ~ I(x / 2) + (1 | g)"),
    ("y ~ 1.0 + (1 | g)", "1.0 is no term", "y ~ 1 + (1 | g)"),
    ("y ~ 1:f + (1 | g)", "1 is no operand of `:`", "y ~ 1 + f + (1 | g)"),
    ("y ~ 1/z + (1 | g)", r"1 is no operand of `/`: write `I\(…\)`", "y ~ I(1/z) + (1 | g)"),
    ("y ~ (1 + x) * f + (1 | g)", r"1 is no operand of `\*`", "y ~ 1 + x * f + (1 | g)"),
    ("y ~ (0 + x + z)^2 + (1 | g)", r"0 is no operand of `\^`", "y ~ 0 + (x + z)^2 + (1 | g)"),
    ("y ~ x^1.5 + (1 | g)", r"`I\(x\^1.5\)`", "y ~ I(z^1.5) + (1 | g)"),
    ("y ~ x^0 + (1 | g)", "the exponent 0", "y ~ I(x^0):x + (1 | g)"),
    ("y ~ 'x' + (1 | g)", "'x' is text", "y ~ x + (1 | g)"),
    ("y ~ ou(0 + x | g)", r"no `ou\(… \| g\)`.*`\(x \|\| g\)`, as diag", "y ~ diag(x | g)"),
    ("y ~ x + mat(0 + x | g)", r"no `mat\(… \| g\)`.*`\(x \| g\)`, as us", "y ~ x + us(1 + x | g)"),
    ("y ~ x + cs(1 + x || g)", r"write one bar, `cs\(… \| g\)`", "y ~ x + cs(1 + x | g)"),
    ("y ~ x * cs(1 + x | g)", "can only be added", "y ~ x + cs(1 + x | g)"),
    ("y ~ stats::poly(x, 2) + (1 | g)", "without its package", "y ~ poly(x, 2) + (1 | g)"),
    ("y ~ day + (1 | g)", r"`as.numeric\(day\)`, in days", "y ~ as.numeric(day) + (1 | g)"),
    (
        "y ~ relevel(f, 'no') + (1 | g)",
        "'no' is none of the levels 'p', 'q', 'r'",
        "y ~ relevel(f, 'q') + (1 | g)",
    ),
    (
        "y ~ cut(z, c(2, 3)) + (1 | g)",
        "no interval for values outside 2 to 3",
        "y ~ cut(z, c(-Inf, 2, 3, Inf)) + (1 | g)",
    ),
    ("y ~ ns(k, 9) + (1 | g)", "fewer degrees of freedom", "y ~ ns(z, 3) + (1 | g)"),
    ("y ~ np.sinn(x) + (1 | g)", "did you mean `np.sin`", "y ~ np.sin(x) + (1 | g)"),
    (
        "y ~ nope(x) + (1 | g)",
        "no function `nope`; define it beside the call",
        "y ~ twice(x) + (1 | g)",
    ),
]


@pytest.mark.parametrize(("wrong", "message", "right"), ADVICE)
def test_advice_is_right(wrong, message, right):
    data = DATA.assign(gap=DATA.x > 0)
    with pytest.raises((FormulaError, DataError), match=message):
        lmm.design(wrong, data)
    assert np.isfinite(lmm.design(right, data).exog).all()


@pytest.mark.parametrize(
    "rhs",
    [
        "I(ifelse(x > 0, 'u', 'b') == h)",
        "I((f %in% c('p', 'q')) & (x > 0))",
        "I((relevel(f, 'q') == 'p') + x)",
        "I((cut(z, c(0, 2, 6)) == '(0,2]') + x)",
        "I((as.character(k) == '2') | on)",
        "I(as.logical(k - 1) + x)",
        "I(np.where(on, x, z) + x) + I(dummy(f, 'p') * x)",
    ],
)
def test_functions_keep_to_the_rows(rhs):
    order = np.random.default_rng(1).permutation(N)
    data = DATA.set_axis(order).rename_axis("row")
    np.testing.assert_array_equal(columns(rhs, data).values, columns(rhs).values)
    data = DATA.set_axis(order // 2)
    np.testing.assert_array_equal(columns(rhs, data).values, columns(rhs).values)


def test_functions_give_the_rows_in_their_order():
    data = DATA.set_axis(np.arange(N) + 7)
    own = {"reset": lambda v: v.reset_index(drop=True), "sorts": lambda v: v.sort_values()}
    assert list(matrices.labels("reset(k)", data, context=own)) == list(DATA.k)
    assert list(matrices.evaluate("reset(x)", data, context=own)) == list(DATA.x)
    for read in (matrices.evaluate, matrices.labels):
        with pytest.raises(DataError, match="in another order"):
            read("sorts(x)", data, context=own)
    with pytest.raises(DataError, match="in another order"):
        columns("sorts(x)", data, own)


def test_new_categories_of_a_transform_in_a_random_term():
    res = lmm.fit("y ~ x + (0 + relevel(f, 'q') || g)", DATA)
    new = DATA[:4].assign(f=["p", "r", "new", "p"])
    with pytest.raises(DataError, match="'new'"):
        res.predict(new, conditional=True)
    got = res.predict(new, conditional=True, new_levels="nan")
    assert list(got.isna()) == [False, False, True, False]


# ----------------------------------------------------------------------------- splines

# ns(women$height, df = 5) in the examples of R's splines package, rows 2 to 8.
NS = """
7.592323e-03 0.000000e+00 -8.670223e-02 2.601067e-01 -1.734045e-01
6.073858e-02 0.000000e+00 -1.503044e-01 4.509132e-01 -3.006088e-01
2.047498e-01 6.073858e-05 -1.677834e-01 5.033503e-01 -3.355669e-01
4.334305e-01 1.311953e-02 -1.324404e-01 3.973211e-01 -2.648807e-01
6.256681e-01 8.084305e-02 -7.399720e-02 2.219916e-01 -1.479944e-01
6.477162e-01 2.468416e-01 -2.616007e-02 7.993794e-02 -5.329196e-02
4.791667e-01 4.791667e-01 1.406302e-02 2.031093e-02 -1.354062e-02
"""


def test_natural_splines_are_those_of_r():
    women = pd.DataFrame({"height": np.arange(58.0, 73.0)})
    got = columns("0 + ns(height, df = 5)", women).values
    want = np.array(NS.split(), dtype=float).reshape(7, 5)
    np.testing.assert_allclose(got[1:8], want, atol=PRINTED)
    np.testing.assert_allclose(got[0], 0, atol=TIGHT)


@pytest.mark.parametrize("options", ["df = 4", "knots = c(2, 3, 4)", "3, intercept = TRUE"])
def test_natural_splines_bend_nowhere_outside(options):
    spec = columns(f"0 + ns(z, {options})").spec
    new = pd.DataFrame({"z": [-3.0, -2.0, -1.0, 7.0, 8.0, 9.0]})
    rows = matrices.replay(spec, new, context={})
    np.testing.assert_allclose(rows[[0, 3]] - 2 * rows[[1, 4]] + rows[[2, 5]], 0, atol=1e-9)


def test_natural_splines_span_what_constrained_regression_splines_span():
    inner = "2.0, 3.0, 4.0"
    left = columns(f"ns(z, knots = c({inner}))").values
    right = columns(f"cr(z, knots = c({inner}), constraints = 'center')").values
    fitted = right @ np.linalg.lstsq(right, left, rcond=None)[0]
    np.testing.assert_allclose(fitted, left, atol=1e-10)


def test_replayed_splines_keep_their_knots():
    matrix = columns("ns(z, 4) + cr(z, 4) + cut(z, 3) + I(x - mean(x)) + relevel(f, 'q')")
    rows = matrices.replay(matrix.spec, DATA[5:20], context={})
    np.testing.assert_allclose(rows, matrix.values[5:20], atol=TIGHT)


def test_regression_splines_beside_an_intercept():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(lmm.design("y ~ cr(z, 4) + (1 | g)", DATA).exog_names) == 5
        assert len(lmm.design("y ~ 0 + cr(z, 4) + (1 | g)", DATA).exog_names) == 4
        assert len(lmm.design("y ~ cc(z, 4) + (1 | g)", DATA).exog_names) == 5
    bare = columns("0 + cr(z, 4)").values
    np.testing.assert_allclose(bare.sum(axis=1), 1, rtol=1e-10)  # its span has the constant


# ----------------------------------------------------------------------------- terms


def nothing(v):
    v = v - v.mean()


TERMS = [
    ("nothing(z)", r"`nothing\(z\)` gives None"),
    ("x * nothing(z)", r"`nothing\(z\)` gives None"),
    ("C(nothing(z))", r"gives None"),
    ("parts(z)", r"`parts\(z\)` gives no columns"),
    ("empty(z)", r"`empty\(z\)` gives no columns"),
    ("I(3)", "gives one value, 3"),
    ("I('a')", "gives one value, 'a'"),
    ("mean(x)", r"`mean\(x\)` gives one value"),
    ("I(x.max())", "gives one value"),
    ("short(x)", r"gives an array of shape \(3,\) for 120 rows"),
    ("cube(x)", r"gives an array of shape \(120, 2, 2\) for 120 rows"),
    ("I(c(1, 2))", r"gives an array of shape \(2,\) for 120 rows"),
    ("I(np.sin)", "gives one value"),
    ("I(None)", "gives None"),
]


@pytest.mark.parametrize(
    "place", ["y ~ {t} + (1 | g)", "y ~ x + (1 + {t} | g)", "y ~ offset({t}) + (1 | g)"]
)
@pytest.mark.parametrize(("term", "message"), TERMS)
def test_terms_have_a_value_for_every_row(term, message, place):
    if place.startswith("y ~ offset") and term.startswith(("x *", "C(")):
        pytest.skip("an expression, not a term")
    own = {
        "nothing": nothing,
        "parts": lambda v: {},
        "empty": lambda v: np.ones((len(v), 0)),
        "short": lambda v: v[:3],
        "cube": lambda v: np.ones((len(v), 2, 2)),
    }
    with pytest.raises(DataError, match=message):
        lmm.design(place.format(t=term), DATA, context=own)


# --------------------------------------------------------------------- names and hints


@pytest.mark.parametrize("name", ["Sum", "Poly", "Treatment", "Helmert", "Diff"])
def test_a_column_may_have_the_name_of_a_contrast(name):
    data = DATA.rename(columns={"x": name})
    got = columns(f"1 + I({name} + 1)", data)
    np.testing.assert_array_equal(got.values[:, 1], DATA["x"] + 1)
    coded = columns(f"1 + C(k, {name})", data)  # the contrast all the same
    assert coded.values.shape[1] == DATA["k"].nunique()


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("y ~ C(k, 'sum') + (1 | g)", r"without quotes, `C\(f, Sum\)`"),
        ("y ~ factor(k, c(2, 1)) + (1 | g)", "levels have a name"),
        ("y ~ x^z + (1 | g)", r"crosses terms.*`I\(x\^…\)`"),
        ("y ~ x^-1 + (1 | g)", r"crosses terms.*`I\(x\^…\)`"),
        ("y ~ lag(x) + (1 | g)", "make the column first"),
    ],
)
def test_what_to_write_instead(formula, message):
    data = DATA.assign(y=1.0, g=DATA["k"])
    with pytest.raises((DataError, FormulaError), match=message):
        lmm.design(formula, data)


@pytest.mark.parametrize(
    "code",
    ["x - x.mean()", "x - np.mean(x)", "(x - x.min()) / x.max()", "x / x.std()",
     "x - np.quantile(x, 0.3)", "z - z.median()", "(day - day.min()).dt.days",
     "np.digitize(x, np.quantile(x, [0.25, 0.5, 0.75]))", "x * x.cov(z)", "x * x.corr(z)",
     "np.interp(x, np.percentile(x, [0, 50, 100]), [0, 1, 5])", "x - x.mode()[0]",
     "x - x.unique()[0]", "x - x.values.mean()", "x / x.to_numpy().std()",
     "x - x.quantile([0.2, 0.4]).sum()"],
)  # fmt: skip
def test_numbers_of_a_column_are_those_of_the_first_data(code):
    """One row of new data gets the value that it had among all."""
    data = DATA.assign(y=np.random.default_rng(3).normal(size=len(DATA)))
    res = lmm.fit(f"y ~ I({code}) + (1 | g)", data)
    for row in (0, 3, len(data) - 1):
        alone = res.predict(data.iloc[[row]], conditional=False)
        np.testing.assert_allclose(
            alone, res.predict(data, conditional=False).iloc[[row]], rtol=1e-12
        )


def lowest(v):
    return v.min()


@pytest.mark.parametrize(
    ("code", "own"),
    [("x - mean(x)", {"mean": np.mean}), ("x - mean(x)", {"mean": statistics.mean}),
     ("x / std(x)", {"std": np.std}), ("x - nm.median(x)", {"nm": np}),
     ("x - q(x, 0.3)", {"q": np.quantile}), ("(x - low(x)) / 2", {"low": lowest})],
)  # fmt: skip
def test_numbers_that_functions_of_the_caller_make_of_a_column_are_too(code, own):
    """numpy's mean imported by name is not the library's, and means no other model."""
    data = DATA.assign(y=np.random.default_rng(3).normal(size=len(DATA)))
    res = lmm.fit(f"y ~ I({code}) + (1 | g)", data, context=own)
    for again in (res, pickle.loads(pickle.dumps(res))):
        alone = again.predict(data.iloc[[3]], conditional=False)
        whole = again.predict(data, conditional=False)
        np.testing.assert_allclose(alone, whole.iloc[[3]], rtol=1e-12)
    means = lmm.emmeans(res, "1", at={"x": 0.25}).to_frame()["estimate"]
    expected = res.predict(data.iloc[[0]].assign(x=0.25), conditional=False)
    np.testing.assert_allclose(means, expected, rtol=1e-12)


def test_columns_that_functions_of_the_caller_make_are_made_anew():
    data = DATA.assign(y=np.random.default_rng(3).normal(size=len(DATA)))
    res = lmm.fit("y ~ wave(x) + (1 | g)", data, context={"wave": np.cos})
    other = data.assign(x=data["x"] + 1.0)
    expected = lmm.fit("y ~ np.cos(x) + (1 | g)", data).predict(other, conditional=False)
    np.testing.assert_allclose(res.predict(other, conditional=False), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "code", ["np.quantile([x, z], 0.3, axis=0)", "x.rolling(2, min_periods=1).quantile(0.5)"]
)
def test_numbers_of_every_row_are_those_of_new_data(code):
    data = DATA.assign(y=np.random.default_rng(3).normal(size=len(DATA)))
    res = lmm.fit(f"y ~ I({code}) + (1 | g)", data)
    other = data.assign(x=data["x"] + 1.0, z=data["z"] + 1.0)
    np.testing.assert_allclose(
        res.predict(other) - res.predict(data), res.fe_params.iloc[1], rtol=1e-9
    )


@pytest.mark.parametrize(
    "term",
    ["offset(x - mean(x))", "offset(scale(z))", "power(w / mean(w))", "expo(scale(x))",
     "car1(x - min(x) | g)", "diag(x > x.mean())", "diag(cut(w, 2))",
     "diag(C(np.digitize(w, np.quantile(w, [0.5]))))", "(1 | cut(w, 3))"],
)  # fmt: skip
def test_offsets_and_residual_covariances_remember_the_first_data(term):
    rng = np.random.default_rng(3)
    data = DATA.assign(y=rng.normal(size=len(DATA)), w=rng.uniform(1, 2, len(DATA)))
    data["x"] += 1e-3 * np.arange(len(data))
    res = lmm.fit(f"y ~ z + (1 | g) + {term}", data)
    for again in (res, pickle.loads(pickle.dumps(res))):
        whole = again.predict(data, interval="prediction")
        for row in (0, 3, len(data) - 1):
            alone = again.predict(data.iloc[[row]], interval="prediction")
            np.testing.assert_allclose(alone, whole.iloc[[row]], rtol=1e-10)
    if term.startswith("offset"):
        means = lmm.emmeans(res, "1", at={"z": 0.5} | ({"x": 0.5} if "x" in term else {}))
        own = {"offset(x - mean(x))": 0.5 - data["x"].mean(),
               "offset(scale(z))": (0.5 - data["z"].mean()) / data["z"].std()}[term]  # fmt: skip
        expected = own + res.fe_params @ [1.0, 0.5]
        np.testing.assert_allclose(means.at.estimate, [expected], rtol=1e-10)


def test_dates_are_days_as_in_r():
    """as.numeric(as.Date("2020-01-02")) is 18263; spans are days."""
    data = pd.DataFrame(
        {"day": pd.to_datetime(["2020-01-02 00:00", "1970-01-01 00:00", "1969-12-31 12:00"])}
    )
    data["span"] = data["day"] - pd.Timestamp("1970-01-01")
    for zone in (None, "UTC"):
        frame = data.assign(day=data["day"].dt.tz_localize(zone) if zone else data["day"])
        for name in ("day", "span"):
            found = matrices.evaluate(f"as_numeric({name})", frame)
            np.testing.assert_allclose(found, [18263.0, 0.0, -0.5], rtol=0, atol=TIGHT)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_slopes_over_dates_do_not_depend_on_their_unit(unit):
    rng = np.random.default_rng(7)
    data = pd.DataFrame({"g": np.repeat(np.arange(10), 6), "hours": rng.uniform(0, 6, 60)})
    data["time"] = (
        pd.Timestamp("2024-05-01") + pd.to_timedelta(data["hours"], unit="h")
    ).dt.as_unit(unit)
    data["y"] = rng.normal(size=60) + data["hours"] + rng.normal(size=10)[data["g"]]
    res = lmm.fit("y ~ as.numeric(time) + (1 | g)", data)
    slope = lmm.emtrends(res, "1", "time").to_frame()["estimate"].iloc[0]
    np.testing.assert_allclose(slope, res.fe_params.iloc[1], rtol=1e-6)


def test_a_date_is_a_covariate_of_marginal_means():
    rng = np.random.default_rng(7)
    data = pd.DataFrame({"g": np.repeat(np.arange(10), 6), "f": np.tile(["p", "q"], 30)})
    data["days"] = rng.integers(18000, 18400, 60)
    data["date"] = pd.to_datetime(data["days"], unit="D")
    data["y"] = rng.normal(size=60) + 0.01 * data["days"] + rng.normal(size=10)[data["g"]]
    dates, days = (lmm.fit(f"y ~ {x} * f + (1 | g)", data) for x in ("as.numeric(date)", "days"))
    for at, own in (
        ({}, {}),
        ({"days": 18100}, {"date": "2019-07-23"}),
        ({"days": 18100}, {"date": 18100}),
        ({"days": 18100}, {"date": np.array([18100])}),
    ):
        found, expected = (
            lmm.emmeans(r, "f", at=a).to_frame() for r, a in ((dates, own), (days, at))
        )
        np.testing.assert_allclose(found["estimate"], expected["estimate"], rtol=1e-8)
        np.testing.assert_allclose(found["std_error"], expected["std_error"], rtol=1e-8)
    found, expected = lmm.emtrends(dates, "f", "date"), lmm.emtrends(days, "f", "days")
    np.testing.assert_allclose(
        found.to_frame()["estimate"], expected.to_frame()["estimate"], rtol=1e-6
    )
    with pytest.raises(DataError, match="no date"):
        lmm.emmeans(dates, "f", at={"date": "soon"})


@pytest.mark.parametrize(
    ("term", "said"),
    [
        ("ns()", r"missing a required argument: 'x'; it is `ns\(x, df, knots"),
        ("relevel(f, 'q', 5)", r"too many positional arguments; it is `relevel\(x, ref\)`"),
        ("ns(x, dff=3)", "unexpected keyword argument 'dff'"),
        ("log2()", "a column is needed"),
        ("relevel(f)", "missing a required argument: 'ref'"),
    ],
)
def test_arguments_of_functions_are_checked_before_they_are_called(term, said):
    with pytest.raises(FormulaError, match=said):
        lmm.fit(f"y ~ {term} + (1 | g)", DATA.assign(y=DATA["z"]))


def test_labels_beside_the_levels_of_a_factor_are_named():
    data = DATA.assign(y=np.random.default_rng(3).normal(size=len(DATA)))
    with pytest.raises(DataError, match="has the level 'r', which is none of levels="):
        lmm.fit("y ~ factor(f, levels=c('q', 'p')) + (1 | g)", data)
    with pytest.raises(DataError, match="levels=3: list them"):
        lmm.fit("y ~ factor(f, levels=3) + (1 | g)", data)
    assert lmm.fit(
        "y ~ factor(f, levels=c('q', 'p')) + (1 | g)", data, subset=data["f"] != "r"
    ).converged


REMEMBERED = [
    "I(dose.cat.codes) + (1 | g)",
    "I(dose > 'low') + (1 | g)",
    "as.numeric(dose) + (1 | g)",
    "x + offset(dose.cat.codes) + (1 | g)",
    "x + (I(dose.cat.codes) | g)",
    "x + (1 | g) + (1 | I(dose >= 'mid'))",
    "x + (1 | I(dose.cat.codes)) + (1 | g)",
    "I(dose.astype(str) == 'mid') + (1 | g)",
    "I(x - x[1]) + (1 | g)",
    "I(x - quantile(x, c(0.25, 0.75))[2]) + (1 | g)",
    "I(x - mean(x[dose == 'mid'])) + (1 | g)",
    "dummy(dose, 'mid') + (1 | g)",
    "I(x - x.to_numpy()[3]) + (1 | g)",
    "x.clip(-1, 1).pow(2) + (1 | g)",
    "(x - x.mean()).round(1) + (1 | g)",
    "x + (1 | text.str.upper().str.strip()) + (1 | g)",
]


@pytest.mark.parametrize("terms", REMEMBERED)
def test_new_rows_are_read_with_the_categories_of_the_first(terms):
    """Fewer categories, others before them, text in their place, a single row on another index."""
    rng = np.random.default_rng(7)
    data = pd.DataFrame(
        {"x": rng.normal(size=90), "g": np.arange(90) % 9, "y": rng.normal(size=90)}
    )
    dose = np.tile(["low", "mid", "high"], 30)
    data["dose"] = pd.Categorical(dose, ["low", "mid", "high"], ordered=True)
    data["text"] = rng.choice(["a", " B", "b "], 90)
    data["y"] += 2.0 * data["dose"].cat.codes + data["g"] / 3.0
    res = lmm.fit(f"y ~ {terms}", data)
    part = data[dose != "low"].iloc[5:25]
    fewer = part["dose"].cat.remove_unused_categories()
    turned = pd.Categorical(part["dose"].astype(str), ["high", "mid", "low"])
    for new in (fewer, turned, part["dose"].astype(str), part["dose"].astype(str).astype(object)):
        found = res.predict(part.assign(dose=new), conditional=True)
        np.testing.assert_allclose(found, res.fittedvalues[part.index], rtol=1e-9)
    one = res.predict(data.iloc[[4]].reset_index(drop=True), conditional=True)
    np.testing.assert_allclose(one, res.fittedvalues.iloc[[4]], rtol=1e-9)


def test_codes_of_a_new_category_are_refused():
    data = DATA.assign(f=pd.Categorical(np.where(np.arange(len(DATA)) % 2, "a", "b")))
    res = lmm.fit("y ~ I(f.cat.codes) + (1 | g)", data)
    with pytest.raises(lmm.DataError, match=r"`f` has 'c', which is no category.*'a', 'b'"):
        res.predict(data.head(2).assign(f=["a", "c"]))
    with pytest.raises(
        lmm.FormulaError, match=r"no column `f.cat.codes`: write `I\(f.cat.codes\)`"
    ):
        lmm.fit("y ~ f.cat.codes + (1 | g)", data)


def test_contrasts_written_out_are_those_of_an_array():
    data = lmm.load_dataset("orthodont").astype({"age": str})
    M = np.array([[1.0, 1.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -2.0]])  # of 10, 12, 14, 8
    written = lmm.design(
        "distance ~ C(age, [[1, 1], [-1, 0], [0, 1], [0, -2]]) + (1 | Subject)", data
    )
    named = lmm.design("distance ~ C(age, M) + (1 | Subject)", data)
    np.testing.assert_array_equal(written.exog, named.exog)
    assert written.exog.shape[1] == 1 + M.shape[1]
    with pytest.raises(DataError, match="contrasts"):
        lmm.design("distance ~ C(age, [[1, 1], [-1]]) + (1 | Subject)", data)


@pytest.mark.parametrize("term", ["0 + {}", "0 + {}:Sex", "{} * Sex", "{}:Sex", "x:{}"])
def test_contrasts_of_the_callers_have_full_rank_where_those_of_a_sum_do(term):
    """Indicators of all levels where no intercept is there, as in R."""
    own = np.array([[1.0, 0, 0], [-1, 1, 0], [0, -1, 1], [0, 0, -1]])
    data = lmm.load_dataset("orthodont").assign(x=lambda d: np.arange(len(d)) % 7)
    text = "distance ~ x * Sex + " + term + " + (1 | Subject)"
    ours = lmm.design(text.format("C(age, own)"), data, context={"own": own}).exog
    other = lmm.design(text.format("C(age, Sum)"), data).exog
    assert ours.shape == other.shape
    assert np.abs(ours - other @ np.linalg.lstsq(other, ours)[0]).max() < 1e-10


def test_contrasts_are_those_of_the_fit():
    """Whoever changes the array later changes nothing."""
    M = np.array([[1.0, 0, 0], [-1, 1, 0], [0, -1, 1], [0, 0, -1]])
    data = lmm.load_dataset("orthodont")
    found = lmm.fit("distance ~ C(age, M) + (1 | Subject)", data)
    given = lmm.fit("distance ~ C(age, W) + (1 | Subject)", data, context={"W": M})
    before = found.predict(data)
    M *= 2.0
    np.testing.assert_array_equal(found.predict(data), before)
    np.testing.assert_allclose(given.predict(data), before, rtol=1e-12)


@pytest.mark.parametrize(
    "call",
    [
        "C(age, levels=[14, 12, 10, 8], contrasts=M)",
        "factor(age, contrasts=M)",
        "C(factor(age), M)",
        "C(age, ((1, 1), (-1, 0), (0, 1), (0, -2)))",
    ],
)
def test_contrasts_are_found_wherever_they_stand(call):
    M = [[1, 1], [-1, 0], [0, 1], [0, -2]]
    assert len(M) == 4
    design = lmm.design(f"distance ~ {call} + (1 | Subject)", lmm.load_dataset("orthodont"))
    assert design.exog.shape[1] == 3


@pytest.mark.parametrize(
    "given",
    [
        [["a", "b"]] * 4,
        np.eye(4)[:, :2] * 1j,
        [[1.0, np.nan]] * 4,
        np.array([[1, None]] * 4, dtype=object),
    ],
)
def test_contrasts_are_finite_real_numbers(given):
    formula, data = "distance ~ C(age, M) + (1 | Subject)", lmm.load_dataset("orthodont")
    with pytest.raises(DataError, match="finite numbers are needed"):
        lmm.design(formula, data, context={"M": np.array(given)})


def test_contrasts_need_a_row_a_level():
    formula = "distance ~ C(age, [[1, 2], [3, 4]]) + (1 | Subject)"
    with pytest.raises(DataError, match=r"are 2 by 2 numbers.* there are 4: 8, 10, 12, 14"):
        lmm.design(formula, lmm.load_dataset("orthodont"))
