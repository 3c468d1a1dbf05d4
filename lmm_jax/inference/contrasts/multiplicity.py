"""P values and critical values of several comparisons, adjusted for their number.

The names and rules are those of the R package emmeans (``tukey``, ``sidak``, ``dunnettx``, ...);
``dunnett`` is Dunnett's exact test, and ``mvt`` is computed without simulation noise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.polynomial.chebyshev import Chebyshev, chebpts1
from scipy import special

from ...errors import DataError
from ...inputs.arguments import choice, probability
from ..tails.multivariate_t import joint_tail
from ..tails.normal import Tail, range_tail, tabulated
from ..tails.roots import StudentTails, root, roots
from ..tails.student import INFINITE_DF, f_tail, over_scales, student_quantile, student_tail
from .stepwise import STEPWISE, stepwise

ADJUSTMENTS = (
    *("none", "tukey", "sidak", "bonferroni", "holm", "hochberg", "hommel", "fdr"),
    *("scheffe", "dunnett", "dunnettx", "mvt"),
)
# What others call some of them.
ELSEWHERE = {
    "bh": "fdr", "benjamini-hochberg": "fdr", "fdr_bh": "fdr", "lsd": "none",
    "hsd": "tukey", "tukeyhsd": "tukey", "bonf": "bonferroni", "single-step": "mvt",
}  # fmt: skip
# Alternatives by their sides, and others' words for them.
ALTERNATIVES = {0: "two-sided", -1: "less", 1: "greater"}
SIDES = {word: side for side, word in ALTERNATIVES.items()}
SIDES |= {"<": -1, ">": 1, "left": -1, "right": 1}
# Adjustments that look at the correlation of the statistics, and the most contrasts of one.
_JOINT = ("dunnett", "mvt")
_MOST = 4096
# Adjustments of |t|, for which one-sided tests have no counterpart.
_TWO_SIDED = ("tukey", "scheffe", "dunnettx")
# Eigenvalues of a correlation below it do not count for its rank.
_RANK_TOL = 1e-8
# Points of a polynomial in 1 / df that gives critical values of many degrees of freedom.
_NODES = 12
# Ratio of these up to which it has the six digits that there are; and up to which it has eleven,
# above so many degrees of freedom, where more than so many critical values are asked for.
_ALIKE, _CLOSE, _SMOOTH, _MANY = 20.0, 2.0, 20.0, 200
# Statistics up to which each asks for the tail itself: a table costs as much as some twenty.
_FEW = 20


class Family(NamedTuple):
    """What the adjustments need to know of the comparisons that are made together."""

    contrasts: int
    means: int = 0  # that are compared; for tukey
    rank: int | None = None  # of the contrasts; for scheffe, else that of the correlation
    pairwise: bool = False  # all differences of the means
    correlation: np.ndarray | None = None  # (contrasts, contrasts)  for mvt and dunnett


def effective(how: str, family: Family, side: int = 0) -> str:
    """The adjustment that is made where another was asked for.

    One contrast is not adjusted (so two means are not). ``tukey`` outside of the pairwise
    differences of one set of means, and ``tukey``, ``scheffe`` and ``dunnettx`` of
    one-sided tests, become ``sidak``, as in emmeans.

    Parameters
    ----------
    how : str
        One of `ADJUSTMENTS`.
    family : Family
    side : {0, -1, 1}
        Two sided, left, right.

    Returns
    -------
    str

    Raises
    ------
    DataError
        If the name or the side is unknown.

    Examples
    --------
    >>> effective("tukey", Family(contrasts=3, means=3, pairwise=True))
    'tukey'
    >>> effective("tukey", Family(contrasts=3))
    'sidak'
    """
    how = choice(how, "adjust", ADJUSTMENTS, elsewhere=ELSEWHERE)
    if side not in (-1, 0, 1):
        raise DataError(f"side={side!r}: choose from -1 (left), 0 (two sided), 1 (right)")
    if how in _TWO_SIDED and side != 0:
        how = "sidak"
    if how == "tukey" and not family.pairwise:
        how = "sidak"
    # a rank above 1 says that the contrast is one of many that might have been looked at
    chosen = how == "scheffe" and (family.rank or 1) > 1
    return "none" if family.contrasts <= 1 and not chosen else how


def adjusted_p_values(
    statistic: np.ndarray, df: np.ndarray | float, how: str, *, family: Family, side: int = 0
) -> np.ndarray:
    """P values of t statistics, adjusted for the family they belong to.

    With p the unadjusted p value and m contrasts:

        none        p
        bonferroni  m p
        sidak       1 - (1 - p)^m
        holm        max_{j <= i} (m - j + 1) p_(j)        p_(1) <= p_(2) <= ...
        hochberg    min_{j >= i} (m - j + 1) p_(j)
        hommel      max_S min_j |S| p_(j:S) / j           over all sets S that contain i
        fdr         min_{j >= i} m p_(j) / j
        scheffe     P(F(r, df) > t^2 / r)                 r the rank
        tukey       P(Q(k, df) > sqrt(2) |t|)             Q the studentized range of k means
        dunnettx    w P(Q(k', df) > sqrt(2) |t|) + (1 - w) sidak
        mvt         P(max_i |T_i| > |t|)                  T multivariate t
        dunnett     the same, for comparisons with a control

    where ``p_(j:S)`` is the j-th least in S, ``w = (m - 1) / m``, ``k' = (1 + sqrt(1 + 8 m)) / 2``;
    at most 1. Upper tails are summed, never ``1 - cdf``: small p values keep their digits.

    Parameters
    ----------
    statistic : ndarray, shape (m,)
        NaN where the contrast cannot be estimated: its p value is NaN, and it does not
        count in the family. To count it, leave out its row and keep ``contrasts``.
    df : ndarray, shape (m,), or float
        Degrees of freedom, each row's own; infinite for normal statistics.
    how : str
        One of `ADJUSTMENTS`; `effective` says what is done with it.
    family : Family
    side : {0, -1, 1}
        Alternative: two sided, less (left), greater (right).

    Returns
    -------
    ndarray, shape (m,)

    Raises
    ------
    DataError
        If the name is unknown, or the family lacks what the adjustment needs.

    Notes
    -----
    tukey and dunnettx are accurate to about 1e-11, relative. dunnett and mvt have about
    the same accuracy where the correlations are ``lambda_i lambda_j`` (comparisons of
    independent means with a control), 1e-8 where their rank is 2; else about 1e-4,
    absolute (4e-4 for some hundred contrasts), and the answer is the same at every call.

    References
    ----------
    Hochberg & Tamhane (1987), doi:10.1002/9780470316672; Dunnett (1955),
    doi:10.1080/01621459.1955.10501294; Benjamini & Hochberg (1995),
    doi:10.1111/j.2517-6161.1995.tb02031.x; Hommel (1988), doi:10.1093/biomet/75.2.383.

    Examples
    --------
    >>> t = np.array([2.5, -1.0, 3.5])
    >>> family = Family(contrasts=3, means=3, pairwise=True)
    >>> adjusted_p_values(t, 20.0, "tukey", family=family).round(4)
    array([0.0531, 0.5854, 0.0061])
    """
    t = np.asarray(statistic, dtype=np.float64) * (-1.0 if side < 0 else 1.0)
    df = np.broadcast_to(np.asarray(df, dtype=np.float64), t.shape)
    known = ~np.isnan(t) & (df > 0)
    family = _of_rows(family, known)
    how = effective(how, family, side)
    out = np.full(t.shape, np.nan)
    out[known] = _p_values(t[known], df[known], how, family, side)
    return out


def critical_values(
    df: np.ndarray | float, how: str, level: float, family: Family, side: int = 0
) -> np.ndarray:
    """Standard errors between an estimate and its simultaneous confidence limits.

    The t at which the adjusted p value is ``1 - level``; for the step-wise procedures
    (holm, hochberg, hommel, fdr) that of Bonferroni's adjustment, as in emmeans.

    Parameters
    ----------
    df : ndarray, shape (m,), or float
        NaN where the contrast cannot be estimated, as in `adjusted_p_values`.
    how : str
        One of `ADJUSTMENTS`.
    level : float
        Of all intervals together, between 0 and 1.
    family : Family
    side : {0, -1, 1}
        0: both limits. -1 (left): only the upper limit is finite; 1: only the lower.

    Returns
    -------
    ndarray, shape (m,)

    Examples
    --------
    >>> family = Family(contrasts=3, means=3, pairwise=True)
    >>> critical_values(np.array([20.0]), "tukey", 0.95, family).round(3)
    array([2.53])
    """
    level = probability(level, "level")
    df = np.atleast_1d(np.asarray(df, dtype=np.float64))
    known = df > 0
    family = _of_rows(family, known)
    how = effective(how, family, side)
    lone, place = np.unique(df[known], return_inverse=True)
    out = np.full(df.shape, np.nan)
    out[known] = _quantiles(lone, how, 1.0 - level, family, side)[place]
    return out


def needs_correlation(how: str, contrasts: int) -> bool:
    """Whether an adjustment looks at the correlation of its contrasts.

    Raises
    ------
    DataError
        More contrasts than a matrix of their size may have.
    """
    needed = how in _JOINT
    if needed and contrasts > _MOST:
        gigabytes = 8.0 * contrasts**2 / 2**30
        raise DataError(
            f"adjust={how!r} needs the correlation of all {contrasts:,} contrasts, "
            f"{gigabytes:.1f} GiB, and {_MOST:,} contrasts are the most: choose fewer (at=, by=), "
            "or an adjustment such as 'tukey', 'sidak' or 'holm'"
        )
    return needed


def _of_rows(family: Family, known: np.ndarray) -> Family:
    """The family without the rows that cannot be estimated."""
    missing = int(np.sum(~known))
    if not missing:
        return family
    left = max(family.contrasts - missing, 0)
    R = family.correlation
    if R is not None and R.shape == (known.size, known.size):
        R = R[np.ix_(known, known)]
    # fewest means with as many differences
    means = int(np.ceil((1.0 + np.sqrt(1.0 + 8.0 * left)) / 2.0))
    return family._replace(
        contrasts=left,
        means=min(family.means, means) if family.pairwise else family.means,
        rank=None if family.rank is None else min(family.rank, left),
        correlation=R,
    )


def _p_values(t: np.ndarray, df: np.ndarray, how: str, family: Family, side: int) -> np.ndarray:
    p = student_tail(t, df, two_sided=side == 0)
    m = family.contrasts
    if how in ("none", "bonferroni"):
        return np.minimum(p * (m if how == "bonferroni" else 1), 1.0)
    if how == "sidak":
        return _sidak(p, m)
    if how in STEPWISE:
        return stepwise(p, how, m)
    if how == "scheffe":
        with np.errstate(over="ignore"):
            square = t * t
        rank = _rank(family)
        return f_tail(square / rank, rank, df)
    size = np.abs(t) if side == 0 else t
    pairs = np.column_stack([size, df])
    lone, place = np.unique(pairs, axis=0, return_inverse=True)
    tail = _single_step(how, family, side, many=len(lone) > _FEW)
    return np.minimum(tail(*lone.T)[place.ravel()], 1.0)


def _sidak(p: np.ndarray, m: int) -> np.ndarray:
    with np.errstate(divide="ignore"):  # p = 1
        return -np.expm1(m * np.log1p(-p))


def _rank(family: Family) -> int:
    if family.rank is not None:
        return family.rank
    R = _correlation(family, "scheffe")
    d = np.linalg.eigvalsh(R)
    return int(np.sum(d > _RANK_TOL * d[-1]))


def _correlation(family: Family, how: str) -> np.ndarray:
    R = family.correlation
    if R is None or R.shape != (family.contrasts, family.contrasts):
        got = "none" if R is None else f"one of shape {R.shape}"
        needed = f"the correlation of the {family.contrasts} contrasts is needed"
        raise DataError(f"adjust={how!r}: {needed}, got {got}")
    return R


def _single_step(how: str, family: Family, side: int, *, many: bool) -> StudentTails:
    """Tail of the largest statistic as a function of arrays of t and df.

    Of many of them the tail of the numerators is read off a table.
    """
    m = family.contrasts
    if how in _JOINT:
        joint = joint_tail(_correlation(family, how), two_sided=side == 0)
        return lambda t, df: np.array([joint(*pair) for pair in zip(t, df, strict=True)])
    if how == "tukey":
        if family.means < 2:
            raise DataError(f"adjust='tukey': the number of means is needed, got {family.means}")
        spread: Tail = range_tail(family.means)
        if many:
            spread = tabulated(spread)
        return lambda t, df: over_scales(spread, t, df)
    ranges: Tail = range_tail((1.0 + np.sqrt(1.0 + 8.0 * m)) / 2.0)
    weight = (m - 1.0) / m
    if many:
        ranges = tabulated(ranges, smooth=False)

    def dunnettx(t: np.ndarray, df: np.ndarray) -> np.ndarray:
        alone = _sidak(student_tail(t, df, two_sided=True), m)
        return weight * over_scales(ranges, t, df) + (1.0 - weight) * alone

    return dunnettx


def _quantiles(df: np.ndarray, how: str, alpha: float, family: Family, side: int) -> np.ndarray:
    """The t of each df at which the adjusted p value is alpha."""
    tails = 2.0 if side == 0 else 1.0
    m = family.contrasts
    if how == "none":
        return student_quantile(alpha / tails, df)
    if how == "sidak":
        return student_quantile(-np.expm1(np.log1p(-alpha) / m) / tails, df)
    bonferroni = student_quantile(alpha / m / tails, df)
    if how == "bonferroni" or how in STEPWISE:
        return bonferroni
    if how == "scheffe":
        rank = _rank(family)
        finite = rank * special.fdtri(rank, np.minimum(df, INFINITE_DF), 1.0 - alpha)
        return np.sqrt(np.where(df > INFINITE_DF, special.chdtri(rank, alpha), finite))
    pairs = family.means * (family.means - 1) / 2.0 if how == "tukey" else m
    low = student_quantile(alpha / tails, df)
    high = student_quantile(alpha / pairs / tails, df)
    tail = _single_step(how, family, side, many=df.size > 1)
    ratio = df.max(initial=0.0) / df.min(initial=np.inf) if np.isfinite(df).all() else np.inf
    together = ratio < (_ALIKE if how in _JOINT else _CLOSE)
    smooth = df.size > _MANY and df.min() > _SMOOTH
    if how not in _JOINT and df.size > _FEW and not (together and smooth):
        return roots(tail, df, low, high, alpha)
    if df.size > _FEW and together:
        return _between(df, partial(_quantiles, how=how, alpha=alpha, family=family, side=side))
    return np.array([root(tail, *row, alpha) for row in zip(df, low, high, strict=True)])


def _between(df: np.ndarray, quantiles: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Critical values of many degrees of freedom, not all one, that are smooth in ``1 / df``."""
    ends = 1.0 / df.max(), 1.0 / df.min()
    nodes = 0.5 * (ends[0] + ends[1]) + 0.5 * (ends[1] - ends[0]) * chebpts1(_NODES)
    line = Chebyshev.fit(nodes, np.log(quantiles(1.0 / nodes)), _NODES - 1, domain=ends)
    return np.exp(line(1.0 / df))
