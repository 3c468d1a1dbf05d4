"""Comparison arrows: lengths such that two of them overlap where two means do not differ."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import optimize

# Pull towards arrows of one length to both sides, where the pairs leave the choice.
_SYMMETRY = 1e-3
# Of a pair on the wrong side, against the least squares.
_PRICE = 1e4
# By how much of the difference arrows stay apart, or overlap, at least.
_MARGIN = 0.02


class Arrows(NamedTuple):
    """Lengths of the arrows of some means, in their units."""

    left: np.ndarray  # (k,)  towards smaller values; 0 for the least mean
    right: np.ndarray  # (k,)
    wrong: int  # pairs whose arrows say something else than their test


def comparison_arrows(estimate: np.ndarray, critical: np.ndarray, differs: np.ndarray) -> Arrows:
    """Arrows from every mean towards the others.

    Of two means with the difference d the arrows that point to each other have lengths whose sum
    is to be the least significant difference c of the pair: they overlap where ``d < c``. There
    are more pairs than arrows, so the sums are met by weighted least squares, pairs with d near c
    first, under the condition that each pair is on the right side of d.

    Parameters
    ----------
    estimate : ndarray, shape (k,)
    critical : ndarray, shape (k (k - 1) / 2,)
        c of every pair, in the order (0, 1), (0, 2), .., (1, 2), ..
    differs : ndarray of bool, shape (k (k - 1) / 2,)
        Whether the pair is significantly different.

    Notes
    -----
    Where the critical differences of all pairs are one number c, arrows of the length ``c / 2``
    solve it; with others there may be no solution, and ``wrong`` counts the pairs whose arrows say
    something else than their test.

    Examples
    --------
    >>> means, critical = np.array([0.0, 1.0, 3.5]), np.full(3, 2.0)
    >>> arrows = comparison_arrows(means, critical, np.array([False, True, True]))
    >>> arrows.right.round(4).tolist(), arrows.left.round(4).tolist(), arrows.wrong
    ([1.0, 1.0, 0.0], [0.0, 1.0, 1.0], 0)
    """
    k = len(estimate)
    i, j = np.triu_indices(k, 1)
    low, high = np.where(estimate[i] <= estimate[j], (i, j), (j, i))
    d = np.abs(estimate[j] - estimate[i])
    known = np.isfinite(d) & np.isfinite(critical)
    low, high, d, c, differs = (v[known] for v in (low, high, d, critical, differs))
    A = np.zeros((len(d), 2 * k))  # right arrows, then left ones
    A[np.arange(len(d)), low] += 1.0
    A[np.arange(len(d)), k + high] += 1.0
    weight = 1.0 / np.sqrt(0.1 + np.abs(d / c - 1.0))
    pull = _SYMMETRY * np.hstack([np.eye(k), -np.eye(k)])
    rows, sums = np.vstack([weight[:, None] * A, pull]), np.append(weight * c, np.zeros(k))
    found = optimize.lsq_linear(rows, sums, bounds=(0.0, np.inf)).x
    sign = np.where(differs, -1.0, 1.0)
    bound = sign * d * (1.0 + sign * _MARGIN)
    if np.any(sign * (A @ found) < bound - 1e-12):
        found = _on_their_sides(rows, sums, sign[:, None] * A, bound, found)
    total = A @ found
    used = np.zeros(2 * k, bool)
    used[low], used[k + high] = True, True
    found = np.where(used, found, 0.0)
    wrong = int(np.sum(np.where(differs, total >= d, total < d)))
    return Arrows(left=found[k:], right=found[:k], wrong=wrong)


def _on_their_sides(
    rows: np.ndarray, sums: np.ndarray, A: np.ndarray, bound: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Least squares with ``A x >= bound`` as far as that is possible, and ``x >= 0``."""
    unit = float(np.abs(sums).max())  # of the lengths, so that the price has a meaning
    b, ends = sums / unit, bound / unit

    def price(x: np.ndarray) -> tuple[float, np.ndarray]:
        rest, lack = rows @ x - b, np.maximum(ends - A @ x, 0.0)
        slope = rows.T @ rest - _PRICE * A.T @ lack
        return float(0.5 * rest @ rest + 0.5 * _PRICE * lack @ lack), slope

    done = optimize.minimize(
        price,
        start / unit,
        jac=True,
        bounds=[(0.0, None)] * len(start),
        method="L-BFGS-B",
        options={"maxiter": 2000, "ftol": 1e-12, "gtol": 1e-8},
    )
    return np.asarray(unit * done.x)
