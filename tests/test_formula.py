"""Formulas: what is read, where errors point, and the columns that come out."""

import pickle

import numpy as np
import pandas as pd
import pytest
import samples
import timings

import lmm_jax as lmm
from lmm_jax.errors import DataError, FormulaError, RankWarning
from lmm_jax.formulas import matrices
from lmm_jax.formulas import parse as formula
from lmm_jax.formulas.right_side import variables

TIGHT = 1e-12  # a few roundings of float64

X = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 7.0])
Z = np.array([2.0, -1.0, 0.5, 3.0, 0.25, 1.0])
A = np.array(["a", "b", "c", "a", "b", "c"])
B = np.array([True, False, True, True, False, False])
G = np.array(["u", "v", "u", "v", "u", "v"])
ONE = np.ones(6)


def is_(level, labels=A):
    return (labels == level).astype(float)


@pytest.fixture
def data():
    return pd.DataFrame(
        {
            "y": X**2,
            "x": X,
            "z": Z,
            "A": A,
            "b": B,
            "k": np.arange(6),
            "g": pd.Categorical(G, categories=["w", "v", "u"]),
            "one": "only",
            "when": pd.date_range("2020-01-01", periods=6),
            "scale": X + 1,
            "reaction.time": X + 10,
            "n w": X + 20,
        }
    )


def columns(rhs, data, context=None):
    """Matrix of a right-hand side as a user writes it."""
    return matrices.build(formula.parse_rhs(rhs), data, context=context)


# ------------------------------------------------------------------------------ parse

FIXED = [
    ("y ~ x", "x"),
    ("y ~ (1|g)", "1"),
    ("y ~ 0 + (1|g)", "0"),
    ("y ~ -1 + (1|g)", "-1"),
    ("y ~ (1|g) - 1", "-1"),
    ("y ~ (1|g) + x", "x"),
    ("y ~ x + (1|g) + z", "x + z"),
    ("y ~ x+(1|g)+z*A", "x + z*A"),
    ("y ~ x + (1|g) - 1", "x - 1"),
    ("y ~ x + (z + (1|g))", "x + z"),
    ("y ~ ((1|g))", "1"),
    ("y ~ (x + z)^2 + (1|g)", "(x + z)^2"),
    ("y ~ x*z - (x + z)", "x*z - (x + z)"),
    ("y ~ (x + z + A)^2 - z:x + A - A - 1 - 1", "(x + z + A)^2 - z:x + A - A - 1 - 1"),
    ("y ~ x - 0 + k*factor(A) - as.factor( A )", "x - 0 + k*C(A) - C( A )"),
    ("y ~ I(x | z) + (1|g)", "I(x | z)"),
    ("y ~ offset(z)", "1"),
    ("y ~ offset(z) + x + offset(log(k))", "x"),
    ("y ~ I(x^2)", "I(x**2)"),
    ("y ~ poly(x, 2, raw = TRUE)", "poly(x, 2, raw = True)"),
    ("y ~ f(x, a=T, b = F, c=T == x)", "f(x, a=True, b = False, c=True == x)"),
    ("y ~ C(T)", "C(T)"),
    ("y ~ factor(A) + as.factor(g)", "C(A) + C(g)"),
    ("y ~ C(A, 'contr.sum')", "C(A, contr.sum)"),
    ("y ~ C(A, contr.sum())", "C(A, contr.sum())"),
    ("y ~ as.numeric(A)", "as_numeric(A)"),
    ("y ~ Q('n w') + log(Q(\"n w\"))", "`n w` + log(`n w`)"),
    ("y ~ reaction.time", "`reaction.time`"),
    ("y ~ log(reaction.time) + np.log(x)", "log(`reaction.time`) + np.log(x)"),
    ("y ~ I(when.dt.day)", "I(when.dt.day)"),
    ("y ~ I(x.max())", "I(x.max())"),
    ("y ~ f('a.b TRUE x^2')", "f('a.b TRUE x^2')"),
    ("y ~ I(x %/% 2L)", "I(x // 2)"),
    ("y ~ x %in% A", "x %in% A"),
]


@pytest.mark.parametrize(("text", "fixed"), FIXED)
def test_fixed(text, fixed):
    assert formula.parse(text).fixed == fixed


BARS = [
    ("(1 + x | g)", [("1 + x", ("g",), True)]),
    ("(1|g)", [("1", ("g",), True)]),
    ("(x || g)", [("x", ("g",), False)]),
    ("(0 + x | g)", [("0 + x", ("g",), True)]),
    ("(I(x^2) | g)", [("I(x**2)", ("g",), True)]),
    ("(1|a/b)", [("1", ("a",), True), ("1", ("b", "a"), True)]),
    ("(1|a/b/c)", [("1", ("a",), True), ("1", ("b", "a"), True), ("1", ("c", "b", "a"), True)]),
    ("(1|(a/b))", [("1", ("a",), True), ("1", ("b", "a"), True)]),
    ("(1|a:b)", [("1", ("a", "b"), True)]),
    ("(1|a:b/c)", [("1", ("a", "b"), True), ("1", ("c", "a", "b"), True)]),
    ("(1|a*b)", [("1", ("a",), True), ("1", ("b",), True), ("1", ("a", "b"), True)]),
    ("(1|a + b)", [("1", ("a",), True), ("1", ("b",), True)]),
    ("(1|a:(b + c))", [("1", ("a", "b"), True), ("1", ("a", "c"), True)]),
    ("(x||a/b)", [("x", ("a",), False), ("x", ("b", "a"), False)]),
    ("(1|`n w`)", [("1", ("`n w`",), True)]),
    ("(1|my.group)", [("1", ("`my.group`",), True)]),
    ("(1|factor(g)) + (1|C(my.group))", [("1", ("g",), True), ("1", ("`my.group`",), True)]),
    ("(1|np.floor(x))", [("1", ("np.floor(x)",), True)]),
    ("(1|g) + x + (0 + x|g)", [("1", ("g",), True), ("0 + x", ("g",), True)]),
]


STRUCTURED = [
    ("us(1 + x | g)", [("1 + x", ("g",), "us")]),
    ("diag(0 + x | g)", [("0 + x", ("g",), "diag")]),
    ("(x || g)", [("x", ("g",), "diag")]),
    ("cs(1 + x | a/b)", [("1 + x", ("a",), "cs"), ("1 + x", ("b", "a"), "cs")]),
    ("cs(0 + factor(f) | g) + x", [("0 + C(f)", ("g",), "cs")]),
    ("x + (cs( I(x^2)+(f == 'a')|`n w` ))", [("I(x**2)+I(f == 'a')", ("`n w`",), "cs")]),
    ("log(cs) + x:cs(1|g)", None),
]


@pytest.mark.parametrize(("rhs", "expected"), STRUCTURED)
def test_covariance_structures(rhs, expected):
    if expected is None:
        with pytest.raises(FormulaError, match="can only be added"):
            formula.parse("y ~ " + rhs)
        return
    bars = formula.parse("y ~ " + rhs).bars
    assert [(bar.lhs, bar.group, bar.structure) for bar in bars] == expected
    assert all(bar.text in "y ~ " + rhs for bar in bars)


@pytest.mark.parametrize(("rhs", "expected"), BARS)
def test_bars(rhs, expected):
    bars = formula.parse("y ~ " + rhs).bars
    assert [(bar.lhs, bar.group, bar.structure == "us") for bar in bars] == expected


def test_bar_text_and_name():
    first, second = formula.parse("y ~ (1 +  x | my.a/b)").bars
    assert first.text == second.text == "(1 +  x | my.a/b)"
    assert (first.group_name, second.group_name) == ("my.a", "b:my.a")


def test_response_and_offsets():
    parsed = formula.parse("log(my.y)^2 ~ offset(log(n.w)) + x + offset(z^2)")
    assert parsed.response == "log(`my.y`)**2"
    assert parsed.offsets == ("log(`n.w`)", "z**2")


ERRORS = [
    ("", "empty formula", 0),
    ("y", "no `~`", 0),
    ("~ x", "no response", 0),
    ("y ~ ", "nothing follows `~`", 2),
    ("y ~ x ~ z", "one `~`", 6),
    ("y ~ x | g", "write `(… | g)`", 6),
    ("y ~ x || g", "write `(… | g)`", 6),
    ("y ~ x:(1|g)", "can only be added", 6),
    ("y ~ x*(1|g)", "can only be added", 6),
    ("y ~ x - (1|g)", "cannot be taken away", 8),
    ("y ~ (1|g):x", "can only be added", 4),
    ("y ~ z:(x + (1|g))", "can only be added", 11),
    ("y ~ [1|g]", "can only be added", 4),
    ("y ~ (1|g|h)", "two bars", 8),
    ("y ~ ((1|g)|h)", "two bars", 10),
    ("y ~ (|g)", "before the bar", 5),
    ("y ~ (1|)", "no grouping factor", 6),
    ("y ~ (1|g^2)", "cannot stand in a grouping factor", 8),
    ("y ~ (1|g - h)", "cannot stand in a grouping factor", 9),
    ("y ~ (1|1)", "cannot stand in a grouping factor", 7),
    ("y ~ (1|g/)", "nothing follows `/`", 8),
    ("y ~ (1|/g)", "nothing stands before `/`", 7),
    ("y ~ x +", "nothing follows `+`", 6),
    ("y ~ (x + (1|g)", "never closed", 4),
    ("y ~ x + (1|g))", "closes nothing", 13),
    ("y ~ log(x", "never closed", 7),
    ("y ~ (x]", "closes nothing", 6),
    ("y ~ 'x", "never closed", 4),
    ("y ~ ``", "backticks", 4),
    ("y ~ .", "name the columns", 4),
    ("y ~ x:offset(z)", "offset()", 6),
    ("y ~ x - offset(z)", "offset()", 8),
    ("y ~ x - mean(x)", "write `I(x - mean(x))`", 8),
    ("y ~ x - x.rank() + (1|g)", "write `I(x - x.rank())`", 8),
    ("y ~ z + A*x - k", "write `I(x - k)`", 14),
    ("y ~ x - z*x", "write `I(x - z)`", 8),
    ("y ~ z:(x - k)", "write `I(x - k)`", 11),
    ("y ~ -x", "write `I(- x)`", 5),
    ("y ~ x - `n w` + (1|g)", "`- `n w`` takes away", 8),
    ("y ~ x + A - x:A", "there are `x`, `A`", 12),
    ("y ~ x - factor(A)", "there are `x`", 4),
    ("y ~ 1 + (x - z|g)", "write `I(x - z)`", 4),
    ("(1|g) ~ x", "stand after `~`", 2),
    ("y ~ log(x z)", "cannot be read", None),
    ("log(y z) ~ x", "cannot be read", None),
    ("y ~ x z", "Missing operator", 4),
    ("y ~ x + * z", "incorrectly used", 6),
]


@pytest.mark.parametrize(("text", "fragment", "position"), ERRORS)
def test_parse_error(text, fragment, position):
    with pytest.raises(FormulaError) as caught:
        formula.parse(text)
    assert fragment in caught.value.message
    assert caught.value.position == position


def test_error_shows_a_caret():
    with pytest.raises(FormulaError) as caught:
        formula.parse("y ~\nx | g")
    assert str(caught.value).splitlines()[1:] == ["    y ~ x | g", "          ^"]
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("text", "rhs"), [("~ x", "x"), ("x^2", "x^2"), ("~0+I(x^2)", "0+I(x**2)")]
)
def test_parse_rhs(text, rhs):
    assert formula.parse_rhs(text) == rhs


@pytest.mark.parametrize(
    ("text", "fragment", "position"),
    [
        ("y ~ x", "no response", 2),
        ("~ x | g", "no random-effects term", 4),
        ("(1 | g)", "no random-effects term", 3),
        ("~", "nothing follows", 0),
        ("~ x + offset(z)", "offset()", 6),
    ],
)
def test_parse_rhs_error(text, fragment, position):
    with pytest.raises(
        FormulaError, match=fragment.replace("(", r"\(").replace(")", r"\)")
    ) as caught:
        formula.parse_rhs(text)
    assert caught.value.position == position


@pytest.mark.parametrize(
    ("expr", "names"),
    [
        ("y", ("y",)),
        ("log(y)/z", ("y", "z")),
        ("x + C(A, contr.sum):log(`n w`) + np.sqrt(z)", ("x", "A", "n w", "z")),
        ("C(A, Treatment(reference='b')) + C(g, Sum)", ("A", "g")),
        ("scale + log(scale) + Sum", ("scale", "Sum")),
        ("I(when.dt.day) + bs(x, df=4) + x + {z + 1}", ("when", "x", "z")),
        ("I(`b c` + `b`) + 1", ("b c", "b")),
        ("0", ()),
    ],
)
def test_variables(expr, names):
    assert variables(expr) == names


# ------------------------------------------------------------------------------ columns

CENTRED = X - X.mean()
SCALED = CENTRED / np.sqrt((CENTRED**2).sum() / 5)

COLUMNS = [
    ("x", ["Intercept", "x"], [ONE, X]),
    ("0 + x", ["x"], [X]),
    ("x - 1", ["x"], [X]),
    ("k", ["Intercept", "k"], [ONE, np.arange(6)]),
    ("A", ["Intercept", "A[T.b]", "A[T.c]"], [ONE, is_("b"), is_("c")]),
    ("0 + A", ["A[a]", "A[b]", "A[c]"], [is_("a"), is_("b"), is_("c")]),
    ("g", ["Intercept", "g[T.u]"], [ONE, is_("u", G)]),
    ("0 + C(g)", ["C(g)[v]", "C(g)[u]"], [is_("v", G), is_("u", G)]),
    ("b", ["Intercept", "b[T.True]"], [ONE, B]),
    ("0 + b", ["b[False]", "b[True]"], [~B, B]),
    ("I(x > 2)", ["Intercept", "I(x > 2)[T.True]"], [ONE, X > 2]),
    ("I(b + 1)", ["Intercept", "I(b + 1)"], [ONE, B + 1.0]),
    ("x:b + x", ["Intercept", "x", "x:b[T.True]"], [ONE, X, X * B]),
    ("x*z", ["Intercept", "x", "z", "x:z"], [ONE, X, Z, X * Z]),
    ("(x + z)^2 - x:z", ["Intercept", "x", "z"], [ONE, X, Z]),
    ("A:x + 0", ["A[a]:x", "A[b]:x", "A[c]:x"], [is_("a") * X, is_("b") * X, is_("c") * X]),
    ("I(x^2)", ["Intercept", "I(x ** 2)"], [ONE, X**2]),
    ("log(x) + exp(z)", ["Intercept", "log(x)", "exp(z)"], [ONE, np.log(X), np.exp(Z)]),
    ("log(x, 2) + 0", ["log(x, 2)"], [np.log2(X)]),
    ("sqrt(x) + abs(z) + 0", ["sqrt(x)", "abs(z)"], [np.sqrt(X), np.abs(Z)]),
    ("log1p(x) + log10(x) + 0", ["log1p(x)", "log10(x)"], [np.log(1 + X), np.log10(X)]),
    ("np.sin(x) + 0", ["np.sin(x)"], [np.sin(X)]),
    ("scale(x) + 0", ["scale(x)"], [SCALED]),
    ("log(scale) + 0", ["log(scale)"], [np.log(X + 1)]),
    ("center(x) + 0", ["center(x)"], [CENTRED]),
    ("scale(x, scale = FALSE) + 0", ["scale(x, scale=False)"], [CENTRED]),
    ("reaction.time", ["Intercept", "reaction.time"], [ONE, X + 10]),
    ("log(reaction.time) + 0", ["log(`reaction.time`)"], [np.log(X + 10)]),
    ("`n w` + 0", ["n w"], [X + 20]),
    ("Q('n w') + 0", ["n w"], [X + 20]),
    ("as.numeric(b) + 0", ["as_numeric(b)"], [B]),
    ("as.numeric(g) + 0", ["as_numeric(g)"], [np.where(G == "u", 3.0, 2.0)]),
    ("I(when.dt.day) + 0", ["I(when.dt.day)"], [np.arange(1, 7)]),
]


@pytest.mark.parametrize(("rhs", "names", "expected"), COLUMNS)
def test_columns(rhs, names, expected, data):
    matrix = columns(rhs, data)
    assert list(matrix.names) == names
    assert matrix.values.dtype == np.float64
    assert matrix.values.flags.c_contiguous
    np.testing.assert_allclose(matrix.values, np.stack(expected, axis=1) * 1.0, rtol=TIGHT)


# Rows of the contrast matrix for the levels a, b, c.
SUM = np.array([[1, 0], [0, 1], [-1, -1]])
HELMERT = np.array([[-1, -1], [1, -1], [0, 2]])
POLY = np.array([[-1, 1], [0, -2], [1, 1]]) / np.sqrt([2, 6])
BASE_B = np.array([[1, 0], [0, 0], [0, 1]])


@pytest.mark.parametrize(
    ("rhs", "contrast"),
    [
        ("C(A, contr.sum)", SUM),
        ("C(A, contr.sum())", SUM),
        ('C(A, "contr.sum")', SUM),
        ("C(A, Sum)", SUM),
        ("C(A, contr.helmert)", HELMERT),
        ("C(A, Helmert)", HELMERT),
        ("C(A, contr.poly)", POLY),
        ("C(A, Poly)", POLY),
        ("C(A, contr.treatment('b'))", BASE_B),
        ("C(A, contr.treatment(base = 'b'))", BASE_B),
        ("C(A, Treatment(reference='b'))", BASE_B),
        ('C(A, Treatment("b"))', BASE_B),
    ],
)
def test_contrasts(rhs, contrast, data):
    rows = contrast[np.searchsorted(["a", "b", "c"], A)]
    np.testing.assert_allclose(columns(rhs, data).values[:, 1:], rows, atol=TIGHT)


def test_poly(data):
    # Gram-Schmidt on 1, x, x^2, which is what orthogonal polynomials are.
    q, _ = np.linalg.qr(np.vander(X, 3, increasing=True))
    q *= np.sign((q * np.vander(X, 3, increasing=True)).sum(axis=0))
    np.testing.assert_allclose(columns("poly(x, 2) + 0", data).values, q[:, 1:], atol=TIGHT)
    raw = columns("poly(x, 2, raw = TRUE) + 0", data).values
    np.testing.assert_allclose(raw, np.stack([X, X**2], axis=1), rtol=TIGHT)


def test_bs(data):
    # Without inner knots B-splines are Bernstein polynomials on the range of x.
    t = (X - 1) / 6
    bernstein = np.stack([3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)
    matrix = columns("bs(x, df=3, degree=3) + 0", data)
    np.testing.assert_allclose(matrix.values, bernstein, atol=TIGHT)


@pytest.mark.parametrize("rhs", ["0", "-1", "1 - 1"])
def test_zero_columns(rhs, data):
    matrix = columns(rhs, data)
    assert (matrix.values.shape, matrix.names) == ((6, 0), ())
    assert matrices.replay(matrix.spec, data.iloc[:2], context=None).shape == (2, 0)


def test_nullable_and_string_types(data):
    data["k"] = data["k"].astype("Int64")
    data["b"] = data["b"].astype("boolean")
    data["A"] = data["A"].astype("string")
    expected = np.stack([ONE, np.arange(6), B, is_("b"), is_("c")], axis=1)
    np.testing.assert_array_equal(columns("k + b + A", data).values, expected)


def test_index_does_not_matter(data):
    plain = columns("x*A + C(g) + scale(z)", data).values
    data.index = [3, 3, 0, 7, 1, 1]
    np.testing.assert_array_equal(columns("x*A + C(g) + scale(z)", data).values, plain)


def test_context(data):
    matrix = columns("double(x - shift) + 0", data, {"double": lambda v: 2 * v, "shift": 1.0})
    np.testing.assert_array_equal(matrix.values[:, 0], 2 * (X - 1))
    pickle.dumps(matrix.spec)  # nothing of the context is in it


def test_data_are_not_changed(data):
    before = data.copy(deep=True)
    columns("log(x) + scale(z) + g + as.numeric(g)", data)
    pd.testing.assert_frame_equal(data, before)


def test_one_level_is_named(data):
    with pytest.warns(RankWarning, match="`one` has one level only, 'only'"):
        matrix = columns("x + one", data)
    assert matrix.names == ("Intercept", "x")


BUILD_ERRORS = [
    ("nope", FormulaError, "no column `nope`"),
    ("Reaction.time", FormulaError, "did you mean `reaction.time`"),
    ("log(X)", FormulaError, "did you mean `x`"),
    ("nofun(x)", FormulaError, "no function `nofun`"),
    ("sqr(x)", FormulaError, "did you mean `sqrt`"),
    ("rcs(x, 3)", FormulaError, "`ns(x, df)`"),
    ("log(z)", DataError, "`log(z)` is NaN or infinite in 1 of 6 rows (first in row 1"),
    ("exp(1000*x)", DataError, "`exp(1000 * x)` is NaN or infinite in 6"),
    ("when", DataError, "`when` has the type datetime64"),
    ("C(A, Treatment('q'))", DataError, "'q'"),
    ("as.numeric(A)", DataError, "as_numeric(A)"),
    ("I(x - missing)", FormulaError, "no column `missing`"),
]


@pytest.mark.parametrize(("rhs", "error", "fragment"), BUILD_ERRORS)
def test_build_error(rhs, error, fragment, data):
    with pytest.raises(error) as caught:
        columns(rhs, data)
    assert fragment in str(caught.value)


def test_missing_values_are_errors(data):
    data.loc[2, "x"] = np.nan
    with pytest.raises(DataError, match=r"`x` is NaN or infinite in 1 of 6 rows \(first in row 2"):
        columns("x", data)
    data.loc[2, "A"] = None
    with pytest.raises(DataError, match="`A` has missing values"):
        columns("A", data)


def test_unknown_column_shows_the_place(data):
    with pytest.raises(FormulaError) as caught:
        matrices.build("x + log(nope)", data, context=None)
    assert caught.value.position == 8


def test_duplicate_column_names(data):
    with pytest.raises(DataError, match="several columns named `x`"):
        columns("x", pd.concat([data, data[["x"]]], axis=1))


# ------------------------------------------------------------------------------ new data

NEW_X = np.array([2.5, 6.0, 1.5])
ROWS = [0, 4, 2]
NEW_A = A[ROWS]


@pytest.fixture
def new():
    return pd.DataFrame({"x": NEW_X, "A": NEW_A, "b": [True, True, True], "g": ["u", "v", "u"]})


T_NEW = (NEW_X - 1) / 6
REPLAYS = [
    ("x", [NEW_X]),
    ("A", [is_("b", NEW_A), is_("c", NEW_A)]),
    ("C(A, contr.sum)", list(SUM[[0, 1, 2]].T)),
    ("b", [np.ones(3)]),
    ("g", [[1.0, 0.0, 1.0]]),
    ("scale(x)", [(NEW_X - X.mean()) / X.std(ddof=1)]),
    ("center(x)", [NEW_X - X.mean()]),
    ("scale(log(x))", [(np.log(NEW_X) - np.log(X).mean()) / np.log(X).std(ddof=1)]),
    ("bs(x, df=3)", [3 * T_NEW * (1 - T_NEW) ** 2, 3 * T_NEW**2 * (1 - T_NEW), T_NEW**3]),
    ("x:A + A", [is_("b", NEW_A), is_("c", NEW_A)] + [NEW_X * is_(a, NEW_A) for a in "abc"]),
]


@pytest.mark.parametrize(("rhs", "expected"), REPLAYS)
def test_replay(rhs, expected, data, new):
    spec = pickle.loads(pickle.dumps(columns(rhs, data).spec))
    got = matrices.replay(spec, new, context=None)
    np.testing.assert_allclose(got, np.stack([np.ones(3), *expected], axis=1), atol=TIGHT)
    assert got.flags.c_contiguous


def test_replay_poly(data, new):
    spec = columns("poly(x, 2) + 0", data).spec
    # The second polynomial is a + b x + c x^2 with the coefficients of the first data.
    coef = np.linalg.solve(np.vander(X[:3], 3), columns("poly(x, 2) + 0", data).values[:3])
    got = matrices.replay(spec, new, context=None)
    np.testing.assert_allclose(got, np.vander(NEW_X, 3) @ coef, atol=TIGHT)


def test_replay_codes_of_a_categorical(data, new):
    spec = columns("as.numeric(g) + 0", data).spec
    new["g"] = pd.Categorical(new["g"])  # sorted: u, v
    np.testing.assert_array_equal(matrices.replay(spec, new, context=None)[:, 0], [3, 2, 3])


@pytest.mark.parametrize(
    ("rhs", "column", "values", "fragment"),
    [
        ("A", "A", ["a", "b", "zz"], "`A` has the level 'zz'"),
        ("C(A, Sum)", "A", ["a", "b", "zz"], "has the level 'zz'"),
        ("x:g", "g", ["u", "w", "u"], "`g` has the level 'w'"),
        ("A", "A", ["a", None, "b"], "missing values"),
        ("x", "x", [1.0, np.nan, 2.0], "`x` is NaN"),
        ("bs(x, df=4)", "x", [1.0, 2.0, 99.0], "above 7, where its polynomials end"),
        ("x", "x", ["a", "b", "c"], "`x`"),
        ("A", "A", [1.0, 2.0, 3.0], "`A`"),
    ],
)
def test_replay_error(rhs, column, values, fragment, data, new):
    spec = columns(rhs, data).spec
    new[column] = values
    with pytest.raises(DataError) as caught:
        matrices.replay(spec, new, context=None)
    assert fragment in str(caught.value)


def test_replay_missing_column(data, new):
    with pytest.raises(DataError, match="no column `x`"):
        matrices.replay(columns("log(x) + A", data).spec, new.drop(columns="x"), context=None)


def test_replay_leaves_the_spec_alone(data, new):
    matrix = columns("scale(x) + A", data)
    matrices.replay(matrix.spec, new, context=None)
    again = matrices.replay(matrix.spec, data, context=None)
    np.testing.assert_array_equal(again, matrix.values)


# ------------------------------------------------------------------------------ one column

EVALUATED = [
    ("x", X),
    ("log(x)", np.log(X)),
    ("x + z", X + Z),
    ("(x - z)^2/2", (X - Z) ** 2 / 2),
    ("b", B * 1.0),
    ("k", np.arange(6.0)),
    ("reaction.time - 10", X),
    ("scale(x)", SCALED),
    ("`n w`", X + 20),
]


@pytest.mark.parametrize(("expr", "expected"), EVALUATED)
def test_evaluate(expr, expected, data):
    got = matrices.evaluate(formula.parse(expr + " ~ 1").response, data, context=None)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, rtol=TIGHT)


@pytest.mark.parametrize(
    ("expr", "error", "fragment"),
    [
        ("A", DataError, "numbers are needed"),
        ("g", DataError, "numbers are needed"),
        ("when", DataError, "numbers are needed"),
        ("poly(x, 2)", DataError, "one column of 6 rows"),
        ("1.5", DataError, "gives one value, 1.5"),
        ("log(z)", DataError, "`log(z)` is NaN"),
        ("yy", FormulaError, "did you mean `y`"),
        ("cbind(x, z)", FormulaError, "no function `cbind`"),
        ("Surv(x, z)", FormulaError, "no function `Surv`; times to an event"),
    ],
)
def test_evaluate_error(expr, error, fragment, data):
    with pytest.raises(error) as caught:
        matrices.evaluate(expr, data, context=None)
    assert fragment in str(caught.value)


def test_labels(data):
    assert list(matrices.labels("g", data, context=None)) == list(G)
    assert list(matrices.labels("A", data, context=None)) == list(A)
    assert list(matrices.labels("np.floor(x/2)", data, context=None)) == [0, 1, 1, 2, 2, 3]


def test_a_million_rows_are_fast():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(1_000_000, 4)), columns=list("pqrs"))

    def built():
        return matrices.build("p + q + r + s", frame, context=None).values

    def stacked():
        return np.column_stack([np.ones(1_000_000), *(frame[name] for name in frame)])

    np.testing.assert_array_equal(built(), stacked())
    assert timings.ratio(built, stacked) < 10  # 1.7


def test_names_that_a_formula_hides_are_unknown_columns():
    data = pd.DataFrame({"g": [1, 1, 2, 2, 3, 3], "y": [1.0, 2, 4, 3, 7, 5]})
    for name in ("__quoted_0__", "__quoted_3__", "__number__"):
        with pytest.raises((lmm.FormulaError, lmm.DataError), match=name):
            lmm.design(f"y ~ I({name} + 1) + (1 | g)", data)


def test_a_named_offset_may_need_quotes():
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"g": np.repeat(np.arange(6), 5), "my off": rng.normal(size=30)})
    data["y"] = data["my off"] + rng.normal(size=30) + rng.normal(size=6)[data["g"]]
    res = lmm.fit("y ~ 1 + (1 | g)", data, offset="my off")
    got = res.predict(data[:3])
    assert np.allclose(got, res.fe_params.iloc[0] + data["my off"][:3])


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("y ~ bs(x, 2) + (1 | g)", "df=2 is less than a polynomial has, df=3"),
        ("y ~ bs(x, 3, intercept=True) + (1 | g)", "df=3 is less than a polynomial has, df=4"),
        ("y ~ x + (1 | g) + diag(F)", "F is R's for False, and no column"),
    ],
)
def test_messages_say_what_is_meant(formula, message):
    with pytest.raises(lmm.DataError, match=message):
        lmm.design(formula, samples.frame())


def test_an_error_is_shown_in_the_formula_as_it_was_typed():
    with pytest.raises(FormulaError) as caught:
        lmm.design("y ~ x + (1 id)", samples.frame())
    assert caught.value.formula == "y ~ x + (1 id)" and caught.value.position == 9
