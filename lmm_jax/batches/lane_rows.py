"""From a design and its responses to lanes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..designs.design import Design
from ..designs.responses import Responses, levels_remain
from ..layouts.group_index import GroupIndex
from ..layouts.grouped import GroupedLayout
from ..optimize.starts import SMALL_PROBLEM
from .chunks import Chunk
from .lane_arrays import Shared, masked_lanes, share, shared_lanes
from .related_lanes import Rotation, related_lanes, rotation_of


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LaneRows:
    """Rows that responses share, and the way to their lanes."""

    design: Design
    grid: bool  # start from a grid, or from moment estimates

    def numbers(self, masked: bool) -> float:
        """Numbers that a lane keeps busy."""
        raise NotImplementedError

    def lanes(self, chunk: Chunk, Y: np.ndarray, columns: Responses) -> Any:
        """Lanes of the responses of a chunk."""
        raise NotImplementedError

    def known_subtracted(self, Y: np.ndarray) -> np.ndarray:
        """Y without the offset and the held fixed effects."""
        known = self.design.known_part()
        return Y if known is None else Y - known[:, None]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RelatedRows(LaneRows):
    """Of one related term, rotated."""

    rotation: Rotation

    @classmethod
    def of(cls, design: Design) -> RelatedRows:
        rotation = rotation_of(design)
        grid = rotation.n_rows * (rotation.X.shape[1] + 2) <= SMALL_PROBLEM
        return cls(design=design, grid=grid, rotation=rotation)

    def numbers(self, masked: bool) -> float:
        n, p = self.rotation.X.shape
        return float(2 * n + self.rotation.n_rows * (p + 3))

    def lanes(self, chunk: Chunk, Y: np.ndarray, columns: Responses) -> Any:
        return related_lanes(self.known_subtracted(Y), self.rotation)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GroupedRows(LaneRows):
    """Of independent groups."""

    shared: Shared
    on_device: Any

    @classmethod
    def of(cls, design: Design) -> GroupedRows:
        layout, index = design.compressed.layout, design.plan.index
        assert isinstance(layout, GroupedLayout) and isinstance(index, GroupIndex)
        weights = np.ones(design.nobs) if design.weights is None else design.weights
        Z = tuple(term.values for term in design.terms)
        shared = share(design.free_exog(), Z, weights, index, layout)
        grid = design.compressed.merged.size() <= SMALL_PROBLEM
        return cls(design=design, grid=grid, shared=shared, on_device=shared)

    def numbers(self, masked: bool) -> float:
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
        Y = self.known_subtracted(Y)
        if not chunk.masked:
            return shared_lanes(Y, self.on_device)
        W = columns.take_weights(chunk.which, chunk.size)
        W = np.broadcast_to(self.shared.weights[:, None], Y.shape) if W is None else W
        W = np.where(np.isnan(Y), 0.0, W)
        enough = levels_remain(self.design, W) & ~np.isinf(Y).any(axis=0)
        Y = np.where(W > 0, Y, 0.0)
        lanes = masked_lanes(np.where(np.isfinite(Y), Y, 0.0), W, self.on_device)
        return replace(lanes, usable=lanes.usable & enough)
