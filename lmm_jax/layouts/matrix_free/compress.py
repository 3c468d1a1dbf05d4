"""From rows to a matrix-free layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse

from ...numerics.linalg import total_product
from ...numerics.namespace import NUMPY as xp
from ...numerics.sparse_rows import Pattern
from ..crossed.compress import step_of, without_step
from ..scaled_rows import maps_back, one_response, scaled_rows
from ..sparse.compress import level_moments
from ..sparse.gram import SparseGram, effects_of_rows, gram_of, rows_of_levels
from ..sparse.index import SparseIndex
from .arrays import FreeCore, Link, LinkedGram
from .layout import MatrixFreeLayout
from .squares import fits, products
from .system import Shrinkage, system_at

# Standard deviations of the effects that y is measured from, beside a residual of one, and the
# residual of their solution: whatever the origin, the model is the same.
_WIDE, _LOOSE = 100.0, 1e-6
# Probes to begin with, at most, and the standard error of -2 log L that is aimed at.
_FEW_PROBES, _MOST_PROBES, _AIM = 8, 64, 0.03
_SEED = 20_240_917
# Products of entries for which sums of squares are formed: seconds an evaluation.
_MOST_PRODUCTS = 5e8


def matrix_free_layout(
    y: Any, X: Any, Z: Sequence[Any], weights: Any | None, index: SparseIndex, first: int
) -> MatrixFreeLayout:
    """Sufficient statistics of rows; the arguments are those of :func:`lmm_jax.compress`.

    Parameters
    ----------
    y, X, Z, weights, index
        As of :func:`..sparse.compress.sparse_layout`.
    first : int
        The term that is eliminated; its rows belong to one level each.
    """
    weights = xp.ones(y.size) if weights is None else weights
    rows, frame, XY, whiteners, streams = scaled_rows(
        y[:, None], X, Z, weights, index.structures, index.streams
    )
    XY = xp.by_rows(XY)
    gram = gram_of(streams, index)
    b = rows_of_levels(streams, XY, index)
    moments = level_moments(gram, b[:, -1:])
    maps = maps_back(
        rows, frame, whiteners, xp.zeros((X.shape[1], 1)), index.structures, index.n_components
    )
    layout = MatrixFreeLayout(
        S0=XY.T @ XY,
        core=FreeCore(A=linked(gram), s=b, origin=xp.zeros_like(b[:, :1]), widths=index.widths),
        moments=moments,
        probes=signs(_left(index, first), _FEW_PROBES),
        first=first,
        square=False,
        **one_response(maps),
    )
    del gram
    origin, step = _effects(layout)
    XY[:, -1] -= XY[:, :-1] @ step + effects_of_rows(streams, origin, index)[:, 0]
    b = xp.concatenate([b[:, :-1], rows_of_levels(streams, XY[:, -1:], index)], axis=1)
    maps = maps_back(rows, frame, whiteners, step[:, None], index.structures, index.n_components)
    core = replace(layout.core, s=b, origin=origin)
    layout = replace(layout, S0=XY.T @ XY, core=core, **one_response(maps))
    return _with_probes(layout)


def _left(index: SparseIndex, first: int) -> int:
    """Columns of all terms but the first."""
    sizes = zip(index.sizes, index.widths, strict=True)
    return sum(k * w for t, (k, w) in enumerate(sizes) if t != first)


def linked(gram: SparseGram) -> LinkedGram:
    """The same matrix for products of SciPy: rows of levels, both ways."""
    blocks = tuple(xp.by_rows(xp.moveaxis(own, 0, -1)) for own in gram.own)
    links = []
    for values, m in zip(gram.across, gram.meetings, strict=True):
        if not m.left.size:
            continue
        t, s = m.terms
        shape = gram.widths[t], gram.widths[s]
        starts = np.concatenate([[0], np.cumsum(np.bincount(m.left, minlength=shape[0]))])
        number = np.arange(m.left.size, dtype=np.int32)
        back = scipy.sparse.csr_array((number, m.right, starts), shape=shape).tocsc()
        own = xp.by_rows(xp.moveaxis(values, 0, -1))
        links.append(
            Link(
                values=own,
                at=_pattern(m.right, starts, shape[1]),
                values_back=xp.by_rows(own[:, :, back.data]),
                back=_pattern(back.indices, back.indptr, shape[0]),
                pair=(t, s),
            )
        )
    return LinkedGram(blocks=blocks, links=tuple(links))


def _pattern(columns: Any, starts: Any, n_columns: int) -> Pattern:
    narrow: Any = [np.asarray(part, np.int32) for part in (columns, starts)]
    return Pattern(columns=narrow[0], starts=narrow[1], n_columns=n_columns)


def _effects(layout: MatrixFreeLayout) -> tuple[Any, Any]:
    """Effects of all levels, (N, 1, 1), and of X, (p,), that the rows suggest.

    Near the truth they keep y's digits.
    """
    factors = [_WIDE * xp.eye(k) for k in layout.sizes]
    b = layout.core.s
    fit = Shrinkage(system_at(factors, layout, _LOOSE)).times(b)
    step = step_of(layout.S0 - total_product(b, fit))
    effects = without_step(fit, step)[:, None]
    if not (np.isfinite(effects).all() and np.isfinite(step).all()):
        return xp.zeros_like(effects), xp.zeros_like(step)
    return effects, step


def signs(N: int, count: int, seed: int = _SEED) -> Any:
    """Fair signs, (N, R) int8: the same for the same model, and more of them begin alike."""
    rng = np.random.default_rng(seed)
    columns = [rng.integers(0, 2, N, dtype=np.int8) for _ in range(count)]
    return 2 * xp.stack(columns, axis=1) - xp.ones((), np.int8)


def _with_probes(layout: MatrixFreeLayout) -> MatrixFreeLayout:
    """As many probes as the standard error needs, by what a few of them leave uncertain.

    Where these would be many and the sum of squares can be had, it takes most of them away.
    """
    theta = layout.start_moments()
    wanted = _wanted(layout, theta)
    can = layout.on_host and fits(layout) and products(layout) < _MOST_PRODUCTS
    if can and wanted > 2 * _FEW_PROBES:
        layout = replace(layout, square=True)
        wanted = _wanted(layout, theta)
    return replace(layout, probes=signs(layout.probes.shape[0], wanted))


def _wanted(layout: MatrixFreeLayout, theta: Any) -> int:
    found = float(layout.monte_carlo(theta).logdet) * _FEW_PROBES**0.5
    if not np.isfinite(found):
        return _FEW_PROBES
    return int(np.clip(np.ceil((found / _AIM) ** 2), _FEW_PROBES, _MOST_PROBES))
