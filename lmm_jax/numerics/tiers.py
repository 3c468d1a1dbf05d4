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
from typing import Any

RUNTIMES = ("auto", "numpy", "jax")
# Shapes of one program that are remembered.
_MOST_SHAPES = 1000
# Seconds that the compilation of a fit takes on the machines of today, about.
COMPILING = 4.0


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

    def takes_numpy(self, key: Hashable, numbers: int) -> bool:
        """Whether a call of this shape is for NumPy.

        Parameters
        ----------
        key : hashable
            Shapes, types and static arguments: what a compiled program is for.
        numbers : int
            How many there are in the arguments.
        """
        asked = _asked.get()[0]
        if asked != "auto":
            return asked == "numpy"
        if key in self.compiled or self.spent.get(key, 0.0) > COMPILING:
            return False
        return numbers * self.seconds < COMPILING

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
