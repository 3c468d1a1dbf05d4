"""Tails of t and F statistics, and of the largest of several t that share a denominator.

    p(t) = P(max_i |Z_i| / s > t) = E H(t s),     s^2 ~ chi^2(df) / df

with H the tail of the numerators, see `normal`.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from .normal import Tail

# -log of what may be left out of an integral of order one.
_DROP = 37.0
# Steps of the trapezoidal rule over log s: its errors are exp(-pi^2 / 2 step) for few degrees of
# freedom and exp(-2 pi^2 / step^2), in standard deviations 1 / sqrt(2 df), for many.
_STEP, _STEP_SD = 0.1, 0.5
# Degrees of freedom beyond which s is 1 to the last digit but one.
INFINITE_DF = 1e12
# Fewer would need millions of nodes; p has long been 1 for any t of practice.
_FEWEST = 1e-4
# Beyond it the normal tail is 0 in double precision.
_EDGE = 40.0
# Below it the numerators' tail is that at 0.
_NOUGHT = 1e-18
# Statistics whose nodes are worked off together.
_TOGETHER = 512
# log of a p that is below the smallest double.
_UNDERFLOW = 800.0


def over_scale(tail: Tail, t: float, df: float) -> float:
    """Average of a tail over the distribution of the common standard deviation.

        p = int f(u) H(t e^u) du,   f(u) ~ exp{df (u - e^(2u) / 2)},   u = log s

    by the trapezoidal rule, between where the far tail has its peak,
    ``-log(1 + t^2 / df) / 2``, and the peak of f at 0, and as far beyond both as needed.

    Parameters
    ----------
    tail : callable
        H, of `normal`.
    t : float
    df : float
        Greater than 0; infinite for normal statistics.

    Returns
    -------
    float
        NaN if t or df is NaN or df is not positive.

    Examples
    --------
    >>> normal = lambda x: 2 * special.ndtr(-x)
    >>> round(over_scale(normal, 2.5, 7.0), 10), round(2 * special.stdtr(7.0, -2.5).item(), 10)
    (0.0409922186, 0.0409922186)
    """
    x, weight = scale_nodes(t, df)
    return float(weight @ tail(x))


def over_scales(tail: Tail, t: np.ndarray, df: np.ndarray) -> np.ndarray:
    """:func:`over_scale` of many statistics, of which the tail is asked in few calls, (m,)."""
    out = np.empty(t.size)
    for start in range(0, t.size, _TOGETHER):
        some = slice(start, start + _TOGETHER)
        nodes = [
            scale_nodes(*pair) for pair in zip(t[some].tolist(), df[some].tolist(), strict=True)
        ]
        ends = np.cumsum([x.size for x, _ in nodes])
        weight = np.concatenate([w for _, w in nodes])
        values = weight * tail(np.concatenate([x for x, _ in nodes]))
        out[some] = np.add.reduceat(values, ends - [x.size for x, _ in nodes])
    return out


def scale_nodes(t: float, df: float) -> tuple[np.ndarray, np.ndarray]:
    """Arguments ``t s`` of the tail and their weights, which add up to 1."""
    if np.isnan(t) or not df > 0:
        return np.zeros(1), np.full(1, np.nan)
    if df > INFINITE_DF or np.isinf(t):
        return np.clip([t], -_EDGE, _EDGE), np.ones(1)
    df = max(df, _FEWEST)
    with np.errstate(divide="ignore"):  # t = 0
        peak = -0.5 * float(np.logaddexp(0.0, 2.0 * np.log(abs(t)) - np.log(df)))
    if -df * peak > _UNDERFLOW:
        return np.full(1, np.copysign(_EDGE, t)), np.ones(1)
    c = _DROP / df
    low = peak - (c + np.sqrt(c * c + 4.0 * c)) / 2.0
    high = min(np.sqrt(c), 0.5 * np.log1p(2.0 * c) + 1.0)
    step = min(_STEP, _STEP_SD / np.sqrt(2.0 * df))
    u = np.arange(np.floor(low / step), np.ceil(high / step) + 1) * step
    weight = np.exp(df * (u - 0.5 * np.expm1(2.0 * u)))
    x = np.minimum(np.maximum(t * np.exp(u), -_EDGE), _EDGE)
    small = np.abs(x) < _NOUGHT
    if not small.any():
        return x, weight / weight.sum()
    # Few degrees of freedom put most nodes where the tail is that at 0.
    x, place = np.unique(np.where(small, 0.0, x), return_inverse=True)
    return x, np.bincount(place, weight) / weight.sum()


def student_tail(t: float | np.ndarray, df: float | np.ndarray, *, two_sided: bool) -> np.ndarray:
    """P(|T| > |t|) or P(T > t) of single t statistics.

    Parameters
    ----------
    t, df : float or ndarray
        Of any shapes that go together; normal at infinite df, NaN where df is not positive.
    two_sided : bool

    Returns
    -------
    ndarray
    """
    below = -np.abs(t) if two_sided else -np.asarray(t, dtype=np.float64)
    df = np.asarray(df, dtype=np.float64)
    df = np.where(df > 0, df, np.nan)
    p = np.where(df > INFINITE_DF, special.ndtr(below), special.stdtr(df, below))
    return np.where(np.isnan(df), np.nan, 2.0 * p if two_sided else p)


def log_student_tail(t: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Logarithm of P(|T| > |t|), also where that is below the smallest double.

    There ``P = I_x(df / 2, 1 / 2)``, ``x = df / (df + t^2)``, and
    ``I_x(a, b) = x^a (1 - x)^b F(a + b, 1; a + 1; x) / (a B(a, b))``.

    Parameters
    ----------
    t, df : ndarray
        Of one shape; normal at infinite df.

    Examples
    --------
    >>> t, df = np.array([3.0, 1e5, 50.0]), np.array([8.0, 90.0, np.inf])
    >>> [round(float(x), 3) for x in log_student_tail(t, df)]
    [-4.07, -836.15, -1254.138]
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        plain = np.log(student_tail(t, df, two_sided=True))
        normal = np.log(2.0) + special.log_ndtr(-np.abs(t))
        a, x = 0.5 * df, df / (df + t * t)
        far = a * np.log(x) + 0.5 * np.log1p(-x) - np.log(a) - special.betaln(a, 0.5)
        far = far + np.log(special.hyp2f1(a + 0.5, 1.0, a + 1.0, x))
    far = np.where(df > INFINITE_DF, normal, far)
    return np.where(np.isneginf(plain), far, plain)


def student_quantile(p: float | np.ndarray, df: float | np.ndarray) -> np.ndarray:
    """The t that a t statistic exceeds with probability p; normal at infinite df.

    Parameters
    ----------
    p, df : float or ndarray
        Of any shapes that go together.

    Returns
    -------
    ndarray
    """
    df = np.asarray(df, dtype=np.float64)
    df = np.where(df > 0, df, np.nan)
    finite = special.stdtrit(np.where(df > INFINITE_DF, 1.0, df), p)
    return np.where(df > INFINITE_DF, -special.ndtri(p), -finite)


def two_sided_quantile(level: float, df: float | np.ndarray) -> np.ndarray:
    """Half the length of a t interval of a coverage, in standard errors."""
    return student_quantile(0.5 - 0.5 * level, df)


def f_tail(
    f: float | np.ndarray, df_num: int | np.ndarray, df_denom: float | np.ndarray
) -> np.ndarray:
    """P(F > f); that of chi-square ``df_num f`` at infinite ``df_denom``.

    Parameters
    ----------
    f, df_num, df_denom : float or ndarray
        Of any shapes that go together; NaN where one of them is.

    Returns
    -------
    ndarray
    """
    with np.errstate(over="ignore", invalid="ignore"):
        finite = special.fdtrc(df_num, np.minimum(df_denom, INFINITE_DF), f)
        return np.where(
            np.asarray(df_denom) > INFINITE_DF, special.chdtrc(df_num, df_num * f), finite
        )
