"""Columns whose type is not what it looks like: dates, wide integers, complex numbers, objects."""

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


WORDS = {
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
