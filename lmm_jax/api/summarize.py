"""Sums over rows, wherever these are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..designs.batch_reader import BatchReader
from ..designs.data_frames import as_pandas
from ..designs.from_batches import frames_of, sum_stream
from ..designs.make_schema import read_columns, schema_of
from ..designs.row_sums import RowSums, sums_of
from ..designs.rows import complete_rows
from ..designs.schema import Columns, Schema
from ..engines.sources import source_of
from ..errors import DataError, FormulaError
from ..inputs.arguments import hinted, instance, whole_number
from ..inputs.frames import in_memory


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
        polars or a relation of DuckDB, which are read batch by batch; a frame of Dask or Spark or
        a dataset of Ray, which are summed up where they are.
    schema : Schema, optional
        How rows are read, from :func:`schema`: sums add up if they have it in common. Not given:
        that of the frame, of the first batch of a stream, and of a source its first rows with all
        labels of categorical predictors.
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

    Notes
    -----
    Where a model reads plain columns, a relation of DuckDB and a frame of Spark are summed up by
    one ``GROUP BY``, as are Parquet files where DuckDB is installed: rows stay where they are.

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
    else:
        instance(schema, "schema", Schema, "what lmm.schema made")
        _check_same(formula, schema, weights, offset, context)
        columns, known, missing = schema.columns, schema.context, schema.missing
    if is_frame(data):
        return _of_frame(data, schema, columns, known, missing, formula)
    source = source_of(data, batch_size)
    if source is None:
        stream = frames_of(data, columns.names, batch_size)
        found = sum_stream(stream, columns, known, missing, formula, schema)
        if found is None:
            raise DataError("the batches have no complete row")
        return found
    if schema is None:
        return source.fitting_sums(columns, known, missing, formula)
    return source.sums(schema)


def _of_frame(
    data: Any,
    schema: Schema | None,
    columns: Columns,
    context: Mapping[str, Any],
    missing: str,
    formula: str,
) -> RowSums:
    """Sums over the rows of a frame in memory, which makes the schema where there is none."""
    if schema is not None:
        return sums_of(BatchReader(schema).read(data), schema)
    frame = as_pandas(data, columns.expressions)
    rows = complete_rows(frame, {}, columns.expressions, missing).data
    levels: dict[str, Any] = {}
    while True:
        made = schema_of(rows, columns, context, missing, formula, levels, whole="keep")
        found = sums_of(BatchReader(made).read(data), made)
        levels = found.occurring()
        if not levels:
            return found


def is_frame(data: Any) -> bool:
    """Whether the rows are in memory."""
    return isinstance(data, Mapping | pd.DataFrame) or in_memory(data)


def _check_same(formula: str, schema: Schema, *given: Any) -> None:
    """A schema has all that is read of a frame."""
    if formula != schema.formula:
        raise FormulaError(f"the schema is that of the formula {schema.formula!r}", formula)
    if any(value is not None for value in given):
        raise DataError("the schema has weights, offset and context: pass them to lmm.schema")
