"""Schemas made of a formula and a sample of the rows, or of the levels alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError, FormulaError
from ..formulas import matrices as mat
from ..formulas import parse as fml
from ..formulas.evaluation import CATEGORIES
from ..formulas.right_side import variables
from ..formulas.times import TYPES
from ..inputs.arguments import choice, items, mapping
from ..inputs.matching import distinct, find, label_shown
from ..layouts.stream_compress import Units
from ..layouts.stream_pass import column_units
from .bars import bar_terms
from .data_frames import MISSING, names_for
from .schema import Columns, Schema, replayed, response
from .terms import RandomTerm

# A sample of fewer rows than this is repeated when levels and columns are found.
_FEW = 4096


def read_columns(
    formula: Any, weights: Any, offset: Any, missing: str, context: Any
) -> tuple[Columns, Mapping[str, Any]]:
    """What a formula reads, and the functions that it names."""
    if not isinstance(formula, str):
        raise FormulaError(f"the formula is a {type(formula).__name__}: pass a string")
    for name, given in {"weights": weights, "offset": offset}.items():
        if given is not None and not isinstance(given, str):
            raise DataError(f"{name} of batches is the name of a column, not an array")
    choice(missing, "missing", MISSING)
    if context is not None:
        mapping(context, "context")
    parsed = fml.parse(formula)
    if not parsed.bars:
        raise FormulaError("sums need random effects in bars, (1 | g)", parsed.text)
    if parsed.residual is not None:
        raise FormulaError(
            f"the residual covariance {parsed.residual.text} needs the rows in memory: sums over "
            "rows know independent residuals only",
            parsed.text,
        )
    columns = Columns.of(parsed, weights, offset)
    return columns, names_for([formula], context)


def schema_of(
    frame: pd.DataFrame,
    columns: Columns,
    context: Mapping[str, Any],
    missing: str,
    formula: str,
    levels: Mapping[str, pd.Index[Any]],
    *,
    whole: str,
) -> Schema:
    """The schema that complete rows give.

    A transformation that has to see all rows is refused where ``whole`` is "refuse", and keeps
    what it makes of these rows where it is "keep".
    """
    frame = _with_levels(frame, columns, levels)
    declared, full = _declared(frame, columns)
    specs: dict[str, Any] = {}
    for rhs in columns.sides:
        spec = _spec(rhs, full, context)
        held = [str(name) for name, state in spec.transform_state.items() if state]
        held = [name for name in held if not name.startswith(TYPES)]  # all rows have these
        computed = [name for name in held if not name.startswith(CATEGORIES)]  # those are declared
        if computed and whole == "refuse":
            raise DataError(
                f"`{', '.join(computed)}` looks at all rows and cannot be computed batch by batch: "
                "make it a column first, or fix it by a sample, lmm.schema(formula, sample)"
            )
        specs[rhs] = mat.build(rhs, full, context=context).spec if held else spec
    built = replayed(specs, frame, context)
    terms = bar_terms(columns.bars, frame, context, built)
    y = response(columns, frame, context)
    X = built[columns.fixed].values
    names = built[columns.fixed].names
    own = {e: levels[n] for bar in columns.bars for e in bar.group if (n := e.strip("`")) in levels}
    return Schema(
        formula=formula,
        columns=columns,
        missing=missing,
        context=context,
        specs=specs,
        terms=tuple(_without_rows(term) for term in terms),
        sides=tuple(_sides(columns, terms)),
        declared=declared,
        levels=own,
        units=column_units(y, X, names.index("Intercept") if "Intercept" in names else None),
    )


def _sides(columns: Columns, terms: Sequence[RandomTerm]) -> list[str]:
    """Right-hand side of every term: a bar has one term, or one a column."""
    left, out = list(terms), []
    for bar in columns.bars:
        source = left[0].source
        count = len(source.spec.column_names) // len(source.columns)
        out += [bar.lhs] * count
        left = left[count:]
    return out


def _without_rows(term: RandomTerm) -> RandomTerm:
    return replace(
        term,
        levels=term.levels[:0],
        codes=np.zeros((0, 1), np.int64),
        values=np.zeros((0, 1, len(term.names))),
    )


def read_levels(levels: Any, columns: Columns) -> dict[str, pd.Index[Any]]:
    """Labels by column, all different."""
    if levels is None:
        return {}
    out = {}
    for name, labels in mapping(levels, "levels").items():
        if name not in columns.names:
            raise DataError(
                f"levels names the column {label_shown(name)}, which the model does not read"
            )
        if isinstance(labels, str | bytes):
            raise DataError(f"the levels of `{name}` are a text: pass a list of labels")
        index = pd.Index(items(labels, f"levels[{name!r}]"), tupleize_cols=False)
        if not len(index) or not index.is_unique or index.isna().any():
            raise DataError(f"the levels of `{name}` have to be given once each, none missing")
        out[name] = index
    return out


def _with_levels(
    frame: pd.DataFrame, columns: Columns, levels: Mapping[str, pd.Index[Any]]
) -> pd.DataFrame:
    """Predictors whose levels are fixed as categoricals."""
    fixed = {}
    for name in columns.factors & set(levels):
        places = find(levels[name], frame[name], name)
        if (places < 0).any():
            label = frame[name].iloc[int(np.argmin(places))]
            raise DataError(
                f"the sample has the level {label_shown(label)} of `{name}`, levels has not"
            )
        fixed[name] = pd.Categorical.from_codes(places, categories=levels[name])
    return frame.assign(**fixed) if fixed else frame


def _declared(
    frame: pd.DataFrame, columns: Columns
) -> tuple[dict[str, pd.Index[Any]], pd.DataFrame]:
    """Categories of predictors, and the rows with stand-ins for those that none of them has."""
    declared, absent = {}, {}
    for name in frame.columns.intersection(list(columns.factors)):
        if isinstance(frame[name].dtype, pd.CategoricalDtype):
            declared[str(name)] = frame[name].cat.categories
            used = distinct(frame[name], str(name))[1]
            absent[str(name)] = declared[str(name)][~declared[str(name)].isin(used)]
    count = max((len(levels) for levels in absent.values()), default=0)
    if not count:
        return declared, frame
    more = frame.iloc[np.zeros(count, np.int64)].reset_index(drop=True)
    for name, levels in absent.items():
        column = more[name].copy()
        column.iloc[: len(levels)] = levels
        more[name] = column
    return declared, pd.concat([frame, more], ignore_index=True)


def _spec(rhs: str, frame: pd.DataFrame, context: Mapping[str, Any]) -> Any:
    """What the columns of a formula remember of a frame, few rows of which stand for many."""
    try:
        return mat.build(rhs, _repeated(frame), context=context).spec
    except DataError:
        mat.build(rhs, frame, context=context)  # which counts its rows as they are
        raise


def _repeated(frame: pd.DataFrame) -> pd.DataFrame:
    """Few rows several times: they may have a level each where the data have not."""
    return frame if len(frame) >= _FEW else pd.concat([frame] * 4, ignore_index=True)


def schema_of_levels(
    columns: Columns,
    context: Mapping[str, Any],
    missing: str,
    formula: str,
    levels: Mapping[str, pd.Index[Any]],
) -> Schema:
    """The schema without a sample: columns as they are, those without levels being numbers."""
    frame = _stand_in(columns, levels)
    made = schema_of(frame, columns, context, missing, formula, levels, whole="refuse")
    return replace(made, units=_no_units(len(made.names)))


def _stand_in(columns: Columns, levels: Mapping[str, pd.Index[Any]]) -> pd.DataFrame:
    """Rows that show the levels and nothing else."""
    n = max([4, *(len(labels) for labels in levels.values())])
    numbers = np.linspace(1.0, 2.0, n)
    groups = {name for bar in columns.bars for e in bar.group for name in variables(e)}
    out: dict[str, Any] = {}
    for name in columns.names:
        if name in levels:
            out[name] = levels[name][np.arange(n) % len(levels[name])]
        else:
            out[name] = np.arange(n) if name in groups - columns.factors else numbers
    return pd.DataFrame(out)


def _no_units(p: int) -> Units:
    """Columns as they are."""
    nothing = np.zeros(p)
    return Units(nothing, np.ones(p), np.zeros(()), np.ones(()), nothing)
