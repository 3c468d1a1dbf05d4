"""Relationship matrices from pedigrees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse

from ..errors import DataError
from ..inputs.arguments import flag, hinted, shown
from ..inputs.arrays import missing as missing_entries
from ..inputs.matching import distinct, find, label_shown, merged
from .data_frames import as_pandas

# What stands for an unknown parent beside missing values.
_UNKNOWN = ("", "0", "NA", ".")
# Individuals of a loop that an error names.
_MOST_NAMED = 10


@hinted
def relationship(
    pedigree: Any,
    *,
    id: str | None = None,
    sire: str = "sire",
    dam: str = "dam",
    inverse: bool = False,
) -> pd.DataFrame:
    """Additive relationships of the individuals of a pedigree, inbreeding included.

    Henderson's tabular rules, parents before their offspring:

        A_ij = (A_sj + A_dj) / 2        A_ii = 1 + A_sd / 2

    with s and d the parents of i, of which an unknown one counts as unrelated to all.

    Parameters
    ----------
    pedigree : data frame
        A row an individual, in any order.
    id : str, optional
        Column of the individuals; the first one beside those of the parents if not given.
    sire, dam : str
        Columns of the parents. Missing values, empty strings, 0, NA and a dot are unknown parents.
        Parents without a row of their own are founders. An individual may be both parents of
        another (selfing), and sire of one and dam of another.
    inverse : bool
        Give the inverse, by Henderson's rules for it: sparse columns. A itself is not made.

    Returns
    -------
    pandas.DataFrame, shape (L, L)
        Individuals in the order of the pedigree, for index and columns, then parents without a
        row. The diagonal is one plus the coefficient of inbreeding.

    Raises
    ------
    DataError
        An individual with two rows, or among its own ancestors; an inverse that does not exist,
        that of the offspring of completely inbred parents.

    References
    ----------
    Henderson (1976), doi:10.2307/2529339; Quaas (1976), doi:10.2307/2529279.

    Examples
    --------
    >>> import pandas as pd, lmm_jax as lmm
    >>> pedigree = pd.DataFrame(
    ...     {"id": ["a", "b", "c", "d"], "sire": ["", "", "a", "a"], "dam": ["", "", "b", "c"]}
    ... )
    >>> lmm.relationship(pedigree).loc["d"].tolist()
    [0.75, 0.25, 0.75, 1.25]
    """
    inverse = flag(inverse, "inverse")
    ids, parents = _read(as_pandas(pedigree, None), id, sire, dam)
    generations = _generations(ids, parents)
    if not inverse:
        A = _tabular(parents, np.concatenate(generations))
        return pd.DataFrame(A, index=ids, columns=ids)
    found = _inverse(parents, _parents_inbreeding(parents, generations), ids)
    sparse: Any = pd.DataFrame.sparse
    return sparse.from_spmatrix(found, index=ids, columns=ids)  # type: ignore[no-any-return]


def _read(
    frame: pd.DataFrame, id: str | None, sire: str, dam: str
) -> tuple[pd.Index[Any], np.ndarray]:
    """Individuals, and the places of their parents, (L, 2); -1: unknown."""
    for what, given in {"id": id, "sire": sire, "dam": dam}.items():
        if not isinstance(given, str | None):
            raise DataError(f"{what}={shown(given)}: a name of a column of the pedigree is needed")
    if id is None:
        others = [name for name in frame.columns if name not in (sire, dam)]
        id = str(others[0]) if others else "id"
    for name in (id, sire, dam):
        if not isinstance(name, str) or name not in frame.columns:
            raise DataError(
                f"the pedigree has no column {label_shown(name)} (its columns: "
                f"{', '.join(map(str, frame.columns))}): pass id=, sire= and dam="
            )
    if not len(frame):
        raise DataError("the pedigree has no rows")
    own = frame[id]
    unknown = _is_unknown(own)
    if unknown.any():
        raise DataError(
            f"the pedigree has a row without an individual (row {int(unknown.argmax())})"
        )
    codes, ids = distinct(own, id)
    if len(ids) < len(frame):
        twice = label_shown(ids[int(np.argmax(np.bincount(codes) > 1))])
        raise DataError(f"the pedigree has several rows for {twice}: one row an individual")
    for name in (sire, dam):
        named = frame[name][~_is_unknown(frame[name])]
        _, labels = distinct(named, name)
        if len(labels):
            new = labels[find(ids, labels, name) < 0]
            ids = merged(ids, new) if len(new) else ids
    parents = np.full((len(ids), 2), -1, dtype=np.int64)
    for j, name in enumerate((sire, dam)):
        known = np.flatnonzero(~_is_unknown(frame[name]))
        if known.size:
            parents[known, j] = find(ids, frame[name].iloc[known], name)
    return ids, parents


def _is_unknown(values: pd.Series[Any]) -> np.ndarray:
    """Missing values and what else stands for nobody."""
    missing = missing_entries(values, f"`{values.name}`")
    if pd.api.types.is_numeric_dtype(values.dtype):
        return missing | np.asarray((values == 0).fillna(False), dtype=bool)
    named = values.astype(str).str.strip()
    zero = values.astype(object).where(~missing, "") == 0  # of decimals, whatever their digits
    return missing | np.asarray(named.isin(_UNKNOWN) | zero)


def _generations(ids: pd.Index[Any], parents: np.ndarray) -> list[np.ndarray]:
    """Individuals with parents in earlier generations than their offspring."""
    done = np.zeros(len(ids) + 1, dtype=bool)
    done[-1] = True  # an unknown parent
    waiting, order = np.arange(len(ids)), []
    while waiting.size:
        ready = done[parents[waiting]].all(axis=1)
        if not ready.any():
            raise DataError(f"the pedigree has a loop: {_loop(ids, parents, waiting)}")
        order.append(waiting[ready])
        done[order[-1]] = True
        waiting = waiting[~ready]
    return order


def _loop(ids: pd.Index[Any], parents: np.ndarray, waiting: np.ndarray) -> str:
    """A loop in words: from one that waits to parents that wait, until one comes again."""
    stuck = np.zeros(len(ids) + 1, dtype=bool)
    stuck[waiting] = True
    at, path = int(waiting[0]), list[int]()
    while at not in path:
        path.append(at)
        at = int(next(p for p in parents[at] if stuck[p]))
    loop = ids[sorted(path[path.index(at) :])]
    if len(loop) == 1:
        return f"{label_shown(loop[0])} is its own parent"
    some = ", ".join(map(label_shown, loop[:_MOST_NAMED])) + ", ..." * (len(loop) > _MOST_NAMED)
    return f"{some} are among their own ancestors"


def _tabular(parents: np.ndarray, order: np.ndarray) -> np.ndarray:
    """A, (L, L), row by row."""
    L = len(parents)
    place = np.empty(L + 1, dtype=np.int64)
    place[order] = np.arange(L)
    place[-1] = L
    A = np.zeros((L + 1, L + 1))  # in the order of generations; the last: an unknown parent
    for i, (s, d) in enumerate(place[parents[order]].tolist()):
        A[i, :i] = 0.5 * (A[s, :i] + A[d, :i])
        A[:i, i] = A[i, :i]
        A[i, i] = 1.0 + 0.5 * A[s, d]
    return A[np.ix_(place[:-1], place[:-1])]


def _parents_inbreeding(parents: np.ndarray, generations: list[np.ndarray]) -> np.ndarray:
    """Coefficients of inbreeding of those that are parents, (L,); of the others zero.

    With ``A = T D T'``, where a row of T is half of the rows of the parents and one at its own
    place, and D are the variances given the parents: ``F_i = sum_j T_ij^2 D_j - 1``. Rows are
    kept until the last offspring has its own.
    """
    L = len(parents)
    number = np.empty(L, dtype=np.int64)
    for g, own in enumerate(generations):
        number[own] = g
    last = np.full(L + 1, -1)  # generation of the last offspring; the last entry: unknown parents
    np.maximum.at(last, parents, number[:, None])
    F, D, row = np.zeros(L), np.zeros(L), np.empty(L, dtype=np.int64)
    T, owner = scipy.sparse.csr_array((0, L)), np.empty(0, dtype=np.int64)
    for g, own in enumerate(generations):
        made = own[last[own] > g]
        row[owner] = np.arange(owner.size)
        child, which = np.nonzero(parents[made] >= 0)
        table = np.full(child.size, 0.5), (child, row[parents[made[child], which]])
        half = scipy.sparse.csr_array(table, shape=(made.size, owner.size))
        unit = np.ones(made.size), made, np.arange(made.size + 1)
        new = half @ T + scipy.sparse.csr_array(unit, shape=(made.size, L))
        D[made] = _own_variances(parents[made], F)
        F[made] = new.multiply(new) @ D - 1.0
        kept = last[owner] > g
        T = scipy.sparse.csr_array(scipy.sparse.vstack([T[kept], new]))
        owner = np.concatenate([owner[kept], made])
    return F


def _own_variances(parents: np.ndarray, inbreeding: np.ndarray) -> np.ndarray:
    """Variances given the parents, (m,) from (m, 2) and the inbreeding of all."""
    F = inbreeding[parents]
    return np.asarray(1.0 - np.sum(np.where(parents >= 0, 0.25 * (1.0 + F), 0.0), axis=1))


def _inverse(parents: np.ndarray, inbreeding: np.ndarray, ids: pd.Index[Any]) -> Any:
    """``(I - P / 2)' D^-1 (I - P / 2)``, P the parents and D the variances given them."""
    L = len(parents)
    known = parents >= 0
    D = _own_variances(parents, inbreeding)
    none = D < 1e-12
    if none.any():
        raise DataError(
            f"the relationships have no inverse: {label_shown(ids[int(none.argmax())])} has "
            "completely inbred parents, and no variance of its own"
        )
    child, which = np.nonzero(known)
    own = np.arange(L)
    table = (
        np.concatenate([np.ones(L), np.full(child.size, -0.5)]),
        (np.concatenate([own, child]), np.concatenate([own, parents[child, which]])),
    )
    W = scipy.sparse.csr_array(scipy.sparse.coo_array(table, shape=(L, L)))
    return scipy.sparse.csc_array(W.T @ (W.multiply((1.0 / D)[:, None])))
