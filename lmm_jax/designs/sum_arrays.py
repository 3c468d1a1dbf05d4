"""Sums over rows that add up: cross-products by level and by combination of levels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd

from ..errors import DataError
from ..inputs.matching import find, merged, spelled
from .batch_reader import label_order
from .schema import Schema

# Keys of combinations of labels stay below this.
_KEYS = 1 << 62
# Share of a column of X that the columns before it must leave, in squares.
_DEPENDENT = 1e-10


class Levels(NamedTuple):
    """Levels of a grouping factor, in order."""

    codes: np.ndarray  # (L, e)  label in each of its grouping expressions
    of_cells: np.ndarray  # (C,)  level of every cell


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SumArrays:
    """What :class:`lmm_jax.RowSums` is made of."""

    schema: Schema
    labels: tuple[pd.Index[Any], ...]  # of every grouping expression, in order, those that occur
    cells: np.ndarray  # (C, E)  labels of every cell, in order
    links: np.ndarray  # (C, m)  z' W z of the coefficients of different factors
    products: tuple[np.ndarray, ...]  # (L, K, K + p + 1) a factor: z' W [z X y] of its terms
    gram: np.ndarray  # (p + 1, p + 1)  [X y]' W [X y], in the units of the schema
    n_rows: int
    log_weights: float
    n_missing: int
    gaps: dict[str, int]  # missing values of every variable
    seen: dict[str, np.ndarray]  # of declared categories, those that rows have

    @cached_property
    def levels(self) -> tuple[Levels, ...]:
        """Levels of every grouping factor."""
        places = {e: i for i, e in enumerate(self.schema.groups)}
        sizes = [len(labels) for labels in self.labels]
        out = []
        for key in self.schema.factors:
            at = [places[e] for e in key]
            out.append(Levels(*distinct_rows(self.cells[:, at], [sizes[i] for i in at])))
        return tuple(out)

    def level_labels(self, f: int) -> pd.Index[Any]:
        """Labels of the levels of factor f, ``a:b`` of an interaction."""
        key, codes = self.schema.factors[f], self.levels[f].codes
        found = [self.labels[self.schema.groups.index(e)] for e in key]
        if len(key) == 1:
            return found[0][codes[:, 0]]
        out = spelled(found[0])[codes[:, 0]]
        for labels, column in zip(found[1:], codes.T[1:], strict=True):
            out = out + ":" + spelled(labels)[column]
        return out


Sums = TypeVar("Sums", bound=SumArrays)


def link_blocks(links: np.ndarray, widths: Sequence[int]) -> dict[tuple[int, int], np.ndarray]:
    """``z' W z`` of every pair of different factors, (C, Ka, Kb)."""
    out, start = {}, 0
    for f, ka in enumerate(widths):
        for g in range(f + 1, len(widths)):
            stop = start + ka * widths[g]
            out[f, g] = links[:, start:stop].reshape(len(links), ka, widths[g])
            start = stop
    return out


def link_columns(widths: Sequence[int]) -> int:
    """Numbers of a cell in :func:`link_blocks`."""
    return sum(a * b for i, a in enumerate(widths) for b in widths[i + 1 :])


def distinct_rows(codes: np.ndarray, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Different rows of codes in order, and the place of every row among them.

    Parameters
    ----------
    codes : ndarray of int, shape (n, e)
    sizes : sequence of int
        Codes of column j are below ``sizes[j]``.
    """
    if codes.shape[1] == 1 and len(codes) == sizes[0] and _is_range(codes[:, 0]):
        return codes, np.arange(len(codes))
    key, size = np.zeros(len(codes), np.int64), 1
    for column, count in zip(codes.T, sizes, strict=True):
        if size * max(count, 1) > _KEYS:
            found, key = np.unique(key, return_inverse=True)
            size = found.size
        key = key * max(count, 1) + column
        size *= max(count, 1)
    if codes.shape[1] == 1:  # every label occurs
        return np.arange(sizes[0])[:, None], key
    _, first, place = np.unique(key, return_index=True, return_inverse=True)
    return codes[first], place


def _is_range(values: np.ndarray) -> bool:
    return bool((values == np.arange(len(values))).all())


def add_up(parts: Sequence[Sums]) -> Sums:
    """Sums over the rows of all parts."""
    first = parts[0]
    schema = first.schema
    for part in parts[1:]:
        if part.schema is not schema and part.schema.fingerprint != schema.fingerprint:
            raise DataError(
                "sums add up where one schema has read the rows: make it once, lmm.schema(...), "
                "and pass it to every lmm.summarize(formula, part, schema=schema)"
            )
    joined = [
        union([part.labels[e] for part in parts], schema.levels.get(name), name)
        for e, name in enumerate(schema.groups)
    ]
    sizes = [len(found.labels) for found in joined]
    recoded = [
        np.stack([found.places[i][part.cells[:, e]] for e, found in enumerate(joined)], axis=1)
        for i, part in enumerate(parts)
    ]
    cells, places = _placed(recoded, sizes)
    products = []
    for f, key in enumerate(schema.factors):
        at = [schema.groups.index(e) for e in key]
        rows = [
            np.stack([joined[i].places[n][part.levels[f].codes[:, j]] for j, i in enumerate(at)], 1)
            for n, part in enumerate(parts)
        ]
        found, level = _placed(rows, [sizes[i] for i in at])
        products.append(_added([part.products[f] for part in parts], level, len(found)))
    return replace(
        first,
        labels=tuple(found.labels for found in joined),
        cells=cells,
        links=_added([part.links for part in parts], places, len(cells)),
        products=tuple(products),
        **_common(parts),
    )


def _common(parts: Sequence[SumArrays]) -> dict[str, Any]:
    """What has no groups, added up."""
    gaps: Counter[str] = Counter()
    for part in parts:
        gaps.update(part.gaps)
    seen = {name: [part.seen[name] for part in parts] for name in parts[0].seen}
    return {
        "gram": np.sum([part.gram for part in parts], axis=0),
        "n_rows": sum(part.n_rows for part in parts),
        "log_weights": sum(part.log_weights for part in parts),
        "n_missing": sum(part.n_missing for part in parts),
        "gaps": dict(gaps),
        "seen": {name: np.logical_or.reduce(found) for name, found in seen.items()},
    }


def _placed(
    rows: Sequence[np.ndarray], sizes: Sequence[int]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Different rows of all parts, and where those of each part are among them."""
    found, place = distinct_rows(np.concatenate(rows), sizes)
    return found, np.split(place, np.cumsum([len(part) for part in rows])[:-1])


def _added(arrays: Sequence[np.ndarray], places: Sequence[np.ndarray], count: int) -> np.ndarray:
    """Sum of arrays whose rows go to different places each."""
    out = np.zeros((count, *arrays[0].shape[1:]))
    for array, place in zip(arrays, places, strict=True):
        out[place] += array
    return out


class Union(NamedTuple):
    """Labels of all parts in order, and where those of each part are among them."""

    labels: pd.Index[Any]
    places: list[np.ndarray]


def union(indexes: Sequence[pd.Index[Any]], fixed: pd.Index[Any] | None, what: str) -> Union:
    """Labels of several parts, in the order of those that are fixed or sorted."""
    some = [index for index in indexes if len(index)] or [indexes[0]]
    if fixed is not None:
        found = [find(fixed, index, what) for index in indexes]
        used = np.unique(np.concatenate(found))
        return Union(fixed[used], [np.searchsorted(used, place) for place in found])
    if all(index.dtype == some[0].dtype and index.dtype.kind in "iu" for index in some):
        values = np.sort(np.concatenate([index.to_numpy() for index in some]), kind="stable")
        values = values[np.append(True, values[1:] != values[:-1])] if values.size else values
        found = [np.searchsorted(values, index.to_numpy()) for index in indexes]
        return Union(pd.Index(values), found)
    labels = some[0]
    for index in some[1:]:
        new = index[find(labels, index, what) < 0]
        labels = merged(labels, new) if len(new) else labels
    order = label_order(labels)
    rank = np.argsort(order)
    empty = np.zeros(0, np.int64)
    return Union(
        labels[order],
        [rank[find(labels, index, what)] if len(index) else empty for index in indexes],
    )


def total(parts: Iterable[Sums]) -> Sums | None:
    """Sums of a stream of parts, of which a few are held; None of no part.

    A part whose groups are all known is added in place. Others wait until they are as many as
    half of what there is, so that the sums are not copied for each small one.
    """
    whole: Sums | None = None
    held: list[Sums] = []
    for part in parts:
        more = None if whole is None else _added_in_place(whole, part)
        if more is not None:
            whole = more
            continue
        held.append(part)
        if whole is None or 2 * sum(map(_size, held)) >= _size(whole):
            whole, held = add_up([*([] if whole is None else [whole]), *held]), []
    return add_up([whole, *held]) if whole is not None and held else whole


def _added_in_place(whole: Sums, part: Sums) -> Sums | None:
    """Sums that nobody else has and a part more, in their arrays; None if it has other groups."""
    if len(part.labels) > 1 or whole.schema is not part.schema or not len(whole.labels[0]):
        return None
    places = _known_places(whole.labels[0], part.labels[0], whole.schema.groups[0])
    if (places < 0).any():
        return None
    for products, more in zip(whole.products, part.products, strict=True):
        products[places] += more
    return replace(whole, **_common([whole, part]))


def _known_places(known: pd.Index[Any], labels: pd.Index[Any], what: str) -> np.ndarray:
    """Place of every label among labels in order, -1 where it is none of them."""
    if known.dtype != labels.dtype or known.dtype.kind not in "iu":
        return find(known, labels, what)
    values, wanted = known.to_numpy(), labels.to_numpy()
    places = np.searchsorted(values, wanted)
    return np.where(values[np.minimum(places, len(values) - 1)] == wanted, places, -1)


def _size(part: SumArrays) -> int:
    return part.links.size + sum(products.size for products in part.products)


def independent(gram: np.ndarray) -> list[int]:
    """Columns that do not depend on columns before them, from their cross-products."""
    diagonal = np.diagonal(gram)
    scale = 1.0 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    rest = gram * scale[:, None] * scale[None, :]
    kept = []
    for j in range(len(rest)):
        if rest[j, j] > _DEPENDENT:
            kept.append(j)
            rest = rest - np.outer(rest[:, j], rest[j]) / rest[j, j]
    return kept
