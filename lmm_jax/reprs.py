"""How objects that hold arrays show themselves: a few lines, sizes in the place of entries."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import numpy as np

_Class = TypeVar("_Class", bound=type)
# Entries up to which an array shows its values, characters of a line, lines of a repr.
_FEW = 9
_WIDTH = 96
_LINES = 5


def public(cls: _Class) -> _Class:
    """A class of the package's public names: pickles and messages name that place, not the file."""
    cls.__module__ = __name__.split(".")[0]
    return cls


def inside(*names: str) -> Callable[[_Class], _Class]:
    """A class whose objects do not offer these members: parts of records, of no use outside.

    ``dir`` and completion leave them out; they are there all the same.
    """

    def offered(self: Any) -> list[str]:
        return [name for name in object.__dir__(self) if name not in names]

    def mark(cls: _Class) -> _Class:
        cls.__dir__ = offered  # type: ignore[assignment]
        return cls

    return mark


def brief(self: Any) -> str:
    """``repr`` of a dataclass or named tuple; classes take it as their ``__repr__``.

    Examples
    --------
    >>> import numpy as np
    >>> from lmm_jax.covariance.params import Params
    >>> Params.from_components(np.zeros(2), cov_re=np.eye(40))
    Params(fe_params=[0.0, 0.0], cov_re=float64[40, 40], vcomp=float64[0])
    """
    shown = is_dataclass(self)
    names = [f.name for f in fields(self) if f.repr] if shown else self._fields
    parts = ", ".join(f"{name}={_short(getattr(self, name))}" for name in names)
    return folded(f"{type(self).__name__}({parts})")


def folded(text: str) -> str:
    """Text in a few lines, cut off at the end of the last."""
    lines = textwrap.wrap(text, _WIDTH, subsequent_indent="    ", break_on_hyphens=False)
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], lines[_LINES - 1][: _WIDTH - 4] + " ..."]
    return "\n".join(lines)


def _short(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float | complex | np.generic):
        return repr(value.item() if isinstance(value, np.generic) else value)
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:56] + " ...")
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return _array(value)
    if hasattr(value, "shape"):  # a frame
        return f"{type(value).__name__}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, tuple | list) and type(value) in (tuple, list):
        return _sequence(value)
    return type(value).__name__


def _array(value: Any) -> str:
    kind = f"{value.dtype}[{', '.join(map(str, value.shape))}]"
    if not 0 < getattr(value, "size", 0) <= _FEW or str(value.dtype)[:3] not in ("flo", "int"):
        return kind
    try:
        return str(np.round(np.asarray(value, np.float64), 6).tolist())
    except (TypeError, ValueError, RuntimeError):  # a tracer, or a buffer that was given away
        return kind


def _sequence(value: Any) -> str:
    if len(value) <= _FEW and all(isinstance(v, str | int | float) for v in value):
        return repr(tuple(value)) if isinstance(value, tuple) else repr(value)
    kinds = {type(v).__name__ for v in value}
    return f"{len(value)} {'/'.join(sorted(kinds))}" if value else "()"


def number(value: float) -> str:
    """Four decimals, or six significant digits where those would hide the value."""
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return f"{value:.4f}"
    return f"{value:.5g}"


def plain_number(value: float) -> str:
    """A number with four decimals at most.

    >>> plain_number(2003.9), plain_number(41684.56), plain_number(4.0)
    ('2003.9', '41684.56', '4')
    """
    text = number(value)
    return text if "e" in text else text.rstrip("0").rstrip(".")


def p_value(value: float) -> str:
    """Three decimals, with a floor."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"
