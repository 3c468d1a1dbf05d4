"""An optimum of a residual covariance, challenged from what its layout makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import Array

from ..layouts.contract import Layout
from ..numerics.namespace import namespace
from .newton import CONVERGED, PROMISE, Solution
from .starts import Starts

# Times that an optimum is challenged at most; two wins in a row are the most that were seen.
_ROUNDS = 5


def run_and_challenge(
    starts: Starts, best: Solution, layout: Layout, run: Callable[[Starts, Solution], Solution]
) -> Solution:
    """The best of what is found from some starts, and from those that challenge it.

    What wins is challenged in its turn. One loop for all rounds: a program holds ``run`` once.

    Parameters
    ----------
    starts : Starts
    best : Solution
        That any other is better than.
    layout : Layout
        Its :meth:`~lmm_jax.layouts.contract.Layout.challengers` are asked for.
    run : callable
        The best of a solution and what is found from some starts.
    """
    xp = namespace(layout.S0)
    others = layout.challengers(starts.thetas[0])
    if others is None:
        return run(starts, best)
    rows = max(len(starts.thetas), len(others[0]))
    first = _padded(starts, rows)

    def again(state: tuple[Array, Array, Solution]) -> tuple[Array, Array, Solution]:
        i, _, best = state
        new = run(xp.cond(i == 0, lambda: first, lambda: against(best)), best)
        won = (i == 0) | (new.jet.value < best.jet.value - PROMISE)
        return i + 1, won & (new.status == CONVERGED), new

    def against(best: Solution) -> Starts:
        thetas, wanted = layout.challengers(best.theta) or others
        return _padded(Starts(thetas, wanted, best.jet.profile.beta), rows)

    def goes_on(state: tuple[Array, Array, Solution]) -> Array:
        return state[1] & (state[0] <= _ROUNDS)

    state: Any = xp.zeros((), np.int32), xp.ones((), bool), best
    found: Solution = xp.while_loop(goes_on, again, state)[2]
    return found


def _padded(starts: Starts, rows: int) -> Starts:
    """The starts and others that nobody wants, as many as rows in all."""
    xp, more = namespace(starts.thetas), rows - len(starts.thetas)
    thetas = xp.pad(starts.thetas, ((0, more), (0, 0)))
    return starts._replace(thetas=thetas, wanted=xp.pad(starts.wanted, ((0, more),)))
