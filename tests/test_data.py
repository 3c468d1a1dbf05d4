"""What `data=` may be: every kind of frame, file and relation gives the design of pandas."""

import decimal
import subprocess
import sys
from pathlib import Path

import narwhals as nw
import narwhals.stable.v1 as nw_stable
import numpy as np
import pandas as pd
import polars as pl
import pytest
import samples

import lmm_jax as lmm
from lmm_jax import DataError, FormulaError

RTOL = 1e-12  # the same numbers, added in the same order

N = 60
LEVELS = ["mid", "low", "high"]  # declared, and not in the order of the alphabet
HOLE = np.arange(N) == 7
FORMULA = "y ~ x + size + flag + price + C(day) + (1 + x | g)"


def pandas_frame():
    base = samples.frame()
    rng = np.random.default_rng(8)
    day = pd.to_datetime("2026-01-01") + pd.to_timedelta(np.arange(N) % 3, unit="D")
    return pd.DataFrame(
        {
            "y": base["y"],
            "x": pd.array(np.where(HOLE, np.nan, base["x"]), dtype="Float64"),
            "g": pd.array(2**53 + np.repeat(np.arange(10), 6), dtype="Int64"),
            "size": pd.Categorical(rng.choice(LEVELS, N), categories=LEVELS),
            "flag": pd.array(rng.random(N) < 0.5, dtype="boolean"),
            "price": np.round(rng.random(N), 2),
            "day": day,
            "w": 1.0 + np.arange(N) % 4,
            "never": [{"a": 1}] * N,
        }
    )


DATA = pandas_frame()
PLAIN = DATA.drop(columns="never")


def polars_frame():
    return pl.DataFrame(
        {
            "y": DATA["y"].to_list(),
            "x": DATA["x"].astype(object).where(~HOLE, None).to_list(),
            "g": DATA["g"].to_list(),
            "size": pl.Series(DATA["size"].tolist(), dtype=pl.Enum(LEVELS)),
            "flag": DATA["flag"].to_list(),
            "price": pl.Series([decimal.Decimal(f"{v:.2f}") for v in DATA["price"]]),
            "day": [stamp.date() for stamp in DATA["day"]],
            "w": DATA["w"].to_list(),
            "never": DATA["never"].to_list(),
        }
    )


def arrow_table():
    pytest.importorskip("pyarrow")
    return polars_frame().to_arrow()


def relation():
    duckdb = pytest.importorskip("duckdb")
    pytest.importorskip("pyarrow")
    connection = duckdb.connect()
    connection.execute(f"create type sizes as enum {tuple(LEVELS)}")
    connection.register("given", arrow_table())
    return connection.sql("select * replace (cast(size as sizes) as size) from given")


def ibis_table():
    ibis = pytest.importorskip("ibis")
    pytest.importorskip("duckdb")
    return ibis.memtable(DATA[["y", "price", "w"]].assign(g=DATA["g"].astype("int64")))


def written(folder, name, frame=None):
    path = folder / name
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
        (PLAIN if frame is None else frame).to_parquet(path, row_group_size=7)
    elif name.endswith("feather"):
        pytest.importorskip("pyarrow")
        PLAIN.to_feather(path)
    else:
        PLAIN.to_csv(path, index=False, sep="\t" if ".tsv" in name else ",")
    return path


KINDS = {
    "polars": polars_frame,
    "polars, lazy": lambda: polars_frame().lazy(),
    "pyarrow": arrow_table,
    "a record batch": lambda: arrow_table().combine_chunks().to_batches()[0],
    "duckdb": relation,
    "narwhals of pandas": lambda: nw.from_native(DATA),
    "narwhals of polars": lambda: nw.from_native(polars_frame()),
    "narwhals, lazy": lambda: nw.from_native(polars_frame().lazy()),
    "narwhals, stable": lambda: nw_stable.from_native(polars_frame()),
    "narwhals of duckdb": lambda: nw.from_native(relation()),
    "a mapping": lambda: dict(DATA.items()),
}


def same(got, want):
    """Designs of the same rows, whatever the names of levels."""
    assert got.exog.shape == want.exog.shape
    assert [name.split("[")[0] for name in got.exog_names] == [
        name.split("[")[0] for name in want.exog_names
    ]
    for name in ("endog", "exog", "weights"):
        ours, theirs = getattr(got, name), getattr(want, name)
        if theirs is not None:
            np.testing.assert_allclose(ours, theirs, rtol=RTOL)
    for ours, theirs in zip(got.terms, want.terms, strict=True):
        np.testing.assert_array_equal(ours.codes, theirs.codes)
        np.testing.assert_allclose(ours.values, theirs.values, rtol=RTOL)
    assert (got.n_missing, got.gaps) == (want.n_missing, want.gaps)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_frame_gives_the_design_of_pandas(kind):
    data = KINDS[kind]()
    want = lmm.design(FORMULA, DATA, weights="w")
    got = lmm.design(FORMULA, data, weights="w")
    same(got, want)
    assert got.n_missing == 1
    assert got.terms[0].levels.tolist() == want.terms[0].levels.tolist()
    assert [n for n in got.exog_names if "size" in n] == ["size[T.low]", "size[T.high]"]


@pytest.mark.parametrize("name", ["data.parquet", "data.feather", "data.csv", "data.tsv.gz"])
@pytest.mark.parametrize("as_path", [str, Path])
def test_files_give_the_design_of_pandas(tmp_path, name, as_path):
    data = as_path(written(tmp_path, name))
    typed = "feather" in name or "parquet" in name
    formula = FORMULA if typed else FORMULA.replace("size", f"factor(size, levels={LEVELS})")
    want = lmm.design(FORMULA, DATA)
    got = lmm.design(formula, data)
    np.testing.assert_allclose(got.exog, want.exog, rtol=RTOL)
    np.testing.assert_array_equal(got.terms[0].codes, want.terms[0].codes)


@pytest.mark.parametrize("by", ["pandas", "polars"])
def test_parquet_keeps_the_declared_order_of_levels(tmp_path, by):
    pytest.importorskip("pyarrow")
    path = tmp_path / "data.parquet"
    frame = DATA[["y", "g"]].assign(size=pd.Categorical(["high", "low"] * 30, categories=LEVELS))
    if by == "pandas":
        frame.to_parquet(path, row_group_size=7)
    else:
        enum = pl.Series(["high", "low"] * 30, dtype=pl.Enum(LEVELS))
        chosen = polars_frame().select("y", "g").with_columns(size=enum)
        chosen.write_parquet(path, row_group_size=7)
    want = lmm.design("y ~ size + (1 | g)", frame)
    assert want.exog_names == ("Intercept", "size[T.high]")
    same(lmm.design("y ~ size + (1 | g)", path), want)


def test_categories_of_polars_without_an_order_are_sorted_on_every_way():
    pytest.importorskip("pyarrow")
    labels = pl.Series(["high", "low", "mid"] * 20, dtype=pl.Categorical)
    frame = polars_frame().select("y", "g").with_columns(size=labels)
    for data in (frame, frame.lazy(), frame.to_arrow()):
        names = lmm.design("y ~ size + (1 | g)", data).exog_names
        assert names == ("Intercept", "size[T.low]", "size[T.mid]")


def test_a_table_of_ibis():
    table = ibis_table()
    got = lmm.design("y ~ price + (1 | g)", table)
    want = lmm.design("y ~ price + (1 | g)", DATA)
    order, other = np.argsort(got.endog), np.argsort(want.endog)  # a database knows no order
    np.testing.assert_allclose(got.exog[order], want.exog[other], rtol=RTOL)


def test_a_folder_of_parquet_files(tmp_path):
    folder = tmp_path / "parts.parquet"
    folder.mkdir()
    for i in range(3):
        written(folder, f"{i}.parquet", PLAIN[20 * i : 20 * i + 20])
    same(lmm.design(FORMULA, folder), lmm.design(FORMULA, DATA))


# ------------------------------------------------------------ columns in use


def test_no_other_columns_are_read_of_a_file(tmp_path, monkeypatch):
    dataset = pytest.importorskip("pyarrow.dataset")
    path, read = written(tmp_path, "data.parquet"), []
    original = dataset.FileSystemDataset.to_table

    class Recording:
        def __init__(self, found):
            self.found = found

        schema = property(lambda self: self.found.schema)

        def to_table(self, columns):
            read.append(columns)
            return original(self.found, columns=columns)

    make = dataset.dataset
    monkeypatch.setattr(dataset, "dataset", lambda *a, **k: Recording(make(*a, **k)))
    res = lmm.fit("y ~ x + (1 | g)", path, weights="w")
    lmm.fit("y ~ x + (1 | g)", path, subset="price > 0.1")
    res.predict(path)
    lmm.fit_many("~ x + (1 | g)", path, ["y", "price"], progress=False)
    lmm.fit_many("~ x + (1 | g)", path, DATA[["y"]].to_numpy(), progress=False)
    lmm.fit("y ~ 1 + (1 | g)", path).predict(path)
    assert read == [
        ["y", "x", "g", "w"],
        ["y", "x", "g", "price"],
        ["x"],
        ["y", "x", "g", "price"],
        ["x", "g"],
        ["y", "g"],
        ["y"],
    ]


def test_no_other_columns_are_computed_of_a_lazy_frame():
    def refuse(_):
        raise AssertionError("a column that nothing reads was computed")

    trap = pl.col("y").map_elements(refuse, return_dtype=pl.Float64).alias("trap")
    lazy = polars_frame().lazy().with_columns(trap)
    same(lmm.design(FORMULA, lazy), lmm.design(FORMULA, DATA))


def test_the_rows_count_where_no_column_is_read():
    res = lmm.fit("y ~ 1 + (1 | g)", DATA)
    for data in (polars_frame(), polars_frame().lazy(), arrow_table(), relation()):
        assert len(res.predict(data)) == N


# ------------------------------------------------------------ every door


@pytest.mark.parametrize("kind", ["polars, lazy", "duckdb", "narwhals of polars"])
def test_every_verb_takes_them(kind):
    def data():
        return KINDS[kind]()

    formula = "y ~ x + (1 | g)"
    res, want = lmm.fit(formula, data()), lmm.fit(formula, DATA)
    assert abs(res.llf - want.llf) < 1e-9
    np.testing.assert_allclose(
        np.asarray(res.predict(data(), conditional=True)),
        np.asarray(want.predict(DATA, conditional=True)),
    )
    many = lmm.fit_many("~ x + (1 | g)", data(), ["y", "price"], progress=False)
    other = lmm.fit_many("~ x + (1 | g)", DATA, ["y", "price"], progress=False)
    np.testing.assert_allclose(many.llf, other.llf)
    trial = "y ~ x + cs(day | g)"
    small = DATA.groupby("g").head(3)
    assert small["day"].nunique() == 3
    mmrm = lmm.mmrm(trial, data(), subset=np.isin(np.arange(N), small.index))
    assert abs(mmrm.llf - lmm.mmrm(trial, small).llf) < 1e-6
    batch = lmm.design_from_batches(formula, [data()])
    np.testing.assert_allclose(
        batch.layout.S0, lmm.design_from_batches(formula, [DATA]).layout.S0, rtol=1e-9
    )
    arrays = lmm.design_from_arrays(DATA["y"], polars_frame().lazy().select("w"), DATA["g"])
    assert arrays.exog_names == ("w",)


def test_a_path_at_other_doors(tmp_path):
    path = written(tmp_path, "data.parquet")
    res = lmm.fit("y ~ x + (1 | g)", path)
    assert res.nobs == N - 1
    new = written(tmp_path, "new.csv")
    np.testing.assert_allclose(res.predict(str(new)), res.predict(DATA))


# ------------------------------------------------------------ what is refused


def empty(tmp_path, name):
    path = tmp_path / name
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
        PLAIN[:0].to_parquet(path)
    else:
        path.write_text("y,x,g\n" if "header" in name else "")
    return path


def broken(tmp_path, name):
    (tmp_path / name).write_bytes(b"PAR1\0 and nothing else")
    return tmp_path / name


def text(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    return tmp_path / name


REFUSED = {
    "no such file": (lambda t: t / "none.parquet", "there is no file '.*none.parquet'"),
    "no such table": (lambda t: str(t / "none.csv"), "there is no file '.*none.csv'"),
    "a table in the web": (lambda t: "https://example.org/a.parquet", "copy it here first"),
    "an ending": (lambda t: t / "data.xlsx", "data.xlsx' is not the name of a file"),
    "no ending": (lambda t: "sleepstudy", "'sleepstudy' is not the name"),
    "standard input": (lambda t: "-", "'-' is not the name"),
    "no name": (lambda t: "", "'' is not the name"),
    "a folder": (lambda t: t, "is not the name of a file"),
    "a NUL": (lambda t: "a\0.csv", "there is no file"),
    "no rows in a file": (lambda t: empty(t, "e.parquet"), "e.parquet has no rows"),
    "a header": (lambda t: empty(t, "header.csv"), "header.csv has a header only"),
    "nothing": (lambda t: empty(t, "e.csv"), "e.csv is not a CSV table: it is empty"),
    "a broken file": (lambda t: broken(t, "b.parquet"), "b.parquet cannot be read"),
    "another kind": (lambda t: broken(t, "b.csv"), "b.csv is a file of Parquet"),
    "semicolons": (
        lambda t: text(t, "s.csv", "y;x;g\n1;2;3\n"),
        "separated by semicolons: pass the frame that pandas.read_csv makes of it",
    ),
    "no rows in a relation": (lambda t: relation().filter("w > 99"), "no rows"),
    "no rows in a lazy frame": (lambda t: polars_frame().lazy().head(0), "no rows"),
    "a query that fails": (
        lambda t: polars_frame().lazy().with_columns(x=pl.col("nothing")),
        "the LazyFrame of polars cannot be computed: .*nothing",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_named(tmp_path, name):
    make, message = REFUSED[name]
    data = make(tmp_path)
    with pytest.raises(DataError, match=message):
        lmm.fit("y ~ x + (1 | g)", data)


def test_a_relation_whose_table_is_gone():
    duckdb = pytest.importorskip("duckdb")
    connection = duckdb.connect()
    connection.execute("create table t as select 1 as y, 2 as x, 3 as g")
    found = connection.sql("select * from t")
    connection.execute("drop table t")
    with pytest.raises(DataError, match=r"of duckdb cannot be computed: .*does not exist"):
        lmm.fit("y ~ x + (1 | g)", found)


@pytest.mark.parametrize("kind", ["polars, lazy", "duckdb"])
def test_a_column_that_is_not_there(kind):
    with pytest.raises(FormulaError, match="nothing"):
        lmm.fit("y ~ nothing + (1 | g)", KINDS[kind]())


def test_a_relation_without_pyarrow_says_what_to_install():
    pytest.importorskip("duckdb")
    program = """
import sys
sys.modules["pyarrow"] = None
import duckdb, lmm_jax as lmm
try:
    lmm.fit("y ~ 1 + (1 | g)", duckdb.sql("select 1 as y, 2 as g"))
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "frames of duckdb need it, pip install pyarrow" in done.stdout, done.stderr


def test_nothing_optional_is_imported_for_a_frame_of_pandas():
    program = """
import sys
sys.modules.update(dict.fromkeys(["polars", "pyarrow", "duckdb", "sklearn"]))  # not to be imported
import lmm_jax as lmm
res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
res.predict({"Batch": ["A"]}), res.tidy(), str(res)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_command_line_reads_parquet(tmp_path, capsys):
    from lmm_jax.api.command import main

    path = written(tmp_path, "data.parquet")
    assert main(["y ~ x + (1 | g)", str(path)]) == 0
    assert "59" in capsys.readouterr().out
    assert main(["y ~ x + (1 | g)", str(tmp_path / "none.parquet")]) == 2
    assert "there is no file" in capsys.readouterr().err
