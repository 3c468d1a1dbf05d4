"""Rows in batches give the model of all rows, and memory holds one batch."""

import numpy as np
import pandas as pd
import pytest

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
    assert got.llf == pytest.approx(want.llf, rel=1e-10)
    assert list(got.params.index) == list(want.params.index)
    np.testing.assert_allclose(got.params, want.params, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(got.bse_fe, want.bse_fe, rtol=1e-8)
    np.testing.assert_allclose(got.df, want.df, rtol=1e-6)
    assert (got.nobs, got.converged) == (want.nobs, True)
    pd.testing.assert_series_equal(got.n_groups, want.n_groups)
    for group, frame in want.random_effects.items():
        ours = got.random_effects[group].loc[frame.index]
        np.testing.assert_allclose(ours, frame, rtol=1e-6, atol=1e-9)


MODELS = {
    "intercept": ("y ~ x + f + (1 | school)", {}),
    "slope": ("y ~ x + (x | school)", {}),
    "uncorrelated": ("y ~ x + (x || school)", {}),
    "nested": ("y ~ x + (1 | school/room)", {}),
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


def strings(first):
    data = DATA.assign(f=DATA["f"].astype(str))
    return [data[data["f"].isin(first)], data]


ERRORS = [
    ("crossed", lambda: lmm.design_from_batches("y ~ x + (1 | school) + (1 | room)", batches()),
     lmm.FormulaError, "not written as nested"),
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
