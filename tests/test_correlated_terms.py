"""Terms whose coefficients are correlated by a few parameters: `ar1(0 + f | g)` and others."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import assert_close

import lmm_jax as lmm
from lmm_jax.covariance.correlated import OF_TERMS, Correlated, named
from lmm_jax.covariance.structures import CompoundSymmetry, Identity, Unstructured
from lmm_jax.formulas.tokens import STRUCTURES
from lmm_jax.layouts.crossed.layout import CrossedLayout
from lmm_jax.likelihood.profile import profile_jet

EXACT = 1e-12
DENSE = 1e-10  # a criterion by way of n x n matrices
DERIVATIVE = 1e-8  # its second derivatives by automatic differentiation, relative to the largest
KINDS = [("cs", False), ("ar1", True), ("ar1", False), ("toep", False), ("toep", True),
         ("ad", False), ("arma11", True)]  # fmt: skip

SLEEP = lmm.load_dataset("sleepstudy")
SLEEP["f"] = SLEEP["Days"].astype(int).astype(str)


def thetas(structure: Correlated, count: int = 3) -> np.ndarray:
    return np.random.default_rng(structure.n_params).normal(size=(count, structure.n_params)) * 0.6


def correlations(name: str, rho: np.ndarray) -> np.ndarray:
    """C of four coefficients by the definitions, from its first row and what is next to it."""
    k = len(rho)
    gap = np.abs(np.subtract.outer(np.arange(k), np.arange(k)))
    if name == "cs":
        return np.where(gap == 0, 1.0, rho[0, 1])
    if name == "ar1":
        return rho[0, 1] ** gap
    if name == "toep":
        return rho[0][gap]
    if name == "arma11":
        ratio = rho[0, 2] / rho[0, 1]
        return np.where(gap == 0, 1.0, rho[0, 1] * ratio ** (gap - 1.0))
    near = np.append(1.0, np.diagonal(rho, 1)).cumprod()
    return np.minimum.outer(near, near) / np.maximum.outer(near, near)


# ------------------------------------------------------------ the structures


@pytest.mark.parametrize(("name", "equal"), KINDS)
def test_covariance_is_that_of_the_definition(name, equal):
    structure = named(name, 4, equal)
    assert isinstance(structure, Correlated)
    for theta in thetas(structure):
        L = structure.factor(theta)
        assert_close(L, np.tril(L), 0, 1)
        Psi = L @ L.T
        sd = np.sqrt(np.diagonal(Psi))
        assert equal == bool(np.ptp(sd) < EXACT)
        C = Psi / np.outer(sd, sd)
        if name != "ad" or (np.diagonal(C, 1) > 0).all():
            assert_close(C, correlations(name, C), 1e-10, 1)
        inverse, regular = structure.inverse(theta)
        assert regular
        assert_close(inverse @ L, np.eye(4), 1e-10, 1)
        moved = structure.mapped(theta, 3.0 * np.eye(4))
        assert_close(structure.factor(moved), 3.0 * L, EXACT * 10, 1)
        assert_close(structure.factor(structure.canonical(theta)) ** 2, L**2, EXACT, 1)


@pytest.mark.parametrize(("name", "equal"), KINDS)
def test_derivatives_are_those_of_jax(name, equal, x64):
    structure = named(name, 4, equal)
    half = np.random.default_rng(2).normal(size=(4, 4))
    curve = lambda t: 2.0 * jnp.sum(half * structure.factor(t))  # noqa: E731
    both = jax.jit(lambda t: (jax.jacfwd(structure.factor)(t), jax.hessian(curve)(t)))
    for theta in thetas(structure, 2):
        J, H = both(theta)
        assert_close(structure.tangents_at(theta), np.moveaxis(np.asarray(J), -1, 0), 1e-10, 1)
        assert_close(structure.bend(theta, half), H, 1e-10, 1)


@pytest.mark.parametrize("k", [3, 5])
def test_every_theta_of_compound_symmetry_is_a_covariance(k):
    structure = named("cs", k)
    for c in (-30.0, -3.0, 3.0):
        L = structure.factor(np.append(np.zeros(k), c))
        rho = (L @ L.T)[0, 1]
        assert np.isfinite(L).all() or c == -30.0  # the bound itself, to the last digit
        assert c == -30.0 or -1 / (k - 1) < rho < 1


def test_the_formula_knows_every_structure_that_there_is():
    assert (*("us", "diag"), *OF_TERMS) == STRUCTURES


def test_names():
    assert named("us", 3) == Unstructured(3)
    assert named("cs", 2) == named("toep", 2) == named("ad", 2) == Unstructured(2)
    assert named("cs", 3, True) == CompoundSymmetry(3)
    assert named("diag", 3, True) == Identity(3)
    assert all(named(name, 1, True) == Unstructured(1) for name in STRUCTURES)
    ar1 = named("ar1", 4)
    assert (ar1.spelled("0 + f | g"), named("ar1", 4, False).spelled("0 + f | g")) == (
        "ar1(0 + f | g)", "ar1(0 + f | g, hom=False)",
    )  # fmt: skip
    assert named("cs", 4).spelled("x | g") == "cs(x | g)"
    assert ar1.of_size(3) == named("ar1", 3)
    assert named("cs", 4).of_size(2) == Unstructured(2)
    assert ar1 == named("ar1", 4)
    assert hash(ar1) == hash(named("ar1", 4))


# ------------------------------------------------------------ models


def rows(seed: int = 0, groups: int = 12) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    count = rng.integers(6, 11, groups)
    g = np.repeat(np.arange(groups), count)
    n = g.size
    step = np.arange(n) - np.repeat(np.cumsum(count) - count, count)
    data = pd.DataFrame({"g": g, "h": rng.integers(0, 6, n), "x": rng.normal(size=n)})
    data["f"] = step % 4
    data["w"] = rng.uniform(0.5, 2.0, n)
    C = 0.7 ** np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    b = rng.multivariate_normal(np.zeros(4), 1.5 * C, size=groups)
    noise = rng.normal(size=6)[data["h"]] + 0.7 * rng.normal(size=n)
    data["y"] = 1 + data["x"] + b[g, data["f"]] + noise
    return data


MODELS = {
    "grouped": ("y ~ x + ar1(0 + factor(f) | g)", {}),
    "several variances": ("y ~ x + cs(0 + factor(f) | g)", {"weights": "w"}),
    "eliminated": ("y ~ x + ar1(0 + factor(f) | g) + (1 | h)", {}),
    "in the core": ("y ~ x + (1 + x | g) + toep(0 + factor(f) | h)", {}),
    "with a residual covariance": (
        "y ~ x + ar1(0 + factor(f) | g) + diag(part)", {},
    ),
}  # fmt: skip


@cache
def model(name: str) -> lmm.Design:
    formula, options = MODELS[name]
    data = rows()
    return lmm.design(formula, data.assign(part=np.where(data["x"] > 0, "a", "b")), **options)


def dense(theta, design, layout, reml):
    """-2 log-likelihood at the layout's theta from the n x n covariance."""
    X, y = jnp.asarray(design.exog), jnp.asarray(design.endog)
    n, p = X.shape
    V = jnp.diag(1.0 / (np.ones(n) if design.weights is None else design.weights))
    start = 0
    for t, structure in enumerate(layout.structures):
        own = theta[start : start + structure.n_params]
        start += structure.n_params
        if not structure.k:  # a variance of each half of the rows, relative to the first
            (label,) = {s.spread.levels for s in layout.structures if not s.k}
            second = np.where(design.exog[:, 1] > 0, "a", "b") == label[1]
            V = V + jnp.diag(jnp.where(second, jnp.exp(2.0 * own[0]) - 1.0, 0.0))
            continue
        term = design.terms[t]
        Lambda = jnp.asarray(layout.whiteners[t]) @ structure.factor(own)
        indicator = np.eye(term.n_levels)[term.codes[:, 0]]
        Z = jnp.einsum("nl,nk,ka->nla", indicator, term.values[:, 0], Lambda).reshape(n, -1)
        V = V + Z @ Z.T
    information = X.T @ jnp.linalg.solve(V, X)
    r = y - X @ jnp.linalg.solve(information, X.T @ jnp.linalg.solve(V, y))
    m = n - p if reml else n
    value = m * (jnp.log(2 * jnp.pi * (r @ jnp.linalg.solve(V, r)) / m) + 1)
    value = value + jnp.linalg.slogdet(V)[1]
    return value + jnp.linalg.slogdet(information)[1] if reml else value


@pytest.mark.parametrize("name", MODELS)
def test_criterion_and_derivatives(name, x64):
    design = model(name)
    layout = jax.tree.map(np.asarray, design.compressed.layout)
    assert isinstance(layout, CrossedLayout) == (name in ("eliminated", "in the core"))
    value = lambda t: dense(t, design, layout, True)  # noqa: E731
    expected = jax.jit(lambda t: (value(t), jax.grad(value)(t), jax.hessian(value)(t)))
    m = sum(s.n_params for s in layout.structures)
    theta = np.random.default_rng(3).uniform(-0.5, 0.8, m)
    at = expected(theta)
    size = float(np.abs(at[2]).max())
    for merged in (layout, jax.tree.map(np.asarray, design.compressed.merged)):
        jet = profile_jet(theta, merged, reml=True)
        assert_close(jet.value, at[0], DENSE)
        assert_close(jet.gradient, at[1], DERIVATIVE, size)
        assert_close(jet.hessian, at[2], DERIVATIVE, size)
    jet = jax.jit(profile_jet, static_argnames="reml")(theta, design.layout, reml=True)
    assert_close(jet.hessian, at[2], DERIVATIVE, size)


# ------------------------------------------------------------ fits

# glmmTMB 1.1.5 (R 4.2.2), optimizer optim's BFGS to 1e-15: log-likelihood, sigma^2, standard
# deviations of the first three coefficients, correlations of the first with the next two.
GLMMTMB = {
    ("Reaction ~ Days + ar1(0 + f | Subject)", True): (
        -867.09323397075, 228.930356227, [47.34049345] * 3, [0.8834993260, 0.7805710590]),
    ("Reaction ~ Days + ar1(0 + f | Subject)", False): (
        -871.53093278721, 231.915344674, [46.08286686] * 3, [0.8789120651, 0.7724864182]),
    ("score ~ Machine + cs(0 + Machine | Worker)", True): (
        -104.61022115717, 0.925729964945, [4.114487199, 8.419744423, 4.461802916],
        [0.7357102325] * 2),
    ("score ~ Machine + cs(0 + Machine | Worker)", False): (
        -108.74929746406, 0.926222407057, [3.748161487, 7.686353399, 4.065300323],
        [0.738086096] * 2),
    ("score ~ Machine + toep(0 + Machine | Worker)", True): (
        -104.16742826568, 0.924583409702, [4.045958671, 8.625292293, 4.426268699],
        [0.7868046042, 0.6222791439]),
    ("score ~ Machine + toep(0 + Machine | Worker)", False): (
        -108.22331406526, 0.924562130093, [3.686699641, 7.870515977, 4.034034295],
        [0.7884756989, 0.6244047571]),
}  # fmt: skip
# its optimum is good to the root of what its criterion is good to
GLMMTMB_LLF, GLMMTMB_RTOL = 1e-9, 2e-6


@pytest.mark.parametrize("case", GLMMTMB, ids=str)
def test_glmmtmb(case):
    formula, reml = case
    llf, scale, sd, cor = GLMMTMB[case]
    result = lmm.fit(
        formula, SLEEP if "Days" in formula else lmm.load_dataset("machines"), reml=reml
    )
    assert result.converged
    assert not result.singular
    assert_close(result.llf, llf, GLMMTMB_LLF)
    assert_close(result.scale, scale, GLMMTMB_RTOL)
    S = result.cov_re.to_numpy()
    assert_close(np.sqrt(np.diagonal(S))[:3], sd, GLMMTMB_RTOL)
    assert_close(S[0, 1:3] / np.sqrt(S[0, 0] * np.diagonal(S)[1:3]), cor, GLMMTMB_RTOL)


@pytest.mark.parametrize("reml", [True, False])
def test_a_random_walk_beside_noise_is_a_residual_covariance(reml):
    """``s^2 rho^d + sigma^2 [d = 0]``: `car1` with a nugget, where rho is positive."""
    term = lmm.fit("Reaction ~ Days + ar1(0 + f | Subject)", SLEEP, reml=reml)
    residual = lmm.fit("Reaction ~ Days + car1(Days | Subject, nugget=True)", SLEEP, reml=reml)
    assert_close(term.llf, residual.llf, EXACT)
    assert term.n_params == residual.n_params
    assert_close(term.bse_fe, residual.bse_fe, 1e-7)
    assert_close(term.df, residual.df, 1e-6)
    for method in ("kenward-roger-expected", "kenward-roger-linear") if reml else ():
        one, two = (r.tidy(effects="fixed", df_method=method) for r in (term, residual))
        assert_close(one["df"], two["df"], 1e-5)
        assert_close(one["std_error"], two["std_error"], 1e-6)
    S, at = term.cov_re.to_numpy(), residual.residual_params
    assert_close(S[0, 1] / S[0, 0], at["phi"], 1e-6)
    assert_close(term.scale / (S[0, 0] + term.scale), at["nugget"], 1e-6)


def test_one_variance_without_correlation_is_a_nested_factor():
    data = rows(4)
    one = lmm.fit("y ~ x + diag(0 + factor(f) | g, hom=True)", data)
    two = lmm.fit("y ~ x + (1 | g:f)", data)
    assert one.n_params == two.n_params
    assert_close(one.llf, two.llf, EXACT * 10)
    assert_close(one.df, two.df, 1e-6)
    assert_close(one.cov_re, two.cov_re.iloc[0, 0] * np.eye(4), 1e-6)


def test_names_of_glmmtmb():
    data = rows(5)
    for ours, theirs in [
        ("cs(0 + factor(f) | g, hom = TRUE)", "homcs(0 + factor(f) | g)"),
        ("ar1(0 + factor(f) | g, hom=False)", "hetar1(0 + factor(f) | g)"),
        ("toep(0 + factor(f) | g, hom=True)", "homtoep(0 + factor(f) | g)"),
        ("diag(0 + factor(f) | g, hom=True)", "homdiag(0 + factor(f) | g)"),
    ]:
        one, two = (lmm.design(f"y ~ x + {term}", data) for term in (ours, theirs))
        assert one.structures == two.structures
        assert one.terms[0].text == two.terms[0].text


def test_no_variance_is_a_boundary():
    """Data without the term: the fit is that without it, and says that it is singular."""
    rng = np.random.default_rng(8)
    data = rows(6)
    means = rng.normal(size=4)[data["f"]] * 0.0
    data["y"] = 1 + data["x"] + means + rng.normal(size=len(data))
    data["y"] -= data.groupby(["g", "f"])["y"].transform("mean") * 0.9
    result = lmm.fit("y ~ x + ar1(0 + factor(f) | g)", data)
    assert result.converged
    assert result.singular
    assert_close(result.cov_re, np.zeros((4, 4)), 0, 1)
    assert_close(result.llf, lmm.fit("y ~ x + (1 | h)", data).llf, 1e-2)


def bounded(seed, loadings=None):
    """Three coefficients a group: all from one deviate by loadings, or independent ones."""
    rng = np.random.default_rng(seed)
    n, G = int(rng.integers(80, 160)), int(rng.integers(7, 20))
    data = pd.DataFrame({"x": rng.normal(size=n), "g": rng.integers(0, G, n)})
    data["f"] = rng.choice(list("pqr"), size=n)
    b = rng.normal(size=(G, 3)) if loadings is None else rng.normal(size=(G, 1)) * loadings
    data["y"] = rng.normal(size=n) + b[data["g"], data["f"].map({"p": 0, "q": 1, "r": 2})]
    return data


@pytest.mark.parametrize("seed", [0, 2, 3])  # draws whose estimate is one
def test_a_correlation_of_one_is_a_boundary(seed):
    """There the model has one coefficient a group, of a covariate with the standard deviations."""
    data = bounded(seed, [1.5, 0.7, 0.4])
    result = lmm.fit("y ~ x + cs(0 + f | g)", data)
    assert result.converged
    assert result.singular
    sd = np.sqrt(np.diagonal(result.cov_re))
    assert_close(result.cov_re, np.outer(sd, sd), 1e-6)
    data["z"] = sd[data["f"].map({"p": 0, "q": 1, "r": 2})]
    assert_close(result.llf, lmm.fit("y ~ x + (0 + z | g)", data).llf, 1e-8)


# what each is a special case of
NESTED = [
    ("cs(0 + f | g, hom=True)", "cs(0 + f | g)"),
    ("ar1(0 + f | g)", "ar1(0 + f | g, hom=False)"),
    ("ar1(0 + f | g, hom=False)", "toep(0 + f | g)"),
    ("cs(0 + f | g)", "toep(0 + f | g)"),
    ("toep(0 + f | g)", "(0 + f | g)"),
    ("diag(0 + f | g)", "cs(0 + f | g)"),
]


@pytest.mark.parametrize("loadings", [None, [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]], ids=str)
def test_no_fit_is_worse_than_a_special_case_of_it(loadings):
    for seed in range(10, 16):
        data = bounded(seed, loadings)
        terms = {term for pair in NESTED for term in pair}
        fits = {t: lmm.fit(f"y ~ x + {t}", data, runtime="numpy") for t in sorted(terms)}
        for small, large in NESTED:
            assert fits[large].converged, (seed, large)
            assert fits[large].llf > fits[small].llf - 1e-6, (seed, small, large)


def test_where_a_criterion_rises_towards_a_bound_it_is_flat_and_no_optimum(x64):
    structure = named("ar1", 3, True)
    theta = np.array([1.0, 12.0])
    falls, rises = (
        structure.idle(theta, np.array([0.0, -1e-9])),
        structure.idle(theta, np.array([0.0, 1e-9])),
    )
    assert falls.tolist() == [False, True]
    assert rises.tolist() == [False, False]


# ------------------------------------------------------------ what the rest makes of them


def test_the_rest_of_the_library():
    data = rows(7)
    result = lmm.fit("y ~ x + ar1(0 + factor(f) | g)", data)
    assert "ar1(0 + factor(f) | g)" in str(result.summary()).replace("C(f)", "factor(f)")
    V = result.scale * np.eye(len(data))
    indicator = np.eye(12)[data["g"]][:, :, None] * np.eye(4)[data["f"]][:, None]
    Z = indicator.reshape(len(data), -1)
    G = np.kron(np.eye(12), result.cov_re.to_numpy())
    V = V + Z @ G @ Z.T
    X = result.design.exog
    fixed = np.linalg.inv(X.T @ np.linalg.solve(V, X))
    assert_close(result.cov_params().iloc[:2, :2], fixed, 1e-8)
    b = G @ Z.T @ np.linalg.solve(V, data["y"] - X @ result.fe_params.to_numpy())
    assert_close(result.random_effects["g"].to_numpy().ravel(), b, 1e-8, 1)
    again = lmm.fit("y ~ x + ar1(0 + factor(f) | g)", data.assign(g=data["g"].map(str)))
    assert_close(again.llf, result.llf, EXACT)
    assert lmm.ranova(result)["df"].iloc[-1] == 2
    draws = lmm.bootstrap(result, 20, seed=1)
    assert np.isfinite(draws.statistics().values).mean() > 0.9
    mean = result.design.exog @ result.fe_params.to_numpy()
    draws = np.asarray(lmm.simulate(result, n=2000, seed=2)).T - mean
    assert draws.shape == (2000, len(data))
    found = draws.T @ draws / 2000  # 2000 draws: a variance to 3 %, and 4 times that is rare
    size = np.sqrt(np.outer(np.diagonal(V), np.diagonal(V)))
    assert_close(found / size, V / size, 0.12, 1)
    assert list(result.conf_int(method="wald").columns)
    with pytest.raises(lmm.DataError, match=r"no profile of .*ar1\(x \| g\)"):
        result.conf_int(method="profile")
    many = lmm.fit_many(result.design, responses=np.column_stack([data["y"]] * 2))
    assert_close(many.llf, [result.llf] * 2, EXACT)


def test_second_derivatives_of_the_term_are_asked_for():
    data = rows(9)
    data["part"] = np.where(data["x"] > 0, "a", "b")
    result = lmm.fit("y ~ x + ar1(0 + factor(f) | g) + diag(part)", data)
    result.tidy(df_method="kenward-roger-linear")
    with pytest.raises(lmm.DataError, match="choose 'kenward-roger-linear'"):
        result.tidy(df_method="kr")


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ("ar1(0 + x | g, hom=maybe)", "one variance"),
        ("us(0 + x | g, hom=True)", "one variance"),
        ("homcs(0 + x | g, hom=True)", "one variance"),
        ("ou(0 + x | g)", r"no `ou\("),
        ("ar1(0 + x || g)", "write one bar"),
    ],
)
def test_refused(term, message):
    with pytest.raises(lmm.FormulaError, match=message):
        lmm.design(f"y ~ x + {term}", rows())


def test_enough_groups_do_not_rule_out_a_second_optimum():
    """Twenty groups, where a fit of partial correlations ended below its special cases."""
    rng = np.random.default_rng(31)
    g, f = np.repeat(np.arange(20), 12), np.tile(np.repeat(np.arange(4), 3), 20)
    data = pd.DataFrame({"g": g, "f": f.astype(str), "x": rng.normal(size=240)})
    rng.normal(size=240)
    y = rng.normal(size=20)[g] * rng.choice([0.2, 1])
    y += 0.4 * rng.normal(size=(20, 4))[g, f] * rng.choice([0.2, 1])
    y += 0.4 * data["x"] * rng.normal(size=20)[g] * rng.choice([0.2, 1]) + rng.normal(size=240)
    names = ("diag(0 + f | g)", "ar1(0 + f | g, hom=False)", "ad(0 + f | g, hom=True)")
    large = lmm.fit("y ~ f + ad(0 + f | g)", data.assign(y=y), reml=False, runtime="numpy").llf
    for name in names:
        small = lmm.fit(f"y ~ f + {name}", data.assign(y=y), reml=False, runtime="numpy").llf
        assert large > small - 1e-6, name


@pytest.mark.parametrize(
    ("whole", "part"),
    [
        ("(1 | replicate) + ad(0 + ft | replicate)", "ad(0 + ft | replicate)"),
        ("(1 | replicate) + cs(0 + ft | replicate)", "cs(0 + ft | replicate)"),
        (
            "(1 | replicate) + ar1(0 + ft | replicate, hom=False)",
            "ar1(0 + ft | replicate, hom=False)",
        ),
    ],
)
def test_correlations_are_sought_beside_other_terms(whole, part):
    """Six standard deviations and a correlation have no grid each: a model is above its part."""
    cake = lmm.load_dataset("cake")
    cake["ft"] = cake["temp"].astype(str).astype("category")
    llf = [lmm.fit(f"angle ~ recipe + {terms}", cake).llf for terms in (whole, part)]
    assert llf[0] > llf[1] - 1e-6
