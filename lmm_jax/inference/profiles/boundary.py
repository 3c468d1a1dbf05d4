"""Likelihood ratio tests of variances, which lie on the boundary where the hypothesis is true."""

from __future__ import annotations

import numpy as np
from scipy import special

from ...errors import ConvergenceWarning, warn_user

# Directions over which the share of a cone is averaged; the radius is integrated exactly.
_DIRECTIONS = 1024
# Eigenvalues of an information below this share of the largest tell nothing.
_UNKNOWN = 1e-12
# A difference of two deviances that is none: what optimizers leave.
_NOTHING = 1e-7
# The same of two log-likelihoods, relative to their size: a few roundings of sums over the rows.
_ROUNDING = 1e-12
# Steps of the projection on a cone of covariances, accelerated: to about 1e-5 of its length.
_STEPS = 100
# A step, relative to what is projected, after which another one changes nothing.
_STILL = 1e-8
# By how much twice the log-likelihood of a submodel is higher where the larger one is not optimal.
_LOWER = 1e-3


def likelihood_ratio(large: float, small: float, *, nested: bool = False) -> float:
    """``2 (l_1 - l_0)`` of two log-likelihoods; 0 where that is their rounding.

    Of a model that is ``nested`` in the other one it is not negative where both are at their
    optimum: otherwise a warning says so.
    """
    chisq = 2.0 * (large - small)
    if nested and chisq < -_LOWER:
        warn_user(
            f"the model without a term has a higher log-likelihood, by {-chisq / 2:.3g}, than the "
            "one with it: that one stopped at a local optimum, and its tests mean nothing",
            ConvergenceWarning,
        )
    return 0.0 if abs(chisq) <= _ROUNDING * (1.0 + abs(large)) else chisq


def boundary_p_value(statistic: float, df: int) -> float:
    """P value of a likelihood ratio that adds one random coefficient, a mixture of chi-squares.

    Its variance is zero or more, and everything else that is added, its covariances, those
    between others, fixed effects, is free: the statistic is distributed as

        (chi2_{df - 1} + chi2_df) / 2

    The usual chi-square test gives up to twice this p value. Of several coefficients see
    :func:`cone_p_value`.

    Parameters
    ----------
    statistic : float
        Twice the difference of the log-likelihoods.
    df : int
        Difference of the numbers of parameters.

    Returns
    -------
    float

    References
    ----------
    Self & Liang (1987), doi:10.1080/01621459.1987.10478472; Stram & Lee (1994),
    doi:10.2307/2533455.

    Examples
    --------
    >>> round(boundary_p_value(2.7055, 1), 4)
    0.05
    """
    return 0.5 * (chi2_tail(statistic, df - 1) + chi2_tail(statistic, df))


def chi2_tail(statistic: float, df: int) -> float:
    """Upper tail; with no degrees of freedom all of the mass is at zero."""
    if df == 0:
        return float(statistic <= _NOTHING)
    return float(special.chdtrc(df, np.maximum(statistic, 0.0)))


def cone_p_value(statistic: float, information: np.ndarray, q: int) -> float:
    """P value of a likelihood ratio that adds q coefficients to a term.

    Near the hypothesis their covariance D is any positive semidefinite matrix, and their
    covariances with the others are free. With Z a normal vector of that information I, the
    statistic is distributed as the squared length of the projection of Z on the cone of such
    parameters: a mixture of chi-squares. Along a direction with the share c of its length in
    the cone the tail is ``P(chi2_d > t / c)``; it is averaged over directions.

    Parameters
    ----------
    statistic : float
    information : ndarray, shape (d, d)
        Of the r free covariances and then the lower triangle of D, row by row; everything else
        is profiled out.
    q : int
        Rows of D.

    Returns
    -------
    float
        NaN where the information is singular: some of the parameters are not identified.

    References
    ----------
    Self & Liang (1987), doi:10.1080/01621459.1987.10478472; Shapiro (1988),
    doi:10.2307/1403361.
    """
    d, s = len(information), q * (q + 1) // 2
    information = _in_units(information, q)
    eigenvalues = np.linalg.eigvalsh(information)
    if not eigenvalues[0] > _UNKNOWN * eigenvalues[-1]:
        return float("nan")
    rng = np.random.default_rng(0)
    g = rng.normal(size=(_DIRECTIONS, d))
    g = np.vstack([g, -g])
    g /= np.linalg.norm(g, axis=1, keepdims=True)
    root = np.linalg.cholesky(information)
    z = np.linalg.solve(root.T, g.T).T[:, d - s :]
    free, own = information[: d - s, : d - s], information[d - s :, d - s :]
    cross = information[: d - s, d - s :]
    metric = own - cross.T @ np.linalg.solve(free, cross) if d > s else own
    lost = _distance(z, metric, q)
    share = np.maximum(1.0 - lost, 0.0)
    with np.errstate(divide="ignore"):
        tails = special.chdtrc(d, np.maximum(statistic, 0.0) / share)
    return float(np.where(share > 0, tails, float(statistic <= 0)).mean())


def _in_units(information: np.ndarray, q: int) -> np.ndarray:
    """The information in units of the coefficients in which its diagonal is about one.

    Those of D change by ``D_ij / (u_i u_j)``, which maps the cone to itself.
    """
    d, s = len(information), q * (q + 1) // 2
    rows, columns = np.tril_indices(q)
    size = np.diagonal(information)
    size = np.where(size > 0, size, 1.0)
    root = size[d - s :][rows == columns] ** 0.25
    unit = np.append(np.sqrt(size[: d - s]), root[rows] * root[columns])
    scaled: np.ndarray = information / np.outer(unit, unit)
    return scaled


def _distance(z: np.ndarray, metric: np.ndarray, q: int) -> np.ndarray:
    """Squared distances, in a metric, of symmetric matrices to the positive semidefinite ones.

    Accelerated projected gradients on the lower triangles z, (N, s).
    """
    rows, columns = np.tril_indices(q)
    unit = np.where(rows == columns, 1.0, np.sqrt(2.0))  # so that lengths are Frobenius'
    M, z = metric / np.outer(unit, unit), z * unit
    step = 1.0 / np.linalg.eigvalsh(M)[-1]

    def projected(x: np.ndarray) -> np.ndarray:
        full = np.zeros((len(x), q, q))
        full[:, rows, columns] = full[:, columns, rows] = x / unit
        e, V = np.linalg.eigh(full)
        inside = (V * np.maximum(e, 0.0)[:, None]) @ np.swapaxes(V, 1, 2)
        return np.asarray(inside[:, rows, columns] * unit)

    out, moving = np.empty_like(z), np.arange(len(z))
    goal, x = z, projected(z)
    ahead, t = x, 1.0
    for _ in range(_STEPS):
        new = projected(ahead - step * (ahead - goal) @ M)
        still = np.abs(new - ahead).max(axis=1) <= _STILL * np.abs(goal).max(axis=1)
        out[moving] = new
        t, before = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * t * t)), t
        ahead = (new + (before - 1.0) / t * (new - x))[~still]
        x, goal, moving = new[~still], goal[~still], moving[~still]
        if not moving.size:
            break
    gap = out - z
    return np.asarray(np.sum(gap @ M * gap, axis=1))
