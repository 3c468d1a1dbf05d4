"""Matrices of variance components as the caller gives them: over all rows, or group by group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse

from ..errors import DataError
from ..inputs.arrays import matrix as matrix_of
from ..inputs.arrays import plain
from ..inputs.matching import distinct, find, label_shown


def component_matrices(
    exog_vc: Any, groups: Any, index: pd.Index[Any]
) -> list[tuple[str, scipy.sparse.csr_array, list[str]]]:
    """Name, matrix over all rows and column names of every component, sorted by name.

    Parameters
    ----------
    exog_vc : mapping or object with names, colnames and mats
        Per component a matrix (n, K), or a mapping from group label to the
        matrix of that group's rows in their order.
    groups : array, shape (n,)
        Label of each row's group.
    index : pandas.Index
        Labels of the rows: a frame has to have the same.
    """
    if exog_vc is None:
        return []
    codes, levels = distinct(groups, "groups")
    out = []
    for name, part in sorted(_components(exog_vc, levels).items()):
        what = f"exog_vc[{name!r}]"
        if isinstance(part, Mapping):
            matrix, columns = _stack_groups(what, part, codes, levels)
        else:
            matrix, columns = _whole_matrix(what, part, index)
        if matrix.shape[0] != codes.size:
            raise DataError(f"{what} has {matrix.shape[0]} rows but endog has {codes.size}")
        if matrix.shape[1] == 0:
            raise DataError(f"{what} has no columns")
        out.append((name, matrix, columns))
    return out


def _components(exog_vc: Any, levels: pd.Index[Any]) -> dict[str, Any]:
    """Matrix, or matrices by group, of every component."""
    is_mapping = isinstance(exog_vc, Mapping)
    if not is_mapping and not (hasattr(exog_vc, "mats") and hasattr(exog_vc, "names")):
        raise DataError(
            f"exog_vc is a {type(exog_vc).__name__}: pass a mapping from names of components to "
            "their matrices"
        )
    named = [str(name) for name in (exog_vc if is_mapping else exog_vc.names)]
    if len(set(named)) < len(named):
        raise DataError(f"exog_vc names a component twice: {', '.join(named)}")
    if is_mapping:
        return dict(zip(named, exog_vc.values(), strict=True))
    if len(exog_vc.names) != len(exog_vc.mats):
        raise DataError(f"exog_vc has {len(exog_vc.names)} names for {len(exog_vc.mats)} mats")
    try:  # statsmodels lists the groups in this order
        levels = levels.sort_values()
    except TypeError as error:
        raise DataError("groups have no common order: pass exog_vc as a mapping") from error
    out = {}
    for name, mats in zip(exog_vc.names, exog_vc.mats, strict=True):
        if not isinstance(mats, Mapping) and len(mats) != len(levels):
            raise DataError(f"exog_vc[{name!r}] has {len(mats)} matrices for {len(levels)} groups")
        by_group = mats if isinstance(mats, Mapping) else dict(zip(levels, mats, strict=True))
        out[str(name)] = by_group
    return out


def _whole_matrix(
    what: str, part: Any, index: pd.Index[Any]
) -> tuple[scipy.sparse.csr_array, list[str]]:
    """A matrix over all rows, dense or sparse."""
    names = None
    if not scipy.sparse.issparse(part):
        if not hasattr(part, "columns") and (part := plain(part, what)).ndim != 2:
            raise DataError(f"{what} has the shape {part.shape}: use (n, K)")
        part, names = matrix_of(part, what, index=index)
    matrix = scipy.sparse.csr_array(part)
    if matrix.dtype.kind not in "fiub":
        raise DataError(f"{what} has the type {matrix.dtype}: it must be numeric, in real numbers")
    return matrix.astype(np.float64), list(names or map(str, range(matrix.shape[1])))


def _stack_groups(
    what: str, parts: Mapping[Any, Any], codes: np.ndarray, levels: pd.Index[Any]
) -> tuple[scipy.sparse.csr_array, list[str]]:
    """One sparse matrix from the matrices of the groups, columns numbered within groups."""
    rows, columns, values, widest = [], [], [], 0
    keys = list(parts)
    places = find(pd.Index(keys, tupleize_cols=False), levels, what)
    order = np.argsort(codes, kind="stable")[np.count_nonzero(codes < 0) :]
    counts = np.bincount(codes[order], minlength=len(levels))
    starts = np.cumsum(counts) - counts
    for label, place, start, count in zip(levels, places, starts, counts, strict=True):
        if place < 0:
            raise DataError(f"{what} has no matrix for the group {label_shown(label)}")
        part = parts[keys[place]]
        if not scipy.sparse.issparse(part):
            part = matrix_of(part, f"{what}[{label_shown(label)}]")[0]
        block = scipy.sparse.coo_array(part)
        if block.shape[0] != count:
            raise DataError(
                f"{what}[{label_shown(label)}] has {block.shape[0]} rows but the group {count}"
            )
        rows.append(order[start + block.row])
        columns.append(block.col)
        values.append(block.data)
        widest = max(widest, block.shape[1])
    matrix = scipy.sparse.coo_array(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
        shape=(codes.size, widest),
    )
    return scipy.sparse.csr_array(matrix), [str(c) for c in range(widest)]
