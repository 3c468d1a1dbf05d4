"""Sums over a stream of frames: columns by formula, levels numbered as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax.numpy as jnp
import numpy as np
import pandas as pd

from . import formula as fml
from . import matrices as mat
from .checks import check_shapes
from .errors import DataError, RankWarning, warn_user
from .expressions import quoted
from .formula_terms import bar_terms
from .frames import as_pandas, complete_rows
from .layouts.index import GroupIndex, stream_pairs
from .layouts.sums import Rows, Sums, Units
from .row_pass import add_batches, column_units
from .terms import RandomTerm

# Share of a column of X that the columns before it must leave, in squares.
_DEPENDENT = 1e-10


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
        names = tuple(dict.fromkeys(name for e in out for name in fml.variables(e)))
        return cls(
            parsed.response, parsed.fixed, tuple(parsed.bars), offsets, weight, tuple(out), names
        )


class Factor:
    """Levels of one grouping factor, numbered in order of appearance."""

    def __init__(self, key: tuple[str, ...], parent: Factor | None) -> None:
        self.key, self.parent = key, parent
        self.labels: pd.Index[Any] = pd.Index([])
        self.parents = np.zeros(0, np.int64)  # level of the parent of every level
        self._ordered = True  # every batch had a categorical of the same categories

    def number(self, labels: pd.Index[Any], codes: np.ndarray, parent: np.ndarray) -> np.ndarray:
        """Numbers of a batch's rows; levels not seen before are appended."""
        places = self.labels.get_indexer(labels) if len(self.labels) else np.full(len(labels), -1)
        new = places < 0
        if new.any():
            places[new] = len(self.labels) + np.arange(new.sum())
            fresh = labels[new]
            self.labels = self.labels.append(fresh) if len(self.labels) else fresh
            owner = np.zeros(len(labels), np.int64)
            owner[codes] = parent
            self.parents = np.concatenate([self.parents, owner[new]])
        return places[codes]

    def ancestors(self, other: Factor) -> np.ndarray:
        """Level of a coarser factor that every level of this one lies in."""
        out, at = np.arange(len(self.labels)), self
        while at is not other:
            assert at.parent is not None  # factors form a chain
            out, at = at.parents[out], at.parent
        return out

    def sorted(self) -> np.ndarray:
        """Order of the labels; as they came where they cannot be compared."""
        try:
            return np.asarray(self.labels.argsort())
        except TypeError:
            return np.arange(len(self.labels))


class BatchSums:
    """Cross-products of all batches so far."""

    def __init__(self, columns: Columns, context: Mapping[str, Any], missing: str) -> None:
        self.columns, self.context, self.missing = columns, context, missing
        self.nobs = self.n_missing = 0
        self.spec: Any = None
        self.names: tuple[str, ...] = ()
        self.first_terms: list[RandomTerm] = []
        self.factors = _chain([bar.group for bar in columns.bars])
        self.units: Units
        self.sums: Sums

    def add(self, data: Any) -> None:
        """One batch more."""
        frame = self._complete(data)
        if frame is None:
            return
        y, X, weights, terms = self._read(frame)
        check_shapes(y, X, terms, weights)
        cells = self._cells(terms)
        if not self.nobs:
            self.units = column_units(y, X, _intercept(self.names))
            self.sums = self._empty(X.shape[1])
        self._grow()
        pairs = [(a, b) for a, b in stream_pairs(len(terms)) if a != b]
        rows = Rows(
            y=y,
            X=X,
            Z=tuple(term.values for term in terms),
            weights=weights,
            levels=tuple(cells),
            pairs=tuple(cells[self._finer(a, b)] for a, b in pairs),
        )
        self.sums = add_batches(self.sums, rows, self.units, tuple(range(len(terms))))
        self.nobs += len(y)

    def _complete(self, data: Any) -> pd.DataFrame | None:
        """Complete rows of a batch; None if there are none."""
        if type(data).__module__.split(".")[0] == "pyarrow":
            data = data.to_pandas()
        frame = as_pandas(data, self.columns.expressions)
        used = [name for name in self.columns.names if name in frame.columns]
        if self.missing == "drop" and frame[used].isna().any(axis=1).all():
            self.n_missing += len(frame)
            return None
        frame, _, keep = complete_rows(frame, {}, self.columns.expressions, self.missing)
        self.n_missing += int((~keep).sum())
        return frame

    def _read(
        self, frame: pd.DataFrame
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, list[RandomTerm]]:
        """Response less offset, X, weights and terms of a batch."""
        y = mat.evaluate(self.columns.response, frame, context=self.context)
        for offset in self.columns.offsets:
            y = y - mat.evaluate(offset, frame, context=self.context)
        if self.spec is None:
            first = mat.build(self.columns.fixed, frame, context=self.context)
            self.spec, self.names, X = first.spec, first.names, first.values
            _check_stateless(self.spec)
        else:
            X = mat.replay(self.spec, frame, context=self.context)
        weights = None
        if self.columns.weights is not None:
            weights = mat.evaluate(self.columns.weights, frame, context=self.context)
        terms = bar_terms(self.columns.bars, frame, self.context, {})
        if not self.first_terms:
            self.first_terms = terms
            for term in terms:
                _check_stateless(term.source.spec)
        for term, first_term in zip(terms, self.first_terms, strict=True):
            if term.names != first_term.names:
                raise DataError(
                    f"({term.label}) has the columns {', '.join(term.names)} in one batch and "
                    f"{', '.join(first_term.names)} in the first: use a categorical with all levels"
                )
        return y, X, weights, terms

    def _cells(self, terms: Sequence[RandomTerm]) -> list[np.ndarray]:
        """Number of every row's level in every term."""
        local = {term.source.group: term for term in terms}
        numbers: dict[tuple[str, ...], np.ndarray] = {}
        for key in sorted(self.factors, key=len):
            factor, term = self.factors[key], local[key]
            codes = term.codes[:, 0]
            parent = np.zeros_like(codes) if factor.parent is None else numbers[factor.parent.key]
            numbers[key] = factor.number(term.levels, codes, parent)
        return [numbers[term.source.group].astype(np.int32) for term in terms]

    def _finer(self, a: int, b: int) -> int:
        """The one of two terms whose levels lie inside those of the other."""
        keys = [self.first_terms[t].source.group for t in (a, b)]
        return a if len(keys[0]) >= len(keys[1]) else b

    def _factor(self, t: int) -> Factor:
        return self.factors[self.first_terms[t].source.group]

    def _empty(self, p: int) -> Sums:
        k = [len(term.names) for term in self.first_terms]
        pairs = [(a, b) for a, b in stream_pairs(len(k)) if a != b]
        return Sums(
            gram=jnp.zeros((p + 1, p + 1)),
            levels=tuple(jnp.zeros((0, s, s + p + 1)) for s in k),
            pairs=tuple(jnp.zeros((0, k[a], k[b])) for a, b in pairs),
            n_obs=jnp.zeros(()),
            log_weights=jnp.zeros(()),
        )

    def _grow(self) -> None:
        """Room for all levels, doubled when it runs out."""

        def room(array: Any, factor: Factor) -> Any:
            need = len(factor.labels)
            if need <= array.shape[0]:
                return array
            more = (1 << max(10, (need - 1).bit_length())) - array.shape[0]
            return jnp.concatenate([array, jnp.zeros((more, *array.shape[1:]), array.dtype)])

        n = len(self.first_terms)
        off = [self._finer(a, b) for a, b in stream_pairs(n) if a != b]
        self.sums = self.sums._replace(
            levels=tuple(room(s, self._factor(t)) for t, s in enumerate(self.sums.levels)),
            pairs=tuple(
                room(s, self._factor(t)) for t, s in zip(off, self.sums.pairs, strict=True)
            ),
        )

    def drop_dependent_columns(self) -> tuple[int, ...]:
        """Columns of X that do not depend on columns before them; the others leave the sums."""
        gram = np.asarray(self.sums.gram)[:-1, :-1]
        scale = 1.0 / np.sqrt(np.where(np.diagonal(gram) > 0, np.diagonal(gram), 1.0))
        rest = gram * scale[:, None] * scale[None, :]
        kept = []
        for j in range(len(rest)):
            if rest[j, j] > _DEPENDENT:
                kept.append(j)
                rest = rest - np.outer(rest[:, j], rest[j]) / rest[j, j]
        if len(kept) < len(gram):
            gone = ", ".join(name for j, name in enumerate(self.names) if j not in kept)
            warn_user(f"the fixed-effects design is rank deficient: dropped {gone}", RankWarning)
            at = np.array([*kept, len(gram)])
            self.sums = self.sums._replace(
                gram=self.sums.gram[at][:, at],
                levels=tuple(
                    s[:, :, np.concatenate([np.arange(s.shape[1]), s.shape[1] + at])]
                    for s in self.sums.levels
                ),
            )
            few = np.array(kept, dtype=int)
            self.units = self.units._replace(
                x_shift=self.units.x_shift[few],
                x_unit=self.units.x_unit[few],
                constant=self.units.constant[few],
            )
        return tuple(kept)

    def arranged(
        self, streams: Sequence[int], orders: Sequence[np.ndarray], index: GroupIndex
    ) -> Sums:
        """Sums in the order of the terms and levels of the whole data, padded as the index is."""
        tables = dict(zip(stream_pairs(len(streams)), index.pairs, strict=True))
        before = dict(
            zip(
                [pair for pair in stream_pairs(len(streams)) if pair[0] != pair[1]],
                self.sums.pairs,
                strict=True,
            )
        )

        def placed(array: Any, t: int, n_cells: int) -> Any:
            out = np.zeros((n_cells, *array.shape[1:]))
            out[: orders[t].size] = np.asarray(array)[orders[t]]
            return jnp.asarray(out)

        levels = [
            placed(self.sums.levels[t], t, table.n_cells)
            for t, table in zip(streams, index.levels, strict=True)
        ]
        pairs = []
        for (a, b), table in tables.items():
            if a == b:
                continue
            s, t = streams[a], streams[b]
            array = before[min(s, t), max(s, t)]
            array = array if s < t else jnp.swapaxes(array, 1, 2)
            pairs.append(placed(array, self._finer(s, t), table.n_cells))
        return self.sums._replace(levels=tuple(levels), pairs=tuple(pairs))

    def unexplained(self) -> float:
        """Share of the squares of y around its shift that X leaves."""
        gram = np.asarray(self.sums.gram)
        X, y = gram[:-1, :-1], gram[:-1, -1]
        fit = np.linalg.lstsq(X, y, rcond=None)[0] @ y
        return float(1.0 - fit / gram[-1, -1]) if gram[-1, -1] > 0 else 0.0

    def response_norms(self) -> tuple[float, float]:
        """Size of y and norm of y around its shift."""
        norm = float(self.units.y_unit) * float(np.sqrt(self.sums.gram[-1, -1]))
        return max(abs(float(self.units.y_shift)), norm / np.sqrt(self.nobs)), norm


def _chain(keys: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], Factor]:
    """Factors from coarse to fine, each nested in the one before."""
    out: dict[tuple[str, ...], Factor] = {}
    parent = None
    for key in sorted(dict.fromkeys(keys), key=len):
        out[key] = parent = Factor(key, parent)
    return out


def _intercept(names: Sequence[str]) -> int | None:
    return names.index("Intercept") if "Intercept" in names else None


def _check_stateless(spec: Any) -> None:
    """Raise for a transformation whose result depends on all rows."""
    if spec is not None and spec.transform_state:
        which = ", ".join(str(name) for name in spec.transform_state)
        raise DataError(
            f"`{which}` looks at all rows and cannot be computed batch by batch: make it a column "
            "first"
        )
