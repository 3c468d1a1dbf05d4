"""The delta method: standard errors of any function of the parameters.

    cov f(params) = J cov(params) J'        J = d f / d params

with exact derivatives by JAX and the joint covariance of fixed effects, covariances and the
residual variance at the estimate; fixed effects and variances are uncorrelated in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array
from scipy import special

from ...errors import DataError
from ...inputs.arguments import choice, function, hinted, instance, probability
from ...numerics.processes import float64
from ...reprs import brief, public
from ...tables.frames import as_frame
from ...tables.page import Summary, table
from ...tables.shown import Shown
from ..record import FitRecord, relative_covariance
from ..residuals.parameters import reported
from ..variance import covariance_slices, touches_zero
from .contrasts import ContrastResults, t_test
from .multiplicity import ADJUSTMENTS, ELSEWHERE

_UNTRACEABLE = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DataParams:
    """The parameters of a fit as a function of them sees them; variances are those of the data.

    ``params["Days"]`` is a fixed effect by its name, ``params["sd[b]"]`` a parameter of residuals.
    """

    fe_params: Array  # (p,)
    cov_re: Array  # (k_re, k_re)  covariance of the correlated terms, block diagonal
    vcomp: Array  # (k_vc,)    variances of the components, in the order of the fit's terms
    covariances: tuple[Array, ...]  # (k, k) a term, components among them
    scale: Array  # ()         residual variance
    residual_params: Array  # (r,)  of a residual covariance, as the fit reports them
    fixed_names: tuple[str, ...] = field(metadata={"static": True})
    residual_names: tuple[str, ...] = field(metadata={"static": True})

    __repr__ = brief

    @property
    def sigma(self) -> Array:
        """Residual standard deviation."""
        return jnp.sqrt(self.scale)

    def __getitem__(self, name: str) -> Array:
        """The fixed effect of that name, or the parameter of a residual covariance."""
        for names, values in (
            (self.fixed_names, self.fe_params),
            (self.residual_names, self.residual_params),
        ):
            if name in names:
                return values[names.index(name)]
        known = [*self.fixed_names, *self.residual_names]
        raise KeyError(f"no fixed effect {name!r}, and no parameter of residuals: {known}")


@public
@hinted
@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class DeltaResults(Shown):
    """Functions of the parameters with their standard errors; arrays of the function's shape."""

    names: tuple[str, ...]  # (s,)
    estimate: np.ndarray  # () or (s,)
    std_error: np.ndarray  # () or (s,)  NaN where a variance at zero is used
    conf_low: np.ndarray  # () or (s,)
    conf_high: np.ndarray  # () or (s,)
    cov: np.ndarray  # (s, s)
    level: float
    df: float = float("inf")
    output: str = "pandas"  # kind of frame that tables come in: that of the data

    def to_frame(self, *, output: str | None = None) -> Any:
        """One row a function: estimate, std_error, df, conf_low, conf_high.

        Parameters
        ----------
        output : {"pandas", "polars", "pyarrow"}, optional
            Kind of frame; that of the data if not given. Where a frame has no index, the names
            are a column ``name``.
        """
        columns = ("estimate", "std_error", "df", "conf_low", "conf_high")
        values = {column: np.atleast_1d(getattr(self, column)) for column in columns}
        values["df"] = np.full(len(self.names), self.df)
        made = pd.DataFrame(values, index=list(self.names))
        return as_frame(made, output, self.output, labels="name")

    def _page(self) -> Summary:
        frame: pd.DataFrame = self.to_frame(output="pandas")
        shown = frame if np.isfinite(self.df) else frame.drop(columns="df")
        note = f"Standard errors by the delta method; limits of level {self.level:g}"
        return Summary(
            title="Functions of the parameters", sheets=(table(shown, ""),), notes=(note,)
        )


@hinted
def delta_method(
    res: FitRecord,
    f: Callable[[DataParams], Any],
    level: float = 0.95,
    *,
    df_method: str | None = None,
) -> DeltaResults:
    """Estimate, standard error and interval of a function of the parameters.

        se^2 = J cov(params) J'

    Parameters
    ----------
    res : LMMResults
    f : callable
        From parameters to a number, a vector or a mapping of names to numbers, written for
        ``jax.numpy``. Its argument has ``fe_params``, ``cov_re``, ``vcomp``, ``covariances``
        (a term each), ``scale``, ``sigma`` and ``residual_params``; variances are those of the
        data. A fixed effect is found by its name, ``params["Days"]``, and so is a parameter of a
        residual covariance, ``params["sd[b]"]``.
    level : float
        Coverage.
    df_method : str, optional
        Whose covariance of the fixed effects is taken, as in :func:`lmm_jax.fit`; that of the
        fit if not given. Quantiles are normal in any case.

    Returns
    -------
    DeltaResults

    Raises
    ------
    DataError
        A function that JAX cannot trace, or gives more than a vector of numbers.

    Notes
    -----
    Take a function that is close to normal: the logarithm of a ratio, the logit of a share.
    Where a variance at zero is used the usual theory does not hold, and the error is NaN.

    References
    ----------
    van der Vaart (1998), Asymptotic Statistics, chapter 3, doi:10.1017/CBO9780511802256.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Yield ~ 1 + (1 | Batch)", lmm.load_dataset("dyestuff"))
    >>> icc = lmm.delta_method(res, lambda p: p.cov_re[0, 0] / (p.cov_re[0, 0] + p.scale))
    >>> print(f"{icc.estimate:.3f} ({icc.std_error:.3f})")
    0.418 (0.216)
    """
    level = probability(level, "level")
    fit = instance(res, "res", FitRecord, "a result of lmm.fit").with_df(df_method)
    names, shape, values, J = _differentiated(fit, function(f, "f"))
    unit, relative = _with_residuals(fit, *joint_relative_covariance(fit))
    unknown = (J[:, np.isnan(unit)] != 0).any(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        rows = J * np.nan_to_num(unit)
        cov = rows @ relative @ rows.T
    cov[unknown], cov[:, unknown] = np.nan, np.nan
    with np.errstate(invalid="ignore"):
        errors = np.sqrt(np.maximum(np.diagonal(cov), 0.0))  # what is constant rounds
    half = float(special.ndtri(0.5 + 0.5 * level)) * errors
    return DeltaResults(
        names=names,
        estimate=values.reshape(shape),
        std_error=errors.reshape(shape),
        conf_low=(values - half).reshape(shape),
        conf_high=(values + half).reshape(shape),
        cov=cov,
        level=level,
        output=fit.output,
    )


@hinted
def hypotheses(
    res: FitRecord,
    hypothesis: Any,
    *,
    level: float = 0.95,
    df_method: str | None = None,
    adjust: str = "none",
) -> ContrastResults | DeltaResults:
    """Linear functions of the parameters by t tests, any other function by the delta method.

    Parameters
    ----------
    res : LMMResults
    hypothesis : array, tuple, str, list of str, or callable
        As :meth:`lmm_jax.LMMResults.t_test` takes it (a name alone is the coefficient against
        zero), or a function of the parameters for :func:`lmm_jax.delta_method`.
    level : float
        Coverage of the intervals.
    df_method : str, optional
        As in :func:`lmm_jax.fit`; that of the fit if not given.
    adjust : str
        Adjustment of the p values and intervals of t tests for their number: "bonferroni",
        "holm", "hochberg", "hommel", "fdr", "sidak", "scheffe", "mvt", ..., as for
        :func:`lmm_jax.emmeans`.

    Returns
    -------
    ContrastResults or DeltaResults

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> lmm.hypotheses(res, "Days = 10").pvalue.round(3).tolist()
    [0.766]
    >>> zero = lmm.hypotheses(res, lambda p: -p["Intercept"] / p["Days"])
    >>> print(f"{zero.estimate:.2f} ({zero.std_error:.2f})")
    -24.02 (3.69)
    """
    fit = instance(res, "res", FitRecord, "a result of lmm.fit")
    if callable(hypothesis):
        return delta_method(fit, hypothesis, level, df_method=df_method)
    how = choice(adjust, "adjust", ADJUSTMENTS, elsewhere=ELSEWHERE)
    level = probability(level, "level")
    return replace(t_test(fit.with_df(df_method), hypothesis, None, how), level=level)


# ------------------------------------------------------------ the arithmetic


def joint_relative_covariance(fit: FitRecord) -> tuple[np.ndarray, np.ndarray]:
    """A unit of every parameter, and the covariance of all in these units.

    Returns
    -------
    unit : ndarray, shape (K,)
        Of the fixed effects, the lower triangles of the terms row by row, and the residual
        variance; NaN for what is estimated on the boundary.
    relative : ndarray, shape (K, K)
    """
    e = fit.estimates
    unit, relative = relative_covariance(e, fit.tests.cov_beta)
    at_zero = np.zeros(unit.size, dtype=bool)
    own = [np.zeros(0, bool), *map(touches_zero, e.covariances)]
    at_zero[e.beta.size : e.beta.size + sum(map(len, own))] = np.concatenate(own)
    unit = np.where(at_zero, np.nan, unit)
    return unit, relative


def _with_residuals(
    fit: FitRecord, unit: np.ndarray, relative: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same with the parameters of a residual covariance behind the others."""
    if fit.residual is None:
        return unit, relative
    e, p = fit.estimates, fit.estimates.beta.size
    found, errors = reported(e, fit.residual.theta_structures)
    J = np.swapaxes(found.values.first, 0, 1)
    both = np.zeros((unit.size + len(J),) * 2)
    both[: unit.size, : unit.size] = relative
    both[unit.size :, p : unit.size] = J @ e.cross_variance[found.at]
    both[p : unit.size, unit.size :] = both[unit.size :, p : unit.size].T
    both[unit.size :, unit.size :] = J @ e.joint_cov[np.ix_(found.at, found.at)] @ J.T
    return np.append(unit, np.where(np.isnan(errors), np.nan, 1.0)), both


@contextmanager
def _in_words() -> Iterator[None]:
    """What JAX says of functions that it cannot trace, in terms of the parameters."""
    try:
        yield
    except _UNTRACEABLE as error:
        raise DataError(
            "f cannot be traced by JAX: write it with jax.numpy, without float(), numpy or "
            "branches on the values of parameters"
        ) from error
    except TypeError as error:  # of an array that is asked for a name
        if "is not a valid JAX type" in str(error):
            raise DataError(
                "f gave something that is no number: a real number, a vector of them, or a mapping "
                "of names to numbers is needed"
            ) from error
        if "string indexing" not in str(error):
            raise
        raise DataError(
            'f asks an array for a name: fixed effects go by theirs as params["x"]'
        ) from error


def _differentiated(
    fit: FitRecord, f: Callable[[DataParams], Any]
) -> tuple[tuple[str, ...], tuple[int, ...], np.ndarray, np.ndarray]:
    """Names, shape, values (s,) and Jacobian (s, K) of a function of the parameters."""
    point, tangents = _point_and_tangents(fit)
    with float64():
        point, tangents = jax.tree.map(jnp.asarray, (point, tangents))

        known: list[tuple[str, ...]] = []

        def plain(params: DataParams) -> Any:
            value = f(params)
            if not isinstance(value, Mapping):
                return value
            known.append(tuple(map(str, value)))  # JAX sorts the keys of a dictionary
            return tuple(value.values())

        def along(tangent: DataParams) -> tuple[Any, Any]:
            out: tuple[Any, Any] = jax.jvp(plain, (point,), (tangent,))
            return out

        with _in_words():  # not compiled: a few small operations, of shapes that others have
            value, slopes = jax.vmap(along, out_axes=(None, 0))(tangents)
    if isinstance(value, tuple | list):
        value, slopes = np.stack(value), np.stack(slopes, axis=1)
    values, J = np.asarray(value), np.asarray(slopes)
    if values.ndim > 1 or values.dtype.kind != "f":
        raise DataError(
            f"f gave an array of shape {values.shape} and type {values.dtype}: a real number, a "
            "vector or a mapping of names to numbers is needed"
        )
    names = known[0] if known else tuple(f"f{i}" for i in range(values.size))
    return names, values.shape, values.reshape(-1), J.reshape(len(J), values.size).T


def _point_and_tangents(fit: FitRecord) -> tuple[DataParams, DataParams]:
    """The parameters, and K directions of them: one each of the packed parameters is one."""
    e, p = fit.estimates, fit.estimates.beta.size
    places = covariance_slices(e.covariances)
    own = np.zeros(0) if fit.residual is None else fit.residual_params.to_numpy()
    first = p + (places[-1].stop if places else 0) + 1
    K, blocks = first + own.size, []
    for S, at in zip(e.covariances, places, strict=True):
        rows, columns = np.tril_indices(len(S))
        block, own_rows = np.zeros((K, *S.shape)), p + np.arange(at.start, at.stop)
        block[own_rows, rows, columns] = 1.0
        block[own_rows, columns, rows] = 1.0
        blocks.append(block)
    point = _params(fit, e.beta, list(e.covariances), np.asarray(e.scale), own)
    one = np.eye(K)
    return point, _params(fit, one[:, :p], blocks, one[:, first - 1], one[:, first:])


def _params(
    fit: FitRecord,
    beta: np.ndarray,
    blocks: list[np.ndarray],
    scale: np.ndarray,
    residual: np.ndarray,
) -> DataParams:
    """Parameters with or without a leading axis."""
    lead = scale.shape
    pairs = list(zip(fit.term_labels, blocks, strict=True))
    correlated = [block for label, block in pairs if not label.is_component]
    k, start = sum(block.shape[-1] for block in correlated), 0
    cov_re = np.zeros((*lead, k, k))
    for block in correlated:
        stop = start + block.shape[-1]
        cov_re[..., start:stop, start:stop] = block
        start = stop
    alone = [block[..., 0, 0] for label, block in pairs if label.is_component]
    parts: dict[str, Any] = dict(
        fe_params=beta,
        cov_re=cov_re,
        vcomp=np.stack(alone, axis=-1) if alone else np.zeros((*lead, 0)),
        covariances=tuple(blocks),
        scale=scale,
        residual_params=residual,
    )
    names = () if fit.residual is None else tuple(fit.residual_params.index)
    return DataParams(**parts, fixed_names=fit.fixed_names, residual_names=names)
