"""Conditional covariances of the levels: exact in what the blocks give, the rest by the probes."""

from __future__ import annotations

from jax import Array

from ...numerics.krylov import conjugate_gradients
from ...numerics.namespace import namespace
from .arrays import MatrixFreeArrays, at_levels, swapped
from .reduced import Reduced, apply, between, by_factor, coupled, split, squares_up
from .system import MOST_STEPS, System
from .trace import BATCH, known_columns, probes_beside

# Residual of the solves: the probes leave more uncertain.
_TOL = 1e-6


def level_covariances(system: System, layout: MatrixFreeArrays) -> list[Array]:
    """Blocks ``Lambda (M^-1)_ll Lambda'`` of all levels, (k, k, L) a term.

    With ``G = (I + X)^-1``, known columns Q and probes z, ``z_Q = z - Q Q' z``, the blocks of G
    are those of ``I + (G - I + X) Q Q'`` and means of ``(G - I + X) z_Q z'``; X has none. Those
    of ``K G K'`` for the eliminated term, ``K = B^-1 C' L^-T``, are those of ``K K'``, and the
    same with ``K (G - I)`` and ``K z``.
    """
    xp, at = namespace(layout.S0), system.at
    Q = known_columns(layout)
    z, beside = probes_beside(Q, layout)
    rest, top = _shares(Q, Q, at, layout)
    R = z.shape[1]
    for i in range(0, R, BATCH):
        more, above = _shares(beside[:, i : i + BATCH], z[:, i : i + BATCH], at, layout)
        rest = [x + y / R for x, y in zip(rest, more, strict=True)]
        top = top + above / R
    out = {}
    own = None
    for t, Li, share in zip(layout.rest, at.Li, rest, strict=True):
        k = Li.shape[0]
        G = xp.eye(k, dtype=Li.dtype)[:, :, None] + 0.5 * (share + swapped(share))
        out[t] = between(at.factors[t], xp.einsum("bal,bcl,cdl->adl", Li, G, Li), at.factors[t].T)
        D = xp.einsum("bal,bcl->acl", Li, Li)
        up = squares_up(between(at.factors[t], D, at.factors[t].T)[..., None], t, layout)[..., 0]
        own = up if own is None else own + up
    F = at.factors[layout.first]
    half = xp.einsum("abl,cb->acl", at.inverse, F)  # B^-1 Lambda'
    inner = xp.einsum("abl,bcl,dcl->adl", half, own, half) + 0.5 * (top + swapped(top))
    out[layout.first] = between(F, at.inverse + inner, F.T)
    return [out[t] for t in range(len(out))]


def _shares(x: Array, z: Array, at: Reduced, layout: MatrixFreeArrays) -> tuple[list[Array], Array]:
    """Blocks of ``(G - I + X) x z'`` of the rest, and of ``K (G - I) x (K z)'``."""
    xp = namespace(x)
    mapped = apply(x, at, layout)
    solved = conjugate_gradients(lambda u: apply(u, at, layout), x, tol=_TOL, maxiter=MOST_STEPS).x
    left, right = split(solved + mapped - 2.0 * x, layout), split(z, layout)
    rest = [xp.einsum("alc,blc->abl", a, b) for a, b in zip(left, right, strict=True)]
    top = xp.einsum("alc,blc->abl", _up(solved - x, at, layout), _up(z, at, layout))
    return rest, top


def _up(u: Array, at: Reduced, layout: MatrixFreeArrays) -> Array:
    """``B^-1 C' L^-T u``, (k, L, C)."""
    a = [
        by_factor(at.factors[t], at_levels(swapped(Li), x))
        for t, Li, x in zip(layout.rest, at.Li, split(u, layout), strict=True)
    ]
    up, _ = coupled(a, layout)
    return at_levels(at.inverse, by_factor(at.factors[layout.first].T, up))
