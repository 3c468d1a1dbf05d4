"""A design from rows that come in batches and are not kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import ConvergenceWarning, DataError, FormulaError, warn_user
from ..formulas import parse as fml
from ..inputs.arguments import choice, hinted, mapping, whole_number
from ..layouts.group_index import GroupIndex
from ..layouts.stream_pass import finish
from ..numerics.processes import float64
from .batch_reader import BatchReader, Columns
from .checks import EXACT_TOL, check_identified, check_levels, check_rank, confounded
from .compressed import Compressed, few_groups
from .data_frames import MISSING, callables
from .design import Design, FixedSource
from .from_formula import outer_group
from .stream import BatchSums, Factor
from .terms import RandomTerm, most_levels_first


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class BatchDesign(Design):
    """A design whose rows were compressed batch by batch and are gone."""

    n_rows: int
    response_norms: tuple[float, float]  # largest |y| or its size, norm of y around its mean
    summed: Compressed

    @property
    def nobs(self) -> int:
        """Number of rows used."""
        return self.n_rows

    @cached_property
    def compressed(self) -> Compressed:
        """See :meth:`Design.compressed`."""
        return self.summed

    @property
    def is_compressed(self) -> bool:
        """See :meth:`Design.is_compressed`."""
        return True

    def response_bound(self) -> float:
        """See :meth:`Design.response_bound`."""
        return max(self.response_norms[1], self.response_norms[0] * self.n_rows**0.5)

    def response_size(self) -> tuple[float, float, float]:
        """See :meth:`Design.response_size`."""
        largest, norm = self.response_norms
        return largest, norm / largest, float(self.n_rows)

    @property
    def has_rows(self) -> bool:
        """See :meth:`Design.has_rows`."""
        return False


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
    if not isinstance(formula, str):
        raise FormulaError(f"the formula is a {type(formula).__name__}: pass a string")
    for name, given in {"weights": weights, "offset": offset}.items():
        if given is not None and not isinstance(given, str):
            raise DataError(f"{name} of batches is the name of a column, not an array")
    missing = choice(missing, "missing", MISSING)
    batch_size = whole_number(batch_size, "batch_size", least=1)
    if context is not None:
        mapping(context, "context")
    parsed = fml.parse(formula)
    _check_nesting(parsed)
    columns = Columns.of(parsed, weights, offset)
    known = callables(" ".join([formula, *columns.expressions])) if context is None else context
    total = BatchSums(BatchReader(columns, known, missing))
    with float64():
        for frame in _frames(batches, columns.names, batch_size):
            total.add(frame)
        return _assemble(total, formula)


def _check_nesting(parsed: fml.ParsedFormula) -> None:
    """Factors form a chain by what is written: ``a``, ``a:b``, ``a:b:c``."""
    if not parsed.bars:
        raise FormulaError("batches need random effects in bars, (1 | g)", parsed.text)
    for a, b in combinations({frozenset(bar.group) for bar in parsed.bars}, 2):
        if not (a < b or b < a):
            names = " and ".join(":".join(sorted(part)) for part in (a, b))
            raise FormulaError(
                f"{names} are not written as nested, (1 | a/b): crossed factors need all rows "
                "in memory",
                parsed.text,
            )


def _frames(batches: Any, names: Sequence[str], batch_size: int) -> Iterator[Any]:
    """Frames of an iterable or of a Parquet file."""
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


def _parquet(path: Path, names: Sequence[str], batch_size: int) -> Iterator[Any]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError("Parquet files need pyarrow: pip install lmm-jax[arrow]") from error
    try:
        opened = parquet.ParquetFile(path)
    except ValueError as error:  # pyarrow's ArrowInvalid is one
        raise DataError(f"{path} is not a Parquet file: {error}") from error
    with opened as file:
        there = set(file.schema_arrow.names)
        wanted = [name for name in names if name in there]
        yield from file.iter_batches(batch_size=batch_size, columns=wanted)


def _assemble(total: BatchSums, formula: str) -> Design:
    """Levels in order, terms, layout."""
    if total.nobs == 0:
        raise DataError("the batches have no complete row")
    total.reader.check_categories()
    kept = total.drop_dependent_columns()
    check_rank(total.nobs, len(kept))
    orders = _level_orders(total.factors)
    terms, streams = _ordered_terms(total, orders)
    check_levels(terms)
    moments = lambda: total.moments(streams)  # noqa: E731
    find = lambda: confounded(terms, total.nobs, moments)  # noqa: E731
    check_identified(terms, total.nobs, len(kept), find)
    group, n_groups = outer_group(terms)
    shell = _shell(total, formula, terms, group, n_groups, kept)
    index = shell.plan.index
    if not isinstance(index, GroupIndex):
        raise DataError(
            "a group holds too many levels of the factors inside it for batches: use lmm.design"
        )
    by_term = [orders[term.source.group] for term in total.first_terms]
    sums = total.arranged(streams, by_term, index)
    layout, reach, precise = finish(sums, total.units, index)
    spare = total.nobs - float(reach[0]) - len(kept) > 0
    if total.unexplained() < EXACT_TOL or (spare and float(reach[1]) < EXACT_TOL):
        raise DataError(
            f"the model explains {total.reader.columns.response!r} to the rounding of sums over "
            "batches: there is no residual variance, or the rows have to be in memory"
        )
    if not bool(precise):
        warn_user(
            "the model explains nearly all of y, or columns nearly agree: sums over batches lose "
            "digits there. Centre the covariates, or fit the rows in memory",
            ConvergenceWarning,
        )
    found = Compressed(layout=layout, reach=reach, few_groups=few_groups(shell.plan))
    return replace(shell, summed=found)


def _ordered_terms(
    total: BatchSums, orders: Mapping[tuple[str, ...], np.ndarray]
) -> tuple[list[RandomTerm], list[int]]:
    """Terms of the whole data on one stand-in row per finest level, and their old numbers."""
    finest = max(total.factors.values(), key=lambda f: (len(f.key), len(f.labels)))
    places = {key: np.argsort(order) for key, order in orders.items()}
    terms = []
    for term in total.first_terms:
        factor = total.factors[term.source.group]
        codes = places[factor.key][finest.ancestors(factor)][orders[finest.key]]
        terms.append(
            replace(
                term,
                levels=factor.labels[orders[factor.key]],
                codes=codes[:, None],
                values=np.zeros((codes.size, 1, len(term.names))),
            )
        )
    ordered = most_levels_first(terms)
    return ordered, [terms.index(term) for term in ordered]


def _level_orders(factors: Mapping[tuple[str, ...], Factor]) -> dict[tuple[str, ...], np.ndarray]:
    """Sorted order of every factor's levels; nested ones follow their parents."""
    out: dict[tuple[str, ...], np.ndarray] = {}
    for factor in sorted(factors.values(), key=lambda f: len(f.key)):
        by_label = factor.sorted()
        if factor.parent is not None:
            place = np.argsort(out[factor.parent.key])
            by_label = by_label[np.argsort(place[factor.parents[by_label]], kind="stable")]
        out[factor.key] = by_label
    return out


def _shell(
    total: BatchSums,
    formula: str,
    terms: Sequence[RandomTerm],
    group: np.ndarray,
    n_groups: int,
    kept: tuple[int, ...],
) -> BatchDesign:
    """The design but for its layout."""
    columns, names = total.reader.columns, total.reader.names
    source = FixedSource(
        response=columns.response,
        spec=total.reader.spec,
        kept=kept,
        offsets=columns.offsets,
        offset_array=False,
        context=total.reader.context,
        formula=formula,
    )
    return BatchDesign(
        endog=np.zeros(0),
        exog=np.zeros((0, len(kept))),
        exog_names=tuple(names[j] for j in kept),
        endog_name=columns.response,
        terms=tuple(terms),
        group_codes=group,
        n_groups=n_groups,
        weights=None,
        offset=None,
        index=pd.RangeIndex(0),
        dropped=tuple(name for j, name in enumerate(names) if j not in kept),
        n_missing=total.reader.n_missing,
        gaps=tuple(total.reader.gaps.items()),
        source=source,
        n_rows=total.nobs,
        response_norms=total.response_norms(),
        summed=None,  # type: ignore[arg-type]  # filled in by _assemble
    )
