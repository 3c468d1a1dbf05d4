"""Which of two optima is the better one."""

from __future__ import annotations

from typing import Any

from ..numerics.namespace import namespace
from .newton import CONVERGED, NONFINITE, Solution

# Difference of two optima, in units of the deviance, that is none where digits are lost.
_TIE = 1e-2


def second_is_better(a: Solution, b: Solution) -> Any:
    """Whether b is the lower of two optima, or as low and converged where a is not."""
    xp = namespace(a.theta, b.theta)
    # what rounds is bounded from far above: no bound makes a difference in earnest a tie
    lost = xp.minimum(a.jet.noise + b.jet.noise, _TIE)
    noise = 1e-9 * (1.0 + xp.abs(a.jet.value)) + lost
    lower = b.jet.value < a.jet.value - noise
    tie = xp.abs(b.jet.value - a.jet.value) <= noise
    gained = (b.status == CONVERGED) & (a.status != CONVERGED)
    return (a.status == NONFINITE) | (xp.isfinite(b.jet.value) & (lower | (tie & gained)))


def better(a: Solution, b: Solution) -> Solution:
    """The better of two optima, with the iterations of both."""
    xp = namespace(a.theta, b.theta)
    take_b = second_is_better(a, b)
    chosen: Solution = xp.choose(take_b, b, a)
    return chosen._replace(n_iter=a.n_iter + b.n_iter)
