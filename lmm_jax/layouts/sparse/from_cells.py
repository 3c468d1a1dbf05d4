"""From cross-products of cells to a sparse layout: what :mod:`.compress` makes of rows (NumPy)."""

from __future__ import annotations

from typing import Any

from ...numerics.namespace import NUMPY as xp
from ..cells import CellSums
from ..crossed.from_cells import from_effects
from ..group_index import stream_pairs
from ..stream_compress import Digits, Units, common_scale, fixed_maps, unreached, whiteners_of
from .arrays import SparseCore
from .compress import effects_of, start_moments, wide_system
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
    scale = common_scale(cells.gram)
    squares = [cells.pair(t, t).sum(axis=0) / cells.n_obs for t in range(len(cells.levels))]
    whiteners, z_pivot = whiteners_of(squares, index.structures)
    gram = _gram(cells, whiteners, index)
    places = Places(gram, index.order)
    crosses = [
        _added(A.T @ level[:, :, k:] @ scale.R, index.levels[t], index.widths[t])
        for t, (A, level, k) in enumerate(zip(whiteners, cells.levels, cells.sizes, strict=True))
    ]
    s = xp.concatenate([part.reshape(-1, part.shape[2]) for part in crosses])[:, :, None]
    S0, full = unreached(scale.R.T @ cells.gram @ scale.R, [], cells.n_obs)
    moments = start_moments(gram, s[:, -1:])
    fit, step = effects_of(wide_system(gram, places, index), s, S0)
    origin = fit[:, -1:] - xp.einsum("npb,p->nb", fit[:, :-1], step)[:, None]
    core = SparseCore(S=gram, s=s, origin=xp.zeros_like(origin), widths=index.widths)
    S0, core = from_effects(S0, core, origin, step)
    layout = SparseLayout(
        S0=S0,
        core=core,
        moments=moments,
        elimination=index.order,
        places=places,
        whiteners=whiteners,
        **fixed_maps(scale, step, units),
        n_obs=cells.n_obs,
        log_weights=cells.log_weights,
        structures=index.structures,
        n_components=index.n_components,
    )
    full = full | (layout.ranks() >= cells.n_obs)
    share = xp.minimum(scale.share, xp.where(full, 1.0, S0[-1, -1]))
    return layout, Digits(left=share, pivot=xp.minimum(scale.pivot, z_pivot))


def _gram(cells: CellSums, whiteners: Any, index: SparseIndex) -> SparseGram:
    """``Z' Z``: a stream is a term here, and a meeting one of two terms."""
    own = [
        _added(A.T @ cells.pair(t, t) @ A, index.levels[t], index.widths[t])
        for t, A in enumerate(whiteners)
    ]
    off = [pair for pair in stream_pairs(len(whiteners)) if pair[0] != pair[1]]
    across: list[Any] = [None] * len(index.meetings)
    for (t, u), cell, place in zip(off, index.cells, index.of_meetings, strict=True):
        products = whiteners[t].T @ cells.pair(t, u) @ whiteners[u]
        across[place] = _added(products, cell, index.meetings[place].left.shape[0])
    return SparseGram(
        own=tuple(own), across=tuple(across), meetings=index.meetings, sizes=index.sizes
    )


def _added(blocks: Any, place: Any, count: int) -> Any:
    """Sums of the blocks (C, a, b) of one place, (count, a, b)."""
    flat = blocks.reshape(len(blocks), -1)
    return xp.segment_sum(flat, place[: len(blocks)], count).reshape(count, *blocks.shape[1:])
