"""Residuals as quantiles of simulated responses, and tests of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Quantiles(NamedTuple):
    """Where each response lies among m simulated ones."""

    scaled: np.ndarray  # (n,)  in [0, 1]
    outside: np.ndarray  # (n,)  bool: below or above all of them
    spread: float  # variance of y - mean over the rows
    spreads: np.ndarray  # (m,)  the same of every simulation


class ResidualTest(NamedTuple):
    """A statistic and its p value."""

    statistic: float
    p_value: float


def scaled_quantiles(
    y: np.ndarray, mean: np.ndarray, draws: Iterable[np.ndarray], rng: np.random.Generator
) -> Quantiles:
    """Empirical distribution function of the draws of each row at its response.

    The share of draws below y; where some are equal to it, uniform between the shares below and
    not above.

    Parameters
    ----------
    y, mean : ndarray, shape (n,)
        Responses, and what is subtracted for the spread.
    draws : iterable of ndarray, shape (n, s)
        Simulated responses, m in all.
    rng : numpy.random.Generator
        For ties.
    """
    below, ties, total = np.zeros(y.size, np.int64), np.zeros(y.size, np.int64), 0
    spreads = []
    for part in draws:
        below += (part < y[:, None]).sum(axis=1)
        ties += (part == y[:, None]).sum(axis=1)
        total += part.shape[1]
        spreads.append(np.var(part - mean[:, None], axis=0))
    where = below + np.where(ties > 0, rng.uniform(size=y.size) * ties, 0.0)
    return Quantiles(
        scaled=where / total,
        outside=((below == 0) & (ties == 0)) | (below == total),
        spread=float(np.var(y - mean)),
        spreads=np.concatenate(spreads),
    )


def uniformity(scaled: np.ndarray) -> ResidualTest:
    """Kolmogorov-Smirnov: largest distance from the uniform distribution."""
    from scipy import stats  # takes half a second to import

    found = stats.kstest(scaled, "uniform")
    return ResidualTest(float(found.statistic), float(found.pvalue))


def dispersion(spread: float, spreads: np.ndarray) -> ResidualTest:
    """Ratio of the variance of the residuals to its mean over simulations, two-sided.

    ``p = 2 (1 + min(#{s >= s_obs}, #{s <= s_obs})) / (1 + m)``, at most 1.
    """
    fewer = min(int((spreads >= spread).sum()), int((spreads <= spread).sum()))
    p = min(1.0, 2.0 * (1 + fewer) / (1 + spreads.size))
    return ResidualTest(spread / float(np.mean(spreads)), p)


def outliers(outside: np.ndarray, n_draws: int) -> ResidualTest:
    """How many responses lie outside all m simulated ones; exact binomial, two-sided.

    A response like the simulated ones does so with probability ``2 / (m + 1)``.
    """
    from scipy import stats  # takes half a second to import

    count = int(outside.sum())
    test = stats.binomtest(count, outside.size, 2.0 / (n_draws + 1))
    return ResidualTest(float(count), float(test.pvalue))
