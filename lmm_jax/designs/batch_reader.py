"""Batches read one after another by the schema of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import DataError, UnknownLabel
from ..formulas import matrices as mat
from ..inputs.matching import distinct, find, label_shown
from .checks import check_units, check_weights, finite_vector
from .data_frames import as_pandas
from .row_wise import Company, check_row_wise
from .rows import complete_rows
from .schema import Columns, Schema, replayed, response
from .terms import factor_codes


class Batch(NamedTuple):
    """What the model reads of a batch: n complete rows, which may be none."""

    y: np.ndarray  # (n,)  response less offset
    X: np.ndarray  # (n, p)
    weights: np.ndarray | None  # (n,)
    Z: tuple[np.ndarray, ...]  # (n, k) a term
    codes: tuple[np.ndarray, ...]  # (n,) a grouping expression: label of each row
    labels: tuple[pd.Index[Any], ...]  # of every grouping expression
    n_missing: int
    gaps: dict[str, int]  # missing values of every variable
    seen: dict[str, np.ndarray]  # of declared categories, those that rows have


class BatchReader:
    """Reads batches by a schema; what is computed from columns has to be row by row."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._company: Company | None = None

    def read(self, data: Any) -> Batch:
        """Complete rows of a batch."""
        schema, columns = self.schema, self.schema.columns
        frame = as_pandas(data, columns.expressions)
        frame, n_missing, gaps = complete(frame, columns, schema.missing)
        if not len(frame):
            return no_batch(schema, n_missing, gaps)
        y = response(columns, frame, schema.context)
        weights = None
        if columns.weights is not None:
            weights = mat.evaluate(columns.weights, frame, context=schema.context)
        matrices = self.matrices(frame)
        self._check_row_wise(frame, matrices)
        found = [self.labels(e, frame) for e in schema.groups]
        Z = tuple(
            matrices[rhs].values[:, list(term.source.columns)]
            for rhs, term in zip(schema.sides, schema.terms, strict=True)
        )
        X = matrices[columns.fixed].values
        _check(y, X, Z, weights, schema, frame.index)
        codes, labels = zip(*found, strict=True)
        return Batch(
            y, X, weights, Z, codes, labels, n_missing, gaps, seen_categories(frame, schema)
        )

    def matrices(self, frame: pd.DataFrame) -> dict[str, mat.Matrix]:
        """Columns of every right-hand side."""
        try:
            return replayed(self.schema.specs, frame, self.schema.context)
        except UnknownLabel as error:
            raise DataError(
                f"{error}. Levels are those of the schema, or of the first batch where there is "
                "none: declare all of them there, data.assign(f=pd.Categorical(data['f'], "
                "categories=[...]))"
            ) from error

    def labels(self, expression: str, frame: pd.DataFrame) -> tuple[np.ndarray, pd.Index[Any]]:
        """Codes and labels of a grouping expression, labels in order."""
        found = factor_codes(mat.labels(expression, frame, context=self.schema.context))
        return in_order(*found, self.schema.levels.get(expression), expression.strip("`"))

    def _check_row_wise(self, frame: pd.DataFrame, matrices: Mapping[str, mat.Matrix]) -> None:
        """Refuse what depends on the rows beside a row; plain columns cannot."""
        schema, columns = self.schema, self.schema.columns
        sides = [rhs for rhs, spec in schema.specs.items() if has_code(spec)]
        groups = {e for e in schema.groups if e.strip("`") not in frame.columns}
        others = [columns.response, *columns.offsets]
        coded = [e for e in others if e.strip("`") not in frame.columns]
        if not (sides or groups or coded):
            return

        def values(rows: pd.DataFrame, of: Mapping[str, mat.Matrix]) -> dict[str, np.ndarray]:
            out = {e: mat.evaluate(e, rows, context=schema.context) for e in coded}
            for e in groups:
                out[e] = np.asarray(mat.labels(e, rows, context=schema.context), dtype=object)
            for rhs in sides:
                out |= dict(zip(of[rhs].names, of[rhs].values.T, strict=True))
            return out

        whole = values(frame, matrices)
        self._company = check_row_wise(
            lambda rows: values(rows, self.matrices(rows)), frame, whole, self._company
        )


def complete(
    frame: pd.DataFrame, columns: Columns, missing: str
) -> tuple[pd.DataFrame, int, dict[str, int]]:
    """Complete rows of a frame, which may be none; rows left out, and what misses in them."""
    used = [name for name in columns.names if name in frame.columns]
    none = missing == "drop" and bool(frame[used].isna().any(axis=1).all())
    if none or not len(frame):
        gaps = frame[used].isna().sum()
        return frame[:0], len(frame), {str(name): int(n) for name, n in gaps.items() if n}
    found = complete_rows(frame, {}, columns.expressions, missing)
    return found.data[used], int((~found.keep).sum()), dict(found.gaps)


def in_order(
    codes: np.ndarray, labels: pd.Index[Any], fixed: pd.Index[Any] | None, name: str
) -> tuple[np.ndarray, pd.Index[Any]]:
    """Codes and labels with the labels sorted, or in the order of those that are fixed.

    Raises
    ------
    DataError
        A label that is not among those that are fixed.
    """
    order = label_order(labels)
    if fixed is not None:
        places = find(fixed, labels, name)
        if (places < 0).any():
            raise DataError(
                f"`{name}` has the level {label_shown(labels[int(np.argmin(places))])}, which is "
                f"not among the {len(fixed):,} of the schema"
            )
        labels, order = fixed[places], np.argsort(places)
    if (order[1:] > order[:-1]).all():
        return codes, labels
    return np.argsort(order)[codes], labels[order]


def label_order(labels: pd.Index[Any]) -> np.ndarray:
    """Places of labels in their order; of labels of several types by what they are spelled like."""
    if labels.is_monotonic_increasing:
        return np.arange(len(labels))
    try:
        return np.asarray(labels.argsort())
    except TypeError:
        return np.asarray(labels.map(str).argsort())


def has_code(spec: Any) -> bool:
    """Whether a term is computed from a column."""
    factors = [factor for term in spec.formula for factor in term.factors]
    return any(factor.eval_method.value == "python" for factor in factors)


def _check(
    y: np.ndarray,
    X: np.ndarray,
    Z: tuple[np.ndarray, ...],
    weights: np.ndarray | None,
    schema: Schema,
    index: pd.Index[Any],
) -> None:
    """What :func:`lmm_jax.designs.checks.check_shapes` checks, of a batch."""
    finite_vector(y, "the response", index)
    check_units(finite_vector(X, "the fixed-effects design", index), schema.names)
    for values, term in zip(Z, schema.terms, strict=True):
        found = finite_vector(values, f"the random-effects design of {term.text}", index)
        check_units(found.reshape(-1, len(term.names)), term.names)
    if weights is not None:
        check_weights(weights, index)


def seen_categories(frame: pd.DataFrame, schema: Schema) -> dict[str, np.ndarray]:
    """Of declared categories, those that rows have."""
    out = {}
    for name, categories in schema.declared.items():
        out[name] = np.zeros(len(categories), bool)
        places = find(categories, distinct(frame[name], name)[1], name)
        out[name][places[places >= 0]] = True
    return out


def no_batch(schema: Schema, n_missing: int, gaps: dict[str, int]) -> Batch:
    """No rows, but for those that were left out."""
    nothing, none = np.zeros(0), np.zeros(0, np.int64)
    return Batch(
        y=nothing,
        X=np.zeros((0, len(schema.names))),
        weights=None,
        Z=tuple(np.zeros((0, len(term.names))) for term in schema.terms),
        codes=tuple(none for _ in schema.groups),
        labels=tuple(schema.levels.get(e, pd.Index([]))[:0] for e in schema.groups),
        n_missing=n_missing,
        gaps=gaps,
        seen={name: np.zeros(len(found), bool) for name, found in schema.declared.items()},
    )
