"""Tables come as the kind of frame that the data came in, or as the one that is asked for."""

import pickle
import subprocess
import sys
from functools import cache, partial

import numpy as np
import pandas as pd
import polars as pl
import pytest
import samples

import lmm_jax as lmm
from lmm_jax import DataError
from lmm_jax.tables.frames import as_column, as_frame

DATA = samples.frame()
HOLE = np.arange(len(DATA)) == 7
HOLED = DATA.assign(x=DATA["x"].where(~HOLE))
FORMULA = "y ~ x + f + (1 | g)"


def arrow(frame):
    return pytest.importorskip("pyarrow").Table.from_pandas(frame)


def kinds():
    import importlib

    pa = importlib.import_module("pyarrow")
    return {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.Table}


MAKERS = {"pandas": lambda frame: frame, "polars": samples.to_polars, "pyarrow": arrow}


def back(frame):
    """Any of them as pandas."""
    if isinstance(frame, pd.DataFrame):
        return frame
    columns = (
        frame.to_dict(as_series=False) if isinstance(frame, pl.DataFrame) else frame.to_pydict()
    )
    return pd.DataFrame(columns)


def agree(got, want, labels=False):
    """The numbers of a frame are those of pandas', null where they are NaN."""
    got = back(got)
    if labels:
        want = want.reset_index(names=got.columns[0])
    want = want.reset_index(drop=True)
    assert got.columns.tolist() == want.columns.tolist()
    for name in want:
        ours, theirs = got[name], want[name]
        np.testing.assert_array_equal(ours.isna(), theirs.isna())
        there = theirs.notna().to_numpy()
        if theirs.dtype.kind == "f":
            np.testing.assert_array_equal(ours[there].astype(float), theirs[there])
        else:
            assert ours[there].tolist() == theirs[there].tolist()


@cache
def boot(res):
    return lmm.bootstrap(res, n_boot=5, seed=1)


# A method that makes a table, and whether the labels of its rows say something.
TABLES = {
    "tidy": (lambda r: r.tidy, False),
    "tidy, all rows": (lambda r: partial(r.tidy, ["fixed", "ran_pars", "ran_vals"]), False),
    "glance": (lambda r: r.glance, False),
    "augment": (lambda r: r.augment, True),
    "random_effects_frame": (lambda r: r.random_effects_frame, False),
    "predict of the rows": (lambda r: partial(r.predict, se=True), False),
    "emmeans": (lambda r: lmm.emmeans(r, "f").to_frame, False),
    "pairs": (lambda r: lmm.emmeans(r, "f").pairs().to_frame, False),
    "delta_method": (lambda r: lmm.delta_method(r, lambda p: {"s": p.scale}).to_frame, True),
    "profile": (lambda r: lmm.profile(r, "sigma").to_frame, False),
    "bootstrap": (lambda r: boot(r).tidy, False),
    "statistics of a bootstrap": (lambda r: boot(r).statistics().tidy, False),
    "simulate_residuals": (lambda r: lmm.simulate_residuals(r, n=5, seed=1).to_frame, True),
}


@pytest.fixture(scope="module")
def fits():
    pytest.importorskip("pyarrow")
    return {kind: lmm.fit(FORMULA, make(HOLED)) for kind, make in MAKERS.items()}


@pytest.mark.parametrize("name", TABLES)
def test_tables_come_in_the_kind_of_the_data(fits, name):
    make, labels = TABLES[name]
    for kind, own in kinds().items():
        table = make(fits[kind])
        want = table(output="pandas")
        assert isinstance(table(), own)
        agree(table(), want, labels and kind != "pandas")
        for asked, other in kinds().items():
            assert isinstance(table(output=asked), other)


def test_many_fits():
    pytest.importorskip("pyarrow")
    for kind, own in kinds().items():
        many = lmm.fit_many("~ x + f + (1 | g)", MAKERS[kind](HOLED), ["y", "z"], progress=False)
        found = many.tidy(), many.t_test("x").to_frame(), many.wald_test("x").to_frame()
        found += (many.emmeans("f").tests().to_frame(),)
        assert all(isinstance(table, own) for table in found)
        assert isinstance(many.tidy(output="pandas"), pd.DataFrame)
        assert "Linear mixed models of 2 responses" in str(many)
        str(many.t_test("x"))


def test_predictions_come_in_the_kind_of_the_new_rows(fits):
    pa = pytest.importorskip("pyarrow")
    new, res = HOLED[:9], fits["pandas"]
    want = res.predict(new)
    got = res.predict(samples.to_polars(new))
    assert isinstance(got, pl.Series) and got.name == "predicted"
    assert got.null_count() == 1 and got[7] is None
    np.testing.assert_array_equal(got.to_numpy(), want.to_numpy())
    assert isinstance(fits["polars"].predict(new), pd.Series)
    assert isinstance(fits["polars"].predict(), pl.Series)
    assert isinstance(fits["polars"].predict(conditional=True), pl.Series)
    assert isinstance(res.predict(arrow(new)), pa.DoubleArray)
    assert isinstance(res.predict(new, output="polars"), pl.Series)
    agree(res.predict(samples.to_polars(new), se=True), res.predict(new, se=True))


def test_what_has_an_index_stays_with_pandas(fits):
    res = fits["polars"]
    assert isinstance(res.params, pd.Series)
    assert isinstance(res.conf_int(), pd.DataFrame)
    assert isinstance(res.random_effects["g"], pd.DataFrame)
    assert isinstance(res.anova(), pd.DataFrame)
    assert isinstance(res.model_matrix(), pd.DataFrame)


def test_any_table_can_be_taken_along(fits):
    found = fits["pandas"].anova().to_frame("polars")
    assert isinstance(found, pl.DataFrame)
    assert found["term"].to_list() == ["x", "f"]
    plain = fits["pandas"].varcorr.to_frame()
    assert type(plain) is pd.DataFrame
    assert fits["pandas"].varcorr.to_frame("polars").columns == plain.columns.tolist()


def test_a_result_shows_itself_whatever_its_kind(fits):
    for shown in (
        str,
        lambda r: str(lmm.emmeans(r, "f")),
        lambda r: str(lmm.emmeans(r, "f").cld()),
        lambda r: str(lmm.emmeans(r, "f").confint()),
        lambda r: str(lmm.delta_method(r, lambda p: p.scale)),
        lambda r: str(boot(r).summary()),
        lambda r: str(boot(r).statistics()),
    ):
        assert len({shown(res) for res in fits.values()}) == 1


def test_neighbours_get_the_same_of_every_kind(fits):
    from lmm_jax.inference.parameter_rows import parameter_rows

    want = parameter_rows(fits["pandas"])
    for res in fits.values():
        pd.testing.assert_frame_equal(parameter_rows(res), want, rtol=1e-6)  # fits of their own
        model = res.to_maketables()
        assert np.isfinite(model.__maketables_stat__("r2_marginal"))


def test_a_pickle_remembers_the_kind(fits):
    again = pickle.loads(pickle.dumps(fits["polars"]))
    assert isinstance(again.tidy(), pl.DataFrame)
    assert isinstance(again.without_data().tidy(), pl.DataFrame)


def test_other_data_give_pandas():
    for data in (dict(DATA.items()), samples.to_polars(DATA).lazy().collect().to_pandas()):
        assert isinstance(lmm.fit(FORMULA, data).tidy(), pd.DataFrame)
    assert isinstance(lmm.fit(FORMULA, samples.to_polars(DATA).lazy()).tidy(), pl.DataFrame)


@pytest.mark.parametrize("name", TABLES)
def test_an_unknown_kind_is_refused(fits, name):
    with pytest.raises(DataError, match="output='pollars': choose from pandas, polars, pyarrow"):
        TABLES[name][0](fits["pandas"])(output="pollars")


def test_columns_of_every_type():
    pytest.importorskip("pyarrow")
    stamp = pd.Timestamp("2026-01-31")
    table = pd.DataFrame(
        {
            "mixed": [1, "a", None],
            "whole": [1, 2, 3],
            "nullable": pd.array([1, None, 3], dtype="Int64"),
            "flag": [True, False, True],
            "gone": [None, None, None],
            "factor": pd.Categorical(["b", None, "a"], categories=["b", "a"]),
            "number": [0.5, np.nan, np.inf],
            "time": [stamp, pd.NaT, stamp],
            ("a", "b"): [pd.Interval(0, 1)] * 3,
        },
        index=pd.Index(["r", "s", "t"], name="number"),
    )
    found = as_frame(table, "polars", "pandas", labels="row")
    assert found.columns[:2] == ["number", "mixed"] and found.columns[-1] == "('a', 'b')"
    assert found["mixed"].to_list() == ["1", "a", None]
    assert found["gone"].dtype == pl.String and found["nullable"].dtype == pl.Int64
    assert found["factor"].to_list() == ["b", None, "a"]
    assert found.to_dicts()[1]["time"] is None
    assert as_frame(table, "pyarrow", "pandas", labels="row").column_names == found.columns
    levels = table[["whole"]].set_index(pd.MultiIndex.from_tuples([(1, "a"), (1, "b"), (2, "a")]))
    assert as_frame(levels, "polars", "pandas", "level").columns == ["level1", "level2", "whole"]
    assert as_column(table["whole"], "polars", "pandas").to_list() == [1, 2, 3]


def test_a_kind_that_is_not_installed_is_named():
    program = """
import sys
sys.modules["polars"] = None
import lmm_jax as lmm
res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
try:
    res.tidy(output="polars")
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "polars is not installed" in done.stdout


def test_a_level_has_another_name_wherever_it_stands():
    """In `f[T.b]`, with or without the T., and in interactions."""
    data = lmm.load_dataset("orthodont")
    res = lmm.fit("distance ~ age * Sex + (1 | Subject)", data)
    for name in ("Female", "T.Female"):
        text = res.summary().to_markdown(rename={name: "girls"})
        assert "Female" not in text and text.count("girls") == 2


def test_a_table_of_errors_alone_is_left_out():
    res = lmm.fit("distance ~ age + (1 | Subject)", lmm.load_dataset("orthodont"))
    chosen = ["estimate", "std_error"]
    assert "Random effects" not in res.summary().to_markdown(columns=chosen)
    assert "Random effects" in res.summary().to_markdown(columns=["variance", "std_error"])
    assert "Random effects" in res.summary().to_markdown(columns=["std_error"])
