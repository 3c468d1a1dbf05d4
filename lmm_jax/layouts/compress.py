"""From rows to a layout: one pass over the data, then a residual pass.

For every group the thin QR ``Z_i = Q_i T_i`` of its random-effects design and
``c_i = Q_i' [X_i y_i]`` come out of cross-products by a Cholesky elimination;
what the groups cannot explain is summed from residual rows, so that no digits
are lost by subtraction. All of it is traceable in X, y, Z and the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ..covariance.params import real_array
from ..errors import DataError
from ..inputs.arguments import hinted, instance, items, shown
from ..numerics.linalg import exact
from ..numerics.namespace import namespace
from ..numerics.processes import check_process, eagerly
from ..numerics.programs import compiled
from .common_scale import (
    Frame,
    RowWeights,
    centring_of,
    orthonormal_map,
    powers_of_two,
    read_weights,
)
from .crossed.from_rows import RowFactors, around_core, buckets_of, of_terms, row_factors
from .crossed.index import CrossedIndex
from .crossed.layout import CrossedLayout
from .group_index import GroupIndex
from .grouped import GroupedLayout
from .residual.chain_index import ChainIndex
from .residual.compress import markov_layout, present_first, residual_layout, subject_layout
from .residual.index import OfBuckets, ResidualIndex
from .residual.layout import ResidualLayout
from .residual.markov import MarkovLayout
from .residual.subject_index import SubjectIndex
from .residual.subjects import SubjectLayout
from .scaled_rows import maps_back, one_response, scaled_rows

RowIndex = GroupIndex | CrossedIndex | ResidualIndex | ChainIndex | SubjectIndex
RowLayout = GroupedLayout | CrossedLayout | ResidualLayout | MarkovLayout | SubjectLayout
# Pivots of cross-products at unit diagonal, in units of eps for every column, that are rounding.
_DEPENDENT = 8.0
# Rows up to which XLA may compute with constants of the caller's program while it compiles, weights
# of one for example: that saves a tenth of a step, and takes seconds for a reduction of a million.
_FOLDED = 1 << 16


@hinted
@exact
def compress(
    y: Array,
    X: Array,
    Z: Sequence[Array],
    weights: Array,
    index: RowIndex,
    *,
    sigma: Array | float | None = None,
) -> RowLayout:
    """Compress the rows of a mixed model into its sufficient statistics.

    Parameters
    ----------
    y : Array, shape (n,)
        Response, offset already subtracted.
    X : Array, shape (n, p)
        Fixed-effects design of full column rank.
    Z : sequence of Array, shape (n, S, k)
        Random-effects covariates of each term, for each of its S memberships.
    weights : Array, shape (n,)
        Prior weights (residual variance ``sigma^2 / w``). A row of weight zero
        counts as absent, whatever stands in it; a negative weight makes everything NaN, as
        columns of X that are dependent in the other rows do.
    index : GroupIndex, CrossedIndex, ResidualIndex, ChainIndex or SubjectIndex
        Bookkeeping of the rows (:func:`lmm_jax.row_index`); rows past the data point
        anywhere and weigh nothing. That of a design with a residual covariance knows
        its subjects, visits and coordinates.
    sigma : Array or float, shape (), optional
        Residual standard deviation where it is known; functions of the layout profile it out
        otherwise. Not beside a residual covariance.

    Returns
    -------
    GroupedLayout, CrossedLayout, ResidualLayout, MarkovLayout or SubjectLayout

    Notes
    -----
    Columns of X, the columns of each term of Z and y are first brought to a
    common scale by fixed linear maps, which the layout keeps. The maps are
    constants to the differentiation: any value of them describes the same model.
    """
    check_process()
    rows, known = _read_rows(y, X, Z, weights, index), _read_sigma(sigma, index)
    found = _compressed(rows, index)
    if known is None:
        return found
    return replace(found, sigma2=jnp.asarray(known, found.S0.dtype) ** 2)


def _read_sigma(sigma: Any, index: RowIndex) -> Any:
    """A known residual standard deviation, looked at where it is not traced."""
    if sigma is None:
        return None
    if isinstance(index, ResidualIndex | ChainIndex | SubjectIndex):
        raise DataError("sigma= beside a residual covariance, whose variances are estimated")
    traced = isinstance(sigma, jax.core.Tracer)
    found = sigma if traced else real_array(sigma, "sigma")
    if np.shape(found) != () or not (traced or (found > 0 and np.isfinite(found))):
        raise DataError(f"sigma={shown(sigma)}: a positive number is needed")
    return found


def _compressed(rows: Any, index: RowIndex) -> RowLayout:
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((rows, index))):
        y, X, Z, weights = jax.tree.map(jnp.asarray, rows)
        return _layout_of_unchecked(y, X, Z, weights, index)
    with eagerly():  # in the midst of a trace known rows are compressed once, at that time
        y, X, Z, weights = jax.tree.map(jnp.asarray, rows)
        found: RowLayout = _program_of_rows(y, X, Z, weights, index)
    return found


@exact
def _layout_of_unchecked(
    y: Array, X: Array, Z: Sequence[Array], weights: Array, index: RowIndex
) -> RowLayout:
    """:func:`layout_of_rows` of rows that nobody has looked at.

    Nothing is left of rows of weight zero; y is NaN, and with it all that follows, where a
    weight is none or X is not of full rank.
    """
    if y.shape[0] > _FOLDED:
        X, Z, weights = lax.optimization_barrier((X, Z, weights))
    absent = weights == 0
    X = jnp.where(absent[:, None], 0.0, X)
    Z = tuple(jnp.where(absent[:, None, None], 0.0, z) for z in Z)
    void = ~(weights >= 0) | ~_has_full_rank(X, weights)
    y = jnp.where(absent, 0.0, jnp.where(void, jnp.nan, y))
    if isinstance(index, OfBuckets):  # places without a row point to one that weighs nothing
        y, X, Z, weights = jax.tree.map(lambda rows: _grown(rows, index.n_rows), (y, X, Z, weights))
    if isinstance(index, ChainIndex):
        index = present_first(index, weights > 0)
    return layout_of_rows(y, X, Z, weights, index)


def _grown(rows: Array, n: int) -> Array:
    """Rows of zeros after the others, (n, ...)."""
    return jnp.pad(rows, ((0, n - len(rows)), *((0, 0) for _ in rows.shape[1:])))


def _has_full_rank(X: Array, weights: Array) -> Array:
    """Whether the columns of X are independent, as far as their cross-products tell."""
    X, weights = lax.stop_gradient((X, weights))
    X = X / powers_of_two(X)[None]
    centring, _ = centring_of(X, X[:, :0], read_weights(weights))
    X = (centring.T @ X.T).T * (weights > 0).astype(X.dtype)[:, None]  # years beside a constant
    X = X / powers_of_two(X)[None]
    _, pivot = orthonormal_map(X.T @ (X * jnp.where(weights > 0, weights, 0.0)[:, None]))
    return pivot > X.shape[1] * _DEPENDENT * jnp.finfo(X.dtype).eps


@exact
def layout_of_rows(
    y: Array, X: Array, Z: Sequence[Array], weights: Array, index: RowIndex
) -> RowLayout:
    """:func:`compress` of arrays that fit each other, in NumPy or JAX."""
    if isinstance(index, ResidualIndex):
        return residual_layout(y, X, Z, weights, index)
    if isinstance(index, ChainIndex):
        return markov_layout(y, X, Z, weights, index)
    if isinstance(index, SubjectIndex):
        return subject_layout(y, X, Z, weights, index)
    at = compress_columns(y[:, None], X, Z, weights, index)
    groups = at.groups
    if not isinstance(index, CrossedIndex):
        return GroupedLayout(
            buckets=buckets_of(groups, index),
            S0=groups.residual.T @ groups.residual,
            **one_response(at.maps(groups.step, index)),
        )
    found = around_core(at.streams, at.frame.Y * at.rows.root[:, None], groups, index)
    return CrossedLayout(
        buckets=found.buckets,
        S0=found.residual.T @ found.residual,
        links=found.links,
        core=found.core,
        moments=found.moments,
        eliminated=index.eliminated,
        crossed=index.crossed,
        **one_response(at.maps(found.step[:, None], index)),
    )


class Columns(NamedTuple):
    """What the rows of responses that share everything else come down to, before the core."""

    rows: RowWeights
    frame: Frame
    whiteners: tuple[Array, ...]
    streams: list[Array]  # (n, k) a stream: whitened covariates, times the root weights
    groups: RowFactors  # T and c of the groups, what they leave, where Y is measured from

    def maps(self, step: Array, index: GroupIndex | CrossedIndex) -> dict[str, Any]:
        """The maps back; those that depend on the response end with an axis R."""
        return maps_back(
            self.rows, self.frame, self.whiteners, step, index.structures, index.n_components
        )


def groups_of(index: GroupIndex | CrossedIndex) -> GroupIndex:
    """The index of the groups that are eliminated."""
    return index.groups if isinstance(index, CrossedIndex) else index


def compress_columns(
    Y: Array, X: Array, Z: Sequence[Array], weights: Array, index: GroupIndex | CrossedIndex
) -> Columns:
    """Factors of the groups and residual rows of responses (n, R), side by side.

    All that is done for a response is linear in it, but for its unit.

    Parameters
    ----------
    Y : Array, shape (n, R)
    X, Z, weights, index
        As in :func:`compress`.
    """
    rows, frame, XY, whiteners, streams = scaled_rows(
        Y, X, Z, weights, index.structures, index.streams
    )
    inner = streams
    if isinstance(index, CrossedIndex):
        inner = of_terms(streams, index, index.eliminated)
    XY = namespace(XY).by_rows(XY)
    found = row_factors(inner, XY, X.shape[1], groups_of(index))
    return Columns(rows, frame, whiteners, streams, found)


# Outside of a program of the caller's: one, in the place of one for each of 200 operations.
_program_of_rows = compiled(_layout_of_unchecked)


def _read_rows(
    y: Any, X: Any, Z: Any, weights: Any, index: Any
) -> tuple[Array, Array, tuple[Array, ...], Array]:
    """The rows as arrays of floats whose shapes fit each other and the index."""
    needed = "an index of the rows (lmm.row_index)"
    instance(index, "index", (GroupIndex, CrossedIndex, OfBuckets), needed)
    y, X, weights = (real_array(v, n) for v, n in ((y, "y"), (X, "X"), (weights, "weights")))
    if getattr(Z, "ndim", 0) == 3:
        raise DataError(f"Z is an array of shape {Z.shape}: pass a sequence, one a term, (Z,)")
    blocks = [real_array(z, f"Z[{t}]") for t, z in enumerate(items(Z, "Z"))]
    sizes = tuple(z.shape[-1] if z.ndim == 3 else -1 for z in blocks)
    n = y.shape[0] if y.ndim == 1 else -1
    needed_sizes = tuple(k for k in index.sizes if k)  # residual covariances have none
    lengths = {len(v) if v.ndim else -1 for v in (X, weights, *blocks)}
    if X.ndim != 2 or weights.ndim != 1 or sizes != needed_sizes or lengths != {n}:
        got = ", ".join(str(tuple(v.shape)) for v in (y, X, *blocks, weights))
        raise DataError(
            f"y, X, Z and weights have the shapes {got}: (n,), (n, p), (n, S, k) for terms of "
            f"{needed_sizes} coefficients, and (n,) are needed"
        )
    asked = index.n_rows - isinstance(index, OfBuckets)  # one more, for places without a row
    if n != asked:
        raise DataError(f"{n} rows are given, and the index is one of {asked}")
    return y, X, tuple(blocks), weights
