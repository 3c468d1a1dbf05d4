"""What a model reads of a frame, fixed once: levels, contrasts, knots and origins.

Parts of the rows that are read by one schema have the same columns, in the same units: their sums
add up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd

from ..formulas import matrices as mat
from ..formulas import parse as fml
from ..formulas.contexts import packed_fields, unpacked_fields
from ..formulas.expressions import quoted
from ..formulas.right_side import variables
from ..layouts.stream_compress import Units
from ..reprs import folded, public
from .terms import RandomTerm


class Columns(NamedTuple):
    """What the model reads of a frame."""

    response: str
    fixed: str
    bars: tuple[fml.Bar, ...]
    offsets: tuple[str, ...]
    weights: str | None
    expressions: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, parsed: fml.ParsedFormula, weights: str | None, offset: str | None) -> Self:
        """Columns of a formula with weights and offset given by name."""
        offsets = (*parsed.offsets, *([quoted(offset)] if offset else []))
        weight = None if weights is None else quoted(weights)
        bars = [e for bar in parsed.bars for e in (bar.lhs, *bar.group)]
        out = [parsed.response, parsed.fixed, *offsets, *bars, *([weight] if weight else [])]
        names = tuple(dict.fromkeys(name for e in out for name in variables(e)))
        return cls(
            parsed.response, parsed.fixed, tuple(parsed.bars), offsets, weight, tuple(out), names
        )

    @property
    def sides(self) -> tuple[str, ...]:
        """Right-hand sides whose columns are used: of X, and of every bar."""
        return tuple(dict.fromkeys([self.fixed, *(bar.lhs for bar in self.bars)]))

    @property
    def factors(self) -> set[str]:
        """Columns that the right-hand sides read."""
        return {name for rhs in self.sides for name in variables(rhs)}


@public
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Schema:
    """How rows become the columns of a model: levels, contrasts, knots, origins and units.

    Made by :func:`schema`. It is small, can be pickled, and is all that a worker needs to sum a
    part of the rows up.
    """

    formula: str
    columns: Columns
    missing: str
    context: Mapping[str, Any]
    specs: Mapping[str, Any]  # formulaic's spec by right-hand side
    terms: tuple[RandomTerm, ...]  # in the order of the formula, without rows
    sides: tuple[str, ...]  # right-hand side of every term
    declared: Mapping[str, pd.Index[Any]]  # categories of predictors
    levels: Mapping[str, pd.Index[Any]]  # labels of grouping expressions that are fixed
    units: Units
    lost: tuple[str, ...] = ()  # names of the context that a pickle could not keep

    def __repr__(self) -> str:
        groups = ", ".join(":".join(key) for key in self.factors)
        return folded(f"<Schema: {self.formula}; {', '.join(self.names)}; groups {groups}>")

    def __reduce__(self) -> tuple[Any, tuple[dict[str, Any]]]:
        return _restored, (packed_fields(self),)

    @property
    def spec(self) -> Any:
        """Formulaic's spec of X."""
        return self.specs[self.columns.fixed]

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of X."""
        return tuple(str(name) for name in self.spec.column_names)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Grouping expressions, each once."""
        return tuple(dict.fromkeys(e for term in self.terms for e in term.source.group))

    @cached_property
    def factors(self) -> tuple[tuple[str, ...], ...]:
        """Grouping factors, each once: ``("a",)``, ``("b", "a")``."""
        return tuple(dict.fromkeys(term.source.group for term in self.terms))

    @cached_property
    def fingerprint(self) -> str:
        """The same for schemas that read rows alike."""
        columns = self.columns
        parts: list[Any] = [
            self.formula, columns.offsets, columns.weights, self.missing, self.names,
            *(array.tobytes() for array in map(np.asarray, self.units)),
            *((name, list(labels)) for name, labels in sorted(self.levels.items())),
            *((name, list(labels)) for name, labels in sorted(self.declared.items())),
        ]  # fmt: skip
        for rhs in columns.sides:
            spec = self.specs[rhs]
            parts += [_written(spec.transform_state), _written(spec.encoder_state)]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def members(self, factor: tuple[str, ...]) -> list[int]:
        """Terms of a grouping factor."""
        return [t for t, term in enumerate(self.terms) if term.source.group == factor]

    def place(self, t: int) -> tuple[int, slice]:
        """Factor of a term, and its coefficients among those of the factor."""
        factor, before = self.terms[t].source.group, 0
        for u in self.members(factor):
            if u == t:
                break
            before += len(self.terms[u].names)
        return self.factors.index(factor), slice(before, before + len(self.terms[t].names))

    def widths(self) -> list[int]:
        """Coefficients of the terms of every grouping factor, together."""
        return [sum(len(self.terms[t].names) for t in self.members(key)) for key in self.factors]


def _restored(values: dict[str, Any]) -> Schema:
    return Schema(**unpacked_fields(values))


def _written(state: Any) -> Any:
    """What a spec remembers, as text that does not depend on how it came about."""
    if isinstance(state, Mapping):
        return sorted((str(name), _written(value)) for name, value in state.items())
    if isinstance(state, list | tuple):
        return [_written(value) for value in state]
    if isinstance(state, np.ndarray):
        return state.dtype.str, state.shape, state.tobytes()
    if isinstance(state, float | np.floating):
        return float(state).hex()
    return type(state).__name__ if "object at 0x" in repr(state) else repr(state)


def response(columns: Columns, frame: pd.DataFrame, context: Mapping[str, Any]) -> np.ndarray:
    """The response less its offsets, (n,)."""
    y = mat.evaluate(columns.response, frame, context=context)
    for offset in columns.offsets:
        y = y - mat.evaluate(offset, frame, context=context)
    return y


def replayed(
    specs: Mapping[str, Any], frame: pd.DataFrame, context: Mapping[str, Any]
) -> dict[str, mat.Matrix]:
    """Columns of every right-hand side, by what the specs remember."""
    return {
        rhs: mat.Matrix(
            mat.replay(spec, frame, context=context),
            tuple(str(name) for name in spec.column_names),
            spec,
        )
        for rhs, spec in specs.items()
    }


def factor_kind(spec: Any, factor: Any) -> str:
    """Whether a factor of a formula is a ``literal``, ``numerical`` or ``categorical``."""
    if factor.eval_method.value == "literal":
        return "literal"
    return str(spec.encoder_state[factor.expr][0].value)


def factor_columns(factor: Any) -> tuple[str, ...]:
    """Columns that a factor of a formula reads."""
    kind = factor.eval_method.value
    if kind == "literal":
        return ()
    return (factor.expr,) if kind == "lookup" else variables(factor.expr)
