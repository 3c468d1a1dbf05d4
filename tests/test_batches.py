"""Rows in batches give the model of all rows, and memory holds one batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import sum_checks

import lmm_jax as lmm

RNG = np.random.default_rng(11)
SCHOOL = RNG.integers(0, 12, 240)
CLASS = RNG.integers(0, 3, 240)
EFFECT = RNG.normal(size=(12, 3))
DATA = pd.DataFrame(
    {
        "school": np.char.add("s", SCHOOL.astype(str)),
        "room": CLASS,
        "x": RNG.normal(size=240) + 2.0,
        "f": pd.Categorical(RNG.choice(["a", "b", "c"], 240), categories=["a", "b", "c"]),
        "w": RNG.uniform(0.5, 2.0, 240),
        "o": RNG.normal(size=240),
        "y": RNG.normal(size=240) + EFFECT[SCHOOL, CLASS] + RNG.normal(size=12)[SCHOOL],
    }
)


def batches(data=DATA, rows=50):
    """A stream that can be read once."""
    return (data[i : i + rows] for i in range(0, len(data), rows))


def assert_same(got, want):
    sum_checks.assert_same(got, want, rtol=1e-7)
    np.testing.assert_allclose(got.df, want.df, rtol=1e-6)


MODELS = {
    "intercept": ("y ~ x + f + (1 | school)", {}),
    "slope": ("y ~ x + (x | school)", {}),
    "uncorrelated": ("y ~ x + (x || school)", {}),
    "nested": ("y ~ x + (1 | school/room)", {}),
    "crossed": ("y ~ x + (1 | school) + (1 | room)", {}),
    "nested, with a slope": ("y ~ x + (x | school) + (1 | school:room)", {}),
    "weights and offset": ("y ~ x + offset(o) + (1 | school)", {"weights": "w"}),
    "offset by name": ("y ~ x + (1 | school)", {"offset": "o"}),
}


@pytest.mark.parametrize("name", MODELS)
def test_fit_is_that_of_all_rows(name):
    formula, options = MODELS[name]
    want = lmm.fit(formula, DATA, **options)
    got = lmm.fit(lmm.design_from_batches(formula, batches(), **options))
    assert_same(got, want)


def test_order_and_size_of_batches_do_not_matter():
    formula = "y ~ x + (1 | school)"
    want = lmm.fit(lmm.design_from_batches(formula, batches()))
    shuffled = DATA.sample(frac=1.0, random_state=0)
    got = lmm.fit(lmm.design_from_batches(formula, batches(shuffled, 70)))
    assert_same(got, want)
    assert list(got.random_effects["school"].index) == sorted(set(DATA["school"]))


def test_missing_values_are_dropped_batch_by_batch():
    data = DATA.assign(x=DATA["x"].where((np.arange(240) < 50) == False))  # noqa: E712
    data.loc[100, "school"] = None
    design = lmm.design_from_batches("y ~ x + (1 | school)", batches(data))
    assert (design.nobs, design.n_missing) == (189, 51)
    assert_same(lmm.fit(design), lmm.fit("y ~ x + (1 | school)", data))


def test_dependent_columns_are_dropped():
    data = DATA.assign(x2=2.0 * DATA["x"] - 1.0)
    with pytest.warns(lmm.RankWarning, match="dropped x2"):
        design = lmm.design_from_batches("y ~ x + x2 + f + (1 | school)", batches(data))
    assert design.dropped == ("x2",)
    assert_same(lmm.fit(design), lmm.fit("y ~ x + f + (1 | school)", DATA))


def test_large_means_keep_their_digits():
    data = DATA.assign(y=DATA["y"] + 1e7, x=DATA["x"] + 1e5)
    got = lmm.fit(lmm.design_from_batches("y ~ x + (1 | school)", batches(data)))
    assert got.llf == pytest.approx(lmm.fit("y ~ x + (1 | school)", data).llf, rel=1e-10)


def test_new_rows_are_predicted_and_the_old_ones_are_gone():
    want = lmm.fit("y ~ x + f + (1 | school)", DATA)
    got = lmm.fit(lmm.design_from_batches("y ~ x + f + (1 | school)", batches()))
    np.testing.assert_allclose(
        got.predict(DATA, conditional=True), want.predict(DATA, conditional=True), rtol=1e-8
    )
    for call in (
        lambda: got.resid,
        lambda: got.fittedvalues,
        lambda: got.predict(),
        lambda: got.augment(),
        lambda: lmm.simulate(got, seed=0),
    ):
        with pytest.raises(lmm.DataError, match="came in batches"):
            call()
    assert "school" in str(got.summary())


def test_a_parquet_file(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "rows.parquet"
    DATA.to_parquet(path)
    design = lmm.design_from_batches("y ~ x + f + (1 | school)", path, batch_size=64)
    assert_same(lmm.fit(design), lmm.fit("y ~ x + f + (1 | school)", DATA))


def standardized(x):
    return (x - x.mean()) / x.std()


def capped(x):
    """Looks at the mean in few rows only."""
    return np.where(x > 4.5, x - np.mean(x), x)


def first_is_zero(x):
    return x - np.asarray(x)[0]


def backwards(x):
    return np.asarray(x)[::-1]


def row_number(x):
    return np.arange(len(x)) * 1.0


def squared(x):
    return np.asarray(x) ** 2


STEP = DATA.assign(step=np.repeat([1.0, 2.0, 3.0], 80), k=np.round(DATA["x"]))
WHOLE = [
    "y ~ I(x - x.mean()) + (1 | school)", "y ~ I(x - np.mean(x)) + (1 | school)",
    "y ~ x.rank() + (1 | school)", "y ~ np.cumsum(x) + (1 | school)",
    "y ~ I(x / x.max()) + (1 | school)", "y ~ x + I(x - min(x)) + (1 | school)",
    "y ~ I(x > x.median()) + (1 | school)", "y ~ C(x > x.median()):w + (1 | school)",
    "y ~ standardized(x) + (1 | school)", "y ~ capped(x) + (1 | school)",
    "y ~ first_is_zero(x) + (1 | school)", "y ~ backwards(x) + (1 | school)",
    "y ~ row_number(x) + (1 | school)", "y ~ x + (0 + I(x - x.mean()) | school)",
    "I(y - y.mean()) ~ x + (1 | school)", "y ~ x + offset(o - o.mean()) + (1 | school)",
    "y ~ x + (1 | C(x > x.median()))", "y ~ x + I(step - step.mean()) + (1 | school)",
]  # fmt: skip
BY_ROW = [
    "y ~ I(x**2) + (1 | school)", "I(y + 3) ~ x + (1 | school)", "y ~ squared(x) + (1 | school)",
    "y ~ np.exp(x / 10) * f + (1 | school)", "y ~ np.where(x > 2, x, 2) + (1 | school)",
    "y ~ x + (0 + squared(x) | school)", "y ~ I(step**2) + (1 | school)",
    "y ~ x + offset(2 * o) + (1 | school)", "y ~ np.clip(x, 1, 3) + (1 | school)",
    "y ~ C(f, contr.sum) + (1 | school)", "y ~ x:f + (0 + f | school)",
    "y ~ as_numeric(room) + (1 | school)",
]  # fmt: skip


@pytest.mark.parametrize("formula", WHOLE)
def test_what_looks_at_all_rows_is_refused(formula):
    with pytest.raises(lmm.DataError, match="looks at all rows"):
        lmm.design_from_batches(formula, batches(STEP, 80))


@pytest.mark.parametrize("formula", [f for f in WHOLE if "step" not in f])
def test_it_is_refused_in_the_first_batch(formula):
    with pytest.raises(lmm.DataError, match="looks at all rows"):
        lmm.design_from_batches(formula, [STEP])


@pytest.mark.parametrize("term", ["I(x - x.mean())", "x.rank()", "np.cumsum(x)", "I(x / x.max())"])
def test_it_is_refused_from_batches_of_one_row(term):
    with pytest.raises(lmm.DataError, match="looks at all rows"):
        lmm.design_from_batches(f"y ~ {term} + (1 | school)", batches(STEP, 1))


@pytest.mark.parametrize("rows", [80, 240])
@pytest.mark.parametrize("formula", BY_ROW)
def test_what_is_computed_row_by_row_is_the_model_of_all_rows(formula, rows):
    got = lmm.design_from_batches(formula, batches(STEP, rows))
    want = lmm.design(formula, STEP)
    assert got.exog_names == want.exog_names
    with jax.enable_x64(True):
        theta = jnp.concatenate([jnp.eye(k)[jnp.tril_indices(k)] for k in want.sizes])
        values = [lmm.profile_loglike(theta, made.layout) for made in (got, want)]
    assert float(values[0]) == pytest.approx(float(values[1]), rel=1e-10)


def test_rows_may_come_one_by_one():
    want = lmm.fit("y ~ I(x**2) + f + (1 | school)", DATA)
    assert_same(lmm.fit(lmm.design_from_batches(want.formula, batches(rows=1))), want)


def as_ids(kind):
    """Batches whose ids come in another type each."""
    kinds = {
        "floats where one is missing": (int, float, int),
        "floats first": (float, int, int),
        "text in one": (int, str, int),
        "categories": (int, "category", "Int64"),
        "beyond int64": (np.uint64, np.int64, object),
    }[kind]
    parts = [DATA.assign(school=SCHOOL)[i : i + 80] for i in (0, 80, 160)]
    return [
        part.assign(school=part["school"].astype(k)) for part, k in zip(parts, kinds, strict=True)
    ]


@pytest.mark.parametrize(
    "kind",
    ["floats where one is missing", "floats first", "text in one", "categories", "beyond int64"],
)
@pytest.mark.parametrize("formula", ["y ~ x + (1 | school)", "y ~ x + (1 | school/room)"])
def test_ids_of_several_types_are_the_same_levels(formula, kind):
    want = lmm.fit(formula, DATA.assign(school=SCHOOL))
    got = lmm.fit(lmm.design_from_batches(formula, as_ids(kind)))
    assert got.llf == pytest.approx(want.llf, rel=1e-10)
    assert got.n_groups.tolist() == want.n_groups.tolist()


def test_ids_beyond_int64_are_told_apart():
    ids = SCHOOL.astype(np.uint64) + np.uint64(2**63)
    data = DATA.assign(school=ids)
    parts = batches(data.assign(school=data["school"].astype(object)), 80)
    for stream in (batches(data), parts, [batches(data, 120).__next__(), data[120:]]):
        design = lmm.design_from_batches("y ~ x + (1 | school)", stream)
        assert sorted(map(int, design.terms[0].levels)) == sorted(set(ids.tolist()))


@pytest.mark.parametrize("first", [["b"], ["a", "b"], ["c"]])
@pytest.mark.parametrize(
    "formula",
    [
        "y ~ x * f + (1 | school)",
        "y ~ f + (0 + f | school)",
        "y ~ C(f, contr.sum) + (1 | school)",
        "y ~ I(f.cat.codes) + (1 | school)",
    ],
)
def test_declared_categories_may_come_late(formula, first):
    early = DATA["f"].isin(first)
    got = lmm.design_from_batches(formula, [DATA[early], DATA[~early]])
    assert got.exog_names == lmm.design(formula, DATA).exog_names
    assert lmm.fit(got).llf == pytest.approx(lmm.fit(formula, DATA).llf, rel=1e-9)


def test_empty_batches_add_nothing():
    stream = [DATA[:0], DATA[:100], DATA[:0], DATA[100:]]
    for missing in ("drop", "raise", "none"):
        design = lmm.design_from_batches("y ~ x + (1 | school)", stream, missing=missing)
        assert (design.nobs, design.n_missing) == (240, 0)


def test_tables_and_record_batches_of_arrow():
    pyarrow = pytest.importorskip("pyarrow")
    want = lmm.fit("y ~ x + f + (1 | school)", DATA)
    for kind in (pyarrow.Table, pyarrow.RecordBatch):
        stream = (kind.from_pandas(part) for part in batches())
        assert_same(lmm.fit(lmm.design_from_batches("y ~ x + f + (1 | school)", stream)), want)


def in_the_second(**changed):
    """Two batches, of which the second has other columns."""
    return [DATA[:120], DATA[120:].assign(**changed)]


def strings(first):
    data = DATA.assign(f=DATA["f"].astype(str))
    return [data[data["f"].isin(first)], data]


ERRORS = [
    ("no bars", lambda: lmm.design_from_batches("y ~ x", batches()), lmm.FormulaError, "bars"),
    ("nothing", lambda: lmm.design_from_batches("y ~ x + (1 | school)", []),
     lmm.DataError, "no complete row"),
    ("a frame", lambda: lmm.design_from_batches("y ~ x + (1 | school)", DATA),
     lmm.DataError, "lmm.design"),
    ("late level", lambda: lmm.design_from_batches("y ~ f + (1 | school)", strings(["a", "b"])),
     lmm.DataError, "'c'"),
    ("whole-sample transform",
     lambda: lmm.design_from_batches("y ~ center(x) + (1 | school)", batches()),
     lmm.DataError, "looks at all rows"),
    ("declared and never there", lambda: lmm.design_from_batches(
        "y ~ f + (1 | school)", batches(DATA.assign(f=DATA["f"].cat.add_categories(["d", "e"])))),
     lmm.DataError, "`f` declares 'd', 'e', which no row"),
    ("declared in the second only", lambda: lmm.design_from_batches(
        "y ~ f + (1 | school)", in_the_second(f=pd.Categorical(["d"] * 120))),
     lmm.DataError, "the level 'd'"),
    ("a column less", lambda: lmm.design_from_batches(
        "y ~ x + (1 | school)", [DATA[:120], DATA[120:].drop(columns="x")]),
     (lmm.FormulaError, lmm.DataError), "no column `x`"),
    ("a column twice", lambda: lmm.design_from_batches(
        "y ~ x + (1 | school)", [DATA[:120], pd.concat([DATA, DATA[["x"]]], axis=1)]),
     lmm.DataError, "several columns named `x`"),
    ("lists as ids", lambda: lmm.design_from_batches(
        "y ~ x + (1 | school)", in_the_second(school=[[1]] * 120)), lmm.DataError, "school"),
    ("no frame", lambda: lmm.design_from_batches("y ~ x + (1 | school)", [DATA, 5]),
     lmm.DataError, "data is a int"),
    ("an array", lambda: lmm.design_from_batches("y ~ x + (1 | school)", np.array(2.0)),
     lmm.DataError, "batches is a ndarray"),
    ("no Parquet", lambda: lmm.design_from_batches("y ~ x + (1 | school)", __file__),
     lmm.DataError, "is not a Parquet file"),
    ("responses for it", lambda: lmm.fit_many(
        lmm.design_from_batches("y ~ x + (1 | school)", batches()), DATA[["y"]]),
     lmm.DataError, "came in batches"),
    ("weights array",
     lambda: lmm.design_from_batches("y ~ x + (1 | school)", batches(), weights=DATA["w"]),
     lmm.DataError, "name of a column"),
    ("unknown column", lambda: lmm.design_from_batches("y ~ q + (1 | school)", batches()),
     lmm.FormulaError, "`q`"),
    ("a line", lambda: lmm.design_from_batches(
        "y ~ x + (1 | school)", batches(DATA.assign(y=2.0 * DATA["x"]))),
     lmm.DataError, "no residual variance"),
    ("infinite", lambda: lmm.design_from_batches(
        "y ~ x + (1 | school)", batches(DATA.assign(x=np.inf))), lmm.DataError, "infinite"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "error", "words"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS]
)
def test_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()
