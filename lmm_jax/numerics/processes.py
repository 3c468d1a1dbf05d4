"""The door to JAX: numbers in 64 bits, in a process whose threads are there.

XLA computes in threads. A fork copies the memory of a process but none of its threads,
so that a computation in the copy waits for ever; here it is refused instead.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

import jax
from jax._src import xla_bridge

from ..errors import ForkError

_has_threads = False  # of the process that forks
_lost_threads = False  # of the process that it made


def check_process() -> None:
    """Raise `ForkError` where threads of XLA were lost in a fork.

    Every public function that computes calls this, or `float64`, before JAX sees anything.
    """
    if _lost_threads:
        raise ForkError(
            "this process was forked from one in which JAX has computed: its threads are missing "
            'here, and the computation would wait for ever. Pass mp_context=get_context("spawn") '
            "of multiprocessing to concurrent.futures.ProcessPoolExecutor (or make the Pool of "
            'that context; "forkserver" serves as well), use threads, or fork before the first '
            "computation"
        )


def float64(wanted: bool = True) -> AbstractContextManager[None]:
    """Context in which JAX computes in 64 bits, whatever the caller's setting.

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
    scope: AbstractContextManager[None] = jax.enable_x64(wanted)
    return scope


def _before_fork() -> None:
    global _has_threads
    _has_threads = xla_bridge.backends_are_initialized()  # takes a lock: not in the copy


def _in_the_copy() -> None:
    global _lost_threads
    _lost_threads = _lost_threads or _has_threads


if hasattr(os, "register_at_fork"):  # POSIX
    os.register_at_fork(before=_before_fork, after_in_child=_in_the_copy)
