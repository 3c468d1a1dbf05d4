"""The linear mixed model as the textbook writes it: dense n x n matrices, NumPy, float64.

    y = offset + X beta + sum_t Z_t b_t + e,   b_t ~ N(0, sigma^2 I (x) Lambda_t Lambda_t'),
    e ~ N(0, sigma^2 diag(1 / w)),             V = Var(y) / sigma^2

Slow on purpose and independent of the library. What the library computes is compared with it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import block_diag, solve_triangular

Array = NDArray[np.float64]


class Term(NamedTuple):
    Z: Array  # (n, k)   columns of the random effect, before they are split by level
    groups: NDArray[np.str_]  # (n,)     labels of the grouping factor


class DenseFit(NamedTuple):
    criterion: float  # -2 (restricted) log-likelihood, all constants, beta and sigma profiled
    beta: Array  # (p,)
    sigma: float  # residual standard deviation (of an observation with weight 1)
    vcov: Array  # (p, p)   sigma^2 (X' V^-1 X)^-1


class DenseBlups(NamedTuple):
    levels: NDArray[np.str_]  # (L,)
    values: Array  # (L, k)
    cond_cov: Array  # (L, k, k)   given theta and beta: lme4's condVar
    pred_cov: Array  # (L, k, k)   of b_hat - b: also the uncertainty of beta_hat


def lambda_from_theta(theta: ArrayLike, k: int) -> Array:
    """Lower triangle (k, k) from lme4's theta, which runs down its columns."""
    Lambda = np.zeros((k, k))
    column, row = np.triu_indices(k)
    Lambda[row, column] = theta
    return Lambda


def split_theta(theta: ArrayLike, terms: Sequence[Term]) -> list[Array]:
    """One Lambda per term."""
    widths = [term.Z.shape[1] for term in terms]
    ends = np.cumsum([k * (k + 1) // 2 for k in widths])
    parts = np.split(np.asarray(theta, float), ends[:-1])
    return [lambda_from_theta(part, k) for part, k in zip(parts, widths, strict=True)]


def random_design(term: Term) -> tuple[Array, NDArray[np.str_]]:
    """The term's Z with k columns per level, (n, L k), and its levels."""
    levels, code = np.unique(term.groups, return_inverse=True)
    indicator = np.eye(len(levels))[code]
    return np.einsum("nl,nk->nlk", indicator, term.Z).reshape(len(code), -1), levels


def random_root(terms: Sequence[Term], theta: ArrayLike) -> tuple[Array, Array]:
    """Z of all terms side by side, (n, q), and the block diagonal Lambda, (q, q)."""
    designs = [random_design(term) for term in terms]
    Lambdas = split_theta(theta, terms)
    blocks = [np.kron(np.eye(len(lv)), L) for (_, lv), L in zip(designs, Lambdas, strict=True)]
    return np.hstack([Z for Z, _ in designs]), block_diag(*blocks)


def dense_deviance(
    X: Array,
    y: Array,
    terms: Sequence[Term],
    theta: ArrayLike,
    *,
    reml: bool,
    weights: ArrayLike | None = None,
    offset: ArrayLike | None = None,
) -> DenseFit:
    """``m log(2 pi sigma^2) + log|V| [+ log|X'V^-1 X|] + m`` at theta; m = n, or n - p if REML.

    ``log|V|`` carries ``-sum(log w)``, so the weights enter as they do in lme4.
    """
    w = np.ones(len(y)) if weights is None else np.asarray(weights, float)
    y = y if offset is None else y - np.asarray(offset, float)
    Z, Lambda = random_root(terms, theta)
    return dense_gls(X, y, np.diag(1 / w) + (Z @ Lambda) @ (Z @ Lambda).T, reml=reml)


def dense_gls(X: Array, y: Array, V: Array, *, reml: bool) -> DenseFit:
    """The criterion of :func:`dense_deviance` at a covariance V, (n, n), known up to sigma^2."""
    n, p = X.shape
    C = np.linalg.cholesky(V)
    Q, R = np.linalg.qr(solve_triangular(C, X, lower=True))  # X'V^-1 X = R'R
    beta = solve_triangular(R, Q.T @ solve_triangular(C, y, lower=True))
    residual = solve_triangular(C, y - X @ beta, lower=True)

    m = n - p if reml else n
    sigma2 = residual @ residual / m
    criterion = m * (np.log(2 * np.pi * sigma2) + 1) + np.linalg.slogdet(V).logabsdet
    if reml:
        criterion += 2 * np.log(np.abs(np.diag(R))).sum()
    R_inv = solve_triangular(R, np.eye(p))
    return DenseFit(float(criterion), beta, float(np.sqrt(sigma2)), sigma2 * R_inv @ R_inv.T)


def dense_llf(X: Array, y: Array, V: Array, *, reml: bool) -> float:
    """(Restricted) log-likelihood at a covariance V, (n, n), in the units of y; beta profiled."""
    fit, m = dense_gls(X, y, V, reml=reml), len(y) - (X.shape[1] if reml else 0)
    # m sigma^2 is the sum of squares by V^-1, in whose place the criterion has m + m log sigma^2
    return -0.5 * (fit.criterion + m * (fit.sigma**2 - 1 - 2 * np.log(fit.sigma)))


class DenseJet(NamedTuple):
    value: float  # -2 (restricted) log-likelihood, beta and sigma profiled
    gradient: Array  # (m,)
    hessian: Array  # (m, m)
    average: Array  # (m, m)   average information, and what V bends in theta


def dense_jet(
    covariance: Callable[[Array], Array], theta: ArrayLike, X: Array, y: Array, *, reml: bool
) -> DenseJet:
    """Derivatives of the criterion in theta, where V is quadratic in theta.

    With ``P = V^-1 - V^-1 X (X'V^-1 X)^-1 X'V^-1``, ``rss = y'P y`` and Q = P, or V^-1 under ML,

        gradient_k = tr(Q V_k) - m y'P V_k P y / rss
        hessian_kl = tr(Q V_kl) - tr(Q V_k Q V_l) - m (y'P V_kl P y - 2 y'P V_k P V_l P y) / rss
                     - m (y'P V_k P y) (y'P V_l P y) / rss^2
    """
    h, theta = 1e-2, np.asarray(theta, float)  # differences of a quadratic are exact
    steps = h * np.eye(theta.size)
    V, m = covariance(theta), len(y) - (X.shape[1] if reml else 0)
    dV = np.array([covariance(theta + e) - covariance(theta - e) for e in steps]) / (2 * h)
    d2V = np.array([
        [
            covariance(theta + d + e) - covariance(theta + d - e)
            - covariance(theta - d + e) + covariance(theta - d - e)
            for e in steps
        ]
        for d in steps
    ]) / (4 * h**2)  # fmt: skip
    Vi = np.linalg.inv(V)
    P = Vi - Vi @ X @ np.linalg.solve(X.T @ Vi @ X, X.T @ Vi)
    Q, Py = P if reml else Vi, P @ y
    rss = y @ Py
    value = m * (np.log(2 * np.pi * rss / m) + 1) + np.linalg.slogdet(V).logabsdet
    if reml:
        value += np.linalg.slogdet(X.T @ Vi @ X).logabsdet
    G = Q - m / rss * np.outer(Py, Py)  # of the criterion in V
    moved, QdV = dV @ Py, Q @ dV
    rho = moved @ Py
    average = m / rss * (moved @ P @ moved.T) - m / rss**2 * np.outer(rho, rho)
    bent = np.einsum("ab,klab->kl", G, d2V)
    curved = m / rss * (moved @ P @ moved.T) - np.einsum("kab,lba->kl", QdV, QdV)
    gradient = np.einsum("ab,kab->k", G, dV)
    return DenseJet(value, gradient, average + curved + bent, average + bent)


def dense_blups(
    X: Array,
    y: Array,
    terms: Sequence[Term],
    theta: ArrayLike,
    *,
    reml: bool,
    weights: ArrayLike | None = None,
    offset: ArrayLike | None = None,
) -> list[DenseBlups]:
    """Best linear unbiased predictions ``G Z'V^-1 (y - X beta)``, one entry per term.

    With ``H = Lambda (I + Lambda'Z'W Z Lambda)^-1 Lambda'`` (Henderson) the conditional
    covariance is ``sigma^2 H``, and ``b_hat`` moves by ``-H Z'W X`` times the error of beta_hat.
    """
    X = np.linalg.qr(X).Q  # only its column space matters here; raw powers of a year lose digits
    fit = dense_deviance(X, y, terms, theta, reml=reml, weights=weights, offset=offset)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, float)
    y = y if offset is None else y - np.asarray(offset, float)
    Z, Lambda = random_root(terms, theta)
    ZtW = Z.T * w
    M = np.eye(len(Lambda)) + Lambda.T @ ZtW @ Z @ Lambda
    H = Lambda @ np.linalg.solve(M, Lambda.T)
    b = H @ (ZtW @ (y - X @ fit.beta))
    shift = H @ (ZtW @ X)
    cond = fit.sigma**2 * H
    return _by_term(terms, b, cond, cond + shift @ fit.vcov @ shift.T)


def _by_term(terms: Sequence[Term], b: Array, cond: Array, pred: Array) -> list[DenseBlups]:
    out, start = [], 0
    for term in terms:
        levels, k = np.unique(term.groups), term.Z.shape[1]
        starts = start + k * np.arange(len(levels))
        rows = starts[:, None] + np.arange(k)
        index = rows[:, :, None], rows[:, None, :]
        out.append(DenseBlups(levels, b[rows], cond[index], pred[index]))
        start += k * len(levels)
    return out


def differences(f: Callable[[Array], ArrayLike], x: Array, step: float = 1e-3) -> Array:
    """First derivatives of f at x by Richardson's central differences, (m, ...).

    Their error is of the order ``step^4``, rounding that of f divided by the step.
    """

    def central(k: int, h: float) -> Array:
        e = h * np.eye(x.size)[k]
        return (np.asarray(f(x + e)) - np.asarray(f(x - e))) / (2 * h)

    return np.stack([(4 * central(k, step) - central(k, 2 * step)) / 3 for k in range(x.size)])


def assert_close(actual: ArrayLike, expected: ArrayLike, tol: float, scale: ArrayLike = 0) -> None:
    """``|actual - expected| <= tol * max(|expected|, scale)``, elementwise, shapes equal.

    An expected NaN (not available in the reference) matches anything.
    """
    actual, expected = np.asarray(actual, float), np.asarray(expected, float)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    error = np.abs(actual - expected) / np.maximum(np.maximum(np.abs(expected), scale), 1e-300)
    worst = np.nanmax(np.where(np.isnan(expected), 0, np.nan_to_num(error, nan=np.inf)), initial=0)
    assert worst <= tol, f"off by {worst:.2e}, tolerance {tol:.0e}:\n{actual}\n{expected}"
