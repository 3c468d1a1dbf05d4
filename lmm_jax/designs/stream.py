"""Sums over a stream of frames: levels numbered as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

from ..errors import RankWarning, warn_user
from ..inputs.matching import find, merged
from ..layouts.group_index import GroupIndex, stream_pairs
from ..layouts.stream_compress import Rows, Sums, Units
from ..layouts.stream_pass import add_batches, column_units
from .batch_reader import BatchReader
from .checks import check_shapes
from .identification import LevelProducts, Moments, summed_moments
from .terms import RandomTerm

# Share of a column of X that the columns before it must leave, in squares.
_DEPENDENT = 1e-10


class Factor:
    """Levels of one grouping factor, numbered in order of appearance."""

    def __init__(self, key: tuple[str, ...], parent: Factor | None) -> None:
        self.key, self.parent = key, parent
        self.labels: pd.Index[Any] = pd.Index([])
        self.parents = np.zeros(0, np.int64)  # level of the parent of every level

    def number(self, labels: pd.Index[Any], codes: np.ndarray, parent: np.ndarray) -> np.ndarray:
        """Numbers of a batch's rows; levels not seen before are appended."""
        places = find(self.labels, labels, ":".join(self.key))
        new = places < 0
        if new.any():
            places[new] = len(self.labels) + np.arange(new.sum())
            fresh = labels[new]
            self.labels = merged(self.labels, fresh) if len(self.labels) else fresh
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

    def __init__(self, reader: BatchReader) -> None:
        self.reader = reader
        self.nobs = 0
        self.factors = _chain([bar.group for bar in reader.columns.bars])
        self.units: Units
        self.sums: Sums

    @property
    def first_terms(self) -> list[RandomTerm]:
        """Terms of the first batch, in the order of the formula."""
        return self.reader.first_terms

    def add(self, data: Any) -> None:
        """One batch more."""
        batch = self.reader.read(data)
        if batch is None:
            return
        y, X, weights, terms = batch
        check_shapes(y, X, terms, weights)
        cells = self._cells(terms)
        if not self.nobs:
            self.units = column_units(y, X, _intercept(self.reader.names))
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
            gone = ", ".join(name for j, name in enumerate(self.reader.names) if j not in kept)
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

    def moments(self, streams: Sequence[int]) -> Moments:
        """What the identification of the variances needs, terms in a given order."""
        gram = np.asarray(self.sums.gram)[:-1, :-1]
        off = [pair for pair in stream_pairs(len(self.first_terms)) if pair[0] != pair[1]]
        counts = [len(self._factor(t).labels) for t in range(len(self.first_terms))]
        place = {stream: at for at, stream in enumerate(streams)}
        pairs = {}
        for (a, b), table in zip(off, self.sums.pairs, strict=True):
            finer = self._factor(self._finer(a, b))
            left, right = (finer.ancestors(self._factor(t)) for t in (a, b))
            cells = LevelProducts(left, right, np.asarray(table)[: len(finer.labels)])
            if place[a] > place[b]:
                cells = LevelProducts(right, left, cells.products.transpose(0, 2, 1))
            pairs[min(place[a], place[b]), max(place[a], place[b])] = cells
        levels = [np.asarray(self.sums.levels[t])[: counts[t], :, :-1] for t in streams]
        structures = [self.first_terms[t].structure for t in streams]
        return summed_moments(levels, gram, pairs, structures, self.nobs)

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
