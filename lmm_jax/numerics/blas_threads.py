"""Threads of BLAS, which matrices of a few hundred rows are better off without.

OpenBLAS divides a product among threads that wait for each other with their cores held. Two
threads gain little where a product takes less than a millisecond, and where another program wants
a core each of them waits for the scheduler: a fit of a second takes twenty.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

# Rows of matrices up to which they are worked off by one thread.
ALONE = 300
# Names that the wheels of NumPy and SciPy give the functions of OpenBLAS, and OpenBLAS itself.
_PREFIXES, _SUFFIXES = ("scipy_openblas_", "openblas_"), ("64_", "")


class _Library(NamedTuple):
    """An OpenBLAS of this process."""

    threads: Callable[[], int]
    set_threads: Callable[[int], None]


_lock = threading.Lock()
_inside = 0  # contexts that are open, in all threads of Python
_before: list[tuple[_Library, int]] = []  # threads of each library outside of them


@contextmanager
def one_thread() -> Iterator[None]:
    """Context in which the BLAS of NumPy's and SciPy's wheels has one thread; others do not care.

    The number is that of the process: products of other threads of Python have one as well.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _inside
    with _lock:
        if not _inside:
            _before[:] = [(library, library.threads()) for library in _libraries()]
            for library, count in _before:
                if count > 1:
                    library.set_threads(1)
        _inside += 1


def _leave() -> None:
    global _inside
    with _lock:
        _inside -= 1
        if not _inside:
            for library, count in _before:
                if count > 1:
                    library.set_threads(count)


def _libraries() -> list[_Library]:
    """Those that are in use: SciPy's is there once somebody has imported its linear algebra."""
    found = _library("numpy")
    return found + _library("scipy") if "scipy.linalg" in sys.modules else found


@cache
def _library(package: str) -> list[_Library]:
    """The OpenBLAS that came with a package; none where it was built with another BLAS."""
    home = Path(str(sys.modules[package].__file__)).parent
    folders = (home.with_name(f"{package}.libs"), home / ".dylibs")
    for path in (path for folder in folders for path in sorted(folder.glob("*openblas*"))):
        try:
            handle = ctypes.CDLL(str(path))  # the one that is loaded
        except OSError:
            continue
        for name in (prefix + "{}" + suffix for prefix in _PREFIXES for suffix in _SUFFIXES):
            get = getattr(handle, name.format("get_num_threads"), None)
            put = getattr(handle, name.format("set_num_threads"), None)
            if get is not None and put is not None:
                get.restype, get.argtypes = ctypes.c_int, []
                put.restype, put.argtypes = None, [ctypes.c_int]
                return [_Library(get, put)]
    return []
