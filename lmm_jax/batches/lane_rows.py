"""From a design and its responses to lanes."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import numpy as np

from ..designs.design import Design
from ..designs.responses import Responses, levels_remain
from ..layouts.compress import layout_of_rows
from ..layouts.group_index import GroupIndex
from ..layouts.grouped import GroupedLayout
from ..layouts.stream_pass import pad
from ..numerics.stacked import Stacked, filled
from ..optimize.grids import start_grid
from ..optimize.newton import Solution
from ..optimize.starts import SMALL_PROBLEM
from .chunks import Chunk
from .lane_arrays import Shared, independent, is_varied, masked_lanes, share, shared_lanes
from .lane_minimize import minimize_lanes
from .layout_lanes import LayoutLanes, minimize_layouts
from .related_lanes import Rotation, related_lanes, rotation_of

# Numbers that take NumPy as long as it takes to make the arrays of a response with its own rows,
# and points of a grid of one axis, which are not counted.
_OWN, _AXIS = 4_000, 9


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LaneRows:
    """Rows that responses share, and the way to their lanes."""

    design: Design
    grid: bool  # start from a grid, or from moment estimates

    on_host: ClassVar[bool] = False  # whether NumPy alone works their lanes off

    @classmethod
    def of(cls, design: Design) -> LaneRows:
        """The rows of a design, on the host."""
        if design.is_related:
            return RelatedRows.of(design)
        return LayoutRows.of(design) if design._is_kind("core") else GroupedRows.of(design)

    def minimize(self, lanes: Any, *, defer: bool, **options: Any) -> Solution:
        """See :func:`lmm_jax.batches.lane_minimize.minimize_lanes`."""
        return minimize_lanes(lanes, defer=defer, **options)

    def maps(self, lanes: Any) -> Any:
        """From the coordinates of lanes to those of the data, lanes last."""
        return replace(lanes, buckets=())

    def placed(self) -> LaneRows:
        """The same with what responses share, if they share arrays, on the device."""
        return self

    def key(self) -> Hashable:
        """What compiled programs depend on, beside the number of lanes."""
        raise NotImplementedError

    def numbers(self, masked: bool) -> float:
        """Numbers that a lane keeps busy."""
        raise NotImplementedError

    def lanes(self, chunk: Chunk, Y: np.ndarray, columns: Responses) -> Any:
        """Lanes of the responses of a chunk."""
        raise NotImplementedError

    def work(self, whole: int, masked: int) -> int:
        """Numbers that so many responses take NumPy as long as, start values included."""
        numbers = whole * self.numbers(False) + masked * self.numbers(True)
        points = len(start_grid(self.design.structures).thetas) / _AXIS if self.grid else 1.0
        return int(points * numbers) + masked * _OWN

    def known_subtracted(self, Y: np.ndarray) -> np.ndarray:
        """Y without the offset and the held fixed effects."""
        known = self.design.known_part()
        return Y if known is None else Y - known[:, None]

    def with_gaps(
        self, chunk: Chunk, Y: np.ndarray, columns: Responses
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Y with zeros where rows are missing, weights (n, R) likewise, and the lanes with rows."""
        own, W = self.design.weights, columns.take_weights(chunk.which, chunk.size)
        if W is None:
            W = np.broadcast_to(1.0 if own is None else own[:, None], Y.shape)
        W = np.where(np.isnan(Y), 0.0, W)
        enough = levels_remain(self.design, W) & ~np.isinf(Y).any(axis=0)
        Y = np.where(W > 0, Y, 0.0)
        return np.where(np.isfinite(Y), Y, 0.0), W, enough


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RelatedRows(LaneRows):
    """Of one related term, rotated."""

    rotation: Rotation

    @classmethod
    def of(cls, design: Design) -> RelatedRows:
        """See :meth:`LaneRows.of`: of a design with one related term."""
        rotation = rotation_of(design)
        grid = rotation.n_rows * (rotation.X.shape[1] + 2) <= SMALL_PROBLEM
        return cls(design=design, grid=grid, rotation=rotation)

    def key(self) -> Hashable:
        """See :meth:`LaneRows.key`."""
        return self.rotation.X.shape, self.rotation.n_rows, self.design.structures

    def numbers(self, masked: bool) -> float:
        """See :meth:`LaneRows.numbers`."""
        n, p = self.rotation.X.shape
        return float(2 * n + self.rotation.n_rows * (p + 3))

    def lanes(self, chunk: Chunk, Y: np.ndarray, columns: Responses) -> Any:
        """See :meth:`LaneRows.lanes`."""
        return related_lanes(self.known_subtracted(Y), self.rotation)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GroupedRows(LaneRows):
    """Of independent groups."""

    shared: Shared
    arrays: Shared  # the same, on the device where programs take them

    @classmethod
    def of(cls, design: Design) -> GroupedRows:
        """See :meth:`LaneRows.of`: of a design of independent groups."""
        layout, index = design.compressed.layout, design.plan.index
        assert isinstance(layout, GroupedLayout) and isinstance(index, GroupIndex)
        Z = tuple(term.values for term in design.terms)
        shared = share(design.free_exog(), Z, design.row_weights, index, layout)
        grid = design.compressed.merged.size() <= SMALL_PROBLEM
        return cls(design=design, grid=grid, shared=shared, arrays=shared)

    def placed(self) -> GroupedRows:
        """See :meth:`LaneRows.placed`."""
        return replace(self, arrays=jax.device_put(self.shared))

    def key(self) -> Hashable:
        """See :meth:`LaneRows.key`."""
        leaves, tree = jax.tree.flatten(self.shared)
        return tree, tuple(leaf.shape for leaf in leaves)

    def numbers(self, masked: bool) -> float:
        """See :meth:`LaneRows.numbers`."""
        shared = self.shared
        n, p = shared.X.shape
        widths = [sum(k * w for k, w in zip(shared.rows.sizes, ws, strict=True))
                  for ws in shared.rows.widths]  # fmt: skip
        out = n * (p + 2 if masked else 2)
        for q, groups, classes in zip(widths, shared.rows.n_groups, shared.classes, strict=True):
            merged = classes is not None and not masked
            entries = q * (p + 1) * len(classes.first) if merged and classes else groups
            out += entries * q * (q + p + 1) + groups * q
        return float(out)

    def lanes(self, chunk: Chunk, Y: np.ndarray, columns: Responses) -> Any:
        """See :meth:`LaneRows.lanes`."""
        Y = self.known_subtracted(Y)
        if not chunk.masked:
            return shared_lanes(Y, self.arrays)
        Y, W, enough = self.with_gaps(chunk, Y, columns)
        lanes = masked_lanes(Y, W, self.arrays)
        return replace(lanes, usable=lanes.usable & enough)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LayoutRows(LaneRows):
    """Of crossed factors, by the layout's own criterion."""

    rows: tuple[Any, ...]  # arguments of compress, with rows that weigh nothing after the others
    on_host: ClassVar[bool] = True

    @classmethod
    def of(cls, design: Design) -> LayoutRows:
        """See :meth:`LaneRows.of`."""
        grid = design.compressed.layout.size() <= SMALL_PROBLEM
        return cls(design=design, grid=grid, rows=design.padded_rows())

    def minimize(self, lanes: LayoutLanes, *, defer: bool, **options: Any) -> Solution:
        """See :meth:`LaneRows.minimize`."""
        del defer  # batches of any size
        return minimize_layouts(lanes, **options)

    def maps(self, lanes: LayoutLanes) -> Any:
        """See :meth:`LaneRows.maps`."""
        return lanes.maps()

    def numbers(self, masked: bool) -> float:
        """See :meth:`LaneRows.numbers`: four arrays like the core's and the entries' at a theta."""
        layout: Any = self.design.compressed.layout
        (n, p), entries = self.rows[1].shape, sum(link.d.size for link in layout.links)
        own = layout.size() + n * p if masked else sum(b.c.size for b in layout.buckets)
        return float(own + 4 * (layout.core.S.size + entries) + 2 * n)

    @np.errstate(all="ignore")  # of responses without a model
    def lanes(self, chunk: Chunk, Y: np.ndarray, columns: Responses) -> LayoutLanes:
        """See :meth:`LaneRows.lanes`."""
        weights: Any
        y, X, Z, weights, index = self.rows
        y_lanes: Any = self.known_subtracted(Y)
        R, W, enough = chunk.size, weights[: len(Y), None], np.ones(chunk.size, bool)
        if chunk.masked:
            y_lanes, W, enough = self.with_gaps(chunk, y_lanes, columns)
            weights = Stacked(pad(W, y.size))
            enough = enough & filled(independent(X, weights), R)
        rows: Any = Stacked(pad(y_lanes, y.size))
        known: Any = self.design.sigma2
        layout: Any = replace(layout_of_rows(rows, X, Z, weights, index), sigma2=known)
        maps = LayoutLanes(layout=layout, usable=enough).maps()
        rss: Any = filled(layout.within_rss(), R)
        ranks = filled(layout.ranks(), R)
        varied = is_varied(y_lanes, W, maps, rss, ranks, X.shape[1])
        return LayoutLanes(layout=layout, usable=enough & varied)
