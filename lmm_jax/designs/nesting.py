"""Whether one model is a special case of another, and models with a part left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..layouts.group_index import function_of
from .design import Design, assemble
from .fixed_terms import term_names
from .from_formula import outer_group
from .residual_nesting import is_special_case
from .terms import RandomTerm

# A column that others leave so much of, relative to its norm, is none of their combinations.
_SAME_SPACE = 1e-7


class Difference(NamedTuple):
    """What a larger model has beyond a smaller one."""

    fixed: bool  # other fixed effects
    random: tuple[tuple[int, int], ...]  # a term: new coefficients, those of it that both have


def why_incomparable(small: Design, large: Design) -> str | None:
    """Why two models cannot be compared by their likelihoods; None if they can."""
    if small.nobs != large.nobs:
        return (
            f"they were fitted to {small.nobs} and {large.nobs} rows: fit both to the same rows, "
            "those without missing values in either"
        )
    if not small.index.equals(large.index):
        return "they were fitted to other rows"
    if not np.array_equal(small.endog, large.endog):
        return f"their responses {small.endog_name!r} and {large.endog_name!r} are not the same"
    if not _same(small.weights, large.weights, 1.0) or not _same(small.offset, large.offset, 0.0):
        return "their weights or offsets are not the same"
    return None


def _same(a: np.ndarray | None, b: np.ndarray | None, default: float) -> bool:
    """Whether two arrays agree; None stands for a constant."""
    a, b = (np.asarray(default) if v is None else v for v in (a, b))
    return bool((a == b).all())


def difference(small: Design, large: Design) -> Difference | None:
    """What the larger model adds; None if the smaller one is no special case of it."""
    if not _spans(large.exog, small.exog) or not is_special_case(small.residual, large.residual):
        return None
    fixed = small.exog.shape[1] < large.exog.shape[1]
    covered = [0] * len(large.terms)
    for term in small.terms:
        owner = next((t for t, o in enumerate(large.terms) if _is_part(term, o)), None)
        if owner is None:
            return None
        covered[owner] += len(term.names)
    new = [
        (len(term.names) - before, before)
        for term, before in zip(large.terms, covered, strict=True)
        if before < len(term.names)
    ]
    return Difference(fixed, tuple(new))


def _spans(columns: np.ndarray, others: np.ndarray) -> bool:
    """Whether all other columns are combinations of the columns."""
    if others.shape[1] == 0:
        return True
    Q = np.linalg.qr(columns)[0]
    rest = others - Q @ (Q.T @ others)
    size = np.linalg.norm(others, axis=0)
    return bool((np.linalg.norm(rest, axis=0) <= _SAME_SPACE * size).all())


def restriction(small: Design, large: Design) -> np.ndarray:
    """Orthonormal rows R, (q, p), with ``R beta = 0`` where the larger model is the smaller one.

    With ``X = Q S`` and the smaller columns ``X B``, ``Q' X B = S B`` and the rows are those of
    ``N' S`` with N orthogonal to them. Satterthwaite's degrees of freedom of joint tests depend on
    the basis: this is pbkrtest's.
    """
    size = np.linalg.norm(large.exog, axis=0)
    Q, S = np.linalg.qr(large.exog / size)
    inner = Q.T @ (small.exog / np.linalg.norm(small.exog, axis=0))
    N = np.linalg.qr(inner, mode="complete")[0][:, inner.shape[1] :]
    return np.linalg.qr((N.T @ S * size).T)[0].T


def _is_part(term: RandomTerm, other: RandomTerm) -> bool:
    """Whether a term has the levels of another, and coefficients that are among its."""
    if term.is_component or other.is_component:
        same = term.codes.shape == other.codes.shape and term.n_levels == other.n_levels
        return same and bool(np.array_equal(term.values, other.values)) and _one_to_one(term, other)
    if len(term.names) > len(other.names) or not _one_to_one(term, other):
        return False
    if not _equally_related(term, other):
        return False
    if not other.structure.unrestricted:  # only the same term is a part of it
        same = term.structure == other.structure and term.names == other.names
        return same and bool(np.array_equal(term.values, other.values))
    return _spans(other.values[:, 0], term.values[:, 0])


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


def with_terms(design: Design, terms: Sequence[RandomTerm]) -> Design:
    """The design with other random-effects terms on its rows."""
    group, n_groups = design.group_codes, design.n_groups
    if not any(term.is_component for term in terms):
        group, n_groups = outer_group(terms)
    made = assemble(
        y=design.endog,
        X=design.exog,
        names=design.exog_names,
        endog_name=design.endog_name,
        terms=terms,
        group=group,
        n_groups=n_groups,
        weights=design.weights,
        offset=design.offset,
        index=design.index,
        n_missing=design.n_missing,
        gaps=design.gaps,
        source=None,
        residual=design.residual,
    )
    return replace(made, held=design.held)


def with_columns(design: Design, columns: Sequence[int]) -> Design:
    """The design with some of the columns of X."""
    places = list(columns)
    return replace(
        design,
        exog=np.ascontiguousarray(design.exog[:, places]),
        exog_names=tuple(design.exog_names[j] for j in places),
        held=None if design.held is None else design.held[places],
        source=None,
    )


def coefficients_of(term: RandomTerm) -> dict[str, list[int]]:
    """Coefficients of every term on the left of the bar; each its own without a formula."""
    spec = term.source.spec
    if spec is None or term.is_component:
        return {name: [j] for j, name in enumerate(term.names)}
    place = {column: j for j, column in enumerate(term.source.columns)}
    out = {}
    for name, at in zip(term_names(spec), spec.term_slices.values(), strict=True):
        own = [place[c] for c in range(at.start, at.stop) if c in place]
        if own:
            out[name] = own
    return out


def only(term: RandomTerm, places: Sequence[int]) -> RandomTerm:
    """A term with some of its coefficients, in its own structure."""
    return replace(
        term,
        names=tuple(term.names[i] for i in places),
        values=np.ascontiguousarray(term.values[:, :, list(places)]),
        structure=term.structure.of_size(len(places)),
    )
