"""Joint F tests of marginal means: main effects and interactions of their factors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from ..inputs.names import unique
from .contrast_families import contrasts_of
from .df import DfMethod
from .linear_functions import LinearFunctions, estimable_rows, independent_rows
from .nested_factors import Parents, nesting, numbered, shares
from .student_tails import f_tail
from .wald import correlation

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
    null: float | np.ndarray = 0.0,
) -> list[float]:
    """Test of some rows together, of those of their combinations that can be estimated."""
    basis = estimable_rows(at.L[rows], at.gap[rows])
    L, shift = basis @ at.L[rows], basis @ (at.shift[rows] - null)
    Q = independent_rows(L, _size(at, rows))
    # Q = T L, so that the known parts go along
    T = np.linalg.lstsq(L.T, Q.T, rcond=None)[0].T
    return joint_f(Q, Q @ beta + T @ shift, tests, scale)


def _size(at: LinearFunctions, rows: np.ndarray) -> float:
    """Length of the longest row: what is nothing beside it is zero."""
    return float(np.linalg.norm(at.L[rows], axis=1).max(initial=0.0))


def tests_of_factors(
    at: LinearFunctions,
    table: pd.DataFrame,
    by: Sequence[str],
    families: Sequence[np.ndarray],
    tests: DfMethod,
    scale: float,
    beta: np.ndarray,
) -> pd.DataFrame:
    """A row for every main effect and interaction, in each group of ``by``.

    The hypothesis of a set of factors are the products of consecutive differences of their
    levels, averaged over the other factors. What remains of the space of all contrasts, where
    empty cells leave some of it, is ``(confounded)``.
    """
    factors = [name for name in table.columns if name not in by]
    found: dict[str, list[tuple[dict[str, Any], list[float]]]] = {}
    for rows in families:
        own = {name: table[name].iloc[rows[0]] for name in by}
        for term, values in _terms(at, table.iloc[rows][factors], rows, tests, scale, beta):
            found.setdefault(term, []).append((own, values))
    names = unique(["term", *_COLUMNS, *by])  # a factor may be called `term`
    labels = [
        dict(zip((names[0], *names[1 + len(_COLUMNS) :]), (term, *own.values()), strict=True))
        for term, parts in found.items()
        for own, _ in parts
    ]
    made = pd.DataFrame(
        [values for parts in found.values() for _, values in parts], columns=_COLUMNS
    ).astype({"df_num": int})
    return pd.concat([pd.DataFrame(labels, columns=None if labels else ["term"]), made], axis=1)


def _terms(
    at: LinearFunctions,
    table: pd.DataFrame,
    rows: np.ndarray,
    tests: DfMethod,
    scale: float,
    beta: np.ndarray,
) -> list[tuple[str, list[float]]]:
    active = [name for name in table.columns if table[name].nunique() > 1]
    parents = nesting(table[active])
    out, spaces = [], []
    for order in range(1, len(active) + 1):
        for chosen in combinations(active, order):
            within = [name for name in chosen if any(name in parents[other] for other in chosen)]
            if any(not parents[name] <= set(chosen) for name in chosen):
                continue  # `B` alone, of A / B: it is part of A:B
            C = _products(table[active], chosen, within, parents)
            L = _estimable(C, at, rows)
            if len(L):
                spaces.append(L)
                out.append((":".join(chosen), joint_f(L, L @ beta, tests, scale)))
    total = _estimable(_differences(len(rows)), at, rows)
    tested = independent_rows(np.vstack(spaces)) if spaces else total[:0]
    left = _uncorrelated(total, tested, tests)
    if len(left):
        out.append(("(confounded)", joint_f(left, left @ beta, tests, scale)))
    return out


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
    inner = [name for name in chosen if name not in within]
    weights = shares(table, parents, [name for name in table.columns if name not in chosen])
    where, parts = numbered(table, within), []
    for group in range(where.max() + 1):
        rows = np.flatnonzero(where == group)
        C = _crossed(table.iloc[rows], inner, weights[rows])
        out = np.zeros((len(C), len(table)))
        out[:, rows] = C
        parts.append(out)
    return np.concatenate(parts)


def _crossed(table: pd.DataFrame, chosen: Sequence[str], weights: np.ndarray) -> np.ndarray:
    """The same of factors that are crossed with each other."""
    cell = numbered(table, chosen)
    out = (weights / np.bincount(cell, weights)[cell])[None]  # a mean over what else varies
    for name in chosen:
        place = numbered(table, [name])
        one = _differences(place.max() + 1)
        out = (one[:, place][:, None] * out[None]).reshape(-1, len(table))  # the first one fastest
    return out


def _estimable(C: np.ndarray, at: LinearFunctions, rows: np.ndarray) -> np.ndarray:
    """Orthonormal rows over the fixed effects of what of some contrasts can be estimated."""
    if not len(C):
        return np.zeros((0, at.L.shape[1]))
    L, gap = C @ at.L[rows], C @ at.gap[rows]
    return independent_rows(estimable_rows(L, gap) @ L, _size(at, rows))
