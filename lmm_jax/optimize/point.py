"""What Newton's method asks of a criterion, and what it knows between two steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol

from jax import Array

from ..likelihood.criterion import Jet


class Point(Protocol):
    """The criterion at one theta; a NamedTuple of arrays."""

    @property
    def value(self) -> Array:
        """In units of the deviance, ()."""

    @property
    def gradient(self) -> Array:
        """In theta, (m,)."""

    @property
    def hessian(self) -> Array:
        """In theta, (m, m)."""

    @property
    def psi_gradients(self) -> tuple[Array, ...]:
        """Derivative in the Psi of every term, (k, k); empty: no check of the cone."""

    @property
    def psi_halves(self) -> tuple[Array, ...]:
        """The same times Lambda, (k, k) a term."""

    @property
    def noise(self) -> Array:
        """Rounding of the value where digits are lost, ()."""


if TYPE_CHECKING:  # Python itself knows defaults of type variables from 3.13 on
    from typing_extensions import TypeVar

    P = TypeVar("P", bound=Point, default=Jet)
else:
    from typing import TypeVar

    P = TypeVar("P")

Evaluate = Callable[[Array], P]  # theta -> Point


class State(NamedTuple, Generic[P]):
    """Between two ticks."""

    theta: Array
    jet: P
    radius: Array
    lift: Array  # size of the next step off the boundary
    tick: Array
    status: Array
    decrement: Array


class Step(NamedTuple):
    """A trial point and what is expected of it."""

    trial: Array  # (m,)
    predicted: Array  # ()  decrease of the quadratic model
    length: Array  # ()
    decrement: Array  # ()
    flat: Array  # ()  bool: the decrement is what was asked for
    lifting: Array  # ()  bool: a step off the boundary of the cone
    final: Array  # ()  bool: the point is optimal, the step only polishes
    settled: Array  # ()  bool: there is nothing left to polish
