"""Rows that lie in files and databases: sums batch by batch, or by one GROUP BY."""

from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
from engine_data import COMPUTED, DATA, MODELS, PLAIN
from helpers import assert_close
from sum_checks import assert_equal_sums, assert_same

import lmm_jax as lmm
from lmm_jax.engines.sources import source_of, summed_source
from lmm_jax.engines.streams import database

pyarrow = pytest.importorskip("pyarrow")
pl = pytest.importorskip("polars")
from pyarrow import dataset, parquet  # noqa: E402

needs_duckdb = pytest.mark.skipif(find_spec("duckdb") is None, reason="DuckDB is not installed")
SLOPE = PLAIN["slope"][0]


@pytest.fixture(scope="module")
def pattern(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    for i in range(3):  # sorted: the first file lacks levels
        part = DATA[200 * i : 200 * (i + 1)]
        parquet.write_table(pyarrow.Table.from_pandas(part, preserve_index=False),
                            folder / f"{i}.parquet", row_group_size=70)  # fmt: skip
    return str(folder / "*.parquet")


def relation(frame=DATA):
    duckdb = pytest.importorskip("duckdb")
    return duckdb.connect().from_arrow(pyarrow.Table.from_pandas(frame, preserve_index=False))


SOURCES = {
    "pattern": lambda pattern: pattern,
    "pyarrow": lambda pattern: dataset.dataset(pattern[: -len("/*.parquet")]),
    "polars": lambda pattern: pl.scan_parquet(pattern),
    "duckdb": lambda pattern: relation(),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", SOURCES)
def test_the_fit_of_the_sums_is_that_of_the_rows(kind, name, pattern):
    formula, options = MODELS[name]
    got = lmm.summarize(formula, SOURCES[kind](pattern), batch_size=90, **options)
    assert (got.n_missing, got.gaps) == (12, {"x": 12})
    assert_same(lmm.fit(got), lmm.fit(formula, DATA, **options))


@pytest.mark.parametrize("kind", ["pattern", "pyarrow"])
def test_fit_takes_sums_of_what_may_be_larger_than_memory(kind, pattern):
    got = lmm.fit(SLOPE, SOURCES[kind](pattern))
    assert_same(got, lmm.fit(SLOPE, DATA))
    with pytest.raises(lmm.DataError, match="came in batches"):
        got.resid  # noqa: B018
    with pytest.raises(lmm.DataError, match="subset, residual beside a"):
        lmm.fit(SLOPE, SOURCES[kind](pattern), subset="x > 0", residual="ar1(f | school)")


@pytest.mark.parametrize("kind", ["polars", "duckdb"])
def test_fit_reads_what_is_asked_of_an_engine_into_memory(kind, pattern):
    source = SOURCES[kind](pattern)
    assert summed_source(source) is None and source_of(source, 10) is not None
    assert len(lmm.fit(SLOPE, source).resid) == 588


def test_frames_in_memory_are_no_sources():
    for data in (DATA, pl.from_pandas(DATA), pyarrow.Table.from_pandas(DATA), [DATA], None, 5):
        assert source_of(data, 10) is None


def test_parts_of_different_engines_add_up(pattern):
    schema = lmm.schema(SLOPE, DATA)
    parts = [
        lmm.summarize(SLOPE, DATA[:100], schema=schema),
        lmm.summarize(SLOPE, pl.from_pandas(DATA[100:300]).lazy(), schema=schema),
        lmm.summarize(SLOPE, pyarrow.Table.from_pandas(DATA[300:]), schema=schema),
    ]
    assert_equal_sums(sum(parts), lmm.summarize(SLOPE, pattern, schema=schema))


def test_a_single_file_and_a_folder(pattern):
    folder = pattern[: -len("/*.parquet")]
    schema = lmm.schema(SLOPE, DATA)
    files = [lmm.summarize(SLOPE, f"{folder}/{i}.parquet", schema=schema) for i in range(3)]
    assert_equal_sums(sum(files), lmm.summarize(SLOPE, folder, schema=schema))


def test_levels_of_columns_that_are_numbers_and_logicals(pattern, tmp_path):
    data = DATA.assign(day=np.arange(len(DATA)) // 100, late=np.arange(len(DATA)) > 450)
    data.to_parquet(tmp_path / "a.parquet", row_group_size=50)
    formula = "y ~ C(day) + late + x + (1 | item)"
    got = lmm.summarize(formula, str(tmp_path / "*.parquet"), batch_size=50)
    assert_same(lmm.fit(got), lmm.fit(formula, data))


# ------------------------------------------------------------ GROUP BY

PUSHED = PLAIN | {
    "products": ("y ~ x * z * f + (x | school)", {}),
    "categories of numbers": ("y ~ C(day) + late + (0 + x | item) + (f | school)", {}),
    "no intercept": ("y ~ 0 + f + f:x + (1 | school)", {}),
    "offset": ("y ~ x + offset(z) + (1 | school)", {"offset": "w"}),
    "structure": ("y ~ x + cs(1 + x | school)", {}),
    "strange names": ('y ~ `a "b" {c}` + (1 | `of g`)', {}),
}
WIDE = DATA.assign(
    z=np.arange(len(DATA)) / 100 + 50, day=np.arange(len(DATA)) % 4, late=DATA["x"] > 2,
    **{'a "b" {c}': DATA["w"], "of g": DATA["item"]},
)  # fmt: skip


def answered_once(rows):
    """A database that keeps the queries that it was asked."""
    plain, asked = database(rows), []
    return plain._replace(answer=lambda query: asked.append(query) or plain.answer(query)), asked


@needs_duckdb
@pytest.mark.parametrize("name", PUSHED)
def test_one_query_gives_the_sums(name):
    from lmm_jax.engines.push_down import pushed_down

    formula, options = PUSHED[name]
    schema = lmm.schema(formula, WIDE, **options)
    base, asked = answered_once(relation(WIDE))
    got = pushed_down(schema, base)
    assert [("GROUP BY" in query) for query in asked][:2] == [True, False]
    assert_equal_sums(got, lmm.summarize(formula, WIDE, schema=schema))


@needs_duckdb
@pytest.mark.parametrize("name", COMPUTED)
def test_what_is_computed_from_columns_is_not_pushed_down(name):
    from lmm_jax.engines.push_down import pushed_down

    formula, options = COMPUTED[name]
    base, asked = answered_once(relation())
    assert pushed_down(lmm.schema(formula, DATA, **options), base) is None and not asked


@needs_duckdb
def test_queries_keep_the_digits_of_large_means():
    data = DATA.assign(y=DATA["y"] + 1e7, x=DATA["x"] + 1e5)
    formula = "y ~ x + f + (1 | school) + (1 | item)"
    got = lmm.summarize(formula, relation(data))
    assert got.lost_digits < 3
    assert lmm.fit(got).llf == pytest.approx(lmm.fit(formula, data).llf, rel=1e-10)


@needs_duckdb
def test_labels_that_are_missing_or_nan_are_missing():
    data = DATA.assign(school=DATA["school"].where(DATA.index % 7 > 0), x=DATA["x"].fillna(1.0))
    data["f"] = data["f"].where(DATA.index % 11 > 0)
    got = lmm.summarize(SLOPE, relation(data), schema=lmm.schema(SLOPE, data))
    want = lmm.summarize(SLOPE, data, schema=got.schema)
    assert (got.n_rows, got.n_missing, got.gaps) == (want.n_rows, want.n_missing, want.gaps)
    assert_equal_sums(got, want)


def bad(**columns):
    return DATA.assign(**columns)


REFUSED = {
    "missing": (SLOPE, DATA, {"missing": "raise"}, "missing values in 'x'"),
    "weights": (SLOPE, bad(w=0.0), {"weights": "w"}, "weights must be positive"),
    "infinite": (SLOPE, bad(x=DATA["x"].where(DATA.index != 450, np.inf)), {}, "nfinite"),
    "text": (SLOPE, bad(y=DATA["y"].astype(str)), {}, "is text"),
    "all missing": (SLOPE, bad(x=np.nan), {}, "no complete row"),
    "stranger": (SLOPE, bad(f=DATA["f"].replace("c", "d")), {"levels": {"f": ["a", "b", "c"]}},
                 "'d'"),
    "stranger in a group": (SLOPE, DATA, {"levels": {"school": range(5)}}, "among the 5"),
    "no column": ("y ~ q + (1 | school)", DATA, {}, "`?q`?"),
}  # fmt: skip


@needs_duckdb
@pytest.mark.parametrize("name", REFUSED)
def test_a_database_refuses_what_rows_are_refused_for(name):
    formula, data, options, words = REFUSED[name]
    with pytest.raises((lmm.DataError, lmm.FormulaError), match=words):
        if "levels" in options:
            schema = lmm.schema(formula, DATA[DATA["school"] < 5], **options)
            lmm.summarize(formula, relation(data), schema=schema)
        else:
            lmm.summarize(formula, relation(data), **options)


@needs_duckdb
def test_lists_are_no_numbers():
    lists = relation().project("* replace ([1, 2] as x)")
    formula = "y ~ x + (1 | school)"
    with pytest.raises(lmm.DataError, match="of the type ndarray"):
        lmm.summarize(formula, lists, schema=lmm.schema(formula, DATA))


@needs_duckdb
def test_no_rows_are_sums_of_no_rows():
    schema = lmm.schema(SLOPE, DATA)
    nothing = lmm.summarize(SLOPE, relation().filter("x > 1000"), schema=schema)
    whole = lmm.summarize(SLOPE, relation(), schema=schema)
    assert nothing.n_rows == 0
    assert_equal_sums(nothing + whole, whole)


@needs_duckdb
def test_keys_of_another_type_are_the_same_groups():
    schema = lmm.schema(SLOPE, DATA)
    text = relation(DATA.assign(school=DATA["school"].astype(str)))
    both = lmm.summarize(SLOPE, DATA[:300], schema=schema) + lmm.summarize(
        SLOPE, text.limit(300, 300), schema=schema
    )
    assert [len(products) for products in both.products] == [20]


def test_dates_are_labels(tmp_path):
    days = pd.Timestamp("2026-01-01") + pd.to_timedelta(np.arange(len(DATA)) % 12, unit="D")
    data = DATA.assign(day=days)
    data.to_parquet(tmp_path / "days.parquet")
    formula = "y ~ x + (1 | day)"
    got = lmm.fit(lmm.summarize(formula, tmp_path / "days.parquet"))
    assert_same(got, lmm.fit(formula, data))


def test_levels_that_only_incomplete_rows_have(pattern, tmp_path):
    data = DATA.assign(x=DATA["x"].where(DATA["f"] != "b"))
    data.to_parquet(tmp_path / "rows.parquet")
    formula = "y ~ x + f + (1 | school)"
    got = lmm.fit(formula, str(tmp_path / "*.parquet"))
    assert_same(got, lmm.fit(formula, data))


def test_a_schema_of_a_source(pattern):
    schema = lmm.schema(SLOPE, pattern)
    assert schema.names == ("Intercept", "x", "f[T.b]", "f[T.c]")
    part = lmm.summarize(SLOPE, DATA[:300], schema=schema)
    got = part + lmm.summarize(SLOPE, DATA[300:], schema=schema)
    assert_same(lmm.fit(got), lmm.fit(SLOPE, DATA))
    turned = lmm.schema(SLOPE, pattern, levels={"f": ["c", "b", "a"]})
    assert turned.names == ("Intercept", "x", "f[T.b]", "f[T.a]")


def test_a_pattern_is_a_frame_where_rows_are_needed(tmp_path):
    for i in range(2):
        DATA[i::2].to_parquet(tmp_path / f"{i}.parquet")
    pattern = str(tmp_path / "*.parquet")
    whole = pd.concat([DATA[0::2], DATA[1::2]])
    got = lmm.fit(lmm.design(SLOPE, pattern))
    assert_close(got.llf, lmm.fit(SLOPE, whole).llf, 1e-12)
    many = lmm.fit_many("~ x + (1 | school)", pattern, ["y"])
    assert_close(many.llf, [lmm.fit("y ~ x + (1 | school)", whole).llf], 1e-10)
    with pytest.raises(lmm.DataError, match="patterns are of Parquet files"):
        lmm.design(SLOPE, str(tmp_path / "*.csv"))


def broken(folder):
    DATA.to_parquet(folder / "a.parquet")
    (folder / "b.parquet").write_text("no Parquet")
    return str(folder / "*.parquet")


UNREADABLE = {
    "broken file": (broken, "b.parquet"),
    "no files": (lambda folder: str(folder / "*.parquet"), "no file matches"),
    "a query that fails": (
        lambda _: relation().project("* replace (cast(f as integer) as f)"),
        "DuckDBPyRelation cannot read",
    ),
    "a plan that fails": (
        lambda _: pl.from_pandas(DATA).lazy().with_columns(pl.col("f").cast(int)),
        "LazyFrame cannot read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_refused_in_words(name, tmp_path):
    make, words = UNREADABLE[name]
    with pytest.raises(lmm.DataError, match=words):
        lmm.summarize(SLOPE, make(tmp_path))


# ------------------------------------------------------------ files whose types differ


def files_of(folder, *frames):
    for i, frame in enumerate(frames):
        frame.to_parquet(folder / f"{i}.parquet", index=False)
    return str(folder / "*.parquet")


@pytest.mark.parametrize("floats_first", [False, True])
@pytest.mark.parametrize("column", ["x", "school"])
def test_integers_in_one_file_and_floats_in_another(column, floats_first, tmp_path):
    """Nothing is rounded to the type of the first file; 3 and 3.0 are one group."""
    data = DATA.dropna()
    parts = [data[:200].round({"x": 0}).astype({"x": int}), data[200:].assign(
        school=lambda d: d["school"] + np.where(np.arange(len(d)) % 2, 0.0, 0.5))]  # fmt: skip
    if column == "x":
        parts[1] = parts[1].assign(school=data[200:]["school"])
    frames = parts[::-1] if floats_first else parts
    got = lmm.fit("y ~ x + (1 | school)", files_of(tmp_path, *frames))
    assert_same(got, lmm.fit("y ~ x + (1 | school)", pd.concat(frames, ignore_index=True)))


def test_a_column_that_one_file_has_no_values_of(tmp_path):
    parts = [DATA[:200].assign(f=None), DATA[200:]]
    got = lmm.fit("y ~ x + f + (1 | school)", files_of(tmp_path, *parts))
    assert_same(got, lmm.fit("y ~ x + f + (1 | school)", DATA[200:]))


OTHERS = {
    "text for integers": (
        lambda d: d.assign(school="0" + d["school"].astype(str)),
        "`school` holds",
    ),
    "integers for logicals": (lambda d: d.assign(b=np.arange(len(d)) % 3), "`b` holds int64 in"),
    "no column": (lambda d: d.drop(columns="b"), "0.parquet has no column `b`|1.parquet has no"),
}


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("name", OTHERS)
def test_columns_of_another_kind_are_refused(name, last, tmp_path):
    change, message = OTHERS[name]
    data = DATA.assign(b=DATA["w"] > 1)
    parts = [data[:300], change(data[300:])]
    pattern = files_of(tmp_path, *(parts if last else parts[::-1]))
    message = message if last else message.replace("int64", "bool")
    with pytest.raises(lmm.DataError, match=message):
        lmm.fit("y ~ b + (1 | school)", pattern)
    if name != "text for integers":  # of columns in use alone
        lmm.fit("y ~ x + (1 | school)", pattern)
