"""The rows of independent groups under ``V^-1``: what functions of single rows are made of.

Rows are those of ``W^(1/2) [X y Z]`` in the layout's coordinates, so that within a group

    V = I + Z Psi Z'     V^-1 = I - S' S     S = L^-1 Lambda' Z'     L L' = I + Lambda' Z'Z Lambda

With a residual covariance R and its derivatives everything of the random effects holds for
``[Z, I]`` and ``diag(Psi, R)`` in the place of Z and Psi, whose derivatives then differ from
group to group; V and its inverse are dense matrices of the rows of a group.

Groups with as many rows and levels as each other are worked off side by side (NumPy). Random
effects that cross hold all rows together: one group, and dense matrices of its size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...covariance.structures import Structure
from ...covariance.theta import basis, factor_blocks, spread
from ...designs.design import Design
from ...designs.latent_terms import latent_terms
from ...errors import DataError
from ...layouts.group_algebra import psi_tangents
from ...layouts.residual.index import ResidualRows
from ..residuals.rows import correlated, correlated_tangents, residual_thetas

# Numbers of Z of one group up to which its dense matrices fit into memory.
_MOST = 1 << 25
# Numbers of Z of the groups that are worked off side by side: they stay in the cache.
_CHUNK = 1 << 17


class Rows(NamedTuple):
    """A model row by row, at one theta."""

    XY: np.ndarray  # (n, p + 1)  [X y] times root weights
    Z: tuple[np.ndarray, ...]  # (n, S, k) a term, times root weights
    level: tuple[np.ndarray, ...]  # (n, S) a term: level within the group
    widths: np.ndarray  # (G, T)  levels of each term in each group; 0 of residual structures
    group: np.ndarray  # (n,)
    theta: np.ndarray  # (m,)
    structures: tuple[Structure, ...]
    residual: ResidualRows | None  # None: independent, with one variance


class Dense(NamedTuple):
    """What correlated residuals make of G groups."""

    R: np.ndarray  # (G, n, n)
    precision: np.ndarray  # (G, n, n)  V^-1


class Alike(NamedTuple):
    """G independent groups with n rows and q random effects each; q + n with ``[Z, I]``."""

    groups: np.ndarray  # (G,)
    rows: np.ndarray  # (G, n)  their numbers
    S: np.ndarray  # (G, q, n); q = 0 where V^-1 is dense
    B: np.ndarray  # (G, n, P)  V^-1 [X y]
    U: np.ndarray  # (G, n, q)  V^-1 Z
    ZB: np.ndarray  # (G, q, P)  Z' V^-1 [X y]
    D: np.ndarray  # (m, q, q), or (G, m, q, q): dPsi / dtheta
    dlogdet: np.ndarray  # (G, m)
    gram: np.ndarray  # (G, P, P)  [X y]' V^-1 [X y]
    dense: Dense | None = None

    @property
    def dgram(self) -> np.ndarray:
        """Derivative of ``gram`` in theta, (G, m, P, P)."""
        ZB = self.ZB[:, None]
        return -np.swapaxes(ZB, -1, -2) @ self.D @ ZB

    @property
    def own_precision(self) -> np.ndarray:
        """``(V^-1)_jj`` of every row, (G, n)."""
        if self.dense is not None:
            return np.diagonal(self.dense.precision, axis1=1, axis2=2)
        return 1.0 - self._shared()

    def _shared(self) -> np.ndarray:
        """``1 - (V^-1)_jj`` where residuals are independent, (G, n)."""
        return np.einsum("gqn,gqn->gn", self.S, self.S)

    def precision_of(self, g: int, at: np.ndarray) -> np.ndarray:
        """``V^-1`` of some rows of group g, (rows, rows)."""
        if self.dense is not None:
            return self.dense.precision[g][np.ix_(at, at)]
        S = self.S[g][:, at]
        return np.eye(at.size) - S.T @ S

    def tangents_of(self, g: int) -> np.ndarray:
        """D of group g, (m, q, q)."""
        return self.D if self.D.ndim == 3 else self.D[g]

    def conditional(self) -> tuple[np.ndarray, np.ndarray]:
        """Diagonal of ``I - R P`` and ``R P y`` in standard coordinates, (G, n)."""
        B, r = self.B[..., :-1], self.B[..., -1]
        if self.dense is None:
            return self._shared() + np.sum(B**2, axis=-1), r
        R = self.dense.R
        P = self.dense.precision - B @ np.swapaxes(B, 1, 2)
        return 1.0 - np.sum(R * P, axis=-1), (R @ r[..., None])[..., 0]

    def turned(self, T: np.ndarray) -> Alike:
        """The same of ``[X y] T``."""
        gram = T.T @ self.gram @ T
        return self._replace(B=self.B @ T, ZB=self.ZB @ T, gram=gram)


class Standard(NamedTuple):
    """The whole model at the fit, in coordinates ``[X y] T`` where ``gram`` is the identity."""

    T: np.ndarray  # (P, P)
    parts: tuple[Alike, ...] | None  # None: too many to keep, made again
    rows: Rows
    dlogdet: np.ndarray  # (m,)
    dgram: np.ndarray  # (m, P, P)
    rss: float  # in units of y_scale^2

    def groups(self) -> Iterator[Alike]:
        """All groups, in these coordinates."""
        for part in self.parts if self.parts is not None else alike(self.rows):
            yield part.turned(self.T)


def rows_of(design: Design, theta: np.ndarray) -> Rows:
    """Rows in the coordinates of the layout, whose columns are orthonormal."""
    layout = design.compressed.layout
    known = design.known_part()
    y = design.endog if known is None else design.endog - known
    X, root = design.free_exog(), np.ones(design.nobs)
    if design.weights is not None:
        root = np.sqrt(design.weights)
    y = (y - X @ np.asarray(layout.beta_shift)) - X @ np.asarray(layout.beta_origin)
    XY = np.column_stack([X @ np.asarray(layout.beta_map), y / float(layout.y_scale)])
    n_structures = len(layout.structures)
    Z, levels, widths = [], [], np.zeros((design.n_groups, n_structures), np.int64)
    # residual covariances come last, without coefficients
    pairs = zip(latent_terms(design), layout.whiteners, strict=False)
    for t, (term, A) in enumerate(pairs):
        owner = np.zeros(term.n_levels, np.int64)
        owner[term.codes] = design.group_codes[:, None]
        count = np.bincount(owner, minlength=design.n_groups)
        place = np.empty(term.n_levels, np.int64)
        order = np.argsort(owner, kind="stable")
        first = np.cumsum(count) - count
        place[order] = np.arange(term.n_levels) - first[owner[order]]
        Z.append(term.values @ np.asarray(A) * root[:, None, None])
        levels.append(place[term.codes])
        widths[:, t] = count
    return Rows(
        XY=XY * root[:, None],
        Z=tuple(Z),
        level=tuple(levels),
        widths=widths,
        group=design.group_codes,
        theta=theta,
        structures=layout.structures,
        residual=None if design.residual is None else design.residual.rows,
    )


def alike(rows: Rows) -> Iterator[Alike]:
    """All groups, those of one shape side by side."""
    order = np.argsort(rows.group, kind="stable")
    count = np.bincount(rows.group, minlength=len(rows.widths))
    first = np.cumsum(count) - count
    shapes, which = np.unique(np.column_stack([count, rows.widths]), axis=0, return_inverse=True)
    for i, (n, *widths) in enumerate(shapes.tolist()):
        groups = np.flatnonzero(which.reshape(-1) == i)
        q = sum(s.k * w for s, w in zip(rows.structures, widths, strict=True))
        dense = 0 if rows.residual is None else rows.theta.size * (q + n) ** 2
        _check_size(n, q, dense)
        step = max(1, _CHUNK // max(1, n * (q + rows.XY.shape[1]) + dense))
        for start in range(0, groups.size, step):
            chosen = groups[start : start + step]
            at = order[first[chosen][:, None] + np.arange(n)]
            of_shape = _one_shape if rows.residual is None else _one_dense_shape
            yield of_shape(rows, chosen, at, widths)


def _check_size(n: int, q: int, dense: int) -> None:
    """Refuse a group of n rows, q effects, and so many numbers in derivatives of its own."""
    if dense > _MOST:
        raise DataError(
            f"{n} rows depend on each other by the residual covariance, too many for the "
            "derivatives of their covariance: fit again without the rows in question"
        )
    if n * max(q, n // 64) > _MOST:
        raise DataError(
            f"the random effects connect {n} rows by {q} effects, too many for dense matrices of "
            "that size: leave out a factor, or fit again without the rows in question"
        )


def _one_shape(rows: Rows, groups: np.ndarray, at: np.ndarray, widths: Sequence[int]) -> Alike:
    """Groups whose rows have the numbers ``at``, (G, n)."""
    Lambda = spread(factor_blocks(rows.theta, rows.structures), widths)
    D: Any = psi_tangents(Lambda, basis(rows.theta, rows.structures, widths))
    Z = _joint_design(rows, at, widths, len(Lambda))
    XY = rows.XY[at]
    ZL = Z @ Lambda
    A = np.swapaxes(ZL, 1, 2) @ ZL
    A[:, np.arange(len(Lambda)), np.arange(len(Lambda))] += 1.0
    L = np.linalg.cholesky(A)
    S = np.linalg.solve(L, np.swapaxes(ZL, 1, 2))
    St = np.swapaxes(S, 1, 2)
    B, U = XY - St @ (S @ XY), Z - St @ (S @ Z)
    Zt = np.swapaxes(Z, 1, 2)
    gram = np.swapaxes(XY, 1, 2) @ B
    return Alike(
        groups=groups,
        rows=at,
        S=S,
        B=B,
        U=U,
        ZB=Zt @ B,
        D=D,
        dlogdet=np.einsum("gab,kab->gk", Zt @ U, D),
        gram=0.5 * (gram + np.swapaxes(gram, 1, 2)),
    )


def _one_dense_shape(
    rows: Rows, groups: np.ndarray, at: np.ndarray, widths: Sequence[int]
) -> Alike:
    """The same with a residual covariance."""
    assert rows.residual is not None  # the caller has looked
    Lambda = spread(factor_blocks(rows.theta, rows.structures), widths)
    thetas = residual_thetas(rows.theta, rows.structures)
    R, dR = (f(rows.residual, thetas, at) for f in (correlated, correlated_tangents))
    (G, n), q, m = at.shape, len(Lambda), rows.theta.size
    D = np.zeros((G, m, q + n, q + n))
    D[:, :, :q, :q] = psi_tangents(Lambda, basis(rows.theta, rows.structures, widths))
    D[:, m - dR.shape[1] :, q:, q:] = dR
    Z, XY = _joint_design(rows, at, widths, q), rows.XY[at]
    ZL = Z @ Lambda
    precision = np.linalg.inv(R + ZL @ np.swapaxes(ZL, 1, 2))
    precision = 0.5 * (precision + np.swapaxes(precision, 1, 2))
    T = np.concatenate([Z, np.broadcast_to(np.eye(n), (G, n, n))], axis=2)
    B, U = precision @ XY, precision @ T
    gram = np.swapaxes(XY, 1, 2) @ B
    return Alike(
        groups=groups,
        rows=at,
        S=np.zeros((G, 0, n)),
        B=B,
        U=U,
        ZB=np.swapaxes(T, 1, 2) @ B,
        D=D,
        dlogdet=np.einsum("gab,gkab->gk", np.swapaxes(T, 1, 2) @ U, D),
        gram=0.5 * (gram + np.swapaxes(gram, 1, 2)),
        dense=Dense(R, precision),
    )


def _joint_design(rows: Rows, at: np.ndarray, widths: Sequence[int], q: int) -> np.ndarray:
    """Z of all terms and levels side by side, (G, n, q)."""
    out = np.zeros((*at.shape, q))
    g, i = np.arange(len(at))[:, None, None], np.arange(at.shape[1])[:, None]
    offset = 0
    for Z, level, width in zip(rows.Z, rows.level, widths, strict=False):
        k = Z.shape[2]
        for s in range(Z.shape[1]):
            column = offset + k * level[at, s][..., None] + np.arange(k)
            out[g, i, column] += Z[at, s]
        offset += k * width
    return out


def standardized(design: Design, theta: np.ndarray) -> Standard:
    """The model at the layout's theta: ``X' V^-1 X`` the identity, y a residual of length one."""
    rows = rows_of(design, theta)
    P, m = rows.XY.shape[1], rows.theta.size
    gram, dgram, dlogdet = np.zeros((P, P)), np.zeros((m, P, P)), np.zeros(m)
    kept: list[Alike] | None = []
    numbers = 0
    for part in alike(rows):
        gram += part.gram.sum(axis=0)
        dgram += part.dgram.sum(axis=0)
        dlogdet += part.dlogdet.sum(axis=0)
        numbers += 2 * part.U.size + part.B.size + (part.D.size if part.dense else 0)
        if kept is not None:
            kept = None if numbers > _MOST else [*kept, part]
    L = np.linalg.cholesky(gram[:-1, :-1])
    z = np.linalg.solve(L, gram[:-1, -1])
    rss = float(gram[-1, -1] - z @ z)
    T = np.zeros((P, P))
    T[:-1, :-1] = np.linalg.inv(L).T
    T[:, -1] = np.append(-T[:-1, :-1] @ z, 1.0) / np.sqrt(rss)
    parts = None if kept is None else tuple(kept)
    return Standard(T, parts, rows, dlogdet, T.T @ dgram @ T, rss)


class ConditionalFit(NamedTuple):
    """Rows on the conditional fit, ``X beta + Z b`` with the BLUPs."""

    hat: np.ndarray  # (n,)  diagonal of d fitted / d y at given theta
    z: np.ndarray  # (n,)  residuals times root weights over root(rss): standard coordinates


def conditional_fit(whole: Standard) -> ConditionalFit:
    """Hat values ``(I - R P)_jj`` and residuals ``(R P y)_j`` of all rows."""
    n = whole.rows.group.size
    out = ConditionalFit(np.zeros(n), np.zeros(n))
    for part in whole.groups():
        out.hat[part.rows], out.z[part.rows] = part.conditional()
    return out
