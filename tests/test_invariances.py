"""What must not depend on units, order or spelling, and closed forms of balanced designs.

The fits of this file are of 60 rows in 10 groups, so that a structure compiles once.
"""

import warnings
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import samples
from helpers import Array, assert_close

import lmm_jax as lmm
from lmm_jax.covariance.theta import factor_blocks
from lmm_jax.layouts.grouped import waist
from lmm_jax.likelihood.coordinates import whiten_factors
from lmm_jax.likelihood.profile import profile_waist

LLF_RTOL = 1e-10  # the optimum is flat: two paths to it agree in the criterion first
TOL = 1e-6  # estimates: a Newton decrement of 1e-9 leaves sqrt(1e-9 / curvature), then one step
SHIFT_TOL = 1e-5  # y near 1e6 keeps 10 digits of its variation
EXACT_TOL = 1e-9  # closed forms on the boundary: nothing is iterated

DATA = samples.frame().assign(h=lambda d: np.where(d["v"] > 0, "hi", "lo"))
N, P = len(DATA), 2
SLOPE = "y ~ x + (x | g)"
KINDS = [True, False]


@cache
def fit(formula: str = SLOPE, *, reml: bool = True, **columns: str) -> lmm.LMMResults:
    return lmm.fit(formula, DATA, reml=reml, **columns)


def assert_same(actual: Any, expected: Any, *, tol: float = TOL) -> None:
    """Same likelihood, same estimates, same status."""
    assert actual.converged and expected.converged
    assert actual.singular == expected.singular
    assert_close(actual.llf, expected.llf, LLF_RTOL, N)
    assert_close(actual.fe_params, expected.fe_params, tol, expected.bse_fe)
    assert_close(actual.bse_fe, expected.bse_fe, tol)
    assert_close(actual.theta, expected.theta, tol, 1)
    assert_close(actual.sigma, expected.sigma, tol)


# ------------------------------------------------------------ units and origin of y


@pytest.mark.parametrize("reml", KINDS)
@pytest.mark.parametrize(("scale", "shift"), [(1e-6, 0), (1e6, 0), (-1, 0), (1, 1e6), (1e-3, -7)])
def test_scale_and_shift_of_y(reml, scale, shift):
    """theta stays, beta and sigma follow, log L loses n log(scale): n - p of them under REML."""
    before = fit(reml=reml)
    after = lmm.fit(SLOPE, DATA.assign(y=scale * DATA["y"] + shift), reml=reml)
    tol = SHIFT_TOL if shift else TOL
    assert (after.converged, after.singular) == (before.converged, before.singular)
    assert_close(after.theta, before.theta, tol, 1)
    assert_close(after.sigma, abs(scale) * before.sigma, tol)
    expected = scale * before.fe_params + [shift, 0]
    assert_close(after.fe_params - [shift, 0], expected - [shift, 0], tol, after.bse_fe)
    assert_close(after.bse_fe, abs(scale) * before.bse_fe, tol)
    nu = N - P if reml else N
    assert_close(after.llf, before.llf - nu * np.log(abs(scale)), LLF_RTOL)
    assert_close(after.df, before.df, tol)
    assert_close(after.resid, scale * before.resid, tol, after.sigma)


@pytest.mark.parametrize(
    ("y_unit", "x_unit"),
    [(1e80, 1), (1e-85, 1), (1e150, 1), (1e-150, 1), (1, 1e60), (1, 1e-60), (1e60, 1e-60)],
)
def test_numbers_whose_squares_are_no_floats(y_unit, x_unit):
    """Tests, intervals and errors are those of data near one, up to the units."""
    before, after = fit(), lmm.fit(SLOPE, DATA.assign(y=DATA.y * y_unit, x=DATA.x * x_unit))
    fixed = y_unit / np.array([1, x_unit])
    variances = np.array([1, 1 / x_unit, 1 / x_unit**2]) * y_unit * y_unit
    assert after.converged
    assert_close(after.df, before.df, TOL)
    assert_close(after.tvalues, before.tvalues, TOL)
    assert_close(after.pvalues, before.pvalues, TOL, 1e-8)
    assert_close(after.bse_fe / fixed, before.bse_fe, TOL)
    assert_close(after.bse_re / variances, before.bse_re, TOL)
    interval = after.conf_int().to_numpy() / np.r_[fixed, variances][:, None]
    assert_close(interval, before.conf_int(), TOL, before.bse.to_numpy()[:, None])
    for table in ("tidy", "wald_test_terms"):
        new, old = (getattr(r, table)().select_dtypes("number") for r in (after, before))
        if table == "tidy":
            units = y_unit / np.array([1, x_unit, 1, y_unit, x_unit, 1])
            columns = ["estimate", "std_error", "conf_low", "conf_high"]
            new[columns] = new[columns].to_numpy() / units[:, None]
        assert_close(new, old, TOL, 1e-8)
    everything = np.eye(5)
    for row in everything:
        new, old = (r.t_test(row) for r in (after, before))
        assert_close(new.statistic, old.statistic, TOL)
        assert_close(1 / new.df_denom, 1 / old.df_denom, TOL)  # infinite for variances
        assert_close(new.sd / np.r_[fixed, variances] @ row, old.sd[0], TOL)
    q = np.array([2.0, -1.0])
    new, old = after.wald_test((np.eye(2), q * fixed)), before.wald_test((np.eye(2), q))
    assert_close(new.statistic, old.statistic, TOL)
    if x_unit == 1:  # lmerTest's denominator depends on the units of the rows
        assert_close(new.df_denom, old.df_denom, TOL)
        new, old = (r.wald_test(everything[2:]) for r in (after, before))
        assert_close(new.statistic, old.statistic, TOL)
    v = [float(r.cov_re.iloc[0, 0]) for r in (before, after)]
    options = dict(vtype="re", num_low=1, num_high=1)
    curves = [
        r.profile_re(0, dist_low=0.2 * at, dist_high=0.2 * at, **options)[:, 1] - r.llf
        for r, at in zip((before, after), v, strict=True)
    ]
    assert_close(curves[1], curves[0], 1e-6, 0.01)


@pytest.mark.parametrize("unit", [1e80, 1e-85])
def test_draws_lanes_and_influence_of_numbers_whose_squares_are_no_floats(unit):
    data = DATA.assign(y=DATA.y * unit)
    before, after = fit(), lmm.fit(SLOPE, data)
    old, new = (lmm.bootstrap(r, n_boot=16, seed=1).conf_int() for r in (before, after))
    assert_close(new.iloc[:P] / unit, old.iloc[:P], TOL)
    old, new = (lmm.influence(r) for r in (before, after))
    assert_close(new.dfbetas, old.dfbetas, TOL, 1e-3)
    assert_close(new.cooks_distance, old.cooks_distance, TOL, 1e-3)
    many = lmm.fit_many("~ x + (x | g)", data, "y")
    assert_close(many.df[0], before.df, TOL)
    assert_close(many.bse_fe[0] / unit, before.bse_fe, TOL)
    assert str(after.summary()).count("nan") == str(before.summary()).count("nan")


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("column", ["noise", "few steps", "dependent"])
def test_units_of_y_do_not_change_the_warnings(column, scale):
    """A fit on the boundary, one stopped early, and a dependent column."""
    formula, options = {
        "noise": ("noise ~ x + (x | g)", {}),
        "few steps": (SLOPE, {"maxiter": 2}),
        "dependent": ("y ~ x + I(2 * x) + (x | g)", {}),
    }[column]

    def outcome(factor):
        noise = np.random.default_rng(2).normal(size=N)
        data = DATA.assign(noise=factor * noise, y=factor * DATA["y"])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = lmm.fit(formula, data, **options)
        kinds = [warning.category for warning in caught]
        return kinds, result.converged, result.singular, result.message

    assert outcome(scale) == outcome(1.0)


# ------------------------------------------------------------ order and names


def reversed_labels(data: pd.DataFrame) -> pd.DataFrame:
    labels = sorted(data["g"].unique())
    return data.assign(g=data["g"].map(dict(zip(labels, labels[::-1], strict=True))))


SAME_MODEL = {
    "rows permuted": lambda d: d.sample(frac=1, random_state=1),
    "labels renamed": reversed_labels,
    "labels numbers": lambda d: d.assign(g=d["g"].str[1:].astype(int) * 7 - 3),
    "labels categories": lambda d: d.assign(g=pd.Categorical(d["g"], d["g"].unique()[::-1])),
    "columns renamed": lambda d: d[["w", "g", "x", "y"]].assign(extra=1),
    "index": lambda d: d.set_index(pd.Index(np.arange(N)[::-1] / 2)),
    "a row missing": lambda d: pd.concat([d, d.iloc[:1].assign(x=np.nan)]),
}


@pytest.mark.parametrize("change", SAME_MODEL)
def test_order_and_names(change):
    data = SAME_MODEL[change](DATA)
    result = lmm.fit(SLOPE, data)
    assert_same(result, fit())
    assert_close(result.resid.sort_values(), fit().resid.sort_values(), TOL, 1)
    where = data["g"].groupby(data["y"]).first()  # label of each response, old and new
    old = DATA["g"].groupby(DATA["y"]).first()
    pairs = dict(zip(old, where, strict=True))
    moved = fit().random_effects["g"].rename(index=pairs)
    assert_close(result.random_effects["g"].loc[moved.index], moved, TOL, 1)


# ------------------------------------------------------------ covariates


@pytest.mark.parametrize("reml", KINDS)
def test_scaled_and_centred_covariate(reml):
    """x = a + b x': coefficients are mapped by C, covariances by C Psi C'; REML gains log|b|."""
    a, b = 30.0, 1e-3
    before = fit(reml=reml)
    after = lmm.fit("y ~ t + (t | g)", DATA.assign(t=(DATA["x"] - a) / b), reml=reml)
    C = np.array([[1, a], [0, b]])
    assert_close(after.llf, before.llf + (np.log(b) if reml else 0), LLF_RTOL)
    assert_close(after.fe_params, C @ before.fe_params, TOL, after.bse_fe)
    covariance = C @ before.cov_re.to_numpy() @ C.T
    sd = np.sqrt(np.diag(covariance))
    assert_close(after.cov_re, covariance, TOL, np.outer(sd, sd))
    relative = np.linalg.cholesky(covariance / before.scale)
    assert_close(after.theta, relative[[0, 1, 1], [0, 0, 1]], TOL, relative[1, 0])
    assert_close(after.resid, before.resid, TOL, 1)


# ------------------------------------------------------------ two spellings of one model

VC = {"groups": "g", "re_formula": "1", "vc_formula": {"s": "0 + C(s)"}}
SPELLINGS = {
    "|| is a sum": ("y ~ x + (x || g)", "y ~ x + (1 | g) + (0 + x | g)", {}),
    "|| with a factor": (
        "y ~ x + (0 + h || g)",
        "y ~ x + (0 + I(1.0 * (h == 'hi')) | g) + (0 + I(1.0 * (h == 'lo')) | g)",
        {},
    ),
    "/ is a sum": ("y ~ x + (1 | g/s)", "y ~ x + (1 | g) + (1 | g:s)", {}),
    "nested as components": ("y ~ x + (1 | g/s)", "y ~ x", VC),
    "groups=": (SLOPE, "y ~ x", {"groups": "g", "re_formula": "~x"}),
    "offset()": ("y ~ x + offset(o) + (1 | g)", "y ~ x + (1 | g)", {"offset": "o"}),
    "R's words": ("y ~ 1 + x^1 + (1 + x | factor(g))", SLOPE, {}),
}


def standard_deviations(result: lmm.LMMResults) -> Array:
    table = result.varcorr
    return np.sort(table.loc[table["var2"].isna(), "sdcor"])


@pytest.mark.parametrize("pair", SPELLINGS)
def test_spellings(pair):
    left, right, options = SPELLINGS[pair]
    one = fit(left)
    two = lmm.fit(right, DATA, **options)
    assert_close(one.llf, two.llf, LLF_RTOL)
    assert_close(one.fe_params, two.fe_params, TOL, two.bse_fe)
    assert_close(standard_deviations(one), standard_deviations(two), TOL, one.sigma)
    assert_close(one.fittedvalues, two.fittedvalues, TOL, one.sigma)
    assert one.converged and two.converged and one.singular == two.singular


def test_double_bar_gives_a_variance_for_every_column_of_a_factor():
    names = fit("y ~ x + (0 + h || g)").params.index
    assert list(names[2:]) == ["var(h[hi]|g)", "var(h[lo]|g)"]


# ------------------------------------------------------------ weights and offset


@pytest.mark.parametrize("reml", KINDS)
def test_constant_weights_only_rescale_sigma(reml):
    before = fit(reml=reml)
    after = lmm.fit(SLOPE, DATA, weights=np.full(N, 4.0), reml=reml)
    assert_close(after.llf, before.llf, LLF_RTOL)
    assert_close(after.scale, 4 * before.scale, TOL)
    assert_close(after.cov_re, before.cov_re, TOL, 1)
    assert_close(after.theta, before.theta / 2, TOL, 1)
    assert_close(after.fe_params, before.fe_params, TOL, before.bse_fe)
    assert_close(after.bse_fe, before.bse_fe, TOL)
    assert_close(after.random_effects["g"], before.random_effects["g"], TOL, 1)


def test_integer_weights_are_replicates_at_a_given_theta(x64):
    """Where it is true: log|V|, the residual sum of squares, beta and its relative covariance.

    The likelihoods differ (n counts rows, replicates say something about sigma), so the optima do.
    """
    times = 1 + np.arange(N) % 3
    weighted = lmm.design(SLOPE, DATA.assign(w=times), weights="w").layout
    repeated = lmm.design(SLOPE, DATA.loc[DATA.index.repeat(times)]).layout
    theta = jnp.array([0.9, 0.3, 0.6])

    @jax.jit
    def moments(layout):
        factors = whiten_factors(factor_blocks(theta, layout.structures), layout)
        at = waist(tuple(L @ L.T for L in factors), layout)
        profile = profile_waist(at, layout, reml=True)
        beta = (
            layout.beta_shift + layout.beta_origin + layout.y_scale * layout.beta_map @ profile.beta
        )
        covariance = layout.beta_map @ profile.cov_beta @ layout.beta_map.T
        rss = profile.scale * layout.y_scale**2 * (layout.n_obs - 2)
        return [at.logdet, rss, beta, covariance]

    for actual, expected in zip(moments(weighted), moments(repeated), strict=True):
        assert_close(actual, expected, EXACT_TOL, np.abs(expected).max())


@pytest.mark.parametrize("reml", KINDS)
def test_offset_is_a_shift_of_y(reml):
    with_offset = lmm.fit(
        SLOPE, DATA.assign(y=DATA["y"] + 5 * DATA["o"]), offset=5 * DATA["o"], reml=reml
    )
    assert_same(with_offset, fit(reml=reml))
    assert_close(with_offset.fittedvalues - 5 * DATA["o"], fit(reml=reml).fittedvalues, TOL, 1)
    assert_close(with_offset.resid, fit(reml=reml).resid, TOL, 1)


# ------------------------------------------------------------ closed forms


def anova(y: Array, rows: int) -> tuple[float, float]:
    """Mean squares between and within groups of a balanced one-way layout."""
    table = np.reshape(y, (-1, rows))
    means = table.mean(axis=1)
    within = np.sum((table - means[:, None]) ** 2) / (table.size - len(table))
    return rows * np.var(means, ddof=1), within


def one_way_llf(between: float, within: float, groups: int, rows: int, *, reml: bool) -> float:
    """The maximum, from the eigenvalues sigma^2 and sigma^2 + rows sigma_b^2 of the covariance."""
    n = groups * rows
    m = n - 1 if reml else n
    shared = between if reml else between * (groups - 1) / groups
    degrees = groups - 1 if reml else groups
    logdet = (n - groups) * np.log(within) + degrees * np.log(shared)
    return -0.5 * (m * np.log(2 * np.pi) + logdet + m + (np.log(n) if reml else 0))


@pytest.mark.parametrize("reml", KINDS)
def test_balanced_one_way_layout(reml):
    """The ANOVA estimators: sigma^2 = MSW, sigma_b^2 = (MSB - MSW) / rows, (1 - 1/a) MSB for ML."""
    between, within = anova(DATA["y"], 6)
    shared = between if reml else between * 9 / 10
    result = fit("y ~ 1 + (1 | g)", reml=reml)
    assert_close(result.scale, within, TOL)
    assert_close(result.cov_re, [[(shared - within) / 6]], TOL)
    assert_close(result.fe_params, [DATA["y"].mean()], TOL)
    assert_close(result.bse_fe, [np.sqrt(shared / 60)], TOL)
    assert_close(result.llf, one_way_llf(between, within, 10, 6, reml=reml), LLF_RTOL)
    if reml:
        assert_close(result.df, [9], TOL)  # the F test of a balanced design is exact
        # the mean squares are independent chi-squares: their variances are known
        variance = 2 * (between**2 / 9 + within**2 / 50) / 36
        assert_close(result.bse_re, [np.sqrt(variance)], TOL)


def without_group_effects() -> pd.DataFrame:
    """Responses whose group means vary less than chance would have it."""
    rng = np.random.default_rng(5)
    y = rng.normal(size=(10, 6))
    y = y - 0.8 * y.mean(axis=1, keepdims=True)
    return DATA.assign(y=3 + 2 * DATA["x"] + y.ravel())


@pytest.mark.parametrize("reml", KINDS)
@pytest.mark.parametrize(
    ("formula", "size"), [("y ~ x + (1 | g)", 1), ("y ~ x + (1 | g) + (1 | g:s)", 2)]
)
def test_zero_variance_is_ordinary_least_squares(formula, size, reml):
    data = without_group_effects()
    if size == 2:  # no effects of the subgroups either
        fine = data["y"] - 2 * data["x"]
        data["y"] = data["y"] - 0.8 * fine.groupby([data["g"], data["s"]]).transform("mean")
    X = np.column_stack([np.ones(N), data["x"]])
    beta, *_ = np.linalg.lstsq(X, data["y"], rcond=None)
    rss = np.sum((data["y"] - X @ beta) ** 2)
    nu = N - P if reml else N
    gram = X.T @ X
    llf = -0.5 * (nu * (np.log(2 * np.pi * rss / nu) + 1))
    llf -= 0.5 * np.linalg.slogdet(gram)[1] if reml else 0

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = lmm.fit(formula, data, reml=reml)
        str(result.summary()), result.tidy(), result.resid, result.random_effects_cov
    assert result.converged and result.singular
    assert np.all(result.theta == 0)
    assert_close(result.fe_params, beta, EXACT_TOL)
    assert_close(result.sigma, np.sqrt(rss / nu), EXACT_TOL)
    assert_close(result.llf, llf, EXACT_TOL)
    se = np.sqrt(rss / nu * np.diag(np.linalg.inv(gram)))
    assert_close(result.bse_fe, se, EXACT_TOL)
    assert_close(result.df, [nu, nu], EXACT_TOL)
    assert result.bse_re.isna().all()
    assert np.abs(result.random_effects["g"]).to_numpy().max() < 1e-15


@pytest.mark.parametrize("formula", [SLOPE, "y ~ x + (x + z | g)"])
def test_no_warning_on_the_boundary(formula):
    """A correlation of one or a zero variance is a fact about the data, not a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = lmm.fit(formula, without_group_effects())
        str(result.summary()), result.tidy(), result.augment(), result.conf_int()
    assert result.converged and result.singular
    smallest = np.linalg.eigvalsh(result.cov_re).min()
    assert smallest >= -1e-12 and smallest < 1e-6 * result.scale
