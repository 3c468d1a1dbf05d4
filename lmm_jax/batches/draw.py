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

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..layouts.contract import Layout
from ..layouts.residual.layout import ResidualLayout
from ..layouts.residual.markov import MarkovLayout
from ..layouts.response import Response
from ..numerics.linalg import group_product
from ..numerics.programs import compiled
from ..numerics.shapes import round_up
from ..optimize.newton import Solution
from .chain_draws import chain_roots, draw_chains
from .draw_recipe import ClassMoments, Distribution, GroupNormals, Replicable, recipe
from .replicate_minimize import fit_each, fit_lanes


def draw(key: Array, source: Distribution) -> Response:
    """One response, in residual standard deviations and with beta = 0.

    Parameters
    ----------
    key : Array
        A key of :mod:`jax.random`; the same key gives the same response.
    source : Distribution

    Returns
    -------
    Response
    """
    normal, chi = jax.random.split(key)
    dtype, K = source.rest.dtype, source.seen.size
    counts = [_normals(s) for s in source.buckets]
    extra = 0 if source.core is None else source.core[1].size
    # one call for all variates of a kind: every call is compiled on its own
    z = jax.random.normal(normal, (K + sum(counts) + extra,), dtype)
    df = jnp.concatenate([source.df[None], *(s.df.ravel() for s in source.buckets)])
    some = df > 0
    squares = jnp.where(some, jax.random.chisquare(chi, jnp.where(some, df, 1.0), dtype=dtype), 0.0)
    y, at, used = [], K, 1
    for s, count in zip(source.buckets, counts, strict=True):
        own = z[at : at + count]
        if isinstance(s, GroupNormals):
            y.append(_draw_groups(own, s))
        else:
            y.append(_draw_classes(own, squares[used : used + s.df.size], s))
        at, used = at + count, used + s.df.size
    e = source.seen * z[:K]
    low, square = source.rest @ e, e @ e + squares[0]
    if source.core is None:
        return Response(y=tuple(y), S0=jnp.append(low, square))
    Lambda, there = source.core
    effects = there * (Lambda @ z[at:].reshape(there.shape))
    core = (low[:extra].reshape(there.shape), effects)
    return Response(y=tuple(y), S0=jnp.append(low[extra:], square), core=core)


def _normals(source: GroupNormals | ClassMoments) -> int:
    """How many normal variates a bucket takes."""
    q, _, groups = source.root.shape
    if isinstance(source, GroupNormals):
        return q * groups
    return q * (source.seen.shape[0] + q) * groups


def _draw_groups(z: Array, source: GroupNormals) -> Array:
    """``c_y`` of every group, (q, G)."""
    q, _, groups = source.root.shape
    return jnp.sum(source.root * z.reshape(q, 1, groups), axis=0)


def _draw_classes(z: Array, squares: Array, source: ClassMoments) -> Array:
    """Products of c and c_y summed over every class, (q, p + 1, q, D)."""
    q, _, D = source.root.shape
    K, dtype = source.rows.shape[0], source.root.dtype
    z = z.reshape(q, K + q, D)
    along = source.seen[None] * z[:, :K]
    # Bartlett's triangle; with fewer groups than rows its last columns are zero
    below = jnp.asarray(np.tril(np.ones((q, q)), -1), dtype)[:, :, None]
    columns = (source.df > 0).astype(dtype)[None]
    chi = jnp.sqrt(squares.reshape(1, q, D))
    A = below * columns * z[:, K:] + jnp.eye(q, dtype=dtype)[:, :, None] * chi
    y = group_product(source.root, jnp.concatenate([along, A], axis=1))  # (q, K + q, D)
    square = jnp.sum(y[:, None] * y[None], axis=2)
    cross = jnp.sum(source.rows[:, :, :, None] * jnp.swapaxes(y[:, :K], 0, 1)[:, None, None], 0)
    return jnp.concatenate([cross, square[:, None]], axis=1)


# ------------------------------------------------------------ draws and their fits


# Lanes of one batch, and numbers that a batch may hold at a time.
_MAX_LANES = 1 << 14
_BATCH_NUMBERS = 1 << 24
# Batches that somebody watches.
_TICKS = 16

_draw_lanes = compiled(
    lambda key, index, source: jax.vmap(lambda i: draw(jax.random.fold_in(key, i), source))(index)
)


def fit_replicates(
    layout: Replicable | MarkovLayout,
    theta: np.ndarray,
    scale: float,
    *,
    key: Array,
    n: int,
    reml: bool,
    tick: Callable[[int], object] | None = None,
) -> tuple[Solution, Layout]:
    """Draw n responses at given parameters and fit each of them.

    Parameters
    ----------
    layout : GroupedLayout, CrossedLayout, ResidualLayout or MarkovLayout
    theta : ndarray, shape (m,)
        In the layout's coordinates.
    scale : float
        Residual variance.
    key : Array
        A key of :mod:`jax.random`; replicate i depends on the key and on i alone.
    n : int
    reml : bool
    tick : callable, optional
        Is told how many more are finished, batch by batch; batches are then smaller.

    Returns
    -------
    solution : Solution
        NumPy arrays with a leading axis of n, measured from beta = 0.
    layout : Layout
        In the coordinates of the draws: ``y_scale`` is the root of ``scale``, and fixed
        effects are measured from zero.
    """
    base, parts = _replicate(layout, np.asarray(theta), scale, key=key, n=n, reml=reml, tick=tick)
    solution = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:n], *parts)
    zero = jnp.zeros_like(base.beta_origin)
    return solution, replace(base, beta_origin=zero, beta_shift=zero)


def _replicate(
    layout: Replicable | MarkovLayout,
    theta: np.ndarray,
    scale: float,
    *,
    key: Array,
    n: int,
    reml: bool,
    tick: Callable[[int], object] | None,
) -> tuple[Layout, list[Solution]]:
    """The layout in units of the draws, and the fits of all batches."""
    parts, watched = [], n if tick is None else -(-n // _TICKS)
    if isinstance(layout, MarkovLayout):
        chains = jax.device_get(replace(layout, y_scale=np.sqrt(scale)))
        roots, width = chain_roots(chains, theta), batch_width(chains, watched)
        for first in range(0, n, width):
            index = np.arange(first, min(first + width, n), dtype=np.uint32)
            rows = draw_chains(roots, chains.beta_origin.size, key, index)
            parts.append(fit_each(chains, rows, theta, reml=reml))
            if tick is not None:
                tick(index.size)
        return chains, parts
    base, source = recipe(layout, theta, scale)
    width = batch_width(base, watched)
    for first in range(0, n, width):
        drawn = _draw_lanes(key, np.arange(first, first + width, dtype=np.uint32), source)
        if isinstance(base, ResidualLayout):
            count = min(width, n - first)
            some = jax.tree.map(lambda a, count=count: a[:count], drawn)
            parts.append(fit_each(base, some, theta, reml=reml))
        else:
            parts.append(fit_lanes(base, drawn, theta, reml=reml))
        if tick is not None:
            tick(min(width, n - first))
    return base, parts


def batch_width(layout: Layout, n: int) -> int:
    """Lanes that are fitted together: few sizes, and a bound on the memory."""
    most = min(_MAX_LANES, _BATCH_NUMBERS // (10 * layout.size() + 500))
    return min(round_up(n), 1 << max(most.bit_length() - 1, 4))
