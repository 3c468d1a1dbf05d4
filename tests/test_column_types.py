"""Columns whose type is not what it looks like: dates, wide integers, complex numbers, objects."""

from decimal import Decimal
from fractions import Fraction
from functools import cache

import numpy as np
import pandas as pd
import pytest
from helpers import assert_close

import lmm_jax as lmm

SLEEP = lmm.load_dataset("sleepstudy").astype({"Subject": str})
WHEN = pd.Series(pd.Timestamp("2024-01-01") + pd.to_timedelta(SLEEP["Days"], unit="D"))
ZONED = WHEN.dt.tz_localize("Asia/Tokyo")
SPANS = WHEN - WHEN.min()
DAYS = SLEEP["Days"]
SAME = 1e-10  # the same numbers in another type


@cache
def fitted(which: str, of: str = "as.numeric(when)") -> lmm.LMMResults:
    column = {"dates": WHEN, "zoned": ZONED, "spans": SPANS, "numbers": DAYS}[which]
    return lmm.fit(f"Reaction ~ {of} + (1 | Subject)", SLEEP.assign(when=column))


def predicted(res: lmm.LMMResults, column) -> pd.Series:
    return res.predict(pd.DataFrame({"when": column[:3]}))


DATES_BEFORE = {
    "categories": WHEN.astype("category"),
    "periods": WHEN.dt.to_period("h"),
    "spans of time": SPANS,
    "numbers": DAYS,
    "logicals": DAYS > 0,
    "text": WHEN.astype(str),
}


@pytest.mark.parametrize("of", ["as.numeric(when)", "as.integer(when)", "I(when.dt.day)"])
@pytest.mark.parametrize("now", DATES_BEFORE)
def test_new_rows_hold_dates_where_the_fit_did(now, of):
    with pytest.raises(lmm.DataError, match=f"`when` holds {now}, dates in the data of the fit"):
        predicted(fitted("dates", of), DATES_BEFORE[now])


@pytest.mark.parametrize(
    ("was", "column", "message"),
    [
        ("dates", ZONED, "a time zone, none in the data of the fit"),
        ("zoned", WHEN, r"no time zone, one in the data.*tz_localize\('Asia/Tokyo'\)"),
        ("spans", WHEN, "holds dates, spans of time in the data"),
        ("numbers", WHEN, "holds dates, numbers in the data"),
    ],
)
def test_times_of_another_kind_are_refused(was, column, message):
    with pytest.raises(lmm.DataError, match=message):
        predicted(fitted(was), column)


@pytest.mark.parametrize("column", [WHEN, WHEN.dt.date, WHEN.astype("datetime64[s]")])
def test_dates_of_every_spelling_are_dates(column):
    res = fitted("dates")
    assert_close(predicted(res, column), res.predict(conditional=False)[:3], SAME)


@pytest.mark.parametrize("of", ["as.numeric(when)", "I(when.dt.hour)"])
def test_dates_of_another_zone_are_read_in_that_of_the_fit(of):
    data = SLEEP.assign(when=ZONED + pd.to_timedelta(DAYS, unit="h"))
    res = lmm.fit(f"Reaction ~ {of} + (1 | Subject)", data)
    turned = data.assign(when=data["when"].dt.tz_convert("UTC"))
    assert_close(res.predict(turned), res.predict(data), SAME)


def test_types_are_kept_of_sums_and_numbers_need_no_other_rows():
    parts = [SLEEP.assign(when=WHEN)[:90], SLEEP.assign(when=WHEN)[90:]]
    formula = "Reaction ~ as.numeric(when) + I(as.numeric(Days) ^ 2) + (1 | Subject)"
    sums = lmm.fit(lmm.summarize(formula, parts))
    assert_close(sums.llf, lmm.fit(formula, pd.concat(parts)).llf, SAME)
    with pytest.raises(lmm.DataError, match="a time zone, none"):
        lmm.summarize(formula, [parts[0], SLEEP.assign(when=ZONED)[90:]])


MIXED = {
    "fractions": [Fraction(int(v), 2) for v in DAYS],
    "decimals and floats": [Decimal(int(v)) / 2 if v % 2 else v / 2 for v in DAYS],
    "fractions and integers": [Fraction(int(v), 2) if v % 2 else int(v) // 2 for v in DAYS],
}


@pytest.mark.parametrize("case", MIXED)
def test_numbers_of_several_types_are_numbers(case):
    halves = pd.Series(MIXED[case], dtype=object)
    res = lmm.fit("Reaction ~ v + (1 | Subject)", SLEEP.assign(v=halves))
    same = lmm.fit("Reaction ~ v + (1 | Subject)", SLEEP.assign(v=DAYS / 2))
    assert_close(res.fe_params, same.fe_params, SAME)


WORDS = {
    "lists": ([[1, 2]] * 180, "v", "values of the type list, several in a row: make columns"),
    "a number out of range": ([Fraction(10**400), Decimal(1)] * 90, "v", "beyond 1e308"),
    "text": (np.where(DAYS > 4, "a", "b"), "as.numeric(v)", "`v` is text, 'b' for example"),
    "periods": (WHEN.dt.to_period("D"), "v", r"numbers or labels are needed, `C\(v\)`"),
    "intervals": (pd.IntervalIndex.from_arrays(DAYS, DAYS + 1), "v", r"needed, `C\(v\)`"),
}


@pytest.mark.parametrize("case", WORDS)
def test_what_is_no_number_says_what_to_write(case):
    values, written, message = WORDS[case]
    with pytest.raises(lmm.DataError, match=message):
        lmm.fit(f"Reaction ~ {written} + (1 | Subject)", SLEEP.assign(v=values))


WIDE = 2**60 + SLEEP["Reaction"].round().astype(int)
ROUNDED = "integers above 2\\^53, which float64 rounds by up to"


@pytest.mark.parametrize("of", ["q", "I(q - q.min())", "log(q)"])
@pytest.mark.parametrize("dtype", ["int64", "uint64", "Int64", "object"])
def test_responses_and_covariates_that_float64_would_round_are_refused(of, dtype):
    data = SLEEP.assign(q=WIDE.astype(dtype))
    for formula in (f"{of} ~ Days + (1 | Subject)", f"Reaction ~ {of} + (1 | Subject)"):
        with pytest.raises(lmm.DataError, match=f"`q` has {ROUNDED}"):
            lmm.fit(formula, data)


def test_arrays_that_float64_would_round_are_refused():
    X, y = np.column_stack([np.ones(180, int), WIDE]), SLEEP["Reaction"].to_numpy()
    with pytest.raises(lmm.DataError, match=f"endog has {ROUNDED}"):
        lmm.design_from_arrays(WIDE, X[:, :1], SLEEP["Subject"])
    with pytest.raises(lmm.DataError, match=f"exog has {ROUNDED}"):
        lmm.design_from_arrays(y, X, SLEEP["Subject"])


def test_wide_integers_that_are_far_apart_are_numbers():
    """Nanoseconds since 1970 are rounded by 1e-13 of the ten days that they are of."""
    nanoseconds = 1_700_000_000_000_000_000 + DAYS * 86_400_000_000_000
    res = lmm.fit("Reaction ~ q + (1 | Subject)", SLEEP.assign(q=nanoseconds))
    days = lmm.fit("Reaction ~ Days + (1 | Subject)", SLEEP)
    assert_close(res.fittedvalues, days.fittedvalues, 1e-9)
    assert lmm.fit("Reaction ~ Days + (1 | q)", SLEEP.assign(q=WIDE // 50)).n_groups["q"] > 2


@pytest.mark.parametrize("dtype", [complex, object])
@pytest.mark.parametrize("kind", ["ar1", "cs", "us", "toep"])
def test_complex_visits_are_refused(kind, dtype):
    data = SLEEP.assign(v=(DAYS + 1j).astype(dtype))
    with pytest.raises(lmm.DataError, match="complex numbers: visits have an order"):
        lmm.fit(f"Reaction ~ Days + {kind}(v | Subject)", data)


def test_numbers_for_logicals_say_how_they_become_logicals():
    data = SLEEP.assign(b=DAYS > 4)
    res = lmm.fit("Reaction ~ b + (1 | Subject)", data)
    new = data.astype({"b": int})
    with pytest.raises(lmm.DataError, match=r"`b` holds numbers, logicals.*\.astype\(bool\)"):
        res.predict(new)
    assert_close(res.predict(new.astype({"b": bool})), res.predict(data), SAME)


# ------------------------------------------------------------ new rows by their columns


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_groups_offset_and_weights_of_new_rows_may_be_named(kind):
    groups, days = SLEEP["Subject"].to_numpy(), DAYS.to_numpy(float)
    res = lmm.fit("Reaction ~ 1", SLEEP, groups=groups, offset=days)
    new = SLEEP[["Subject", "Days"]].assign(w=2.0)[:4]
    if kind == "polars":
        new = pytest.importorskip(kind).from_pandas(new)
    how = {"conditional": True, "interval": "prediction", "output": "pandas"}
    named = res.predict(new, groups="Subject", offset="Days", weights="w", **how)
    arrays = res.predict(new, groups=groups[:4], offset=days[:4], weights=np.full(4, 2.0), **how)
    assert_close(named, arrays, SAME)
    with pytest.raises(lmm.DataError, match="'subject' names no column of the new data"):
        res.predict(new, groups="subject", offset="Days")


# ------------------------------------------------------------ values and variables of means

LEVELS = {
    "dates": (WHEN, "2024-01-01, 2024-01-02"),
    "periods": (WHEN.dt.to_period("D"), "2024-01-01, 2024-01-02"),
    "intervals": (pd.IntervalIndex.from_arrays(DAYS, DAYS + 1), r"\(0, 1\], \(1, 2\]"),
    "spans": (SPANS, "0 days 00:00:00, 1 days"),
    "integers": (DAYS.astype("Int64"), "0, 1, 2"),
    "logicals": (DAYS > 4, "False, True"),
}


@pytest.mark.parametrize("case", LEVELS)
def test_levels_are_listed_as_they_are_written(case):
    column, listed = LEVELS[case]
    res = lmm.fit("Reaction ~ C(t) + (1 | Subject)", SLEEP.assign(t=column))
    for value in ("2030-05-05", pd.Timestamp("2030-05-05")):
        with pytest.raises(lmm.DataError, match=f"2030-05-05'? for 't', whose levels are {listed}"):
            lmm.emmeans(res, "t", at={"t": [value]})


@pytest.mark.parametrize(
    ("which", "value", "message"),
    [
        ("dates", ZONED[0], "2024-01-01 00:00:00.09:00, which is no date without a time zone"),
        ("zoned", WHEN[0], "2024-01-01, which is no date in a time zone, as of Asia/Tokyo"),
        ("dates", "x", "'x', which is no date$"),
        ("spans", WHEN[0], "2024-01-01, which is no span of time"),
        ("numbers", [[1, 2]], r"at\['when'\] has the shape \(1, 2\): a list of numbers is needed"),
    ],
)
def test_values_of_another_kind_are_refused_in_words(which, value, message):
    with pytest.raises(lmm.DataError, match=message):
        lmm.emmeans(fitted(which), "1", at={"when": value})


def test_a_variable_may_be_called_like_a_formula():
    data = SLEEP.assign(**{"a|b": np.where(DAYS % 2, "u", "v")})
    res = lmm.fit("Reaction ~ `a|b` + (1 | Subject)", data)
    plain, quoted = (lmm.emmeans(res, name).to_frame() for name in ("a|b", "`a|b`"))
    assert_close(plain["estimate"], quoted["estimate"], SAME)
    with pytest.raises(lmm.DataError, match="'a' is no variable"):
        lmm.emmeans(res, "a|c")


def test_relationships_of_ids_of_several_levels_are_refused():
    ids = sorted(set(SLEEP["Subject"]))
    A = pd.DataFrame(np.eye(18), index=ids, columns=ids)
    for axis in ("index", "columns"):
        with pytest.raises(lmm.DataError, match="labels of several levels"):
            turned = A.set_axis(pd.MultiIndex.from_arrays([ids, ids]), axis=axis)
            lmm.fit("Reaction ~ Days + (1 | Subject)", SLEEP, relatedness={"Subject": turned})


# ------------------------------------------------------------ frames of other packages


@pytest.mark.parametrize("how", ["named", "handed over"])
def test_contrasts_may_be_a_frame_of_polars(how):
    pl = pytest.importorskip("polars")
    cake, formula = lmm.load_dataset("cake"), "angle ~ C(recipe, M) + (1 | recipe:replicate)"
    columns = {"u": [1.0, -1.0, 0.0], "v": [0.0, 1.0, -1.0]}
    M = pd.DataFrame(columns)
    expected = lmm.fit(formula, cake).fe_params
    M = pl.DataFrame(columns)
    context = {} if how == "named" else {"context": {"M": M}}
    found = lmm.fit(formula, cake, **context).fe_params
    pd.testing.assert_series_equal(found, expected)


def test_a_folder_without_an_ending_names_its_pattern(tmp_path):
    pytest.importorskip("pyarrow")
    SLEEP.to_parquet(tmp_path / "a.parquet")
    formula = "Reaction ~ Days + (1 | Subject)"
    with pytest.raises(lmm.DataError, match=r"the Parquet files of a folder, .*/\*\.parquet"):
        lmm.fit(formula, tmp_path)
    found = lmm.fit(formula, f"{tmp_path}/*.parquet")
    assert_close(found.llf, lmm.fit(formula, SLEEP).llf, SAME)


# ------------------------------------------------------------ labels that leave as tables

SUBJECT = pd.factorize(SLEEP["Subject"])[0]


@pytest.mark.parametrize(
    "labels",
    [
        pd.IntervalIndex.from_arrays(SUBJECT, SUBJECT + 1),
        pd.PeriodIndex.from_ordinals(SUBJECT, freq="D"),
        [2**70 + int(v) for v in SUBJECT],
        np.uint64(2**63) + SUBJECT.astype("u8"),
        pd.Series([int(v) if v % 2 else f"a{v}" for v in SUBJECT], dtype=object),
    ],
)
def test_sums_keep_their_labels_apart_in_tables(labels):
    pytest.importorskip("pyarrow")
    formula = "Reaction ~ Days + (1 | Subject)"
    sums = lmm.summarize(formula, SLEEP.assign(Subject=labels))
    found = lmm.fit(lmm.RowSums.from_arrow(sums.to_arrow(), sums.schema))
    assert_close(found.llf, lmm.fit(formula, SLEEP).llf, SAME)


def test_labels_that_are_one_as_text_are_refused():
    labels = [int(v) // 2 if v % 2 else str(v // 2) for v in SUBJECT]
    data = SLEEP.assign(Subject=pd.Series(labels, dtype=object))
    with pytest.raises(lmm.DataError, match="'Subject' holds 0 and '0', which look alike"):
        lmm.summarize("Reaction ~ Days + (1 | Subject)", data)
    texts, numbers = (data[[isinstance(v, kind) for v in labels]] for kind in (str, int))
    schema = lmm.schema("Reaction ~ Days + (1 | Subject)", SLEEP)
    sums = [lmm.summarize(schema.formula, part, schema=schema) for part in (texts, numbers)]
    whole = lmm.fit(sums[0] + sums[1])  # of parts a number and its text are one level
    pairs = SLEEP.assign(Subject=[v // 2 for v in SUBJECT])
    assert whole.llf == pytest.approx(lmm.fit(schema.formula, pairs).llf, rel=1e-10)


@pytest.mark.parametrize("output", ["pyarrow", "polars"])
@pytest.mark.parametrize("first", [2**63, 2**64, -(2**64)])
def test_wide_labels_leave_in_tables_of_other_packages(first, output):
    pytest.importorskip(output)
    labels = [first + int(v) for v in SUBJECT]
    res = lmm.fit("Reaction ~ Days + (1 | Subject)", SLEEP.assign(Subject=labels))
    for table in (res.random_effects_frame(output=output), res.tidy("ran_vals", output=output)):
        assert list(map(int, list(table.to_pandas()["level"]))) == sorted(set(labels))
