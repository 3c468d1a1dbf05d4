"""Many fits of one design at once: the flat Newton machine over lanes, one response each.

Finished lanes wait for the others, so the batch runs only until an eighth of it is
left; the rest is packed together and goes on as a smaller batch. Lanes that end near
the boundary are challenged from the interior as single fits are.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .layouts.responses import Response, attach
from .layouts.waist import Layout
from .likelihood import profile_jet
from .newton import CONVERGED, DECREMENT_TOL, RUNNING, Solution, State, finish, first_state, tick
from .optimize import better, off_boundary
from .programs import compiled

# Lanes that go on are packed when this share of the batch is left; small batches are not.
_PACK = 8
_LEAST = 32


def fit_lanes(
    layout: Layout,
    responses: Response,
    start: Array,
    *,
    reml: bool,
    maxiter: int = 200,
    tol: float = DECREMENT_TOL,
) -> Solution:
    """Optimum for every response, all from one start.

    Parameters
    ----------
    layout : Layout
        The design; its own response is not looked at.
    responses : Response
        Arrays with a leading axis of R lanes.
    start : Array, shape (m,)
        In the layout's coordinates; reopened where it is near the boundary.
    reml : bool
    maxiter : int
        Limit on the steps of one run.
    tol : float
        See :func:`lmm_jax.newton.newton`.

    Returns
    -------
    Solution
        NumPy arrays with a leading axis of R.
    """
    R = responses.S0.shape[0]
    options = dict(reml=reml, maxiter=maxiter, tol=tol)
    opened, _ = off_boundary(jnp.asarray(start), layout.sizes)
    starts = jnp.broadcast_to(opened, (R, opened.size))
    best = _descend(layout, responses, starts, **options)
    inner, again = _challengers(best, sizes=layout.sizes)
    again = np.flatnonzero(again)
    if again.size:
        chosen = jax.tree.map(lambda leaf: leaf[again], responses)
        other = _descend(layout, chosen, inner[again], **options)
        taken = _better(jax.tree.map(lambda leaf: leaf[again], best), other)
        best = jax.tree.map(partial(_put, at=again), best, jax.device_get(taken))
    return best


def _put(into: Any, values: Any, *, at: np.ndarray) -> np.ndarray:
    out = np.array(into)
    out[at] = values
    return out


@partial(compiled, static="sizes")
def _challengers(best: Solution, *, sizes: tuple[int, ...]) -> tuple[Array, Array]:
    """Starts in the interior, and the lanes that need one."""
    inner, cornered = jax.vmap(lambda theta: off_boundary(theta, sizes))(best.theta)
    lost = best.status != CONVERGED
    half = jnp.broadcast_to(off_boundary(jnp.zeros_like(inner[0]), sizes)[0], inner.shape)
    return jnp.where(lost[:, None], half, inner), cornered | lost


_better = compiled(jax.vmap(better))


@partial(compiled, static="reml")
def _first(layout: Layout, starts: Array, *, reml: bool) -> State:
    """Nothing is known yet in any lane."""
    return jax.vmap(
        lambda theta: first_state(theta, lambda t: profile_jet(t, layout, reml=reml))
    )(starts)


@partial(compiled, static="reml")
def _advance(
    layout: Layout, responses: Response, states: State, least: Array, *, reml: bool,
    maxiter: Array, tol: Array,
) -> State:  # fmt: skip
    """Tick until at most ``least`` lanes are running."""

    def one(s: State, response: Response) -> State:
        mine = attach(layout, response)
        new = tick(s, lambda t: profile_jet(t, mine, reml=reml), layout.sizes,
                   maxiter=maxiter, tol=tol)  # fmt: skip
        return jax.tree.map(lambda a, b: jnp.where(s.status == RUNNING, a, b), new, s)

    return lax.while_loop(
        lambda s: jnp.sum(s.status == RUNNING) > least,
        lambda s: jax.vmap(one)(s, responses),
        states,
    )


def _descend(layout: Layout, responses: Response, starts: Array, **options: Any) -> Solution:
    """One run for every lane; the batch shrinks as lanes finish."""
    R = starts.shape[0]
    size = 1 << max(R - 1, _LEAST - 1).bit_length()
    lanes = np.minimum(np.arange(size), R - 1)  # the last lane again, as padding
    reml = options["reml"]
    states = _first(layout, starts[lanes], reml=reml)
    idle = np.arange(size) >= R
    states = states._replace(status=jnp.where(idle, CONVERGED, states.status))
    done: Any = None
    while True:
        least = size // _PACK if size // _PACK >= _LEAST else 0
        mine = jax.tree.map(lambda leaf: leaf[lanes], responses)  # noqa: B023
        states = jax.device_get(_advance(layout, mine, states, least, **options))
        if done is None:
            done = jax.tree.map(lambda leaf: np.array(leaf[:R]), states)
        else:
            done = jax.tree.map(partial(_put, at=lanes), done, states)
        running = np.flatnonzero(np.asarray(states.status) == RUNNING)
        if not running.size:
            return finish(done)
        size = size // _PACK
        keep = running[np.minimum(np.arange(size), running.size - 1)]
        lanes, states = lanes[keep], jax.tree.map(lambda leaf: leaf[keep], states)  # noqa: B023
