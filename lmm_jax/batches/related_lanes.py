"""Lanes of responses whose levels are related: one rotation of the rows serves all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..designs.design import Design
from ..designs.related import term_columns
from ..layouts.related_rows import ScaledColumns, TermColumns, on_scale
from ..layouts.rotation import Spectrum, ids_of, rotate, spectrum_of
from ..layouts.scaled_rows import maps_back
from ..numerics.programs import compiled
from ..reprs import brief
from .lane_arrays import varies
from .lane_criterion import NUMPY_SECONDS, LaneBucket, Lanes

# Maps that do not depend on the response.
_SHARED = ("beta_map", "log_det_map", "n_obs", "log_weights")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rotation:
    """What responses with one related term share, and the rotation of their rows."""

    X: np.ndarray  # (n, p)
    term: TermColumns
    weights: np.ndarray  # (n,)
    spectrum: Spectrum
    sigma2: Any  # (1,)  residual variance where it is known

    __repr__ = brief

    def on_scale(self, Y: np.ndarray) -> ScaledColumns:
        """Responses (n, R) beside X and Z, on one scale."""
        return on_scale(Y, self.X, [self.term], self.weights)

    @property
    def n_rows(self) -> int:
        """Independent rows."""
        return self.spectrum.sigma.size


def rotation_of(design: Design) -> Rotation:
    """One decomposition of the relationship of the ids with rows."""
    X, term = design.free_exog(), term_columns(design.terms[0])
    weights = design.row_weights
    rows = on_scale(np.zeros((design.nobs, 1)), X, [term], weights)
    assert term.known is not None  # the caller has looked
    spectrum = spectrum_of(term.known, ids_of(rows, 0).lengths, rows.scales[0])
    known = None if design.sigma2 is None else design.sigma2[None]
    return Rotation(X=X, term=term, weights=weights, spectrum=spectrum, sigma2=known)


def related_lanes(Y: np.ndarray, rotation: Rotation) -> Lanes:
    """Lanes of complete responses, (n, R)."""
    rows, p = rotation.on_scale(Y), rotation.X.shape[1]
    c, rest, step = rotate(ids_of(rows, 0), rotation.spectrum, p)
    left, right = rest[:, :p], rest[:, p:]
    structures: Any = (rotation.term.structure,)
    maps = maps_back(rows.weights, rows.frame, rows.whiteners, step, structures, 0)
    bucket: dict[str, Any] = {
        "T": rotation.spectrum.sigma[None, None, :, None],
        "X": c[:, :p].T[None, :, :, None, None],
        "y": c[None, :, None, p:],
        "copies": np.ones((rotation.n_rows, 1)),
    }
    sums: dict[str, Any] = {
        "S_xx": (left.T @ left)[..., None],
        "S_xy": left.T @ right,
        "S_yy": np.einsum("nr,nr->r", right, right),
        "usable": np.ones(Y.shape[1], bool),
    }
    for name in _SHARED:
        maps[name] = np.asarray(maps[name])[..., None]
    maps["whiteners"] = tuple(A[..., None] for A in rows.whiteners)
    lanes = Lanes(
        buckets=(LaneBucket(**bucket, widths=(1,)),), **sums, **maps, sigma2=rotation.sigma2
    )
    return replace(lanes, usable=_varies(Y, rotation.weights[:, None], lanes))


_varies = compiled(varies, host=NUMPY_SECONDS)
