"""Chunks of responses that are fitted side by side, and what of memory they may take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import jax
import numpy as np

from ..designs.responses import Responses
from ..numerics.devices import ByDevice
from ..numerics.shapes import round_up

# Lanes that go side by side at most: what one step of many touches should stay in the caches of
# a processor; an accelerator wants more. Responses with gaps keep arrays of their own.
_MAX_LANES = ByDevice(4096, 1 << 17)
_LEAST_LANES, _MASKED = 64, 8
# Part of the free memory that a chunk may take, and arrays of its size that live at once.
_MEMORY_SHARE, _COPIES = 0.25, 16


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Responses that are fitted side by side, in a batch that may be larger."""

    which: np.ndarray
    size: int
    masked: bool


def program_size(count: int, masked: bool) -> int:
    """Lanes of the batches that so many responses make on a CPU; more on an accelerator."""
    most = _MAX_LANES.processor // (_MASKED if masked else 1)
    return min(round_up(count, _LEAST_LANES), most) if count else 0


def split_chunks(
    which: np.ndarray, numbers: float, chunk_size: int | None, *, masked: bool, on_host: bool
) -> list[Chunk]:
    """Chunks of one size, so that one program serves them all; in NumPy no larger than need be.

    Parameters
    ----------
    which : ndarray of int
        The responses.
    numbers : float
        How many a lane keeps busy.
    chunk_size : int, optional
        As the caller asks for it.
    masked : bool
        Lanes have arrays of their own.
    on_host : bool
        NumPy works them off.
    """
    if not which.size:
        return []
    largest = chunk_size or _chunk_lanes(numbers, masked, on_host)
    count = -(-which.size // -(-which.size // largest))
    least = min(_LEAST_LANES, largest)
    size = max(2, round_up(count, least) if chunk_size is None and not on_host else count)
    return [
        Chunk(which[start : start + count], size, masked) for start in range(0, which.size, count)
    ]


def _chunk_lanes(numbers: float, masked: bool, on_host: bool) -> int:
    """Lanes of a chunk: a power of two that fits the memory."""
    limit = _MEMORY_SHARE * _free_memory(on_host) / (8 * _COPIES * numbers)
    most = _MAX_LANES.processor if on_host else _MAX_LANES.here()
    most //= _MASKED if masked else 1
    return 1 << int(np.log2(max(2, min(most, limit))))


def _free_memory(on_host: bool) -> float:
    """Bytes that are free where the lanes live."""
    stats = None if on_host else jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):  # not Linux
        return 2e9


def read_ahead(
    chunks: list[Chunk], columns: Responses, pool: ThreadPoolExecutor
) -> Iterator[tuple[Chunk, np.ndarray]]:
    """Chunks and their responses, which are copied while the chunk before them is fitted."""

    def take(at: slice) -> list[Future[np.ndarray]]:
        return [pool.submit(columns.take, chunk.which, chunk.size) for chunk in chunks[at]]

    coming = take(slice(1))
    for i, chunk in enumerate(chunks):
        Y = coming.pop().result()
        coming = take(slice(i + 1, i + 2))
        yield chunk, Y
