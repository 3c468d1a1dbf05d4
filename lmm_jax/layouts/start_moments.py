"""Start values from moments: what the sums of squares of a layout say about each coefficient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jax import Array

from ..covariance.structures import Structure
from ..numerics.namespace import namespace

# Variances of random effects, in units of sigma^2, between which a search starts.
_LEAST, _MOST = 1e-4, 1e8


class ColumnMoments(NamedTuple):
    """Sums over the groups of one bucket for every column a of T."""

    observed: Array  # (q,)  sum |T_a' c_y|^2
    first: Array  # (q,)  sum |T_a|^2
    second: Array  # (q,)  sum |T_a|^4


def column_moments(T: Array, c_y: Array, copies: Array) -> ColumnMoments:
    """Moments of a bucket with the factors T, (q, q, G), and the responses c_y, (q, G)."""
    xp = namespace(T, c_y, copies)
    norms = xp.sum(T**2, axis=0)  # (q, G)
    return ColumnMoments(
        observed=xp.sum(xp.sum(T * c_y[:, None], axis=0) ** 2, axis=1),
        first=xp.sum(norms * copies[None], axis=1),
        second=xp.sum(norms**2 * copies[None], axis=1),
    )


def moment_theta(
    moments: Sequence[ColumnMoments],
    widths: Sequence[tuple[int, ...]],
    sigma2: Array,
    structures: Sequence[Structure],
) -> Array:
    """Moment estimate of one relative standard deviation a coefficient, as theta, (m,).

    ``E |T_a' c|^2 = sigma^2 (sum |T_a|^2 + psi sum |T_a|^4)`` for every column a of T.

    Parameters
    ----------
    moments : sequence of ColumnMoments
        One a bucket.
    widths : sequence of tuple of int
        Levels of each term in a group, one tuple a bucket.
    sigma2 : Array, shape ()
        Residual variance, from what no random effect reaches.
    structures : sequence of Structure
        One a term.
    """
    xp = namespace(sigma2)
    parts, start = [], [0] * len(moments)
    for t, structure in enumerate(structures):
        k = structure.k
        stop = [s + k * own[t] for s, own in zip(start, widths, strict=True)]
        at = _of_columns(moments, start, stop, k)
        psi = (at.observed / xp.maximum(sigma2, 1e-300) - at.first) / xp.maximum(at.second, 1e-300)
        psi = xp.where(xp.isfinite(psi), xp.clip(psi, _LEAST, _MOST), 1.0)
        parts.append(structure.start(xp.sqrt(psi)))
        start = stop
    return xp.concatenate(parts)


def _of_columns(
    moments: Sequence[ColumnMoments], start: Sequence[int], stop: Sequence[int], k: int
) -> ColumnMoments:
    """Moments of the k coefficients of one term: its columns, summed over levels and buckets."""
    xp = namespace(moments[0].first)
    at = ColumnMoments(*(xp.zeros(k, moments[0].first.dtype) for _ in range(3)))
    for own, i, j in zip(moments, start, stop, strict=True):
        levels = (part[i:j].reshape(-1, k).sum(axis=0) for part in own)
        at = ColumnMoments(*(a + b for a, b in zip(at, levels, strict=True)))
    return at
