"""What works with which kind of model: one table, and one function that asks it.

A *kind* is a fact about a design or a fit that some functions cannot deal with. Where the
table has no entry for a function and a kind, the function does the right thing.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Protocol

from .errors import DataError

KINDS = {
    "weighted": "prior weights",
    "offset": "an offset",
    "dropped": "columns of X left out for linear dependence",
    "components": "variance components",
    "structured": "a covariance structure of a term, ar1(0 + f | g)",
    "residual": "a residual covariance, us(visit | id)",
    "means": "variances that follow the fitted values, power(fitted(.))",
    "nested": "nested factors",
    "crossed": "crossed factors",
    "large core": "crossed factors too large for batches of fits",
    "sparse": "crossed factors whose levels meet few others, kept sparse",
    "approximate": "crossed factors fitted approximately",
    "related": "related levels, fitted with relatedness=",
    "arrays": "made from arrays, without a formula",
    "batches": "made from sums over rows, which were not kept",
    "held effects": "fixed effects held fixed",
    "sigma": "a residual standard deviation that is known, sigma=",
    "held covariances": "variances or covariances held fixed",
    "penalized": "fitted with fe_pen or cov_pen",
    "ml": "fitted by ML",
    "saved": "restored from a pickle or a file that holds no rows",
    "without data": "made by without_data()",
}

_ROWS = (
    "the rows of this design came in batches and were not kept, and {what} needs them: pass new "
    "rows to predict, or make the design from a frame in memory"
)
_DATA = (
    "this result was restored without its data, which {what} must have: fit the model again, or "
    "save it with keep_data=True"
)
_NO_ROWS = {"without data": _DATA, "saved": _DATA}
_CORE = (
    "{what} fits replicates in batches, for which the crossed factors of this model are too large: "
    "lmm.fit_many(res.design, responses=lmm.simulate(res, n=..., seed=...)) fits drawn responses"
)
_ESTIMATED = (
    "{what} runs in JAX, and the log-likelihood of crossed factors fitted approximately is an "
    "estimate that JAX cannot differentiate: use lmm.fit, or lmm.profile_loglike for values"
)
_SPARSE = (
    "{what} runs in a JAX program, and the levels of these crossed factors meet few others: their "
    "matrices are kept sparse, which NumPy works off"
)
_STRUCTURE = (
    "{what} keeps no covariance structure, and a term of this model has one: write (… | g), "
    "without a structure, or (… || g)"
)
_PARAMS = (
    "{what} cannot take a model with a residual covariance, which Params do not hold: "
    "lmm.profile_loglike takes its theta, and lmm.fit gives its residual_params"
)
_MEANS = (
    "the residual variances of this model follow its fitted values, which would be others in every "
    "fit that {what} makes: fit them one after another by lmm.fit"
)
_STEP = "{what} is that of a fit with nothing held or penalized: {why}"


class Subject(Protocol):
    """What functions of the table take: a layout, a design or a fit."""

    _subject: ClassVar[str]

    def _is_kind(self, kind: str) -> bool:
        """Whether it is of a kind of ``KINDS``."""
        ...


class Capability(NamedTuple):
    """One function: what it takes, and what it says to the kinds that it refuses."""

    takes: str  # "fit", "design" or "layout"
    refuses: dict[str, str]


_ROBUST = {
    **_NO_ROWS,
    "batches": _ROWS,
    "penalized": "a robust covariance is one of estimating equations without a penalty: fit "
    "without fe_pen and cov_pen",
}
_OF_ROWS = Capability("fit", {**_NO_ROWS, "batches": _ROWS})
_OF_LEVELS = Capability("fit", {"without data": _DATA})
_OF_SHARES = Capability(
    "fit",
    {
        "without data": _DATA,
        "sigma": "{what} divides by the residual variance of a row of weight one, which is "
        "anybody's choice where sigma is known: take res.varcorr beside the variances of the rows",
    },
)
_OF_NEW_ROWS = Capability(
    "fit",
    {
        "without data": _DATA,
        "arrays": "the design was made from arrays: {what} needs one made from a formula",
    },
)

TABLE = {
    "fit": Capability("design", {}),
    "approximate=True": Capability(
        "design",
        {
            "batches": "approximate=True needs the rows, and those of this design came in batches: "
            "pass a frame in memory",
            "related": "approximate=True is for crossed factors with independent levels, and those "
            "of this model are related",
            "residual": "approximate=True is for crossed random effects, and this model has a "
            "residual covariance: its layout is exact",
        },
    ),
    "free": Capability(
        "design",
        {
            "structured": "free= holds effects at the values of start_params=, which keep no "
            "covariance structure, and a term of this model has one: let the held part be an "
            "offset",
            "batches": "the rows of this design came in batches and were not kept: fixed effects "
            "can only be held fixed where the rows are in memory (covariances can be held)",
        },
    ),
    "start_params": Capability("design", {"structured": _STRUCTURE}),
    "fit with cov_re held or a penalty": Capability(
        "design",
        {
            "structured": _STRUCTURE,
            "residual": "{what} works on the random effects alone, and this model has a residual "
            "covariance: leave out free.cov_re, fe_pen and cov_pen (fixed effects may be held, "
            "and lmm.fit_regularized penalizes them)",
            "sparse": _SPARSE + ": leave covariances free (fixed effects may be held)",
            "approximate": "{what} is one of exact likelihoods, and these crossed factors are "
            "fitted approximately: leave covariances free (fixed effects may be held)",
        },
    ),
    "a fit by runtime='jax' or first-order methods": Capability(
        "design",
        {
            "sparse": _SPARSE + ": leave runtime= and method= as they are",
            "approximate": "an approximate fit is one of Newton steps, by NumPy on a CPU and by "
            "JAX on an accelerator: leave runtime= and method= as they are",
        },
    ),
    "fit_many": Capability("design", {"batches": _ROWS, "means": _MEANS}),
    "fit_regularized": Capability(
        "design",
        {"held effects": "fit_regularized penalizes all fixed effects, and this design holds some "
         "of them fixed: let the held part be an offset of the design",
         "means": _MEANS},
    ),
    "bootstrap": Capability(
        "fit",
        {
            **_NO_ROWS,
            "large core": _CORE,
            "penalized": "the fit is penalized: its replicates would need the same penalty, which "
            "bootstrap does not know; fit without fe_pen and cov_pen",
            "held covariances": "the fit holds covariances fixed, which bootstrap cannot do: leave "
            "cov_re and vcomp free (fixed effects may be held)",
            "means": _MEANS,
        },
    ),
    "power": Capability(
        "design", {"structured": _STRUCTURE, "large core": _CORE, "means": _MEANS}
    ),
    "simulate": Capability("design", {"batches": _ROWS}),
    "influence": Capability(
        "fit",
        {
            **_NO_ROWS,
            "batches": _ROWS,
            "held effects": _STEP.format(what="influence", why="let the held part be an offset"),
            "sigma": "influence follows a residual variance that is estimated, and that of this "
            "fit is known: fit again without the groups or rows in question",
            "held covariances": _STEP.format(
                what="influence", why="fit again without the groups or rows in question"
            ),
            "penalized": _STEP.format(
                what="influence", why="fit again without the groups or rows in question"
            ),
        },
    ),
    "r2": _OF_SHARES,
    "icc": _OF_SHARES,
    "variance_components": _OF_SHARES,
    "heritability": _OF_SHARES,
    "vif": Capability(
        "fit",
        {
            "without data": _DATA,
            "penalized": "variance inflation is read off the covariance of estimates without a "
            "penalty: fit without fe_pen and cov_pen",
        },
    ),
    "caic": Capability(
        "fit",
        {
            **_NO_ROWS,
            "batches": _ROWS,
            "penalized": "the conditional AIC is that of a fit without fe_pen and cov_pen",
            "sigma": "the conditional AIC counts a residual variance that is estimated, and that "
            "of this fit is known: compare by res.aic",
            "residual": "the conditional AIC is one of independent residuals of one variance, and "
            "these have a covariance of their own: compare by res.aic",
        },
    ),
    "profile": Capability(
        "fit",
        {
            **_NO_ROWS,
            "held covariances": "a profile maximizes over all covariances, and this fit holds some "
            "fixed: leave cov_re and vcomp free (fixed effects may be held)",
            "penalized": "a profile is that of the likelihood alone: fit without fe_pen and "
            "cov_pen",
            "means": _MEANS,
        },
    ),
    "profile_re": Capability(
        "fit",
        {
            **_NO_ROWS,
            "structured": _STRUCTURE,
            "held covariances": "profile_re needs a fit in which no variance was held fixed: it "
            "would let the others go (fixed effects may be held)",
            "penalized": "profile_re needs a fit without fe_pen and cov_pen: its curve is that of "
            "the likelihood alone",
            "means": _MEANS,
        },
    ),
    "kenward-roger": Capability(
        "fit",
        {
            **_NO_ROWS,
            "ml": "Kenward and Roger's method is one of REML: fit with reml=True, or choose "
            "df_method='satterthwaite'",
            "held covariances": "Kenward and Roger's method needs a fit in which no variance was "
            "held fixed: choose df_method='satterthwaite' (fixed effects may be held)",
            "penalized": "Kenward and Roger's method is one of a fit without fe_pen and cov_pen",
            "approximate": "Kenward and Roger's method needs products of covariances of all random "
            "effects, which an approximate fit does not form: choose df_method='satterthwaite'",
        },
    ),
    "between-within": Capability(
        "fit",
        {
            **_NO_ROWS,
            "batches": _ROWS,
            "related": "degrees of freedom between and within subjects need independent subjects, "
            "and these are related: choose df_method='satterthwaite' or 'kenward-roger'",
            "crossed": "degrees of freedom between and within subjects need factors that nest, "
            "and these are crossed: choose df_method='satterthwaite' or 'kenward-roger'",
        },
    ),
    "robust": Capability(
        "fit",
        {
            **_ROBUST,
            "crossed": "robust needs independent groups, and these random effects are crossed: "
            "pass cluster=, clusters of rows that share no random effect with one another",
        },
    ),
    "robust with cluster=": Capability("fit", _ROBUST),
    "wald_test_terms": _OF_LEVELS,
    "comparisons of models": Capability(
        "fit",
        {
            **_NO_ROWS,
            "batches": "sums over rows are not fitted again: fit both models, by ML where their "
            "fixed effects differ, and take 2 * (large.llf - small.llf) against chi-square",
            "held covariances": "likelihood ratios are those of free parameters, and this fit "
            "holds covariances fixed",
            "penalized": "likelihood ratios are those of fits without fe_pen and cov_pen",
        },
    ),
    "emmeans": Capability(
        "fit",
        {
            "without data": _DATA,
            "batches": "sums over rows do not tell which values the variables have, over which "
            "marginal means are averaged: res.predict(grid, se=True) gives means and intervals on "
            "rows of your choice, and res.t_test differences",
            "arrays": "marginal means need to know the variables behind the columns of X: make "
            "the design from a formula",
        },
    ),
    "to_marginaleffects": Capability(
        "fit",
        {
            **_NO_ROWS,
            "batches": _ROWS,
            "arrays": "marginaleffects needs to know the variables behind the columns of X: make "
            "the design from a formula",
        },
    ),
    "emmeans of many": Capability(
        "design",
        {"arrays": "marginal means need to know the variables behind the columns of X: make the "
         "design from a formula"},
    ),
    "anova": Capability(
        "fit",
        {
            **_NO_ROWS,
            "held effects": "an analysis of variance divides what all terms explain, and some of "
            "their effects are held fixed or removed by a penalty: lmm.joint_tests(res) tests the "
            "others (what is held may be an offset)",
        },
    ),
    "random_effects": _OF_LEVELS,
    "random_effects_cov": _OF_LEVELS,
    "joint_effects_cov": Capability("fit", _NO_ROWS),
    "given_beta=False": Capability("fit", _NO_ROWS),
    "layout_info": _OF_LEVELS,
    "coef": _OF_LEVELS,
    "predict": _OF_NEW_ROWS,
    "predict without newdata": _OF_ROWS,
    "conditional prediction beside correlated residuals": Capability("fit", _NO_ROWS),
    "conditional standard errors": Capability("fit", _NO_ROWS),
    "model_matrix": _OF_NEW_ROWS,
    "model_matrix without newdata": _OF_ROWS,
    "fittedvalues": Capability("fit", {"without data": _DATA, "batches": _ROWS}),
    "resid": _OF_ROWS,
    "simulate_residuals": _OF_ROWS,
    "augment": _OF_ROWS,
    "shard": Capability(
        "layout",
        {
            "crossed": "only a layout of independent groups can be divided; crossed random effects "
            "share one dense core",
            "residual": "only a layout of random effects can be divided, and this one has a "
            "residual covariance: fit it on one device",
        },
    ),
    "fit_params": Capability(
        "layout",
        {
            "sparse": _SPARSE,
            "approximate": _ESTIMATED,
        },
    ),
    "fit_params with start=": Capability(
        "layout",
        {
            "residual": _PARAMS,
            "structured": _STRUCTURE,
            "sparse": _SPARSE,
            "approximate": _ESTIMATED,
        },
    ),
    "get_random_effects": Capability(
        "layout",
        {
            "residual": "{what} takes no model with a residual covariance: res.random_effects "
            "has the conditional means of a fit",
            "sparse": _SPARSE,
            "approximate": _ESTIMATED,
        },
    ),
    "functions of Params": Capability("layout", {"residual": _PARAMS, "approximate": _ESTIMATED}),
}  # fmt: skip

_NEEDED = {
    "fit": "a result of lmm.fit",
    "design": "a Design (lmm.design, lmm.design_from_arrays)",
    "layout": "a layout (design.layout, or made by lmm.compress)",
}


def require(subject: Any, what: str) -> Any:
    """The design, fit or layout itself, if the function ``what`` can deal with it.

    Raises
    ------
    DataError
        Another type of argument, or a kind of model that ``what`` refuses, with the reason.
    """
    takes, refuses = TABLE[what]
    if getattr(subject, "_subject", None) != takes:
        own = f": it has {what}(...) of its own" if hasattr(type(subject), what) else ""
        raise DataError(f"{what} needs {_NEEDED[takes]}, not a {type(subject).__name__}{own}")
    for kind, reason in refuses.items():
        if subject._is_kind(kind):
            raise DataError(reason.format(what=what))
    return subject
