"""Minimization of the profiled criterion: which starts, which runs, which optimum."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .covariance import lower_indices, theta_slices
from .history import Recorder
from .layouts.waist import Layout
from .likelihood import profile_jet
from .newton import (
    CONVERGED,
    DECREMENT_TOL,
    NONFINITE,
    PIVOT_TOL,
    Solution,
    newton,
)
from .starts import start_values

# Decrement at which the optimum of a sample of the groups is near enough to start from.
_SAMPLE_TOL = 1e-2


def minimize(
    layout: Layout,
    start: Array | None = None,
    *,
    reml: bool,
    maxiter: int,
    tol: float = DECREMENT_TOL,
    watch: Recorder | None = None,
) -> Solution:
    """Best optimum over the starts that the data suggest.

    A small problem is looked over on a grid of relative standard deviations,
    one axis a coefficient, and Newton runs from every local minimum of the grid
    (four at most); a large one starts from moment estimates, a very large one from the
    optimum that a sample of its groups has. An optimum on the boundary is
    challenged by one more run from the interior.

    Parameters
    ----------
    layout : Layout
    start : Array, shape (m,), optional
        The only start, in the layout's coordinates.
    reml : bool
    maxiter : int
        Limit on the steps of one run.
    tol : float
        See :func:`lmm_jax.newton.newton`.
    watch : Recorder, optional
        Notes the steps of all runs.
    """

    @jax.jit  # inner programs are traced once for all of their uses
    def descend(theta: Array) -> Solution:
        return _newton_on(layout, theta, reml=reml, maxiter=maxiter, tol=tol, watch=watch)

    if start is not None:
        starts, wanted = start[None], jnp.ones(1, bool)
    else:
        starts, wanted = find_starts(layout, reml=reml, maxiter=maxiter)
    n_starts = starts.shape[0]

    def run(i: Array, best: Solution) -> Solution:
        inner, cornered = off_boundary(best.theta, layout.sizes)
        theta = jnp.where(i < n_starts, starts[jnp.minimum(i, n_starts - 1)], inner)
        go = jnp.where(i < n_starts, wanted[jnp.minimum(i, n_starts - 1)], cornered)

        def another(b: Solution) -> Solution:
            return better(b, descend(theta))

        return lax.cond(go, another, lambda b: b, best)

    worst = jax.eval_shape(descend, starts[0])
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), worst)
    empty = empty._replace(status=jnp.full_like(empty.status, NONFINITE))
    return lax.fori_loop(0, n_starts + 1, run, empty)


_jet = jax.jit(profile_jet, static_argnames="reml")


def _newton_on(
    layout: Layout,
    theta: Array,
    *,
    reml: bool,
    maxiter: int,
    tol: float,
    watch: Recorder | None = None,
) -> Solution:
    evaluate = lambda t: _jet(t, layout, reml=reml)  # noqa: E731
    return newton(theta, evaluate, layout.sizes, maxiter=maxiter, tol=tol, watch=watch)


def find_starts(layout: Layout, *, reml: bool, maxiter: int) -> tuple[Array, Array]:
    """Start values, best first, and which of them deserve a run; see :func:`minimize`."""
    few = layout.thinned()
    if few is None:
        return start_values(layout, reml=reml)
    moments = few.start_moments()
    sample = _newton_on(few, moments, reml=reml, maxiter=maxiter, tol=_SAMPLE_TOL)
    found = jnp.where(sample.status == CONVERGED, sample.theta, moments)
    return found[None], jnp.ones(1, bool)


def off_boundary(theta: Any, sizes: tuple[int, ...], xp: Any = jnp) -> tuple[Any, Any]:
    """A start with every singular term reopened, and whether there was one.

    Parameters
    ----------
    theta : Array, shape (m,) or (m, R)
    sizes : tuple of int
    xp : module
        ``jax.numpy``, or ``numpy`` for lanes on the host.
    """
    opened, cornered = [], []
    for k, at in zip(sizes, theta_slices(sizes), strict=True):
        rows, columns = lower_indices(k)
        diagonal = rows == columns
        singular = xp.min(xp.abs(theta[at][np.flatnonzero(diagonal)]), axis=0) < PIVOT_TOL
        half = xp.asarray(0.5 * diagonal, theta.dtype).reshape(-1, *(1,) * (theta.ndim - 1))
        opened.append(xp.where(singular, half, theta[at]))
        cornered.append(singular)
    return xp.concatenate(opened), xp.any(xp.stack(cornered), axis=0)


def second_is_better(a: Solution, b: Solution, xp: Any = jnp) -> Any:
    """Whether b is the lower of two optima, or as low and converged where a is not."""
    noise = 1e-9 * (1.0 + xp.abs(a.jet.value))
    lower = b.jet.value < a.jet.value - noise
    tie = xp.abs(b.jet.value - a.jet.value) <= noise
    gained = (b.status == CONVERGED) & (a.status != CONVERGED)
    return (a.status == NONFINITE) | (xp.isfinite(b.jet.value) & (lower | (tie & gained)))


def better(a: Solution, b: Solution) -> Solution:
    """The better of two optima, with the iterations of both."""
    take_b = second_is_better(a, b)
    chosen = jax.tree.map(lambda x, y: jnp.where(take_b, y, x), a, b)
    return chosen._replace(n_iter=a.n_iter + b.n_iter)
