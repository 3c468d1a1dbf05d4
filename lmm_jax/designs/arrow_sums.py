"""Sums over rows as tables of pyarrow, one row a group, and back."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError
from ..inputs.matching import label_shown, spelled
from .batch_reader import in_order
from .schema import Schema
from .sum_arrays import SumArrays, Sums, distinct_rows, link_columns, total

# Columns beside the labels: what a row is about, its numbers, and what is known of all rows.
_ABOUT, _SUMS, _ROWS = "_about", "_sums", "_rows"
_ALL, _LINKS = "all rows", "cell"

# Rows about one thing: what, their labels' codes by grouping expression, their numbers.
_Rows = tuple[str, dict[str, np.ndarray], np.ndarray]


def to_arrow(sums: SumArrays) -> Any:
    """See :meth:`lmm_jax.RowSums.to_arrow`."""
    pa = _pyarrow()
    parts: list[_Rows] = [(_ALL, {}, np.append(sums.gram.ravel(), sums.log_weights)[None])]
    for key, level, products in zip(sums.schema.factors, sums.levels, sums.products, strict=True):
        codes = {e: level.codes[:, j] for j, e in enumerate(key)}
        numbers = int(np.prod(products.shape[1:]))  # an empty part has none to tell from
        parts.append((":".join(key), codes, products.reshape(len(products), numbers)))
    if sums.links.shape[1]:
        parts.append((_LINKS, dict(zip(sums.schema.groups, sums.cells.T, strict=True)), sums.links))
    columns = {}
    for e, labels in zip(sums.schema.groups, sums.labels, strict=True):
        place = np.concatenate([at.get(e, np.full(len(v), -1)) for _, at, v in parts])
        columns[e] = _labels(labels, e.strip("`"), pa).take(pa.array(place, mask=place < 0))
    about = [name for name, _, values in parts for _ in range(len(values))]
    columns[_ABOUT] = pa.array(about).dictionary_encode()
    columns[_SUMS] = pa.concat_arrays([_lists(values, pa) for *_, values in parts])
    known = {"length": len(about), "n_rows": sums.n_rows, "n_missing": sums.n_missing,
             "gaps": sums.gaps,
             "seen": {name: seen.tolist() for name, seen in sums.seen.items()},
             "schema": sums.schema.fingerprint}  # fmt: skip
    columns[_ROWS] = pa.array([json.dumps(known), *[None] * (len(about) - 1)], pa.string())
    return pa.table(columns)


def from_arrow(table: Any, schema: Schema, kind: type[Sums]) -> Sums:
    """See :meth:`lmm_jax.RowSums.from_arrow`."""
    pa = _pyarrow()
    names = [*schema.groups, _ABOUT, _SUMS, _ROWS]
    if not isinstance(table, pa.Table) or not set(names) <= set(table.column_names):
        raise DataError(
            f"a table of pyarrow with the columns {', '.join(names)} is needed: what to_arrow gave"
        )
    about = table[_ABOUT].cast(pa.string()).to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(about == _ALL)
    if not starts.size:
        raise DataError("the table has no row with the sums over all rows")
    ends = np.append(starts[1:], len(about))
    parts = (
        _part(table.slice(start, end - start), about[start:end], schema, kind)
        for start, end in zip(starts, ends, strict=True)
    )
    found = total(parts)
    assert found is not None  # there is a part
    return found


def _part(table: Any, about: np.ndarray, schema: Schema, kind: type[Sums]) -> Sums:
    """Sums from the rows of one part."""
    known = _known(table, schema)
    labels = [
        in_order(*_index(table[e]), schema.levels.get(e), e.strip("`")) for e in schema.groups
    ]
    codes = np.stack([code for code, _ in labels], axis=1)
    numbers = {name: np.flatnonzero(about == name) for name in dict.fromkeys(about)}
    p = len(schema.names)

    def rows(name: str, *shape: int) -> np.ndarray:
        at = numbers.get(name, np.zeros(0, np.int64))
        column = table[_SUMS].take(at).combine_chunks()
        return np.array(column.flatten().to_numpy()).reshape(len(at), *shape)

    widths = schema.widths()
    products = [
        rows(":".join(key), K, K + p + 1) for key, K in zip(schema.factors, widths, strict=True)
    ]
    m = link_columns(widths)
    sizes = [len(found) for _, found in labels]
    if m:
        cells, links = codes[numbers.get(_LINKS, np.zeros(0, np.int64))], rows(_LINKS, m)
    else:
        cells, _ = distinct_rows(codes[about == ":".join(schema.factors[0])], sizes)
        links = np.zeros((len(cells), 0))
    whole = rows(_ALL, (p + 1) ** 2 + 1)[0]
    return kind(
        schema=schema,
        labels=tuple(found for _, found in labels),
        cells=cells,
        links=links,
        products=tuple(products),
        gram=whole[:-1].reshape(p + 1, p + 1),
        n_rows=known["n_rows"],
        log_weights=float(whole[-1]),
        n_missing=known["n_missing"],
        gaps=known["gaps"],
        seen={name: np.array(seen, bool) for name, seen in known["seen"].items()},
    )


def _known(table: Any, schema: Schema) -> dict[str, Any]:
    """What a part knows of all of its rows, none of which are missing."""
    known: dict[str, Any] = json.loads(table[_ROWS][0].as_py())
    if known["schema"] != schema.fingerprint:
        raise DataError("the table was made with another schema")
    if known["length"] != len(table):
        raise DataError(
            f"the table has {len(table)} rows of a part that had {known['length']}, or they are in "
            "another order: pass all of them as to_arrow gave them"
        )
    return known


def _index(column: Any) -> tuple[np.ndarray, pd.Index[Any]]:
    """Place of every row's label, and the labels."""
    codes, labels = pd.factorize(column.to_pandas(integer_object_nulls=True))
    found = pd.Index(labels, tupleize_cols=False)
    return codes.astype(np.int64), found.infer_objects() if found.dtype == object else found


def _lists(values: np.ndarray, pa: Any) -> Any:
    """Rows of numbers as lists."""
    count, width = values.shape
    offsets = pa.array(np.arange(0, count * width + 1, max(width, 1), dtype=np.int32)[: count + 1])
    return pa.ListArray.from_arrays(offsets, pa.array(values.ravel(), pa.float64()))


def _labels(labels: pd.Index[Any], name: str, pa: Any) -> Any:
    """Labels in a type of arrow; those of several types, and intervals, as text."""
    if not isinstance(labels, pd.IntervalIndex):
        with suppress(pa.ArrowException, OverflowError):
            found = pa.array(labels)
            if not pa.types.is_nested(found.type):
                return found
    text = spelled(labels)
    if not text.is_unique:
        raise DataError(
            f"`{name}` has labels of several types that are the same text, "
            f"{label_shown(text[text.duplicated()][0])}: a table would have one row for two of "
            "them; make them text that differs"
        )
    return pa.array(text)


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError("tables of Arrow need pyarrow: pip install 'lmm-jax[arrow]'") from error
    return pyarrow
