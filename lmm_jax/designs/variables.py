"""The variables of the fixed effects: levels of factors, values of covariates, their cells."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from ..formulas import matrices as mat
from ..formulas.functions import days_of
from ..formulas.right_side import variables
from ..reprs import brief
from .design import Design
from .fixed_source import FixedSource
from .schema import factor_columns

# A covariate of so few values keeps them all in a reference grid (emmeans' rule).
_KEPT = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Covariate:
    """A numeric variable in the rows that were used; of dates and spans the days (R's numbers)."""

    mean: float
    low: float
    high: float
    few: tuple[float, ...] | None  # all of its values, where they are few
    dtype: Any = None  # of dates and spans

    __repr__ = brief


@dataclass(frozen=True, kw_only=True, eq=False)
class Variables:
    """What a reference grid needs of the rows."""

    names: tuple[str, ...]  # in the order of the formula
    factors: Mapping[str, pd.Index[Any]]  # levels, those that occur, in their order
    covariates: Mapping[str, Covariate]
    cells: np.ndarray  # (c, F)  combinations of codes that occur; covariates of few values last
    counts: np.ndarray  # (c,)  rows of each
    dtypes: Mapping[str, Any] = field(default_factory=dict)  # of the columns of factors
    terms: tuple[Mapping[str, bool], ...] = ()  # variables, and whether the rest of it is a term

    __repr__ = brief

    @property
    def counted(self) -> tuple[str, ...]:
        """Variables of the columns of ``cells``."""
        return (*self.factors, *(n for n, c in self.covariates.items() if c.few is not None))

    def __contains__(self, name: object) -> bool:
        return name in self.factors or name in self.covariates


# C(x) or C(x, contrasts): x is a factor.
_DECLARED = re.compile(r"^C\(\s*`?([^`,()]+?)`?\s*[,)].*$")


class Reference(NamedTuple):
    """What marginal means need of a design beside its formula."""

    variables: Variables
    aliases: np.ndarray  # (p, d)  dropped columns of X as combinations of those that were kept
    offset: float = 0.0  # mean over the rows of an offset that was given as an array
    offsets: tuple[float, ...] = ()  # the same of those in the formula; none in old files


def reference_of(design: Design) -> Reference | None:
    """The variables of a design made from a formula, and its dropped columns; None without rows.

    A row over all columns is an estimable function where its dropped part is its kept part
    times ``aliases``.
    """
    source = design.source
    if source is None or source.rows is None:
        return None
    aliases = np.zeros((design.exog.shape[1], 0))
    if design.dropped:
        full = mat.replay(source.spec, source.rows, context=source.context)
        dropped = [j for j in range(full.shape[1]) if j not in set(source.kept)]
        aliases = np.linalg.lstsq(design.exog, full[:, dropped], rcond=None)[0]
    own, offset = source.offset_parts(source.rows), 0.0
    if source.offset_array and design.offset is not None:
        offset = float((design.offset - np.sum(own, axis=0)).mean())
    means = tuple(float(np.mean(part)) for part in own)
    return Reference(variables_of(source, source.rows), aliases, offset, means)


def variables_of(source: FixedSource, rows: pd.DataFrame) -> Variables:
    """The variables of a formula's fixed effects, from the rows used."""
    spec, used = source.spec, [name for name in rows.columns if name in _names(source)]
    declared = {
        name
        for expr, (kind, _) in spec.encoder_state.items()
        if kind.value == "categorical"
        for name in [_DECLARED.sub(r"\1", expr)]
    }
    factors: dict[str, pd.Index[Any]] = {}
    covariates: dict[str, Covariate] = {}
    codes = {}
    for name in used:
        column = rows[name]
        numeric = is_numeric_dtype(column.dtype) and not is_bool_dtype(column.dtype)
        if name not in declared and (numeric or column.dtype.kind in "mM"):
            covariates[name], own = _covariate(
                as_numbers(column), None if numeric else column.dtype
            )
        else:
            own, factors[name] = _levels(column)
        if own is not None:
            codes[name] = own
    order = [*factors, *(n for n in covariates if n in codes)]
    cells = np.column_stack([codes[name] for name in order]) if order else np.zeros((len(rows), 0))
    found, counts = np.unique(cells.astype(np.int64), axis=0, return_counts=True)
    return Variables(
        names=tuple(used),
        factors=factors,
        covariates=covariates,
        cells=found,
        counts=counts,
        dtypes={name: rows[name].dtype for name in factors},
        terms=_marginal_terms(source),
    )


def as_numbers(column: pd.Series[Any]) -> np.ndarray:
    """Values of a covariate, (n,): days of dates and spans, whatever the unit of their integers."""
    return days_of(column) if column.dtype.kind in "mM" else column.to_numpy(np.float64)


def days_given(values: Sequence[Any], dtype: Any) -> np.ndarray:
    """Dates or spans that a caller says of a covariate of this type, as days.

    Raises
    ------
    TypeError, ValueError, OverflowError
        What is none of these; numbers, which may be days or anything, and dates with a time zone
        beside those without.
    """
    found = pd.Series(list(values))
    zones = getattr(found.dtype, "tz", None), getattr(dtype, "tz", None)
    mixed = found.dtype.kind == "M" and (zones[0] is None) != (zones[1] is None)
    if mixed or any(isinstance(value, Real) for value in values):
        raise TypeError
    return days_of(found.astype(dtype))


def _marginal_terms(source: FixedSource) -> tuple[dict[str, bool], ...]:
    """Variables of every term, and whether what is left of it without one is a term as well.

    A variable goes by the first expression of it alone: `k + factor(k):f` has k and another one.
    """
    terms = [list(term.factors) for term in source.spec.formula]
    none: frozenset[str] = frozenset()
    there = {none, *(frozenset(factor.expr for factor in term) for term in terms)}
    names: dict[str, str] = {}
    for factor in (factor for term in terms for factor in term):
        own = list(factor_columns(factor))
        alone = len(own) == 1 and own[0] not in names.values()
        names.setdefault(factor.expr, own[0] if alone else factor.expr)
    return tuple(
        {names[e]: frozenset(exprs) - {e} in there for e in exprs}
        for exprs in ([factor.expr for factor in term] for term in terms)
    )


def _names(source: FixedSource) -> set[str]:
    factors = [factor for term in source.spec.formula for factor in term.factors]
    names = {name for factor in factors for name in factor_columns(factor)}
    return names | {name for text in source.offsets for name in variables(text)}


def _covariate(values: np.ndarray, dtype: Any) -> tuple[Covariate, np.ndarray | None]:
    few, codes = np.unique(values, return_inverse=True)
    known = len(few) <= _KEPT
    made = Covariate(
        mean=float(values.mean()),
        low=float(values.min()),
        high=float(values.max()),
        few=tuple(few.tolist()) if known else None,
        dtype=dtype,
    )
    return made, codes if known else None


def _levels(column: pd.Series[Any]) -> tuple[np.ndarray, pd.Index[Any]]:
    """Codes and levels: of a categorical in its order, otherwise sorted."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        used = column.cat.remove_unused_categories()
        return used.cat.codes.to_numpy().astype(np.int64), pd.Index(used.cat.categories)
    codes, levels = pd.factorize(column, sort=True)
    return codes.astype(np.int64), pd.Index(levels)


def column_of(name: str, values: list[Any], known: Variables) -> Any:
    """Values of a variable as a column that the formula reads as it read that of the fit."""
    if name in known.covariates:
        found, dtype = np.asarray(values, dtype=np.float64), known.covariates[name].dtype
        if dtype is None:
            return found
        spans = pd.Series(pd.to_timedelta(found * 86400e9, unit="ns"))  # whatever the unit was
        return spans if dtype.kind == "m" else _since_1970(spans, dtype)
    levels, dtype = known.factors[name], known.dtypes.get(name)
    if dtype is not None and not isinstance(
        dtype, pd.CategoricalDtype
    ):  # logicals and numbers are computed with
        return pd.Series(values, dtype=dtype)
    return pd.Series(pd.Categorical(values, categories=levels)).astype(
        pd.CategoricalDtype(levels) if levels.dtype == object else "category"
    )


def dates_of(days: Any, dtype: Any) -> pd.Series[Any]:
    """Dates of a covariate as labels, from days since 1970, (n,).

    To the second, which is what a mean of dates needs; finer where they lie so close that this
    would move one by more than a quarter of what is between it and the next.

    >>> quarters = np.array([0.0, 0.25, 60.0]) / 86400
    >>> [str(date) for date in dates_of(quarters, np.dtype("datetime64[ns]"))][1]
    '1970-01-01 00:00:00.250000'
    """
    exact = np.round(np.asarray(days, dtype=np.float64) * 86400e6)  # no finer, float64 is not
    apart = np.diff(np.unique(exact)).min(initial=np.inf)
    rounded = (unit * np.round(exact / unit) for unit in (1e6, 1e3))
    near = (r for r in rounded if np.abs(r - exact).max(initial=0.0) <= apart / 4)
    spans = pd.to_timedelta(1000 * next(near, exact).astype(np.int64), unit="ns")
    return _since_1970(pd.Series(spans), dtype)


def _since_1970(spans: pd.Series[Any], dtype: Any) -> pd.Series[Any]:
    """Dates of a type, with its time zone."""
    return (pd.Timestamp(0, tz="UTC") + spans).dt.tz_convert(getattr(dtype, "tz", None))
