"""The criterion with parameters held fixed or penalized, and its minimization.

Coordinates ``x``: the fixed effects of the layout, where a penalty needs them,
then the free entries of the relative covariance factors. A fixed entry of a
covariance determines the entry of its factor from those before it, row by row:

    L_ij = (Psi_ij - sum_l L_il L_jl) / L_jj        L_ii = sqrt(Psi_ii - sum_l L_il^2)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import block_diag

from ..covariance.theta import factor_blocks, stack_theta
from ..layouts.contract import Layout
from ..likelihood.coordinates import inverse_whiteners, outer_beta, theta_of
from ..likelihood.criterion import Jet, scale_of
from ..likelihood.profile import deviance_at, profile_jet, profile_waist
from ..numerics.linalg import psd_cholesky
from ..numerics.namespace import namespace, traced_once
from ..numerics.taylor import Taylor, constant, stack, variables
from .history import Recorder
from .newton import CONVERGED, DECREMENT_TOL, certified, newton

Mask = tuple[tuple[bool, ...], ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Problem:
    """A criterion over free parameters only."""

    layout: Layout
    held: tuple[Array, ...]  # (k, k) a term: relative covariance of the data, for fixed entries
    fe_pen: Any  # pytree that can be called with beta, or None
    cov_pen: Any  # pytree that can be called with the relative cov_re, or None
    masks: tuple[Mask, ...] | None = field(metadata={"static": True})  # free entries, or all

    @property
    def is_penalized(self) -> bool:
        """Whether something is added to the criterion that JAX has to differentiate."""
        return self.fe_pen is not None or self.cov_pen is not None


class PlainJet(NamedTuple):
    """Value and derivatives in x."""

    value: Array
    gradient: Array
    hessian: Array
    noise: Array  # rounding of the value where digits are lost
    psi_gradients: tuple[Array, ...] = ()
    psi_halves: tuple[Array, ...] = ()


class ConstrainedSolution(NamedTuple):
    """The optimum in x and what the estimates are made of."""

    theta: Array  # (m,)    in the layout's coordinates
    jet: Jet  # unconstrained criterion at theta
    status: Array
    n_iter: Array
    decrement: Array
    cov_theta: Array  # (m, m)  asymptotic covariance, zero along what is fixed
    beta: Array  # (p,)    in the layout's coordinates
    cov_beta: Array  # (p, p)  relative to sigma^2
    scale: Array  # ()      sigma^2 in units of y_scale^2
    deviance: Array  # ()      without penalties


def column_scales(layout: Layout) -> tuple[Array, ...]:
    """Inverse root mean square of the columns of every term, (k,)."""
    xp = namespace(layout.S0)
    return tuple(1.0 / xp.sqrt(xp.sum(Ai**2, axis=0)) for Ai in inverse_whiteners(layout))


def n_explicit(problem: Problem) -> int:
    """Fixed effects at the start of x."""
    return 0 if problem.fe_pen is None else problem.layout.beta_origin.size


def inner_factors(x: Array, problem: Problem) -> tuple[Array, ...]:
    """Relative covariance factors in the layout's coordinates from the free entries."""
    layout = problem.layout
    if problem.masks is None:
        return factor_blocks(x, layout.structures)
    entries = [constant(value, 0) for value in x]
    return tuple(block.value for block in _inner_blocks(entries, problem))


def inner_theta(x: Array, problem: Problem) -> Taylor:
    """Theta in the layout's coordinates, (m,), with derivatives in the free entries."""
    if problem.masks is None:
        return stack(variables(x))
    d, blocks = x.size, _inner_blocks(variables(x), problem)
    theta = stack_theta([block.value for block in blocks])
    xp = namespace(theta)

    def entries(parts: list[Array]) -> Array:
        rows = [stack_theta([part[i] for part in parts]) for i in range(len(parts[0]))]
        return xp.stack(rows)

    if not d:
        return Taylor(theta, xp.zeros((0, theta.size)), xp.zeros((0, 0, theta.size)))
    first = entries([block.first for block in blocks])
    pairs = entries([block.second.reshape(d * d, *block.value.shape) for block in blocks])
    return Taylor(theta, first, pairs.reshape(d, d, -1))


def _inner_blocks(entries: list[Taylor], problem: Problem) -> list[Taylor]:
    """Factors of the terms whose free entries these are, in the layout's coordinates."""
    layout, blocks, start = problem.layout, [], 0
    scales, inverses = column_scales(layout), inverse_whiteners(layout)
    assert problem.masks is not None
    m = len(entries[0].first) if entries else 0
    for mask, Psi, scale, inner in zip(problem.masks, problem.held, scales, inverses, strict=True):
        count = sum(sum(row[: i + 1]) for i, row in enumerate(mask))
        unit = Psi / (scale[:, None] * scale[None])
        L = _held_factor(entries[start : start + count], mask, unit, m)
        by = inner * scale[None]
        blocks.append(Taylor(by @ L.value, by[None] @ L.first, by[None, None] @ L.second))
        start += count
    return blocks


def _held_factor(free: list[Taylor], mask: Mask, Psi: Array, m: int) -> Taylor:
    """Lower triangular factor with some entries free and the others from Psi."""
    xp, k = namespace(Psi), len(mask)
    zero = constant(xp.zeros((), Psi.dtype), m)
    L = [[zero] * k for _ in range(k)]
    given = iter(free)
    for i in range(k):
        for j in range(i + 1):
            if mask[i][j]:
                L[i][j] = next(given)
                continue
            rest = Psi[i, j] - sum((L[i][n] * L[j][n] for n in range(j)), zero)
            L[i][j] = _root(rest) if i == j else _quotient(rest, L[j][j])
    return stack([stack(row) for row in L])


def _root(rest: Taylor) -> Taylor:
    """Square root; NaN below zero, where no covariance has the entries that are held."""
    xp = namespace(rest.value)
    some = rest.value > 0
    root = xp.sqrt(xp.where(some, rest.value, 1.0))
    value = xp.where(some, root, xp.where(rest.value == 0, 0.0, np.nan))
    slope = xp.where(some, 0.5 / root, 0.0)
    return rest.through(value, slope, xp.where(some, -0.25 / root**3, 0.0))


def _quotient(rest: Taylor, pivot: Taylor) -> Taylor:
    """Quotient; zero where the pivot is."""
    xp = namespace(rest.value)
    some = pivot.value != 0
    inverse = xp.where(some, 1.0 / xp.where(some, pivot.value, 1.0), 0.0)
    return rest * pivot.through(inverse, -(inverse**2), 2.0 * inverse**3)


def free_entries(
    blocks: tuple[Array, ...], layout: Layout, masks: tuple[Mask, ...] | None
) -> Array:
    """Coordinates x of given relative covariances of the data (the inverse map)."""
    if masks is None:
        return theta_of(blocks, layout)
    xp = namespace(layout.S0)
    parts = []
    for mask, Psi, scale in zip(masks, blocks, column_scales(layout), strict=True):
        L = psd_cholesky(Psi / (scale[:, None] * scale[None]))
        parts += [L[i, j] for i in range(len(mask)) for j in range(i + 1) if mask[i][j]]
    return xp.stack(parts) if parts else xp.zeros(0, layout.S0.dtype)


@partial(traced_once, static="reml")
def objective(x: Array, problem: Problem, *, reml: bool) -> tuple[Array, Array]:
    """Deviance with penalties, and without them."""
    layout, p = problem.layout, n_explicit(problem)
    factors = inner_factors(x[p:], problem)
    at = layout.waist_of(factors, x[p:])
    if problem.fe_pen is None:
        plain = value = profile_waist(at, layout, reml=reml).deviance
    else:
        plain = deviance_at(at, x[:p], layout, reml=reml)
        value = plain + 2.0 * problem.fe_pen(outer_beta(x[:p], layout))
    if problem.cov_pen is not None:
        value = value + 2.0 * problem.cov_pen(_relative_cov(factors, layout))
    return value, plain


def _relative_cov(factors: tuple[Array, ...], layout: Layout) -> Array:
    """Relative covariance of the correlated terms in the coordinates of the data."""
    n = len(layout.sizes) - layout.n_components
    outer = [A @ L for A, L in zip(layout.whiteners[:n], factors[:n], strict=True)]
    return block_diag(*(L @ L.T for L in outer)) if outer else jnp.zeros((0, 0))


@partial(traced_once, static="reml")
def evaluate(x: Array, problem: Problem, *, reml: bool) -> PlainJet:
    """Value, gradient and Hessian of the objective.

    Without penalties by the closed forms of the criterion in theta and the chain rule, in NumPy
    or JAX; a penalty is differentiated by JAX.
    """
    if problem.is_penalized:
        return _differentiated(x, problem, reml=reml)
    theta = inner_theta(x, problem)
    jet = profile_jet(theta.value, problem.layout, reml=reml)
    J = theta.first
    hessian = J @ jet.hessian @ J.T + theta.second @ jet.gradient
    return PlainJet(jet.value, J @ jet.gradient, hessian, jet.noise)


def _differentiated(x: Array, problem: Problem, *, reml: bool) -> PlainJet:
    """The same by automatic differentiation."""
    slopes = jax.value_and_grad(lambda x: objective(x, problem, reml=reml)[0])

    def along(direction: Array) -> tuple[Any, Any]:
        return jax.jvp(slopes, (x,), (direction,))

    axes = jnp.eye(x.size, dtype=x.dtype)
    (f, g), (_, hessian) = jax.vmap(along, out_axes=(None, 0))(axes)
    return PlainJet(f, g, hessian, jnp.zeros_like(f))


def lowest(starts: Array, problem: Problem, *, reml: bool) -> Array:
    """The row of ``starts``, (K, d), with the lowest objective; the first one if none has any."""
    if len(starts) == 1 or starts.shape[1] == 0:
        return starts[0]
    xp = namespace(starts)
    values = xp.map(lambda x: objective(x, problem, reml=reml)[0], starts)
    return starts[xp.argmax(xp.where(xp.isfinite(values), -values, -np.inf))]


def minimize_constrained(
    starts: Array,
    problem: Problem,
    *,
    reml: bool,
    maxiter: int,
    tol: float = DECREMENT_TOL,
    watch: Recorder | None = None,
) -> ConstrainedSolution:
    """Newton on exact derivatives over what is free, from the lowest of some starts, (K, d)."""
    xp = namespace(starts, problem.layout.S0)
    x = lowest(starts, problem, reml=reml)
    if x.size:
        jet = partial(evaluate, problem=problem, reml=reml)
        found = newton(x, jet, (), maxiter=maxiter, tol=tol, watch=watch)
        x, status, n_iter = found.theta, found.status, found.n_iter
        decrement, hessian = found.decrement, found.jet.hessian
    else:
        status, n_iter = xp.full((), CONVERGED, np.int32), xp.zeros((), np.int32)
        decrement, hessian = xp.zeros(()), xp.zeros((0, 0))
    return _carry_back(x, hessian, status, n_iter, decrement, problem, reml=reml)


def _carry_back(
    x: Array,
    hessian: Array,
    status: Array,
    n_iter: Array,
    decrement: Array,
    problem: Problem,
    *,
    reml: bool,
) -> ConstrainedSolution:
    """Estimates and their covariances at the optimum in x."""
    xp = namespace(x, problem.layout.S0)
    layout, p = problem.layout, n_explicit(problem)
    theta = inner_theta(x[p:], problem)
    jet = profile_jet(theta.value, layout, reml=reml)
    status = certified(status, jet)
    inverse = 2.0 * _positive_inverse(hessian)
    plain, at = jet.value, jet.profile
    beta, cov_beta, scale = at.beta, at.cov_beta, at.scale
    if problem.fe_pen is not None:
        waist = layout.waist_of(inner_factors(x[p:], problem), x[p:])
        v = xp.append(-x[:p], 1.0)
        plain = deviance_at(waist, x[:p], layout, reml=reml)
        beta, scale = x[:p], scale_of(v @ waist.gram @ v, layout, reml=reml)
        cov_beta = inverse[:p, :p] / scale
    return ConstrainedSolution(
        theta=theta.value,
        jet=jet,
        status=status,
        n_iter=n_iter,
        decrement=decrement,
        cov_theta=theta.first.T @ inverse[p:, p:] @ theta.first,
        beta=beta,
        cov_beta=cov_beta,
        scale=scale,
        deviance=plain,
    )


def _positive_inverse(H: Array) -> Array:
    """Inverse over the directions of positive curvature."""
    if H.shape[0] == 0:
        return H
    xp = namespace(H)
    e, V = xp.linalg.eigh(0.5 * (H + H.T))
    usable = e > 1e-10 * xp.max(xp.abs(e))
    inverse = xp.where(usable, 1.0 / xp.where(usable, e, 1.0), 0.0)
    return (V * inverse[None, :]) @ V.T


def full_masks(sizes: tuple[int, ...]) -> tuple[Mask, ...]:
    """Every entry free."""
    return tuple(tuple((True,) * k for _ in range(k)) for k in sizes)


def free_flags(masks: tuple[Mask, ...]) -> np.ndarray:
    """Whether each covariance parameter is free, lower triangle row by row."""
    flags = [mask[i][j] for mask in masks for i in range(len(mask)) for j in range(i + 1)]
    return np.array(flags, dtype=bool)
