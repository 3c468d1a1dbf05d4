"""Covariances of the residuals of single rows, whichever rows: those of a fit and new ones.

    Cov(y_i) = sigma^2 (N_i + Z_i Psi Z_i')        N = W^(-1/2) R W^(-1/2)

with R of :mod:`lmm_jax.covariance.residuals`, or the identity where a model has no residual
covariance. Rows of different subjects have none in common.

New rows of a subject that has been seen go on where its residuals have left off:

    e_new = A e_old + u        A = N_no N_oo^-1        Var(u) = sigma^2 (N_nn - A N_on)

with u independent of the rows of the fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse

from ...covariance.residuals import arms_of
from ...covariance.structures import Structure
from ...designs.design import Design
from ...layouts.residual.index import ResidualRows, check_dense
from ..estimates import Estimates

# Numbers in the largest arrays of one step over the rows (32 MiB).
_CHUNK = 1 << 22


class Carried(NamedTuple):
    """What residuals of the fit say of those of n new rows."""

    through: scipy.sparse.csr_array  # (n, rows of the fit)  A
    own: np.ndarray  # (n,)  variance of u, relative to sigma^2


def residual_thetas(theta: np.ndarray, structures: Sequence[Structure]) -> list[np.ndarray]:
    """Parameters of every residual covariance (one an arm) among those of a layout."""
    return [theta[..., at] for _, at in arms_of(structures)]


def row_thetas(design: Design, estimates: Estimates) -> list[np.ndarray]:
    """:func:`residual_thetas` of a fit to a design; none where it has no residual covariance."""
    if design.residual is None:
        return []
    every = (*design.structures, *design.residual.structures)
    return residual_thetas(estimates.theta_layout, every)


def correlated(rows: ResidualRows, thetas: Sequence[np.ndarray], at: np.ndarray) -> np.ndarray:
    """R of sets of rows, (G, n, n).

    Parameters
    ----------
    rows : ResidualRows
    thetas : sequence of ndarray, shape (m_a,)
        Of every arm.
    at : ndarray of int, shape (G, n)
        Numbers of the rows.
    """
    check_dense(at.shape[1])
    out = np.zeros((*at.shape, at.shape[1]))
    for a, inside, places, slopes in _by_arm(rows, at):
        R = rows.structures[a].matrix(thetas[a], places, slopes)
        out += np.where(inside, np.moveaxis(R, -1, 0), 0.0)
    return out


def correlated_tangents(
    rows: ResidualRows, thetas: Sequence[np.ndarray], at: np.ndarray
) -> np.ndarray:
    """Derivatives of :func:`correlated` in the parameters of all arms, (G, m, n, n)."""
    sizes = [len(phi) for phi in thetas]
    first = np.cumsum(sizes) - sizes
    out = np.zeros((len(at), sum(sizes), at.shape[1], at.shape[1]))
    for a, inside, places, slopes in _by_arm(rows, at):
        D = rows.structures[a].with_tangents(thetas[a], places, slopes)[1]
        D = np.where(inside[:, None], np.moveaxis(D, -1, 0), 0.0)
        out[:, first[a] : first[a] + sizes[a]] = D
    return out


def _by_arm(
    rows: ResidualRows, at: np.ndarray
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Arms that have rows in ``at``, and what the covariance of these is a function of.

    Pairs of rows of one subject, (G, n, n), places (d, n, G) and slopes (m_s, n, G).
    """
    subject, arm = rows.subject[at], rows.arm[at]
    together = subject[:, :, None] == subject[:, None]
    for a in range(len(rows.structures)):
        mine = arm == a
        if mine.any():
            own = np.where(mine, at, at[mine][0])  # others hold no place in it
            inside = together & mine[:, :, None] & mine[:, None]
            yield a, inside, _across(rows.places[:, own]), _across(row_slopes(rows, a, own))


def variances(rows: ResidualRows, thetas: Sequence[np.ndarray]) -> np.ndarray:
    """Diagonal of R of all rows, (n,)."""
    out = np.empty(rows.arm.size)
    for a, (structure, phi) in enumerate(zip(rows.structures, thetas, strict=True)):
        mine = np.flatnonzero(rows.arm == a)
        out[mine] = structure.variances(phi, row_slopes(rows, a, mine))
    return out


def _across(values: np.ndarray) -> np.ndarray:
    """Groups last, (k, G, n) to (k, n, G)."""
    return np.swapaxes(values, 1, 2)


def row_slopes(rows: ResidualRows, arm: int, at: np.ndarray) -> np.ndarray:
    """A of rows of an arm, ``s = A' phi`` their log standard deviations, (m_s, *at.shape)."""
    levels = None if rows.levels is None else rows.levels[at]
    x = None if rows.covariate is None else rows.covariate[at]
    return rows.structures[arm].spread.slopes(levels, x, at.shape)


def noise_draws(
    design: Design, thetas: Sequence[np.ndarray], n: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws of the residuals of a design in units of sigma, (rows, n).

    Parameters
    ----------
    design : Design
        With a residual covariance.
    thetas : sequence of ndarray, shape (m_a,)
        Of every arm.
    n : int
    rng : numpy.random.Generator
    """
    assert design.residual is not None  # the caller has looked
    rows = design.residual.rows
    z = rng.standard_normal((design.nobs, n))
    out = np.empty_like(z)
    counts = np.bincount(rows.subject, minlength=rows.n_subjects)
    order = np.argsort(rows.subject, kind="stable")
    first = np.cumsum(counts) - counts
    for size in np.unique(counts[counts > 0]).tolist():
        starts = first[counts == size]
        step = max(1, _CHUNK // (size * max(size, n)))
        for i in range(0, starts.size, step):
            at = order[starts[i : i + step, None] + np.arange(size)]
            out[at] = np.linalg.cholesky(correlated(rows, thetas, at)) @ z[at]
    return out if design.weights is None else out / np.sqrt(design.weights)[:, None]


def row_noise(design: Design, estimates: Estimates) -> np.ndarray:
    """Diagonal of N, the residual variance of every row relative to sigma^2, (n,)."""
    noise = np.ones(design.nobs)
    if design.residual is not None:
        noise = variances(design.residual.rows, row_thetas(design, estimates))
    return noise if design.weights is None else noise / design.weights


def noise_blocks(design: Design, estimates: Estimates, at: np.ndarray) -> np.ndarray:
    """N of sets of rows, (G, n, n).

    Parameters
    ----------
    design : Design
    estimates : Estimates
    at : ndarray of int, shape (G, n)
        Numbers of the rows.
    """
    if design.residual is None:
        return row_noise(design, estimates)[at][:, :, None] * np.eye(at.shape[1])
    N = correlated(design.residual.rows, row_thetas(design, estimates), at)
    if design.weights is None:
        return N
    root = np.sqrt(design.weights)[at]
    return np.asarray(N / (root[:, :, None] * root[:, None]))


def carried(
    design: Design, estimates: Estimates, new: ResidualRows, weights: np.ndarray | float
) -> Carried:
    """How new rows depend on the rows of the fit.

    A row of a subject that was not seen depends on none, and one at a place where its subject
    was seen is taken for another observation there.

    Parameters
    ----------
    design : Design
        With a residual covariance.
    estimates : Estimates
    new : ResidualRows
        Their subjects are those of the design, -1 for others.
    weights : ndarray, shape (n,), or float
    """
    assert design.residual is not None  # the caller has looked
    thetas, fitted = row_thetas(design, estimates), design.residual.rows
    weights = np.broadcast_to(weights, new.arm.shape)
    own = variances(new, thetas) / weights
    n, found = fitted.arm.size, ([], [], [])  # type: tuple[int, tuple[list[np.ndarray], ...]]
    every = fitted.followed_by(new)
    root = np.sqrt(np.append(design.row_weights, weights))
    for rows, before in _histories(fitted, new):
        at = np.column_stack([before, n + rows])
        N = correlated(every, thetas, at) / (root[at][:, :, None] * root[at][:, None])
        there = (every.places[:, before] == new.places[:, rows, None]).all(axis=0).any(axis=1)
        A = np.linalg.solve(N[:, :-1, :-1], N[:, :-1, -1:])[..., 0]
        A[there] = 0.0
        own[rows] -= np.sum(A * N[:, -1, :-1], axis=1)
        for part, values in zip(found, (A, np.repeat(rows, A.shape[1]), before), strict=True):
            part.append(values.ravel())
    values, row, column = (np.concatenate([np.zeros(0), *part]) for part in found)
    places = row.astype(np.int64), column.astype(np.int64)
    through = scipy.sparse.csr_array((values, places), shape=(own.size, n))
    return Carried(through, np.maximum(own, 0.0))


def _histories(fitted: ResidualRows, new: ResidualRows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """New rows, (k,), with those of the fit of their subjects, (k, n_o), of equal number.

    Where residuals depend on the last one and the next one in time, with these alone.
    """
    if all(s.correlation.is_markov(len(fitted.places)) for s in fitted.structures):
        yield from _neighbours(fitted, new)
        return
    order = np.argsort(fitted.subject, kind="stable")
    counts = np.bincount(fitted.subject, minlength=fitted.n_subjects)
    first = np.cumsum(counts) - counts
    size = np.where(new.subject < 0, 0, counts[new.subject])
    for n in np.unique(size[size > 0]):
        rows = np.flatnonzero(size == n)
        step = max(1, _CHUNK // int((n + 1) ** 2))
        for start in range(0, rows.size, step):
            some = rows[start : start + step]
            yield some, order[first[new.subject[some], None] + np.arange(n)]


def _neighbours(fitted: ResidualRows, new: ResidualRows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same with the last row of the fit up to every new row, and the first one after it."""
    n, m = fitted.subject.size, new.subject.size
    subject = np.append(fitted.subject, new.subject)
    order = np.lexsort((np.arange(n + m) >= n, np.append(fitted.places[0], new.places[0]), subject))
    old = order < n
    along, passed = order[old], np.cumsum(old)[~old]  # rows of the fit, and those up to a new row
    rows = order[~old] - n
    sides = np.column_stack([passed - 1, passed])
    inside = (sides >= 0) & (sides < n)
    found = along[np.clip(sides, 0, n - 1)]
    inside &= fitted.subject[found] == new.subject[rows, None]
    for which in ((True, True), (True, False), (False, True)):
        some = (inside == which).all(axis=1)
        if some.any():
            yield rows[some], found[some][:, which]
