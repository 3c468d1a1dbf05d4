"""Factors whose levels belong to one level of another: which they are, and means over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

Parents = Mapping[str, frozenset[str]]


def nesting(cells: pd.DataFrame) -> Parents:
    """The factors that every factor is nested in: each of its levels stands beside one of theirs.

    Parameters
    ----------
    cells : DataFrame
        Combinations of levels that there are, a factor a column.
    """
    levels = {name: cells[name].nunique() for name in cells.columns}

    def has(outer: str, inner: str) -> bool:
        finer = levels[inner] > levels[outer] > 1
        return finer and len(cells[[inner, outer]].drop_duplicates()) == levels[inner]

    return {inner: frozenset(o for o in levels if has(o, inner)) for inner in levels}


def nesting_by_terms(terms: Sequence[Mapping[str, bool]], names: Sequence[str]) -> Parents:
    """The variables that every one is nested in by the formula, ``B / A``: emmeans' rule.

    A variable without a main effect is nested in those of its terms without which no term is
    left, where the term without the variable itself is one.

    Parameters
    ----------
    terms : sequence of mapping
        Variables of each term, and whether what is left of it without one is a term.
    names : sequence of str
        Variables with several values; no others count.
    """
    found = {}
    alone = {name for term in terms if len(term) == 1 for name in term}
    for name in (name for name in names if name not in alone):
        own = [term for term in terms if term.get(name)] or [term for term in terms if name in term]
        above = {frozenset(n for n, rest in term.items() if n != name and n in names and not rest)
                 for term in own}  # fmt: skip
        least = [one for one in above if not any(other < one for other in above)]
        found[name] = frozenset().union(*least)
    return found


def joined(*nests: Parents) -> Parents:
    """Several kinds of nesting as one, those of parents included; what goes in circles is none."""
    names = list(dict.fromkeys(name for nest in nests for name in nest))
    none: frozenset[str] = frozenset()
    found = {name: none.union(*(nest.get(name, none) for nest in nests)) for name in names}
    for _ in names:
        found = {n: own.union(*(found.get(o, none) for o in own)) for n, own in found.items()}
    return {name: none if name in own else own for name, own in found.items()}


def numbered(cells: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """Number of every row's combination of levels, in the order in which they come, (N,)."""
    if not names:
        return np.zeros(len(cells), dtype=int)
    found = cells.groupby(list(names), sort=False, observed=True, dropna=False).ngroup()
    return found.to_numpy()


def shares(
    cells: pd.DataFrame, parents: Parents, averaged: Sequence[str], keep: Sequence[str] = ()
) -> np.ndarray:
    """Relative weights of cells in a mean over some factors, (N,): nested ones go first.

    A level of A / B counts as much as another one of A, however many levels of B it has; and in
    the mean of every combination of what is kept by itself.
    """
    out = np.ones(len(cells))
    for name in averaged:
        if parents[name]:
            place = numbered(cells, sorted({*parents[name], *keep}))
            pairs = np.unique(np.column_stack([place, numbered(cells, [name])]), axis=0)
            out /= np.bincount(pairs[:, 0])[place]
    return out
