"""Settings of the whole process that are changed for a while, by any of its threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Held:
    """A setting that the first one in changes and the last one out puts back.

    Parameters
    ----------
    change, restore : callable
        Called with nobody else inside.
    """

    def __init__(self, change: Callable[[], None], restore: Callable[[], None]) -> None:
        self._change, self._restore = change, restore
        self._lock, self._inside = threading.Lock(), 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._in_the_copy)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Context with the setting changed; contexts may overlap."""
        entered = False
        try:
            with self._lock:
                entered, self._inside = True, self._inside + 1
                if self._inside == 1:
                    self._change()
            yield
        finally:
            if entered:
                self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._restore()

    def _in_the_copy(self) -> None:
        """A fork copies no thread but its own: who was inside will not come out."""
        self._lock = threading.Lock()
        if self._inside:
            self._inside = 0
            self._restore()
