"""Modules that are imported when they are first asked for."""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from types import ModuleType

_FEW = 1000  # objects that some versions of Python keep frozen themselves are fewer


def load(name: str) -> ModuleType:
    """The module of this name, imported with the garbage collector at rest.

    What an import makes stays, a million objects with those of JAX and pandas. The collector
    would look through all of them again and again, a fifth of the time, and find nothing.

    NumPy's global generator is left as it was: modules of JAX draw from it when they are
    imported, and a script that sets a seed, fits and draws has a right to its numbers. (What
    another thread draws meanwhile it gets again.)
    """
    random = sys.modules.get("numpy.random")
    state = None if random is None else random.get_state(legacy=False)  # whatever generates
    collects = gc.isenabled()
    gc.disable()
    try:
        return import_module(name)
    finally:
        if random is not None:
            random.set_state(state)
        if collects:
            _call_old()
            gc.enable()


def _call_old() -> None:
    """Count all objects among the long-lived ones, at once and without a look at them.

    The first collection would otherwise look through what was imported: a tenth of a second in
    the middle of the first fit.
    """
    if gc.get_freeze_count() < _FEW:  # what somebody has frozen stays so
        gc.freeze()
        gc.unfreeze()
