"""Which layout a design gets: decided by its data, on the host.

Factors that are nested in one another are found as such, whatever their labels.
Only where factors cross is there a dense core, and the factor with most levels
stays out of it. Nested designs whose groups hold very many levels use the same
elimination, sub-group by sub-group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..covariance.structures import Structure, term_sizes
from ..numerics.devices import on_processor
from ..numerics.memory import memory_size
from ..reprs import public
from .choice import Choice, choose
from .crossed.core_index import (
    core_blocks,
    core_matrices,
    find_cells,
    level_streams,
    room_for,
    take,
)
from .crossed.index import CrossedPlan, plan_crossed
from .group_index import GroupPlan, LevelMap, plan_groups
from .matrix_free.index import plan_matrix_free
from .residual.chain_index import plan_chains
from .residual.choice import takes_chains, takes_fields, takes_subjects
from .residual.field_index import plan_fields
from .residual.index import ResidualRows, plan_residual
from .residual.subject_index import plan_subjects
from .sparse.index import SparseIndex, SparsePlan, plan_sparse, sparse_index

# Columns of a core from which a sparse one may be worth its order, pairs of entries among its
# places where it fills up whatever the order, and pairs whose lists fit into memory.
_LARGE_CORE, _CROWDED, _MOST_PAIRS = 2000, 0.1, 3e8
# Seconds that a column of a dense core and a pair of entries take in an evaluation, about: of the
# cube of the former.
_DENSE, _LISTED = 1e-10, 1.5e-8
# Seconds, and seconds a column, after which no sparse order is looked for any longer.
_SEARCH, _SEARCHED = 5.0, 3e-5
_ANY_MEMORY = 1 << 33  # bytes, where nobody says
# Seconds of an evaluation on a CPU from which an approximation is better than waiting; what fits
# an accelerator it works off in seconds.
_LONG = 600.0


@public
@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutInfo:
    """Which layout a model got, and why.

    Attributes
    ----------
    kind : {"grouped", "crossed", "sparse", "matrix-free", "residual"}
    eliminated : tuple of str
        Terms that are integrated out group by group.
    core : tuple of str
        Terms whose levels are kept together: in dense matrices, in a sparse one of all terms
        ("sparse"), or in none, their equations solved by conjugate gradients ("matrix-free").
    n_groups : int
        Groups that are eliminated; levels of the eliminated term in a matrix-free layout.
    core_size : int
        Rows of the largest dense block; of a sparse layout the levels at the end of its order,
        whose matrices are dense; 0 for all other layouts.
    n_blocks : int
        Independent dense blocks.
    reason : str
    """

    kind: str
    eliminated: tuple[str, ...]
    core: tuple[str, ...]
    n_groups: int
    core_size: int
    n_blocks: int
    reason: str

    def __str__(self) -> str:
        if self.kind == "sparse":
            return (
                f"sparse: levels of {_listed(self.core)} together, {self.core_size} of them at the "
                f"end in dense matrices\nbecause {self.reason}"
            )
        if self.kind == "matrix-free":
            return (
                f"matrix-free, approximate: {self.n_groups} levels eliminated "
                f"({_listed(self.eliminated)}), those of {_listed(self.core)} solved for by "
                f"conjugate gradients\nbecause {self.reason}"
            )
        if self.kind != "crossed":
            return f"{self.kind}: {self.n_groups} independent groups\nbecause {self.reason}"
        core = f"{self.core_size}"
        if self.n_blocks > 1:
            core = f"{self.n_blocks} blocks of up to {self.core_size}"
        groups = f"{self.n_groups} groups eliminated ({_listed(self.eliminated)}), "
        return (
            f"crossed: {groups if self.eliminated else ''}"
            f"dense core of {core} ({_listed(self.core)})\nbecause {self.reason}"
        )


def _listed(labels: Sequence[str]) -> str:
    return " and ".join(", ".join(labels).rsplit(", ", 1))


def plan_layout(
    group: np.ndarray,
    n_groups: int,
    codes: Sequence[np.ndarray],
    n_levels: Sequence[int],
    structures: Sequence[Structure],
    labels: Sequence[str],
    n_components: int = 0,
    residual: ResidualRows | None = None,
    *,
    traceable: bool = False,
    approximate: bool | None = None,
) -> tuple[GroupPlan | CrossedPlan | SparsePlan, LayoutInfo]:
    """Choose the layout of a design and build its index.

    Parameters
    ----------
    group : ndarray of int, shape (n,)
        Independent group of each row: no random effect is shared between groups.
    n_groups : int
    codes : sequence of ndarray of int, shape (n, S)
        Level of each row in each term, for every membership.
    n_levels : sequence of int
        Levels of each term.
    structures : sequence of Structure
        Covariance of each term.
    labels : sequence of str
        Names of the terms, for the report.
    n_components : int
        How many of the last terms are variance components.
    residual : ResidualRows, optional
        Covariance of the residuals.
    traceable : bool
        Leave out the layouts that NumPy alone makes, of rows: they are traced, or summed up.
    approximate : bool, optional
        Whether crossed factors are fitted approximately; None: where nothing else can be done.

    Raises
    ------
    DataError
        The dense core would not fit into memory.
    """
    if residual is not None:
        plan_rows, how = _of_residuals(group, n_groups, codes, structures, residual, traceable)
        plan = plan_rows(group, n_groups, codes, n_levels, structures, residual, n_components)
        return plan, LayoutInfo(
            kind="residual", eliminated=tuple(labels), core=(), n_groups=n_groups,
            core_size=0, n_blocks=0, reason=f"residuals have a covariance of their own{how}",
        )  # fmt: skip
    choice, reason = choose(group, n_groups, codes, n_levels, term_sizes(structures))
    if len(choice.eliminated) == len(codes):
        plan = plan_groups(group, n_groups, codes, n_levels, structures, n_components)
        names = tuple(labels)
        return plan, LayoutInfo(
            kind="grouped", eliminated=names, core=(), n_groups=n_groups,
            core_size=0, n_blocks=0, reason=reason,
        )  # fmt: skip
    found = None
    if not traceable:
        found = _together(choice, codes, n_levels, structures, labels, n_components, approximate)
    if found is not None:
        return found
    core = tuple(label for t, label in enumerate(labels) if t not in choice.eliminated)
    crossed = plan_crossed(
        choice.group,
        choice.n_groups,
        codes,
        n_levels,
        structures,
        choice.eliminated,
        _listed(core),
        n_components,
    )
    return crossed, LayoutInfo(
        kind="crossed",
        eliminated=tuple(labels[t] for t in choice.eliminated),
        core=core,
        n_groups=crossed.n_groups,
        core_size=crossed.core_size,
        n_blocks=crossed.n_blocks,
        reason=reason,
    )


def _of_residuals(
    group: np.ndarray,
    n_groups: int,
    codes: Sequence[np.ndarray],
    structures: Sequence[Structure],
    residual: ResidualRows,
    traceable: bool,
) -> tuple[Callable[..., GroupPlan], str]:
    """Who plans the rows of a residual covariance, and how these are worked off, in words."""
    if takes_chains(group, n_groups, residual, random_effects=bool(codes)):
        return plan_chains, ", row after row"
    if not traceable and takes_fields(group, residual):
        return plan_fields, ", field by field"
    if takes_subjects(group, n_groups, codes, term_sizes(structures), residual):
        return plan_subjects, ", subject after subject"
    return plan_residual, ""


class _Core(NamedTuple):
    """The dense core that a choice leaves."""

    blocks: np.ndarray  # columns of each independent block
    pairs: float  # pairs of columns that one eliminated group brings together

    @property
    def seconds(self) -> float:
        """Of one evaluation, about."""
        return float(np.sum(self.blocks**3)) * _DENSE + self.pairs * _LISTED

    @property
    def fits(self) -> bool:
        """Whether there is memory for it."""
        widest = self.blocks.max()
        return room_for(int(widest), max(1, round(self.blocks.sum() / widest)))


def _core_of(
    choice: Choice, codes: Sequence[np.ndarray], n_levels: Sequence[int], sizes: Sequence[int]
) -> _Core:
    outer = [t for t in range(len(codes)) if t not in choice.eliminated]
    outer_codes, outer_levels, outer_sizes = take(outer, codes, n_levels, sizes)
    streams, offsets = level_streams(outer_codes, outer_levels)
    cells = find_cells(choice.group, streams, int(offsets[-1]))
    width = np.repeat(outer_sizes, outer_levels).astype(float)
    met = np.bincount(cells.group, width[cells.level])
    count, label = core_blocks(cells.group, cells.level, choice.n_groups, int(offsets[-1]))
    blocks = np.bincount(label[choice.n_groups :], weights=width, minlength=count)
    return _Core(blocks=blocks, pairs=float(np.sum(met * (met + 1)) / 2))


def _together(
    choice: Choice,
    codes: Sequence[np.ndarray],
    n_levels: Sequence[int],
    structures: Sequence[Structure],
    labels: Sequence[str],
    n_components: int,
    approximate: bool | None,
) -> tuple[SparsePlan, LayoutInfo] | None:
    """A layout that holds all effects together, where it is better than a dense core."""
    sizes = term_sizes(structures)
    columns = sum(sizes[t] * n_levels[t] for t in range(len(codes)) if t not in choice.eliminated)
    if columns < _LARGE_CORE and not approximate:
        return None
    core = _core_of(choice, codes, n_levels, sizes)
    crowded = core.pairs > _CROWDED * float(np.sum(core.blocks**2))
    long = not core.fits or (on_processor() and core.seconds > _LONG)
    if not approximate and crowded and (approximate is False or not long):
        return None
    index, maps = sparse_index(codes, n_levels, structures, n_components)
    if not approximate:
        sparse = None if crowded else _sparse_plan(core, index, maps)
        if sparse is not None:
            return sparse, LayoutInfo(
                kind="sparse", eliminated=(), core=tuple(labels), n_groups=0, n_blocks=1,
                core_size=sparse.index.order.n_tail,
                reason="factors are crossed, and their levels meet few others",
            )  # fmt: skip
        if approximate is False or not long:
            return None
    why = "this was asked for" if approximate else (
        "a dense core would take more memory than there is" if not core.fits
        else f"an evaluation with a dense core would take about {core.seconds / 60:.0f} minutes"
    )  # fmt: skip
    return _matrix_free(index, maps, labels, f"factors are crossed, and {why}")


def _matrix_free(
    index: SparseIndex, maps: tuple[LevelMap, ...], labels: Sequence[str], reason: str
) -> tuple[SparsePlan, LayoutInfo] | None:
    """The layout without matrices, where there is a term to eliminate."""
    free = plan_matrix_free(index, maps)
    if free is None:
        return None
    rest = tuple(label for t, label in enumerate(labels) if t != free.first)
    return free, LayoutInfo(
        kind="matrix-free", eliminated=(labels[free.first],), core=rest,
        n_groups=index.widths[free.first], core_size=0, n_blocks=0, reason=reason,
    )  # fmt: skip


def _sparse_plan(core: _Core, index: SparseIndex, maps: tuple[LevelMap, ...]) -> SparsePlan | None:
    """A sparse layout where it is cheaper than the dense core."""
    there = memory_size() or _ANY_MEMORY
    search = _SEARCH + _SEARCHED * float(np.dot(index.sizes, index.widths))
    plan = plan_sparse(
        index,
        maps,
        most_pairs=_MOST_PAIRS,
        most_tail=int((there / (8 * core_matrices())) ** 0.5),
        most_seconds=min(core.seconds, search) if core.fits else search,
    )
    if plan is None:
        return None
    return plan if not core.fits or plan.index.order.seconds < core.seconds else None
