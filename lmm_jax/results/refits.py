"""What results of many fits need to fit one of the responses again."""

from __future__ import annotations

from typing import Protocol

from ..designs.design import Design
from .lmm import LMMResults

NO_DATA = (
    "these results were restored without their data: fit again, or save them with keep_data=True"
)


class Refits(Protocol):
    """Whoever can fit one of the responses by itself."""

    @property
    def design(self) -> Design:
        """The design that all responses share."""
        ...

    def fit_one(self, number: int) -> LMMResults:
        """The full result of one response."""
