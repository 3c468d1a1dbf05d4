"""``r2``, ``icc``, ``variance_components``, ``vif``, ``caic``: how good a fitted model is."""

from __future__ import annotations

import pandas as pd

from ..inputs.arguments import hinted, instance, probability
from ..results import measures
from ..results.lmm import LMMResults
from ..results.measures import ConditionalAIC, ICCResults, R2Results

_NEEDED = "a result of lmm.fit"


@hinted
def r2(res: LMMResults, level: float = 0.95) -> R2Results:
    """Marginal and conditional R2 of Nakagawa & Schielzeth, and the part of every fixed term.

        marginal = f / (f + r + s)        conditional = (f + r) / (f + r + s)
        f = var(X beta)    r = sum_t mean of diag(Z_t S_t Z_t')    s = residual variance

    with the variance over the rows (n - 1) and ``S_t`` the covariance of a term's coefficients
    (Johnson 2014), as in the R package performance.

    Parameters
    ----------
    res : LMMResults
    level : float
        Coverage of the intervals.

    Returns
    -------
    R2Results
        ``marginal``, ``conditional``; ``table`` with their intervals; ``per_term``, the
        semi-partial R2 of every term j of the fixed effects, ``var(R_j beta_j) / (f + r + s)``
        with R_j the columns of the term less what the others and a constant predict of them: by
        so much the marginal R2 falls when X beta is projected on the other terms. In a linear
        regression that is the fall of R2 without the term; no model is fitted again.

    Raises
    ------
    DataError
        A result without its data; sums with weights, or of an X without a constant column.

    Notes
    -----
    Intervals are those of the delta method, with exact derivatives in all parameters together: the
    uncertainty of beta in f is in them, the rows are taken as given, and they are made on the
    scale of ``asin(sqrt(share))``, those of variances smaller than their error being ``estimate +-
    z std_error`` within 0 and 1. NaN where a variance at zero is used, as in
    :func:`lmm_jax.delta_method`. Semi-partial R2 add up to the marginal one if the terms are
    uncorrelated in the rows; that of a factor whose interaction is in the model depends on the
    contrasts, as tests of type III do. An offset explains nothing here, and prior weights count in
    s alone, the residual variance of a row of weight one. Where residual variances differ between
    rows (a residual covariance such as ``us(visit | id)`` or ``diag(site)``) s is their mean over
    the rows; their correlations explain nothing.

    References
    ----------
    Nakagawa & Schielzeth (2013), doi:10.1111/j.2041-210x.2012.00261.x; Johnson (2014),
    doi:10.1111/2041-210X.12225; Stoffel, Nakagawa & Schielzeth (2021), doi:10.7717/peerj.11414.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> lmm.r2(res).table.round(3).loc["conditional"].to_dict()
    {'estimate': 0.799, 'std_error': 0.044, 'conf_low': 0.708, 'conf_high': 0.877}
    """
    level = probability(level, "level")
    return measures.explained(instance(res, "res", LMMResults, _NEEDED), level)


@hinted
def icc(res: LMMResults, level: float = 0.95) -> ICCResults:
    """Intraclass correlations: the share of the variance that random effects account for.

        adjusted = r / (r + s)        unadjusted = r / (f + r + s)

    with the parts of :func:`lmm_jax.r2`.

    Parameters
    ----------
    res : LMMResults
    level : float
        Coverage of the intervals.

    Returns
    -------
    ICCResults
        ``adjusted``, ``unadjusted``; ``table`` with their intervals; ``by_group``, the adjusted
        one of every grouping factor, ``r_g / (r + s)`` with all of its terms.

    Raises
    ------
    DataError
        A result without its data; sums with weights, or of an X without a constant column.

    Notes
    -----
    Intervals as in :func:`lmm_jax.r2`. Correlations of residuals are no part of it, and a model
    without random effects has none. The R package performance puts the variance of the
    intercept in the place of ``r_g`` (the column ``intercept``); with random slopes these do
    not add up, and may exceed one.

    References
    ----------
    Nakagawa, Johnson & Schielzeth (2017), doi:10.1098/rsif.2017.0213.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("strength ~ 1 + (1 | batch/cask)", lmm.load_dataset("pastes"))
    >>> lmm.icc(res).by_group["estimate"].round(3).to_dict()
    {'cask:batch': 0.783, 'batch': 0.154}
    """
    level = probability(level, "level")
    return measures.correlations(instance(res, "res", LMMResults, _NEEDED), level)


@hinted
def variance_components(res: LMMResults, level: float = 0.95) -> pd.DataFrame:
    """The variance of y by its sources: fixed effects, every random term, residual.

    Parameters
    ----------
    res : LMMResults
    level : float
        Coverage of the intervals of the shares.

    Returns
    -------
    pandas.DataFrame, shape (terms + 2, 8)
        effect, group, term, variance and its std_error, share of the total with conf_low and
        conf_high. The parts are those of :func:`lmm_jax.r2`; a random term with slopes counts
        with its mean variance over the rows.

    Raises
    ------
    DataError
        A result without its data; sums with weights, or of an X without a constant column.

    References
    ----------
    Johnson (2014), doi:10.1111/2041-210X.12225.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> lmm.variance_components(res).set_index("effect")["share"].round(3).to_dict()
    {'fixed': 0.279, 'random': 0.521, 'residual': 0.201}
    """
    level = probability(level, "level")
    return measures.components(instance(res, "res", LMMResults, _NEEDED), level)


@hinted
def vif(res: LMMResults, level: float = 0.95) -> pd.DataFrame:
    """Variance inflation of every term of the fixed effects.

        vif_j = det R_jj det R_rest / det R

    with R the correlation of the estimated coefficients without the intercept: the generalized
    factor of Fox & Monette, by how much the squared volume of the confidence region of a term's
    coefficients is larger than if all other terms were orthogonal to it.

    Parameters
    ----------
    res : LMMResults
    level : float
        Coverage of the limits.

    Returns
    -------
    pandas.DataFrame
        A row a term: df (its columns), vif with conf_low and conf_high, se_factor
        (``sqrt(vif)``), scaled (``vif^(1 / (2 df))``, comparable between terms), tolerance
        (``1 / vif``) with tolerance_low and tolerance_high. Effects that are held fixed are
        left out.

    Raises
    ------
    DataError
        A result without its data; a penalized fit.

    Notes
    -----
    The limits take ``1 - 1 / vif`` for a squared multiple correlation, on the scale of the
    logit; NaN for a vif of one. Without an intercept these factors mean little.

    References
    ----------
    Fox & Monette (1992), doi:10.1080/01621459.1992.10475190; Marcoulides & Raykov (2019),
    doi:10.1177/0013164418817803.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("yld ~ Variety * Nf + (1 | Block/Variety)", lmm.load_dataset("oats"))
    >>> lmm.vif(res)["vif"].round(2).to_dict()
    {'Variety': 3.55, 'Nf': 27.0, 'Variety:Nf': 65.83}
    """
    level = probability(level, "level")
    return measures.inflation_table(instance(res, "res", LMMResults, _NEEDED), level)


@hinted
def caic(res: LMMResults) -> ConditionalAIC:
    """The conditional AIC, for a model that is to predict within the groups of its data.

        caic = -2 log f(y | b) + 2 (df + 1)        df = tr(d fitted / d y)

    with b the BLUPs and fitted ``X beta + Z b``; the one is for the residual variance.

    Parameters
    ----------
    res : LMMResults

    Returns
    -------
    ConditionalAIC
        ``caic``; ``llf``, the conditional log-likelihood; ``df``, the sum of ``trace``, that of
        the hat matrix at given covariances, and ``correction``, what their estimation adds.

    Raises
    ------
    DataError
        A result without its rows; a penalized fit; random effects that connect so many rows and
        levels that their dense matrices do not fit into memory.

    Notes
    -----
    Vaida and Blanchard's ``-2 llf + 2 (trace + 1)`` takes the covariances for known, and prefers
    a random effect whenever its variance is not estimated as zero. Greven and Kneib's df
    follows y into the covariances, in closed form by the implicit function theorem; where the
    boundary holds a variance at zero it stays there. Fits with different fixed effects can be
    compared, also by REML: the likelihood is that of y given b.

    References
    ----------
    Vaida & Blanchard (2005), doi:10.1093/biomet/92.2.351; Greven & Kneib (2010),
    doi:10.1093/biomet/asq042.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> data = lmm.load_dataset("sleepstudy")
    >>> bars = ["(1 | Subject)", "(Days || Subject)", "(Days | Subject)"]
    >>> [round(lmm.caic(lmm.fit(f"Reaction ~ Days + {bar}", data)).caic, 1) for bar in bars]
    [1767.1, 1710.4, 1711.5]
    """
    return measures.conditional_aic(instance(res, "res", LMMResults, _NEEDED))
