"""Random effects integrated out of whitened rows: what a group's cross-products are enough for.

With B a root of the residuals' ``R^-1 = B' B`` and ``A = [Z X y]`` of a group

    E = B A      G = E' E = A' R^-1 A      W = Lambda (I + Lambda' G_ZZ Lambda)^-1 Lambda'

the random effects are integrated out by J, the identity less ``H = W G_Z`` in the rows of Z:

    J' G J = A' V^-1 A         log|V| = log|R| + log|I + Lambda' G_ZZ Lambda|

and derivatives in the parameters of R are ``J' dG J``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jax import Array

from ...covariance.theta import spread
from ...numerics.linalg import eliminate
from ...numerics.namespace import namespace
from ..crossed.core import scale_rows

# Columns of a group up to which the factor of its random effects multiplies as a dense matrix: of
# terms with two coefficients blocks are quicker from some 200 columns on, of one from 16, and what
# counts are the 3 ms of 300 columns.
_DENSE = 64


class WhitenedRows(NamedTuple):
    """The rows of a bucket at one theta."""

    own: Any  # what derivatives need of them
    G: Array  # (G, w, w)  A' R^-1 A of every group
    log_R: Array  # ()  log|R| of all groups
    lost: Array  # ()  its rounding, in units of eps
    squares: Array  # (C,)  rounding of the diagonal of [X y]' R^-1 [X y], in units of eps


class Integrated(NamedTuple):
    """A bucket at one theta."""

    own: Any
    G: Array  # (G, w, w)
    Y: Array  # (G, q, q)  W = Y' Y
    H: Array  # (G, q, w)  W G_Z,
    S: Array  # (G, w, w)  A' V^-1 A
    logdet: Array  # ()  log|V| of all groups
    rounding: Array  # (C + 1,)  of logdet and of the diagonal of gram, in units of eps


def integrate(rows: WhitenedRows, factors: Sequence[Array], widths: tuple[int, ...]) -> Integrated:
    """Integrate the random effects of every group out, whose terms have these factors."""
    G = rows.G
    xp = namespace(G, factors)
    Lambda = spread(factors, widths)
    q, lower = len(Lambda), [L.T for L in factors]
    LG = times_spread(lower, widths, G[:, :q])  # (G, q, w)
    inner = times_spread(lower, widths, xp.swapaxes(LG[..., :q], 1, 2))
    M = xp.moveaxis(xp.eye(q, dtype=G.dtype)[None] + inner, 0, -1)
    right = [xp.broadcast_to(Lambda.T[:, :, None], M.shape), xp.moveaxis(LG, 0, -1)]
    U, X = eliminate(M, xp.concatenate(right, axis=1))
    Y, through = xp.moveaxis(X[:, :q], -1, 0), xp.moveaxis(X[:, q:], -1, 0)
    pivots = xp.diagonal(U)  # (G, q)
    # a pivot rounds by its diagonal entry
    lost = rows.lost + xp.sum(xp.diagonal(M) / pivots**2)
    squares = rows.squares + xp.diagonal(xp.sum(G[:, q:, q:], axis=0))
    return Integrated(
        own=rows.own,
        G=G,
        Y=Y,
        H=xp.swapaxes(Y, 1, 2) @ through,
        S=G - xp.swapaxes(through, 1, 2) @ through,
        logdet=rows.log_R + 2.0 * xp.sum(xp.log(pivots)),
        rounding=xp.append(lost[None], squares),
    )


def times_spread(blocks: Sequence[Array], widths: Sequence[int], A: Array) -> Array:
    """``F A`` of every group for the F that ``spread`` makes of the blocks, (G, q, c)."""
    xp = namespace(blocks, A)
    if A.shape[1] <= _DENSE:
        return spread(blocks, widths)[None] @ A
    return xp.moveaxis(scale_rows(blocks, widths, xp.moveaxis(A, 0, -1)), -1, 0)


def projected(A: Array, H: Array) -> Array:
    """``J' A J`` of symmetric A, (..., G, w, w)."""
    xp, q = namespace(A, H), H.shape[1]
    half = A - A[..., :q] @ _leading(H, A)  # A J
    return half - xp.swapaxes(_leading(H, A), -1, -2) @ half[..., :q, :]


def _leading(H: Array, A: Array) -> Array:
    """H with as many leading axes as A."""
    return H.reshape(*(1,) * (A.ndim - H.ndim), *H.shape)
