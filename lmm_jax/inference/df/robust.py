"""Cluster-robust covariances of the fixed effects: CR0, CR1, CR1S, CR2, CR3, and their tests.

With ``V_i`` the covariance that the fitted model gives to the rows of cluster i (relative to
sigma^2, prior weights included), ``B = (sum_i X_i' V_i^-1 X_i)^-1`` and ``e_i`` the residuals

    cov = f B (sum_i s_i s_i') B        s_i = E_i' e_i        E_i = A_i' V_i^-1 X_i

The adjustment ``A_i`` is the identity for CR0, CR1 and CR1S, ``(I - X_i B X_i' V_i^-1)^-1`` for
CR3, and for CR2 it makes the estimator unbiased if the model is right: ``A_i M_i A_i' = V_i``
with ``M_i = V_i - X_i B X_i'`` the model's covariance of ``e_i``. Among its solutions

    A_i = D_i' (D_i M_i D_i')^(-1/2) D_i        D_i' D_i = V_i

with the Moore-Penrose root, which is the same for every ``D_i``: no order of the rows enters.

Everything is whitened, ``X~ = D^-T X``, and in a basis of the fixed effects in which B is the
identity. Then ``M = D' (I - X~ X~') D``, whose rank is that of the small matrix in the middle.
Tests need the quadratic forms of ``E_i`` alone, matrices of p x p for each cluster.

References
----------
Bell & McCaffrey (2002), Survey Methodology 28, 169-181; Pustejovsky & Tipton (2018),
doi:10.1080/07350015.2016.1247004; Tipton & Pustejovsky (2015), doi:10.3102/1076998615606099.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy.linalg import solve_triangular

from ...designs.design import Design
from ...errors import DataError
from ...inputs.arguments import choice
from ...numerics.read_only import read_only
from ..estimates import Estimates
from ..residuals.clusters import Clusters, Stack, read_clusters, stacks

KINDS = ("CR0", "CR1", "CR1S", "CR2", "CR3")
TESTS = ("HTZ", "chi2", "naive-F")
# A direction of which a cluster leaves less than this to its residuals has none there: the
# cluster determines a coefficient alone. Rounding leaves about 1e-14.
_DETERMINED = 1e-10
# A variance this small beside that of the model is rounding.
_NOTHING = 1e-20


class Pieces(NamedTuple):
    """What each cluster contributes, in a basis of the fixed effects where B is the identity."""

    scores: np.ndarray  # (m, p)     s_i = E_i' e_i
    T: np.ndarray  # (m, p, p)  E_i' V_i E_i
    F: np.ndarray  # (m, p, p)  E_i' X_i


@dataclass(frozen=True, eq=False)
class Robust:
    """Tests by a cluster-robust covariance, with the model as the working covariance.

    The variance of a contrast is ``sum_i (g_i' e)^2``, a quadratic form in normal variables if
    the model is right; its degrees of freedom are those of the chi-square with its mean and
    variance (Satterthwaite). With ``p_ij = Cov(g_i' e, g_j' e)``

        df = (sum_i p_ii)^2 / sum_ij p_ij^2        P = diag(c' T_i c) - U U',  U_i = F_i' c

    Several contrasts have Hotelling's T^2 approximately (HTZ), the covariance being like a
    Wishart matrix whose degrees of freedom eta match the total variance of its entries.
    """

    kind: str  # one of KINDS
    cluster: str  # what the clusters are
    n_clusters: int
    cov_beta: np.ndarray  # (p, p)  relative to sigma^2
    root: np.ndarray  # (p, f)  of B: root root' = B; zero rows for what is held
    T: np.ndarray  # (m, f, f)
    F: np.ndarray  # (m, f, f)
    test: str = "HTZ"  # of several restrictions together
    uses_t: bool = True

    @property
    def size(self) -> int:
        """Numbers that the tests need of the clusters."""
        return self.T.size + self.F.size

    def of_contrasts(self, L: np.ndarray) -> np.ndarray:
        """Satterthwaite's degrees of freedom, (r, p) to (r,); NaN for what has no variance."""
        return np.array([self._df(row) for row in L @ self.root])

    def _df(self, c: np.ndarray) -> float:
        largest = float(np.abs(c).max(initial=0.0))
        if largest == 0:
            return float("nan")
        c = c / largest
        t, U = np.einsum("a,mab,b->m", c, self.T, c), c @ self.F
        diagonal = t - np.sum(U * U, axis=1)
        if diagonal.sum() <= _DETERMINED * (c @ c):
            return float("nan")
        total = np.sum(t * (t - 2 * np.sum(U * U, axis=1))) + np.sum((U.T @ U) ** 2)
        return float(diagonal.sum() ** 2 / total)

    def of_joint(self, L: np.ndarray) -> tuple[float, float]:
        """Degrees of freedom and scale of the F test of q restrictions, ``(q, p)``.

            HTZ      df = eta - q + 1,  scale = (eta - q + 1) / eta
            naive-F  df = clusters - 1, scale = 1

        NaN where the approximation does not exist, ``eta <= q - 1``.
        """
        if self.test == "naive-F":
            return float(self.n_clusters - 1), 1.0
        q = len(L)
        eta = hotelling_df(L @ self.root, self.T, self.F)
        if not eta > q - 1:
            return float("nan"), float("nan")
        return eta - q + 1, (eta - q + 1) / eta


class Degrees(Protocol):
    """Degrees of freedom without a covariance of their own."""

    @property
    def uses_t(self) -> bool:
        """Whether statistics are t and F, or z and chi-square."""
        ...

    def of_contrasts(self, L: np.ndarray) -> np.ndarray:
        """Of every row."""
        ...

    def of_joint(self, L: np.ndarray) -> tuple[float, float]:
        """Of all rows together, and the scale of F."""
        ...


@dataclass(frozen=True, eq=False)
class RobustWith:
    """A robust covariance with degrees of freedom of another kind: z, residual, between-within."""

    robust: Robust
    degrees: Degrees

    @property
    def cov_beta(self) -> np.ndarray:
        """Of the robust method."""
        return self.robust.cov_beta

    @property
    def uses_t(self) -> bool:
        """Of the degrees of freedom."""
        return self.degrees.uses_t

    def of_contrasts(self, L: np.ndarray) -> np.ndarray:
        """Of every row."""
        return self.degrees.of_contrasts(L)

    def of_joint(self, L: np.ndarray) -> tuple[float, float]:
        """Of all rows together, and F as it is."""
        return self.degrees.of_joint(L)


def robust_of(tests: Any) -> Robust | None:
    """The robust method behind some tests; None if they are the model's."""
    if isinstance(tests, RobustWith):
        return tests.robust
    return tests if isinstance(tests, Robust) else None


def robust_note(tests: Any) -> tuple[str, ...]:
    """What small print says of a robust covariance; nothing of the model's."""
    found = robust_of(tests)
    if found is None:
        return ()
    clusters = f"{found.n_clusters} clusters ({found.cluster})"
    return (f"Standard errors of the fixed effects: {found.kind}, {clusters}.",)


def hotelling_df(C: np.ndarray, T: np.ndarray, F: np.ndarray) -> float:
    """Degrees of freedom eta of the Wishart matrix that a robust covariance resembles.

        eta = q (q + 1) / sum_ij ((tr P_ij)^2 + tr P_ij P_ij)

    with ``P_ij = delta_ij C T_i C' - U_i U_j'``, ``U_i = C F_i``, in coordinates of the q
    contrasts in which the expected covariance ``sum_i P_ii`` is the identity.

    Parameters
    ----------
    C : ndarray, shape (q, f)
    T, F : ndarray, shape (m, f, f)
        See :class:`Pieces`.

    Returns
    -------
    float
        NaN if the expected covariance is singular.

    References
    ----------
    Pustejovsky & Tipton (2018), doi:10.1080/07350015.2016.1247004, section 3.2.
    """
    size = np.sqrt(np.sum(C * C, axis=1, keepdims=True))
    C = C / np.where(size > 0, size, 1.0)
    expected = C @ (T - F @ F.transpose(0, 2, 1)).sum(axis=0) @ C.T
    d, W = np.linalg.eigh(expected)
    if not d[0] > _DETERMINED * d[-1]:
        return float("nan")
    C = (W / np.sqrt(d)).T @ C
    q, own, U = len(C), C @ T @ C.T, C @ F
    square = U @ U.transpose(0, 2, 1)
    traces = np.trace(own, axis1=1, axis2=2), np.trace(square, axis1=1, axis2=2)
    total = np.sum(traces[0] * (traces[0] - 2 * traces[1]))
    total += np.einsum("mst,mts->", own, own - 2 * square)
    flat = U.reshape(len(U), -1)
    S = (flat.T @ flat).reshape(q, -1, q, U.shape[2])  # sum_i U_i[s, a] U_i[t, b]
    total += np.sum(S * S) + np.einsum("satb,tasb->", S, S)
    return float(q * (q + 1) / total)


def robust_tests(design: Design, estimates: Estimates, kind: str, labels: Any) -> Robust:
    """A robust covariance of the fixed effects with what its tests need.

    Parameters
    ----------
    design : Design
    estimates : Estimates
    kind : {"CR0", "CR1", "CR1S", "CR2", "CR3"}
        ``f`` is ``m / (m - 1)`` for CR1 and ``m (n - 1) / ((m - 1) (n - p))`` for CR1S, with m
        clusters, n rows and p fixed effects; 1 otherwise.
    labels : array, shape (n,), or Series, or None
        Clusters of the rows: :func:`lmm_jax.inference.residuals.clusters.read_clusters`.

    Raises
    ------
    DataError
        Another kind; fewer than two clusters, or clusters that the model correlates.

    Notes
    -----
    A cluster that determines a coefficient alone has no residual in that direction: the variance
    is short of what it says, often zero, and then without a test. CR2 takes singular values of
    ``min(n_i, q_i + p)`` rows, or of n_i rows where the weights of cluster i differ.
    """
    choice(kind, "kind", KINDS)
    clusters = read_clusters(design, labels)
    if not design.free_exog().shape[1]:
        raise DataError("a robust covariance is one of fixed effects, and none is estimated here")
    pieces, root = _pieces(design, estimates, kind, clusters)
    m, n, p = clusters.total, design.nobs, root.shape[1]
    f = {"CR1": m / (m - 1), "CR1S": m * (n - 1) / ((m - 1) * (n - p))}.get(kind, 1.0)
    if design.held is not None:
        whole = np.zeros((design.held.size, p))
        whole[np.isnan(design.held)] = root
        root = whole
    half = np.sqrt(f) * pieces.scores @ root.T
    gone = np.sum(half**2, axis=0) <= _NOTHING * np.sum(root**2, axis=1)
    half = np.where(gone, 0.0, half)
    return read_only(Robust(kind, clusters.name, m, half.T @ half, root, pieces.T, pieces.F))


def _pieces(
    design: Design, estimates: Estimates, kind: str, clusters: Clusters
) -> tuple[Pieces, np.ndarray]:
    """Contributions of the clusters, in no order, and a root of B, (p, p)."""
    parts = list(stacks(design, estimates, clusters))
    # Two changes of basis: orthonormal columns first, so that the second has digits to work with.
    rows = np.concatenate([s.X.reshape(-1, s.X.shape[2]) for s in parts])
    R = np.asarray(np.linalg.qr(rows, mode="r"))
    parts = [s._replace(X=_right_solve(s.X, R)) for s in parts]
    gram = sum(np.einsum("gna,gnb->ab", Xw, Xw) for Xw in (_whiten(s)[1] for s in parts))
    half = np.linalg.cholesky(gram).T
    found = [cluster_pieces(s._replace(X=_right_solve(s.X, half)), kind) for s in parts]
    pieces = Pieces(*(np.concatenate(column) for column in zip(*found, strict=True)))
    return pieces, solve_triangular(R, solve_triangular(half, np.eye(len(R))))


def _right_solve(X: np.ndarray, R: np.ndarray) -> np.ndarray:
    """``X R^-1`` of a stack."""
    flat = X.reshape(-1, len(R))
    return np.asarray(solve_triangular(R, flat.T, trans="T").T.reshape(X.shape))


def _whiten(stack: Stack) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``D'`` with ``D' D = V``, ``D^-T X`` and ``D^-T e``."""
    root = np.linalg.cholesky(stack.V)
    both = np.linalg.solve(root, np.concatenate([stack.X, stack.e[..., None]], axis=2))
    return root, both[..., :-1], both[..., -1]


def cluster_pieces(stack: Stack, kind: str) -> Pieces:
    """Scores and quadratic forms of a stack of clusters.

    Parameters
    ----------
    stack : Stack
        In a basis of the fixed effects in which B is the identity.
    kind : str
        One of ``KINDS``.
    """
    root, Xw, ew = _whiten(stack)
    Y = {"CR2": _unbiased, "CR3": _jackknife}.get(kind, lambda root, Xw: Xw)(root, Xw)
    Yt = Y.transpose(0, 2, 1)  # Y = D E
    return Pieces((Yt @ ew[..., None])[..., 0], Yt @ Y, Yt @ Xw)


def _jackknife(root: np.ndarray, Xw: np.ndarray) -> np.ndarray:
    """``D A' V^-1 X`` with ``A^-1 = I - X X' V^-1``: ``X~ (I - X~' X~)^-1``."""
    del root
    h, Q = np.linalg.eigh(Xw.transpose(0, 2, 1) @ Xw)
    left = np.where(1 - h > _DETERMINED, 1 - h, np.inf)
    return Xw @ (Q / left[:, None, :]) @ Q.transpose(0, 2, 1)


def _unbiased(root: np.ndarray, Xw: np.ndarray) -> np.ndarray:
    """``D A' V^-1 X`` of CR2: ``K G^(-1/2) X~`` with ``K = D D'`` and ``G = K (I - X~ X~') K``."""
    P, s, _ = np.linalg.svd(Xw, full_matrices=False)
    left = 1 - s**2
    alone = left < _DETERMINED
    left = np.where(alone, 0.0, left)
    K = root.transpose(0, 2, 1) @ root
    J = K + (P * (np.sqrt(left) - 1)[:, None, :]) @ (P.transpose(0, 2, 1) @ K)  # G = J' J
    _, d, Q = np.linalg.svd(J)
    rank = J.shape[1] - alone.sum(axis=1)
    d = np.where(np.arange(J.shape[1]) < rank[:, None], d, np.inf)
    return K @ (Q.transpose(0, 2, 1) / d[:, None, :]) @ (Q @ Xw)
