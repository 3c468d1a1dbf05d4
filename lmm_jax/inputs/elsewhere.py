"""What R and statsmodels call something, and what it is here: verbs and members of a fit."""

from __future__ import annotations

_HERE = {
    **dict.fromkeys(("lmer", "lme", "mixedlm", "MixedLM", "Lmer"), "lmm.fit(formula, data)"),
    "gls": "lmm.fit with a residual covariance in the formula, ar1(visit | id)",
    "glmer": "not there: responses are continuous",
    "read_csv": "the path itself, lmm.fit(formula, 'data.csv')",
    "update": "lmm.fit(...)",
    "refit": "lmm.fit(res.formula, data)",
    "refitML": "lmm.fit(res.design, reml=False)",
    "fit": "lmm.fit(res.design, reml=False), say: res is a fit already",
    # Estimates, figures and rows of a fit.
    "fixef": "res.fe_params",
    "ranef": "res.random_effects",
    "vcov": "res.cov_params()",
    "VarCorr": "res.varcorr",
    "normalized_cov_params": "res.cov_params() / res.scale",
    "use_t": "the df_method that the fit has, 'normal' for z tests",
    "method": "res.reml",
    "params_object": "res.fe_params, res.cov_re_unscaled and res.vcomp",
    "k_fe": "len(res.fe_params)",
    **dict.fromkeys(("confint", "intervals"), "res.conf_int()"),
    **dict.fromkeys(("logLik", "loglik", "loglike"), "res.llf"),
    **dict.fromkeys(("coefficients", "coef_"), "res.fe_params"),
    "deviance": "res.llf, times -2",
    "AIC": "res.aic",
    "BIC": "res.bic",
    "df_residual": "res.df_resid",
    "isSingular": "res.singular",
    "nobs": "res.nobs",
    "ngrps": "res.n_groups",
    "getME": "res.theta, res.design and res.model_matrix()",
    "model": "res.design",
    "fitted": "res.fittedvalues",
    "residuals": "res.resid()",
    "predict": "res.predict(newdata)",
    "get_prediction": "res.predict(newdata, interval='confidence')",
    "remove_data": "res.without_data()",
    # Tests and means.
    "Anova": "res.anova(2, marginal='car', df_method='z')",
    "KRmodcomp": "lmm.anova(smaller, larger, df_method='kr')",
    "compare_lr_test": "lmm.anova(smaller, larger)",
    "fvalue": "res.anova()",
    "t_test_pairwise": "lmm.emmeans(res, 'f').pairs()",
    "contest": "res.f_test(L), or res.t_test(L) of one row",
    "vcovCR": "res.robust('CR2')",
    "coef_test": "res.robust('CR2').tidy('fixed')",
    **dict.fromkeys(("ranova", "rand"), "lmm.ranova(res)"),
    **dict.fromkeys(("emmeans", "lsmeans", "ls_means"), "lmm.emmeans(res, 'f')"),
    "pairs": "lmm.emmeans(res, 'f').pairs()",
    "contrast": "lmm.emmeans(res, 'f').contrast(...)",
    # Verbs that somebody looks for in a fit.
    **dict.fromkeys(("r2", "r2_nakagawa", "rsquared", "rsquared_adj"), "lmm.r2(res)"),
    **{name: f"lmm.{name}(res)" for name in ("icc", "drop1", "step", "profile", "influence")},
    **{name: f"lmm.{name}(res, ...)" for name in ("bootstrap", "simulate")},
}


def here(name: str) -> str:
    """What follows the message that nothing has this name: where it is, if somebody else has it."""
    return f": here it is {_HERE[name]}" if name in _HERE else ""
