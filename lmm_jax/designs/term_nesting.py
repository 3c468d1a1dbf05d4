"""Which random-effects terms are special cases of others, together.

Terms of a smaller model belong to the terms of a larger one that have their levels. What they say
of a level's effects is a covariance of the coefficients of that term:

    Psi      of the same coefficients, in a structure of fewer parameters
    B Psi B' of combinations of the coefficients, in a term that may have any covariance
    a 11'    of an intercept, where the coefficients stand for the levels of a factor f
    a I      of the levels of g:f, in a term of g with such coefficients
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..covariance.correlations import covers
from ..covariance.structures import Pattern
from ..layouts.group_index import divide_alike, function_of
from .terms import RandomTerm

# A column that others leave so much of, relative to its norm, is none of their combinations.
_SAME_SPACE = 1e-7
# Structures that have an intercept alone at their largest correlations, and whether these are
# one number.
_UP_TO_ONE = {"cs": True, "ar1": True, "toep": False, "ad": False}
# Patterns of a covariance: `a I`, and `a 11'`, which no structure has for its name.
_APART, _ONES = ("", True), ("ones", True)
# And a diagonal one.
_SPREAD = ("", False)


def added(small: Sequence[RandomTerm], large: Sequence[RandomTerm]) -> list[tuple[int, int]] | None:
    """What the terms of a larger model have beyond those of a smaller one.

    Returns
    -------
    list of tuple of int or None
        A term that has more: coefficients (or correlations) that are at the end of their range in
        the smaller model, and those that are not. None if that is no special case.
    """
    blocks = _blocks(large)
    parts: list[list[RandomTerm]] = [[] for _ in blocks]
    for term in small:
        owners = [t for t, (other, pattern) in enumerate(blocks) if _is_part(term, other, pattern)]
        if not owners:
            return None
        same = (t for t in owners if _equal(term, blocks[t][0]))
        parts[next(same, owners[0])].append(term)
    found = []
    for (other, pattern), own in zip(blocks, parts, strict=True):
        count = _at_ends(own, other, pattern)
        if count is None:
            return None
        if count:
            found.append((count, len(other.names) - count))
    return found


def _blocks(terms: Sequence[RandomTerm]) -> list[tuple[RandomTerm, Pattern | None]]:
    """Terms with their patterns; lone coefficients of the same levels are one diagonal term."""
    out: list[tuple[RandomTerm, Pattern | None]] = []
    for term in terms:
        for t, (other, pattern) in enumerate(out):
            if _is_lone(term) and (pattern == _SPREAD or _is_lone(other)) and _alike(term, other):
                values = np.concatenate([other.values, term.values], axis=2)
                joined = replace(other, names=(*other.names, *term.names), values=values)
                out[t] = joined, _SPREAD
                break
        else:
            out.append((term, term.structure.pattern))
    return out


def _is_lone(term: RandomTerm) -> bool:
    return len(term.names) == 1 and not term.is_component


def spans(columns: np.ndarray, others: np.ndarray) -> bool:
    """Whether all other columns are combinations of the columns."""
    if others.shape[1] == 0:
        return True
    Q = np.linalg.qr(columns)[0]
    rest = others - Q @ (Q.T @ others)
    size = np.linalg.norm(others, axis=0)
    return bool((np.linalg.norm(rest, axis=0) <= _SAME_SPACE * size).all())


def _is_part(term: RandomTerm, other: RandomTerm, pattern: Pattern | None) -> bool:
    """Whether the coefficients of a term are among those of another, or combinations of them."""
    if term.is_component or other.is_component:
        same = term.codes.shape == other.codes.shape and term.n_levels == other.n_levels
        return same and bool(np.array_equal(term.values, other.values)) and _one_to_one(term, other)
    if _is_interaction(term, other, pattern):
        return True
    if term.structure.pattern == _APART and _is_interaction(other, term, _APART):
        return True  # the other way round
    if len(term.names) > len(other.names) or not _alike(term, other):
        return False
    return spans(other.values[:, 0], term.values[:, 0])


def _at_ends(parts: Sequence[RandomTerm], other: RandomTerm, pattern: Pattern | None) -> int | None:
    """What of a term is at the end of its range where it is the parts; None if it is never."""
    k = len(other.names)
    if pattern is None:
        sizes = [k if _is_interaction(term, other, None) else len(term.names) for term in parts]
        return max(k - sum(sizes), 0)
    said = [_said(term, other, pattern) for term in parts]
    if not said:
        return k
    name, equal = pattern
    if said == [_ONES]:
        return None if name not in _UP_TO_ONE else 1 if _UP_TO_ONE[name] else k - 1
    if len(said) == 2 and set(said) == {_ONES, _APART}:
        return 0 if covers(pattern, ("cs", True)) else None
    if len(said) == 1 and isinstance(said[0], tuple):
        return 0 if covers(pattern, said[0]) else None
    if all(isinstance(at, int) for at in said) and len(set(said)) == len(said) and not equal:
        return k - len(said)
    return None


def _said(term: RandomTerm, other: RandomTerm, pattern: Pattern) -> Pattern | int | None:
    """The pattern that a term gives the covariance of another's coefficients, or which it is."""
    if _is_interaction(term, other, pattern):
        return _APART
    if _equal_columns(term, other):
        return term.structure.pattern
    if len(term.names) != 1:
        return None
    column, columns = term.values[:, 0, 0], other.values[:, 0]
    if _proportional(column, columns.sum(axis=1)):
        return _ONES
    return next((j for j, c in enumerate(columns.T) if _proportional(column, c)), None)


def _equal(term: RandomTerm, other: RandomTerm) -> bool:
    """Whether two terms are the same one."""
    return term.structure == other.structure and _equal_columns(term, other)


def _equal_columns(term: RandomTerm, other: RandomTerm) -> bool:
    return term.names == other.names and bool(np.array_equal(term.values, other.values))


def _proportional(x: np.ndarray, y: np.ndarray) -> bool:
    return bool(y.any()) and spans(y[:, None], x[:, None])


def _is_interaction(term: RandomTerm, other: RandomTerm, pattern: Pattern | None) -> bool:
    """Whether a term is an intercept of g:f, and another has coefficients of g for the levels of f.

    These are columns of zeros and ones, or, where any covariance may be, combinations of such.
    """
    if term.relationship is not None or other.relationship is not None or other.is_component:
        return False
    k = len(other.names)
    if k == 1 or len(term.names) > 1 or np.ptp(term.values) > 0 or term.n_levels <= other.n_levels:
        return False
    if function_of(term.codes[:, 0], other.codes[:, 0], term.n_levels) is None:
        return False
    rows, place = np.unique(other.values[:, 0], axis=0, return_inverse=True)
    if len(rows) != k or np.linalg.matrix_rank(rows) < k:
        return False
    ones = bool(np.isin(rows, (0.0, 1.0)).all() and (rows.sum(axis=1) == 1.0).all())
    cell = other.codes[:, 0] * k + place.reshape(-1)
    return (ones or pattern is None) and divide_alike(term.codes[:, 0], cell)


def _alike(a: RandomTerm, b: RandomTerm) -> bool:
    """Whether two terms have the same levels, related in the same way."""
    return _one_to_one(a, b) and _equally_related(a, b)


def _equally_related(a: RandomTerm, b: RandomTerm) -> bool:
    """Whether the levels of two terms have one relationship, or none."""
    if a.relationship is None or b.relationship is None:
        return a.relationship is b.relationship
    left: Any = a.relationship.matrix
    right: Any = b.relationship.matrix
    if left is right:
        return True
    gap = abs(left - right).max() if left.shape == right.shape else 1.0
    return bool(gap == 0 and a.relationship.ids.equals(b.relationship.ids))


def _one_to_one(a: RandomTerm, b: RandomTerm) -> bool:
    """Whether two terms group the rows alike."""
    if a.n_levels != b.n_levels:
        return False
    return function_of(a.codes[:, 0], b.codes[:, 0], a.n_levels) is not None
