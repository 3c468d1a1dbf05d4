"""Checks of data against model, each with what was got, what is needed and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError, IdentificationWarning, RankWarning, warn_user
from ..inputs.arguments import number
from ..inputs.arrays import numbers, plain
from ..inputs.matching import row_shown
from ..numerics.namespace import namespace
from .identification import (
    MOST_DERIVATIVES,
    Moments,
    confounded_terms,
    is_within,
    overlapping_terms,
)
from .residual import Residual
from .terms import RandomTerm

# Cross-products of the levels of a factor up to which its terms are compared (80 MB).
_MANY_PRODUCTS = 10_000_000
# R's tolerance for a column that depends on the ones before it.
DEPENDENT_TOL = 1e-7
# Share of a column that others leave from which it depends on them nearly, not up to rounding.
_NEARLY = 1e-12
# Relative size below which what is left of y is the rounding of rows; of sums over rows it is
# that share of the squares of y.
EXACT_TOL = 1e-12
# Scaled cross-products tell full rank apart down to here; below, the rows are factorized.
_SAFE_PIVOT = 1e-8
# Rows of a sample, and the pivot from which its rank is that of all rows.
_SAMPLE, _SURE_PIVOT = 1 << 13, 1e-4
# Residual standard deviations whose squares are numbers, this and its inverse.
_LEAST_SIGMA = 1e-100
# Sums of squares that have lost nothing to the limits of floats.
_SQUARES = 1e-200, 1e200
# Columns that are compared with those before them in one product, and dependent ones named.
_BLOCK, _NAMED = 64, 20
# Covariates beyond this leave no room for variances of their coefficients.
_SMALLEST, _LARGEST = 1e-120, 1e120


def finite_vector(values: Any, what: str, index: pd.Index[Any] | None = None) -> np.ndarray:
    """float64 array of finite numbers, one entry or several a row; ``index`` names the rows."""
    out = numbers(plain(values, what), what)
    with np.errstate(all="ignore"):
        total = out.sum()  # one pass; NaN and infinity stay in it
    if not np.isfinite(total) and not np.isfinite(out).all():
        row = int(np.flatnonzero(~np.isfinite(out).reshape(len(out), -1).all(axis=1))[0])
        first = row_shown(row, index)
        raise DataError(f"{what} has a NaN or infinite value (first in {first})")
    return out


def explained_exactly(largest: Any, spread: Any, weight: Any) -> Any:
    """Norm of what is left of y at or below which y counts as explained without a residual.

    Parameters
    ----------
    largest : float or array
        Largest ``|y|``.
    spread : float or array
        Norm of y around its mean, in units of ``largest``.
    weight : float or array
        Sum of the prior weights.
    """
    xp = namespace(largest, spread, weight)
    rounding = 2.0 * float(np.finfo(float).eps) * xp.sqrt(weight)
    return largest * xp.maximum(EXACT_TOL * spread, rounding)


def optional_vector(
    values: Any, what: str, index: pd.Index[Any] | None = None
) -> np.ndarray | None:
    """:func:`finite_vector`, or None if nothing was given."""
    return None if values is None else finite_vector(values, what, index)


def check_shapes(
    y: np.ndarray,
    X: np.ndarray,
    terms: Sequence[RandomTerm],
    weights: np.ndarray | None,
    index: pd.Index[Any],
) -> None:
    """Finite numbers, positive weights, covariates in units that floats have room for."""
    finite_vector(y, "the response", index)
    finite_vector(X, "the fixed-effects design", index)
    for term in terms:
        values = finite_vector(term.values, f"the random-effects design of {term.text}", index)
        check_units(values.reshape(-1, len(term.names)), term.names)
    if weights is not None:
        check_weights(weights, index)


def check_units(columns: np.ndarray, names: Sequence[str]) -> None:
    """No column is so small or large that squares of coefficients leave the range of floats."""
    ends = columns.max(initial=0.0), -columns.min(initial=0.0)
    if max(ends) <= _LARGEST and (np.abs(columns[:_SAMPLE]).max(axis=0) >= _SMALLEST).all():
        return  # without a look at every column of many rows
    largest = np.maximum(columns.max(axis=0, initial=0.0), -columns.min(axis=0, initial=0.0))
    bad = (largest > 0) & ((largest < _SMALLEST) | (largest > _LARGEST))
    if bad.any():
        j = int(np.argmax(bad))
        raise DataError(
            f"`{names[j]}` reaches {largest[j]:.2g}: floats have no room for the variances of its "
            "coefficients. Give it in another unit"
        )


def check_weights(weights: np.ndarray, index: pd.Index[Any] | None = None) -> None:
    """Every row has a positive weight."""
    if (weights <= 0).any():
        row = int(np.flatnonzero(weights <= 0)[0])
        raise DataError(
            f"weights must be positive; {row_shown(row, index)} has {weights[row]:g}: drop that row"
        )


def check_rank(n: int, p: int) -> None:
    """More rows than fixed effects."""
    if p >= n:
        raise DataError(
            f"{n} rows cannot determine {p} fixed effects and a variance: "
            "use more rows or fewer terms"
        )


def check_related(terms: Sequence[RandomTerm], residual: Residual | None) -> None:
    """Related levels stand beside residuals that are independent."""
    if residual is not None and any(term.relationship is not None for term in terms):
        raise DataError(
            f"relatedness= beside the residual covariance {residual.text}: related levels are "
            "fitted with independent residuals only. Describe what rows have in common by random "
            "effects, such as (1 | id), or leave relatedness= out"
        )


def check_sigma(sigma: float | None, residual: Residual | None) -> None:
    """A known residual standard deviation stands beside residuals of one variance."""
    if sigma is not None and residual is not None:
        raise DataError(
            f"sigma= beside the residual covariance {residual.text}, whose variances are "
            "estimated: leave one of them out"
        )


def check_levels(terms: Sequence[RandomTerm]) -> None:
    """Every factor has more than one level."""
    for term in terms:
        if not term.is_component and term.n_seen < 2:
            raise DataError(
                f"the grouping factor {term.group!r} has one level only: its variance cannot be "
                "estimated. Drop the random effect or choose another factor"
            )


def without_absorbed(
    terms: Sequence[RandomTerm], X: np.ndarray, *, stay: bool, alone: bool
) -> tuple[list[RandomTerm], tuple[str, ...]]:
    """The terms but for those whose columns X has, `factor(g) + (1 | g)`, and what these are.

    Nothing tells of their variances: REML, of error contrasts, does not depend on them, and ML
    puts them at zero. The others are the model then. All stay if they have to, or where there are
    no others (``alone``: nor a residual covariance), and components, which have names of their
    own.
    """
    found = [
        term
        for term in terms
        if term.relationship is None
        and term.n_seen * len(term.names) <= X.shape[1]
        and is_within(term, X)
    ]
    stay = stay or (alone and len(found) == len(terms))
    gone = [] if stay else [term for term in found if not term.is_component]
    for term in found:
        end = ", and the term is left out" if term in gone else ""
        warn_user(
            f"the fixed effects have a column for every coefficient of {term.text}: its variances "
            f"are not identified{end}. Let {term.group!r} be fixed or random",
            IdentificationWarning,
        )
    return [t for t in terms if t not in gone], tuple(term.text for term in gone)


def check_overlap(terms: Sequence[RandomTerm]) -> None:
    """Warn of terms of one factor that overlap: `(1 | g) + (x | g)`."""
    by_factor: dict[str, list[RandomTerm]] = {}
    for term in terms:
        if not term.is_component and term.relationship is None:
            by_factor.setdefault(term.group, []).append(term)
    for own in by_factor.values():
        K = sum(len(term.names) for term in own)
        few = K * K <= MOST_DERIVATIVES and own[0].n_levels * K * K <= _MANY_PRODUCTS
        found = [own[t] for t in overlapping_terms(own)] if len(own) > 1 and few else []
        if len(found) > 1:
            warn_user(
                f"{' and '.join(term.text for term in found)} overlap: the rows tell the sum of "
                "their covariances alone, and how it is divided is arbitrary. Leave one of them "
                "out, or the columns that it shares, as in `(1 | g) + (0 + x | g)`",
                IdentificationWarning,
            )


def read_sigma(value: Any) -> float | None:
    """A residual standard deviation that is known; None where it is estimated."""
    if value is None:
        return None
    sigma = number(value, "sigma", above=0.0)
    if not _LEAST_SIGMA < sigma < 1.0 / _LEAST_SIGMA:
        raise DataError(f"sigma={sigma:g}: its square leaves the range of floats")
    return sigma


def check_identified(
    terms: Sequence[RandomTerm], n: int, p: int, find: Callable[[], list[RandomTerm]]
) -> None:
    """The residual variance is identified.

    Parameters
    ----------
    terms : sequence of RandomTerm
    n, p : int
        Rows and columns of X.
    find : callable
        Gives the terms from which the residual variance cannot be told; called only where
        counting does not decide.
    """
    # as many random coefficients as the rows have dimensions beside X, or there is a residual
    if sum(term.n_seen * len(term.names) for term in terms) < n - p:
        return
    found = find()
    if found:
        raise DataError(_why_confounded(found, n))
    too_many = [t for t in terms if t.structure.linear and _counts_too_many(t, n)]
    for term in too_many:
        warn_user(
            f"{term.text} has {term.n_levels * len(term.names)} random coefficients for {n} "
            "rows: only their covariates and the weights tell them from the residual, and lme4 "
            "would refuse. Look at the standard errors of the variances",
            IdentificationWarning,
        )


def confounded(
    terms: Sequence[RandomTerm], n: int, moments: Callable[[], Moments]
) -> list[RandomTerm]:
    """Terms from which the residual variance cannot be told; none if it is identified."""
    if sum(len(term.names) ** 2 for term in terms) > MOST_DERIVATIVES:
        return [term for term in terms if _counts_too_many(term, n)]
    return [terms[t] for t in confounded_terms(moments())]


def _counts_too_many(term: RandomTerm, n: int) -> bool:
    """lme4's rule: as many levels, or random coefficients, as rows."""
    if term.relationship is not None:  # which tells its effects from the residual
        return False
    one_a_row = term.codes.shape[1] == 1
    return term.n_levels * len(term.names) >= n and (one_a_row or not term.is_component)


def _why_confounded(terms: Sequence[RandomTerm], n: int) -> str:
    first = terms[0]
    if any(term.relationship is not None for term in terms):
        return (
            f"{' and '.join(term.text for term in terms)}: the residual variance cannot be told "
            "from these effects, as where ids with one row each are unrelated, or all related "
            "alike. Drop one of them"
        )
    if len(terms) == 1 and first.codes.shape[1] == 1 and first.n_levels >= n:
        return (
            f"{first.group!r} has {first.n_levels} levels for {n} rows: with one row per level "
            "the random effect cannot be told from the residual. Drop it, or use a coarser factor"
        )
    labels = " and ".join(term.text for term in terms)
    factor = re.fullmatch(r"0 \+ (?:C\()?(\w+)\)? \| (.+)", first.label)
    meant = ""
    if len(terms) == 1 and factor is not None:
        meant = f", or write a covariance of the residuals, `us({factor[1]} | {factor[2]})`"
    count = sum(term.n_levels * len(term.names) for term in terms)
    return (
        f"{labels} has {count} random coefficients for {n} rows: the residual variance cannot be "
        f"told from them. Use fewer columns or a coarser factor{meant}"
        if len(terms) == 1
        else f"{labels} have {count} random coefficients for {n} rows, and together they "
        "cannot be told from the residual variance: drop one of them"
    )


def check_response(y: np.ndarray, name: str) -> None:
    """The response varies."""
    if (y == y[0]).all():
        raise DataError(
            f"the response {name!r} is constant: there is nothing to explain (for lmm.power "
            "and lmm.simulate any numbers will do that vary)"
        )


def independent_columns(X: np.ndarray, names: Sequence[str]) -> tuple[int, ...]:
    """Columns of X that do not depend on columns before them; warns of the others.

    As in R, the first of a set of dependent columns stays, and a covariate goes whose spread is
    1e-7 of its size: means and tests of others would lose their digits beside it.
    """
    if not X.shape[1] or _full_rank(X):
        return tuple(range(X.shape[1]))
    check_units(X, names)
    share = _orthogonal_shares(X)
    kept = np.flatnonzero(share >= DEPENDENT_TOL).tolist()
    if len(kept) == len(X) < X.shape[1]:  # more columns than rows are refused as they are
        return tuple(range(X.shape[1]))
    dropped = np.flatnonzero(share < DEPENDENT_TOL)
    if dropped.size:
        which, nearly = ", ".join(names[j] for j in dropped[:_NAMED].tolist()), ""
        which += f" and {dropped.size - _NAMED:,} more" if dropped.size > _NAMED else ""
        if share[dropped].max() > _NEARLY:
            nearly = " (nearly: covariates measured from values near their means may tell them)"
        warn_user(
            f"the fixed-effects design is rank deficient: dropped {which}{nearly}", RankWarning
        )
    return tuple(kept)


def _full_rank(X: np.ndarray) -> bool:
    """Quick and safe: True only if the scaled cross-products are far from singular.

    A well-conditioned sample of many rows settles it: more rows take no rank away.
    """
    if X.shape[1] > len(X):
        return False
    step = len(X) // _SAMPLE
    if step > 1 and _scaled_pivot(X[::step]) > _SURE_PIVOT:
        return True
    return _scaled_pivot(X) > _SAFE_PIVOT


def _scaled_pivot(X: np.ndarray) -> float:
    """Smallest pivot of the cross-products of X with columns of length one; 0 where unsure."""
    with np.errstate(all="ignore"):
        gram = X.T @ X
    squares = np.diagonal(gram)
    if not ((squares > _SQUARES[0]) & (squares < _SQUARES[1])).all():
        return 0.0
    norms = np.sqrt(squares)
    gram = gram / np.outer(norms, norms)
    try:
        return float(np.diagonal(np.linalg.cholesky(gram)).min() ** 2)
    except np.linalg.LinAlgError:
        return 0.0


def _orthogonal_shares(X: np.ndarray) -> np.ndarray:
    """Share of every column's length that is orthogonal to the independent ones before it, (p,).

    A dependent column is left out of those that the following are compared with.
    """
    n, p = X.shape
    largest = np.abs(X).max(axis=0, initial=0.0)
    share, count = np.zeros(p), 0
    Q = np.empty((n, min(n, p)), order="F")
    for first in range(0, p, _BLOCK):
        if count == n:  # of as many columns as rows every other one is a combination
            break
        at = np.arange(first, min(first + _BLOCK, p))
        at = at[largest[at] > 0]
        B = X[:, at] / largest[at]  # squares stay in the range of floats
        B = B / np.sqrt(np.einsum("ij,ij->j", B, B))
        before = count
        for _ in range(2):
            B -= Q[:, :before] @ (Q[:, :before].T @ B)
        for j, v in zip(at.tolist(), B.T, strict=True):
            for start in (before, 0):  # those of the block, and all for what is small now
                known = Q[:, start:count]
                v = v - known @ (known.T @ v)
            share[j] = np.linalg.norm(v)
            if share[j] >= DEPENDENT_TOL and count < Q.shape[1]:
                Q[:, count] = v / share[j]
                count += 1
    return share
