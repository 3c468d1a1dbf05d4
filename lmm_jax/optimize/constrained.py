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
from jax import Array, lax
from jax.scipy.linalg import block_diag

from ..covariance.theta import factor_blocks, stack_theta
from ..layouts.contract import Layout
from ..likelihood.coordinates import inverse_whiteners, outer_beta, theta_of, whiten_factors
from ..likelihood.criterion import Jet, residual_df
from ..likelihood.profile import deviance_at, profile_jet, profile_waist
from ..numerics.linalg import psd_cholesky
from ..numerics.namespace import namespace, traced_once
from .history import Recorder
from .newton import DECREMENT_TOL, certified, newton

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
    rss: Array  # ()      in units of y_scale^2
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
    blocks = []
    start = 0
    scales = column_scales(layout)
    for mask, Psi, scale in zip(problem.masks, problem.held, scales, strict=True):
        count = sum(sum(row[: i + 1]) for i, row in enumerate(mask))
        block = _held_factor(x[start : start + count], mask, Psi / (scale[:, None] * scale[None]))
        blocks.append(scale[:, None] * block)
        start += count
    return whiten_factors(tuple(blocks), layout)


def _held_factor(x: Array, mask: Mask, Psi: Array) -> Array:
    """Lower triangular factor with free entries from x and the others from Psi."""
    k = len(mask)
    zero = jnp.zeros((), x.dtype)
    L = [[zero] * k for _ in range(k)]
    at = 0
    for i in range(k):
        for j in range(i + 1):
            if mask[i][j]:
                L[i][j] = x[at]
                at += 1
                continue
            rest = Psi[i, j] - sum((L[i][m] * L[j][m] for m in range(j)), zero)
            if i == j:
                some = rest > 0  # below zero no covariance has these entries: NaN refuses it
                root = jnp.sqrt(jnp.where(some, rest, 1.0))
                L[i][j] = jnp.where(some, root, jnp.where(rest == 0, 0.0, jnp.nan))
            else:
                pivot = L[j][j]
                some = pivot != 0
                L[i][j] = jnp.where(some, rest / jnp.where(some, pivot, 1.0), 0.0)
    return jnp.stack([jnp.stack(row) for row in L])


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
    """Value, gradient and Hessian of the objective by automatic differentiation."""
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
    values = lax.map(lambda x: objective(x, problem, reml=reml)[0], starts)
    return starts[jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf))]


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
    x = lowest(starts, problem, reml=reml)
    if x.size:
        jet = partial(evaluate, problem=problem, reml=reml)
        found = newton(x, jet, (), maxiter=maxiter, tol=tol, watch=watch)
        x, status, n_iter = found.theta, found.status, found.n_iter
        decrement, hessian = found.decrement, found.jet.hessian
    else:
        status, n_iter = jnp.full((), 1, jnp.int32), jnp.zeros((), jnp.int32)
        decrement, hessian = jnp.zeros(()), jnp.zeros((0, 0))
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
    layout, p = problem.layout, n_explicit(problem)

    def theta_of(x: Array) -> Array:
        return stack_theta(inner_factors(x[p:], problem))

    theta = theta_of(x)
    jet = profile_jet(theta, layout, reml=reml)
    status = certified(status, jet)
    inverse = 2.0 * _positive_inverse(hessian)
    J = jax.jacfwd(theta_of)(x) if x.size else jnp.zeros((theta.size, 0), theta.dtype)
    plain = objective(x, problem, reml=reml)[1] if x.size else jet.value
    beta, cov_beta, rss = jet.profile.beta, jet.profile.cov_beta, jet.profile.rss
    if problem.fe_pen is not None:
        factors = inner_factors(x[p:], problem)
        at = layout.waist_of(factors, x[p:])
        v = jnp.append(-x[:p], 1.0)
        beta, rss = x[:p], v @ at.gram @ v
        cov_beta = inverse[:p, :p] * residual_df(layout, reml=reml) / rss
    return ConstrainedSolution(
        theta=theta,
        jet=jet,
        status=status,
        n_iter=n_iter,
        decrement=decrement,
        cov_theta=J @ inverse @ J.T,
        beta=beta,
        cov_beta=cov_beta,
        rss=rss,
        deviance=plain,
    )


def _positive_inverse(H: Array) -> Array:
    """Inverse over the directions of positive curvature."""
    if H.shape[0] == 0:
        return H
    e, V = jnp.linalg.eigh(0.5 * (H + H.T))
    usable = e > 1e-10 * jnp.max(jnp.abs(e))
    inverse = jnp.where(usable, 1.0 / jnp.where(usable, e, 1.0), 0.0)
    return (V * inverse[None, :]) @ V.T


def full_masks(sizes: tuple[int, ...]) -> tuple[Mask, ...]:
    """Every entry free."""
    return tuple(tuple((True,) * k for _ in range(k)) for k in sizes)


def free_flags(masks: tuple[Mask, ...]) -> np.ndarray:
    """Whether each covariance parameter is free, lower triangle row by row."""
    flags = [mask[i][j] for mask in masks for i in range(len(mask)) for j in range(i + 1)]
    return np.array(flags, dtype=bool)
