"""Random effects given y, as pure functions of the parameters and of a layout."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array

from ..capabilities import require
from ..covariance.params import Params
from ..errors import DataError
from ..inputs.arguments import flag, hinted, instance
from ..layouts.crossed.index import CrossedIndex
from ..layouts.crossed.layout import CrossedLayout
from ..layouts.group_index import GroupIndex, Table
from ..layouts.grouped import GroupedLayout
from ..numerics.linalg import exact
from ..numerics.namespace import traced_once
from ..numerics.processes import check_process
from .coordinates import as_params, check_layout, inner_beta, relative_blocks
from .profile import profile_waist

Index = GroupIndex | CrossedIndex


@hinted
@exact
def get_random_effects(
    params: Params | Array,
    layout: GroupedLayout | CrossedLayout,
    index: Index,
    *,
    profile_fe: bool = True,
    sqrt: bool = False,
) -> tuple[Array, ...]:
    """Conditional means (BLUPs) of the random effects that every row belongs to.

        b = Psi Z' V^-1 (y - X beta)        V = W^-1 + Z Psi Z'

    Parameters
    ----------
    params : Params or Array
        As in :func:`lmm_jax.loglike`: covariances relative to the residual variance.
    layout : GroupedLayout or CrossedLayout
    index : GroupIndex or CrossedIndex
        Of the rows that the layout is compressed from.
    profile_fe : bool
        Measure y from the GLS estimate of the fixed effects, whatever ``params`` holds
        there; otherwise from those of ``params``.
    sqrt : bool
        A packed vector is in the square-root parameterization.

    Returns
    -------
    tuple of Array, shape (n, S, k)
        Of every term, like the Z that :func:`lmm_jax.compress` takes: ``sum(Z * b, axis=(1, 2))``
        is the random part of each row. Differentiable in ``params`` and in the rows, at
        singular covariances too. Rows of weight zero get the effects of their levels,
        which other rows tell of: rows to predict are among the rows, and weigh nothing.

    Raises
    ------
    DataError
        A model with a residual covariance, or an index of other groups than the layout's. That
        the rows are others which the groups share alike cannot be seen.

    References
    ----------
    Robinson (1991), That BLUP is a good thing, doi:10.1214/ss/1177011926.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, lmm_jax as lmm
    >>> data = lmm.load_dataset("dyestuff")
    >>> index = lmm.row_index(data["Batch"])
    >>> with jax.enable_x64(True):
    ...     y = jnp.asarray(data["Yield"].to_numpy(), float)
    ...     one = jnp.ones_like(y)
    ...     layout = lmm.compress(y, one[:, None], (one[:, None, None],), one, index)
    ...     (b,) = lmm.get_random_effects(lmm.fit_params(layout).params, layout, index)
    ...     print(b[::5, 0, 0].round(1))
    [-17.6   0.4  28.6 -23.1  56.7 -45. ]
    """
    check_process()
    known = _of_index(require(check_layout(layout), "get_random_effects"), index)
    profile_fe = flag(profile_fe, "profile_fe")
    params = as_params(params, known, with_fe=not profile_fe, sqrt=sqrt)
    return _random_effects(params, known, index, profile_fe=profile_fe)


def _of_index(layout: Any, index: Index) -> GroupedLayout | CrossedLayout:
    """The layout, if the index is one of its shapes."""
    needed = "the index (lmm.row_index) of the rows that the layout is made of"
    instance(index, "index", (GroupIndex, CrossedIndex), needed)
    if _shapes_of_index(index) != _shapes_of_layout(layout):
        raise DataError(f"index is that of other rows than the layout's: pass {needed}")
    known: GroupedLayout | CrossedLayout = layout
    return known


def _shapes_of_index(index: Index) -> tuple[Any, ...]:
    groups = index.groups if isinstance(index, CrossedIndex) else index
    buckets = tuple(zip(groups.widths, groups.n_groups, strict=True))
    if not isinstance(index, CrossedIndex):
        return index.structures, buckets
    core = index.eliminated, index.crossed, index.core_widths, index.n_blocks
    return index.structures, buckets, *core


def _shapes_of_layout(layout: Any) -> tuple[Any, ...]:
    buckets = tuple((bucket.widths, bucket.T.shape[2]) for bucket in layout.buckets)
    if not isinstance(layout, CrossedLayout):
        return layout.structures, buckets
    core = layout.eliminated, layout.crossed, layout.core.widths, layout.core.S.shape[2]
    return layout.structures, buckets, *core


@partial(traced_once, static="profile_fe")
@exact
def _random_effects(
    params: Params, layout: GroupedLayout | CrossedLayout, index: Index, *, profile_fe: bool
) -> tuple[Array, ...]:
    blocks = relative_blocks(params, layout)
    if profile_fe:
        beta = profile_waist(layout.waist(blocks), layout, reml=False).beta
    else:
        beta = inner_beta(params.fe_params, layout)
    means = layout.conditional_means(blocks, jnp.append(-beta, 1.0))
    of_streams = of_rows(means, index)
    out = []
    for t, A in enumerate(layout.whiteners):
        own = [b for b, stream in zip(of_streams, index.streams, strict=True) if stream == t]
        out.append(layout.y_scale * (jnp.stack(own, axis=1) @ A.T))
    return tuple(out)


def of_rows(means: tuple[Array, ...], index: Index) -> list[Array]:
    """Effects of the level of each row, (n, k) a stream, from those of buckets and core."""
    if not isinstance(index, CrossedIndex):
        pairs = zip(index.levels, index.streams, strict=True)
        return [_of_table(means, table, index.sizes[t]) for table, t in pairs]
    inner, rows, out = iter(index.groups.levels), iter(index.rows), []
    for t in index.streams:
        k = index.sizes[t]
        if t in index.eliminated:
            out.append(_of_table(means[:-1], next(inner), k))
        else:
            at = _of_level(next(rows), k)
            out.append(means[-1][at, jnp.asarray(index.block)[:, None]])
    return out


def _of_table(means: tuple[Array, ...], table: Table, k: int) -> Array:
    """The same of one stream of the groups."""
    if not table.placements:  # cell i is group i of the only bucket
        return means[0][table.row : table.row + k].T[table.cell]
    cells = jnp.zeros((table.n_cells, k), means[0].dtype)
    for b, place in zip(means, table.placements, strict=True):
        at = _of_level(place.row, k)
        there = jnp.asarray(place.group)[:, None]  # past the end: no group
        cells = cells.at[place.source].add(b.at[at, there].get(mode="fill", fill_value=0.0))
    return cells[table.cell]


def _of_level(first: Any, k: int) -> Array:
    """Places of the k coefficients of levels, (L, k), from those of the first ones."""
    return jnp.asarray(first)[:, None] + jnp.arange(k, dtype=first.dtype)[None]
