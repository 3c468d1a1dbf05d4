"""Trust-region Newton over theta as one flat state machine in pure JAX.

Each tick evaluates the criterion once and accepts or shrinks; nothing is nested,
so the loop can be jitted and batched. Theta is unconstrained (the criterion is
even in the sign of a column of Lambda); optimality on the boundary is judged in
Psi, where the criterion is smooth and the positive semidefinite cone is the
only constraint.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .covariance import factor_blocks, stack_theta, theta_size
from .layouts.grouped import GroupedLayout, waist
from .likelihood import Jet, profile_jet, profile_waist
from .linalg import psd_cholesky

RUNNING, CONVERGED, MAXITER, NONFINITE, STALLED = range(5)
MESSAGES = {
    RUNNING: "the optimizer is still running",
    CONVERGED: "converged: tiny Newton decrement and positive curvature",
    MAXITER: "the iteration limit was reached before the Newton decrement was small",
    NONFINITE: "the criterion is not finite at the start values",
    STALLED: "no step lowers the criterion, yet its gradient is not small: "
    "a covariance parameter may not be identified by these data",
}

# Decrements are in units of the deviance and so do not depend on the units of the data.
_DECREMENT_TOL = 1e-9
# Eigenvalues of the Hessian and of d criterion / d Psi below minus this, relative to the
# largest, count as negative. A slope that small could gain no more than about its square.
_CURVATURE_TOL = 1e-7
_SLOPE_TOL = 1e-4
# Relative standard deviation (in units of sigma, covariates whitened) near the boundary.
_PIVOT_TOL = 1e-3
# A full grid of start values is evaluated while that costs next to nothing.
_SMALL_PROBLEM = 1 << 16
_MAX_RUNS = 3


class Solution(NamedTuple):
    """The end of a minimization."""

    theta: Array  # (m,)  in the layout's coordinates
    jet: Jet
    status: Array  # ()    one of the codes above
    n_iter: Array  # ()
    decrement: Array  # ()  Newton decrement g' H^-1 g at theta


class _State(NamedTuple):
    theta: Array
    jet: Jet
    radius: Array
    lift: Array  # size of the next step off the boundary
    tick: Array
    status: Array
    decrement: Array


class _Step(NamedTuple):
    trial: Array  # (m,)
    predicted: Array  # ()  decrease of the quadratic model
    length: Array  # ()
    decrement: Array  # ()
    lifting: Array  # ()  bool: a step off the boundary of the cone
    final: Array  # ()  bool: the point is optimal, the step only polishes


def newton(
    theta: Array, layout: GroupedLayout, *, reml: bool, maxiter: int, tol: float = _DECREMENT_TOL
) -> Solution:
    """Minimize the criterion from one start, in the layout's coordinates.

    Parameters
    ----------
    theta : Array, shape (m,)
    layout : GroupedLayout
    reml : bool
    maxiter : int
        Limit on evaluations of value, gradient and Hessian.
    tol : float
        Newton decrement, in deviance units, below which a point is stationary.

    Returns
    -------
    Solution
        ``CONVERGED`` means a decrement below ``tol``, no direction of negative
        curvature in theta and none that enters the cone downhill in Psi.
    """

    def keep_going(s: _State) -> Array:
        return s.status == RUNNING

    def tick(s: _State) -> _State:
        step = _propose(s, layout.sizes, tol)
        jet = profile_jet(step.trial, layout, reml=reml)
        return _judge(s, step, jet, maxiter)

    s = lax.while_loop(keep_going, tick, _first_state(theta, layout, reml=reml))
    return Solution(s.theta, s.jet, s.status, s.tick, s.decrement)


def _first_state(theta: Array, layout: GroupedLayout, *, reml: bool) -> _State:
    """State in which nothing is known yet: the first tick evaluates the start itself.

    So the program holds one copy of the criterion, which halves its compile time.
    """
    shapes = jax.eval_shape(lambda t: profile_jet(t, layout, reml=reml), theta)
    jet: Jet = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    one = jnp.ones((), theta.dtype)
    return _State(
        theta=theta,
        jet=jet._replace(value=one * jnp.inf),
        radius=jnp.maximum(one, jnp.linalg.norm(theta)),
        lift=one,
        tick=jnp.zeros((), jnp.int32),
        status=jnp.full((), RUNNING, jnp.int32),
        decrement=one * jnp.inf,
    )


def _propose(s: _State, sizes: tuple[int, ...], tol: float) -> _Step:
    """Next trial point: Newton with |eigenvalues|, plus escapes from saddles and corners."""
    g = s.jet.gradient
    e, V = jnp.linalg.eigh(s.jet.hessian)
    top = jnp.maximum(jnp.max(jnp.abs(e)), 1e-8)
    along = V.T @ g
    size = jnp.maximum(jnp.abs(e), 1e-10 * top)
    decrement = jnp.sum(along**2 / size)
    flat = decrement < tol
    saddle = (decrement < 1e-3) & (e[0] < -_CURVATURE_TOL * top)
    p = -V @ (along / size)
    p = p + jnp.where(saddle, 0.1 * s.radius, 0.0) * V[:, 0] * jnp.where(along[0] > 0, -1.0, 1.0)
    length = jnp.linalg.norm(p)
    p = p * jnp.minimum(1.0, s.radius / jnp.maximum(length, jnp.finfo(p.dtype).tiny))
    predicted = -(g @ p + 0.5 * p @ s.jet.hessian @ p)
    known = jnp.isfinite(s.jet.value)
    lifted, downhill = _lift(s, sizes)
    lifting = known & flat & ~saddle & downhill & (s.lift > 1e-7)
    return _Step(
        trial=jnp.where(known, jnp.where(lifting, lifted, s.theta + p), s.theta),
        predicted=predicted,
        length=jnp.minimum(length, s.radius),
        decrement=decrement,
        lifting=lifting,
        final=known & flat & ~saddle & ~lifting,
    )


def _lift(s: _State, sizes: tuple[int, ...]) -> tuple[Array, Array]:
    """Step off the boundary of the cone along the steepest feasible direction.

    Where the derivative G of the criterion in Psi has a negative eigenvalue with
    eigenvector v, ``Psi + t v v'`` lowers the criterion although theta is
    stationary: the corner that a triangular factor has at a zero pivot.
    """
    blocks = list(factor_blocks(s.theta, sizes))
    downhill = jnp.zeros((), bool)
    for t, (L, G) in enumerate(zip(blocks, s.jet.psi_gradients, strict=True)):
        if L.shape[0] == 1:
            continue  # one pivot, no corner: the curvature in theta decides
        e, V = jnp.linalg.eigh(G)
        cornered = jnp.min(jnp.abs(jnp.diagonal(L))) < _PIVOT_TOL
        found = cornered & (e[0] < -_SLOPE_TOL * jnp.maximum(jnp.max(jnp.abs(e)), 1.0))
        v = V[:, 0]
        size = s.lift * 0.1 * (1.0 + jnp.trace(L @ L.T))
        raised = psd_cholesky(L @ L.T + size * v[:, None] * v[None, :])
        blocks[t] = jnp.where(found, raised, L)
        downhill = downhill | found
    return stack_theta(blocks), downhill


def _judge(s: _State, step: _Step, jet: Jet, maxiter: int) -> _State:
    """Accept or shrink, and say whether that was the last step."""
    eps = jnp.finfo(s.theta.dtype).eps
    noise = 32.0 * eps * (1.0 + jnp.abs(jet.value))
    gain = s.jet.value - jet.value
    finite = jnp.isfinite(jet.value) & jnp.all(jnp.isfinite(jet.gradient))
    small = step.predicted < noise
    first = s.tick == 0
    good = finite & jnp.where(
        step.lifting, gain > noise, (gain > 0.05 * step.predicted) | (small & (gain > -noise))
    )
    good = good | (first & finite)
    ratio = gain / jnp.maximum(step.predicted, noise)
    radius = jnp.where(
        good,
        jnp.where(ratio > 0.5, jnp.maximum(s.radius, 2.5 * step.length), s.radius),
        0.3 * step.length,
    )
    radius = jnp.where(step.lifting | first, s.radius, radius)
    lift = jnp.where(step.lifting & ~good, 0.1 * s.lift, s.lift)
    stuck = ~good & ~step.lifting & (radius < 1e-13)
    exhausted = s.tick + 1 >= maxiter
    near = step.decrement < 1e3 * _DECREMENT_TOL
    status = jnp.where(exhausted, MAXITER, RUNNING)
    stuck = stuck | (small & ~good & ~step.lifting)
    status = jnp.where(stuck, jnp.where(near, CONVERGED, STALLED), status)
    status = jnp.where(step.final, CONVERGED, status)
    status = jnp.where(first & ~finite, NONFINITE, status)
    return _State(
        theta=jnp.where(good, step.trial, s.theta),
        jet=jax.tree.map(lambda new, old: jnp.where(good, new, old), jet, s.jet),
        radius=radius,
        lift=lift,
        tick=s.tick + 1,
        status=status.astype(jnp.int32),
        decrement=step.decrement,
    )


def minimize(layout: GroupedLayout, *, reml: bool, maxiter: int) -> Solution:
    """Best optimum over the starts that the data suggest.

    A small problem is looked over on a grid of relative standard deviations,
    one axis a term, and Newton runs from every local minimum of the grid (three
    at most); a large one starts from moment estimates. An optimum on the
    boundary is challenged by one more run from the interior.
    """
    starts, wanted = start_values(layout, reml=reml)
    n_starts = starts.shape[0]

    def run(i: Array, best: Solution) -> Solution:
        inner, cornered = _off_boundary(best.theta, layout.sizes)
        start = jnp.where(i < n_starts, starts[jnp.minimum(i, n_starts - 1)], inner)
        go = jnp.where(i < n_starts, wanted[jnp.minimum(i, n_starts - 1)], cornered)

        def challenge(b: Solution) -> Solution:
            return _better(b, newton(start, layout, reml=reml, maxiter=maxiter))

        return lax.cond(go, challenge, lambda b: b, best)

    worst = jax.eval_shape(lambda t: newton(t, layout, reml=reml, maxiter=maxiter), starts[0])
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), worst)
    empty = empty._replace(status=jnp.full_like(empty.status, NONFINITE))
    return lax.fori_loop(0, n_starts + 1, run, empty)


def _off_boundary(theta: Array, sizes: tuple[int, ...]) -> tuple[Array, Array]:
    """A start with every singular term reopened, and whether there was one."""
    factors = factor_blocks(theta, sizes)
    singular = [jnp.min(jnp.abs(jnp.diagonal(L))) < _PIVOT_TOL for L in factors]
    opened = [
        jnp.where(at_zero, 0.5 * jnp.eye(L.shape[0], dtype=L.dtype), L)
        for L, at_zero in zip(factors, singular, strict=True)
    ]
    return stack_theta(opened), jnp.any(jnp.stack(singular))


def _better(a: Solution, b: Solution) -> Solution:
    """The lower of two optima; a converged one before one that is not."""
    noise = 1e-9 * (1.0 + jnp.abs(a.jet.value))
    void = a.status == NONFINITE
    converged_a, converged_b = a.status == CONVERGED, b.status == CONVERGED
    lower = b.jet.value < a.jet.value - noise
    tie = jnp.abs(b.jet.value - a.jet.value) <= noise
    take_b = void | (jnp.isfinite(b.jet.value) & (lower | (tie & converged_b & ~converged_a)))
    chosen = jax.tree.map(lambda x, y: jnp.where(take_b, y, x), a, b)
    return chosen._replace(n_iter=a.n_iter + b.n_iter)


def start_values(layout: GroupedLayout, *, reml: bool) -> tuple[Array, Array]:
    """Candidates for theta, best first, and which of them deserve a run.

    Returns
    -------
    starts : Array, shape (K, m)
    wanted : Array of bool, shape (K,)
    """
    if sum(b.c.size for b in layout.buckets) > _SMALL_PROBLEM:
        return moment_theta(layout)[None], jnp.ones(1, bool)
    axes = _grid_axes(len(layout.sizes))
    points = np.array(list(product(*axes)))
    if len(layout.sizes) > 4:  # too many terms for a grid: all scales together
        points = np.repeat(_grid_axes(1)[0][:, None], len(layout.sizes), axis=1)
    grid = jnp.asarray(points, layout.S0.dtype)
    thetas = jax.vmap(lambda s: _isotropic(s, layout.sizes))(grid)

    def value(theta: Array) -> Array:
        blocks = tuple(L @ L.T for L in factor_blocks(theta, layout.sizes))
        return profile_waist(waist(blocks, layout), layout, reml=reml).deviance

    values = jax.vmap(value)(thetas)
    values = jnp.where(jnp.isfinite(values), values, jnp.inf)
    shape = tuple(len(a) for a in axes) if len(layout.sizes) <= 4 else (len(points),)
    ranked = jnp.where(_local_minima(values.reshape(shape)).ravel(), values, jnp.inf)
    order = jnp.argsort(ranked)[:_MAX_RUNS]
    return thetas[order], jnp.isfinite(ranked[order])


def _grid_axes(n_terms: int) -> list[np.ndarray]:
    """Relative standard deviations to look at, one array a term."""
    count = {1: 9, 2: 7, 3: 5, 4: 4}.get(n_terms, 1)
    low, high = (0.01, 200.0) if n_terms == 1 else (0.03, 30.0)
    return [np.geomspace(low, high, count)] * n_terms


def _local_minima(values: Array) -> Array:
    """Grid points that no axis neighbour undercuts."""
    lowest = jnp.ones(values.shape, bool)
    for axis in range(values.ndim):
        pad = [(1, 1) if a == axis else (0, 0) for a in range(values.ndim)]
        wide = jnp.pad(values, pad, constant_values=jnp.inf)
        n = values.shape[axis]
        lowest &= values <= lax.slice_in_dim(wide, 0, n, axis=axis)
        lowest &= values < lax.slice_in_dim(wide, 2, n + 2, axis=axis)
    return lowest


def _isotropic(scales: Array, sizes: tuple[int, ...]) -> Array:
    """Theta with ``Lambda = scale * I`` in every term."""
    return stack_theta([scales[t] * jnp.eye(k, dtype=scales.dtype) for t, k in enumerate(sizes)])


def moment_theta(layout: GroupedLayout) -> Array:
    """Moment estimate of one relative standard deviation a coefficient, as theta.

    ``E |T_a' c|^2 = sigma^2 (sum |T_a|^2 + psi sum |T_a|^4)`` for every column a of T,
    with sigma^2 from the rows that the random effects do not reach.
    """
    p = layout.beta_origin.size
    ranks = sum(jnp.sum(jnp.diagonal(b.T) != 0) for b in layout.buckets)
    free = jnp.maximum(layout.n_obs - ranks - p, 1.0)
    sigma2 = layout.S0[p, p] / free
    observed, first, second = [], [], []
    for b in layout.buckets:
        norms = jnp.sum(b.T**2, axis=0)  # (q, G)
        observed.append(jnp.sum(jnp.sum(b.T * b.c[:, None, p], axis=0) ** 2, axis=1))
        first.append(jnp.sum(norms, axis=1))
        second.append(jnp.sum(norms**2, axis=1))
    blocks, start = [], [0] * len(layout.buckets)
    for t, k in enumerate(layout.sizes):
        sums = []
        for part in (observed, first, second):
            total = jnp.zeros(k, layout.S0.dtype)
            for i, b in enumerate(layout.buckets):
                stop = start[i] + k * b.widths[t]
                total = total + part[i][start[i] : stop].reshape(-1, k).sum(axis=0)
            sums.append(total)
        start = [s + k * b.widths[t] for s, b in zip(start, layout.buckets, strict=True)]
        psi = (sums[0] / jnp.maximum(sigma2, 1e-300) - sums[1]) / jnp.maximum(sums[2], 1e-300)
        psi = jnp.where(jnp.isfinite(psi), jnp.clip(psi, 1e-4, 1e8), 1.0)
        blocks.append(jnp.diag(jnp.sqrt(psi)))
    return stack_theta(blocks)


def solve(layout: GroupedLayout, start: Array | None, *, reml: bool, maxiter: int) -> Solution:
    """Minimize from ``start`` alone, or from the data's own starts if it is None."""
    if theta_size(layout.sizes) == 0:
        raise ValueError("a mixed model needs at least one random-effects term")
    if start is None:
        return minimize(layout, reml=reml, maxiter=maxiter)
    return newton(start, layout, reml=reml, maxiter=maxiter)
