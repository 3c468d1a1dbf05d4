"""Known relatedness of the levels of a factor: relationship matrices with their ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
import scipy.sparse.csgraph
from scipy import linalg

from ..errors import DataError
from ..inputs.arguments import mapping
from ..inputs.arrays import numbers, plain
from ..inputs.matching import find, label_shown
from ..numerics.blocks import AnyMatrix, dense_block, is_sparse, members_of
from .relationship import Relationship
from .terms import RandomTerm

# Share of entries up to which a matrix is kept sparse.
_SPARSE = 0.1
# Differences between A and A' that are rounding, relative to the largest entry.
_ASYMMETRY = 1e-8
# Negative eigenvalues that are rounding of what was written down, relative to the mean diagonal.
_INDEFINITE = 1e-5
# Rows of a dense matrix that are compared with columns at a time.
_ROWS = 256
# Ids of a block of which an error names the smallest eigenvalue.
_MOST_EIGENVALUES = 2000


def related_terms(terms: Sequence[RandomTerm], relatedness: Any) -> list[RandomTerm]:
    """The terms with the relationships of their factors; their levels are then all of the ids.

    Parameters
    ----------
    terms : sequence of RandomTerm
    relatedness : mapping or None
        Grouping factor to a relationship matrix.

    Raises
    ------
    DataError
        A factor that the model has not; a matrix that is no covariance; rows whose label has no
        row in it.
    """
    if relatedness is None:
        return list(terms)
    given = mapping(relatedness, "relatedness")
    factors = dict.fromkeys(term.group for term in terms if not term.is_component)
    for name in given:
        if name not in factors:
            there = f"groups by {', '.join(map(repr, factors))}" if factors else "has none"
            raise DataError(
                f"relatedness names {label_shown(name)}, by which no random effect is grouped: the "
                f"model {there}"
            )
    read = {
        name: read_relationship(value, f"relatedness[{name!r}]") for name, value in given.items()
    }
    for term in terms:
        if term.group in given and not term.is_component:
            _check_named(given[term.group], term)
    return [
        _related(term, read[term.group]) if term.group in read and not term.is_component else term
        for term in terms
    ]


def _check_named(value: Any, term: RandomTerm) -> None:
    """Refuse a frame of which nobody has named the rows, where labels do not count from 0 either.

    Labels 1, 2, .. would be found among pandas' own 0, 1, .., each in its neighbour's row.
    """
    if not isinstance(value, pd.DataFrame):
        return
    counted = pd.RangeIndex(len(value))
    if not all(isinstance(ids, pd.RangeIndex) and ids.equals(counted)
               for ids in (value.index, value.columns)):  # fmt: skip
        return
    if (find(term.levels, counted[:1], term.group) < 0).all():
        raise DataError(
            f"relatedness[{term.group!r}] is a frame whose rows and columns have no names but "
            f"pandas' own 0, 1, ..., and no label of {term.group!r} is 0: which row is whose? Name "
            "them, pd.DataFrame(A, index=ids, columns=ids)"
        )


def _related(term: RandomTerm, relationship: Relationship) -> RandomTerm:
    places = find(relationship.ids, term.levels, term.group)
    lost = term.levels[places < 0]
    if len(lost):
        some = ", ".join(map(label_shown, lost[:5])) + (", ..." if len(lost) > 5 else "")
        raise DataError(
            f"relatedness[{term.group!r}] has no row for {len(lost)} of the {len(places)} labels "
            f"of {term.group!r} ({some}): add them, unrelated ones with 1 on the diagonal, or "
            "leave their rows out with subset="
        )
    if not relationship.diagonal[places].any():
        raise DataError(
            f"relatedness[{term.group!r}] has no variance for any id that has rows: their entries "
            "on its diagonal are 0"
        )
    return replace(
        term, levels=relationship.ids, codes=places[term.codes], relationship=relationship
    )


# ------------------------------------------------------------ reading


def read_relationship(value: Any, what: str) -> Relationship:
    """A relationship matrix with its ids, checked.

    Parameters
    ----------
    value : DataFrame, or tuple of matrix and labels
        A frame has the ids for its index and its columns, in any order, and may hold sparse
        columns; a matrix may be one of SciPy's sparse ones.
    what : str
        For messages.
    """
    if isinstance(value, pd.DataFrame):
        matrix, ids = _of_frame(value, what)
    elif isinstance(value, tuple) and len(value) == 2:
        matrix, ids = value[0], pd.Index(value[1], tupleize_cols=False)
        if isinstance(matrix, pd.DataFrame):
            matrix = matrix.to_numpy()
    else:
        kind = f"{type(value).__module__.split('.')[0]}.{type(value).__name__}"
        raise DataError(
            f"{what} is a {kind}: which row is whose? Pass a pandas.DataFrame with the ids for its "
            "index and columns, or a tuple of a matrix (dense or sparse) and the ids"
        )
    A = _numeric(matrix, what)
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        raise DataError(f"{what} has the shape {A.shape}: a square matrix is needed")
    _check_ids(ids, len(ids), A.shape[0], what)
    A = _symmetric(A, ids, what)
    diagonal = np.asarray(A.diagonal())
    family = _families(A)
    _check_definite(A, diagonal, family, what)
    return Relationship(ids=ids, matrix=A, diagonal=diagonal, family=family)


def _of_frame(frame: pd.DataFrame, what: str) -> tuple[Any, pd.Index[Any]]:
    """Matrix and ids of a frame, its columns in the order of its rows."""
    ids, columns = frame.index, frame.columns
    if ids.nlevels > 1 or columns.nlevels > 1:
        raise DataError(
            f"{what} has rows or columns with labels of several levels: name each by one label, "
            "A.index = A.columns = ids"
        )
    _check_ids(ids, len(ids), len(frame), what)
    if len(columns) != len(ids):
        raise DataError(f"{what} has the shape {frame.shape}: a square matrix is needed")
    places = find(columns, ids, what)
    if (places < 0).any():
        lost = label_shown(ids[int(np.argmin(places))])
        raise DataError(
            f"{what} has a row but no column for {lost}: index and columns need the same ids"
        )
    if all(isinstance(dtype, pd.SparseDtype) for dtype in frame.dtypes):
        columns_of: Any = frame.sparse
        matrix: Any = scipy.sparse.csr_array(columns_of.to_coo())
    else:
        matrix = frame.to_numpy()
    in_order = (places == np.arange(len(ids))).all()
    return (matrix if in_order else matrix[:, places]), ids


def _check_ids(ids: pd.Index[Any], n: int, rows: int, what: str) -> None:
    if n != rows:
        raise DataError(f"{what} has {rows} rows but {n} ids: one id a row is needed")
    if n == 0:
        raise DataError(f"{what} is empty")
    if np.any(ids.isna()):
        raise DataError(f"{what} has a missing id: name every row")
    if not ids.is_unique:
        raise DataError(f"{what} has the id {label_shown(ids[ids.duplicated()][0])} more than once")


def _numeric(matrix: Any, what: str) -> AnyMatrix:
    """Finite float64, sparse where it is mostly zeros."""
    if is_sparse(matrix):
        if matrix.dtype.kind not in "fiub":
            raise DataError(f"{what} has the type {matrix.dtype}: it must be numeric")
        A: Any = scipy.sparse.csr_array(matrix, dtype=np.float64)
        A.sum_duplicates()
        values = A.data
        if A.nnz > _SPARSE * A.shape[0] * A.shape[1]:
            A = A.toarray()
    else:
        A = values = numbers(plain(matrix, what), what)
    if not np.isfinite(values).all():
        raise DataError(f"{what} has a NaN or infinite value")
    if isinstance(A, np.ndarray) and A.ndim == 2 and np.count_nonzero(A) <= _SPARSE * A.size:
        A = scipy.sparse.csr_array(A)
    if is_sparse(A):
        A.eliminate_zeros()
    return A  # type: ignore[no-any-return]


def _symmetric(A: Any, ids: pd.Index[Any], what: str) -> AnyMatrix:
    """The matrix with differences of rounding between its triangles averaged."""
    worst, i, j = _widest_gap(A)
    if worst == 0.0:
        return A
    largest = float(abs(A).max()) if is_sparse(A) else max(float(A.max()), -float(A.min()))
    if worst > _ASYMMETRY * largest:
        raise DataError(
            f"{what} is not symmetric: {label_shown(ids[i])} and {label_shown(ids[j])} have "
            f"{A[i, j]:g} in one triangle and {A[j, i]:g} in the other"
        )
    mean: Any = A + A.T
    mean *= 0.5
    return scipy.sparse.csr_array(mean) if is_sparse(A) else mean  # type: ignore[no-any-return]


def _widest_gap(A: Any) -> tuple[float, int, int]:
    """The largest ``|A - A'|`` and its place; of a dense matrix with few rows in memory at once."""
    if is_sparse(A):
        gap = abs(A - A.T).tocoo()
        if not gap.nnz:
            return 0.0, 0, 0
        at = int(gap.data.argmax())
        i, j = (int(places[at]) for places in gap.coords)
        return float(gap.data[at]), i, j
    worst, i, j = 0.0, 0, 0
    for first in range(0, len(A), _ROWS):
        part = slice(first, first + _ROWS)
        own = np.abs(A[part] - A[:, part].T)
        if float(own.max()) > worst:
            row, j = divmod(int(own.argmax()), len(A))
            worst, i = float(own[row, j]), first + row
    return worst, i, j


def _families(A: AnyMatrix) -> np.ndarray:
    """Connected component of every id, related ones being connected, (L,)."""
    if is_sparse(A):
        return scipy.sparse.csgraph.connected_components(A, directed=False)[1].astype(np.int64)
    out = np.full(len(A), -1, dtype=np.int64)
    count = 0
    for first in range(len(A)):
        if out[first] >= 0:
            continue
        out[first], waiting = count, [first]
        while waiting:
            new = np.flatnonzero((A[waiting.pop()] != 0) & (out < 0))
            out[new] = count
            waiting += new.tolist()
        count += 1
    return out


def _check_definite(A: AnyMatrix, diagonal: np.ndarray, family: np.ndarray, what: str) -> None:
    """No negative eigenvalue beyond rounding, family by family."""
    slack = _INDEFINITE * float(np.mean(np.abs(diagonal)))
    if diagonal.min() < -slack or not diagonal.any():
        raise DataError(
            f"{what} has no variance on its diagonal: the smallest entry is {diagonal.min():g}"
        )
    for ids in members_of(family):
        if ids.size == 1:
            continue
        block = dense_block(A, ids, ids)
        block[np.arange(ids.size), np.arange(ids.size)] += slack
        try:
            # the transpose is the same matrix in LAPACK's order: no copy of it is made
            linalg.cholesky(block.T, overwrite_a=True, check_finite=False)
        except linalg.LinAlgError:
            least = ""
            if ids.size <= _MOST_EIGENVALUES:
                low = linalg.eigvalsh(dense_block(A, ids, ids), subset_by_index=[0, 0])[0]
                least = f" (its smallest eigenvalue is {low:.3g})"
            raise DataError(
                f"{what} is not positive semidefinite{least}, so it is no covariance: look for "
                "entries that are wrong, or move it to the nearest matrix that is"
            ) from None
