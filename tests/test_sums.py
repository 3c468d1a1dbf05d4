"""Sums over parts of the rows add up to the fit of all of them."""

import pickle
from functools import reduce

import jax
import numpy as np
import pandas as pd
import pytest
from sum_checks import arrays, assert_equal_sums, assert_same

import lmm_jax as lmm

RNG = np.random.default_rng(5)
N = 400
SCHOOL, ROOM, ITEM = RNG.integers(0, 14, N), RNG.integers(0, 3, N), RNG.integers(0, 9, N)
DATA = pd.DataFrame(
    {
        "school": np.char.add("s", SCHOOL.astype(str)),
        "room": ROOM,
        "item": ITEM,
        "day": RNG.integers(0, 5, N),
        "x": RNG.normal(size=N) + 2.0,
        "f": RNG.choice(["a", "b", "c"], N),
        "w": RNG.uniform(0.5, 2.0, N),
        "o": RNG.normal(size=N),
    }
)
DATA["y"] = (
    RNG.normal(size=14)[SCHOOL]
    + RNG.normal(size=14)[SCHOOL] * 0.5 * DATA["x"]
    + RNG.normal(size=(14, 3))[SCHOOL, ROOM]
    + RNG.normal(size=9)[ITEM]
    + RNG.normal(size=5)[DATA["day"]]
    + RNG.normal(size=N)
)

MODELS = {
    "intercept": ("y ~ x + f + (1 | school)", {}),
    "slope": ("y ~ x * f + (x | school)", {}),
    "uncorrelated": ("y ~ x + (x || school)", {}),
    "nested": ("y ~ x + (1 | school/room)", {}),
    "nested, with a slope": ("y ~ x + (x | school) + (1 | school:room)", {}),
    "crossed": ("y ~ x + f + (1 | school) + (1 | item)", {}),
    "crossed, with slopes": ("y ~ x + (x | school) + (x | item)", {}),
    "three crossed": ("y ~ x + (1 | school) + (1 | item) + (1 | day)", {}),
    "nested and crossed": ("y ~ x + (1 | school/room) + (1 | item)", {}),
    "weights": ("y ~ x + (x | school)", {"weights": "w"}),
    "weights, crossed": ("y ~ x + (1 | school) + (1 | item)", {"weights": "w"}),
    "offset": ("y ~ x + offset(o) + (1 | school)", {"offset": "w"}),
    "contrasts": ("y ~ C(f, contr.sum) * x + (1 | school)", {}),
    "polynomial": ("y ~ poly(x, 3) + (1 | school)", {}),
    "splines": ("y ~ bs(x, df=5) + (1 | school) + (1 | item)", {}),
    "centred": ("y ~ scale(x) + (scale(x) | school)", {}),
    "structure": ("y ~ x + cs(1 + x | school, hom=True)", {}),
    "no fixed effects": ("y ~ 0 + (1 | school)", {}),
}


def parts_of(formula, data=DATA, seed=0, count=4, **options):
    """Sums of random parts: groups are split between them, and one has no rows."""
    schema = lmm.schema(formula, data, **options)
    part = np.random.default_rng(seed).integers(0, count, len(data))
    frames = [data[part == i] for i in range(count)] + [data[:0]]
    return [lmm.summarize(formula, frame, schema=schema) for frame in frames]


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_fit_of_the_parts_is_that_of_the_rows(name, reml):
    formula, options = MODELS[name]
    want = lmm.fit(formula, DATA, reml=reml, **options)
    assert_same(lmm.fit(sum(parts_of(formula, **options)), reml=reml), want)


@pytest.mark.parametrize("name", MODELS)
def test_the_criterion_is_that_of_the_rows_anywhere(name):
    formula, options = MODELS[name]
    got = lmm.summarize(formula, DATA, **options)
    made = [lmm.fit(got, maxiter=0).design, lmm.design(formula, DATA, **options)]
    assert made[0].exog_names == made[1].exog_names
    assert [t.label for t in made[0].terms] == [t.label for t in made[1].terms]
    with jax.enable_x64(True):
        starts = [np.concatenate([s.start(np.full(s.k, 0.7)) for s in d.structures]) for d in made]
        values = [float(lmm.profile_loglike(t, d.layout))
                  for t, d in zip(starts, made, strict=True)]  # fmt: skip
    assert values[0] == pytest.approx(values[1], rel=1e-11)


@pytest.mark.parametrize("name", ["slope", "nested", "three crossed", "nested and crossed"])
def test_sums_are_associative_and_commutative(name):
    formula, options = MODELS[name]
    parts = parts_of(formula, **options)
    whole = reduce(lambda a, b: a + b, parts)
    assert_equal_sums(whole, lmm.summarize(formula, DATA, schema=parts[0].schema))
    assert_equal_sums(whole, reduce(lambda a, b: b + a, reversed(parts)))
    a, b, c, *_ = parts
    assert_equal_sums((a + b) + c, a + (b + c))
    for left, right in zip(arrays(a + b), arrays(b + a), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("name", ["slope", "nested and crossed"])
def test_sums_travel(name, tmp_path):
    formula, options = MODELS[name]
    parts = parts_of(formula, **options)
    whole = sum(parts)
    sent = [pickle.loads(pickle.dumps(part)) for part in parts]
    assert_equal_sums(sum(sent), whole)
    whole.save(tmp_path / "all.sums")
    assert_equal_sums(lmm.RowSums.load(tmp_path / "all.sums"), whole)
    (tmp_path / "other").write_bytes(pickle.dumps({}))
    with pytest.raises(lmm.DataError, match="no sums over rows"):
        lmm.RowSums.load(tmp_path / "other")


@pytest.mark.parametrize("name", ["slope", "nested and crossed", "three crossed"])
def test_sums_as_tables_of_arrow(name):
    pyarrow = pytest.importorskip("pyarrow")
    formula, options = MODELS[name]
    parts = parts_of(formula, **options)
    schema, whole = parts[0].schema, sum(parts)
    table = whole.to_arrow()
    n_groups = sum(len(products) for products in whole.products)
    cells = len(whole.cells) if whole.links.size else 0
    assert table.num_rows == 1 + n_groups + cells
    assert_equal_sums(lmm.RowSums.from_arrow(table, schema), whole)
    joined = pyarrow.concat_tables([part.to_arrow() for part in parts[:4]])
    assert_equal_sums(lmm.RowSums.from_arrow(joined, schema), whole)
    empty = lmm.summarize(formula, DATA[:0], schema=schema)
    assert_equal_sums(lmm.RowSums.from_arrow(empty.to_arrow(), schema) + whole, whole)
    with pytest.raises(lmm.DataError, match="10 rows of a part that had"):
        lmm.RowSums.from_arrow(table.slice(0, 10), schema)
    with pytest.raises(lmm.DataError, match="another schema"):
        lmm.RowSums.from_arrow(table, lmm.schema(formula, DATA[:100], **options))
    with pytest.raises(lmm.DataError, match="what to_arrow gave"):
        lmm.RowSums.from_arrow(pyarrow.table({"a": [1]}), schema)


def test_a_schema_of_levels_needs_no_sample():
    formula = "y ~ x * f + (x | school)"
    schema = lmm.schema(formula, levels={"f": ["a", "b", "c"]})
    parts = [lmm.summarize(formula, DATA[i::3], schema=schema) for i in range(3)]
    assert_same(lmm.fit(sum(parts)), lmm.fit(formula, DATA))
    with pytest.raises(lmm.DataError, match="looks at all rows"):
        lmm.schema("y ~ poly(x, 2) + (1 | school)", levels={})


def test_levels_that_are_fixed_keep_their_order_and_name_strangers():
    formula = "y ~ x + f + (1 | school)"
    order = [f"s{i}" for i in range(20)]
    schema = lmm.schema(formula, DATA[:50], levels={"f": ["c", "a", "b"], "school": order})
    parts = [lmm.summarize(formula, DATA[i::3], schema=schema) for i in range(3)]
    got = lmm.fit(sum(parts))
    assert list(got.random_effects["school"].index) == order[:14]
    data = DATA.assign(f=pd.Categorical(DATA["f"], ["c", "a", "b"]))
    assert_same(got, lmm.fit(formula, data))
    for column, label in {"f": "z", "school": "t1"}.items():
        stranger = DATA[:5].assign(**{column: label})
        with pytest.raises(lmm.DataError, match=f"'{label}'"):
            lmm.summarize(formula, stranger, schema=schema)


def test_knots_come_from_the_sample():
    formula = "y ~ bs(x, df=5) + (1 | school)"
    few = DATA[(DATA["x"] > DATA["x"].quantile(0.05)) & (DATA["x"] < DATA["x"].quantile(0.95))]
    schema = lmm.schema(formula, DATA[::3])
    inside = few[few["x"].between(DATA["x"][::3].min(), DATA["x"][::3].max())]
    parts = [lmm.summarize(formula, inside[i::2], schema=schema) for i in range(2)]
    assert lmm.fit(sum(parts)).nobs == len(inside)
    spread = np.random.default_rng(0).permutation(len(inside))
    again = [lmm.summarize(formula, inside.iloc[spread[i::5]], schema=schema) for i in range(5)]
    assert lmm.fit(sum(again)).llf == pytest.approx(lmm.fit(sum(parts)).llf, rel=1e-10)


def test_missing_values_are_counted():
    data = DATA.assign(x=DATA["x"].where(np.arange(N) % 7 > 0))
    formula = "y ~ x + (1 | school)"
    got = sum(parts_of(formula, data))
    assert (got.n_rows, got.n_missing, got.gaps) == (N - 58, 58, {"x": 58})
    assert_same(lmm.fit(got), lmm.fit(formula, data))


def test_origins_keep_the_digits_of_large_means():
    data = DATA.assign(y=DATA["y"] + 1e7, x=DATA["x"] + 1e5)
    for formula in ("y ~ x + (1 | school)", "y ~ x + (1 | school) + (1 | item)"):
        got = lmm.fit(sum(parts_of(formula, data)))
        assert got.llf == pytest.approx(lmm.fit(formula, data).llf, rel=1e-10)


@pytest.mark.parametrize(
    "fit", [lmm.fit, lambda formula, data: lmm.fit(lmm.summarize(formula, data))]
)
def test_a_covariate_far_from_its_origin(fit):
    """By rows and sums it goes, as in R, where its spread is 1e-7 of its size, not before."""
    frame = DATA.assign(x=np.round(64 * DATA["x"]))
    formula = "y ~ x + (1 | school)"
    expected = fit(formula, frame)
    found = fit(formula, frame.assign(x=frame["x"] + 2.0**26))  # without rounding
    assert found.llf == pytest.approx(expected.llf, rel=1e-10)
    assert found.fe_params["x"] == pytest.approx(expected.fe_params["x"], rel=1e-7)
    assert found.bse_fe["x"] == pytest.approx(expected.bse_fe["x"], rel=1e-7)
    for x in (frame["x"] + 2.0**31, 1e7 * (1 + 1e-15 * DATA["x"])):
        with pytest.warns(lmm.RankWarning, match="dropped x"):
            fit(formula, frame.assign(x=x))


def test_lost_digits_are_told():
    data = DATA.assign(y=DATA["y"] + 1e5)
    formula = "y ~ x + (1 | school)"
    near = lmm.summarize(formula, data, schema=lmm.schema(formula, data[:50]))
    far = lmm.summarize(formula, data, schema=lmm.schema(formula, levels={}))
    assert near.lost_digits < 1.5
    # the variance of y is about 10, its mean 1e5: nine digits of the squares
    assert 8 < far.lost_digits < 10
    with pytest.warns(lmm.ConvergenceWarning, match=r"about 9 of 16"):
        lmm.fit(far)


def test_columns_of_a_term_that_nearly_agree_are_told():
    data = DATA.assign(x=DATA["x"] + 1e4)
    got = lmm.summarize("y ~ x + (x | school)", data)
    # the variance of x is 1, its mean 1e4: eight digits of the squares
    assert 7 < got.lost_digits < 9
    with pytest.warns(lmm.ConvergenceWarning, match=r"about 8 of 16"):
        lmm.fit(got)


def test_large_effects_of_crossed_factors():
    data = DATA.assign(y=DATA["y"] + 300.0 * RNG.normal(size=9)[ITEM])
    formula = "y ~ x + (1 | school) + (1 | item)"
    with pytest.warns(lmm.ConvergenceWarning, match="lose digits"):
        got = lmm.fit(sum(parts_of(formula, data)))
    assert got.llf == pytest.approx(lmm.fit(formula, data).llf, rel=1e-9)


WITH_MOMENTS = [n for n in MODELS if not n.startswith("weights") and n != "no fixed effects"]


@pytest.mark.parametrize("name", WITH_MOMENTS)
def test_tests_of_terms_and_shares_of_variance_are_those_of_the_rows(name):
    formula, options = MODELS[name]
    got, want = lmm.fit(sum(parts_of(formula, **options))), lmm.fit(formula, DATA, **options)
    for kind in (1, 2, 3):
        np.testing.assert_allclose(got.anova(kind), want.anova(kind), rtol=1e-8)
    np.testing.assert_allclose(lmm.r2(got).table, lmm.r2(want).table, rtol=1e-8)
    np.testing.assert_allclose(lmm.icc(got).adjusted, lmm.icc(want).adjusted, rtol=1e-8)


def test_type_three_beside_names_of_the_caller():
    formula, names = "y ~ f * x + (1 | school)", {"x": 3.0, "f": "nonsense"}
    got = lmm.fit(lmm.summarize(formula, DATA, context=names))
    np.testing.assert_allclose(got.anova(3), lmm.fit(formula, DATA).anova(3), rtol=1e-8)


def test_type_three_with_factors_that_interact():
    """Rows that are invented show what the columns of all levels are made of."""
    formula = "y ~ C(f, contr.sum) * C(day) * np.log(w) + x + (1 | school)"
    got, want = lmm.fit(sum(parts_of(formula))), lmm.fit(formula, DATA)
    assert len(want.anova(3)) == 8
    np.testing.assert_allclose(got.anova(3), want.anova(3), rtol=1e-8)
    assert lmm.fit(sum(parts_of("y ~ 1 + (1 | school)"))).anova(3).empty
    knots = lmm.fit(sum(parts_of("y ~ bs(x, df=4) * f + (1 | school)")))
    with pytest.raises(lmm.DataError, match="take type=2"):  # no x is known to lie between them
        knots.anova(3)


@pytest.mark.parametrize(
    ("formula", "options"), [MODELS["weights"], ("y ~ 0 + f + (1 | school)", {})]
)
def test_sums_that_do_not_tell_moments_of_rows(formula, options):
    res = lmm.fit(sum(parts_of(formula, **options)))
    for call in (res.anova, lambda: lmm.r2(res), lambda: lmm.icc(res)):
        with pytest.raises(lmm.DataError, match="weighted, or X has no constant"):
            call()
    assert (
        np.isfinite(res.glance()["aic"]).all()
        and np.isfinite(res.wald_test_terms()["statistic"]).all()
    )
    assert np.isfinite(lmm.vif(res)["vif"]).all()
    with pytest.raises(lmm.DataError, match="are not fitted again"):
        lmm.drop1(res, "chisq")


def test_what_needs_rows_is_refused():
    res = lmm.fit(sum(parts_of("y ~ x + (1 | school) + (1 | item)")))
    for call in (lambda: res.resid, lambda: res.fittedvalues, lambda: lmm.simulate(res, seed=0)):
        with pytest.raises(lmm.DataError, match="came in batches"):
            call()
    want = lmm.fit("y ~ x + (1 | school) + (1 | item)", DATA)
    np.testing.assert_allclose(
        res.predict(DATA, conditional=True), want.predict(DATA, conditional=True), rtol=1e-6
    )


SCHEMA = lmm.schema("y ~ x + (1 | school)", DATA)
ERRORS = [
    ("other schemas", lambda: lmm.summarize(SCHEMA.formula, DATA)
     + lmm.summarize("y ~ x + f + (1 | school)", DATA), lmm.DataError, "one schema"),
    ("other formula", lambda: lmm.summarize("y ~ f + (1 | school)", DATA, schema=SCHEMA),
     lmm.FormulaError, "the schema is that of"),
    ("weights beside it", lambda: lmm.summarize(SCHEMA.formula, DATA, schema=SCHEMA, weights="w"),
     lmm.DataError, "pass them to lmm.schema"),
    ("data beside sums", lambda: lmm.fit(lmm.summarize(SCHEMA.formula, DATA), DATA),
     lmm.DataError, "pass no data"),
    ("no rows", lambda: lmm.fit(lmm.summarize(SCHEMA.formula, DATA[:0], schema=SCHEMA)),
     lmm.DataError, "no complete row"),
    ("a formula beside sums", lambda: lmm.fit(SCHEMA.formula, lmm.summarize(SCHEMA.formula, DATA)),
     lmm.DataError, "the sums know their model"),
    ("a table without a schema", lambda: lmm.RowSums.from_arrow(None, None),
     lmm.DataError, "what lmm.schema made"),
    ("levels as a text", lambda: lmm.schema("y ~ f + (1 | school)", DATA, levels={"f": "abc"}),
     lmm.DataError, "pass a list of labels"),
    ("no schema", lambda: lmm.summarize(SCHEMA.formula, DATA, schema=5), lmm.DataError, "schema"),
    ("residual covariance", lambda: lmm.schema("y ~ x + (1 | school) + ar1(day | item)", DATA),
     lmm.FormulaError, "rows in memory"),
    ("unknown level column", lambda: lmm.schema("y ~ x + (1 | school)", DATA, levels={"q": [1]}),
     lmm.DataError, "does not read"),
    ("a sample that lacks a level", lambda: lmm.schema("y ~ f + (1 | school)", DATA,
     levels={"f": ["a", "b"]}), lmm.DataError, "'c'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "error", "words"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS]
)
def test_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_category_that_no_row_has_is_dropped_as_by_a_fit():
    formula = "y ~ x + f + (1 | school)"
    data = DATA.assign(f=pd.Categorical(DATA["f"], categories=["never", "c", "b", "a"]))
    want = lmm.fit(formula, data)
    assert list(want.fe_params.index) == ["Intercept", "x", "f[T.b]", "f[T.a]"]
    assert_same(lmm.fit(lmm.summarize(formula, data)), want)


def test_adding_something_else_is_a_type_error():
    with pytest.raises(TypeError):
        lmm.summarize(SCHEMA.formula, DATA) + 1


def test_a_pattern_without_files_is_refused(tmp_path):
    with pytest.raises(lmm.DataError, match="no file matches"):
        lmm.summarize("y ~ x + (1 | school)", str(tmp_path / "*.parquet"))
