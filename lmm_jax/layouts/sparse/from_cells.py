"""From cross-products of cells to a sparse layout: what :mod:`.compress` makes of rows (NumPy)."""

from __future__ import annotations

from typing import Any

from ...numerics.namespace import NUMPY as xp
from ..cells import CellSums, WhitenedCells, whitened_cells
from ..crossed.compress import without_step
from ..crossed.from_cells import from_effects
from ..group_index import stream_pairs
from ..stream_compress import Digits, Units, unreached
from .arrays import SparseCore
from .compress import effects_of, level_moments, wide_system
from .gram import SparseGram
from .index import SparseIndex
from .layout import SparseLayout
from .system import Places


def sparse_layout_of_cells(
    cells: CellSums, units: Units, index: SparseIndex
) -> tuple[SparseLayout, Digits]:
    """The layout, and what its digits hang on.

    Parameters
    ----------
    cells : CellSums
        Of all rows, terms in the order of the index, whose rows are the cells.
    units : Units
        What the sums were made with.
    index : SparseIndex
    """
    at = whitened_cells(cells, index.structures)
    gram = _gram(at, index)
    places = Places(gram, index.order)
    parts = [
        _added(cross, level, width)
        for cross, level, width in zip(at.crosses, index.levels, index.widths, strict=True)
    ]
    s = xp.concatenate([part.reshape(-1, part.shape[2]) for part in parts])[:, :, None]
    S0, full = unreached(at.gram(), [], cells.n_obs)
    moments = level_moments(gram, s[:, -1:])
    fit, step = effects_of(wide_system(gram, places, index), s, S0)
    origin = without_step(fit, step)[:, None]
    core = SparseCore(S=gram, s=s, origin=xp.zeros_like(origin), widths=index.widths)
    S0, core = from_effects(S0, core, origin, step)
    layout = SparseLayout(
        S0=S0,
        core=core,
        moments=moments,
        elimination=index.order,
        places=places,
        **at.maps(step, units, index),
    )
    return layout, at.digits(layout, full)


def _gram(at: WhitenedCells, index: SparseIndex) -> SparseGram:
    """``Z' Z``: a stream is a term here, and a meeting one of two terms."""
    terms = range(len(index.widths))
    own = [_added(at.pair(t, t), index.levels[t], index.widths[t]) for t in terms]
    off = [pair for pair in stream_pairs(len(terms)) if pair[0] != pair[1]]
    across: list[Any] = [None] * len(index.meetings)
    for (t, u), cell, place in zip(off, index.cells, index.of_meetings, strict=True):
        across[place] = _added(at.pair(t, u), cell, index.meetings[place].left.shape[0])
    return SparseGram(
        own=tuple(own), across=tuple(across), meetings=index.meetings, sizes=index.sizes
    )


def _added(blocks: Any, place: Any, count: int) -> Any:
    """Sums of the blocks (C, a, b) of one place, (count, a, b)."""
    flat = blocks.reshape(len(blocks), -1)
    return xp.segment_sum(flat, place[: len(blocks)], count).reshape(count, *blocks.shape[1:])
