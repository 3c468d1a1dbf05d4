"""Variances of predictions: what is known of ``x' beta + z' b`` at any row.

With Phi the covariance of the fixed effects, C that of the random effects given y at known
parameters and ``D = d b_hat / d beta = -G Z' V^-1 X``

    Var(x' beta_hat)                                  =  x' Phi x
    Var(x' (beta_hat - beta) + z' (b_hat - b))        =  z' C z + w' Phi w        w = x + D' z

since ``b_hat - b`` at the true beta is independent of ``beta_hat``. A level that the fit has not
seen has b_hat = 0 and adds ``z' Sigma z``. Theta is taken as known throughout.

Where residuals go on from those of the fit, ``e = A e_old + u``
(:mod:`lmm_jax.inference.residuals.rows`), the conditional mean of a row is

    x' beta_hat + z' b_hat + A (y - X beta_hat - Z b_hat)
        = A y + (x - A X)' beta_hat + (z - A Z)' b_hat

whose error is that of the row ``x - A X, z - A Z``; ``Var(u)`` comes on top for an observation.

References
----------
Henderson (1975), doi:10.2307/2529430; McLean, Sanders & Stroup (1991),
doi:10.1080/00031305.1991.10475767.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse

from ...designs.design import Design
from ...layouts.crossed.layout import CrossedLayout
from ..df.methods import DfMethod
from ..tails.student import two_sided_quantile
from .joint_effects import GroupEffects, row_variances
from .random_effects import TermRows

# Numbers in the largest arrays of one step over the rows (32 MiB).
_CHUNK = 1 << 22


class BlupErrors(NamedTuple):
    """What the errors of predictions with random effects are made of."""

    design: Design
    effects: GroupEffects
    slopes: Sequence[np.ndarray]  # (L, k, p) a term: derivative of the BLUPs in beta


def population_variance(X: np.ndarray, cov_beta: np.ndarray) -> np.ndarray:
    """``x' Phi x`` of every row, in the unit of Phi, (n,)."""
    return np.asarray(np.maximum(np.sum((X @ cov_beta) * X, axis=1), 0.0))


def conditional_variance(
    at: BlupErrors, X: np.ndarray, terms: Sequence[TermRows], cov_beta: np.ndarray
) -> np.ndarray:
    """Variance of ``x' (beta_hat - beta) + z' (b_hat - b)`` relative to sigma^2, (n,).

    Unseen levels are left out: ``z = 0`` for their terms.

    Parameters
    ----------
    at : BlupErrors
    X : ndarray, shape (n, p)
    terms : sequence of TermRows
    cov_beta : ndarray, shape (p, p)
        Relative to sigma^2.
    """
    if not terms:
        return population_variance(X, cov_beta)
    out = np.empty(len(X))
    for rows in _steps(at, len(X), terms):
        some = [term.take(rows).seen() for term in terms]
        w = X[rows].astype(np.float64)
        for (codes, values), slopes in zip(some, at.slopes, strict=True):
            for s in range(codes.shape[1]):
                w += np.einsum("nk,nkp->np", values[:, s], slopes[codes[:, s]])
        own = row_variances(at.effects, at.design, *map(list, zip(*some, strict=True)))
        out[rows] = own + population_variance(w, cov_beta)
    return out


def gone_on(
    X: np.ndarray, terms: Sequence[TermRows], design: Design, through: scipy.sparse.csr_array
) -> tuple[np.ndarray, tuple[TermRows, ...]]:
    """``x - A X`` and ``z - A Z`` of n rows that go on from rows of the fit.

    Parameters
    ----------
    X : ndarray, shape (n, p)
    terms : sequence of TermRows
        Unseen levels are left out.
    design : Design
        Of the fit.
    through : csr_array, shape (n, rows of the fit)
        A.
    """
    counts = np.asarray(np.diff(through.indptr))
    some = np.arange(counts.max(initial=0)) < counts[:, None]
    row, share = (np.zeros((len(X), some.shape[-1]), dtype) for dtype in (np.int64, float))
    row[some], share[some] = through.indices, through.data
    out = []
    for own, term in zip(terms, design.terms, strict=True):
        codes, values = own.seen()
        before = share[:, :, None, None] * term.values[row]
        shape = (len(X), row.shape[1] * term.codes.shape[1])
        out.append(
            TermRows(
                np.concatenate([codes, term.codes[row].reshape(shape)], axis=1),
                np.concatenate([values, -before.reshape(*shape, values.shape[2])], axis=1),
            )
        )
    return np.asarray(X - through @ design.exog), tuple(out)


def _steps(at: BlupErrors, n: int, terms: Sequence[TermRows]) -> Iterator[slice]:
    """Rows by steps that keep arrays small."""
    K = sum(term.values[0].size for term in terms) if n else 1
    crossed = isinstance(at.design.compressed.layout, CrossedLayout)
    core = K * len(at.effects.covariances[-1]) if crossed else 0
    width = max(1, K * K, K * at.slopes[0].shape[-1], core)
    step = max(1, _CHUNK // width)
    return (slice(i, i + step) for i in range(0, n, step))


def level_variance(
    terms: Sequence[TermRows], covariances: Sequence[np.ndarray], *, unseen: bool
) -> np.ndarray:
    """``sum z' Sigma z`` over the terms of each row, or over those with an unseen level, (n,).

    Parameters
    ----------
    terms : sequence of TermRows
    covariances : sequence of ndarray, shape (k, k)
        Of every term, in the units of the data.
    unseen : bool
        Only the terms of a row whose level the fit has not seen.
    """
    total = np.zeros(len(terms[0].codes))
    for term, Sigma in zip(terms, covariances, strict=True):
        own = np.einsum("nsk,kl,nsl->n", term.values, Sigma, term.values)
        total += np.where(term.unseen, own, 0.0) if unseen else own
    return total


def row_df(tests: DfMethod, X: np.ndarray) -> np.ndarray:
    """Degrees of freedom of ``x' beta`` for every row, (n,); equal rows are computed once."""
    if not X.shape[1]:
        return np.full(len(X), np.inf)
    distinct, place = np.unique(X, axis=0, return_inverse=True)
    found = np.empty(len(distinct))
    step = max(1, _CHUNK // (X.shape[1] * 64))
    for i in range(0, len(distinct), step):
        found[i : i + step] = tests.of_contrasts(distinct[i : i + step])
    return found[place.ravel()]


def half_width(variance: np.ndarray, df: np.ndarray, level: float) -> np.ndarray:
    """Half the length of t intervals, (n,); nothing where there is no variance."""
    return np.where(variance == 0, 0.0, two_sided_quantile(level, df) * np.sqrt(variance))


def leverages(
    at: BlupErrors,
    X: np.ndarray,
    terms: Sequence[TermRows],
    cov_beta: np.ndarray,
    noise: np.ndarray,
) -> np.ndarray:
    """Share of its residual variance that a row loses to its fitted value, (n,).

        h_i = Var(x_i' (beta_hat - beta) + z_i' (b_hat - b)) / (sigma^2 v_i)

    With ``P = V^-1 - V^-1 X Phi X' V^-1`` and N the residual covariance relative to sigma^2, v its
    diagonal, the residuals are ``N P y``, of covariance ``N P N``, and the errors of the fitted
    values have the covariance ``N - N P N``. Where residuals are independent h is the derivative
    of the fitted value in its response at known theta, lme4's hat value.
    """
    return conditional_variance(at, X, terms, cov_beta) / noise
