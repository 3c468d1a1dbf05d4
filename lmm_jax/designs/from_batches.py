"""A design from rows that come in batches and are not kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from glob import glob
from itertools import combinations
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError, FormulaError
from ..inputs.arguments import hinted, instance, whole_number
from ..inputs.frames import in_memory, streamed
from .batch_reader import BatchReader, complete
from .data_frames import as_pandas
from .design import Design
from .from_sums import design_of_sums
from .row_sums import RowSums, sums_of
from .rows import complete_rows
from .schema import Columns, Schema, read_columns, schema_of
from .sum_arrays import total


@hinted
def design_from_batches(
    formula: str,
    batches: Any,
    *,
    weights: str | None = None,
    offset: str | None = None,
    missing: str = "drop",
    context: Mapping[str, Any] | None = None,
    batch_size: int = 1 << 18,
) -> Design:
    """Build the design of a model from a stream of frames, none of which is kept.

    Memory holds one batch and the compressed model, whose size is that of the
    groups. The fit is that of all rows together.

    Parameters
    ----------
    formula : str
        lme4's syntax with bars. Several grouping factors must be written as
        nested, ``(1 | a/b)``; crossed factors need the rows in memory.
    batches : iterable of frames, or path of a Parquet file
        pandas frames, pyarrow record batches or tables, anything that narwhals
        reads. A file is read by pyarrow (``pip install lmm-jax[arrow]``), only
        the columns of the formula.
    weights, offset : str, optional
        Columns, as in :func:`lmm_jax.design`.
    missing : {"drop", "raise", "none"}
    context : mapping, optional
        Functions and variables for the formula.
    batch_size : int
        Rows of a batch of a file.

    Returns
    -------
    Design
        For :func:`lmm_jax.fit`. Fitted values, residuals and simulations need
        rows: they raise DataError; ``predict(newdata)`` works.

    Raises
    ------
    FormulaError
        Crossed factors, or no bars.
    DataError
        A batch has a level that the first one lacks in a predictor that is no
        pandas categorical; a declared category that no row has; a transformation
        that has to see all rows.

    Notes
    -----
    The first batch decides the levels of categorical predictors. Let them be
    categoricals with all categories where it may not have them all.

    What is computed from columns is tested for depending on one row at a time:
    rows of the first batch are read again alone and in pieces, a sample of every
    later one together with rows of those before it. ``x - x.mean()``, ranks,
    lags and cumulative sums are refused by name. Labels of groups are the same
    whatever their type: 350, 350.0 and "350" in three batches are one level.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> data = lmm.load_dataset("sleepstudy")
    >>> batches = (data[i : i + 50] for i in range(0, 180, 50))
    >>> d = lmm.design_from_batches("Reaction ~ Days + (Days | Subject)", batches)
    >>> d.nobs, d.n_groups
    (180, 18)
    >>> f"{lmm.fit(d).llf:.4f}"
    '-871.8141'
    """
    columns, known = read_columns(formula, weights, offset, missing, context)
    _check_nesting(columns, formula)
    batch_size = whole_number(batch_size, "batch_size", least=1)
    stream = _frames(batches, columns.names, batch_size)
    return design_of_sums(sum_stream(stream, columns, known, missing, formula))


@hinted
def summarize(
    formula: str,
    data: Any,
    *,
    schema: Schema | None = None,
    weights: str | None = None,
    offset: str | None = None,
    missing: str = "drop",
    context: Mapping[str, Any] | None = None,
    batch_size: int = 1 << 18,
) -> RowSums:
    """Sum rows up to what the fit of a model needs of them.

    Parameters
    ----------
    formula : str
        lme4's syntax with bars; factors may be nested or crossed.
    data : frame, iterable of frames, path or pattern of Parquet files, or a source of rows
        A frame in memory of any kind; a stream of such frames, which are read once; a Parquet
        file, or several by a pattern, ``"rows/*.parquet"``; a dataset of pyarrow, a lazy frame of
        polars or a relation of DuckDB, which are read batch by batch.
    schema : Schema, optional
        How rows are read, from :func:`schema`: sums add up if they have it in common. Not given:
        that of the frame, or of the first batch.
    weights, offset, missing, context
        As in :func:`lmm_jax.schema`; a schema has them already.
    batch_size : int
        Rows of a batch of a file.

    Returns
    -------
    RowSums
        For :func:`lmm_jax.fit`, alone or added to others.

    Raises
    ------
    DataError
        A level that the schema has not; a transformation that has to see all rows.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> data = lmm.load_dataset("penicillin")
    >>> formula = "diameter ~ 1 + (1 | plate) + (1 | sample)"
    >>> schema = lmm.schema(formula, data[:20])
    >>> parts = [lmm.summarize(formula, data[i : i + 50], schema=schema) for i in (0, 50, 100)]
    >>> sum(parts)
    <RowSums: diameter ~ 1 + (1 | plate) + (1 | sample); 144 rows, plate 24 levels, sample 6 levels>
    >>> f"{lmm.fit(sum(parts)).llf:.4f}"
    '-165.4303'
    """
    batch_size = whole_number(batch_size, "batch_size", least=1)
    if schema is None:
        columns, known = read_columns(formula, weights, offset, missing, context)
        if is_frame(data):
            frame = as_pandas(data, columns.expressions)
            rows = complete_rows(frame, {}, columns.expressions, missing).data
            schema = schema_of(rows, columns, known, missing, formula, {}, whole="keep")
    else:
        instance(schema, "schema", Schema, "what lmm.schema made")
        _check_same(formula, schema, weights, offset, context)
        columns, known = schema.columns, schema.context
    if is_frame(data):
        assert schema is not None
        return sums_of(BatchReader(schema).read(data), schema)
    stream = _frames(data, columns.names, batch_size)
    return sum_stream(stream, columns, known, missing, formula, schema)


def is_frame(data: Any) -> bool:
    """Whether the rows are in memory."""
    return isinstance(data, Mapping | pd.DataFrame) or in_memory(data)


def _check_same(formula: str, schema: Schema, *given: Any) -> None:
    """A schema has all that is read of a frame."""
    if formula != schema.formula:
        raise FormulaError(f"the schema is that of the formula {schema.formula!r}", formula)
    if any(value is not None for value in given):
        raise DataError("the schema has weights, offset and context: pass them to lmm.schema")


def _check_nesting(columns: Columns, formula: str) -> None:
    """Factors form a chain by what is written: ``a``, ``a:b``, ``a:b:c``."""
    for a, b in combinations({frozenset(bar.group) for bar in columns.bars}, 2):
        if not (a < b or b < a):
            names = " and ".join(":".join(sorted(part)) for part in (a, b))
            raise FormulaError(
                f"{names} are not written as nested, (1 | a/b): lmm.summarize adds the pairs of "
                "crossed levels up, or the rows have to be in memory",
                formula,
            )


def sum_stream(
    frames: Iterable[Any],
    columns: Columns,
    context: Mapping[str, Any],
    missing: str,
    formula: str,
    schema: Schema | None = None,
) -> RowSums:
    """Sums over a stream of frames; without a schema the first complete rows make it."""
    missed = []
    reader = None if schema is None else BatchReader(schema)

    def parts() -> Iterator[RowSums]:
        nonlocal reader
        for data in frames:
            if reader is None:
                frame = as_pandas(data, columns.expressions)
                rows, n_missing, gaps = complete(frame, columns, missing)
                if not len(rows):
                    missed.append((n_missing, gaps))
                    continue
                made = schema_of(rows, columns, context, missing, formula, {}, whole="refuse")
                reader = BatchReader(made)
            yield sums_of(reader.read(data), reader.schema)

    found = total(parts())
    if found is None:
        raise DataError("the batches have no complete row")
    return found.with_missing(missed)


def _frames(batches: Any, names: Sequence[str], batch_size: int) -> Iterator[Any]:
    """Frames of an iterable or of a Parquet file."""
    if isinstance(batches, str) and "*" in batches:
        batches = _dataset(batches)
    elsewhere = streamed(batches, lambda name: name in names, batch_size)
    if elsewhere is not None:
        yield from elsewhere
        return
    if isinstance(batches, str | PathLike):
        yield from _parquet(Path(batches), names, batch_size)
        return
    if isinstance(batches, pd.DataFrame | Mapping | np.ndarray) or not isinstance(
        batches, Iterable
    ):
        raise DataError(
            f"batches is a {type(batches).__name__}: pass an iterable of frames or the path of a "
            "Parquet file (a frame in memory goes to lmm.design)"
        )
    yield from batches


def _dataset(pattern: str) -> Any:
    """The Parquet files that a pattern matches, as a dataset of pyarrow."""
    paths = sorted(glob(pattern))
    if not paths:
        raise DataError(f"no file matches {pattern!r}")
    try:
        from pyarrow import dataset
    except ImportError as error:
        raise ImportError("Parquet files need pyarrow: pip install lmm-jax[arrow]") from error
    return dataset.dataset(paths, format="parquet")


def _parquet(path: Path, names: Sequence[str], batch_size: int) -> Iterator[Any]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError("Parquet files need pyarrow: pip install lmm-jax[arrow]") from error
    try:
        opened = parquet.ParquetFile(path)
    except ValueError as error:  # pyarrow's ArrowInvalid is one
        raise DataError(f"{path} is not a Parquet file: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    with opened as file:
        there = set(file.schema_arrow.names)
        wanted = [name for name in names if name in there]
        yield from file.iter_batches(batch_size=batch_size, columns=wanted)
