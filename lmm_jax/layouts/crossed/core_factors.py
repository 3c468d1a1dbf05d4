"""Factors of the core's terms, and where the core may be divided by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jax import Array

from ...covariance.structures import Structure
from ...covariance.theta import theta_slices
from ...numerics.namespace import namespace

# Pivots of a symmetric Lambda, the smallest over the largest, above which dividing by them costs
# no digits that matter.
_EVEN = 1e-4


class CoreFactors(NamedTuple):
    """Lambda of every term of the core."""

    blocks: tuple[Array, ...]  # (k, k)  Lambda
    inverses: tuple[Array, ...]  # (k, k)  Lambda^-1, zero where Lambda is singular
    divisors: tuple[Array, ...]  # (k, k)  the same, zero as well where dividing costs digits
    direct: tuple[Array, ...]  # (k, k)  the identity where the divisor is zero, else zero
    least: Array  # ()  smallest pivot of all; zero where a divisor is


def core_factors(theta: Array, structures: Sequence[Structure]) -> CoreFactors:
    """Factors of the core's terms from their own part of theta.

    A triangular factor keeps coefficients of unlike variance apart; a symmetric one mixes
    them, and rounding of the large ones is divided by the smallest pivot.
    """
    xp = namespace(theta)
    blocks, inverses, divisors, direct, pivots = [], [], [], [], []
    for structure, at in zip(structures, theta_slices(structures), strict=True):
        inverse, divides = structure.inverse(theta[at])
        size = structure.pivot_sizes(theta[at])
        if not structure.unrestricted:
            divides = divides & (xp.min(size) > _EVEN * xp.max(size))
        blocks.append(structure.factor(theta[at]))
        inverses.append(inverse)
        divisors.append(xp.where(divides, inverse, 0.0))
        direct.append(xp.where(divides, 0.0, xp.eye(structure.k, dtype=theta.dtype)))
        pivots.append(xp.where(divides, size, 0.0))
    least = xp.min(xp.concatenate(pivots))
    return CoreFactors(tuple(blocks), tuple(inverses), tuple(divisors), tuple(direct), least)
