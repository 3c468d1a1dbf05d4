"""Ticks of many lanes side by side, in a program or in NumPy, until few are left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..numerics.namespace import JAX, STACKED, namespace
from ..numerics.stacked import as_lanes, lanes_first, lanes_last, stacked
from ..optimize.newton import RUNNING
from ..optimize.point import State


def tick_lanes(states: State, tick: Callable[[State], State], least: Any, *, axis: int) -> State:
    """Tick until at most ``least`` lanes are running; those that have ended stay as they are.

    Parameters
    ----------
    states : State
        Arrays of R lanes.
    tick : callable
        One tick of all lanes: arrays of JAX as they are, those of NumPy as
        :class:`lmm_jax.numerics.stacked.Stacked`.
    least : int
    axis : {0, -1}
        Of the lanes in the states.

    Returns
    -------
    State
        Arrays as those of ``states``.
    """
    if namespace(states.theta) is JAX:
        go_on = lambda s: jnp.sum(s.status == RUNNING) > least  # noqa: E731
        return lax.while_loop(go_on, lambda s: _of_running(s, tick(s), axis), states)
    at, R = as_lanes(states) if axis else stacked(states), states.status.size
    while (running := at.status == RUNNING).lanes.sum() > least:
        at = STACKED.choose(running, tick(at), at)
    out: State = lanes_last(at, R) if axis else lanes_first(at, R)
    return out


def _of_running(old: State, new: State, axis: int) -> State:
    """The new states of lanes that run, the old ones of others."""
    running = old.status == RUNNING

    def pick(a: Array, b: Array) -> Array:
        others = tuple(range(a.ndim - 1)) if axis else tuple(range(1, a.ndim))
        return jnp.where(jnp.expand_dims(running, others), a, b)

    out: State = jax.tree.map(pick, new, old)
    return out
