"""Linear mixed models on JAX: lme4's formulas, statsmodels' names, pure functions below.

>>> import lmm_jax as lmm
>>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
>>> print(f"{res.llf:.4f}")
-871.8141

``help(lmm.fit)`` describes one of the names below, ``help(lmm.LMMResults)`` lists what a fit has.

Fitting a model
    fit                  Fit a linear mixed model y = X beta + Z b + e.
    mmrm                 Mixed model for repeated measures: fit with the defaults of trials.
    design               Build the design of a model from a formula.
    design_from_arrays   Build the design of a model with one grouping factor from arrays.
    design_from_batches  Build the design of a model from a stream of frames, none of which is kept.
    schema               Fix how rows are read, so that the sums over parts of them add up.
    Schema               How rows become the columns of a model: levels, contrasts, knots, origins
                         and units.
    summarize            Sum rows up to what the fit of a model needs of them.
    RowSums              What the fit needs of some rows, as sums: + gives those of all of them.
    Design               A linear mixed model without its parameters: y = X beta + Z b + offset + e.
    LayoutInfo           Which layout a model got, and why.
    relationship         Additive relationships of the individuals of a pedigree, inbreeding
                         included.
    load_dataset         Load one of the classical data sets of mixed models.
    load                 Read a result that was written by its method save.
    use_cache            Keep compiled programs on disk, so that later processes need not compile
                         them again.
    compiler_options     Options with which XLA compiles a program that holds functions of this
                         library quickly.

Results
    LMMResults           A fitted linear mixed model.
    regression_table     Several fits side by side: fixed effects, standard deviations and
                         correlations, figures.

Tests, means and intervals
    anova                Analysis of variance of one fit; likelihood ratio or F tests of several.
    ranova               Likelihood ratio tests of the random-effects terms, each left out in turn.
    drop1                Tests of the terms of the fixed effects that may be left out, one at a
                         time.
    step                 Backward elimination of random, then of fixed effects, as lmerTest's step.
    StepResults          Terms left out one after another, and the fit without them.
    emmeans              Estimated marginal means.
    emtrends             Estimated marginal slopes of a covariate.
    joint_tests          F tests of the main effects and interactions of all variables, on a
                         reference grid.
    MarginalMeans        Estimated marginal means, trends, or contrasts of them.
    hypotheses           Linear functions of the parameters by t tests, any other function by the
                         delta method.
    delta_method         Estimate, standard error and interval of a function of the parameters.
    DeltaResults         Functions of the parameters with their standard errors; arrays of the
                         function's shape.
    profile              Profile likelihood of the parameters of a fit.
    ProfileResults       Profiles of the parameters of a fit, made by profile.

Measures and diagnostics
    r2                   Marginal and conditional R2 of Nakagawa & Schielzeth, and the part of every
                         fixed term.
    R2Results            Shares of the variance of y that a fit explains.
    icc                  Intraclass correlations: the share of the variance that random effects
                         account for.
    ICCResults           Intraclass correlations.
    variance_components  The variance of y by its sources: fixed effects, every random term,
                         residual.
    heritability         Heritability: the additive variance over the variance of the phenotype.
    Heritability         Additive variance over phenotypic variance, with its interval.
    vif                  Variance inflation of every term of the fixed effects.
    caic                 The conditional AIC, for a model that is to predict within the groups of
                         its data.
    ConditionalAIC       The conditional AIC and what it is made of: caic = -2 llf + 2 (df + 1).
    influence            Influence of every group or row, by derivatives at the fit (infinitesimal
                         jackknife).
    Influence            What each group or row contributes to the estimates.
    Residuals            Raw residuals, a Series of pandas; called with a kind it gives the
                         residuals of that kind.
    simulate_residuals   Scaled quantile residuals: where each response lies among simulated ones.
    SimulatedResiduals   Residuals of a fit on the scale of its own simulations, by
                         simulate_residuals.

Simulation, bootstrap and power
    simulate             Draw responses from a linear mixed model.
    bootstrap            Parametric bootstrap: draw from the fitted model, fit every draw again.
    BootstrapResults     Replicates of a parametric bootstrap.
    power                Power of a test of fixed effects: simulate, fit, test, count.

Many responses
    fit_many             Fit one linear mixed model to many responses, each with parameters of its
                         own.
    ManyResults          Linear mixed models of R responses with one design.
    ManyTests            Hypotheses tested in every response.
    ManyMeans            Marginal means, or contrasts of them, of every response.

Penalized fits
    fit_regularized      Fit with penalized fixed effects, the covariance held at its unpenalized
                         estimate.
    RegularizedResults   A linear mixed model with L1-penalized fixed effects.
    RegularizedPath      Penalized fits along a sequence of penalties, in the order in which these
                         were given.
    penalties            Ready-made penalties: pure functions of the parameter, subtracted from the
                         log-likelihood.

Plots
    plots                Plots of results: each takes a result first and ax=, and returns the Axes
                         it has drawn on.

Pure functions of arrays
    compress             Compress the rows of a mixed model into its sufficient statistics.
    row_index            Bookkeeping of the rows, for compress.
    Params               Parameters of a linear mixed model, a pytree.
    pack                 Flat vector: fixed effects, lower triangle of cov_re row by row,
                         components.
    unpack               Inverse of pack.
    loglike              Log-likelihood at given covariance parameters, sigma^2 profiled out.
    profile_loglike      Log-likelihood at lme4's theta, fixed effects and sigma profiled out.
    score                Gradient of loglike, in the shape of params.
    hessian              Second derivatives of loglike; a matrix if params is packed.
    get_fe_params        Generalized least squares estimate of the fixed effects, (p,).
    get_theta            Theta of profile_loglike, (m,), of covariances relative to the residual
                         variance.
    get_scale            Residual variance that maximizes the likelihood at given other parameters.
    get_random_effects   Conditional means (BLUPs) of the random effects that every row belongs to.
    fit_params           Fit a compressed model, as a pure function for jit, vmap and grad.
    FittedParams         Estimates as arrays, differentiable in the layout they come from.
    woodbury_logdet      log|s I + A B A'| with B = blockdiag(Q, diag(d)).
    woodbury_solver      Function that applies (s I + A B A')^-1 with B = blockdiag(Q, diag(d)).
    shard                Place a layout on several devices, the groups divided among them.
    GroupedLayout        Sufficient statistics of a mixed model with independent groups.
    CrossedLayout        Sufficient statistics of a mixed model with crossed factors.
    SparseLayout         Sufficient statistics of crossed factors whose levels meet few others.
    MatrixFreeLayout     Sufficient statistics of a mixed model whose crossed factors are fitted
                         approximately.
    ResidualLayout       Sufficient statistics of a model with a residual covariance.
    MarkovLayout         Sufficient statistics of a model whose residuals are correlated along time.
    SubjectLayout        Sufficient statistics of a model whose subjects share random effects.
    FieldLayout          Sufficient statistics of a model whose residuals are those of plots of
                         fields.

Errors and warnings
    FormulaError         A formula that cannot be read, or that asks for something the data does not
                         have.
    DataError            Data that a model cannot be fitted to or predicted for; the message names
                         the column.
    ForkError            A computation in a process that was forked from one in which JAX had
                         computed.
    ConvergenceWarning   The optimizer stopped at a point that does not pass the tests of a maximum.
    IdentificationWarning Variances that rows hardly tell: as many random coefficients as rows,
                         terms that overlap.
    RankWarning          Columns of the design add nothing (constant, duplicated, collinear) and are
                         dropped.
    OrderWarning         Visits were read in a way that may not be meant: an order of text, numbers
                         as visits.
    TextWarning          Text was taken for labels, and all but a few of them are numbers.
"""

import ast
from pathlib import Path
from typing import Any

from . import forks as forks  # its hooks have to be there before anybody forks
from .imports import load as _load
from .inputs.elsewhere import here as _here
from .version import __version__ as __version__


def _homes() -> dict[str, tuple[str, str]]:
    """Module and name of every public name, as __init__.pyi imports them.

    JAX, pandas and a hundred and fifty modules take a second to import: ``import lmm_jax``
    costs nothing, a name what it needs.
    """
    tree = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    return {
        a.asname or a.name: (f"{__name__}.{node.module or a.name}", a.name if node.module else "")
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for a in node.names
    }


_HOMES = _homes()
_WITH_OTHERS = ("sklearn",)  # modules that need a package which may be absent
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _WITH_OTHERS:
        return _load(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{_here(name)}")
    module, attribute = _HOMES[name]
    found = _load(module)
    value = globals()[name] = getattr(found, attribute) if attribute else found
    return value


def __dir__() -> list[str]:
    """Public names alone: completion offers no wing of the house."""
    return sorted([*__all__, "__all__", "__doc__", "__version__"])
