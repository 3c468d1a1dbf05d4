"""The door to JAX: numbers in 64 bits, in a process whose threads are there.

XLA computes in threads. A fork copies the memory of a process but none of its threads,
so that a computation in the copy waits for ever; here it is refused instead.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import jax

from ..errors import ForkError
from ..forks import lost_threads


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
