"""Cluster-robust covariances as the literature writes them: n x n matrices and all their pairs."""

from typing import NamedTuple

import numpy as np
from helpers import Array

import lmm_jax as lmm
from lmm_jax.designs.terms import RandomTerm


def level_columns(term: RandomTerm) -> Array:
    """Z of a term over its levels, times a root of A where these are related, (n, L, k)."""
    n, members, k = term.values.shape
    Z = np.zeros((n, term.n_levels, k))
    for s in range(members):
        Z[np.arange(n), term.codes[:, s]] += term.values[:, s]
    if term.relationship is None:
        return Z
    A = term.relationship.matrix
    root = np.linalg.cholesky(A if isinstance(A, np.ndarray) else A.toarray())
    return np.einsum("nlk,lm->nmk", Z, root)


def working_covariance(fit: lmm.LMMResults) -> Array:
    """Covariance of y under the model relative to sigma^2, (n, n)."""
    design, V = fit.design, residual_covariance(fit) / fit.scale
    for term, S in zip(design.terms, fit.estimates.covariances, strict=True):
        Z = level_columns(term)
        V = V + np.einsum("nla,ab,mlb->nm", Z, S / fit.scale, Z)
    return V


def residual_covariance(fit: lmm.LMMResults) -> Array:
    """Covariance of the residuals, (n, n), from what the fit reports of it."""
    design, n = fit.design, fit.nobs
    root = np.ones(n) if design.weights is None else np.sqrt(design.weights)
    if fit.residual is None:
        return np.diag(fit.scale / root**2)
    rows, out = design.residual.rows, np.zeros((n, n))
    for subject in np.unique(rows.subject):
        at = np.flatnonzero(rows.subject == subject)
        own = (
            {}
            if design.residual.arms is None
            else {"arm": str(design.residual.arms[rows.arm[at[0]]])}
        )
        if not design.residual.term.correlation:  # variances alone
            strata = design.residual.strata
            levels = list(map(str, at)) if strata is None else strata[rows.levels[at]]
        elif design.residual.visits is not None:
            levels = design.residual.visits[
                np.searchsorted(design.residual.visit_places, rows.places[0, at])
            ]
        else:
            levels = rows.places[:, at].T * rows.structures[0].correlation.unit
        if design.residual.strata is not None and design.residual.term.correlation:
            own["stratum"] = str(design.residual.strata[rows.levels[at[0]]])
        if rows.covariate is not None:
            own["covariate"] = rows.covariate[at]
        out[np.ix_(at, at)] = fit.residual_cov(levels, **own)
    return out / (root[:, None] * root)


class Dense(NamedTuple):
    cov: Array  # (p, p)
    P: Array  # (m, p, m, p)  covariances of the clusters' parts of the estimates

    def df(self, c: Array) -> float:
        """Satterthwaite's degrees of freedom of a contrast."""
        P = np.einsum("a,iajb,b->ij", c, self.P, c)
        return float(np.trace(P) ** 2 / np.sum(P**2))

    def eta(self, C: Array) -> float:
        """Degrees of freedom of Hotelling's T^2: total variance of the entries of the matrix."""
        P, q = np.einsum("sa,iajb,tb->isjt", C, self.P, C), len(C)
        root = np.linalg.inv(np.linalg.cholesky(np.einsum("isit->st", P)))
        P = np.einsum("su,iujv,tv->isjt", root, P, root)
        total = 0.0
        for s in range(q):
            for t in range(q):
                total += np.sum(P[:, s, :, s] * P[:, t, :, t] + P[:, s, :, t] * P[:, t, :, s])
        return q * (q + 1) / total


def dense(fit: lmm.LMMResults, kind: str, clusters: Array) -> Dense:
    """A robust covariance with everything that its tests need, from the formulas."""
    X, y = fit.design.free_exog(), fit.design.endog
    known = fit.design.known_part()
    y = y if known is None else y - known
    V, n = working_covariance(fit), fit.nobs
    W = np.linalg.inv(V)
    B = np.linalg.inv(X.T @ W @ X)
    rest = np.eye(n) - X @ B @ X.T @ W
    M = rest @ V @ rest.T
    labels = np.unique(clusters)
    m, p = len(labels), X.shape[1]
    g = np.zeros((m, n, p))  # the part of a cluster is g_i' y
    for i, label in enumerate(labels):
        at = clusters == label
        here = np.ix_(at, at)
        A = np.eye(at.sum())
        if kind == "CR2":
            D = np.linalg.cholesky(V[here]).T
            A = D.T @ inverse_root(D @ M[here] @ D.T) @ D
        if kind == "CR3":
            A = np.linalg.inv(rest[here])
        g[i] = rest[at].T @ A.T @ W[here] @ X[at] @ B
    parts = np.einsum("inp,n->ip", g, y)
    f = {"CR1": m / (m - 1), "CR1S": m / (m - 1) * (n - 1) / (n - p)}.get(kind, 1.0)
    return Dense(f * parts.T @ parts, np.einsum("inp,nk,jkq->ipjq", g, V, g, optimize=True))


def inverse_root(G: Array) -> Array:
    """Moore-Penrose inverse of the root of a symmetric matrix."""
    d, Q = np.linalg.eigh(G)
    keep = d > 1e-12 * d[-1]
    return (Q[:, keep] / np.sqrt(d[keep])) @ Q[:, keep].T
