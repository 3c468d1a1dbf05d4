"""The index that :func:`lmm_jax.compress` needs, from the group labels of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from ..covariance.structures import unstructured
from ..errors import DataError
from ..inputs.arguments import hinted, is_whole, shown, whole_number
from ..inputs.arrays import plain
from ..inputs.matching import distinct
from ..inputs.series import settled
from ..layouts.compress import RowIndex
from ..layouts.crossed.index import CrossedIndex
from ..layouts.group_index import GroupIndex, Table
from ..layouts.plan import plan_layout
from ..layouts.residual.index import OfBuckets
from ..layouts.sparse.index import SparsePlan
from .design import Design
from .terms import connected_rows

_WITHOUT_INDEX = {
    "related": "the layout of related levels is no function of an index of the rows: use "
    "design.layout",
    "sparse": "the levels of these crossed factors meet few others: their matrices are kept "
    "sparse, which no JAX program makes of rows: use lmm.fit, or row_index of labels",
    "approximate": "these crossed factors are fitted approximately, without a matrix that a "
    "program could make of rows: use lmm.fit, or row_index of labels",
}


@hinted
def row_index(groups: Any, sizes: int | Sequence[int] = 1, *, n_components: int = 0) -> RowIndex:
    """Bookkeeping of the rows, for :func:`lmm_jax.compress`.

    Parameters
    ----------
    groups : array of shape (n,), sequence of such arrays, or Design
        Labels of the rows' groups, one array a term; an array of shape (n, S)
        for a term of which every row belongs to S levels. A design gives the
        index of its own rows, terms and residual covariance.
    sizes : int or sequence of int
        Coefficients per level of each term; the covariates themselves are
        arguments of ``compress``. Not together with a design.
    n_components : int
        How many of the last terms are variance components.

    Returns
    -------
    GroupIndex, CrossedIndex, ResidualIndex, ChainIndex or SubjectIndex
        A pytree of NumPy arrays for exactly n rows: close over it, or pass it
        to a compiled function. Two data sets share a compiled program where
        their indices have the same shapes.

    Raises
    ------
    DataError
        Labels that are missing or of different lengths, or sizes that do not
        fit the terms.

    Examples
    --------
    >>> import jax.numpy as jnp, lmm_jax as lmm
    >>> index = lmm.row_index(["a", "a", "b", "b"])
    >>> y, one = jnp.array([1.0, 2.0, 4.0, 3.0]), jnp.ones(4)
    >>> layout = lmm.compress(y, one[:, None], (one[:, None, None],), one, index)
    >>> print(f"{lmm.profile_loglike(jnp.array([1.0]), layout):.3f}")
    -5.122
    """
    if isinstance(groups, Design):
        for kind, why in _WITHOUT_INDEX.items():
            if groups._is_kind(kind):
                raise DataError(why)
        planned = groups.traceable_plan
        assert not isinstance(planned, SparsePlan)  # none of those kinds
        return _trimmed(planned.index, groups.nobs)
    factors = list(groups) if _is_sequence(groups) else [groups]
    if not factors:
        raise DataError("groups is empty: pass the group labels of the rows")
    coded = [_codes(labels, t) for t, labels in enumerate(factors)]
    codes, n_levels = [c for c, _ in coded], [n for _, n in coded]
    rows = {code.shape[0] for code in codes}
    if len(rows) > 1:
        raise DataError(f"the terms have {sorted(rows)} rows: one label a row is needed in each")
    sizes = _sizes(sizes, len(codes))
    n_components = whole_number(n_components, "n_components", most=len(codes))
    if any(k != 1 for k in sizes[len(codes) - n_components :]):
        raise DataError(f"a variance component has one coefficient a level: sizes={sizes}")
    component, count = connected_rows(codes, n_levels)
    names = [f"term {t}" for t in range(len(codes))]
    plan, _ = plan_layout(
        component, count, codes, n_levels, unstructured(sizes), names, n_components, traceable=True
    )
    assert not isinstance(plan, SparsePlan)  # which no traceable plan is
    return _trimmed(plan.index, codes[0].shape[0])


def _is_sequence(groups: Any) -> bool:
    """A list or tuple of arrays, rather than of labels."""
    return isinstance(groups, list | tuple) and (not groups or np.ndim(groups[0]) > 0)


def _codes(labels: Any, t: int) -> tuple[np.ndarray, int]:
    """Codes ``0 .. L - 1`` of one term, (n, S), and the number of its levels."""
    if isinstance(labels, jax.core.Tracer):
        raise DataError("groups must be known before tracing: make the index outside of jit")
    labels = plain(labels, f"term {t}")
    if labels.ndim not in (1, 2) or labels.size == 0:
        raise DataError(f"term {t}: labels of shape (n,) or (n, S) are needed, not {labels.shape}")
    codes, levels = distinct(settled(labels.ravel()), f"term {t}")
    if (codes < 0).any():
        raise DataError(f"term {t}: a group label is missing")
    try:
        order = np.argsort(np.asarray(levels))
    except TypeError as error:
        raise DataError(f"term {t}: the labels have no common order ({error})") from error
    places = np.empty_like(order)
    places[order] = np.arange(order.size)
    return places[codes].reshape(labels.shape[0], -1), len(levels)


def _sizes(sizes: int | Sequence[int], n_terms: int) -> tuple[int, ...]:
    given = (sizes,) * n_terms if not isinstance(sizes, Sequence) else tuple(sizes)
    if len(given) != n_terms or not all(is_whole(k) and 1 <= k < 2**15 for k in given):
        raise DataError(
            f"sizes={shown(sizes)}: the number of coefficients of each of the {n_terms} terms is "
            "needed"
        )
    return tuple(int(k) for k in given)


def _trimmed(index: RowIndex, n: int) -> RowIndex:
    """The index without the rows that round its length up."""
    if isinstance(index, OfBuckets):
        return replace(index, n_rows=n + 1)  # compress adds the one that weighs nothing
    if isinstance(index, CrossedIndex):
        rows = {
            name: jax.tree.map(lambda a: a[:n], getattr(index, name))
            for name in ("slots", "entries", "rows", "block")
        }
        return replace(index, groups=_trimmed_tables(index.groups, n), **rows)
    return _trimmed_tables(index, n)


def _trimmed_tables(index: GroupIndex, n: int) -> GroupIndex:
    def cut(tables: Sequence[Table]) -> tuple[Table, ...]:
        return tuple(replace(table, cell=table.cell[:n]) for table in tables)

    return replace(index, levels=cut(index.levels), pairs=cut(index.pairs))
