"""The history of a fit, noted while it runs: compiled programs report every step to the host."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import io_callback

from ..numerics.namespace import NUMPY, namespace


class Row(NamedTuple):
    """One step."""

    tick: int  # 1 at the start of a run
    theta: np.ndarray  # (m,)
    objective: float
    gradient_norm: float


# Rows of the fits that are being recorded. A program reports from a thread of its own, so a fit
# is known by a number, which is an argument of the program: all fits share one program.
_ROWS: dict[int, list[Row]] = {}
_NUMBERS = count()


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Recorder:
    """Notes every step of a minimization, inside compiled programs and outside.

    An argument of the functions that minimize; None records nothing and costs nothing.
    """

    number: Any = field(default_factory=lambda: np.int32(next(_NUMBERS)))  # of the fit

    def __call__(self, tick: Any, theta: Array, value: Array, gradient: Array) -> None:
        """Note one step; the first of a run has the tick 1."""
        xp = namespace(theta)
        numbers = xp.concatenate([xp.stack([value, xp.linalg.norm(gradient)]), theta])
        if xp is NUMPY:
            return _note(numbers.dtype, self.number, tick, numbers)
        # the thread of the report may know no float64: bits travel as they are
        bits = lax.bitcast_convert_type(numbers, jnp.uint32)
        note = partial(_note, np.dtype(numbers.dtype))
        io_callback(note, None, self.number, tick, bits, ordered=True)

    def rows(self) -> list[Row]:
        """All rows so far, which are then forgotten."""
        jax.effects_barrier()
        return _ROWS.pop(int(self.number), [])


def _note(dtype: np.dtype[Any], number: Any, tick: Any, bits: Any) -> None:
    numbers = np.ascontiguousarray(bits).view(dtype).ravel()
    row = Row(int(tick), numbers[2:], float(numbers[0]), float(numbers[1]))
    _ROWS.setdefault(int(number), []).append(row)
