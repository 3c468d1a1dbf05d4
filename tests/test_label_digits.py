"""Labels keep all their digits and their declared order, whatever container they come in."""

import datetime
import decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest

import lmm_jax as lmm
from lmm_jax import DataError
from lmm_jax.inputs.files import read_table
from lmm_jax.inputs.series import foreign_column, since, whole_numbers

N, L = 60, 10
G = np.repeat(np.arange(L), N // L)
RNG = np.random.default_rng(5)
X = RNG.normal(size=N)
WITHIN = np.arange(N) % (N // L)
Y = 1.0 + X + RNG.normal(size=L)[G] + RNG.normal(size=N)
BASE = {"y": Y, "x": X}
MODEL = "y ~ x + (1 | g)"
FIRST = 2**53
IDS = [None if i == 3 else FIRST + int(v) for i, v in enumerate(G)]
HUGE = [None if i == 3 else 2**63 + int(v) for i, v in enumerate(G)]


def arrow():
    return pytest.importorskip("pyarrow")


CONTAINERS = {
    "list of None": lambda: IDS,
    "list of NaN": lambda: [np.nan if v is None else v for v in IDS],
    "list of NA": lambda: [pd.NA if v is None else v for v in IDS],
    "tuple": lambda: tuple(IDS),
    "beyond 63 bits": lambda: HUGE,
    "beyond 64 bits": lambda: [None if v is None else 4 * v for v in HUGE],
    "masked array": lambda: np.ma.masked_array(FIRST + G, np.arange(N) == 3),
    "Int64": lambda: pd.array(IDS, dtype="Int64"),
    "polars": lambda: pl.Series(IDS),
    "polars, unsigned": lambda: pl.Series(HUGE, dtype=pl.UInt64),
    "polars, 128 bits": lambda: pl.Series(IDS).cast(pl.Int128),
    "pyarrow": lambda: arrow().array(IDS),
    "pyarrow, in chunks": lambda: arrow().chunked_array([IDS[:20], IDS[20:]]),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_integers_beside_gaps_are_kept_by_every_door(kind):
    ids = CONTAINERS[kind]()
    want = lmm.design(MODEL, pd.DataFrame(BASE).assign(g=np.where(np.arange(N) == 3, np.nan, G)))
    found = [
        lmm.design(MODEL, {**BASE, "g": ids}),
        lmm.design("y ~ x", BASE, groups=ids),
        lmm.design_from_arrays(Y, np.c_[np.ones(N), X], ids, missing="drop"),
    ]
    for design in found:
        assert design.n_missing == 1
        np.testing.assert_array_equal(design.terms[0].codes, want.terms[0].codes)
    assert lmm.design("y ~ C(g) + (1 | v)", {**BASE, "g": ids, "v": WITHIN}).exog.shape[1] == L


def test_long_numbers_in_objects_are_labels_to_the_last_digit():
    for make in (lambda v: 2**66 + v, lambda v: decimal.Decimal(2**60 + v), lambda v: 10**400 + v):
        data = pd.DataFrame(BASE).assign(g=[make(int(v)) for v in G], v=WITHIN)
        assert lmm.design("y ~ C(g) + (1 | v)", data).exog.shape[1] == L
        res = lmm.fit(MODEL, data)
        found = res.predict(data.iloc[[N - 1]], conditional=True)
        np.testing.assert_allclose(found, res.fittedvalues[-1:])
        with pytest.raises(DataError, match="above 2"):
            lmm.design("y ~ x + (1 | I(g % 7))", data)
    numbers = pd.DataFrame(BASE).assign(g=G, x=[decimal.Decimal(2**60 * int(v)) for v in WITHIN])
    want = lmm.design(MODEL, numbers.assign(x=2.0**60 * WITHIN))
    np.testing.assert_array_equal(lmm.design(MODEL, numbers).exog, want.exog)


@pytest.mark.parametrize(
    "ids",
    [
        [2**63 + int(v) if v else -1 for v in G],
        [float(FIRST) if v == 0 else FIRST + int(v) for v in G],
    ],
    ids=["signs", "beside a float"],
)
def test_lists_that_numpy_would_round_are_kept(ids):
    for data, options in (({**BASE, "g": ids}, {}), (BASE, {"groups": ids})):
        formula = "y ~ x" if options else MODEL
        assert lmm.design(formula, data, **options).n_groups == L


def test_lists_of_floats_stay_what_they_are():
    for values in ([1.5, 2.5], [1.5, None], [1e300, 2.0], [1.0, float("nan")], ["a", None]):
        assert whole_numbers(values) is None
    assert lmm.design("y ~ x", BASE, groups=G.tolist(), weights=[1.0] * N).n_groups == L


def test_new_rows_find_the_effect_of_their_own_label():
    res = lmm.fit(MODEL, pd.DataFrame(BASE).assign(g=FIRST + G))
    want = res.predict({"x": [0.0, 0.0], "g": [FIRST + 1, FIRST + 2]}, conditional=True)
    for ids in (pl.Series([FIRST + 1, FIRST + 2, None]), [FIRST + 1, FIRST + 2, np.nan]):
        found = np.asarray(res.predict({"x": [0.0] * 3, "g": ids}, conditional=True))
        np.testing.assert_array_equal(found[:2], want)
        assert np.isnan(found[2])


PEDIGREE = {"id": [1, 2, 3, 4], "sire": [None, None, 1, 1], "dam": [0, None, 2, 3]}
TYPES = {
    "Int64": lambda v: pd.array(v, dtype="Int64"),
    "objects": lambda v: pd.array(v, dtype=object),
    "decimals": lambda v: [None if x is None else decimal.Decimal(f"{x}.0") for x in v],
    "decimals of Arrow": lambda v: pd.array(v, dtype=pd.ArrowDtype(arrow().decimal128(38, 0))),
    "polars": pl.Series,
    "pyarrow": lambda v: arrow().array(v),
    "text views": lambda v: pd.array(
        [None if x is None else str(x) for x in v], dtype=pd.ArrowDtype(arrow().string_view())
    ),
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("first", [0, 2**53])
def test_pedigrees_of_every_type_are_the_same(kind, first):
    want = lmm.relationship(pd.DataFrame(PEDIGREE))
    columns = {
        name: TYPES[kind]([first + v if v else v for v in values])
        for name, values in PEDIGREE.items()
    }
    ways = [columns, pl.DataFrame(columns)] if kind == "polars" else [columns]
    for pedigree in ways:
        found = lmm.relationship(pedigree)
        np.testing.assert_array_equal(found, want)
        assert [int(float(v)) if not first else int(v) for v in found.index] == [
            first + v for v in PEDIGREE["id"]
        ]


# ------------------------------------------------------------ files


def test_a_csv_file_keeps_the_digits_of_integers_beside_a_gap(tmp_path):
    for ids in (IDS, [None if v is None else 2**60 + v for v in IDS]):
        path = tmp_path / "data.csv"
        pd.DataFrame(BASE).assign(g=pd.array(ids, dtype="Int64")).to_csv(path, index=False)
        design = lmm.design(MODEL, path)
        assert design.n_groups == L
        assert design.terms[0].levels.tolist() == sorted(set(filter(None, ids)))


def test_numbers_of_a_csv_file_are_the_covariates_that_they_were(tmp_path):
    x = [None if i == 4 else int(v) for i, v in enumerate(WITHIN)]
    path, data = tmp_path / "data.csv", pd.DataFrame(BASE).assign(g=G)
    data.assign(x=pd.array(x, dtype="Int64")).to_csv(path, index=False)
    formula = "y ~ x + I(x**2 / 2) + log(x + 1) + (x | g)"
    want = lmm.design(formula, data.assign(x=[np.nan if v is None else v for v in x]))
    found = lmm.design(formula, path)
    assert found.exog_names == want.exog_names
    np.testing.assert_array_equal(found.exog, want.exog)


def test_what_a_file_writes_as_decimals_stays_a_float(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("a,b,c,d\n1,1.0,1e3,x\n,,,y\n 3,2.0,4,\n")
    assert [str(t) for t in read_table(str(path)).dtypes[:3]] == ["Int64", "float64", "float64"]


# ------------------------------------------------------------ dates and times


@pytest.mark.parametrize("step", [1, 500])
@pytest.mark.parametrize("kind", ["date", "zone", "span", "time"])
def test_nanoseconds_of_polars_tell_groups_apart(kind, step):
    ns = pl.Series([None if i == 3 else step * int(v) for i, v in enumerate(G)], dtype=pl.Int64)
    dates = (ns + 1_700_000_000_000_000_000).cast(pl.Datetime("ns"))
    labels = {
        "date": dates,
        "zone": dates.dt.replace_time_zone("Europe/Berlin"),
        "span": ns.cast(pl.Duration("ns")),
        "time": ns.cast(pl.Time),
    }[kind]
    data = pl.DataFrame(BASE).with_columns(g=labels)
    want = lmm.design("y ~ x", BASE, groups=ns).terms[0].codes
    ways = [data, {**BASE, "g": labels}]
    if arrow():
        ways.append(data.to_arrow())
    for way in ways:
        np.testing.assert_array_equal(lmm.design(MODEL, way).terms[0].codes, want)
    res = lmm.fit(MODEL, data)
    here = np.arange(N) != 3
    found = res.predict(data, conditional=True).to_numpy()[here]
    np.testing.assert_allclose(found, np.asarray(res.fittedvalues), rtol=1e-12)


def test_times_of_day_on_microseconds_are_times():
    found = foreign_column(pl.Series([1_500_000, 86_399_999_999_000]).cast(pl.Time))
    assert [str(t) for t in found] == ["00:00:00.001500", "23:59:59.999999"]


# ------------------------------------------------------------ the declared order


SIZES = ["mid", "low", "high"]
SIZE = np.array(SIZES)[np.arange(N) % 3]


def test_the_declared_order_of_levels_is_kept_in_a_mapping():
    pa = arrow()
    codes = pa.array([SIZES.index(v) for v in SIZE], pa.int8())
    dictionary = pa.DictionaryArray.from_arrays(codes, SIZES)
    given = [
        pl.Series(SIZE, dtype=pl.Enum(SIZES)),
        dictionary,
        pa.chunked_array([dictionary[:7], dictionary[7:]]),
        pd.Series(pd.array(dictionary, dtype=pd.ArrowDtype(dictionary.type))),
    ]
    for size in given:
        names = lmm.design("y ~ size + (1 | g)", {**BASE, "g": G, "size": size}).exog_names
        assert names == ("Intercept", "size[T.low]", "size[T.high]")
        levels = lmm.design("y ~ x", BASE, groups=size).terms[0].levels
        assert list(levels) == SIZES
    unordered = {**BASE, "g": G, "size": pl.Series(SIZE, dtype=pl.Categorical)}
    assert lmm.design("y ~ size + (1 | g)", unordered).exog_names[1:] == (
        "size[T.low]",
        "size[T.mid]",
    )


def test_dictionaries_of_arrow_with_equal_or_empty_entries():
    pa = arrow()
    table = pa.table(BASE)
    for last, groups, missing in ("0", L - 1, 0), (None, L - 1, N // L):
        entries = pa.array([*map(str, range(L - 1)), last])
        g = pa.DictionaryArray.from_arrays(pa.array(G), entries)
        for data in (table.append_column("g", g), {**BASE, "g": g}):
            design = lmm.design(MODEL, data)
            assert (design.n_groups, design.n_missing) == (groups, missing)


# ------------------------------------------------------------ types that pandas cannot work with


@pytest.mark.parametrize("kind", [np.float16, np.longdouble, ">f8", ">i4", ">u2"])
def test_short_and_long_floats_are_labels_and_factors(kind):
    data = pd.DataFrame(BASE).assign(g=G.astype(kind), v=(G % 5).astype(kind))
    plain = pd.DataFrame(BASE).assign(g=G, v=G % 5)
    res = lmm.fit("y ~ C(v) + (1 | g)", data)
    assert res.llf == lmm.fit("y ~ C(v) + (1 | g)", plain).llf
    np.testing.assert_allclose(res.predict(data, conditional=True), res.fittedvalues)
    assert len(res.random_effects_frame(output="polars")) == L
    assert lmm.row_index(G.astype(kind)).n_groups == lmm.row_index(G).n_groups
    given = lmm.fit("y ~ 1", data, groups=G.astype(kind))
    assert given.predict({"v": [1]}, groups=[G[0]], conditional=True).notna().all()
    visits = data.assign(v=(np.arange(N) % 6).astype(kind))
    assert np.isfinite(lmm.fit("y ~ C(v) + cs(v | g)", visits).llf)


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize <= 8, reason="no longer than float64")
def test_long_floats_that_float64_makes_equal_are_refused_as_labels():
    labels = np.longdouble(2) ** 60 + G.astype(np.longdouble)
    data = pd.DataFrame(BASE).assign(g=labels)
    for call in (lambda: lmm.fit(MODEL, data), lambda: lmm.row_index(labels)):
        with pytest.raises(DataError, match="does not tell apart"):
            call()
    assert lmm.design("y ~ x + g + (1 | v)", data.assign(g=labels / 2**60 + G, v=WITHIN)).nobs == N


def test_strings_and_lists_of_arrow_in_columns_of_pandas():
    pa = arrow()
    data = pd.DataFrame(BASE)
    text = [None if i == 3 else str(v) for i, v in enumerate(G)]
    views = pd.array(text, dtype=pd.ArrowDtype(pa.string_view()))
    want = lmm.fit(MODEL, data.assign(g=text))
    found = lmm.fit(MODEL, data.assign(g=views))
    assert found.llf == want.llf == lmm.fit("y ~ x", data, groups=views).llf
    assert lmm.design("y ~ f + (1 | g)", data.assign(f=views, g=WITHIN)).exog.shape[1] == L
    for kind, make in (
        (pa.list_(pa.string()), lambda v: [v]),
        (pa.struct({"a": pa.string()}), dict),
    ):
        values = [make(v) if make is not dict else {"a": v} for v in text]
        column = pd.array(values, dtype=pd.ArrowDtype(kind))
        with pytest.raises(DataError, match="cannot group the rows"):
            lmm.fit(MODEL, data.assign(g=column))


def test_integers_of_128_bits_are_numbers():
    data = pl.DataFrame(BASE).with_columns(g=pl.Series(G), x=pl.Series(G % 7).cast(pl.Int128))
    want = lmm.fit(MODEL, data.with_columns(x=pl.Series(G % 7)))
    assert lmm.fit(MODEL, data).llf == want.llf


# ------------------------------------------------------------ numbers beside the data


def test_decimals_of_arrow_are_numbers_beside_the_data():
    pa = arrow()
    data = pd.DataFrame(BASE).assign(g=G)
    column = [decimal.Decimal(1 + i % 3) for i in range(N)]
    given = pd.Series(column, dtype=pd.ArrowDtype(pa.decimal128(5, 0)))
    want = lmm.fit(MODEL, data, weights=[float(v) for v in column], offset=[1.0] * N)
    for weights in (given, given.array, pa.array(column), pl.Series(column)):
        assert lmm.fit(MODEL, data, weights=weights, offset=[1.0] * N).llf == want.llf
    responses = lmm.fit_many("~ x + (1 | g)", data, pd.DataFrame({"a": given, "b": Y}))
    assert np.isfinite(responses.llf).all()


@pytest.mark.parametrize("value", [10**400, decimal.Decimal("sNaN")], ids=["long", "signals"])
def test_numbers_that_floats_cannot_be_are_refused(value):
    rest = value if isinstance(value, int) else decimal.Decimal(1)
    column = pd.Series([value, *[rest] * (N - 1)], dtype=object)
    data = pd.DataFrame(BASE).assign(g=G)
    for name in ("x", "y"):
        with pytest.raises(DataError, match=f"`{name}` (has numbers beyond|holds Decimal)"):
            lmm.fit(MODEL, data.assign(**{name: column}))
    with pytest.raises(DataError, match="weights"):
        lmm.fit(MODEL, data, weights=column)
    with pytest.raises(DataError, match="`x`"):
        lmm.fit(MODEL, data).predict({"x": [value], "g": [0]})


# ------------------------------------------------------------ visits


@pytest.mark.parametrize("first", [2**60, 10**18, -(2**62)])
@pytest.mark.parametrize("term", ["ar1({})", "toep({})", "ar1h({})", "arma({}, p=2, q=0)"])
def test_visits_are_as_far_apart_as_their_integers(term, first):
    data = pd.DataFrame(BASE).assign(g=G, v=WITHIN)
    formula = "y ~ x + " + term.format("v | g")
    near = lmm.fit(formula, data)
    for kind in ("int64", "Int64"):
        far = data.assign(v=pd.array(first + WITHIN, dtype=kind))
        res = lmm.fit(formula, far)
        assert res.llf == near.llf
        np.testing.assert_allclose(
            res.predict(far, conditional=True), near.predict(data, conditional=True), rtol=1e-10
        )


def test_a_new_visit_is_as_far_as_its_integer():
    found = []
    for first in (0, 2**60):
        data = pd.DataFrame(BASE).assign(g=G, v=first + WITHIN)
        new = {"x": [0.0], "g": [0], "v": [first + 7]}
        found.append(lmm.fit("y ~ x + ar1(v | g)", data).predict(new, conditional=True)[0])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-10)


def test_distances_are_exact_and_too_many_are_refused():
    ends = pd.Series([-(2**63), 0, 2**63 - 1])
    assert since(ends, -(2**63)).tolist() == [0.0, 2.0**63, 2.0**64]
    assert since(pd.Series([1, 5], dtype="uint8"), 3).tolist() == [-2.0, 2.0]
    assert since(pd.Series([2**63 + 5], dtype="uint64"), 2**63).tolist() == [5.0]
    data = pd.DataFrame(BASE).assign(g=G, v=10**18 + np.arange(N) * (10**12 + 1) + np.arange(N) % 7)
    with pytest.raises(DataError, match=r"distances, up to \d+ are taken"):
        lmm.fit("y ~ x + toep(v | g)", data)


def test_no_time_is_no_reference():
    days = pd.Timestamp("2024-06-02") + pd.to_timedelta(np.arange(N) % 3, unit="D")
    means = lmm.emmeans(lmm.fit("y ~ C(t) + (1 | g)", pd.DataFrame(BASE).assign(g=G, t=days)), "t")
    with pytest.raises(DataError, match="ref=NaT: there are the levels 2024-06-02,"):
        means.contrast("trt.vs.ctrl", ref=pd.NaT)
    day = datetime.date(2024, 6, 3)
    found = means.contrast("trt.vs.ctrl", ref=day).to_frame()
    assert found["contrast"].str.endswith("2024-06-03)").all()


def test_times_a_nanosecond_apart_at_midnight_are_not_their_day():
    midnight = pd.DatetimeIndex(np.datetime64("2024-06-02T00:00:00.000000000") + np.arange(4))
    data = pd.DataFrame(BASE).assign(g=G, t=midnight[np.arange(N) % 4])
    res = lmm.fit("y ~ C(t) + (1 | g)", data)
    assert len(res.fe_params) == 4 and len(set(res.fe_params.index)) == 4
    both = lmm.fit("y ~ 1 + (1 | g:t)", data)
    np.testing.assert_allclose(both.predict(data, conditional=True), both.fittedvalues)


def test_the_hour_that_comes_twice_is_found_from_another_zone():
    hours = pd.date_range("2024-11-02 20:00", periods=12, freq="h", tz="America/New_York")
    data = pd.DataFrame(BASE).assign(t=hours[np.arange(N) % 12])
    res = lmm.fit("y ~ 1 + (1 | t)", data)
    moved = data.assign(t=data["t"].dt.tz_convert("UTC"))
    np.testing.assert_array_equal(res.predict(moved, conditional=True), res.fittedvalues)


@pytest.mark.parametrize(
    "ref",
    [np.timedelta64(1, "s"), datetime.timedelta(seconds=1), pd.Timedelta(seconds=1)],
    ids=["numpy", "python", "pandas"],
)
def test_a_reference_is_a_span_of_time_of_any_kind(ref):
    spans = pd.to_timedelta(np.arange(N) % 3, unit="s")
    res = lmm.fit("y ~ C(t) + (1 | g)", pd.DataFrame(BASE).assign(g=G, t=spans))
    found = lmm.emmeans(res, "t").contrast("trt.vs.ctrl", ref=ref)
    assert all(label.endswith("- 0 days 00:00:01") for label in found.to_frame()["contrast"])
