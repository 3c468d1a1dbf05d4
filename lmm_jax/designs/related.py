"""A design with related terms as a layout: what stands in it is decided with the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..layouts.core_columns import seen_root
from ..layouts.group_index import LevelMap
from ..layouts.plan import LayoutInfo
from ..layouts.related import Known, RelatedParts, TermColumns, related_layout
from ..numerics.blocks import AnyMatrix
from ..reprs import brief
from .compressed import Compressed
from .terms import RandomTerm


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RelatedPlan:
    """Where the effects of a design with related terms stand: those of ``a = B b`` for them."""

    level_maps: tuple[LevelMap, ...]  # one a term

    __repr__ = brief


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RelatedCompression:
    """A compressed design, its plan and the report on it."""

    compressed: Compressed
    plan: RelatedPlan
    info: LayoutInfo

    __repr__ = brief


def compress_related(
    y: np.ndarray,
    X: np.ndarray,
    terms: Sequence[RandomTerm],
    weights: np.ndarray | None,
    group: np.ndarray,
    n_groups: int,
    n_components: int,
) -> RelatedCompression:
    """One pass over the rows of a design of which some terms have a relationship."""
    found = related_layout(
        y,
        X,
        [term_columns(term) for term in terms],
        weights,
        group,
        n_groups,
        [term.label for term in terms],
        n_components,
    )
    layout = found.layout
    compressed = Compressed(
        layout=layout,
        reach=(layout.ranks(), layout.within_rss()),
        few_groups=found.few_groups,
        bases=found.bases,
    )
    plan = RelatedPlan(level_maps=found.level_maps)
    return RelatedCompression(compressed=compressed, plan=plan, info=_info(found, terms))


def term_columns(term: RandomTerm) -> TermColumns:
    """A term as its layout takes it: ids without rows stand in A alone."""
    if term.relationship is None:
        return TermColumns(term.codes, term.n_levels, term.values, term.structure, None)
    seen, codes = np.unique(term.codes, return_inverse=True)
    matrix, family = term.relationship.matrix, term.relationship.family
    assert matrix is not None  # a design holds it
    known = Known(matrix, family, seen)
    return TermColumns(codes.reshape(term.codes.shape), seen.size, term.values, term.structure,
                       known)  # fmt: skip


def related_root(term: RandomTerm) -> AnyMatrix | None:
    """B with ``A = B B'`` of the levels that rows have, (m, r); None where they are not related."""
    known = term_columns(term).known
    return None if known is None else seen_root(known)


def related_draws(term: RandomTerm, root: AnyMatrix, z: np.ndarray) -> np.ndarray:
    """Normal variates of the levels, (L, k, n), with the relationship of those that have rows."""
    out = np.zeros_like(z)
    drawn = z[: root.shape[1]].reshape(root.shape[1], -1)
    out[np.unique(term.codes)] = (root @ drawn).reshape(-1, *z.shape[1:])
    return out


def _info(found: RelatedParts, terms: Sequence[RandomTerm]) -> LayoutInfo:
    labels = [term.label for term in terms]
    core = tuple(label for t, label in enumerate(labels) if t not in found.eliminated)
    if not core:
        reason = "one related term is rotated to independent rows"
    elif found.eliminated:
        reason = "one related term is rotated to independent rows, which all others cross"
    else:
        reason = "levels are related"
    rotated = sum(found.level_maps[t].slot.size for t in found.eliminated)
    return LayoutInfo(
        kind="crossed" if core else "grouped",
        eliminated=tuple(labels[t] for t in found.eliminated),
        core=core,
        n_groups=rotated,
        core_size=found.core_size,
        n_blocks=found.n_blocks,
        reason=reason,
    )
