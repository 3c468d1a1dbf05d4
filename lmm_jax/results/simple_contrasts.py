"""Contrasts of every factor in the groups of the others, a table each."""

from __future__ import annotations

from html import escape
from typing import TypeVar

from ..inputs.names import Labelled
from ..tables.shown import Shown

V = TypeVar("V", bound=Shown)


class SimpleContrasts(Labelled[V]):
    """What ``simple="each"`` asks for: contrasts by the name of what is compared."""

    def __repr__(self) -> str:
        return "\n\n".join(f"{_title(name)}\n\n{table}" for name, table in self.items())

    def _repr_html_(self) -> str:
        parts = (f"<p>{escape(_title(name))}</p>{table.to_html()}" for name, table in self.items())
        return "".join(parts)


def _title(name: str) -> str:
    return f"Simple contrasts of {name}"
