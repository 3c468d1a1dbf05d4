"""Rows of subjects who share random effects: whitened subject by subject.

With ``R_s = U_s' U_s`` of a subject, ``E = U^-T A`` of the rows ``A = [Z X y]``. With
``F = R^-1 A`` the derivatives of ``G = A' R^-1 A`` in the parameters of R are

    dG_k = -F' R_k F          d2 G_kl = F' (R_k R^-1 R_l + R_l R^-1 R_k - R_kl) F

summed over the subjects of a group; see :mod:`lmm_jax.layouts.residual.integrated`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax
from jax import Array

from ...covariance.residuals import residual_of
from ...covariance.structures import Structure
from ...numerics.linalg import eliminate, group_product
from ...numerics.namespace import namespace
from ...reprs import brief
from ..group_algebra import logdet_of, weighted
from ..response import OfResponse
from .bucket import of_groups, of_patterns, pair_traces, traces
from .integrated import WhitenedRows


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SubjectBucket(OfResponse):
    """Groups of one arm and as many places for subjects in each, N = G M in all.

    Places of rows, and of subjects, that are not there hold zeros.
    """

    c: Array  # (d, w, N)  [Z X y]; w = q + p + 1; subjects of a group are next to each other
    owner: Array | None  # (N,)  pattern of every subject; None: each has its own, D = N
    present: Array  # (d, D)  1 where there is a row, otherwise 0
    copies: Array  # (D,)  subjects of a pattern
    places: Array  # (., d, g), g is 1 where all share their places, otherwise D
    slopes: Array  # (m_s, d, g)
    widths: tuple[int, ...] = field(metadata={"static": True})  # levels of each term in a group
    arm: int = field(metadata={"static": True})
    n_groups: int = field(metadata={"static": True})  # G
    _array: ClassVar[str] = "c"

    __repr__ = brief


class SubjectRows(NamedTuple):
    """The rows of a bucket at one theta."""

    root: Array  # (d, d, D)  U^-T on the rows that are there
    inverse: Array  # (d, d, D)  R^-1 on these
    F: Array  # (d, w, N)  R^-1 A


def factor_of(theta: Array, structures: tuple[Structure, ...], at: SubjectBucket) -> Any:
    """``R = U' U`` of every pattern and ``U^-T`` on the rows that are there, (d, d, D) each."""
    xp, d = namespace(theta, at.c), at.c.shape[0]
    residual, own = residual_of(structures, at.arm)
    places = xp.stop_gradient(at.places)
    eye, there = xp.eye(d, dtype=at.c.dtype)[:, :, None], at.present
    R = residual.matrix(theta[own], places, at.slopes) * (there[:, None] * there[None])
    R = R + eye * (1.0 - there)[:, None]
    return R, *eliminate(R, eye * there[:, None])


def whitened(
    theta: Array, structures: tuple[Structure, ...], at: SubjectBucket, q: int
) -> WhitenedRows:
    """The rows whitened, behind q columns of random effects."""
    xp = namespace(theta, at.c)
    R, U, root = factor_of(theta, structures, at)
    E = _times(root, at.c, at)
    across = xp.swapaxes(root, 0, 1)
    wide = in_groups(E, at)
    lost = (xp.diagonal(R) / xp.diagonal(U) ** 2).T  # (d, D)
    share = of_patterns(xp.moveaxis(E[:, q:] ** 2, 1, 0), at)  # (C, d, D)
    return WhitenedRows(
        own=SubjectRows(root, group_product(root, root), _times(across, E, at)),
        G=wide @ xp.swapaxes(wide, 1, 2),
        log_R=logdet_of(U, at.copies),
        lost=xp.sum(lost * at.copies[None]),
        squares=xp.sum(xp.sum(share * lost[None], axis=2), axis=1),
    )


def in_groups(rows: Array, at: SubjectBucket) -> Array:
    """Rows (d, k, N) of subjects as columns of their groups, (G, k, M d)."""
    xp, (d, k, N) = namespace(rows), rows.shape
    each = rows.reshape(d, k, at.n_groups, N // at.n_groups)
    return xp.moveaxis(each, (2, 1, 3, 0), (0, 1, 2, 3)).reshape(at.n_groups, k, -1)


def _in_subjects(columns: Array, at: SubjectBucket) -> Array:
    """The way back, (G, k, M d) to (d, k, N)."""
    xp, d = namespace(columns), at.c.shape[0]
    G, k, _ = columns.shape
    each = columns.reshape(G, k, at.c.shape[2] // G, d)
    return xp.moveaxis(each, (3, 1, 0, 2), (0, 1, 2, 3)).reshape(d, k, at.c.shape[2])


def _times(A: Array, rows: Array, at: SubjectBucket) -> Array:
    """``A_s rows_s`` of every subject, A by pattern (a, d, D) or one for all, (a, d, 1)."""
    xp = namespace(A, rows)
    if A.shape[-1] == 1:
        d, k, N = rows.shape
        return (A[:, :, 0] @ rows.reshape(d, k * N)).reshape(A.shape[0], k, N)
    return group_product(xp.swapaxes(of_groups(A, at), 0, 1), rows)


def tangents_of(theta: Array, structures: tuple[Structure, ...], at: SubjectBucket) -> Array:
    """``R_k`` in the arm's own parameters, (m, d, d), or (m, d, d, D)."""
    residual, own = residual_of(structures, at.arm)
    D = residual.with_tangents(theta[own], at.places, at.slopes)[1]
    return D[..., 0] if D.shape[-1] == 1 else D


def _each(D: Array) -> list[Array]:
    """Derivatives one by one, (d, d, 1) or (d, d, D)."""
    return [D[k][..., None] if D.ndim == 3 else D[k] for k in range(D.shape[0])]


def _forms(matrices: list[Array], at: SubjectBucket, own: SubjectRows) -> Array:
    """``F' A F`` summed over the subjects of every group, (len(matrices), G, w, w)."""
    xp, F = namespace(own.F), own.F
    wide = in_groups(F, at)
    parts = [wide @ xp.swapaxes(in_groups(_times(A, F, at), at), 1, 2) for A in matrices]
    w = F.shape[1]
    return xp.stack(parts) if parts else xp.zeros((0, at.n_groups, w, w), F.dtype)


def slopes_of_gram(D: Array, at: SubjectBucket, own: SubjectRows) -> Array:
    """``dG``, (m, G, w, w), of derivatives ``R_k``."""
    return -_forms(_each(D), at, own)


def slopes_of_log(D: Array, at: SubjectBucket, own: SubjectRows) -> Array:
    """Derivatives of ``log|R|``, (m,)."""
    return traces(weighted(own.inverse, at.copies), D)


def bend(
    theta: Array, Q: Array, structures: tuple[Structure, ...], at: SubjectBucket, own: SubjectRows
) -> Array:
    """``sum <Q_i, d2 G_i> + d2 log|R_i|`` in the arm's own parameters, (m, m).

    Parameters
    ----------
    theta : Array, shape (m,)
    Q : Array, shape (G, w, w)
        Symmetric.
    structures, at, own
        As in the other functions.
    """
    xp = namespace(theta, Q, own.F)
    QF = _in_subjects(Q @ in_groups(own.F, at), at)
    K = group_product(xp.swapaxes(own.F, 0, 1), xp.swapaxes(QF, 0, 1))  # (d, d, N)
    shares, inverse = of_patterns(K, at), weighted(own.inverse, at.copies)
    residual, mine = residual_of(structures, at.arm)
    D = tangents_of(theta, structures, at)
    slope = inverse - shares
    if max(at.places.shape[-1], at.slopes.shape[-1]) == 1:
        slope = xp.sum(slope, axis=-1)[:, :, None]
    bent = residual.bend_at(theta[mine], at.places, at.slopes, slope)
    return bent + pair_traces(2.0 * shares - inverse, own.inverse, D)


def row_traces(D: Array, at: SubjectBucket, own: SubjectRows) -> Array:
    """``tr(R^-1 R_k R^-1 R_l)`` of all subjects, (m, m)."""
    return pair_traces(weighted(own.inverse, at.copies), own.inverse, D)


def halves(D: Array, at: SubjectBucket, own: SubjectRows) -> Array:
    """Of ``A' R^-1 R_k R^-1 R_l R^-1 A = g_k g_l'``, g of every group, (m, G, w, M d)."""
    xp = namespace(own.F)
    found = [in_groups(_times(own.root, _times(A, own.F, at), at), at) for A in _each(D)]
    d, w, N = own.F.shape
    shape = (0, at.n_groups, w, N * d // at.n_groups)
    return xp.stack(found) if found else xp.zeros(shape, own.F.dtype)


def bent_rows(
    theta: Array,
    structures: tuple[Structure, ...],
    at: SubjectBucket,
    own: SubjectRows,
    W: Array,
    z: Array,
) -> Array:
    """``A' R^-1 (sum_kl W_kl R_kl - sum_k z_k R_k) R^-1 A`` of every group, (G, w, w).

    Parameters
    ----------
    theta, structures, at, own
        As in the other functions.
    W : Array, shape (m, m)
        Symmetric; of the arm's own parameters.
    z : Array, shape (m,)
    """
    residual, mine = residual_of(structures, at.arm)
    phi = theta[mine], at.places, at.slopes
    B = residual.bent(*phi, W) - namespace(z).tensordot(z, residual.with_tangents(*phi)[1], 1)
    return _forms([B], at, own)[0]
