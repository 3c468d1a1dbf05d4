"""From rows to a sparse layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...numerics.linalg import total_product
from ...numerics.namespace import NUMPY as xp
from ..crossed.arrays import StartMoments
from ..crossed.compress import step_of, without_step
from ..scaled_rows import maps_back, one_response, scaled_rows
from .arrays import SparseCore
from .gram import SparseGram, effects_of_rows, gram_of, rows_of_levels, squares_of
from .index import SparseIndex
from .layout import SparseLayout
from .system import Places, System

# Standard deviations of the effects that y is measured from, beside a residual of one. Larger
# ones would take more of the rows' digits along, whatever the origin the model is the same.
_WIDE = 1e4


def sparse_layout(
    y: Any, X: Any, Z: Sequence[Any], weights: Any | None, index: SparseIndex
) -> SparseLayout:
    """Sufficient statistics of rows; the arguments are those of :func:`lmm_jax.compress`."""
    weights = xp.ones(y.size) if weights is None else weights
    rows, frame, XY, whiteners, streams = scaled_rows(
        y[:, None], X, Z, weights, index.structures, index.streams
    )
    XY = xp.by_rows(XY)
    gram = gram_of(streams, index)
    places = Places(gram, index.order)
    b = rows_of_levels(streams, XY, index)
    moments = level_moments(gram, b[:, -1:])
    wide, origin = wide_system(gram, places, index), xp.zeros_like(b)
    for _ in range(2):  # the second round takes what the ridge of the first has left
        fit, step = effects_of(wide, b, XY.T @ XY)
        for column in range(XY.shape[1]):  # one after another: rows are many
            XY[:, column] -= effects_of_rows(streams, fit[:, column : column + 1], index)[:, 0]
        b, origin = rows_of_levels(streams, XY, index), origin + fit
    XY[:, -1] -= XY[:, :-1] @ step
    b[:, -1], origin[:, -1] = without_step(b, step), without_step(origin, step)
    return SparseLayout(
        S0=XY.T @ XY,
        core=SparseCore(S=gram, s=b, origin=origin, widths=index.widths),
        moments=moments,
        elimination=index.order,
        places=places,
        **one_response(
            maps_back(rows, frame, whiteners, step[:, None], index.structures, index.n_components)
        ),
    )


def wide_system(gram: SparseGram, places: Places, index: SparseIndex) -> System:
    """All effects with a variance that holds none of them back."""
    return System(gram, places, index.order, [_WIDE * xp.eye(k) for k in gram.sizes])


def effects_of(wide: System, b: Any, S0: Any) -> tuple[Any, Any]:
    """Effects of all levels that explain [X y], and of X what y has besides.

    Near the truth they keep the digits of y, and those of columns of X that effects explain.

    Returns
    -------
    fit : ndarray, shape (N, p + 1, 1)
    step : ndarray, shape (p,)
    """
    fit = _WIDE**2 * wide.times(b)
    step = step_of(S0 - total_product(b, fit))
    if not (xp.isfinite(fit).all() and xp.isfinite(step).all()):
        return xp.zeros_like(fit), xp.zeros_like(step)
    return fit, step


def level_moments(gram: SparseGram, y_rows: Any) -> StartMoments:
    """Squares that the moment equations of the start values are made of; see `StartMoments`."""
    widths, sizes = gram.widths, gram.sizes
    parts, start = [], 0
    for k, w in zip(sizes, widths, strict=True):
        parts.append(y_rows[start : start + k * w, 0, 0].reshape(w, k))
        start += k * w
    norms = [xp.einsum("laa->la", block) for block in gram.own]
    weight = [(1.0 + 0.25 * norm) ** -2 for norm in norms]
    return StartMoments(
        squares=xp.concatenate(
            [(w * y**2).sum(axis=0) for w, y in zip(weight, parts, strict=True)]
        ),
        noise=xp.concatenate([(w * n).sum(axis=0) for w, n in zip(weight, norms, strict=True)]),
        spread=squares_of(gram, weight),
        norms=xp.concatenate([n.sum(axis=0) for n in norms]),
    )
