"""Labels of marginal means and contrasts, and the rows that they divide into families."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, product
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from ..errors import DataError
from ..inference.means.contrast_families import Contrasts, contrasts_of
from ..inference.means.grid import Grid
from ..inference.means.nested_factors import Parents
from ..inputs.arguments import items, numbers
from ..inputs.by_label import in_order
from ..inputs.matching import spelling
from ..inputs.names import unique, unquoted

# Labels with these characters stand in brackets where they are compared.
_AMBIGUOUS = re.compile(r"[-+*/]")


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """A table of labels, a row an estimate."""

    table: pd.DataFrame
    factors: tuple[str, ...]  # columns whose levels are compared: factors, or kinds of contrasts
    covariates: frozenset[str] = frozenset()  # whose values are called by their name: "temp185"
    parents: Parents = field(default_factory=dict)  # the factors that every factor is nested in
    compared: tuple[str, ...] = ()  # columns of differences, which may be ratios elsewhere

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.table.columns)

    @property
    def varying(self) -> list[str]:
        """Columns that hold more than one label, or all of them."""
        several = [name for name in self.columns if self.table[name].nunique(dropna=False) > 1]
        return several or self.columns

    def families(self, by: Sequence[str]) -> list[np.ndarray]:
        """Rows of every group of some columns, in the order of their appearance."""
        if not by:
            return [np.arange(len(self.table))]
        codes = self.table.groupby(list(by), sort=False, dropna=False, observed=True).ngroup()
        return [np.flatnonzero(codes.to_numpy() == i) for i in range(int(codes.max()) + 1)]

    def groups(self, by: Sequence[str]) -> pd.DataFrame:
        """The first row of every group."""
        first = [rows[0] for rows in self.families(by)]
        return self.table.iloc[first][list(by)].reset_index(drop=True)

    def names(self, rows: np.ndarray, by: Sequence[str], *, bare: bool = False) -> list[str]:
        """What rows are called in a contrast: their levels but for those of ``by``.

        ``bare``: values of covariates without the name of the covariate.
        """
        own = [name for name in self.columns if name not in by]
        table, named = self.table.iloc[rows][own], frozenset() if bare else self.covariates
        return [joined(row, own, named) for row in table.itertuples(index=False)]

    def frame(self, columns: Mapping[str, np.ndarray], *, ratios: bool = False) -> pd.DataFrame:
        """The table with columns of numbers."""
        table = self.table.reset_index(drop=True)
        table.columns = unique([*columns, *table.columns])[len(columns) :]  # a factor called `df`
        for name, column in zip(self.columns, list(table.columns), strict=True):
            if ratios and name in self.compared:
                table[column] = table[column].map(_as_ratio)
        return pd.concat([table, pd.DataFrame(dict(columns))], axis=1)


def joined(values: Sequence[Any], names: Sequence[str], covariates: frozenset[str]) -> str:
    """Levels side by side, as emmeans writes them: ``low young``, ``Male age8``."""
    parts = [
        f"{name if name in covariates else ''}{_text(value)}"
        for value, name in zip(values, names, strict=True)
    ]
    return " ".join(parts)


def weights_of(
    given: Any, grid: Grid, keep: Sequence[str], covariates: frozenset[str]
) -> np.ndarray:
    """Numbers for the combinations that are averaged over; by their labels if they have these."""
    over = [name for name in grid.values if name not in keep and len(grid.values[name]) > 1]
    own = given.index if isinstance(given, pd.Series) else None
    if isinstance(own, pd.MultiIndex) and set(own.names) == set(over):
        given = given.set_axis(own.reorder_levels(over))
    cells = [cell[::-1] for cell in product(*(grid.values[name] for name in reversed(over)))]
    names, bare = ([joined(cell, over, of) for cell in cells] for of in (covariates, frozenset()))
    return numbers(in_order(given, names, "weights", called=[bare], whole=True), "weights")


def _text(value: Any) -> str:
    if isinstance(value, np.datetime64):  # of an array of dates
        value = pd.Timestamp(value)
    return f"{value:.15g}" if isinstance(value, float) else spelling(value)


def _as_ratio(label: str) -> str:
    """A difference of labels as their ratio; what stands in brackets stays."""
    parts = re.split(r"(\([^()]*\))", label)
    return "".join(p if p.startswith("(") else p.replace(" - ", " / ") for p in parts)


def bracketed(label: str) -> str:
    """A label that holds an operator, in brackets."""
    return f"({label})" if _AMBIGUOUS.search(label) else label


def combine(
    labels: Labels,
    by: tuple[str, ...],
    contrasts: Callable[[list[str], list[list[str]]], Contrasts],
) -> tuple[np.ndarray, Labels, Contrasts, int]:
    """Contrasts of the rows of every group: coefficients, labels, the family and its means.

    ``contrasts`` gets the labels of the rows, and lists of what else they are called.
    """
    blocks, tables, family, means = [], [], None, 0
    numbered = (f"contrast{i or ''}" for i in count())  # in groups of contrasts "contrast1"
    title = next(name for name in numbered if name not in by)
    for rows in labels.families(by):
        names = labels.names(rows, by)
        called = [names, labels.names(rows, by, bare=True)]
        family = contrasts([bracketed(name) for name in names], called)
        block = np.zeros((len(family.labels), len(labels.table)))
        block[:, rows] = family.coefficients
        table = pd.DataFrame({title: list(family.labels)})
        for name in by:
            table[name] = labels.table[name].iloc[rows[0]]
        blocks.append(block)
        tables.append(table)
        means = max(means, len(rows))
    if family is None or not sum(map(len, tables)):
        _refuse_alone(labels, "one row in each family")
    made = Labels(table=pd.concat(tables, ignore_index=True), factors=(title,), compared=(title,))
    return np.vstack(blocks), made, family, means


def _refuse_alone(labels: Labels, what: str) -> NoReturn:
    held = [name for name in labels.factors if name in labels.covariates]
    how = f"; `{held[0]}` is a covariate: at={{{held[0]!r}: [0, 1]}} or factor()" if held else ""
    raise DataError(f"there is {what}: nothing to be compared{how}")


def interaction_of(
    labels: Labels, by: Sequence[str], methods: Any
) -> tuple[np.ndarray, Labels, Contrasts, int]:
    """Products of contrasts of the factors of the rows."""
    factors = [name for name in labels.factors if name not in by]
    if isinstance(methods, Mapping) and not set(factors).isdisjoint(map(unquoted, methods)):
        named = {unquoted(name): method for name, method in methods.items()}
        if set(named) != set(factors):
            raise DataError(
                f"interaction has methods for {', '.join(map(str, named))}: one is needed for each "
                f"of {', '.join(factors)}"
            )
        methods = [named[name] for name in factors]
    chosen = (
        [methods] if isinstance(methods, str | Mapping) else list(items(methods, "interaction"))
    )
    if len(chosen) == 1:
        chosen = chosen * len(factors)
    if len(chosen) != len(factors):
        raise DataError(
            f"interaction has {len(chosen)} methods for the factors {', '.join(factors)}"
        )
    return _products(labels, tuple(by), dict(zip(factors, chosen, strict=True)))


def _products(
    labels: Labels, by: tuple[str, ...], methods: Mapping[str, Any]
) -> tuple[np.ndarray, Labels, Contrasts, int]:
    """Products of contrasts, the first factor fastest."""
    blocks, tables = [], []
    for rows in labels.families(by):
        part = labels.table.iloc[rows]
        levels = {name: list(pd.unique(part[name])) for name in methods}
        texts = {name: list(map(_text, own)) for name, own in levels.items()}
        made = {
            name: contrasts_of(method, list(map(bracketed, texts[name])), called=[texts[name]])
            for name, method in methods.items()
        }
        places = {
            name: np.array([levels[name].index(value) for value in part[name]]) for name in methods
        }
        if len(part) != np.prod([len(v) for v in levels.values()]):
            raise DataError("interaction contrasts need all combinations of the factors' levels")
        own: list[dict[str, Any]] = []
        for chosen in product(*[range(len(c.labels)) for c in reversed(made.values())]):
            row, label = np.ones(len(rows)), {}
            for (name, c), i in zip(made.items(), reversed(chosen), strict=True):
                row = row * c.coefficients[i][places[name]]
                method = methods[name] if isinstance(methods[name], str) else "custom"
                label[f"{name}_{method}"] = c.labels[i]
            full = np.zeros(len(labels.table))
            full[rows] = row
            blocks.append(full)
            own.append(label)
        table = pd.DataFrame(own)
        for name in by:
            table[name] = part[name].iloc[0]
        tables.append(table)
    if not blocks:
        _refuse_alone(labels, "one level of a factor")
    table = pd.concat(tables, ignore_index=True)
    kinds = tuple(n for n in table.columns if n not in by)
    made_labels = Labels(table=table, factors=kinds, compared=kinds)
    family = Contrasts(np.zeros((0, 0)), (), "none")
    return np.array(blocks), made_labels, family, 0
