"""Batches read one after another: the columns of a formula, fixed by the first of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd

from ..errors import DataError, UnknownLabel
from ..formulas import matrices as mat
from ..formulas import parse as fml
from ..formulas.expressions import quoted
from ..formulas.right_side import variables
from ..inputs.matching import distinct, find, shown
from .bars import bar_terms
from .data_frames import as_pandas
from .row_wise import Company, check_row_wise
from .rows import complete_rows
from .terms import RandomTerm

# A first batch of fewer rows than this is repeated when levels and columns are found.
_FEW = 4096


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


class Batch(NamedTuple):
    """What the model reads of a batch."""

    y: np.ndarray  # (n,)  response less offset
    X: np.ndarray  # (n, p)
    weights: np.ndarray | None  # (n,)
    terms: list[RandomTerm]


class BatchReader:
    """Reads batches; levels and columns are those of the first."""

    def __init__(self, columns: Columns, context: Mapping[str, Any], missing: str) -> None:
        self.columns, self.context, self.missing = columns, context, missing
        self.n_missing = 0
        self.gaps: Counter[str] = Counter()  # missing values of every variable
        self.specs: dict[str, Any] = {}  # by right-hand side: of X and of every bar
        self.first_terms: list[RandomTerm] = []
        self._absent: dict[str, pd.Index[Any]] = {}  # declared categories that no row has had
        self._coded: list[str] = []  # expressions that are more than a column
        self._company: Company | None = None

    @property
    def spec(self) -> Any:
        """Formulaic's spec of X."""
        return self.specs[self.columns.fixed]

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of X."""
        return tuple(str(name) for name in self.spec.column_names)

    def read(self, data: Any) -> Batch | None:
        """Complete rows of a batch; None if there are none."""
        frame = self._complete(data)
        if frame is None:
            return None
        y = self._evaluate(self.columns.response, frame)
        for offset in self.columns.offsets:
            y = y - self._evaluate(offset, frame)
        weights = None
        if self.columns.weights is not None:
            weights = self._evaluate(self.columns.weights, frame)
        matrices = self._replayed(frame) if self.specs else self._begin(frame)
        self._check_row_wise(frame, matrices)
        self._look_for_absent(frame)
        terms = bar_terms(self.columns.bars, frame, self.context, matrices)
        self.first_terms = self.first_terms or terms
        return Batch(y, matrices[self.columns.fixed].values, weights, terms)

    def check_categories(self) -> None:
        """Raise if a category that was declared has never occurred."""
        for name, levels in self._absent.items():
            if len(levels):
                raise DataError(
                    f"`{name}` declares {', '.join(map(shown, levels))}, which no row of the "
                    "batches has: declare the categories that occur"
                )

    def _evaluate(self, expression: str, frame: pd.DataFrame) -> np.ndarray:
        return mat.evaluate(expression, frame, context=self.context)

    def _complete(self, data: Any) -> pd.DataFrame | None:
        frame = as_pandas(data, self.columns.expressions)
        used = [name for name in self.columns.names if name in frame.columns]
        none = self.missing == "drop" and bool(frame[used].isna().any(axis=1).all())
        if none or not len(frame):
            self.n_missing += len(frame)
            missing = frame[used].isna().sum()
            self.gaps.update({str(name): int(n) for name, n in missing.items() if n})
            return None
        complete = complete_rows(frame, {}, self.columns.expressions, self.missing)
        self.n_missing += int((~complete.keep).sum())
        self.gaps.update(dict(complete.gaps))
        return complete.data[used]

    def _begin(self, frame: pd.DataFrame) -> dict[str, mat.Matrix]:
        """Levels and columns, from the first batch and the categories that it declares."""
        sides = dict.fromkeys([self.columns.fixed, *(bar.lhs for bar in self.columns.bars)])
        factors = {name for rhs in sides for name in variables(rhs)}
        for name in frame.columns.intersection(list(factors)):
            if isinstance(frame[name].dtype, pd.CategoricalDtype):
                declared = frame[name].cat.categories
                used = frame[name].cat.remove_unused_categories().cat.categories
                self._absent[name] = declared[~declared.isin(used)]
        full = _with_absent(frame, self._absent)
        known = full
        if len(full) < _FEW:  # a small batch may have a level in every row where the data does not
            known = pd.concat([full] * 4, ignore_index=True)
        built = {rhs: mat.build(rhs, known, context=self.context) for rhs in sides}
        for rhs, matrix in built.items():
            _check_stateless(matrix.spec)
            self.specs[rhs] = matrix.spec
        others = [self.columns.response, *self.columns.offsets]
        self._coded = [e for e in others if e.strip("`") not in frame.columns]
        return built if known is frame else self._replayed(frame)

    def _replayed(self, frame: pd.DataFrame) -> dict[str, mat.Matrix]:
        out = {}
        for rhs, spec in self.specs.items():
            try:
                values = mat.replay(spec, frame, context=self.context)
            except UnknownLabel as error:
                raise DataError(
                    f"{error}. Levels are those of the first batch: declare all of them there, "
                    "data.assign(f=pd.Categorical(data['f'], categories=[...]))"
                ) from error
            out[rhs] = mat.Matrix(values, tuple(str(name) for name in spec.column_names), spec)
        return out

    def _check_row_wise(self, frame: pd.DataFrame, matrices: Mapping[str, mat.Matrix]) -> None:
        """Refuse what depends on the rows beside a row; plain columns cannot."""
        sides = [rhs for rhs, spec in self.specs.items() if _has_code(spec)]
        groups = {e for bar in self.columns.bars for e in bar.group}
        groups -= {e for e in groups if e.strip("`") in frame.columns}
        if not (sides or groups or self._coded):
            return

        def values(rows: pd.DataFrame, of: Mapping[str, mat.Matrix]) -> dict[str, np.ndarray]:
            out = {e: self._evaluate(e, rows) for e in self._coded}
            for e in groups:
                out[e] = np.asarray(mat.labels(e, rows, context=self.context), dtype=object)
            for rhs in sides:
                out |= dict(zip(of[rhs].names, of[rhs].values.T, strict=True))
            return out

        whole = values(frame, matrices)
        self._company = check_row_wise(
            lambda rows: values(rows, self._replayed(rows)), frame, whole, self._company
        )

    def _look_for_absent(self, frame: pd.DataFrame) -> None:
        for name, levels in self._absent.items():
            if len(levels):
                there = find(levels, distinct(frame[name], name)[1], name)
                self._absent[name] = levels.delete(there[there >= 0])


def _with_absent(frame: pd.DataFrame, absent: Mapping[str, pd.Index[Any]]) -> pd.DataFrame:
    """The rows, and below them stand-in rows with every category that is declared only."""
    count = max((len(levels) for levels in absent.values()), default=0)
    if not count:
        return frame
    more = frame.iloc[np.zeros(count, np.int64)].reset_index(drop=True)
    for name, levels in absent.items():
        column = more[name].copy()
        column.iloc[: len(levels)] = levels
        more[name] = column
    return pd.concat([frame, more], ignore_index=True)


def _has_code(spec: Any) -> bool:
    """Whether a term is computed from a column."""
    factors = [factor for term in spec.formula for factor in term.factors]
    return any(factor.eval_method.value == "python" for factor in factors)


def _check_stateless(spec: Any) -> None:
    """Raise for a transformation whose result depends on all rows."""
    held = [str(name) for name, state in spec.transform_state.items() if state]
    if held:
        which = ", ".join(held)
        raise DataError(
            f"`{which}` looks at all rows and cannot be computed batch by batch: make it a column "
            "first"
        )
