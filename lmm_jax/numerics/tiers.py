"""Where a program runs: worked off by NumPy at once, or compiled by JAX first.

A compilation takes longer than most fits, and hardly anybody fits one shape twice. A program
starts in NumPy, as in a virtual machine with tiers, and is compiled where that pays: where it
has been compiled already, where NumPy would take longer than the compiler, and once NumPy has
spent on a shape what compiling it costs.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

RUNTIMES = ("auto", "numpy", "jax")
# Shapes of one program that are remembered.
_MOST_SHAPES = 1000
# Seconds that a compilation takes on the machines of today, about: of a model with m parameters,
# whose programs are written out parameter by parameter, and of one with crossed factors.
_OF_GROUPS, _CROSSED = (1.5, 0.6, 0.0), (2.0, 1.5, 0.03)


def compiling(m: int = 0, *, crossed: bool = False) -> float:
    """Seconds that a program of a model with m covariance parameters takes to compile."""
    once, each, pair = _CROSSED if crossed else _OF_GROUPS
    return once + each * m + pair * m**2


class Log:
    """Which runtimes a computation has used."""

    def __init__(self) -> None:
        self.used: set[str] = set()

    @property
    def runtime(self) -> str:
        """``"jax"`` if anything was compiled for it, otherwise ``"numpy"``."""
        return "jax" if "jax" in self.used else "numpy"


_asked: ContextVar[tuple[str, Log]] = ContextVar("runtime", default=("auto", Log()))


@contextmanager
def staying_on(runtime: str) -> Iterator[None]:
    """Context in which the programs of a computation under way do not change their runtime."""
    token = _asked.set((runtime, _asked.get()[1]))
    try:
        yield
    finally:
        _asked.reset(token)


@contextmanager
def running_on(runtime: str) -> Iterator[Log]:
    """Context whose programs run on one of ``RUNTIMES``; its value knows which was used."""
    token = _asked.set((runtime, Log()))
    try:
        yield _asked.get()[1]
    finally:
        _asked.reset(token)


def note(runtime: str) -> None:
    """Remember that a program ran on NumPy or JAX."""
    _asked.get()[1].used.add(runtime)


@dataclass
class Tier:
    """What is known of one program, shape by shape."""

    seconds: float  # that NumPy takes for each number in the arguments, about
    compiled: set[Hashable] = field(default_factory=set)
    spent: dict[Hashable, float] = field(default_factory=dict)  # seconds in NumPy

    def takes_numpy(self, key: Hashable, numbers: float, price: float | None = None) -> bool:
        """Whether a call of this shape is for NumPy.

        Parameters
        ----------
        key : hashable
            Shapes, types and static arguments: what a compiled program is for.
        numbers : int
            How many there are in the arguments.
        price : float, optional
            Seconds that the compilation would take; by default that of a small program.
        """
        price = compiling() if price is None else price
        asked = _asked.get()[0]
        if asked != "auto":
            return asked == "numpy"
        if key in self.compiled or self.spent.get(key, 0.0) > price:
            return False
        return numbers * self.seconds < price

    @contextmanager
    def one_runtime(self, key: Hashable, numbers: int, price: float) -> Iterator[bool]:
        """Context whose programs all stay where a computation of this shape is for.

        Its value is whether they are compiled; the arguments are those of :meth:`takes_numpy`.
        """
        on_numpy, free = self.takes_numpy(key, numbers, price), _asked.get()[0] == "auto"
        begun = perf_counter()
        try:
            with staying_on("numpy" if on_numpy else "jax"):
                yield not on_numpy
        finally:  # what is interrupted has taken its time, too
            if on_numpy and free:  # of a context within another, that one counts
                self.add(key, perf_counter() - begun)
        if not on_numpy:
            self.add_compiled(key)

    def add_compiled(self, key: Hashable) -> None:
        """Remember that there is a program for this shape."""
        _make_room(self.compiled)
        self.compiled.add(key)

    def add(self, key: Hashable, seconds: float) -> None:
        """Count the time of a call in NumPy."""
        _make_room(self.spent)
        self.spent[key] = self.spent.get(key, 0.0) + seconds


def _make_room(book: Any) -> None:
    """Forget all where there are too many: a long process sees shapes without end."""
    if len(book) >= _MOST_SHAPES:
        book.clear()
