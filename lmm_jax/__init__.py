"""Linear mixed models on JAX: lme4's formulas, statsmodels' names, pure functions below.

>>> import lmm_jax as lmm
>>> res = lmm.fit("Reaction ~ Days + (Days | Subject)", lmm.load_dataset("sleepstudy"))
>>> print(f"{res.llf:.4f}")
-871.8141
"""

import ast
from pathlib import Path
from typing import Any

from . import forks as forks  # its hooks have to be there before anybody forks
from .imports import load as _load
from .version import __version__ as __version__


def _homes() -> dict[str, tuple[str, str]]:
    """Module and name of every public name, as __init__.pyi imports them.

    JAX, pandas and a hundred and fifty modules take a second to import: ``import lmm_jax``
    costs nothing, a name what it needs.
    """
    tree = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    return {
        a.asname or a.name: (f"{__name__}.{node.module or a.name}", a.name if node.module else "")
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for a in node.names
    }


_HOMES = _homes()
_WITH_OTHERS = ("sklearn",)  # modules that need a package which may be absent
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _WITH_OTHERS:
        return _load(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    found = _load(module)
    value = globals()[name] = getattr(found, attribute) if attribute else found
    return value


def __dir__() -> list[str]:
    """Public names alone: completion offers no wing of the house."""
    return sorted([*__all__, "__all__", "__doc__", "__version__"])
