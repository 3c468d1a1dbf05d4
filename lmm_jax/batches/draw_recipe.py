"""Where drawn responses come from: what a layout knows of X and Z, prepared on the host.

The formulas stand in :mod:`lmm_jax.batches.draw`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from ..covariance.structures import Structure
from ..covariance.theta import group_factors
from ..layouts.buckets import Bucket
from ..layouts.crossed.jet import pick, places
from ..layouts.crossed.layout import CrossedLayout
from ..layouts.group_algebra import rows_there
from ..layouts.grouped import GroupedLayout
from ..layouts.moments import MomentLayout, drop_padding, equal_groups, merge_classes
from ..layouts.residual.bucket import covariance_at
from ..layouts.residual.layout import ResidualLayout

# Eigenvalues of S0_XX below this are zero (columns of X are orthonormal): cross-products carry
# no smaller ones.
_RANK_TOL = 1e-12

Replicable = GroupedLayout | CrossedLayout | ResidualLayout


class GroupNormals(NamedTuple):
    """Groups one by one."""

    root: np.ndarray  # (q, q, G)  c_y = root' z; rows in the place of q with a residual covariance
    df: np.ndarray  # (0,)  no chi-square variates


class ClassMoments(NamedTuple):
    """Classes of equal groups, of which sums of products are drawn."""

    root: np.ndarray  # (q, q, D)  as above
    rows: np.ndarray  # (K, q, p, D)  H with H'H = sum over the class of the products of c_X
    seen: np.ndarray  # (K, D)  1 for the rows of H that are there
    df: np.ndarray  # (q, D)  degrees of freedom of the diagonal of Bartlett's triangle


class Distribution(NamedTuple):
    """A distribution of responses."""

    buckets: tuple[GroupNormals | ClassMoments, ...]
    rest: np.ndarray  # (K, K)  F with F F' = R'R; K = p, or N B + p with a core
    seen: np.ndarray | None  # (K, K)  projection on the rows of F; None if F is regular
    df: np.ndarray  # ()      dimensions that nothing reaches
    core: (
        tuple[np.ndarray, np.ndarray] | None
    )  # its Lambda (N, N), and the levels that are there (N, B)


class Recipe(NamedTuple):
    """A layout without its response, and where responses come from."""

    layout: Replicable | MomentLayout
    source: Distribution


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
    if isinstance(layout, CrossedLayout):
        return _crossed_recipe(layout, theta)
    if isinstance(layout, ResidualLayout):
        return _residual_recipe(layout, theta)
    layout = drop_padding(layout)
    base = merge_classes(layout)
    merged = isinstance(base, MomentLayout)
    buckets, rank = [], 0
    for bucket in layout.buckets:
        root, reached = _root(bucket, theta, layout.structures)
        buckets.append(_class_moments(bucket, root) if merged else GroupNormals(root, np.zeros(0)))
        rank += reached
    gram = np.asarray(layout.S0)[:-1, :-1]
    dimensions = float(layout.n_obs) - rank
    return Recipe(base, _distribution(buckets, gram, np.ones(len(gram)), dimensions, None))


def _residual_recipe(layout: ResidualLayout, theta: np.ndarray) -> Recipe:
    """Every row is one of a group, ``c_y ~ N(0, V_i)``: nothing is left that no group reaches."""
    buckets = []
    for bucket in layout.buckets:
        at: Any = theta
        V: Any = covariance_at(at, layout.structures, bucket)
        L = np.linalg.cholesky(np.moveaxis(V, -1, 0))
        root: Any = np.moveaxis(L, 0, -1).swapaxes(0, 1) * bucket.present
        buckets.append(GroupNormals(root, np.zeros(0)))
    gram = np.asarray(layout.S0)[:-1, :-1]
    return Recipe(layout, _distribution(buckets, gram, np.ones(len(gram)), 0.0, None))


def _crossed_recipe(layout: CrossedLayout, theta: np.ndarray) -> Recipe:
    """The columns of the core join those of X in what the groups leave."""
    kinds = pick(layout.structures, layout.eliminated)
    inner = theta[places(layout, layout.eliminated)]
    roots = [_root(bucket, inner, kinds) for bucket in layout.buckets]
    buckets = [GroupNormals(root, np.zeros(0)) for root, _ in roots]
    gram, lengths = _core_gram(layout), _core_lengths(layout)
    there = lengths > 0
    unit = np.ones(len(gram))
    unit[: lengths.size] = np.where(there, lengths, 1.0).ravel()
    inner = theta[places(layout, layout.crossed)]
    outer = pick(layout.structures, layout.crossed)
    Lambda = group_factors(inner, outer, layout.core.widths)
    core = np.asarray(Lambda), np.asarray(there.astype(float))
    dimensions = float(layout.n_obs) - sum(reached for _, reached in roots)
    return Recipe(layout, _distribution(buckets, gram, unit, dimensions, core))


def _distribution(
    buckets: Sequence[GroupNormals | ClassMoments],
    gram: np.ndarray,
    unit: np.ndarray,
    dimensions: float,
    core: tuple[np.ndarray, np.ndarray] | None,
) -> Distribution:
    """With the symmetric root of the cross-products of what the groups leave.

    ``unit`` holds the lengths of the columns before the groups took their part, and
    ``dimensions`` how many of the data's no group reaches.
    """
    e, V = np.linalg.eigh(gram / np.outer(unit, unit))
    seen = e > _RANK_TOL
    return Distribution(
        buckets=tuple(buckets),
        rest=unit[:, None] * _symmetric(np.sqrt(np.where(seen, e, 0.0)), V),
        seen=None if seen.all() else _symmetric(seen.astype(float), V),
        df=np.asarray(max(dimensions - int(seen.sum()), 0.0)),
        core=core,
    )


def _symmetric(e: np.ndarray, V: np.ndarray) -> np.ndarray:
    """``V diag(e) V'``, continuous in its matrix, unlike eigenvectors of repeated eigenvalues."""
    return (V * e) @ V.T


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


def _root(
    bucket: Bucket, theta: np.ndarray, structures: tuple[Structure, ...]
) -> tuple[np.ndarray, int]:
    """``R`` with ``R' R = T Psi T' + I`` on the rows that are there, zero elsewhere, (q, q, G).

    And how many rows of T are there: dimensions of the data.
    """
    T, present = np.moveaxis(np.asarray(bucket.T), 2, 0), rows_there(np.asarray(bucket.T)).T
    half = T @ group_factors(theta, structures, bucket.widths)
    # triangular, with a positive diagonal: the same to last digits wherever it is computed
    rows = np.concatenate(
        [np.swapaxes(half, 1, 2), np.broadcast_to(np.eye(T.shape[1]), T.shape)], 1
    )
    R = np.linalg.qr(rows, mode="r")
    root = np.copysign(1.0, np.diagonal(R, axis1=1, axis2=2))[:, :, None] * R * present[:, None]
    return np.moveaxis(root, 0, 2), int(present.sum())


def _root_of(rows: np.ndarray) -> np.ndarray:
    """The symmetric root of the cross-products of rows, at least as many as columns."""
    _, s, Vt = np.linalg.svd(rows, full_matrices=False)
    return _symmetric(s, Vt.T)


def _class_moments(bucket: Bucket, single: np.ndarray) -> ClassMoments:
    """Thin factors of the c_X of every class and what is left for the Wishart part."""
    q, C, _ = bucket.c.shape
    classes = equal_groups(bucket)
    p, D = C - 1, classes.padded
    K = min(q * p, int(classes.counts.max(initial=0)))
    root, rows = np.zeros((q, q, D)), np.zeros((K, q, p, D))
    seen, df = np.zeros((K, D)), np.zeros((q, D))
    for d in range(classes.first.size):
        members = classes.members(d)
        root[:, :, d] = np.asarray(single)[:, :, members[0]]
        c_X = np.asarray(bucket.c)[:, :-1, members].reshape(q * p, members.size).T
        # directions without length do no harm: the c_y along them are normal all the same
        H = c_X if len(c_X) <= q * p else _root_of(c_X)
        rows[: len(H), :, :, d] = H.reshape(len(H), q, p)
        seen[: len(H), d] = 1.0
        df[:, d] = np.maximum(members.size - len(H) - np.arange(q), 0)
    return ClassMoments(root, rows, seen, df)
