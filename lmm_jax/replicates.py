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
and normal variates).
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .covariance import basis
from .lanes import fit_lanes
from .layouts.crossed import CrossedLayout
from .layouts.crossed_jet import places, sizes_of
from .layouts.grouped import Bucket, GroupedLayout
from .layouts.index import round_up
from .layouts.moments import MomentLayout, drop_padding, find_classes, merge_classes
from .layouts.responses import Response
from .layouts.waist import Layout
from .linalg import group_product
from .newton import Solution
from .programs import compiled

# Pivots of T and eigenvalues of S0_XX below this (relative; columns of X are orthonormal) are
# zero: `compress` gives rows below it up, and cross-products carry no smaller ones.
_RANK_TOL = 1e-12

# Columns of a core whose cross-products are worth a spectral decomposition.
MAX_CORE = 1024

Replicable = GroupedLayout | CrossedLayout


def core_size(layout: Layout) -> int:
    """Columns of all blocks of the core; 0 without one."""
    return int(np.prod(layout.shape)) if isinstance(layout, CrossedLayout) else 0


class GroupSource(NamedTuple):
    """Groups one by one."""

    root: Array  # (q, q, G)  c_y = root' z
    df: Array  # (0,)  no chi-square variates


class ClassSource(NamedTuple):
    """Classes of equal groups, of which sums of products are drawn."""

    root: Array  # (q, q, D)  as above
    rows: Array  # (K, q, p, D)  H with H'H = sum over the class of the products of c_X
    seen: Array  # (K, D)  1 for the rows of H that are there
    df: Array  # (q, D)  degrees of freedom of the diagonal of Bartlett's triangle


class Source(NamedTuple):
    """A distribution of responses."""

    buckets: tuple[GroupSource | ClassSource, ...]
    rest: Array  # (K, K)  F with F F' = R'R; K = p, or N B + p with a core
    seen: Array  # (K,)    1 for the columns of F that are not zero
    df: Array  # ()      dimensions that nothing reaches
    core: (
        tuple[Array, Array] | None
    )  # Lambda of the core (N, N), and its levels that are there (N, B)


class Recipe(NamedTuple):
    """A layout without its response, and where responses come from."""

    layout: Replicable | MomentLayout
    source: Source


def recipe(layout: Replicable, theta: np.ndarray, scale: float) -> Recipe:
    """How to draw responses at given parameters, from what the layout knows of X and Z (host).

    Parameters
    ----------
    layout : GroupedLayout or CrossedLayout
    theta : ndarray, shape (m,)
        Relative covariance factors in the layout's coordinates.
    scale : float
        Residual variance in the units of the data.

    Returns
    -------
    Recipe
        Its layout measures the response in residual standard deviations:
        ``y_scale`` is the root of ``scale``.
    """
    layout = jax.device_get(replace(layout, y_scale=np.sqrt(scale)))
    base: Replicable | MomentLayout = layout
    core, gram, sizes, inner = None, np.asarray(layout.S0)[:-1, :-1], layout.sizes, theta
    unit = np.ones(len(gram))  # lengths of the columns before the groups took their part
    if isinstance(layout, CrossedLayout):
        lengths = _core_lengths(layout)
        core, gram = _core_source(layout, theta, lengths > 0), _core_gram(layout)
        unit = np.append(np.where(lengths > 0, lengths, 1.0).ravel(), unit)
        sizes = sizes_of(layout, layout.eliminated)
        inner = theta[places(layout, layout.eliminated)]
    else:
        layout = drop_padding(layout)
        base = merge_classes(layout)
    sources: list[GroupSource | ClassSource] = []
    rank = 0
    for bucket in layout.buckets:
        present = _present(np.asarray(bucket.T))
        rank += int(present.sum())
        root = _root(bucket, present, inner, sizes)
        merged = isinstance(base, MomentLayout)
        sources.append(_class_source(bucket, root) if merged else GroupSource(root, jnp.zeros(0)))
    e, V = np.linalg.eigh(gram / np.outer(unit, unit))
    seen = e > _RANK_TOL
    df = float(layout.n_obs) - rank - int(seen.sum())
    source = Source(
        buckets=tuple(sources),
        rest=jnp.asarray(unit[:, None] * V * np.sqrt(np.where(seen, e, 0.0))),
        seen=jnp.asarray(seen.astype(float)),
        df=jnp.asarray(max(df, 0.0)),
        core=core,
    )
    return Recipe(base, source)


def _core_source(
    layout: CrossedLayout, theta: np.ndarray, there: np.ndarray
) -> tuple[Array, Array]:
    sizes = sizes_of(layout, layout.crossed)
    inner = theta[places(layout, layout.crossed)]
    Lambda = np.tensordot(inner, basis(sizes, layout.core.widths), 1)
    return jnp.asarray(Lambda), jnp.asarray(there.astype(float))


def _core_lengths(layout: CrossedLayout) -> np.ndarray:
    """Lengths of the columns of Z_2; zero for levels of padding, (N, B)."""
    squares = np.diagonal(np.asarray(layout.core.S)).T.copy()
    for link in layout.links:
        at = np.asarray(link.row), np.asarray(link.block)
        np.add.at(squares, at, np.sum(np.asarray(link.d) ** 2, axis=0))
    return np.sqrt(np.maximum(squares, 0.0))


def _core_gram(layout: CrossedLayout) -> np.ndarray:
    """Cross-products of what the groups leave of [Z_2 X], blocks of the core one after another."""
    N, B = layout.shape
    S, s = np.asarray(layout.core.S), np.asarray(layout.core.s)
    p = s.shape[1] - 1
    out = np.zeros((N, B, N, B))
    out[:, np.arange(B), :, np.arange(B)] = np.moveaxis(S, 2, 0)
    full = np.zeros((N * B + p, N * B + p))
    full[: N * B, : N * B] = out.reshape(N * B, N * B)
    full[: N * B, N * B :] = np.moveaxis(s[:, :p], 1, 2).reshape(N * B, p)
    full[N * B :, : N * B] = full[: N * B, N * B :].T
    full[N * B :, N * B :] = np.asarray(layout.S0)[:p, :p]
    return full


def _present(T: np.ndarray) -> np.ndarray:
    """Rows of T that are dimensions of the data, (q, G)."""
    pivots = np.diagonal(T).T ** 2
    return pivots > _RANK_TOL * np.sum(T**2, axis=0)


def _root(bucket: Bucket, present: np.ndarray, theta: np.ndarray, sizes: tuple[int, ...]) -> Array:
    """``R`` with ``R' R = T Psi T' + I`` on the rows that are there, zero elsewhere, (q, q, G)."""
    Lambda = np.tensordot(theta, basis(sizes, bucket.widths), 1)
    T = np.moveaxis(np.asarray(bucket.T), 2, 0) * present.T[:, :, None]
    M = np.eye(len(Lambda)) * present.T[:, None] + (T @ Lambda) @ np.swapaxes(T @ Lambda, 1, 2)
    e, V = np.linalg.eigh(M)
    root = np.sqrt(np.maximum(e, 0.0))[:, :, None] * np.swapaxes(V, 1, 2)
    return jnp.asarray(np.moveaxis(root, 0, 2))


def _class_source(bucket: Bucket, single: Array) -> ClassSource:
    """Thin factors of the c_X of every class and what is left for the Wishart part."""
    q, C, _ = bucket.c.shape
    classes = find_classes(bucket)
    p, D = C - 1, classes.padded
    K = min(q * p, int(np.bincount(classes.label, minlength=1).max()))
    root, rows = np.zeros((q, q, D)), np.zeros((K, q, p, D))
    seen, df = np.zeros((K, D)), np.zeros((q, D))
    for d in range(classes.n_classes):
        members = classes.members(d)
        root[:, :, d] = np.asarray(single)[:, :, members[0]]
        c_X = np.asarray(bucket.c)[:, :-1, members].reshape(q * p, -1).T
        # directions without length do no harm: the c_y along them are normal all the same
        _, s, H = np.linalg.svd(c_X, full_matrices=False)
        rows[: s.size, :, :, d] = (s[:, None] * H).reshape(-1, q, p)
        seen[: s.size, d] = 1.0
        df[:, d] = np.maximum(members.size - s.size - np.arange(q), 0)
    return ClassSource(*(jnp.asarray(v) for v in (root, rows, seen, df)))


# ------------------------------------------------------------ one replicate (traced)


def draw(key: Array, source: Source) -> Response:
    """One response, in residual standard deviations and with beta = 0.

    Parameters
    ----------
    key : Array
        A key of :mod:`jax.random`; the same key gives the same response.
    source : Source

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
        if isinstance(s, GroupSource):
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


def _normals(source: GroupSource | ClassSource) -> int:
    """How many normal variates a bucket takes."""
    q, _, groups = source.root.shape
    if isinstance(source, GroupSource):
        return q * groups
    return q * (source.seen.shape[0] + q) * groups


def _draw_groups(z: Array, source: GroupSource) -> Array:
    """``c_y`` of every group, (q, G)."""
    q, _, groups = source.root.shape
    return jnp.sum(source.root * z.reshape(q, 1, groups), axis=0)


def _draw_classes(z: Array, squares: Array, source: ClassSource) -> Array:
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

_draw_lanes = compiled(
    lambda key, index, source: jax.vmap(lambda i: draw(jax.random.fold_in(key, i), source))(index)
)


def fit_replicates(
    layout: Replicable, theta: np.ndarray, scale: float, *, key: Array, n: int, reml: bool
) -> tuple[Solution, Layout]:
    """Draw n responses at given parameters and fit each of them.

    Parameters
    ----------
    layout : GroupedLayout or CrossedLayout
    theta : ndarray, shape (m,)
        In the layout's coordinates.
    scale : float
        Residual variance.
    key : Array
        A key of :mod:`jax.random`; replicate i depends on the key and on i alone.
    n : int
    reml : bool

    Returns
    -------
    solution : Solution
        NumPy arrays with a leading axis of n, measured from beta = 0.
    layout : Layout
        Its ``y_scale`` is the root of ``scale``.
    """
    base, source = recipe(layout, theta, scale)
    width = batch_width(base, n)
    parts = []
    for first in range(0, n, width):
        drawn = _draw_lanes(key, np.arange(first, first + width, dtype=np.uint32), source)
        parts.append(fit_lanes(base, drawn, theta, reml=reml))
    solution = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:n], *parts)
    return solution, base


def batch_width(layout: Layout, n: int) -> int:
    """Lanes that are fitted together: few sizes, and a bound on the memory."""
    most = min(_MAX_LANES, _BATCH_NUMBERS // (10 * layout.size() + 500))
    return min(round_up(n), 1 << max(most.bit_length() - 1, 4))
