"""Functions and variables that a formula names, in a pickle: by what it takes to find them again.

A lambda, or a function of a script that is not run again, cannot be restored. It is lost by
name, and missed only by whoever needs it.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from types import ModuleType
from typing import Any

from ..errors import DataError

# What the caller of `load` gives in the place of what is lost.
_SUPPLIED: ContextVar[Mapping[str, Any] | None] = ContextVar("supplied", default=None)

Packed = dict[str, bytes | None]


@contextmanager
def supplying(context: Mapping[str, Any] | None) -> Iterator[None]:
    """Restore contexts with these values first."""
    token = _SUPPLIED.set(context)
    try:
        yield
    finally:
        _SUPPLIED.reset(token)


def pack(context: Mapping[str, Any], lost: Iterable[str] = ()) -> Packed:
    """Pickles of the values by name, None for those that have none.

    Examples
    --------
    >>> packed = pack({"f": lambda x: x, "half": 0.5})
    >>> packed["f"] is None, unpack(packed)
    (True, ({'half': 0.5}, ('f',)))
    """
    return dict.fromkeys(lost) | {name: _pickled(value) for name, value in context.items()}


def _pickled(value: Any) -> bytes | None:
    if isinstance(value, ModuleType):
        value = _Module(value.__name__)
    try:
        return pickle.dumps(value)
    except Exception:  # whatever an object of the user's raises: it cannot be pickled
        return None


def unpack(packed: Packed) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Values that can be found again, and the names of those that cannot."""
    found, lost = {}, []
    supplied = _SUPPLIED.get() or {}
    for name, value in packed.items():
        if name in supplied:
            found[name] = supplied[name]
            continue
        try:
            if value is None:
                raise pickle.UnpicklingError("it had no pickle")
            found[name] = pickle.loads(value)
        except Exception:  # a module that is gone, a function that was renamed, and so on
            lost.append(name)
    return found, tuple(lost)


def packed_fields(source: Any) -> dict[str, Any]:
    """Fields of a dataclass that has a context and the names ``lost`` of one, for its pickle."""
    values = {f.name: getattr(source, f.name) for f in fields(source)}
    return {**values, "context": pack(source.context, source.lost)}


def unpacked_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields again, with what of the context can be found."""
    context, lost = unpack(values["context"])
    return {**values, "context": context, "lost": lost}


class _Module:
    """A module, by its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return importlib.import_module, (self.name,)


def check_found(lost: Iterable[str], names: Iterable[str], columns: Iterable[Any]) -> None:
    """Raise for a name that expressions mention and that was lost."""
    missing = sorted((set(names) - set(map(str, columns))) & set(lost))
    if missing:
        names = ", ".join(f"`{name}`" for name in missing)
        raise DataError(
            f"the formula uses {names}, which could not be restored with this result (a lambda, or "
            "a function of a script or notebook): give it again, lmm.load(path, context="
            f"{{{missing[0]!r}: ...}}), or define it in a module that can be imported"
        )
