"""fit_many: every lane is what a single fit of its response gives, whatever the other lanes do."""

import pickle
import warnings
from types import SimpleNamespace

import jax
import numpy as np
import pandas as pd
import pytest
import samples
from helpers import assert_close, dense_llf

import lmm_jax as lmm
from lmm_jax.api import fit_many as api
from lmm_jax.batches import lane_rows
from lmm_jax.covariance.structures import unstructured
from lmm_jax.inference.estimates import is_flat
from lmm_jax.inference.many_estimates import ManyEstimates
from lmm_jax.numerics import parts as rows_in_parts
from lmm_jax.numerics.devices import ByDevice

LANE_RTOL = 1e-8  # two runs end within a Newton decrement of 1e-9 of one optimum
HARD = (
    4  # variance ratio 1e6: rounding of the criterion, 1e-12, moves its optimum by the root of it
)
HARD_RTOL = 1e-5
EXACT = 1e-12  # the same program on the same numbers, in other company

FRAME = samples.frame()
N = len(FRAME)
INTERCEPT, SLOPE = "~ x + (1 | g)", "~ x + (x | g)"
NESTED = "~ x + (1 | g) + (1 | g:s)"


def responses(seed: int = 0) -> np.ndarray:
    """Easy, singular and hard ones: variance ratios from none to 1e6, units from 1e-6 to 1e6."""
    rng = np.random.default_rng(seed)
    g = FRAME["g"].str[1:].astype(int).to_numpy()
    x = FRAME["x"].to_numpy()
    columns = []
    for sd, slope, unit in [(1, 0.5, 1), (0, 0, 1), (1e-2, 1, 1e-6), (1e2, 1e2, 1), (1e3, 1, 1e6),
                            (1, 0, 1), (0.3, 0.3, 1), (3, 0.1, 1e3)]:  # fmt: skip
        b = rng.normal(size=(10, 2)) * [sd, slope]
        columns.append(unit * (5 + x + b[g, 0] + b[g, 1] * x + rng.normal(size=N)))
    columns[5] += 1e5
    columns[6] = rng.standard_t(2, N)
    columns[6] -= np.bincount(g, columns[6])[g] / 6.0  # less variance between groups than none
    return np.column_stack(columns)


Y = responses()


def single(formula: str, y: np.ndarray, **options) -> lmm.LMMResults:
    return lmm.fit("y " + formula, FRAME.assign(y=y), runtime="numpy", **options)


def assert_lane(many: lmm.ManyResults, i: int, one: lmm.LMMResults) -> None:
    hard = i == HARD and one.theta.size > 1
    rtol, df_rtol = (HARD_RTOL, 10 * HARD_RTOL) if hard else (LANE_RTOL, LANE_RTOL)
    assert bool(many.converged[i]) == one.converged
    assert bool(many.singular[i]) == one.singular
    assert many.nobs[i] == one.nobs
    assert_close(many.llf[i], one.llf, EXACT)
    size = np.abs(one.fe_params).max()
    assert_close(many.fe_params[i], one.fe_params, rtol, scale=size)
    assert_close(many.bse_fe[i], one.bse_fe, rtol)
    assert_close(many.scale[i], one.scale, rtol)
    assert_close(many.theta[i], one.theta, rtol, scale=np.abs(one.theta).max())
    assert_close(many.cov_re[i], one.cov_re, rtol, scale=np.abs(one.cov_re).max().max())
    assert_close(many.df[i], one.df, df_rtol)
    assert_close(many.tvalues[i], one.tvalues, rtol, scale=size / one.bse_fe.min())
    assert_close(many.pvalues[i], one.pvalues, df_rtol, scale=1e-3)


@pytest.fixture(params=["numpy", "jax"])
def runtime(request):
    """Where lanes run."""
    return request.param


@pytest.mark.device
@pytest.mark.parametrize(
    ("formula", "reml"), [(INTERCEPT, True), (INTERCEPT, False), (SLOPE, True), (NESTED, False)]
)
def test_every_lane_is_a_single_fit(formula, reml, runtime):
    many = lmm.fit_many(formula, FRAME, Y, reml=reml, runtime=runtime)
    assert many.singular.any() and not many.singular.all()
    for i in range(Y.shape[1]):
        assert_lane(many, i, single(formula, Y[:, i], reml=reml))


def test_several_optima(runtime):
    """Data of tests/test_optima.py among easy ones: every lane takes the best of its starts."""
    from test_optima import DATA

    data = pd.read_csv(DATA / "case1338.csv")
    noise = np.random.default_rng(0).normal(size=(len(data), 3))
    Y = np.column_stack([data["y"], noise])
    many = lmm.fit_many("~ z + (z | g)", data, Y, runtime=runtime)
    one = lmm.fit("y ~ z + (z | g)", data)
    assert_close(many.llf[0], one.llf, LANE_RTOL)
    assert_close(many.theta[0], one.theta, 1e-6, scale=1.0)


@pytest.mark.device
def test_missing_values_leave_the_other_rows(runtime):
    gaps = Y.copy()
    rng = np.random.default_rng(1)
    for i in range(1, 6):
        gaps[rng.choice(N, 3 * i, replace=False), i] = np.nan
    gaps[FRAME["g"] == "g3", 2] = np.nan  # a whole group
    many = lmm.fit_many(SLOPE, FRAME, gaps, runtime=runtime)
    for i in range(Y.shape[1]):
        one = single(SLOPE, gaps[:, i])
        assert_lane(many, i, one)
    chosen = many.select(2)
    assert chosen.nobs == many.nobs[2] < N - 6
    assert_close(chosen.llf, many.llf[2], LANE_RTOL)
    assert "g3" not in chosen.random_effects["g"].index


def test_missing_covariates_and_offsets():
    frame = FRAME.assign(z=FRAME["z"].where(FRAME["z"] < 1.0))
    many = lmm.fit_many("~ x + z + (1 | g)", frame, Y[:, :2], offset="o")
    for i in range(2):
        one = lmm.fit("y ~ x + z + (1 | g)", frame.assign(y=Y[:, i]), offset="o")
        assert one.nobs < N
        assert_lane(many, i, one)
        assert_close(many.select(i).llf, one.llf, EXACT)


def test_weights_of_rows_and_of_observations(runtime):
    shared = lmm.fit_many(INTERCEPT, FRAME, Y[:, :3], weights="w", runtime=runtime)
    W = np.random.default_rng(2).uniform(0.2, 3.0, (N, 3))
    gaps = Y[:, :3].copy()
    gaps[:4, 1] = np.nan
    own = lmm.fit_many(INTERCEPT, FRAME, gaps, weights=W, runtime=runtime)
    for i in range(3):
        assert_lane(shared, i, single(INTERCEPT, Y[:, i], weights="w"))
        assert_lane(own, i, single(INTERCEPT, gaps[:, i], weights=W[:, i]))
    assert_close(own.select(1).llf, own.llf[1], LANE_RTOL)


def test_weights_in_columns_follow_the_names_of_the_responses():
    responses = pd.DataFrame(Y[:, :2], columns=["a", "b"])
    weights = pd.DataFrame({"b": FRAME["w"], "a": np.ones(N)})
    got = lmm.fit_many(INTERCEPT, FRAME, responses, weights=weights, progress=False)
    want = lmm.fit_many(INTERCEPT, FRAME, Y[:, 1:2], weights=FRAME["w"].to_numpy(), progress=False)
    assert_close(got.llf[1], want.llf[0], LANE_RTOL)


def test_bad_lanes_stay_alone(runtime):
    bad = Y.copy()
    bad[:, 1] = np.nan  # nothing
    bad[:, 2] = 3.0  # constant
    bad[5, 3] = np.inf
    bad[2:, 4] = np.nan  # fewer rows than parameters
    bad[:, 5] = 2.0 * FRAME["x"] + 1.0  # explained exactly
    bad[FRAME["g"] != "g1", 6] = np.nan  # one group
    with pytest.warns(lmm.ConvergenceWarning, match="6 of 8 responses.*6 of them") as caught:
        many = lmm.fit_many(INTERCEPT, FRAME, bad, runtime=runtime)
    assert len(caught) == 1
    assert list(many.converged) == [True, *[False] * 6, True]
    for name in ("fe_params", "bse_fe", "tvalues", "df", "pvalues", "cov_re", "scale", "llf"):
        values = getattr(many, name).reshape(8, -1)
        assert np.isnan(values[1:7]).all(), name
    for i in (0, 7):
        assert_lane(many, i, single(INTERCEPT, Y[:, i]))
    assert np.isnan(many.fdr("x").iloc[1:7]).all()


@pytest.mark.device
@pytest.mark.parametrize("formula", [SLOPE, NESTED])
def test_estimates_by_a_program_are_those_of_numpy(monkeypatch, formula):
    """Where many lanes are on a device; what cannot be fitted is NaN there as well."""
    hard = np.column_stack([Y, np.full(N, 3.0), Y[:, 0]])
    hard[2:, -1] = np.nan
    with pytest.warns(lmm.ConvergenceWarning, match="of 10 responses"):
        host = lmm.fit_many(formula, FRAME, hard, runtime="jax")
        monkeypatch.setattr(api, "ESTIMATED_THERE", ByDevice(1, 1))
        found = lmm.fit_many(formula, FRAME, hard, runtime="jax")
    assert found.singular.any() and not found.singular.all()
    for name in ManyEstimates._fields:
        both = (jax.tree.leaves(getattr(at, name)) for at in (found, host))
        for ours, theirs in zip(*both, strict=True):
            assert ours.dtype == theirs.dtype, name
            rest = tuple(range(1, theirs.ndim))
            size = np.fmax.reduce(np.abs(theirs), axis=rest, keepdims=True, initial=1e-300)
            with np.errstate(invalid="ignore"):
                ours, theirs = ours / size, theirs / size
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11)


def test_units_whose_variances_no_float_holds(runtime):
    """lmm.fit refuses them; side by side they are NaN, and the others what they are."""
    units = np.array([1, 1e200, 2.0**400, 1e-200, 1e300])
    with pytest.warns(lmm.ConvergenceWarning, match="3 of them because they cannot be fitted"):
        many = lmm.fit_many(INTERCEPT, FRAME, Y[:, :1] * units, runtime=runtime)
    assert many.converged.tolist() == [True, False, True, False, False]
    assert_close(many.bse_fe[2] / units[2], many.bse_fe[0], LANE_RTOL)
    for values in (many.bse_fe, many.fe_params, many.scale):
        assert np.isnan(values[~many.converged]).all()


def test_chunks_do_not_matter(monkeypatch, runtime):
    gaps = np.column_stack([Y, Y + 1.0, Y + 2.0])
    gaps[3, 17:] = np.nan
    whole = lmm.fit_many(INTERCEPT, FRAME, gaps, runtime=runtime)
    monkeypatch.setattr(api, "PART", 2)  # estimates are made in parts, on threads
    # two chunks, and less than one
    parts = lmm.fit_many(INTERCEPT, FRAME, gaps, chunk_size=9, runtime=runtime)
    assert_close(parts.llf, whole.llf, EXACT)
    for name in ("fe_params", "bse_fe", "scale", "converged", "nobs"):
        assert_close(getattr(parts, name), getattr(whole, name), 1e-9)


def test_rows_in_parts(monkeypatch):
    x = np.arange(20.0).reshape(10, 2)
    monkeypatch.setattr(rows_in_parts, "PART", 3)
    np.testing.assert_array_equal(rows_in_parts.by_parts(np.add, x, x[:, :1]), x + x[:, :1])


def test_slow_lanes_are_finished_together(monkeypatch):
    from lmm_jax.api import fit_many as many
    from lmm_jax.batches import lane_minimize as batch

    wide = np.concatenate([responses(seed) for seed in range(16)], axis=1)
    whole = lmm.fit_many(INTERCEPT, FRAME, wide, chunk_size=64, runtime="jax")
    # 64 lanes, then 8, of which one may be put off
    monkeypatch.setattr(batch, "SMALLEST", ByDevice(1, 1))
    monkeypatch.setattr(many, "SMALLEST", ByDevice(1, 1))
    put_off, join = [], many.join_lanes
    monkeypatch.setattr(many, "join_lanes", lambda *parts: put_off.append(1) or join(*parts))
    sizes, run = set(), batch._run
    monkeypatch.setattr(
        batch, "_run", lambda s, *a, **k: sizes.add(s.theta.shape[-1]) or run(s, *a, **k)
    )
    parts = lmm.fit_many(INTERCEPT, FRAME, wide, chunk_size=64, runtime="jax")
    assert put_off
    assert {64} < sizes <= {64, 8, 1}  # each is a program
    assert_close(parts.llf, whole.llf, EXACT)
    assert parts.converged.all()


def test_moment_starts(monkeypatch, runtime):
    """Large data start from moments: the same optima where there is one only."""
    grid = lmm.fit_many(INTERCEPT, FRAME, Y, runtime=runtime)
    monkeypatch.setattr(lane_rows, "SMALL_PROBLEM", 0)
    moments = lmm.fit_many(INTERCEPT, FRAME, Y, runtime=runtime)
    assert_close(moments.llf, grid.llf, EXACT)
    assert (moments.n_iter != grid.n_iter).any()


def test_a_design_and_a_frame_of_responses():
    design = lmm.design("y" + INTERCEPT, FRAME)
    frame = pd.DataFrame(Y[:, :3], columns=["a", "b", "c"])
    many = lmm.fit_many(design, frame)
    by_name = lmm.fit_many("y" + INTERCEPT, FRAME.assign(**frame), ["a", "b", "c"])
    assert many.response_names == by_name.response_names == ("a", "b", "c")
    assert_close(many.llf, by_name.llf, EXACT)
    one = many.select("b")
    assert one.endog_name == "b"
    assert_close(one.llf, many.llf[1], LANE_RTOL)
    expected = single(INTERCEPT, Y[:, 1]).random_effects["g"]
    assert_close(many.random_effects("b")["g"], expected, EXACT, scale=1.0)
    new = FRAME.iloc[:3]
    assert_close(by_name.select(2).predict(new), single(INTERCEPT, Y[:, 2]).predict(new), EXACT)


def test_groups_of_very_different_width_and_no_fixed_effects():
    rng = np.random.default_rng(3)
    g = np.concatenate([np.repeat(np.arange(20), 6), np.repeat([20, 21], 60)])
    frame = pd.DataFrame({"g": g, "s": np.arange(g.size) // 2})
    s = frame["s"].to_numpy()
    Y = rng.normal(size=(22, 2))[g] + rng.normal(size=(s.max() + 1, 2))[s]
    Y = Y + rng.normal(size=(g.size, 2))
    formula = "~ 0 + (1 | g) + (1 | s)"
    many = lmm.fit_many(formula, frame, Y)
    assert many.fe_params.shape == (2, 0)
    for i in range(2):
        one = lmm.fit("y " + formula, frame.assign(y=Y[:, i]))
        assert len(one.design.layout.buckets) > 1
        assert_close(many.llf[i], one.llf, EXACT)
        assert_close(many.theta[i], one.theta, LANE_RTOL)


@pytest.mark.filterwarnings("ignore::lmm_jax.ConvergenceWarning")
@pytest.mark.parametrize("formula", ["~ x + (1 | g) + (1 | s)", "~ x + ar1(0 + x3 | g)"])
def test_models_without_lanes_are_fitted_one_after_another(formula):
    frame = FRAME.assign(x3=pd.cut(FRAME["x"], 3, labels=["a", "b", "c"]).astype(str))
    gaps = Y[:, :4].copy()
    gaps[::9, 2] = np.nan
    many = lmm.fit_many(formula, frame, gaps, weights="w", progress=False)
    assert many.converged.sum() >= 3
    for i in range(4):
        one = lmm.fit("y " + formula, frame.assign(y=gaps[:, i]), weights="w")
        assert many.converged[i] == one.converged
        assert_close(many.llf[i], one.llf, EXACT)
        assert_close(many.fe_params[i], one.fe_params, LANE_RTOL, scale=1.0)
        assert_close(many.bse_fe[i], one.bse_fe, LANE_RTOL)
        assert_close(many.df[i], one.df, LANE_RTOL)
        assert_close(many.theta[i], one.theta, LANE_RTOL, scale=1.0)
        assert many.nobs[i] == one.nobs


@pytest.mark.filterwarnings("ignore::lmm_jax.ConvergenceWarning")  # and no other
@pytest.mark.parametrize("formula", ["~ x + (1 | g) + (1 | s)", "~ x + cs(1 + x | g, hom=True)"])
def test_nothing_to_fit_without_lanes(formula):
    """A constant, a covariate, nothing, an infinite value: NaN, each by itself."""
    bad = np.column_stack([np.ones(N), FRAME["x"], np.full(N, np.nan), Y[:, 0], Y[:, 0]])
    bad[3, 3] = np.inf
    many = lmm.fit_many(formula, FRAME, bad)
    assert many.converged.tolist() == [False] * 4 + [True]
    assert np.isnan(many.llf[:4]).all() and many.nobs.tolist() == [N, N, 0, N, N]
    for i, why in ((2, "'y2' is missing in every row"), (3, "'y3' has infinite values")):
        with pytest.raises(lmm.DataError, match=why):
            many.select(i)


def test_a_model_without_lanes_has_a_runtime(monkeypatch):
    """What cannot be compiled says so, in the place of NaN for every response."""
    from sparse_plan import make_sparse

    make_sparse(monkeypatch)
    with pytest.raises(lmm.DataError, match="leave runtime= and method= as they are"):
        lmm.fit_many("~ x + (1 | g) + (1 | s)", FRAME, Y[:, :2], runtime="jax")


def test_components():
    spelling = {"groups": "g", "re_formula": "1", "vc_formula": {"s": "0 + C(s)"}}
    many = lmm.fit_many("~ x", FRAME, Y[:, :3], **spelling)
    for i in range(3):
        one = lmm.fit("y ~ x", FRAME.assign(y=Y[:, i]), **spelling)
        assert_close(many.llf[i], one.llf, LANE_RTOL)
        assert_close(many.vcomp[i], one.vcomp, LANE_RTOL, scale=one.scale)


def test_tables():
    many = lmm.fit_many(INTERCEPT, FRAME, Y)
    table = many.tidy()
    assert list(table["response"][:3]) == ["y0", "y0", "y1"]
    one = single(INTERCEPT, Y[:, 3]).tidy()
    ours = table[table["response"] == "y3"].reset_index(drop=True)
    for name in ("estimate", "std_error", "statistic", "df", "p_value", "conf_low", "conf_high"):
        assert_close(ours[name], one[name][:2], LANE_RTOL)
    p = np.sort(many.pvalues[:, 1])
    by_definition = [min(p[j] * 8 / (j + 1) for j in range(i, 8)) for i in range(8)]
    assert_close(np.sort(many.fdr("x")), np.minimum(by_definition, 1.0), EXACT)
    z = lmm.fit_many(INTERCEPT, FRAME, Y[:, :2], df_method="normal")
    assert np.isinf(z.df).all()
    assert_close(z.pvalues[0], single(INTERCEPT, Y[:, 0], df_method="normal").pvalues, LANE_RTOL)
    copy = pickle.loads(pickle.dumps(many))
    assert_close(copy.llf, many.llf, EXACT)
    with pytest.raises(lmm.DataError, match="without their data"):
        copy.select(0)
    with pytest.raises(ValueError, match="read-only"):
        many.llf[0] = 0.0
    assert "8 responses" in repr(many)


def test_responses_may_be_a_mapping():
    found = lmm.fit_many(INTERCEPT, FRAME, {"a": Y[:, 0], "b": list(Y[:, 1])})
    assert found.response_names == ("a", "b")
    expected = lmm.fit_many(INTERCEPT, FRAME, Y[:, :2])
    np.testing.assert_array_equal(found.fe_params, expected.fe_params)


def test_silent_where_all_is_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lmm.fit_many(INTERCEPT, FRAME, Y[:, :1])


DESIGN = lmm.design("y" + INTERCEPT, FRAME)
W_BAD = np.where(np.arange(2 * N).reshape(N, 2) == 5, -1.0, 1.0)
BAD = [
    ((INTERCEPT, FRAME), {}, lmm.DataError, "responses is missing"),
    ((INTERCEPT, FRAME, ["a", "y"]), {}, lmm.DataError, "not there: a"),
    ((INTERCEPT, FRAME, Y[:-1]), {}, lmm.DataError, r"shape \(59, 8\) for 60 rows"),
    ((INTERCEPT, FRAME, Y[:, :0]), {}, lmm.DataError, "no columns"),
    ((INTERCEPT, FRAME, ["g"]), {}, lmm.DataError, "must be numeric"),
    ((INTERCEPT, None, Y), {}, lmm.DataError, "data is missing"),
    (("x + (1 | g)", FRAME, Y), {}, lmm.FormulaError, "one `~`"),
    (("~ x", FRAME, Y), {}, lmm.FormulaError, "no random effects"),
    (("log(y)" + INTERCEPT, FRAME, Y), {}, lmm.FormulaError, "not computed of the responses"),
    ((INTERCEPT, FRAME, {"a": Y[:, 0], "b": Y[1:, 1]}), {}, lmm.DataError, "cannot be read as col"),
    ((INTERCEPT, FRAME, {}), {}, lmm.DataError, "has no columns"),
    ((INTERCEPT, FRAME, {"a": 1.0, "b": 2.0}), {}, lmm.DataError, "1 entries a column for 60"),
    ((INTERCEPT, FRAME, Y), {"chunk_size": 0}, lmm.DataError, "chunk_size=0"),
    ((INTERCEPT, FRAME, Y), {"maxiter": -1}, lmm.DataError, "maxiter=-1"),
    ((INTERCEPT, FRAME, Y), {"df_method": "residual"}, lmm.DataError, "df_method='residual'"),
    ((INTERCEPT, FRAME, Y), {"weights": np.ones((N, 2))}, lmm.DataError, "one weight an"),
    ((INTERCEPT, FRAME, Y[:, :2]), {"weights": W_BAD}, lmm.DataError, "response 1 has -1 in row 2"),
    ((DESIGN, Y), {"weights": "w"}, lmm.DataError, "no more than the responses"),
    ((DESIGN, ["y"]), {}, lmm.DataError, "need a frame"),
    ((DESIGN, FRAME, Y), {}, lmm.DataError, "once"),
    ((INTERCEPT, FRAME, pd.DataFrame(Y)[::-1]), {}, lmm.DataError, "responses has another index"),
    ((DESIGN, pd.DataFrame(Y)[::-1]), {}, lmm.DataError, "responses has another index than"),
    ((INTERCEPT, pd.concat([FRAME, FRAME[["y"]]], axis=1), ["y"]), {}, lmm.DataError, "named 'y'"),
    ((INTERCEPT, FRAME, ["x", "x"]), {}, lmm.DataError, "two responses are named 'x'"),
    ((INTERCEPT, FRAME, pd.DataFrame({1: Y[:, 0], "1": Y[:, 1]})), {}, lmm.DataError, "named '1'"),
    ((INTERCEPT, FRAME, Y), {"weights": pd.DataFrame(Y)[::-1]}, lmm.DataError, "weights has anoth"),
    ((INTERCEPT, FRAME, Y), {"weights": np.ones_like(Y) + 1j}, lmm.DataError, "weights has the ty"),
    (
        (INTERCEPT, FRAME, Y),
        {"weights": np.ones((2, *Y.shape))},
        lmm.DataError,
        "weights has the sh",
    ),
]


@pytest.mark.parametrize(("args", "options", "error", "message"), BAD, ids=[b[3] for b in BAD])
def test_bad_input(args, options, error, message):
    with pytest.raises(error, match=message):
        lmm.fit_many(*args, **options)


def test_bad_questions():
    many = lmm.fit_many(INTERCEPT, FRAME, Y[:, :1])
    for ask, message in [
        (lambda: many.select(1), "no response 1"),
        (lambda: many.select("z"), "no response 'z'"),
        (lambda: many.select(True), "response=True"),
        (lambda: many.select(0.0), "response=0.0"),
        (lambda: many.select(None), "response=None"),
        (lambda: many.random_effects(0.5), "response=0.5"),
        (lambda: many.fdr("z"), "no fixed effect 'z'"),
        (lambda: many.tidy(conf_level=1.0), "conf_level"),
    ]:
        with pytest.raises(lmm.DataError, match=message):
            ask()


@pytest.mark.parametrize(
    ("curvature", "singular", "flat"),
    [
        ((2.0, 1.0, 3.0, 1.0), False, False),
        ((2.0, 0.0, 3.0, 1.0), False, True),
        ((2.0, 0.0, 3.0, 1.0), True, False),  # a rotation of the singular factor of two
        ((2.0, 1.0, 3.0, 0.0), True, True),  # a variance of its own says nothing
        ((np.nan,) * 4, False, True),
    ],
)
def test_which_optima_are_flat(curvature, singular, flat):
    """A term of two coefficients and one of one; the Hessian is its eigenvalues."""
    jet = SimpleNamespace(hessian=np.diag(curvature), gradient=np.zeros(4))
    one = SimpleNamespace(theta=np.zeros(4), jet=jet)
    assert is_flat(one, unstructured((2, 1)), singular) == flat
    hessian = np.stack([np.eye(4), jet.hessian])
    jets = SimpleNamespace(hessian=hessian, gradient=np.zeros((2, 4)))
    two = SimpleNamespace(theta=np.zeros((2, 4)), jet=jets)
    assert is_flat(two, unstructured((2, 1)), np.array([False, singular])).tolist() == [False, flat]


def test_weights_in_rows_and_by_name():
    """A square table too, which no shape tells from its transpose."""
    rng = np.random.default_rng(9)
    frame = pd.DataFrame({"g": np.repeat(np.arange(4), 3), "x": rng.normal(size=12)})
    names = [f"r{i}" for i in range(12)]
    Y, W = (
        pd.DataFrame(a, columns=names)
        for a in (rng.normal(size=(12, 12)), rng.uniform(0.5, 2, (12, 12)))
    )
    model = "~ x + (1 | g)"
    expected = lmm.fit_many(model, frame, Y, weights=W, progress=False)
    turned = lmm.fit_many(model, frame, Y.T, weights=W.T, responses_in="rows", progress=False)
    arrays = lmm.fit_many(
        model, frame, Y.T.to_numpy(), weights=W.T.to_numpy(), responses_in="rows", progress=False
    )
    reordered = lmm.fit_many(model, frame, Y, weights=W[names[::-1]], progress=False)
    for found in (turned, arrays, reordered):
        assert_close(found.llf, expected.llf, 1e-12)
    with pytest.raises(lmm.DataError, match="a column 'other', which is no response"):
        lmm.fit_many(model, frame, Y, weights=W.rename(columns={"r3": "other"}), progress=False)
    with pytest.raises(lmm.DataError, match="make it the index"):
        lmm.fit_many(model, frame, Y.T.reset_index(names="gene"), responses_in="rows")


def test_results_keep_what_was_fitted():
    """Also where the caller's arrays change afterwards."""
    rng = np.random.default_rng(9)
    frame = pd.DataFrame({"g": np.repeat(np.arange(6), 4), "x": rng.normal(size=24)})
    Y, W = rng.normal(size=(24, 3)), rng.uniform(0.5, 2, (24, 3))
    many = lmm.fit_many("~ x + (1 | g)", frame, Y, weights=W, progress=False)
    Y[:], W[:] = Y[::-1] * 3, 1.0
    assert_close(many.select(1).llf, many.llf[1], 1e-9)


def test_an_error_shows_the_formula_that_was_given():
    frame = pd.DataFrame({"g": [1, 1, 2, 2], "x": [1.0, 2.0, 3.0, 5.0]})
    with pytest.raises(lmm.FormulaError, match="no random effects") as found:
        lmm.fit_many("~ x", frame, np.ones((4, 1)))
    assert found.value.formula == "~ x"


def test_a_response_without_rows_of_a_related_level():
    """Ids without records stay in A: the response by itself, and dense REML at its optimum."""
    rng = np.random.default_rng(1)
    g, h = rng.integers(0, 30, 150), rng.integers(0, 6, 150)
    data = pd.DataFrame({"g": g, "h": h, "x": rng.normal(size=150)})
    block = np.array([[1.0, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 1.0]])
    A = pd.DataFrame(np.kron(np.eye(10), block), index=range(30), columns=range(30))
    y = rng.normal(size=150) + rng.normal(size=30)[g]
    y[np.isin(g, [1, 4, 5, 17])] = np.nan
    model = "x + (1 | g) + (1 | h)"
    many = lmm.fit_many(f"~ {model}", data, pd.DataFrame({"y": y}), relatedness={"g": A})
    one = lmm.fit(f"y ~ {model}", data.assign(y=y), relatedness={"g": A})
    assert_close(many.llf[0], one.llf, 1e-9)
    assert_close(many.bse_fe[0], one.bse_fe, 1e-6)
    there = ~np.isnan(y)
    X, Zg, Zh = np.c_[np.ones(150), data["x"]][there], np.eye(30)[g[there]], np.eye(6)[h[there]]
    (vg,), (vh,) = (np.diagonal(S) for S in one.estimates.covariances)
    V = vg * Zg @ A.to_numpy() @ Zg.T + vh * Zh @ Zh.T + one.scale * np.eye(there.sum())
    assert_close(one.llf, dense_llf(X, y[there], V, reml=True), 1e-9)
    assert len(many.select(0).random_effects["g"]) == 30


@pytest.mark.parametrize(
    "model", ["(1 | g) + ar1(v | g)", "(1 | g) + diag(s)", "(1 | g) + (1 | h)"]
)
def test_a_response_of_one_group_leaves_the_others_alone(model):
    """Its rows are of one level, whose effect the intercept takes: NaN, as where columns depend."""
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"g": np.repeat(np.arange(16), 5), "v": np.tile(np.arange(5), 16)})
    data = data.assign(s=np.where(data["v"] % 2, "p", "q"), h=rng.integers(0, 4, 80))
    Y = rng.normal(size=(80, 3)) + rng.normal(size=(16, 3))[data["g"]]
    Y[(data["h"] != 1) if "h" in model else (data["g"] != 3), 1] = np.nan
    with pytest.warns(lmm.ConvergenceWarning, match="1 of 3"):
        many = lmm.fit_many(f"~ {model}", data, Y, runtime="numpy")
    assert np.isnan(many.llf[1]) and not many.converged[1]
    for i in (0, 2):
        one = lmm.fit(f"y ~ {model}", data.assign(y=Y[:, i]))
        assert_close(many.llf[i], one.llf, 1e-9)
