"""The same garbage at every door: every function that takes data refuses it, or reads it right.

A vector, a matrix, a column or a frame is garbage or odd in the same way whatever it is passed as.
"""

import datetime
import decimal
import warnings
from functools import cache

import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pytest
import samples
import scipy.sparse

import lmm_jax as lmm
from lmm_jax import DataError, FormulaError
from lmm_jax.inputs.matching import find, label_shown, merged, spelled

RTOL = 1e-12  # sums of the same numbers, float32 and Decimal exactly representable

DATA = samples.frame()
N = len(DATA)
CODE = np.repeat(np.arange(10), 6)
DATA = DATA.assign(g=CODE, w=1.0 + np.arange(N) % 4, u=1.0 + np.arange(N) % 5)
FORMULA = "y ~ x + (1 | g)"
X = np.column_stack([np.ones(N), DATA["x"]])
Y, W = DATA["y"].to_numpy(), DATA["w"].to_numpy()
HOLE = np.arange(N) == 7


@cache
def fitted():
    return lmm.fit(FORMULA, DATA)


@cache
def fitted_to_arrays():
    return lmm.fit("y ~ x", DATA, groups=CODE, offset=W)


def rows_of(design):
    """What a design has read: numbers that change with any of it."""
    out = [design.nobs, design.endog @ np.arange(design.nobs), *(design.exog.T @ design.endog)]
    for column in (design.weights, design.offset):
        out.append(0.0 if column is None else column @ design.endog)
    for term in design.terms:
        out += [term.n_levels, term.codes[:, 0] @ design.endog, *term.values[:, 0].T @ design.endog]
    return np.array(out)


def design(**changed):
    return rows_of(lmm.design(changed.pop("formula", FORMULA), DATA, **changed))


def arrays(**changed):
    given = {"endog": pd.Series(Y), "exog": X, "groups": CODE, "missing": "drop"} | changed
    return rows_of(lmm.design_from_arrays(**given))


def columns(**changed):
    """A mapping with columns exchanged."""
    return {name: DATA[name].to_numpy() for name in ("y", "x", "g", "w", "u")} | changed


def batched(frames, formula=FORMULA, **options):
    batched = lmm.design_from_batches(formula, frames, **options)
    return np.array([batched.nobs, *np.ravel(batched.layout.S0), batched.layout.beta_origin[0]])


def many(responses, **options):
    return lmm.fit_many("~ x + (1 | g)", DATA, responses, progress=False, **options).llf


def predicted(result, new, **options):
    return result().predict(new, **options).to_numpy()


# Every door for numbers, one a row.
NUMBERS = {
    "weights": lambda v: design(weights=v),
    "offset": lambda v: design(offset=v),
    "array endog": lambda v: arrays(endog=v),
    "array exog": lambda v: arrays(exog=v),
    "array exog_re": lambda v: arrays(exog_re=v),
    "array exog_vc": lambda v: arrays(exog_vc={"a": v}),
    "array exog_vc by group": lambda v: arrays(exog_vc={"a": dict.fromkeys(range(10), v)}),
    "array weights": lambda v: arrays(weights=v),
    "array offset": lambda v: arrays(offset=v),
    "responses": many,
    "responses of a design": lambda v: lmm.fit_many(fitted().design, v, progress=False).llf,
    "weights of responses": lambda v: many(["y"], weights=v),
    "new offset": lambda v: predicted(fitted_to_arrays, DATA, offset=v),
}
# Every door for labels, one a row.
LABELS = {
    "groups": lambda v: design(formula="y ~ x", groups=v),
    "array groups": lambda v: arrays(groups=v),
    "new groups": lambda v: predicted(fitted_to_arrays, DATA, groups=v, offset=W, conditional=True),
    "row_index": lambda v: rows_of_index(lmm.row_index(v), v),
    "a column": lambda v: rows_of(lmm.design(FORMULA, columns(g=v))),
    "a new column": lambda v: predicted(fitted, columns(g=v), conditional=True),
    "a column of a batch": lambda v: batched([columns(g=v)]),
}


def rows_of_index(index, labels):
    assert len(index.levels[0].cell) == len(labels) == N
    return index.levels[0].cell


DAY = pd.date_range("2026", periods=N)
# fmt: off
NEVER = {  # neither numbers nor labels
    "a scalar": lambda v: 2.0,
    "no dimension": lambda v: np.array(2.0),
    "ragged": lambda v: [[1, 2], [3]] * (N // 2),
    "ragged, flat": lambda v: [1, [2]] * (N // 2),
    "three dimensions": lambda v: np.ones((N, 2, 2)),
    "a dict": lambda v: dict(enumerate(v)),
    "a set": lambda v: {1, 2},
    "a generator": lambda v: (x for x in v),
    "bytes": lambda v: b"w",
    "a function": lambda v: len,
    "an object": lambda v: object(),
    "structured": lambda v: np.zeros(N, dtype=[("a", float)]),
    "structured and masked": lambda v: np.ma.masked_array(np.zeros(N, dtype=[("a", float)]), HOLE),
}
NO_NUMBERS = {
    "complex": lambda v: v + 1j,
    "complex objects": lambda v: (v + 1j).astype(object),
    "complex and masked": lambda v: np.ma.masked_array(v + 1j, HOLE),
    "dates": lambda v: DAY.to_numpy(),
    "a series of dates": lambda v: pd.Series(DAY),
    "dates and masked": lambda v: np.ma.masked_array(DAY.to_numpy(), HOLE),
    "durations": lambda v: np.arange(N).astype("m8[s]"),
    "periods": lambda v: pd.period_range("2026", periods=N, freq="D"),
    "text": lambda v: np.full(N, "a"),
    "digits": lambda v: v.astype(str),
    "objects of digits": lambda v: v.astype(str).astype(object),
    "a list of digits": lambda v: v.astype(str).tolist(),
    "one word": lambda v: [*v[:-1].tolist(), "oops"],
    "bytes in an array": lambda v: np.full(N, b"1"),
    "categories of numbers": lambda v: pd.Categorical(CODE),
    "huge integers": lambda v: [10**400] * N,
    "polars dates": lambda v: pl.Series(DAY),
}
MISPLACED = {
    "short": lambda v: v[:-1],
    "long": lambda v: np.append(v, 1.0),
    "empty": lambda v: [],
    "in another order": lambda v: pd.Series(v)[::-1],
    "on another index": lambda v: pd.Series(v, index=np.arange(N) + 1),
    "on an index of text": lambda v: pd.Series(v, index=np.arange(N).astype(str)),
}
SAME_NUMBERS = {  # W is 1, 2, 3 or 4: exact in every type
    "a list": lambda v: v.tolist(),
    "a tuple": lambda v: tuple(v.tolist()),
    "a series": lambda v: pd.Series(v),
    "an index": lambda v: pd.Index(v),
    "float32": lambda v: v.astype(np.float32),
    "float16": lambda v: v.astype(np.float16),
    "longdouble": lambda v: v.astype(np.longdouble),
    "int8": lambda v: v.astype(np.int8),
    "uint64": lambda v: v.astype(np.uint64),
    "big endian": lambda v: v.astype(">f8"),
    "strided": lambda v: np.repeat(v, 3)[::3],
    "objects": lambda v: v.astype(object),
    "objects of two kinds": lambda v: np.array([*v[:30].astype(int), *v[30:]], dtype=object),
    "Decimal": lambda v: [decimal.Decimal(int(x)) for x in v],
    "Float64": lambda v: pd.array(v, dtype="Float64"),
    "Int16": lambda v: pd.Series(v).astype("Int16"),
    "sparse": lambda v: pd.arrays.SparseArray(v),
    "masked nowhere": lambda v: np.ma.masked_array(v, np.zeros(N, bool)),
    "jax": lambda v: jnp.asarray(v),
    "polars": lambda v: pl.Series(v),
    "polars integers": lambda v: pl.Series(v.astype(int)),
}
# fmt: on

REFUSED = [
    *((door, name, DOORS[door], make) for DOORS in (NUMBERS, LABELS) for door in DOORS
      for name, make in NEVER.items()
      if not (door == "a new column" and name in {"a scalar", "no dimension"})),
    *((door, name, NUMBERS[door], make) for door in NUMBERS for name, make in NO_NUMBERS.items()),
    *((door, name, DOORS[door], make) for DOORS in (NUMBERS, LABELS) for door in DOORS
      for name, make in MISPLACED.items()
      # an index has no meaning where there is no other, nor have columns beside arrays one
      if not ((door in {"row_index", "array endog", "array exog_vc by group"}
               or "column" in door) and ("index" in name or "order" in name))
      and not (door == "row_index" and name in {"short", "long"})),
]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "make"), [row[2:] for row in REFUSED], ids=[f"{r[1]} as {r[0]}" for r in REFUSED]
)
def test_garbage_is_refused_at_every_door(call, make):
    with pytest.raises((DataError, FormulaError)) as caught:
        call(make(W))
    assert len(str(caught.value)) > 15


@pytest.mark.parametrize("door", NUMBERS)
def test_the_name_of_a_column_is_no_array(door):
    if door in {"weights", "offset", "new offset", "weights of responses", "responses"}:
        pytest.skip("a name is meant there")
    with pytest.raises(DataError, match=r"pass an array|need a frame"):
        NUMBERS[door]("w")


FEW = ("weights", "offset", "array exog", "array weights", "array offset", "new offset")
PLACES = [(door, name) for door in FEW for name in SAME_NUMBERS] + [
    (door, name)
    for door in NUMBERS
    if door not in FEW and "by group" not in door and door != "array exog_vc"
    for name in ("a list", "int8", "objects", "Int16", "masked nowhere", "polars")
]


@pytest.mark.parametrize(("door", "name"), PLACES)
def test_numbers_are_the_same_in_every_container(door, name):
    call = NUMBERS[door]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.ConvergenceWarning)  # W is a coarse response
        np.testing.assert_allclose(call(SAME_NUMBERS[name](W)), call(W), rtol=RTOL, atol=1e-12)


GAPS = {
    "NaN": lambda v: np.where(HOLE, np.nan, v),
    "None in a list": lambda v: [None if gap else x for x, gap in zip(v, HOLE, strict=True)],
    "masked": lambda v: np.ma.masked_array(v, HOLE),
    "masked integers": lambda v: np.ma.masked_array(v.astype(np.int16), HOLE),
    "masked unsigned": lambda v: np.ma.masked_array(v.astype(np.uint64), HOLE),
    "masked objects": lambda v: np.ma.masked_array(v.astype(object), HOLE),
    "masked, and NaN under the mask": lambda v: np.ma.masked_array(np.where(HOLE, np.nan, v), HOLE),
    "pd.NA": lambda v: pd.array(np.where(HOLE, None, v), dtype="Float64"),
    "pd.NA among objects": lambda v: np.where(HOLE, pd.NA, v.astype(object)),
    "null of polars": lambda v: pl.Series([None if g else x for x, g in zip(v, HOLE, strict=True)]),
}
WITHOUT = DATA[~HOLE]


@pytest.mark.parametrize("name", GAPS)
@pytest.mark.parametrize("role", ["weights", "offset", "groups"])
def test_what_is_masked_is_missing_beside_a_frame(role, name):
    values = {"weights": W, "offset": W, "groups": CODE.astype(float)}[role]
    formula = "y ~ x" if role == "groups" else FORMULA
    given = {role: GAPS[name](values)}
    want = rows_of(lmm.design(formula, WITHOUT, **{role: values[~HOLE]}))
    np.testing.assert_allclose(design(formula=formula, **given), want, rtol=RTOL)
    with pytest.raises(DataError, match=f"missing values in '{role}'"):
        design(formula=formula, missing="raise", **given)


@pytest.mark.parametrize("name", GAPS)
@pytest.mark.parametrize("role", ["endog", "exog", "exog_re", "groups", "weights", "offset"])
def test_what_is_masked_is_missing_among_arrays(role, name):
    values = {"groups": CODE.astype(float)}.get(role, W)
    clean = {"endog": Y, "exog": X, "groups": CODE} | {role: values}
    want = rows_of(lmm.design_from_arrays(**{key: v[~HOLE] for key, v in clean.items()}))
    np.testing.assert_allclose(arrays(**clean | {role: GAPS[name](values)}), want, rtol=RTOL)
    with pytest.raises(DataError, match=r"missing values|NaN"):
        arrays(**clean | {role: GAPS[name](values)}, missing="none")


@pytest.mark.parametrize("name", ["NaN", "masked", "masked integers", "masked objects", "pd.NA"])
def test_what_is_masked_is_missing_in_a_response(name):
    y = np.round(100 * Y)
    want = lmm.fit("y ~ x + (1 | g)", DATA.assign(y=np.where(HOLE, np.nan, y))).llf
    values = GAPS[name](y)
    np.testing.assert_allclose(many(values), [want], rtol=1e-9)
    if isinstance(values, np.ndarray):
        np.testing.assert_allclose(many(np.ma.vstack([values, values]).T), want, rtol=1e-9)


def test_a_masked_new_offset_gives_a_missing_prediction():
    got = predicted(fitted_to_arrays, DATA, offset=np.ma.masked_array(W, HOLE))
    assert (np.isnan(got) == HOLE).all()


# ------------------------------------------------------------ frames

PLAIN = columns()
# fmt: off
FRAMES_REFUSED = [
    ("different lengths", {**PLAIN, "x": [1.0]}, r"different lengths \(.*`x` 1"),
    ("a matrix", {**PLAIN, "x": np.ones((N, 2))}, r"the column `x` has the shape \(60, 2\)"),
    ("a frame", {**PLAIN, "x": DATA[["x", "y"]]}, r"the column `x` has the shape"),
    ("a dict", {**PLAIN, "x": {0: 1.0}}, "the column `x` is a dict"),
    ("a set", {**PLAIN, "x": {1.0}}, "the column `x` is a set"),
    ("two indexes", {**PLAIN, "x": DATA["x"], "y": DATA["y"][::-1]}, "than the others"),
    ("a name twice", pd.concat([DATA, DATA[["x"]]], axis=1), "several columns named `x`"),
    ("a group twice", pd.concat([DATA, DATA[["g"]]], axis=1), "several columns named `g`"),
    ("names of two levels", pd.concat({c: DATA[[c]] for c in "yxg"}, axis=1), "flatten"),
    ("names that are numbers", DATA.set_axis(range(DATA.shape[1]), axis=1), "no column `(x|y|g)`"),
    ("an array", X, "data is a ndarray"),
    ("a lazy frame", pl.DataFrame(PLAIN).lazy().select("nothing"), "cannot be computed: .*nothing"),
]
# fmt: on
FRAME_DOORS = {
    "design": lambda data: lmm.design(FORMULA, data),
    "fit": lambda data: lmm.fit(FORMULA, data),
    "fit_many": lambda data: lmm.fit_many("~ x + (1 | g)", data, ["y"], progress=False),
    "predict": lambda data: fitted().predict(data, conditional=True),
    "batches": lambda data: lmm.design_from_batches(FORMULA, [data]),
    "fit_regularized": lambda data: lmm.fit_regularized(FORMULA, data),
}


@pytest.mark.parametrize("door", FRAME_DOORS)
@pytest.mark.parametrize(
    ("data", "message"), [f[1:] for f in FRAMES_REFUSED], ids=[f[0] for f in FRAMES_REFUSED]
)
def test_a_frame_is_refused_at_every_door(data, message, door):
    if door == "predict" and "others" in message:
        pytest.skip("prediction reads no response")
    with pytest.raises((DataError, FormulaError), match=message):
        FRAME_DOORS[door](data)


def test_scalars_are_a_row_or_fill_their_column():
    want = fitted().predict(pd.DataFrame({"x": [0.5], "g": [3]}), conditional=True)
    got = fitted().predict({"x": 0.5, "g": 3}, conditional=True)
    np.testing.assert_array_equal(got, want)
    got = fitted().predict({"x": [0.5, 0.5], "g": 3}, conditional=True)
    np.testing.assert_array_equal(got, [*want, *want])
    with pytest.raises(DataError):
        lmm.design(FORMULA, {"y": 1.0, "x": 2.0, "g": 3})


def test_columns_that_nothing_reads_may_be_anything():
    odd = {"meta": {"a": 1}, "short": [1, 2], "square": np.ones((3, 3)), "none": None, 5: "five"}
    np.testing.assert_array_equal(rows_of(lmm.design(FORMULA, {**PLAIN, **odd})), design())


def test_a_mapping_of_series_keeps_their_index():
    data = DATA.set_index(np.arange(N) + 100)
    assert lmm.design(FORMULA, dict(data.items())).index.equals(data.index)


def arrow(data):
    pyarrow = pytest.importorskip("pyarrow")
    return pyarrow.Table.from_pandas(data)


def test_a_name_twice_in_a_table_of_pyarrow():
    table = arrow(DATA)
    table = table.append_column("x", table["x"])
    with pytest.raises(DataError, match="several columns named `x`"):
        lmm.fit("y ~ x + (1 | g)", table)
    unused = lmm.fit("y ~ 1 + (1 | g)", table)
    np.testing.assert_allclose(unused.llf, lmm.fit("y ~ 1 + (1 | g)", DATA).llf, rtol=1e-12)


CONTAINERS = {
    "polars": samples.to_polars,
    "pyarrow": arrow,
    "a record batch": lambda data: arrow(data).combine_chunks().to_batches()[0],
    "a mapping": lambda data: dict(data.items()),
    "lists": lambda data: data.to_dict("list"),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_integers_beside_a_gap_are_the_same_labels(name):
    big = 2**53 + np.arange(10)  # neighbours, which floats do not tell apart
    data = pd.DataFrame({"y": Y, "x": DATA["x"], "g": pd.array(big[CODE], dtype="Int64")})
    data.loc[7, "g"] = pd.NA
    got = lmm.design(FORMULA, CONTAINERS[name](data))
    assert (got.n_groups, got.nobs, got.terms[0].levels.tolist()) == (10, N - 1, big.tolist())


def test_a_query_reads_columns_that_the_formula_does_not():
    want = design(subset="w > 2")
    for data in (samples.to_polars(DATA), dict(DATA.items()), arrow(DATA)):
        got = rows_of(lmm.design(FORMULA, data, subset="w > 2"))
        np.testing.assert_allclose(got, want, rtol=RTOL)


# ------------------------------------------------------------ subsets

MASK = DATA["x"] > 0
LABELLED = DATA.set_axis(np.array([f"r{i}" for i in range(N)]))
TWICE = DATA.set_axis(np.arange(N) // 2)
GAPPED = DATA.assign(x=DATA["x"].astype("Float64").where(~HOLE))
DEEP = DATA.set_index([CODE, np.arange(N)])
# fmt: off
SUBSETS = [
    ("in another order", DATA, MASK.sample(frac=1, random_state=0), MASK),
    ("booleans of pandas", DATA, MASK.astype("boolean"), MASK),
    ("objects", DATA, MASK.astype(object), MASK),
    ("a list", DATA, MASK.tolist(), MASK),
    ("an array of pandas", DATA, pd.array(MASK), MASK),
    ("polars", DATA, pl.Series(MASK.tolist()), MASK),
    ("labels", DATA, np.flatnonzero(MASK), MASK),
    ("labels as floats", DATA, np.flatnonzero(MASK).astype(float), MASK),
    ("labels twice and in any order", DATA, np.tile(np.flatnonzero(MASK)[::-1], 2), MASK),
    ("an index", DATA, DATA.index[MASK], MASK),
    ("labels of text", LABELLED, LABELLED.index[MASK], MASK),
    ("labels that rows share", TWICE, range(3, 20), np.isin(np.arange(N) // 2, range(3, 20))),
    ("a mask on labels that rows share", TWICE, pd.Series(MASK.to_numpy(), TWICE.index), MASK),
    ("labels of two levels", DEEP, DEEP.index[MASK], MASK),
    ("tuples", DEEP, DEEP.index[MASK].tolist(), MASK),
    ("a query with gaps", GAPPED, "x > 0", MASK & ~HOLE),
]
SUBSETS_REFUSED = [
    ("missing", DATA, pd.array([True, None] * (N // 2), dtype="boolean"), "fill its missing"),
    ("missing among objects", DATA, np.array([True, None] * 30, dtype=object), "fill its missing"),
    ("masked", DATA, np.ma.masked_array(MASK, HOLE), "fill its missing"),
    ("null of polars", DATA, pl.Series([True, None] * (N // 2)), "fill its missing"),
    ("other labels", DATA, MASK.set_axis(np.arange(N) + 1), "another index"),
    ("fewer labels", DATA, MASK[:-1], "another index"),
    ("shared labels", TWICE, pd.Series(MASK.to_numpy(), TWICE.index[::-1]), "another index"),
    ("short", DATA, MASK.to_numpy()[:-1], r"subset has the shape \(59,\)"),
    ("unknown labels", DATA, [0, 1, 99], "such as 99"),
    ("unknown text", LABELLED, ["r1", "s1"], "such as 's1'"),
    ("a missing label", DATA, [0.0, np.nan], "such as nan"),
    ("a matrix", DATA, X > 0, "subset has the shape"),
    ("a frame", DATA, DATA[["x", "y"]] > 0, "subset has the shape"),
    ("a scalar", DATA, True, "subset has the shape"),
    ("a slice", DATA, slice(3), "subset"),
    ("a set", DATA, {1, 2}, "subset is a set"),
    ("a function", DATA, lambda d: d["x"] > 0, "subset"),
    ("no condition", DATA, "x + 1", "is no condition"),
    ("a constant", DATA, "1 > 0", "is no condition"),
    ("no expression", DATA, "x >", "cannot be evaluated"),
    ("no row", DATA, np.zeros(N, bool), "none of the 60 rows"),
    ("no label", DATA, [], "none of the 60 rows"),
]
# fmt: on


@pytest.mark.parametrize(
    ("data", "subset", "mask"), [s[1:] for s in SUBSETS], ids=[s[0] for s in SUBSETS]
)
def test_a_subset_is_its_rows(data, subset, mask):
    got = lmm.design(FORMULA, data, subset=subset, weights=W)
    want = lmm.design(FORMULA, data[np.asarray(mask)], weights=W[np.asarray(mask)])
    np.testing.assert_array_equal(rows_of(got), rows_of(want))
    assert got.index.equals(want.index)


@pytest.mark.parametrize(
    ("data", "subset", "message"),
    [s[1:] for s in SUBSETS_REFUSED],
    ids=[s[0] for s in SUBSETS_REFUSED],
)
def test_a_subset_is_refused(data, subset, message):
    with pytest.raises(DataError, match=message):
        lmm.design(FORMULA, data, subset=subset)


# ------------------------------------------------------------ labels

DAYS = pd.to_datetime(["2026-01-01", "2026-01-02", "2026-01-03"])
FAR = np.array([2**63, 2**63 + 1, 2**64 - 1], dtype=np.uint64)
# fmt: off
MATCHES = [
    ("integers for floats", [5.0, 17.0, 350.0], [350, 5, 9999], [2, 0, -1]),
    ("floats for integers", [5, 17, 350], [350.0, 5.5, np.nan, 5], [2, -1, -1, 0]),
    ("text for integers", [5, 17, 350], ["350", "350.0", "5", "05", " 5"], [2, 2, 0, -1, -1]),
    ("integers for text", ["5", "17", "350"], [350, 5, 4], [2, 0, -1]),
    ("floats for text", ["5", "17"], [17.0, 5.0, 5.5], [1, 0, -1]),
    ("text that is text", ["1", "1.0", "01"], ["1.0", "01", "1", "1.00"], [1, 2, 0, -1]),
    ("of all types", ["5", "17"], pd.Series(["5", 17, 17.0, None, 4]), [0, 1, 1, -1, -1]),
    ("nullable", [1, 2], pd.array([2, None, 3], dtype="Int64"), [1, -1, -1]),
    ("for nullable", pd.array([1, 2], dtype="Int64"), [2.0, 3.0], [1, -1]),
    ("float32", [0.1, 0.2], np.array([0.2, 0.3], np.float32), [1, -1]),
    ("categories", ["a", "b"], pd.Categorical(["b", "c", None, "a"]), [1, -1, -1, 0]),
    ("categories of numbers", ["1", "2"], pd.Categorical([2, 3]), [1, -1]),
    ("logicals for 0 and 1", [0, 1], [True, False], [1, 0]),
    ("0 and 1 for logicals", [False, True], [1, 0, 2], [1, 0, -1]),
    ("logicals for text", ["False", "True"], [True, False], [1, 0]),
    ("text for logicals", [False, True], ["True", "1"], [1, -1]),
    ("logicals beside a gap", [False, True], pd.Series([True, None], dtype=object), [1, -1]),
    ("from 2**63 on", FAR, FAR[::-1], [2, 1, 0]),
    ("far integers for others", FAR, [2**63 + 1, 1], [1, -1]),
    ("integers that floats join", [2.0**53], [2**53 + 1, 2**53], [-1, 0]),
    ("dates", DAYS, DAYS[[1]], [1]),
    ("dates of another unit", DAYS, DAYS.as_unit("s")[[2]], [2]),
    ("text for dates", DAYS, ["2026-01-02", "2026-01-03 00:00:00", "2026-01-04"], [1, 2, -1]),
    ("days for dates", DAYS, [datetime.date(2026, 1, 2), datetime.date(2027, 1, 2)], [1, -1]),
    ("dates for text", ["2026-01-02"], DAYS, [-1, 0, -1]),
    ("tuples", [("a", 1), ("b", 2)], pd.Series([("b", 2), ("a", 2)]), [1, -1]),
    ("none", ["a"], pd.Series([], dtype=object), []),
    ("among none", [], ["a"], [-1]),
]
# fmt: on


@pytest.mark.parametrize(
    ("levels", "labels", "want"), [m[1:] for m in MATCHES], ids=[m[0] for m in MATCHES]
)
def test_labels_are_matched_one_by_one(levels, labels, want):
    levels = pd.Index(levels)
    labels = pd.Series(labels) if isinstance(labels, list) else labels
    np.testing.assert_array_equal(find(levels, labels, "g"), want)
    for i, place in enumerate(want):  # whatever stands beside a label
        assert find(levels, labels[i : i + 1], "g").tolist() == [place]


def test_a_label_that_two_levels_have_is_refused():
    with pytest.raises(DataError, match="'g' has the label 'x:y:z' for two levels"):
        find(pd.Index(["x:y:z", "x:y:z"]), pd.Series(["x:y:z"]), "g")
    with pytest.raises(DataError, match=r"above 2\^53 as floats"):  # 2.0**53 may be either
        find(pd.Index([2**53, 2**53 + 1]), pd.Series([2.0**53]), "g")
    with pytest.raises(DataError, match="cannot be compared"):
        find(pd.Index(["a"]), pd.Series([["a"]]), "g")


def test_labels_are_shown_without_their_type():
    labels = [np.int64(33), np.float64(33), 33.5, "a", np.str_("a"), ("a", np.int64(1)), True]
    assert [*map(label_shown, labels)] == ["33", "33", "33.5", "'a'", "'a'", "('a', 1)", "True"]
    assert label_shown(DAYS[0]) == "2026-01-01"
    for labels in ([350], [350.0], np.array([350.0], np.float32), pd.array([350], dtype="Int64")):
        assert spelled(pd.Index(labels)).tolist() == ["350"]
    assert spelled(pd.Index([1.5, 2.0])).tolist() == ["1.5", "2"]


def test_levels_of_two_types_stay_what_they_are():
    joined = merged(pd.Index([1]), pd.Index(FAR))
    assert joined.tolist() == [1, *FAR.tolist()]
    assert merged(pd.Index([1]), pd.Index([2.0])).dtype == np.int64
    assert merged(pd.Index([1]), pd.Index([2.5])).tolist() == [1, 2.5]
    assert merged(pd.Index(["a"]), pd.Index([1])).tolist() == ["a", 1]


TYPES = {
    "int64": lambda c: c.astype(np.int64),
    "float64": lambda c: c.astype(float),
    "text": lambda c: c.astype(str),
    "Int64": lambda c: pd.array(c, dtype="Int64"),
    "categories": lambda c: pd.Categorical(c),
    "categories of text": lambda c: pd.Categorical(c.astype(str)),
    "objects": lambda c: np.array([int(v) if v % 3 else float(v) for v in c], dtype=object),
    "uint8": lambda c: c.astype(np.uint8),
}


@pytest.mark.parametrize("new", TYPES)
@pytest.mark.parametrize("old", ["int64", "float64", "text", "categories"])
@pytest.mark.parametrize("model", ["(1 | g)", "(1 | g/s)", "component"])
def test_an_unseen_label_changes_no_other_row(model, old, new):
    result = of_type(old, model)
    more = pd.concat([DATA, DATA[:1]], ignore_index=True).assign(g=TYPES[new](np.append(CODE, 99)))
    got = result.predict(more, conditional=True, new_levels="population")
    np.testing.assert_allclose(got[:-1], result.fittedvalues, rtol=1e-10)
    np.testing.assert_allclose(got.iloc[-1], result.predict(DATA).iloc[0], rtol=1e-10)
    with pytest.raises(DataError, match=r"has the new level '?(p:)?99"):
        result.predict(more, conditional=True)


@cache
def of_type(name, model):
    data = DATA.assign(g=TYPES[name](CODE))
    if model == "component":
        return lmm.fit("y ~ x", data, groups="g", vc_formula={"a": "0 + C(s)"})
    return lmm.fit(f"y ~ x + {model}", data)


@pytest.mark.parametrize("model", ["y ~ C(k) + (1 | g)", "y ~ x + (C(k) | g)"])
@pytest.mark.parametrize("old", ["int64", "float64", "text", "categories"])
def test_levels_of_factors_match_whatever_their_type(old, model):
    k = np.arange(N) % 3
    result = lmm.fit(model, DATA.assign(k=TYPES[old](k)))
    for new in TYPES:
        rows = DATA.assign(k=TYPES[new](k))
        np.testing.assert_allclose(
            result.predict(rows, conditional=True), result.fittedvalues, rtol=1e-10
        )
        with pytest.raises(DataError, match=r"has the level '?7"):
            result.predict(rows.assign(k=TYPES[new](np.where(k == 1, 7, k))), conditional=True)


WIDTHS = [
    *((np.uint64, 2**63), (np.uint64, 2**64 - 10), (np.int64, -(2**63)), (np.int64, 2**63 - 10)),
    *((np.int8, -5), (np.int8, 118), (np.uint8, 246), (np.uint32, 2**32 - 10)),
]


def test_ids_of_any_width_are_groups():
    for dtype, start in WIDTHS:
        ids = np.array([start + int(c) for c in CODE], dtype=dtype)
        got = lmm.design(FORMULA, DATA.assign(g=ids))
        assert got.terms[0].levels.tolist() == [start + c for c in range(10)]
        np.testing.assert_array_equal(got.terms[0].codes[:, 0], CODE)
        index = lmm.row_index(ids)
        np.testing.assert_array_equal(index.levels[0].cell, lmm.row_index(CODE).levels[0].cell)


def test_groups_of_components_match_whatever_their_type():
    parts = {c: np.column_stack([DATA["x"][c == CODE]]) for c in range(10)}
    want = arrays(exog_vc={"a": parts})
    for keys in (str, float, np.int8, lambda c: f"{c}.0"):
        got = arrays(exog_vc={"a": {keys(c): m for c, m in parts.items()}})
        np.testing.assert_array_equal(got, want)
    sparse = {c: scipy.sparse.csr_array(m) for c, m in parts.items()}
    np.testing.assert_array_equal(arrays(exog_vc={"a": sparse}), want)
    with pytest.raises(DataError, match="no matrix for the group 9"):
        arrays(exog_vc={"a": {c: parts[c] for c in range(9)}})


class Spec:
    """What statsmodels calls a VCSpec."""

    def __init__(self, names, mats):
        self.names, self.mats, self.colnames = names, mats, None


COMPONENTS = [
    ("a number", 5, "exog_vc is a int"),
    ("a list", [X], "exog_vc is a list"),
    ("names without matrices", Spec(["a", "b"], [[X]]), "2 names for 1 mats"),
    ("too few matrices", Spec(["a"], [[np.ones((6, 1))] * 9]), "9 matrices for 10 groups"),
    ("a name twice", Spec(["a", "a"], [[np.ones((6, 1))] * 10] * 2), "twice"),
    ("names that look alike", {1: X, "1": X}, "twice"),
    ("complex and sparse", {"a": scipy.sparse.csr_array(X + 1j)}, "must be numeric"),
    ("on another index", {"a": pd.DataFrame(X)[::-1]}, "another index"),
]


@pytest.mark.parametrize(
    ("given", "message"), [c[1:] for c in COMPONENTS], ids=[c[0] for c in COMPONENTS]
)
def test_components_are_refused(given, message):
    with pytest.raises(DataError, match=message):
        arrays(exog_vc=given)


def test_every_argument_with_an_index_has_that_of_the_first():
    frame = pd.DataFrame(X)
    for given in (
        {"exog": frame, "groups": pd.Series(CODE)[::-1]},
        {"groups": pd.Series(CODE), "weights": pd.Series(W)[::-1]},
        {"exog": frame, "exog_re": frame[::-1]},
        {"endog": pd.Series(Y), "offset": pd.Series(W)[::-1]},
    ):
        with pytest.raises(DataError, match="another index than the data"):
            arrays(**given)
    index = np.arange(N) + 5
    got = lmm.design_from_arrays(Y, X, pd.Series(CODE, index=index))
    assert got.index.tolist() == index.tolist()


# ------------------------------------------------------------ arguments that mean nothing

POINTLESS = [
    ("groups by name", lambda: fitted().predict(DATA, groups=CODE), "reads its groups from `g`"),
    (
        "groups by name, conditional",
        lambda: fitted().predict(DATA, groups=CODE, conditional=True),
        "leave groups= out",
    ),
    ("offset of none", lambda: fitted().predict(DATA, offset=W), "leave offset= out"),
    (
        "offset by name",
        lambda: lmm.fit(FORMULA, DATA, offset="w").predict(DATA, offset=W),
        "leave offset= out",
    ),
    ("offset for old rows", lambda: fitted_to_arrays().predict(offset=W), "pass newdata"),
    ("groups for old rows", lambda: fitted_to_arrays().predict(groups=CODE), "pass newdata"),
]


@pytest.mark.parametrize(
    ("call", "message"), [p[1:] for p in POINTLESS], ids=[p[0] for p in POINTLESS]
)
def test_an_argument_is_not_ignored(call, message):
    with pytest.raises(DataError, match=message):
        call()


def test_a_number_and_its_text_are_no_two_groups():
    """Ids of two files, or of a column that was typed in: twelve people were 24."""
    mixed = [str(v) if i % 2 else v for i, v in enumerate(DATA["g"])]
    with pytest.raises(DataError, match=r"'g' holds .* and '.*', which look alike"):
        lmm.fit(FORMULA, DATA.assign(g=mixed))
    apart = ["a" if v == DATA["g"].iloc[0] else v for v in DATA["g"]]
    found = lmm.fit(FORMULA, DATA.assign(g=apart))
    assert found.llf == pytest.approx(lmm.fit(FORMULA, DATA).llf, rel=1e-12)
    with pytest.raises(DataError, match="'id' holds 1 and '1'"):
        lmm.relationship(pd.DataFrame({"id": [1, "1"], "sire": [None] * 2, "dam": [None] * 2}))


def test_a_factor_in_the_index_is_named():
    with pytest.raises(FormulaError, match=r"`g` names the index.*reset_index"):
        lmm.fit(FORMULA, DATA.set_index("g"))
