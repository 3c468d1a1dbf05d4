"""L1-penalized fixed effects at the covariance of the unpenalized fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..capabilities import require
from ..designs.design import Design
from ..errors import ConvergenceWarning, DataError, warn_user
from ..inference.penalized import penalized_estimates, quadratic_form
from ..inputs.arguments import hinted, iterations, number, numbers, shown
from ..inputs.by_label import in_order
from ..numerics.tiers import running_on
from ..optimize.lasso import Descent, descend_removing
from ..results.lmm import LMMResults
from ..results.regularized import RegularizedPath, RegularizedResults, regularized
from .fit import fit


@hinted
def fit_regularized(
    formula: str | Design,
    data: Any = None,
    *,
    method: str | Callable[[Any], Any] = "l1",
    alpha: Any = 0.0,
    ceps: float = 0.0,
    ptol: float = 1e-9,
    maxit: int = 200,
    start_params: Any = None,
    reml: bool = True,
    groups: Any = None,
    re_formula: str | None = None,
    vc_formula: Mapping[str, str] | None = None,
    weights: Any = None,
    offset: Any = None,
    missing: str = "drop",
    subset: Any = None,
    df_method: str = "satterthwaite",
    context: Mapping[str, Any] | None = None,
    relatedness: Mapping[str, Any] | None = None,
    residual: str | None = None,
    runtime: str = "auto",
    approximate: bool | None = None,
    sigma: float | None = None,
) -> RegularizedResults | RegularizedPath | LMMResults:
    """Fit with penalized fixed effects, the covariance held at its unpenalized estimate.

    Minimizes ``-2 log L + sum_j alpha_j |beta_j|`` over the fixed effects.

    Parameters
    ----------
    formula : str or Design
        As in :func:`lmm_jax.fit`, which also explains the parameters not listed here.
    data : data frame, mapping of columns, or path of a file
        A frame of pandas, polars, pyarrow or another kind that narwhals reads, lazy frames and
        relations of DuckDB included; or a Parquet, Feather or CSV file. Of all but pandas' no
        more is read than the columns in use.
    method : "l1" or callable
        A penalty, such as those of :mod:`lmm_jax.penalties`, goes to
        :func:`lmm_jax.fit` as its ``fe_pen``: fixed effects and covariance are
        then estimated jointly.
    alpha : float or array, shape (p,), (K, 1) or (K, p)
        Weights, in units of the deviance over the coefficient's; 0 does not
        penalize. A number weighs every coefficient, the intercept included; a
        vector has one entry a coefficient; the rows of a matrix are a path of
        K penalties (``np.outer(factors, weights)``, ``np.c_[factors]``). Those with labels, of a
        series or of the columns of a frame, go by the names of the coefficients.
    ceps : float
        Penalized coefficients of smaller magnitude are removed and the others
        solved for again. With 0 the solution is exact and independent of units.
    ptol : float
        Relative violation of the optimality conditions, coefficients measured in
        standard deviations, at which the iteration ends.
    maxit : int
        Limit on sweeps over the coefficients.
    start_params : Params or array, optional
        Start values of the unpenalized fit.
    reml : bool
        How the unpenalized fit estimates the covariance.
    groups, re_formula, vc_formula, weights, offset, missing, subset
        As in :func:`lmm_jax.fit`.
    df_method, context, relatedness, residual, runtime, approximate, sigma
        As in :func:`lmm_jax.fit`.

    Returns
    -------
    RegularizedResults
        For a matrix ``alpha`` a :class:`RegularizedPath`, for a callable
        ``method`` an :class:`LMMResults`.

    Raises
    ------
    DataError
        As :func:`lmm_jax.fit`; weights that are negative, or of another length; held fixed effects.

    Warns
    -----
    ConvergenceWarning
        ``maxit`` was reached first.

    Notes
    -----
    Sweeps of coordinate descent find which coefficients are zero and the signs of
    the others; given these the solution is that of a linear system. The
    covariance, the residual variance among it, is that of the unpenalized fit;
    statsmodels estimates the residual variance again.

    References
    ----------
    Friedman, Hastie & Tibshirani (2010), doi:10.18637/jss.v033.i01.
    Lee, Battle, Raina & Ng (2007), Efficient sparse coding algorithms, NIPS 19.

    Examples
    --------
    >>> import numpy as np
    >>> import lmm_jax as lmm
    >>> sleep = lmm.load_dataset("sleepstudy")
    >>> res = fit_regularized("Reaction ~ Days + (Days | Subject)", sleep, alpha=[0.0, 2.0])
    >>> res.fe_params.round(2).to_dict()
    {'Intercept': 252.86, 'Days': 8.08}
    >>> path = fit_regularized(
    ...     "Reaction ~ Days + (Days | Subject)", sleep, alpha=np.outer([10.0, 1.0], [0, 1])
    ... )
    >>> path.fe_params["Days"].round(2).tolist()
    [0.0, 9.27]
    """
    ceps, ptol = number(ceps, "ceps", least=0.0), number(ptol, "ptol", above=0.0)
    maxit = iterations(maxit, "maxit", least=1)
    model = {
        "groups": groups, "re_formula": re_formula, "vc_formula": vc_formula, "weights": weights,
        "offset": offset, "missing": missing, "subset": subset, "reml": reml,
        "start_params": start_params, "df_method": df_method, "context": context,
        "relatedness": relatedness, "residual": residual, "runtime": runtime,
        "approximate": approximate, "sigma": sigma,
    }  # fmt: skip
    if callable(method):
        if numbers(alpha, "alpha").any():
            raise DataError("alpha is for method='l1': a penalty object holds its own weights")
        return fit(formula, data, fe_pen=method, **model)
    if not isinstance(method, str) or method.lower() != "l1":
        raise DataError(f"method={shown(method)}: 'l1', or a penalty as those of lmm.penalties")
    if isinstance(formula, Design):
        require(formula, "fit_regularized")
    unpenalized = fit(formula, data, **model)
    require(unpenalized.design, "fit_regularized")
    alpha = in_order(alpha, unpenalized.fixed_names, "alpha", whole=True)
    rows = _penalty_rows(alpha, unpenalized.fixed_names)
    with running_on(runtime):
        path = _solve_rows(unpenalized, rows, ceps=ceps, ptol=ptol, maxit=maxit)
    if not all(result.kkt <= ptol for result in path):
        worst = max(result.kkt for result in path)
        warn_user(
            f"{maxit} sweeps leave a relative violation {worst:.2g} of the optimality conditions: "
            "raise maxit, or ptol if the fixed effects are nearly collinear",
            ConvergenceWarning,
        )
    return path if np.ndim(alpha) == 2 else path[0]


def _penalty_rows(alpha: Any, names: tuple[str, ...]) -> np.ndarray:
    """Weights of the penalty, one row a fit, (K, p)."""
    p = len(names)
    values = numbers(alpha, "alpha")
    rows = values if values.ndim == 2 else np.atleast_2d(values)
    fits = {0: (1,), 1: (p,), 2: (1, p)}.get(values.ndim, ())
    if rows.shape[-1] not in fits or rows.size == 0:
        raise DataError(
            f"alpha has the shape {values.shape}: pass a number, {p} weights "
            f"({', '.join(names)}), or a matrix with a row for each fit of a path"
        )
    if (rows < 0).any():
        raise DataError("alpha must not be negative")
    return np.array(np.broadcast_to(rows, (len(rows), p)))


def _solve_rows(
    unpenalized: LMMResults, rows: np.ndarray, *, ceps: float, ptol: float, maxit: int
) -> RegularizedPath:
    """A fit for every row of weights, each started from the one with the next larger weights."""
    design = unpenalized.design
    assert design is not None  # fresh from fit
    layout, p = design.compressed.layout, rows.shape[1]
    quadratic = quadratic_form(unpenalized.estimates, layout)
    inward = np.linalg.inv(np.asarray(layout.beta_map)) / unpenalized.estimates.y_scale
    at = Descent(np.zeros(p), np.sign(quadratic.centre), np.inf, 0)
    out: dict[int, RegularizedResults] = {}
    for k in np.argsort(-rows.sum(axis=1), kind="stable"):
        at = descend_removing(quadratic, rows[k], at, ceps=ceps, tol=ptol, maxit=maxit)
        own = penalized_estimates(unpenalized.estimates, quadratic, at, inward)
        out[int(k)] = regularized(unpenalized, own, rows[k], at, ptol)
    return RegularizedPath(results=tuple(out[k] for k in range(len(rows))))
