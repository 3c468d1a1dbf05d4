"""Minimization of the profiled criterion: which starts, which runs, which optimum."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from .covariance import factor_blocks, stack_theta
from .layouts.grouped import GroupedLayout
from .likelihood import profile_jet
from .newton import CONVERGED, DECREMENT_TOL, NONFINITE, PIVOT_TOL, Solution, newton
from .starts import start_values


def minimize(
    layout: GroupedLayout,
    start: Array | None = None,
    *,
    reml: bool,
    maxiter: int,
    tol: float = DECREMENT_TOL,
) -> Solution:
    """Best optimum over the starts that the data suggest.

    A small problem is looked over on a grid of relative standard deviations,
    one axis a term, and Newton runs from every local minimum of the grid (three
    at most); a large one starts from moment estimates. An optimum on the
    boundary is challenged by one more run from the interior.

    Parameters
    ----------
    layout : GroupedLayout
    start : Array, shape (m,), optional
        The only start, in the layout's coordinates.
    reml : bool
    maxiter : int
        Limit on the steps of one run.
    tol : float
        See :func:`lmm_jax.newton.newton`.
    """
    if start is None:
        starts, wanted = start_values(layout, reml=reml)
    else:
        starts, wanted = start[None], jnp.ones(1, bool)
    n_starts = starts.shape[0]

    def descend(theta: Array) -> Solution:
        return newton(
            theta,
            lambda t: profile_jet(t, layout, reml=reml),
            layout.sizes,
            maxiter=maxiter,
            tol=tol,
        )

    def run(i: Array, best: Solution) -> Solution:
        inner, cornered = _off_boundary(best.theta, layout.sizes)
        theta = jnp.where(i < n_starts, starts[jnp.minimum(i, n_starts - 1)], inner)
        go = jnp.where(i < n_starts, wanted[jnp.minimum(i, n_starts - 1)], cornered)

        def challenge(b: Solution) -> Solution:
            return _better(b, descend(theta))

        return lax.cond(go, challenge, lambda b: b, best)

    worst = jax.eval_shape(descend, starts[0])
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), worst)
    empty = empty._replace(status=jnp.full_like(empty.status, NONFINITE))
    return lax.fori_loop(0, n_starts + 1, run, empty)


def _off_boundary(theta: Array, sizes: tuple[int, ...]) -> tuple[Array, Array]:
    """A start with every singular term reopened, and whether there was one."""
    factors = factor_blocks(theta, sizes)
    singular = [jnp.min(jnp.abs(jnp.diagonal(L))) < PIVOT_TOL for L in factors]
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
