"""Covariance structures of a term: against dense algebra, nlme, and models that say the same."""

import pickle
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import assert_close, dense_gls, dense_jet
from scipy.linalg import block_diag
from scipy.optimize import minimize

import lmm_jax as lmm
from lmm_jax.covariance.structures import CompoundSymmetry, Unstructured
from lmm_jax.errors import DataError
from lmm_jax.layouts.crossed.layout import CrossedLayout
from lmm_jax.layouts.moments import MomentLayout, merge_classes
from lmm_jax.likelihood.profile import loglike_of_theta, profile_jet
from lmm_jax.numerics.namespace import namespace

EXACT = 1e-12  # a few roundings of float64
DENSE_RTOL = 1e-10  # a dense V of a hundred rows
DERIVATIVE_RTOL = 1e-8  # second derivatives of the same by autodiff
# nlme's optima are looser: it stops short by so much, at rho = 0.99999 where 1 is the best
NLME_LLF, NLME_SE, NLME_VARIANCE = 5e-6, 1e-6, 5e-5

# ------------------------------------------------------------------------------ structures


@pytest.mark.parametrize("k", [2, 3, 5])
def test_compound_symmetry(k, x64):
    structure, theta = CompoundSymmetry(k), np.array([0.7, 1.9])
    L = structure.factor(theta)
    Psi, variance = L @ L.T, (1.9**2 + (k - 1) * 0.7**2) / k
    rho = (1.9**2 - 0.7**2) / k / variance
    assert_close(Psi, variance * ((1 - rho) * np.eye(k) + rho), EXACT)
    assert_close(np.linalg.eigvalsh(Psi), [*[0.7**2] * (k - 1), 1.9**2], EXACT)
    assert_close(
        structure.canonical(np.array([[-0.7, 1e-6], [0.2, -1.9]])), [[0.7, 0], [0.2, 1.9]], 0
    )
    uncorrelated = structure.factor(structure.start(jnp.full(k, 0.3)))
    assert_close(uncorrelated, 0.3 * np.eye(k), EXACT, 1)


@pytest.mark.parametrize("structure", [Unstructured(1), Unstructured(3), CompoundSymmetry(3)])
def test_a_structure_keeps_its_promises(structure, x64):
    """Linear in theta, singular where a pivot is zero and only there, in JAX and in NumPy."""
    rng = np.random.default_rng(0)
    theta = rng.normal(size=structure.n_params)
    L = structure.factor(theta)
    value, slope = jax.jit(lambda at: (structure.factor(at), jax.jacobian(structure.factor)(at)))(
        theta
    )
    assert_close(value, L, EXACT)
    assert_close(slope, np.moveaxis(structure.tangents, 0, -1), EXACT)
    assert_close(np.tensordot(theta, structure.tangents, 1), L, EXACT)
    many = rng.normal(size=(4, structure.n_params))
    assert_close(structure.factor(many), [structure.factor(one) for one in many], 0)
    inverse, regular = structure.inverse(jnp.asarray(theta))
    assert bool(regular)
    assert_close(inverse @ L, np.eye(structure.k), 10 * EXACT, 1)
    for place in structure.pivots:
        flat = theta.copy()
        flat[place] = 0.0
        assert abs(np.linalg.det(structure.factor(flat))) < EXACT
        assert not bool(structure.inverse(jnp.asarray(flat))[1])
    reported = structure.canonical(theta)
    S = structure.factor(reported)
    assert_close(S @ S.T, L @ L.T, EXACT, 1)
    assert (reported[structure.pivots] >= 0).all()
    assert structure == type(structure)(structure.k)
    assert len({structure, type(structure)(structure.k), Unstructured(7)}) == 2
    assert structure.factor(theta.astype(np.float32)).dtype == np.float32
    assert jax.eval_shape(structure.factor, jnp.ones(theta.size, jnp.float32)).dtype == np.float32


# ------------------------------------------------------------------------------ models


def rows(seed=0, groups=9, unequal=True):
    rng = np.random.default_rng(seed)
    count = rng.integers(5, 10, groups) if unequal else np.full(groups, 8)
    g = np.repeat(np.arange(groups), count)
    n = g.size
    frame = pd.DataFrame({"g": g, "h": rng.integers(0, 6, n), "x": rng.normal(size=n)})
    frame["f"] = np.array(list("abc"))[
        (np.arange(n) - np.repeat(np.cumsum(count) - count, count)) % 3
    ]
    if not unequal:
        frame["x"] = np.tile(rng.normal(size=8), groups)
    frame["w"] = rng.uniform(0.5, 2.0, n)
    b = rng.normal(size=(groups, 1)) + rng.normal(size=(groups, 3))
    effect = b[g, pd.factorize(frame["f"], sort=True)[0]]
    frame["y"] = 1 + frame["x"] + effect + 0.5 * rng.normal(size=6)[frame["h"]] + rng.normal(size=n)
    return frame


MODELS = {
    "slope": ("y ~ x + cs(1 + x | g, hom=True)", rows(), {}),
    "factor": ("y ~ x + cs(0 + f | g, hom=True)", rows(1), {}),
    "weighted": ("y ~ x + cs(0 + f | g, hom=True)", rows(2), {"weights": "w"}),
    "equal groups": ("y ~ x + cs(1 + x | g, hom=True)", rows(3, unequal=False), {}),
    "nested": ("y ~ x + (1 | g) + cs(1 + x | g:f, hom=True)", rows(5), {}),
    "eliminated": ("y ~ x + cs(1 + x | g, hom=True) + (1 | h)", rows(6), {}),
    "in the core": ("y ~ x + (1 + x | g) + cs(1 + x | h, hom=True)", rows(7), {}),
    "both": ("y ~ x + cs(1 + x | g, hom=True) + cs(1 + x | h, hom=True)", rows(8), {}),
}


@cache
def model(name):
    formula, data, options = MODELS[name]
    return lmm.design(formula, data, **options)


def split(theta, design):
    """Lambda of every term, written out from the definition."""
    out, start = [], 0
    for term in design.terms:
        k, L = len(term.names), None
        if isinstance(term.structure, CompoundSymmetry):
            a, b = theta[start : start + 2]
            mean = np.full((k, k), 1 / k)
            L, m = a * (np.eye(k) - mean) + b * mean, 2
        else:
            m = k * (k + 1) // 2
            L = sum(theta[start + j] * unit for j, unit in enumerate(lower_units(k)))
        out.append(L)
        start += m
    return out


def lower_units(k):
    """Unit matrices of the lower triangle, column by column."""
    column, row = np.triu_indices(k)
    units = np.zeros((row.size, k, k))
    units[np.arange(row.size), row, column] = 1.0
    return units


def dense_root(theta, design):
    """``Z Lambda`` of all terms side by side."""
    parts = []
    for term, L in zip(design.terms, split(theta, design), strict=True):
        indicator = np.eye(term.n_levels)[term.codes[:, 0]]
        half = term.values[:, 0] @ L
        parts.append((indicator[:, :, None] * half[:, None, :]).reshape(len(indicator), -1))
    return namespace(theta).concatenate(parts, axis=1)


def dense_covariance(theta, design):
    """V, (n, n), quadratic in theta."""
    w = np.ones(design.nobs) if design.weights is None else design.weights
    F = dense_root(theta, design)
    return np.diag(1 / w) + F @ F.T


def dense(theta, design, reml):
    V = dense_covariance(np.asarray(theta), design)
    return dense_gls(design.exog, design.endog, V, reml=reml)


def thetas(design):
    """Interior and singular points of the data's theta."""
    m = sum(term.structure.n_params for term in design.terms)
    theta = np.random.default_rng(11).uniform(0.3, 1.5, m)
    out, start = [theta], 0
    for term in design.terms:
        for place in term.structure.pivots:
            flat = theta.copy()
            flat[start + place] = 0.0
            out.append(flat)
        start += term.structure.n_params
    return [*out, -theta, np.zeros(m)]


# Every kind of layout once; the other models run the same source in NumPy.
COMPILED = ("equal groups", "in the core")


@pytest.mark.parametrize("name", MODELS)
def test_criterion(name, x64):
    design = model(name)
    layout = design.layout if name in COMPILED else jax.tree.map(np.asarray, design.layout)
    both = lambda t: [loglike_of_theta(t, layout, reml=r) for r in (True, False)]  # noqa: E731
    program = jax.jit(both) if name in COMPILED else both
    for theta in thetas(design):
        for reml, found in zip((True, False), program(theta), strict=True):
            assert_close(-2 * found, dense(theta, design, reml).criterion, DENSE_RTOL)


def test_the_layouts_are_of_every_kind():
    assert isinstance(model("eliminated").layout, CrossedLayout)
    assert isinstance(merge_classes(model("equal groups").layout), MomentLayout)
    assert isinstance(
        model("eliminated").terms[model("eliminated").layout.eliminated[0]].structure,
        CompoundSymmetry,
    )
    crossed = model("in the core").layout.crossed
    assert any(
        isinstance(model("in the core").terms[t].structure, CompoundSymmetry) for t in crossed
    )


# Every model by REML, and one by ML.
CASES = [*((name, True) for name in MODELS), ("factor", False)]


def data_theta(theta, layout):
    """The data's theta from the layout's; of a term with a structure a multiple."""
    parts, start = [], 0
    for structure, A in zip(layout.structures, layout.whiteners, strict=True):
        own = theta[start : start + structure.n_params]
        if isinstance(structure, CompoundSymmetry):
            parts.append(A[0, 0] * own)
        else:
            column, row = np.triu_indices(structure.k)
            parts.append((A @ np.tensordot(own, lower_units(structure.k), 1))[row, column])
        start += structure.n_params
    return np.concatenate(parts)


@pytest.mark.parametrize(("name", "reml"), CASES)
def test_derivatives(name, reml, x64):
    design = model(name)
    layouts = [jax.tree.map(np.asarray, design.compressed.merged)]
    if name == "equal groups":
        layouts += [design.layout, merge_classes(design.layout)]

    def covariance(theta):
        return dense_covariance(data_theta(theta, design.compressed.layout), design)

    jet_at = jax.jit(profile_jet, static_argnames="reml") if name in COMPILED else profile_jet
    for A, structure in zip(design.layout.whiteners, design.structures, strict=True):
        if isinstance(structure, CompoundSymmetry):
            assert_close(A, A[0, 0] * np.eye(structure.k), 0)
    for theta in thetas(design)[:3]:
        value, g, H, _ = dense_jet(covariance, theta, design.exog, design.endog, reml=reml)
        for layout in layouts:
            jet = jet_at(theta, layout, reml=reml)
            assert_close(jet.value, value, DENSE_RTOL)
            assert_close(jet.gradient, g, DERIVATIVE_RTOL, np.abs(H).max())
            assert_close(jet.hessian, H, DERIVATIVE_RTOL, np.abs(H).max())


def test_a_core_of_very_unlike_eigenvalues(x64):
    """Nothing large is divided by the small one."""
    design = model("both")
    layout = jax.tree.map(np.asarray, design.layout)
    for a, b in [(0.3, 1e-9), (1e-9, 0.3), (30.0, 1e-4)]:
        theta = np.array([0.7, 0.7, a, b])
        scale = np.array([float(A[0, 0]) for A in layout.whiteners]).repeat(2)
        value = dense(theta, design, True).criterion
        jet = profile_jet(theta / scale, layout, reml=True)
        assert_close(jet.value, value, 1e-9)


# ------------------------------------------------------------------------------ fits


def scipy_optimum(design, reml):
    """The best of a few searches over the dense criterion."""
    start = thetas(design)[0]

    def value_and_slope(theta):
        at = dense_jet(
            lambda t: dense_covariance(t, design), theta, design.exog, design.endog, reml=reml
        )
        return at.value, at.gradient

    ends = [
        minimize(value_and_slope, s * start, jac=True, method="BFGS", options={"gtol": 1e-8})
        for s in (1.0, 0.2, 3.0)
    ]
    return min(ends, key=lambda end: end.fun)


@pytest.mark.parametrize(("name", "reml"), CASES)
def test_fit(name, reml, x64):
    design = model(name)
    result, end = lmm.fit(design, reml=reml), scipy_optimum(design, reml)
    assert result.converged
    assert -2 * result.llf <= end.fun + 1e-7
    assert_close(-2 * result.llf, end.fun, 1e-8)
    theta = result.theta
    at = dense(theta, design, reml)
    assert_close(-2 * result.llf, at.criterion, DENSE_RTOL)
    assert_close(result.fe_params, at.beta, EXACT * 1e3)
    assert_close(result.scale, at.sigma**2, EXACT * 1e3)
    assert_close(result.bse_fe, np.sqrt(np.diag(at.vcov)), 1e-9)
    blocks = [at.sigma**2 * L @ L.T for L in split(theta, design)]
    assert_close(result.cov_re, block_diag(*blocks), 1e-9, np.max(blocks[0]))
    assert result.n_params == design.exog.shape[1] + theta.size + 1


@pytest.mark.parametrize("name", ["slope", "weighted"])
def test_standard_errors_of_variances(name, x64):
    """The observed information of the dense likelihood in (theta, log sigma^2)."""
    design = model(name)
    result = lmm.fit(design, reml=False)
    assert not result.singular
    X, y = jnp.asarray(design.exog), jnp.asarray(design.endog)
    w = np.ones(len(y)) if design.weights is None else design.weights

    def deviance(at):
        beta, theta, tau = at[:2], at[2:-1], at[-1]
        F = dense_root(theta, design)
        V = jnp.exp(tau) * (jnp.diag(1 / w) + F @ F.T)
        r = y - X @ beta
        return jnp.linalg.slogdet(V)[1] + r @ jnp.linalg.solve(V, r)

    def covariances(at):
        blocks = [jnp.exp(at[-1]) * L @ L.T for L in split(at[2:-1], design)]
        return jnp.concatenate([S[np.tril_indices(len(S))] for S in blocks])

    at = np.concatenate([result.fe_params.to_numpy(), result.theta, np.log([result.scale])])
    H, J = jax.jit(lambda at: (jax.hessian(deviance)(at), jax.jacobian(covariances)(at)))(at)
    cov = 2 * np.linalg.inv(H)
    assert_close(result.bse[2:], np.sqrt(np.diag(J @ cov @ J.T)), 1e-6)


# nlme 3.1 (R 4.2.2), lmeControl(msTol = 1e-13, tolerance = 1e-12, opt = "optim"):
# lme(score ~ Machine, random = list(Worker = pdCompSymm(~ Machine - 1)), data = Machines)
# lme(distance ~ age, random = list(Subject = pdCompSymm(~ age)), data = Orthodont)
# lme(distance ~ I(age - 11), random = list(Subject = pdCompSymm(~ I(age - 11))), data = Orthodont)
# logLik, standard errors of the fixed effects, sigma^2, variance and covariance of the random ones
NLME = {
    ("machines", "score ~ Machine + cs(0 + Machine | Worker, hom=True)", True): (
        -107.84378400411, [2.48583024502098, 2.17697550083190, 2.17697550083190],
        0.924629620403376, 36.767902168898615, 22.858,
    ),
    ("machines", "score ~ Machine + cs(0 + Machine | Worker, hom=True)", False): (
        -112.634723469886, [2.26924216334106, 1.98729764655831, 1.98729764655831],
        0.924629619391229, 30.588550102178576, 19.049,
    ),
    ("orthodont", "distance ~ age + cs(1 + age | Subject, hom=True)", True): (
        -222.30957329672, [0.6809950026587551, 0.0692833059661466],
        1.98268135413379, 0.0304706974043483, 0.030470,
    ),
    ("orthodont", "distance ~ age + cs(1 + age | Subject, hom=True)", False): (
        -220.491649628268, [0.6767554657637714, 0.0686294855572475],
        1.9582039619422, 0.0292599716749624, 0.029259,
    ),
    ("orthodont", "distance ~ I(age - 11) + cs(1 + I(age - 11) | Subject, hom=True)", True): (
        -249.837017921856, [0.295758340925177, 0.271237504889997],
        1.87693364266136, 1.89253748745861, 0.20623,
    ),
    ("orthodont", "distance ~ I(age - 11) + cs(1 + I(age - 11) | Subject, hom=True)", False): (
        -249.123418679317, [0.289519065596106, 0.264160142169651],
        1.89549566539458, 1.78930089592971, 0.19670,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NLME, ids=str)
def test_nlme(case):
    name, formula, reml = case
    llf, se, scale, variance, covariance = NLME[case]
    result = lmm.fit(formula, lmm.load_dataset(name), reml=reml)
    assert result.converged
    # rho is 1 in the model of ages that are not centred, where nlme stops at 0.99999
    assert result.singular == (formula.startswith("distance ~ age"))
    assert result.llf >= llf - 1e-10
    assert result.llf - llf < NLME_LLF
    assert_close(result.bse_fe, se, NLME_SE)
    assert_close(result.scale, scale, NLME_SE)
    S = result.cov_re.to_numpy()
    assert_close(np.diag(S), np.full(len(S), variance), NLME_VARIANCE)
    off = S[~np.eye(len(S), dtype=bool)]
    assert_close(off, np.full(off.size, covariance), NLME_VARIANCE)


# ------------------------------------------------------------------------------ equivalent models


@pytest.mark.parametrize(("seed", "reml"), [(0, True), (0, False), (2, True)])
def test_compound_symmetry_of_a_factor_is_two_intercepts(seed, reml):
    """``cs(0 + f | g, hom=True)`` and ``(1 | g) + (1 | g:f)`` where rho is not negative."""
    data = rows(20 + seed)
    one = lmm.fit("y ~ x + f + cs(0 + f | g, hom=True)", data, reml=reml)
    two = lmm.fit("y ~ x + f + (1 | g) + (1 | g:f)", data, reml=reml)
    assert one.converged
    assert not two.singular  # the cs model holds more where one of the variances is zero
    assert_close(one.llf, two.llf, EXACT * 10)
    assert_close(one.bse_fe, two.bse_fe, 1e-7)
    assert_close(one.scale, two.scale, 1e-7)
    inner, outer = (two.cov_re.to_numpy()[i, i] for i in range(2))  # g:f has the more levels
    assert_close(one.cov_re, inner * np.eye(3) + outer, 1e-6)
    assert_close(one.df, two.df, 1e-5)
    assert one.n_params == two.n_params
    level = one.random_effects["g"].iloc[0].to_numpy()
    nested = two.random_effects["g:f"]["Intercept"]
    both = two.random_effects["g"]["Intercept"].iloc[0] + nested.loc[["0:a", "0:b", "0:c"]]
    assert_close(level, both, 1e-6, 1)


def test_two_coefficients_of_equal_variance_turned(x64):
    """``b ~ s^2 ((1 - rho) I + rho J)`` of two columns: sum and difference are apart."""
    data = rows(30)
    data["sum"], data["difference"] = 1 + data["x"], 1 - data["x"]
    one = lmm.fit("y ~ x + cs(1 + x | g, hom=True)", data)
    two = lmm.fit("y ~ x + (0 + sum + difference || g)", data)
    assert_close(one.llf, two.llf, EXACT * 10)
    assert_close(one.bse_fe, two.bse_fe, 1e-7)
    a, b = 2 * two.cov_re.to_numpy()[[1, 0], [1, 0]]
    assert_close(one.cov_re, [[(a + b) / 2, (b - a) / 2], [(b - a) / 2, (a + b) / 2]], 1e-6)


@pytest.mark.parametrize("name", ["cs", "ar1", "toep"])
def test_one_coefficient_is_correlated_with_no_other(name):
    """nlme's ``corAR1(form = ~ 1 | g)`` is no ``ar1(1 | g)``, which would be a random intercept."""
    with pytest.raises(lmm.DataError, match=rf"write \(1 \| g\) .* or {name}\(visit \| g\)"):
        lmm.design(f"y ~ x + {name}(1 | g)", rows(31))
    assert lmm.design("y ~ x + us(1 | g)", rows(31)).structures == (Unstructured(1),)


def test_us_and_diag_are_other_spellings():
    data = rows(32)
    for named, plain in [("us(1 + x | g)", "(x | g)"), ("diag(1 + f | g)", "(1 + f || g)")]:
        one, two = (lmm.fit(f"y ~ x + {term}", data) for term in (named, plain))
        assert one.llf == two.llf
        pd.testing.assert_frame_equal(one.cov_re, two.cov_re)


# ------------------------------------------------------------------------------ the boundary


@pytest.mark.parametrize("rho", [-0.5, 1.0])
@pytest.mark.parametrize("seed", range(2))
def test_correlation_at_its_limit(rho, seed, x64):
    """Data drawn at rho = -1 / (k - 1) or 1: the fit ends there or is better off inside."""
    rng = np.random.default_rng(40 + seed)
    data = rows(50 + seed)
    Psi = (1 - rho) * np.eye(3) + rho
    e, V = np.linalg.eigh(Psi)
    b = rng.normal(size=(9, 3)) @ (V * np.sqrt(np.maximum(e, 0))).T
    data["y"] = data["x"] + b[data["g"], pd.factorize(data["f"], sort=True)[0]]
    data["y"] += 0.7 * rng.normal(size=len(data))
    design = lmm.design("y ~ x + cs(0 + f | g, hom=True)", data)
    result = lmm.fit(design)
    assert result.converged
    S = result.cov_re.to_numpy()
    assert np.linalg.eigvalsh(S).min() > -1e-14
    assert result.singular == bool((result.theta == 0).any())
    value = lambda theta: dense(theta, design, True).criterion  # noqa: E731
    here = value(result.theta)
    for step in np.vstack([np.eye(2), -np.eye(2), np.ones((1, 2))]) * 1e-2:
        assert value(result.theta + step) >= here - 1e-9
    grid = [value([a, b]) for a in np.geomspace(1e-3, 30, 25) for b in np.geomspace(1e-3, 30, 25)]
    assert here <= min(grid)


def test_no_variance_at_all(x64):
    data = rows(60)
    rng = np.random.default_rng(61)
    data["y"] = data["x"] + rng.normal(size=len(data))
    data["y"] -= data.groupby("g")["y"].transform("mean")  # less between groups than chance
    result = lmm.fit("y ~ x + cs(1 + x | g, hom=True)", data)
    assert result.converged
    assert result.singular
    assert_close(np.linalg.matrix_rank(result.cov_re) <= 1, True, 0)


# ------------------------------------------------------------------------------ around a fit


@cache
def fitted():
    return lmm.fit(model("factor"))


def test_labels():
    result = fitted()
    names = ["f[a]", "f[b]", "f[c]"]
    assert list(result.cov_re.index) == names
    assert result.theta.shape == (2,)
    assert "cs(0 + f | g, hom=True)" in repr(model("factor"))
    assert "cs(0 + f | g, hom=True)" in str(result.summary())


def test_random_effects_and_predictions(x64):
    """``b = G Z' V^-1 (y - X beta)`` with dense matrices."""
    result, design = fitted(), model("factor")
    F = dense_root(result.theta, design)
    r = design.endog - design.exog @ result.fe_params.to_numpy()
    u = F.T @ np.linalg.solve(np.eye(len(r)) + F @ F.T, r)
    L = split(result.theta, design)[0]
    b = u.reshape(-1, 3) @ np.asarray(L).T
    assert_close(result.random_effects["g"], b, 1e-9, 1)
    data = MODELS["factor"][1]
    assert_close(result.predict(data, conditional=True), result.fittedvalues, 1e-10, 1)


def test_deletion_of_a_group(x64):
    """One step of influence against the fit without the group."""
    data = MODELS["factor"][1]
    without = lmm.fit("y ~ x + cs(0 + f | g, hom=True)", data[data["g"] != 4])
    at = lmm.influence(fitted()).params.loc[4]
    whole = fitted().params
    assert (
        abs(at.iloc[:2] - without.fe_params.to_numpy()).max()
        < 0.2 * abs(whole.iloc[:2] - without.fe_params.to_numpy()).max()
    )
    assert len(at) == 2 + 6 + 1


@pytest.mark.parametrize("name", ["factor", pytest.param("both", marks=pytest.mark.slow)])
def test_bootstrap(name):
    """Replicates of the fit have the structure, and its estimates on average."""
    result = lmm.fit(model(name))
    boot = lmm.bootstrap(result, 200, seed=3)
    replicates = boot.replicates
    assert replicates.converged.mean() > 0.98
    for S in replicates.covariances:
        assert np.ptp(np.diagonal(S, axis1=1, axis2=2), axis=1).max() < 1e-12 * S.max()
    drawn = replicates.beta
    error = abs(drawn.mean(axis=0) - result.fe_params.to_numpy())
    assert (error < 4 * drawn.std(axis=0) / np.sqrt(200)).all()


@pytest.mark.parametrize("method", ["lbfgs", "bfgs"])
def test_other_methods(method):
    result = lmm.fit(model("factor"), method=method)
    assert result.converged
    assert_close(result.llf, fitted().llf, EXACT * 100)


def test_batches_of_rows():
    data, whole = MODELS["slope"][1], lmm.fit(model("slope"))
    parts = [data.iloc[i : i + 20] for i in range(0, len(data), 20)]
    result = lmm.fit(lmm.design_from_batches("y ~ x + cs(1 + x | g, hom=True)", parts))
    assert_close(result.llf, whole.llf, 1e-9)
    assert_close(result.theta, whole.theta, 1e-6)


def test_pickles():
    again = pickle.loads(pickle.dumps(fitted()))
    assert_close(again.theta, fitted().theta, 0)
    design = pickle.loads(pickle.dumps(model("factor")))
    assert design.structures == (CompoundSymmetry(3),)
    assert_close(lmm.fit(design).llf, fitted().llf, EXACT)


def test_a_theta_of_another_length_is_refused(x64):
    with pytest.raises(
        DataError, match=r"\(2,\) is needed.*of cs\(x \| g, hom=True\) its 2 parameters"
    ):
        lmm.profile_loglike(np.ones(6), model("factor").layout)


def test_programs_of_one_structure_are_shared():
    """Structures are equal by kind and size: data of one shape compile once."""
    one, two = (lmm.design("y ~ x + cs(0 + f | g, hom=True)", rows(s)) for s in (70, 70))
    leaves = jax.tree.structure(one.layout), jax.tree.structure(two.layout)
    assert leaves[0] == leaves[1]
    other = lmm.design("y ~ x + (0 + f | g)", rows(70))
    assert jax.tree.structure(other.layout) != leaves[0]
