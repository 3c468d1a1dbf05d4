"""The door to JAX: numbers in 64 bits, in a process whose threads are there.

XLA computes in threads. A fork copies the memory of a process but none of its threads,
so that a computation in the copy waits for ever; here it is refused instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import jax
from jax.extend.core import take_current_trace

from ..errors import ForkError
from ..forks import lost_threads


def _current_trace() -> Any:
    with take_current_trace() as trace:
        return trace


with ThreadPoolExecutor(1) as _thread:  # this module may be imported while something is traced
    _UNTRACED = _thread.submit(_current_trace).result()


def check_process() -> None:
    """Raise `ForkError` where threads of XLA were lost in a fork.

    Every public function that computes calls this, or `float64`, before JAX sees anything.
    """
    if lost_threads():
        raise ForkError(
            "this process was forked from one in which JAX has computed: its threads are missing "
            'here, and the computation would wait for ever. Pass mp_context=get_context("spawn") '
            "of multiprocessing to concurrent.futures.ProcessPoolExecutor (or make the Pool of "
            'that context; "forkserver" serves as well), use threads, or fork before the first '
            "computation"
        )


@contextmanager
def float64(wanted: bool = True) -> Iterator[None]:
    """Context in which JAX computes in 64 bits and at once, whatever surrounds it.

    That is the caller's setting of bits, and a function of the caller's that is being traced:
    what depends on none of its arguments is computed here, not made a part of its program.

    Parameters
    ----------
    wanted : bool
        False: in 32 bits.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from lmm_jax.numerics.processes import float64
    >>> with float64():
    ...     print(jnp.ones(1).dtype)
    float64
    """
    check_process()
    with jax.enable_x64(wanted), eagerly():
        yield


def eagerly() -> AbstractContextManager[None]:
    """Context in which known values are computed; it makes programs anew, so only if need be."""
    traced = _current_trace() is not _UNTRACED
    return jax.ensure_compile_time_eval() if traced else nullcontext()
