"""One related term rotated to independent rows: ``t A t = U S U'`` of the ids with rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from scipy import linalg

from ..numerics.blocks import AnyMatrix, BlockColumns, dense_block
from ..numerics.shapes import round_up_groups
from .buckets import Bucket
from .crossed.compress import within_step
from .group_index import LevelMap
from .related_rows import Known, ScaledColumns

# Eigenvalues below this, relative to the largest, are the rounding of A.
_RANK_TOL = 1e-12
# An id is reached by its own rows where they see more than this many times such an eigenvalue.
_REACHED = 100.0


class Ids(NamedTuple):
    """Rows summed by id."""

    unit: scipy.sparse.csr_array  # (n, m)  orthonormal columns Q
    lengths: np.ndarray  # (m,)  t: Z = Q diag(t)
    c: np.ndarray  # (m, p + R)  Q' [X Y]
    residual: np.ndarray  # (n, p + R)


class Spectrum(NamedTuple):
    """``t A t = U S U'`` of every family."""

    sigma: np.ndarray  # (r,)  roots of the eigenvalues that are not zero
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # members, U of these, U of the rest
    family: np.ndarray  # (r,)  a member of each eigenvector's family
    basis: AnyMatrix  # (L, r)

    def turn(self, x: np.ndarray) -> np.ndarray:
        """``U' x`` for the eigenvectors that stay, (r, C)."""
        return np.concatenate([U.T @ x[ids] for ids, U, _ in self.parts])

    def left_over(self, x: np.ndarray) -> np.ndarray:
        """``U' x`` for those without a variance, (m - r, C)."""
        return np.concatenate([U.T @ x[ids] for ids, _, U in self.parts])


class Rotated(NamedTuple):
    """Rows of responses that share everything else; Y is measured from ``X step``."""

    c: np.ndarray  # (r, p + R)  independent rows of [X Y]
    rest: np.ndarray  # (n + m - r, p + R)  what no effect reaches
    step: Any  # (p, R)


def ids_of(rows: ScaledColumns, t: int) -> Ids:
    """The rows by the ids of related term t."""
    Z = rows.Z[t]
    lengths = np.sqrt(np.asarray(Z.multiply(Z).sum(axis=0)).ravel())
    there = lengths > 0
    unit = scipy.sparse.csr_array(Z * np.where(there, 1.0 / np.where(there, lengths, 1.0), 0.0))
    c = unit.T @ rows.XY
    residual = rows.XY - unit @ c
    again = unit.T @ residual  # what rounding left out
    return Ids(unit, lengths, c + again, residual - unit @ again)


def rotate(ids: Ids, spectrum: Spectrum, p: int) -> Rotated:
    """Rows of [X Y] rotated to independent ones, X having p columns."""
    c, rest = spectrum.turn(ids.c), np.concatenate([ids.residual, spectrum.left_over(ids.c)])
    left: Any = rest[:, :p]
    step = np.asarray(within_step(left.T @ left, left.T @ rest[:, p:]))
    for part in (c, rest):
        part[:, p:] -= part[:, :p] @ step
    return Rotated(c, rest, step)


def spectrum_of(known: Known, lengths: np.ndarray, scale: float) -> Spectrum:
    """Eigenvectors family by family, and the effects of all ids in terms of them."""
    families = known.families()
    basis = BlockColumns(known.family.size)
    found = []
    for _, own, number in families:
        t = lengths[number] / scale
        found.append(_eigenvectors(dense_block(known.matrix, own, own), t))
    least = _RANK_TOL * max(float(S[-1]) for S, _ in found)
    sigma, parts, family = [], [], []
    for (ids, own, number), (S, U) in zip(families, found, strict=True):
        first = int(np.searchsorted(S, least, side="right"))  # eigenvalues come in order
        root, kept = np.sqrt(S[first:]), U[:, first:]
        sigma.append(root)
        parts.append((number, kept, U[:, :first]))
        family.append(np.full(root.size, number[0]))
        t = lengths[number] / scale
        reached = t * t * _diagonal(known.matrix, own) > _REACHED * least
        basis.add(ids, _effects(known.matrix, ids, own, t, kept, root, reached))
    return Spectrum(np.concatenate(sigma), parts, np.concatenate(family), basis.matrix())


def _eigenvectors(K: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of ``t K t``; K is overwritten."""
    K *= t[:, None]
    K *= t[None]
    # the transpose is the same matrix in LAPACK's order: no copy of it is made
    values, vectors = linalg.eigh(K.T, overwrite_a=True, check_finite=False)
    return values, vectors


def _diagonal(A: AnyMatrix, ids: np.ndarray) -> np.ndarray:
    return np.asarray(A.diagonal())[ids]


def _effects(
    A: AnyMatrix,
    ids: np.ndarray,
    own: np.ndarray,
    t: np.ndarray,
    U: np.ndarray,
    sigma: np.ndarray,
    reached: np.ndarray,
) -> np.ndarray:
    """``A t U S^(-1/2)`` for the ids of a family; ``U S^(1/2) / t`` of those that rows reach."""
    if own.size == ids.size and reached.all():
        out = U * sigma
        out /= t[:, None]
        return np.asarray(out)
    out = np.empty((ids.size, sigma.size))
    here = np.isin(ids, own[reached])
    out[here] = U[reached] * sigma / t[reached, None]
    out[~here] = dense_block(A, ids[~here], own) @ (t[:, None] * U / sigma)
    return out


def rotated_bucket(sigma: np.ndarray, c: np.ndarray, n: int) -> Bucket:
    """The rotated rows as groups of one row."""
    groups = round_up_groups(sigma.size, 1, n)
    T: Any = np.zeros((1, 1, groups))
    held: Any = np.zeros((1, c.shape[1], groups))
    copies: Any = np.ones(groups)
    T[0, 0, : sigma.size], held[0, :, : sigma.size] = sigma, c.T
    return Bucket(T=T, c=held, copies=copies, widths=(1,))


def rotated_map(r: int) -> LevelMap:
    """Places of the effects behind the rotated rows: each is a group."""
    return LevelMap(bucket=np.zeros(r, np.int64), group=np.arange(r), slot=np.zeros(r, np.int64))
