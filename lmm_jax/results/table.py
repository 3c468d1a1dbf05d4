"""Frames that print whole: every column, in the digits that a reader wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ..reprs import number, p_value
from .summary import Summary, TextTable

# Columns of p values, of whole numbers and of degrees of freedom.
_P = ("p_value", "p_boundary", "p_bootstrap")
_DF = ("df_denom", "df")


class Table(pd.DataFrame):
    """A data frame whose whole width is printed, as text and as HTML.

    It is a frame in every other way: columns, ``loc`` and arithmetic give plain frames and series.
    """

    _metadata: ClassVar[list[str]] = ["title"]
    title: str = ""

    @property
    def _constructor(self) -> Callable[..., pd.DataFrame]:
        return pd.DataFrame

    def _shown(self) -> Summary:
        names = [str(self.index.name or "")] if not _is_plain(self.index) else []
        header = (*names, *map(str, self.columns))
        rows = []
        for label, values in zip(self.index, self.itertuples(index=False), strict=True):
            cells = [_cell(n, v) for n, v in zip(self.columns, values, strict=True)]
            rows.append((*([str(label)] if names else []), *cells))
        table = TextTable(caption="", header=header, rows=tuple(rows))
        return Summary(title=self.title, tables=(table,), notes=())

    def __repr__(self) -> str:
        return str(self._shown()) if self.title else self._shown().tables[0].text()

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        return self._shown().as_html() if self.title else self._shown().tables[0].html()


def _is_plain(index: pd.Index[Any]) -> bool:
    return isinstance(index, pd.RangeIndex)


def _cell(name: Any, value: Any) -> str:
    """A number as a reader wants it; nothing where there is none."""
    if not isinstance(value, float | int | np.number) or isinstance(value, bool):
        return str(value)
    if np.isnan(value):
        return ""
    if name in _P:
        return p_value(float(value))
    if float(value).is_integer() and not isinstance(value, float):
        return str(int(value))
    if name in _DF:
        return f"{value:.4g}" if float(value).is_integer() else f"{value:.2f}"
    return number(float(value))


def table(frame: pd.DataFrame, title: str) -> Table:
    """A frame as a table with a title."""
    out = Table(frame)
    out.title = title
    return out
