"""Whether this process was forked from one in which JAX had computed.

XLA computes in threads, and a fork copies none of them. The hooks are set when the package is
imported, which does not import JAX: whoever computes first is seen.
"""

from __future__ import annotations

import os
import sys

_has_threads = False  # of the process that forks
_lost_threads = False  # of the process that it made


def lost_threads() -> bool:
    """Whether threads of XLA were lost in a fork that made this process."""
    return _lost_threads


def _before_fork() -> None:
    global _has_threads
    bridge = sys.modules.get("jax._src.xla_bridge")
    # takes a lock: not in the copy
    _has_threads = bridge is not None and bool(bridge.backends_are_initialized())


def _in_the_copy() -> None:
    global _lost_threads
    _lost_threads = _lost_threads or _has_threads


if hasattr(os, "register_at_fork"):  # POSIX
    os.register_at_fork(before=_before_fork, after_in_child=_in_the_copy)
