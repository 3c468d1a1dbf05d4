"""A residual standard deviation that is known: meta-analysis, and the same fit told its own."""

import pickle
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
import samples
from helpers import assert_close
from sparse_plan import make_sparse

import lmm_jax as lmm

HERE = Path(__file__).parent / "data"
BCG, SCHOOLS = (pd.read_csv(HERE / f"{name}.csv") for name in ("bcg", "school_calendars"))
DATA = samples.frame()

OF_METAFOR = 2e-5  # metafor's optimizer stops within 3e-6 of the variances
LIMITS = 3e-4  # so do its limits, which uniroot takes to 1.2e-4 of a variance
VALUE = 1e-9  # the likelihood there, to which the error of the variances is squared
RTOL = 1e-9  # two routes through float64 to one number
TOL = 1e-6  # two optimizations of one criterion


def meta(formula: str, data: pd.DataFrame = BCG, **options) -> lmm.LMMResults:
    return lmm.fit(formula, data, weights=1 / data["vi"], sigma=1, **options)


# metafor 3.8-1: rma.mv(yi, vi, mods=, random=), whose restricted likelihood has the determinant
# of X'X besides
METAFOR = {
    ("yi ~ 1 + (1 | trial)", True): (
        [0.313243533251],
        [-0.714532367328],
        [0.179781579669],
        -12.2023714155,
    ),
    ("yi ~ 1 + (1 | trial)", False): (
        [0.280028382362],
        [-0.711199162436],
        [0.171896868603],
        -12.6650763484,
    ),
    ("yi ~ ablat + year + (1 | trial)", True): (
        [0.11078501004],
        [-3.54537095455, -0.0280113230479, 0.00190748942888],
        [29.0956526144, 0.010233954756, 0.0146837012159],
        -8.10687383703,
    ),
    ("yi ~ ablat + year + (1 | trial)", False): (
        [0.0268731983083],
        [6.6109244336, -0.0308514227212, -0.00319006221003],
        [18.1913257029, 0.00628705764065, 0.00917980693679],
        -7.64611522773,
    ),
    ("yi ~ 1 + (1 | alloc / trial)", True): (
        [0.309346071649, 0.0131864185557],
        [-0.703992409918],
        [0.192313562701],
        -12.1919062444,
    ),
}
# the fixed effects of a covariate far from zero move with the variance thirty times as far
SLACK = {"yi ~ ablat + year + (1 | trial)": 30.0}


@pytest.mark.parametrize("runtime", ["numpy", "jax"])
@pytest.mark.parametrize("formula, reml", METAFOR)
def test_a_meta_analysis_is_metafors(formula, reml, runtime):
    variances, beta, errors, llf = METAFOR[formula, reml]
    res = meta(formula, reml=reml, runtime=runtime)
    tol = OF_METAFOR * SLACK.get(formula, 1.0)
    assert res.converged and res.scale == 1.0
    assert_close([S.item() for S in res.estimates.covariances], variances, tol)
    assert_close(res.fe_params, beta, tol)
    assert_close(res.bse_fe, errors, tol)
    X = res.design.exog
    assert_close(res.llf + 0.5 * np.linalg.slogdet(X.T @ X)[1] * reml, llf, VALUE)
    assert res.n_params == len(beta) + len(variances)


def test_schools_in_districts():
    res = meta("yi ~ 1 + (1 | district / school)", SCHOOLS)
    assert_close([S.item() for S in res.estimates.covariances],
                 [0.0327365170279, 0.0650619442753], OF_METAFOR)  # fmt: skip
    assert_close(res.fe_params, [0.184713163673], OF_METAFOR)
    assert_close(res.bse_fe, [0.0845559187421], OF_METAFOR)
    limits = res.conf_int(method="profile", reml=True)
    assert_close(limits.loc["sd(Intercept|district)"], [0.149106635567, 0.455238103007], LIMITS)
    assert_close(limits.loc["sd(Intercept|school:district)"],
                 [0.127567739060, 0.2506500745101], LIMITS)  # fmt: skip
    assert limits.loc["sigma"].tolist() == [1.0, 1.0]


def test_profiles_and_effects_are_metafors():
    """`confint`, by R's uniroot to 1.2e-4 of a variance, and `ranef` of the restricted fit."""
    for reml, ends in (True, (0.339469291276, 0.982189310318)), (
        False, (0.32411627645, 0.913188285908)
    ):  # fmt: skip
        limits = meta("yi ~ 1 + (1 | trial)").conf_int(method="profile", reml=reml)
        assert_close(limits.loc["sd(Intercept|trial)"], ends, LIMITS)
    res = meta("yi ~ 1 + (1 | trial)")
    effects = res.random_effects_frame(given_beta=False)
    assert_close(effects["estimate"][:3], [-0.0857012458, -0.5371738034, -0.2723708769],
                 OF_METAFOR)  # fmt: skip
    assert_close(effects["std_error"][:3], [0.4091682286, 0.3637609772, 0.4295908745], OF_METAFOR)


# ------------------------------------------------------------ told what it found itself


RELATED = pd.DataFrame(0.5 * np.eye(10) + 0.5, *[[f"g{i}" for i in range(10)]] * 2)
MODELS = {
    "grouped": ("y ~ x + (x | g)", {}),
    "nested": ("y ~ x + (1 | g / s)", {}),
    "crossed": ("y ~ x + (1 | g) + (x | s)", {}),
    "sparse": ("y ~ x + (1 | g) + (1 | s)", {}),
    "weighted": ("y ~ x + z + (1 | g)", {"weights": "w", "offset": "o"}),
    "structure": ("y ~ x + cs(1 + x | g, hom=True)", {}),
    "components": ("y ~ x", {"groups": "g", "re_formula": "1", "vc_formula": {"s": "0 + C(s)"}}),
    "related": ("y ~ x + (1 | g)", {"relatedness": {"g": RELATED}}),
    "related slope": ("y ~ x + (x | g)", {"relatedness": {"g": RELATED}}),
}


def pair(kind: str, reml: bool, runtime: str) -> tuple[lmm.LMMResults, lmm.LMMResults]:
    """A fit, and the one that is told the residual standard deviation of the first."""
    formula, options = MODELS[kind]
    own = lmm.fit(formula, DATA, reml=reml, runtime=runtime, **options)
    told = lmm.fit(formula, DATA, reml=reml, runtime=runtime, sigma=own.sigma, **options)
    return own, told


CASES = [(kind, reml, "numpy") for kind in MODELS for reml in (True, False)]
CASES += [(kind, True, "jax") for kind in ("grouped", "crossed", "related slope")]


@pytest.mark.parametrize("kind, reml, runtime", CASES)
def test_a_fit_that_is_told_its_own_scale_is_the_same(kind, reml, runtime, monkeypatch):
    """The maximum over all parameters is one over the others; what is uncertain is less."""
    if kind == "sparse":
        make_sparse(monkeypatch)
    own, told = pair(kind, reml, runtime)
    assert told.converged and told.n_params == own.n_params - 1
    assert told.sigma == own.sigma
    assert_close(told.llf, own.llf, RTOL)
    assert_close(told.params, own.params, TOL, 1)
    assert_close(told.bse_fe, own.bse_fe, TOL)
    assert_close(told.fittedvalues, own.fittedvalues, TOL, 1)
    # the information of theta and log sigma^2 without its last row and column
    whole, m = own.estimates.joint_cov, own.theta.size
    if not own.singular:
        given = whole[:m, :m] - np.outer(whole[:m, m], whole[m, :m]) / whole[m, m]
        assert_close(told.estimates.joint_cov[:m, :m], given, 1e-5, np.abs(given).max())
    assert (told.estimates.joint_cov[m] == 0).all()
    assert (told.df > own.df).any() or kind in ("crossed", "sparse")


@pytest.mark.parametrize("kind", ["grouped", "crossed", "related"])
def test_elsewhere_the_criterion_is_the_dense_one(kind):
    """At a sigma that is not the best, by the normal density; its slopes vanish at the optimum."""
    formula, options = MODELS[kind]
    res = lmm.fit(formula, DATA, sigma=1.7, reml=False, **options)
    V = 1.7**2 * np.eye(60)
    for term, S in zip(res.design.terms, res.estimates.covariances, strict=True):
        A = np.eye(term.n_levels)
        if term.relationship is not None:
            A = RELATED.loc[list(term.levels), list(term.levels)].to_numpy()
        Z = np.zeros((60, term.n_levels, len(S)))
        Z[np.arange(60), term.codes[:, 0]] = term.values[:, 0]
        V = V + np.einsum("nla,lm,ab,kmb->nk", Z, A, S, Z)
    r = DATA["y"] - res.design.exog @ res.fe_params
    value = -0.5 * (60 * np.log(2 * np.pi) + np.linalg.slogdet(V)[1] + r @ np.linalg.solve(V, r))
    assert_close(res.llf, value, RTOL)
    layout, theta = res.design.layout, res.theta
    with jax.enable_x64(True):
        at = jax.value_and_grad(lambda t: lmm.profile_loglike(t, layout, reml=False))
        found, slope = at(jax.numpy.array(theta))
    assert np.abs(slope).max() < 1e-5
    assert_close(found, value, RTOL)


def test_of_one_estimate_a_study_the_uncertainty_is_the_closed_form():
    """`V = tau^2 I + diag(v)`: expected information `tr(P P) / 2` for Kenward and Roger."""
    res = meta("yi ~ ablat + (1 | trial)")
    tau2, v, X = res.cov_re.iloc[0, 0], BCG["vi"].to_numpy(), res.design.exog
    Vi = np.diag(1 / (tau2 + v))
    Phi = np.linalg.inv(X.T @ Vi @ X)
    P = Vi - Vi @ X @ Phi @ X.T @ Vi
    W = 2 / np.trace(P @ P)
    Pk, Q = X.T @ Vi @ Vi @ X, X.T @ Vi @ Vi @ Vi @ X
    adjusted = Phi + 2 * W * Phi @ (Q - Pk @ Phi @ Pk) @ Phi
    kr = res.with_df("kr")
    assert_close(kr.bse_fe, np.sqrt(np.diag(adjusted)), 1e-8)
    bent = np.diag(Phi @ Pk @ Phi) / np.diag(Phi)
    assert_close(kr.df, 2 / (W * bent**2), 1e-8)
    r = BCG["yi"].to_numpy() - X @ res.fe_params.to_numpy()
    observed = r @ Vi @ P @ Vi @ r - 0.5 * np.trace(P @ P)  # of tau^2, at fixed beta: P r = Vi r
    assert_close(res.bse_re, [observed**-0.5], 1e-6)
    assert_close(res.df, 2 / (bent**2 / observed), 1e-6)


# ------------------------------------------------------------ what follows from a fit


def test_many_responses_are_fitted_with_it():
    design = meta("yi ~ ablat + (1 | trial)").design
    Y = lmm.simulate(lmm.fit(design), seed=3, n=6)
    Y.iloc[3, 1] = np.nan
    many = lmm.fit_many(design, Y, progress=False)
    assert (many.scale == 1.0).all()
    for i in range(6):
        one = lmm.fit("y ~ ablat + (1 | trial)", BCG.assign(y=Y.iloc[:, i]), sigma=1,
                      weights=1 / BCG["vi"])  # fmt: skip
        assert_close(many.llf[i], one.llf, RTOL)
        assert_close(many.fe_params[i], one.fe_params, TOL, 1)
        assert_close(1 / many.df[i], 1 / one.df, 1e-5)  # infinite where tau is zero


@pytest.mark.parametrize("kind", ["crossed", "related"])
def test_many_responses_of_other_layouts(kind):
    formula, options = MODELS[kind]
    design = lmm.design(formula, DATA, sigma=0.9, **options)
    Y = np.column_stack([DATA["y"], DATA["y"][::-1]])
    many = lmm.fit_many(design, Y, progress=False)
    for i in range(2):
        one = lmm.fit(formula, DATA.assign(y=Y[:, i]), sigma=0.9, **options)
        assert_close(many.llf[i], one.llf, RTOL)
        assert_close(many.bse_fe[i], one.bse_fe, TOL)


def test_replicates_know_it_too():
    """The variance of estimates over replicates is what the model says it is."""
    res = meta("yi ~ 1 + (1 | trial)")
    boot = lmm.bootstrap(res, 2000, seed=1).params()
    assert (boot["sigma"] == 1.0).all()
    assert abs(np.log(boot["Intercept"].std() / res.bse_fe.iloc[0])) < 0.06  # four errors: 0.063


def test_replicates_of_what_is_known_have_no_rounding_for_their_error():
    res = lmm.fit("y ~ x + (1 | g)", DATA, sigma=0.55)
    found = lmm.bootstrap(res, 20, seed=1).statistics("sdcor")
    assert (found.names[-1], found.bias[-1], found.std_error[-1]) == ("sigma", 0, 0)


def test_a_saved_fit_knows_that_it_was_known(tmp_path):
    res = meta("yi ~ 1 + (1 | trial)")
    for back in (pickle.loads(pickle.dumps(res)), res.without_data()):
        assert back.n_params == 2 and back.sigma_known
    assert "known" in str(res) and "known" not in str(lmm.fit("y ~ x + (1 | g)", DATA))
    truth = lmm.Params.from_components(fe_params=[-0.7], cov_re=[[0.3]])
    drawn = lmm.simulate(truth, res.design, seed=1, n=4000)
    assert_close(drawn.var(axis=1), 0.3 + BCG["vi"], 0.15)  # 0.022 is an error of a variance


def test_models_are_compared_with_one_sigma_only():
    small, large = meta("yi ~ 1 + (1 | trial)"), meta("yi ~ ablat + (1 | trial)")
    table = lmm.anova(small, large)
    by_ml = [lmm.fit(one.design, reml=False).llf for one in (small, large)]
    assert_close(table["chisq"].iloc[1], 2 * (by_ml[1] - by_ml[0]), 1e-7)
    other = lmm.fit("yi ~ ablat + (1 | trial)", BCG, weights=1 / BCG["vi"], sigma=2)
    with pytest.raises(lmm.DataError, match="deviations are 1 by sigma= and 2 by"):
        lmm.anova(small, other)


@pytest.mark.parametrize("sigma", [0, -1, np.nan, np.inf, "1", True, [1.0], 1e-160])
def test_what_is_no_standard_deviation_is_refused(sigma):
    with pytest.raises(lmm.DataError, match="sigma="):
        lmm.fit("y ~ x + (1 | g)", DATA, sigma=sigma)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(lmm.DataError, match=r"sigma= beside the residual covariance diag"):
        lmm.fit("y ~ x + (1 | g) + diag(s)", DATA, sigma=1)
    res = lmm.fit("y ~ x + (1 | g)", DATA, sigma=1)
    with pytest.raises(lmm.DataError, match="influence"):
        lmm.influence(res)
    with pytest.raises(lmm.DataError, match="data arguments"):
        lmm.fit(res.design, sigma=2)
    with pytest.raises(lmm.DataError, match="moderates residual variances that are estimated"):
        lmm.fit_many(res.design, np.column_stack([DATA["y"]] * 3)).t_test("x", moderate=True)
    weighted = meta("yi ~ 1 + (1 | trial)")
    new = {"trial": ["new"]}
    with pytest.raises(lmm.DataError, match="pass weights= of the new rows"):
        weighted.predict(new, interval="prediction")
    wide, mean = (weighted.predict(new, level=0.9, **how).iloc[0] for how in (
        dict(interval="prediction", weights=[4.0]), dict(conditional=True, se=True,
                                                         new_levels="population")))  # fmt: skip
    half = [(at["upper"] - at["lower"]) / 2 for at in (wide, mean)]
    assert_close((half[0] / half[1]) ** 2, 1 + 0.25 / mean["std_error"] ** 2, 1e-6)
    with pytest.raises(lmm.DataError, match="sigma is held or known"):
        lmm.profile(res, "sigma")
    truth = lmm.Params.from_components(fe_params=[0, 0], cov_re=[[1.0]])
    with pytest.raises(lmm.DataError, match="leave it out"):
        lmm.simulate(truth, res.design, scale=2.0, seed=1)


@pytest.mark.parametrize("kind", ["grouped", "crossed", "related"])
def test_one_and_many_take_what_is_explained_exactly(kind):
    """Equal rows in every group, beside errors that are known: there is a between variance."""
    formula, options = MODELS[kind] if kind != "grouped" else ("y ~ x + (1 | g)", {})
    data = DATA.drop(columns="x").assign(x=np.arange(60) // 6 % 5)
    data["y"] = np.random.default_rng(3).normal(size=10)[np.arange(60) // 6]
    design = lmm.design(formula.replace("(x | s)", "(1 | s)"), data, sigma=0.7, **options)
    one = lmm.fit(design)
    many = lmm.fit_many(design, np.column_stack([data["y"], data["y"][::-1]]), progress=False)
    assert one.converged and one.cov_re.iloc[0, 0] > 0
    assert_close(many.llf[0], one.llf, RTOL)
    assert np.isfinite(many.llf).all()


def test_programs_know_it_as_designs_do():
    """`compress(sigma=)`: the optimum of fit, derivatives in sigma, refusals."""
    design = meta("yi ~ ablat + (1 | trial)").design
    res = lmm.fit(design)
    index, w = lmm.row_index(design), design.weights
    rows = (design.endog, design.exog, (np.ones((13, 1, 1)),), w)

    def value(sigma):
        return lmm.fit_params(lmm.compress(*rows, index, sigma=sigma)).llf

    with jax.enable_x64(True):
        one = jax.numpy.array(1.0)
        found, slope = jax.jit(jax.value_and_grad(value))(one)
        layout = lmm.compress(*rows, index, sigma=1.0)
        scale = lmm.fit_params(layout).scale
    assert_close([found, scale], [res.llf, 1.0], RTOL)
    low, high = (lmm.fit("yi ~ ablat + (1 | trial)", BCG, weights=w, sigma=1 + h).llf
                 for h in (-1e-4, 1e-4))  # fmt: skip
    assert_close(slope, (high - low) / 2e-4, 1e-5)
    for bad in (0.0, -1.0, np.nan, [1.0, 2.0]):
        with pytest.raises(lmm.DataError, match="sigma="):
            lmm.compress(*rows, index, sigma=bad)


@pytest.mark.parametrize("method", ["lbfgs", "bfgs"])
def test_other_methods_find_the_same(method):
    res = meta("yi ~ ablat + (1 | trial)")
    assert_close(meta("yi ~ ablat + (1 | trial)", method=method).llf, res.llf, RTOL)


def test_held_effects_and_approximate_fits_know_it():
    free = lmm.Params.from_components(fe_params=[1, 0], cov_re=[[1]])
    start = lmm.Params.from_components(fe_params=[0, -0.03], cov_re=[[0.1]])
    held = meta("yi ~ ablat + (1 | trial)", free=free, start_params=start)
    offset = lmm.fit("yi ~ 1 + (1 | trial)", BCG, sigma=1, weights=1 / BCG["vi"],
                     offset=-0.03 * BCG["ablat"])  # fmt: skip
    assert_close(held.llf, offset.llf, RTOL)
    formula = "y ~ x + (1 | g) + (1 | s)"
    near = lmm.fit(formula, DATA, sigma=0.9, approximate=True)
    assert near.scale == pytest.approx(0.81)
    # beside its own Monte Carlo error
    left = abs(near.llf - lmm.fit(formula, DATA, sigma=0.9).llf)
    assert left < 5 * near.approximation.llf_se + 1e-3
