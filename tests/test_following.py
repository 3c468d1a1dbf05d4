"""Variances that follow the fitted values, against nlme and against the fit they are at."""

import pickle
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import assert_close
from scipy import stats

import lmm_jax as lmm
from lmm_jax.api import following

RATS = pd.read_csv(Path(__file__).parent / "data" / "bodyweight.csv").astype(
    {"Rat": str, "Diet": str}
)
TEETH = lmm.load_dataset("orthodont")
GROWTH = "weight ~ Time * Diet + (Time | Rat)"

# Digits that nlme's optimizer has: of the log-likelihood, of fixed effects and their standard
# errors, and of sigma and the exponent, which lie on a ridge.
LLF_RTOL, FIXED_RTOL, SIGMA_RTOL, EXPONENT_RTOL = 1e-7, 1e-4, 1e-2, 2e-3

# nlme 3.1-162 with tolerance 1e-10: log-likelihood, fixed effects and their standard errors, sigma,
# the exponent. BodyWeight and its varPower() are those of Pinheiro & Bates (2000), section 5.2.2.
NLME = {
    "lme, varPower()": (
        f"{GROWTH} + power(fitted(.))", RATS, {}, -570.96071107828,
        [251.60214900891663, 0.36108785701178, 200.77696533434423,
         252.17016171525549, 0.60182885926158, 0.29523552059707],
        [13.067392346986177, 0.088377353066274, 22.656345992360635,
         22.661700169935624, 0.155422390690518, 0.155890466070942], 0.1752074357446,
        0.54280892787952,
    ),
    "lme by ML, varPower()": (
        f"{GROWTH} + power(fitted(.))", RATS, {"reml": False}, -577.9812741003,
        [251.60133656115573, 0.36110556904793, 200.77896856898673,
         252.16398029306873, 0.60161187197083, 0.29538540736327],
        None,  # of nlme times sqrt(n / (n - p))
        0.1726142511266, 0.545395798992,
    ),
    "gls, corCompSymm, varPower()": (
        "distance ~ age * Sex + cs(age | Subject) * power(fitted(.))", TEETH, {}, -215.99796683086,
        [16.46380722690989, 0.77305945607190, 0.90373618119062, -0.29303927427809],
        [0.920123346397501, 0.081310579521476, 1.381013065992757, 0.119407779144398],
        0.074282679056077, 1.0796425029758,
    ),
    "lme, varComb(varIdent, varPower())": (
        f"{GROWTH} + diag(Diet) * power(fitted(.))", RATS, {}, -569.6779834965,
        [251.58927126261227, 0.36146909558373, 200.80321359609741,
         252.18824784014620, 0.60109287060372, 0.29460532865913],
        [13.061041013585022, 0.089278285953843, 22.631281170007266,
         22.662081869079238, 0.155571149713217, 0.158551542923623], 0.081369074526268,
        0.68240606351380,
    ),
    "lme, corExp, varPower()": (
        f"{GROWTH} + sp_exp(Time | Rat) * power(fitted(.))", RATS, {}, -560.57020887273,
        [251.48677650279603, 0.36258640824249, 200.78553974686392,
         252.58989637110643, 0.62402096940448, 0.30656211208956],
        [13.086840709300052, 0.085902206528975, 22.707275501116758,
         22.717125527207990, 0.153020772587565, 0.153876479999596], 0.1384157747972,
        0.59430668737368,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NLME)
def test_fits_of_nlme(name):
    formula, data, options, llf, beta, se, sigma, exponent = NLME[name]
    res = lmm.fit(formula, data, **options)
    assert res.converged
    assert_close(res.llf, llf, LLF_RTOL)
    assert_close(res.fe_params, beta, FIXED_RTOL)
    if se is not None:
        assert_close(res.bse_fe, se, FIXED_RTOL)
    assert_close(res.sigma, sigma, SIGMA_RTOL)
    assert_close(res.residual_params["power"], exponent, EXPONENT_RTOL)


@cache
def fitted(formula: str = f"{GROWTH} + power(fitted(.))", **options) -> lmm.LMMResults:
    return lmm.fit(formula, RATS, **options)


@pytest.mark.parametrize(
    ("written", "column"),
    [("power(fitted(.))", "power(mu)"), ("expo(fitted(.))", "expo(mu)"),
     ("diag(Diet) * expo( fitted( . ) )", "diag(Diet) * expo(mu)")],
)  # fmt: skip
def test_it_is_the_fit_of_a_column_of_its_own_fitted_values(written, column):
    res = fitted(f"{GROWTH} + {written}")
    data = RATS.assign(mu=res.fittedvalues)
    other = lmm.fit(f"{GROWTH} + {column}", data)
    assert_close(other.llf, res.llf, 1e-10)
    assert_close(other.fittedvalues, res.fittedvalues, 1e-8)
    assert_close(other.residual_params, res.residual_params, 1e-5)  # along a ridge
    for one, same in ((res.tidy(), other.tidy()), (res.anova(), other.anova())):
        assert_close(one.select_dtypes(float), same.select_dtypes(float), 1e-5, 1e-3)
    for kind in ("pearson", "standardized", "normalized", "whitened"):
        assert_close(res.resid(kind), other.resid(kind), 1e-6, 1)
    assert_close(res.with_df("kr").bse_fe, other.with_df("kr").bse_fe, 1e-6)


@pytest.mark.parametrize("conditional", [False, True])
def test_a_new_row_has_the_variance_of_its_mean(conditional):
    res, new = fitted(), RATS.iloc[[3, 70, 175]]
    for one in (res, pickle.loads(pickle.dumps(res))):
        if one is not res and conditional:
            continue  # conditional standard errors need the rows of the fit
        wide = one.predict(new, conditional=conditional, interval="prediction", level=0.9)
        total = ((wide["upper"] - wide["fit"]) / stats.t(res.df_resid).ppf(0.95)) ** 2
        noise = res.scale * np.abs(wide["fit"]) ** (2 * res.residual_params["power"])
        if not conditional:
            Z = np.column_stack([np.ones(3), new["Time"]])
            noise = noise + np.einsum("ni,ij,nj->n", Z, res.cov_re.to_numpy(), Z)
        assert_close(total, wide["std_error"] ** 2 + noise, 1e-10)


def test_refits_find_means_of_their_own():
    plain, by_ml = fitted(GROWTH, reml=False), fitted(reml=False)
    table = lmm.anova(fitted(GROWTH), fitted())  # by REML, so fitted again
    assert_close(table["llf"], [plain.llf, by_ml.llf], 1e-9)
    design = lmm.design(f"{GROWTH} + power(fitted(.))", RATS)
    for again in (lmm.fit(design), lmm.fit(fitted().design)):
        assert_close(again.llf, fitted().llf, 1e-10)
    jitted = lmm.fit(design, runtime="jax")
    assert_close(jitted.llf, fitted().llf, 1e-10)
    assert_close(jitted.bse_fe, fitted().bse_fe, 1e-7)


def test_before_a_fit_there_is_no_layout():
    design = lmm.design(f"{GROWTH} + power(fitted(.))", RATS)
    with pytest.raises(lmm.DataError, match=r"take lmm.fit\(design\), and res.design"):
        design.layout  # noqa: B018
    with pytest.raises(lmm.DataError, match="there are none before a fit"):
        lmm.simulate(fitted(), design, seed=1)
    assert fitted().design.layout is not None
    assert len(lmm.simulate(fitted(), fitted().design, seed=1)) == 176
    with pytest.raises(lmm.FormulaError, match="the fitted values stand alone"):
        lmm.design(f"{GROWTH} + power(abs(fitted(.)))", RATS)
    with pytest.raises(lmm.DataError, match="of the fitted value: pass covariate="):
        fitted().residual_cov()
    with pytest.raises(lmm.DataError, match="would be others in every fit"):
        lmm.fit_regularized(f"{GROWTH} + power(fitted(.))", RATS, alpha=1.0)


def test_means_that_do_not_settle(monkeypatch):
    monkeypatch.setattr(following, "_MOST_FITS", 1)
    with pytest.warns(lmm.ConvergenceWarning, match="do not settle: they still change by 0.0"):
        res = lmm.fit(f"{GROWTH} + power(fitted(.))", RATS)
    assert not res.converged


def test_means_that_give_no_variances():
    zero = RATS.assign(weight=np.where(RATS["Diet"] == "1", 0.0, RATS["weight"]))
    with pytest.raises(lmm.DataError, match=r"a fitted value is zero.* take expo\(fitted\(.\)\)"):
        lmm.fit("weight ~ 0 + C(Diet) + power(fitted(.))", zero)
    with pytest.raises(lmm.DataError, match=r"`fitted\(.\)` is the same in all rows"):
        lmm.fit("weight ~ 1 + power(fitted(.))", RATS)


def test_the_pages_say_of_what_sigma_is():
    assert "at |fitted| = 1" in str(fitted().summary())
    assert "at fitted = 0" in str(fitted(f"{GROWTH} + expo(fitted(.))").summary())
    assert "at |x| = 1" in str(lmm.fit(f"{GROWTH} + power(weight)", RATS).summary())


@pytest.mark.parametrize("term", ["power(Time)", "power(fitted(.))", "sp_exp(Time | Rat)"])
def test_residual_parameters_are_counted_where_fixed_effects_are_held(term):
    plain = lmm.fit(f"weight ~ Time + (1 | Rat) + {term}", RATS)
    P = lmm.Params.from_components
    held = lmm.fit(
        plain.design,
        free=P(fe_params=[1, 0], cov_re=[[1]]),
        start_params=P(fe_params=plain.fe_params, cov_re=[[1.0]]),
    )
    assert plain.n_params == 5 and held.n_params == 4
    assert_close(held.aic, 8 - 2 * held.llf, 1e-12)


def test_means_that_go_to_and_fro_are_taken_by_half():
    """Few groups and a steep power: what follows the fit of a mean lies beyond the fixed point."""
    rng = np.random.default_rng(11)
    steps = []
    for _ in range(6):
        g, x = np.repeat(np.arange(6), 8), rng.uniform(0, 1, 48)
        mean = 2 + 4 * x + rng.normal(size=6)[g]
        data = pd.DataFrame({"g": g, "x": x, "y": mean + 0.02 * mean**3 * rng.normal(size=48)})
        res = lmm.fit("y ~ x + (1 | g) + power(fitted(.))", data)
        again = lmm.fit("y ~ x + (1 | g) + power(mu)", data.assign(mu=res.fittedvalues))
        steps.append(np.abs(again.fittedvalues - res.fittedvalues).max())
        assert res.converged
    assert max(steps) < 1e-6


def test_means_that_settle_slowly_by_small_shares_are_foretold():
    """Some of the means are near zero, where a small change moves a variance far."""
    rng = np.random.default_rng(23)
    g, t = np.repeat(np.arange(40), 5), np.tile(np.arange(5), 40)
    mean = 0.5 + 0.5 * t + 0.6 * rng.normal(size=40)[g] + 0.2 * rng.normal(size=40)[g] * t
    e = np.zeros(200)
    for i in range(200):
        e[i] = (0.6 * e[i - 1] + 0.8 * rng.normal()) if t[i] else rng.normal()
    data = pd.DataFrame({"g": g, "t": t, "y": mean + 0.5 * np.abs(mean) ** 0.5 * e})
    res = lmm.fit("y ~ t + (t | g) + power(fitted(.)) * ar1(t | g)", data)
    again = lmm.fit("y ~ t + (t | g) + power(mu) * ar1(t | g)", data.assign(mu=res.fittedvalues))
    assert res.converged
    assert np.abs(again.fittedvalues - res.fittedvalues).max() < 1e-6


def test_nested_models_have_means_of_their_own():
    small, large = (
        lmm.fit(f"weight ~ {fixed} + (Time | Rat) + power(fitted(.))", RATS, reml=False)
        for fixed in ("Time", "Time * Diet")
    )
    table = lmm.anova(small, large)
    assert_close(table["chisq"].iloc[1], 2 * (large.llf - small.llf), 1e-7)
    assert table["df"].iloc[1] == 4


def test_means_far_from_zero():
    data = TEETH.assign(y=TEETH["distance"] + 1000)
    far = lmm.fit("y ~ age + (1 | Subject) + expo(fitted(.))", data)
    near = lmm.fit("distance ~ age + (1 | Subject) + expo(fitted(.))", TEETH)
    assert_close(far.llf, near.llf, 1e-8)
    assert_close(far.residual_params, near.residual_params, 1e-4)
    with pytest.raises(lmm.DataError, match="of the response less a constant"):
        lmm.fit("y ~ age + (1 | Subject) + power(fitted(.))", data.assign(y=data["y"] + 1e5))
