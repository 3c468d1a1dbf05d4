"""Profile likelihood of one variance: that ratio held, everything else maximized again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jax import Array

from ...capabilities import require
from ...covariance.structures import Structure
from ...covariance.theta import factor_blocks, theta_slices
from ...covariance.triangles import lower_indices
from ...errors import DataError
from ...inputs.arguments import choice, flag, is_whole, number, shown, whole_number
from ...layouts.contract import Layout
from ...likelihood.criterion import Jet
from ...likelihood.profile import profile_jet
from ...numerics.namespace import namespace
from ...numerics.processes import float64
from ...numerics.programs import compiled
from ...numerics.progress import progress_bar
from ...optimize.constrained import PlainJet
from ...optimize.newton import newton
from ..record import FitRecord
from .lines import MAXITER

# Whitened pivots below the first are opened to the second before a search starts there: the
# criterion is even in a column of Lambda, so its gradient vanishes at zero whatever lies around.
_SMALL_PIVOT = 1e-3
_OPEN_PIVOT = 0.3


class HeldVariance(NamedTuple):
    """A layout in which one variance ratio is the square of one entry of theta."""

    layout: Layout
    theta: np.ndarray  # (m,)  the estimate
    held: int  # place in theta of the entry that is held
    unit: float  # relative standard deviation of the data at theta[held] = 1


def profile_re(
    results: FitRecord,
    layout: Layout,
    re_ix: int | str,
    vtype: str,
    *,
    num_low: int,
    dist_low: float,
    num_high: int,
    dist_high: float,
    progress: bool,
) -> np.ndarray:
    """Profile of one variance; see :meth:`lmm_jax.LMMResults.profile_re`."""
    require(results, "profile_re")
    num_low, progress = whole_number(num_low, "num_low"), flag(progress, "progress")
    num_high = whole_number(num_high, "num_high")
    dist_low = number(dist_low, "dist_low", least=0.0)
    dist_high = number(dist_high, "dist_high", least=0.0)
    t, j = _locate(results, re_ix, vtype)
    variance, scale = float(results.estimates.covariances[t][j, j]), results.scale
    ratios = profile_grid(variance, scale, num_low, dist_low, num_high, dist_high)
    with float64():
        at = hold_variance(layout, results.estimates.theta_layout, t, j)
        with progress_bar(
            len(ratios) + 1, "point", progress
        ) as tick:  # both directions begin there
            return profile_curve(at, ratios, n_low=num_low, reml=results.reml, tick=tick)


def _locate(results: FitRecord, re_ix: int | str, vtype: str) -> tuple[int, int]:
    """Term and coefficient that ``re_ix`` names."""
    choice(vtype, "vtype", ("re", "vc"))
    found = [
        (t, j)
        for t, label in enumerate(results.term_labels)
        for j in range(len(label.names))
        if label.is_component == (vtype == "vc")
    ]
    names = list(results.vcomp.index if vtype == "vc" else results.cov_re.index)
    if isinstance(re_ix, str):
        choice(re_ix, "re_ix", names)
        return found[names.index(re_ix)]
    if is_whole(re_ix) and 0 <= re_ix < len(names):
        return found[int(re_ix)]
    raise DataError(f"re_ix={shown(re_ix)}: name or number one of {names}")


def profile_grid(
    variance: float,
    scale: float,
    num_low: int,
    dist_low: float,
    num_high: int,
    dist_high: float,
) -> np.ndarray:
    """Ratios of the variance to the residual variance, (num_low + 1 + num_high,)."""
    if num_low and dist_low > variance:
        raise DataError(
            f"dist_low={dist_low} is more than the estimate, {variance:.6g}: "
            "the variance would be negative"
        )
    low = np.linspace((variance - dist_low) / scale, variance / scale, num_low + 1)
    high = np.linspace(variance / scale, (variance + dist_high) / scale, num_high + 1)
    return np.concatenate([low, high[1:]])


def hold_variance(layout: Layout, theta: np.ndarray, t: int, j: int) -> HeldVariance:
    """Rotate one term so that the variance of its coefficient j is ``(unit theta[held])^2``.

    With ``a`` row j of the whitener and Q orthogonal, first column ``a / |a|``,
    the factor ``Q L`` has the relative variance ``|a' Q L|^2 = |a|^2 L_11^2`` for
    every lower triangular L.

    Parameters
    ----------
    layout : Layout
    theta : ndarray, shape (m,)
        A point in the layout's coordinates.
    t, j : int
        Term, and coefficient within the term.
    """
    a = np.asarray(layout.whiteners[t])[j]
    k, unit = a.size, float(np.linalg.norm(a))
    Q = np.linalg.qr(np.column_stack([a / unit, np.eye(k)]))[0]
    Q[:, 0] *= np.sign(Q[:, 0] @ a)
    rotated = layout.rotate(t, Q)
    at = theta_slices(layout.structures)[t]
    factor = Q.T @ factor_blocks(theta, layout.structures)[t]
    L = np.linalg.qr(factor.T)[1].T  # lower triangular, the same covariance
    new = np.array(theta, dtype=np.float64)
    new[at] = L[lower_indices(k)]
    return HeldVariance(rotated, new, at.start, unit)


def profile_curve(
    at: HeldVariance,
    ratios: np.ndarray,
    *,
    n_low: int,
    reml: bool,
    tick: Callable[[int], object],
) -> np.ndarray:
    """Variance and maximized log-likelihood at every ratio, (len(ratios), 2).

    The searches run outwards from the estimate, ``ratios[n_low]``, each from
    where its neighbour ended.
    """
    out = np.zeros((len(ratios), 2))
    for order in (range(n_low, -1, -1), range(n_low, len(ratios))):
        theta = at.theta
        for i in order:
            theta, jet = maximize_rest(at, theta, float(ratios[i]), reml=reml)
            with np.errstate(over="ignore"):  # of the units of y
                scale = float(at.layout.y_scale**2 * jet.profile.scale)
            out[i] = ratios[i] * scale, -0.5 * float(jet.value)
            tick(1)
    return out


def maximize_rest(
    at: HeldVariance, theta: np.ndarray, ratio: float, *, reml: bool
) -> tuple[np.ndarray, Jet]:
    """Lowest criterion with one variance ratio held, and where it is."""
    theta = np.array(theta)
    theta[at.held] = np.sqrt(ratio) / at.unit
    free = np.delete(np.arange(theta.size), at.held)
    best, jet = theta, _jet(theta, at.layout, reml=reml)
    for start in _starts(theta, at.layout.structures, at.held) if free.size else []:
        end = _searched(start, free, at.layout, reml=reml)
        found = _jet(end, at.layout, reml=reml)
        if found.value < jet.value:
            best, jet = np.asarray(end), found
    return best, jet


def _starts(theta: np.ndarray, structures: Sequence[Structure], held: int) -> list[np.ndarray]:
    """The point itself and, if it touches the boundary, the point moved inside."""
    pivots = np.concatenate(
        [at.start + s.pivots for s, at in zip(structures, theta_slices(structures), strict=True)]
    )
    small = [i for i in pivots if i != held and abs(theta[i]) < _SMALL_PIVOT]
    if not small:
        return [theta]
    opened = theta.copy()
    opened[small] = _OPEN_PIVOT
    return [theta, opened]


def _search(start: Array, free: Array, layout: Layout, *, reml: bool) -> Array:
    """Newton over the free entries of theta."""
    xp = namespace(start, layout)

    def evaluate(x: Array) -> PlainJet:
        at = profile_jet(xp.at(start)[free].set(x), layout, reml=reml)
        return PlainJet(at.value, at.gradient[free], at.hessian[free][:, free], at.noise)

    return xp.at(start)[free].set(newton(start[free], evaluate, (), maxiter=MAXITER).theta)


_jet = compiled(profile_jet, static="reml", host=1e-7)
_searched = compiled(_search, static="reml", host=1e-6)
