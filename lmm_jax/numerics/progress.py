"""A bar for long work, where it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(total: int, unit: str, wanted: bool) -> Iterator[Callable[[int], object]]:
    """What counts finished units on a bar of tqdm; on none if unwanted or tqdm is not installed.

    It is gone when the work ends, however it ends.
    """
    bar = None
    if wanted:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            pass
        else:
            bar = tqdm(total=total, unit=unit, delay=1.0, leave=False)
    try:
        yield (bar.update if bar is not None else lambda count: None)
    finally:
        if bar is not None:
            bar.close()
