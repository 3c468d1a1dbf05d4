"""``fit``: a design in, a result out. Orchestration only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..capabilities import require
from ..covariance.params import Params
from ..covariance.theta import theta_slices
from ..designs.checks import explained_exactly
from ..designs.design import Design
from ..designs.from_formula import design
from ..designs.from_sums import design_of_sums
from ..designs.row_sums import RowSums
from ..engines.sources import summed_source
from ..errors import ConvergenceWarning, DataError, warn_user
from ..inputs.arguments import choice, flag, hinted
from ..numerics.processes import float64
from ..numerics.tiers import RUNTIMES, running_on
from ..optimize.constrained import free_flags
from ..optimize.flatness import flattest
from ..optimize.history import Recorder
from ..optimize.newton import DECREMENT_TOL, FLAT, MESSAGES, Solution
from ..results.lmm import LMMResults
from .following import settle
from .label import label
from .methods import Begun, Run, Task, begin, run_methods
from .options import (
    Options,
    covariance_masks,
    hold_fixed_effects,
    method_names,
    read_free,
    read_options,
    read_problem,
    read_start,
    with_approximation,
)
from .summarize import summarize

# Share of a bound on the norm of y from which a residual cannot be rounding.
_FAR_FROM_EXACT = 1e-9


@hinted
def fit(
    formula: str | Design | RowSums,
    data: Any = None,
    *,
    groups: Any = None,
    re_formula: str | None = None,
    vc_formula: Mapping[str, str] | None = None,
    weights: Any = None,
    offset: Any = None,
    reml: bool = True,
    start_params: Any = None,
    free: Params | None = None,
    fe_pen: Callable[[Any], Any] | None = None,
    cov_pen: Callable[[Any], Any] | None = None,
    method: str | Sequence[str] = "newton",
    maxiter: int = 200,
    gtol: float = DECREMENT_TOL,
    full_output: bool = False,
    missing: str = "drop",
    subset: Any = None,
    df_method: str = "satterthwaite",
    context: Mapping[str, Any] | None = None,
    relatedness: Mapping[str, Any] | None = None,
    runtime: str = "auto",
    residual: str | None = None,
    approximate: bool | None = None,
    sigma: float | None = None,
) -> LMMResults:
    """Fit a linear mixed model ``y = X beta + Z b + e``.

    Parameters
    ----------
    formula : str, Design or RowSums
        lme4's syntax, ``y ~ x + (1 + x | g)``, a fixed-effects formula together
        with ``groups``; a design made by :func:`lmm_jax.design`; or the sums over all rows,
        which :func:`lmm_jax.summarize` made of parts of them.
    data : data frame, mapping of columns, or path of a file
        A frame of pandas, polars, pyarrow or another kind that narwhals reads, lazy frames and
        relations of DuckDB included; or a Parquet, Feather or CSV file. Of all but pandas' no
        more is read than the columns in use. Of Parquet files by a pattern, datasets of pyarrow,
        frames of Dask and Spark and datasets of Ray sums are taken, as :func:`lmm_jax.summarize`
        does: the result has no residuals.
    groups : str or array of length n, optional
        Grouping factor in statsmodels' spelling; not together with bars.
    re_formula : str, optional
        Columns with correlated random coefficients. Not given: an intercept, or
        none if there is a ``vc_formula``.
    vc_formula : mapping of str to str, optional
        Variance components within the groups, name to formula.
    weights : str or array of length n, optional
        Prior weights: the residual variance of a row is ``sigma^2 / w``.
    offset : str or array of length n, optional
        Known part of the mean.
    reml : bool
        Restricted maximum likelihood or maximum likelihood.
    start_params : Params, array or result, optional
        Start values, covariances relative to the residual variance; packed with
        or without the fixed effects; or the fit that has them. Without them the data
        suggest several starts.
    free : Params, optional
        Ones and zeros: a zero holds its parameter at the start value (fixed
        effects at 0, ``cov_re`` at the identity and components at 1 if
        ``start_params`` does not say otherwise).
    fe_pen, cov_pen : callable, optional
        Penalties subtracted from the log-likelihood: functions of the fixed
        effects and of ``cov_re`` relative to the residual variance. With
        ``fe_pen`` the fixed effects and the covariance are estimated jointly.
        Functions that compute the same share a compiled program.
        Ready ones: :mod:`lmm_jax.penalties`.
    method : {"newton", "lbfgs", "bfgs"} or a sequence of them
        Optimizer, or several to try in turn. First-order methods are finished by
        a few Newton steps.
    maxiter : int
        Limit on the steps of a run; 0 gives the model at its start values.
    gtol : float
        Newton decrement, in units of the deviance, at which a run ends.
    full_output : bool
        Keep the steps of this fit in ``results.hist``, in the order of its runs: from
        every start, from the interior after an end on the boundary, and the Newton steps
        that finish a first-order method.
    missing : {"drop", "raise", "none"}
        What to do with rows in which anything the model uses is missing.
    subset : array of bool, array of labels, or str, optional
        Rows to use: a mask (a series is read by its labels), index labels, or an
        expression of columns for ``DataFrame.query`` (without ``@`` variables).
    df_method : str
        Degrees of freedom of the tests of fixed effects: "satterthwaite" (lmerTest's),
        "kenward-roger" or "kr" (with an adjusted covariance, REML only: pbkrtest's, and beside a
        residual covariance SAS's, of the observed information with second derivatives of that
        covariance), "kenward-roger-linear" (the observed information alone, SAS's
        ``kr(linear)``), "kenward-roger-expected" (pbkrtest's in any case), "between-within"
        (SAS's, for factors that nest), "residual" (rows less fixed effects), "normal" or "z" (z
        tests). Every method of the result that tests takes it too.
    context : mapping, optional
        Functions and variables for the formula; by default the functions that
        the caller can see.
    relatedness : mapping, optional
        Grouping factor to the relationship matrix of its levels, such as a pedigree's
        (:func:`lmm_jax.relationship`) or a genomic one: a DataFrame with the ids for its index
        and columns, or a tuple of a matrix (dense or sparse) and the ids. The effects of a level
        then have the covariance ``A (x) Psi``; ids without rows are predicted too.
    residual : str, optional
        Covariance of the residuals, ``"ar1(visit | id)"``, where it is not in the formula.
    runtime : {"auto", "numpy", "jax"}
        What computes the fit: NumPy, at once, or programs that JAX compiles first. By default
        NumPy where it is done, by estimate, before a compilation would be, and compiled
        programs where they exist already, for large data, and for a shape on which NumPy has
        spent as much time as compiling it takes. The numbers agree to rounding;
        ``results.runtime`` is "jax" if anything was compiled for the fit. Penalized fits are
        JAX's in any case.
    approximate : bool, optional
        Whether crossed factors are fitted approximately: random effects by conjugate gradients,
        the log-determinant by fixed probes. By default only where an exact fit would need more
        memory than there is, or hours. The result says so: ``results.approximation`` has the Monte
        Carlo standard errors of the log-likelihood and of theta.
    sigma : float, optional
        Residual standard deviation where it is known: with ``weights=1 / v`` and ``sigma=1`` the
        rows are estimates with sampling variances v. By default it is estimated.

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
    options = read_options(reml, maxiter, gtol, df_method)
    methods, full_output = method_names(method), flag(full_output, "full_output")
    runtime = choice(runtime, "runtime", RUNTIMES)
    model = _model_of(
        formula, data, groups=groups, re_formula=re_formula, vc_formula=vc_formula,
        weights=weights, offset=offset, subset=subset, relatedness=relatedness,
        missing=missing, context=context, residual=residual, sigma=sigma,
    )  # fmt: skip
    fitted = partial(
        _fitted, approximate=approximate, start_params=start_params, free=free, fe_pen=fe_pen,
        cov_pen=cov_pen, methods=methods, full_output=full_output, runtime=runtime, options=options,
    )  # fmt: skip
    return settle(model, fitted) if model._is_kind("means") else fitted(model)


def _fitted(
    model: Design,
    theta: np.ndarray | None = None,
    *,
    approximate: bool | None,
    start_params: Any,
    free: Params | None,
    fe_pen: Callable[[Any], Any] | None,
    cov_pen: Callable[[Any], Any] | None,
    methods: tuple[str, ...],
    full_output: bool,
    runtime: str,
    options: Options,
) -> LMMResults:
    """The fit of a design with the arguments of :func:`fit`; theta is where it may begin."""
    model = with_approximation(model, approximate)
    if runtime == "jax" or methods[0] != "newton":
        require(model, "a fit by runtime='jax' or first-order methods")
    free = read_free(free, model)
    start = read_start(start_params, model)
    with float64(), running_on(runtime) as log:
        model = hold_fixed_effects(model, free, start)
        task = Task(
            design=model,
            problem=read_problem(model, free, start, fe_pen, cov_pen),
            start=start,
            reml=options.reml,
            maxiter=options.maxiter,
            gtol=options.gtol,
            watch=Recorder() if full_output else None,
            theta=theta,
        )
        run = _run(task, methods)
    result = label(run, model, options, log.runtime)
    flags = _free_parameters(model, free)
    if not flags.all():
        result = replace(result, free=flags)
    if fe_pen is not None or cov_pen is not None:
        result = replace(result, penalized=True)
    return _looked_at(model, result, run, options)


def fit_begun(model: Design, begun: Solution | None, options: Options, runtime: str) -> LMMResults:
    """The fit of a design, of which the optimum may be known."""
    with float64(), running_on(runtime) as log:
        task = Task(
            design=model,
            reml=options.reml,
            maxiter=options.maxiter,
            gtol=options.gtol,
            begun=None if begun is None else Begun(begun),
        )
        run = _run(task, ("newton",))
    result = label(run, model, options, log.runtime)
    return _looked_at(model, result, run, options)


def _run(task: Task, methods: tuple[str, ...]) -> Run:
    task = begin(task, methods)
    if task.design.sigma is None:
        _check_residual(task.design)
    return run_methods(task, methods)


def _looked_at(model: Design, result: LMMResults, run: Run, options: Options) -> LMMResults:
    result.tests  # noqa: B018  refuses a method that this fit has not
    if not result.converged and options.maxiter > 0:
        _warn(model, run, result.message)
    if model.residual is not None:
        model.residual.warn_at_zero(result.residual_params)
    return result


def _model_of(
    formula: str | Design | RowSums,
    data: Any,
    *,
    missing: str,
    context: Mapping[str, Any] | None,
    **columns: Any,
) -> Design:
    """The design itself, or the one that a formula makes of the data."""
    if isinstance(formula, RowSums):
        if any(value is not None for value in (data, context, *columns.values())):
            raise DataError(
                "the sums hold the data and the model: pass no data arguments with them"
            )
        return design_of_sums(formula)
    if isinstance(data, RowSums):
        raise DataError("the sums know their model: lmm.fit(sums), without a formula")
    if not isinstance(formula, Design):
        if isinstance(formula, str) and summed_source(data) is not None:
            return design_of_sums(_sums(formula, data, missing, context, **columns))
        return design(formula, data, missing=missing, context=context, **columns)
    if any(value is not None for value in (data, *columns.values())):
        raise DataError("a Design holds the data and the model: pass no data arguments with it")
    return formula


def _sums(
    formula: str,
    data: Any,
    missing: str,
    context: Mapping[str, Any] | None,
    *,
    weights: Any,
    offset: Any,
    **of_rows: Any,
) -> RowSums:
    """Sums over rows that an engine holds."""
    given = [name for name, value in of_rows.items() if value is not None]
    if given:
        raise DataError(
            f"{', '.join(given)} beside a {type(data).__name__}, of which sums are taken where its "
            "rows are: write the model with bars, select the rows first, or pass a frame in memory"
        )
    return summarize(
        formula, data, weights=weights, offset=offset, missing=missing, context=context
    )


def _free_parameters(model: Design, free: Params | None) -> np.ndarray:
    """Flags in the order of ``results.params``."""
    p = model.exog.shape[1]
    fixed = np.ones(p, dtype=bool) if model.held is None else np.isnan(model.held)
    masks = covariance_masks(model, free)
    n_cov = sum(k * (k + 1) // 2 for k in model.sizes)
    covariances = np.ones(n_cov, dtype=bool) if masks is None else free_flags(masks)
    return np.concatenate([fixed, covariances])


def _check_residual(model: Design) -> None:
    """Refuse a response that the fixed effects or the groups explain exactly."""
    layout = model.compressed.layout
    p = layout.beta_origin.size
    ranks, rss = model.reach
    left = total = float(layout.y_scale)
    if model.nobs - ranks - p > 0:
        left = total * np.sqrt(rss)
    if left > _FAR_FROM_EXACT * model.response_bound():
        return
    floor = explained_exactly(*model.response_size())
    if total <= floor:
        raise DataError(
            f"the fixed effects explain {model.endog_name!r} exactly: no variance is left"
        )
    if left <= floor:
        raise DataError(
            f"fixed effects and groups explain {model.endog_name!r} exactly: the residual "
            "variance is zero"
        )


def _warn(model: Design, run: Run, message: str) -> None:
    """Name the term that is to blame and say what to try."""
    jet, structures = run.solution.jet, model.compressed.layout.structures
    flat = message == MESSAGES[FLAT]
    if flat:
        kind = "flattest"
        entries = flattest(np.asarray(run.solution.theta), np.asarray(jet.hessian))
    else:
        kind = "largest gradient"
        entries = np.nan_to_num(np.asarray(jet.gradient), nan=np.inf)
    owner = int(np.argmax([np.linalg.norm(entries[at]) for at in theta_slices(structures)]))
    if owner < len(model.terms):
        where = f"the term {model.terms[owner].text}"
        advice = "fewer random coefficients in that term, uncorrelated ones (||)"
        term = model.terms[owner]
        if flat and model.has_rows and len(term.names) > 1 and not term.varies:
            where += f", of which no column varies within a level of {term.group}"
            advice = (
                f"(1 | {term.group}), or `diag(0 + f | {term.group})` for variances by a factor"
            )
    else:
        assert model.residual is not None
        where = f"the residual covariance {model.residual.text}"
        advice = "a residual covariance of fewer parameters, no random effects beside it"
    warn_user(
        f"{message} ({kind} in {where}, Newton decrement "
        f"{float(run.solution.decrement):.2g}). Try {advice}{', or a larger maxiter' * (not flat)}",
        ConvergenceWarning,
    )
