"""Many responses: read, checked against the design, and taken out one or many at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
from pandas.api.types import is_numeric_dtype

from ..capabilities import require
from ..errors import DataError, FormulaError
from ..formulas.expressions import quoted
from ..inputs.arrays import matrix, plain
from ..inputs.frames import kind_of
from .assembled import assemble
from .checks import confounded
from .data_frames import as_pandas
from .design import Design
from .from_formula import design as design_of
from .identification import row_moments

# Column that stands for the response while a design is made: the number of each row.
_ROW = "lmm_jax_row"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Responses:
    """Columns of responses, on the rows of the data that the design uses."""

    names: tuple[str, ...]
    values: Any  # (N, R)  as given
    weights: np.ndarray | None  # (N, R)  weights of every observation
    rows: np.ndarray | None  # (n,)  rows of the design among the N; None: all

    @property
    def count(self) -> int:
        """Number of responses."""
        return len(self.names)

    def complete(self) -> np.ndarray:
        """Whether a response has all its rows and shares its weights, (R,)."""
        return self.finite() & (self.weights is None)

    def finite(self) -> np.ndarray:
        """Whether a response has all its rows, (R,)."""
        out = np.empty(self.count, bool)
        for start in range(0, self.count, 4096):
            part = slice(start, start + 4096)
            out[part] = np.isfinite(self._rows(self.values[:, part])).all(axis=0)
        return out

    def take(self, which: np.ndarray, size: int) -> np.ndarray:
        """Some responses as float64, the last one repeated up to ``size``, (n, size)."""
        return _filled(self._rows(_columns(self.values, which)), size)

    def take_weights(self, which: np.ndarray, size: int) -> np.ndarray | None:
        """Their weights."""
        if self.weights is None:
            return None
        return _filled(self._rows(_columns(self.weights, which)), size)

    def _rows(self, values: np.ndarray) -> np.ndarray:
        return values if self.rows is None else values[self.rows]


def _columns(values: np.ndarray, which: np.ndarray) -> np.ndarray:
    run = which.size and which[-1] - which[0] == which.size - 1
    return values[:, which[0] : which[-1] + 1] if run else values[:, which]


def _filled(values: np.ndarray, size: int) -> np.ndarray:
    out = np.empty((values.shape[0], size))
    out[:, : values.shape[1]] = values
    out[:, values.shape[1] :] = values[:, -1:]
    return out


def read_model(
    formula: str | Design, data: Any, responses: Any, *, weights: Any, **options: Any
) -> tuple[Design, Responses]:
    """The design and the responses from what the user has given."""
    own = None
    if _is_table(weights):
        own, weights = weights, None
    if isinstance(formula, Design):
        given = [name for name, value in options.items() if value is not None]
        if given or weights is not None:
            raise DataError("a Design holds the model: pass no more than the responses with it")
        if responses is None:
            data, responses = None, data
        if data is not None:
            raise DataError("pass the responses once: fit_many(design, Y)")
        design = require(formula, "fit_many")
        rows, frame, index = None, None, design.index
    else:
        design, rows, frame = _formula_design(formula, data, responses, weights, options)
        index = frame.index
    names, values = _read_responses(responses, frame, index)
    table = None if own is None else _read_weights(own, names, values, index)
    if table is not None:
        _check_weights(table, values, rows)
    return design, Responses(names=names, values=values, weights=table, rows=rows)


def turned(formula: Any, data: Any, responses: Any) -> tuple[Any, Any]:
    """Data and responses where these stand in rows: the same with responses in columns."""
    alone = isinstance(formula, Design) and responses is None
    table = _turned(data if alone else responses, "responses")
    frames = isinstance(table, pd.DataFrame) and isinstance(data, pd.DataFrame)
    if frames and len(table) == len(data) and not table.index.equals(data.index):
        raise DataError(
            "the columns of responses are not the index of the data: make the column that names "
            "the samples the index, data.set_index(...), or pass responses.to_numpy()"
        )
    return (table, None) if alone else (data, table)


def turned_weights(weights: Any) -> Any:
    """Weights of every observation likewise; those of the rows as they are."""
    return _turned(weights, "weights") if _is_table(weights) else weights


def _turned(given: Any, what: str) -> Any:
    if isinstance(given, pd.DataFrame):
        texts = [str(name) for name in given.columns if not is_numeric_dtype(given[name])]
        if texts:
            raise DataError(
                f"{what} in rows: the column {texts[0]!r} holds no numbers; make it the index, "
                f"which names the responses: {what}.set_index({texts[0]!r})"
            )
        return given.T
    table = plain(given, what)
    if table.ndim != 2:
        raise DataError(
            f"{what} has the shape {table.shape}: with responses_in='rows' an array or a "
            "frame of shape (R, n) is needed"
        )
    return table.T


def _is_table(weights: Any) -> bool:
    """Weights of every observation rather than of the rows."""
    if weights is None or isinstance(weights, str):
        return False
    return hasattr(weights, "columns") or plain(weights, "weights").ndim == 2


def _formula_design(
    formula: str, data: Any, responses: Any, weights: Any, options: dict[str, Any]
) -> tuple[Design, np.ndarray | None, pd.DataFrame]:
    """The design of all rows on which everything but the responses is there."""
    if not isinstance(formula, str):
        raise FormulaError(f"the formula is a {type(formula).__name__}: pass a string or a Design")
    if formula.count("~") != 1:
        raise FormulaError("write `~ terms`: one `~`, with or without a response", formula)
    if data is None:
        raise DataError("data is missing: pass the frame that the formula reads")
    frame = _read_columns(formula, data, responses, weights, options)
    full = frame.assign(**{_ROW: np.arange(len(frame), dtype=np.float64)})
    left, right = formula.split("~")
    if re.search(r"\w\s*\(", re.sub("`[^`]*`", "", left)):
        raise FormulaError(
            f"`{left.strip()}` is not computed of the responses, which are fitted as they are: "
            "transform them, np.log(Y), and write `~ terms`",
            formula,
            0,
        )
    try:
        design = design_of(f"{_ROW} ~{right}", full, weights=weights, **options)
    except FormulaError as error:
        raise _without_row(error) from None
    rows = design.endog.astype(np.int64)
    design = replace(design, output=kind_of(data))
    return design, None if rows.size == len(frame) else rows, frame


def _without_row(error: FormulaError) -> FormulaError:
    """The error with the formula as it was given."""
    left = f"{_ROW} "
    if error.formula is None or not error.formula.startswith(left):
        return error
    place = None if error.position is None else max(error.position - len(left), 0)
    return FormulaError(error.message, error.formula[len(left) :], place)


def _read_columns(
    formula: str, data: Any, responses: Any, weights: Any, options: dict[str, Any]
) -> pd.DataFrame:
    """The data; of what has to be read or computed first, columns that something mentions."""
    if isinstance(data, pd.DataFrame | Mapping):
        return as_pandas(data, None)
    vc_formula = options.get("vc_formula")
    given = [formula, weights, *options.values()]
    given += vc_formula.values() if isinstance(vc_formula, Mapping) else []
    text = " ".join(value for value in given if isinstance(value, str))
    return as_pandas(data, [quoted(name) for name in _names_of(responses) or ()], text)


def _names_of(responses: Any) -> list[str] | None:
    """Columns of the data that the responses are; None where they are given as an array."""
    if isinstance(responses, str):
        return [responses]
    listed = isinstance(responses, Sequence | pd.Index)
    return list(responses) if listed and all(isinstance(v, str) for v in responses) else None


def _of_mapping(columns: Mapping[Any, Any], index: pd.Index[Any]) -> pd.DataFrame:
    """Columns by name as a frame; arrays and lists among them belong to the rows in order."""
    if not columns:
        return pd.DataFrame(index=index)
    try:
        frame = as_pandas(columns, None)
    except DataError as error:
        raise DataError(f"responses cannot be read as columns: {error}") from error
    if any(isinstance(column, pd.Series) for column in columns.values()):
        return frame
    if len(frame) != len(index):
        raise DataError(f"responses have {len(frame)} entries a column for {len(index)} rows")
    return frame.set_axis(index)


def _read_responses(
    responses: Any, frame: pd.DataFrame | None, index: pd.Index[Any]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and an array (n, R)."""
    if responses is None:
        raise DataError("responses is missing: pass names of columns, or an array (n, R)")
    wanted = _names_of(responses)
    if wanted is None and isinstance(responses, Mapping):
        responses = _of_mapping(responses, index)
    if wanted is not None:
        if frame is None:
            raise DataError("names of responses need a frame: with a Design pass an array (n, R)")
        unknown = [name for name in wanted if name not in frame.columns]
        if unknown:
            raise DataError(f"responses names columns that are not there: {', '.join(unknown)}")
        responses = frame[wanted]
    values, names = matrix(responses, "responses", index=index, keep_floats=True)
    values = _own(values, responses)
    if values.shape[0] != len(index):
        raise DataError(
            f"responses have the shape {values.shape} for {len(index)} rows: one column a response "
            "is needed"
        )
    if values.shape[1] == 0:
        raise DataError("responses has no columns: there is nothing to fit")
    if names is None:
        return tuple([f"y{i}" for i in range(values.shape[1])]), values
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise DataError(f"two responses are named {twice!r}: rename one of them")
    return names, values


def _read_weights(
    weights: Any, names: tuple[str, ...], values: np.ndarray, index: pd.Index[Any]
) -> np.ndarray:
    """Weights of every observation, in the order of the responses where columns name them."""
    out, columns = matrix(weights, "weights", index=index)
    if out.shape != values.shape:
        raise DataError(
            f"weights have the shape {out.shape} and the responses {values.shape}: "
            "pass one weight an observation, or one a row"
        )
    if columns is None or columns == names:
        return _own(out, weights)
    unknown = sorted(set(columns) - set(names))
    if not unknown:
        return out[:, [columns.index(name) for name in names]]
    if len(unknown) < len(set(columns)):
        raise DataError(
            f"weights has a column {unknown[0]!r}, which is no response, beside columns that are: "
            "name its columns as the responses, or pass an array in their order"
        )
    return _own(out, weights)


def _own(values: np.ndarray, given: Any) -> np.ndarray:
    """Values that stay what they are when a caller's array changes; files stay where they are."""
    shared = values is given or not values.flags.owndata
    return values.copy() if shared and not isinstance(values, np.memmap) else values


def _check_weights(weights: np.ndarray, values: np.ndarray, rows: np.ndarray | None) -> None:
    """Positive wherever there is an observation."""
    used = slice(None) if rows is None else rows
    bad = ~np.isnan(values[used]) & ~((weights[used] > 0) & np.isfinite(weights[used]))
    if bad.any():
        at, column = (int(v[0]) for v in np.nonzero(bad))
        row = np.arange(len(weights))[used][at]  # of the data that was passed
        raise DataError(
            f"weights must be positive and finite; response {column} has "
            f"{weights[row, column]:g} in row {row}: make that observation NaN"
        )


def levels_remain(design: Design, W: np.ndarray) -> np.ndarray:
    """Whether the rows that a response has carry every term, as in checks.check_levels; (R,).

    Parameters
    ----------
    design : Design
    W : ndarray, shape (n, R)
        Weights, zero where there is no observation.
    """
    present = W > 0
    n = present.sum(axis=0)
    out, coefficients = n > 0, np.zeros(n.shape)
    for term in design.terms:
        members = term.codes.shape[1]
        rows = np.repeat(np.arange(len(present)), members)
        flat = (np.ones(rows.size), (term.codes.ravel(), rows))
        table = scipy.sparse.csr_array(flat, shape=(term.n_levels, len(present)))
        levels = (table @ present.astype(np.float64) > 0).sum(axis=0)
        coefficients += levels * len(term.names)
        if not term.is_component:
            out &= levels >= 2
    if design.sigma is not None:
        return out
    doubtful = np.flatnonzero(out & (coefficients >= n - design.exog.shape[1]))
    kinds, kind = np.unique(W[:, doubtful], axis=1, return_inverse=True)
    told = np.array([_is_identified(design, w) for w in kinds.T], dtype=bool)
    out[doubtful] = told[kind.ravel()]
    return out


def _is_identified(design: Design, w: np.ndarray) -> bool:
    """Whether the rows of positive weight tell the residual from the random effects."""
    keep = w > 0
    terms = [term.kept(keep) for term in design.terms]
    n = int(keep.sum())
    return not confounded(terms, n, lambda: row_moments(terms, design.exog[keep], w[keep]))


def one_response(design: Design, columns: Responses, number: int) -> Design:
    """The design of one response by itself, on the rows where it is not missing."""
    which = np.array([number])
    y = columns.take(which, 1)[:, 0]
    own = columns.take_weights(which, 1)
    weights = design.weights if own is None else own[:, 0]
    name, keep = columns.names[number], ~np.isnan(y)
    if not keep.any():
        raise DataError(f"response {name!r} is missing in every row")
    if np.isinf(y).any():
        raise DataError(f"response {name!r} has infinite values: make them NaN, or leave it out")
    source = design.source
    if source is not None:
        formula = source.formula.replace(_ROW, quoted(name), 1)
        source = replace(source, response=quoted(name), formula=formula)
    if keep.all():
        return replace(design, endog=y, endog_name=name, weights=weights, source=source)
    return _subset(design, y, weights, keep, name, source)


def _subset(
    design: Design,
    y: np.ndarray,
    weights: np.ndarray | None,
    keep: np.ndarray,
    name: str,
    source: Any,
) -> Design:
    """The design on some of its rows; levels that do not occur there are gone."""
    group = np.unique(design.group_codes[keep], return_inverse=True)
    new = assemble(
        y=y[keep],
        X=np.ascontiguousarray(design.exog[keep]),
        names=design.exog_names,
        endog_name=name,
        terms=[term.kept(keep) for term in design.terms],
        group=group[1],
        n_groups=group[0].size,
        weights=None if weights is None else weights[keep],
        offset=None if design.offset is None else design.offset[keep],
        index=design.index[keep],
        n_missing=design.n_missing + int((~keep).sum()),
        gaps=(*design.gaps, (name, int((~keep).sum()))),
        source=source,
        residual=None if design.residual is None else design.residual.kept(keep),
        sigma=design.sigma,
    )
    if design.held is not None:
        if new.exog_names != design.exog_names:
            raise DataError(
                f"the rows that {name!r} has leave columns of X dependent, some of whose fixed "
                "effects are held: fit it by itself, without held effects"
            )
        new = replace(new, held=design.held)
    if source is None or new.source is None:
        return new
    kept = tuple(source.kept[j] for j in new.source.kept)
    rows = None if source.rows is None else source.rows[keep]
    return replace(new, source=replace(new.source, kept=kept, rows=rows))
