"""Factors of the core's terms, and where the core may be divided by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jax import Array

from ...covariance.structures import Structure
from ...covariance.theta import theta_slices
from ...numerics.namespace import namespace

# What dividing by Lambda and multiplying by it again may make of rounding (Skeel's condition
# number).
_ROUNDING = 1e4


class CoreFactors(NamedTuple):
    """Lambda of every term of the core."""

    blocks: tuple[Array, ...]  # (k, k)  Lambda
    inverses: tuple[Array, ...]  # (k, k)  Lambda^-1, zero where Lambda is singular
    divisors: tuple[Array, ...]  # (k, k)  the same, zero as well where dividing costs digits
    direct: tuple[Array, ...]  # (k, k)  the identity where the divisor is zero, else zero
    least: Array  # ()  smallest pivot of all; zero where a divisor is


def core_factors(theta: Array, structures: Sequence[Structure]) -> CoreFactors:
    """Factors of the core's terms from their own part of theta.

    Coefficients of unlike variance are kept apart as long as the factor does not mix them: a
    diagonal one can be divided by, whatever its pivots; one with a small pivot above larger numbers
    of its column, and a symmetric one of unlike pivots, cannot.

    References
    ----------
    Skeel (1979), doi:10.1145/322139.322140.
    """
    xp = namespace(theta)
    blocks, inverses, divisors, direct, pivots = [], [], [], [], []
    for structure, at in zip(structures, theta_slices(structures), strict=True):
        inverse, divides = structure.inverse(theta[at])
        factor, size = structure.factor(theta[at]), structure.pivot_sizes(theta[at])
        divides = divides & (xp.max(xp.abs(factor) @ xp.abs(inverse)) < _ROUNDING)
        blocks.append(factor)
        inverses.append(inverse)
        divisors.append(xp.where(divides, inverse, 0.0))
        direct.append(xp.where(divides, 0.0, xp.eye(structure.k, dtype=theta.dtype)))
        pivots.append(xp.where(divides, size, 0.0))
    least = xp.min(xp.concatenate(pivots))
    return CoreFactors(tuple(blocks), tuple(inverses), tuple(divisors), tuple(direct), least)
