"""How the response, the fixed effects and the offset of a design come out of a data frame."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ..formulas import matrices as mat
from ..formulas.contexts import packed_fields, unpacked_fields
from ..formulas.right_side import written
from ..reprs import brief
from .terms import RandomTerm


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FixedSource:
    """How y, X and the offset come out of a data frame."""

    response: str
    spec: Any  # formulaic.ModelSpec of X
    kept: tuple[int, ...]  # columns of the spec that are in X
    offsets: tuple[str, ...]
    offset_array: bool  # an array was given: new rows need one too
    context: Mapping[str, Any]
    formula: str
    weights: str | None = None  # the column of the prior weights, where that was named
    lost: tuple[str, ...] = ()  # names of the context that a pickle could not keep
    rows: pd.DataFrame | None = None  # variables of X in the rows used; None: not kept
    offset_state: Mapping[str, Any] = field(default_factory=dict)  # remembered of the first data
    # what was given beside the formula, ("Weights", "w"); none in old files
    beside: tuple[tuple[str, str], ...] = ()

    __repr__ = brief

    def offset_parts(self, data: pd.DataFrame) -> list[np.ndarray]:
        """The offsets of the formula for rows of a frame, (n,) each."""
        known = copy.deepcopy(dict(self.offset_state))
        return [mat.evaluate(e, data, context=self.context, state=known) for e in self.offsets]

    def __reduce__(self) -> tuple[Any, tuple[dict[str, Any]]]:
        return _restored_source, (packed_fields(self),)

    def __copy__(self) -> FixedSource:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> FixedSource:
        return self  # nothing in it changes, and functions have no copies


def _restored_source(values: dict[str, Any]) -> FixedSource:
    return FixedSource(**unpacked_fields(values))


def named(given: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Arguments as a summary names them."""
    said = {k: v if isinstance(v, str) else "an array" for k, v in given.items() if v is not None}
    return tuple(said.items())


def read_expressions(source: FixedSource, terms: Sequence[RandomTerm]) -> list[str]:
    """All expressions that predictions read."""
    fixed = written(source.spec.formula)
    out = [fixed] if fixed else []  # a model may have no fixed effects
    out += source.offsets
    for term in terms:
        out += [*term.source.group, written(term.source.spec.formula)]
    return out
