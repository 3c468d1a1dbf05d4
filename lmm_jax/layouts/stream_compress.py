"""One pass over the rows, batch by batch: cross-products, from which the layout follows.

Nothing of the size of the rows is made: a batch is read while it is in the cache, its
products go to the groups they belong to, and every change of basis is applied to sums.
Differences of such sums lose digits where the model explains nearly all of y; then
:func:`layout_from_sums` says so, and :func:`lmm_jax.layouts.compress.compress`, which
looks at residual rows, has to take its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ..covariance.structures import Structure
from ..numerics.linalg import Elimination, eliminate, total_product
from ..numerics.namespace import JAX, namespace
from .buckets import Bucket, block_size
from .common_scale import (
    common_whitener,
    log_det_of_map,
    lower_whitener,
    orthonormal_map,
    read_weights,
)
from .crossed.compress import step_of, without_step
from .group_index import GroupIndex, Table, stream_pairs
from .group_sums import place_cells, place_levels, rank_tol
from .grouped import GroupedLayout

# What the sums must show for differences to be good to twelve digits: shares of y that X and the
# groups leave, and pivots of X and Z.
_LEFT_OVER = 1e-3
_PIVOT = 1e-4
# The same of random effects, which a group tells little of in any case.
_WITHIN = 1e-6
# Share of a column of X that is rounding where the groups explain it.
_NOTHING = 1e-13


Values = Array | np.ndarray


class Units(NamedTuple):
    """Shifts and scales, near the means and sizes of the columns; any values do."""

    x_shift: Values  # (p,)  zero without a constant column
    x_unit: Values  # (p,)  powers of two
    y_shift: Values  # ()
    y_unit: Values  # ()
    constant: Values  # (p,)  coefficients that make X the number one; zero if none do


class Rows(NamedTuple):
    """A batch of rows; one of weight zero counts as absent."""

    y: Values  # (b,)
    X: Values  # (b, p)
    Z: tuple[Values, ...]  # (b, S, k) a term
    weights: Values | None  # (b,)  None: all one
    levels: tuple[Values, ...]  # (b,) a stream: cell of each row
    pairs: tuple[Values, ...]  # (b,) a pair of different streams


class Sums(NamedTuple):
    """Cross-products of all rows so far."""

    gram: Array  # (p + 1, p + 1)      [X y]' W [X y] of shifted, scaled columns
    levels: tuple[Array, ...]  # (L, k, k + p + 1) a stream: z' W [z X y] of every level
    pairs: tuple[Array, ...]  # (L, ka, kb) a pair of different streams
    n_obs: Array  # ()
    log_weights: Array  # ()


def no_rows(index: GroupIndex, p: int) -> Sums:
    """Sums of nothing."""
    k = [index.sizes[t] for t in index.streams]
    off = [
        (a, b, table)
        for (a, b), table in zip(stream_pairs(len(k)), index.pairs, strict=True)
        if a != b
    ]
    return Sums(
        gram=jnp.zeros((p + 1, p + 1)),
        levels=tuple(
            jnp.zeros((table.n_cells, k[s], k[s] + p + 1)) for s, table in enumerate(index.levels)
        ),
        pairs=tuple(jnp.zeros((table.n_cells, k[a], k[b])) for a, b, table in off),
        n_obs=jnp.zeros(()),
        log_weights=jnp.zeros(()),
    )


def add_rows(sums: Sums, rows: Rows, units: Units, index_streams: tuple[int, ...]) -> Sums:
    """Sums with one batch more.

    Parameters
    ----------
    sums : Sums
    rows : Rows
    units : Units
    index_streams : tuple of int
        Term of each stream (a (term, membership) pair).
    """
    at = read_weights(jnp.ones_like(rows.y) if rows.weights is None else rows.weights)
    X = (rows.X - units.x_shift[None]) / units.x_unit[None]
    y = (rows.y - units.y_shift) / units.y_unit
    XY = jnp.concatenate([X, y[:, None]], axis=1) * at.root[:, None]
    streams = _streams(rows.Z, index_streams, at.root)
    levels = [
        total.at[cell].add(_products(z, jnp.concatenate([z, XY], axis=1)))
        for total, z, cell in zip(sums.levels, streams, rows.levels, strict=True)
    ]
    off = [(a, b) for a, b in stream_pairs(len(streams)) if a != b]
    pairs = [
        total.at[cell].add(_products(streams[a], streams[b]))
        for total, (a, b), cell in zip(sums.pairs, off, rows.pairs, strict=True)
    ]
    return Sums(
        gram=sums.gram + XY.T @ XY,
        levels=tuple(levels),
        pairs=tuple(pairs),
        n_obs=sums.n_obs + at.n_obs,
        log_weights=sums.log_weights + at.logs,
    )


def _streams(Z: Sequence[Values], streams: Sequence[int], root: Array) -> list[Array]:
    """Covariates of every stream, (b, k) each, multiplied by root weights."""
    members = [i - streams.index(t) for i, t in enumerate(streams)]
    return [jnp.asarray(Z[t][:, m]) * root[:, None] for t, m in zip(streams, members, strict=True)]


def _products(left: Array, right: Array) -> Array:
    return left[:, :, None] * right[:, None, :]


def layout_from_sums(sums: Sums, units: Units, index: GroupIndex) -> tuple[GroupedLayout, Digits]:
    """The layout, and whether its digits are as good as those of residual rows.

    Parameters
    ----------
    sums : Sums
        Of all rows.
    units : Units
        What the sums were made with.
    index : GroupIndex

    Returns
    -------
    layout : GroupedLayout
    digits : Digits
    """
    xp = namespace(sums)
    p = sums.gram.shape[0] - 1
    scale = scale_of_gram(sums.gram)
    whiteners, z_pivot = _whiteners(sums, index)
    factors, explained = _factors(sums, scale.R, whiteners, index)
    S0, full = unreached(scale.R.T @ sums.gram @ scale.R - explained, factors, sums.n_obs)
    step = step_of(S0)
    S0 = measured_from(S0, step)
    buckets = tuple(
        Bucket(
            T=f.U,
            c=xp.at(f.X)[:, p].set(without_step(f.X, step)),
            copies=xp.ones(f.U.shape[2], S0.dtype),
            widths=w,
        )
        for f, w in zip(factors, index.widths, strict=True)
    )
    layout = GroupedLayout(
        buckets=buckets,
        S0=S0,
        whiteners=whiteners,
        **fixed_maps(scale, step, units),
        n_obs=sums.n_obs,
        log_weights=sums.log_weights,
        structures=index.structures,
        n_components=index.n_components,
    )
    left = xp.minimum(scale.share, xp.where(full, 1.0, S0[p, p]))
    within = xp.min(xp.stack(list(map(_least_share, factors))))
    return layout, Digits(left=left, pivot=xp.minimum(scale.pivot, z_pivot), within=within)


def _least_share(factor: Elimination) -> Array:
    """Smallest share of a column that those before it leave, in all groups of a bucket together.

    A group in which it happens to be small counts as little as it does in the likelihood.
    """
    xp, squares = namespace(factor.U), factor.U**2
    left = xp.sum(xp.diagonal(squares), axis=0)
    whole = xp.sum(xp.sum(squares, axis=0), axis=1)
    return xp.min(xp.where(left > 0, left / xp.where(left > 0, whole, 1.0), 1.0))


class Digits(NamedTuple):
    """What decides how many digits differences of sums have lost."""

    left: Array  # ()  share of the squares of y that X, and then the groups, leave
    pivot: Array  # ()  smallest share of a column that those before it leave, of X and of a term
    within: Any = 1.0  # ()  likewise of the random effects, within the groups

    @property
    def are_kept(self) -> bool:
        """Whether the layout is as good as that of residual rows."""
        told = float(self.pivot) > _PIVOT and float(self.within) > _WITHIN
        return told and float(self.left) > _LEFT_OVER

    @property
    def lost(self) -> float:
        """Decimal digits that were lost, about, of the sixteen of a float."""
        share = max(min(float(self.left), float(self.pivot), float(self.within)), _NOTHING)
        return float(-np.log10(min(share, 1.0)))


def fixed_digits(gram: Any) -> Digits:
    """What the fixed effects alone take, from ``[X y]' W [X y]``."""
    scale = scale_of_gram(gram)
    return Digits(left=scale.share, pivot=scale.pivot)


def measured_from(S0: Array, step: Array) -> Array:
    """Cross-products of [X y] with y measured from ``X step``."""
    xp, p = namespace(S0, step), step.size
    move = xp.at(xp.eye(p + 1, dtype=S0.dtype))[:p, p].set(-step)
    return move.T @ S0 @ move


class Scale(NamedTuple):
    """Orthonormal columns of X, and y as its OLS residual of unit length."""

    R: Array  # (p + 1, p + 1)  what makes them of the columns of the sums
    orthogonal: Array  # (p, p)  the part of X
    origin: Array  # (p,)  OLS coefficients of y on the orthonormal columns
    share: Array  # ()  of the squares of y: what X leaves
    norm: Array  # ()  root of the squares that X leaves
    pivot: Array  # ()  smallest share of a column of X that those before it leave


def scale_of_gram(gram: Array) -> Scale:
    """Columns on a common scale, from ``[X y]' W [X y]``."""
    xp = namespace(gram)
    p = gram.shape[0] - 1
    orthogonal, pivot = orthonormal_map(gram[:p, :p])
    origin = orthogonal.T @ gram[:p, p]
    rest = gram[p, p] - origin @ origin
    norm = xp.sqrt(xp.where(rest > 0, rest, 1.0))
    share = rest / xp.where(gram[p, p] > 0, gram[p, p], 1.0)
    last = xp.append(-(orthogonal @ origin), 1.0)[:, None] / norm
    R = xp.concatenate([xp.concatenate([orthogonal, xp.zeros((1, p), gram.dtype)]), last], axis=1)
    return Scale(R, orthogonal, origin, share, norm, pivot)


def unreached(S0: Array, factors: Sequence[Elimination], n_obs: Any) -> tuple[Array, Array]:
    """Cross-products that no group explains, and whether the groups reach every row."""
    xp = namespace(S0)
    nothing = xp.diagonal(S0)[:-1] < _NOTHING  # a column that groups explain: exactly zero
    reached = sum(xp.sum((xp.diagonal(f.U) > 0).astype(S0.dtype)) for f in factors)
    full = reached >= n_obs  # then nothing is left, to the last digit
    keep = xp.where(full, 0.0, xp.append(xp.where(nothing, 0.0, 1.0), 1.0))
    return S0 * keep[:, None] * keep[None, :], full


def fixed_maps(scale: Scale, step: Array, units: Units) -> dict[str, Any]:
    """What of :class:`lmm_jax.layouts.contract.Maps` belongs to X and y."""
    xp = namespace(scale, step)
    identity = xp.eye(step.size, dtype=step.dtype)
    centring = identity - units.constant[:, None] * units.x_shift[None, :]
    beta_map = centring @ (scale.orthogonal / units.x_unit[:, None])
    y_scale = scale.norm * units.y_unit
    return {
        "beta_map": beta_map,
        "log_det_map": log_det_of_map(scale.orthogonal, xp.asarray(units.x_unit)),
        "beta_origin": (beta_map @ scale.origin) * units.y_unit + y_scale * (beta_map @ step),
        "beta_shift": xp.asarray(units.constant * units.y_shift),
        "y_scale": y_scale,
    }


def _whiteners(sums: Sums, index: GroupIndex) -> tuple[tuple[Array, ...], Array]:
    """Whitener of every term, and the smallest pivot of them."""
    grams: list[Any] = [0.0 for _ in index.sizes]
    for t, level in zip(index.streams, sums.levels, strict=True):
        grams[t] = grams[t] + level[:, :, : index.sizes[t]].sum(axis=0)
    return whiteners_of([gram / sums.n_obs for gram in grams], index.structures)


def whiteners_of(
    squares: Sequence[Array], structures: Sequence[Structure]
) -> tuple[tuple[Array, ...], Array]:
    """Whitener of every term from its cross-products per row, and the smallest pivot of them."""
    xp = namespace(squares)
    made = [lower_whitener(square) for square in squares]
    worst = xp.min(xp.stack([pivot for _, pivot in made]))
    whiteners = tuple(
        A if structure.unrestricted else common_whitener(square)
        for (A, _), square, structure in zip(made, squares, structures, strict=True)
    )
    return whiteners, worst**2


def _factors(
    sums: Sums, R: Array, whiteners: Sequence[Array], index: GroupIndex
) -> tuple[list[Elimination], Array]:
    """T and c of every bucket, and the sum of all c'c.

    Many groups go block by block: every step of the way is then in the cache.
    """
    groups, tol = index.n_groups[0], rank_tol(R.dtype)
    aligned = not any(table.placements for table in (*index.levels, *index.pairs))
    size = block_size(groups)
    if not aligned or size == groups or namespace(sums) is not JAX:
        grams, crosses = _group_arrays(sums, R, whiteners, index)
        factors = [eliminate(a, b, tol=tol) for a, b in zip(grams, crosses, strict=True)]
        total = [total_product(f.X, f.X) for f in factors]
        return factors, sum(total[1:], total[0])

    def short(tables: Sequence[Table]) -> tuple[Table, ...]:
        return tuple(replace(table, n_cells=size) for table in tables)

    few = replace(index, n_groups=(size,), levels=short(index.levels), pairs=short(index.pairs))

    def step(i: Array, done: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        cut = lambda a: lax.dynamic_slice_in_dim(a, i * size, size)  # noqa: E731
        part = sums._replace(levels=tuple(map(cut, sums.levels)), pairs=tuple(map(cut, sums.pairs)))
        grams, crosses = _group_arrays(part, R, whiteners, few)
        U, X = eliminate(grams[0], crosses[0], tol=tol)
        put = lambda a, b: lax.dynamic_update_slice_in_dim(a, b, i * size, -1)  # noqa: E731
        return put(done[0], U), put(done[1], X), done[2] + total_product(X, X)

    q, C = sum(k * w for k, w in zip(index.sizes, index.widths[0], strict=True)), R.shape[0]
    empty = jnp.zeros((q, q, groups)), jnp.zeros((q, C, groups)), jnp.zeros((C, C))
    U, X, total = lax.fori_loop(0, groups // size, step, empty)
    return [Elimination(U, X)], total


def _group_arrays(
    sums: Sums, R: Array, whiteners: Sequence[Array], index: GroupIndex
) -> tuple[list[Array], list[Array]]:
    """``Z_i' Z_i`` and ``Z_i' [X_i y_i]`` of every group in the layout's bases."""
    xp = namespace(sums)
    terms = index.streams
    ends = [
        xp.einsum("lab,ac->lcb", s, whiteners[t]) for s, t in zip(sums.levels, terms, strict=True)
    ]
    crosses = [end[:, :, index.sizes[t] :] @ R for end, t in zip(ends, terms, strict=True)]
    off = iter(sums.pairs)
    cells = []
    for a, b in stream_pairs(len(terms)):
        if a == b:
            own = ends[a][:, :, : index.sizes[terms[a]]]
        else:
            own = xp.einsum("lab,ac->lcb", next(off), whiteners[terms[a]])
        cells.append(own @ whiteners[terms[b]])
    return place_cells(cells, index), place_levels(crosses, index)
