"""Rows of a fit by cluster, as stacks of small arrays that hold all a robust covariance needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ...designs.design import Design
from ...designs.latent_terms import latent_terms
from ...errors import DataError
from ...inputs.arrays import vector
from ...inputs.matching import distinct, label_shown
from ..estimates import Estimates
from .residuals import marginal_residuals
from .rows import noise_blocks, row_noise

# Numbers in the largest arrays of one stack of clusters (32 MiB).
_CHUNK = 1 << 22
# Numbers of a matrix of one cluster beyond which it is refused (1 GiB).
_MOST = 1 << 27


class Clusters(NamedTuple):
    """A partition of the rows between which the model has no correlation."""

    codes: np.ndarray  # (n,)  cluster of each row, from zero without gaps
    total: int
    name: str  # what the labels are: a factor, a column


class Stack(NamedTuple):
    """g clusters of n rows."""

    X: np.ndarray  # (g, n, p)
    e: np.ndarray  # (g, n)     y - offset - X beta, in units of sigma
    V: np.ndarray  # (g, n, n)  Cov(y_i) / sigma^2


def read_clusters(design: Design, labels: Any) -> Clusters:
    """Clusters of the rows, from labels or, for None, the independent groups of the model.

    Parameters
    ----------
    design : Design
    labels : array, shape (n,), Series, str, or None
        A series is looked up by the index of the rows that the fit used, so that a column of
        the data serves although some of its rows were left out. A string names a variable of
        the formula: a grouping factor, or one of the fixed effects.

    Raises
    ------
    DataError
        Not a label a row; missing labels; fewer than two clusters; rows in different clusters
        that share a random effect.
    """
    if labels is None:
        outer = {n: name for name, n in _factors(design).items()}
        found = Clusters(design.group_codes, design.n_groups, outer.get(design.n_groups, "groups"))
    else:
        found = _from_labels(design, labels)
    if found.total < 2:
        raise DataError(
            f"all rows belong to one cluster of {found.name}: a robust covariance is a sum over "
            "independent clusters, of which at least 2 are needed"
        )
    return found


def _factors(design: Design) -> dict[str, int]:
    """Factors that hold rows together, and how many levels they have."""
    out = {t.group: t.n_levels for t in design.terms if not t.is_component}
    residual = design.residual
    if residual is not None and residual.term.group:
        out[":".join(residual.term.group)] = residual.rows.n_subjects
    return out


def _from_labels(design: Design, labels: Any) -> Clusters:
    if isinstance(labels, str):
        labels = _column(design, labels)
    name = labels.name if isinstance(labels, pd.Series) and labels.name is not None else "cluster"
    values = vector(_on_rows(design, labels), "cluster", n=design.nobs, index=design.index)
    codes, levels = distinct(values, "cluster")
    if (codes < 0).any():
        row = label_shown(design.index[int(np.argmin(codes))])
        raise DataError(f"cluster is missing in rows of the fit, such as {row}: give it a label")
    first = np.zeros(design.n_groups, dtype=np.int64)
    first[design.group_codes] = codes
    apart = np.flatnonzero(first[design.group_codes] != codes)
    if apart.size:
        pair = codes[apart[0]], first[design.group_codes[apart[0]]]
        one, other = (label_shown(levels[code]) for code in pair)
        factors = ", ".join(_factors(design))
        kind = "random effects" if design.residual is None else "random effects or a subject"
        raise DataError(
            f"rows of the clusters {one} and {other} share {kind} ({factors}), and a "
            "robust covariance needs independent clusters: pass a cluster that contains the "
            "levels of all factors of the model"
        )
    return Clusters(codes, len(levels), str(name))


def _column(design: Design, name: str) -> pd.Series[Any]:
    """A variable of the formula in the rows that the fit used."""
    known = {t.group: t.levels[t.codes[:, 0]] for t in design.terms if not t.is_component}
    residual = design.residual
    if residual is not None and residual.subjects is not None:
        known[":".join(residual.term.group)] = residual.subjects[residual.rows.subject]
    if name in known:
        return pd.Series(known[name], design.index, name=name)
    rows = None if design.source is None else design.source.rows
    if rows is not None and name in rows.columns:
        return rows[name]
    listed = ", ".join([*known, *(() if rows is None else rows.columns)])
    raise DataError(
        f"cluster={name!r}: of the data the fit keeps what its formula names ({listed}); pass the "
        f"labels, data[{name!r}]"
    )


def _on_rows(design: Design, labels: Any) -> Any:
    """A column of the whole data at the rows that the fit used."""
    if not isinstance(labels, pd.Series) or labels.index.equals(design.index):
        return labels
    if labels.index.is_unique and design.index.is_unique and design.index.isin(labels.index).all():
        return labels.loc[design.index]
    return labels


def stacks(design: Design, estimates: Estimates, clusters: Clusters) -> Iterator[Stack]:
    """The rows of every cluster, clusters of one size together; the order is not kept.

    Where the rows of a cluster have one weight, they are rotated to the space that its ``[Z X]``
    span: orthogonal to it both ``Cov(y_i)`` and that of the residuals are the noise alone, and no
    sum over rows has a part. The stack then has at most q + p rows in the place of n.
    """
    X = design.free_exog()
    e = marginal_residuals(design, estimates) / np.sqrt(estimates.scale)
    noise = row_noise(design, estimates)
    for rows in rows_by_size(clusters):
        even = (noise[rows] == noise[rows][:, :1]).all(axis=1) & (design.residual is None)
        for some, short in ((rows[even], True), (rows[~even], False)):
            if not len(some):
                continue
            Z, n = effect_columns(design, estimates, some), rows.shape[1]
            _check_size(min(n, Z.shape[2] + X.shape[1]) if short else n, n, "rows")
            if short:
                yield _rotated(X[some], e[some], noise[some[:, 0]], Z)
            else:
                V = Z @ Z.transpose(0, 2, 1) + noise_blocks(design, estimates, some)
                yield Stack(X[some], e[some], V)


def rows_by_size(clusters: Clusters) -> Iterator[np.ndarray]:
    """Rows of clusters that have equally many, (g, n) each."""
    order = np.argsort(clusters.codes, kind="stable")
    sizes = np.bincount(clusters.codes, minlength=clusters.total)
    starts = np.cumsum(sizes) - sizes
    for n in np.unique(sizes):
        first = starts[sizes == n]
        step = max(1, _CHUNK // int(n * n))
        for at in range(0, len(first), step):
            yield order[first[at : at + step, None] + np.arange(n)]


def effect_columns(design: Design, estimates: Estimates, rows: np.ndarray) -> np.ndarray:
    """``Z_i Lambda`` of clusters, (g, n, q): the levels that a cluster has, padded by zeros."""
    g, n = rows.shape
    places = np.arange(g)[:, None], np.arange(n)[None, :]
    out = []
    for term, Lambda in zip(latent_terms(design), estimates.factors, strict=True):
        values = term.values[rows] @ Lambda
        keys = np.arange(g)[:, None, None] * term.n_levels + term.codes[rows]
        found, local = np.unique(keys, return_inverse=True)
        owner = found // term.n_levels
        rank = np.arange(len(found)) - np.searchsorted(owner, owner)
        local = rank[local.reshape(keys.shape)]
        _check_size((int(rank.max()) + 1) * values.shape[-1], n, f"effects of {term.group}")
        Z = np.zeros((g, n, int(rank.max()) + 1, values.shape[-1]))
        for s in range(local.shape[2]):
            Z[*places, local[:, :, s]] += values[:, :, s]
        out.append(Z.reshape(g, n, -1))
    return np.concatenate([np.zeros((g, n, 0)), *out], axis=2)


def _check_size(size: int, n: int, what: str) -> None:
    if size * n > _MOST:
        raise DataError(
            f"a robust covariance takes dense matrices of the rows of a cluster, {n:,}, by its "
            f"{size:,} {what}, and {_MOST:,} numbers are the most: pass finer clusters"
        )


def _rotated(X: np.ndarray, e: np.ndarray, noise: np.ndarray, Z: np.ndarray) -> Stack:
    """The rows in a basis of what ``[Z X]`` span, for clusters whose rows have one noise, (g,)."""
    if X.shape[1] > Z.shape[2] + X.shape[2]:
        Q = np.linalg.qr(np.concatenate([Z, X], axis=2))[0].transpose(0, 2, 1)
        X, e, Z = Q @ X, (Q @ e[..., None])[..., 0], Q @ Z
    V = Z @ Z.transpose(0, 2, 1) + noise[:, None, None] * np.eye(Z.shape[1])
    return Stack(X, e, V)
