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
from typing import Any, NamedTuple

import numpy as np

from ..covariance.correlated import OF_TERMS
from ..covariance.correlations import covers
from ..covariance.structures import Pattern
from ..layouts.group_index import divide_alike, function_of
from .terms import RandomTerm

# A column that others leave so much of, relative to its norm, is none of their combinations.
_SAME_SPACE = 1e-7
# What restricted log-likelihoods may differ by through the units of the fixed effects alone.
_SAME_VOLUME = 1e-6
# Structures that have an intercept alone at their largest correlations, and whether these are
# one number.
_UP_TO_ONE = {n: kind.to_one for n, kind in OF_TERMS.items() if kind.to_one is not None}
# Structures whose correlations run along the coefficients: one in their midst cannot be missing
# without leaving the correlations with it untold.
_IN_ORDER = tuple(name for name, kind in OF_TERMS.items() if kind.in_line)
# Patterns of a covariance: `a I`, and `a 11'`, which no structure has for its name.
_APART, _ONES = ("", True), ("ones", True)
# And a diagonal one.
_SPREAD = ("", False)


class _Block(NamedTuple):
    """A term of the larger model, or several that make one."""

    term: RandomTerm
    pattern: Pattern | None  # None: any covariance

    @property
    def k(self) -> int:
        """Coefficients."""
        return len(self.term.names)


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
        kinship = [_kinship(term, block) for block in blocks]
        if not any(kinship):
            return None
        parts[int(np.argmax(kinship))].append(term)
    found = []
    for block, own in zip(blocks, parts, strict=True):
        count = _at_ends(own, block)
        if count is None:
            return None
        if count:
            found.append((count, block.k - count))
    return found


def _blocks(terms: Sequence[RandomTerm]) -> list[_Block]:
    """Terms with their patterns; lone coefficients of the same levels are one diagonal term."""
    out: list[_Block] = []
    for term in terms:
        for t, (other, pattern) in enumerate(out):
            if _is_lone(term) and (pattern == _SPREAD or _is_lone(other)) and _alike(term, other):
                values = np.concatenate([other.values, term.values], axis=2)
                joined = replace(other, names=(*other.names, *term.names), values=values)
                out[t] = _Block(joined, _SPREAD)
                break
        else:
            out.append(_Block(term, term.structure.pattern))
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


def restricted_alike(X: np.ndarray, Y: np.ndarray) -> bool:
    """Whether restricted likelihoods know no difference between the columns of two models.

    They hold ``|X' V^-1 X|``: with ``Y = X B`` in the place of X it has the factor ``|B|^2``.
    """
    if np.array_equal(X, Y):
        return True
    sizes = [np.log(np.abs(np.diagonal(np.linalg.qr(M, mode="r")))).sum() for M in (X, Y)]
    return spans(X, Y) and spans(Y, X) and bool(abs(sizes[0] - sizes[1]) < _SAME_VOLUME)


def _kinship(term: RandomTerm, block: _Block) -> int:
    """How near a term is to another; 0 where it is no part of it.

    The same one, one that says the same in other levels, one of the same levels, one of finer
    ones. Variance components are their columns: only the same ones are alike.
    """
    other = block.term
    if term.is_component or other.is_component:
        same = term.values.shape == other.values.shape
        return 4 * (same and np.array_equal(term.values, other.values) and _alike(term, other))
    if _alike(term, other):
        return 4 if term.structure == other.structure and _equal_columns(term, other) else 2
    return 3 if _is_reverse(term, block) else int(_is_finer(term, other))


def _is_reverse(term: RandomTerm, block: _Block) -> bool:
    """Whether a term has a variance for the levels of f in g, where another is one of g:f."""
    return term.structure.pattern == _APART and _is_interaction(block.term, _Block(term, _APART))


def _at_ends(parts: Sequence[RandomTerm], block: _Block) -> int | None:
    """What of a term is at the end of its range where it is the parts; None if it is never."""
    if block.pattern is None:
        return _unrestricted(parts, block)
    if block.pattern == _SPREAD:
        return _diagonal(parts, block)
    name, equal = block.pattern
    said = [_said(term, block) for term in parts]
    if not said:
        return 1 if block.pattern == _APART else block.k
    if said == [_ONES]:
        return None if name not in _UP_TO_ONE else 1 if _UP_TO_ONE[name] else block.k - 1
    if len(said) == 2 and set(said) == {_ONES, _APART}:
        return 0 if covers(block.pattern, ("cs", True)) else None
    if len(said) == 1 and isinstance(said[0], tuple):
        if name == "arma11" and said == [_APART]:
            return 2  # of its two parameters one is untold there
        return 0 if covers(block.pattern, said[0]) else None
    places = {at for at in said if isinstance(at, int)}
    if len(places) < len(said) or equal:
        return None
    missing = block.k - len(places)
    first = places == set(range(len(places))) and len(places) > 1
    return missing if first or name not in _IN_ORDER else max(missing, 2)


def _unrestricted(parts: Sequence[RandomTerm], block: _Block) -> int | None:
    """:func:`_at_ends` of a term that may have any covariance."""
    count = 0
    for term in parts:
        if _is_interaction(term, block):
            count += block.k
        elif _is_reverse(term, block):
            count += 1
        elif _alike(term, block.term) and spans(block.term.values[:, 0], term.values[:, 0]):
            count += len(term.names)
        else:
            return None
    return max(block.k - count, 0)


def _diagonal(parts: Sequence[RandomTerm], block: _Block) -> int | None:
    """:func:`_at_ends` of coefficients that have a variance each and no correlations.

    What is left when terms that are one of the coefficients are put aside has to give all others
    one variance.
    """
    taken: list[int] = []
    others = []
    for term in parts:
        at = _place(term, block.term) if _alike(term, block.term) else None
        if at is None or at in taken:
            others.append(term)
        else:
            taken.append(at)
    rest = [j for j in range(block.k) if j not in taken]
    if not others:
        return len(rest)
    if len(others) > 1:
        return None
    # of one of the others there may be no variance
    for kept in (rest, *(rest[:i] + rest[i + 1 :] for i in range(len(rest)))):
        if kept and _said(others[0], _Block(_some(block.term, kept), _SPREAD)) == _APART:
            return len(rest) - len(kept)
    return None


def _some(term: RandomTerm, places: Sequence[int]) -> RandomTerm:
    """A term with some of its coefficients, whatever their covariance."""
    names = tuple(term.names[j] for j in places)
    return replace(term, names=names, values=term.values[:, :, list(places)])


def _said(term: RandomTerm, block: _Block) -> Pattern | int | None:
    """The pattern that a term gives the covariance of another's coefficients, or which it is."""
    other = block.term
    if _is_interaction(term, block):
        return _APART
    if not _alike(term, other):
        return None
    if _equal_columns(term, other):
        return term.structure.pattern
    if len(term.names) != 1:
        return None
    if _proportional(term.values[:, 0, 0], other.values[:, 0].sum(axis=1)):
        # of a level that meets one coefficient only covariances are not to be seen
        alone = other.relationship is None and _one_a_level(other)
        return _APART if alone else _ONES
    return _place(term, other)


def _equal_columns(term: RandomTerm, other: RandomTerm) -> bool:
    return term.names == other.names and bool(np.array_equal(term.values, other.values))


def _proportional(x: np.ndarray, y: np.ndarray) -> bool:
    return bool(y.any()) and spans(y[:, None], x[:, None])


def _place(term: RandomTerm, other: RandomTerm) -> int | None:
    """Which coefficient of another term the only one of a term is."""
    if len(term.names) != 1:
        return None
    columns = other.values[:, 0].T
    column = term.values[:, 0, 0]
    return next((j for j, c in enumerate(columns) if _proportional(column, c)), None)


def _one_a_level(term: RandomTerm) -> bool:
    """Whether all rows of a level have the same one coefficient."""
    there = term.values[:, 0] != 0
    which = there.argmax(axis=1)
    one = (there.sum(axis=1) <= 1).all()
    seen = there.any(axis=1)
    codes = term.codes[seen, 0]
    return bool(one) and function_of(codes, which[seen], term.n_levels) is not None


def _is_finer(term: RandomTerm, other: RandomTerm) -> bool:
    """Whether every level of a term lies in one of another's."""
    if term.relationship is not None or other.relationship is not None:
        return False
    nested = term.n_levels > other.n_levels
    return nested and function_of(term.codes[:, 0], other.codes[:, 0], term.n_levels) is not None


def _is_interaction(term: RandomTerm, block: _Block) -> bool:
    """Whether a term is an intercept of g:f, and another has coefficients of g for the levels of f.

    These are columns of zeros and ones, or, where any covariance may be, combinations of such.
    """
    other = block.term
    if other.is_component or block.k == 1 or len(term.names) > 1 or np.ptp(term.values) > 0:
        return False
    if not _is_finer(term, other):
        return False
    rows, place = np.unique(other.values[:, 0], axis=0, return_inverse=True)
    if len(rows) != block.k or np.linalg.matrix_rank(rows) < block.k:
        return False
    ones = bool(np.isin(rows, (0.0, 1.0)).all() and (rows.sum(axis=1) == 1.0).all())
    cell = other.codes[:, 0] * block.k + place.reshape(-1)
    return (ones or block.pattern is None) and divide_alike(term.codes[:, 0], cell)


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
    if a.n_levels != b.n_levels or a.codes.shape != b.codes.shape:
        return False
    if a.codes.shape[1] == 1:
        return function_of(a.codes[:, 0], b.codes[:, 0], a.n_levels) is not None
    there = (a.values != 0).any(axis=2)  # a row of fewer levels than the widest has zeros
    return function_of(a.codes[there], b.codes[there], a.n_levels) is not None
