"""Random-effects terms: the columns of Z and the level that every row belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse

from ..covariance.structures import Structure, Unstructured
from ..errors import DataError
from ..inputs.matching import check_spellings
from ..inputs.series import check_told_apart
from ..numerics.blocks import level_columns
from ..numerics.components import connected
from ..reprs import brief
from .relationship import Relationship


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TermSource:
    """How a term's covariates and level labels come out of a data frame."""

    spec: Any  # formulaic.ModelSpec of the columns; None: not from a formula
    columns: tuple[int, ...]  # columns of the spec that belong to the term
    group: tuple[str, ...]  # grouping expressions; empty: labels were given as an array
    state: Mapping[str, Any] = field(default_factory=dict)  # what these remember of the first data

    __repr__ = brief


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RandomTerm:
    """One random-effects term, with a ``k x k`` covariance per level.

    A row belongs to ``S`` levels: one for ``(x | g)``; for a variance component
    as many as its widest row has non-zero columns, and then ``k = 1``.
    """

    label: str  # "Days | Subject"
    group: str  # grouping factor, "Subject", or name of the component
    names: tuple[str, ...]  # (k,)   coefficients
    levels: pd.Index[Any]  # (L,)   labels; a component has (group, column)
    codes: np.ndarray  # (n, S)  level of each row
    values: np.ndarray  # (n, S, k)  covariates
    is_component: bool
    source: TermSource
    structure: Structure  # covariance of the k coefficients
    relationship: Relationship | None = None  # of the levels; None: they are independent

    __repr__ = brief

    @property
    def text(self) -> str:
        """The term as a formula has it, `(Days | Subject)` or `cs(Days | Subject)`."""
        return self.structure.spelled(self.label)

    @property
    def n_levels(self) -> int:
        """Number of levels."""
        return len(self.levels)

    @property
    def n_seen(self) -> int:
        """Number of levels that rows have: all of them, unless the levels are related."""
        return self.n_levels if self.relationship is None else np.unique(self.codes).size

    @property
    def varies(self) -> bool:
        """Whether a covariate differs between the rows of a level."""
        code, rows = self.codes[:, 0], self.values[:, 0]
        first = np.zeros(self.n_levels, dtype=np.int64)
        first[code[::-1]] = np.arange(code.size)[::-1]
        return bool((rows != rows[first[code]]).any())

    def columns(self) -> scipy.sparse.csr_array:
        """Z of the term, levels by coefficients in the columns, (n, L k)."""
        return level_columns(self.codes, self.values, self.n_levels)

    def kept(self, keep: np.ndarray) -> RandomTerm:
        """The same for some of the rows; levels that have none are gone, but related ones."""
        if self.relationship is not None:
            return replace(self, codes=self.codes[keep], values=self.values[keep])
        used, codes = np.unique(self.codes[keep], return_inverse=True)
        return replace(
            self,
            levels=self.levels[used],
            codes=codes.reshape(-1, self.codes.shape[1]),
            values=self.values[keep],
        )

    @property
    def linked(self) -> tuple[np.ndarray, int]:
        """What connects the rows: levels, or families of related levels; and their number."""
        if self.relationship is None:
            return self.codes, self.n_levels
        family = self.relationship.family
        return family[self.codes], int(family.max()) + 1


def factor_codes(values: pd.Series[Any]) -> tuple[np.ndarray, pd.Index[Any]]:
    """Codes and labels of a grouping factor; unused levels are dropped, the order is kept.

    Categoricals keep the order of their categories, everything else is sorted.
    """
    name = "groups" if values.name is None else values.name
    check_told_apart(values, str(name))
    if isinstance(values.dtype, pd.CategoricalDtype):
        return _used_categories(values.array)
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "iu":
        found = _integer_codes(values.to_numpy())
        if found is not None:
            return found
    try:
        codes, labels = pd.factorize(values, sort=True)
    except TypeError:  # labels of several types have no order
        try:
            codes, labels = pd.factorize(values)
        except TypeError as error:
            raise DataError(f"{name!r} cannot group the rows: {error}") from error
    found = pd.Index(labels)
    check_spellings(found, str(name))
    return codes.astype(np.int64, copy=False), found


def _used_categories(values: Any) -> tuple[np.ndarray, pd.Index[Any]]:
    """Codes and labels of a categorical, -1 where there is none; pandas takes several times."""
    codes, labels = np.asarray(values.codes, dtype=np.int64), pd.Index(values.categories)
    used = np.zeros(len(labels) + 1, dtype=bool)  # the last: no label
    used[codes] = True
    if used[:-1].all():
        return codes, labels
    places = np.append(np.cumsum(used[:-1]) - 1, -1)
    return places[codes], labels[used[:-1]]


def _integer_codes(values: np.ndarray) -> tuple[np.ndarray, pd.Index[Any]] | None:
    """The same for integers by a table instead of a hash; None if they are far apart."""
    if not values.size:
        return None
    low, high = int(values.min()), int(values.max())
    if high - low > 4 * values.size:
        return None
    if high < 1 << 63:
        places = values.astype(np.int64, copy=False)
        places = places - low if low else places
    else:  # beyond the range of int64
        places = (values - np.uint64(low)).astype(np.int64)
    seen = np.zeros(high - low + 1, dtype=bool)
    seen[places] = True
    labels = np.flatnonzero(seen)
    codes = places if labels.size == seen.size else (np.cumsum(seen) - 1)[places]
    kind = np.int64 if high < 1 << 63 else np.uint64
    return codes, pd.Index((labels.astype(kind) + kind(low)).astype(values.dtype))


def most_levels_first(terms: list[RandomTerm]) -> list[RandomTerm]:
    """Terms in lme4's order."""
    counts = [term.n_levels for term in terms]
    if all(a >= b for a, b in pairwise(counts)):
        return terms
    # as lme4 does it: ties are reversed as soon as anything has to be moved
    return [terms[t] for t in np.argsort(counts, kind="stable")[::-1]]


def independent_groups(
    terms: Sequence[RandomTerm], codes: np.ndarray, n_groups: int
) -> tuple[np.ndarray, int]:
    """Finest partition of the rows between which no random effect is shared.

    The given groups, unless no term lives on the groups themselves: then the
    connected components of the terms' levels, so that thousands of levels of one
    component inside one group stay thousands of small problems.

    Returns
    -------
    codes : ndarray of int, shape (n,)
    n_groups : int
    """
    related = any(term.relationship is not None for term in terms)
    alone = not related and any(t.n_levels == n_groups for t in terms if t.codes.shape[1] == 1)
    if alone:
        return codes, n_groups  # a term with a level per group holds each group together
    links = [term.linked for term in terms]
    label, count = connected_rows([code for code, _ in links], [n for _, n in links])
    if not related:
        return label, count
    found, label = np.unique(label, return_inverse=True)  # families without rows have no group
    return label.astype(np.int64), found.size


def connected_rows(codes: Sequence[np.ndarray], n_levels: Sequence[int]) -> tuple[np.ndarray, int]:
    """Connected component of every row, rows that share a level of any term being connected.

    Parameters
    ----------
    codes : sequence of ndarray of int, shape (n, S)
        Level of each row in each term, for every membership.
    n_levels : sequence of int

    Returns
    -------
    label : ndarray of int, shape (n,)
    count : int
    """
    offsets = np.cumsum([0, *n_levels])
    nodes = np.concatenate(
        [code + at for code, at in zip(codes, offsets[:-1], strict=True)], axis=1
    )
    left, right = np.repeat(nodes[:, :1], nodes.shape[1] - 1, axis=1), nodes[:, 1:]
    count, label = connected(left.ravel(), right.ravel(), int(offsets[-1]))
    return label[nodes[:, 0]].astype(np.int64), count


def coefficient_term(
    values: np.ndarray,
    names: Sequence[str],
    codes: np.ndarray,
    levels: pd.Index[Any],
    group: str,
    source: TermSource,
) -> RandomTerm:
    """One term with a full covariance, from a matrix of covariates (n, k)."""
    return RandomTerm(
        label=f"{' + '.join(names)} | {group}",
        group=group,
        names=tuple(names),
        levels=levels,
        codes=codes[:, None],
        values=np.ascontiguousarray(values[:, None, :], dtype=np.float64),
        is_component=False,
        source=source,
        structure=Unstructured(len(names)),
    )


def component_term(
    name: str,
    matrix: Any,
    columns: Sequence[str],
    codes: np.ndarray,
    levels: pd.Index[Any],
    source: TermSource,
) -> RandomTerm:
    """A variance component: all its columns within a group share one variance.

    Parameters
    ----------
    name : str
    matrix : ndarray or scipy.sparse matrix, shape (n, K)
        Columns that are zero throughout a group do not exist in it.
    columns : sequence of str, length K
    codes, levels
        The grouping factor.
    source : TermSource
    """
    members, values = member_columns(matrix)
    k = max(1, len(columns))
    first = np.zeros(len(levels), dtype=np.int64)
    for s in range(members.shape[1] - 1, -1, -1):
        there = members[:, s] >= 0
        first[codes[there]] = members[there, s]
    # an empty membership points at some column of its own group, with the value zero
    members = np.where(members >= 0, members, first[codes][:, None])
    keys, inverse = np.unique(codes[:, None] * k + members, return_inverse=True)
    labels = _pairs(levels, pd.Index(np.asarray(columns, dtype=object)), keys // k, keys % k)
    return RandomTerm(
        label=name,
        group=name,
        names=(name,),
        levels=labels,
        codes=inverse.reshape(members.shape).astype(np.int64),
        values=values[:, :, None],
        is_component=True,
        source=source,
        structure=Unstructured(1),
    )


def _pairs(
    groups: pd.Index[Any], columns: pd.Index[Any], at: np.ndarray, column: np.ndarray
) -> pd.MultiIndex:
    """Labels of the columns that groups have; from codes where pandas need not look for them."""
    names = ["group", "column"]
    if columns.is_unique:
        parts: Any = {"levels": [groups, columns], "codes": [at, column]}
        return pd.MultiIndex(**parts, names=names, verify_integrity=False)
    return pd.MultiIndex.from_arrays([groups[at], columns[column]], names=names)


def member_columns(matrix: Any) -> tuple[np.ndarray, np.ndarray]:
    """Columns and values of the non-zero entries of each row, padded to the widest row.

    Returns
    -------
    columns : ndarray of int, shape (n, S)
        -1 where a row has fewer entries.
    values : ndarray, shape (n, S)
    """
    if not scipy.sparse.issparse(matrix) and matrix.shape[1] == 1:
        dense = np.asarray(matrix, dtype=np.float64)
        return np.zeros(dense.shape, dtype=np.int64), dense
    rows = scipy.sparse.csr_array(matrix)
    rows.eliminate_zeros()
    counts = np.diff(rows.indptr)
    width = max(1, int(counts.max(initial=0)))
    row = np.repeat(np.arange(rows.shape[0]), counts)
    place = np.arange(rows.nnz) - np.repeat(rows.indptr[:-1], counts)
    columns = np.full((rows.shape[0], width), -1, dtype=np.int64)
    values = np.zeros((rows.shape[0], width))
    columns[row, place] = rows.indices
    values[row, place] = rows.data
    return columns, values
