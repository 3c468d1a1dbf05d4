"""``M = I + Lambda' G Lambda``: solves by conjugate gradients on what elimination leaves of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
from jax import Array

from ...numerics.krylov import conjugate_gradients
from ...numerics.namespace import namespace
from .arrays import MatrixFreeArrays, at_levels, by_terms, side_by_side, swapped
from .reduced import Reduced, apply, by_factor, coupled, join, lowered, reduce, split

# Residual, relative to the right side, at which a column is solved: values that depend on its
# square have no other error, those that depend on the solution itself have this one.
SOLVED = 1e-11
MOST_STEPS = 1000


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class System:
    """The system at one covariance."""

    at: Reduced
    layout: MatrixFreeArrays
    tol: float = SOLVED

    def tree_flatten(self) -> tuple[tuple[Reduced, MatrixFreeArrays], float]:
        """Of the two the arrays, and the tolerance."""
        return (self.at, self.layout), self.tol

    @classmethod
    def tree_unflatten(cls, tol: float, children: tuple[Reduced, MatrixFreeArrays]) -> System:
        """The inverse."""
        return cls(*children, tol)

    def times(self, x: Array) -> Array:
        """``M^-1 x`` of columns over all effects, (N, C, 1)."""
        return side_by_side(self._solved(by_terms(x, self.layout.blocks)))

    def _solved(self, parts: Sequence[Array]) -> list[Array]:
        at, layout, e = self.at, self.layout, self.layout.first
        F = at.factors
        top = at_levels(at.inverse, parts[e])
        down = lowered(by_factor(F[e], top), layout)
        right = [
            at_levels(Li, parts[t] - by_factor(F[t].T, y))
            for t, Li, y in zip(layout.rest, at.Li, down, strict=True)
        ]
        solved = conjugate_gradients(
            lambda u: apply(u, at, layout), join(right), tol=self.tol, maxiter=MOST_STEPS
        )
        a = [
            at_levels(swapped(Li), u) for Li, u in zip(at.Li, split(solved.x, layout), strict=True)
        ]
        up, _ = coupled([by_factor(F[t], x) for t, x in zip(layout.rest, a, strict=True)], layout)
        out = dict(zip(layout.rest, a, strict=True))
        out[e] = top - at_levels(at.inverse, by_factor(F[e].T, up))
        return [out[t] for t in range(len(out))]


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class Shrinkage:
    """``H = Lambda M^-1 Lambda'``, to be multiplied with."""

    system: System

    def tree_flatten(self) -> tuple[tuple[System], None]:
        """The system alone."""
        return (self.system,), None

    @classmethod
    def tree_unflatten(cls, _: None, children: tuple[System]) -> Shrinkage:
        """The inverse."""
        return cls(*children)

    def times(self, x: Array) -> Array:
        """``H x``, (N, C, 1)."""
        F, layout = self.system.at.factors, self.system.layout
        parts = by_terms(x, layout.blocks)
        right = [by_factor(L.T, part) for L, part in zip(F, parts, strict=True)]
        solved = self.system._solved(right)
        return side_by_side([by_factor(L, part) for L, part in zip(F, solved, strict=True)])


def system_at(factors: Sequence[Array], layout: MatrixFreeArrays, tol: float = SOLVED) -> System:
    """The system at relative factors of the terms."""
    return System(reduce(factors, layout), layout, tol)


def trace_of_inverse(system: System) -> Array:
    """Trace of ``M^-1`` but for what X gives to it: a scale of rounding."""
    xp = namespace(system.layout.S0)
    parts = [xp.sum(Li**2) for Li in system.at.Li]
    return xp.sum(xp.stack(parts)) + xp.sum(xp.einsum("aal->al", system.at.inverse))
