"""From the optimizer's answer, in the layout's coordinates, to estimates of the data's.

Arithmetic on arrays of the size of the parameters, of one fit or of many: what belongs to a fit
may have any leading axes. NumPy's on the host, or traced where many fits are on a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ..covariance.structures import Structure
from ..covariance.theta import factor_blocks, theta_slices
from ..layouts.contract import Layout, Maps
from ..numerics.eigen import eigen_of_many, singular
from ..numerics.namespace import NUMPY, namespace, on_host
from ..numerics.read_only import read_only
from ..optimize.constrained import ConstrainedSolution
from ..optimize.flatness import FLAT_CURVATURE, looked_at, relative_curvature
from ..optimize.newton import CONVERGED, Solution
from ..reprs import brief
from .sought import Sought, sought_at
from .variance import covariance_jacobian, inverse_curvature, joint_covariance

# Whitened pivots below this make a fit singular, as in lme4.
SINGULAR_TOL = 1e-4
# Estimates that are no arrays.
_NUMBERS = ("scale", "deviance", "singular", "y_scale")
# Variances below it have lost digits.
_LEAST_VARIANCE = 1e-305


class Estimates(NamedTuple):
    """Everything that a fit determines, as NumPy arrays in the units of the data."""

    theta: np.ndarray  # (m,)  of the relative factors of the data: lme4's, diagonals >= 0
    factors: tuple[np.ndarray, ...]  # (k, k) a term: Lambda in the coordinates of the data
    covariances: tuple[np.ndarray, ...]  # (k, k) a term: sigma^2 Lambda Lambda'
    scale: Any  # sigma^2: a float, or an array of many fits
    beta: np.ndarray  # (p,)
    beta_low: np.ndarray  # (p,)  beta less the mean of y that was taken out first
    beta_shift: np.ndarray  # (p,)
    cov_beta: np.ndarray  # (p, p)  (X' V^-1 X)^-1, relative to sigma^2
    dcov_beta: np.ndarray  # (m, p, p)  its derivative in the layout's theta
    joint_cov: np.ndarray  # (m + 1, m + 1)  of the layout's theta and log sigma^2
    variance_unit: np.ndarray  # (n_cov + 1,)  sizes of the covariances and sigma^2
    cov_variance: np.ndarray  # (n_cov + 1, n_cov + 1)  of the covariances and sigma^2 in that unit
    cross_variance: np.ndarray  # (m + 1, n_cov + 1)  joint_cov's parameters with these
    deviance: Any  # -2 log-likelihood: a float, or an array
    singular: Any  # bool, or an array
    theta_layout: np.ndarray  # (m,)
    beta_layout: np.ndarray  # (p,)
    y_scale: Any  # float, or an array

    def __repr__(self) -> str:
        return brief(self)


class Found(NamedTuple):
    """What an optimum says of the data."""

    estimates: Estimates  # without the fixed effects that are held
    flat: Any  # whether some direction of theta changes nothing: bool, or an array


class _Optimum(NamedTuple):
    """What the estimates are made of, in the layout's coordinates."""

    beta: Any
    cov_beta: Any
    scale: Any
    deviance: Any
    cov_theta: np.ndarray


def find(solution: Solution | ConstrainedSolution, layout: Layout, *, reml: bool) -> Found:
    """What the optimum of one fit says of the data: of NumPy's, or traced beside the fit."""
    sought = sought_at(solution, layout, reml=reml)
    unit = layout.log_unit(on_host(solution.theta))
    at = estimate(solution, layout, reml=reml, sought=sought, log_unit=unit)
    return Found(at, is_flat(sought or solution, layout.structures, at.singular))


def kept(at: Estimates, held: np.ndarray | None) -> Estimates:
    """Estimates of one fit as a result has them: numbers, what was held, nothing to change."""
    numbers = {name: _number(getattr(at, name)) for name in _NUMBERS}
    return read_only(_with_held(at._replace(**numbers), held))


@np.errstate(over="ignore", invalid="ignore")  # entries that are not finite count as zero
def estimate(
    solution: Solution | ConstrainedSolution,
    maps: Maps,
    *,
    reml: bool,
    held: np.ndarray | None = None,
    sought: Sought | None = None,
    log_unit: Any = 0.0,
    variances: bool = True,
) -> Estimates:
    """Carry a solution back to the coordinates and units of the data.

    Parameters
    ----------
    solution : Solution or ConstrainedSolution
        Of one fit, or of many along leading axes.
    maps : Maps
        Of the layout; where they differ between fits, with the same leading axes.
    reml : bool
    held : ndarray, shape (p,), optional
        Values of the fixed effects that are not in the layout, NaN elsewhere.
    sought : Sought, optional
        One solution where it was sought (:meth:`Layout.recentred`): of the curvature more digits
        are left there.
    log_unit : float or ndarray
        :meth:`Layout.log_unit` of the solution, to which random effects are small or not.
    variances : bool
        Say how the covariances of the data vary as well; False leaves these fields empty.
    """
    at = _optimum(solution)
    theta, beta = on_host(solution.theta), on_host(at.beta)
    xp = namespace(theta)
    y_scale, nu = _number(maps.y_scale), _degrees(maps, beta.shape[-1] if reml else 0)
    scale = _residual_variance(at, maps, y_scale)
    whiteners = [on_host(A) for A in maps.whiteners]
    outer = outer_theta(theta, whiteners, maps.structures, log_unit)
    factors, covariances = _covariances(outer, maps.structures, scale)
    beta_map, shift = on_host(maps.beta_map), on_host(maps.beta_shift)
    low = on_host(maps.beta_origin) + _axes(y_scale, 1) * _product(beta_map, beta)
    joint = (
        joint_covariance(at.cov_theta, on_host(solution.jet.dlog_scale), nu)
        if sought is None
        else sought.joint_covariance(nu)
    )
    unit = J = xp.zeros((*joint.shape[:-2], 0, joint.shape[-1]))
    if variances:
        unit, J = _scaled(covariance_jacobian(theta, whiteners, maps.structures, scale))
    out = Estimates(
        theta=xp.concatenate(outer, axis=-1),
        factors=factors,
        covariances=covariances,
        scale=scale,
        beta=shift + low,
        beta_low=low,
        beta_shift=shift,
        cov_beta=_congruent(beta_map, on_host(at.cov_beta)),
        dcov_beta=_congruent(beta_map[..., None, :, :], on_host(solution.jet.dcov_beta)),
        joint_cov=joint,
        variance_unit=unit,
        cov_variance=_congruent(J, joint),
        cross_variance=joint @ xp.swapaxes(J, -1, -2),
        deviance=_number(at.deviance),
        singular=_number(_singular(theta, maps.structures, log_unit)),
        theta_layout=theta,
        beta_layout=beta,
        y_scale=y_scale,
    )
    return read_only(_with_held(out, held))


def _degrees(maps: Maps, used: int) -> Any:
    """Rows less what is taken out; of a known sigma^2 infinite: its logarithm has no variance."""
    return np.inf if maps.sigma2 is not None else _number(maps.n_obs) - used


def _residual_variance(at: _Optimum, maps: Maps, y_scale: Any) -> Any:
    """sigma^2 in the units of the data; a known one to its last digit."""
    if maps.sigma2 is None:
        return _number(on_host(at.scale) * (y_scale * y_scale))
    known = on_host(maps.sigma2)
    return _number(known + namespace(known).zeros_like(on_host(at.deviance)))


def _covariances(
    outer: Sequence[Any], structures: Sequence[Structure], scale: Any
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Lambda of every term in the coordinates of the data, and the covariances that they make."""
    terms = [(s, t) for s, t in zip(structures, outer, strict=True) if s.k]
    factors = tuple(s.factor(t) for s, t in terms)
    zero = [(t[..., s.pivots] == 0).any(axis=-1) for s, t in terms]
    return factors, tuple(covariance_of(L, scale, at) for L, at in zip(factors, zero, strict=True))


def _optimum(solution: Solution | ConstrainedSolution) -> _Optimum:
    if isinstance(solution, ConstrainedSolution):
        s = solution
        return _Optimum(s.beta, s.cov_beta, s.scale, s.deviance, np.asarray(s.cov_theta))
    at = solution.jet.profile
    cov_theta = inverse_curvature(on_host(solution.jet.hessian))
    return _Optimum(at.beta, at.cov_beta, at.scale, solution.jet.value, cov_theta)


def outer_theta(
    theta: np.ndarray,
    whiteners: Sequence[np.ndarray],
    structures: Sequence[Structure],
    log_unit: Any = 0.0,
) -> list[np.ndarray]:
    """Reported theta of every term in the coordinates of the data, (..., m_t) each."""
    unit = np.exp(log_unit)[..., None, None] if np.any(log_unit) else 1.0
    return [
        s.mapped(s.canonical(own), A * unit if s.k else A)
        for s, own, A in zip(
            structures, _in_unit(theta, structures, log_unit), whiteners, strict=True
        )
    ]


def _in_unit(theta: np.ndarray, structures: Sequence[Structure], log_unit: Any) -> list[np.ndarray]:
    """Theta of every term relative to a typical residual, (..., m_t) each."""
    if not np.any(log_unit):
        return [theta[..., at] for at in theta_slices(structures)]
    unit = np.exp(-np.asarray(log_unit, dtype=float))[..., None, None]
    return [
        s.mapped(theta[..., at], unit * np.eye(s.k)) if s.k else theta[..., at]
        for s, at in zip(structures, theta_slices(structures), strict=True)
    ]


def _number(value: Any) -> Any:
    """A number of one fit, an array of those of many; traced it stays as it is."""
    value = on_host(value)
    return value if value.ndim or isinstance(value, jax.core.Tracer) else value.item()


def _axes(value: Any, count: int) -> Any:
    """A number of each fit with so many axes after it."""
    return value[..., *(None,) * count] if np.ndim(value) else value


def _product(A: np.ndarray, x: np.ndarray) -> np.ndarray:
    """``A x`` along leading axes."""
    return (A @ x[..., None])[..., 0]


def _congruent(A: np.ndarray, S: np.ndarray) -> np.ndarray:
    """``A S A'`` along leading axes."""
    return A @ S @ A.swapaxes(-1, -2)


def _scaled(J: Any) -> tuple[Any, Any]:
    """Sizes of the rows, and rows of size one: squares would leave the range of floats."""
    xp = namespace(J)
    unit = xp.abs(J).max(axis=-1)
    return unit, J / xp.where(unit > 0, unit, 1.0)[..., None]


def _with_held(estimates: Estimates, held: np.ndarray | None) -> Estimates:
    """Put the fixed effects that were held fixed back in their places, without variance."""
    if held is None:
        return estimates
    free = np.isnan(held)

    def among(values: np.ndarray, rest: np.ndarray, axes: int = 1) -> np.ndarray:
        out = np.empty((*values.shape[:-axes], *rest.shape))
        out[...] = rest
        out[..., *np.ix_(*[free] * axes)] = values
        return out

    zero = np.zeros((held.size, held.size))
    return estimates._replace(
        beta=among(estimates.beta, held),
        beta_low=among(estimates.beta_low, held),
        beta_shift=among(estimates.beta_shift, zero[0]),
        cov_beta=among(estimates.cov_beta, zero, 2),
        dcov_beta=among(estimates.dcov_beta, zero, 2),
    )


@np.errstate(over="ignore", invalid="ignore")  # entries that are not finite count as zero
def is_flat(
    solution: Solution | ConstrainedSolution | Sought,
    structures: Sequence[Structure],
    is_singular: Any,
) -> Any:
    """Whether some direction of theta leaves the criterion unchanged to second order.

    Of a singular solution only the terms without rotations are looked at.
    """
    if isinstance(solution, ConstrainedSolution):
        return False
    theta, gradient = on_host(solution.theta), on_host(solution.jet.gradient)
    looked = looked_at(theta, gradient, structures, [on_host(is_singular)] * len(structures))
    xp = namespace(theta)
    hessian = relative_curvature(theta, on_host(solution.jet.hessian), looked)
    hessian = xp.where(xp.isfinite(hessian), hessian, 0.0)
    return xp.abs(eigen_of_many(hessian)[0]).min(axis=-1) < FLAT_CURVATURE


def residual_variance_error(at: Estimates) -> float:
    """Standard error of the residual variance."""
    return float(at.variance_unit[-1] * np.sqrt(at.cov_variance[-1, -1]))


def covariance_of(L: Any, scale: Any, is_singular: Any) -> Any:
    """``scale L L'``; a singular one is rounded upwards, so that it has a Cholesky factor."""
    xp, k = namespace(L), L.shape[-1]
    cov = _axes(scale, 2) * L @ L.swapaxes(-1, -2)
    if k == 1:
        return cov
    up = xp.where(is_singular, 1.0 + 8.0 * np.finfo(float).eps, 1.0)
    own = np.eye(k, dtype=bool)[(None,) * up.ndim]
    return cov * xp.where(own, up[..., None, None], 1.0)


def _singular(theta: np.ndarray, structures: Sequence[Structure], log_unit: Any) -> Any:
    """Whether a covariance is on the boundary, relative to a typical residual."""
    inside = namespace(theta).concatenate(_in_unit(theta, structures, log_unit), axis=-1)
    factors = factor_blocks(inside, structures)
    terms = [L for L in factors if L.shape[-1]]
    if not terms:
        return np.zeros(factors[0].shape[:-2], bool)  # residual covariances are regular
    small = [smallest_singular_value(L) < SINGULAR_TOL for L in terms]
    return namespace(terms).stack(small).any(axis=0)


def smallest_singular_value(L: Any) -> Any:
    """Smallest singular value of every matrix, (..., k, k) to (...)."""
    xp, k = namespace(L), L.shape[-1]
    if k == 1:
        return xp.abs(L[..., 0, 0])
    if k == 2:  # |det| over the largest: (s1 + s2)^2 = |L|^2 + 2 |det|
        det = xp.abs(L[..., 0, 0] * L[..., 1, 1] - L[..., 0, 1] * L[..., 1, 0])
        square = xp.sum(L**2, axis=(-2, -1))
        top = 0.5 * (xp.sqrt(square + 2 * det) + xp.sqrt(xp.maximum(square - 2 * det, 0.0)))
        return det / xp.where(top > 0, top, 1.0)
    finite = xp.where(xp.isfinite(L), L, 1.0)
    if xp is NUMPY:
        return np.linalg.svd(finite, compute_uv=False)[..., -1]
    found = jax.vmap(lambda one: singular(one)[1][0])(finite.reshape(-1, k, k))
    return found.reshape(L.shape[:-2])


@np.errstate(all="ignore")
def is_in_range(at: Estimates, held: np.ndarray | None) -> Any:
    """Whether floats hold the variances of residuals and of fixed effects, a lane or one fit."""
    xp = namespace(at.cov_beta)
    scale = xp.asarray(at.scale)[..., None]
    variances = xp.concatenate([scale * xp.diagonal(at.cov_beta, 0, -2, -1), scale], axis=-1)
    known = xp.isfinite(variances) & (variances >= _LEAST_VARIANCE)
    return (known if held is None else known | (variances == 0)).all(axis=-1)


def has_optimum(solution: Solution, structures: Sequence[Structure], is_singular: Any) -> Any:
    """Which of many fits have converged to an optimum that the data determine, (R,)."""
    converged = on_host(solution.status) == CONVERGED
    return converged & ~is_flat(solution, structures, is_singular)
