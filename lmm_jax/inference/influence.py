"""Influence of groups and of rows on the estimates, without fitting again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from ..capabilities import require
from ..covariance.theta import factor_blocks
from ..designs.design import Design
from ..errors import DataError
from ..inputs.arguments import choice, hinted
from ..inputs.matching import shown
from ..inputs.names import unique
from ..layouts.group_index import GroupPlan
from ..layouts.grouped import GroupedLayout
from ..numerics.processes import float64
from ..numerics.programs import compiled
from ..numerics.shapes import round_up_rows
from ..reprs import public
from .deletion import BucketRows, Weighted, Whole, Without, without_groups, without_rows
from .record import FitRecord
from .variance import covariance_jacobian


@public
@dataclass(frozen=True, kw_only=True, eq=False)
class Influence:
    """What each group or row contributes to the estimates.

    Attributes
    ----------
    by : {"group", "row"}
    params : DataFrame, shape (units, parameters)
        Estimates without the unit, one step from the fit: fixed effects and
        covariances in the units of the data as in ``results.params``, and
        ``scale``, the residual variance.
    dfbetas : DataFrame, shape (units, p)
        Change of the fixed effects by the unit, in standard errors of the fit.
    cooks_distance : Series, shape (units,)
        ``d' cov(beta)^-1 d / p`` with d that change.
    derivatives : DataFrame, shape (units, parameters), or None
        Derivatives of the parameters in the weights of the groups' likelihoods
        (``by="group"`` only: rows of a group are not independent).
    """

    by: str
    params: pd.DataFrame
    dfbetas: pd.DataFrame
    cooks_distance: pd.Series[float]
    derivatives: pd.DataFrame | None

    def __repr__(self) -> str:
        units, worst = len(self.params), self.cooks_distance.idxmax() if len(self.params) else None
        return (
            f"<Influence by {self.by}: {units} units, {self.params.shape[1]} parameters, largest "
            f"Cook's distance {self.cooks_distance.max():.4g} ({shown(worst)})>"
        )

    @property
    def cov_params(self) -> pd.DataFrame:
        """Covariance of the estimates by the infinitesimal jackknife over groups.

        ``sum_g psi_g psi_g'`` with psi the rows of ``derivatives``: the cluster-robust
        sandwich without corrections for few groups, which need not believe in the
        random effects' distribution.
        """
        if self.derivatives is None:
            raise DataError('the jackknife covariance is one over groups: influence(by="group")')
        psi = self.derivatives.to_numpy()
        names = self.derivatives.columns
        return pd.DataFrame(psi.T @ psi, index=names, columns=names)


@hinted
def influence(results: FitRecord, by: str = "group") -> Influence:
    """Influence of every group or row, by derivatives at the fit (infinitesimal jackknife).

    Leaving a unit out changes the criterion f into one that is known exactly at
    every theta, and so are its fixed effects and residual variance. Theta takes
    one step, ``-H^-1 grad f_without``, with the Hessian H of the whole fit.

    Parameters
    ----------
    results : LMMResults
        A fit with independent groups, nothing held or penalized.
    by : {"group", "row"}
        Groups are the coarsest ones of the random effects, which are independent.

    Returns
    -------
    Influence
        NaN for a unit without which the fixed effects are not determined.

    Raises
    ------
    DataError
        Crossed random effects, held or penalized parameters.

    Notes
    -----
    *Which derivative is a deletion.* A prior weight divides the residual variance
    alone; its derivative at one is not what a deletion does. The density of the
    data is a product of independent groups, so a group is deleted by the power 0
    of its factor. A row is deleted by the power 0 of its conditional density given
    all other rows, ``y_j | y_-j ~ N(y_j - e / d, sigma^2 / d)`` with
    ``e = (P y)_j``, ``d = P_jj`` and ``P = V^-1 - V^-1 X (X' V^-1 X)^-1 X' V^-1``
    (``V^-1`` in the place of P by maximum likelihood), which is what remains
    between the likelihoods with and without the row; a prior weight tending to 0,
    ``log w`` left out, has the same limit.

    The result is exact where theta stays. Otherwise the error is of second order
    in the step of theta, so it is largest for the most influential units: fit
    again without those that matter.

    References
    ----------
    Christensen, Pearson & Johnson (1992), doi:10.1080/00401706.1992.10484853;
    Giordano et al. (2019), A Swiss army infinitesimal jackknife, AISTATS.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
    >>> lmm.influence(res).cooks_distance.nlargest(2).round(2).to_dict()
    {'309': 0.15, '335': 0.13}
    """
    choice(by, "by", ("group", "row"))
    design = require(results, "influence").design
    with float64():
        units = _group_units(results) if by == "group" else _row_units(results)
    labels = _group_labels(design) if by == "group" else design.index
    return _frames(results, by, labels, units)


class _Units(NamedTuple):
    """Values and theta derivatives at the fit, a row a unit, in the order of the labels."""

    whole: Whole
    rest: Without
    weighted: Weighted | None
    whole_slope: Whole
    rest_slope: Without
    weighted_slope: Weighted | None
    n_rows: np.ndarray  # (K,)


def _group_units(results: FitRecord) -> _Units:
    design = _design(results)
    layout, plan = _layout(design), _plan(design)
    starts = np.cumsum([0, *(b.T.shape[2] for b in layout.buckets)])
    unit = starts[plan.group_bucket] + plan.group_position
    count = np.zeros(starts[-1])
    np.add.at(count, unit[design.group_codes], 1.0)
    rows = _rows(design, _bucket_places(design))
    theta = jnp.asarray(results.estimates.theta_layout)
    out = _groups(theta, layout, rows, jnp.asarray(count), reml=results.reml)
    return _ordered(out, unit, count[unit])


def _row_units(results: FitRecord) -> _Units:
    design = _design(results)
    places = _bucket_places(design)
    rows = _rows(design, places)
    starts = np.cumsum([0, *(part.group.size for part in rows)])
    unit = np.empty(design.nobs, dtype=np.int64)
    for start, at in zip(starts, places, strict=False):
        unit[at] = start + np.arange(at.size)
    theta = jnp.asarray(results.estimates.theta_layout)
    out = _single_rows(theta, _layout(design), rows, reml=results.reml)
    return _ordered(out, unit, np.ones(design.nobs))


def _ordered(out: Any, unit: np.ndarray, n_rows: np.ndarray) -> _Units:
    """Parts of the units in their own order; those of the whole model as they are."""

    def taken(whole: Any, rest: Any, weighted: Any = None) -> tuple[Any, Any, Any]:
        of_units = jax.tree.map(lambda a: np.asarray(a)[unit], (rest, weighted))
        return jax.tree.map(np.asarray, whole), *of_units

    values, slopes = (taken(*parts) for parts in out)
    return _Units(*values, *slopes, n_rows)


def _design(results: FitRecord) -> Design:
    assert results.design is not None  # require has looked
    return results.design


def _layout(design: Design) -> GroupedLayout:
    assert isinstance(design.layout, GroupedLayout)  # require has looked
    return design.layout


def _plan(design: Design) -> GroupPlan:
    assert isinstance(design.plan, GroupPlan)
    return design.plan


def _value_and_slopes(fun: Any) -> Any:
    """A function of theta with its derivative in theta along the last axis."""

    def both(theta: Any, *args: Any, reml: bool) -> Any:
        def at(t: Any) -> Any:
            return fun(t, *args, reml=reml)

        return at(theta), jax.jacfwd(at)(theta)

    return compiled(both, static="reml")


_groups = _value_and_slopes(without_groups)
_single_rows = _value_and_slopes(without_rows)


def _bucket_places(design: Design) -> list[np.ndarray]:
    """Numbers of the rows of every bucket."""
    plan = _plan(design)
    bucket = plan.group_bucket[design.group_codes]
    return [np.flatnonzero(bucket == b) for b in range(len(plan.index.widths))]


def _rows(design: Design, places: list[np.ndarray]) -> tuple[BucketRows, ...]:
    """Rows of every bucket in the layout's coordinates, padded by rows of zeros."""
    layout, plan = _layout(design), _plan(design)
    y = design.endog if design.offset is None else design.endog - design.offset
    X, root = design.exog, np.ones(design.nobs)
    if design.weights is not None:
        root = np.sqrt(design.weights)
    y = (y - X @ np.asarray(layout.beta_shift)) - X @ np.asarray(layout.beta_origin)
    X = X @ np.asarray(layout.beta_map)
    XY = np.column_stack([X, y / float(layout.y_scale)]) * root[:, None]
    out = []
    for at in places:
        rows = round_up_rows(at.size)
        Z, slots = [], []
        group: Any = np.zeros(rows, np.int32)
        for term, A, levels in zip(design.terms, layout.whiteners, plan.level_maps, strict=True):
            for s in range(term.codes.shape[1]):
                code = term.codes[at, s]
                Z.append(_pad((term.values[at, s] @ np.asarray(A)) * root[at, None], rows))
                slots.append(_pad(levels.slot[code], rows).astype(np.int32))
                group[: at.size] = levels.group[code]
        part = BucketRows(_pad(XY[at], rows), tuple(Z), tuple(slots), group)
        out.append(jax.tree.map(jnp.asarray, part))
    return tuple(out)


def _pad(values: np.ndarray, rows: int) -> Any:
    out = np.zeros((rows, *values.shape[1:]))
    out[: values.shape[0]] = values
    return out


def _group_labels(design: Design) -> pd.Index[Any]:
    """Labels of the independent groups: those of a term with one level in each."""
    first = np.unique(design.group_codes, return_index=True)[1]
    for term in design.terms:
        if term.n_levels == design.n_groups and term.codes.shape[1] == 1:
            return pd.Index(term.levels[term.codes[first, 0]], name=term.group)
    return pd.RangeIndex(design.n_groups, name="group")


def _frames(results: FitRecord, by: str, labels: pd.Index[Any], units: _Units) -> Influence:
    """Carry the model without each unit to the coordinates of the data, and label it."""
    e, layout = results.estimates, _layout(_design(results))
    m, p = e.theta_layout.size, e.beta.size
    rest, slope = units.rest, units.rest_slope
    step = -np.asarray(slope.criterion) @ (0.5 * e.joint_cov[:m, :m])  # H^-1, where f bends
    inner = units.whole.beta - rest.beta - np.einsum("upm,um->up", slope.beta, step)
    log_rss = rest.log_rss + np.einsum("um,um->u", slope.log_rss, step)
    nu = float(layout.n_obs) - (p if results.reml else 0) - units.n_rows
    scale = np.exp(log_rss) * e.y_scale**2 / np.where(nu > 0, nu, np.nan)
    change = e.y_scale * inner @ np.asarray(layout.beta_map).T
    cook = np.einsum("up,pq,uq->u", inner, units.whole.information, inner)
    cook *= e.y_scale**2 / (e.scale * max(p, 1))
    covariances = _covariances(e.theta_layout + step, layout, scale)
    values = np.column_stack([e.beta - change, covariances, scale])
    names = list(unique([*results.params.index, "scale"]))
    derivatives = None
    if units.weighted is not None:
        derivatives = pd.DataFrame(_derivatives(results, units), index=labels, columns=names)
    dfbetas = change / results.bse_fe.to_numpy()
    return Influence(
        by=by,
        params=pd.DataFrame(values, index=labels, columns=names),
        dfbetas=pd.DataFrame(dfbetas, index=labels, columns=list(results.fixed_names)),
        cooks_distance=pd.Series(cook, index=labels, name="cooks_distance"),
        derivatives=derivatives,
    )


def _covariances(theta: np.ndarray, layout: GroupedLayout, scale: np.ndarray) -> np.ndarray:
    """Covariances of the data, lower triangles row by row, for many theta and scales."""
    out = []
    for A, L in zip(layout.whiteners, factor_blocks(theta, layout.structures), strict=True):
        AL = np.asarray(A) @ L
        S = scale[:, None, None] * AL @ np.swapaxes(AL, 1, 2)
        out.append(S[:, *np.tril_indices(L.shape[-1])])
    return np.concatenate(out, axis=1)


def _derivatives(results: FitRecord, units: _Units) -> np.ndarray:
    """Derivatives of all parameters in the weights of the groups, (groups, parameters)."""
    e, layout = results.estimates, _layout(_design(results))
    m, whole, weighted, slope = (
        e.theta_layout.size,
        units.whole_slope,
        units.weighted,
        units.weighted_slope,
    )
    assert weighted is not None and slope is not None  # of groups
    step = -np.asarray(slope.criterion) @ (0.5 * e.joint_cov[:m, :m])
    beta = np.asarray(weighted.beta) + step @ np.asarray(whole.beta).T
    log_scale = np.asarray(weighted.log_scale) + step @ np.asarray(whole.log_rss)
    whiteners = [np.asarray(A) for A in layout.whiteners]
    inner = factor_blocks(e.theta_layout, layout.structures)
    J = covariance_jacobian(inner, whiteners, layout.structures, e.scale)
    variances = np.column_stack([step, log_scale]) @ J.T
    return np.column_stack([e.y_scale * beta @ np.asarray(layout.beta_map).T, variances])
