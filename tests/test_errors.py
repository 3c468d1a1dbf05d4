"""Bad and odd input: an error that says what to do, or the right fit.

Tables, a line each: name, call, exception, fragment of the message.
"""
# ruff: noqa: E501

import pickle
import re
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import samples
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax import DataError, FormulaError, RankWarning

RTOL = 1e-9  # the same rows in another container
TOL = 1e-6  # an equivalent model, iterated to its optimum

DATA = samples.frame().assign(h=lambda d: np.where(d["v"] > 0, "hi", "lo"))
N = len(DATA)
FORMULA = "y ~ x + (1 | g)"
X = np.column_stack([np.ones(N), DATA["x"]])
FIRST = np.arange(N) == 0  # the first row
CODE = np.repeat(np.arange(10), 6)


def fit(formula: Any = FORMULA, data: Any = DATA, **options: Any) -> lmm.LMMResults:
    return lmm.fit(formula, data, **options)


def at(column: str, value: Any) -> pd.DataFrame:
    """The data with one value changed."""
    data = DATA.astype({column: object}) if isinstance(value, str) else DATA.copy()
    data.loc[5, column] = value
    return data


def having(**columns: Any) -> pd.DataFrame:
    return DATA.assign(**columns)


def named(**names: str) -> pd.DataFrame:
    """Columns renamed: new name by old one."""
    return DATA.rename(columns=names)


def arrays(**changed: Any) -> lmm.LMMResults:
    given = {"endog": DATA["y"].to_numpy(), "exog": X, "groups": DATA["g"].to_numpy()} | changed
    return lmm.fit(lmm.design_from_arrays(**given))


def spoiled(values: Any, value: float) -> Any:
    out = np.array(values, float)
    out.flat[5] = value
    return out


@cache
def fitted(formula: str = FORMULA, **options: Any) -> lmm.LMMResults:
    return lmm.fit(formula, DATA, **options)


@cache
def fitted_to_arrays() -> lmm.LMMResults:
    """Groups and offset given as arrays."""
    return lmm.fit("y ~ x", DATA, groups=DATA["g"].to_numpy(), offset=DATA["o"].to_numpy())


def predict(new: Any = DATA[:4], result: Callable[[], Any] = fitted, **options: Any) -> Any:
    return result().predict(new, **options)


Row = tuple[str, Callable[[], Any], type[Exception], str]
NAN, INF = np.nan, np.inf

# fmt: off
FORMULAS: list[Row] = [
    ("empty", lambda: fit(""), FormulaError, "empty formula"),
    ("no tilde", lambda: fit("x"), FormulaError, "no `~`"),
    ("no random effects", lambda: fit("y ~ x"), FormulaError, r"add a term such as \(1 \| g\).*OLS"),
    ("re_formula alone", lambda: fit("y ~ x", re_formula="~ z"), FormulaError, "pass groups="),
    ("re_formula no string", lambda: fit("y ~ x", groups="g", re_formula=["1"]), FormulaError, "re_formula is a list"),
    ("vc_formula no string", lambda: fit("y ~ x", groups="g", vc_formula={"a": 1}), FormulaError, r"vc_formula\['a'\] is a int"),
    ("re_formula of nothing", lambda: fit("y ~ x", groups="g", re_formula="0"), FormulaError, "leave no random"),
    ("bars and groups", lambda: fit(groups="g"), FormulaError, "one of the two spellings"),
    ("bars and re_formula", lambda: fit(re_formula="~ x"), FormulaError, "one of the two spellings"),
    ("bars and vc_formula", lambda: fit(vc_formula={"f": "0 + f"}), FormulaError, "one of the two spellings"),
    ("arithmetic without I()", lambda: fit("y ~ x - x.mean() + (1 | g)"), FormulaError, r"write `I\(x - x.mean\(\)\)`"),
    ("arithmetic in a term", lambda: fit("y ~ x + (x - z | g)"), FormulaError, r"write `I\(x - z\)`"),
    ("arithmetic of batches", lambda: lmm.design_from_batches("y ~ x - z + (1 | g)", [DATA]), FormulaError, r"write `I\(x - z\)`"),
    ("arithmetic of a schema", lambda: lmm.schema("y ~ x - z + (1 | g)", DATA), FormulaError, r"write `I\(x - z\)`"),
    ("arithmetic of mmrm", lambda: lmm.mmrm("y ~ x - z + us(f | g)", DATA), FormulaError, r"write `I\(x - z\)`"),
    ("unknown column", lambda: fit("y ~ xx + (1 | g)"), FormulaError, "no column `xx`; did you mean `x`"),
    ("unknown case", lambda: fit("y ~ X + (1 | g)"), FormulaError, "no column `X`; did you mean `x`"),
    ("unknown response", lambda: fit("why ~ x + (1 | g)"), FormulaError, "no column `why`"),
    ("unknown group", lambda: fit("y ~ x + (1 | G)"), FormulaError, "did you mean `g`"),
    ("unknown groups=", lambda: fit("y ~ x", groups="G"), FormulaError, "did you mean `g`"),
    ("unknown weights=", lambda: fit(weights="ww"), FormulaError, "did you mean `w`"),
    ("unknown in re_formula", lambda: fit("y ~ x", groups="g", re_formula="~ zz"), FormulaError, "did you mean `z`"),
    ("unknown in vc_formula", lambda: fit("y ~ x", groups="g", vc_formula={"a": "0 + ff"}), FormulaError, "did you mean `f`"),
    ("unknown function", lambda: fit("y ~ foo(x) + (1 | g)"), FormulaError, "no function `foo`"),
    ("arguments in the text", lambda: fit("y ~ x + (1 | g), REML=FALSE"), FormulaError, "ends before the comma: reml=False"),
    ("an argument after no bar", lambda: fit("y ~ x, data=d", groups="g"), FormulaError, "ends before the comma"),
    ("an operator as a name", lambda: fit("y ~ I(x not z) + (1 | g)", DATA), FormulaError, "cannot be read"),
    ("no columns", lambda: fit(data=pd.DataFrame(index=range(5))), FormulaError, "no column `y`"),
]

NUMBERS: list[Row] = [
    *((f"{value} in {column}, {m}", lambda c=column, v=value, m=m: fit("y ~ x + (z | g)", at(c, v), weights="w", offset="o", missing=m), DataError, column)
      for column in ("y", "x", "z", "w", "o") for value, m in ((NAN, "raise"), (NAN, "none"), (INF, "drop"), (-INF, "drop"))),
    *((f"{value} in array {role}", lambda r=role, v=given: arrays(**{r: v}), DataError, what)
      for value in (NAN, INF)
      for role, given, what in (
          ("endog", spoiled(DATA["y"], value), "y|endog"), ("exog", spoiled(X, value), "x1|fixed-effects design"),
          ("exog_re", spoiled(X, value), "z1|random-effects design"), ("exog_vc", {"a": spoiled(X, value)}, "design of .a."),
          ("weights", spoiled(DATA["w"], value), "weights"), ("offset", spoiled(DATA["o"], value), "offset"))),
    ("log of a negative", lambda: fit("log(y) ~ x + (1 | g)"), DataError, "`log.y.` is NaN or infinite in"),
    ("log of zero", lambda: fit("y ~ log(x) + (1 | g)", having(x=1.0 * np.arange(N))), DataError, "NaN or infinite in 1 of 60"),
    ("ids beside a gap", lambda: fit("y ~ x + (1 | id)", having(id=2.0**53 + np.arange(N) // 6)), DataError, "'id' has labels above 2.53 as floats"),
    ("ids as a fixed factor", lambda: fit("y ~ C(id) + (1 | g)", having(id=2.0**53 + np.arange(N) // 6)), DataError, "'id' has labels above 2.53 as floats"),
    ("ids as components", lambda: fit("y ~ x", groups="g", vc_formula={"a": "0 + C(id)"}, data=having(id=2.0**53 + np.arange(N) // 6)), DataError, "'id' has labels above 2.53 as floats"),
    ("ids of a categorical", lambda: fit("y ~ x + (1 | id)", having(id=pd.Categorical(2.0**53 + np.arange(N) // 6))), DataError, "'id' has labels above 2.53 as floats"),
    *((f"an expression as {role}", lambda r=role: fit("y ~ x" + " + (1 | g)" * (r != "groups"), samples.to_polars(DATA), **{r: pl.col("x") > 0}), DataError, f"{role} is an expression of polars")
      for role in ("subset", "weights", "offset", "groups")),
    ("log of zero in sums", lambda: lmm.summarize("y ~ log(x) + (1 | g)", having(x=1.0 * np.arange(N))), DataError, "NaN or infinite in 1 of 60"),
    ("weight zero", lambda: fit(data=at("w", 0), weights="w"), DataError, "must be positive; row 5"),
    ("weight negative", lambda: fit(weights=-DATA["w"]), DataError, "must be positive; row 0"),
    ("y of words", lambda: fit(data=having(y=DATA["f"])), DataError, "`y` is text, 'a' for example"),
    ("y of digits", lambda: fit(data=having(y=DATA["y"].astype(str))), DataError, "`y` is text, .*to_numeric"),
    ("y of tuples", lambda: fit(data=having(y=[(1, 2)] * N)), DataError, "`y` holds values of the type tuple, several"),
    ("y of huge Python integers", lambda: fit(data=having(y=[10**30 + i for i in range(N)])), DataError, "above 2.53, which float64 rounds"),
    ("y with a word", lambda: fit(data=at("y", "oops")), DataError, "`y` holds values of the types float, str"),
    ("y of dates", lambda: fit(data=having(y=pd.date_range("2026", periods=N))), DataError, "`y` has the type datetime64"),
    ("y of durations", lambda: fit(data=having(y=pd.to_timedelta(np.arange(N), unit="s"))), DataError, "type timedelta64"),
    ("y of categories", lambda: fit(data=having(y=pd.Categorical(CODE))), DataError, "`y` has the type category"),
    ("y complex", lambda: fit(data=having(y=DATA["y"] + 1j)), DataError, "type complex128"),
    ("x complex", lambda: fit(data=having(x=DATA["x"] + 1j)), DataError, "type complex128"),
    ("z complex", lambda: fit("y ~ x + (z | g)", having(z=DATA["z"] + 1j)), DataError, "type complex128"),
    ("x of dates", lambda: fit(data=having(x=pd.date_range("2026", periods=N))), DataError, "numbers or labels"),
    ("weights of words", lambda: fit(weights="f"), DataError, "`f` is text"),
    ("weights array of words", lambda: fit(weights=DATA["f"].to_numpy()), DataError, "weights must be numeric"),
    ("endog of words", lambda: arrays(endog=DATA["f"].to_numpy()), DataError, "endog must be numeric"),
]

SHAPES: list[Row] = [
    ("no rows", lambda: fit(data=DATA[:0]), DataError, "no rows"),
    ("no row of a subset", lambda: fit(subset="x > 1e9"), DataError, "subset leaves none of the 60 rows"),
    ("no row of a mask", lambda: fit(subset=np.zeros(N, bool)), DataError, "subset leaves none of the 60 rows"),
    ("columns of two levels", lambda: fit(data=pd.concat({"a": DATA}, axis=1)), DataError, "several levels: flatten"),
    ("no rows in arrays", lambda: arrays(endog=[], exog=np.zeros((0, 1)), groups=[]), DataError, "no rows"),
    ("every row missing", lambda: fit(data=having(y=NAN)), DataError, "every row misses one of 'y'"),
    ("every row missing something", lambda: fit(data=having(y=DATA["y"][:30], x=DATA["x"][30:])), DataError, "'y', 'x'"),
    ("short groups", lambda: fit("y ~ x", groups=CODE[1:]), DataError, "groups has 59 entries but y has 60"),
    ("short weights", lambda: fit(weights=np.ones(3)), DataError, "weights has 3 entries"),
    ("short offset", lambda: fit(offset=np.ones(3)), DataError, "offset has 3 entries"),
    ("scalar weights", lambda: fit(weights=2.0), DataError, "one dimension"),
    ("groups of two columns", lambda: fit("y ~ x", groups=X), DataError, "one dimension"),
    ("weights in another order", lambda: fit(weights=DATA["w"][::-1]), DataError, "another index"),
    ("groups on another index", lambda: fit("y ~ x", groups=DATA["g"].set_axis(np.arange(N) + 1)), DataError, r"groups.to_numpy\(\)"),
    ("short exog", lambda: arrays(exog=X[1:]), DataError, r"exog has the shape \(59, 2\) but endog has 60"),
    ("short exog_vc", lambda: arrays(exog_vc={"a": X[1:]}), DataError, "exog_vc|component"),
    ("exog of three dimensions", lambda: arrays(exog=X[None]), DataError, "exog has the shape"),
    ("short exog_re", lambda: arrays(exog_re=X[1:]), DataError, "exog_re has the shape"),
    *((f"data is {type(data).__name__}", lambda d=data: fit(data=d), DataError, f"data is a {type(data).__name__}: pass")
      for data in (None, X, DATA["y"], DATA.to_dict("records"), DATA[["y", "x"]].to_records())),
]

MODELS: list[Row] = [
    ("one group", lambda: fit(data=having(g="a")), DataError, "'g' has one level only"),
    ("more coefficients than rows", lambda: fit("y ~ x + z + w + (1 | g)", DATA[4:8]), DataError, "4 rows cannot determine 4 fixed effects"),
    ("a level for every row", lambda: fit("y ~ x + (1 | r)", having(r=np.arange(N))), DataError, "60 levels for 60 rows"),
    ("a component for every row", lambda: fit("y ~ x", having(r=np.arange(N)), groups="g", vc_formula={"r": "0 + C(r)"}), DataError, "60 levels for 60 rows"),
    ("too many random coefficients", lambda: fit("y ~ x + (f | g)"), DataError, "60 random coefficients for 60 rows"),
    ("missing label", lambda: fit(data=at("g", None), missing="raise"), DataError, "missing values in 'g'"),
    ("missing label, none", lambda: fit(data=at("g", None), missing="none"), DataError, "missing values in 'g'"),
    ("missing label in arrays", lambda: arrays(groups=np.where(FIRST, None, DATA["g"])), DataError, "'groups'"),
    ("constant y", lambda: fit(data=having(y=3.3)), DataError, "'y' is constant"),
    ("y is the offset", lambda: fit(offset="y"), DataError, "constant"),
    ("variances beyond floats", lambda: fit(data=having(y=1e156 * DATA["y"])), DataError, "leave the range of floats"),
    ("variances of no size", lambda: fit(data=having(y=1e-170 * DATA["y"])), DataError, "leave the range of floats"),
    ("x of no size in sums", lambda: fit(lmm.summarize(FORMULA, having(x=1e-290 * DATA["x"])), None), DataError, "`x` reaches"),
    ("x of no size", lambda: fit(data=having(x=1e-290 * DATA["x"])), DataError, "`x` reaches .*another unit"),
    ("x beyond floats", lambda: fit(data=having(x=1e160 * DATA["x"])), DataError, "`x` reaches .*another unit"),
    ("z of no size", lambda: fit("y ~ x + (0 + z | g)", having(z=1e-160 * DATA["z"])), DataError, "`z` reaches .*another unit"),
    ("z beyond floats in late rows", lambda: arrays(exog_re=np.where(np.arange(N) < 50, 1.0, 1e200)[:, None]), DataError, "reaches 1e\\+200"),
    ("y explained by x", lambda: fit(data=having(y=2 * DATA["x"] + 1)), DataError, "explain 'y' exactly"),
    ("y among the regressors", lambda: fit("y ~ x + y + (1 | g)"), DataError, "explain 'y' exactly"),
    ("y as the group", lambda: fit("y ~ x + (1 | y)"), DataError, "60 levels for 60 rows"),
    ("df_method", lambda: fit(df_method="exact"), DataError, "df_method='exact': choose from satterthwaite"),
    ("missing", lambda: fit(missing="omit"), DataError, "missing='omit': choose from drop"),
    ("missing in arrays", lambda: arrays(missing="omit"), DataError, "missing='omit'"),
    ("a design and data", lambda: lmm.fit(fitted().design, DATA), DataError, "a Design holds the data"),
    ("a design and weights", lambda: lmm.fit(fitted().design, weights=np.ones(N)), DataError, "a Design holds the data"),
]

UNSEEN = having(g="new")[:4]
PREDICTIONS: list[Row] = [
    ("new level", lambda: predict(UNSEEN, conditional=True), DataError, "'g' has the new level 'new': pass new_levels="),
    ("new_levels", lambda: predict(new_levels="zero"), DataError, "new_levels='zero': choose"),
    ("no column", lambda: predict(DATA[["g"]]), DataError, "no column `x`"),
    ("no group column", lambda: predict(DATA[["x"]], conditional=True), ValueError, "no column `g`"),
    ("infinite x", lambda: predict(at("x", INF)), DataError, "`x` is NaN or infinite"),
    ("unseen fixed level", lambda: predict(having(h="q"), lambda: fitted("y ~ h + (1 | g)")), DataError, "level 'q', which the model was not fitted to; it knows 'hi', 'lo'"),
    ("words for numbers", lambda: predict({"x": ["a", "b"]}, lambda: fit()), DataError, "x"),
    ("groups not given", lambda: predict(result=fitted_to_arrays, offset=np.ones(4), conditional=True), DataError, "pass groups="),
    ("groups too short", lambda: predict(result=fitted_to_arrays, offset=np.ones(4), conditional=True, groups=["a"]), DataError, "groups has 1 entries"),
    ("offset not given", lambda: predict(result=fitted_to_arrays), DataError, "pass offset="),
    ("offset too short", lambda: predict(result=fitted_to_arrays, offset=np.ones(3)), DataError, r"offset has the shape \(3,\) for 4 rows"),
    ("model from arrays", lambda: predict(result=arrays), DataError, "made from arrays"),
    ("result without data", lambda: pickle.loads(pickle.dumps(fitted())).predict(), DataError, "without its data"),
    ("residuals without data", lambda: pickle.loads(pickle.dumps(fitted())).resid, DataError, "fit the model again"),
    ("random effects without data", lambda: fitted().without_data().random_effects, DataError, "without its data"),
    ("array for a frame", lambda: predict(X), DataError, "data is a ndarray"),
    *((f"alpha={alpha}", lambda a=alpha: fitted().conf_int(a), DataError, f"alpha={alpha}") for alpha in (0, 1, -1, 2, NAN)),
    ("alpha of a summary", lambda: fitted().summary(alpha=0), DataError, "alpha=0"),
    ("coverage in percent", lambda: fitted().tidy(conf_level=95), DataError, "between 0 and 1"),
]
# fmt: on

ROWS = [*FORMULAS, *NUMBERS, *SHAPES, *MODELS, *PREDICTIONS]


@pytest.mark.parametrize(
    ("call", "exception", "message"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS]
)
def test_is_refused(call, exception, message):
    with pytest.raises(exception, match=message):
        call()


# ------------------------------------------------------------ odd input that is right

INTEGERS = (10 * DATA["y"]).round()
HOLE = np.arange(N) != 7  # a row less
NUMBERED = having(g=CODE)
AS_INT = having(y=INTEGERS)
BOOLS = having(x=DATA["x"] > 0)
DROPPED = DATA[HOLE]
REDUNDANT = pd.concat([DATA, DATA[["z"]]], axis=1)  # a column name twice, not used
# fmt: off
SAME_FIT: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
    ("polars", lambda: fit(data=samples.to_polars(DATA)), fitted),
    ("polars nulls", lambda: fit(data=samples.to_polars(having(y=DATA["y"].where(HOLE)))), lambda: fit(data=DROPPED)),
    ("polars series as groups", lambda: fit("y ~ x", samples.to_polars(DATA), groups=pl.Series(DATA["g"].tolist())), fitted),
    ("dict of lists", lambda: fit(data=DATA.to_dict("list")), fitted),
    ("dict of arrays", lambda: fit(data={name: DATA[name].to_numpy() for name in "yxg"}), fitted),
    ("lists", lambda: arrays(endog=DATA["y"].tolist(), exog=X.tolist(), groups=DATA["g"].tolist()), fitted),
    ("rows of two levels", lambda: fit(data=DATA.set_index(["f", "s"])), fitted),
    ("rows all alike", lambda: fit(data=DATA.set_axis(np.zeros(N))), fitted),
    ("rows all alike, one missing", lambda: fit("y ~ x", having(y=DATA["y"].where(HOLE)).set_axis(np.zeros(N)), groups=CODE), lambda: fit(data=DROPPED)),
    ("a name twice, not used", lambda: fit(data=REDUNDANT), fitted),
    ("names that are numbers", lambda: fit(data=named(z=0, w=1.5)), fitted),
    ("empty string as label", lambda: fit(data=having(g=DATA["g"].replace("g0", ""))), fitted),
    ("labels of two types", lambda: fit(data=having(g=[c if c < 5 else f"g{c}" for c in CODE.tolist()])), fitted),
    ("float labels", lambda: fit(data=having(g=CODE / 2)), fitted),
    ("date labels", lambda: fit(data=having(g=pd.date_range("2026", periods=10)[CODE])), fitted),
    ("tuple labels", lambda: fit(data=having(g=[(c, "a") for c in CODE])), fitted),
    ("huge integer labels", lambda: fit(data=having(g=CODE + 2**62)), fitted),
    ("missing string label", lambda: fit(data=having(g=DATA["g"].where(HOLE))), lambda: fit(data=DROPPED)),
    ("pd.NA label", lambda: fit(data=having(g=pd.Series(CODE).astype("Int64").where(HOLE))), lambda: fit(data=DROPPED)),
    ("missing category", lambda: fit(data=having(g=pd.Categorical(DATA["g"].where(HOLE)))), lambda: fit(data=DROPPED)),
    ("missing label in an array", lambda: fit("y ~ x", groups=np.where(HOLE, DATA["g"], None)), lambda: fit(data=DROPPED)),
    ("unused category", lambda: fit(data=having(g=pd.Categorical(DATA["g"], [*DATA["g"].unique(), "none"]))), fitted),
    ("missing weight", lambda: fit(data=having(w=DATA["w"].where(HOLE)), weights="w"), lambda: fit(data=DROPPED, weights="w")),
    ("missing in an unused column", lambda: fit(data=having(z=NAN)), fitted),
    ("bool y", lambda: fit(data=having(y=DATA["y"] > 1)), lambda: fit(data=having(y=(DATA["y"] > 1) * 1.0))),
    ("int64 y", lambda: fit(data=having(y=INTEGERS.astype(int))), lambda: fit(data=AS_INT)),
    ("uint8 y", lambda: fit(data=having(y=(INTEGERS + 100).astype("uint8"))), lambda: fit(data=having(y=INTEGERS + 100))),
    ("Int64 y with NA", lambda: fit(data=having(y=INTEGERS.astype("Int64").where(HOLE))), lambda: fit(data=AS_INT[HOLE])),
    ("Float64 x with NA", lambda: fit(data=having(x=DATA["x"].astype("Float64").where(HOLE))), lambda: fit(data=DROPPED)),
    ("float32 y", lambda: fit(data=having(y=DATA["y"].astype("float32"))), lambda: fit(data=having(y=DATA["y"].astype("float32").astype(float)))),
    ("boolean x with NA", lambda: fit(data=having(x=BOOLS["x"].astype("boolean").where(HOLE))), lambda: fit(data=BOOLS[HOLE])),
    ("bool x", lambda: fit(data=BOOLS), lambda: fit(data=having(x=1.0 * BOOLS["x"]))),
    ("string x", lambda: fit("y ~ h + (1 | g)", DATA.astype({"h": "string"})), lambda: fit("y ~ h + (1 | g)")),
    ("sparse columns", lambda: fit(data=having(y=pd.arrays.SparseArray(DATA["y"]), x=pd.arrays.SparseArray(DATA["x"]))), fitted),
    ("keyword as regressor", lambda: fit("y ~ `lambda` + (1 | g)", named(x="lambda")), fitted),
    ("blanks in names", lambda: fit("`my y` ~ `my x` + (1 | `my g`)", named(y="my y", x="my x", g="my g")), fitted),
    ("blanks in groups=", lambda: fit("y ~ x", named(g="my g"), groups="my g"), fitted),
    ("letters of other scripts", lambda: fit("größe ~ température + (1 | участник)", named(y="größe", x="température", g="участник")), fitted),
    ("an emoji", lambda: fit("`😀` ~ x + (1 | g)", named(y="😀")), fitted),
    ("a quote in a name", lambda: fit('y ~ `a"b` + (1 | g)', named(x='a"b')), fitted),
    ("a function's name", lambda: fit("y ~ log + (1 | C)", named(x="log", g="C")), fitted),
    ("group named Residual", lambda: fit("y ~ x + (1 | Residual)", named(g="Residual")), fitted),
    ("weights of bools", lambda: fit(weights=np.ones(N, bool)), fitted),
]
# fmt: on


@pytest.mark.parametrize(("odd", "plain"), [r[1:] for r in SAME_FIT], ids=[r[0] for r in SAME_FIT])
def test_is_read_right(odd, plain):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result, expected = odd(), plain()
    assert result.converged and result.nobs == expected.nobs
    assert_close(result.llf, expected.llf, RTOL)
    assert_close(result.params, expected.params, TOL, max(1, *np.abs(expected.params)))


# ------------------------------------------------------------ dependent columns

# fmt: off
DEPENDENT = [
    ("a constant", "y ~ x + k + (1 | g)", having(k=3.0), "dropped k"),
    ("zeros", "y ~ x + k + (1 | g)", having(k=0.0), "dropped k"),
    ("a copy", "y ~ x + k + (1 | g)", having(k=DATA["x"]), "dropped k"),
    ("a sum of others", "y ~ x + I(2 * x - 1) + (1 | g)", DATA, "dropped I"),
    ("two of them", "y ~ x + k + m + (1 | g)", having(k=1e6, m=DATA["x"] / 1e6), "dropped k, m"),
    ("a factor of one level", "y ~ x + k + (1 | g)", having(k="a"), "`k` has one level only"),
    ("rounding", "y ~ x + k + (1 | g)", having(k=1e7 * (1 + 1e-15 * DATA["x"])), "dropped k"),
]
# fmt: on


@pytest.mark.parametrize(
    ("formula", "data", "message"), [r[1:] for r in DEPENDENT], ids=[r[0] for r in DEPENDENT]
)
def test_dependent_columns_are_dropped_by_name(formula, data, message):
    with pytest.warns(RankWarning, match=message):
        result = fit(formula, data)
    assert list(result.fe_params.index) == ["Intercept", "x"]
    assert_close(result.llf, fitted().llf, RTOL)
    assert_close(result.params, fitted().params, TOL)
    assert_close(result.predict(data), fitted().predict(DATA), TOL, 1)


# ------------------------------------------------------------ predictions that are right


def test_new_levels_and_rows():
    result = fitted()
    fixed = result.predict(DATA[:4])
    assert_close(predict(UNSEEN, conditional=True, new_levels="population"), fixed, RTOL, 1)
    assert np.isnan(predict(UNSEEN, conditional=True, new_levels="nan")).all()
    assert_close(predict({"x": DATA["x"][:4].tolist()}), fixed, RTOL, 1)
    assert len(predict(DATA[:0])) == 0
    assert_close(
        predict(samples.to_polars(DATA[:4]), conditional=True), result.fittedvalues[:4], RTOL, 1
    )


def test_a_missing_value_gives_a_missing_prediction():
    data = having(x=DATA["x"].where(HOLE), g=DATA["g"].where(~FIRST))
    result = fitted()
    assert_close(result.predict(data).isna(), ~HOLE, RTOL)
    values = result.predict(data, conditional=True, new_levels="nan")
    assert_close(values.isna(), ~HOLE | FIRST, RTOL)
    assert_close(values[HOLE & ~FIRST], result.fittedvalues[HOLE & ~FIRST], RTOL, 1)


def test_a_number_finds_the_label_it_spells():
    result = fit(data=NUMBERED)
    for labels in (
        NUMBERED["g"].astype(str),
        NUMBERED["g"].astype(float),
        NUMBERED["g"].astype("Int64"),
    ):
        values = result.predict(NUMBERED.assign(g=labels), conditional=True)
        assert_close(values, result.fittedvalues, RTOL, 1)


# ------------------------------------------------------------ garbage in odd places

# fmt: off
ODD_REFUSED: list[Row] = [
    ("no formula", lambda: fit(None), ValueError, "formula"),
    ("a name twice", lambda: fit(data=pd.concat([DATA, DATA[["x"]]], axis=1)), DataError, "several columns named `x`"),
    ("a number as name", lambda: fit("y ~ `0` + (1 | g)", named(x=0)), ValueError, "^(?!.*did you mean `0`)"),
    ("lists as labels", lambda: fit(data=having(g=[[c] for c in CODE])), DataError, "g"),
    ("vc_formula a list", lambda: fit("y ~ x", groups="g", vc_formula=["0 + f"]), ValueError, "vc_formula"),
    ("vc_formula of nothing", lambda: fit("y ~ x", groups="g", vc_formula={"a": "0"}), ValueError, "a"),
    ("endog of two columns", lambda: arrays(endog=X), DataError, "endog"),
    ("endog of dates", lambda: arrays(endog=pd.date_range("2026", periods=N)), DataError, "endog"),
    ("endog complex", lambda: arrays(endog=DATA["y"].to_numpy() + 1j), DataError, "endog"),
    ("exog complex", lambda: arrays(exog=X + 1j), DataError, "exog"),
    ("weights complex", lambda: fit(weights=np.ones(N) + 1j), DataError, "weights"),
    ("exog on another index", lambda: arrays(endog=DATA["y"], exog=pd.DataFrame(X)[::-1]), DataError, "index"),
    ("exog_vc of one dimension", lambda: arrays(exog_vc={"a": np.ones(N)}), DataError, "a"),
    ("exog_vc without columns", lambda: arrays(exog_vc={"a": X[:, :0]}), DataError, "a"),
    ("exog_re without columns", lambda: arrays(exog_re=X[:, :0]), DataError, "random"),
    ("y less offset explained", lambda: fit(data=having(y=3.3), offset="x"), DataError, "exactly"),
    ("y explained, large mean", lambda: fit(data=having(y=2 * DATA["x"] + 1e9)), DataError, "exactly"),
    ("y explained by groups", lambda: fit(data=having(y=CODE**2 + DATA["x"])), DataError, "exactly"),
    ("second offset not given", lambda: predict(result=lambda: lmm.fit("y ~ x + offset(z) + (1 | g)", DATA, offset=DATA["o"].to_numpy())), DataError, "pass offset="),
    ("gtol negative", lambda: fit(gtol=-1.0), DataError, "gtol"),
    ("alpha a word", lambda: fitted().conf_int("a"), DataError, "alpha"),
]
ODD_RIGHT = [
    ("keyword as response", lambda: fit("`class` ~ x + (1 | g)", named(y="class")), fitted),
    ("keyword as group", lambda: fit("y ~ x + (1 | `class`)", named(g="class")), fitted),
    ("keyword in groups=", lambda: fit("y ~ x", named(g="class"), groups="class"), fitted),
    ("polars categories", lambda: fit(data=samples.to_polars(DATA).with_columns(pl.col("g").cast(pl.Categorical))), fitted),
    ("small weights", lambda: fit(weights=np.full(N, 1e-30)), fitted),
    ("y of objects", lambda: fit(data=having(y=DATA["y"].astype(object))), lambda: fit()),
    ("y named by a word of Python", lambda: fit("lambda ~ x + (1 | g)", named(y="lambda")), lambda: fit("y ~ x + (1 | g)", DATA)),
    ("pd.NA among objects", lambda: fit(data=having(x=DATA["x"].astype(object).where(HOLE, pd.NA))), lambda: fit(data=DROPPED)),
    ("large y", lambda: fit(data=having(y=DATA["y"] * 2.0**490)).fe_params / 2.0**490, lambda: fitted().fe_params),
    ("large x", lambda: fit(data=having(x=DATA["x"] * 2.0**390)).fe_params * [1, 2.0**390], lambda: fitted().fe_params),
    ("rank counted after dropping", lambda: fit("y ~ x + I(2 * x) + I(3 * x) + (1 | g)", DATA[4:8]), lambda: fit(data=DATA[4:8])),
]
# A variance that the data cannot determine: the criterion is flat.
FLAT = [
    ("absorbed by fixed effects", "y ~ h + (1 | h)", DATA),
    ("a covariate of zeros", "y ~ x + (0 + z | g)", having(z=0.0)),
    ("a covariate twice", "y ~ x + (0 + z + v | g)", having(v=DATA["z"])),
]
# fmt: on


@pytest.mark.parametrize(
    ("call", "exception", "message"),
    [r[1:] for r in ODD_REFUSED],
    ids=[r[0] for r in ODD_REFUSED],
)
def test_should_be_refused(call, exception, message):
    with pytest.raises(exception, match=message):
        call()


@pytest.mark.parametrize(
    ("odd", "plain"), [r[1:] for r in ODD_RIGHT], ids=[r[0] for r in ODD_RIGHT]
)
def test_should_be_read_right(odd, plain):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", RankWarning)
        odd, plain = odd(), plain()
    odd, plain = getattr(odd, "params", odd), getattr(plain, "params", plain)
    assert_close(odd, plain, TOL, max(1, *np.abs(plain)))


@pytest.mark.parametrize(("formula", "data"), [r[1:] for r in FLAT], ids=[r[0] for r in FLAT])
def test_a_flat_criterion_should_warn(formula, data):
    with pytest.warns(UserWarning, match=r"identif|determine|rank"):
        fit(formula, data)


def test_a_failed_prediction_should_leave_the_model_alone():
    result = fit()
    with pytest.raises(DataError):
        result.predict({"x": ["a", "b"]})
    assert_close(result.predict(DATA[:4]), fitted().predict(DATA[:4]), RTOL, 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fixef", "here it is res.fe_params"),
        ("remove_data", r"res.without_data\(\)"),
        ("emmeans", r"here it is lmm.emmeans\(res"),
        ("isSingular", "here it is res.singular$"),
        ("deviance", "here it is res.llf, times -2"),
        ("Anova", r"here it is res.anova\(2, marginal='car', df_method='z'\)"),
        ("contest", r"res.f_test\(L\)"),
        ("vcovCR", r"res.robust\('CR2'\)"),
        ("refitML", r"lmm.fit\(res.design, reml=False\)"),
        ("nonsense", "no attribute 'nonsense'$"),
    ],
)
def test_names_of_other_packages_lead_to_ours(name, message):
    res = lmm.fit("Reaction ~ Days + (1 | Subject)", lmm.load_dataset("sleepstudy"))
    with pytest.raises(AttributeError, match=message):
        getattr(res, name)


def test_an_error_of_a_property_is_its_own():
    res = lmm.fit("Reaction ~ Days + (1 | Subject)", lmm.load_dataset("sleepstudy"))

    class Broken(type(res)):
        @property
        def aic(self):
            raise AttributeError("inside")

    broken = object.__new__(Broken)
    with pytest.raises(AttributeError, match="inside"):
        _ = broken.aic


OF_R = """
    isSingular KRmodcomp Anova contest rand vcovCR coef_test r2_nakagawa refitML pairs predict
    deviance VarCorr fixef ranef confint getME ngrps nobs vcov logLik AIC lsmeans residuals k_fe
    params_object remove_data intervals
"""


@pytest.mark.parametrize("name", OF_R.split())
def test_functions_of_r_have_a_place(name):
    """What is written in its place runs, where it is a call."""
    data = lmm.load_dataset("sleepstudy").assign(f=lambda d: np.where(d["Days"] > 4, "b", "a"))
    res = lmm.fit("Reaction ~ f + Days + (1 | Subject)", data)
    smaller = lmm.fit("Reaction ~ f + (1 | Subject)", data)
    names = {"lmm": lmm, "res": res, "smaller": smaller, "larger": res, "newdata": data}
    names["L"], places = np.array([[0.0, 0.0, 1.0]]), set()
    for owner in (lmm, res):
        if owner is res and hasattr(res, name):
            continue
        with pytest.raises(AttributeError, match="here it is") as caught:
            getattr(owner, name)
        here = str(caught.value).split("here it is ")[1]
        places.add(here)
        eval(re.split(r", times| and |, or", here)[0], names)
    assert len(places) == 1


@pytest.mark.parametrize(("name", "here"), [("lmer", "lmm.fit"), ("ranef", "res.random_effects")])
def test_names_of_other_packages_are_translated(name, here):
    with pytest.raises(AttributeError, match=here):
        getattr(lmm, name)


def _sleep():
    return lmm.load_dataset("sleepstudy")


def _slope():
    return lmm.fit("Reaction ~ Days + (1 | Subject)", _sleep())


def _dependent():
    with pytest.warns(RankWarning):
        return lmm.fit("Reaction ~ Days + I(2 * Days) + (1 | Subject)", _sleep())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _slope().with_df("satt"), "did you mean 'satterthwaite'"),
        (lambda: _slope().with_df("Wald"), "did you mean 'normal'"),
        (lambda: _slope().resid("Pearson"), "did you mean 'pearson'"),
        (lambda: lmm.emmeans(_slope(), "1").summary(adjust="BH"), "did you mean 'fdr'"),
        (lambda: lmm.hypotheses(_slope(), "Days = 0", adjust="LSD"), "did you mean 'none'"),
        (lambda: lmm.anova([_slope(), _slope()]), r"lmm.anova\(a, b\)"),
        (lambda: _dependent().t_test("I(2 * Days) = 0"), "was left out, since it depends"),
        (
            lambda: pickle.loads(pickle.dumps(_dependent())).t_test("I(2 * Days) = 0"),
            "was left out, since it depends",
        ),
        (
            lambda: lmm.design("Reaction ~ Days + (1 | Subject) + varConstPower()", _sleep()),
            "not here: `power",
        ),
        (
            lambda: lmm.design("Reaction ~ (1 | Subject) + varConstProp(form=~Days)", _sleep()),
            r"write `\(0 \+ x \| row\)`",
        ),
        (
            lambda: lmm.design("Reaction ~ (1 | Subject) + varConstProp()", _sleep()),
            r"not here: `power\(fitted\(.\)\)` is the nearest",
        ),
        (
            lambda: lmm.fit_many(
                "~ Days + (1 | Subject)", _sleep(), responses_in="rows",
                responses=pd.DataFrame(np.ones((2, 180)), columns=[f"s{i}" for i in range(180)]),
            ),
            "the columns of responses are not the index of the data",
        ),
    ],
)  # fmt: skip
def test_what_others_say_is_understood(call, message):
    with pytest.raises((DataError, FormulaError), match=message):
        call()


def test_members_and_arguments_of_others():
    for name, here in {"update": "lmm.fit", "step": "lmm.step", "getME": "res.theta"}.items():
        with pytest.raises(AttributeError, match=f"here it is {here}"):
            getattr(_slope(), name)
    with pytest.raises(TypeError, match="there are none of sampling"):
        lmm.fit("Reaction ~ Days + (1 | Subject)", _sleep(), sampling_weights="w")
    assert _slope().anova("3").equals(_slope().anova(3))
    assert "I(2 * Days): linearly dependent columns" in str(_dependent().summary())
