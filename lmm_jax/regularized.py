"""L1-penalized fixed effects at a known covariance, by coordinate descent on the gram matrix.

With V the covariance of y that the unpenalized fit has estimated, minimize

    (y - X beta)' V^-1 (y - X beta) + sum_j alpha_j |beta_j|

The first part is ``(beta - b)' H (beta - b)`` and a constant, with ``H = X' V^-1 X`` and b the
GLS estimate: after one look at the layout nothing depends on the number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from scipy.linalg import solve_triangular

from .covariance import factor_blocks
from .design import Design
from .errors import ConvergenceWarning, DataError, warn_user
from .estimates import Estimates
from .fit import fit
from .layouts.waist import Layout
from .results import LMMResults
from .summary import Summary

# Sweeps between two direct solutions while signs still change.
_PATIENCE = 3


class Quadratic(NamedTuple):
    """The generalized sum of squares around the GLS estimate, in units of the deviance.

    Coefficients are measured in their conditional standard deviations ``1 / sqrt(H_jj)``:
    ``v = unit * (beta - b)`` and ``(beta - b)' H (beta - b) = |A v|^2``.
    """

    A: np.ndarray  # (p, p)  columns of length one
    R: np.ndarray  # (p, p)  A'A
    centre: np.ndarray  # (p,)  b in these units
    unit: np.ndarray  # (p,)  sqrt(H_jj)


class Descent(NamedTuple):
    """A point of the penalized problem."""

    v: np.ndarray  # (p,)
    sign: np.ndarray  # (p,)  of the coefficient; 0: it is exactly zero
    kkt: float  # largest relative violation of the optimality conditions
    n_iter: int


@dataclass(frozen=True, kw_only=True, eq=False)
class RegularizedResults:
    """A linear mixed model with L1-penalized fixed effects.

    Covariances and residual variance are those of the unpenalized fit.
    """

    unpenalized: LMMResults
    estimates: Estimates  # the penalized coefficients in the place of the others
    alpha: np.ndarray  # (p,)  weights of the penalty
    kkt: float  # largest relative violation of the optimality conditions
    converged: bool
    n_iter: int  # sweeps

    @cached_property
    def _model(self) -> LMMResults:
        """The model at the penalized coefficients; zeros do not count as parameters."""
        n_cov = len(self.unpenalized.params) - self.estimates.beta.size
        return replace(
            self.unpenalized,
            estimates=self.estimates,
            df_method="normal",
            converged=self.converged and self.unpenalized.converged,
            free=np.concatenate([self.estimates.beta != 0, np.ones(n_cov, dtype=bool)]),
            hist=None,
        )

    @property
    def fe_params(self) -> pd.Series[float]:
        """Fixed effects, exact zeros among them."""
        return self._model.fe_params

    @property
    def params(self) -> pd.Series[float]:
        """Fixed effects, then covariances of every term, as in an unpenalized fit."""
        return self._model.params

    @property
    def nonzero(self) -> pd.Series[bool]:
        """Which fixed effects are not zero."""
        return self.fe_params != 0

    @property
    def cov_re(self) -> pd.DataFrame:
        """Covariance of the correlated terms, from the unpenalized fit."""
        return self._model.cov_re

    @property
    def vcomp(self) -> pd.Series[float]:
        """Variances of the components, from the unpenalized fit."""
        return self._model.vcomp

    @property
    def scale(self) -> float:
        """Residual variance, from the unpenalized fit."""
        return self._model.scale

    @property
    def llf(self) -> float:
        """Log-likelihood at the solution, without the penalty."""
        return self._model.llf

    @property
    def objective(self) -> float:
        """What is minimized: ``-2 llf + sum_j alpha_j |beta_j|``."""
        return self.estimates.deviance + float(self.alpha @ np.abs(self.estimates.beta))

    @property
    def bse_fe(self) -> pd.Series[float]:
        """Standard errors of the coefficients that are not zero, as if these alone were fitted.

        NaN for the others. Neither the shrinkage nor the selection is accounted for.
        """
        return self._model.bse_fe

    def cov_params(self) -> pd.DataFrame:
        """Covariance of ``params``; NaN in the rows and columns of zero coefficients."""
        out = self._model.cov_params()
        zero = list(self.fe_params.index[~self.nonzero])
        out.loc[zero, :] = np.nan
        out.loc[:, zero] = np.nan
        return out

    @property
    def random_effects(self) -> dict[str, pd.DataFrame]:
        """Conditional means of the random effects at the penalized coefficients."""
        return self._model.random_effects

    @property
    def random_effects_cov(self) -> Mapping[str, dict[Any, pd.DataFrame]]:
        """Conditional covariance of the random effects of every level."""
        return self._model.random_effects_cov

    @property
    def fittedvalues(self) -> pd.Series[float]:
        """``X beta + Z b + offset`` with the BLUPs."""
        return self._model.fittedvalues

    @property
    def resid(self) -> pd.Series[float]:
        """``y`` less fitted values."""
        return self._model.resid

    def predict(self, newdata: Any = None, **options: Any) -> pd.Series[float]:
        """Predicted means; options as in :meth:`LMMResults.predict`."""
        return self._model.predict(newdata, **options)

    def summary(self, **options: Any) -> Summary:
        """Tables of the fit; options as in :meth:`LMMResults.summary`."""
        kind = "REML" if self._model.reml else "ML"
        title = f"Linear mixed model, L1-penalized fixed effects, covariance by {kind}"
        return self._model.summary(**{"title": title, **options})

    def __repr__(self) -> str:
        n, p = int(self.nonzero.sum()), self.alpha.size
        return f"<RegularizedResults: {n} of {p} fixed effects, llf {self.llf:.4f}>"


@dataclass(frozen=True, kw_only=True, eq=False)
class RegularizedPath:
    """Penalized fits along a sequence of penalties, in the order in which these were given."""

    results: tuple[RegularizedResults, ...]

    @property
    def alpha(self) -> np.ndarray:
        """Weights of the penalty, (K, p)."""
        return np.stack([result.alpha for result in self.results])

    @property
    def fe_params(self) -> pd.DataFrame:
        """Coefficients: a row a penalty, a column a fixed effect."""
        return pd.DataFrame([result.fe_params for result in self.results]).reset_index(drop=True)

    @property
    def llf(self) -> np.ndarray:
        """Log-likelihoods without the penalty, (K,)."""
        return np.array([result.llf for result in self.results])

    @property
    def converged(self) -> bool:
        """Whether all of them did."""
        return all(result.converged for result in self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, k: int) -> RegularizedResults:
        return self.results[k]

    def __iter__(self) -> Iterator[RegularizedResults]:
        return iter(self.results)


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
) -> RegularizedResults | RegularizedPath | LMMResults:
    """Fit with penalized fixed effects, the covariance held at its unpenalized estimate.

    Minimizes ``-2 log L + sum_j alpha_j |beta_j|`` over the fixed effects.

    Parameters
    ----------
    formula : str or Design
        As in :func:`lmm_jax.fit`, which also explains the parameters not listed here.
    data : pandas.DataFrame, mapping of columns, or a frame that narwhals reads
    method : "l1" or callable
        A penalty, such as those of :mod:`lmm_jax.penalties`, goes to
        :func:`lmm_jax.fit` as its ``fe_pen``: fixed effects and covariance are
        then estimated jointly.
    alpha : float or array, shape (p,), (K, 1) or (K, p)
        Weights, in units of the deviance over the coefficient's; 0 does not
        penalize. A number weighs every coefficient, the intercept included; a
        vector has one entry a coefficient; the rows of a matrix are a path of
        K penalties (``np.outer(factors, weights)``, ``np.c_[factors]``).
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

    Returns
    -------
    RegularizedResults
        For a matrix ``alpha`` a :class:`RegularizedPath`, for a callable
        ``method`` an :class:`LMMResults`.

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
    if not (ceps >= 0 and ptol > 0 and maxit >= 1):
        raise DataError(
            f"ceps={ceps!r}, ptol={ptol!r}, maxit={maxit!r}: "
            "ceps must not be negative, ptol positive and maxit at least 1"
        )
    model = {
        "groups": groups, "re_formula": re_formula, "vc_formula": vc_formula, "weights": weights,
        "offset": offset, "missing": missing, "subset": subset, "reml": reml,
        "start_params": start_params,
    }  # fmt: skip
    if callable(method):
        if np.any(np.asarray(alpha) != 0):
            raise DataError("alpha is for method='l1': a penalty object holds its own weights")
        return fit(formula, data, fe_pen=method, **model)
    if not isinstance(method, str) or method.lower() != "l1":
        raise DataError(f"method={method!r}: 'l1', or a penalty such as those of lmm.penalties")
    unpenalized = fit(formula, data, **model)
    rows = _penalty_rows(alpha, unpenalized.fixed_names)
    results = _solve_rows(unpenalized, rows, ceps=ceps, ptol=ptol, maxit=maxit)
    if not all(result.converged for result in results):
        worst = max(result.kkt for result in results)
        warn_user(
            f"{maxit} sweeps leave a relative violation {worst:.2g} of the optimality conditions: "
            "raise maxit, or ptol if the fixed effects are nearly collinear",
            ConvergenceWarning,
        )
    return RegularizedPath(results=tuple(results)) if np.ndim(alpha) == 2 else results[0]


def _penalty_rows(alpha: Any, names: tuple[str, ...]) -> np.ndarray:
    """Weights of the penalty, one row a fit, (K, p)."""
    p = len(names)
    try:
        values = np.asarray(alpha, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"alpha must be numeric: {error}") from error
    rows = values.reshape(-1, values.shape[-1]) if values.ndim in (1, 2) else values.reshape(-1, 1)
    fits = {0: (1,), 1: (p,), 2: (1, p)}.get(values.ndim, ())
    if rows.shape[1] not in fits or len(rows) == 0:
        raise DataError(
            f"alpha has the shape {values.shape}: pass a number, {p} weights "
            f"({', '.join(names)}), or a matrix with a row for each fit of a path"
        )
    if not (np.isfinite(rows).all() and (rows >= 0).all()):
        raise DataError("alpha must be finite and not negative")
    return np.array(np.broadcast_to(rows, (len(rows), p)))


def _solve_rows(
    unpenalized: LMMResults, rows: np.ndarray, *, ceps: float, ptol: float, maxit: int
) -> list[RegularizedResults]:
    """A fit for every row of weights, each started from the one with the next larger weights."""
    design = unpenalized.design
    assert design is not None  # fresh from fit
    quadratic = quadratic_form(unpenalized.estimates, design.layout)
    p = rows.shape[1]
    inward = np.linalg.inv(np.asarray(design.layout.beta_map)) / unpenalized.estimates.y_scale
    at = Descent(np.zeros(p), np.sign(quadratic.centre), np.inf, 0)
    out: dict[int, RegularizedResults] = {}
    for k in np.argsort(-rows.sum(axis=1), kind="stable"):
        at = _solve(quadratic, rows[k], at, ceps=ceps, tol=ptol, maxit=maxit)
        out[int(k)] = RegularizedResults(
            unpenalized=unpenalized,
            estimates=_penalized_estimates(unpenalized.estimates, quadratic, at, inward),
            alpha=rows[k],
            kkt=at.kkt,
            converged=at.kkt <= ptol,
            n_iter=at.n_iter,
        )
    return [out[k] for k in range(len(rows))]


def _solve(
    quadratic: Quadratic, alpha: np.ndarray, start: Descent, *, ceps: float, tol: float, maxit: int
) -> Descent:
    """Descend, then remove coefficients below ``ceps`` until there are none."""
    half = 0.5 * alpha / quadratic.unit
    kept = np.ones(alpha.size, dtype=bool)
    at = descend(quadratic, half, start, kept, tol=tol, maxit=maxit)
    while ceps > 0:
        size = np.abs(quadratic.centre + at.v) / quadratic.unit
        small = kept & (alpha > 0) & (at.sign != 0) & (size < ceps)
        if not small.any():
            break
        kept = kept & ~small
        at = descend(quadratic, half, at, kept, tol=tol, maxit=maxit)
    return at


@jax.jit
def _gram(theta: jax.Array, layout: Layout) -> jax.Array:
    """``[X y]' V^-1 [X y]`` in the layout's coordinates."""
    factors = factor_blocks(theta, layout.sizes)
    return layout.waist(tuple(L @ L.T for L in factors)).gram


def quadratic_form(estimates: Estimates, layout: Layout) -> Quadratic:
    """The sum of squares as a function of the fixed effects of the data."""
    p = estimates.beta.size
    with jax.enable_x64(True):
        gram = np.asarray(_gram(estimates.theta_layout, layout))[:p, :p]
        beta_map = np.asarray(layout.beta_map)
    # H = beta_map^-T gram beta_map^-1 / sigma^2, kept as a root: half the digits of H suffice
    root = np.linalg.solve(beta_map.T, np.linalg.cholesky(gram)).T
    length = np.sqrt(np.sum(root**2, axis=0))
    A = root / length
    unit = length / np.sqrt(estimates.scale)
    return Quadratic(A=A, R=A.T @ A, centre=unit * estimates.beta, unit=unit)


def descend(
    quadratic: Quadratic,
    half: np.ndarray,
    start: Descent,
    kept: np.ndarray,
    *,
    tol: float,
    maxit: int,
) -> Descent:
    """Minimize ``|A v|^2 + 2 sum_j half_j |centre_j + v_j|``.

    Parameters
    ----------
    quadratic : Quadratic
    half : ndarray, shape (p,)
        Half the weights; 0 for a coefficient that is not penalized.
    start : Descent
    kept : ndarray of bool, shape (p,)
        Coefficients that are not held at zero.
    tol : float
        Relative violation of the optimality conditions at which to stop.
    maxit : int
        Limit on sweeps.

    Returns
    -------
    Descent

    Notes
    -----
    Every step lowers the objective. Once a sweep leaves the signs as they are,
    the linear system of the coefficients with these signs is solved; one that would
    pass zero on the way stays there.
    """
    v = np.where(kept, start.v, -quadratic.centre)
    sign = np.where(kept, start.sign, 0.0)
    kkt, n_iter = np.inf, 0
    while kkt > tol and n_iter < maxit:
        before = sign
        v, sign = _sweep(quadratic, half, v, kept)
        n_iter += 1
        if np.array_equal(sign, before) or n_iter % _PATIENCE == 0:
            v, sign = _solve_signs(quadratic, half, v, sign, kept)
            kkt = _violation(quadratic, half, v, sign, kept)
    return Descent(v=v, sign=sign, kkt=kkt, n_iter=n_iter)


def _sweep(
    quadratic: Quadratic, half: np.ndarray, v: np.ndarray, kept: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Minimize over one coefficient after the other: soft thresholding."""
    R, centre = quadratic.R, quadratic.centre
    v, sign = v.copy(), np.zeros(v.size)
    slope = R @ v  # half the gradient of the sum of squares
    for j in np.flatnonzero(kept):
        rest = slope[j] - v[j]
        target = centre[j] - rest
        if abs(target) <= half[j] and half[j] > 0:
            new = -centre[j]
        else:
            sign[j] = 1.0 if target > 0 else -1.0
            new = -rest - half[j] * sign[j]
        if new != v[j]:
            slope += (new - v[j]) * R[j]
            v[j] = new
    return v, sign


def _solve_signs(
    quadratic: Quadratic,
    half: np.ndarray,
    v: np.ndarray,
    sign: np.ndarray,
    kept: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Minimize over the coefficients that are not zero, leaving at zero what would pass it."""
    while True:
        on = kept & ((sign != 0) | (half == 0))
        target = _stationary(quadratic, half * sign, v, on)
        old, new = quadratic.centre + v, quadratic.centre + target
        passes = on & (half > 0) & (new * sign <= 0)
        if not passes.any():
            return target, sign
        fraction = np.full(v.size, np.inf)
        travel = np.where(old == new, 1.0, old - new)
        fraction[passes] = np.clip(old[passes] / travel[passes], 0.0, 1.0)
        first = fraction == fraction.min()
        v = np.where(first, -quadratic.centre, v + fraction.min() * (target - v))
        sign = np.where(first, 0.0, sign)


def _stationary(
    quadratic: Quadratic, pull: np.ndarray, v: np.ndarray, on: np.ndarray
) -> np.ndarray:
    """Minimizer of ``|A v|^2 + 2 pull' v`` over some entries, the others as they are."""
    if not on.any():
        return v
    Q, U = np.linalg.qr(quadratic.A[:, on])
    along = Q.T @ (quadratic.A[:, ~on] @ v[~on]) + solve_triangular(U, pull[on], trans="T")
    out = v.copy()
    out[on] = -solve_triangular(U, along)
    return out


def _violation(
    quadratic: Quadratic,
    half: np.ndarray,
    v: np.ndarray,
    sign: np.ndarray,
    kept: np.ndarray,
) -> float:
    """Distance of 0 from the subgradient, relative to what bounds its two parts."""
    away = quadratic.A @ v
    slope = quadratic.A.T @ away
    size = 1.0 + half + np.linalg.norm(away)
    at_zero = (sign == 0) & (half > 0)
    beyond = np.maximum(np.abs(slope) - half, 0.0)
    distance = np.where(at_zero, beyond, np.abs(slope + half * sign))
    return float(np.max(np.where(kept, distance / size, 0.0), initial=0.0))


def _penalized_estimates(
    estimates: Estimates, quadratic: Quadratic, at: Descent, inward: np.ndarray
) -> Estimates:
    """The estimates with other fixed effects, and the covariance of those that are not zero.

    ``inward`` takes steps of the fixed effects to the layout's coordinates.
    """
    step = at.v / quadratic.unit
    low = estimates.beta_low + step
    zero = (at.sign == 0) & (quadratic.centre + at.v == 0)
    U = np.linalg.qr(quadratic.A[:, ~zero], mode="r")
    inverse = solve_triangular(U, np.eye(len(U))) / quadratic.unit[~zero, None]
    cov = np.full(estimates.cov_beta.shape, np.nan)
    cov[np.ix_(~zero, ~zero)] = inverse @ inverse.T / estimates.scale
    return estimates._replace(
        beta=np.where(zero, 0.0, estimates.beta_shift + low),
        beta_low=np.where(zero, -estimates.beta_shift, low),
        beta_layout=estimates.beta_layout + inward @ step,
        cov_beta=cov,
        dcov_beta=np.full_like(estimates.dcov_beta, np.nan),
        deviance=estimates.deviance + float(np.sum((quadratic.A @ at.v) ** 2)),
    )
