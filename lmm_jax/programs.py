"""Compiled programs, and a bound on how many stay in memory.

Every program that XLA compiles for the CPU holds a few hundred memory mappings,
of which Linux gives a process 65,530: a program that fits hundreds of models of
different shapes would end in a crash of the compiler. The oldest programs are
therefore given up after a while; they are compiled again when needed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax

# Programs of one function that are kept: well below what the mappings allow for all of them.
_MAX_PROGRAMS = 24


def compiled(fun: Callable[..., Any], *, static: str | tuple[str, ...] = ()) -> Callable[..., Any]:
    """``jax.jit`` that forgets its programs when there are too many of them.

    Parameters
    ----------
    fun : callable
    static : str or tuple of str
        Arguments that are compiled into the program.
    """
    program: Any = jax.jit(fun, static_argnames=static)

    @wraps(fun)
    def call(*args: Any, **kwargs: Any) -> Any:
        if program._cache_size() >= _MAX_PROGRAMS:
            program.clear_cache()
        return program(*args, **kwargs)

    call.program = program  # type: ignore[attr-defined]
    return call
