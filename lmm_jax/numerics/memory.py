"""How much memory there is for dense matrices, and where that of small ones comes from."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import jax
import numpy as np

from ..errors import DataError

# Where control groups, of containers and queues, say what a process may take: version 2, then 1.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

# Bytes up to which glibc learns; see `keep_freed_memory`.
_LEARNT = 33_000_000


def keep_freed_memory() -> None:
    """Let arrays of up to 32 MB take memory that this process has, where the allocator is glibc's.

    It asks the system for new pages, which are then cleared, for every array larger than the
    largest that has been freed so far, 128 kB at first and 32 MB at last: a first ``fit_many``
    spends more time on that than on numbers. What is allocated and freed here is never touched,
    and so costs nothing. Other allocators do not mind.

    References
    ----------
    mallopt(3), ``M_MMAP_THRESHOLD``.
    """
    with suppress(MemoryError):
        np.empty(_LEARNT, np.uint8)  # freed at once


def memory_size() -> int | None:
    """Bytes of the device that programs run on; None where nobody says.

    Of an accelerator what JAX may take of it. To ask starts JAX's threads.
    """
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return host_memory()
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit")


def host_memory() -> int | None:
    """Bytes that NumPy may take: what the machine has, or less where a process is given less."""
    found = [int(text) for text in map(_read, _LIMITS) if text.isdigit()]
    with suppress(AttributeError, ValueError, OSError):  # not a POSIX system
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(found, default=None)


def check_room(count: int, numbers: int, what: str) -> None:
    """Raise if NumPy cannot hold so many things of so many numbers, before they are computed."""
    needed, there = 8 * count * numbers, host_memory()
    if there is not None and needed > there:
        each = f"{numbers} number{'s' * (numbers > 1)}"
        raise DataError(
            f"{count:,} {what} of {each} would take {needed / 2**30:,.0f} GB of memory, and there "
            f"are {there / 2**30:,.0f} GB: ask for fewer"
        )


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
