"""How rows are read, fixed once for all parts of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..designs.data_frames import as_pandas
from ..designs.make_schema import read_columns, read_levels, schema_of, schema_of_levels
from ..designs.rows import complete_rows
from ..designs.schema import Schema
from ..engines.sources import summed_source
from ..errors import DataError
from ..inputs.arguments import hinted


@hinted
def schema(
    formula: str,
    sample: Any = None,
    *,
    levels: Mapping[str, Any] | None = None,
    weights: str | None = None,
    offset: str | None = None,
    missing: str = "drop",
    context: Mapping[str, Any] | None = None,
) -> Schema:
    """Fix how rows are read, so that the sums over parts of them add up.

    Parameters
    ----------
    formula : str
        lme4's syntax with bars.
    sample : frame, path, or a source of rows, optional
        Rows that show the levels of categorical predictors, the knots of splines, the scale of
        polynomials and the origins of the columns, near which sums keep their digits. Of a source
        that may be larger than memory (:func:`lmm_jax.summarize` has a list) the first rows, and
        all labels of categorical predictors.
    levels : mapping of str to sequence, optional
        Labels of a column, in their order. They take the place of a sample for categorical
        predictors, the other columns then being numbers; and fix the levels of a grouping factor,
        which may otherwise be any.
    weights, offset : str, optional
        Columns, as in :func:`lmm_jax.design`.
    missing : {"drop", "raise", "none"}
    context : mapping, optional
        Functions and variables for the formula.

    Returns
    -------
    Schema

    Raises
    ------
    FormulaError
        No bars, or a formula that cannot be read.
    DataError
        A transformation that remembers rows, such as ``poly``, without a sample.

    Examples
    --------
    >>> import lmm_jax as lmm
    >>> data = lmm.load_dataset("sleepstudy")
    >>> schema = lmm.schema("Reaction ~ poly(Days, 2) + (Days | Subject)", data)
    >>> parts = [lmm.summarize(schema.formula, d, schema=schema) for d in (data[:95], data[95:])]
    >>> whole = lmm.fit(schema.formula, data)
    >>> abs(lmm.fit(parts[0] + parts[1]).llf - whole.llf) < 1e-8
    True
    """
    columns, known = read_columns(formula, weights, offset, missing, context)
    fixed = read_levels(levels, columns)
    if sample is None:
        return schema_of_levels(columns, known, missing, formula, fixed)
    source = summed_source(sample)
    if source is not None:
        return source.fitting_schema(columns, known, missing, formula, fixed)
    frame = as_pandas(sample, columns.expressions)
    if not len(frame):
        raise DataError("the sample has no rows")
    frame = complete_rows(frame, {}, columns.expressions, missing).data
    return schema_of(frame, columns, known, missing, formula, fixed, whole="keep")
