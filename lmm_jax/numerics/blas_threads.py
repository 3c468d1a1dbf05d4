"""Threads of BLAS, which matrices of a few hundred rows are better off without.

OpenBLAS divides a product among threads that wait for each other with their cores held. Two
threads gain little where a product takes less than a millisecond, and where another program wants
a core each of them waits for the scheduler: a fit of a second takes twenty.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .held import Held

# Rows of matrices up to which a model is worked off by one thread; numbers of data up to which
# whatever is done with them is; and rows of one matrix up to which SciPy's LAPACK has one thread:
# it waits for those of NumPy's BLAS to give up the cores, 8 ms a call on two that are idle.
_NARROW, _FEW, _MATRIX = 300, 1 << 20, 700
# Names that the wheels of NumPy and SciPy give the functions of OpenBLAS, and OpenBLAS itself.
_PREFIXES, _SUFFIXES = ("scipy_openblas_", "openblas_"), ("64_", "")


@dataclass(frozen=True, eq=False)
class _Library:
    """An OpenBLAS of this process."""

    threads: Callable[[], int]
    set_threads: Callable[[int], None]


_before: dict[_Library, int] = {}  # threads of each library, while it has one


def one_thread(*, rows: float = 0, numbers: int = 0) -> AbstractContextManager[None]:
    """Context in which the BLAS of NumPy's and SciPy's wheels has one thread; others do not care.

    The number is that of the process: products of other threads of Python have one as well.

    Parameters
    ----------
    rows : float
        Of the largest matrices of a model; more than a few hundred keep their threads.
    numbers : int
        That are worked off where no model says; more than a million keep their threads.
    """
    return _alone.inside() if rows <= _NARROW and numbers <= _FEW else nullcontext()


def one_thread_of_lapack(rows: int) -> AbstractContextManager[None]:
    """The same around one call of SciPy's for a matrix of so many rows."""
    return _alone.inside() if rows <= _MATRIX else nullcontext()


def _to_one() -> None:
    for library in _libraries():
        count = library.threads()
        if count > 1:  # one of whom a call was interrupted is remembered
            _before[library] = count
            library.set_threads(1)


def _back() -> None:
    for library, count in _before.items():
        library.set_threads(count)
    _before.clear()


_alone = Held(_to_one, _back)


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
