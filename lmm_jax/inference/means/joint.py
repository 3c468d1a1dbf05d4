"""Joint F tests of marginal means: main effects and interactions of their factors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ...inputs.names import unique
from ..contrasts.linear_functions import (
    LinearFunctions,
    estimable_rows,
    independent_rows,
    without_rounding,
)
from ..df.methods import DfMethod
from ..df.wald import correlation
from ..tails.student import f_tail
from .contrast_families import contrasts_of
from .nested_factors import Parents, nesting, numbered, shares

# Least eigenvalue, at unit variances, of a covariance that is not singular.
_SINGULAR = 1e-10
_COLUMNS = ["df_num", "df_denom", "f", "p_value"]


def joint_f(L: np.ndarray, value: np.ndarray, tests: DfMethod, scale: float) -> list[float]:
    """Test that orthonormal rows have values of zero: df_num, df_denom, F and its p value.

        F = v' (L cov L')^-1 v / q

    with the least degrees of freedom of the rows, as emmeans.

    Parameters
    ----------
    L : ndarray, shape (q, p)
        Orthonormal rows.
    value : ndarray, shape (q,)
        ``L beta`` less what is tested.
    tests : DfMethod
        Its covariance of the fixed effects and its degrees of freedom.
    scale : float
        Residual variance, in units of which that covariance is.
    """
    q = len(L)
    if q == 0:
        return [0, np.nan, np.nan, np.nan]
    cov = scale * (L @ tests.cov_beta @ L.T)
    # what is held fixed has no test, nor what a robust covariance of few clusters leaves singular
    if not (np.diagonal(cov) > 0).all() or np.linalg.eigvalsh(correlation(cov))[0] < _SINGULAR:
        return [q, np.nan, np.nan, np.nan]
    f = float(value @ np.linalg.solve(cov, value)) / q
    df = float(np.min(tests.of_contrasts(L)))
    return [q, df, f, float(f_tail(f, q, df))]


def joint_test_of(
    at: LinearFunctions,
    rows: np.ndarray,
    tests: DfMethod,
    scale: float,
    beta: np.ndarray,
    null: float | np.ndarray,
) -> list[float]:
    """Test that some rows are ``null``, of those of their combinations that can be estimated."""
    basis = estimable_rows(at.L[rows], at.gap[rows])
    L, shift = without_rounding(basis, at.L[rows]), basis @ (at.shift[rows] - null)
    Q = independent_rows(L, _size(at, rows))
    # Q = T L, so that the known parts go along
    T = np.linalg.lstsq(L.T, Q.T, rcond=None)[0].T
    return joint_f(Q, Q @ beta + T @ shift, tests, scale)


def _size(at: LinearFunctions, rows: np.ndarray) -> float:
    """Length of the longest row: what is nothing beside it is zero."""
    return float(np.linalg.norm(at.L[rows], axis=1).max(initial=0.0))


class FactorTests(NamedTuple):
    """Tests of the factors of a table, in every group of ``by``."""

    groups: list[dict[str, Any]]  # values of the columns of ``by``
    found: list[dict[tuple[str, ...], list[float]]]  # by the factors: df_num, df_denom, F, p value
    spaces: list[tuple[np.ndarray, np.ndarray]]  # orthonormal rows: all contrasts, those tested


def tests_of_factors(
    at: LinearFunctions,
    table: pd.DataFrame,
    by: Sequence[str],
    families: Sequence[np.ndarray],
    parents: Parents,
    tests: DfMethod,
    scale: float,
    beta: np.ndarray,
) -> FactorTests:
    """Tests of every main effect and interaction, in each group of ``by``.

    The hypothesis of a set of factors are the products of consecutive differences of their
    levels, averaged over the other factors. A factor is nested in its ``parents`` in every
    group, however few of its levels are there, and in those in which the group has it nested.
    """
    factors = [name for name in table.columns if name not in by]
    out = FactorTests([], [], [])
    for rows in families:
        found, tested = {}, [np.zeros((0, at.L.shape[1]))]
        for chosen, L in _hypotheses(at, table.iloc[rows][factors], rows, parents):
            tested.append(L)
            found[chosen] = joint_f(L, L @ beta, tests, scale)
        out.groups.append({name: table[name].iloc[rows[0]] for name in by})
        out.found.append(found)
        total = _estimable(_differences(len(rows)), at, rows)
        out.spaces.append((total, independent_rows(np.vstack(tested))))
    return out


def table_of_tests(
    parts: Sequence[FactorTests],
    by: Sequence[str],
    order: Sequence[str],
    tests: DfMethod,
    scale: float,
    beta: np.ndarray,
) -> pd.DataFrame:
    """A row a test, main effects first, of tables that no interaction joins.

    What remains of the space of all contrasts, where empty cells leave some of it, is
    ``(confounded)``.
    """
    names = unique(["term", *_COLUMNS, *by])  # a factor may be called `term`
    columns = names[0], *names[1 + len(_COLUMNS) :]
    place = {name: i for i, name in enumerate(order)}
    groups = {tuple(own.values()): own for part in parts for own in part.groups}
    rows = []
    for g, (key, own) in enumerate(groups.items()):
        there = [(part, i) for part in parts for i, o in enumerate(part.groups)
                 if tuple(o.values()) == key]  # fmt: skip
        found = {term: values for part, i in there for term, values in part.found[i].items()}
        total, tested = (
            independent_rows(np.vstack([part.spaces[i][k] for part, i in there])) for k in (0, 1)
        )
        left = _uncorrelated(total, tested, tests)
        if len(left):
            found[()] = joint_f(left, left @ beta, tests, scale)
        for term, values in found.items():
            place_of = not term, len(term), [place[name] for name in term], g
            label = ":".join(term) or "(confounded)"
            rows.append((place_of, dict(zip(columns, (label, *own.values()), strict=True)), values))
    rows.sort(key=lambda row: row[0])
    labels = pd.DataFrame([row[1] for row in rows], columns=None if rows else ["term"])
    made = pd.DataFrame([row[2] for row in rows], columns=_COLUMNS).astype({"df_num": int})
    return pd.concat([labels, made], axis=1)


def _hypotheses(
    at: LinearFunctions, table: pd.DataFrame, rows: np.ndarray, known: Parents
) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """Sets of factors and orthonormal rows of what of their contrasts can be estimated."""
    active = [name for name in table.columns if table[name].nunique() > 1]
    none: frozenset[str] = frozenset()
    parents = {
        name: (own | known.get(name, none)).intersection(active)
        for name, own in nesting(table[active]).items()
    }
    for order in range(1, len(active) + 1):
        for chosen in combinations(active, order):
            within = [name for name in chosen if any(name in parents[other] for other in chosen)]
            if any(not parents[name] <= set(chosen) for name in chosen):
                continue  # `B` alone, of A / B: it is part of A:B
            L = _estimable(_products(table[active], chosen, within, parents), at, rows)
            if len(L):
                yield chosen, L


def _uncorrelated(total: np.ndarray, tested: np.ndarray, tests: DfMethod) -> np.ndarray:
    """What is left of orthonormal rows when those tested are taken off, whatever the coding.

    Their estimates are uncorrelated, so that sums of squares, ``df_num f``, add up. How many are
    left is a question of geometry alone: a covariance may have lost the digits that tell.
    """
    left = independent_rows(total - (total @ tested.T) @ tested)
    cov = tested @ tests.cov_beta @ tested.T
    if not len(left) or not len(tested):
        return left
    if not np.linalg.eigvalsh(cov)[0] > _SINGULAR * np.trace(cov):
        return left
    return independent_rows(
        left - np.linalg.solve(cov, tested @ tests.cov_beta @ left.T).T @ tested
    )


def _differences(k: int) -> np.ndarray:
    return contrasts_of("consec", [str(i) for i in range(k)]).coefficients


def _products(
    table: pd.DataFrame, chosen: Sequence[str], within: Sequence[str], parents: Parents
) -> np.ndarray:
    """Products of consecutive differences of some factors, means over the others, (c, r).

    In every combination of levels of those of them ``within`` which others are nested.
    """
    others = [name for name in table.columns if name not in chosen]
    weights = shares(table, parents, others)
    inner = [name for name in chosen if name not in within]
    crossed = [name for name in others if not parents[name]]
    where, parts = numbered(table, within), []
    for group in range(where.max() + 1):
        rows = np.flatnonzero(where == group)
        C = _crossed(table.iloc[rows], inner, crossed, weights[rows])
        out = np.zeros((len(C), len(table)))
        out[:, rows] = C
        parts.append(out)
    return np.concatenate(parts)


def _crossed(
    table: pd.DataFrame, chosen: Sequence[str], averaged: Sequence[str], weights: np.ndarray
) -> np.ndarray:
    """The same of factors that are crossed with each other, and with others to be averaged.

    Of what remains within their cells a mean by ``weights``. A cell that is not there has no
    mean: what it is a part of is left out.
    """
    cell, C = np.zeros(len(table), dtype=int), np.ones((1, 1))
    for name in (*chosen, *averaged):
        place = numbered(table, [name])
        k = int(place.max()) + 1
        one = _differences(k) if name in chosen else np.full((1, k), 1.0 / k)
        cell += place * C.shape[1]
        C = np.kron(one, C)  # the first one fastest
    total = np.bincount(cell, weights, minlength=C.shape[1])
    if not total.all():
        C = estimable_rows(C, C[:, total == 0]) @ C
    return np.asarray(C[:, cell] * (weights / total[cell]))


def _estimable(C: np.ndarray, at: LinearFunctions, rows: np.ndarray) -> np.ndarray:
    """Orthonormal rows over the fixed effects of what of some contrasts can be estimated."""
    if not len(C):
        return np.zeros((0, at.L.shape[1]))
    L, gap = (without_rounding(C, A) for A in (at.L[rows], at.gap[rows]))
    return independent_rows(estimable_rows(L, gap) @ L, _size(at, rows))
