"""Responses of a mixed model drawn in compressed space: nothing of the size of the rows.

With sigma = 1 and beta = 0 (it is profiled, so the estimates only move along with it)

    c_y = T_i b + Q_i' e ~ N(0, T_i Psi T_i' + I)        on the rows of T_i that are not zero

for every group, independent of what no random effect reaches: with R the rows of X that
the groups leave, ``S0_XX = R'R``,

    S0_Xy = R'e ~ N(0, S0_XX)          S0_yy = |projection of e on R|^2 + chi^2(df)

where df counts the dimensions that neither groups nor R reach. Crossed factors join X in R,
and the response is measured from their drawn effects, as `Core.origin` allows.

Where groups form classes of equal T, the sums of products over a class are drawn: the part of
the c_y along the fixed c_X is normal, the rest a Wishart matrix (Bartlett's triangle of chi
and normal variates). With a residual covariance c_y are the rows of a group, ``N(0, V_i)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from ..layouts.contract import Layout
from ..layouts.crossed.layout import CrossedLayout
from ..layouts.residual.layout import ResidualLayout
from ..layouts.residual.merged import merge_design
from ..layouts.residual.whitened_layout import OfWhitenedRows
from ..layouts.response import Response
from ..numerics.memory import check_room
from ..numerics.shapes import round_up
from ..optimize.newton import Solution
from .draw_recipe import ClassMoments, Distribution, GroupNormals, Replicable, recipe
from .replicate_minimize import fit_each, fit_lanes, one_runtime
from .residual_lanes import fit_subjects
from .row_draws import draw_rows, row_roots
from .streams import Stream


def draw(stream: Stream, index: np.ndarray, source: Distribution) -> Response:
    """Responses in residual standard deviations and with beta = 0 (NumPy).

    Parameters
    ----------
    stream : Stream
        Of the variates.
    index : ndarray of int, shape (R,)
        Numbers of the replicates, one after another.
    source : Distribution

    Returns
    -------
    Response
        Arrays with a leading axis of R.
    """
    K, R = len(source.rest), len(index)
    counts = [_normals(s) for s in source.buckets]
    extra = 0 if source.core is None else source.core[1].size
    df = np.concatenate([source.df[None], *(s.df.ravel() for s in source.buckets)])
    z, squares = stream.variates(index, K + sum(counts) + extra, df)
    y: list[Any] = []
    at, used = K, 1
    for s, count in zip(source.buckets, counts, strict=True):
        own = z[:, at : at + count]
        if isinstance(s, GroupNormals):
            y.append(_draw_groups(own, s))
        else:
            y.append(_draw_classes(own, squares[:, used : used + s.df.size], s))
        at, used = at + count, used + s.df.size
    e = z[:, :K] if source.seen is None else z[:, :K] @ source.seen
    low, square = e @ source.rest.T, np.sum(e * e, axis=1) + squares[:, 0]
    S0: Any = np.concatenate([low[:, extra:], square[:, None]], axis=1)
    if source.core is None:
        return Response(y=tuple(y), S0=S0)
    Lambda, there = source.core
    effects: Any = there * (Lambda @ z[:, at:].reshape(R, *there.shape))
    return Response(y=tuple(y), S0=S0, core=(low[:, :extra].reshape(R, *there.shape), effects))


def _normals(source: GroupNormals | ClassMoments) -> int:
    """How many normal variates a bucket takes."""
    q, _, groups = source.root.shape
    if isinstance(source, GroupNormals):
        return q * groups
    return q * (source.seen.shape[0] + q) * groups


def _draw_groups(z: np.ndarray, source: GroupNormals) -> np.ndarray:
    """``c_y`` of every group, (R, q, G)."""
    q, _, groups = source.root.shape
    return np.einsum("rag,Rrg->Rag", source.root, z.reshape(len(z), q, groups))


def _draw_classes(z: np.ndarray, squares: np.ndarray, source: ClassMoments) -> np.ndarray:
    """Products of c and c_y summed over every class, (R, q, p + 1, q, D)."""
    q, _, D = source.root.shape
    K, R = source.rows.shape[0], len(z)
    z = z.reshape(R, q, K + q, D)
    along = source.seen[None] * z[:, :, :K]
    # Bartlett's triangle; with fewer groups than rows its last columns are zero
    below = np.tril(np.ones((q, q)), -1)[:, :, None]
    chi = np.sqrt(squares.reshape(R, 1, q, D))
    A = below * (source.df > 0)[None] * z[:, :, K:] + np.eye(q)[:, :, None] * chi
    y = np.einsum("rad,Rrkd->Rakd", source.root, np.concatenate([along, A], axis=2))
    square = np.einsum("Rakd,Rbkd->Rabd", y, y)
    cross = np.einsum("krpd,Rakd->Rrpad", source.rows, y[:, :, :K])
    return np.concatenate([cross, square[:, :, None]], axis=2)


# ------------------------------------------------------------ draws and their fits


# Lanes of one batch, and numbers that a batch may hold at a time.
_MAX_LANES = 1 << 14
_BATCH_NUMBERS = 1 << 24
# Batches that somebody watches.
_TICKS = 16


def fit_replicates(
    layout: Replicable | OfWhitenedRows,
    theta: np.ndarray,
    scale: float,
    *,
    stream: Stream,
    n: int,
    reml: bool,
    tick: Callable[[int], object] | None = None,
) -> tuple[Solution, Layout]:
    """Draw n responses at given parameters and fit each of them.

    Parameters
    ----------
    layout : GroupedLayout, CrossedLayout, or of residuals, FieldLayout among them
    theta : ndarray, shape (m,)
        In the layout's coordinates.
    scale : float
        Residual variance.
    stream : Stream
        Replicate i depends on the stream and on i alone.
    n : int
    reml : bool
    tick : callable, optional
        Is told how many more are finished, batch by batch; batches are then smaller.

    Raises
    ------
    DataError
        More replicates than memory has room for.

    Returns
    -------
    solution : Solution
        NumPy arrays with a leading axis of n, measured from beta = 0.
    layout : Layout
        In the coordinates of the draws: ``y_scale`` is the root of ``scale``, and fixed
        effects are measured from zero.
    """
    at = np.asarray(theta)
    m, p = at.size, layout.beta_origin.size
    check_room(n, (1 + m) * (1 + m + p + p * p), "replicates")  # what a Jet holds, about
    base, parts = _replicate(layout, at, scale, stream=stream, n=n, reml=reml, tick=tick)
    solution = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:n], *parts)
    zero: Any = np.zeros_like(base.beta_origin)
    return solution, replace(base, beta_origin=zero, beta_shift=zero)


def _replicate(
    layout: Replicable | OfWhitenedRows,
    theta: np.ndarray,
    scale: float,
    *,
    stream: Stream,
    n: int,
    reml: bool,
    tick: Callable[[int], object] | None,
) -> tuple[Layout, list[Solution]]:
    """The layout in units of the draws, and the fits of all batches."""
    parts, watched = [], n if tick is None else -(-n // _TICKS)
    if isinstance(layout, OfWhitenedRows):
        own: Any = jax.device_get(replace(layout, y_scale=np.sqrt(scale)))
        roots, width = row_roots(own, theta), batch_width(own, watched)
        for first in range(0, n, width):
            index = np.arange(first, min(first + width, n))
            rows = draw_rows(roots, own.beta_origin.size, stream, index)
            parts.append(fit_each(own, rows, theta, reml=reml))
            if tick is not None:
                tick(index.size)
        return own, parts
    base, source = recipe(layout, theta, scale)
    width = batch_width(base, watched)
    merged = merge_design(jax.device_get(base)) if isinstance(base, ResidualLayout) else None
    alone = isinstance(base, CrossedLayout) and base.is_dear()  # many lanes of it fill the memory
    with one_runtime(base, n, reml=reml):
        for first in range(0, n, width):
            count = min(width, n - first)
            lanes = count if alone or isinstance(base, ResidualLayout) else width
            drawn = draw(stream, np.arange(first, first + lanes), source)
            if isinstance(base, ResidualLayout):
                parts.append(fit_subjects(base, merged, drawn, theta, reml=reml))
            else:
                fit = fit_each if alone else fit_lanes
                parts.append(fit(base, drawn, theta, reml=reml))
            if tick is not None:
                tick(count)
    return base, parts


def batch_width(layout: Layout, n: int) -> int:
    """Lanes that are fitted together: few sizes, and a bound on the memory."""
    most = min(_MAX_LANES, _BATCH_NUMBERS // (10 * layout.size() + 500))
    return min(round_up(n), 1 << max(most.bit_length() - 1, 4))
