"""A design from rows that come in batches and are not kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError
from ..inputs.arguments import hinted, whole_number
from ..inputs.frames import streamed
from ..inputs.parquet import parquet_dataset, same_types
from .batch_reader import BatchReader, complete
from .data_frames import as_pandas
from .design import Design
from .from_sums import design_of_sums
from .make_schema import read_columns, schema_of
from .row_sums import RowSums, no_sums, sums_of
from .schema import Columns, Schema
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
    groups, and of the pairs of levels that meet where factors cross. The fit is
    that of all rows together.

    Parameters
    ----------
    formula : str
        lme4's syntax with bars; factors may be nested or crossed.
    batches : iterable of frames, or path of a Parquet file
        pandas frames, pyarrow record batches or tables, anything that narwhals
        reads. A file is read by pyarrow (``pip install "lmm-jax[arrow]"``), only
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
        No bars.
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
    later one together with rows of those before it. ``I(x - x.mean())``, ranks,
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
    batch_size = whole_number(batch_size, "batch_size", least=1)
    stream = frames_of(batches, columns.names, batch_size)
    found = sum_stream(stream, columns, known, missing, formula)
    if found is None:
        raise DataError("the batches have no complete row")
    return design_of_sums(found)


def sum_stream(
    frames: Iterable[Any],
    columns: Columns,
    context: Mapping[str, Any],
    missing: str,
    formula: str,
    schema: Schema | None = None,
) -> RowSums | None:
    """Sums over a stream of frames; without a schema the first complete rows make it.

    None: there is nothing to make it of.
    """
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
        return None if schema is None else no_sums(schema, 0, {})
    return found.with_missing(missed)


def frames_of(batches: Any, names: Sequence[str], batch_size: int) -> Iterator[Any]:
    """Frames of an iterable, of Parquet files, or of a source that is read batch by batch."""
    if isinstance(batches, str | PathLike):
        batches = parquet_dataset(batches)
        same_types(batches, names)
    elsewhere = streamed(batches, lambda name: name in names, batch_size)
    if elsewhere is not None:
        yield from elsewhere
        return
    single = isinstance(batches, pd.DataFrame | Mapping | np.ndarray) or hasattr(batches, "dtype")
    if single or not isinstance(batches, Iterable):
        raise DataError(
            f"batches is a {type(batches).__name__}: pass an iterable of frames or the path of a "
            "Parquet file (a frame in memory goes to lmm.design)"
        )
    yield from batches
