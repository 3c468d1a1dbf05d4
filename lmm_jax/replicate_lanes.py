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

from .layouts.index import round_up
from .layouts.responses import Response, attach
from .layouts.waist import Layout
from .likelihood import profile_jet
from .newton import CONVERGED, DECREMENT_TOL, RUNNING, Solution, State, finish, first_state, tick
from .optimize import better, off_boundary
from .programs import compiled

# Sizes to which the lanes that go on are packed: few, since each is a program of its own.
_PACKED = (512, 64)
# Numbers in a batch up to which compiling well costs more than it saves.
_QUICK = 1 << 17


def fit_lanes(
    layout: Layout,
    responses: Response,
    start: Array | np.ndarray,
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
    options = dict(reml=reml, maxiter=maxiter, tol=tol)
    responses = jax.device_get(responses)  # rows are taken on the host: no program for each shape
    R = responses.S0.shape[0]
    at = _padded(np.arange(R))
    starts = np.broadcast_to(start, (at.size, np.size(start)))
    best = _descend(layout, take(responses, at), starts, **options)
    inner, again = jax.device_get(_challengers(best.theta, best.status, sizes=layout.sizes))
    again = np.flatnonzero(again[:R])
    if again.size:
        at = _padded(again)
        other = _descend(layout, take(responses, at), inner[at], **options)
        best = _put(best, _better(take(best, at), other), at)
    return take(best, slice(R))


def take(tree: Any, at: Any) -> Any:
    """Some lanes of a tree of NumPy arrays."""
    return jax.tree.map(lambda leaf: leaf[at], tree)


def _put(tree: Any, values: Any, at: np.ndarray) -> Any:
    """The tree with some of its lanes replaced."""

    def put(leaf: np.ndarray, new: np.ndarray) -> np.ndarray:
        out = np.array(leaf)
        out[at] = new
        return out

    return jax.tree.map(put, tree, jax.device_get(values))


def _padded(at: np.ndarray) -> np.ndarray:
    """Positions of lanes, the last one repeated up to a size that few batches have."""
    size = next((s for s in reversed(_PACKED) if s >= at.size), round_up(at.size))
    return at[np.minimum(np.arange(size), at.size - 1)]


@partial(compiled, static="sizes")
def _challengers(theta: Array, status: Array, *, sizes: tuple[int, ...]) -> tuple[Array, Array]:
    """Starts in the interior, and the lanes that need one."""
    inner, cornered = jax.vmap(lambda t: off_boundary(t, sizes))(theta)
    half = off_boundary(jnp.zeros_like(theta[0]), sizes)[0]
    lost = status != CONVERGED
    return jnp.where(lost[:, None], half[None], inner), cornered | lost


_better = compiled(jax.vmap(better))


@partial(compiled, static="reml")
def _first(layout: Layout, starts: Array, *, reml: bool) -> State:
    """Nothing is known yet in any lane; no start is near the boundary."""

    def one(theta: Array) -> State:
        inner, _ = off_boundary(theta, layout.sizes)
        return first_state(inner, lambda t: profile_jet(t, layout, reml=reml))

    return jax.vmap(one)(starts)


@partial(compiled, static="reml", small=_QUICK)
def _advance(
    layout: Layout, responses: Response, states: State, least: int, *, reml: bool,
    maxiter: int, tol: float,
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


def _descend(layout: Layout, responses: Response, starts: np.ndarray, **options: Any) -> Solution:
    """One run for every lane; the batch shrinks as lanes finish."""
    done = _first(layout, starts, reml=options["reml"])
    states, lanes = done, np.arange(len(starts))
    while True:
        least = next((s for s in _PACKED if 4 * s <= lanes.size), 0)
        mine = take(responses, lanes)
        states = jax.device_get(_advance(layout, mine, states, least, **options))
        done = states if lanes.size == len(starts) else _put(done, states, lanes)
        running = np.flatnonzero(states.status == RUNNING)
        if not running.size:
            return jax.device_get(finish(done))
        keep = _padded(running)
        lanes, states = lanes[keep], take(states, keep)
