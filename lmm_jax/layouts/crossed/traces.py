"""Traces of products of the core's matrices, which second derivatives need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from jax import Array

from ...numerics.inverses import by_strips
from ...numerics.namespace import namespace
from .core import (
    KEPT,
    REGULAR,
    SMALL,
    block_moments,
    level_blocks,
    multiply,
    product_blocks,
    remainder,
    scale_both,
    transposed,
)
from .core_factors import CoreFactors

# Columns of a core from which a product of its matrices is never there as a whole, and rows of it
# that are.
_STRIPS_ABOVE, _STRIP = 8192, 2048

Blocks = tuple[Array, ...]


class Traces(NamedTuple):
    """With ``P = A - A H A``, J = I - H A and symmetric matrices F."""

    P: list[tuple[int, int, Array]]  # block_moments of P
    blocks: Blocks  # (k, k) a term: level_blocks of P
    FF: Any  # (F, F)  tr(H F_i H F_j)
    JFJ: tuple[Blocks, ...]  # (k, k) a term, of every F: level_blocks of J' F J


def traces(
    Ki: Array,
    factors: CoreFactors,
    widths: Sequence[int],
    F: Sequence[Callable[[], Array]],
    A: Callable[[], Array],
    *,
    regular: bool,
) -> Traces:
    """Moments of ``P = A - A H A`` and of ``J' F J``.

    Differences would cost digits where Lambda is large: ``J = Lambda Ki Lambda^-1``
    wherever a term is regular, and ``P = A J``. In a large core of regular terms
    ``P = Lambda^-T (I - Ki) Lambda^-1`` saves that product and others, and A is not needed.

    Parameters
    ----------
    Ki, factors, widths
        See :class:`lmm_jax.layouts.crossed.core.CoreTerms`.
    F : sequence of callable
        Each makes an (N, N, B).
    A : callable
        Makes ``Z_2' V_1^-1 Z_2``.
    regular : bool
        Whether the terms are known to be regular; otherwise large cores hold both ways.
    """
    xp = namespace(Ki)
    N, sizes = Ki.shape[0], [L.shape[0] for L in factors.blocks]
    lower = [L.T for L in factors.blocks]

    def scaled(f: Callable[[], Array]) -> Array:
        return scale_both(lower, lower, widths, f())

    if regular and N > _STRIPS_ABOVE and set(sizes) == {1} and Ki.shape[2] == 1:
        FF, JFJ = _in_strips(Ki[:, :, 0], factors, widths, [scaled(f)[:, :, 0] for f in F])
        return Traces(*_of_P(Ki, factors, widths), FF, JFJ)
    made = F if regular else [partial(_same, f()) for f in F]
    R = [multiply(Ki, scaled(f)) for f in made]  # Ki Lambda' F Lambda
    rows = [xp.stack([_cross_trace(a, b) for b in R]) for a in R]
    any_factor = partial(_of_any, Ki, factors, widths, made, A)
    if regular:
        found = _of_regular(Ki, factors, widths, R)
    elif N <= SMALL:  # a second branch costs more to compile than it saves
        found = any_factor()
    else:
        of_regular = partial(_of_regular, Ki, factors, widths, R)
        found = xp.cond(factors.least > REGULAR, of_regular, any_factor)
    pairs = [(t, s) for t in range(len(sizes)) for s in range(t, len(sizes))]
    P = [(t, s, part) for (t, s), part in zip(pairs, found[0], strict=True)]
    return Traces(P, found[1], xp.stack(rows) if rows else None, found[2])


def _of_P(Ki: Array, factors: CoreFactors, widths: Sequence[int]) -> tuple[Any, Blocks]:
    """``P = Lambda^-T (I - Ki) Lambda^-1``."""
    xp, sizes = namespace(Ki), [L.shape[0] for L in factors.blocks]
    back = [Li.T for Li in factors.inverses]
    identity = xp.eye(Ki.shape[0], dtype=Ki.dtype)[:, :, None]
    P = scale_both(back, back, widths, identity - Ki)
    return block_moments(P, sizes, widths), level_blocks(P, sizes, widths)


def _of_regular(
    Ki: Array, factors: CoreFactors, widths: Sequence[int], R: Sequence[Array]
) -> tuple[Any, Blocks, tuple[Blocks, ...]]:
    sizes, back = [L.shape[0] for L in factors.blocks], [Li.T for Li in factors.inverses]
    moments, blocks = _of_P(Ki, factors, widths)
    Jt = scale_both(back, factors.blocks, widths, Ki)  # J'
    left = []
    for r in R:  # J' F = Lambda^-T (Ki Lambda' F Lambda) Lambda^-1
        half = scale_both(back, back, widths, r)
        left.append(product_blocks(half, Jt, sizes, widths))
    return tuple(part for _, _, part in moments), blocks, tuple(left)


def _of_any(
    Ki: Array,
    factors: CoreFactors,
    widths: Sequence[int],
    F: Sequence[Callable[[], Array]],
    A: Callable[[], Array],
) -> tuple[Any, Blocks, tuple[Blocks, ...]]:
    xp, sizes, known = namespace(Ki), [L.shape[0] for L in factors.blocks], A()
    identity = xp.eye(Ki.shape[0], dtype=Ki.dtype)[:, :, None]
    J = remainder(known, Ki, identity, factors, widths)
    left = [transposed(multiply(f(), J)) for f in F]
    P = multiply(known, J)
    return (
        tuple(part for _, _, part in block_moments(P, sizes, widths)),
        level_blocks(P, sizes, widths),
        tuple(product_blocks(x, transposed(J), sizes, widths) for x in left),
    )


def _in_strips(
    Ki: Array, factors: CoreFactors, widths: Sequence[int], F: Sequence[Array]
) -> tuple[Array, tuple[Blocks, ...]]:
    """Of terms of one coefficient each and F's already scaled: products by strips of rows.

    A strip of R = Ki F and one of its transposed, F Ki, are made at a time.
    """
    xp, N, count = namespace(Ki), Ki.shape[0], len(F)

    def step(state: tuple[Array, Array], first: Any, rows: int) -> tuple[Array, Array]:
        FF, sums = state
        own = xp.dynamic_slice_in_dim(Ki, first, rows)
        R = [own @ f for f in F]
        back = [xp.dynamic_slice_in_dim(f, first, rows) @ Ki for f in F]
        FF = FF + xp.stack([xp.stack([xp.sum(a * b) for b in back]) for a in R])
        here = xp.stack([xp.sum(a * own, axis=1) for a in R], axis=1)
        return FF, xp.dynamic_update_slice_in_dim(sums, here, first, 0)

    start = xp.zeros((count, count), Ki.dtype), xp.zeros((N, count), Ki.dtype)
    FF, sums = by_strips(step, start, N, _STRIP)
    JFJ, at = [], 0
    for inverse, w in zip(factors.inverses, widths, strict=True):
        JFJ.append(xp.sum(sums[at : at + w], axis=0) * inverse[0, 0] ** 2)
        at += w
    return FF, tuple(tuple(term[i].reshape(1, 1) for term in JFJ) for i in range(count))


def _same(x: Array) -> Array:
    return x


def _cross_trace(X: Array, Y: Array) -> Array:
    """``tr(X Y)`` block by block, summed; strips of a large Y are transposed one by one."""
    xp, N = namespace(X, Y), X.shape[0]
    step = N if N <= KEPT else -(-N // 8)
    parts = [
        xp.sum(X[at : at + step] * transposed(Y[:, at : at + step])) for at in range(0, N, step)
    ]
    return sum(parts[1:], parts[0])
