"""``fit``: a design in, a result out. Orchestration only."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from .design import Design, design
from .errors import ConvergenceWarning, DataError
from .estimates import estimate
from .newton import CONVERGED, MESSAGES, Solution
from .optimize import minimize
from .results import LMMResults, TermLabel

_minimize = jax.jit(minimize, static_argnames=("reml", "maxiter"))

_DF_METHODS = ("satterthwaite", "normal")


def fit(
    formula: str | Design,
    data: Any = None,
    *,
    groups: Any = None,
    re_formula: str | None = None,
    vc_formula: Mapping[str, str] | None = None,
    weights: Any = None,
    offset: Any = None,
    reml: bool = True,
    missing: str = "drop",
    df_method: str = "satterthwaite",
    maxiter: int = 200,
) -> LMMResults:
    """Fit a linear mixed model ``y = X beta + Z b + e``.

    Parameters
    ----------
    formula : str or Design
        lme4's syntax, ``y ~ x + (1 + x | g)``, a fixed-effects formula together
        with ``groups``, or a design made by :func:`lmm_jax.design`.
    data : pandas.DataFrame, mapping of columns, or a frame that narwhals reads
    groups : str or array of length n, optional
        Grouping factor in statsmodels' spelling; not together with bars.
    re_formula : str, optional
        Columns with correlated random coefficients; an intercept if not given.
    vc_formula : mapping of str to str, optional
        Variance components within the groups, name to formula.
    weights : str or array of length n, optional
        Prior weights: the residual variance of a row is ``sigma^2 / w``.
    offset : str or array of length n, optional
        Known part of the mean.
    reml : bool
        Restricted maximum likelihood or maximum likelihood.
    missing : {"drop", "raise", "none"}
        What to do with rows in which anything the model uses is missing.
    df_method : {"satterthwaite", "normal"}
        Degrees of freedom of the tests of fixed effects; "normal" gives z tests.
    maxiter : int
        Limit on evaluations of value, gradient and Hessian from one start.

    Returns
    -------
    LMMResults

    Raises
    ------
    FormulaError, DataError
        Before any computation, with what to change.

    Warns
    -----
    ConvergenceWarning
        The optimizer stopped at a point that is not a maximum.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> res.fe_params.round(3).to_dict()
    {'Intercept': 251.405, 'Days': 10.467}
    """
    if df_method not in _DF_METHODS:
        raise DataError(f"df_method={df_method!r}: choose one of {', '.join(_DF_METHODS)}")
    if isinstance(formula, Design):
        given = (data, groups, re_formula, vc_formula, weights, offset)
        if any(value is not None for value in given):
            raise DataError("a Design holds the data and the model: pass no data arguments with it")
        model = formula
    else:
        model = design(
            formula, data, groups=groups, re_formula=re_formula, vc_formula=vc_formula,
            weights=weights, offset=offset, missing=missing,
        )  # fmt: skip
    return fit_design(model, reml=reml, df_method=df_method, maxiter=maxiter)


def fit_design(model: Design, *, reml: bool, df_method: str, maxiter: int) -> LMMResults:
    """Optimize, carry the answer back to the data's units, and label it."""
    _check_residual(model)
    with jax.enable_x64(True):
        solution = jax.device_get(_minimize(model.layout, reml=reml, maxiter=maxiter))
    labels = tuple(
        TermLabel(
            group=term.group,
            names=term.names,
            n_levels=term.n_levels,
            is_component=term.is_component,
        )
        for term in model.terms
    )
    converged = int(solution.status) == CONVERGED
    message = MESSAGES[int(solution.status)]
    if not converged:
        _warn(model, solution, labels, message)
    return LMMResults(
        estimates=estimate(solution, model.layout, reml=reml),
        fixed_names=model.exog_names,
        term_labels=labels,
        endog_name=model.endog_name,
        formula=None if model.source is None else model.source.formula,
        nobs=model.nobs,
        reml=reml,
        df_method=df_method,
        converged=converged,
        message=message,
        n_iter=int(solution.n_iter),
        design=model,
    )


def _check_residual(model: Design) -> None:
    """Refuse a response that the fixed effects or the groups explain exactly."""
    y = model.endog
    size = float(np.sqrt(np.sum((y - y.mean()) ** 2)))
    if float(model.layout.y_scale) <= 1e-12 * size:
        raise DataError(
            f"the fixed effects explain {model.endog_name!r} exactly: no variance is left"
        )


def _warn(model: Design, solution: Solution, labels: tuple[TermLabel, ...], message: str) -> None:
    """Name the worst covariance parameter and say what to try."""
    gradient = np.abs(np.nan_to_num(np.asarray(solution.jet.gradient), nan=np.inf))
    worst = int(np.argmax(gradient)) if gradient.size else 0
    owner = np.repeat(np.arange(len(labels)), [k * (k + 1) // 2 for k in model.sizes])[worst]
    warnings.warn(
        f"{message} (largest gradient in the term ({model.terms[owner].label}), Newton decrement "
        f"{float(solution.decrement):.2g}). Try fewer random coefficients in that term, "
        "uncorrelated ones (||), or a larger maxiter",
        ConvergenceWarning,
        stacklevel=4,
    )
