"""Effects of related levels: ``a = B b + r``, with the b of the layout and r that no row tells of.

Of ids that rows reach ``a = B b``. Of the others, without rows or with covariates of zero in all
of them, ``r`` has the covariance ``A - B B'`` times Psi, as before the data: Henderson's
predictions of ids without records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from ...designs.design import Design
from ...layouts.crossed.layout import CrossedLayout
from ...numerics.blocks import AnyMatrix

# Rows that are worked off together.
_CHUNK = 512
# Share of an id's own variance that may be missing from that of B b: rounding.
_NOTHING = 1e-8


def spread_effects(basis: AnyMatrix, b: np.ndarray) -> np.ndarray:
    """``B b`` for effects (..., r, k), (..., L, k)."""
    if isinstance(basis, np.ndarray):
        return np.asarray(basis @ b)
    flat = np.moveaxis(b, -2, 0)
    out = basis @ flat.reshape(len(flat), -1)
    return np.moveaxis(np.asarray(out).reshape(-1, *flat.shape[1:]), 0, -2)


class LatentCovariance:
    """Conditional covariances of effects of any levels, relative to sigma^2.

    Parameters
    ----------
    design : Design
    covariance : LayoutCovariance
    priors : sequence of ndarray, shape (k, k)
        Psi of every term in the coordinates of the data.
    """

    def __init__(
        self, design: Design, covariance: LayoutCovariance, priors: Sequence[np.ndarray]
    ) -> None:
        self.design, self.C, self.priors = design, covariance, priors
        self.whiteners = [np.asarray(A) for A in design.compressed.layout.whiteners]
        counts = [places.slot.size for places in design.places.level_maps]
        ends = np.cumsum([c * k for c, k in zip(counts, design.sizes, strict=True)])
        self.starts = np.concatenate([[0], ends])
        self.reached = [_reached(design, t) for t in range(len(design.terms))]

    def covariances(
        self, term: np.ndarray, level: np.ndarray, coefficient: np.ndarray
    ) -> np.ndarray:
        """Of sets of K effects, (S, K) to (S, K, K)."""
        S, K = term.shape
        out = np.empty((S, K, K))
        for at in _steps(S, K):
            flat = [v[at].ravel() for v in (term, level, coefficient)]
            M = self._rows(*flat)
            MC = self.C.times(M)
            shape = (-1, K, M.shape[1])
            own = MC.reshape(shape) @ np.swapaxes(M.reshape(shape), 1, 2)
            out[at] = own + self._prior(term[at], level[at], coefficient[at])
        return out

    def variances(self, codes: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> np.ndarray:
        """Of ``z' b`` for rows with levels (n, S) and covariates (n, S, k) of each term, (n,)."""
        n = len(codes[0])
        out = np.empty(n)
        for at in _steps(n, 1):
            some = [code[at] for code in codes], [z[at] for z in values]
            M = np.zeros((len(some[0][0]), self.starts[-1]))
            extra = np.zeros(len(M))
            for t, (code, z) in enumerate(zip(*some, strict=True)):
                for s in range(code.shape[1]):
                    rows = np.arange(len(M))
                    for j in range(z.shape[2]):
                        own = self._rows(np.full(rows.size, t), code[:, s], np.full(rows.size, j))
                        M += z[:, s, j, None] * own
                    extra += self._beyond(t, code[:, s], code[:, s]) * np.einsum(
                        "nk,kl,nl->n", z[:, s], self.priors[t], z[:, s]
                    )
            out[at] = np.einsum("ij,ij->i", self.C.times(M), M) + extra
        return out

    def _rows(self, term: np.ndarray, level: np.ndarray, coefficient: np.ndarray) -> np.ndarray:
        """What effects are of those of the layout, (m, N)."""
        M = np.zeros((term.size, self.starts[-1]))
        for t in np.unique(term):
            at = np.flatnonzero(term == t)
            k, A = self.design.sizes[t], self.whiteners[t]
            basis = self.design.compressed.basis(t)
            for j in range(k):
                weight = A[coefficient[at], j]
                if basis is None:
                    M[at, self.starts[t] + level[at] * k + j] = weight
                    continue
                own = basis[level[at]]
                own = own if isinstance(own, np.ndarray) else own.toarray()
                M[at, self.starts[t] + j : self.starts[t + 1] : k] = weight[:, None] * own
        return M

    def _prior(self, term: np.ndarray, level: np.ndarray, coefficient: np.ndarray) -> np.ndarray:
        """What no row tells of, (S, K, K)."""
        S, K = term.shape
        out = np.zeros((S, K, K))
        for i in range(K):
            for j in range(K):
                for t in np.unique(term):
                    at = np.flatnonzero((term[:, i] == t) & (term[:, j] == t))
                    Psi = self.priors[t][coefficient[at, i], coefficient[at, j]]
                    out[at, i, j] = Psi * self._beyond(t, level[at, i], level[at, j])
        return out

    def _beyond(self, t: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """``A - B B'`` at pairs of levels of term t, (m,); nothing where rows reach one of them."""
        reached, out = self.reached[t], np.zeros(left.size)
        if reached is None:
            return out
        relationship, basis = self.design.terms[t].relationship, self.design.compressed.basis(t)
        assert relationship is not None and relationship.matrix is not None and basis is not None
        at = np.flatnonzero(~reached[left] & ~reached[right])
        if at.size:
            i, j = left[at], right[at]
            known = (
                basis[i] * basis[j]
                if isinstance(basis, np.ndarray)
                else basis[i].multiply(basis[j])
            )
            total = np.asarray(relationship.matrix[i, j]).ravel()
            out[at] = total - np.asarray(known.sum(axis=1)).ravel()
        return out


def _reached(design: Design, t: int) -> np.ndarray | None:
    """Levels of term t that are ``B b`` altogether, (L,); None where levels are not related."""
    relationship, basis = design.terms[t].relationship, design.compressed.basis(t)
    if relationship is None or basis is None:
        return None
    squares = basis * basis if isinstance(basis, np.ndarray) else basis.multiply(basis)
    own = np.asarray(squares.sum(axis=1)).ravel()
    return np.asarray(own > (1.0 - _NOTHING) * relationship.diagonal)


def _steps(n: int, K: int) -> Iterator[slice]:
    step = max(1, _CHUNK // max(K, 1))
    return (slice(i, i + step) for i in range(0, n, step))


class LayoutCovariance(NamedTuple):
    """``C = diag(own) + G H G'``: covariance of the effects of a layout, (N, N).

    Those of the core have the covariance H; given them the rotated ones are independent, and
    fall by G per unit of theirs.
    """

    own: np.ndarray | None  # (N,)  None: nothing
    G: scipy.sparse.csr_array | None  # (N, F)  None: the identity
    H: Any  # (F, F)  dense or sparse; None: there is no core

    def times(self, M: np.ndarray) -> np.ndarray:
        """``M C``, (m, N)."""
        out = np.zeros_like(M) if self.own is None else M * self.own
        if self.H is None:
            return out
        through = np.asarray((M if self.G is None else M @ self.G) @ self.H)
        return np.asarray(out + (through if self.G is None else through @ self.G.T))


def layout_covariance(
    covariances: Sequence[np.ndarray], through: Sequence[np.ndarray | None], design: Design
) -> LayoutCovariance:
    """The covariance of all effects, term by term, level by level.

    Parameters
    ----------
    covariances : sequence of ndarray, shape (q, q, G)
        Of the groups of every bucket, the core last.
    through : sequence of ndarray, shape (q, E)
        How much the effects of the groups fall at their entries of the core.
    design : Design
        With related terms.
    """
    layout, maps = design.compressed.layout, design.places.level_maps
    if not isinstance(layout, CrossedLayout):
        return LayoutCovariance(covariances[0][0, 0, maps[0].group], None, None)
    row, block = _core_places(design)
    H = _core_matrix(covariances[-1], row, block)
    if not layout.links:
        return LayoutCovariance(None, None, H)
    (turned,), (link,) = layout.eliminated, layout.links
    starts = np.cumsum([0, *(m.slot.size * k for m, k in zip(maps, design.sizes, strict=True))])
    of_core = np.concatenate([np.arange(starts[t], starts[t + 1]) for t in layout.crossed])
    number = np.full((layout.shape[0], layout.shape[1]), -1)
    number[row, block] = np.arange(row.size)
    columns = number[np.asarray(link.row), np.asarray(link.block)]
    assert through[0] is not None  # there are links
    there = columns >= 0  # padding may point at a row that no level has
    fall = np.where(there, -through[0][0], 0.0)
    groups = starts[turned] + np.asarray(link.group)
    table = (
        np.concatenate([fall, np.ones(of_core.size)]),
        (
            np.concatenate([groups, of_core]),
            np.concatenate([np.maximum(columns, 0), np.arange(of_core.size)]),
        ),
    )
    G = scipy.sparse.csr_array(scipy.sparse.coo_array(table, shape=(starts[-1], of_core.size)))
    own = np.zeros(starts[-1])
    at = slice(starts[turned], starts[turned + 1])
    total = covariances[0][0, 0, maps[turned].group]
    E = G[at]
    own[at] = np.maximum(total - np.asarray(E.multiply(E @ H).sum(axis=1)).ravel(), 0.0)
    return LayoutCovariance(own, G, H)


def _core_places(design: Design) -> tuple[np.ndarray, np.ndarray]:
    """Row and block of every effect of the core, term by term, level by level, (F,) each."""
    layout = design.compressed.layout
    assert isinstance(layout, CrossedLayout)  # the caller has looked
    rows, blocks = [], []
    for t in layout.crossed:
        places, k = design.places.level_maps[t], design.sizes[t]
        rows.append((places.slot[:, None] + np.arange(k)).ravel())
        blocks.append(np.repeat(places.group, k))
    return np.concatenate(rows), np.concatenate(blocks)


def _core_matrix(H: np.ndarray, row: np.ndarray, block: np.ndarray) -> Any:
    """The core's covariance over its effects, dense if there is one block."""
    if H.shape[2] == 1:
        return H[:, :, 0][np.ix_(row, row)]
    parts = []
    for b in range(H.shape[2]):
        own = np.flatnonzero(block == b)
        values = H[:, :, b][np.ix_(row[own], row[own])]
        parts.append((values.ravel(), np.repeat(own, own.size), np.tile(own, own.size)))
    data, i, j = (np.concatenate(part) for part in zip(*parts, strict=True))
    return scipy.sparse.csr_array(scipy.sparse.coo_array((data, (i, j)), shape=(row.size,) * 2))
