"""Algebra of the dense core: random effects of all levels of the crossed terms together.

Arrays are (N, N, B): N columns of one block, B independent blocks. Every term
owns a run of ``k * width`` columns, level by level, the same in every block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from ...numerics.in_place import plus_identity, settled
from ...numerics.inverses import rough_inverse, spd_inverse
from ...numerics.linalg import exact, total_product
from ...numerics.namespace import NUMPY, custom_jvp, namespace
from ...reprs import brief
from ..contract import Waist
from .core_factors import CoreFactors

# Columns of a core up to which its products cost nothing; and up to which A is kept.
SMALL, KEPT = 256, 2048
# Pivots of Lambda above which dividing by them costs no digits that matter.
REGULAR = 1e-3


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Core:
    """Cross-products of the crossed terms that the eliminated ones do not reach."""

    S: Array  # (N, N, B)      Z_2' Z_2 less d' d
    s: Array  # (N, p + 1, B)  Z_2' [X y] less d' c
    origin: Array  # (N, 1, B)  effects a that y is measured from: y less Z_2 a stands in the layout
    widths: tuple[int, ...] = field(metadata={"static": True})  # levels of each term in a block

    __repr__ = brief


class CoreTerms(NamedTuple):
    """The core at one covariance, the eliminated terms integrated out."""

    A: Array | None  # (N, N, B)  Z_2' V_1^-1 Z_2, of a large core not kept
    Ki: Array  # (N, N, B)      (I + Lambda' A Lambda)^-1; H is Lambda Ki Lambda'
    halves: tuple[Array, ...]  # (k, k) a term: sum of the levels' blocks of A Lambda Ki
    loss: Array  # ()             sum of K_jj Ki_jj, what the pivots of K have lost
    Hb: Array  # (N, p + 1, B)  H b, the column of y less J a
    u: Array  # (N, p + 1, B)  Z_2' V^-1 [X y]
    logdet: Array  # ()
    gram: Array  # (p + 1, p + 1)  what the core takes from [X y]' V_1^-1 [X y]


def multiply(A: Array, B: Array) -> Array:
    """``A B`` block by block: (N, M, B), (M, C, B) -> (N, C, B); A may know how to multiply."""
    times = getattr(A, "times", None)
    if times is not None:
        product: Array = times(B)
        return product
    xp = namespace(A, B)
    if A.shape[0] * A.shape[1] <= 256:
        return xp.sum(A[:, :, None] * B[None], axis=1)
    product = xp.moveaxis(A, -1, 0) @ xp.moveaxis(B, -1, 0)
    return xp.moveaxis(product, 0, -1)


def transposed(A: Array) -> Array:
    """``A'`` block by block."""
    xp = namespace(A)
    return xp.swapaxes(A, 0, 1)


def scale_rows(factors: Sequence[Array], widths: Sequence[int], A: Array) -> Array:
    """``F A`` for the block-diagonal F that repeats each term's (k, k) factor, (N, C, B)."""
    xp = namespace(factors, A)
    if all(factor.shape[0] == 1 for factor in factors):
        return _diagonal(factors, widths)[:, None, None] * A
    parts = []
    start = 0
    for factor, w in zip(factors, widths, strict=True):
        k = factor.shape[0]
        rows = A[start : start + k * w]
        if k == 1:
            parts.append(factor[0, 0] * rows)
        else:
            levels = rows.reshape(w, k, *A.shape[1:])
            parts.append(xp.einsum("ab,wbcg->wacg", factor, levels).reshape(rows.shape))
        start += k * w
    return xp.concatenate(parts)


def scale_columns(factors: Sequence[Array], widths: Sequence[int], A: Array) -> Array:
    """``A F'`` for the same F, (C, N, B)."""
    if all(factor.shape[0] == 1 for factor in factors):
        return A * _diagonal(factors, widths)[None, :, None]
    return transposed(scale_rows(factors, widths, transposed(A)))


def scale_both(
    left: Sequence[Array], right: Sequence[Array], widths: Sequence[int], A: Array
) -> Array:
    """``F A G'`` for two such matrices, (N, N, B); of one number each in one pass over A."""
    if len(left) == 1 and left[0].shape[0] == 1:
        return (left[0][0, 0] * right[0][0, 0]) * A
    return scale_rows(left, widths, scale_columns(right, widths, A))


def _diagonal(factors: Sequence[Array], widths: Sequence[int]) -> Array:
    """Diagonal of F where every term has one coefficient, (N,)."""
    xp = namespace(factors)
    return xp.concatenate([xp.repeat(f[0], w) for f, w in zip(factors, widths, strict=True)])


def solve_core(
    A: Array,
    b: Array,
    origin: Array,
    factors: CoreFactors,
    widths: Sequence[int],
    *,
    rough: bool = False,
) -> CoreTerms:
    """Integrate the core out.

        log|I + Lambda' A Lambda|      H = Lambda (I + Lambda' A Lambda)^-1 Lambda'

    Parameters
    ----------
    A : Array, shape (N, N, B)
        ``Z_2' V_1^-1 Z_2``.
    b : Array, shape (N, p + 1, B)
        ``Z_2' V_1^-1 [X y]``.
    origin : Array, shape (N, 1, B)
        Effects a that y is measured from.
    factors : CoreFactors
        Relative factor of every term; may be singular.
    widths : sequence of int
    rough : bool
        Six digits will do, in NumPy.

    Notes
    -----
    ``H (b + A a) = H b - J a + a`` with ``J = I - H A``: everything but the
    random effects themselves depends on ``H b - J a`` alone.
    """
    blocks = factors.blocks
    xp = namespace(A, b, blocks)
    lower = [L.T for L in blocks]
    half = scale_columns(lower, widths, A)  # A Lambda
    K = plus_identity(scale_rows(lower, widths, half))
    K, diagonal = settled((K, _diagonals(K)))
    single = False
    if rough:
        Ki, logdet, single = rough_inverse(K)
    else:
        Ki, logdet = settled(spd_inverse(K))
    halves = product_blocks(half, Ki, [L.shape[0] for L in blocks], widths)
    loss = xp.sum(diagonal * _diagonals(Ki))
    by = _Refined(K, Ki) if single else Ki
    found = solved(A, b, origin, factors, widths, by, logdet, halves, loss)._replace(Ki=Ki)
    return found if A.shape[0] <= KEPT else found._replace(A=None)


class _Refined(NamedTuple):
    """A rough inverse X of K that multiplies as if it had twice as many digits."""

    K: Array  # (N, N, B)
    X: Array  # (N, N, B)

    def times(self, B: Array) -> Array:
        """``K^-1 B`` by one step of refinement, (N, C, B)."""
        found = multiply(self.X, B)
        return found + multiply(self.X, B - multiply(self.K, found))


def solved(
    A: Any,
    b: Array,
    origin: Array,
    factors: CoreFactors,
    widths: Sequence[int],
    Ki: Any,
    logdet: Array,
    halves: tuple[Array, ...],
    loss: Array,
) -> CoreTerms:
    """:func:`solve_core` once K is inverted; A and Ki may be matrices or know how to multiply.

    The last columns of [X y] are measured from effects, as many as ``origin`` has.
    """
    xp = namespace(b, halves)
    Ja = remainder(A, Ki, origin, factors, widths)
    Hb = xp.at(shrunk(Ki, factors, widths, b))[:, -origin.shape[1] :].add(-Ja)
    return CoreTerms(
        A=A,
        Ki=Ki,
        halves=halves,
        loss=loss,
        Hb=Hb,
        u=b - multiply(A, Hb),
        logdet=logdet,
        gram=_core_gram(A, b, Hb, Ja, origin),
    )


def shrunk(Ki: Array, factors: CoreFactors, widths: Sequence[int], x: Array) -> Array:
    """``H x`` for columns x (N, C, B)."""
    lower = [L.T for L in factors.blocks]
    return scale_rows(factors.blocks, widths, multiply(Ki, scale_rows(lower, widths, x)))


def covariance(Ki: Array, factors: CoreFactors, widths: Sequence[int]) -> Array:
    """``H = Lambda Ki Lambda'``, (N, N, B)."""
    return scale_both(factors.blocks, factors.blocks, widths, Ki)


def _diagonals(A: Array) -> Array:
    """Of every block, (N, B); a slice where there is one, without a look at all entries."""
    xp = namespace(A)
    N, _, B = A.shape
    return A.reshape(-1)[:: N + 1][:, None] if B == 1 else xp.diagonal(A).T


def remainder(A: Array, Ki: Array, a: Array, factors: CoreFactors, widths: Sequence[int]) -> Array:
    """``J a`` with J = I - H A; where Lambda is regular as ``Lambda Ki Lambda^-1 a``."""
    through = multiply(Ki, scale_rows(factors.divisors, widths, a))
    rest = scale_rows(factors.direct, widths, a)
    direct = rest - shrunk(Ki, factors, widths, multiply(A, rest))
    return scale_rows(factors.blocks, widths, through) + direct


def _core_gram(A: Array, b: Array, Hb: Array, Ja: Array, origin: Array) -> Array:
    """``b' H b`` less what the last columns gain from their origin: ``b' J a``, ``a' A J a``."""
    xp, c = namespace(b, Hb, Ja, origin), origin.shape[1]
    gram = total_product(b, Hb)
    gram = xp.at(gram)[-c:].add(-total_product(Ja, b))
    return xp.at(gram)[-c:, -c:].add(-total_product(origin, multiply(A, Ja)))


def core_rounding(core: CoreTerms, b: Array, gram: Array) -> Array:
    """Rounding of ``log|K|`` and of ``gram - b' H b``, (p + 2,); see :class:`WaistJet`.

    ``K_jj (K^-1)_jj`` bounds what a pivot has lost; b is a sum of terms of the size of gram.
    """
    xp = namespace(b, gram, core.Hb)
    taken = xp.sum(xp.abs(b) * xp.abs(core.Hb), axis=(0, 2))
    return xp.append(core.loss, xp.diagonal(gram) + taken)


def is_regular(factors: CoreFactors, columns: int) -> bool:
    """Whether factors that are known are regular, and the core is one for which that matters."""
    return columns > SMALL and bool(factors.least > REGULAR)


@custom_jvp
@exact
def integrate_core(A: Array, b: Array, Psi: Array, origin: Array) -> Waist:
    """``log|I + A Psi|`` and what the core takes from the gram matrix; Psi may be singular.

    ``b' H b`` with ``H = Psi (I + A Psi)^-1``, y measured from ``origin``. A, Psi and what
    they are differentiated along are symmetric; ``origin`` is no variable.
    """
    xp = namespace(A, b, Psi, origin)
    identity = xp.eye(A.shape[0], dtype=A.dtype)[:, :, None]
    logdet = xp.linalg.slogdet(xp.moveaxis(identity + multiply(A, Psi), -1, 0))[1]
    Hb, Ja = shrunk_from(A, b, Psi, origin)
    return Waist(xp.sum(logdet), _core_gram(A, b, Hb, Ja, origin))


def shrunk_from(A: Array, b: Array, Psi: Array, origin: Array) -> tuple[Array, Array]:
    """``H b`` less ``J a`` in the column of y, and ``J a``, by one solve."""
    xp = namespace(A, b, Psi, origin)
    identity = xp.eye(A.shape[0], dtype=A.dtype)[:, :, None]
    left = xp.moveaxis(identity + multiply(Psi, A), -1, 0)
    right = xp.concatenate([multiply(Psi, b), origin], axis=1)
    solved = xp.moveaxis(xp.linalg.solve(left, xp.moveaxis(right, -1, 0)), 0, -1)
    Ja = solved[:, -1:]
    return xp.at(solved[:, :-1])[:, -1:].add(-Ja), Ja


@integrate_core.defjvp
@exact
def _integrate_core_jvp(
    primals: tuple[Array, Array, Array, Array], tangents: tuple[Array, Array, Array, Any]
) -> tuple[Waist, Waist]:
    # d log|I + A Psi| = tr(H dA) + tr((A - A H A) dPsi); the gram is that of the whole y, so the
    # origin is no variable, and w = H b - J a stands where H b would without it
    xp = namespace(primals, tangents)
    A, b, Psi, origin = primals
    dA, db, dPsi, _ = tangents
    H = shrinkage(A, Psi)
    J = xp.eye(A.shape[0], dtype=A.dtype)[:, :, None] - multiply(H, A)
    w = xp.at(multiply(H, b))[:, -1:].add(-multiply(J, origin))
    rest = b - multiply(A, w)
    cross = total_product(db, w)
    dgram = cross + cross.T - total_product(w, multiply(dA, w))
    dgram = dgram + total_product(rest, multiply(dPsi, rest))
    dlogdet = xp.sum(H * dA) + xp.sum(multiply(A, J) * dPsi)
    return integrate_core(A, b, Psi, origin), Waist(dlogdet, dgram)


@custom_jvp
@exact
def shrinkage(A: Array, Psi: Array) -> Array:
    """``H = (I + Psi A)^-1 Psi``, the conditional covariance of the core's effects.

    A, Psi and what they are differentiated along are symmetric.
    """
    xp = namespace(A, Psi)
    identity = xp.eye(A.shape[0], dtype=A.dtype)[:, :, None]
    left = xp.moveaxis(identity + multiply(Psi, A), -1, 0)
    return xp.moveaxis(xp.linalg.solve(left, xp.moveaxis(Psi, -1, 0)), 0, -1)


@shrinkage.defjvp
@exact
def _shrinkage_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    # dH = J dPsi J' - H dA H with J = I - H A
    xp = namespace(primals, tangents)
    (A, Psi), (dA, dPsi) = primals, tangents
    H = shrinkage(A, Psi)
    J = xp.eye(A.shape[0], dtype=A.dtype)[:, :, None] - multiply(H, A)
    dH = multiply(multiply(J, dPsi), transposed(J)) - multiply(multiply(H, dA), H)
    return H, dH


def level_blocks(A: Array, sizes: Sequence[int], widths: Sequence[int]) -> tuple[Array, ...]:
    """Diagonal blocks of the levels, summed over levels and blocks, (k, k) a term."""
    xp = namespace(A)
    out = []
    start = 0
    for k, w in zip(sizes, widths, strict=True):
        rows = A[start : start + k * w, start : start + k * w].reshape(w, k, w, k, -1)
        level = np.arange(w)
        out.append(xp.sum(rows[level, :, level], axis=(0, 3)))
        start += k * w
    return tuple(out)


def product_blocks(
    A: Array, Bt: Array, sizes: Sequence[int], widths: Sequence[int]
) -> tuple[Array, ...]:
    """:func:`level_blocks` of ``A B`` from A and B', in N^2 k operations instead of N^3."""
    xp = namespace(A, Bt)
    out = []
    start = 0
    for k, w in zip(sizes, widths, strict=True):
        rows = A[start : start + k * w].reshape(w, k, *A.shape[1:])
        columns = Bt[start : start + k * w].reshape(w, k, *A.shape[1:])
        blocks = [[xp.sum(rows[:, a] * columns[:, b]) for b in range(k)] for a in range(k)]
        out.append(xp.stack([xp.stack(row) for row in blocks]))
        start += k * w
    return tuple(out)


def block_moments(
    P: Array, sizes: Sequence[int], widths: Sequence[int]
) -> list[tuple[int, int, Array]]:
    """``sum_ij P_ij[a, c] P_ij[b, d]`` over the levels i, j of two terms, (k, k', k, k').

    For every unordered pair of terms, with their numbers: all that traces of
    ``P D P D'`` with matrices D that repeat a block for each level depend on.
    """
    xp = namespace(P)
    out = []
    ends = np.cumsum([k * w for k, w in zip(sizes, widths, strict=True)])
    for t, (k, w) in enumerate(zip(sizes, widths, strict=True)):
        for s in range(t, len(sizes)):
            j, v = sizes[s], widths[s]
            part = P[ends[t] - k * w : ends[t], ends[s] - j * v : ends[s]]
            if k * j == 1 and xp is not NUMPY:  # a fused sum: P need not be there
                out.append((t, s, xp.sum(part * part).reshape(1, 1, 1, 1)))
                continue
            flat = xp.moveaxis(part.reshape(w, k, v, j, -1), (1, 3), (0, 1)).reshape(k * j, -1)
            out.append((t, s, (flat @ flat.T).reshape(k, j, k, j)))
    return out


def levels_of(A: Array, sizes: Sequence[int], widths: Sequence[int]) -> tuple[Array, ...]:
    """Rows of every term with the levels of all blocks last: (N, C, B) -> (k, C, w B) a term."""
    xp = namespace(A)
    out = []
    start = 0
    for k, w in zip(sizes, widths, strict=True):
        rows = A[start : start + k * w].reshape(w, k, A.shape[1], -1)
        out.append(xp.moveaxis(rows, 0, 2).reshape(k, A.shape[1], -1))
        start += k * w
    return tuple(out)
