"""Parametric bootstrap: the distribution of what is drawn, the optima, intervals and tables."""

import sys
import warnings
from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import pytest
import samples
from helpers import assert_close
from row_space import compress_rows
from scipy import stats

import lmm_jax as lmm
from lmm_jax.batches.draw import draw
from lmm_jax.batches.draw_recipe import recipe
from lmm_jax.batches.replicate_minimize import fit_lanes
from lmm_jax.batches.streams import Stream
from lmm_jax.covariance.theta import factor_blocks
from lmm_jax.inference.estimates import estimate, has_optimum, smallest_singular_value
from lmm_jax.layouts.grouped import GroupedLayout
from lmm_jax.layouts.moments import MomentLayout, merge_classes
from lmm_jax.likelihood.profile import profile_jet
from lmm_jax.numerics import tiers
from lmm_jax.results.bootstrap import Replicate, Replicates, parameter_columns
from lmm_jax.results.bootstrap_statistics import BootstrapStatistics

# A Kolmogorov-Smirnov test below this fails: seeds are fixed and there are about a hundred
# tests, so a failure is one of the code.
KS_LEVEL = 1e-4
# Deviances of two runs of the same optimizer: both end at a Newton decrement of 1e-9.
DEVIANCE_TOL = 1e-8
# Covariances relative to the largest: the root of what the decrement leaves of the deviance.
COVARIANCE_TOL = 1e-6
# Sums in another order.
ROUNDING = 1e-9

SLEEP = "Reaction ~ Days + (Days | Subject)"


def few_rows():
    """Groups of 1 to 4 rows: two thirds of them have fewer rows than coefficients, or as many."""
    data = samples.frame(5, groups=25)
    keep = data.groupby("g").cumcount() < 1 + data["g"].str[1:].astype(int) % 4
    return data[keep].reset_index(drop=True)


def held():
    free = lmm.Params(fe_params=np.array([1.0, 0, 1]), cov_re=np.ones((1, 1)), vcomp=np.zeros(0))
    start = replace(free, fe_params=np.array([0, 2.0, 0]))
    return lmm.fit("y ~ x + z + (1 | g)", samples.frame(), free=free, start_params=start)


FITS = {
    "sleepstudy": lambda: lmm.fit(SLEEP, lmm.load_dataset("sleepstudy")),
    "sleepstudy by ML": lambda: lmm.fit(SLEEP, lmm.load_dataset("sleepstudy"), reml=False),
    "zero variance": lambda: lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff2")),
    "a third singular": lambda: lmm.fit("y ~ x + (x | g)", samples.frame()),
    "few rows": lambda: lmm.fit("y ~ x + (x | g)", few_rows()),
    "nested, weights, offset": lambda: lmm.fit(
        "y ~ x + offset(o) + (1 | g/s)", samples.frame(), weights="w"
    ),
    "components": lambda: lmm.fit(
        "y ~ x", samples.frame(), groups="g", re_formula="1", vc_formula={"s": "0 + C(s)"}
    ),
    "held": held,
    "crossed": lambda: lmm.fit("y ~ x + (x | g) + (1 | s)", samples.frame()),
}
FORMS = {"sleepstudy": MomentLayout, "few rows": GroupedLayout, "crossed": lmm.CrossedLayout}


def row_space(res, n, seed):
    """Draws with all of their rows, and their fits in batches."""
    design = res.design
    Y = lmm.simulate(res, seed=seed, n=n).to_numpy()
    with jax.enable_x64(True):
        base = recipe(design.layout, res.estimates.theta_layout, res.scale).layout
        base = replace(base, y_scale=np.array(1.0))  # compressed rows are in units of the data
        responses, origin = compress_rows(design, base, Y)
        solution = fit_lanes(base, responses, res.estimates.theta_layout, reml=res.reml)
        base = replace(base, beta_shift=origin, beta_origin=np.zeros_like(origin))
        at = estimate(solution, base, reml=res.reml, held=design.held)
        converged = has_optimum(solution, base.structures, at.singular)
    return Y, Replicates(at.beta, at.covariances, at.scale, at.deviance, converged, at.singular)


def check_distribution(name, n):
    """Every parameter, and the deviance, against the bootstrap with rows."""
    res = FITS[name]()
    boot = lmm.bootstrap(res, n, seed=11)
    _, rows = row_space(res, n, seed=3)
    assert boot.n_failed == 0 and rows.converged.all()
    drawn = np.column_stack([parameter_columns(boot.replicates, "vcov"), boot.replicates.deviance])
    honest = np.column_stack([parameter_columns(rows, "vcov"), rows.deviance])
    for j in range(drawn.shape[1]):
        if np.ptp(honest[:, j]) == 0:  # held fixed
            assert np.ptp(drawn[:, j]) == 0 and drawn[0, j] == honest[0, j]
        else:
            assert stats.ks_2samp(drawn[:, j], honest[:, j]).pvalue > KS_LEVEL, j
    table = [[boot.n_singular, n - boot.n_singular], [rows.singular.sum(), (~rows.singular).sum()]]
    assert stats.fisher_exact(table).pvalue > KS_LEVEL


@pytest.mark.parametrize("name", ["sleepstudy", "few rows"])
def test_the_distribution_is_that_of_the_bootstrap_with_rows(name):
    check_distribution(name, 1500)


@pytest.mark.slow
@pytest.mark.parametrize("name", FITS)
def test_the_distribution_is_that_of_the_bootstrap_with_rows_in_full(name):
    # vmapped scatters of the crossed layout are slow
    check_distribution(name, 1000 if name == "crossed" else 5000)


@pytest.mark.device
@pytest.mark.parametrize(
    ("name", "n"), [("sleepstudy", 100), ("a third singular", 40), ("crossed", 10)]
)
def test_every_optimum_is_that_of_a_single_fit(name, n):
    res = FITS[name]()
    Y, found = row_space(res, n, seed=1)
    singular = 0
    for i in range(n):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lmm.ConvergenceWarning)
            design = replace(res.design, endog=Y[:, i])
            one = lmm.fit(design, reml=res.reml, runtime="auto" if name == "crossed" else "numpy")
        assert one.converged == found.converged[i]
        assert abs(found.deviance[i] - one.estimates.deviance) < DEVIANCE_TOL
        largest = max(one.scale, *(np.abs(S).max() for S in one.estimates.covariances))
        for S, expected in zip(found.covariances, one.estimates.covariances, strict=True):
            np.testing.assert_allclose(S[i], expected, rtol=0, atol=COVARIANCE_TOL * largest)
        np.testing.assert_allclose(found.scale[i], one.scale, rtol=COVARIANCE_TOL)
        assert found.singular[i] == one.singular
        singular += one.singular
    assert singular > 0


def test_the_mean_of_a_balanced_design_is_normal():
    res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
    boot = lmm.bootstrap(res, 4000, seed=5)
    sd = np.sqrt(res.params.iloc[1] / 6 + res.scale / 30)  # 6 batches of 5
    values = boot.params()["Intercept"]
    assert stats.kstest(values, stats.norm(res.fe_params["Intercept"], sd).cdf).pvalue > KS_LEVEL
    # the sums of squares of a balanced one-way layout are chi-square: where the variance of the
    # batches is not zero the residual variance is the mean square within them
    ss = 24 * boot.params()["sigma"] ** 2 / res.scale
    regular = ~boot.replicates.singular
    assert abs(ss[regular].mean() - 24) < 1.0  # of a mean with standard error 0.11, conditioned


# ---- merged groups


@pytest.mark.parametrize(
    ("name", "reml"), [("sleepstudy", True), ("components", False), ("zero variance", True)]
)
def test_merged_groups_have_the_same_criterion(x64, name, reml):
    """Classes of groups in a program, all groups in NumPy."""
    layout = jax.tree.map(np.asarray, FITS[name]().design.compressed.layout)
    merged = merge_classes(layout)
    assert isinstance(merged, MomentLayout)

    def both(theta, at):
        Psi = tuple(L @ L.T for L in factor_blocks(theta, layout.structures))
        return profile_jet(theta, at, reml=reml), at.waist(Psi)

    program, m = jax.jit(both), sum(k * (k + 1) // 2 for k in layout.sizes)
    for theta in (np.linspace(0.4, 1.3, m), np.zeros(m), np.eye(m)[0]):
        full, small = both(theta, layout), program(theta, merged)
        for a, b in zip(jax.tree.leaves(full), jax.tree.leaves(small), strict=True):
            scale = max(1.0, np.abs(a).max(initial=0.0))
            np.testing.assert_allclose(b, a, rtol=0, atol=ROUNDING * scale)


@pytest.mark.parametrize("name", FORMS)
def test_the_form_follows_the_design(x64, name):
    res = FITS[name]()
    base = recipe(res.design.layout, res.estimates.theta_layout, res.scale).layout
    assert type(base) is FORMS[name]


@pytest.mark.parametrize("name", FITS)
def test_sources_have_the_moments_of_the_model(x64, name):
    """Second moments of what is drawn, and how many dimensions are drawn, by dense algebra."""
    res = FITS[name]()
    design, layout, theta = res.design, res.design.layout, res.estimates.theta_layout
    source = recipe(layout, theta, res.scale).source
    X = design.exog if design.held is None else design.exog[:, np.isnan(design.held)]
    columns = [X, *(term.columns().toarray() for term in design.terms)]
    dimensions = np.linalg.matrix_rank(np.concatenate(columns, axis=1))
    assert float(source.df) == design.nobs - dimensions
    if isinstance(layout, GroupedLayout):
        S0 = np.asarray(layout.S0)[:-1, :-1]
        np.testing.assert_allclose(source.rest @ source.rest.T, S0, atol=ROUNDING)
    if name in ("few rows", "a third singular"):  # one term, groups one by one
        L = np.zeros((2, 2))
        L[np.triu_indices(2)[::-1]] = theta
        for bucket, own in zip(layout.buckets, source.buckets, strict=True):
            T = np.moveaxis(np.asarray(bucket.T), 2, 0)
            T = T[np.any(T != 0, axis=(1, 2))]
            unit = np.eye(2) * (np.diagonal(T, axis1=1, axis2=2) != 0)[:, None]
            V = T @ L @ L.T @ np.swapaxes(T, 1, 2) + unit
            root = np.moveaxis(np.asarray(own.root), 2, 0)[: len(T)]
            np.testing.assert_allclose(np.swapaxes(root, 1, 2) @ root, V, atol=ROUNDING)


# ---- seeds, batches


def jittered(tree, size, seed):
    """The same numbers with other last digits."""
    rng = np.random.default_rng(seed)

    def move(leaf):
        leaf = np.asarray(leaf)
        if leaf.dtype != float:
            return leaf
        return leaf * (1.0 + size * rng.uniform(-1, 1, leaf.shape))

    return jax.tree.map(move, tree)


@pytest.mark.parametrize(
    "formula",
    [
        "strength ~ 1 + (1 | batch / cask)",
        "diameter ~ 1 + (1 | plate) + (1 | sample)",
        "score ~ Machine + (0 + Machine | Worker)",
        "yld ~ nitro + Variety + (1 | Block / Variety)",
        "distance ~ age * Sex + (age | Subject)",
    ],
)
def test_a_replicate_does_not_hang_on_last_digits(formula):
    """Eigenvectors of repeated eigenvalues do: another machine would draw other responses."""
    names = {"strength": "pastes", "diameter": "penicillin", "score": "machines", "yld": "oats"}
    data = lmm.load_dataset(names.get(formula.split()[0], "orthodont"))
    res = lmm.fit(formula, data)
    layout, theta = jax.device_get(res.design.layout), res.estimates.theta_layout
    drawn = []
    for size in (0.0, 1e-13):
        source = recipe(jittered(layout, size, seed=1), theta, res.scale).source
        drawn.append(draw(Stream(3), np.arange(20), source))
    for one, other in zip(*map(jax.tree.leaves, drawn), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-8, atol=1e-8 * np.abs(one).max())


def test_without_fixed_effects():
    res = lmm.fit("y ~ 0 + (x | g)", samples.frame())
    boot = lmm.bootstrap(res, 500, seed=1)
    assert boot.n_failed == 0
    # a variance of a normal variate without a mean: the residual variance is nearly unbiased
    at = boot.statistics()
    assert abs(at.bias[-1]) < 4 * at.std_error[-1] / np.sqrt(500) + 0.02 * res.sigma


def test_a_replicate_depends_on_the_seed_and_its_number_alone(monkeypatch):
    res = FITS["sleepstudy"]()
    boot = lmm.bootstrap(res, 40, seed=3)
    pd.testing.assert_frame_equal(boot.params(), lmm.bootstrap(res, 40, seed=3).params())
    assert not np.allclose(boot.params(), lmm.bootstrap(res, 40, seed=4).params())
    monkeypatch.setattr(sys.modules["lmm_jax.batches.draw"], "_MAX_LANES", 16)
    batches = lmm.bootstrap(res, 20, seed=3).params()
    # programs of other batch sizes round otherwise, and the optimum is known to a decrement
    np.testing.assert_allclose(batches, boot.params()[:20], rtol=1e-5, atol=1e-3)


# ---- intervals and tables


def statistics(R=999, seed=0):
    values = np.random.default_rng(seed).normal([1.0, -2.0], [1.0, 3.0], size=(R, 2))
    return BootstrapStatistics(names=("a", "b"), estimate=np.array([1.2, -1.5]), values=values)


@pytest.mark.parametrize("name", ["sleepstudy", "few rows", "nested, weights, offset", "crossed"])
def test_runtimes_agree(name):
    """One draw in any case, so that the optima are those of the same responses."""
    with tiers.running_on("numpy"):
        at_once = lmm.bootstrap(FITS[name](), 40, seed=3).replicates
    with tiers.running_on("jax"):
        compiled = lmm.bootstrap(FITS[name](), 40, seed=3).replicates
    assert (at_once.converged == compiled.converged).all()
    assert_close(at_once.deviance, compiled.deviance, DEVIANCE_TOL, 1.0)
    assert_close(at_once.beta, compiled.beta, COVARIANCE_TOL, np.abs(compiled.beta).max())
    for one, other in zip(at_once.covariances, compiled.covariances, strict=True):
        assert_close(one, other, COVARIANCE_TOL, np.abs(other).max())


def test_nothing_is_compiled_for_a_small_bootstrap(compiled):
    jax.clear_caches()
    fit = lmm.fit(SLEEP, lmm.load_dataset("sleepstudy"), runtime="numpy")
    with tiers.running_on("numpy"):  # other tests may have compiled programs of this shape
        draws = lmm.bootstrap(fit, 200, seed=1)
    assert draws.replicates.converged.all() and compiled() == []


def test_streams():
    """Variates of a replicate are its own, and those of two branches have nothing in common."""
    df = np.array([3.0, 0.0, 0.7])
    stream = Stream(5)
    z, squares = stream.variates(np.arange(20_000), 3, df)
    again, some = stream.variates(np.arange(4_321, 4_500), 3, df)
    assert (again == z[4_321:4_500]).all() and (some == squares[4_321:4_500]).all()
    assert (squares[:, 1] == 0).all()
    for variates, cdf in [
        *((column, stats.norm.cdf) for column in z.T),
        (squares[:, 0], stats.chi2(3).cdf),
        (squares[:, 2], stats.chi2(0.7).cdf),
    ]:
        assert stats.kstest(variates, cdf).pvalue > KS_LEVEL
    others = [Stream(5, (0,)), Stream(5, (1,)), Stream(6)]
    first = [z, *(other.variates(np.arange(20_000), 3, df)[0] for other in others)]
    correlations = np.corrcoef(np.concatenate(first, axis=1).T) - np.eye(12)
    assert np.abs(correlations).max() < 5 / np.sqrt(20_000)  # five standard errors


def test_intervals():
    at = statistics()
    ranked = np.sort(at.values, axis=0)  # of 999: the 25th and the 975th of them
    percentile = at.conf_int(kind="percentile")
    np.testing.assert_allclose(percentile["lower"], ranked[24])
    np.testing.assert_allclose(percentile["upper"], ranked[974])
    basic = at.conf_int(kind="basic")
    np.testing.assert_allclose(basic["lower"], 2 * at.estimate - ranked[974])
    np.testing.assert_allclose(basic["upper"], 2 * at.estimate - ranked[24])
    normal = at.conf_int(kind="normal", alpha=0.1)
    center = 2 * at.estimate - at.values.mean(axis=0)
    half = stats.norm.ppf(0.95) * at.values.std(axis=0, ddof=1)
    np.testing.assert_allclose(normal, np.column_stack([center - half, center + half]))
    assert list(normal.index) == ["a", "b"]


def test_values_that_are_not_there_are_left_out():
    at = statistics(R=5)
    at.values[2, 1] = np.nan
    rest = at.values[[0, 1, 3, 4], 1]
    np.testing.assert_allclose(at.bias[1], rest.mean() + 1.5)
    np.testing.assert_allclose(at.std_error[1], rest.std(ddof=1))


@pytest.fixture(scope="module")
def boot():
    return lmm.bootstrap(FITS["sleepstudy"](), 40, seed=3)


def test_both_scales_and_the_tables(boot):
    res = FITS["sleepstudy"]()
    variances, sds = boot.params(), boot.params("sdcor")
    assert list(variances) == [*res.params.index, "sigma"]
    names = ["sd(Intercept|Subject)", "cor(Intercept,Days|Subject)", "sd(Days|Subject)"]
    assert list(sds)[2:-1] == names
    a, c, b = (variances[name] for name in res.params.index[2:])
    np.testing.assert_allclose(sds[names[0]], np.sqrt(a))
    np.testing.assert_allclose(sds[names[1]], c / np.sqrt(a * b))
    np.testing.assert_allclose(sds["sigma"], variances["sigma"])
    np.testing.assert_allclose(boot.statistics().estimate[:-1], res.params)
    np.testing.assert_allclose(boot.statistics("sdcor").estimate[-1], res.sigma)
    table = boot.tidy(conf_level=0.9)
    pd.testing.assert_index_equal(boot.conf_int().index, pd.Index([*res.params.index, "sigma"]))
    interval = boot.conf_int(alpha=0.1, scale="sdcor")
    np.testing.assert_allclose(table["conf_low"], interval["lower"])
    pd.testing.assert_frame_equal(table, boot.tidy(level=0.9, scale="sdcor"))
    pd.testing.assert_frame_equal(interval, boot.conf_int(level=0.9, scale="sdcor"))
    pd.testing.assert_frame_equal(boot.params("sdcor"), boot.params(scale="sdcor"))
    assert str(boot.summary(level=0.9)) == str(boot.summary(alpha=0.1))
    assert table["group"].tolist() == [None, None, *["Subject"] * 3, "Residual"]
    text = str(boot.summary(kind="basic"))
    assert "40 replicates fitted by REML" in text and "0 failed" in text and "Days" in text
    assert repr(boot).startswith("<BootstrapResults: 40 replicates")


def test_failed_replicates_are_counted_and_left_out(boot):
    converged = np.arange(40) != 7
    lost = replace(boot, replicates=boot.replicates._replace(converged=converged))
    assert (boot.n_failed, lost.n_failed, lost.n_boot) == (0, 1, 40)
    assert lost.params().isna().all(axis=1).tolist() == [i == 7 for i in range(40)]
    expected = boot.params().drop(index=7).to_numpy()
    np.testing.assert_allclose(lost.statistics().values, expected)
    assert len(lost.apply(lambda r: r.sigma).values) == 39
    singular = boot.replicates._replace(converged=converged, singular=~converged)
    assert replace(boot, replicates=singular).n_singular == 0


def test_arrays_are_read_only(boot):
    with pytest.raises(ValueError, match="read-only"):
        boot.replicates.beta[0, 0] = 0.0


def test_functions_of_the_parameters(boot):
    frame = boot.params()
    ratio = boot.apply(lambda r: r["Days"] / r.sigma)
    np.testing.assert_allclose(ratio.values[:, 0], frame["Days"] / frame["sigma"])
    assert ratio.names == ("t0",)
    both = boot.apply(lambda r: {"icc": share(r), "slope": r.fe_params[1]})
    assert both.names == ("icc", "slope")
    a, scale = frame["var(Intercept|Subject)"], frame["sigma"] ** 2
    np.testing.assert_allclose(both.values[:, 0], a / (a + scale))
    named = boot.apply(lambda r: [r.scale, r.sigma], names=["scale", "sigma"])
    assert named.tidy()["term"].tolist() == ["scale", "sigma"]
    assert boot.apply(lambda r: pd.Series({"s": r.sigma})).names == ("s",)


def share(r: Replicate) -> float:
    return r.covariances[0][0, 0] / (r.covariances[0][0, 0] + r.scale)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_smallest_singular_value(k):
    L = np.tril(np.random.default_rng(k).normal(size=(20, k, k)))
    L[3, :, -1] = 0.0
    expected = np.linalg.svd(L, compute_uv=False)[:, -1]
    np.testing.assert_allclose(smallest_singular_value(L), expected, atol=1e-14)


# ---- refusals


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda b: b.conf_int(kind="bca"), lmm.DataError, "percentile, basic"),
        (lambda b: b.conf_int(alpha=1.5), lmm.DataError, "between 0 and 1"),
        (lambda b: b.conf_int(scale="log"), lmm.DataError, "vcov, sdcor"),
        (lambda b: b.tidy(scale="log"), lmm.DataError, "scale='log'"),
        (lambda b: b.tidy(level=0.9, conf_level=0.8), lmm.DataError, "give one of both"),
        (lambda b: b.apply(lambda r: np.eye(2)), lmm.DataError, "shape"),
        (
            lambda b: b.apply(lambda r: r.sigma, names=["a", "b"]),
            lmm.DataError,
            "names has 2 names, 1 ",
        ),
        (lambda b: b.apply(lambda r: r["Nights"]), KeyError, "no fixed effect"),
    ],
)
def test_refuses_of_the_results(boot, act, error, message):
    with pytest.raises(error, match=message):
        act(boot)


def held_covariance():
    fixed = lmm.Params(fe_params=np.ones(2), cov_re=np.zeros((1, 1)), vcomp=np.zeros(0))
    return lmm.fit("y ~ x + (1 | g)", samples.frame(), free=fixed)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (FITS["sleepstudy"], {"n_boot": 1}, "n_boot=1"),
        (FITS["sleepstudy"], {"n_boot": 10.0}, "whole number"),
        (FITS["sleepstudy"], {"n_boot": 10**12}, "1,000,000,000,000 replicates .* GB"),
        (FITS["sleepstudy"], {"seed": -1}, "seed=-1"),
        (lambda: FITS["sleepstudy"]().without_data(), {}, "without its data"),
        (lambda: FITS["sleepstudy"]().design, {}, "result of lmm.fit"),
        (held_covariance, {}, "holds covariances fixed"),
    ],
)
def test_refuses(make, options, message):
    with pytest.raises(lmm.DataError, match=message):
        lmm.bootstrap(make(), **{"n_boot": 10, "seed": 1, **options})


def test_refuses_a_penalty():
    penalized = replace(FITS["sleepstudy"](), penalized=True)
    with pytest.raises(lmm.DataError, match="penalized"):
        lmm.bootstrap(penalized, 10, seed=1)


def test_large_crossed_models_are_fitted_one_after_another(monkeypatch):
    """Maximal models of subjects and items, whose lanes would fill the memory: the same draws."""
    res = FITS["crossed"]()
    together = lmm.bootstrap(res, 6, seed=3).replicates
    monkeypatch.setattr(sys.modules["lmm_jax.layouts.crossed.index"], "_DEAR", 0)
    alone = lmm.bootstrap(res, 6, seed=3).replicates
    assert alone.converged.all()
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        assert_close(a, b, 1e-7, scale=1.0)  # two ways to an optimum, which each squares once


def test_refuses_large_crossed_factors(monkeypatch):
    monkeypatch.setattr(sys.modules["lmm_jax.layouts.crossed.layout"], "LARGE_CORE", 3)
    with pytest.raises(lmm.DataError, match=r"lmm\.simulate"):
        lmm.bootstrap(FITS["crossed"](), 10, seed=1)
