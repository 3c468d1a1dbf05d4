"""Which groups are eliminated from a dense core, by what the products cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .crossed.core_index import core_blocks, level_streams, take
from .group_index import function_of, level_parent

# Columns of a group up to which its dense matrices are no matter, and how much cheaper the
# elimination of sub-groups has to be beyond.
_WIDE_GROUP = 32
_WORTHWHILE = 8
# What a product within the groups that are eliminated costs, made group by group and pair by pair,
# in those of a dense core: 20 to 110 were seen, in groups of 2 to 150 columns.
_OF_GROUPS = 50.0


class Choice(NamedTuple):
    """A way to lay a design out: the groups that are eliminated and the terms inside them."""

    group: np.ndarray
    n_groups: int
    eliminated: Sequence[int]


def choose(
    group: np.ndarray,
    n_groups: int,
    codes: Sequence[np.ndarray],
    n_levels: Sequence[int],
    sizes: Sequence[int],
) -> tuple[Choice, str]:
    """The groups of a design that are eliminated, and why.

    Parameters
    ----------
    group, n_groups, codes, n_levels
        As in :func:`lmm_jax.layouts.plan.plan_layout`.
    sizes : sequence of int
        Coefficients of each term.
    """
    everything = Choice(group, n_groups, range(len(codes)))
    if len(codes) == 1:
        return everything, "there is one term"
    candidates = _candidates(codes, n_levels)
    nested = any(len(c.eliminated) == len(codes) for c in candidates)
    partial = [c for c in candidates if len(c.eliminated) < len(codes)]
    if not partial:
        return (
            everything,
            "the terms share their groups" if nested else "no factor has one level a row",
        )
    dense = 0.0
    if nested:
        widest, dense = _grouped_cost(group, n_groups, codes, n_levels, sizes)
        if widest <= _WIDE_GROUP:
            return everything, "factors are nested"
    costs = [_elimination_cost(c, codes, n_levels, sizes, nested) for c in partial]
    at = _cheapest(costs)
    best = partial[at]
    if not nested:
        return best, "factors are crossed"
    if dense < _WORTHWHILE * sum(costs[at]):
        return everything, "factors are nested"
    return best, "factors are nested, with many levels in a group"


def choose_within(
    parts: np.ndarray,
    codes: Sequence[np.ndarray],
    n_levels: Sequence[int],
    sizes: Sequence[int],
) -> Choice | None:
    """The groups whose rows lie in one part each that are best eliminated; None if there are none.

    Parameters
    ----------
    parts : ndarray of int, shape (n,)
        Part of each row.
    codes, n_levels, sizes
        As in :func:`choose`.
    """
    found = [
        choice
        for choice in _candidates(codes, n_levels)
        if len(choice.eliminated) < len(codes)
        and function_of(choice.group, parts, choice.n_groups) is not None
    ]
    if not found:
        return None
    costs = [_elimination_cost(c, codes, n_levels, sizes, blocks_apart=False) for c in found]
    return found[_cheapest(costs)]


def _candidates(codes: Sequence[np.ndarray], n_levels: Sequence[int]) -> list[Choice]:
    """The levels of every term of which a row has one, with all that is nested in them."""
    return [
        Choice(code[:, 0], levels, _nested_terms(code[:, 0], levels, codes, n_levels))
        for code, levels in zip(codes, n_levels, strict=True)
        if code.shape[1] == 1
    ]


def _cheapest(costs: Sequence[tuple[float, float]]) -> int:
    """Which of some choices costs least, by what groups and cores do."""
    return int(np.argmin([_OF_GROUPS * groups + core for groups, core in costs]))


def _nested_terms(
    group: np.ndarray, n_groups: int, codes: Sequence[np.ndarray], n_levels: Sequence[int]
) -> list[int]:
    """Terms of which every level lies in one group."""
    out = []
    for t, (code, levels) in enumerate(zip(codes, n_levels, strict=True)):
        if levels < n_groups:
            continue  # a group without a level of its own cannot hold one
        parent = level_parent(code, group, levels)
        if all((parent[column] == group).all() for column in code.T):
            out.append(t)
    return out


def _grouped_cost(
    group: np.ndarray,
    n_groups: int,
    codes: Sequence[np.ndarray],
    n_levels: Sequence[int],
    sizes: Sequence[int],
) -> tuple[int, float]:
    """Columns of the widest group, and the sum of their cubes over all groups."""
    width = _widths(group, n_groups, codes, n_levels, sizes)
    return int(width.max()), float(np.sum(width**3))


def _widths(
    group: np.ndarray,
    n_groups: int,
    codes: Sequence[np.ndarray],
    n_levels: Sequence[int],
    sizes: Sequence[int],
) -> np.ndarray:
    """Columns of every group, whose levels the terms' are."""
    width = np.zeros(n_groups)
    for code, levels, k in zip(codes, n_levels, sizes, strict=True):
        width += k * np.bincount(level_parent(code, group, levels), minlength=n_groups)
    return width


def _elimination_cost(
    choice: Choice,
    codes: Sequence[np.ndarray],
    n_levels: Sequence[int],
    sizes: Sequence[int],
    blocks_apart: bool,
) -> tuple[float, float]:
    """The same for groups that are eliminated, and for the blocks that remain, or all of it in one.

    Products of what a group has with what it meets count as well, at the most that its rows allow:
    few groups with many levels each meet nearly all of the others.
    """
    group, n_groups, inner = choice
    outer = [t for t in range(len(codes)) if t not in inner]
    inner_codes, inner_levels, inner_sizes = take(inner, codes, n_levels, sizes)
    outer_codes, outer_levels, outer_sizes = take(outer, codes, n_levels, sizes)
    width = _widths(group, n_groups, inner_codes, inner_levels, inner_sizes)
    rows = np.bincount(group, minlength=n_groups).astype(float)
    met = np.zeros(n_groups)
    for code, levels, k in zip(outer_codes, outer_levels, outer_sizes, strict=True):
        for column in code.T:
            above = level_parent(group[:, None], column, n_groups)
            nests = (above[group] == column).all()  # the groups lie in one level each
            met += k * np.minimum(rows, 1 if nests else levels)
    cost = float(np.sum(width**3 + width * met * (width + met)))
    if not blocks_apart:
        return cost, float(np.dot(outer_sizes, outer_levels)) ** 3
    streams, offsets = level_streams(outer_codes, outer_levels)
    groups, level = np.tile(group, len(streams)), np.concatenate(streams)
    count, label = core_blocks(groups, level, n_groups, int(offsets[-1]))
    weight = np.repeat(outer_sizes, outer_levels)
    blocks = np.bincount(label[n_groups:], weights=weight, minlength=count)
    return cost, float(np.sum(blocks**3))
